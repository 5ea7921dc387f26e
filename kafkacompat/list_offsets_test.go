package kafkacompat_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/recordbatch"
)

func listOffsets(timestamps ...int64) *kmsg.ListOffsetsRequest {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	t := kmsg.ListOffsetsRequestTopic{Topic: "orders"}
	for _, ts := range timestamps {
		t.Partitions = append(t.Partitions, kmsg.ListOffsetsRequestTopicPartition{Timestamp: ts, CurrentLeaderEpoch: -1})
	}
	req.Topics = append(req.Topics, t)
	return req
}

// TestSpecialTimestamps: what they mean, and from which version on.
func TestSpecialTimestamps(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 1, nil)
	c := w.dial()
	require.Zero(t, exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, "x", "y", "z")), 9).Topics[0].Partitions[0].ErrorCode)
	before := kmsg.NewPtrDeleteRecordsRequest()
	before.TimeoutMillis = 5000
	before.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: "orders", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Offset: 1}}}}
	require.Zero(t, exchange[*kmsg.DeleteRecordsResponse](c, before, 2).Topics[0].Partitions[0].ErrorCode)
	for _, tc := range []struct {
		timestamp, offset int64
		from              int16
	}{{-1, 3, 1}, {-2, 1, 1}, {-3, 2, 7}, {-4, 1, 8}, {-5, -1, 9}, {-6, -1, 11}, {-7, -1, 99}} {
		for v := int16(1); v <= 11; v++ {
			p := exchange[*kmsg.ListOffsetsResponse](c, listOffsets(tc.timestamp), v).Topics[0].Partitions[0]
			if v < tc.from {
				require.Equal(t, kerr.UnsupportedVersion.Code, p.ErrorCode, "%d in v%d", tc.timestamp, v)
				continue
			}
			require.Zero(t, p.ErrorCode, "%d in v%d", tc.timestamp, v)
			if tc.timestamp == -3 { // of equal times the broker picks
				require.Contains(t, []int64{0, 1, 2}, p.Offset)
				require.Positive(t, p.Timestamp)
				continue
			}
			require.Equal(t, tc.offset, p.Offset, "%d in v%d", tc.timestamp, v)
			require.EqualValues(t, -1, p.Timestamp)
		}
	}
}

// TestNobodyIsThrottled: no answer of any API in any version asks a client to wait.
func TestNobodyIsThrottled(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 4, nil)
	c := w.dial()
	require.NoError(t, c.c.SetDeadline(time.Now().Add(time.Minute)))
	answers := 0
	for _, k := range exchange[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest(), 0).ApiKeys {
		for v := max(k.MinVersion, map[int16]int16{0: 3}[k.ApiKey]); v <= k.MaxVersion; v++ {
			for _, req := range w.requestsOf(k.ApiKey) {
				if r, ok := exchange[kmsg.Response](c, req, v).(kmsg.ThrottleResponse); ok {
					ms, _ := r.Throttle()
					require.Zero(t, ms, "%s v%d", kmsg.NameForKey(k.ApiKey), v)
					answers++
				}
			}
		}
	}
	require.Greater(t, answers, 100)
}
