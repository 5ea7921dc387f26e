package controller

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// A fleet holds the streams of the gateways of one term.
type fleet struct {
	mu       sync.Mutex // guards the following
	sessions map[federation.GatewayID]*session
	streams  int
	// dropAt is when gateways of the map that have no stream are dropped.
	dropAt map[federation.GatewayID]time.Time
	// leases is until when each holder may acknowledge appends at the latest,
	// whether or not it has a stream, or a place in the map.
	leases  map[holder]time.Time
	applied chan struct{} // closed when a session applied a version, or came, or went
}

// A holder of a lease is one process of a gateway. That of an earlier leader has
// no incarnation until the gateway registers.
type holder struct {
	id          federation.GatewayID
	incarnation string
}

// A session is the stream of one gateway. Its fields below the channels are
// guarded by the fleet's mutex.
type session struct {
	id          federation.GatewayID
	incarnation string
	build       string
	seen        *lastSeen
	ended       chan struct{} // closed when it was replaced or given up
	drain       chan *controlv1.Drain

	since       time.Time             // when it registered
	floor       federation.MapVersion // it gets no lease before it has applied this
	version     federation.MapVersion // applied
	held        heldReport
	connections int32
	loads       planner.Load
	away        []federation.ClusterName // of which no broker answers the gateway
	drained     bool
	over        bool // ended is closed
}

func newFleet() *fleet {
	return &fleet{
		sessions: make(map[federation.GatewayID]*session),
		dropAt:   make(map[federation.GatewayID]time.Time),
		leases:   make(map[holder]time.Time),
		applied:  make(chan struct{}),
	}
}

// takeOver gives the gateways of the map until a moment to register. Each may hold
// a lease of the leader before, which ends at the latest at leaseEnd.
func (f *fleet) takeOver(m *federation.Map, until, leaseEnd time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range m.Gateways {
		f.dropAt[g.ID] = until
		f.leases[holder{id: g.ID}] = leaseEnd
	}
}

// admit counts a stream; false if there are too many.
func (f *fleet) admit(most int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.streams >= most {
		return false
	}
	f.streams++
	return true
}

func (f *fleet) dismiss() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.streams--
}

// register makes s the session of its gateway; an older one ends. A lease of an
// earlier leader is its own: two processes never share a gateway's id.
func (f *fleet) register(s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endLocked(f.sessions[s.id])
	f.sessions[s.id] = s
	s.since = time.Now()
	delete(f.dropAt, s.id)
	if until, ok := f.leases[holder{id: s.id}]; ok {
		delete(f.leases, holder{id: s.id})
		f.leases[holder{s.id, s.incarnation}] = until
	}
	f.signalLocked()
}

// lost ends a session; its gateway is dropped after the grace, or at once if it
// said that it is done.
func (f *fleet) lost(s *session, grace time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endLocked(s)
	if f.sessions[s.id] != s {
		return
	}
	delete(f.sessions, s.id)
	if s.drained {
		grace = 0
	}
	f.dropAt[s.id] = time.Now().Add(grace)
	f.signalLocked()
}

// grant notes that a session may hold a lease until a moment; false if it must not
// get one yet.
func (f *fleet) grant(s *session, until time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.version < s.floor || s.over {
		return false
	}
	h := holder{s.id, s.incarnation}
	if until.After(f.leases[h]) {
		f.leases[h] = until
	}
	return true
}

// finished notes that a gateway acknowledges nothing any more.
func (f *fleet) finished(s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.drained = true
	delete(f.leases, holder{s.id, s.incarnation})
	f.signalLocked()
}

func (f *fleet) endLocked(s *session) {
	if s != nil && !s.over {
		s.over = true
		close(s.ended)
	}
}

func (f *fleet) signalLocked() {
	close(f.applied)
	f.applied = make(chan struct{})
}

// update changes a session under the lock, and wakes those who wait for versions.
func (f *fleet) update(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	f.signalLocked()
}

// session returns a copy of a gateway's session.
func (f *fleet) session(id federation.GatewayID) (session, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sessions[id]; s != nil {
		return *s, true
	}
	return session{}, false
}

// away returns how many of the attached gateways say that no broker of a cluster answers
// them, and how many are attached.
func (f *fleet) away(name federation.ClusterName) (away, attached int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sessions {
		if slices.Contains(s.away, name) {
			away++
		}
	}
	return away, len(f.sessions)
}

// ask sends a drain request to a gateway; false if it has no stream.
func (f *fleet) ask(id federation.GatewayID, d *controlv1.Drain) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sessions[id]
	if s == nil {
		return false
	}
	select {
	case s.drain <- d:
	default: // it was asked already
	}
	return true
}

// overdue ends the sessions that are silent for too long, and returns the
// gateways of the map that have no session and no grace left.
func (f *fleet) overdue(m *federation.Map, now time.Time, beatTimeout, grace time.Duration) []federation.GatewayID {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, s := range f.sessions {
		if now.Sub(*s.seen.Load()) > beatTimeout {
			f.endLocked(s)
			delete(f.sessions, id)
			f.dropAt[id] = now.Add(grace)
			f.signalLocked()
		}
	}
	var out []federation.GatewayID
	known := make(map[federation.GatewayID]bool, len(m.Gateways))
	taken := make(map[string]bool, len(m.Gateways))
	for _, g := range m.Gateways {
		if f.sessions[g.ID] != nil {
			taken[g.ConnectAddress] = true
		}
	}
	for _, g := range m.Gateways {
		known[g.ID] = true
		at, ok := f.dropAt[g.ID]
		if g.State == federation.GatewayLost && f.leasedLocked(g.ID, now) {
			continue
		}
		// One whose address another gateway has taken does not come back.
		if f.sessions[g.ID] == nil && (!ok || !now.Before(at) || taken[g.ConnectAddress]) {
			out = append(out, g.ID)
		}
	}
	for id := range f.dropAt {
		if !known[id] {
			delete(f.dropAt, id)
		}
	}
	maps.DeleteFunc(f.leases, func(_ holder, until time.Time) bool { return !now.Before(until) })
	return out
}

// leasedLocked reports whether any process of a gateway may hold a lease.
func (f *fleet) leasedLocked(id federation.GatewayID, now time.Time) bool {
	for h, until := range f.leases {
		if h.id == id && now.Before(until) {
			return true
		}
	}
	return false
}

// absent returns those of the gateways that have no session at this moment: the ones
// that may still hold a lease, and the ones that are gone.
func (f *fleet) absent(ids []federation.GatewayID, now time.Time) (lost, gone []federation.GatewayID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		switch {
		case f.sessions[id] != nil:
		case f.leasedLocked(id, now):
			lost = append(lost, id)
		default:
			gone = append(gone, id)
		}
	}
	return lost, gone
}

// sweep drops gateways whose stream is lost for good.
func (t *term) sweep(ctx context.Context) {
	const perGrace, most = 8, 250 * time.Millisecond
	tick := time.NewTicker(max(time.Millisecond, min(most, t.cfg.GatewayGrace/perGrace, t.cfg.BeatTimeout/perGrace)))
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			t.sweepOnce(ctx, now)
		case <-ctx.Done():
			return
		}
	}
}

func (t *term) sweepOnce(ctx context.Context, now time.Time) {
	late := t.fleet.overdue(t.current(), now, t.cfg.BeatTimeout, t.cfg.GatewayGrace)
	if len(late) == 0 {
		return
	}
	m, err := t.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
		lost, gone := t.fleet.absent(late, now)
		m = planner.WithoutGateways(m, gone...)
		for _, id := range lost {
			if g := m.Gateway(id); g != nil {
				changed := *g
				changed.State = federation.GatewayLost
				m = planner.WithGateway(m, &changed)
			}
		}
		return m, nil
	})
	switch {
	case ctx.Err() != nil:
	case err != nil:
		t.log.Warn("lost gateways could not be dropped; it is tried again", "gateways", late, "err", err)
	default:
		t.log.Info("gateways dropped: their streams are lost", "gateways", late, "version", m.Version)
	}
}
