package groups

import (
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/braidmq/braid/federation"
)

// regexBytesMax bounds a topic regex.
const regexBytesMax = 1024

// matcher matches topic names.
type matcher interface{ MatchString(string) bool }

// compileRegex reads an RE2 that has to match whole names.
func compileRegex(expr string) (matcher, error) {
	if expr == "" {
		return nil, nil
	}
	if len(expr) > regexBytesMax {
		return nil, federation.Errorf(federation.InvalidArgument, "topic regex: %d bytes are above the limit of %d", len(expr), regexBytesMax)
	}
	re, err := regexp.Compile("^(?:" + expr + ")$")
	if err != nil {
		return nil, federation.Errorf(federation.InvalidArgument, "topic regex %q: %v (RE2 syntax is wanted)", expr, err)
	}
	return re, nil
}

// subscribed answers an evSubscribe: the id of the member.
type subscribed struct {
	id      string
	session time.Duration
}

// onSubscribe makes a Connect stream a member, or attaches it to the member that
// it was under another coordinator or in its former life (KIP-345 for static ones).
func (g *group) onSubscribe(ev *evSubscribe) {
	r := &ev.r
	match, err := g.checkSubscribe(r)
	if err != nil {
		g.reply(ev.to, nil, err)
		return
	}
	if r.MemberID != "" {
		g.resume(ev, match)
		return
	}
	prefix := r.ClientID
	if r.InstanceID != "" {
		prefix = r.InstanceID
	}
	id := prefix + "-" + g.cfg.NewID()
	if old := g.former(r); old != nil {
		g.replaceStream(ev, match, old, id)
		return
	}
	if len(g.members) >= g.cfg.MembersMax {
		g.reply(ev.to, nil, federation.Errorf(federation.GroupFull, "group %q has %d members, its limit", g.id, g.cfg.MembersMax))
		return
	}
	if err := g.roomToSubscribe(nil, clientOf(r.ClientHost, r.Principal), 2*len(prefix)+len(r.TopicRegex), r.Topics); err != nil {
		g.reply(ev.to, nil, err)
		return
	}
	if len(g.members) == 0 {
		g.protocolType = consumerProtocol
	}
	m := &member{
		id: id, instance: r.InstanceID, former: r.FormerID, stepwise: true, handle: ev.handle,
		revoking: map[federation.TopicPartition]time.Time{}, owned: map[federation.TopicPartition]int64{},
	}
	g.add(m)
	g.describeStream(m, r, match)
	g.rest(m)
	g.reply(ev.to, subscribed{id: m.id, session: m.session}, nil)
	// The first event comes at once, even if there is nothing to read yet.
	g.fx.events = append(g.fx.events, memberEvent{handle: m.handle, member: m.id, epoch: g.epoch})
	g.stepwiseJoined(m)
}

// stepwiseJoined goes on after a stepwise member came. Where it is the first among
// classic members, they join again, to be told that the coordinator leads.
func (g *group) stepwiseJoined(m *member) {
	switch {
	case g.state == statePreparing:
		if g.before == stateEmpty {
			g.newMemberAdded = true
		}
		if m.modern != nil {
			g.epoch++ // it follows to an epoch at once, and 0 is none
		}
	case g.hasClassic():
		g.reassign(!slices.ContainsFunc(g.ordered(), func(o *member) bool { return o.stepwise && o != m }))
	default:
		g.transition(stateStable)
		g.reassign(false)
	}
}

func (g *group) checkSubscribe(r *SubscribeRequest) (matcher, error) {
	if r.SessionTimeout == 0 {
		r.SessionTimeout = g.cfg.ConnectSessionTimeout
	}
	if r.RebalanceTimeout == 0 {
		r.RebalanceTimeout = g.cfg.ConnectRebalanceTimeout
	}
	r.RebalanceTimeout = min(r.RebalanceTimeout, g.cfg.RebalanceTimeoutMax)
	if r.SessionTimeout < g.cfg.SessionTimeoutMin || r.SessionTimeout > g.cfg.SessionTimeoutMax {
		return nil, federation.Errorf(federation.InvalidSessionTimeout, "group %q: a session timeout of %v is not between %v and %v",
			g.id, r.SessionTimeout, g.cfg.SessionTimeoutMin, g.cfg.SessionTimeoutMax)
	}
	if r.RebalanceTimeout < 0 {
		return nil, federation.Errorf(federation.InvalidArgument, "group %q: a rebalance timeout of %v is negative", g.id, r.RebalanceTimeout)
	}
	if len(r.Topics) == 0 && r.TopicRegex == "" {
		return nil, federation.Errorf(federation.InvalidArgument, "group %q: subscribe to topics, to a topic regex, or to both", g.id)
	}
	if len(r.Topics) > g.cfg.SubscriptionsMax {
		return nil, federation.Errorf(federation.InvalidArgument, "group %q: a subscription to %d topics is above the limit of %d; use a regex", g.id, len(r.Topics), g.cfg.SubscriptionsMax)
	}
	if len(g.members) > 0 && g.protocolType != consumerProtocol {
		return nil, federation.Errorf(federation.InconsistentProtocol, "group %q is of protocol type %q, not of consumers", g.id, g.protocolType)
	}
	for _, m := range g.members {
		if slices.ContainsFunc(m.protocols, isStreams) {
			return nil, federation.Errorf(federation.InconsistentProtocol, "group %q belongs to a Kafka Streams application", g.id)
		}
	}
	r.Topics = slices.Clone(r.Topics)
	slices.Sort(r.Topics)
	r.Topics = slices.Compact(r.Topics)
	return compileRegex(r.TopicRegex)
}

func (g *group) describeStream(m *member, r *SubscribeRequest, match matcher) {
	m.clientID, m.clientHost, m.user = r.ClientID, r.ClientHost, r.Principal
	m.names, m.regex, m.matcher = r.Topics, r.TopicRegex, match
	m.session, m.rebalance = r.SessionTimeout, r.RebalanceTimeout
	g.touched(m)
}

// resume attaches a stream to the member that it already is. What it says it reads
// (Owned) is compared with what it was given: events that got lost with the former
// coordinator come again, those that did not, don't.
func (g *group) resume(ev *evSubscribe, match matcher) {
	r := &ev.r
	m, err := g.validate(r.MemberID, r.InstanceID)
	if err == nil && (!m.isStream() || r.MemberEpoch > g.epoch) {
		err = errUnknownMember(g.id, r.MemberID)
	}
	if err != nil {
		g.reply(ev.to, nil, err)
		return
	}
	g.attach(m, ev.handle)
	changed := !slices.Equal(m.names, r.Topics) || m.regex != r.TopicRegex
	g.describeStream(m, r, match)
	g.rest(m)
	g.reply(ev.to, subscribed{id: m.id, session: m.session}, nil)
	has := map[federation.TopicPartition]bool{}
	event := memberEvent{handle: m.handle, member: m.id, epoch: g.epoch, deadline: m.rebalance}
	for _, tp := range r.Owned {
		has[tp] = true
		if _, ok := m.owned[tp]; !ok {
			event.lost = append(event.lost, tp)
		}
	}
	freed := false
	for _, tp := range sortedKeys(m.owned) {
		_, revoking := m.revoking[tp]
		switch {
		case revoking && has[tp]:
			event.revoking = append(event.revoking, tp)
			m.revoking[tp] = g.now.Add(m.rebalance)
			g.wakeAt(m.revoking[tp])
		case revoking: // its answer got lost
			g.free(m, tp)
			freed = true
		case !has[tp]:
			event.assigned = append(event.assigned, tp)
		}
	}
	sortPartitions(event.lost)
	g.fx.events = append(g.fx.events, event)
	switch {
	case changed:
		g.reassign(false)
	case freed:
		g.settle()
	}
}

// former returns the member that a client was before: a static one by its instance, any
// other one by the id that it was told. Otherwise the member of a gateway that died would
// keep its partitions for its session, and the client, which is back at once, would wait.
// The client may also ask again because it was not told what it became (former).
func (g *group) former(r *SubscribeRequest) *member {
	if r.InstanceID != "" {
		return g.members[g.static[r.InstanceID]]
	}
	if r.FormerID == "" {
		return nil
	}
	for _, m := range g.members {
		if m.isStream() && m.instance == "" && (m.id == r.FormerID || m.former == r.FormerID) {
			return m
		}
	}
	return nil
}

// replaceStream is a member that came back: it keeps its partitions, under a new
// member id.
func (g *group) replaceStream(ev *evSubscribe, match matcher, old *member, id string) {
	fenced := federation.Errorf(federation.FencedInstance, "group %q: instance %q joined again; this one is fenced", g.id, old.instance)
	switch {
	case !old.isStream():
		g.reply(ev.to, nil, federation.Errorf(federation.UnreleasedInstance,
			"group %q: instance %q is a Kafka member; it must leave first", g.id, old.instance))
		return
	case old.instance == "":
		fenced = federation.Errorf(federation.UnknownMember, "group %q: member %q went on in another stream", g.id, old.id)
	}
	if old.handle != nil {
		g.fx.closed = append(g.fx.closed, closedHandle{old.handle, fenced})
	}
	m := *old
	m.id, m.handle, m.former = id, ev.handle, ev.r.FormerID
	delete(g.members, old.id)
	g.gone = append(g.gone, old.id)
	g.members[m.id] = &m
	if m.instance != "" {
		g.static[m.instance] = m.id
	}
	changed := !slices.Equal(m.names, ev.r.Topics) || m.regex != ev.r.TopicRegex
	g.describeStream(&m, &ev.r, match)
	g.rest(&m)
	g.reply(ev.to, subscribed{id: m.id, session: m.session}, nil)
	// The new process reads nothing yet: what the old one had to give up is given up.
	freed := false
	for _, tp := range sortedKeys(m.revoking) {
		g.free(&m, tp)
		freed = true
	}
	// It commits under the epoch of its own assignment, so the former process is fenced.
	g.epoch++
	for tp := range m.owned {
		m.owned[tp] = g.epoch
	}
	g.fx.events = append(g.fx.events, memberEvent{handle: m.handle, member: m.id, epoch: g.epoch, assigned: sortedKeys(m.owned)})
	switch {
	case changed:
		g.reassign(false)
	case freed:
		g.settle()
	}
}

// attach gives a member a new stream; a former one ends.
func (g *group) attach(m *member, handle any) {
	if m.handle != nil && m.handle != handle {
		g.fx.closed = append(g.fx.closed, closedHandle{m.handle, federation.Errorf(federation.UnknownMember,
			"group %q: member %q went on at another gateway", g.id, m.id)})
	}
	m.handle = handle
}

// onDetach notes that a stream ended without leaving; the member stays for its session.
func (g *group) onDetach(handle any) {
	for _, m := range g.members {
		if m.stepwise && m.handle == handle {
			m.handle = nil
			g.rest(m)
		}
	}
	g.fx.closed = append(g.fx.closed, closedHandle{handle: handle})
}

// onRevoked frees partitions that a Connect member gave up.
func (g *group) onRevoked(id string, tps []federation.TopicPartition) error {
	m := g.members[id]
	if m == nil || !m.isStream() {
		return errUnknownMember(g.id, id)
	}
	g.rest(m)
	freed := false
	for _, tp := range tps {
		if _, ok := m.revoking[tp]; ok {
			g.free(m, tp)
			freed = true
		}
	}
	if freed {
		g.settle()
	}
	return nil
}

func (m *member) isStream() bool { return m.stepwise && m.modern == nil }

// free takes a partition from a member.
func (g *group) free(m *member, tp federation.TopicPartition) {
	delete(m.owned, tp)
	delete(m.revoking, tp)
	g.touched(m)
}

// reassign computes a new assignment after a change in a group with Connect
// members. They get and give up partitions while they go on reading the others;
// classic members join again, but only if the change concerns them or force is set.
func (g *group) reassign(force bool) {
	if g.state == statePreparing {
		return // the end of the join phase computes it
	}
	before := map[string]map[federation.TopicPartition]bool{}
	for _, m := range g.members {
		if !m.stepwise {
			before[m.id] = m.target
		}
	}
	g.epoch++
	g.retarget()
	for _, m := range g.members {
		if !m.stepwise && !maps.Equal(before[m.id], m.target) {
			force = true
		}
	}
	if force && g.hasClassic() {
		g.prepare()
		return
	}
	if !g.hasClassic() {
		if g.state == stateCompleting {
			g.transition(stateStable)
		}
		g.protocol, g.leader = "", ""
		g.syncDeadline, g.holdDeadline, g.followDeadline = time.Time{}, time.Time{}, time.Time{}
	}
	g.settle()
}

// settle brings Connect members closer to their targets: what is not theirs any
// more is revoked, what is theirs and free is granted. Nobody is given a partition
// that another member may still read. Modern members are not told before they ask.
func (g *group) settle() {
	if !g.hasStepwise() {
		return
	}
	holder := map[federation.TopicPartition]*member{}
	for _, m := range g.members {
		for tp := range m.owned {
			holder[tp] = m
		}
	}
	for _, m := range g.ordered() {
		if m.isStream() {
			g.settleMember(m, holder)
		}
	}
	g.settleClassic(holder)
}

func (g *group) settleMember(m *member, holder map[federation.TopicPartition]*member) {
	ev := memberEvent{handle: m.handle, member: m.id, epoch: g.epoch, deadline: m.rebalance}
	for _, tp := range sortedKeys(m.owned) {
		_, revoking := m.revoking[tp]
		switch {
		case !g.exists(tp):
			ev.lost = append(ev.lost, tp)
			delete(holder, tp)
			g.free(m, tp)
		case !m.target[tp] && !revoking && g.state != statePreparing:
			// During a rebalance the targets are about to change.
			m.revoking[tp] = g.now.Add(m.rebalance)
			g.wakeAt(m.revoking[tp])
			ev.revoking = append(ev.revoking, tp)
			g.touched(m)
		}
	}
	for _, tp := range sortedKeys(m.target) {
		if holder[tp] == nil && g.exists(tp) {
			holder[tp] = m
			m.owned[tp] = g.epoch
			ev.assigned = append(ev.assigned, tp)
			g.touched(m)
		}
	}
	if len(ev.assigned)+len(ev.revoking)+len(ev.lost) > 0 {
		g.fx.events = append(g.fx.events, ev)
	}
}

// settleClassic hands out to classic members: in the sync phase as soon as Connect
// members hold nothing back, or at the hold deadline; when the group is stable, by
// another rebalance, as soon as all that they wait for is free, or some of it for as
// long as SyncGroup would wait.
func (g *group) settleClassic(holder map[federation.TopicPartition]*member) {
	held, free := 0, 0
	for _, m := range g.members {
		if m.stepwise {
			continue
		}
		for tp := range m.target {
			switch h := holder[tp]; {
			case h == nil:
				free++
			case h.stepwise:
				held++
			}
		}
	}
	waited := !g.holdDeadline.IsZero() && !g.now.Before(g.holdDeadline)
	switch {
	case g.state == stateCompleting && (held == 0 || waited):
		g.handOut(holder)
	case g.state == stateStable && free > 0 && (held == 0 || waited):
		g.prepare()
	case g.state == stateStable && free > 0 && g.holdDeadline.IsZero():
		g.holdDeadline = g.now.Add(max(g.cfg.RevokeWaitMax, 0))
	}
	g.wakeAt(g.holdDeadline)
}

// handOut gives classic members what is free or theirs already, and answers SyncGroup.
func (g *group) handOut(holder map[federation.TopicPartition]*member) {
	g.holdDeadline = time.Time{}
	g.transition(stateStable)
	var follow time.Duration
	for _, m := range g.ordered() {
		if m.stepwise {
			continue
		}
		if m.owned == nil {
			m.owned = map[federation.TopicPartition]int64{}
		}
		var given []federation.TopicPartition
		for _, tp := range sortedKeys(m.target) {
			if h := holder[tp]; h == nil || h == m {
				holder[tp] = m
				m.owned[tp] = g.epoch
				given = append(given, tp)
			}
		}
		m.assignment = encodeAssignment(m.subscription(g.protocol).version, given)
		if len(m.owned) > len(given) {
			follow = max(follow, m.rebalance)
		}
		g.touched(m)
		g.answerSync(m, g.syncResponse(m), nil)
	}
	if follow > 0 {
		g.followDeadline = g.now.Add(follow)
		g.wakeAt(g.followDeadline)
	}
}

// exists reports whether a partition is in the map, in the topic that the group
// knows under that name.
func (g *group) exists(tp federation.TopicPartition) bool {
	t := g.topics.Topic(tp.Topic)
	if t == nil || int(tp.Partition) >= len(t.Partitions) {
		return false
	}
	known, ok := g.topicIDs[tp.Topic]
	return !ok || known == t.ID
}

// retarget computes who should have what.
func (g *group) retarget() {
	var all []subscriber
	ordered := g.ordered()
	for _, m := range ordered {
		all = append(all, subscriber{topics: g.subscription(m), had: m.target})
	}
	counts := map[federation.TopicName]int32{}
	for _, s := range all {
		for _, name := range s.topics {
			if t := g.topics.Topic(name); t != nil {
				counts[name] = int32(len(t.Partitions))
				g.topicIDs[name] = t.ID
			}
		}
	}
	for i, target := range assignBy(g.assignor(), all, counts) {
		if !maps.Equal(ordered[i].target, target) {
			ordered[i].target = target
			g.touched(ordered[i])
		}
	}
}

// subscription returns the topics of a member that exist.
func (g *group) subscription(m *member) []federation.TopicName {
	names := m.names
	if !m.stepwise {
		names = m.subscription(g.protocol).topics
	}
	var topics []federation.TopicName
	for _, n := range names {
		if g.topics.Topic(n) != nil {
			topics = append(topics, n)
		}
	}
	if m.matcher != nil {
		for _, n := range g.topics.TopicNames() {
			if m.matcher.MatchString(string(n)) && g.sees(m, n) {
				topics = append(topics, n)
			}
		}
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

// sees reports whether a member may be given a topic that its regular expression matches.
// Connect members are told what they may not read when they begin to.
func (g *group) sees(m *member, topic federation.TopicName) bool {
	return g.cfg.Sees == nil || m.modern == nil || m.modern.principal == "" || g.cfg.Sees(m.modern.principal, m.clientHost, topic)
}

// onTopics takes a new map. Classic members of a group of their own notice changes
// of topics by themselves; in a mixed group none of them leads, so the coordinator
// looks for all.
func (g *group) onTopics(topics topicView) {
	g.topics = topics
	g.followConfig()
	if !g.hasStepwise() {
		return
	}
	recreated := map[federation.TopicName]bool{}
	for name, id := range g.topicIDs {
		if t := topics.Topic(name); t == nil || t.ID != id {
			recreated[name] = true
		}
	}
	for _, m := range g.ordered() {
		if m.stepwise {
			g.dropTopics(m, recreated)
		}
	}
	for name := range recreated {
		delete(g.topicIDs, name)
	}
	if g.targetsOutdated() || len(recreated) > 0 {
		g.reassign(false)
		return
	}
	g.settle()
}

// dropTopics tells a Connect member that topics are gone; if they are there again,
// they are others, to be read from their own offsets.
func (g *group) dropTopics(m *member, gone map[federation.TopicName]bool) {
	ev := memberEvent{handle: m.handle, member: m.id, epoch: g.epoch}
	for _, tp := range sortedKeys(m.owned) {
		if gone[tp.Topic] {
			ev.lost = append(ev.lost, tp)
			g.free(m, tp)
		}
	}
	if len(ev.lost) > 0 {
		if m.modern != nil {
			m.modern.untold = true
		}
		g.fx.events = append(g.fx.events, ev)
	}
}

// targetsOutdated reports whether the partitions to be read differ from those assigned.
func (g *group) targetsOutdated() bool {
	want := 0
	seen := map[federation.TopicName]bool{}
	targets := map[federation.TopicPartition]bool{}
	for _, m := range g.members {
		subscription := g.subscription(m)
		for _, name := range subscription {
			if !seen[name] {
				seen[name] = true
				want += len(g.topics.Topic(name).Partitions)
			}
		}
		for tp := range m.target {
			targets[tp] = true
			if !g.exists(tp) {
				return true
			}
			if _, subscribed := slices.BinarySearch(subscription, tp.Topic); m.modern != nil && !subscribed {
				return true // it may not describe the topic any more
			}
		}
	}
	return want != len(targets)
}

// expireRevoking takes partitions from Connect members that did not give them up in
// time, and removes such modern members.
func (g *group) expireRevoking() {
	freed, fenced := false, false
	for _, m := range g.ordered() {
		if m.modern != nil {
			fenced = g.fenceModern(m) || fenced
			continue
		}
		ev := memberEvent{handle: m.handle, member: m.id, epoch: g.epoch}
		for _, tp := range sortedKeys(m.revoking) {
			if !g.now.Before(m.revoking[tp]) {
				ev.lost = append(ev.lost, tp)
				g.free(m, tp)
			}
		}
		if len(ev.lost) > 0 {
			g.fx.events = append(g.fx.events, ev)
			freed = true
		}
	}
	switch {
	case fenced:
		g.membersLeft()
	case freed:
		g.settle()
	}
}
