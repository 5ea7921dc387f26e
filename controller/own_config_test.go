package controller_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/rpcerror"
)

// A setting of braid's own is kept in the map, and no cluster is told of it: not at the
// creation of a topic, nor when it grows, nor when it is changed, also while a cluster
// is away.
func TestOwnTopicConfigStaysInTheMap(t *testing.T) {
	w := newWorld(t, "a", "b")
	n := w.controller(t, "c1")
	a := adminOf(t, n.url)
	w.addClusters(t, a)
	own := federation.ConfigFailoverRead
	create := func(value string) error {
		_, err := a.create(t.Context(), "orders", 2, func(r *adminv1.CreateTopicRequest) {
			r.Topic.Config = map[string]string{"retention.ms": "1000", own: value}
		})
		return err
	}
	err := create("sometimes")
	require.Equal(t, federation.InvalidConfig, federation.KindOf(rpcerror.FromError(err)))
	require.ErrorContains(t, err, "one of skip, wait")
	require.NoError(t, create("wait"))
	told := func(clusters ...string) {
		t.Helper()
		for _, cluster := range clusters {
			for _, topic := range []string{"default.orders.1", "default.orders.2"} {
				info := w.kafka[cluster].TopicInfo(topic)
				if info == nil {
					continue
				}
				require.NotContains(t, slices.Collect(maps.Keys(info.Configs)), own)
			}
		}
	}
	told("a", "b")
	_, err = a.topics.GrowTopic(t.Context(), &adminv1.GrowTopicRequest{Name: topicName("orders"), PartitionCount: 6})
	require.NoError(t, err)
	told("a", "b")
	update := func(config map[string]string) (map[string]string, error) {
		resp, err := a.topics.UpdateTopic(t.Context(), &adminv1.UpdateTopicRequest{
			Topic: &adminv1.Topic{Name: topicName("orders"), Config: config}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"config." + own}},
		})
		return resp.GetTopic().GetConfig(), err
	}
	w.kafka["b"].Close()
	got, err := update(map[string]string{own: "skip"})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"retention.ms": "1000", own: "skip"}, got)
	_, err = update(map[string]string{own: "never"})
	require.ErrorContains(t, err, own)
	got, err = update(nil)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"retention.ms": "1000"}, got)
	told("a")
}
