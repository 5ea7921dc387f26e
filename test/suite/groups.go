package suite

import (
	"context"
	"errors"
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
)

func (s *suite) groups() []test {
	return []test{
		{"eager members share the partitions", s.testEager},
		{"cooperative members keep what they have", s.testCooperative},
		{"Connect members alone", s.testConnectGroup},
		{"Kafka and Connect members in one group", s.testMixedGroup},
		{"static members come back to their partitions", s.testStaticMember},
		{"members of the newer protocol", s.testConsumerProtocol},
		{"a group changes its protocol while it is read", s.testChangeProtocol},
		{"static members of the newer protocol", s.testConsumerStatic},
		{"offsets with metadata, of all versions", s.testOffsetCommit},
		{"offsets are deleted, and not inherited", s.testOffsetDelete},
		{"commits from outside and from the past are refused", s.testCommitFencing},
		{"listed, described, deleted", s.testGroupAdmin},
		{"members that come at once all get in", s.testConcurrentJoins},
		{"every member id request gets its id", s.testMemberIDRequired},
	}
}

// A seer is a member of any kind.
type seer interface {
	// see returns how many partitions the member has, and what it read.
	see() (partitions int, records []*kgo.Record)
	// broken returns what ended the member, or went wrong, before it was to leave.
	broken() error
}

func requireWhole(t *testing.T, members ...seer) {
	t.Helper()
	for i, m := range members {
		require.NoError(t, m.broken(), "member %d", i)
	}
}

func (m *member) broken() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(m.errs...)
}

// A member is a franz-go member of a group that collects what it reads.
type member struct {
	*kgo.Client
	done chan struct{}
	stop context.CancelFunc

	mu       sync.Mutex
	records  []*kgo.Record
	mine     map[int32]bool
	lost     int // partitions taken away, given back or lost
	errs     []error
	assigned int // how often something was assigned
}

func (s *suite) member(t *testing.T, group, topic string, opts ...kgo.Opt) *member {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	m := &member{stop: cancel, done: make(chan struct{}), mine: make(map[int32]bool)}
	opts = append([]kgo.Opt{
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.AutoCommitMarks(), kgo.AutoCommitInterval(100 * time.Millisecond),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, come map[string][]int32) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.assigned++
			for _, p := range come[topic] {
				m.mine[p] = true
			}
		}),
		kgo.OnPartitionsRevoked(func(ctx context.Context, c *kgo.Client, gone map[string][]int32) {
			m.take(topic, gone)
			if err := c.CommitMarkedOffsets(ctx); err != nil {
				m.fail(fmt.Errorf("commit before a revocation: %w", err))
			}
		}),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, gone map[string][]int32) { m.take(topic, gone) }),
		kgo.BlockRebalanceOnPoll(),
	}, opts...)
	m.Client = s.client(t, opts...)
	go m.run(ctx)
	t.Cleanup(func() {
		cancel()
		<-m.done
	})
	return m
}

func (m *member) run(ctx context.Context) {
	defer close(m.done)
	for ctx.Err() == nil {
		fetches := m.PollFetches(ctx)
		for _, f := range fetches.Errors() {
			if !isContextError(f.Err) {
				m.fail(f.Err)
			}
		}
		records := fetches.Records()
		m.mu.Lock()
		m.records = append(m.records, records...)
		m.mu.Unlock()
		m.MarkCommitRecords(records...)
		m.AllowRebalance()
	}
}

func (m *member) take(topic string, gone map[string][]int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range gone[topic] {
		delete(m.mine, p)
		m.lost++
	}
}

func (m *member) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.errs = append(m.errs, err)
}

func (m *member) see() (partitions int, records []*kgo.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.mine), slices.Clip(m.records)
}

// leave commits, leaves the group and ends the member.
func (m *member) leave(t *testing.T) {
	t.Helper()
	m.stop()
	<-m.done
	m.mu.Lock()
	require.Empty(t, m.errs)
	m.mu.Unlock()
	require.NoError(t, m.CommitMarkedOffsets(call(t)))
	m.CloseAllowingRebalance()
}

// fill writes count records, numbered from from on, to a topic by key.
func (s *suite) fill(t *testing.T, topic string, from, count int) {
	t.Helper()
	var records []*kgo.Record
	for n := from; n < from+count; n++ {
		records = append(records, &kgo.Record{Topic: topic, Key: fmt.Append(nil, n), Value: fmt.Append(nil, n)})
	}
	send(t, s.client(t), records...)
}

// requireEachOnce requires that the members together read the records 0 to count-1, each once.
func requireEachOnce(t *testing.T, count int, members ...seer) {
	t.Helper()
	all := func() (n int) {
		for _, m := range members {
			_, records := m.see()
			n += len(records)
		}
		return n
	}
	eventually(t, func() bool { requireWhole(t, members...); return all() >= count }, "%d records read", count)
	readers := make(map[string][]string)
	for i, m := range members {
		_, records := m.see()
		for _, r := range records {
			readers[string(r.Value)] = append(readers[string(r.Value)], fmt.Sprintf("member %d at partition %d offset %d", i, r.Partition, r.Offset))
		}
	}
	for n := range count {
		require.Len(t, readers[strconv.Itoa(n)], 1, "readers of record %d", n)
	}
	require.Equal(t, count, all())
}

// shared waits until every member has its number of partitions.
func shared(t *testing.T, want []int, members ...seer) {
	t.Helper()
	got := make([]int, len(members))
	deadline := time.Now().Add(waitTimeout)
	for {
		same := true
		for i, m := range members {
			got[i], _ = m.see()
			same = same && got[i] == want[i]
		}
		if same {
			return
		}
		requireWhole(t, members...)
		require.True(t, time.Now().Before(deadline), "members have %v partitions, want %v", got, want)
		<-time.After(pollInterval)
	}
}

func (s *suite) testEager(t *testing.T) {
	topic, group := s.topic(t, 6), name(t)
	first := s.member(t, group, topic, kgo.Balancers(kgo.RangeBalancer()))
	shared(t, []int{6}, first)
	second := s.member(t, group, topic, kgo.Balancers(kgo.RangeBalancer()))
	shared(t, []int{3, 3}, first, second)
	s.fill(t, topic, 0, 300)
	requireEachOnce(t, 300, first, second)
	first.leave(t)
	shared(t, []int{6}, second)
	s.fill(t, topic, 300, 100)
	requireEachOnce(t, 400, first, second)
	second.leave(t)
	// Who comes later goes on where they stopped.
	third := s.member(t, group, topic, kgo.Balancers(kgo.RangeBalancer()))
	s.fill(t, topic, 400, 50)
	requireEachOnce(t, 450, first, second, third)
	third.leave(t)
}

func (s *suite) testCooperative(t *testing.T) {
	topic, group := s.topic(t, 6), name(t)
	first := s.member(t, group, topic, kgo.Balancers(kgo.CooperativeStickyBalancer()))
	shared(t, []int{6}, first)
	s.fill(t, topic, 0, 100)
	second := s.member(t, group, topic, kgo.Balancers(kgo.CooperativeStickyBalancer()))
	shared(t, []int{3, 3}, first, second)
	third := s.member(t, group, topic, kgo.Balancers(kgo.CooperativeStickyBalancer()))
	shared(t, []int{2, 2, 2}, first, second, third)
	first.mu.Lock()
	require.Equal(t, 4, first.lost, "only what moves is taken away")
	first.mu.Unlock()
	s.fill(t, topic, 100, 200)
	requireEachOnce(t, 300, first, second, third)
	second.leave(t)
	shared(t, []int{3, 3}, first, third)
	s.fill(t, topic, 300, 100)
	requireEachOnce(t, 400, first, second, third)
	first.leave(t)
	third.leave(t)
}

func (s *suite) testStaticMember(t *testing.T) {
	topic, group := s.topic(t, 4), name(t)
	opts := func(id string) []kgo.Opt {
		return []kgo.Opt{kgo.InstanceID(id), kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.SessionTimeout(30 * time.Second)}
	}
	first := s.member(t, group, topic, opts("one")...)
	second := s.member(t, group, topic, opts("two")...)
	shared(t, []int{2, 2}, first, second)
	_, generation := first.GroupMetadata()
	// A static member that goes without leaving keeps its place.
	second.stop()
	<-second.done
	second.CloseAllowingRebalance()
	again := s.member(t, group, topic, opts("two")...)
	shared(t, []int{2, 2}, first, again)
	_, now := first.GroupMetadata()
	require.Equal(t, generation, now, "no rebalance for a static member that comes back")
	s.fill(t, topic, 0, 100)
	requireEachOnce(t, 100, first, again)
	first.leave(t)
	again.leave(t)
}

func (s *suite) testOffsetCommit(t *testing.T) {
	topic, group := s.topic(t, 2), name(t)
	admin := s.admin(t)
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: topic, Partition: 0, At: 5, LeaderEpoch: -1, Metadata: "so far, so good: ✓"})
	committed, err := admin.CommitOffsets(call(t), group, offsets)
	require.NoError(t, err)
	require.NoError(t, committed.Error())
	fetched, err := admin.FetchOffsets(call(t), group)
	require.NoError(t, err)
	o, ok := fetched.Lookup(topic, 0)
	require.True(t, ok)
	require.Equal(t, int64(5), o.At)
	require.Equal(t, "so far, so good: ✓", o.Metadata)

	address := s.coordinator(t, group)
	topics, err := admin.ListTopics(call(t), topic)
	require.NoError(t, err)
	conn := dial(t, address)
	for version := int16(2); version <= 10; version++ {
		r := kmsg.NewPtrOffsetCommitRequest()
		r.SetVersion(version)
		r.Group, r.Generation = group, -1
		rt := kmsg.NewOffsetCommitRequestTopic()
		rt.Topic, rt.TopicID = topic, topics[topic].ID
		rp := kmsg.NewOffsetCommitRequestTopicPartition()
		metadata := fmt.Sprint("v", version)
		rp.Partition, rp.Offset, rp.Metadata = 1, int64(version), &metadata
		rt.Partitions = append(rt.Partitions, rp)
		r.Topics = append(r.Topics, rt)
		require.Zero(t, conn.call(r).(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode, "OffsetCommit version %d", version)
		at, text := s.fetchOffset(t, conn, min(version, 10), group, topic, topics[topic].ID)
		require.Equal(t, int64(version), at, "OffsetFetch version %d", version)
		require.Equal(t, metadata, text)
	}
	none, err := admin.FetchOffsets(call(t), group+"-unknown")
	require.NoError(t, err)
	require.Empty(t, none)
}

// fetchOffset asks for the committed offset of partition 1 in a version of OffsetFetch.
func (s *suite) fetchOffset(t *testing.T, conn *rawConn, version int16, group, topic string, id [16]byte) (at int64, metadata string) {
	t.Helper()
	r := kmsg.NewPtrOffsetFetchRequest()
	r.SetVersion(version)
	if version < 8 {
		r.Group = group
		rt := kmsg.NewOffsetFetchRequestTopic()
		rt.Topic, rt.Partitions = topic, []int32{1}
		r.Topics = append(r.Topics, rt)
		p := conn.call(r).(*kmsg.OffsetFetchResponse).Topics[0].Partitions[0]
		require.Zero(t, p.ErrorCode)
		return p.Offset, *p.Metadata
	}
	rg := kmsg.NewOffsetFetchRequestGroup()
	rg.Group = group
	rt := kmsg.NewOffsetFetchRequestGroupTopic()
	rt.Topic, rt.TopicID, rt.Partitions = topic, id, []int32{1}
	rg.Topics = append(rg.Topics, rt)
	r.Groups = append(r.Groups, rg)
	g := conn.call(r).(*kmsg.OffsetFetchResponse).Groups[0]
	require.Zero(t, g.ErrorCode)
	require.Zero(t, g.Topics[0].Partitions[0].ErrorCode)
	return g.Topics[0].Partitions[0].Offset, *g.Topics[0].Partitions[0].Metadata
}

// coordinator is the Kafka address of a group's coordinator.
func (s *suite) coordinator(t *testing.T, group string) string {
	t.Helper()
	r := kmsg.NewPtrFindCoordinatorRequest()
	r.SetVersion(4)
	r.CoordinatorKeys = []string{group}
	response := dial(t, s.w.KafkaAddresses()[0]).call(r).(*kmsg.FindCoordinatorResponse)
	require.Len(t, response.Coordinators, 1)
	c := response.Coordinators[0]
	require.Zero(t, c.ErrorCode)
	address := fmt.Sprintf("%s:%d", c.Host, c.Port)
	require.Contains(t, s.w.KafkaAddresses(), address)
	return address
}

func (s *suite) testOffsetDelete(t *testing.T) {
	topic, group := s.topic(t, 2), name(t)
	admin := s.admin(t)
	offsets := offsetsOf(topic, 0, 3)
	offsets.AddOffset(topic, 1, 4, -1)
	_, err := admin.CommitOffsets(call(t), group, offsets)
	require.NoError(t, err)
	var set kadm.TopicsSet
	set.Add(topic, 0)
	deleted, err := admin.DeleteOffsets(call(t), group, set)
	require.NoError(t, err)
	require.NoError(t, deleted.Error())
	fetched, err := admin.FetchOffsets(call(t), group)
	require.NoError(t, err)
	_, ok := fetched.Lookup(topic, 0)
	require.False(t, ok)
	_, ok = fetched.Lookup(topic, 1)
	require.True(t, ok)

	_, err = admin.DeleteTopic(call(t), topic)
	require.NoError(t, err)
	created, err := admin.CreateTopic(call(t), 2, -1, nil, topic)
	require.NoError(t, err, created.ErrMessage)
	fetched, err = s.admin(t).FetchOffsets(call(t), group)
	require.NoError(t, err)
	_, ok = fetched.Lookup(topic, 1)
	require.False(t, ok, "a topic that is created again inherits no offsets")
}

func (s *suite) testCommitFencing(t *testing.T) {
	topic, group := s.topic(t, 2), name(t)
	m := s.member(t, group, topic)
	shared(t, []int{2}, m)
	outside, err := s.admin(t).CommitOffsets(call(t), group, offsetsOf(topic, 0, 1))
	if err == nil {
		err = outside.Error()
	}
	require.ErrorIs(t, err, kerr.UnknownMemberID, "a commit from outside while the group has members")

	conn := dial(t, s.coordinator(t, group))
	id, generation := m.GroupMetadata()
	commit := func(id string, generation int32) int16 {
		r := kmsg.NewPtrOffsetCommitRequest()
		r.SetVersion(8)
		r.Group, r.MemberID, r.Generation = group, id, generation
		rt := kmsg.NewOffsetCommitRequestTopic()
		rt.Topic = topic
		rp := kmsg.NewOffsetCommitRequestTopicPartition()
		rp.Offset = 1
		rt.Partitions = append(rt.Partitions, rp)
		r.Topics = append(r.Topics, rt)
		return conn.call(r).(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode
	}
	require.Equal(t, kerr.IllegalGeneration.Code, commit(id, generation-1))
	require.Equal(t, kerr.UnknownMemberID.Code, commit("nobody", generation))
	require.Zero(t, commit(id, generation))
	m.leave(t)
}

func (s *suite) testGroupAdmin(t *testing.T) {
	topic, group := s.topic(t, 2), name(t)
	admin := s.admin(t)
	m := s.member(t, group, topic, kgo.ClientID("the member"))
	shared(t, []int{2}, m)
	listed, err := admin.ListGroups(call(t))
	require.NoError(t, err)
	require.Contains(t, listed.Groups(), group)
	described, err := admin.DescribeGroups(call(t), group)
	require.NoError(t, err)
	d := described[group]
	require.NoError(t, d.Err)
	require.Equal(t, "Stable", d.State)
	require.Equal(t, "consumer", d.ProtocolType)
	require.Len(t, d.Members, 1)
	require.Equal(t, "the member", d.Members[0].ClientID)
	busy, err := admin.DeleteGroup(call(t), group)
	if err == nil {
		err = busy.Err
	}
	require.ErrorIs(t, err, kerr.NonEmptyGroup)
	m.leave(t)
	described, err = admin.DescribeGroups(call(t), group)
	require.NoError(t, err)
	require.Equal(t, "Empty", described[group].State)
	_, err = admin.DeleteGroup(call(t), group)
	require.NoError(t, err)
	described, err = admin.DescribeGroups(call(t), group)
	require.NoError(t, err)
	require.Contains(t, []string{"Dead", ""}, described[group].State)
	_, err = admin.DeleteGroup(call(t), group)
	require.ErrorIs(t, err, kerr.GroupIDNotFound)
}

func (s *suite) testConcurrentJoins(t *testing.T) {
	topic, group := s.topic(t, 12), name(t)
	var members []*member
	for range 6 {
		members = append(members, s.member(t, group, topic))
	}
	seers := make([]seer, len(members))
	for i, m := range members {
		seers[i] = m
	}
	shared(t, []int{2, 2, 2, 2, 2, 2}, seers...)
	s.fill(t, topic, 0, 200)
	requireEachOnce(t, 200, seers...)
	for _, m := range members {
		m.leave(t)
	}
}

func (s *suite) testMemberIDRequired(t *testing.T) {
	topic, group := s.topic(t, 1), name(t)
	conn := dial(t, s.coordinator(t, group))
	join := func(version int16, id string) *kmsg.JoinGroupResponse {
		r := kmsg.NewPtrJoinGroupRequest()
		r.SetVersion(version)
		r.Group, r.MemberID, r.ProtocolType = group, id, "consumer"
		r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = 10_000, 10_000
		meta := kmsg.NewConsumerMemberMetadata()
		meta.Topics = []string{topic}
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name, p.Metadata = "range", meta.AppendTo(nil)
		r.Protocols = append(r.Protocols, p)
		return conn.call(r).(*kmsg.JoinGroupResponse)
	}
	first := join(5, "")
	require.Equal(t, kerr.MemberIDRequired.Code, first.ErrorCode, "KIP-394")
	require.NotEmpty(t, first.MemberID)
	second := join(5, first.MemberID)
	require.Zero(t, second.ErrorCode)
	require.Equal(t, first.MemberID, second.LeaderID)

	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group, leave.MemberID = group, first.MemberID
	require.Zero(t, conn.call(leave).(*kmsg.LeaveGroupResponse).ErrorCode)
	old := join(2, "")
	require.Zero(t, old.ErrorCode, "clients before KIP-394 get in at once")
	require.NotEmpty(t, old.MemberID)
	leave.MemberID = old.MemberID
	require.Zero(t, conn.call(leave).(*kmsg.LeaveGroupResponse).ErrorCode)
}
