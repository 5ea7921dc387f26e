package gateway

import (
	"context"

	"github.com/braidmq/braid/federation"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/acl"
)

// GetTopicInfo tells what a client needs that splits records by itself.
func (s *consumerService) GetTopicInfo(ctx context.Context, r *braidv1.GetTopicInfoRequest) (*braidv1.GetTopicInfoResponse, error) {
	res, err := s.g.topicInfo(ctx, r)
	if err != nil {
		return nil, s.g.fail(ctx, "GetTopicInfo", err)
	}
	return res, nil
}

func (g *Gateway) topicInfo(ctx context.Context, r *braidv1.GetTopicInfoRequest) (*braidv1.GetTopicInfoResponse, error) {
	if err := g.cluster(r.GetLogicalCluster()); err != nil {
		return nil, err
	}
	if err := g.mayTopics(ctx, "GetTopicInfo", acl.Describe, r.GetTopic()); err != nil {
		return nil, err
	}
	t := g.deps.Maps.Current().Topic(federation.TopicName(r.GetTopic()))
	if t == nil {
		return nil, federation.Errorf(federation.UnknownTopic, "topic %q does not exist", federation.TopicName(r.GetTopic()))
	}
	limits := newTopicLimits(&g.cfg, t)
	return &braidv1.GetTopicInfoResponse{
		Topic: string(t.Name), PartitionCount: int32(len(t.Partitions)),
		MaxRecordBytes: int32(limits.recordBytesMax), Compacted: limits.compacted,
	}, nil
}
