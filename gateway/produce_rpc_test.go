package gateway_test

import (
	"context"
	"fmt"
	"io"
	"sort"
	"strconv"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

type produceClient struct {
	t      testing.TB
	stream *connect.BidiStreamForClientSimple[braidv1.ProduceRequest, braidv1.ProduceResponse]
	opened *braidv1.ProduceOpened
	seq    uint64
	acks   map[uint64]*braidv1.ProduceAck
	order  []uint64
	stable uint64
	credit *braidv1.Credit
	other  []*braidv1.ProduceResponse
}

func (w *world) produce(t testing.TB, open *braidv1.ProduceOpen, opts ...connect.ClientOption) *produceClient {
	t.Helper()
	stream, err := w.producer(t, opts...).Produce(ctxFor(t))
	require.NoError(t, err)
	c := &produceClient{t: t, stream: stream, acks: make(map[uint64]*braidv1.ProduceAck)}
	require.NoError(t, stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: open}}))
	msg, err := stream.Receive()
	require.NoError(t, err)
	require.NotNil(t, msg.GetOpened(), "%v", msg)
	c.opened, c.credit = msg.GetOpened(), msg.GetOpened().GetCredit()
	return c
}

func (c *produceClient) frame(f *braidv1.ProduceFrame) uint64 {
	c.t.Helper()
	c.seq++
	f.BatchSeq = c.seq
	require.NoError(c.t, c.stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: f}}))
	return c.seq
}

// receive takes one message in; it returns io.EOF at the clean end.
func (c *produceClient) receive() error {
	c.t.Helper()
	msg, err := c.stream.Receive()
	if err != nil {
		return err
	}
	switch f := msg.GetFrame().(type) {
	case *braidv1.ProduceResponse_Acks:
		for _, a := range f.Acks.GetAcks() {
			require.NotContains(c.t, c.acks, a.GetBatchSeq())
			c.acks[a.GetBatchSeq()] = a
			c.order = append(c.order, a.GetBatchSeq())
		}
		require.GreaterOrEqual(c.t, f.Acks.GetStableBatchSeq(), c.stable)
		c.stable = f.Acks.GetStableBatchSeq()
	case *braidv1.ProduceResponse_Credit:
		require.GreaterOrEqual(c.t, f.Credit.GetMaxBatches(), c.credit.GetMaxBatches())
		c.credit = f.Credit
	case *braidv1.ProduceResponse_Closed:
		require.Equal(c.t, c.seq, f.Closed.GetStableBatchSeq())
	default:
		c.other = append(c.other, msg)
	}
	return nil
}

func (c *produceClient) await(done func() bool) {
	c.t.Helper()
	for !done() {
		require.NoError(c.t, c.receive())
	}
}

func (c *produceClient) ack(seq uint64) *braidv1.ProduceAck {
	c.t.Helper()
	c.await(func() bool { return c.acks[seq] != nil })
	return c.acks[seq]
}

// finish half-closes and reads to the clean end.
func (c *produceClient) finish() {
	c.t.Helper()
	require.NoError(c.t, c.stream.CloseRequest())
	for {
		if err := c.receive(); err != nil {
			require.ErrorIs(c.t, err, io.EOF)
			return
		}
	}
}

func reasonOf(t *testing.T, err error) braidv1.Reason {
	t.Helper()
	var wire *connect.Error
	require.ErrorAs(t, err, &wire)
	for _, d := range wire.Details() {
		v, err := d.Value()
		require.NoError(t, err)
		if info, ok := v.(*errdetails.ErrorInfo); ok {
			require.Equal(t, "braid", info.GetDomain())
			return braidv1.Reason(braidv1.Reason_value[info.GetReason()])
		}
	}
	t.Fatalf("no ErrorInfo in %v", err)
	return 0
}

func TestProduceOverEveryProtocol(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 4, nil)
	for name, opts := range protocols {
		t.Run(name, func(t *testing.T) {
			c := w.produce(t, &braidv1.ProduceOpen{}, opts...)
			require.NotEmpty(t, c.opened.GetProducer().GetToken())
			const frames = 300
			for i := range frames {
				c.await(func() bool { return c.credit.GetMaxBatches() > int64(i) })
				c.frame(&braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{
					record(fmt.Sprint("k", i%7), fmt.Sprint(name, i)), record(fmt.Sprint("q", i), "x"), {Value: []byte("no key")},
				}})
			}
			c.finish()
			require.Len(t, c.acks, frames)
			require.EqualValues(t, frames, c.stable)
			next := make(map[int32]int64)
			for seq := range c.acks {
				for _, r := range c.acks[seq].GetResults() {
					require.Nil(t, r.GetFailure())
					require.GreaterOrEqual(t, r.GetBaseOffset(), int64(0))
					next[r.GetPartition()] += int64(r.GetRecordCount())
				}
			}
			var total int64
			for _, n := range next {
				total += n
			}
			require.EqualValues(t, 3*frames, total)
		})
	}
}

func TestProduceKeepsTheOrderOfAPartition(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 4, nil)
	c := w.produce(t, &braidv1.ProduceOpen{})
	var want []string
	p := federation.PartitionForKey([]byte("the key"), 4)
	for i := range 200 {
		c.await(func() bool { return c.credit.GetMaxBatches() > int64(i) })
		c.frame(&braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{record("the key", strconv.Itoa(i))}})
		want = append(want, fmt.Sprint("the key=", i))
	}
	c.finish()
	require.Equal(t, want, w.physical(t, []string{"a", "b"}[p%2], int32(p), len(want)))
}

func TestProduceFailureBarrier(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 2, map[string]string{"max.message.bytes": "1000"})
	c := w.produce(t, &braidv1.ProduceOpen{})
	zero, one := int32(0), int32(1)
	big := &braidv1.Record{Value: make([]byte, 2000)}
	c.frame(&braidv1.ProduceFrame{Topic: "orders", Partition: &zero, Records: []*braidv1.Record{record("", "1")}})
	c.frame(&braidv1.ProduceFrame{Topic: "orders", Partition: &zero, Records: []*braidv1.Record{record("", "x"), big}})
	c.frame(&braidv1.ProduceFrame{Topic: "orders", Partition: &zero, Records: []*braidv1.Record{record("", "overtakes")}})
	c.frame(&braidv1.ProduceFrame{Topic: "orders", Partition: &one, Records: []*braidv1.Record{record("", "other")}})
	require.Nil(t, c.ack(1).GetResults()[0].GetFailure())
	failed := c.ack(2)
	require.Equal(t, braidv1.Reason_REASON_RECORD_TOO_LARGE, failed.GetResults()[0].GetFailure().GetReason())
	require.Len(t, failed.GetRejected(), 1)
	require.EqualValues(t, 1, failed.GetRejected()[0].GetIndex())
	require.Equal(t, braidv1.Reason_REASON_EARLIER_FAILURE, c.ack(3).GetResults()[0].GetFailure().GetReason())
	require.Nil(t, c.ack(4).GetResults()[0].GetFailure())
	seq := c.frame(&braidv1.ProduceFrame{Topic: "orders", Partition: &zero, FailureSeen: 3, Records: []*braidv1.Record{record("", "x")}})
	require.Nil(t, c.ack(seq).GetResults()[0].GetFailure())
	c.finish()
	require.Equal(t, []string{"=1", "=x"}, w.physical(t, "a", 0, 2))
}

func TestProduceNonIdempotentWritesTheGoodRecords(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, map[string]string{"max.message.bytes": "1000"})
	c := w.produce(t, &braidv1.ProduceOpen{NonIdempotent: true})
	require.Nil(t, c.opened.GetProducer())
	c.frame(&braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{record("k", "1"), {Value: make([]byte, 2000)}, record("k", "2")}})
	c.frame(&braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{record("k", "3")}})
	ack := c.ack(1)
	require.Nil(t, ack.GetResults()[0].GetFailure())
	require.EqualValues(t, 2, ack.GetResults()[0].GetRecordCount())
	require.EqualValues(t, 1, ack.GetRejected()[0].GetIndex())
	c.finish()
	require.Equal(t, []string{"k=1", "k=2", "k=3"}, w.physical(t, "a", 0, 3))
}

func TestProduceWithoutAcksMovesTheStableMark(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	c := w.produce(t, &braidv1.ProduceOpen{Acks: braidv1.Acks_ACKS_NONE})
	for range 10 {
		c.frame(&braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{record("k", "1")}})
	}
	c.await(func() bool { return c.stable == 10 })
	c.finish()
	require.Empty(t, c.acks)
	require.Len(t, w.physical(t, "a", 0, 10), 10)
}

func TestProduceStreamErrors(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	open := &braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{}}}
	batch := func(seq uint64) *braidv1.ProduceRequest {
		return &braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: &braidv1.ProduceFrame{BatchSeq: seq, Topic: "orders", Records: []*braidv1.Record{record("", "v")}}}}
	}
	for name, tc := range map[string]struct {
		send []*braidv1.ProduceRequest
		code connect.Code
	}{
		"nothing":         {nil, connect.CodeInvalidArgument},
		"no open":         {[]*braidv1.ProduceRequest{batch(1)}, connect.CodeInvalidArgument},
		"open twice":      {[]*braidv1.ProduceRequest{open, open}, connect.CodeInvalidArgument},
		"gap":             {[]*braidv1.ProduceRequest{open, batch(1), batch(3)}, connect.CodeInvalidArgument},
		"repeat":          {[]*braidv1.ProduceRequest{open, batch(1), batch(1)}, connect.CodeInvalidArgument},
		"empty message":   {[]*braidv1.ProduceRequest{open, {}}, connect.CodeInvalidArgument},
		"unknown cluster": {[]*braidv1.ProduceRequest{{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{LogicalCluster: "other"}}}}, connect.CodeNotFound},
		"forged identity": {[]*braidv1.ProduceRequest{{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{
			Producer: &braidv1.ProducerIdentity{ProducerId: 1 << 48, Token: []byte("0123456789abcdef")},
		}}}}, connect.CodePermissionDenied},
		"bad timeout": {[]*braidv1.ProduceRequest{{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{DeliveryTimeoutMs: -1}}}}, connect.CodeInvalidArgument},
		"bad acks":    {[]*braidv1.ProduceRequest{{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{Acks: 9}}}}, connect.CodeInvalidArgument},
		"too large":   {[]*braidv1.ProduceRequest{open, {Frame: &braidv1.ProduceRequest_Batch{Batch: &braidv1.ProduceFrame{BatchSeq: 1, KafkaBatch: make([]byte, 9<<20)}}}}, connect.CodeResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := w.producer(t, connect.WithGRPC()).Produce(ctxFor(t))
			require.NoError(t, err)
			for _, m := range tc.send {
				if err := stream.Send(m); err != nil {
					require.ErrorIs(t, err, io.EOF)
				}
			}
			require.NoError(t, stream.CloseRequest())
			for err == nil {
				_, err = stream.Receive()
			}
			require.Equal(t, tc.code, connect.CodeOf(err), "%v", err)
		})
	}
}

func TestProduceFrameFailures(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 2, nil)
	c := w.produce(t, &braidv1.ProduceOpen{NonIdempotent: true})
	nine := int32(9)
	many := make([]*braidv1.Record, 10001)
	for i := range many {
		many[i] = &braidv1.Record{}
	}
	headers := make([]*braidv1.Header, 101)
	for i := range headers {
		headers[i] = &braidv1.Header{Key: "h"}
	}
	one := []*braidv1.Record{record("k", "v")}
	for _, tc := range []struct {
		frame *braidv1.ProduceFrame
		want  braidv1.Reason
	}{
		{&braidv1.ProduceFrame{Topic: "missing", Records: one}, braidv1.Reason_REASON_UNKNOWN_TOPIC},
		{&braidv1.ProduceFrame{Topic: "orders", Partition: &nine, Records: one}, braidv1.Reason_REASON_UNKNOWN_PARTITION},
		{&braidv1.ProduceFrame{Topic: "orders", PartitionCount: 3, Records: one}, braidv1.Reason_REASON_STALE_PARTITION_COUNT},
		{&braidv1.ProduceFrame{Topic: "orders"}, braidv1.Reason_REASON_INVALID_ARGUMENT},
		{&braidv1.ProduceFrame{Topic: "orders", Records: one, KafkaBatch: []byte("x")}, braidv1.Reason_REASON_INVALID_ARGUMENT},
		{&braidv1.ProduceFrame{Topic: "orders", KafkaBatch: []byte("x")}, braidv1.Reason_REASON_INVALID_ARGUMENT},
		{&braidv1.ProduceFrame{Topic: "orders", Partition: new(int32), KafkaBatch: make([]byte, 100)}, braidv1.Reason_REASON_INVALID_RECORD},
		{&braidv1.ProduceFrame{Topic: "orders", Records: many}, braidv1.Reason_REASON_INVALID_ARGUMENT},
		{&braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{{TimestampMs: -5}}}, braidv1.Reason_REASON_INVALID_RECORD},
		{&braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{{Headers: headers}}}, braidv1.Reason_REASON_INVALID_RECORD},
		{&braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{{Value: make([]byte, 2<<20)}}}, braidv1.Reason_REASON_RECORD_TOO_LARGE},
	} {
		ack := c.ack(c.frame(tc.frame))
		require.Equal(t, tc.want, ack.GetResults()[0].GetFailure().GetReason(), "%v", ack)
	}
	require.Nil(t, c.ack(c.frame(&braidv1.ProduceFrame{Topic: "orders", Records: one})).GetResults()[0].GetFailure())
	c.finish()
}

func TestProduceAnswersPingsAndBeats(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config, _ *gateway.Deps) { c.HeartbeatInterval = 20 * time.Millisecond })
	c := w.produce(t, &braidv1.ProduceOpen{})
	require.EqualValues(t, 20, c.opened.GetHeartbeatIntervalMs())
	require.NoError(t, c.stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Ping{Ping: &braidv1.Ping{Nonce: 42}}}))
	beats, pong := 0, false
	c.await(func() bool {
		for _, m := range c.other {
			if b := m.GetHeartbeat(); b != nil {
				beats++
				pong = pong || b.GetNonce() == 42
			}
		}
		c.other = nil
		return beats > 3 && pong
	})
	c.finish()
}

func TestProduceTellsOfMorePartitions(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 2, nil)
	c := w.produce(t, &braidv1.ProduceOpen{})
	frame := func(count int32) *braidv1.ProduceFrame {
		return &braidv1.ProduceFrame{Topic: "orders", PartitionCount: count, Records: []*braidv1.Record{record("k", "v")}}
	}
	require.Nil(t, c.ack(c.frame(frame(2))).GetResults()[0].GetFailure())
	w.topic("orders", 4, nil)
	c.await(func() bool { return len(c.other) > 0 })
	require.EqualValues(t, 4, c.other[0].GetTopicUpdate().GetPartitionCount())
	require.Nil(t, c.ack(c.frame(frame(2))).GetResults()[0].GetFailure(), "the old count holds for a while")
	require.Nil(t, c.ack(c.frame(frame(4))).GetResults()[0].GetFailure())
	c.finish()
}

func TestProduceDrains(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config, _ *gateway.Deps) { c.DrainGrace = 50 * time.Millisecond })
	w.topic("orders", 1, nil)
	c := w.produce(t, &braidv1.ProduceOpen{})
	c.frame(&braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{record("k", "v")}})
	drained := make(chan error, 1)
	go func() { drained <- w.g.Drain(context.Background()) }()
	c.await(func() bool { return len(c.other) > 0 })
	require.Equal(t, "shutdown", c.other[0].GetDraining().GetCause())
	err := c.receive()
	for err == nil {
		err = c.receive()
	}
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, c.stream.CloseRequest())
	require.NoError(t, <-drained)
	require.EqualValues(t, 1, c.stable)
	_, err = w.producer(t).Produce(ctxFor(t))
	require.NoError(t, err)
	stream, err := w.producer(t).Produce(ctxFor(t))
	require.NoError(t, err)
	require.NoError(t, stream.CloseRequest())
	_, err = stream.Receive()
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
}

func TestProduceTakesOverAnIdentity(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	first := w.produce(t, &braidv1.ProduceOpen{})
	second := w.produce(t, &braidv1.ProduceOpen{Producer: first.opened.GetProducer()})
	var err error
	for err == nil {
		err = first.receive()
	}
	require.Equal(t, connect.CodeAborted, connect.CodeOf(err))
	require.Equal(t, braidv1.Reason_REASON_PRODUCER_FENCED, reasonOf(t, err))
	require.Nil(t, second.ack(second.frame(&braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{record("k", "v")}})).GetResults()[0].GetFailure())
	second.finish()
}

// A client that does not look at its credit is slowed down, and loses nothing.
func TestProduceBeyondCreditIsSlowedDown(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config, _ *gateway.Deps) { c.ProduceCreditBatches = 2 })
	w.topic("orders", 1, nil)
	c := w.produce(t, &braidv1.ProduceOpen{})
	for i := range 100 {
		c.frame(&braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{record("k", strconv.Itoa(i))}})
	}
	c.finish()
	require.Len(t, c.acks, 100)
	require.True(t, sort.SliceIsSorted(c.order, func(i, j int) bool { return c.order[i] < c.order[j] }))
}

func TestProduceBatch(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 2, nil)
	for name, opts := range protocols {
		t.Run(name, func(t *testing.T) {
			client := w.producer(t, opts...)
			identity, err := client.InitProducer(ctxFor(t), &braidv1.InitProducerRequest{})
			require.NoError(t, err)
			req := &braidv1.ProduceBatchRequest{
				Producer:  identity.GetProducer(),
				Batch:     &braidv1.ProduceFrame{BatchSeq: 1, Topic: "orders", Partition: new(int32), Records: []*braidv1.Record{{KeyText: "k", ValueText: "v"}}},
				Sequences: []*braidv1.PartitionSequence{{Topic: "orders", Partition: 0, NextSequence: 0}},
			}
			first, err := client.ProduceBatch(ctxFor(t), req)
			require.NoError(t, err)
			r := first.GetAck().GetResults()[0]
			require.Nil(t, r.GetFailure())
			require.EqualValues(t, 1, r.GetNextSequence())
			again, err := client.ProduceBatch(ctxFor(t), req)
			require.NoError(t, err)
			require.Nil(t, again.GetAck().GetResults()[0].GetFailure())
			require.Equal(t, r.GetBaseOffset(), again.GetAck().GetResults()[0].GetBaseOffset(), "the repeat is the same record")
		})
	}
}

func TestProduceBatchRefusesBadRequests(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 2, nil)
	client := w.producer(t)
	identity, err := client.InitProducer(ctxFor(t), &braidv1.InitProducerRequest{})
	require.NoError(t, err)
	good := func() *braidv1.ProduceFrame {
		return &braidv1.ProduceFrame{BatchSeq: 1, Topic: "orders", Records: []*braidv1.Record{record("k", "v")}}
	}
	nine := int32(9)
	for name, tc := range map[string]struct {
		req  *braidv1.ProduceBatchRequest
		code connect.Code
	}{
		"empty":          {&braidv1.ProduceBatchRequest{}, connect.CodeInvalidArgument},
		"no records":     {&braidv1.ProduceBatchRequest{Batch: &braidv1.ProduceFrame{Topic: "orders"}}, connect.CodeInvalidArgument},
		"unknown topic":  {&braidv1.ProduceBatchRequest{Batch: &braidv1.ProduceFrame{Topic: "x", Records: good().Records}}, connect.CodeNotFound},
		"partition":      {&braidv1.ProduceBatchRequest{Batch: &braidv1.ProduceFrame{Topic: "orders", Partition: &nine, Records: good().Records}}, connect.CodeNotFound},
		"no sequences":   {&braidv1.ProduceBatchRequest{Batch: good(), Producer: identity.GetProducer()}, connect.CodeInvalidArgument},
		"forged":         {&braidv1.ProduceBatchRequest{Batch: good(), Producer: &braidv1.ProducerIdentity{ProducerId: identity.GetProducer().GetProducerId()}, Sequences: []*braidv1.PartitionSequence{{Topic: "orders"}}}, connect.CodePermissionDenied},
		"other sequence": {&braidv1.ProduceBatchRequest{Batch: good(), Producer: identity.GetProducer(), Sequences: []*braidv1.PartitionSequence{{Topic: "y"}}}, connect.CodeInvalidArgument},
		"stale count":    {&braidv1.ProduceBatchRequest{Batch: &braidv1.ProduceFrame{Topic: "orders", PartitionCount: 7, Records: good().Records}}, connect.CodeAborted},
	} {
		_, err := client.ProduceBatch(ctxFor(t), tc.req)
		require.Equal(t, tc.code, connect.CodeOf(err), "%s: %v", name, err)
		require.NotEqual(t, braidv1.Reason_REASON_UNSPECIFIED, reasonOf(t, err))
	}
}

// A stream that is old enough is asked to go elsewhere, and ends cleanly.
func TestStreamsAreAskedToMoveWithAge(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config, _ *gateway.Deps) {
		c.StreamAgeMax, c.DrainGrace = 50*time.Millisecond, 10*time.Millisecond
	})
	w.topic("orders", 1, nil)
	p, c := w.produce(t, &braidv1.ProduceOpen{}), w.consume(t, &braidv1.Subscribe{})
	err := p.receive()
	for err == nil {
		err = p.receive()
	}
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, "max_age", p.other[0].GetDraining().GetCause())
	c.end()
	require.Equal(t, "max_age", c.draining.GetCause())
}
