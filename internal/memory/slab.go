package memory

import (
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Slabs are byte slices that are used again and again: requests, frames, answers of
// brokers. They come in classes of a quarter of a power of two, so that at most a fifth of
// one is unused; of one that was idle in another class at most a third.
//
// A sync.Pool is emptied by every second garbage collection. A gateway that passes on
// hundreds of megabytes a second allocates little else, so its heap is small and it
// collects often: of each byte of payload it allocated a quarter again, and cleared it.
// So slabs of slabKeptMin bytes and more are kept in lists of our own, within a bound for
// the whole process. What nobody needed for a while goes; smaller ones are in sync.Pools.

const (
	slabMin     = 1 << 10
	slabKeptMin = 64 << 10
	// slabIdleDefault bounds the slabs that nobody uses, if the process has no limit that
	// a sixteenth of is less.
	slabIdleDefault = 32 << 20
	// slabIdleAge is for how long some slabs of a class must have been idle until those go.
	slabIdleAge = 30 * time.Second
	// slabFullAge is the same while there is no room for others.
	slabFullAge = time.Second
	slabClasses = 128
	// slabWider is how many classes larger a slab may be than what is asked for, if it is
	// idle: at most half of that again.
	slabWider = 2
)

// slabs are those of the process. Its zero value is ready, but keeps nothing.
type slabs struct {
	small [slabClasses]sync.Pool // *[]byte
	kept  [slabClasses]slabList
	idle  atomic.Int64 // bytes in kept
	limit atomic.Int64 // of idle

	trimming atomic.Bool
	trimmed  atomic.Int64 // when, in Unix nanoseconds
}

// A slabList has slabs of one class.
type slabList struct {
	mu   sync.Mutex // guards the following
	free []*[]byte
	low  int // the least that free had since it was trimmed last
}

var processSlabs = newSlabs()

func newSlabs() *slabs {
	s := &slabs{}
	s.limit.Store(slabIdleDefault)
	s.trimmed.Store(time.Now().UnixNano())
	s.trimByCollections()
	return s
}

// KeepSlabs bounds the bytes of slabs that the process keeps while nobody uses them.
// Those that are above it already go one by one.
func KeepSlabs(bytes int64) { processSlabs.limit.Store(bytes) }

// GetSlab returns an empty slice with room for n bytes, whose memory may have been used
// before. It may be called at any time, like everything about slabs.
func GetSlab(n int) *[]byte {
	if b := processSlabs.get(n); b != nil {
		return b
	}
	_, size := slabClass(n)
	b := make([]byte, 0, size)
	return &b
}

// IdleSlab is GetSlab if there is one that was used before; else it returns nil.
func IdleSlab(n int) *[]byte { return processSlabs.get(n) }

// PutSlab gives back what came from GetSlab or IdleSlab; nobody may use it any more.
// Other slices are left to the garbage collector.
func PutSlab(b *[]byte) { processSlabs.put(b) }

// slabClass returns the class of slabs for n bytes, and their size.
func slabClass(n int) (class, size int) {
	n = max(n, slabMin)
	shift := bits.Len(uint(n-1)) - 3 // n-1 has its 3 top bits in quarters of a power of two
	quarters := (n - 1) >> shift     // 4..7
	return shift*4 + quarters - 4, (quarters + 1) << shift
}

func (s *slabs) get(n int) *[]byte {
	class, size := slabClass(n)
	if size < slabKeptMin {
		b, _ := s.small[class].Get().(*[]byte)
		return b
	}
	for c := class; c <= class+slabWider && c < slabClasses; c++ {
		if b := s.kept[c].pop(); b != nil {
			s.idle.Add(-int64(cap(*b)))
			return b
		}
	}
	return nil
}

func (s *slabs) put(b *[]byte) {
	class, size := slabClass(cap(*b))
	if size != cap(*b) {
		return
	}
	*b = (*b)[:0]
	if size < slabKeptMin {
		s.small[class].Put(b)
		return
	}
	if s.idle.Add(int64(size)) > s.limit.Load() {
		s.idle.Add(-int64(size))
		s.trimAfter(slabFullAge) // what another load left behind is in the way
		return
	}
	s.kept[class].push(b)
}

func (l *slabList) pop() *[]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.free) - 1
	if n < 0 {
		return nil
	}
	b := l.free[n]
	l.free[n], l.free = nil, l.free[:n]
	l.low = min(l.low, n)
	return b
}

func (l *slabList) push(b *[]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free = append(l.free, b)
}

// trim lets go of the slabs that were idle all the time since the last trim, and returns
// their number.
func (l *slabList) trim() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.low
	kept := copy(l.free, l.free[n:])
	clear(l.free[kept:])
	l.free = l.free[:kept]
	l.low = kept
	return n
}

func (s *slabs) trim() {
	s.trimmed.Store(time.Now().UnixNano())
	for class := range s.kept {
		if n := s.kept[class].trim(); n > 0 {
			s.idle.Add(-int64(n) * int64(slabSize(class)))
		}
	}
}

// trimAfter trims if the last time was so long ago.
func (s *slabs) trimAfter(d time.Duration) {
	since := time.Now().UnixNano() - s.trimmed.Load()
	if since >= 0 && since < int64(d) || !s.trimming.CompareAndSwap(false, true) {
		return
	}
	s.trim()
	s.trimming.Store(false)
}

// slabSize returns the size of a class.
func slabSize(class int) int { return (class%4 + 5) << (class / 4) }

// trimByCollections trims at garbage collections, if the last trim is long enough ago:
// they come every two minutes at least, and no timer or goroutine has to be owned by
// anybody.
func (s *slabs) trimByCollections() {
	runtime.AddCleanup(new(collected), func(s *slabs) {
		s.trimAfter(slabIdleAge)
		s.trimByCollections()
	}, s)
}

// collected is something that the next garbage collection finds unused. It has a pointer,
// or it would share its memory with others.
type collected struct{ _ *byte }
