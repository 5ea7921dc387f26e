package mapwatch_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	"github.com/braidmq/braid/gateway/mapwatch"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/gen/braid/control/v1/controlv1connect"
	"github.com/braidmq/braid/internal/redisstore"
)

const patience = 10 * time.Second

// A script is a controller whose frames a test writes.
type script struct {
	url     string
	streams chan *scripted
}

// A scripted stream: what came in, and what goes out.
type scripted struct {
	in  chan *controlv1.AttachRequest
	out chan *controlv1.AttachResponse
	end chan struct{}
}

func newScript(t *testing.T) *script {
	t.Helper()
	s := &script{streams: make(chan *scripted, 16)}
	mux := http.NewServeMux()
	mux.Handle(controlv1connect.NewControlServiceHandler(s))
	server := httptest.NewUnstartedServer(mux)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	s.url = server.URL
	return s
}

func (s *script) Attach(ctx context.Context, stream *connect.BidiStream[controlv1.AttachRequest, controlv1.AttachResponse]) error {
	c := &scripted{in: make(chan *controlv1.AttachRequest, 1024), out: make(chan *controlv1.AttachResponse), end: make(chan struct{})}
	s.streams <- c
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the stream, so with the return of the handler
		for {
			frame, err := stream.Receive()
			if err != nil {
				cancel()
				return
			}
			c.in <- frame
		}
	}()
	for {
		select {
		case f := <-c.out:
			if err := stream.Send(f); err != nil {
				return err
			}
		case <-c.end:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// attached waits for the next stream and its registration.
func (s *script) attached(t *testing.T) (*scripted, *controlv1.Register) {
	t.Helper()
	select {
	case c := <-s.streams:
		return c, c.next(t).GetRegister()
	case <-time.After(patience):
		require.Fail(t, "nobody attached")
		return nil, nil
	}
}

func (c *scripted) next(t *testing.T) *controlv1.AttachRequest {
	t.Helper()
	select {
	case f := <-c.in:
		return f
	case <-time.After(patience):
		require.Fail(t, "no frame came")
		return nil
	}
}

// until skips frames until one satisfies a condition.
func until[T any](t *testing.T, c *scripted, get func(*controlv1.AttachRequest) *T) *T {
	t.Helper()
	for {
		if f := get(c.next(t)); f != nil {
			return f
		}
	}
}

func (c *scripted) send(t *testing.T, epoch int64, frame *controlv1.AttachResponse) {
	t.Helper()
	frame.ControllerEpoch = epoch
	select {
	case c.out <- frame:
	case <-time.After(patience):
		require.Fail(t, "the stream takes nothing")
	}
}

func registered(leaseMs int64) *controlv1.AttachResponse {
	return &controlv1.AttachResponse{Frame: &controlv1.AttachResponse_Registered{Registered: &controlv1.Registered{
		BeatIntervalMs: 20, NodeId: 7, Lease: &controlv1.Lease{ValidMs: leaseMs},
	}}}
}

func snapshot(m *federation.Map) *controlv1.AttachResponse {
	return &controlv1.AttachResponse{Frame: &controlv1.AttachResponse_Snapshot{Snapshot: wire.Snapshot(m)[0]}}
}

func delta(from, to *federation.Map) *controlv1.AttachResponse {
	d := wire.Diff(from, to)
	return &controlv1.AttachResponse{Frame: &controlv1.AttachResponse_Delta{Delta: d.Proto()}}
}

// mapOf has one cluster for each version.
func mapOf(version federation.MapVersion) *federation.Map {
	m := &federation.Map{
		LogicalCluster: "default", ClusterID: "id", Version: version, FleetGeneration: int32(version),
		Clusters: map[federation.ClusterName]*federation.Cluster{}, Topics: map[federation.TopicName]*federation.Topic{},
	}
	return m.Seal()
}

type rig struct {
	*mapwatch.Watch
	store *redisstore.Store
	redis *miniredis.Miniredis
}

func start(t *testing.T, controllers []string, change ...func(*mapwatch.Config)) *rig {
	t.Helper()
	r := &rig{redis: miniredis.RunT(t)}
	store, err := redisstore.Open(redisstore.Config{URL: "redis://" + r.redis.Addr() + "/0"})
	require.NoError(t, err)
	r.store = store
	cfg := mapwatch.Config{
		ID: "g1", ConnectAddress: "h:1", KafkaAddress: "h:2", Controllers: controllers, BackoffMax: 60 * time.Millisecond,
		LeaseMargin: 5 * time.Millisecond, ColdStartRetry: 5 * time.Millisecond, SilenceFactor: 50,
	}
	for _, f := range change {
		f(&cfg)
	}
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: p}
	r.Watch, err = mapwatch.New(cfg, mapwatch.Parts{Store: store, HTTP: &http.Client{Transport: transport}})
	require.NoError(t, err)
	require.NotNil(t, r.Current())
	require.Zero(t, r.Current().Version)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = r.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		transport.CloseIdleConnections()
		_ = store.Close()
	})
	return r
}

func (r *rig) await(t *testing.T, v federation.MapVersion) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := r.Await(ctx, v)
	require.NoError(t, err)
	require.GreaterOrEqual(t, m.Version, v)
}

// write puts the first map into the store.
func (r *rig) write(t *testing.T, m *federation.Map) {
	t.Helper()
	l, ok, err := r.store.AcquireLeadership(t.Context(), "default", redisstore.Candidate{ID: "c", URL: "http://127.0.0.1:1", Incarnation: "x"}, time.Minute)
	require.NoError(t, err)
	require.True(t, ok)
	require.NoError(t, r.store.WriteMap(t.Context(), "default", l.Fencing, wire.Diff(redisstore.EmptyMap("default"), m)))
}

func applied(f *controlv1.AttachRequest) *controlv1.MapApplied { return f.GetMapApplied() }
func beat(f *controlv1.AttachRequest) *controlv1.Beat          { return f.GetBeat() }

func TestSnapshotThenDeltasThenNeverBack(t *testing.T) {
	s := newScript(t)
	w := start(t, []string{s.url})
	c, reg := s.attached(t)
	require.Equal(t, "g1", reg.GetGatewayId())
	require.Zero(t, reg.GetMapVersion())
	incarnation := reg.GetIncarnation()
	changed := w.Changed()

	c.send(t, 3, registered(0))
	c.send(t, 3, snapshot(mapOf(5)))
	require.EqualValues(t, 5, until(t, c, applied).GetVersion())
	<-changed
	require.EqualValues(t, 7, w.NodeID())
	c.send(t, 3, delta(mapOf(5), mapOf(6)))
	require.EqualValues(t, 6, until(t, c, applied).GetVersion())

	// An older delta and an older snapshot change nothing.
	c.send(t, 3, delta(mapOf(4), mapOf(6)))
	c.send(t, 3, snapshot(mapOf(2)))
	require.EqualValues(t, 6, until(t, c, applied).GetVersion())
	require.EqualValues(t, 6, w.Current().Version)

	// A delta that does not fit is refused, with the cause; a snapshot mends it.
	c.send(t, 3, delta(mapOf(8), mapOf(9)))
	refused := until(t, c, applied)
	require.Len(t, refused.GetRejected(), 1)
	require.Contains(t, refused.GetRejected()[0], "begins at version 8")
	c.send(t, 3, snapshot(mapOf(9)))
	require.EqualValues(t, 9, until(t, c, applied).GetVersion())

	// The next stream begins with what it has.
	close(c.end)
	_, reg = s.attached(t)
	require.EqualValues(t, 9, reg.GetMapVersion())
	require.Equal(t, incarnation, reg.GetIncarnation())
}

// A gateway that starts registers without a map while it reads one from the store. The
// controller brings it up from a snapshot that may be older than that one.
func TestDeltasFitTheStreamBesideANewerMapOfTheStore(t *testing.T) {
	s := newScript(t)
	w := start(t, []string{s.url})
	c, reg := s.attached(t)
	require.Zero(t, reg.GetMapVersion())
	w.write(t, mapOf(5))
	w.await(t, 5)
	accepted := func(v int64) {
		t.Helper()
		until(t, c, func(f *controlv1.AttachRequest) *controlv1.MapApplied {
			require.Empty(t, f.GetMapApplied().GetRejected())
			if f.GetMapApplied().GetVersion() == v {
				return f.GetMapApplied()
			}
			return nil
		})
	}

	c.send(t, 1, registered(0))
	c.send(t, 1, snapshot(mapOf(3)))
	accepted(5)
	c.send(t, 1, delta(mapOf(3), mapOf(4)))
	c.send(t, 1, delta(mapOf(4), mapOf(6)))
	accepted(6)
	require.EqualValues(t, 6, w.Current().FleetGeneration)
	c.send(t, 1, delta(mapOf(6), mapOf(7)))
	accepted(7)
}

// A gateway that has no map yet serves none that is older than the controller's newest,
// whether the deltas behind the snapshot come or not: its clients may have seen that one
// before it was started anew.
func TestNoMapUntilTheNewestIsThere(t *testing.T) {
	s := newScript(t)
	w := start(t, []string{s.url})
	newest := registered(0)
	newest.GetRegistered().MapVersion = 5
	for range 2 {
		c, reg := s.attached(t)
		require.Zero(t, reg.GetMapVersion(), "the stream before has ended between the two")
		c.send(t, 1, newest)
		c.send(t, 1, snapshot(mapOf(3)))
		c.send(t, 1, delta(mapOf(3), mapOf(4)))
		c.send(t, 1, &controlv1.AttachResponse{Frame: &controlv1.AttachResponse_NotLeader{NotLeader: &controlv1.NotLeader{}}})
	}
	require.Zero(t, w.Current().Version)
	c, _ := s.attached(t)
	c.send(t, 1, newest)
	c.send(t, 1, snapshot(mapOf(3)))
	c.send(t, 1, delta(mapOf(3), mapOf(6)))
	require.EqualValues(t, 6, until(t, c, applied).GetVersion())
	require.EqualValues(t, 6, w.Current().Version)
}

func TestDeltasOnTheirWayAfterARefusalWaitForTheSnapshot(t *testing.T) {
	s := newScript(t)
	w := start(t, []string{s.url})
	c, _ := s.attached(t)
	c.send(t, 1, registered(0))
	c.send(t, 1, snapshot(mapOf(1)))
	require.EqualValues(t, 1, until(t, c, applied).GetVersion())
	c.send(t, 1, delta(mapOf(2), mapOf(3)))
	require.Len(t, until(t, c, applied).GetRejected(), 1)
	c.send(t, 1, delta(mapOf(3), mapOf(4)))
	c.send(t, 1, delta(mapOf(1), mapOf(4)))
	require.EqualValues(t, 1, w.Current().Version)
	c.send(t, 1, snapshot(mapOf(4)))
	next := until(t, c, applied)
	require.Empty(t, next.GetRejected(), "one refusal is answered by one snapshot")
	require.EqualValues(t, 4, next.GetVersion())
	c.send(t, 1, delta(mapOf(4), mapOf(5)))
	require.EqualValues(t, 5, until(t, c, applied).GetVersion())
}

func TestFramesOfAnOlderControllerEndTheStream(t *testing.T) {
	s := newScript(t)
	w := start(t, []string{s.url})
	c, _ := s.attached(t)
	c.send(t, 4, registered(0))
	c.send(t, 4, snapshot(mapOf(1)))
	w.await(t, 1)
	c.send(t, 3, snapshot(mapOf(2)))
	c, _ = s.attached(t)
	require.EqualValues(t, 1, w.Current().Version)
	c.send(t, 3, registered(60_000))
	c, _ = s.attached(t)
	require.False(t, w.Valid(), "an old controller grants nothing")
	c.send(t, 4, registered(60_000))
	require.Eventually(t, w.Valid, patience, time.Millisecond)
}

func TestNotLeaderIsFollowed(t *testing.T) {
	leader := newScript(t)
	standby := newScript(t)
	w := start(t, []string{standby.url})
	c, _ := standby.attached(t)
	c.send(t, 1, &controlv1.AttachResponse{Frame: &controlv1.AttachResponse_NotLeader{NotLeader: &controlv1.NotLeader{Leader: leader.url}}})
	c, _ = leader.attached(t)
	c.send(t, 1, registered(0))
	c.send(t, 1, snapshot(mapOf(3)))
	w.await(t, 3)
}

func TestLeaderIsFoundInRedis(t *testing.T) {
	s := newScript(t)
	w := start(t, nil)
	_, ok, err := w.store.AcquireLeadership(t.Context(), "default", redisstore.Candidate{ID: "c", URL: s.url, Incarnation: "x"}, time.Minute)
	require.NoError(t, err)
	require.True(t, ok)
	c, _ := s.attached(t)
	c.send(t, 1, registered(0))
	c.send(t, 1, snapshot(mapOf(3)))
	w.await(t, 3)
}

func TestLeaseRunsFromTheSendTime(t *testing.T) {
	s := newScript(t)
	w := start(t, []string{s.url}, func(c *mapwatch.Config) { c.LeaseMargin = 100 * time.Millisecond })
	c, _ := s.attached(t)
	c.send(t, 1, registered(90))
	b := until(t, c, beat)
	require.False(t, w.Valid(), "the margin is longer than the lease")
	grant := func(sent, ms int64) {
		c.send(t, 1, &controlv1.AttachResponse{Frame: &controlv1.AttachResponse_Lease{Lease: &controlv1.Lease{AnswersSentMs: sent, ValidMs: ms}}})
	}
	grant(b.GetSentMs(), 400)
	require.Eventually(t, w.Valid, patience, time.Millisecond)
	grant(b.GetSentMs(), 0) // what was granted holds
	require.Eventually(t, func() bool { return !w.Valid() }, patience, time.Millisecond)
	for range 3 { // the answer to an old beat, however late, is not counted from now
		grant(b.GetSentMs(), 400)
		until(t, c, beat)
		require.False(t, w.Valid())
	}
	// An answer to a beat that was never sent would last too long.
	grant(b.GetSentMs()+3_600_000, 400)
	c, _ = s.attached(t)
	require.False(t, w.Valid())
	c.send(t, 1, registered(0))
	b = until(t, c, beat)
	grant(b.GetSentMs(), 60_000)
	require.Eventually(t, w.Valid, patience, time.Millisecond)
}

func TestLeadersAreToldOnce(t *testing.T) {
	s := newScript(t)
	w := start(t, []string{s.url}, func(c *mapwatch.Config) { c.LeadersMax = 3 })
	c, _ := s.attached(t)
	c.send(t, 1, registered(0))
	at := func(p int) federation.PhysicalAddress {
		return federation.PhysicalAddress{Cluster: "a", Topic: "t", Partition: federation.PhysicalPartition(p)}
	}
	told := func() map[int32]int32 {
		out := map[int32]int32{}
		for _, l := range until(t, c, func(f *controlv1.AttachRequest) *controlv1.Beat {
			if len(f.GetBeat().GetLeaders()) > 0 {
				return f.GetBeat()
			}
			return nil
		}).GetLeaders() {
			require.Equal(t, "a", l.GetCluster())
			require.Equal(t, "t", l.GetPhysicalTopic())
			out[l.GetPhysicalPartition()] = l.GetEpoch()
		}
		return out
	}
	w.SeenLeader(at(0), 5)
	require.Equal(t, map[int32]int32{0: 5}, told())
	w.SeenLeader(at(0), 5)
	w.SeenLeader(at(0), 4)
	w.SeenLeader(at(1), 2)
	require.Equal(t, map[int32]int32{1: 2}, told())

	// A new controller hears it again, if it is seen again.
	close(c.end)
	c, _ = s.attached(t)
	c.send(t, 1, registered(0))
	w.SeenLeader(at(0), 5)
	require.Equal(t, map[int32]int32{0: 5}, told())
}

func TestAwayClustersAreToldWithEachBeat(t *testing.T) {
	s := newScript(t)
	var away atomic.Pointer[[]federation.ClusterName]
	away.Store(&[]federation.ClusterName{"b", "c"})
	start(t, []string{s.url}, func(c *mapwatch.Config) { c.Away = func() []federation.ClusterName { return *away.Load() } })
	c, _ := s.attached(t)
	c.send(t, 1, registered(0))
	told := func(want ...string) {
		t.Helper()
		until(t, c, func(f *controlv1.AttachRequest) *controlv1.Beat {
			if b := f.GetBeat(); b != nil && slices.Equal(b.GetAway(), want) {
				return b
			}
			return nil
		})
	}
	told("b", "c")
	away.Store(&[]federation.ClusterName{})
	told()
}

func TestDrain(t *testing.T) {
	s := newScript(t)
	asked := make(chan string, 1)
	w := start(t, []string{s.url}, func(c *mapwatch.Config) {
		c.OnDrain = func(grace time.Duration, cause string) { asked <- grace.String() + " " + cause }
	})
	c, _ := s.attached(t)
	c.send(t, 1, registered(0))
	require.False(t, until(t, c, beat).GetDraining())
	c.send(t, 1, &controlv1.AttachResponse{Frame: &controlv1.AttachResponse_Drain{Drain: &controlv1.Drain{DeadlineMs: 1500, Cause: "operator"}}})
	require.Equal(t, "1.5s operator", <-asked)
	w.Drain()
	until(t, c, func(f *controlv1.AttachRequest) *controlv1.Beat {
		if f.GetBeat().GetDraining() {
			return f.GetBeat()
		}
		return nil
	})
	require.NoError(t, w.Drained(t.Context(), 3))
	d := until(t, c, func(f *controlv1.AttachRequest) *controlv1.Drained { return f.GetDrained() })
	require.EqualValues(t, 3, d.GetConnectionsLeft())

	close(c.end)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	s.attached(t)
	require.ErrorIs(t, w.Drained(ctx, 0), context.DeadlineExceeded, "no controller takes it")
}

func TestSilentControllerIsLeft(t *testing.T) {
	s := newScript(t)
	start(t, []string{s.url}, func(c *mapwatch.Config) { c.SilenceFactor, c.AttachTimeout = 2, 100*time.Millisecond })
	s.attached(t) // it never answers
	c, _ := s.attached(t)
	c.send(t, 1, registered(0))
	s.attached(t) // it answered once
}

func TestColdStart(t *testing.T) {
	w := start(t, []string{"http://127.0.0.1:1"})
	m := mapOf(4)
	m.Gateways = []*federation.Gateway{{ID: "g1", NodeID: 9, ConnectAddress: "h:1", State: federation.GatewayReady}}
	m.Seal()
	w.write(t, m)
	w.await(t, 4)
	require.EqualValues(t, 9, w.NodeID())
	require.False(t, w.Valid())
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := w.Await(ctx, 5)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*mapwatch.Config){
		"controllers": func(c *mapwatch.Config) { c.Controllers = []string{"nowhere"} },
		"address":     func(c *mapwatch.Config) { c.ConnectAddress = "" },
		"backoff":     func(c *mapwatch.Config) { c.BackoffMax = c.BackoffMin - 1 },
		"timeout":     func(c *mapwatch.Config) { c.AttachTimeout = -1 },
		"silence":     func(c *mapwatch.Config) { c.SilenceFactor = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			c := mapwatch.Config{ConnectAddress: "h:1"}
			c.EnsureDefaults()
			require.NoError(t, c.Validate())
			change(&c)
			require.Error(t, c.Validate())
		})
	}
}
