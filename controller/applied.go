package controller

import (
	"context"
	"time"

	"github.com/braidmq/braid/federation"
)

// A release says when a gateway that has not applied a version is not waited for
// any more.
type release int

const (
	// atDrop: when it is out of the map, so that no client is sent to it.
	atDrop release = iota
	// atFence: when its lease has run out, so that it cannot acknowledge appends. It
	// may have left the map long before.
	atFence
)

// awaitApplied waits until every registered gateway has applied version v, or is
// released. A gateway stays registered while leaders change: one that is on its way
// to this leader is waited for like those that have a stream. It returns those that
// are still missing when ctx ends.
func (t *term) awaitApplied(ctx context.Context, v federation.MapVersion, at release) []federation.GatewayID {
	for {
		p := t.published.Load()
		late, next, changed := t.fleet.behind(p.m, v, at, time.Now())
		if len(late) == 0 {
			return nil
		}
		if !wait(ctx, changed, p.next, next) {
			return late
		}
	}
}

// awaitVisible waits until clients find version v at every gateway that they are
// sent to. Gateways without a stream have until they are dropped, for TakeoverGrace
// at most; then all have ApplyWait: one that is slow must not hold up others.
func (t *term) awaitVisible(ctx context.Context, v federation.MapVersion) {
	t.awaitStreams(ctx)
	ctx, cancel := context.WithTimeout(ctx, t.cfg.ApplyWait)
	defer cancel()
	if late := t.awaitApplied(ctx, v, atDrop); len(late) > 0 {
		t.log.Warn("some gateways have not applied the map yet", "version", v, "gateways", late)
	}
}

// awaitStreams waits until every gateway of the map has a stream.
func (t *term) awaitStreams(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.TakeoverGrace)
	defer cancel()
	for {
		p := t.published.Load()
		absent, changed := t.fleet.withoutStream(p.m)
		if len(absent) == 0 || !wait(ctx, changed, p.next, time.Time{}) {
			return
		}
	}
}

// wait returns true when one of the channels is closed or until has come (zero =
// never), and false when ctx ends.
func wait(ctx context.Context, one, other <-chan struct{}, until time.Time) bool {
	var due <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-one:
	case <-other:
	case <-due:
	case <-ctx.Done():
		return false
	}
	return true
}

// withoutStream returns the gateways of a map that have no session, and a channel
// that is closed when that may have changed.
func (f *fleet) withoutStream(m *federation.Map) ([]federation.GatewayID, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.withoutStreamLocked(m), f.applied
}

func (f *fleet) withoutStreamLocked(m *federation.Map) []federation.GatewayID {
	var out []federation.GatewayID
	for _, g := range m.Gateways {
		if f.sessions[g.ID] == nil && g.State != federation.GatewayLost {
			out = append(out, g.ID)
		}
	}
	return out
}

// behind returns the gateways that have not applied a version and are not
// released, when the first of them is released by time alone (zero = never), and a
// channel that is closed when something may have changed.
func (f *fleet) behind(m *federation.Map, v federation.MapVersion, at release, now time.Time) ([]federation.GatewayID, time.Time, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var late []federation.GatewayID
	for _, s := range f.sessions {
		// Also one without a lease: it may be granted one before it applies v.
		if s.version < v {
			late = append(late, s.id)
		}
	}
	if at == atDrop {
		return append(late, f.withoutStreamLocked(m)...), time.Time{}, f.applied
	}
	lost, next := f.unreachableLocked(now)
	return append(late, lost...), next, f.applied
}
