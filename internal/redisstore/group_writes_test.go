package redisstore_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
)

// Many groups write at a time: each gets its own answer, also the one that lost its
// group, and they need fewer round trips than there are writes.
func TestGroupWritesTogether(t *testing.T) {
	onStores(t, func(t *testing.T, s *redisstore.Store) {
		ctx := t.Context()
		const groups, rounds = 100, 5
		topic := federation.NewTopicID()
		epochs := make([]int64, groups)
		for i := range epochs {
			epoch, _, err := s.ClaimGroup(ctx, lc, "", fmt.Sprintf("g%d", i), true, 0)
			require.NoError(t, err)
			epochs[i] = epoch
		}
		const lost = 7
		_, _, err := s.ClaimGroup(ctx, lc, "", fmt.Sprintf("g%d", lost), true, 0)
		require.NoError(t, err)
		before := s.GroupWriteStats()
		var wg sync.WaitGroup
		for i := range groups {
			wg.Go(func() {
				for seq := range int64(rounds) {
					err := s.WriteGroup(ctx, lc, fmt.Sprintf("g%d", i), redisstore.GroupWrite{
						Epoch: epochs[i], Sequence: seq + 1, NowMs: 1,
						Offsets: []redisstore.GroupOffset{{OffsetKey: offsetKey(topic, 0), Offset: federation.LogicalOffset(100*i) + federation.LogicalOffset(seq)}},
					})
					if i == lost {
						if federation.KindOf(err) != federation.NotCoordinator {
							t.Errorf("a group that was taken over: %v", err)
						}
					} else if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		after := s.GroupWriteStats()
		require.EqualValues(t, (groups-1)*rounds, after.Writes-before.Writes)
		require.Less(t, after.RoundTrips-before.RoundTrips, int64(groups*rounds/2), "they share round trips")
		for i := range groups {
			got, err := s.GroupOffsets(ctx, lc, fmt.Sprintf("g%d", i), []redisstore.OffsetKey{offsetKey(topic, 0)})
			require.NoError(t, err)
			want := federation.LogicalOffset(100*i + rounds - 1)
			if i == lost {
				want = -1
			}
			require.Equal(t, want, got[0].Offset, "group %d", i)
		}
	})
}

// A write whose caller gives up is answered at once, and one that Redis does not answer
// does not hold up its callers for longer than they wait.
func TestGroupWriteGivesUp(t *testing.T) {
	onStores(t, func(t *testing.T, s *redisstore.Store) {
		epoch, _, err := s.ClaimGroup(t.Context(), lc, "", "g", true, 0)
		require.NoError(t, err)
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		require.ErrorIs(t, s.WriteGroup(ctx, lc, "g", redisstore.GroupWrite{Epoch: epoch, Sequence: 1}), context.DeadlineExceeded)
		require.NoError(t, s.WriteGroup(t.Context(), lc, "g", redisstore.GroupWrite{Epoch: epoch, Sequence: 2}))
	})
}
