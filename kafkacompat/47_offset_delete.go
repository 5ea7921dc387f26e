package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
)

// OffsetDelete: v0

func handleOffsetDelete(ctx context.Context, c *conn, req *request, kreq *kmsg.OffsetDeleteRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.OffsetDeleteResponse)
	var tps []federation.TopicPartition
	var answers []*kmsg.OffsetDeleteResponseTopicPartition
	for _, t := range kreq.Topics {
		rt := kmsg.NewOffsetDeleteResponseTopic()
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.OffsetDeleteResponseTopicPartition, len(t.Partitions))
		for i, p := range t.Partitions {
			rt.Partitions[i].Default()
			rt.Partitions[i].Partition = p.Partition
			tps = append(tps, federation.TopicPartition{Topic: federation.TopicName(t.Topic), Partition: federation.LogicalPartition(p.Partition)})
			answers = append(answers, &rt.Partitions[i])
		}
		resp.Topics = append(resp.Topics, rt)
	}
	errs, err := c.s.deps.Groups.DeleteOffsets(ctx, kreq.Group, tps)
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
