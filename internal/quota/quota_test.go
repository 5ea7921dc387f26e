package quota

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/braidmq/braid/federation"
)

// fakeMaps is a map that a test changes.
type fakeMaps struct {
	mu      sync.Mutex
	version federation.MapVersion
	m       atomic.Pointer[federation.Map]
	changed chan struct{}
}

func newFakeMaps(quotas ...federation.QuotaChange) *fakeMaps {
	f := &fakeMaps{changed: make(chan struct{})}
	f.m.Store((&federation.Map{Version: 1}).Seal())
	f.version = 1
	f.set(quotas...)
	return f
}

func (f *fakeMaps) Current() *federation.Map { return f.m.Load() }

func (f *fakeMaps) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakeMaps) set(changes ...federation.QuotaChange) {
	next := *f.m.Load()
	var err error
	if next.Quotas, err = next.Quotas.Apply(changes); err != nil {
		panic(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	next.Version = f.version
	f.m.Store(next.Seal())
	close(f.changed)
	f.changed = make(chan struct{})
}

func newLimiter(t testing.TB, cfg Config, maps Maps) *Limiter {
	l, err := New(cfg, maps, nil, noop.Meter{})
	require.NoError(t, err)
	return l
}

// of makes an entity: "" is the default, "-" no such part.
func of(user, id string) federation.QuotaEntity {
	var e federation.QuotaEntity
	if user != "-" {
		e.User = federation.NamedQuota(user)
	}
	if id != "-" {
		e.ClientID = federation.NamedQuota(id)
	}
	return e
}

func rate(e federation.QuotaEntity, key federation.QuotaKey, v float64) federation.QuotaChange {
	return federation.QuotaChange{Entity: e, Set: map[federation.QuotaKey]float64{key: v}}
}

func produceRate(user, id string, v float64) federation.QuotaChange {
	return rate(of(user, id), federation.QuotaProducerByteRate, v)
}

func TestTheMostSpecificQuotaCounts(t *testing.T) {
	// In Kafka's order, each with a rate that tells which it was.
	order := []federation.QuotaEntity{of("u", "c"), of("u", ""), of("u", "-"), of("", "c"), of("", ""), of("", "-"), of("-", "c"), of("-", "")}
	for first := range order {
		maps := newFakeMaps()
		for i, e := range order[first:] {
			maps.set(rate(e, federation.QuotaProducerByteRate, float64(first+i+1)))
		}
		c := newLimiter(t, Config{}, maps).Client(nil, "u", "c")
		require.NotNil(t, c)
		require.Equal(t, first+1, int(c.held[Produce].bucket.rate), "%v", order[first])
		require.Nil(t, c.held[Consume].bucket, "each key for itself")
	}
	// One of another client is none.
	for _, other := range []federation.QuotaEntity{of("x", "c"), of("u", "x"), of("x", "-"), of("-", "x"), of("", "x"), of("x", "")} {
		c := newLimiter(t, Config{}, newFakeMaps(rate(other, federation.QuotaProducerByteRate, 1))).Client(nil, "u", "c")
		require.Zero(t, c.Take(t.Context(), Produce, 1e9), "%v", other)
	}
}

func TestWhoSharesAQuota(t *testing.T) {
	shared := func(change federation.QuotaChange, u1, c1, u2, c2 string) bool {
		l := newLimiter(t, Config{}, newFakeMaps(change))
		a, b := l.Client(nil, u1, c1), l.Client(nil, u2, c2)
		require.NotNil(t, a.held[Produce].bucket)
		require.NotNil(t, b.held[Produce].bucket)
		return a.held[Produce].bucket == b.held[Produce].bucket
	}
	require.True(t, shared(produceRate("u", "-", 1), "u", "c", "u", "d"), "of a user: all its client ids")
	require.True(t, shared(produceRate("", "-", 1), "u", "c", "u", "d"))
	require.False(t, shared(produceRate("", "-", 1), "u", "c", "v", "c"), "the default of users: each user for itself")
	require.True(t, shared(produceRate("-", "c", 1), "u", "c", "v", "c"), "of a client id: all users")
	require.False(t, shared(produceRate("-", "", 1), "u", "c", "u", "d"), "the default of client ids: each for itself")
	require.False(t, shared(produceRate("u", "", 1), "u", "c", "u", "d"))
	require.True(t, shared(produceRate("", "", 1), "u", "c", "u", "c"))
}

// A client that takes 100 kB whenever it may gets a window's worth at once, and then its
// quota, however many connections it has.
func TestAClientIsHeldToItsRate(t *testing.T) {
	for _, conns := range []int{1, 7} {
		t.Run(strconv.Itoa(conns), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLimiter(t, Config{}, newFakeMaps(produceRate("u", "-", 1e6)))
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var taken atomic.Int64
				var wg sync.WaitGroup
				for range conns {
					wg.Go(func() {
						var c *Client
						for ctx.Err() == nil {
							c = l.Client(c, "u", "c")
							d := c.Take(ctx, Produce, 1e5)
							taken.Add(1e5)
							_ = c.Wait(ctx, time.Now().Add(d), nil)
						}
					})
				}
				wg.Wait()
				require.InDelta(t, 70e6, taken.Load(), float64(conns+1)*1e5, "10 s at once and 60 s of 1 MB/s")
			})
		})
	}
}

// The bucket is compared with a plain one of tokens.
func TestBucketIsATokenBucket(t *testing.T) {
	const window, most = 10 * time.Second, 30 * time.Second
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		rate := []float64{0.5, 3, 1e3, 1e7}[r.IntN(4)]
		b := newBucket(rate, window, most)
		tokens, now := rate*window.Seconds(), int64(0)
		for range 200 {
			wait := time.Duration(r.Int64N(int64(5 * time.Second)))
			now += int64(wait)
			tokens = min(tokens+wait.Seconds()*rate, rate*window.Seconds())
			n := rate * 8 * r.Float64()
			tokens = max(tokens-n, -rate*most.Seconds())
			want := max(0, -tokens/rate)
			require.InDelta(t, want, b.take(now, n).Seconds(), 1e-6)
			require.InDelta(t, want, b.owed(now).Seconds(), 1e-6)
			d, ok := b.try(now, 0)
			require.Equal(t, b.owed(now) == 0, ok)
			require.Equal(t, b.owed(now), d)
		}
	}
}

func TestQuotasOfRequestsMakeNobodyWaitLong(t *testing.T) {
	l := newLimiter(t, Config{}, newFakeMaps(rate(of("u", "-"), federation.QuotaRequestRate, 0.1), rate(of("u", "-"), federation.QuotaRequestPercentage, 1)))
	c := l.Client(nil, "u", "c")
	require.Zero(t, c.TakeRequest(t.Context(), 0), "0.1 a second are one in 10 s")
	require.LessOrEqual(t, c.TakeRequest(t.Context(), time.Hour), time.Second)
	require.Greater(t, c.Owes(Requests), 900*time.Millisecond)
	require.Greater(t, c.Owes(Work), 900*time.Millisecond)
}

func TestAChangedQuotaCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		maps := newFakeMaps(produceRate("u", "-", 100))
		l := newLimiter(t, Config{ThrottleMax: 30 * time.Second}, maps)
		c := l.Client(nil, "u", "c")
		require.Equal(t, 20*time.Second, c.Take(t.Context(), Produce, 3000))
		// Who waits hears of it.
		waited := make(chan time.Duration)
		go func() {
			began := time.Now()
			_ = c.Wait(t.Context(), time.Now().Add(20*time.Second), nil)
			waited <- time.Since(began)
		}()
		<-time.After(4 * time.Second)
		maps.set() // something else of the map
		<-time.After(time.Second)
		maps.set(produceRate("u", "-", 1000))
		require.Equal(t, 5*time.Second, <-waited)
		next := l.Client(c, "u", "c")
		require.NotSame(t, c, next)
		require.False(t, c.Valid())
		require.Equal(t, 1500*time.Millisecond, next.Owes(Produce), "1500 bytes were owed")
		require.Same(t, next, l.Client(next, "u", "c"))
		// And without one nothing is owed.
		maps.set(federation.QuotaChange{Entity: of("u", "-"), Remove: []federation.QuotaKey{federation.QuotaProducerByteRate}})
		require.Nil(t, l.Client(next, "u", "c"))
	})
}

func TestWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newLimiter(t, Config{}, newFakeMaps(produceRate("u", "-", 100))).Client(nil, "u", "c")
		stop := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, func() { close(stop) })
		time.AfterFunc(2*time.Second, cancel)
		began := time.Now()
		require.NoError(t, c.Wait(ctx, began.Add(time.Hour), stop))
		require.Equal(t, time.Second, time.Since(began))
		require.ErrorIs(t, c.Wait(ctx, began.Add(time.Hour), nil), context.Canceled)
		require.Equal(t, 2*time.Second, time.Since(began))
	})
}

func TestClientIDsThatAreMadeUpTakeNoMemoryForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, Config{ClientsMax: 10}, newFakeMaps(produceRate("-", "", 100)))
		ctx := t.Context()
		var all []*Client
		for i := range 100 {
			c := l.Client(nil, "u", strconv.Itoa(i))
			c.Take(ctx, Produce, 2000)
			all = append(all, c)
		}
		require.Equal(t, int64(11), l.Counted())
		require.Same(t, all[50].held[Produce].bucket, all[99].held[Produce].bucket, "the others share")
		require.Equal(t, 10*time.Second, all[0].Owes(Produce))
		require.Equal(t, 10*time.Second, all[99].Owes(Produce))
		<-time.After(21 * time.Second) // all have their tokens again
		fresh := l.Client(nil, "u", "fresh")
		require.NotSame(t, all[99].held[Produce].bucket, fresh.held[Produce].bucket)
		require.True(t, all[0].outdated())
		again := l.Client(all[0], "u", "0")
		require.NotSame(t, all[0], again)
		require.Same(t, again.held[Produce].bucket, l.Client(nil, "u", "0").held[Produce].bucket, "who is still there shares its quota with who comes")
	})
}

// Who got no bucket of its own gets one when there is room, without a new connection.
func TestAClientSharesAQuotaNoLongerThanItMust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, Config{ClientsMax: 2}, newFakeMaps(produceRate("-", "", 100)))
		take := func(c *Client, id string) *Client {
			c = l.Client(c, "u", id)
			c.Take(t.Context(), Produce, 500)
			return c
		}
		a, b, c, d := take(nil, "a"), take(nil, "b"), take(nil, "c"), take(nil, "d")
		require.Same(t, c.held[Produce].bucket, d.held[Produce].bucket)
		for range 30 { // a goes on, and b does not
			<-time.After(time.Second)
			a, c, d = take(a, "a"), take(c, "c"), take(d, "d")
		}
		require.NotSame(t, c.held[Produce].bucket, d.held[Produce].bucket)
		require.False(t, c.held[Produce].bucket.shared && d.held[Produce].bucket.shared)
		require.False(t, a.held[Produce].bucket.shared)
		require.True(t, b.outdated())
	})
}

// Buckets that nobody uses go, also while there is room for more.
func TestIdleClientsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		maps := newFakeMaps(produceRate("-", "", 100))
		l := newLimiter(t, Config{}, maps)
		for i := range 100 {
			l.Client(nil, "u", strconv.Itoa(i)).Take(t.Context(), Produce, 500)
		}
		require.Equal(t, int64(100), l.Counted())
		<-time.After(2 * time.Minute)
		l.Client(nil, "u", "new")
		require.Equal(t, int64(1), l.Counted())
		maps.set(federation.QuotaChange{Entity: of("-", ""), Remove: []federation.QuotaKey{federation.QuotaProducerByteRate}})
		require.Nil(t, l.Client(nil, "u", "new"))
		require.Zero(t, l.Counted())
	})
}

// What a client calls itself is kept as a digest if it is long, and does not keep the
// request that it came in.
func TestLongClientIDsAreNotKept(t *testing.T) {
	l := newLimiter(t, Config{}, newFakeMaps(produceRate("-", "", 100)))
	long := strings.Repeat("x", 1<<20)
	c := l.Client(nil, "u", long)
	require.Less(t, len(c.id), 100)
	require.Same(t, c, l.Client(c, "u", long))
	require.NotSame(t, c.held[Produce].bucket, l.Client(nil, "u", long+"y").held[Produce].bucket)
	for key := range l.buckets {
		require.Less(t, len(key.id.Name), 100)
	}
	short := l.Client(nil, "u", long[:nameMax])
	require.Equal(t, long[:nameMax], short.id)
	require.NotSame(t, unsafe.StringData(long), unsafe.StringData(short.id))
	for key := range l.buckets {
		require.NotSame(t, unsafe.StringData(long), unsafe.StringData(key.id.Name))
	}
}

// As at a broker, where quotas with a client id do not count for who has none.
func TestClientsWithoutAClientIDHaveTheQuotasOfUsers(t *testing.T) {
	for _, e := range []federation.QuotaEntity{of("u", ""), of("", ""), of("-", "")} {
		c := newLimiter(t, Config{}, newFakeMaps(rate(e, federation.QuotaProducerByteRate, 1))).Client(nil, "u", "")
		require.False(t, c.Counts(Produce), "%v", e)
	}
	all := newFakeMaps(produceRate("u", "", 1), produceRate("", "", 2), produceRate("", "-", 3), produceRate("-", "", 4))
	require.InDelta(t, 3, newLimiter(t, Config{}, all).Client(nil, "u", "").held[Produce].rate, 0)
	all.set(produceRate("u", "-", 5))
	require.InDelta(t, 5, newLimiter(t, Config{}, all).Client(nil, "u", "").held[Produce].rate, 0)
}

// A change of somebody else's quota, or a map that says the same anew, ends nobody's wait.
func TestOthersQuotasTouchNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		maps := newFakeMaps(produceRate("u", "-", 100))
		l := newLimiter(t, Config{}, maps)
		c := l.Client(nil, "u", "c")
		c.Take(t.Context(), Produce, 1500)
		began := time.Now()
		time.AfterFunc(time.Second, func() { maps.set(produceRate("v", "-", 100), produceRate("-", "", 7)) })
		require.NoError(t, c.Wait(t.Context(), began.Add(5*time.Second), nil))
		require.Equal(t, 5*time.Second, time.Since(began))
		next := l.Client(c, "u", "c")
		require.Same(t, c.held[Produce].bucket, next.held[Produce].bucket)
		require.True(t, c.Valid())
		// Another reading of the same map.
		again := *maps.Current()
		again.Quotas = make(federation.Quotas)
		for e, q := range maps.Current().Quotas {
			again.Quotas[e] = &federation.Quota{Entity: e, Values: q.Values}
		}
		again.Version++
		maps.m.Store(again.Seal())
		require.Same(t, next, l.Client(next, "u", "c"))
		maps.set(produceRate("u", "-", 200))
		require.False(t, next.Valid())
	})
}

func TestChangesOfTopicsAreRefusedWhileOneIsOwed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, Config{}, newFakeMaps(rate(of("u", "-"), federation.QuotaControllerMutationRate, 2)))
		c := l.Client(nil, "u", "c")
		_, ok := c.Try(t.Context(), Mutations, 50)
		require.True(t, ok)
		c.Give(Mutations, 50) // it failed
		_, ok = c.Try(t.Context(), Mutations, 30)
		require.True(t, ok, "nothing is owed yet, so one that is too large is let in (KIP-599)")
		d, ok := c.Try(t.Context(), Mutations, 1)
		require.False(t, ok)
		require.Equal(t, 5*time.Second, d)
		<-time.After(d)
		_, ok = c.Try(t.Context(), Mutations, 1)
		require.True(t, ok)
	})
}

func TestWithoutQuotasNothingIsDone(t *testing.T) {
	none := newLimiter(t, Config{}, newFakeMaps())
	others := newLimiter(t, Config{}, newFakeMaps(rate(federation.QuotaEntity{IP: federation.NamedQuota("")}, federation.QuotaConnectionCreationRate, 1)))
	mine := newLimiter(t, Config{}, newFakeMaps(produceRate("u", "-", 1e12)))
	held := mine.Client(nil, "u", "c")
	for name, l := range map[string]*Limiter{"no limiter": nil, "no quotas": none, "of addresses only": others, "in force": mine} {
		var last *Client
		if l == mine {
			last = held
		}
		n := testing.AllocsPerRun(100, func() {
			c := l.Client(last, "u", "c")
			if c != last {
				t.Fatal(name)
			}
			_ = c.Take(context.Background(), Produce, 1) + c.TakeRequest(context.Background(), 1) + c.Owes(Consume)
			_, _ = c.Try(context.Background(), Mutations, 1)
		})
		require.Zero(t, n, name)
	}
}

func BenchmarkTake(b *testing.B) {
	for name, quotas := range map[string][]federation.QuotaChange{
		"none": nil, "in force": {produceRate("u", "-", 1e15)}, "others": {produceRate("-", "c", 1e15)},
	} {
		b.Run(name, func(b *testing.B) {
			l := newLimiter(b, Config{}, newFakeMaps(quotas...))
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				var c *Client
				for pb.Next() {
					c = l.Client(c, "u", "c")
					c.Take(b.Context(), Produce, 1000)
				}
			})
		})
	}
}

func BenchmarkResolve(b *testing.B) {
	maps := newFakeMaps()
	for i := range 10_000 {
		maps.set(produceRate(fmt.Sprint("u", i), "-", 1e9))
	}
	l := newLimiter(b, Config{}, maps)
	for b.Loop() {
		l.Client(nil, "u77", "c")
	}
}

// Many connections find their quotas at once, each with a client of its own.
func BenchmarkManyClients(b *testing.B) {
	l := newLimiter(b, Config{}, newFakeMaps(produceRate("-", "", 1e15), rate(of("-", ""), federation.QuotaRequestRate, 1e15)))
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(100)
	b.RunParallel(func(pb *testing.PB) {
		id := strconv.FormatInt(n.Add(1), 10)
		var c *Client
		for pb.Next() {
			c = l.Client(c, "u", id)
			c.Take(b.Context(), Produce, 1000)
			c.TakeRequest(b.Context(), 0)
		}
	})
}
