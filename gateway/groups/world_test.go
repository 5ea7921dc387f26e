package groups

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
)

// A world is a few gateways with an engine each, on one Redis and one map.
type world struct {
	t        *testing.T
	maps     *fakeMaps
	prefix   string
	url      string
	mini     *miniredis.Miniredis // nil on a real Redis
	gateways map[federation.GatewayID]*gateway
	claims   claims
}

// A gateway of a world.
type gateway struct {
	id      federation.GatewayID
	store   *redisstore.Store
	engine  *Engine
	cluster *Cluster
	away    atomic.Bool // its Redis does not answer
	deaf    atomic.Bool // its Redis does what it is told, but the answers get lost
	kill    context.CancelFunc
	ended   chan struct{}
	mu      sync.Mutex
	conns   []net.Conn
}

// onWorlds runs a test on miniredis in virtual time and, if BRAID_TEST_REDIS names
// one, on a real Redis in real time.
func onWorlds(t *testing.T, test func(w *world)) {
	t.Run("miniredis", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			mini := miniredis.NewMiniRedis()
			t.Cleanup(mini.Close)
			test(newWorld(t, mini, "redis://127.0.0.1:6379/0"))
		})
	})
	if url := os.Getenv("BRAID_TEST_REDIS"); url != "" {
		t.Run("redis", func(t *testing.T) { test(newWorld(t, nil, url)) })
	}
}

func newWorld(t *testing.T, mini *miniredis.Miniredis, url string) *world {
	w := &world{
		t: t, mini: mini, url: url, prefix: fmt.Sprintf("test-%d-%s", time.Now().UnixNano(), t.Name()),
		maps: &fakeMaps{changed: make(chan struct{})}, gateways: map[federation.GatewayID]*gateway{},
	}
	w.claims.t, w.claims.holders = t, map[federation.TopicPartition]string{}
	w.claims.acked = map[federation.TopicPartition]federation.LogicalOffset{}
	w.topics("t=6")
	if mini != nil {
		// The Redis client may still be pausing before another attempt to connect.
		t.Cleanup(func() { w.wait(10 * time.Second) })
	}
	return w
}

type fakeMaps struct {
	mu      sync.Mutex // guards the following
	current *federation.Map
	changed chan struct{}
}

func (f *fakeMaps) Current() *federation.Map {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current
}

func (f *fakeMaps) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakeMaps) set(m *federation.Map) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current = m
	close(f.changed)
	f.changed = make(chan struct{})
}

// topics changes the topics of the map.
func (w *world) topics(topics ...string) {
	before := w.maps.Current()
	m := testMap(before, topics...)
	if before != nil {
		m.Gateways = before.Gateways
	}
	w.maps.set(m.Seal())
}

// serve names the gateways that are ready.
func (w *world) serve(ids ...federation.GatewayID) {
	before := w.maps.Current()
	m := *before
	m.Gateways = nil
	for i, id := range ids {
		m.Gateways = append(m.Gateways, &federation.Gateway{ID: id, NodeID: federation.NodeID(i + 1), State: federation.GatewayReady})
	}
	w.maps.set(m.Seal())
}

func (w *world) gateway(id federation.GatewayID, change ...func(*Config)) *gateway {
	gw := &gateway{id: id, ended: make(chan struct{})}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if gw.away.Load() {
			return nil, errors.New("redis is away")
		}
		var c net.Conn
		var err error
		if w.mini != nil {
			c, err = w.mini.Dial()
		} else {
			c, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		}
		if err != nil {
			return nil, err
		}
		gw.mu.Lock()
		gw.conns = append(gw.conns, c)
		gw.mu.Unlock()
		return deafConn{c, gw}, nil
	}
	var err error
	gw.store, err = redisstore.Open(redisstore.Config{URL: w.url, Prefix: w.prefix, Dialer: dial, OperationTimeout: time.Second})
	require.NoError(w.t, err)
	cfg := Config{
		Gateway: id, Maps: w.maps, Store: gw.store, InitialRebalanceDelay: 50 * time.Millisecond,
		SessionTimeoutMin: 100 * time.Millisecond, OwnershipCheck: 100 * time.Millisecond, IdleUnload: 200 * time.Millisecond, LoadRetry: 20 * time.Millisecond,
	}
	for _, c := range change {
		c(&cfg)
	}
	gw.engine, err = NewEngine(cfg)
	require.NoError(w.t, err)
	ctx, kill := context.WithCancel(context.WithoutCancel(w.t.Context()))
	gw.kill = kill
	go func() {
		defer close(gw.ended)
		_ = gw.engine.Run(ctx)
	}()
	w.gateways[id] = gw
	w.t.Cleanup(func() {
		kill()
		<-gw.ended
		_ = gw.store.Close()
	})
	return gw
}

// loseRedis cuts a gateway off its Redis, or brings it back.
func (g *gateway) loseRedis(away bool) {
	g.away.Store(away)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		_ = c.Close()
	}
	g.conns = nil
}

// A deafConn loses what comes back while its gateway is deaf.
type deafConn struct {
	net.Conn
	gw *gateway
}

func (c deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.gw.deaf.Load() {
		_ = c.Conn.Close()
		return 0, errors.New("redis: connection lost")
	}
	return n, err
}

// crash stops a gateway that cannot say good-bye to Redis.
func (g *gateway) crash() {
	g.loseRedis(true)
	g.kill()
	<-g.ended
}

// coordinator returns the engine that the map names for a group.
func (w *world) coordinator(group string) *Engine {
	return w.gateways[w.maps.Current().GroupGateway(group).ID].engine
}

func (w *world) wait(d time.Duration) { <-time.After(d) }

// eventually polls in the world's time.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		w.wait(10 * time.Millisecond)
	}
	require.Fail(w.t, "did not happen: "+what)
}

func tp(topic string, p int) federation.TopicPartition {
	return federation.TopicPartition{Topic: federation.TopicName(topic), Partition: federation.LogicalPartition(p)}
}

// claims checks that no partition is read by two members at a time.
type claims struct {
	t       *testing.T
	mu      sync.Mutex // guards the following
	holders map[federation.TopicPartition]string
	acked   map[federation.TopicPartition]federation.LogicalOffset // highest acknowledged commit
	moves   int
}

// next is an offset to commit.
func (c *claims) next(tp federation.TopicPartition) federation.LogicalOffset {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acked[tp] + 1
}

func (c *claims) ack(tp federation.TopicPartition, o federation.LogicalOffset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked[tp] = max(c.acked[tp], o)
}

// begins checks that a reader begins at what was committed last.
func (c *claims) begins(who string, o CommittedOffset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if acked := c.acked[o.TopicPartition]; acked > 0 && o.Offset < acked {
		c.t.Errorf("%s begins to read %s at %d, but %d was committed", who, o.TopicPartition, o.Offset, c.acked[o.TopicPartition])
	}
}

func (c *claims) take(who string, tps []federation.TopicPartition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, tp := range tps {
		if h := c.holders[tp]; h != "" {
			c.t.Errorf("%s begins to read %s while %s reads it", who, tp, h)
		}
		c.holders[tp] = who
		c.moves++
	}
}

func (c *claims) drop(who string, tps []federation.TopicPartition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, tp := range tps {
		if h := c.holders[tp]; h != who {
			c.t.Errorf("%s stops reading %s, which %q reads", who, tp, h)
		}
		delete(c.holders, tp)
	}
}

// of returns how many partitions each reader has.
func (c *claims) of() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := map[string]int{}
	for _, h := range c.holders {
		n[h]++
	}
	return n
}

func (c *claims) movesSoFar() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.moves
}
