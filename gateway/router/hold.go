package router

import (
	"context"
	"time"

	"github.com/braidmq/braid/federation"
)

// Hold waits until no append to the sealing heads of a map is in flight, and
// returns what was acknowledged of each. Maps.Current must be that map, or a
// newer one, before the call: from then on appends to these heads are held. It
// fails only when ctx or the router ends.
func (r *Router) Hold(ctx context.Context, m *federation.Map) ([]federation.HeldHead, error) {
	heads := m.SealingHeads()
	if len(heads) == 0 {
		return nil, nil
	}
	answers := make(chan []federation.PhysicalOffset, len(r.lanes))
	for _, l := range r.lanes {
		l.post(func() { l.quiesce(heads, answers) })
	}
	for range r.lanes {
		select {
		case ends := <-answers:
			for i, end := range ends {
				heads[i].AcknowledgedEnd = max(heads[i].AcknowledgedEnd, end)
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-r.ctx.Done():
			return nil, errStopping()
		}
	}
	return heads, nil
}

// A quiescence waits for the answers to what a lane has in flight to some heads.
type quiescence struct {
	heads   []federation.HeldHead
	answers chan<- []federation.PhysicalOffset // has room
}

// quiesce stops sending to heads, and answers when nothing is in flight to them.
func (l *lane) quiesce(heads []federation.HeldHead, answers chan<- []federation.PhysicalOffset) {
	for _, h := range heads {
		if p := l.parts[h.TopicPartition]; p != nil {
			// It may have its place in a connection's queue: it must look at the map again.
			p.version, p.conn = 0, nil
		}
	}
	l.quiescences = append(l.quiescences, quiescence{heads: heads, answers: answers})
	l.answerQuiescences()
}

func (l *lane) answerQuiescences() {
	kept := l.quiescences[:0]
	for _, q := range l.quiescences {
		if l.busy(q.heads) {
			kept = append(kept, q)
			continue
		}
		ends := make([]federation.PhysicalOffset, len(q.heads))
		for i, h := range q.heads {
			if s := l.heads[h.TopicPartition]; s != nil && s.extent == h.Extent {
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
	l.limitHold(p, time.Now())
	release := func() {
		p.held, p.waiting = false, false
		l.markReady(p)
	}
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

// limitHold has what waits for a head fail after HoldMax, with an error that makes
// its client try again.
func (l *lane) limitHold(p *partQueue, now time.Time) {
	for _, op := range p.queue {
		if op.held {
			continue
		}
		op.held = true
		op.cause = federation.Errorf(federation.NoLeader, "%s is being moved; try again", p.tp)
		if until := now.Add(l.r.cfg.HoldMax); until.Before(op.deadline) {
			op.deadline = until
		}
		l.r.count.heldAppends.Add(1)
	}
}
