package controller_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/mapwatch"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/gen/braid/control/v1/controlv1connect"
)

func ids(m *federation.Map) []string {
	out := []string{}
	for _, g := range m.Gateways {
		out = append(out, string(g.ID)+" "+g.State.String())
	}
	return out
}

func TestGatewayIsDroppedWhenItsStreamDies(t *testing.T) {
	w := newWorld(t)
	n := w.controller(t, "c1", func(c *controller.Config) { c.GatewayLease = time.Second }) // it may have got a lease, or not
	g1 := w.gateway(t, "g1", []string{n.url})
	g1.awaitRegistered(t)
	g2 := w.gateway(t, "g2", []string{n.url}, func(c *mapwatch.Config) { c.Zone, c.Role = "west", federation.RoleConsume })
	g2.awaitRegistered(t)
	g1.eventually(t, "both", func(m *federation.Map) bool { return len(m.Gateways) == 2 })
	require.NotEqual(t, g1.NodeID(), g2.NodeID())
	m := g1.Current()
	require.Equal(t, &federation.Gateway{
		ID: "g2", NodeID: g2.NodeID(), ConnectAddress: "g2:8080", KafkaAddress: "g2:9092", Zone: "west",
		Role: federation.RoleConsume, State: federation.GatewayReady,
	}, m.Gateway("g2"))
	generation, node := m.FleetGeneration, g2.NodeID()

	g2.stop()
	<-g2.ended
	g1.eventually(t, "g2 is dropped", func(m *federation.Map) bool { return len(m.Gateways) == 1 })
	require.Greater(t, g1.Current().FleetGeneration, generation)

	again := w.gateway(t, "g2", []string{n.url})
	again.awaitRegistered(t)
	require.Equal(t, node, again.NodeID(), "a gateway id keeps its node id")
}

// awaitStream waits until what the controller sends comes through: the stream that
// was cut has been replaced.
func (g *gateway) awaitStream(t *testing.T, n *node) {
	t.Helper()
	a := adminOf(t, n.url)
	before := g.drains.Load()
	require.Eventually(t, func() bool {
		_, err := a.fleet.DrainGateway(t.Context(), &adminv1.DrainGatewayRequest{Name: "gateways/" + g.id})
		return err == nil && g.drains.Load() > before
	}, patience, 10*time.Millisecond)
}

func TestStreamThatComesBackInTimeKeepsTheGateway(t *testing.T) {
	w := newWorld(t)
	n := w.controller(t, "c1", func(c *controller.Config) { c.GatewayGrace = patience })
	g1 := w.gateway(t, "g1", []string{n.url})
	g2 := w.gateway(t, "g2", []string{n.url})
	g1.awaitRegistered(t)
	g2.awaitRegistered(t)
	g1.eventually(t, "both", func(m *federation.Map) bool { return len(m.Gateways) == 2 })
	generation := g1.Current().FleetGeneration

	g2.net.set(true)
	g2.net.set(false)
	g2.awaitStream(t, n)
	require.Equal(t, generation, g1.Current().FleetGeneration, "nobody else noticed")
}

func TestNewGatewayAtTheAddressOfALostOne(t *testing.T) {
	w := newWorld(t)
	n := w.controller(t, "c1", func(c *controller.Config) { c.GatewayGrace = time.Hour })
	old := w.gateway(t, "old", []string{n.url})
	old.awaitRegistered(t)
	old.stop()
	<-old.ended
	g := w.gateway(t, "new", []string{n.url}, func(c *mapwatch.Config) { c.ConnectAddress = "old:8080" })
	g.eventually(t, "the lost one gets no clients", func(m *federation.Map) bool {
		lost := m.Gateway("old")
		return m.Gateway("new") != nil && (lost == nil || lost.State == federation.GatewayLost)
	})
}

func TestDrainingGateway(t *testing.T) {
	w := newWorld(t)
	n := w.controller(t, "c1", func(c *controller.Config) { c.GatewayGrace = time.Hour })
	g1 := w.gateway(t, "g1", []string{n.url})
	g2 := w.gateway(t, "g2", []string{n.url})
	g1.awaitRegistered(t)
	g2.awaitRegistered(t)
	g1.eventually(t, "both", func(m *federation.Map) bool { return len(m.Gateways) == 2 })
	generation := g1.Current().FleetGeneration

	g2.Drain()
	g1.eventually(t, "g2 drains", func(m *federation.Map) bool { return m.Gateway("g2").State == federation.GatewayDraining })
	require.Greater(t, g1.Current().FleetGeneration, generation)

	// It goes on draining when its stream breaks; nobody is sent to it meanwhile.
	generation = g1.Current().FleetGeneration
	g2.net.set(true)
	g2.net.set(false)
	g2.awaitStream(t, n)
	require.NoError(t, g2.Drained(t.Context(), 0))
	require.Equal(t, generation, g1.Current().FleetGeneration)
	g1.eventually(t, "g2 is out at once", func(m *federation.Map) bool { return m.Gateway("g2") == nil })

	_, err := adminOf(t, n.url).fleet.DrainGateway(t.Context(), &adminv1.DrainGatewayRequest{Name: "gateways/ghost"})
	requireKind(t, federation.InvalidArgument, err)
}

func TestEpochsRiseWithPhysicalLeaders(t *testing.T) {
	for name, hint := range map[string]bool{"found by the controller": false, "told by a gateway": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "a")
			n := w.controller(t, "c1", func(c *controller.Config) {
				if hint {
					c.CollectInterval = time.Hour
				}
			})
			a := adminOf(t, n.url)
			w.addClusters(t, a)
			g := w.gateway(t, "g1", []string{n.url})
			g.awaitRegistered(t)
			_, err := a.create(t.Context(), "orders", 2)
			require.NoError(t, err)
			before := g.Current().Topic("orders").Partitions[1]
			at := before.Head().PhysicalAddress

			k := w.kafka["a"]
			to := k.PartitionInfo(at.Topic, int32(at.Partition)).Leader
			require.NoError(t, k.MoveTopicPartition(at.Topic, int32(at.Partition), 1-to))
			epoch := federation.PhysicalEpoch(k.PartitionInfo(at.Topic, int32(at.Partition)).Epoch)
			require.Greater(t, epoch, before.Head().LastEpoch().Physical)
			if hint {
				g.SeenLeader(at, epoch-1)
				g.SeenLeader(at, epoch)
				g.SeenLeader(federation.PhysicalAddress{Cluster: "a", Topic: "of nobody"}, 7)
			}
			g.eventually(t, "the epoch rises", func(m *federation.Map) bool {
				return m.Topic("orders").Partitions[1].Head().LastEpoch().Physical == epoch
			})
			m := g.Current()
			after := m.Topic("orders").Partitions[1]
			require.Greater(t, after.Epoch, before.Epoch)
			require.Equal(t, after.Epoch, after.Head().LastEpoch().Logical)
			require.Equal(t, before.Head().Epochs[0], after.Head().Epochs[0], "batches of before keep their epoch")
			require.Zero(t, m.Topic("orders").Partitions[0].Epoch)
		})
	}
}

func TestClusterAlarms(t *testing.T) {
	w := newWorld(t, "a")
	n := w.controller(t, "c1")
	a := adminOf(t, n.url)
	w.addClusters(t, a)
	_, err := a.create(t.Context(), "orders", 1)
	require.NoError(t, err)
	k := w.kafka["a"]
	status := func() *adminv1.GetStatusResponse {
		resp, err := a.fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
		require.NoError(t, err)
		return resp
	}
	alarm := func(says string) {
		t.Helper()
		require.Eventually(t, func() bool {
			alarms := status().GetAlarms()
			return says == "" && len(alarms) == 0 || len(alarms) == 1 && says != "" && strings.Contains(alarms[0], says)
		}, patience, 10*time.Millisecond, "want %q, have %v", says, status().GetAlarms())
	}
	alarm("")
	healthy := func() bool { return status().GetClusters()[0].GetHealthy() }
	require.True(t, healthy())

	require.NoError(t, k.DeleteTopic("default.orders.1"))
	alarm("1 topics that hold extents are missing")

	addresses := k.ListenAddrs()
	k.Close()
	alarm("does not answer")
	require.False(t, healthy())
	_, err = a.create(t.Context(), "more", 1)
	requireKind(t, federation.ClusterUnavailable, err)

	// Another cluster answers at the addresses.
	kafkaAt(t, addresses, "another")
	alarm("another Kafka cluster")
	require.False(t, healthy())
}

// A controller that everybody can change says so as soon as there is something to get
// around.
func TestUnguardedPortIsAnAlarm(t *testing.T) {
	w := newWorld(t)
	for id, unguarded := range map[string]bool{"open": true, "guarded": false} {
		n := w.controller(t, id, func(c *controller.Config) { c.Unguarded, c.LogicalCluster = unguarded, id })
		a := adminOf(t, n.url)
		_, _, acls := tenantClients(t, n.url)
		alarms := func() []string {
			s, err := a.fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
			require.NoError(t, err)
			return s.GetAlarms()
		}
		require.Empty(t, alarms(), "there is nothing to get around")
		_, err := acls.CreateAcls(t.Context(), &adminv1.CreateAclsRequest{Acls: []*adminv1.Acl{{
			ResourceType: adminv1.Acl_RESOURCE_TYPE_TOPIC, ResourceName: "orders", Principal: "User:alice", Operation: adminv1.Acl_OPERATION_READ,
		}}})
		require.NoError(t, err)
		if !unguarded {
			require.Empty(t, alarms())
			continue
		}
		require.Len(t, alarms(), 1)
		require.Contains(t, alarms()[0], "--fleet-token-file")
		_, err = acls.DeleteAcls(t.Context(), &adminv1.DeleteAclsRequest{Filters: []*adminv1.AclFilter{{}}})
		require.NoError(t, err)
		require.Empty(t, alarms())
	}
}

// kafkaAt starts a cluster at the addresses of one that was closed.
func kafkaAt(t *testing.T, addresses []string, id string) {
	t.Helper()
	var ports []int
	for _, address := range addresses {
		_, port, err := net.SplitHostPort(address)
		require.NoError(t, err)
		n, err := strconv.Atoi(port)
		require.NoError(t, err)
		ports = append(ports, n)
	}
	k, err := kfake.NewCluster(kfake.Ports(ports...), kfake.ClusterID(id))
	require.NoError(t, err)
	t.Cleanup(k.Close)
}

// A cluster that was away takes what it is asked to take as soon as it is back, not
// only after the next look.
func TestClusterThatIsBackTakesTopicsAtOnce(t *testing.T) {
	w := newWorld(t, "a")
	seldom := func(c *controller.Config) { c.CollectInterval = time.Hour }
	n := w.controller(t, "c1", seldom)
	w.addClusters(t, adminOf(t, n.url))
	addresses := w.kafka["a"].ListenAddrs()
	n.shutdown()
	w.kafka["a"].Close()

	n = w.controller(t, "c2", seldom)
	a := adminOf(t, n.url)
	require.Eventually(t, func() bool {
		s, err := a.fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
		return err == nil && len(s.GetAlarms()) == 1
	}, patience, 10*time.Millisecond, "the first look finds it away")
	_, err := a.create(t.Context(), "orders", 1)
	requireKind(t, federation.ClusterUnavailable, err)

	kafkaAt(t, addresses, "kafka-a")
	_, err = a.create(t.Context(), "orders", 1)
	require.NoError(t, err)
}

func TestStatus(t *testing.T) {
	w := newWorld(t, "a", "b")
	n := w.controller(t, "c1")
	a := adminOf(t, n.url)
	w.addClusters(t, a)
	g := w.gateway(t, "g1", []string{n.url}, func(c *mapwatch.Config) {
		c.Build = "v7"
		c.Load = func() mapwatch.Load { return mapwatch.Load{Connections: 5} }
	})
	g.awaitRegistered(t)
	_, err := a.create(t.Context(), "orders", 3)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		s, err := a.fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
		return err == nil && len(s.GetGateways()) == 1 && s.GetGateways()[0].GetConnections() == 5 &&
			s.GetGateways()[0].GetMapVersion() == s.GetMapVersion() && s.GetGateways()[0].GetBuild() == "v7" &&
			s.GetTopics() == 1 && s.GetPartitions() == 3 && s.GetExtents() == 3 && len(s.GetClusters()) == 2 &&
			len(s.GetControllers()) == 1 && s.GetControllers()[0].GetLeader() && s.GetControllers()[0].GetUrl() == n.url &&
			len(s.GetRunningOperations()) == 0 && len(s.GetAlarms()) == 0
	}, patience, 10*time.Millisecond)
	list, err := a.fleet.ListGateways(t.Context(), &adminv1.ListGatewaysRequest{})
	require.NoError(t, err)
	require.Equal(t, "gateways/g1", list.GetGateways()[0].GetName())
}

func TestAttachRefusesNonsense(t *testing.T) {
	w := newWorld(t)
	n := w.controller(t, "c1", func(c *controller.Config) { c.RegisterTimeout = 200 * time.Millisecond })
	transport := h2c(nil)
	defer transport.CloseIdleConnections()
	client := controlv1connect.NewControlServiceClient(&http.Client{Transport: transport}, n.url)
	good := func() *controlv1.Register {
		return &controlv1.Register{GatewayId: "g1", Incarnation: "x", ConnectAddress: "h:1", KafkaAddress: "h:2"}
	}
	require.Eventually(t, func() bool { // until it leads
		_, err := adminOf(t, n.url).fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
		return err == nil
	}, patience, 10*time.Millisecond)
	for name, tc := range map[string]struct {
		frames []*controlv1.AttachRequest
		says   string
	}{
		"nothing":      {[]*controlv1.AttachRequest{nil}, "no register frame"},
		"beat first":   {[]*controlv1.AttachRequest{{Frame: &controlv1.AttachRequest_Beat{Beat: &controlv1.Beat{}}}}, "must be register"},
		"empty frame":  {[]*controlv1.AttachRequest{register(good), {}}, "does not know"},
		"twice":        {[]*controlv1.AttachRequest{register(good), register(good)}, "register came twice"},
		"no id":        {[]*controlv1.AttachRequest{register(good, func(r *controlv1.Register) { r.GatewayId = "" })}, "gateway id"},
		"slash":        {[]*controlv1.AttachRequest{register(good, func(r *controlv1.Register) { r.GatewayId = "a/b" })}, "gateway id"},
		"incarnation":  {[]*controlv1.AttachRequest{register(good, func(r *controlv1.Register) { r.Incarnation = "" })}, "incarnation"},
		"address":      {[]*controlv1.AttachRequest{register(good, func(r *controlv1.Register) { r.ConnectAddress = "h" })}, "HOST:PORT"},
		"role":         {[]*controlv1.AttachRequest{register(good, func(r *controlv1.Register) { r.Role = "king" })}, "king"},
		"version":      {[]*controlv1.AttachRequest{register(good, func(r *controlv1.Register) { r.MapVersion = -1 })}, "negative"},
		"ahead":        {[]*controlv1.AttachRequest{register(good, func(r *controlv1.Register) { r.MapVersion = 1 << 40 })}, "never goes back"},
		"refuses all":  {append([]*controlv1.AttachRequest{register(good)}, refusals(4)...), "refuses the whole map"},
		"many leaders": {[]*controlv1.AttachRequest{register(good), {Frame: &controlv1.AttachRequest_Beat{Beat: &controlv1.Beat{Leaders: make([]*controlv1.LeaderSeen, 10_001)}}}}, "10001 leaders"},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := client.Attach(t.Context())
			require.NoError(t, err)
			for _, f := range tc.frames {
				err := stream.Send(f)
				if errors.Is(err, io.EOF) {
					break // over already: Receive says why
				}
				require.NoError(t, err)
			}
			for err == nil {
				_, err = stream.Receive()
			}
			require.ErrorContains(t, err, tc.says)
			_ = stream.CloseRequest()
		})
	}
}

func refusals(n int) []*controlv1.AttachRequest {
	var out []*controlv1.AttachRequest
	for range n {
		out = append(out, &controlv1.AttachRequest{Frame: &controlv1.AttachRequest_MapApplied{MapApplied: &controlv1.MapApplied{Rejected: []string{"no"}}}})
	}
	return out
}

func register(base func() *controlv1.Register, change ...func(*controlv1.Register)) *controlv1.AttachRequest {
	r := base()
	for _, f := range change {
		f(r)
	}
	return &controlv1.AttachRequest{Frame: &controlv1.AttachRequest_Register{Register: r}}
}

// A gateway that is silent is dropped even though its connection stands.
func TestSilentGatewayIsDropped(t *testing.T) {
	w := newWorld(t)
	n := w.controller(t, "c1", func(c *controller.Config) { c.BeatTimeout = 300 * time.Millisecond })
	watcher := w.gateway(t, "watcher", []string{n.url}, func(c *mapwatch.Config) { c.WatchOnly = true })
	watcher.awaitRegistered(t)
	require.False(t, watcher.Valid(), "a watcher has no lease")
	transport := h2c(nil)
	defer transport.CloseIdleConnections()
	stream, err := controlv1connect.NewControlServiceClient(&http.Client{Transport: transport}, n.url).Attach(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.Send(&controlv1.AttachRequest{Frame: &controlv1.AttachRequest_Register{Register: &controlv1.Register{
		GatewayId: "silent", Incarnation: "x", ConnectAddress: "h:1",
	}}}))
	watcher.eventually(t, "it is in", func(m *federation.Map) bool { return m.Gateway("silent") != nil })
	watcher.eventually(t, "it is out", func(m *federation.Map) bool { return m.Gateway("silent") == nil })
	require.Equal(t, []string{}, ids(watcher.Current()), "a watcher is no gateway")
	_ = stream.CloseRequest()
}

// A gateway that cannot apply a delta says so, and gets the whole map.
func TestRejectedMapIsSentWhole(t *testing.T) {
	w := newWorld(t)
	n := w.controller(t, "c1")
	n.leads(t)
	transport := h2c(nil)
	defer transport.CloseIdleConnections()
	stream, err := controlv1connect.NewControlServiceClient(&http.Client{Transport: transport}, n.url).Attach(t.Context())
	require.NoError(t, err)
	defer func() { _ = stream.CloseRequest() }()
	send := func(f *controlv1.AttachRequest) { require.NoError(t, stream.Send(f)) }
	receive := func() *controlv1.AttachResponse {
		f, err := stream.Receive()
		require.NoError(t, err)
		require.Positive(t, f.GetControllerEpoch())
		return f
	}
	send(register(func() *controlv1.Register {
		return &controlv1.Register{GatewayId: "g1", Incarnation: "x", ConnectAddress: "h:1"}
	}))
	reg := receive().GetRegistered()
	require.Positive(t, reg.GetNodeId())
	require.Zero(t, reg.GetLease().GetValidMs(), "a lease for one that has not applied the map")
	require.EqualValues(t, 1, receive().GetSnapshot().GetParts())
	next := func() *controlv1.MapDelta { // skips what else comes
		for {
			if d := receive().GetDelta(); d != nil {
				return d
			}
		}
	}
	other := w.gateway(t, "g2", []string{n.url})
	other.awaitRegistered(t)
	delta := next()
	for !slices.ContainsFunc(delta.GetUpserts(), func(e *controlv1.MapEntry) bool { return e.GetKey() == "gateway/g2" }) {
		delta = next()
	}
	send(&controlv1.AttachRequest{Frame: &controlv1.AttachRequest_MapApplied{MapApplied: &controlv1.MapApplied{
		Version: delta.GetFromVersion(), Rejected: []string{"gateway/g2: no"},
	}}})
	again := receive().GetSnapshot()
	require.Equal(t, delta.GetToVersion(), again.GetVersion(), "not an older one that others could use")
	s, err := adminOf(t, n.url).fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
	require.NoError(t, err)
	require.Len(t, s.GetAlarms(), 1)
	require.Contains(t, s.GetAlarms()[0], "gateway/g2: no")
	send(&controlv1.AttachRequest{Frame: &controlv1.AttachRequest_MapApplied{MapApplied: &controlv1.MapApplied{Version: again.GetVersion()}}})
	send(&controlv1.AttachRequest{Frame: &controlv1.AttachRequest_Beat{Beat: &controlv1.Beat{SentMs: 42}}})
	lease := receive().GetLease()
	require.EqualValues(t, 42, lease.GetAnswersSentMs())
	require.Positive(t, lease.GetValidMs())
	s, err = adminOf(t, n.url).fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
	require.NoError(t, err)
	require.Empty(t, s.GetAlarms())
	list := s.GetGateways()
	require.Len(t, list, 2)
	require.Equal(t, again.GetVersion(), list[0].GetMapVersion())
}

// A gateway process that comes again under its id is ready, though its earlier
// life was draining.
func TestRestartAfterADrain(t *testing.T) {
	w := newWorld(t)
	n := w.controller(t, "c1", func(c *controller.Config) { c.GatewayGrace = time.Hour })
	old := w.gateway(t, "g1", []string{n.url})
	old.awaitRegistered(t)
	old.Drain()
	old.eventually(t, "it drains", func(m *federation.Map) bool {
		return m.Gateway("g1") != nil && m.Gateway("g1").State == federation.GatewayDraining
	})
	old.stop()
	<-old.ended
	again := w.gateway(t, "g1", []string{n.url})
	again.awaitRegistered(t)
	again.eventually(t, "it is ready", func(m *federation.Map) bool {
		return m.Gateway("g1") != nil && m.Gateway("g1").State == federation.GatewayReady
	})
}

// A registration that holds a recent version gets what it lacks, not all.
func TestRegistrationGetsADelta(t *testing.T) {
	w := newWorld(t)
	n := w.controller(t, "c1")
	n.leads(t)
	g := w.gateway(t, "g1", []string{n.url})
	g.awaitRegistered(t)
	g.eventually(t, "a map", func(m *federation.Map) bool { return m.Gateway("g1") != nil })
	version := g.Current().Version
	w.gateway(t, "g2", []string{n.url}).awaitRegistered(t)
	transport := h2c(nil)
	defer transport.CloseIdleConnections()
	client := controlv1connect.NewControlServiceClient(&http.Client{Transport: transport}, n.url)
	for _, json := range []bool{false, true} {
		if json {
			client = controlv1connect.NewControlServiceClient(&http.Client{Transport: transport}, n.url, connect.WithProtoJSON())
		}
		stream, err := client.Attach(t.Context())
		require.NoError(t, err)
		require.NoError(t, stream.Send(register(func() *controlv1.Register {
			return &controlv1.Register{WatchOnly: true, MapVersion: int64(version)}
		})))
		f, err := stream.Receive()
		require.NoError(t, err)
		require.NotNil(t, f.GetRegistered())
		f, err = stream.Receive()
		require.NoError(t, err)
		require.EqualValues(t, version, f.GetDelta().GetFromVersion())
		require.NotEmpty(t, f.GetDelta().GetUpserts())
		_ = stream.CloseRequest()
	}
}
