package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	namingv1 "github.com/braidmq/braid/gen/braid/naming/v1"
	"github.com/braidmq/braid/gen/braid/naming/v1/namingv1connect"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/internal/embedded"
)

// write writes values by a Connect stream and returns how many were acknowledged.
func write(t *testing.T, f *embedded.Federation, topic string, values []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := braidv1connect.NewProducerServiceClient(f.Client, f.APIURL()).Produce(ctx)
	require.NoError(t, err)
	require.NoError(t, stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{}}}))
	for i, v := range values {
		frame := &braidv1.ProduceFrame{BatchSeq: uint64(i + 1), Topic: topic, Records: []*braidv1.Record{{Key: []byte(v), Value: []byte(v)}}}
		require.NoError(t, stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: frame}}))
	}
	require.NoError(t, stream.CloseRequest())
	written := 0
	for {
		msg, err := stream.Receive()
		require.NoError(t, err)
		for _, ack := range msg.GetAcks().GetAcks() {
			for _, r := range ack.GetResults() {
				require.Nil(t, r.GetFailure())
				written += int(r.GetRecordCount())
			}
		}
		if msg.GetClosed() != nil {
			break
		}
	}
	require.Equal(t, len(values), written)
}

// A streamMember is a Connect member of a group.
type streamMember struct {
	stream *connect.BidiStreamForClientSimple[braidv1.ConsumeRequest, braidv1.ConsumeResponse]

	mu    sync.Mutex // guards the following, and Send
	owned map[int32]bool
	moved int // assignment changes
	next  map[int32]int64
}

func (m *streamMember) partitions() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.owned)
}

func (m *streamMember) send(r *braidv1.ConsumeRequest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stream.Send(r)
}

// joinStream makes a Connect member at a gateway; it reads until the test ends.
func (s *seen) joinStream(t *testing.T, f *embedded.Federation, at *embedded.Node, group, topic string) *streamMember {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := braidv1connect.NewConsumerServiceClient(f.Client, at.URL()).Consume(ctx)
	require.NoError(t, err)
	m := &streamMember{stream: stream, owned: make(map[int32]bool), next: make(map[int32]int64)}
	subscribe := &braidv1.Subscribe{
		Group: group, Topics: []string{topic}, Fallback: &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}},
		Credit: &braidv1.Credit{MaxRecords: 1 << 40, MaxBytes: 1 << 50},
	}
	require.NoError(t, m.send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: subscribe}}))
	done := make(chan error, 1)
	go func() { done <- m.run(s) }()
	t.Cleanup(func() {
		cancel()
		_ = stream.CloseRequest() // net/http looks at the context only when the request's body has ended
		if err := <-done; err != nil && !errors.Is(err, io.EOF) && connect.CodeOf(err) != connect.CodeCanceled {
			t.Errorf("member: %v", err)
		}
	})
	return m
}

func (m *streamMember) run(s *seen) error {
	for {
		msg, err := m.stream.Receive()
		if err != nil {
			return err
		}
		switch f := msg.GetFrame().(type) {
		case *braidv1.ConsumeResponse_Assignment:
			err = m.assign(f.Assignment)
		case *braidv1.ConsumeResponse_Records:
			for _, r := range f.Records.GetRecords() {
				s.add(&kgo.Record{Value: r.GetValue()})
			}
			m.mu.Lock()
			m.next[f.Records.GetPartition()] = f.Records.GetNextOffset()
			m.mu.Unlock()
		case *braidv1.ConsumeResponse_PartitionFailure:
			err = fmt.Errorf("partition %d: %s", f.PartitionFailure.GetPartition(), f.PartitionFailure.GetFailure().GetMessage())
		case *braidv1.ConsumeResponse_Closed:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (m *streamMember) assign(u *braidv1.AssignmentUpdate) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moved++
	for _, a := range u.GetAssigned() {
		m.owned[a.GetPartition()] = true
	}
	for _, l := range u.GetLost() {
		delete(m.owned, l.GetPartition())
	}
	if len(u.GetRevoking()) == 0 {
		return nil
	}
	commit := &braidv1.Commit{CommitId: int64(m.moved)}
	for _, r := range u.GetRevoking() {
		delete(m.owned, r.GetPartition())
		if next, ok := m.next[r.GetPartition()]; ok {
			commit.Offsets = append(commit.Offsets, &braidv1.PartitionOffset{Topic: r.GetTopic(), Partition: r.GetPartition(), Offset: next})
		}
	}
	if len(commit.GetOffsets()) > 0 {
		if err := m.stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Commit{Commit: commit}}); err != nil {
			return err
		}
	}
	return m.stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Revoked{Revoked: &braidv1.Revoked{MemberEpoch: u.GetMemberEpoch(), Partitions: u.GetRevoking()}}})
}

func numbers(from, to int) []string {
	var all []string
	for i := from; i < to; i++ {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

func TestConnectAndKafkaMembersShareAGroupOverAllGateways(t *testing.T) {
	f := start(t, embedded.Options{Gateways: 3})
	createTopic(t, f, "orders", 6)
	s := &seen{count: make(map[string]int)}
	// One member at each gateway, so two of three are not where their group is.
	var members []*streamMember
	for _, g := range f.Gateways() {
		members = append(members, s.joinStream(t, f, g, "billing", "orders"))
	}
	require.Eventually(t, func() bool {
		return members[0].partitions() == 2 && members[1].partitions() == 2 && members[2].partitions() == 2
	}, patience, 10*time.Millisecond)
	write(t, f, "orders", numbers(0, 300))
	require.Eventually(t, func() bool { return s.len() == 300 }, patience, 10*time.Millisecond)

	// A Kafka SDK takes its share.
	assigned := make(chan struct{})
	var once sync.Once
	s.join(t, f, "billing", "orders", func() { once.Do(func() { close(assigned) }) })
	select {
	case <-assigned:
	case <-time.After(patience):
		t.Fatal("the Kafka member got nothing")
	}
	require.Eventually(t, func() bool {
		total := 0
		for _, m := range members {
			total += m.partitions()
		}
		return total < 6
	}, patience, 10*time.Millisecond)
	write(t, f, "orders", numbers(300, 600))
	require.Eventually(t, func() bool { return s.len() == 600 }, patience, 10*time.Millisecond)
	require.Empty(t, s.twice())
}

func TestNameServiceAndGatewaysGiveTheSameAnswer(t *testing.T) {
	f := start(t, embedded.Options{Gateways: 3, NameServers: 1})
	createTopic(t, f, "orders", 12)
	urls := []string{f.NameServers()[0].URL()}
	kafkas := []string{f.NameServers()[0].BootstrapAddress()}
	for _, g := range f.Gateways() {
		urls, kafkas = append(urls, g.URL()), append(kafkas, g.KafkaAddress())
	}
	for n := range 5 {
		query := &namingv1.ResolveRequest{ClientId: fmt.Sprintf("client-%d", n), Protocol: namingv1.Protocol_PROTOCOL_KAFKA}
		var first *namingv1.ResolveResponse
		for _, u := range urls {
			resp, err := namingv1connect.NewNameServiceClient(f.Client, u).Resolve(t.Context(), query)
			require.NoError(t, err)
			if first == nil {
				first = resp
			}
			require.Equal(t, first.GetEndpoints(), resp.GetEndpoints(), u)
		}
		require.Len(t, first.GetEndpoints(), 3)
		want := metadataOf(t, kafkas[0], query.GetClientId())
		for _, k := range kafkas[1:] {
			require.Equal(t, want, metadataOf(t, k, query.GetClientId()))
		}
	}
}

// metadataOf asks one address for metadata, and returns brokers and leaders.
func metadataOf(t *testing.T, address, clientID string) string {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.ClientID(clientID))
	require.NoError(t, err)
	defer client.Close()
	req := kmsgMetadata("orders")
	resp, err := client.SeedBrokers()[0].Request(t.Context(), req)
	require.NoError(t, err)
	return metadataText(t, resp)
}

func TestBootstrapSendsKafkaClientsToTheirGateways(t *testing.T) {
	f := start(t, embedded.Options{Gateways: 2, NameServers: 1})
	createTopic(t, f, "orders", 4)
	client, err := kgo.NewClient(kgo.SeedBrokers(f.NameServers()[0].BootstrapAddress()), kgo.DefaultProduceTopic("orders"),
		kgo.ConsumerGroup("g"), kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range 20 {
		require.NoError(t, client.ProduceSync(ctx, &kgo.Record{Key: fmt.Append(nil, i), Value: fmt.Append(nil, i)}).FirstErr())
	}
	for total := 0; total < 20; {
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		total += fetches.NumRecords()
	}
	require.NoError(t, client.CommitUncommittedOffsets(ctx))
}
