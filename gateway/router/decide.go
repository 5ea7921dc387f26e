package router

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/braidmq/braid/federation"
)

var errNoAnswer = errors.New("the broker's answer leaves the partition out")

// lost handles an op whose connection broke: whether it was appended is not
// known. A broker recognises the repeat of an idempotent batch, so that is tried
// again; any other is left to its sender, who alone may risk a second copy.
func (l *lane) lost(p *partQueue, op *appendOp, err error) {
	p.cluster.Stale(p.address.Topic)
	op.unknown = true
	cause := federation.Errorf(federation.ClusterUnavailable, "the cluster that holds %s does not answer; try again", op.tp).WithCause(err)
	if op.idempotent() {
		l.retry(p, op, cause)
		return
	}
	op.cause = cause
	op.resolve(failedAppend(op.timedOut()))
}

// decide handles a broker's answer to an op.
func (l *lane) decide(p *partQueue, op *appendOp, a *produceAnswer) {
	err := kerr.ErrorForCode(a.code)
	switch {
	case !l.believes(op, err):
		l.doubted(p, op, err)
	case a.code == 0:
		l.appended(p, op, a)
	case errors.Is(err, kerr.DuplicateSequenceNumber):
		p.attempts, p.away = 0, time.Time{}
		l.opened(p, op)
		op.resolve(Appended{BaseOffset: -1, LogAppendTimeMs: -1, LogStart: -1, Duplicate: true})
	case a.hasOffset() && kerr.IsRetriable(err):
		// Appended by a leader that was replaced before the other replicas had it: the next
		// one may have it.
		l.lost(p, op, err)
	case errors.Is(err, kerr.NotLeaderForPartition), errors.Is(err, kerr.LeaderNotAvailable), errors.Is(err, kerr.UnknownTopicOrPartition),
		errors.Is(err, kerr.FencedLeaderEpoch), errors.Is(err, kerr.UnknownLeaderEpoch), errors.Is(err, kerr.ReplicaNotAvailable),
		errors.Is(err, kerr.KafkaStorageError), errors.Is(err, kerr.BrokerNotAvailable):
		p.cluster.Stale(p.address.Topic)
		l.retry(p, op, federation.Errorf(federation.NoLeader, "%s has no leader right now; try again", op.tp).WithCause(err))
	case errors.Is(err, kerr.NotEnoughReplicas), errors.Is(err, kerr.ThrottlingQuotaExceeded):
		l.retry(p, op, federation.Errorf(federation.NotEnoughReplicas, "%s has fewer replicas in sync than min.insync.replicas asks for; try again", op.tp).WithCause(err))
	case errors.Is(err, kerr.NotEnoughReplicasAfterAppend), errors.Is(err, kerr.RequestTimedOut), errors.Is(err, kerr.NetworkException):
		// Appended, but not known to be safe.
		l.lost(p, op, err)
	case errors.Is(err, kerr.OutOfOrderSequenceNumber) && p.followsFailed(op):
		l.retry(p, op, err)
	case errors.Is(err, kerr.OutOfOrderSequenceNumber) && l.followsGivenUp(p, op, time.Now()):
		op.resolve(failedAppend(federation.Errorf(federation.NoLeader, "%s: a record batch before this one could not be appended in time; send both again, in their order", op.tp).WithCause(err)))
	default:
		a.inLogicalWords(p.address, op.tp)
		op.resolve(Appended{BaseOffset: -1, LogAppendTimeMs: -1, LogStart: -1, RecordErrors: a.recordErrors, Err: refusal(op.tp, err, a)})
	}
}

// believes reports whether a broker's answer to an op may be passed on. One that
// says where a producer stands may not unless the lease that it was sent under still
// holds: in a gap, the head can have been sealed, without what was appended here.
func (l *lane) believes(op *appendOp, err error) bool {
	if err != nil && !errors.Is(err, kerr.DuplicateSequenceNumber) && !errors.Is(err, kerr.OutOfOrderSequenceNumber) {
		return true
	}
	return l.r.deps.Lease.Valid() && l.r.deps.Lease.Gaps() == op.gaps
}

// doubted handles an op whose answer is not believed.
func (l *lane) doubted(p *partQueue, op *appendOp, err error) {
	op.unknown = op.unknown || !errors.Is(err, kerr.OutOfOrderSequenceNumber)
	op.cause = errLease(op.tp)
	if op.idempotent() {
		l.retry(p, op, op.cause) // under the next lease, and the map of that time
		return
	}
	op.resolve(failedAppend(op.timedOut()))
}

// appended acknowledges an op.
func (l *lane) appended(p *partQueue, op *appendOp, a *produceAnswer) {
	p.attempts, p.away = 0, time.Time{}
	p.head.bytes += int64(len(op.batch))
	if a.baseOffset >= 0 && op.acks == AcksAll {
		p.head.acknowledged = max(p.head.acknowledged, federation.PhysicalOffset(a.baseOffset)+federation.PhysicalOffset(op.seq.count))
	}
	l.opened(p, op)
	res := Appended{BaseOffset: -1, LogAppendTimeMs: a.logAppendTime, LogStart: -1}
	if a.baseOffset >= 0 {
		res.BaseOffset = p.extent.Logical(federation.PhysicalOffset(a.baseOffset))
	}
	if a.logStart >= 0 && p.extent.Number == 0 {
		res.LogStart = p.extent.Logical(federation.PhysicalOffset(a.logStart))
	}
	op.resolve(res)
}

// opened notes that the head knows the producer of an op, and how far; what waited
// for it goes on.
func (l *lane) opened(p *partQueue, op *appendOp) {
	if !op.idempotent() {
		return
	}
	h, s := p.head, &op.seq
	l.takenUp(h, s)
	k, ok := h.known[s.id]
	if !ok || k.epoch < s.epoch {
		if l.learn(h, s.id, knownProducer{epoch: s.epoch}) {
			l.unearly(p, s.id)
		}
		k, ok = h.known[s.id]
	}
	if ok && k.epoch == s.epoch {
		if last := h.last[k.index]; last < 0 || notAfter(last, s.last) {
			h.last[k.index] = s.last
		}
	}
}

// refusals are the final errors of a Produce answer, by Kafka's codes.
var refusals = []struct {
	code error
	kind federation.Kind
	text string
}{
	{kerr.MessageTooLarge, federation.RecordTooLarge, "a record batch is larger than the topic's max.message.bytes"},
	{kerr.RecordListTooLarge, federation.RecordTooLarge, "a record batch is larger than a segment of the topic"},
	{kerr.CorruptMessage, federation.CorruptBatch, "a record batch is corrupt"},
	{kerr.InvalidRecord, federation.InvalidRecord, "a record is not valid for this topic"},
	{kerr.InvalidTimestamp, federation.InvalidTimestamp, "a timestamp is out of the range that the topic allows"},
	{kerr.UnsupportedCompressionType, federation.UnsupportedCompression, "the compression type is not allowed"},
	{kerr.UnsupportedForMessageFormat, federation.InvalidRecord, "the message format is too old"},
	{kerr.OutOfOrderSequenceNumber, federation.OutOfOrderSequence, "a record batch does not follow the producer's last one"},
	{kerr.InvalidProducerEpoch, federation.ProducerFenced, "the producer has a newer epoch"},
	{kerr.UnknownProducerID, federation.UnknownProducer, "the producer is not known any more"},
	{kerr.PolicyViolation, federation.PolicyViolation, "the cluster's policy refuses the records"},
	{kerr.InvalidRequiredAcks, federation.InvalidArgument, "acks must be -1, 0 or 1"},
	// Brokers say this of records that they cannot decompress: whoever was told to try again
	// would do so for ever.
	{kerr.UnknownServerError, federation.Internal, "the broker failed to append a record batch; can Kafka read what it is compressed with? See the broker's log"},
}

// inLogicalWords has a broker's texts name the logical partition where they name the physical one.
func (a *produceAnswer) inLogicalWords(physical federation.PhysicalAddress, tp federation.TopicPartition) {
	words := strings.NewReplacer(fmt.Sprintf("%s-%d", physical.Topic, physical.Partition), tp.String(), physical.Topic, string(tp.Topic))
	a.message = words.Replace(a.message)
	for i := range a.recordErrors {
		a.recordErrors[i].Message = words.Replace(a.recordErrors[i].Message)
	}
}

func refusal(tp federation.TopicPartition, err error, a *produceAnswer) error {
	i := slices.IndexFunc(refusals, func(r struct {
		code error
		kind federation.Kind
		text string
	},
	) bool {
		return errors.Is(err, r.code)
	})
	if i < 0 {
		return federation.Errorf(federation.ClusterUnavailable, "the cluster that holds %s refuses the append; see this gateway's log", tp).WithCause(err)
	}
	text := refusals[i].text
	// A broker says best what is wrong with a record.
	if refusals[i].kind == federation.InvalidRecord && a.message != "" && !strings.Contains(a.message, "/") {
		text = a.message
	}
	return federation.Errorf(refusals[i].kind, "%s: %s", tp, text).WithCause(err)
}
