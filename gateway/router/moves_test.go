package router_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/recordbatch"
)

// An answer that comes after a gap in the lease is not passed on: an idempotent
// batch is tried again under the new lease, any other has an unknown outcome.
func TestAnswerAfterAGapInTheLease(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	added(t, s, one(0, "0"))
	release := stall(w.clusters["a"])
	idempotent := begin(t, s, 10*time.Second, one(1, "1"))
	plain := begin(t, s, 10*time.Second, batch(recordbatch.NoProducer, "plain"))
	unanswered(t, idempotent, plain)
	w.Lapse(true)
	w.Lapse(false)
	release()
	require.Equal(t, federation.Timeout, federation.KindOf(answerOf(t, plain).Err))
	a := answerOf(t, idempotent)
	require.NoError(t, a.Err)
	require.EqualValues(t, 1, a.BaseOffset)
	require.EqualValues(t, 1, w.r.Stats().AppendRetries)
}

// An answer without a lease is not passed on, whatever the broker says.
func TestAnswerWithoutALease(t *testing.T) {
	for name, code := range map[string]*kerr.Error{"appended": nil, "repeated": kerr.DuplicateSequenceNumber, "out of order": kerr.OutOfOrderSequenceNumber} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.orders()
			s := session(t, w.r)
			added(t, s, one(0, "0"))
			gate := make(chan struct{})
			c := w.clusters["a"]
			c.ControlKey(kmsg.Produce.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
				c.SleepControl(func() { <-gate })
				if code == nil {
					c.DropControl()
					return nil, nil, false
				}
				return refuse(req.(*kmsg.ProduceRequest), code.Code), nil, true
			})
			ch := begin(t, s, 10*time.Second, one(1, "1"))
			unanswered(t, ch)
			w.Lapse(true)
			close(gate)
			unanswered(t, ch)
			w.Lapse(false)
			a := answerOf(t, ch)
			require.NoError(t, a.Err)
			require.EqualValues(t, 1, a.BaseOffset)
			require.Equal(t, []string{"0:0", "1:1"}, values(t, s, tp0, 0, 2))
		})
	}
}

// A gateway that was cut off while its head was moved, and has a lease and the new
// map again, sends to the new head what had waited for its turn at the old one.
func TestParkedAppendsLookAtTheMapAgain(t *testing.T) {
	w := newWorldWith(t, 2, router.Config{AppendRequestsMax: 1, Lanes: 1}, nil)
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)}, []*federation.Extent{federationtest.Head("a", "phys", 1)})
	for p := range int32(2) {
		require.NoError(t, w.clusters["a"].MoveTopicPartition("phys", p, 0))
	}
	s := session(t, w.r)
	added(t, s, one(0, "0"))
	release := stallOnce(w.clusters["a"])
	blocker := make(chan []router.Appended, 1)
	require.NoError(t, s.Produce(t.Context(), router.AcksAll, 10*time.Second, []router.Append{{TopicPartition: at("orders", 1), Batch: batch(recordbatch.NoProducer, "v")}}, func(a []router.Appended) { blocker <- a }))
	require.Eventually(t, func() bool { return w.r.Stats().AppendRequests == 2 }, 10*time.Second, time.Millisecond)
	parked := begin(t, s, 10*time.Second, one(1, "1"))
	unanswered(t, parked)
	w.Lapse(true)
	end := w.seal(t)
	require.EqualValues(t, 1, end)
	w.open(t, end, "b", 0)
	w.Lapse(false)
	release()
	require.Equal(t, federation.Timeout, federation.KindOf((<-blocker)[0].Err))
	a := answerOf(t, parked)
	require.NoError(t, a.Err)
	require.EqualValues(t, 1, a.BaseOffset)
	require.Equal(t, []string{"0:0", "1:1"}, values(t, s, tp0, 0, 2), "it lies behind the end of the old head")
}

// Pipelining producers on all lanes see no error and no gap while the head moves to
// and fro under them.
func TestMovesUnderLoad(t *testing.T) {
	const partitions, producers, n = 6, 6, 150
	w := newWorld(t, partitions)
	w.orders()
	var senders sync.WaitGroup
	errs := make(chan error, producers*n)
	for p := range int64(producers) {
		s := session(t, w.r)
		senders.Go(func() {
			window := make(chan struct{}, 5)
			for i := range int32(n) {
				window <- struct{}{}
				err := s.Produce(t.Context(), router.AcksAll, 20*time.Second, []router.Append{{TopicPartition: tp0, Batch: from(pid+p, 0, i, fmt.Sprintf("%d/%d", p, i))}}, func(a []router.Appended) {
					errs <- a[0].Err
					<-window
				})
				if err != nil {
					errs <- err
				}
				rest(t, time.Millisecond)
			}
			for range cap(window) {
				window <- struct{}{}
			}
		})
	}
	for i := 1; i < 2*partitions; i++ {
		w.move(t, []string{"a", "b"}[i%2], i/2)
	}
	senders.Wait()
	for range producers * n {
		require.NoError(t, <-errs)
	}
	require.Len(t, w.part(t).Extents, 2*partitions)
	next := make([]int, producers)
	for i, v := range values(t, session(t, w.r), tp0, 0, producers*n) {
		var offset, p, j int
		_, err := fmt.Sscanf(v, "%d:%d/%d", &offset, &p, &j)
		require.NoError(t, err)
		require.Equal(t, i, offset)
		require.Equal(t, next[p], j, "of producer %d at %d", p, i)
		next[p]++
	}
	require.Zero(t, w.r.Stats().AppendFailures)
}

// Producers that go from gateway to gateway, answers that are lost, replicas that are
// late, leaders and heads that move, and gateways that are cut off meanwhile: every
// batch is in the log once, in order, where its sender was told.
func TestMovesUnderFaults(t *testing.T) {
	const partitions, producers, n = 12, 6, 120
	w := newWorldWith(t, partitions, router.Config{EarlyAsk: 10 * time.Millisecond}, nil)
	w.orders()
	routers := []*router.Router{w.r, w.router(t, router.Config{EarlyAsk: 10 * time.Millisecond}, nil)}
	type told struct {
		value string
		at    federation.LogicalOffset
	}
	tell := make(chan told, producers*n)
	failed := make(chan error, producers)
	var senders sync.WaitGroup
	for p := range int64(producers) {
		random := rand.New(rand.NewPCG(uint64(p), 1))
		senders.Go(func() {
			for i := range int32(n) {
				value := fmt.Sprintf("%d/%d", p, i)
				for {
					s := routers[random.IntN(len(routers))].NewSession()
					ch := make(chan router.Appended, 1)
					err := s.Produce(t.Context(), router.AcksAll, 20*time.Second, []router.Append{{TopicPartition: tp0, Batch: from(pid+p, 0, i, value)}}, func(a []router.Appended) { ch <- a[0] })
					s.Close()
					if err != nil {
						failed <- err
						return
					}
					a := <-ch
					if a.Err != nil && federation.KindOf(a.Err).Retriable() {
						continue
					}
					if a.Err != nil {
						failed <- fmt.Errorf("%s: %w", value, a.Err)
						return
					}
					tell <- told{value, a.BaseOffset}
					break
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(7, 7))
	fault := func() {
		for _, c := range w.clusters {
			switch random.IntN(4) {
			case 0:
				c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut})
			case 1:
				c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas})
			case 2:
				for p := range int32(partitions) {
					if c.MoveTopicPartition("phys", p, int32(random.IntN(2))) != nil {
						return
					}
				}
			}
		}
	}
	for i := 1; i < 2*partitions; i++ {
		fault()
		if random.IntN(2) == 0 {
			w.headState(federation.ExtentSealing)
			for _, r := range routers {
				w.hold(t, r)
			}
			w.open(t, w.seal(t), []string{"a", "b"}[i%2], i/2)
		} else {
			w.Lapse(true)
			end := w.seal(t)
			fault()
			w.open(t, end, []string{"a", "b"}[i%2], i/2)
			w.Lapse(false)
		}
		rest(t, 20*time.Millisecond)
	}
	senders.Wait()
	require.Empty(t, failed)
	at := make(map[string]federation.LogicalOffset)
	next := make([]int, producers)
	for _, v := range values(t, session(t, w.r), tp0, 0, producers*n) {
		var offset federation.LogicalOffset
		var p, i int
		_, err := fmt.Sscanf(v, "%d:%d/%d", &offset, &p, &i)
		require.NoError(t, err)
		require.Equal(t, next[p], i, "of producer %d at %d", p, offset)
		next[p]++
		at[fmt.Sprintf("%d/%d", p, i)] = offset
	}
	for range producers * n {
		if said := <-tell; said.at >= 0 {
			require.Equal(t, at[said.value], said.at, said.value)
		}
	}
}
