package controller_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/mapwatch"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

// Of the heads of a topic, those move that take half of its load with them, as
// the gateways report it together.
func TestExpandSpreadsLoad(t *testing.T) {
	w := newWorld(t, "a", "b")
	n := w.controller(t, "c1", moving)
	a := adminOf(t, n.url)
	w.addClusters(t, a)
	_, err := a.create(t.Context(), "orders", 6, func(r *adminv1.CreateTopicRequest) {
		r.Topic.Placement = &adminv1.PlacementPolicy{PhysicalClusters: []string{"a"}}
	})
	require.NoError(t, err)
	// 400, 100, 300, 100, 200, 100 in both together; by their numbers, 0 to 2 would go.
	for id, bytes := range map[string][]int64{"g1": {300, 100, 0, 50, 200, 100}, "g2": {100, 0, 300, 50}} {
		g := w.gateway(t, id, []string{n.url}, func(c *mapwatch.Config) {
			c.LoadInterval = 100 * time.Millisecond
			c.Loads = func(context.Context) (map[federation.TopicPartition]int64, error) {
				out := make(map[federation.TopicPartition]int64)
				for i, n := range bytes {
					out[federation.TopicPartition{Topic: "orders", Partition: federation.LogicalPartition(i)}] = n << 20
				}
				return out, nil
			}
		})
		g.awaitRegistered(t)
	}
	require.Eventually(t, func() bool {
		out, err := a.topics.ExpandTopic(t.Context(), &adminv1.ExpandTopicRequest{Name: topicName("orders"), PhysicalClusters: []string{"b"}, ValidateOnly: true})
		if err != nil {
			return false
		}
		var moved []int32
		for _, v := range out.GetMoves() {
			moved = append(moved, v.GetPartition())
		}
		return slices.Equal(moved, []int32{1, 2, 4})
	}, patience, 20*time.Millisecond)
}
