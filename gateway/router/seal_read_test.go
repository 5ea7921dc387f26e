package router_test

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
)

// A glance is what one Fetch of tp0 says.
type glance struct {
	values []string
	next   federation.LogicalOffset
	router.Slice
}

// look fetches tp0 once.
func look(ctx context.Context, s router.Session, from federation.LogicalOffset, wait time.Duration, committed bool) (glance, error) {
	f, err := s.Fetch(ctx, []router.Position{{TopicPartition: tp0, Offset: from, MaxBytes: 1 << 20, CurrentEpoch: -1, LastFetchedEpoch: -1}},
		router.FetchLimit{MinBytes: 1, MaxBytes: 1 << 20, MaxWait: wait, ReadCommitted: committed})
	if err != nil {
		return glance{}, err
	}
	defer f.Release()
	g := glance{next: from, Slice: f.Slices[0]}
	if g.Err != nil {
		return g, g.Err
	}
	for _, b := range f.Slices[0].Records {
		for rest := b; ; {
			one, tail := recordbatch.Next(rest)
			if one == nil {
				break
			}
			if h, ok := recordbatch.ParseHeader(one); ok && mark.IsMark(h.ProducerID) {
				return g, fmt.Errorf("a mark at %d is given out", h.BaseOffset)
			}
			rest = tail
		}
		if g.values, g.next, err = appendValues(g.values, b, from, g.next); err != nil {
			return g, err
		}
	}
	return g, nil
}

// both calls f for each isolation level.
func both(t *testing.T, f func(t *testing.T, committed bool)) {
	t.Helper()
	for _, committed := range []bool{false, true} {
		t.Run(fmt.Sprintf("committed %t", committed), func(t *testing.T) { f(t, committed) })
	}
}

// readTo reads tp0 from an offset until it is at the end, and requires that nothing
// is there.
func readTo(t *testing.T, s router.Session, from, end federation.LogicalOffset, committed bool) []string {
	t.Helper()
	var out []string
	for from < end {
		g, err := look(t.Context(), s, from, 5*time.Second, committed)
		require.NoError(t, err)
		require.Greater(t, g.next, from, "nothing to read at %d", from)
		out, from = append(out, g.values...), g.next
	}
	require.Equal(t, end, from)
	g, err := look(t.Context(), s, from, 150*time.Millisecond, committed)
	require.NoError(t, err)
	require.Empty(t, g.values)
	require.LessOrEqual(t, g.HighWatermark, end)
	return out
}

// The seal at the end of a head, and what is written behind it, is given out by
// nobody: not by a reader that was at the tail, nor by one that comes, nor as the end
// of the partition. After the move, readers go on at the new head.
func TestNothingBehindTheSeal(t *testing.T) {
	both(t, func(t *testing.T, committed bool) {
		w := newWorld(t, 1)
		w.orders()
		s := session(t, w.r)
		for i := range 3 {
			added(t, s, one(int32(i), strconv.Itoa(i)))
		}
		tailed := session(t, w.r)
		require.Len(t, readTo(t, tailed, 0, 3, committed), 3) // its tail waits at 3
		w.headState(federation.ExtentSealing)
		w.hold(t, w.r)
		head := w.part(t).Head()
		end := w.seal(t)
		w.append(t, head, from(pid+9, 0, 0, "late"), from(pid+9, 0, 1, "later"))
		write(t, w.clusters["a"], 0, "foreign")
		for _, r := range []router.Session{tailed, session(t, w.r)} {
			require.Len(t, readTo(t, r, 0, 3, committed), 3)
			require.Empty(t, readTo(t, r, 3, 3, committed))
		}
		w.open(t, end, "b", 0)
		w.append(t, head, from(pid+9, 0, 2, "latest"))
		added(t, s, one(3, "3"))
		for _, r := range []router.Session{tailed, session(t, w.r)} {
			require.Equal(t, []string{"0:0", "1:1", "2:2", "3:3"}, readTo(t, r, 0, 4, committed))
			require.Equal(t, []string{"3:3"}, readTo(t, r, 3, 4, committed))
		}
		queries := []router.OffsetQuery{}
		for _, ts := range []int64{router.TimestampEarliest, router.TimestampLatest, router.TimestampMax, 0, time.Now().Add(time.Hour).UnixMilli()} {
			queries = append(queries, router.OffsetQuery{TopicPartition: tp0, TimestampMs: ts, CurrentEpoch: -1, ReadCommitted: committed})
		}
		for i, want := range []federation.LogicalOffset{0, 4, 3, 0, -1} {
			a := s.ListOffsets(t.Context(), queries)[i]
			require.NoError(t, a.Err)
			require.Equal(t, want, a.Offset, "timestamp %d", queries[i].TimestampMs)
		}
		water, err := s.Watermarks(t.Context(), tp0)
		require.NoError(t, err)
		require.Equal(t, router.Watermarks{HighWatermark: 4, LastStable: 4}, water)
	})
}

// Marks can have the largest timestamp of where they lie; records have it.
func TestLargestTimestampIsOfARecord(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	largest := []router.OffsetQuery{{TopicPartition: tp0, TimestampMs: router.TimestampMax, CurrentEpoch: -1}}
	added(t, s, batch(recordbatch.NoProducer, "before the mark's time"))
	w.move(t, "b", 0)
	require.EqualValues(t, 0, s.ListOffsets(t.Context(), largest)[0].Offset)
	added(t, s, batch(recordbatch.NoProducer, "so are", "these"))
	a := s.ListOffsets(t.Context(), largest)[0]
	require.NoError(t, a.Err)
	require.EqualValues(t, 0, a.Offset, "the first of those with the same time")
	require.EqualValues(t, 1_700_000_000_000, a.TimestampMs)
}

// A gateway that does not know of the seal yet stops at it too.
func TestSealIsNotPassedByAnOlderMap(t *testing.T) {
	both(t, func(t *testing.T, committed bool) {
		w := newWorld(t, 1)
		w.orders()
		s := session(t, w.r)
		added(t, s, one(0, "0"))
		head := w.part(t).Head()
		w.seal(t)
		w.append(t, head, from(pid+9, 0, 0, "late"))
		for range 2 {
			var out []string
			at := federation.LogicalOffset(0)
			for range 4 {
				g, err := look(t.Context(), s, at, 100*time.Millisecond, committed)
				require.NoError(t, err)
				out, at = append(out, g.values...), g.next
			}
			require.Equal(t, []string{"0:0"}, out)
		}
	})
}

// A seal that was appended twice leaves one within the extent: readers pass over it,
// wherever they begin.
func TestMarkWithinAnExtent(t *testing.T) {
	both(t, func(t *testing.T, committed bool) {
		w := newWorld(t, 1)
		w.orders()
		s := session(t, w.r)
		added(t, s, one(0, "0"))
		added(t, s, one(1, "1"))
		w.headState(federation.ExtentSealing)
		w.hold(t, w.r)
		head := w.part(t).Head()
		w.seal(t)
		w.append(t, head, one(2, "2"), one(3, "3"))
		again := w.append(t, head, mark.Seal(w.subject(t, 0), marksBy+77, time.Now()))
		require.EqualValues(t, 5, again)
		w.append(t, head, from(pid+9, 0, 0, "late"))
		w.open(t, again, "b", 0)
		added(t, s, one(4, "4"))
		all := []string{"0:0", "1:1", "3:2", "4:3", "5:4"}
		for i, from := range []federation.LogicalOffset{0, 1, 2, 3, 4, 5} {
			skip := []int{0, 1, 2, 2, 3, 4}[i]
			require.Equal(t, all[skip:], readTo(t, session(t, w.r), from, 6, committed), "from %d", from)
		}
	})
}

// An extent with nothing but marks is passed over.
func TestEmptyExtents(t *testing.T) {
	w := newWorld(t, 3)
	w.orders()
	s := session(t, w.r)
	added(t, s, one(0, "0"))
	reader := session(t, w.r)
	require.Len(t, readTo(t, reader, 0, 1, true), 1)
	for i := 1; i < 6; i++ {
		w.move(t, []string{"a", "b"}[i%2], i/2)
	}
	added(t, s, one(1, "1"))
	require.Equal(t, []string{"0:0", "1:1"}, readTo(t, reader, 0, 2, true))
	require.Equal(t, []string{"1:1"}, readTo(t, reader, 1, 2, true))
}

// A reader that waits at the tail goes on at the new head as soon as the map says so,
// without a pause: also when nothing is known of the cluster there.
func TestReaderFollowsTheHead(t *testing.T) {
	w := newWorld(t, 4)
	w.orders()
	s := session(t, w.r)
	next := federation.LogicalOffset(0)
	fastest := time.Hour
	for i := 1; i < 8; i++ {
		added(t, s, one(int32(next), "v"))
		next++
		r := router.New(t.Context(), router.Config{}, router.Deps{Maps: w, Clusters: w.newPool(t), Lease: w, ProducerIDs: &ids{}})
		reader := r.NewSession()
		readTo(t, reader, next-1, next, i%2 == 0)
		got := make(chan time.Time, 1)
		before := r.Stats()
		go func() {
			g, err := look(t.Context(), reader, next, 10*time.Second, i%2 == 0)
			if err == nil && g.next > next {
				got <- time.Now()
			}
			close(got)
		}()
		require.Eventually(t, func() bool { return r.Stats().TailFetches > before.TailFetches }, 10*time.Second, time.Millisecond)
		w.headState(federation.ExtentSealing)
		w.hold(t, w.r)
		head := w.part(t).Head()
		end := w.seal(t)
		w.append(t, head, from(pid+1, 0, int32(i)*10, "late"))
		before = r.Stats()
		require.Eventually(t, func() bool { return r.Stats().DirectReads > before.DirectReads }, 10*time.Second, time.Millisecond, "the reader has not met the seal")
		held := begin(t, s, 10*time.Second, one(int32(next), "v"))
		w.open(t, end, []string{"a", "b"}[i%2], i/2)
		moved := time.Now()
		require.NoError(t, answerOf(t, held).Err)
		at, ok := <-got
		require.True(t, ok)
		fastest = min(fastest, at.Sub(moved))
		next++
		reader.Close()
		r.Close()
	}
	require.Less(t, fastest, 40*time.Millisecond, "readers rest")
}

// Nothing is read at the head without a lease; sealed extents are.
func TestNoReadsAtTheHeadWithoutALease(t *testing.T) {
	both(t, func(t *testing.T, committed bool) {
		w := newWorld(t, 1)
		w.orders()
		s := session(t, w.r)
		added(t, s, one(0, "0"))
		w.move(t, "b", 0)
		added(t, s, one(1, "1"))
		readTo(t, session(t, w.r), 0, 2, committed)
		w.Lapse(true)
		w.append(t, w.part(t).Head(), one(2, "2"))
		for _, r := range []router.Session{s, session(t, w.r)} {
			g, err := look(t.Context(), r, 0, 200*time.Millisecond, committed)
			require.NoError(t, err)
			require.Equal(t, []string{"0:0"}, g.values)
			g, err = look(t.Context(), r, 1, 200*time.Millisecond, committed)
			require.NoError(t, err)
			require.Empty(t, g.values)
			require.EqualValues(t, 2, g.HighWatermark)
		}
		w.Lapse(false)
		require.Equal(t, []string{"1:1", "2:2"}, readTo(t, s, 1, 3, committed))
	})
}

// An answer that was on its way when the lease ended is not given out.
func TestReadAnsweredWithoutALease(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	added(t, s, one(0, "0"))
	gate := make(chan struct{})
	c := w.clusters["a"]
	var asked atomic.Int32
	c.ControlKey(kmsg.Fetch.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		if asked.Add(1) == 1 {
			c.SleepControl(func() { <-gate })
		}
		return nil, nil, false
	})
	got := make(chan glance, 1)
	go func() {
		g, err := look(t.Context(), s, 0, 300*time.Millisecond, false)
		if err == nil {
			got <- g
		}
		close(got)
	}()
	require.Eventually(t, func() bool { return asked.Load() > 0 }, 10*time.Second, time.Millisecond)
	w.Lapse(true)
	close(gate)
	g, ok := <-got
	require.True(t, ok)
	require.Empty(t, g.values)
}

// While a head is sealed, nobody says where it ends; what readers were given counts.
func TestHighWatermarkNeverGoesBack(t *testing.T) {
	both(t, func(t *testing.T, committed bool) {
		w := newWorld(t, 4)
		w.orders()
		s := session(t, w.r)
		readers := []router.Session{session(t, w.r), session(t, w.r)}
		var high, stable, at federation.LogicalOffset
		watch := func() {
			for _, r := range readers {
				g, err := look(t.Context(), r, at, 30*time.Millisecond, committed)
				require.NoError(t, err)
				require.GreaterOrEqual(t, g.HighWatermark, high)
				require.GreaterOrEqual(t, g.HighWatermark, g.next)
				require.GreaterOrEqual(t, g.LastStable, stable)
				high, stable = g.HighWatermark, g.LastStable
				at = max(at, g.next)
			}
		}
		next := int32(0)
		write := func() {
			added(t, s, one(next, "v"))
			next++
		}
		for i := 1; i < 8; i++ {
			write()
			watch()
			write()
			write() // the readers have not seen these when the head is sealed
			w.headState(federation.ExtentSealing)
			w.hold(t, w.r)
			watch()
			end := w.seal(t)
			w.append(t, w.part(t).Head(), from(pid+1, 0, int32(i), "late"))
			watch()
			w.open(t, end, []string{"a", "b"}[i%2], i/2)
			watch()
			require.EqualValues(t, next, high)
		}
	})
}

// Questions about the end wait while the head is sealed, and have the new one's
// answer then.
func TestQueriesWaitForTheSeal(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{QueryTimeout: 2 * time.Second}, nil)
	w.orders()
	s := session(t, w.r)
	added(t, s, one(0, "0"))
	w.headState(federation.ExtentSealing)
	w.hold(t, w.r)
	end := w.seal(t)
	w.append(t, w.part(t).Head(), from(pid+1, 0, 0, "late"))
	latest := []router.OffsetQuery{{TopicPartition: tp0, TimestampMs: router.TimestampLatest, CurrentEpoch: -1}}
	got := make(chan router.OffsetAnswer, 1)
	go func() { got <- s.ListOffsets(t.Context(), latest)[0] }()
	rest(t, 100*time.Millisecond)
	require.Empty(t, got)
	w.open(t, end, "b", 0)
	a := <-got
	require.NoError(t, a.Err)
	require.EqualValues(t, 1, a.Offset)
	ends := s.OffsetsForEpochs(t.Context(), []router.EpochQuery{{TopicPartition: tp0, CurrentEpoch: -1, Epoch: 1}})
	require.NoError(t, ends[0].Err)
	require.Equal(t, router.EpochEnd{Epoch: 1, End: 1}, ends[0].EpochEnd)
	w.headState(federation.ExtentSealing)
	require.Equal(t, federation.NoLeader, federation.KindOf(s.ListOffsets(t.Context(), latest)[0].Err))
}

// A new leader of a sealed log begins with the high watermark that it had as a follower,
// and answers as if there was nothing above it. That is not the end of the extent.
func TestLeaderThatDoesNotKnowItsEnd(t *testing.T) {
	both(t, func(t *testing.T, committed bool) {
		w := newWorld(t, 1)
		w.orders()
		s := session(t, w.r)
		for i := range int32(10) {
			added(t, s, one(i, strconv.Itoa(int(i))))
		}
		w.move(t, "b", 0)
		added(t, s, one(10, "10"))
		var lagging atomic.Int64
		lagging.Store(5)
		w.clusters["a"].ControlKey(kmsg.Fetch.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
			w.clusters["a"].KeepControl()
			req := r.(*kmsg.FetchRequest)
			if len(req.Topics) != 1 || req.Topics[0].Partitions[0].FetchOffset < 5 || lagging.Add(-1) < 0 {
				return nil, nil, false
			}
			resp := req.ResponseKind().(*kmsg.FetchResponse)
			rt := kmsg.NewFetchResponseTopic()
			rt.Topic, rt.TopicID = req.Topics[0].Topic, req.Topics[0].TopicID
			rp := kmsg.NewFetchResponseTopicPartition()
			rp.Partition, rp.HighWatermark, rp.LastStableOffset, rp.LogStartOffset = req.Topics[0].Partitions[0].Partition, 5, 5, 0
			rt.Partitions = append(rt.Partitions, rp)
			resp.Topics = append(resp.Topics, rt)
			return resp, nil, true
		})
		want := []string{"5:5", "6:6", "7:7", "8:8", "9:9", "10:10"}
		require.Equal(t, want, readTo(t, session(t, w.r), 5, 11, committed))
		require.Negative(t, lagging.Load(), "it was asked again")
	})
}
