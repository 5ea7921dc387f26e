package controller_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.opentelemetry.io/otel/metric"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/mapwatch"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/internal/upstream"
)

const patience = 15 * time.Second

func logger(t *testing.T) *slog.Logger {
	t.Helper()
	if os.Getenv("BRAID_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("test", t.Name())
}

// A cut is a network that can be cut: dials fail, and open connections break.
type cut struct {
	mu    sync.Mutex
	off   bool
	conns []net.Conn
}

func (c *cut) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off {
		return nil, errors.New("the network is cut")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err == nil {
		c.conns = append(c.conns, conn)
	}
	return conn, err
}

func (c *cut) set(off bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = off
	if off {
		for _, conn := range c.conns {
			_ = conn.Close()
		}
		c.conns = nil
	}
}

func h2c(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Transport {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: p, DialContext: dial}
}

// A federated world: Redis, physical clusters, controllers.
type world struct {
	t     *testing.T
	redis *miniredis.Miniredis
	kafka map[string]*kfake.Cluster
	meter metric.Meter // nil = nothing is measured
}

func newWorld(t *testing.T, clusters ...string) *world {
	t.Helper()
	w := &world{t: t, redis: miniredis.RunT(t), kafka: map[string]*kfake.Cluster{}}
	for _, name := range clusters {
		w.kafka[name] = newKafka(t, name, 2)
	}
	return w
}

func newKafka(t *testing.T, name string, brokers int) *kfake.Cluster {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(brokers), kfake.ClusterID("kafka-"+name))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	return k
}

func (w *world) store(t *testing.T, net *cut) *redisstore.Store {
	t.Helper()
	cfg := redisstore.Config{URL: "redis://" + w.redis.Addr() + "/0"}
	if net != nil {
		cfg.Dialer = net.dial
	}
	s, err := redisstore.Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// A node is a controller process.
type node struct {
	*controller.Controller
	url    string
	net    *cut // its way to Redis
	server *httptest.Server
	stop   context.CancelFunc
	ended  chan struct{}
}

func fast() controller.Config {
	return controller.Config{
		LeaseTTL:           400 * time.Millisecond,
		RenewInterval:      50 * time.Millisecond,
		BeatInterval:       100 * time.Millisecond,
		BeatTimeout:        2 * time.Second,
		GatewayGrace:       300 * time.Millisecond,
		TakeoverGrace:      3 * time.Second,
		CollectInterval:    100 * time.Millisecond,
		CollectMinInterval: 10 * time.Millisecond,
		ProbeTimeout:       time.Second,
		StepTimeout:        5 * time.Second,
		RequestWait:        10 * time.Second,
	}
}

func (w *world) controller(t *testing.T, id string, change ...func(*controller.Config)) *node {
	t.Helper()
	n := &node{net: &cut{}, ended: make(chan struct{})}
	mux := http.NewServeMux()
	n.server = httptest.NewUnstartedServer(mux)
	n.server.Config.Protocols = new(http.Protocols)
	n.server.Config.Protocols.SetHTTP1(true)
	n.server.Config.Protocols.SetUnencryptedHTTP2(true)
	n.server.Start()
	n.url = n.server.URL
	cfg := fast()
	cfg.ID, cfg.URL = id, n.url
	for _, f := range change {
		f(&cfg)
	}
	pool := upstream.NewPool(upstream.Config{})
	transport := h2c(nil)
	var metrics *controller.Metrics
	if w.meter != nil {
		var err error
		metrics, err = controller.NewMetrics(w.meter, id)
		require.NoError(t, err)
	}
	c, err := controller.New(cfg, controller.Parts{
		Store: w.store(t, n.net), Clusters: pool, Transport: transport, Metrics: metrics, Logger: logger(t),
	})
	require.NoError(t, err)
	n.Controller = c
	c.Mount(mux)
	ctx, cancel := context.WithCancel(t.Context())
	n.stop = cancel
	go func() {
		defer close(n.ended)
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		n.shutdown()
		pool.Close()
		transport.CloseIdleConnections()
	})
	return n
}

// shutdown stops gracefully.
func (n *node) shutdown() {
	n.stop()
	<-n.ended
	n.server.CloseClientConnections()
	n.server.Close()
}

// kill is as close to kill -9 as it gets in one process: nothing is given up in Redis.
func (n *node) kill() {
	n.net.set(true)
	n.server.CloseClientConnections()
	_ = n.server.Listener.Close()
	n.stop()
	<-n.ended
}

// admin is a client of the admin API.
type admin struct {
	topics     adminv1connect.TopicServiceClient
	clusters   adminv1connect.ClusterServiceClient
	fleet      adminv1connect.FleetServiceClient
	operations adminv1connect.OperationServiceClient
}

func adminOf(t *testing.T, url string) *admin {
	t.Helper()
	transport := h2c(nil)
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	return &admin{
		topics:     adminv1connect.NewTopicServiceClient(client, url),
		clusters:   adminv1connect.NewClusterServiceClient(client, url),
		fleet:      adminv1connect.NewFleetServiceClient(client, url),
		operations: adminv1connect.NewOperationServiceClient(client, url),
	}
}

func (w *world) addClusters(t *testing.T, a *admin) {
	t.Helper()
	for name, k := range w.kafka {
		_, err := a.clusters.CreateCluster(t.Context(), &adminv1.CreateClusterRequest{
			Cluster: &adminv1.Cluster{Name: "physicalClusters/" + name, Bootstrap: k.ListenAddrs()},
		})
		require.NoError(t, err)
	}
}

func (a *admin) create(ctx context.Context, name string, partitions int32, change ...func(*adminv1.CreateTopicRequest)) (*adminv1.CreateTopicResponse, error) {
	req := &adminv1.CreateTopicRequest{TopicId: name, Topic: &adminv1.Topic{PartitionCount: partitions}}
	for _, f := range change {
		f(req)
	}
	return a.topics.CreateTopic(ctx, req)
}

func (a *admin) extents(t *testing.T, topic string) []*adminv1.Partition {
	t.Helper()
	resp, err := a.topics.ListExtents(t.Context(), &adminv1.ListExtentsRequest{Parent: topicName(topic)})
	require.NoError(t, err)
	return resp.GetPartitions()
}

// await polls an operation until it is done.
func (a *admin) await(t *testing.T, name string) *adminv1.Operation {
	t.Helper()
	var op *adminv1.Operation
	require.Eventually(t, func() bool {
		resp, err := a.operations.GetOperation(t.Context(), &adminv1.GetOperationRequest{Name: name})
		op = resp.GetOperation()
		return err == nil && op.GetDone()
	}, patience, 10*time.Millisecond, "operation %s", name)
	return op
}

func topicName(topic string) string { return "logicalClusters/default/topics/" + topic }

func kind(err error) federation.Kind { return federation.KindOf(rpcerror.FromError(err)) }

func requireKind(t *testing.T, want federation.Kind, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, rpcerror.KindName(want), rpcerror.KindName(kind(err)), "%v", err)
}

// A gateway is a map watch with its network.
type gateway struct {
	*mapwatch.Watch
	id     string
	net    *cut
	drains atomic.Int32
	stop   context.CancelFunc
	ended  chan struct{}
}

func (w *world) gateway(t *testing.T, id string, controllers []string, change ...func(*mapwatch.Config)) *gateway {
	t.Helper()
	g := &gateway{id: id, net: &cut{}, ended: make(chan struct{})}
	cfg := mapwatch.Config{
		ID: federation.GatewayID(id), ConnectAddress: id + ":8080", KafkaAddress: id + ":9092", Controllers: controllers,
		BackoffMax: 100 * time.Millisecond, LeaseMargin: 10 * time.Millisecond,
		OnDrain: func(time.Duration, string) { g.drains.Add(1) },
	}
	for _, f := range change {
		f(&cfg)
	}
	transport := h2c(g.net.dial)
	watch, err := mapwatch.New(cfg, mapwatch.Parts{Store: w.store(t, nil), HTTP: &http.Client{Transport: transport}, Logger: logger(t)})
	require.NoError(t, err)
	g.Watch = watch
	ctx, cancel := context.WithCancel(t.Context())
	g.stop = cancel
	go func() {
		defer close(g.ended)
		_ = watch.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-g.ended
		transport.CloseIdleConnections()
	})
	return g
}

func (g *gateway) awaitRegistered(t *testing.T) {
	t.Helper()
	select {
	case <-g.Registered():
	case <-time.After(patience):
		require.Fail(t, "the gateway is not registered")
	}
}

// eventually waits until the gateway's map satisfies a condition.
func (g *gateway) eventually(t *testing.T, what string, ok func(*federation.Map) bool) {
	t.Helper()
	require.Eventually(t, func() bool { return ok(g.Current()) }, patience, 5*time.Millisecond, what)
}
