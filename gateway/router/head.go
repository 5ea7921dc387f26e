package router

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// A Kafka partition takes any first sequence from a producer that it does not
// know. So a batch that overtakes another one, through another gateway or behind
// one that failed, would open the partition, and the earlier one would be lost for
// good. Therefore a producer that a head does not know opens it with its next
// sequence only: the one after what was carried over from the extent before, or 0.
// From then on the broker checks.
//
//	unknown ──(the next sequence: nothing of the producer behind it)──► known: the broker checks
//	   └─(another one)─► early: the head is asked ──► known
//	                        └─(waits for those before it)─► refused for now
//	                                 └─(comes again, and nothing before it)─► opens
//
// What was carried over also tells repeats of batches that lie before the head.

// An opSequence says who wrote a batch, and where it lies in the producer's order.
type opSequence struct {
	id         int64 // -1 = not idempotent
	epoch      int16
	base, last int32
	count      int32 // records, by their offsets
}

func sequenceOf(batch []byte) opSequence {
	h, ok := recordbatch.ParseHeader(batch)
	if !ok {
		return opSequence{id: -1, count: 1}
	}
	return opSequence{id: h.ProducerID, epoch: h.ProducerEpoch, base: h.BaseSequence, last: h.LastSequence(), count: h.LastOffsetDelta + 1}
}

func (op *appendOp) idempotent() bool { return op.seq.id >= 0 }

// distance returns how many records sequence b is after a. Sequences wrap to 0
// after 2^31-1.
func distance(a, b int32) uint32 { return uint32(b-a) & 0x7fffffff }

// notAfter reports whether sequence a is b or before it: the nearer way round counts.
func notAfter(a, b int32) bool { return distance(a, b) < 1<<30 }

// A headState is what a lane knows of the head of a logical partition that it has
// appended to. The lane's goroutine owns it.
type headState struct {
	topic     federation.TopicID
	partition federation.LogicalPartition
	extent    int32
	// acknowledged is the physical offset after the last record that was acknowledged.
	acknowledged federation.PhysicalOffset
	bytes        int64 // acknowledged since the router was asked for its loads
	known        map[int64]knownProducer
	last         []int32     // sequences that were acknowledged last, by knownProducer.index; -1 = none was
	before       *remembered // of heads before it whose cluster failed
	gone         bool        // another one is in its place
	opening      *opening    // what was carried over; nil until it is loaded
	triedAt      time.Time   // when the head was asked last whom it knows
	askedAt      time.Time   // when it answered last
}

// A knownProducer is a producer that a head knows.
type knownProducer struct {
	index int32 // in headState.last
	epoch int16
	// past says that it has written so much since the head was opened that its sequences
	// will come round to what was carried over: they are no repeats then.
	past bool
}

const (
	// repeatRecords is how many of a producer's last records can be repeated: more than
	// are in flight.
	repeatRecords = 1 << 24
	// pastRecords is how many records after what was carried over a producer is past it.
	pastRecords = 1 << 29
)

// learn notes that a head knows a producer. It returns false if that is nothing new.
func (l *lane) learn(h *headState, id int64, next knownProducer) bool {
	k, ok := h.known[id]
	if h.gone || ok && (k.epoch > next.epoch || k.epoch == next.epoch && (k.past || !next.past)) {
		return false
	}
	if !ok {
		if l.known >= l.r.cfg.ProducersMax {
			l.forgetProducers()
		}
		if h.known == nil {
			h.known = make(map[int64]knownProducer)
		}
		l.known++
		k.index = int32(len(h.last))
		h.last = append(h.last, -1)
	}
	if k.epoch < next.epoch {
		h.last[k.index] = -1
	}
	next.index = k.index
	h.known[id] = next
	l.r.refused.forget(refusedKey{h.topic, h.partition, h.extent, id})
	return true
}

// learnState is learn with what the head's leader says of the producer.
func (l *lane) learnState(h *headState, s upstream.ProducerState) {
	c, _, ok := h.carried(s.ID)
	past := ok && c.Epoch == s.Epoch && c.LastSequence >= 0 && distance(c.LastSequence, s.LastSequence) >= pastRecords
	l.learn(h, s.ID, knownProducer{epoch: s.Epoch, past: past})
}

// forgetProducers makes room: heads are asked again for those that are forgotten.
func (l *lane) forgetProducers() {
	for _, h := range l.heads {
		if n := len(h.known) + h.before.producers(); n > 0 {
			l.known -= n
			h.known, h.last, h.before = nil, nil, nil
			return
		}
	}
}

// headOf returns the state of a partition's head, a new one if the head is new.
func (l *lane) headOf(m *federation.Map, part *federation.Partition) *headState {
	tp, head := federation.TopicPartition{Topic: part.Topic, Partition: part.Number}, part.Head()
	topic := m.Topics[part.Topic].ID
	h := l.heads[tp]
	if h == nil || h.extent != head.Number || h.topic != topic {
		if len(l.heads) >= l.pruneAt {
			l.pruneHeads(m)
		}
		old := h
		h = &headState{topic: topic, partition: part.Number, extent: head.Number}
		if head.Opening == 0 {
			h.opening = noOpening
		}
		switch {
		case old == nil:
		case old.topic == topic:
			l.succeed(part, old, h)
		default:
			old.gone = true
			l.known -= len(old.known) + old.before.producers()
		}
		l.heads[tp] = h
	}
	return h
}

// pruneHeads forgets the heads of topics that are gone.
func (l *lane) pruneHeads(m *federation.Map) {
	for tp, h := range l.heads {
		if m.TopicByID(h.topic) == nil {
			l.known -= len(h.known) + h.before.producers()
			h.gone = true
			delete(l.heads, tp)
		}
	}
	l.pruneAt = max(statesMin, 2*len(l.heads))
}

// A verdict says what becomes of the next op of a partition.
type verdict int8

const (
	verdictSend    verdict = iota
	verdictOpen            // send it, and nothing of its producer until it is answered
	verdictSettled         // it has its answer
	verdictEarly           // those before it are missing
	verdictWait            // an event tells
)

// next returns the op of p that may be sent now; nil if none may. open tells that
// it must be answered before anything else of its producer is sent.
func (l *lane) next(p *partQueue) (op *appendOp, open bool) {
	for len(p.queue) > 0 {
		op := p.queue[0]
		v := verdictSend
		if op.idempotent() {
			v = l.admit(p, op)
		}
		switch v {
		case verdictSend, verdictOpen:
			return op, v == verdictOpen
		case verdictEarly:
			p.queue = p.queue[1:]
			p.early = append(p.early, op)
		case verdictSettled:
			p.queue = p.queue[1:]
		case verdictWait:
			return nil, false
		}
	}
	return nil, false
}

// admit applies the rule above to an op.
func (l *lane) admit(p *partQueue, op *appendOp) verdict {
	h, s := p.head, op.seq
	if h.opening == nil {
		l.loadOpening(p)
		return verdictWait
	}
	if slices.ContainsFunc(p.opening, func(o *appendOp) bool { return o.seq.id == s.id }) {
		return verdictWait
	}
	k, known := h.known[s.id]
	known = known && k.epoch >= s.epoch // of a newer one, the broker refuses the older
	next := int32(0)
	if c, lost, ok := h.carried(s.id); ok && s.epoch <= c.Epoch && (!known || !k.past) {
		switch {
		case s.epoch < c.Epoch:
			op.resolve(failedAppend(federation.Errorf(federation.ProducerFenced, "%s: the producer has a newer epoch", op.tp)))
			return verdictSettled
		case c.LastSequence < 0: // it begins with 0
		case distance(s.base, c.LastSequence) >= repeatRecords:
			next = recordbatch.AddSequence(c.LastSequence, 1)
		case !l.informed(p):
			return l.early(op) // it can be past this, which only the head tells
		case notAfter(s.last, c.LastSequence):
			l.answerRepeat(op, lost)
			return verdictSettled
		default:
			op.resolve(failedAppend(federation.Errorf(federation.OutOfOrderSequence, "%s: a record batch repeats a part of what the producer has written", op.tp)))
			return verdictSettled
		}
	}
	switch {
	case known:
		return verdictSend
	case s.base == next:
		return verdictOpen
	case l.cameAgain(p, op):
		return verdictOpen
	default:
		l.informed(p)
		return l.early(op)
	}
}

// cameAgain reports whether an op was refused as early, and came again, with nothing
// before it.
func (l *lane) cameAgain(p *partQueue, op *appendOp) bool {
	h, since := p.head, time.Time{}
	if op.waits != nil && !op.waits.early.IsZero() {
		since = op.waits.early.Add(-l.r.cfg.EarlyWait)
	}
	return l.r.refused.was(refusedKey{h.topic, h.partition, h.extent, op.seq.id}, op.seq, since) &&
		!slices.ContainsFunc(p.early, func(o *appendOp) bool { return o.seq.id == op.seq.id })
}

func (l *lane) early(op *appendOp) verdict {
	op.cause = federation.Errorf(federation.NoLeader, "%s: record batches before this one are missing; try again", op.tp)
	if w := op.waiting(); w.early.IsZero() {
		w.early = time.Now().Add(l.r.cfg.EarlyWait)
	}
	return verdictEarly
}

// informed reports whether the head has said a moment ago whom it knows. If not, it
// is asked; early ops are looked at again when it has answered.
func (l *lane) informed(p *partQueue) bool {
	now := time.Now()
	if now.Sub(p.head.askedAt) < l.r.cfg.EarlyAsk {
		return true
	}
	if !p.asking && now.Sub(p.head.triedAt) >= l.r.cfg.EarlyAsk {
		l.ask(p)
	}
	return false
}

// ask finds out which producers the head knows.
func (l *lane) ask(p *partQueue) {
	h, cluster, at := p.head, p.cluster, p.address
	h.triedAt = time.Now()
	p.asking = true
	p.asks++
	l.r.count.producerQueries.Add(1)
	l.r.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(l.r.ctx, l.r.cfg.QueryTimeout)
		defer cancel()
		got := producersOf(ctx, cluster, upstream.Partition{Topic: at.Topic, Partition: at.Partition})
		l.post(func() {
			if p.asks--; p.head == h {
				p.asking = false
			}
			l.told(p, h, got)
			l.markReady(p)
		})
	})
}

// told takes in what a head said of its producers.
func (l *lane) told(p *partQueue, h *headState, got upstream.PartitionProducers) {
	now := time.Now()
	if got.Err != nil && mayAnswer(got.Err) {
		h.triedAt = now
		for _, op := range p.early {
			op.cause = federation.Errorf(federation.ClusterUnavailable, "the cluster that holds %s does not answer; try again", p.tp).WithCause(got.Err)
		}
		return
	}
	if got.Err != nil { // it is too old for the question, or does not allow it
		l.r.cfg.Logger.Debug("a cluster does not say which producers it knows", "cluster", p.cluster.Name, "partition", p.tp, "err", got.Err)
	}
	h.askedAt, p.away = now, time.Time{}
	for _, s := range got.States {
		l.learnState(h, s)
	}
	for _, op := range p.early { // there may be more of them than are remembered
		if s, ok := got.States[op.seq.id]; ok {
			l.learnState(h, s)
		}
	}
	l.unearly(p, anyProducer)
}

// mayAnswer reports whether a question that failed may have an answer later.
func mayAnswer(err error) bool {
	if code, ok := errors.AsType[*kerr.Error](err); ok {
		return code.Retriable
	}
	return federation.KindOf(err).Retriable()
}

// producersOf returns the producers that a partition knows, once all that it has of
// them is replicated: what is not can be gone with its leader, and a batch that
// follows it would open the partition.
func producersOf(ctx context.Context, cluster *upstream.Cluster, at upstream.Partition) upstream.PartitionProducers {
	ask := func() upstream.PartitionEnds { return cluster.Ends(ctx, []upstream.Partition{at})[0] }
	before := ask()
	if before.Err != nil {
		return upstream.PartitionProducers{Err: before.Err}
	}
	got := cluster.Producers(ctx, []upstream.Partition{at})[0]
	if got.Err != nil || len(got.States) == 0 {
		return got
	}
	ends := ask()
	for now := ends; ; now = ask() {
		switch {
		case now.Err != nil:
			got.Err = now.Err
			return got
		case now.Epoch != before.Epoch:
			got.Err = federation.Errorf(federation.NoLeader, "the physical partition has another leader than a moment ago")
			return got
		case now.HighWatermark >= ends.LogEnd:
			return got
		}
		sleep(ctx, replicatedPoll)
	}
}

// replicatedPoll is the pause between two looks at a high watermark.
const replicatedPoll = 5 * time.Millisecond

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// anyProducer is no producer's id.
const anyProducer = -1

// unearly puts early ops of a producer, or all, back into the queue, in their order:
// they are looked at again. What had been sent before goes first.
func (l *lane) unearly(p *partQueue, id int64) {
	if len(p.early) == 0 {
		return
	}
	var back []*appendOp
	kept := p.early[:0]
	for _, op := range p.early {
		if id == anyProducer || op.seq.id == id {
			back = append(back, op)
		} else {
			kept = append(kept, op)
		}
	}
	clear(p.early[len(kept):])
	p.early = kept
	sent := slices.IndexFunc(p.queue, func(op *appendOp) bool { return op.attempts == 0 })
	if sent < 0 {
		sent = len(p.queue)
	}
	p.queue = slices.Concat(p.queue[:sent], back, p.queue[sent:])
}

// expireEarly refuses early ops that have waited long enough since the head was asked.
func (l *lane) expireEarly(p *partQueue, now time.Time) {
	kept := p.early[:0]
	for _, op := range p.early {
		until := op.waits.early
		missing := !now.Before(until) && !p.head.askedAt.Before(until.Add(-l.r.cfg.EarlyWait))
		// A head that does not answer the question may be on a cluster that is away.
		silent := op.tired(until, now)
		if !missing && now.Before(op.deadline) && !p.isAway(op, now) && !silent {
			kept = append(kept, op)
			continue
		}
		if silent && p.away.IsZero() {
			p.away, p.awayAt = until, now
		}
		if missing {
			l.r.refused.note(refusedKey{p.head.topic, p.head.partition, p.head.extent, op.seq.id}, op.seq, now)
		}
		l.giveUp(p, op, now)
	}
	clear(p.early[len(kept):])
	p.early = kept
}

// earlyRefusals hold, for each producer at a head, the first batch that was refused as early:
// when it comes again, and none before it, the producer has nothing else. They are of all
// lanes, as it may come again by another one.
type earlyRefusals struct {
	mu sync.Mutex // guards the following
	of map[refusedKey]earlyRefusal
}

type earlyRefusal struct {
	opSequence
	at time.Time
}

type refusedKey struct {
	topic     federation.TopicID
	partition federation.LogicalPartition
	extent    int32
	id        int64
}

// refusalsMax bounds them; when there are more, producers are refused once more.
const refusalsMax = 10_000

func (r *earlyRefusals) note(k refusedKey, s opSequence, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil || len(r.of) >= refusalsMax {
		r.of = make(map[refusedKey]earlyRefusal)
	}
	if o, ok := r.of[k]; !ok || o.epoch < s.epoch || o.epoch == s.epoch && o.base != s.base && notAfter(s.base, o.base) {
		r.of[k] = earlyRefusal{s, now}
	}
}

// was reports whether a batch was refused. If it waits since a time, that must have been
// before: what was refused later came by another connection, which broke perhaps.
func (r *earlyRefusals) was(k refusedKey, s opSequence, since time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	o, ok := r.of[k]
	return ok && o.opSequence == s && (since.IsZero() || !o.at.After(since))
}

func (r *earlyRefusals) forget(k refusedKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.of, k)
}

// An opening holds the producers that were carried over to a head.
type opening struct {
	producers map[int64]mark.Producer
}

var noOpening = &opening{}

func (o *opening) carried(id int64) (mark.Producer, bool) {
	if o == nil || o == noOpening {
		return mark.Producer{}, false
	}
	p, ok := o.producers[id]
	return p, ok
}

// loadOpening reads the opening marks of p's head.
func (l *lane) loadOpening(p *partQueue) {
	h, e, tp := p.head, p.extent, p.tp
	done, o, err := make(chan struct{}), (*opening)(nil), error(nil)
	l.r.tasks.Go(func() {
		defer close(done)
		o, err = l.r.openings.load(l.r.ctx, openingKey{h.topic, tp.Partition}, e, l.r.readOpening)
	})
	l.waitFor(p, done, func() {
		if err != nil {
			l.r.cfg.Logger.Warn("what was carried over to a head could not be read; it is tried again", "partition", tp, "cluster", e.Cluster, "err", err)
			l.pause(p, federation.Errorf(federation.ClusterUnavailable, "the cluster that holds %s does not answer; try again", tp).WithCause(err))
			return
		}
		h.opening = o
		l.resume(p)
	})
}

// readOpening reads the marks between Opening and Start. Marks that retention has
// taken are older than any batch that may be repeated.
func (r *Router) readOpening(ctx context.Context, e *federation.Extent) (*opening, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.QueryTimeout)
	defer cancel()
	cluster, err := r.cluster(e)
	if err != nil {
		return nil, err
	}
	o := &opening{producers: make(map[int64]mark.Producer)}
	// Of several extents: the one before, and those of a cluster that came back.
	carried := mark.Collector{Each: func(p mark.Producer) {
		if have, ok := o.producers[p.ID]; !ok || have.Before(&p) {
			o.producers[p.ID] = p
		}
	}}
	at := upstream.Partition{Topic: e.PhysicalAddress.Topic, Partition: e.PhysicalAddress.Partition}
	err = cluster.ReadBatches(ctx, at, e.Opening, e.Start, carried.Visit)
	if err == nil {
		err = carried.Err
	}
	return o, err
}

// openings shares what was read over the lanes: each head is read once, and the one
// after it takes its place.
type openings struct {
	mu     sync.Mutex // guards the following
	loaded map[openingKey]*loadedOpening
}

type openingKey struct {
	topic     federation.TopicID
	partition federation.LogicalPartition
}

type loadedOpening struct {
	head    federation.PhysicalAddress
	done    chan struct{} // closed when the following are set
	opening *opening
	err     error
}

// openingsMax bounds the openings that are shared; lanes keep those they use.
const openingsMax = 10_000

func (o *openings) load(ctx context.Context, key openingKey, e *federation.Extent, read func(context.Context, *federation.Extent) (*opening, error)) (*opening, error) {
	o.mu.Lock()
	l := o.loaded[key]
	mine := l == nil || l.head != e.PhysicalAddress
	if mine {
		if o.loaded == nil || len(o.loaded) >= openingsMax {
			o.loaded = make(map[openingKey]*loadedOpening)
		}
		l = &loadedOpening{head: e.PhysicalAddress, done: make(chan struct{})}
		o.loaded[key] = l
	}
	o.mu.Unlock()
	if !mine {
		<-l.done // whoever reads is bounded
		return l.opening, l.err
	}
	l.opening, l.err = read(ctx, e)
	if l.err != nil {
		o.mu.Lock()
		if o.loaded[key] == l {
			delete(o.loaded, key)
		}
		o.mu.Unlock()
	}
	close(l.done)
	return l.opening, l.err
}

// A repeat is an op that the log has from before its head was opened.
type repeat struct {
	op   *appendOp
	part *federation.Partition
}

// findsMax bounds the repeats that a lane looks for at a time.
const findsMax = 8

// answerRepeat answers an op that the log has: with its offset if it is among the
// last batches of the extents before the head, else without; so also if it is in one
// whose cluster is lost.
func (l *lane) answerRepeat(op *appendOp, lost bool) {
	l.r.count.repeats.Add(1)
	part, err := l.r.deps.Maps.Current().Partition(op.tp)
	if err != nil || lost {
		op.resolve(repeatedAppend(-1))
		return
	}
	l.repeated = append(l.repeated, repeat{op: op, part: part})
	l.findRepeats()
}

func repeatedAppend(at federation.LogicalOffset) Appended {
	return Appended{BaseOffset: at, LogAppendTimeMs: -1, LogStart: -1, Duplicate: true}
}

func (l *lane) findRepeats() {
	for len(l.repeated) > 0 && l.finding < findsMax && !l.stopping {
		r := l.repeated[0]
		l.repeated = l.repeated[1:]
		l.finding++
		l.r.tasks.Go(func() {
			at := l.r.findBatch(r)
			l.post(func() {
				l.finding--
				r.op.resolve(repeatedAppend(at))
				l.findRepeats()
			})
		})
	}
}

// expireRepeats answers those whose time is up before their turn has come.
func (l *lane) expireRepeats(now time.Time) {
	l.repeated = slices.DeleteFunc(l.repeated, func(r repeat) bool {
		late := !now.Before(r.op.deadline)
		if late {
			r.op.resolve(repeatedAppend(-1))
		}
		return late
	})
}

// How far back a repeated batch is looked for: what a producer repeats is among
// its last batches.
const (
	findExtents = 2
	findBytes   = 32 << 20
)

// findBatch returns the logical offset of a batch at the end of the sealed
// extents; -1 if it is not found there.
func (r *Router) findBatch(of repeat) federation.LogicalOffset {
	ctx, cancel := context.WithTimeout(r.ctx, min(r.cfg.EarlyWait, time.Until(of.op.deadline)))
	defer cancel()
	looked := 0
	for _, e := range slices.Backward(of.part.Extents) {
		if !e.Sealed() || failed(r.deps.Maps.Current(), e.Cluster) {
			continue
		}
		// What comes again only when a failed cluster is back may have moved far behind.
		if looked++; looked > findExtents && !e.FailedOnce() {
			continue
		}
		if at := r.findBatchIn(ctx, e, of.op.seq); at >= 0 {
			return at
		}
	}
	return -1
}

func (r *Router) findBatchIn(ctx context.Context, e *federation.Extent, s opSequence) federation.LogicalOffset {
	cluster, err := r.cluster(e)
	if err != nil {
		return -1
	}
	found := federation.LogicalOffset(-1)
	bytes := 0
	at := upstream.Partition{Topic: e.PhysicalAddress.Topic, Partition: e.PhysicalAddress.Partition}
	end := e.End
	for _, back := range []federation.PhysicalOffset{100, 1000, 10_000} {
		from := max(e.Start, e.End-back)
		err := cluster.ReadBatches(ctx, at, from, end, func(h recordbatch.Header, batch []byte) bool {
			bytes += len(batch)
			if h.ProducerID == s.id && h.ProducerEpoch == s.epoch && h.BaseSequence == s.base && !e.Hides(federation.PhysicalOffset(h.BaseOffset)) {
				found = e.Logical(federation.PhysicalOffset(h.BaseOffset))
				return false
			}
			return bytes < findBytes
		})
		if found >= 0 || err != nil || from == e.Start || bytes >= findBytes {
			return found
		}
		end = from
	}
	return found
}
