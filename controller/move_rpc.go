package controller

import (
	"context"
	"slices"
	"sync"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/internal/upstream"
)

// ExpandTopic spreads the heads of a topic over more physical clusters.
func (s *topicService) ExpandTopic(ctx context.Context, req *adminv1.ExpandTopicRequest) (*adminv1.ExpandTopicResponse, error) {
	var clusters []federation.ClusterName
	for _, n := range req.GetPhysicalClusters() {
		if c := federation.ClusterName(n); !slices.Contains(clusters, c) {
			clusters = append(clusters, c)
		}
	}
	out, err := s.c.moveTopic(ctx, moveCall{name: req.GetName(), requestID: req.GetRequestId(), validate: req.GetValidateOnly(), noWait: req.GetNoWait()},
		moveSpec{Clusters: clusters})
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return &adminv1.ExpandTopicResponse{Topic: out.topic, Operation: out.operation, Moves: out.moves}, nil
}

// MovePartitions moves the heads of some partitions to one physical cluster.
func (s *topicService) MovePartitions(ctx context.Context, req *adminv1.MovePartitionsRequest) (*adminv1.MovePartitionsResponse, error) {
	if len(req.GetPartitions()) == 0 {
		return nil, rpcerror.Error(federation.Errorf(federation.InvalidArgument, "%s: no partitions are named", req.GetName()))
	}
	spec := moveSpec{Clusters: []federation.ClusterName{federation.ClusterName(req.GetPhysicalCluster())}}
	for _, p := range req.GetPartitions() {
		spec.Partitions = append(spec.Partitions, federation.LogicalPartition(p))
	}
	out, err := s.c.moveTopic(ctx, moveCall{name: req.GetName(), requestID: req.GetRequestId(), validate: req.GetValidateOnly(), noWait: req.GetNoWait()}, spec)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return &adminv1.MovePartitionsResponse{Topic: out.topic, Operation: out.operation, Moves: out.moves}, nil
}

// A moveCall is what the calls that move heads of a topic have in common.
type moveCall struct {
	name, requestID  string
	validate, noWait bool
}

type moveAnswer struct {
	topic     *adminv1.Topic
	operation string
	moves     []*adminv1.HeadMove
}

func (c *Controller) moveTopic(ctx context.Context, call moveCall, spec moveSpec) (moveAnswer, error) {
	t, topic, err := c.findTopic(call.name)
	if err != nil {
		return moveAnswer{}, err
	}
	spec.Topic, spec.TopicID = topic.Name, topic.ID
	var out moveAnswer
	if t.ops.byRequest(call.requestID) == nil {
		if err := t.ops.idle(c.topicName(topic.Name)); err != nil && !call.validate {
			return moveAnswer{}, err
		}
		// What does not fit is told at once, not in an operation that fails.
		plan, err := t.planMove(ctx, spec, topic)
		if err != nil {
			return moveAnswer{}, err
		}
		out.moves = moveProtos(plan)
	}
	if call.validate {
		out.topic = c.topicProto(t.current(), topic)
		return out, nil
	}
	op, err := t.ops.start(ctx, kindMoveHeads, c.topicName(topic.Name), call.requestID, spec)
	if err != nil {
		return moveAnswer{}, err
	}
	rec, _ := op.record()
	out.operation = collectionOperations + rec.ID
	if call.noWait {
		return out, nil
	}
	if err := t.wait(ctx, op); err != nil {
		return moveAnswer{}, err
	}
	if topic := t.current().Topic(topic.Name); topic != nil {
		out.topic = c.topicProto(t.current(), topic)
	}
	return out, nil
}

func moveProtos(plans ...planner.MovePlan) []*adminv1.HeadMove {
	var out []*adminv1.HeadMove
	for _, plan := range plans {
		for _, v := range plan.Moves {
			out = append(out, &adminv1.HeadMove{
				Topic: string(v.Topic), Partition: int32(v.Partition), FromPhysicalCluster: string(v.From.Cluster), ToPhysicalCluster: string(v.To.Cluster),
			})
		}
	}
	return out
}

// planMove decides which heads of a topic move where, checks that the clusters
// fit, and changes nothing.
func (t *term) planMove(ctx context.Context, spec moveSpec, topic *federation.Topic) (planner.MovePlan, error) {
	m := t.current()
	away := t.awayNow(ctx)
	existing, err := t.existing(ctx, m, away, topic)
	if err != nil {
		return planner.MovePlan{}, err
	}
	var plan planner.MovePlan
	switch {
	case spec.Drain != "":
		var plans []planner.MovePlan
		plans, err = planner.Drain(m, spec.Drain, func(x *federation.Topic) map[federation.ClusterName]int32 {
			return existing[x.Name]
		}, away, t.fleet.load())
		if i := slices.IndexFunc(plans, func(p planner.MovePlan) bool { return p.Topic == topic.Name }); i >= 0 {
			plan = plans[i]
		}
	case len(spec.Partitions) > 0:
		plan, err = planner.MoveTo(m, topic.Name, spec.Partitions, spec.Clusters[0], existing[topic.Name], away)
	default:
		plan, err = planner.Expand(m, topic.Name, spec.Clusters, existing[topic.Name], away, t.fleet.load())
	}
	if err != nil {
		return planner.MovePlan{}, err
	}
	return plan, t.checkFit(ctx, plan, topic)
}

// existing asks the clusters that may take heads how many partitions the physical
// topics of topics have there: a partition that an earlier move has begun to use is
// never used again.
func (t *term) existing(ctx context.Context, m *federation.Map, away map[federation.ClusterName]bool, topics ...*federation.Topic) (map[federation.TopicName]map[federation.ClusterName]int32, error) {
	var names []federation.ClusterName
	for n, c := range m.Clusters {
		if c.State == federation.ClusterActive && !away[n] {
			names = append(names, n)
		}
	}
	physical := make([]string, len(topics))
	for i, topic := range topics {
		physical[i] = planner.PhysicalName(m.LogicalCluster, topic.Name, topic.Generation)
	}
	var mu sync.Mutex
	out := make(map[federation.TopicName]map[federation.ClusterName]int32, len(topics))
	for _, topic := range topics {
		out[topic.Name] = make(map[federation.ClusterName]int32, len(names))
	}
	return out, t.eachCluster(ctx, len(names), func(i int) federation.ClusterName { return names[i] }, func(ctx context.Context, c *upstream.Cluster, _ []int) error {
		found, err := c.Topics(ctx, physical...)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for i, topic := range topics {
			out[topic.Name][c.Name] = int32(len(found[physical[i]].Partitions))
		}
		return nil
	})
}

// DrainCluster moves all heads of a cluster to others.
func (s *clusterService) DrainCluster(ctx context.Context, req *adminv1.DrainClusterRequest) (*adminv1.DrainClusterResponse, error) {
	out, err := s.c.drainCluster(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return out, nil
}

func (c *Controller) drainCluster(ctx context.Context, req *adminv1.DrainClusterRequest) (*adminv1.DrainClusterResponse, error) {
	t, cluster, err := c.findCluster(req.GetName())
	if err != nil {
		return nil, err
	}
	out := &adminv1.DrainClusterResponse{}
	if t.ops.byRequest(req.GetRequestId()) == nil {
		plans, err := t.planDrain(ctx, cluster.Name)
		if err != nil {
			return nil, err
		}
		out.Moves = moveProtos(plans...)
		if req.GetValidateOnly() {
			out.Cluster = t.clusterProto(t.current(), cluster)
			return out, nil
		}
	}
	op, err := t.ops.start(ctx, kindDrainCluster, clusterTarget(cluster.Name), req.GetRequestId(), drainSpec{Cluster: cluster.Name, WaitEmpty: req.GetWaitEmpty()})
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

// planDrain decides where all heads of a cluster go, checks that the clusters fit,
// and changes nothing.
func (t *term) planDrain(ctx context.Context, cluster federation.ClusterName) ([]planner.MovePlan, error) {
	m := t.current()
	topics, _, _ := topicsWithHeads(m, cluster)
	away := t.awayNow(ctx)
	existing, err := t.existing(ctx, m, away, topics...)
	if err != nil {
		return nil, err
	}
	plans, err := planner.Drain(m, cluster, func(x *federation.Topic) map[federation.ClusterName]int32 { return existing[x.Name] }, away, t.fleet.load())
	if err != nil {
		return nil, err
	}
	for _, plan := range plans {
		if err := t.checkFit(ctx, plan, m.Topic(plan.Topic)); err != nil {
			return nil, err
		}
	}
	return plans, nil
}
