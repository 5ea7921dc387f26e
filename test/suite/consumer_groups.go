package suite

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/test/world"
)

// consumerProtocol makes a member one of Kafka's newer protocol (KIP-848), which learns
// what to read in the answers to its heartbeats.
func consumerProtocol(opts ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer())}, opts...)
}

// groupType is what ListGroups says.
func (s *suite) groupType(t *testing.T, group string) string {
	t.Helper()
	list, err := kmsg.NewPtrListGroupsRequest().RequestWith(call(t), s.client(t))
	require.NoError(t, err)
	for _, g := range list.Groups {
		if g.Group == group {
			return g.GroupType
		}
	}
	return ""
}

func (s *suite) testConsumerProtocol(t *testing.T) {
	topic, group := s.topic(t, 4), name(t)
	// franz-go reads new partitions when it has heard of them otherwise, too.
	fresh := []kgo.Opt{kgo.MetadataMaxAge(time.Second), kgo.MetadataMinAge(time.Second / 4)}
	first := s.member(t, group, topic, consumerProtocol(fresh...)...)
	shared(t, []int{4}, first)
	require.Equal(t, "consumer", s.groupType(t, group))
	s.fill(t, topic, 0, 100)
	second := s.member(t, group, topic, consumerProtocol(fresh...)...)
	shared(t, []int{2, 2}, first, second)
	first.mu.Lock()
	require.Equal(t, 2, first.lost, "only what moves is taken away")
	first.mu.Unlock()
	s.fill(t, topic, 100, 200)
	requireEachOnce(t, 300, first, second)

	// More partitions reach the members.
	grown, err := s.admin(t).UpdatePartitions(call(t), 6, topic)
	require.NoError(t, err)
	require.NoError(t, grown.Error())
	shared(t, []int{3, 3}, first, second)
	s.fill(t, topic, 300, 100)
	requireEachOnce(t, 400, first, second)

	out := s.w.MustBraid(t, "", "group", "describe", group)
	require.Contains(t, out, "kafka-consumer")
	require.Contains(t, s.w.MustBraid(t, "", "group", "list"), "consumer")

	first.leave(t)
	shared(t, []int{6}, second)
	s.fill(t, topic, 400, 100)
	requireEachOnce(t, 500, first, second)
	second.leave(t)
}

// testChangeProtocol moves a group from the classic protocol to the newer one and back,
// one member after the other, with a Connect member in it all the while.
func (s *suite) testChangeProtocol(t *testing.T) {
	topic, group := s.topic(t, 6), name(t)
	classic := s.member(t, group, topic, kgo.Balancers(kgo.CooperativeStickyBalancer()))
	connect := s.connectMember(t, s.w.Gateways[0].URL(), group, topic)
	shared(t, []int{3, 3}, classic, connect)
	s.fill(t, topic, 0, 100)
	requireEachOnce(t, 100, classic, connect)
	require.Equal(t, "classic", s.groupType(t, group))

	modern := s.member(t, group, topic, consumerProtocol()...)
	shared(t, []int{2, 2, 2}, classic, connect, modern)
	require.Equal(t, "consumer", s.groupType(t, group))
	s.fill(t, topic, 100, 200)
	requireEachOnce(t, 300, classic, connect, modern)
	classic.leave(t)
	shared(t, []int{3, 3}, connect, modern)
	s.fill(t, topic, 300, 100)
	requireEachOnce(t, 400, classic, connect, modern)

	back := s.member(t, group, topic, kgo.Balancers(kgo.RangeBalancer()))
	shared(t, []int{2, 2, 2}, connect, modern, back)
	modern.leave(t)
	shared(t, []int{3, 3}, connect, back)
	s.fill(t, topic, 400, 100)
	requireEachOnce(t, 500, classic, connect, modern, back)
	require.Equal(t, "classic", s.groupType(t, group))
	connect.leave(t)
	back.leave(t)
}

// testConsumerStatic has a static member of the newer protocol come back.
func (s *suite) testConsumerStatic(t *testing.T) {
	topic, group := s.topic(t, 4), name(t)
	first := s.member(t, group, topic, consumerProtocol(kgo.InstanceID("one"))...)
	second := s.member(t, group, topic, consumerProtocol(kgo.InstanceID("two"))...)
	shared(t, []int{2, 2}, first, second)
	first.mu.Lock()
	before := first.assigned
	first.mu.Unlock()
	// It leaves as Kafka's clients do, to be back: its partitions stay its own.
	second.stop()
	<-second.done
	require.NoError(t, second.CommitMarkedOffsets(call(t)))
	second.CloseAllowingRebalance()
	again := s.member(t, group, topic, consumerProtocol(kgo.InstanceID("two"))...)
	shared(t, []int{2, 2}, first, again)
	first.mu.Lock()
	require.Equal(t, before, first.assigned, "nothing moved")
	first.mu.Unlock()
	s.fill(t, topic, 0, 100)
	requireEachOnce(t, 100, first, again)
	first.leave(t)
	again.leave(t)
}

// testConsumerCoordinatorGone ends the coordinator of members of the newer protocol. The
// next one takes the group as it is: their epochs and partitions stay.
func (s *suite) testConsumerCoordinatorGone(t *testing.T, end func(*world.Node)) {
	topic, group := s.topic(t, 6), name(t)
	members := []*member{s.member(t, group, topic, consumerProtocol()...), s.member(t, group, topic, consumerProtocol()...)}
	shared(t, []int{3, 3}, members[0], members[1])
	s.fill(t, topic, 0, 100)
	requireEachOnce(t, 100, members[0], members[1])
	type seen struct {
		lost, assigned int
		epoch          int32
	}
	now := func() (all []seen) {
		for _, m := range members {
			_, epoch := m.GroupMetadata()
			m.mu.Lock()
			all = append(all, seen{m.lost, m.assigned, epoch})
			m.mu.Unlock()
		}
		return all
	}
	before := now()
	require.Equal(t, before[0].epoch, before[1].epoch)
	gone := s.coordinatorNode(t, group)
	s.endFor(t, gone, end)
	eventually(t, func() bool { return s.coordinatorNode(t, group) != gone }, "another coordinator")
	// A commit comes through when the member has found it.
	for i := range 3 {
		s.fill(t, topic, 100*(i+1), 100)
		requireEachOnce(t, 100*(i+2), members[0], members[1])
		for _, m := range members {
			eventually(t, func() bool { return m.CommitMarkedOffsets(call(t)) == nil }, "a commit at the next coordinator")
		}
	}
	require.NoError(t, gone.Start())
	s.fill(t, topic, 400, 100)
	requireEachOnce(t, 500, members[0], members[1])
	require.Equal(t, before, now(), "nobody lost, got or followed anything")
	for _, m := range members {
		m.leave(t)
	}
}
