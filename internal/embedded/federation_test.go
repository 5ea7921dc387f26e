package embedded_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
)

// patience bounds every wait of these tests.
const patience = 40 * time.Second

// start starts a federation whose logs are the test's.
func start(t *testing.T, o embedded.Options) *embedded.Federation {
	t.Helper()
	if testing.Verbose() {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	return embedded.New(t, o)
}

// createTopic creates a topic through the admin API.
func createTopic(t *testing.T, f *embedded.Federation, name string, partitions int32) {
	t.Helper()
	topics := adminv1connect.NewTopicServiceClient(f.Client, f.APIURL())
	_, err := topics.CreateTopic(t.Context(), &adminv1.CreateTopicRequest{TopicId: name, Topic: &adminv1.Topic{PartitionCount: partitions}})
	require.NoError(t, err)
}

func kafka(t *testing.T, f *embedded.Federation, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(f.KafkaAddresses()...), kgo.MetadataMinAge(50 * time.Millisecond)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

// physical returns how many records each cluster holds.
func physical(t *testing.T, f *embedded.Federation) map[string]int64 {
	t.Helper()
	counts := make(map[string]int64)
	for _, c := range f.Clusters() {
		client, err := kgo.NewClient(kgo.SeedBrokers(c.Seeds...))
		require.NoError(t, err)
		offsets, err := kadm.NewClient(client).ListEndOffsets(t.Context())
		client.Close()
		require.NoError(t, err)
		offsets.Each(func(o kadm.ListedOffset) {
			if !strings.HasPrefix(o.Topic, "default.braid-") { // braid's own
				counts[c.Name] += o.Offset
			}
		})
	}
	return counts
}

func TestKafkaClientsWriteAndReadOverTwoClusters(t *testing.T) {
	f := start(t, embedded.Options{Gateways: 2})
	createTopic(t, f, "orders", 4)
	client := kafka(t, f, kgo.DefaultProduceTopic("orders"), kgo.ConsumeTopics("orders"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const n = 400
	for i := range n {
		client.Produce(ctx, &kgo.Record{Key: fmt.Append(nil, "k", i%16), Value: fmt.Append(nil, i)}, nil)
	}
	require.NoError(t, client.Flush(ctx))
	last := make(map[string]int)
	for total := 0; total < n; {
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			total++
			v, err := strconv.Atoi(string(r.Value))
			require.NoError(t, err)
			before, seen := last[string(r.Key)]
			require.True(t, !seen || v > before, "key %s: %d after %d", r.Key, v, before)
			last[string(r.Key)] = v
		})
	}
	require.Len(t, last, 16)
	counts := physical(t, f)
	require.Positive(t, counts["a"])
	require.Positive(t, counts["b"])
	require.EqualValues(t, n, counts["a"]+counts["b"])
}

// A seen collects what the members of a group read.
type seen struct {
	mu    sync.Mutex // guards the following
	count map[string]int
}

func (s *seen) add(r *kgo.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count[string(r.Value)]++
}

func (s *seen) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.count)
}

// twice returns what was read more than once.
func (s *seen) twice() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range slices.Sorted(maps.Keys(s.count)) {
		if s.count[v] > 1 {
			all = append(all, v)
		}
	}
	return all
}

// join makes a member of a group, which reads until the test ends. Its rebalances
// are counted.
func (s *seen) join(t *testing.T, f *embedded.Federation, group, topic string, onAssign func()) {
	t.Helper()
	client := kafka(t, f, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.HeartbeatInterval(200*time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) { onAssign() }))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			client.PollFetches(ctx).EachRecord(s.add)
		}
	}()
}

func TestGroupsGoOnWhenTheirGatewayDies(t *testing.T) {
	f := start(t, embedded.Options{Gateways: 3})
	createTopic(t, f, "orders", 6)
	s := &seen{count: make(map[string]int)}
	var assignments sync.WaitGroup
	var mu sync.Mutex
	rebalances := 0
	assignments.Add(2)
	for range 2 {
		var once sync.Once
		s.join(t, f, "billing", "orders", func() {
			once.Do(assignments.Done)
			mu.Lock()
			rebalances++
			mu.Unlock()
		})
	}
	assignments.Wait()
	producer := kafka(t, f, kgo.DefaultProduceTopic("orders"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	send := func(from, to int) {
		for i := from; i < to; i++ {
			require.NoError(t, producer.ProduceSync(ctx, &kgo.Record{Key: fmt.Append(nil, i), Value: fmt.Append(nil, i)}).FirstErr())
		}
	}
	send(0, 200)
	require.Eventually(t, func() bool { return s.len() == 200 }, patience, 10*time.Millisecond)
	mu.Lock()
	before := rebalances
	mu.Unlock()

	coordinator := groupCoordinator(t, f, "billing")
	f.KillGateway(coordinator)
	send(200, 400)
	require.Eventually(t, func() bool { return s.len() == 400 }, patience, 10*time.Millisecond, "read %d of 400", s.len())
	require.Empty(t, s.twice())
	mu.Lock()
	require.Equal(t, before, rebalances, "a gateway that dies hands its groups over without a rebalance")
	mu.Unlock()
	require.NotEqual(t, coordinator, groupCoordinator(t, f, "billing"))
}

// groupCoordinator returns the index of the gateway that coordinates a group.
func groupCoordinator(t *testing.T, f *embedded.Federation, group string) int {
	t.Helper()
	client := adminv1connect.NewGroupServiceClient(f.Client, f.APIURL())
	var id string
	require.Eventually(t, func() bool {
		resp, err := client.GetGroup(t.Context(), &adminv1.GetGroupRequest{Name: "logicalClusters/default/groups/" + group})
		id = resp.GetGroup().GetCoordinator()
		return err == nil && id != ""
	}, patience, 20*time.Millisecond)
	return slices.IndexFunc(f.Gateways(), func(n *embedded.Node) bool { return n.ID() == id })
}

func TestClientsDoNotNoticeThatTheLeadingControllerDies(t *testing.T) {
	f := start(t, embedded.Options{Controllers: 2, Gateways: 2})
	createTopic(t, f, "orders", 4)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := kafka(t, f, kgo.DefaultProduceTopic("orders"), kgo.ConsumeTopics("orders"))
	write := func(n int) {
		for i := range n {
			require.NoError(t, client.ProduceSync(ctx, &kgo.Record{Value: fmt.Append(nil, i)}).FirstErr())
		}
	}
	write(50)
	leader := leadingController(t, f)
	f.KillController(leader)
	write(50)
	total := 0
	for total < 100 {
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		total += fetches.NumRecords()
	}
	// The other one takes over, also for admin calls of Kafka clients.
	created, err := kadm.NewClient(client).CreateTopic(ctx, 2, 1, nil, "later")
	require.NoError(t, err)
	require.NoError(t, created.Err)
	require.NotEqual(t, leader, leadingController(t, f))
	require.NoError(t, f.AwaitReady(ctx))
}

// leadingController returns the index of the controller that leads.
func leadingController(t *testing.T, f *embedded.Federation) int {
	t.Helper()
	client := adminv1connect.NewFleetServiceClient(f.Client, f.APIURL())
	leader := -1
	require.Eventually(t, func() bool {
		status, err := client.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
		if err != nil {
			return false
		}
		for _, c := range status.GetControllers() {
			if c.GetLeader() {
				leader = slices.IndexFunc(f.Controllers(), func(n *embedded.Node) bool { return n.ID() == c.GetId() })
			}
		}
		return leader >= 0
	}, patience, 20*time.Millisecond)
	return leader
}

func TestGatewayThatStopsHandsOverAndLeavesTheFleet(t *testing.T) {
	f := start(t, embedded.Options{Gateways: 2})
	createTopic(t, f, "orders", 4)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := kafka(t, f, kgo.DefaultProduceTopic("orders"))
	require.NoError(t, client.ProduceSync(ctx, kgo.StringRecord("before")).FirstErr())
	begin := time.Now()
	require.NoError(t, f.StopGateway(0))
	require.Less(t, time.Since(begin), 10*time.Second)
	require.NoError(t, client.ProduceSync(ctx, kgo.StringRecord("after")).FirstErr())
	resp, err := adminv1connect.NewFleetServiceClient(f.Client, f.APIURL()).ListGateways(ctx, &adminv1.ListGatewaysRequest{})
	require.NoError(t, err)
	require.Len(t, resp.GetGateways(), 1)
	require.Equal(t, "gateways/"+f.Gateway(1).ID(), resp.GetGateways()[0].GetName())
}

func TestTakenPortIsNamedWithItsFlag(t *testing.T) {
	f := start(t, embedded.Options{})
	_, err := embedded.Start(t.Context(), embedded.Options{Configure: func(c *process.Config, _ int) {
		if c.Role == process.Gateway {
			c.KafkaListen = f.Gateway(0).KafkaAddress()
		}
	}})
	require.ErrorContains(t, err, "cannot listen on "+f.Gateway(0).KafkaAddress())
	require.ErrorContains(t, err, "--kafka-listen")
}

func TestDataDirKeepsTopicsAndRecords(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	first, err := embedded.Start(ctx, embedded.Options{DataDir: dir})
	require.NoError(t, err)
	createTopic(t, first, "orders", 4)
	client := kafka(t, first, kgo.DefaultProduceTopic("orders"))
	require.NoError(t, client.ProduceSync(ctx, kgo.StringRecord("kept")).FirstErr())
	client.Close()
	require.NoError(t, first.Close())

	second := start(t, embedded.Options{DataDir: dir})
	client = kafka(t, second, kgo.ConsumeTopics("orders"))
	fetches := client.PollFetches(ctx)
	require.NoError(t, fetches.Err())
	require.Equal(t, "kept", string(fetches.Records()[0].Value))
}
