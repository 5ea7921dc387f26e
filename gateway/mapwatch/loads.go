package mapwatch

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// tellLoads tells the controller, at an interval, what is appended to partitions
// through this gateway: it plans moves by that.
func (l *link) tellLoads(ctx context.Context) {
	if l.cfg.Loads == nil {
		return
	}
	since := time.Now()
	_, _ = l.cfg.Loads(ctx) // what came before has no interval
	for {
		sleep(ctx, l.cfg.LoadInterval)
		bytes, err := l.cfg.Loads(ctx)
		if err != nil {
			return
		}
		now := time.Now()
		select {
		case l.loads <- loadsProto(bytes, now.Sub(since), l.cfg.LoadsMax):
		case <-ctx.Done():
			return
		}
		since = now
	}
}

// loadsProto names the busiest partitions.
func loadsProto(bytes map[federation.TopicPartition]int64, interval time.Duration, most int) *controlv1.PartitionLoads {
	out := &controlv1.PartitionLoads{}
	for tp, n := range bytes {
		if perS := int64(float64(n) / interval.Seconds()); perS > 0 {
			out.Partitions = append(out.Partitions, &controlv1.PartitionLoad{Topic: string(tp.Topic), Partition: int32(tp.Partition), BytesPerS: perS})
		}
	}
	slices.SortFunc(out.Partitions, func(a, b *controlv1.PartitionLoad) int {
		return cmp.Or(cmp.Compare(b.GetBytesPerS(), a.GetBytesPerS()), cmp.Compare(a.GetTopic(), b.GetTopic()), cmp.Compare(a.GetPartition(), b.GetPartition()))
	})
	out.Partitions = out.Partitions[:min(len(out.Partitions), most)]
	return out
}
