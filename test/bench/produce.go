package main

import (
	"fmt"
	"strings"

	"github.com/braidmq/braid/test/realparts"
)

// Targets of the two loads, as multiples of what the copy loop takes: 0.8, 1.0 and
// 0.6 ms where it takes 0.56.
const (
	produceTimesFloor = 0.8 / 0.56
	behindTimesFloor  = 1.0 / 0.56
	tailTimesFloor    = 0.6 / 0.56
	allocPerByteMax   = 0.05
)

func runProduce(b *bench) report {
	w := b.real()
	l := payload{bytes: b.bytes(), size: 1024}
	const partitions = 6
	var produced, consumed pair
	for range b.rounds {
		for _, s := range w.sides() {
			topic := w.created(s, partitions)
			b.warm(s.seed, topic)
			profile := w.profile(s, "produce")
			produced.add(s, w.measure(l.bytes, l.records(), func() { b.produce(s.seed, topic, l) }))
			profile()
			profile = w.profile(s, "consume")
			consumed.add(s, w.measure(l.bytes, l.records(), func() { b.consume(s.seed, topic, l) }))
			profile()
			if s.braid() {
				w.drop(topic)
			} else {
				b.deleteTopic(s.seed, topic)
			}
		}
	}
	r := report{
		notes:  []string{fmt.Sprintf("%d MB of %d B records, %d partitions, %d rounds.", b.mb, l.size, partitions, b.rounds)},
		tables: []table{{header: pairHeader, rows: [][]string{produced.row(b, "produce"), consumed.row(b, "consume behind the tail")}}},
	}
	r.goals = append(r.goals,
		b.timesFloor("produce: gateway CPU", produceTimesFloor, median(produced.braid, perMB(gateway))),
		atLeast("produce: share of direct", "", 0.85, produced.share()),
		atMost("produce: bytes allocated for each byte", "", allocPerByteMax, median(produced.braid, used.allocPerByte)),
		b.timesFloor("consume behind the tail: gateway CPU", behindTimesFloor, median(consumed.braid, perMB(gateway))),
		atLeast("consume: share of direct", "", 0.8, consumed.share()),
		atMost("consume: bytes allocated for each byte", "", allocPerByteMax, median(consumed.braid, used.allocPerByte)),
	)
	return r
}

// runBrokers has records go to all replicas before they are acknowledged. Each side
// reads what it wrote last.
func runBrokers(b *bench) report {
	w := b.newWorld()
	defer w.stop()
	w.kafka = realparts.StartKafka(w.scope, b.size(768, 384), "a")[0]
	seeds := []string{w.kafka.Seed}
	for id := range int32(b.size(2, 1)) {
		other := w.kafka.AddBroker(w.scope, id+2)
		w.more, seeds = append(w.more, other), append(seeds, other.Seed)
	}
	w.startGateway(gateway)
	w.braid("cluster", "add", "a", "--seeds", strings.Join(seeds, ","))
	l := payload{bytes: b.bytes(), size: 1024}
	const partitions = 6
	var produced, consumed pair
	for round := range b.rounds + 1 {
		for _, s := range w.sides() {
			topic := w.adopted(partitions)
			b.warm(s.seed, topic)
			profile := w.profile(s, "brokers-produce")
			p := w.measure(l.bytes, l.records(), func() { b.produce(s.seed, topic, l) })
			profile()
			profile = w.profile(s, "brokers-consume")
			c := w.measure(l.bytes, l.records(), func() { b.consume(s.seed, topic, l) })
			profile()
			if round > 0 { // the first one warms the brokers up
				produced.add(s, p)
				consumed.add(s, c)
			}
			w.drop(topic)
		}
	}
	return report{
		notes:  []string{fmt.Sprintf("%d MB of %d B records, %d partitions with a replica on each of %d brokers, acks=all, %d rounds. All brokers share the machine's cores, and count as one.", b.mb, l.size, partitions, len(seeds), b.rounds)},
		tables: []table{{header: pairHeader, rows: [][]string{produced.row(b, "produce"), consumed.row(b, "consume behind the tail")}}},
		goals: []goal{
			atLeast("three brokers: produce, share of direct", "", 0.85, produced.share()),
			atLeast("three brokers: consume, share of direct", "", 0.8, consumed.share()),
		},
	}
}

// A pair is the rounds of one load on both sides.
type pair struct{ direct, braid []used }

func (p *pair) add(s side, u used) {
	if s.braid() {
		p.braid = append(p.braid, u)
		return
	}
	p.direct = append(p.direct, u)
}

// share is the throughput through braid, as a share of direct.
func (p *pair) share() float64 {
	return median(p.braid, used.mbPerS) / median(p.direct, used.mbPerS)
}

var pairHeader = []string{
	"", "direct MB/s", "braid MB/s", "share of direct", "gateway CPU ms/MB", "times the floor", "broker CPU ms/MB direct / behind braid",
	"controller and Redis CPU ms/MB", "client CPU ms/MB direct / braid", "gateway bytes allocated for each byte",
}

func (p *pair) row(b *bench, name string) []string {
	gatewayMs := median(p.braid, perMB(gateway))
	return []string{
		name, figure(median(p.direct, used.mbPerS)), figure(median(p.braid, used.mbPerS)), figure(p.share()),
		figure(gatewayMs), figure(gatewayMs / b.floor),
		figure(median(p.direct, perMB(broker))) + " / " + figure(median(p.braid, perMB(broker))),
		figure(median(p.braid, perMB(controller)) + median(p.braid, perMB(redisName))),
		figure(median(p.direct, perMB(client))) + " / " + figure(median(p.braid, perMB(client))),
		figure(median(p.braid, used.allocPerByte)),
	}
}
