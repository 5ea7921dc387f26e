package kafkacompat

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/logging"
)

// clientTelemetry keeps the newest metrics that clients have pushed, of a bounded number of
// clients and metrics. A client that has not pushed for three intervals is forgotten.
type clientTelemetry struct {
	cfg   *Config
	turns chan struct{} // bounds the pushes that are unpacked at a time

	mu      sync.Mutex // guards the following
	clients map[[16]byte]*pushingClient
	series  int // metrics of all clients
	swept   time.Time
}

type pushingClient struct {
	tenant  string // whose it is; empty = the deployment's own
	id      string // the client id of its last push, as labels can have it
	pushed  time.Time
	seen    time.Time
	ended   bool
	metrics map[string]float64
}

func newClientTelemetry(cfg *Config) *clientTelemetry {
	return &clientTelemetry{cfg: cfg, turns: make(chan struct{}, unpackedMax), clients: make(map[[16]byte]*pushingClient)}
}

// unpackedMax bounds the pushes that are unpacked at a time, TelemetryUnpackedBytesMax each.
const unpackedMax = 4

// telemetryIntervalsMax is after how many intervals without a push a client is forgotten.
const telemetryIntervalsMax = 3

// takes reports whether a client's metrics are taken, and keeps room for it.
func (t *clientTelemetry) takes(instance [16]byte, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.client(instance, now) != nil
}

// client returns a client; nil if there are too many. The caller holds mu.
func (t *clientTelemetry) client(instance [16]byte, now time.Time) *pushingClient {
	if c := t.clients[instance]; c != nil {
		c.seen = now
		return c
	}
	if len(t.clients) >= t.cfg.TelemetryClientsMax && now.Sub(t.swept) >= t.cfg.TelemetryInterval {
		t.sweep(now)
	}
	if len(t.clients) >= t.cfg.TelemetryClientsMax {
		return nil
	}
	c := &pushingClient{seen: now}
	t.clients[instance] = c
	return c
}

// sweep forgets who has gone. The caller holds mu.
func (t *clientTelemetry) sweep(now time.Time) {
	t.swept = now
	for instance, c := range t.clients {
		if now.Sub(c.seen) > telemetryIntervalsMax*t.cfg.TelemetryInterval {
			t.series -= len(c.metrics)
			delete(t.clients, instance)
		}
	}
}

// admit decides whether a push is taken. Its metrics are read only then.
func (t *clientTelemetry) admit(kreq *kmsg.PushTelemetryRequest, now time.Time) *kerr.Error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.client(kreq.ClientInstanceID, now)
	switch {
	case c == nil:
		return kerr.ThrottlingQuotaExceeded
	case c.ended:
		return kerr.InvalidRequest
	case !c.pushed.IsZero() && !kreq.Terminating && now.Sub(c.pushed) < t.cfg.TelemetryInterval/2:
		return kerr.ThrottlingQuotaExceeded // with a margin for clients whose clocks differ
	}
	c.pushed, c.ended = now, kreq.Terminating
	return nil
}

func (t *clientTelemetry) push(ctx context.Context, kreq *kmsg.PushTelemetryRequest, tenant, clientID string, now time.Time) *kerr.Error {
	if refused := refusedPush(t.cfg, kreq); refused != nil {
		return refused
	}
	if refused := t.admit(kreq, now); refused != nil {
		return refused
	}
	metrics, err := t.read(ctx, kreq)
	if err != nil {
		return kerr.InvalidRecord
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.clients[kreq.ClientInstanceID]
	if c == nil {
		return nil // forgotten meanwhile
	}
	if kreq.Terminating { // that it has ended is remembered, its numbers are not
		metrics = nil
	}
	series := t.series + len(metrics) - len(c.metrics)
	if series > t.cfg.TelemetrySeriesMax && len(metrics) > len(c.metrics) {
		return kerr.ThrottlingQuotaExceeded
	}
	t.series, c.tenant, c.id, c.metrics = series, tenant, label(clientID), metrics
	return nil
}

// read unpacks the metrics of a push.
func (t *clientTelemetry) read(ctx context.Context, kreq *kmsg.PushTelemetryRequest) (map[string]float64, error) {
	select {
	case t.turns <- struct{}{}:
		defer func() { <-t.turns }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	plain, err := unpack(kreq, t.cfg.TelemetryUnpackedBytesMax)
	if err != nil {
		return nil, err
	}
	metrics := make(map[string]float64)
	err = readOTLP(plain, func(name string, value float64) {
		name = label(name)
		if _, have := metrics[name]; have || len(metrics) < clientMetricsMax {
			metrics[name] = value
		}
	})
	return metrics, err
}

// labelBytesMax bounds the labels that clients choose, together: there may be many series.
const labelBytesMax = 256

// label makes a label of what a client has chosen: metrics with one that is no text cannot
// be read at all.
func label(text string) string {
	return strings.ToValidUTF8(logging.Cut(text, labelBytesMax), "\uFFFD")
}

// clientMetricsMax bounds the metrics of one client; SDKs have some tens.
const clientMetricsMax = 500

var errUnpacked = errors.New("the metrics are too large when unpacked")

func unpack(kreq *kmsg.PushTelemetryRequest, limit int) ([]byte, error) {
	if kreq.CompressionType == compressionNone {
		return kreq.Metrics, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(kreq.Metrics))
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(z, int64(limit)+1))
	if err == nil && len(b) > limit {
		err = errUnpacked
	}
	return b, err
}

// ClientMetrics calls f with the newest value of each metric that clients have pushed.
func (s *Server) ClientMetrics(f func(tenant, clientID, metric string, value float64)) {
	t := s.telemetry
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep(time.Now())
	for _, c := range t.clients {
		for name, value := range c.metrics {
			f(c.tenant, c.id, name, value)
		}
	}
}
