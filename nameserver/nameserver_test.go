package nameserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	namingv1 "github.com/braidmq/braid/gen/braid/naming/v1"
	"github.com/braidmq/braid/gen/braid/naming/v1/namingv1connect"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/nameserver"
)

// maps is a map that tests change by hand.
type maps struct {
	mu      sync.Mutex
	current *federation.Map
	changed chan struct{}
}

func newMaps(gateways ...*federation.Gateway) *maps {
	m := &maps{changed: make(chan struct{})}
	m.current = fleet(1, gateways...)
	return m
}

func (m *maps) Current() *federation.Map {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current
}

func (m *maps) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *maps) set(next *federation.Map) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current = next
	close(m.changed)
	m.changed = make(chan struct{})
}

func fleet(version federation.MapVersion, gateways ...*federation.Gateway) *federation.Map {
	return (&federation.Map{LogicalCluster: federation.DefaultLogicalCluster, Version: version, Gateways: gateways}).Seal()
}

func gateway(n int, role federation.Role, zone string) *federation.Gateway {
	return &federation.Gateway{
		ID: federation.GatewayID(fmt.Sprintf("g%d", n)), NodeID: federation.NodeID(n), Role: role, Zone: zone, State: federation.GatewayReady,
		ConnectAddress: fmt.Sprintf("connect-%d:8080", n), KafkaAddress: fmt.Sprintf("kafka-%d:9092", n),
	}
}

func serve(t *testing.T, cfg nameserver.Config, m nameserver.Maps) (namingv1connect.NameServiceClient, string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(nameserver.New(cfg, m).Handler())
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return namingv1connect.NewNameServiceClient(server.Client(), server.URL), server.URL
}

func addresses(r *namingv1.ResolveResponse) (all []string) {
	for _, e := range r.GetEndpoints() {
		all = append(all, e.GetAddress())
	}
	return all
}

func TestResolveGivesTheClientsGatewaysInTheirOrder(t *testing.T) {
	var all []*federation.Gateway
	for n := range 20 {
		all = append(all, gateway(n, federation.RoleBoth, ""))
	}
	m := newMaps(all...)
	client, _ := serve(t, nameserver.Config{TTL: 7 * time.Second}, m)
	for n := range 50 {
		id := fmt.Sprintf("client-%d", n)
		resp, err := client.Resolve(t.Context(), &namingv1.ResolveRequest{ClientId: id, Protocol: namingv1.Protocol_PROTOCOL_KAFKA})
		require.NoError(t, err)
		var want []string
		for _, g := range m.Current().ClientGateways(federation.ParseClient(id, "")) {
			want = append(want, g.KafkaAddress)
		}
		require.Equal(t, want, addresses(resp))
		require.Len(t, want, federation.ClientGatewaysMax)
		require.EqualValues(t, 1, resp.GetGeneration())
		require.EqualValues(t, 7000, resp.GetTtlMs())
	}
}

func TestResolveHeedsUseZoneAndProtocol(t *testing.T) {
	client, _ := serve(t, nameserver.Config{}, newMaps(
		gateway(1, federation.RoleProduce, "x"), gateway(2, federation.RoleConsume, "x"), gateway(3, federation.RoleProduce, "y")))
	for _, test := range []struct {
		name  string
		query *namingv1.ResolveRequest
		want  []string
	}{
		{"producers", &namingv1.ResolveRequest{Use: namingv1.Use_USE_PRODUCE, ClientId: "c"}, []string{"connect-1:8080", "connect-3:8080"}},
		{"consumers", &namingv1.ResolveRequest{Use: namingv1.Use_USE_CONSUME}, []string{"connect-2:8080"}},
		{"zone", &namingv1.ResolveRequest{Use: namingv1.Use_USE_PRODUCE, Zone: "y"}, []string{"connect-3:8080"}},
		{"zone nobody is in", &namingv1.ResolveRequest{Use: namingv1.Use_USE_CONSUME, Zone: "z"}, []string{"connect-2:8080"}},
		{"hints in the client id", &namingv1.ResolveRequest{ClientId: "app;braid_role=produce;braid_zone=y"}, []string{"connect-3:8080"}},
		{"kafka", &namingv1.ResolveRequest{Use: namingv1.Use_USE_CONSUME, Protocol: namingv1.Protocol_PROTOCOL_KAFKA}, []string{"kafka-2:9092"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp, err := client.Resolve(t.Context(), test.query)
			require.NoError(t, err)
			require.ElementsMatch(t, test.want, addresses(resp))
		})
	}
}

func TestResolveSaysWhyItCannot(t *testing.T) {
	draining := gateway(1, federation.RoleBoth, "")
	draining.State = federation.GatewayDraining
	client, _ := serve(t, nameserver.Config{}, newMaps(draining))

	_, err := client.Resolve(t.Context(), &namingv1.ResolveRequest{Use: namingv1.Use_USE_PRODUCE})
	require.Equal(t, federation.NoLeader, federation.KindOf(rpcerror.FromError(err)))
	require.ErrorContains(t, err, "no gateway that serves produce is ready")

	_, err = client.Resolve(t.Context(), &namingv1.ResolveRequest{LogicalCluster: "other"})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	require.ErrorContains(t, err, `logical cluster "other" does not exist`)

	_, err = client.Resolve(t.Context(), &namingv1.ResolveRequest{Use: 9})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

func TestResolveByGet(t *testing.T) {
	_, base := serve(t, nameserver.Config{}, newMaps(gateway(1, federation.RoleBoth, "")))
	query := url.Values{"encoding": {"json"}, "connect": {"v1"}, "message": {`{"clientId":"curl"}`}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+namingv1connect.NameServiceResolveProcedure+"?"+query.Encode(), nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	var body struct {
		Endpoints []struct{ Address string }
	}
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&body))
	require.Equal(t, "connect-1:8080", body.Endpoints[0].Address)
}

func TestWatchSendsEachChangeOnceAndHeartbeats(t *testing.T) {
	m := newMaps(gateway(1, federation.RoleBoth, ""))
	client, _ := serve(t, nameserver.Config{HeartbeatInterval: 50 * time.Millisecond}, m)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := client.Watch(ctx, &namingv1.WatchRequest{})
	require.NoError(t, err)
	defer func() { _ = stream.Close() }()

	require.True(t, stream.Receive())
	require.Equal(t, []string{"connect-1:8080"}, addresses(stream.Msg().GetAnswer()))
	require.True(t, stream.Receive(), "heartbeat")
	require.Equal(t, []string{"connect-1:8080"}, addresses(stream.Msg().GetAnswer()))

	m.set(fleet(2, gateway(1, federation.RoleBoth, ""), gateway(2, federation.RoleBoth, "")))
	for len(addresses(stream.Msg().GetAnswer())) != 2 {
		require.True(t, stream.Receive())
	}
	require.EqualValues(t, 2, stream.Msg().GetAnswer().GetGeneration())

	// A fleet of none is not worth leaving what one has.
	m.set(fleet(3))
	require.True(t, stream.Receive())
	require.Len(t, addresses(stream.Msg().GetAnswer()), 2)
}

func TestWatchResumesByGeneration(t *testing.T) {
	m := newMaps(gateway(1, federation.RoleBoth, ""))
	client, _ := serve(t, nameserver.Config{HeartbeatInterval: time.Hour}, m)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := make(chan *namingv1.ResolveResponse, 1)
	go func() {
		stream, err := client.Watch(ctx, &namingv1.WatchRequest{Generation: 1})
		if err == nil && stream.Receive() {
			got <- stream.Msg().GetAnswer()
		}
		close(got)
	}()
	m.set(fleet(2, gateway(2, federation.RoleBoth, "")))
	answer := <-got
	require.EqualValues(t, 2, answer.GetGeneration(), "generation 1 was known, so the first answer is that of 2")
}

func TestWatchersAreBounded(t *testing.T) {
	client, _ := serve(t, nameserver.Config{WatchersMax: 1}, newMaps(gateway(1, federation.RoleBoth, "")))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	first, err := client.Watch(ctx, &namingv1.WatchRequest{})
	require.NoError(t, err)
	require.True(t, first.Receive())
	second, err := client.Watch(ctx, &namingv1.WatchRequest{})
	require.NoError(t, err)
	require.False(t, second.Receive())
	require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(second.Err()))
	cancel()
	_ = first.Close()
}

// Gateways without a Kafka facade do not take the place of those that have one.
func TestGatewaysWithoutKafkaAreNotForKafkaClients(t *testing.T) {
	var gateways []*federation.Gateway
	for i := range 2 * federation.ClientGatewaysMax {
		g := gateway(i+1, federation.RoleBoth, "")
		if i >= 3 {
			g.KafkaAddress = ""
		}
		gateways = append(gateways, g)
	}
	client, _ := serve(t, nameserver.Config{}, newMaps(gateways...))
	for protocol, want := range map[namingv1.Protocol]int{namingv1.Protocol_PROTOCOL_KAFKA: 3, namingv1.Protocol_PROTOCOL_CONNECT: federation.ClientGatewaysMax} {
		res, err := client.Resolve(t.Context(), &namingv1.ResolveRequest{ClientId: "c", Protocol: protocol})
		require.NoError(t, err)
		require.Len(t, res.GetEndpoints(), want)
	}
}
