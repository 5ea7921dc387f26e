package kafkacompat_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// topicsOf are the names of the topics of an assignment.
func (w *world) topicsOf(a *kmsg.ConsumerGroupHeartbeatResponseAssignment) []string {
	w.t.Helper()
	require.NotNil(w.t, a)
	var names []string
	for _, at := range a.Topics {
		topic := w.Current().TopicByID(at.TopicID)
		require.NotNil(w.t, topic)
		names = append(names, string(topic.Name))
	}
	slices.Sort(names)
	return names
}

// A regular expression finds nothing that its member may not describe, and what it may
// from then on when it may.
func TestARegexMatchesWhatMayBeDescribed(t *testing.T) {
	w := newGuarded(t)
	w.grant("alice READ GROUP billing", "alice READ TOPIC orders")
	m := &modernMember{c: dial(t, w.listen("alice")), group: "billing", version: 1, id: "member"}
	all := func(req *kmsg.ConsumerGroupHeartbeatRequest) {
		req.SubscribedTopicNames, req.SubscribedTopicRegex = nil, new(".*")
	}
	first := m.join(all)
	require.Zero(t, first.ErrorCode)
	require.Equal(t, []string{"orders"}, w.topicsOf(first.Assignment))

	w.grant("alice DESCRIBE TOPIC secret")
	require.Equal(t, []string{"orders", "secret"}, w.topicsOf(m.next()))

	w.grant("!alice ALL TOPIC secret") // while it has the partition
	require.Equal(t, []string{"orders"}, w.topicsOf(m.next()))
}

// next beats until the member is told of another assignment.
func (m *modernMember) next() *kmsg.ConsumerGroupHeartbeatResponseAssignment {
	m.c.t.Helper()
	var a *kmsg.ConsumerGroupHeartbeatResponseAssignment
	require.Eventually(m.c.t, func() bool {
		a = m.beat().Assignment
		return a != nil
	}, 10*time.Second, 10*time.Millisecond)
	return a
}

// Who may not describe a topic is not shown who reads it.
func TestGroupsOfSecretTopicsAreNotShown(t *testing.T) {
	w := newGuarded(t)
	m := &modernMember{c: dial(t, w.listen("root")), group: "billing", version: 1, id: "member"}
	require.Zero(t, m.join(func(req *kmsg.ConsumerGroupHeartbeatRequest) { req.SubscribedTopicNames = []string{"orders", "secret"} }).ErrorCode)
	alice := dial(t, w.listen("alice"))
	describe := func() kmsg.ConsumerGroupDescribeResponseGroup {
		req := kmsg.NewPtrConsumerGroupDescribeRequest()
		req.Groups = []string{"billing"}
		return exchange[*kmsg.ConsumerGroupDescribeResponse](alice, req, 1).Groups[0]
	}
	w.grant("alice DESCRIBE GROUP billing", "alice DESCRIBE TOPIC orders")
	g := describe()
	require.Equal(t, errTopicDenied.Code, g.ErrorCode)
	require.Empty(t, g.Members)
	require.NotContains(t, *g.ErrorMessage, "secret")
	w.grant("alice DESCRIBE TOPIC secret")
	require.Len(t, describe().Members, 1)
}
