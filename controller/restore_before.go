package controller

import (
	"context"
	"math"
	"slices"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// A batch can lie in an extent before a suspended one, without its producer knowing: at the
// end of a head that was rolled or moved just before its cluster failed, or in an extent
// that failed before and came back. The suspended extent knew of it, by its openings. The
// ones behind were not told, since nobody could read those; so the batch may have been
// sent again to them.

// laterExtents returns the extents behind one that are to be searched for what was sent
// again. Suspended ones are passed over: a batch that lies in two is hidden in the one that
// is restored last. Nobody looks at a sealed one again, so it must be read, though its
// cluster failed; until that is back or abandoned, the restore waits.
func (r *restorer) laterExtents(part *federation.Partition, extent int32) (out []*federation.Extent) {
	for _, e := range part.Extents {
		if e.Number > extent && (e.Sealed() || e.Cluster == r.spec.Cluster || !r.t.failed(e.Cluster)) {
			out = append(out, e)
		}
	}
	return out
}

// cameBack returns the extents before one whose clusters failed once, and that are sealed.
func cameBack(part *federation.Partition, extent int32) (out []*federation.Extent) {
	for _, e := range part.Extents {
		if e.Number < extent && e.FailedOnce() && e.Sealed() {
			out = append(out, e)
		}
	}
	return out
}

// openings returns what an extent was told of producers.
func (r *restorer) openings(ctx context.Context, e *federation.Extent) (map[int64]mark.Producer, error) {
	return r.sealer().carryFrom(ctx, e, make(map[int64]mark.Producer))
}

// knownBack returns what the extents before one knew of producers that came back. Those that
// were opened while they were away were not told.
func (r *restorer) knownBack(ctx context.Context, part *federation.Partition, extent int32) (all map[int64]mark.Producer, err error) {
	states, err := r.sealer().knownAll(ctx, cameBack(part, extent))
	for _, s := range states {
		all = furthest(all, s)
	}
	return all, err
}

// knewBefore returns what extents before one knew of producers, up to its first batch: what
// it was told, and what those know that came back later. The others were known to one of
// these.
func (r *restorer) knewBefore(ctx context.Context, part *federation.Partition, e *federation.Extent) (map[int64]mark.Producer, error) {
	told, err := r.openings(ctx, e)
	if err != nil {
		return nil, err
	}
	back, err := r.knownBack(ctx, part, e.Number)
	return furthest(told, back), err
}

// covers reports whether a batch is at or before a state of its producer, in the same epoch.
func covers(states map[int64]mark.Producer, h *recordbatch.Header) bool {
	p, ok := states[h.ProducerID]
	at := mark.Producer{ID: h.ProducerID, Epoch: h.ProducerEpoch, LastSequence: h.LastSequence()}
	return ok && h.Idempotent() && !h.Control() && p.Epoch == h.ProducerEpoch && !p.Before(&at)
}

// sentAgainFromBefore finds the batches of extents before a suspended one that were sent
// again behind it, and which of their copies are to be hidden: the later one, so that the
// order stays, or the first where the later one is in a head that goes on.
func (r *restorer) sentAgainFromBefore(ctx context.Context, part *federation.Partition, e *federation.Extent) ([]batchPlace, error) {
	knew, err := r.knewBefore(ctx, part, e)
	if err != nil || len(knew) == 0 {
		return nil, err
	}
	again := make(map[batchKey][]batchPlace)
	sealed := make(map[int32]bool)
	for _, l := range r.laterExtents(part, e.Number) {
		sealed[l.Number] = l.Sealed()
		told, err := r.openings(ctx, l)
		if err != nil {
			return nil, err
		}
		if knowsAll(told, knew) {
			continue // it cannot have taken any
		}
		err = r.search(ctx, l, federation.PhysicalRange{From: l.Start, To: endOf(l)}, resentScan, func(h *recordbatch.Header) {
			if covers(knew, h) {
				again[batchOf(h)] = append(again[batchOf(h)], batchPlace{l.Number, rangeOf(h)})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	first, err := r.firstCopies(ctx, part, e.Number, again)
	var hidden []batchPlace
	for k, at := range first {
		open := false
		for _, later := range again[k] {
			open = open || !sealed[later.extent]
		}
		if open {
			hidden = append(hidden, at...)
		} else {
			hidden = append(hidden, again[k]...)
		}
	}
	return hidden, err
}

// firstCopies finds batches in sealed extents before one, from its end back.
func (r *restorer) firstCopies(ctx context.Context, part *federation.Partition, extent int32, wanted map[batchKey][]batchPlace) (map[batchKey][]batchPlace, error) {
	out := make(map[batchKey][]batchPlace)
	left := federation.PhysicalOffset(resentTail)
	for i := len(part.Extents) - 1; i >= 0 && len(wanted) > 0 && left > 0; i-- {
		e := part.Extents[i]
		if e.Number >= extent || !e.Sealed() {
			continue
		}
		from := max(e.Start, e.End-left)
		left -= e.End - from
		err := r.search(ctx, e, federation.PhysicalRange{From: from, To: e.End}, resentTail, func(h *recordbatch.Header) {
			if k := batchOf(h); wanted[k] != nil {
				out[k] = append(out[k], batchPlace{e.Number, rangeOf(h)})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// endsOfOne returns the cluster of an extent and where its log begins and ends.
func (r *restorer) endsOfOne(ctx context.Context, e *federation.Extent) (*upstream.Cluster, upstream.PartitionEnds, error) {
	c, err := r.t.parts.Clusters.Cluster(e.Cluster)
	if err != nil {
		return nil, upstream.PartitionEnds{}, err
	}
	ends := c.Ends(ctx, []upstream.Partition{physical(e.PhysicalAddress)})[0]
	return c, ends, ends.Err
}

// endOf returns where an extent ends. What comes behind the seal is in no extent, and what
// lies before that was appended again.
func endOf(e *federation.Extent) federation.PhysicalOffset {
	if e.Sealed() {
		return e.End
	}
	return math.MaxInt64
}

// search visits the batches in a range of an extent that are not hidden, so many records
// at most.
func (r *restorer) search(ctx context.Context, e *federation.Extent, within federation.PhysicalRange, most federation.PhysicalOffset, visit func(h *recordbatch.Header)) error {
	c, ends, err := r.endsOfOne(ctx, e)
	if err != nil {
		return err
	}
	from := max(within.From, ends.LogStart)
	to := min(within.To, ends.HighWatermark, from+most)
	return c.ReadBatches(ctx, physical(e.PhysicalAddress), from, to, func(h recordbatch.Header, _ []byte) bool {
		if at := federation.PhysicalOffset(h.BaseOffset); at >= from && !e.Hides(at) {
			visit(&h)
		}
		return true
	})
}

// A batchKey names a batch of an idempotent producer.
type batchKey struct {
	producerEpoch

	base int32
}

func batchOf(h *recordbatch.Header) batchKey {
	return batchKey{producerEpoch{h.ProducerID, h.ProducerEpoch}, h.BaseSequence}
}

// hadBefore finds those of an extent's batches that were sent to it again: an extent before
// it has them, that came back first, or that one which came back was told of. Its cluster may
// count as failed still, because of other topics.
func (r *restorer) hadBefore(ctx context.Context, part *federation.Partition, extent int32, batches []recordbatch.Header) (map[batchKey]bool, error) {
	out := make(map[batchKey]bool)
	if len(batches) == 0 {
		return out, nil
	}
	wanted := make(map[batchKey]bool, len(batches))
	for i := range batches {
		wanted[batchOf(&batches[i])] = true
	}
	for _, e := range cameBack(part, extent) {
		// What lies from End to the seal was appended again, or was not since it had been sent
		// again, and then this one may be all there is of it.
		within := federation.PhysicalRange{To: e.End}
		if e.Failed {
			within.To = max(e.End, e.Seal)
		}
		within.From = max(e.Start, within.To-resentTail)
		err := r.search(ctx, e, within, resentTail, func(h *recordbatch.Header) {
			dropped := slices.ContainsFunc(e.Dropped, func(d federation.PhysicalRange) bool { return d.Holds(federation.PhysicalOffset(h.BaseOffset)) })
			if k := batchOf(h); wanted[k] && !dropped {
				out[k] = true
			}
		})
		if err != nil {
			return nil, err
		}
		told, err := r.openings(ctx, e)
		if err != nil {
			return nil, err
		}
		before := make(map[batchKey][]batchPlace)
		for i := range batches {
			if h := &batches[i]; covers(told, h) {
				before[batchOf(h)] = []batchPlace{}
			}
		}
		first, err := r.firstCopies(ctx, part, e.Number, before)
		if err != nil {
			return nil, err
		}
		for k := range first {
			out[k] = true
		}
	}
	return out, nil
}
