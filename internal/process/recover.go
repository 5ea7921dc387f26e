package process

import (
	"context"
	"io"
	"log/slog"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/upstream"
)

// RecoverConfig says what Recover is to do; see controller.RecoverConfig.
type RecoverConfig struct {
	Redis          redisstore.Config
	RedisFiles     RedisFiles
	LogicalCluster string
	// Clusters are physical clusters to begin with: names, seeds and security profiles.
	Clusters []*federation.Cluster
	// ClusterSecurityDir holds the security profiles.
	ClusterSecurityDir string

	Force, DryRun bool
	Out           io.Writer
	Logger        *slog.Logger
}

// Recover brings the map and the offsets of a logical cluster from the physical
// clusters back into Redis.
func Recover(ctx context.Context, cfg RecoverConfig) error {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	profiles, err := openProfiles(cfg.ClusterSecurityDir, log)
	if err != nil {
		return err
	}
	store, err := openRedis(cfg.Redis, cfg.RedisFiles, log)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	return controller.Recover(ctx, controller.RecoverConfig{
		LogicalCluster: cfg.LogicalCluster, Clusters: cfg.Clusters, Force: cfg.Force, DryRun: cfg.DryRun, Out: cfg.Out,
		Upstream: upstream.Config{Profiles: profiles, Logger: log},
	}, store)
}
