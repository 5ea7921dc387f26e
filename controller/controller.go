// Package controller is the control plane: it observes the physical clusters,
// keeps the list of live gateways, decides the next map, writes it to Redis and
// pushes it to the gateways, and runs operations to their end.
//
// Several controllers run; one leads, by a lease in Redis with a fencing number
// that every write checks. The others wait, and pass calls on to the leader.
package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/gen/braid/control/v1/controlv1connect"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/internal/upstream"
)

// Parts are what a controller works with.
type Parts struct {
	Store *redisstore.Store
	// Clusters follows the map's physical clusters while this controller leads.
	Clusters *upstream.Pool
	// Transport carries calls that a standby passes on to the leader; it must speak
	// HTTP/2 for the leader's URL.
	Transport http.RoundTripper
	Metrics   *Metrics // nil = nothing is measured
	Logger    *slog.Logger
}

// A Controller is one controller process. Make it with New, serve what Mount
// registers, and call Run once. It is safe for concurrent use.
//
//	standby ──(takes the lease)──► leading ──(another took it)──► standby
type Controller struct {
	cfg         Config
	parts       Parts
	log         *slog.Logger
	incarnation string
	ids         *redisstore.ProducerIDs // for marks

	mu     sync.Mutex // guards the following
	role   role
	change chan struct{} // closed when role changes
	// met is the highest fencing number that was met, and last the newest map that
	// this controller published: neither goes back, even if Redis loses them.
	met  int64
	last *federation.Map
}

// A role is what the controller knows of who leads.
type role struct {
	term   *term             // set while this controller leads and is ready to serve
	leader redisstore.Leader // zero = nobody known
}

// New makes a controller.
func New(cfg Config, parts Parts) (*Controller, error) {
	cfg.EnsureDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if parts.Logger == nil {
		parts.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Controller{
		cfg:         cfg,
		parts:       parts,
		log:         parts.Logger.With("controller", cfg.ID),
		incarnation: rand.Text(),
		ids:         parts.Store.ProducerIDs(),
		change:      make(chan struct{}),
	}
	parts.Metrics.measures(c)
	return c, nil
}

// Mount registers the control service and the admin services but GroupService,
// which the gateways serve.
func (c *Controller) Mount(mux *http.ServeMux, opts ...connect.HandlerOption) {
	opts = append(slices.Clone(opts), connect.WithInterceptors(rpcerror.Subjects()))
	mux.Handle(controlv1connect.NewControlServiceHandler(&controlService{c}, opts...))
	opts = append(opts, connect.WithInterceptors(connect.UnaryInterceptorFunc(c.again), unsure{c}))
	admin := func(path string, h http.Handler) { mux.Handle(path, c.forwarding(h)) }
	admin(adminv1connect.NewTopicServiceHandler(&topicService{c}, opts...))
	admin(adminv1connect.NewClusterServiceHandler(&clusterService{c}, opts...))
	admin(adminv1connect.NewFleetServiceHandler(&fleetService{c}, opts...))
	admin(adminv1connect.NewOperationServiceHandler(&operationService{c}, opts...))
	admin(adminv1connect.NewAclServiceHandler(&aclService{c}, opts...))
	admin(adminv1connect.NewQuotaServiceHandler(&quotaService{c}, opts...))
	admin(adminv1connect.NewGroupConfigServiceHandler(&groupConfigService{c}, opts...))
	admin(adminv1connect.NewCredentialServiceHandler(&credentialService{c}, opts...))
	admin(adminv1connect.NewTenantServiceHandler(&tenantService{c}, opts...))
}

// Run competes for the lead and leads, until ctx ends; then it gives the lead up.
// It returns nil after that, and an error only if it cannot work at all.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.announce(ctx) })
	for ctx.Err() == nil {
		asked := time.Now()
		leader, won, err := c.acquire(ctx)
		switch {
		case err != nil:
			if ctx.Err() == nil {
				c.log.Warn("who leads is not known", "err", err, "cause", errors.Unwrap(err))
			}
		case won:
			c.lead(ctx, leader, asked)
			continue
		default:
			c.setRole(role{leader: leader})
		}
		sleep(ctx, c.cfg.RenewInterval)
	}
	c.setRole(role{})
	return nil
}

func (c *Controller) acquire(ctx context.Context) (redisstore.Leader, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.LeaseTTL)
	defer cancel()
	return c.parts.Store.AcquireLeadership(ctx, c.cfg.LogicalCluster, c.candidate(), c.cfg.LeaseTTL)
}

func (c *Controller) candidate() redisstore.Candidate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return redisstore.Candidate{ID: c.cfg.ID, URL: c.cfg.URL, Incarnation: c.incarnation, Met: c.met}
}

// announce keeps this controller on the list of live ones.
func (c *Controller) announce(ctx context.Context) {
	const missed = 4
	ttl := missed * c.cfg.LeaseTTL
	for ctx.Err() == nil {
		if err := c.parts.Store.AnnounceController(ctx, c.cfg.LogicalCluster, c.candidate(), ttl); err != nil && ctx.Err() == nil {
			c.log.Debug("could not announce this controller", "err", err)
		}
		sleep(ctx, c.cfg.LeaseTTL)
	}
	c.farewell(ctx, func(ctx context.Context) error {
		return c.parts.Store.WithdrawController(ctx, c.cfg.LogicalCluster, c.cfg.ID)
	})
}

// farewell does one last thing in the store after ctx has ended.
func (c *Controller) farewell(ctx context.Context, do func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.LeaseTTL)
	defer cancel()
	if err := do(ctx); err != nil {
		c.log.Debug("the store did not take the farewell", "err", err)
	}
}

// lead serves one term: from a won lease to its loss.
func (c *Controller) lead(ctx context.Context, leader redisstore.Leader, confirmed time.Time) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := newTerm(ctx, cancel, c, leader, confirmed)
	t.log.Info("this controller leads")
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		t.renew(ctx)
	})
	wg.Go(func() { t.journal.run(ctx) })
	if t.load(ctx) {
		c.setRole(role{term: t, leader: leader})
		t.run(ctx)
	}
	cancel()
	wg.Wait()
	c.setRole(role{})
	close(t.done)
	c.farewell(ctx, func(ctx context.Context) error {
		return c.parts.Store.ReleaseLeadership(ctx, c.cfg.LogicalCluster, leader.Fencing)
	})
	t.log.Info("this controller does not lead any more")
}

func (c *Controller) setRole(r role) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.met = max(c.met, r.leader.Fencing)
	if r == c.role {
		return
	}
	c.role = r
	close(c.change)
	c.change = make(chan struct{})
}

// remember notes a map that was published.
func (c *Controller) remember(m *federation.Map) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = m
}

// remembered returns the newest map that this controller published; nil before.
func (c *Controller) remembered() *federation.Map {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

func (c *Controller) currentRole() (role, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.role, c.change
}

// leading returns the current term, or an error of kind NotLeader.
func (c *Controller) leading() (*term, error) {
	r, _ := c.currentRole()
	if r.term == nil {
		return nil, errNotLeader()
	}
	return r.term, nil
}

func errNotLeader() error {
	return federation.Errorf(federation.NotLeader, "this controller does not lead; try again, or ask the leader")
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
