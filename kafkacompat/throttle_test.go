package kafkacompat

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/quota"
)

type oneMap struct{ m *federation.Map }

func (o oneMap) Current() *federation.Map { return o.m }
func (oneMap) Changed() <-chan struct{}   { return nil }

// A fetch that brings no records because of a quota always says that it is so, also if
// there is next to nothing left to wait for; and it is seen in the metric.
func TestAThrottledFetchTellsATime(t *testing.T) {
	e := federation.QuotaEntity{User: federation.NamedQuota("")}
	m := (&federation.Map{Version: 1, Quotas: federation.Quotas{e: {Entity: e, Values: map[federation.QuotaKey]float64{federation.QuotaConsumerByteRate: 1e6}}}}).Seal()
	reader := sdkmetric.NewManualReader()
	l, err := quota.New(quota.Config{Window: 100 * time.Millisecond}, oneMap{m}, nil, sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test"))
	require.NoError(t, err)
	limits := l.Client(nil, "u", "c")
	require.Zero(t, limits.Take(t.Context(), quota.Consume, 99_900))
	throttled, fetches := int64(0), 0
	for range 100_000 {
		if limits.Owes(quota.Consume) < 500*time.Nanosecond {
			if limits.Take(t.Context(), quota.Consume, 2) > 0 { // microseconds
				throttled++
			}
		}
		req := &request{version: 11, key: 1, limits: limits}
		resp, ok := (&conn{}).throttledFetch(t.Context(), req, &fetchSession{}, true)
		if !ok {
			continue
		}
		throttled++
		fetches++
		require.Positive(t, binary.BigEndian.Uint32(resp.vecs[0][8:]))
	}
	require.Positive(t, fetches)
	var got metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &got))
	for _, metric := range got.ScopeMetrics[0].Metrics {
		if metric.Name == "braid.quota.throttled" {
			require.Equal(t, throttled, metric.Data.(metricdata.Sum[int64]).DataPoints[0].Value)
			return
		}
	}
	t.Fatal("no metric")
}
