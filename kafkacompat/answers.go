package kafkacompat

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/memory"
)

// A request of few bytes can have an answer of many: of a name come all partitions of a
// topic, or all members of a group. So what an answer takes is estimated before it is
// made: first by the elements of the request, before the codec makes something of each,
// and then, by handlers, by what they are about to add (request.room). What is above
// smallAnswerBytes is taken from the budget for answers until it is written.
//
// It cannot lock up. A request that has no room yet waits for it in line, like a read from
// a broker does; it holds its share of the other budget meanwhile, for which nobody waits
// who holds one of this. One that has some, and needs more, takes it if it is there. Else
// it goes on above the budget, but only one request at a time does.
//
// Fetch has a budget of its own for what is kept for each partition that a request names:
// a long poll holds it while it waits for room for records.

// smallAnswerBytes is how large an answer is that waits for no budget.
const smallAnswerBytes = 64 << 10

// answers bounds the answers under way, of all connections.
type answers struct {
	budget  *memory.Budget
	max     int64          // of one answer
	above   chan struct{}  // held by the one that goes on above the budget
	fetches *memory.Budget // for the partitions that Fetch requests name
}

func newAnswers(cfg *Config, budget *memory.Budget) answers {
	if budget == nil {
		budget = memory.NewBudget(cfg.BytesInFlightMax)
	}
	return answers{
		budget:  budget,
		max:     min(cfg.AnswerBytesMax, budget.Size()),
		above:   make(chan struct{}, 1),
		fetches: memory.NewBudget(cfg.BytesInFlightMax / 2),
	}
}

// An answerShare is what the answer to one request has of the budget. Only the goroutine
// that answers uses it.
type answerShare struct {
	of      *answers
	size    int64 // what the answer takes, as far as it is known
	taken   int64
	charged int64 // above the budget
	above   bool  // it holds answers.above
	encoded int   // what the frame is expected to take; 0 = little
}

// The bytes that an element of a request takes: in the request as it is decoded, in what
// engines are asked, and in the answer.
const (
	elementBytes      = 256
	largeElementBytes = 400
)

// largeElements are the APIs that ask clusters or the store for each element, or answer
// with a text for each.
var largeElements = []kmsg.Key{
	kmsg.ListOffsets, kmsg.OffsetForLeaderEpoch, kmsg.OffsetFetch,
	kmsg.ElectLeaders, kmsg.AlterPartitionAssignments, kmsg.DescribeProducers,
}

// waitingElementsMax bounds the elements of a request that waits for a group: it may hold
// no room meanwhile, for which others wait whom the group waits for.
const waitingElementsMax = 10_000

// roomAtFirst makes sure that there is room for what a request of so many elements takes
// when it is decoded and answered, whatever it names.
func (r *request) roomAtFirst(ctx context.Context, c *conn, elements int) error {
	if r.api.waits {
		if elements > waitingElementsMax {
			r.noRoom = federation.Errorf(federation.InvalidArgument, "the %s request has %d elements: at most %d are taken", r.api.name, elements, waitingElementsMax)
			return r.noRoom
		}
		return nil
	}
	each := elementBytes
	if slices.Contains(largeElements, kmsg.Key(r.key)) {
		each = largeElementBytes
	}
	return r.room(ctx, c, int64(elements)*int64(each)+2*int64(len(r.body)))
}

// room makes sure that there is room for n more bytes in the answer: it waits for it until
// ctx ends. Its error is one of *federation.Error: the answer must then go without them, or
// a handler returns nil, which closes the connection.
func (r *request) room(ctx context.Context, c *conn, n int64) error {
	s, a := &r.share, &c.s.answers
	if n > a.max-s.size {
		r.noRoom = federation.Errorf(federation.InvalidArgument,
			"the answer to this %s request would take more than %d bytes, the most that one answer may take: ask for less at once, or raise --memory-limit", r.api.name, a.max)
		return r.noRoom
	}
	s.of = a
	s.size += n
	more := s.size - s.taken - s.charged
	switch {
	case s.size <= smallAnswerBytes || more <= 0:
		return nil
	case s.taken == 0:
		if err := a.budget.Acquire(ctx, more); err != nil {
			return r.roomNotFound(ctx, n)
		}
		s.taken += more
	case !s.above && a.budget.TryAcquire(more):
		s.taken += more
	default:
		if !s.above {
			select {
			case a.above <- struct{}{}:
				s.above = true
			case <-ctx.Done():
				return r.roomNotFound(ctx, n)
			}
		}
		a.budget.Charge(more)
		s.charged += more
	}
	return nil
}

// soonMax is how long an answer waits for room that may not wait for long.
const soonMax = time.Second

// roomSoon is room for the answer to a member whose session runs while it waits: after a
// while it goes on above the budget. Groups may hold --group-memory, so the answers to
// their leaders are no more than that.
func (r *request) roomSoon(ctx context.Context, c *conn, n int64) error {
	soon, cancel := context.WithTimeout(ctx, soonMax)
	defer cancel()
	err := r.room(soon, c, n)
	s, a := &r.share, &c.s.answers
	if err == nil || ctx.Err() != nil || n > a.max-s.size {
		return err
	}
	r.noRoom = nil
	s.size += n
	more := s.size - s.taken - s.charged
	a.budget.Charge(more)
	s.charged += more
	return nil
}

func (r *request) roomNotFound(ctx context.Context, n int64) error {
	r.share.size -= n
	r.noRoom = federation.Errorf(federation.Timeout, "there was no room for the answer to this %s request in time: other clients are slow to take theirs; try again", r.api.name)
	if errors.Is(ctx.Err(), context.Canceled) {
		r.noRoom = federation.Errorf(federation.Timeout, "the gateway is stopping")
	}
	return r.noRoom
}

// giveBack gives back what the share has but for keep bytes.
func (s *answerShare) giveBack(keep int64) {
	if s.of == nil {
		return
	}
	if n := min(s.charged, s.charged+s.taken-keep); n > 0 {
		s.of.budget.Uncharge(n)
		s.charged -= n
	}
	if n := s.taken + s.charged - keep; n > 0 {
		s.of.budget.Release(n)
		s.taken -= n
	}
	if s.above && s.charged == 0 {
		s.above = false
		<-s.of.above
	}
}

// written has the share be as large as the frame of the answer until that is written.
func (r *request) written(c *conn, resp *response) {
	size := int64(0)
	for _, v := range resp.vecs {
		size += int64(cap(v))
	}
	if size <= smallAnswerBytes {
		return
	}
	s := &r.share
	s.of = &c.s.answers
	if less := size - s.taken - s.charged; less > 0 { // the estimate was too low
		s.of.budget.Charge(less)
		s.charged += less
	}
	s.giveBack(size)
	if s.above {
		s.above = false // it grows no more: the next may
		<-s.of.above
	}
	held := *s
	*s = answerShare{}
	resp.release = func() { held.giveBack(0) }
}

// refuseAnswer closes the connection of a request whose answer there is no room for. Few
// answers have a place for an error of all of it, and none one that clients expect.
func (c *conn) refuseAnswer(ctx context.Context, req *request) response {
	if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		c.log.Warn("request not answered, connection closed", "api", req.api.name, "version", req.version, "bytes", len(req.body), "error", req.noRoom)
		c.s.deps.Metrics.malformed(ctx)
	}
	req.fail(req.noRoom)
	return response{close: true}
}

// errFrame is for an answer whose length does not fit into its frame.
var errFrame = federation.Errorf(federation.InvalidArgument, "the answer is larger than %d bytes, the most that Kafka's protocol allows: ask for less at once", math.MaxInt32)

// once keeps the first of each of those that are alike.
func once[E any, K comparable](all []E, key func(*E) K) []E {
	const few = 16 // that are compared with each other
	var seen map[K]struct{}
	if len(all) > few {
		seen = make(map[K]struct{}, len(all))
	}
	kept := all[:0]
	for i := range all {
		k := key(&all[i])
		if seen == nil && slices.ContainsFunc(kept, func(e E) bool { return key(&e) == k }) {
			continue
		}
		if _, twice := seen[k]; twice {
			continue
		}
		if seen != nil {
			seen[k] = struct{}{}
		}
		kept = append(kept, all[i])
	}
	return kept
}

// partitionsSeen are partitions that a request has named so far.
type partitionsSeen map[fetchKey]struct{}

// first reports whether a partition is named for the first time.
func (s partitionsSeen) first(topic fetchTopic, partition int32) bool {
	before := len(s)
	s[fetchKey{topic, partition}] = struct{}{}
	return len(s) > before
}

func (s partitionsSeen) has(topic fetchTopic, partition int32) bool {
	_, ok := s[fetchKey{topic, partition}]
	return ok
}

func itself[E any](e *E) E { return *e }
