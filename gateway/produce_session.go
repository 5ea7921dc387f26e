package gateway

import (
	"slices"
	"time"

	"github.com/braidmq/braid/federation"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/recordbatch"
)

// A produceSession decides what a produce stream does: which batches go out
// with which sequences, what is acknowledged when, and how far credit reaches.
// It is pure: no clock, no I/O, no goroutine; produceStream carries out what it
// says. One goroutine at a time may use it.
//
// A part (one frame's batch for one partition) moves so:
//
//	take ──► held ──► ready ──► in flight ──► decided
//	  └────────┴─────────┴── failed (barrier, bad records, too late)
//
// Sequences. A partition's parts get consecutive sequences when they leave held.
// After a failure nothing more leaves held until all in flight are decided; then
// the next sequence is the one after the last batch that was stored. If it is not
// certain that the failed batch was not stored, its sequence must never be given to
// other records, as a broker would take them for a repeat and drop them: the
// partition goes on under a higher producer epoch, at sequence 0, and brokers
// refuse whatever of the old epoch comes late.
//
// A broker takes any first sequence from a producer that it does not know, so the
// first batch of a partition travels alone: behind it, a gap is always refused.
//
// Failure barrier. After a failed part, later frames fail for this partition until
// one with failure_seen at or above the failed frame's number. Failed frames are
// acknowledged in the order of their numbers, so that failure_seen k says that all
// failures up to k were seen; acks of stored frames may overtake.
type produceSession struct {
	idempotent  bool
	silent      bool // ACKS_NONE: no acks but the stable mark
	inFlightMax int
	mergeBytes  int // of a batch that several frames share; 0 = none do
	creditBatch int64
	creditBytes int64

	opened producerID // as the client knows it
	latest producerID // newest epoch of this producer; partitions follow when they must

	next     uint64            // batch_seq of the next frame
	stable   uint64            // all frames up to it are decided
	frames   map[uint64]*frame // that are not decided, or whose failure is not told yet
	passed   seqSet            // decided frames above stable that are in frames no more
	topics   map[federation.TopicName]*topicState
	unknown  map[federation.TopicName]uint64 // barriers of topics that the map does not have
	ready    []*part
	bumps    []*partitionState
	acks     []*braidv1.ProduceAck
	received int64 // payload bytes of all frames
	freed    int64 // of decided frames
	decided  int64

	parkAfter time.Duration
	parkedMax credit
	parked    credit // undecided frames that do not count as such
	patrols   uint64

	sent     credit // the last that was handed out
	stableAt uint64 // the last stable mark that was handed out
	fatal    error
}

// unknownTopicsMax bounds the barriers that a stream keeps for topics that do not
// exist: above it, such a topic begins without one when it is created.
const unknownTopicsMax = 1000

// topicNameMax is how long a topic's name can be in Kafka; no longer one will be created.
const topicNameMax = 249

type producerID struct {
	id    int64
	epoch int16
}

type credit struct{ batches, bytes int64 }

// A topicState is what the stream knows of a topic.
type topicState struct {
	name       federation.TopicName
	id         federation.TopicID
	of         *federation.Topic // what the rest was read of; maps share what did not change
	limits     *topicLimits
	count      int32
	changed    bool  // the client was not told of count yet
	former     int32 // the count before the topic grew
	formerTill time.Time
	barrier    uint64
	partitions map[federation.LogicalPartition]*partitionState
	plain      map[federation.LogicalPartition]*pace // of a stream that is not idempotent
}

// A partitionState is what the stream knows of its producer in a partition.
type partitionState struct {
	producer producerID
	next     int32 // sequence of the next part that leaves held
	opened   bool  // the broker knows the producer
	barrier  uint64
	held     []*part
	inFlight []*part
	again    []*part // came back to be sent again, before what is held
	failing  bool    // a part failed; waiting for those in flight
	gap      bool    // a part with a sequence failed, so later ones do not fit
	resume   int32   // the sequence after the last batch that was stored, while failing
	unsure   bool    // a batch may be stored: a new epoch is needed
	bumping  bool    // waiting for it
	alone    bool    // parts share no batches

	pace pace
}

// An outcome is how an append ended.
type outcome struct {
	result  braidv1.PartitionResult
	err     error
	records []rejectedRecord
	// refused is set if nothing was submitted: then nothing can have been stored.
	refused bool
	// early is set if there is time to try again.
	early bool
}

type rejectedRecord struct {
	index int32 // in the batch
	err   error
}

func newProduceSession(cfg *Config, idempotent, silent bool, p producerID) *produceSession {
	return &produceSession{
		idempotent: idempotent, silent: silent, opened: p, latest: p, next: 1,
		inFlightMax: cfg.PartitionInFlightMax, creditBatch: cfg.ProduceCreditBatches, creditBytes: cfg.ProduceCreditBytes,
		parkAfter: cfg.ProduceParkAfter, parkedMax: credit{cfg.ProduceParkedBatches, cfg.ProduceParkedBytes},
		frames: make(map[uint64]*frame), passed: make(seqSet), topics: make(map[federation.TopicName]*topicState),
		unknown: make(map[federation.TopicName]uint64),
	}
}

// admit numbers a frame. An error ends the stream.
func (s *produceSession) admit(in *braidv1.ProduceFrame, deadline time.Time) (*frame, error) {
	seq := in.GetBatchSeq()
	if seq == 0 {
		seq = s.next // a convenience for clients written by hand
	}
	if seq != s.next {
		return nil, invalid("batch.batch_seq: is %d, want %d: frames are numbered 1, 2, 3 ... without a gap", seq, s.next)
	}
	s.next++
	f := newFrame(seq, federation.TopicName(in.GetTopic()))
	f.failureSeen, f.deadline, f.bytes = in.GetFailureSeen(), deadline, payloadBytes(in)
	s.received += f.bytes
	s.frames[seq] = f
	return f, nil
}

// overdrawn reports whether the client sent more than its credit.
func (s *produceSession) overdrawn() bool {
	now := s.credit()
	return int64(s.next-1) > now.batches || s.received > now.bytes || s.next-1-s.stable > framesAheadMax
}

// topic returns what the stream knows of a topic, brought up to the map's state;
// nil if the map lacks it.
func (s *produceSession) topic(cfg *Config, m *federation.Map, name federation.TopicName, now time.Time) *topicState {
	t := m.Topic(name)
	if t == nil || len(t.Partitions) == 0 {
		return nil
	}
	ts := s.topics[name]
	if ts != nil && ts.of == t {
		return ts
	}
	if ts == nil || ts.id != t.ID {
		// A topic that was created again has new logs: sequences begin anew.
		fresh := &topicState{name: name, id: t.ID, count: int32(len(t.Partitions)), barrier: s.unknown[name]}
		delete(s.unknown, name)
		fresh.partitions = make(map[federation.LogicalPartition]*partitionState)
		fresh.plain = make(map[federation.LogicalPartition]*pace)
		ts, s.topics[name] = fresh, fresh
	}
	ts.of, ts.limits = t, newTopicLimits(cfg, t)
	if n := int32(len(t.Partitions)); n != ts.count {
		ts.former, ts.formerTill, ts.count = ts.count, now.Add(cfg.StaleCountGrace), n
		ts.changed = true
	}
	return ts
}

// refresh brings all topics up to a new map and returns those whose partition
// count changed since the last call.
func (s *produceSession) refresh(cfg *Config, m *federation.Map, now time.Time) []*topicState {
	var changed []*topicState
	for name := range s.topics {
		if ts := s.topic(cfg, m, name, now); ts != nil && ts.changed {
			ts.changed = false
			changed = append(changed, ts)
		}
	}
	return changed
}

// splitCount returns the count that the keys of a frame are split by.
func (ts *topicState) splitCount(clientCount int32, now time.Time) (int32, *braidv1.Failure) {
	switch {
	case clientCount == 0 || clientCount == ts.count:
		return ts.count, nil
	case clientCount == ts.former && now.Before(ts.formerTill):
		return clientCount, nil
	default:
		return 0, staleCount(ts.name, ts.count, clientCount)
	}
}

// reject fails a whole frame before it was split; ts is nil for an unknown topic.
func (s *produceSession) reject(f *frame, ts *topicState, partition int32, fail *braidv1.Failure) {
	if ts != nil {
		ts.barrier = f.seq
	} else if len(s.unknown) < unknownTopicsMax && len(f.topic) <= topicNameMax {
		s.unknown[f.topic] = f.seq
	}
	f.failed = true
	f.ack.Results = append(f.ack.Results, &braidv1.PartitionResult{Partition: partition, BaseOffset: -1, LogAppendTimeMs: -1, Failure: fail})
	s.settle(f)
}

// take brings in the parts of a frame that was split.
func (s *produceSession) take(f *frame, ts *topicState) {
	f.open = len(f.parts)
	if s.idempotent && f.failureSeen >= ts.barrier {
		ts.barrier = 0
	}
	for _, p := range f.parts {
		switch {
		case p.partition < 0 || int32(p.partition) >= ts.count:
			s.fail(p, ts, failure(federation.Errorf(federation.UnknownPartition, "topic %q has partitions 0 to %d, not %d", ts.name, ts.count-1, p.partition)))
		case s.idempotent && ts.barrier > 0:
			s.fail(p, ts, earlierFailure(ts.barrier))
		case !s.idempotent:
			s.takePlain(p, ts)
		default:
			s.takeSequenced(p, ts)
		}
	}
	s.settle(f)
	s.park(f)
}

func (s *produceSession) takePlain(p *part, ts *topicState) {
	if p.raw != nil && !p.plain && p.rejected == nil {
		p.rejected = federation.Errorf(federation.InvalidRecord, "kafka_batch: carries producer %d on a stream that is not idempotent", p.header.ProducerID)
	}
	if p.rejected != nil {
		s.fail(p, ts, failure(p.rejected))
		return
	}
	p.plain, p.producer = true, recordbatch.NoProducer
	p.pace = ts.plain[p.partition]
	if p.pace == nil {
		p.pace = &pace{}
		ts.plain[p.partition] = p.pace
	}
	s.submit(p)
}

func (s *produceSession) takeSequenced(p *part, ts *topicState) {
	ps := ts.partitions[p.partition]
	if ps == nil {
		ps = &partitionState{producer: s.latest}
		ts.partitions[p.partition] = ps
	}
	p.state, p.pace = ps, &ps.pace
	if p.frame.failureSeen >= ps.barrier {
		ps.barrier = 0
	}
	switch {
	case ps.barrier > 0:
		s.fail(p, ts, earlierFailure(ps.barrier))
		return
	case p.rejected != nil:
		s.fail(p, ts, failure(p.rejected))
		return
	}
	ps.held = append(ps.held, p)
	s.pump(ps)
}

// pump moves parts from held to ready.
func (s *produceSession) pump(ps *partitionState) {
	if len(ps.held) > 0 && ps.unsure && !ps.failing && !ps.bumping {
		if ps.producer == s.latest {
			ps.bumping = true
			s.bumps = append(s.bumps, ps)
			return
		}
		ps.restart(s.latest) // another partition needed a new epoch: it serves here too
	}
	for len(ps.held) > 0 && !ps.failing && !ps.bumping && len(ps.again) == 0 {
		window := s.inFlightMax
		if !ps.opened {
			window = 1
		}
		// Brokers know the last 5 batches: one that may be stored is to stay among these.
		if len(ps.inFlight) >= window || slices.ContainsFunc(ps.inFlight, func(q *part) bool { return q.unknown }) {
			return
		}
		p := ps.held[0]
		ps.held = ps.held[1:]
		s.merge(ps, p)
		if err := ps.sequence(p); err != nil {
			s.fail(p, nil, failure(err))
			s.failHeld(ps)
			return
		}
		ps.inFlight = append(ps.inFlight, p)
		s.submit(p)
	}
}

func (s *produceSession) submit(p *part) {
	p.pace.inFlight += 1 + len(p.more)
	s.ready = append(s.ready, p)
}

// restart begins the sequences of a new epoch.
func (ps *partitionState) restart(p producerID) {
	ps.producer, ps.next, ps.opened, ps.unsure = p, 0, false, false
}

// sequence gives a part its place in the producer's sequence.
func (ps *partitionState) sequence(p *part) error {
	switch {
	case p.plain:
		return nil
	case p.raw == nil:
		p.producer = recordbatch.Producer{ID: ps.producer.id, Epoch: ps.producer.epoch, Sequence: ps.next}
	case p.header.ProducerID != ps.producer.id || p.header.ProducerEpoch != ps.producer.epoch:
		return federation.Errorf(federation.ProducerFenced, "kafka_batch: producer %d with epoch %d, want %d with %d as opened; after an outcome that is not known, open a new stream",
			p.header.ProducerID, p.header.ProducerEpoch, ps.producer.id, ps.producer.epoch)
	case p.header.BaseSequence != ps.next:
		return federation.Errorf(federation.OutOfOrderSequence, "kafka_batch: base sequence %d, want %d", p.header.BaseSequence, ps.next)
	default:
		p.producer = recordbatch.Producer{ID: ps.producer.id, Epoch: ps.producer.epoch, Sequence: ps.next}
	}
	ps.next = recordbatch.AddSequence(ps.next, p.count)
	return nil
}

// complete takes the outcome of a part that was in flight. Outcomes of a
// partition are looked at in the order of its sequences.
func (s *produceSession) complete(p *part, o *outcome) {
	if p.state == nil {
		s.decide(p, o)
		return
	}
	p.outcome = o
	ps := p.state
	for len(ps.inFlight) > 0 && ps.inFlight[0].outcome != nil {
		first := ps.inFlight[0]
		ps.inFlight = ps.inFlight[1:]
		s.completeSequenced(ps, first, first.outcome)
	}
	s.goOn(ps)
}

// goOn goes on with a partition after outcomes.
func (s *produceSession) goOn(ps *partitionState) {
	if ps.failing && len(ps.inFlight) == 0 {
		ps.failing, ps.gap = false, false
		ps.next = ps.resume
	}
	s.pump(ps)
}

func (s *produceSession) completeSequenced(ps *partitionState, p *part, o *outcome) {
	if ps.comesAgain(p, o) {
		ps.again = append(ps.again, p)
		return
	}
	if o.err == nil {
		if !p.plain {
			ps.opened = true
			ps.resume = recordbatch.AddSequence(p.producer.Sequence, p.count)
			o.result.NextSequence = ps.resume
		}
		s.decideAll(p, o)
		return
	}
	s.failAgain(ps)
	s.failSequenced(ps, p, o)
}

func (s *produceSession) failSequenced(ps *partitionState, p *part, o *outcome) {
	fenced := federation.KindOf(o.err) == federation.ProducerFenced && !o.refused
	p.timedOut(o)
	kind := federation.KindOf(o.err)
	follows := ps.gap && kind == federation.OutOfOrderSequence // only the echo of the failure before it
	if !ps.failing {
		ps.failing, ps.resume = true, ps.firstSequence(p)
	}
	ps.gap = ps.gap || !p.plain
	if follows {
		o.result.Failure = earlierFailure(ps.barrier)
	} else if !p.plain && (p.unknown || !o.refused && !surelyNotStored(kind)) {
		ps.unsure = true
	}
	if fenced && s.fatal == nil {
		s.fatal = o.err
	}
	s.decideAll(p, o)
	s.failHeld(ps)
}

// failHeld fails what waits behind a failure: it was sent before the client could know.
func (s *produceSession) failHeld(ps *partitionState) {
	held := ps.held
	ps.held = nil
	for _, h := range held {
		s.fail(h, nil, earlierFailure(ps.barrier))
	}
}

// firstSequence returns the first sequence from p on that is not decided.
func (ps *partitionState) firstSequence(p *part) int32 {
	if !p.plain {
		return p.producer.Sequence
	}
	for _, q := range ps.inFlight {
		if !q.plain {
			return q.producer.Sequence
		}
	}
	return ps.next
}

// surelyNotStored reports whether a batch that failed so is in no log. A timeout
// leaves it open, and so does a lack of replicas, which brokers also notice after
// the append. A sequence that is out of order where none should be means that
// broker and stream disagree: only a new epoch settles that.
func surelyNotStored(k federation.Kind) bool {
	switch k {
	case federation.RecordTooLarge, federation.InvalidRecord, federation.CorruptBatch, federation.InvalidTimestamp,
		federation.UnsupportedCompression, federation.UnknownTopic, federation.UnknownPartition, federation.NotAuthorized,
		federation.InvalidArgument, federation.PolicyViolation:
		return true
	default:
		return false
	}
}

// bumped brings the new epoch that a partition of s.bumps asked for.
func (s *produceSession) bumped(ps *partitionState, p producerID, err error) {
	ps.bumping = false
	if err != nil {
		held := ps.held
		ps.held = nil
		for _, h := range held {
			s.fail(h, nil, failure(err))
		}
		return
	}
	s.latest = p
	ps.restart(p)
	s.pump(ps)
}

// decide ends a part that was submitted.
func (s *produceSession) decide(p *part, o *outcome) {
	p.release()
	f := p.frame
	p.pace.decide(o.err == nil)
	r := &o.result
	r.Partition, r.RecordCount = int32(p.partition), p.count
	if o.err != nil {
		r.BaseOffset, r.LogAppendTimeMs, r.RecordCount, r.NextSequence = -1, -1, 0, 0
		if r.Failure == nil {
			r.Failure = failure(o.err)
		}
		f.failed = true
		if p.state != nil {
			p.state.barrier = max(p.state.barrier, f.seq)
		}
	}
	for _, rr := range o.records {
		if index, ok := p.index(rr.index); ok {
			f.ack.Rejected = append(f.ack.Rejected, &braidv1.RecordFailure{Index: index, Failure: failure(rr.err)})
		}
	}
	f.ack.Results = append(f.ack.Results, r)
	s.partDecided(p)
}

// fail ends a part that was not submitted.
func (s *produceSession) fail(p *part, ts *topicState, fail *braidv1.Failure) {
	p.release()
	f := p.frame
	switch {
	case p.state != nil:
		p.state.barrier = max(p.state.barrier, f.seq)
	case ts != nil && s.idempotent:
		ts.barrier = max(ts.barrier, f.seq)
	}
	f.failed = true
	f.ack.Results = append(f.ack.Results, &braidv1.PartitionResult{Partition: int32(p.partition), BaseOffset: -1, LogAppendTimeMs: -1, Failure: fail})
	s.partDecided(p)
}

func (s *produceSession) partDecided(p *part) {
	p.decided = true
	p.frame.open--
	s.settle(p.frame)
	s.park(p.frame)
}

// settle acknowledges a frame whose parts are all decided and moves the stable mark.
func (s *produceSession) settle(f *frame) {
	if f.open > 0 || f.done {
		return
	}
	f.done = true
	f.parts = nil
	if !f.failed || s.silent {
		s.pass(f)
		s.passed.add(f.seq)
	} else {
		s.leave(f) // until the failures before it can be told
	}
	for {
		if next := s.frames[s.stable+1]; next != nil && next.done {
			s.pass(next)
		} else if !s.passed.take(s.stable + 1) {
			return
		}
		s.stable++
	}
}

// pass acknowledges a decided frame; its credit comes free.
func (s *produceSession) pass(f *frame) {
	delete(s.frames, f.seq)
	s.unpark(f)
	s.decided++
	s.freed += f.bytes
	if !s.silent {
		s.acks = append(s.acks, f.ack)
	}
}

// idle reports whether every frame is decided.
func (s *produceSession) idle() bool { return len(s.frames) == 0 }

// takeReady returns the parts to submit, in order, and the partitions that need a
// new epoch.
func (s *produceSession) takeReady() ([]*part, []*partitionState) {
	ready, bumps := s.ready, s.bumps
	s.ready, s.bumps = nil, nil
	return ready, bumps
}

// takeAcks returns what there is to acknowledge; nil if nothing is new.
func (s *produceSession) takeAcks() *braidv1.ProduceAckFrame {
	if len(s.acks) == 0 && s.stableMark() == s.stableAt {
		return nil
	}
	s.stableAt = s.stableMark()
	out := &braidv1.ProduceAckFrame{Acks: s.acks, StableBatchSeq: s.stableAt}
	s.acks = nil
	return out
}

// stableMark is the low-water mark; with ACKS_NONE a frame is final once it is taken.
func (s *produceSession) stableMark() uint64 {
	if s.silent {
		return s.next - 1
	}
	return s.stable
}

func (s *produceSession) credit() credit {
	return credit{s.decided + s.parked.batches + s.creditBatch, s.freed + s.parked.bytes + s.creditBytes}
}

// takeCredit returns the credit if it is worth a message.
func (s *produceSession) takeCredit() *braidv1.Credit {
	now := s.credit()
	if s.sent.batches > 0 && now.batches-s.sent.batches < max(s.creditBatch/4, 1) && now.bytes-s.sent.bytes < max(s.creditBytes/4, 1) {
		return nil
	}
	s.sent = now
	return &braidv1.Credit{MaxBatches: now.batches, MaxBytes: now.bytes}
}
