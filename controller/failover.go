package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/internal/upstream"
)

// A cluster that failed cannot be sealed, so nobody knows where its extents end. Its
// heads are suspended, and go on elsewhere behind a gap in the offsets:
//
//	primed ──► sealing: no gateway appends to it, or gives out its records ──► suspended, and the next head open
//	              └─(a gateway does not answer)─► open again
//
// The last step is one edit of the map. All of that is safe, too, when the cluster is
// in truth alive: then it is just not used any more.

// failoverTopicsMax bounds the topics that are failed over at one time.
const failoverTopicsMax = 16

// failoverSpec is what a failover-cluster operation was asked for.
type failoverSpec struct {
	Cluster federation.ClusterName `json:"cluster"`
	// Why says who asked: nobody, if the policy did.
	Why string `json:"why,omitempty"`
}

// failoverTopicSpec is what a failover-topic operation was asked for.
type failoverTopicSpec struct {
	Topic   federation.TopicName   `json:"topic"`
	TopicID federation.TopicID     `json:"topicId"`
	Cluster federation.ClusterName `json:"cluster"`
	// Committed are the highest offsets that groups have committed.
	Committed map[federation.LogicalPartition]federation.LogicalOffset `json:"committed,omitempty"`
}

// failoverTarget is what a failover-cluster operation works on. It is not the cluster
// itself: a drain or a restore may be at work there, and ends by itself.
func failoverTarget(cluster federation.ClusterName) string { return "failover/" + string(cluster) }

// failed reports whether a cluster was given up.
func (t *term) failed(cluster federation.ClusterName) bool {
	c := t.current().Clusters[cluster]
	return c != nil && c.State == federation.ClusterFailed
}

func errDrainFailed(cluster federation.ClusterName) error {
	return federation.Errorf(federation.PolicyViolation, "physical cluster %q failed: its heads cannot be sealed, they are failed over", cluster)
}

func errMoveFailed(cluster federation.ClusterName) error {
	return federation.Errorf(federation.ClusterUnavailable, "physical cluster %q failed: the move ended before its time, so that partitions can be failed over; what has moved stays moved. Ask for it again later", cluster)
}

// givenUp returns an error if heads cannot move, since a cluster that they move from or
// to failed.
func (t *term) givenUp(moves []planner.Move) error {
	for _, v := range moves {
		for _, name := range []federation.ClusterName{v.From.Cluster, v.To.Cluster} {
			if t.failed(name) {
				return errMoveFailed(name)
			}
		}
	}
	return nil
}

// checkFailover checks that a cluster can be given up.
func checkFailover(m *federation.Map, cluster federation.ClusterName, away map[federation.ClusterName]bool) error {
	if m.Clusters[cluster] == nil {
		return errUnknownCluster(cluster)
	}
	missing := false
	for name, c := range m.Clusters {
		if name == cluster || c.State != federation.ClusterActive || c.Weight <= 0 {
			continue
		}
		if !away[name] {
			return nil
		}
		missing = true
	}
	if missing {
		return federation.Errorf(federation.ClusterUnavailable, "physical cluster %q: no other active cluster answers at the moment, so there is nowhere to go; try again", cluster)
	}
	return federation.Errorf(federation.PolicyViolation, "physical cluster %q: there is no other active cluster with a weight above 0 to go to; `braid cluster add` adds one", cluster)
}

// failoverCluster: declared failed ► the heads of each topic go on elsewhere, by an
// operation of its own. A cancelled failover leaves the cluster failed; to ask for it
// again goes on, and a restore takes it back.
func (o *operations) failoverCluster(ctx context.Context, op *operation) error {
	rec, _ := op.record()
	var spec failoverSpec
	if err := decode(rec.Spec, &spec); err != nil {
		return err
	}
	op.step("declare", 0, 1, "")
	away := o.t.health.away()
	m, err := o.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) {
		if c := m.Clusters[spec.Cluster]; c == nil || c.State != federation.ClusterFailed {
			if err := checkFailover(m, spec.Cluster, away); err != nil {
				return nil, err
			}
		}
		return planner.WithClusterState(m, spec.Cluster, federation.ClusterFailed)
	})
	if err != nil {
		return err
	}
	op.step("declare", 1, 1, fmt.Sprintf("map version %d", m.Version))
	o.t.tellFailed(m)
	defer func() { o.t.tellFailed(o.t.current()) }()
	o.t.log.Warn("physical cluster is failed over", "cluster", spec.Cluster, "why", spec.Why)
	groups := o.t.committedOn(ctx, spec.Cluster)
	_, total, _ := topicsWithHeads(m, spec.Cluster)
	for round := 0; ; round++ {
		if err := op.cancelled(); err != nil {
			return firstOf(o.cancelChildren(ctx, rec.ID), err)
		}
		topics, heads, _ := topicsWithHeads(o.t.current(), spec.Cluster)
		total = max(total, heads)
		op.step("fail over", int64(total-heads), int64(total), "")
		o.makeWay(spec.Cluster, topics)
		if len(topics) == 0 {
			break
		}
		later, err := o.failoverTopics(ctx, op, childPrefix(rec.ID)+strconv.Itoa(round)+"-", spec.Cluster, topics, groups)
		if err != nil {
			o.t.tellSkipping(op, groups)
			return err
		}
		if later != nil {
			_, heads, _ = topicsWithHeads(o.t.current(), spec.Cluster)
			op.step("fail over", int64(total-heads), int64(total), rpcerror.Error(later).Message())
			if !wait(ctx, op.cancel, nil, time.Now().Add(backoff(round))) {
				return ctx.Err()
			}
		}
	}
	o.t.tellSkipping(op, groups)
	return nil
}

// makeWay has moves of topics end that have heads on a failed cluster, and those that go
// there, so that the heads can be failed over; those that have no way back pass the
// cluster by themselves first. So does a drain of the cluster.
func (o *operations) makeWay(cluster federation.ClusterName, topics []*federation.Topic) {
	waiting := make(map[string]bool, len(topics))
	for _, t := range topics {
		waiting[o.t.topicName(t.Name)] = true
	}
	for _, other := range o.running() {
		rec, _ := other.record()
		switch {
		case rec.Kind == kindMoveHeads && (waiting[rec.Target] || other.needsCluster(cluster)):
			other.giveWay(errMoveFailed(cluster))
		case rec.Kind == kindDrainCluster && rec.Target == clusterTarget(cluster):
			other.giveWay(errDrainFailed(cluster))
		}
	}
}

// failoverTopics fails topics over, some at a time. One that cannot go anywhere does not
// keep the others: those that can later are told apart from those that cannot.
func (o *operations) failoverTopics(ctx context.Context, op *operation, prefix string, cluster federation.ClusterName, topics []*federation.Topic, groups committed) (later, err error) {
	var mu sync.Mutex
	var refused []string
	var last, stopped error
	slots := make(chan struct{}, failoverTopicsMax)
	var wg sync.WaitGroup
	for _, t := range topics {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			spec := failoverTopicSpec{Topic: t.Name, TopicID: t.ID, Cluster: cluster, Committed: groups.highest(t)}
			failure, err := o.child(ctx, op, kindFailoverTopic, prefix+t.ID.String(), t.Name, spec)
			mu.Lock()
			defer mu.Unlock()
			have := o.t.current().Topic(t.Name)
			switch {
			case err != nil:
				stopped = firstOf(stopped, err)
			case failure == nil, have == nil, have.ID != t.ID: // deleted meanwhile
			case passes(federation.KindOf(failure)) && !errors.Is(failure, errCancelled):
				later = failure
			default:
				refused, last = append(refused, fmt.Sprintf("%s (%s)", t.Name, rpcerror.Error(failure).Message())), failure
			}
		})
	}
	wg.Wait()
	switch {
	case stopped != nil:
		return nil, stopped
	case len(refused) > 0:
		return nil, federation.Errorf(federation.KindOf(last), "physical cluster %q is failed, but heads of %d topics stay there: %s", cluster, len(refused), handful(refused))
	}
	return later, nil
}

// child runs the operation for one topic to its end, when it is the topic's turn.
// failure is its own error; err is why it was not waited for.
func (o *operations) child(ctx context.Context, op *operation, kind, requestID string, topic federation.TopicName, spec any) (failed, err error) {
	if kind == kindFailoverTopic {
		defer o.want(o.t.topicName(topic))()
	}
	var child *operation
	for attempt := 0; child == nil; attempt++ {
		if err := op.cancelled(); err != nil {
			return nil, err
		}
		child, err = o.start(ctx, kind, o.t.topicName(topic), requestID, spec)
		if err != nil && (ctx.Err() != nil || !passes(federation.KindOf(err))) {
			return nil, err
		}
		if err != nil && !wait(ctx, op.cancel, nil, time.Now().Add(backoff(attempt))) {
			return nil, ctx.Err()
		}
	}
	select {
	case <-child.ended:
	case <-op.cancel:
		return nil, firstOf(o.cancelChild(ctx, child), op.cancelled())
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	rec, _ := child.record()
	if rec.ErrorKind == errorCancelled {
		return errCancelled, nil
	}
	if rec.ErrorKind == "" {
		op.tell(topic, rec)
	}
	return failure(rec), nil
}

// stepResults is the step of a restore that says what became of the topics' records.
const stepResults = "topics"

// tell takes over what the operation for one topic has to say in the end.
func (op *operation) tell(topic federation.TopicName, rec redisstore.Operation) {
	i := slices.IndexFunc(rec.Steps, func(s redisstore.OperationStep) bool { return s.Name == stepResults && s.Detail != "" })
	if i < 0 {
		return
	}
	mine, _ := op.record()
	done, detail := int64(1), fmt.Sprintf("%s: %s", topic, rec.Steps[i].Detail)
	if j := slices.IndexFunc(mine.Steps, func(s redisstore.OperationStep) bool { return s.Name == stepResults }); j >= 0 {
		before := mine.Steps[j]
		if done = before.Done + 1; done <= resultsTold {
			detail = before.Detail + "; " + detail
		} else {
			detail = before.Detail // the operations of the topics have theirs
		}
	}
	op.step(stepResults, done, done, detail)
}

// resultsTold bounds the results of topics that the operation of a cluster repeats.
const resultsTold = 20

// failoverTopic: plan ► physical partitions ► primers ► rounds of heads that are
// suspended and opened elsewhere. It ends with an error that can pass when the places
// that it planned cannot be had any more: the next one plans anew.
func (o *operations) failoverTopic(ctx context.Context, op *operation) error {
	rec, _ := op.record()
	var spec failoverTopicSpec
	var state moveState
	if err := decode(rec.Spec, &spec); err != nil {
		return err
	}
	err := decode(rec.State, &state)
	if err == nil {
		err = o.failoverHeadsOf(ctx, op, spec, &state)
	}
	if err == nil || ctx.Err() != nil || federation.KindOf(err) == federation.NotLeader {
		return err
	}
	// Nobody else marks heads of the topic meanwhile.
	_, undone := o.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) {
		return planner.WithoutSealing(m, sealingIn(m, spec.Topic)), nil
	})
	return firstOf(undone, err)
}

func (o *operations) failoverHeadsOf(ctx context.Context, op *operation, spec failoverTopicSpec, state *moveState) error {
	topic := o.t.current().Topic(spec.Topic)
	if topic == nil || topic.ID != spec.TopicID {
		return errUnknownTopic(spec.Topic)
	}
	s := &sealer{term: o.t, topic: topic}
	if !state.Planned {
		op.step("plan", 0, 1, "")
		plan, err := o.t.planFailover(ctx, spec.Cluster, topic)
		if err != nil {
			return err
		}
		id, err := o.t.producerID(ctx)
		if err != nil {
			return err
		}
		*state = newMoveState(plan, id)
		op.uses(state.clusters())
		if err := o.save(ctx, op, *state); err != nil {
			return err
		}
	}
	total := int64(state.Total)
	op.step("plan", 1, 1, fmt.Sprintf("%d heads", total))
	s.producer = state.Producer
	if !state.Primed && total > 0 {
		if err := o.primeHeads(ctx, op, s, state); err != nil {
			return err
		}
	}
	s.batchBytes = state.BatchBytes
	if err := o.dropMoved(s, state); err != nil { // by a leader that did not come to save it
		return err
	}
	for len(state.Heads) > 0 {
		op.step("fail over", total-int64(len(state.Heads)), total, "")
		if err := o.failoverRound(ctx, op, s, spec, state); err != nil {
			return err
		}
	}
	op.step("fail over", total, total, "")
	return nil
}

// failoverRound suspends the first of the heads that are left, and opens the next ones.
func (o *operations) failoverRound(ctx context.Context, op *operation, s *sealer, spec failoverTopicSpec, state *moveState) error {
	round := state.Heads[:min(len(state.Heads), o.t.cfg.SealHeadsMax)]
	opened, err := s.openKnown(ctx, round)
	if err != nil {
		return err
	}
	since, held, err := o.holdFailed(ctx, op, s, movesOf(round))
	if err != nil {
		return err
	}
	heads := failedHeads(opened, held, spec.Committed)
	m, err := o.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) { return planner.WithFailedOver(m, heads) })
	if err != nil {
		return err
	}
	o.t.parts.Metrics.sealedFor(ctx, max(0, time.Since(since)))
	o.t.log.Warn("heads go on on other physical clusters", "topic", s.topic.Name, "cluster", spec.Cluster, "heads", len(heads), "version", m.Version)
	if err := o.dropMoved(s, state); err != nil {
		return err
	}
	if err := o.saveUntilDecided(ctx, op, *state); err != nil {
		return err
	}
	if len(state.Heads) == 0 {
		o.t.awaitVisible(ctx, m.Version)
	}
	return nil
}

func failedHeads(heads []planner.MovedHead, held heldEnds, committed map[federation.LogicalPartition]federation.LogicalOffset) []planner.FailedHead {
	out := make([]planner.FailedHead, len(heads))
	for i, h := range heads {
		e := held[h.TopicPartition]
		out[i] = planner.FailedHead{
			Move: h.Move, Start: h.Start, Opening: h.Opening, Epoch: h.Epoch, Seen: e.SeenEnd, Acknowledged: e.AcknowledgedEnd, Committed: committed[h.Partition],
		}
	}
	return out
}

// holdFailed marks heads of a failed cluster as sealing and waits until no gateway
// appends to them or gives out their records. While that cannot be, they are as they
// were, and it is tried again.
func (o *operations) holdFailed(ctx context.Context, op *operation, s *sealer, moves []planner.Move) (since time.Time, held heldEnds, err error) {
	for attempt := 0; ; attempt++ {
		// An earlier leader may have left them sealing.
		if err := o.release(ctx, moves); err != nil {
			return since, nil, err
		}
		if err := op.cancelled(); err != nil {
			return since, nil, err
		}
		if err := o.t.awaitReachable(ctx, op); err != nil {
			return since, nil, err
		}
		if err := s.targetsAnswer(ctx, moves); err != nil {
			return since, nil, err
		}
		since = time.Now()
		m, err := o.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) { return planner.WithSealing(m, moves) })
		if err != nil {
			return since, nil, err
		}
		held, missing := o.t.awaitHeldEnds(ctx, m.Version, moves)
		if len(missing) == 0 {
			op.step("hold", 1, 1, "")
			return since, held, nil
		}
		if ctx.Err() != nil {
			return since, nil, ctx.Err()
		}
		op.step("hold", 0, 1, fmt.Sprintf("gateways %v did not hold their appends within %s; it is tried again", missing, o.t.cfg.SealWait))
		o.t.log.Warn("heads of a failed cluster could not be held; it is tried again", "topic", s.topic.Name, "heads", len(moves), "gateways", missing)
		if err := o.release(ctx, moves); err != nil {
			return since, nil, err
		}
		wait(ctx, op.cancel, nil, time.Now().Add(backoff(attempt)))
	}
}

// targetsAnswer is reachable for the partitions that heads go to.
func (s *sealer) targetsAnswer(ctx context.Context, moves []planner.Move) error {
	there := make([]planner.Move, len(moves))
	for i, v := range moves {
		there[i] = planner.Move{TopicPartition: v.TopicPartition, From: v.To, To: v.To}
	}
	return s.reachable(ctx, there)
}

// planFailover decides where the heads of a topic go that lie on a failed cluster, and
// changes nothing.
func (t *term) planFailover(ctx context.Context, cluster federation.ClusterName, topic *federation.Topic) (planner.MovePlan, error) {
	m := t.current()
	existing, away := t.elsewhere(ctx, m, cluster, topic)
	plan, err := planner.Failover(m, cluster, topic.Name, existing[topic.Name], away)
	if err != nil {
		return planner.MovePlan{}, err
	}
	return plan, t.checkFailoverFit(ctx, plan, topic)
}

// elsewhere is existing for the clusters that heads of a failed one can go to. One that
// does not answer at this moment counts as away.
func (t *term) elsewhere(ctx context.Context, m *federation.Map, failed federation.ClusterName, topics ...*federation.Topic) (map[federation.TopicName]map[federation.ClusterName]int32, map[federation.ClusterName]bool) {
	away := t.health.away()
	var names []planner.PhysicalTopic
	for name, c := range m.Clusters {
		if name != failed && c.State == federation.ClusterActive && !away[name] {
			names = append(names, planner.PhysicalTopic{Cluster: name})
		}
	}
	out := make(map[federation.TopicName]map[federation.ClusterName]int32, len(topics))
	physical := make([]string, len(topics))
	for i, topic := range topics {
		out[topic.Name] = make(map[federation.ClusterName]int32, len(names))
		physical[i] = planner.PhysicalName(m.LogicalCluster, topic.Name, topic.Generation)
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.ProbeTimeout)
	defer cancel()
	var mu sync.Mutex
	_ = t.each(ctx, names, func(ctx context.Context, pt planner.PhysicalTopic, c *upstream.Cluster) error {
		found, err := c.Topics(ctx, physical...)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			away[pt.Cluster] = true
			return nil // the others are asked all the same
		}
		for i, topic := range topics {
			out[topic.Name][pt.Cluster] = int32(len(found[physical[i]].Partitions))
		}
		return nil
	})
	return out, away
}

// checkFailoverFit is checkFit without a word of the cluster that failed.
func (t *term) checkFailoverFit(ctx context.Context, plan planner.MovePlan, topic *federation.Topic) error {
	return t.each(ctx, plan.Topics, func(ctx context.Context, pt planner.PhysicalTopic, c *upstream.Cluster) error {
		info, err := c.Info(ctx)
		if err != nil {
			return err
		}
		if int(topic.ReplicationFactor) > len(info.Brokers) {
			return misfit(topic, pt.Cluster, fmt.Sprintf("the topic has %d replicas of each partition, the cluster %d brokers", topic.ReplicationFactor, len(info.Brokers)))
		}
		would, err := effectiveConfig(ctx, c, pt, topic)
		if err != nil {
			return err
		}
		if strings.Contains(would["cleanup.policy"], "compact") {
			return federation.Errorf(federation.Unsupported,
				"topic %q is compacted: it cannot be failed over. What another cluster compacts does not take away what lies on the one that failed, so that deleted keys would come back with it", topic.Name)
		}
		return nil
	})
}
