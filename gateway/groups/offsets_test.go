package groups

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

func commitAt(t string, p int, offset int64) CommitOffset {
	return CommitOffset{TopicPartition: tp(t, p), Offset: federation.LogicalOffset(offset), Epoch: 2, Metadata: "m"}
}

func outside(offsets ...CommitOffset) CommitRequest {
	return CommitRequest{Group: "g", Generation: -1, Offsets: offsets}
}

func TestOffsets(t *testing.T) {
	onWorlds(t, func(w *world) {
		ctx := w.t.Context()
		gw := w.gateway("a")
		w.serve("a")
		e := gw.engine
		got, err := e.Committed(ctx, "g", []federation.TopicPartition{tp("t", 1), tp("x", 0)})
		require.NoError(w.t, err)
		require.EqualValues(w.t, -1, got[0].Offset, "none")
		require.EqualValues(w.t, -1, got[1].Offset)
		require.Equal(w.t, federation.NoEpoch, got[0].Epoch)

		errs, err := e.Commit(ctx, outside(commitAt("t", 1, 10), commitAt("t", 0, 4), commitAt("x", 0, 1), commitAt("t", 77, 1), commitAt("t", 2, -1),
			CommitOffset{TopicPartition: tp("t", 3), Metadata: strings.Repeat("x", 4097)}))
		require.NoError(w.t, err)
		var kinds []federation.Kind
		for _, err := range errs[2:] {
			kinds = append(kinds, federation.KindOf(err))
		}
		require.NoError(w.t, errs[0])
		require.NoError(w.t, errs[1])
		require.Equal(w.t, []federation.Kind{federation.UnknownTopic, federation.UnknownPartition, federation.InvalidArgument, federation.OffsetMetadataTooLarge}, kinds)

		all, err := e.Committed(ctx, "g", nil)
		require.NoError(w.t, err)
		require.Len(w.t, all, 2)
		require.Equal(w.t, tp("t", 0), all[0].TopicPartition)
		require.Equal(w.t, "m", all[1].Metadata)
		require.EqualValues(w.t, 2, all[1].Epoch)
		require.InDelta(w.t, time.Now().UnixMilli(), all[1].CommittedMs, 10_000)

		// A topic that is created again does not inherit.
		w.topics("u=1")
		all, err = e.Committed(ctx, "g", nil)
		require.NoError(w.t, err)
		require.Empty(w.t, all)
		w.topics("t=6", "u=1")
		got, err = e.Committed(ctx, "g", []federation.TopicPartition{tp("t", 1)})
		require.NoError(w.t, err)
		require.EqualValues(w.t, -1, got[0].Offset)
	})
}

func TestOffsetsSurviveRestartsAndDeletion(t *testing.T) {
	onWorlds(t, func(w *world) {
		ctx := w.t.Context()
		a := w.gateway("a")
		w.serve("a")
		_, err := a.engine.Commit(ctx, outside(commitAt("t", 0, 10), commitAt("t", 1, 11)))
		require.NoError(w.t, err)
		a.crash()
		b := w.gateway("b")
		w.serve("b")
		got, err := b.engine.Committed(ctx, "g", []federation.TopicPartition{tp("t", 0)})
		require.NoError(w.t, err)
		require.EqualValues(w.t, 10, got[0].Offset)
		list, err := b.engine.List(ctx)
		require.NoError(w.t, err)
		require.Equal(w.t, []Listing{{Group: "g", State: "Empty", Type: "classic"}}, list)

		errs, err := b.engine.DeleteOffsets(ctx, "g", []federation.TopicPartition{tp("t", 0), tp("x", 0)})
		require.NoError(w.t, err)
		require.NoError(w.t, errs[0])
		require.Equal(w.t, federation.UnknownTopic, federation.KindOf(errs[1]))

		r := w.reader("r", b.engine)
		w.shared(6)
		errs, err = b.engine.DeleteOffsets(ctx, "g", []federation.TopicPartition{tp("t", 1)})
		require.NoError(w.t, err)
		require.Equal(w.t, federation.GroupSubscribed, federation.KindOf(errs[0]))
		require.Equal(w.t, federation.GroupNotEmpty, federation.KindOf(b.engine.Delete(ctx, "g")))
		_, err = b.engine.Commit(ctx, outside(commitAt("t", 0, 10)))
		require.Equal(w.t, federation.UnknownMember, federation.KindOf(err), "only members commit")
		require.NoError(w.t, r.leave())
		require.EqualValues(w.t, -1, r.start[tp("t", 0)])
		require.EqualValues(w.t, 11, r.start[tp("t", 1)])

		require.NoError(w.t, b.engine.Delete(ctx, "g"))
		require.Equal(w.t, federation.GroupNotFound, federation.KindOf(b.engine.Delete(ctx, "g")))
		_, err = b.engine.Describe(ctx, "g")
		require.Equal(w.t, federation.GroupNotFound, federation.KindOf(err))
		_, err = b.engine.DeleteOffsets(ctx, "g", nil)
		require.Equal(w.t, federation.GroupNotFound, federation.KindOf(err))
		list, err = b.engine.List(ctx)
		require.NoError(w.t, err)
		require.Empty(w.t, list)
		all, err := b.engine.Committed(ctx, "g", nil)
		require.NoError(w.t, err)
		require.Empty(w.t, all)
	})
}

// While Redis is away nobody is told that there is no offset, and no commit is lost
// silently; afterwards everything goes on.
func TestStoreAway(t *testing.T) {
	onWorlds(t, func(w *world) {
		ctx := w.t.Context()
		gw := w.gateway("a")
		w.serve("a")
		c := w.consumer("c1")
		r := w.reader("r", w.cluster(gw))
		w.shared(3, 3)
		_, err := r.m.Commit(ctx, []CommitOffset{{TopicPartition: r.owned[0], Offset: 5}})
		require.NoError(w.t, err)
		generation, events := c.generation.Load(), r.events.Load()
		gw.loseRedis(true)
		_, err = gw.engine.Committed(ctx, "g", []federation.TopicPartition{tp("t", 0)})
		require.Equal(w.t, federation.CoordinatorLoading, federation.KindOf(err))
		_, err = gw.engine.Committed(ctx, "other", nil)
		require.Equal(w.t, federation.CoordinatorLoading, federation.KindOf(err))
		_, err = gw.engine.Commit(ctx, CommitRequest{Group: "g", MemberID: c.id, Generation: generation, Offsets: []CommitOffset{commitAt("t", 0, 1)}})
		require.Equal(w.t, federation.CoordinatorLoading, federation.KindOf(err))
		_, err = gw.engine.Commit(ctx, CommitRequest{Group: "other", Generation: -1, Offsets: []CommitOffset{commitAt("t", 0, 1)}})
		require.Equal(w.t, federation.CoordinatorLoading, federation.KindOf(err))
		_, err = gw.engine.List(ctx)
		require.Equal(w.t, federation.CoordinatorLoading, federation.KindOf(err))
		require.NoError(w.t, gw.engine.Heartbeat(ctx, HeartbeatRequest{Group: "g", MemberID: c.id, Generation: generation}), "a quiet group goes on")
		gw.loseRedis(false)
		w.eventually("commits work again", func() bool {
			errs, err := r.m.Commit(ctx, []CommitOffset{{TopicPartition: r.owned[0], Offset: 6}})
			return err == nil && errs[0] == nil
		})
		require.Equal(w.t, generation, c.generation.Load())
		require.Equal(w.t, events, r.events.Load())

		// A rebalance that cannot be stored is not answered; it comes to its end later.
		gw.loseRedis(true)
		w.consumer("c2")
		w.wait(100 * time.Millisecond)
		gw.loseRedis(false)
		w.shared(2, 2, 2)
	})
}

func TestConcurrentCommits(t *testing.T) {
	onWorlds(t, func(w *world) {
		ctx := w.t.Context()
		gw := w.gateway("a")
		w.serve("a")
		var done sync.WaitGroup
		for i := range 200 {
			done.Go(func() {
				errs, err := gw.engine.Commit(ctx, outside(commitAt("t", i%6, int64(i))))
				if err != nil || errs[0] != nil {
					w.t.Errorf("commit %d: %v %v", i, err, errs)
				}
			})
		}
		done.Wait()
		all, err := gw.engine.Committed(ctx, "g", nil)
		require.NoError(w.t, err)
		require.Len(w.t, all, 6)
		for _, o := range all {
			require.EqualValues(w.t, o.Partition, int64(o.Offset)%6)
		}
		stats := gw.engine.Stats()
		require.Equal(w.t, 1, stats.Groups)
		require.Less(w.t, stats.Writes, int64(200), "what waits is stored together")
	})
}

func TestRetention(t *testing.T) {
	onWorlds(t, func(w *world) {
		ctx := w.t.Context()
		gw := w.gateway("a", func(c *Config) {
			c.OffsetsRetention, c.RetentionCheck = 500*time.Millisecond, 50*time.Millisecond
		})
		w.serve("a")
		for i := range 3 {
			_, err := gw.engine.Commit(ctx, CommitRequest{Group: fmt.Sprint("idle", i), Generation: -1, Offsets: []CommitOffset{commitAt("t", 0, 1)}})
			require.NoError(w.t, err)
		}
		r := w.reader("r", gw.engine)
		w.shared(6)
		_, err := r.m.Commit(ctx, []CommitOffset{commitAt("t", 0, 3)})
		require.NoError(w.t, err)
		names := func() []string {
			list, err := gw.engine.List(ctx)
			require.NoError(w.t, err)
			var out []string
			for _, l := range list {
				out = append(out, l.Group)
			}
			return out
		}
		require.Len(w.t, names(), 4)
		w.eventually("idle groups are gone", func() bool { return len(names()) == 1 })
		w.wait(600 * time.Millisecond)
		got, err := gw.engine.Committed(ctx, "g", []federation.TopicPartition{tp("t", 0)})
		require.NoError(w.t, err)
		require.EqualValues(w.t, 3, got[0].Offset, "a group in use keeps its offsets")
		require.NoError(w.t, r.leave())
		w.eventually("the empty group goes too", func() bool { return len(names()) == 0 })
	})
}

func TestNotMyGroup(t *testing.T) {
	onWorlds(t, func(w *world) {
		ctx := w.t.Context()
		a, b := w.gateway("a"), w.gateway("b")
		w.serve("b")
		_, err := a.engine.Commit(ctx, outside(commitAt("t", 0, 1)))
		require.Equal(w.t, federation.NotCoordinator, federation.KindOf(err))
		_, err = a.engine.Committed(ctx, "", nil)
		require.Equal(w.t, federation.InvalidGroupID, federation.KindOf(err))

		// The Connect door asks through the cluster.
		c := w.cluster(a)
		errs, err := c.Commit(ctx, outside(commitAt("t", 0, 1), commitAt("x", 0, 1)))
		require.NoError(w.t, err)
		require.NoError(w.t, errs[0])
		require.Equal(w.t, federation.UnknownTopic, federation.KindOf(errs[1]))
		got, err := c.Committed(ctx, "g", []federation.TopicPartition{tp("t", 0)})
		require.NoError(w.t, err)
		require.EqualValues(w.t, 1, got[0].Offset)
		all, err := c.Committed(ctx, "g", nil)
		require.NoError(w.t, err)
		require.Len(w.t, all, 1)
		none, err := c.Committed(ctx, "g", []federation.TopicPartition{})
		require.NoError(w.t, err)
		require.Empty(w.t, none)
		list, err := c.List(ctx)
		require.NoError(w.t, err)
		require.Len(w.t, list, 1)
		r := w.reader("r", c)
		w.shared(6)
		d, err := c.Describe(ctx, "g")
		require.NoError(w.t, err)
		require.Equal(w.t, "connect", d.Members[0].Protocol)
		require.Len(w.t, d.Members[0].Partitions, 6)
		require.Equal(w.t, federation.GroupNotEmpty, federation.KindOf(c.Delete(ctx, "g")))
		errs, err = c.Leave(ctx, "g", []LeavingMember{{MemberID: r.m.MemberID()}, {MemberID: "who"}})
		require.NoError(w.t, err)
		require.NoError(w.t, errs[0])
		require.Equal(w.t, federation.UnknownMember, federation.KindOf(errs[1]))
		<-r.ended
		require.Equal(w.t, federation.UnknownMember, federation.KindOf(r.m.Err()), "it was put out")
		errs, err = c.DeleteOffsets(ctx, "g", []federation.TopicPartition{tp("t", 0)})
		require.NoError(w.t, err)
		require.NoError(w.t, errs[0])
		require.NoError(w.t, c.Delete(ctx, "g"))
		w.eventually("nothing stays in memory", func() bool { return len(b.engine.owners()) == 0 })
	})
}
