package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A load is what a run moves.
type load struct {
	bytes      int64
	size       int
	partitions int32
}

func client(seed string, opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(seed), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ClientID("bench")}, opts...)...)
	check(err)
	return cl
}

func check(err error) {
	if err != nil {
		panic(fmt.Sprint("bench: ", err))
	}
}

func createTopic(seed, topic string, partitions int32) {
	cl := client(seed)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, 1, nil, topic)
	check(err)
}

func deleteTopic(seed, topic string) {
	cl := client(seed)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err := kadm.NewClient(cl).DeleteTopic(ctx, topic)
	check(err)
}

// warm makes leaders and connections known before a run is timed.
func warm(seed, topic string) {
	cl := client(seed)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for range 20 {
		check(cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("warm")}).FirstErr())
	}
}

func produce(seed, topic string, l load) {
	cl := client(seed, kgo.MaxBufferedRecords(100_000), kgo.ProducerBatchMaxBytes(1_000_000), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.ProducerLinger(5*time.Millisecond))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	value := make([]byte, l.size)
	var once sync.Once
	var failed error
	for range l.bytes / int64(l.size) {
		cl.Produce(ctx, &kgo.Record{Topic: topic, Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				once.Do(func() { failed = err })
			}
		})
	}
	check(cl.Flush(ctx))
	check(failed)
}

func consume(seed, topic string, l load) {
	cl := client(seed, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxPartitionBytes(4<<20))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for left := l.bytes / int64(l.size); left > 0; {
		f := cl.PollFetches(ctx)
		check(f.Err())
		left -= int64(f.NumRecords())
	}
}

// latency produces 500 records a second, one by one, and returns how long each
// took to be acknowledged and to be read.
func latency(seed, topic string, d time.Duration) (acked, read []time.Duration) {
	consumer := client(seed, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()))
	defer consumer.Close()
	producer := client(seed, kgo.ProducerLinger(0))
	defer producer.Close()
	ctx, cancel := context.WithTimeout(context.Background(), d+time.Minute)
	defer cancel()
	var mu sync.Mutex
	started := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			f := consumer.PollFetches(ctx)
			now := time.Since(started)
			end := false
			f.EachRecord(func(r *kgo.Record) {
				if len(r.Value) < 100 {
					return
				}
				sent := time.Duration(binary.BigEndian.Uint64(r.Value))
				end = end || sent < 0
				if sent > time.Second {
					read = append(read, now-sent)
				}
			})
			if end {
				return
			}
		}
	}()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	send := func(at time.Duration) {
		value := make([]byte, 1024)
		binary.BigEndian.PutUint64(value, uint64(at))
		producer.Produce(ctx, &kgo.Record{Topic: topic, Value: value}, func(_ *kgo.Record, err error) {
			took := time.Since(started) - at
			mu.Lock()
			defer mu.Unlock()
			if err == nil && at > time.Second {
				acked = append(acked, took)
			}
		})
	}
	// The first second warms up and does not count.
	for now := time.Duration(0); now < d+time.Second; {
		<-ticker.C
		now = time.Since(started)
		send(now)
	}
	check(producer.Flush(ctx))
	send(-1)
	check(producer.Flush(ctx))
	<-done
	return acked, read
}

// cpu returns the CPU time that a process has taken.
func cpu(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	var user, system int64
	_, _ = fmt.Sscan(f[11], &user)
	_, _ = fmt.Sscan(f[12], &system)
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 on Linux
}
