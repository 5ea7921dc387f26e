package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// runPartitions spreads small records over so many partitions that each gets
// small batches. Both sides use the same log.
func runPartitions(b *bench) report {
	w := b.real()
	partitions := b.size(2000, 100)
	l := payload{size: 100}
	wave := int64(partitions * spreadRecords * spreadClients * l.size)
	l.bytes = max(1, b.bytes()/4/wave) * wave
	topic := w.adopted(int32(partitions))
	defer w.drop(topic)
	var produced, consumed pair
	for _, s := range w.sides() {
		b.spread(s.seed, topic, partitions, payload{bytes: wave, size: l.size}) // makes leaders known, and files
	}
	for range b.rounds {
		for _, s := range w.sides() {
			profile := w.profile(s, "partitions-produce")
			produced.add(s, w.measure(l.bytes, l.records(), func() { b.spread(s.seed, topic, partitions, l) }))
			profile()
			profile = w.profile(s, "partitions-consume")
			consumed.add(s, w.measure(l.bytes, l.records(), func() { b.consume(s.seed, topic, l) }))
			profile()
		}
	}
	return report{
		notes:  []string{fmt.Sprintf("%d MB of %d B records over %d partitions in batches of %d, by %d producers; %d rounds.", l.bytes/1e6, l.size, partitions, spreadRecords, spreadClients, b.rounds)},
		tables: []table{{header: pairHeader, rows: [][]string{produced.row(b, "produce"), consumed.row(b, "consume behind the tail")}}},
		goals: []goal{
			atLeast(figure(float64(partitions))+" partitions, records of 100 B: produce, share of direct", "", 0.8, produced.share()),
			atLeast(figure(float64(partitions))+" partitions, records of 100 B: consume, share of direct", "", 0.8, consumed.share()),
		},
	}
}

// Batches of spread: so many records for each partition, by each of some clients.
const (
	spreadRecords = 25
	spreadClients = 2
)

// spread produces batches of the same size on both sides: record by record to one
// partition after the other, and nothing leaves before each has its share. A client
// that decides by itself makes smaller batches the faster it is answered.
func (b *bench) spread(seed, topic string, partitions int, l payload) {
	ctx, cancel := context.WithTimeout(b.ctx, loadTimeout)
	defer cancel()
	wave := partitions * spreadRecords
	waves := max(1, int(l.records())/wave/spreadClients)
	errs := make([]error, spreadClients)
	var all sync.WaitGroup
	for i := range spreadClients {
		all.Go(func() {
			cl := newClient(seed, kgo.MaxBufferedRecords(wave+1), kgo.ManualFlushing(), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
			defer cl.Close()
			var failed firstError
			value := make([]byte, l.size)
			for range waves {
				for range wave {
					cl.Produce(ctx, &kgo.Record{Topic: topic, Value: value}, failed.note)
				}
				errs[i] = errors.Join(errs[i], cl.Flush(ctx))
			}
			errs[i] = errors.Join(errs[i], failed.err())
		})
	}
	all.Wait()
	check(errors.Join(errs...))
}
