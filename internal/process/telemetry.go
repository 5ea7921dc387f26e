package process

import (
	"context"
	"errors"
	"fmt"
	"os"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/attribute"
	promexporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/braidmq/braid/gateway"
)

// Telemetry is where the parts of one operating system process report metrics
// and traces. Metrics are always there for Prometheus; both go out by OTLP when
// the standard OTEL_… environment variables ask for it. It is safe for
// concurrent use.
type Telemetry struct {
	registry *prometheus.Registry
	meters   *sdkmetric.MeterProvider
	tracers  trace.TracerProvider
	shutdown []func(context.Context) error
}

// Each of these variables turns the export of a signal on.
var (
	metricsExportVars = []string{"OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"}
	tracesExportVars  = []string{"OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"}
)

// NewTelemetry makes a Telemetry; the caller closes it with Shutdown.
func NewTelemetry(ctx context.Context, build string) (*Telemetry, error) {
	res, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "braid"), attribute.String("service.version", build)),
		resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	t := &Telemetry{registry: prometheus.NewRegistry(), tracers: tracenoop.NewTracerProvider()}
	t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	prom, err := promexporter.New(promexporter.WithRegisterer(t.registry), promexporter.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("telemetry: prometheus: %w", err)
	}
	opts := []sdkmetric.Option{sdkmetric.WithResource(res), sdkmetric.WithReader(prom)}
	if anySet(metricsExportVars) {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return nil, fmt.Errorf("telemetry: metrics (OTEL_METRICS_EXPORTER): %w", err)
		}
		opts = append(opts, sdkmetric.WithReader(reader))
	}
	t.meters = sdkmetric.NewMeterProvider(opts...)
	t.shutdown = append(t.shutdown, t.meters.Shutdown)
	if anySet(tracesExportVars) {
		exporter, err := autoexport.NewSpanExporter(ctx)
		if err != nil {
			return nil, fmt.Errorf("telemetry: traces (OTEL_TRACES_EXPORTER): %w", err)
		}
		tracers := sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithBatcher(exporter))
		t.tracers = tracers
		t.shutdown = append(t.shutdown, tracers.Shutdown)
	}
	return t, nil
}

func anySet(names []string) bool {
	for _, n := range names {
		if os.Getenv(n) != "" {
			return true
		}
	}
	return false
}

// Shutdown sends what is left and stops the exports.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	errs := make([]error, 0, len(t.shutdown))
	for _, f := range t.shutdown {
		errs = append(errs, f(ctx))
	}
	return errors.Join(errs...)
}

func (t *Telemetry) meter() metric.Meter { return t.meters.Meter("github.com/braidmq/braid") }

// interceptor measures and traces Connect calls, of servers and of clients.
func (t *Telemetry) interceptor() (connect.Interceptor, error) {
	return gateway.NewObserver(t.tracers, t.meters)
}
