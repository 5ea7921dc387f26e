package router_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
)

// stallAndRefuse holds back the next Produce request to a cluster until it is released,
// and then refuses it; told is closed when the request is there. Others pass: the control
// is there until the request has its answer.
func stallAndRefuse(c *kfake.Cluster, code int16) (told <-chan struct{}, release func()) {
	gate, there := make(chan struct{}), make(chan struct{})
	var stalled atomic.Bool
	c.ControlKey(kmsg.Produce.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if stalled.Swap(true) {
			return nil, nil, false
		}
		close(there)
		c.SleepControl(func() { <-gate })
		return refuse(req.(*kmsg.ProduceRequest), code), nil, true
	})
	return there, func() { close(gate) }
}

// A batch runs out of time while what follows it is in flight, so the broker refuses that
// as out of order. It is no error of the producer: it is told to send both again, also
// for what it sends before it knows. A gap of its own making is told as such.
func TestBatchesBehindOneThatWasGivenUp(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	added(t, s, one(0, "0"))

	there, release := stallAndRefuse(w.clusters["a"], kerr.NotLeaderForPartition.Code)
	const timeout = time.Second
	first := begin(t, s, timeout, one(1, "1"))
	<-there
	second := begin(t, s, time.Minute, one(2, "2"))
	rest(t, timeout)
	release()
	require.Equal(t, federation.NoLeader, federation.KindOf(answerOf(t, first).Err))
	require.Equal(t, federation.NoLeader, federation.KindOf(answerOf(t, second).Err))
	require.Equal(t, federation.NoLeader, refused(t, s, one(3, "3")), "it was sent before the producer could know")
	added(t, s, from(pid+1, 0, 0, "other"))
	require.Equal(t, federation.OutOfOrderSequence, refused(t, s, from(pid+1, 0, 3, "other")), "another producer's own gap")

	for i, v := range []string{"1", "2", "3"} {
		added(t, s, one(int32(i)+1, v))
	}
	require.Equal(t, federation.OutOfOrderSequence, refused(t, s, one(9, "9")), "nothing is given up any more")
	require.Equal(t, []string{"0:0", "1:other", "2:1", "3:2", "4:3"}, values(t, s, tp0, 0, 5))
}

// A cluster that was away is back when the next batch of a producer comes, whose batches
// before it were given up meanwhile.
func TestBatchesBehindAClusterThatWasAway(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	added(t, s, one(0, "0"))
	var back atomic.Bool
	w.clusters["a"].ControlKey(kmsg.Produce.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.clusters["a"].KeepControl()
		if back.Load() {
			return nil, nil, false
		}
		return refuse(req.(*kmsg.ProduceRequest), kerr.NotLeaderForPartition.Code), nil, true
	})
	answer := make(chan router.Appended, 1)
	require.NoError(t, s.Produce(t.Context(), router.AcksAll, time.Minute,
		[]router.Append{{TopicPartition: tp0, Batch: one(1, "1"), AwayWait: &router.AwayWait{Alone: 50 * time.Millisecond}}}, func(a []router.Appended) { answer <- a[0] }))
	require.Equal(t, federation.NoLeader, federation.KindOf(answerOf(t, answer).Err))
	back.Store(true)
	require.Equal(t, federation.NoLeader, refused(t, s, one(2, "2")))
	added(t, s, one(1, "1"))
	added(t, s, one(2, "2"))
}
