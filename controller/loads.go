package controller

import (
	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// loadsMax bounds the partitions of one report.
const loadsMax = 100_000

// loads takes a gateway's report of what is appended through it. Each replaces the
// one before.
func (a *attachment) loads(r *controlv1.PartitionLoads) error {
	if a.session == nil {
		return nil
	}
	if n := len(r.GetPartitions()); n > loadsMax {
		return federation.Errorf(federation.InvalidArgument, "a report names the load of %d partitions, at most %d are allowed", n, loadsMax)
	}
	loads := make(planner.Load, len(r.GetPartitions()))
	for _, p := range r.GetPartitions() {
		loads[federation.TopicPartition{Topic: federation.TopicName(p.GetTopic()), Partition: federation.LogicalPartition(p.GetPartition())}] = max(0, p.GetBytesPerS())
	}
	a.fleet.mu.Lock()
	defer a.fleet.mu.Unlock()
	a.session.loads = loads
	return nil
}

// load returns what is appended to partitions through all gateways, in bytes/s.
// Right after a change of leaders little is known of it.
func (f *fleet) load() planner.Load {
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := make(planner.Load)
	for _, s := range f.sessions {
		for tp, n := range s.loads {
			sum[tp] += n
		}
	}
	return sum
}
