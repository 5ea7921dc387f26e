package controller_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

func TestTopicIsSpreadOverTwoClusters(t *testing.T) {
	w := newWorld(t, "a", "b")
	n := w.controller(t, "c1")
	a := adminOf(t, n.url)
	w.addClusters(t, a)
	g := w.gateway(t, "g1", []string{n.url})
	g.awaitRegistered(t)

	resp, err := a.create(t.Context(), "orders", 5, func(r *adminv1.CreateTopicRequest) {
		r.Topic.Config = map[string]string{"retention.ms": "60000"}
		r.Topic.ReplicationFactor = 2
	})
	require.NoError(t, err)
	require.Equal(t, topicName("orders"), resp.GetTopic().GetName())
	require.EqualValues(t, 5, resp.GetTopic().GetPartitionCount())
	require.EqualValues(t, 2, resp.GetTopic().GetReplicationFactor())

	// The gateway has it already when the call is answered.
	topic := g.Current().Topic("orders")
	require.NotNil(t, topic)
	next := map[federation.ClusterName]federation.PhysicalPartition{}
	for i, p := range topic.Partitions {
		e := p.Head()
		require.Equal(t, federation.LogicalPartition(i), p.Number)
		require.Equal(t, "default.orders.1", e.Topic)
		require.Equal(t, next[e.Cluster], e.Partition, "physical partitions are dense")
		require.Equal(t, federation.ExtentOpen, e.State)
		require.Zero(t, e.Base)
		require.Zero(t, e.Start)
		next[e.Cluster]++
	}
	require.Equal(t, map[federation.ClusterName]federation.PhysicalPartition{"a": 3, "b": 2}, next)
	for name, want := range map[string]int{"a": 3, "b": 2} {
		require.Len(t, w.kafka[name].PartitionInfos("default.orders.1"), want)
		require.Equal(t, "60000", *w.kafka[name].TopicInfo("default.orders.1").Configs["retention.ms"])
	}
	require.Len(t, a.extents(t, "orders"), 5)

	_, err = a.create(t.Context(), "orders", 5)
	requireKind(t, federation.TopicExists, err)
}

func TestCreateTopicRefuses(t *testing.T) {
	w := newWorld(t, "a")
	n := w.controller(t, "c1")
	a := adminOf(t, n.url)
	w.addClusters(t, a)
	topic := func(f func(*adminv1.CreateTopicRequest)) func(*adminv1.CreateTopicRequest) { return f }
	for name, tc := range map[string]struct {
		topic  string
		change func(*adminv1.CreateTopicRequest)
		kind   federation.Kind
		says   string
	}{
		"name":         {"a/b", nil, federation.InvalidTopicName, "'/'"},
		"no name":      {"", nil, federation.InvalidTopicName, "empty"},
		"count":        {"t", topic(func(r *adminv1.CreateTopicRequest) { r.Topic.PartitionCount = -7 }), federation.InvalidPartitionCount, "want 1 to"},
		"replication":  {"t", topic(func(r *adminv1.CreateTopicRequest) { r.Topic.ReplicationFactor = 3 }), federation.InvalidReplicationFactor, "above the 2 brokers"},
		"replication2": {"t", topic(func(r *adminv1.CreateTopicRequest) { r.Topic.ReplicationFactor = -2 }), federation.InvalidReplicationFactor, "want 1 or more"},
		"own config":   {"t", topic(func(r *adminv1.CreateTopicRequest) { r.Topic.Config = map[string]string{"braid.x": "1"} }), federation.InvalidConfig, "braid.x"},
		"cluster": {"t", topic(func(r *adminv1.CreateTopicRequest) {
			r.Topic.Placement = &adminv1.PlacementPolicy{PhysicalClusters: []string{"zz"}}
		}), federation.UnknownCluster, "zz"},
		"parent": {"t", topic(func(r *adminv1.CreateTopicRequest) { r.Parent = "logicalClusters/other" }), federation.InvalidArgument, "other"},
	} {
		t.Run(name, func(t *testing.T) {
			var changes []func(*adminv1.CreateTopicRequest)
			if tc.change != nil {
				changes = append(changes, tc.change)
			}
			for _, validateOnly := range []bool{true, false} {
				_, err := a.create(t.Context(), tc.topic, 1, append(changes, func(r *adminv1.CreateTopicRequest) { r.ValidateOnly = validateOnly })...)
				requireKind(t, tc.kind, err)
				require.ErrorContains(t, err, tc.says)
			}
		})
	}
	valid, err := a.create(t.Context(), "fine", 3, func(r *adminv1.CreateTopicRequest) { r.ValidateOnly = true })
	require.NoError(t, err)
	require.EqualValues(t, 3, valid.GetTopic().GetPartitionCount())
	list, err := a.topics.ListTopics(t.Context(), &adminv1.ListTopicsRequest{})
	require.NoError(t, err)
	require.Empty(t, list.GetTopics())
	require.Nil(t, w.kafka["a"].TopicInfo("default.fine.1"))
}

func TestSameRequestCreatesOnce(t *testing.T) {
	w := newWorld(t, "a", "b")
	n := w.controller(t, "c1")
	a := adminOf(t, n.url)
	w.addClusters(t, a)
	request := func(r *adminv1.CreateTopicRequest) { r.RequestId = "request-1" }
	var wg sync.WaitGroup
	names := make([]string, 4)
	errs := make([]error, len(names))
	for i := range names {
		wg.Go(func() {
			resp, err := a.create(t.Context(), "orders", 4, request)
			names[i], errs[i] = resp.GetOperation(), err
		})
	}
	wg.Wait()
	done := ""
	for i, err := range errs {
		if err != nil { // it came while the first one was being written down
			requireKind(t, federation.Conflict, err)
			continue
		}
		if done == "" {
			done = names[i]
		}
		require.Equal(t, done, names[i])
	}
	require.NotEmpty(t, done)
	again, err := a.create(t.Context(), "orders", 4, request)
	require.NoError(t, err)
	require.Equal(t, done, again.GetOperation())
	require.NotNil(t, again.GetTopic())
	_, err = a.create(t.Context(), "others", 4, request)
	requireKind(t, federation.InvalidArgument, err)
}

func TestGrowTopic(t *testing.T) {
	w := newWorld(t, "a", "b")
	n := w.controller(t, "c1")
	a := adminOf(t, n.url)
	w.addClusters(t, a)
	_, err := a.create(t.Context(), "orders", 2)
	require.NoError(t, err)
	before := a.extents(t, "orders")

	grown, err := a.topics.GrowTopic(t.Context(), &adminv1.GrowTopicRequest{Name: topicName("orders"), PartitionCount: 7})
	require.NoError(t, err)
	require.EqualValues(t, 7, grown.GetTopic().GetPartitionCount())
	after := a.extents(t, "orders")
	require.Len(t, after, 7)
	for i := range before {
		require.Equal(t, before[i].GetExtents()[0].GetName(), after[i].GetExtents()[0].GetName())
		require.Equal(t, before[i].GetExtents()[0].GetPhysicalCluster(), after[i].GetExtents()[0].GetPhysicalCluster())
	}
	have := len(w.kafka["a"].PartitionInfos("default.orders.1")) + len(w.kafka["b"].PartitionInfos("default.orders.1"))
	require.Equal(t, 7, have)

	for count, want := range map[int32]federation.Kind{7: federation.InvalidPartitionCount, 3: federation.InvalidPartitionCount, 0: federation.InvalidPartitionCount, 1 << 30: federation.InvalidPartitionCount} {
		_, err = a.topics.GrowTopic(t.Context(), &adminv1.GrowTopicRequest{Name: topicName("orders"), PartitionCount: count})
		requireKind(t, want, err)
	}
	_, err = a.topics.GrowTopic(t.Context(), &adminv1.GrowTopicRequest{Name: topicName("ghost"), PartitionCount: 3})
	requireKind(t, federation.UnknownTopic, err)
}

func TestDeleteTopicAndCreateAgain(t *testing.T) {
	w := newWorld(t, "a", "b")
	n := w.controller(t, "c1")
	a := adminOf(t, n.url)
	w.addClusters(t, a)
	g := w.gateway(t, "g1", []string{n.url})
	g.awaitRegistered(t)
	first, err := a.create(t.Context(), "orders", 3)
	require.NoError(t, err)

	_, err = a.topics.DeleteTopic(t.Context(), &adminv1.DeleteTopicRequest{Name: topicName("orders"), Etag: "stale"})
	requireKind(t, federation.Conflict, err)
	deleted, err := a.topics.DeleteTopic(t.Context(), &adminv1.DeleteTopicRequest{Name: topicName("orders"), Etag: first.GetTopic().GetEtag()})
	require.NoError(t, err)
	require.Nil(t, g.Current().Topic("orders"), "the gateway knows when the call is answered")
	require.Zero(t, a.await(t, deleted.GetOperation()).GetErrorCode())
	require.Nil(t, w.kafka["a"].TopicInfo("default.orders.1"))
	require.Nil(t, w.kafka["b"].TopicInfo("default.orders.1"))

	_, err = a.topics.DeleteTopic(t.Context(), &adminv1.DeleteTopicRequest{Name: topicName("orders")})
	requireKind(t, federation.UnknownTopic, err)
	second, err := a.create(t.Context(), "orders", 3)
	require.NoError(t, err)
	require.NotEqual(t, first.GetTopic().GetUid(), second.GetTopic().GetUid())
	require.Equal(t, "default.orders.2", a.extents(t, "orders")[0].GetExtents()[0].GetPhysicalTopic())
}

func TestUpdateTopicConfig(t *testing.T) {
	w := newWorld(t, "a", "b")
	n := w.controller(t, "c1")
	a := adminOf(t, n.url)
	w.addClusters(t, a)
	_, err := a.create(t.Context(), "orders", 2, func(r *adminv1.CreateTopicRequest) {
		r.Topic.Config = map[string]string{"retention.ms": "1000", "segment.bytes": "1048576"}
	})
	require.NoError(t, err)
	update := func(config map[string]string, validateOnly bool, paths ...string) (*adminv1.Topic, error) {
		resp, err := a.topics.UpdateTopic(t.Context(), &adminv1.UpdateTopicRequest{
			Topic:      &adminv1.Topic{Name: topicName("orders"), Config: config},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}, ValidateOnly: validateOnly,
		})
		return resp.GetTopic(), err
	}
	physical := func(cluster, key string) string {
		v := w.kafka[cluster].TopicInfo("default.orders.1").Configs[key]
		if v == nil {
			return ""
		}
		return *v
	}
	topic, err := update(map[string]string{"retention.ms": "2000"}, false, "config.retention.ms")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"retention.ms": "2000", "segment.bytes": "1048576"}, topic.GetConfig())
	require.Equal(t, "2000", physical("a", "retention.ms"))
	require.Equal(t, "2000", physical("b", "retention.ms"))

	topic, err = update(nil, false, "config.segment.bytes")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"retention.ms": "2000"}, topic.GetConfig())
	require.Empty(t, physical("b", "segment.bytes"))

	topic, err = update(map[string]string{"retention.ms": "9"}, true, "config")
	require.NoError(t, err)
	require.Equal(t, "9", topic.GetConfig()["retention.ms"])
	require.Equal(t, "2000", physical("a", "retention.ms"), "it was only validated")

	// One cluster refuses: the other one is not changed either.
	w.kafka["b"].ControlKey(int16(kmsg.IncrementalAlterConfigs), func(req kmsg.Request) (kmsg.Response, error, bool) {
		resp := req.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
		for _, r := range req.(*kmsg.IncrementalAlterConfigsRequest).Resources {
			x := kmsg.NewIncrementalAlterConfigsResponseResource()
			x.ResourceName, x.ResourceType, x.ErrorCode = r.ResourceName, r.ResourceType, kerr.InvalidConfig.Code
			resp.Resources = append(resp.Resources, x)
		}
		return resp, nil, true
	})
	_, err = update(map[string]string{"retention.ms": "3000"}, false, "config")
	requireKind(t, federation.InvalidConfig, err)
	require.Equal(t, "2000", physical("a", "retention.ms"))
	_, err = update(nil, false, "partition_count")
	requireKind(t, federation.InvalidArgument, err)
	got, err := a.topics.GetTopic(t.Context(), &adminv1.GetTopicRequest{Name: topicName("orders")})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"retention.ms": "2000"}, got.GetTopic().GetConfig())
}

func TestClusters(t *testing.T) {
	w := newWorld(t, "a", "b")
	n := w.controller(t, "c1")
	a := adminOf(t, n.url)
	w.addClusters(t, a)
	add := func(name string, seeds ...string) error {
		_, err := a.clusters.CreateCluster(t.Context(), &adminv1.CreateClusterRequest{Cluster: &adminv1.Cluster{Name: name, Bootstrap: seeds}})
		return err
	}
	requireKind(t, federation.TopicExists, add("physicalClusters/a", w.kafka["a"].ListenAddrs()...))
	err := add("physicalClusters/c", w.kafka["a"].ListenAddrs()[1])
	requireKind(t, federation.TopicExists, err)
	require.ErrorContains(t, err, `as "a"`)
	requireKind(t, federation.InvalidArgument, add("c", "h:1"))
	requireKind(t, federation.InvalidArgument, add("physicalClusters/c"))
	requireKind(t, federation.InvalidArgument, add("physicalClusters/c", "nowhere"))
	requireKind(t, federation.InvalidArgument, add("physicalClusters/c d", "h:1"))
	requireKind(t, federation.ClusterUnavailable, add("physicalClusters/c", "127.0.0.1:1"))

	_, err = a.create(t.Context(), "orders", 2, func(r *adminv1.CreateTopicRequest) {
		r.Topic.Placement = &adminv1.PlacementPolicy{PhysicalClusters: []string{"a"}}
	})
	require.NoError(t, err)
	got, err := a.clusters.GetCluster(t.Context(), &adminv1.GetClusterRequest{Name: "physicalClusters/a"})
	require.NoError(t, err)
	require.EqualValues(t, 2, got.GetCluster().GetExtents())
	require.EqualValues(t, 2, got.GetCluster().GetBrokers())
	require.True(t, got.GetCluster().GetHealthy())
	require.Equal(t, adminv1.Cluster_STATE_ACTIVE, got.GetCluster().GetState())

	_, err = a.clusters.DeleteCluster(t.Context(), &adminv1.DeleteClusterRequest{Name: "physicalClusters/a"})
	require.ErrorContains(t, err, "2 extents")
	_, err = a.clusters.DeleteCluster(t.Context(), &adminv1.DeleteClusterRequest{Name: "physicalClusters/b"})
	require.NoError(t, err)
	_, err = a.clusters.GetCluster(t.Context(), &adminv1.GetClusterRequest{Name: "physicalClusters/b"})
	requireKind(t, federation.UnknownCluster, err)

	_, err = a.clusters.UpdateCluster(t.Context(), &adminv1.UpdateClusterRequest{
		Cluster: &adminv1.Cluster{Name: "physicalClusters/a", Bootstrap: w.kafka["b"].ListenAddrs()},
	})
	requireKind(t, federation.InvalidArgument, err)
	updated, err := a.clusters.UpdateCluster(t.Context(), &adminv1.UpdateClusterRequest{
		Cluster: &adminv1.Cluster{Name: "physicalClusters/a", Bootstrap: w.kafka["a"].ListenAddrs()[:1], Weight: 7},
	})
	require.NoError(t, err)
	require.EqualValues(t, 7, updated.GetCluster().GetWeight())
	require.Len(t, updated.GetCluster().GetBootstrap(), 1)
}

func TestListsInPages(t *testing.T) {
	w := newWorld(t, "a")
	n := w.controller(t, "c1")
	a := adminOf(t, n.url)
	w.addClusters(t, a)
	for i := range 5 {
		_, err := a.create(t.Context(), fmt.Sprintf("t%d", i), 1)
		require.NoError(t, err)
	}
	var names []string
	for token := ""; ; {
		resp, err := a.topics.ListTopics(t.Context(), &adminv1.ListTopicsRequest{PageSize: 2, PageToken: token})
		require.NoError(t, err)
		for _, x := range resp.GetTopics() {
			names = append(names, x.GetName())
		}
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
	}
	require.Equal(t, []string{topicName("t0"), topicName("t1"), topicName("t2"), topicName("t3"), topicName("t4")}, names)
	var ops []string
	for token := ""; ; {
		resp, err := a.operations.ListOperations(t.Context(), &adminv1.ListOperationsRequest{PageSize: 2, PageToken: token})
		require.NoError(t, err)
		for _, x := range resp.GetOperations() {
			ops = append(ops, x.GetTarget())
		}
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
	}
	require.Equal(t, []string{topicName("t4"), topicName("t3"), topicName("t2"), topicName("t1"), topicName("t0")}, ops, "newest first")
	_, err := a.topics.ListTopics(t.Context(), &adminv1.ListTopicsRequest{PageToken: "%"})
	requireKind(t, federation.InvalidArgument, err)
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*controller.Config){
		"url":             func(c *controller.Config) { c.URL = "nowhere" },
		"logical cluster": func(c *controller.Config) { c.LogicalCluster = "A.b" },
		"renew":           func(c *controller.Config) { c.RenewInterval = c.LeaseTTL },
		"beat":            func(c *controller.Config) { c.BeatTimeout = c.BeatInterval },
		"lease":           func(c *controller.Config) { c.GatewayLease = time.Second },
		"negative":        func(c *controller.Config) { c.ApplyWait = -1 },
		"partitions":      func(c *controller.Config) { c.PartitionsMax = -1 },
		"streams":         func(c *controller.Config) { c.StreamsMax = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			c := controller.Config{URL: "http://127.0.0.1:1"}
			c.EnsureDefaults()
			require.NoError(t, c.Validate())
			change(&c)
			require.Error(t, c.Validate())
		})
	}
}
