package groups

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
)

// A crowd is the members of some groups on one engine, on a Redis in this process.
type crowd struct {
	engine  *Engine
	mini    *miniredis.Miniredis
	members []HeartbeatRequest
}

const crowdLife = "life"

func newCrowd(b *testing.B, groups, each int) *crowd {
	b.Helper()
	c := &crowd{mini: miniredis.RunT(b)}
	store, err := redisstore.Open(redisstore.Config{URL: "redis://" + c.mini.Addr(), OperationTimeout: time.Minute})
	require.NoError(b, err)
	m := testMap(nil, fmt.Sprintf("t=%d", each))
	m.ClusterID = crowdLife
	m.Gateways = []*federation.Gateway{{ID: "a", NodeID: 1, State: federation.GatewayReady}}
	require.NoError(b, store.SetGroupsLife(b.Context(), m.LogicalCluster, crowdLife))
	c.engine, err = NewEngine(Config{Gateway: "a", Maps: &fakeMaps{current: m.Seal(), changed: make(chan struct{})}, Store: store, InitialRebalanceDelay: time.Second, StoreTimeout: time.Minute})
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = c.engine.Run(ctx) })
	b.Cleanup(func() {
		cancel()
		running.Wait()
		_ = store.Close()
	})
	c.members = make([]HeartbeatRequest, groups*each)
	var joining sync.WaitGroup
	for i := range c.members {
		joining.Go(func() { c.members[i] = c.join(b, fmt.Sprintf("g-%d", i/each)) })
	}
	joining.Wait()
	return c
}

// join goes through a rebalance; the leader gives everybody the same.
func (c *crowd) join(b *testing.B, group string) HeartbeatRequest {
	ctx, id := b.Context(), ""
	for {
		j, err := c.engine.Join(ctx, JoinRequest{
			Group: group, MemberID: id, ClientID: "c", ProtocolType: "bench", Protocols: []Protocol{{Name: "p", Metadata: []byte("metadata")}},
			SessionTimeout: 10 * time.Minute, RebalanceTimeout: time.Minute,
		})
		if err != nil {
			b.Error(err)
			return HeartbeatRequest{}
		}
		id = j.MemberID
		s := SyncRequest{Group: group, MemberID: id, Generation: j.Generation}
		if j.LeaderID == id {
			for _, m := range j.Members {
				s.Assignments = append(s.Assignments, MemberAssignment{MemberID: m.MemberID, Assignment: []byte("assignment")})
			}
		}
		_, err = c.engine.Sync(ctx, s)
		if federation.KindOf(err) == federation.RebalanceInProgress {
			continue
		}
		if err != nil {
			b.Error(err)
		}
		return HeartbeatRequest{Group: group, MemberID: id, Generation: j.Generation}
	}
}

// inTurn calls do for the members in turn, from many goroutines.
func (c *crowd) inTurn(b *testing.B, do func(i int, m HeartbeatRequest) error) {
	b.ReportAllocs()
	b.SetParallelism(64)
	var next atomic.Int64
	before, writes := c.mini.CommandCount(), c.engine.Stats().Writes
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := int(next.Add(1)) % len(c.members)
			if err := do(i, c.members[i]); err != nil {
				b.Error(err)
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(c.mini.CommandCount()-before)/float64(b.N), "redis-commands/op")
	b.ReportMetric(float64(c.engine.Stats().Writes-writes)/float64(b.N), "writes/op")
}

var crowds = []struct{ groups, each int }{{100, 100}, {1, 1000}}

func BenchmarkHeartbeat(b *testing.B) {
	for _, size := range crowds {
		b.Run(fmt.Sprintf("%dx%d", size.groups, size.each), func(b *testing.B) {
			c := newCrowd(b, size.groups, size.each)
			c.inTurn(b, func(_ int, m HeartbeatRequest) error { return c.engine.Heartbeat(b.Context(), m) })
		})
	}
}

// BenchmarkCommit is of Redis in the same process, so its time is mostly that of Redis.
func BenchmarkCommit(b *testing.B) {
	for _, size := range crowds {
		b.Run(fmt.Sprintf("%dx%d", size.groups, size.each), func(b *testing.B) {
			c := newCrowd(b, size.groups, size.each)
			c.inTurn(b, func(i int, m HeartbeatRequest) error {
				errs, err := c.engine.Commit(b.Context(), CommitRequest{
					Group: m.Group, MemberID: m.MemberID, Generation: m.Generation,
					Offsets: []CommitOffset{{TopicPartition: tp("t", i%size.each), Offset: federation.LogicalOffset(i), Epoch: federation.NoEpoch}},
				})
				if err == nil {
					err = errs[0]
				}
				return err
			})
		})
	}
}

// BenchmarkMemory tells what a member of a settled group takes.
func BenchmarkMemory(b *testing.B) {
	for _, size := range crowds {
		b.Run(fmt.Sprintf("%dx%d", size.groups, size.each), func(b *testing.B) {
			live := func() float64 {
				runtime.GC()
				runtime.GC()
				var s runtime.MemStats
				runtime.ReadMemStats(&s)
				return float64(s.HeapAlloc + s.StackInuse)
			}
			for b.Loop() {
				before := live()
				c := newCrowd(b, size.groups, size.each)
				stored := c.mini.Dump()
				took := live() - before - float64(len(stored))
				b.ReportMetric(took/float64(len(c.members)), "B/member")
				runtime.KeepAlive(c)
			}
		})
	}
}
