package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// OffsetDelete: v0

func handleOffsetDelete(ctx context.Context, c *conn, req *request, kreq *kmsg.OffsetDeleteRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.OffsetDeleteResponse)
	if resp.ErrorCode = req.mayGroup(ctx, acl.Delete, kreq.Group); resp.ErrorCode != 0 {
		return resp
	}
	var tps []federation.TopicPartition
	var answers []*kmsg.OffsetDeleteResponseTopicPartition
	for _, t := range kreq.Topics {
		rt := kmsg.NewOffsetDeleteResponseTopic()
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.OffsetDeleteResponseTopicPartition, len(t.Partitions))
		denied := req.mayTopic(ctx, acl.Read, t.Topic)
		for i, p := range t.Partitions {
			rt.Partitions[i].Default()
			rt.Partitions[i].Partition = p.Partition
			if rt.Partitions[i].ErrorCode = denied; denied != 0 {
				continue
			}
			tps = append(tps, federation.TopicPartition{Topic: federation.TopicName(t.Topic), Partition: federation.LogicalPartition(p.Partition)})
			answers = append(answers, &rt.Partitions[i])
		}
		resp.Topics = append(resp.Topics, rt)
	}
	errs, err := c.s.deps.Groups.DeleteOffsets(ctx, kreq.Group, tps)
	req.changed(ctx, acl.Delete, acl.Group, kreq.Group, err)
	if err != nil {
		resp.ErrorCode = req.fail(err)
		resp.Topics = nil
		return resp
	}
	for i, e := range errs {
		answers[i].ErrorCode = req.fail(e)
	}
	return resp
}
