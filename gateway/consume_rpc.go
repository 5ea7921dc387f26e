package gateway

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/gateway/router"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/quota"
	"github.com/braidmq/braid/internal/security"
)

type consumeConn = connect.BidiStream[braidv1.ConsumeRequest, braidv1.ConsumeResponse]

// Consume serves a group member on one stream. The handler's goroutine sends, one
// receives, and one owns the state and decides; reading, commits and lookups run
// beside it, one of each kind at a time, and report back.
func (s *consumerService) Consume(ctx context.Context, conn *consumeConn) error {
	return s.g.fail(ctx, "Consume", s.g.consume(ctx, conn))
}

// A consumeStream is a Consume call.
type consumeStream struct {
	g         *Gateway
	request   groups.SubscribeRequest
	may       *accessCheck // owned by run
	clientID  string
	limits    *quota.Client    // owned by run
	paced     <-chan time.Time // when more may be delivered; nil if now
	fallback  *braidv1.Position
	delivery  *delivery
	session   router.Session
	in        chan consumeInput
	out       *sendQueue[braidv1.ConsumeResponse]
	jobs      sync.WaitGroup // what runs beside the owner
	lastAlive time.Time

	// Owned by run.
	s          *consumeSession
	member     groups.Membership  // nil while it is carried over to another coordinator
	detach     context.CancelFunc // ends the membership without leaving
	events     <-chan groups.AssignmentEvent
	subscribed bool // the client was told
	fetcher    fetcher
	fetching   bool
	cancel     context.CancelFunc // of the fetch
	storing    bool               // a commit or a release is under way
	lookups    []*readPosition    // whose start is to be looked up
	looking    bool
	lookAt     time.Time
	lastSent   time.Time
	lastTaken  time.Time // when something was delivered, or fetched, last
	ending     string    // why records stopped: a cause of Draining, or stopCause
	endAt      <-chan time.Time
	left       bool // the client said Leave

	fetched chan fetchDone
	stored  chan storeDone
	looked  chan lookDone
}

type consumeInput struct {
	msg *braidv1.ConsumeRequest
	err error
}

type (
	fetchDone struct {
		fetched *router.Fetched
		err     error
	}
	storeDone struct {
		result *braidv1.CommitResult
	}
	lookDone struct {
		positions   []*readPosition
		start, stop []resolved
	}
)

// stopCause is the cause of a Draining that says that the stop was reached: the
// client commits what it has and closes.
const stopCause = "stop"

func (g *Gateway) consume(ctx context.Context, conn *consumeConn) error {
	if err := g.enter(); err != nil {
		return err
	}
	defer g.leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st := &consumeStream{
		g: g, may: g.newAccessCheck(ctx, "Consume"), in: make(chan consumeInput), out: newSendQueue[braidv1.ConsumeResponse](g.cfg.SendQueueBytesMax),
		fetched: make(chan fetchDone, 1), stored: make(chan storeDone, 1), looked: make(chan lookDone, 1),
		cancel: func() {}, detach: func() {},
	}
	st.out.answers = g.deps.Answers
	// The receiver ends when the handler has returned: only that ends its Receive.
	g.tasks.Go(func() { receiveConsume(ctx, conn, st.in) })
	if err := st.open(ctx, conn.Peer().Addr); err != nil {
		return err
	}
	ended := make(chan error, 1)
	st.g.tasks.Go(func() {
		jobs, stopJobs := context.WithCancel(ctx)
		err := st.run(jobs)
		stopJobs()
		st.close(ctx)
		if err == nil {
			st.out.add(&braidv1.ConsumeResponse{Frame: &braidv1.ConsumeResponse_Closed{Closed: st.closed()}}, 0)
		}
		st.out.close()
		ended <- err
	})
	err := st.out.drain(ctx, conn.Send)
	cancel()
	if runErr := <-ended; runErr != nil && (err == nil || !isContextError(runErr)) {
		err = runErr
	}
	return err
}

func receiveConsume(ctx context.Context, conn *consumeConn, in chan<- consumeInput) {
	for {
		msg, err := conn.Receive()
		select {
		case in <- consumeInput{msg, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// open waits for Subscribe, checks it, and joins the group.
func (st *consumeStream) open(ctx context.Context, peer string) error {
	timer := time.NewTimer(st.g.cfg.OpenTimeout)
	defer timer.Stop()
	var first consumeInput
	select {
	case first = <-st.in:
	case <-timer.C:
		return invalid("frame: no subscribe came within %v", st.g.cfg.OpenTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
	if errors.Is(first.err, io.EOF) {
		return invalid("frame: the stream ended before its first message, subscribe")
	}
	if first.err != nil {
		return first.err
	}
	sub := first.msg.GetSubscribe()
	if sub == nil {
		return invalid("frame: the first message of a consume stream must be subscribe")
	}
	rule, err := st.check(sub, peer)
	if err != nil {
		return err
	}
	st.s = newConsumeSession(&st.g.cfg, rule, sub.GetCredit())
	st.lastSent, st.lastAlive = time.Now(), time.Now()
	if err := st.subscribe(ctx); err != nil {
		return err
	}
	st.session = st.g.deps.NewSession()
	st.fetcher = fetcher{cfg: &st.g.cfg, session: st.session, delivery: st.delivery, reader: st.g.reader()}
	return nil
}

// subscribe makes the membership. Its context is not the call's: the stream says
// itself how it ends, by leaving or by detach.
func (st *consumeStream) subscribe(ctx context.Context) error {
	memberCtx, detach := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, detach)
	late := time.AfterFunc(st.g.cfg.UnaryTimeout, detach)
	member, err := st.g.deps.Groups.Subscribe(memberCtx, st.request)
	if !late.Stop() || !stop() || err != nil {
		detach()
		if err == nil || isContextError(err) {
			err = federation.Errorf(federation.CoordinatorLoading, "group %q did not answer within %v; try again", st.request.Group, st.g.cfg.UnaryTimeout)
		}
		return err
	}
	st.member, st.events, st.detach = member, member.Events(), detach
	return nil
}

// check validates Subscribe and fills the stream's request.
func (st *consumeStream) check(sub *braidv1.Subscribe, peer string) (stopRule, error) {
	cfg := &st.g.cfg
	if err := st.g.cluster(sub.GetLogicalCluster()); err != nil {
		return stopRule{}, err
	}
	if st.g.deps.Groups == nil {
		return stopRule{}, federation.Errorf(federation.Unsupported, "this gateway serves no groups")
	}
	if m := sub.GetMode(); m != braidv1.GroupMode_GROUP_MODE_UNSPECIFIED && m != braidv1.GroupMode_GROUP_MODE_LOG {
		return stopRule{}, federation.Errorf(federation.Unsupported, "subscribe.mode: %v is not served; want LOG", m)
	}
	if sub.GetGroup() == "" {
		return stopRule{}, invalid("subscribe.group: is empty")
	}
	if len(sub.GetTopics()) == 0 && sub.GetTopicRegex() == "" {
		return stopRule{}, invalid("subscribe: neither topics nor topic_regex is set")
	}
	if err := checkPosition("subscribe.fallback", sub.GetFallback()); err != nil {
		return stopRule{}, err
	}
	if err := st.may.subscribed(sub); err != nil {
		return stopRule{}, err
	}
	m := st.g.deps.Maps.Current()
	id, err := checkClientID("subscribe.client_id", sub.GetClientId())
	if err != nil {
		return stopRule{}, err
	}
	r := groups.SubscribeRequest{Group: sub.GetGroup(), InstanceID: sub.GetInstanceId(), FormerID: sub.GetFormerMemberId(), ClientID: id, ClientHost: peer, Principal: security.PrincipalOf(st.may.ctx).String(), TopicRegex: sub.GetTopicRegex()}
	if st.clientID = r.ClientID; r.ClientID == "" {
		r.ClientID = "connect" // member ids begin with it
	}
	for _, name := range sub.GetTopics() {
		if m.Topic(federation.TopicName(name)) == nil {
			return stopRule{}, federation.Errorf(federation.UnknownTopic, "subscribe.topics: topic %q does not exist", federation.TopicName(name))
		}
		r.Topics = append(r.Topics, federation.TopicName(name))
	}
	if r.SessionTimeout, err = timeout("subscribe.session_timeout_ms", sub.GetSessionTimeoutMs(), cfg.SessionTimeoutDefault, cfg.SessionTimeoutMin, cfg.SessionTimeoutMax); err != nil {
		return stopRule{}, err
	}
	if r.RebalanceTimeout, err = timeout("subscribe.rebalance_timeout_ms", sub.GetRebalanceTimeoutMs(), cfg.RebalanceTimeoutDefault, time.Second, cfg.RebalanceTimeoutMax); err != nil {
		return stopRule{}, err
	}
	if st.delivery, err = newDelivery(cfg, sub.GetDelivery()); err != nil {
		return stopRule{}, err
	}
	st.request, st.fallback = r, sub.GetFallback()
	return newStopRule(sub.GetStop())
}

func timeout(field string, ms int64, def, least, most time.Duration) (time.Duration, error) {
	if ms == 0 {
		return def, nil
	}
	if ms < least.Milliseconds() || ms > most.Milliseconds() {
		return 0, invalid("%s: is %d, want %d to %d, or 0 for %d", field, ms, least.Milliseconds(), most.Milliseconds(), def.Milliseconds())
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// run owns the stream until it ends; nil is a clean end.
func (st *consumeStream) run(ctx context.Context) error {
	tick := time.NewTicker(min(st.g.cfg.HeartbeatInterval, time.Second))
	defer tick.Stop()
	age, stopAge := st.g.ageLimit()
	defer stopAge()
	draining := st.g.draining
	for {
		if err := st.authorized(); err != nil {
			return err
		}
		st.deliver()
		st.work(ctx)
		if st.finished() {
			return nil
		}
		in := st.in
		if st.s.halfDone || st.left || st.out.full() {
			in = nil // what the client wants waits until it takes what it got
		}
		var err error
		select {
		case i := <-in:
			err = st.input(i)
		case ev, ok := <-st.events:
			err = st.event(&ev, ok)
		case d := <-st.fetched:
			err = st.fetchDone(d)
		case d := <-st.stored:
			st.storeDone(d)
		case d := <-st.looked:
			st.lookDone(d)
		case <-st.out.room:
		case <-st.paced:
			st.paced = nil
		case now := <-tick.C:
			st.tick(now)
		case <-draining:
			draining = nil
			st.end("shutdown")
		case <-age:
			age = nil
			st.end("max_age")
		case <-st.endAt:
			st.left = true
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// finished reports whether the stream can be closed: nothing is wanted of it any
// more, and what was to be stored is.
func (st *consumeStream) finished() bool {
	if st.storing || st.s.commitID != st.s.answered || len(st.s.revoked) > 0 {
		return false
	}
	if st.left {
		return true
	}
	w := st.s.window()
	return st.s.halfDone && (st.ending != "" || !w.open() || st.s.reachedStop())
}

// end stops the records and tells the client why; it may commit and close.
func (st *consumeStream) end(cause string) {
	if st.ending != "" {
		return
	}
	st.ending = cause
	st.fetcher.drop()
	st.endAt = time.After(st.g.cfg.DrainGrace)
	st.send(&braidv1.ConsumeResponse{Frame: &braidv1.ConsumeResponse_Draining{Draining: st.g.drainingFrame(cause)}})
}

func (st *consumeStream) send(msg *braidv1.ConsumeResponse) {
	st.lastSent = time.Now()
	st.out.add(msg, 0)
}

// deliver passes on what was fetched, as far as credit and the queue reach.
func (st *consumeStream) deliver() {
	if st.fetching || st.ending != "" || !st.subscribed {
		return
	}
	for !st.out.full() {
		before := st.s.window()
		if !before.open() || st.owes() {
			break
		}
		after, over := within(before, st.limits)
		ev, ok := st.fetcher.next(&after)
		after.bytes += over
		st.limits.Take(st.may.ctx, quota.Consume, float64(before.bytes-after.bytes))
		if !ok {
			break
		}
		st.s.spent(before, after)
		st.lastTaken = time.Now()
		if ev.err != nil {
			st.partitionFailed(ev.position, ev.err)
			continue
		}
		st.lastSent = time.Now()
		msg := &braidv1.ConsumeResponse{Frame: &braidv1.ConsumeResponse_Records{Records: &ev.frame.message}}
		st.out.addFrame(msg, int(before.bytes-after.bytes), ev.frame)
	}
	if st.s.reachedStop() && !st.s.halfDone {
		st.end(stopCause)
	}
}

// partitionFailed tells the client of a partition that can't be read. A position
// that is out of range begins anew at the fallback.
func (st *consumeStream) partitionFailed(p *readPosition, err error) {
	st.g.logInternal("read failed", p.TopicPartition, err)
	outOfRange := federation.KindOf(err) == federation.OffsetOutOfRange
	if fail := p.note(&st.g.cfg, err, time.Now()); fail != nil {
		st.send(&braidv1.ConsumeResponse{Frame: &braidv1.ConsumeResponse_PartitionFailure{PartitionFailure: fail}})
	}
	if outOfRange {
		p.next, p.waiting, p.done = -1, true, false
		st.lookups = append(st.lookups, p)
	}
}

// tick keeps a quiet stream alive, and cheap.
func (st *consumeStream) tick(now time.Time) {
	if !st.fetching && st.fetcher.holds() && now.Sub(st.lastTaken) > st.g.cfg.HoldTimeout {
		st.fetcher.drop()
	}
	if st.s.halfDone {
		st.alive(now) // the client can't say so any more, but its stream is open
	}
	if st.subscribed && now.Sub(st.lastSent) >= st.g.cfg.HeartbeatInterval && !st.out.full() {
		st.send(&braidv1.ConsumeResponse{Frame: &braidv1.ConsumeResponse_Progress{Progress: progress(st.s.positions, now, 0)}})
	}
}

// aliveInterval spares the coordinator a word for each frame of the client.
const aliveInterval = time.Second

func (st *consumeStream) alive(now time.Time) {
	if now.Sub(st.lastAlive) >= aliveInterval {
		st.lastAlive = now
		st.member.Alive()
	}
}

// input takes a message of the client.
func (st *consumeStream) input(in consumeInput) error {
	if errors.Is(in.err, io.EOF) {
		st.s.halfClose()
		return nil
	}
	if in.err != nil {
		return in.err
	}
	st.alive(time.Now())
	switch f := in.msg.GetFrame().(type) {
	case *braidv1.ConsumeRequest_Credit:
		st.s.grant(f.Credit)
	case *braidv1.ConsumeRequest_Commit:
		return st.s.commitRequest(&st.g.cfg, f.Commit)
	case *braidv1.ConsumeRequest_Revoked:
		st.s.release(f.Revoked.GetPartitions())
	case *braidv1.ConsumeRequest_Seek:
		return st.seek(f.Seek)
	case *braidv1.ConsumeRequest_Pause:
		st.s.pause(f.Pause)
		st.cancel() // partitions that go on are to be fetched now
	case *braidv1.ConsumeRequest_Ping:
		st.send(&braidv1.ConsumeResponse{Frame: &braidv1.ConsumeResponse_Progress{Progress: progress(st.s.positions, time.Now(), f.Ping.GetNonce())}})
	case *braidv1.ConsumeRequest_Leave:
		st.left = true
	case *braidv1.ConsumeRequest_Subscribe:
		return invalid("frame: the stream has subscribed already")
	default:
		return invalid("frame: a message without a frame")
	}
	return nil
}

func (st *consumeStream) seek(s *braidv1.Seek) error {
	update, failures, err := st.s.seek(s.GetTo())
	if err != nil {
		return err
	}
	if len(update.GetAssigned()) > 0 {
		st.send(&braidv1.ConsumeResponse{Frame: &braidv1.ConsumeResponse_Assignment{Assignment: update}})
		st.cancel()
	}
	for _, fail := range failures {
		st.send(&braidv1.ConsumeResponse{Frame: &braidv1.ConsumeResponse_PartitionFailure{PartitionFailure: fail}})
	}
	return nil
}

// event takes an assignment change, or the end of the membership.
func (st *consumeStream) event(ev *groups.AssignmentEvent, ok bool) error {
	if !ok {
		if err := st.member.Err(); err != nil {
			return err
		}
		return federation.Errorf(federation.UnknownMember, "the membership in group %q ended", st.request.Group)
	}
	update, lookup := st.s.assign(ev)
	st.may.stale = true
	if !st.subscribed {
		st.subscribed = true
		st.send(&braidv1.ConsumeResponse{Frame: &braidv1.ConsumeResponse_Subscribed{Subscribed: &braidv1.Subscribed{
			MemberId: st.member.MemberID(), MemberEpoch: ev.MemberEpoch, HeartbeatIntervalMs: (st.request.SessionTimeout / 3).Milliseconds(),
		}}})
	}
	if len(lookup) == 0 || len(update.GetAssigned())+len(update.GetRevoking())+len(update.GetLost()) > 0 {
		st.send(&braidv1.ConsumeResponse{Frame: &braidv1.ConsumeResponse_Assignment{Assignment: update}})
	}
	st.lookups = append(st.lookups, lookup...)
	st.cancel()
	return nil
}

// closed is the last frame.
func (st *consumeStream) closed() *braidv1.ConsumeClosed {
	out := &braidv1.ConsumeClosed{ReachedStop: st.s.reachedStop()}
	for _, p := range st.s.positions {
		if !p.waiting {
			out.Positions = append(out.Positions, p.offset())
		}
	}
	return out
}
