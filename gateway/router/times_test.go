package router_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/recordbatch"
)

// stamped is a batch of records with times.
func stamped(times ...int64) []byte {
	var b recordbatch.Builder
	b.Reset(nil)
	for _, at := range times {
		b.Add(&recordbatch.Record{TimestampMs: at, Value: fmt.Append(nil, at)})
	}
	return b.Finish(recordbatch.NoProducer)
}

func timed(t *testing.T, s router.Session, at int64) router.OffsetAnswer {
	t.Helper()
	a := s.ListOffsets(t.Context(), []router.OffsetQuery{{TopicPartition: tp0, TimestampMs: at, CurrentEpoch: federation.NoEpoch}})[0]
	require.NoError(t, a.Err)
	return a
}

// Look-ups by time find the records that a log of its own would find, in a partition that
// has moved, whatever its records are stamped with.
func TestTimesOverMoves(t *testing.T) {
	w := newWorld(t, 3)
	w.orders()
	s := session(t, w.r)
	now := time.Now().UnixMilli()
	var log []int64
	add := func(times ...int64) {
		added(t, s, stamped(times...))
		log = append(log, times...)
	}
	add(1000, 1500, 1200)
	add(2000)
	w.move(t, "b", 0)
	add(1800, 1900) // older than what was written before
	add(2500, now+1_000_000, 3000)
	add(now)
	w.move(t, "a", 1)
	w.move(t, "b", 1) // nothing was written there
	add(4000, 3500)
	for _, at := range []int64{0, 1, 1000, 1001, 1200, 1500, 1501, 1801, 2000, 2001, 2500, 2501, 3500, now, now + 1, now + 1_000_000, now + 1_000_001, math.MaxInt64} {
		i := slices.IndexFunc(log, func(of int64) bool { return of >= at })
		got := timed(t, s, at)
		require.EqualValues(t, i, got.Offset, "time %d", at)
		if i >= 0 {
			require.Equal(t, log[i], got.TimestampMs, "time %d", at)
		} else {
			require.EqualValues(t, -1, got.TimestampMs)
		}
	}
	got := timed(t, s, router.TimestampMax)
	require.EqualValues(t, slices.Index(log, slices.Max(log)), got.Offset)
	require.Equal(t, slices.Max(log), got.TimestampMs)
}

// The newest record need not be the last one, where the seal is newer than both.
func TestNewestBeforeTheSeal(t *testing.T) {
	w := newWorld(t, 2)
	w.orders()
	s := session(t, w.r)
	base := time.Now().Add(-time.Hour).UnixMilli()
	added(t, s, stamped(base+10, base+70, base+20))
	added(t, s, stamped(base+70, base+60))
	added(t, s, stamped(base+30))
	require.EqualValues(t, 1, timed(t, s, router.TimestampMax).Offset)
	w.move(t, "b", 0)
	got := timed(t, s, router.TimestampMax)
	require.EqualValues(t, 1, got.Offset)
	require.Equal(t, base+70, got.TimestampMs)
}

// All records are older than the move that their part begins with.
func TestNewestBeforeTheMove(t *testing.T) {
	w := newWorld(t, 2)
	w.orders()
	s := session(t, w.r)
	added(t, s, stamped(1000))
	w.move(t, "b", 0)
	added(t, s, stamped(2000, 5000, 3000))
	added(t, s, stamped(5000, 4000))
	for _, to := range []int{1, 0} {
		got := timed(t, s, router.TimestampMax)
		require.EqualValues(t, 2, got.Offset)
		require.EqualValues(t, 5000, got.TimestampMs)
		if to > 0 {
			w.move(t, "a", to)
		}
	}
}

// What a restore has hidden is found by no time.
func TestTimesPassOverWhatIsHidden(t *testing.T) {
	w := newWorld(t, 2)
	w.orders()
	s := session(t, w.r)
	added(t, s, stamped(1000))
	w.move(t, "b", 0)
	for _, at := range []int64{2000, 3000, 2500} {
		added(t, s, stamped(at))
	}
	require.EqualValues(t, 2, timed(t, s, 2600).Offset)
	w.move(t, "a", 1)
	w.changePart(func(p *federation.Partition, _ *federation.Extent) {
		e := p.Extents[1]
		at := e.Physical(2)
		e.Hidden = []federation.PhysicalRange{{From: at, To: at + 1}}
	})
	for at, want := range map[int64]federation.LogicalOffset{1500: 1, 2100: 3, 2600: -1, router.TimestampMax: 3} {
		require.Equal(t, want, timed(t, s, at).Offset, "time %d", at)
	}
}

// What is looked through has a bound: a position before which all is older stands in.
func TestTimeSearchIsBounded(t *testing.T) {
	w := newWorldWith(t, 2, router.Config{TimeSearchBytesMax: 1000}, nil)
	w.orders()
	s := session(t, w.r)
	added(t, s, stamped(1))
	w.move(t, "b", 0)
	for i := range int64(100) {
		added(t, s, stamped(10+i))
	}
	require.EqualValues(t, 4, timed(t, s, 13).Offset)
	got := timed(t, s, 105)
	require.Greater(t, got.Offset, federation.LogicalOffset(1))
	require.LessOrEqual(t, got.Offset, federation.LogicalOffset(96))
}
