//go:build real

package sdk_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/test/sdk"
)

// committed adds up the committed offsets of a group, asked by franz-go's admin.
func committed(t *testing.T, group, topic string) int64 {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap()))
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	offsets, err := kadm.NewClient(client).FetchOffsets(ctx, group)
	require.NoError(t, err)
	var sum int64
	for _, o := range offsets[topic] {
		sum += max(o.At, 0)
	}
	return sum
}

func testFranz(t *testing.T) {
	topic := newTopic(t)
	const count = 300
	producer, err := kgo.NewClient(kgo.SeedBrokers(bootstrap()), kgo.DefaultProduceTopic(topic))
	require.NoError(t, err)
	t.Cleanup(producer.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, producer.ProduceSync(ctx, records("franz", 0, count, 7)...).FirstErr())

	consumer, err := kgo.NewClient(kgo.SeedBrokers(bootstrap()), kgo.ConsumeTopics(topic), kgo.ConsumerGroup("franz"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	t.Cleanup(consumer.Close)
	var got, want []sdk.Record
	for len(got) < count {
		fetches := consumer.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			require.Equal(t, murmur2(string(r.Key)), r.Partition)
			got = append(got, sdk.Record{Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Value: string(r.Value)})
		})
	}
	for _, r := range records("franz", 0, count, 7) {
		want = append(want, sdk.Record{Key: string(r.Key), Value: string(r.Value)})
	}
	requireOnce(t, want, got)
	require.NoError(t, consumer.CommitUncommittedOffsets(ctx))
	require.Equal(t, int64(count), committed(t, "franz", topic))
}

// A connectMember is a member of a group by the Connect API, with generated code only.
type connectMember struct {
	t    *testing.T
	done chan error
	stop context.CancelFunc

	mu       sync.Mutex
	got      []sdk.Record
	assigned map[int32]bool
	stream   *connect.BidiStreamForClientSimple[braidv1.ConsumeRequest, braidv1.ConsumeResponse]
}

func subscribe(t *testing.T, url, group, topic string) *connectMember {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	m := &connectMember{t: t, done: make(chan error, 1), stop: cancel, assigned: make(map[int32]bool)}
	stream, err := braidv1connect.NewConsumerServiceClient(shared.Client, url).Consume(ctx)
	require.NoError(t, err)
	m.stream = stream
	require.NoError(t, m.stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: &braidv1.Subscribe{
		Group: group, Topics: []string{topic}, ClientId: "connect-go",
		Fallback: &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}},
	}}}))
	go func() { m.done <- m.run(topic) }()
	t.Cleanup(cancel)
	return m
}

func (m *connectMember) run(topic string) error {
	var read, commit int64
	closed := false
	for {
		response, err := m.stream.Receive()
		if errors.Is(err, io.EOF) && closed {
			return nil
		}
		if err != nil {
			return err
		}
		switch f := response.GetFrame().(type) {
		case *braidv1.ConsumeResponse_Assignment:
			err = m.assign(f.Assignment)
		case *braidv1.ConsumeResponse_Records:
			b := f.Records
			m.mu.Lock()
			for _, r := range b.GetRecords() {
				m.got = append(m.got, sdk.Record{Partition: b.GetPartition(), Offset: r.GetOffset(), Key: string(r.GetKey()), Value: string(r.GetValue())})
			}
			m.mu.Unlock()
			read += int64(len(b.GetRecords()))
			commit++
			err = errors.Join(
				m.stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Commit{Commit: &braidv1.Commit{
					CommitId: commit, Offsets: []*braidv1.PartitionOffset{{Topic: topic, Partition: b.GetPartition(), Offset: b.GetNextOffset()}},
				}}}),
				m.stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Credit{Credit: &braidv1.Credit{MaxRecords: 1000 + read, MaxBytes: 8<<20 + 4096*read}}}))
		case *braidv1.ConsumeResponse_CommitResult:
			for _, failure := range f.CommitResult.GetFailures() {
				err = errors.Join(err, errors.New(failure.GetFailure().GetMessage()))
			}
		case *braidv1.ConsumeResponse_Closed:
			closed = true
		}
		if err != nil {
			return err
		}
	}
}

func (m *connectMember) assign(u *braidv1.AssignmentUpdate) error {
	m.mu.Lock()
	for _, a := range u.GetAssigned() {
		m.assigned[a.GetPartition()] = true
	}
	for _, gone := range [][]*braidv1.TopicPartition{u.GetRevoking(), u.GetLost()} {
		for _, p := range gone {
			delete(m.assigned, p.GetPartition())
		}
	}
	m.mu.Unlock()
	if len(u.GetRevoking()) == 0 {
		return nil
	}
	return m.stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Revoked{Revoked: &braidv1.Revoked{
		MemberEpoch: u.GetMemberEpoch(), Partitions: u.GetRevoking(),
	}}})
}

func (m *connectMember) partitions() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.assigned)
}

func (m *connectMember) records() []sdk.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]sdk.Record(nil), m.got...)
}

// leave ends the membership and waits for the stream's last frame.
func (m *connectMember) leave() {
	m.t.Helper()
	require.NoError(m.t, m.stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Leave{Leave: &braidv1.Leave{}}}))
	require.NoError(m.t, m.stream.CloseRequest())
	select {
	case err := <-m.done:
		require.NoError(m.t, err)
	case <-time.After(30 * time.Second):
		require.FailNow(m.t, "the stream does not end")
	}
}

func testConnectGo(t *testing.T) {
	topic := newTopic(t)
	const count = 300
	want := produceByConnect(t, topic, count)
	requireOnce(t, want, readAll(t, topic, count))

	member := subscribe(t, shared.Gateways[1].URL(), "connect-go", topic)
	require.Eventually(t, func() bool { return len(member.records()) >= count }, 30*time.Second, 20*time.Millisecond)
	member.leave()
	requireOnce(t, want, member.records())
	requireCommitted(t, "connect-go", topic, count)
}

// produceByConnect writes records on one idempotent stream, pipelined.
func produceByConnect(t *testing.T, topic string, count int) []sdk.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := braidv1connect.NewProducerServiceClient(shared.Client, shared.Gateways[0].URL()).Produce(ctx)
	require.NoError(t, err)
	require.NoError(t, stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{ClientId: "connect-go"}}}))
	response, err := stream.Receive()
	require.NoError(t, err)
	credit := response.GetOpened().GetCredit().GetMaxBatches()
	require.Positive(t, credit)

	var want []sdk.Record
	const size = 20
	frames, acked, closed := 0, 0, false
	send := func() {
		for ; frames*size < count && int64(frames) < credit; frames++ {
			batch := &braidv1.ProduceFrame{BatchSeq: uint64(frames + 1), Topic: topic}
			for _, r := range records("connect-go", frames*size, size, 7) {
				batch.Records = append(batch.Records, &braidv1.Record{Key: r.Key, Value: r.Value})
				want = append(want, sdk.Record{Key: string(r.Key), Value: string(r.Value)})
			}
			require.NoError(t, stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: batch}}))
		}
	}
	send()
	for {
		response, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		switch f := response.GetFrame().(type) {
		case *braidv1.ProduceResponse_Credit:
			credit = f.Credit.GetMaxBatches()
		case *braidv1.ProduceResponse_Acks:
			for _, ack := range f.Acks.GetAcks() {
				for _, r := range ack.GetResults() {
					require.Nil(t, r.GetFailure())
					acked += int(r.GetRecordCount())
				}
			}
			if acked == count {
				require.NoError(t, stream.CloseRequest())
			}
		case *braidv1.ProduceResponse_Closed:
			closed = true
		}
		send()
	}
	require.True(t, closed, "the stream's last frame")
	require.Equal(t, count, acked)
	return want
}
