package router

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/recordbatch"
)

// Clusters look records up by their times, and know nothing of extents: marks of the
// controller's, which open and close an extent, and what is hidden, have times, too. Where
// a cluster finds one of these, the records behind it are looked through.

// listTime finds the first record at or after a time, oldest extent first:
// clocks of clusters differ, so a later extent can begin with an earlier time. With
// committed, one that is not below the last stable offset is none, as at a broker.
func (r *Router) listTime(ctx context.Context, part *federation.Partition, timestamp int64, committed bool) (OffsetAnswer, error) {
	extents, err := r.listable(part)
	if err != nil {
		return OffsetAnswer{}, err
	}
	for _, e := range extents {
		l, err := r.listPhysical(ctx, e, timestamp, committed)
		if err != nil {
			return OffsetAnswer{}, err
		}
		opens := l.offset < e.Start && !e.Copies.Holds(l.offset) // the primer, or an opening
		if l.offset >= 0 && (opens || e.Hides(l.offset)) {
			if l, err = r.searchTime(ctx, e, l, timestamp, committed); err != nil {
				return OffsetAnswer{}, err
			}
		}
		if l.offset >= 0 && e.Holds(l.offset) {
			return OffsetAnswer{Offset: e.Logical(l.offset), TimestampMs: l.timestamp, Epoch: e.Epoch(l.epoch)}, nil
		}
	}
	return OffsetAnswer{Offset: -1, TimestampMs: -1, Epoch: federation.NoEpoch}, nil
}

// searchChunkBytes is how much is read at first of what is looked through: mostly the first
// batch is as new as what was found before it.
const searchChunkBytes = 64 << 10

// searchTime looks from what a cluster has found, which is no record of the extent, for the
// first record behind it at or after a time; offset -1 if there is none. Beyond
// TimeSearchBytesMax, what was not looked at stands in: all before it is older.
func (r *Router) searchTime(ctx context.Context, e *federation.Extent, found listed, timestamp int64, committed bool) (listed, error) {
	at := e.PastHidden(max(found.offset, e.Start))
	if e.Copies.Len() > 0 && found.offset < e.Copies.From {
		at = e.Copies.From
	}
	hit := listed{offset: -1}
	next, all, err := r.lookThrough(ctx, e, at, timestamp, committed, func(l listed) bool {
		hit = l
		return false
	})
	if err != nil || all || hit.offset >= 0 {
		return hit, err
	}
	found.offset = next
	return found, nil
}

// searchNewest looks through an extent for the first of its newest records; false if there
// is more than TimeSearchBytesMax to look through.
func (r *Router) searchNewest(ctx context.Context, e *federation.Extent, committed bool) (newest listed, all bool, err error) {
	newest.offset = -1
	at := e.Start
	if e.Copies.Len() > 0 {
		at = e.Copies.From
	}
	_, all, err = r.lookThrough(ctx, e, at, 0, committed, func(l listed) bool {
		if newest.offset < 0 || l.timestamp > newest.timestamp {
			newest = l
		}
		return true
	})
	return newest, all, err
}

// lookThrough calls found with the records of an extent from an offset on that are at or
// after a time, as long as it returns true. It returns where it ended, and whether there is
// nothing more: it looks through TimeSearchBytesMax at most, and not at what it cannot read.
func (r *Router) lookThrough(ctx context.Context, e *federation.Extent, at federation.PhysicalOffset, timestamp int64, committed bool, found func(listed) bool) (next federation.PhysicalOffset, all bool, err error) {
	last, err := r.listPhysical(ctx, e, TimestampLatest, committed)
	if err != nil {
		return at, false, err
	}
	end := last.offset
	if e.Sealed() {
		end = min(end, e.End)
	}
	l := look{e: e, reader: recordbatch.NewReader(int(r.cfg.TimeSearchBytesMax)), timestamp: timestamp, found: found}
	left := r.cfg.TimeSearchBytesMax
	for chunk := min(left, searchChunkBytes); at < end; chunk = min(left, 4*chunk) {
		if chunk <= 0 {
			return at, false, nil
		}
		read, err := r.readAt(ctx, e, at, chunk)
		if err != nil {
			return at, false, err
		}
		left -= max(chunk, int32(len(read.RecordBatches)))
		next, ended := l.at(read.RecordBatches, at)
		if ended || next == at {
			return next, false, nil
		}
		at = e.PastHidden(next)
	}
	return at, true, nil
}

// A look goes through batches.
type look struct {
	e         *federation.Extent
	reader    *recordbatch.Reader
	timestamp int64
	found     func(listed) bool
}

// at looks from an offset on, and returns how far it came; ended if it is not to go on.
func (l *look) at(batches []byte, at federation.PhysicalOffset) (next federation.PhysicalOffset, ended bool) {
	for next = at; ; {
		batch, rest := recordbatch.Next(batches)
		if batch == nil {
			return next, false
		}
		batches = rest
		h, v2 := recordbatch.ParseHeader(batch)
		if !v2 || h.MaxTimestamp >= l.timestamp && !h.Control() && !l.batch(batch, at) {
			return next, true
		}
		next = max(next, federation.PhysicalOffset(h.LastOffset())+1)
	}
}

// batch looks at the records of a batch; false ends it.
func (l *look) batch(batch []byte, at federation.PhysicalOffset) bool {
	if l.reader.Reset(batch) != nil {
		return false
	}
	epoch := federation.PhysicalEpoch(l.reader.Header().LeaderEpoch)
	var rec recordbatch.Record
	for {
		more, err := l.reader.Next(&rec)
		if !more {
			return err == nil
		}
		p := federation.PhysicalOffset(rec.Offset)
		if p >= at && rec.TimestampMs >= l.timestamp && l.e.Holds(p) && !l.e.Hides(p) && !l.found(listed{p, rec.TimestampMs, epoch}) {
			return false
		}
	}
}

// listMax finds the record with the largest timestamp over all extents; of
// equal ones the first extent's.
func (r *Router) listMax(ctx context.Context, part *federation.Partition, committed bool) (OffsetAnswer, error) {
	best := OffsetAnswer{Offset: -1, TimestampMs: -1, Epoch: federation.NoEpoch}
	extents, err := r.listable(part)
	if err != nil {
		return best, err
	}
	for _, e := range extents {
		l, err := r.listPhysical(ctx, e, TimestampMax, committed)
		if err != nil {
			return OffsetAnswer{}, err
		}
		if l.offset < 0 {
			continue
		}
		if !e.Holds(l.offset) || e.Hides(l.offset) {
			if l, err = r.newestWithin(ctx, e, committed); err != nil {
				return OffsetAnswer{}, err
			}
			if l.offset < 0 {
				continue
			}
		}
		if l.timestamp > best.TimestampMs { // of those with the same time the first, as within a log
			best = OffsetAnswer{Offset: e.Logical(l.offset), TimestampMs: l.timestamp, Epoch: e.Epoch(l.epoch)}
		}
	}
	return best, nil
}

// newerMax bounds the records that newestWithin goes through.
const newerMax = 32

// newestWithin is for an extent whose newest record is a mark, or hidden: what closes it is
// newer than all records before it. It begins with the last record, and looks for one that
// is newer, and for a newer one than that. Where all are older than what opens the extent,
// it looks through them, or else the last one stands in. Offset -1 if the extent holds none
// any more.
func (r *Router) newestWithin(ctx context.Context, e *federation.Extent, committed bool) (listed, error) {
	best, err := r.lastWithin(ctx, e)
	if err != nil || best.offset < 0 {
		return best, err
	}
	at := best.timestamp // of which there may be an earlier one
	for range newerMax {
		l, err := r.listPhysical(ctx, e, at, committed)
		if err != nil {
			return best, err
		}
		if l.offset >= 0 && l.offset < e.Start && !e.Copies.Holds(l.offset) {
			if newest, all, err := r.searchNewest(ctx, e, committed); err != nil || all {
				return newest, err
			}
			break
		}
		if l.offset < 0 || !e.Holds(l.offset) || e.Hides(l.offset) {
			break
		}
		best, at = l, l.timestamp+1
	}
	return best, nil
}

// lastWithin returns the last record of an extent with its batch's largest
// timestamp; offset -1 if the extent holds none any more.
func (r *Router) lastWithin(ctx context.Context, e *federation.Extent) (listed, error) {
	end := e.End
	if !e.Sealed() {
		var err error
		if end, err = r.physicalOffset(ctx, e, TimestampLatest); err != nil {
			return listed{}, err
		}
	}
	for n := len(e.Hidden); n > 0 && e.Hidden[n-1].To >= end; n-- {
		end = e.Hidden[n-1].From
	}
	if end <= e.Start {
		if end = e.Copies.To; e.Copies.Len() == 0 {
			return listed{offset: -1}, nil
		}
	}
	h, ok, err := r.lastBatch(ctx, e, end)
	if err != nil || !ok {
		return listed{offset: -1}, err
	}
	return listed{federation.PhysicalOffset(h.LastOffset()), h.MaxTimestamp, federation.PhysicalEpoch(h.LeaderEpoch)}, nil
}

// lastBatch reads the header of the last batch below the end of an extent.
func (r *Router) lastBatch(ctx context.Context, e *federation.Extent, end federation.PhysicalOffset) (last recordbatch.Header, ok bool, err error) {
	read, err := r.readAt(ctx, e, end-1, 1)
	if err != nil {
		return last, false, err
	}
	for rest := read.RecordBatches; ; {
		batch, tail := recordbatch.Next(rest)
		if batch == nil {
			return last, ok, nil
		}
		rest = tail
		if h, v2 := recordbatch.ParseHeader(batch); v2 && federation.PhysicalOffset(h.BaseOffset) < end {
			last, ok = h, true
		}
	}
}

// readAt reads about so many bytes of an extent's log from an offset on, one batch at least
// if there is one.
func (r *Router) readAt(ctx context.Context, e *federation.Extent, at federation.PhysicalOffset, bytes int32) (*kmsg.FetchResponseTopicPartition, error) {
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = int32(e.PhysicalAddress.Partition), int64(at), bytes
	p.CurrentLeaderEpoch, p.LastFetchedEpoch = -1, -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.Partitions = e.PhysicalAddress.Topic, append(t.Partitions, p)
	req := &fetchByName{kmsg.NewPtrFetchRequest()}
	req.MaxBytes, req.SessionEpoch = bytes, -1
	req.Topics = append(req.Topics, t)
	resp, err := ask(ctx, r, e, req, func(resp *kmsg.FetchResponse) (int16, bool) {
		if len(resp.Topics) == 0 || len(resp.Topics[0].Partitions) == 0 {
			return 0, false
		}
		return resp.Topics[0].Partitions[0].ErrorCode, true
	})
	if err != nil {
		return nil, err
	}
	return &resp.Topics[0].Partitions[0], nil
}
