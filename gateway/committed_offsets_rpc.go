package gateway

import (
	"context"
	"slices"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/acl"
)

// GetCommittedOffsets reads the offsets of a group, and the ends of the logs, so
// that the difference is the lag.
func (s *consumerService) GetCommittedOffsets(ctx context.Context, r *braidv1.GetCommittedOffsetsRequest) (*braidv1.GetCommittedOffsetsResponse, error) {
	res, err := s.g.committedOffsets(ctx, r)
	if err != nil {
		return nil, s.g.fail(ctx, "GetCommittedOffsets", err)
	}
	return res, nil
}

func (g *Gateway) committedOffsets(ctx context.Context, r *braidv1.GetCommittedOffsetsRequest) (*braidv1.GetCommittedOffsetsResponse, error) {
	if err := g.checkGroup(r.GetLogicalCluster(), r.GetGroup()); err != nil {
		return nil, err
	}
	may := g.access(ctx, "GetCommittedOffsets")
	if err := may.Check(ctx, acl.Describe, acl.Group, r.GetGroup()); err != nil {
		return nil, err
	}
	names, err := g.namedOnce(r.GetTopics())
	if err != nil {
		return nil, err
	}
	if err := g.mayTopics(ctx, "GetCommittedOffsets", acl.Describe, names...); err != nil {
		return nil, err
	}
	m := g.deps.Maps.Current()
	var topics []federation.TopicName
	partitions := 0
	for _, name := range names {
		t := m.Topic(federation.TopicName(name))
		if t == nil {
			return nil, federation.Errorf(federation.UnknownTopic, "topics: topic %q does not exist", federation.TopicName(name))
		}
		if partitions += len(t.Partitions); partitions > g.cfg.ReadPartitionsMax {
			return nil, g.tooManyTopics()
		}
		topics = append(topics, federation.TopicName(name))
	}
	ctx, cancel := g.withUnaryTimeout(ctx)
	defer cancel()
	committed, err := g.committed(ctx, m, r.GetGroup(), topics)
	if err != nil {
		return nil, err
	}
	committed = slices.DeleteFunc(committed, func(c groups.CommittedOffset) bool { return !may.Sees(acl.Describe, acl.Topic, string(c.Topic)) })
	out := &braidv1.GetCommittedOffsetsResponse{}
	ends := g.ends(ctx, committed)
	for i, c := range committed {
		if c.Offset < 0 {
			continue
		}
		out.Offsets = append(out.Offsets, &braidv1.PartitionOffset{Topic: string(c.Topic), Partition: int32(c.Partition), Offset: int64(c.Offset), Metadata: c.Metadata})
		out.Watermarks = append(out.Watermarks, &braidv1.RecordBatch{Topic: string(c.Topic), Partition: int32(c.Partition), NextOffset: int64(c.Offset), HighWatermark: ends[i]})
	}
	return out, nil
}

// namedOnce is what topics are named, each once. None of them has less than a partition.
func (g *Gateway) namedOnce(topics []string) ([]string, error) {
	seen := make(map[string]bool)
	var names []string
	for _, name := range topics {
		if seen[name] {
			continue
		}
		if seen[name] = true; len(seen) > g.cfg.ReadPartitionsMax {
			return nil, g.tooManyTopics()
		}
		names = append(names, name)
	}
	return names, nil
}

func (g *Gateway) tooManyTopics() error {
	return invalid("topics: have more than %d partitions; ask for them in several calls, or for all that the group has, without topics", g.cfg.ReadPartitionsMax)
}

// committed reads the offsets of all partitions of the topics, or all that the
// group has if none are given.
func (g *Gateway) committed(ctx context.Context, m *federation.Map, group string, topics []federation.TopicName) ([]groups.CommittedOffset, error) {
	var tps []federation.TopicPartition
	for _, name := range topics {
		if t := m.Topic(name); t != nil {
			for p := range t.Partitions {
				tps = append(tps, federation.TopicPartition{Topic: name, Partition: federation.LogicalPartition(p)})
			}
		}
	}
	return g.deps.Groups.Committed(ctx, group, tps)
}

// ends returns the high watermarks of partitions; -1 where it is not known now.
func (g *Gateway) ends(ctx context.Context, of []groups.CommittedOffset) []int64 {
	session := g.deps.NewSession()
	defer session.Close()
	points := make([]startPoint, len(of))
	for i, c := range of {
		points[i].TopicPartition = c.TopicPartition
	}
	out := make([]int64, len(of))
	for i, r := range resolve(ctx, session, points, false) {
		out[i] = r.offset
		if r.err != nil {
			out[i] = -1
		}
	}
	return out
}
