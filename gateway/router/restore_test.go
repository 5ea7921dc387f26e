package router_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/mark"
)

// roll moves the head of tp0 to a partition that was told before of what other extents
// knew, and then of what the old head did.
func (w *world) roll(t *testing.T, cluster string, partition int, returned ...mark.Producer) {
	t.Helper()
	w.headState(federation.ExtentSealing)
	w.hold(t, w.r)
	end := w.seal(t)
	old := w.part(t).Head()
	next := federationtest.Head(cluster, "phys", partition)
	next.Number = old.Number + 1
	producer := marksBy + int64(next.Number)
	next.Opening = w.append(t, next, mark.Primer(w.subject(t, next.Number), producer, time.Now())) + 1
	for by, producers := range map[int64][]mark.Producer{producer + 0x3300: returned, producer: w.producersAt(t, old, end)} {
		openings, err := mark.Openings(w.subject(t, next.Number), by, producers, 1<<20, time.Now())
		require.NoError(t, err)
		next.Start = w.append(t, next, openings...) + 1
	}
	w.changePart(func(p *federation.Partition, head *federation.Extent) {
		head.State, head.End = federation.ExtentSealed, end
		next.Base, _ = head.EndOffset()
		p.Epoch++
		next.Epochs = allEpochs(p.Epoch)
		p.Extents = append(p.Extents, next)
	})
}

// A batch that reached a cluster which failed, and that comes again only when it is back,
// is answered with its first offset, through whatever gateway it comes, also after moves.
func TestBatchComesAgainAfterTheRestore(t *testing.T) {
	w := newWorld(t, 4)
	w.orders()
	w.configure(federation.ConfigFailoverRead, "wait")
	s := session(t, w.r)
	added(t, s, one(0, "0"))
	added(t, s, from(pid+1, 0, 0, "other 0"))
	w.append(t, w.part(t).Head(), one(1, "1"), one(2, "2")) // nobody heard that they are there
	w.append(t, w.part(t).Head(), from(pid+1, 0, 1, "other 1"))
	other := session(t, w.router(t, router.Config{}, nil))
	h := w.failOver(t, "b", 0)
	added(t, s, from(pid+1, 0, 1, "other 1")) // sent again at once
	end := w.sealExtent(t, 0)
	w.roll(t, "b", 1, mark.Producer{ID: pid, LastSequence: 2}, mark.Producer{ID: pid + 1, LastSequence: 1})
	w.restore(t, 0, func(e *federation.Extent) {
		e.End, e.Hidden = end, []federation.PhysicalRange{{From: 4, To: 5}}
		require.Equal(t, h.AcknowledgedEnd, e.Acknowledged)
	})
	again := func(s router.Session, b []byte) federation.LogicalOffset {
		a := answerOf(t, begin(t, s, 10*time.Second, b))
		require.NoError(t, a.Err)
		require.True(t, a.Duplicate)
		return a.BaseOffset
	}
	head := w.part(t).Head()
	require.EqualValues(t, 2, again(other, one(1, "1")))
	require.Equal(t, w.part(t).Extents[1].Base, again(other, from(pid+1, 0, 1, "other 1")), "not where it is hidden")
	for partition := 2; partition < 4; partition++ {
		w.move(t, "b", partition)
	}
	require.EqualValues(t, 3, again(s, one(2, "2")))
	require.Equal(t, w.part(t).Head().Base, added(t, other, one(3, "3")))
	require.Equal(t, head.Base, w.part(t).Head().Base, "nothing was written in between")
}
