package upstream

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/memory"
)

const mib = 1 << 20

func TestLargeBuffersAreUsedAgain(t *testing.T) {
	idle := &idleBuffers{bytesMax: 64 * mib}
	defer idle.close()
	b := newBuffer(6*mib+1, idle)
	require.Len(t, b.B, 6*mib+1)
	require.Len(t, b.full, 7*mib)
	b.Retain()
	b.Release()
	other := newBuffer(6*mib, idle)
	require.NotSame(t, b, other, "is still in use")
	b.Release()
	require.Same(t, b, newBuffer(7*mib, idle))
	require.NotSame(t, b, newBuffer(7*mib, idle), "is in use again")
	require.Zero(t, idle.bytes)

	b.Release()
	large := newBuffer(20*mib, idle)
	large.Release()
	require.Same(t, b, newBuffer(5*mib, idle), "the smallest that is large enough")
	require.NotSame(t, large, newBuffer(9*mib, idle), "would waste more than half")
	require.Same(t, large, newBuffer(10*mib, idle))
}

func TestAnswersAreReadWhole(t *testing.T) {
	for _, size := range []int{0, 1, 100_000, 4 * mib, 4*mib + 1, 5 * mib, 16 * mib, 16*mib + 1, 33 * mib} {
		budget := memory.NewBudget(1 << 30)
		idle := &idleBuffers{bytesMax: 64 * mib, budget: budget}
		answer := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{}).Read(answer)
		for range 2 { // into a new buffer, and into one that is used again
			b, err := readBuffer(iotest.HalfReader(io.MultiReader(bytes.NewReader(answer), bytes.NewReader([]byte{1, 2, 3}))), size, idle)
			require.NoError(t, err)
			require.True(t, bytes.Equal(answer, b.B), "%d bytes", size)
			if size >= chargedMin {
				require.EqualValues(t, len(b.full), budget.Used(), "what it grew out of does not count")
			}
			b.Release()
			require.Zero(t, budget.Used())
		}
		if size > slabBytesMax {
			require.Len(t, idle.held, 1, "only the whole one is kept")
			_, err := readBuffer(bytes.NewReader(answer[1:]), size, idle)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.Zero(t, budget.Used())
			require.Len(t, idle.held, 1)
		}
		idle.close()
	}
}

func TestWhatIsAnnouncedCostsNothing(t *testing.T) {
	idle := &idleBuffers{bytesMax: 64 * mib, budget: memory.NewBudget(1 << 30)}
	defer idle.close()
	for _, c := range []struct{ sent, most int }{{1 << 10, 2 * mib}, {3 * mib, 16 * mib}, {50 * mib, 128 * mib}} {
		var before, after runtime.MemStats
		sent := make([]byte, c.sent)
		runtime.ReadMemStats(&before)
		_, err := readBuffer(bytes.NewReader(sent), 100*mib, idle)
		runtime.ReadMemStats(&after)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(c.most), "%d bytes were sent", c.sent)
		require.Zero(t, idle.budget.Used())
	}
}

func TestIdleBuffersAreBounded(t *testing.T) {
	idle := &idleBuffers{bytesMax: 20 * mib}
	defer idle.close()
	var all []*Buffer
	for _, n := range []int{5, 6, 7, 8, 21} {
		all = append(all, newBuffer(n*mib, idle))
	}
	for i, want := range []int{5, 11, 18, 15, 15} {
		all[i].Release()
		require.Equal(t, want*mib, idle.bytes)
	}
	require.Same(t, all[2], idle.held[0].Buffer, "the oldest went")
	require.Len(t, idle.held, 2)
	small := newBuffer(4*mib, idle)
	small.Release()
	require.Equal(t, 15*mib, idle.bytes, "small ones are elsewhere")

	idle.close()
	newBuffer(5*mib, idle).Release()
	require.Empty(t, idle.held)

	none := &idleBuffers{bytesMax: -1}
	newBuffer(5*mib, none).Release()
	require.Empty(t, none.held)
}

func bytesOf(l *idleBuffers) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// pass lets virtual time pass, and what is due happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestIdleBuffersAreGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idle := &idleBuffers{bytesMax: 64 * mib}
		defer idle.close()
		first, second := newBuffer(5*mib, idle), newBuffer(8*mib, idle)
		start := time.Now()
		first.Release()
		pass(idleBufferAge / 2)
		second.Release()
		pass(idleBufferAge/2 - 1)
		require.Equal(t, 13*mib, bytesOf(idle))
		pass(1)
		require.Equal(t, 8*mib, bytesOf(idle), "the first has waited for long enough")
		require.Equal(t, idleBufferAge, time.Since(start))
		pass(idleBufferAge / 2)
		require.Zero(t, bytesOf(idle))

		second = newBuffer(8*mib, idle)
		second.Release()
		pass(idleBufferAge)
		require.Zero(t, bytesOf(idle), "and so has one that came later")
	})
}

// An answer of a broker, into a buffer that is kept or not.
func BenchmarkLargeBuffer(b *testing.B) {
	for _, size := range []int{1, 6, 50} {
		for name, idleMax := range map[string]int{"kept": 64 * mib, "not kept": -1} {
			b.Run(fmt.Sprintf("%d MiB %s", size, name), func(b *testing.B) {
				idle := &idleBuffers{bytesMax: idleMax}
				defer idle.close()
				answer := make([]byte, size*mib)
				b.ReportAllocs()
				b.SetBytes(int64(len(answer)))
				for b.Loop() {
					buf := newBuffer(len(answer), idle)
					copy(buf.B, answer)
					buf.Release()
				}
			})
		}
	}
}
