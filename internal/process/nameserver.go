package process

import (
	"context"
	"errors"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/gateway/mapwatch"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/gen/braid/naming/v1/namingv1connect"
	"github.com/braidmq/braid/internal/lifecycle"
	"github.com/braidmq/braid/internal/quota"
	"github.com/braidmq/braid/kafkacompat"
	"github.com/braidmq/braid/nameserver"
)

// nameserver wires a name service: a watch on the map behind a Connect service
// and a Kafka bootstrap. The bootstrap is the Kafka facade without engines, so
// its Metadata is the gateways' own; it gives ids to idempotent producers, and answers all
// data requests with errors that send the client to the gateways.
func (w *wiring) nameserver(ctx context.Context) error {
	store, err := w.store()
	if err != nil {
		return err
	}
	controllers := w.newControllers(store)
	observe, err := w.telemetry.interceptor()
	if err != nil {
		return err
	}
	cfg := w.cfg.MapWatch
	cfg.LogicalCluster, cfg.WatchOnly, cfg.ID, cfg.Build = w.cfg.LogicalCluster, true, federation.GatewayID(w.id), w.cfg.Build
	cfg.Controllers = w.cfg.Controllers
	watch, err := mapwatch.New(cfg, mapwatch.Parts{Store: store, HTTP: &http.Client{Transport: w.peerTransport()}, Logger: w.log})
	if err != nil {
		return err
	}
	w.task(lifecycle.Task{Name: "map watch", Run: watch.Run})
	own := newTenantView(watch, "")
	clients := controllers.clients(clientOptions(observe)...)
	tenants := &namedTenants{
		kafkaTenants: kafkaTenants{
			tenantChoice: w.tenantChoice(watch.Current, own.Current), w: w, views: own.splitter, admin: clients, host: w.cfg.sniHost(),
		},
		names:   nameserver.New(w.cfg.NameServer, own),
		options: []connect.HandlerOption{connect.WithInterceptors(observe, ending{}), connect.WithReadMaxBytes(nameBytesMax)},
		ids:     store.ProducerIDs(), tenants: make(map[string]*namedTenant),
	}
	tenants.servers = tenants.serversOf
	if tenants.authz, err = w.authorizer(); err != nil {
		return err
	}
	users := own.Current
	if w.cfg.Tenants {
		users = watch.Current // users of tenants too, by qualified names
	}
	w.users(users)
	budgets := w.budgets()
	gate, err := quota.NewGate(ctx, w.cfg.Connections, nil, w.log, w.telemetry.meter())
	if err != nil {
		return err
	}
	if w.connect != nil {
		if err := w.nameConnect(tenants, gate, watch); err != nil {
			return err
		}
	}
	if w.bootstrap != nil {
		if err := w.kafkaBootstrap(own, tenants, gate, budgets); err != nil {
			return err
		}
	}
	stop, err := w.telemetry.observe(w.id, append(budgets.gauges(func() int64 { return 0 }),
		gauge{"braid.map.version", "{version}", "Version of the current map.", false, func() int64 { return int64(watch.Current().Version) }}))
	if err != nil {
		return err
	}
	w.onEnd(stop)
	w.setChecks([]Check{{Name: "map", Err: func(context.Context) error {
		if watch.Current().Version == 0 {
			return errors.New("no map is loaded")
		}
		return nil
	}}})
	return nil
}

// nameConnect serves the Connect API of a name service.
func (w *wiring) nameConnect(tenants *namedTenants, gate *quota.Gate, watch *mapwatch.Watch) error {
	mux := http.NewServeMux()
	mux.Handle(tenants.names.Handler(tenants.options...))
	mountHealth(mux, []string{namingv1connect.NameServiceName})
	guard := w.access.guard(mux, w.access.cfg.ConnectRequired, false)
	guard.tenant = tenants.handler
	w.task(lifecycle.Task{Name: "guard", Run: func(ctx context.Context) error { return guard.watch(ctx, watch.Changed) }})
	server, err := w.httpErrors(gateway.NewServer(gateway.LimitCalls(guard, w.cfg.Gateway.CallsMax), w.cfg.MemoryLimit))
	if err != nil {
		return err
	}
	server.ConnState = gate.ConnState
	w.task(httpTask("connect api", gate.Listener(w.connect), server))
	return nil
}

// nameBytesMax bounds a request of the name service: it names a client.
const nameBytesMax = 64 << 10

func (w *wiring) kafkaBootstrap(own kafkacompat.Maps, tenants *namedTenants, gate *quota.Gate, budgets budgets) error {
	metrics, err := kafkacompat.NewMetrics(w.telemetry.meter())
	if err != nil {
		return err
	}
	kafka := w.cfg.Kafka
	kafka.GatewayID = federation.GatewayID(w.id)
	deps := kafkacompat.Deps{
		Maps: own, NewSession: func() router.Session { return noSession{tenants.ids} }, Groups: noGroups{}, Admin: newKafkaAdmin(tenants.admin, w.cfg.LogicalCluster),
		Credentials: &kafkaCredentials{tenants.admin.creds, "logicalClusters/" + w.cfg.LogicalCluster}, Authorizer: tenants.authz, Metrics: metrics, Logger: w.log,
		Requests: budgets.requests, Answers: budgets.answers, Left: gate.Left,
	}
	tenants.kafkaDeps(&deps)
	if err := w.kafkaAccess(&deps); err != nil {
		return err
	}
	server, err := kafkacompat.New(kafka, deps)
	if err != nil {
		return err
	}
	tenants.root = server
	tenants.listeners(gate.Listener)
	if w.cfg.Tenants {
		w.task(lifecycle.Task{Name: "tenants", Run: tenants.run})
	}
	w.task(lifecycle.Task{
		Name: "kafka bootstrap",
		Run: func(ctx context.Context) error {
			if err := server.Serve(ctx, gate.Listener(w.bootstrap)); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		},
		Stop: server.Drain,
	})
	return nil
}

// errElsewhere sends a Kafka client to the gateways that Metadata names.
func errElsewhere() error {
	return federation.Errorf(federation.NoLeader, "the bootstrap holds no data; ask for metadata and use the gateways that it names")
}

// errNoCoordinator does the same for groups.
func errNoCoordinator() error {
	return federation.Errorf(federation.NotCoordinator, "the bootstrap coordinates no groups; ask for the coordinator")
}

// noSession is a router without data: every answer sends the client away. It gives ids to
// producers if it has some.
type noSession struct{ ids router.ProducerIDs }

var _ router.Session = noSession{}

func (noSession) Produce(_ context.Context, _ router.Acks, _ time.Duration, appends []router.Append, done func([]router.Appended)) error {
	answers := make([]router.Appended, len(appends))
	for i := range answers {
		answers[i] = router.Appended{BaseOffset: -1, LogAppendTimeMs: -1, LogStart: -1, Err: errElsewhere()}
	}
	go done(answers) // never from the caller's goroutine
	return nil
}

func (noSession) Fetch(_ context.Context, from []router.Position, _ router.FetchLimit) (*router.Fetched, error) {
	f := &router.Fetched{}
	for _, p := range from {
		f.Slices = append(f.Slices, router.Slice{TopicPartition: p.TopicPartition, HighWatermark: -1, LastStable: -1, LogStart: -1, Err: errElsewhere()})
	}
	return f, nil
}

func (noSession) ListOffsets(_ context.Context, q []router.OffsetQuery) []router.OffsetAnswer {
	answers := make([]router.OffsetAnswer, len(q))
	for i := range answers {
		answers[i] = router.OffsetAnswer{Offset: -1, TimestampMs: -1, Epoch: federation.NoEpoch, Err: errElsewhere()}
	}
	return answers
}

func (noSession) OffsetsForEpochs(_ context.Context, q []router.EpochQuery) []router.EpochAnswer {
	answers := make([]router.EpochAnswer, len(q))
	for i := range answers {
		answers[i] = router.EpochAnswer{EpochEnd: router.EpochEnd{Epoch: federation.NoEpoch, End: -1}, Err: errElsewhere()}
	}
	return answers
}

func (noSession) DeleteRecords(_ context.Context, d []router.DeleteBefore) []router.Deleted {
	answers := make([]router.Deleted, len(d))
	for i := range answers {
		answers[i] = router.Deleted{LowWatermark: -1, Err: errElsewhere()}
	}
	return answers
}

func (noSession) Watermarks(context.Context, federation.TopicPartition) (router.Watermarks, error) {
	return router.Watermarks{}, errElsewhere()
}

// InitProducer gives an id as gateways do: librdkafka asks any broker that it is connected
// to for it, which is the bootstrap until it has another one, and asks that again if it is
// sent away.
func (s noSession) InitProducer(ctx context.Context, id int64, epoch int16) (int64, int16, error) {
	if s.ids == nil {
		return -1, -1, errNoCoordinator()
	}
	return router.InitProducer(ctx, s.ids, id, epoch)
}

func (noSession) Producers(_ context.Context, tps []federation.TopicPartition) []router.Producers {
	answers := make([]router.Producers, len(tps))
	for i := range answers {
		answers[i].Err = errElsewhere()
	}
	return answers
}

func (noSession) Sizes(_ context.Context, tps []federation.TopicPartition) []int64 {
	return make([]int64, len(tps))
}

func (noSession) Close() {}

// noGroups is a coordinator of no group.
type noGroups struct{}

var _ groups.Coordinator = noGroups{}

func (noGroups) Join(context.Context, groups.JoinRequest) (groups.JoinResponse, error) {
	return groups.JoinResponse{}, errNoCoordinator()
}

func (noGroups) Sync(context.Context, groups.SyncRequest) (groups.SyncResponse, error) {
	return groups.SyncResponse{}, errNoCoordinator()
}

func (noGroups) Heartbeat(context.Context, groups.HeartbeatRequest) error { return errNoCoordinator() }

func (noGroups) ConsumerHeartbeat(context.Context, groups.ConsumerHeartbeatRequest) (groups.ConsumerHeartbeatResponse, error) {
	return groups.ConsumerHeartbeatResponse{}, errNoCoordinator()
}

func (noGroups) CheckEpoch(context.Context, string, string, int32) error { return errNoCoordinator() }

func (noGroups) Leave(context.Context, string, []groups.LeavingMember) ([]error, error) {
	return nil, errNoCoordinator()
}

func (noGroups) Commit(context.Context, groups.CommitRequest) ([]error, error) {
	return nil, errNoCoordinator()
}

func (noGroups) Committed(context.Context, string, []federation.TopicPartition) ([]groups.CommittedOffset, error) {
	return nil, errNoCoordinator()
}

func (noGroups) DeleteOffsets(context.Context, string, []federation.TopicPartition) ([]error, error) {
	return nil, errNoCoordinator()
}

func (noGroups) Describe(context.Context, string) (groups.Description, error) {
	return groups.Description{}, errNoCoordinator()
}

// List finds no group: clients ask every node that Metadata names.
func (noGroups) List(context.Context) ([]groups.Listing, error) { return nil, nil }

func (noGroups) Delete(context.Context, string) error { return errNoCoordinator() }

func (noGroups) Subscribe(context.Context, groups.SubscribeRequest) (groups.Membership, error) {
	return nil, errNoCoordinator()
}
