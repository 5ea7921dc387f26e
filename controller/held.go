package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// headsHeldMax bounds the heads of one report.
const headsHeldMax = 100_000

// A heldReport is what a gateway said last of the heads that it holds.
type heldReport struct {
	version federation.MapVersion // under which it holds them
	heads   map[federation.TopicPartition]federation.HeldHead
}

// held takes a gateway's report. Each replaces the one before.
func (a *attachment) held(h *controlv1.HeadsHeld) error {
	if a.session == nil {
		return nil
	}
	if n := len(h.GetHeads()); n > headsHeldMax {
		return federation.Errorf(federation.InvalidArgument, "a report names %d held heads, at most %d are allowed", n, headsHeldMax)
	}
	r := heldReport{version: federation.MapVersion(h.GetVersion()), heads: make(map[federation.TopicPartition]federation.HeldHead, len(h.GetHeads()))}
	for _, x := range h.GetHeads() {
		tp := federation.TopicPartition{Topic: federation.TopicName(x.GetTopic()), Partition: federation.LogicalPartition(x.GetPartition())}
		r.heads[tp] = federation.HeldHead{TopicPartition: tp, Extent: x.GetExtent(), AcknowledgedEnd: federation.PhysicalOffset(x.GetAcknowledgedEnd()), SeenEnd: federation.PhysicalOffset(x.GetSeenEnd())}
	}
	a.fleet.update(func() {
		if r.version >= a.session.held.version {
			a.session.held = r
		}
	})
	return nil
}

// holds reports whether the gateway holds all heads that move, since version v or
// a later one. A report of an older version says nothing: the heads can have been
// opened in between.
func (r *heldReport) holds(v federation.MapVersion, moves []planner.Move) bool {
	return r.version >= v && !slices.ContainsFunc(moves, func(m planner.Move) bool {
		h, ok := r.heads[m.TopicPartition]
		return !ok || h.Extent != m.Extent
	})
}

// heldEnds are the highest ends that any gateway has told of heads.
type heldEnds map[federation.TopicPartition]federation.HeldHead

// held returns the ends of heads that no gateway appends to since map version v, or the
// gateways that may still append, and a channel that is closed when that may have changed.
func (f *fleet) held(v federation.MapVersion, moves []planner.Move, now time.Time) (heldEnds, []federation.GatewayID, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	missing, _ := f.unreachableLocked(now)
	ends := make(heldEnds, len(moves))
	for _, s := range f.sessions {
		// Also one without a lease: it may be granted one under the map that it has.
		if !s.held.holds(v, moves) {
			missing = append(missing, s.id)
			continue
		}
		for _, m := range moves {
			all, one := ends[m.TopicPartition], s.held.heads[m.TopicPartition]
			all.AcknowledgedEnd, all.SeenEnd = max(all.AcknowledgedEnd, one.AcknowledgedEnd), max(all.SeenEnd, one.SeenEnd)
			ends[m.TopicPartition] = all
		}
	}
	return ends, missing, f.applied
}

// unreachable returns the gateways that may hold a lease and have no stream, when
// the first of those leases ends, and a channel that is closed when that may have changed.
func (f *fleet) unreachable(now time.Time) ([]federation.GatewayID, time.Time, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids, next := f.unreachableLocked(now)
	return ids, next, f.applied
}

func (f *fleet) unreachableLocked(now time.Time) (ids []federation.GatewayID, next time.Time) {
	for h, until := range f.leases {
		s := f.sessions[h.id]
		if !now.Before(until) || s != nil && s.incarnation == h.incarnation {
			continue
		}
		ids = append(ids, h.id)
		if next.IsZero() || until.Before(next) {
			next = until
		}
	}
	return ids, next
}

// awaitReachable waits until each gateway that may hold a lease has a stream. One
// that has none cannot be told to hold its appends: its lease must end first.
func (t *term) awaitReachable(ctx context.Context, op *operation) error {
	for {
		missing, until, changed := t.fleet.unreachable(time.Now())
		if len(missing) == 0 {
			return nil
		}
		op.step("hold", 0, 1, fmt.Sprintf("gateways %v are lost; waits for the end of their leases, at most %s", missing, time.Until(until).Round(time.Second)))
		if !wait(ctx, changed, op.asked(), until.Add(time.Millisecond)) {
			return ctx.Err()
		}
		if err := op.cancelled(); err != nil {
			return err
		}
	}
}

// awaitHeld waits until no gateway appends to heads that are sealing since a map
// version, at most for SealWait, and returns what they have acknowledged, or the
// gateways that are missing.
func (t *term) awaitHeld(ctx context.Context, v federation.MapVersion, moves []planner.Move) (map[federation.TopicPartition]federation.PhysicalOffset, []federation.GatewayID) {
	ends, missing := t.awaitHeldEnds(ctx, v, moves)
	acknowledged := make(map[federation.TopicPartition]federation.PhysicalOffset, len(ends))
	for tp, e := range ends {
		acknowledged[tp] = e.AcknowledgedEnd
	}
	return acknowledged, missing
}

// awaitHeldEnds is awaitHeld that returns also what readers have been given.
func (t *term) awaitHeldEnds(ctx context.Context, v federation.MapVersion, moves []planner.Move) (heldEnds, []federation.GatewayID) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.SealWait)
	defer cancel()
	for {
		ends, missing, changed := t.fleet.held(v, moves, time.Now())
		if len(missing) == 0 {
			return ends, nil
		}
		if !wait(ctx, changed, nil, time.Time{}) {
			return nil, missing
		}
	}
}
