package redisstore_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	"github.com/braidmq/braid/internal/redisstore"
)

const lc = "default"

// onStores runs a test on miniredis and, if BRAID_TEST_REDIS names one, also on a
// real Redis, under a prefix of its own.
func onStores(t *testing.T, test func(t *testing.T, s *redisstore.Store)) {
	t.Helper()
	run := func(name, url string) {
		t.Run(name, func(t *testing.T) {
			s, err := redisstore.Open(redisstore.Config{URL: url, Prefix: fmt.Sprintf("test-%d-%s", time.Now().UnixNano(), t.Name())})
			require.NoError(t, err)
			t.Cleanup(func() { _ = s.Close() })
			test(t, s)
		})
	}
	run("miniredis", "redis://"+miniredis.RunT(t).Addr()+"/0")
	if url := os.Getenv("BRAID_TEST_REDIS"); url != "" {
		run("redis", url)
	}
}

func candidate(id string) redisstore.Candidate {
	return redisstore.Candidate{ID: id, URL: "http://" + id + ":8080", Incarnation: id + "-1"}
}

func lead(t *testing.T, s *redisstore.Store, id string) int64 {
	t.Helper()
	l, ok, err := s.AcquireLeadership(t.Context(), lc, candidate(id), time.Minute)
	require.NoError(t, err)
	require.True(t, ok, "%s leads", l.ID)
	return l.Fencing
}

func TestLeadership(t *testing.T) {
	onStores(t, func(t *testing.T, s *redisstore.Store) {
		t.Helper()
		ctx := t.Context()
		_, ok, err := s.Leader(ctx, lc)
		require.NoError(t, err)
		require.False(t, ok)

		first := lead(t, s, "c1")
		l, ok, err := s.AcquireLeadership(ctx, lc, candidate("c2"), time.Minute)
		require.NoError(t, err)
		require.False(t, ok)
		require.Equal(t, redisstore.Leader{ID: "c1", URL: "http://c1:8080", Fencing: first}, l)
		l, ok, err = s.Leader(ctx, lc)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, first, l.Fencing)

		require.NoError(t, s.ReleaseLeadership(ctx, lc, first+1), "not its lease: nothing happens")
		ok, err = s.RenewLeadership(ctx, lc, candidate("c1"), first, time.Minute)
		require.NoError(t, err)
		require.True(t, ok)

		require.NoError(t, s.ReleaseLeadership(ctx, lc, first))
		ok, err = s.RenewLeadership(ctx, lc, candidate("c1"), first, time.Minute)
		require.NoError(t, err)
		require.True(t, ok, "nobody has led since: it may go on")
		require.NoError(t, s.ReleaseLeadership(ctx, lc, first))

		second := lead(t, s, "c2")
		require.Greater(t, second, first)
		ok, err = s.RenewLeadership(ctx, lc, candidate("c1"), first, time.Minute)
		require.NoError(t, err)
		require.False(t, ok)
	})
}

func TestFencingNumberRisesThoughRedisForgot(t *testing.T) {
	onStores(t, func(t *testing.T, s *redisstore.Store) {
		t.Helper()
		c := candidate("c1")
		c.Met = 41
		l, ok, err := s.AcquireLeadership(t.Context(), lc, c, time.Minute)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, int64(42), l.Fencing)
		require.NoError(t, s.ReleaseLeadership(t.Context(), lc, l.Fencing))
		require.Equal(t, int64(43), lead(t, s, "c2"))
	})
}

func TestLeaseRunsOutByItself(t *testing.T) {
	onStores(t, func(t *testing.T, s *redisstore.Store) {
		t.Helper()
		first, ok, err := s.AcquireLeadership(t.Context(), lc, candidate("c1"), 50*time.Millisecond)
		require.NoError(t, err)
		require.True(t, ok)
		require.Eventually(t, func() bool {
			l, ok, err := s.AcquireLeadership(t.Context(), lc, candidate("c2"), time.Minute)
			return err == nil && ok && l.Fencing == first.Fencing+1
		}, 5*time.Second, 5*time.Millisecond)
	})
}

func TestControllerList(t *testing.T) {
	onStores(t, func(t *testing.T, s *redisstore.Store) {
		t.Helper()
		ctx := t.Context()
		require.NoError(t, s.AnnounceController(ctx, lc, candidate("c2"), time.Minute))
		require.NoError(t, s.AnnounceController(ctx, lc, candidate("c1"), time.Minute))
		require.NoError(t, s.AnnounceController(ctx, lc, candidate("c3"), 20*time.Millisecond))
		want := []redisstore.ControllerInfo{{ID: "c1", URL: "http://c1:8080"}, {ID: "c2", URL: "http://c2:8080"}}
		require.Eventually(t, func() bool {
			got, err := s.Controllers(ctx, lc)
			return err == nil && len(got) == 2 && got[0] == want[0] && got[1] == want[1]
		}, 5*time.Second, 5*time.Millisecond)
		require.NoError(t, s.WithdrawController(ctx, lc, "c1"))
		got, err := s.Controllers(ctx, lc)
		require.NoError(t, err)
		require.Equal(t, want[1:], got)
	})
}

func TestNumbersGivenOutOnce(t *testing.T) {
	onStores(t, func(t *testing.T, s *redisstore.Store) {
		t.Helper()
		ctx := t.Context()
		node := func(g federation.GatewayID, least ...federation.NodeID) federation.NodeID {
			n, err := s.NodeID(ctx, lc, g, append(least, 1)[0])
			require.NoError(t, err)
			return n
		}
		require.Equal(t, federation.NodeID(1), node("g1"))
		require.Equal(t, federation.NodeID(2), node("g2"))
		require.Equal(t, federation.NodeID(1), node("g1"))
		require.Equal(t, federation.NodeID(1), node("g1", 7), "a gateway keeps its id")
		require.Equal(t, federation.NodeID(7), node("g3", 7))
		require.Equal(t, federation.NodeID(8), node("g4", 3))

		for i, name := range []federation.TopicName{"a.b", "a_b", "a.b"} {
			g, err := s.NextGeneration(ctx, lc, name)
			require.NoError(t, err)
			require.Equal(t, int32(i+1), g)
		}
		g, err := s.NextGeneration(ctx, lc, "other")
		require.NoError(t, err)
		require.Equal(t, int32(1), g)
	})
}

// withCluster returns the next version of m with one more cluster.
func withCluster(m *federation.Map, name federation.ClusterName) *federation.Map {
	next := *m
	next.Version++
	next.ClusterID = "id"
	next.Clusters = map[federation.ClusterName]*federation.Cluster{
		name: {Name: name, Seeds: []string{"127.0.0.1:1"}, State: federation.ClusterActive, Weight: 1},
	}
	maps.Copy(next.Clusters, m.Clusters)
	return next.Seal()
}

func TestMapIsWrittenByCompareAndSet(t *testing.T) {
	onStores(t, func(t *testing.T, s *redisstore.Store) {
		t.Helper()
		ctx := t.Context()
		empty, err := s.LoadMap(ctx, lc)
		require.NoError(t, err)
		require.Zero(t, empty.Version)
		require.Equal(t, lc, empty.LogicalCluster)

		old := lead(t, s, "c1")
		v1 := withCluster(empty, "a")
		require.NoError(t, s.WriteMap(ctx, lc, old, wire.Diff(empty, v1)))
		loaded, err := s.LoadMap(ctx, lc)
		require.NoError(t, err)
		again := wire.Diff(v1, loaded)
		require.True(t, again.Empty())
		require.Equal(t, v1.Version, loaded.Version)

		err = s.WriteMap(ctx, lc, old, wire.Diff(empty, withCluster(empty, "b")))
		require.Equal(t, federation.Conflict, federation.KindOf(err), "the map moved on: %v", err)

		require.NoError(t, s.ReleaseLeadership(ctx, lc, old))
		now := lead(t, s, "c2")
		v2 := withCluster(v1, "b")
		err = s.WriteMap(ctx, lc, old, wire.Diff(v1, v2))
		require.Equal(t, federation.NotLeader, federation.KindOf(err), "an old leader: %v", err)
		loaded, err = s.LoadMap(ctx, lc)
		require.NoError(t, err)
		require.Equal(t, v1.Version, loaded.Version)

		require.NoError(t, s.WriteMap(ctx, lc, now, wire.Diff(v1, v2)))
		v3 := *v2
		v3.Version++
		v3.Clusters = map[federation.ClusterName]*federation.Cluster{"b": v2.Clusters["b"]}
		require.NoError(t, s.WriteMap(ctx, lc, now, wire.Diff(v2, v3.Seal())))
		loaded, err = s.LoadMap(ctx, lc)
		require.NoError(t, err)
		require.Len(t, loaded.Clusters, 1)
		require.Equal(t, federation.MapVersion(3), loaded.Version)
	})
}

func TestLargeMap(t *testing.T) {
	onStores(t, func(t *testing.T, s *redisstore.Store) {
		t.Helper()
		fencing := lead(t, s, "c1")
		empty, err := s.LoadMap(t.Context(), lc)
		require.NoError(t, err)
		m := withCluster(empty, "a")
		topic := &federation.Topic{Name: "big", ID: federation.NewTopicID(), Generation: 1}
		for i := range 10_000 {
			topic.Partitions = append(topic.Partitions, &federation.Partition{
				Topic: "big", Number: federation.LogicalPartition(i),
				Extents: []*federation.Extent{{
					PhysicalAddress: federation.PhysicalAddress{Cluster: "a", Topic: "default.big.1", Partition: federation.PhysicalPartition(i)},
					State:           federation.ExtentOpen, Epochs: []federation.EpochEntry{{}},
				}},
			})
		}
		m.Topics = map[federation.TopicName]*federation.Topic{"big": topic}
		m.Seal()
		require.NoError(t, s.WriteMap(t.Context(), lc, fencing, wire.Diff(empty, m)))
		loaded, err := s.LoadMap(t.Context(), lc)
		require.NoError(t, err)
		d := wire.Diff(m, loaded)
		require.True(t, d.Empty())
	})
}

func TestOperations(t *testing.T) {
	onStores(t, func(t *testing.T, s *redisstore.Store) {
		t.Helper()
		ctx := t.Context()
		fencing := lead(t, s, "c1")
		create := func(request string) (redisstore.Operation, bool) {
			op, fresh, err := s.CreateOperation(ctx, lc, fencing, redisstore.Operation{
				Kind: "create-topic", Target: "orders", RequestID: request, Spec: json.RawMessage(`{"partitions":3}`),
			})
			require.NoError(t, err)
			return op, fresh
		}
		first, fresh := create("r1")
		require.True(t, fresh)
		again, fresh := create("r1")
		require.False(t, fresh)
		require.Equal(t, first, again)
		running, fresh := create("")
		require.True(t, fresh)
		require.NotEqual(t, first.ID, running.ID)

		first.Done, first.ErrorKind, first.Steps = true, "CONFLICT", []redisstore.OperationStep{{Name: "plan", Done: 1, Total: 1}}
		require.NoError(t, s.SaveOperation(ctx, lc, fencing, first, 2))
		again, fresh = create("r1")
		require.False(t, fresh)
		require.Equal(t, first, again)

		for i := range 3 { // two ended ones stay, and what runs
			op, _ := create(fmt.Sprintf("other-%d", i))
			op.Done = true
			require.NoError(t, s.SaveOperation(ctx, lc, fencing, op, 2))
		}
		all, err := s.Operations(ctx, lc)
		require.NoError(t, err)
		require.Len(t, all, 3)
		require.Greater(t, all[0].Sequence, all[1].Sequence)
		require.Equal(t, running, all[2])
		_, fresh = create("r1")
		require.True(t, fresh, "the request was forgotten with its operation")

		require.NoError(t, s.ReleaseLeadership(ctx, lc, fencing))
		lead(t, s, "c2")
		require.Equal(t, federation.NotLeader, federation.KindOf(s.SaveOperation(ctx, lc, fencing, running, 2)))
		_, _, err = s.CreateOperation(ctx, lc, fencing, redisstore.Operation{Kind: "create-topic"})
		require.Equal(t, federation.NotLeader, federation.KindOf(err))
	})
}

// Of two saves that are under way, the older can arrive last.
func TestLateSaveOfAnOperation(t *testing.T) {
	onStores(t, func(t *testing.T, s *redisstore.Store) {
		t.Helper()
		ctx := t.Context()
		fencing := lead(t, s, "c1")
		op, _, err := s.CreateOperation(ctx, lc, fencing, redisstore.Operation{Kind: "move-heads", Target: "orders"})
		require.NoError(t, err)
		save := func(revision int64, cancel, done bool) {
			t.Helper()
			op.Revision, op.Cancel, op.Done = revision, cancel, done
			require.NoError(t, s.SaveOperation(ctx, lc, fencing, op, 2))
		}
		stored := func() redisstore.Operation {
			all, err := s.Operations(ctx, lc)
			require.NoError(t, err)
			require.Len(t, all, 1)
			return all[0]
		}
		save(2, true, false)
		save(1, false, false)
		require.True(t, stored().Cancel)
		save(2, true, false) // the same again
		save(3, true, true)
		save(4, true, false)
		require.True(t, stored().Done, "an end stays")
	})
}

func TestStoreAwayIsItsOwnKind(t *testing.T) {
	mini := miniredis.RunT(t)
	address := mini.Addr()
	s, err := redisstore.Open(redisstore.Config{URL: "redis://" + address + "/0"})
	require.NoError(t, err)
	defer func() { _ = s.Close() }()
	mini.Close()
	_, err = s.LoadMap(t.Context(), lc)
	require.Equal(t, federation.StoreUnavailable, federation.KindOf(err))
	_, _, err = s.AcquireLeadership(t.Context(), lc, candidate("c1"), time.Second)
	require.Equal(t, federation.StoreUnavailable, federation.KindOf(err))
	require.NotContains(t, err.Error(), address)
}
