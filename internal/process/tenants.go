package process

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/lifecycle"
	"github.com/braidmq/braid/internal/quota"
	"github.com/braidmq/braid/internal/security"
	"github.com/braidmq/braid/kafkacompat"
)

// Tenants are logical clusters in the map of the deployment. A gateway follows that map,
// and has one router over it, so that lanes, connections, caches and budgets are shared,
// and seals and failovers act on all. What a client meets is its tenant's: a view of the
// map with plain names, a session that reaches nothing else, a group engine with keys of
// its own, and doors over these.

// errNoTenant is what a client is told of a tenant that is not there. It does not say more.
func errNoTenant(name string) error {
	return federation.Errorf(federation.UnknownCluster, "logical cluster %q is not served here", name)
}

// errNoMap is what a caller is told before it is known which tenants there are.
func errNoMap() error {
	return federation.Errorf(federation.NoLeader, "this process has no map yet, so it knows no tenants; try again")
}

// A mapSource is the map of the deployment.
type mapSource interface {
	Current() *federation.Map
	Changed() <-chan struct{}
}

// A splitter splits the newest map once for all who look at it.
type splitter struct {
	source mapSource
	last   atomic.Pointer[federation.Split]
	mu     sync.Mutex // of those who split
}

func (s *splitter) split() *federation.Split {
	m := s.source.Current()
	if last := s.last.Load(); last != nil && last.Base() == m {
		return last
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m = s.source.Current()
	last := s.last.Load()
	if last != nil && last.Base() == m {
		return last
	}
	next := federation.SplitMap(m, last)
	s.last.Store(next)
	return next
}

// A tenantView is the map as clients of one logical cluster see it; the empty tenant is
// the deployment's own.
type tenantView struct {
	*splitter
	tenant string
	bound  bool // for clients that are the tenant's only where they come by an address of its own
}

func newTenantView(source mapSource, tenant string) *tenantView {
	return &tenantView{splitter: &splitter{source: source}, tenant: tenant}
}

// Current implements the Maps of doors and engines.
func (v *tenantView) Current() *federation.Map {
	of := v.split().Of
	if v.bound {
		of = v.split().BoundOf
	}
	m, _ := of(v.tenant)
	return m
}

// Changed implements the same.
func (v *tenantView) Changed() <-chan struct{} { return v.source.Changed() }

// A tenancy is what a gateway has of tenants. Parts of one are made when the first client
// or peer comes for it: one that nobody uses costs its entries of the map.
type tenancy struct {
	kafkaTenants // doors set its authorizer

	g     *gatewayParts
	ctx   context.Context //nolint:containedctx // the life of the engines
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu     sync.Mutex // guards the following
	parts  map[string]*tenantParts
	closed bool
}

// tenantParts serve one tenant.
type tenantParts struct {
	clusterID string // of the tenant's life
	engine    *groups.Engine
	limiter   *quota.Limiter
	room      *quota.Room    // of its clients
	kafka     *tenantServers // nil if there is no Kafka facade
	door      *gateway.Gateway
	handler   http.Handler
	stop      context.CancelFunc
}

// tenancy makes the view of the deployment's own logical cluster, and what serves tenants.
func (w *wiring) tenancy(g *gatewayParts) {
	views := &splitter{source: g.watch}
	g.maps = &tenantView{splitter: views}
	t := &tenancy{g: g, parts: make(map[string]*tenantParts), kafkaTenants: kafkaTenants{
		tenantChoice: w.tenantChoice(g.watch.Current, g.maps.Current), w: w, views: views, admin: g.admin, host: w.cfg.sniHost(),
	}}
	t.servers = func(name string) (*tenantServers, error) {
		parts, err := t.get(name)
		if err != nil {
			return nil, err
		}
		return parts.kafka, nil
	}
	t.ctx, t.stop = context.WithCancel(context.Background())
	g.tenants = t
	w.onEnd(func() {
		t.stop()
		t.tasks.Wait()
	})
	users := g.maps.Current
	if w.cfg.Tenants {
		users = g.watch.Current // users of tenants too, by qualified names
		w.task(lifecycle.Task{Name: "tenants", Run: t.run})
	}
	w.users(users)
	w.task(lifecycle.Task{Name: "secret of unknown users", Run: func(ctx context.Context) error { return w.shareSecret(ctx, g.store) }})
}

func (w *wiring) tenantChoice(base, own func() *federation.Map) tenantChoice {
	return tenantChoice{enabled: w.cfg.Tenants, logicalCluster: w.cfg.LogicalCluster, base: base, own: own}
}

// run lets go of tenants that are deleted.
func (t *tenancy) run(ctx context.Context) error {
	for {
		changed := t.g.watch.Changed()
		t.forgetGone()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *tenancy) forgetGone() {
	split := t.views.split()
	t.forgetUnused()
	t.mu.Lock()
	var gone []*tenantParts
	for name, p := range t.parts {
		if m, served := split.Of(name); !served || m.ClusterID != p.clusterID {
			gone = append(gone, p)
			delete(t.parts, name)
			t.forget(name)
			t.w.log.Info("tenant is served no more", "tenant", name)
		}
	}
	t.mu.Unlock()
	for _, p := range gone {
		p.stop()
		if p.kafka != nil {
			p.kafka.close()
		}
		t.tasks.Go(func() { _ = p.door.Drain(t.ctx) })
	}
}

// get returns the parts of a tenant, made when they are first needed.
func (t *tenancy) get(name string) (*tenantParts, error) {
	m, served := t.views.split().Of(name)
	if !t.w.cfg.Tenants || name == "" || !served && m.Version > 0 {
		return nil, errNoTenant(name)
	}
	if !served {
		return nil, errNoMap()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.parts[name]
	switch {
	case p != nil && p.clusterID == m.ClusterID:
		return p, nil
	case p != nil: // run has not seen yet that it is another one
		return nil, federation.Errorf(federation.NoLeader, "logical cluster %q was created anew; try again", name)
	case t.closed:
		return nil, federation.Errorf(federation.NoLeader, "this gateway is draining; use another one")
	}
	p, err := t.newParts(name, m.ClusterID)
	if err != nil {
		return nil, err
	}
	t.parts[name] = p
	return p, nil
}

func (t *tenancy) newParts(name, clusterID string) (*tenantParts, error) {
	log := t.w.log.With("tenant", name)
	view := &tenantView{splitter: t.views, tenant: name}
	authorizer, err := t.w.tenantAuthorizer(name, log)
	if err != nil {
		return nil, err
	}
	cfg := t.w.cfg.Groups
	cfg.Gateway, cfg.Maps, cfg.Store, cfg.Logger = federation.GatewayID(t.w.id), view, t.g.store, log
	cfg.Sees = seesTopic(authorizer, view)
	cfg.Limit = func() int { return int(t.limits(name).Groups) }
	engine, err := groups.NewEngine(cfg)
	if err != nil {
		return nil, err
	}
	limiter, err := quota.New(t.w.cfg.Quotas, view, log, t.w.telemetry.meter())
	if err != nil {
		return nil, err
	}
	p := &tenantParts{
		clusterID: clusterID, engine: engine, limiter: limiter,
		room: t.g.gate.Room(name, func() int32 { return t.limits(name).Connections }, log),
	}
	if err := t.door(p, name, view, authorizer, log); err != nil {
		return nil, err
	}
	if t.g.kafka != nil {
		p.kafka = t.make(kafkacompat.TenantDeps{
			Name: name, NewSession: t.session(name), Groups: engine, Authorizer: authorizer, Limiter: limiter, Room: p.room, Logger: log,
		})
	}
	ctx, cancel := context.WithCancel(t.ctx)
	p.stop = cancel
	t.tasks.Go(func() { _ = engine.Run(ctx) }) // it ends with ctx only
	return p, nil
}

// limits are those of a tenant at gateways.
func (t *tenancy) limits(name string) federation.TenantLimits {
	limits := t.w.cfg.TenantLimits
	if own := t.g.watch.Current().Tenants[name]; own != nil {
		return own.Limits.Or(limits)
	}
	return limits
}

func (t *tenancy) session(name string) func() router.Session {
	return func() router.Session { return t.g.router.NewSessionOf(name) }
}

// tenantAuthorizer decides by the ACLs of a tenant. Super users of it are those that are named
// as its users: the deployment's own are nobody there.
func (w *wiring) tenantAuthorizer(name string, log *slog.Logger) (*acl.Authorizer, error) {
	cfg, err := w.cfg.Authorization.config()
	if err != nil {
		return nil, err
	}
	var super []security.Principal
	for _, p := range cfg.SuperUsers {
		if rest, ok := strings.CutPrefix(p.Name, federation.QualifyUser(name, "")); ok {
			super = append(super, security.Principal{Type: p.Type, Name: rest})
		}
	}
	super = append(super, security.Fleet) // operators with the fleet's token, and granted ones
	cfg.SuperUsers = super
	return acl.New(cfg, log, w.telemetry.meter())
}

// engine returns the group engine of a logical cluster, for other gateways.
func (t *tenancy) engine(logicalCluster string) (*groups.Engine, error) {
	if logicalCluster == "" || logicalCluster == t.w.cfg.LogicalCluster {
		return t.g.groups, nil
	}
	p, err := t.get(logicalCluster)
	if err != nil {
		return nil, err
	}
	return p.engine, nil
}

// door makes the Connect API of a tenant: that of data and groups, and of the topics,
// users, ACLs and quotas that it has. What is the deployment's is not there.
func (t *tenancy) door(p *tenantParts, name string, view *tenantView, authorizer *acl.Authorizer, log *slog.Logger) error {
	cfg := t.w.cfg.Gateway
	cfg.LogicalCluster, cfg.CORSOrigins = name, t.w.cfg.CORSOrigins
	members := groups.NewCluster(groups.ClusterConfig{Engine: p.engine, Dial: relayDialer(t.g.peers, t.w.access.scheme(), name, clientOptions(t.g.observe)...)})
	var err error
	p.door, err = gateway.New(cfg, gateway.Deps{
		Log: log, Maps: view, NewSession: t.session(name), Groups: members, Requests: t.g.memory.requests, Incoming: t.g.memory.incoming, Answers: t.g.memory.answers, Expansions: t.g.door.Expansions(),
		TokenKey: func(ctx context.Context) ([]byte, error) { return t.g.store.TokenKey(ctx, name) },
		Topics:   t.g.admin.topics, Operations: t.g.admin.operations, Naming: t.g.names.Of(view), Acls: t.g.admin.acls, Credentials: t.g.admin.creds, Quotas: t.g.admin.quotas, GroupConfigs: t.g.admin.groups, GroupSettings: t.w.cfg.Groups.Settings(), Authorizer: authorizer, Limiter: p.limiter, Room: p.room,
		TracerProvider: t.w.telemetry.tracers, MeterProvider: t.w.telemetry.meters, Interceptors: []connect.Interceptor{ending{}, t.scope(name)},
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	p.door.Mount(mux)
	p.handler = mux // what Wrap does is done by the door before it, which all calls pass
	return nil
}

// all returns the parts of all tenants that are in use.
func (t *tenancy) all() []*tenantParts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.parts))
}

func (t *tenancy) active() int { return len(t.all()) }

// counted is how many quotas are counted, of the deployment's own logical cluster and of all tenants.
func (t *tenancy) counted() int64 {
	n := t.g.limiter.Counted()
	for _, p := range t.all() {
		n += p.limiter.Counted()
	}
	return n
}

func (t *tenancy) streams() (n int) {
	for _, p := range t.all() {
		n += p.door.Streams()
	}
	return n
}

// closeGroups hands all groups over; no tenant is taken in from then on.
func (t *tenancy) closeGroups(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	return t.each(func(p *tenantParts) error { return p.engine.Close(ctx) })
}

func (t *tenancy) drainStreams(ctx context.Context) error {
	return t.each(func(p *tenantParts) error { return p.door.Drain(ctx) })
}

func (t *tenancy) each(do func(*tenantParts) error) error {
	all := t.all()
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, p := range all {
		wg.Go(func() { errs[i] = do(p) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
