package router_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
)

// check asks whether offsets are of the partitions' logs.
func check(ctx context.Context, t *testing.T, s router.Session, wait time.Duration, positions ...router.Position) *router.Fetched {
	t.Helper()
	for i := range positions {
		positions[i].Check, positions[i].MaxBytes, positions[i].CurrentEpoch, positions[i].LastFetchedEpoch = true, 1<<20, federation.NoEpoch, federation.NoEpoch
	}
	f, err := s.Fetch(ctx, positions, router.FetchLimit{MinBytes: 1, MaxBytes: 50 << 20, MaxWait: wait})
	require.NoError(t, err)
	t.Cleanup(f.Release)
	return f
}

// A check says whether an offset is of the log, at once, and leaves nothing behind: no tail,
// no records, nothing that is read ahead.
func TestCheckKeepsNothing(t *testing.T) {
	w := newWorld(t, 1)
	r, answers := w.within(t, 32<<20, router.Config{})
	w.fill(t, r, 8)
	for _, c := range []struct {
		offset federation.LogicalOffset
		ok     bool
	}{{0, true}, {3, true}, {8, true}, {9, false}, {1 << 40, false}, {-5, false}} {
		s, began := session(t, r), time.Now()
		f := check(t.Context(), t, s, 30*time.Second, router.Position{TopicPartition: tp0, Offset: c.offset})
		require.Less(t, time.Since(began), 10*time.Second)
		sl := f.Slices[0]
		require.Empty(t, sl.Records)
		require.Equal(t, c.ok, sl.InRange, c.offset)
		require.Equal(t, c.ok, sl.Err == nil)
		if c.ok {
			require.EqualValues(t, 8, sl.HighWatermark)
		} else {
			require.Equal(t, federation.OffsetOutOfRange, federation.KindOf(sl.Err))
		}
	}
	require.Eventually(t, func() bool { return answers.Used() == 0 }, 10*time.Second, time.Millisecond, "buffers are lost")
	require.Zero(t, r.Stats().ReadAheadBytes)
	require.Zero(t, r.Stats().TailFetches)
}

// What was read ahead for a reader is given back when it is only asked about.
func TestCheckDropsWhatWasReadAhead(t *testing.T) {
	w := newWorld(t, 1)
	r, answers := w.within(t, 32<<20, router.Config{})
	w.fill(t, r, 12)
	s := session(t, r)
	f := read(t, s, 0, time.Second)
	next := f.Slices[0].Next
	f.Release()
	require.Eventually(t, func() bool { return r.Stats().ReadAheadBytes > 0 && answers.Used() > 0 }, 10*time.Second, time.Millisecond, "nothing is read ahead")
	require.True(t, check(t.Context(), t, s, time.Second, router.Position{TopicPartition: tp0, Offset: next}).Slices[0].InRange)
	require.Eventually(t, func() bool { return r.Stats().ReadAheadBytes == 0 && answers.Used() == 0 }, 10*time.Second, time.Millisecond)
}

// While the cluster does not answer nothing is said of the offset, and the Fetch waits as
// any other does.
func TestCheckWhileTheClusterIsAway(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	var away atomic.Bool
	away.Store(true)
	w.clusters["a"].ControlKey(kmsg.Fetch.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		if !away.Load() {
			return nil, nil, false
		}
		w.clusters["a"].KeepControl()
		return nil, errors.New("away"), true
	})
	f := check(t.Context(), t, s, 50*time.Millisecond, router.Position{TopicPartition: tp0})
	require.False(t, f.Slices[0].InRange)
	require.NoError(t, f.Slices[0].Err)
	away.Store(false)
	require.Eventually(t, func() bool {
		return check(t.Context(), t, s, time.Second, router.Position{TopicPartition: tp0}).Slices[0].InRange
	}, 10*time.Second, time.Millisecond)
}

// A check that has its answer ends the Fetch, whatever the others wait for; they stay
// readers as they were.
func TestCheckEndsTheFetch(t *testing.T) {
	w := newWorld(t, 2)
	write(t, w.clusters["a"], 0, "x")
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)}, []*federation.Extent{federationtest.Head("a", "phys", 1)})
	s := session(t, w.r)
	began := time.Now()
	from := []router.Position{
		{TopicPartition: tp0, Offset: 1, MaxBytes: 1000, CurrentEpoch: -1, Check: true},
		{TopicPartition: at("orders", 1), MaxBytes: 1000, CurrentEpoch: -1},
	}
	f, err := s.Fetch(t.Context(), from, router.FetchLimit{MinBytes: 1, MaxBytes: 1000, MaxWait: 30 * time.Second})
	require.NoError(t, err)
	defer f.Release()
	require.Less(t, time.Since(began), 10*time.Second)
	require.True(t, f.Slices[0].InRange)
	require.NoError(t, f.Slices[1].Err)
	require.False(t, f.Slices[1].InRange)
}
