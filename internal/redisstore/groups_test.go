package redisstore_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
)

func record(field, value string) redisstore.GroupRecord {
	return redisstore.GroupRecord{Field: field, Value: []byte(value)}
}

func offsetKey(id federation.TopicID, p federation.LogicalPartition) redisstore.OffsetKey {
	return redisstore.OffsetKey{Topic: id, Partition: p}
}

func TestGroupOwnership(t *testing.T) {
	onStores(t, func(t *testing.T, s *redisstore.Store) {
		ctx := t.Context()
		epoch, state, err := s.ClaimGroup(ctx, lc, "", "g", false, 0)
		require.NoError(t, err)
		require.Zero(t, epoch, "nothing is stored of it")
		require.Empty(t, state)

		first, _, err := s.ClaimGroup(ctx, lc, "", "g", true, 0)
		require.NoError(t, err)
		require.Positive(t, first)
		require.NoError(t, s.WriteGroup(ctx, lc, "g", redisstore.GroupWrite{Epoch: first, Sequence: 1, NowMs: 10, Records: []redisstore.GroupRecord{record("a", "1"), record("b", "2")}}))
		require.NoError(t, s.WriteGroup(ctx, lc, "g", redisstore.GroupWrite{Epoch: first, Sequence: 3, NowMs: 11, Records: []redisstore.GroupRecord{record("a", "3"), {Field: "b"}}}))
		// A write that was delayed on its way changes nothing any more.
		require.NoError(t, s.WriteGroup(ctx, lc, "g", redisstore.GroupWrite{Epoch: first, Sequence: 2, NowMs: 11, Records: []redisstore.GroupRecord{record("a", "2")}}))

		second, state, err := s.ClaimGroup(ctx, lc, "", "g", false, 0)
		require.NoError(t, err)
		require.Greater(t, second, first)
		require.Equal(t, map[string][]byte{"a": []byte("3")}, state)
		for _, err := range []error{
			s.WriteGroup(ctx, lc, "g", redisstore.GroupWrite{Epoch: first, Sequence: 9, Records: []redisstore.GroupRecord{record("a", "zombie")}}),
			s.DeleteGroup(ctx, lc, "g", first),
		} {
			require.Equal(t, federation.NotCoordinator, federation.KindOf(err))
		}
		require.NoError(t, s.ReleaseGroup(ctx, lc, "g", first), "not its own any more: no effect")
		epochs, err := s.GroupEpochs(ctx, lc, []string{"none", "g"})
		require.NoError(t, err)
		require.Equal(t, []int64{0, second}, epochs)
		require.NoError(t, s.ReleaseGroup(ctx, lc, "g", second))
		err = s.WriteGroup(ctx, lc, "g", redisstore.GroupWrite{Epoch: second, Sequence: 1})
		require.Equal(t, federation.NotCoordinator, federation.KindOf(err), "it was released")

		// An epoch is never given twice, not even to a group that was deleted.
		third, _, err := s.ClaimGroup(ctx, lc, "", "g", true, 0)
		require.NoError(t, err)
		require.NoError(t, s.DeleteGroup(ctx, lc, "g", third))
		fourth, state, err := s.ClaimGroup(ctx, lc, "", "g", true, 0)
		require.NoError(t, err)
		require.Greater(t, fourth, third)
		require.Empty(t, state)
	})
}

func TestGroupOffsets(t *testing.T) {
	onStores(t, func(t *testing.T, s *redisstore.Store) {
		ctx := t.Context()
		id, other := federation.NewTopicID(), federation.NewTopicID()
		epoch, _, err := s.ClaimGroup(ctx, lc, "", "g", true, 0)
		require.NoError(t, err)
		a := redisstore.GroupOffset{OffsetKey: offsetKey(id, 0), Offset: 1 << 40, Epoch: 7, Metadata: "with spaces\nand 12 lines", CommittedMs: 99}
		b := redisstore.GroupOffset{OffsetKey: offsetKey(id, 1000), Offset: 0, Epoch: federation.NoEpoch, CommittedMs: 100}
		require.NoError(t, s.WriteGroup(ctx, lc, "g", redisstore.GroupWrite{Epoch: epoch, Sequence: 1, NowMs: 1, Offsets: []redisstore.GroupOffset{a, b}}))
		got, err := s.GroupOffsets(ctx, lc, "g", []redisstore.OffsetKey{b.OffsetKey, offsetKey(other, 0), a.OffsetKey})
		require.NoError(t, err)
		require.Equal(t, []redisstore.GroupOffset{b, {OffsetKey: offsetKey(other, 0), Offset: -1, Epoch: federation.NoEpoch}, a}, got)
		got, err = s.GroupOffsets(ctx, lc, "g", nil)
		require.NoError(t, err)
		require.ElementsMatch(t, []redisstore.GroupOffset{a, b}, got)
		require.NoError(t, s.WriteGroup(ctx, lc, "g", redisstore.GroupWrite{Epoch: epoch, Sequence: 2, NowMs: 1, DeleteOffsets: []redisstore.OffsetKey{a.OffsetKey}}))
		got, err = s.GroupOffsets(ctx, lc, "g", nil)
		require.NoError(t, err)
		require.Equal(t, []redisstore.GroupOffset{b}, got)
		// Offsets alone make a group.
		epoch, _, err = s.ClaimGroup(ctx, lc, "", "g", false, 0)
		require.NoError(t, err)
		require.Positive(t, epoch)
		require.NoError(t, s.DeleteGroup(ctx, lc, "g", epoch))
		got, err = s.GroupOffsets(ctx, lc, "g", nil)
		require.NoError(t, err)
		require.Empty(t, got)
	})
}

func TestGroupIndex(t *testing.T) {
	onStores(t, func(t *testing.T, s *redisstore.Store) {
		ctx := t.Context()
		for i := range 1200 {
			g := fmt.Sprintf("g%04d", i)
			epoch, _, err := s.ClaimGroup(ctx, lc, "", g, true, 0)
			require.NoError(t, err)
			require.NoError(t, s.WriteGroup(ctx, lc, g, redisstore.GroupWrite{Epoch: epoch, Sequence: 1, NowMs: int64(i), Records: []redisstore.GroupRecord{record("h", g)}}))
		}
		seen := map[string]bool{}
		require.NoError(t, s.Groups(ctx, lc, func(ids []string) error {
			for _, id := range ids {
				seen[id] = true
			}
			return nil
		}))
		require.Len(t, seen, 1200)
		old, err := s.GroupsUntouched(ctx, lc, 3, 1, 10)
		require.NoError(t, err)
		require.Equal(t, []string{"g0001", "g0002"}, old)
		fields, err := s.GroupFields(ctx, lc, []string{"g0007", "none", "g0001"}, "h")
		require.NoError(t, err)
		require.True(t, slices.EqualFunc([]string{"g0007", "", "g0001"}, fields, func(a string, b []byte) bool { return a == string(b) }))
		require.Nil(t, fields[1])
	})
}
