package router_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
)

// A reader below the first extent of a partition has missed the records of those that
// retention has emptied: it is told so, as by a broker. Before an extent that follows a
// failover's gap, and in a compacted topic, it may have missed nothing, and goes on.
func TestBelowTheFirstExtent(t *testing.T) {
	w := newWorld(t, 4)
	write(t, w.clusters["a"], 0, "v10", "v11")
	for _, c := range []struct {
		name   string
		base   federation.LogicalOffset
		copies federation.PhysicalRange
		start  federation.PhysicalOffset
		config map[string]string
		fails  bool
	}{
		{"after retention", 10, federation.PhysicalRange{}, 0, nil, true},
		{"behind a gap", 2 * federation.FailoverStep, federation.PhysicalRange{}, 0, nil, false},
		{"compacted", 10, federation.PhysicalRange{}, 0, map[string]string{"cleanup.policy": "compact"}, false},
		{"copied, and compacted no more", 11, federation.PhysicalRange{From: 0, To: 1}, 1, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			head := federationtest.Head("a", "phys", 0)
			head.Number, head.Base, head.Copies, head.Start = 1, c.base, c.copies, c.start
			w.SetTopic("orders", c.config, []*federation.Extent{head})
			s := w.r.NewSession()
			defer s.Close()
			tp, first := at("orders", 0), head.First()
			fetch := func(from federation.LogicalOffset) router.Slice {
				f, err := s.Fetch(t.Context(), []router.Position{{TopicPartition: tp, Offset: from, MaxBytes: 1000, CurrentEpoch: -1}}, router.FetchLimit{MinBytes: 1, MaxBytes: 1000, MaxWait: 5 * time.Second})
				require.NoError(t, err)
				f.Release()
				return f.Slices[0]
			}
			require.NoError(t, fetch(first).Err)
			low := s.ListOffsets(t.Context(), []router.OffsetQuery{{TopicPartition: tp, TimestampMs: router.TimestampEarliest, CurrentEpoch: -1}})
			require.NoError(t, low[0].Err)
			require.Equal(t, first, low[0].Offset)
			for _, below := range []federation.LogicalOffset{0, first - 1} {
				if c.fails {
					require.Equal(t, federation.OffsetOutOfRange, federation.KindOf(fetch(below).Err))
				} else {
					require.NoError(t, fetch(below).Err)
				}
			}
		})
	}
}
