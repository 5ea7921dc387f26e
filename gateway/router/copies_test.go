package router_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
)

// openCopied moves the head, as that of a compacted topic, to a partition that has
// some copies of what it had.
func (w *world) openCopied(t *testing.T, end federation.PhysicalOffset, cluster string, values ...string) {
	t.Helper()
	old := w.part(t).Head()
	next := federationtest.Head(cluster, "phys", 0)
	next.Number = old.Number + 1
	producer := marksBy + int64(next.Number)
	from := w.append(t, next, mark.Primer(w.subject(t, next.Number), producer, time.Now().Add(-time.Hour))) + 1
	for i, v := range values {
		var b recordbatch.Builder
		b.Reset(nil)
		b.Add(&recordbatch.Record{TimestampMs: time.Now().Add(time.Duration(i-len(values)) * time.Minute).UnixMilli(), Key: []byte("k"), Value: []byte(v)})
		w.append(t, next, b.Finish(recordbatch.Producer{ID: pid + 99, Sequence: int32(i)}))
	}
	next.Copies = federation.PhysicalRange{From: from, To: from + federation.PhysicalOffset(len(values))}
	openings, err := mark.Openings(w.subject(t, next.Number), producer, w.producersAt(t, old, end), 1<<20, time.Now())
	require.NoError(t, err)
	require.NotEmpty(t, openings)
	next.Opening, next.Start = next.Copies.To, w.append(t, next, openings...)+1
	w.changePart(func(p *federation.Partition, head *federation.Extent) {
		sealed := *head
		sealed.State, sealed.End = federation.ExtentSealed, end
		next.Base, _ = sealed.EndOffset()
		p.Epoch++
		next.Epochs = allEpochs(p.Epoch)
		p.Extents = []*federation.Extent{next}
	})
}

// A compacted topic that has moved has one extent: its copies end where the old one
// ended, and clients go on there.
func TestReadersOfACompactedTopicThatMoved(t *testing.T) {
	both(t, func(t *testing.T, committed bool) {
		w := newWorld(t, 1)
		w.orders()
		s := session(t, w.r)
		for i, v := range []string{"a", "b", "c", "d", "e"} {
			added(t, s, one(int32(i), v))
		}
		atEnd := session(t, w.r)
		require.Len(t, readTo(t, atEnd, 0, 5, committed), 5) // its tail waits at 5
		old := w.part(t).Head().LastEpoch().Logical
		w.headState(federation.ExtentSealing)
		w.hold(t, w.r)
		// Compaction had taken a and b away.
		w.openCopied(t, w.seal(t), "b", "c", "d", "e")
		copies := []string{"2:c", "3:d", "4:e"}
		for _, r := range []router.Session{atEnd, session(t, w.r)} {
			require.Empty(t, readTo(t, r, 5, 5, committed), "nothing again")
			require.Equal(t, copies, readTo(t, r, 0, 5, committed), "the log begins later, which is no error")
			require.Equal(t, copies[1:], readTo(t, r, 3, 5, committed))
		}
		for epoch := range old + 1 {
			a := s.OffsetsForEpochs(t.Context(), []router.EpochQuery{{TopicPartition: tp0, CurrentEpoch: -1, Epoch: epoch}})[0]
			require.NoError(t, a.Err)
			require.Equal(t, federation.LogicalOffset(5), a.End, "nobody is told of a truncation")
			require.Equal(t, epoch, a.Epoch)
		}
		require.NotEqual(t, old, w.part(t).Head().LastEpoch().Logical)

		queries := []router.OffsetQuery{}
		for _, ts := range []int64{
			router.TimestampEarliest, router.TimestampLatest, router.TimestampMax, 0,
			time.Now().Add(-150 * time.Second).UnixMilli(), time.Now().Add(-30 * time.Second).UnixMilli(),
		} {
			queries = append(queries, router.OffsetQuery{TopicPartition: tp0, TimestampMs: ts, CurrentEpoch: -1, ReadCommitted: committed})
		}
		answers := func(want ...federation.LogicalOffset) {
			t.Helper()
			for i, a := range s.ListOffsets(t.Context(), queries) {
				require.NoError(t, a.Err)
				require.Equal(t, want[i], a.Offset, "timestamp %d", queries[i].TimestampMs)
			}
		}
		answers(2, 5, 4, 2, 3, -1)
		water, err := s.Watermarks(t.Context(), tp0)
		require.NoError(t, err)
		require.Equal(t, router.Watermarks{LogStart: 2, HighWatermark: 5, LastStable: 5}, water)

		// The producer goes on: what it repeats is known, and what follows is next.
		added(t, s, one(5, "f"))
		for _, r := range []router.Session{atEnd, session(t, w.r)} {
			require.Equal(t, []string{"5:f"}, readTo(t, r, 5, 6, committed))
			require.Equal(t, append(copies, "5:f"), readTo(t, r, 0, 6, committed))
		}
		answers(2, 6, 5, 2, 3, 5)
	})
}
