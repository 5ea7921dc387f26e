package gateway

import (
	"math"
	"sort"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

// A consumeSession decides what a consume stream does about its assignment,
// positions, credit and commits. It is pure: no clock, no I/O, no goroutine;
// consumeStream carries out what it says and owns it.
//
// A partition of the member goes through:
//
//	waiting (start not known) ──► readable ──► revoking ──► gone
//	                                 ▲  │  seek, pause        ▲
//	                                 └──┘        lost ────────┘
type consumeSession struct {
	rule        stopRule
	memberEpoch int64
	positions   []*readPosition // in the order of their assignment
	paused      map[federation.TopicPartition]bool
	epoch       int64 // the last assignment epoch

	granted window // absolute
	sent    window

	commitID int64 // the last that came
	answered int64
	commit   map[federation.TopicPartition]groups.CommitOffset // to be stored
	failures []*braidv1.PartitionFailure                       // of commits that need no store
	revoked  []federation.TopicPartition                       // to be given up, after the commit
	halfDone bool                                              // the client sends nothing more
}

func newConsumeSession(cfg *Config, rule stopRule, c *braidv1.Credit) *consumeSession {
	s := &consumeSession{
		rule: rule, granted: window{cfg.ConsumeCreditRecords, cfg.ConsumeCreditBytes},
		paused: make(map[federation.TopicPartition]bool), commit: make(map[federation.TopicPartition]groups.CommitOffset),
	}
	if c.GetMaxRecords() > 0 {
		s.granted.records = c.GetMaxRecords()
	}
	if c.GetMaxBytes() > 0 {
		s.granted.bytes = c.GetMaxBytes()
	}
	return s
}

// window returns how much may be delivered now.
func (s *consumeSession) window() window {
	w := window{s.granted.records - s.sent.records, s.granted.bytes - s.sent.bytes}
	if s.rule.records != noStop {
		w.records = min(w.records, s.rule.records-s.sent.records)
	}
	return w
}

// spent notes what was delivered: the window before and after.
func (s *consumeSession) spent(before, after window) {
	s.sent.records += before.records - after.records
	s.sent.bytes += before.bytes - after.bytes
}

// grant raises the credit. Credit is absolute, so a repeat does no harm.
func (s *consumeSession) grant(c *braidv1.Credit) {
	s.granted.records = max(s.granted.records, c.GetMaxRecords())
	s.granted.bytes = max(s.granted.bytes, c.GetMaxBytes())
}

func (s *consumeSession) find(tp federation.TopicPartition) *readPosition {
	for _, p := range s.positions {
		if p.TopicPartition == tp {
			return p
		}
	}
	return nil
}

// begin makes a partition readable, under a new assignment epoch.
func (s *consumeSession) begin(p *readPosition) *braidv1.Assigned {
	s.epoch++
	p.epoch, p.waiting, p.done = s.epoch, false, false
	p.done = p.stop != noStop && p.next >= p.stop
	return &braidv1.Assigned{Topic: string(p.Topic), Partition: int32(p.Partition), StartOffset: p.next, AssignmentEpoch: p.epoch}
}

// assign takes in an assignment event. It returns the update for the client and
// the positions whose start or stop has to be looked up first.
func (s *consumeSession) assign(ev *groups.AssignmentEvent) (*braidv1.AssignmentUpdate, []*readPosition) {
	s.memberEpoch = ev.MemberEpoch
	update := &braidv1.AssignmentUpdate{MemberEpoch: ev.MemberEpoch}
	for _, tp := range ev.Lost {
		if p := s.find(tp); p != nil && !p.waiting {
			update.Lost = append(update.Lost, protoPartition(tp))
		}
		s.remove(tp)
	}
	for _, tp := range ev.Revoking {
		p := s.find(tp)
		switch {
		case p == nil || p.waiting || s.halfDone:
			// The client does not have it, or can't answer any more.
			s.remove(tp)
			s.revoked = append(s.revoked, tp)
		case !p.revoking:
			p.revoking = true
			update.Revoking = append(update.Revoking, protoPartition(tp))
			update.RevokeDeadlineMs = ev.Deadline.Milliseconds()
		}
	}
	var lookup []*readPosition
	for _, a := range ev.Assigned {
		if s.find(a.TopicPartition) != nil {
			continue
		}
		p := &readPosition{
			TopicPartition: a.TopicPartition, next: int64(a.Offset), high: -1, stop: s.rule.offset, stopTime: s.rule.time,
			paused: s.paused[a.TopicPartition],
		}
		s.positions = append(s.positions, p)
		if p.next < 0 || s.rule.latest {
			p.waiting = true
			lookup = append(lookup, p)
			continue
		}
		update.Assigned = append(update.Assigned, s.begin(p))
	}
	return update, lookup
}

func protoPartition(tp federation.TopicPartition) *braidv1.TopicPartition {
	return &braidv1.TopicPartition{Topic: string(tp.Topic), Partition: int32(tp.Partition)}
}

func (s *consumeSession) remove(tp federation.TopicPartition) {
	for i, p := range s.positions {
		if p.TopicPartition == tp {
			p.gone = true
			s.positions = append(s.positions[:i], s.positions[i+1:]...)
			return
		}
	}
}

// found brings the start and stop of a waiting position.
func (s *consumeSession) found(p *readPosition, start, stop int64) *braidv1.Assigned {
	if p.gone || !p.waiting {
		return nil
	}
	p.next = start
	if s.rule.latest {
		p.stop = stop
	}
	return s.begin(p)
}

// release takes the client's word that it is done with revoking partitions.
func (s *consumeSession) release(tps []*braidv1.TopicPartition) {
	for _, in := range tps {
		tp := federation.TopicPartition{Topic: federation.TopicName(in.GetTopic()), Partition: federation.LogicalPartition(in.GetPartition())}
		if p := s.find(tp); p != nil && p.revoking {
			s.remove(tp)
			s.revoked = append(s.revoked, tp)
		}
	}
}

// halfClose notes that the client sends nothing more, so what it would have to
// answer is answered for it.
func (s *consumeSession) halfClose() {
	s.halfDone = true
	for _, p := range append([]*readPosition(nil), s.positions...) {
		if p.revoking {
			s.remove(p.TopicPartition)
			s.revoked = append(s.revoked, p.TopicPartition)
		}
	}
}

// seek moves positions. It returns the update that answers it, and failures for
// partitions that the member does not read.
func (s *consumeSession) seek(to []*braidv1.PartitionOffset) (*braidv1.AssignmentUpdate, []*braidv1.PartitionFailure, error) {
	update := &braidv1.AssignmentUpdate{MemberEpoch: s.memberEpoch}
	var failures []*braidv1.PartitionFailure
	for _, o := range to {
		if o.GetOffset() < 0 {
			return nil, nil, invalid("seek.to.offset: %d is negative", o.GetOffset())
		}
		tp := federation.TopicPartition{Topic: federation.TopicName(o.GetTopic()), Partition: federation.LogicalPartition(o.GetPartition())}
		p := s.find(tp)
		if p == nil || p.revoking || p.waiting {
			failures = append(failures, partitionFailure(tp, errNotAssigned(tp)))
			continue
		}
		p.next, p.retryAt, p.failed = o.GetOffset(), time.Time{}, false
		update.Assigned = append(update.Assigned, s.begin(p))
	}
	return update, failures, nil
}

func errNotAssigned(tp federation.TopicPartition) error {
	return federation.Errorf(federation.IllegalGeneration, "%s is not assigned to this member", tp)
}

// pause sets which partitions rest.
func (s *consumeSession) pause(in *braidv1.Pause) {
	clear(s.paused)
	for _, tp := range in.GetPartitions() {
		s.paused[federation.TopicPartition{Topic: federation.TopicName(tp.GetTopic()), Partition: federation.LogicalPartition(tp.GetPartition())}] = true
	}
	for _, p := range s.positions {
		p.paused = s.paused[p.TopicPartition]
	}
}

// commitRequest takes a commit in; it joins what was not stored yet.
func (s *consumeSession) commitRequest(cfg *Config, c *braidv1.Commit) error {
	if c.GetCommitId() <= s.commitID {
		return invalid("commit.commit_id: %d is not above the last, %d", c.GetCommitId(), s.commitID)
	}
	if len(c.GetOffsets()) > cfg.CommitPartitionsMax {
		return invalid("commit.offsets: %d partitions, want at most %d in one commit", len(c.GetOffsets()), cfg.CommitPartitionsMax)
	}
	s.commitID = c.GetCommitId()
	for _, o := range c.GetOffsets() {
		offset, err := commitOffset(cfg, o)
		if err != nil {
			return err
		}
		if s.find(offset.TopicPartition) == nil {
			if len(s.failures) < cfg.CommitPartitionsMax {
				s.failures = append(s.failures, partitionFailure(offset.TopicPartition, errNotAssigned(offset.TopicPartition)))
			}
			continue
		}
		s.commit[offset.TopicPartition] = offset
	}
	return nil
}

// commitOffset checks an offset to commit.
func commitOffset(cfg *Config, o *braidv1.PartitionOffset) (groups.CommitOffset, error) {
	out := groups.CommitOffset{
		TopicPartition: federation.TopicPartition{Topic: federation.TopicName(o.GetTopic()), Partition: federation.LogicalPartition(o.GetPartition())},
		Offset:         federation.LogicalOffset(o.GetOffset()), Epoch: federation.NoEpoch, Metadata: o.GetMetadata(),
	}
	switch {
	case o.GetTopic() == "":
		return out, invalid("offsets.topic: is empty")
	case o.GetOffset() < 0:
		return out, invalid("offsets.offset: %d of %s is negative", o.GetOffset(), out.TopicPartition)
	case len(o.GetMetadata()) > cfg.CommitMetadataBytesMax:
		return out, federation.Errorf(federation.OffsetMetadataTooLarge, "offsets.metadata: %d bytes, want at most %d", len(o.GetMetadata()), cfg.CommitMetadataBytesMax)
	}
	return out, nil
}

// takeCommit returns the commit to store next; false if there is none.
func (s *consumeSession) takeCommit() (pendingCommit, bool) {
	if s.commitID == s.answered {
		return pendingCommit{}, false
	}
	c := pendingCommit{id: s.commitID, failures: s.failures}
	for _, o := range s.commit {
		c.offsets = append(c.offsets, o)
	}
	sort.Slice(c.offsets, func(i, j int) bool {
		a, b := c.offsets[i].TopicPartition, c.offsets[j].TopicPartition
		return a.Topic < b.Topic || a.Topic == b.Topic && a.Partition < b.Partition
	})
	clear(s.commit)
	s.failures, s.answered = nil, s.commitID
	return c, true
}

// A pendingCommit is a commit on its way to the coordinator.
type pendingCommit struct {
	id       int64
	offsets  []groups.CommitOffset
	failures []*braidv1.PartitionFailure
}

// result makes the answer to the commit.
func (c *pendingCommit) result(errs []error, err error) *braidv1.CommitResult {
	out := &braidv1.CommitResult{CommitId: c.id, Failures: c.failures}
	for i, o := range c.offsets {
		failed := err
		if failed == nil && i < len(errs) {
			failed = errs[i]
		}
		if failed != nil {
			out.Failures = append(out.Failures, partitionFailure(o.TopicPartition, failed))
		}
	}
	return out
}

// reachedStop reports whether the stop of the request was reached.
func (s *consumeSession) reachedStop() bool {
	if s.rule.records != noStop {
		return s.sent.records >= s.rule.records
	}
	if !s.rule.bounded || len(s.positions) == 0 {
		return false
	}
	for _, p := range s.positions {
		if !p.done {
			return false
		}
	}
	return true
}

// fetchBytes is how much to read ahead of the credit that is left.
func (s *consumeSession) fetchBytes(cfg *Config) int32 {
	const least = 64 << 10 // record batches come whole
	return int32(min(int64(cfg.FetchBytesMax), max(s.window().bytes, least), math.MaxInt32))
}
