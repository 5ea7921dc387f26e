package router

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/upstream"
)

// An Inspector answers questions of admin tools. Its answers are those of one moment, and
// bind nobody.
type Inspector interface {
	// Producers returns the idempotent producers that partitions know, one answer for each,
	// in their order.
	Producers(ctx context.Context, tps []federation.TopicPartition) []Producers
	// Sizes returns how many bytes partitions take, once and not by replica; one for each, in
	// their order. What lies on a cluster that does not answer does not count.
	Sizes(ctx context.Context, tps []federation.TopicPartition) []int64
}

// Producers are the producers that a logical partition knows, by id.
type Producers struct {
	Active []ActiveProducer
	Err    error // *federation.Error
}

// An ActiveProducer is where a producer stands in a partition.
type ActiveProducer struct {
	ID            int64
	Epoch         int16
	LastSequence  int32                    // -1 = nothing of this epoch yet
	LastTimestamp int64                    // of its last batch, in ms since 1970; -1 if not known
	TxnStart      federation.LogicalOffset // of its open transaction; -1 = none
}

// Producers implements Inspector: what the head's leader knows, and behind it what was
// carried over from the extents before (a producer that has sent nothing since the move).
func (s *session) Producers(ctx context.Context, tps []federation.TopicPartition) []Producers {
	out := make([]Producers, len(tps))
	eachQuery(len(tps), func(i int) {
		out[i].Err = s.r.settled(ctx, tps[i], func(ctx context.Context, m *federation.Map, part *federation.Partition) (err error) {
			out[i].Active, err = s.r.activeProducers(ctx, m, part)
			return clientError(part, err)
		})
	})
	return out
}

func (r *Router) activeProducers(ctx context.Context, m *federation.Map, part *federation.Partition) ([]ActiveProducer, error) {
	head := part.Head()
	cluster, err := r.cluster(head)
	if err != nil {
		return nil, err
	}
	at := upstream.Partition{Topic: head.PhysicalAddress.Topic, Partition: head.PhysicalAddress.Partition}
	known := cluster.Producers(ctx, []upstream.Partition{at})[0]
	if known.Err != nil {
		return nil, known.Err
	}
	active := make(map[int64]ActiveProducer)
	if head.Opening > 0 {
		key := openingKey{m.Topics[part.Topic].ID, part.Number}
		o, err := r.openings.load(ctx, key, head, r.readOpening)
		if err != nil {
			return nil, err
		}
		for id, p := range o.producers {
			active[id] = ActiveProducer{ID: id, Epoch: p.Epoch, LastSequence: p.LastSequence, LastTimestamp: -1, TxnStart: -1}
		}
	}
	times := r.producerTimes(ctx, head)
	for id, p := range known.States {
		if mark.IsMark(id) {
			continue
		}
		a := ActiveProducer{ID: id, Epoch: p.Epoch, LastSequence: p.LastSequence, LastTimestamp: -1, TxnStart: -1}
		if p.TxnStart >= 0 {
			a.TxnStart = head.Logical(p.TxnStart)
		}
		if t, ok := times[id]; ok {
			a.LastTimestamp = t
		}
		active[id] = a
	}
	return slices.SortedFunc(maps.Values(active), func(a, b ActiveProducer) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	}), nil
}

// producerTimes returns when the producers that a head's leader lists wrote last. A broker
// that does not list them, or not all, leaves the others without.
func (r *Router) producerTimes(ctx context.Context, head *federation.Extent) map[int64]int64 {
	t := kmsg.NewDescribeProducersRequestTopic()
	t.Topic, t.Partitions = head.PhysicalAddress.Topic, []int32{int32(head.PhysicalAddress.Partition)}
	req := kmsg.NewPtrDescribeProducersRequest()
	req.Topics = append(req.Topics, t)
	resp, err := ask(ctx, r, head, req, func(resp *kmsg.DescribeProducersResponse) (int16, bool) {
		if len(resp.Topics) == 0 || len(resp.Topics[0].Partitions) == 0 {
			return 0, false
		}
		return resp.Topics[0].Partitions[0].ErrorCode, true
	})
	if err != nil {
		return nil
	}
	times := make(map[int64]int64)
	for _, p := range resp.Topics[0].Partitions[0].ActiveProducers {
		times[p.ProducerID] = p.LastTimestamp
	}
	return times
}

// sizesWait bounds the wait for sizes: a tool that shows them is not worth a longer one.
const sizesWait = 3 * time.Second

// Sizes implements Inspector: the clusters are asked at the same time, each once for all
// extents that lie on it.
func (s *session) Sizes(ctx context.Context, tps []federation.TopicPartition) []int64 {
	m := s.r.deps.Maps.Current()
	type on struct {
		parts []upstream.Partition
		of    []int // indexes in tps
		any   *federation.Extent
	}
	clusters := make(map[federation.ClusterName]*on)
	for i, tp := range tps {
		part, err := m.Partition(tp)
		if err != nil {
			continue
		}
		for _, e := range part.Extents {
			if s.r.absent(m, e) {
				continue // it would hold up the answer, and has none
			}
			c := clusters[e.Cluster]
			if c == nil {
				c = &on{any: e}
				clusters[e.Cluster] = c
			}
			c.parts = append(c.parts, upstream.Partition{Topic: e.PhysicalAddress.Topic, Partition: e.PhysicalAddress.Partition})
			c.of = append(c.of, i)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, min(s.r.cfg.QueryTimeout, sizesWait))
	defer cancel()
	sizes := make([]int64, len(tps))
	var mu sync.Mutex // guards sizes
	var wg sync.WaitGroup
	for _, c := range clusters {
		wg.Go(func() {
			cluster, err := s.r.cluster(c.any)
			if err != nil {
				return
			}
			got := cluster.Sizes(ctx, c.parts)
			mu.Lock()
			defer mu.Unlock()
			for j, size := range got {
				if size.Err == nil {
					sizes[c.of[j]] += size.Bytes
				}
			}
		})
	}
	wg.Wait()
	return sizes
}
