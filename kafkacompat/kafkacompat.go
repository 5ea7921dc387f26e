// Package kafkacompat is the Kafka door: it speaks the Kafka protocol to
// unmodified SDKs. Gateways are the brokers that clients see.
//
// It decodes, calls an engine (gateway/router, gateway/groups) or the control
// plane (Admin), maps the error by one table (errors.go), and encodes. Which
// APIs and versions it serves is one table too (versions.go). Record batches
// pass through as bytes, both ways.
package kafkacompat

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/logging"
	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/quota"
	"github.com/braidmq/braid/internal/security"
)

// Maps is the facade's view of the federation.
type Maps interface {
	// Current returns the newest map. One of version 0 counts as not loaded yet.
	Current() *federation.Map
	// Changed returns a channel that is closed when the map after the one that
	// Current returned at the time of the call is in.
	Changed() <-chan struct{}
}

// Deps is what a Server stands on. Maps, NewSession, Groups, Admin and Credentials are required.
type Deps struct {
	Maps Maps
	// NewSession opens the router for one client connection.
	NewSession func() router.Session
	Groups     groups.Coordinator
	Admin      Admin
	// Authorizer decides what clients may do; nil lets them do everything.
	Authorizer *acl.Authorizer
	// Limiter holds clients to their quotas; nil has none.
	Limiter *quota.Limiter
	// Left is told of each accepted connection when it has ended, or was refused; may be nil.
	Left func(net.Conn)
	// Credentials is asked by the tools that manage users.
	Credentials Credentials
	// Auth says who clients are, by SASL; nil = all are anonymous, or known by certificate.
	Auth *security.Authenticator
	// TLS is that of the listeners; nil = none. Certificates says whose a certificate is.
	TLS          *tls.Config
	Certificates func(*x509.Certificate) (security.Principal, error)
	// Requests is what the bytes of requests in memory are taken from, together with
	// others that hold what clients send; nil = a budget of BytesInFlightMax alone.
	Requests *memory.Budget
	// Answers is what large answers are taken from until they are written, together with
	// records that were read from brokers; nil = a budget of BytesInFlightMax alone.
	Answers *memory.Budget
	Metrics *Metrics
	Logger  *slog.Logger
	// TenantOf says which Server a client belongs to, when it has proven who it is or need
	// not, and who it is there; nil = all belong to the one that they came to.
	TenantOf func(security.Identity) (*Server, security.Principal, error)
	// ByServerName says to whom a client has come by the name that it gave in its TLS
	// handshake; nil, or a nil Server, = to the one whose listener it is.
	ByServerName func(name string) *Server
}

// Server serves the Kafka protocol. Its methods may be called concurrently.
type Server struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	clients *slog.Logger // for lines that clients can cause
	creates flights      // topics being created on first use
	tenant  string       // whose it is; empty = the deployment's own
	room    *quota.Room  // of the tenant's clients; nil = no bound
	gone    bool         // the tenant is; guarded by mu
	*shared
}

// shared is what a Server has together with those of tenants, which Tenant makes: their
// connections share its bounds.
type shared struct {
	budget *memory.Budget                       // bytes of frames in memory, all connections together
	small  *memory.Budget                       // those of small requests other than Produce
	coming [len(comingBytes) + 2]*memory.Budget // those that are not whole yet, by size

	relieved atomic.Int64 // when connections were looked through last, in Unix nanoseconds

	answers answers

	apis       map[int16]*api // the table of versions.go
	advertised []kmsg.ApiVersionsResponseApiKey

	draining chan struct{} // closed by Drain
	drained  sync.Once

	fetchParts atomic.Int64 // partitions in fetch sessions

	telemetry *clientTelemetry

	// mu guards the following.
	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	idle      chan struct{} // closed when the last connection of a draining server has gone
}

// New makes a Server; it returns an error if the configuration or deps do not make sense.
func New(cfg Config, deps Deps) (*Server, error) {
	cfg = cfg.withDefaults().within(deps.Requests.Size())
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if deps.Maps == nil || deps.NewSession == nil || deps.Groups == nil || deps.Admin == nil || deps.Credentials == nil {
		return nil, errors.New("kafka facade: Deps needs Maps, NewSession, Groups, Admin and Credentials")
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	budget := deps.Requests
	if budget == nil {
		budget = memory.NewBudget(cfg.BytesInFlightMax)
	}
	s := &Server{cfg: cfg, deps: deps, log: deps.Logger, clients: logging.Limited(deps.Logger), shared: &shared{
		budget:    budget,
		small:     memory.NewBudget(budget.Size() / 8),
		coming:    newComing(budget.Size()),
		answers:   newAnswers(&cfg, deps.Answers),
		draining:  make(chan struct{}),
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*conn]struct{}),
		idle:      make(chan struct{}),

		apis:       served(),
		advertised: advertised(),
	}}
	budget.OnPressure(s.relieve)
	s.telemetry = newClientTelemetry(&s.cfg)
	if !cfg.ClientTelemetry {
		s.leaveOut(kmsg.GetTelemetrySubscriptions, kmsg.PushTelemetry)
	}
	return s, nil
}

// leaveOut serves and advertises some APIs no more.
func (s *Server) leaveOut(keys ...kmsg.Key) {
	for _, key := range keys {
		delete(s.apis, int16(key))
		s.advertised = slices.DeleteFunc(s.advertised, func(k kmsg.ApiVersionsResponseApiKey) bool { return k.ApiKey == int16(key) })
	}
}

// Serve accepts connections from l until ctx ends, l fails or Drain is called;
// it closes l. It returns nil after Drain or the end of ctx. When ctx ends, all
// connections are closed at once: Drain first for a graceful stop. Serve may be
// called for several listeners.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if !s.track(l) {
		return l.Close()
	}
	defer s.untrack(l)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	wait := acceptWaitFirst
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || s.isDraining() {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("kafka listener %s: %w", l.Addr(), err)
			}
			// Out of file descriptors, most likely: it passes when connections end.
			s.log.Error("accept failed", "listener", l.Addr().String(), "error", err)
			if !sleep(ctx, wait) {
				return nil
			}
			wait = min(2*wait, acceptWaitLongest)
			continue
		}
		wait = acceptWaitFirst
		serve := s.newConn(ctx, nc)
		if serve == nil {
			_ = nc.Close()
			s.left(nc)
			continue
		}
		wg.Go(serve)
	}
}

const (
	acceptWaitFirst   = 5 * time.Millisecond
	acceptWaitLongest = time.Second
)

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Drain stops accepting, lets the requests that were received be answered,
// closes the connections and returns when the last one has gone. When ctx ends
// first, the rest is closed at once and ctx's error returned.
//
// Connections of group members stay until a heartbeat was told NOT_COORDINATOR, but no
// longer than HandOverMax. A member whose coordinator is gone without a word may try it
// at its old address only, and then join anew: sarama does, three times at once.
func (s *Server) Drain(ctx context.Context) error {
	s.drained.Do(func() {
		close(s.draining)
		s.mu.Lock()
		defer s.mu.Unlock()
		for l := range s.listeners {
			_ = l.Close()
		}
		for c := range s.conns {
			if !c.hasMember() {
				c.stopReading()
			}
		}
		if len(s.conns) == 0 {
			close(s.idle)
		}
	})
	handOver := time.NewTimer(s.cfg.HandOverMax)
	defer handOver.Stop()
	select {
	case <-s.idle:
		return nil
	case <-handOver.C:
		s.stopReading()
	case <-ctx.Done():
	}
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			c.abort()
		}
		return fmt.Errorf("kafka facade: %d connections had to be cut: %w", len(s.conns), ctx.Err())
	}
}

func (s *Server) stopReading() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.stopReading()
	}
}

// Connections returns the number of open connections.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *Server) isDraining() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

func (s *Server) track(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isDraining() {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) untrack(l net.Listener) {
	s.mu.Lock()
	delete(s.listeners, l)
	s.mu.Unlock()
	_ = l.Close()
}

// newConn registers a connection and returns what serves it; nil if there are too
// many, or no more are taken.
func (s *Server) newConn(ctx context.Context, nc net.Conn) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isDraining() {
		return nil
	}
	if len(s.conns) >= s.cfg.ConnectionsMax {
		s.clients.Warn("connection refused: too many", "remote", nc.RemoteAddr().String(), "connections_max", s.cfg.ConnectionsMax)
		s.deps.Metrics.refused(ctx)
		return nil
	}
	c := newConn(s, s.secured(nc))
	ctx, cancel := context.WithCancel(ctx)
	waitCtx, stopWaits := context.WithCancel(ctx)
	c.cancel, c.stopWaits = cancel, stopWaits
	s.conns[c] = struct{}{}
	s.deps.Metrics.connections(ctx, 1)
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	return func() {
		defer cancel()
		defer stop()
		c.serve(ctx, waitCtx)
	}
}

func (s *Server) left(nc net.Conn) {
	if s.deps.Left != nil {
		s.deps.Left(nc)
	}
}

func (s *Server) removeConn(ctx context.Context, c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	c.entered.Leave()
	s.left(c.nc)
	s.deps.Metrics.connections(ctx, -1)
	if len(s.conns) == 0 && s.isDraining() {
		select {
		case <-s.idle:
		default:
			close(s.idle)
		}
	}
}

// mapOrNil returns the current map, nil before one is loaded.
func (s *Server) mapOrNil() *federation.Map {
	m := s.deps.Maps.Current()
	if m == nil || m.Version == 0 {
		return nil
	}
	return m
}

// awaitMap waits until the map satisfies ok, at most d; it reports whether it does.
func (s *Server) awaitMap(ctx context.Context, d time.Duration, ok func(*federation.Map) bool) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		changed := s.deps.Maps.Changed()
		if m := s.mapOrNil(); m != nil && ok(m) {
			return true
		}
		select {
		case <-changed:
		case <-t.C:
			return false
		case <-s.draining:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
