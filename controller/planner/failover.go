package planner

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/braidmq/braid/federation"
)

// FailoverGap is how far above all that is known of a suspended extent the next one
// begins at least: nobody knows where the suspended one ends. No partition of a
// physical cluster takes in so many records while its gateways do not know of them.
const FailoverGap federation.LogicalOffset = 1 << 40

// failoverStep is what the first offset behind a gap is a multiple of.
const failoverStep = federation.FailoverStep

// A FailedHead is a move whose old head is suspended: its cluster failed, and nobody
// can seal it.
type FailedHead struct {
	Move

	Start federation.PhysicalOffset `json:"start"` // first offset of the new extent
	// Opening is its first opening mark, of what the extents before knew; 0 = none.
	Opening federation.PhysicalOffset `json:"opening"`
	Epoch   federation.PhysicalEpoch  `json:"epoch"` // of the physical partition that the head moves to
	// Seen and Acknowledged are what the gateways say of the old extent: the offset after
	// the last record that was given to a reader, and after the last one that was
	// acknowledged. 0 = none was.
	Seen         federation.PhysicalOffset `json:"seen"`
	Acknowledged federation.PhysicalOffset `json:"acknowledged"`
	// Committed is the highest offset that a group has committed; 0 = none has. What is
	// too high to be true does not count.
	Committed federation.LogicalOffset `json:"committed"`
}

// Failover plans where the heads of one topic go that lie on a failed cluster: to the
// active clusters that the topic may use, where the topic, then all topics, have the
// fewest for the weight.
func Failover(m *federation.Map, cluster federation.ClusterName, topic federation.TopicName, existing map[federation.ClusterName]int32, away map[federation.ClusterName]bool) (MovePlan, error) {
	t := m.Topic(topic)
	if t == nil {
		return MovePlan{}, errUnknownTopic(topic)
	}
	if m.Clusters[cluster] == nil {
		return MovePlan{}, federation.Errorf(federation.UnknownCluster, "physical cluster %q is not known", cluster)
	}
	var leaving []*federation.Partition
	for _, p := range t.Partitions {
		if h := p.Head(); h != nil && h.Cluster == cluster {
			leaving = append(leaving, p)
		}
	}
	return planElsewhere(m, cluster, t, leaving, existing, away)
}

// Retarget plans other places for heads of one topic whose move has no way back, since
// the cluster that they were to go to failed.
func Retarget(m *federation.Map, failed federation.ClusterName, moves []Move, existing map[federation.ClusterName]int32, away map[federation.ClusterName]bool) (MovePlan, error) {
	if len(moves) == 0 {
		return MovePlan{}, nil
	}
	t := m.Topic(moves[0].Topic)
	if t == nil {
		return MovePlan{}, errUnknownTopic(moves[0].Topic)
	}
	var leaving []*federation.Partition
	for _, v := range moves {
		p, err := m.Partition(v.TopicPartition)
		if err != nil {
			return MovePlan{}, err
		}
		if !v.moves(p.Head()) {
			return MovePlan{}, errChanged(v)
		}
		leaving = append(leaving, p)
	}
	return planElsewhere(m, failed, t, leaving, existing, away)
}

func planElsewhere(m *federation.Map, failed federation.ClusterName, t *federation.Topic, leaving []*federation.Partition, existing map[federation.ClusterName]int32, away map[federation.ClusterName]bool) (MovePlan, error) {
	if len(leaving) == 0 {
		return MovePlan{Topic: t.Name, TopicID: t.ID, Generation: t.Generation}, nil
	}
	targets, missing := candidates(m, t.Clusters, nil, away)
	targets = slices.DeleteFunc(targets, func(x *target) bool { return x.name == failed })
	if len(targets) == 0 {
		if missing {
			return MovePlan{}, federation.Errorf(federation.ClusterUnavailable, "topic %q: its partitions on physical cluster %q have nowhere to go: the other clusters that it may use do not answer at the moment; it is tried again", t.Name, failed)
		}
		return MovePlan{}, federation.Errorf(federation.PolicyViolation,
			"topic %q: its partitions on physical cluster %q have nowhere to go: no other active cluster may take them; `braid topic expand --to` lets it use more, then fail the cluster again", t.Name, failed)
	}
	b := newBoard(m, targets, nil, t)
	b.aim(t, existing)
	for _, x := range targets {
		x.room = int64(len(leaving))
	}
	return b.plan(t, leaving, targets), nil
}

// Roll plans that heads of one topic go on in other partitions of the clusters that they
// lie on.
func Roll(m *federation.Map, topic federation.TopicName, partitions []federation.LogicalPartition, existing map[federation.ClusterName]int32) (MovePlan, error) {
	t := m.Topic(topic)
	if t == nil {
		return MovePlan{}, errUnknownTopic(topic)
	}
	out := MovePlan{Topic: t.Name, TopicID: t.ID, Generation: t.Generation}
	rolling := make(map[federation.ClusterName][]*federation.Partition)
	for _, n := range partitions {
		p, err := m.Partition(federation.TopicPartition{Topic: topic, Partition: n})
		if err != nil {
			return MovePlan{}, err
		}
		h := p.Head()
		if h.State == federation.ExtentSuspended || m.Clusters[h.Cluster].State == federation.ClusterFailed {
			return MovePlan{}, federation.Errorf(federation.ClusterUnavailable, "topic %q: the head of partition %d lies on physical cluster %q, which failed", topic, n, h.Cluster)
		}
		rolling[h.Cluster] = append(rolling[h.Cluster], p)
	}
	for _, name := range slices.Sorted(maps.Keys(rolling)) {
		targets := []*target{{name: name, weight: 1}}
		b := newBoard(m, targets, nil, t)
		b.aim(t, existing)
		targets[0].room = int64(len(rolling[name]))
		plan := b.plan(t, rolling[name], targets)
		out.Moves, out.Topics = append(out.Moves, plan.Moves...), append(out.Topics, plan.Topics...)
	}
	return out, nil
}

// WithFailedOver returns the map in which the old heads are suspended and the new ones
// are open, in one step; m itself if that is so already, so that it can be repeated. It
// is a Conflict if the cluster of a head has not failed, if a head takes appends, or if
// it is not the extent any more that was planned for.
func WithFailedOver(m *federation.Map, heads []FailedHead) (*federation.Map, error) {
	e := edit{m: m}
	for _, v := range heads {
		p, err := e.partition(v.TopicPartition)
		if err != nil {
			return nil, err
		}
		h := p.Head()
		switch {
		case v.done(p):
			continue
		case !v.moves(h):
			return nil, errChanged(v.Move)
		case m.Clusters[v.From.Cluster].State != federation.ClusterFailed:
			return nil, federation.Errorf(federation.Conflict, "%s: physical cluster %q has not failed", v.TopicPartition, v.From.Cluster)
		case m.Clusters[v.To.Cluster] == nil || m.Clusters[v.To.Cluster].State == federation.ClusterFailed:
			return nil, federation.Errorf(federation.ClusterUnavailable, "%s: physical cluster %q, where it was to go, failed or was removed meanwhile", v.TopicPartition, v.To.Cluster)
		case h.State != federation.ExtentSealing && h.State != federation.ExtentSuspended:
			return nil, federation.Errorf(federation.Conflict, "%s: the head is %s, not sealing", v.TopicPartition, h.State)
		}
		next, err := v.apply(p)
		if err != nil {
			return nil, err
		}
		e.set(next)
	}
	next := e.done()
	if next == m {
		return m, nil
	}
	if err := next.Validate(); err != nil {
		return nil, fmt.Errorf("planner: failed over heads: %w", err)
	}
	return next, nil
}

// done reports whether the partition was failed over already: a physical partition
// serves one extent, ever.
func (v *FailedHead) done(p *federation.Partition) bool {
	h := p.Head()
	return h != nil && h.PhysicalAddress == v.To && h.Number == v.Extent+1 && h.Start == v.Start
}

func (v *FailedHead) apply(p *federation.Partition) (*federation.Partition, error) {
	old := *p.Head()
	seen, base, err := v.ends(&old)
	if err != nil {
		return nil, err
	}
	out := *p
	out.Epoch++
	old.State, old.Failed = federation.ExtentSuspended, true
	old.Seen, old.Acknowledged = seen, max(old.Acknowledged, v.Acknowledged)
	out.Extents = make([]*federation.Extent, len(p.Extents), len(p.Extents)+1)
	copy(out.Extents, p.Extents)
	out.Extents[len(p.Extents)-1] = &old
	out.Extents = append(out.Extents, &federation.Extent{
		Number:          old.Number + 1,
		PhysicalAddress: v.To,
		Base:            base,
		Start:           v.Start,
		Opening:         v.Opening,
		State:           federation.ExtentOpen,
		Epochs:          []federation.EpochEntry{{Physical: v.Epoch, Logical: out.Epoch}},
	})
	return &out, nil
}

// ends returns up to where readers have seen the old extent, and where the next one
// begins.
func (v *FailedHead) ends(old *federation.Extent) (seen federation.PhysicalOffset, base federation.LogicalOffset, err error) {
	seen = max(old.Seen, v.Seen)
	known := max(old.Logical(seen), old.Logical(max(old.Acknowledged, v.Acknowledged)))
	// A gateway that has died, or was started anew, tells nothing of its readers, but their
	// groups do. What lies further up than any record can was made up by somebody.
	if v.Committed > old.Base && v.Committed <= known+FailoverGap {
		seen = max(seen, old.Physical(v.Committed))
		known = max(known, v.Committed)
	}
	const most = federation.LogicalOffset(1) << 62
	if known > most-FailoverGap-failoverStep {
		return 0, 0, federation.Errorf(federation.PolicyViolation, "%s: no offsets are left above %d for another failover", v.TopicPartition, known)
	}
	base = known + FailoverGap
	return seen, (base + failoverStep - 1) / failoverStep * failoverStep, nil
}

// A RestoredExtent is a suspended extent whose cluster came back, and which is sealed
// now.
type RestoredExtent struct {
	federation.TopicPartition `json:"partition"`

	Extent int32                      `json:"extent"`
	At     federation.PhysicalAddress `json:"at"`
	// Seal is where the seal lies. What is part of the extent ends there, or before: from
	// End to Seal lies what was appended again to a later extent.
	End    federation.PhysicalOffset  `json:"end"`
	Seal   federation.PhysicalOffset  `json:"seal"`
	Hidden []federation.PhysicalRange `json:"hidden,omitempty"` // below End
	// Dropped is what was not appended again of what lies from End to Seal.
	Dropped []federation.PhysicalRange `json:"dropped,omitempty"`
	// Elsewhere are ranges of other extents that are hidden: of a batch that was sent again
	// and that this extent knew of, the other copy stays.
	Elsewhere []HiddenElsewhere `json:"later,omitempty"`
}

// HiddenElsewhere are ranges of a sealed extent that are hidden.
type HiddenElsewhere struct {
	Extent int32                      `json:"extent"`
	Ranges []federation.PhysicalRange `json:"ranges"`
}

// WithRestored returns the map in which suspended extents are sealed; m itself if they
// are already, so that it can be repeated. Those that are not in the map any more are
// passed over.
func WithRestored(m *federation.Map, extents []RestoredExtent) (*federation.Map, error) {
	e := edit{m: m}
	for _, v := range extents {
		p, err := e.partition(v.TopicPartition)
		if err != nil {
			continue // deleted meanwhile
		}
		i := slices.IndexFunc(p.Extents, func(x *federation.Extent) bool { return x.Number == v.Extent && x.PhysicalAddress == v.At })
		if i < 0 || p.Extents[i].State != federation.ExtentSuspended || i == len(p.Extents)-1 {
			continue
		}
		out, sealed := *p, *p.Extents[i]
		sealed.State, sealed.Failed, sealed.End, sealed.Hidden = federation.ExtentSealed, true, max(v.End, sealed.Start), v.Hidden
		if sealed.Seal = 0; v.Seal > sealed.End {
			sealed.Seal, sealed.Dropped = v.Seal, v.Dropped
		}
		out.Extents = slices.Clone(p.Extents)
		out.Extents[i] = &sealed
		for _, l := range v.Elsewhere {
			hideMore(out.Extents, l)
		}
		e.set(&out)
	}
	next := e.done()
	if next == m {
		return m, nil
	}
	if err := next.Validate(); err != nil {
		return nil, fmt.Errorf("planner: restored extents: %w", err)
	}
	return next, nil
}

// hideMore hides more of a sealed extent among some.
func hideMore(extents []*federation.Extent, l HiddenElsewhere) {
	i := slices.IndexFunc(extents, func(e *federation.Extent) bool { return e.Number == l.Extent && e.Sealed() })
	if i < 0 {
		return
	}
	hidden := *extents[i]
	all := slices.Clone(hidden.Hidden)
	for _, r := range l.Ranges {
		if r.To = min(r.To, hidden.End); r.From < r.To { // what was appended again elsewhere is hidden
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b federation.PhysicalRange) int { return cmp.Compare(a.From, b.From) })
	hidden.Hidden = nil
	for _, r := range all {
		if n := len(hidden.Hidden); n > 0 && r.From <= hidden.Hidden[n-1].To {
			hidden.Hidden[n-1].To = max(hidden.Hidden[n-1].To, r.To)
			continue
		}
		hidden.Hidden = append(hidden.Hidden, r)
	}
	extents[i] = &hidden
}

// Suspended counts the suspended extents that lie on a cluster, and the topics that
// have some there.
func Suspended(m *federation.Map, cluster federation.ClusterName) (extents, topics int) {
	for _, t := range m.Topics {
		n := 0
		for _, p := range t.Partitions {
			for _, e := range p.Extents {
				if e.Cluster == cluster && e.State == federation.ExtentSuspended {
					n++
				}
			}
		}
		if n > 0 {
			extents, topics = extents+n, topics+1
		}
	}
	return extents, topics
}
