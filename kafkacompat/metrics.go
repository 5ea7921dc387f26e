package kafkacompat

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/braidmq/braid/internal/security"
)

// Metrics are the measurements of a Server. A nil *Metrics measures nothing.
type Metrics struct {
	duration     metric.Float64Histogram
	in, out      atomic.Int64 // what is counted often is asked for only when somebody looks
	conns        metric.Int64UpDownCounter
	connsRefused metric.Int64Counter
	badRequests  metric.Int64Counter
	auths        metric.Int64Counter

	sessions         metric.Int64UpDownCounter
	sessionsDeclined metric.Int64Counter
	zoned            metric.Int64Counter

	// options has the attributes of each kind of answer, ready made: there are as many
	// as APIs, versions and error codes that occur together.
	options sync.Map // of answer to answerOptions
}

// An answer is what requests are counted by.
type answer struct {
	api           string
	version, code int16
}

type answerOptions struct {
	count    atomic.Int64
	observed []metric.ObserveOption
	duration []metric.RecordOption
}

// NewMetrics makes the instruments:
//
//	braid.kafka.requests            api, version, error
//	braid.kafka.request.duration    api
//	braid.kafka.bytes.in, .out
//	braid.kafka.connections, .refused
//	braid.kafka.requests.malformed
//	braid.kafka.authentications     mechanism, outcome
//	braid.kafka.fetch.sessions, .declined
//	braid.kafka.fetch.sent.to.zone
func NewMetrics(meter metric.Meter) (*Metrics, error) {
	var m Metrics
	var errs [11]error
	_, errs[0] = meter.Int64ObservableCounter("braid.kafka.requests",
		metric.WithDescription("Requests of Kafka clients that were answered."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			m.options.Range(func(_, v any) bool {
				options := v.(*answerOptions)
				o.Observe(options.count.Load(), options.observed...)
				return true
			})
			return nil
		}))
	m.duration, errs[1] = meter.Float64Histogram("braid.kafka.request.duration", metric.WithUnit("s"),
		// The SDK's own boundaries are meant for milliseconds.
		metric.WithExplicitBucketBoundaries(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
		metric.WithDescription("Time from a request's last byte to its answer, waits included."))
	sum := func(n *atomic.Int64) metric.Int64Callback {
		return func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(n.Load())
			return nil
		}
	}
	_, errs[2] = meter.Int64ObservableCounter("braid.kafka.bytes.in", metric.WithUnit("By"),
		metric.WithDescription("Bytes of requests."), metric.WithInt64Callback(sum(&m.in)))
	_, errs[3] = meter.Int64ObservableCounter("braid.kafka.bytes.out", metric.WithUnit("By"),
		metric.WithDescription("Bytes of responses."), metric.WithInt64Callback(sum(&m.out)))
	m.conns, errs[4] = meter.Int64UpDownCounter("braid.kafka.connections",
		metric.WithDescription("Open connections of Kafka clients."))
	m.connsRefused, errs[5] = meter.Int64Counter("braid.kafka.connections.refused",
		metric.WithDescription("Connections closed at once because there were too many."))
	m.badRequests, errs[6] = meter.Int64Counter("braid.kafka.requests.malformed",
		metric.WithDescription("Requests that could not be read; their connections were closed."))
	m.sessions, errs[7] = meter.Int64UpDownCounter("braid.kafka.fetch.sessions",
		metric.WithDescription("Incremental fetch sessions of consumers."))
	m.sessionsDeclined, errs[8] = meter.Int64Counter("braid.kafka.fetch.sessions.declined",
		metric.WithDescription("Fetch sessions that were not begun because there were too many partitions in others."))
	m.auths, errs[9] = meter.Int64Counter("braid.kafka.authentications",
		metric.WithDescription("Authentications of Kafka clients, by SASL or by certificate."))
	m.zoned, errs[10] = meter.Int64Counter("braid.kafka.fetch.sent.to.zone",
		metric.WithDescription("Partitions for which a consumer was sent to a gateway of its rack."))
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("kafka facade metrics: %w", err)
		}
	}
	return &m, nil
}

func (m *Metrics) request(ctx context.Context, api string, version, code int16, d time.Duration) {
	if m == nil {
		return
	}
	key := answer{api, version, code}
	o, ok := m.options.Load(key)
	if !ok {
		o, _ = m.options.LoadOrStore(key, newAnswerOptions(key))
	}
	options := o.(*answerOptions)
	options.count.Add(1)
	m.duration.Record(ctx, d.Seconds(), options.duration...)
}

func newAnswerOptions(k answer) *answerOptions {
	name := "NONE"
	if err := kerr.TypedErrorForCode(k.code); err != nil {
		name = err.Message
	}
	a := attribute.String("api", k.api)
	all := attribute.NewSet(a, attribute.Int("version", int(k.version)), attribute.String("error", name))
	return &answerOptions{
		observed: []metric.ObserveOption{metric.WithAttributeSet(all)},
		duration: []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(a))},
	}
}

func (m *Metrics) bytesIn(n int) {
	if m != nil {
		m.in.Add(int64(n))
	}
}

func (m *Metrics) bytesOut(n int) {
	if m != nil {
		m.out.Add(int64(n))
	}
}

func (m *Metrics) connections(ctx context.Context, delta int64) {
	if m != nil {
		m.conns.Add(ctx, delta)
	}
}

func (m *Metrics) refused(ctx context.Context) {
	if m != nil {
		m.connsRefused.Add(ctx, 1)
	}
}

func (m *Metrics) malformed(ctx context.Context) {
	if m != nil {
		m.badRequests.Add(ctx, 1)
	}
}

func (m *Metrics) authentication(ctx context.Context, mechanism string, err error) {
	if m == nil {
		return
	}
	outcome := "ok"
	switch {
	case security.Undecided(err):
		outcome = "undecided"
	case err != nil:
		outcome = "failed"
	}
	m.auths.Add(ctx, 1, metric.WithAttributes(attribute.String("mechanism", mechanism), attribute.String("outcome", outcome)))
}

func (m *Metrics) fetchSessions(ctx context.Context, delta int64) {
	if m != nil {
		m.sessions.Add(ctx, delta)
	}
}

func (m *Metrics) sentToZone(ctx context.Context, partitions int64) {
	if m != nil {
		m.zoned.Add(ctx, partitions)
	}
}

func (m *Metrics) fetchSessionDeclined(ctx context.Context) {
	if m != nil {
		m.sessionsDeclined.Add(ctx, 1)
	}
}
