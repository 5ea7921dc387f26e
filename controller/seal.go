package controller

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// A head moves in steps, each of which can be done twice, also by another leader:
//
//	primed ──► sealing: no gateway appends to it ──► ending ──► ended at P ──► moved
//	              └─(a gateway does not answer)─► open again
//
// "ending" is saved before the seal is appended: from then on there is no way
// back. Whatever is written behind P, by a gateway that was cut off, or by somebody
// else, is not part of the partition.

// openingsRepeatable is how many openings of a head can be appended again: a broker
// recognises the last five batches of a producer, and the primer is one.
const openingsRepeatable = 4

// A primed head knows where it begins in the partition that it moves to.
type primedHead struct {
	planner.Move

	Primer federation.PhysicalOffset `json:"primer"`
	Epoch  federation.PhysicalEpoch  `json:"epoch"`

	// Of a head that was copied: where the copies lie, and up to where, which is its end.
	Copies    federation.PhysicalRange  `json:"copies"`
	CopiedEnd federation.PhysicalOffset `json:"copiedEnd"`
	// Openings are those that were written before the old head ended: what extents knew
	// whose cluster came back.
	Openings federation.PhysicalRange `json:"openings"`
}

func (h *primedHead) copied() bool { return h.Copies.To > 0 }

func movesOf(heads []primedHead) []planner.Move {
	moves := make([]planner.Move, len(heads))
	for i := range heads {
		moves[i] = heads[i].Move
	}
	return moves
}

// A sealer moves the heads of one operation.
type sealer struct {
	*term

	topic      *federation.Topic
	producer   int64   // of the marks
	batchBytes int     // the largest batch that the partitions take that heads move to
	compacted  bool    // the topic is
	copier     *copier // nil if heads move without their records
}

// subject is what the marks of a move are about: the extent that ends, or the one
// that begins.
func (s *sealer) subject(v planner.Move, extent int32) mark.Subject {
	return mark.Subject{
		LogicalCluster: s.cfg.LogicalCluster, Topic: v.Topic, TopicID: s.topic.ID, Partition: v.Partition,
		Extent: extent, MapVersion: s.current().Version,
	}
}

// prime writes the first record into each partition that a head moves to. It
// proves that the partition takes appends, names the extent, and makes it a
// partition that has held a record: brokers from Kafka 4.5 on take only sequence 0
// as the first one otherwise (KAFKA-15591).
func (s *sealer) prime(ctx context.Context, moves []planner.Move, epochs []federation.PhysicalEpoch) ([]primedHead, error) {
	heads := make([]primedHead, len(moves))
	times, err := s.primerTimes(ctx, moves)
	if err != nil {
		return nil, err
	}
	err = s.eachCluster(ctx, len(moves), func(i int) federation.ClusterName { return moves[i].To.Cluster },
		func(ctx context.Context, c *upstream.Cluster, at []int) error {
			appends := make([]upstream.MarkAppend, len(at))
			for j, i := range at {
				appends[j] = upstream.MarkAppend{Partition: physical(moves[i].To), Batch: mark.Primer(s.subject(moves[i], moves[i].Extent+1), s.producer, times[i])}
			}
			for j, a := range c.AppendMarks(ctx, appends) {
				if a.Err != nil {
					return fmt.Errorf("%s: physical cluster %q does not take records for it: %w", moves[at[j]].TopicPartition, c.Name, a.Err)
				}
				heads[at[j]] = primedHead{Move: moves[at[j]], Primer: a.Offset, Epoch: epochs[at[j]]}
			}
			return nil
		})
	return heads, err
}

func physical(a federation.PhysicalAddress) upstream.Partition {
	return upstream.Partition{Topic: a.Topic, Partition: a.Partition}
}

// eachCluster calls do once for each cluster with the indexes of what lies on it,
// all at the same time, and returns an error of any.
func (t *term) eachCluster(ctx context.Context, n int, clusterOf func(i int) federation.ClusterName, do func(ctx context.Context, c *upstream.Cluster, at []int) error) error {
	byName := make(map[federation.ClusterName][]int)
	for i := range n {
		byName[clusterOf(i)] = append(byName[clusterOf(i)], i)
	}
	topics := make([]planner.PhysicalTopic, 0, len(byName))
	for name := range byName {
		topics = append(topics, planner.PhysicalTopic{Cluster: name})
	}
	slices.SortFunc(topics, func(a, b planner.PhysicalTopic) int {
		if a.Cluster < b.Cluster {
			return -1
		}
		return 1
	})
	return t.each(ctx, topics, func(ctx context.Context, pt planner.PhysicalTopic, c *upstream.Cluster) error {
		return do(ctx, c, byName[pt.Cluster])
	})
}

// allClusters is eachCluster that an error does not keep from any cluster.
func (t *term) allClusters(ctx context.Context, n int, clusterOf func(i int) federation.ClusterName, do func(ctx context.Context, c *upstream.Cluster, at []int) error) error {
	var mu sync.Mutex
	var failed error
	err := t.eachCluster(ctx, n, clusterOf, func(ctx context.Context, c *upstream.Cluster, at []int) error {
		if err := do(ctx, c, at); err != nil {
			mu.Lock()
			defer mu.Unlock()
			failed = firstOf(failed, err)
		}
		return nil
	})
	return firstOf(failed, err)
}

// reachable checks that the partitions that heads move from, and to, have leaders that
// answer.
func (s *sealer) reachable(ctx context.Context, moves []planner.Move) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ProbeTimeout)
	defer cancel()
	at := func(i int) federation.PhysicalAddress {
		if i < len(moves) {
			return moves[i].From
		}
		return moves[i-len(moves)].To
	}
	return s.eachCluster(ctx, 2*len(moves), func(i int) federation.ClusterName { return at(i).Cluster }, func(ctx context.Context, c *upstream.Cluster, which []int) error {
		parts := make([]upstream.Partition, len(which))
		for j, i := range which {
			parts[j] = physical(at(i))
		}
		for j, e := range c.LogEnds(ctx, parts) {
			if e.Err != nil {
				return fmt.Errorf("%s: %w", at(which[j]), e.Err)
			}
		}
		return nil
	})
}

// end seals the old extents of heads that no gateway appends to, and opens the
// partitions that they move to. It returns those that are done; the others can be
// tried again.
func (s *sealer) end(ctx context.Context, heads []primedHead, acknowledged map[federation.TopicPartition]federation.PhysicalOffset) ([]planner.MovedHead, error) {
	ended := make([]endedHead, len(heads))
	err := s.allClusters(ctx, len(heads), func(i int) federation.ClusterName { return heads[i].From.Cluster },
		func(ctx context.Context, c *upstream.Cluster, at []int) error {
			return s.endAt(ctx, c, heads, at, ended)
		})
	var done []int
	for i := range heads {
		if !ended[i].ok {
			continue
		}
		if ack := acknowledged[heads[i].TopicPartition]; ended[i].end < ack {
			s.health.alarm("lost/"+heads[i].From.String(), "%s: physical cluster %q lost acknowledged records: %d were acknowledged up to physical offset %d, but the log ends at %d",
				heads[i].TopicPartition, heads[i].From.Cluster, ack-ended[i].end, ack, ended[i].end)
			s.log.Error("a physical cluster lost acknowledged records", "partition", heads[i].TopicPartition, "at", heads[i].From, "acknowledged", ack, "end", ended[i].end)
		}
		done = append(done, i)
	}
	moved := make([]planner.MovedHead, len(done))
	opened := make([]bool, len(done))
	openErr := s.allClusters(ctx, len(done), func(j int) federation.ClusterName { return heads[done[j]].To.Cluster },
		func(ctx context.Context, c *upstream.Cluster, at []int) error {
			return s.openAt(ctx, c, at, func(j int) (primedHead, endedHead) { return heads[done[j]], ended[done[j]] }, moved, opened)
		})
	out := moved[:0]
	for j := range moved {
		if opened[j] {
			out = append(out, moved[j])
		}
	}
	return out, firstOf(err, openErr)
}

// An endedHead is the end of an old extent, and whom it knew there.
type endedHead struct {
	ok        bool
	end       federation.PhysicalOffset
	producers []mark.Producer
}

// endAt seals extents on one cluster.
//
// Everything below the seal is replicated, and part of the extent. The producers
// are read behind it, so nothing needs to be kept from before for another leader;
// what was written behind the seal is taken out of their states again. All of that
// must be the word of one physical leader: another one can lack what is not
// replicated, and with it the batches that tell what to take out.
func (s *sealer) endAt(ctx context.Context, c *upstream.Cluster, heads []primedHead, at []int, ended []endedHead) error {
	appends := make([]upstream.MarkAppend, len(at))
	parts := make([]upstream.Partition, len(at))
	now := time.Now()
	for j, i := range at {
		parts[j] = physical(heads[i].From)
		appends[j] = upstream.MarkAppend{Partition: parts[j], Batch: s.seal(heads[i], now)}
	}
	seals := c.AppendMarks(ctx, appends)
	before := c.LogEnds(ctx, parts)
	producers := c.Producers(ctx, parts)
	ends := c.LogEnds(ctx, parts) // after the producers: it bounds what they can have in them
	var failed error
	for j, i := range at {
		err := firstOf(seals[j].Err, before[j].Err, producers[j].Err, ends[j].Err)
		if err == nil && before[j].Epoch != ends[j].Epoch {
			err = errLeaderChanged
		}
		var states map[int64]mark.Producer
		if err == nil {
			_, behind := s.endOf(heads[i], seals[j].Offset)
			states, err = s.statesAt(ctx, c, parts[j], behind, producers[j].States, ends[j])
		}
		if err == nil {
			states, err = s.carry(ctx, heads[i].Move, states)
		}
		if err != nil {
			failed = fmt.Errorf("%s: %w", heads[i].TopicPartition, err)
			continue
		}
		end, _ := s.endOf(heads[i], seals[j].Offset)
		ended[i] = endedHead{ok: true, end: end, producers: sortedProducers(states)}
	}
	return failed
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// statesAt returns the producers as the partition knew them at the end of the extent.
// Those that have written from behind on are as they were before the first batch
// there: brokers take only batches that follow.
func (s *sealer) statesAt(ctx context.Context, c *upstream.Cluster, at upstream.Partition, behind federation.PhysicalOffset, listed upstream.ProducerStates, ends upstream.PartitionLogEnd) (map[int64]mark.Producer, error) {
	now := time.Now().UnixMilli()
	states := make(map[int64]mark.Producer, len(listed))
	for _, p := range listed {
		if !mark.IsMark(p.ID) {
			states[p.ID] = mark.Producer{ID: p.ID, Epoch: p.Epoch, LastSequence: p.LastSequence, KnownMs: now}
		}
	}
	if ends.LogEnd <= behind {
		return states, nil
	}
	late := make(map[int64]bool)
	err := c.ReadBatches(ctx, at, behind, ends.LogEnd, func(h recordbatch.Header, _ []byte) bool {
		if h.Idempotent() && !mark.IsMark(h.ProducerID) && !late[h.ProducerID] {
			late[h.ProducerID] = true
			states[h.ProducerID] = mark.Producer{ID: h.ProducerID, Epoch: h.ProducerEpoch, LastSequence: h.BaseSequence - 1, KnownMs: now}
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	after := c.LogEnds(ctx, []upstream.Partition{at})[0]
	if after.Err == nil && after.Epoch != ends.Epoch {
		after.Err = errLeaderChanged
	}
	return states, after.Err
}

var errLeaderChanged = federation.Errorf(federation.NoLeader, "the physical partition has another leader than a moment ago; it is tried again")

// carry adds the producers that were carried over to the extent itself and have
// written nothing to it, but for those that no broker has known for ProducerExpiry.
func (s *sealer) carry(ctx context.Context, v planner.Move, states map[int64]mark.Producer) (map[int64]mark.Producer, error) {
	part, err := s.current().Partition(v.TopicPartition)
	if err != nil {
		return nil, err
	}
	if part.Head().Number != v.Extent {
		return states, nil
	}
	return s.carryFrom(ctx, part.Head(), states)
}

// carryFrom is carry for an extent of the map.
func (s *sealer) carryFrom(ctx context.Context, old *federation.Extent, states map[int64]mark.Producer) (map[int64]mark.Producer, error) {
	if old.Opening == 0 {
		return states, nil
	}
	c, err := s.parts.Clusters.Cluster(old.Cluster)
	if err != nil {
		return nil, err
	}
	oldest := time.Now().Add(-s.cfg.ProducerExpiry).UnixMilli()
	told := make(map[int64]mark.Producer)
	carried := mark.Collector{Each: func(p mark.Producer) {
		if have, ok := told[p.ID]; p.KnownMs >= oldest && (!ok || have.Before(&p)) {
			told[p.ID] = p
		}
	}}
	err = c.ReadBatches(ctx, physical(old.PhysicalAddress), old.Opening, old.Start, carried.Visit)
	for id, p := range told {
		if have, ok := states[id]; !ok || have.Epoch < p.Epoch {
			states[id] = p
		}
	}
	return states, firstOf(err, carried.Err)
}

// sortedProducers returns the newest first: those that were known last, then those
// with the highest ids. If not all can be carried over, the oldest stay behind.
func sortedProducers(states map[int64]mark.Producer) []mark.Producer {
	out := make([]mark.Producer, 0, len(states))
	for _, p := range states {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b mark.Producer) int {
		return cmp.Or(cmp.Compare(b.KnownMs, a.KnownMs), cmp.Compare(b.ID, a.ID))
	})
	return out
}

// openAt writes the openings of heads on one cluster.
func (s *sealer) openAt(ctx context.Context, c *upstream.Cluster, at []int, head func(j int) (primedHead, endedHead), moved []planner.MovedHead, opened []bool) error {
	var appends []upstream.MarkAppend
	var owner []int
	var failed error
	now := time.Now()
	for _, j := range at {
		h, e := head(j)
		moved[j] = planner.MovedHead{
			Move: h.Move, End: e.end, Start: max(h.Primer+1, h.Copies.To, h.Openings.To), Opening: h.Openings.From, Epoch: h.Epoch, Copies: h.Copies,
		}
		batches, err := mark.Openings(s.subject(h.Move, h.Extent+1), s.producer, e.producers, s.batchBytes, now)
		if err != nil {
			failed = fmt.Errorf("%s: %w", h.TopicPartition, err)
			continue
		}
		if n := len(batches); n > openingsRepeatable {
			s.log.Warn("a partition has more producers than can be carried over; the oldest are unknown to the new head", "partition", h.TopicPartition, "producers", len(e.producers))
			batches = batches[:openingsRepeatable]
		}
		opened[j] = true
		for _, b := range batches {
			appends, owner = append(appends, upstream.MarkAppend{Partition: physical(h.To), Batch: b}), append(owner, j)
		}
	}
	for k, a := range c.AppendMarks(ctx, appends) {
		j := owner[k]
		if a.Err != nil {
			opened[j], failed = false, fmt.Errorf("%s: %w", moved[j].TopicPartition, a.Err)
			continue
		}
		if moved[j].Opening == 0 {
			moved[j].Opening = a.Offset
		}
		moved[j].Start = max(moved[j].Start, a.Offset+1)
	}
	return failed
}

// largestBatch returns the largest batch that all of some physical topics take: an
// opening that is refused would keep its head from opening. It fails if not even one
// producer fits.
func (s *sealer) largestBatch(ctx context.Context, topics []planner.PhysicalTopic) (int, error) {
	const key = "max.message.bytes"
	var mu sync.Mutex
	least := kafkaBatchBytes
	err := s.each(ctx, topics, func(ctx context.Context, pt planner.PhysicalTopic, c *upstream.Cluster) error {
		config, err := c.TopicConfig(ctx, pt.Name)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if n, err := strconv.Atoi(config[key].Value); err == nil {
			least = min(least, n)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	largest := []mark.Producer{{ID: math.MaxInt64, Epoch: math.MaxInt16, LastSequence: math.MaxInt32, KnownMs: math.MaxInt64}}
	v := planner.Move{TopicPartition: federation.TopicPartition{Topic: s.topic.Name, Partition: math.MaxInt32}}
	if _, err := mark.Openings(s.subject(v, math.MaxInt32), s.producer, largest, least, time.Now()); err != nil {
		return 0, federation.Errorf(federation.PolicyViolation, "topic %q: its heads cannot move with %s of %d: what is known of producers does not fit into a batch", s.topic.Name, key, least).WithCause(err)
	}
	return least, nil
}

// kafkaBatchBytes is Kafka's default of message.max.bytes.
const kafkaBatchBytes = 1048588
