//go:build synctests

package sim

import (
	"math"
	"time"
)

// Tenures are who reads what in a group of the newer protocol (KIP-848), as its members
// know it, and what they have committed. A history's mutex guards them.
type tenures struct {
	of      map[int32]*owner848
	commits map[int32]*committed
}

// A owner848 is a life of a member. What it was given stays its own until it says that
// it has given it up, leaves, or has not been answered for its session.
type owner848 struct {
	name     string
	answered time.Time // when its last heartbeat was sent that was answered
}

// session is that of the gateways (--consumer-session-timeout).
const session = 45 * time.Second

func (t *owner848) holds() bool { return time.Since(t.answered) < session }

// committed is what is known of the committed offset of a partition.
type committed struct {
	// sure is the last one that was acknowledged in the tenure, or was there before it;
	// unsure is the least of those of the tenure of which it is not known whether, and
	// when, they were taken.
	sure, unsure int64
}

func newTenures() tenures {
	return tenures{make(map[int32]*owner848), make(map[int32]*committed)}
}

func (t *tenures) commit(partition int32) *committed {
	c := t.commits[partition]
	if c == nil {
		c = &committed{-1, math.MaxInt64}
		t.commits[partition] = c
	}
	return c
}

func (h *history) heartbeat(m *owner848, sent time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m.answered = sent
}

// take begins a tenure.
func (h *history) take(m *owner848, partition int32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if other := h.tenures.of[partition]; other != nil && other != m && other.holds() {
		h.problemLocked("%s was given partition %d, which %s has not given up, answered at %s", m.name, partition, other.name, other.answered.Sub(h.begin))
	}
	h.tenures.of[partition] = m
	h.counts["partitions given to members of KIP-848"]++
}

// give ends a tenure.
func (h *history) give(m *owner848, partition int32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tenures.of[partition] == m {
		delete(h.tenures.of, partition)
	}
}

// least is the offset below which the committed one cannot be, for who asks now.
func (h *history) least(partition int32) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.tenures.commit(partition)
	return min(c.sure, c.unsure)
}

// found notes where a tenure begins to read. What of the one before is under way must
// not be taken from then on.
func (h *history) found(m *owner848, partition int32, at, least int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if at < least {
		h.problemLocked("%s begins partition %d at the committed offset %d, and %d was committed before", m.name, partition, at, least)
	}
	if h.tenures.of[partition] == m {
		h.tenures.commits[partition] = &committed{at, math.MaxInt64}
	}
}

// commit notes a commit. Of one that was sent when somebody else had the partition
// already, it is an error if it is taken.
func (h *history) commit(m *owner848, partition int32, offset int64, lost, sure bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.tenures.commit(partition)
	switch {
	case lost && sure:
		h.problemLocked("%s has committed partition %d, which it had lost to another member", m.name, partition)
	case h.tenures.of[partition] != m:
	case sure:
		c.sure = max(c.sure, offset)
		h.counts["commits of members of KIP-848"]++
	default:
		c.unsure = min(c.unsure, offset)
	}
}

// lost reports whether somebody else has a partition.
func (h *history) lost(m *owner848, partition int32) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	other := h.tenures.of[partition]
	return other != nil && other != m
}
