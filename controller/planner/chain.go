package planner

import (
	"fmt"
	"maps"
	"slices"

	"github.com/braidmq/braid/federation"
)

// A MovedHead is a move whose old head is sealed and whose new one can open.
type MovedHead struct {
	Move

	End     federation.PhysicalOffset `json:"end"`     // end of the old extent
	Start   federation.PhysicalOffset `json:"start"`   // first offset of the new one
	Opening federation.PhysicalOffset `json:"opening"` // its first opening mark; 0 = none
	// Epoch is the leader epoch of the physical partition that the head moves to.
	Epoch federation.PhysicalEpoch `json:"epoch"`
	// Copies are where the records of all older extents lie in the new one, if the topic is
	// compacted; else zero.
	Copies federation.PhysicalRange `json:"copies"`
}

// WithSealing returns the map with the heads that move marked as sealing; m
// itself if they are already. It is a Conflict if one of them is not the extent
// any more that was planned for, or is suspended.
func WithSealing(m *federation.Map, moves []Move) (*federation.Map, error) {
	e := edit{m: m}
	for _, v := range moves {
		p, err := e.partition(v.TopicPartition)
		if err != nil {
			return nil, err
		}
		h := p.Head()
		switch {
		case m.Clusters[v.To.Cluster] == nil:
			return nil, federation.Errorf(federation.UnknownCluster, "%s: physical cluster %q was removed meanwhile", v.TopicPartition, v.To.Cluster)
		case m.Clusters[v.To.Cluster].State == federation.ClusterFailed:
			return nil, federation.Errorf(federation.ClusterUnavailable, "%s: physical cluster %q, where it was to go, failed meanwhile", v.TopicPartition, v.To.Cluster)
		case !v.moves(h):
			return nil, errChanged(v)
		case h.State == federation.ExtentSuspended:
			return nil, federation.Errorf(federation.Conflict, "%s: the head is suspended, since its physical cluster failed", v.TopicPartition)
		case h.State == federation.ExtentSealing:
			continue
		}
		e.set(withHeadState(p, federation.ExtentSealing))
	}
	return e.done(), nil
}

// WithoutSealing returns the map in which heads that were to move take appends
// again; m itself if none of them is sealing. Heads that are others by now are
// left as they are.
func WithoutSealing(m *federation.Map, moves []Move) *federation.Map {
	e := edit{m: m}
	for _, v := range moves {
		p, err := e.partition(v.TopicPartition)
		if err != nil {
			continue // deleted meanwhile
		}
		if h := p.Head(); v.moves(h) && h.State == federation.ExtentSealing {
			e.set(withHeadState(p, federation.ExtentOpen))
		}
	}
	return e.done()
}

// WithMoved returns the map in which the old heads are sealed and the new ones
// are open; m itself if all of them have moved already, so that it can be
// repeated. It is a Conflict if a head is not sealing, or is not the extent any
// more that was planned for.
func WithMoved(m *federation.Map, heads []MovedHead) (*federation.Map, error) {
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
		case h.State != federation.ExtentSealing:
			return nil, federation.Errorf(federation.Conflict, "%s: the head is %s, not sealing", v.TopicPartition, h.State)
		}
		e.set(v.apply(p))
	}
	next := e.done()
	if next == m {
		return m, nil
	}
	if err := next.Validate(); err != nil {
		return nil, fmt.Errorf("planner: moved heads: %w", err)
	}
	return next, nil
}

// WithoutExtents returns the map without extents that retention emptied, and how
// many they are; m itself if there is none. expired says for each partition from
// which number on extents stay. Only sealed ones go, from the first on, so the
// chain has no hole, and the log starts where the first that remains does.
func WithoutExtents(m *federation.Map, expired map[federation.TopicPartition]int32) (*federation.Map, int) {
	e := edit{m: m}
	gone := 0
	for tp, number := range expired {
		p, err := e.partition(tp)
		if err != nil {
			continue // deleted meanwhile
		}
		n := 0
		for n < len(p.Extents)-1 && p.Extents[n].Sealed() && p.Extents[n].Number < number {
			n++
		}
		if n == 0 {
			continue
		}
		shorter := *p
		shorter.Extents = slices.Clone(p.Extents[n:])
		e.set(&shorter)
		gone += n
	}
	return e.done(), gone
}

// moves reports whether h is the extent that the move is about.
func (v *Move) moves(h *federation.Extent) bool {
	return h != nil && h.Number == v.Extent && h.PhysicalAddress == v.From
}

// done reports whether the partition has moved already. A physical partition
// serves one extent, ever, so the address of the head says enough; the extent
// before may have left the map since.
func (v *MovedHead) done(p *federation.Partition) bool {
	h := p.Head()
	if h == nil || h.PhysicalAddress != v.To || h.Number != v.Extent+1 || h.Start != v.Start {
		return false
	}
	if len(p.Extents) == 1 {
		return true
	}
	old := p.Extents[len(p.Extents)-2]
	return v.moves(old) && old.Sealed() && old.End == v.End
}

func (v *MovedHead) apply(p *federation.Partition) *federation.Partition {
	out := *p
	out.Epoch++
	old := *p.Head()
	old.State, old.End = federation.ExtentSealed, v.End
	end, _ := old.EndOffset()
	if v.Copies.To > 0 {
		out.Extents = []*federation.Extent{v.open(old.Number+1, end, out.Epoch)}
		return &out
	}
	out.Extents = make([]*federation.Extent, len(p.Extents), len(p.Extents)+1)
	copy(out.Extents, p.Extents)
	out.Extents[len(p.Extents)-1] = &old
	out.Extents = append(out.Extents, v.open(old.Number+1, end, out.Epoch))
	return &out
}

// open returns the new head.
func (v *MovedHead) open(number int32, base federation.LogicalOffset, epoch federation.LogicalEpoch) *federation.Extent {
	return &federation.Extent{
		Number:          number,
		PhysicalAddress: v.To,
		Base:            base,
		Start:           v.Start,
		Opening:         v.Opening,
		Copies:          v.Copies,
		State:           federation.ExtentOpen,
		Epochs:          []federation.EpochEntry{{Physical: v.Epoch, Logical: epoch}},
	}
}

func withHeadState(p *federation.Partition, s federation.ExtentState) *federation.Partition {
	out := *p
	head := *p.Head()
	head.State = s
	out.Extents = slices.Clone(p.Extents)
	out.Extents[len(out.Extents)-1] = &head
	return &out
}

func errChanged(v Move) error {
	return federation.Errorf(federation.Conflict, "%s: the head is not extent %d on physical cluster %q any more", v.TopicPartition, v.Extent, v.From.Cluster)
}

// An edit collects changed partitions of a map; it copies a topic at its first change.
type edit struct {
	m      *federation.Map
	topics map[federation.TopicName]*federation.Topic
}

func (e *edit) partition(tp federation.TopicPartition) (*federation.Partition, error) {
	if t := e.topics[tp.Topic]; t != nil && tp.Partition >= 0 && int(tp.Partition) < len(t.Partitions) {
		return t.Partitions[tp.Partition], nil
	}
	return e.m.Partition(tp)
}

func (e *edit) set(p *federation.Partition) {
	t := e.topics[p.Topic]
	if t == nil {
		c := *e.m.Topics[p.Topic]
		c.Partitions = slices.Clone(c.Partitions)
		t = &c
		if e.topics == nil {
			e.topics = make(map[federation.TopicName]*federation.Topic)
		}
		e.topics[p.Topic] = t
	}
	t.Partitions[p.Number] = p
}

// done returns the next map; the same one if nothing changed.
func (e *edit) done() *federation.Map {
	if len(e.topics) == 0 {
		return e.m
	}
	next := *e.m
	next.Topics = maps.Clone(e.m.Topics)
	maps.Copy(next.Topics, e.topics)
	return next.Seal()
}
