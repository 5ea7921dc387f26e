package gateway

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/quota"
	"github.com/braidmq/braid/internal/recordbatch"
)

// ProduceBatch writes one frame. With a producer, batch_seq and sequences it is
// idempotent: the same request sent again is stored once. Without a producer it is
// stored at least once for each try.
func (s *producerService) ProduceBatch(ctx context.Context, r *braidv1.ProduceBatchRequest) (*braidv1.ProduceBatchResponse, error) {
	ack, err := s.g.produceBatch(ctx, r)
	if err != nil {
		return nil, s.g.fail(ctx, "ProduceBatch", err)
	}
	return &braidv1.ProduceBatchResponse{Ack: ack}, nil
}

func (g *Gateway) produceBatch(ctx context.Context, r *braidv1.ProduceBatchRequest) (*braidv1.ProduceAck, error) {
	if err := g.cluster(r.GetLogicalCluster()); err != nil {
		return nil, err
	}
	if err := g.mayTopics(ctx, "ProduceBatch", acl.Write, r.GetBatch().GetTopic()); err != nil {
		return nil, err
	}
	acks, err := routerAcks(r.GetAcks())
	if err != nil {
		return nil, err
	}
	ctx, cancel := g.withUnaryTimeout(ctx)
	defer cancel()
	f, err := g.splitBatch(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := sequenceBatch(f, r); err != nil {
		return nil, err
	}
	limits := g.limits(ctx, nil, r.GetClientId())
	if err := g.awaitQuota(ctx, limits, quota.Produce); err != nil {
		return nil, err
	}
	limits.Take(ctx, quota.Produce, float64(f.bytes))
	session := g.deps.NewSession()
	defer session.Close()
	g.appendBatch(ctx, session, acks, f)
	return f.ack, nil
}

// splitBatch checks the request and splits its frame.
func (g *Gateway) splitBatch(ctx context.Context, r *braidv1.ProduceBatchRequest) (*frame, error) {
	in := r.GetBatch()
	if in == nil {
		return nil, invalid("batch: is missing")
	}
	idempotent := r.GetProducer() != nil
	switch {
	case idempotent && in.GetBatchSeq() == 0:
		return nil, invalid("batch.batch_seq: must be set with producer")
	case idempotent && len(r.GetSequences()) == 0 && len(in.GetKafkaBatch()) == 0:
		return nil, invalid("sequences: must name the next sequence of each partition that the batch touches; 0 for a new producer")
	case !idempotent && len(r.GetSequences()) > 0:
		return nil, invalid("sequences: make no sense without producer")
	case len(r.GetSequences()) > g.cfg.FrameRecordsMax:
		return nil, invalid("sequences: %d, want at most %d: one for each partition of a frame", len(r.GetSequences()), g.cfg.FrameRecordsMax)
	}
	salt := rand.Int64()
	if idempotent {
		if err := g.tokens.verify(ctx, g.cfg.LogicalCluster, r.GetProducer()); err != nil {
			return nil, err
		}
		salt = r.GetProducer().GetProducerId()
	}
	m, now := g.deps.Maps.Current(), time.Now()
	t := m.Topic(federation.TopicName(in.GetTopic()))
	if t == nil || len(t.Partitions) == 0 {
		return nil, federation.Errorf(federation.UnknownTopic, "topic %q does not exist", federation.TopicName(in.GetTopic()))
	}
	count := int32(len(t.Partitions))
	if c := in.GetPartitionCount(); c != 0 && c != count {
		return nil, federation.Errorf(federation.Conflict, "batch.partition_count: topic %q has %d partitions, not %d; split the records again", t.Name, count, c)
	}
	if p := in.GetPartition(); p < 0 || p >= count {
		return nil, federation.Errorf(federation.UnknownPartition, "batch.partition: topic %q has partitions 0 to %d, not %d", t.Name, count-1, federation.LogicalPartition(p))
	}
	s := splitter{cfg: &g.cfg, topic: newTopicLimits(&g.cfg, t), atomic: idempotent, salt: salt, now: now}
	if err := s.check(in); err != nil {
		return nil, err
	}
	f := newFrame(in.GetBatchSeq(), t.Name)
	f.bytes = payloadBytes(in)
	s.split(f, in, count)
	return f, nil
}

// sequenceBatch gives the parts the producer and sequences of the request.
func sequenceBatch(f *frame, r *braidv1.ProduceBatchRequest) error {
	id := r.GetProducer()
	for _, p := range f.parts {
		if id == nil {
			if p.raw != nil && !p.plain && p.rejected == nil {
				return invalid("batch.kafka_batch: carries a producer, but the request names none")
			}
			p.producer = recordbatch.NoProducer
			continue
		}
		if p.raw != nil {
			if p.rejected == nil && !p.plain && (p.header.ProducerID != id.GetProducerId() || int32(p.header.ProducerEpoch) != id.GetProducerEpoch()) {
				return invalid("batch.kafka_batch: carries producer %d with epoch %d, the request names %d with %d",
					p.header.ProducerID, p.header.ProducerEpoch, id.GetProducerId(), id.GetProducerEpoch())
			}
			p.producer.Sequence = p.header.BaseSequence
			continue
		}
		next, ok := nextSequence(r.GetSequences(), f.topic, p.partition)
		if !ok {
			return invalid("sequences: has no next_sequence of %s-%d, which the batch touches", f.topic, p.partition)
		}
		if next < 0 {
			return invalid("sequences: next_sequence %d of %s-%d is negative", next, f.topic, p.partition)
		}
		p.producer = recordbatch.Producer{ID: id.GetProducerId(), Epoch: int16(id.GetProducerEpoch()), Sequence: next}
	}
	return nil
}

func nextSequence(all []*braidv1.PartitionSequence, topic federation.TopicName, p federation.LogicalPartition) (int32, bool) {
	for _, s := range all {
		if s.GetTopic() == string(topic) && s.GetPartition() == int32(p) {
			return s.GetNextSequence(), true
		}
	}
	return 0, false
}

// appendBatch writes the parts and fills the frame's ack. With AcksNone it
// returns when the router has taken them.
func (g *Gateway) appendBatch(ctx context.Context, session router.Session, acks router.Acks, f *frame) {
	deadline, _ := ctx.Deadline()
	if deadline.IsZero() {
		deadline = time.Now().Add(g.cfg.UnaryTimeout)
	}
	// A moment before the caller gives up, so that it hears what is known.
	timeout := max(time.Until(deadline)*9/10, time.Millisecond)
	outcomes := make([]chan *outcome, len(f.parts))
	for i, p := range f.parts {
		outcomes[i] = make(chan *outcome, 1)
		if p.rejected != nil {
			p.release()
			outcomes[i] <- &outcome{err: p.rejected, refused: true}
			continue
		}
		err := session.Produce(ctx, acks, timeout, p.submission(), func(done []router.Appended) {
			p.release()
			outcomes[i] <- p.answered(&done[0])
		})
		if err != nil {
			p.release()
			outcomes[i] <- &outcome{err: err, refused: true}
		}
	}
	if acks == router.AcksNone {
		return
	}
	for i, p := range f.parts {
		var o *outcome
		select {
		case o = <-outcomes[i]:
		case <-ctx.Done():
			o = &outcome{err: federation.Errorf(federation.Timeout, "partition %d: the call ended before the outcome was known; send the same request again", p.partition)}
		}
		g.logInternal("append failed", federation.TopicPartition{Topic: f.topic, Partition: p.partition}, o.err)
		f.ack.Results = append(f.ack.Results, batchResult(f, p, o))
	}
}

func batchResult(f *frame, p *part, o *outcome) *braidv1.PartitionResult {
	r := &o.result
	r.Partition, r.RecordCount = int32(p.partition), p.count
	for _, rr := range o.records {
		if index, ok := p.index(rr.index); ok {
			f.ack.Rejected = append(f.ack.Rejected, &braidv1.RecordFailure{Index: index, Failure: failure(rr.err)})
		}
	}
	switch {
	case o.err != nil:
		r.BaseOffset, r.LogAppendTimeMs, r.RecordCount, r.Failure = -1, -1, 0, failure(o.err)
	case !p.plain && p.producer.Sequence >= 0:
		r.NextSequence = recordbatch.AddSequence(p.producer.Sequence, p.count)
	}
	return r
}
