package groups

import (
	"slices"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
)

// onCommit is OffsetCommit, or a commit of a Connect member.
func (g *group) onCommit(ev *evCommit) {
	r := &ev.r
	m, err := g.validateCommit(r, ev.connect)
	if err != nil {
		g.reply(ev.to, []error(nil), err)
		return
	}
	if m != nil {
		g.rest(m)
	}
	errs := make([]error, len(r.Offsets))
	for i, o := range r.Offsets {
		if m != nil && m.modern != nil {
			// Kafka's rule (KIP-1251): a former epoch will do for what the member has had since.
			if got, ok := m.owned[o.TopicPartition]; r.Generation != m.modern.epoch && (!ok || int64(r.Generation) < got) {
				errs[i] = errStaleEpoch(g.id, m.id, r.Generation, m.modern.epoch)
				continue
			}
		} else if m != nil && m.stepwise {
			got, ok := m.owned[o.TopicPartition]
			if !ok || !ev.connect && int64(r.Generation) < got {
				errs[i] = federation.Errorf(federation.IllegalGeneration, "group %q: %s is not member %q's (any more); its commit is refused", g.id, o.TopicPartition, m.id)
				continue
			}
		}
		stored, err := g.checkOffset(o)
		if err != nil {
			errs[i] = err
			continue
		}
		g.fx.offsets = append(g.fx.offsets, stored)
	}
	g.reply(ev.to, errs, nil)
}

// validateCommit is ClassicGroup.validateOffsetCommit; the member is nil for a
// commit from outside.
func (g *group) validateCommit(r *CommitRequest, connect bool) (*member, error) {
	if !connect && r.Generation < 0 && g.state == stateEmpty {
		return nil, nil
	}
	if r.Generation < 0 && r.MemberID == "" && r.InstanceID == "" {
		return nil, federation.Errorf(federation.UnknownMember, "group %q has members; only they can commit", g.id)
	}
	m, err := g.validate(r.MemberID, r.InstanceID)
	if err != nil {
		return nil, err
	}
	switch {
	case m.modern != nil && r.NoEpochs:
		return nil, federation.Errorf(federation.Unsupported, "group %q: member %q has to commit with version 9 of OffsetCommit or a newer one", g.id, m.id)
	case m.modern != nil && r.Generation > m.modern.epoch:
		return nil, errStaleEpoch(g.id, m.id, r.Generation, m.modern.epoch)
	case m.modern != nil:
		return m, nil // an older epoch is looked at for each partition
	case m.stepwise && (connect || int64(r.Generation) <= g.epoch && r.Generation >= 0):
		return m, nil // fenced by what it owns
	case m.stepwise:
		return nil, errGeneration(g.id, int64(r.Generation), g.epoch)
	case r.Generation != g.generation:
		return nil, errGeneration(g.id, int64(r.Generation), int64(g.generation))
	case g.state == stateCompleting:
		// It knows the new generation, so it has to take its assignment first.
		return nil, errRebalancing(g.id)
	}
	return m, nil
}

// checkOffset takes offsets below -1, as Kafka's coordinator does: kafkajs resets a
// group by storing -2 for earliest, and clients read a negative offset as none.
func (g *group) checkOffset(o CommitOffset) (redisstore.GroupOffset, error) {
	t := g.topics.Topic(o.Topic)
	switch {
	case t == nil:
		return redisstore.GroupOffset{}, federation.Errorf(federation.UnknownTopic, "topic %q does not exist", o.Topic)
	case o.Partition < 0 || int(o.Partition) >= len(t.Partitions):
		return redisstore.GroupOffset{}, federation.Errorf(federation.UnknownPartition, "topic %q has partitions 0 to %d, not %d", o.Topic, len(t.Partitions)-1, o.Partition)
	case o.Offset == -1:
		return redisstore.GroupOffset{}, federation.Errorf(federation.InvalidArgument, "%s: the offset -1 stands for none, and cannot be committed", o.TopicPartition)
	case len(o.Metadata) > g.cfg.OffsetMetadataMax:
		return redisstore.GroupOffset{}, federation.Errorf(federation.OffsetMetadataTooLarge, "%s: %d bytes of metadata are above the limit of %d",
			o.TopicPartition, len(o.Metadata), g.cfg.OffsetMetadataMax)
	}
	return redisstore.GroupOffset{
		OffsetKey: redisstore.OffsetKey{Topic: t.ID, Partition: o.Partition},
		Offset:    o.Offset, Epoch: o.Epoch, Metadata: o.Metadata, CommittedMs: g.now.UnixMilli(),
	}, nil
}

// onDeleteOffsets is OffsetDelete: not while members that are no consumers use
// them, and not for topics that consumers subscribe to.
func (g *group) onDeleteOffsets(to any, tps []federation.TopicPartition) {
	if g.state != stateEmpty && g.protocolType != consumerProtocol {
		g.reply(to, []error(nil), federation.Errorf(federation.GroupNotEmpty, "group %q has members", g.id))
		return
	}
	errs := make([]error, len(tps))
	for i, tp := range tps {
		t := g.topics.Topic(tp.Topic)
		switch {
		case t == nil:
			errs[i] = federation.Errorf(federation.UnknownTopic, "topic %q does not exist", tp.Topic)
		case tp.Partition < 0 || int(tp.Partition) >= len(t.Partitions):
			errs[i] = federation.Errorf(federation.UnknownPartition, "topic %q has no partition %d", tp.Topic, tp.Partition)
		case g.state != stateEmpty && g.isSubscribed(tp.Topic):
			errs[i] = federation.Errorf(federation.GroupSubscribed, "group %q subscribes to topic %q; its offsets stay", g.id, tp.Topic)
		default:
			g.fx.dropped = append(g.fx.dropped, redisstore.OffsetKey{Topic: t.ID, Partition: tp.Partition})
		}
	}
	g.reply(to, errs, nil)
}

// onDelete is DeleteGroups.
func (g *group) onDelete(to any) {
	if g.state != stateEmpty {
		g.reply(to, nil, federation.Errorf(federation.GroupNotEmpty, "group %q has %d members; stop them first", g.id, len(g.members)))
		return
	}
	g.state = stateDead
	g.fx.remove = true
	g.reply(to, nil, nil)
}

// onExpire drops offsets that are out of use for the retention time
// (ClassicGroup.offsetExpirationCondition), and those of deleted topics; a group
// without members whose last offset goes, goes too.
func (g *group) onExpire(stored []redisstore.GroupOffset) {
	names := map[federation.TopicID]federation.TopicName{}
	for _, n := range g.topics.TopicNames() {
		names[g.topics.Topic(n).ID] = n
	}
	now := g.now.UnixMilli()
	left := 0
	for _, o := range stored {
		if g.expired(o, names, now) {
			g.fx.dropped = append(g.fx.dropped, o.OffsetKey)
			continue
		}
		left++
	}
	idle := g.now.Sub(g.since) >= g.cfg.RetentionCheck
	if left == 0 && g.state == stateEmpty && idle && len(g.pending) == 0 {
		g.state = stateDead
		g.fx.dropped, g.fx.remove = nil, true
	}
}

func (g *group) expired(o redisstore.GroupOffset, names map[federation.TopicID]federation.TopicName, now int64) bool {
	name, exists := names[o.Topic]
	if !exists {
		// Not at once: another gateway may have known a topic that is not in our map yet.
		return now-o.CommittedMs > g.cfg.RetentionCheck.Milliseconds()
	}
	from := o.CommittedMs
	switch {
	case g.protocolType == "": // never had members: offsets of a consumer that assigns itself
	case g.state == stateEmpty:
		from = max(from, g.since.UnixMilli())
	case g.state == stateStable && g.protocolType == consumerProtocol && (g.subscribed != nil || !g.hasClassic()) && !g.isSubscribed(name):
	default:
		return false
	}
	return now-from >= g.cfg.OffsetsRetention.Milliseconds()
}

// onTick handles all that is due and finds when the next thing is.
func (g *group) onTick(heard func(handle any) time.Time) {
	if g.wake.IsZero() || g.now.Before(g.wake) {
		return
	}
	g.wake = time.Time{}
	due := func(t time.Time) bool { return !t.IsZero() && !g.now.Before(t) }
	expired := false
	for id, deadline := range g.pending {
		if due(deadline) {
			delete(g.pending, id)
			expired = true
		}
	}
	for _, m := range g.ordered() {
		if due(m.deadline) && g.sessionOver(m, heard) {
			g.remove(m)
			expired = true
		}
	}
	if expired {
		g.membersLeft()
	}
	g.expireRevoking()
	if due(g.joinDeadline) {
		g.joinDeadline = time.Time{}
		if g.state == statePreparing {
			g.onJoinDeadline()
		}
	}
	if due(g.syncDeadline) {
		g.expirePendingSync()
	}
	if hold := g.holdDeadline; due(hold) {
		g.settle()
		if g.holdDeadline.Equal(hold) {
			g.holdDeadline = time.Time{}
		}
	}
	if due(g.followDeadline) {
		g.onFollowDeadline()
	}
	g.rearm()
}

// sessionOver reports whether a member whose deadline passed is gone. Members whose
// JoinGroup or SyncGroup is parked cannot send heartbeats
// (ClassicGroupMember.hasSatisfiedHeartbeat).
func (g *group) sessionOver(m *member, heard func(any) time.Time) bool {
	if m.stepwise {
		if m.handle != nil {
			if until := heard(m.handle).Add(m.session); until.After(g.now) {
				m.deadline = until
				return false
			}
		}
		return true
	}
	if !m.isNew && (m.awaitsJoin != nil || m.awaitsSync != nil) {
		g.rest(m)
		return false
	}
	return true
}

// onFollowDeadline makes cooperative members join again that should have by
// themselves, to give partitions up.
func (g *group) onFollowDeadline() {
	g.followDeadline = time.Time{}
	if g.state != stateStable {
		return
	}
	for _, m := range g.members {
		if m.stepwise {
			continue
		}
		for tp := range m.owned {
			if !m.target[tp] {
				g.prepare()
				return
			}
		}
	}
}

// rearm finds the next deadline.
func (g *group) rearm() {
	for _, t := range g.pending {
		g.wakeAt(t)
	}
	for _, m := range g.members {
		g.wakeAt(m.deadline)
		for _, t := range m.revoking {
			g.wakeAt(t)
		}
	}
	for _, t := range []time.Time{g.joinDeadline, g.syncDeadline, g.holdDeadline, g.followDeadline} {
		g.wakeAt(t)
	}
}

func (g *group) onDescribe(to any) {
	h := g.header()
	d := Description{
		Group: g.id, State: h.shown(), ProtocolType: g.protocolType, ProtocolName: g.protocol, Epoch: g.epoch, Type: h.groupType(),
	}
	if g.consumerType {
		d.Assignor = g.assignor()
	}
	for _, m := range g.ordered() {
		dm := DescribedMember{MemberID: m.id, InstanceID: m.instance, ClientID: m.clientID, ClientHost: m.clientHost, Protocol: ProtocolClassic}
		switch {
		case m.stepwise:
			dm.Protocol = ProtocolConnect
			if m.modern != nil {
				dm.Protocol = ProtocolConsumer
			}
			dm.Metadata = encodeSubscription(g.subscription(m))
			dm.Partitions = sortedKeys(m.owned)
			dm.Assignment = encodeAssignment(0, dm.Partitions)
		case g.state == stateStable:
			// As Kafka: what a rebalance is changing is not shown.
			dm.Metadata, dm.Assignment = m.metadata(g.protocol), m.assignment
			if g.protocolType == consumerProtocol {
				dm.Partitions = decodeAssignment(m.assignment)
			}
		}
		dm.Metadata, dm.Assignment = slices.Clone(dm.Metadata), slices.Clone(dm.Assignment)
		if g.consumerType {
			g.describeOf(m, &dm)
		}
		d.Members = append(d.Members, dm)
	}
	g.reply(to, d, nil)
}
