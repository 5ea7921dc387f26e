package kafkacompat_test

import (
	"fmt"
	"slices"
	"strconv"
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

func createRequest(topics ...kmsg.CreateTopicsRequestTopic) *kmsg.CreateTopicsRequest {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 5000
	req.Topics = topics
	return req
}

func newTopic(name string, partitions int32, rf int16, configs ...string) kmsg.CreateTopicsRequestTopic {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, rf
	for i := 0; i < len(configs); i += 2 {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = configs[i], &configs[i+1]
		t.Configs = append(t.Configs, c)
	}
	return t
}

func TestCreateTopicsInEveryVersion(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) { c.DefaultPartitions = 6 })
	c := w.dial()
	for v := int16(2); v <= 7; v++ {
		name := fmt.Sprint("t", v)
		resp := exchange[*kmsg.CreateTopicsResponse](c, createRequest(newTopic(name, 3, 1, "retention.ms", "1000")), v)
		require.Len(t, resp.Topics, 1)
		rt := resp.Topics[0]
		require.Zero(t, rt.ErrorCode, sprint(rt))
		// What an answer says is there is there, also for the next request.
		require.Len(t, exchange[*kmsg.MetadataResponse](c, askMetadata(name), 9).Topics[0].Partitions, 3)
		if v >= 5 {
			require.EqualValues(t, 3, rt.NumPartitions)
			require.EqualValues(t, 1, rt.ReplicationFactor)
			require.NotEmpty(t, rt.Configs)
			i := slices.IndexFunc(rt.Configs, func(c kmsg.CreateTopicsResponseTopicConfig) bool { return c.Name == "retention.ms" })
			require.Equal(t, "1000", *rt.Configs[i].Value)
			require.EqualValues(t, kmsg.ConfigSourceDynamicTopicConfig, rt.Configs[i].Source)
		}
		if v >= 7 {
			require.EqualValues(t, w.Current().Topics[federation.TopicName(name)].ID, rt.TopicID)
		}
	}
	resp := exchange[*kmsg.CreateTopicsResponse](c, createRequest(newTopic("defaults", -1, -1)), 7)
	require.EqualValues(t, 6, resp.Topics[0].NumPartitions)
}

func TestCreateTopicsRefuses(t *testing.T) {
	w := newWorld(t)
	w.create("there", 1, nil)
	null := newTopic("t", 1, 1)
	null.Configs = append(null.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: "retention.ms"})
	both := newTopic("t", 1, 1)
	both.ReplicaAssignment = []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Partition: 0, Replicas: []int32{1}}}
	hole := newTopic("t", -1, -1)
	hole.ReplicaAssignment = []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Partition: 1, Replicas: []int32{1}}}
	for name, tc := range map[string]struct {
		topic kmsg.CreateTopicsRequestTopic
		code  *kerr.Error
	}{
		"exists":       {newTopic("there", 1, 1), kerr.TopicAlreadyExists},
		"name":         {newTopic("a b", 1, 1), kerr.InvalidTopicException},
		"dots":         {newTopic("..", 1, 1), kerr.InvalidTopicException},
		"partitions":   {newTopic("t", 0, 1), kerr.InvalidPartitions},
		"replication":  {newTopic("t", 1, 0), kerr.InvalidReplicationFactor},
		"config":       {newTopic("t", 1, 1, "retention.ms", "soon"), kerr.InvalidConfig},
		"null config":  {null, kerr.InvalidConfig},
		"twice config": {newTopic("t", 1, 1, "retention.ms", "1", "retention.ms", "2"), kerr.InvalidConfig},
		"both":         {both, kerr.InvalidRequest},
		"assignment":   {hole, kerr.InvalidReplicaAssignment},
	} {
		t.Run(name, func(t *testing.T) {
			resp := exchange[*kmsg.CreateTopicsResponse](w.dial(), createRequest(tc.topic), 7)
			require.Equal(t, tc.code.Code, resp.Topics[0].ErrorCode, sprint(resp))
			require.NotNil(t, resp.Topics[0].ErrorMessage)
			require.NotNil(t, resp.Topics[0].Configs, "Java fails on null")
		})
	}
	resp := exchange[*kmsg.CreateTopicsResponse](w.dial(), createRequest(newTopic("twice", 1, 1), newTopic("once", 1, 1), newTopic("twice", 2, 1)), 7)
	require.Len(t, resp.Topics, 2)
	require.Equal(t, kerr.InvalidRequest.Code, resp.Topics[0].ErrorCode)
	require.Zero(t, resp.Topics[1].ErrorCode)
	require.Nil(t, w.Current().Topics["twice"])
	assigned := newTopic("assigned", -1, -1)
	assigned.ReplicaAssignment = []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Partition: 1, Replicas: []int32{1}}, {Partition: 0, Replicas: []int32{1}}}
	resp = exchange[*kmsg.CreateTopicsResponse](w.dial(), createRequest(assigned), 7)
	require.Zero(t, resp.Topics[0].ErrorCode)
	require.EqualValues(t, 2, resp.Topics[0].NumPartitions)
	only := createRequest(newTopic("only", 2, 1))
	only.ValidateOnly = true
	require.Zero(t, exchange[*kmsg.CreateTopicsResponse](w.dial(), only, 7).Topics[0].ErrorCode)
	require.Nil(t, w.Current().Topics["only"])
}

func TestDeleteTopics(t *testing.T) {
	w := newWorld(t)
	c := w.dial()
	for v := int16(1); v <= 6; v++ {
		w.create("gone", 2, nil)
		id := w.Current().Topics["gone"].ID
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.TimeoutMillis = 5000
		req.TopicNames = []string{"gone", "never"}
		for _, name := range req.TopicNames {
			req.Topics = append(req.Topics, kmsg.DeleteTopicsRequestTopic{Topic: &name})
		}
		resp := exchange[*kmsg.DeleteTopicsResponse](c, req, v)
		require.Zero(t, resp.Topics[0].ErrorCode, "v%d", v)
		require.Equal(t, "gone", *resp.Topics[0].Topic)
		require.Equal(t, kerr.UnknownTopicOrPartition.Code, resp.Topics[1].ErrorCode)
		require.Equal(t, kerr.UnknownTopicOrPartition.Code, exchange[*kmsg.MetadataResponse](c, askMetadata("gone"), 9).Topics[0].ErrorCode)
		// A reader that still has the id is told so.
		w.create("orders", 1, nil)
		fetch := longPoll(w, 0)
		fetch.Topics[0].TopicID = id
		require.Equal(t, kerr.UnknownTopicID.Code, exchange[*kmsg.FetchResponse](c, fetch, 13).Topics[0].Partitions[0].ErrorCode)
		require.NoError(t, w.DeleteTopic(t.Context(), "orders"))
	}
	w.create("gone", 2, nil)
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis = 5000
	req.Topics = []kmsg.DeleteTopicsRequestTopic{{TopicID: w.Current().Topics["gone"].ID}, {TopicID: [16]byte{9}}}
	resp := exchange[*kmsg.DeleteTopicsResponse](c, req, 6)
	require.Zero(t, resp.Topics[0].ErrorCode)
	require.Equal(t, "gone", *resp.Topics[0].Topic)
	require.Equal(t, kerr.UnknownTopicID.Code, resp.Topics[1].ErrorCode)
}

func TestCreatePartitions(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, nil)
	adm := kadm.NewClient(w.client())
	grow := func(total int) error {
		r, err := adm.UpdatePartitions(t.Context(), total, "orders")
		require.Len(t, r, 1)
		if err == nil {
			err = r["orders"].Err
		}
		return err
	}
	require.NoError(t, grow(5))
	require.Len(t, exchange[*kmsg.MetadataResponse](w.dial(), askMetadata("orders"), 9).Topics[0].Partitions, 5)
	require.ErrorIs(t, grow(5), kerr.InvalidPartitions)
	require.ErrorIs(t, grow(3), kerr.InvalidPartitions)
	r, _ := adm.UpdatePartitions(t.Context(), 3, "never")
	require.ErrorIs(t, r["never"].Err, kerr.UnknownTopicOrPartition)
	_, err := adm.ValidateUpdatePartitions(t.Context(), 9, "orders")
	require.NoError(t, err)
	require.Len(t, w.Current().Topics["orders"].Partitions, 5)
	require.NoError(t, w.client().ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr())
}

func TestDeleteRecordsAndListOffsets(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, nil)
	c := w.dial()
	for i := range 10 {
		exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, "x"), batch(recordbatch.NoProducer, strconv.Itoa(i))), 9)
	}
	offset := func(v int16, ts int64) *kmsg.ListOffsetsResponseTopicPartition {
		req := kmsg.NewPtrListOffsetsRequest()
		req.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: "orders", Partitions: []kmsg.ListOffsetsRequestTopicPartition{{Partition: 1, Timestamp: ts, CurrentLeaderEpoch: -1}}}}
		return &exchange[*kmsg.ListOffsetsResponse](c, req, v).Topics[0].Partitions[0]
	}
	for v := int16(1); v <= 11; v++ {
		require.EqualValues(t, 10, offset(v, -1).Offset, "v%d", v)
		require.EqualValues(t, 0, offset(v, -2).Offset, "v%d", v)
		require.EqualValues(t, 0, offset(v, 0).Offset, "v%d", v)
		require.EqualValues(t, -1, offset(v, 1<<50).Offset, "v%d: no record so late", v)
		require.Equal(t, kerr.UnsupportedVersion.Code, offset(v, -7).ErrorCode)
		if v < 7 {
			require.Equal(t, kerr.UnsupportedVersion.Code, offset(v, -3).ErrorCode)
		} else {
			require.Zero(t, offset(v, -3).ErrorCode)
			require.GreaterOrEqual(t, offset(v, -3).Offset, int64(0))
		}
		if v >= 9 {
			require.EqualValues(t, -1, offset(v, -5).Offset)
		}
		if v >= 4 {
			require.EqualValues(t, 1, offset(v, -1).LeaderEpoch)
		}
	}
	for v := int16(0); v <= 2; v++ {
		req := kmsg.NewPtrDeleteRecordsRequest()
		req.TimeoutMillis = 5000
		req.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: "orders", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{
			{Partition: 1, Offset: int64(v) + 3}, {Partition: 0, Offset: 99}, {Partition: 7, Offset: 1},
		}}}
		resp := exchange[*kmsg.DeleteRecordsResponse](c, req, v)
		p := resp.Topics[0].Partitions
		require.Zero(t, p[0].ErrorCode, sprint(p))
		require.EqualValues(t, v+3, p[0].LowWatermark)
		require.Equal(t, kerr.OffsetOutOfRange.Code, p[1].ErrorCode)
		require.Equal(t, kerr.UnknownTopicOrPartition.Code, p[2].ErrorCode)
		require.EqualValues(t, v+3, offset(7, -2).Offset)
		for _, twice := range [][]int64{{99, -2}, {-2, 0}} { // the last counts
			req.Topics[0].Partitions = []kmsg.DeleteRecordsRequestTopicPartition{{Offset: twice[0]}, {Offset: twice[1]}}
			p = exchange[*kmsg.DeleteRecordsResponse](c, req, v).Topics[0].Partitions
			require.Len(t, p, 1)
			require.Equal(t, twice[1] < 0, p[0].ErrorCode == kerr.OffsetOutOfRange.Code)
		}
	}
}

func TestConfigs(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 1, map[string]string{"cleanup.policy": "compact", "retention.ms": "5000"})
	c := w.dial()
	describe := func(v int16, kind kmsg.ConfigResourceType, name string, keys ...string) kmsg.DescribeConfigsResponseResource {
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.IncludeSynonyms, req.IncludeDocumentation = true, true
		req.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kind, ResourceName: name, ConfigNames: keys}}
		return exchange[*kmsg.DescribeConfigsResponse](c, req, v).Resources[0]
	}
	value := func(name string) string {
		r := describe(4, kmsg.ConfigResourceTypeTopic, "orders", name)
		require.Len(t, r.Configs, 1)
		return *r.Configs[0].Value
	}
	for v := int16(1); v <= 4; v++ {
		r := describe(v, kmsg.ConfigResourceTypeTopic, "orders")
		require.Zero(t, r.ErrorCode)
		require.Greater(t, len(r.Configs), 20)
		i := slices.IndexFunc(r.Configs, func(c kmsg.DescribeConfigsResponseResourceConfig) bool { return c.Name == "retention.ms" })
		require.Equal(t, "5000", *r.Configs[i].Value)
		require.Equal(t, kmsg.ConfigSourceDynamicTopicConfig, r.Configs[i].Source)
		require.Len(t, r.Configs[i].ConfigSynonyms, 2)
		b := describe(v, kmsg.ConfigResourceTypeBroker, "1")
		require.Zero(t, b.ErrorCode)
		require.NotEmpty(t, b.Configs, "Kafka's own compatibility test fails on none")
	}
	require.Equal(t, kerr.InvalidRequest.Code, describe(4, kmsg.ConfigResourceTypeBroker, "77").ErrorCode)
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, describe(4, kmsg.ConfigResourceTypeTopic, "never").ErrorCode)
	require.Equal(t, kerr.InvalidRequest.Code, describe(4, kmsg.ConfigResourceTypeClientMetrics, "x").ErrorCode)
	require.Equal(t, kerr.InvalidRequest.Code, describe(4, kmsg.ConfigResourceTypeGroupConfig, "").ErrorCode)
	group := describe(4, kmsg.ConfigResourceTypeGroupConfig, "billing", "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms")
	require.Zero(t, group.ErrorCode)
	require.Len(t, group.Configs, 2)
	require.Equal(t, "5000", *group.Configs[0].Value)
	require.Equal(t, "45000", *group.Configs[1].Value)
	require.False(t, group.Configs[0].ReadOnly)
	node := describe(4, kmsg.ConfigResourceTypeBroker, "1", "advertised.listeners", "group.consumer.session.timeout.ms")
	require.Regexp(t, "^PLAINTEXT://127.0.0.1:", *node.Configs[0].Value)
	require.Equal(t, "45000", *node.Configs[1].Value)

	alter := func(changes ...kmsg.IncrementalAlterConfigsRequestResourceConfig) int16 {
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		req.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "orders", Configs: changes}}
		return exchange[*kmsg.IncrementalAlterConfigsResponse](c, req, 1).Resources[0].ErrorCode
	}
	change := func(op kmsg.IncrementalAlterConfigOp, name string, v ...string) kmsg.IncrementalAlterConfigsRequestResourceConfig {
		cfg := kmsg.IncrementalAlterConfigsRequestResourceConfig{Name: name, Op: op}
		if len(v) > 0 {
			cfg.Value = &v[0]
		}
		return cfg
	}
	require.Zero(t, alter(change(kmsg.IncrementalAlterConfigOpSet, "retention.ms", "7000")))
	require.Equal(t, "7000", value("retention.ms"))
	require.Equal(t, "skip", value("braid.failover.read"))
	require.Zero(t, alter(change(kmsg.IncrementalAlterConfigOpSet, "braid.failover.read", "wait")))
	require.Equal(t, "wait", value("braid.failover.read"))
	require.Zero(t, alter(change(kmsg.IncrementalAlterConfigOpDelete, "retention.ms")))
	require.Equal(t, "604800000", value("retention.ms"), "Kafka's default")
	require.Zero(t, alter(change(kmsg.IncrementalAlterConfigOpAppend, "cleanup.policy", "delete")))
	require.Equal(t, "compact,delete", value("cleanup.policy"))
	require.Zero(t, alter(change(kmsg.IncrementalAlterConfigOpAppend, "cleanup.policy", "delete")))
	require.Equal(t, "compact,delete", value("cleanup.policy"), "once is enough")
	require.Zero(t, alter(change(kmsg.IncrementalAlterConfigOpSubtract, "cleanup.policy", "compact")))
	require.Equal(t, "delete", value("cleanup.policy"))
	require.Equal(t, kerr.InvalidConfig.Code, alter(change(kmsg.IncrementalAlterConfigOpAppend, "retention.ms", "1")))
	require.Equal(t, kerr.InvalidRequest.Code, alter(change(kmsg.IncrementalAlterConfigOpSet, "retention.ms")), "null")
	require.Equal(t, kerr.InvalidRequest.Code, alter(change(9, "retention.ms", "1")))
	require.Equal(t, kerr.InvalidRequest.Code, alter(change(kmsg.IncrementalAlterConfigOpSet, "retention.ms", "1"), change(kmsg.IncrementalAlterConfigOpDelete, "retention.ms")))
	require.Equal(t, kerr.InvalidConfig.Code, alter(change(kmsg.IncrementalAlterConfigOpSet, "retention.ms", "soon")))

	twice := kmsg.NewPtrIncrementalAlterConfigsRequest()
	for range 2 {
		twice.Resources = append(twice.Resources, kmsg.IncrementalAlterConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "orders"})
	}
	resp := exchange[*kmsg.IncrementalAlterConfigsResponse](c, twice, 0)
	require.Len(t, resp.Resources, 1)
	require.Equal(t, kerr.InvalidRequest.Code, resp.Resources[0].ErrorCode)

	for v := int16(0); v <= 2; v++ {
		req := kmsg.NewPtrAlterConfigsRequest()
		ms := strconv.Itoa(1000 + int(v))
		req.Resources = []kmsg.AlterConfigsRequestResource{
			{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "orders", Configs: []kmsg.AlterConfigsRequestResourceConfig{{Name: "segment.ms", Value: &ms}}},
			{ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: "1"},
		}
		r := exchange[*kmsg.AlterConfigsResponse](c, req, v).Resources
		require.Zero(t, r[0].ErrorCode, sprint(r))
		require.Equal(t, kerr.InvalidRequest.Code, r[1].ErrorCode)
		require.Equal(t, map[string]string{"segment.ms": ms}, w.Current().Topics["orders"].Config, "all else is unset")
	}
	list := kmsg.NewPtrListConfigResourcesRequest()
	require.Empty(t, exchange[*kmsg.ListConfigResourcesResponse](c, list, 0).ConfigResources)
	require.Len(t, exchange[*kmsg.ListConfigResourcesResponse](c, list, 1).ConfigResources, 2)
}

func TestDescribeTopicPartitionsPages(t *testing.T) {
	w := newWorld(t)
	w.create("a", 3, nil)
	w.create("b", 4, nil)
	c := w.dial()
	req := kmsg.NewPtrDescribeTopicPartitionsRequest()
	req.ResponsePartitionLimit = 2
	var got []string
	for range 20 {
		resp := exchange[*kmsg.DescribeTopicPartitionsResponse](c, req, 0)
		n := 0
		for _, rt := range resp.Topics {
			for _, p := range rt.Partitions {
				n++
				got = append(got, fmt.Sprint(*rt.Topic, p.Partition))
				require.NotNil(t, p.EligibleLeaderReplicas, "Java fails on null")
				require.NotNil(t, p.LastKnownELR, "Java fails on null")
			}
		}
		require.LessOrEqual(t, n, 2)
		if resp.NextCursor == nil {
			break
		}
		req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: resp.NextCursor.Topic, Partition: resp.NextCursor.Partition}
	}
	require.Equal(t, []string{"a0", "a1", "a2", "b0", "b1", "b2", "b3"}, got)
	req = kmsg.NewPtrDescribeTopicPartitionsRequest()
	req.Topics = []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: "b"}, {Topic: "never"}, {Topic: "not a name"}}
	resp := exchange[*kmsg.DescribeTopicPartitionsResponse](c, req, 0)
	require.Len(t, resp.Topics, 3)
	require.Len(t, resp.Topics[0].Partitions, 4)
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, resp.Topics[1].ErrorCode)
	require.Equal(t, kerr.InvalidTopicException.Code, resp.Topics[2].ErrorCode)
}

func TestACLsAreDisabled(t *testing.T) {
	w := newWorld(t)
	c := w.dial()
	for v := int16(1); v <= 3; v++ {
		describe := kmsg.NewPtrDescribeACLsRequest()
		describe.ResourceType, describe.Operation, describe.PermissionType = 1, 1, 1
		require.Equal(t, kerr.SecurityDisabled.Code, exchange[*kmsg.DescribeACLsResponse](c, describe, v).ErrorCode)
		create := kmsg.NewPtrCreateACLsRequest()
		create.Creations = make([]kmsg.CreateACLsRequestCreation, 2)
		require.Equal(t, kerr.SecurityDisabled.Code, exchange[*kmsg.CreateACLsResponse](c, create, v).Results[1].ErrorCode)
		del := kmsg.NewPtrDeleteACLsRequest()
		del.Filters = make([]kmsg.DeleteACLsRequestFilter, 1)
		require.Equal(t, kerr.SecurityDisabled.Code, exchange[*kmsg.DeleteACLsResponse](c, del, v).Results[0].ErrorCode)
	}
}
