// Package gateway is the Connect door of the data plane: streams and calls that
// write and read records, consumer groups, and the admin services, which it
// passes on to the leading controller, so that one address serves everything.
//
// It decodes requests, calls the router or the group engine, and maps errors.
// What needs thought is pure and beside it: produceSession decides about
// sequences, acknowledgements and credit, consumeSession about assignments and
// positions.
package gateway

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/gen/braid/naming/v1/namingv1connect"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/logging"
	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/quota"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/rpcerror"
)

// Deps are what a Gateway works with.
type Deps struct {
	Log *slog.Logger
	// Maps is the gateway's view of the federation.
	Maps router.Maps
	// NewSession makes a session of the router for one stream or call.
	NewSession func() router.Session
	// Groups answers for every group, wherever its coordinator is, and lists them all;
	// its memberships outlive a change of coordinator.
	Groups groups.Coordinator
	// TokenKey fetches the key of producer tokens that the fleet shares; it is asked
	// until it has answered once. Needed if Config.TokenKey is empty.
	TokenKey func(context.Context) ([]byte, error)

	// The leading controller's services, passed on; each may be nil: then it is not served.
	Topics     adminv1connect.TopicServiceClient
	Clusters   adminv1connect.ClusterServiceClient
	Fleet      adminv1connect.FleetServiceClient
	Operations adminv1connect.OperationServiceClient
	Acls       adminv1connect.AclServiceClient
	Quotas     adminv1connect.QuotaServiceClient
	// GroupConfigs are the settings of groups, within what GroupSettings lets them set.
	GroupConfigs  adminv1connect.GroupConfigServiceClient
	GroupSettings federation.GroupSettings
	// Credentials is one of them.
	Credentials adminv1connect.CredentialServiceClient
	// Tenants is one of them.
	Tenants adminv1connect.TenantServiceClient
	// Naming is the name service, if it runs in this process or is passed on; may be nil.
	Naming namingv1connect.NameServiceHandler

	// Authorizer decides what callers may do; nil lets them do everything.
	Authorizer *acl.Authorizer
	// Limiter holds callers to their quotas; nil has none.
	Limiter *quota.Limiter
	// Room bounds the streams of a tenant, together with its Kafka connections; nil = only
	// Config.StreamsMax does.
	Room *quota.Room
	// Interceptors are at all calls, within what observes them.
	Interceptors []connect.Interceptor
	// Requests is what calls, and the frames of produce streams until they are decided, are
	// taken from, together with others that hold what clients send; nil = no bound but credit.
	Requests *memory.Budget
	// Incoming is what messages are taken from that are not whole yet; nil = no bound.
	Incoming *memory.Budget
	// Answers is what frames to readers are counted in while they are sent, beside the records
	// that they are made of; nil = they are not counted.
	Answers *memory.Budget
	// Expansions are those of another Gateway of this process; nil makes new ones.
	Expansions *Expansions

	// TracerProvider and MeterProvider receive traces and metrics of the calls; nil is the
	// process's global one.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
}

// A Gateway is the Connect door of one gateway process. It is safe for
// concurrent use.
type Gateway struct {
	cfg      Config
	deps     Deps
	log      *slog.Logger
	tokens   tokenSigner
	readers  sync.Pool // *recordbatch.Reader
	calls    *calls
	intakes  intakes
	expands  *Expansions
	options  []connect.HandlerOption
	health   *grpchealth.StaticChecker
	services []string

	draining chan struct{} // closed by Drain
	tasks    sync.WaitGroup

	mu        sync.Mutex // guards the following
	drained   bool
	streams   int
	idle      chan struct{} // closed when the last stream ends while draining; nil if nobody waits
	producers map[int64]*produceStream
}

// New makes a Gateway. It starts nothing.
func New(cfg Config, deps Deps) (*Gateway, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	deps.Log = logging.Limited(deps.Log) // whatever is logged here, a client can cause
	g := &Gateway{
		cfg: cfg, deps: deps, log: deps.Log, draining: make(chan struct{}), producers: make(map[int64]*produceStream),
	}
	g.tokens.fetch = deps.TokenKey
	if len(cfg.TokenKey) > 0 {
		g.tokens.key = cfg.TokenKey
	} else if deps.TokenKey == nil {
		return nil, federation.Errorf(federation.InvalidConfig, "gateway: neither Config.TokenKey nor Deps.TokenKey is set")
	}
	g.readers.New = func() any { return recordbatch.NewReader(cfg.DecompressedBytesMax) }
	g.calls, g.intakes, g.expands = newCalls(cfg.CallsMax), newIntakes(&cfg, &deps), deps.Expansions
	if g.expands == nil {
		g.expands = newExpansions(cfg.MessageBytesMax, deps.Requests)
	}
	g.services = g.serviceNames()
	g.health = grpchealth.NewStaticChecker(g.services...)
	g.options, err = g.handlerOptions()
	return g, err
}

// Expansions are for other Gateways of this process.
func (g *Gateway) Expansions() *Expansions { return g.expands }

// Streams returns the number of streams that are open.
func (g *Gateway) Streams() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.streams
}

// Drain tells all streams that the gateway will go, refuses new ones, and
// returns when the last one has ended, or with ctx's error. Calls go on.
func (g *Gateway) Drain(ctx context.Context) error {
	g.mu.Lock()
	if !g.drained {
		g.drained = true
		close(g.draining)
	}
	if g.idle == nil {
		g.idle = make(chan struct{})
		if g.streams == 0 {
			close(g.idle)
		}
	}
	idle := g.idle
	g.mu.Unlock()
	for _, name := range append([]string{""}, g.services...) {
		g.health.SetStatus(name, grpchealth.StatusNotServing)
	}
	select {
	case <-idle:
		g.tasks.Wait()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enter counts a stream in; leave must follow if it returns nil.
func (g *Gateway) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.drained {
		return federation.Errorf(federation.NoLeader, "this gateway is draining; use another one")
	}
	if err := g.deps.Room.Enter(); err != nil {
		return err
	}
	g.streams++
	return nil
}

func (g *Gateway) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.streams--
	g.deps.Room.Leave()
	if g.streams == 0 && g.drained && g.idle != nil {
		close(g.idle)
	}
}

// cluster checks the logical cluster that a request names, and that its topics are
// known: a gateway that has just started must not say that one does not exist.
func (g *Gateway) cluster(name string) error {
	if g.deps.Maps.Current().Version == 0 {
		return federation.Errorf(federation.NoLeader, "this gateway has no map yet; try again, or use another one")
	}
	if name != "" && name != g.cfg.LogicalCluster {
		return federation.Errorf(federation.UnknownCluster, "logical_cluster %q: this call is served as one of %q; who may see several chooses with the header Braid-Logical-Cluster, and a user of a tenant logs in as TENANT/USER", name, g.cfg.LogicalCluster)
	}
	return nil
}

// fail makes the error that a handler returns, and logs what no client may see.
func (g *Gateway) fail(ctx context.Context, procedure string, err error) error {
	if err == nil {
		return nil
	}
	if federation.KindOf(err) == federation.Internal && ctx.Err() == nil && connect.CodeOf(err) == connect.CodeUnknown {
		g.log.ErrorContext(ctx, "request failed", "procedure", procedure, "err", err)
	}
	return rpcerror.Error(err)
}

// withUnaryTimeout gives a call that has no deadline the default one.
func (g *Gateway) withUnaryTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, g.cfg.UnaryTimeout)
}

// ageLimit returns a channel that fires when a stream is old enough to go
// elsewhere; nil if never.
func (g *Gateway) ageLimit() (<-chan time.Time, func()) {
	if g.cfg.StreamAgeMax <= 0 {
		return nil, func() {}
	}
	t := time.NewTimer(time.Duration(float64(g.cfg.StreamAgeMax) * (0.9 + 0.2*rand.Float64())))
	return t.C, func() { t.Stop() }
}
