package groups

import (
	"maps"
	"slices"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
)

// groupState is the state of a group, with Kafka's names and moves
// (org.apache.kafka.coordinator.group.classic.ClassicGroupState).
//
//	        ┌──────────── join, leave, expiry, new metadata ────────────┐
//	        ▼                                                           │
//	Empty ─► PreparingRebalance ─► CompletingRebalance ─► Stable ───────┤
//	  ▲            │    all joined        assignments known             │
//	  └────────────┴────────────── the last member left ────────────────┘
//
// A group of stepwise members (Connect streams, and Kafka's newer protocol) only goes
// from Empty to Stable and back; its partitions move while it is Stable.
type groupState int8

const (
	stateEmpty groupState = iota
	statePreparing
	stateCompleting
	stateStable
	stateDead
)

func (s groupState) String() string {
	switch s {
	case statePreparing:
		return "PreparingRebalance"
	case stateCompleting:
		return "CompletingRebalance"
	case stateStable:
		return "Stable"
	case stateDead:
		return "Dead"
	default:
		return "Empty"
	}
}

const (
	consumerProtocol = "consumer"
	// coordinatorID is the leader that JoinGroup names in a group with Connect members:
	// no member, so that no client computes an assignment.
	coordinatorID = "braid-coordinator"
	// cooperativeProtocol is the assignor whose members keep their partitions over a
	// JoinGroup (KIP-429).
	cooperativeProtocol = "cooperative-sticky"
	// streamsProtocol is the assignor of Kafka Streams: its clients need what only their
	// own leader can put into an assignment, so they share no group with Connect members.
	streamsProtocol = "stream"
)

// A group is the state of one group and the rules that change it. It is pure: it
// has no clock, no goroutine and does no I/O; step takes an event and returns
// what its owner must do.
type group struct {
	id     string
	cfg    *Config
	topics topicView

	// session and heartbeat are what members of the newer protocol are given.
	session, heartbeat time.Duration

	state, before groupState
	since         time.Time // of state
	// epoch counts every change of the assignment; generation is the epoch of the last
	// rebalance that classic members took part in.
	epoch                  int64
	generation             int32
	protocolType, protocol string
	leader                 string

	members map[string]*member
	static  map[string]string    // instance id to member id
	pending map[string]time.Time // given member ids that did not join yet (KIP-394), with their deadline
	unsync  map[string]bool      // classic members that did not send SyncGroup in this generation
	seq     int64                // numbers members in the order they came

	joinDeadline     time.Time // end of the join phase
	initialRemaining time.Duration
	initialDelay     bool
	newMemberAdded   bool
	syncDeadline     time.Time // for unsync
	holdDeadline     time.Time // SyncGroup answers, or the next rebalance, wait for revocations until then
	followDeadline   time.Time // cooperative members have to join again until then

	consumerType, reconciling bool // of type consumer (KIP-848), with a member that follows to the group's epoch

	subscribed map[federation.TopicName]bool // by classic members; nil = not known
	topicIDs   map[federation.TopicName]federation.TopicID

	now    time.Time          // of the step
	fx     effects            // of the step
	wake   time.Time          // nothing is due before; zero = nothing is due
	dirty  bool               // some member is
	held   map[string]holding // by member id: what is taken from Config.Room
	stored header             // as last put into effects
	gone   []string           // members removed in this step
}

// topicView is what the assignment needs to know of topics.
type topicView interface {
	Topic(federation.TopicName) *federation.Topic
	TopicNames() []federation.TopicName
	GroupConfig(group string) *federation.GroupConfig
}

// A member of a group.
type member struct {
	id, instance, clientID, clientHost string
	user                               string // the principal, of others than modern members
	stepwise                           bool   // a Connect or a modern member: it is assigned to by the coordinator, and goes on reading meanwhile
	session, rebalance                 time.Duration
	seq                                int64
	deadline                           time.Time // of the session
	modern                             *modern   // of a modern member, nil for others

	// Classic members.
	protocols   []Protocol
	assignment  []byte
	isNew       bool // never got an answer to JoinGroup
	unheard     bool // sent no JoinGroup, SyncGroup or Heartbeat since the group was loaded
	reelected   bool // was told that it leads the generation that there is already
	awaitsJoin  any  // the parked JoinGroup
	awaitsSync  any  // the parked SyncGroup
	decodedName string
	decoded     *subscription // of decodedName; nil = not decoded yet

	// Stepwise members; former and handle are of Connect members only.
	former   string // the member id that its client had before
	names    []federation.TopicName
	regex    string
	matcher  matcher
	handle   any // the Membership that is attached; nil = none
	revoking map[federation.TopicPartition]time.Time

	// owned are the partitions that the member may be reading, with the epoch in which
	// it got them; target are those it should have.
	owned  map[federation.TopicPartition]int64
	target map[federation.TopicPartition]bool

	dirty bool
}

// effects is what a step asks its owner to do: store records and offsets in one
// write, then send replies and events.
type effects struct {
	records []redisstore.GroupRecord
	offsets []redisstore.GroupOffset
	dropped []redisstore.OffsetKey
	replies []reply
	events  []memberEvent
	closed  []closedHandle
	remove  bool // delete the group with its offsets
}

// A reply answers the event that came with the token to.
type reply struct {
	to    any
	value any
	err   error
}

// A memberEvent goes to the membership of a Connect member. The owner adds the
// committed offsets of assigned.
type memberEvent struct {
	handle   any
	member   string
	epoch    int64
	assigned []federation.TopicPartition
	revoking []federation.TopicPartition
	lost     []federation.TopicPartition
	deadline time.Duration
}

// A closedHandle is a membership that ended.
type closedHandle struct {
	handle any
	err    error
}

func newGroup(id string, cfg *Config, topics topicView, now time.Time) *group {
	session, heartbeat := cfg.Settings().Of(topics.GroupConfig(id))
	return &group{
		id: id, cfg: cfg, topics: topics, since: now, session: session, heartbeat: heartbeat,
		members: map[string]*member{}, static: map[string]string{}, pending: map[string]time.Time{}, unsync: map[string]bool{},
		topicIDs: map[federation.TopicName]federation.TopicID{}, held: map[string]holding{},
	}
}

// The events of a group. to is the token of the reply.
type (
	evJoin struct {
		to any
		r  *JoinRequest
	}
	evSync struct {
		to any
		r  SyncRequest
	}
	evHeartbeat struct {
		to any
		r  HeartbeatRequest
	}
	evLeave struct {
		to      any
		members []LeavingMember
	}
	evCommit struct {
		to any
		r  CommitRequest
		// connect is set for a commit by a Membership, which is fenced by ownership alone.
		connect bool
	}
	evSubscribe struct {
		to     any
		r      SubscribeRequest
		handle any
	}
	evDetach  struct{ handle any }
	evRevoked struct {
		to     any
		member string
		tps    []federation.TopicPartition
	}
	evDescribe      struct{ to any }
	evDelete        struct{ to any }
	evDeleteOffsets struct {
		to  any
		tps []federation.TopicPartition
	}
	// evExpire drops offsets by age; stored are all of the group's.
	evExpire struct {
		stored []redisstore.GroupOffset
	}
	evTopics struct{ topics topicView }
	// evPressed has the group drop members that are not heard of, if room is wanting.
	evPressed struct{}
	// evTick handles what is due. heard tells when the client of an attached
	// membership was heard of last.
	evTick struct {
		heard func(handle any) time.Time
	}
)

// step takes an event at a time and returns its effects; afterwards due tells
// when the next evTick is wanted.
func (g *group) step(now time.Time, ev any) effects {
	g.now, g.fx, g.gone = now, effects{}, nil
	switch ev := ev.(type) {
	case evHeartbeat:
		g.reply(ev.to, nil, g.onHeartbeat(&ev.r))
		return g.fx // nothing of it is stored, so nothing has to be looked through for changes
	case evCommit:
		g.onCommit(&ev)
		return g.fx // offsets only
	case evJoin:
		g.onJoin(ev.to, ev.r)
	case evSync:
		g.onSync(ev.to, &ev.r)
	case evConsumerHeartbeat:
		g.onConsumerHeartbeat(ev.to, &ev.r)
	case evLeave:
		g.onLeave(ev.to, ev.members)
	case evSubscribe:
		g.onSubscribe(&ev)
	case evDetach:
		g.onDetach(ev.handle)
	case evRevoked:
		g.reply(ev.to, nil, g.onRevoked(ev.member, ev.tps))
	case evDescribe:
		g.onDescribe(ev.to)
	case evDelete:
		g.onDelete(ev.to)
	case evDeleteOffsets:
		g.onDeleteOffsets(ev.to, ev.tps)
	case evExpire:
		g.onExpire(ev.stored)
	case evTopics:
		g.onTopics(ev.topics)
	case evPressed:
		g.dropSilent()
	case evTick:
		g.onTick(ev.heard)
	}
	g.count()
	g.collect()
	return g.fx
}

// due returns when the next evTick is wanted; zero = never.
func (g *group) due() time.Time { return g.wake }

func (g *group) reply(to, value any, err error) {
	if to != nil {
		g.fx.replies = append(g.fx.replies, reply{to: to, value: value, err: err})
	}
}

// wakeAt makes sure that a tick comes at t or earlier.
func (g *group) wakeAt(t time.Time) {
	if !t.IsZero() && (g.wake.IsZero() || t.Before(g.wake)) {
		g.wake = t
	}
}

func (g *group) transition(s groupState) {
	g.before, g.state, g.since = g.state, s, g.now
}

// touched notes that a member must be stored.
func (g *group) touched(m *member) { m.dirty, g.dirty = true, true }

// rest starts the session timeout of a member anew.
func (g *group) rest(m *member) { g.restFor(m, m.session) }

func (g *group) restFor(m *member, d time.Duration) {
	m.deadline = g.now.Add(d)
	g.wakeAt(m.deadline)
}

// ordered returns the members in the order they came.
func (g *group) ordered() []*member {
	all := slices.Collect(maps.Values(g.members))
	slices.SortFunc(all, func(a, b *member) int { return int(a.seq - b.seq) })
	return all
}

func (g *group) hasStepwise() bool {
	for _, m := range g.members {
		if m.stepwise {
			return true
		}
	}
	return false
}

func (g *group) hasClassic() bool {
	for _, m := range g.members {
		if !m.stepwise {
			return true
		}
	}
	return false
}

// add makes a member part of the group.
func (g *group) add(m *member) {
	g.seq++
	m.seq = g.seq
	g.members[m.id] = m
	if m.instance != "" {
		g.static[m.instance] = m.id
	}
	delete(g.pending, m.id)
	g.touched(m)
}

// remove takes a member out and answers what it had parked: UnknownMember makes a
// client that still lives join again.
func (g *group) remove(m *member) {
	unknown := errUnknownMember(g.id, m.id)
	g.answerJoin(m, JoinResponse{}, unknown)
	g.answerSync(m, SyncResponse{}, unknown)
	delete(g.members, m.id)
	delete(g.unsync, m.id)
	if m.instance != "" && g.static[m.instance] == m.id {
		delete(g.static, m.instance)
	}
	if m.handle != nil {
		if lost := sortedKeys(m.owned); len(lost) > 0 {
			g.fx.events = append(g.fx.events, memberEvent{handle: m.handle, member: m.id, epoch: g.epoch, lost: lost})
		}
		g.fx.closed = append(g.fx.closed, closedHandle{handle: m.handle, err: unknown})
		m.handle = nil
	}
	if g.leader == m.id {
		g.leader = ""
		for _, o := range g.ordered() {
			if !o.stepwise {
				g.leader = o.id
				break
			}
		}
	}
	g.gone = append(g.gone, m.id)
}

// validate finds a member and fences static ones (ClassicGroup.validateMember).
func (g *group) validate(id, instance string) (*member, error) {
	if instance != "" {
		current, ok := g.static[instance]
		if !ok {
			return nil, errUnknownMember(g.id, id)
		}
		if current != id {
			return nil, federation.Errorf(federation.FencedInstance, "group %q: instance %q joined again as another member; this one is fenced", g.id, instance)
		}
	}
	m := g.members[id]
	if m == nil {
		return nil, errUnknownMember(g.id, id)
	}
	return m, nil
}

func (g *group) answerJoin(m *member, r JoinResponse, err error) {
	if m.awaitsJoin == nil {
		return
	}
	g.reply(m.awaitsJoin, r, err)
	m.awaitsJoin = nil
}

func (g *group) answerSync(m *member, r SyncResponse, err error) {
	if m.awaitsSync == nil {
		return
	}
	g.reply(m.awaitsSync, r, err)
	m.awaitsSync = nil
	g.rest(m)
}

func errUnknownMember(group, id string) error {
	return federation.Errorf(federation.UnknownMember, "group %q has no member %q (any more); join again", group, id)
}

func errGeneration(group string, got, want int64) error {
	return federation.Errorf(federation.IllegalGeneration, "group %q is in generation %d, not %d; join again", group, want, got)
}

func errRebalancing(group string) error {
	return federation.Errorf(federation.RebalanceInProgress, "group %q is rebalancing; join again", group)
}

func sortedKeys[V any](set map[federation.TopicPartition]V) []federation.TopicPartition {
	keys := slices.Collect(maps.Keys(set))
	sortPartitions(keys)
	return keys
}

func sortPartitions(tps []federation.TopicPartition) {
	slices.SortFunc(tps, comparePartitions)
}

func comparePartitions(a, b federation.TopicPartition) int {
	if a.Topic != b.Topic {
		if a.Topic < b.Topic {
			return -1
		}
		return 1
	}
	return int(a.Partition) - int(b.Partition)
}
