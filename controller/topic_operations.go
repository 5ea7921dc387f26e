package controller

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/internal/upstream"
)

// parallelMax bounds the physical clusters that one operation works on at a time.
const parallelMax = 16

// createSpec is what a create-topic operation was asked for.
type createSpec struct {
	Name              federation.TopicName             `json:"name"`
	Partitions        int32                            `json:"partitions"`
	ReplicationFactor int32                            `json:"replicationFactor"` // -1 = each cluster's default
	Config            map[string]string                `json:"config,omitempty"`
	Clusters          []federation.ClusterName         `json:"clusters,omitempty"`
	Weights           map[federation.ClusterName]int32 `json:"weights,omitempty"`
}

// growSpec is what a grow-topic operation was asked for.
type growSpec struct {
	Name  federation.TopicName `json:"name"`
	Total int32                `json:"total"`
}

// placeState is how far a create-topic or grow-topic operation is.
type placeState struct {
	Plan       planner.Plan       `json:"plan"`
	Generation int32              `json:"generation,omitempty"`
	TopicID    federation.TopicID `json:"topicId"`
	CreatedMs  int64              `json:"createdMs,omitempty"`

	undoing
}

// undoing is the error for which everything is taken back, with its kind's name.
type undoing struct {
	Undo        string             `json:"undo,omitempty"`
	UndoKind    string             `json:"undoKind,omitempty"`
	UndoSubject federation.Subject `json:"undoSubject,omitzero"`
	UndoPublic  string             `json:"undoPublic,omitempty"` // what a tenant is told instead
}

func undoFor(cause error) undoing {
	u := undoing{UndoKind: rpcerror.KindName(federation.KindOf(cause)), Undo: rpcerror.Error(cause).Message(), UndoSubject: federation.SubjectOf(cause)}
	if e, ok := errors.AsType[*federation.Error](cause); ok {
		u.UndoPublic = e.Public()
	}
	if errors.Is(cause, errCancelled) {
		u.UndoKind = errorCancelled
	}
	return u
}

func (s *undoing) undone() error {
	if s.UndoKind == errorCancelled {
		return errCancelled
	}
	e := federation.Errorf(rpcerror.ParseKind(s.UndoKind), "%s", s.Undo).WithPublic(s.UndoPublic)
	e.Subject = s.UndoSubject
	return e
}

func decode[T any](b json.RawMessage, into *T) error {
	if len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("operation: %w", err)
	}
	return nil
}

// planCreate checks a new topic against the map and the clusters, and changes nothing.
func (t *term) planCreate(ctx context.Context, s createSpec, generation int32) (planner.Plan, error) {
	m := t.current()
	if err := planner.CheckNewTopic(m, s.Name); err != nil {
		return planner.Plan{}, err
	}
	if err := planner.CheckTenantTopic(m, s.Name, t.cfg.TenantLimits, int(s.Partitions)); err != nil {
		return planner.Plan{}, err
	}
	plan, err := planner.Create(m, planner.Spec{
		Name: s.Name, Partitions: s.Partitions, Generation: generation, Clusters: s.Clusters, Weights: s.Weights,
	}, t.awayNow(ctx))
	if err != nil {
		return planner.Plan{}, err
	}
	return plan, t.each(ctx, plan.Topics, func(ctx context.Context, pt planner.PhysicalTopic, c *upstream.Cluster) error {
		return checkPhysical(ctx, c, pt, s.Name, s.ReplicationFactor, s.Config)
	})
}

// checkPhysical asks a cluster whether it would create a topic.
func checkPhysical(ctx context.Context, c *upstream.Cluster, pt planner.PhysicalTopic, topic federation.TopicName, rf int32, config map[string]string) error {
	info, err := c.Info(ctx)
	if err != nil {
		return err
	}
	if int(rf) > len(info.Brokers) {
		return federation.Errorf(federation.InvalidReplicationFactor,
			"topic %q: replication factor %d is above the %d brokers of physical cluster %q", topic, rf, len(info.Brokers), pt.Cluster)
	}
	if pt.Exists {
		return nil
	}
	if err := checkAbsent(ctx, c, pt, topic); err != nil {
		return err
	}
	return c.CreateTopic(ctx, pt.Name, pt.Partitions, int16(rf), physicalConfig(config), true) // rf is within int16, checked by the caller
}

// createTopic: plan ► physical topics ► leaders ► publish; or all of it undone.
func (o *operations) createTopic(ctx context.Context, op *operation) error {
	rec, _ := op.record()
	var spec createSpec
	var state placeState
	if err := errors.Join(decode(rec.Spec, &spec), decode(rec.State, &state)); err != nil {
		return err
	}
	if state.UndoKind != "" {
		return o.undo(ctx, op, &state)
	}
	if len(state.Plan.Heads) == 0 {
		op.step("plan", 0, 1, "")
		plan, generation, err := o.planFresh(ctx, spec)
		if err != nil {
			return err
		}
		state = placeState{Plan: plan, Generation: generation, TopicID: federation.NewTopicID(), CreatedMs: time.Now().UnixMilli()}
		if err := o.save(ctx, op, state); err != nil {
			return err
		}
	}
	op.step("plan", 1, 1, fmt.Sprintf("%d partitions on %d physical clusters", len(state.Plan.Heads), len(state.Plan.Topics)))
	found, err := o.makePhysical(ctx, op, &state, spec.ReplicationFactor, spec.Config)
	if err != nil {
		return o.beginUndo(ctx, op, &state, err)
	}
	topic := &federation.Topic{
		Name: spec.Name, ID: state.TopicID, Config: spec.Config, ReplicationFactor: found.replicas,
		Generation: state.Generation, CreatedMs: state.CreatedMs, Clusters: spec.Clusters,
		Partitions: state.Plan.Partitions(spec.Name, found.epochs),
	}
	err = o.publishTopic(ctx, op, func(m *federation.Map) (*federation.Map, error) {
		if have := m.Topic(spec.Name); have != nil && have.ID == topic.ID {
			return m, nil // published before the last leader died
		}
		if err := errors.Join(planner.CheckNewTopic(m, spec.Name), stillThere(m, state.Plan), planner.CheckTenantTopic(m, spec.Name, o.t.cfg.TenantLimits, len(topic.Partitions))); err != nil {
			return nil, err
		}
		return planner.WithTopic(m, topic), nil
	})
	if err != nil {
		return o.beginUndo(ctx, op, &state, err)
	}
	return nil
}

// generationsMax bounds the generations of a name that are passed over because
// the clusters have topics of that name.
const generationsMax = 1000

// planFresh plans with a generation whose physical topics do not exist yet. One
// that does exist is of an earlier life of the store, or of another federation on
// the same clusters: its records must not appear in a new topic.
func (o *operations) planFresh(ctx context.Context, spec createSpec) (planner.Plan, int32, error) {
	for range generationsMax {
		var generation int32
		err := retry(ctx, o.t.cfg.StepTimeout, func(ctx context.Context) (err error) {
			generation, err = o.t.parts.Store.NextGeneration(ctx, o.t.cfg.LogicalCluster, spec.Name)
			return err
		})
		if err != nil {
			return planner.Plan{}, 0, err
		}
		plan, err := o.t.planCreate(ctx, spec, generation)
		if !errors.Is(err, errTaken) {
			return plan, generation, err
		}
	}
	return planner.Plan{}, 0, federation.Errorf(federation.TopicExists,
		"topic %q: the physical clusters have topics of %d generations of that name; delete those that nobody needs", spec.Name, generationsMax)
}

// errTaken marks a physical topic that exists already.
var errTaken = errors.New("taken")

func checkAbsent(ctx context.Context, c *upstream.Cluster, pt planner.PhysicalTopic, topic federation.TopicName) error {
	topics, err := c.Topics(ctx, pt.Name)
	if err != nil {
		return err
	}
	if _, ok := topics[pt.Name]; ok {
		return federation.Errorf(federation.TopicExists, "topic %q: physical cluster %q has data under that name already, which is not this topic's", topic, pt.Cluster).WithCause(errTaken)
	}
	return nil
}

// growTopic: plan ► physical partitions ► leaders ► publish; or new physical
// topics are taken back. Partitions that an existing one has got stay, unused,
// until the topic is grown again.
func (o *operations) growTopic(ctx context.Context, op *operation) error {
	rec, _ := op.record()
	var spec growSpec
	var state placeState
	if err := errors.Join(decode(rec.Spec, &spec), decode(rec.State, &state)); err != nil {
		return err
	}
	if state.UndoKind != "" {
		return o.undo(ctx, op, &state)
	}
	old := o.t.current().Topic(spec.Name)
	if old == nil || state.TopicID != (federation.TopicID{}) && state.TopicID != old.ID {
		return errUnknownTopic(spec.Name)
	}
	if len(state.Plan.Heads) == 0 {
		op.step("plan", 0, 1, "")
		plan, err := o.t.planGrow(ctx, spec)
		if err != nil {
			return err
		}
		state = placeState{Plan: plan, Generation: old.Generation, TopicID: old.ID}
		if err := o.save(ctx, op, state); err != nil {
			return err
		}
	}
	op.step("plan", 1, 1, fmt.Sprintf("%d more partitions on %d physical clusters", len(state.Plan.Heads), len(state.Plan.Topics)))
	found, err := o.makePhysical(ctx, op, &state, old.ReplicationFactor, old.Config)
	if err != nil {
		return o.beginUndo(ctx, op, &state, err)
	}
	err = o.publishTopic(ctx, op, func(m *federation.Map) (*federation.Map, error) {
		have := m.Topic(spec.Name)
		switch {
		case have == nil || have.ID != state.TopicID:
			return nil, errUnknownTopic(spec.Name)
		case len(have.Partitions) >= int(spec.Total):
			return m, nil // published before the last leader died
		}
		if err := errors.Join(stillThere(m, state.Plan), o.t.checkGrowth(m, have, spec.Total)); err != nil {
			return nil, err
		}
		grown := *have
		grown.Partitions = append(slices.Clone(have.Partitions), state.Plan.Partitions(spec.Name, found.epochs)...)
		return planner.WithTopic(m, &grown), nil
	})
	if err != nil {
		return o.beginUndo(ctx, op, &state, err)
	}
	return nil
}

// planGrow checks a growth against the map and the clusters, and changes nothing.
func (t *term) planGrow(ctx context.Context, s growSpec) (planner.Plan, error) {
	m := t.current()
	topic := m.Topic(s.Name)
	switch {
	case topic == nil:
		return planner.Plan{}, errUnknownTopic(s.Name)
	case int(s.Total) <= len(topic.Partitions):
		return planner.Plan{}, federation.Errorf(federation.InvalidPartitionCount, "topic %q has %d partitions; %d would not be more", s.Name, len(topic.Partitions), s.Total)
	}
	if err := t.checkGrowth(m, topic, s.Total); err != nil {
		return planner.Plan{}, err
	}
	away := t.awayNow(ctx)
	existing, err := t.existing(ctx, m, away, topic)
	if err != nil {
		return planner.Plan{}, err
	}
	plan, err := planner.Grow(m, topic, s.Total, existing[topic.Name], away)
	if err != nil {
		return planner.Plan{}, err
	}
	return plan, t.each(ctx, plan.Topics, func(ctx context.Context, pt planner.PhysicalTopic, c *upstream.Cluster) error {
		return checkPhysical(ctx, c, pt, s.Name, topic.ReplicationFactor, topic.Config)
	})
}

// checkGrowth checks that the tenant of a topic may have the partitions.
func (t *term) checkGrowth(m *federation.Map, topic *federation.Topic, total int32) error {
	tenant, _ := topic.Name.Split()
	return planner.CheckTenantRoom(m, tenant, t.cfg.TenantLimits, federation.TenantLimits{Partitions: total - int32(len(topic.Partitions))})
}

// stillThere checks that no cluster of a plan was removed, or failed, meanwhile.
func stillThere(m *federation.Map, plan planner.Plan) error {
	for _, pt := range plan.Topics {
		switch c := m.Clusters[pt.Cluster]; {
		case c == nil:
			return federation.Errorf(federation.UnknownCluster, "physical cluster %q was removed meanwhile", pt.Cluster)
		case c.State == federation.ClusterFailed:
			return federation.Errorf(federation.ClusterUnavailable, "physical cluster %q failed meanwhile; try again", pt.Cluster)
		}
	}
	return nil
}

func errUnknownTopic(name federation.TopicName) error {
	return federation.Errorf(federation.UnknownTopic, "topic %q does not exist", name)
}

// found is what the clusters tell of physical partitions that have leaders.
type found struct {
	epochs   []federation.PhysicalEpoch // of the plan's heads
	replicas int32                      // the fewest of any partition
}

// makePhysical creates or extends the physical topics of a plan, and waits until
// their partitions have leaders.
func (o *operations) makePhysical(ctx context.Context, op *operation, state *placeState, rf int32, config map[string]string) (found, error) {
	total := int64(len(state.Plan.Topics))
	var mu sync.Mutex
	made := int64(0)
	op.step("create", 0, total, "")
	err := o.t.each(ctx, state.Plan.Topics, func(ctx context.Context, pt planner.PhysicalTopic, c *upstream.Cluster) error {
		err := retry(ctx, o.t.cfg.StepTimeout, func(ctx context.Context) error {
			if err := op.cancelled(); err != nil {
				return err
			}
			return ensureTopic(ctx, c, pt, rf, config)
		})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		made++
		op.step("create", made, total, "")
		return nil
	})
	if err != nil {
		return found{}, err
	}
	return o.awaitLeaders(ctx, op, state.Plan)
}

// ensureTopic can be called again after a try whose outcome is unknown.
func ensureTopic(ctx context.Context, c *upstream.Cluster, pt planner.PhysicalTopic, rf int32, config map[string]string) error {
	if !pt.Exists {
		return c.CreateTopic(ctx, pt.Name, pt.Partitions, int16(rf), physicalConfig(config), false)
	}
	return c.CreatePartitions(ctx, pt.Name, pt.Partitions)
}

// awaitLeaders polls until all partitions of a plan have a leader.
func (o *operations) awaitLeaders(ctx context.Context, op *operation, plan planner.Plan) (found, error) {
	out := found{epochs: make([]federation.PhysicalEpoch, len(plan.Heads)), replicas: math.MaxInt32}
	total := int64(len(plan.Heads))
	op.step("leaders", 0, total, "")
	var mu sync.Mutex
	ready := int64(0)
	err := o.t.each(ctx, plan.Topics, func(ctx context.Context, pt planner.PhysicalTopic, c *upstream.Cluster) error {
		return retry(ctx, o.t.cfg.StepTimeout, func(ctx context.Context) error {
			if err := op.cancelled(); err != nil {
				return err
			}
			topics, err := c.Topics(ctx, pt.Name)
			if err != nil {
				return err
			}
			info := topics[pt.Name]
			for i := range pt.Partitions {
				if int(i) >= len(info.Partitions) || info.Partitions[i].Leader < 0 {
					return federation.Errorf(federation.NoLeader, "physical cluster %q: new partitions have no leader yet", pt.Cluster)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for i, h := range plan.Heads {
				if h.Cluster == pt.Cluster {
					p := info.Partitions[h.Partition]
					out.epochs[i] = max(0, p.Epoch) // brokers before 2.4 tell none
					out.replicas = min(out.replicas, int32(len(p.Replicas)))
					ready++
				}
			}
			op.step("leaders", ready, total, "")
			return nil
		})
	})
	return out, err
}

// publishTopic writes the map and waits a moment for the gateways. It gives up
// only when the term is over, or when the map refuses: while the store is away it
// is not known whether the topic was published.
func (o *operations) publishTopic(ctx context.Context, op *operation, apply func(*federation.Map) (*federation.Map, error)) error {
	if err := op.cancelled(); err != nil {
		return err
	}
	op.step("publish", 0, 1, "")
	m, err := o.editUntilDecided(ctx, apply)
	if err != nil {
		return err
	}
	op.step("publish", 1, 1, fmt.Sprintf("map version %d", m.Version))
	o.t.awaitVisible(ctx, m.Version)
	return nil
}

// editUntilDecided is edit that goes on until the change is made, the term is over,
// or apply refuses: that is final, whatever the kind. A map that has changed does not
// change back.
func (o *operations) editUntilDecided(ctx context.Context, apply func(*federation.Map) (*federation.Map, error)) (*federation.Map, error) {
	for attempt := 0; ; attempt++ {
		refused := false
		m, err := o.t.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
			next, err := apply(m)
			refused = err != nil
			return next, err
		})
		// Only with an answer of the writer is it known what apply said last.
		if err == nil || ctx.Err() != nil || !passes(federation.KindOf(err)) || refused {
			return m, err
		}
		sleep(ctx, backoff(attempt))
	}
}

// beginUndo saves why everything is taken back, then does so. The error that it
// returns is the one that it was given.
func (o *operations) beginUndo(ctx context.Context, op *operation, state *placeState, cause error) error {
	if ctx.Err() != nil || federation.KindOf(cause) == federation.NotLeader {
		return cause
	}
	state.undoing = undoFor(cause)
	if err := o.save(ctx, op, *state); err != nil {
		return err
	}
	return o.undo(ctx, op, state)
}

func (o *operations) undo(ctx context.Context, op *operation, state *placeState) error {
	var fresh []planner.PhysicalTopic
	for _, pt := range state.Plan.Topics {
		if !pt.Exists {
			fresh = append(fresh, pt)
		}
	}
	o.deletePhysical(ctx, op, "undo", fresh, o.t.cfg.StepTimeout)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return state.undone()
}

// deletePhysical deletes physical topics, and returns the clusters that did not
// answer in time: what is left there holds nothing of any logical topic.
func (o *operations) deletePhysical(ctx context.Context, op *operation, step string, topics []planner.PhysicalTopic, limit time.Duration) []federation.ClusterName {
	var mu sync.Mutex
	var left []federation.ClusterName
	gone := int64(0)
	op.step(step, 0, int64(len(topics)), "")
	_ = o.t.each(ctx, topics, func(ctx context.Context, pt planner.PhysicalTopic, c *upstream.Cluster) error {
		err := retry(ctx, limit, func(ctx context.Context) error { return c.DeleteTopic(ctx, pt.Name) })
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			left = append(left, pt.Cluster)
			o.t.log.Warn("a physical topic could not be deleted", "cluster", pt.Cluster, "topic", pt.Name, "err", err, "cause", errors.Unwrap(err))
			return nil // the others are deleted all the same
		}
		gone++
		op.step(step, gone, int64(len(topics)), "")
		return nil
	})
	slices.Sort(left)
	return left
}

// deleteState is how far a delete-topic operation is.
type deleteState struct {
	Topics []planner.PhysicalTopic `json:"topics"`
	// Removed tells that the logical topic is out of the map.
	Removed bool `json:"removed,omitempty"`
}

// deleteSpec is what a delete-topic operation was asked for.
type deleteSpec struct {
	Name    federation.TopicName `json:"name"`
	TopicID federation.TopicID   `json:"topicId"`
}

// deleteTopic: out of the map ► the gateways know ► physical topics deleted. From
// the first step on there is no way back, and the name is free again.
func (o *operations) deleteTopic(ctx context.Context, op *operation) error {
	rec, _ := op.record()
	var spec deleteSpec
	var state deleteState
	if err := errors.Join(decode(rec.Spec, &spec), decode(rec.State, &state)); err != nil {
		return err
	}
	detail := ""
	if !state.Removed {
		if state.Topics == nil {
			topic := o.t.current().Topic(spec.Name)
			if topic == nil || topic.ID != spec.TopicID {
				return errUnknownTopic(spec.Name)
			}
			state.Topics = physicalTopics(topic)
			if err := o.save(ctx, op, state); err != nil {
				return err
			}
		}
		if err := op.cancelled(); err != nil {
			return err
		}
		op.step("unpublish", 0, 1, "")
		m, err := o.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) {
			if have := m.Topic(spec.Name); have == nil || have.ID != spec.TopicID {
				return m, nil
			}
			return planner.WithoutTopic(m, spec.Name), nil
		})
		if err != nil {
			return err
		}
		o.t.awaitVisible(ctx, m.Version)
		state.Removed, detail = true, fmt.Sprintf("map version %d", m.Version)
		if err := o.save(ctx, op, state); err != nil {
			return err
		}
	}
	// The name is free before the step tells the caller that the topic is gone.
	o.free(op)
	op.step("unpublish", 1, 1, detail)
	left := o.deletePhysical(ctx, op, "delete", state.Topics, o.t.cfg.CleanupTimeout)
	if len(left) > 0 {
		return federation.Errorf(federation.ClusterUnavailable,
			"topic %q is deleted, but physical clusters %v did not delete its data within %s; it takes up space there until it is deleted by hand", spec.Name, left, o.t.cfg.CleanupTimeout)
	}
	return nil
}

// physicalTopics returns the physical topics that hold extents of a topic.
func physicalTopics(topic *federation.Topic) []planner.PhysicalTopic {
	counts := make(map[planner.PhysicalTopic]int32)
	for _, p := range topic.Partitions {
		for _, e := range p.Extents {
			counts[planner.PhysicalTopic{Cluster: e.Cluster, Name: e.Topic, Exists: true}]++
		}
	}
	return slices.SortedFunc(maps.Keys(counts), func(a, b planner.PhysicalTopic) int {
		if a.Cluster != b.Cluster {
			return cmp.Compare(a.Cluster, b.Cluster)
		}
		return cmp.Compare(a.Name, b.Name)
	})
}

// each calls do for all physical topics, several at a time, and returns the first
// error in the order of the topics. After an error none is begun.
func (t *term) each(ctx context.Context, topics []planner.PhysicalTopic, do func(context.Context, planner.PhysicalTopic, *upstream.Cluster) error) error {
	slots := make(chan struct{}, parallelMax)
	errs := make([]error, len(topics))
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed := false
	for i, pt := range topics {
		slots <- struct{}{}
		mu.Lock()
		stop := failed
		mu.Unlock()
		if stop {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			cluster, err := t.parts.Clusters.Cluster(pt.Cluster)
			if err == nil {
				err = do(ctx, pt, cluster)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs[i], failed = err, true
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
