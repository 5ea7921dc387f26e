package groups

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

// Heartbeats ask nothing of Redis, whatever it knows of the logical cluster's life: with
// Redis away, a group stays in memory, and its members stay in it.
func TestHeartbeatsNeedNoRedis(t *testing.T) {
	onWorlds(t, func(w *world) {
		gw := w.gateway("a", func(c *Config) { c.OwnershipCheck = time.Hour })
		m := *w.maps.Current()
		m.ClusterID = "life"
		w.maps.set(m.Seal())
		w.serve("a")
		require.NoError(t, gw.store.SetGroupsLife(w.t.Context(), m.LogicalCluster, "life"))
		ctx := w.t.Context()
		j, err := gw.engine.Join(ctx, JoinRequest{
			Group: "g", ClientID: "c", ProtocolType: "x", Protocols: []Protocol{{Name: "p"}}, SessionTimeout: time.Minute, RebalanceTimeout: time.Minute,
		})
		require.NoError(w.t, err)
		_, err = gw.engine.Sync(ctx, SyncRequest{Group: "g", MemberID: j.MemberID, Generation: j.Generation})
		require.NoError(w.t, err)
		commit := func(o federation.LogicalOffset) error {
			errs, err := gw.engine.Commit(ctx, CommitRequest{Group: "g", MemberID: j.MemberID, Generation: j.Generation, Offsets: []CommitOffset{{TopicPartition: tp("t", 0), Offset: o}}})
			if err == nil {
				err = errs[0]
			}
			return err
		}
		require.NoError(w.t, commit(1))

		gw.loseRedis(true)
		heartbeat := HeartbeatRequest{Group: "g", MemberID: j.MemberID, Generation: j.Generation}
		for range 10 {
			require.NoError(w.t, gw.engine.Heartbeat(ctx, heartbeat))
		}
		require.Equal(w.t, federation.CoordinatorLoading, federation.KindOf(commit(2)), "a commit is acknowledged only when it is stored")
		require.NoError(w.t, gw.engine.Heartbeat(ctx, heartbeat), "only the commit failed")
		gw.loseRedis(false)
		w.eventually("commits go on", func() bool { return commit(3) == nil })
		w.eventually("what was committed is read", func() bool {
			got, err := gw.engine.Committed(ctx, "g", []federation.TopicPartition{tp("t", 0)})
			return err == nil && got[0].Offset == 3
		})
	})
}
