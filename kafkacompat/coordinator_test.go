package kafkacompat_test

import (
	"context"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/internal/redisstore"
)

// newCoordinator starts the group engine of a gateway, on the world's Redis.
func (w *world) newCoordinator(id federation.GatewayID) groups.Coordinator {
	w.t.Helper()
	store, err := redisstore.Open(redisstore.Config{URL: "redis://" + w.redis.Addr() + "/0"})
	require.NoError(w.t, err)
	m := w.Current()
	require.NoError(w.t, store.SetGroupsLife(context.Background(), m.LogicalCluster, m.ClusterID))
	e, err := groups.NewEngine(groups.Config{
		Gateway: id, Maps: w, Store: store, Room: w.room,
		Sees: func(principal, host string, topic federation.TopicName) bool {
			return w.authorizer.SeesTopic(w.Current(), principal, host, topic)
		},
		SessionTimeoutMin: 100 * time.Millisecond, InitialRebalanceDelay: 20 * time.Millisecond,
		ConsumerSessionTimeout: 5 * time.Second, ConsumerHeartbeatInterval: 50 * time.Millisecond,
	})
	require.NoError(w.t, err)
	w.engines = append(w.engines, e)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		require.NoError(w.t, <-done)
		require.NoError(w.t, store.Close())
	})
	return e
}
