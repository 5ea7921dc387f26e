package controller

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/internal/rpcerror"
)

// leadersMax bounds the leader epochs that are taken from one Beat.
const leadersMax = 10_000

// awayMax bounds the clusters that one Beat calls away.
const awayMax = 1000

// refusalsMax bounds the snapshots that are sent to a peer that cannot apply them.
const refusalsMax = 3

type controlService struct{ c *Controller }

type attachStream = connect.BidiStream[controlv1.AttachRequest, controlv1.AttachResponse]

// Attach serves the stream of one gateway or watcher: its registration, then the
// map and every change of it, and leases for its beats. It ends when the peer
// goes, is silent, or registers again elsewhere, and with a NotLeader frame when
// this controller does not lead.
func (s *controlService) Attach(ctx context.Context, stream *attachStream) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, seen := receive(ctx, stream)
	if err := s.c.attach(ctx, stream, in, seen); err != nil {
		return rpcerror.Error(err)
	}
	return nil
}

func (c *Controller) attach(ctx context.Context, stream *attachStream, in <-chan received, seen *lastSeen) error {
	reg, err := c.awaitRegister(ctx, in)
	if err != nil {
		return err
	}
	r, _ := c.currentRole()
	if r.term == nil {
		return c.sendNotLeader(stream)
	}
	t := r.term
	if !t.fleet.admit(c.cfg.StreamsMax) {
		return federation.Errorf(federation.Throttled, "the controller has %d streams, which is its maximum", c.cfg.StreamsMax)
	}
	defer t.fleet.dismiss()
	v := federation.MapVersion(reg.GetMapVersion())
	if v != t.current().Version && t.unconfirmed() > 0 {
		// Another one may lead by now. Who has a newer map must not get this one, nor who
		// has none: its clients may have seen a newer one before it came.
		return c.sendNotLeader(stream)
	}
	if v > t.current().Version {
		// It may have read from the store what is being written, or what nobody knows to have
		// been written: no change at all waits for that.
		if err := t.settle(ctx); err != nil {
			return err
		}
	}
	if v > t.current().Version {
		t.health.alarm("ahead/"+reg.GetGatewayId(), "gateway %q holds map version %d, above the controller's %d: the store has lost writes", reg.GetGatewayId(), v, t.current().Version)
		return federation.Errorf(federation.Conflict, "gateway %q holds map version %d, above the controller's %d; a map never goes back", reg.GetGatewayId(), v, t.current().Version)
	}
	t.health.clear("ahead/" + reg.GetGatewayId())
	a := &attachment{
		term:   t,
		seen:   seen,
		stream: stream,
		have:   t.known(federation.MapVersion(reg.GetMapVersion())),
		told:   federation.MapVersion(reg.GetMapVersion()),
		binary: !strings.Contains(stream.RequestHeader().Get("Content-Type"), "json"),
	}
	var node federation.NodeID
	if !reg.GetWatchOnly() {
		if node, err = a.join(ctx, reg); err != nil {
			return err
		}
		defer t.fleet.lost(a.session, t.cfg.GatewayGrace)
	}
	err = a.send(&controlv1.AttachResponse{Frame: &controlv1.AttachResponse_Registered{Registered: &controlv1.Registered{
		BeatIntervalMs: c.cfg.BeatInterval.Milliseconds(),
		Lease:          a.lease(0),
		NodeId:         int32(node),
		MapVersion:     int64(t.current().Version),
	}}})
	if err != nil {
		return err
	}
	return a.serve(ctx, in)
}

// A received is what came from a stream.
type received struct {
	frame *controlv1.AttachRequest
	err   error
}

// lastSeen is when the last frame of a stream came, whoever is busy with what.
type lastSeen = atomic.Pointer[time.Time]

// framesMax bounds the frames of one stream that wait while a snapshot is sent.
const framesMax = 64

// receive reads frames until the stream or ctx ends.
func receive(ctx context.Context, stream *attachStream) (<-chan received, *lastSeen) {
	in, seen := make(chan received, framesMax), &lastSeen{}
	begin := time.Now()
	seen.Store(&begin)
	go func() {
		for {
			frame, err := stream.Receive()
			now := time.Now()
			seen.Store(&now)
			select {
			case in <- received{frame, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return in, seen
}

func (c *Controller) awaitRegister(ctx context.Context, in <-chan received) (*controlv1.Register, error) {
	timeout := time.NewTimer(c.cfg.RegisterTimeout)
	defer timeout.Stop()
	select {
	case r := <-in:
		if r.err != nil {
			return nil, r.err
		}
		reg := r.frame.GetRegister()
		if reg == nil {
			return nil, federation.Errorf(federation.InvalidArgument, "the first frame must be register")
		}
		return reg, checkRegister(reg)
	case <-timeout.C:
		return nil, federation.Errorf(federation.InvalidArgument, "no register frame came within %s", c.cfg.RegisterTimeout)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func checkRegister(reg *controlv1.Register) error {
	if reg.GetMapVersion() < 0 {
		return federation.Errorf(federation.InvalidArgument, "register: map version %d is negative", reg.GetMapVersion())
	}
	if reg.GetWatchOnly() {
		return nil
	}
	if id := reg.GetGatewayId(); id == "" || len(id) > 128 || strings.ContainsAny(id, "/ \t\r\n") {
		return federation.Errorf(federation.InvalidArgument, "register: gateway id %q: want 1 to 128 characters without spaces and '/'", id)
	}
	if reg.GetIncarnation() == "" {
		return federation.Errorf(federation.InvalidArgument, "register: gateway %q has no incarnation", reg.GetGatewayId())
	}
	for name, address := range map[string]string{"connect": reg.GetConnectAddress(), "kafka": reg.GetKafkaAddress()} {
		if address == "" && name == "kafka" {
			continue // a gateway without a Kafka door
		}
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			return federation.Errorf(federation.InvalidArgument, "register: gateway %q: %s address %q: want HOST:PORT, as clients reach it", reg.GetGatewayId(), name, address)
		}
	}
	for tenant, address := range reg.GetTenantKafkaAddresses() {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" || strings.ContainsAny(tenant+address, " =") {
			return federation.Errorf(federation.InvalidArgument, "register: gateway %q: kafka address %q of tenant %q: want HOST:PORT, as clients reach it", reg.GetGatewayId(), address, tenant)
		}
	}
	_, err := federation.ParseRole(reg.GetRole())
	return err
}

func (c *Controller) sendNotLeader(stream *attachStream) error {
	r, _ := c.currentRole()
	url := r.leader.URL
	if r.leader.ID == c.cfg.ID {
		url = "" // it leads, but is not ready yet
	}
	return stream.Send(&controlv1.AttachResponse{
		ControllerEpoch: r.leader.Fencing,
		Frame:           &controlv1.AttachResponse_NotLeader{NotLeader: &controlv1.NotLeader{Leader: url}},
	})
}

// An attachment is a stream that is served.
type attachment struct {
	*term
	stream  *attachStream
	seen    *lastSeen
	session *session // nil for a watcher
	have    *federation.Map
	told    federation.MapVersion // the newest that the peer said it has
	binary  bool
	refused int   // maps that the peer could not apply, one after the other
	unpaid  int64 // when the last beat was sent, if it got no lease yet; by the peer's clock
}

func (a *attachment) send(frame *controlv1.AttachResponse) error {
	if frame.GetControllerEpoch() == 0 && frame.GetFrame() != nil {
		frame.ControllerEpoch = a.fencing
	}
	return a.stream.Send(frame)
}

// join puts a gateway into the map.
func (a *attachment) join(ctx context.Context, reg *controlv1.Register) (federation.NodeID, error) {
	id := federation.GatewayID(reg.GetGatewayId())
	s := &session{
		id:          id,
		incarnation: reg.GetIncarnation(),
		build:       reg.GetBuild(),
		ended:       make(chan struct{}),
		drain:       make(chan *controlv1.Drain, 1),
		version:     federation.MapVersion(reg.GetMapVersion()),
		seen:        a.seen,
	}
	a.fleet.register(s)
	a.fleet.update(func() { s.floor = a.current().Version })
	a.session = s
	var node federation.NodeID
	err := func() error {
		state := federation.GatewayReady
		if g := a.current().Gateway(id); g != nil {
			node = g.NodeID
			if g.State == federation.GatewayDraining {
				state = g.State // goes on draining; its first beat tells
			}
		} else {
			var err error
			if node, err = a.parts.Store.NodeID(ctx, a.cfg.LogicalCluster, id, leastNode(a.current())); err != nil {
				return err
			}
		}
		role, _ := federation.ParseRole(reg.GetRole()) // checked before
		g := &federation.Gateway{
			ID: id, NodeID: node, ConnectAddress: reg.GetConnectAddress(), KafkaAddress: reg.GetKafkaAddress(),
			TenantKafka: federation.NewTenantAddresses(reg.GetTenantKafkaAddresses()), Zone: reg.GetZone(), Role: role, State: state,
		}
		_, err := a.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
			return planner.WithGateway(m, g), nil
		})
		return err
	}()
	if err != nil {
		a.fleet.lost(s, a.cfg.GatewayGrace)
		return 0, err
	}
	a.log.Info("gateway registered", "gateway", id, "node", node, "zone", reg.GetZone(), "role", reg.GetRole(), "build", reg.GetBuild())
	return node, nil
}

// leastNode is above all node ids of a map.
func leastNode(m *federation.Map) federation.NodeID {
	least := federation.NodeID(1)
	for _, g := range m.Gateways {
		least = max(least, g.NodeID+1)
	}
	return least
}

// lease grants what is left of the gateway lease since the lead was confirmed. A
// gateway that attached with an older map than the newest gets none before it has
// applied that one: whoever waits for a version need not fear those that come later.
func (a *attachment) lease(answers int64) *controlv1.Lease {
	until := a.confirmed.Load().Add(a.cfg.GatewayLease)
	left := time.Until(until)
	if a.session != nil && !a.fleet.grant(a.session, until) {
		left = 0
	}
	return &controlv1.Lease{AnswersSentMs: answers, ValidMs: max(0, left.Milliseconds())}
}

// sendLease answers a beat with a lease.
func (a *attachment) sendLease(answers int64) error {
	lease := a.lease(answers)
	a.unpaid = 0
	if lease.GetValidMs() == 0 {
		a.unpaid = answers
	}
	return a.send(&controlv1.AttachResponse{Frame: &controlv1.AttachResponse_Lease{Lease: lease}})
}

func (a *attachment) serve(ctx context.Context, in <-chan received) error {
	var ended <-chan struct{}
	var drain <-chan *controlv1.Drain
	if a.session != nil {
		ended, drain = a.session.ended, a.session.drain
	}
	silent := time.NewTicker(a.cfg.BeatTimeout)
	defer silent.Stop()
	for {
		frames, p := a.catchUp(a.have, a.told, a.binary)
		for _, f := range frames {
			if err := a.send(f); err != nil {
				return err
			}
		}
		a.have = p.m
		select {
		case r := <-in:
			if errors.Is(r.err, io.EOF) {
				return nil
			}
			if r.err != nil {
				return r.err
			}
			if err := a.handle(ctx, r.frame); err != nil {
				return err
			}
		case <-p.next:
		case d := <-drain:
			if err := a.send(&controlv1.AttachResponse{Frame: &controlv1.AttachResponse_Drain{Drain: d}}); err != nil {
				return err
			}
		case <-ended:
			return federation.Errorf(federation.Conflict, "gateway %q has registered again, or was silent for too long; this stream is over", a.session.id)
		case <-silent.C:
			if time.Since(*a.seen.Load()) < a.cfg.BeatTimeout {
				continue
			}
			return federation.Errorf(federation.Timeout, "no frame came for %s; this stream is over", a.cfg.BeatTimeout)
		case <-a.done:
			return a.sendNotLeader(a.stream)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *attachment) handle(ctx context.Context, frame *controlv1.AttachRequest) error {
	switch f := frame.GetFrame().(type) {
	case *controlv1.AttachRequest_Beat:
		return a.beat(ctx, f.Beat)
	case *controlv1.AttachRequest_MapApplied:
		a.told = max(a.told, federation.MapVersion(f.MapApplied.GetVersion()))
		for _, r := range f.MapApplied.GetRejected() {
			a.health.alarm("rejected/"+a.name(), "gateway %q could not apply map %d: %s", a.name(), f.MapApplied.GetVersion(), r)
		}
		if len(f.MapApplied.GetRejected()) > 0 {
			if a.refused++; a.refused > refusalsMax {
				return federation.Errorf(federation.Unsupported, "%s refuses the whole map: is it older than the controller?", a.name())
			}
			a.have, a.told = nil, a.current().Version // a snapshot of now mends it
			return nil
		}
		a.refused = 0
		a.health.clear("rejected/" + a.name())
		a.applied(ctx, federation.MapVersion(f.MapApplied.GetVersion()))
		if a.unpaid > 0 {
			return a.sendLease(a.unpaid)
		}
	case *controlv1.AttachRequest_HeadsHeld:
		return a.held(f.HeadsHeld)
	case *controlv1.AttachRequest_Loads:
		return a.loads(f.Loads)
	case *controlv1.AttachRequest_Drained:
		return a.drainedNow(ctx)
	case *controlv1.AttachRequest_Register:
		return federation.Errorf(federation.InvalidArgument, "register came twice on one stream")
	default:
		return federation.Errorf(federation.InvalidArgument, "a frame that this controller does not know; is the gateway newer?")
	}
	return nil
}

func (a *attachment) name() string {
	if a.session == nil {
		return "a watcher"
	}
	return string(a.session.id)
}

// applied notes that the peer has applied a version.
func (a *attachment) applied(ctx context.Context, v federation.MapVersion) {
	s := a.session
	if s == nil {
		return
	}
	news := false
	a.fleet.update(func() {
		news = v > s.version
		s.version = max(s.version, v)
	})
	// A gateway that registered later did not wait for it.
	if took, ok := a.stamps.since(v, s.since); ok && news {
		a.parts.Metrics.mapApplied(ctx, took)
	}
}

// beat answers with a lease first: what else the beat asks for may take a moment.
func (a *attachment) beat(ctx context.Context, b *controlv1.Beat) error {
	s := a.session
	if s != nil {
		a.fleet.update(func() { s.connections = b.GetConnections() })
		if err := a.away(b); err != nil {
			return err
		}
		a.applied(ctx, federation.MapVersion(b.GetMapVersion()))
	}
	if err := a.sendLease(b.GetSentMs()); err != nil {
		return err
	}
	if s == nil {
		return nil
	}
	if err := a.setState(ctx, b.GetDraining()); err != nil {
		a.log.Warn("the state of a gateway could not be changed; it is tried again", "gateway", s.id, "err", err)
	}
	if len(b.GetLeaders()) > leadersMax {
		return federation.Errorf(federation.InvalidArgument, "a beat names %d leaders, at most %d are allowed", len(b.GetLeaders()), leadersMax)
	}
	if len(b.GetLeaders()) > 0 {
		a.leadersSeen(b.GetLeaders())
	}
	return nil
}

// away notes which clusters do not answer the gateway.
func (a *attachment) away(b *controlv1.Beat) error {
	if n := len(b.GetAway()); n > awayMax {
		return federation.Errorf(federation.InvalidArgument, "a beat names %d clusters that are away, at most %d are allowed", n, awayMax)
	}
	var away []federation.ClusterName
	for _, name := range b.GetAway() {
		away = append(away, federation.ClusterName(name))
	}
	if !slices.Equal(away, a.session.away) { // only this stream writes it
		a.fleet.update(func() { a.session.away = away })
	}
	return nil
}

// setState makes the map say whether the gateway drains.
func (a *attachment) setState(ctx context.Context, draining bool) error {
	want := federation.GatewayReady
	if draining {
		want = federation.GatewayDraining
	}
	apply := func(m *federation.Map) (*federation.Map, error) {
		g := m.Gateway(a.session.id)
		if g == nil || g.State == want {
			return m, nil
		}
		changed := *g
		changed.State = want
		return planner.WithGateway(m, &changed), nil
	}
	if next, _ := apply(a.current()); next == a.current() {
		return nil
	}
	_, err := a.edit(ctx, apply)
	return err
}

// leadersSeen raises epochs. It does not wait: the gateway hears of it by the map.
func (a *attachment) leadersSeen(leaders []*controlv1.LeaderSeen) {
	seen := make([]planner.LeaderSeen, len(leaders))
	for i, l := range leaders {
		seen[i] = planner.LeaderSeen{
			PhysicalAddress: federation.PhysicalAddress{
				Cluster:   federation.ClusterName(l.GetCluster()),
				Topic:     l.GetPhysicalTopic(),
				Partition: federation.PhysicalPartition(l.GetPhysicalPartition()),
			},
			Epoch: federation.PhysicalEpoch(l.GetEpoch()),
		}
	}
	if next, _ := planner.RaiseEpochs(a.current(), seen); next == a.current() {
		return
	}
	e := edit{done: make(chan edited, 1), apply: func(m *federation.Map) (*federation.Map, error) {
		next, n := planner.RaiseEpochs(m, seen)
		if n > 0 {
			a.log.Info("physical leaders changed", "partitions", n, "seen_by", a.name())
		}
		return next, nil
	}}
	select {
	case a.edits <- e:
	default:
		a.hint() // the writer is behind: the next look at the clusters finds it too
	}
}

func (a *attachment) drainedNow(ctx context.Context) error {
	s := a.session
	if s == nil {
		return nil
	}
	a.fleet.finished(s)
	_, err := a.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
		return planner.WithoutGateways(m, s.id), nil
	})
	if err != nil {
		a.log.Warn("a gateway that has drained could not be taken out; it goes with its stream", "gateway", s.id, "err", err)
		return nil
	}
	a.log.Info("gateway has drained", "gateway", s.id)
	return nil
}
