package upstream

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/recordbatch"
)

// A MarkAppend is a batch of an idempotent producer for a physical partition.
type MarkAppend struct {
	Partition
	Batch []byte
}

// AppendedAt is the offset of the first record of a batch that is in the log, or
// why it is not known to be there.
type AppendedAt struct {
	Offset federation.PhysicalOffset
	Err    error
}

// AppendMarks appends batches with acks=all and returns where they are, in the
// order of the appends. Batches for the same partition are appended in their
// order, one round after the other; after one that failed, those behind it fail
// with its error. Each round is retried until ctx or AdminTimeout ends.
//
// A batch that the partition has already is not appended again: the broker answers
// the offset that it got then. So after an error of a retriable kind, when the
// batch may be in the log, the same call says so, also from another process.
//
// Errors are of kind DuplicateSequence if the broker has the batch but forgot its
// offset (it remembers the last 5 of a producer; new ones say OutOfOrderSequence
// then), InvalidArgument for a batch that is not idempotent, and as Partition says.
func (c *Cluster) AppendMarks(ctx context.Context, appends []MarkAppend) []AppendedAt {
	out := make([]AppendedAt, len(appends))
	left := make([]int, len(appends))
	for i := range appends {
		out[i].Offset, left[i] = -1, i
	}
	failed := make(map[Partition]error)
	for len(left) > 0 {
		var round, later []int
		in := make(map[Partition]bool)
		for _, i := range left {
			p := appends[i].Partition
			switch {
			case failed[p] != nil:
				out[i].Err = failed[p]
			case in[p]:
				later = append(later, i)
			case !repeatable(appends[i].Batch):
				out[i].Err = federation.Errorf(federation.InvalidArgument, "%d bytes that are not one batch of an idempotent producer", len(appends[i].Batch))
				failed[p] = out[i].Err
			default:
				in[p] = true
				round = append(round, i)
			}
		}
		c.appendRound(ctx, appends, round, out)
		for _, i := range round {
			if out[i].Err != nil {
				failed[appends[i].Partition] = out[i].Err
			}
		}
		left = later
	}
	return out
}

// repeatable reports whether a broker can know a batch again.
func repeatable(batch []byte) bool {
	h, ok := recordbatch.ParseHeader(batch)
	return ok && h.Idempotent() && h.Size() == len(batch)
}

// appendRound appends batches for different partitions.
func (c *Cluster) appendRound(ctx context.Context, appends []MarkAppend, which []int, out []AppendedAt) {
	parts := make([]Partition, len(which))
	for i, at := range which {
		parts[i] = appends[at].Partition
	}
	size := func(i int) int { return len(appends[which[i]].Batch) }
	errs := c.eachLeader(ctx, "append a mark", parts, size, func(ctx context.Context, a *attempt) {
		req := &produceByName{kmsg.NewPtrProduceRequest()}
		req.Acks = -1
		// The broker says that replicas are late before we stop waiting for it.
		req.TimeoutMillis = int32(c.attemptTimeout().Milliseconds() / 2)
		for _, asked := range a.ask(nil) {
			t := kmsg.NewProduceRequestTopic()
			t.Topic = asked.name
			for _, it := range asked.items {
				p := kmsg.NewProduceRequestTopicPartition()
				p.Partition, p.Records = int32(it.Partition.Partition), appends[which[it.index]].Batch
				t.Partitions = append(t.Partitions, p)
			}
			req.Topics = append(req.Topics, t)
		}
		resp, ok := send[*kmsg.ProduceResponse](ctx, a, req)
		if !ok {
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				it := a.answered(t.Topic, p.Partition, p.ErrorCode)
				switch {
				case it == nil:
				case p.BaseOffset < 0:
					it.err = federation.Errorf(federation.DuplicateSequence, "physical cluster %q has a mark and does not say where", c.Name)
				default:
					out[which[it.index]].Offset = federation.PhysicalOffset(p.BaseOffset)
				}
			}
		}
	})
	for i, at := range which {
		out[at].Err = errs[i]
	}
}

// produceByName is a Produce request that stays at the versions with topic names.
// It also keeps its acks, which the client overwrites in plain ones.
type produceByName struct{ *kmsg.ProduceRequest }

func (*produceByName) MaxVersion() int16 { return 12 }
