package upstream

import (
	"context"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/recordbatch"
)

const (
	// scanWindowBytes is what a window of a scan should have, and scanWindowBytesMax
	// the most that it may have.
	scanWindowBytes    = 1 << 20
	scanWindowBytesMax = 4 << 20
	// scanWindowRecords is the first window of a scan.
	scanWindowRecords    = 256
	scanWindowRecordsMax = 1 << 32
	// scanGrowth is how much larger or smaller than the last a window may be.
	scanGrowth = 8
)

// scanProducers makes the states of a partition's producers from the headers of
// the batches in its log, as a broker does when it starts. A log can be read
// forwards only and by offset, but its end matters most: it is read in windows from
// the end backwards, whose sizes follow the size of the records.
func (c *Cluster) scanProducers(ctx context.Context, p Partition) (ProducerStates, error) {
	ends := c.bounds(ctx, p)
	if ends.Err != nil {
		return nil, ends.Err
	}
	all := scanned{states: make(ProducerStates), ended: make(map[int64]bool)}
	left := c.cfg.ScanBytesMax
	span := federation.PhysicalOffset(scanWindowRecords)
	for to := ends.HighWatermark; to > ends.LogStart; {
		if left <= 0 {
			c.cfg.Logger.Warn("log is longer than what is scanned for producers", "cluster", c.Name, "topic", p.Topic, "partition", p.Partition, "bytes", c.cfg.ScanBytesMax)
			break
		}
		from := max(ends.LogStart, to-span)
		w, err := c.scanWindow(ctx, p, from, to)
		if err != nil {
			return nil, err
		}
		left -= w.bytes
		if w.cut && span > 1 {
			span = max(1, span/scanGrowth)
			continue
		}
		all.older(&w)
		// A batch that begins in the window before has been seen whole.
		to = min(from, w.first)
		fits := span * scanWindowBytes / federation.PhysicalOffset(max(w.bytes, 1))
		span = min(max(fits, span/scanGrowth, 1), span*scanGrowth, scanWindowRecordsMax)
	}
	return all.states, nil
}

// bounds returns where a log begins and where its replicated part ends.
func (c *Cluster) bounds(ctx context.Context, p Partition) PartitionEnds {
	var ends PartitionEnds
	errs := c.eachLeader(ctx, "say where a partition ends", []Partition{p}, nil, func(ctx context.Context, a *attempt) {
		a.listOffsets(ctx, timestampEarliest, func(_ *item, o federation.PhysicalOffset) { ends.LogStart = o })
		a.listOffsets(ctx, timestampLatest, func(_ *item, o federation.PhysicalOffset) { ends.HighWatermark = o })
	})
	ends.Err = errs[0]
	return ends
}

// scanned is what a part of a log says of producers.
type scanned struct {
	states ProducerStates
	ended  map[int64]bool // a transaction of theirs ended in it
	first  federation.PhysicalOffset
	bytes  int
	cut    bool // it was not read to its end
}

func (c *Cluster) scanWindow(ctx context.Context, p Partition, from, to federation.PhysicalOffset) (scanned, error) {
	w := scanned{states: make(ProducerStates), ended: make(map[int64]bool), first: to}
	err := c.ReadBatches(ctx, p, from, to, func(h recordbatch.Header, batch []byte) bool {
		w.first = min(w.first, federation.PhysicalOffset(h.BaseOffset))
		w.bytes += len(batch)
		w.states.Fold(&h)
		if h.Idempotent() && h.Control() {
			w.ended[h.ProducerID] = true
		}
		w.cut = w.bytes > scanWindowBytesMax && federation.PhysicalOffset(h.LastOffset()) < to-1
		return !w.cut
	})
	return w, err
}

// older takes in what the part before says.
func (s *scanned) older(w *scanned) {
	for id, old := range w.states {
		state, known := s.states[id]
		switch {
		case !known:
			state = old
		case state.Epoch != old.Epoch:
		default:
			if state.LastSequence < 0 {
				state.LastSequence = old.LastSequence // only a marker came after it
			}
			if state.TxnStart >= 0 && old.TxnStart >= 0 && !s.ended[id] {
				state.TxnStart = old.TxnStart
			}
		}
		s.states[id] = state
	}
	for id := range w.ended {
		s.ended[id] = true
	}
}
