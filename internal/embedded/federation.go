package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/twmb/franz-go/pkg/kfake"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/process"
)

// Limits of a federation's start and end.
const (
	readyTimeout = 30 * time.Second
	readyPoll    = 10 * time.Millisecond
)

// A Cluster is a physical cluster of a federation.
type Cluster struct {
	Name string
	// Seeds are the brokers of a real cluster; without them an embedded one is started.
	Seeds []string
	// SecurityProfile names TLS and SASL of a real cluster; empty = neither.
	SecurityProfile string
}

// Options say what a federation is made of. The zero value is one controller and
// one gateway over an embedded Redis and two embedded clusters, a and b.
type Options struct {
	// RedisURL is a real Redis; empty = an embedded one.
	RedisURL string
	// RedisPrefix begins all keys; a run on a real Redis that others use too takes one of its own.
	RedisPrefix string
	// Clusters are the physical clusters; nil = embedded ones named a and b.
	Clusters []Cluster
	// Brokers is the number of brokers of each embedded cluster; 3 by default.
	Brokers int
	// Kafka goes to each embedded cluster.
	Kafka []kfake.Opt
	// Gateways and Controllers are how many to start; 1 and 1 by default, -1 = none.
	Gateways, Controllers int
	// NameServers is how many name services to start; none by default.
	NameServers int
	// DataDir keeps the data of embedded parts; empty = memory.
	DataDir string
	// Configure has the last word on the configuration of each process; index counts the
	// processes of its role from 0.
	Configure func(c *process.Config, index int)
	// Listen and Dial replace the network; nil = TCP.
	Listen Listen
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	// FleetToken is what processes know each other by; empty = they do not. FleetCA is a PEM
	// file of who signs their certificates.
	FleetToken, FleetCA string
	// Telemetry is shared by all processes; nil = one for all.
	Telemetry *process.Telemetry
	Build     string
	Logger    *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Clusters == nil {
		o.Clusters = []Cluster{{Name: "a"}, {Name: "b"}}
	}
	for _, n := range []*int{&o.Gateways, &o.Controllers} {
		switch *n {
		case 0:
			*n = 1
		case -1:
			*n = 0
		}
	}
	if o.Listen == nil {
		o.Listen = net.Listen
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// A Federation is a running federation. Its methods may be called concurrently.
type Federation struct {
	// Redis is the embedded Redis; nil if it is a real one.
	Redis *Redis
	// Client calls the federation's HTTP servers: HTTP/2 without TLS, so streams work.
	Client *http.Client

	opts      Options
	redisURL  string
	telemetry *process.Telemetry
	ownsTele  bool

	clusterMu sync.Mutex // guards the following
	clusters  []Cluster  // with seeds
	embedded  map[string]*Kafka

	mu          sync.Mutex // guards the following
	gateways    []*Node
	controllers []*Node
	nameservers []*Node
	failed      chan error
}

// A Node is one process of a federation.
type Node struct {
	*process.Process
	cancel context.CancelFunc
	done   chan struct{}
	err    error // set before done is closed
}

// URL is the base URL of the process's Connect API.
func (n *Node) URL() string { return n.ConnectURL() }

// Running reports whether the process has not ended.
func (n *Node) Running() bool {
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// Stop ends the process gracefully and waits for it.
func (n *Node) Stop() error {
	n.cancel()
	<-n.done
	return n.err
}

// Kill ends the process as its death would, and waits for that.
func (n *Node) Kill() {
	n.Process.Kill()
	<-n.done
}

// Done is closed when the process has ended.
func (n *Node) Done() <-chan struct{} { return n.done }

// Start starts a federation and waits until it is ready: the clusters are
// registered and every gateway is in the map. Close ends it.
func Start(ctx context.Context, o Options) (*Federation, error) {
	o = o.withDefaults()
	f := &Federation{opts: o, redisURL: o.RedisURL, embedded: make(map[string]*Kafka), telemetry: o.Telemetry, failed: make(chan error, 1)}
	var err error
	if f.Client, err = httpClient(o.Dial, o.FleetToken, o.FleetCA, o.Logger); err != nil {
		return nil, err
	}
	if err := f.start(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *Federation) start(ctx context.Context) error {
	if f.telemetry == nil {
		t, err := process.NewTelemetry(ctx, f.opts.Build)
		if err != nil {
			return err
		}
		f.telemetry, f.ownsTele = t, true
	}
	if err := f.startParts(); err != nil {
		return err
	}
	for range f.opts.Controllers {
		if _, err := f.AddController(); err != nil {
			return err
		}
	}
	if f.opts.Controllers > 0 {
		if err := f.register(ctx); err != nil {
			return err
		}
	}
	for range f.opts.Gateways {
		if _, err := f.launchGateway(); err != nil {
			return err
		}
	}
	for range f.opts.NameServers {
		if _, err := f.AddNameServer(); err != nil {
			return err
		}
	}
	return f.AwaitReady(ctx)
}

// startParts starts the embedded Redis and clusters.
func (f *Federation) startParts() error {
	if f.redisURL == "" {
		r, err := StartRedis(f.opts.Listen, f.opts.DataDir)
		if err != nil {
			return err
		}
		f.Redis, f.redisURL = r, r.URL()
	}
	for _, c := range f.opts.Clusters {
		if _, err := f.StartCluster(c); err != nil {
			return err
		}
	}
	return nil
}

// StartCluster starts an embedded cluster, unless its brokers are named, and does
// not register it. It ends with the federation.
func (f *Federation) StartCluster(c Cluster) (Cluster, error) {
	f.clusterMu.Lock()
	defer f.clusterMu.Unlock()
	if len(c.Seeds) == 0 {
		o := KafkaOptions{Name: c.Name, Brokers: f.opts.Brokers, Listen: f.opts.Listen, Options: f.opts.Kafka}
		if f.opts.DataDir != "" {
			o.Dir = filepath.Join(f.opts.DataDir, "kafka", c.Name)
		}
		k, err := StartKafka(o)
		if err != nil {
			return Cluster{}, err
		}
		f.embedded[c.Name] = k
		c.Seeds = k.Seeds()
	}
	f.clusters = append(f.clusters, c)
	return c, nil
}

// register makes the physical clusters known, or corrects their seeds.
func (f *Federation) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	client := adminv1connect.NewClusterServiceClient(f.Client, f.controllers[0].URL())
	for _, c := range f.Clusters() {
		err := f.retry(ctx, func() error { return registerCluster(ctx, client, c) })
		if err != nil {
			return fmt.Errorf("register cluster %q: %w", c.Name, err)
		}
	}
	return nil
}

func registerCluster(ctx context.Context, client adminv1connect.ClusterServiceClient, c Cluster) error {
	name := "physicalClusters/" + c.Name
	have, err := client.GetCluster(ctx, &adminv1.GetClusterRequest{Name: name})
	switch {
	case connect.CodeOf(err) == connect.CodeNotFound:
		_, err = client.CreateCluster(ctx, &adminv1.CreateClusterRequest{Cluster: &adminv1.Cluster{Name: name, Bootstrap: c.Seeds, SecurityProfile: c.SecurityProfile}})
	case err != nil:
	case !slices.Equal(have.GetCluster().GetBootstrap(), c.Seeds):
		update := &adminv1.UpdateClusterRequest{Cluster: &adminv1.Cluster{Name: name, Bootstrap: c.Seeds, Weight: have.GetCluster().GetWeight()}}
		_, err = client.UpdateCluster(ctx, update)
	}
	return err
}

// retry calls f until it succeeds or fails with an error that will stay.
func (f *Federation) retry(ctx context.Context, call func() error) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := call()
		if err == nil || connect.CodeOf(err) != connect.CodeUnavailable {
			return err
		}
		select {
		case <-tick.C:
		case failure := <-f.failed:
			return failure
		case <-ctx.Done():
			return err
		}
	}
}

// AwaitReady waits until every running process is ready.
func (f *Federation) AwaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := f.notReady(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case failure := <-f.failed:
			return failure
		case <-ctx.Done():
			return fmt.Errorf("not ready after %s: %w", readyTimeout, err)
		}
	}
}

// notReady returns the first condition for being ready that does not hold.
func (f *Federation) notReady(ctx context.Context) error {
	for _, n := range f.nodes() {
		if !n.Running() {
			continue
		}
		for _, c := range n.Checks() {
			if err := c.Err(ctx); err != nil {
				return fmt.Errorf("%s: %s: %w", n.ID(), c.Name, err)
			}
		}
	}
	return nil
}

// Checks returns the conditions for being ready of all running processes.
func (f *Federation) Checks() []process.Check {
	var all []process.Check
	for _, n := range f.nodes() {
		if !n.Running() {
			continue
		}
		for _, c := range n.Checks() {
			c.Name = n.ID() + ": " + c.Name
			all = append(all, c)
		}
	}
	return all
}

func (f *Federation) nodes() []*Node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Concat(f.controllers, f.gateways, f.nameservers)
}

// Failed brings the error of a process that failed by itself.
func (f *Federation) Failed() <-chan error { return f.failed }

// Kafka returns an embedded cluster; nil if there is none of that name.
func (f *Federation) Kafka(name string) *Kafka {
	f.clusterMu.Lock()
	defer f.clusterMu.Unlock()
	return f.embedded[name]
}

// Clusters returns the physical clusters with their brokers.
func (f *Federation) Clusters() []Cluster {
	f.clusterMu.Lock()
	defer f.clusterMu.Unlock()
	return slices.Clone(f.clusters)
}

// RedisURL is where Redis is.
func (f *Federation) RedisURL() string { return f.redisURL }

// Telemetry is that of all processes.
func (f *Federation) Telemetry() *process.Telemetry { return f.telemetry }
