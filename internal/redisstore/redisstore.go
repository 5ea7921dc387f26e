// Package redisstore holds every Redis key and Lua script of braid in one
// place: maps and the controllers' lease, operations, group state and offsets,
// producer ids. Nothing else in braid talks to Redis.
//
// All keys begin with a prefix and the logical cluster's name as a hash tag, so
// the keys that one script touches lie in one slot of a Redis Cluster.
package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/braidmq/braid/federation"
)

// Config says how to reach Redis.
type Config struct {
	// URL is redis://[user:password@]HOST:PORT/DB, or rediss:// for TLS.
	URL string
	// Prefix begins every key; "braid" by default.
	Prefix string
	// DialTimeout and OperationTimeout bound one connection attempt and one command;
	// 2 s and 3 s by default.
	DialTimeout, OperationTimeout time.Duration
	// PoolSize bounds the connections of this process; 20 by default.
	PoolSize int
	// GroupPipelines bounds the pipelines of group writes (commits and rebalances) that
	// are under way at a time: what comes in meanwhile waits for the next one. 2 by
	// default. GroupPipelineWrites and GroupPipelineBytes bound one of them, so that it is
	// answered well within OperationTimeout; 128 and 256 KiB by default, but a larger
	// write goes alone.
	GroupPipelines, GroupPipelineWrites, GroupPipelineBytes int
	// TLS returns how a rediss:// URL is reached by a new connection; nil = with the
	// system's authorities.
	TLS func() *tls.Config
	// Password returns the password for a new connection, in place of the URL's; nil = that.
	Password func() string
	// Dialer replaces the network, for tests; nil = TCP.
	Dialer func(ctx context.Context, network, addr string) (net.Conn, error)
}

// A Store is a connection pool to one Redis. It is safe for concurrent use.
type Store struct {
	rdb    *redis.Client
	prefix string
	groups groupWriter
}

// Open makes a Store; it does not connect yet.
func Open(cfg Config) (*Store, error) {
	opt, err := options(cfg)
	if err != nil {
		return nil, err
	}
	opt.DialTimeout = or(cfg.DialTimeout, 2*time.Second)
	opt.ReadTimeout = or(cfg.OperationTimeout, 3*time.Second)
	opt.WriteTimeout = opt.ReadTimeout
	opt.PoolSize = or(cfg.PoolSize, 20)
	// One attempt each: callers try again in their own time, and a dead Redis must
	// not cost each of them five.
	opt.DialerRetries = 1
	opt.ContextTimeoutEnabled = true
	// The default mode looks the address up in DNS on the first connection, and
	// serves managed Redis upgrades only.
	opt.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	// It tells the server the driver's name, which takes a right and is of use to nobody.
	opt.DisableIdentity = true
	opt.Dialer = dialer(cfg.Dialer, secured(cfg.TLS, opt.TLSConfig), opt.DialTimeout)
	s := &Store{rdb: redis.NewClient(opt), prefix: or(cfg.Prefix, "braid")}
	s.groups.s, s.groups.timeout = s, opt.DialTimeout+opt.ReadTimeout
	s.groups.limits = groupWriteLimits{
		pipelines: or(cfg.GroupPipelines, 2), writes: or(cfg.GroupPipelineWrites, 128), bytes: or(cfg.GroupPipelineBytes, 256<<10),
	}
	return s, nil
}

// options reads the URL. Errors do not repeat it: it may hold a password.
func options(cfg Config) (*redis.Options, error) {
	opt, err := redis.ParseURL(cfg.URL)
	if _, ok := errors.AsType[*url.Error](err); ok {
		return nil, errors.New("redis url: it cannot be read (want redis://HOST:PORT/DB); a password in it must be percent-encoded, or in a file")
	}
	if err != nil {
		return nil, fmt.Errorf("redis url: %w (want redis://HOST:PORT/DB)", err)
	}
	if cfg.TLS != nil && opt.TLSConfig == nil {
		return nil, errors.New("redis url: settings of TLS need rediss://")
	}
	if cfg.Password != nil {
		user := opt.Username
		opt.Password = ""
		opt.CredentialsProviderContext = func(context.Context) (string, string, error) { return user, cfg.Password(), nil }
	}
	return opt, nil
}

// secured returns the TLS of each new connection: what is configured, with what the URL
// says; nil without TLS.
func secured(configured func() *tls.Config, url *tls.Config) func() *tls.Config {
	switch {
	case url == nil:
		return nil
	case configured == nil:
		return func() *tls.Config { return url }
	default:
		return func() *tls.Config {
			out := configured().Clone()
			out.ServerName, out.InsecureSkipVerify = url.ServerName, url.InsecureSkipVerify
			return out
		}
	}
}

// dialer connects, with TLS if there is a configuration for it: the driver leaves that to
// a dialer that it did not make itself.
func dialer(dial func(ctx context.Context, network, addr string) (net.Conn, error), secure func() *tls.Config, timeout time.Duration) func(ctx context.Context, network, addr string) (net.Conn, error) {
	if dial == nil {
		d := &net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}
		dial = d.DialContext
	}
	if secure == nil {
		return dial
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		nc, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c := tls.Client(nc, secure())
		if err := c.HandshakeContext(ctx); err != nil {
			_ = nc.Close()
			return nil, fmt.Errorf("TLS: %w", err)
		}
		return c, nil
	}
}

// Close closes all connections.
func (s *Store) Close() error { return s.rdb.Close() }

// Ping checks that Redis answers.
func (s *Store) Ping(ctx context.Context) error { return unavailable(s.rdb.Ping(ctx).Err()) }

// key builds a key of a logical cluster.
func (s *Store) key(logicalCluster, rest string) string {
	return s.prefix + ":{" + logicalCluster + "}:" + rest
}

// unavailable turns a driver's error into one that a client may see.
func unavailable(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	for _, refusal := range []string{"NOAUTH", "WRONGPASS", "NOPERM"} {
		if redis.HasErrorPrefix(err, refusal) {
			return federation.Errorf(federation.StoreUnavailable, "the store of groups and maps (Redis) refuses braid's user (%s); check the user of --redis, --redis-password-file, and its rights in Redis; try again", refusal).WithCause(err)
		}
	}
	if cert, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return federation.Errorf(federation.StoreUnavailable, "the store of groups and maps (Redis) shows a certificate that is not trusted (%v); check --redis-tls-ca; try again", cert.Err).WithCause(err)
	}
	return federation.Errorf(federation.StoreUnavailable, "the store of groups and maps (Redis) does not answer; try again").WithCause(err)
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
