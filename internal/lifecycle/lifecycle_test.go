package lifecycle_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/lifecycle"
)

// A recorder collects what happened, in order.
type recorder struct {
	mu   sync.Mutex
	what []string
}

func (r *recorder) add(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.what = append(r.what, s)
}

func (r *recorder) task(name string) lifecycle.Task {
	return lifecycle.Task{
		Name: name,
		Run: func(ctx context.Context) error {
			<-ctx.Done()
			r.add(name + " ended")
			return ctx.Err()
		},
		Stop: func(context.Context) error { r.add(name + " stopping"); return nil },
	}
}

func TestTasksStopInReverseOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		require.NoError(t, lifecycle.Run(ctx, lifecycle.Config{}, r.task("store"), r.task("engine"), r.task("door")))
		require.Equal(t, []string{
			"door stopping", "door ended", "engine stopping", "engine ended", "store stopping", "store ended",
		}, r.what)
	})
}

func TestFirstErrorStopsAllAndIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		broken := errors.New("port taken")
		err := lifecycle.Run(t.Context(), lifecycle.Config{}, r.task("store"), lifecycle.Task{
			Name: "listener",
			Run:  func(context.Context) error { return broken },
		})
		require.ErrorIs(t, err, broken)
		require.EqualError(t, err, "listener: port taken")
		require.Equal(t, []string{"store stopping", "store ended"}, r.what)
	})
}

func TestTaskThatEndsByItselfIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := lifecycle.Run(t.Context(), lifecycle.Config{}, lifecycle.Task{
			Name: "watch",
			Run:  func(context.Context) error { return nil },
		})
		require.EqualError(t, err, "watch: ended unexpectedly")
	})
}

func TestGracefulStopIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		slow := r.task("slow")
		slow.Stop = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		begin := time.Now()
		err := lifecycle.Run(ctx, lifecycle.Config{StopTimeout: 10 * time.Second}, r.task("store"), slow)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "stop slow")
		require.Equal(t, 10*time.Second, time.Since(begin))
		slices.Sort(r.what)
		require.Contains(t, r.what, "slow ended")
		require.Contains(t, r.what, "store ended")
	})
}

func TestTaskThatIgnoresItsContextIsAbandonedAndNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := lifecycle.Run(ctx, lifecycle.Config{StopTimeout: time.Second, AbandonTimeout: time.Second}, lifecycle.Task{
			Name: "deaf",
			Run:  func(context.Context) error { <-release; return nil },
		})
		require.ErrorContains(t, err, "still running 1s after the end: deaf")
		close(release)
	})
}

func TestAbortSkipsTheGracefulStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		abort := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(abort) })
		err := lifecycle.Run(t.Context(), lifecycle.Config{Abort: abort}, r.task("store"), r.task("door"))
		require.ErrorIs(t, err, lifecycle.ErrAborted)
		slices.Sort(r.what)
		require.Equal(t, []string{"door ended", "store ended"}, r.what)
	})
}

func TestAbortDuringAGracefulStopEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		abort := make(chan struct{})
		time.AfterFunc(2*time.Second, func() { close(abort) })
		var r recorder
		slow := r.task("slow")
		slow.Stop = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		begin := time.Now()
		err := lifecycle.Run(ctx, lifecycle.Config{StopTimeout: time.Hour, Abort: abort}, slow)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 2*time.Second, time.Since(begin))
	})
}
