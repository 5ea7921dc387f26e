package kafkacompat

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
)

// GetTelemetrySubscriptions: v0, and PushTelemetry (72): v0 (KIP-714)
//
// Only if Config.ClientTelemetry is set. Every client gets the same subscription, at every
// gateway, so one that goes to another gateway pushes on.

const (
	telemetrySubscription = 1
	telemetryPrefix       = "org.apache.kafka."
	compressionNone       = 0
	compressionGzip       = 1
)

func handleGetTelemetrySubscriptions(_ context.Context, c *conn, _ *request, kreq *kmsg.GetTelemetrySubscriptionsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.GetTelemetrySubscriptionsResponse)
	resp.ClientInstanceID = kreq.ClientInstanceID
	if kreq.ClientInstanceID == [16]byte{} {
		resp.ClientInstanceID = federation.NewTopicID() // a random UUID
	}
	resp.SubscriptionID = telemetrySubscription
	resp.AcceptedCompressionTypes = []int8{compressionGzip, compressionNone}
	resp.PushIntervalMillis = int32(c.s.cfg.TelemetryInterval.Milliseconds())
	resp.TelemetryMaxBytes = c.s.cfg.TelemetryBytesMax
	if c.s.telemetry.takes(resp.ClientInstanceID, time.Now()) {
		resp.RequestedMetrics = []string{telemetryPrefix}
	} else {
		resp.RequestedMetrics = []string{} // there are too many: it asks again after the interval
	}
	return resp
}

func handlePushTelemetry(ctx context.Context, c *conn, req *request, kreq *kmsg.PushTelemetryRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.PushTelemetryResponse)
	if err := c.s.telemetry.push(ctx, kreq, c.s.tenant, req.clientID, time.Now()); err != nil {
		resp.ErrorCode = req.refuse(err)
	}
	return resp
}

// refusedPush checks what does not depend on earlier pushes, as ClientMetricsManager does.
func refusedPush(cfg *Config, kreq *kmsg.PushTelemetryRequest) *kerr.Error {
	switch {
	case kreq.ClientInstanceID == [16]byte{}:
		return kerr.InvalidRequest
	case kreq.SubscriptionID != telemetrySubscription:
		return kerr.UnknownSubscriptionID
	case kreq.CompressionType != compressionNone && kreq.CompressionType != compressionGzip:
		return kerr.UnsupportedCompressionType
	case len(kreq.Metrics) > int(cfg.TelemetryBytesMax):
		return kerr.TelemetryTooLarge
	}
	return nil
}
