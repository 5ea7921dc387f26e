//go:build synctests

package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
)

// throttled says that a seed's producers and members have quotas that they reach.
func (o *Options) throttled() bool { return o.Seed%7 == 1 || o.Seed%7 == 4 }

// setQuotas gives one client of each kind a quota: it waits, and nothing else.
func (o *operator) setQuotas(ctx context.Context, l *logical) error {
	if !o.throttled() {
		return nil
	}
	// Bytes a second at each gateway: less than what they would take without quotas.
	changes := map[string]map[string]float64{
		l.client("kafka", 0):  {"producer_byte_rate": 400},
		l.client("batch", 0):  {"producer_byte_rate": 60},
		l.client("stream", 0): {"producer_byte_rate": 60},
		l.client("member", 0): {"consumer_byte_rate": 3000},
	}
	req := &adminv1.AlterQuotasRequest{Parent: l.parent()}
	for _, client := range sortedKeys(changes) {
		req.Changes = append(req.Changes, &adminv1.QuotaChange{Entity: &adminv1.QuotaEntity{ClientId: &client}, Set: changes[client]})
	}
	err := o.call(ctx, func(ctx context.Context) error {
		_, err := adminv1connect.NewQuotaServiceClient(o.client.http, o.client.url()).AlterQuotas(ctx, req)
		return err
	})
	if err != nil {
		return fmt.Errorf("set quotas of %s: %w", l.parent(), err)
	}
	return nil
}

// A throttling counts how often a Kafka client was told to wait.
type throttling struct{ history *history }

var _ kgo.HookBrokerThrottle = throttling{}

// OnBrokerThrottle implements kgo.HookBrokerThrottle.
func (t throttling) OnBrokerThrottle(_ kgo.BrokerMetadata, _ time.Duration, _ bool) {
	t.history.count("waits for quotas", 1)
}

// judgeQuotas checks that quotas were reached.
func (w *world) judgeQuotas() {
	const enough = 30 * time.Second // more than what is given at once
	if !w.throttled() || w.Duration < enough {
		return
	}
	w.history.mu.Lock()
	defer w.history.mu.Unlock()
	// Faults can keep one kind of clients below theirs for nearly all of a run.
	if w.history.counts["waits for quotas"]+w.history.counts["waits of streams for quotas"] == 0 {
		w.history.problemLocked("nobody waited for quotas")
	}
}
