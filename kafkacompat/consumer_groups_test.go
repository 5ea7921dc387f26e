package kafkacompat_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
)

// A modernMember speaks ConsumerGroupHeartbeat, by frames.
type modernMember struct {
	c       *raw
	group   string
	version int16
	id      string
	epoch   int32
}

func (m *modernMember) beat(change ...func(*kmsg.ConsumerGroupHeartbeatRequest)) *kmsg.ConsumerGroupHeartbeatResponse {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.MemberEpoch = m.group, m.id, m.epoch
	for _, f := range change {
		f(req)
	}
	resp := exchange[*kmsg.ConsumerGroupHeartbeatResponse](m.c, req, m.version)
	if resp.ErrorCode == 0 {
		m.id, m.epoch = *resp.MemberID, resp.MemberEpoch
	}
	return resp
}

func (m *modernMember) join(change ...func(*kmsg.ConsumerGroupHeartbeatRequest)) *kmsg.ConsumerGroupHeartbeatResponse {
	return m.beat(append([]func(*kmsg.ConsumerGroupHeartbeatRequest){func(req *kmsg.ConsumerGroupHeartbeatRequest) {
		req.MemberEpoch, req.RebalanceTimeoutMillis = 0, 10_000
		req.SubscribedTopicNames = []string{"orders"}
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	}}, change...)...)
}

func reading(id federation.TopicID, partitions ...int32) func(*kmsg.ConsumerGroupHeartbeatRequest) {
	return func(req *kmsg.ConsumerGroupHeartbeatRequest) {
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{{TopicID: id, Partitions: partitions}}
	}
}

// TestConsumerGroupInEveryVersion plays the lives of two members of the newer protocol.
func TestConsumerGroupInEveryVersion(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 4, nil)
	id := w.Current().Topics["orders"].ID
	for v := int16(0); v <= 1; v++ {
		group := "group-" + string('0'+rune(v))
		c := w.dial()
		a := &modernMember{c: c, group: group, version: v}
		b := &modernMember{c: c, group: group, version: v}
		if v > 0 {
			require.Equal(t, kerr.InvalidRequest.Code, a.join().ErrorCode, "from v1 on the client mints its id (KIP-1082)")
			a.id, b.id = "member-a", "member-b"
		}
		first := a.join()
		require.Zero(t, first.ErrorCode)
		require.NotEmpty(t, *first.MemberID)
		require.EqualValues(t, 50, first.HeartbeatIntervalMillis)
		require.Len(t, first.Assignment.Topics, 1)
		require.Equal(t, [16]byte(id), first.Assignment.Topics[0].TopicID)
		require.Equal(t, []int32{0, 1, 2, 3}, first.Assignment.Topics[0].Partitions)
		require.Nil(t, a.beat().Assignment, "nothing changed")
		old := a.epoch

		require.Empty(t, b.join().Assignment.Topics, "all partitions are with the first member")
		require.Equal(t, []int32{0, 1}, a.beat().Assignment.Topics[0].Partitions)
		require.Equal(t, old, a.epoch, "it has something to give up")
		require.Nil(t, b.beat().Assignment)
		requireCommit(t, c, group, a, id, 0, 0)
		require.Zero(t, a.beat(reading(id, 0, 1)).ErrorCode)
		require.Greater(t, a.epoch, old)
		require.Equal(t, []int32{2, 3}, b.beat().Assignment.Topics[0].Partitions)

		// Commits and reads of offsets are fenced by the epoch.
		requireCommit(t, c, group, a, id, 0, 0)
		requireCommit(t, c, group, &modernMember{id: a.id, epoch: old}, id, 0, 0)
		requireCommit(t, c, group, &modernMember{id: a.id, epoch: old}, id, 3, kerr.StaleMemberEpoch.Code)
		requireCommit(t, c, group, &modernMember{id: a.id, epoch: a.epoch + 1}, id, 0, kerr.StaleMemberEpoch.Code)
		requireCommit(t, c, group, &modernMember{id: "nobody", epoch: 1}, id, 0, kerr.UnknownMemberID.Code)
		for epoch, code := range map[int32]int16{a.epoch: 0, old: kerr.StaleMemberEpoch.Code} {
			require.Equal(t, code, fetchAs(c, group, id, a.id, epoch).ErrorCode)
		}
		require.Equal(t, kerr.UnknownMemberID.Code, fetchAs(c, group, id, "nobody", 1).ErrorCode)

		requireDescribed(t, c, group, a, b)
		a.refusals(t, id)

		require.EqualValues(t, -1, a.beat(leaving(-1)).MemberEpoch)
		b.epoch = a.epochOf(t, b)
		require.Zero(t, b.beat().ErrorCode)
		require.EqualValues(t, -1, b.beat(leaving(-1)).MemberEpoch)
		del := kmsg.NewPtrDeleteGroupsRequest()
		del.Groups = []string{group}
		require.Zero(t, exchange[*kmsg.DeleteGroupsResponse](c, del, 2).Groups[0].ErrorCode)
	}
}

func leaving(epoch int32) func(*kmsg.ConsumerGroupHeartbeatRequest) {
	return func(req *kmsg.ConsumerGroupHeartbeatRequest) { req.MemberEpoch = epoch }
}

// epochOf asks ConsumerGroupDescribe.
func (m *modernMember) epochOf(t *testing.T, o *modernMember) int32 {
	t.Helper()
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Groups = []string{m.group}
	for _, d := range exchange[*kmsg.ConsumerGroupDescribeResponse](m.c, req, 1).Groups[0].Members {
		if d.MemberID == o.id {
			return d.MemberEpoch
		}
	}
	require.Fail(t, "no such member")
	return 0
}

// refusals are what Kafka's coordinator refuses too.
func (m *modernMember) refusals(t *testing.T, id federation.TopicID) {
	t.Helper()
	bad := func(code *kerr.Error, f func(*kmsg.ConsumerGroupHeartbeatRequest)) {
		t.Helper()
		resp := m.beat(f)
		require.Equal(t, code.Code, resp.ErrorCode, "want %v", code)
		require.NotEmpty(t, *resp.ErrorMessage)
		require.Nil(t, resp.Assignment)
	}
	bad(kerr.FencedMemberEpoch, leaving(m.epoch+1))
	bad(kerr.InvalidRequest, leaving(-3))
	bad(kerr.InvalidRequest, leaving(-2))
	bad(kerr.InvalidRequest, leaving(0))
	bad(kerr.InvalidRequest, func(req *kmsg.ConsumerGroupHeartbeatRequest) { req.Group = "" })
	bad(kerr.InvalidRequest, func(req *kmsg.ConsumerGroupHeartbeatRequest) { req.InstanceID = new(" ") })
	bad(kerr.UnknownMemberID, func(req *kmsg.ConsumerGroupHeartbeatRequest) { req.MemberID = "nobody" })
	bad(kerr.UnknownMemberID, func(req *kmsg.ConsumerGroupHeartbeatRequest) { req.Group = "never" })
	bad(kerr.UnsupportedAssignor, func(req *kmsg.ConsumerGroupHeartbeatRequest) { req.ServerAssignor = new("mine") })
	bad(kerr.FencedMemberEpoch, func(req *kmsg.ConsumerGroupHeartbeatRequest) {
		req.MemberEpoch--
		reading(id, 0, 3)(req)
	})
	if m.version > 0 {
		bad(kerr.InvalidRegularExpression, func(req *kmsg.ConsumerGroupHeartbeatRequest) { req.SubscribedTopicRegex = new("(") })
	}
}

func requireCommit(t *testing.T, c *raw, group string, m *modernMember, id federation.TopicID, partition int32, code int16) {
	t.Helper()
	for _, v := range []int16{8, 9, 10} {
		commit := kmsg.NewPtrOffsetCommitRequest()
		commit.Group, commit.Generation, commit.MemberID = group, m.epoch, m.id
		ct := kmsg.NewOffsetCommitRequestTopic()
		ct.Topic, ct.TopicID = "orders", id
		cp := kmsg.NewOffsetCommitRequestTopicPartition()
		cp.Partition, cp.Offset = partition, 5
		ct.Partitions = append(ct.Partitions, cp)
		commit.Topics = append(commit.Topics, ct)
		want := code
		if v < 9 && m.id != "nobody" {
			want = kerr.UnsupportedVersion.Code // it has no epochs
		}
		require.Equal(t, want, exchange[*kmsg.OffsetCommitResponse](c, commit, v).Topics[0].Partitions[0].ErrorCode, "v%d", v)
	}
}

func fetchAs(c *raw, group string, id federation.TopicID, member string, epoch int32) kmsg.OffsetFetchResponseGroup {
	req := kmsg.NewPtrOffsetFetchRequest()
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group, g.MemberID, g.MemberEpoch = group, &member, epoch
	gt := kmsg.NewOffsetFetchRequestGroupTopic()
	gt.TopicID, gt.Partitions = id, []int32{0}
	g.Topics = append(g.Topics, gt)
	req.Groups = append(req.Groups, g)
	return exchange[*kmsg.OffsetFetchResponse](c, req, 10).Groups[0]
}

// requireDescribed checks what the admin APIs say of a stable group of two.
func requireDescribed(t *testing.T, c *raw, group string, a, b *modernMember) {
	t.Helper()
	describe := kmsg.NewPtrConsumerGroupDescribeRequest()
	describe.Groups = []string{group, "never"}
	for v := int16(0); v <= 1; v++ {
		all := exchange[*kmsg.ConsumerGroupDescribeResponse](c, describe, v).Groups
		require.Equal(t, kerr.GroupIDNotFound.Code, all[1].ErrorCode)
		d := all[0]
		require.Zero(t, d.ErrorCode)
		require.Equal(t, "Stable", d.State)
		require.Equal(t, "uniform", d.AssignorName)
		require.Equal(t, d.Epoch, d.AssignmentEpoch)
		require.Len(t, d.Members, 2)
		for i, m := range []*modernMember{a, b} {
			got := d.Members[i]
			require.Equal(t, m.id, got.MemberID)
			require.Equal(t, m.epoch, got.MemberEpoch)
			require.Equal(t, []string{"orders"}, got.SubscribedTopics)
			require.Equal(t, "orders", got.Assignment.TopicPartitions[0].Topic)
			require.Equal(t, []int32{int32(2 * i), int32(2*i + 1)}, got.Assignment.TopicPartitions[0].Partitions)
			require.Equal(t, got.Assignment, got.TargetAssignment)
			require.Equal(t, v == 1, got.MemberType == 1)
		}
	}
	classic := kmsg.NewPtrDescribeGroupsRequest()
	classic.Groups = []string{group}
	require.Equal(t, kerr.GroupIDNotFound.Code, exchange[*kmsg.DescribeGroupsResponse](c, classic, 6).Groups[0].ErrorCode)
	require.Equal(t, "Dead", exchange[*kmsg.DescribeGroupsResponse](c, classic, 5).Groups[0].State)

	list := kmsg.NewPtrListGroupsRequest()
	list.StatesFilter, list.TypesFilter = []string{"Stable"}, []string{"Consumer"}
	got := exchange[*kmsg.ListGroupsResponse](c, list, 5).Groups
	require.Len(t, got, 1)
	require.Equal(t, group, got[0].Group)
	require.Equal(t, "consumer", got[0].GroupType)
	list.TypesFilter = []string{"classic"}
	require.Empty(t, exchange[*kmsg.ListGroupsResponse](c, list, 5).Groups)
}

// TestConsumerGroupOfAClassicOne: a group is described by the API of its type alone.
func TestConsumerGroupOfAClassicOne(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, nil)
	c := w.dial()
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Group, commit.Generation = "g", -1
	ct := kmsg.NewOffsetCommitRequestTopic()
	ct.Topic = "orders"
	ct.Partitions = append(ct.Partitions, kmsg.NewOffsetCommitRequestTopicPartition())
	commit.Topics = append(commit.Topics, ct)
	require.Zero(t, exchange[*kmsg.OffsetCommitResponse](c, commit, 9).Topics[0].Partitions[0].ErrorCode)
	describe := kmsg.NewPtrConsumerGroupDescribeRequest()
	describe.Groups = []string{"g"}
	require.Equal(t, kerr.GroupIDNotFound.Code, exchange[*kmsg.ConsumerGroupDescribeResponse](c, describe, 0).Groups[0].ErrorCode)

	// An empty group takes the protocol of whoever comes.
	m := &modernMember{c: c, group: "g", version: 1, id: "m"}
	require.Zero(t, m.join().ErrorCode)
	require.Zero(t, exchange[*kmsg.ConsumerGroupDescribeResponse](c, describe, 0).Groups[0].ErrorCode)
	require.EqualValues(t, -1, m.beat(leaving(-1)).MemberEpoch)
	require.Equal(t, "Empty", exchange[*kmsg.ConsumerGroupDescribeResponse](c, describe, 0).Groups[0].State)
}
