package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// A head that is being sealed and that no operation moves was left by an operation
// that the store has lost. Its seal may be in the log, so it cannot just be opened
// again; but the primer tells where it was to go, and by which producer of marks, and
// with that the move is begun again where it was: each of its steps can be repeated.

// adoptOrphans begins the moves of such heads again. It is tried until none is left.
func (t *term) adoptOrphans(ctx context.Context) {
	const alarm = "orphans"
	// What a former leader sent must have reached the log, or never will.
	sleep(ctx, t.cfg.OrphanGrace)
	for attempt := 0; ctx.Err() == nil; attempt++ {
		orphans := t.orphans()
		if len(orphans) == 0 {
			t.health.clear(alarm)
			return
		}
		failed := make([]federation.TopicPartition, 0)
		var last error
		for _, topic := range slices.Sorted(maps.Keys(orphans)) {
			if err := t.adoptOrphansOf(ctx, topic, orphans[topic]); err != nil {
				last = err
				for _, p := range orphans[topic] {
					failed = append(failed, federation.TopicPartition{Topic: topic, Partition: p.Number})
				}
			}
		}
		if ctx.Err() != nil {
			return
		}
		if last != nil {
			t.health.alarm(alarm, "heads are held whose move the store has lost, and it cannot go on yet: %s: %v", named(failed), last)
			t.log.Warn("heads whose move was lost cannot go on yet; it is tried again", "heads", len(failed), "err", last)
		}
		sleep(ctx, backoff(attempt))
	}
}

// orphans returns the partitions whose heads are being sealed by no operation.
func (t *term) orphans() map[federation.TopicName][]*federation.Partition {
	m := t.current()
	out := make(map[federation.TopicName][]*federation.Partition)
	for name, topic := range m.Topics {
		for _, p := range topic.Partitions {
			if p.Head().State == federation.ExtentSealing {
				out[name] = append(out[name], p)
			}
		}
	}
	for name := range out {
		if t.ops.worksOn(t.topicName(name)) {
			delete(out, name)
		}
	}
	return out
}

// A foundPrimer is where the next extent of a partition was to begin.
type foundPrimer struct {
	at       federation.PhysicalAddress
	offset   federation.PhysicalOffset
	epoch    federation.PhysicalEpoch
	producer int64
	version  federation.MapVersion
}

// adoptOrphansOf begins the moves of a topic's heads again; heads without a primer
// and without a seal take appends again.
func (t *term) adoptOrphansOf(ctx context.Context, name federation.TopicName, parts []*federation.Partition) error {
	topic := t.current().Topic(name)
	if topic == nil {
		return nil
	}
	primers, err := t.primersOf(ctx, topic)
	if err != nil {
		return err
	}
	compaction, err := t.compactionOf(ctx, topic, headsOf(parts))
	if err != nil {
		return err
	}
	byProducer := make(map[int64][]primedHead)
	ending := make(map[int64]int) // how many of them, from the first on, are sealed
	var release []planner.Move
	for _, p := range parts {
		h := p.Head()
		move := planner.Move{TopicPartition: federation.TopicPartition{Topic: name, Partition: p.Number}, Extent: h.Number, From: h.PhysicalAddress}
		seal, copied, err := t.sealOf(ctx, h)
		if err != nil {
			return err
		}
		var found *foundPrimer
		for _, f := range primers[p.Number][h.Number+1] {
			if (seal == 0 || f.producer == seal) && (found == nil || f.version > found.version) {
				found = &f
			}
		}
		switch {
		case found != nil && seal == 0 && compaction.on:
			release = append(release, move) // what was copied is not known, and the next move copies again
		case found != nil:
			move.To = found.at
			head, at := primedHead{Move: move, Primer: found.offset, Epoch: found.epoch, Copies: copied.Copies, CopiedEnd: copied.End}, len(byProducer[found.producer])
			if seal != 0 { // no way back
				at = ending[found.producer]
				ending[found.producer]++
			}
			byProducer[found.producer] = slices.Insert(byProducer[found.producer], at, head)
		case seal != 0:
			return fmt.Errorf("%s: its log is sealed, but the partition that it was to move to cannot be found", move.TopicPartition)
		default:
			release = append(release, move)
		}
	}
	if len(release) > 0 {
		t.log.Warn("heads that were held take appends again; their move was lost before it was under way", "topic", name, "heads", len(release))
		if err := t.ops.release(ctx, release); err != nil {
			return err
		}
	}
	for _, producer := range slices.Sorted(maps.Keys(byProducer)) {
		if err := t.resumeMove(ctx, topic, producer, byProducer[producer], ending[producer]); err != nil {
			return err
		}
	}
	return nil
}

// resumeMove moves heads that are primed, of which the first ones have no way back,
// and waits for the end.
func (t *term) resumeMove(ctx context.Context, topic *federation.Topic, producer int64, heads []primedHead, ending int) error {
	t.log.Warn("the move of heads was lost; it goes on from what the logs say", "topic", topic.Name, "heads", len(heads))
	var targets []planner.PhysicalTopic
	for _, h := range heads {
		if pt := (planner.PhysicalTopic{Cluster: h.To.Cluster, Name: h.To.Topic, Exists: true}); !slices.Contains(targets, pt) {
			targets = append(targets, pt)
		}
	}
	s := &sealer{term: t, topic: topic}
	bytes, err := s.largestBatch(ctx, targets)
	if err != nil {
		return err
	}
	state := moveState{
		Planned: true, Plan: planner.MovePlan{Topic: topic.Name, TopicID: topic.ID, Generation: topic.Generation, Topics: targets},
		Producer: producer, Primed: true, Heads: heads, Total: len(heads), BatchBytes: bytes,
		Compacted: slices.ContainsFunc(heads, func(h primedHead) bool { return h.copied() }),
		Ending:    ending, SealingMs: time.Now().UnixMilli(), Acknowledged: make([]federation.PhysicalOffset, ending),
	}
	request := "lost-" + strconv.FormatInt(producer, 36) + "-" + strconv.FormatInt(t.fencing, 10)
	op, err := t.ops.startFrom(ctx, kindMoveHeads, t.topicName(topic.Name), request, moveSpec{Topic: topic.Name, TopicID: topic.ID}, state)
	if err != nil {
		return err
	}
	select {
	case <-op.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// sealOf returns the producer of the seal behind a head, 0 if there is none, and what
// the seal says of copies.
func (t *term) sealOf(ctx context.Context, h *federation.Extent) (producer int64, copied mark.Copied, err error) {
	c, err := t.parts.Clusters.Cluster(h.Cluster)
	if err != nil {
		return 0, copied, err
	}
	at := physical(h.PhysicalAddress)
	ends := c.Ends(ctx, []upstream.Partition{at})[0]
	if ends.Err != nil {
		return 0, copied, ends.Err
	}
	from := max(h.Start, ends.LogStart, ends.HighWatermark-tailRecords)
	var bad error
	err = c.ReadBatches(ctx, at, from, ends.HighWatermark, func(b recordbatch.Header, batch []byte) bool {
		if mark.IsMark(b.ProducerID) {
			if kind, s, _, err := mark.Parse(batch); err == nil && kind == mark.KindSeal && s.Extent == h.Number {
				producer = b.ProducerID
				copied, _, bad = mark.ParseCopied(batch)
			}
		}
		return producer == 0
	})
	return producer, copied, firstOf(err, bad)
}

func headsOf(parts []*federation.Partition) []federation.PhysicalAddress {
	out := make([]federation.PhysicalAddress, len(parts))
	for i, p := range parts {
		out[i] = p.Head().PhysicalAddress
	}
	return out
}

// primersOf returns the primers in partitions that were made for a topic and that the
// map does not use, by partition and number of the extent. All clusters must answer.
func (t *term) primersOf(ctx context.Context, topic *federation.Topic) (map[federation.LogicalPartition]map[int32][]foundPrimer, error) {
	m := t.current()
	used := make(map[federation.PhysicalAddress]bool)
	for _, p := range topic.Partitions {
		for _, e := range p.Extents {
			used[e.PhysicalAddress] = true
		}
	}
	name := planner.PhysicalName(m.LogicalCluster, topic.Name, topic.Generation)
	out := make(map[federation.LogicalPartition]map[int32][]foundPrimer)
	for cluster := range m.Clusters {
		c, err := t.parts.Clusters.Cluster(cluster)
		if err != nil {
			return nil, err
		}
		topics, err := c.Topics(ctx, name)
		if err != nil {
			return nil, err
		}
		for i, info := range topics[name].Partitions {
			at := federation.PhysicalAddress{Cluster: cluster, Topic: name, Partition: federation.PhysicalPartition(i)}
			if used[at] {
				continue
			}
			p, err := primerOf(ctx, c, physical(at))
			if err != nil {
				return nil, err
			}
			if p.producer == 0 || p.subject.TopicID != topic.ID {
				continue
			}
			if out[p.subject.Partition] == nil {
				out[p.subject.Partition] = make(map[int32][]foundPrimer)
			}
			out[p.subject.Partition][p.subject.Extent] = append(out[p.subject.Partition][p.subject.Extent], foundPrimer{
				at: at, offset: p.offset, epoch: max(0, info.Epoch), producer: p.producer, version: p.subject.MapVersion,
			})
		}
	}
	return out, nil
}
