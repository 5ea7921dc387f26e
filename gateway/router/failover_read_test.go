package router_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
)

// configure publishes a setting of tp0's topic.
func (w *world) configure(name, value string) {
	w.Change(func(m *federation.Map) {
		topic := *m.Topics[tp0.Topic]
		topic.Config = map[string]string{name: value}
		m.Topics[tp0.Topic] = &topic
	})
}

// suspended is a world whose tp0 has 5 records on cluster a, which stopped, and 2 on b.
func suspended(t *testing.T, read string, stop func(*kfake.Cluster)) (*world, router.Session) {
	t.Helper()
	w := newWorldWith(t, 2, router.Config{QueryTimeout: 5 * time.Second}, nil)
	w.orders()
	w.configure(federation.ConfigFailoverRead, read)
	s := session(t, w.r)
	for i := range int32(5) {
		added(t, s, one(i, strconv.Itoa(int(i))))
	}
	readTo(t, s, 0, 5, false)
	stop(w.clusters["a"])
	h := w.failOver(t, "b", 0)
	require.EqualValues(t, 5, h.SeenEnd)
	added(t, s, one(5, "5"))
	added(t, s, one(6, "6"))
	return w, s
}

// seal appends the seal record to the suspended extent i, and returns its offset.
func (w *world) sealExtent(t *testing.T, i int) federation.PhysicalOffset {
	t.Helper()
	e := w.part(t).Extents[i]
	return w.append(t, e, mark.Seal(w.subject(t, e.Number), marksBy+0x7700+int64(i), time.Now()))
}

// Readers pass over a suspended extent, wherever they stand in it, and stay at the end
// of the head; no question waits for the cluster.
func TestReadersSkipASuspendedExtent(t *testing.T) {
	away(t, func(t *testing.T, stop func(*kfake.Cluster)) {
		w, s := suspended(t, "skip", stop)
		end := federation.LogicalOffset(5 + gap + 2)
		want := []string{strconv.Itoa(5+gap) + ":5", strconv.Itoa(6+gap) + ":6"}
		fresh := w.router(t, router.Config{QueryTimeout: 5 * time.Second}, nil)
		for _, r := range []router.Session{s, session(t, w.r), session(t, fresh)} {
			for _, from := range []federation.LogicalOffset{0, 3, 5, 17, 5 + gap - 1, 5 + gap} {
				began := time.Now()
				g, err := look(t.Context(), r, from, 5*time.Second, true)
				require.NoError(t, err)
				require.Equal(t, end, g.HighWatermark, "from %d", from)
				for g.next < end {
					more, err := look(t.Context(), r, g.next, 5*time.Second, true)
					require.NoError(t, err)
					g.values, g.next = append(g.values, more.values...), more.next
				}
				require.Equal(t, want, g.values, "from %d", from)
				require.Less(t, time.Since(began), 2*time.Second, "from %d", from)
			}
			require.Empty(t, readTo(t, r, end, end, false))
		}
		began := time.Now()
		for ts, want := range map[int64]federation.LogicalOffset{
			router.TimestampLatest: end, router.TimestampEarliest: 5 + gap, router.TimestampEarliestLocal: 5 + gap,
			0: 5 + gap, time.Now().Add(time.Hour).UnixMilli(): -1,
		} {
			a := session(t, fresh).ListOffsets(t.Context(), []router.OffsetQuery{{TopicPartition: tp0, TimestampMs: ts, CurrentEpoch: -1}})[0]
			require.NoError(t, a.Err)
			require.Equal(t, want, a.Offset, "timestamp %d", ts)
		}
		a := s.ListOffsets(t.Context(), []router.OffsetQuery{{TopicPartition: tp0, TimestampMs: router.TimestampMax, CurrentEpoch: -1}})[0]
		require.NoError(t, a.Err)
		require.GreaterOrEqual(t, a.Offset, federation.LogicalOffset(5+gap))
		water, err := s.Watermarks(t.Context(), tp0)
		require.NoError(t, err)
		require.Equal(t, router.Watermarks{LogStart: 5 + gap, HighWatermark: end, LastStable: end}, water)
		for epoch, want := range map[federation.LogicalEpoch]federation.LogicalOffset{1: 5 + gap, 2: end} {
			a := s.OffsetsForEpochs(t.Context(), []router.EpochQuery{{TopicPartition: tp0, CurrentEpoch: -1, Epoch: epoch}})[0]
			require.NoError(t, a.Err)
			require.Equal(t, router.EpochEnd{Epoch: epoch, End: want}, a.EpochEnd)
		}
		require.Less(t, time.Since(began), 2*time.Second)
	})
}

// Readers that wait get nothing, and no error, until the extent is sealed: then all of
// it, and what comes behind.
func TestReadersWaitAtASuspendedExtent(t *testing.T) {
	w, s := suspended(t, "wait", func(*kfake.Cluster) {})
	fresh := session(t, w.router(t, router.Config{}, nil))
	for _, r := range []router.Session{s, fresh} {
		for _, from := range []federation.LogicalOffset{0, 5, 17} {
			g, err := look(t.Context(), r, from, 100*time.Millisecond, true)
			require.NoError(t, err)
			require.Empty(t, g.values)
			require.Equal(t, from, g.next)
		}
		require.Len(t, readTo(t, r, 5+gap, 5+gap+2, false), 2)
	}
	began := time.Now()
	for ts, fails := range map[int64]bool{router.TimestampLatest: false, router.TimestampEarliest: true, router.TimestampMax: true, 0: true} {
		a := s.ListOffsets(t.Context(), []router.OffsetQuery{{TopicPartition: tp0, TimestampMs: ts, CurrentEpoch: -1}})[0]
		if !fails {
			require.NoError(t, a.Err)
			continue
		}
		require.ErrorContains(t, a.Err, federation.ConfigFailoverRead)
		require.True(t, federation.KindOf(a.Err).Retriable())
	}
	require.Less(t, time.Since(began), 2*time.Second)

	got := make(chan glance, 1)
	go func() {
		g, err := look(t.Context(), fresh, 3, time.Minute, true)
		if err == nil {
			got <- g
		}
		close(got)
	}()
	w.append(t, w.part(t).Extents[0], from(pid+3, 0, 0, "not answered"))
	end := w.sealExtent(t, 0)
	unansweredGlance(t, got)
	began = time.Now()
	w.restore(t, 0, func(e *federation.Extent) { e.End = end })
	g := <-got
	require.Equal(t, []string{"3:3", "4:4", "5:not answered"}, g.values[:3])
	require.Less(t, time.Since(began), time.Second)
	require.Equal(t, []string{"0:0", "1:1", "2:2", "3:3", "4:4", "5:not answered", strconv.Itoa(5+gap) + ":5", strconv.Itoa(6+gap) + ":6"}, readTo(t, s, 0, 5+gap+2, false))
	for ts, want := range map[int64]federation.LogicalOffset{router.TimestampEarliest: 0, router.TimestampMax: 5} {
		a := s.ListOffsets(t.Context(), []router.OffsetQuery{{TopicPartition: tp0, TimestampMs: ts, CurrentEpoch: -1}})[0]
		require.NoError(t, a.Err)
		require.Equal(t, want, a.Offset)
	}
}

func unansweredGlance(t *testing.T, ch <-chan glance) {
	t.Helper()
	rest(t, 100*time.Millisecond)
	select {
	case g := <-ch:
		t.Fatalf("a reader has %v", g.values)
	default:
	}
}

// What producers sent again to a later extent is passed over where it lies hidden,
// wherever a reader begins.
func TestHiddenRanges(t *testing.T) {
	both(t, func(t *testing.T, committed bool) {
		w := newWorld(t, 2)
		w.orders()
		s := session(t, w.r)
		for i := range int32(10) {
			added(t, s, one(i, strconv.Itoa(int(i))))
		}
		h := w.failOver(t, "b", 0)
		require.EqualValues(t, 10, h.AcknowledgedEnd)
		rest(t, 2*time.Millisecond) // of equal timestamps the first counts
		added(t, s, one(10, "10"))
		end := w.sealExtent(t, 0)
		w.restore(t, 0, func(e *federation.Extent) {
			e.End = end
			e.Hidden = []federation.PhysicalRange{{From: 0, To: 2}, {From: 4, To: 5}, {From: 5, To: 6}, {From: 8, To: end}}
		})
		all := []string{"2:2", "3:3", "6:6", "7:7", strconv.Itoa(10+gap) + ":10"}
		for from, skip := range []int{0, 0, 0, 1, 2, 2, 2, 3, 4, 4, 4} {
			require.Equal(t, all[skip:], readTo(t, session(t, w.r), federation.LogicalOffset(from), 11+gap, committed), "from %d", from)
		}
		for ts, want := range map[int64]federation.LogicalOffset{router.TimestampEarliest: 2, 0: 2, router.TimestampMax: 10 + gap} {
			a := s.ListOffsets(t.Context(), []router.OffsetQuery{{TopicPartition: tp0, TimestampMs: ts, CurrentEpoch: -1}})[0]
			require.NoError(t, a.Err)
			require.Equal(t, want, a.Offset, "timestamp %d", ts)
		}
	})
}

// The largest timestamp can be that of a hidden record.
func TestLargestTimestampIsNotHidden(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	added(t, s, batch(recordbatch.NoProducer, "a"))
	added(t, s, one(0, "hidden, and new"))
	w.failOver(t, "b", 0)
	w.restore(t, 0, func(e *federation.Extent) { e.End, e.Hidden = 2, []federation.PhysicalRange{{From: 1, To: 2}} })
	a := s.ListOffsets(t.Context(), []router.OffsetQuery{{TopicPartition: tp0, TimestampMs: router.TimestampMax, CurrentEpoch: -1}})[0]
	require.NoError(t, a.Err)
	require.EqualValues(t, 0, a.Offset)
}

// Between the end and the seal lies what was appended again to a later extent.
func TestNothingBetweenEndAndSeal(t *testing.T) {
	both(t, func(t *testing.T, committed bool) {
		w := newWorld(t, 1)
		w.orders()
		s := session(t, w.r)
		for i := range int32(6) {
			added(t, s, one(i, strconv.Itoa(int(i))))
		}
		w.fail(t)
		h := w.hold(t, w.r)
		h.SeenEnd = 3
		w.suspend(t, h, "b", 0)
		added(t, s, batch(recordbatch.NoProducer, "3 again"))
		seal := w.sealExtent(t, 0)
		w.restore(t, 0, func(e *federation.Extent) { e.End, e.Seal = e.Seen, seal })
		want := []string{"0:0", "1:1", "2:2", strconv.Itoa(6+gap) + ":3 again"}
		for from, skip := range []int{0, 1, 2, 3, 3, 3, 3, 3} {
			require.Equal(t, want[skip:], readTo(t, session(t, w.r), federation.LogicalOffset(from), 7+gap, committed), "from %d", from)
		}
		// A reader that had more is not cut back.
		a := s.OffsetsForEpochs(t.Context(), []router.EpochQuery{{TopicPartition: tp0, CurrentEpoch: -1, Epoch: 1}})[0]
		require.NoError(t, a.Err)
		require.Equal(t, router.EpochEnd{Epoch: 1, End: 6 + gap}, a.EpochEnd)
	})
}

// A sealed extent on a failed cluster is read as before; while the cluster is away, its
// readers wait, and those of the head do not.
func TestSealedExtentsOnAFailedCluster(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{QueryTimeout: 10 * time.Second}, nil)
	w.orders()
	s := session(t, w.r)
	added(t, s, one(0, "0"))
	w.move(t, "b", 0)
	added(t, s, one(1, "1"))
	w.clusterState("a", federation.ClusterFailed)
	require.Equal(t, []string{"0:0", "1:1"}, readTo(t, s, 0, 2, false))
	hang(t, w.clusters["a"])
	fresh := session(t, w.router(t, router.Config{QueryTimeout: 10 * time.Second}, nil))
	began := time.Now()
	g, err := look(t.Context(), fresh, 1, 5*time.Second, false)
	require.NoError(t, err)
	require.Equal(t, []string{"1:1"}, g.values)
	require.EqualValues(t, 2, g.HighWatermark)
	require.Less(t, time.Since(began), 800*time.Millisecond)
	g, err = look(t.Context(), fresh, 0, 100*time.Millisecond, false)
	require.NoError(t, err)
	require.Empty(t, g.values)
	began = time.Now()
	a := fresh.ListOffsets(t.Context(), []router.OffsetQuery{{TopicPartition: tp0, TimestampMs: router.TimestampEarliest, CurrentEpoch: -1}})[0]
	require.Equal(t, federation.ClusterUnavailable, federation.KindOf(a.Err))
	require.Less(t, time.Since(began), 3*time.Second)
}

// Questions under way when the cluster fails have the next head's answer.
func TestQuestionsGoOnAtTheNextHead(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{QueryTimeout: 10 * time.Second}, nil)
	w.orders()
	s := session(t, w.r)
	added(t, s, one(0, "0"))
	hang(t, w.clusters["a"])
	got := make(chan router.OffsetAnswer, 1)
	go func() {
		got <- s.ListOffsets(t.Context(), []router.OffsetQuery{{TopicPartition: tp0, TimestampMs: router.TimestampLatest, CurrentEpoch: -1}})[0]
	}()
	rest(t, 100*time.Millisecond)
	began := time.Now()
	w.failOver(t, "b", 0)
	a := <-got
	require.NoError(t, a.Err)
	require.EqualValues(t, 1+gap, a.Offset)
	require.Less(t, time.Since(began), 3*time.Second)
}

// Records are deleted up to a suspended extent, not over it.
func TestDeleteRecordsBeforeASuspendedExtent(t *testing.T) {
	for _, read := range []string{"skip", "wait"} {
		t.Run(read, func(t *testing.T) {
			w := newWorld(t, 2)
			w.orders()
			w.configure(federation.ConfigFailoverRead, read)
			s := session(t, w.r)
			for i := range int32(3) {
				added(t, s, one(i, "v"))
			}
			w.move(t, "b", 0)
			added(t, s, one(3, "v"))
			w.failOver(t, "a", 1)
			hang(t, w.clusters["b"])
			added(t, s, one(4, "v"))
			remove := func(before federation.LogicalOffset) router.Deleted {
				return s.DeleteRecords(t.Context(), []router.DeleteBefore{{TopicPartition: tp0, Offset: before}})[0]
			}
			for _, over := range []federation.LogicalOffset{4, 5 + gap, -1} {
				d := remove(over)
				require.Equal(t, federation.PolicyViolation, federation.KindOf(d.Err), "%v", d.Err)
				require.ErrorContains(t, d.Err, "from 3 on")
			}
			d := remove(2)
			require.NoError(t, d.Err)
			require.EqualValues(t, 2, d.LowWatermark)
		})
	}
}

// A head without a successor answers at once that it has none.
func TestSuspendedHead(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{HoldMax: 200 * time.Millisecond}, nil)
	head := federationtest.Head("a", "phys", 0)
	head.State = federation.ExtentSuspended
	w.SetTopic("orders", nil, []*federation.Extent{head})
	hang(t, w.clusters["a"])
	s := session(t, w.r)
	began := time.Now()
	require.Equal(t, federation.NoLeader, refused(t, s, one(0, "0")))
	g, err := look(t.Context(), s, 0, 100*time.Millisecond, false)
	require.NoError(t, err)
	require.Empty(t, g.values)
	a := s.ListOffsets(t.Context(), []router.OffsetQuery{{TopicPartition: tp0, TimestampMs: router.TimestampLatest, CurrentEpoch: -1}})[0]
	require.Equal(t, federation.ClusterUnavailable, federation.KindOf(a.Err))
	require.Less(t, time.Since(began), 3*time.Second)
}
