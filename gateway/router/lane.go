package router

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/upstream"
)

// A lane carries the appends of the sessions pinned to it, over one connection
// to each broker. One goroutine owns all of its state, so a partition's appends
// need no lock, and lanes share nothing.
//
// Order: each partition has a queue. Its first ops are in flight, on one
// connection, in order; the rest waits. If one fails for now, nothing more of
// the queue is sent until all in flight have been answered; then what failed
// goes again, in order, to whoever leads by then.
//
//	queued ──► in flight ──► done
//	   ▲            │
//	   └── failed for now, until the deadline
type lane struct {
	r     *Router
	index int

	submit chan *submission
	wake   chan struct{} // capacity 1: events has something
	full   atomic.Int64  // when appends had to wait last for a request to be answered, in Unix nanoseconds

	mu     sync.Mutex // guards the following
	events []func()   // run by the owner

	// Owned by run.
	parts map[federation.TopicPartition]*partQueue
	heads map[federation.TopicPartition]*headState
	conns map[*upstream.Conn]*connLane
	ready []*partQueue

	quiescences []*quiescence
	pruneAt     int                   // size at which heads of deleted topics are dropped
	known       int                   // producers in all of heads
	repeated    []repeat              // wait to be looked for in sealed extents, oldest first
	finding     int                   // those that are looked for
	gaveUp      map[giveUpKey]givenUp // see giveup.go
	cutAt       federation.MapVersion
	stopping    bool
}

// A submission is one Produce call.
type submission struct {
	ops     []appendOp
	results []Appended
	left    int
	begun   time.Time
	done    func([]Appended)
}

type appendOp struct {
	sub      *submission
	index    int32
	attempts int32
	tp       federation.TopicPartition
	batch    []byte
	seq      opSequence
	acks     Acks
	unknown  bool // a former try may have been appended
	deadline time.Time
	away     *AwayWait // nil = it waits until the deadline
	gaps     int64     // of the lease, when it was sent last
	cause    error     // of the last failure
	waits    *opWaits
}

// opWaits says how long an op waits; zero = it does not. Few ops do.
type opWaits struct {
	held  time.Time // for its head to be open again
	early time.Time // for the batches before it
}

func (op *appendOp) waiting() *opWaits {
	if op.waits == nil {
		op.waits = &opWaits{}
	}
	return op.waits
}

// A partQueue holds the appends of one logical partition.
type partQueue struct {
	tp       federation.TopicPartition
	queue    []*appendOp // to be sent, oldest first
	flying   []*appendOp // in flight, oldest first
	failed   []*appendOp // failed for now: wait for those in flight, then go before queue
	early    []*appendOp // wait for batches before them
	held     bool        // waits for its head to be open again
	opening  []*appendOp // in flight: nothing else of their producers may be
	asking   bool        // the head is being asked whom it knows
	queued   bool        // in lane.ready or connLane.ready
	waiting  bool        // for a leader, a connection or a pause: an event ends it
	asks     int         // questions to heads that have no answer yet
	attempts int         // failures in a row, for the pause
	away     time.Time   // since when all appends fail for now; zero = they do not
	awayAt   time.Time   // when that was seen last

	version federation.MapVersion // the map that extent and address are of
	extent  *federation.Extent
	head    *headState
	address federation.PhysicalAddress
	cluster *upstream.Cluster
	conn    *upstream.Conn // that the next op goes to
	sentOn  *upstream.Conn // that the ops in flight are on
}

func (p *partQueue) idle() bool {
	return len(p.queue)+len(p.flying)+len(p.failed)+len(p.early)+p.asks == 0 && !p.queued && !p.waiting && p.away.IsZero()
}

// sendable reports whether something of p may be sent: nothing may while a
// failed op waits for the answers to those that were sent after it.
func (p *partQueue) sendable() bool { return len(p.queue) > 0 && len(p.failed) == 0 }

// A connLane is the lane's side of a connection to a broker.
type connLane struct {
	conn     *upstream.Conn
	inflight int
	ready    []*partQueue
	free     []*produceRequest
}

func newLane(r *Router, index int) *lane {
	return &lane{
		r: r, index: index, submit: make(chan *submission, 256), wake: make(chan struct{}, 1),
		parts: make(map[federation.TopicPartition]*partQueue), conns: make(map[*upstream.Conn]*connLane),
		heads: make(map[federation.TopicPartition]*headState), pruneAt: statesMin,
	}
}

// post has the owner run f soon. It never blocks.
func (l *lane) post(f func()) {
	l.mu.Lock()
	l.events = append(l.events, f)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// expiryScan is how often queued appends are checked against their deadlines.
const expiryScan = 250 * time.Millisecond

func (l *lane) run() {
	ticker := time.NewTicker(expiryScan)
	defer ticker.Stop()
	for {
		select {
		case sub := <-l.submit:
			l.enqueue(sub)
			l.drainSubmissions()
		case <-l.wake:
		case now := <-ticker.C:
			l.expire(now)
		case <-l.r.ctx.Done():
			l.stop()
			return
		}
		l.runEvents()
		l.dispatch()
	}
}

// drainSubmissions takes what else is there, so that it shares requests.
func (l *lane) drainSubmissions() {
	for range cap(l.submit) {
		select {
		case sub := <-l.submit:
			l.enqueue(sub)
		default:
			return
		}
	}
}

func (l *lane) runEvents() {
	l.mu.Lock()
	events := l.events
	l.events = nil
	l.mu.Unlock()
	for _, f := range events {
		f()
	}
}

func (l *lane) enqueue(sub *submission) {
	for i := range sub.ops {
		op := &sub.ops[i]
		op.seq = sequenceOf(op.batch)
		if mark.IsMark(op.seq.id) {
			// Readers take such a batch for a mark: they would wait at it, or leave it out.
			op.resolve(failedAppend(federation.Errorf(federation.InvalidRecord, "%s: producer id %d is reserved", op.tp, op.seq.id)))
			continue
		}
		p := l.parts[op.tp]
		if p == nil {
			p = &partQueue{tp: op.tp}
			l.parts[op.tp] = p
		}
		p.queue = append(p.queue, op)
		if p.held {
			l.limitHold(p, op, time.Now())
		}
		l.markReady(p)
	}
}

func (l *lane) markReady(p *partQueue) {
	if !p.queued && !p.waiting && p.sendable() {
		p.queued = true
		l.ready = append(l.ready, p)
	}
	if p.idle() {
		delete(l.parts, p.tp)
	}
}

// dispatch finds the connection of each partition that has something to send,
// and sends what the connections take.
func (l *lane) dispatch() {
	for len(l.ready) > 0 {
		l.dispatchReady()
	}
}

func (l *lane) dispatchReady() {
	var touched []*connLane
	for i := 0; i < len(l.ready); i++ {
		p := l.ready[i]
		p.queued = false
		c := l.place(p)
		if c == nil {
			continue
		}
		p.queued = true
		if len(c.ready) == 0 {
			touched = append(touched, c)
		}
		c.ready = append(c.ready, p)
	}
	l.ready = l.ready[:0]
	for _, c := range touched {
		l.flush(c)
	}
}

// place returns the connection that p's next append goes to; nil if it cannot
// go now: then an event will mark p ready, or p's appends have failed.
func (l *lane) place(p *partQueue) *connLane {
	if !p.sendable() {
		return nil
	}
	if !l.resolve(p) {
		return nil
	}
	leader, pending := p.cluster.Leader(p.address.Topic, p.address.Partition)
	if leader.Broker < 0 {
		l.await(p, pending)
		return nil
	}
	conn := p.cluster.Ready(leader.Broker, upstream.UseAppend, l.index)
	if conn == nil {
		l.dial(p, leader.Broker)
		return nil
	}
	if len(p.flying) > 0 && p.conn != conn {
		return nil // the leader moved: first the answers of the old one
	}
	p.conn = conn
	c := l.conns[conn]
	if c == nil {
		for old, c := range l.conns {
			if old.Closed() && c.inflight == 0 && len(c.ready) == 0 {
				delete(l.conns, old)
			}
		}
		c = &connLane{conn: conn}
		l.conns[conn] = c
	}
	return c
}

// resolve brings p's extent up to the current map. It returns false if p cannot
// be appended to now; what is final fails the appends.
func (l *lane) resolve(p *partQueue) bool {
	m := l.r.deps.Maps.Current()
	if p.extent == nil || p.version != m.Version || p.cluster.Closed() { // a cluster is replaced after the map has changed
		part, err := m.Partition(p.tp)
		if err != nil {
			l.failAll(p, err)
			return false
		}
		head := part.Head()
		if len(p.flying) > 0 && p.extent != nil && p.address != head.PhysicalAddress {
			return false // the head moved: first the answers of the old one
		}
		cluster, err := l.r.cluster(head)
		if err != nil {
			l.pause(p, err)
			return false
		}
		p.version, p.extent, p.cluster = m.Version, head, cluster
		if p.address != head.PhysicalAddress { // else it is read for the answers to what is in flight
			p.address, p.away = head.PhysicalAddress, time.Time{}
		}
		if h := l.headOf(m, part); h != p.head {
			p.head = h
			p.asking = false // the one before was asked
			l.unearly(p, anyProducer)
			for _, op := range p.queue {
				if op.waits != nil {
					op.waits.early = time.Time{}
				}
			}
		}
	}
	if p.extent.State != federation.ExtentOpen {
		l.hold(p, m)
		return false
	}
	if p.held {
		p.held = false
		for _, op := range p.queue {
			if op.waits != nil {
				op.waits.held = time.Time{}
			}
		}
	}
	if !l.r.deps.Lease.Valid() {
		l.pause(p, errLease(p.tp))
		return false
	}
	return true
}

func errLease(tp federation.TopicPartition) error {
	return federation.Errorf(federation.NoLeader, "%s: this gateway lost touch with the control plane and may not append; try again", tp)
}

// await has p wait until pending is closed.
func (l *lane) await(p *partQueue, pending <-chan struct{}) {
	l.waitFor(p, pending, func() { l.afterRefresh(p) })
}

// waitFor has p wait until done is closed, and then calls then; or until the map has
// p's head elsewhere, or closed: a cluster that hangs must not hold up what can go on.
func (l *lane) waitFor(p *partQueue, done <-chan struct{}, then func()) {
	p.waiting = true
	tp, at := p.tp, p.address
	l.r.tasks.Go(func() {
		for {
			changed := l.r.deps.Maps.Changed()
			part, err := l.r.deps.Maps.Current().Partition(tp)
			if err != nil || part.Head().PhysicalAddress != at || part.Head().State != federation.ExtentOpen {
				l.post(func() { l.resume(p) })
				return
			}
			select {
			case <-done:
				l.post(then)
				return
			case <-changed:
			case <-l.r.ctx.Done():
				return
			}
		}
	})
}

// resume ends p's wait.
func (l *lane) resume(p *partQueue) {
	p.waiting = false
	l.markReady(p)
}

func (l *lane) afterRefresh(p *partQueue) {
	p.waiting = false
	if p.cluster != nil {
		if leader, _ := p.cluster.Leader(p.address.Topic, p.address.Partition); leader.Broker < 0 {
			l.pauseAway(p, federation.Errorf(federation.NoLeader, "%s has no leader right now; try again", p.tp))
			return
		}
	}
	l.markReady(p)
}

func (l *lane) dial(p *partQueue, broker int32) {
	cluster, topic := p.cluster, p.address.Topic
	done, err := make(chan struct{}), error(nil)
	l.r.tasks.Go(func() {
		defer close(done)
		if _, err = cluster.Conn(l.r.ctx, broker, upstream.UseAppend, l.index); err != nil {
			cluster.Stale(topic)
		}
	})
	l.waitFor(p, done, func() {
		if err != nil {
			l.pauseAway(p, federation.Errorf(federation.ClusterUnavailable, "the cluster that holds %s does not answer; try again", p.tp).WithCause(err))
			return
		}
		l.resume(p)
	})
}

// pause has p wait a moment because of err.
func (l *lane) pause(p *partQueue, err error) {
	for _, op := range p.queue {
		op.cause = err
	}
	wait := min(l.r.cfg.RetryBackoff<<min(p.attempts, 10), l.r.cfg.RetryBackoffMax)
	p.attempts++
	p.waiting = true
	changed := l.r.deps.Maps.Changed()
	l.r.tasks.Go(func() {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-changed: // a held head may be open again
		case <-l.r.ctx.Done():
			return
		}
		l.post(func() { l.resume(p) })
	})
}

// flush sends what c's connection takes: many partitions in one request, one
// batch of each. What has waited for its turn looks at the map again if that has
// changed, and if the lease has ended.
func (l *lane) flush(c *connLane) {
	// In this order: a lease that began after a gap comes with the map of its time.
	gaps := l.r.deps.Lease.Gaps()
	version := l.r.deps.Maps.Current().Version
	leased := l.r.deps.Lease.Valid()
	for len(c.ready) > 0 && c.inflight < l.r.cfg.AppendRequestsMax {
		q := c.request()
		acks, size := Acks(0), 0
		rest := c.ready[:0]
		for _, p := range c.ready {
			if !l.sendable(p, c) || p.version != version || !leased {
				p.queued = false
				l.markReady(p)
				continue
			}
			op, open := l.next(p)
			if op == nil {
				p.queued = false // an event makes it ready
				if p.idle() {
					delete(l.parts, p.tp)
				}
				continue
			}
			if len(q.ops) > 0 && (op.acks != acks || size+len(op.batch) > l.r.cfg.AppendRequestBytesMax) {
				rest = append(rest, p)
				continue
			}
			acks = op.acks
			size += len(op.batch)
			q.ops, q.parts = append(q.ops, op), append(q.parts, p)
			if op.attempts++; op.attempts > 1 {
				l.r.count.appendRetries.Add(1)
			}
			p.queue = p.queue[1:]
			p.flying, p.sentOn = append(p.flying, op), c.conn
			if open {
				p.opening = append(p.opening, op)
			}
			if p.sendable() {
				rest = append(rest, p)
			} else {
				p.queued = false
			}
		}
		clear(c.ready[len(rest):])
		c.ready = rest
		if len(q.ops) == 0 {
			c.free = append(c.free, q)
			continue
		}
		if !c.conn.TryAcquire() {
			l.undo(q)
			return
		}
		l.send(c, q, acks, gaps)
	}
	if len(c.ready) > 0 {
		l.full.Store(time.Now().UnixNano())
	}
}

// sendable reports whether p's next op may go out on c.
func (l *lane) sendable(p *partQueue, c *connLane) bool {
	return p.sendable() && p.conn == c.conn && !c.conn.Closed()
}

// undo takes a request back that could not be sent.
func (l *lane) undo(q *produceRequest) {
	for i, p := range q.parts {
		q.ops[i].attempts--
		p.flying = p.flying[:len(p.flying)-1]
		p.opened(q.ops[i])
		p.queue = append([]*appendOp{q.ops[i]}, p.queue...)
		l.pauseOnce(p)
	}
	q.reset()
}

// pauseOnce is pause for a partition that is not waiting already.
func (l *lane) pauseOnce(p *partQueue) {
	if !p.waiting && !p.queued {
		l.pause(p, federation.Errorf(federation.ClusterUnavailable, "the cluster that holds %s is busy; try again", p.tp))
	}
}

func (l *lane) send(c *connLane, q *produceRequest, acks Acks, gaps int64) {
	q.sort()
	l.r.count.appendRequests.Add(1)
	now := time.Now()
	timeout := time.Second
	for _, op := range q.ops {
		op.gaps = gaps
		timeout = max(timeout, op.deadline.Sub(now))
	}
	q.conn = c
	q.version = c.conn.Version(0, produceVersionMin, produceVersionMax)
	body := q.encode(acks, int32(min(timeout, 5*time.Minute).Milliseconds()))
	c.inflight++
	c.conn.Send(0, q.version, q.version >= produceFlexible, body, func(b *upstream.Buffer, err error) {
		var answers []produceAnswer
		if err == nil {
			answers, err = q.decode(b)
			b.Release()
		}
		l.post(func() { l.answered(q, answers, err) })
	})
}

func (c *connLane) request() *produceRequest {
	if n := len(c.free); n > 0 {
		q := c.free[n-1]
		c.free = c.free[:n-1]
		return q
	}
	return &produceRequest{}
}

// answered takes the answers to a request, in the order in which requests were
// sent on its connection.
func (l *lane) answered(q *produceRequest, answers []produceAnswer, err error) {
	c := q.conn
	c.inflight--
	for i, op := range q.ops {
		p := q.parts[i]
		p.land(op)
		switch {
		case err != nil:
			l.lost(p, op, err)
		case !answers[i].present:
			l.lost(p, op, errNoAnswer)
		default:
			l.decide(p, op, &answers[i])
		}
		l.settle(p)
	}
	if len(l.quiescences) > 0 {
		l.answerQuiescences()
	}
	q.reset()
	if c.conn.Closed() {
		// Its partitions find another connection.
		for _, p := range c.ready {
			p.queued = false
			l.markReady(p)
		}
		c.ready = nil
		if c.inflight == 0 {
			delete(l.conns, c.conn)
		}
		return
	}
	c.free = append(c.free, q)
	l.flush(c)
}

// settle goes on with p after an answer.
func (l *lane) settle(p *partQueue) {
	if len(p.failed) > 0 && len(p.flying) == 0 {
		cause := p.failed[0].cause
		p.queue = append(p.failed, p.queue...)
		p.failed = nil
		if !p.waiting && !p.queued {
			l.pauseAway(p, cause)
		}
		return
	}
	l.markReady(p)
}

// land takes an op out of those in flight.
func (p *partQueue) land(op *appendOp) {
	for i, o := range p.flying {
		if o == op {
			p.flying = append(p.flying[:i], p.flying[i+1:]...)
			p.opened(op)
			return
		}
	}
}

// opened notes that an op is not in flight any more, if it was to open the head.
func (p *partQueue) opened(op *appendOp) {
	if i := slices.Index(p.opening, op); i >= 0 {
		p.opening = slices.Delete(p.opening, i, i+1)
	}
}

func (op *appendOp) resolve(res Appended) {
	sub := op.sub
	sub.results[op.index] = res
	if sub.left--; sub.left == 0 {
		sub.done(sub.results)
	}
}

func failedAppend(err error) Appended {
	return Appended{BaseOffset: -1, LogAppendTimeMs: -1, LogStart: -1, Err: err}
}

// retry keeps an op that came back with a failure for now, unless its time is up.
func (l *lane) retry(p *partQueue, op *appendOp, cause error) {
	op.cause = cause
	if now := time.Now(); l.stopping || !now.Before(op.deadline) {
		l.giveUp(p, op, now)
		return
	}
	p.failed = append(p.failed, op)
}

// timedOut is the error of an op whose deadline has passed.
func (op *appendOp) timedOut() error {
	if op.unknown {
		return federation.Errorf(federation.Timeout, "%s: the cluster did not confirm the append in time; it may or may not be in the log", op.tp).WithCause(op.cause)
	}
	if op.cause != nil {
		return op.cause
	}
	return federation.Errorf(federation.NoLeader, "%s could not be appended to in time; try again", op.tp)
}

// expire fails queued ops whose time is up. Those of the same producer behind one
// that fails fail with it, so that their sender repeats all of them in order.
func (l *lane) expire(now time.Time) {
	m := l.r.deps.Maps.Current()
	version := m.Version
	l.cutAll(m)
	l.expireRepeats(now)
	l.forgetGivenUp(now)
	for tp, p := range l.parts {
		if p.held {
			l.limitHolds(p, now)
		}
		var failed map[opSequence]bool // by id and epoch
		kept := p.queue[:0]
		for _, op := range p.queue {
			who := opSequence{id: op.seq.id, epoch: op.seq.epoch}
			if now.Before(op.deadline) && (!p.held || now.Before(op.waits.held)) && !p.isAway(op, now) && !failed[who] {
				kept = append(kept, op)
				continue
			}
			if op.idempotent() {
				if failed == nil {
					failed = make(map[opSequence]bool)
				}
				failed[who] = true
			}
			l.giveUp(p, op, now)
		}
		clear(p.queue[len(kept):])
		p.queue = kept
		l.expireEarly(p, now)
		switch {
		case len(p.early) == 0:
		case p.version != version: // the head may be another one
			l.unearly(p, anyProducer)
			l.markReady(p)
		case !p.asking:
			l.ask(p) // another gateway may have opened the head meanwhile
		}
		// A question who leads, or a dial, may hang for longer.
		if !p.waiting && now.Sub(p.awayAt) > awayMemory {
			p.away = time.Time{}
		}
		if p.idle() {
			delete(l.parts, tp)
		}
	}
}

// failAll fails what is queued for p for good.
func (l *lane) failAll(p *partQueue, err error) {
	queue := append(p.early, p.queue...)
	p.queue, p.early = nil, nil
	for _, op := range queue {
		op.resolve(failedAppend(err))
	}
	if p.idle() {
		delete(l.parts, p.tp)
	}
}

// stop fails everything: the router ends. The answers to what is in flight are
// waited for, since its bytes belong to the callers; closing the connections
// makes them come at once.
func (l *lane) stop() {
	l.stopping = true
	for c := range l.conns {
		c.Close()
	}
	for l.flying() || l.finding > 0 {
		<-l.wake
		l.runEvents()
	}
	for _, r := range l.repeated {
		r.op.resolve(repeatedAppend(-1))
	}
	for _, p := range l.parts {
		for _, op := range slices.Concat(p.failed, p.early, p.queue) {
			err := errStopping()
			if op.unknown {
				err = op.timedOut()
			}
			op.resolve(failedAppend(err))
		}
	}
	l.refuseSubmissions()
}

// refuseSubmissions answers what the lane has not taken, and will not: its router
// ends. Any goroutine may call it.
func (l *lane) refuseSubmissions() {
	for {
		select {
		case sub := <-l.submit:
			for i := range sub.ops {
				sub.ops[i].resolve(failedAppend(errStopping()))
			}
		default:
			return
		}
	}
}

func (l *lane) flying() bool {
	for _, p := range l.parts {
		if len(p.flying) > 0 {
			return true
		}
	}
	return false
}

func (q *produceRequest) reset() {
	clear(q.ops)
	clear(q.parts)
	clear(q.bufs)
	q.ops, q.parts, q.bufs = q.ops[:0], q.parts[:0], q.bufs[:0]
}

// followsFailed reports whether an earlier op of the same producer has failed
// for now: the broker then had to refuse this one as out of order.
func (p *partQueue) followsFailed(op *appendOp) bool {
	return op.idempotent() && slices.ContainsFunc(p.failed, func(o *appendOp) bool {
		return o.seq.id == op.seq.id && o.seq.epoch == op.seq.epoch
	})
}
