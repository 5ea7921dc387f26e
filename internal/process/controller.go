package process

import (
	"context"
	"errors"
	"net/http"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/gateway"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/lifecycle"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/upstream"
)

// controllerServices are what a controller's port serves.
var controllerServices = []string{
	adminv1connect.TopicServiceName, adminv1connect.ClusterServiceName, adminv1connect.FleetServiceName, adminv1connect.OperationServiceName,
	adminv1connect.AclServiceName,
	adminv1connect.QuotaServiceName, adminv1connect.GroupConfigServiceName,
	adminv1connect.CredentialServiceName, adminv1connect.TenantServiceName,
}

// controller wires a controller: the store, the physical clusters, and the
// controller itself behind its port.
func (w *wiring) controller(context.Context) error {
	store, err := w.store()
	if err != nil {
		return err
	}
	pool := upstream.NewPool(w.cfg.Upstream)
	w.onEnd(pool.Close)
	transport := w.peerTransport()

	cfg := w.cfg.Controller
	cfg.LogicalCluster, cfg.ID, cfg.Upstream = w.cfg.LogicalCluster, w.id, w.cfg.Upstream
	address, err := advertised(w.cfg.ConnectAdvertise, w.connect)
	if err != nil {
		return err
	}
	cfg.Unguarded = w.access.token == nil
	cfg.URL, cfg.GatewayScheme = w.access.scheme()+"://"+address, w.access.scheme()
	metrics, err := controller.NewMetrics(w.telemetry.meter(), w.id)
	if err != nil {
		return err
	}
	w.onEnd(func() { _ = metrics.Close() })
	c, err := controller.New(cfg, controller.Parts{Store: store, Clusters: pool, Transport: transport, Metrics: metrics, Logger: w.log})
	if err != nil {
		return err
	}
	observe, err := w.telemetry.interceptor()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	audit, err := w.recorder()
	if err != nil {
		return err
	}
	c.Mount(mux, connect.WithInterceptors(observe, recording(audit)), connect.WithReadMaxBytes(readBytesMax))
	mountHealth(mux, controllerServices)
	// The port goes first: a leader that cannot be reached must not lead.
	guard := w.access.guard(mux, false, true)
	guard.audit = audit
	server, err := w.httpErrors(gateway.NewServer(guard, 0))
	if err != nil {
		return err
	}
	w.task(httpTask("connect api", w.connect, server))
	w.task(lifecycle.Task{Name: "controller", Run: func(ctx context.Context) error {
		if err := c.Run(ctx); err != nil || ctx.Err() == nil {
			return errors.Join(err, errors.New("the controller ended"))
		}
		return nil
	}})
	w.setChecks([]Check{storeCheck(store), {Name: "leader", Err: func(ctx context.Context) error {
		if _, ok, err := store.Leader(ctx, w.cfg.LogicalCluster); err != nil || !ok {
			return errors.Join(err, errors.New("no controller leads yet"))
		}
		return nil
	}}})
	return nil
}

// readBytesMax bounds one message of the admin and the control services.
const readBytesMax = 16 << 20

// store opens Redis; it does not connect yet.
func (w *wiring) store() (*redisstore.Store, error) {
	store, err := openRedis(w.cfg.Redis, w.cfg.RedisFiles, w.log)
	if err != nil {
		return nil, err
	}
	w.onEnd(func() { _ = store.Close() })
	return store, nil
}

func storeCheck(store *redisstore.Store) Check {
	return Check{Name: "store", Err: store.Ping}
}

// mountHealth adds health and reflection for services.
func mountHealth(mux *http.ServeMux, services []string) {
	mux.Handle(grpchealth.NewHandler(grpchealth.NewStaticChecker(services...)))
	reflector := grpcreflect.NewStaticReflector(append(services, grpchealth.HealthV1ServiceName)...)
	mux.Handle(grpcreflect.NewHandlerV1(reflector))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector))
}
