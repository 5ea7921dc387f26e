package groups

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/braidmq/braid/federation"
)

// The member epochs of a ConsumerGroupHeartbeat that are no epochs.
const (
	epochJoin        = 0
	epochLeave       = -1
	epochLeaveStatic = -2 // the static member will be back; its partitions stay
)

// modern is what a member of Kafka's newer protocol (KIP-848) has of its own. It is told
// what to read in the answers to its heartbeats, so it is brought closer to its target
// then and only then (Kafka's CurrentAssignmentBuilder).
type modern struct {
	// epoch is the group's epoch that the member has followed to; it stays behind while
	// there is something to give up. A member that did not hear of it comes with previous.
	epoch, previous int32
	assignor        string // empty = it does not care
	rack            string
	// principal is who it is; empty until its first heartbeat, if a build that did not know
	// has stored it.
	principal string
	// untold is set if what the member may read changed other than by its heartbeat.
	untold bool
}

// evConsumerHeartbeat is ConsumerGroupHeartbeat.
type evConsumerHeartbeat struct {
	to any
	r  ConsumerHeartbeatRequest
}

func (g *group) onConsumerHeartbeat(to any, r *ConsumerHeartbeatRequest) {
	res, err := g.consumerHeartbeat(r)
	g.reply(to, res, err)
}

func (g *group) consumerHeartbeat(r *ConsumerHeartbeatRequest) (ConsumerHeartbeatResponse, error) {
	var none ConsumerHeartbeatResponse
	match, err := g.checkHeartbeat(r)
	if err != nil {
		return none, err
	}
	switch r.Epoch {
	case epochLeave, epochLeaveStatic:
		return g.leaveModern(r)
	case epochJoin:
		if len(g.members) > 0 && g.protocolType != consumerProtocol {
			return none, federation.Errorf(federation.GroupNotFound, "group %q is not a consumer group: its members are of protocol type %q", g.id, g.protocolType)
		}
		if err := g.checkModernJoin(r); err != nil {
			return none, err
		}
	}
	m, joins, err := g.modernMember(r)
	if err != nil {
		return none, err
	}
	if !joins && r.Topics != nil {
		if err := g.roomToSubscribe(m, "", 0, r.Topics); err != nil {
			return none, err
		}
	}
	changed := g.describeModern(m, r, match)
	g.rest(m)
	switch {
	case joins:
		g.stepwiseJoined(m)
	case changed:
		g.reassign(false)
	}
	told, freed := g.reconcile(m, r.Owned)
	if freed {
		g.settle()
	}
	res := ConsumerHeartbeatResponse{MemberID: m.id, Epoch: m.modern.epoch, Interval: g.heartbeat}
	if told || m.modern.untold || r.full() {
		res.Assignment = g.topicAssignment(m)
		if m.modern.untold {
			m.modern.untold = false
			g.touched(m)
		}
	}
	return res, nil
}

// followConfig takes over what the group has set, or does not set any more. Sessions that
// run are longer or shorter at once; but a member that was told of a longer interval has the
// whole of a shorter session yet to send a heartbeat in.
func (g *group) followConfig() {
	g.session, g.heartbeat = g.cfg.Settings().Of(g.topics.GroupConfig(g.id))
	for _, m := range g.members {
		if m.modern == nil || m.session == g.session {
			continue
		}
		if until := m.deadline.Add(g.session - m.session); until.After(m.deadline) {
			m.deadline = until
		} else if until = g.now.Add(g.session); until.Before(m.deadline) {
			m.deadline = until
		}
		m.session = g.session
		g.wakeAt(m.deadline)
		g.touched(m)
	}
}

// full reports whether a request says everything; a member sends one when it joins, and
// when the answer to the one before got lost.
func (r *ConsumerHeartbeatRequest) full() bool {
	return r.Epoch == epochJoin || r.RebalanceTimeout >= 0 && (r.Topics != nil || r.TopicRegex != nil) && r.Owned != nil
}

func (g *group) checkHeartbeat(r *ConsumerHeartbeatRequest) (matcher, error) {
	if r.Assignor != "" && r.Assignor != assignorUniform && r.Assignor != assignorRange {
		return nil, federation.Errorf(federation.UnsupportedAssignor, "group %q: the assignor %q is not supported; %s and %s are", g.id, r.Assignor, assignorUniform, assignorRange)
	}
	size := len(r.MemberID) + len(r.InstanceID) + len(r.Rack)
	for _, t := range r.Topics {
		size += len(t)
	}
	if size > g.cfg.MemberBytesMax {
		return nil, federation.Errorf(federation.InvalidArgument, "group %q: a subscription of %d bytes is above the limit of %d; use a regular expression", g.id, size, g.cfg.MemberBytesMax)
	}
	if r.TopicRegex == nil {
		return nil, nil
	}
	match, err := compileRegex(*r.TopicRegex)
	if err != nil {
		return nil, federation.Errorf(federation.InvalidRegex, "group %q: %s", g.id, err.Error())
	}
	return match, nil
}

// modernMember finds the member that a heartbeat is of, or makes it one.
func (g *group) modernMember(r *ConsumerHeartbeatRequest) (m *member, joins bool, err error) {
	if r.Epoch != epochJoin {
		if m, err = g.validate(r.MemberID, r.InstanceID); err == nil {
			err = g.checkEpoch(m, r)
		}
		return m, false, err
	}
	if old := g.members[g.static[r.InstanceID]]; r.InstanceID != "" && old != nil && old.id != r.MemberID {
		if old.modern == nil || old.modern.epoch != epochLeaveStatic {
			return nil, false, federation.Errorf(federation.UnreleasedInstance,
				"group %q: instance %q is member %q, which has not left; two processes must not have the same instance id", g.id, r.InstanceID, old.id)
		}
		return g.replaceModern(old, r), false, nil
	}
	if old := g.members[r.MemberID]; old != nil {
		if old.modern == nil {
			return nil, false, errUnknownMember(g.id, r.MemberID)
		}
		// It joins again after it was fenced, or did not hear that it had joined: it reads
		// nothing, so what it had to give up is given up.
		if old.modern.epoch == epochLeaveStatic {
			old.modern.epoch, old.modern.previous = epochJoin, epochJoin
			g.touched(old)
		}
		return old, false, nil
	}
	if len(g.members) >= g.cfg.MembersMax {
		return nil, false, federation.Errorf(federation.GroupFull, "group %q has %d members, its limit", g.id, g.cfg.MembersMax)
	}
	if err := g.roomToSubscribe(nil, clientOf(r.ClientHost, r.Principal), len(r.MemberID)+len(r.InstanceID)+len(r.ClientID), r.Topics); err != nil {
		return nil, false, err
	}
	return g.addModern(r), true, nil
}

// checkModernJoin refuses a member that would break others: the assignor of Kafka Streams
// gets along with none of another kind, and an id that is in use belongs to who has it.
func (g *group) checkModernJoin(r *ConsumerHeartbeatRequest) error {
	for _, m := range g.members {
		if slices.ContainsFunc(m.protocols, isStreams) {
			return federation.Errorf(federation.GroupNotFound, "group %q is one of Kafka Streams: it takes no other members", g.id)
		}
	}
	if m := g.members[r.MemberID]; m != nil && m.instance != r.InstanceID {
		return errUnknownMember(g.id, r.MemberID)
	}
	return nil
}

func (g *group) addModern(r *ConsumerHeartbeatRequest) *member {
	id := r.MemberID
	if id == "" { // version 0: the coordinator mints it
		id = g.cfg.NewID()
	}
	if len(g.members) == 0 {
		g.protocolType = consumerProtocol
	}
	m := &member{
		id: id, instance: r.InstanceID, stepwise: true, modern: &modern{},
		revoking: map[federation.TopicPartition]time.Time{}, owned: map[federation.TopicPartition]int64{},
	}
	g.add(m)
	return m
}

// replaceModern lets a static member that came back take the place of its former self,
// with its partitions.
func (g *group) replaceModern(old *member, r *ConsumerHeartbeatRequest) *member {
	m := *old
	m.id = r.MemberID
	if m.id == "" {
		m.id = g.cfg.NewID()
	}
	m.modern = &modern{assignor: old.modern.assignor, rack: old.modern.rack, principal: old.modern.principal}
	delete(g.members, old.id)
	g.gone = append(g.gone, old.id)
	g.members[m.id] = &m
	g.static[m.instance] = m.id
	g.touched(&m)
	return &m
}

// checkEpoch fences a member that missed something which it cannot catch up with.
func (g *group) checkEpoch(m *member, r *ConsumerHeartbeatRequest) error {
	switch {
	case m.modern == nil:
		return errUnknownMember(g.id, r.MemberID)
	case r.Epoch == m.modern.epoch:
		return nil
	case r.Epoch < m.modern.epoch && r.Epoch == m.modern.previous && r.Owned != nil && m.reads(r.Owned):
		return nil // the answer that told it the epoch got lost
	}
	return federation.Errorf(federation.FencedMemberEpoch,
		"group %q: member %q is in epoch %d, not %d; it must give all its partitions up and join again", g.id, m.id, m.modern.epoch, r.Epoch)
}

// reads reports whether all of tps are assigned to a modern member.
func (m *member) reads(tps []federation.TopicPartition) bool {
	for _, tp := range tps {
		_, owned := m.owned[tp]
		if _, revoking := m.revoking[tp]; !owned || revoking {
			return false
		}
	}
	return true
}

// describeModern takes what a heartbeat says of its member, and reports whether that
// changes who should have what.
func (g *group) describeModern(m *member, r *ConsumerHeartbeatRequest, match matcher) bool {
	known, assigned := *m, *m.modern
	m.clientID, m.clientHost, m.session = r.ClientID, r.ClientHost, g.session
	m.modern.principal = r.Principal
	if r.Rack != "" {
		m.modern.rack = r.Rack
	}
	if r.RebalanceTimeout >= 0 {
		m.rebalance = min(r.RebalanceTimeout, g.cfg.RebalanceTimeoutMax)
	}
	if r.Assignor != "" {
		m.modern.assignor = r.Assignor
	}
	if r.Topics != nil {
		m.names = slices.Clone(r.Topics)
		slices.Sort(m.names)
		m.names = slices.Compact(m.names)
	}
	if r.TopicRegex != nil {
		m.regex, m.matcher = *r.TopicRegex, match
	}
	changed := !slices.Equal(m.names, known.names) || m.regex != known.regex || m.modern.assignor != assigned.assignor ||
		m.matcher != nil && (m.modern.principal != assigned.principal || m.clientHost != known.clientHost)
	if changed || m.modern.principal != assigned.principal || m.clientID != known.clientID || m.clientHost != known.clientHost || m.session != known.session ||
		m.rebalance != known.rebalance || m.modern.rack != assigned.rack {
		g.touched(m)
	}
	return changed
}

// reconcile brings a modern member closer to its target: first it gives up what is not
// its own any more, then it follows to the group's epoch and gets what is free. reported
// is what it says it reads, nil if it does not say. told asks for an assignment in the
// answer; freed says that others can have something.
func (g *group) reconcile(m *member, reported []federation.TopicPartition) (told, freed bool) {
	reads := make(map[federation.TopicPartition]bool, len(reported))
	for _, tp := range reported {
		reads[tp] = true
	}
	gaveUp := func(tps []federation.TopicPartition) bool {
		return reported != nil && !slices.ContainsFunc(tps, func(tp federation.TopicPartition) bool { return reads[tp] })
	}
	if revoking := sortedKeys(m.revoking); len(revoking) > 0 {
		if !gaveUp(revoking) {
			return false, false
		}
		for _, tp := range revoking {
			g.free(m, tp)
		}
		freed = true
	}
	if extra := m.extra(); len(extra) > 0 {
		switch {
		case gaveUp(extra):
			for _, tp := range extra {
				g.free(m, tp)
			}
			told, freed = true, true
		case g.state == statePreparing:
			return false, freed // the targets are about to change
		default:
			for _, tp := range extra {
				m.revoking[tp] = g.now.Add(m.rebalance)
				g.wakeAt(m.revoking[tp])
			}
			g.touched(m)
			return true, freed
		}
	}
	if epoch := int32(min(g.epoch, math.MaxInt32)); m.modern.epoch != epoch {
		m.modern.previous, m.modern.epoch = m.modern.epoch, epoch
		g.touched(m)
	}
	return g.grant(m) || told, freed
}

// extra is what a member may read, but should not.
func (m *member) extra() []federation.TopicPartition {
	var extra []federation.TopicPartition
	for _, tp := range sortedKeys(m.owned) {
		if !m.target[tp] {
			extra = append(extra, tp)
		}
	}
	return extra
}

// grant gives a modern member what is free of its target.
func (g *group) grant(m *member) bool {
	var wanted []federation.TopicPartition
	for tp := range m.target {
		if _, ok := m.owned[tp]; !ok && g.exists(tp) {
			wanted = append(wanted, tp)
		}
	}
	if len(wanted) == 0 {
		return false
	}
	held := map[federation.TopicPartition]bool{} // somebody may be reading it
	for _, o := range g.members {
		for tp := range o.owned {
			held[tp] = true
		}
	}
	granted := false
	for _, tp := range wanted {
		if !held[tp] {
			m.owned[tp] = g.epoch
			granted = true
		}
	}
	if granted {
		g.touched(m)
	}
	return granted
}

// settled reports whether a modern member reads all that it should in the group's epoch.
func (g *group) settled(m *member) bool {
	if int64(m.modern.epoch) != g.epoch && m.modern.epoch != epochLeaveStatic || len(m.revoking) > 0 || len(m.owned) != len(m.target) {
		return false
	}
	for tp := range m.target {
		if _, ok := m.owned[tp]; !ok {
			return false
		}
	}
	return true
}

// leaveModern is the heartbeat of a member that goes.
func (g *group) leaveModern(r *ConsumerHeartbeatRequest) (ConsumerHeartbeatResponse, error) {
	m, err := g.validate(r.MemberID, r.InstanceID)
	if err == nil && m.modern == nil {
		err = errUnknownMember(g.id, r.MemberID)
	}
	if err != nil {
		return ConsumerHeartbeatResponse{}, err
	}
	res := ConsumerHeartbeatResponse{MemberID: m.id, Epoch: r.Epoch}
	if r.Epoch == epochLeaveStatic && m.instance == "" {
		return res, federation.Errorf(federation.InvalidArgument, "group %q: member %q has no instance id to return under", g.id, m.id)
	}
	if r.Epoch == epochLeave {
		g.remove(m)
		g.membersLeft()
		return res, nil
	}
	m.modern.previous, m.modern.epoch = m.modern.epoch, epochLeaveStatic
	g.rest(m)
	g.touched(m)
	if revoking := sortedKeys(m.revoking); len(revoking) > 0 {
		for _, tp := range revoking {
			g.free(m, tp)
		}
		g.settle()
	}
	return res, nil
}

// fenceModern removes a modern member that did not give up in time; it may be cut off,
// so it must not read on with what is left to it (Kafka fences it too).
func (g *group) fenceModern(m *member) bool {
	for _, until := range m.revoking {
		if !g.now.Before(until) {
			g.remove(m)
			return true
		}
	}
	return false
}

// topicAssignment is what a modern member reads.
func (g *group) topicAssignment(m *member) []TopicAssignment {
	all := []TopicAssignment{}
	for _, tp := range sortedKeys(m.owned) {
		if _, revoking := m.revoking[tp]; revoking {
			continue
		}
		t := g.topics.Topic(tp.Topic)
		if t == nil {
			continue
		}
		if n := len(all); n == 0 || all[n-1].Topic != tp.Topic {
			all = append(all, TopicAssignment{Topic: tp.Topic, ID: t.ID})
		}
		last := &all[len(all)-1]
		last.Partitions = append(last.Partitions, tp.Partition)
	}
	return all
}

// describeOf adds what only groups of type consumer show of a member.
func (g *group) describeOf(m *member, dm *DescribedMember) {
	dm.Epoch, dm.Target, dm.Topics, dm.Regex = g.epoch, sortedKeys(m.target), slices.Clone(m.names), m.regex
	switch {
	case m.modern != nil:
		dm.Epoch, dm.Rack = int64(m.modern.epoch), m.modern.rack
	case !m.stepwise:
		dm.Epoch, dm.Topics = int64(g.generation), slices.Clone(m.subscription(g.protocol).topics)
	}
}

// assignor is the one that most modern members ask for (ConsumerGroup.preferredServerAssignor).
func (g *group) assignor() string {
	votes := map[string]int{}
	for _, m := range g.members {
		if m.modern != nil && m.modern.assignor != "" {
			votes[m.modern.assignor]++
		}
	}
	if votes[assignorRange] > votes[assignorUniform] {
		return assignorRange
	}
	return assignorUniform
}

// The types of groups, as ListGroups tells them. A group with a modern member is of type
// consumer, whoever else is in it; an empty one stays what it was.
const (
	TypeClassic  = "classic"
	TypeConsumer = "consumer"
)

// classify notes the type of the group after a step, and whether a member still follows.
func (g *group) classify() {
	modern := false
	g.reconciling = false
	for _, m := range g.members {
		if m.modern != nil {
			modern = true
			g.reconciling = g.reconciling || !g.settled(m)
		}
	}
	if len(g.members) > 0 {
		g.consumerType = modern
	}
}

func (h *header) groupType() string {
	if h.Type == TypeConsumer {
		return TypeConsumer
	}
	return TypeClassic
}

// shown is the state as Kafka names it for the group's type.
func (h *header) shown() string {
	if h.groupType() == TypeConsumer && (h.Reconciling || strings.HasSuffix(h.State, "Rebalance")) {
		return "Reconciling"
	}
	return h.State
}
