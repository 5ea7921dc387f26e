package kafkacompat_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/recordbatch"
)

// TestGroupOfClients has members come and go over three gateways; every record
// arrives, and after a stop the group goes on where it committed.
func TestGroupOfClients(t *testing.T) {
	w := newWorld(t)
	w.addGateway("gw-1", 2, "")
	w.addGateway("gw-2", 3, "")
	w.create("orders", 6, nil)
	var mu sync.Mutex
	seen := make(map[string]int)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	member := func(balancer kgo.GroupBalancer, static string, more ...kgo.Opt) (stop func()) {
		opts := []kgo.Opt{
			kgo.ConsumerGroup("g"), kgo.ConsumeTopics("orders"), kgo.Balancers(balancer),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.HeartbeatInterval(100 * time.Millisecond), kgo.SessionTimeout(6 * time.Second),
		}
		if static != "" {
			opts = append(opts, kgo.InstanceID(static))
		}
		cl := w.client(append(opts, more...)...)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				fs := cl.PollFetches(ctx)
				if fs.IsClientClosed() || ctx.Err() != nil {
					return
				}
				mu.Lock()
				fs.EachRecord(func(r *kgo.Record) { seen[string(r.Value)]++ })
				mu.Unlock()
			}
		}()
		return func() {
			if static != "" {
				cl.LeaveGroup()
			}
			cl.Close()
			<-done
		}
	}
	produced := 0
	produce := func(n int) {
		cl := w.client()
		for range n {
			cl.Produce(ctx, &kgo.Record{Topic: "orders", Value: []byte(strconv.Itoa(produced))}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
			produced++
		}
		require.NoError(t, cl.Flush(ctx))
	}
	all := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(seen) == produced
	}
	stopA := member(kgo.CooperativeStickyBalancer(), "")
	produce(200)
	require.Eventually(t, all, 20*time.Second, 10*time.Millisecond)
	stopB := member(kgo.CooperativeStickyBalancer(), "")
	produce(200)
	require.Eventually(t, all, 20*time.Second, 10*time.Millisecond)
	stopA()
	produce(200)
	require.Eventually(t, all, 20*time.Second, 10*time.Millisecond)
	stopB()
	adm := kadm.NewClient(w.client())
	lag, err := adm.Lag(ctx, "g")
	require.NoError(t, err)
	require.Zero(t, lag["g"].Lag.Total())
	stopC := member(kgo.RangeBalancer(), "static-1")
	produce(100)
	require.Eventually(t, all, 20*time.Second, 10*time.Millisecond)
	stopC()

	// The group goes on by the newer protocol (KIP-848), with members of both for a while.
	stopD := member(kgo.StickyBalancer(), "", kgo.ServerSideBalancer())
	produce(100)
	require.Eventually(t, all, 20*time.Second, 10*time.Millisecond)
	groupType := func() string {
		list, err := kmsg.NewPtrListGroupsRequest().RequestWith(ctx, w.client())
		require.NoError(t, err)
		require.Len(t, list.Groups, 1)
		return list.Groups[0].GroupType
	}
	require.Equal(t, "consumer", groupType())
	stopE := member(kgo.RangeBalancer(), "static-2", kgo.ServerSideBalancer())
	stopF := member(kgo.CooperativeStickyBalancer(), "")
	produce(200)
	require.Eventually(t, all, 20*time.Second, 10*time.Millisecond)
	stopD()
	stopE()
	produce(100)
	require.Eventually(t, all, 20*time.Second, 10*time.Millisecond)
	stopF()
	for v, n := range seen {
		require.Equal(t, 1, n, "record %s: members left in peace", v)
	}
}

func TestGroupAdmin(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, nil)
	w.create("other", 1, nil)
	adm := kadm.NewClient(w.client())
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: "orders", Partition: 0, At: 7, LeaderEpoch: -1, Metadata: "seven"})
	offsets.Add(kadm.Offset{Topic: "other", Partition: 0, At: 3, LeaderEpoch: 1})
	require.NoError(t, adm.CommitAllOffsets(t.Context(), "g", offsets))
	got, err := adm.FetchOffsets(t.Context(), "g")
	require.NoError(t, err)
	o, ok := got.Lookup("orders", 0)
	require.True(t, ok)
	require.EqualValues(t, 7, o.At)
	require.Equal(t, "seven", o.Metadata, "metadata comes back")
	list, err := adm.ListGroups(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"g"}, list.Groups())
	d, err := adm.DescribeGroups(t.Context(), "g", "never")
	require.NoError(t, err)
	require.Equal(t, "Empty", d["g"].State)
	require.ErrorIs(t, d["never"].Err, kerr.GroupIDNotFound)

	var gone kadm.TopicsSet
	gone.Add("other", 0)
	_, err = adm.DeleteOffsets(t.Context(), "g", gone)
	require.NoError(t, err)
	got, err = adm.FetchOffsets(t.Context(), "g")
	require.NoError(t, err)
	_, ok = got.Lookup("other", 0)
	require.False(t, ok)
	_, err = adm.DeleteGroup(t.Context(), "g")
	require.NoError(t, err)
	_, err = adm.DeleteGroup(t.Context(), "g")
	require.ErrorIs(t, err, kerr.GroupIDNotFound)
}

// protocolOf is a subscription to orders.
func protocolOf(owned ...int32) []kmsg.JoinGroupRequestProtocol {
	m := kmsg.NewConsumerMemberMetadata()
	m.Topics = []string{"orders"}
	_ = owned
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = "range", m.AppendTo(nil)
	return []kmsg.JoinGroupRequestProtocol{p}
}

func assignmentOf(partitions ...int32) []byte {
	a := kmsg.NewConsumerMemberAssignment()
	a.Topics = []kmsg.ConsumerMemberAssignmentTopic{{Topic: "orders", Partitions: partitions}}
	return a.AppendTo(nil)
}

// TestGroupAPIsInEveryVersion plays one member's life in each version.
func TestGroupAPIsInEveryVersion(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, nil)
	id := w.Current().Topics["orders"].ID
	for v := int16(0); v <= 9; v++ {
		at := func(lowest, highest int16) int16 { return min(max(v, lowest), highest) }
		group := fmt.Sprint("group-", v)
		c := w.dial()
		join := kmsg.NewPtrJoinGroupRequest()
		join.Group, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = group, 10_000, 10_000
		join.ProtocolType, join.Protocols = "consumer", protocolOf()
		joined := exchange[*kmsg.JoinGroupResponse](c, join, v)
		if v >= 4 { // KIP-394
			require.Equal(t, kerr.MemberIDRequired.Code, joined.ErrorCode, "v%d", v)
			require.NotEmpty(t, joined.MemberID)
			join.MemberID = joined.MemberID
			joined = exchange[*kmsg.JoinGroupResponse](c, join, v)
		}
		require.Zero(t, joined.ErrorCode, "v%d", v)
		require.Equal(t, joined.LeaderID, joined.MemberID)
		require.Equal(t, "range", *joined.Protocol)
		require.Len(t, joined.Members, 1)
		require.Equal(t, join.Protocols[0].Metadata, joined.Members[0].ProtocolMetadata)

		sync := kmsg.NewPtrSyncGroupRequest()
		sync.Group, sync.Generation, sync.MemberID = group, joined.Generation, joined.MemberID
		sync.ProtocolType, sync.Protocol = new("consumer"), new("range")
		sync.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: joined.MemberID, MemberAssignment: assignmentOf(0, 1)}}
		synced := exchange[*kmsg.SyncGroupResponse](c, sync, at(0, 5))
		require.Zero(t, synced.ErrorCode)
		require.Equal(t, assignmentOf(0, 1), synced.MemberAssignment)

		beat := kmsg.NewPtrHeartbeatRequest()
		beat.Group, beat.Generation, beat.MemberID = group, joined.Generation, joined.MemberID
		require.Zero(t, exchange[*kmsg.HeartbeatResponse](c, beat, at(0, 4)).ErrorCode)
		beat.Generation++
		require.Equal(t, kerr.IllegalGeneration.Code, exchange[*kmsg.HeartbeatResponse](c, beat, at(0, 4)).ErrorCode)
		beat.MemberID = "nobody"
		require.Equal(t, kerr.UnknownMemberID.Code, exchange[*kmsg.HeartbeatResponse](c, beat, at(0, 4)).ErrorCode)

		for _, cv := range []int16{at(2, 9), 10} {
			commit := kmsg.NewPtrOffsetCommitRequest()
			commit.Group, commit.Generation, commit.MemberID = group, joined.Generation, joined.MemberID
			ct := kmsg.NewOffsetCommitRequestTopic()
			ct.Topic, ct.TopicID = "orders", id
			for p, code := range map[int32]bool{0: true, 9: false} {
				cp := kmsg.NewOffsetCommitRequestTopicPartition()
				cp.Partition, cp.Offset, cp.Metadata = p, 40+int64(cv), new(fmt.Sprint("m", code))
				ct.Partitions = append(ct.Partitions, cp)
			}
			slices.SortFunc(ct.Partitions, func(a, b kmsg.OffsetCommitRequestTopicPartition) int { return int(a.Partition - b.Partition) })
			commit.Topics = append(commit.Topics, ct)
			parts := exchange[*kmsg.OffsetCommitResponse](c, commit, cv).Topics[0].Partitions
			require.Zero(t, parts[0].ErrorCode, "v%d", cv)
			require.Equal(t, kerr.UnknownTopicOrPartition.Code, parts[1].ErrorCode)

			fetched := fetchOffsets(c, cv, group, id)
			require.Equal(t, 40+int64(cv), fetched[0].Offset, "v%d", cv)
			require.Equal(t, "mtrue", *fetched[0].Metadata)
			require.EqualValues(t, -1, fetched[1].Offset)
			require.Zero(t, fetched[1].ErrorCode)
		}

		describe := kmsg.NewPtrDescribeGroupsRequest()
		describe.Groups = []string{group, "never"}
		for dv := int16(0); dv <= 6; dv++ {
			d := exchange[*kmsg.DescribeGroupsResponse](c, describe, dv).Groups
			require.Equal(t, "Stable", d[0].State)
			require.Len(t, d[0].Members, 1)
			require.Equal(t, "raw", d[0].Members[0].ClientID)
			require.Equal(t, "/127.0.0.1", d[0].Members[0].ClientHost)
			require.Equal(t, assignmentOf(0, 1), d[0].Members[0].MemberAssignment)
			require.Equal(t, "Dead", d[1].State)
			require.Equal(t, dv >= 6, d[1].ErrorCode == kerr.GroupIDNotFound.Code)
		}
		for lv := int16(0); lv <= 5; lv++ {
			l := kmsg.NewPtrListGroupsRequest()
			require.NotEmpty(t, exchange[*kmsg.ListGroupsResponse](c, l, lv).Groups)
			l.StatesFilter = []string{"stable"}
			require.NotEmpty(t, exchange[*kmsg.ListGroupsResponse](c, l, lv).Groups)
			l.StatesFilter, l.TypesFilter = []string{"Dead"}, []string{"classic"}
			require.Equal(t, lv >= 4, len(exchange[*kmsg.ListGroupsResponse](c, l, lv).Groups) == 0)
		}
		del := kmsg.NewPtrDeleteGroupsRequest()
		del.Groups = []string{group}
		require.Equal(t, kerr.NonEmptyGroup.Code, exchange[*kmsg.DeleteGroupsResponse](c, del, at(0, 2)).Groups[0].ErrorCode)

		leave := kmsg.NewPtrLeaveGroupRequest()
		leave.Group, leave.MemberID = group, joined.MemberID
		leave.Members = []kmsg.LeaveGroupRequestMember{{MemberID: joined.MemberID}}
		left := exchange[*kmsg.LeaveGroupResponse](c, leave, at(0, 5))
		require.Zero(t, left.ErrorCode)
		again := exchange[*kmsg.LeaveGroupResponse](c, leave, at(0, 5))
		if v < 3 {
			require.Equal(t, kerr.UnknownMemberID.Code, again.ErrorCode)
		} else {
			require.Zero(t, left.Members[0].ErrorCode)
			require.Equal(t, kerr.UnknownMemberID.Code, again.Members[0].ErrorCode)
		}
		offsetDelete := kmsg.NewPtrOffsetDeleteRequest()
		offsetDelete.Group = group
		offsetDelete.Topics = []kmsg.OffsetDeleteRequestTopic{{Topic: "orders", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}}}}
		require.Zero(t, exchange[*kmsg.OffsetDeleteResponse](c, offsetDelete, 0).ErrorCode)
		require.EqualValues(t, -1, fetchOffsets(c, 9, group, id)[0].Offset)
		require.Zero(t, exchange[*kmsg.DeleteGroupsResponse](c, del, at(0, 2)).Groups[0].ErrorCode)
	}
}

// fetchOffsets asks for the offsets of both partitions of orders.
func fetchOffsets(c *raw, v int16, group string, id [16]byte) []kmsg.OffsetFetchResponseGroupTopicPartition {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group = group
	req.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "orders", Partitions: []int32{0, 1}}}
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = group
	g.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: "orders", TopicID: id, Partitions: []int32{0, 1}}}
	req.Groups = append(req.Groups, g)
	resp := exchange[*kmsg.OffsetFetchResponse](c, req, v)
	if v >= 8 {
		return resp.Groups[0].Topics[0].Partitions
	}
	var out []kmsg.OffsetFetchResponseGroupTopicPartition
	for _, p := range resp.Topics[0].Partitions {
		out = append(out, kmsg.OffsetFetchResponseGroupTopicPartition{Partition: p.Partition, Offset: p.Offset, Metadata: p.Metadata, ErrorCode: p.ErrorCode})
	}
	return out
}

// TestStoreAwayIsNotNoOffset: with Redis away the client must wait, not reset.
func TestStoreAwayIsNotNoOffset(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, nil)
	id := w.Current().Topics["orders"].ID
	c := w.dial()
	w.redis.SetError("LOADING Redis is loading")
	for v := int16(1); v <= 10; v++ {
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Group = "g"
		req.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "orders", Partitions: []int32{0}}}
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = "g"
		g.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: "orders", TopicID: id, Partitions: []int32{0}}}
		req.Groups = append(req.Groups, g)
		resp := exchange[*kmsg.OffsetFetchResponse](c, req, v)
		code := resp.ErrorCode
		switch {
		case v >= 8:
			code = resp.Groups[0].ErrorCode
		case v == 1:
			code = resp.Topics[0].Partitions[0].ErrorCode
		}
		require.Equal(t, kerr.CoordinatorLoadInProgress.Code, code, "v%d", v)
	}
	// Appends and reads go on.
	require.Zero(t, exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, "x")), 9).Topics[0].Partitions[0].ErrorCode)
	w.redis.SetError("")
	require.Eventually(t, func() bool { return fetchOffsets(c, 9, "g", id)[0].Offset == -1 }, 10*time.Second, 10*time.Millisecond)
}

func TestGroupsOfAnotherGateway(t *testing.T) {
	w := newWorld(t)
	other := w.addGateway("gw-1", 2, "")
	w.create("orders", 1, nil)
	group := "g"
	for i := 0; w.Current().GroupGateway(group).ID != "gw-0"; i++ {
		group = fmt.Sprint("g", i)
	}
	beat := kmsg.NewPtrHeartbeatRequest()
	beat.Group, beat.MemberID = group, "m"
	require.Equal(t, kerr.NotCoordinator.Code, exchange[*kmsg.HeartbeatResponse](dial(t, other), beat, 4).ErrorCode)
	require.Equal(t, kerr.UnknownMemberID.Code, exchange[*kmsg.HeartbeatResponse](w.dial(), beat, 4).ErrorCode)
}

// TestOffsetsAtAnyGateway: librdkafka does not ask again where it was told that
// somebody else coordinates the group.
func TestOffsetsAtAnyGateway(t *testing.T) {
	w := newWorld(t)
	other := w.addGateway("gw-1", 2, "")
	w.create("orders", 2, nil)
	id := w.Current().Topics["orders"].ID
	group := "g"
	for i := 0; w.Current().GroupGateway(group).ID != "gw-0"; i++ {
		group = fmt.Sprint("g", i)
	}
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Group, commit.Generation = group, -1
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "orders", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Partition: 0, Offset: 7, LeaderEpoch: -1}}}}
	require.Equal(t, kerr.NotCoordinator.Code, exchange[*kmsg.OffsetCommitResponse](dial(t, other), commit, 8).Topics[0].Partitions[0].ErrorCode)
	require.Zero(t, exchange[*kmsg.OffsetCommitResponse](w.dial(), commit, 8).Topics[0].Partitions[0].ErrorCode)
	for v := int16(1); v <= 10; v++ {
		got := fetchOffsets(dial(t, other), v, group, id)
		require.Len(t, got, 2, "v%d", v)
		require.Zero(t, got[0].ErrorCode, "v%d", v)
		require.EqualValues(t, 7, got[0].Offset, "v%d", v)
		require.EqualValues(t, -1, got[1].Offset, "v%d", v)
	}
}
