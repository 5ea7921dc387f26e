package groups

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
)

// An owner is the goroutine of a live group: it runs the step for one event after
// the other, stores what the step changed, and only then sends the answers. What
// comes in while a write is under way is stored together, in the next one.
type owner struct {
	e       *Engine
	g       *group
	logical string
	epoch   int64 // of ownership, in Redis
	seq     int64 // of the last write

	mailbox chan any
	changed chan struct{} // holds one signal: the map changed
	sweep   chan struct{} // holds one signal: drop old offsets
	press   chan struct{} // holds one signal: room is wanting
	evict   chan struct{} // holds one signal: go, if there is nothing but offsets
	stop    chan error    // holds one reason
	done    chan struct{}
	err     error // why it ended; valid after done

	active time.Time   // of the last event from outside
	empty  atomic.Bool // unused, for others

	// ownedIn is the last map that was seen to give the group to this gateway, so that
	// not every request has to hash all gateways.
	ownedIn atomic.Pointer[federation.Map]
}

// A call waits for the answer to an event.
type call struct{ done chan result }

type result struct {
	value any
	err   error
}

var (
	// errIdle ends the owner of a group that nobody uses; the next request loads it again.
	errIdle = federation.Errorf(federation.NotCoordinator, "the group was unloaded; try again")
	// errMoved ends the owner of a group that has another coordinator by now.
	errMoved = federation.Errorf(federation.NotCoordinator, "the group is coordinated by another gateway by now; look its coordinator up again")
)

func errStoreAway(group string, err error) error {
	return federation.Errorf(federation.CoordinatorLoading, "group %q: the store of groups (Redis) does not answer; try again", group).WithCause(err)
}

func newOwner(e *Engine, logical string, g *group, epoch int64) *owner {
	return &owner{
		e: e, g: g, logical: logical, epoch: epoch,
		mailbox: make(chan any, e.cfg.MailboxMax), changed: make(chan struct{}, 1), sweep: make(chan struct{}, 1),
		press: make(chan struct{}, 1), evict: make(chan struct{}, 1),
		stop: make(chan error, 1), done: make(chan struct{}),
	}
}

// run works until the group moves, the engine stops, or the store fails.
func (o *owner) run(ctx context.Context) {
	o.active = time.Now()
	err := o.loop(ctx)
	for _, m := range o.g.members {
		if s, ok := m.handle.(*stream); ok {
			s.end(err)
		}
	}
	if federation.KindOf(err) == federation.NotCoordinator {
		// Best effort: a new owner does not wait for it.
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.e.cfg.StoreTimeout)
		_ = o.e.cfg.Store.ReleaseGroup(release, o.logical, o.g.id, o.epoch)
		cancel()
	}
	o.g.release()
	o.notEmpty(true)
	o.e.forget(o)
	o.err = err
	close(o.done)
	if !errors.Is(err, errIdle) {
		o.e.cfg.clients.Info("group unloaded", "group", o.g.id, "reason", err)
	}
}

func (o *owner) loop(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	batch := []any{o.topics()}
	for {
		if err := o.handle(ctx, batch); err != nil {
			return err
		}
		clear(batch)
		batch = batch[:0]
		o.notEmpty(!o.unused())
		timer.Reset(time.Until(o.next()))
		select {
		case <-ctx.Done():
			return errMoved
		case err := <-o.stop:
			return err
		case ev := <-o.mailbox:
			batch = append(batch, ev)
			o.active = time.Now()
		case <-o.changed:
			batch = append(batch, o.topics())
		case <-o.sweep:
			if ev, ok := o.expiry(ctx); ok {
				batch = append(batch, ev)
			}
		case <-o.press:
			batch = append(batch, evPressed{})
		case <-o.evict:
			if o.unused() && len(o.mailbox) == 0 {
				return errIdle
			}
		case now := <-timer.C:
			if o.idle(now) {
				return errIdle
			}
			batch = append(batch, evTick{heard: heardOf})
		}
		batch = o.drain(batch)
	}
}

// notEmpty notes whether somebody uses the group. Those that nobody uses are bounded: for
// one more, another one goes.
func (o *owner) notEmpty(used bool) {
	if o.empty.Swap(!used) != used {
		return
	}
	room := o.e.cfg.Room
	if used {
		room.unused.Add(-1)
		return
	}
	if room.unused.Add(1) > room.unusedMax() {
		o.e.evictOne()
	}
}

// drain takes what else waits, so that one write stores it all.
func (o *owner) drain(batch []any) []any {
	for len(batch) < cap(o.mailbox) {
		select {
		case ev := <-o.mailbox:
			batch = append(batch, ev)
		default:
			return batch
		}
	}
	return batch
}

func (o *owner) topics() any { return evTopics{topics: o.e.cfg.Maps.Current()} }

func (o *owner) expiry(ctx context.Context) (any, bool) {
	ctx, cancel := context.WithTimeout(ctx, o.e.cfg.StoreTimeout)
	defer cancel()
	stored, err := o.e.cfg.Store.GroupOffsets(ctx, o.logical, o.g.id, nil)
	if err != nil {
		o.e.cfg.Logger.Warn("offsets not checked for age", "group", o.g.id, "error", err)
		return nil, false
	}
	return evExpire{stored: stored}, true
}

// unused reports whether nothing but offsets is left of the group.
func (o *owner) unused() bool {
	return o.g.state == stateEmpty && len(o.g.members) == 0 && len(o.g.pending) == 0
}

func (o *owner) idle(now time.Time) bool {
	return o.unused() && now.Sub(o.active) >= o.e.cfg.IdleUnload && len(o.mailbox) == 0
}

// next returns when the timer has to fire.
func (o *owner) next() time.Time {
	next := o.g.due()
	if idle := o.active.Add(o.e.cfg.IdleUnload); o.unused() && (next.IsZero() || idle.Before(next)) {
		next = idle
	}
	if next.IsZero() {
		next = time.Now().Add(time.Hour)
	}
	return next
}

// changes are the effects of a batch: the last value of each field counts. A batch
// of heartbeats has none but replies, and makes no map.
type changes struct {
	records map[string][]byte
	offsets map[redisstore.OffsetKey]*redisstore.GroupOffset // nil = dropped
	replies []reply
	events  []memberEvent
	closed  []closedHandle
	remove  bool
}

func (c *changes) add(fx effects) {
	if c.records == nil && len(fx.records) > 0 {
		c.records = map[string][]byte{}
	}
	if c.offsets == nil && len(fx.offsets)+len(fx.dropped) > 0 {
		c.offsets = map[redisstore.OffsetKey]*redisstore.GroupOffset{}
	}
	for _, r := range fx.records {
		c.records[r.Field] = r.Value
	}
	for _, of := range fx.offsets {
		c.offsets[of.OffsetKey] = &of
	}
	for _, k := range fx.dropped {
		c.offsets[k] = nil
	}
	c.replies = append(c.replies, fx.replies...)
	c.events = append(c.events, fx.events...)
	c.closed = append(c.closed, fx.closed...)
	c.remove = c.remove || fx.remove
}

// handle runs a batch of events. An error ends the owner: what was decided but
// perhaps not stored is forgotten, and the group is loaded as it is stored. Nobody
// was told of it.
func (o *owner) handle(ctx context.Context, batch []any) error {
	now := time.Now()
	var c changes
	epoch := o.g.epoch
	for i, ev := range batch {
		c.add(o.g.step(now, ev))
		if c.remove {
			batch = batch[:i+1]
			break // what is behind it in the batch finds the owner gone, and loads the group anew
		}
	}
	if err := o.persist(ctx, now, &c); err != nil {
		return err
	}
	taken(batch)
	if err := o.confirm(ctx, now, &c); err != nil {
		return err
	}
	o.e.counted.rebalances.Add(o.g.epoch - epoch)
	events, err := o.withOffsets(ctx, c.events)
	if err != nil {
		return err
	}
	for _, r := range c.replies {
		r.to.(*call).done <- result{r.value, r.err}
	}
	for i, ev := range events {
		o.deliver(c.events[i], ev)
	}
	for _, h := range c.closed {
		h.handle.(*stream).end(h.err)
	}
	if c.remove {
		return errIdle
	}
	return nil
}

// taken lets go of what members brought: who asks waits on, with the request in its hands.
func taken(batch []any) {
	for _, ev := range batch {
		if join, ok := ev.(evJoin); ok {
			clear(join.r.Protocols)
			if join.r.Taken != nil {
				join.r.Taken()
			}
		}
	}
}

// stores reports whether a change writes to the store, which says whose the group is.
func (c *changes) stores() bool { return len(c.records) > 0 || len(c.offsets) > 0 || c.remove }

// expels reports whether an answer tells a member that it is none any more, or that another
// one has its place or epoch.
func expels(r reply) bool {
	switch federation.KindOf(r.err) {
	case federation.UnknownMember, federation.IllegalGeneration, federation.FencedMemberEpoch, federation.StaleMemberEpoch, federation.FencedInstance:
		return true
	default:
		return false
	}
}

// confirm asks the store whose the group is before a member is told that it is none, where
// nothing was written: another gateway may have taken the group over, and the member in,
// since this one looked last. While the store is away such members are told to try again.
func (o *owner) confirm(ctx context.Context, now time.Time, c *changes) error {
	if c.stores() || !slices.ContainsFunc(c.replies, expels) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.e.cfg.StoreTimeout)
	defer cancel()
	o.seq++
	err := o.e.cfg.Store.WriteGroup(ctx, o.logical, o.g.id, redisstore.GroupWrite{Epoch: o.epoch, Sequence: o.seq, NowMs: now.UnixMilli()})
	if err == nil || federation.KindOf(err) == federation.NotCoordinator {
		return err
	}
	for i, r := range c.replies {
		if expels(r) {
			c.replies[i] = reply{to: r.to, err: errStoreAway(o.g.id, err)}
		}
	}
	return nil
}

func (o *owner) persist(ctx context.Context, now time.Time, c *changes) error {
	if !c.stores() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.e.cfg.StoreTimeout)
	defer cancel()
	if c.remove {
		return o.failed(o.e.cfg.Store.DeleteGroup(ctx, o.logical, o.g.id, o.epoch))
	}
	o.seq++
	w := redisstore.GroupWrite{Epoch: o.epoch, Sequence: o.seq, NowMs: now.UnixMilli()}
	for field, value := range c.records {
		w.Records = append(w.Records, redisstore.GroupRecord{Field: field, Value: value})
	}
	for key, offset := range c.offsets {
		if offset == nil {
			w.DeleteOffsets = append(w.DeleteOffsets, key)
		} else {
			w.Offsets = append(w.Offsets, *offset)
		}
	}
	err := o.e.cfg.Store.WriteGroup(ctx, o.logical, o.g.id, w)
	o.e.counted.writes.Add(1)
	if err == nil {
		o.e.counted.commits.Add(int64(len(w.Offsets)))
	} else {
		o.e.counted.storeFailures.Add(1)
	}
	if err == nil || len(c.records) > 0 || federation.KindOf(err) == federation.NotCoordinator {
		return o.failed(err)
	}
	// Only offsets: the group's state is as stored, so it goes on.
	for i, r := range c.replies {
		if _, ok := r.value.([]error); ok {
			c.replies[i] = reply{to: r.to, value: []error(nil), err: errStoreAway(o.g.id, err)}
		}
	}
	return nil
}

func (o *owner) failed(err error) error {
	if err == nil || federation.KindOf(err) == federation.NotCoordinator {
		return err
	}
	return errStoreAway(o.g.id, err)
}

// withOffsets adds the committed offsets to what events assign.
func (o *owner) withOffsets(ctx context.Context, events []memberEvent) ([]AssignmentEvent, error) {
	if len(events) == 0 {
		return nil, nil
	}
	out := make([]AssignmentEvent, len(events))
	var all []federation.TopicPartition
	for _, ev := range events {
		all = append(all, ev.assigned...)
	}
	var committed []CommittedOffset
	if len(all) > 0 { // else nothing is asked of Redis: most batches are heartbeats and commits
		ctx, cancel := context.WithTimeout(ctx, o.e.cfg.StoreTimeout)
		defer cancel()
		var err error
		if committed, err = o.e.committed(ctx, o.g.id, all); err != nil {
			return nil, errStoreAway(o.g.id, err)
		}
	}
	for i, ev := range events {
		n := len(ev.assigned)
		out[i] = AssignmentEvent{MemberEpoch: ev.epoch, Assigned: committed[:n:n], Revoking: ev.revoking, Lost: ev.lost}
		if len(ev.revoking) > 0 {
			out[i].Deadline = ev.deadline
		}
		committed = committed[n:]
	}
	return out, nil
}

// deliver hands an event to its membership; one that does not read its events ends,
// and the member stays for its session.
func (o *owner) deliver(ev memberEvent, out AssignmentEvent) {
	s := ev.handle.(*stream)
	if s.push(out) {
		return
	}
	o.g.step(time.Now(), evDetach{handle: s})
	s.end(federation.Errorf(federation.Throttled, "group %q: member %q does not read its assignment changes (%d wait)", o.g.id, ev.member, cap(s.events)))
}
