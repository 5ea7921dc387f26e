package router_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
)

// Readers at offsets that were given up go on at the next extent, whatever the topic has
// them do at suspended ones, and are told of no truncation.
func TestReadersPassWhatWasGivenUp(t *testing.T) {
	for _, read := range []string{"skip", "wait"} {
		for _, first := range []bool{true, false} {
			t.Run(read+", first="+strconv.FormatBool(first), func(t *testing.T) {
				away(t, func(t *testing.T, stop func(*kfake.Cluster)) {
					w, s := suspended(t, read, stop)
					epoch := w.part(t).Extents[0].LastEpoch().Logical
					base := federation.LogicalOffset(5 + gap)
					if !first { // an extent before it stays
						w.changePart(func(p *federation.Partition, _ *federation.Extent) {
							before := *p.Extents[0]
							before.State, before.End, before.Cluster, before.PhysicalAddress.Partition = federation.ExtentSealed, before.Start+2, "b", 1
							before.Seen, before.Acknowledged = 0, 0
							p.Extents[0] = &before
						})
					} else {
						base = 2 * federation.FailoverStep // as planned: by that a gap is known
						w.changePart(func(p *federation.Partition, head *federation.Extent) {
							after := *head
							after.Base = base
							p.Extents = []*federation.Extent{&after}
						})
					}
					want := []string{strconv.FormatInt(int64(base), 10) + ":5", strconv.FormatInt(int64(base+1), 10) + ":6"}
					for _, from := range []federation.LogicalOffset{2, 4, 5} {
						g, err := look(t.Context(), s, from, 5*time.Second, false)
						require.NoError(t, err)
						require.Equal(t, want, g.values, "from %d", from)
					}
					got := s.OffsetsForEpochs(t.Context(), []router.EpochQuery{{TopicPartition: tp0, CurrentEpoch: -1, Epoch: epoch}})
					require.NoError(t, got[0].Err)
					require.Equal(t, base, got[0].End, "a position in it is in front of the end")
				})
			})
		}
	}
}
