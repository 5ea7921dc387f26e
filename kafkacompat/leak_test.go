package kafkacompat_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/kafkacompat"
)

// physicalBytes are what no response may hold: names, ids and ports of the
// physical clusters.
func (w *world) physicalBytes() map[string][]byte {
	out := map[string][]byte{"physical topic name": []byte("phys."), "physical cluster id": []byte("physical-")}
	for name, c := range w.clusters {
		for _, addr := range c.ListenAddrs() {
			_, port, err := net.SplitHostPort(addr)
			require.NoError(w.t, err)
			n, err := strconv.Atoi(port)
			require.NoError(w.t, err)
			out["address of "+name] = []byte(addr)
			out["port of "+name] = []byte(port)
			out["port of "+name+" as a number"] = binary.BigEndian.AppendUint32(nil, uint32(n))
		}
		topics, err := w.admins[name].ListTopics(context.Background())
		require.NoError(w.t, err)
		for _, t := range topics {
			if t.ID != (kadm.TopicID{}) {
				out["topic id of "+t.Topic+" on "+name] = t.ID[:]
			}
		}
	}
	return out
}

// requestsOf makes a request of a kind that reaches as far as it can.
func (w *world) requestsOf(key int16) []kmsg.Request {
	id := w.Current().Topics["orders"].ID
	switch kmsg.Key(key) {
	case kmsg.Produce:
		return []kmsg.Request{produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, "x"), batch(recordbatch.NoProducer, "y"), nil)}
	case kmsg.Fetch:
		short, never := longPoll(w, 100*time.Millisecond), longPoll(w, 0)
		short.Topics[0].Partitions = append(short.Topics[0].Partitions, short.Topics[0].Partitions[0], short.Topics[0].Partitions[0])
		short.Topics[0].Partitions[1].Partition = 1
		short.Topics[0].Partitions[2].FetchOffset = 1 << 40
		never.Topics[0].Partitions[0].CurrentLeaderEpoch = 99
		return []kmsg.Request{short, never}
	case kmsg.ListOffsets:
		req := kmsg.NewPtrListOffsetsRequest()
		t := kmsg.ListOffsetsRequestTopic{Topic: "orders"}
		for p, ts := range []int64{-1, -2, 0, -3} {
			t.Partitions = append(t.Partitions, kmsg.ListOffsetsRequestTopicPartition{Partition: int32(p), Timestamp: ts, CurrentLeaderEpoch: -1})
		}
		req.Topics = append(req.Topics, t)
		return []kmsg.Request{req}
	case kmsg.OffsetForLeaderEpoch:
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.ReplicaID = -1
		req.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: "orders", Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{
			{Partition: 0, CurrentLeaderEpoch: -1, LeaderEpoch: 1}, {Partition: 1, CurrentLeaderEpoch: 1, LeaderEpoch: 0}, {Partition: 2, CurrentLeaderEpoch: 9},
		}}}
		return []kmsg.Request{req}
	case kmsg.Metadata:
		all := kmsg.NewPtrMetadataRequest()
		all.Topics = nil
		return []kmsg.Request{all, askMetadata("orders", "never")}
	case kmsg.DescribeConfigs:
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.IncludeSynonyms, req.IncludeDocumentation = true, true
		req.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: 2, ResourceName: "orders"}, {ResourceType: 4, ResourceName: "1"}, {ResourceType: 2, ResourceName: "never"}}
		return []kmsg.Request{req}
	case kmsg.IncrementalAlterConfigs:
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		req.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: 2, ResourceName: "orders", Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "retention.ms", Value: new("1000000")}}}}
		return []kmsg.Request{req}
	case kmsg.DeleteRecords:
		req := kmsg.NewPtrDeleteRecordsRequest()
		req.TimeoutMillis = 2000
		req.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: "orders", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: 0, Offset: 1}, {Partition: 1, Offset: 1}, {Partition: 1, Offset: 1 << 40}}}}
		return []kmsg.Request{req}
	case kmsg.CreateTopics:
		return []kmsg.Request{createRequest(newTopic("orders", 1, 1), newTopic("more", 2, 1))}
	case kmsg.CreatePartitions:
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.TimeoutMillis = 2000
		req.Topics = []kmsg.CreatePartitionsRequestTopic{{Topic: "more", Count: 3}}
		return []kmsg.Request{req}
	case kmsg.DeleteTopics:
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.TimeoutMillis, req.TopicNames = 2000, []string{"more"}
		req.Topics = []kmsg.DeleteTopicsRequestTopic{{Topic: new("more")}}
		return []kmsg.Request{req}
	case kmsg.FindCoordinator:
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.CoordinatorKey, req.CoordinatorKeys = "g", []string{"g"}
		return []kmsg.Request{req}
	case kmsg.OffsetCommit:
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Group = "g"
		req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "orders", TopicID: id, Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: 1, LeaderEpoch: -1}}}}
		return []kmsg.Request{req}
	default:
		return []kmsg.Request{kmsg.RequestForKey(key)}
	}
}

// TestNothingPhysicalLeaks calls every API in every version, while all is well
// and while the clusters are away, and looks for physical names in the answers.
func TestNothingPhysicalLeaks(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) { c.RequestTimeout = time.Second })
	w.create("orders", 4, nil)
	versions := exchange[*kmsg.ApiVersionsResponse](w.dial(), kmsg.NewPtrApiVersionsRequest(), 0).ApiKeys
	require.Greater(t, len(versions), 30)
	forbidden := w.physicalBytes()
	require.Greater(t, len(forbidden), 8)
	asked := 0
	sweep := func(state string, everyVersion bool) {
		c := w.dial()
		require.NoError(t, c.c.SetDeadline(time.Now().Add(2*time.Minute)))
		for _, k := range versions {
			lowest := k.MaxVersion
			if everyVersion {
				lowest = max(k.MinVersion, map[int16]int16{0: 3}[k.ApiKey])
			}
			for v := lowest; v <= k.MaxVersion; v++ {
				for _, req := range w.requestsOf(k.ApiKey) {
					if s, ok := req.(kmsg.SetTimeoutRequest); ok {
						s.SetTimeout(1000)
					}
					corr := c.send(req, v)
					got, b, err := c.frame()
					require.NoError(t, err, "%s v%d, %s", kmsg.NameForKey(k.ApiKey), v, state)
					require.Equal(t, corr, got)
					for what, bad := range forbidden {
						require.False(t, bytes.Contains(b, bad), "%s v%d, %s: %s is in the response", kmsg.NameForKey(k.ApiKey), v, state, what)
					}
					asked++
				}
			}
		}
	}
	sweep("all is well", true)
	for _, c := range w.clusters {
		c.Close()
	}
	sweep("the clusters are away", false)
	require.Greater(t, asked, 150)
}
