package gateway

import (
	"context"
	"math"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/acl"
)

// CommitOffsets stores offsets of a group from outside a stream. Without a member
// it is refused while the group has members.
func (s *consumerService) CommitOffsets(ctx context.Context, r *braidv1.CommitOffsetsRequest) (*braidv1.CommitOffsetsResponse, error) {
	res, err := s.g.commitOffsets(ctx, r)
	if err != nil {
		return nil, s.g.fail(ctx, "CommitOffsets", err)
	}
	return res, nil
}

func (g *Gateway) commitOffsets(ctx context.Context, r *braidv1.CommitOffsetsRequest) (*braidv1.CommitOffsetsResponse, error) {
	if err := g.checkGroup(r.GetLogicalCluster(), r.GetGroup()); err != nil {
		return nil, err
	}
	may := g.access(ctx, "CommitOffsets")
	if err := may.Check(ctx, acl.Read, acl.Group, r.GetGroup()); err != nil {
		return nil, err
	}
	if n := len(r.GetOffsets()); n == 0 || n > g.cfg.CommitPartitionsMax {
		return nil, invalid("offsets: %d partitions, want 1 to %d in one commit", n, g.cfg.CommitPartitionsMax)
	}
	req := groups.CommitRequest{Group: r.GetGroup(), MemberID: r.GetMemberId(), Generation: -1}
	switch {
	case r.GetMemberId() == "" && r.GetMemberEpoch() != 0:
		return nil, invalid("member_epoch: makes no sense without member_id")
	case r.GetMemberId() != "" && (r.GetMemberEpoch() < 0 || r.GetMemberEpoch() > math.MaxInt32):
		return nil, invalid("member_epoch: is %d, want the one of the stream", r.GetMemberEpoch())
	case r.GetMemberId() != "":
		req.Generation = int32(r.GetMemberEpoch())
	}
	m := g.deps.Maps.Current()
	out := &braidv1.CommitOffsetsResponse{}
	for _, o := range r.GetOffsets() {
		offset, err := commitOffset(&g.cfg, o)
		if err != nil {
			return nil, err
		}
		err = may.Check(ctx, acl.Read, acl.Topic, string(offset.Topic))
		if err == nil {
			_, err = m.Partition(offset.TopicPartition)
		}
		if err != nil {
			out.Failures = append(out.Failures, partitionFailure(offset.TopicPartition, err))
			continue
		}
		req.Offsets = append(req.Offsets, offset)
	}
	if len(req.Offsets) == 0 {
		return out, nil
	}
	ctx, cancel := g.withUnaryTimeout(ctx)
	defer cancel()
	errs, err := g.deps.Groups.Commit(ctx, req)
	if err != nil {
		return nil, err
	}
	for i, e := range errs {
		if e != nil {
			out.Failures = append(out.Failures, partitionFailure(req.Offsets[i].TopicPartition, e))
		}
	}
	return out, nil
}

func (g *Gateway) checkGroup(cluster, group string) error {
	if err := g.cluster(cluster); err != nil {
		return err
	}
	if g.deps.Groups == nil {
		return federation.Errorf(federation.Unsupported, "this gateway serves no groups")
	}
	if group == "" {
		return invalid("group: is empty")
	}
	return nil
}
