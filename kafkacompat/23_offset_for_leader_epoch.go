package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/acl"
)

// OffsetForLeaderEpoch: v2-v4
//
// Epochs and end offsets are logical: where an epoch ends is known from the chain
// of extents, so no reader takes a move to another cluster for a truncation.
//
// Version notes:
// * v3: replica id
// * v4: flexible

func handleOffsetForLeaderEpoch(ctx context.Context, c *conn, req *request, kreq *kmsg.OffsetForLeaderEpochRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	loaded := c.s.mapOrNil() != nil
	var queries []router.EpochQuery
	var answers []*kmsg.OffsetForLeaderEpochResponseTopicPartition
	seen := make(partitionsSeen)
	for _, t := range kreq.Topics {
		rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.OffsetForLeaderEpochResponseTopicPartition, 0, len(t.Partitions))
		denied := req.mayTopic(ctx, acl.Describe, t.Topic)
		for _, p := range t.Partitions {
			if !seen.first(fetchTopic{name: t.Topic}, p.Partition) {
				continue
			}
			rt.Partitions = append(rt.Partitions, kmsg.NewOffsetForLeaderEpochResponseTopicPartition())
			rp := &rt.Partitions[len(rt.Partitions)-1]
			rp.Partition = p.Partition
			if !loaded {
				rp.ErrorCode = req.refuse(kerr.NotLeaderForPartition)
				continue
			}
			if rp.ErrorCode = denied; denied != 0 {
				continue
			}
			queries = append(queries, router.EpochQuery{
				TopicPartition: federation.TopicPartition{Topic: federation.TopicName(t.Topic), Partition: federation.LogicalPartition(p.Partition)},
				CurrentEpoch:   federation.LogicalEpoch(p.CurrentLeaderEpoch),
				Epoch:          federation.LogicalEpoch(p.LeaderEpoch),
				AwayWait:       c.s.cfg.AwayWait,
			})
			answers = append(answers, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	if len(queries) == 0 {
		return resp
	}
	for i, a := range c.route().OffsetsForEpochs(ctx, queries) {
		// Java's OffsetsForLeaderEpochUtils knows the codes of Fetch.
		if answers[i].ErrorCode = req.failFetch(a.Err); a.Err == nil {
			answers[i].LeaderEpoch = int32(a.EpochEnd.Epoch)
			answers[i].EndOffset = int64(a.End)
		}
	}
	return resp
}
