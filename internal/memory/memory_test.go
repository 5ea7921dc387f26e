package memory_test

import (
	"context"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/memory"
)

// Many take and give back: the budget is never exceeded, and nobody is left waiting.
func TestBudgetIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1000
		b := memory.NewBudget(size)
		var held, most atomic.Int64
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(i), 1))
				for range 100 {
					n := 1 + rnd.Int64N(size)
					if err := b.Acquire(t.Context(), n); err != nil {
						t.Error(err)
					}
					now := held.Add(n)
					for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
					}
					<-time.After(time.Duration(rnd.IntN(10)) * time.Millisecond)
					held.Add(-n)
					b.Release(n)
				}
			})
		}
		wg.Wait()
		require.LessOrEqual(t, most.Load(), int64(size))
		require.Greater(t, most.Load(), int64(size/2))
		require.Zero(t, b.Used())
		require.Zero(t, b.Waiting())
	})
}

// Who waits is served in order: a large amount is not passed by small ones that would fit.
func TestBudgetIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.NewBudget(10)
		require.NoError(t, b.Acquire(t.Context(), 5))
		var order []string
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, w := range []struct {
			who string
			n   int64
		}{{"large", 10}, {"small", 1}} {
			wg.Go(func() {
				require.NoError(t, b.Acquire(t.Context(), w.n))
				mu.Lock()
				order = append(order, w.who)
				mu.Unlock()
				b.Release(w.n)
			})
			synctest.Wait()
		}
		require.EqualValues(t, 2, b.Waiting())
		require.False(t, b.TryAcquire(1), "others came first")
		b.Release(5)
		wg.Wait()
		require.Equal(t, []string{"large", "small"}, order)
	})
}

func TestBudgetGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.NewBudget(10)
		require.NoError(t, b.Acquire(t.Context(), 5))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		behind := make(chan error, 1)
		first := make(chan error, 1)
		go func() { first <- b.Acquire(ctx, 8) }()
		synctest.Wait()
		go func() { behind <- b.Acquire(t.Context(), 5) }()
		require.ErrorIs(t, <-first, context.DeadlineExceeded)
		require.NoError(t, <-behind, "who stood behind it fits")
		require.EqualValues(t, 10, b.Used())
	})
}

// A huge amount passes when it is alone; what is charged can be above the budget.
func TestBudgetAboveItsSize(t *testing.T) {
	b := memory.NewBudget(10)
	require.NoError(t, b.Acquire(t.Context(), 1000))
	require.EqualValues(t, 10, b.Used())
	b.Charge(100)
	require.EqualValues(t, 110, b.Used())
	b.Release(1000)
	require.False(t, b.TryAcquire(1))
	b.Uncharge(100)
	require.True(t, b.TryAcquire(10))
}

// Caches give back what they hold when somebody waits, also what they could not give
// back at first.
func TestBudgetIsRelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.NewBudget(10)
		b.Charge(10)
		calls := 0
		b.OnPressure(func() {
			if calls++; calls == 3 {
				b.Uncharge(10)
			}
		})
		begin := time.Now()
		require.NoError(t, b.Acquire(t.Context(), 10))
		require.Equal(t, 3, calls)
		require.Equal(t, 500*time.Millisecond, time.Since(begin))
	})
}

// One after the other gets less while nothing is given back, so that there is still
// something for the next.
func TestGrant(t *testing.T) {
	const mib = 1 << 20
	b := memory.NewBudget(64 * mib)
	last := b.Grant(50*mib, mib)
	require.EqualValues(t, 4*mib, last)
	for range 20 {
		n := b.Grant(50*mib, mib)
		require.LessOrEqual(t, n, last)
		require.True(t, b.TryAcquire(n))
		last = n
	}
	require.Greater(t, b.Size()-b.Used(), int64(10*mib))
	require.EqualValues(t, 1000, b.Grant(1000, mib), "who wants little gets it")
	b.Charge(b.Size())
	require.EqualValues(t, mib, b.Grant(50*mib, mib))
}

func TestNoBudget(t *testing.T) {
	b := memory.NewBudget(0)
	require.Nil(t, b)
	require.NoError(t, b.Await(t.Context(), 1<<60))
	require.True(t, b.TryAcquire(1<<60))
	b.OnPressure(func() { t.Error("there is no pressure") })
	b.Charge(1)
	b.Uncharge(1)
	b.Release(1 << 60)
	require.EqualValues(t, 7, b.Grant(7, 1))
	require.Zero(t, b.Size()+b.Used()+b.Waiting())
}

func TestBudgetAllocatesNothing(t *testing.T) {
	b := memory.NewBudget(1 << 20)
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_ = b.Acquire(ctx, 100)
		b.Charge(5)
		b.Uncharge(5)
		b.Release(100)
	}))
}

func BenchmarkBudget(b *testing.B) {
	budget := memory.NewBudget(1 << 30)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = budget.Acquire(b.Context(), 1000)
			budget.Release(1000)
		}
	})
}

func TestAvailable(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	const gib = 1 << 30
	machine := file("MemTotal:        8388608 kB\nMemFree: 1 kB\n")
	for name, c := range map[string]struct {
		fs   fstest.MapFS
		want int64
	}{
		"nothing is known":  {fstest.MapFS{}, 0},
		"no cgroup":         {fstest.MapFS{"proc/meminfo": machine}, 4 * gib},
		"cgroup":            {fstest.MapFS{"proc/meminfo": machine, "sys/fs/cgroup/memory.max": file("1073741824\n")}, 3 * gib / 4},
		"cgroup version 1":  {fstest.MapFS{"proc/meminfo": machine, "sys/fs/cgroup/memory/memory.limit_in_bytes": file("1073741824\n")}, 3 * gib / 4},
		"cgroup unlimited":  {fstest.MapFS{"proc/meminfo": machine, "sys/fs/cgroup/memory.max": file("max\n")}, 4 * gib},
		"version 1 without": {fstest.MapFS{"proc/meminfo": machine, "sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n")}, 4 * gib},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, memory.Available(c.fs)) })
	}
}

func TestParseLimit(t *testing.T) {
	available := func() int64 { return 1 << 30 }
	for text, want := range map[string]int64{
		"none": 0, "auto": 1 << 30, "134217728": 128 << 20, "128MiB": 128 << 20, "2GiB": 2 << 30, "1048576KiB": 1 << 30, "67108864B": 64 << 20,
	} {
		got, err := memory.ParseLimit(text, available)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "much", "1MiB", "-128MiB", "9000000000000TiB", "0"} {
		_, err := memory.ParseLimit(text, available)
		require.Error(t, err, text)
	}
	small, err := memory.ParseLimit("auto", func() int64 { return 1 << 20 })
	require.NoError(t, err)
	require.Zero(t, small)
}

// What the runtime may use leaves room in a small limit for the program's pages, and for what
// it overshoots by; in a large one it is nearly all.
func TestSetRuntime(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() {
		debug.SetMemoryLimit(before)
		memory.KeepSlabs(32 << 20)
	})
	const mib, gib = 1 << 20, 1 << 30
	for limit, outside := range map[int64]int64{60 * mib: 28 * mib, 120 * mib: 56 * mib, gib: 64 * mib, 64 * gib: 64 * mib} {
		require.Equal(t, limit-outside, memory.SetRuntime(limit))
		require.Equal(t, limit-outside, debug.SetMemoryLimit(-1))
	}
}
