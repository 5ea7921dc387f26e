package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
)

// A connectMember is a member of a group by a Consume stream. It commits what it read.
type connectMember struct {
	stream *connect.BidiStreamForClientSimple[braidv1.ConsumeRequest, braidv1.ConsumeResponse]
	topic  string
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	id      string
	records []*kgo.Record
	mine    map[int32]bool
	lost    int
	err     error
	closed  bool
	grants  int64
}

// connectMember subscribes through the gateway at a base URL.
func (s *suite) connectMember(t *testing.T, url, group, topic string) *connectMember {
	t.Helper()
	return s.connectMemberAs(t, url, group, topic, "")
}

// connectMemberAs is a member that goes on as a former one.
func (s *suite) connectMemberAs(t *testing.T, url, group, topic, former string) *connectMember {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	m := &connectMember{topic: topic, cancel: cancel, done: make(chan struct{}), mine: make(map[int32]bool)}
	stream, err := braidv1connect.NewConsumerServiceClient(s.w.Client, url).Consume(ctx)
	require.NoError(t, err)
	m.stream = stream
	require.NoError(t, stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: &braidv1.Subscribe{
		Group: group, Topics: []string{topic}, Fallback: &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}},
		Credit: &braidv1.Credit{MaxRecords: 100, MaxBytes: 1 << 20}, ClientId: "suite", FormerMemberId: former,
	}}}))
	go func() {
		defer close(m.done)
		err := m.run()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.err = err
	}()
	t.Cleanup(func() {
		cancel()
		<-m.done
	})
	return m
}

func (m *connectMember) broken() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *connectMember) see() (int, []*kgo.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.mine), slices.Clip(m.records)
}

func (m *connectMember) run() error {
	for {
		response, err := m.stream.Receive()
		if err != nil {
			if m.closed && errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		switch f := response.GetFrame().(type) {
		case *braidv1.ConsumeResponse_Subscribed:
			m.mu.Lock()
			m.id = f.Subscribed.GetMemberId()
			m.mu.Unlock()
		case *braidv1.ConsumeResponse_Assignment:
			err = m.assign(f.Assignment)
		case *braidv1.ConsumeResponse_Records:
			err = m.take(f.Records)
		case *braidv1.ConsumeResponse_CommitResult:
			for _, failure := range f.CommitResult.GetFailures() {
				err = errors.Join(err, fmt.Errorf("commit of partition %d: %s", failure.GetPartition(), failure.GetFailure().GetMessage()))
			}
		case *braidv1.ConsumeResponse_PartitionFailure:
			err = errors.New(f.PartitionFailure.GetFailure().GetMessage())
		case *braidv1.ConsumeResponse_Closed:
			m.closed = true
		}
		if err != nil {
			return err
		}
	}
}

// take keeps records, commits behind them and grants as much credit again.
func (m *connectMember) take(b *braidv1.RecordBatch) error {
	var bytes int64
	m.mu.Lock()
	for _, r := range b.GetRecords() {
		m.records = append(m.records, &kgo.Record{Topic: b.GetTopic(), Partition: b.GetPartition(), Offset: r.GetOffset(), Key: r.GetKey(), Value: r.GetValue()})
		bytes += int64(len(r.GetKey()) + len(r.GetValue()))
	}
	read := int64(len(m.records))
	m.grants += bytes
	grants := m.grants
	m.mu.Unlock()
	position := &braidv1.PartitionOffset{Topic: b.GetTopic(), Partition: b.GetPartition(), Offset: b.GetNextOffset()}
	return errors.Join(
		m.answer(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Commit{Commit: &braidv1.Commit{CommitId: read, Offsets: []*braidv1.PartitionOffset{position}}}}),
		m.answer(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Credit{Credit: &braidv1.Credit{MaxRecords: 100 + read, MaxBytes: 1<<20 + grants}}}))
}

// answer sends a frame from within the loop of run. That the stream is over, since
// somebody left meanwhile or for any other reason, is for the next Receive to tell.
func (m *connectMember) answer(frame *braidv1.ConsumeRequest) error {
	if err := m.stream.Send(frame); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (m *connectMember) assign(u *braidv1.AssignmentUpdate) error {
	m.mu.Lock()
	for _, a := range u.GetAssigned() {
		m.mine[a.GetPartition()] = true
	}
	for _, p := range slices.Concat(u.GetRevoking(), u.GetLost()) {
		delete(m.mine, p.GetPartition())
		m.lost++
	}
	m.mu.Unlock()
	if len(u.GetRevoking()) == 0 {
		return nil
	}
	return m.answer(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Revoked{Revoked: &braidv1.Revoked{MemberEpoch: u.GetMemberEpoch(), Partitions: u.GetRevoking()}}})
}

// leave leaves the group and waits for the last frame.
func (m *connectMember) leave(t *testing.T) {
	t.Helper()
	require.NoError(t, m.stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Leave{Leave: &braidv1.Leave{}}}))
	require.NoError(t, m.stream.CloseRequest())
	select {
	case <-m.done:
	case <-time.After(callTimeout):
		require.FailNow(t, "the stream does not end after Leave")
	}
	require.NoError(t, m.err)
}

func (s *suite) testConnectGroup(t *testing.T) {
	topic, group := s.topic(t, 6), name(t)
	var members []*connectMember
	for _, g := range s.w.Gateways {
		members = append(members, s.connectMember(t, g.URL(), group, topic))
	}
	shared(t, []int{2, 2, 2}, members[0], members[1], members[2])
	s.fill(t, topic, 0, 600)
	requireEachOnce(t, 600, members[0], members[1], members[2])
	members[1].leave(t)
	shared(t, []int{3, 3}, members[0], members[2])
	s.fill(t, topic, 600, 100)
	requireEachOnce(t, 700, members[0], members[1], members[2])
	members[0].leave(t)
	members[2].leave(t)

	later := s.connectMember(t, s.w.API(), group, topic)
	s.fill(t, topic, 700, 50)
	requireEachOnce(t, 750, members[0], members[1], members[2], later)
	later.leave(t)
}

func (s *suite) testMixedGroup(t *testing.T) {
	topic, group := s.topic(t, 6), name(t)
	kafka := s.member(t, group, topic)
	shared(t, []int{6}, kafka)
	s.fill(t, topic, 0, 100)
	var connects []*connectMember
	for _, g := range s.w.Gateways[:2] {
		connects = append(connects, s.connectMember(t, g.URL(), group, topic))
	}
	shared(t, []int{2, 2, 2}, kafka, connects[0], connects[1])
	s.fill(t, topic, 100, 300)
	requireEachOnce(t, 400, kafka, connects[0], connects[1])
	kafka.leave(t)
	shared(t, []int{3, 3}, connects[0], connects[1])
	s.fill(t, topic, 400, 100)
	requireEachOnce(t, 500, kafka, connects[0], connects[1])
	connects[0].leave(t)
	late := s.member(t, group, topic)
	shared(t, []int{3, 3}, connects[1], late)
	s.fill(t, topic, 500, 100)
	requireEachOnce(t, 600, kafka, connects[0], connects[1], late)
	connects[1].leave(t)
	late.leave(t)
}
