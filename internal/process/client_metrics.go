package process

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/braidmq/braid/kafkacompat"
)

// clientMetrics shows the metrics that Kafka clients push, one number for each client id and
// metric. Clients with the same id are told apart by no label: the largest number counts.
func (w *wiring) clientMetrics(server *kafkacompat.Server) error {
	meter := w.telemetry.meter()
	values, err := meter.Float64ObservableGauge("braid.kafka.client.value",
		metric.WithDescription("What a Kafka client said of itself last, by client id and metric."))
	if err != nil {
		return fmt.Errorf("metric of clients: %w", err)
	}
	type series struct{ tenant, client, metric string }
	registration, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		largest := make(map[series]float64)
		server.ClientMetrics(func(tenant, client, name string, value float64) {
			s := series{tenant, client, name}
			if v, ok := largest[s]; !ok || value > v {
				largest[s] = value
			}
		})
		for s, v := range largest {
			labels := []attribute.KeyValue{attribute.String("braid.id", w.id), attribute.String("client", s.client), attribute.String("metric", s.metric)}
			if s.tenant != "" {
				labels = append(labels, attribute.String("tenant", s.tenant))
			}
			o.ObserveFloat64(values, v, metric.WithAttributes(labels...))
		}
		return nil
	}, values)
	if err != nil {
		return fmt.Errorf("metric of clients: %w", err)
	}
	w.onEnd(func() { _ = registration.Unregister() })
	return nil
}
