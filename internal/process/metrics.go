package process

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/redisstore"
)

// A gauge is a number that is read when metrics are collected.
type gauge struct {
	name, unit, description string
	counter                 bool // only grows
	read                    func() int64
}

// observe registers gauges with an attribute that tells processes apart.
func (t *Telemetry) observe(id string, gauges []gauge) (stop func(), err error) {
	meter := t.meter()
	attributes := metric.WithAttributes(attribute.String("braid.id", id))
	var instruments []metric.Observable
	observers := make([]func(metric.Observer), 0, len(gauges))
	for _, g := range gauges {
		var i metric.Int64Observable
		if g.counter {
			i, err = meter.Int64ObservableCounter(g.name, metric.WithUnit(g.unit), metric.WithDescription(g.description))
		} else {
			i, err = meter.Int64ObservableGauge(g.name, metric.WithUnit(g.unit), metric.WithDescription(g.description))
		}
		if err != nil {
			return nil, fmt.Errorf("metric %s: %w", g.name, err)
		}
		instruments = append(instruments, i)
		observers = append(observers, func(o metric.Observer) { o.ObserveInt64(i, g.read(), attributes) })
	}
	registration, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, observe := range observers {
			observe(o)
		}
		return nil
	}, instruments...)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return func() { _ = registration.Unregister() }, nil
}

// routerGauges are the counters of a router.
func routerGauges(r *router.Router) []gauge {
	stat := func(pick func(router.Stats) int64) func() int64 { return func() int64 { return pick(r.Stats()) } }
	return []gauge{
		{"braid.router.appends", "{batch}", "Batches submitted for appending.", true, stat(func(s router.Stats) int64 { return s.Appends })},
		{"braid.router.append.bytes", "By", "Bytes of batches submitted for appending.", true, stat(func(s router.Stats) int64 { return s.AppendBytes })},
		{"braid.router.append.requests", "{request}", "Produce requests sent to brokers.", true, stat(func(s router.Stats) int64 { return s.AppendRequests })},
		{"braid.router.append.retries", "{batch}", "Batches sent to a broker again.", true, stat(func(s router.Stats) int64 { return s.AppendRetries })},
		{"braid.router.append.failures", "{batch}", "Batches answered with an error.", true, stat(func(s router.Stats) int64 { return s.AppendFailures })},
		{"braid.router.append.held", "{batch}", "Batches that waited for a head that was being moved.", true, stat(func(s router.Stats) int64 { return s.HeldAppends })},
		{"braid.router.append.repeated", "{batch}", "Batches that a head's predecessor had already.", true, stat(func(s router.Stats) int64 { return s.RepeatedAppends })},
		{"braid.router.producer.queries", "{request}", "Questions to brokers which producers a head knows.", true, stat(func(s router.Stats) int64 { return s.ProducerQueries })},
		{"braid.router.append.inflight", "By", "Bytes of batches that are not decided.", false, stat(func(s router.Stats) int64 { return s.AppendBytesInFlight })},
		{"braid.router.lanes", "{lane}", "Lanes that clients are spread over: connections for appends to each broker.", false, stat(func(s router.Stats) int64 { return s.Lanes })},
		{"braid.router.read.tail.bytes", "By", "Bytes read from the tail caches.", true, stat(func(s router.Stats) int64 { return s.TailBytes })},
		{"braid.router.read.direct.bytes", "By", "Bytes read from brokers for one reader.", true, stat(func(s router.Stats) int64 { return s.DirectBytes })},
		{"braid.router.read.direct.requests", "{partition}", "Partitions asked for in reads for one reader.", true, stat(func(s router.Stats) int64 { return s.DirectReads })},
		{"braid.router.read.tail.requests", "{request}", "Fetch requests that fill the tail caches.", true, stat(func(s router.Stats) int64 { return s.TailFetches })},
		{"braid.router.read.leader.bytes", "By", "Bytes of records that leaders of physical partitions have sent.", true, stat(func(s router.Stats) int64 { return s.LeaderReadBytes })},
		{"braid.router.read.follower.bytes", "By", "Bytes of records that followers in the zone of the gateway have sent.", true, stat(func(s router.Stats) int64 { return s.FollowerReadBytes })},
	}
}

// groupGauges are the numbers of the groups that a gateway coordinates.
func groupGauges(e *groups.Engine, s *redisstore.Store) []gauge {
	stat := func(pick func(groups.Stats) int64) func() int64 { return func() int64 { return pick(e.Stats()) } }
	return []gauge{
		{"braid.groups", "{group}", "Groups in memory that this gateway coordinates.", false, stat(func(s groups.Stats) int64 { return int64(s.Groups) })},
		{"braid.groups.memory.used", "By", "What members of groups hold in memory, those of tenants, too.", false, e.Room().Used},
		{"braid.groups.memory.limit", "By", "What they may hold.", false, e.Room().Size},
		{"braid.groups.memory.refused", "{request}", "Requests of members that were refused for want of it.", true, e.Room().Refused},
		{"braid.groups.rebalances", "{rebalance}", "New assignments.", true, stat(func(s groups.Stats) int64 { return s.Rebalances })},
		{"braid.groups.commits", "{offset}", "Offsets that were stored.", true, stat(func(s groups.Stats) int64 { return s.Commits })},
		{"braid.groups.writes", "{write}", "Writes of groups to Redis: one stores what came in for its group while the one before was under way.", true, stat(func(s groups.Stats) int64 { return s.Writes })},
		{"braid.groups.round.trips", "{request}", "Round trips to Redis that these writes took: many groups share one.", true, func() int64 { return s.GroupWriteStats().RoundTrips }},
		{"braid.groups.store.failures", "{failure}", "Accesses to Redis that failed.", true, stat(func(s groups.Stats) int64 { return s.StoreFailures })},
	}
}
