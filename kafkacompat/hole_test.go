package kafkacompat_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/internal/recordbatch"
)

// A consumer that has read all that there is before a gap goes on at its end, though
// no record is there yet: else programs that read up to the end of a partition would
// wait for one.
func TestConsumersPassAGap(t *testing.T) {
	const base = federation.LogicalOffset(1) << 41 // further than a batch can span
	w := newWorld(t)
	w.create("orders", 2, nil)
	cl := w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for range 3 {
		require.NoError(t, cl.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Partition: 0, Value: []byte("v")}).FirstErr())
	}
	w.Change(func(m *federation.Map) {
		topic := *m.Topics["orders"]
		old := *topic.Partitions[0].Extents[0]
		old.State, old.End = federation.ExtentSealed, old.Start+3
		head := federationtest.Head("b", physical("orders"), 0)
		head.Number, head.Base = 1, base
		head.Epochs = []federation.EpochEntry{{Logical: 7}}
		topic.Partitions = append([]*federation.Partition{{Topic: "orders", Epoch: 7, Extents: []*federation.Extent{&old, head}}}, topic.Partitions[1:]...)
		m.Topics["orders"] = &topic
	})
	r := w.dial()
	fetch := func(from int64) kmsg.FetchResponseTopicPartition {
		req := kmsg.NewPtrFetchRequest()
		req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 50, 1, 1<<20, -1
		p := kmsg.NewFetchRequestTopicPartition()
		p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = from, 1<<20, -1
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic = "orders"
		rt.Partitions = append(rt.Partitions, p)
		req.Topics = append(req.Topics, rt)
		resp := exchange[*kmsg.FetchResponse](r, req, 12)
		require.Zero(t, resp.Topics[0].Partitions[0].ErrorCode)
		return resp.Topics[0].Partitions[0]
	}
	got := fetch(3)
	h, ok := recordbatch.ParseHeader(got.RecordBatches)
	require.True(t, ok)
	require.Zero(t, h.Count)
	require.EqualValues(t, 7, h.LeaderEpoch)
	require.NoError(t, new(recordbatch.Reader).Reset(got.RecordBatches))
	fp, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Offset: 3, Topic: "orders"}, &got, kgo.DefaultDecompressor(), nil)
	require.NoError(t, fp.Err)
	require.Empty(t, fp.Records)
	require.EqualValues(t, base, next)
	require.Empty(t, fetch(int64(base)).RecordBatches, "there it waits for records")
}
