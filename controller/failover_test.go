package controller_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	"github.com/braidmq/braid/gateway/mapwatch"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/gen/braid/control/v1/controlv1connect"
	"github.com/braidmq/braid/internal/redisstore"
)

// leads waits until a controller leads.
func (n *node) leads(t *testing.T) {
	t.Helper()
	a := adminOf(t, n.url)
	require.Eventually(t, func() bool {
		s, err := a.fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
		if err != nil {
			return false
		}
		for _, c := range s.GetControllers() {
			if c.GetLeader() && c.GetUrl() == n.url {
				return true
			}
		}
		return false
	}, patience, 5*time.Millisecond)
}

// createsTopic reports whether a request creates a topic that somebody has asked for: the
// clusters' journals are created meanwhile.
func createsTopic(r kmsg.Request) bool {
	c := r.(*kmsg.CreateTopicsRequest)
	return !c.ValidateOnly && !strings.Contains(c.Topics[0].Topic, ".braid-")
}

func TestLeaderKilledDuringTopicCreation(t *testing.T) {
	w := newWorld(t, "a", "b")
	c1 := w.controller(t, "c1")
	c1.leads(t)
	c2 := w.controller(t, "c2")
	a := adminOf(t, c1.url)
	w.addClusters(t, a)
	g := w.gateway(t, "g1", []string{c1.url, c2.url})
	g.awaitRegistered(t)

	// Cluster b does not answer the creation before the leader is dead.
	k := w.kafka["b"]
	asked, dead := make(chan struct{}), make(chan struct{})
	first := true
	k.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if !createsTopic(req) || !first {
			return nil, nil, false
		}
		first = false
		close(asked)
		k.SleepControl(func() { <-dead })
		return nil, errors.New("the leader is dead"), true
	})
	started, err := a.create(t.Context(), "orders", 4, func(r *adminv1.CreateTopicRequest) { r.NoWait, r.RequestId = true, "r1" })
	require.NoError(t, err)
	<-asked
	require.Nil(t, g.Current().Topic("orders"))
	c1.kill()
	close(dead)

	g.eventually(t, "the next leader goes on", func(m *federation.Map) bool { return m.Topic("orders") != nil })
	b := adminOf(t, c2.url)
	op := b.await(t, started.GetOperation())
	require.Zero(t, op.GetErrorCode(), op.GetErrorMessage())
	require.Len(t, b.extents(t, "orders"), 4)
	for _, cluster := range []string{"a", "b"} {
		require.Len(t, w.kafka[cluster].PartitionInfos("default.orders.1"), 2)
		require.Nil(t, w.kafka[cluster].TopicInfo("default.orders.2"), "the plan of the first leader was kept")
	}
	again, err := b.create(t.Context(), "orders", 4, func(r *adminv1.CreateTopicRequest) { r.RequestId = "r1" })
	require.NoError(t, err)
	require.Equal(t, started.GetOperation(), again.GetOperation())
	require.Len(t, g.Current().Gateways, 1, "no gateway was dropped")
	require.True(t, g.Valid())
}

// published waits until a topic is in the map that the store has.
func (w *world) published(t *testing.T, topic federation.TopicName) {
	t.Helper()
	store := w.store(t, nil)
	require.Eventually(t, func() bool {
		m, err := store.LoadMap(t.Context(), "default")
		return err == nil && m.Topic(topic) != nil
	}, patience, time.Millisecond, "topic %q in the map", topic)
}

// A call that changes the map returns when clients find the change everywhere: a
// gateway that is on its way to a new leader counts, until it is taken for dead.
func TestNewLeaderWaitsForGatewaysOnTheirWay(t *testing.T) {
	w := newWorld(t, "a")
	c1 := w.controller(t, "c1")
	c1.leads(t)
	c2 := w.controller(t, "c2", func(c *controller.Config) { c.TakeoverGrace = patience })
	w.addClusters(t, adminOf(t, c1.url))
	near := w.gateway(t, "near", []string{c1.url, c2.url})
	far := w.gateway(t, "far", []string{c1.url, c2.url})
	near.awaitRegistered(t)
	far.awaitRegistered(t)
	far.net.set(true)
	c1.kill()
	c2.leads(t)

	type result struct {
		known bool
		err   error
	}
	created := make(chan result, 1)
	go func() {
		_, err := adminOf(t, c2.url).create(t.Context(), "orders", 2)
		created <- result{far.Current().Topic("orders") != nil, err}
	}()
	w.published(t, "orders")
	near.eventually(t, "the topic", func(m *federation.Map) bool { return m.Topic("orders") != nil })
	require.Empty(t, created, "the call has returned, though a gateway lacks the topic")
	far.net.set(false)
	r := <-created
	require.NoError(t, r.err)
	require.True(t, r.known, "the gateway has the topic when the call returns")
}

func TestNewLeaderGivesUpOnGatewaysThatDoNotCome(t *testing.T) {
	w := newWorld(t, "a")
	c1 := w.controller(t, "c1")
	c1.leads(t)
	c2 := w.controller(t, "c2", func(c *controller.Config) { c.TakeoverGrace = time.Second })
	w.addClusters(t, adminOf(t, c1.url))
	near := w.gateway(t, "near", []string{c1.url, c2.url})
	dead := w.gateway(t, "dead", []string{c1.url, c2.url})
	near.awaitRegistered(t)
	dead.awaitRegistered(t)
	dead.net.set(true)
	c1.kill()
	c2.leads(t)
	_, err := adminOf(t, c2.url).create(t.Context(), "orders", 2)
	require.NoError(t, err)
	require.NotNil(t, near.Current().Topic("orders"))
	m, err := w.store(t, nil).LoadMap(t.Context(), "default")
	require.NoError(t, err)
	require.Equal(t, []string{"dead lost", "near ready"}, ids(m), "no client is sent there when the call returns")
}

func TestStandbyPassesCallsOn(t *testing.T) {
	w := newWorld(t, "a")
	c1 := w.controller(t, "c1")
	c1.leads(t)
	c2 := w.controller(t, "c2")
	a := adminOf(t, c2.url)
	w.addClusters(t, a)
	_, err := a.create(t.Context(), "orders", 2)
	require.NoError(t, err)
	_, err = a.create(t.Context(), "orders", 2)
	requireKind(t, federation.TopicExists, err)

	ops, err := a.operations.ListOperations(t.Context(), &adminv1.ListOperationsRequest{})
	require.NoError(t, err)
	stream, err := a.operations.WatchOperation(t.Context(), &adminv1.WatchOperationRequest{Name: ops.GetOperations()[0].GetName()})
	require.NoError(t, err)
	require.True(t, stream.Receive(), "%v", stream.Err())
	require.True(t, stream.Msg().GetOperation().GetDone())
	require.False(t, stream.Receive())
	require.NoError(t, stream.Err())

	g := w.gateway(t, "g1", []string{c2.url}) // knows only the standby
	g.awaitRegistered(t)
	g.eventually(t, "the map", func(m *federation.Map) bool { return m.Topic("orders") != nil })

	// A graceful stop hands over at once; the call waits for it.
	c1.shutdown()
	resp, err := a.fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 1, resp.GetTopics())
}

// A leader that is cut off from Redis can change nothing any more, once another
// one leads; its gateways find the new one.
func TestOldLeaderCutOffFromRedis(t *testing.T) {
	w := newWorld(t, "a")
	c1 := w.controller(t, "c1", func(c *controller.Config) { c.GatewayLease = 3 * time.Second })
	c1.leads(t)
	a1 := adminOf(t, c1.url)
	w.addClusters(t, a1)
	g := w.gateway(t, "g1", []string{c1.url}, func(c *mapwatch.Config) { c.SilenceFactor = 2 })
	g.awaitRegistered(t)
	require.Eventually(t, g.Valid, patience, time.Millisecond)
	c2 := w.controller(t, "c2")

	c1.net.set(true)
	c2.leads(t)
	a2 := adminOf(t, c2.url)
	before, err := a2.fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
	require.NoError(t, err)
	_, err = a1.create(t.Context(), "by-the-old-leader", 1, func(r *adminv1.CreateTopicRequest) { r.NoWait = true })
	require.Error(t, err)

	// The gateway's stream stands, but its lease is not renewed: it looks elsewhere.
	require.Eventually(t, func() bool {
		s, err := a2.fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
		return err == nil && len(s.GetGateways()) == 1 && s.GetGateways()[0].GetMapVersion() >= before.GetMapVersion() && g.Valid()
	}, patience, 10*time.Millisecond)
	_, err = a2.create(t.Context(), "by-the-new-leader", 1)
	require.NoError(t, err)
	g.eventually(t, "the new leader's map", func(m *federation.Map) bool { return m.Topic("by-the-new-leader") != nil })

	// Back on the network the old leader finds that it is none, and passes calls on.
	c1.net.set(false)
	require.Eventually(t, func() bool {
		list, err := a1.topics.ListTopics(t.Context(), &adminv1.ListTopicsRequest{})
		return err == nil && len(list.GetTopics()) == 1
	}, patience, 10*time.Millisecond)
	m, err := w.store(t, nil).LoadMap(t.Context(), "default")
	require.NoError(t, err)
	require.Nil(t, m.Topic("by-the-old-leader"))
}

// A leader that does not know yet that another one has led makes the change as the
// next leader, or has it made; the caller sees no error.
func TestChangeAtAnOldLeader(t *testing.T) {
	w := newWorld(t, "a")
	c1 := w.controller(t, "c1", func(c *controller.Config) {
		c.LeaseTTL, c.RenewInterval, c.GatewayLease = 2*time.Minute, time.Minute, 5*time.Minute // it does not find out by itself
	})
	a := adminOf(t, c1.url)
	w.addClusters(t, a)
	store := w.store(t, nil)
	other := func() {
		l, ok, err := store.Leader(t.Context(), "default")
		require.NoError(t, err)
		require.True(t, ok)
		require.NoError(t, store.ReleaseLeadership(t.Context(), "default", l.Fencing))
		l, ok, err = store.AcquireLeadership(t.Context(), "default", redisstore.Candidate{ID: "x", URL: "http://127.0.0.1:1"}, time.Minute)
		require.NoError(t, err)
		require.True(t, ok)
		require.NoError(t, store.ReleaseLeadership(t.Context(), "default", l.Fencing))
	}
	other()
	_, err := a.clusters.UpdateCluster(t.Context(), &adminv1.UpdateClusterRequest{
		Cluster:    &adminv1.Cluster{Name: "physicalClusters/a", Weight: 7},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"weight"}},
	})
	require.NoError(t, err, "an edit of the map")
	other()
	_, err = a.create(t.Context(), "orders", 2)
	require.NoError(t, err, "an operation")
	_, err = a.create(t.Context(), "orders", 2)
	requireKind(t, federation.TopicExists, err)
	m, err := store.LoadMap(t.Context(), "default")
	require.NoError(t, err)
	require.NotNil(t, m.Topic("orders"))
	require.EqualValues(t, 7, m.Clusters["a"].Weight)
}

func TestLeaseRunsOutWithoutRedis(t *testing.T) {
	w := newWorld(t)
	n := w.controller(t, "c1", func(c *controller.Config) { c.GatewayLease = 700 * time.Millisecond })
	g := w.gateway(t, "g1", []string{n.url})
	g.awaitRegistered(t)
	require.Eventually(t, g.Valid, patience, time.Millisecond)
	n.net.set(true)
	require.Eventually(t, func() bool { return !g.Valid() }, patience, time.Millisecond)
	n.net.set(false)
	require.Eventually(t, g.Valid, patience, time.Millisecond, "the lead is confirmed again")
}

func TestGatewayStartsWithoutAnyController(t *testing.T) {
	w := newWorld(t, "a")
	c1 := w.controller(t, "c1")
	a := adminOf(t, c1.url)
	w.addClusters(t, a)
	_, err := a.create(t.Context(), "orders", 2)
	require.NoError(t, err)
	c1.kill()
	g := w.gateway(t, "g1", []string{c1.url})
	g.eventually(t, "the map from the store", func(m *federation.Map) bool { return m.Topic("orders") != nil })
	require.False(t, g.Valid())

	// The next controller is found by Redis, though no configuration names it.
	c2 := w.controller(t, "c2")
	g.awaitRegistered(t)
	require.Eventually(t, g.Valid, patience, time.Millisecond)
	c2.leads(t)
	m, err := g.Await(t.Context(), g.Current().Version)
	require.NoError(t, err)
	require.NotNil(t, m.Topic("orders"))
}

func TestCancelledAndFailedCreationsAreUndone(t *testing.T) {
	w := newWorld(t, "a", "b")
	n := w.controller(t, "c1", func(c *controller.Config) { c.StepTimeout = time.Second })
	a := adminOf(t, n.url)
	w.addClusters(t, a)
	k := w.kafka["b"]
	k.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if req.(*kmsg.CreateTopicsRequest).ValidateOnly {
			return nil, nil, false
		}
		return nil, errors.New("cluster b takes no topics"), true
	})
	started, err := a.create(t.Context(), "orders", 4, func(r *adminv1.CreateTopicRequest) { r.NoWait = true })
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.kafka["a"].TopicInfo("default.orders.1") != nil }, patience, time.Millisecond)
	_, err = a.create(t.Context(), "orders", 4)
	requireKind(t, federation.Conflict, err)
	cancelled, err := a.operations.CancelOperation(t.Context(), &adminv1.CancelOperationRequest{Name: started.GetOperation()})
	require.NoError(t, err)
	require.True(t, cancelled.GetOperation().GetDone())
	require.EqualValues(t, 1, cancelled.GetOperation().GetErrorCode())
	require.Nil(t, w.kafka["a"].TopicInfo("default.orders.1"))

	_, err = a.create(t.Context(), "orders", 4)
	requireKind(t, federation.ClusterUnavailable, err)
	require.Nil(t, w.kafka["a"].TopicInfo("default.orders.2"))
	list, err := a.topics.ListTopics(t.Context(), &adminv1.ListTopicsRequest{})
	require.NoError(t, err)
	require.Empty(t, list.GetTopics())
}

func TestRedisLosesEverything(t *testing.T) {
	w := newWorld(t, "a")
	n := w.controller(t, "c1")
	a := adminOf(t, n.url)
	w.addClusters(t, a)
	g := w.gateway(t, "g1", []string{n.url})
	g.awaitRegistered(t)
	_, err := a.create(t.Context(), "orders", 3)
	require.NoError(t, err)
	before := g.Current()
	epoch := func() int64 {
		s, err := a.fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
		if err != nil || len(s.GetControllers()) == 0 {
			return 0
		}
		return s.GetControllers()[0].GetEpoch()
	}
	old := epoch()

	w.redis.FlushAll()
	require.Eventually(t, func() bool { return epoch() > old }, patience, 5*time.Millisecond, "it leads again, under a higher number")
	s, err := a.fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
	require.NoError(t, err)
	require.Contains(t, strings.Join(s.GetAlarms(), "; "), "the store had lost map versions")

	// The same name again, though the store has forgotten which generations there were.
	deleted, err := a.topics.DeleteTopic(t.Context(), &adminv1.DeleteTopicRequest{Name: topicName("orders")})
	require.NoError(t, err)
	require.Zero(t, a.await(t, deleted.GetOperation()).GetErrorCode())
	_, err = a.create(t.Context(), "orders", 1)
	require.NoError(t, err)
	other := w.gateway(t, "g2", []string{n.url})
	other.awaitRegistered(t)
	g.eventually(t, "both gateways", func(m *federation.Map) bool { return len(m.Gateways) == 2 })
	require.NotEqual(t, g.NodeID(), other.NodeID())
	require.Greater(t, g.Current().Version, before.Version)
	require.Equal(t, before.ClusterID, g.Current().ClusterID)
	m, err := w.store(t, nil).LoadMap(t.Context(), "default")
	require.NoError(t, err)
	require.GreaterOrEqual(t, m.Version, before.Version)
}

// Data that lies on a cluster under the name of a new topic never appears in it.
func TestPhysicalTopicOfAnotherLife(t *testing.T) {
	w := newWorld(t, "a", "b")
	require.NoError(t, w.kafka["a"].CreateTopic("default.orders.1", 2, nil))
	require.NoError(t, w.kafka["b"].CreateTopic("default.orders.2", 1, nil))
	n := w.controller(t, "c1")
	a := adminOf(t, n.url)
	w.addClusters(t, a)
	_, err := a.create(t.Context(), "orders", 4)
	require.NoError(t, err)
	for _, p := range a.extents(t, "orders") {
		require.Equal(t, "default.orders.3", p.GetExtents()[0].GetPhysicalTopic())
	}
	require.NotNil(t, w.kafka["a"].TopicInfo("default.orders.1"), "it was not touched")
}

// A leader that is cut off from the store goes on, but another one may lead by now:
// it must not say for good what it cannot know, nor hide that it may be wrong.
func TestLeaderWithoutTheStoreGivesNoFinalErrors(t *testing.T) {
	w := newWorld(t, "a")
	c1 := w.controller(t, "c1")
	c1.leads(t)
	a := adminOf(t, c1.url)
	ask := func() error {
		_, err := a.operations.GetOperation(t.Context(), &adminv1.GetOperationRequest{Name: "operations/later"})
		return err
	}
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(ask()))
	w.redis.SetError("LOADING away")
	require.Eventually(t, func() bool { return connect.CodeOf(ask()) == connect.CodeUnavailable }, patience, 10*time.Millisecond)
	status, err := a.fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
	require.NoError(t, err)
	require.Contains(t, strings.Join(status.GetAlarms(), "\n"), "may be old")
	// Its map may be old, too: a gateway that has just started must not show it to clients.
	g := w.gateway(t, "new", []string{c1.url})
	require.Never(t, func() bool { return g.Current().Version > 0 }, 500*time.Millisecond, 10*time.Millisecond)
	w.redis.SetError("")
	require.Eventually(t, func() bool { return connect.CodeOf(ask()) == connect.CodeInvalidArgument }, patience, 10*time.Millisecond)
	g.awaitRegistered(t)
}

// A write of the map whose answer is lost was made, or not. A gateway that has read it from
// the store shows which: it is let in, and nothing is said of a store that has lost writes.
func TestGatewayHasReadWhatTheLeaderDoesNotKnowOf(t *testing.T) {
	w := newWorld(t, "a")
	c1 := w.controller(t, "c1")
	c1.leads(t)
	a := adminOf(t, c1.url)
	w.addClusters(t, a)
	store := w.store(t, nil)
	weigh := func(weight int32) error {
		_, err := a.clusters.UpdateCluster(t.Context(), &adminv1.UpdateClusterRequest{
			Cluster:    &adminv1.Cluster{Name: "physicalClusters/a", Weight: weight},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"weight"}},
		})
		return err
	}
	require.NoError(t, weigh(2))
	l, ok, err := store.Leader(t.Context(), "default")
	require.NoError(t, err)
	require.True(t, ok)
	m, err := store.LoadMap(t.Context(), "default")
	require.NoError(t, err)
	w.redis.SetError("LOADING away")
	require.Error(t, weigh(3))
	w.redis.SetError("")
	next := *m
	next.Version++
	cluster := *m.Clusters["a"]
	cluster.Weight = 3
	next.Clusters = map[federation.ClusterName]*federation.Cluster{"a": &cluster}
	require.NoError(t, store.WriteMap(t.Context(), "default", l.Fencing, wire.Diff(m, next.Seal())))

	transport := h2c(nil)
	defer transport.CloseIdleConnections()
	stream, err := controlv1connect.NewControlServiceClient(&http.Client{Transport: transport}, c1.url).Attach(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.Send(register(func() *controlv1.Register {
		return &controlv1.Register{GatewayId: "g1", Incarnation: "x", ConnectAddress: "h:1", KafkaAddress: "h:2", MapVersion: int64(next.Version)}
	})))
	first, err := stream.Receive()
	require.NoError(t, err)
	require.GreaterOrEqual(t, first.GetRegistered().GetMapVersion(), int64(next.Version))
	require.Empty(t, alarms(t, a))
	require.NoError(t, stream.CloseRequest())
}
