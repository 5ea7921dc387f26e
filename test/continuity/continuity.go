// Package continuity runs producers with keyed counters and a group whose
// members come and go, through both doors, while a gateway is killed and started
// again and heads move between clusters, and then reads the whole log: nothing lost, nothing double, every key
// in order, one value at each offset.
package continuity

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/braidmq/braid/test/check"
	"github.com/braidmq/braid/test/world"
)

// Size of a run.
const (
	topic      = "continuity"
	group      = "continuity"
	partitions = 6
	keys       = 17
	pace       = 2 * time.Millisecond // between two records of a producer
	catchUp    = time.Minute          // for the group, when the producers have ended
	movePause  = 2 * time.Second      // between two commands that move heads, at most
)

// A run collects what clients saw.
type run struct {
	t *testing.T
	w *world.World
	// live are base URLs and Kafka addresses of all gateways, dead ones too: clients
	// find out by themselves.
	urls, kafka []string

	mu    sync.Mutex
	acked []check.Value
	reads []check.Record
	seen  map[at]bool
	errs  []error
}

type at struct {
	partition int32
	offset    int64
}

// Options are the world that Run needs. Moves wait for the lease of the gateway
// that is killed, so it is short.
func Options() world.Options {
	return world.Options{Gateways: 3, GatewayLease: 6 * time.Second}
}

// Run runs for a duration, and until each kind of move has happened, and checks
// what is left. Without moves it is about the gateway alone.
func Run(t *testing.T, w *world.World, duration time.Duration, moves bool) {
	r := &run{t: t, w: w, seen: make(map[at]bool)}
	for _, g := range w.Gateways {
		r.urls, r.kafka = append(r.urls, g.URL()), append(r.kafka, g.Kafka)
	}
	w.MustBraid(t, "", "topic", "create", topic, "--partitions", strconv.Itoa(partitions))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	producing, stop := context.WithCancel(ctx)
	defer stop()
	var mover sync.WaitGroup
	moved := make(chan struct{})
	if moves {
		third := w.StartCluster("third")
		mover.Go(func() { r.moveHeads(producing, third, min(duration/8, movePause), moved) })
	} else {
		close(moved)
	}
	go func() {
		wait(ctx, duration)
		<-moved
		stop()
	}()
	var producers, members sync.WaitGroup
	for i := range 2 {
		producers.Go(func() { r.kafkaProducer(producing, fmt.Sprint("kafka-", i)) })
		producers.Go(func() { r.batchProducer(producing, fmt.Sprint("batch-", i), int32(i)) })
		producers.Go(func() { r.streamProducer(producing, fmt.Sprint("stream-", i), i) })
	}
	consuming, end := context.WithCancel(ctx)
	defer end()
	members.Go(func() { r.kafkaMember(consuming, 0) })
	members.Go(func() { r.kafkaMember(consuming, duration/5) })
	members.Go(func() { r.connectMember(consuming, 0, 1) })
	members.Go(func() { r.connectMember(consuming, duration/4, 2) })

	r.killOne(producing, duration)
	producers.Wait()
	mover.Wait()
	log := r.readLog()
	r.awaitGroup(len(log))
	end()
	members.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Empty(t, r.errs, "errors at applications")
	report := check.Audit(log, r.acked, r.reads)
	t.Logf("%s continuity run, a gateway killed, %d heads moved: %s", duration, r.movedHeads(), report)
	require.NoError(t, report.Err())
	require.NotZero(t, report.Acknowledged)
}

// killOne kills the first gateway in the middle and starts it again.
func (r *run) killOne(ctx context.Context, duration time.Duration) {
	victim := r.w.Gateways[0]
	wait(ctx, duration/3)
	victim.Kill()
	wait(ctx, duration/3)
	if err := victim.Start(); err != nil {
		r.fail(err)
	}
}

// wait returns after a duration, or when the context ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (r *run) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.errs) < 20 {
		r.errs = append(r.errs, err)
	}
}

func (r *run) ack(v ...check.Value) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acked = append(r.acked, v...)
}

func (r *run) read(partition int32, offset int64, key, value []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads = append(r.reads, check.Record{Partition: partition, Offset: offset, Key: string(key), Value: string(value)})
	r.seen[at{partition, offset}] = true
}

// kafkaProducer is franz-go with its defaults: idempotent, retrying by itself.
func (r *run) kafkaProducer(ctx context.Context, name string) {
	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka...), kgo.DefaultProduceTopic(topic))
	if err != nil {
		r.fail(err)
		return
	}
	defer client.Close()
	c := counters{producer: name}
	for ctx.Err() == nil {
		v := c.next()
		client.Produce(context.WithoutCancel(ctx), &kgo.Record{Key: []byte(v.Key), Value: []byte(v.String())}, func(_ *kgo.Record, err error) {
			if err != nil {
				r.fail(fmt.Errorf("%s: %w", name, err))
				return
			}
			r.ack(v)
		})
		wait(ctx, pace)
	}
	if err := client.Flush(context.WithoutCancel(ctx)); err != nil {
		r.fail(err)
	}
}

// counters make a producer's values.
type counters struct {
	producer string
	at       int
	last     [keys]int
}

func (c *counters) next() check.Value {
	k := c.at % keys
	c.at++
	c.last[k]++
	return check.Value{Producer: c.producer, Key: fmt.Sprint("k", k), Number: c.last[k]}
}

// kafkaMember is a member that leaves and comes back after each stay; 0 = it stays.
func (r *run) kafkaMember(ctx context.Context, stay time.Duration) {
	for ctx.Err() == nil {
		life, end := ctx, context.CancelFunc(func() {})
		if stay > 0 {
			life, end = context.WithTimeout(ctx, stay)
		}
		r.kafkaLife(life)
		end()
		wait(ctx, stay/3)
	}
}

func (r *run) kafkaLife(ctx context.Context) {
	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitInterval(500*time.Millisecond))
	if err != nil {
		r.fail(err)
		return
	}
	defer client.Close()
	for ctx.Err() == nil {
		// Errors of a poll are told for information: the client goes on by itself.
		client.PollFetches(ctx).EachRecord(func(k *kgo.Record) { r.read(k.Partition, k.Offset, k.Key, k.Value) })
	}
}

// readLog reads every partition from its beginning to its end.
func (r *run) readLog() []check.Record {
	r.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(r.t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), catchUp)
	defer cancel()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	require.NoError(r.t, err)
	require.NoError(r.t, ends.Error())
	left := 0
	ends.Each(func(o kadm.ListedOffset) { left += int(o.Offset) })
	var log []check.Record
	for len(log) < left {
		fetches := client.PollFetches(ctx)
		require.NoError(r.t, ctx.Err(), "read %d of %d records of the log", len(log), left)
		fetches.EachRecord(func(k *kgo.Record) {
			log = append(log, check.Record{Partition: k.Partition, Offset: k.Offset, Key: string(k.Key), Value: string(k.Value)})
		})
	}
	return log
}

// awaitGroup waits until the group has read as many different offsets.
func (r *run) awaitGroup(count int) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.seen) >= count
	}, catchUp, 50*time.Millisecond, "the group reads all of the log")
}
