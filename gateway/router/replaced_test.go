package router_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/recordbatch"
)

// Appends that wait for a cluster go on with the one that takes its place, although the map
// has changed before.
func TestAppendsGoToTheClusterThatReplacesTheirs(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{}, nil)
	w.orders()
	right := slices.Collect(maps.Values(w.Current().Clusters))
	wrong := make([]*federation.Cluster, 0, len(right))
	for _, c := range right {
		at := *c
		at.Seeds = []string{"127.0.0.1:1"} // nobody listens there
		wrong = append(wrong, &at)
	}
	w.pool.Update(wrong)
	answer := make(chan []router.Appended, 1)
	s := w.r.NewSession()
	defer s.Close()
	require.NoError(t, s.Produce(t.Context(), router.AcksAll, time.Minute, []router.Append{{TopicPartition: at("orders", 0), Batch: batch(recordbatch.NoProducer, "x")}},
		func(a []router.Appended) { answer <- a }))
	require.Never(t, func() bool { return len(answer) > 0 }, 200*time.Millisecond, 10*time.Millisecond)
	w.pool.Update(right)
	select {
	case a := <-answer:
		require.NoError(t, a[0].Err)
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on waiting for the former one")
	}
}
