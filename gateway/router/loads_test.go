package router_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

// Loads names what was acknowledged since it was asked last, over all lanes.
func TestLoads(t *testing.T) {
	w := newWorld(t, 2)
	w.orders()
	loads := func() map[federation.TopicPartition]int64 {
		got, err := w.r.Loads(t.Context())
		require.NoError(t, err)
		return got
	}
	require.Empty(t, loads())
	size := int64(0)
	for i := range int32(3) { // sessions of several lanes
		b := from(pid+int64(i), 0, 0, "a", "b")
		size += int64(len(b))
		added(t, session(t, w.r), b)
	}
	require.Equal(t, map[federation.TopicPartition]int64{tp0: size}, loads())
	require.Empty(t, loads(), "it was told already")
}
