package router_test

import (
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
)

// clusterState publishes the state of a physical cluster.
func (w *world) clusterState(name federation.ClusterName, s federation.ClusterState) {
	w.Change(func(m *federation.Map) {
		c := *m.Clusters[name]
		c.State = s
		m.Clusters = maps.Clone(m.Clusters)
		m.Clusters[name] = &c
	})
}

// fail marks the cluster of tp0's head as failed, and the head as sealing.
func (w *world) fail(t *testing.T) {
	t.Helper()
	w.clusterState(w.part(t).Head().Cluster, federation.ClusterFailed)
	w.headState(federation.ExtentSealing)
}

// gap is how far behind an extent whose cluster failed the next one begins.
const gap = 1 << 40

// suspend ends the head without its cluster, and opens the next one.
func (w *world) suspend(t *testing.T, h federation.HeldHead, cluster string, partition int) {
	t.Helper()
	next := federationtest.Head(cluster, "phys", partition)
	next.Number = w.part(t).Head().Number + 1
	primer := w.append(t, next, mark.Primer(w.subject(t, next.Number), marksBy+int64(next.Number), time.Now()))
	next.Start = primer + 1
	// What the last readable extent knew at its end is carried over.
	for _, e := range slices.Backward(w.part(t).Extents) {
		if e.State != federation.ExtentSealed {
			continue
		}
		openings, err := mark.Openings(w.subject(t, next.Number), marksBy+int64(next.Number), w.producersAt(t, e, e.End), 1<<20, time.Now())
		require.NoError(t, err)
		if len(openings) > 0 {
			next.Start = w.append(t, next, openings...) + 1
			next.Opening = primer + 1
		}
		break
	}
	w.changePart(func(p *federation.Partition, head *federation.Extent) {
		head.State, head.Seen, head.Acknowledged = federation.ExtentSuspended, h.SeenEnd, h.AcknowledgedEnd
		next.Base = head.Logical(max(h.SeenEnd, h.AcknowledgedEnd)) + gap
		p.Epoch++
		next.Epochs = allEpochs(p.Epoch)
		p.Extents = append(p.Extents, next)
	})
}

// failOver is fail, hold and suspend.
func (w *world) failOver(t *testing.T, cluster string, partition int) federation.HeldHead {
	t.Helper()
	w.fail(t)
	h := w.hold(t, w.r)
	w.suspend(t, h, cluster, partition)
	return h
}

// restore seals the suspended extent i of tp0.
func (w *world) restore(t *testing.T, i int, f func(e *federation.Extent)) {
	t.Helper()
	w.changePart(func(p *federation.Partition, _ *federation.Extent) {
		e := *p.Extents[i]
		e.State = federation.ExtentSealed
		f(&e)
		p.Extents[i] = &e
	})
	w.clusterState(w.part(t).Extents[i].Cluster, federation.ClusterActive)
}

// hang has a cluster take requests and answer none, until the test ends or it wakes.
func hang(t *testing.T, c *kfake.Cluster) (wake func()) {
	t.Helper()
	gate := make(chan struct{})
	wake = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(wake)
	c.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		select {
		case <-gate:
			c.DropControl()
			return nil, nil, false
		default:
		}
		c.KeepControl()
		c.SleepControl(func() { <-gate })
		return nil, nil, false
	})
	return wake
}

// away calls f with a cluster that takes requests and never answers, and with one that is dead.
func away(t *testing.T, f func(t *testing.T, stop func(*kfake.Cluster))) {
	t.Helper()
	t.Run("hangs", func(t *testing.T) { f(t, func(c *kfake.Cluster) { hang(t, c) }) })
	t.Run("dead", func(t *testing.T) { f(t, (*kfake.Cluster).Close) })
}

// Appends in flight to a cluster that fails come back at once, and go on at the new
// head, once, in order.
func TestAppendsInFlightWhenTheClusterFails(t *testing.T) {
	away(t, func(t *testing.T, stop func(*kfake.Cluster)) {
		w := newWorld(t, 1)
		w.orders()
		s := session(t, w.r)
		for i := range int32(3) {
			added(t, s, one(i, strconv.Itoa(int(i))))
			added(t, s, from(pid+1, 5, i, "other"))
		}
		stop(w.clusters["a"])
		var flying []<-chan router.Appended
		for i := range int32(5) {
			flying = append(flying, begin(t, s, time.Minute, one(3+i, strconv.Itoa(int(3+i)))))
		}
		unanswered(t, flying...)
		began := time.Now()
		w.fail(t)
		h := w.hold(t, w.r)
		require.EqualValues(t, 6, h.AcknowledgedEnd)
		require.Less(t, time.Since(began), 2*time.Second, "the appends in flight hang")
		unanswered(t, flying...)
		w.suspend(t, h, "b", 0)
		base := federation.LogicalOffset(6 + gap)
		for i, ch := range flying {
			a := answerOf(t, ch)
			require.NoError(t, a.Err)
			require.Equal(t, base+federation.LogicalOffset(i), a.BaseOffset)
		}
		require.Less(t, time.Since(began), 4*time.Second)
		// What was acknowledged is known, and what was not is not taken for it.
		repeat := answerOf(t, begin(t, s, 10*time.Second, one(2, "2")))
		require.NoError(t, repeat.Err)
		require.True(t, repeat.Duplicate)
		require.EqualValues(t, -1, repeat.BaseOffset)
		require.Equal(t, federation.ProducerFenced, refused(t, s, from(pid+1, 4, 3, "older epoch")))
		require.Equal(t, base+5, added(t, s, from(pid+1, 5, 3, "other goes on")))
		require.Equal(t, base+6, added(t, s, from(pid+2, 0, 0, "new")))
		require.Equal(t, base+7, added(t, s, one(8, "8")))
	})
}

// What no broker could recognise a second time is not sent to the new head: whether the
// old one has it, nobody knows.
func TestOutcomeIsUnknownWhenTheClusterFails(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	added(t, s, batch(recordbatch.NoProducer, "0"))
	hang(t, w.clusters["a"])
	sent := w.r.Stats().AppendRequests
	plain := begin(t, s, time.Minute, batch(recordbatch.NoProducer, "plain"))
	require.Eventually(t, func() bool { return w.r.Stats().AppendRequests > sent }, 10*time.Second, time.Millisecond)
	later := begin(t, session(t, w.r), time.Minute, batch(recordbatch.NoProducer, "not sent"))
	unanswered(t, plain, later)
	w.failOver(t, "b", 0)
	require.Equal(t, federation.Timeout, federation.KindOf(answerOf(t, plain).Err))
	require.EqualValues(t, 1+gap, answerOf(t, later).BaseOffset)
}

// A gateway that does not know a producer lets it in as it does at any head: when
// nothing comes before.
func TestProducerGoesOnThroughAnotherGateway(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	for i := range int32(3) {
		added(t, s, one(i, "v"))
	}
	gateway := w.router(t, router.Config{EarlyWait: 100 * time.Millisecond}, nil)
	other := session(t, gateway)
	w.failOver(t, "b", 0)
	b3, b4 := begin(t, other, 10*time.Second, one(3, "3")), begin(t, other, 10*time.Second, one(4, "4"))
	require.Equal(t, federation.NoLeader, federation.KindOf(answerOf(t, b3).Err))
	require.Equal(t, federation.NoLeader, federation.KindOf(answerOf(t, b4).Err))
	other = session(t, gateway) // it comes again by another connection, so another lane
	b3, b4 = begin(t, other, 10*time.Second, one(3, "3")), begin(t, other, 10*time.Second, one(4, "4"))
	for i, ch := range []<-chan router.Appended{b3, b4} {
		a := answerOf(t, ch)
		require.NoError(t, a.Err)
		require.EqualValues(t, 3+gap+i, a.BaseOffset)
	}
	// The first one finds it there.
	require.EqualValues(t, 5+gap, added(t, s, one(5, "5")))
}

// What a lane knows of producers outlasts several heads that are lost, one that was
// opened with producers carried over, and moves after it.
func TestProducersOverSeveralFailovers(t *testing.T) {
	w := newWorldWith(t, 3, router.Config{EarlyWait: time.Minute}, nil)
	w.orders()
	s := session(t, w.r)
	added(t, s, from(pid+1, 0, 0, "only at the first"))
	added(t, s, from(pid, 0, 0, "0"))
	w.move(t, "b", 0) // both are carried over
	added(t, s, from(pid, 0, 1, "1"))
	w.failOver(t, "a", 1)
	added(t, s, from(pid+2, 0, 0, "only here"))
	w.clusterState("b", federation.ClusterActive)
	w.failOver(t, "b", 1)
	w.clusterState("a", federation.ClusterActive)
	base := w.part(t).Head().Base
	require.Equal(t, base, added(t, s, from(pid, 0, 2, "2")))
	require.Equal(t, base+1, added(t, s, from(pid+1, 0, 1, "goes on")))
	w.move(t, "a", 2)
	require.Equal(t, base+2, added(t, s, from(pid+2, 0, 1, "goes on")))
	require.Equal(t, base+3, added(t, s, from(pid, 0, 3, "3")))
	for _, b := range [][]byte{from(pid, 0, 1, "1"), from(pid+2, 0, 0, "only here"), from(pid+1, 0, 0, "only at the first")} {
		a := answerOf(t, begin(t, s, 10*time.Second, b))
		require.NoError(t, a.Err)
		require.True(t, a.Duplicate)
	}
	require.Equal(t, base+4, added(t, s, from(pid+2, 0, 2, "and on")))
}

// With room for few producers, those of lost heads are forgotten too, and let in late.
func TestProducersOfLostHeadsAreForgotten(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{ProducersMax: 3, EarlyAsk: time.Millisecond, EarlyWait: 50 * time.Millisecond}, nil)
	w.orders()
	s := session(t, w.r)
	for p := range int64(3) {
		added(t, s, from(pid+p, 0, 0, "v"))
	}
	w.failOver(t, "b", 0)
	require.EqualValues(t, 3+gap, added(t, s, from(pid+3, 0, 0, "one too many")))
	require.Equal(t, federation.NoLeader, refused(t, s, from(pid, 0, 1, "v")))
	require.EqualValues(t, 4+gap, added(t, s, from(pid, 0, 1, "v")))
}

// An append that a cluster which hangs has taken comes back also if this gateway sees
// the map only when the partition has its next head.
func TestMapComesLate(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	added(t, s, one(0, "0"))
	hang(t, w.clusters["a"])
	flying := begin(t, s, time.Minute, one(1, "1"))
	unanswered(t, flying)
	w.clusterState("a", federation.ClusterFailed)
	began := time.Now()
	w.suspend(t, federation.HeldHead{AcknowledgedEnd: 1}, "b", 0)
	a := answerOf(t, flying)
	require.NoError(t, a.Err)
	require.EqualValues(t, 1+gap, a.BaseOffset)
	require.Less(t, time.Since(began), 3*time.Second)
}

// What waits for a cluster that hangs, for its leaders, a connection or what was
// carried over, goes on with the map.
func TestAppendsWaitForNothingOfAFailedCluster(t *testing.T) {
	for name, before := range map[string]func(t *testing.T, w *world){
		"leader": func(*testing.T, *world) {},
		"connection": func(t *testing.T, w *world) {
			_, err := look(t.Context(), session(t, w.r), 0, time.Millisecond, false) // it knows the leader now
			require.NoError(t, err)
		},
		"opening": func(t *testing.T, w *world) {
			added(t, session(t, w.r), one(0, "0"))
			w.move(t, "b", 0)
			w.clusters["a"], w.clusters["b"] = w.clusters["b"], w.clusters["a"]
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			w.orders()
			before(t, w)
			hang(t, w.clusters["a"])
			s := session(t, w.r)
			waiting := begin(t, s, time.Minute, from(pid+7, 0, 0, "v"))
			unanswered(t, waiting)
			began := time.Now()
			to := map[federation.ClusterName]string{"a": "b", "b": "a"}[w.part(t).Head().Cluster]
			w.failOver(t, to, 1)
			require.NoError(t, answerOf(t, waiting).Err)
			require.Less(t, time.Since(began), 2*time.Second)
		})
	}
}

// A head that was closed and is opened again goes on with what was held, on the cluster
// that was there all the time.
func TestFailoverTakenBack(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	added(t, s, one(0, "0"))
	require.Equal(t, []string{"0:0"}, readTo(t, s, 0, 1, false))
	w.fail(t)
	require.Equal(t, federation.HeldHead{TopicPartition: tp0, AcknowledgedEnd: 1, SeenEnd: 1}, w.hold(t, w.r))
	held := begin(t, s, 10*time.Second, one(1, "1"))
	unanswered(t, held)
	w.headState(federation.ExtentOpen)
	require.EqualValues(t, 1, answerOf(t, held).BaseOffset)
	require.Equal(t, []string{"0:0", "1:1"}, readTo(t, s, 0, 2, false))
	w.headState(federation.ExtentSealing)
	require.Equal(t, federation.HeldHead{TopicPartition: tp0, AcknowledgedEnd: 2, SeenEnd: 2}, w.hold(t, w.r))
}

// A late map: hooked calls f before its n-th Current from now on returns.
type hooked struct {
	*world
	left atomic.Int64
	f    func()
}

func (h *hooked) Current() *federation.Map {
	m := h.world.Current()
	if h.left.Add(-1) == 0 {
		h.f()
	}
	return m
}

// Whenever the head is closed while an answer is on its way to a reader, the records
// are counted, or not given out; the gateway's report has all that are given out.
func TestReadsOnTheirWayAreCountedOrSuppressed(t *testing.T) {
	for name, tailed := range map[string]bool{"direct": false, "tail": true} {
		t.Run(name, func(t *testing.T) {
			counted, suppressed := 0, 0
			for n := int64(1); n <= 24; n++ {
				w := newWorld(t, 1)
				w.orders()
				h := &hooked{world: w}
				h.left.Store(-1)
				r := router.New(t.Context(), router.Config{}, router.Deps{Maps: h, Clusters: w.pool, Lease: w, ProducerIDs: &ids{}})
				s := session(t, r)
				reports := make(chan federation.HeldHead, 1)
				h.f = func() {
					w.fail(t)
					done := make(chan struct{})
					go func() {
						defer close(done)
						if heads, err := r.Hold(t.Context(), w.Current()); err == nil {
							reports <- heads[0]
						}
					}()
					select { // here, if nobody waits for us
					case <-done:
					case <-time.After(5 * time.Millisecond):
					}
				}
				added(t, s, one(0, "0"))
				at := federation.LogicalOffset(0)
				if tailed { // it waits at 1, and gets what others wrote from the cache
					readTo(t, s, 0, 1, false)
					added(t, s, one(1, "1"))
					_, err := look(t.Context(), session(t, r), 1, 5*time.Second, false)
					require.NoError(t, err)
					at = 1
				}
				h.left.Store(n)
				g, err := look(t.Context(), s, at, 50*time.Millisecond, false)
				require.NoError(t, err)
				if h.left.Load() > 0 {
					h.left.Store(1)
					h.Current()
				}
				report := <-reports
				require.LessOrEqual(t, g.next, federation.LogicalOffset(report.SeenEnd), "at call %d", n)
				if g.next > at {
					counted++
				} else {
					suppressed++
				}
				again, err := look(t.Context(), s, at, 20*time.Millisecond, false)
				require.NoError(t, err)
				require.Empty(t, again.values, "at call %d", n)
				r.Close()
			}
			require.Positive(t, counted)
			require.Positive(t, suppressed)
		})
	}
}

// Readers of all kinds are at work when the head is closed: none has more than the
// gateway has told, then or later.
func TestNothingBehindSeenIsGivenOut(t *testing.T) {
	both(t, func(t *testing.T, committed bool) {
		w := newWorld(t, 5)
		w.orders()
		s := session(t, w.r)
		next := int32(0)
		for i := 1; i < 10; i++ {
			var seen atomic.Int64
			var readers sync.WaitGroup
			base := w.part(t).Head().Base
			start := federation.LogicalOffset(w.part(t).Head().Start)
			stop := make(chan struct{})
			for k := range 6 {
				readers.Go(func() {
					r := w.r.NewSession()
					defer r.Close()
					for at := base; ; {
						g, err := look(t.Context(), r, at, time.Duration(k)*5*time.Millisecond, committed)
						if err != nil {
							return
						}
						if g.next > at && at < base+gap/2 && g.next < base+gap/2 {
							for old := seen.Load(); int64(g.next-base+start) > old && !seen.CompareAndSwap(old, int64(g.next-base+start)); old = seen.Load() {
							}
						}
						if at = g.next; k%2 == 0 && i%3 > 0 {
							at = base // again and again
						}
						select {
						case <-stop:
							return
						default:
						}
					}
				})
			}
			var all []<-chan router.Appended
			for range 20 + 7*i {
				all = append(all, begin(t, s, 10*time.Second, one(next, "v")))
				next++
				if next%8 == 0 {
					answerOf(t, all[len(all)-1])
					all = all[:len(all)-1]
				}
			}
			require.Eventually(t, func() bool { return seen.Load() > 0 }, 10*time.Second, time.Millisecond)
			w.fail(t)
			h := w.hold(t, w.r)
			rest(t, 20*time.Millisecond)
			require.LessOrEqual(t, seen.Load(), int64(h.SeenEnd))
			w.suspend(t, h, []string{"a", "b"}[i%2], i/2)
			w.clusterState(w.part(t).Extents[i-1].Cluster, federation.ClusterActive)
			rest(t, 20*time.Millisecond)
			close(stop)
			readers.Wait()
			require.LessOrEqual(t, seen.Load(), int64(h.SeenEnd))
			require.Positive(t, h.SeenEnd)
			for _, ch := range all {
				require.NoError(t, answerOf(t, ch).Err)
			}
		}
	})
}

// What a lane has seen acknowledged by a head that is lost is newer than what was carried
// over from the extent before it: a producer goes on where it stands, over several such.
func TestProducerGoesOnBehindALostHeadThatWasMovedBefore(t *testing.T) {
	w := newWorld(t, 3)
	w.orders()
	s := session(t, w.r)
	sequence := int32(0)
	next := func() {
		t.Helper()
		added(t, s, one(sequence, strconv.Itoa(int(sequence))))
		sequence++
	}
	next()
	next()
	w.move(t, "b", 0)
	next()
	next()
	w.failOver(t, "a", 1)
	next()
	w.clusterState("b", federation.ClusterActive)
	w.failOver(t, "b", 1)
	w.clusterState("a", federation.ClusterActive)
	w.failOver(t, "a", 2) // nothing was written to the one before
	next()
	// Repeats of each are known.
	for i := range sequence {
		a := answerOf(t, begin(t, s, 10*time.Second, one(i, strconv.Itoa(int(i)))))
		require.NoError(t, a.Err)
		require.True(t, a.Duplicate || i == sequence-1)
	}
}
