package gateway_test

import (
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

// failedOver is a world whose topic "orders" has 3 records on cluster a, which is dead,
// and an empty head on b, far behind them.
func failedOver(t *testing.T) (w *world, base federation.LogicalOffset) {
	t.Helper()
	w = newWorld(t)
	w.topic("orders", 1, nil)
	w.fill(t, "orders", 1, 3)
	w.clusters["a"].Close()
	old := federationtest.Head("a", "phys", 0)
	old.State, old.Seen, old.Acknowledged = federation.ExtentSuspended, 2, 3
	head := federationtest.Head("b", "phys", 1)
	head.Number, head.Base = 1, 3+1<<40
	head.Epochs = []federation.EpochEntry{{Physical: 0, Logical: 2}}
	w.Change(func(m *federation.Map) {
		m.Clusters = maps.Clone(m.Clusters)
		a := *m.Clusters["a"]
		a.State = federation.ClusterFailed
		m.Clusters["a"] = &a
	})
	w.SetTopic("orders", nil, []*federation.Extent{old, head})
	return w, head.Base
}

// A bounded read ends although nothing lies between its position and its stop but the gap.
func TestBoundedReadEndsBehindAGap(t *testing.T) {
	w, base := failedOver(t)
	for _, start := range []int64{0, 3, int64(base)} {
		at := &braidv1.Position{At: &braidv1.Position_Offset{Offset: start}}
		batches, _ := readAll(t, w.consumer(t), &braidv1.ReadRequest{Sources: from("orders", at), Stop: toTheEnd})
		require.Empty(t, batches, "from %d", start)
	}
}

// The lag of a group counts records, not the gap behind them; a partition whose head is
// on a failed cluster has none, and does not hold up the answer.
func TestLagOverAFailover(t *testing.T) {
	w, base := failedOver(t)
	admin := adminv1connect.NewGroupServiceClient(h2c(t), w.url)
	const name = "logicalClusters/default/groups/g"
	reset := func(to federation.LogicalOffset) {
		t.Helper()
		_, err := admin.ResetOffsets(ctxFor(t), &adminv1.ResetOffsetsRequest{Name: name, To: &adminv1.ResetOffsetsRequest_Offsets{Offsets: &adminv1.ResetOffsetsRequest_ExplicitOffsets{
			Offsets: []*adminv1.Group_PartitionLag{{Topic: "orders", Partition: 0, Committed: int64(to)}},
		}}})
		require.NoError(t, err)
	}
	lag := func() int64 {
		t.Helper()
		got, err := admin.GetGroup(ctxFor(t), &adminv1.GetGroupRequest{Name: name})
		require.NoError(t, err)
		require.Len(t, got.GetGroup().GetLag(), 1)
		return got.GetGroup().GetLag()[0].GetLag()
	}
	for committed, want := range map[federation.LogicalOffset]int64{1: 2, 3: 0, base: 0} {
		reset(committed)
		require.Equal(t, want, lag(), "committed %d", committed)
	}
	w.Change(func(m *federation.Map) {
		topic := *m.Topics["orders"]
		p := *topic.Partitions[0]
		head := *p.Extents[0]
		head.State = federation.ExtentSealing
		p.Extents = []*federation.Extent{&head}
		topic.Partitions = []*federation.Partition{&p}
		m.Topics["orders"] = &topic
	})
	began := time.Now()
	require.EqualValues(t, -1, lag())
	require.Less(t, time.Since(began), 5*time.Second)
}
