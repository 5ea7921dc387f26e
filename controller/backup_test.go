package controller_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/journal"
	"github.com/braidmq/braid/internal/redisstore"
)

func oftenBackedUp(c *controller.Config) { c.OffsetsBackupInterval = 50 * time.Millisecond }

// commit stores an offset as the coordinator of a group does.
func (w *world) commit(t *testing.T, group string, topic federation.TopicID, offset federation.LogicalOffset) {
	t.Helper()
	store := w.store(t, nil)
	epoch, _, err := store.ClaimGroup(t.Context(), "default", "", group, true, 0)
	require.NoError(t, err)
	now := time.Now().UnixMilli()
	require.NoError(t, store.WriteGroup(t.Context(), "default", group, redisstore.GroupWrite{Epoch: epoch, Sequence: 1, NowMs: now, Offsets: []redisstore.GroupOffset{
		{OffsetKey: redisstore.OffsetKey{Topic: topic}, Offset: offset, Epoch: federation.NoEpoch, Metadata: "m", CommittedMs: now},
	}}))
}

// backup reads the backup of a cluster.
func (w *world) backup(t *testing.T, cluster string) map[string]federation.LogicalOffset {
	t.Helper()
	all := make(map[string]federation.LogicalOffset)
	_, err := journal.Find(t.Context(), w.physical(t, cluster), "default.braid-offsets", func(r journal.Record) {
		o, deleted, ok, err := journal.ParseOffset(r)
		require.NoError(t, err)
		switch {
		case !ok:
		case deleted:
			delete(all, o.Group)
		default:
			all[o.Group] = o.Offset
		}
	})
	require.NoError(t, err)
	return all
}

func (w *world) awaitBackup(t *testing.T, want map[string]federation.LogicalOffset, clusters ...string) {
	t.Helper()
	for _, cluster := range clusters {
		require.Eventually(t, func() bool {
			got := w.backup(t, cluster)
			if len(got) != len(want) {
				return false
			}
			for group, offset := range want {
				if got[group] != offset {
					return false
				}
			}
			return true
		}, patience, 20*time.Millisecond, "the backup on %s", cluster)
	}
}

func (w *world) offset(t *testing.T, group string, topic federation.TopicID) federation.LogicalOffset {
	t.Helper()
	got, err := w.store(t, nil).GroupOffsets(t.Context(), "default", group, []redisstore.OffsetKey{{Topic: topic}})
	require.NoError(t, err)
	return got[0].Offset
}

func TestOffsetsAreBackedUpAndRecovered(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	c1 := w.controller(t, "c1", oftenBackedUp)
	c1.leads(t)
	a := adminOf(t, c1.url)
	w.addClusters(t, a)
	_, err := a.create(t.Context(), "orders", 1)
	require.NoError(t, err)
	m := w.awaitJournal(t, "a", "b", "c")
	id := m.Topic("orders").ID
	w.commit(t, "g1", id, 10)
	w.commit(t, "g2", id, 20)
	w.commit(t, "g3", id, 30)
	w.awaitBackup(t, map[string]federation.LogicalOffset{"g1": 10, "g2": 20, "g3": 30}, "a", "b")
	require.Empty(t, w.backup(t, "c"), "two copies are enough")

	// Changes and deletions follow; the next leader goes on.
	w.commit(t, "g1", id, 11)
	epoch, _, err := w.store(t, nil).ClaimGroup(t.Context(), "default", "", "g3", false, 0)
	require.NoError(t, err)
	require.NoError(t, w.store(t, nil).DeleteGroup(t.Context(), "default", "g3", epoch))
	w.awaitBackup(t, map[string]federation.LogicalOffset{"g1": 11, "g2": 20}, "a", "b")
	c1.shutdown()
	c2 := w.controller(t, "c2", oftenBackedUp)
	c2.leads(t)
	w.commit(t, "g2", id, 22)
	w.awaitBackup(t, map[string]federation.LogicalOffset{"g1": 11, "g2": 22}, "a", "b")
	require.Empty(t, alarms(t, adminOf(t, c2.url)))

	c2.shutdown()
	w.redis.FlushAll()
	w.commit(t, "g1", id, 5)
	w.commit(t, "g2", id, 50) // somebody was faster, and is further
	_, err = w.recover(t, nil, "c")
	require.NoError(t, err)
	require.Equal(t, federation.LogicalOffset(11), w.offset(t, "g1", id))
	require.Equal(t, federation.LogicalOffset(50), w.offset(t, "g2", id), "never backwards")

	// And it is backed up again.
	c3 := w.controller(t, "c3", oftenBackedUp)
	c3.leads(t)
	w.awaitBackup(t, map[string]federation.LogicalOffset{"g1": 11, "g2": 50}, "a", "b")
	require.Empty(t, alarms(t, adminOf(t, c3.url)))
}

// The leader that keeps the map in memory restores the groups as well; until it has,
// nobody is told that a group has no offset.
func TestLeaderRestoresGroups(t *testing.T) {
	w := newWorld(t, "a")
	c1 := w.controller(t, "c1", oftenBackedUp)
	c1.leads(t)
	a := adminOf(t, c1.url)
	w.addClusters(t, a)
	_, err := a.create(t.Context(), "orders", 1)
	require.NoError(t, err)
	m := w.awaitJournal(t, "a")
	id := m.Topic("orders").ID
	w.commit(t, "g1", id, 10)
	w.awaitBackup(t, map[string]federation.LogicalOffset{"g1": 10}, "a")
	w.redis.FlushAll()
	key := []redisstore.OffsetKey{{Topic: id}}
	var got []redisstore.GroupOffset
	require.Eventually(t, func() bool {
		var err error
		got, err = w.store(t, nil).KnownOffsets(t.Context(), "default", m.ClusterID, "g1", key)
		if err != nil {
			requireKind(t, federation.StoreUnavailable, err)
		}
		return err == nil
	}, patience, time.Millisecond)
	require.Equal(t, federation.LogicalOffset(10), got[0].Offset)
	w.commit(t, "g1", id, 12)
	w.awaitBackup(t, map[string]federation.LogicalOffset{"g1": 12}, "a")
}
