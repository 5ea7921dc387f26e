package gateway

import (
	"context"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/otelconnect"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// NewObserver makes an interceptor that traces and measures calls and streams, for
// servers and for clients. Calls are left to otelconnect. Streams are not: it keeps
// state for each stream that both a Receive and the end of the handler write, while
// here a receiver may outlive its handler, as net/http ends a Receive only then. A
// stream is one span and one entry of rpc.server.stream.duration.
func NewObserver(tracers trace.TracerProvider, meters metric.MeterProvider) (connect.Interceptor, error) {
	propagator := propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	calls, err := otelconnect.NewInterceptor(
		otelconnect.WithTracerProvider(tracers), otelconnect.WithMeterProvider(meters),
		otelconnect.WithPropagator(propagator), otelconnect.WithTrustRemote())
	if err != nil {
		return nil, fmt.Errorf("telemetry of calls: %w", err)
	}
	duration, err := meters.Meter("github.com/braidmq/braid").Float64Histogram("rpc.server.stream.duration", metric.WithUnit("s"),
		metric.WithDescription("Time from the beginning to the end of a stream."),
		metric.WithExplicitBucketBoundaries(0.01, 0.1, 1, 10, 60, 600, 3600))
	if err != nil {
		return nil, fmt.Errorf("telemetry of streams: %w", err)
	}
	return &observer{Interceptor: calls, tracer: tracers.Tracer("github.com/braidmq/braid"), propagator: propagator, duration: duration}, nil
}

type observer struct {
	connect.Interceptor // of calls
	tracer              trace.Tracer
	propagator          propagation.TextMapPropagator
	duration            metric.Float64Histogram
}

// WrapStreamingHandler implements connect.Interceptor.
func (o *observer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		name := strings.TrimPrefix(conn.Spec().Procedure, "/")
		method := attribute.String("rpc.method", name)
		ctx = o.propagator.Extract(ctx, propagation.HeaderCarrier(conn.RequestHeader()))
		ctx, span := o.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer),
			trace.WithAttributes(attribute.String("rpc.system.name", "connectrpc"), method))
		defer span.End()
		begin := time.Now()
		err := next(ctx, conn)
		status := "OK"
		if err != nil {
			status = strings.ToUpper(connect.CodeOf(err).String())
			span.SetStatus(codes.Error, status)
		}
		o.duration.Record(ctx, time.Since(begin).Seconds(), metric.WithAttributes(method, attribute.String("rpc.response.status_code", status)))
		return err
	}
}

// WrapStreamingClient implements connect.Interceptor: the trace goes on at the server.
func (o *observer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		o.propagator.Inject(ctx, propagation.HeaderCarrier(conn.RequestHeader()))
		return conn
	}
}
