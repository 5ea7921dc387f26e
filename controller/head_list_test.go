package controller

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
)

func TestHeadListIsSmall(t *testing.T) {
	at := func(cluster, topic string, p int) federation.PhysicalAddress {
		return federation.PhysicalAddress{Cluster: federation.ClusterName(cluster), Topic: topic, Partition: federation.PhysicalPartition(p)}
	}
	var heads headList
	for i := range 6000 {
		heads = append(heads, primedHead{
			Move: planner.Move{
				TopicPartition: federation.TopicPartition{Topic: "orders", Partition: federation.LogicalPartition(i)}, Extent: int32(i % 3),
				From: at("a", "legacy", i), To: at([]string{"b", "c"}[i%2], "default.orders.1", i/2),
			},
			Primer: federation.PhysicalOffset(i % 5), Epoch: federation.PhysicalEpoch(i),
			Copies: federation.PhysicalRange{From: 1, To: federation.PhysicalOffset(1 + i%7)}, CopiedEnd: federation.PhysicalOffset(i),
			Openings: federation.PhysicalRange{From: federation.PhysicalOffset(i / 5999), To: federation.PhysicalOffset(i / 5999 * 4)},
		})
	}
	b, err := json.Marshal(moveState{Heads: heads})
	require.NoError(t, err)
	require.Less(t, len(b), 250<<10)
	var again moveState
	require.NoError(t, json.Unmarshal(b, &again))
	require.Equal(t, heads, again.Heads)
	require.NoError(t, json.Unmarshal([]byte(`{"heads":{"topic":"orders","places":[{"cluster":"a"}],"heads":[[3,1,0,2,0,4,9,5]]}}`), &again), "of a version before copies")
	require.EqualValues(t, 9, again.Heads[0].Primer)
	require.False(t, again.Heads[0].copied())
	require.Error(t, json.Unmarshal([]byte(`{"heads":{"places":[],"heads":[[0,0,0,0,0,0,0,0]]}}`), &again))
}
