package controller

import (
	"context"
	"strconv"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
)

// tellFailed raises an alarm for each cluster that failed, with what waits for it.
func (t *term) tellFailed(m *federation.Map) {
	for name, c := range m.Clusters {
		key := "cluster/" + string(name) + "/failed"
		if c.State != federation.ClusterFailed {
			t.health.clear(key)
			continue
		}
		extents, topics := planner.Suspended(m, name)
		what := "run `braid cluster restore` when it is back"
		if h, ok := t.health.cluster(name); ok && h.healthy {
			what = "it answers again: run `braid cluster restore`"
		}
		t.health.alarm(key, "physical cluster %q is failed: %d suspended extents of %d topics cannot be read until it is restored; %s", name, extents, topics, what)
		if t.current().Clusters[name] == nil { // removed meanwhile
			t.health.clear(key)
		}
	}
}

// awayLooks is how often in the time after which a cluster is failed over it is looked
// whether that time has come.
const awayLooks = 8

// watchAway fails clusters over that are away for too long, if the policy says so.
func (t *term) watchAway(ctx context.Context) {
	if t.cfg.FailoverAfter == 0 {
		return
	}
	for ctx.Err() == nil {
		sleep(ctx, min(time.Second, max(10*time.Millisecond, t.cfg.FailoverAfter/awayLooks)))
		if ctx.Err() != nil {
			return
		}
		name, since := t.overdueAway(time.Now())
		if name == "" {
			continue
		}
		t.log.Error("a physical cluster is away for too long; it is failed over", "cluster", name, "since", since)
		// One for each time that it is away, whoever asks.
		request := "away-" + string(name) + "-" + strconv.FormatInt(t.fencing, 10) + "-" + strconv.FormatInt(since.UnixMilli(), 10)
		_, err := t.ops.start(ctx, kindFailoverCluster, failoverTarget(name), request, failoverSpec{Cluster: name, Why: "it was away for " + t.cfg.FailoverAfter.String()})
		if err != nil && ctx.Err() == nil {
			t.log.Warn("the failover could not be begun; it is tried again", "cluster", name, "err", err)
		}
	}
}

// overdueAway returns the one cluster that is to be failed over: this controller finds it
// away without a break for long enough, and most gateways do, too. When another cluster is
// away as well, then it is more likely the network here, and none is.
func (t *term) overdueAway(now time.Time) (federation.ClusterName, time.Time) {
	m := t.current()
	var found federation.ClusterName
	var since time.Time
	for name, c := range m.Clusters {
		h, ok := t.health.cluster(name)
		switch {
		case ok && h.healthy:
		case !ok || !h.silent || c.State == federation.ClusterFailed || found != "":
			return "", since // another one, or none that is known
		default:
			found, since = name, h.since
		}
		if t.ops.worksOn(failoverTarget(name)) {
			return "", since
		}
	}
	if found == "" || now.Sub(since) < t.cfg.FailoverAfter {
		return "", since
	}
	if away, all := t.fleet.away(found); away*2 <= all {
		return "", since
	}
	if checkFailover(m, found, t.health.away()) != nil {
		return "", since
	}
	return found, since
}
