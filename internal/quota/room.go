package quota

import (
	"context"
	"log/slog"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/logging"
)

// A Room counts what the clients of one tenant have open at a gateway: connections of its
// Kafka facade and streams of its Connect API. A nil Room has no end.
type Room struct {
	ctx    context.Context //nolint:containedctx // of what is counted
	tenant string
	limit  func() int32
	gate   *Gate
	log    *slog.Logger

	mu   sync.Mutex // guards the following
	open int32
}

// Room makes the room of a tenant behind the gate. limit is asked each time; 0 = no bound.
func (g *Gate) Room(tenant string, limit func() int32, logger *slog.Logger) *Room {
	return &Room{ctx: g.ctx, tenant: tenant, limit: limit, gate: g, log: logging.Limited(logger)}
}

// Enter counts one in; Leave must follow if it returns nil.
func (r *Room) Enter() error {
	if r == nil {
		return nil
	}
	limit := r.limit()
	r.mu.Lock()
	full := limit > 0 && r.open >= limit
	if !full {
		r.open++
	}
	r.mu.Unlock()
	if !full {
		return nil
	}
	r.gate.refused.Add(r.ctx, 1, metric.WithAttributes(attribute.String("reason", "tenant")))
	r.log.Warn("connections of a tenant are refused: it has as many as it may have at this gateway", "tenant", r.tenant, "limit", limit)
	return federation.Errorf(federation.Throttled, "logical cluster %q has %d Kafka connections and streams open at this gateway, as many as it may have; close some, use another gateway, or ask the operators of the deployment for more", r.tenant, limit)
}

// Leave counts one out.
func (r *Room) Leave() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open--
}

// Open is how many there are.
func (r *Room) Open() int32 {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}
