package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/recordbatch"
)

func runConnections(b *bench) report {
	w := b.real()
	const partitions = 24
	topic := w.adopted(partitions)
	defer w.drop(topic)
	r := w.idle(topic)
	active := w.active(topic, partitions)
	r.tables = append(r.tables, active.tables...)
	r.goals = append(r.goals, active.goals...)
	return r
}

// idle opens connections that have asked for versions and metadata and then do nothing.
func (w *world) idle(topic string) report {
	b := w.b
	n := b.size(10_000, 200)
	pid := w.processes[gateway].PID()
	quiet := func() (d time.Duration) {
		before := cpu(pid)
		b.wait(b.lasting(5*time.Second, 500*time.Millisecond))
		return cpu(pid) - before
	}
	liveBefore, rssBefore, cpuBefore := w.live(gateway), rss(pid), quiet()
	start := time.Now()
	conns := make([]*rawClient, 0, n)
	for range n {
		c := dialRaw(w.facade)
		conns = append(conns, c)
		c.ask(kmsg.NewPtrApiVersionsRequest(), 3)
		metadata := kmsg.NewPtrMetadataRequest()
		metadata.Topics = []kmsg.MetadataRequestTopic{{Topic: &topic}}
		c.ask(metadata, 9)
	}
	took := time.Since(start)
	rssAfter := rss(pid)
	liveAfter, cpuAfter := w.live(gateway), quiet()
	for _, c := range conns {
		c.close()
	}
	rssEach, liveEach := float64(rssAfter-rssBefore)/float64(n)/1000, (liveAfter-liveBefore)/float64(n)/1000
	seconds := b.lasting(5*time.Second, 500*time.Millisecond).Seconds()
	added := millis(cpuAfter-cpuBefore) / seconds
	return report{
		tables: []table{{
			header: []string{"idle connections", "opened in", "gateway RSS for each", "live heap and stack for each", "gateway CPU with none", "gateway CPU with them"},
			rows: [][]string{{
				figure(float64(n)), fmt.Sprintf("%.1f s", took.Seconds()), figure(rssEach) + " KB", figure(liveEach) + " KB",
				figure(millis(cpuBefore)/seconds) + " ms/s", figure(millis(cpuAfter)/seconds) + " ms/s",
			}},
		}},
		goals: []goal{
			atMost(figure(float64(n))+" idle connections: gateway RSS for each", " KB", 30, rssEach),
			atMost(figure(float64(n))+" idle connections: CPU added", " ms/s", 10, max(0, added)),
		},
	}
}

// active has producers that each wait for the answer to one small batch before the next.
func (w *world) active(topic string, partitions int) report {
	b := w.b
	const recordsEach, size = 10, 100
	few, many := 20, b.size(2000, 100)
	t := table{header: []string{"producers of batches of 10 records of 100 B", "direct batches/s", "braid batches/s", "share of direct", "gateway CPU µs/batch", "broker CPU µs/batch direct / behind braid", "gateway bytes allocated/batch"}}
	var rates []float64 // through braid
	for _, n := range []int{few, many} {
		var p pair
		for range b.rounds {
			for _, s := range w.sides() {
				profile := w.profile(s, fmt.Sprintf("producers-%d", n))
				p.add(s, w.smallBatches(s, topic, partitions, n, smallBatch(recordsEach, size)))
				profile()
			}
		}
		perBatch := func(process string) func(used) float64 {
			return func(u used) float64 { return float64(u.cpu[process].Microseconds()) / float64(u.records) }
		}
		direct, through := median(p.direct, used.recordsPerS), median(p.braid, used.recordsPerS)
		rates = append(rates, through)
		t.rows = append(t.rows, []string{
			figure(float64(n)), figure(direct), figure(through), figure(through / direct), figure(median(p.braid, perBatch(gateway))),
			figure(median(p.direct, perBatch(broker))) + " / " + figure(median(p.braid, perBatch(broker))), figure(median(p.braid, used.allocPerRecord)),
		})
	}
	return report{tables: []table{t}, goals: []goal{
		atLeast(fmt.Sprintf("%s producers of small batches: throughput against %d", figure(float64(many)), few), "", 0.7, rates[1]/rates[0]),
	}}
}

// smallBatch is one batch, as a client writes it.
func smallBatch(records, size int) []byte {
	var builder recordbatch.Builder
	builder.Reset(nil)
	for range records {
		builder.Add(&recordbatch.Record{TimestampMs: time.Now().UnixMilli(), Value: make([]byte, size)})
	}
	return builder.Finish(recordbatch.NoProducer)
}

// smallBatches counts batches as records.
func (w *world) smallBatches(s side, topic string, partitions, producers int, batch []byte) used {
	b := w.b
	conns := make([]*rawClient, producers)
	requests := make([][]byte, producers)
	for i := range conns {
		conns[i] = dialRaw(s.seed)
		defer conns[i].close()
		req := kmsg.NewPtrProduceRequest()
		req.SetVersion(9)
		req.Acks, req.TimeoutMillis = -1, 30_000
		req.Topics = []kmsg.ProduceRequestTopic{{Topic: topic, Partitions: []kmsg.ProduceRequestTopicPartition{{Partition: int32(i % partitions), Records: batch}}}}
		requests[i] = kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench")).AppendRequest(nil, req, 1)
		checkProduced(conns[i].exchange(requests[i])) // the first one is not timed
	}
	var sent atomic.Int64
	u := w.measure(0, 0, func() {
		end := time.Now().Add(b.lasting(3*time.Second, 500*time.Millisecond))
		var all sync.WaitGroup
		for i, c := range conns {
			all.Go(func() {
				for time.Now().Before(end) {
					checkProduced(c.exchange(requests[i]))
					sent.Add(1)
				}
			})
		}
		all.Wait()
	})
	u.records = sent.Load()
	u.bytes = u.records * int64(len(batch))
	return u
}

// checkProduced looks for an error in the answer to a Produce request of one partition.
func checkProduced(answer []byte) {
	resp := kmsg.NewPtrProduceResponse()
	resp.SetVersion(9)
	check(resp.ReadFrom(answer[1:])) // behind the tags of the header
	if code := resp.Topics[0].Partitions[0].ErrorCode; code != 0 {
		check(fmt.Errorf("produce: error code %d", code))
	}
}

// A rawClient is one connection, without what a client library costs.
type rawClient struct {
	conn net.Conn
	r    *bufio.Reader
	buf  []byte
}

func dialRaw(address string) *rawClient {
	conn, err := net.Dial("tcp", address)
	check(err)
	return &rawClient{conn: conn, r: bufio.NewReaderSize(conn, 512), buf: make([]byte, 256)}
}

func (c *rawClient) close() { _ = c.conn.Close() }

// ask sends a request and drops the answer.
func (c *rawClient) ask(req kmsg.Request, version int16) {
	req.SetVersion(version)
	c.exchange(kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench")).AppendRequest(nil, req, 1))
}

// exchange sends a request and returns what follows the correlation id in the answer;
// it holds until the next call.
func (c *rawClient) exchange(request []byte) []byte {
	_, err := c.conn.Write(request)
	check(err)
	answer, err := c.answer()
	check(err)
	return answer
}

// answer reads what follows the correlation id in the next answer.
func (c *rawClient) answer() ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(head[:])) - 4
	if size > len(c.buf) {
		c.buf = make([]byte, size)
	}
	_, err := io.ReadFull(c.r, c.buf[:size])
	return c.buf[:size], err
}
