package suite

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A rawMember is a classic member that does what a client library has to do and
// no more: it joins when it is told to, heartbeats, and when its coordinator is
// gone it looks for the next one, as Java's does. It joins again only if the
// coordinator says so: joins counts that. (franz-go joins again by itself if it
// happens to dial a dead gateway twice.)
type rawMember struct {
	s     *suite
	t     *testing.T
	group string
	topic string
	done  chan struct{}

	mu         sync.Mutex
	id         string
	generation int32
	partitions int
	joins      int
	beats      int
	failure    error
}

// rawHeartbeat is the interval of heartbeats; it bounds how late a member hears of a rebalance.
const rawHeartbeat = 100 * time.Millisecond

func (s *suite) rawMember(t *testing.T, group, topic string) *rawMember {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	m := &rawMember{s: s, t: t, group: group, topic: topic, done: make(chan struct{})}
	client := s.client(t)
	go func() {
		defer close(m.done)
		err := m.run(ctx, func(r kmsg.Request) (kmsg.Response, error) {
			// The client sends to the coordinator, looks it up again when it says that it
			// is none or can't be reached, and makes no decision of a group's.
			return client.Request(ctx, r)
		})
		if ctx.Err() == nil {
			m.mu.Lock()
			m.failure = err
			m.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-m.done
	})
	return m
}

type requester func(kmsg.Request) (kmsg.Response, error)

func (m *rawMember) run(ctx context.Context, request requester) error {
	if err := m.join(request); err != nil {
		return err
	}
	tick := time.NewTicker(rawHeartbeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		r := kmsg.NewPtrHeartbeatRequest()
		r.Group, r.MemberID, r.Generation = m.group, m.id, m.generation
		response, err := request(r)
		if err != nil {
			continue // nobody was reached, so nobody asked for anything
		}
		switch err := kerr.ErrorForCode(response.(*kmsg.HeartbeatResponse).ErrorCode); {
		case err == nil:
			m.mu.Lock()
			m.beats++
			m.mu.Unlock()
		case errors.Is(err, kerr.RebalanceInProgress):
			if err := m.join(request); err != nil {
				return err
			}
		case errors.Is(err, kerr.NotCoordinator), errors.Is(err, kerr.CoordinatorNotAvailable), errors.Is(err, kerr.CoordinatorLoadInProgress):
		default:
			return fmt.Errorf("heartbeat: %w", err)
		}
	}
}

// join joins and syncs until there is an assignment.
func (m *rawMember) join(request requester) error {
	for {
		m.mu.Lock()
		m.joins++
		m.mu.Unlock()
		r := kmsg.NewPtrJoinGroupRequest()
		r.Group, r.MemberID, r.ProtocolType = m.group, m.id, "consumer"
		r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = 20_000, 20_000
		meta := kmsg.NewConsumerMemberMetadata()
		meta.Topics = []string{m.topic}
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name, p.Metadata = "range", meta.AppendTo(nil)
		r.Protocols = append(r.Protocols, p)
		response, err := request(r)
		if err != nil {
			return fmt.Errorf("join: %w", err)
		}
		joined := response.(*kmsg.JoinGroupResponse)
		if joined.MemberID != "" {
			m.setMember(joined.MemberID, joined.Generation)
		}
		switch err := kerr.ErrorForCode(joined.ErrorCode); {
		case errors.Is(err, kerr.MemberIDRequired), errors.Is(err, kerr.RebalanceInProgress):
			continue
		case err != nil:
			return fmt.Errorf("join: %w", err)
		}
		again, err := m.sync(request, joined)
		if err != nil || !again {
			return err
		}
	}
}

func (m *rawMember) setMember(id string, generation int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.id, m.generation = id, generation
}

// sync takes the assignment; the leader of a group of Kafka members alone gives
// everybody nothing, because only mixed groups, which the coordinator assigns,
// are looked at.
func (m *rawMember) sync(request requester, joined *kmsg.JoinGroupResponse) (again bool, err error) {
	r := kmsg.NewPtrSyncGroupRequest()
	r.Group, r.MemberID, r.Generation = m.group, joined.MemberID, joined.Generation
	r.ProtocolType, r.Protocol = joined.ProtocolType, joined.Protocol // KIP-559
	if joined.LeaderID == joined.MemberID {
		for _, member := range joined.Members {
			a := kmsg.NewSyncGroupRequestGroupAssignment()
			a.MemberID = member.MemberID
			empty := kmsg.NewConsumerMemberAssignment()
			a.MemberAssignment = empty.AppendTo(nil)
			r.GroupAssignment = append(r.GroupAssignment, a)
		}
	}
	response, err := request(r)
	if err != nil {
		return false, fmt.Errorf("sync: %w", err)
	}
	synced := response.(*kmsg.SyncGroupResponse)
	switch err := kerr.ErrorForCode(synced.ErrorCode); {
	case errors.Is(err, kerr.RebalanceInProgress):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("sync: %w", err)
	}
	var assignment kmsg.ConsumerMemberAssignment
	if err := assignment.ReadFrom(synced.MemberAssignment); err != nil {
		return false, fmt.Errorf("assignment: %w", err)
	}
	n := 0
	for _, topic := range assignment.Topics {
		n += len(topic.Partitions)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.partitions = n
	return false, nil
}

// A rawState is what a member knows.
type rawState struct {
	id                       string
	generation               int32
	partitions, joins, beats int
}

func (m *rawMember) state() rawState {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	require.NoError(m.t, m.failure)
	return rawState{m.id, m.generation, m.partitions, m.joins, m.beats}
}

// heard waits until a coordinator has answered n more heartbeats.
func (m *rawMember) heard(n int) {
	m.t.Helper()
	from := m.state().beats
	eventually(m.t, func() bool { return m.state().beats >= from+n }, "heartbeats are answered")
}
