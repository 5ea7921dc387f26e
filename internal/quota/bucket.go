package quota

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
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

// nameMax is how long the name of a client can be that is kept: no quota is of a longer one.
const nameMax = 1 << 10

// Name returns the client id by which a client is counted: a digest stands for one that is
// longer than any that a quota can be of.
func Name(clientID string) string {
	if len(clientID) <= nameMax {
		return clientID
	}
	sum := sha256.Sum256([]byte(clientID))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// A bucket counts what is taken of one quota: a token bucket, kept as the one moment at
// which all that was taken is paid for (the generic cell rate algorithm). It lies up to a
// window in the past while there are tokens, and in the future while there is debt.
type bucket struct {
	rate   float64 // units a second
	window int64   // ns
	most   int64   // ns of debt

	shared bool // by those that there was no room to count each

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

// give takes back what was taken for something that did not come about.
func (b *bucket) give(n float64) { b.at.Add(-b.cost(n)) }

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
	next := l.newBucket(key.kind, rate)
	l.buckets[key] = next
	if b != nil {
		b.gone.Store(true)
		now := l.now()
		if left := b.at.Load() - now; left > -b.window {
			next.at.Store(now + int64(min(float64(left)*b.rate/rate, float64(next.most))))
		}
	}
	return next
}

// A sharedKey is of the bucket that those share that there is no room to count each: one
// for each rate that a quota has.
type sharedKey struct {
	kind Kind
	rate float64
}

func (l *Limiter) sharedLocked(kind Kind, rate float64) *bucket {
	key := sharedKey{kind, rate}
	b := l.shared[key]
	if b == nil {
		l.log.Warn("there are too many users and client ids with quotas to count each; further ones share one quota", "quota", kind.String(), "quota_clients", l.cfg.ClientsMax)
		b = l.newBucket(kind, rate)
		b.shared = true
		l.shared[key] = b
	}
	return b
}

func (l *Limiter) newBucket(kind Kind, rate float64) *bucket {
	most := l.cfg.ThrottleMax
	if kind == Requests || kind == Work {
		most = min(most, requestThrottleMax)
	}
	return newBucket(rate, l.cfg.Window, most)
}

const (
	// sweepInterval is the least time between two looks at all buckets for room.
	sweepInterval = time.Second
	// idleInterval is how often buckets that nobody needs are dropped while there is room.
	idleInterval = time.Minute
	// sharedInterval is how often a client that shares a bucket looks for one of its own.
	sharedInterval = 10 * time.Second
)

// sweepLocked drops the buckets that are as new ones would be; it reports whether there is
// room now.
func (l *Limiter) sweepLocked() bool {
	now := l.now()
	if now-l.swept < int64(sweepInterval) {
		return false
	}
	l.swept = now
	full := func(b *bucket) bool { return b.full(now) }
	drop(l.buckets, full)
	drop(l.shared, full)
	return len(l.buckets) < l.cfg.ClientsMax
}

// drop takes buckets out; who has them looks for others.
func drop[K comparable](from map[K]*bucket, which func(*bucket) bool) {
	for key, b := range from {
		if which(b) {
			b.gone.Store(true)
			delete(from, key)
		}
	}
}
