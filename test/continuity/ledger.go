package continuity

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/braidmq/braid/test/check"
)

// Bounds of what a ledger keeps of things that should not happen.
const (
	errorsKept   = 200 // of all clients, with their times
	problemsKept = 20  // of each kind
)

// A ledger keeps what clients said, in a few bytes for each record, so that it
// has room for hours. The operation that is going on is known to it, so that it can
// say what was seen meanwhile.
type ledger struct {
	begin    time.Time
	failover bool // clusters are failed over: see failover.go

	mu         sync.Mutex // guards the following, and what hangs on it
	clients    []*account
	series     map[seriesOf]uint32
	numbers    []*numbers // by series
	groups     map[string]*groupLog
	log        map[int32]*offsets
	logged     int
	failed     []failure
	window     string // the operation that is going on, or "quiet"
	quietSince time.Time
	openedAt   time.Time // of the window

	problems map[string][]string // by kind, the first ones
	counts   map[string]int      // by kind
	countsIn map[string]int      // by kind and window, as inWindow joins them
}

type seriesOf struct{ producer, key string }

// numbers are the records of one key of one producer, by their number.
type numbers struct {
	of     *account
	name   seriesOf
	acked  []bool
	logged []uint8
	last   map[int32]int // in the log, by partition
}

// A groupLog is what a group has read.
type groupLog struct {
	read    map[int32]*offsets
	members []*account
	reads   int // records given to members, again ones too
	again   int // of them offsets that some member had been given before
	skipped int // offsets that a member passed over between two assignments
	strange int // records given again to a member that had the partition all the time
	leftOut int // records that the group went on behind at a failover
	jumps   map[int32][]jump
}

// A failure is an error that an application saw.
type failure struct {
	At     time.Duration
	Client string
	Window string
	Text   string
}

// An account is what one client saw.
type account struct {
	client
	acked, failed, reads int
	errors               map[string]int // by text
	notes                map[string]int // what a client tells for information
	rebalances           int            // assignments after the first
	assigned             map[int32]bool
	next                 map[int32]int64 // of a member, since its assignment
	everAssigned         bool

	last      time.Time     // of an acknowledgement, or a record
	longest   time.Duration // latency of all
	longestIn string
	lastSent  time.Time // when the newest acknowledged record was sent
	gap       time.Duration
	gapIn     string
	quiet     histogram // of latencies outside of operations
	held      []time.Duration

	// Of the operation that is going on.
	windowGap        time.Duration
	windowGapAt      time.Duration
	windowErrors     int
	windowRebalances int
	windowLatency    map[int32]time.Duration // the longest, by partition
}

func newLedger() *ledger {
	return &ledger{
		begin: time.Now(), series: make(map[seriesOf]uint32), groups: make(map[string]*groupLog), log: make(map[int32]*offsets),
		problems: make(map[string][]string), counts: make(map[string]int), countsIn: make(map[string]int), window: quietly,
	}
}

// quietly is the window in which nothing goes on.
const quietly = "quiet"

// add opens the account of a client.
func (l *ledger) add(c client) *account {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := &account{
		client: c, errors: make(map[string]int), notes: make(map[string]int), assigned: make(map[int32]bool),
		next: make(map[int32]int64), windowLatency: make(map[int32]time.Duration),
	}
	l.clients = append(l.clients, a)
	if c.Group != "" {
		g := l.groups[c.Group]
		if g == nil {
			g = &groupLog{read: make(map[int32]*offsets), jumps: make(map[int32][]jump)}
			l.groups[c.Group] = g
		}
		g.members = append(g.members, a)
	}
	return a
}

// value packs a value into one word; 0 is none.
func (l *ledger) value(v check.Value) uint64 {
	of := seriesOf{v.Producer, v.Key}
	id, ok := l.series[of]
	if !ok {
		id = uint32(len(l.numbers))
		l.series[of] = id
		n := &numbers{name: of, last: make(map[int32]int)}
		for _, c := range l.clients {
			if c.Name == v.Producer {
				n.of = c
			}
		}
		l.numbers = append(l.numbers, n)
	}
	n := l.numbers[id]
	for len(n.acked) <= v.Number {
		n.acked = append(n.acked, false)
		n.logged = append(n.logged, 0)
	}
	return uint64(id+1)<<32 | uint64(uint32(v.Number))
}

func (l *ledger) text(value uint64) string {
	if value == 0 {
		return "nothing"
	}
	n := l.numbers[value>>32-1]
	return check.Value{Producer: n.name.producer, Key: n.name.key, Number: int(uint32(value))}.String()
}

func (l *ledger) problem(kind, format string, args ...any) {
	l.counts[kind]++
	l.countsIn[inWindow(kind, l.window)]++
	if len(l.problems[kind]) < problemsKept {
		l.problems[kind] = append(l.problems[kind], fmt.Sprintf("%.1f s, %s: ", time.Since(l.begin).Seconds(), l.window)+fmt.Sprintf(format, args...))
	}
}

func inWindow(kind, window string) string { return kind + " in " + window }

// acknowledged takes in that a producer was told of a record.
func (l *ledger) acknowledged(a *account, v check.Value, partition int32, latency time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	a.acked++
	l.numbers[l.value(v)>>32-1].acked[v.Number] = true
	l.alive(a, now)
	a.lastSent = now.Add(-latency)
	if latency > a.longest {
		a.longest, a.longestIn = latency, l.window
	}
	switch {
	case l.window != quietly && a.lastSent.After(l.openedAt): // else an earlier fault held it
		a.windowLatency[partition] = max(a.windowLatency[partition], latency)
	case l.window == quietly && a.lastSent.After(l.quietSince):
		a.quiet.add(latency)
	}
}

// alive notes the time since the client's last success.
func (l *ledger) alive(a *account, now time.Time) {
	if !a.last.IsZero() {
		gap := now.Sub(a.last)
		if gap > a.gap {
			a.gap, a.gapIn = gap, l.window
		}
		if gap > a.windowGap {
			a.windowGap, a.windowGapAt = gap, a.last.Sub(l.begin)
		}
	}
	a.last = now
}

// fail takes in an error that an application saw.
func (l *ledger) fail(a *account, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.failed++
	a.errors[text]++
	a.windowErrors++
	if len(l.failed) < errorsKept {
		l.failed = append(l.failed, failure{time.Since(l.begin), a.Name, l.window, text})
	}
}

// note takes in what a client tells for information.
func (l *ledger) note(a *account, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.notes[text+" ("+l.window+")"]++
}

// assign takes in that a member was given partitions.
func (l *ledger) assign(a *account, partitions []int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.everAssigned {
		a.rebalances++
		a.windowRebalances++
	}
	a.everAssigned = true
	for _, p := range partitions {
		a.assigned[p] = true
		delete(a.next, p)
	}
}

// revoke takes in that partitions were taken from a member.
func (l *ledger) revoke(a *account, partitions []int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range partitions {
		delete(a.assigned, p)
		delete(a.next, p)
	}
	if len(a.assigned) == 0 {
		a.last = time.Time{} // it has nothing to read
	}
}

// read takes in that a member was given a record.
func (l *ledger) read(a *account, partition int32, offset int64, key, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[a.Group]
	a.reads++
	g.reads++
	l.alive(a, time.Now())
	v, err := check.Parse(text)
	if err != nil || v.Key != key {
		l.problem("torn", "%s was given key %q, value %q at partition %d offset %d", a.Name, key, text, partition, offset)
		return
	}
	value := l.value(v)
	known := offsetsOf(g.read, partition)
	if was := known.get(offset); was != 0 {
		g.again++
		if was != value {
			l.problem("torn", "%s was given %s at partition %d offset %d, where its group was given %s", a.Name, text, partition, offset, l.text(was))
		}
	}
	before := known.end
	known.set(offset, value)
	next, going := a.next[partition]
	switch {
	case going && l.jumped(g, partition, next, offset):
	case before > 0 && l.jumped(g, partition, before, offset): // at an assignment
	case going && offset < next:
		g.strange++
		l.problem("given again", "%s was given partition %d offset %d again, after %d, without an assignment between", a.Name, partition, offset, next-1)
	case going && offset > next:
		g.skipped++
		l.problem("passed over", "%s was given partition %d offset %d after %d", a.Name, partition, offset, next-1)
	}
	a.next[partition] = offset + 1
}

// record takes in a record of the log, in the order of its partition.
// copied is set for one that was appended again when its cluster was restored.
func (l *ledger) record(partition int32, offset int64, key, text string, copied bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logged++
	v, err := check.Parse(text)
	if err != nil || v.Key != key {
		l.problem("torn", "the log has key %q, value %q at partition %d offset %d", key, text, partition, offset)
		return
	}
	value := l.value(v)
	offsetsOf(l.log, partition).set(offset, value)
	n := l.numbers[value>>32-1]
	if n.of == nil {
		l.problem("torn", "the log has %s of nobody at partition %d offset %d", text, partition, offset)
		return
	}
	if n.logged[v.Number] < 255 {
		n.logged[v.Number]++
	}
	if n.logged[v.Number] > 1 {
		l.problem(n.of.kind("twice"), "%s is in the log again at partition %d offset %d", text, partition, offset)
	} else if before := n.last[partition]; v.Number <= before && !copied {
		l.problem(n.of.kind("out of order"), "%s is behind number %d at partition %d offset %d", text, before, partition, offset)
	}
	if !copied {
		n.last[partition] = max(n.last[partition], v.Number)
	}
}

// kind parts what an idempotent producer must never see from what others may.
func (a *account) kind(of string) string {
	if a.Once {
		return of
	}
	return of + ", not idempotent"
}

// finish compares all that is known in the end: acknowledged and never in the log,
// in the log and never given to a group, other values than the log's.
func (l *ledger) finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.window = "end"
	for _, n := range l.numbers {
		for i, acked := range n.acked {
			if acked && n.logged[i] == 0 {
				l.problem("lost", "%s/%s/%d was acknowledged and is not in the log", n.name.producer, n.name.key, i)
			}
		}
	}
	for name, g := range l.groups {
		for p, of := range l.log {
			read := offsetsOf(g.read, p)
			of.each(func(offset int64, value uint64) {
				switch got := read.get(offset); {
				case got == 0 && l.mayLack(name, p, offset):
					g.leftOut++
				case got == 0:
					l.problem("never read", "%s at partition %d offset %d was not given to group %s", l.text(value), p, offset, name)
				case got != value:
					l.problem("torn", "group %s was given %s at partition %d offset %d, the log has %s", name, l.text(got), p, offset, l.text(value))
				}
			})
		}
	}
}

// caughtUp reports whether each group has read as many offsets as the log has.
func (l *ledger) caughtUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.groups {
		for p, of := range l.log {
			read := offsetsOf(g.read, p)
			if l.failover && read.end < of.end || !l.failover && read.count < of.count {
				return false
			}
		}
	}
	return true
}

// unsettled names the clients that have not gone on since a time: producers with a
// record that was sent after it, members with one they read; and groups that do not read
// all partitions.
func (l *ledger) unsettled(since time.Time, partitions int) (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.clients {
		producing := a.Group == "" && a.lastSent.After(since)
		reading := a.Group != "" && (len(a.assigned) == 0 || a.last.After(since))
		if !producing && !reading {
			names = append(names, a.Name)
		}
	}
	for name, g := range l.groups {
		n := 0
		for _, a := range g.members {
			n += len(a.assigned)
		}
		if n != partitions {
			names = append(names, "group "+name)
		}
	}
	slices.Sort(names)
	return names
}

// begun reports whether each member has partitions.
func (l *ledger) begun() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.clients {
		if a.Group != "" && len(a.assigned) == 0 {
			return false
		}
	}
	return true
}

// open begins an operation.
func (l *ledger) open(kind string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.window, l.openedAt = kind, time.Now()
	for _, a := range l.clients {
		a.windowGap, a.windowErrors, a.windowRebalances = 0, 0, 0
		clear(a.windowLatency)
	}
}

// A sight is what a client saw of an operation.
type sight struct {
	Client     string        `json:"client"`
	Gap        time.Duration `json:"gap"`    // without an acknowledgement or a record
	GapAt      time.Duration `json:"gap_at"` // when it began
	Errors     int           `json:"errors,omitempty"`
	Rebalances int           `json:"rebalances,omitempty"`
	Held       time.Duration `json:"held,omitempty"` // the longest produce to a partition that moved
}

// close ends an operation, and returns what clients saw of it. moved are the
// partitions whose heads it moved.
func (l *ledger) close(moved []int32) []sight {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.window, l.quietSince = quietly, time.Now()
	sights := make([]sight, 0, len(l.clients))
	for _, a := range l.clients {
		s := sight{Client: a.Name, Gap: a.windowGap, GapAt: a.windowGapAt, Errors: a.windowErrors, Rebalances: a.windowRebalances}
		for _, p := range moved {
			s.Held = max(s.Held, a.windowLatency[p])
		}
		if s.Held > 0 {
			a.held = append(a.held, s.Held)
		}
		sights = append(sights, s)
	}
	return sights
}

// offsets has a value for each offset of a partition, in pieces, as there may be
// wide gaps.
type offsets struct {
	pieces map[int64]*[pieceSize]uint64
	count  int
	end    int64 // after the last
}

const pieceSize = 1024

func offsetsOf(all map[int32]*offsets, partition int32) *offsets {
	o := all[partition]
	if o == nil {
		o = &offsets{pieces: make(map[int64]*[pieceSize]uint64)}
		all[partition] = o
	}
	return o
}

func (o *offsets) get(offset int64) uint64 {
	piece := o.pieces[offset/pieceSize]
	if piece == nil {
		return 0
	}
	return piece[offset%pieceSize]
}

func (o *offsets) set(offset int64, value uint64) {
	piece := o.pieces[offset/pieceSize]
	if piece == nil {
		piece = new([pieceSize]uint64)
		o.pieces[offset/pieceSize] = piece
	}
	if piece[offset%pieceSize] == 0 {
		o.count++
	}
	piece[offset%pieceSize] = value
	o.end = max(o.end, offset+1)
}

func (o *offsets) each(f func(offset int64, value uint64)) {
	for n, piece := range o.pieces {
		for i, value := range piece {
			if value != 0 {
				f(n*pieceSize+int64(i), value)
			}
		}
	}
}

// histogram counts durations in steps of a tenth of their size.
type histogram struct {
	steps map[int]int
	count int
	top   time.Duration
}

// step is the number of a duration's step: its upper bound is stepBound(step).
func step(d time.Duration) (n int) {
	for b := stepFirst; b < d; b += b / 10 {
		n++
	}
	return n
}

const stepFirst = 100 * time.Microsecond

func (h *histogram) add(d time.Duration) {
	if h.steps == nil {
		h.steps = make(map[int]int)
	}
	h.steps[step(d)]++
	h.count++
	h.top = max(h.top, d)
}

// quantile returns an upper bound of a quantile, at most a tenth above it.
func (h *histogram) quantile(q float64) time.Duration {
	left := int(q * float64(h.count))
	b := stepFirst
	for n := range 400 {
		if left -= h.steps[n]; left < 0 {
			break
		}
		b += b / 10
	}
	return min(b, h.top)
}
