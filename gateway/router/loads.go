package router

import (
	"context"

	"github.com/braidmq/braid/federation"
)

// Loads returns the bytes that were appended to partitions since the last call;
// those with none are left out. It fails only when ctx or the router ends.
func (r *Router) Loads(ctx context.Context) (map[federation.TopicPartition]int64, error) {
	answers := make(chan map[federation.TopicPartition]int64, len(r.lanes))
	for _, l := range r.lanes {
		l.post(func() { answers <- l.takeLoads() })
	}
	sum := make(map[federation.TopicPartition]int64)
	for range r.lanes {
		select {
		case loads := <-answers:
			for tp, n := range loads {
				sum[tp] += n
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-r.ctx.Done():
			return nil, errStopping()
		}
	}
	return sum, nil
}

func (l *lane) takeLoads() map[federation.TopicPartition]int64 {
	out := make(map[federation.TopicPartition]int64)
	for tp, h := range l.heads {
		if h.bytes > 0 {
			out[tp] = h.bytes
			h.bytes = 0
		}
	}
	return out
}
