package gateway

import (
	"context"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/acl"
)

// ListOffsets answers where positions are: earliest, latest (the default), by
// timestamp, or so many records before the end.
func (s *consumerService) ListOffsets(ctx context.Context, r *braidv1.ListOffsetsRequest) (*braidv1.ListOffsetsResponse, error) {
	res, err := s.g.listOffsets(ctx, r)
	if err != nil {
		return nil, s.g.fail(ctx, "ListOffsets", err)
	}
	return res, nil
}

func (g *Gateway) listOffsets(ctx context.Context, r *braidv1.ListOffsetsRequest) (*braidv1.ListOffsetsResponse, error) {
	if err := g.cluster(r.GetLogicalCluster()); err != nil {
		return nil, err
	}
	if err := maySources(ctx, g, "ListOffsets", acl.Describe, r.GetSources()); err != nil {
		return nil, err
	}
	points, err := g.expand(g.deps.Maps.Current(), r.GetSources())
	if err != nil {
		return nil, err
	}
	ctx, cancel := g.withUnaryTimeout(ctx)
	defer cancel()
	session := g.deps.NewSession()
	defer session.Close()
	out := &braidv1.ListOffsetsResponse{}
	for i, a := range resolve(ctx, session, points, true) {
		tp := points[i].TopicPartition
		if a.err != nil {
			out.Failures = append(out.Failures, partitionFailure(tp, a.err))
			continue
		}
		out.Offsets = append(out.Offsets, &braidv1.PartitionOffset{Topic: string(tp.Topic), Partition: int32(tp.Partition), Offset: a.offset})
	}
	return out, nil
}
