package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

const (
	// copyBatchBytes is about how large the batches are that small ones are put into.
	copyBatchBytes = 256 << 10
	// copyWholeBytes is from which size on a batch is passed on as it is, if it can be.
	copyWholeBytes = 16 << 10
	// copyRecordsBytesMax bounds what a batch may decompress to.
	copyRecordsBytesMax = 256 << 20
)

// A headCopy is how far one head is copied. Only one goroutine uses it at a time.
//
// The copies are those of an idempotent producer, and only one batch is under way at a
// time: one that is sent again, since its answer was lost, is not appended twice.
type headCopy struct {
	*copier

	head    primedHead
	sources []planner.CopySource
	source  int                       // that is being read
	at      federation.PhysicalOffset // what to read next in it
	began   time.Time
	reader  *recordbatch.Reader

	builder    recordbatch.Builder
	codec      int16
	compressor recordbatch.Compressor
	unsent     []byte // a batch that is not known to be in the target
	unsentSize int32  // its records

	next     federation.PhysicalOffset // of the next copy
	sequence int32
	records  int64

	end    federation.PhysicalOffset // of the old extent; set at the end
	copies federation.PhysicalRange
}

// left returns how many offsets are to be read until the head's log is at to.
func (h *headCopy) left(to federation.PhysicalOffset) (n int64) {
	for i, s := range h.sources[h.source:] {
		r := s.PhysicalRange
		if h.source+i == len(h.sources)-1 {
			r.To = to
		}
		if i == 0 {
			r.From = max(r.From, h.at)
		}
		n += max(0, r.Len())
	}
	return n
}

// advance copies what lies in the older extents, and in the head below to.
func (h *headCopy) advance(ctx context.Context, to federation.PhysicalOffset, paced bool, p *progress) error {
	if h.began.IsZero() {
		h.began, h.reader = time.Now(), recordbatch.NewReader(copyRecordsBytesMax)
		h.builder.Reset(nil)
	}
	for {
		s := h.sources[h.source]
		last := h.source == len(h.sources)-1
		if last {
			s.To = to
		}
		h.at = max(h.at, s.From)
		c, err := h.parts.Clusters.Cluster(s.Cluster)
		if err != nil {
			return err
		}
		next, err := c.ReadCommitted(ctx, physical(s.PhysicalAddress), h.at, s.To, func(head recordbatch.Header, batch []byte) error {
			if err := h.op.cancelled(); err != nil {
				return err
			}
			if paced {
				h.pace.wait(ctx, len(batch))
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			before := h.at
			if err := h.add(ctx, s, head, batch); err != nil {
				return err
			}
			p.add(int64(h.at - before))
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: copy of %s: %w", h.head.TopicPartition, s.PhysicalAddress, err)
		}
		h.at = max(h.at, next)
		if last {
			break
		}
		h.source, h.at = h.source+1, 0
	}
	if err := h.flush(ctx); err != nil {
		return fmt.Errorf("%s: copy to %s: %w", h.head.TopicPartition, h.head.To, err)
	}
	return nil
}

// add takes a batch, and moves h.at behind it.
func (h *headCopy) add(ctx context.Context, s planner.CopySource, head recordbatch.Header, batch []byte) error {
	behind := min(federation.PhysicalOffset(head.LastOffset())+1, s.To)
	if mark.IsMark(head.ProducerID) || head.Count == 0 {
		h.at = behind
		return nil
	}
	if h.codec != head.Codec() {
		if err := h.flush(ctx); err != nil {
			return err
		}
		h.codec = head.Codec()
	}
	whole, err := h.fits(s, head, batch)
	if err != nil {
		return err
	}
	if whole {
		if err := h.flush(ctx); err != nil {
			return err
		}
		recordbatch.Resend(batch, h.producerAt())
		h.unsent, h.unsentSize, h.at = batch, head.Count, behind
		return h.deliver(ctx)
	}
	// All of its records or none: it is read again after an error.
	if h.unsent != nil || h.builder.Count() > 0 && h.builder.Len() >= copyBatchBytes {
		if err := h.flush(ctx); err != nil {
			return err
		}
	}
	return h.addRecords(ctx, s, batch, behind)
}

// fits reports whether a batch can be passed on as it is.
func (h *headCopy) fits(s planner.CopySource, head recordbatch.Header, batch []byte) (bool, error) {
	first, last := federation.PhysicalOffset(head.BaseOffset), federation.PhysicalOffset(head.LastOffset())
	if !head.Whole() || len(batch) < copyWholeBytes || len(batch) > h.batchMax || first < h.at || last >= s.To || len(s.Hidden) > 0 {
		return false, nil
	}
	if err := h.reader.Reset(batch); err != nil {
		return false, err
	}
	var r recordbatch.Record
	for {
		more, err := h.reader.Next(&r)
		if err != nil || !more {
			return err == nil, err
		}
		if r.Key == nil {
			return false, nil
		}
	}
}

// addRecords puts the records of a batch that are part of the partition into batches of
// its own. Records without a key are none of a compacted topic: brokers refuse them, and
// compaction takes those away that were there before.
func (h *headCopy) addRecords(ctx context.Context, s planner.CopySource, batch []byte, behind federation.PhysicalOffset) error {
	if err := h.reader.Reset(batch); err != nil {
		return err
	}
	var r recordbatch.Record
	for {
		more, err := h.reader.Next(&r)
		if err != nil {
			return err
		}
		if !more {
			h.at = behind
			return nil
		}
		at := federation.PhysicalOffset(r.Offset)
		if at < h.at || at >= s.To || r.Key == nil || slices.ContainsFunc(s.Hidden, func(x federation.PhysicalRange) bool { return x.Holds(at) }) {
			continue
		}
		size := len(r.Key) + len(r.Value) + recordbatch.HeaderSize
		for _, x := range r.Headers {
			size += len(x.Key) + len(x.Value) + 20
		}
		if h.builder.Count() > 0 && h.builder.Len()+size > min(copyBatchBytes, h.batchMax) {
			if err := h.flush(ctx); err != nil {
				return err
			}
		}
		h.builder.Add(&r)
		h.at = at + 1 // so far it is taken, whatever happens next
	}
}

func (h *headCopy) producerAt() recordbatch.Producer {
	return recordbatch.Producer{ID: h.producer, Epoch: 0, Sequence: h.sequence}
}

// flush delivers what was taken.
func (h *headCopy) flush(ctx context.Context) error {
	if h.unsent == nil {
		if h.builder.Count() == 0 {
			return nil
		}
		batch, err := h.compressor.Compress(h.builder.Finish(h.producerAt()), h.codec)
		if err != nil {
			return err
		}
		h.unsent, h.unsentSize = batch, h.builder.Count()
	}
	return h.deliver(ctx)
}

// deliver appends the batch that is not known to be in the target.
func (h *headCopy) deliver(ctx context.Context) error {
	c, err := h.parts.Clusters.Cluster(h.head.To.Cluster)
	if err != nil {
		return err
	}
	got := c.AppendMarks(ctx, []upstream.MarkAppend{{Partition: physical(h.head.To), Batch: h.unsent}})[0]
	switch federation.KindOf(got.Err) { //nolint:exhaustive // the others say enough
	case federation.DuplicateSequence, federation.OutOfOrderSequence, federation.UnknownProducer, federation.ProducerFenced:
		return copyAgainError{got.Err}
	case federation.InvalidTimestamp:
		return federation.Errorf(federation.InvalidTimestamp, "physical cluster %q refuses a record for its timestamp: set message.timestamp.before.max.ms and message.timestamp.after.max.ms of the topic so that it takes all that the topic has", h.head.To.Cluster).WithCause(got.Err)
	case federation.RecordTooLarge:
		return federation.Errorf(federation.RecordTooLarge, "physical cluster %q refuses a batch of %d bytes: the topic has records that are larger than its max.message.bytes now allows; raise it with `braid topic config`", h.head.To.Cluster, len(h.unsent)).WithCause(got.Err)
	}
	if got.Err != nil {
		return got.Err
	}
	if got.Offset != h.next {
		return copyAgainError{federation.Errorf(federation.Conflict, "%s: a copy lies at %d, not at %d: somebody else has written there", h.head.To, got.Offset, h.next)}
	}
	h.next += federation.PhysicalOffset(h.unsentSize)
	h.sequence = recordbatch.AddSequence(h.sequence, h.unsentSize)
	h.records += int64(h.unsentSize)
	h.unsent, h.unsentSize = nil, 0
	h.builder.Reset(h.builder.Bytes())
	return nil
}
