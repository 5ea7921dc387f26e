package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/acl"
)

// DeleteRecords: v0-v2
//
// Offsets are logical; what is deleted can lie on several clusters.
//
// Version notes:
// * v2: flexible

func handleDeleteRecords(ctx context.Context, c *conn, req *request, kreq *kmsg.DeleteRecordsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DeleteRecordsResponse)
	ctx, cancel := c.adminContext(ctx, kreq.TimeoutMillis)
	defer cancel()
	loaded := c.s.mapOrNil() != nil
	var deletes []router.DeleteBefore
	var answers []*kmsg.DeleteRecordsResponseTopicPartition
	last := make(map[fetchKey]int64) // of a partition that is named twice the last counts, as at a broker
	for _, t := range kreq.Topics {
		for _, p := range t.Partitions {
			last[fetchKey{fetchTopic{name: t.Topic}, p.Partition}] = p.Offset
		}
	}
	seen := make(partitionsSeen)
	for _, t := range kreq.Topics {
		rt := kmsg.NewDeleteRecordsResponseTopic()
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.DeleteRecordsResponseTopicPartition, 0, len(t.Partitions))
		denied := req.mayTopic(ctx, acl.Delete, t.Topic)
		for _, p := range t.Partitions {
			if !seen.first(fetchTopic{name: t.Topic}, p.Partition) {
				continue
			}
			offset := last[fetchKey{fetchTopic{name: t.Topic}, p.Partition}]
			rt.Partitions = append(rt.Partitions, kmsg.NewDeleteRecordsResponseTopicPartition())
			rp := &rt.Partitions[len(rt.Partitions)-1]
			rp.Partition, rp.LowWatermark = p.Partition, -1
			switch {
			case !loaded:
				rp.ErrorCode = req.refuse(kerr.LeaderNotAvailable)
				continue
			case denied != 0:
				rp.ErrorCode = denied
				continue
			case offset < -1:
				rp.ErrorCode = req.refuse(kerr.OffsetOutOfRange)
				continue
			}
			deletes = append(deletes, router.DeleteBefore{
				TopicPartition: federation.TopicPartition{Topic: federation.TopicName(t.Topic), Partition: federation.LogicalPartition(p.Partition)},
				Offset:         federation.LogicalOffset(offset),
			})
			answers = append(answers, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	if len(deletes) == 0 {
		return resp
	}
	for i, d := range c.route().DeleteRecords(ctx, deletes) {
		req.changed(ctx, acl.Delete, acl.Topic, string(deletes[i].Topic), d.Err)
		if answers[i].ErrorCode = req.fail(d.Err); d.Err == nil {
			answers[i].LowWatermark = int64(d.LowWatermark)
		}
	}
	return resp
}
