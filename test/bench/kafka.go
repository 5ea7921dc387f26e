package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// loadTimeout bounds one load.
const loadTimeout = 5 * time.Minute

// A payload is what a load moves.
type payload struct {
	bytes int64
	size  int // of a record's value
}

func (p payload) records() int64 { return p.bytes / int64(p.size) }

func newClient(seed string, opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(seed), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ClientID("bench")}, opts...)...)
	check(err)
	return cl
}

var topics atomic.Int64

func (b *bench) topicName() string { return fmt.Sprintf("bench-%d", topics.Add(1)) }

// createTopic creates a topic as a Kafka client does.
func (b *bench) createTopic(seed, topic string, partitions int32, replicas int) {
	cl := newClient(seed)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(b.ctx, loadTimeout)
	defer cancel()
	admin := kadm.NewClient(cl)
	_, err := admin.CreateTopic(ctx, partitions, int16(replicas), nil, topic)
	check(err)
	// The broker hears of it from its controller.
	b.await("the topic "+topic, func() bool {
		have, err := admin.ListTopics(ctx, topic)
		check(err)
		led := 0
		for _, p := range have[topic].Partitions {
			if p.Err == nil && p.Leader >= 0 && len(p.ISR) == replicas {
				led++
			}
		}
		return led == int(partitions)
	})
}

// warm makes leaders and connections known before a run is timed.
func (b *bench) warm(seed, topic string) {
	cl := newClient(seed)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(b.ctx, loadTimeout)
	defer cancel()
	for range 20 {
		check(cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("warm")}).FirstErr())
	}
}

func bulkProducer(seed string) *kgo.Client {
	return newClient(seed, kgo.MaxBufferedRecords(100_000), kgo.ProducerBatchMaxBytes(1_000_000),
		kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.ProducerLinger(5*time.Millisecond))
}

// produce writes a payload as fast as it can.
func (b *bench) produce(seed, topic string, l payload) {
	cl := bulkProducer(seed)
	defer cl.Close()
	b.produceWith(cl, topic, l)
}

func (b *bench) produceWith(cl *kgo.Client, topic string, l payload) {
	ctx, cancel := context.WithTimeout(b.ctx, loadTimeout)
	defer cancel()
	var failed firstError
	value := make([]byte, l.size)
	for range l.records() {
		cl.Produce(ctx, &kgo.Record{Topic: topic, Value: value}, failed.note)
	}
	check(cl.Flush(ctx))
	check(failed.err())
}

// producePaced writes a payload at a rate.
func (b *bench) producePaced(cl *kgo.Client, topic string, l payload, bytesPerS int64) {
	const step = 5 * time.Millisecond
	ctx, cancel := context.WithTimeout(b.ctx, loadTimeout)
	defer cancel()
	var failed firstError
	value := make([]byte, l.size)
	tick := time.NewTicker(step)
	defer tick.Stop()
	begin := time.Now()
	for sent := int64(0); sent < l.records(); {
		due := min(int64(time.Since(begin).Seconds()*float64(bytesPerS))/int64(l.size), l.records())
		for ; sent < due; sent++ {
			cl.Produce(ctx, &kgo.Record{Topic: topic, Value: value}, failed.note)
		}
		<-tick.C
	}
	check(cl.Flush(ctx))
	check(failed.err())
}

// firstError keeps the first error of many records.
type firstError struct {
	mu    sync.Mutex
	first error
	count int
}

func (f *firstError) note(_ *kgo.Record, err error) {
	if err == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	if f.first == nil {
		f.first = err
	}
}

func (f *firstError) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.first
}

// consume reads a payload from the beginning of a topic.
func (b *bench) consume(seed, topic string, l payload) {
	cl := newClient(seed, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxPartitionBytes(4<<20))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(b.ctx, loadTimeout)
	defer cancel()
	for left := l.records(); left > 0; {
		f := cl.PollFetches(ctx)
		check(f.Err())
		left -= int64(f.NumRecords())
	}
}

func (b *bench) deleteTopic(seed, topic string) {
	cl := newClient(seed)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(b.ctx, loadTimeout)
	defer cancel()
	_, err := kadm.NewClient(cl).DeleteTopic(ctx, topic)
	check(err)
}
