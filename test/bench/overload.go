package main

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/test/realparts"
)

const (
	smallGateway = "gateway-small"
	smallLimit   = 128 << 20
)

// runOverload puts more on a gateway than it may hold: producers that have hundreds of MB
// unanswered, and consumers that ask for large answers and take none of them. A gateway
// with a small limit must stay within it, refuse nobody, and go on; one without shows
// what the same load makes it hold.
func runOverload(b *bench) report {
	w := b.real()
	const partitions = 8
	topic := w.adopted(partitions)
	defer w.drop(topic)
	at := realparts.FreeAddress(w.scope)
	p := w.start(smallGateway, "gateway", "--controller", w.lead, "--listen", realparts.FreeAddress(w.scope), "--kafka-listen", at,
		"--memory-limit", strconv.Itoa(smallLimit))
	l := overload{b: b, topic: topic, partitions: partitions, producers: b.size(24, 4), unanswered: b.size(12, 4), stalled: b.size(40, 4), readers: 2}
	profile := w.profileBraid("overload")
	free := l.run(w.processes[gateway].PID(), w.facade)
	profile()
	small := l.run(p.PID(), at)
	check(p.Stop(45 * time.Second)) // killed, it would hold up the next move for the length of its lease
	delete(w.processes, smallGateway)
	row := func(name string, o overloaded) []string {
		return []string{name, figure(o.idle), figure(o.peak), figure(o.produced), figure(o.read), figure(float64(o.refused))}
	}
	return report{
		notes: []string{fmt.Sprintf("%d producers have up to %d requests of 1 MB unanswered each, %s MB together; %d consumers ask for 4 answers of 50 MiB each and take none; %d read what they ask for. For %.0f s.",
			l.producers, l.unanswered, figure(float64(l.producers*l.unanswered)), l.stalled, l.readers, l.lasting().Seconds())},
		tables: []table{{
			header: []string{"gateway", "RSS before, MB", "largest RSS, MB", "produced, MB/s", "read, MB/s", "errors"},
			rows:   [][]string{row("limit by default", free), row("--memory-limit 128MiB", small)},
		}},
		goals: []goal{
			atMost("overload of a gateway with 128 MiB: largest RSS", " MB", smallLimit/1e6, small.peak),
			atMost("overload of a gateway with 128 MiB: errors at clients", "", 0, float64(small.refused)),
			atLeast("overload of a gateway with 128 MiB: produced, share of one without a limit", "", 0.5, small.produced/free.produced),
			atLeast("overload of a gateway with 128 MiB: read by those who take their answers", " MB/s", 10, small.read),
		},
	}
}

type overload struct {
	b                                       *bench
	topic                                   string
	partitions                              int
	producers, unanswered, stalled, readers int
}

// overloaded is what an overload did to a gateway.
type overloaded struct {
	idle, peak     float64 // RSS in MB
	produced, read float64 // MB/s
	refused        int64
}

func (l *overload) lasting() time.Duration { return l.b.lasting(12*time.Second, 2*time.Second) }

func (l *overload) run(pid int, address string) overloaded {
	o := overloaded{idle: float64(rss(pid)) / 1e6}
	var produced, read, refused atomic.Int64
	var all sync.WaitGroup
	end := time.Now().Add(l.lasting())
	for i := range l.producers {
		all.Go(func() { l.produce(address, int32(i%l.partitions), end, &produced, &refused) })
	}
	for i := range l.stalled {
		c := dialRaw(address)
		defer c.close()
		for range 4 {
			_, err := c.conn.Write(l.fetch(int32(i % l.partitions)))
			check(err)
		}
	}
	for i := range l.readers {
		all.Go(func() { l.read(address, int32(i%l.partitions), end, &read, &refused) })
	}
	sampled := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(sampled)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			o.peak = max(o.peak, float64(rss(pid))/1e6)
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	all.Wait()
	close(stop)
	<-sampled
	seconds := l.lasting().Seconds()
	o.produced, o.read, o.refused = float64(produced.Load())/1e6/seconds, float64(read.Load())/1e6/seconds, refused.Load()
	return o
}

// produce has requests unanswered all the time; those are answered at the end, too.
func (l *overload) produce(address string, partition int32, end time.Time, produced, refused *atomic.Int64) {
	c := dialRaw(address)
	defer c.close()
	batch := smallBatch(100, 10_000)
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(9)
	req.Acks, req.TimeoutMillis = -1, 60_000
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: l.topic, Partitions: []kmsg.ProduceRequestTopicPartition{{Partition: partition, Records: batch}}}}
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench")).AppendRequest(nil, req, 1)
	room := make(chan struct{}, l.unanswered)
	var answers sync.WaitGroup
	answers.Go(func() {
		for range room {
			resp := kmsg.NewPtrProduceResponse()
			resp.SetVersion(9)
			body, err := c.answer()
			if err == nil {
				err = resp.ReadFrom(body[1:])
			}
			if err == nil {
				err = kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
			}
			if err != nil {
				refused.Add(1)
				c.close()
				for range room { // nobody answers these
					refused.Add(1)
				}
				return
			}
			if time.Now().Before(end) {
				produced.Add(int64(len(batch)))
			}
		}
	})
	for time.Now().Before(end) {
		room <- struct{}{}
		if _, err := c.conn.Write(frame); err != nil {
			break // its answer tells
		}
	}
	close(room)
	answers.Wait()
}

func (l *overload) fetch(partition int32) []byte {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(11)
	req.MaxBytes, req.MinBytes, req.MaxWaitMillis, req.SessionEpoch = 50<<20, 1, 500, -1
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.PartitionMaxBytes = partition, 50<<20
	req.Topics = []kmsg.FetchRequestTopic{{Topic: l.topic, Partitions: []kmsg.FetchRequestTopicPartition{p}}}
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench")).AppendRequest(nil, req, 1)
}

// read asks for the beginning of a partition, again and again.
func (l *overload) read(address string, partition int32, end time.Time, read, refused *atomic.Int64) {
	c := dialRaw(address)
	defer c.close()
	frame := l.fetch(partition)
	for time.Now().Before(end) {
		_, err := c.conn.Write(frame)
		var body []byte
		if err == nil {
			body, err = c.answer()
		}
		resp := kmsg.NewPtrFetchResponse()
		resp.SetVersion(11)
		if err == nil {
			err = resp.ReadFrom(body)
		}
		if err == nil {
			err = kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
		}
		if err != nil {
			refused.Add(1)
			return
		}
		read.Add(int64(len(resp.Topics[0].Partitions[0].RecordBatches)))
	}
}
