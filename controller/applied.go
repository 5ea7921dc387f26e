package controller

import (
	"context"
	"time"

	"github.com/braidmq/braid/federation"
)

// awaitVisible waits until clients find version v at every gateway that they are
// sent to. Gateways without a stream have until they are dropped, for TakeoverGrace
// at most; then all have ApplyWait: one that is slow must not hold up others.
func (t *term) awaitVisible(ctx context.Context, v federation.MapVersion) {
	t.awaitStreams(ctx)
	ctx, cancel := context.WithTimeout(ctx, t.cfg.ApplyWait)
	defer cancel()
	for {
		p := t.published.Load()
		late, changed := t.fleet.behind(p.m, v)
		if len(late) == 0 {
			return
		}
		if !wait(ctx, changed, p.next, time.Time{}) {
			t.log.Warn("some gateways have not applied the map yet", "version", v, "gateways", late)
			return
		}
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

// behind returns the gateways that have not applied a version, and a channel that is
// closed when that may have changed. A gateway stays registered while leaders change:
// one that is on its way to this leader counts like those that have a stream.
func (f *fleet) behind(m *federation.Map, v federation.MapVersion) ([]federation.GatewayID, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var late []federation.GatewayID
	for _, s := range f.sessions {
		if s.version < v {
			late = append(late, s.id)
		}
	}
	return append(late, f.withoutStreamLocked(m)...), f.applied
}
