package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// writersNamed bounds the producers that an alarm names.
const writersNamed = 5

// A sealedExtent is one whose physical partition nobody should write to.
type sealedExtent struct {
	tp     federation.TopicPartition
	extent *federation.Extent
}

// watchSealed looks at the physical partitions of sealed extents, at an interval:
// extents that retention has emptied leave the map, and records that somebody wrote
// behind a seal raise an alarm. Those are part of no topic.
func (t *term) watchSealed(ctx context.Context) {
	behind := make(map[federation.PhysicalAddress]federation.PhysicalOffset) // ends that an alarm has told of
	for ctx.Err() == nil {
		sleep(ctx, t.cfg.SealedInterval)
		if ctx.Err() == nil {
			t.lookAtSealed(ctx, behind)
		}
	}
}

func (t *term) lookAtSealed(ctx context.Context, behind map[federation.PhysicalAddress]federation.PhysicalOffset) {
	m := t.current()
	all := sealedExtents(m)
	ends := make([]upstream.PartitionEnds, len(all))
	for i := range ends {
		ends[i].LogStart = -1 // not known
	}
	_ = t.eachCluster(ctx, len(all), func(i int) federation.ClusterName { return all[i].extent.Cluster }, func(ctx context.Context, c *upstream.Cluster, at []int) error {
		parts := make([]upstream.Partition, len(at))
		for j, i := range at {
			parts[j] = physical(all[i].extent.PhysicalAddress)
		}
		for j, e := range c.Ends(ctx, parts) {
			if e.Err == nil {
				ends[at[j]] = e
			}
		}
		return nil // those that do not answer are looked at again
	})
	if ctx.Err() != nil {
		return
	}
	t.dropEmptied(ctx, all, ends)
	seen := make(map[federation.PhysicalAddress]bool, len(all))
	for i, s := range all {
		seen[s.extent.PhysicalAddress] = true
		// The seal itself is the record at the end.
		if end := ends[i].HighWatermark; ends[i].LogStart >= 0 && end > s.extent.End+1 && end > behind[s.extent.PhysicalAddress] {
			behind[s.extent.PhysicalAddress] = end
			t.tellWriters(ctx, s, end)
		}
	}
	maps.DeleteFunc(behind, func(at federation.PhysicalAddress, _ federation.PhysicalOffset) bool {
		if !seen[at] {
			t.health.clear(foreignKey(at))
		}
		return !seen[at]
	})
	t.foreign.Store(int64(len(behind)))
}

func foreignKey(at federation.PhysicalAddress) string { return "foreign/" + at.String() }

func sealedExtents(m *federation.Map) []sealedExtent {
	var all []sealedExtent
	for _, topic := range m.Topics {
		for _, p := range topic.Partitions {
			for _, e := range p.Extents[:len(p.Extents)-1] {
				if e.Sealed() {
					all = append(all, sealedExtent{federation.TopicPartition{Topic: p.Topic, Partition: p.Number}, e})
				}
			}
		}
	}
	return all
}

// dropEmptied takes extents out of the map whose records retention has deleted. One
// that an older extent still precedes stays, so that the chain has no hole.
func (t *term) dropEmptied(ctx context.Context, all []sealedExtent, ends []upstream.PartitionEnds) {
	emptied := make(map[federation.TopicPartition]map[int32]bool)
	for i, s := range all {
		if ends[i].LogStart >= s.extent.End {
			if emptied[s.tp] == nil {
				emptied[s.tp] = make(map[int32]bool)
			}
			emptied[s.tp][s.extent.Number] = true
		}
	}
	if len(emptied) == 0 {
		return
	}
	dropped := 0
	_, err := t.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
		below := make(map[federation.TopicPartition]int32)
		for tp, numbers := range emptied {
			p, err := m.Partition(tp)
			if err != nil {
				continue
			}
			for _, e := range p.Extents {
				below[tp] = e.Number
				if !numbers[e.Number] {
					break
				}
			}
		}
		var next *federation.Map
		next, dropped = planner.WithoutExtents(m, below)
		return next, nil
	})
	switch {
	case ctx.Err() != nil:
	case err != nil:
		t.log.Warn("emptied extents could not be dropped; it is tried again", "partitions", len(emptied), "err", err)
	case dropped > 0:
		t.log.Info("extents dropped that retention has emptied", "extents", dropped)
	}
}

// tellWriters raises an alarm about records behind a seal, and names who wrote them
// as far as that can be known.
func (t *term) tellWriters(ctx context.Context, s sealedExtent, end federation.PhysicalOffset) {
	at := s.extent.PhysicalAddress
	c, err := t.parts.Clusters.Cluster(at.Cluster)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.ProbeTimeout)
	defer cancel()
	writers := make(map[int64]bool)
	var last time.Time
	err = c.ReadBatches(ctx, physical(at), s.extent.End+1, end, func(h recordbatch.Header, _ []byte) bool {
		if !mark.IsMark(h.ProducerID) {
			writers[h.ProducerID] = true
			last = time.UnixMilli(h.MaxTimestamp)
		}
		return len(writers) < writersNamed
	})
	if err == nil && len(writers) == 0 {
		return // marks of a seal that was repeated
	}
	t.health.alarm(foreignKey(at), "%s: %d records lie behind the seal of %s, the last of %s: somebody writes there without braid (%s), or a gateway was cut off while the head moved. They are not part of the topic",
		s.tp, end-s.extent.End-1, at, last.UTC().Format(time.RFC3339), describeWriters(writers))
	t.log.Error("records lie behind a seal; they are not part of the topic", "partition", s.tp, "at", at, "end", s.extent.End, "log_end", end, "producers", slices.Sorted(maps.Keys(writers)))
}

func describeWriters(ids map[int64]bool) string {
	var names []string
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		if id < 0 {
			names = append(names, "a producer without an id")
			continue
		}
		names = append(names, fmt.Sprintf("producer id %d", id))
	}
	if len(names) == 0 {
		return "unknown producers"
	}
	return strings.Join(names, ", ")
}
