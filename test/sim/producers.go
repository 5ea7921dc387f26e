//go:build synctests

package sim

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/twmb/franz-go/pkg/kgo"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/test/check"
)

// The load.
const (
	topic       = "orders"
	partitions  = 6
	keys        = 11
	pace        = 60 * time.Millisecond // between two records of a producer, on average
	callTimeout = 5 * time.Second
	// flushLimit bounds how long producers need for what is unacknowledged when the
	// faults are over.
	flushLimit = 2 * time.Minute
)

// counters make a producer's values.
type counters struct {
	producer string
	at       int
	last     [keys]int
}

func (c *counters) next() check.Value {
	k := c.at % keys
	c.at++
	c.last[k]++
	return check.Value{Producer: c.producer, Key: fmt.Sprint("k", k), Number: c.last[k]}
}

// pause is the time before a producer's next record: bursts and gaps.
func (c *counters) pause() time.Duration {
	const burst = 7
	if c.at%burst != 0 {
		return pace / 4
	}
	return pace * 5
}

// kafkaProducer is franz-go with its defaults: idempotent, retrying by itself, and
// without end. No error may come.
func (l *logical) kafkaProducer(ctx context.Context, i int) {
	name := l.client("kafka", i)
	client, err := kgo.NewClient(kgo.SeedBrokers(l.kafkaAddresses()...), kgo.DefaultProduceTopic(topic), kgo.ClientID(name), kgo.Dialer(l.net.Host(name).Dial), kgo.WithHooks(throttling{l.history}))
	if err != nil {
		l.history.problem("%s: %v", name, err)
		return
	}
	defer client.Close()
	c := l.counters(name)
	unknown := make(map[int32]int64) // the next offset that says nothing, by partition
	for ctx.Err() == nil {
		v := c.next()
		client.Produce(context.WithoutCancel(ctx), &kgo.Record{Key: []byte(v.Key), Value: []byte(v.String())}, func(r *kgo.Record, err error) {
			if err != nil {
				l.history.problem("%s: %s failed: %v", name, v, err)
				return
			}
			// A batch that was known already has offset -1, and franz-go counts on from it.
			offset := r.Offset
			if next, ok := unknown[r.Partition]; offset < 0 || ok && offset == next {
				unknown[r.Partition], offset = r.Offset+1, -1
			} else {
				delete(unknown, r.Partition)
			}
			l.history.ack(v, r.Partition, offset)
		})
		wait(ctx, c.pause())
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushLimit)
	defer cancel()
	if err := client.Flush(flush); err != nil {
		l.history.problem("%s: %d records are not acknowledged %s after the faults: %v", name, client.BufferedProduceRecords(), flushLimit, err)
	}
}

// A connectClient goes from gateway to gateway.
type connectClient struct {
	http    *http.Client
	urls    []string
	gateway int
}

func (w *world) connectClient(host string, gateway int) *connectClient {
	c := &connectClient{http: &http.Client{Transport: w.transport(host)}, gateway: gateway}
	for _, g := range w.gateways {
		c.urls = append(c.urls, g.url())
	}
	return c
}

func (c *connectClient) url() string { return c.urls[c.gateway%len(c.urls)] }
func (c *connectClient) close()      { c.http.CloseIdleConnections() }

// batchProducer sends one idempotent batch after the other to one partition, each
// until it is acknowledged, by whatever gateway answers.
func (l *logical) batchProducer(ctx context.Context, i int) {
	name := l.client("batch", i)
	partition := int32(i % partitions)
	client := l.connectClient(name, i)
	defer client.close()
	limit, cancel := l.flushContext(ctx)
	defer cancel()
	var producer *braidv1.ProducerIdentity
	for producer == nil && ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		response, err := braidv1connect.NewProducerServiceClient(client.http, client.url()).InitProducer(call, &braidv1.InitProducerRequest{})
		cancel()
		if err != nil {
			client.gateway++
			wait(ctx, pace)
			continue
		}
		producer = response.GetProducer()
	}
	c := l.counters(name)
	for sequence := int32(0); ctx.Err() == nil; sequence++ {
		v := c.next()
		request := &braidv1.ProduceBatchRequest{
			Producer: producer, ClientId: name,
			Batch:     &braidv1.ProduceFrame{BatchSeq: uint64(sequence + 1), Topic: topic, Partition: &partition, Records: []*braidv1.Record{{Key: []byte(v.Key), Value: []byte(v.String())}}},
			Sequences: []*braidv1.PartitionSequence{{Topic: topic, Partition: partition, NextSequence: sequence}},
		}
		for {
			offset, again, err := sendBatch(limit, client, request)
			if err == nil {
				l.history.ack(v, partition, offset)
				break
			}
			if !again || limit.Err() != nil {
				l.history.problem("%s: %s failed: %v", name, v, err)
				return
			}
			if connect.CodeOf(err) == connect.CodeResourceExhausted { // its turn comes after its deadline
				l.history.count("calls refused for quotas", 1)
				wait(limit, time.Second)
			}
			client.gateway++
			wait(limit, pace)
		}
		wait(ctx, c.pause())
	}
}

// flushContext ends flushLimit after ctx.
func (l *logical) flushContext(ctx context.Context) (context.Context, context.CancelFunc) {
	limit, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		wait(limit, flushLimit)
		cancel()
	})
	return limit, func() { stop(); cancel() }
}

// sendBatch returns the offset of a batch, or whether it can be sent again.
func sendBatch(ctx context.Context, client *connectClient, request *braidv1.ProduceBatchRequest) (offset int64, again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	response, err := braidv1connect.NewProducerServiceClient(client.http, client.url()).ProduceBatch(ctx, request)
	if err != nil {
		switch connect.CodeOf(err) {
		case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled, connect.CodeUnknown, connect.CodeInternal, connect.CodeResourceExhausted:
			return -1, true, err // the outcome is unknown, and repeating does no harm
		default:
			return -1, false, err
		}
	}
	for _, rejected := range response.GetAck().GetRejected() {
		return -1, false, errors.New(rejected.GetFailure().GetMessage())
	}
	offset = -1
	for _, result := range response.GetAck().GetResults() {
		if f := result.GetFailure(); f != nil {
			return -1, f.GetRetriable(), errors.New(f.GetMessage())
		}
		offset = result.GetBaseOffset()
	}
	return offset, false, nil
}

// streamProducer pipelines frames on Produce streams. What a broken stream leaves
// without an answer is never sent again: it can be in the log, but not twice. Each
// stream is a producer of its own.
func (l *logical) streamProducer(ctx context.Context, i int) {
	name := l.client("stream", i)
	client := l.connectClient(name, i)
	defer client.close()
	for life := 0; ctx.Err() == nil; life++ {
		c := l.counters(fmt.Sprint(name, ".", life))
		l.stream(ctx, client, name, &c)
		client.gateway++
		wait(ctx, 5*pace)
	}
}

// stream runs one stream until it breaks or ctx ends.
func (l *logical) stream(ctx context.Context, client *connectClient, name string, c *counters) {
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	watchdog := time.AfterFunc(callTimeout, cancel)
	defer watchdog.Stop()
	stream, err := braidv1connect.NewProducerServiceClient(client.http, client.url()).Produce(streamCtx)
	if err != nil {
		return
	}
	defer func() {
		cancel()
		_ = stream.CloseRequest()
		_ = stream.CloseResponse()
	}()
	if stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{ClientId: name}}}) != nil {
		return
	}
	opened, err := stream.Receive()
	if err != nil {
		return
	}
	watchdog.Stop()
	s := &acks{history: l.history, producer: c.producer, credit: opened.GetOpened().GetCredit().GetMaxBatches(), sent: make(map[uint64]check.Value)}
	broken := make(chan struct{})
	go func() {
		defer close(broken)
		for {
			response, err := stream.Receive()
			if err != nil {
				return
			}
			s.take(response)
		}
	}()
	for seq := uint64(1); ctx.Err() == nil; {
		if s.mayWrite(seq) {
			v := c.next()
			s.wrote(seq, v)
			frame := &braidv1.ProduceFrame{BatchSeq: seq, Topic: topic, Records: []*braidv1.Record{{Key: []byte(v.Key), Value: []byte(v.String())}}}
			if stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: frame}}) != nil {
				break
			}
			seq++
		}
		pause := time.NewTimer(c.pause())
		select {
		case <-broken:
			pause.Stop()
			return
		case <-pause.C:
		}
	}
	_ = stream.CloseRequest()
	limit := time.NewTimer(flushLimit)
	defer limit.Stop()
	select {
	case <-broken:
	case <-limit.C:
		l.history.problem("%s: the stream does not end %s after the faults", c.producer, flushLimit)
		cancel()
		<-broken
	}
}

// acks take in the answers of a Produce stream.
type acks struct {
	history  *history
	producer string

	mu     sync.Mutex // guards the following
	credit int64
	sent   map[uint64]check.Value
}

func (s *acks) mayWrite(seq uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(seq) <= s.credit
}

func (s *acks) wrote(seq uint64, v check.Value) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent[seq] = v
}

func (s *acks) take(response *braidv1.ProduceResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if response.GetThrottleMs() > 0 {
		s.history.count("waits of streams for quotas", 1)
	}
	if f := response.GetCredit(); f != nil {
		s.credit = f.GetMaxBatches()
	}
	for _, a := range response.GetAcks().GetAcks() {
		for _, result := range a.GetResults() {
			v := s.sent[a.GetBatchSeq()]
			switch f := result.GetFailure(); {
			case f == nil:
				s.history.ack(v, result.GetPartition(), result.GetBaseOffset())
			case !f.GetRetriable():
				s.history.problem("%s: %s failed: %s", s.producer, v, f.GetMessage())
			default:
				s.history.count("failures on streams", 1)
			}
		}
	}
}
