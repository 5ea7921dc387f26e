package upstream

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
)

// Special timestamps of ListOffsets.
const (
	timestampLatest   = -1
	timestampEarliest = -2
)

// PartitionEnds says where a physical partition begins and ends. All of it is the
// word of one leader, the one of Epoch:
//
//	LogStart <= HighWatermark <= LogEnd
type PartitionEnds struct {
	LogStart      federation.PhysicalOffset // of the first record there is
	HighWatermark federation.PhysicalOffset // after the last record that is replicated
	LogEnd        federation.PhysicalOffset // after the last record that the leader has
	Epoch         federation.PhysicalEpoch
	Err           error
}

// Ends asks the leaders of partitions where they begin and end; one answer for
// each, in their order. It is retried until ctx or AdminTimeout ends, also while a
// new leader does not know yet what is replicated. Errors are as Partition says, of
// kind Unsupported before Kafka 2.1.
func (c *Cluster) Ends(ctx context.Context, parts []Partition) []PartitionEnds {
	once, where := distinct(parts)
	ends := make([]PartitionEnds, len(once))
	errs := c.eachLeader(ctx, "say where a partition ends", once, nil, func(ctx context.Context, a *attempt) {
		// In this order each is at most the next. The epoch goes with every request, so
		// that a leader of another one refuses.
		a.listOffsets(ctx, timestampEarliest, func(it *item, o federation.PhysicalOffset) { ends[it.index].LogStart = o })
		a.listOffsets(ctx, timestampLatest, func(it *item, o federation.PhysicalOffset) { ends[it.index].HighWatermark = o })
		a.logEnds(ctx, func(it *item, o federation.PhysicalOffset) {
			ends[it.index].LogEnd, ends[it.index].Epoch = o, it.epoch
		})
	})
	out := make([]PartitionEnds, len(parts))
	for i, at := range where {
		if out[i] = ends[at]; errs[at] != nil {
			out[i] = PartitionEnds{LogStart: -1, HighWatermark: -1, LogEnd: -1, Epoch: -1, Err: errs[at]}
		}
	}
	return out
}

// A PartitionLogEnd says where the log of a physical partition ends at its leader,
// replicated or not.
type PartitionLogEnd struct {
	LogEnd federation.PhysicalOffset
	Epoch  federation.PhysicalEpoch
	Err    error
}

// LogEnds is Ends with one request for each broker.
func (c *Cluster) LogEnds(ctx context.Context, parts []Partition) []PartitionLogEnd {
	once, where := distinct(parts)
	ends := make([]PartitionLogEnd, len(once))
	errs := c.eachLeader(ctx, "say where a partition ends", once, nil, func(ctx context.Context, a *attempt) {
		a.logEnds(ctx, func(it *item, o federation.PhysicalOffset) {
			ends[it.index] = PartitionLogEnd{LogEnd: o, Epoch: it.epoch}
		})
	})
	out := make([]PartitionLogEnd, len(parts))
	for i, at := range where {
		if out[i] = ends[at]; errs[at] != nil {
			out[i] = PartitionLogEnd{LogEnd: -1, Epoch: -1, Err: errs[at]}
		}
	}
	return out
}

// listOffsets asks for the offset of a special timestamp.
func (a *attempt) listOffsets(ctx context.Context, timestamp int64, got func(*item, federation.PhysicalOffset)) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	for _, asked := range a.ask(nil) {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = asked.name
		for _, it := range asked.items {
			p := kmsg.NewListOffsetsRequestTopicPartition()
			p.Partition, p.CurrentLeaderEpoch, p.Timestamp = int32(it.Partition.Partition), int32(it.epoch), timestamp
			t.Partitions = append(t.Partitions, p)
		}
		req.Topics = append(req.Topics, t)
	}
	if len(req.Topics) == 0 {
		return
	}
	resp, ok := send[*kmsg.ListOffsetsResponse](ctx, a, req)
	if !ok {
		return
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			it := a.answered(t.Topic, p.Partition, p.ErrorCode)
			switch {
			case it == nil:
			case p.Offset < 0:
				it.err = kerr.OffsetNotAvailable
			default:
				got(it, federation.PhysicalOffset(p.Offset))
			}
		}
	}
}

// logEnds asks where the newest leader epoch ends. For its current epoch a leader
// answers the end of its log, replicated or not (LeaderEpochFileCache.endOffsetFor).
func (a *attempt) logEnds(ctx context.Context, got func(*item, federation.PhysicalOffset)) {
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.ReplicaID = -1
	for _, asked := range a.ask(nil) {
		t := kmsg.NewOffsetForLeaderEpochRequestTopic()
		t.Topic = asked.name
		for _, it := range asked.items {
			p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			p.Partition, p.CurrentLeaderEpoch, p.LeaderEpoch = int32(it.Partition.Partition), int32(it.epoch), int32(it.epoch)
			t.Partitions = append(t.Partitions, p)
		}
		req.Topics = append(req.Topics, t)
	}
	if len(req.Topics) == 0 {
		return
	}
	resp, ok := send[*kmsg.OffsetForLeaderEpochResponse](ctx, a, req)
	if !ok {
		return
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			it := a.answered(t.Topic, p.Partition, p.ErrorCode)
			switch {
			case it == nil:
			case it.epoch < 0:
				it.err = federation.Errorf(federation.Unsupported, "physical cluster %q is too old to name leader epochs", a.c.Name)
			case p.EndOffset < 0 || p.LeaderEpoch != int32(it.epoch):
				it.err = kerr.OffsetNotAvailable // the leader is not ready yet
			default:
				got(it, federation.PhysicalOffset(p.EndOffset))
			}
		}
	}
}
