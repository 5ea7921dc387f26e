//go:build synctests

// Package sim runs a whole federation in the virtual time of a testing/synctest
// bubble: physical clusters, Redis, controllers, gateways and clients, each on a host
// of its own in a network in memory. A seed gives a plan of operations and faults; a
// checker looks at everything that clients saw. See docs/simulation.md.
//
// It needs the build tag synctests, with which franz-go waits for its locks on
// channels: a goroutine that waits for a mutex stops the clock of a bubble.
package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/lifecycle"
	"github.com/braidmq/braid/internal/process"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/test/simnet"
)

// Options say what a world is like. Zero fields take the defaults.
type Options struct {
	Seed uint64
	// Duration is how long clients write and faults come; 1 min by default.
	Duration time.Duration
	// Quiet leaves the faults out, and Still the operations.
	Quiet, Still bool
	// Failing has clusters failed over and restored, as some seeds do by themselves.
	Failing bool
	// Logger gets what the processes log; nil = nothing.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Duration == 0 {
		o.Duration = time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// focused says that a seed's plan is mostly moves, and what harms a move most.
func (o *Options) focused() bool { return o.Seed%3 == 0 }

// The size of a world.
const (
	gatewayCount    = 3
	controllerCount = 2
	brokerCount     = 2
	gatewayLease    = 10 * time.Second
)

var clusterNames = []string{"a", "b", "c"}

// A world is a running federation.
type world struct {
	Options
	net         *simnet.Network
	redis       *embedded.Redis
	kafka       map[string]*embedded.Kafka
	controllers []*node
	gateways    []*node
	telemetry   *process.Telemetry
	begin       time.Time
	history     *chronicle
	logicals    []*logical // the deployment's own first

	failingNow    atomic.Bool // a cluster is being failed over or restored
	failedCluster atomic.Value
}

// start starts all parts. It does not wait until they are ready.
func start(o Options, telemetry *process.Telemetry) (*world, error) {
	w := &world{
		Options: o, net: simnet.New(nil), kafka: make(map[string]*embedded.Kafka),
		telemetry: telemetry, begin: time.Now(), history: newChronicle(),
	}
	w.logicals = append(w.logicals, w.logical(""))
	for _, name := range tenantNames[:o.tenants()] {
		w.logicals = append(w.logicals, w.logical(name))
	}
	w.failedCluster.Store("")
	var err error
	if w.redis, err = embedded.StartRedis(w.net.Host("redis").Listen, ""); err != nil {
		return nil, err
	}
	for _, name := range clusterNames {
		broker := 0
		listen := func(network, address string) (net.Listener, error) {
			broker++
			return w.net.Host(fmt.Sprint(name, broker-1)).Listen(network, address)
		}
		k, err := embedded.StartKafka(embedded.KafkaOptions{Name: name, Brokers: brokerCount, Listen: listen, Options: []kfake.Opt{kfake.DefaultNumPartitions(1)}})
		if err != nil {
			return nil, errors.Join(err, w.close())
		}
		w.kafka[name] = k
	}
	for i := range controllerCount {
		w.controllers = append(w.controllers, &node{world: w, role: process.Controller, host: fmt.Sprint("ctl", i)})
	}
	for i := range gatewayCount {
		w.gateways = append(w.gateways, &node{world: w, role: process.Gateway, host: fmt.Sprint("gw", i)})
	}
	for _, n := range w.nodes() {
		if err := n.start(); err != nil {
			return nil, errors.Join(err, w.close())
		}
	}
	return w, nil
}

func (w *world) nodes() []*node {
	return append(append([]*node(nil), w.controllers...), w.gateways...)
}

// close ends everything; whoever is still a client then has a leak.
func (w *world) close() error {
	var errs []error
	for _, nodes := range [][]*node{w.gateways, w.controllers} {
		var stops sync.WaitGroup
		for _, n := range nodes {
			stops.Go(n.stop)
		}
		stops.Wait()
	}
	for _, k := range w.kafka {
		k.Close()
	}
	return errors.Join(append(errs, w.redis.Close())...)
}

// since is the virtual time of the world.
func (w *world) since() time.Duration { return time.Since(w.begin) }

// A node is a process that can die and come back.
type node struct {
	world *world
	role  process.Role
	host  string

	mu     sync.Mutex // guards the following
	proc   *process.Process
	cancel context.CancelFunc
	done   chan struct{}
	lives  int
}

// Ports of nodes.
const (
	connectPort = "80"
	kafkaPort   = "9092"
)

// fleetToken is what the processes know each other by where there are tenants.
const fleetToken = "the-token-of-the-fleet-in-the-bubble"

// url is the base URL of a node's Connect API.
func (n *node) url() string { return "http://" + n.host + ":" + connectPort }

func (n *node) config() process.Config {
	w, h := n.world, n.world.net.Host(n.host)
	c := process.Config{
		Role: n.role, ID: n.host, Build: "sim", Redis: redisstore.Config{URL: w.redis.URL()},
		Listen: n.host + ":" + connectPort, Listener: h.Listen, Dialer: h.Dial,
		Telemetry: w.telemetry, Logger: w.Logger,
		Controller: controller.Config{GatewayLease: gatewayLease},
	}
	if w.tenants() > 0 {
		c.Access.FleetToken = fleetToken
	}
	if n.role == process.Gateway {
		c.KafkaListen = w.logicals[0].kafka(n)
		if w.tenants() > 0 {
			c.Tenants, c.TenantKafkaListen = true, tenantListeners(n)
		}
		for _, other := range w.controllers {
			c.Controllers = append(c.Controllers, other.url())
		}
	}
	return c
}

// start begins a life of a node that has ended.
func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, err := process.New(context.Background(), n.config())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	n.proc, n.cancel, n.done = p, cancel, done
	n.lives++
	go func() {
		defer close(done)
		if err := p.Run(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, lifecycle.ErrAborted) {
			n.world.history.problem("%s ended by itself: %v", n.host, err)
		}
	}()
	return nil
}

func (n *node) life() (p *process.Process, cancel context.CancelFunc, done chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc, n.cancel, n.done
}

func (n *node) running() bool {
	_, _, done := n.life()
	if done == nil {
		return false
	}
	select {
	case <-done:
		return false
	default:
		return true
	}
}

// kill ends it as its death would: what is on the way to and from it is lost.
func (n *node) kill() {
	p, cancel, done := n.life()
	if p == nil {
		return
	}
	defer cancel()
	n.world.net.Cut(n.host, "*")
	n.world.net.Cut("*", n.host)
	p.Kill()
	<-done
}

// stop ends it gracefully.
func (n *node) stop() {
	_, cancel, done := n.life()
	if cancel == nil {
		return
	}
	cancel()
	<-done
}

// ready returns why the node is not ready; nil if it is.
func (n *node) ready(ctx context.Context) error {
	p, _, _ := n.life()
	if !n.running() {
		return fmt.Errorf("%s does not run", n.host)
	}
	for _, c := range p.Checks() {
		if err := c.Err(ctx); err != nil {
			return fmt.Errorf("%s: %s: %w", n.host, c.Name, err)
		}
	}
	return nil
}

// awaitReady waits until all nodes are ready.
func (w *world) awaitReady(ctx context.Context, limit time.Duration) error {
	var err error
	if !poll(ctx, limit, func() bool {
		err = nil
		for _, n := range w.nodes() {
			if err = n.ready(ctx); err != nil {
				return false
			}
		}
		return true
	}) {
		return fmt.Errorf("not ready after %s: %w", limit, err)
	}
	return nil
}

// transport returns that of a client on a host. The caller closes its idle connections.
func (w *world) transport(host string) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{
		DialContext: w.net.Host(host).Dial, Protocols: protocols,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 2 * time.Second},
	}
}

// poll asks until the answer is yes; false after a limit.
func poll(ctx context.Context, limit time.Duration, ask func() bool) bool {
	const every = 50 * time.Millisecond
	deadline := time.Now().Add(limit)
	for {
		if ask() {
			return true
		}
		if time.Now().After(deadline) || !wait(ctx, every) {
			return false
		}
	}
}

// wait reports whether it waited as long as it should; it ends early with the context.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
