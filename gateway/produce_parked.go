package gateway

import (
	"time"
)

// Parked frames. A frame whose parts all wait for partitions that decide nothing, since
// their cluster is away, would use the stream's window up, and then nothing goes on for
// other partitions either. So such frames are parked: they do not count as undecided,
// up to bounds of their own, and credit comes for others in their place.
//
//	undecided ──(all that is open of it waits for partitions that are stuck)──► parked ──► decided
//
// A frame stays parked until it is decided, as credit never shrinks.

// A partition is stuck when its oldest batch in flight has been that for ParkAfter.
func (ps *partitionState) patrol(now time.Time, after time.Duration) {
	if len(ps.inFlight) == 0 {
		ps.stuck, ps.oldest = false, nil
		return
	}
	if ps.oldest != ps.inFlight[0] {
		ps.oldest, ps.since = ps.inFlight[0], now
	}
	ps.stuck = now.Sub(ps.since) >= after
}

// patrol looks which partitions are stuck, and parks frames. It is called now and then
// while something is undecided.
func (s *produceSession) patrol(now time.Time) {
	s.patrols++
	for _, f := range s.frames {
		for _, p := range f.parts {
			if ps := p.state; ps != nil && ps.patrolled != s.patrols {
				ps.patrolled = s.patrols
				ps.patrol(now, s.parkAfter)
			}
		}
	}
	for _, f := range s.frames {
		s.park(f)
	}
}

// park parks a frame if all that is open of it waits for partitions that are stuck.
func (s *produceSession) park(f *frame) {
	if f.parked || f.done || f.open == 0 || s.parked.batches >= s.parkedMax.batches || s.parked.bytes+f.bytes > s.parkedMax.bytes {
		return
	}
	for _, p := range f.parts {
		if !p.decided && (p.state == nil || !p.state.stuck) {
			return
		}
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
