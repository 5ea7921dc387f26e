package controller

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/journal"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

const (
	// tailRecords is how far from the end of a head's log a seal is looked for: behind
	// it lies only what a gateway that was cut off wrote.
	tailRecords = 256
	// tailsAtOnce bounds the heads of a cluster that are looked at at a time.
	tailsAtOnce = 8
)

// A headAt is a head of the map, with what its log says.
type headAt struct {
	federation.TopicPartition

	extent *federation.Extent
	sealed bool                  // a seal lies behind it
	newest federation.MapVersion // of the marks behind its start
	err    error
}

// check holds the map against the logs of the clusters: the partitions of its heads
// exist, no head is sealed that the map has as open, and no mark is of a newer map.
func (r *recovery) check(ctx context.Context) error {
	heads := make(map[federation.ClusterName][]*headAt)
	for _, name := range r.m.TopicNames() {
		for _, p := range r.m.Topics[name].Partitions {
			h := p.Head()
			heads[h.Cluster] = append(heads[h.Cluster], &headAt{TopicPartition: federation.TopicPartition{Topic: p.Topic, Partition: p.Number}, extent: h})
		}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex // guards doubts
	for name := range r.m.Clusters {
		if f := r.found[name]; f == nil || f.err != nil {
			for _, h := range heads[name] {
				h.err = federation.Errorf(federation.ClusterUnavailable, "cluster %s does not answer", name)
			}
			continue
		}
		wg.Go(func() {
			doubts, notes := r.checkCluster(ctx, name, heads[name])
			mu.Lock()
			defer mu.Unlock()
			r.doubts = append(r.doubts, doubts...)
			for _, n := range notes {
				r.say("%s", n)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	slices.Sort(r.doubts)
	var all []*headAt
	for _, name := range slices.Sorted(maps.Keys(heads)) {
		all = append(all, heads[name]...)
	}
	slices.SortFunc(all, func(a, b *headAt) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	r.judgeSealing(all)
	return nil
}

// judgeSealing finds what becomes of heads that were moving: those without a seal
// take appends again. Those with one have no way back: the leader ends their move.
func (r *recovery) judgeSealing(all []*headAt) {
	var sealed, unknown []federation.TopicPartition
	for _, h := range all {
		switch {
		case h.extent.State != federation.ExtentSealing:
		case h.err != nil:
			unknown = append(unknown, h.TopicPartition)
		case h.sealed:
			sealed = append(sealed, h.TopicPartition)
		default:
			r.open = append(r.open, h.TopicPartition)
		}
	}
	if len(r.open) > 0 {
		r.say("heads that were about to move and take appends again: %s", named(r.open))
	}
	if len(sealed) > 0 {
		r.say("heads that were sealed on the way to another cluster; the leading controller ends their move: %s", named(sealed))
	}
	if len(unknown) > 0 {
		r.say("heads that were about to move and whose cluster does not answer; they are held until the leading controller can tell: %s", named(unknown))
	}
}

func (r *recovery) checkCluster(ctx context.Context, name federation.ClusterName, heads []*headAt) (doubts, notes []string) {
	fail := func(err error) []string {
		for _, h := range heads {
			h.err = cmp.Or(h.err, err)
		}
		return append(doubts, "cluster "+string(name)+": "+err.Error())
	}
	c, err := r.pool.Cluster(name)
	if err != nil {
		return fail(err), nil
	}
	topics, err := c.Topics(ctx)
	if err != nil {
		return fail(err), nil
	}
	var there []*headAt
	for _, h := range heads {
		if int(h.extent.Partition) < len(topics[h.extent.Topic].Partitions) {
			there = append(there, h)
			continue
		}
		h.err = federation.Errorf(federation.UnknownTopic, "%s does not exist", h.extent.PhysicalAddress)
		doubts = append(doubts, h.TopicPartition.String()+": its head "+h.extent.PhysicalAddress.String()+" does not exist: the map is older than its deletion, or the records are gone")
	}
	lookAtTails(ctx, c, there)
	for _, h := range there {
		switch {
		case h.err != nil:
			doubts = append(doubts, h.TopicPartition.String()+": "+h.err.Error())
		case h.newest > r.m.Version:
			doubts = append(doubts, h.TopicPartition.String()+": its log has a mark of a newer map")
		case h.sealed && h.extent.State == federation.ExtentOpen:
			doubts = append(doubts, h.TopicPartition.String()+": the map has its head as open, but the log is sealed: it has moved since")
		}
	}
	more, orphans := r.lookAtUnused(ctx, c, topics)
	return append(doubts, more...), append(notes, orphans...)
}

// lookAtTails reads the ends of the logs of heads.
func lookAtTails(ctx context.Context, c *upstream.Cluster, heads []*headAt) {
	parts := make([]upstream.Partition, len(heads))
	for i, h := range heads {
		parts[i] = physical(h.extent.PhysicalAddress)
	}
	ends := c.Ends(ctx, parts)
	var wg sync.WaitGroup
	turn := make(chan struct{}, tailsAtOnce)
	for i, h := range heads {
		if h.err = ends[i].Err; h.err != nil {
			continue
		}
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			from := max(h.extent.Start, ends[i].LogStart, ends[i].HighWatermark-tailRecords)
			err := c.ReadBatches(ctx, parts[i], from, ends[i].HighWatermark, func(b recordbatch.Header, batch []byte) bool {
				if !mark.IsMark(b.ProducerID) {
					return true
				}
				if kind, subject, _, err := mark.Parse(batch); err == nil {
					h.sealed = h.sealed || kind == mark.KindSeal && subject.Extent == h.extent.Number
					h.newest = max(h.newest, subject.MapVersion)
				}
				return true
			})
			h.err = err
		})
	}
	wg.Wait()
}

// lookAtUnused looks at partitions that braid has made and that the map does not use.
// One whose primer is of a newer map means that the map is old; others are left of
// moves that were given up.
func (r *recovery) lookAtUnused(ctx context.Context, c *upstream.Cluster, topics map[string]upstream.TopicInfo) (doubts, notes []string) {
	used := make(map[federation.PhysicalAddress]bool)
	names := make(map[string]bool)
	for _, t := range r.m.Topics {
		names[planner.PhysicalName(r.m.LogicalCluster, t.Name, t.Generation)] = true
		for _, p := range t.Partitions {
			for _, e := range p.Extents {
				used[e.PhysicalAddress] = true
				if e.Cluster == c.Name {
					names[e.Topic] = true
				}
			}
		}
	}
	for _, topic := range slices.Sorted(maps.Keys(topics)) {
		if !names[topic] {
			of, _, _ := strings.Cut(topic, ".")
			if (of == r.m.LogicalCluster || r.m.Tenants[of] != nil) && !journal.IsTopic(topic) {
				notes = append(notes, "cluster "+string(c.Name)+": topic "+topic+" is of no topic of the map: it was created after it, or its deletion was not finished")
			}
			continue
		}
		for i := range topics[topic].Partitions {
			at := federation.PhysicalAddress{Cluster: c.Name, Topic: topic, Partition: federation.PhysicalPartition(i)}
			if used[at] {
				continue
			}
			p, err := primerOf(ctx, c, physical(at))
			switch {
			case err != nil:
				doubts = append(doubts, at.String()+": "+err.Error())
			case p.subject.MapVersion > r.m.Version:
				doubts = append(doubts, string(p.subject.Topic)+": "+at.String()+" was opened for its partition by a newer map")
			}
		}
	}
	return doubts, notes
}

// A primer is the mark at the beginning of a partition; of producer 0 if there is none.
type primer struct {
	subject  mark.Subject
	offset   federation.PhysicalOffset
	producer int64
}

// primerOf returns the primer of a partition.
func primerOf(ctx context.Context, c *upstream.Cluster, at upstream.Partition) (p primer, err error) {
	ends := c.Ends(ctx, []upstream.Partition{at})[0]
	if ends.Err != nil || ends.LogStart >= ends.HighWatermark {
		return p, ends.Err
	}
	err = c.ReadBatches(ctx, at, ends.LogStart, ends.LogStart+1, func(h recordbatch.Header, batch []byte) bool {
		if mark.IsMark(h.ProducerID) {
			if kind, subject, _, err := mark.Parse(batch); err == nil && kind == mark.KindPrimer {
				p = primer{subject: subject, offset: federation.PhysicalOffset(h.BaseOffset), producer: h.ProducerID}
			}
		}
		return false
	})
	return p, err
}
