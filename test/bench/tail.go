package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// runTail has records written to the broker at a rate that a consumer keeps up
// with, so that a gateway's CPU is all for the reading.
func runTail(b *bench) report {
	w := b.real()
	const partitions = 6
	rate := int64(b.size(100, 10)) * 1e6
	l := payload{bytes: rate * int64(b.size(6, 1)), size: 1024}
	topic := w.adopted(partitions)
	defer w.drop(topic)
	var read pair
	tail := new(tailShare)
	for range b.rounds {
		for _, s := range w.sides() {
			profile := w.profile(s, "tail")
			tail.during(w, s, func() { read.add(s, w.atTail(s, topic, partitions, 1, false, l, rate)) })
			profile()
		}
	}
	return report{
		notes: []string{
			fmt.Sprintf("%d MB/s of %d B records for %.0f s, written to the broker directly; %d partitions, %d rounds. %.0f %% of what was read came from the gateway's tail caches.",
				rate/1e6, l.size, float64(l.bytes)/float64(rate), partitions, b.rounds, 100*tail.share()),
		},
		tables: []table{{header: pairHeader, rows: [][]string{read.row(b, "consume at the tail")}}},
		goals: []goal{
			b.timesFloor("consume at the tail: gateway CPU", tailTimesFloor, median(read.braid, perMB(gateway))),
			atMost("consume at the tail: bytes allocated for each byte", "", allocPerByteMax, median(read.braid, used.allocPerByte)),
		},
	}
}

// runFanout reads one topic with one group, and with many.
func runFanout(b *bench) report {
	w := b.real()
	const partitions = 6
	groups := b.size(20, 5)
	rate := int64(b.size(10, 4)) * 1e6
	l := payload{bytes: rate * int64(b.size(6, 1)), size: 1024}
	topic := w.adopted(partitions)
	defer w.drop(topic)
	var one, many pair
	tail := new(tailShare)
	for range b.rounds {
		for _, s := range w.sides() {
			one.add(s, w.atTail(s, topic, partitions, 1, true, l, rate))
			profile := w.profile(s, "fanout")
			tail.during(w, s, func() { many.add(s, w.atTail(s, topic, partitions, groups, true, l, rate)) })
			profile()
		}
	}
	reads := func(u used) float64 { return float64(u.gatewayRead) / float64(l.bytes) }
	readsOne, readsMany := median(one.braid, reads), median(many.braid, reads)
	return report{
		notes: []string{
			fmt.Sprintf("%d MB/s of %d B records for %.0f s, written to the broker directly; each MB delivered counts. %.0f %% came from the gateway's tail caches. The gateway read %s B from the broker for each byte written with one group, and %s B with %d.",
				rate/1e6, l.size, float64(l.bytes)/float64(rate), 100*tail.share(), figure(readsOne), figure(readsMany), groups),
		},
		tables: []table{{header: pairHeader, rows: [][]string{one.row(b, "one group"), many.row(b, fmt.Sprintf("%d groups", groups))}}},
		goals: []goal{
			atMost(fmt.Sprintf("fan-out: broker reads with %d groups against one", groups), "", 1.1, readsMany/readsOne),
			atMost("fan-out: gateway CPU for each MB delivered", " ms", 0.7, median(many.braid, perMB(gateway))),
		},
	}
}

// A tailShare is how much of what was read came from the tail caches.
type tailShare struct{ tail, direct float64 }

func (t *tailShare) during(w *world, s side, f func()) {
	before := w.metrics(gateway)
	f()
	if s.braid() {
		after := w.metrics(gateway)
		t.tail += after[metricTail] - before[metricTail]
		t.direct += after[metricDirect] - before[metricDirect]
	}
}

func (t *tailShare) share() float64 { return t.tail / max(1, t.tail+t.direct) }

// atTail has consumers at the tail of a topic, and measures what it takes to write
// a payload to the broker and to deliver it to all of them.
func (w *world) atTail(s side, topic string, partitions, consumers int, grouped bool, l payload, rate int64) used {
	b := w.b
	ctx, cancel := context.WithTimeout(b.ctx, loadTimeout)
	defer cancel()
	writer := bulkProducer(w.kafka.Seed)
	defer writer.Close()
	var done, there sync.WaitGroup
	errs := make(chan error, consumers)
	there.Add(consumers)
	for i := range consumers {
		opts := []kgo.Opt{kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd())}
		if grouped {
			opts = append(opts, kgo.ConsumerGroup(fmt.Sprintf("%s-%s-%d-%d", topic, s.name, topics.Add(1), i)))
		}
		c := &tailConsumer{cl: newClient(s.seed, opts...), there: there.Done, partitions: partitions, size: l.size}
		defer c.cl.Close()
		done.Go(func() { errs <- c.read(ctx, l.records()) })
	}
	w.probe(ctx, writer, topic, partitions, &there)
	u := w.measure(l.bytes*int64(consumers), l.records()*int64(consumers), func() {
		b.producePaced(writer, topic, l, rate)
		done.Wait()
	})
	for range consumers {
		check(<-errs)
	}
	return u
}

// probe writes small records to all partitions until all consumers have seen them.
func (w *world) probe(ctx context.Context, writer *kgo.Client, topic string, partitions int, there *sync.WaitGroup) {
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		there.Wait()
	}()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var failed firstError
		for range partitions {
			writer.Produce(ctx, &kgo.Record{Topic: topic, Value: []byte("probe")}, failed.note)
		}
		check(writer.Flush(ctx))
		check(failed.err())
		select {
		case <-ready:
			return
		case <-tick.C:
		}
	}
}

// A tailConsumer reads a topic from its end.
type tailConsumer struct {
	cl         *kgo.Client
	there      func() // called when all partitions are read
	partitions int
	size       int
}

// read reads until it has seen so many records of its size; smaller ones are probes.
func (c *tailConsumer) read(ctx context.Context, records int64) error {
	probed := make(map[int32]bool)
	for left := records; left > 0; {
		f := c.cl.PollFetches(ctx)
		if err := f.Err(); err != nil {
			return fmt.Errorf("consumer at the tail: %w", err)
		}
		f.EachRecord(func(r *kgo.Record) {
			if len(r.Value) == c.size {
				left--
				return
			}
			if n := len(probed); n < c.partitions {
				probed[r.Partition] = true
				if n+1 == c.partitions && len(probed) == c.partitions {
					c.there()
				}
			}
		})
	}
	return nil
}
