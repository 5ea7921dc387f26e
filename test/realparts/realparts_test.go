//go:build real

package realparts_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/braidmq/braid/test/realparts"
)

func TestPartsKeepTheirDataOverAKill(t *testing.T) {
	redis := realparts.StartRedis(t)
	clusters := realparts.StartKafka(t, 256, "one", "two")
	require.NotEqual(t, clusters[0].ClusterID, clusters[1].ClusterID)
	require.NotEqual(t, clusters[0].Seed, clusters[1].Seed)

	redis.Kill()
	redis.Restart(t)
	clusters[0].Kill()
	clusters[0].Restart(t)

	client, err := kgo.NewClient(kgo.SeedBrokers(clusters[0].Seed))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, client.Ping(ctx))
}
