package router

import "time"

// awayMemory is how long a lane remembers without an append that all appends fail.
const awayMemory = 10 * time.Second

// isAway reports whether op has waited long enough for a cluster that is away: its
// client may have more on the same connection, for clusters that are not.
func (p *partQueue) isAway(op *appendOp, now time.Time) bool {
	if op.awayWait == 0 || !op.idempotent() || p.held || p.away.IsZero() || now.Sub(p.away) < op.awayWait {
		return false
	}
	p.awayAt = now // somebody still tries, in vain
	return true
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
