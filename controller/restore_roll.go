package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/upstream"
)

// A batch that lies in a returned extent, without its producer knowing, may come again
// at any later time, through any gateway. So before anyone looks for what was sent again,
// the heads are rolled: each goes on in another partition of its cluster, which is told
// what the returned extents know of their producers. What came again until then is below
// the end of the old head, and is found; what comes later is a repeat.
//
//	A returned, sealed ──► its producers are openings of the next head ──► the head is held, and ends ──► the next one is open
//
// The returned cluster is not needed any more from the moment on that the head is held.
// A head that knows all that they know, by itself, stays.

// givesWay tells that a failover of the topic waits for an operation that can wait.
func (o *operations) givesWay(op *operation) error {
	if rec, _ := op.record(); rec.Kind == kindRestoreTopic && o.wanted(op) {
		return errWanted
	}
	return nil
}

// roll has the heads know what the returned extents know of producers.
func (r *restorer) roll(ctx context.Context) error {
	if r.state.underWay() {
		r.op.goesThrough()
	}
	r.state.Roll.within = r.whole
	err := r.rollHeads(ctx)
	if r.state.Roll.Ending == 0 {
		r.op.uses(nil)
	}
	if err == nil || r.state.Roll.Ending > 0 || ctx.Err() != nil {
		return err
	}
	// Nobody else marks heads of the topic meanwhile.
	_, undone := r.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) {
		return planner.WithoutSealing(m, sealingIn(m, r.topic.Name)), nil
	})
	return firstOf(undone, err)
}

// whole is what is saved while heads are rolled.
func (r *restorer) whole(roll moveState) any {
	for _, h := range roll.Heads[:roll.Ending] {
		for i := range r.state.Extents {
			// A move that had to go elsewhere since its cluster failed has told nothing.
			if x := &r.state.Extents[i]; x.Partition == h.Partition {
				x.Carried, x.Rolled = 0, true
				if h.Openings.To > 0 {
					x.Carried = h.Extent + 1
				}
			}
		}
	}
	s := *r.state
	s.Roll = roll
	return s
}

func (r *restorer) rollHeads(ctx context.Context) error {
	roll := &r.state.Roll
	for {
		if roll.Ending == 0 {
			told, err := r.untold(ctx)
			if err != nil || len(told) == 0 {
				return err
			}
			// What is not primed may be another head's by now: the topic was given away.
			if !roll.Primed || !r.fits(told) {
				if err := r.planRoll(ctx, slices.Sorted(maps.Keys(told))); err != nil {
					return err
				}
			}
			if err := r.prime(ctx, told); err != nil {
				return err
			}
		}
		s := r.sealer()
		for len(roll.Heads) > 0 {
			if err := r.moveRound(ctx, r.op, s, roll); err != nil {
				return err
			}
		}
		*roll = moveState{within: r.whole}
		if err := r.saveUntilDecided(ctx, r.op, *r.state); err != nil {
			return err
		}
	}
}

func (r *restorer) sealer() *sealer {
	return &sealer{term: r.t, topic: r.topic, producer: r.state.Roll.Producer, batchBytes: r.state.Roll.BatchBytes}
}

// carried reports whether the head of a partition has what a returned extent knows.
func carried(p *federation.Partition, x *restoringExtent) bool {
	return x.Carried > 0 && !slices.ContainsFunc(p.Extents, func(e *federation.Extent) bool { return e.Number >= x.Carried && e.FailedOnce() })
}

// untold returns, for each partition whose head does not know all that the returned
// extents know of producers, what those know. Heads whose cluster failed have none: when
// they are failed over, what the extents before know is carried over.
func (r *restorer) untold(ctx context.Context) (map[federation.LogicalPartition][]mark.Producer, error) {
	var at []int
	var heads, extents []*federation.Extent
	for i := range r.state.Extents {
		x := &r.state.Extents[i]
		p, e := r.extent(x)
		if e == nil || carried(p, x) {
			continue
		}
		r.lookAgain(x) // what comes again is a repeat only from now on
		if r.t.failed(p.Head().Cluster) {
			continue
		}
		e = sealedAt(e, x.Seal)
		at, extents, heads = append(at, i), append(extents, e), append(heads, sealedAt(p.Head(), math.MaxInt64))
	}
	s := r.sealer()
	returned, err := s.knownAll(ctx, extents)
	if err != nil {
		return nil, err
	}
	for j, i := range at {
		if p, e := r.extent(&r.state.Extents[i]); e != nil {
			before, err := r.knownBack(ctx, p, e.Number)
			if err != nil {
				return nil, err
			}
			returned[j] = furthest(returned[j], before)
		}
	}
	known, err := s.knownSafely(ctx, heads)
	if err != nil {
		return nil, err
	}
	all := make(map[federation.LogicalPartition]map[int64]mark.Producer)
	for j, i := range at {
		x := &r.state.Extents[i]
		if knowsAll(known[j], returned[j]) {
			x.Carried = heads[j].Number
			continue
		}
		all[x.Partition] = furthest(all[x.Partition], returned[j])
	}
	out := make(map[federation.LogicalPartition][]mark.Producer, len(all))
	for n, states := range all {
		out[n] = sortedProducers(states)
	}
	return out, nil
}

// sealedAt is an extent as if its seal lay at an offset.
func sealedAt(e *federation.Extent, seal federation.PhysicalOffset) *federation.Extent {
	sealed := *e
	sealed.Seal = seal
	return &sealed
}

// knowsAll reports whether states of producers are as far on as others.
func knowsAll(known, others map[int64]mark.Producer) bool {
	for id, p := range others {
		if have, ok := known[id]; !ok || have.Before(&p) {
			return false
		}
	}
	return true
}

// knownSafely is knownAll for extents that may take appends: nothing that is not replicated
// counts. Where that cannot be told, nothing is known.
func (s *sealer) knownSafely(ctx context.Context, extents []*federation.Extent) ([]map[int64]mark.Producer, error) {
	before, failed := s.endsOf(ctx, extents)
	known, err := s.knownAll(ctx, extents)
	ends, late := s.endsOf(ctx, extents)
	for i := range known {
		// Another leader may not have what the one before knew.
		if b, e := before[i], ends[i]; b.Err != nil || e.Err != nil || b.Epoch != e.Epoch || e.HighWatermark < e.LogEnd {
			known[i] = nil
		}
	}
	return known, firstOf(err, failed, late)
}

// errNotAsked tells that a cluster could not be asked for an end.
var errNotAsked = errors.New("the cluster was not asked")

// endsOf returns the ends of extents on any clusters.
func (s *sealer) endsOf(ctx context.Context, extents []*federation.Extent) ([]upstream.PartitionEnds, error) {
	out := make([]upstream.PartitionEnds, len(extents))
	for i := range out {
		out[i].Err = errNotAsked
	}
	err := s.allClusters(ctx, len(extents), func(i int) federation.ClusterName { return extents[i].Cluster },
		func(ctx context.Context, c *upstream.Cluster, at []int) error {
			parts := make([]upstream.Partition, len(at))
			for j, i := range at {
				parts[j] = physical(extents[i].PhysicalAddress)
			}
			for j, e := range c.Ends(ctx, parts) {
				out[at[j]] = e
			}
			return nil
		})
	return out, err
}

// fits reports whether the roll that is planned is what is to be done.
func (r *restorer) fits(told map[federation.LogicalPartition][]mark.Producer) bool {
	roll := &r.state.Roll
	moves := slices.Concat(roll.Plan.Moves, movesOf(roll.Heads))
	if !roll.Planned || len(moves) != len(told) {
		return false
	}
	return !slices.ContainsFunc(moves, func(v planner.Move) bool {
		p, err := r.t.current().Partition(v.TopicPartition)
		return err != nil || told[v.Partition] == nil || p.Head().Number != v.Extent || p.Head().PhysicalAddress != v.From
	})
}

// planRoll decides where the heads of partitions go on.
func (r *restorer) planRoll(ctx context.Context, partitions []federation.LogicalPartition) error {
	m := r.t.current()
	topic := m.Topic(r.topic.Name)
	if topic == nil || topic.ID != r.topic.ID {
		return errUnknownTopic(r.topic.Name)
	}
	var clusters []federation.ClusterName
	for _, n := range partitions {
		if name := topic.Partitions[n].Head().Cluster; !slices.Contains(clusters, name) {
			clusters = append(clusters, name)
		}
	}
	name := planner.PhysicalName(m.LogicalCluster, topic.Name, topic.Generation)
	var mu sync.Mutex
	existing := make(map[federation.ClusterName]int32, len(clusters))
	err := r.t.eachCluster(ctx, len(clusters), func(i int) federation.ClusterName { return clusters[i] }, func(ctx context.Context, c *upstream.Cluster, _ []int) error {
		found, err := c.Topics(ctx, name)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		existing[c.Name] = int32(len(found[name].Partitions))
		return nil
	})
	if err != nil {
		return err
	}
	plan, err := planner.Roll(m, topic.Name, partitions, existing)
	if err != nil {
		return err
	}
	id, err := r.t.producerID(ctx)
	if err != nil {
		return err
	}
	r.state.Roll = newMoveState(plan, id)
	r.state.Roll.within = r.whole
	return r.save(ctx, r.op, *r.state)
}

// prime makes the partitions that heads go on in, and writes what the returned extents
// know of producers as their first openings. They are by another producer of marks than
// those that follow, so that each of them can be written again.
func (r *restorer) prime(ctx context.Context, told map[federation.LogicalPartition][]mark.Producer) error {
	roll := &r.state.Roll
	r.op.uses(roll.clusters())
	s := r.sealer()
	if !roll.Primed {
		if err := r.primeHeads(ctx, r.op, s, roll); err != nil {
			return err
		}
	}
	var heads []int
	for i, h := range roll.Heads {
		if h.Openings.To == 0 {
			heads = append(heads, i)
		}
	}
	if len(heads) == 0 {
		return nil
	}
	s.producer, s.batchBytes = r.state.Producer, roll.BatchBytes
	opened, moved := make([]bool, len(heads)), make([]planner.MovedHead, len(heads))
	err := s.allClusters(ctx, len(heads), func(j int) federation.ClusterName { return roll.Heads[heads[j]].To.Cluster },
		func(ctx context.Context, c *upstream.Cluster, at []int) error {
			return s.openAt(ctx, c, at, func(j int) (primedHead, endedHead) {
				h := roll.Heads[heads[j]]
				return h, endedHead{producers: told[h.Partition]}
			}, moved, opened)
		})
	if err != nil {
		return err
	}
	for j, i := range heads {
		if !opened[j] {
			return fmt.Errorf("%s: what the returned extents know of producers was not written", moved[j].TopicPartition)
		}
		roll.Heads[i].Openings = federation.PhysicalRange{From: moved[j].Opening, To: moved[j].Start}
	}
	return r.save(ctx, r.op, *r.state)
}
