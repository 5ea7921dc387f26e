package router

import (
	"context"
	"slices"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/upstream"
)

// When the cluster of a head fails, the controller ends the head without asking the
// cluster: nobody knows what lies behind the last record that anyone has been told of.
// So from the map that marks the head sealing on a failed cluster, this gateway gives
// out nothing of it any more, and tells how far it has: what lies behind that can be
// appended again, or left out, and nobody has seen it.

// closed reports whether nothing of an extent may be given out: its cluster failed, and
// where it ends is not known yet.
func closed(m *federation.Map, e *federation.Extent) bool {
	switch e.State {
	case federation.ExtentSuspended:
		return true
	case federation.ExtentSealing:
		return failed(m, e.Cluster)
	case federation.ExtentOpen, federation.ExtentSealed:
	}
	return false
}

// failed reports whether a cluster is marked as failed.
func failed(m *federation.Map, name federation.ClusterName) bool {
	c := m.Clusters[name]
	return c != nil && c.State == federation.ClusterFailed
}

// isHead reports whether an extent is the head of a partition, and not closed.
func (r *Router) isHead(tp federation.TopicPartition, e *federation.Extent) bool {
	m := r.deps.Maps.Current()
	part, err := m.Partition(tp)
	return err == nil && part.Head().PhysicalAddress == e.PhysicalAddress && !closed(m, part.Head())
}

// whileHead returns a context that ends with ctx, and when a partition has another head
// or its head is closed: then the next one has the answers.
func (r *Router) whileHead(ctx context.Context, tp federation.TopicPartition, head *federation.Extent) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		for {
			changed := r.deps.Maps.Changed()
			if !r.isHead(tp, head) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, cancel
}

// waits reports whether the readers of a topic wait at suspended extents.
func waits(m *federation.Map, topic federation.TopicName) bool {
	t := m.Topic(topic)
	return t != nil && t.FailoverWaits()
}

// extentAt returns the extent of a partition that lies at an address; nil if none does.
func extentAt(part *federation.Partition, at *federation.PhysicalAddress) *federation.Extent {
	for _, e := range slices.Backward(part.Extents) {
		if e.PhysicalAddress == *at {
			return e
		}
	}
	return nil
}

// listable returns the extents of a partition that questions about its records go to,
// never none: those that are suspended are passed over, unless readers wait at them.
func (r *Router) listable(part *federation.Partition) ([]*federation.Extent, error) {
	suspended := func(e *federation.Extent) bool { return e.State == federation.ExtentSuspended }
	switch {
	case !slices.ContainsFunc(part.Extents, suspended):
		return part.Extents, nil
	case suspended(part.Head()):
		return nil, errHeadClosed(part)
	case waits(r.deps.Maps.Current(), part.Topic):
		return nil, errClosed(part)
	}
	return slices.DeleteFunc(slices.Clone(part.Extents), suspended), nil
}

// errClosed is the error of a question that a suspended extent would have to answer.
func errClosed(part *federation.Partition) error {
	return federation.Errorf(federation.ClusterUnavailable, "%s-%d: a part of it lies on a physical cluster that failed, and the topic's readers wait for that (%s=wait); try again when the cluster is restored",
		part.Topic, part.Number, federation.ConfigFailoverRead)
}

// errHeadClosed is errClosed for a partition whose head is suspended.
func errHeadClosed(part *federation.Partition) error {
	return federation.Errorf(federation.ClusterUnavailable, "%s-%d: its head lies on a physical cluster that failed; try again when it has a new one", part.Topic, part.Number)
}

// give notes that a reader gets the records of an extent up to an offset, and reports
// whether it may. Whoever asks how far readers have got (seenEnd) takes the same lock
// after the map that closes the extent is in: so what is given is either counted by then,
// or refused.
func (r *Router) give(tp federation.TopicPartition, e *federation.Extent, end federation.LogicalOffset) bool {
	if e.Sealed() {
		return true
	}
	st := r.states.of(tp)
	st.mu.Lock()
	defer st.mu.Unlock()
	m := r.deps.Maps.Current()
	part, err := m.Partition(tp)
	if err != nil {
		return true // of a topic that is gone
	}
	now := e
	if head := part.Head(); head != e {
		if now = extentAt(part, &e.PhysicalAddress); now == nil {
			return true
		}
	}
	if closed(m, now) {
		return false
	}
	if last, sealed := now.EndOffset(); sealed && end > last {
		return false
	}
	st.see(now.Number, now.Physical(end))
	return true
}

// see notes how far readers were given the newest extent; the caller holds mu.
func (p *partState) see(extent int32, end federation.PhysicalOffset) {
	switch {
	case extent > p.seenOf:
		p.seenOf, p.seen = extent, end
	case extent == p.seenOf:
		p.seen = max(p.seen, end)
	}
}

// seenEnd returns the physical offset after the last record of a head that a reader
// was given, or will be.
func (r *Router) seenEnd(m *federation.Map, h federation.HeldHead) federation.PhysicalOffset {
	t := m.Topic(h.Topic)
	if t == nil {
		return 0
	}
	st := r.states.peek(stateKey{t.ID, h.Partition})
	if st == nil {
		return 0
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.seenOf != h.Extent {
		return 0
	}
	return st.seen
}

// cutReads closes the connections for reads and questions to the failed clusters of
// sealing heads: who waits for an answer looks at the map.
func (r *Router) cutReads(m *federation.Map, heads []federation.HeldHead) {
	done := make(map[federation.ClusterName]bool)
	for _, h := range heads {
		part, err := m.Partition(h.TopicPartition)
		if err != nil || !closed(m, part.Head()) || done[part.Head().Cluster] {
			continue
		}
		name := part.Head().Cluster
		done[name] = true
		if c, err := r.deps.Clusters.Cluster(name); err == nil {
			c.Disconnect(upstream.UseRead, upstream.UseTail, upstream.UseQuery)
		}
	}
}

// cut closes the connection that p's ops in flight are on, if they are bound for an
// extent that is closed: their answers come at once, and most likely say that nothing
// is known.
func (l *lane) cut(m *federation.Map, p *partQueue) {
	if len(p.flying) == 0 || p.sentOn == nil {
		return
	}
	part, err := m.Partition(p.tp)
	if err != nil {
		return
	}
	if e := extentAt(part, &p.address); e != nil && closed(m, e) {
		p.sentOn.Close()
	}
}

// cutAll is cut for all partitions, if the map is another one than the last time.
func (l *lane) cutAll(m *federation.Map) {
	if l.cutAt == m.Version {
		return
	}
	l.cutAt = m.Version
	for _, p := range l.parts {
		l.cut(m, p)
	}
}

// A remembered holds what a lane knew of the producers of a head whose cluster failed.
// Nothing is carried over from such a head, but producers go on behind what was
// acknowledged to them.
type remembered struct {
	known   map[int64]knownProducer
	last    []int32
	opening *opening
	next    *remembered // of the head before, if that is remembered too
}

// rememberedMax bounds how many heads of a partition are remembered.
const rememberedMax = 4

// of returns where a producer stands as far as any of the heads had it. What was carried
// over to a head can be older than what the lane knows of one that was lost before it.
func (r *remembered) of(id int64) (p mark.Producer, ok bool) {
	further := func(q mark.Producer) {
		if !ok || p.Before(&q) {
			p, ok = q, true
		}
	}
	for ; r != nil; r = r.next {
		if k, known := r.known[id]; known && r.last[k.index] >= 0 {
			further(mark.Producer{ID: id, Epoch: k.epoch, LastSequence: r.last[k.index]})
		}
		if c, carried := r.opening.carried(id); carried {
			further(c)
		}
	}
	return p, ok
}

// producers counts those that are remembered beside those in openings.
func (r *remembered) producers() (n int) {
	for ; r != nil; r = r.next {
		n += len(r.known)
	}
	return n
}

// forget drops what is behind the n newest heads, and returns how many producers that were.
func (r *remembered) forget(n int) int {
	for ; r != nil; r = r.next {
		if n--; n == 0 {
			dropped := r.next.producers()
			r.next = nil
			return dropped
		}
	}
	return 0
}

// succeed has next take over from h, the head before it that the lane knows of.
func (l *lane) succeed(part *federation.Partition, h, next *headState) {
	h.gone = true
	lost := false
	for _, e := range part.Extents[:len(part.Extents)-1] {
		lost = lost || e.Number >= h.extent && e.FailedOnce()
	}
	next.before = h.before
	if !lost { // what it knows is among what was carried over
		l.known -= len(h.known)
		return
	}
	next.before = &remembered{known: h.known, last: h.last, opening: h.opening, next: h.before}
	l.known -= next.before.forget(rememberedMax)
}

// carried returns where a producer stood before the head; lost reports that this was in
// an extent whose cluster is lost.
func (h *headState) carried(id int64) (p mark.Producer, lost, ok bool) {
	p, ok = h.opening.carried(id)
	if mine, remembers := h.before.of(id); remembers && (!ok || p.Before(&mine)) {
		return mine, true, true
	}
	return p, false, ok
}
