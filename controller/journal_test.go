package controller_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/journal"
	"github.com/braidmq/braid/internal/upstream"
)

const mapTopic = "default.braid-map"

// journal reads the journal of a cluster.
func (w *world) journal(t *testing.T, cluster string) *journal.MapState {
	t.Helper()
	pool := upstream.NewPool(upstream.Config{})
	defer pool.Close()
	pool.Update([]*federation.Cluster{{Name: federation.ClusterName(cluster), Seeds: w.kafka[cluster].ListenAddrs()}})
	c, err := pool.Cluster(federation.ClusterName(cluster))
	require.NoError(t, err)
	var state journal.MapState
	_, err = journal.Find(t.Context(), c, mapTopic, state.Fold)
	require.NoError(t, err)
	return &state
}

// awaitJournal waits until clusters have the map of the store in their journals.
func (w *world) awaitJournal(t *testing.T, clusters ...string) *federation.Map {
	t.Helper()
	var want *federation.Map
	for _, cluster := range clusters {
		require.Eventually(t, func() bool {
			var err error
			want, err = w.store(t, nil).LoadMap(t.Context(), "default")
			require.NoError(t, err)
			return w.journal(t, cluster).Head.Version == want.Version
		}, patience, 20*time.Millisecond, "the journal of cluster %q", cluster)
		got, err := w.journal(t, cluster).Map()
		require.NoError(t, err)
		d := wire.Diff(got, want)
		require.True(t, d.Empty(), "cluster %q: %v", cluster, d)
	}
	return want
}

func alarms(t *testing.T, a *admin) []string {
	t.Helper()
	status, err := a.fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
	require.NoError(t, err)
	return status.GetAlarms()
}

// hold keeps a cluster from answering requests of a kind, until release is called.
func (w *world) hold(t *testing.T, cluster string, key kmsg.Key) (release func()) {
	t.Helper()
	free := make(chan struct{})
	var once sync.Once
	release = func() { once.Do(func() { close(free) }) }
	t.Cleanup(release)
	k := w.kafka[cluster]
	k.ControlKey(int16(key), func(kmsg.Request) (kmsg.Response, error, bool) {
		select {
		case <-free:
			return nil, nil, false
		default:
			k.KeepControl()
			return nil, errors.New("the cluster is away"), true
		}
	})
	return release
}

func TestJournalHoldsEachMap(t *testing.T) {
	w := newWorld(t, "a", "b")
	c1 := w.controller(t, "c1")
	c1.leads(t)
	a := adminOf(t, c1.url)
	w.addClusters(t, a)
	for _, name := range []string{"orders", "bills"} {
		_, err := a.create(t.Context(), name, 3)
		require.NoError(t, err)
	}
	w.awaitJournal(t, "a", "b")
	_, err := a.topics.DeleteTopic(t.Context(), &adminv1.DeleteTopicRequest{Name: topicName("bills")})
	require.NoError(t, err)
	m := w.awaitJournal(t, "a", "b")
	require.NotNil(t, m.Topic("orders"))
	require.Nil(t, m.Topic("bills"))
	require.Equal(t, int64(1), w.journal(t, "a").Head.Fencing)

	// The next leader goes on where the first one ended.
	c2 := w.controller(t, "c2")
	c1.kill()
	c2.leads(t)
	_, err = adminOf(t, c2.url).create(t.Context(), "parcels", 1)
	require.NoError(t, err)
	require.NotNil(t, w.awaitJournal(t, "a", "b").Topic("parcels"))
	require.Equal(t, int64(2), w.journal(t, "b").Head.Fencing)
	require.Empty(t, alarms(t, adminOf(t, c2.url)))
}

func TestJournalOfAClusterThatWasAway(t *testing.T) {
	w := newWorld(t, "a", "b")
	c1 := w.controller(t, "c1", func(c *controller.Config) { c.JournalWait = 500 * time.Millisecond })
	c1.leads(t)
	a := adminOf(t, c1.url)
	w.addClusters(t, a)
	w.awaitJournal(t, "a", "b")

	back := w.hold(t, "b", kmsg.Produce)
	before := w.journal(t, "b").Head.Version
	_, err := a.create(t.Context(), "orders", 2)
	require.NoError(t, err)
	m := w.awaitJournal(t, "a")
	require.NotNil(t, m.Topic("orders"))
	require.Equal(t, before, w.journal(t, "b").Head.Version)
	require.NotContains(t, strings.Join(alarms(t, a), "; "), "is on no physical cluster")

	// With all of them away maps are published all the same, and somebody is told.
	both := w.hold(t, "a", kmsg.Produce)
	_, err = a.create(t.Context(), "bills", 2)
	require.NoError(t, err)
	require.Len(t, alarms(t, a), 1)
	require.Contains(t, alarms(t, a)[0], "is on no physical cluster yet")
	both()
	back()
	require.NotNil(t, w.awaitJournal(t, "a", "b").Topic("bills"))
	require.Eventually(t, func() bool { return len(alarms(t, a)) == 0 }, patience, 20*time.Millisecond)
}

func TestJournalIsWrittenAnewAfterItsTopicIsGone(t *testing.T) {
	w := newWorld(t, "a")
	c1 := w.controller(t, "c1")
	c1.leads(t)
	a := adminOf(t, c1.url)
	w.addClusters(t, a)
	_, err := a.create(t.Context(), "orders", 2)
	require.NoError(t, err)
	w.awaitJournal(t, "a")
	require.NoError(t, w.kafka["a"].DeleteTopic(mapTopic))
	_, err = a.create(t.Context(), "bills", 2)
	require.NoError(t, err)
	require.NotNil(t, w.awaitJournal(t, "a").Topic("orders"))
}

// A map that begins anew, since the store has lost its data, must not take the place
// of the one that can be recovered.
func TestJournalOfAnotherLifeStays(t *testing.T) {
	w := newWorld(t, "a")
	c1 := w.controller(t, "c1")
	c1.leads(t)
	w.addClusters(t, adminOf(t, c1.url))
	_, err := adminOf(t, c1.url).create(t.Context(), "orders", 2)
	require.NoError(t, err)
	old := w.awaitJournal(t, "a")
	c1.shutdown()
	w.redis.FlushAll()
	c2 := w.controller(t, "c2")
	c2.leads(t)
	a := adminOf(t, c2.url)
	w.addClusters(t, a)
	_, err = a.create(t.Context(), "bills", 2)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Contains(strings.Join(alarms(t, a), "; "), "braid recover") }, patience, 20*time.Millisecond)
	left, err := w.journal(t, "a").Map()
	require.NoError(t, err)
	require.Equal(t, old.Version, left.Version)
	require.NotNil(t, left.Topic("orders"))
	require.Nil(t, left.Topic("bills"))
}
