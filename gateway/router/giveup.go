package router

import "time"

// What a lane gives up, for want of time, leaves a hole in its producer's sequence: the
// broker refuses as out of order what the producer has sent behind it. To a producer
// that is an error for good, though all it has to do is to send again what it was told
// to. So a lane remembers for a while what it gave up, and what follows that is answered
// in the same way.
//
//	sent ──(time is up)──► given up ──► what follows it and is out of order: try again
//	                          └──(it is in the log, or a while later)──► forgotten

const (
	// giveUpMemory is for how long: longer than any client waits before it tries again.
	// One that does not has left the batch out; then the broker's own answer says best
	// what to do.
	giveUpMemory = 10 * time.Second
	// giveUpsMax bounds the producers of a lane that are remembered so.
	giveUpsMax = 10_000
)

// A giveUpKey is a producer at a head.
type giveUpKey struct {
	head *headState
	id   int64
}

// A givenUp says which batches of a producer were given up, at least.
type givenUp struct {
	epoch       int16
	first, last int32     // sequences
	at          time.Time // when that was the last time
}

// giveUp resolves an op whose time is up.
func (l *lane) giveUp(p *partQueue, op *appendOp, now time.Time) {
	if op.idempotent() && p.head != nil {
		l.noteGivenUp(giveUpKey{p.head, op.seq.id}, &op.seq, now)
	}
	op.resolve(failedAppend(op.timedOut()))
}

func (l *lane) noteGivenUp(k giveUpKey, s *opSequence, now time.Time) {
	g, ok := l.gaveUp[k]
	switch {
	case !ok || g.epoch < s.epoch:
		if !ok && len(l.gaveUp) >= giveUpsMax {
			return
		}
		g = givenUp{epoch: s.epoch, first: s.base, last: s.last}
	case g.epoch > s.epoch:
		return
	default:
		if notAfter(s.base, g.first) {
			g.first = s.base
		}
		if notAfter(g.last, s.last) {
			g.last = s.last
		}
	}
	g.at = now
	if l.gaveUp == nil {
		l.gaveUp = make(map[giveUpKey]givenUp)
	}
	l.gaveUp[k] = g
}

// followsGivenUp reports whether an earlier op of the same producer was given up a while
// ago, and is not known to be in the log since.
func (l *lane) followsGivenUp(p *partQueue, op *appendOp, now time.Time) bool {
	g, ok := l.gaveUp[giveUpKey{p.head, op.seq.id}]
	return ok && op.idempotent() && g.epoch == op.seq.epoch && g.first != op.seq.base && notAfter(g.first, op.seq.base) && now.Sub(g.at) < giveUpMemory
}

// takenUp notes that an op is in the log.
func (l *lane) takenUp(h *headState, s *opSequence) {
	if len(l.gaveUp) == 0 {
		return
	}
	k := giveUpKey{h, s.id}
	if g, ok := l.gaveUp[k]; ok && (g.epoch < s.epoch || g.epoch == s.epoch && notAfter(g.last, s.last)) {
		delete(l.gaveUp, k)
	}
}

// forgetGivenUp forgets what was given up long ago.
func (l *lane) forgetGivenUp(now time.Time) {
	for k, g := range l.gaveUp {
		if now.Sub(g.at) >= giveUpMemory {
			delete(l.gaveUp, k)
		}
	}
}
