package kafkacompat_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/kafkacompat"
)

func TestDescribeLogDirsInEveryVersion(t *testing.T) {
	w := newWorld(t)
	second := w.addGateway("gw-1", 2, "")
	w.create("orders", 6, nil)
	require.NoError(t, w.CreateTopic(t.Context(), kafkacompat.TopicSpec{Name: "twice", Partitions: 2, ReplicationFactor: 2}))
	plain := w.client(kgo.ProducerBatchCompression(kgo.NoCompression()))
	require.NoError(t, plain.ProduceSync(t.Context(), &kgo.Record{Topic: "twice", Value: make([]byte, 5000)}).FirstErr())
	for v := int16(1); v <= 5; v++ {
		all := kmsg.NewPtrDescribeLogDirsRequest()
		held := make(map[string]int)
		var bytes int64
		for _, addr := range []string{w.addr, second} {
			resp := exchange[*kmsg.DescribeLogDirsResponse](dial(t, addr), all, v)
			require.Zero(t, resp.ErrorCode)
			require.Len(t, resp.Dirs, 1)
			require.Zero(t, resp.Dirs[0].ErrorCode)
			require.Equal(t, "/braid", resp.Dirs[0].Dir)
			require.EqualValues(t, -1, resp.Dirs[0].TotalBytes)
			for _, rt := range resp.Dirs[0].Topics {
				held[rt.Topic] += len(rt.Partitions)
				for _, p := range rt.Partitions {
					if rt.Topic == "twice" {
						bytes += p.Size
					}
				}
			}
		}
		require.Equal(t, map[string]int{"orders": 6, "twice": 4}, held, "each partition once for each replica")
		require.Greater(t, bytes, int64(10_000))
		require.Less(t, bytes, int64(12_000))
	}
	some := kmsg.NewPtrDescribeLogDirsRequest()
	some.Topics = []kmsg.DescribeLogDirsRequestTopic{{Topic: "twice", Partitions: []int32{1, 1, 7, -1}}, {Topic: "never", Partitions: []int32{0}}}
	resp := exchange[*kmsg.DescribeLogDirsResponse](w.dial(), some, 5)
	require.Len(t, resp.Dirs[0].Topics, 1)
	require.Len(t, resp.Dirs[0].Topics[0].Partitions, 1)
	some.Topics = []kmsg.DescribeLogDirsRequestTopic{}
	require.Empty(t, exchange[*kmsg.DescribeLogDirsResponse](w.dial(), some, 5).Dirs[0].Topics, "none is asked for")
}

func TestElectLeadersFindsNothingToElect(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, nil)
	for v := int16(0); v <= 2; v++ {
		for election := range int8(2) {
			req := kmsg.NewPtrElectLeadersRequest()
			req.TimeoutMillis, req.ElectionType = 1000, election
			req.Topics = []kmsg.ElectLeadersRequestTopic{{Topic: "orders", Partitions: []int32{1, 2}}, {Topic: "never", Partitions: []int32{0}}}
			resp := exchange[*kmsg.ElectLeadersResponse](w.dial(), req, v)
			require.Zero(t, resp.ErrorCode)
			require.Equal(t, kerr.ElectionNotNeeded.Code, resp.Topics[0].Partitions[0].ErrorCode)
			require.Equal(t, kerr.UnknownTopicOrPartition.Code, resp.Topics[0].Partitions[1].ErrorCode)
			require.Equal(t, kerr.UnknownTopicOrPartition.Code, resp.Topics[1].Partitions[0].ErrorCode)
			req.Topics = nil
			require.Empty(t, exchange[*kmsg.ElectLeadersResponse](w.dial(), req, v).Topics, "all: those only that needed it")
		}
	}
	odd := kmsg.NewPtrElectLeadersRequest()
	odd.ElectionType = 7
	require.Equal(t, kerr.InvalidRequest.Code, exchange[*kmsg.ElectLeadersResponse](w.dial(), odd, 2).ErrorCode)
}

func TestReassignmentsAreRefused(t *testing.T) {
	w := newWorld(t)
	w.addGateway("gw-1", 2, "")
	w.create("orders", 1, nil)
	leader := exchange[*kmsg.MetadataResponse](w.dial(), askMetadata("orders"), 12).Topics[0].Partitions[0].Leader
	reassign := func(v int16, topic string, replicas []int32) kmsg.AlterPartitionAssignmentsResponseTopicPartition {
		req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
		req.TimeoutMillis = 1000
		req.Topics = []kmsg.AlterPartitionAssignmentsRequestTopic{{Topic: topic, Partitions: []kmsg.AlterPartitionAssignmentsRequestTopicPartition{{Replicas: replicas}}}}
		resp := exchange[*kmsg.AlterPartitionAssignmentsResponse](w.dial(), req, v)
		require.Zero(t, resp.ErrorCode)
		return resp.Topics[0].Partitions[0]
	}
	for v := int16(0); v <= 1; v++ {
		require.Zero(t, reassign(v, "orders", []int32{leader}).ErrorCode, "it is so already")
		refused := reassign(v, "orders", []int32{3 - leader})
		require.Equal(t, kerr.InvalidReplicaAssignment.Code, refused.ErrorCode)
		require.Contains(t, *refused.ErrorMessage, "braid topic move")
		require.Equal(t, kerr.InvalidReplicaAssignment.Code, reassign(v, "orders", []int32{}).ErrorCode)
		require.Equal(t, kerr.NoReassignmentInProgress.Code, reassign(v, "orders", nil).ErrorCode)
		require.Equal(t, kerr.UnknownTopicOrPartition.Code, reassign(v, "never", nil).ErrorCode)
	}
	list := kmsg.NewPtrListPartitionReassignmentsRequest()
	list.TimeoutMillis = 1000
	for _, topics := range [][]kmsg.ListPartitionReassignmentsRequestTopic{nil, {{Topic: "orders", Partitions: []int32{0}}, {Topic: "never", Partitions: []int32{0}}}} {
		list.Topics = topics
		resp := exchange[*kmsg.ListPartitionReassignmentsResponse](w.dial(), list, 0)
		require.Zero(t, resp.ErrorCode)
		require.Empty(t, resp.Topics)
	}
}

func TestDescribeProducers(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) { c.DescribePartitionsMax = 3 })
	w.create("orders", 2, nil)
	c := w.dial()
	id := exchange[*kmsg.InitProducerIDResponse](c, kmsg.NewPtrInitProducerIDRequest(), 4).ProducerID
	for seq := range int32(3) {
		req := produceRequest(w, "orders", -1, batch(recordbatch.Producer{ID: id, Epoch: 0, Sequence: 2 * seq}, "x", "y"))
		require.Zero(t, exchange[*kmsg.ProduceResponse](c, req, 9).Topics[0].Partitions[0].ErrorCode)
	}
	req := kmsg.NewPtrDescribeProducersRequest()
	req.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "orders", Partitions: []int32{0, 1, 0, 2, 3}}}
	parts := exchange[*kmsg.DescribeProducersResponse](c, req, 0).Topics[0].Partitions
	require.Zero(t, parts[0].ErrorCode, sprint(parts))
	require.Len(t, parts[0].ActiveProducers, 1)
	p := parts[0].ActiveProducers[0]
	require.Equal(t, id, p.ProducerID)
	require.EqualValues(t, 5, p.LastSequence)
	require.EqualValues(t, -1, p.CurrentTxnStartOffset)
	require.Zero(t, parts[1].ErrorCode)
	require.Empty(t, parts[1].ActiveProducers)
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, parts[2].ErrorCode)
	require.Equal(t, kerr.InvalidRequest.Code, parts[3].ErrorCode, "above the bound")

	described, err := kadm.NewClient(w.client()).DescribeProducers(t.Context(), kadm.TopicsSet{"orders": {0: {}}})
	require.NoError(t, err)
	require.NoError(t, described["orders"].Partitions[0].Err)
}

// TestInspectingBeforeTheMapIsLoaded: nothing is said not to exist.
func TestInspectingBeforeTheMapIsLoaded(t *testing.T) {
	w := newWorld(t)
	w.Change(func(m *federation.Map) { m.Version = 0 })
	c := w.dial()
	require.Equal(t, kerr.LeaderNotAvailable.Code, exchange[*kmsg.DescribeLogDirsResponse](c, kmsg.NewPtrDescribeLogDirsRequest(), 5).ErrorCode)
	require.Equal(t, kerr.NotController.Code, exchange[*kmsg.ElectLeadersResponse](c, kmsg.NewPtrElectLeadersRequest(), 2).ErrorCode)
	require.Equal(t, kerr.NotController.Code, exchange[*kmsg.AlterPartitionAssignmentsResponse](c, kmsg.NewPtrAlterPartitionAssignmentsRequest(), 1).ErrorCode)
	require.Equal(t, kerr.NotController.Code, exchange[*kmsg.ListPartitionReassignmentsResponse](c, kmsg.NewPtrListPartitionReassignmentsRequest(), 0).ErrorCode)
	producers := kmsg.NewPtrDescribeProducersRequest()
	producers.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "orders", Partitions: []int32{0}}}
	require.Equal(t, kerr.LeaderNotAvailable.Code, exchange[*kmsg.DescribeProducersResponse](c, producers, 0).Topics[0].Partitions[0].ErrorCode)
}

// TestThrottlesOfNodesAreTakenAway: kafka-reassign-partitions does so before it looks at anything.
func TestThrottlesOfNodesAreTakenAway(t *testing.T) {
	w := newWorld(t)
	alter := func(ops ...kmsg.IncrementalAlterConfigOp) int16 {
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		r := kmsg.IncrementalAlterConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: "1"}
		for _, op := range ops {
			r.Configs = append(r.Configs, kmsg.IncrementalAlterConfigsRequestResourceConfig{Name: "leader.replication.throttled.rate", Op: op, Value: new("1")})
		}
		req.Resources = append(req.Resources, r)
		return exchange[*kmsg.IncrementalAlterConfigsResponse](w.dial(), req, 1).Resources[0].ErrorCode
	}
	require.Zero(t, alter(kmsg.IncrementalAlterConfigOpDelete, kmsg.IncrementalAlterConfigOpDelete))
	require.Equal(t, kerr.InvalidRequest.Code, alter(kmsg.IncrementalAlterConfigOpDelete, kmsg.IncrementalAlterConfigOpSet))
	require.Equal(t, kerr.InvalidRequest.Code, alter())
}
