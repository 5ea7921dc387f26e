package router_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
)

// TestProducersGoWithTheHead: a tool sees a producer after a move as before it, though it
// has sent nothing to the new head; braid's own producers it does not see.
func TestProducersGoWithTheHead(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	known := func() []router.ActiveProducer {
		got := s.Producers(t.Context(), []federation.TopicPartition{tp0, at("never", 0)})
		require.NoError(t, got[0].Err)
		require.Equal(t, federation.UnknownTopic, federation.KindOf(got[1].Err))
		return got[0].Active
	}
	require.Empty(t, known())
	added(t, s, one(0, "0"))
	added(t, s, one(1, "1"))
	want := router.ActiveProducer{ID: pid, LastSequence: 1, LastTimestamp: -1, TxnStart: -1}
	require.Equal(t, []router.ActiveProducer{want}, known())
	w.move(t, "b", 0)
	require.Equal(t, []router.ActiveProducer{want}, known(), "carried over")
	added(t, s, one(2, "2"))
	want.LastSequence = 2
	require.Equal(t, []router.ActiveProducer{want}, known())
}

// TestSizesCountAllExtents that answer.
func TestSizesCountAllExtents(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	s := session(t, w.r)
	size := func() int64 {
		sizes := s.Sizes(t.Context(), []federation.TopicPartition{tp0, at("never", 0)})
		require.Zero(t, sizes[1])
		return sizes[0]
	}
	added(t, s, one(0, "0"))
	first := size()
	require.Positive(t, first)
	w.move(t, "b", 0)
	moved := size()
	require.Greater(t, moved, first, "with the marks")
	added(t, s, one(1, "1"))
	both := size()
	require.Greater(t, both, moved)
	w.Change(func(m *federation.Map) {
		c := *m.Clusters["a"]
		c.State = federation.ClusterFailed
		m.Clusters["a"] = &c
	})
	require.Less(t, size(), both, "what lies on a failed cluster does not count")
	require.Positive(t, size())
}
