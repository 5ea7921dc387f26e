// Package quota holds clients to what the quotas of a map let them take, by Kafka's rules
// of which quota is whose (org.apache.kafka.server.quota.ClientQuotaManager).
//
// A Limiter is the state of one logical cluster at one gateway. Who takes more than a
// quota is told how long to wait; nothing is refused but changes of topics and
// connections. What is counted is one number for each client and kind, which is changed
// without a lock, and without quotas there is none.
package quota

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/braidmq/braid/federation"
)

// A Kind is what a quota bounds.
type Kind int8

// The kinds.
const (
	Produce   Kind = iota // bytes
	Consume               // bytes
	Requests              // requests
	Work                  // percent of the time of one processor, times seconds
	Mutations             // partitions created or deleted
	connections
	kinds
)

// keys are Kafka's names of the kinds.
var keys = [kinds]federation.QuotaKey{
	federation.QuotaProducerByteRate, federation.QuotaConsumerByteRate, federation.QuotaRequestRate, federation.QuotaRequestPercentage,
	federation.QuotaControllerMutationRate, federation.QuotaConnectionCreationRate,
}

func (k Kind) String() string { return string(keys[k]) }

// Config has the settings of a Limiter. Zero fields take the defaults.
type Config struct {
	// Window is how much of its quota a client that has rested may take at once, as the time
	// for which that is the quota; 10 s by default, as quota.window.num of a broker makes it.
	Window time.Duration
	// ThrottleMax bounds how long a client is told to wait; 10 s by default, so that requests
	// that it has sent already are read before it gives them up, after 30 s in most SDKs. A
	// client whose one request is more than its quota for that long is let take more than the
	// quota.
	ThrottleMax time.Duration
	// ClientsMax bounds what is counted for users and client ids each for itself; 10,000 by
	// default. Those that come when there are more share one quota.
	ClientsMax int
}

// requestThrottleMax bounds the waits for quotas of requests, as a broker does: who is over
// it must go on to be heard by its group.
const requestThrottleMax = time.Second

func (c Config) withDefaults() Config {
	if c.Window == 0 {
		c.Window = 10 * time.Second
	}
	if c.ThrottleMax == 0 {
		c.ThrottleMax = 10 * time.Second
	}
	if c.ClientsMax == 0 {
		c.ClientsMax = 10_000
	}
	return c
}

// Validate refuses what makes no sense.
func (c Config) Validate() error {
	c = c.withDefaults()
	switch {
	case c.Window < 100*time.Millisecond:
		return fmt.Errorf("--quota-window %v: want at least 100ms", c.Window)
	case c.ThrottleMax < time.Second:
		return fmt.Errorf("--quota-throttle-max %v: want at least 1s", c.ThrottleMax)
	case c.ClientsMax < 1:
		return fmt.Errorf("--quota-clients %d: want at least 1", c.ClientsMax)
	}
	return nil
}

// Maps is where quotas come from.
type Maps interface {
	// Current returns the newest map.
	Current() *federation.Map
	// Changed returns a channel that is closed when the map after Current's is in.
	Changed() <-chan struct{}
}

// A Limiter holds the clients of one logical cluster to its quotas, at one gateway. A nil
// one has no quotas. It is safe for concurrent use.
type Limiter struct {
	cfg     Config
	maps    Maps
	log     *slog.Logger
	began   time.Time // what bucket.at counts from
	current atomic.Pointer[compiled]

	throttled metric.Int64Counter
	waited    metric.Float64Counter
	kind      [kinds]metric.AddOption

	mu      sync.Mutex // guards the following, and compiling
	buckets map[bucketKey]*bucket
	shared  map[sharedKey]*bucket
	swept   int64 // when, as now has it
}

// compiled are the quotas of a map.
type compiled struct {
	m *federation.Map
	r *rules
}

// rules are the quotas that maps share.
type rules struct {
	quotas  federation.Quotas
	clients bool // some are of users or client ids
	ips     bool // some are of IP addresses
}

// New makes a Limiter, and the instruments braid.quota.throttled and .throttled.time
// (quota).
func New(cfg Config, maps Maps, logger *slog.Logger, meter metric.Meter) (*Limiter, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	l := &Limiter{cfg: cfg.withDefaults(), maps: maps, log: logger, began: time.Now(), buckets: make(map[bucketKey]*bucket), shared: make(map[sharedKey]*bucket), swept: math.MinInt64 / 2}
	var errs [2]error
	l.throttled, errs[0] = meter.Int64Counter("braid.quota.throttled",
		metric.WithDescription("Times that a client was told to wait, or a change or connection was refused, for a quota."))
	l.waited, errs[1] = meter.Float64Counter("braid.quota.throttled.time", metric.WithUnit("s"),
		metric.WithDescription("How long clients were told to wait for a quota."))
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("quota metrics: %w", err)
		}
	}
	for k := range kinds {
		l.kind[k] = metric.WithAttributeSet(attribute.NewSet(attribute.String("quota", k.String())))
	}
	return l, nil
}

// Counted returns how many quotas of users, client ids and IP addresses are counted.
func (l *Limiter) Counted() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.buckets) + len(l.shared))
}

// rules returns those of the newest map; nil if it has no quotas.
func (l *Limiter) rules() *rules {
	m := l.maps.Current()
	if c := l.current.Load(); c != nil && c.m == m {
		return c.r
	}
	return l.compile(m)
}

func (l *Limiter) compile(m *federation.Map) *rules {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.current.Load()
	switch {
	case c != nil && (c.m == m || m != nil && c.m != nil && m.Version < c.m.Version):
		return c.r
	case c != nil && (same(quotasOf(c.m), quotasOf(m)) || maps.EqualFunc(quotasOf(c.m), quotasOf(m), (*federation.Quota).Equal)):
		l.current.Store(&compiled{m, c.r})
		return c.r
	}
	var r *rules
	if q := quotasOf(m); len(q) > 0 {
		r = &rules{quotas: q}
		for e := range q {
			r.ips = r.ips || e.IP.Set
			r.clients = r.clients || !e.IP.Set
		}
	}
	if r == nil {
		all := func(*bucket) bool { return true }
		drop(l.buckets, all)
		drop(l.shared, all)
	}
	l.current.Store(&compiled{m, r})
	return r
}

func quotasOf(m *federation.Map) federation.Quotas {
	if m == nil {
		return nil
	}
	return m.Quotas
}

// same reports whether two maps share their quotas.
func same(a, b federation.Quotas) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

// now is the time in nanoseconds since the Limiter began.
func (l *Limiter) now() int64 { return int64(time.Since(l.began)) }

// A Client is what one user with one client id may take now. A nil one may take anything.
type Client struct {
	l        *Limiter
	r        *rules
	user, id string
	held     [connections]held
	again    int64 // when to look for buckets of its own, as now has it; 0 = it has them
}

// held is what a client is held to of a kind.
type held struct {
	of     bucketKey
	rate   float64
	bucket *bucket // nil = no quota
}

// Client returns what a user with a client id may take. Last is what the call before
// returned for the same connection or stream, or nil: as long as it holds, it is returned,
// and nothing is locked.
func (l *Limiter) Client(last *Client, user, clientID string) *Client {
	if l == nil {
		return nil
	}
	r := l.rules()
	if r == nil || !r.clients {
		return nil
	}
	clientID = Name(clientID)
	if last == nil || last.id != clientID || last.user != user || last.outdated() {
		return l.resolve(r, user, clientID)
	}
	if last.r == r {
		return last
	}
	if !last.under(r) {
		return l.resolve(r, user, clientID)
	}
	next := *last // others' quotas have changed
	next.r = r
	return &next
}

// outdated reports whether the client may have other buckets now.
func (c *Client) outdated() bool {
	for k := range c.held {
		if b := c.held[k].bucket; b != nil && b.gone.Load() {
			return true
		}
	}
	return c.again != 0 && c.l.now() >= c.again
}

// under reports whether the client is held to the same by some rules.
func (c *Client) under(r *rules) bool {
	if r == nil {
		return false
	}
	for k := range connections {
		if of, rate := r.find(k, c.user, c.id); rate != c.held[k].rate || of != c.held[k].of {
			return false
		}
	}
	return true
}

func (l *Limiter) resolve(r *rules, user, clientID string) *Client {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now()-l.swept >= int64(idleInterval) {
		l.sweepLocked()
	}
	c := &Client{l: l, r: r, user: strings.Clone(user), id: strings.Clone(clientID)}
	for k := range connections {
		h := &c.held[k]
		if h.of, h.rate = r.find(k, c.user, c.id); h.rate > 0 {
			if h.bucket = l.bucketLocked(h.of, h.rate); h.bucket.shared {
				c.again = l.now() + int64(sharedInterval)
			}
		}
	}
	return c
}

// find returns the quota that counts for a client: the most specific one, in the order of
// ClientQuotaManager.DefaultQuotaCallback. What it is the quota of, all connections of
// that share. A client without a client id has the quotas of users only, as there.
func (r *rules) find(k Kind, user, clientID string) (bucketKey, float64) {
	u, id, def := federation.NamedQuota(user), federation.NamedQuota(clientID), federation.NamedQuota("")
	none := federation.QuotaName{}
	both, byUser, byID := bucketKey{k, u, id}, bucketKey{k, u, none}, bucketKey{k, none, id}
	for _, try := range [...]struct {
		entity federation.QuotaEntity
		of     bucketKey
	}{
		{federation.QuotaEntity{User: u, ClientID: id}, both},
		{federation.QuotaEntity{User: u, ClientID: def}, both},
		{federation.QuotaEntity{User: u}, byUser},
		{federation.QuotaEntity{User: def, ClientID: id}, both},
		{federation.QuotaEntity{User: def, ClientID: def}, both},
		{federation.QuotaEntity{User: def}, byUser},
		{federation.QuotaEntity{ClientID: id}, byID},
		{federation.QuotaEntity{ClientID: def}, byID},
	} {
		if clientID == "" && try.entity.ClientID.Set {
			continue
		}
		if q := r.quotas[try.entity]; q != nil && q.Values[keys[k]] > 0 {
			return try.of, q.Values[keys[k]]
		}
	}
	return bucketKey{}, 0
}

// Take counts what a client has taken, and returns how long it has to wait before it
// takes more.
func (c *Client) Take(ctx context.Context, k Kind, n float64) time.Duration {
	if c == nil || c.held[k].bucket == nil {
		return 0
	}
	d := c.held[k].bucket.take(c.l.now(), n)
	if d > 0 {
		c.l.observe(ctx, k, d)
	}
	return d
}

// TakeRequest counts a request and the time that was worked for it.
func (c *Client) TakeRequest(ctx context.Context, work time.Duration) time.Duration {
	if c == nil {
		return 0
	}
	return max(c.Take(ctx, Requests, 1), c.Take(ctx, Work, 100*work.Seconds()))
}

// Owes returns how long a client has to wait before it takes more of any of some kinds.
func (c *Client) Owes(of ...Kind) time.Duration {
	if c == nil {
		return 0
	}
	var most time.Duration
	for _, k := range of {
		if b := c.held[k].bucket; b != nil {
			most = max(most, b.owed(c.l.now()))
		}
	}
	return most
}

// Try counts n if nothing is owed; else it says for how long it is. A client that is told
// to come again is told so by an error.
func (c *Client) Try(ctx context.Context, k Kind, n float64) (time.Duration, bool) {
	if c == nil || c.held[k].bucket == nil {
		return 0, true
	}
	d, ok := c.held[k].bucket.try(c.l.now(), n)
	if !ok {
		c.l.observe(ctx, k, d)
	}
	return d, ok
}

// Give takes n back that Try has counted, for what did not come about.
func (c *Client) Give(k Kind, n float64) {
	if c != nil && c.held[k].bucket != nil {
		c.held[k].bucket.give(n)
	}
}

// Refuse returns how long a client has to wait that asks for more of a kind, as Owes does,
// and counts that it was told so.
func (c *Client) Refuse(ctx context.Context, k Kind) time.Duration {
	d := c.Owes(k)
	if d > 0 {
		c.l.observe(ctx, k, d)
	}
	return d
}

// AtOnce returns how many bytes may be given out in one answer: those that a client that
// has rested may take.
func (c *Client) AtOnce(k Kind) int64 {
	if c == nil || c.held[k].bucket == nil {
		return math.MaxInt64
	}
	b := c.held[k].bucket
	return max(1, int64(min(b.rate*time.Duration(b.window).Seconds(), math.MaxInt32)))
}

// PerSecond returns how many bytes the quota is for a second, at least as many as a frame
// should have.
func (c *Client) PerSecond(k Kind) int64 {
	const least = 16 << 10
	if c == nil || c.held[k].bucket == nil {
		return math.MaxInt64
	}
	return max(least, int64(min(c.held[k].bucket.rate, math.MaxInt32)))
}

// Valid reports whether the client's quotas are still those that the Client was made for.
func (c *Client) Valid() bool {
	if c == nil {
		return true
	}
	r := c.l.rules()
	return r == c.r || c.under(r)
}

// Counts reports whether a kind is bounded for a client.
func (c *Client) Counts(k Kind) bool { return c != nil && c.held[k].bucket != nil }

// Wait waits until a moment, and no longer than until ctx ends, stop is closed, or the
// client's quotas are others than c's: what is owed then is found again with the next request.
func (c *Client) Wait(ctx context.Context, until time.Time, stop <-chan struct{}) error {
	left := time.Until(until)
	if c == nil || left <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(left)
	defer t.Stop()
	for {
		changed := c.l.maps.Changed()
		if !c.Valid() {
			return ctx.Err()
		}
		select {
		case <-t.C:
			return ctx.Err()
		case <-changed:
		case <-stop:
			return ctx.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *Limiter) observe(ctx context.Context, k Kind, d time.Duration) {
	l.throttled.Add(ctx, 1, l.kind[k])
	l.waited.Add(ctx, d.Seconds(), l.kind[k])
}
