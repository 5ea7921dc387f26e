package suite

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

// reasonOf returns the ErrorInfo of an error.
func reasonOf(t *testing.T, err error) *errdetails.ErrorInfo {
	t.Helper()
	var e *connect.Error
	require.ErrorAs(t, err, &e)
	for _, d := range e.Details() {
		v, err := d.Value()
		require.NoError(t, err)
		if info, ok := v.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	require.FailNow(t, "no ErrorInfo", "%v", err)
	return nil
}

// requireError checks what a client learns from an error of a call or a stream, as
// "reason key=value ...": what it is about, in the order of the keys.
func requireError(t *testing.T, want string, err error) {
	t.Helper()
	info := reasonOf(t, err)
	require.Equal(t, "braid", info.GetDomain())
	got := []string{strings.TrimPrefix(info.GetReason(), "REASON_")}
	for _, key := range slices.Sorted(maps.Keys(info.GetMetadata())) {
		if key != "kind" && key != "retry" {
			got = append(got, key+"="+info.GetMetadata()[key])
		}
	}
	require.Equal(t, want, strings.Join(got, " "), "%v", err)
}

func (s *suite) testErrorReasons(t *testing.T) {
	topic, group := s.topic(t, 2), name(t)
	none := topic + "-none"
	_, err := s.consumerAPI().GetTopicInfo(call(t), &braidv1.GetTopicInfoRequest{Topic: none})
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
	requireError(t, "UNKNOWN_TOPIC topic="+none, err)
	require.Contains(t, err.Error(), none)

	produce := func(f *braidv1.ProduceFrame) error {
		f.Records = []*braidv1.Record{{Value: []byte("v")}}
		_, err := s.producerAPI().ProduceBatch(call(t), &braidv1.ProduceBatchRequest{Batch: f})
		return err
	}
	_, err = s.producerAPI().ProduceBatch(call(t), &braidv1.ProduceBatchRequest{})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	requireError(t, "INVALID_ARGUMENT", err)
	partition := int32(7)
	requireError(t, "UNKNOWN_TOPIC topic="+none, produce(&braidv1.ProduceFrame{Topic: none}))
	requireError(t, "UNKNOWN_PARTITION partition=7 topic="+topic, produce(&braidv1.ProduceFrame{Topic: topic, Partition: &partition}))
	requireError(t, "CONFLICT topic="+topic, produce(&braidv1.ProduceFrame{Topic: topic, PartitionCount: 5}))

	both := append(fromStart(topic), fromStart(none)...)
	_, err = s.consumerAPI().Fetch(call(t), &braidv1.FetchRequest{Sources: both})
	requireError(t, "UNKNOWN_TOPIC topic="+none, err)
	_, err = s.consumerAPI().ListOffsets(call(t), &braidv1.ListOffsetsRequest{Sources: []*braidv1.ReadSource{{Topic: topic, Partitions: []int32{9}}}})
	requireError(t, "UNKNOWN_PARTITION partition=9 topic="+topic, err)
	_, err = s.consumerAPI().GetCommittedOffsets(call(t), &braidv1.GetCommittedOffsetsRequest{Group: group, Topics: []string{topic, none}})
	requireError(t, "UNKNOWN_TOPIC group="+group+" topic="+none, err)
	_, err = s.consumerAPI().CommitOffsets(call(t), &braidv1.CommitOffsetsRequest{Group: group})
	requireError(t, "INVALID_ARGUMENT group="+group, err)
}

func (s *suite) testStreamErrorReasons(t *testing.T) {
	topic, group := s.topic(t, 2), name(t)
	none := topic + "-none"
	read := func(sources []*braidv1.ReadSource) error {
		stream, err := s.consumerAPI().Read(call(t), &braidv1.ReadRequest{Sources: sources, Stop: latestAtStart()})
		require.NoError(t, err)
		require.False(t, stream.Receive(), "the stream goes on: %v", stream.Msg())
		return stream.Err()
	}
	requireError(t, "UNKNOWN_TOPIC topic="+none, read(fromStart(none)))
	requireError(t, "UNKNOWN_TOPIC topic="+none, read(append(fromStart(topic), fromStart(none)...)))
	requireError(t, "UNKNOWN_PARTITION partition=9 topic="+topic, read([]*braidv1.ReadSource{{Topic: topic, Partitions: []int32{9}}}))

	subscribe := func(sub *braidv1.Subscribe) error {
		stream, err := s.consumerAPI().Consume(call(t))
		require.NoError(t, err)
		sub.Group = group
		require.NoError(t, stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: sub}}))
		_, err = stream.Receive()
		return err
	}
	requireError(t, "UNKNOWN_TOPIC group="+group+" topic="+none, subscribe(&braidv1.Subscribe{Topics: []string{topic, none}}))
	requireError(t, "INVALID_ARGUMENT group="+group, subscribe(&braidv1.Subscribe{}))
}

func (s *suite) testAdminErrorReasons(t *testing.T) {
	topic, group := s.topic(t, 2), name(t)
	path := func(topic string) string { return "logicalClusters/default/topics/" + topic }
	none := topic + "-none"
	topics := adminv1connect.NewTopicServiceClient(s.w.Client, s.w.API())
	create := func(topic string, in *adminv1.Topic) error {
		_, err := topics.CreateTopic(call(t), &adminv1.CreateTopicRequest{TopicId: topic, Topic: in})
		return err
	}
	requireError(t, "ALREADY_EXISTS topic="+topic, create(topic, &adminv1.Topic{PartitionCount: 1}))
	requireError(t, "INVALID_ARGUMENT topic="+none, create(none, &adminv1.Topic{PartitionCount: -7}))
	requireError(t, "INVALID_ARGUMENT setting=retention.ms topic="+none, create(none, &adminv1.Topic{PartitionCount: 1, Config: map[string]string{"retention.ms": "long"}}))
	requireError(t, "UNKNOWN_CLUSTER cluster=nowhere topic="+none,
		create(none, &adminv1.Topic{PartitionCount: 1, Placement: &adminv1.PlacementPolicy{PhysicalClusters: []string{"physicalClusters/nowhere"}}}))
	_, err := topics.GetTopic(call(t), &adminv1.GetTopicRequest{Name: path(none)})
	requireError(t, "UNKNOWN_TOPIC topic="+none, err)
	_, err = topics.DeleteTopic(call(t), &adminv1.DeleteTopicRequest{Name: path(none)})
	requireError(t, "UNKNOWN_TOPIC topic="+none, err)
	_, err = topics.GrowTopic(call(t), &adminv1.GrowTopicRequest{Name: path(topic), PartitionCount: 1})
	requireError(t, "INVALID_ARGUMENT topic="+topic, err)
	_, err = topics.ListExtents(call(t), &adminv1.ListExtentsRequest{Parent: path(none)})
	requireError(t, "UNKNOWN_TOPIC topic="+none, err)
	_, err = topics.UpdateTopic(call(t), &adminv1.UpdateTopicRequest{Topic: &adminv1.Topic{Name: path(none)}})
	requireError(t, "UNKNOWN_TOPIC topic="+none, err)

	clusters := adminv1connect.NewClusterServiceClient(s.w.Client, s.w.API())
	_, err = clusters.GetCluster(call(t), &adminv1.GetClusterRequest{Name: "physicalClusters/nowhere"})
	requireError(t, "UNKNOWN_CLUSTER cluster=nowhere", err)
	groups := adminv1connect.NewGroupServiceClient(s.w.Client, s.w.API())
	_, err = groups.GetGroup(call(t), &adminv1.GetGroupRequest{Name: group})
	requireError(t, "UNKNOWN_GROUP group="+group, err)
	_, err = groups.DeleteGroup(call(t), &adminv1.DeleteGroupRequest{Name: "logicalClusters/default/groups/" + group})
	requireError(t, "UNKNOWN_GROUP group="+group, err)
}
