package groups

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/braidmq/braid/federation"
)

// A carried membership is one that is carried from coordinator to coordinator. It
// knows what its reader was told, so that whatever a coordinator says again, or
// could not say any more, reaches the reader once.
type carried struct {
	c      *Cluster
	events chan AssignmentEvent
	over   chan struct{} // closed when the membership ended

	mu      sync.Mutex // guards the following
	req     SubscribeRequest
	at      Membership // nil between two coordinators
	gateway federation.GatewayID
	drop    context.CancelFunc // lets go of at
	changed chan struct{}      // closed when at is set
	owned   map[federation.TopicPartition]bool
	asked   map[federation.TopicPartition]bool // of owned: the reader was asked to give them up
	heard   time.Time                          // a coordinator was told that the member lives
	started bool                               // the first event was passed on
	left    bool
	err     error
}

func newCarried(c *Cluster, r SubscribeRequest) *carried {
	return &carried{
		c: c, req: r, events: make(chan AssignmentEvent, c.Engine.cfg.EventsMax), over: make(chan struct{}), changed: make(chan struct{}),
		owned: map[federation.TopicPartition]bool{}, asked: map[federation.TopicPartition]bool{},
	}
}

// connect subscribes at the coordinator that the map names. The membership there
// lives as long as ctx; the attempt, as long as find.
func (m *carried) connect(ctx, find context.Context) error {
	m.mu.Lock()
	req, sent := m.req, time.Now()
	if req.MemberID != "" {
		req.Owned = sortedKeys(m.owned)
	}
	m.mu.Unlock()
	r, gateway, err := m.c.find(find, req.Group)
	if err != nil {
		return err
	}
	ctx, drop := context.WithCancel(ctx)
	stop := context.AfterFunc(find, drop)
	at, err := r.Subscribe(ctx, req)
	if err == nil && !stop() {
		err = errGaveUp(req.Group, find.Err())
	}
	if err != nil {
		drop()
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at, m.gateway, m.drop, m.req.MemberID, m.heard = at, gateway, drop, at.MemberID(), sent
	close(m.changed)
	return nil
}

// run passes events on and looks for the next coordinator when one is gone.
func (m *carried) run(ctx context.Context) {
	err := m.follow(ctx)
	m.mu.Lock()
	if ctx.Err() == nil {
		m.err = err
	}
	lost := sortedKeys(m.owned)
	tell := m.err != nil && len(lost) > 0
	epoch := m.req.MemberEpoch
	if m.drop != nil {
		m.drop()
	}
	m.mu.Unlock()
	if tell {
		select {
		case m.events <- AssignmentEvent{MemberEpoch: epoch, Lost: lost}:
		case <-ctx.Done():
		}
	}
	close(m.over)
	close(m.events)
}

func (m *carried) follow(ctx context.Context) error {
	for {
		err := m.serve(ctx)
		if ctx.Err() != nil || final(err) || m.hasLeft() && !elsewhere(err) {
			return err
		}
		if err := m.reconnect(ctx); err != nil {
			return err
		}
	}
}

// final reports whether an error ends a membership. One that only says that a
// coordinator could not answer (it dies, or is too slow) does not: the next
// attempt tells whether the group still knows the member.
func final(err error) bool {
	switch federation.KindOf(err) {
	case federation.Internal, federation.Timeout:
		return err == nil
	default:
		return !elsewhere(err)
	}
}

func (m *carried) hasLeft() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.left
}

// serve passes on what the present coordinator says, until it is not the
// coordinator any more.
func (m *carried) serve(ctx context.Context) error {
	m.mu.Lock()
	at, gateway, drop := m.at, m.gateway, m.drop
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.at, m.changed = nil, make(chan struct{})
		m.mu.Unlock()
		drop()
	}()
	maps := m.c.Engine.cfg.Maps
	for {
		changed := maps.Changed()
		// One that lost the group says so; but it may be unable to.
		if gw := maps.Current().GroupGateway(m.req.Group); gw != nil && gw.ID != gateway && gateway != m.c.Engine.cfg.Gateway {
			return errMoved
		}
		select {
		case ev, ok := <-at.Events():
			if !ok {
				if err := at.Err(); err != nil || m.hasLeft() {
					return err
				}
				return errMoved
			}
			if err := m.pass(ctx, at, ev); err != nil {
				return err
			}
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reconnect finds the coordinator within the session timeout. It begins with the
// last sign of life, as it does for the coordinator: so the reader has stopped when
// its partitions go to others.
func (m *carried) reconnect(ctx context.Context) error {
	m.mu.Lock()
	until := m.heard.Add(m.req.SessionTimeout)
	m.mu.Unlock()
	find, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for pause := m.c.backoff(); ; {
		err := m.connect(ctx, find)
		if err == nil || final(err) && find.Err() == nil {
			return err
		}
		if !pause.wait(find) {
			return federation.Errorf(federation.UnknownMember, "group %q: no coordinator was found within the session timeout; subscribe again", m.req.Group).WithCause(err)
		}
	}
}

// pass hands on what of an event is news to the reader.
func (m *carried) pass(ctx context.Context, at Membership, ev AssignmentEvent) error {
	m.mu.Lock()
	out := AssignmentEvent{MemberEpoch: ev.MemberEpoch, Deadline: ev.Deadline}
	var done []federation.TopicPartition
	for _, tp := range ev.Lost {
		if m.owned[tp] {
			out.Lost = append(out.Lost, tp)
			m.forgetLocked(tp)
		}
	}
	for _, tp := range ev.Revoking {
		switch {
		case !m.owned[tp]: // given up already, but the answer got lost
			done = append(done, tp)
		case !m.asked[tp]:
			m.asked[tp] = true
			out.Revoking = append(out.Revoking, tp)
		}
	}
	for _, o := range ev.Assigned {
		if !m.owned[o.TopicPartition] {
			m.owned[o.TopicPartition] = true
			out.Assigned = append(out.Assigned, o)
		}
	}
	news := len(out.Lost)+len(out.Revoking)+len(out.Assigned) > 0 || !m.started || ev.MemberEpoch != m.req.MemberEpoch
	m.started, m.req.MemberEpoch = true, ev.MemberEpoch
	left := m.left
	m.mu.Unlock()
	if news && !left {
		// Never blocking: the reader may be waiting for what only this goroutine can bring,
		// the next coordinator.
		select {
		case m.events <- out:
		default:
			return federation.Errorf(federation.Throttled, "group %q: the member does not read its assignment changes (%d wait)", m.req.Group, cap(m.events))
		}
	}
	if len(done) > 0 {
		return at.Revoked(ctx, done)
	}
	return nil
}

func (m *carried) forgetLocked(tp federation.TopicPartition) {
	delete(m.owned, tp)
	delete(m.asked, tp)
}

func (m *carried) MemberID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.req.MemberID
}

func (m *carried) Events() <-chan AssignmentEvent { return m.events }

func (m *carried) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *carried) Alive() {
	m.mu.Lock()
	at := m.at
	if at != nil {
		m.heard = time.Now()
	}
	m.mu.Unlock()
	if at != nil {
		at.Alive()
	}
}

// present returns the membership at the present coordinator, waiting for one.
func (m *carried) present(ctx context.Context) (Membership, error) {
	for {
		m.mu.Lock()
		at, changed := m.at, m.changed
		m.mu.Unlock()
		if at != nil {
			return at, nil
		}
		select {
		case <-changed:
		case <-m.over:
			if err := m.Err(); err != nil {
				return nil, err
			}
			return nil, errUnknownMember(m.req.Group, m.MemberID())
		case <-ctx.Done():
			return nil, errGaveUp(m.req.Group, ctx.Err())
		}
	}
}

// do does something at the present coordinator, and again at the next if that one
// is not the coordinator any more.
func (m *carried) do(ctx context.Context, f func(Membership) error) error {
	ctx, cancel := context.WithTimeout(ctx, m.req.SessionTimeout)
	defer cancel()
	for pause := m.c.backoff(); ; {
		at, err := m.present(ctx)
		if err != nil {
			return err
		}
		if err = f(at); final(err) || !pause.wait(ctx) {
			return err
		}
	}
}

func (m *carried) Commit(ctx context.Context, offsets []CommitOffset) (errs []error, err error) {
	err = m.do(ctx, func(at Membership) error {
		errs, err = at.Commit(ctx, offsets)
		return err
	})
	return errs, err
}

// Revoked notes first that the partitions are given up, so that the next
// coordinator is told if this one is gone.
func (m *carried) Revoked(ctx context.Context, tps []federation.TopicPartition) error {
	m.mu.Lock()
	tps = slices.Clone(tps)
	tps = slices.DeleteFunc(tps, func(tp federation.TopicPartition) bool { return !m.asked[tp] })
	for _, tp := range tps {
		m.forgetLocked(tp)
	}
	m.mu.Unlock()
	if len(tps) == 0 {
		return nil
	}
	return m.do(ctx, func(at Membership) error { return at.Revoked(ctx, tps) })
}

func (m *carried) Leave(ctx context.Context) error {
	m.mu.Lock()
	m.left = true
	m.mu.Unlock()
	err := m.do(ctx, func(at Membership) error { return at.Leave(ctx) })
	if federation.KindOf(err) == federation.UnknownMember {
		return nil // it was out already, perhaps by an answer that got lost
	}
	return err
}

var (
	_ Membership = (*carried)(nil)
	_ Membership = (*remoteMember)(nil)
	_ Membership = (*stream)(nil)
)
