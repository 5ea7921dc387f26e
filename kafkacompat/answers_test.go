package kafkacompat_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/kafkacompat"
)

// times is n times the same.
func times[E any](n int, e E) []E {
	all := make([]E, n)
	for i := range all {
		all[i] = e
	}
	return all
}

// What a request names twice is answered once, or refused: its answer is no larger than
// that of a request that names it once.
func TestNamesThatComeOftenAreAnsweredOnce(t *testing.T) {
	const often = 20_000
	for name, c := range map[string]struct {
		version int16
		request func(n int) kmsg.Request
		largest int
	}{
		"Metadata by name": {9, func(n int) kmsg.Request {
			return &kmsg.MetadataRequest{Topics: times(n, kmsg.MetadataRequestTopic{Topic: new("wide")})}
		}, 10_000},
		"Metadata by id": {12, func(n int) kmsg.Request {
			return &kmsg.MetadataRequest{Topics: times(n, kmsg.MetadataRequestTopic{TopicID: [16]byte{1}})}
		}, 200},
		"DescribeConfigs": {1, func(n int) kmsg.Request {
			return &kmsg.DescribeConfigsRequest{Resources: times(n, kmsg.DescribeConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: "2"})}
		}, 10_000},
		"OffsetFetch of groups": {8, func(n int) kmsg.Request {
			return &kmsg.OffsetFetchRequest{Groups: times(n, kmsg.OffsetFetchRequestGroup{Group: "g", MemberEpoch: -1})}
		}, 200},
		"OffsetFetch of partitions": {5, func(n int) kmsg.Request {
			return &kmsg.OffsetFetchRequest{Group: "g", Topics: []kmsg.OffsetFetchRequestTopic{{Topic: "wide", Partitions: make([]int32, n)}}}
		}, 200},
		"DescribeGroups": {5, func(n int) kmsg.Request {
			return &kmsg.DescribeGroupsRequest{Groups: times(n, "g")}
		}, 200},
		"ConsumerGroupDescribe": {0, func(n int) kmsg.Request {
			return &kmsg.ConsumerGroupDescribeRequest{Groups: times(n, "g")}
		}, 200},
		"DeleteGroups": {2, func(n int) kmsg.Request { return &kmsg.DeleteGroupsRequest{Groups: times(n, "g")} }, 200},
		"FindCoordinator": {4, func(n int) kmsg.Request {
			return &kmsg.FindCoordinatorRequest{CoordinatorKeys: times(n, "g")}
		}, 200},
		"ListOffsets": {6, func(n int) kmsg.Request {
			p := kmsg.ListOffsetsRequestTopicPartition{CurrentLeaderEpoch: -1, Timestamp: -1}
			return &kmsg.ListOffsetsRequest{ReplicaID: -1, Topics: []kmsg.ListOffsetsRequestTopic{{Topic: "wide", Partitions: times(n, p)}}}
		}, 200},
		"OffsetForLeaderEpoch": {4, func(n int) kmsg.Request {
			p := kmsg.OffsetForLeaderEpochRequestTopicPartition{CurrentLeaderEpoch: -1}
			return &kmsg.OffsetForLeaderEpochRequest{ReplicaID: -1, Topics: []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: "wide", Partitions: times(n, p)}}}
		}, 200},
		"DescribeProducers": {0, func(n int) kmsg.Request {
			return &kmsg.DescribeProducersRequest{Topics: []kmsg.DescribeProducersRequestTopic{{Topic: "wide", Partitions: make([]int32, n)}}}
		}, 200},
		"DeleteRecords": {2, func(n int) kmsg.Request {
			p := kmsg.DeleteRecordsRequestTopicPartition{Offset: -1}
			return &kmsg.DeleteRecordsRequest{TimeoutMillis: 1000, Topics: []kmsg.DeleteRecordsRequestTopic{{Topic: "wide", Partitions: times(n, p)}}}
		}, 200},
		"ElectLeaders": {2, func(n int) kmsg.Request {
			return &kmsg.ElectLeadersRequest{Topics: []kmsg.ElectLeadersRequestTopic{{Topic: "wide", Partitions: make([]int32, n)}}}
		}, 400},
		"DescribeTopicPartitions": {0, func(n int) kmsg.Request {
			return &kmsg.DescribeTopicPartitionsRequest{ResponsePartitionLimit: 2000, Topics: times(n, kmsg.DescribeTopicPartitionsRequestTopic{Topic: "wide"})}
		}, 10_000},
		"ListConfigResources": {1, func(n int) kmsg.Request {
			return &kmsg.ListConfigResourcesRequest{ResourceTypes: times(n, int8(kmsg.ConfigResourceTypeBroker))}
		}, 200},
		"Fetch": {11, func(n int) kmsg.Request {
			p := kmsg.FetchRequestTopicPartition{CurrentLeaderEpoch: -1, PartitionMaxBytes: 1000}
			return &kmsg.FetchRequest{ReplicaID: -1, MaxBytes: 1000, SessionEpoch: -1, Topics: []kmsg.FetchRequestTopic{{Topic: "wide", Partitions: times(n, p)}}}
		}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.create("wide", 100, nil)
			w.answers = memory.NewBudget(64 << 20)
			d := dial(t, w.addGateway("gw-1", 2, ""))
			sizes := make([]int, 0, 2)
			for _, n := range []int{2, often} {
				d.send(c.request(n), c.version)
				_, b, err := d.frame()
				require.NoError(t, err)
				sizes = append(sizes, len(b))
			}
			require.Less(t, sizes[1], c.largest)
			require.Equal(t, sizes[0], sizes[1], "two are one, too")
		})
	}
}

// Of a partition that a Fetch names twice the last position counts.
func TestFetchOfPartitionNamedTwice(t *testing.T) {
	for _, others := range []int{0, 30} {
		w := newWorld(t)
		w.create("wide", 40, nil)
		for _, epoch := range []int32{-1, 0} {
			req := kmsg.NewPtrFetchRequest()
			req.MaxBytes, req.SessionEpoch = 1000, epoch
			topic := kmsg.NewFetchRequestTopic()
			topic.Topic = "wide"
			add := func(partition int32, offset int64) {
				p := kmsg.NewFetchRequestTopicPartition()
				p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, offset, 1000
				topic.Partitions = append(topic.Partitions, p)
			}
			add(0, 77)
			for i := range others {
				add(int32(i+1), 0)
			}
			add(0, 0)
			req.Topics = append(req.Topics, topic)
			resp := exchange[*kmsg.FetchResponse](w.dial(), req, 11)
			require.Len(t, resp.Topics, 1)
			require.Len(t, resp.Topics[0].Partitions, others+1)
			require.Zero(t, resp.Topics[0].Partitions[0].Partition, "in the place of the first")
			require.Zero(t, resp.Topics[0].Partitions[0].ErrorCode, "not out of range, as 77 is")
		}
	}
}

// A partition that a ListOffsets names twice is refused, as by a broker.
func TestListOffsetsOfPartitionNamedTwice(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, nil)
	req := listOffsets(-1, -2)
	req.Topics[0].Partitions = append(req.Topics[0].Partitions, req.Topics[0].Partitions[0])
	req.Topics[0].Partitions[1].Partition = 1
	parts := exchange[*kmsg.ListOffsetsResponse](w.dial(), req, 6).Topics[0].Partitions
	require.Len(t, parts, 2)
	require.Equal(t, kerr.InvalidRequest.Code, parts[0].ErrorCode)
	require.Zero(t, parts[1].ErrorCode)
}

// Many clients that ask for large answers at the same time wait for each other; what they
// ask for comes whole, and small answers wait for none of them.
func TestLargeAnswersStayWithinTheBudget(t *testing.T) {
	const partitions, clients, size = 50_000, 12, 26 << 20 // a fifth of 128 MiB
	w := newWorld(t)
	w.create("orders", 2, nil)
	w.setTopic("huge", nil, partitions, 1)
	w.answers = memory.NewBudget(size)
	addr := w.addGateway("gw-1", 2, "")
	var most atomic.Int64
	stop := make(chan struct{})
	var watch, wg sync.WaitGroup
	watch.Go(func() {
		for {
			most.Store(max(most.Load(), w.answers.Used()))
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
			}
		}
	})
	for range clients {
		c := dial(t, addr)
		wg.Go(func() {
			for range 3 {
				c.send(askMetadata("huge", "orders"), 9)
				if _, b, err := c.frame(); err != nil || len(b) < partitions*26 {
					t.Errorf("Metadata: %d bytes, %v", len(b), err)
				}
			}
		})
	}
	small := dial(t, addr)
	for range 100 {
		require.Len(t, exchange[*kmsg.MetadataResponse](small, askMetadata("orders"), 9).Topics, 1)
	}
	wg.Wait()
	close(stop)
	watch.Wait()
	require.Greater(t, most.Load(), int64(partitions*100))
	require.LessOrEqual(t, most.Load(), int64(size+size/4), "but for what one goes on with")
	require.Eventually(t, func() bool { return w.answers.Used() == 0 }, 10*time.Second, time.Millisecond)
}

// An answer that a gateway could never hold closes the connection, and the next one is
// served.
func TestAnswerAboveTheBudget(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, nil)
	w.setTopic("huge", nil, 20_000, 1)
	w.answers = memory.NewBudget(2 << 20)
	addr := w.addGateway("gw-1", 2, "")
	for what, req := range map[string]kmsg.Request{
		"what is named":     askMetadata("orders", "huge"),
		"all":               &kmsg.MetadataRequest{},
		"how much is named": &kmsg.DescribeGroupsRequest{Groups: names(20_000)},
	} {
		c := dial(t, addr)
		require.Len(t, exchange[*kmsg.MetadataResponse](c, askMetadata("orders"), 4).Topics, 1)
		c.send(req, 4)
		c.closed(what)
		require.Eventually(t, func() bool { return w.answers.Used() == 0 }, 10*time.Second, time.Millisecond)
	}
	// Where an answer has a place for it, what there is no room for is told.
	req := kmsg.NewPtrDescribeConfigsRequest()
	for i := range 4_000 {
		req.Resources = append(req.Resources, kmsg.DescribeConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeGroupConfig, ResourceName: fmt.Sprint("group-", i)})
	}
	all := exchange[*kmsg.DescribeConfigsResponse](dial(t, addr), req, 1).Resources
	require.Len(t, all, 4_000)
	require.Zero(t, all[0].ErrorCode)
	require.Equal(t, kerr.InvalidRequest.Code, all[3_999].ErrorCode)
	require.Contains(t, *all[3_999].ErrorMessage, "--memory-limit")
}

func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint("name-", i)
	}
	return all
}

func TestFetchOfTooManyPartitions(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) { c.FetchPartitionsMax = 100 })
	w.create("orders", 2, nil)
	ask := func(n int) *kmsg.FetchRequest {
		req := kmsg.NewPtrFetchRequest()
		req.MaxBytes = 1000
		req.Topics = []kmsg.FetchRequestTopic{{Topic: "orders", Partitions: make([]kmsg.FetchRequestTopicPartition, n)}}
		return req
	}
	c := w.dial()
	require.Zero(t, exchange[*kmsg.FetchResponse](c, ask(99), 11).ErrorCode)
	require.Equal(t, kerr.InvalidRequest.Code, exchange[*kmsg.FetchResponse](c, ask(100), 11).ErrorCode)
	require.Len(t, exchange[*kmsg.FetchResponse](c, ask(99), 4).Topics, 1)
	c.send(ask(100), 4)
	c.closed("v4 has no place for an error")
}

// Fetch requests that name many partitions do not keep their room for as long as their
// clients would wait while others need it.
func TestFetchesOfManyPartitionsMakeRoom(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) { c.BytesInFlightMax, c.FrameBytesMax = 4<<20, 1<<20 })
	w.create("orders", 1, nil)
	const wait = 30 * time.Second
	poll := func(c *raw) (*kmsg.FetchRequest, int32) {
		req := longPoll(w, wait)
		req.SessionEpoch = -1
		parts := &req.Topics[0].Partitions
		*parts = slices.Repeat(*parts, 1000)
		return req, c.send(req, 13)
	}
	began := time.Now()
	poll(w.dial()) // has a third of the room, and may wait
	for range 5 {
		c := w.dial()
		req, id := poll(c)
		resp := c.receive(req, id).(*kmsg.FetchResponse)
		require.Zero(t, resp.ErrorCode)
		require.Empty(t, resp.Topics[0].Partitions[0].RecordBatches)
	}
	require.Less(t, time.Since(began), wait/2)
}
