//go:build synctests

package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// modernGroup is a group of the newer protocol (KIP-848), with a Connect member.
	modernGroup = "invoices"
	modernCount = 3
	// askTimeout bounds a request to the coordinator: a member that waits longer for an
	// answer could have lost what it says.
	askTimeout = 3 * time.Second
	// rebalanceTimeout is longer than faults last.
	rebalanceTimeout = 5 * time.Minute
)

// modern says that a seed's worlds have a group of the newer protocol.
func (o *Options) modern() bool { return o.Seed%7 == 1 || o.Seed%7 == 2 || o.Seed%7 == 5 }

// A modernMember is a life of a member that sends its own heartbeats, so that it is known
// exactly what it was given and what it has given up.
type modernMember struct {
	*logical
	*owner848
	rng     *rand.Rand
	clients []*rawClient // one for each gateway
	at      int          // the coordinator
	epoch   int32
	full    bool // the next heartbeat says everything
	topicID [16]byte
	reads   map[int32]int64           // where; -1 = it does not know yet
	gives   []int32                   // what it gives up with its next heartbeat
	late    *kmsg.OffsetCommitRequest // of what it has given up
}

// modernMember is a member that stays, or comes and goes: it leaves or, before the faults
// are over, dies. Partitions of the dead wait for their sessions, and may then be given to
// who dies next.
func (l *logical) modernMember(faulty, ctx context.Context, i int, stay time.Duration) {
	name, rng := l.client("modern", i), l.source(uint64(20+i))
	clients := make([]*rawClient, len(l.gateways))
	for j, g := range l.gateways {
		clients[j] = l.rawClient(name, g)
		defer clients[j].client.Close()
	}
	for life := 0; ctx.Err() == nil; life++ {
		m := &modernMember{logical: l, owner848: &owner848{name: fmt.Sprint(name, ".", life)}, rng: rng, clients: clients, full: true, reads: make(map[int32]int64)}
		lives, end := ctx, context.CancelFunc(func() {})
		if stay > 0 {
			lives, end = context.WithTimeout(ctx, stay/2+time.Duration(rng.Int64N(int64(stay))))
		}
		m.live(lives)
		end()
		if dies := rng.IntN(3) == 0 && faulty.Err() == nil; !dies {
			m.leave(context.WithoutCancel(ctx))
		}
		wait(ctx, stay/4+time.Millisecond)
	}
}

func (m *modernMember) live(ctx context.Context) {
	for ctx.Err() == nil && !m.learnTopic(ctx) {
		m.at = m.rng.IntN(len(m.clients))
		wait(ctx, 100*time.Millisecond)
	}
	for ctx.Err() == nil {
		m.giveUp(ctx)
		m.commitLate(ctx)
		if !m.heartbeat(ctx) {
			wait(ctx, 50*time.Millisecond)
			continue
		}
		next := time.Now().Add(time.Duration(m.rng.Int64N(int64(1500 * time.Millisecond))))
		for time.Now().Before(next) && ctx.Err() == nil {
			m.read(ctx)
		}
	}
}

// learnTopic asks for the id of the topic.
func (m *modernMember) learnTopic(ctx context.Context) bool {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = new(topic)
	req.Topics = append(req.Topics, t)
	resp, err := m.ask(ctx, req)
	if err != nil {
		return false
	}
	for _, t := range resp.(*kmsg.MetadataResponse).Topics {
		m.topicID = t.TopicID
	}
	return m.topicID != [16]byte{}
}

// ask sends a request to the gateway that coordinates the group, as far as is known.
func (m *modernMember) ask(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return m.clients[m.at].client.SeedBrokers()[0].Request(ctx, req)
}

// lookUp asks any gateway who coordinates the group.
func (m *modernMember) lookUp(ctx context.Context) {
	m.at = m.rng.IntN(len(m.clients))
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.CoordinatorKey = modernGroup
	resp, err := m.ask(ctx, req)
	if err != nil {
		return
	}
	found := resp.(*kmsg.FindCoordinatorResponse)
	for i, g := range m.gateways {
		if m.kafka(g) == fmt.Sprint(found.Host, ":", found.Port) {
			m.at = i
		}
	}
}

// heartbeat sends one, and does what its answer says. It reports whether there was one.
func (m *modernMember) heartbeat(ctx context.Context) bool {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.MemberEpoch = modernGroup, m.name, m.epoch
	req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	if m.full {
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames = int32(rebalanceTimeout.Milliseconds()), []string{topic}
	}
	if len(m.reads) > 0 {
		t := kmsg.NewConsumerGroupHeartbeatRequestTopic()
		t.TopicID, t.Partitions = m.topicID, sortedKeys(m.reads)
		req.Topics = append(req.Topics, t)
	}
	m.full = true // unless there is an answer
	sent := time.Now()
	resp, err := m.ask(ctx, req)
	if err != nil {
		m.lookUp(ctx)
		return false
	}
	answer := resp.(*kmsg.ConsumerGroupHeartbeatResponse)
	switch err := kerr.ErrorForCode(answer.ErrorCode); {
	case err == nil:
		m.epoch, m.full = answer.MemberEpoch, false
		m.history.heartbeat(m.owner848, sent)
		if answer.Assignment != nil {
			m.follow(answer.Assignment)
		}
		return true
	case errors.Is(err, kerr.FencedMemberEpoch), errors.Is(err, kerr.UnknownMemberID):
		// Two answers in a row that got lost are enough for the former.
		if errors.Is(err, kerr.UnknownMemberID) && m.epoch > 0 && m.holds() {
			m.history.problem("%s is not known any more %s after a heartbeat that was answered", m.name, time.Since(m.answered))
		}
		m.history.count("members of KIP-848 fenced", 1)
		m.epoch = 0
		m.drop()
	case errors.Is(err, kerr.NotCoordinator), errors.Is(err, kerr.CoordinatorNotAvailable), errors.Is(err, kerr.CoordinatorLoadInProgress):
		m.lookUp(ctx)
	default:
		m.history.problem("%s: heartbeat: %v", m.name, err)
	}
	return false
}

// follow takes what a member is given, and notes what it has to give up: it reads that
// until its next heartbeat.
func (m *modernMember) follow(a *kmsg.ConsumerGroupHeartbeatResponseAssignment) {
	assigned := make(map[int32]bool)
	for _, t := range a.Topics {
		for _, p := range t.Partitions {
			assigned[p] = true
			if _, had := m.reads[p]; !had {
				m.history.take(m.owner848, p)
				m.reads[p] = -1
			}
		}
	}
	m.gives = nil
	for _, p := range sortedKeys(m.reads) {
		if !assigned[p] {
			m.gives = append(m.gives, p)
		}
	}
}

// giveUp stops to read what is somebody else's.
func (m *modernMember) giveUp(ctx context.Context) {
	if len(m.gives) == 0 {
		return
	}
	m.commit(ctx)
	late := m.commitRequest()
	for _, p := range m.gives {
		if m.reads[p] > 0 {
			part := kmsg.NewOffsetCommitRequestTopicPartition()
			part.Partition = p // offset 0: if it is taken, the next one reads all again
			late.Topics[0].Partitions = append(late.Topics[0].Partitions, part)
		}
		delete(m.reads, p)
		m.history.give(m.owner848, p)
	}
	m.gives, m.late = nil, late
}

// drop gives all up without a word.
func (m *modernMember) drop() {
	for p := range m.reads {
		m.history.give(m.owner848, p)
	}
	m.reads, m.gives = make(map[int32]int64), nil
}

func (m *modernMember) leave(ctx context.Context) {
	if m.epoch > 0 {
		m.commit(ctx)
	}
	m.drop()
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.MemberEpoch = modernGroup, m.name, -1
	_, _ = m.ask(ctx, req) // without an answer, its session ends
}

// read reads from any gateway, and commits now and then.
func (m *modernMember) read(ctx context.Context) {
	at := make(map[int32]int64)
	for p, offset := range m.reads {
		if offset >= 0 {
			at[p] = offset
		}
	}
	if len(at) < len(m.reads) {
		m.findOffsets(ctx)
	}
	if len(at) == 0 {
		wait(ctx, 50*time.Millisecond)
		return
	}
	c := m.clients[m.rng.IntN(len(m.clients))]
	short, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	records, failed, err := c.fetch(short, topic, at, 200*time.Millisecond)
	if err != nil {
		wait(ctx, 100*time.Millisecond)
		return
	}
	m.history.failedReads(m.name, failed)
	for _, r := range records {
		m.history.member(modernGroup, m.name, recordOf(r))
	}
	maps.Copy(m.reads, at)
	if len(records) > 0 && m.rng.IntN(2) == 0 {
		m.commit(ctx)
	}
	if len(records) == 0 {
		wait(ctx, 50*time.Millisecond)
	}
}

// findOffsets asks where to begin with what it was given.
func (m *modernMember) findOffsets(ctx context.Context) {
	req := kmsg.NewPtrOffsetFetchRequest()
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group, g.MemberID, g.MemberEpoch = modernGroup, &m.name, m.epoch
	t := kmsg.NewOffsetFetchRequestGroupTopic()
	t.Topic = topic
	least := make(map[int32]int64)
	for _, p := range sortedKeys(m.reads) {
		if m.reads[p] < 0 {
			t.Partitions, least[p] = append(t.Partitions, p), m.history.least(p)
		}
	}
	g.Topics = append(g.Topics, t)
	req.Groups = append(req.Groups, g)
	resp, err := m.ask(ctx, req)
	if err != nil {
		return
	}
	for _, g := range resp.(*kmsg.OffsetFetchResponse).Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				if g.ErrorCode != 0 || p.ErrorCode != 0 {
					continue
				}
				m.history.found(m.owner848, p.Partition, p.Offset, least[p.Partition])
				if m.reads[p.Partition] = p.Offset; p.Offset < 0 {
					m.begin(ctx, p.Partition)
				}
			}
		}
	}
}

// begin finds the first offset of a partition of which nothing was committed.
func (m *modernMember) begin(ctx context.Context, partition int32) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if first, ok := m.clients[m.at].listOffset(ctx, partition, -2); ok {
		m.reads[partition] = first
	}
}

// commit commits all that it has read.
func (m *modernMember) commit(ctx context.Context) {
	req := m.commitRequest()
	t := &req.Topics[0]
	offsets, lost := make(map[int32]int64), make(map[int32]bool)
	for _, p := range sortedKeys(m.reads) {
		if m.reads[p] < 0 {
			continue
		}
		part := kmsg.NewOffsetCommitRequestTopicPartition()
		part.Partition, part.Offset = p, m.reads[p]
		t.Partitions = append(t.Partitions, part)
		offsets[p], lost[p] = m.reads[p], m.history.lost(m.owner848, p)
	}
	if len(offsets) == 0 {
		return
	}
	answers := m.answers(ctx, req)
	for p, offset := range offsets {
		switch err, answered := answers[p]; {
		case answered && err == nil:
			m.history.commit(m.owner848, p, offset, lost[p], true)
		case errors.Is(err, kerr.StaleMemberEpoch), errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.FencedMemberEpoch):
			m.history.count("commits of members of KIP-848 refused", 1)
		default: // it can be taken still
			m.history.commit(m.owner848, p, offset, lost[p], false)
		}
	}
}

func (m *modernMember) commitRequest() *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation = modernGroup, m.name, m.epoch
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic = topic
	req.Topics = append(req.Topics, t)
	return req
}

// answers are those to a commit, by partition; none, if they do not come.
func (m *modernMember) answers(ctx context.Context, req *kmsg.OffsetCommitRequest) map[int32]error {
	answers := make(map[int32]error)
	if resp, err := m.ask(ctx, req); err == nil {
		for _, t := range resp.(*kmsg.OffsetCommitResponse).Topics {
			for _, p := range t.Partitions {
				answers[p.Partition] = kerr.ErrorForCode(p.ErrorCode)
			}
		}
	}
	return answers
}

// commitLate sends a commit of before it gave partitions up, of those that others have by
// now, as one that was long under way.
func (m *modernMember) commitLate(ctx context.Context) {
	if m.late == nil || m.late.Generation == m.epoch {
		return
	}
	t := &m.late.Topics[0]
	t.Partitions = slices.DeleteFunc(t.Partitions, func(p kmsg.OffsetCommitRequestTopicPartition) bool { return !m.history.lost(m.owner848, p.Partition) })
	if len(t.Partitions) > 0 {
		for p, err := range m.answers(ctx, m.late) {
			m.history.count("late commits answered", 1)
			if err == nil {
				m.history.commit(m.owner848, p, 0, true, true)
			}
		}
		m.late = nil
	}
}

// described says who has what in a group of the newer protocol, as its members know it and
// as its coordinator does.
func (l *logical) described(ctx context.Context, group string) string {
	if group != modernGroup {
		return ""
	}
	var out strings.Builder
	l.history.mu.Lock()
	for _, p := range sortedKeys(l.history.tenures.of) {
		m := l.history.tenures.of[p]
		fmt.Fprintf(&out, "\n\tpartition %d is read by %s, answered at %s", p, m.name, m.answered.Sub(l.history.begin))
	}
	l.history.mu.Unlock()
	for i, g := range l.gateways {
		c := l.rawClient(l.client("describe", i), g)
		defer c.client.Close()
		req := kmsg.NewPtrConsumerGroupDescribeRequest()
		req.Groups = []string{group}
		resp, err := c.request(ctx, req)
		if err != nil {
			fmt.Fprintf(&out, "\n\t%s: %v", g.host, err)
			continue
		}
		for _, d := range resp.(*kmsg.ConsumerGroupDescribeResponse).Groups {
			if err := kerr.ErrorForCode(d.ErrorCode); err != nil {
				fmt.Fprintf(&out, "\n\t%s: %v", g.host, err)
				continue
			}
			fmt.Fprintf(&out, "\n\t%s: %s, epoch %d, assigned in %d", g.host, d.State, d.Epoch, d.AssignmentEpoch)
			for _, m := range d.Members {
				fmt.Fprintf(&out, "\n\t\t%s of %s at epoch %d has %v, is to have %v", m.MemberID, m.ClientID, m.MemberEpoch, partitionsOf(m.Assignment), partitionsOf(m.TargetAssignment))
			}
		}
	}
	return out.String()
}

func partitionsOf(a kmsg.Assignment) (all []int32) {
	for _, t := range a.TopicPartitions {
		all = append(all, t.Partitions...)
	}
	return all
}
