package groups

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
)

// A subscription is what the coordinator uses of a ConsumerProtocolSubscription.
type subscription struct {
	version int16
	topics  []federation.TopicName
	owned   []federation.TopicPartition
}

// consumerVersionMax is the newest version of the two consumer protocol messages
// that assignments are encoded in; all versions begin alike.
const consumerVersionMax = 3

// subscription decodes the metadata of a classic member under a protocol; bytes
// that are none subscribe to nothing.
func (m *member) subscription(protocol string) *subscription {
	if m.decoded == nil || m.decodedName != protocol {
		m.decoded, m.decodedName = decodeSubscription(m.metadata(protocol)), protocol
	}
	return m.decoded
}

func decodeSubscription(b []byte) *subscription {
	var s kmsg.ConsumerMemberMetadata
	if err := s.ReadFrom(b); err != nil && (len(b) < 2 || s.Topics == nil) {
		return &subscription{}
	}
	sub := &subscription{version: min(max(s.Version, 0), consumerVersionMax)}
	for _, t := range s.Topics {
		sub.topics = append(sub.topics, topicName(t))
	}
	for _, o := range s.OwnedPartitions {
		for _, p := range o.Partitions {
			sub.owned = append(sub.owned, federation.TopicPartition{Topic: topicName(o.Topic), Partition: federation.LogicalPartition(p)})
		}
	}
	return sub
}

// topicName is a name as clients wrote it in what only they look into: it may be anything,
// but is shown, and stored as JSON.
func topicName(s string) federation.TopicName {
	return federation.TopicName(strings.ToValidUTF8(s, string(utf8.RuneError)))
}

// encodeAssignment makes the bytes of a ConsumerProtocolAssignment; tps are sorted.
func encodeAssignment(version int16, tps []federation.TopicPartition) []byte {
	a := kmsg.ConsumerMemberAssignment{Version: version}
	for _, tp := range tps {
		n := len(a.Topics)
		if n == 0 || a.Topics[n-1].Topic != string(tp.Topic) {
			a.Topics = append(a.Topics, kmsg.ConsumerMemberAssignmentTopic{Topic: string(tp.Topic)})
			n++
		}
		a.Topics[n-1].Partitions = append(a.Topics[n-1].Partitions, int32(tp.Partition))
	}
	return a.AppendTo(nil)
}

func decodeAssignment(b []byte) []federation.TopicPartition {
	if len(b) == 0 {
		return nil
	}
	var a kmsg.ConsumerMemberAssignment
	if err := a.ReadFrom(b); err != nil {
		return nil
	}
	var tps []federation.TopicPartition
	for _, t := range a.Topics {
		for _, p := range t.Partitions {
			tps = append(tps, federation.TopicPartition{Topic: topicName(t.Topic), Partition: federation.LogicalPartition(p)})
		}
	}
	sortPartitions(tps)
	return tps
}

// noteAssignment keeps in mind what a leader client gave a member, for the day when
// a Connect member joins and the coordinator assigns.
func (g *group) noteAssignment(m *member) {
	if g.protocolType != consumerProtocol {
		return
	}
	given := decodeAssignment(m.assignment)
	if m.owned == nil || !g.cooperative() {
		m.owned = make(map[federation.TopicPartition]int64, len(given))
	}
	m.target = make(map[federation.TopicPartition]bool, len(given))
	for _, tp := range given {
		m.owned[tp] = g.epoch
		m.target[tp] = true
	}
}

// computeSubscribed notes the topics that classic members subscribe to
// (ClassicGroup.computeSubscribedTopics).
func (g *group) computeSubscribed() {
	g.subscribed = nil
	if g.protocolType != consumerProtocol {
		return
	}
	g.subscribed = map[federation.TopicName]bool{}
	for _, m := range g.members {
		if m.stepwise {
			continue
		}
		for _, t := range m.subscription(g.protocol).topics {
			g.subscribed[t] = true
		}
	}
}

// isSubscribed reports whether a member subscribes to a topic; offsets of such
// topics are not deleted.
func (g *group) isSubscribed(name federation.TopicName) bool {
	for _, m := range g.members {
		if m.stepwise {
			if slices.Contains(m.names, name) {
				return true
			}
			if m.matcher != nil && m.matcher.MatchString(string(name)) {
				return true
			}
		}
	}
	if g.subscribed == nil {
		return g.protocolType == consumerProtocol && g.hasClassic()
	}
	return g.subscribed[name]
}

// encodeSubscription makes a ConsumerProtocolSubscription, to describe a Connect member.
func encodeSubscription(topics []federation.TopicName) []byte {
	s := kmsg.ConsumerMemberMetadata{}
	for _, t := range topics {
		s.Topics = append(s.Topics, string(t))
	}
	return s.AppendTo(nil)
}
