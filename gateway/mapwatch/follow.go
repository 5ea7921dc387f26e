package mapwatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/gen/braid/control/v1/controlv1connect"
)

// beatIntervalDefault is used until a controller has said what it wants.
const beatIntervalDefault = time.Second

// toldMax bounds the controllers whose troubles are remembered.
const toldMax = 100

// errNoController means that neither the configuration nor Redis names one.
var errNoController = errors.New("no controller is known")

// notLeaderError is a controller's answer that another one leads.
type notLeaderError struct{ leader string }

func (e *notLeaderError) Error() string {
	if e.leader == "" {
		return "the controller does not lead, and knows of no leader"
	}
	return "another controller leads: " + e.leader
}

type attachClient = connect.BidiStreamForClientSimple[controlv1.AttachRequest, controlv1.AttachResponse]

// follow attaches to the leader, again and again, until ctx ends.
func (w *Watch) follow(ctx context.Context) {
	hint := ""
	told := make(map[string]string) // what was said of each controller since it last worked
	for attempt := 0; ctx.Err() == nil; attempt++ {
		url, err := w.pick(ctx, attempt, hint)
		hint = ""
		if err == nil {
			began := time.Now()
			err = w.attach(ctx, url)
			if time.Since(began) > w.cfg.BackoffMax {
				attempt = 0 // it worked for a while
				clear(told)
			}
		}
		if ctx.Err() != nil {
			return
		}
		if elsewhere, ok := errors.AsType[*notLeaderError](err); ok {
			hint = elsewhere.leader
		}
		level := slog.LevelDebug
		if cause := fmt.Sprint(err); cause != told[url] && len(told) < toldMax {
			level, told[url] = slog.LevelInfo, cause
		}
		w.log.Log(ctx, level, "the stream to the controller ended; attaching again", "controller", url, "cause", err)
		sleep(ctx, w.backoff(attempt))
	}
}

// backoff grows from BackoffMin to BackoffMax, with jitter.
func (w *Watch) backoff(attempt int) time.Duration {
	const doublingsMax = 16
	d := w.cfg.BackoffMin << min(attempt, doublingsMax)
	if d <= 0 || d > w.cfg.BackoffMax {
		d = w.cfg.BackoffMax
	}
	return d/2 + rand.N(d/2+1)
}

// pick returns the controller to try: the one that another one named, then by
// turns the leader in Redis and those that are configured.
func (w *Watch) pick(ctx context.Context, attempt int, hint string) (string, error) {
	if hint != "" {
		return hint, nil
	}
	n := len(w.cfg.Controllers)
	if n > 0 && attempt%2 == 0 {
		return w.cfg.Controllers[attempt/2%n], nil
	}
	ctx, cancel := context.WithTimeout(ctx, w.cfg.AttachTimeout)
	defer cancel()
	leader, ok, err := w.parts.Store.Leader(ctx, w.cfg.LogicalCluster)
	switch {
	case err == nil && ok && leader.URL != "":
		return leader.URL, nil
	case n > 0:
		return w.cfg.Controllers[attempt/2%n], nil
	case err != nil:
		return "", err
	default:
		return "", errNoController
	}
}

// A link is one stream to a controller.
type link struct {
	*Watch
	stream  *attachClient
	began   time.Duration // when Register was sent, after start
	beat    time.Duration // the interval
	partial wire.Assembler
	// base is what this stream has brought, which deltas change: the controller cannot
	// know of a newer map that was read from the store meanwhile. After a refusal it is
	// nil until the snapshot comes that the controller answers with.
	base    *federation.Map
	newest  federation.MapVersion // when the controller took the registration
	held    chan *controlv1.HeadsHeld
	loads   chan *controlv1.PartitionLoads
	unacked bool // the current map was not acknowledged on this stream
	giveUp  context.CancelFunc
}

// A received is what came from the controller.
type received struct {
	frame *controlv1.AttachResponse
	err   error
}

// attach serves one stream until it ends, and returns why.
func (w *Watch) attach(ctx context.Context, url string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Uncompressed: the controller makes the bytes of a map once for all gateways.
	client := controlv1connect.NewControlServiceClient(w.parts.HTTP, url, connect.WithAcceptCompression("gzip", nil, nil))
	stream, err := client.Attach(ctx)
	if err != nil {
		return err
	}
	var reader sync.WaitGroup
	defer func() {
		cancel() // before the close, which would wait for the server otherwise
		_ = stream.CloseRequest()
		_ = stream.CloseResponse()
		reader.Wait()
	}()
	l := &link{Watch: w, stream: stream, held: make(chan *controlv1.HeadsHeld), loads: make(chan *controlv1.PartitionLoads), giveUp: cancel, beat: beatIntervalDefault, began: time.Since(w.start)}
	// A controller that takes the connection but no data must not hold us.
	watchdog := time.AfterFunc(w.cfg.AttachTimeout, cancel)
	defer watchdog.Stop()
	l.base = w.Current()
	if err := stream.Send(&controlv1.AttachRequest{Frame: &controlv1.AttachRequest_Register{Register: w.register(l.base.Version)}}); err != nil {
		return streamError(stream, err)
	}
	in := make(chan received)
	reader.Go(func() {
		for {
			frame, err := stream.Receive()
			select {
			case in <- received{frame, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
	reader.Go(func() { l.watchLeader(ctx) })
	reader.Go(func() { l.holdHeads(ctx) })
	reader.Go(func() { l.tellLoads(ctx) })
	err = l.serve(ctx, in, watchdog)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return fmt.Errorf("the controller is silent: %w", err)
	}
	return err
}

// streamError replaces the io.EOF of a failed Send by the server's own error.
func streamError(stream *attachClient, err error) error {
	if errors.Is(err, io.EOF) {
		if _, rerr := stream.Receive(); rerr != nil {
			return rerr
		}
	}
	return err
}

// register tells who this gateway is, and the version of the map that deltas may begin at.
func (w *Watch) register(have federation.MapVersion) *controlv1.Register {
	w.mu.Lock()
	clear(w.told) // another controller may not have heard of it
	w.mu.Unlock()
	return &controlv1.Register{
		GatewayId:      string(w.cfg.ID),
		Incarnation:    w.incarnation,
		ConnectAddress: w.cfg.ConnectAddress,
		KafkaAddress:   w.cfg.KafkaAddress,
		Zone:           w.cfg.Zone,
		Build:          w.cfg.Build,
		MapVersion:     int64(have),
		Role:           w.cfg.Role.String(),
		WatchOnly:      w.cfg.WatchOnly,

		TenantKafkaAddresses: w.cfg.TenantKafka,
	}
}

func (l *link) serve(ctx context.Context, in <-chan received, watchdog *time.Timer) error {
	next := time.NewTimer(l.beat)
	defer next.Stop()
	var last time.Time // the first beat asks for the lease: it does not wait
	for {
		select {
		case r := <-in:
			if r.err != nil {
				return r.err
			}
			if err := l.handle(r.frame); err != nil {
				return err
			}
			watchdog.Reset(max(l.cfg.AttachTimeout, time.Duration(l.cfg.SilenceFactor)*l.beat))
			if l.unacked {
				if err := l.ack(nil); err != nil {
					return err
				}
			}
			continue
		case d := <-l.drained:
			err := l.stream.Send(&controlv1.AttachRequest{Frame: &controlv1.AttachRequest_Drained{Drained: &controlv1.Drained{ConnectionsLeft: d.left}}})
			d.sent <- err
			if err != nil {
				return err
			}
			continue
		case h := <-l.held:
			if err := l.stream.Send(&controlv1.AttachRequest{Frame: &controlv1.AttachRequest_HeadsHeld{HeadsHeld: h}}); err != nil {
				return err
			}
			continue
		case p := <-l.loads:
			if err := l.stream.Send(&controlv1.AttachRequest{Frame: &controlv1.AttachRequest_Loads{Loads: p}}); err != nil {
				return err
			}
			continue
		case <-l.wake:
			// News travels at once, but not in more beats than are useful.
			if wait := l.cfg.BeatMinInterval - time.Since(last); wait > 0 {
				next.Reset(wait)
				continue
			}
		case <-next.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		last = time.Now()
		if err := l.sendBeat(); err != nil {
			return err
		}
		next.Reset(l.beat)
	}
}

// watchLeader looks whether another controller leads while this stream's one
// cannot renew our lease: it may be cut off from Redis, and not know that it was
// replaced.
func (l *link) watchLeader(ctx context.Context) {
	pause := time.Duration(l.cfg.SilenceFactor) * beatIntervalDefault
	for ctx.Err() == nil {
		before := l.leaseUntil.Load()
		sleep(ctx, pause)
		// An old confirmation moves the end by no more than the network's jitter.
		renewed := l.Valid() && l.leaseUntil.Load() > before+int64(pause/2)
		if ctx.Err() != nil || l.cfg.WatchOnly || renewed {
			continue
		}
		call, cancel := context.WithTimeout(ctx, l.cfg.AttachTimeout)
		leader, ok, err := l.parts.Store.Leader(call, l.cfg.LogicalCluster)
		cancel()
		if err == nil && ok && leader.Fencing > l.metEpoch() {
			l.log.Warn("the lease is not renewed, and another controller leads; attaching to that one", "controller", leader.URL)
			l.giveUp()
			return
		}
	}
}

// holdHeads tells the controller, for each map with sealing heads, when this gateway
// has nothing in flight to them any more.
func (l *link) holdHeads(ctx context.Context) {
	for ctx.Err() == nil {
		changed := l.Changed()
		if m := l.Current(); len(m.SealingHeads()) > 0 {
			l.holdHeadsOf(ctx, m, changed)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// holdHeadsOf is holdHeads for one map; a newer one ends it.
func (l *link) holdHeadsOf(ctx context.Context, m *federation.Map, changed <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		}
	}()
	heads := m.SealingHeads()
	if l.cfg.Hold != nil {
		var err error
		if heads, err = l.cfg.Hold(ctx, m); err != nil {
			return
		}
	}
	out := &controlv1.HeadsHeld{Version: int64(m.Version), Heads: make([]*controlv1.HeldHead, len(heads))}
	for i, h := range heads {
		out.Heads[i] = &controlv1.HeldHead{Topic: string(h.Topic), Partition: int32(h.Partition), Extent: h.Extent, AcknowledgedEnd: int64(h.AcknowledgedEnd), SeenEnd: int64(h.SeenEnd)}
	}
	select {
	case l.held <- out:
	case <-ctx.Done():
	}
}

func (l *link) sendBeat() error {
	b := &controlv1.Beat{
		SentMs:     time.Since(l.start).Milliseconds(),
		MapVersion: int64(l.Current().Version),
		Draining:   l.draining.Load(),
	}
	if l.cfg.Load != nil {
		load := l.cfg.Load()
		b.Connections, b.BytesInPerS, b.BytesOutPerS = load.Connections, load.BytesInPerS, load.BytesOutPerS
	}
	if l.cfg.Away != nil {
		for _, name := range l.cfg.Away() {
			b.Away = append(b.Away, string(name))
		}
	}
	for at, e := range l.takeLeaders() {
		b.Leaders = append(b.Leaders, &controlv1.LeaderSeen{
			Cluster: string(at.Cluster), PhysicalTopic: at.Topic, PhysicalPartition: int32(at.Partition), Epoch: int32(e),
		})
	}
	return l.stream.Send(&controlv1.AttachRequest{Frame: &controlv1.AttachRequest_Beat{Beat: b}})
}

func (l *link) ack(rejected error) error {
	a := &controlv1.MapApplied{Version: int64(l.Current().Version)}
	if rejected != nil {
		a.Rejected = append(a.Rejected, rejected.Error())
	}
	l.unacked = false
	return l.stream.Send(&controlv1.AttachRequest{Frame: &controlv1.AttachRequest_MapApplied{MapApplied: a}})
}

// handle takes one frame. Frames of a controller that was replaced end the stream.
func (l *link) handle(frame *controlv1.AttachResponse) error {
	if n := frame.GetNotLeader(); n != nil {
		return &notLeaderError{n.GetLeader()}
	}
	if !l.follows(frame.GetControllerEpoch()) {
		return fmt.Errorf("a frame of controller epoch %d: a newer controller leads", frame.GetControllerEpoch())
	}
	switch f := frame.GetFrame().(type) {
	case *controlv1.AttachResponse_Registered:
		return l.onRegistered(f.Registered)
	case *controlv1.AttachResponse_Lease:
		return l.onLease(f.Lease)
	case *controlv1.AttachResponse_Snapshot:
		m, err := l.partial.Add(f.Snapshot)
		if err != nil {
			return l.refuse(err)
		}
		if m != nil {
			l.installed(m)
		}
	case *controlv1.AttachResponse_Delta:
		if l.base == nil || f.Delta.GetToVersion() <= int64(l.base.Version) {
			return nil // sent before the controller knew of the refusal, or known
		}
		m, err := wire.Apply(l.base, wire.DeltaFromProto(f.Delta))
		if err != nil {
			return l.refuse(err)
		}
		l.installed(m)
	case *controlv1.AttachResponse_Drain:
		if l.cfg.OnDrain != nil {
			l.cfg.OnDrain(time.Duration(f.Drain.GetDeadlineMs())*time.Millisecond, f.Drain.GetCause())
		}
	}
	return nil // a frame that this build does not know says nothing to it
}

func (w *Watch) metEpoch() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.epoch
}

// follows reports whether an epoch is not older than one that was met, and notes it.
func (w *Watch) follows(epoch int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if epoch < w.epoch {
		return false
	}
	w.epoch = epoch
	return true
}

func (l *link) onRegistered(r *controlv1.Registered) error {
	if ms := r.GetBeatIntervalMs(); ms > 0 {
		l.beat = time.Duration(ms) * time.Millisecond
	}
	if !l.cfg.WatchOnly {
		if had := l.node.Swap(r.GetNodeId()); had != 0 && had != r.GetNodeId() {
			l.log.Error("the node id of this gateway has changed; its clients will reconnect", "was", had, "is", r.GetNodeId())
		}
		if lease := r.GetLease(); lease != nil {
			l.extendLease(l.began, time.Duration(lease.GetValidMs())*time.Millisecond)
		}
	}
	l.newest = federation.MapVersion(r.GetMapVersion())
	l.unacked = l.Current().Version > 0
	l.log.Info("attached to the controller", "epoch", l.metEpoch(), "node", r.GetNodeId())
	l.mu.Lock()
	if !l.isReady {
		l.isReady = true
		close(l.registered)
	}
	l.mu.Unlock()
	l.beatSoon()
	return nil
}

// onLease extends the lease from the send time of the beat that it answers. An
// answer to a beat that was not sent yet is refused: it would be too long.
func (l *link) onLease(lease *controlv1.Lease) error {
	sent := time.Duration(lease.GetAnswersSentMs()) * time.Millisecond
	if sent < l.began-time.Millisecond || sent > time.Since(l.start) {
		return fmt.Errorf("a lease answers a beat of %s after the start, which was not sent on this stream", sent)
	}
	if !l.cfg.WatchOnly {
		l.extendLease(sent, time.Duration(lease.GetValidMs())*time.Millisecond)
	}
	return nil
}

// installed takes what the stream has brought; an older map than the current one, which
// the store had before, only as what the next delta changes. So it is for a gateway that
// has none until it gets the newest: its clients may have seen that before it was started.
func (l *link) installed(m *federation.Map) {
	if l.Current().Version == 0 && m.Version < l.newest {
		l.base = m
		return
	}
	if l.install(m) {
		l.log.Debug("map installed", "version", m.Version)
	}
	if have := l.Current(); have.Version == m.Version {
		m = have // one copy is enough
	}
	l.base, l.unacked = m, true
}

// refuse tells the controller what could not be applied; it sends a snapshot then.
func (l *link) refuse(cause error) error {
	l.log.Error("a map could not be applied", "have", l.Current().Version, "err", cause)
	l.base = nil
	return l.ack(cause)
}
