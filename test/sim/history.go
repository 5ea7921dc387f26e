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

// A chronicle is what was done to a world, and what is wrong with it.
type chronicle struct {
	begin time.Time

	mu       sync.Mutex // guards the following, and all histories of the world
	problems []string
	trace    []string
	counts   map[string]int
}

func newChronicle() *chronicle {
	c := &chronicle{begin: time.Now(), counts: make(map[string]int)}
	newest.Store(c)
	return c
}

// A history is what clients of a logical cluster saw.
type history struct {
	*chronicle
	tenant string
	jumps  bool // readers may go on at a later offset than the next

	// The chronicle's mutex guards the following.
	acked   []check.Acknowledged
	seen    *check.Seen               // what all readers saw of the topic
	groups  map[string][]check.Record // what members of each group read
	tenures tenures
}

// newest is the chronicle of the world that was made last.
var newest atomic.Pointer[chronicle]

// Trace is what has been done to the newest world so far, for one that does not end.
func Trace() []string {
	if h := newest.Load(); h != nil {
		return h.sortedTrace()
	}
	return nil
}

// problemsMax bounds the problems that are kept.
const problemsMax = 30

func (c *chronicle) problem(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problemLocked(format, args...)
}

func (c *chronicle) problemLocked(format string, args ...any) {
	c.counts["problems"]++
	if len(c.problems) < problemsMax {
		c.problems = append(c.problems, fmt.Sprintf("%s %s", c.at(), fmt.Sprintf(format, args...)))
	}
}

func (c *chronicle) at() string { return fmt.Sprintf("%9.4f", time.Since(c.begin).Seconds()) }

// note adds a line to the trace.
func (c *chronicle) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trace = append(c.trace, fmt.Sprintf("%s %s", c.at(), fmt.Sprintf(format, args...)))
}

// count counts things for the figures.
func (c *chronicle) count(what string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[what] += n
}

// problem says what is wrong for clients of the logical cluster.
func (h *history) problem(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.problemLocked(format, args...)
}

func (h *history) problemLocked(format string, args ...any) {
	if h.tenant != "" {
		format, args = "%s: "+format, append([]any{h.tenant}, args...)
	}
	h.chronicle.problemLocked(format, args...)
}

// ack notes that a value was acknowledged, with its offset; -1 = not told.
func (h *history) ack(v check.Value, partition int32, offset int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acked = append(h.acked, check.Acknowledged{Value: v, Partition: partition, Offset: offset})
}

// read notes what a reader saw that reads each partition in order.
func (h *history) read(reader string, r check.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := h.seen.Next
	if h.jumps {
		next = h.seen.Ahead
	}
	h.sawLocked(next, reader, r)
}

// readAgain notes what a reader saw that reads what it likes.
func (h *history) readAgain(reader string, r check.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sawLocked(h.seen.Read, reader, r)
}

// sawLocked takes in what a reader saw. What another logical cluster's producers have
// written nobody may see.
func (h *history) sawLocked(take func(string, check.Record) string, reader string, r check.Record) {
	if tenantOf(r.Value) != h.tenant {
		h.problemLocked("%s saw %q at partition %d offset %d, which another logical cluster's producer has written", reader, r.Value, r.Partition, r.Offset)
	}
	if problem := take(reader, r); problem != "" {
		h.problemLocked("%s", problem)
	}
}

// member notes what a member of a group read. Its reads may begin anew anywhere.
func (h *history) member(group, name string, r check.Record) {
	h.readAgain(name, r)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.groups[group] = append(h.groups[group], r)
}

// sortedTrace is the trace in an order that does not depend on who was first at an
// instant.
func (c *chronicle) sortedTrace() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := slices.Clone(c.trace)
	slices.Sort(t)
	return t
}

// highest is the offset after the highest one that anybody saw in a partition.
func (h *history) highest(partition int32) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen.Highest(partition)
}

// sortedKeys returns the keys of a map in order.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
