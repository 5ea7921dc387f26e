package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/test/check"
)

// loadPace is the time between two records of a producer.
const loadPace = time.Millisecond

// A load is producers that write keyed counters until they are told to end.
type load struct {
	ctx  context.Context // the producers' life
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu    sync.Mutex
	acked []check.Value
	took  []latency
	errs  []error
}

// A latency is how long a record took, and when it was acknowledged.
type latency struct {
	at   time.Time
	took time.Duration
}

// startLoad starts idempotent producers, each with a client of its own.
func (s *suite) startLoad(t *testing.T, topic string, producers, keys int) *load {
	t.Helper()
	l := &load{}
	l.ctx, l.stop = context.WithCancel(t.Context())
	t.Cleanup(func() {
		l.stop()
		l.wg.Wait()
	})
	for p := range producers {
		l.add(fmt.Sprint("p", p), s.client(t, kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(2*time.Millisecond)), keys)
	}
	return l
}

// add starts a producer that uses a client of its own.
func (l *load) add(producer string, client *kgo.Client, keys int) {
	l.wg.Go(func() {
		values := counters{producer: producer, last: make([]int, keys)}
		pace := time.NewTicker(loadPace)
		defer pace.Stop()
		for l.ctx.Err() == nil {
			v, begin := values.next(), time.Now()
			client.Produce(context.WithoutCancel(l.ctx), &kgo.Record{Key: []byte(v.Key), Value: []byte(v.String())}, func(_ *kgo.Record, err error) {
				l.answer(v, begin, err)
			})
			select {
			case <-pace.C:
			case <-l.ctx.Done():
			}
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), waitTimeout)
		defer cancel()
		if err := client.Flush(ctx); err != nil {
			l.fail(fmt.Errorf("%s: records without an answer: %w", producer, err))
		}
	})
}

func (l *load) answer(v check.Value, begin time.Time, err error) {
	if err != nil {
		l.fail(fmt.Errorf("%s: %w", v, err))
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.acked = append(l.acked, v)
	l.took = append(l.took, latency{now, now.Sub(begin)})
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, err)
}

// counters make a producer's values.
type counters struct {
	producer string
	at       int
	last     []int
}

func (c *counters) next() check.Value {
	k := c.at % len(c.last)
	c.at++
	c.last[k]++
	return check.Value{Producer: c.producer, Key: fmt.Sprint("k", k), Number: c.last[k]}
}

// addStream starts a producer that uses one Connect stream.
func (l *load) addStream(producer string, s *suite, topic string, keys int) {
	api := s.producerAPI()
	l.wg.Go(func() {
		ctx, cancel := context.WithCancel(context.WithoutCancel(l.ctx))
		defer cancel()
		stream, err := api.Produce(ctx)
		if err == nil {
			err = stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{ClientId: producer}}})
		}
		p := &streamProducer{l: l, values: counters{producer: producer, last: make([]int, keys)}, sent: make(map[uint64]sentBatch), granted: make(chan struct{}, 1), done: make(chan struct{})}
		if err == nil {
			go func() {
				defer close(p.done)
				p.err = p.receive(stream.Receive)
			}()
			err = p.write(topic, stream.Send)
			time.AfterFunc(waitTimeout, cancel)
			err = errors.Join(err, stream.CloseRequest())
			<-p.done
			err = errors.Join(err, p.err)
		}
		if err != nil {
			l.fail(fmt.Errorf("%s: %w", producer, err))
		}
	})
}

type streamProducer struct {
	l       *load
	values  counters
	granted chan struct{}
	done    chan struct{}
	err     error // set before done is closed

	mu     sync.Mutex
	credit int64
	sent   map[uint64]sentBatch
}

type sentBatch struct {
	value check.Value
	at    time.Time
}

func (p *streamProducer) write(topic string, send func(*braidv1.ProduceRequest) error) error {
	pace := time.NewTicker(loadPace)
	defer pace.Stop()
	for seq := uint64(1); p.l.ctx.Err() == nil; {
		p.mu.Lock()
		may := int64(seq) <= p.credit
		p.mu.Unlock()
		if !may {
			select {
			case <-p.granted:
			case <-p.done:
				return nil
			case <-p.l.ctx.Done():
			}
			continue
		}
		v := p.values.next()
		p.mu.Lock()
		p.sent[seq] = sentBatch{v, time.Now()}
		p.mu.Unlock()
		frame := &braidv1.ProduceFrame{BatchSeq: seq, Topic: topic, Records: []*braidv1.Record{{Key: []byte(v.Key), Value: []byte(v.String())}}}
		if err := send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: frame}}); err != nil {
			return nil // Receive tells why
		}
		seq++
		select {
		case <-pace.C:
		case <-p.l.ctx.Done():
		}
	}
	return nil
}

func (p *streamProducer) receive(next func() (*braidv1.ProduceResponse, error)) error {
	for closed := false; ; {
		response, err := next()
		if errors.Is(err, io.EOF) && closed {
			return nil
		}
		if err != nil {
			return err
		}
		switch f := response.GetFrame().(type) {
		case *braidv1.ProduceResponse_Opened:
			p.grant(f.Opened.GetCredit().GetMaxBatches())
		case *braidv1.ProduceResponse_Credit:
			p.grant(f.Credit.GetMaxBatches())
		case *braidv1.ProduceResponse_Acks:
			for _, a := range f.Acks.GetAcks() {
				p.acknowledge(a)
			}
		case *braidv1.ProduceResponse_Closed:
			closed = true
		}
	}
}

func (p *streamProducer) grant(most int64) {
	p.mu.Lock()
	p.credit = max(p.credit, most)
	p.mu.Unlock()
	select {
	case p.granted <- struct{}{}:
	default:
	}
}

func (p *streamProducer) acknowledge(a *braidv1.ProduceAck) {
	p.mu.Lock()
	b := p.sent[a.GetBatchSeq()]
	delete(p.sent, a.GetBatchSeq())
	p.mu.Unlock()
	var err error
	for _, r := range a.GetResults() {
		if f := r.GetFailure(); f != nil {
			err = errors.Join(err, errors.New(f.GetMessage()))
		}
	}
	for _, r := range a.GetRejected() {
		err = errors.Join(err, errors.New(r.GetFailure().GetMessage()))
	}
	p.l.answer(b.value, b.at, err)
}

func (l *load) total() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// more waits until n more records are acknowledged.
func (l *load) more(t *testing.T, n int) {
	t.Helper()
	from := l.total()
	eventually(t, func() bool { return l.total() >= from+n }, "%d more records acknowledged", n)
}

// end ends the load and returns what was acknowledged; no error may have reached an application.
func (l *load) end(t *testing.T) []check.Value {
	t.Helper()
	l.stop()
	l.wg.Wait()
	require.NoError(t, errors.Join(l.errs[:min(len(l.errs), 10)]...), "%d errors reached applications", len(l.errs))
	return l.acked
}

// A cutter cuts the connections of a client.
type cutter struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
}

// dialer makes a client's connections the cutter's.
func (c *cutter) dialer() kgo.Opt {
	return kgo.Dialer(func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.conns == nil {
			c.conns = make(map[net.Conn]bool)
		}
		c.conns[conn] = true
		return conn, nil
	})
}

// all cuts all connections and returns how many there were.
func (c *cutter) all() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.conns)
	for conn := range c.conns {
		_ = conn.Close()
	}
	clear(c.conns)
	return n
}
