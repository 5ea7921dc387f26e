package router

import (
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
)

// patched is the part of a broker's answer that belongs to an extent, with
// logical offsets and epochs.
type patched struct {
	data         []byte
	next         federation.LogicalOffset // after the last record, or mark; can lie behind from without any data
	txn          bool                     // holds transactional batches
	unknownEpoch federation.PhysicalEpoch // -1, or a physical epoch that the map does not name yet
}

// patch cuts b to the whole batches of the extent from offset from on, and
// rewrites base offset and leader epoch of each in place. A cut last batch and
// what lies behind the end of a sealed extent are left out, and marks and what is
// hidden are passed over. A batch of a leader
// epoch that is newer than the extent's table ends the cut: the map will name it
// in a moment, and until then its epoch is not known.
func patch(e *federation.Extent, from federation.PhysicalOffset, b []byte) patched {
	out := patched{unknownEpoch: -1}
	begin, end := 0, 0
	last := e.LastEpoch().Physical
	for rest := b; ; {
		batch, tail := recordbatch.Next(rest)
		if batch == nil {
			break
		}
		at := len(b) - len(rest)
		rest = tail
		h, ok := recordbatch.ParseHeader(batch)
		if !ok { // magic 0 or 1: one message, or a wrapper whose offset is its last record's
			h.BaseOffset, h.LeaderEpoch = legacyOffset(batch), int32(last)
		}
		if e.Sealed() && federation.PhysicalOffset(h.BaseOffset) >= e.End {
			break
		}
		if federation.PhysicalOffset(h.LastOffset()) < from {
			begin, end = at+len(batch), at+len(batch)
			continue
		}
		hidden := len(e.Hidden) > 0 && e.Hides(federation.PhysicalOffset(h.BaseOffset))
		if hidden || ok && mark.IsMark(h.ProducerID) {
			if end > begin || !e.Sealed() && !beginsExtent(batch) {
				break
			}
			begin, end = at+len(batch), at+len(batch)
			out.next = e.Logical(federation.PhysicalOffset(h.LastOffset()) + 1)
			continue
		}
		if federation.PhysicalEpoch(h.LeaderEpoch) > last {
			out.unknownEpoch = federation.PhysicalEpoch(h.LeaderEpoch)
			break
		}
		base := e.At(federation.PhysicalOffset(h.BaseOffset))
		recordbatch.PatchOffsetAndEpoch(batch, base, e.Epoch(federation.PhysicalEpoch(h.LeaderEpoch)))
		out.txn = out.txn || h.Transactional()
		out.next = base + federation.LogicalOffset(h.LastOffsetDelta) + 1
		end = at + len(batch)
	}
	out.data = b[begin:end]
	return out
}

// beginsExtent reports whether a mark is a primer or an opening. In a head that is one
// of a move that was given up, and came late: no record, and the end of nothing.
func beginsExtent(batch []byte) bool {
	kind, _, _, err := mark.Parse(batch)
	return err == nil && kind != mark.KindSeal
}

func legacyOffset(b []byte) int64 {
	var v int64
	for _, c := range b[:8] {
		v = v<<8 | int64(c)
	}
	return v
}

// cutBatches returns the whole, patched batches of b from the one that holds at
// on, at most maxBytes, but at least one if first is set.
func cutBatches(b []byte, at federation.LogicalOffset, maxBytes int, first bool) (cut []byte, next federation.LogicalOffset) {
	begin, end := -1, 0
	for rest := b; ; {
		batch, tail := recordbatch.Next(rest)
		if batch == nil {
			break
		}
		pos := len(b) - len(rest)
		rest = tail
		h, ok := recordbatch.ParseHeader(batch)
		if !ok {
			h.BaseOffset = legacyOffset(batch)
		}
		if federation.LogicalOffset(h.LastOffset()) < at {
			continue
		}
		if begin < 0 {
			begin, end = pos, pos
		}
		if len(batch)+end-begin > maxBytes && (end > begin || !first) {
			break
		}
		end = pos + len(batch)
		next = federation.LogicalOffset(h.LastOffset()) + 1
	}
	if begin < 0 {
		return nil, at
	}
	return b[begin:end], next
}
