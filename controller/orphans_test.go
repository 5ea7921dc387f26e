package controller_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/upstream"
)

// Heads whose move was lost together with the store's operations are not held for
// ever: those that were primed go on, sealed or not; others take appends again.
func TestMovesGoOnAfterTheirOperationIsLost(t *testing.T) {
	w, m := populated(t)
	topic := m.Topic("orders")
	producer := mark.ProducerID(7)
	var moves []planner.Move
	for i := range 3 {
		h := topic.Partitions[i].Head()
		v := planner.Move{TopicPartition: federation.TopicPartition{Topic: "orders", Partition: federation.LogicalPartition(i)}, Extent: h.Number, From: h.PhysicalAddress}
		v.To = federation.PhysicalAddress{Cluster: "a", Topic: h.Topic, Partition: 2 + federation.PhysicalPartition(i)}
		moves = append(moves, v)
	}
	a := w.physical(t, "a")
	require.NoError(t, a.CreatePartitions(t.Context(), "default.orders.1", 5))
	subject := func(v planner.Move, extent int32) mark.Subject {
		return mark.Subject{LogicalCluster: "default", Topic: "orders", TopicID: topic.ID, Partition: v.Partition, Extent: extent, MapVersion: m.Version}
	}
	for _, v := range moves[:2] { // the third was not primed
		done := a.AppendMarks(t.Context(), []upstream.MarkAppend{{Partition: upstream.Partition{Topic: v.To.Topic, Partition: v.To.Partition}, Batch: mark.Primer(subject(v, 1), producer, time.Now())}})
		require.NoError(t, done[0].Err)
	}
	sealed := moves[1]
	done := w.physical(t, string(sealed.From.Cluster)).AppendMarks(t.Context(), []upstream.MarkAppend{{
		Partition: upstream.Partition{Topic: sealed.From.Topic, Partition: sealed.From.Partition}, Batch: mark.Seal(subject(sealed, 0), producer, time.Now()),
	}})
	require.NoError(t, done[0].Err)
	store := w.store(t, nil)
	l, won, err := store.AcquireLeadership(t.Context(), "default", redisstore.Candidate{ID: "gone"}, time.Second)
	require.NoError(t, err)
	require.True(t, won)
	sealing, err := planner.WithSealing(m, moves)
	require.NoError(t, err)
	held := *sealing
	held.Version++
	require.NoError(t, store.WriteMap(t.Context(), "default", l.Fencing, wire.Diff(m, held.Seal())))
	require.NoError(t, store.ReleaseLeadership(t.Context(), "default", l.Fencing))

	c2 := w.controller(t, "c2", func(c *controller.Config) { c.OrphanGrace = 50 * time.Millisecond })
	c2.leads(t)
	var got *federation.Map
	require.Eventually(t, func() bool {
		got, err = store.LoadMap(t.Context(), "default")
		// The first one's head, which has a way back, takes appends until its round begins.
		return err == nil && len(got.SealingHeads()) == 0 && len(got.Topic("orders").Partitions[0].Extents) == 2
	}, patience, 10*time.Millisecond, "no head is held, and what was primed has moved")
	for i, want := range []int{2, 2, 1, 1} {
		require.Len(t, got.Topic("orders").Partitions[i].Extents, want, "partition %d", i)
		require.Equal(t, federation.ExtentOpen, got.Topic("orders").Partitions[i].Head().State)
	}
	require.Equal(t, done[0].Offset, got.Topic("orders").Partitions[1].Extents[0].End, "the seal that was there is the end")
	require.Equal(t, moves[1].To, got.Topic("orders").Partitions[1].Head().PhysicalAddress)
	require.Eventually(t, func() bool { return len(alarms(t, adminOf(t, c2.url))) == 0 }, patience, 10*time.Millisecond)
}
