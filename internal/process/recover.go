package process

import (
	"context"
	"fmt"
	"io"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
)

// RecoverConfig says what Recover is to do; see controller.RecoverConfig.
type RecoverConfig struct {
	Redis          redisstore.Config
	LogicalCluster string
	// Clusters are physical clusters to begin with: names and seeds.
	Clusters      []*federation.Cluster
	Force, DryRun bool
	Out           io.Writer
}

// Recover brings the map and the offsets of a logical cluster from the physical
// clusters back into Redis.
func Recover(ctx context.Context, cfg RecoverConfig) error {
	store, err := redisstore.Open(cfg.Redis)
	if err != nil {
		return ConfigError{fmt.Sprintf("--redis: %v", err)}
	}
	defer func() { _ = store.Close() }()
	return controller.Recover(ctx, controller.RecoverConfig{
		LogicalCluster: cfg.LogicalCluster, Clusters: cfg.Clusters, Force: cfg.Force, DryRun: cfg.DryRun, Out: cfg.Out,
	}, store)
}
