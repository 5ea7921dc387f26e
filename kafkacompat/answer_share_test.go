package kafkacompat

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/memory"
)

func answersOf(size, most int64) *conn {
	cfg := Config{GatewayID: "gw", AnswerBytesMax: most}.withDefaults()
	return &conn{s: &Server{cfg: cfg, shared: &shared{answers: newAnswers(&cfg, memory.NewBudget(size))}}}
}

func newShare() *request { return &request{api: &api{name: "DescribeGroups"}} }

// Answers that turn out larger than the first guess do not lock up, though together they
// want many times the budget; what is above it is of one of them.
func TestAnswersThatGrowDoNotLockUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, most, each, steps = 10 << 20, 8 << 20, 1 << 20, 7
		c := answersOf(size, most)
		a := &c.s.answers
		var wg sync.WaitGroup
		var largest atomic.Int64
		for range 30 {
			wg.Go(func() {
				r := newShare()
				for range steps {
					if err := r.room(t.Context(), c, each); err != nil {
						t.Error(err)
					}
					largest.Store(max(largest.Load(), a.budget.Used()))
					<-time.After(time.Second)
				}
				resp := response{vecs: [][]byte{make([]byte, each)}}
				r.written(c, &resp)
				<-time.After(time.Second)
				resp.release()
			})
		}
		wg.Wait()
		require.Zero(t, a.budget.Used())
		require.Empty(t, a.above)
		require.Greater(t, largest.Load(), int64(size), "one had to go on")
		require.LessOrEqual(t, largest.Load(), int64(size+most))
	})
}

func TestRoomIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := answersOf(10<<20, 8<<20)
		a := &c.s.answers
		r := newShare()
		require.NoError(t, r.room(t.Context(), c, smallAnswerBytes))
		require.Zero(t, a.budget.Used(), "a small one")
		require.NoError(t, r.room(t.Context(), c, 7<<20))
		require.EqualValues(t, 7<<20+smallAnswerBytes, a.budget.Used())
		require.Equal(t, federation.InvalidArgument, federation.KindOf(r.room(t.Context(), c, 1<<20)))
		require.NoError(t, r.room(t.Context(), c, 1000), "less fits")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		other := newShare()
		require.Equal(t, federation.Timeout, federation.KindOf(other.room(ctx, c, 5<<20)))
		other.share.giveBack(0)
		r.share.giveBack(0)
		require.Zero(t, a.budget.Used())
	})
}

// Who cannot wait for long goes on above the budget after a while, but for an answer that
// could never fit.
func TestRoomSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, most = 10 << 20, 8 << 20
		c := answersOf(size, most)
		a := &c.s.answers
		require.NoError(t, a.budget.Acquire(t.Context(), size))
		r, began := newShare(), time.Now()
		require.NoError(t, r.roomSoon(t.Context(), c, 5<<20))
		require.Equal(t, soonMax, time.Since(began))
		require.NoError(t, r.noRoom)
		require.EqualValues(t, size+5<<20, a.budget.Used())
		require.Equal(t, federation.InvalidArgument, federation.KindOf(r.roomSoon(t.Context(), c, 4<<20)))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, newShare().roomSoon(ctx, c, 5<<20), "the gateway stops")
		r.share.giveBack(0)
		a.budget.Release(size)
		require.Zero(t, a.budget.Used())

		r = newShare()
		require.NoError(t, r.roomSoon(t.Context(), c, 5<<20))
		require.Equal(t, soonMax, time.Since(began), "there is room")
		waits := newShare()
		go func() { _ = waits.room(t.Context(), c, 6<<20) }()
		synctest.Wait()
		require.NoError(t, r.room(t.Context(), c, 0), "nothing more takes no turn")
		require.Empty(t, a.above)
		r.share.giveBack(0)
		synctest.Wait()
		waits.share.giveBack(0)
		require.Zero(t, a.budget.Used())
	})
}

// An answer that is larger than the estimate counts as what it is.
func TestAnswerLargerThanItsEstimate(t *testing.T) {
	c := answersOf(1<<20, 1<<20)
	r := newShare()
	resp := response{vecs: [][]byte{make([]byte, 2<<20)}}
	r.written(c, &resp)
	require.EqualValues(t, 2<<20, c.s.answers.budget.Used())
	resp.release()
	require.Zero(t, c.s.answers.budget.Used())
	require.Empty(t, c.s.answers.above)
}

func TestOnce(t *testing.T) {
	require.Equal(t, []string{"b", "a", "c"}, once([]string{"b", "a", "b", "c", "a"}, itself))
	var many []int
	for i := range 100 {
		many = append(many, i%20)
	}
	kept := once(many, itself)
	require.Len(t, kept, 20)
	require.Equal(t, 19, kept[19])
	require.Nil(t, once([]string(nil), itself))
	require.NotNil(t, once([]string{}, itself))
}
