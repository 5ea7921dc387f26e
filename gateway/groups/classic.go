package groups

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/braidmq/braid/federation"
)

// onJoin is JoinGroup (GroupMetadataManager.classicGroupJoin).
func (g *group) onJoin(to any, r *JoinRequest) {
	refuse := func(err error) { g.reply(to, JoinResponse{MemberID: r.MemberID}, err) }
	if err := g.checkJoin(r); err != nil {
		refuse(err)
		return
	}
	if !g.accepts(r.MemberID) {
		if m := g.members[r.MemberID]; m != nil {
			g.remove(m)
		}
		delete(g.pending, r.MemberID)
		refuse(federation.Errorf(federation.GroupFull, "group %q has %d members, its limit", g.id, g.cfg.MembersMax))
		return
	}
	if !g.supports(r) {
		refuse(federation.Errorf(federation.InconsistentProtocol,
			"group %q: the member supports none of the assignors that all others do, or another protocol type than %q", g.id, g.protocolType))
		return
	}
	_, pending := g.pending[r.MemberID]
	if err := g.roomToJoin(r, pending); err != nil {
		refuse(err)
		return
	}
	switch {
	case r.MemberID == "":
		g.joinNew(to, r)
	case pending && r.InstanceID == "":
		g.addClassic(to, r, r.MemberID)
	default:
		m, err := g.validate(r.MemberID, r.InstanceID)
		if err != nil || m.stepwise {
			if err == nil {
				err = errUnknownMember(g.id, r.MemberID)
			}
			refuse(err)
			return
		}
		g.joinKnown(to, r, m)
	}
}

func (g *group) checkJoin(r *JoinRequest) error {
	if r.SessionTimeout < g.cfg.SessionTimeoutMin || r.SessionTimeout > g.cfg.SessionTimeoutMax {
		return federation.Errorf(federation.InvalidSessionTimeout, "group %q: a session timeout of %v is not between %v and %v",
			g.id, r.SessionTimeout, g.cfg.SessionTimeoutMin, g.cfg.SessionTimeoutMax)
	}
	if r.RebalanceTimeout <= 0 {
		r.RebalanceTimeout = r.SessionTimeout // JoinGroup v0 has none
	}
	r.RebalanceTimeout = min(r.RebalanceTimeout, g.cfg.RebalanceTimeoutMax)
	size := 0
	for _, p := range r.Protocols {
		size += len(p.Name) + len(p.Metadata)
	}
	if size > g.cfg.MemberBytesMax {
		return federation.Errorf(federation.InvalidArgument, "group %q: %d bytes of member metadata are above the limit of %d", g.id, size, g.cfg.MemberBytesMax)
	}
	return nil
}

// accepts is GroupMetadataManager.acceptJoiningMember.
func (g *group) accepts(id string) bool {
	m := g.members[id]
	switch g.state {
	case statePreparing:
		if m != nil && m.awaitsJoin != nil {
			return true
		}
		n := 0
		for _, o := range g.members {
			if o.stepwise || o.awaitsJoin != nil {
				n++
			}
		}
		return n < g.cfg.MembersMax
	case stateCompleting, stateStable:
		return m != nil || len(g.members) < g.cfg.MembersMax
	default:
		return true
	}
}

// supports is ClassicGroup.supportsProtocols: a common protocol type and, with all
// classic members, a common assignor.
func (g *group) supports(r *JoinRequest) bool {
	if r.ProtocolType == "" || len(r.Protocols) == 0 {
		return false
	}
	if len(g.members) == 0 {
		return true
	}
	if r.ProtocolType != g.protocolType || g.hasStepwise() && slices.ContainsFunc(r.Protocols, isStreams) {
		return false
	}
	if !g.hasClassic() {
		return true
	}
	common := g.commonProtocols()
	return slices.ContainsFunc(r.Protocols, func(p Protocol) bool { return common[p.Name] })
}

func isStreams(p Protocol) bool { return p.Name == streamsProtocol }

// commonProtocols are the assignors that all classic members support.
func (g *group) commonProtocols() map[string]bool {
	counts, classic := map[string]int{}, 0
	for _, m := range g.members {
		if m.stepwise {
			continue
		}
		classic++
		for _, p := range m.protocols {
			counts[p.Name]++
		}
	}
	common := map[string]bool{}
	for name, n := range counts {
		if n == classic {
			common[name] = true
		}
	}
	return common
}

// selectProtocol lets each classic member vote for its first common assignor.
func (g *group) selectProtocol() string {
	common := g.commonProtocols()
	votes := map[string]int{}
	for _, m := range g.members {
		for _, p := range m.protocols {
			if common[p.Name] {
				votes[p.Name]++
				break
			}
		}
	}
	best := ""
	for _, name := range slices.Sorted(maps.Keys(votes)) {
		if best == "" || votes[name] > votes[best] {
			best = name
		}
	}
	return best
}

func (g *group) joinNew(to any, r *JoinRequest) {
	prefix := r.ClientID
	if r.InstanceID != "" {
		prefix = r.InstanceID
	}
	id := beginning(prefix) + "-" + g.cfg.NewID()
	if r.InstanceID != "" {
		if old := g.members[g.static[r.InstanceID]]; old != nil {
			g.replaceStatic(to, r, old, id)
			return
		}
		g.addClassic(to, r, id)
		return
	}
	if !r.RequireMemberID {
		g.addClassic(to, r, id)
		return
	}
	if len(g.pending) >= g.cfg.MembersMax {
		g.reply(to, JoinResponse{}, federation.Errorf(federation.GroupFull, "group %q: %d members are joining, its limit", g.id, g.cfg.MembersMax))
		return
	}
	g.pending[id] = g.now.Add(r.SessionTimeout)
	g.wakeAt(g.pending[id])
	g.hold(id, holding{r.client(), memberBytes})
	g.reply(to, JoinResponse{MemberID: id}, federation.Errorf(federation.MemberIDRequired, "group %q: join again with the given member id", g.id))
}

// beginning is what of a client's name goes into a member id: the whole id must fit into
// the strings of all versions of answers.
func beginning(name string) string {
	const lengthMax = 1000
	if len(name) <= lengthMax {
		return name
	}
	return strings.ToValidUTF8(name[:lengthMax], "")
}

func (g *group) addClassic(to any, r *JoinRequest, id string) {
	if len(g.members) == 0 {
		g.protocolType = r.ProtocolType
	}
	m := &member{
		id: id, instance: r.InstanceID, clientID: r.ClientID, clientHost: r.ClientHost, user: r.Principal,
		session: r.SessionTimeout, rebalance: r.RebalanceTimeout, protocols: cloneProtocols(r.Protocols),
		isNew: true, awaitsJoin: to,
	}
	if g.state == statePreparing && g.before == stateEmpty {
		g.newMemberAdded = true
	}
	g.add(m)
	if g.leader == "" {
		g.leader = id
	}
	g.restFor(m, g.cfg.NewMemberJoinTimeout)
	g.rebalanceOrComplete()
}

// replaceStatic lets a static member that came back take the place of its former
// self (KIP-345, updateStaticMemberThenRebalanceOrCompleteJoin): without a
// rebalance if the group is stable and goes on with the same assignor.
func (g *group) replaceStatic(to any, r *JoinRequest, old *member, id string) {
	if old.modern != nil && old.modern.epoch == epochLeaveStatic {
		// It left to come back by the older protocol, as the process before an upgrade.
		g.remove(old)
		g.addClassic(to, r, id)
		return
	}
	if old.stepwise {
		g.reply(to, JoinResponse{}, federation.Errorf(federation.UnreleasedInstance,
			"group %q: instance %q is a member of another protocol; it must leave first", g.id, r.InstanceID))
		return
	}
	fenced := federation.Errorf(federation.FencedInstance, "group %q: instance %q joined again; this one is fenced", g.id, r.InstanceID)
	g.answerJoin(old, JoinResponse{MemberID: old.id}, fenced)
	g.answerSync(old, SyncResponse{}, fenced)
	leader := g.leader
	m := *old
	m.id, m.isNew = id, false
	m.clientID, m.clientHost, m.user = r.ClientID, r.ClientHost, r.Principal
	delete(g.members, old.id)
	g.gone = append(g.gone, old.id)
	g.members[id] = &m
	g.static[r.InstanceID] = id
	if g.leader == old.id {
		g.leader = id
	}
	if g.unsync[old.id] {
		delete(g.unsync, old.id)
		g.unsync[id] = true
	}
	g.update(&m, r)
	g.rest(&m)
	switch g.state {
	case stateStable:
		if g.selectProtocol() != g.protocol {
			m.awaitsJoin = to
			g.rebalanceOrComplete()
			return
		}
		res := g.joinResponse(&m)
		if r.CanSkipAssignment {
			res.SkipAssignment = g.leader == id
		} else {
			// Older clients would compute an assignment that nobody waits for: they are told
			// the former leader, so that they take themselves for followers.
			res.LeaderID, res.Members = leader, nil
		}
		g.reply(to, res, nil)
	case stateCompleting:
		m.awaitsJoin = to
		g.prepare()
	default:
		m.awaitsJoin = to
		g.gaveUp(&m)
		g.maybeCompleteJoin()
	}
}

// joinKnown is a JoinGroup of a present member.
func (g *group) joinKnown(to any, r *JoinRequest, m *member) {
	switch {
	case g.state == statePreparing:
	case g.state == stateCompleting && !m.matches(r.Protocols):
	case g.state == stateStable && !m.matches(r.Protocols):
	case g.state == stateStable && g.leader == m.id && !g.lostCoordinator(m):
		// The leader joins again when the topics changed.
	case g.state == stateCompleting, g.state == stateStable:
		// It did not get the answer to its last JoinGroup, or lost its coordinator.
		m.reelected, m.unheard = g.state == stateStable && g.leader == m.id, false
		g.rest(m)
		g.reply(to, g.joinResponse(m), nil)
		return
	default:
		g.reply(to, JoinResponse{MemberID: m.id}, errUnknownMember(g.id, m.id))
		return
	}
	// A retry takes the place of the request that it repeats.
	g.answerJoin(m, JoinResponse{MemberID: m.id}, errRebalancing(g.id))
	g.update(m, r)
	m.awaitsJoin = to
	if g.state == statePreparing {
		g.gaveUp(m)
		g.maybeCompleteJoin()
		return
	}
	g.prepare()
}

// lostCoordinator reports whether a leader joins again only because the connection to
// the former coordinator broke. sarama does, where others go on heartbeating. In Kafka
// that is a rebalance of all; here it leads on, and its SyncGroup shows whether it would
// assign other partitions (unlike Kafka Streams, which has more to say).
func (g *group) lostCoordinator(m *member) bool {
	return m.unheard && g.protocolType == consumerProtocol && g.protocol != streamsProtocol
}

// assignsAnew reports whether a leader gives out other partitions than are given out:
// it has seen that topics changed.
func (g *group) assignsAnew(assignments []MemberAssignment) bool {
	given, proposed := map[federation.TopicPartition]bool{}, map[federation.TopicPartition]bool{}
	for _, m := range g.members {
		maps.Copy(given, m.target)
	}
	for _, a := range assignments {
		for _, tp := range decodeAssignment(a.Assignment) {
			proposed[tp] = true
		}
	}
	return !maps.Equal(given, proposed)
}

func (g *group) update(m *member, r *JoinRequest) {
	m.protocols = cloneProtocols(r.Protocols)
	m.decoded, m.decodedName = nil, ""
	m.session, m.rebalance = r.SessionTimeout, r.RebalanceTimeout
	g.touched(m)
}

// gaveUp takes from a classic member that joins what it thereby gave up: eager
// members have stopped reading, cooperative ones tell what they still read.
func (g *group) gaveUp(m *member) {
	if len(m.owned) == 0 || m.awaitsJoin == nil {
		return
	}
	keep := map[federation.TopicPartition]bool{}
	if g.cooperative() {
		for _, tp := range m.subscription(g.protocol).owned {
			keep[tp] = true
		}
	}
	for tp := range m.owned {
		if !keep[tp] {
			delete(m.owned, tp)
			g.touched(m)
		}
	}
}

func (g *group) cooperative() bool { return strings.Contains(g.protocol, cooperativeProtocol) }

// rebalanceOrComplete is maybePrepareRebalanceOrCompleteJoin.
func (g *group) rebalanceOrComplete() {
	switch g.state {
	case stateStable, stateCompleting, stateEmpty:
		g.prepare()
	case statePreparing:
		g.maybeCompleteJoin()
	default: // a dead group has no members to rebalance
	}
}

// prepare begins a rebalance of the classic members.
func (g *group) prepare() {
	if g.state == stateCompleting {
		for _, m := range g.ordered() {
			m.assignment = nil
			g.answerSync(m, SyncResponse{}, errRebalancing(g.id))
		}
	}
	clear(g.unsync)
	g.syncDeadline, g.holdDeadline, g.followDeadline = time.Time{}, time.Time{}, time.Time{}
	initial := g.state == stateEmpty
	g.transition(statePreparing)
	for _, m := range g.ordered() {
		if m.awaitsJoin != nil {
			g.gaveUp(m)
		}
	}
	if initial {
		g.initialDelay, g.newMemberAdded = true, false
		delay := max(g.cfg.InitialRebalanceDelay, 0)
		g.initialRemaining = max(g.rebalanceTimeout()-delay, 0)
		g.joinDeadline = g.now.Add(delay)
		if delay == 0 {
			g.initialDelay = false
			g.completeJoin()
			return
		}
		g.wakeAt(g.joinDeadline)
		return
	}
	g.initialDelay = false
	if g.allJoined() {
		g.completeJoin()
		return
	}
	g.joinDeadline = g.now.Add(g.rebalanceTimeout())
	g.wakeAt(g.joinDeadline)
	g.settle() // partitions that members gave up by joining can go to Connect members
}

// rebalanceTimeout is the longest of the classic members'.
func (g *group) rebalanceTimeout() time.Duration {
	var longest time.Duration
	for _, m := range g.members {
		if !m.stepwise {
			longest = max(longest, m.rebalance)
		}
	}
	return longest
}

func (g *group) allJoined() bool {
	for _, m := range g.members {
		if !m.stepwise && m.awaitsJoin == nil {
			return false
		}
	}
	return len(g.pending) == 0
}

func (g *group) maybeCompleteJoin() {
	if g.state != statePreparing || g.initialDelay {
		return
	}
	if g.allJoined() {
		g.completeJoin()
		return
	}
	g.settle()
}

// onJoinDeadline ends the join phase, or extends the delay of the first one while
// members keep coming (tryCompleteInitialRebalanceElseSchedule).
func (g *group) onJoinDeadline() {
	if g.initialDelay && g.newMemberAdded && g.initialRemaining > 0 {
		g.newMemberAdded = false
		delay := min(g.cfg.InitialRebalanceDelay, g.initialRemaining)
		g.initialRemaining = max(g.initialRemaining-g.cfg.InitialRebalanceDelay, 0)
		g.joinDeadline = g.now.Add(delay)
		g.wakeAt(g.joinDeadline)
		return
	}
	g.initialDelay = false
	g.completeJoin()
}

// completeJoin is completeClassicGroupJoin: members that did not join again are
// out, the next generation begins.
func (g *group) completeJoin() {
	g.joinDeadline, g.initialDelay = time.Time{}, false
	for _, m := range g.ordered() {
		if !m.stepwise && m.awaitsJoin == nil && m.instance == "" {
			g.remove(m)
		}
	}
	if g.hasClassic() && !g.electLeader() {
		// Only static members are left, and none joined: wait until one does or their
		// sessions end.
		g.joinDeadline = g.now.Add(max(g.rebalanceTimeout(), time.Second))
		g.wakeAt(g.joinDeadline)
		return
	}
	g.epoch++
	g.generation = int32(g.epoch)
	if len(g.members) == 0 {
		g.becomeEmpty()
		return
	}
	if !g.hasClassic() {
		g.protocol, g.leader = "", ""
		g.transition(stateStable)
		g.retarget()
		g.settle()
		return
	}
	g.protocol = g.selectProtocol()
	g.computeSubscribed()
	g.transition(stateCompleting)
	mixed := g.hasStepwise()
	if mixed {
		g.leader = coordinatorID
	}
	clear(g.unsync)
	for _, m := range g.ordered() {
		if m.stepwise {
			continue
		}
		g.unsync[m.id] = true
		m.assignment = nil
		if m.awaitsJoin != nil {
			g.answerJoin(m, g.joinResponse(m), nil)
			g.rest(m)
			m.isNew, m.unheard, m.reelected = false, false, false
		}
		g.touched(m)
	}
	g.syncDeadline = g.now.Add(g.rebalanceTimeout())
	g.wakeAt(g.syncDeadline)
	if mixed {
		g.retarget()
		g.holdDeadline = g.now.Add(max(g.cfg.RevokeWaitMax, 0))
		g.settle()
	}
}

// electLeader keeps the leader if it joined, else takes the first that did
// (maybeElectNewJoinedLeader); false if no classic member joined.
func (g *group) electLeader() bool {
	if m := g.members[g.leader]; m != nil && m.awaitsJoin != nil {
		return true
	}
	for _, m := range g.ordered() {
		if !m.stepwise && m.awaitsJoin != nil {
			g.leader = m.id
			return true
		}
	}
	return false
}

func (g *group) becomeEmpty() {
	g.transition(stateEmpty)
	g.protocol, g.leader = "", ""
	g.subscribed = map[federation.TopicName]bool{}
	g.syncDeadline, g.holdDeadline, g.followDeadline, g.joinDeadline = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	g.initialDelay = false
	clear(g.unsync)
	clear(g.topicIDs)
}

// joinResponse tells a member the present generation; the leader also the members.
func (g *group) joinResponse(m *member) JoinResponse {
	res := JoinResponse{
		MemberID: m.id, Generation: g.generation, ProtocolType: g.protocolType, ProtocolName: g.protocol, LeaderID: g.leader,
	}
	if g.leader == m.id {
		for _, o := range g.ordered() {
			res.Members = append(res.Members, JoinMember{MemberID: o.id, InstanceID: o.instance, Metadata: o.metadata(g.protocol)})
		}
	}
	return res
}

// onSync is SyncGroup (classicGroupSyncToClassicGroup).
func (g *group) onSync(to any, r *SyncRequest) {
	m, err := g.validate(r.MemberID, r.InstanceID)
	switch {
	case err != nil:
	case m.stepwise:
		err = errUnknownMember(g.id, r.MemberID)
	case r.Generation != g.generation:
		err = errGeneration(g.id, int64(r.Generation), int64(g.generation))
	case r.ProtocolType != "" && r.ProtocolType != g.protocolType, r.ProtocolName != "" && r.ProtocolName != g.protocol:
		err = federation.Errorf(federation.InconsistentProtocol, "group %q: the generation's protocol is %q, not %q", g.id, g.protocol, r.ProtocolName)
	case g.state == statePreparing:
		err = errRebalancing(g.id)
	case g.state == stateEmpty:
		err = errUnknownMember(g.id, r.MemberID)
	}
	if err != nil {
		g.reply(to, SyncResponse{}, err)
		return
	}
	delete(g.unsync, m.id)
	m.unheard = false
	if g.state == stateStable {
		g.rest(m)
		if m.reelected && g.leader == m.id && g.assignsAnew(r.Assignments) {
			g.reply(to, SyncResponse{}, errRebalancing(g.id))
			g.prepare()
			return
		}
		g.reply(to, g.syncResponse(m), nil)
		return
	}
	g.answerSync(m, SyncResponse{}, errRebalancing(g.id))
	m.awaitsSync = to
	if g.leader == m.id {
		g.takeAssignments(to, m, r.Assignments)
	}
}

// takeAssignments is the leader's SyncGroup in a group of classic members.
func (g *group) takeAssignments(to any, leader *member, assignments []MemberAssignment) {
	for _, a := range assignments {
		if len(a.Assignment) > g.cfg.MemberBytesMax {
			leader.awaitsSync = nil
			g.reply(to, SyncResponse{}, federation.Errorf(federation.InvalidArgument,
				"group %q: an assignment of %d bytes is above the limit of %d", g.id, len(a.Assignment), g.cfg.MemberBytesMax))
			return
		}
	}
	if err := g.roomToAssign(leader, assignments); err != nil {
		leader.awaitsSync = nil
		g.reply(to, SyncResponse{}, err)
		return
	}
	given := make(map[string][]byte, len(assignments))
	for _, a := range assignments {
		given[a.MemberID] = bytes.Clone(a.Assignment) // not to keep the whole request
	}
	for _, m := range g.ordered() {
		m.assignment = given[m.id]
		g.noteAssignment(m)
		g.touched(m)
	}
	g.transition(stateStable)
	for _, m := range g.ordered() {
		g.answerSync(m, g.syncResponse(m), nil)
	}
}

func (g *group) syncResponse(m *member) SyncResponse {
	return SyncResponse{ProtocolType: g.protocolType, ProtocolName: g.protocol, Assignment: m.assignment}
}

// onHeartbeat is Heartbeat (classicGroupHeartbeatToClassicGroup).
func (g *group) onHeartbeat(r *HeartbeatRequest) error {
	m, err := g.validate(r.MemberID, r.InstanceID)
	if err != nil {
		return err
	}
	if m.stepwise || g.state == stateEmpty {
		return errUnknownMember(g.id, r.MemberID)
	}
	if r.Generation != g.generation {
		return errGeneration(g.id, int64(r.Generation), int64(g.generation))
	}
	g.rest(m)
	m.unheard = false
	if g.state == statePreparing {
		return errRebalancing(g.id)
	}
	return nil
}

// onLeave is LeaveGroup, one answer for each member.
func (g *group) onLeave(to any, leaving []LeavingMember) {
	errs := make([]error, len(leaving))
	left := false
	for i, l := range leaving {
		if _, ok := g.pending[l.MemberID]; ok && l.MemberID != "" {
			delete(g.pending, l.MemberID)
			left = true
			continue
		}
		id := l.MemberID
		if id == "" && l.InstanceID != "" {
			id = g.static[l.InstanceID]
		}
		m, err := g.validate(id, l.InstanceID)
		if err != nil {
			errs[i] = err
			continue
		}
		g.remove(m)
		left = true
	}
	if left {
		g.membersLeft()
	}
	g.reply(to, errs, nil)
}

// membersLeft goes on after members (or given member ids) are gone.
func (g *group) membersLeft() {
	switch g.state {
	case statePreparing:
		g.maybeCompleteJoin()
	case stateStable, stateCompleting:
		if g.hasStepwise() {
			g.reassign(false)
			return
		}
		g.prepare()
	default: // nobody is left whom it concerns
	}
}

// expirePendingSync removes the members that took no part in the generation
// (GroupMetadataManager.expirePendingSync).
func (g *group) expirePendingSync() {
	g.syncDeadline = time.Time{}
	if len(g.unsync) == 0 || (g.state != stateCompleting && g.state != stateStable) {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(g.unsync)) {
		if m := g.members[id]; m != nil {
			g.remove(m)
		}
	}
	clear(g.unsync)
	g.membersLeft()
}

func (m *member) matches(p []Protocol) bool {
	return slices.EqualFunc(m.protocols, p, func(a, b Protocol) bool { return a.Name == b.Name && bytes.Equal(a.Metadata, b.Metadata) })
}

func (m *member) metadata(protocol string) []byte {
	for _, p := range m.protocols {
		if p.Name == protocol {
			return p.Metadata
		}
	}
	return nil
}

func cloneProtocols(p []Protocol) []Protocol {
	c := make([]Protocol, len(p))
	for i := range p {
		c[i] = Protocol{Name: strings.Clone(p[i].Name), Metadata: bytes.Clone(p[i].Metadata)}
	}
	return c
}
