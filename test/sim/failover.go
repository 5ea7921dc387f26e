//go:build synctests

package sim

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/test/check"
)

// offsetGap is the least that a failover leaves between the offsets of two extents.
const offsetGap = 1 << 39

// failing says that clusters are failed over and restored in a seed's plan. The log has
// gaps then, and other promises.
func (o *Options) failing() bool { return o.Failing || o.Seed%4 == 1 }

// waiting says that readers wait for a cluster that failed. If not, they go on behind
// what they have not read, and that is appended again.
func (o *Options) waiting() bool { return o.Seed%8 == 1 || o.Failing && o.Seed%2 == 1 }

// topicConfig is the config of the topic that is written to.
func (o *Options) topicConfig() map[string]string {
	if o.failing() && o.waiting() {
		return map[string]string{"braid.failover.read": "wait"}
	}
	return nil
}

// failover fails a cluster over and restores it, while it is dead, hangs, or is in truth
// alive.
func (o *operator) failover(ctx, producing context.Context, faulty func()) {
	if !o.failingNow.CompareAndSwap(false, true) {
		return // one at a time: the others must have somewhere to go
	}
	defer o.failingNow.Store(false)
	cluster := clusterNames[o.rng.IntN(len(clusterNames))]
	brokers, name := cluster+"[0-9]", "physicalClusters/"+cluster
	before := time.Duration(o.rng.Int64N(int64(2 * time.Second)))
	after := time.Duration(o.rng.Int64N(int64(6 * time.Second)))
	how, mend := "alive", func() {}
	switch o.rng.IntN(4) {
	case 0:
	case 1:
		how, mend = "hung", o.net.HoldHost(brokers)
	default:
		how, mend = "dead", o.net.Refuse("*", brokers)
	}
	o.history.note("%s: %s is %s", o.name, cluster, how)
	wait(producing, before)
	o.failedCluster.Store(cluster)
	defer o.failedCluster.Store("")
	failed := o.await(ctx, o.begin(ctx, "fail "+cluster, func(ctx context.Context, id string) (string, error) {
		r, err := o.clusters().FailoverCluster(ctx, &adminv1.FailoverClusterRequest{Name: name, RequestId: id, NoWait: true})
		return r.GetOperation(), err
	}))
	if failed {
		o.history.count("clusters failed over", 1)
	}
	wait(producing, after)
	mend()
	o.history.note("%s: %s is back", o.name, cluster)
	faulty()
	for attempt := 0; ctx.Err() == nil; attempt++ {
		restored := o.await(ctx, o.begin(ctx, "restore "+cluster, func(ctx context.Context, id string) (string, error) {
			r, err := o.clusters().RestoreCluster(ctx, &adminv1.RestoreClusterRequest{Name: name, RequestId: id, NoWait: true})
			return r.GetOperation(), err
		}))
		if restored || o.active(ctx, name) {
			break
		}
		wait(ctx, time.Second)
	}
}

// active reports whether a cluster is in service.
func (o *operator) active(ctx context.Context, name string) (yes bool) {
	_ = o.call(ctx, func(ctx context.Context) error {
		r, err := o.clusters().GetCluster(ctx, &adminv1.GetClusterRequest{Name: name})
		if connect.CodeOf(err) == connect.CodeNotFound {
			err = nil
		}
		yes = r.GetCluster().GetState() == adminv1.Cluster_STATE_ACTIVE
		return err
	})
	return yes
}

// A place is an offset of a partition.
type place struct {
	partition int32
	offset    int64
}

// judgeFailing compares the log with what clients saw in a world with failovers. What
// was acknowledged at the end of a cluster that failed has another offset if readers do
// not wait for it, and is behind what was written later.
func (l *logical) judgeFailing(log []check.Record) *check.Report {
	h := l.history
	acked := make([]check.Value, len(h.acked))
	for i, a := range h.acked {
		acked[i] = a.Value
	}
	at := make(map[place]string, len(log))
	for _, r := range log {
		at[place{r.Partition, r.Offset}] = r.Value
	}
	for _, a := range h.acked {
		value, there := at[place{a.Partition, a.Offset}]
		if there && value != a.Value.String() {
			h.problemLocked("%s was acknowledged at partition %d offset %d, where the log has %q", a.Value, a.Partition, a.Offset, value)
		}
	}
	inLog := make(map[string]bool, len(log))
	for _, r := range log {
		inLog[r.Value] = true
	}
	for _, group := range l.groups() {
		h.judgeReadsLocked(group, at, inLog, l.waiting())
	}
	if !l.waiting() {
		return check.AuditUnordered(log, acked)
	}
	return check.Audit(log, acked, nil)
}

// judgeReadsLocked compares what a group has read with the log: all of it, if it waits
// for clusters that fail.
func (h *history) judgeReadsLocked(group string, at map[place]string, inLog map[string]bool, waits bool) {
	read := make(map[place]bool, len(h.groups[group]))
	for _, r := range h.groups[group] {
		p := place{r.Partition, r.Offset}
		read[p] = true
		// What its producer had to send again is hidden at its first offset.
		if value, there := at[p]; there && value != r.Value || !there && !inLog[r.Value] {
			h.problemLocked("a member of %s saw %q at partition %d offset %d, the log has %q", group, r.Value, r.Partition, r.Offset, value)
		}
	}
	for p, value := range at {
		if waits && !read[p] {
			h.problemLocked("no member of %s saw %q at partition %d offset %d", group, value, p.partition, p.offset)
		}
	}
}

// chainGap says what is wrong with where two extents meet.
func (o *operator) chainGap(end, base int64) error {
	if end == base || o.failing() && base-end >= offsetGap {
		return nil
	}
	return fmt.Errorf("ends at %d and the next begins at %d", end, base)
}
