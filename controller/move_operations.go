package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/rpcerror"
)

// moveSpec is what an operation that moves heads of one topic was asked for.
type moveSpec struct {
	Topic   federation.TopicName `json:"topic"`
	TopicID federation.TopicID   `json:"topicId"`
	// Partitions to move to the one of Clusters; none = spread all over what the topic
	// may use, and Clusters.
	Partitions []federation.LogicalPartition `json:"partitions,omitempty"`
	Clusters   []federation.ClusterName      `json:"clusters,omitempty"`
	// Drain moves all heads off this cluster instead.
	Drain federation.ClusterName `json:"drain,omitempty"`
}

// moveState is how far it is.
type moveState struct {
	Planned  bool             `json:"planned,omitempty"`
	Plan     planner.MovePlan `json:"plan"`
	Producer int64            `json:"producer,omitempty"` // of the marks
	// Heads are the heads that are primed and have not moved yet. They have the place of
	// the plan's moves then, whose number Total keeps.
	Primed bool     `json:"primed,omitempty"`
	Heads  headList `json:"heads,omitempty"`
	Total  int      `json:"total,omitempty"`
	// BatchBytes is the largest batch that all partitions take that heads move to.
	BatchBytes int `json:"batchBytes,omitempty"`
	// Compacted tells that the records of the heads are copied, and DeleteRetentionMs how
	// long that may take.
	Compacted         bool  `json:"compacted,omitempty"`
	DeleteRetentionMs int64 `json:"deleteRetentionMs,omitempty"`
	// Ending is how many of Heads, from the first on, have no way back.
	Ending int `json:"ending,omitempty"`
	// SealingMs is when the heads were marked sealing, in ms since 1970.
	SealingMs int64 `json:"sealingMs,omitempty"`
	// Acknowledged is what the gateways said of those when they held their appends.
	Acknowledged []federation.PhysicalOffset `json:"acknowledged,omitempty"`

	// within returns the state of an operation of which the move is a part; nil = it is all.
	within func(moveState) any

	undoing
}

// sealingIn returns the sealing heads of a topic, as moves to nowhere.
func sealingIn(m *federation.Map, topic federation.TopicName) []planner.Move {
	t := m.Topic(topic)
	if t == nil {
		return nil
	}
	var out []planner.Move
	for _, p := range t.Partitions {
		if h := p.Head(); h.State == federation.ExtentSealing {
			out = append(out, planner.Move{TopicPartition: federation.TopicPartition{Topic: topic, Partition: p.Number}, Extent: h.Number, From: h.PhysicalAddress})
		}
	}
	return out
}

// clusters returns the clusters that the heads move to.
func (s *moveState) clusters() []federation.ClusterName {
	out := make([]federation.ClusterName, len(s.Plan.Topics))
	for i, pt := range s.Plan.Topics {
		out[i] = pt.Cluster
	}
	return out
}

// moveHeads: plan ► physical partitions ► primers ► rounds of heads that are sealed
// and opened elsewhere. What has moved stays moved if the operation is cancelled.
//
// Whatever it fails of, no head stays sealing: nobody would open it again. The next
// operation seals with another producer, so the seal of this one is then a mark
// among the records, which readers pass over.
func (o *operations) moveHeads(ctx context.Context, op *operation) error {
	rec, _ := op.record()
	var spec moveSpec
	var state moveState
	if err := decode(rec.Spec, &spec); err != nil {
		return err
	}
	unreadable := decode(rec.State, &state)
	if state.UndoKind == "" {
		err := unreadable
		if err == nil {
			err = o.moveHeadsAgain(ctx, op, spec, &state)
		}
		if err == nil || ctx.Err() != nil || federation.KindOf(err) == federation.NotLeader {
			return err
		}
		// Saved first: nobody may go on from an end that was given up.
		state.undoing = undoFor(err)
		if failed := o.saveUntilDecided(ctx, op, state); failed != nil {
			return failed
		}
	}
	// Nobody else marks heads of the topic meanwhile.
	_, failed := o.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) {
		return planner.WithoutSealing(m, sealingIn(m, spec.Topic)), nil
	})
	if failed != nil {
		return failed
	}
	return state.undone()
}

func (o *operations) moveHeadsOf(ctx context.Context, op *operation, spec moveSpec, state *moveState) error {
	topic := o.t.current().Topic(spec.Topic)
	if topic == nil || topic.ID != spec.TopicID {
		return errUnknownTopic(spec.Topic)
	}
	s := &sealer{term: o.t, topic: topic, producer: state.Producer}
	if done, err := o.beginCopies(ctx, op, s, state); done || err != nil {
		return err
	}
	if !state.Planned {
		op.step("plan", 0, 1, "")
		if err := o.planMove(ctx, spec, topic, state); err != nil {
			return err
		}
		op.uses(state.clusters())
		if err := o.save(ctx, op, *state); err != nil {
			return err
		}
	}
	total := int64(state.Total)
	op.step("plan", 1, 1, fmt.Sprintf("%d heads move", total))
	if total == 0 {
		return o.allowClusters(ctx, spec)
	}
	s.producer, s.compacted = state.Producer, state.Compacted
	if !state.Primed {
		if err := o.primeHeads(ctx, op, s, state); err != nil {
			return err
		}
	}
	s.batchBytes = state.BatchBytes
	var err error
	if s.copier, err = o.newCopier(ctx, op, s, state); err != nil {
		return err
	}
	if err := o.allowClusters(ctx, spec); err != nil {
		return err
	}
	op.step("move", total-int64(len(state.Heads)), total, "")
	for len(state.Heads) > 0 {
		if err := o.moveRound(ctx, op, s, state); err != nil {
			return err
		}
		op.step("move", total-int64(len(state.Heads)), total, "")
	}
	return nil
}

// planMove decides which heads move where, and checks that the clusters fit.
func (o *operations) planMove(ctx context.Context, spec moveSpec, topic *federation.Topic, state *moveState) error {
	plan, err := o.t.planMove(ctx, spec, topic)
	if err != nil {
		return err
	}
	id, err := o.t.producerID(ctx)
	if err != nil {
		return err
	}
	from := make([]federation.PhysicalAddress, len(plan.Moves))
	for i, v := range plan.Moves {
		from[i] = v.From
	}
	compaction, err := o.t.compactionOf(ctx, topic, from)
	if err != nil {
		return err
	}
	total := state.Total
	*state = newMoveState(plan, id)
	state.Total += total
	state.Compacted, state.DeleteRetentionMs = compaction.on, compaction.retention.Milliseconds()
	return nil
}

// newMoveState is the state of what has just been planned; id is for its marks.
func newMoveState(plan planner.MovePlan, id int64) moveState {
	return moveState{Planned: true, Plan: plan, Producer: mark.ProducerID(id), Total: len(plan.Moves)}
}

// producerID takes a producer id for marks.
func (t *term) producerID(ctx context.Context) (id int64, err error) {
	err = retry(ctx, t.cfg.StepTimeout, func(ctx context.Context) error {
		id, err = t.ids.NextProducerID(ctx)
		return err
	})
	return id, err
}

// primeHeads makes the physical partitions and writes their first records.
func (o *operations) primeHeads(ctx context.Context, op *operation, s *sealer, state *moveState) error {
	places := placeState{Plan: planner.Plan{Topics: state.Plan.Topics}}
	for _, v := range state.Plan.Moves {
		places.Plan.Heads = append(places.Plan.Heads, v.To)
	}
	found, err := o.makePhysical(ctx, op, &places, s.topic.ReplicationFactor, s.topic.Config)
	if err != nil {
		return err
	}
	op.step("prime", 0, int64(len(state.Plan.Moves)), "")
	var heads []primedHead
	err = retry(ctx, o.t.cfg.StepTimeout, func(ctx context.Context) error {
		if err := op.cancelled(); err != nil {
			return err
		}
		if state.BatchBytes, err = s.largestBatch(ctx, state.Plan.Topics); err != nil {
			return err
		}
		heads, err = s.prime(ctx, state.Plan.Moves, found.epochs)
		return err
	})
	if err != nil {
		return err
	}
	state.Primed, state.Heads, state.Plan.Moves = true, heads, nil
	op.step("prime", int64(len(state.Heads)), int64(len(state.Heads)), "")
	return o.save(ctx, op, *state)
}

// allowClusters adds the clusters that were asked for to those that the topic may use.
func (o *operations) allowClusters(ctx context.Context, spec moveSpec) error {
	if len(spec.Clusters) == 0 {
		return nil
	}
	_, err := o.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) {
		if t := m.Topic(spec.Topic); t == nil || t.ID != spec.TopicID {
			return nil, errUnknownTopic(spec.Topic)
		}
		return planner.WithTopicClusters(m, spec.Topic, spec.Clusters)
	})
	return err
}

// moveRound moves the first of the heads that are left.
func (o *operations) moveRound(ctx context.Context, op *operation, s *sealer, state *moveState) error {
	if state.Ending == 0 {
		heads := state.Heads[:min(len(state.Heads), o.t.cfg.SealHeadsMax)]
		round := movesOf(heads)
		if s.copier != nil {
			if err := s.copier.take(heads); err != nil {
				return err
			}
		}
		held, err := o.holdHeads(ctx, op, s, round)
		if err != nil {
			return err
		}
		if s.copier != nil {
			s.copier.give(heads)
		}
		state.Ending, state.SealingMs = len(round), held.since.UnixMilli()
		state.Acknowledged = make([]federation.PhysicalOffset, len(round))
		for i, v := range round {
			state.Acknowledged[i] = held.acknowledged[v.TopicPartition]
		}
		if err := o.saveUntilDecided(ctx, op, *state); err != nil {
			return err
		}
	}
	return o.endHeads(ctx, op, s, state)
}

// saveUntilDecided is save that gives up only when the term is over: it is not
// known whether the state was saved, and nobody may go back if it was.
func (o *operations) saveUntilDecided(ctx context.Context, op *operation, state any) error {
	for attempt := 0; ; attempt++ {
		err := o.save(ctx, op, state)
		if err == nil || ctx.Err() != nil || !passes(federation.KindOf(err)) {
			return err
		}
		sleep(ctx, backoff(attempt))
	}
}

// holdPauseMax bounds the pause between two tries to hold heads.
const holdPauseMax = 30 * time.Second

// A hold is what the gateways have acknowledged of heads that they hold.
type hold struct {
	since        time.Time
	acknowledged map[federation.TopicPartition]federation.PhysicalOffset
}

// holdHeads marks heads as sealing and waits until no gateway appends to them.
// While that cannot be, the heads take appends, so that no client notices, and it is
// tried again, ever more rarely.
func (o *operations) holdHeads(ctx context.Context, op *operation, s *sealer, moves []planner.Move) (hold, error) {
	for attempt := 0; ; attempt++ {
		// An earlier leader may have left them sealing. They are not held while this waits
		// for those that are cut off, nor if it ends.
		if err := o.release(ctx, moves); err != nil {
			return hold{}, err
		}
		if err := firstOf(op.cancelled(), o.t.givenUp(moves), o.givesWay(op)); err != nil {
			return hold{}, err
		}
		if err := o.t.awaitReachable(ctx, op); err != nil {
			return hold{}, err
		}
		held, later, err := o.tryHold(ctx, s, moves)
		if err != nil {
			return hold{}, err
		}
		if later == nil {
			op.step("hold", 1, 1, "")
			return held, nil
		}
		o.t.log.Warn("heads could not be held; they take appends again, and the move is tried later", "topic", s.topic.Name, "heads", len(moves), "err", later)
		op.step("hold", 0, 1, rpcerror.Error(later).Message())
		pause := min(holdPauseMax, max(backoff(attempt), o.t.cfg.SealWait<<min(attempt, 10)))
		o.pause(ctx, op, time.Now().Add(pause))
	}
}

// pause waits until a time, or until the operation is asked to end or has to give way.
func (o *operations) pause(ctx context.Context, op *operation, until time.Time) {
	asked := op.asked()
	for {
		next := o.nextWant()
		if o.givesWay(op) != nil {
			return
		}
		select {
		case <-asked:
			return
		default:
		}
		if !time.Now().Before(until) || !wait(ctx, asked, next, until) {
			return
		}
	}
}

// tryHold is one try of holdHeads. later tells why it is worth another one; the heads
// take appends then. The heads are sealing if there is no error.
func (o *operations) tryHold(ctx context.Context, s *sealer, moves []planner.Move) (held hold, later, err error) {
	if s.copier != nil {
		if err := s.copier.catchUp(ctx, moves); err != nil {
			later, err = orLater(ctx, err)
			return held, later, err
		}
	}
	// What has no way back later needs both clusters.
	if err := s.reachable(ctx, moves); err != nil {
		later, err = orLater(ctx, err)
		return held, later, err
	}
	held.since = time.Now()
	m, err := o.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) { return planner.WithSealing(m, moves) })
	if err != nil {
		return held, nil, err
	}
	var missing []federation.GatewayID
	held.acknowledged, missing = o.t.awaitHeld(ctx, m.Version, moves)
	if len(missing) > 0 {
		err = federation.Errorf(federation.Timeout, "gateways %v did not hold their appends within %s", missing, o.t.cfg.SealWait)
	} else {
		err = s.directWriters(ctx, moves)
	}
	if err == nil && s.copier != nil {
		err = s.copier.finish(ctx, held.since, moves)
	}
	if err == nil {
		return held, nil, nil
	}
	if failed := o.release(ctx, moves); failed != nil {
		return held, nil, failed
	}
	later, err = orLater(ctx, err)
	return held, later, err
}

// orLater sorts an error: worth another try later, or final.
func orLater(ctx context.Context, failure error) (later, err error) {
	var again copyAgainError
	if ctx.Err() == nil && passes(federation.KindOf(failure)) && !errors.As(failure, &again) {
		return failure, nil
	}
	return nil, failure
}

// release opens sealing heads again.
func (o *operations) release(ctx context.Context, moves []planner.Move) error {
	_, err := o.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) { return planner.WithoutSealing(m, moves), nil })
	return err
}

// endHeads seals and opens the heads that have no way back, and tries again until
// all of them have moved.
func (o *operations) endHeads(ctx context.Context, op *operation, s *sealer, state *moveState) error {
	alarm := "moving/" + string(s.topic.Name)
	defer o.t.health.clear(alarm)
	for attempt := 0; state.Ending > 0; attempt++ {
		if err := o.dropMoved(s, state); err != nil {
			return err
		}
		if failure := o.passFailed(ctx, op, s, state); failure != nil {
			if final := o.heldUp(ctx, alarm, s, state, attempt, failure); final != nil {
				return final
			}
			continue
		}
		acknowledged := make(map[federation.TopicPartition]federation.PhysicalOffset)
		for i, h := range state.Heads[:state.Ending] {
			acknowledged[h.TopicPartition] = state.Acknowledged[i]
		}
		call, cancel := o.t.untilFailed(ctx, clustersOf(state.Heads[:state.Ending]))
		moved, failure := s.end(call, state.Heads[:state.Ending], acknowledged)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if len(moved) > 0 {
			m, err := o.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) { return planner.WithMoved(m, notFailed(m, moved)) })
			if err != nil {
				return err
			}
			o.t.parts.Metrics.sealedFor(ctx, max(0, time.Since(time.UnixMilli(state.SealingMs))))
			if err := o.dropMoved(s, state); err != nil {
				return err
			}
			if err := o.saveUntilDecided(ctx, op, *state); err != nil {
				return err
			}
			if state.Ending == 0 {
				o.t.awaitVisible(ctx, m.Version)
			}
		}
		if failure != nil {
			if final := o.heldUp(ctx, alarm, s, state, attempt, failure); final != nil {
				return final
			}
		}
	}
	return nil
}

// heldUp tells that heads which have no way back cannot move now, and waits a moment.
// It returns an error only if this leader cannot go on at all.
func (o *operations) heldUp(ctx context.Context, alarm string, s *sealer, state *moveState, attempt int, failure error) error {
	if k := federation.KindOf(failure); ctx.Err() != nil || k == federation.NotLeader || k == federation.UnknownTopic {
		return firstOf(ctx.Err(), failure)
	}
	o.t.health.alarm(alarm, "topic %q: %d heads are held and can be neither moved nor opened again until their physical clusters answer, or are given up (`braid cluster fail`): %v", s.topic.Name, state.Ending, failure)
	o.t.log.Warn("heads could not be moved yet; it is tried again", "heads", state.Ending, "err", failure)
	sleep(ctx, backoff(attempt))
	return nil
}

// dropMoved takes heads that have moved off the list.
func (o *operations) dropMoved(s *sealer, state *moveState) error {
	m := o.t.current()
	if t := m.Topic(s.topic.Name); t == nil || t.ID != s.topic.ID {
		return errUnknownTopic(s.topic.Name)
	}
	var heads []primedHead
	var acknowledged []federation.PhysicalOffset
	ending := 0
	for i, h := range state.Heads {
		part, err := m.Partition(h.TopicPartition)
		if err != nil {
			return err
		}
		if part.Head().PhysicalAddress == h.To {
			continue
		}
		heads = append(heads, h)
		if i < state.Ending {
			ending++
			acknowledged = append(acknowledged, state.Acknowledged[i])
		}
	}
	state.Heads, state.Ending, state.Acknowledged = slices.Clip(heads), ending, acknowledged
	return nil
}

// drainSpec is what a drain-cluster operation was asked for.
type drainSpec struct {
	Cluster   federation.ClusterName `json:"cluster"`
	WaitEmpty bool                   `json:"waitEmpty,omitempty"`
}

// drainCluster: no new heads ► the heads of each topic move, by an operation of its
// own ► with WaitEmpty, retention empties the rest. A cancelled drain leaves the
// cluster as it is then; activating it lets it take heads again.
func (o *operations) drainCluster(ctx context.Context, op *operation) error {
	rec, _ := op.record()
	var spec drainSpec
	if err := decode(rec.Spec, &spec); err != nil {
		return err
	}
	away := o.t.awayNow(ctx)
	_, err := o.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) {
		switch c := m.Clusters[spec.Cluster]; {
		case c == nil:
			return nil, errUnknownCluster(spec.Cluster)
		case c.State == federation.ClusterFailed:
			return nil, federation.Errorf(federation.PolicyViolation, "physical cluster %q failed: its heads cannot be sealed", spec.Cluster)
		case c.State != federation.ClusterDraining:
			// Another drain can have begun since this one was asked for.
			if _, err := planner.Drain(m, spec.Cluster, nil, away, nil); err != nil {
				return nil, err
			}
		}
		return planner.WithClusterState(m, spec.Cluster, federation.ClusterDraining)
	})
	if err != nil {
		return err
	}
	for round := 0; ; round++ {
		if err := op.cancelled(); err != nil {
			// An earlier leader may have begun some.
			return firstOf(o.cancelChildren(ctx, rec.ID), err)
		}
		if o.t.failed(spec.Cluster) {
			return errDrainFailed(spec.Cluster)
		}
		topics, heads, extents := topicsWithHeads(o.t.current(), spec.Cluster)
		op.step("move", 0, int64(heads), fmt.Sprintf("%d topics have heads on %s", len(topics), spec.Cluster))
		if len(topics) == 0 && (!spec.WaitEmpty || extents == 0) {
			op.step("move", 1, 1, "")
			return nil
		}
		if len(topics) == 0 {
			op.step("empty", 0, int64(extents), "waits for retention to empty the extents")
			if !wait(ctx, op.cancel, nil, time.Now().Add(o.t.cfg.CollectInterval)) {
				return ctx.Err()
			}
			continue
		}
		later, err := o.drainTopics(ctx, op, childPrefix(rec.ID)+strconv.Itoa(round)+"-", spec.Cluster, topics)
		if err != nil {
			return err
		}
		if later != nil {
			op.step("move", 0, int64(heads), rpcerror.Error(later).Message())
		}
		// Usually nothing is left.
		if !wait(ctx, op.cancel, nil, time.Now().Add(backoff(round))) {
			return ctx.Err()
		}
	}
}

// childPrefix is what the request ids of the operations begin with that an operation on a
// cluster has begun: after a change of leaders they are found again.
func childPrefix(id string) string { return "drain-" + id + "-" }

// cancelChildren cancels the operations that a drain has begun, and waits for their end.
func (o *operations) cancelChildren(ctx context.Context, id string) error {
	for _, child := range o.running() {
		if rec, _ := child.record(); strings.HasPrefix(rec.RequestID, childPrefix(id)) {
			if err := o.cancelChild(ctx, child); err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *operations) cancelChild(ctx context.Context, child *operation) error {
	if err := o.requestCancel(ctx, child); err != nil {
		o.t.log.Warn("a cancel was not saved; the operation hears of it all the same, unless this leader dies", "err", err)
	}
	select {
	case <-child.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drainTopics moves the heads of topics, one topic after the other. One that cannot
// move does not keep the others: those that can later are told apart from those that
// cannot.
func (o *operations) drainTopics(ctx context.Context, op *operation, prefix string, cluster federation.ClusterName, topics []*federation.Topic) (later, err error) {
	var refused []string
	var last error
	for _, t := range topics {
		child, err := o.startChild(ctx, op, prefix+t.ID.String(), moveSpec{Topic: t.Name, TopicID: t.ID, Drain: cluster})
		if err != nil {
			return nil, err
		}
		select {
		case <-child.ended:
		case <-op.cancel:
			return nil, firstOf(o.cancelChild(ctx, child), op.cancelled())
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		rec, _ := child.record()
		have := o.t.current().Topic(t.Name)
		switch err := failure(rec); {
		case err == nil, have == nil, have.ID != t.ID: // deleted meanwhile
		case rec.ErrorKind != errorCancelled && passes(federation.KindOf(err)):
			later = err
		default:
			refused, last = append(refused, fmt.Sprintf("%s (%s)", t.Name, rpcerror.Error(err).Message())), err
		}
	}
	if len(refused) > 0 {
		return nil, federation.Errorf(federation.KindOf(last), "physical cluster %q still has heads of %d topics that did not move: %s", cluster, len(refused), handful(refused))
	}
	return later, nil
}

// startChild begins the operation for one topic, when it is the topic's turn.
func (o *operations) startChild(ctx context.Context, op *operation, requestID string, spec moveSpec) (*operation, error) {
	for attempt := 0; ; attempt++ {
		if err := op.cancelled(); err != nil {
			return nil, err
		}
		child, err := o.start(ctx, kindMoveHeads, o.t.topicName(spec.Topic), requestID, spec)
		if err == nil || ctx.Err() != nil || !passes(federation.KindOf(err)) {
			return child, err
		}
		if !wait(ctx, op.cancel, nil, time.Now().Add(backoff(attempt))) {
			return nil, ctx.Err()
		}
	}
}

// handful joins the first few of some texts, and says how many more there are.
func handful(texts []string) string {
	const most = 5
	if len(texts) <= most {
		return strings.Join(texts, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(texts[:most], "; "), len(texts)-most)
}

// topicsWithHeads returns the topics that have heads on a cluster, how many heads,
// and how many extents of any kind lie there.
func topicsWithHeads(m *federation.Map, cluster federation.ClusterName) (topics []*federation.Topic, heads, extents int) {
	for _, name := range m.TopicNames() {
		t := m.Topics[name]
		n := 0
		for _, p := range t.Partitions {
			for _, e := range p.Extents {
				if e.Cluster == cluster {
					extents++
				}
			}
			if p.Head().Cluster == cluster {
				n++
			}
		}
		if n > 0 {
			topics = append(topics, t)
			heads += n
		}
	}
	return topics, heads, extents
}
