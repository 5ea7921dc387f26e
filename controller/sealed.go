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
	behind := make(map[federation.PhysicalAddress]*foreignRecords)
	for ctx.Err() == nil {
		sleep(ctx, t.cfg.SealedInterval)
		if ctx.Err() == nil {
			t.lookAtSealed(ctx, behind)
		}
	}
}

func (t *term) lookAtSealed(ctx context.Context, behind map[federation.PhysicalAddress]*foreignRecords) {
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
		at := s.extent.PhysicalAddress
		known := behind[at]
		if known == nil {
			// The seal itself is the record at the end, or further up if what lies between was
			// appended again elsewhere.
			known = &foreignRecords{end: max(s.extent.End, s.extent.Seal) + 1}
		}
		if end := ends[i].HighWatermark; ends[i].LogStart >= 0 && end > known.end {
			behind[at] = known
			t.tellWriters(ctx, s, known, end)
		}
	}
	foreign := 0
	maps.DeleteFunc(behind, func(at federation.PhysicalAddress, known *foreignRecords) bool {
		if !seen[at] {
			t.health.clear(foreignKey(at))
			return true
		}
		if known.records > 0 {
			foreign++
		}
		return false
	})
	t.foreign.Store(int64(foreign))
}

// foreignRecords are what somebody has written behind a seal.
type foreignRecords struct {
	end     federation.PhysicalOffset // looked at up to here
	records int64
	writers map[int64]bool // some of them
}

// foreignRecordsMax bounds the records behind a seal that one look reads.
const foreignRecordsMax = 10_000

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

// dropEmptied takes extents out of the map whose records retention has deleted, and
// those that never had any. One that an older extent still precedes stays, so that the chain has no hole.
func (t *term) dropEmptied(ctx context.Context, all []sealedExtent, ends []upstream.PartitionEnds) {
	emptied := make(map[federation.TopicPartition]map[int32]bool)
	for i, s := range all {
		if none := max(ends[i].LogStart, s.extent.Start) >= s.extent.End; none && (s.extent.Copies.Len() == 0 || ends[i].LogStart >= s.extent.Copies.To) {
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

// tellWriters raises an alarm about new records behind a seal, and names who wrote
// them as far as that can be known.
func (t *term) tellWriters(ctx context.Context, s sealedExtent, known *foreignRecords, end federation.PhysicalOffset) {
	at := s.extent.PhysicalAddress
	c, err := t.parts.Clusters.Cluster(at.Cluster)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.ProbeTimeout)
	defer cancel()
	if known.writers == nil {
		known.writers = make(map[int64]bool)
	}
	var last time.Time
	records := int64(end - known.end)
	err = c.ReadBatches(ctx, physical(at), max(known.end, end-foreignRecordsMax), end, func(h recordbatch.Header, _ []byte) bool {
		if mark.IsMark(h.ProducerID) {
			records-- // of a seal that was repeated
			return true
		}
		if len(known.writers) < writersNamed {
			known.writers[h.ProducerID] = true
		}
		last = time.UnixMilli(h.MaxTimestamp)
		return true
	})
	if err != nil {
		t.log.Warn("records behind a seal could not be read; it is tried again", "partition", s.tp, "at", at, "err", err)
		return
	}
	known.end = end
	if records == 0 {
		return
	}
	known.records += records
	t.health.alarm(foreignKey(at), "%s: %d records lie behind the seal of %s, the last of %s: somebody writes there without braid (%s), or a gateway was cut off while the head moved. They are not part of the topic",
		s.tp, known.records, at, last.UTC().Format(time.RFC3339), describeWriters(known.writers))
	t.log.Error("records lie behind a seal; they are not part of the topic", "partition", s.tp, "at", at, "end", max(s.extent.End, s.extent.Seal), "log_end", end, "producers", slices.Sorted(maps.Keys(known.writers)))
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
