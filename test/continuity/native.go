package continuity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/twmb/franz-go/pkg/kgo"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/test/check"
)

// franzProducer is franz-go with its defaults.
func (s *soak) franzProducer(ctx context.Context, a *account) {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.kafka...), kgo.DefaultProduceTopic(topic), kgo.ClientID(a.Name))
	if err != nil {
		s.ledger.fail(a, err.Error())
		return
	}
	defer client.Close()
	c := counters{producer: a.Name}
	for ctx.Err() == nil {
		v, begin := c.next(), time.Now()
		client.Produce(context.WithoutCancel(ctx), &kgo.Record{Key: []byte(v.Key), Value: []byte(v.String())}, func(r *kgo.Record, err error) {
			if err != nil {
				s.ledger.fail(a, err.Error())
				return
			}
			s.ledger.acknowledged(a, v, r.Partition, time.Since(begin))
		})
		wait(ctx, time.Second/perSecond)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	if err := client.Flush(last); err != nil {
		s.ledger.fail(a, err.Error())
	}
}

// franzMember is a member by franz-go with its defaults.
func (s *soak) franzMember(ctx context.Context, a *account) {
	taken := func(f func(*account, []int32)) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) { f(a, partitions[topic]) }
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(s.kafka...), kgo.ConsumerGroup(a.Group), kgo.ConsumeTopics(topic), kgo.ClientID(a.Name),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(taken(s.ledger.assign)), kgo.OnPartitionsRevoked(taken(s.ledger.revoke)), kgo.OnPartitionsLost(taken(s.ledger.revoke)))
	if err != nil {
		s.ledger.fail(a, err.Error())
		return
	}
	defer client.Close()
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		if ctx.Err() == nil {
			fetches.EachError(func(_ string, p int32, err error) { s.ledger.fail(a, fmt.Sprintf("partition %d: %v", p, err)) })
		}
		fetches.EachRecord(func(r *kgo.Record) { s.ledger.read(a, r.Partition, r.Offset, string(r.Key), string(r.Value)) })
	}
}

// connectBatches sends one idempotent batch after the other to one partition, each
// until it is answered, by whatever gateway answers.
func (s *soak) connectBatches(ctx context.Context, a *account) {
	const partition = int32(0)
	c := counters{producer: a.Name}
	gateway := 0
	client := func() braidv1connect.ProducerServiceClient {
		return braidv1connect.NewProducerServiceClient(s.w.Client, s.urls[gateway%len(s.urls)])
	}
	again := func(err error) {
		s.ledger.note(a, "asked another gateway: "+err.Error())
		gateway++
		wait(context.WithoutCancel(ctx), time.Second/perSecond)
	}
	var producer *braidv1.ProducerIdentity
	for producer == nil && ctx.Err() == nil {
		response, err := client().InitProducer(ctx, &braidv1.InitProducerRequest{})
		if err != nil {
			again(err)
			continue
		}
		producer = response.GetProducer()
	}
	for sequence := int32(0); ctx.Err() == nil; sequence++ {
		v, begin := c.next(), time.Now()
		p := partition
		request := &braidv1.ProduceBatchRequest{
			Producer:  producer,
			Batch:     &braidv1.ProduceFrame{BatchSeq: uint64(sequence) + 1, Topic: topic, Partition: &p, Records: []*braidv1.Record{{Key: []byte(v.Key), Value: []byte(v.String())}}},
			Sequences: []*braidv1.PartitionSequence{{Topic: topic, Partition: partition, NextSequence: sequence}},
		}
		for {
			retry, err := sendBatch(context.WithoutCancel(ctx), client(), request)
			if err == nil {
				break
			}
			if !retry {
				s.ledger.fail(a, err.Error())
				return
			}
			again(err)
		}
		s.ledger.acknowledged(a, v, partition, time.Since(begin))
		wait(ctx, time.Second/perSecond-time.Since(begin))
	}
}

// sendBatch reports with an error whether the same batch may be sent again.
func sendBatch(ctx context.Context, client braidv1connect.ProducerServiceClient, request *braidv1.ProduceBatchRequest) (retry bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	response, err := client.ProduceBatch(ctx, request)
	if err != nil {
		switch connect.CodeOf(err) {
		case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled, connect.CodeUnknown, connect.CodeInternal:
			return true, err // the outcome is unknown, and repeating does no harm
		default:
			return false, err
		}
	}
	if f := failureOf(response.GetAck()); f != nil {
		return f.GetRetriable(), errors.New(f.GetMessage())
	}
	return false, nil
}

// failureOf returns why a batch failed; nil if it did not.
func failureOf(ack *braidv1.ProduceAck) *braidv1.Failure {
	for _, rejected := range ack.GetRejected() {
		return rejected.GetFailure()
	}
	for _, result := range ack.GetResults() {
		if f := result.GetFailure(); f != nil {
			return f
		}
	}
	return nil
}

// connectStreams pipelines frames on a Produce stream, and opens the next one
// elsewhere when it is told that the gateway drains, or when it breaks.
func (s *soak) connectStreams(ctx context.Context, a *account) {
	c := counters{producer: a.Name}
	for gateway := 1; ctx.Err() == nil; gateway++ {
		p := &pipeline{s: s, a: a, sent: make(map[uint64]pending), draining: make(chan struct{}), ended: make(chan struct{})}
		client := braidv1connect.NewProducerServiceClient(s.w.Client, s.urls[gateway%len(s.urls)])
		if err := p.run(ctx, client, &c); err != nil {
			s.ledger.note(a, "stream ended: "+err.Error())
		}
		wait(ctx, time.Second/perSecond)
	}
}

// A pipeline is one Produce stream.
type pipeline struct {
	s *soak
	a *account

	mu     sync.Mutex // guards the following
	sent   map[uint64]pending
	credit int64

	draining, ended chan struct{}
	err             error // set before ended is closed
}

type pending struct {
	check.Value
	begin time.Time
}

// run sends until the stream ends, the gateway drains or ctx ends, and waits for
// the answers. Its error is why it ended otherwise than in order.
func (p *pipeline) run(ctx context.Context, client braidv1connect.ProducerServiceClient, c *counters) error {
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stream, err := client.Produce(streamCtx)
	if err != nil {
		return err
	}
	// What cannot be sent is told by Receive.
	_ = stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{ClientId: p.a.Name}}})
	opened, err := stream.Receive()
	if err != nil {
		return err
	}
	p.credit = opened.GetOpened().GetCredit().GetMaxBatches()
	go p.receive(stream.Receive)
	for seq, going := uint64(1), true; going; {
		if p.mayHave(seq) {
			v := c.next()
			p.mu.Lock()
			p.sent[seq] = pending{v, time.Now()}
			p.mu.Unlock()
			_ = stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: &braidv1.ProduceFrame{
				BatchSeq: seq, Topic: topic, Records: []*braidv1.Record{{Key: []byte(v.Key), Value: []byte(v.String())}},
			}}})
			seq++
		}
		select {
		case <-p.ended:
			going = false
		case <-p.draining:
			going = false
		case <-ctx.Done():
			going = false
		case <-time.After(time.Second / perSecond):
		}
	}
	_ = stream.CloseRequest()
	select {
	case <-p.ended:
	case <-time.After(flushTimeout):
		cancel()
		<-p.ended
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.sent) == 0 && errors.Is(p.err, io.EOF) {
		return nil
	}
	return fmt.Errorf("%w; %d frames without an answer", p.err, len(p.sent))
}

func (p *pipeline) mayHave(seq uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(seq) <= p.credit
}

// receive takes in what comes until the stream ends.
func (p *pipeline) receive(next func() (*braidv1.ProduceResponse, error)) {
	defer close(p.ended)
	var draining sync.Once
	for {
		response, err := next()
		if err != nil {
			p.err = err
			return
		}
		if response.GetDraining() != nil {
			draining.Do(func() { close(p.draining) })
		}
		p.mu.Lock()
		if f := response.GetCredit(); f != nil {
			p.credit = f.GetMaxBatches()
		}
		for _, ack := range response.GetAcks().GetAcks() {
			of := p.sent[ack.GetBatchSeq()]
			delete(p.sent, ack.GetBatchSeq())
			if f := failureOf(ack); f != nil {
				// What follows fails too, until the client says that it has seen it; the next
				// stream begins anew instead.
				p.s.ledger.fail(p.a, f.GetMessage())
				draining.Do(func() { close(p.draining) })
				continue
			}
			for _, result := range ack.GetResults() {
				p.s.ledger.acknowledged(p.a, of.Value, result.GetPartition(), time.Since(of.begin))
			}
		}
		p.mu.Unlock()
	}
}

// connectMember is a member by a Consume stream. It goes to the next gateway when
// the stream's one drains, and when the stream breaks; it says then who it was.
func (s *soak) connectMember(ctx context.Context, a *account) {
	id := ""
	for gateway := 1; ctx.Err() == nil; gateway++ {
		m := &membership{s: s, a: a, id: id, held: make(map[int32]bool)}
		err := m.run(ctx, braidv1connect.NewConsumerServiceClient(s.w.Client, s.urls[gateway%len(s.urls)]))
		if err != nil && ctx.Err() == nil {
			s.ledger.note(a, "stream ended: "+err.Error())
			if connect.CodeOf(err) == connect.CodeInvalidArgument {
				s.ledger.fail(a, err.Error())
			}
		}
		id = m.id
		s.ledger.revoke(a, slices.Collect(maps.Keys(m.held)))
		wait(ctx, time.Second/perSecond)
	}
}

// A membership is one Consume stream.
type membership struct {
	s    *soak
	a    *account
	id   string // of the member; of an earlier one until it is told
	held map[int32]bool

	mu   sync.Mutex // guards send: sends come from two goroutines
	send func(*braidv1.ConsumeRequest) error

	commit, bytes int64
}

func (m *membership) say(f *braidv1.ConsumeRequest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.send(f) // a broken stream is seen by Receive
}

// run reads until ctx ends, the gateway drains or the stream breaks. It leaves the
// group in the first two cases, and returns nil.
func (m *membership) run(ctx context.Context, client braidv1connect.ConsumerServiceClient) error {
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stream, err := client.Consume(streamCtx)
	if err != nil {
		return err
	}
	m.send = stream.Send
	instance := ""
	if m.a.Group != groupConnect {
		instance = m.a.Name
	}
	m.say(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: &braidv1.Subscribe{
		Group: m.a.Group, Topics: []string{topic}, Fallback: &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}}, ClientId: m.a.Name, InstanceId: instance, FormerMemberId: m.id,
	}}})
	leave := sync.OnceFunc(func() {
		if instance == "" || ctx.Err() != nil { // a static member only goes to another gateway
			m.say(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Leave{Leave: &braidv1.Leave{}}})
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		_ = stream.CloseRequest()
		time.AfterFunc(callTimeout, cancel)
	})
	defer context.AfterFunc(ctx, leave)()
	go m.beat(streamCtx)
	left := false
	for {
		response, err := stream.Receive()
		switch {
		case err != nil && (left || ctx.Err() != nil || errors.Is(err, io.EOF)):
			return nil
		case err != nil:
			return err
		}
		switch f := response.GetFrame().(type) {
		case *braidv1.ConsumeResponse_Subscribed:
			m.id = f.Subscribed.GetMemberId()
		case *braidv1.ConsumeResponse_Assignment:
			m.assigned(f.Assignment)
		case *braidv1.ConsumeResponse_Records:
			m.records(f.Records)
		case *braidv1.ConsumeResponse_PartitionFailure:
			m.s.ledger.note(m.a, f.PartitionFailure.GetFailure().GetMessage())
		case *braidv1.ConsumeResponse_Draining:
			left = true
			leave()
		}
	}
}

// beat says that the member lives, which it must also while it has nothing to read.
func (m *membership) beat(ctx context.Context) {
	for wait(ctx, 5*time.Second); ctx.Err() == nil; wait(ctx, 5*time.Second) {
		m.say(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Ping{Ping: &braidv1.Ping{}}})
	}
}

// assigned takes in a change; partitions that it does not name stay.
func (m *membership) assigned(u *braidv1.AssignmentUpdate) {
	var come, gone []int32
	for _, p := range u.GetAssigned() {
		come = append(come, p.GetPartition())
		m.held[p.GetPartition()] = true
	}
	for _, p := range slices.Concat(u.GetRevoking(), u.GetLost()) {
		gone = append(gone, p.GetPartition())
		delete(m.held, p.GetPartition())
	}
	m.s.ledger.revoke(m.a, gone)
	m.s.ledger.assign(m.a, come)
	if revoking := u.GetRevoking(); len(revoking) > 0 {
		m.say(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Revoked{Revoked: &braidv1.Revoked{MemberEpoch: u.GetMemberEpoch(), Partitions: revoking}}})
	}
}

func (m *membership) records(b *braidv1.RecordBatch) {
	for _, k := range b.GetRecords() {
		m.s.ledger.read(m.a, b.GetPartition(), k.GetOffset(), string(k.GetKey()), string(k.GetValue()))
		m.bytes += int64(len(k.GetKey()) + len(k.GetValue()))
		m.commit++
	}
	m.say(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Commit{Commit: &braidv1.Commit{
		CommitId: m.commit, Offsets: []*braidv1.PartitionOffset{{Topic: topic, Partition: b.GetPartition(), Offset: b.GetNextOffset()}},
	}}})
	m.say(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Credit{Credit: &braidv1.Credit{MaxRecords: 1000 + m.commit, MaxBytes: 8<<20 + m.bytes}}})
}
