package router

import (
	"context"
	"slices"
	"time"

	"github.com/braidmq/braid/federation"
)

// Hold waits until no append to the sealing heads of a map is in flight, and
// returns what was acknowledged and given to readers of each. Maps.Current must be
// that map, or a newer one, before the call: from then on appends to these heads are
// held, and of those whose cluster failed nothing more is given out. It fails only
// when ctx or the router ends.
func (r *Router) Hold(ctx context.Context, m *federation.Map) ([]federation.HeldHead, error) {
	heads := m.SealingHeads()
	if len(heads) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan []federation.PhysicalOffset, len(r.lanes))
	out := slices.Clone(heads) // the lanes read heads
	for _, l := range r.lanes {
		l.post(func() { l.quiesce(&quiescence{ctx: ctx, m: m, heads: heads, answers: answers}) })
	}
	r.cutReads(m, heads)
	for range r.lanes {
		select {
		case ends := <-answers:
			for i, end := range ends {
				out[i].AcknowledgedEnd = max(out[i].AcknowledgedEnd, end)
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-r.ctx.Done():
			return nil, errStopping()
		}
	}
	for i, h := range heads {
		out[i].SeenEnd = r.seenEnd(m, h)
	}
	return out, nil
}

// A quiescence waits for the answers to what a lane has in flight to some heads.
type quiescence struct {
	ctx     context.Context //nolint:containedctx // ends with the call of Hold
	m       *federation.Map
	heads   []federation.HeldHead
	answers chan<- []federation.PhysicalOffset // has room
}

// quiesce stops sending to heads, and answers when nothing is in flight to them.
func (l *lane) quiesce(q *quiescence) {
	for _, h := range q.heads {
		if p := l.parts[h.TopicPartition]; p != nil {
			// It may have its place in a connection's queue: it must look at the map again.
			p.version, p.conn = 0, nil
			l.cut(q.m, p)
		}
	}
	l.quiescences = append(l.quiescences, q)
	l.answerQuiescences()
}

func (l *lane) answerQuiescences() {
	kept := l.quiescences[:0]
	for _, q := range l.quiescences {
		if q.ctx.Err() != nil {
			continue // nobody waits for it: the head may be open again, and busy for ever
		}
		if l.busy(q.heads) {
			kept = append(kept, q)
			continue
		}
		ends := make([]federation.PhysicalOffset, len(q.heads))
		for i, h := range q.heads {
			// A topic that was created again under its name has other heads.
			if s := l.heads[h.TopicPartition]; s != nil && s.extent == h.Extent && q.m.TopicByID(s.topic) != nil {
				ends[i] = s.acknowledged
			}
		}
		q.answers <- ends
	}
	clear(l.quiescences[len(kept):])
	l.quiescences = kept
}

func (l *lane) busy(heads []federation.HeldHead) bool {
	for _, h := range heads {
		if p := l.parts[h.TopicPartition]; p != nil && len(p.flying) > 0 {
			return true
		}
	}
	return false
}

// hold has p wait until the map changes: its head is open again then, or another
// one is.
func (l *lane) hold(p *partQueue, seen *federation.Map) {
	p.version = 0 // look again
	p.held, p.waiting = true, true
	l.limitHolds(p, time.Now())
	release := func() { l.resume(p) }
	changed := l.r.deps.Maps.Changed()
	if l.r.deps.Maps.Current() != seen { // it has changed already
		l.post(release)
		return
	}
	l.r.tasks.Go(func() {
		select {
		case <-changed:
			l.post(release)
		case <-l.r.ctx.Done():
		}
	})
}

// limitHolds is limitHold for all that waits for p's head.
func (l *lane) limitHolds(p *partQueue, now time.Time) {
	for _, op := range p.queue {
		l.limitHold(p, op, now)
	}
}

// limitHold has an op that waits for its head fail after HoldMax, with an error that
// makes its client try again.
func (l *lane) limitHold(p *partQueue, op *appendOp, now time.Time) {
	w := op.waiting()
	if !w.held.IsZero() {
		return
	}
	w.held = now.Add(l.r.cfg.HoldMax)
	op.cause = federation.Errorf(federation.NoLeader, "%s is being moved; try again", p.tp)
	l.r.count.heldAppends.Add(1)
}
