package groups

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/braidmq/braid/federation"
)

// A stream is the Membership of a Connect member whose coordinator is this gateway.
// push and end are called by the group's owner only.
type stream struct {
	o      *owner
	id     string
	events chan AssignmentEvent
	ended  bool // of the owner
	left   atomic.Bool
	err    atomic.Pointer[error]
	heard  atomic.Int64 // UnixNano
}

func newStream(o *owner) *stream {
	s := &stream{o: o, events: make(chan AssignmentEvent, o.e.cfg.EventsMax)}
	s.Alive()
	return s
}

func heardOf(handle any) time.Time { return time.Unix(0, handle.(*stream).heard.Load()) }

// push reports whether there was room for the event.
func (s *stream) push(ev AssignmentEvent) bool {
	if s.ended || s.left.Load() {
		return true
	}
	select {
	case s.events <- ev:
		return true
	default:
		return false
	}
}

func (s *stream) end(err error) {
	if s.ended {
		return
	}
	s.ended = true
	if err != nil && (!s.left.Load() || federation.KindOf(err) != federation.UnknownMember) {
		s.err.Store(&err)
	}
	close(s.events)
}

func (s *stream) MemberID() string { return s.id }

func (s *stream) Events() <-chan AssignmentEvent { return s.events }

func (s *stream) Err() error {
	if err := s.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (s *stream) Alive() { s.heard.Store(time.Now().UnixNano()) }

func (s *stream) Commit(ctx context.Context, offsets []CommitOffset) ([]error, error) {
	s.Alive()
	r := CommitRequest{Group: s.o.g.id, MemberID: s.id, Generation: -1, Offsets: offsets}
	value, err := s.o.ask(ctx, func(c *call) any { return evCommit{to: c, r: r, connect: true} })
	errs, _ := value.([]error)
	return errs, err
}

func (s *stream) Revoked(ctx context.Context, tps []federation.TopicPartition) error {
	s.Alive()
	_, err := s.o.ask(ctx, func(c *call) any { return evRevoked{to: c, member: s.id, tps: tps} })
	return err
}

func (s *stream) Leave(ctx context.Context) error {
	s.left.Store(true)
	value, err := s.o.ask(ctx, func(c *call) any { return evLeave{to: c, members: []LeavingMember{{MemberID: s.id}}} })
	if errs, ok := value.([]error); ok && err == nil && len(errs) == 1 {
		err = errs[0]
	}
	return err
}

// ask sends an event to the owner and waits for the answer.
func (o *owner) ask(ctx context.Context, event func(*call) any) (any, error) {
	c := &call{done: make(chan result, 1)}
	select {
	case o.mailbox <- event(c):
	case <-o.done:
		return nil, o.err
	case <-ctx.Done():
		return nil, errGaveUp(o.g.id, ctx.Err())
	}
	select {
	case r := <-c.done:
		return r.value, r.err
	case <-ctx.Done():
		return nil, errGaveUp(o.g.id, ctx.Err())
	case <-o.done:
	}
	select { // it may have answered with its last breath
	case r := <-c.done:
		return r.value, r.err
	default:
		return nil, o.err
	}
}

func errGaveUp(group string, err error) error {
	return federation.Errorf(federation.Timeout, "group %q: the caller gave up waiting: %w", group, err)
}
