package gateway

import (
	"slices"
	"time"

	"github.com/braidmq/braid/federation"
)

// Batches that come back. The router gives a batch back before its time is up where only
// its producer can tell how to go on: when its head was held for long, and when a head does
// not know the producer and batches before this one may be missing. It is told to try
// again, and a Kafka producer does so, with the same sequence. So does a stream for its
// client, until the delivery timeout: what brokers have already, they recognise.
//
//	in flight ──(to be tried again, time left)──► again ──(all in flight are decided, and a moment later)──► in flight
//	                                                └──(time is up, or one of them fails for good)──► failed

// comesAgain reports whether a part that was in flight goes back to be sent again.
func (ps *partitionState) comesAgain(p *part, o *outcome) bool {
	if o.err == nil || !o.early || p.plain || ps.failing {
		return false
	}
	kind := federation.KindOf(o.err)
	echo := kind == federation.OutOfOrderSequence && len(ps.again) > 0 // of the one before it
	// A batch without a sequence would overtake it.
	if !echo && !kind.Retriable() || slices.ContainsFunc(ps.inFlight, func(q *part) bool { return q.plain }) {
		return false
	}
	p.unknown = p.unknown || kind == federation.Timeout
	return true
}

// timedOut says that a part may be stored, if that is so since an earlier try.
func (p *part) timedOut(o *outcome) {
	if p.unknown && federation.KindOf(o.err) != federation.Timeout {
		o.err = federation.Errorf(federation.Timeout, "topic %q, partition %d: not confirmed in time; it may or may not be in the log", p.frame.topic, p.partition).WithCause(o.err)
	}
}

// sendAgain sends what came back, in its order.
func (s *produceSession) sendAgain(ps *partitionState, now time.Time) {
	if !now.Before(ps.again[0].frame.deadline) {
		s.failAgain(ps)
		s.goOn(ps)
		return
	}
	for _, p := range ps.again {
		p.outcome = nil
		ps.inFlight = append(ps.inFlight, p)
		s.ready = append(s.ready, p)
	}
	ps.again = nil
}

// failAgain fails what came back and is not sent again.
func (s *produceSession) failAgain(ps *partitionState) {
	again := ps.again
	ps.again = nil
	for _, p := range again {
		s.failSequenced(ps, p, p.outcome)
	}
}
