package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/upstream"
)

// A directWatch knows who writes to the physical partitions of adopted topics without
// braid: producers whose ids braid has not given out, and whose sequences go on.
type directWatch map[federation.PhysicalAddress]directLook

// A directLook is what the last look at a physical partition brought.
type directLook struct {
	end    federation.PhysicalOffset
	states upstream.ProducerStates
}

// compare notes what a partition knows of its producers, and returns those that are
// not braid's and have written since the last look.
func (w directWatch) compare(at federation.PhysicalAddress, now directLook, ours func(id int64) bool) []int64 {
	before, known := w[at]
	w[at] = now
	if !known {
		return nil
	}
	var out []int64
	for id, s := range now.states {
		if b, ok := before.states[id]; !ours(id) && (!ok || b.Epoch != s.Epoch || b.LastSequence != s.LastSequence) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// adoptedHeads returns the heads that lie in physical topics which are not braid's own.
func adoptedHeads(m *federation.Map) []sealedExtent {
	var out []sealedExtent
	for _, topic := range m.Topics {
		own := planner.PhysicalName(m.LogicalCluster, topic.Name, topic.Generation)
		for _, p := range topic.Partitions {
			if h := p.Head(); h.Topic != own && h.State == federation.ExtentOpen {
				out = append(out, sealedExtent{federation.TopicPartition{Topic: p.Topic, Partition: p.Number}, h})
			}
		}
	}
	return out
}

// watchDirect raises an alarm for each adopted topic that somebody writes to without
// braid, with the producer ids: they must be switched over before its heads move.
func (t *term) watchDirect(ctx context.Context) {
	watch := make(directWatch)
	alarms := make(map[federation.TopicName]bool)
	for ctx.Err() == nil {
		sleep(ctx, t.cfg.SealedInterval)
		if ctx.Err() == nil {
			t.lookAtAdopted(ctx, watch, alarms)
		}
	}
}

func directKey(topic federation.TopicName) string { return "direct/" + string(topic) }

func (t *term) lookAtAdopted(ctx context.Context, watch directWatch, alarms map[federation.TopicName]bool) {
	heads := adoptedHeads(t.current())
	if len(heads) == 0 && len(watch) == 0 {
		return
	}
	first, end, err := t.ids.Given(ctx)
	if err != nil {
		return // nobody can be told from anybody now
	}
	ours := func(id int64) bool { return mark.IsMark(id) || id >= first && id < end }
	looks := make([]directLook, len(heads))
	_ = t.eachCluster(ctx, len(heads), func(i int) federation.ClusterName { return heads[i].extent.Cluster }, func(ctx context.Context, c *upstream.Cluster, at []int) error {
		parts := make([]upstream.Partition, len(at))
		for j, i := range at {
			parts[j] = physical(heads[i].extent.PhysicalAddress)
		}
		// Where nothing was written, nobody has: to list producers can mean to read logs.
		var which []int
		var grown []upstream.Partition
		for j, e := range c.LogEnds(ctx, parts) {
			if last, known := watch[heads[at[j]].extent.PhysicalAddress]; e.Err == nil && (!known || last.end != e.LogEnd) {
				looks[at[j]].end = e.LogEnd
				which, grown = append(which, at[j]), append(grown, parts[j])
			}
		}
		for j, p := range c.Producers(ctx, grown) {
			if p.Err == nil {
				looks[which[j]].states = p.States
			}
		}
		return nil
	})
	if ctx.Err() != nil {
		return
	}
	writers := make(map[federation.TopicName][]int64)
	seen := make(map[federation.PhysicalAddress]bool)
	for i, h := range heads {
		at := h.extent.PhysicalAddress
		seen[at] = true
		if looks[i].states != nil {
			writers[h.tp.Topic] = append(writers[h.tp.Topic], watch.compare(at, looks[i], ours)...)
		}
	}
	maps.DeleteFunc(watch, func(at federation.PhysicalAddress, _ directLook) bool { return !seen[at] })
	for topic, ids := range writers {
		slices.Sort(ids)
		if ids = slices.Compact(ids); len(ids) == 0 {
			continue
		}
		alarms[topic] = true
		t.health.alarm(directKey(topic), "topic %q: somebody writes to its physical topic without braid (producer ids %s); switch all producers over before its partitions move", topic, listIDs(ids))
	}
	for topic := range alarms {
		if len(writers[topic]) == 0 {
			t.health.clear(directKey(topic))
			delete(alarms, topic)
		}
	}
}

func listIDs(ids []int64) string {
	var b strings.Builder
	for i, id := range ids {
		if i == writersNamed {
			fmt.Fprintf(&b, " and %d more", len(ids)-writersNamed)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprint(&b, id)
	}
	return b.String()
}

// directWriters looks whether somebody writes to heads while all gateways hold their
// appends: that is somebody who writes without braid. Only heads in physical topics
// that are not braid's own are looked at, for DirectQuiet. Nor is there a seal below an
// open transaction: its end would be no part of the extent.
func (s *sealer) directWriters(ctx context.Context, moves []planner.Move) error {
	own := planner.PhysicalName(s.cfg.LogicalCluster, s.topic.Name, s.topic.Generation)
	moves = slices.DeleteFunc(slices.Clone(moves), func(v planner.Move) bool { return v.From.Topic == own })
	if len(moves) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DirectQuiet+s.cfg.SealWait) // appends are held meanwhile
	defer cancel()
	return s.eachCluster(ctx, len(moves), func(i int) federation.ClusterName { return moves[i].From.Cluster }, func(ctx context.Context, c *upstream.Cluster, at []int) error {
		parts := make([]upstream.Partition, len(at))
		for j, i := range at {
			parts[j] = physical(moves[i].From)
		}
		before := c.LogEnds(ctx, parts)
		sleep(ctx, s.cfg.DirectQuiet)
		after := c.LogEnds(ctx, parts)
		for j, i := range at {
			if err := firstOf(before[j].Err, after[j].Err); err != nil {
				return err
			}
			if after[j].LogEnd > before[j].LogEnd {
				return federation.Errorf(federation.PolicyViolation,
					"%s: somebody writes to topic %q of physical cluster %q without braid; switch all producers over before its partitions move (`braid status` names those that have ids)",
					moves[i].TopicPartition, federation.Hidden(moves[i].From.Topic), c.Name)
			}
		}
		for j, p := range c.Producers(ctx, parts) {
			if p.Err != nil {
				return p.Err
			}
			for id, state := range p.States {
				if state.TxnStart >= 0 {
					return federation.Errorf(federation.Conflict, "%s: producer %d has an open transaction in topic %q of physical cluster %q; the move waits for its end",
						moves[at[j]].TopicPartition, id, federation.Hidden(moves[at[j]].From.Topic), c.Name)
				}
			}
		}
		return nil
	})
}
