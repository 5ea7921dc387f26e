// Package upstream reaches the physical Kafka clusters. Metadata and admin
// requests go through one franz-go client for each cluster; Produce and Fetch
// have connections of their own (conn.go), because the general client copies
// and allocates more than the data path may.
package upstream

import (
	"context"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/security"
)

// A Dialer opens a connection to a broker.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Config says how to reach physical clusters.
type Config struct {
	// ClientID is what brokers see; "braid" by default.
	ClientID string
	// Dialer replaces the network; nil = TCP with DialTimeout.
	Dialer Dialer
	// DialTimeout bounds one connection attempt; 3 s by default.
	DialTimeout time.Duration
	// RequestTimeout bounds the wait for one answer of a broker; a connection whose
	// broker is silent for longer is closed. 30 s by default.
	RequestTimeout time.Duration
	// AdminTimeout bounds one metadata or admin call with all its retries; 10 s by default.
	// A broker that says nothing for a quarter of it (and of the time that the request
	// itself allows) is given up, and another one asked.
	AdminTimeout time.Duration
	// MetadataMinAge is the shortest time between two metadata requests to a cluster
	// that a leader change asks for; 50 ms by default.
	MetadataMinAge time.Duration
	// MetadataMaxAge is the longest time for which a leader is believed; 60 s by default.
	MetadataMaxAge time.Duration
	// ConnRequestsMax bounds the requests in flight on one connection; 16 by default.
	ConnRequestsMax int
	// ResponseBytesMax bounds one answer of a broker; 128 MiB by default.
	ResponseBytesMax int
	// IdleBufferBytesMax bounds the buffers for answers above 4 MiB that are kept for
	// the next ones; each for 5 s at most. 64 MiB by default; negative = none are kept.
	IdleBufferBytesMax int
	// Answers is what the buffers of answers above 64 KiB are taken from while they are in
	// use; nil = no bound. Those that are kept for later are bounded to a quarter of it.
	Answers *memory.Budget
	// ScanBytesMax bounds what Producers reads from the end of one partition whose
	// broker does not list its producers; 64 MiB by default. A producer whose last
	// batch lies before that is not found there.
	ScanBytesMax int
	// AwayAfter is how long no broker of a cluster has answered, although it was asked,
	// before the gateway tells the controller that the cluster is away; 5 s by default.
	AwayAfter time.Duration
	// Zone is the rack that requests for records name: leaders may name a follower in it,
	// which is read instead (followers.go); empty = only leaders are read.
	Zone string
	// FollowerLease is how long a follower is read before its leader is asked again; 30 s by
	// default. Kafka's consumers ask every 5 min, but what the leader says then also shows
	// whether the follower keeps up.
	FollowerLease time.Duration
	// FollowerLagMax is how long a follower may take to get to the end that its leader told
	// of, or to answer, before its partition is read from the leader; 10 s by default.
	FollowerLagMax time.Duration
	// FollowerRest is how long a partition whose follower was at fault is read from its
	// leader alone; 30 s by default.
	FollowerRest time.Duration
	// Profiles are the security profiles that clusters of the map name; nil = none.
	Profiles *security.Profiles
	Logger   *slog.Logger
}

func (c Config) withDefaults() Config {
	c.ClientID = or(c.ClientID, "braid")
	c.DialTimeout = or(c.DialTimeout, 3*time.Second)
	c.RequestTimeout = or(c.RequestTimeout, 30*time.Second)
	c.AdminTimeout = or(c.AdminTimeout, 10*time.Second)
	c.MetadataMinAge = or(c.MetadataMinAge, 50*time.Millisecond)
	c.MetadataMaxAge = or(c.MetadataMaxAge, 60*time.Second)
	c.ConnRequestsMax = or(c.ConnRequestsMax, 16)
	c.ResponseBytesMax = or(c.ResponseBytesMax, 128<<20)
	c.IdleBufferBytesMax = or(c.IdleBufferBytesMax, 64<<20)
	if size := c.Answers.Size(); size > 0 {
		c.IdleBufferBytesMax = min(c.IdleBufferBytesMax, int(size/4))
	}
	c.AwayAfter = or(c.AwayAfter, 5*time.Second)
	c.FollowerLease = or(c.FollowerLease, 30*time.Second)
	c.FollowerLagMax = or(c.FollowerLagMax, 10*time.Second)
	c.FollowerRest = or(c.FollowerRest, 30*time.Second)
	c.ScanBytesMax = or(c.ScanBytesMax, 64<<20)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Dialer == nil {
		d := &net.Dialer{Timeout: c.DialTimeout, KeepAlive: 15 * time.Second}
		c.Dialer = d.DialContext
	}
	return c
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// A Pool holds one Cluster for each physical cluster of the map. It is safe for
// concurrent use.
type Pool struct {
	cfg     Config
	buffers *idleBuffers // of all clusters

	mu       sync.RWMutex // guards the following
	clusters map[federation.ClusterName]*Cluster
	closed   bool
}

// NewPool makes an empty Pool.
func NewPool(cfg Config) *Pool {
	cfg = cfg.withDefaults()
	return &Pool{
		cfg: cfg, buffers: &idleBuffers{bytesMax: cfg.IdleBufferBytesMax, budget: cfg.Answers}, clusters: make(map[federation.ClusterName]*Cluster),
	}
}

// Update makes the pool hold these clusters: new ones are added without
// contacting them, ones whose seeds or security profile changed are replaced, others
// are closed. What is in flight on one that is replaced fails, as if its brokers had died.
func (p *Pool) Update(clusters []*federation.Cluster) {
	want := make(map[federation.ClusterName]*federation.Cluster, len(clusters))
	for _, c := range clusters {
		want[c.Name] = c
	}
	var gone []*Cluster
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	for name, have := range p.clusters {
		if c := want[name]; c == nil || !slices.Equal(c.Seeds, have.seeds) || c.SecurityProfile != have.profileName {
			gone = append(gone, have)
			delete(p.clusters, name)
		}
	}
	for name, c := range want {
		if p.clusters[name] == nil {
			cl, err := newCluster(p.cfg, p.buffers, c)
			if err != nil {
				p.cfg.Logger.Error("cluster cannot be used", "cluster", name, "seeds", c.Seeds, "err", err)
				continue
			}
			p.clusters[name] = cl
		}
	}
	p.mu.Unlock()
	for _, c := range gone {
		c.close()
	}
}

// Cluster returns a physical cluster; an error of kind UnknownCluster if the
// pool does not hold it.
func (p *Pool) Cluster(name federation.ClusterName) (*Cluster, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if c := p.clusters[name]; c != nil {
		return c, nil
	}
	return nil, federation.Errorf(federation.UnknownCluster, "physical cluster %q is not known", name)
}

// Close closes all connections.
func (p *Pool) Close() {
	p.mu.Lock()
	clusters := p.clusters
	p.clusters, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range clusters {
		c.close()
	}
	p.buffers.close()
}

// A Cluster is one physical cluster. It is safe for concurrent use.
type Cluster struct {
	cfg         Config
	Name        federation.ClusterName
	seeds       []string
	profileName string // empty = neither TLS nor SASL
	general     general

	meta    metadata
	contact contact
	refusal refusal
	garbage garbage
	buffers *idleBuffers

	ctx    context.Context //nolint:containedctx // ends with the cluster; connections and refreshes hang on it
	cancel context.CancelFunc

	connMu sync.Mutex // guards the following
	conns  map[connKey]*connSlot
}

func newCluster(cfg Config, buffers *idleBuffers, of *federation.Cluster) (*Cluster, error) {
	c := &Cluster{cfg: cfg, Name: of.Name, seeds: of.Seeds, profileName: of.SecurityProfile, buffers: buffers, conns: make(map[connKey]*connSlot)}
	c.contact.began = time.Now()
	profile, _ := c.profile() // one that cannot be used yet is tried again with each connection
	c.general.sasl = profile != nil && profile.Mechanism != nil
	client, err := c.newGeneral(c.general.sasl)
	if err != nil {
		return nil, err
	}
	c.general.client = client
	//nolint:contextcheck // lives as long as the cluster
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(client.Context()))
	c.meta.init(c)
	return c, nil
}

// newGeneral makes a general client.
func (c *Cluster) newGeneral(withSASL bool) (*kgo.Client, error) {
	opts := []kgo.Opt{
		kgo.WithHooks(contactHooks{&c.contact}),
		kgo.SeedBrokers(c.seeds...),
		kgo.ClientID(c.cfg.ClientID),
		kgo.Dialer(c.dialChecked),
		kgo.BrokerMaxReadBytes(int32(max(min(c.cfg.ResponseBytesMax, math.MaxInt32), kgoReadBytesLeast))), // of what was checked
		// Whoever needs a leader waits for one metadata request, which a broker that hangs must not keep.
		kgo.RequestTimeoutOverhead(max(min(c.cfg.RequestTimeout, c.cfg.AdminTimeout/4), 100*time.Millisecond)),
		kgo.RetryTimeout(c.cfg.AdminTimeout),
		kgo.RequestRetries(math.MaxInt32), // AdminTimeout bounds them
		kgo.RetryBackoffFn(retryBackoff),
		kgo.MetadataMinAge(c.cfg.MetadataMinAge),
	}
	if withSASL {
		opts = append(opts, kgo.SASL(currentMechanism{c}))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, federation.Errorf(federation.InvalidArgument, "cluster %q: %w", c.Name, err)
	}
	return client, nil
}

// kgoReadBytesLeast is what the general client takes at the least: less than that it finds
// in conflict with options that are not used here.
const kgoReadBytesLeast = 100 << 20

// The general client rests for retryPause after a failure, and twice as long each further
// time, up to retryPauseMax: whoever needs a leader of a cluster that is back waits for
// the rest of it.
const (
	retryPause    = 50 * time.Millisecond
	retryPauseMax = 400 * time.Millisecond
)

func retryBackoff(failures int) time.Duration {
	pause := min(retryPause<<min(max(failures-1, 0), 10), retryPauseMax)
	return pause - rand.N(pause/4) // so that gateways do not ask all at the same time
}

// Closed reports whether the cluster has left its pool, or was replaced there.
func (c *Cluster) Closed() bool { return c.ctx.Err() != nil }

func (c *Cluster) close() {
	c.cancel()
	c.connMu.Lock()
	conns := c.conns
	c.conns = make(map[connKey]*connSlot)
	c.connMu.Unlock()
	for _, s := range conns {
		s.close()
	}
	c.general.close()
}

// Probe contacts a cluster that is not in any pool.
func Probe(ctx context.Context, cfg Config, cluster *federation.Cluster) (ClusterInfo, error) {
	c, err := newCluster(cfg.withDefaults(), &idleBuffers{}, cluster)
	if err != nil {
		return ClusterInfo{}, err
	}
	defer c.close()
	return c.Info(ctx)
}
