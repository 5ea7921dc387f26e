package upstream

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/recordbatch"
)

// ProducerState is what a partition knows of an idempotent producer.
type ProducerState struct {
	ID    int64
	Epoch int16
	// LastSequence is the sequence of its last record; -1 = nothing of this epoch yet.
	LastSequence int32
	// TxnStart is the offset of the first record of its open transaction; -1 = none.
	TxnStart federation.PhysicalOffset
}

// ProducerStates are the producers of a partition, by id.
type ProducerStates map[int64]ProducerState

// Fold takes in the header of the log's next batch. Batches that are in the states
// already may be folded in again, from any of them on, if all that follow are too.
func (s ProducerStates) Fold(h *recordbatch.Header) {
	if !h.Idempotent() {
		return
	}
	p, known := s[h.ProducerID]
	switch {
	case known && h.ProducerEpoch < p.Epoch:
		return
	case !known || h.ProducerEpoch > p.Epoch:
		p = ProducerState{ID: h.ProducerID, Epoch: h.ProducerEpoch, LastSequence: -1, TxnStart: -1}
	}
	switch {
	case h.Control():
		p.TxnStart = -1 // the marker that ends it; it has no sequence
	case h.Transactional() && p.TxnStart < 0:
		p.TxnStart = federation.PhysicalOffset(h.BaseOffset)
		fallthrough
	default:
		p.LastSequence = h.LastSequence()
	}
	s[h.ProducerID] = p
}

// PartitionProducers are the producers that a partition knows.
type PartitionProducers struct {
	States ProducerStates
	Err    error
}

const (
	// tailBytes and tailRecords are how much of a log's end is looked at to see
	// whether a listing can be believed.
	tailBytes   = 64 << 10
	tailRecords = 64
	// listedFor is how long every broker remembers a producer at least. It is far below
	// the default of producer.id.expiration.ms, a day.
	listedFor = time.Hour
	// scansMax bounds the partitions that are scanned at a time.
	scansMax = 4
)

// Producers returns the producers that partitions know, one answer for each
// partition, in their order. It asks the brokers (DescribeProducers, KIP-664);
// that is retried until ctx or AdminTimeout ends.
//
// Some brokers list only open transactions, and old ones (before Kafka 2.8) know
// no such request; the states are then those of the batches in the log, of at most
// the last ScanBytesMax bytes. Whether a listing is complete is seen as follows:
//
//   - A listed producer that never had a transaction shows that its broker lists such
//     producers: all that it listed is believed. This is the usual case, and costs
//     nothing.
//   - Else the end of the log is looked at, about 64 KiB. If it has a batch of the last
//     hour whose producer is not listed, and is not in a second listing either, then
//     the partition is scanned, and with it all others of the broker's that are not
//     believed yet. Should the broker have been right to forget it, the scan brings
//     what it would not have known, which does no harm.
//   - Else it is believed: what the end of the log shows of producers is known.
//
// The producers of marks are among the states. What is written while this runs may be
// in them or not. Errors are as Partition says.
func (c *Cluster) Producers(ctx context.Context, parts []Partition) []PartitionProducers {
	once, where := distinct(parts)
	listed := c.listProducers(ctx, once)
	var doubted []int
	for i, l := range listed {
		if l.err == nil && !l.shown {
			doubted = append(doubted, i)
		}
	}
	scan := c.incomplete(ctx, once, listed, doubted)
	for i, l := range listed {
		if federation.KindOf(l.err) == federation.Unsupported {
			scan = append(scan, i)
		}
	}
	c.scanAll(ctx, once, listed, scan)
	out := make([]PartitionProducers, len(parts))
	for i, at := range where {
		if out[i].Err = listed[at].err; out[i].Err == nil {
			out[i].States = listed[at].states
		}
	}
	return out
}

// A listing is what a broker says of a partition's producers.
type listing struct {
	states ProducerStates
	broker int32
	shown  bool // the broker lists producers without transactions
	err    error
}

func (c *Cluster) listProducers(ctx context.Context, parts []Partition) []listing {
	out := make([]listing, len(parts))
	errs := c.eachLeader(ctx, "list producers", parts, nil, func(ctx context.Context, a *attempt) {
		req := kmsg.NewPtrDescribeProducersRequest()
		for _, asked := range a.ask(nil) {
			t := kmsg.NewDescribeProducersRequestTopic()
			t.Topic = asked.name
			for _, it := range asked.items {
				t.Partitions = append(t.Partitions, int32(it.Partition.Partition))
			}
			req.Topics = append(req.Topics, t)
		}
		resp, ok := send[*kmsg.DescribeProducersResponse](ctx, a, req)
		if !ok {
			return
		}
		shown := false
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if it := a.answered(t.Topic, p.Partition, p.ErrorCode); it != nil {
					var plain bool
					out[it.index].states, plain = listedStates(p.ActiveProducers)
					shown = shown || plain
				}
			}
		}
		for _, it := range a.items {
			out[it.index].broker, out[it.index].shown = a.broker, shown
		}
	})
	for i, err := range errs {
		out[i].err = err
	}
	return out
}

// listedStates converts a listing, and reports whether one of the producers never
// had a transaction: no coordinator has ended one for it then, and none is open.
func listedStates(active []kmsg.DescribeProducersResponseTopicPartitionActiveProducer) (states ProducerStates, plain bool) {
	states = make(ProducerStates, len(active))
	for _, p := range active {
		if p.ProducerEpoch < 0 || p.ProducerEpoch > math.MaxInt16 {
			continue // it has not appended anything
		}
		states[p.ProducerID] = ProducerState{
			ID: p.ProducerID, Epoch: int16(p.ProducerEpoch), LastSequence: max(p.LastSequence, -1),
			TxnStart: max(federation.PhysicalOffset(p.CurrentTxnStartOffset), -1),
		}
		plain = plain || p.CoordinatorEpoch < 0 && p.CurrentTxnStartOffset < 0
	}
	return states, plain
}

// incomplete returns those of the doubted listings that cannot be believed. Those
// that were taken again in the course of it, it replaces.
func (c *Cluster) incomplete(ctx context.Context, parts []Partition, listed []listing, doubted []int) []int {
	if len(doubted) == 0 {
		return nil
	}
	tails, errs := c.recentProducers(ctx, pick(parts, doubted))
	var suspect []int
	recent := make(map[int]map[int64]bool)
	for i, at := range doubted {
		if listed[at].err = errs[i]; errs[i] == nil && !hasAll(listed[at].states, tails[i]) {
			suspect = append(suspect, at)
			recent[at] = tails[i]
		}
	}
	if len(suspect) == 0 {
		return nil
	}
	// A producer may have come up between the listing and the look at the log.
	caught := make(map[int32]bool)
	for i, l := range c.listProducers(ctx, pick(parts, suspect)) {
		at := suspect[i]
		if listed[at] = l; l.err == nil && !hasAll(l.states, recent[at]) {
			caught[l.broker] = true
		}
	}
	var scan []int
	for _, at := range doubted {
		l := &listed[at]
		if l.err == nil && caught[l.broker] && (!l.shown || !hasAll(l.states, recent[at])) {
			scan = append(scan, at)
		}
	}
	return scan
}

func pick(parts []Partition, which []int) []Partition {
	out := make([]Partition, len(which))
	for i, at := range which {
		out[i] = parts[at]
	}
	return out
}

func hasAll(states ProducerStates, ids map[int64]bool) bool {
	for id := range ids {
		if _, ok := states[id]; !ok {
			return false
		}
	}
	return true
}

// recentProducers looks at the ends of logs for the ids of producers that a broker
// must know.
func (c *Cluster) recentProducers(ctx context.Context, parts []Partition) (ids []map[int64]bool, errs []error) {
	ids = make([]map[int64]bool, len(parts))
	from := make([]federation.PhysicalOffset, len(parts))
	end := make([]federation.PhysicalOffset, len(parts))
	read := make([]int, len(parts))
	since := time.Now().Add(-listedFor).UnixMilli()
	take := func(i int, h *recordbatch.Header, batch []byte) bool {
		if h.Idempotent() && h.MaxTimestamp > since {
			ids[i][h.ProducerID] = true
		}
		read[i] += len(batch)
		return read[i] < tailBytes
	}
	errs = c.eachLeader(ctx, "read a partition", parts, nil, func(ctx context.Context, a *attempt) {
		a.listOffsets(ctx, timestampEarliest, func(it *item, o federation.PhysicalOffset) { from[it.index] = o })
		a.listOffsets(ctx, timestampLatest, func(it *item, o federation.PhysicalOffset) { end[it.index] = o })
		for _, it := range a.items {
			i := it.index
			ids[i], read[i] = make(map[int64]bool), 0
			from[i] = max(from[i], end[i]-tailRecords)
		}
		at := func(it *item) federation.PhysicalOffset { return from[it.index] }
		want := func(it *item) bool { return from[it.index] < end[it.index] }
		a.fetch(ctx, tailBytes, readUncommitted, at, want, func(it *item, _ *kmsg.FetchResponse, p *kmsg.FetchResponseTopicPartition) {
			i := it.index
			from[i], _ = visitChunk(p.RecordBatches, from[i], math.MaxInt64, func(h recordbatch.Header, batch []byte) bool { return take(i, &h, batch) })
		})
	})
	for i, p := range parts {
		if from[i] >= end[i] || read[i] >= tailBytes || errs[i] != nil {
			continue
		}
		// The others of the answer used its size up, its first batch is large, or the
		// broker gives out less at a time.
		errs[i] = c.ReadBatches(ctx, p, from[i], end[i], func(h recordbatch.Header, batch []byte) bool { return take(i, &h, batch) })
	}
	return ids, errs
}

// scanAll replaces listings by what the logs say.
func (c *Cluster) scanAll(ctx context.Context, parts []Partition, listed []listing, which []int) {
	turns := make(chan struct{}, scansMax)
	var scans sync.WaitGroup
	for _, at := range which {
		turns <- struct{}{}
		scans.Go(func() {
			defer func() { <-turns }()
			states, err := c.scanProducers(ctx, parts[at])
			// Of a producer whose last batch lies before what was read, its broker knows.
			for id, s := range listed[at].states {
				if _, ok := states[id]; !ok && err == nil {
					states[id] = s
				}
			}
			listed[at].states, listed[at].err = states, err
		})
	}
	scans.Wait()
}
