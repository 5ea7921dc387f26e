package memory

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A Budget hands out bytes, first come, first served. An amount above the whole budget
// counts as the whole budget, so that it can pass when it is alone. A nil Budget has no
// bound. Taking and giving back costs an atomic operation each while there is enough.
type Budget struct {
	size    int64
	used    atomic.Int64
	waiting atomic.Int64 // length of waiters; raised before the waiter looks at used

	mu      sync.Mutex // guards the following
	waiters []*waiter
	relief  []func()
}

type waiter struct {
	n     int64
	ready chan struct{}
}

// NewBudget makes a Budget of so many bytes; nil, which has no bound, if size is not
// positive.
func NewBudget(size int64) *Budget {
	if size <= 0 {
		return nil
	}
	return &Budget{size: size}
}

// reliefEvery is how often what can be given up is looked for while somebody waits.
const reliefEvery = 250 * time.Millisecond

// OnPressure has f called when somebody has to wait, and now and then while that lasts:
// it should give back what can be had again, as caches do. f must not wait for the budget.
func (b *Budget) OnPressure(f func()) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.relief = append(b.relief, f)
}

// TryAcquire takes n bytes if they are there and nobody waits.
func (b *Budget) TryAcquire(n int64) bool {
	return b == nil || b.waiting.Load() == 0 && b.take(min(n, b.size))
}

func (b *Budget) take(n int64) bool {
	for {
		used := b.used.Load()
		if used+n > b.size {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

// Acquire takes n bytes, waiting for them until ctx ends.
func (b *Budget) Acquire(ctx context.Context, n int64) error {
	if b.TryAcquire(n) {
		return nil
	}
	w := &waiter{n: min(n, b.size), ready: make(chan struct{})}
	b.mu.Lock()
	b.waiting.Add(1)
	b.waiters = append(b.waiters, w)
	b.wakeLocked() // there may be enough by now
	relief := b.relief
	b.mu.Unlock()
	tick := time.NewTicker(reliefEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.ready:
			return nil
		default:
		}
		for _, f := range relief {
			f()
		}
		select {
		case <-w.ready:
			return nil
		case <-tick.C:
		case <-ctx.Done():
			return b.giveUp(w, ctx.Err())
		}
	}
}

// giveUp takes a waiter out of the line, unless it got what it waited for meanwhile.
func (b *Budget) giveUp(w *waiter, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, other := range b.waiters {
		if other == w {
			b.waiters = append(b.waiters[:i], b.waiters[i+1:]...)
			b.waiting.Add(-1)
			b.wakeLocked() // who stood behind may fit
			return err
		}
	}
	return nil
}

// Await waits until n bytes are there, and does not take them: for who only learns
// later how much it holds, and then calls Charge.
func (b *Budget) Await(ctx context.Context, n int64) error {
	err := b.Acquire(ctx, n)
	if err == nil {
		b.Release(n)
	}
	return err
}

// Charge takes n bytes that are held already, also above the budget: then others wait
// for longer. Uncharge gives them back.
func (b *Budget) Charge(n int64) {
	if b != nil {
		b.used.Add(n)
	}
}

// Uncharge gives back what Charge took.
func (b *Budget) Uncharge(n int64) {
	if b != nil {
		b.free(n)
	}
}

// Release gives back what Acquire or TryAcquire took.
func (b *Budget) Release(n int64) {
	if b != nil {
		b.free(min(n, b.size))
	}
}

func (b *Budget) free(n int64) {
	b.used.Add(-n)
	if b.waiting.Load() == 0 {
		return
	}
	b.mu.Lock()
	b.wakeLocked()
	b.mu.Unlock()
}

func (b *Budget) wakeLocked() {
	for len(b.waiters) > 0 && b.take(b.waiters[0].n) {
		close(b.waiters[0].ready)
		b.waiters[0] = nil
		b.waiters = b.waiters[1:]
		b.waiting.Add(-1)
	}
}

// portion is the part of what is free that one grant may take.
const portion = 16

// Grant returns how much of want should be asked for at this moment: all of it while
// there is plenty, less when there is not, so that who takes much and is slow to give it
// back leaves room for others; but no less than least.
func (b *Budget) Grant(want, least int64) int64 {
	if b == nil {
		return want
	}
	return min(want, max(least, (b.size-b.used.Load())/portion))
}

// Size returns the whole budget; 0 = no bound.
func (b *Budget) Size() int64 {
	if b == nil {
		return 0
	}
	return b.size
}

// Used returns the bytes that are taken.
func (b *Budget) Used() int64 {
	if b == nil {
		return 0
	}
	return b.used.Load()
}

// Waiting returns how many wait.
func (b *Budget) Waiting() int64 {
	if b == nil {
		return 0
	}
	return b.waiting.Load()
}
