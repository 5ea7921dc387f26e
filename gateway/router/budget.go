package router

import (
	"context"

	"golang.org/x/sync/semaphore"
)

// A budget bounds bytes in flight. More than its whole size counts as its size,
// so that one huge request can pass when it is alone.
type budget struct {
	sem *semaphore.Weighted
	max int64
}

func newBudget(n int64) *budget { return &budget{semaphore.NewWeighted(n), n} }

func (b *budget) acquire(ctx context.Context, n int64) error {
	return b.sem.Acquire(ctx, min(n, b.max))
}

func (b *budget) release(n int64) { b.sem.Release(min(n, b.max)) }
