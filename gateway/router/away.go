package router

import "time"

// awayMemory is how long a lane remembers without an append that all appends fail.
const awayMemory = 10 * time.Second

// isAway reports whether op has waited long enough for a cluster that is away: its
// client may have more on the same connection, for clusters that are not.
func (p *partQueue) isAway(op *appendOp, now time.Time) bool {
	if !op.idempotent() || p.held || p.away.IsZero() || !op.tired(p.away, now) {
		return false
	}
	p.awayAt = now // somebody still tries, in vain
	return true
}

// tired reports whether op's caller has waited long enough for a cluster that has been
// away since then.
//
// What holds up nothing waits for longer: a client that is told to try again does so when
// its own pause is over, up to some seconds after the partition goes on elsewhere; what
// waits here goes on at once.
func (op *appendOp) tired(since, now time.Time) bool {
	switch {
	case op.away == nil:
		return false
	case now.Sub(op.sub.begun) >= op.away.Alone:
		return true
	}
	return now.Sub(since) >= op.away.Others && (op.sub.left < len(op.sub.ops) || op.away.HoldsUp())
}

// pauseAway is pause for a cluster that does not take p's appends for now.
func (l *lane) pauseAway(p *partQueue, err error) {
	if l.r.deps.Lease.Valid() { // else all clusters are out of reach alike
		p.awayAt = time.Now()
		if p.away.IsZero() {
			p.away = p.awayAt
		}
	}
	l.pause(p, err)
}
