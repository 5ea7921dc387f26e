package kafkacompat_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/kafkacompat"
)

func askMetadata(topics ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, name := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &name
		req.Topics = append(req.Topics, t)
	}
	return req
}

func TestMetadataNamesGateways(t *testing.T) {
	w := newWorld(t)
	second := w.addGateway("gw-1", 2, "zone-b")
	third := w.addGateway("gw-2", 3, "zone-c")
	w.create("orders", 30, nil)
	require.NoError(t, w.CreateTopic(t.Context(), kafkacompat.TopicSpec{Name: "triple", Partitions: 3, ReplicationFactor: 3}))
	for v := int16(0); v <= 13; v++ {
		resp := exchange[*kmsg.MetadataResponse](w.dial(), askMetadata("triple", "orders"), v)
		require.Len(t, resp.Brokers, 3)
		require.Len(t, resp.Topics, 2)
		leaders := make(map[int32]int)
		for _, p := range resp.Topics[1].Partitions {
			require.Zero(t, p.ErrorCode)
			leaders[p.Leader]++
			require.Equal(t, []int32{p.Leader}, p.Replicas)
			require.Equal(t, p.Replicas, p.ISR)
			if v >= 7 {
				require.EqualValues(t, 1, p.LeaderEpoch)
			}
		}
		require.Len(t, leaders, 3, "the partitions are spread")
		for _, p := range resp.Topics[0].Partitions {
			require.Equal(t, p.Leader, p.Replicas[0])
			replicas := slices.Sorted(slices.Values(p.Replicas))
			require.Equal(t, []int32{1, 2, 3}, replicas)
		}
		// Each gateway gives the same answer to the same client.
		for _, addr := range []string{second, third} {
			other := exchange[*kmsg.MetadataResponse](dial(t, addr), askMetadata("triple", "orders"), v)
			require.Equal(t, resp, other)
		}
	}
	// All topics: an empty array in v0, null later.
	require.Len(t, exchange[*kmsg.MetadataResponse](w.dial(), askMetadata(), 0).Topics, 2)
	require.Empty(t, exchange[*kmsg.MetadataResponse](w.dial(), askMetadata(), 1).Topics)
	all := kmsg.NewPtrMetadataRequest()
	all.Topics = nil
	require.Len(t, exchange[*kmsg.MetadataResponse](w.dial(), all, 1).Topics, 2)
	require.Len(t, exchange[*kmsg.MetadataResponse](w.dial(), all, 12).Topics, 2)
	// By id.
	byID := askMetadata()
	for _, id := range []federation.TopicID{w.Current().Topics["orders"].ID, {1, 2, 3}} {
		rt := kmsg.NewMetadataRequestTopic()
		rt.TopicID = id
		byID.Topics = append(byID.Topics, rt)
	}
	resp := exchange[*kmsg.MetadataResponse](w.dial(), byID, 12)
	require.Equal(t, "orders", *resp.Topics[0].Topic)
	require.Equal(t, kerr.UnknownTopicID.Code, resp.Topics[1].ErrorCode)
	require.Equal(t, kerr.InvalidRequest.Code, exchange[*kmsg.MetadataResponse](w.dial(), byID, 10).Topics[0].ErrorCode)
}

func TestMetadataSendsClientsToTheirZoneAndRole(t *testing.T) {
	w := newWorld(t)
	w.addGateway("gw-1", 2, "zone-b")
	w.addGateway("gw-2", 3, "zone-b")
	w.create("orders", 20, nil)
	leaders := func(clientID string) []int32 {
		cl := w.client(kgo.ClientID(clientID))
		md, err := kadm.NewClient(cl).Metadata(t.Context(), "orders")
		require.NoError(t, err)
		require.Len(t, md.Brokers, 3, "all gateways are nodes")
		seen := make(map[int32]bool)
		for _, p := range md.Topics["orders"].Partitions.Sorted() {
			seen[p.Leader] = true
		}
		var ids []int32
		for id := range seen {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		return ids
	}
	require.Equal(t, []int32{2, 3}, leaders("app,braid_zone=zone-b"))
	require.Equal(t, []int32{1, 2, 3}, leaders("app"))
	w.Change(func(m *federation.Map) {
		for i, g := range m.Gateways {
			other := *g
			other.Role = federation.RoleConsume
			if g.NodeID == 1 {
				other.Role = federation.RoleProduce
			}
			m.Gateways[i] = &other
		}
	})
	require.Equal(t, []int32{1}, leaders("app,braid_role=produce"))
	require.Equal(t, []int32{2, 3}, leaders("app braid_role=consume"))
	// A draining gateway is named no more.
	w.Change(func(m *federation.Map) {
		for i, g := range m.Gateways {
			other := *g
			other.Role = federation.RoleBoth
			if g.NodeID == 2 {
				other.State = federation.GatewayDraining
			}
			m.Gateways[i] = &other
		}
	})
	resp := exchange[*kmsg.MetadataResponse](w.dial(), askMetadata("orders"), 12)
	require.Len(t, resp.Brokers, 2)
}

func TestMetadataCreatesTopics(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) { c.AutoCreateTopics, c.DefaultPartitions = true, 3 })
	req := askMetadata("fresh", "..", "no spaces")
	req.AllowAutoTopicCreation = true
	resp := exchange[*kmsg.MetadataResponse](w.dial(), req, 12)
	require.Zero(t, resp.Topics[0].ErrorCode)
	require.Len(t, resp.Topics[0].Partitions, 3)
	require.Equal(t, kerr.InvalidTopicException.Code, resp.Topics[1].ErrorCode)
	require.Equal(t, kerr.InvalidTopicException.Code, resp.Topics[2].ErrorCode)
	req = askMetadata("not-asked-for")
	req.AllowAutoTopicCreation = false
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, exchange[*kmsg.MetadataResponse](w.dial(), req, 12).Topics[0].ErrorCode)
	require.Zero(t, exchange[*kmsg.MetadataResponse](w.dial(), askMetadata("by-an-old-client"), 2).Topics[0].ErrorCode, "before v4 it is always asked for")
	// A crowd makes one.
	errs := make(chan error)
	for i := range 10 {
		cl := w.client(kgo.AllowAutoTopicCreation(), kgo.ClientID(fmt.Sprint("c", i)))
		go func() {
			errs <- cl.ProduceSync(context.Background(), &kgo.Record{Topic: "crowd", Value: []byte("x")}).FirstErr()
		}()
	}
	for range 10 {
		require.NoError(t, <-errs)
	}
	require.Len(t, w.Current().Topics["crowd"].Partitions, 3)
}

func TestNoTopicIsCreatedUnlessConfigured(t *testing.T) {
	w := newWorld(t)
	req := askMetadata("fresh")
	req.AllowAutoTopicCreation = true
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, exchange[*kmsg.MetadataResponse](w.dial(), req, 12).Topics[0].ErrorCode)
	require.Empty(t, w.Current().Topics)
}

// TestBeforeTheMapIsLoaded: a gateway that starts never says that a topic or a
// group does not exist.
func TestBeforeTheMapIsLoaded(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 1, nil)
	id := w.Current().Topics["orders"].ID
	produce, fetch := produceRequest(w, "orders", -1, []byte("x")), longPoll(w, 0)
	w.Change(func(m *federation.Map) { m.Version = 0 })
	c := w.dial()
	for v := int16(0); v <= 13; v++ {
		resp := exchange[*kmsg.MetadataResponse](c, askMetadata("orders", "other"), v)
		require.Equal(t, kerr.LeaderNotAvailable.Code, resp.Topics[0].ErrorCode)
		require.Equal(t, kerr.LeaderNotAvailable.Code, resp.Topics[1].ErrorCode)
	}
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKey, find.CoordinatorKeys = "g", []string{"g"}
	require.Equal(t, kerr.CoordinatorNotAvailable.Code, exchange[*kmsg.FindCoordinatorResponse](c, find, 3).ErrorCode)
	require.Equal(t, kerr.CoordinatorNotAvailable.Code, exchange[*kmsg.FindCoordinatorResponse](c, find, 6).Coordinators[0].ErrorCode)
	require.Equal(t, kerr.LeaderNotAvailable.Code, exchange[*kmsg.ProduceResponse](c, produce, 9).Topics[0].Partitions[0].ErrorCode)
	require.Equal(t, kerr.LeaderNotAvailable.Code, exchange[*kmsg.ProduceResponse](c, produce, 13).Topics[0].Partitions[0].ErrorCode)
	require.Equal(t, kerr.NotLeaderForPartition.Code, exchange[*kmsg.FetchResponse](c, fetch, 13).Topics[0].Partitions[0].ErrorCode)
	require.EqualValues(t, id, fetch.Topics[0].TopicID)
	for _, p := range fetchOffsets(c, 1, "g", id) { // v1 has no other place for an error
		require.Equal(t, kerr.CoordinatorLoadInProgress.Code, p.ErrorCode)
	}
	w.Change(func(m *federation.Map) { m.Version = 10 })
	require.Zero(t, exchange[*kmsg.MetadataResponse](c, askMetadata("orders"), 12).Topics[0].ErrorCode)
}

func TestFindCoordinatorAgreesWithMetadata(t *testing.T) {
	w := newWorld(t)
	other := w.addGateway("gw-1", 2, "")
	w.addGateway("gw-2", 3, "")
	seen := make(map[int32]bool)
	for i := range 50 {
		find := kmsg.NewPtrFindCoordinatorRequest()
		find.CoordinatorKey = fmt.Sprint("group-", i)
		find.CoordinatorKeys = []string{find.CoordinatorKey, "another"}
		a := exchange[*kmsg.FindCoordinatorResponse](w.dial(), find, 2)
		b := exchange[*kmsg.FindCoordinatorResponse](dial(t, other), find, 6)
		require.Len(t, b.Coordinators, 2)
		require.Equal(t, a.NodeID, b.Coordinators[0].NodeID)
		require.Equal(t, a.Port, b.Coordinators[0].Port)
		g := w.Current().GatewayByNode(federation.NodeID(a.NodeID))
		require.Equal(t, g.KafkaAddress, fmt.Sprintf("%s:%d", a.Host, a.Port))
		seen[a.NodeID] = true
	}
	require.Len(t, seen, 3)
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorType, find.CoordinatorKeys = 2, []string{"share"}
	require.Equal(t, kerr.InvalidRequest.Code, exchange[*kmsg.FindCoordinatorResponse](w.dial(), find, 6).Coordinators[0].ErrorCode)
}

func TestDescribeClusterAgreesWithMetadata(t *testing.T) {
	w := newWorld(t)
	w.addGateway("gw-1", 2, "zone-b")
	for v := int16(0); v <= 2; v++ {
		req := kmsg.NewPtrDescribeClusterRequest()
		resp := exchange[*kmsg.DescribeClusterResponse](w.dial(), req, v)
		md := exchange[*kmsg.MetadataResponse](w.dial(), askMetadata(), 12)
		require.Zero(t, resp.ErrorCode)
		require.Equal(t, *md.ClusterID, resp.ClusterID)
		require.Equal(t, md.ControllerID, resp.ControllerID)
		require.Len(t, resp.Brokers, 2)
		require.Nil(t, resp.Brokers[0].Rack)
		require.Equal(t, "zone-b", *resp.Brokers[1].Rack)
	}
	req := kmsg.NewPtrDescribeClusterRequest()
	req.EndpointType = 2
	require.Equal(t, kerr.MismatchedEndpointType.Code, exchange[*kmsg.DescribeClusterResponse](w.dial(), req, 1).ErrorCode)
}
