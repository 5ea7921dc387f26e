package upstream_test

import (
	"context"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/upstream"
)

// hang has a cluster take requests and answer none, until it wakes.
func hang(t *testing.T, c *kfake.Cluster) (wake func()) {
	t.Helper()
	gate := make(chan struct{})
	wake = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(wake)
	c.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		select {
		case <-gate:
			c.DropControl()
			return nil, nil, false
		default:
		}
		c.KeepControl()
		c.SleepControl(func() { <-gate })
		return nil, nil, false
	})
	return wake
}

// A cluster is away when nothing that is asked of it has had an answer for a while, and
// not any more when one comes, or when nobody asks.
func TestAway(t *testing.T) {
	k := embedded(t)
	quiet := embedded(t)
	const after = 100 * time.Millisecond
	pool := upstream.NewPool(upstream.Config{AwayAfter: after, RequestTimeout: 300 * time.Millisecond, DialTimeout: 50 * time.Millisecond, AdminTimeout: 50 * time.Millisecond})
	t.Cleanup(pool.Close)
	pool.Update([]*federation.Cluster{{Name: "a", Seeds: k.ListenAddrs()}, {Name: "quiet", Seeds: quiet.ListenAddrs()}})
	quiet.Close()
	c, err := pool.Cluster("a")
	require.NoError(t, err)
	ask := func() {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		defer cancel()
		if conn, err := c.Conn(ctx, 0, upstream.UseQuery, 0); err == nil {
			_, _ = conn.Request(ctx, kmsg.NewPtrListOffsetsRequest())
		}
	}
	away := func(want ...federation.ClusterName) func() bool {
		return func() bool {
			got := pool.Away()
			return len(got) == len(want) && (len(want) == 0 || got[0] == want[0])
		}
	}
	_, err = c.Info(t.Context())
	require.NoError(t, err)
	ask()
	require.Empty(t, pool.Away())
	wake := hang(t, k)
	asked := time.Now()
	require.Eventually(t, func() bool { ask(); return away("a")() }, 10*time.Second, time.Millisecond)
	require.Greater(t, time.Since(asked), after)
	wake()
	require.Eventually(t, func() bool { ask(); return away()() }, 10*time.Second, time.Millisecond)

	k.Close()
	require.Eventually(t, func() bool { ask(); return away("a")() }, 10*time.Second, time.Millisecond)
	// Nobody asks for anything now: it may be back.
	require.Eventually(t, away(), 10*time.Second, time.Millisecond)
}

// One broker that answers is enough, whatever the others do.
func TestClusterWithADeadBrokerIsNotAway(t *testing.T) {
	k := embedded(t)
	addrs := k.ListenAddrs()
	dead := addrs[2]
	pool := upstream.NewPool(upstream.Config{
		AwayAfter: 50 * time.Millisecond,
		Dialer: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == dead {
				return nil, context.DeadlineExceeded
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	})
	t.Cleanup(pool.Close)
	pool.Update([]*federation.Cluster{{Name: "a", Seeds: addrs[:2]}})
	c, err := pool.Cluster("a")
	require.NoError(t, err)
	_, err = c.Info(t.Context())
	require.NoError(t, err)
	for began := time.Now(); time.Since(began) < 300*time.Millisecond; {
		for broker := range int32(3) {
			conn, err := c.Conn(t.Context(), broker, upstream.UseQuery, 0)
			if err != nil {
				continue
			}
			_, err = conn.Request(t.Context(), kmsg.NewPtrListOffsetsRequest())
			require.NoError(t, err)
		}
		require.Empty(t, pool.Away())
	}
}

// A cluster that was away for a while is found again soon after it is back: nobody who
// needs its leaders waits out a pause that has grown meanwhile.
func TestLeadersAreFoundSoonAfterAnAbsence(t *testing.T) {
	t.Parallel()
	k := embedded(t, kfake.SeedTopics(1, "t"))
	var gone atomic.Bool
	var mu sync.Mutex
	var conns []net.Conn
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if gone.Load() {
			return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
		}
		nc, err := (&net.Dialer{}).DialContext(ctx, network, address)
		mu.Lock()
		conns = append(conns, nc)
		mu.Unlock()
		return nc, err
	}
	c := open(t, upstream.Config{Dialer: dial}, k.ListenAddrs()...)
	lead := func(ctx context.Context) bool {
		for ctx.Err() == nil {
			l, pending := c.Leader("t", 0)
			if l.Broker >= 0 {
				return true
			}
			select {
			case <-pending:
			case <-ctx.Done():
			}
		}
		return false
	}
	require.True(t, lead(t.Context()))
	gone.Store(true)
	mu.Lock()
	for _, nc := range conns {
		_ = nc.Close()
	}
	mu.Unlock()
	c.Stale("t")
	const absence, soon = 4 * time.Second, time.Second
	ctx, cancel := context.WithTimeout(t.Context(), absence)
	require.False(t, lead(ctx))
	cancel()
	gone.Store(false)
	ctx, cancel = context.WithTimeout(t.Context(), soon)
	defer cancel()
	require.True(t, lead(ctx), "the leader is not known %s after the cluster is back", soon)
}
