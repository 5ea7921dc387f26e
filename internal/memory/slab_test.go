package memory

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSlabClasses(t *testing.T) {
	for n := 1; n <= 64<<20; n += 1 + n/50 {
		class, size := slabClass(n)
		require.GreaterOrEqual(t, size, n)
		require.LessOrEqual(t, size, max(slabMin, n+n/4))
		again, same := slabClass(size)
		require.Equal(t, class, again, "%d bytes", n)
		require.Equal(t, size, same)
		require.Equal(t, size, slabSize(class))
		require.Equal(t, size, cap(*GetSlab(n)))
	}
}

func TestSlabsOutliveCollections(t *testing.T) {
	s := newSlabs()
	b := make([]byte, 100, 128<<10)
	s.put(&b)
	require.EqualValues(t, 128<<10, s.idle.Load())
	for range 4 {
		runtime.GC()
	}
	require.Nil(t, s.get(129<<10), "too small")
	require.Nil(t, s.get(80<<10), "more than half of it again would be unused")
	for _, n := range []int{128<<10 - 5, 80<<10 + 1} {
		again := s.get(n)
		require.Same(t, &b, again)
		require.Empty(t, *again)
		require.Zero(t, s.idle.Load())
		s.put(again)
	}
	require.NotNil(t, s.get(128<<10))
	require.Nil(t, s.get(128<<10))
	require.Zero(t, s.idle.Load())
}

func TestSlabsAreBounded(t *testing.T) {
	s := newSlabs()
	s.limit.Store(1 << 20)
	for range 10 {
		b := make([]byte, 256<<10)
		s.put(&b)
	}
	require.EqualValues(t, 1<<20, s.idle.Load())
	for range 4 {
		require.NotNil(t, s.get(256<<10))
	}
	require.Nil(t, s.get(256<<10))
	odd := make([]byte, 100_000)
	s.put(&odd)
	require.Zero(t, s.idle.Load(), "it is nobody's class")
}

func TestTrimLeavesWhatIsNeeded(t *testing.T) {
	s := newSlabs()
	const size = 64 << 10
	for range 5 {
		b := make([]byte, size)
		s.put(&b)
	}
	s.trim()
	require.EqualValues(t, 5*size, s.idle.Load(), "they have just come")
	one, two := s.get(size), s.get(size)
	s.put(one)
	s.put(two)
	s.trim()
	require.EqualValues(t, 2*size, s.idle.Load(), "three were not needed")
	s.trim()
	require.Zero(t, s.idle.Load())
}

// What one load left behind goes soon if another one needs the room.
func TestSlabsOfAnotherLoadMakeRoom(t *testing.T) {
	s := &slabs{}
	s.limit.Store(1 << 20)
	large := make([]byte, 1<<20)
	s.put(&large)
	for range 3 {
		s.trimmed.Store(time.Now().Add(-slabFullAge).UnixNano()) // a while later
		b := make([]byte, 128<<10)
		s.put(&b)
	}
	require.NotNil(t, s.get(128<<10))
	require.Nil(t, s.get(1<<20))
}

func TestSlabsSideBySide(t *testing.T) {
	s := newSlabs()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 2_000 {
				b := s.get(64 << 10)
				if b == nil {
					fresh := make([]byte, 0, 64<<10)
					b = &fresh
				}
				*b = append(*b, byte(g))
				if len(*b) != 1 || (*b)[0] != byte(g) {
					t.Error("a slab has two users")
				}
				s.put(b)
				if i%100 == 0 {
					s.trim()
				}
			}
		})
	}
	wg.Wait()
	var held int64
	for s.get(64<<10) != nil {
		held++
	}
	require.LessOrEqual(t, held, int64(4))
	require.Zero(t, s.idle.Load())
}

func BenchmarkSlab(b *testing.B) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			PutSlab(GetSlab(128 << 10))
		}
	})
}
