package kafkacompat_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/kafkacompat"
)

func TestMetricsCountWhatHappens(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	metrics, err := kafkacompat.NewMetrics(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test"))
	require.NoError(t, err)
	w := newWorldMeasured(t, metrics)
	w.create("orders", 1, nil)
	c := w.dial()
	for range 3 {
		exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, "x")), 9)
	}
	exchange[*kmsg.ProduceResponse](c, produceRequest(w, "never", -1, batch(recordbatch.NoProducer, "x")), 9)
	c.send(kmsg.NewPtrEndTxnRequest(), 3)
	c.closed("not served")

	var got metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &got))
	sums := make(map[string]int64)
	for _, sm := range got.ScopeMetrics {
		for _, m := range sm.Metrics {
			if data, ok := m.Data.(metricdata.Sum[int64]); ok {
				for _, p := range data.DataPoints {
					e, _ := p.Attributes.Value(attribute.Key("error"))
					a, _ := p.Attributes.Value(attribute.Key("api"))
					sums[m.Name+"/"+a.AsString()+"/"+e.AsString()] += p.Value
				}
			}
		}
	}
	require.EqualValues(t, 3, sums["braid.kafka.requests/Produce/NONE"], sprint(sums))
	require.EqualValues(t, 1, sums["braid.kafka.requests/Produce/UNKNOWN_TOPIC_OR_PARTITION"])
	require.EqualValues(t, 1, sums["braid.kafka.requests.malformed//"])
	require.Positive(t, sums["braid.kafka.bytes.in//"])
	require.Positive(t, sums["braid.kafka.bytes.out//"])
}
