package embedded_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
	"github.com/braidmq/braid/test/check"
)

var garbageSeed = flag.Uint64("garbage-seed", 0, "what TestBrokersThatAnswerGarbage begins with; 0 = any")

const (
	// garbageTime is for how long each kind of garbage is answered, at the least, and
	// garbageLeast how many answers are replaced, and records of the other topic taken.
	garbageTime  = 600 * time.Millisecond
	garbageLeast = 3
	// garbageHeapMax bounds what the whole federation, its clients and clusters hold: some
	// connections to brokers with an announced answer of 100 MiB each.
	garbageHeapMax = 1 << 30
)

// TestBrokersThatAnswerGarbage has the brokers of one cluster of two answer all kinds of
// garbage, one after the other, to half of what gateways and controller ask. Nobody
// crashes or grows; the other cluster's topic goes on without an error; what was
// acknowledged is there once and in order, and readers see that and nothing else; and as
// soon as the brokers answer well again, everything goes on.
func TestBrokersThatAnswerGarbage(t *testing.T) {
	seed := *garbageSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-garbage-seed=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	g := &garbler{rnd: rand.New(rand.NewPCG(seed, 1)), addresses: make(map[string]bool)}
	o := embedded.Options{Gateways: 2, Dial: g.dial, Configure: func(c *process.Config, _ int) {
		c.Upstream.RequestTimeout = 2 * time.Second // what is announced and does not come is waited for so long
	}}
	for _, name := range []string{"a", "b"} {
		k, err := embedded.StartKafka(embedded.KafkaOptions{Name: name, Brokers: 2})
		require.NoError(t, err)
		t.Cleanup(k.Close)
		o.Clusters = append(o.Clusters, embedded.Cluster{Name: name, Seeds: k.Seeds()})
	}
	for _, address := range o.Clusters[0].Seeds {
		g.addresses[address] = true
	}
	f := start(t, o)
	topicOn(t, f, "both", 4, "a", "b")
	topicOn(t, f, "well", 2, "b")
	both, well := newTraffic(t, f, "both"), newTraffic(t, f, "well")
	heap := watchHeap(t)

	for i, at := range rnd.Perm(len(garbageKinds)) {
		kind := &garbageKinds[at]
		t.Run(kind.name, func(t *testing.T) {
			before, made := well.acknowledged(), g.made.Load()
			g.garble(kind)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			askAdmin(ctx, t, f, i)
			<-time.After(garbageTime)
			require.Eventually(t, func() bool { return g.made.Load() >= made+garbageLeast }, patience, 10*time.Millisecond, "answers are replaced")
			require.Eventually(t, func() bool { return well.acknowledged() >= before+garbageLeast }, patience, 10*time.Millisecond, "the topic of the other cluster goes on")
			g.garble(nil)
			require.Empty(t, well.failures())
			healed := time.Now()
			both.flushed(t)
			topicOn(t, f, fmt.Sprintf("after-%d", i), 1, "a")
			t.Logf("%d answers replaced, %s until all was well", g.made.Load()-made, time.Since(healed).Round(time.Millisecond))
		})
	}
	for _, w := range []*traffic{both, well} {
		w.audit(t)
	}
	require.Less(t, heap(), uint64(garbageHeapMax))
	require.NoError(t, f.AwaitReady(t.Context()))
}

// topicOn creates a topic over some clusters, as soon as they answer.
func topicOn(t *testing.T, f *embedded.Federation, name string, partitions int32, clusters ...string) {
	t.Helper()
	for i, c := range clusters {
		clusters[i] = "physicalClusters/" + c
	}
	req := &adminv1.CreateTopicRequest{TopicId: name, Topic: &adminv1.Topic{PartitionCount: partitions, Placement: &adminv1.PlacementPolicy{PhysicalClusters: clusters}}}
	var err error
	require.Eventually(t, func() bool {
		_, err = adminv1connect.NewTopicServiceClient(f.Client, f.APIURL()).CreateTopic(t.Context(), req)
		return err == nil
	}, patience, 50*time.Millisecond, "topic %s", name)
}

// askAdmin has gateways and controller ask the cluster for all that they may ask it.
func askAdmin(ctx context.Context, t *testing.T, f *embedded.Federation, i int) {
	t.Helper()
	var asking sync.WaitGroup
	client := kafka(t, f)
	admin := kadm.NewClient(client)
	for _, ask := range []func(){
		func() {
			topics := adminv1connect.NewTopicServiceClient(f.Client, f.APIURL())
			_, _ = topics.CreateTopic(ctx, &adminv1.CreateTopicRequest{TopicId: fmt.Sprintf("during-%d", i), Topic: &adminv1.Topic{PartitionCount: 2}})
		},
		func() { _, _ = admin.ListStartOffsets(ctx, "both") },
		func() { _, _ = admin.ListEndOffsets(ctx, "both") },
		func() { _, _ = admin.ListOffsetsAfterMilli(ctx, 1, "both") },
		func() { _, _ = admin.DescribeTopicConfigs(ctx, "both") },
		func() { _, _ = admin.DescribeAllLogDirs(ctx, nil) },
		func() {
			_, _ = adminv1connect.NewFleetServiceClient(f.Client, f.APIURL()).GetStatus(ctx, &adminv1.GetStatusRequest{})
		},
		func() {
			_, _ = adminv1connect.NewClusterServiceClient(f.Client, f.APIURL()).ListClusters(ctx, &adminv1.ListClustersRequest{})
		},
	} {
		asking.Go(ask)
	}
	t.Cleanup(asking.Wait)
}

// watchHeap returns how much the heap had at most.
func watchHeap(t *testing.T) func() uint64 {
	t.Helper()
	var most atomic.Uint64
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most.Store(max(most.Load(), m.HeapAlloc))
			<-tick.C
		}
	})
	t.Cleanup(func() { cancel(); watching.Wait() })
	return most.Load
}

// Traffic is what an idempotent producer writes to a topic and what a group and a Read
// stream get of it.
type traffic struct {
	f     *embedded.Federation
	topic string

	writing sync.Mutex // held while a record is given to the client
	client  *kgo.Client

	mu     sync.Mutex // guards the following
	acked  []check.Value
	failed map[string]int // errors of producer and reader
	reads  []check.Record
}

func newTraffic(t *testing.T, f *embedded.Federation, topic string) *traffic {
	t.Helper()
	w := &traffic{f: f, topic: topic, failed: make(map[string]int)}
	w.client = kafka(t, f, kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(0))
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	t.Cleanup(func() { cancel(); working.Wait() })
	working.Go(func() { w.write(ctx) })
	reader := kafka(t, f, kgo.ConsumerGroup("readers-of-"+topic), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	working.Go(func() { w.read(ctx, reader) })
	working.Go(func() { w.stream(ctx) })
	return w
}

func (w *traffic) write(ctx context.Context) {
	tick := time.NewTicker(4 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		v := check.Value{Producer: "p", Key: fmt.Sprintf("k%d", n%16), Number: n / 16}
		w.writing.Lock()
		w.client.Produce(ctx, &kgo.Record{Key: []byte(v.Key), Value: []byte(v.String())}, func(_ *kgo.Record, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			switch {
			case err == nil:
				w.acked = append(w.acked, v)
			case ctx.Err() == nil:
				w.failed["write: "+err.Error()]++
			}
		})
		w.writing.Unlock()
		<-tick.C
	}
}

func (w *traffic) read(ctx context.Context, client *kgo.Client) {
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		w.mu.Lock()
		fetches.EachError(func(_ string, _ int32, err error) {
			if ctx.Err() == nil {
				w.failed["read: "+err.Error()]++
			}
		})
		fetches.EachRecord(func(r *kgo.Record) {
			w.reads = append(w.reads, check.Record{Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Value: string(r.Value)})
		})
		w.mu.Unlock()
	}
}

// stream reads all of the topic again whenever a Read stream ends.
func (w *traffic) stream(ctx context.Context) {
	for ctx.Err() == nil {
		source := &braidv1.ReadSource{Topic: w.topic, Start: &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}}}
		stream, err := braidv1connect.NewConsumerServiceClient(w.f.Client, w.f.APIURL()).Read(ctx, &braidv1.ReadRequest{Sources: []*braidv1.ReadSource{source}})
		for err == nil && stream.Receive() && stream.Msg().GetPartitionFailure() == nil {
			records := stream.Msg().GetRecords()
			w.mu.Lock()
			for _, r := range records.GetRecords() {
				w.reads = append(w.reads, check.Record{Partition: records.GetPartition(), Offset: r.GetOffset(), Key: string(r.GetKey()), Value: string(r.GetValue())})
			}
			w.mu.Unlock()
		}
		if err == nil {
			err = stream.Err()
			_ = stream.Close()
		}
		w.mu.Lock()
		if ctx.Err() == nil {
			w.failed[fmt.Sprintf("stream: %v", err)]++
		}
		w.mu.Unlock()
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (w *traffic) acknowledged() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

func (w *traffic) failures() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.failed)
}

// flushed waits until all that was written is acknowledged.
func (w *traffic) flushed(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w.writing.Lock()
	defer w.writing.Unlock()
	require.NoError(t, w.client.Flush(ctx), "topic %s goes on; %v", w.topic, w.failures())
}

// audit compares what was acknowledged, what is in the log and what was read.
func (w *traffic) audit(t *testing.T) {
	t.Helper()
	w.flushed(t)
	w.writing.Lock()
	defer w.writing.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := kafka(t, w.f, kgo.ConsumeTopics(w.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, w.topic)
	require.NoError(t, err)
	total := 0
	ends.Each(func(o kadm.ListedOffset) { total += int(o.Offset) })
	var log []check.Record
	for len(log) < total {
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			log = append(log, check.Record{Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Value: string(r.Value)})
		})
	}
	var report *check.Report
	audited := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		report = check.Audit(log, w.acked, slices.Clone(w.reads))
		return report.Err() == nil
	}
	for end := time.Now().Add(patience); !audited() && time.Now().Before(end); { // readers may be behind
		<-time.After(100 * time.Millisecond)
	}
	require.NoError(t, report.Err(), "topic %s; %v", w.topic, w.failures())
	t.Logf("topic %s: %s", w.topic, report)
}
