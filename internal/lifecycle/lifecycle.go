// Package lifecycle runs the named tasks of a process: they start in order, the
// first one that fails stops all, and they stop in reverse order, gracefully
// and for a bounded time.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// A Task is a part of a process.
//
//	starting ──► running ──► stopping (Stop, then the context ends) ──► ended
//	                └──────────────── abort (the context ends) ───────────┘
type Task struct {
	// Name is what errors and logs call the task.
	Name string
	// Run works until ctx ends. If it returns earlier, the whole group stops; a nil
	// error then counts as a failure too, unless the group is already stopping.
	Run func(ctx context.Context) error
	// Stop ends the task's work gracefully; it may be nil. It is called once, before
	// the context of Run ends, while all tasks that were started earlier still run.
	// Its context ends when the group's stop time is used up.
	Stop func(ctx context.Context) error
}

// Config bounds a group.
type Config struct {
	// StopTimeout bounds the graceful stop of all tasks together; then the contexts
	// of all tasks end at once. 30 s by default.
	StopTimeout time.Duration
	// AbandonTimeout bounds the wait for tasks whose context has ended; those that
	// still run are named in the error of Run. 5 s by default.
	AbandonTimeout time.Duration
	// Abort, when it is closed, ends all tasks at once, without Stop; nil = never.
	Abort <-chan struct{}
	// Logger tells of stops; nil = none.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.StopTimeout == 0 {
		c.StopTimeout = 30 * time.Second
	}
	if c.AbandonTimeout == 0 {
		c.AbandonTimeout = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// ErrAborted is returned by Run when Abort was closed.
var ErrAborted = errors.New("aborted")

type running struct {
	Task
	cancel context.CancelFunc
	done   chan struct{}
}

type ended struct {
	name string
	err  error
}

// Run starts the tasks in their order and blocks until all have ended: because
// ctx ended (a graceful stop, nil error), because a task ended by itself (its
// error, with its name), or because Abort was closed. Tasks are stopped in
// reverse order, each one only when the one before it has ended.
func Run(ctx context.Context, cfg Config, tasks ...Task) error {
	cfg = cfg.withDefaults()
	base, cancelAll := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelAll()
	first := make(chan ended, len(tasks))
	started := make([]*running, 0, len(tasks))
	for _, t := range tasks {
		started = append(started, start(base, t, first))
	}
	var cause error
	select {
	case <-ctx.Done():
		cfg.Logger.Info("stopping", "cause", context.Cause(ctx))
	case <-cfg.Abort:
		cause = ErrAborted
	case e := <-first:
		cause = e.failure()
		cfg.Logger.Error("task ended, stopping all", "task", e.name, "err", cause)
	}
	if !errors.Is(cause, ErrAborted) {
		cause = errors.Join(cause, stop(base, cfg, started))
	}
	cancelAll()
	return errors.Join(cause, await(cfg, started))
}

func start(base context.Context, t Task, first chan<- ended) *running {
	ctx, cancel := context.WithCancel(base)
	r := &running{Task: t, cancel: cancel, done: make(chan struct{})}
	go func() {
		err := t.Run(ctx)
		early := ctx.Err() == nil
		close(r.done)
		if early || err != nil && !errors.Is(err, context.Canceled) {
			first <- ended{t.Name, err}
		}
	}()
	return r
}

func (e ended) failure() error {
	if e.err == nil {
		return fmt.Errorf("%s: ended unexpectedly", e.name)
	}
	return fmt.Errorf("%s: %w", e.name, e.err)
}

// stop ends the tasks one after the other, the last one first. The error names
// the tasks whose Stop failed; running out of time is one of its errors.
func stop(base context.Context, cfg Config, started []*running) error {
	ctx, cancel := context.WithTimeout(base, cfg.StopTimeout)
	defer cancel()
	go func() {
		select {
		case <-cfg.Abort:
			cancel()
		case <-ctx.Done():
		}
	}()
	var errs []error
	for _, r := range slices.Backward(started) {
		if r.Stop != nil && !r.hasEnded() {
			if err := r.Stop(ctx); err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", r.Name, err))
			}
		}
		r.cancel()
		select {
		case <-r.done:
		case <-ctx.Done():
			return errors.Join(append(errs, fmt.Errorf("stop %s: not ended in %s", r.Name, cfg.StopTimeout))...)
		}
	}
	return errors.Join(errs...)
}

func (r *running) hasEnded() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// await waits for tasks whose contexts have ended.
func await(cfg Config, started []*running) error {
	timer := time.NewTimer(cfg.AbandonTimeout)
	defer timer.Stop()
	for _, r := range started {
		select {
		case <-r.done:
		case <-timer.C:
			var names []string
			for _, r := range started {
				if !r.hasEnded() {
					names = append(names, r.Name)
				}
			}
			return fmt.Errorf("still running %s after the end: %s", cfg.AbandonTimeout, strings.Join(names, ", "))
		}
	}
	return nil
}
