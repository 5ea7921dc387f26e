package controller

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// A physical cluster compacts only what lies on it. Were the head of a compacted topic
// moved as others are, the old extent would keep values for ever that newer ones, or
// tombstones, have replaced, and deleted keys would come back. So all records of the
// partition are copied behind the primer, and the old extents leave the map:
//
//	primed ──► copied while it takes appends, again and again until little is left
//	   ──► sealing: no gateway appends ──► the rest is copied, up to E ──► ending
//	   ──► sealed, ended at E ──► moved: the copies lie below the logical end of the old
//	       extent, and what clients append goes on there
//
// "ending" is saved when all is copied: a leader that dies before it leaves targets that
// nobody uses again, and the next one copies to new ones. See
// docs/decisions/0015-moves-of-compacted-topics.md.

const (
	// copyAttempts is how often a move begins again with new targets because what lies in
	// those that it has is not what it should be.
	copyAttempts = 3
	// copyPassesMax bounds the passes over what was appended meanwhile, before the heads
	// are held. What is left then may be more than can be copied while they are held: the
	// heads take appends again then, and it is tried later.
	copyPassesMax = 8
)

// copyAgainError says that the targets of a move are of no use any more.
type copyAgainError struct{ cause error }

func (e copyAgainError) Error() string { return e.cause.Error() }
func (e copyAgainError) Unwrap() error { return e.cause }

// A compaction is what matters of the settings of a compacted topic.
type compaction struct {
	on bool
	// retention is how long tombstones stay at least: who reads the log in less time sees
	// every delete of what it has read.
	retention time.Duration
}

// compactionOf returns it for the physical topics that heads move from.
func (t *term) compactionOf(ctx context.Context, topic *federation.Topic, from []federation.PhysicalAddress) (out compaction, err error) {
	seen := make(map[planner.PhysicalTopic]bool)
	for _, at := range from {
		pt := planner.PhysicalTopic{Cluster: at.Cluster, Name: at.Topic, Exists: true}
		if seen[pt] {
			continue
		}
		seen[pt] = true
		c, err := t.parts.Clusters.Cluster(at.Cluster)
		if err != nil {
			return out, err
		}
		config, err := effectiveConfig(ctx, c, pt, topic)
		if err != nil {
			return out, err
		}
		if !compacts(config) {
			continue
		}
		retention := 24 * time.Hour // Kafka's default
		if ms, err := strconv.ParseInt(config["delete.retention.ms"], 10, 64); err == nil {
			retention = time.Duration(min(ms, int64(1000*time.Hour/time.Millisecond))) * time.Millisecond
		}
		if !out.on || retention < out.retention {
			out.retention = retention
		}
		out.on = true
	}
	return out, nil
}

func compacts(config map[string]string) bool {
	return (&federation.Topic{Config: config}).Compacted()
}

// checkCopies refuses topics whose records cannot be copied as they are.
func checkCopies(topic *federation.Topic, cluster federation.ClusterName, config map[string]string) error {
	if compacts(config) && config["message.timestamp.type"] == "LogAppendTime" {
		return federation.Errorf(federation.PolicyViolation,
			"topic %q is compacted, and physical cluster %q stamps its records (message.timestamp.type=LogAppendTime): a move copies them, and the copies would get the time of the move. Set message.timestamp.type=CreateTime with `braid topic config` until it has moved",
			topic.Name, cluster)
	}
	return nil
}

// moveHeadsAgain moves heads, and begins again with new targets while the ones that it
// has are of no use.
func (o *operations) moveHeadsAgain(ctx context.Context, op *operation, spec moveSpec, state *moveState) error {
	for attempt := 1; ; attempt++ {
		err := o.moveHeadsOf(ctx, op, spec, state)
		var again copyAgainError
		if !errors.As(err, &again) {
			return err
		}
		if attempt == copyAttempts {
			return again.cause
		}
		o.t.log.Warn("the records of a compacted topic are copied again, to other partitions", "topic", spec.Topic, "err", again.cause)
		op.step("copy", 0, 1, "begins again: "+again.cause.Error())
	}
}

// beginCopies finishes what has no way back, and forgets the other targets: what an
// earlier leader, or an earlier try, has copied there is not known, and a request of
// theirs may still be on its way. It reports whether all has moved.
func (o *operations) beginCopies(ctx context.Context, op *operation, s *sealer, state *moveState) (done bool, err error) {
	if !state.Compacted || !state.Primed {
		return false, nil
	}
	s.batchBytes = state.BatchBytes
	if err := o.endHeads(ctx, op, s, state); err != nil {
		return false, err
	}
	if len(state.Heads) == 0 {
		return true, nil
	}
	state.Planned, state.Primed, state.Total, state.Heads = false, false, state.Total-len(state.Heads), nil
	return false, o.save(ctx, op, *state)
}

// A copier copies the records of heads that move.
type copier struct {
	*sealer

	op        *operation
	retention time.Duration
	producer  int64 // of the copies
	batchMax  int   // max.message.bytes of the targets
	pace      *pace
	slots     chan struct{}

	mu    sync.Mutex // guards the following
	heads map[federation.TopicPartition]*headCopy
}

// newCopier makes a copier for an operation; nil if nothing needs to be copied.
func (o *operations) newCopier(ctx context.Context, op *operation, s *sealer, state *moveState) (*copier, error) {
	if !state.Compacted {
		return nil, nil
	}
	id, err := o.t.producerID(ctx)
	if err != nil {
		return nil, err
	}
	k := &copier{
		sealer: s, op: op, retention: time.Duration(state.DeleteRetentionMs) * time.Millisecond, producer: id,
		pace: &pace{rate: o.t.cfg.CopyBytesPerSecond}, slots: make(chan struct{}, o.t.cfg.CopyHeadsMax),
		heads: make(map[federation.TopicPartition]*headCopy),
	}
	err = retry(ctx, o.t.cfg.StepTimeout, func(ctx context.Context) error {
		k.batchMax, err = s.messageBytes(ctx, state.Plan.Topics)
		return err
	})
	return k, err
}

// take begins to copy heads that are primed.
func (k *copier) take(heads []primedHead) error {
	m := k.current()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range heads {
		if k.heads[h.TopicPartition] != nil {
			continue // it could not be held
		}
		part, err := m.Partition(h.TopicPartition)
		if err != nil {
			return err
		}
		sources, err := planner.CopySources(part)
		if err != nil {
			return err
		}
		k.heads[h.TopicPartition] = &headCopy{copier: k, head: h, sources: sources, next: h.Primer + 1}
	}
	return nil
}

// give puts what was copied into the heads, and forgets them.
func (k *copier) give(heads []primedHead) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range heads {
		h := k.heads[heads[i].TopicPartition]
		heads[i].Copies, heads[i].CopiedEnd = h.copies, h.end
		delete(k.heads, heads[i].TopicPartition)
	}
}

func (k *copier) of(moves []planner.Move) []*headCopy {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]*headCopy, len(moves))
	for i, v := range moves {
		out[i] = k.heads[v.TopicPartition]
	}
	return out
}

// each calls do for all heads, some at a time, and returns the first error.
func (k *copier) eachHead(ctx context.Context, heads []*headCopy, do func(ctx context.Context, i int, h *headCopy) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for i, h := range heads {
		k.slots <- struct{}{}
		if ctx.Err() != nil {
			<-k.slots
			break
		}
		wg.Go(func() {
			defer func() { <-k.slots }()
			if err := do(ctx, i, h); err != nil {
				mu.Lock()
				failed = firstOf(failed, err)
				mu.Unlock()
				cancel(err)
			}
		})
	}
	wg.Wait()
	return firstOf(failed, ctx.Err())
}

// catchUp copies what heads that take appends have, until a pass over what was
// appended meanwhile is fast enough for one while they are held.
func (k *copier) catchUp(ctx context.Context, moves []planner.Move) error {
	heads := k.of(moves)
	if err := k.checkTargets(ctx, heads); err != nil {
		return err
	}
	for range copyPassesMax {
		began := time.Now()
		ends, err := k.ends(ctx, heads)
		if err != nil {
			return err
		}
		total := int64(0)
		for i, h := range heads {
			total += h.left(ends[i])
		}
		progress := newProgress(k.op, total)
		err = k.eachHead(ctx, heads, func(ctx context.Context, i int, h *headCopy) error {
			return h.advance(ctx, ends[i], true, progress)
		})
		if err != nil {
			return err
		}
		progress.done(k.records(heads))
		if time.Since(began) < k.cfg.SealWait/4 {
			return nil
		}
	}
	return nil
}

func (k *copier) records(heads []*headCopy) (n int64) {
	for _, h := range heads {
		n += h.records
	}
	return n
}

// ends returns how far the logs of heads are replicated.
func (k *copier) ends(ctx context.Context, heads []*headCopy) ([]federation.PhysicalOffset, error) {
	from := make([]federation.PhysicalAddress, len(heads))
	for i, h := range heads {
		from[i] = h.head.From
	}
	ends, err := k.endsOf(ctx, from)
	out := make([]federation.PhysicalOffset, len(ends))
	for i, e := range ends {
		out[i] = e.HighWatermark
	}
	return out, err
}

func (k *copier) endsOf(ctx context.Context, addresses []federation.PhysicalAddress) ([]upstream.PartitionEnds, error) {
	out := make([]upstream.PartitionEnds, len(addresses))
	err := k.eachCluster(ctx, len(addresses), func(i int) federation.ClusterName { return addresses[i].Cluster }, func(ctx context.Context, c *upstream.Cluster, at []int) error {
		parts := make([]upstream.Partition, len(at))
		for j, i := range at {
			parts[j] = physical(addresses[i])
		}
		for j, e := range c.Ends(ctx, parts) {
			if e.Err != nil {
				return fmt.Errorf("%s: %w", addresses[at[j]], e.Err)
			}
			out[at[j]] = e
		}
		return nil
	})
	return out, err
}

// logEnds returns where the logs of addresses end at their leaders.
func (k *copier) logEnds(ctx context.Context, addresses []federation.PhysicalAddress) ([]federation.PhysicalOffset, error) {
	out := make([]federation.PhysicalOffset, len(addresses))
	err := k.eachCluster(ctx, len(addresses), func(i int) federation.ClusterName { return addresses[i].Cluster }, func(ctx context.Context, c *upstream.Cluster, at []int) error {
		parts := make([]upstream.Partition, len(at))
		for j, i := range at {
			parts[j] = physical(addresses[i])
		}
		for j, e := range c.LogEnds(ctx, parts) {
			if e.Err != nil {
				return fmt.Errorf("%s: %w", addresses[at[j]], e.Err)
			}
			out[at[j]] = e.LogEnd
		}
		return nil
	})
	return out, err
}

// checkTargets checks that targets hold what was copied there, and nothing else: an
// offset between the copies would put the older ones at offsets below their own, where
// a reader that has come so far would miss them.
func (k *copier) checkTargets(ctx context.Context, heads []*headCopy) error {
	targets := make([]federation.PhysicalAddress, len(heads))
	for i, h := range heads {
		targets[i] = h.head.To
	}
	ends, err := k.logEnds(ctx, targets)
	if err != nil {
		return err
	}
	for i, h := range heads {
		if ends[i] != h.next && h.unsent == nil {
			return copyAgainError{federation.Errorf(federation.Conflict, "%s: %s ends at %d, not at %d: somebody else has written there", h.head.TopicPartition, h.head.To, ends[i], h.next)}
		}
	}
	return nil
}

// finish copies the rest of heads that no gateway appends to. Appends are held since a
// while, and gateways do not hold them for ever: all together it may take one and a half
// times SealWait.
func (k *copier) finish(ctx context.Context, since time.Time, moves []planner.Move) error {
	call, cancel := context.WithDeadline(ctx, since.Add(k.cfg.SealWait*3/2))
	defer cancel()
	err := k.finishHeads(call, k.of(moves))
	if call.Err() != nil && ctx.Err() == nil {
		return federation.Errorf(federation.Timeout, "topic %q: the newest records could not be copied within %s while appends are held", k.topic.Name, time.Since(since).Round(time.Millisecond)).WithCause(err)
	}
	return err
}

func (k *copier) finishHeads(ctx context.Context, heads []*headCopy) error {
	from := make([]federation.PhysicalAddress, len(heads))
	for i, h := range heads {
		from[i] = h.head.From
	}
	// All that was acknowledged is below: no gateway appends since before.
	ends, err := k.logEnds(ctx, from)
	if err != nil {
		return err
	}
	err = k.eachHead(ctx, heads, func(ctx context.Context, i int, h *headCopy) error {
		return h.advance(ctx, ends[i], false, nil)
	})
	if err != nil {
		return err
	}
	if err := k.checkTargets(ctx, heads); err != nil {
		return err
	}
	m := k.current()
	parts := make([]*federation.Partition, len(heads))
	for i, h := range heads {
		if parts[i], err = m.Partition(h.head.TopicPartition); err != nil {
			return err
		}
	}
	starts, err := k.logStarts(ctx, parts)
	if err != nil {
		return err
	}
	for i, h := range heads {
		if took := time.Since(h.began); took >= k.retention {
			return copyAgainError{federation.Errorf(federation.PolicyViolation,
				"%s: to copy it took %s, and its tombstones are kept for %s only (delete.retention.ms): deletes may have been missed. Raise delete.retention.ms with `braid topic config` until it has moved",
				h.head.TopicPartition, took.Round(time.Millisecond), k.retention)}
		}
		all := federation.PhysicalRange{From: h.head.Primer + 1, To: h.next}
		h.end, h.copies = ends[i], federation.PhysicalRange{From: planner.CopiesFrom(parts[i], all, ends[i], starts), To: all.To}
	}
	return nil
}

// logStarts returns where the logs begin that hold some partitions.
func (k *copier) logStarts(ctx context.Context, parts []*federation.Partition) (map[federation.PhysicalAddress]federation.PhysicalOffset, error) {
	var addresses []federation.PhysicalAddress
	for _, p := range parts {
		for _, e := range p.Extents {
			addresses = append(addresses, e.PhysicalAddress)
		}
	}
	ends, err := k.endsOf(ctx, addresses)
	if err != nil {
		return nil, err
	}
	out := make(map[federation.PhysicalAddress]federation.PhysicalOffset, len(addresses))
	for i, at := range addresses {
		out[at] = ends[i].LogStart
	}
	return out, nil
}

// A pace bounds the bytes of a second; a rate of 0 bounds nothing.
type pace struct {
	rate int64

	mu   sync.Mutex // guards the following
	free time.Time  // when the next bytes may go
}

// wait waits until n more bytes may go.
func (p *pace) wait(ctx context.Context, n int) {
	if p.rate <= 0 {
		return
	}
	p.mu.Lock()
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	until := p.free
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	p.mu.Unlock()
	sleep(ctx, time.Until(until))
}

// A progress shows in an operation how far a pass over its heads is.
type progress struct {
	op    *operation
	total int64

	mu   sync.Mutex // guards the following
	at   int64
	last time.Time
}

func newProgress(op *operation, total int64) *progress {
	op.step("copy", 0, total, "")
	return &progress{op: op, total: total, last: time.Now()}
}

// add counts offsets that were read.
func (p *progress) add(n int64) {
	if p == nil {
		return
	}
	const interval = 200 * time.Millisecond
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at += n
	if now := time.Now(); now.Sub(p.last) >= interval {
		p.last = now
		p.op.step("copy", min(p.at, p.total), p.total, "offsets")
	}
}

func (p *progress) done(records int64) {
	p.op.step("copy", p.total, p.total, fmt.Sprintf("%d records copied", records))
}

// messageBytes returns the least max.message.bytes of some physical topics.
func (s *sealer) messageBytes(ctx context.Context, topics []planner.PhysicalTopic) (int, error) {
	var mu sync.Mutex
	least := math.MaxInt32
	err := s.each(ctx, topics, func(ctx context.Context, pt planner.PhysicalTopic, c *upstream.Cluster) error {
		config, err := c.TopicConfig(ctx, pt.Name)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if n, err := strconv.Atoi(config["max.message.bytes"].Value); err == nil {
			least = min(least, n)
		}
		return nil
	})
	return least, err
}

// seal returns the seal of an extent; of one that was copied, it says where the copies
// are, so that a move that the store has lost can go on.
func (s *sealer) seal(h primedHead, now time.Time) []byte {
	about := s.subject(h.Move, h.Extent)
	if h.copied() {
		return mark.SealCopied(about, s.producer, mark.Copied{End: h.CopiedEnd, Copies: h.Copies}, now)
	}
	return mark.Seal(about, s.producer, now)
}

// endOf returns the end of an extent whose seal is at an offset, and from where on
// what producers have written does not count. An extent that was copied ends where
// the copying ended: what lies between was acknowledged by nobody, and is not copied.
func (s *sealer) endOf(h primedHead, seal federation.PhysicalOffset) (end, behind federation.PhysicalOffset) {
	if !h.copied() {
		return seal, seal + 1
	}
	if seal > h.CopiedEnd {
		s.log.Warn("records of a gateway that was cut off, or of somebody who writes without braid, lie below a seal; they are no part of the topic", "partition", h.TopicPartition, "at", h.From, "end", h.CopiedEnd, "seal", seal)
	}
	return h.CopiedEnd, h.CopiedEnd
}

// primerTimes returns the timestamps of primers: now, but of a compacted topic that of the
// oldest record, so that a search by time in the copies behind it does not end at it.
func (s *sealer) primerTimes(ctx context.Context, moves []planner.Move) ([]time.Time, error) {
	now := time.Now()
	times := make([]time.Time, len(moves))
	for i := range times {
		times[i] = now
	}
	if !s.compacted {
		return times, nil
	}
	for i, v := range moves {
		part, err := s.current().Partition(v.TopicPartition)
		if err != nil {
			return nil, err
		}
		sources, err := planner.CopySources(part)
		if err != nil {
			return nil, err
		}
		c, err := s.parts.Clusters.Cluster(sources[0].Cluster)
		if err != nil {
			return nil, err
		}
		at := physical(sources[0].PhysicalAddress)
		ends := c.Ends(ctx, []upstream.Partition{at})[0]
		if ends.Err != nil {
			return nil, fmt.Errorf("%s: %w", sources[0].PhysicalAddress, ends.Err)
		}
		err = c.ReadBatches(ctx, at, max(ends.LogStart, sources[0].From), ends.HighWatermark, func(h recordbatch.Header, _ []byte) bool {
			if first := time.UnixMilli(h.FirstTimestamp); h.FirstTimestamp >= 0 && first.Before(now) {
				times[i] = first
			}
			return mark.IsMark(h.ProducerID)
		})
		if err != nil {
			return nil, err
		}
	}
	return times, nil
}
