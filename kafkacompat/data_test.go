package kafkacompat_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/recordbatch"
)

// batch makes a record batch as a client does.
func batch(p recordbatch.Producer, values ...string) []byte {
	var b recordbatch.Builder
	b.Reset(nil)
	for _, v := range values {
		b.Add(&recordbatch.Record{TimestampMs: time.Now().UnixMilli(), Key: []byte("k"), Value: []byte(v)})
	}
	return append([]byte(nil), b.Finish(p)...)
}

func TestClientProducesAndConsumes(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 4, nil)
	cl := w.client(kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	const n = 500
	want := make(map[string]bool)
	for i := range n {
		v := fmt.Sprint("value-", i)
		want[v] = true
		cl.Produce(t.Context(), &kgo.Record{Topic: "orders", Key: []byte(strconv.Itoa(i % 37)), Value: []byte(v)}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	require.NoError(t, cl.Flush(t.Context()))
	next := make(map[int32]int64)
	for len(want) > 0 {
		fetches := cl.PollFetches(t.Context())
		require.Empty(t, fetches.Errors())
		fetches.EachRecord(func(r *kgo.Record) {
			require.Equal(t, next[r.Partition], r.Offset, "partition %d", r.Partition)
			next[r.Partition]++
			require.True(t, want[string(r.Value)], "twice or unknown: %s", r.Value)
			delete(want, string(r.Value))
		})
	}
	require.Len(t, next, 4, "all partitions, on both clusters")
	ends, err := kadm.NewClient(cl).ListEndOffsets(t.Context(), "orders")
	require.NoError(t, err)
	ends.Each(func(o kadm.ListedOffset) { require.Equal(t, next[o.Partition], o.Offset) })
}

// produceRequest asks to append one batch to each of partitions 0, 1, ...
func produceRequest(w *world, topic string, acks int16, batches ...[]byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = acks, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topic
	if t := w.Current().Topics["orders"]; t != nil && topic == "orders" {
		rt.TopicID = t.ID
	}
	for i, b := range batches {
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition, rp.Records = int32(i), b
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

func TestProduceAndFetchInEveryVersion(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, nil)
	c := w.dial()
	id := w.Current().Topics["orders"].ID
	for v := int16(3); v <= 13; v++ {
		resp := exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, fmt.Sprint("a", v)), batch(recordbatch.NoProducer, fmt.Sprint("b", v))), v)
		require.Len(t, resp.Topics, 1)
		if v >= 13 {
			require.EqualValues(t, id, resp.Topics[0].TopicID)
		} else {
			require.Equal(t, "orders", resp.Topics[0].Topic)
		}
		for i, p := range resp.Topics[0].Partitions {
			require.Zero(t, p.ErrorCode, "v%d: %s", v, sprint(p))
			require.EqualValues(t, i, p.Partition)
			require.EqualValues(t, v-3, p.BaseOffset)
			require.EqualValues(t, -1, p.LogAppendTime)
		}
	}
	for v := int16(4); v <= 18; v++ {
		req := kmsg.NewPtrFetchRequest()
		req.MaxWaitMillis, req.MinBytes, req.SessionEpoch, req.IsolationLevel = 1000, 1, -1, int8(v%2)
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic, rt.TopicID = "orders", id
		for p := range int32(2) {
			rp := kmsg.NewFetchRequestTopicPartition()
			rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = p, int64(v-4)%11, 1<<20, 1
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
		resp := exchange[*kmsg.FetchResponse](c, req, v)
		require.Zero(t, resp.ErrorCode)
		require.Zero(t, resp.SessionID)
		require.Len(t, resp.Topics, 1)
		seen := false
		for _, p := range resp.Topics[0].Partitions {
			require.Zero(t, p.ErrorCode, "v%d: %s", v, sprint(p))
			require.NotNil(t, p.RecordBatches, "v%d", v)
			if len(p.RecordBatches) == 0 {
				continue
			}
			seen = true
			h, ok := recordbatch.ParseHeader(p.RecordBatches)
			require.True(t, ok)
			require.Equal(t, int64(v-4)%11, h.BaseOffset)
			require.EqualValues(t, 1, h.LeaderEpoch)
			require.EqualValues(t, 11, p.HighWatermark)
		}
		require.True(t, seen, "v%d", v)
	}
}

func TestProduceRefuses(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, map[string]string{"max.message.bytes": "2000"})
	w.create("single", 1, nil)
	good := batch(recordbatch.NoProducer, "x")
	bad := append([]byte(nil), good...)
	bad[len(bad)-1]++
	control := append([]byte(nil), good...)
	control[22] |= 0x20
	for name, tc := range map[string]struct {
		req     *kmsg.ProduceRequest
		version int16
		code    *kerr.Error
	}{
		"crc":                 {produceRequest(w, "orders", -1, bad), 9, kerr.CorruptMessage},
		"control":             {produceRequest(w, "orders", -1, control), 9, kerr.InvalidRecord},
		"two batches":         {produceRequest(w, "orders", -1, append(append([]byte(nil), good...), good...)), 9, kerr.InvalidRecord},
		"nothing":             {produceRequest(w, "orders", -1, nil), 9, kerr.InvalidRecord},
		"large":               {produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, string(make([]byte, 3000)))), 9, kerr.MessageTooLarge},
		"acks":                {produceRequest(w, "orders", 2, good), 9, kerr.InvalidRequiredAcks},
		"unknown topic":       {produceRequest(w, "nope", -1, good), 9, kerr.UnknownTopicOrPartition},
		"unknown id":          {produceRequest(w, "nope", -1, good), 13, kerr.UnknownTopicID},
		"unknown partition":   {produceRequest(w, "single", -1, good, good), 9, kerr.UnknownTopicOrPartition},
		"old version":         {produceRequest(w, "orders", -1, good), 2, kerr.UnsupportedVersion},
		"transactional id":    {transactional(produceRequest(w, "orders", -1, good)), 9, kerr.TransactionalIDAuthorizationFailed},
		"transactional batch": {produceRequest(w, "orders", -1, transactionalBatch()), 9, kerr.TransactionalIDAuthorizationFailed},
	} {
		t.Run(name, func(t *testing.T) {
			c := w.dial()
			resp := exchange[*kmsg.ProduceResponse](c, tc.req, tc.version)
			parts := resp.Topics[0].Partitions
			require.Equal(t, tc.code.Code, parts[len(parts)-1].ErrorCode, sprint(parts))
			require.EqualValues(t, -1, parts[len(parts)-1].BaseOffset)
		})
	}
	// The connection and the good partitions of a request live on.
	c := w.dial()
	resp := exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", 1, bad, good), 9)
	require.Equal(t, kerr.CorruptMessage.Code, resp.Topics[0].Partitions[0].ErrorCode)
	require.NotNil(t, resp.Topics[0].Partitions[0].ErrorMessage)
	require.Zero(t, resp.Topics[0].Partitions[1].ErrorCode)
}

func transactional(req *kmsg.ProduceRequest) *kmsg.ProduceRequest {
	req.TransactionID = new("tx")
	return req
}

func transactionalBatch() []byte {
	b := batch(recordbatch.NoProducer, "x")
	b[22] |= 0x10
	recordbatch.SetProducer(b, 7, 0, 0) // the CRC covers the attributes
	return b
}

func TestProduceWithoutAcks(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 1, nil)
	c := w.dial()
	for i := range 3 {
		c.send(produceRequest(w, "orders", 0, batch(recordbatch.NoProducer, strconv.Itoa(i))), 9)
	}
	// Kafka's rule holds for what has an answer: the Metadata response is the next one.
	md := exchange[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest(), 9)
	require.Len(t, md.Topics, 1)
	require.Eventually(t, func() bool {
		req := kmsg.NewPtrListOffsetsRequest()
		req.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: "orders", Partitions: []kmsg.ListOffsetsRequestTopicPartition{{Timestamp: -1, CurrentLeaderEpoch: -1}}}}
		return exchange[*kmsg.ListOffsetsResponse](c, req, 7).Topics[0].Partitions[0].Offset == 3
	}, 10*time.Second, 10*time.Millisecond)
	c.send(produceRequest(w, "nope", 0, batch(recordbatch.NoProducer, "x")), 9)
	c.closed("a failed produce without acks closes the connection")
}

func TestDuplicatesAreSuccess(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 1, nil)
	c := w.dial()
	pid := exchange[*kmsg.InitProducerIDResponse](c, kmsg.NewPtrInitProducerIDRequest(), 4)
	require.Zero(t, pid.ErrorCode)
	require.GreaterOrEqual(t, pid.ProducerID, int64(1<<48))
	b := batch(recordbatch.Producer{ID: pid.ProducerID, Epoch: pid.ProducerEpoch, Sequence: 0}, "x", "y")
	for range 3 {
		p := exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, b), 13).Topics[0].Partitions[0]
		require.Zero(t, p.ErrorCode, sprint(p))
		require.Zero(t, p.BaseOffset)
	}
	gap := batch(recordbatch.Producer{ID: pid.ProducerID, Epoch: pid.ProducerEpoch, Sequence: 7}, "z")
	p := exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, gap), 13).Topics[0].Partitions[0]
	require.Equal(t, kerr.OutOfOrderSequenceNumber.Code, p.ErrorCode)
}

func TestTransactionsAreRefusedForGood(t *testing.T) {
	w := newWorld(t)
	c := w.dial()
	init := kmsg.NewPtrInitProducerIDRequest()
	init.TransactionalID = new("tx")
	for v := int16(0); v <= 5; v++ {
		resp := exchange[*kmsg.InitProducerIDResponse](c, init, v)
		require.Equal(t, kerr.TransactionalIDAuthorizationFailed.Code, resp.ErrorCode)
		require.EqualValues(t, -1, resp.ProducerID)
	}
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKey, find.CoordinatorKeys, find.CoordinatorType = "tx", []string{"tx"}, 1
	require.Equal(t, kerr.TransactionalIDAuthorizationFailed.Code, exchange[*kmsg.FindCoordinatorResponse](c, find, 2).ErrorCode)
	require.Equal(t, kerr.TransactionalIDAuthorizationFailed.Code, exchange[*kmsg.FindCoordinatorResponse](c, find, 4).Coordinators[0].ErrorCode)
	cl := w.client(kgo.TransactionalID("tx"))
	require.ErrorIs(t, cl.BeginTransaction(), kerr.TransactionalIDAuthorizationFailed)
}

// TestRecordErrorsAreToldOn has a broker refuse a batch as it does a record
// without a key on a compacted topic (KIP-467).
func TestRecordErrorsAreToldOn(t *testing.T) {
	w := newWorld(t)
	w.create("compacted", 1, map[string]string{"cleanup.policy": "compact"})
	w.clusters["a"].ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		req := kreq.(*kmsg.ProduceRequest)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = req.Topics[0].Topic, req.Topics[0].TopicID
		rp := kmsg.NewProduceResponseTopicPartition()
		rp.ErrorCode = kerr.InvalidRecord.Code
		rp.ErrorMessage = new("One or more records have been rejected")
		re := kmsg.NewProduceResponseTopicPartitionErrorRecord()
		re.RelativeOffset, re.ErrorMessage = 1, new("Compacted topic cannot accept message without key")
		rp.ErrorRecords = append(rp.ErrorRecords, re)
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	resp := exchange[*kmsg.ProduceResponse](w.dial(), produceRequest(w, "compacted", -1, batch(recordbatch.NoProducer, "x", "y")), 9)
	p := resp.Topics[0].Partitions[0]
	require.Equal(t, kerr.InvalidRecord.Code, p.ErrorCode)
	require.Len(t, p.ErrorRecords, 1, sprint(p))
	require.EqualValues(t, 1, p.ErrorRecords[0].RelativeOffset)
	require.Contains(t, *p.ErrorRecords[0].ErrorMessage, "without key")
}
