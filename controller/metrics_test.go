package controller_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
)

// collected returns what a reader has, by "name id state"; of histograms the count.
func collected(t *testing.T, reader sdkmetric.Reader) map[string]int64 {
	t.Helper()
	var got metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &got))
	out := make(map[string]int64)
	for _, sm := range got.ScopeMetrics {
		for _, m := range sm.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					id, _ := p.Attributes.Value("braid.id")
					state, _ := p.Attributes.Value("state")
					out[strings.TrimSpace(m.Name+" "+id.AsString()+" "+state.AsString())] = p.Value
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					id, _ := p.Attributes.Value("braid.id")
					out[m.Name+" "+id.AsString()] = int64(p.Count)
				}
			}
		}
	}
	return out
}

func TestMetricsSayHowTheFleetIs(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	w := newWorld(t, "a", "b")
	w.meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test")
	long := func(c *controller.Config) { c.TakeoverGrace, c.GatewayGrace = patience, patience }
	c1 := w.controller(t, "c1", long)
	c1.leads(t)
	w.controller(t, "c2", long)
	a := adminOf(t, c1.url)
	w.addClusters(t, a)
	g := w.gateway(t, "g1", []string{c1.url})
	g.awaitRegistered(t)
	gone := w.gateway(t, "g2", []string{c1.url})
	gone.awaitRegistered(t)
	g.eventually(t, "both gateways", func(m *federation.Map) bool { return len(m.Gateways) == 2 })
	_, err := a.create(t.Context(), "orders", 2)
	require.NoError(t, err)
	before := collected(t, reader)
	require.GreaterOrEqual(t, before["braid.controller.map.apply.duration c1"], int64(2), "each of the gateways has applied the topic")

	// A gateway and a cluster go, and an operation fails.
	gone.stop()
	<-gone.ended
	w.kafka["b"].Close()
	want := map[string]int64{
		"braid.controller.leader c1":               1,
		"braid.controller.leader c2":               0,
		"braid.controller.epoch c1":                1,
		"braid.controller.epoch c2":                1,
		"braid.controller.gateways c1 ready":       1,
		"braid.controller.gateways c1 draining":    0,
		"braid.controller.gateways c1 lost":        0,
		"braid.controller.gateways c1 absent":      1,
		"braid.controller.clusters c1 up":          1,
		"braid.controller.clusters c1 down":        1,
		"braid.controller.clusters c1 unknown":     0,
		"braid.controller.operations c1 running":   0,
		"braid.controller.operations c1 done":      1,
		"braid.controller.operations c1 failed":    0,
		"braid.controller.operations c1 cancelled": 0,
		"braid.controller.alarms c1":               1,
		"braid.controller.foreign.partitions c1":   0,
		"braid.controller.failed.clusters c1":      0,
		"braid.controller.suspended.extents c1":    0,
	}
	require.Eventually(t, func() bool {
		got := collected(t, reader)
		if got["braid.map.version c1"] != int64(g.Current().Version) {
			return false
		}
		for k, v := range want {
			if n, ok := got[k]; !ok || n != v {
				return false
			}
		}
		return true
	}, patience, 10*time.Millisecond, "want %v", want)
	for k := range collected(t, reader) {
		if strings.Contains(k, " c2") {
			require.Contains(t, want, k, "a standby knows no more")
		}
	}
}
