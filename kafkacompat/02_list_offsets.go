package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/acl"
)

// ListOffsets: v1-v11
//
// Version notes:
// * v2: isolation level
// * v4: leader epochs (KIP-320)
// * v6: flexible
// * v7: -3, the record with the largest timestamp (KIP-734)
// * v8: -4, the earliest local offset (KIP-405)
// * v9: -5, the latest tiered offset (KIP-1005)
// * v10: timeout
// * v11: -6, the earliest offset that waits for upload (KIP-1023)

// The timestamps that only tiered storage has an answer to.
const (
	timestampLatestTiered          = -5
	timestampEarliestPendingUpload = -6
)

func handleListOffsets(ctx context.Context, c *conn, req *request, kreq *kmsg.ListOffsetsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.ListOffsetsResponse)
	m := c.s.mapOrNil()
	var queries []router.OffsetQuery
	var answers []*kmsg.ListOffsetsResponseTopicPartition
	seen, twice := make(partitionsSeen), make(partitionsSeen)
	for _, t := range kreq.Topics {
		for _, p := range t.Partitions {
			if topic := (fetchTopic{name: t.Topic}); !seen.first(topic, p.Partition) {
				twice.first(topic, p.Partition)
			}
		}
	}
	clear(seen)
	for _, t := range kreq.Topics {
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.ListOffsetsResponseTopicPartition, 0, len(t.Partitions))
		denied := req.mayTopic(ctx, acl.Describe, t.Topic)
		for _, p := range t.Partitions {
			if !seen.first(fetchTopic{name: t.Topic}, p.Partition) {
				continue
			}
			rt.Partitions = append(rt.Partitions, kmsg.NewListOffsetsResponseTopicPartition())
			rp := &rt.Partitions[len(rt.Partitions)-1]
			rp.Partition = p.Partition
			tp := federation.TopicPartition{Topic: federation.TopicName(t.Topic), Partition: federation.LogicalPartition(p.Partition)}
			switch {
			case m == nil:
				rp.ErrorCode = req.refuse(kerr.LeaderNotAvailable)
			case denied != 0:
				rp.ErrorCode = denied
			case twice.has(fetchTopic{name: t.Topic}, p.Partition): // as ListOffsetsRequest.duplicatePartitions
				rp.ErrorCode = req.refuse(kerr.InvalidRequest)
			case !timestampServed(p.Timestamp, req.version):
				rp.ErrorCode = req.refuse(kerr.UnsupportedVersion)
			case p.Timestamp == timestampLatestTiered || p.Timestamp == timestampEarliestPendingUpload:
				// As a broker without tiered storage: no such offset. The partition must exist.
				_, err := m.Partition(tp)
				rp.ErrorCode = req.fail(err)
			default:
				queries = append(queries, router.OffsetQuery{
					TopicPartition: tp, TimestampMs: p.Timestamp,
					CurrentEpoch: federation.LogicalEpoch(p.CurrentLeaderEpoch), ReadCommitted: kreq.IsolationLevel == 1,
					AwayWait: c.s.cfg.AwayWait,
				})
				answers = append(answers, rp)
			}
		}
		resp.Topics = append(resp.Topics, rt)
	}
	if len(queries) == 0 {
		return resp
	}
	for i, a := range c.route().ListOffsets(ctx, queries) {
		if answers[i].ErrorCode = req.fail(a.Err); a.Err == nil {
			answers[i].Offset = int64(a.Offset)
			answers[i].Timestamp = a.TimestampMs
			answers[i].LeaderEpoch = int32(a.Epoch)
		}
	}
	return resp
}

// timestampServed reports whether a version knows a special timestamp
// (ReplicaManager's timestampMinSupportedVersion).
func timestampServed(ts int64, version int16) bool {
	switch {
	case ts >= router.TimestampEarliest:
		return true
	case ts == router.TimestampMax:
		return version >= 7
	case ts == router.TimestampEarliestLocal:
		return version >= 8
	case ts == timestampLatestTiered:
		return version >= 9
	case ts == timestampEarliestPendingUpload:
		return version >= 11
	}
	return false
}
