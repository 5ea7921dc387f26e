package controller_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	"github.com/braidmq/braid/internal/journal"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/upstream"
)

// recover runs the recovery with some of the clusters named.
func (w *world) recover(t *testing.T, change func(*controller.RecoverConfig), clusters ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	cfg := controller.RecoverConfig{Out: &out, Upstream: upstream.Config{AdminTimeout: time.Second}}
	for _, name := range clusters {
		cfg.Clusters = append(cfg.Clusters, &federation.Cluster{Name: federation.ClusterName(name), Seeds: w.kafka[name].ListenAddrs()})
	}
	if change != nil {
		change(&cfg)
	}
	err := controller.Recover(t.Context(), cfg, w.store(t, nil))
	t.Logf("recover: %v\n%s", err, out.String())
	return out.String(), err
}

func force(c *controller.RecoverConfig) { c.Force = true }

// populated is a world whose controller has made topics, and is gone.
func populated(t *testing.T) (*world, *federation.Map) {
	t.Helper()
	w := newWorld(t, "a", "b")
	c1 := w.controller(t, "c1")
	c1.leads(t)
	a := adminOf(t, c1.url)
	w.addClusters(t, a)
	_, err := a.create(t.Context(), "orders", 4)
	require.NoError(t, err)
	m := w.awaitJournal(t, "a", "b")
	c1.shutdown()
	return w, m
}

// inJournal writes a next version of the map into the journals, as a leader would.
func (w *world) inJournal(t *testing.T, old, next *federation.Map, clusters ...string) {
	t.Helper()
	for _, name := range clusters {
		c := w.physical(t, name)
		l, err := journal.Open(t.Context(), c, mapTopic, 100, func(journal.Record) {})
		require.NoError(t, err)
		require.NoError(t, l.Claim(t.Context(), nil))
		records, err := journal.Delta(wire.Diff(old, next), journal.Head{Version: next.Version, Fencing: 100, LogicalCluster: "default", ClusterID: next.ClusterID})
		require.NoError(t, err)
		require.NoError(t, l.Append(t.Context(), records))
	}
}

func (w *world) physical(t *testing.T, name string) *upstream.Cluster {
	t.Helper()
	pool := upstream.NewPool(upstream.Config{})
	t.Cleanup(pool.Close)
	pool.Update([]*federation.Cluster{{Name: federation.ClusterName(name), Seeds: w.kafka[name].ListenAddrs()}})
	c, err := pool.Cluster(federation.ClusterName(name))
	require.NoError(t, err)
	return c
}

func TestRecoverBringsTheMapBack(t *testing.T) {
	w, m := populated(t)
	w.redis.FlushAll()

	_, err := w.recover(t, func(c *controller.RecoverConfig) { c.DryRun = true }, "a")
	require.NoError(t, err)
	require.Empty(t, w.redis.Keys())

	out, err := w.recover(t, nil, "a") // which leads to b
	require.NoError(t, err)
	require.Contains(t, out, "cluster b")
	got, err := w.store(t, nil).LoadMap(t.Context(), "default")
	require.NoError(t, err)
	require.Equal(t, m.Version, got.Version)
	d := wire.Diff(m, got)
	require.True(t, d.Empty(), "%v", d)
	out, err = w.recover(t, nil, "b")
	require.NoError(t, err)
	require.Contains(t, out, "it stays", "a repetition changes nothing")

	// Controllers go on from there, with a higher number.
	c2 := w.controller(t, "c2")
	c2.leads(t)
	a := adminOf(t, c2.url)
	require.Len(t, a.extents(t, "orders"), 4)
	_, err = a.create(t.Context(), "bills", 2)
	require.NoError(t, err)
	require.NotNil(t, w.awaitJournal(t, "a", "b").Topic("bills"))
	require.Greater(t, w.journal(t, "a").Head.Fencing, int64(1))
	require.Empty(t, alarms(t, a))
}

// A controller that had no copy of the map leads when it is recovered.
func TestRecoverUnderALeaderThatBeganAnew(t *testing.T) {
	w, m := populated(t)
	w.redis.FlushAll()
	c2 := w.controller(t, "c2")
	c2.leads(t)
	g := w.gateway(t, "g1", []string{c2.url})
	g.awaitRegistered(t)
	require.Nil(t, g.Current().Topic("orders"))
	_, err := w.recover(t, nil, "b")
	require.NoError(t, err)
	g.eventually(t, "the topic", func(m *federation.Map) bool { return m.Topic("orders") != nil })
	require.Equal(t, m.ClusterID, g.Current().ClusterID)
	c2.leads(t)
	require.Len(t, adminOf(t, c2.url).extents(t, "orders"), 4)
	w.awaitJournal(t, "a", "b")
}

func TestRecoverRefusesWhatMayBeOld(t *testing.T) {
	w, m := populated(t)
	w.redis.FlushAll()
	moved := *m
	moved.Version += 5
	next := planner.WithoutTopic(&moved, "orders")

	// A cluster that does not answer may know more.
	w.inJournal(t, m, next, "b")
	w.kafka["b"].Close()
	out, err := w.recover(t, nil, "a")
	requireKind(t, federation.PolicyViolation, err)
	require.Contains(t, out, "cluster b does not answer, and may know a newer map")
	require.Empty(t, w.redis.Keys())
	_, err = w.recover(t, force, "a")
	require.NoError(t, err)
	got, err := w.store(t, nil).LoadMap(t.Context(), "default")
	require.NoError(t, err)
	require.Equal(t, m.Version, got.Version)
}

func TestRecoverTakesTheNewestJournal(t *testing.T) {
	w, m := populated(t)
	w.redis.FlushAll()
	later := *m
	later.Version += 5
	w.inJournal(t, m, planner.WithoutTopic(&later, "orders"), "b")
	_, err := w.recover(t, nil, "a")
	require.NoError(t, err)
	got, err := w.store(t, nil).LoadMap(t.Context(), "default")
	require.NoError(t, err)
	require.Equal(t, later.Version, got.Version)
	require.Nil(t, got.Topic("orders"))
	l, won, err := w.store(t, nil).AcquireLeadership(t.Context(), "default", redisstore.Candidate{ID: "c"}, time.Second)
	require.NoError(t, err)
	require.True(t, won, "the lead was given up")
	require.Greater(t, l.Fencing, int64(100), "above what the journals name")
}

// seal appends a seal to the log of a head.
func (w *world) seal(t *testing.T, m *federation.Map, partition int, version federation.MapVersion) {
	t.Helper()
	topic := m.Topic("orders")
	h := topic.Partitions[partition].Head()
	done := w.physical(t, string(h.Cluster)).AppendMarks(t.Context(), []upstream.MarkAppend{{
		Partition: upstream.Partition{Topic: h.Topic, Partition: h.Partition},
		Batch: mark.Seal(mark.Subject{
			LogicalCluster: "default", Topic: "orders", TopicID: topic.ID, Partition: federation.LogicalPartition(partition), Extent: h.Number, MapVersion: version,
		}, mark.ProducerID(7), time.Now()),
	}})
	require.NoError(t, done[0].Err)
}

func TestRecoverSeesASealedHead(t *testing.T) {
	w, m := populated(t)
	w.redis.FlushAll()
	w.seal(t, m, 2, m.Version)
	out, err := w.recover(t, nil, "a")
	requireKind(t, federation.PolicyViolation, err)
	require.Contains(t, out, "orders-2: the map has its head as open, but the log is sealed")
	require.Empty(t, w.redis.Keys())
}

// Heads that were about to move take appends again, unless they were sealed.
func TestRecoverOpensHeadsThatWereHeld(t *testing.T) {
	w, m := populated(t)
	w.redis.FlushAll()
	var moves []planner.Move
	for _, i := range []int{1, 2} {
		h := m.Topic("orders").Partitions[i].Head()
		moves = append(moves, planner.Move{TopicPartition: federation.TopicPartition{Topic: "orders", Partition: federation.LogicalPartition(i)}, Extent: h.Number, From: h.PhysicalAddress, To: federation.PhysicalAddress{Cluster: "b", Topic: "unused"}})
	}
	sealing, err := planner.WithSealing(m, moves)
	require.NoError(t, err)
	held := *sealing
	held.Version++
	w.inJournal(t, m, held.Seal(), "a", "b")
	w.seal(t, m, 2, held.Version)
	out, err := w.recover(t, nil, "a")
	require.NoError(t, err)
	require.Contains(t, out, "take appends again: orders-1\n")
	require.Contains(t, out, "the leading controller ends their move: orders-2\n")
	got, err := w.store(t, nil).LoadMap(t.Context(), "default")
	require.NoError(t, err)
	require.Equal(t, held.Version+1, got.Version)
	require.Equal(t, federation.ExtentOpen, got.Topic("orders").Partitions[1].Head().State)
	require.Equal(t, federation.ExtentSealing, got.Topic("orders").Partitions[2].Head().State)
}
