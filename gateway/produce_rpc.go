package gateway

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/quota"
)

type produceConn = connect.BidiStream[braidv1.ProduceRequest, braidv1.ProduceResponse]

// producerService serves braid.v1.ProducerService.
type producerService struct{ g *Gateway }

// Produce serves one stream. The handler's goroutine sends, one receives, one
// submits to the router; produceSession, behind a lock, decides for all three.
// It receives whatever the router does, as long as the client keeps to its
// credit; one that does not is read no further until the credit covers it.
func (s *producerService) Produce(ctx context.Context, conn *produceConn) error {
	return s.g.fail(ctx, "Produce", s.g.produce(ctx, conn))
}

// A produceStream is a Produce call.
type produceStream struct {
	g       *Gateway
	session router.Session
	acks    router.Acks
	timeout time.Duration
	split   splitter
	may     *accessCheck // used by the receiver

	clientID string
	limits   *quota.Client // used by the receiver

	first chan firstFrame[braidv1.ProduceRequest] // the receiver's first message
	begin chan struct{}                           // closed when the stream is opened
	wake  chan struct{}                           // capacity 1: there is something to send
	work  chan struct{}                           // capacity 1: there is something to submit
	room  chan struct{}                           // capacity 1: credit came free

	version federation.MapVersion // the map that clients were told of; used by the sender

	mu        sync.Mutex // guards the following
	throttled time.Time  // the stream is not read until then
	told      time.Time  // the throttled that the client was told of
	s         *produceSession
	held      int64   // taken from the gateway's budget
	gone      bool    // the call has returned
	pings     []int64 // nonces to answer
	ended     bool    // no more frames are taken
	err       error   // ends the stream
}

// firstFrame is the message that opens a stream.
type firstFrame[T any] struct {
	msg *T
	err error
}

// pingsMax bounds the pings that wait for an answer; further ones are dropped.
const pingsMax = 16

func (g *Gateway) produce(ctx context.Context, conn *produceConn) error {
	if err := g.enter(); err != nil {
		return err
	}
	defer g.leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st := &produceStream{
		g: g, may: g.newAccessCheck(ctx, "Produce"), first: make(chan firstFrame[braidv1.ProduceRequest], 1), begin: make(chan struct{}),
		wake: make(chan struct{}, 1), work: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	// The receiver ends when the handler has returned: only that ends its Receive.
	g.tasks.Go(func() { st.receive(ctx, conn) })
	open, err := st.awaitOpen(ctx)
	if err != nil {
		return err
	}
	st.session = g.deps.NewSession()
	defer st.session.Close()
	opened, err := st.open(ctx, open)
	if err != nil {
		return err
	}
	if err := conn.Send(&braidv1.ProduceResponse{Frame: &braidv1.ProduceResponse_Opened{Opened: opened}}); err != nil {
		return err
	}
	defer g.forgetProducer(st)
	defer st.leave()
	var submitter sync.WaitGroup
	defer submitter.Wait()
	defer cancel()
	submitter.Go(func() { st.submit(ctx) })
	close(st.begin)
	return st.send(ctx, conn)
}

// awaitOpen waits for the first message.
func (st *produceStream) awaitOpen(ctx context.Context) (*braidv1.ProduceOpen, error) {
	timer := time.NewTimer(st.g.cfg.OpenTimeout)
	defer timer.Stop()
	select {
	case f := <-st.first:
		if errors.Is(f.err, io.EOF) {
			return nil, invalid("frame: the stream ended before its first message, open")
		}
		if f.err != nil {
			return nil, f.err
		}
		if f.msg.GetOpen() == nil {
			return nil, invalid("frame: the first message of a produce stream must be open")
		}
		return f.msg.GetOpen(), nil
	case <-timer.C:
		return nil, invalid("frame: no open came within %v", st.g.cfg.OpenTimeout)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// open makes the session that a client asked for.
func (st *produceStream) open(ctx context.Context, open *braidv1.ProduceOpen) (*braidv1.ProduceOpened, error) {
	g := st.g
	if err := g.cluster(open.GetLogicalCluster()); err != nil {
		return nil, err
	}
	acks, err := routerAcks(open.GetAcks())
	if err != nil {
		return nil, err
	}
	st.acks = acks
	if st.clientID, err = checkClientID("open.client_id", open.GetClientId()); err != nil {
		return nil, err
	}
	if st.timeout, err = g.deliveryTimeout(open.GetDeliveryTimeoutMs()); err != nil {
		return nil, err
	}
	silent := st.acks == router.AcksNone
	idempotent := !open.GetNonIdempotent() && !silent
	opened := &braidv1.ProduceOpened{
		MaxBatchBytes: int32(g.cfg.FrameBytesMax), MaxRecordBytes: int32(g.cfg.RecordBytesMax),
		HeartbeatIntervalMs: g.cfg.HeartbeatInterval.Milliseconds(),
	}
	producer, salt := producerID{-1, -1}, rand.Int64()
	if idempotent {
		if err := g.mayInitProducer(ctx, "Produce"); err != nil {
			return nil, err
		}
		identity, err := g.initProducer(ctx, st.session, open.GetProducer())
		if err != nil {
			return nil, err
		}
		opened.Producer = identity
		producer, salt = producerID{identity.GetProducerId(), int16(identity.GetProducerEpoch())}, identity.GetProducerId()
		g.rememberProducer(producer.id, open.GetProducer(), st)
	} else if open.GetProducer() != nil {
		return nil, invalid("open.producer: an identity makes no sense on a stream that is non_idempotent or has ACKS_NONE")
	}
	st.split = splitter{cfg: &g.cfg, atomic: idempotent, salt: salt}
	st.s = newProduceSession(&g.cfg, idempotent, silent, producer)
	st.s.mergeBytes = g.cfg.ProduceMergeBytes
	opened.Credit = st.s.takeCredit()
	return opened, nil
}

func routerAcks(a braidv1.Acks) (router.Acks, error) {
	switch a {
	case braidv1.Acks_ACKS_UNSPECIFIED, braidv1.Acks_ACKS_ALL:
		return router.AcksAll, nil
	case braidv1.Acks_ACKS_LEADER:
		return router.AcksLeader, nil
	case braidv1.Acks_ACKS_NONE:
		return router.AcksNone, nil
	default:
		return 0, invalid("acks: %d is not known", a)
	}
}

func (g *Gateway) deliveryTimeout(ms int64) (time.Duration, error) {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case ms == 0:
		return g.cfg.DeliveryTimeoutDefault, nil
	case ms < 0 || ms > g.cfg.DeliveryTimeoutMax.Milliseconds():
		return 0, invalid("delivery_timeout_ms: is %d, want 1 to %d, or 0 for %d", ms, g.cfg.DeliveryTimeoutMax.Milliseconds(), g.cfg.DeliveryTimeoutDefault.Milliseconds())
	}
	return d, nil
}

// signal puts a token into a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// receive reads the client's messages until the stream or its input ends.
func (st *produceStream) receive(ctx context.Context, conn *produceConn) {
	msg, err := conn.Receive()
	st.first <- firstFrame[braidv1.ProduceRequest]{msg, err}
	if err != nil {
		return
	}
	select {
	case <-st.begin:
	case <-ctx.Done():
		return
	}
	next := st.receiver(conn)
	for {
		if err := next(); err != nil {
			st.end(err)
			return
		}
		if !st.pace(ctx) || !st.awaitRoom(ctx) {
			return
		}
	}
}

// receiver returns what receives a message and takes it.
func (st *produceStream) receiver(conn *produceConn) func() error {
	if strings.Contains(conn.RequestHeader().Get("Content-Type"), "json") {
		return func() error {
			msg, err := conn.Receive()
			if err != nil {
				return err
			}
			return st.message(msg)
		}
	}
	raw, in := conn.Conn(), &produceInput{take: st.message}
	return func() error {
		in.taken = false
		if err := raw.Receive(in); err != nil {
			return err
		}
		if !in.taken { // Connect decodes no message without a byte
			return st.message(&braidv1.ProduceRequest{})
		}
		return in.err
	}
}

// end ends the stream's input: by the client's half-close, or with an error.
func (st *produceStream) end(err error) {
	st.mu.Lock()
	st.ended = true
	if !errors.Is(err, io.EOF) && st.err == nil {
		st.err = err
	}
	st.mu.Unlock()
	signal(st.wake)
}

// awaitRoom waits while the client has sent more than its credit, and while there is no
// memory for more.
func (st *produceStream) awaitRoom(ctx context.Context) bool {
	for {
		st.mu.Lock()
		over := st.s.overdrawn() && !st.ended
		st.mu.Unlock()
		if !over {
			// The size of the next frame is known when it is there: one that has the largest
			// size shall fit.
			return st.g.deps.Requests.Await(ctx, int64(st.g.cfg.FrameBytesMax)) == nil
		}
		select {
		case <-st.room:
		case <-ctx.Done():
			return false
		}
	}
}

func (st *produceStream) message(msg *braidv1.ProduceRequest) error {
	switch frame := msg.GetFrame().(type) {
	case *braidv1.ProduceRequest_Batch:
		return st.batch(frame.Batch)
	case *braidv1.ProduceRequest_Ping:
		st.mu.Lock()
		if len(st.pings) < pingsMax {
			st.pings = append(st.pings, frame.Ping.GetNonce())
		}
		st.mu.Unlock()
		signal(st.wake)
		return nil
	case *braidv1.ProduceRequest_Open:
		return invalid("frame: the stream is open already")
	default:
		return invalid("frame: a message without one of open, batch and ping")
	}
}

// batch takes a frame. Splitting it happens outside the lock: nobody else uses the
// splitter, and what it needs of the topic is taken before.
func (st *produceStream) batch(in *braidv1.ProduceFrame) error {
	now := time.Now()
	denied := st.may.topic(acl.Write, federation.TopicName(in.GetTopic()))
	st.mu.Lock()
	if st.ended {
		st.mu.Unlock()
		return nil // draining: what comes now is the next gateway's
	}
	f, err := st.s.admit(in, now.Add(st.timeout))
	if err != nil {
		st.mu.Unlock()
		return err
	}
	// Read here, so that nobody brings topics up to an older map than they are at.
	ts := st.s.topic(&st.g.cfg, st.g.deps.Maps.Current(), f.topic, now)
	var count int32
	var fail *braidv1.Failure
	if denied != nil {
		fail = failure(denied)
	} else if ts == nil {
		fail = failure(federation.Errorf(federation.UnknownTopic, "topic %q does not exist", f.topic))
	} else {
		count, fail = ts.splitCount(in.GetPartitionCount(), now)
		st.split.topic, st.split.now = ts.limits, now
	}
	st.mu.Unlock()
	if fail == nil {
		fail = st.splitFrame(f, in, count)
	}
	st.mu.Lock()
	if fail != nil {
		partition := int32(-1)
		if in.Partition != nil {
			partition = in.GetPartition()
		}
		st.s.reject(f, ts, partition, fail)
	} else {
		st.s.take(f, ts)
	}
	st.accountLocked()
	st.mu.Unlock()
	st.takeFrame(st.may.ctx, f.bytes)
	signal(st.work)
	signal(st.wake)
	return nil
}

func (st *produceStream) splitFrame(f *frame, in *braidv1.ProduceFrame, count int32) *braidv1.Failure {
	if err := st.split.check(in); err != nil {
		return failure(err)
	}
	st.split.split(f, in, count)
	return nil
}

// submit hands batches to the router, in order, and fetches new epochs.
func (st *produceStream) submit(ctx context.Context) {
	for {
		select {
		case <-st.work:
		case <-ctx.Done():
			return
		}
		st.mu.Lock()
		ready, bumps := st.s.takeReady()
		st.mu.Unlock()
		for _, p := range ready {
			st.append(ctx, p)
		}
		for _, ps := range bumps {
			st.bump(ctx, ps)
		}
	}
}

func (st *produceStream) append(ctx context.Context, p *part) {
	timeout := time.Until(p.frame.deadline)
	if timeout <= 0 {
		err := federation.Errorf(federation.ClusterUnavailable, "partition %d: the batch waited for earlier ones until its delivery timeout; it was not sent", p.partition)
		st.complete(p, &outcome{err: err, refused: true})
		return
	}
	err := st.session.Produce(ctx, st.acks, timeout, p.submission(), func(done []router.Appended) { st.complete(p, p.answered(&done[0])) })
	if err != nil {
		st.complete(p, &outcome{err: err, refused: true})
	}
}

// submission is the part as the router takes it.
func (p *part) submission() []router.Append {
	p.append[0] = router.Append{TopicPartition: federation.TopicPartition{Topic: p.frame.topic, Partition: p.partition}, Batch: p.batch()}
	return p.append[:]
}

// answered reads the router's answer.
func (p *part) answered(a *router.Appended) *outcome {
	o := &p.answer // again, if the part was sent again
	o.err, o.records = a.Err, o.records[:0]
	if a.Err != nil && federation.KindOf(a.Err) == federation.DuplicateSequence {
		o.err, a.Duplicate = nil, true
	}
	o.result.BaseOffset, o.result.LogAppendTimeMs, o.result.Deduplicated = int64(a.BaseOffset), a.LogAppendTimeMs, a.Duplicate
	for _, r := range a.RecordErrors {
		o.records = append(o.records, rejectedRecord{r.Index, federation.Errorf(federation.InvalidRecord, "%s", r.Message)})
	}
	return o
}

// complete brings the outcome of a part; it never blocks for long.
func (st *produceStream) complete(p *part, o *outcome) {
	st.g.logInternal("append failed", federation.TopicPartition{Topic: p.frame.topic, Partition: p.partition}, o.err)
	o.early = !o.refused && time.Now().Before(p.frame.deadline)
	st.mu.Lock()
	st.s.complete(p, o)
	st.accountLocked()
	st.mu.Unlock()
	signal(st.work)
	signal(st.wake)
	signal(st.room)
}

func (st *produceStream) bump(ctx context.Context, ps *partitionState) {
	st.mu.Lock()
	p := st.s.latest
	if ps.producer != p {
		// Another partition got a new epoch since: it serves here too.
		st.s.bumped(ps, p, nil)
		st.mu.Unlock()
		signal(st.work)
		return
	}
	st.mu.Unlock()
	id, epoch, err := st.session.InitProducer(ctx, p.id, p.epoch)
	st.mu.Lock()
	st.s.bumped(ps, producerID{id, epoch}, err)
	st.accountLocked()
	st.mu.Unlock()
	signal(st.work)
	signal(st.wake)
}

// send sends what there is to send until the stream ends.
func (st *produceStream) send(ctx context.Context, conn *produceConn) error {
	beat := time.NewTimer(st.g.cfg.HeartbeatInterval)
	defer beat.Stop()
	age, stop := st.g.ageLimit()
	defer stop()
	patrol := time.NewTimer(st.g.cfg.ProduceParkAfter / 4)
	defer patrol.Stop()
	patrolling := true
	draining, grace := st.g.draining, (<-chan time.Time)(nil)
	for {
		changed := st.g.deps.Maps.Changed()
		out, done, err := st.collect()
		for _, m := range out {
			if err := conn.Send(m); err != nil {
				return err
			}
		}
		if err != nil || done {
			return err
		}
		if len(out) > 0 {
			beat.Reset(st.g.cfg.HeartbeatInterval)
		}
		if !patrolling && st.waiting() {
			patrol.Reset(st.g.cfg.ProduceParkAfter / 4)
			patrolling = true
		}
		cause := ""
		flushStream(ctx)
		select {
		case <-st.wake:
		case <-changed:
		case <-patrol.C: // the time that it gives can be long past
			patrolling = false
			st.patrol(time.Now())
		case now := <-beat.C:
			beat.Reset(st.g.cfg.HeartbeatInterval)
			err = conn.Send(heartbeat(now, 0))
		case <-draining:
			cause = "shutdown"
		case <-age:
			cause = "max_age"
		case <-grace:
			st.end(io.EOF)
		case <-ctx.Done():
			return ctx.Err()
		}
		if cause != "" && grace == nil {
			grace = time.After(st.g.cfg.DrainGrace)
			err = conn.Send(&braidv1.ProduceResponse{Frame: &braidv1.ProduceResponse_Draining{Draining: st.g.drainingFrame(cause)}})
		}
		if cause != "" {
			draining, age = nil, nil
		}
		if err != nil {
			return err
		}
	}
}

// accountLocked takes what the stream holds from the gateway's budget, or gives back.
func (st *produceStream) accountLocked() {
	now := st.s.received - st.s.freed
	if st.gone {
		now = 0
	}
	switch d := now - st.held; {
	case d > 0:
		st.g.deps.Requests.Charge(d)
	case d < 0:
		st.g.deps.Requests.Uncharge(-d)
	}
	st.held = now
}

// leave gives back what the stream holds. What the router has of it is within the
// router's own bound.
func (st *produceStream) leave() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.gone = true
	st.accountLocked()
}

// waiting reports whether something is undecided.
func (st *produceStream) waiting() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return !st.s.idle()
}

func (st *produceStream) patrol(now time.Time) {
	st.mu.Lock()
	st.s.patrol(now)
	st.accountLocked()
	st.mu.Unlock()
	signal(st.work)
	signal(st.room)
}

func heartbeat(now time.Time, nonce int64) *braidv1.ProduceResponse {
	return &braidv1.ProduceResponse{Frame: &braidv1.ProduceResponse_Heartbeat{Heartbeat: &braidv1.Heartbeat{NowMs: now.UnixMilli(), Nonce: nonce}}}
}

func (g *Gateway) drainingFrame(cause string) *braidv1.Draining {
	return &braidv1.Draining{GraceMs: g.cfg.DrainGrace.Milliseconds(), Cause: cause}
}

// collect returns what there is to send; done is set with the last of it.
func (st *produceStream) collect() (out []*braidv1.ProduceResponse, done bool, err error) {
	now := time.Now()
	st.mu.Lock()
	defer st.mu.Unlock()
	m := st.g.deps.Maps.Current()
	if m.Version != st.version {
		st.version = m.Version
		for _, ts := range st.s.refresh(&st.g.cfg, m, now) {
			out = append(out, &braidv1.ProduceResponse{Frame: &braidv1.ProduceResponse_TopicUpdate{
				TopicUpdate: &braidv1.TopicUpdate{Topic: string(ts.name), PartitionCount: ts.count},
			}})
		}
	}
	for _, nonce := range st.pings {
		out = append(out, heartbeat(now, nonce))
	}
	st.pings = nil
	if acks := st.s.takeAcks(); acks != nil {
		out = append(out, &braidv1.ProduceResponse{Frame: &braidv1.ProduceResponse_Acks{Acks: acks}})
	}
	switch {
	case st.err != nil:
		return out, true, st.err
	case st.s.fatal != nil:
		return out, true, st.s.fatal
	case st.ended && st.s.idle():
		closed := &braidv1.ProduceClosed{StableBatchSeq: st.s.stable}
		return append(out, &braidv1.ProduceResponse{Frame: &braidv1.ProduceResponse_Closed{Closed: closed}}), true, nil
	}
	if now.Before(st.throttled) {
		return st.tellThrottleLocked(out, now), false, nil
	}
	if credit := st.s.takeCredit(); credit != nil && !st.ended {
		out = append(out, &braidv1.ProduceResponse{Frame: &braidv1.ProduceResponse_Credit{Credit: credit}})
	}
	return out, false, nil
}
