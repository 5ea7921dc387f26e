package main

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// runPartitions spreads small records over so many partitions that each gets
// small batches. Both sides use the same log.
func runPartitions(b *bench) report {
	w := b.real()
	partitions := b.size(2000, 100)
	l := payload{bytes: b.bytes() / 4, size: 100}
	topic := w.adopted(int32(partitions))
	defer w.drop(topic)
	var produced, consumed pair
	for _, s := range w.sides() {
		b.spread(s.seed, topic, payload{bytes: int64(partitions) * 1000, size: 100}) // makes leaders known, and files
	}
	for range b.rounds {
		for _, s := range w.sides() {
			profile := w.profile(s, "partitions-produce")
			produced.add(s, w.measure(l.bytes, l.records(), func() { b.spread(s.seed, topic, l) }))
			profile()
			profile = w.profile(s, "partitions-consume")
			consumed.add(s, w.measure(l.bytes, l.records(), func() { b.consume(s.seed, topic, l) }))
			profile()
		}
	}
	return report{
		notes:  []string{fmt.Sprintf("%d MB of %d B records over %d partitions, %d rounds.", l.bytes/1e6, l.size, partitions, b.rounds)},
		tables: []table{{header: pairHeader, rows: [][]string{produced.row(b, "produce"), consumed.row(b, "consume behind the tail")}}},
		goals: []goal{
			atLeast(fmt.Sprintf("%s partitions, records of 100 B: produce, share of direct", figure(float64(partitions))), "", 0.8, produced.share()),
			atLeast(fmt.Sprintf("%s partitions, records of 100 B: consume, share of direct", figure(float64(partitions))), "", 0.8, consumed.share()),
		},
	}
}

// spread produces record by record to one partition after the other.
func (b *bench) spread(seed, topic string, l payload) {
	cl := newClient(seed, kgo.MaxBufferedRecords(100_000), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.ProducerLinger(20*time.Millisecond))
	defer cl.Close()
	b.produceWith(cl, topic, l)
}
