package gateway

import (
	"context"
	"math"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	connectcors "connectrpc.com/cors"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"github.com/rs/cors"
	"go.opentelemetry.io/otel"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/gen/braid/naming/v1/namingv1connect"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/rpcerror"
)

const (
	streamsMax, streamsLeast = 10_000, 100
	// streamsShare is the part of all calls of a gateway that one connection may have open.
	streamsShare                         = 4
	receiveBufferMax, receiveBufferLeast = 4<<20 - 1, 1<<20 - 1
	receiveBufferShare                   = 64 // of the limit, for a connection
	receiveStreams                       = 8  // streams that are not read and stop the others
	// frameSizeMax is what a frame of HTTP/2 may bring. Each connection keeps a buffer for one,
	// and Go's clients, of which each gateway is one of the others, keep half a MiB of what
	// they may send for each stream whose request is open. 16 KiB, which is the least, take
	// 15 % more CPU for large messages, 1 MiB hardly less than 64 KiB.
	frameSizeMax = 64 << 10
)

// NewServer makes the HTTP server of the Connect API: HTTP/1.1, and HTTP/2
// without TLS by prior knowledge, on one port. The limits of a stream are a small
// part of the connection's, as HTTP/2 gives a connection's window back only as
// handlers read: one stream that is not read must not stop the others.
//
// What one connection can have the server hold is bounded by the process's memory limit,
// in bytes; 0 = no limit: streams, which a client can open and reset again as fast as it
// writes, and what has come of messages that nobody reads.
func NewServer(handler http.Handler, memoryLimit int64) *http.Server {
	streams, received := streamsMax, receiveBufferMax
	if memoryLimit > 0 {
		streams = min(streams, max(streamsLeast, memory.LimitsOf(memoryLimit).Calls/streamsShare))
		received = int(min(int64(received), max(receiveBufferLeast, memoryLimit/receiveBufferShare)))
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           handler,
		Protocols:         &protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          streams,
			MaxReceiveBufferPerConnection: received,
			MaxReceiveBufferPerStream:     received/receiveStreams + 1,
			MaxReadFrameSize:              frameSizeMax,
			SendPingTimeout:               30 * time.Second,
			PingTimeout:                   10 * time.Second,
			WriteByteTimeout:              30 * time.Second,
		},
	}
}

// Handler returns the whole API as one handler, with CORS and output coalescing
// as configured.
func (g *Gateway) Handler() http.Handler {
	mux := http.NewServeMux()
	g.Mount(mux)
	return g.Wrap(mux)
}

// Wrap puts what the API needs around a mux that it was mounted on.
func (g *Gateway) Wrap(h http.Handler) http.Handler {
	h = g.calls.wrap(g.intakes.wrap(g.cutStalled(g.holdPages(g.coalesce(h)))))
	if len(g.cfg.CORSOrigins) > 0 {
		h = cors.New(cors.Options{
			AllowedOrigins: g.cfg.CORSOrigins,
			AllowedMethods: connectcors.AllowedMethods(),
			AllowedHeaders: append(connectcors.AllowedHeaders(), "Authorization"),
			ExposedHeaders: connectcors.ExposedHeaders(),
			MaxAge:         int((2 * time.Hour).Seconds()),
		}).Handler(h)
	}
	return h
}

// Mount adds all services to a mux.
func (g *Gateway) Mount(mux *http.ServeMux) {
	frames := connect.WithCodec(protoCodec{recordsMax: g.cfg.FrameRecordsMax, headersMax: g.cfg.RecordHeadersMax})
	lazily(mux, braidv1connect.ProducerServiceName, func() (string, http.Handler) {
		return braidv1connect.NewProducerServiceHandler(&producerService{g}, append(slices.Clone(g.options), frames)...)
	})
	lazily(mux, braidv1connect.ConsumerServiceName, func() (string, http.Handler) {
		return braidv1connect.NewConsumerServiceHandler(&consumerService{g}, g.options...)
	})
	g.mountAdmin(mux)
	mux.Handle(grpchealth.NewHandler(g.health))
	reflector := grpcreflect.NewStaticReflector(append(g.services, grpchealth.HealthV1ServiceName)...)
	mux.Handle(grpcreflect.NewHandlerV1(reflector))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector))
}

// lazily mounts a service whose handlers are made when the first call for it comes: they
// take some 20 KB for each service, and a gateway has them for each tenant.
func lazily(mux *http.ServeMux, service string, handlers func() (string, http.Handler)) {
	made := sync.OnceValue(func() http.Handler {
		_, h := handlers()
		return h
	})
	mux.Handle("/"+service+"/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { made().ServeHTTP(w, r) }))
}

// serviceNames lists the services that Mount adds, but for reflection and health.
func (g *Gateway) serviceNames() []string {
	names := []string{braidv1connect.ProducerServiceName, braidv1connect.ConsumerServiceName}
	for _, s := range []struct {
		name   string
		served bool
	}{
		{adminv1connect.GroupServiceName, g.deps.Groups != nil},
		{adminv1connect.TopicServiceName, g.deps.Topics != nil},
		{adminv1connect.ClusterServiceName, g.deps.Clusters != nil},
		{adminv1connect.FleetServiceName, g.deps.Fleet != nil},
		{adminv1connect.OperationServiceName, g.deps.Operations != nil},
		{adminv1connect.AclServiceName, g.deps.Acls != nil},
		{adminv1connect.QuotaServiceName, g.deps.Quotas != nil},
		{adminv1connect.GroupConfigServiceName, g.deps.GroupConfigs != nil},
		{adminv1connect.TenantServiceName, g.deps.Tenants != nil},
		{adminv1connect.CredentialServiceName, g.deps.Credentials != nil},
		{namingv1connect.NameServiceName, g.deps.Naming != nil},
	} {
		if s.served {
			names = append(names, s.name)
		}
	}
	return names
}

// handlerOptions are the options of all services: messages bounded, gzip taken
// but not sent (it costs more than it saves on record batches, which bring their own
// compression), calls traced and counted, panics turned into errors.
func (g *Gateway) handlerOptions() ([]connect.HandlerOption, error) {
	tracers, meters := g.deps.TracerProvider, g.deps.MeterProvider
	if tracers == nil {
		tracers = otel.GetTracerProvider()
	}
	if meters == nil {
		meters = otel.GetMeterProvider()
	}
	observe, err := NewObserver(tracers, meters)
	if err != nil {
		return nil, err
	}
	return []connect.HandlerOption{
		connect.WithReadMaxBytes(g.cfg.MessageBytesMax),
		g.expands.option(),
		connect.WithCompressMinBytes(math.MaxInt),
		connect.WithInterceptors(slices.Concat([]connect.Interceptor{observe}, g.deps.Interceptors, []connect.Interceptor{rpcerror.Subjects(), connect.UnaryInterceptorFunc(g.intakes.countExpanded), connect.UnaryInterceptorFunc(g.throttleCalls)})...),
		connect.WithRecover(g.recovered),
	}, nil
}

// recovered turns a panic of a handler into an error, and logs it.
func (g *Gateway) recovered(ctx context.Context, spec connect.Spec, _ http.Header, value any) error {
	g.log.ErrorContext(ctx, "handler panicked", "procedure", spec.Procedure, "panic", value, "stack", string(debug.Stack()))
	return rpcerror.Error(federation.Errorf(federation.Internal, "%s", internalMessage))
}
