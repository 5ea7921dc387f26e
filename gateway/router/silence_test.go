package router_test

import (
	"context"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/upstream"
)

// An outage takes a cluster away from a pool, as when all its processes die: connections
// are closed, and new ones refused.
type outage struct {
	mu    sync.Mutex // guards the following
	addrs []string
	on    bool
	conns []net.Conn
}

func (o *outage) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	mine := slices.Contains(o.addrs, addr)
	if mine && o.on {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err == nil && mine {
		o.conns = append(o.conns, nc)
	}
	return nc, err
}

func (o *outage) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.on = true
	for _, nc := range o.conns {
		_ = nc.Close()
	}
}

func (o *outage) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.on = false
}

// apart returns a world with one partition on each of two clusters, and a router for
// which the first can be taken away.
func apart(t *testing.T) (*world, *outage, *router.Router) {
	t.Helper()
	w := newWorld(t, 1)
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)}, []*federation.Extent{federationtest.Head("b", "phys", 0)})
	o := &outage{addrs: w.clusters["a"].ListenAddrs()}
	pool := upstream.NewPool(upstream.Config{Dialer: o.dial})
	t.Cleanup(pool.Close)
	pool.Update([]*federation.Cluster{w.Current().Clusters["a"], w.Current().Clusters["b"]})
	r := router.New(t.Context(), router.Config{}, router.Deps{Maps: w, Clusters: pool, Lease: w, ProducerIDs: &ids{}})
	t.Cleanup(r.Close)
	return w, o, r
}

// A follower reads both partitions, one Fetch after the other, and tells when records came.
func follow(ctx context.Context, t *testing.T, s router.Session, came [2]chan time.Time) {
	from := []router.Position{{TopicPartition: at("orders", 0), MaxBytes: 1000, CurrentEpoch: -1}, {TopicPartition: at("orders", 1), MaxBytes: 1000, CurrentEpoch: -1}}
	for ctx.Err() == nil {
		f, err := s.Fetch(ctx, from, router.FetchLimit{MinBytes: 1, MaxBytes: 1000, MaxWait: 500 * time.Millisecond})
		if err != nil {
			return
		}
		for i := range f.Slices {
			if f.Slices[i].Err != nil {
				t.Errorf("partition %d: %v", i, f.Slices[i].Err)
			}
			if f.Slices[i].Bytes() > 0 {
				came[i] <- time.Now()
			}
			from[i].Offset = f.Slices[i].Next
		}
		f.Release()
	}
}

// While a cluster is away, and when it comes back, its readers have what lies on others
// at once; and what lies on it, soon after. That holds also for a gateway that knows
// nothing of the cluster's partitions yet.
func TestReadersOfAClusterThatComesBack(t *testing.T) {
	t.Parallel()
	for name, known := range map[string]bool{"known": true, "unknown": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, o, r := apart(t)
			ctx, cancel := context.WithCancel(t.Context())
			var following sync.WaitGroup
			defer following.Wait()
			defer cancel()
			came := [2]chan time.Time{make(chan time.Time, 1000), make(chan time.Time, 1000)}
			arrives := func(partition int, within time.Duration) {
				t.Helper()
				select {
				case <-came[partition]:
				case <-time.After(within):
					t.Fatalf("nothing of partition %d within %s", partition, within)
				}
			}
			if !known {
				o.begin()
			}
			following.Go(func() { follow(ctx, t, r.NewSession(), came) })
			// A Fetch that waits for the cluster that is away takes longer by a second.
			const atOnce, soon, absence = 900 * time.Millisecond, time.Second, 4 * time.Second
			if known {
				write(t, w.clusters["a"], 0, "v")
				arrives(0, 10*time.Second)
				o.begin()
			}
			write(t, w.clusters["b"], 0, "v")
			arrives(1, 10*time.Second)
			for begin := time.Now(); time.Since(begin) < absence; {
				write(t, w.clusters["b"], 0, "v")
				arrives(1, atOnce)
			}
			write(t, w.clusters["a"], 0, "v")
			o.end()
			arrives(0, soon)
			write(t, w.clusters["b"], 0, "v")
			arrives(1, atOnce)
		})
	}
}

// A question to a cluster that is away ends soon if somebody waits in line behind it, and
// else waits for the cluster; one to a cluster that answers is not affected.
func TestQuestionsToAClusterThatIsAway(t *testing.T) {
	t.Parallel()
	w, o, r := apart(t)
	s := session(t, r)
	part, err := w.Current().Partition(at("orders", 0))
	require.NoError(t, err)
	const wait = 300 * time.Millisecond
	ask := func(away time.Duration) ([]router.OffsetAnswer, time.Duration) {
		begin := time.Now()
		got := s.ListOffsets(t.Context(), []router.OffsetQuery{
			{TopicPartition: at("orders", 0), TimestampMs: router.TimestampLatest, CurrentEpoch: -1, AwayWait: away},
			{TopicPartition: at("orders", 1), TimestampMs: router.TimestampLatest, CurrentEpoch: -1, AwayWait: away},
		})
		return got, time.Since(begin)
	}
	got, _ := ask(wait)
	require.NoError(t, got[0].Err)
	o.begin()
	for range 3 {
		got, took := ask(wait)
		require.True(t, federation.KindOf(got[0].Err).Retriable(), "%v", got[0].Err)
		require.NoError(t, got[1].Err)
		require.Less(t, took, 2*time.Second)
	}
	begin := time.Now()
	epochs := s.OffsetsForEpochs(t.Context(), []router.EpochQuery{{TopicPartition: at("orders", 0), CurrentEpoch: -1, Epoch: part.Head().LastEpoch().Logical, AwayWait: wait}})
	require.True(t, federation.KindOf(epochs[0].Err).Retriable(), "%v", epochs[0].Err)
	require.Less(t, time.Since(begin), 2*time.Second)

	patient := make(chan error, 1)
	go func() {
		got, _ := ask(0)
		patient <- got[0].Err
	}()
	rest(t, 3*wait)
	o.end()
	require.NoError(t, <-patient)
	got, _ = ask(wait)
	require.NoError(t, got[0].Err)
}
