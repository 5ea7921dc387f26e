package gateway_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/gateway/router"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/upstream"
)

const (
	waitFor = 10 * time.Second
	tick    = time.Millisecond
)

type ids struct{ n atomic.Int64 }

func (i *ids) NextProducerID(context.Context) (int64, error) { return 1<<48 + i.n.Add(1), nil }

// world is a gateway over two embedded Kafka clusters, on a real port.
type world struct {
	*federationtest.World
	clusters map[string]*kfake.Cluster
	r        *router.Router
	g        *gateway.Gateway
	engine   *groups.Engine
	url      string
}

type option func(*gateway.Config, *gateway.Deps)

// newWorld makes a world; each cluster has the physical topic "phys" of 8 partitions.
func newWorld(t testing.TB, opts ...option) *world {
	t.Helper()
	w := &world{clusters: make(map[string]*kfake.Cluster)}
	seeds := make(map[string][]string)
	for _, name := range []string{"a", "b"} {
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(8, "phys"))
		require.NoError(t, err)
		t.Cleanup(c.Close)
		w.clusters[name], seeds[name] = c, c.ListenAddrs()
	}
	w.World = federationtest.New(seeds)
	pool := upstream.NewPool(upstream.Config{})
	t.Cleanup(pool.Close)
	var all []*federation.Cluster
	for _, c := range w.Current().Clusters {
		all = append(all, c)
	}
	pool.Update(all)
	w.r = router.New(context.Background(), router.Config{}, router.Deps{Maps: w, Clusters: pool, Lease: w, ProducerIDs: &ids{}})
	t.Cleanup(w.r.Close)
	w.groups(t)
	cfg := gateway.Config{TokenKey: []byte("a key for tests only")}
	deps := gateway.Deps{Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Maps: w, NewSession: w.r.NewSession, Groups: w.engine}
	for _, o := range opts {
		o(&cfg, &deps)
	}
	g, err := gateway.New(cfg, deps)
	require.NoError(t, err)
	w.g = g
	w.listen(t, gateway.NewServer(g.Handler(), 0))
	return w
}

// groups starts a group engine on an embedded Redis.
func (w *world) groups(t testing.TB) {
	t.Helper()
	redis, err := miniredis.Run()
	require.NoError(t, err)
	t.Cleanup(redis.Close)
	store, err := redisstore.Open(redisstore.Config{URL: "redis://" + redis.Addr() + "/0"})
	require.NoError(t, err)
	m := w.Current()
	require.NoError(t, store.SetGroupsLife(t.Context(), m.LogicalCluster, m.ClusterID))
	w.engine, err = groups.NewEngine(groups.Config{Gateway: "gw-0", Maps: w, Store: store})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.engine.Run(ctx) }()
	t.Cleanup(func() {
		_ = w.engine.Close(ctx)
		cancel()
		require.NoError(t, <-ended)
		_ = store.Close()
	})
}

// listen serves on a real port.
func (w *world) listen(t testing.TB, server *http.Server) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	w.url = "http://" + listener.Addr().String()
}

// topic publishes a logical topic of n partitions, even ones on a, odd ones on b.
func (w *world) topic(name string, n int, config map[string]string) {
	var chains [][]*federation.Extent
	for p := range n {
		chains = append(chains, []*federation.Extent{federationtest.Head([]string{"a", "b"}[p%2], "phys", p)})
	}
	w.SetTopic(name, config, chains...)
}

// h2c returns an HTTP client that speaks HTTP/2 without TLS.
func h2c(t testing.TB) *http.Client {
	t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// protocols are the wire protocols of the API.
var protocols = map[string][]connect.ClientOption{
	"connect":  nil,
	"grpc":     {connect.WithGRPC()},
	"grpc-web": {connect.WithGRPCWeb()},
	"json":     {connect.WithProtoJSON()},
}

func (w *world) producer(t testing.TB, opts ...connect.ClientOption) braidv1connect.ProducerServiceClient {
	t.Helper()
	return braidv1connect.NewProducerServiceClient(h2c(t), w.url, opts...)
}

func (w *world) consumer(t testing.TB, opts ...connect.ClientOption) braidv1connect.ConsumerServiceClient {
	t.Helper()
	return braidv1connect.NewConsumerServiceClient(h2c(t), w.url, opts...)
}

func ctxFor(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func record(key, value string) *braidv1.Record {
	r := &braidv1.Record{Value: []byte(value)}
	if key != "" {
		r.Key = []byte(key)
	}
	return r
}

// physical reads what a physical partition holds, as "key=value".
func (w *world) physical(t *testing.T, cluster string, partition int32, n int) []string {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.clusters[cluster].ListenAddrs()...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		"phys": {partition: kgo.NewOffset().AtStart()},
	}))
	require.NoError(t, err)
	defer cl.Close()
	ctx := ctxFor(t)
	var out []string
	for len(out) < n {
		f := cl.PollFetches(ctx)
		require.NoError(t, f.Err(), "have %d of %d records", len(out), n)
		f.EachRecord(func(r *kgo.Record) { out = append(out, fmt.Sprintf("%s=%s", r.Key, r.Value)) })
	}
	return out
}

// fill writes n records, "v0" and so on, to each partition of a topic.
func (w *world) fill(t testing.TB, topic string, partitions, n int) {
	t.Helper()
	client := braidv1connect.NewProducerServiceClient(h2c(t), w.url)
	for p := range partitions {
		number := int32(p)
		f := &braidv1.ProduceFrame{Topic: topic, Partition: &number}
		for i := range n {
			f.Records = append(f.Records, &braidv1.Record{Key: []byte(fmt.Sprint("k", i)), Value: []byte(fmt.Sprint("v", i)), TimestampMs: int64(1000 + i)})
		}
		res, err := client.ProduceBatch(ctxFor(t), &braidv1.ProduceBatchRequest{Batch: f})
		require.NoError(t, err)
		require.Nil(t, res.GetAck().GetResults()[0].GetFailure())
	}
}
