package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/upstream"
)

// health is what a term knows of the physical clusters beyond the map.
type health struct {
	mu       sync.Mutex // guards the following
	clusters map[federation.ClusterName]clusterHealth
	alarms   map[string]string
}

// clusterHealth is the outcome of the last look at a cluster.
type clusterHealth struct {
	healthy bool
	brokers int32
	detail  string
	// silent tells that no broker answered, since a moment, without a break.
	silent bool
	since  time.Time
}

func newHealth() *health {
	return &health{
		clusters: make(map[federation.ClusterName]clusterHealth),
		alarms:   make(map[string]string),
	}
}

// alarm sets an alarm; the same key replaces it.
func (h *health) alarm(key, format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alarms[key] = fmt.Sprintf(format, args...)
}

func (h *health) clear(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.alarms, key)
}

func (h *health) listAlarms() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Values(h.alarms))
}

// cluster returns the last look at a cluster; false before the first.
func (h *health) cluster(name federation.ClusterName) (clusterHealth, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, ok := h.clusters[name]
	return c, ok
}

// away returns the clusters that did not answer the last look.
func (h *health) away() map[federation.ClusterName]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[federation.ClusterName]bool)
	for name, c := range h.clusters {
		if !c.healthy {
			out[name] = true
		}
	}
	return out
}

func (h *health) set(name federation.ClusterName, c clusterHealth) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old, ok := h.clusters[name]
	if c.silent {
		c.since = time.Now()
		if old.silent {
			c.since = old.since
		}
	}
	h.clusters[name] = c
	return !ok || old.healthy != c.healthy
}

// keep forgets clusters that are not in the map any more.
func (h *health) keep(m *federation.Map) {
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.clusters, func(n federation.ClusterName, _ clusterHealth) bool { return m.Clusters[n] == nil })
}

// collect looks at the physical clusters at the configured interval, and when
// somebody hints that something changed.
func (t *term) collect(ctx context.Context) {
	for ctx.Err() == nil {
		t.look(ctx)
		sleep(ctx, t.cfg.CollectMinInterval)
		timer := time.NewTimer(t.cfg.CollectInterval)
		select {
		case <-timer.C:
		case <-t.hints:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// lookAgainTimeout bounds the second look at a cluster that was away at the last one.
const lookAgainTimeout = time.Second

// awayNow returns the clusters that do not answer, after another look at those that
// did not at the last one: nothing is refused for what was true some seconds ago.
func (t *term) awayNow(ctx context.Context) map[federation.ClusterName]bool {
	m := t.current()
	ctx, cancel := context.WithTimeout(ctx, min(lookAgainTimeout, t.cfg.ProbeTimeout))
	defer cancel()
	var wg sync.WaitGroup
	for name := range t.health.away() {
		if c := m.Clusters[name]; c == nil || c.State == federation.ClusterFailed {
			continue
		}
		wg.Go(func() {
			if s := t.lookAt(ctx, name, nil); s.err == nil {
				t.judge(m, s)
			}
		})
	}
	wg.Wait()
	return t.health.away()
}

// A sighting is what a look at one cluster brought.
type sighting struct {
	cluster federation.ClusterName
	info    upstream.ClusterInfo
	leaders []planner.LeaderSeen
	missing []string
	err     error
}

// look asks all clusters at the same time; each for a bounded time, so one that
// hangs delays nothing but this look's end.
func (t *term) look(ctx context.Context) {
	m := t.current()
	topics := topicsInUse(m)
	sightings := make([]sighting, 0, len(m.Clusters))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name := range m.Clusters {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, t.cfg.ProbeTimeout)
			defer cancel()
			s := t.lookAt(ctx, name, topics[name])
			mu.Lock()
			defer mu.Unlock()
			sightings = append(sightings, s)
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return
	}
	var seen []planner.LeaderSeen
	ids := make(map[federation.ClusterName]string)
	for _, s := range sightings {
		if !t.judge(m, s) {
			continue
		}
		seen = append(seen, s.leaders...)
		if s.err == nil && s.info.ClusterID != "" && m.Clusters[s.cluster].PhysicalID == "" {
			ids[s.cluster] = s.info.ClusterID
		}
	}
	t.health.keep(m)
	t.tellFailed(m)
	t.applySightings(ctx, seen, ids)
}

// applySightings puts everything new into one map version.
func (t *term) applySightings(ctx context.Context, seen []planner.LeaderSeen, ids map[federation.ClusterName]string) {
	apply := func(m *federation.Map) (*federation.Map, int) {
		next, raised := planner.RaiseEpochs(m, seen)
		for name, id := range ids {
			if c := next.Clusters[name]; c != nil && c.PhysicalID == "" {
				known := *c
				known.PhysicalID = id
				next = planner.WithCluster(next, &known)
			}
		}
		return next, raised
	}
	if next, _ := apply(t.current()); next == t.current() {
		return
	}
	_, err := t.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
		next, raised := apply(m)
		if raised > 0 {
			t.log.Info("physical leaders changed", "partitions", raised, "seen_by", "controller")
		}
		return next, nil
	})
	if err != nil && ctx.Err() == nil {
		t.log.Warn("what the physical clusters show could not be written; it is tried again", "err", err)
	}
}

func (t *term) lookAt(ctx context.Context, name federation.ClusterName, topics []string) sighting {
	s := sighting{cluster: name}
	cluster, err := t.parts.Clusters.Cluster(name)
	if err != nil {
		s.err = err
		return s
	}
	if s.info, s.err = cluster.Info(ctx); s.err != nil || len(topics) == 0 {
		return s
	}
	found, err := cluster.Topics(ctx, topics...)
	if err != nil {
		s.err = err
		return s
	}
	for _, topic := range topics {
		info, ok := found[topic]
		if !ok {
			s.missing = append(s.missing, topic)
			continue
		}
		for i, p := range info.Partitions {
			if p.Leader >= 0 && p.Epoch >= 0 {
				s.leaders = append(s.leaders, planner.LeaderSeen{
					PhysicalAddress: federation.PhysicalAddress{Cluster: name, Topic: topic, Partition: federation.PhysicalPartition(i)},
					Epoch:           p.Epoch,
				})
			}
		}
	}
	return s
}

// judge sets the cluster's health and its alarms, and reports whether it is the
// cluster that the map means.
func (t *term) judge(m *federation.Map, s sighting) bool {
	if t.current().Clusters[s.cluster] == nil {
		return false // removed since it was looked at
	}
	key := "cluster/" + string(s.cluster)
	refused, isRefused := errors.AsType[*upstream.RefusedError](s.err)
	isRefused = isRefused && refused.Certain
	// One that lets nobody in is there: to fail it over would not be what it needs.
	c := clusterHealth{healthy: s.err == nil, brokers: int32(len(s.info.Brokers)), silent: s.err != nil && !isRefused}
	if s.err != nil {
		c.detail = s.err.Error()
		t.health.clear(key + "/missing") // not known
		if isRefused {
			t.health.alarm(key+"/away", "physical cluster %q cannot be used: %s", s.cluster, refused.Why)
		} else {
			t.health.alarm(key+"/away", "physical cluster %q does not answer", s.cluster)
		}
		if t.health.set(s.cluster, c) {
			t.log.Warn("physical cluster does not answer", "cluster", s.cluster, "err", s.err)
		}
		return false
	}
	t.health.clear(key + "/away")
	if want := m.Clusters[s.cluster].PhysicalID; want != "" && s.info.ClusterID != want {
		c.healthy = false
		c.detail = "its seeds now lead to another Kafka cluster"
		t.health.clear(key + "/missing")
		t.health.alarm(key+"/id", "physical cluster %q: its seeds lead to another Kafka cluster than before; nothing new is placed there", s.cluster)
		t.health.set(s.cluster, c)
		t.log.Error("physical cluster has another cluster id", "cluster", s.cluster, "want", want, "got", s.info.ClusterID)
		return false
	}
	t.health.clear(key + "/id")
	if len(s.missing) > 0 { // some may have been deleted meanwhile
		used := topicsInUse(t.current())[s.cluster]
		s.missing = slices.DeleteFunc(s.missing, func(topic string) bool { return !slices.Contains(used, topic) })
	}
	if len(s.missing) > 0 {
		t.health.alarm(key+"/missing", "physical cluster %q: %d topics that hold extents are missing", s.cluster, len(s.missing))
		t.log.Error("physical topics are missing", "cluster", s.cluster, "topics", s.missing)
	} else {
		t.health.clear(key + "/missing")
	}
	if t.health.set(s.cluster, c) && c.healthy {
		t.log.Info("physical cluster answers", "cluster", s.cluster, "brokers", c.brokers)
	}
	return c.healthy
}

// topicsInUse returns the physical topics that hold extents, by cluster.
func topicsInUse(m *federation.Map) map[federation.ClusterName][]string {
	sets := make(map[federation.ClusterName]map[string]bool)
	for _, t := range m.Topics {
		for _, p := range t.Partitions {
			for _, e := range p.Extents {
				set := sets[e.Cluster]
				if set == nil {
					set = make(map[string]bool)
					sets[e.Cluster] = set
				}
				set[e.Topic] = true
			}
		}
	}
	out := make(map[federation.ClusterName][]string, len(sets))
	for name, set := range sets {
		out[name] = slices.Sorted(maps.Keys(set))
	}
	return out
}
