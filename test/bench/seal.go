package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/braidmq/braid/test/realparts"
)

// runSeal moves all heads of a topic between two real clusters, again and again,
// while records go to every partition, and looks how long the slowest record of
// each head took.
func runSeal(b *bench) report {
	w := b.real()
	other := realparts.StartKafka(w.scope, b.size(1024, 512), "b")[0]
	w.braid("cluster", "add", "b", "--seeds", other.Seed)
	partitions := b.size(24, 6)
	topic := w.created(side{name: "braid"}, int32(partitions))
	b.warm(w.facade, topic)
	load := w.newSealLoad(topic, partitions)
	calm := b.lasting(3*time.Second, 500*time.Millisecond)
	b.wait(calm) // producers are known, and code is warm
	load.take()
	b.wait(calm)
	quiet := load.take()
	var one, all movedHeads
	for i := range b.size(2*partitions, 4) {
		w.moveHeads(&one, load, topic, []int{i % partitions}, []string{"b", "a"}[i/partitions%2])
		b.wait(calm / 10)
	}
	every := make([]int, partitions)
	for p := range every {
		every[p] = p
	}
	moves := b.size(6, 2)
	for i := range moves {
		w.moveHeads(&all, load, topic, every, []string{"b", "a"}[i%2])
		b.wait(calm / 3)
	}
	sent, errs := load.end()
	w.drop(topic)
	return report{
		notes: []string{fmt.Sprintf("Heads move between two clusters, one at a time and then %d together, %d times; each partition gets %.0f records/s of 1,024 B. What counts is the slowest record of each head in each move. %s records, %d errors. A move takes the command with it, a process of its own. Without a move the slowest record of a partition took %s (p50) to %s (p99).",
			partitions, moves, 1/sealPace.Seconds(), figure(float64(sent)), errs, ms(quantile(quiet, 0.5)), ms(quantile(quiet, 0.99)))},
		tables: []table{{
			header: []string{"moves", "heads moved", "p50", "p99", "largest", "a move took (p50)"},
			rows:   [][]string{one.row("of one head"), all.row(fmt.Sprintf("of %d heads", partitions))},
		}},
		goals: []goal{
			atMost("seal and open one head under load: held, p99", " ms", 100, millis(quantile(one.held, 0.99))),
			atMost("seal and open under load: errors of clients", "", 0, float64(errs)),
		},
	}
}

// movedHeads is what moves took.
type movedHeads struct {
	held []time.Duration // the slowest record of each head
	took []time.Duration // each move
}

// moveHeads moves heads of a topic, and adds what that took. Records that were under
// way when the move ended count.
func (w *world) moveHeads(m *movedHeads, load *sealLoad, topic string, partitions []int, to string) {
	names := make([]string, len(partitions))
	for i, p := range partitions {
		names[i] = strconv.Itoa(p)
	}
	load.take()
	start := time.Now()
	w.braid("topic", "move", topic, "--partitions", strings.Join(names, ","), "--to", to)
	m.took = append(m.took, time.Since(start))
	w.b.wait(w.b.lasting(200*time.Millisecond, 50*time.Millisecond))
	slowest := load.take()
	for _, p := range partitions {
		m.held = append(m.held, slowest[p])
	}
}

func (m *movedHeads) row(name string) []string {
	return []string{name, strconv.Itoa(len(m.held)), ms(quantile(m.held, 0.5)), ms(quantile(m.held, 0.99)), ms(quantile(m.held, 1)), ms(quantile(m.took, 0.5))}
}

// sealPace is the time between two records of a partition.
const sealPace = 5 * time.Millisecond

// A sealLoad writes to all partitions at a steady pace.
type sealLoad struct {
	stop chan struct{}
	done chan struct{}

	failed firstError
	mu     sync.Mutex
	sent   int64
	took   slowestOf
}

// slowestOf is the longest that a record of each partition took.
type slowestOf []time.Duration

func (w *world) newSealLoad(topic string, partitions int) *sealLoad {
	l := &sealLoad{stop: make(chan struct{}), done: make(chan struct{}), took: make(slowestOf, partitions)}
	cl := newClient(w.facade, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	go func() {
		defer close(l.done)
		defer cl.Close()
		ctx, cancel := context.WithTimeout(w.b.ctx, loadTimeout)
		defer cancel()
		tick := time.NewTicker(sealPace)
		defer tick.Stop()
		value := make([]byte, 1024)
		for {
			select {
			case <-tick.C:
			case <-l.stop:
				l.failed.note(nil, cl.Flush(ctx))
				return
			}
			at := time.Now()
			for p := range partitions {
				cl.Produce(ctx, &kgo.Record{Topic: topic, Partition: int32(p), Value: value}, func(r *kgo.Record, err error) {
					l.failed.note(r, err)
					l.mu.Lock()
					defer l.mu.Unlock()
					l.sent++
					l.took[r.Partition] = max(l.took[r.Partition], time.Since(at))
				})
			}
		}
	}()
	return l
}

// take returns the slowest records since the last call.
func (l *sealLoad) take() slowestOf {
	l.mu.Lock()
	defer l.mu.Unlock()
	took := l.took
	l.took = make(slowestOf, len(took))
	return took
}

func (l *sealLoad) end() (sent int64, errs int) {
	close(l.stop)
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent, l.failed.count
}
