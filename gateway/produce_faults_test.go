package gateway_test

import (
	"errors"
	"fmt"
	"math/rand"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

// refuse answers a Produce request with an error for each partition, writing nothing.
func refuse(r kmsg.Request, code *kerr.Error) kmsg.Response {
	req := r.(*kmsg.ProduceRequest)
	res := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range req.Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode, rp.BaseOffset = p.Partition, code.Code, -1
			rt.Partitions = append(rt.Partitions, rp)
		}
		res.Topics = append(res.Topics, rt)
	}
	return res
}

var errCut = errors.New("connection cut by the test")

// Through broken connections and replicas that lag, an idempotent stream stores
// every record once and in order, and its client sees no error.
func TestProduceThroughFaults(t *testing.T) {
	const seed = 11
	w := newWorld(t)
	w.topic("orders", 1, nil)
	rng := rand.New(rand.NewSource(seed))
	var faults atomic.Int32
	w.clusters["a"].ControlKey(0, func(r kmsg.Request) (kmsg.Response, error, bool) {
		w.clusters["a"].KeepControl()
		switch rng.Intn(12) {
		case 0:
			faults.Add(1)
			return nil, errCut, true
		case 1:
			faults.Add(1)
			return refuse(r, kerr.NotEnoughReplicas), nil, true
		case 2:
			faults.Add(1)
			return refuse(r, kerr.NotLeaderForPartition), nil, true
		}
		return nil, nil, false
	})
	c := w.produce(t, &braidv1.ProduceOpen{})
	const frames = 150
	var want []string
	for i := range frames {
		c.await(func() bool { return c.credit.GetMaxBatches() > int64(i) })
		c.frame(&braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{record("k", strconv.Itoa(i))}})
		want = append(want, fmt.Sprint("k=", i))
	}
	c.finish()
	require.Len(t, c.acks, frames)
	for seq, ack := range c.acks {
		require.Nil(t, ack.GetResults()[0].GetFailure(), "frame %d", seq)
	}
	require.Positive(t, faults.Load())
	require.Equal(t, want, w.physical(t, "a", 0, frames), "seed %d", seed)
}

// After an outcome that is not known the partition goes on under a higher epoch:
// what the client then sends is neither refused nor taken for a repeat.
func TestProduceGoesOnAfterAnUnknownOutcome(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	c := w.produce(t, &braidv1.ProduceOpen{DeliveryTimeoutMs: 300})
	frame := func(value string, seen uint64) uint64 {
		return c.frame(&braidv1.ProduceFrame{Topic: "orders", FailureSeen: seen, Records: []*braidv1.Record{record("k", value)}})
	}
	require.Nil(t, c.ack(frame("1", 0)).GetResults()[0].GetFailure())
	var cut atomic.Bool
	cut.Store(true)
	w.clusters["a"].ControlKey(0, func(kmsg.Request) (kmsg.Response, error, bool) {
		w.clusters["a"].KeepControl()
		if cut.Load() {
			return nil, errCut, true
		}
		return nil, nil, false
	})
	lost := frame("lost", 0)
	require.Equal(t, braidv1.Reason_REASON_DELIVERY_TIMEOUT, c.ack(lost).GetResults()[0].GetFailure().GetReason())
	cut.Store(false)
	for i, v := range []string{"2", "3", "4"} {
		r := c.ack(frame(v, lost)).GetResults()[0]
		require.Nil(t, r.GetFailure())
		require.EqualValues(t, i+1, r.GetNextSequence(), "the sequences of the new epoch")
		require.False(t, r.GetDeduplicated())
	}
	c.finish()
	require.Equal(t, []string{"k=1", "k=2", "k=3", "k=4"}, w.physical(t, "a", 0, 4))
}

// A stream whose frames go to two clusters, of which one hangs, goes on writing to the
// other one; what it has sent to the first is there once and in order when that is back.
func TestProduceGoesOnBesideAClusterThatHangs(t *testing.T) {
	for name, open := range map[string]*braidv1.ProduceOpen{"idempotent": {}, "not idempotent": {NonIdempotent: true}} {
		t.Run(name, func(t *testing.T) { testProduceBesideAClusterThatHangs(t, open) })
	}
}

func testProduceBesideAClusterThatHangs(t *testing.T, open *braidv1.ProduceOpen) {
	w := newWorld(t)
	w.topic("orders", 2, nil)
	c := w.produce(t, open)
	send := func(partition int32, value int) uint64 {
		c.await(func() bool { return c.credit.GetMaxBatches() > int64(c.seq) })
		return c.frame(&braidv1.ProduceFrame{Topic: "orders", Partition: &partition, Records: []*braidv1.Record{record("k", strconv.Itoa(value))}})
	}
	gate := make(chan struct{})
	w.clusters["a"].ControlKey(kmsg.Produce.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.clusters["a"].KeepControl()
		w.clusters["a"].SleepControl(func() { <-gate })
		return nil, nil, false
	})
	const frames = 300 // to each: more than the window
	var want []string
	for i := range frames {
		send(0, i)
		c.ack(send(1, i))
		want = append(want, fmt.Sprint("k=", i))
	}
	require.Len(t, c.acks, frames)
	require.Zero(t, c.stable)
	close(gate)
	c.finish()
	require.Len(t, c.acks, 2*frames)
	for seq, ack := range c.acks {
		require.Nil(t, ack.GetResults()[0].GetFailure(), "frame %d", seq)
	}
	require.Equal(t, want, w.physical(t, "a", 0, frames))
	require.Equal(t, want, w.physical(t, "b", 1, frames))
}
