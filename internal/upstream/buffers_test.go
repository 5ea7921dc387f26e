package upstream

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
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
