package controller

import (
	"context"
	"math"
	"slices"
	"sync"
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
	var before, open []*federation.Extent
	var which, whichOpen []int // of heads, for each of before and of open
	for i, h := range heads {
		part, err := m.Partition(h.TopicPartition)
		if err != nil {
			continue
		}
		last := true
		for _, e := range slices.Backward(part.Extents) {
			switch {
			case e.Number >= h.Extent || away[e.Cluster]:
			case e.State == federation.ExtentSuspended: // it is being restored, or can be
				open, whichOpen = append(open, sealedAt(e, math.MaxInt64)), append(whichOpen, i)
			case !e.Sealed() || s.failed(e.Cluster) && !e.FailedOnce(): // one that came back can be read before all its topics are through
			case last || e.FailedOnce(): // of one that came back, those behind it were not told at its end
				before, which = append(before, e), append(which, i)
				last = false
			}
		}
	}
	var safely []map[int64]mark.Producer
	var failed error
	var wg sync.WaitGroup
	// What is not replicated there can be lost: to answer it as a repeat would lose it for good.
	wg.Go(func() { safely, failed = s.knownSafely(ctx, open) })
	states, err := s.knownAll(ctx, before)
	wg.Wait()
	if err = firstOf(err, failed); err != nil {
		s.log.Warn("what extents before the failed ones knew of producers cannot be read; batches of those that come again may be taken for new ones", "topic", s.topic.Name, "err", err)
	}
	states, which = append(states, safely...), append(which, whichOpen...)
	all := make([]map[int64]mark.Producer, len(heads))
	for j, i := range which {
		all[i] = furthest(all[i], states[j])
	}
	known := make([]endedHead, len(heads))
	for i := range known {
		known[i].producers = sortedProducers(all[i])
	}
	return known
}

// furthest adds states of producers to others. Of those that are in both, it takes the
// ones that are further on.
func furthest(all, more map[int64]mark.Producer) map[int64]mark.Producer {
	if all == nil {
		return more
	}
	for id, p := range more {
		if have, ok := all[id]; !ok || have.Before(&p) {
			all[id] = p
		}
	}
	return all
}

// knownAll is knownAt for extents on any clusters.
func (s *sealer) knownAll(ctx context.Context, extents []*federation.Extent) ([]map[int64]mark.Producer, error) {
	out := make([]map[int64]mark.Producer, len(extents))
	err := s.allClusters(ctx, len(extents), func(i int) federation.ClusterName { return extents[i].Cluster },
		func(ctx context.Context, c *upstream.Cluster, at []int) error {
			there := make([]*federation.Extent, len(at))
			for k, i := range at {
				there[k] = extents[i]
			}
			states, err := s.knownAt(ctx, c, there)
			for k, i := range at {
				out[i] = states[k]
			}
			return err
		})
	return out, err
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
