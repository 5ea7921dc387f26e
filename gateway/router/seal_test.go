package router_test

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
)

// Hold answers when nothing is in flight on any lane, and nothing is acknowledged
// from the old head after it; what came meanwhile goes on at the new one, in order.
func TestHoldWaitsForWhatIsInFlight(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	const lanes = 4
	sessions := make([]router.Session, lanes)
	for i := range sessions {
		sessions[i] = session(t, w.r)
		added(t, sessions[i], from(pid+int64(i), 0, 0, "first")) // opens the head
	}
	release := stall(w.clusters["a"])
	var flying, held []<-chan router.Appended
	for i, s := range sessions {
		flying = append(flying, begin(t, s, 10*time.Second, from(pid+int64(i), 0, 1, "flying")))
	}
	unanswered(t, flying...)
	w.headState(federation.ExtentSealing)
	answer := make(chan federation.HeldHead, 1)
	go func() {
		heads, err := w.r.Hold(t.Context(), w.Current())
		if err == nil {
			answer <- heads[0]
		}
		close(answer)
	}()
	for i, s := range sessions {
		for j := range 3 {
			held = append(held, begin(t, s, 10*time.Second, from(pid+int64(i), 0, int32(2+j), "held")))
		}
	}
	unanswered(t, append(flying, held...)...)
	require.Empty(t, answer, "appends are in flight")
	release()
	h := <-answer
	require.Equal(t, federation.HeldHead{TopicPartition: tp0, AcknowledgedEnd: 2 * lanes}, h)
	for _, ch := range flying {
		a := answerOf(t, ch)
		require.NoError(t, a.Err)
		require.Less(t, a.BaseOffset, federation.LogicalOffset(2*lanes))
	}
	unanswered(t, held...)
	end := w.seal(t)
	require.EqualValues(t, 2*lanes, end, "something was appended after Hold")
	w.open(t, end, "b", 0)
	for i := range lanes {
		last := federation.LogicalOffset(end) - 1
		for j := range 3 {
			a := answerOf(t, held[3*i+j])
			require.NoError(t, a.Err)
			require.Greater(t, a.BaseOffset, last)
			last = a.BaseOffset
		}
	}
	require.EqualValues(t, 3*lanes, w.r.Stats().HeldAppends)
	require.Len(t, values(t, sessions[0], tp0, 0, 5*lanes), 5*lanes)
}

// Hold ends with its context, and does not watch a head that was opened again.
func TestHoldOfAnOpenHeadEnds(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	added(t, s, one(0, "a"))
	release := stall(w.clusters["a"])
	flying := begin(t, s, 10*time.Second, one(1, "b"))
	unanswered(t, flying)
	w.headState(federation.ExtentSealing)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := w.r.Hold(ctx, w.Current())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	w.headState(federation.ExtentOpen)
	release()
	require.NoError(t, answerOf(t, flying).Err)
	require.EqualValues(t, 2, added(t, s, one(2, "c")))
	w.headState(federation.ExtentSealing)
	require.EqualValues(t, 3, w.hold(t, w.r).AcknowledgedEnd)
}

// What a topic of the same name had acknowledged before says nothing.
func TestHoldOfATopicCreatedAgain(t *testing.T) {
	w := newWorld(t, 2)
	w.orders()
	added(t, session(t, w.r), one(0, "a"))
	w.Change(func(m *federation.Map) { delete(m.Topics, "orders") })
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 1)})
	w.headState(federation.ExtentSealing)
	require.Zero(t, w.hold(t, w.r).AcknowledgedEnd)
}

// A head that is taken back goes on with what was held, in order.
func TestTakenBack(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	added(t, s, one(0, "0"))
	w.headState(federation.ExtentSealing)
	require.EqualValues(t, 1, w.hold(t, w.r).AcknowledgedEnd)
	var held []<-chan router.Appended
	for i := range 5 {
		held = append(held, begin(t, s, 10*time.Second, one(int32(1+i), strconv.Itoa(1+i))))
	}
	w.touch()
	unanswered(t, held...)
	w.headState(federation.ExtentOpen)
	for i, ch := range held {
		a := answerOf(t, ch)
		require.NoError(t, a.Err)
		require.EqualValues(t, 1+i, a.BaseOffset)
	}
	w.headState(federation.ExtentSealing)
	require.EqualValues(t, 6, w.hold(t, w.r).AcknowledgedEnd)
}

// An append waits HoldMax for its head, whatever else the map says meanwhile; the
// time is not taken off its own once the head is open.
func TestHoldMax(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{HoldMax: 400 * time.Millisecond}, nil)
	w.orders()
	s := session(t, w.r)
	added(t, s, one(0, "0"))
	w.headState(federation.ExtentSealing)
	began := time.Now()
	ch := begin(t, s, 10*time.Second, one(1, "1"))
	for range 3 {
		rest(t, 100*time.Millisecond)
		w.touch()
	}
	a := answerOf(t, ch)
	require.Equal(t, federation.NoLeader, federation.KindOf(a.Err), "%v", a.Err)
	require.GreaterOrEqual(t, time.Since(began), 400*time.Millisecond)
	require.Less(t, time.Since(began), 3*time.Second)

	ch = begin(t, s, 10*time.Second, one(1, "1"))
	unanswered(t, ch)
	release := stall(w.clusters["a"])
	w.headState(federation.ExtentOpen)
	refuseOnce(w.clusters["a"], kerr.NotEnoughReplicas)
	rest(t, 700*time.Millisecond)
	release()
	a = answerOf(t, ch)
	require.NoError(t, a.Err)
	require.EqualValues(t, 1, a.BaseOffset)
}

// refuseOnce has a cluster refuse the next Produce request, without effect.
func refuseOnce(c *kfake.Cluster, err *kerr.Error) {
	c.ControlKey(kmsg.Produce.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		return refuse(req.(*kmsg.ProduceRequest), err.Code), nil, true
	})
}

// Every append has one answer: when the router ends, and when the topic is deleted,
// while they are held, early, looked for in old extents, or submitted.
func TestEveryAppendIsAnswered(t *testing.T) {
	for name, end := range map[string]func(w *world){
		"router ends":      func(w *world) { w.r.Close() },
		"topic is deleted": func(w *world) { w.Change(func(m *federation.Map) { delete(m.Topics, "orders") }) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, 2, router.Config{EarlyWait: time.Minute, HoldMax: time.Minute, Lanes: 2}, nil)
			w.orders()
			s, other := session(t, w.r), session(t, w.r)
			added(t, s, one(0, "0"))
			w.move(t, "b", 0)
			early := begin(t, s, time.Minute, from(pid+1, 0, 5, "early"))
			unanswered(t, early)
			w.headState(federation.ExtentSealing)
			held := begin(t, s, time.Minute, one(1, "1"))
			otherHeld := begin(t, other, time.Minute, one(2, "2"))
			unanswered(t, early, held, otherHeld)
			end(w)
			for _, ch := range []<-chan router.Appended{early, held, otherHeld} {
				require.Error(t, answerOf(t, ch).Err)
			}
			unanswered(t, early, held, otherHeld)
			require.Zero(t, w.r.Stats().AppendBytesInFlight)
		})
	}
}

// Brokers that say nothing do not keep the router from ending, whatever it waits for:
// appends, the opening of a head, whom a head knows, and repeats in old extents.
func TestRouterEndsWhileBrokersAreSilent(t *testing.T) {
	w := newWorldWith(t, 2, router.Config{EarlyWait: time.Minute}, nil)
	w.orders()
	added(t, session(t, w.r), one(0, "0"))
	w.move(t, "b", 0)
	s := session(t, w.r)
	added(t, s, one(1, "1"))
	gate := make(chan struct{})
	defer close(gate)
	silence := func(name string, keys ...kmsg.Key) {
		c := w.clusters[name]
		for _, k := range keys {
			c.ControlKey(k.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
				c.SleepControl(func() { <-gate })
				return nil, nil, false
			})
		}
	}
	r := w.router(t, router.Config{EarlyWait: time.Minute}, nil)
	warm := session(t, r)
	added(t, warm, from(pid+1, 0, 0, "x"))
	silence("a", kmsg.Fetch)
	silence("b", kmsg.Produce, kmsg.Fetch, kmsg.OffsetForLeaderEpoch)
	appends := []<-chan router.Appended{
		begin(t, warm, time.Minute, from(pid+1, 0, 1, "flying")),
		begin(t, warm, time.Minute, from(pid+2, 0, 0, "opens")),
		begin(t, warm, time.Minute, from(pid+2, 0, 1, "behind it")),
		begin(t, warm, time.Minute, from(pid+3, 0, 1, "early")),
		begin(t, s, time.Minute, one(0, "0")), // a repeat: what s knows tells
		begin(t, session(t, r), time.Minute, from(pid+4, 0, 0, "does not know what was carried over")),
	}
	unanswered(t, appends...)
	began := time.Now()
	r.Close()
	w.r.Close()
	require.Less(t, time.Since(began), 5*time.Second)
	for i, ch := range appends {
		a := answerOf(t, ch)
		require.True(t, a.Err != nil || a.Duplicate, "append %d", i)
	}
	unanswered(t, appends...)
	require.Zero(t, r.Stats().AppendBytesInFlight+w.r.Stats().AppendBytesInFlight)
}

// What is submitted while the router ends has an answer, or an error of Produce.
func TestProduceWhileTheRouterEnds(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	for range 20 {
		r := w.router(t, router.Config{Lanes: 1}, nil)
		s := session(t, r)
		var begun, answered atomic.Int64
		var senders sync.WaitGroup
		for range 4 {
			senders.Go(func() {
				for range 50 {
					err := s.Produce(t.Context(), router.AcksAll, time.Minute, []router.Append{{TopicPartition: tp0, Batch: batch(recordbatch.NoProducer, "v")}}, func([]router.Appended) { answered.Add(1) })
					if err == nil {
						begun.Add(1)
					}
				}
			})
		}
		r.Close()
		senders.Wait()
		require.Eventually(t, func() bool { return begun.Load() == answered.Load() }, 10*time.Second, time.Millisecond)
		require.Eventually(t, func() bool { return r.Stats().AppendBytesInFlight == 0 }, 10*time.Second, time.Millisecond)
	}
}

// Batches whose answer was lost before the head moved are answered as repeats, with
// the offset that they have; nothing is appended twice. What overlaps is refused.
func TestRepeatsOverMoves(t *testing.T) {
	w := newWorld(t, 2)
	w.orders()
	s := session(t, w.r)
	require.EqualValues(t, 0, added(t, s, from(pid, 0, 0, "0", "1")))
	require.EqualValues(t, 2, added(t, s, from(pid, 0, 2, "2", "3")))
	require.EqualValues(t, 4, added(t, s, from(pid+1, 0, 0, "other")))
	for i, to := range []struct {
		cluster   string
		partition int
	}{{"b", 0}, {"a", 1}} {
		w.move(t, to.cluster, to.partition)
		repeats := w.r.Stats().RepeatedAppends
		for sequence := int32(0); sequence < 4; sequence += 2 {
			a := answerOf(t, begin(t, session(t, w.r), 10*time.Second, from(pid, 0, sequence, strconv.Itoa(int(sequence)), strconv.Itoa(int(sequence+1)))))
			require.NoError(t, a.Err)
			require.True(t, a.Duplicate)
			require.EqualValues(t, sequence, a.BaseOffset, "after %d moves", i+1)
		}
		require.Equal(t, repeats+2, w.r.Stats().RepeatedAppends)
		require.Equal(t, federation.OutOfOrderSequence, refused(t, s, from(pid, 0, 3, "3", "4")))
	}
	require.EqualValues(t, 5, added(t, s, from(pid, 0, 4, "4")))
	// Also when the head knows the producer.
	a := answerOf(t, begin(t, s, 10*time.Second, from(pid, 0, 2, "2", "3")))
	require.NoError(t, a.Err)
	require.EqualValues(t, 2, a.BaseOffset)
	require.Equal(t, []string{"0:0", "1:1", "2:2", "3:3", "4:other", "5:4"}, values(t, s, tp0, 0, 6))
}

// A producer that has written so much since the move that its sequences come round
// to those that were carried over writes on: they are no repeats.
func TestSequencesComeRound(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	const last = 1 << 20
	w.append(t, w.part(t).Head(), from(pid+1, 0, 0, "x"))
	w.append(t, w.part(t).Head(), from(pid, 0, last, "before"))
	w.move(t, "b", 0)
	// The new head has what it wrote since: all but 10 of 2^31 records.
	w.append(t, w.part(t).Head(), from(pid, 0, last-10, "much later"))
	for i := range int32(5) {
		require.EqualValues(t, 3+i, added(t, s, one(last-9+i, "on")))
	}
	require.Zero(t, w.r.Stats().RepeatedAppends)
}

// An older epoch is fenced, by the carried producer alone; a newer one begins with 0,
// and the sequence after 2^31-1 is 0.
func TestEpochsAndWrapOverMoves(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{EarlyWait: 200 * time.Millisecond}, nil)
	w.orders()
	s := session(t, w.r)
	head := w.part(t).Head()
	w.append(t, head, from(pid, 3, 0, "a"))
	w.append(t, head, from(pid+1, 0, 0, "seen"))
	w.append(t, head, from(pid+2, 0, math.MaxInt32, "last"))
	w.move(t, "b", 0)
	produced := w.r.Stats().AppendRequests
	require.Equal(t, federation.ProducerFenced, refused(t, s, from(pid, 2, 1, "old")))
	require.Equal(t, federation.NoLeader, refused(t, s, from(pid, 4, 1, "too early")))
	require.Equal(t, produced, w.r.Stats().AppendRequests, "it was left to the broker")
	require.EqualValues(t, 3, added(t, s, from(pid, 4, 0, "new")))
	require.EqualValues(t, 4, added(t, s, from(pid+2, 0, 0, "wrapped")))
	a := answerOf(t, begin(t, s, 10*time.Second, from(pid+2, 0, math.MaxInt32, "last")))
	require.NoError(t, a.Err)
	require.EqualValues(t, 2, a.BaseOffset)
}

// A batch that comes before those that it follows, through another session or
// another gateway, waits for them.
func TestEarlyBatchWaits(t *testing.T) {
	for name, moved := range map[string]bool{"first head": false, "moved head": true} {
		for name2, far := range map[string]bool{"another lane": false, "another gateway": true} {
			t.Run(name+", "+name2, func(t *testing.T) {
				w := newWorldWith(t, 1, router.Config{EarlyWait: 10 * time.Second, EarlyAsk: 20 * time.Millisecond}, nil)
				w.orders()
				s := session(t, w.r)
				other := session(t, w.r)
				if far {
					other = session(t, w.router(t, router.Config{}, nil))
				}
				first := int32(0)
				if moved {
					added(t, s, one(0, "0"))
					added(t, s, one(1, "1"))
					w.move(t, "b", 0)
					first = 2
				}
				e1 := begin(t, s, 10*time.Second, one(first+1, "second"))
				e2 := begin(t, s, 10*time.Second, one(first+2, "third"))
				unanswered(t, e1, e2)
				// Others are not held up.
				added(t, s, from(pid+1, 0, 0, "other"))
				added(t, s, batch(recordbatch.NoProducer, "plain"))
				base := federation.LogicalOffset(first) + 2
				require.Equal(t, base, added(t, other, one(first, "first")))
				for i, ch := range []<-chan router.Appended{e1, e2} {
					a := answerOf(t, ch)
					require.NoError(t, a.Err)
					require.Equal(t, base+1+federation.LogicalOffset(i), a.BaseOffset)
				}
				require.Equal(t, []string{fmt.Sprint(base, ":first"), fmt.Sprint(base+1, ":second"), fmt.Sprint(base+2, ":third")}, values(t, s, tp0, base, 3))
			})
		}
	}
}

// A batch whose predecessors do not come is refused for now, and let in when it
// comes again: the producer has nothing else.
func TestEarlyBatchIsRefusedOnce(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{EarlyWait: 100 * time.Millisecond}, nil)
	w.orders()
	s := session(t, w.r)
	write(t, w.clusters["a"], 0, "x") // else kfake refuses them too (KAFKA-15591)
	b7, b8 := begin(t, s, 10*time.Second, one(7, "7")), begin(t, s, 10*time.Second, one(8, "8"))
	require.Equal(t, federation.NoLeader, federation.KindOf(answerOf(t, b7).Err))
	require.Equal(t, federation.NoLeader, federation.KindOf(answerOf(t, b8).Err))
	require.Zero(t, w.r.Stats().AppendRequests)
	require.Equal(t, federation.NoLeader, refused(t, s, one(8, "8")), "the one before it was refused too")
	b7, b8 = begin(t, s, 10*time.Second, one(7, "7")), begin(t, s, 10*time.Second, one(8, "8"))
	for i, ch := range []<-chan router.Appended{b7, b8} {
		a := answerOf(t, ch)
		require.NoError(t, a.Err)
		require.EqualValues(t, 1+i, a.BaseOffset)
	}
}

// The deadline of an early batch holds, also if the head says nothing.
func TestEarlyBatchKeepsItsDeadline(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	added(t, s, from(pid+1, 0, 0, "x"))
	gate := make(chan struct{})
	defer close(gate)
	c := w.clusters["a"]
	c.ControlKey(kmsg.OffsetForLeaderEpoch.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		c.SleepControl(func() { <-gate })
		return nil, nil, false
	})
	began := time.Now()
	early := begin(t, s, 300*time.Millisecond, one(3, "3"))
	added(t, s, from(pid+1, 0, 1, "others go on"))
	require.Error(t, answerOf(t, early).Err)
	require.Less(t, time.Since(began), 3*time.Second)
}

// A cluster that does not allow the question whom it knows is written to all the same.
func TestProducersCannotBeAsked(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{EarlyWait: 100 * time.Millisecond}, nil)
	w.orders()
	s := session(t, w.r)
	c := w.clusters["a"]
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeProducers}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	w.append(t, w.part(t).Head(), one(0, "0"))
	require.Equal(t, federation.NoLeader, refused(t, s, one(1, "1")))
	require.EqualValues(t, 1, added(t, s, one(1, "1")))
}

// Batches behind one that opens the head wait for its answer: the broker would let
// the next one open it when the first is refused for a moment.
func TestOpeningIsNotOvertaken(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	write(t, w.clusters["a"], 0, "x") // else kfake takes sequence 0 only (KAFKA-15591)
	gate := make(chan struct{})
	c := w.clusters["a"]
	c.ControlKey(kmsg.Produce.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.SleepControl(func() { <-gate })
		return refuse(req.(*kmsg.ProduceRequest), kerr.NotEnoughReplicas.Code), nil, true
	})
	var all []<-chan router.Appended
	for i := range 5 {
		all = append(all, begin(t, s, 10*time.Second, one(int32(i), strconv.Itoa(i))))
	}
	unanswered(t, all...)
	close(gate)
	for i, ch := range all {
		a := answerOf(t, ch)
		require.NoError(t, a.Err, "batch %d", i)
		require.EqualValues(t, 1+i, a.BaseOffset)
	}
}

// Many producers open a head together; their batches share requests with nobody's harm.
func TestProducersOpenTogether(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{Lanes: 1}, nil)
	w.orders()
	s := session(t, w.r)
	release := stall(w.clusters["a"])
	var all [][]<-chan router.Appended
	for p := range int64(4) {
		all = append(all, []<-chan router.Appended{begin(t, s, 10*time.Second, from(pid+p, 0, 0, "a"))})
	}
	for p := range int64(4) {
		all[p] = append(all[p], begin(t, s, 10*time.Second, from(pid+p, 0, 1, "b")))
	}
	require.Eventually(t, func() bool { return w.r.Stats().AppendRequests == 4 }, 10*time.Second, time.Millisecond, "one waits for the other")
	release()
	for _, of := range all {
		last := federation.LogicalOffset(-1)
		for _, ch := range of {
			a := answerOf(t, ch)
			require.NoError(t, a.Err)
			require.Greater(t, a.BaseOffset, last)
			last = a.BaseOffset
		}
	}
}

// A producer that comes to another gateway in the middle goes on at once: the head
// is asked, and knows it.
func TestProducerChangesGateways(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{EarlyWait: time.Minute}, nil)
	w.orders()
	s := session(t, w.r)
	for i := range 3 {
		added(t, s, one(int32(i), strconv.Itoa(i)))
	}
	r := w.router(t, router.Config{EarlyWait: time.Minute}, nil)
	other := session(t, r)
	began := time.Now()
	var all []<-chan router.Appended
	for i := 3; i < 6; i++ {
		all = append(all, begin(t, other, 10*time.Second, one(int32(i), strconv.Itoa(i))))
	}
	for i, ch := range all {
		a := answerOf(t, ch)
		require.NoError(t, a.Err)
		require.EqualValues(t, 3+i, a.BaseOffset)
	}
	require.Less(t, time.Since(began), 2*time.Second)
	require.EqualValues(t, 1, r.Stats().ProducerQueries)
	require.Zero(t, w.r.Stats().ProducerQueries)
}

// What a leader has, but its replicas do not, says nothing of whom the head knows:
// another leader may lack it, and would be opened by the batch behind it.
func TestHeadKnowsWhatIsReplicated(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	added(t, session(t, w.r), one(0, "0"))
	c := w.clusters["a"]
	var replicated atomic.Bool
	c.ControlKey(kmsg.OffsetForLeaderEpoch.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if replicated.Load() {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
		for _, rt := range req.(*kmsg.OffsetForLeaderEpochRequest).Topics {
			st := kmsg.NewOffsetForLeaderEpochResponseTopic()
			st.Topic = rt.Topic
			for _, rp := range rt.Partitions {
				sp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
				sp.Partition, sp.LeaderEpoch, sp.EndOffset = rp.Partition, rp.LeaderEpoch, 2
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	r := w.router(t, router.Config{EarlyWait: time.Minute, QueryTimeout: time.Second}, nil)
	next := begin(t, session(t, r), 20*time.Second, one(1, "1"))
	rest(t, 300*time.Millisecond)
	unanswered(t, next)
	require.EqualValues(t, 1, r.Stats().ProducerQueries)
	require.Zero(t, r.Stats().AppendRequests)
	replicated.Store(true)
	require.NoError(t, answerOf(t, next).Err)
}

// More producers than are remembered write on.
func TestProducersAreForgotten(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{ProducersMax: 3, EarlyAsk: time.Millisecond}, nil)
	w.orders()
	s := session(t, w.r)
	offset := 0
	for sequence := range int32(2) {
		for p := range int64(5) {
			require.EqualValues(t, offset, added(t, s, from(pid+p, 0, sequence, "v")))
			offset++
		}
	}
}

// Nobody else's batches are marks: readers would wait at them.
func TestProducerIDsOfMarksAreReserved(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	require.Equal(t, federation.InvalidRecord, refused(t, s, from(mark.FirstProducerID+7, 0, 0, "v")))
	require.Zero(t, w.r.Stats().AppendRequests)
}
