package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/recordbatch"
)

const (
	// readChunkBytes is how much ReadBatches asks for at a time.
	readChunkBytes = 1 << 20
	// readWaitMax is how long a broker may wait for bytes: those of a tiered topic come
	// from slow storage.
	readWaitMax = 500 * time.Millisecond
	// emptyAnswersMax is how many empty answers mean that the rest is a hole.
	emptyAnswersMax = 2
)

// ReadBatches reads the batches of a partition that have an offset in [from, to),
// in their order, and calls visit with each until it returns false. The first may
// begin below from and the last may end above to. Batches of a magic below 2 are
// passed over; so are offsets that the log does not have any more. The batch must
// not be changed; one that is kept keeps the chunk around it in memory.
//
// Only what is replicated is read: if to is above the high watermark, it is waited
// for. Each chunk of about 1 MiB is retried until ctx or AdminTimeout ends. Errors
// are of kind OffsetOutOfRange if from is above the end of the log,
// NotEnoughReplicas if to stays above the high watermark, and as Partition says.
func (c *Cluster) ReadBatches(ctx context.Context, p Partition, from, to federation.PhysicalOffset, visit func(h recordbatch.Header, batch []byte) bool) error {
	size := readChunkBytes
	for empty := 0; from < to; {
		chunk, err := c.readChunk(ctx, p, from, to, size)
		if federation.KindOf(err) == federation.OffsetOutOfRange {
			start, e := c.logStart(ctx, p)
			if e != nil {
				return e
			}
			if start <= from {
				return err
			}
			from = start
			continue
		}
		if err != nil {
			return err
		}
		next, more := visitChunk(chunk, from, to, visit)
		switch {
		case !more:
			return nil
		case next > from:
			from, empty, size = next, 0, readChunkBytes
		case len(chunk) > 0:
			// Brokers since KIP-74 answer the first batch whole; others cut it off.
			if size *= 2; size > c.cfg.ResponseBytesMax {
				return federation.Errorf(federation.CorruptBatch, "physical cluster %q has a batch above %d bytes", c.Name, size/2)
			}
		default:
			if empty++; empty == emptyAnswersMax {
				return nil
			}
		}
	}
	return nil
}

// visitChunk returns the offset after the chunk's last whole batch, at least from,
// and false if nothing is to follow.
func visitChunk(chunk []byte, from, to federation.PhysicalOffset, visit func(recordbatch.Header, []byte) bool) (next federation.PhysicalOffset, more bool) {
	for next = from; ; {
		batch, rest := recordbatch.Next(chunk)
		if batch == nil {
			return next, true
		}
		chunk = rest
		h, ok := recordbatch.ParseHeader(batch)
		if !ok {
			next = max(next, federation.PhysicalOffset(binary.BigEndian.Uint64(batch))+1)
			continue
		}
		switch last := federation.PhysicalOffset(h.LastOffset()); {
		case federation.PhysicalOffset(h.BaseOffset) >= to:
			return to, false
		case last >= from:
			if !visit(h, batch) {
				return next, false
			}
			next = max(next, last+1)
		}
	}
}

// readChunk fetches from an offset on. It waits for a high watermark that is
// between from and to, so an empty answer means a hole, or that the broker was slow.
func (c *Cluster) readChunk(ctx context.Context, p Partition, from, to federation.PhysicalOffset, size int) (chunk []byte, err error) {
	errs := c.eachLeader(ctx, "read a partition", []Partition{p}, nil, func(ctx context.Context, a *attempt) {
		at := func(*item) federation.PhysicalOffset { return from }
		a.fetch(ctx, size, readUncommitted, at, nil, func(it *item, _ *kmsg.FetchResponse, p *kmsg.FetchResponseTopicPartition) {
			if chunk = p.RecordBatches; len(chunk) == 0 && federation.PhysicalOffset(p.HighWatermark) < to {
				it.err = kerr.OffsetNotAvailable
			}
		})
	})
	return chunk, errs[0]
}

func (c *Cluster) logStart(ctx context.Context, p Partition) (start federation.PhysicalOffset, err error) {
	errs := c.eachLeader(ctx, "say where a partition begins", []Partition{p}, nil, func(ctx context.Context, a *attempt) {
		a.listOffsets(ctx, timestampEarliest, func(_ *item, o federation.PhysicalOffset) { start = o })
	})
	return start, errs[0]
}

// Isolation levels of a Fetch.
const (
	readUncommitted int8 = iota
	readCommitted
)

// fetch fetches about size bytes of each partition that want.
func (a *attempt) fetch(ctx context.Context, size int, isolation int8, from func(*item) federation.PhysicalOffset, want func(*item) bool, got func(*item, *kmsg.FetchResponse, *kmsg.FetchResponseTopicPartition)) {
	req := &fetchByName{kmsg.NewPtrFetchRequest()}
	req.ReplicaID, req.SessionEpoch, req.IsolationLevel = -1, -1, isolation
	req.MaxBytes, req.MinBytes, req.MaxWaitMillis = 0, 1, int32(min(readWaitMax, a.c.attemptTimeout()/2).Milliseconds())
	asked := a.ask(want)
	for _, topic := range asked {
		t := kmsg.NewFetchRequestTopic()
		t.Topic = topic.name
		for _, it := range topic.items {
			p := kmsg.NewFetchRequestTopicPartition()
			p.Partition, p.CurrentLeaderEpoch, p.LastFetchedEpoch = int32(it.Partition.Partition), int32(it.epoch), -1
			p.FetchOffset, p.PartitionMaxBytes = int64(from(it)), int32(size)
			req.MaxBytes += int32(size)
			t.Partitions = append(t.Partitions, p)
		}
		req.Topics = append(req.Topics, t)
	}
	if len(asked) == 0 {
		return
	}
	resp, ok := send[*kmsg.FetchResponse](ctx, a, req)
	if !ok {
		return
	}
	for _, t := range resp.Topics {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			code := p.ErrorCode
			if code == 0 {
				code = resp.ErrorCode
			}
			switch it := a.answered(t.Topic, p.Partition, code); {
			case it == nil:
			case !recordbatch.AllIntact(p.RecordBatches): // whoever appends them elsewhere gives them another CRC
				it.err = errNotIntact // as if the answer was lost
			default:
				got(it, resp, p)
			}
		}
	}
}

var errNotIntact = errors.New("the broker's answer has a record batch whose CRC is not that of its bytes")

// fetchByName is a Fetch request that stays at the versions with topic names.
type fetchByName struct{ *kmsg.FetchRequest }

func (*fetchByName) MaxVersion() int16 { return 12 }
