package router

import (
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/upstream"
)

// asks are what one pass over the items of a Fetch wants of each broker.
//
// A reader that is behind on a thousand partitions must not ask for all of them at
// once: the answer is bounded, so that a broker looks most of them up for nothing,
// and nothing goes to the reader before the whole of a large answer has come. So a
// broker has about FetchBytesMax of a session's requests to answer at one time, and
// the next part is read while the reader takes this one.
type asks struct {
	most   int // bytes
	groups map[readKey]*brokerAsk
}

// A brokerAsk is what one broker is asked for.
type brokerAsk struct {
	reads []wantedRead
	load  int // bytes that are expected of what is under way and of reads
}

func (a *asks) reset() {
	for _, g := range a.groups {
		clear(g.reads)
		g.reads, g.load = g.reads[:0], 0
	}
}

func (a *asks) of(key readKey) *brokerAsk {
	g := a.groups[key]
	if g == nil {
		if a.groups == nil {
			a.groups = make(map[readKey]*brokerAsk)
		}
		g = &brokerAsk{}
		a.groups[key] = g
	}
	return g
}

// room reports whether a broker may be asked for so much more now.
func (a *asks) room(g *brokerAsk, expected int) bool {
	return expected == 0 || g.load == 0 || g.load+expected <= a.most
}

func (g *brokerAsk) add(rd *read, maxBytes int32) {
	rd.alone = len(g.reads) == 0
	g.load += rd.expected
	g.reads = append(g.reads, wantedRead{rd, maxBytes})
}

// send asks the brokers. The requests keep what they are made of.
func (f *fetching) send() {
	for key, g := range f.asks.groups {
		if len(g.reads) > 0 {
			f.s.sendReads(key, g.reads, f.limit)
			g.reads = nil
		}
	}
}

// expected is how many bytes a read of an item will bring, by what the session's
// reads brought before. 0 where it is not known to bring any: what such a read
// tells, ends and errors, costs little, and the reader must not wait for it.
func (f *fetching) expected(it *fetchItem) int {
	if it.pos.Check {
		return 0
	}
	if w, known := f.s.r.states.of(it.pos.TopicPartition).ends(); !known || it.at >= w.HighWatermark {
		return 0
	}
	return max(min(int(f.s.perRead.Load()), int(it.pos.MaxBytes), f.asks.most), 1)
}

// brought notes how much the reads of a request brought, of those that brought any.
func (s *session) brought(bytes, reads int) {
	if reads > 0 {
		s.perRead.Store((s.perRead.Load() + int64(bytes/reads)) / 2) // of two at once one may be lost
	}
}

// begin finds the item that a Fetch begins with: the first one that the session's
// last Fetch left behind, so that none is left behind for good.
func (f *fetching) begin() int {
	f.s.mu.Lock()
	left := f.s.left
	f.s.mu.Unlock()
	for i := range f.items {
		if tp := &f.items[i].pos.TopicPartition; tp.Partition == left.Partition && tp.Topic == left.Topic {
			return i
		}
	}
	return 0
}

// each calls do with the items in the order of this Fetch.
func (f *fetching) each(do func(*fetchItem, *Slice)) {
	for n := range f.items {
		i := (f.first + n) % len(f.items)
		do(&f.items[i], &f.out.Slices[i])
	}
}

// readAhead fetches what the readers behind the tail will ask for next, while they
// work on this answer: first where this one brought nothing.
func (f *fetching) readAhead() {
	f.asks.reset()
	m := f.s.r.deps.Maps.Current()
	left := federation.TopicPartition{Partition: -1}
	f.each(func(it *fetchItem, sl *Slice) {
		if it.bytes > 0 || it.part != nil || it.pos.Check || sl.Err != nil || it.at >= sl.HighWatermark {
			return
		}
		// Not one that waits for something else: it would come first again and again.
		if f.ahead(m, it); it.left && left.Partition < 0 {
			left = it.pos.TopicPartition
		}
	})
	f.each(func(it *fetchItem, sl *Slice) {
		if it.bytes > 0 && it.direct && sl.Err == nil && it.at < sl.HighWatermark {
			f.ahead(m, it)
		}
	})
	f.s.mu.Lock()
	f.s.left = left
	f.s.mu.Unlock()
	for key, g := range f.asks.groups {
		if len(g.reads) > 0 && f.reserve(g) {
			f.s.sendReads(key, g.reads, f.limit)
			g.reads = nil
		}
	}
}

// ahead wants the next records of an item, if its broker has not enough to answer.
func (f *fetching) ahead(m *federation.Map, it *fetchItem) {
	tp := it.pos.TopicPartition
	if rd := f.s.readOf(tp); rd != nil {
		it.left = false
		f.asks.of(rd.key).load += max(rd.expected, 1)
		return
	}
	part, err := m.Partition(tp)
	if err != nil {
		return
	}
	at := part.Locate(it.at)
	extent := part.Extents[at]
	cluster, err := f.s.r.cluster(extent)
	if err != nil || it.at < extent.First() || closed(m, extent) {
		return
	}
	source, _ := f.source(cluster, extent, it)
	if source.Broker < 0 {
		return
	}
	key := readKey{cluster: cluster, source: source, use: upstream.UseCold}
	if at == len(part.Extents)-1 {
		key.use = upstream.UseRead
	}
	g, expected := f.asks.of(key), f.expected(it)
	if it.left = !f.asks.room(g, expected); it.left {
		return
	}
	rd := f.newRead(it, extent, key, expected)
	if f.s.add(rd) {
		g.add(rd, it.pos.MaxBytes)
	}
}

// reserve reserves what the answer to reads ahead can take; if there is no room they
// are not sent.
func (f *fetching) reserve(g *brokerAsk) bool {
	size := int64(0)
	for _, w := range g.reads {
		size += int64(w.maxBytes)
	}
	r := f.s.r
	share := (min(size, int64(f.asks.most)) + int64(len(g.reads)) - 1) / int64(len(g.reads))
	if !r.reserveAhead(share * int64(len(g.reads))) {
		for _, w := range g.reads {
			f.s.drop(w.rd)
		}
		return false
	}
	for _, w := range g.reads {
		w.rd.mu.Lock()
		w.rd.ahead, w.rd.budget = share, &r.ahead
		w.rd.mu.Unlock()
	}
	return true
}

func (r *Router) reserveAhead(n int64) bool {
	if b := r.deps.Answers; b != nil && (b.Waiting() > 0 || b.Size()-b.Used() < b.Size()/2) {
		return false // those who asked come first
	}
	if r.ahead.Add(n) <= r.cfg.ReadAheadBytesMax {
		return true
	}
	r.ahead.Add(-n)
	return false
}
