package controller

import (
	"context"
	"slices"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/upstream"
)

// What a failed cluster knew of producers is out of reach, but not what the extents
// before knew at their ends: a batch that lies in one of those, and comes again, is a
// repeat also where its head goes on.

// knownTimeout bounds the look at the extents before a failed one. Nothing is held
// meanwhile, but producers wait.
const knownTimeout = 2 * time.Second

// openKnown writes into the partitions that heads go to what the extents before the
// failed ones knew of their producers, and returns where the heads begin then. What
// cannot be read now is left out.
func (s *sealer) openKnown(ctx context.Context, heads []primedHead) ([]planner.MovedHead, error) {
	known := s.knownBefore(ctx, heads)
	out := make([]planner.MovedHead, len(heads))
	opened := make([]bool, len(heads))
	err := s.allClusters(ctx, len(heads), func(i int) federation.ClusterName { return heads[i].To.Cluster },
		func(ctx context.Context, c *upstream.Cluster, at []int) error {
			return s.openAt(ctx, c, at, func(i int) (primedHead, endedHead) { return heads[i], known[i] }, out, opened)
		})
	return out, err
}

// knownBefore returns for each head what the last extent before it that can be read
// knew at its end.
func (s *sealer) knownBefore(ctx context.Context, heads []primedHead) []endedHead {
	ctx, cancel := context.WithTimeout(ctx, knownTimeout)
	defer cancel()
	m := s.current()
	away := s.health.away()
	known := make([]endedHead, len(heads))
	before := make([]*federation.Extent, len(heads))
	var which []int
	for i, h := range heads {
		part, err := m.Partition(h.TopicPartition)
		if err != nil {
			continue
		}
		for _, e := range slices.Backward(part.Extents) {
			if e.Number < h.Extent && e.Sealed() && !away[e.Cluster] && !s.failed(e.Cluster) {
				before[i], which = e, append(which, i)
				break
			}
		}
	}
	err := s.allClusters(ctx, len(which), func(j int) federation.ClusterName { return before[which[j]].Cluster },
		func(ctx context.Context, c *upstream.Cluster, at []int) error {
			extents := make([]*federation.Extent, len(at))
			for k, j := range at {
				extents[k] = before[which[j]]
			}
			states, err := s.knownAt(ctx, c, extents)
			for k, j := range at {
				known[which[j]].producers = sortedProducers(states[k])
			}
			return err
		})
	if err != nil {
		s.log.Warn("what extents before the failed ones knew of producers cannot be read; batches of those that come again may be taken for new ones", "topic", s.topic.Name, "err", err)
	}
	return known
}

// knownAt returns the producers as sealed extents on one cluster knew them at their ends.
func (s *sealer) knownAt(ctx context.Context, c *upstream.Cluster, extents []*federation.Extent) ([]map[int64]mark.Producer, error) {
	parts := make([]upstream.Partition, len(extents))
	for i, e := range extents {
		parts[i] = physical(e.PhysicalAddress)
	}
	out := make([]map[int64]mark.Producer, len(extents))
	before := c.LogEnds(ctx, parts)
	producers := c.Producers(ctx, parts)
	ends := c.LogEnds(ctx, parts)
	var failed error
	for i, e := range extents {
		err := firstOf(before[i].Err, producers[i].Err, ends[i].Err)
		if err == nil && before[i].Epoch != ends[i].Epoch {
			err = errLeaderChanged
		}
		var states map[int64]mark.Producer
		if err == nil {
			// What was cut off its end is in a later extent.
			states, err = s.statesAt(ctx, c, parts[i], max(e.End, e.Seal), producers[i].States, ends[i])
		}
		if err == nil {
			states, err = s.carryFrom(ctx, e, states)
		}
		if err != nil {
			failed = err
			continue
		}
		out[i] = states
	}
	return out, failed
}
