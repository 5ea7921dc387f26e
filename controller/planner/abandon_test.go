package planner_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
)

func TestAbandon(t *testing.T) {
	m := bigMap(2, 2, 1, 1)
	h := m.Topics["t0"].Partitions[0].Head()
	_, err := planner.ToAbandon(m, "none")
	require.Equal(t, federation.UnknownCluster, federation.KindOf(err))
	_, err = planner.ToAbandon(m, h.Cluster)
	require.ErrorContains(t, err, "has not failed")
	m, err = planner.WithClusterState(m, h.Cluster, federation.ClusterFailed)
	require.NoError(t, err)
	_, err = planner.WithAbandoned(m, h.Cluster, "t0")
	require.ErrorContains(t, err, "heads of")

	var heads []planner.FailedHead
	var moves []planner.Move
	for name, topic := range m.Topics {
		for _, p := range topic.Partitions {
			if p.Head().Cluster != h.Cluster {
				continue
			}
			v := planner.Move{
				TopicPartition: federation.TopicPartition{Topic: name, Partition: p.Number}, From: p.Head().PhysicalAddress,
				To: federation.PhysicalAddress{Cluster: "cluster-01", Topic: p.Head().Topic, Partition: 100 + p.Head().Partition},
			}
			moves, heads = append(moves, v), append(heads, planner.FailedHead{Move: v, Start: 1, Seen: 5, Acknowledged: 9})
		}
	}
	m, err = planner.WithSealing(m, moves)
	require.NoError(t, err)
	m, err = planner.WithFailedOver(m, heads)
	require.NoError(t, err)
	topics, err := planner.ToAbandon(m, h.Cluster)
	require.NoError(t, err)
	extents := 0
	next := m
	for _, a := range topics {
		require.Len(t, a.Partitions, a.Extents)
		extents += a.Extents
		// A log begins at 1 in this map.
		require.EqualValues(t, (9-h.Start)*federation.PhysicalOffset(a.Extents), a.Records)
		require.EqualValues(t, 4*a.Extents, a.Unseen)
		_, err = planner.WithoutCluster(next, h.Cluster)
		require.Error(t, err, "something is left")
		before := next
		next, err = planner.WithAbandoned(before, h.Cluster, a.Topic)
		require.NoError(t, err)
		require.NoError(t, next.Validate())
		again, err := planner.WithAbandoned(next, h.Cluster, a.Topic)
		require.NoError(t, err)
		require.Same(t, next, again, "it can be repeated")
		for i, p := range next.Topics[a.Topic].Partitions {
			was := before.Topics[a.Topic].Partitions[i]
			require.Same(t, was.Head(), p.Head())
			require.Equal(t, was.Epoch, p.Epoch)
		}
	}
	require.Len(t, heads, extents)
	same, err := planner.WithAbandoned(next, h.Cluster, "deleted")
	require.NoError(t, err)
	require.Same(t, next, same)
	_, err = planner.WithoutCluster(next, h.Cluster)
	require.NoError(t, err)
}
