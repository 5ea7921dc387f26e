package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// DescribeProducers: v0
//
// The producers of a partition's head, and those that were carried over to it when it
// moved. Any gateway answers. braid's own records have producers too; they are left out.

func handleDescribeProducers(ctx context.Context, c *conn, req *request, kreq *kmsg.DescribeProducersRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DescribeProducersResponse)
	loaded := c.s.mapOrNil() != nil
	left := c.s.cfg.DescribePartitionsMax
	var tps []federation.TopicPartition
	var answers []*kmsg.DescribeProducersResponseTopicPartition
	seen := make(partitionsSeen)
	for _, t := range kreq.Topics {
		denied := req.mayTopic(ctx, acl.Read, t.Topic)
		rt := kmsg.NewDescribeProducersResponseTopic()
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.DescribeProducersResponseTopicPartition, 0, len(t.Partitions))
		for _, number := range t.Partitions {
			if !seen.first(fetchTopic{name: t.Topic}, number) {
				continue
			}
			rt.Partitions = append(rt.Partitions, kmsg.NewDescribeProducersResponseTopicPartition())
			rp := &rt.Partitions[len(rt.Partitions)-1]
			rp.Partition = number
			left--
			switch {
			case denied != 0:
				rp.ErrorCode, rp.ErrorMessage = denied, deniedMessage(denied)
			case !loaded:
				rp.ErrorCode = req.refuse(kerr.LeaderNotAvailable)
			case left < 0:
				rp.ErrorCode = req.refuse(kerr.InvalidRequest)
				rp.ErrorMessage = new("too many partitions in one request; ask for them in several")
			default:
				tps = append(tps, federation.TopicPartition{Topic: federation.TopicName(t.Topic), Partition: federation.LogicalPartition(number)})
				answers = append(answers, rp)
			}
		}
		resp.Topics = append(resp.Topics, rt)
	}
	if len(tps) == 0 {
		return resp
	}
	for i, of := range c.route().Producers(ctx, tps) {
		rp := answers[i]
		if of.Err != nil {
			rp.ErrorCode, rp.ErrorMessage = req.fail(of.Err), message(of.Err)
			continue
		}
		const producerBytes = 128
		if err := req.room(ctx, c, int64(len(of.Active))*producerBytes); err != nil {
			rp.ErrorCode, rp.ErrorMessage = req.fail(err), message(err)
			continue
		}
		for _, p := range of.Active {
			a := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
			a.ProducerID, a.ProducerEpoch, a.LastSequence = p.ID, int32(p.Epoch), p.LastSequence
			a.LastTimestamp, a.CoordinatorEpoch, a.CurrentTxnStartOffset = p.LastTimestamp, -1, int64(p.TxnStart)
			rp.ActiveProducers = append(rp.ActiveProducers, a)
		}
	}
	return resp
}
