package controller

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
)

// Metrics are the measurements of one Controller. A nil *Metrics measures nothing.
type Metrics struct {
	controller   atomic.Pointer[Controller] // nil before New
	registration metric.Registration
	id           metric.MeasurementOption

	leader     metric.Int64ObservableGauge
	epoch      metric.Int64ObservableGauge
	mapVersion metric.Int64ObservableGauge
	gateways   metric.Int64ObservableGauge
	clusters   metric.Int64ObservableGauge
	operations metric.Int64ObservableGauge
	alarms     metric.Int64ObservableGauge
	foreign    metric.Int64ObservableGauge
	failed     metric.Int64ObservableGauge
	suspended  metric.Int64ObservableGauge
	applied    metric.Float64Histogram
	sealed     metric.Float64Histogram
}

// The attributes of what is counted by state.
const (
	attributeID    = attribute.Key("braid.id")
	attributeState = attribute.Key("state")
)

// NewMetrics makes the instruments; id tells the controllers of one operating system
// process apart. A standby has the first two only:
//
//	braid.controller.leader
//	braid.controller.epoch
//	braid.map.version
//	braid.controller.gateways            state: ready, draining, lost, absent
//	braid.controller.clusters            state: up, down, unknown
//	braid.controller.operations          state: running, done, failed, cancelled
//	braid.controller.alarms
//	braid.controller.foreign.partitions
//	braid.controller.failed.clusters
//	braid.controller.suspended.extents
//	braid.controller.seal.duration
//	braid.controller.map.apply.duration
func NewMetrics(meter metric.Meter, id string) (*Metrics, error) {
	m := &Metrics{id: metric.WithAttributes(attributeID.String(id))}
	var errs [13]error
	gauge := func(i int, name, unit, description string) (g metric.Int64ObservableGauge) {
		g, errs[i] = meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
		return g
	}
	m.leader = gauge(0, "braid.controller.leader", "", "Whether this controller leads.")
	m.epoch = gauge(1, "braid.controller.epoch", "{epoch}", "The highest number of a lead that this controller has met.")
	m.mapVersion = gauge(2, "braid.map.version", "{version}", "Version of the current map.")
	m.gateways = gauge(3, "braid.controller.gateways", "{gateway}", "Gateways in the map, by state; absent ones have no stream to this controller, lost ones perhaps still a lease.")
	m.clusters = gauge(4, "braid.controller.clusters", "{cluster}", "Physical clusters in the map, by whether they answer.")
	m.operations = gauge(5, "braid.controller.operations", "{operation}", "Operations that are remembered, by state.")
	m.alarms = gauge(6, "braid.controller.alarms", "{alarm}", "Alarms that are raised.")
	m.foreign = gauge(9, "braid.controller.foreign.partitions", "{partition}", "Sealed physical partitions that somebody wrote to without braid.")
	m.failed = gauge(11, "braid.controller.failed.clusters", "{cluster}", "Physical clusters that were failed over and are not restored.")
	m.suspended = gauge(12, "braid.controller.suspended.extents", "{extent}", "Extents of failed clusters, whose records cannot be read until their cluster is restored.")
	m.sealed, errs[10] = meter.Float64Histogram("braid.controller.seal.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
		metric.WithDescription("Time from the map that seals heads to the one that opens them elsewhere, for each step of a move: appends are held for so long."))
	m.applied, errs[7] = meter.Float64Histogram("braid.controller.map.apply.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
		metric.WithDescription("Time from the publishing of a map to a gateway's word that it has applied it."))
	m.registration, errs[8] = meter.RegisterCallback(m.observe,
		m.leader, m.epoch, m.mapVersion, m.gateways, m.clusters, m.operations, m.alarms, m.foreign, m.failed, m.suspended)
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("controller metrics: %w", err)
		}
	}
	return m, nil
}

// Close ends the measuring.
func (m *Metrics) Close() error {
	if err := m.registration.Unregister(); err != nil {
		return fmt.Errorf("controller metrics: %w", err)
	}
	return nil
}

func (m *Metrics) measures(c *Controller) {
	if m != nil {
		m.controller.Store(c)
	}
}

func (m *Metrics) mapApplied(ctx context.Context, d time.Duration) {
	if m != nil {
		m.applied.Record(ctx, d.Seconds(), m.id)
	}
}

func (m *Metrics) sealedFor(ctx context.Context, d time.Duration) {
	if m != nil {
		m.sealed.Record(ctx, d.Seconds(), m.id)
	}
}

func (m *Metrics) observe(_ context.Context, o metric.Observer) error {
	c := m.controller.Load()
	if c == nil {
		return nil
	}
	r, _ := c.currentRole()
	o.ObserveInt64(m.epoch, c.candidate().Met, m.id)
	if r.term == nil {
		o.ObserveInt64(m.leader, 0, m.id)
		return nil
	}
	t := r.term
	o.ObserveInt64(m.leader, 1, m.id)
	o.ObserveInt64(m.mapVersion, int64(t.current().Version), m.id)
	o.ObserveInt64(m.alarms, int64(len(t.health.listAlarms())), m.id)
	o.ObserveInt64(m.foreign, t.foreign.Load(), m.id)
	clusters, extents := failedClusters(t.current())
	o.ObserveInt64(m.failed, clusters, m.id)
	o.ObserveInt64(m.suspended, extents, m.id)
	for g, states := range map[metric.Int64ObservableGauge]map[string]int64{
		m.gateways: t.gatewayStates(), m.clusters: t.clusterStates(), m.operations: t.ops.states(),
	} {
		for state, n := range states {
			o.ObserveInt64(g, n, m.id, metric.WithAttributes(attributeState.String(state)))
		}
	}
	return nil
}

// gatewayStates counts the gateways of the map. States that none has are there, too.
func (t *term) gatewayStates() map[string]int64 {
	const absent = "absent"
	out := map[string]int64{federation.GatewayReady.String(): 0, federation.GatewayDraining.String(): 0, federation.GatewayLost.String(): 0, absent: 0}
	for _, g := range t.current().Gateways {
		if _, ok := t.fleet.session(g.ID); ok || g.State == federation.GatewayLost {
			out[g.State.String()]++
		} else {
			out[absent]++
		}
	}
	return out
}

func (t *term) clusterStates() map[string]int64 {
	out := map[string]int64{"up": 0, "down": 0, "unknown": 0}
	for name := range t.current().Clusters {
		switch h, ok := t.health.cluster(name); {
		case !ok:
			out["unknown"]++
		case h.healthy:
			out["up"]++
		default:
			out["down"]++
		}
	}
	return out
}

// failedClusters counts the clusters that failed, and the suspended extents.
func failedClusters(m *federation.Map) (clusters, extents int64) {
	for name, c := range m.Clusters {
		if c.State == federation.ClusterFailed {
			clusters++
		}
		n, _ := planner.Suspended(m, name)
		extents += int64(n)
	}
	return clusters, extents
}

func (o *operations) states() map[string]int64 {
	out := map[string]int64{"running": 0, "done": 0, "failed": 0, "cancelled": 0}
	for _, rec := range o.list() {
		switch {
		case !rec.Done:
			out["running"]++
		case rec.ErrorKind == "":
			out["done"]++
		case rec.ErrorKind == errorCancelled:
			out["cancelled"]++
		default:
			out["failed"]++
		}
	}
	return out
}

// A stamp is when a version of the map was published.
type stamp struct {
	version federation.MapVersion
	at      time.Time
}

// stamps are those of the newest versions of a term.
type stamps [recentMax]atomic.Pointer[stamp]

func (s *stamps) note(v federation.MapVersion) {
	s[uint64(v)%recentMax].Store(&stamp{v, time.Now()})
}

// since returns how long ago a version was published; false if that was before the
// given moment, or too many versions ago.
func (s *stamps) since(v federation.MapVersion, begin time.Time) (time.Duration, bool) {
	p := s[uint64(v)%recentMax].Load()
	if p == nil || p.version != v || p.at.Before(begin) {
		return 0, false
	}
	return time.Since(p.at), true
}
