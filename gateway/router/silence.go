package router

import (
	"context"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/upstream"
)

// A cluster that is away must hold up nothing but its own partitions. A question to it
// that somebody waits for in line, a Kafka connection's next requests for example, or
// the Fetch that asks, ends as soon as no broker of the cluster has answered anything for
// a while. A broker that is slow, but answers others, has until the question's own end.

// leastAsk is for how long a cluster is asked that has been silent before.
const leastAsk = 100 * time.Millisecond

type awayWaitKey struct{}

// awayWaiting has the questions of a context end when their cluster has been silent for
// a while; zero = they do not.
func awayWaiting(ctx context.Context, wait time.Duration) context.Context {
	if wait <= 0 {
		return ctx
	}
	return context.WithValue(ctx, awayWaitKey{}, wait)
}

// whileAnswering returns a context that ends with ctx, and when the cluster has been
// silent for as long as awayWaiting says.
func (r *Router) whileAnswering(ctx context.Context, cluster *upstream.Cluster) (context.Context, context.CancelFunc) {
	wait, ok := ctx.Value(awayWaitKey{}).(time.Duration)
	ctx, cancel := context.WithCancel(ctx)
	if !ok {
		return ctx, cancel
	}
	r.tasks.Go(func() {
		defer cancel()
		for rest := leastAsk; rest > 0; rest = wait - cluster.Silent() {
			sleep(ctx, rest)
			if ctx.Err() != nil {
				return
			}
		}
	})
	return ctx, cancel
}

// absent reports whether a cluster is not expected to answer.
func (r *Router) absent(m *federation.Map, e *federation.Extent) bool {
	if failed(m, e.Cluster) {
		return true
	}
	cluster, err := r.cluster(e)
	return err == nil && cluster.Silent() >= readFloor
}
