package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"connectrpc.com/connect"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
)

// A shape is how records travel in a stream of the Connect API.
type shape struct {
	name    string
	records int // of a frame
	size    int // of a record
	raw     bool
	bytes   int64 // moved in a round
	// Targets; 0 = none.
	mbPerS, allocPerRecord float64
	recordsPerS            float64 // read
}

// streams is how many streams, each with a connection and a partition of its own, share a load.
const streams = 2

const (
	producePrefix = "Connect Produce, "
	readPrefix    = "Connect Read, "
	groupPrefix   = "Connect Consume, "
)

func (b *bench) shapes() []shape {
	return []shape{
		{name: "frames of 128 records of 1 KiB", records: 128, size: 1024, bytes: b.bytes(), mbPerS: 150, allocPerRecord: 32},
		{name: "raw batches of 128 records of 1 KiB", records: 128, size: 1024, raw: true, bytes: b.bytes(), mbPerS: 500},
		{name: "frames of 1 record of 100 B", records: 1, size: 100, bytes: int64(b.size(4, 1)) * 1e6, recordsPerS: 400_000},
	}
}

func runConnect(b *bench) report {
	w := b.real()
	header := []string{"", "MB/s", "records/s", "MB/s that 2 cores would hold of gateway and client alone", "gateway CPU ms/MB", "gateway CPU µs/record", "broker CPU ms/MB", "client CPU ms/MB", "gateway bytes allocated/record", "gateway objects allocated/record"}
	rows := table{header: header}
	var r report
	for _, s := range b.shapes() {
		var in, out, member []used
		records := s.bytes / int64(s.size)
		for range b.rounds {
			topic := w.created(side{name: "braid"}, streams)
			for _, l := range []struct {
				name   string
				rounds *[]used
				f      func()
			}{
				{"produce", &in, func() { w.parallel(func(ctx context.Context, i int) error { return w.send(ctx, s, topic, i) }) }},
				{"read", &out, func() { w.parallel(func(ctx context.Context, i int) error { return w.receive(ctx, s, topic, i) }) }},
				{"consume", &member, func() { check(w.member(b.ctx, s, topic)) }},
			} {
				profile := w.profileBraid("connect-" + l.name + "-" + s.short())
				*l.rounds = append(*l.rounds, w.measure(s.bytes, records, l.f))
				profile()
			}
			w.drop(topic)
		}
		for _, l := range []struct {
			prefix string
			rounds []used
		}{{producePrefix, in}, {readPrefix, out}, {groupPrefix, member}} {
			rows.rows = append(rows.rows, s.row(l.prefix, l.rounds))
			r.goals = append(r.goals, s.goals(l.prefix, l.rounds)...)
		}
	}
	r.notes = []string{fmt.Sprintf("%d streams, each with a connection and a partition of its own, to produce and to read; one member of a group for both partitions to consume; %d rounds. The client and the broker share the cores with the gateway.", streams, b.rounds)}
	r.tables = []table{rows}
	return r
}

func (s shape) short() string {
	switch {
	case s.raw:
		return "raw"
	case s.records == 1:
		return "single"
	}
	return "frames"
}

func (s shape) row(prefix string, rounds []used) []string {
	each := func(f func(used) float64) string {
		return figure(median(rounds, func(u used) float64 { return f(u) / float64(u.records) }))
	}
	return []string{
		prefix + s.name, figure(median(rounds, used.mbPerS)), figure(median(rounds, used.recordsPerS)),
		onTwoCores(median(rounds, perMB(gateway)) + median(rounds, perMB(client))),
		figure(median(rounds, perMB(gateway))), each(func(u used) float64 { return float64(u.cpu[gateway].Microseconds()) }),
		figure(median(rounds, perMB(broker))), figure(median(rounds, perMB(client))),
		each(func(u used) float64 { return u.allocBytes }), each(func(u used) float64 { return u.allocs }),
	}
}

// onTwoCores is what two cores hold of what takes so many ms/MB. In small it can take less
// than the clock counts.
func onTwoCores(perMB float64) string {
	if perMB == 0 {
		return "-"
	}
	return figure(2000 / perMB)
}

func (s shape) goals(prefix string, rounds []used) []goal {
	var all []goal
	if s.mbPerS > 0 {
		all = append(all, atLeast(prefix+s.name, " MB/s", s.mbPerS, median(rounds, used.mbPerS)))
	}
	if s.recordsPerS > 0 && prefix != producePrefix {
		all = append(all, atLeast(prefix+s.name, " records/s", s.recordsPerS, median(rounds, used.recordsPerS)))
	}
	if s.allocPerRecord > 0 || s.raw {
		// Nothing for each record: what there is for each frame rounds to less than one byte.
		all = append(all, atMost(prefix+s.name+": gateway bytes allocated for each record", "", max(s.allocPerRecord, 1), median(rounds, used.allocPerRecord)))
	}
	return all
}

// parallel runs all streams of a load.
func (w *world) parallel(f func(ctx context.Context, stream int) error) {
	ctx, cancel := context.WithTimeout(w.b.ctx, loadTimeout)
	defer cancel()
	errs := make([]error, streams)
	var all sync.WaitGroup
	for i := range streams {
		all.Go(func() { errs[i] = f(ctx, i) })
	}
	all.Wait()
	check(errors.Join(errs...))
}

// http2 is a client with a connection of its own, HTTP/2 without TLS.
func http2() (c *http.Client, end func()) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, HTTP2: &http.HTTP2Config{MaxReadFrameSize: 1 << 20}}
	return &http.Client{Transport: transport}, transport.CloseIdleConnections
}

// send writes a stream's part of a load to its partition.
func (w *world) send(ctx context.Context, s shape, topic string, partition int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, end := http2()
	defer end()
	stream, err := braidv1connect.NewProducerServiceClient(c, w.api).Produce(ctx)
	if err != nil {
		return err
	}
	open := &braidv1.ProduceOpen{ClientId: "bench", NonIdempotent: s.raw}
	if err := stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: open}}); err != nil {
		return err
	}
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	g := newGate(first.GetOpened().GetCredit())
	frames := s.bytes / int64(s.size*s.records) / streams
	acked := make(chan error, 1)
	go func() {
		err := receiveAcks(stream, g, frames)
		g.end(err)
		acked <- err
	}()
	request := s.request(topic, int32(partition))
	payload := int64(s.size * s.records)
	if s.raw {
		payload = int64(len(request.GetBatch().GetKafkaBatch()))
	}
	for i := range frames {
		if err := g.take(payload); err != nil {
			return err
		}
		request.GetBatch().BatchSeq = uint64(i + 1)
		if err := stream.Send(request); err != nil {
			return errors.Join(err, <-acked)
		}
	}
	if err := <-acked; err != nil {
		return err
	}
	return errors.Join(stream.CloseRequest(), stream.CloseResponse())
}

// request is the frame that is sent again and again.
func (s shape) request(topic string, partition int32) *braidv1.ProduceRequest {
	frame := &braidv1.ProduceFrame{Topic: topic, Partition: &partition}
	if s.raw {
		frame.KafkaBatch = smallBatch(s.records, s.size)
	} else {
		for range s.records {
			frame.Records = append(frame.Records, &braidv1.Record{Value: make([]byte, s.size)})
		}
	}
	return &braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: frame}}
}

// receiveAcks reads until so many frames are acknowledged.
func receiveAcks(stream *connect.BidiStreamForClientSimple[braidv1.ProduceRequest, braidv1.ProduceResponse], g *gate, frames int64) error {
	for left := frames; left > 0; {
		resp, err := stream.Receive()
		if err != nil {
			return fmt.Errorf("with %d frames not acknowledged: %w", left, err)
		}
		if c := resp.GetCredit(); c != nil {
			g.grant(c)
		}
		for _, a := range resp.GetAcks().GetAcks() {
			left--
			for _, result := range a.GetResults() {
				if f := result.GetFailure(); f != nil {
					return errors.New(f.GetMessage())
				}
			}
			for _, rejected := range a.GetRejected() {
				return errors.New(rejected.GetFailure().GetMessage())
			}
		}
	}
	return nil
}

// A gate holds a sender back until it has credit.
type gate struct {
	mu                    sync.Mutex
	more                  sync.Cond
	batches, bytes        int64 // granted
	sentBatches, sentByte int64
	ended                 bool
	err                   error
}

func newGate(c *braidv1.Credit) *gate {
	g := &gate{batches: c.GetMaxBatches(), bytes: c.GetMaxBytes()}
	g.more.L = &g.mu
	return g
}

func (g *gate) grant(c *braidv1.Credit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.batches, g.bytes = c.GetMaxBatches(), c.GetMaxBytes()
	g.more.Signal()
}

func (g *gate) take(bytes int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for !g.ended && (g.sentBatches+1 > g.batches || g.sentByte+bytes > g.bytes) {
		g.more.Wait()
	}
	g.sentBatches++
	g.sentByte += bytes
	return g.err
}

func (g *gate) end(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended, g.err = true, err
	g.more.Signal()
}

// delivery asks for frames of the shape.
func (s shape) delivery() *braidv1.Delivery {
	d := &braidv1.Delivery{MaxFrameBytes: int32(s.size * s.records)}
	if s.raw {
		d.Format = braidv1.RecordFormat_RECORD_FORMAT_KAFKA_V2
	}
	return d
}

// written is how many records a stream has written.
func (s shape) written() int64 {
	return s.bytes / int64(s.size*s.records) / streams * int64(s.records)
}

// receive reads a stream's part of a load.
func (w *world) receive(ctx context.Context, s shape, topic string, partition int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, end := http2()
	defer end()
	stream, err := braidv1connect.NewConsumerServiceClient(c, w.api).Read(ctx, &braidv1.ReadRequest{
		Sources:  []*braidv1.ReadSource{{Topic: topic, Partitions: []int32{int32(partition)}, Start: &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}}}},
		Delivery: s.delivery(), ClientId: "bench",
	})
	if err != nil {
		return err
	}
	defer func() {
		cancel() // it would go on
		_ = stream.Close()
	}()
	for next := int64(0); next < s.written(); {
		if !stream.Receive() {
			return errors.Join(io.ErrUnexpectedEOF, stream.Err())
		}
		if f := stream.Msg().GetPartitionFailure(); f != nil {
			return errors.New(f.GetFailure().GetMessage())
		}
		next = max(next, stream.Msg().GetRecords().GetNextOffset())
	}
	return nil
}

// member reads the whole load as the only member of a group.
func (w *world) member(ctx context.Context, s shape, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	c, end := http2()
	defer end()
	stream, err := braidv1connect.NewConsumerServiceClient(c, w.api).Consume(ctx)
	if err != nil {
		return err
	}
	defer func() {
		cancel() // it would go on
		_ = stream.CloseResponse()
	}()
	subscribe := &braidv1.Subscribe{
		Group: topic, Topics: []string{topic}, ClientId: "bench", Delivery: s.delivery(),
		Fallback: &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}},
		Credit:   &braidv1.Credit{MaxRecords: 1 << 40, MaxBytes: 1 << 50},
	}
	if err := stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: subscribe}}); err != nil {
		return err
	}
	next := make(map[int32]int64)
	for left := streams; left > 0; {
		resp, err := stream.Receive()
		if err != nil {
			return fmt.Errorf("a member that has read to %v: %w", next, err)
		}
		if f := resp.GetPartitionFailure(); f != nil {
			return errors.New(f.GetFailure().GetMessage())
		}
		if records := resp.GetRecords(); records != nil {
			at := next[records.GetPartition()]
			if at < s.written() && records.GetNextOffset() >= s.written() {
				left--
			}
			next[records.GetPartition()] = max(at, records.GetNextOffset())
		}
	}
	return nil
}
