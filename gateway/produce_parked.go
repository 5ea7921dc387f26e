package gateway

import "time"

// Parked frames. A frame whose parts all wait for partitions that decide nothing, since
// their cluster is away, would use the stream's window up, and then nothing goes on for
// other partitions either. So such frames are parked: they do not count as undecided,
// up to bounds of their own, and credit comes for others in their place.
//
//	undecided ──(all that is open of it waits for partitions that are stuck)──► parked ──► told
//	    └──(it failed, and a frame before it is undecided)──────────────────────┘
//
// A frame stays parked until its outcome is told, as credit never shrinks.

// A pace says whether a partition decides what it gets. It is stuck when nothing of
// what is in flight to it was decided for ProduceParkAfter.
type pace struct {
	inFlight  int
	decisions uint64
	stuck     bool

	// As of the last patrol.
	patrolled uint64
	seen      uint64    // decisions
	since     time.Time // when they were seen first, with something in flight
}

func (g *pace) decide(stored bool) {
	g.inFlight--
	g.decisions++
	if stored {
		g.stuck = false
	}
}

func (g *pace) patrol(now time.Time, after time.Duration) {
	if g.since.IsZero() || g.decisions != g.seen || g.inFlight == 0 {
		g.seen, g.since = g.decisions, now
	}
	g.stuck = now.Sub(g.since) >= after
}

// patrol looks which partitions are stuck, parks frames, and sends batches again. It is called now and then
// while something is undecided.
func (s *produceSession) patrol(now time.Time) {
	s.patrols++
	var again []*partitionState
	for _, f := range s.frames {
		for _, p := range f.parts {
			if g := p.pace; g != nil && g.patrolled != s.patrols {
				if g.patrolled != s.patrols-1 {
					g.since = time.Time{} // nothing was open of it
				}
				g.patrolled = s.patrols
				g.patrol(now, s.parkAfter)
				if ps := p.state; ps != nil && len(ps.again) > 0 && len(ps.inFlight) == 0 {
					again = append(again, ps)
				}
			}
		}
	}
	for _, ps := range again {
		s.sendAgain(ps, now)
	}
	for _, f := range s.frames {
		s.park(f)
	}
}

// park parks a frame if all that is open of it waits for partitions that are stuck.
func (s *produceSession) park(f *frame) {
	if f.done || f.open == 0 {
		return
	}
	for _, p := range f.parts {
		if !p.decided && (p.pace == nil || !p.pace.stuck) {
			return
		}
	}
	s.leave(f)
}

// leave takes a frame out of the window, if the bounds allow that.
func (s *produceSession) leave(f *frame) {
	if f.parked || s.parked.batches >= s.parkedMax.batches || s.parked.bytes+f.bytes > s.parkedMax.bytes {
		return
	}
	f.parked = true
	s.parked.batches++
	s.parked.bytes += f.bytes
}

// unpark ends that for a frame that is decided.
func (s *produceSession) unpark(f *frame) {
	if f.parked {
		s.parked.batches--
		s.parked.bytes -= f.bytes
	}
}

// framesAheadMax bounds how far a stream goes beyond the stable mark.
const framesAheadMax = 1 << 20

// A seqSet holds the numbers of frames that are decided beyond the stable mark, a bit
// for each: a frame that is parked may hold the mark up while very many others pass.
type seqSet map[uint64]uint64

func (s seqSet) add(seq uint64) { s[seq/64] |= 1 << (seq % 64) }

// take removes a number; false if it is not there.
func (s seqSet) take(seq uint64) bool {
	word, bit := s[seq/64], uint64(1)<<(seq%64)
	if word&bit == 0 {
		return false
	}
	if word &^= bit; word == 0 {
		delete(s, seq/64)
	} else {
		s[seq/64] = word
	}
	return true
}
