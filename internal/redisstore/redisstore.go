// Package redisstore holds every Redis key and Lua script of braid in one
// place: maps and the controllers' lease, operations, group state and offsets,
// producer ids. Nothing else in braid talks to Redis.
//
// All keys begin with a prefix and the logical cluster's name as a hash tag, so
// the keys that one script touches lie in one slot of a Redis Cluster.
package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net"
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
	opt, err := redis.ParseURL(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("redis url: %w (want redis://HOST:PORT/DB)", err)
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
	if cfg.Dialer != nil {
		opt.Dialer = cfg.Dialer
	}
	s := &Store{rdb: redis.NewClient(opt), prefix: or(cfg.Prefix, "braid")}
	s.groups.s, s.groups.timeout = s, opt.DialTimeout+opt.ReadTimeout
	s.groups.limits = groupWriteLimits{
		pipelines: or(cfg.GroupPipelines, 2), writes: or(cfg.GroupPipelineWrites, 128), bytes: or(cfg.GroupPipelineBytes, 256<<10),
	}
	return s, nil
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
	return federation.Errorf(federation.StoreUnavailable, "the store of groups and maps (Redis) does not answer; try again").WithCause(err)
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
