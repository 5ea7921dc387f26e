package controller

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

const (
	// restoreParallel bounds the partitions of a topic that are worked on at one time.
	restoreParallel = 8
	// resentTail is how many records at the end of a suspended extent can have been sent
	// again: what was acknowledged is not, and no more than that is ever in flight.
	resentTail = 200_000
	// resentScan bounds the records of each later extent that are searched for them.
	resentScan = 100_000
	// recordsBytesMax bounds what a batch may decompress to.
	recordsBytesMax = 128 << 20
)

// eachPartition calls do for the extents of each partition in turn, several partitions
// at a time, and returns an error of any.
func (r *restorer) eachPartition(do func(at []int) error) error {
	byPartition := make(map[federation.LogicalPartition][]int)
	var order []federation.LogicalPartition
	for i, x := range r.state.Extents {
		if byPartition[x.Partition] == nil {
			order = append(order, x.Partition)
		}
		byPartition[x.Partition] = append(byPartition[x.Partition], i)
	}
	slots := make(chan struct{}, restoreParallel)
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	for _, p := range order {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(byPartition[p]); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = firstOf(failed, err)
			}
		})
	}
	wg.Wait()
	return failed
}

// prepare finds out for each extent what was sent again, and where it ends.
func (r *restorer) prepare(ctx context.Context) error {
	var mu sync.Mutex
	fresh := false
	err := r.eachPartition(func(at []int) error {
		for _, i := range at {
			x := r.state.Extents[i]
			if x.Ready {
				continue
			}
			found, err := r.look(ctx, &x)
			if err != nil {
				return err
			}
			x.Found, x.Kept = found.hidden, found.kept != ""
			mu.Lock()
			r.state.Extents[i], fresh = x, true
			r.state.Hidden += found.hidden
			r.state.ToCopy += int64(x.Seal - x.End)
			if found.kept != "" {
				r.state.Kept, r.state.KeptAs = r.state.Kept+1, found.kept
			}
			mu.Unlock()
		}
		return nil
	})
	if fresh {
		if failed := r.saveUntilDecided(ctx, r.op, *r.state); failed != nil {
			return failed
		}
	}
	return err
}

// lookAgain has an extent looked at again: its head was not told what it knows. Where
// records were appended again already, what was found stays.
func (r *restorer) lookAgain(x *restoringExtent) {
	if !x.Ready || x.Copier != 0 {
		return
	}
	r.state.Hidden -= x.Found
	r.state.ToCopy -= int64(x.Seal - x.End)
	if x.Kept {
		r.state.Kept--
	}
	x.Ready, x.Elsewhere = false, nil
}

// A look is what is found in a suspended extent.
type look struct {
	hidden int64  // batches
	kept   string // why records stay that should be appended again
}

// look finds out where an extent ends, and which of its batches were sent again.
func (r *restorer) look(ctx context.Context, x *restoringExtent) (found look, err error) {
	part, e := r.extent(x)
	if e == nil { // it left the map
		x.Ready, x.End = true, x.Seal
		return found, nil
	}
	end := min(max(e.Seen, e.Start), x.Seal)
	if r.state.InPlace != "" {
		end = x.Seal
	}
	most := federation.PhysicalOffset(r.t.cfg.RestoreRecordsMax)
	if x.Seal-end > most {
		found.kept = fmt.Sprintf("%d of one partition were not seen, more than the %d that are appended again", x.Seal-end, most)
		end = x.Seal
	}
	var batches []recordbatch.Header
	from := max(e.Start, min(end, x.Seal-resentTail))
	err = r.from.ReadBatches(ctx, physical(x.At), from, x.Seal, func(h recordbatch.Header, _ []byte) bool {
		first, last := federation.PhysicalOffset(h.BaseOffset), federation.PhysicalOffset(h.LastOffset())
		switch {
		case first < end && end <= last:
			end = first // a batch is not parted
		case first >= end && (h.Transactional() || h.Control()):
			found.kept, end = "they are part of transactions, which cannot be appended again", x.Seal
		}
		if h.Idempotent() && !mark.IsMark(h.ProducerID) && !h.Control() && first >= x.Seal-resentTail {
			batches = append(batches, h)
		}
		return true
	})
	if err != nil {
		return found, err
	}
	again, err := r.sentAgain(ctx, part, e.Number, batches)
	if err != nil {
		return found, err
	}
	had, err := r.hadBefore(ctx, part, e.Number, batches)
	if err != nil {
		return found, err
	}
	x.Hidden = nil
	if r.state.InPlace != "" {
		x.Elsewhere = again.inPart(part, batches)
	}
	hidden, err := r.sentAgainFromBefore(ctx, part, e)
	if err != nil {
		return found, err
	}
	for _, l := range hidden {
		x.Elsewhere = hideIn(x.Elsewhere, l.extent, l.at)
	}
	found.hidden += int64(len(hidden))
	for _, h := range batches {
		if again.has(&h) || had[batchOf(&h)] {
			found.hidden++
			x.Hidden = addRange(x.Hidden, rangeOf(&h))
		}
	}
	x.Ready, x.End, x.Next = true, end, end
	return found, nil
}

// rangeOf returns where a batch lies.
func rangeOf(h *recordbatch.Header) federation.PhysicalRange {
	return federation.PhysicalRange{From: federation.PhysicalOffset(h.BaseOffset), To: federation.PhysicalOffset(h.LastOffset()) + 1}
}

// addRange adds a range behind the others.
func addRange(ranges []federation.PhysicalRange, r federation.PhysicalRange) []federation.PhysicalRange {
	if n := len(ranges); n > 0 && ranges[n-1].To == r.From {
		ranges[n-1].To = r.To
		return ranges
	}
	return append(ranges, r)
}

// hideIn adds a range that is hidden in an extent.
func hideIn(all []planner.HiddenElsewhere, extent int32, r federation.PhysicalRange) []planner.HiddenElsewhere {
	i := slices.IndexFunc(all, func(l planner.HiddenElsewhere) bool { return l.Extent == extent })
	if i < 0 {
		i, all = len(all), append(all, planner.HiddenElsewhere{Extent: extent})
	}
	all[i].Ranges = append(all[i].Ranges, r)
	return all
}

// A producerEpoch is one life of an idempotent producer, in which its sequences follow
// each other.
type producerEpoch struct {
	id    int64
	epoch int16
}

// sequences are those of the batches that a producer wrote one after the other.
type sequences struct {
	first, last int32
	wanted      int32 // the highest one that is searched for
	found       bool
	places      []batchPlace
	stays       bool // they stay where they were first
}

// A batchPlace is where a batch that was sent again lies.
type batchPlace struct {
	extent int32
	at     federation.PhysicalRange
}

// resent is what producers wrote first behind an extent.
type resent map[producerEpoch]*sequences

// has reports whether a batch of the extent was sent again.
func (s resent) has(h *recordbatch.Header) bool {
	p := s[producerEpoch{h.ProducerID, h.ProducerEpoch}]
	return p != nil && p.found && p.first <= h.BaseSequence && h.LastSequence() <= p.last && !p.stays
}

// inPart finds the producers that have sent a part of what they have to again, and the
// rest not yet. In the order of the log, the rest would come first; so what was sent again
// is hidden where it came again, and not where it was first. The rest is a repeat when it
// comes: the extents behind are told.
func (s resent) inPart(part *federation.Partition, batches []recordbatch.Header) (out []planner.HiddenElsewhere) {
	for i := range batches {
		h := &batches[i]
		p := s[producerEpoch{h.ProducerID, h.ProducerEpoch}]
		if p == nil || !p.found || p.stays || h.BaseSequence <= p.last {
			continue
		}
		sealed := !slices.ContainsFunc(p.places, func(b batchPlace) bool {
			return !slices.ContainsFunc(part.Extents, func(e *federation.Extent) bool { return e.Number == b.extent && e.Sealed() })
		})
		if !sealed {
			continue
		}
		p.stays = true
		for _, b := range p.places {
			out = hideIn(out, b.extent, b.at)
		}
	}
	return out
}

// note takes in a batch of a later extent; it reports whether more is to be looked at.
func (s resent) note(h *recordbatch.Header, extent int32) bool {
	p := s[producerEpoch{h.ProducerID, h.ProducerEpoch}]
	place := batchPlace{extent, rangeOf(h)}
	switch {
	case p == nil || !h.Idempotent() || h.Control():
	case !p.found:
		p.first, p.last, p.found = h.BaseSequence, h.LastSequence(), true
		p.places = append(p.places, place)
	case h.BaseSequence == recordbatch.AddSequence(p.last, 1):
		p.last = h.LastSequence()
		p.places = append(p.places, place)
	case p.first <= h.BaseSequence && h.LastSequence() <= p.last: // it came again once more, behind another failover
		p.places = append(p.places, place)
	}
	for _, p := range s {
		if !p.found || p.first <= p.wanted && p.last < p.wanted {
			return true
		}
	}
	return false
}

// sentAgain finds in the extents behind one what the producers of its batches wrote
// there first.
func (r *restorer) sentAgain(ctx context.Context, part *federation.Partition, extent int32, batches []recordbatch.Header) (resent, error) {
	out := make(resent)
	for i := range batches {
		h := &batches[i]
		k := producerEpoch{h.ProducerID, h.ProducerEpoch}
		if out[k] == nil {
			out[k] = &sequences{}
		}
		out[k].wanted = max(out[k].wanted, h.LastSequence())
	}
	more := len(out) > 0
	for _, e := range r.laterExtents(part, extent) {
		if !more {
			break
		}
		c, ends, err := r.endsOfOne(ctx, e)
		if err != nil {
			return nil, err
		}
		from := max(e.Start, ends.LogStart)
		to := min(ends.HighWatermark, from+resentScan)
		if e.Sealed() { // what comes behind the seal is in no extent; what lies before it was appended again
			to = min(to, max(e.End, e.Seal))
		}
		err = c.ReadBatches(ctx, physical(e.PhysicalAddress), from, to, func(h recordbatch.Header, _ []byte) bool {
			more = out.note(&h, e.Number)
			return more
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// copyAll appends again what is to be, partition by partition, in order.
func (r *restorer) copyAll(ctx context.Context) error {
	if len(r.state.Extents) == 0 {
		return nil
	}
	r.op.step("copy", r.state.Copied, r.state.ToCopy, "")
	mu := make(stateLock, 1)
	err := r.eachPartition(func(at []int) error {
		for _, i := range at {
			if err := r.copyExtent(ctx, mu, &r.state.Extents[i]); err != nil {
				return err
			}
		}
		return nil
	})
	// Those that are through can be read, whatever becomes of the others.
	if failed := r.publish(ctx, func(x *restoringExtent) bool { return x.Next >= x.Seal }); failed != nil {
		return failed
	}
	return err
}

// A stateLock guards the state of an operation while it is saved, too: a mutex is not
// for waits of that length.
type stateLock chan struct{}

func (l stateLock) lock()   { l <- struct{}{} }
func (l stateLock) unlock() { <-l }

// copyExtent appends again what lies behind the end of an extent.
func (r *restorer) copyExtent(ctx context.Context, mu stateLock, x *restoringExtent) error {
	update := func(change func()) error {
		mu.lock()
		defer mu.unlock()
		change()
		return r.saveUntilDecided(ctx, r.op, *r.state)
	}
	for x.Next < x.Seal {
		if r.wanted(r.op) {
			return errWanted
		}
		if _, err := r.openHead(x); err != nil {
			return err
		}
		if x.Copier == 0 { // saved before the first append, so that the next leader's is the same
			if err := r.op.cancelled(); err != nil && !r.beganCopy(mu) {
				return err
			}
			id, err := r.t.producerID(ctx)
			if err != nil {
				return err
			}
			if err := update(func() { x.Copier = id }); err != nil {
				return err
			}
		}
		b, err := r.batch(ctx, x)
		if err != nil {
			return err
		}
		if b.records > 0 {
			err = r.appendAgain(ctx, x, b.bytes)
		}
		switch k := federation.KindOf(err); {
		case err == nil:
			err = update(func() {
				x.Next, x.Sequence = b.next, recordbatch.AddSequence(x.Sequence, b.records)
				r.state.Copied += int64(b.records)
				r.op.step("copy", r.state.Copied, max(r.state.ToCopy, r.state.Copied), "")
			})
		case ctx.Err() != nil || passes(k) || k == federation.NotLeader:
		case k == federation.OutOfOrderSequence || k == federation.UnknownProducer || k == federation.ProducerFenced:
			// The partition has forgotten the producer; the batch is not there.
			var id int64
			if id, err = r.t.producerID(ctx); err == nil {
				err = update(func() { x.Copier, x.Sequence = id, 0 })
			}
		default:
			err = update(func() { r.keep(x, err) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *restorer) beganCopy(mu stateLock) bool {
	mu.lock()
	defer mu.unlock()
	return r.state.underWay()
}

// keep leaves the rest of an extent where it is: its head does not take it. What was
// appended again is hidden.
func (r *restorer) keep(x *restoringExtent, why error) {
	r.t.log.Error("records cannot be appended again, and stay in place", "topic", r.topic.Name, "partition", x.Partition, "at", x.At, "from", x.Next, "to", x.Seal, "err", why)
	r.state.Kept, r.state.KeptAs = r.state.Kept+1, why.Error()
	hidden := below(x.Hidden, x.End)
	if x.Next > x.End {
		hidden = addRange(hidden, federation.PhysicalRange{From: x.End, To: x.Next})
	}
	for _, h := range x.Hidden {
		if h.From = max(h.From, x.Next); h.From < h.To {
			hidden = addRange(hidden, h)
		}
	}
	x.Hidden, x.End, x.Next = hidden, x.Seal, x.Seal
}

// openHead returns the head that records of an extent are appended to.
func (r *restorer) openHead(x *restoringExtent) (*federation.Extent, error) {
	part, err := r.t.current().Partition(federation.TopicPartition{Topic: r.topic.Name, Partition: x.Partition})
	if err != nil {
		return nil, err
	}
	head := part.Head()
	if head.State != federation.ExtentOpen || r.t.failed(head.Cluster) {
		return nil, federation.Errorf(federation.ClusterUnavailable, "%s-%d: its head on physical cluster %q takes no records at the moment", r.topic.Name, x.Partition, head.Cluster)
	}
	return head, nil
}

// appendAgain appends a batch to the head. One that is there already is not appended
// twice.
func (r *restorer) appendAgain(ctx context.Context, x *restoringExtent, batch []byte) error {
	head, err := r.openHead(x)
	if err != nil {
		return err
	}
	c, err := r.t.parts.Clusters.Cluster(head.Cluster)
	if err != nil {
		return err
	}
	ctx, cancel := r.t.untilFailed(ctx, []federation.ClusterName{head.Cluster})
	defer cancel()
	err = c.AppendMarks(ctx, []upstream.MarkAppend{{Partition: physical(head.PhysicalAddress), Batch: batch}})[0].Err
	if federation.KindOf(err) == federation.DuplicateSequence {
		return nil
	}
	return err
}

// A copied batch has the records from one offset of a suspended extent to another.
type copied struct {
	bytes   []byte
	records int32
	next    federation.PhysicalOffset
}

// batch makes the next batch of what is appended again: the same one whenever it is
// asked for the same place.
func (r *restorer) batch(ctx context.Context, x *restoringExtent) (copied, error) {
	_, e := r.extent(x)
	if e == nil {
		return copied{next: x.Seal}, nil // it left the map
	}
	var b recordbatch.Builder
	b.Reset(nil)
	reader := recordbatch.NewReader(recordsBytesMax)
	out := copied{next: x.Seal}
	var failed error
	err := r.from.ReadBatches(ctx, physical(x.At), x.Next, x.Seal, func(h recordbatch.Header, batch []byte) bool {
		if mark.IsMark(h.ProducerID) || h.Control() || slices.ContainsFunc(x.Hidden, func(y federation.PhysicalRange) bool {
			return y.From <= federation.PhysicalOffset(h.BaseOffset) && federation.PhysicalOffset(h.BaseOffset) < y.To
		}) {
			return true
		}
		if failed = reader.Reset(batch); failed != nil {
			return false
		}
		for {
			var rec recordbatch.Record
			ok, err := reader.Next(&rec)
			if err != nil || !ok {
				failed = err
				return err == nil
			}
			at := federation.PhysicalOffset(rec.Offset)
			if at < x.Next {
				continue
			}
			if !r.add(&b, &rec, e.Logical(at)) {
				out.next = at
				return false
			}
		}
	})
	if err = firstOf(failed, err); err != nil {
		return out, err
	}
	if out.records = b.Count(); out.records > 0 {
		out.bytes = b.Finish(recordbatch.Producer{ID: x.Copier, Sequence: x.Sequence})
	}
	return out, nil
}

// add adds a record with where it lay; false if the batch would be too large.
func (r *restorer) add(b *recordbatch.Builder, rec *recordbatch.Record, at federation.LogicalOffset) bool {
	const overhead = 64
	size := len(rec.Key) + len(rec.Value) + overhead
	for _, h := range rec.Headers {
		size += len(h.Key) + len(h.Value) + 10
	}
	offset := strconv.FormatInt(int64(at), 10)
	tagged := size + len(mark.HeaderCluster) + len(r.spec.Cluster) + len(mark.HeaderOffset) + len(offset) + overhead
	if b.Count() > 0 && b.Len()+tagged > r.state.BatchBytes {
		return false
	}
	// A record that is as large as records may be has no room for more.
	if recordbatch.HeaderSize+tagged <= r.state.BatchBytes {
		rec.Headers = append(slices.Clone(rec.Headers),
			recordbatch.RecordHeader{Key: mark.HeaderCluster, Value: []byte(r.spec.Cluster)}, recordbatch.RecordHeader{Key: mark.HeaderOffset, Value: []byte(offset)})
	}
	b.Add(rec)
	return true
}
