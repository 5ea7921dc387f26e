package controller

import (
	"context"
	"fmt"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/rpcerror"
)

// clusterTarget is what operations work on that drain or restore a cluster.
func clusterTarget(cluster federation.ClusterName) string { return "clusters/" + string(cluster) }

// FailoverCluster gives a cluster up: its heads go on elsewhere.
func (s *clusterService) FailoverCluster(ctx context.Context, req *adminv1.FailoverClusterRequest) (*adminv1.FailoverClusterResponse, error) {
	out, err := s.c.failoverCluster(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return out, nil
}

func (c *Controller) failoverCluster(ctx context.Context, req *adminv1.FailoverClusterRequest) (*adminv1.FailoverClusterResponse, error) {
	t, cluster, err := c.findCluster(req.GetName())
	if err != nil {
		return nil, err
	}
	out := &adminv1.FailoverClusterResponse{}
	if t.ops.byRequest(req.GetRequestId()) == nil {
		if err := checkFailover(t.current(), cluster.Name, t.health.away()); err != nil {
			return nil, err
		}
		plans, failed := t.planFailovers(ctx, cluster.Name, req.GetValidateOnly())
		out.Moves = moveProtos(plans...)
		if req.GetValidateOnly() {
			if failed != nil {
				return nil, failed
			}
			out.Cluster = t.clusterProto(t.current(), cluster)
			return out, nil
		}
		if failed != nil && len(plans) == 0 {
			return nil, failed
		}
	}
	op, err := t.ops.start(ctx, kindFailoverCluster, failoverTarget(cluster.Name), req.GetRequestId(), failoverSpec{Cluster: cluster.Name, Why: "an operator asked"})
	if err != nil {
		return nil, err
	}
	rec, _ := op.record()
	out.Operation = collectionOperations + rec.ID
	if req.GetNoWait() {
		return out, nil
	}
	if err := t.wait(ctx, op); err != nil {
		return nil, err
	}
	if cluster := t.current().Clusters[cluster.Name]; cluster != nil {
		out.Cluster = t.clusterProto(t.current(), cluster)
	}
	return out, nil
}

// planFailovers decides where all heads of a cluster go, as far as they have anywhere to
// go, and changes nothing. With fit, the clusters are asked whether the topics fit there.
// The error names the topics that cannot be failed over.
func (t *term) planFailovers(ctx context.Context, cluster federation.ClusterName, fit bool) ([]planner.MovePlan, error) {
	m := t.current()
	topics, _, _ := topicsWithHeads(m, cluster)
	existing, away := t.elsewhere(ctx, m, cluster, topics...)
	var plans []planner.MovePlan
	var refused []string
	var last error
	for _, topic := range topics {
		plan, err := planner.Failover(m, cluster, topic.Name, existing[topic.Name], away)
		if err == nil && fit {
			err = t.checkFailoverFit(ctx, plan, topic)
		}
		if err != nil {
			refused, last = append(refused, fmt.Sprintf("%s (%s)", topic.Name, rpcerror.Error(err).Message())), err
			continue
		}
		plans = append(plans, plan)
	}
	if last != nil {
		return plans, federation.Errorf(federation.KindOf(last), "physical cluster %q: heads of %d topics cannot be failed over: %s", cluster, len(refused), handful(refused)).WithCause(last)
	}
	return plans, nil
}

// RestoreCluster lets a draining cluster take heads again, or takes a failed one back.
func (s *clusterService) RestoreCluster(ctx context.Context, req *adminv1.RestoreClusterRequest) (*adminv1.RestoreClusterResponse, error) {
	out, err := s.c.restoreCluster(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return out, nil
}

func (c *Controller) restoreCluster(ctx context.Context, req *adminv1.RestoreClusterRequest) (*adminv1.RestoreClusterResponse, error) {
	t, cluster, err := c.findCluster(req.GetName())
	if err != nil {
		return nil, err
	}
	if cluster.State == federation.ClusterFailed || t.ops.byRequest(req.GetRequestId()) != nil {
		return t.restoreFailed(ctx, cluster, req)
	}
	release, _, err := t.ops.reserve(kindRestoreCluster, clusterTarget(cluster.Name), "")
	if err != nil {
		return nil, err
	}
	defer release(nil)
	m, err := t.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
		switch c := m.Clusters[cluster.Name]; {
		case c == nil:
			return nil, errUnknownCluster(cluster.Name)
		case c.State == federation.ClusterFailed:
			return nil, federation.Errorf(federation.Conflict, "physical cluster %q failed just now; restore it when that is over", cluster.Name)
		}
		return planner.WithClusterState(m, cluster.Name, federation.ClusterActive)
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.RestoreClusterResponse{Cluster: t.clusterProto(m, m.Clusters[cluster.Name])}, nil
}

// restoreFailed takes a failed cluster back, by an operation.
func (t *term) restoreFailed(ctx context.Context, cluster *federation.Cluster, req *adminv1.RestoreClusterRequest) (*adminv1.RestoreClusterResponse, error) {
	if t.ops.byRequest(req.GetRequestId()) == nil {
		// What does not fit is told at once, not in an operation that fails.
		if err := t.checkReturn(ctx, cluster.Name); err != nil {
			return nil, err
		}
	}
	op, err := t.ops.start(ctx, kindRestoreCluster, clusterTarget(cluster.Name), req.GetRequestId(), restoreSpec{Cluster: cluster.Name})
	if err != nil {
		return nil, err
	}
	rec, _ := op.record()
	out := &adminv1.RestoreClusterResponse{Operation: collectionOperations + rec.ID}
	if req.GetNoWait() {
		return out, nil
	}
	if err := t.wait(ctx, op); err != nil {
		return nil, err
	}
	if cluster := t.current().Clusters[cluster.Name]; cluster != nil {
		out.Cluster = t.clusterProto(t.current(), cluster)
	}
	return out, nil
}

// checkReturn checks that a failed cluster can be taken back: its failover is over, it
// answers, and it is the one that failed.
func (t *term) checkReturn(ctx context.Context, name federation.ClusterName) error {
	if err := t.ops.idle(failoverTarget(name)); err != nil {
		return federation.Errorf(federation.Conflict, "physical cluster %q is being failed over; restore it when that is over, or cancel it first: %w", name, err)
	}
	cluster := t.current().Clusters[name]
	if cluster == nil {
		return errUnknownCluster(name)
	}
	c, err := t.parts.Clusters.Cluster(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.ProbeTimeout)
	defer cancel()
	info, err := c.Info(ctx)
	switch {
	case err != nil:
		return federation.Errorf(federation.ClusterUnavailable, "physical cluster %q does not answer; start it, or set its new addresses, before it is restored", name).WithCause(err)
	case cluster.PhysicalID != "" && info.ClusterID != cluster.PhysicalID:
		return federation.Errorf(federation.PolicyViolation, "physical cluster %q: its addresses lead to another Kafka cluster (id %s) than the one that failed (id %s), so the records of its topics are not there", name, info.ClusterID, cluster.PhysicalID)
	}
	return nil
}
