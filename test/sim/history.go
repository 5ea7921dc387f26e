//go:build synctests

package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/braidmq/braid/test/check"
)

// A history is what clients saw, and what was done to the world.
type history struct {
	begin time.Time
	jumps bool // readers may go on at a later offset than the next

	mu       sync.Mutex // guards the following
	acked    []check.Acknowledged
	reads    map[string]*check.Seen // by topic: what all readers saw
	group    []check.Record         // what members of the group read
	problems []string
	trace    []string
	counts   map[string]int
}

func newHistory() *history {
	h := &history{begin: time.Now(), reads: make(map[string]*check.Seen), counts: make(map[string]int)}
	newest.Store(h)
	return h
}

// newest is the history of the world that was made last.
var newest atomic.Pointer[history]

// Trace is what has been done to the newest world so far, for one that does not end.
func Trace() []string {
	if h := newest.Load(); h != nil {
		return h.sortedTrace()
	}
	return nil
}

// problemsMax bounds the problems that are kept.
const problemsMax = 30

func (h *history) problem(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.problemLocked(format, args...)
}

func (h *history) problemLocked(format string, args ...any) {
	h.counts["problems"]++
	if len(h.problems) < problemsMax {
		h.problems = append(h.problems, fmt.Sprintf("%s %s", h.at(), fmt.Sprintf(format, args...)))
	}
}

func (h *history) at() string { return fmt.Sprintf("%9.4f", time.Since(h.begin).Seconds()) }

// note adds a line to the trace.
func (h *history) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trace = append(h.trace, fmt.Sprintf("%s %s", h.at(), fmt.Sprintf(format, args...)))
}

// count counts things for the figures.
func (h *history) count(what string, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[what] += n
}

// ack notes that a value was acknowledged, with its offset; -1 = not told.
func (h *history) ack(v check.Value, partition int32, offset int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acked = append(h.acked, check.Acknowledged{Value: v, Partition: partition, Offset: offset})
}

// read notes what a reader saw that reads each partition in order.
func (h *history) read(topic, reader string, r check.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := h.seenLocked(topic).Next
	if h.jumps {
		next = h.seenLocked(topic).Ahead
	}
	if problem := next(reader, r); problem != "" {
		h.problemLocked("%s: %s", topic, problem)
	}
}

// readAgain notes what a reader saw that reads what it likes.
func (h *history) readAgain(topic, reader string, r check.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if problem := h.seenLocked(topic).Read(reader, r); problem != "" {
		h.problemLocked("%s: %s", topic, problem)
	}
}

func (h *history) seenLocked(topic string) *check.Seen {
	s := h.reads[topic]
	if s == nil {
		s = check.NewSeen()
		h.reads[topic] = s
	}
	return s
}

// member notes what a member of the group read. Its reads may begin anew anywhere.
func (h *history) member(name string, r check.Record) {
	h.readAgain(topic, name, r)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.group = append(h.group, r)
}

// sortedTrace is the trace in an order that does not depend on who was first at an
// instant.
func (h *history) sortedTrace() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := slices.Clone(h.trace)
	slices.Sort(t)
	return t
}

// highest is the offset after the highest one that anybody saw in a partition.
func (h *history) highest(topic string, partition int32) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.reads[topic]; s != nil {
		return s.Highest(partition)
	}
	return 0
}

// sortedKeys returns the keys of a map in order.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
