package controller_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/mapwatch"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

// onClusters runs a test on embedded clusters and, if BRAID_TEST_KAFKA names real
// ones (a=HOST:PORT,b=HOST:PORT), also on those, each with one broker.
func onClusters(t *testing.T, test func(t *testing.T, seeds map[string][]string)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		test(t, map[string][]string{
			"a": newKafka(t, "a", 1).ListenAddrs(),
			"b": newKafka(t, "b", 1).ListenAddrs(),
		})
	})
	if list := os.Getenv("BRAID_TEST_KAFKA"); list != "" {
		t.Run("kafka", func(t *testing.T) {
			seeds := map[string][]string{}
			for item := range strings.SplitSeq(list, ",") {
				name, address, _ := strings.Cut(item, "=")
				seeds[name] = []string{address}
			}
			test(t, seeds)
		})
	}
}

func TestTopicLifecycle(t *testing.T) {
	onClusters(t, func(t *testing.T, seeds map[string][]string) {
		t.Helper()
		ctx := t.Context()
		lc := fmt.Sprintf("t%d", time.Now().UnixNano()) // the names of physical topics differ at each run
		name := "logicalClusters/" + lc + "/topics/orders.v1"
		w := newWorld(t)
		n := w.controller(t, "c1", func(c *controller.Config) { c.LogicalCluster = lc; c.StepTimeout = 20 * time.Second })
		a := adminOf(t, n.url)
		for cluster, s := range seeds {
			_, err := a.clusters.CreateCluster(ctx, &adminv1.CreateClusterRequest{Cluster: &adminv1.Cluster{Name: "physicalClusters/" + cluster, Bootstrap: s}})
			require.NoError(t, err)
		}
		g := w.gateway(t, "g1", []string{n.url}, func(c *mapwatch.Config) { c.LogicalCluster = lc })
		g.awaitRegistered(t)

		_, err := a.create(ctx, "orders.v1", 5, func(r *adminv1.CreateTopicRequest) { r.Topic.ReplicationFactor = 2 })
		requireKind(t, federation.InvalidReplicationFactor, err)
		_, err = a.create(ctx, "orders.v1", 5, func(r *adminv1.CreateTopicRequest) { r.Topic.Config = map[string]string{"retention.ms": "soon"} })
		requireKind(t, federation.InvalidConfig, err)
		created, err := a.create(ctx, "orders.v1", 5, func(r *adminv1.CreateTopicRequest) {
			r.Topic.Config = map[string]string{"retention.ms": "3600000"}
		})
		require.NoError(t, err)
		require.EqualValues(t, 1, created.GetTopic().GetReplicationFactor())
		require.Len(t, g.Current().Topic("orders.v1").Partitions, 5)

		updated, err := a.topics.UpdateTopic(ctx, &adminv1.UpdateTopicRequest{
			Topic:      &adminv1.Topic{Name: name, Config: map[string]string{"max.message.bytes": "2000000"}, Etag: created.GetTopic().GetEtag()},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"config.max.message.bytes"}},
		})
		require.NoError(t, err)
		require.Equal(t, map[string]string{"max.message.bytes": "2000000", "retention.ms": "3600000"}, updated.GetTopic().GetConfig())
		_, err = a.topics.UpdateTopic(ctx, &adminv1.UpdateTopicRequest{Topic: &adminv1.Topic{Name: name, Etag: created.GetTopic().GetEtag()}})
		requireKind(t, federation.Conflict, err)

		grown, err := a.topics.GrowTopic(ctx, &adminv1.GrowTopicRequest{Name: name, PartitionCount: 8})
		require.NoError(t, err)
		require.EqualValues(t, 8, grown.GetTopic().GetPartitionCount())
		heads := map[federation.ClusterName]int{}
		for _, p := range g.Current().Topic("orders.v1").Partitions {
			heads[p.Head().Cluster]++
		}
		require.Equal(t, map[federation.ClusterName]int{"a": 4, "b": 4}, heads)

		_, err = a.clusters.DeleteCluster(ctx, &adminv1.DeleteClusterRequest{Name: "physicalClusters/a"})
		requireKind(t, federation.PolicyViolation, err)
		deleted, err := a.topics.DeleteTopic(ctx, &adminv1.DeleteTopicRequest{Name: name})
		require.NoError(t, err)
		op := a.await(t, deleted.GetOperation())
		require.Zero(t, op.GetErrorCode(), op.GetErrorMessage())
		_, err = a.clusters.DeleteCluster(ctx, &adminv1.DeleteClusterRequest{Name: "physicalClusters/a"})
		require.NoError(t, err)

		again, err := a.create(ctx, "orders.v1", 1)
		require.NoError(t, err)
		extent, err := a.topics.ListExtents(ctx, &adminv1.ListExtentsRequest{Parent: again.GetTopic().GetName()})
		require.NoError(t, err)
		require.Equal(t, lc+".orders.v1.3", extent.GetPartitions()[0].GetExtents()[0].GetPhysicalTopic())
		deleted, err = a.topics.DeleteTopic(ctx, &adminv1.DeleteTopicRequest{Name: name})
		require.NoError(t, err)
		a.await(t, deleted.GetOperation())
	})
}
