package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
)

// committedKept bounds the committed offsets of groups that are kept while a cluster is
// failed over, to tell what the groups pass over.
const committedKept = 100_000

// committed are offsets that groups had committed of heads on a cluster.
type committed map[federation.TopicPartition]*headCommits

type headCommits struct {
	extent  int32
	highest federation.LogicalOffset
	groups  []groupCommit
}

type groupCommit struct {
	group  string
	offset federation.LogicalOffset
}

// highest returns the highest committed offsets of a topic's heads.
func (c committed) highest(t *federation.Topic) map[federation.LogicalPartition]federation.LogicalOffset {
	out := make(map[federation.LogicalPartition]federation.LogicalOffset)
	for _, p := range t.Partitions {
		if h := c[federation.TopicPartition{Topic: t.Name, Partition: p.Number}]; h != nil && h.highest > 0 {
			out[p.Number] = h.highest
		}
	}
	return out
}

// committedOn reads what groups have committed of the heads on a cluster. A store that
// does not answer in time holds nothing up: less is known then.
func (t *term) committedOn(ctx context.Context, cluster federation.ClusterName) committed {
	out := make(committed)
	wanted := make(map[redisstore.OffsetKey]*headCommits)
	for _, topic := range t.current().Topics {
		for _, p := range topic.Partitions {
			if h := p.Head(); h.Cluster == cluster {
				c := &headCommits{extent: h.Number}
				out[federation.TopicPartition{Topic: topic.Name, Partition: p.Number}] = c
				wanted[redisstore.OffsetKey{Topic: topic.ID, Partition: p.Number}] = c
			}
		}
	}
	if len(wanted) == 0 {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.ProbeTimeout)
	defer cancel()
	for _, view := range views(t.current()) {
		t.committedIn(ctx, view.LogicalCluster, cluster, wanted)
	}
	return out
}

// committedIn reads what the groups of a logical cluster have committed of some heads.
func (t *term) committedIn(ctx context.Context, logical string, cluster federation.ClusterName, wanted map[redisstore.OffsetKey]*headCommits) {
	kept := 0
	err := t.parts.Store.Groups(ctx, logical, func(groups []string) error {
		offsets, err := t.parts.Store.OffsetsOf(ctx, logical, groups)
		if err != nil {
			return err
		}
		for i, all := range offsets {
			for _, x := range all {
				c := wanted[x.OffsetKey]
				if c == nil {
					continue
				}
				c.highest = max(c.highest, x.Offset)
				if kept < committedKept {
					c.groups = append(c.groups, groupCommit{groups[i], x.Offset})
					kept++
				}
			}
		}
		return nil
	})
	if err != nil {
		t.log.Warn("not all offsets that groups have committed are known to the failover", "logical_cluster", logical, "cluster", cluster, "err", err)
	}
}

// skippedNamed bounds the groups and partitions of which the log tells what they skip.
const skippedNamed = 100

// tellSkipping names the groups that pass over records of suspended extents, which
// others have seen already: they find them in the log at their offsets when the cluster
// is back, but do not get them by themselves.
func (t *term) tellSkipping(op *operation, groups committed) {
	m := t.current()
	var texts []string
	for tp, c := range groups {
		topic := m.Topic(tp.Topic)
		part, err := m.Partition(tp)
		if err != nil || topic.FailoverWaits() {
			continue
		}
		i := slices.IndexFunc(part.Extents, func(e *federation.Extent) bool { return e.Number == c.extent })
		if i < 0 || part.Extents[i].State != federation.ExtentSuspended {
			continue
		}
		e := part.Extents[i]
		for _, g := range slices.CompactFunc(slices.Clone(c.groups), func(a, b groupCommit) bool { return a.group == b.group }) {
			from, to := max(g.offset, e.Base), e.Logical(e.Seen)
			if from < to {
				texts = append(texts, fmt.Sprintf("%s: %s %d to %d", g.group, tp, from, to-1))
			}
		}
	}
	slices.Sort(texts)
	texts = slices.Compact(texts)
	if len(texts) == 0 {
		return
	}
	op.step(stepGroups, int64(len(texts)), int64(len(texts)), "records that others have seen are passed over by "+handful(texts))
	t.log.Warn("groups pass over records that others have seen; they stay in the log at these offsets", "ranges", len(texts), "first", strings.Join(texts[:min(len(texts), skippedNamed)], "; "))
}

// stepGroups is the step of a failover that names groups.
const stepGroups = "groups"
