package groups

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
)

// The state of a group in Redis is a hash: one field for the group, one for each
// member, so that a change stores what changed.
const (
	headerField  = "group"
	memberPrefix = "member/"
)

// header is the stored form of what belongs to the group as a whole.
type header struct {
	State        string                          `json:"state"`
	SinceMs      int64                           `json:"since_ms"`
	Epoch        int64                           `json:"epoch"`
	Generation   int32                           `json:"generation"`
	ProtocolType string                          `json:"protocol_type,omitempty"`
	Protocol     string                          `json:"protocol,omitempty"`
	Leader       string                          `json:"leader,omitempty"`
	Seq          int64                           `json:"seq"`
	Type         string                          `json:"type,omitempty"`        // consumer, or empty for classic
	Reconciling  bool                            `json:"reconciling,omitempty"` // to be shown; it is computed anew
	TopicIDs     map[federation.TopicName]string `json:"topic_ids,omitempty"`
}

// storedMember is the stored form of a member.
type storedMember struct {
	Instance    string                                                 `json:"instance,omitempty"`
	ClientID    string                                                 `json:"client_id,omitempty"`
	ClientHost  string                                                 `json:"client_host,omitempty"`
	User        string                                                 `json:"user,omitempty"` // the principal, of others than modern members
	Modern      *storedModern                                          `json:"modern,omitempty"`
	Connect     bool                                                   `json:"connect,omitempty"`
	SessionMs   int64                                                  `json:"session_ms"`
	RebalanceMs int64                                                  `json:"rebalance_ms"`
	Seq         int64                                                  `json:"seq"`
	Protocols   []storedProtocol                                       `json:"protocols,omitempty"`
	Assignment  []byte                                                 `json:"assignment,omitempty"`
	Former      string                                                 `json:"former,omitempty"`
	Topics      []federation.TopicName                                 `json:"topics,omitempty"`
	Regex       string                                                 `json:"regex,omitempty"`
	Target      map[federation.TopicName][]federation.LogicalPartition `json:"target,omitempty"`
	Owned       []storedOwned                                          `json:"owned,omitempty"`
}

// storedModern is what a modern member has of its own.
type storedModern struct {
	Epoch    int32  `json:"epoch"`
	Previous int32  `json:"previous,omitempty"`
	Assignor string `json:"assignor,omitempty"`
	Rack     string `json:"rack,omitempty"`
	Untold   bool   `json:"untold,omitempty"`

	Principal string `json:"principal,omitempty"`
}

type storedProtocol struct {
	Name     string `json:"name"`
	Metadata []byte `json:"metadata,omitempty"`
}

// storedOwned are partitions of a topic that a member got in one epoch.
type storedOwned struct {
	Topic      federation.TopicName          `json:"topic"`
	Epoch      int64                         `json:"epoch"`
	Partitions []federation.LogicalPartition `json:"partitions"`
	Revoking   bool                          `json:"revoking,omitempty"`
}

func (g *group) header() header {
	h := header{
		State: g.state.String(), SinceMs: g.since.UnixMilli(), Epoch: g.epoch, Generation: g.generation,
		ProtocolType: g.protocolType, Protocol: g.protocol, Leader: g.leader, Seq: g.seq, Reconciling: g.reconciling,
	}
	if g.consumerType {
		h.Type = TypeConsumer
	}
	if len(g.topicIDs) > 0 {
		h.TopicIDs = make(map[federation.TopicName]string, len(g.topicIDs))
		for name, id := range g.topicIDs {
			h.TopicIDs[name] = id.String()
		}
	}
	return h
}

// collect puts what a step changed into its effects.
func (g *group) collect() {
	if g.fx.remove {
		return
	}
	for _, id := range g.gone {
		if g.members[id] == nil {
			g.fx.records = append(g.fx.records, redisstore.GroupRecord{Field: memberPrefix + id})
		}
	}
	if g.dirty || len(g.gone) > 0 || g.epoch != g.stored.Epoch {
		g.classify()
	}
	if g.dirty {
		for _, m := range g.ordered() {
			if m.dirty {
				m.dirty = false
				g.fx.records = append(g.fx.records, redisstore.GroupRecord{Field: memberPrefix + m.id, Value: encode(m.stored())})
			}
		}
		g.dirty = false
	}
	if h := g.header(); g.worthStoring() && !reflect.DeepEqual(h, g.stored) {
		g.stored = h
		g.fx.records = append(g.fx.records, redisstore.GroupRecord{Field: headerField, Value: encode(h)})
	}
	g.fx.events = slices.DeleteFunc(g.fx.events, func(e memberEvent) bool { return e.handle == nil })
	// A first, empty event says nothing that a fuller one of the same step does not say.
	for i, e := range g.fx.events {
		if len(e.assigned)+len(e.revoking)+len(e.lost) == 0 && slices.ContainsFunc(g.fx.events[i+1:], func(o memberEvent) bool { return o.handle == e.handle }) {
			g.fx.events = slices.Delete(g.fx.events, i, i+1)
			break
		}
	}
}

// worthStoring is false for a group that never had a member: it exists by its
// offsets, if at all.
func (g *group) worthStoring() bool { return len(g.members) > 0 || g.epoch > 0 }

// encode cannot fail: the stored forms hold nothing that JSON lacks.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err))
	}
	return b
}

func (m *member) stored() storedMember {
	s := storedMember{
		Instance: m.instance, ClientID: m.clientID, ClientHost: m.clientHost, User: m.user, Connect: m.stepwise,
		SessionMs: m.session.Milliseconds(), RebalanceMs: m.rebalance.Milliseconds(), Seq: m.seq,
		Assignment: m.assignment, Former: m.former, Topics: m.names, Regex: m.regex,
	}
	if m.modern != nil {
		s.Modern = &storedModern{Epoch: m.modern.epoch, Previous: m.modern.previous, Assignor: m.modern.assignor, Rack: m.modern.rack, Untold: m.modern.untold, Principal: m.modern.principal}
	}
	for _, p := range m.protocols {
		s.Protocols = append(s.Protocols, storedProtocol(p))
	}
	for _, tp := range sortedKeys(m.target) {
		if s.Target == nil {
			s.Target = map[federation.TopicName][]federation.LogicalPartition{}
		}
		s.Target[tp.Topic] = append(s.Target[tp.Topic], tp.Partition)
	}
	for _, tp := range sortedKeys(m.owned) {
		_, revoking := m.revoking[tp]
		i := slices.IndexFunc(s.Owned, func(o storedOwned) bool {
			return o.Topic == tp.Topic && o.Epoch == m.owned[tp] && o.Revoking == revoking
		})
		if i < 0 {
			i = len(s.Owned)
			s.Owned = append(s.Owned, storedOwned{Topic: tp.Topic, Epoch: m.owned[tp], Revoking: revoking})
		}
		s.Owned[i].Partitions = append(s.Owned[i].Partitions, tp.Partition)
	}
	return s
}

// loadGroup restores a group from its stored fields. All timeouts begin anew. A
// rebalance that was under way begins anew too; it is the only thing that members
// notice.
func loadGroup(id string, cfg *Config, topics topicView, fields map[string][]byte, now time.Time) (*group, error) {
	g := newGroup(id, cfg, topics, now)
	g.now = now
	if b, ok := fields[headerField]; ok {
		if err := g.loadHeader(b); err != nil {
			return nil, err
		}
	}
	for field, b := range fields {
		if name, ok := strings.CutPrefix(field, memberPrefix); ok {
			if err := g.loadMember(name, b); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case len(g.members) == 0:
		g.state, g.protocol, g.leader = stateEmpty, "", ""
	case g.state == stateEmpty, !g.hasClassic():
		g.state = stateStable
	}
	g.computeSubscribed()
	for _, m := range g.members {
		g.rest(m)
		for tp := range m.revoking {
			m.revoking[tp] = now.Add(m.rebalance)
			g.wakeAt(m.revoking[tp])
		}
	}
	if g.state == statePreparing || g.state == stateCompleting {
		g.state, g.before = statePreparing, stateStable
		g.joinDeadline = now.Add(g.rebalanceTimeout())
		g.wakeAt(g.joinDeadline)
	} else if g.hasStepwise() && g.hasClassic() {
		g.followDeadline = now.Add(g.rebalanceTimeout())
		g.wakeAt(g.followDeadline)
	}
	g.fx = effects{}
	for _, m := range g.members {
		if _, ok := g.held[groupShare]; !ok {
			g.hold(groupShare, holding{m.client(), groupBytes})
		}
		g.hold(m.id, holding{m.client(), m.size()})
	}
	return g, nil
}

func (g *group) loadHeader(b []byte) error {
	var h header
	if err := json.Unmarshal(b, &h); err != nil {
		return federation.Errorf(federation.Internal, "group %q: its stored state is damaged: %w", g.id, err)
	}
	for _, s := range []groupState{stateEmpty, statePreparing, stateCompleting, stateStable} {
		if s.String() == h.State {
			g.state = s
		}
	}
	g.since = time.UnixMilli(h.SinceMs)
	g.epoch, g.generation, g.seq = h.Epoch, h.Generation, h.Seq
	g.consumerType, g.reconciling = h.Type == TypeConsumer, h.Reconciling
	g.protocolType, g.protocol, g.leader = h.ProtocolType, h.Protocol, h.Leader
	for name, text := range h.TopicIDs {
		id, err := federation.ParseTopicID(text)
		if err != nil {
			return federation.Errorf(federation.Internal, "group %q: its stored state is damaged: %w", g.id, err)
		}
		g.topicIDs[name] = id
	}
	g.stored = h
	return nil
}

func (g *group) loadMember(id string, b []byte) error {
	var s storedMember
	if err := json.Unmarshal(b, &s); err != nil {
		return federation.Errorf(federation.Internal, "group %q: the stored state of member %q is damaged: %w", g.id, id, err)
	}
	m := &member{
		id: id, instance: s.Instance, clientID: s.ClientID, clientHost: s.ClientHost, user: s.User, stepwise: s.Connect || s.Modern != nil, seq: s.Seq,
		session: time.Duration(s.SessionMs) * time.Millisecond, rebalance: time.Duration(s.RebalanceMs) * time.Millisecond,
		assignment: s.Assignment, former: s.Former, names: s.Topics, regex: s.Regex,
		revoking: map[federation.TopicPartition]time.Time{}, owned: map[federation.TopicPartition]int64{},
		target: map[federation.TopicPartition]bool{}, unheard: !s.Connect && s.Modern == nil,
	}
	var err error
	if m.matcher, err = compileRegex(s.Regex); err != nil {
		return err
	}
	if s.Modern != nil {
		m.modern = &modern{epoch: s.Modern.Epoch, previous: s.Modern.Previous, assignor: s.Modern.Assignor, rack: s.Modern.Rack, untold: s.Modern.Untold, principal: s.Modern.Principal}
	}
	for _, p := range s.Protocols {
		m.protocols = append(m.protocols, Protocol(p))
	}
	for topic, partitions := range s.Target {
		for _, p := range partitions {
			m.target[federation.TopicPartition{Topic: topic, Partition: p}] = true
		}
	}
	for _, o := range s.Owned {
		for _, p := range o.Partitions {
			tp := federation.TopicPartition{Topic: o.Topic, Partition: p}
			m.owned[tp] = o.Epoch
			if o.Revoking {
				m.revoking[tp] = time.Time{}
			}
		}
	}
	g.members[id] = m
	if m.instance != "" {
		g.static[m.instance] = id
	}
	return nil
}
