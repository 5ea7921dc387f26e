package kafkacompat

import (
	"errors"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// What is read of OTLP's metrics (opentelemetry/proto/metrics/v1): names, and the numbers of
// gauges and sums. Histograms and summaries are passed over; clients send none.
const (
	otlpResourceMetrics = 1 // of MetricsData, and of ExportMetricsServiceRequest
	otlpScopeMetrics    = 2 // of ResourceMetrics
	otlpMetrics         = 2 // of ScopeMetrics
	otlpName            = 1 // of Metric
	otlpGauge           = 5
	otlpSum             = 7
	otlpDataPoints      = 1 // of Gauge and Sum
	otlpAsDouble        = 4 // of NumberDataPoint
	otlpAsInt           = 6
)

var errOTLP = errors.New("the metrics are no OTLP")

// metricNameMax bounds the length of a metric's name.
const metricNameMax = 200

// readOTLP calls each for every metric that has a number. Points of one metric that differ in
// attributes (by topic, by node) become one number: a sum's are added up, of a gauge's the
// largest counts. It makes no copies but of names.
func readOTLP(b []byte, each func(name string, value float64)) error {
	return fieldsOf(b, otlpResourceMetrics, func(b []byte) error {
		return fieldsOf(b, otlpScopeMetrics, func(b []byte) error {
			return fieldsOf(b, otlpMetrics, func(b []byte) error { return readMetric(b, each) })
		})
	})
}

// fieldsOf calls f for each occurrence of a message field.
func fieldsOf(b []byte, want protowire.Number, f func([]byte) error) error {
	return eachField(b, func(n protowire.Number, t protowire.Type, value []byte) error {
		if n != want || t != protowire.BytesType {
			return nil
		}
		return f(value)
	})
}

// eachField calls f for each field; value is the content of one of bytes, else its encoding.
func eachField(b []byte, f func(n protowire.Number, t protowire.Type, value []byte) error) error {
	for len(b) > 0 {
		n, t, head := protowire.ConsumeTag(b)
		if head < 0 {
			return errOTLP
		}
		b = b[head:]
		size := protowire.ConsumeFieldValue(n, t, b)
		if size < 0 {
			return errOTLP
		}
		value := b[:size]
		b = b[size:]
		if t == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(value)
		}
		if err := f(n, t, value); err != nil {
			return err
		}
	}
	return nil
}

func readMetric(b []byte, each func(name string, value float64)) error {
	var name []byte
	var value float64
	points := 0
	err := eachField(b, func(n protowire.Number, t protowire.Type, field []byte) error {
		if t != protowire.BytesType {
			return nil
		}
		switch int32(n) { // a number of a message, not one of protowire's own
		case otlpName:
			name = field
		case otlpGauge, otlpSum:
			return fieldsOf(field, otlpDataPoints, func(b []byte) error {
				v, ok, err := readPoint(b)
				switch {
				case err != nil || !ok:
					return err
				case points == 0:
					value = v
				case n == otlpSum:
					value += v
				default:
					value = max(value, v)
				}
				points++
				return nil
			})
		}
		return nil
	})
	if err == nil && points > 0 && validMetricName(name) && !math.IsNaN(value) && !math.IsInf(value, 0) {
		each(string(name), value)
	}
	return err
}

func readPoint(b []byte) (v float64, ok bool, err error) {
	err = eachField(b, func(n protowire.Number, t protowire.Type, field []byte) error {
		if t != protowire.Fixed64Type {
			return nil
		}
		bits, _ := protowire.ConsumeFixed64(field)
		switch int32(n) { // a number of a message, not one of protowire's own
		case otlpAsDouble:
			v, ok = math.Float64frombits(bits), true
		case otlpAsInt:
			v, ok = float64(int64(bits)), true
		}
		return nil
	})
	return v, ok, err
}

// validMetricName keeps out what would spoil a label.
func validMetricName(name []byte) bool {
	if len(name) == 0 || len(name) > metricNameMax {
		return false
	}
	for _, c := range name {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
