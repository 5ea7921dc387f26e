// Package mapwatch keeps the current map of a gateway: read from Redis at the
// start, so that a gateway starts while all controllers are away, then followed
// by the leading controller's stream. The same stream carries the gateway's
// lease, its acknowledgements, and what it has seen of physical leaders.
package mapwatch

import (
	"context"
	"crypto/rand"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
)

// Parts are what a Watch works with.
type Parts struct {
	Store *redisstore.Store
	// HTTP reaches controllers; it must speak HTTP/2 for their URLs.
	HTTP   connect.HTTPClient
	Logger *slog.Logger
}

// A Watch follows the map of a logical cluster. Make it with New and call Run
// once; all other methods are safe for concurrent use, before, while and after.
//
// It implements router.Maps and router.Lease.
type Watch struct {
	cfg         Config
	parts       Parts
	log         *slog.Logger
	incarnation string
	start       time.Time // leases are counted from here, by the monotonic clock

	current    atomic.Pointer[version]
	leaseUntil atomic.Int64 // nanoseconds after start
	leaseGaps  atomic.Int64
	node       atomic.Int32
	draining   atomic.Bool
	wake       chan struct{} // asks for a beat; holds one
	drained    chan drained

	mu         sync.Mutex // guards the following
	epoch      int64      // the highest controller epoch that was met
	registered chan struct{}
	isReady    bool
	leaders    map[federation.PhysicalAddress]federation.PhysicalEpoch // wait for the next beat
	told       map[federation.PhysicalAddress]federation.PhysicalEpoch // sent on this stream
}

// A version is one version of the map; next is closed when the next is in.
type version struct {
	m    *federation.Map
	next chan struct{}
}

// drained is a report that waits to be sent.
type drained struct {
	left int32
	sent chan error // holds one
}

// New makes a Watch. Until the first map is in, Current is an empty map of version 0.
func New(cfg Config, parts Parts) (*Watch, error) {
	cfg.EnsureDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if parts.Logger == nil {
		parts.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Watch{
		cfg:         cfg,
		parts:       parts,
		log:         parts.Logger,
		incarnation: rand.Text(),
		start:       time.Now(),
		wake:        make(chan struct{}, 1),
		drained:     make(chan drained),
		registered:  make(chan struct{}),
		leaders:     make(map[federation.PhysicalAddress]federation.PhysicalEpoch),
		told:        make(map[federation.PhysicalAddress]federation.PhysicalEpoch),
	}
	w.current.Store(&version{m: redisstore.EmptyMap(cfg.LogicalCluster), next: make(chan struct{})})
	return w, nil
}

// Run follows the map until ctx ends, and returns nil then.
func (w *Watch) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { w.coldStart(ctx) })
	w.follow(ctx)
	return nil
}

// Current returns the newest map; never nil.
func (w *Watch) Current() *federation.Map { return w.current.Load().m }

// Changed returns a channel that is closed when the map after the one that
// Current returned at the time of the call is in.
func (w *Watch) Changed() <-chan struct{} { return w.current.Load().next }

// Await returns the first map that it sees of at least version v. It fails only
// with ctx.
func (w *Watch) Await(ctx context.Context, v federation.MapVersion) (*federation.Map, error) {
	for {
		c := w.current.Load()
		if c.m.Version >= v {
			return c.m, nil
		}
		select {
		case <-c.next:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Valid reports whether the lease holds at this moment: whether this gateway may
// acknowledge appends.
func (w *Watch) Valid() bool {
	return time.Since(w.start) < time.Duration(w.leaseUntil.Load())
}

// Gaps counts how often the lease has run out and begun again.
func (w *Watch) Gaps() int64 { return w.leaseGaps.Load() }

// NodeID returns the gateway's Kafka node id; 0 until it is known.
func (w *Watch) NodeID() federation.NodeID { return federation.NodeID(w.node.Load()) }

// Registered returns a channel that is closed once a controller has taken this
// gateway (or watcher) in.
func (w *Watch) Registered() <-chan struct{} { return w.registered }

// SeenLeader tells the controller of a leader epoch of a physical partition that
// the map does not have yet. It never blocks; the same epoch is told once.
func (w *Watch) SeenLeader(at federation.PhysicalAddress, epoch federation.PhysicalEpoch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e, ok := w.told[at]; ok && e >= epoch {
		return
	}
	if e, ok := w.leaders[at]; ok && e >= epoch || !ok && len(w.leaders) >= w.cfg.LeadersMax {
		return
	}
	w.leaders[at] = epoch
	w.beatSoon()
}

// takeLeaders returns the hints that wait, and notes them as told.
func (w *Watch) takeLeaders() map[federation.PhysicalAddress]federation.PhysicalEpoch {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.leaders
	w.leaders = make(map[federation.PhysicalAddress]federation.PhysicalEpoch)
	if len(w.told) > w.cfg.LeadersMax {
		clear(w.told)
	}
	maps.Copy(w.told, out)
	return out
}

// Drain makes the controller hear, at once and at every beat from now on, that
// this gateway drains: clients are sent elsewhere.
func (w *Watch) Drain() {
	w.draining.Store(true)
	w.beatSoon()
}

// Drained tells the controller that this gateway is done, so that it leaves the
// map without any grace. It returns when that was sent; ctx bounds the wait.
func (w *Watch) Drained(ctx context.Context, connectionsLeft int32) error {
	for {
		d := drained{left: connectionsLeft, sent: make(chan error, 1)}
		select {
		case w.drained <- d:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case err := <-d.sent:
			if err == nil {
				return nil
			}
			// That stream is over; the next one takes it.
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *Watch) beatSoon() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// install makes m the current map if it is newer; a map never goes back.
func (w *Watch) install(m *federation.Map) bool {
	next := &version{m: m, next: make(chan struct{})}
	for {
		old := w.current.Load()
		if m.Version <= old.m.Version {
			return false
		}
		if w.current.CompareAndSwap(old, next) {
			if g := m.Gateway(w.cfg.ID); g != nil {
				w.node.CompareAndSwap(0, int32(g.NodeID))
			}
			close(old.next)
			return true
		}
	}
}

// extendLease moves the end of the lease forward, never back: what was granted
// holds, since the controller counts on its end, not on its withdrawal.
func (w *Watch) extendLease(sent, valid time.Duration) {
	if valid <= w.cfg.LeaseMargin {
		return // grants nothing
	}
	until := int64(sent + valid - w.cfg.LeaseMargin)
	for {
		old := w.leaseUntil.Load()
		if old <= int64(time.Since(w.start)) {
			w.leaseGaps.Add(1) // before the lease holds again
		}
		if until <= old || w.leaseUntil.CompareAndSwap(old, until) {
			return
		}
	}
}

// coldStart reads the map from Redis until any map is in.
func (w *Watch) coldStart(ctx context.Context) {
	for {
		m, err := w.parts.Store.LoadMap(ctx, w.cfg.LogicalCluster)
		switch {
		case ctx.Err() != nil || w.Current().Version > 0:
			return
		case err != nil:
			w.log.Warn("the map could not be read at the start; it is tried again", "err", err)
		case m.Version > 0:
			if w.install(m) {
				w.log.Info("map read from the store", "version", m.Version)
			}
			return
		}
		sleep(ctx, w.cfg.ColdStartRetry)
		if ctx.Err() != nil || w.Current().Version > 0 {
			return
		}
	}
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
