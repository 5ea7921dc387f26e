package controller

import (
	"context"
	"fmt"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/rpcerror"
)

// A failed cluster that never comes back is abandoned: all that lies there leaves the
// map, topic by topic, and then the cluster. Readers find a gap there, and go on behind it.

// abandonSpec is what an abandon-cluster operation was asked for.
type abandonSpec struct {
	Cluster federation.ClusterName `json:"cluster"`
}

// abandonTarget is what an abandon-cluster operation works on. It is not the cluster
// itself: a restore may wait there for a cluster that does not come back, and ends with it.
func abandonTarget(cluster federation.ClusterName) string { return "abandon/" + string(cluster) }

// AbandonCluster forgets a failed cluster with all that lies there.
func (s *clusterService) AbandonCluster(ctx context.Context, req *adminv1.AbandonClusterRequest) (*adminv1.AbandonClusterResponse, error) {
	out, err := s.c.abandonCluster(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return out, nil
}

func (c *Controller) abandonCluster(ctx context.Context, req *adminv1.AbandonClusterRequest) (*adminv1.AbandonClusterResponse, error) {
	t, err := c.leading()
	if err != nil {
		return nil, err
	}
	name, err := parseCluster(req.GetName())
	if err != nil {
		return nil, err
	}
	out := &adminv1.AbandonClusterResponse{}
	if t.ops.byRequest(req.GetRequestId()) == nil {
		if out.Topics, err = t.toAbandon(ctx, name); err != nil || req.GetValidateOnly() {
			return out, err
		}
	}
	op, err := t.ops.start(ctx, kindAbandonCluster, abandonTarget(name), req.GetRequestId(), abandonSpec{Cluster: name})
	if err != nil {
		return nil, err
	}
	rec, _ := op.record()
	out.Operation = collectionOperations + rec.ID
	if req.GetNoWait() {
		return out, nil
	}
	return out, t.wait(ctx, op)
}

// toAbandon checks that a cluster can be abandoned, and tells what is given up.
func (t *term) toAbandon(ctx context.Context, name federation.ClusterName) ([]*adminv1.AbandonClusterResponse_Topic, error) {
	if t.current().Clusters[name] == nil {
		return nil, errUnknownCluster(name)
	}
	if err := t.ops.idle(failoverTarget(name)); err != nil {
		return nil, federation.Errorf(federation.Conflict, "physical cluster %q is being failed over; abandon it when that is over, or cancel it first: %w", name, err)
	}
	// A restore that can go on is not cut short by accident.
	if err := t.ops.idle(clusterTarget(name)); err != nil && t.checkReturn(ctx, name) == nil {
		return nil, federation.Errorf(federation.Conflict, "physical cluster %q is being restored; cancel that first: %w", name, err)
	}
	topics, err := planner.ToAbandon(t.current(), name)
	if err != nil {
		return nil, err
	}
	if err := t.ops.notBoundFor(name); err != nil {
		return nil, err
	}
	out := make([]*adminv1.AbandonClusterResponse_Topic, len(topics))
	for i, a := range topics {
		out[i] = &adminv1.AbandonClusterResponse_Topic{Name: t.topicName(a.Topic), Extents: int32(a.Extents), Records: a.Records, Unseen: a.Unseen}
		for _, p := range a.Partitions {
			out[i].Partitions = append(out[i].Partitions, int32(p))
		}
	}
	return out, nil
}

// notBoundFor returns an error if an operation moves heads to a cluster: those that have no
// way back go elsewhere only while the cluster is known.
func (o *operations) notBoundFor(name federation.ClusterName) error {
	if id := o.movesTo(name); id != "" {
		return federation.Errorf(federation.Conflict, "physical cluster %q: operation %s moves heads there, or sends them elsewhere now; abandon the cluster when it has ended. If its topic may use no other cluster, `braid topic expand --to` lets it", name, id)
	}
	return nil
}

// abandon: the extents of each topic leave the map ► the cluster does. A cancelled one
// leaves the cluster failed, without what was given up; to ask for it again goes on.
func (o *operations) abandon(ctx context.Context, op *operation) error {
	rec, _ := op.record()
	var spec abandonSpec
	if err := decode(rec.Spec, &spec); err != nil {
		return err
	}
	if o.t.current().Clusters[spec.Cluster] == nil {
		return nil // by a leader that did not come to say so
	}
	topics, err := planner.ToAbandon(o.t.current(), spec.Cluster)
	if err != nil {
		return err
	}
	total := int64(len(topics))
	for i, a := range topics {
		if err := op.cancelled(); err != nil {
			return err
		}
		op.step("give up", int64(i), total, string(a.Topic))
		m, err := o.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) {
			return planner.WithAbandoned(m, spec.Cluster, a.Topic)
		})
		if err != nil {
			return err
		}
		o.t.log.Warn("what lies on a failed cluster is given up", "topic", a.Topic, "cluster", spec.Cluster, "extents", a.Extents, "records", a.Records, "unseen", a.Unseen, "version", m.Version)
	}
	op.step("give up", total, total, "")
	if err := op.cancelled(); err != nil {
		return err
	}
	op.step("remove", 0, 1, "")
	m, err := o.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) {
		switch c := m.Clusters[spec.Cluster]; {
		case c == nil:
			return m, nil
		case c.State != federation.ClusterFailed:
			return nil, federation.Errorf(federation.Conflict, "physical cluster %q was restored meanwhile", spec.Cluster)
		}
		if err := o.notBoundFor(spec.Cluster); err != nil {
			return nil, err
		}
		return planner.WithoutCluster(m, spec.Cluster)
	})
	if err != nil {
		return err
	}
	o.t.forgetAlarms(spec.Cluster)
	o.t.awaitVisible(ctx, m.Version)
	op.step("remove", 1, 1, fmt.Sprintf("map version %d", m.Version))
	return nil
}

// forgetAlarms clears the alarms of a cluster that left the map.
func (t *term) forgetAlarms(name federation.ClusterName) {
	for _, alarm := range []string{"/away", "/id", "/missing", "/failed"} {
		t.health.clear("cluster/" + string(name) + alarm)
	}
}
