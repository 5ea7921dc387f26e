package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/gateway/mapwatch"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/quota"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/upstream"
	"github.com/braidmq/braid/kafkacompat"
	"github.com/braidmq/braid/nameserver"
)

// Role is what a process does.
type Role int8

// The roles of processes.
const (
	Gateway Role = iota + 1
	Controller
	NameServer
)

func (r Role) String() string {
	switch r {
	case Gateway:
		return "gateway"
	case Controller:
		return "controller"
	case NameServer:
		return "nameserver"
	}
	return "unknown"
}

// Config says what a process does and where. Zero fields take the defaults.
type Config struct {
	Role Role
	// ID names the process in the fleet and stays the same over restarts; host name and
	// port of the Connect API by default.
	ID string
	// LogicalCluster is the logical cluster that the process serves; "default" by default.
	LogicalCluster string
	// Build is the version that metrics, logs and the fleet's list show.
	Build string

	// Redis is the store.
	Redis redisstore.Config
	// RedisFiles are what it is reached with.
	RedisFiles RedisFiles
	// Controllers are base URLs of controllers; without them they are found in Redis.
	Controllers []string

	// Listen is where the Connect API listens; a gateway's and a controller's is needed.
	Listen string
	// ConnectAdvertise is the host:port that clients are given for it; the listener's
	// by default, with the host name where it listens on all addresses.
	ConnectAdvertise string
	// KafkaListen is where a gateway's Kafka facade listens; empty = nowhere.
	KafkaListen string
	// KafkaAdvertise is the host:port that Kafka clients are given for it, as ConnectAdvertise.
	KafkaAdvertise string
	// Tenants has a gateway or a name service serve tenants beside its logical cluster.
	Tenants bool
	// TenantKafkaListen are addresses of listeners for clients of one tenant each, by its
	// name; TenantKafkaAdvertise are those that they are given, as KafkaAdvertise.
	TenantKafkaListen, TenantKafkaAdvertise map[string]string
	// TenantSNI takes the first label of the name in a TLS handshake of the Kafka facade for
	// a tenant, if what follows is the host of KafkaAdvertise; clients of tenants are given
	// such names. At a name service, what follows is BootstrapHost.
	TenantSNI bool
	// TenantLimits are how many groups, and connections at each gateway, a tenant may have
	// that has no limits of its own; 0 = any number.
	TenantLimits federation.TenantLimits
	// BootstrapListen is where a name service's Kafka bootstrap listens; empty = nowhere.
	BootstrapListen string
	// TenantBootstrapListen are addresses of bootstraps for clients of one tenant each.
	TenantBootstrapListen map[string]string
	// BootstrapHost is the name by which clients reach the bootstrap.
	BootstrapHost string
	// OpsListen is where metrics, health and pprof are served; empty = nowhere.
	OpsListen string

	// GatewayRole is whom a gateway serves: producers, consumers or both.
	GatewayRole federation.Role
	// Zone is where a gateway stands; clients of the zone are sent to it first, and it reads
	// from the brokers of the zone, unless LeadersOnly.
	Zone        string
	LeadersOnly bool
	// AutoCreateTopics lets Kafka clients create topics by asking for their metadata.
	AutoCreateTopics bool
	// DefaultPartitions is the partition count of topics created without one; 4 by default.
	DefaultPartitions int32
	// Authorization says who decides what clients of a gateway, or of a name service's
	// bootstrap, may do.
	Authorization Authorization
	// Quotas says how a gateway holds clients to their quotas, Connections how many may
	// connect.
	Quotas      quota.Config
	Connections quota.GateConfig
	// CORSOrigins are the origins that browsers may call the Connect API from.
	CORSOrigins []string

	// Access says who may connect.
	Access Access

	// MemoryLimit is what a gateway's process may take: what its clients can make it hold
	// is bounded to shares of it (internal/memory). 0 = no limit but those of the parts.
	MemoryLimit int64
	// StopTimeout bounds a graceful stop; 30 s by default.
	StopTimeout time.Duration
	// AbandonTimeout bounds the wait for what does not end by then; 5 s by default.
	AbandonTimeout time.Duration
	// DrainNotice bounds the wait, at a graceful stop, for the map to say that this
	// gateway drains, and for the controller to hear that it has; 2 s by default.
	DrainNotice time.Duration

	// The limits of the parts. What the fields above say, and ids, are filled in.
	Controller controller.Config
	MapWatch   mapwatch.Config
	Upstream   upstream.Config
	Router     router.Config
	Groups     groups.Config
	// GroupMemory is what all members of groups may hold at a gateway; 0 = a tenth of
	// MemoryLimit, or 512 MiB without one.
	GroupMemory int64
	Gateway     gateway.Config
	Kafka       kafkacompat.Config
	NameServer  nameserver.Config

	// Listener and Dialer replace the network; nil = TCP.
	Listener func(network, address string) (net.Listener, error)
	Dialer   func(ctx context.Context, network, address string) (net.Conn, error)
	// Telemetry is shared by several processes in one; nil = one of its own.
	Telemetry *Telemetry
	Logger    *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.LogicalCluster == "" {
		c.LogicalCluster = federation.DefaultLogicalCluster
	}
	if c.StopTimeout == 0 {
		c.StopTimeout = 30 * time.Second
	}
	if c.AbandonTimeout == 0 {
		c.AbandonTimeout = 5 * time.Second
	}
	if c.DrainNotice == 0 {
		c.DrainNotice = 2 * time.Second
	}
	if c.DefaultPartitions == 0 {
		c.DefaultPartitions = 4
	}
	if c.Listener == nil {
		c.Listener = net.Listen
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Upstream.Logger, c.Router.Logger = c.Logger, c.Logger
	return c
}

// withDialer makes connections to Redis and to other processes go through a
// dialer. Those to brokers stay as they are: wrapped ones could not write many
// buffers at once, and they say no goodbye that a cut would have to prevent.
func (c Config) withDialer(dial func(ctx context.Context, network, address string) (net.Conn, error)) Config {
	if c.Dialer != nil {
		c.Upstream.Dialer = c.Dialer
	}
	c.Dialer, c.Redis.Dialer = dial, dial
	return c
}

// A ConfigError says that a Config makes no sense: which setting, and what to set.
type ConfigError struct{ Message string }

func (e ConfigError) Error() string { return e.Message }

func configErrorf(format string, args ...any) error {
	return ConfigError{fmt.Sprintf(format, args...)}
}

func (c Config) validate() error {
	if c.Redis.URL == "" {
		return configErrorf("a %s needs Redis: set --redis redis://HOST:PORT/DB", c.Role)
	}
	switch c.Role {
	case Gateway, Controller:
		if c.Listen == "" {
			return configErrorf("a %s needs an address for its Connect API: set --listen HOST:PORT", c.Role)
		}
	case NameServer:
		if c.Listen == "" && c.BootstrapListen == "" {
			return configErrorf("a nameserver needs an address: set --listen or --bootstrap-listen")
		}
	default:
		return configErrorf("process role %d is not known", c.Role)
	}
	if _, err := c.Authorization.config(); err != nil {
		return err
	}
	if c.Gateway.CallsMax < 0 {
		return configErrorf("--calls-max %d must not be negative; 0 = by --memory-limit", c.Gateway.CallsMax)
	}
	if err := errors.Join(c.Quotas.Validate(), c.Connections.Validate()); err != nil {
		return configErrorf("%v", err)
	}
	for _, u := range c.Controllers {
		parsed, err := url.Parse(u)
		if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
			return configErrorf("controller %q: want a URL such as http://HOST:PORT (--controller)", u)
		}
	}
	if err := c.Access.validate(); err != nil {
		return err
	}
	if err := c.validateTenants(); err != nil {
		return err
	}
	if err := c.validateFleet(); err != nil {
		return err
	}
	for _, a := range []struct{ flag, address string }{
		{"connect-advertise", c.ConnectAdvertise}, {"kafka-advertise", c.KafkaAdvertise},
	} {
		if _, _, err := net.SplitHostPort(a.address); a.address != "" && err != nil {
			return configErrorf("--%s %q: want HOST:PORT", a.flag, a.address)
		}
	}
	return nil
}

// defaultID makes an id of the host's name and the port of an address.
func defaultID(listen string) (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("id: %w; set --id", err)
	}
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return host, nil //nolint:nilerr // no port: the host's name will do
	}
	return host + "-" + port, nil
}

// advertised returns what clients are given for a listener: what the operator
// says, or the listener's own address, with the host's name for a wildcard.
func advertised(configured string, l net.Listener) (string, error) {
	if configured != "" || l == nil {
		return configured, nil
	}
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return "", fmt.Errorf("listener %s: %w", l.Addr(), err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return "", fmt.Errorf("listener %s: %w; set the advertised address", l.Addr(), err)
		}
	}
	return net.JoinHostPort(host, port), nil
}
