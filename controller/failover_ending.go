package controller

import (
	"context"
	"slices"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
)

// Moves whose heads have no way back, and whose cluster failed, have a way out: heads
// whose old cluster failed are suspended, and open where they were to go; those that
// were to go to a failed cluster go elsewhere.

// passFailed takes heads that have no way back past the clusters that failed. An error
// is one that can pass, but for those with which this leader cannot go on.
func (o *operations) passFailed(ctx context.Context, op *operation, s *sealer, state *moveState) error {
	for _, name := range failedAmong(o.t.current(), state.Heads[:state.Ending], func(h *primedHead) federation.ClusterName { return h.To.Cluster }) {
		if err := o.retarget(ctx, op, s, state, name); err != nil {
			return err
		}
	}
	for _, name := range failedAmong(o.t.current(), state.Heads[:state.Ending], func(h *primedHead) federation.ClusterName { return h.From.Cluster }) {
		if err := o.suspendEnding(ctx, op, s, state, name); err != nil {
			return err
		}
	}
	return nil
}

// failedAmong returns the clusters of heads that failed, or were abandoned since.
func failedAmong(m *federation.Map, heads []primedHead, clusterOf func(*primedHead) federation.ClusterName) []federation.ClusterName {
	var out []federation.ClusterName
	for i := range heads {
		name := clusterOf(&heads[i])
		if c := m.Clusters[name]; (c == nil || c.State == federation.ClusterFailed) && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// retarget has heads go elsewhere that were to go to a cluster that failed. What lies
// there already, a primer and perhaps openings, is of no extent then.
func (o *operations) retarget(ctx context.Context, op *operation, s *sealer, state *moveState, failed federation.ClusterName) error {
	ctx, cancel := context.WithTimeout(ctx, o.t.cfg.StepTimeout)
	defer cancel()
	var at []int
	var moves []planner.Move
	for i, h := range state.Heads[:state.Ending] {
		if h.To.Cluster == failed {
			at, moves = append(at, i), append(moves, h.Move)
		}
	}
	m := o.t.current()
	existing, away := o.t.elsewhere(ctx, m, failed, s.topic)
	plan, err := planner.Retarget(m, failed, moves, existing[s.topic.Name], away)
	if err != nil {
		return err
	}
	places := placeState{Plan: planner.Plan{Topics: plan.Topics}}
	for _, v := range plan.Moves {
		places.Plan.Heads = append(places.Plan.Heads, v.To)
	}
	// A cancel ends nothing here: there is no way back.
	found, err := o.makePhysical(ctx, newOperation(redisstore.Operation{}), &places, s.topic.ReplicationFactor, s.topic.Config)
	if err != nil {
		return err
	}
	bytes, err := s.largestBatch(ctx, plan.Topics)
	if err != nil {
		return err
	}
	heads, err := s.prime(ctx, plan.Moves, found.epochs)
	if err != nil {
		return err
	}
	next := *state
	next.Heads = slices.Clone(state.Heads)
	for i, h := range heads {
		next.Heads[at[i]] = h
	}
	next.BatchBytes = min(state.BatchBytes, bytes)
	next.Plan.Topics = append(slices.Clone(state.Plan.Topics), plan.Topics...)
	op.uses(next.clusters())
	if err := o.saveUntilDecided(ctx, op, next); err != nil {
		return err
	}
	*state, s.batchBytes = next, next.BatchBytes
	o.t.log.Warn("heads whose move has no way back go elsewhere, since the cluster that they were to go to failed", "topic", s.topic.Name, "cluster", failed, "heads", len(heads))
	return nil
}

// suspendEnding suspends heads of a cluster that failed, and opens them where they were
// to go. Nothing is known of their seals: they may be in their logs.
func (o *operations) suspendEnding(ctx context.Context, op *operation, s *sealer, state *moveState, failed federation.ClusterName) error {
	var round []primedHead
	acknowledged := make(map[federation.TopicPartition]federation.PhysicalOffset)
	for i, h := range state.Heads[:state.Ending] {
		if h.From.Cluster == failed {
			round = append(round, h)
			acknowledged[h.TopicPartition] = state.Acknowledged[i]
		}
	}
	// What gateways said before they knew of the failure does not bound what readers get.
	held, missing := o.t.awaitHeldEnds(ctx, o.t.current().Version, movesOf(round))
	if len(missing) > 0 {
		return federation.Errorf(federation.Timeout, "gateways %v have not said within %s up to where readers have been given records", missing, o.t.cfg.SealWait)
	}
	for tp, ack := range acknowledged {
		e := held[tp]
		e.AcknowledgedEnd = max(e.AcknowledgedEnd, ack)
		held[tp] = e
	}
	opened, err := s.openKnown(ctx, round)
	if err != nil {
		return err
	}
	groups := o.t.committedOn(ctx, failed)
	heads := failedHeads(opened, held, groups.highest(s.topic))
	m, err := o.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) { return planner.WithFailedOver(m, heads) })
	if err != nil {
		return err
	}
	o.t.parts.Metrics.sealedFor(ctx, max(0, time.Since(time.UnixMilli(state.SealingMs))))
	o.t.log.Warn("heads whose move has no way back are suspended, since their cluster failed", "topic", s.topic.Name, "cluster", failed, "heads", len(heads), "version", m.Version)
	if err := o.dropMoved(s, state); err != nil {
		return err
	}
	if err := o.saveUntilDecided(ctx, op, *state); err != nil {
		return err
	}
	if state.Ending == 0 {
		o.t.awaitVisible(ctx, m.Version)
	}
	return nil
}

// untilFailed bounds one try at what needs clusters. It ends early when one of them is
// given up: there may be another way then.
func (t *term) untilFailed(ctx context.Context, clusters []federation.ClusterName) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.StepTimeout)
	go func() {
		defer cancel()
		for {
			p := t.published.Load()
			failed := slices.ContainsFunc(clusters, func(name federation.ClusterName) bool {
				c := p.m.Clusters[name]
				return c != nil && c.State == federation.ClusterFailed
			})
			if failed || !wait(ctx, p.next, nil, time.Time{}) {
				return
			}
		}
	}()
	return ctx, cancel
}

// notFailed returns the heads that did not move to a cluster that failed meanwhile: its
// failover may have looked for heads there already. The others go elsewhere.
func notFailed(m *federation.Map, moved []planner.MovedHead) []planner.MovedHead {
	return slices.DeleteFunc(slices.Clone(moved), func(v planner.MovedHead) bool {
		c := m.Clusters[v.To.Cluster]
		return c == nil || c.State == federation.ClusterFailed
	})
}

// clustersOf returns the clusters that heads move from and to.
func clustersOf(heads []primedHead) []federation.ClusterName {
	var out []federation.ClusterName
	for _, h := range heads {
		for _, name := range []federation.ClusterName{h.From.Cluster, h.To.Cluster} {
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}
