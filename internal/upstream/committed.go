package upstream

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/recordbatch"
)

const (
	// committedEmptyMax is how many empty answers in a row, each after a wait of the
	// broker, mean that the rest is a hole. Answers that a quota emptied do not count.
	committedEmptyMax = 5
	// committedEmptyPause is the least time between two of them.
	committedEmptyPause = 100 * time.Millisecond
)

// ReadCommitted reads the batches of records of a partition that have an offset in
// [from, to), in their order, for somebody who takes them elsewhere: what was not
// committed and control batches are left out, and nothing else is. visit is called
// with each batch; its error ends the reading and is returned. The first batch may begin
// below from, and the last may end above to. visit may change the batch.
//
// It returns the offset behind the last batch, or to at the end. Only what is
// replicated and decided is read: if to is above that, it is waited for. Each chunk of
// about 1 MiB is retried until ctx or AdminTimeout ends. Errors are as ReadBatches
// says, and of kind Unsupported if the partition has batches of a magic below 2.
func (c *Cluster) ReadCommitted(ctx context.Context, p Partition, from, to federation.PhysicalOffset, visit func(h recordbatch.Header, batch []byte) error) (federation.PhysicalOffset, error) {
	size := readChunkBytes
	for empty := 0; from < to; {
		chunk, err := c.committedChunk(ctx, p, from, to, size)
		if federation.KindOf(err) == federation.OffsetOutOfRange {
			start, e := c.logStart(ctx, p)
			if e != nil {
				return from, e
			}
			if start <= from {
				return from, err
			}
			from = min(start, to)
			continue
		}
		if err != nil {
			return from, err
		}
		next, err := chunk.visit(c, from, to, visit)
		if err != nil {
			return from, err
		}
		switch {
		case next > from:
			from, empty, size = next, 0, readChunkBytes
		case len(chunk.records) > 0:
			// Brokers since KIP-74 answer the first batch whole; others cut it off.
			if size *= 2; size > c.cfg.ResponseBytesMax {
				return from, federation.Errorf(federation.CorruptBatch, "physical cluster %q has a batch above %d bytes", c.Name, size/2)
			}
		default:
			if !chunk.throttled {
				empty++
			}
			if empty == committedEmptyMax {
				return to, nil
			}
			if !pause(ctx, committedEmptyPause) {
				return from, c.unavailable(ctx.Err())
			}
		}
	}
	return from, nil
}

// A committedChunk is an answer to a Fetch that reads what is committed.
type committedChunk struct {
	records   []byte
	aborted   []kmsg.FetchResponseTopicPartitionAbortedTransaction
	throttled bool // it may be empty for that
}

func (c *Cluster) committedChunk(ctx context.Context, p Partition, from, to federation.PhysicalOffset, size int) (chunk committedChunk, err error) {
	errs := c.eachLeader(ctx, "read a partition", []Partition{p}, nil, func(ctx context.Context, a *attempt) {
		at := func(*item) federation.PhysicalOffset { return from }
		a.fetch(ctx, size, readCommitted, at, nil, func(it *item, resp *kmsg.FetchResponse, p *kmsg.FetchResponseTopicPartition) {
			chunk = committedChunk{records: p.RecordBatches, aborted: p.AbortedTransactions, throttled: resp.ThrottleMillis > 0}
			end := federation.PhysicalOffset(p.HighWatermark)
			if p.LastStableOffset >= 0 {
				end = min(end, federation.PhysicalOffset(p.LastStableOffset))
			}
			if len(chunk.records) == 0 && end < to {
				it.err = kerr.OffsetNotAvailable
			}
		})
	})
	return chunk, errs[0]
}

// visit calls visit with the chunk's batches that are committed, and returns the
// offset behind the last whole one, at most to.
func (k *committedChunk) visit(c *Cluster, from, to federation.PhysicalOffset, visit func(recordbatch.Header, []byte) error) (federation.PhysicalOffset, error) {
	next, rest := from, k.records
	aborting := make(map[int64]bool)
	for {
		batch, tail := recordbatch.Next(rest)
		if batch == nil {
			return next, nil
		}
		rest = tail
		h, ok := recordbatch.ParseHeader(batch)
		if !ok {
			return next, federation.Errorf(federation.Unsupported, "physical cluster %q has records in the format of Kafka before 0.11 (magic %d), which cannot be copied", c.Name, recordbatch.Magic(batch))
		}
		for _, t := range k.aborted {
			if t.FirstOffset <= h.LastOffset() && h.Transactional() && t.ProducerID == h.ProducerID && !aborting[t.ProducerID] && t.FirstOffset >= 0 {
				aborting[t.ProducerID] = true
			}
		}
		last := federation.PhysicalOffset(h.LastOffset())
		switch {
		case federation.PhysicalOffset(h.BaseOffset) >= to:
			return to, nil
		case last < from:
			continue
		case h.Control():
			k.ended(h)
			delete(aborting, h.ProducerID)
		case h.Transactional() && aborting[h.ProducerID]:
		default:
			if err := visit(h, batch); err != nil {
				return next, err
			}
		}
		next = min(max(next, last+1), to)
	}
}

// ended forgets the aborted transactions of a producer that end at a marker.
func (k *committedChunk) ended(marker recordbatch.Header) {
	for i := range k.aborted {
		if t := &k.aborted[i]; t.ProducerID == marker.ProducerID && t.FirstOffset <= marker.BaseOffset {
			t.FirstOffset = -1
		}
	}
}
