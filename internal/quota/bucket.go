package quota

import (
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/braidmq/braid/federation"
)

// A bucketKey is what one count is for. User and id are the parts that the quota is by;
// an IP address stands in user.
type bucketKey struct {
	kind     Kind
	user, id federation.QuotaName
}

// A bucket counts what is taken of one quota: a token bucket, kept as the one moment at
// which all that was taken is paid for (the generic cell rate algorithm). It lies up to a
// window in the past while there are tokens, and in the future while there is debt.
type bucket struct {
	rate   float64 // units a second
	window int64   // ns
	most   int64   // ns of debt

	at   atomic.Int64
	gone atomic.Bool // not the one of its key any more
}

func newBucket(rate float64, window, most time.Duration) *bucket {
	b := &bucket{rate: rate, window: int64(window), most: int64(most)}
	b.at.Store(math.MinInt64 / 2)
	return b
}

// cost is the time for which n units are the quota.
func (b *bucket) cost(n float64) int64 {
	return int64(min(n/b.rate*float64(time.Second), float64(b.window+b.most)))
}

func (b *bucket) take(now int64, n float64) time.Duration {
	cost := b.cost(n)
	for {
		at := b.at.Load()
		next := min(max(at, now-b.window)+cost, now+b.most)
		if b.at.CompareAndSwap(at, next) {
			return time.Duration(max(0, next-now))
		}
	}
}

func (b *bucket) owed(now int64) time.Duration { return time.Duration(max(0, b.at.Load()-now)) }

func (b *bucket) try(now int64, n float64) (time.Duration, bool) {
	cost := b.cost(n)
	for {
		at := b.at.Load()
		if at > now {
			return time.Duration(at - now), false
		}
		if b.at.CompareAndSwap(at, min(max(at, now-b.window)+cost, now+b.most)) {
			return 0, true
		}
	}
}

// full reports whether the bucket is as one that was never used.
func (b *bucket) full(now int64) bool { return b.at.Load() <= now-b.window }

// bucketLocked returns the bucket of a key. One whose rate has changed is replaced; what
// it has, or owes, goes over.
func (l *Limiter) bucketLocked(key bucketKey, rate float64) *bucket {
	b := l.buckets[key]
	if b != nil && b.rate == rate {
		return b
	}
	if b == nil && len(l.buckets) >= l.cfg.ClientsMax && !l.sweepLocked() {
		return l.sharedLocked(key.kind, rate)
	}
	next := l.newBucketLocked(key, rate)
	if b != nil {
		b.gone.Store(true)
		now := l.now()
		if left := b.at.Load() - now; left > -b.window {
			next.at.Store(now + int64(min(float64(left)*b.rate/rate, float64(next.most))))
		}
	}
	return next
}

// sharedLocked returns what those share that there is no room to count each: one bucket
// for each rate.
func (l *Limiter) sharedLocked(kind Kind, rate float64) *bucket {
	// No name of an entity: it is not set.
	key := bucketKey{kind: kind, id: federation.QuotaName{Name: "shared " + strconv.FormatFloat(rate, 'g', -1, 64)}}
	b := l.buckets[key]
	if b == nil {
		l.log.Warn("there are too many users and client ids with quotas to count each; further ones share one quota", "quota", kind.String(), "quota_clients", l.cfg.ClientsMax)
		b = l.newBucketLocked(key, rate)
	}
	return b
}

func (l *Limiter) newBucketLocked(key bucketKey, rate float64) *bucket {
	most := l.cfg.ThrottleMax
	if key.kind == Requests || key.kind == Work {
		most = min(most, requestThrottleMax)
	}
	b := newBucket(rate, l.cfg.Window, most)
	l.buckets[key] = b
	return b
}

// sweepInterval is the least time between two looks at all buckets.
const sweepInterval = time.Second

// sweepLocked drops the buckets that are as new ones would be; it reports whether there is
// room now.
func (l *Limiter) sweepLocked() bool {
	if time.Since(l.swept) < sweepInterval {
		return false
	}
	l.swept = time.Now()
	now := l.now()
	for key, b := range l.buckets {
		if b.full(now) {
			b.gone.Store(true)
			delete(l.buckets, key)
		}
	}
	return len(l.buckets) < l.cfg.ClientsMax
}
