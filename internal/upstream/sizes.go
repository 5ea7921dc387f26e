package upstream

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A PartitionSize says how many bytes the log of a physical partition takes at its leader.
type PartitionSize struct {
	Bytes int64
	Err   error
}

// Sizes asks the leaders of partitions how large they are (DescribeLogDirs): one request for
// each broker, one answer for each partition, in their order. It is retried until ctx or
// AdminTimeout ends. Errors are as Partition says.
func (c *Cluster) Sizes(ctx context.Context, parts []Partition) []PartitionSize {
	once, where := distinct(parts)
	sizes := make([]int64, len(once))
	errs := c.eachLeader(ctx, "say how large a partition is", once, nil, func(ctx context.Context, a *attempt) {
		req := kmsg.NewPtrDescribeLogDirsRequest()
		for _, asked := range a.ask(nil) {
			t := kmsg.NewDescribeLogDirsRequestTopic()
			t.Topic = asked.name
			for _, it := range asked.items {
				t.Partitions = append(t.Partitions, int32(it.Partition.Partition))
			}
			req.Topics = append(req.Topics, t)
		}
		resp, ok := send[*kmsg.DescribeLogDirsResponse](ctx, a, req)
		if !ok {
			return
		}
		for _, dir := range resp.Dirs {
			for _, t := range dir.Topics {
				for _, p := range t.Partitions {
					if p.IsFuture { // a copy that moves to another directory
						continue
					}
					if it := a.answered(t.Topic, p.Partition, dir.ErrorCode); it != nil {
						sizes[it.index] = p.Size
					}
				}
			}
		}
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			a.refused(err)
		}
	})
	out := make([]PartitionSize, len(parts))
	for i, at := range where {
		if out[i].Err = errs[at]; out[i].Err == nil {
			out[i].Bytes = sizes[at]
		}
	}
	return out
}

// refused gives what a broker refused as a whole to the partitions without an answer.
func (a *attempt) refused(err error) {
	for _, it := range a.items {
		if errors.Is(it.err, errLeftOut) {
			it.err = err
		}
	}
}
