package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Targets of what a gateway adds at 500 records/s.
const (
	addedP50Max = 0.15
	addedP99Max = 1.0
)

func runLatency(b *bench) report {
	w := b.real()
	took := make(map[string]*latencies)
	topicOf := make(map[string]string)
	// A process between client and broker that copies bytes has what nothing can avoid.
	const relayed = "relay"
	sides := append(w.sides(), side{relayed, w.kafka.Seed})
	relay := w.startRelay()
	for _, s := range sides {
		topicOf[s.name] = w.created(s, 1)
		b.warm(s.seed, topicOf[s.name])
		took[s.name] = new(latencies)
	}
	each := b.lasting(4*time.Second, time.Second)
	for range b.rounds {
		for _, s := range sides {
			var opts []kgo.Opt
			if s.name == relayed {
				opts = append(opts, kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, relay)
				}))
			}
			profile := w.profile(s, "latency")
			took[s.name].add(b.latency(s.seed, topicOf[s.name], each, opts...))
			profile()
		}
	}
	direct, through, copied := took["direct"], took["braid"], took[relayed]
	r := report{
		notes: []string{fmt.Sprintf("One partition, records of 1,024 B, %d rounds of %s a side.", b.rounds, each)},
		tables: []table{{
			header: []string{"at 500 records/s", "p50 direct / braid", "added", "p90", "added", "p99", "added", "p99.9", "added", "largest", "added"},
			rows: [][]string{
				latencyRow("acknowledged", direct.ack, through.ack), latencyRow("end to end", direct.end, through.end),
				latencyRow("acknowledged, copies of bytes instead of braid", direct.ack, copied.ack), latencyRow("end to end, likewise", direct.end, copied.end),
			},
		}},
	}
	for _, g := range []struct {
		name           string
		direct, braids []time.Duration
	}{{"acknowledged", direct.ack, through.ack}, {"end to end", direct.end, through.end}} {
		added := func(q float64) float64 { return millis(quantile(g.braids, q) - quantile(g.direct, q)) }
		r.goals = append(r.goals,
			atMost("latency added at 500 records/s, "+g.name+", p50", " ms", addedP50Max, added(0.5)),
			atMost("latency added at 500 records/s, "+g.name+", p99", " ms", addedP99Max, added(0.99)))
	}
	if b.svg != "" {
		check(writePlot(b.svg, []line{
			{"direct, acknowledged", direct.ack},
			{"braid, acknowledged", through.ack},
			{"direct, end to end", direct.end},
			{"braid, end to end", through.end},
		}))
	}
	return r
}

func latencyRow(name string, direct, through []time.Duration) []string {
	row := []string{name}
	for _, q := range []float64{0.5, 0.9, 0.99, 0.999, 1} {
		d, b := quantile(direct, q), quantile(through, q)
		row = append(row, ms(d)+" / "+ms(b), signed(millis(b-d))+" ms")
	}
	return row
}

func signed(v float64) string {
	if v < 0 {
		return "-" + figure(-v)
	}
	return figure(v)
}

// latencies are those of the records of some rounds.
type latencies struct{ ack, end []time.Duration }

func (l *latencies) add(ack, end []time.Duration) {
	l.ack, l.end = append(l.ack, ack...), append(l.end, end...)
}

// latency produces 500 records a second, one by one, and returns how long each
// took to be acknowledged and to be read.
func (b *bench) latency(seed, topic string, d time.Duration, opts ...kgo.Opt) (acked, read []time.Duration) {
	consumer := newClient(seed, append(opts, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()))...)
	defer consumer.Close()
	producer := newClient(seed, append(opts, kgo.ProducerLinger(0))...)
	defer producer.Close()
	ctx, cancel := context.WithTimeout(b.ctx, d+time.Minute)
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
	var failed firstError
	send := func(at time.Duration) {
		value := make([]byte, 1024)
		binary.BigEndian.PutUint64(value, uint64(at))
		producer.Produce(ctx, &kgo.Record{Topic: topic, Value: value}, func(r *kgo.Record, err error) {
			took := time.Since(started) - at
			failed.note(r, err)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && at > time.Second {
				acked = append(acked, took)
			}
		})
	}
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
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
	check(failed.err())
	return acked, read
}
