package router_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// within makes a router whose answers have a budget.
func (w *world) within(t *testing.T, size int64, cfg router.Config) (*router.Router, *memory.Budget) {
	t.Helper()
	answers := memory.NewBudget(size)
	pool := upstream.NewPool(upstream.Config{Answers: answers})
	t.Cleanup(pool.Close)
	var all []*federation.Cluster
	for _, c := range w.Current().Clusters {
		all = append(all, c)
	}
	pool.Update(all)
	r := router.New(t.Context(), cfg.Within(0, size), router.Deps{Maps: w, Clusters: pool, Lease: w, ProducerIDs: &ids{}, Answers: answers})
	t.Cleanup(r.Close)
	return r, answers
}

func (w *world) fill(t *testing.T, r *router.Router, batches int) {
	t.Helper()
	w.orders()
	s := session(t, r)
	for range batches {
		added(t, s, batch(recordbatch.NoProducer, string(make([]byte, 500_000))))
	}
}

func read(t *testing.T, s router.Session, from federation.LogicalOffset, wait time.Duration) *router.Fetched {
	t.Helper()
	f, err := fetchFrom(t.Context(), s, from, wait)
	require.NoError(t, err)
	require.NoError(t, f.Slices[0].Err)
	return f
}

func fetchFrom(ctx context.Context, s router.Session, from federation.LogicalOffset, wait time.Duration) (*router.Fetched, error) {
	return s.Fetch(ctx, []router.Position{{TopicPartition: tp0, Offset: from, MaxBytes: 2 << 20, CurrentEpoch: federation.NoEpoch, LastFetchedEpoch: federation.NoEpoch}},
		router.FetchLimit{MinBytes: 1, MaxBytes: 50 << 20, MaxWait: wait})
}

// Readers whose clients do not take what they asked for use the budget up, and no more
// than that; the others wait without an error, and go on when something is given back.
func TestAnswersStayWithinTheBudget(t *testing.T) {
	w := newWorld(t, 1)
	const size = 16 << 20
	r, answers := w.within(t, size, router.Config{ReadAheadBytesMax: -1})
	w.fill(t, r, 20)
	var held []*router.Fetched
	var waiting router.Session
	for range 50 {
		s := session(t, r)
		f := read(t, s, 0, 100*time.Millisecond)
		if len(f.Slices[0].Records) == 0 {
			waiting = s
			break
		}
		held = append(held, f)
		require.LessOrEqual(t, answers.Used(), int64(size+2<<20), "one answer can be larger than what was asked for")
	}
	require.NotNil(t, waiting, "nobody had to wait")
	require.GreaterOrEqual(t, len(held), 4, "none takes all")
	require.Positive(t, answers.Waiting())
	for _, f := range held {
		f.Release()
	}
	require.Eventually(t, func() bool {
		f := read(t, waiting, 0, time.Second)
		defer f.Release()
		return len(f.Slices[0].Records) > 0
	}, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return answers.Used() == 0 }, 10*time.Second, time.Millisecond, "buffers are lost")
}

// What was read for readers that do not come for it, and what is cached, makes room.
func TestReadAheadAndCachesMakeRoom(t *testing.T) {
	w := newWorld(t, 1)
	const size = 32 << 20
	r, answers := w.within(t, size, router.Config{})
	w.fill(t, r, 12)
	makeRoom := func() {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		require.NoError(t, answers.Acquire(ctx, size))
		answers.Release(size)
	}
	gone := session(t, r)
	read(t, gone, 0, time.Second).Release()
	require.Eventually(t, func() bool { return r.Stats().ReadAheadBytes > 0 && answers.Used() > 0 }, 10*time.Second, time.Millisecond, "nothing is read ahead")
	makeRoom()
	require.Eventually(t, func() bool { return r.Stats().ReadAheadBytes == 0 && answers.Used() == 0 }, 10*time.Second, time.Millisecond)
	f := read(t, gone, 0, time.Second)
	require.NotEmpty(t, f.Slices[0].Records, "the reader that comes back reads on")
	f.Release()

	// A reader at the tail leaves its records in the cache.
	tail := session(t, r)
	end := added(t, tail, batch(recordbatch.NoProducer, "x")) + 1
	done := make(chan *router.Fetched, 1)
	go func() {
		f, err := fetchFrom(t.Context(), tail, end, 10*time.Second)
		if err != nil {
			t.Error(err)
		}
		done <- f
	}()
	rest(t, 50*time.Millisecond)
	added(t, session(t, r), batch(recordbatch.NoProducer, string(make([]byte, 500_000))))
	f = <-done
	require.NotEmpty(t, slices.Concat(f.Slices[0].Records...))
	f.Release()
	if r.CachedBytes() > 0 { // else a direct read was as fast
		makeRoom()
		require.Zero(t, r.CachedBytes())
	}
	gone.Close()
	makeRoom()
}

// A reader that asks for a byte is answered with a batch, and waits for as much room. Those
// in line had all been let through by the first bytes that were given back.
func TestSmallReadsWaitForRoomForABatch(t *testing.T) {
	w := newWorld(t, 1)
	const size = 8 << 20
	r, answers := w.within(t, size, router.Config{ReadAheadBytesMax: -1})
	w.fill(t, r, 2)
	fetch := func(s router.Session) *router.Fetched {
		f, err := s.Fetch(t.Context(), []router.Position{{TopicPartition: tp0, MaxBytes: 1, CurrentEpoch: federation.NoEpoch, LastFetchedEpoch: federation.NoEpoch}},
			router.FetchLimit{MinBytes: 1, MaxBytes: 50 << 20, MaxWait: 2 * time.Second})
		require.NoError(t, err)
		return f
	}
	require.NoError(t, answers.Acquire(t.Context(), size))
	const readers = 40
	var sessions []router.Session
	done := make(chan *router.Fetched, readers)
	for range readers {
		sessions = append(sessions, session(t, r))
	}
	for _, s := range sessions {
		go func() { done <- fetch(s) }()
	}
	require.Eventually(t, func() bool { return answers.Waiting() > 0 }, 10*time.Second, time.Millisecond)
	rest(t, 200*time.Millisecond) // until all that may stand in line do
	answers.Release(size)
	got := 0
	for range readers {
		f := <-done
		if len(f.Slices[0].Records) > 0 {
			got++
		}
		defer f.Release()
	}
	require.GreaterOrEqual(t, got, 4)
	require.LessOrEqual(t, answers.Used(), int64(size+2<<20))
}

// A long poll that has something, and waits for more, goes with it when others wait for the
// room that it takes.
func TestHeldRecordsMakeRoom(t *testing.T) {
	w := newWorld(t, 1)
	const size = 8 << 20
	r, answers := w.within(t, size, router.Config{ReadAheadBytesMax: -1})
	w.fill(t, r, 2)
	done := make(chan *router.Fetched, 1)
	s := session(t, r)
	go func() {
		f, err := s.Fetch(t.Context(), []router.Position{{TopicPartition: tp0, MaxBytes: 4 << 20, CurrentEpoch: federation.NoEpoch, LastFetchedEpoch: federation.NoEpoch}},
			router.FetchLimit{MinBytes: 4 << 20, MaxBytes: 4 << 20, MaxWait: time.Hour})
		if err != nil {
			t.Error(err)
		}
		done <- f
	}()
	require.Eventually(t, func() bool { return answers.Used() > 500_000 }, 10*time.Second, time.Millisecond)
	select {
	case <-done:
		t.Fatal("nobody waits, and it did not wait for more")
	case <-time.After(1500 * time.Millisecond):
	}
	all := make(chan error, 1)
	go func() { all <- answers.Acquire(t.Context(), size) }()
	f := <-done
	require.NotEmpty(t, f.Slices[0].Records)
	f.Release()
	require.NoError(t, <-all)
}
