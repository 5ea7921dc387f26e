package process

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/gateway/mapwatch"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/gen/braid/control/v1/controlv1connect"
	"github.com/braidmq/braid/internal/lifecycle"
	"github.com/braidmq/braid/internal/quota"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/upstream"
	"github.com/braidmq/braid/kafkacompat"
	"github.com/braidmq/braid/nameserver"
)

// A gatewayParts is what a gateway is made of.
type gatewayParts struct {
	store       *redisstore.Store
	observe     connect.Interceptor
	controllers *controllers
	admin       controllerClients
	peers       *http.Client
	watch       *mapwatch.Watch
	memory      budgets
	limiter     *quota.Limiter
	gate        *quota.Gate
	pool        *upstream.Pool
	router      *router.Router
	groups      *groups.Engine
	members     *groups.Cluster // all groups, wherever they are coordinated
	maps        *tenantView     // the map as clients of the deployment's own logical cluster see it
	tenants     *tenancy
	names       *nameserver.Service
	door        *gateway.Gateway
	http        *http.Server
	requests    *requestCount
	kafka       *kafkacompat.Server // nil if there is no Kafka facade

	draining chan struct{} // closed when a stop begins
	drain    sync.Once
}

// gateway wires a gateway: the map and the clusters that it names, the engines,
// and the doors in front of them.
func (w *wiring) gateway(ctx context.Context) error {
	g := &gatewayParts{draining: make(chan struct{}), memory: w.budgets()}
	if err := w.reach(g); err != nil {
		return err
	}
	if err := w.watch(g); err != nil {
		return err
	}
	w.tenancy(g)
	g.pool = w.clusters(g.watch)
	w.router(ctx, g, g.pool)
	if err := w.engine(g); err != nil {
		return err
	}
	if err := w.quotas(ctx, g); err != nil {
		return err
	}
	if err := w.doors(g); err != nil {
		return err
	}
	if err := w.gatewayMetrics(g); err != nil {
		return err
	}
	w.task(lifecycle.Task{
		Name: "drain",
		Run:  func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		Stop: func(ctx context.Context) error { return w.drain(ctx, g) },
	})
	w.setChecks(w.gatewayChecks(g))
	return nil
}

// reach opens what a gateway talks to: the store and the controllers.
func (w *wiring) reach(g *gatewayParts) error {
	store, err := w.store()
	if err != nil {
		return err
	}
	g.store = store
	g.controllers = w.newControllers(store)
	observe, err := w.telemetry.interceptor()
	if err != nil {
		return err
	}
	g.observe = observe
	g.admin = g.controllers.clients(clientOptions(observe)...)
	g.peers = &http.Client{Transport: w.peerTransport()}
	return nil
}

// newControllers makes the way to the controllers.
func (w *wiring) newControllers(store *redisstore.Store) *controllers {
	return &controllers{configured: w.cfg.Controllers, store: store, logicalCluster: w.cfg.LogicalCluster, id: w.id, next: w.peerTransport()}
}

// watch follows the map.
func (w *wiring) watch(g *gatewayParts) error {
	connectAddress, err := advertised(w.cfg.ConnectAdvertise, w.connect)
	if err != nil {
		return err
	}
	kafkaAddress, err := advertised(w.cfg.KafkaAdvertise, w.kafka)
	if err != nil {
		return err
	}
	cfg := w.cfg.MapWatch
	cfg.LogicalCluster, cfg.ID, cfg.Role, cfg.Zone, cfg.Build = w.cfg.LogicalCluster, federation.GatewayID(w.id), w.cfg.GatewayRole, w.cfg.Zone, w.cfg.Build
	cfg.ConnectAddress, cfg.KafkaAddress, cfg.Controllers = connectAddress, kafkaAddress, w.cfg.Controllers
	if cfg.TenantKafka, err = w.tenantAddresses(kafkaAddress); err != nil {
		return err
	}
	cfg.Load = g.load
	cfg.Hold = func(ctx context.Context, m *federation.Map) ([]federation.HeldHead, error) {
		return g.router.Hold(ctx, m)
	}
	cfg.Loads = func(ctx context.Context) (map[federation.TopicPartition]int64, error) { return g.router.Loads(ctx) }
	cfg.Away = func() []federation.ClusterName { return g.pool.Away() }
	cfg.OnDrain = func(_ time.Duration, cause string) {
		w.log.Info("the controller asks to drain", "cause", cause)
		w.stop()
	}
	g.watch, err = mapwatch.New(cfg, mapwatch.Parts{Store: g.store, HTTP: g.peers, Logger: w.log})
	if err != nil {
		return err
	}
	w.task(lifecycle.Task{Name: "map watch", Run: g.watch.Run})
	return nil
}

// load is what the controller is told that this gateway carries.
func (g *gatewayParts) load() mapwatch.Load {
	n := g.door.Streams() + g.tenants.streams()
	if g.kafka != nil {
		n += g.kafka.Connections()
	}
	return mapwatch.Load{Connections: int32(n)}
}

// clusters makes a pool that holds the clusters of the current map.
func (w *wiring) clusters(watch *mapwatch.Watch) *upstream.Pool {
	cfg := w.cfg.Upstream
	if !w.cfg.LeadersOnly {
		cfg.Zone = w.cfg.Zone
	}
	pool := upstream.NewPool(cfg)
	w.onEnd(pool.Close)
	w.task(lifecycle.Task{Name: "clusters", Run: func(ctx context.Context) error {
		for {
			changed := watch.Changed()
			pool.Update(clustersOf(watch.Current()))
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}})
	return pool
}

func clustersOf(m *federation.Map) []*federation.Cluster {
	all := make([]*federation.Cluster, 0, len(m.Clusters))
	for _, c := range m.Clusters {
		all = append(all, c)
	}
	return all
}

// router makes the router. It ends after the doors have been drained: it is
// closed when all tasks have ended.
func (w *wiring) router(ctx context.Context, g *gatewayParts, pool *upstream.Pool) {
	g.router = router.New(ctx, w.cfg.Router, router.Deps{
		Maps: g.watch, Clusters: pool, Lease: g.watch, ProducerIDs: g.store.ProducerIDs(), Answers: g.memory.answers,
		LeaderSeen: func(cluster, topic string, partition, epoch int32) {
			at := federation.PhysicalAddress{Cluster: federation.ClusterName(cluster), Topic: topic, Partition: federation.PhysicalPartition(partition)}
			g.watch.SeenLeader(at, federation.PhysicalEpoch(epoch))
		},
	})
	w.onEnd(g.router.Close)
}

// engine makes the group engine.
func (w *wiring) engine(g *gatewayParts) error {
	cfg := w.cfg.Groups
	cfg.Gateway, cfg.Maps, cfg.Store, cfg.Logger = federation.GatewayID(w.id), g.maps, g.store, w.log
	authorizer, err := w.authorizer()
	if err != nil {
		return err
	}
	g.tenants.authz = authorizer
	cfg.Sees = seesTopic(authorizer, g.maps)
	if g.groups, err = groups.NewEngine(cfg); err != nil {
		return err
	}
	g.members = groups.NewCluster(groups.ClusterConfig{Engine: g.groups, Dial: relayDialer(g.peers, w.access.scheme(), w.cfg.LogicalCluster, clientOptions(g.observe)...)})
	w.task(lifecycle.Task{Name: "groups", Run: g.groups.Run})
	return nil
}

// doors makes the Connect API and the Kafka facade.
func (w *wiring) doors(g *gatewayParts) error {
	g.names = nameserver.New(w.cfg.NameServer, g.maps)
	cfg := w.cfg.Gateway
	cfg.LogicalCluster, cfg.CORSOrigins = w.cfg.LogicalCluster, w.cfg.CORSOrigins
	authorizer := g.tenants.authz
	var err error
	g.door, err = gateway.New(cfg, gateway.Deps{
		Log: w.log, Maps: g.maps, NewSession: func() router.Session { return g.router.NewSessionOf("") }, Groups: g.members, Requests: g.memory.requests, Incoming: g.memory.incoming, Answers: g.memory.answers,
		TokenKey: func(ctx context.Context) ([]byte, error) { return g.store.TokenKey(ctx, w.cfg.LogicalCluster) },
		Topics:   g.admin.topics, Clusters: g.admin.clusters, Fleet: g.admin.fleet, Operations: g.admin.operations, Naming: g.names, Acls: g.admin.acls,
		Credentials: g.admin.creds, Quotas: g.admin.quotas, GroupConfigs: g.admin.groups, GroupSettings: w.cfg.Groups.Settings(), Tenants: &forwardedTenants{g.admin.tenants, g.tenants}, Authorizer: authorizer, Limiter: g.limiter,
		TracerProvider: w.telemetry.tracers, MeterProvider: w.telemetry.meters, Interceptors: []connect.Interceptor{ending{}, g.tenants.scope("")},
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	g.door.Mount(mux)
	mux.Handle(controlv1connect.NewRelayServiceHandler(&relayService{g.tenants.engine},
		connect.WithInterceptors(g.observe), connect.WithReadMaxBytes(readBytesMax)))
	guard, err := w.counted(w.access.guard(mux, w.access.cfg.ConnectRequired, false))
	if err != nil {
		return err
	}
	guard.tenant, guard.audit = g.tenants.handler, authorizer
	w.task(lifecycle.Task{Name: "guard", Run: func(ctx context.Context) error { return guard.watch(ctx, g.watch.Changed) }})
	g.requests = &requestCount{next: g.door.Wrap(guard)}
	if g.http, err = w.httpErrors(gateway.NewServer(g.requests, w.cfg.MemoryLimit)); err != nil {
		return err
	}
	g.http.ConnState = g.gate.ConnState
	w.task(httpTask("connect api", g.gate.Listener(w.connect), g.http))
	if w.kafka == nil {
		return nil
	}
	kafka := w.kafkaConfig()
	metrics, err := kafkacompat.NewMetrics(w.telemetry.meter())
	if err != nil {
		return err
	}
	deps := kafkacompat.Deps{
		Maps: g.maps, NewSession: func() router.Session { return g.router.NewSessionOf("") }, Groups: g.groups, Authorizer: authorizer, Admin: newKafkaAdmin(g.admin, w.cfg.LogicalCluster),
		Limiter: g.limiter, Left: g.gate.Left,
		Credentials: &kafkaCredentials{g.admin.creds, "logicalClusters/" + w.cfg.LogicalCluster},
		Requests:    g.memory.requests, Answers: g.memory.answers, Metrics: metrics, Logger: w.log,
	}
	if err := w.kafkaAccess(&deps); err != nil {
		return err
	}
	g.tenants.kafkaDeps(&deps)
	if g.kafka, err = kafkacompat.New(kafka, deps); err != nil {
		return err
	}
	g.tenants.root = g.kafka
	g.tenants.listeners(g.gate.Listener)
	if kafka.ClientTelemetry {
		if err := w.clientMetrics(g.kafka); err != nil {
			return err
		}
	}
	w.task(lifecycle.Task{Name: "kafka facade", Run: func(ctx context.Context) error {
		if err := g.kafka.Serve(ctx, g.gate.Listener(w.Process.kafka)); err != nil {
			return err
		}
		<-ctx.Done() // drained: the rest of the stop follows
		return nil
	}})
	return nil
}

// kafkaConfig is that of a gateway's Kafka facade.
func (w *wiring) kafkaConfig() kafkacompat.Config {
	kafka := w.cfg.Kafka
	if kafka.ConnectionsMax == 0 {
		kafka.ConnectionsMax = w.cfg.Connections.ConnectionsMax
	}
	kafka.GatewayID, kafka.Role = federation.GatewayID(w.id), w.cfg.GatewayRole
	kafka.GroupMinSessionTimeout, kafka.GroupMaxSessionTimeout = w.cfg.Groups.SessionTimeoutMin, w.cfg.Groups.SessionTimeoutMax
	kafka.GroupSettings = w.cfg.Groups.Settings()
	kafka.AutoCreateTopics, kafka.DefaultPartitions = w.cfg.AutoCreateTopics, w.cfg.DefaultPartitions
	return kafka
}

// quotas makes what holds the clients of both doors to their quotas.
func (w *wiring) quotas(ctx context.Context, g *gatewayParts) (err error) {
	if g.limiter, err = quota.New(w.cfg.Quotas, g.maps, w.log, w.telemetry.meter()); err != nil {
		return err
	}
	g.gate, err = quota.NewGate(ctx, w.cfg.Connections, g.limiter, w.log, w.telemetry.meter())
	return err
}

// gatewayMetrics registers the numbers of a gateway.
func (w *wiring) gatewayMetrics(g *gatewayParts) error {
	gauges := append(slices.Concat(routerGauges(g.router), groupGauges(g.groups, g.store), g.memory.gauges(g.router.CachedBytes)),
		gauge{"braid.map.version", "{version}", "Version of the current map.", false, func() int64 { return int64(g.watch.Current().Version) }},
		gauge{"braid.map.topics", "{topic}", "Topics in the current map.", false, func() int64 { return int64(len(g.watch.Current().Topics)) }},
		gauge{"braid.map.gateways", "{gateway}", "Gateways in the current map.", false, func() int64 { return int64(len(g.watch.Current().Gateways)) }},
		gauge{"braid.clusters.refused", "{cluster}", "Physical clusters that are there and cannot be used: security profile, TLS or SASL.", false, func() int64 { return int64(g.pool.Refused()) }},
		gauge{"braid.map.tenants", "{tenant}", "Tenants in the current map.", false, func() int64 { return int64(len(g.watch.Current().Tenants)) }},
		gauge{"braid.tenants.active", "{tenant}", "Tenants that clients of this gateway have come for.", false, func() int64 { return int64(g.tenants.active()) }},
		gauge{"braid.lease.valid", "", "Whether this gateway may acknowledge appends.", false, func() int64 { return boolean(g.watch.Valid()) }},
		gauge{"braid.quota.counted", "{quota}", "Quotas of users, client ids and IP addresses that are counted.", false, g.tenants.counted},
		gauge{"braid.connect.streams", "{stream}", "Open streams of the Connect API.", false, func() int64 { return int64(g.door.Streams()) }},
		gauge{"braid.connect.calls", "{call}", "Open calls and streams of the Connect API.", false, func() int64 { open, _, _ := g.door.Calls(); return open }},
		gauge{"braid.connect.calls.limit", "{call}", "How many calls and streams may be open.", false, func() int64 { _, most, _ := g.door.Calls(); return most }},
		gauge{"braid.connect.calls.refused", "{call}", "Calls and streams that were refused because too many were open.", true, func() int64 { _, _, refused := g.door.Calls(); return refused }},
	)
	stop, err := w.telemetry.observe(w.id, gauges)
	if err != nil {
		return err
	}
	w.onEnd(stop)
	return nil
}

func boolean(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// gatewayChecks are the conditions under which clients should come here.
func (w *wiring) gatewayChecks(g *gatewayParts) []Check {
	id := federation.GatewayID(w.id)
	return []Check{
		{Name: "serving", Err: func(context.Context) error {
			select {
			case <-g.draining:
				return errors.New("draining")
			default:
				return nil
			}
		}},
		{Name: "map", Err: func(context.Context) error {
			switch m := g.watch.Current(); {
			case m.Version == 0:
				return errors.New("no map is loaded")
			case m.Gateway(id) == nil:
				return errors.New("no controller has taken this gateway in")
			case m.Gateway(id).State != federation.GatewayReady:
				return errors.New("this gateway is draining")
			default:
				return nil
			}
		}},
		{Name: "lease", Err: func(context.Context) error {
			if !g.watch.Valid() {
				return errors.New("no valid lease: appends are not acknowledged")
			}
			return nil
		}},
		// Without Redis appends and reads go on while the lease holds: to take all
		// gateways out of rotation then would be the outage that the lease prevents.
		{Name: "store", Err: g.store.Ping, Told: true},
	}
}

// drain takes a gateway out of service: the fleet and new clients are told
// first, then groups are handed over, then streams and connections end. What is
// left when ctx ends is cut.
func (w *wiring) drain(ctx context.Context, g *gatewayParts) error {
	g.drain.Do(func() { close(g.draining) })
	w.tellFleet(ctx, g)
	errs := []error{g.groups.Close(ctx), g.tenants.closeGroups(ctx)}
	var wg sync.WaitGroup
	var doorErr, kafkaErr error
	wg.Go(func() {
		if doorErr = errors.Join(g.door.Drain(ctx), g.tenants.drainStreams(ctx)); doorErr == nil {
			doorErr = g.requests.shutdown(ctx, g.http)
		}
	})
	if g.kafka != nil {
		wg.Go(func() { kafkaErr = g.kafka.Drain(ctx) })
	}
	wg.Wait()
	told, cancel := context.WithTimeout(ctx, w.cfg.DrainNotice)
	defer cancel()
	if g.watch.Drained(told, g.load().Connections) != nil || !w.awaitSelf(told, g, func(self *federation.Gateway) bool { return self == nil }) {
		w.log.Info("the controller could not be told that the drain is done; it finds out by itself")
	}
	return errors.Join(append(errs, doorErr, kafkaErr)...)
}

// awaitSelf waits until this gateway is in the map as ok wants it; false if ctx
// ends before.
func (w *wiring) awaitSelf(ctx context.Context, g *gatewayParts, ok func(self *federation.Gateway) bool) bool {
	for {
		changed := g.watch.Changed()
		if ok(g.watch.Current().Gateway(federation.GatewayID(w.id))) {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// tellFleet waits until the map says that this gateway drains, so that no client
// is sent here any more; without a controller, not for long.
func (w *wiring) tellFleet(ctx context.Context, g *gatewayParts) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.DrainNotice)
	defer cancel()
	g.watch.Drain()
	w.awaitSelf(ctx, g, func(self *federation.Gateway) bool { return self == nil || self.State == federation.GatewayDraining })
}
