//go:build real

package kafkacompat_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/test/realparts"
)

// TestRealAnswersAlike asks Apache Kafka's broker and a gateway the same, and
// compares what a client sees: special timestamps, admin tools, and refused batches.
func TestRealAnswersAlike(t *testing.T) {
	broker := realparts.StartKafka(t, 512, "answers")[0]
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker.Seed))
	require.NoError(t, err)
	t.Cleanup(cl.Close)
	_, err = kadm.NewClient(cl).CreateTopic(t.Context(), 1, 1, nil, "orders")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		md, err := kadm.NewClient(cl).Metadata(t.Context(), "orders")
		return err == nil && md.Topics["orders"].Partitions[0].Leader >= 0
	}, 30*time.Second, 50*time.Millisecond)
	w := newWorld(t)
	w.create("orders", 1, nil)
	theirs, ours := dial(t, broker.Seed), w.dial()
	records := batch(recordbatch.NoProducer, "x", "y", "z")
	for _, c := range []*raw{theirs, ours} {
		require.Zero(t, exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, records), 9).Topics[0].Partitions[0].ErrorCode)
	}
	t.Run("timestamps", func(t *testing.T) {
		for v := int16(1); v <= 11; v++ {
			for ts := int64(-8); ts <= 1; ts++ {
				want := exchange[*kmsg.ListOffsetsResponse](theirs, listOffsets(ts), v).Topics[0].Partitions[0]
				got := exchange[*kmsg.ListOffsetsResponse](ours, listOffsets(ts), v).Topics[0].Partitions[0]
				require.Equal(t, want.ErrorCode, got.ErrorCode, "%d in v%d", ts, v)
				require.Equal(t, want.Offset, got.Offset, "%d in v%d", ts, v)
				require.Equal(t, want.Timestamp, got.Timestamp, "%d in v%d", ts, v)
				require.Equal(t, want.LeaderEpoch < 0, got.LeaderEpoch < 0, "%d in v%d: %d, a broker %d", ts, v, got.LeaderEpoch, want.LeaderEpoch)
			}
		}
	})
	t.Run("refused batches", func(t *testing.T) {
		corrupt := batch(recordbatch.NoProducer, "x")
		corrupt[len(corrupt)-1]++
		for name, b := range map[string][]byte{"corrupt": corrupt, "nothing": {}, "two": append(batch(recordbatch.NoProducer, "x"), batch(recordbatch.NoProducer, "y")...)} {
			for _, v := range []int16{7, 8, 12} {
				want := exchange[*kmsg.ProduceResponse](theirs, produceRequest(w, "orders", -1, b), v).Topics[0].Partitions[0]
				got := exchange[*kmsg.ProduceResponse](ours, produceRequest(w, "orders", -1, b), v).Topics[0].Partitions[0]
				require.Equal(t, kerr.ErrorForCode(want.ErrorCode), kerr.ErrorForCode(got.ErrorCode), "%s in v%d", name, v)
				require.Equal(t, want.BaseOffset, got.BaseOffset, "%s in v%d", name, v)
				require.Len(t, got.ErrorRecords, len(want.ErrorRecords), "%s in v%d", name, v)
			}
		}
	})
	t.Run("elections", func(t *testing.T) {
		for v := int16(0); v <= 2; v++ {
			req := kmsg.NewPtrElectLeadersRequest()
			req.TimeoutMillis = 5000
			req.Topics = []kmsg.ElectLeadersRequestTopic{{Topic: "orders", Partitions: []int32{0, 7}}}
			want := exchange[*kmsg.ElectLeadersResponse](theirs, req, v)
			got := exchange[*kmsg.ElectLeadersResponse](ours, req, v)
			require.Equal(t, electionCodes(want), electionCodes(got))
			req.Topics = nil
			require.Equal(t, electionCodes(exchange[*kmsg.ElectLeadersResponse](theirs, req, v)), electionCodes(exchange[*kmsg.ElectLeadersResponse](ours, req, v)))
		}
	})
	t.Run("reassignments", func(t *testing.T) {
		for _, replicas := range [][]int32{nil, {1}} {
			req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
			req.TimeoutMillis = 5000
			for _, topic := range []string{"orders", "never"} {
				req.Topics = append(req.Topics, kmsg.AlterPartitionAssignmentsRequestTopic{Topic: topic, Partitions: []kmsg.AlterPartitionAssignmentsRequestTopicPartition{{Replicas: replicas}}})
			}
			want := exchange[*kmsg.AlterPartitionAssignmentsResponse](theirs, req, 1)
			got := exchange[*kmsg.AlterPartitionAssignmentsResponse](ours, req, 1)
			for i, topic := range req.Topics {
				require.Equal(t, topic.Topic, want.Topics[i].Topic)
				require.Equal(t, want.Topics[i].Partitions[0].ErrorCode, got.Topics[i].Partitions[0].ErrorCode, "%s %v", topic.Topic, replicas)
			}
		}
	})
}

func electionCodes(resp *kmsg.ElectLeadersResponse) map[int32]int16 {
	codes := map[int32]int16{-1: resp.ErrorCode}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			codes[p.Partition] = p.ErrorCode
		}
	}
	return codes
}
