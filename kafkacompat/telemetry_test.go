package kafkacompat_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/braidmq/braid/kafkacompat"
)

func field(n protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), value)
}

// otlp is what a client pushes: metrics of a name, a kind (5 gauge, 7 sum) and points.
func otlp(name string, kind protowire.Number, points ...float64) []byte {
	var data []byte
	for _, v := range points {
		p := protowire.AppendFixed64(protowire.AppendTag(nil, 4, protowire.Fixed64Type), math.Float64bits(v))
		data = append(data, field(1, p)...)
	}
	m := append(field(1, []byte(name)), field(kind, data)...)
	return field(1, field(2, field(2, m)))
}

func gzipped(t *testing.T, b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write(b)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return out.Bytes()
}

func push(instance [16]byte, metrics []byte) *kmsg.PushTelemetryRequest {
	req := kmsg.NewPtrPushTelemetryRequest()
	req.ClientInstanceID, req.SubscriptionID, req.Metrics = instance, 1, metrics
	return req
}

func (w *world) clientMetrics() map[string]float64 {
	got := make(map[string]float64)
	w.servers[0].ClientMetrics(func(tenant, client, metric string, value float64) { got[tenant+client+" "+metric] = value })
	return got
}

func TestTelemetryIsOffByDefault(t *testing.T) {
	w := newWorld(t)
	for _, k := range exchange[*kmsg.ApiVersionsResponse](w.dial(), kmsg.NewPtrApiVersionsRequest(), 0).ApiKeys {
		require.NotContains(t, []int16{71, 72}, k.ApiKey)
	}
	c := w.dial()
	c.send(kmsg.NewPtrGetTelemetrySubscriptionsRequest(), 0)
	c.closed("as at a broker without a receiver")
}

func TestTelemetry(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) {
		c.ClientTelemetry, c.TelemetryInterval, c.TelemetryBytesMax, c.TelemetryUnpackedBytesMax = true, time.Hour, 1000, 10_000
		c.TelemetryClientsMax, c.TelemetrySeriesMax = 7, 3
	})
	c := w.dial()
	subscribe := func(instance [16]byte) *kmsg.GetTelemetrySubscriptionsResponse {
		req := kmsg.NewPtrGetTelemetrySubscriptionsRequest()
		req.ClientInstanceID = instance
		return exchange[*kmsg.GetTelemetrySubscriptionsResponse](c, req, 0)
	}
	pushed := func(req *kmsg.PushTelemetryRequest) int16 {
		return exchange[*kmsg.PushTelemetryResponse](c, req, 0).ErrorCode
	}
	sub := subscribe([16]byte{})
	require.Zero(t, sub.ErrorCode)
	require.NotEqual(t, [16]byte{}, sub.ClientInstanceID)
	require.EqualValues(t, 1, sub.SubscriptionID)
	require.EqualValues(t, time.Hour.Milliseconds(), sub.PushIntervalMillis)
	require.EqualValues(t, 1000, sub.TelemetryMaxBytes)
	require.Equal(t, []string{"org.apache.kafka."}, sub.RequestedMetrics)
	require.Equal(t, sub.ClientInstanceID, subscribe(sub.ClientInstanceID).ClientInstanceID)

	first := push(sub.ClientInstanceID, gzipped(t, append(otlp("org.a", 7, 2, 3), otlp("org.b", 5, 2, 7, 3)...)))
	first.CompressionType = 1
	require.Zero(t, pushed(first))
	require.Equal(t, map[string]float64{"raw org.a": 5, "raw org.b": 7}, w.clientMetrics(), "sums add up, of gauges the largest counts")
	require.Equal(t, kerr.ThrottlingQuotaExceeded.Code, pushed(first), "too soon")

	other := func(n byte) [16]byte { return [16]byte{n} }
	wrong := push(other(1), nil)
	wrong.SubscriptionID = 9
	require.Equal(t, kerr.UnknownSubscriptionID.Code, pushed(wrong))
	zstd := push(other(1), nil)
	zstd.CompressionType = 4
	require.Equal(t, kerr.UnsupportedCompressionType.Code, pushed(zstd))
	require.Equal(t, kerr.InvalidRequest.Code, pushed(push([16]byte{}, nil)))
	require.Equal(t, kerr.TelemetryTooLarge.Code, pushed(push(other(1), make([]byte, 1001))))
	bomb := push(other(2), gzipped(t, make([]byte, 20_000)))
	bomb.CompressionType = 1
	require.Less(t, len(bomb.Metrics), 1000)
	require.Equal(t, kerr.InvalidRecord.Code, pushed(bomb), "it would be too large")
	require.Equal(t, kerr.InvalidRecord.Code, pushed(push(other(3), []byte("no protobuf"))))

	require.Zero(t, pushed(push(other(4), append(otlp("org.c", 5, 1), otlp("bad{name}", 5, 1)...))))
	require.Len(t, w.clientMetrics(), 3)
	require.Equal(t, kerr.ThrottlingQuotaExceeded.Code, pushed(push(other(5), otlp("org.d", 5, 1))), "too many metrics")

	last := push(sub.ClientInstanceID, nil)
	last.Terminating = true
	require.Zero(t, pushed(last), "the last push may come at any time")
	require.Equal(t, kerr.InvalidRequest.Code, pushed(last), "but once")
	require.Equal(t, map[string]float64{"raw org.c": 1}, w.clientMetrics())

	for n := byte(10); n < 14; n++ { // two of the seven are free
		_ = subscribe(other(n))
	}
	require.Empty(t, subscribe(other(14)).RequestedMetrics, "there are too many clients")
	require.Equal(t, kerr.ThrottlingQuotaExceeded.Code, pushed(push(other(14), nil)))
}

// FuzzTelemetry: whatever is pushed, the gateway answers, and keeps its bounds.
func FuzzTelemetry(f *testing.F) {
	f.Add(otlp("org.a", 7, 1, 2))
	f.Add(append(otlp("org.a", 5, 1), otlp("org.b", 7)...))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, metrics []byte) {
		seen := make(map[string]bool)
		err := kafkacompat.ReadOTLP(metrics, func(name string, value float64) {
			require.NotEmpty(t, name)
			require.False(t, math.IsNaN(value) || math.IsInf(value, 0), fmt.Sprint(value))
			seen[name] = true
		})
		require.LessOrEqual(t, len(seen), len(metrics)/2)
		if err != nil {
			require.ErrorContains(t, err, "OTLP")
		}
	})
}

// A client id that is no text, or a very long one, makes a label that can be read; and one
// that looks like a tenant's is not taken for it.
func TestTelemetryOfAnyClientID(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) { c.ClientTelemetry = true })
	for i, id := range []string{"\xff\xfe", strings.Repeat("ü", 10_000), "acme/app"} {
		c := w.dial()
		req := push([16]byte{byte(i + 1)}, otlp("org.a", 5, 1))
		req.SetVersion(0)
		_, err := c.c.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID(id)).AppendRequest(nil, req, 1))
		require.NoError(t, err)
		require.Zero(t, c.receive(req, 1).(*kmsg.PushTelemetryResponse).ErrorCode)
	}
	var clients []string
	w.servers[0].ClientMetrics(func(tenant, client, _ string, _ float64) {
		require.Empty(t, tenant)
		require.True(t, utf8.ValidString(client))
		require.Less(t, len(client), 300)
		clients = append(clients, client)
	})
	require.Len(t, clients, 3)
	require.Contains(t, clients, "acme/app")
	require.Contains(t, clients, "\uFFFD\uFFFD", "as the JVM reads it")
}
