package suite

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (s *suite) produce() []test {
	return []test{
		{"keys keep their order", s.testKeyOrder},
		{"acks 0, 1 and all", s.testAcks},
		{"every codec", s.testCodecs},
		{"records up to the limit and over it", s.testLargeRecords},
		{"a repeated batch is in the log once", s.testDeduplication},
		{"out of sequence and fenced", s.testSequences},
		{"every version of the protocol", s.testProduceVersions},
		{"producer ids are unique and their epochs grow", s.testProducerIDs},
		{"transactional ids are refused for good", s.testTransactions},
		{"unknown topics and partitions", s.testProduceUnknown},
		{"headers, tombstones and timestamps are kept", s.testRecordFields},
	}
}

func (s *suite) testKeyOrder(t *testing.T) {
	const keys, each = 20, 100
	topic := s.topic(t, 6)
	client := s.client(t)
	var all []*kgo.Record
	for n := range each {
		for k := range keys {
			all = append(all, &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "k%d", k), Value: fmt.Append(nil, n)})
		}
	}
	send(t, client, all...)
	next := make(map[string]int)
	home := make(map[string]int32)
	for _, r := range s.read(t, topic, keys*each) {
		k := string(r.Key)
		if next[k] == 0 {
			home[k] = r.Partition
		}
		require.Equal(t, strconv.Itoa(next[k]), string(r.Value), "key %s", k)
		require.Equal(t, home[k], r.Partition, "partition of key %s", k)
		next[k]++
	}
}

func (s *suite) testAcks(t *testing.T) {
	for i, acks := range []kgo.Acks{kgo.NoAck(), kgo.LeaderAck(), kgo.AllISRAcks()} {
		topic := s.topic(t, 2)
		client := s.client(t, kgo.RequiredAcks(acks), kgo.DisableIdempotentWrite())
		for n := range 20 {
			send(t, client, &kgo.Record{Topic: topic, Key: fmt.Append(nil, n), Value: []byte("v")})
		}
		require.Len(t, s.read(t, topic, 20), 20, "acks %d", i)
	}
	// Nothing comes back for acks=0, and what is pipelined behind it is answered.
	topic := s.topic(t, 1)
	conn := dial(t, s.w.KafkaAddresses()[0])
	conn.send(produceRequest(9, topic, 0, 0, plainBatch("unanswered").encode()))
	answer := conn.produce(topic, 0, 1, plainBatch("answered").encode())
	require.Zero(t, answer.ErrorCode)
	require.Equal(t, int64(1), answer.BaseOffset)
}

func (s *suite) testCodecs(t *testing.T) {
	topic := s.topic(t, 2)
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	for i, codec := range codecs {
		client := s.client(t, kgo.ProducerBatchCompression(codec))
		var records []*kgo.Record
		for n := range 50 {
			records = append(records, &kgo.Record{Topic: topic, Key: fmt.Append(nil, n), Value: fmt.Appendf(nil, "codec %d record %d of many that look alike", i, n)})
		}
		send(t, client, records...)
	}
	seen := make(map[string]bool)
	for _, r := range s.read(t, topic, 50*len(codecs)) {
		seen[string(r.Value)] = true
	}
	require.Len(t, seen, 50*len(codecs))
}

func (s *suite) testLargeRecords(t *testing.T) {
	topic := s.topic(t, 1)
	client := s.client(t, kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(4<<20))
	for _, size := range []int{0, 1, 100_000, 1_000_000} {
		send(t, client, &kgo.Record{Topic: topic, Value: make([]byte, size)})
	}
	err := client.ProduceSync(call(t), &kgo.Record{Topic: topic, Value: make([]byte, 2_000_000)}).FirstErr()
	require.ErrorIs(t, err, kerr.MessageTooLarge)
	send(t, client, &kgo.Record{Topic: topic, Value: []byte("after")})
	records := s.read(t, topic, 5)
	require.Len(t, records[3].Value, 1_000_000)
	require.Equal(t, "after", string(records[4].Value))
}

func (s *suite) testDeduplication(t *testing.T) {
	topic := s.topic(t, 2)
	conn := dial(t, s.w.KafkaAddresses()[0])
	id, epoch := conn.initProducer()
	var batches [][]byte
	for i := range int32(3) {
		b := batchSpec{producerID: id, epoch: epoch, sequence: 2 * i, timestamp: time.Now().UnixMilli(), values: []string{fmt.Sprint("a", i), fmt.Sprint("b", i)}}
		batches = append(batches, b.encode())
		answer := conn.produce(topic, 1, -1, batches[i])
		require.Zero(t, answer.ErrorCode, "%v", kerr.ErrorForCode(answer.ErrorCode))
		require.Equal(t, int64(2*i), answer.BaseOffset)
	}
	// Repeats get the answer that the first got, through any gateway.
	for _, address := range s.w.KafkaAddresses() {
		again := dial(t, address)
		for i := range batches {
			answer := again.produce(topic, 1, -1, batches[i])
			require.Zero(t, answer.ErrorCode, "%v", kerr.ErrorForCode(answer.ErrorCode))
			require.Equal(t, int64(2*i), answer.BaseOffset)
		}
	}
	require.Equal(t, int64(6), s.end(t, topic))
}

func (s *suite) testSequences(t *testing.T) {
	topic := s.topic(t, 1)
	conn := dial(t, s.w.KafkaAddresses()[0])
	id, epoch := conn.initProducer()
	produce := func(epoch int16, sequence int32) int16 {
		b := batchSpec{producerID: id, epoch: epoch, sequence: sequence, timestamp: time.Now().UnixMilli(), values: []string{"v"}}
		return conn.produce(topic, 0, -1, b.encode()).ErrorCode
	}
	require.Zero(t, produce(epoch, 0))
	require.Equal(t, kerr.OutOfOrderSequenceNumber.Code, produce(epoch, 5))
	require.Zero(t, produce(epoch, 1))
	require.Zero(t, produce(epoch+1, 0), "a new epoch begins at 0")
	require.Equal(t, kerr.InvalidProducerEpoch.Code, produce(epoch, 2), "the old epoch")
	require.Equal(t, int64(3), s.end(t, topic))
}

func (s *suite) testProduceVersions(t *testing.T) {
	topic := s.topic(t, 1)
	topics, err := s.admin(t).ListTopics(call(t), topic)
	require.NoError(t, err)
	conn := dial(t, s.w.KafkaAddresses()[0])
	for version := int16(3); version <= 13; version++ {
		r := produceRequest(version, topic, 0, -1, plainBatch(strconv.Itoa(int(version))).encode())
		r.Topics[0].TopicID = topics[topic].ID
		response := conn.call(r).(*kmsg.ProduceResponse)
		require.Zero(t, response.Topics[0].Partitions[0].ErrorCode, "version %d", version)
		require.Equal(t, int64(version-3), response.Topics[0].Partitions[0].BaseOffset, "version %d", version)
	}
	require.Len(t, s.read(t, topic, 11), 11)
}

func (s *suite) testProducerIDs(t *testing.T) {
	seen := make(map[int64]bool)
	for _, address := range s.w.KafkaAddresses() {
		conn := dial(t, address)
		for range 5 {
			id, epoch := conn.initProducer()
			require.False(t, seen[id], "id %d was given out twice", id)
			require.GreaterOrEqual(t, id, int64(1)<<48, "an id that no physical cluster gives out")
			require.Zero(t, epoch)
			seen[id] = true
		}
	}
	conn := dial(t, s.w.KafkaAddresses()[0])
	id, epoch := conn.initProducer()
	r := kmsg.NewPtrInitProducerIDRequest()
	r.SetVersion(4)
	r.TransactionTimeoutMillis, r.ProducerID, r.ProducerEpoch = 60_000, id, epoch
	response := conn.call(r).(*kmsg.InitProducerIDResponse)
	require.Zero(t, response.ErrorCode)
	require.True(t, response.ProducerID != id || response.ProducerEpoch > epoch, "a producer that asks again gets a new identity")
}

func (s *suite) testTransactions(t *testing.T) {
	conn := dial(t, s.w.KafkaAddresses()[0])
	id := "t"
	r := kmsg.NewPtrInitProducerIDRequest()
	r.SetVersion(4)
	r.TransactionalID, r.TransactionTimeoutMillis, r.ProducerID, r.ProducerEpoch = &id, 60_000, -1, -1
	response := conn.call(r).(*kmsg.InitProducerIDResponse)
	require.NotZero(t, response.ErrorCode)
	require.False(t, kerr.IsRetriable(kerr.ErrorForCode(response.ErrorCode)), "%v is not final", kerr.ErrorForCode(response.ErrorCode))

	// No client can mistake it for a coordinator that is away for a moment.
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.SetVersion(3)
	find.CoordinatorKey, find.CoordinatorType = id, 1
	found := conn.call(find).(*kmsg.FindCoordinatorResponse)
	if found.ErrorCode != 0 {
		require.False(t, kerr.IsRetriable(kerr.ErrorForCode(found.ErrorCode)), "%v is not final", kerr.ErrorForCode(found.ErrorCode))
	}

	// And no transactional batch gets into a log that nobody would ever complete.
	topic := s.topic(t, 1)
	pid, epoch := conn.initProducer()
	b := batchSpec{producerID: pid, epoch: epoch, attributes: 0x10, timestamp: time.Now().UnixMilli(), values: []string{"v"}}
	require.NotZero(t, conn.produce(topic, 0, -1, b.encode()).ErrorCode)
	require.Zero(t, s.end(t, topic))
}

func (s *suite) testProduceUnknown(t *testing.T) {
	topic := s.topic(t, 1)
	conn := dial(t, s.w.KafkaAddresses()[0])
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, conn.produce(topic, 7, -1, plainBatch("v").encode()).ErrorCode)
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, conn.produce(topic+"-unknown", 0, -1, plainBatch("v").encode()).ErrorCode)
	r := produceRequest(13, "", 0, -1, plainBatch("v").encode())
	r.Topics[0].TopicID = [16]byte{1, 2, 3}
	response := conn.call(r).(*kmsg.ProduceResponse)
	require.Equal(t, kerr.UnknownTopicID.Code, response.Topics[0].Partitions[0].ErrorCode)
	require.Zero(t, conn.produce(topic, 0, -1, plainBatch("v").encode()).ErrorCode, "the connection lives on")
}

func (s *suite) testRecordFields(t *testing.T) {
	topic := s.topic(t, 1)
	at := time.Now().Add(-time.Hour) // not so long ago that a broker deletes them for their age
	sent := []*kgo.Record{
		{Topic: topic, Key: []byte("k"), Value: []byte("v"), Timestamp: at, Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("1")}, {Key: "h", Value: nil}, {Key: "", Value: []byte{}}}},
		{Topic: topic, Key: []byte("k"), Value: nil, Timestamp: at.Add(time.Second)},
		{Topic: topic, Key: []byte{}, Value: []byte{}, Timestamp: at.Add(2 * time.Second)},
	}
	send(t, s.client(t), sent...)
	got := s.read(t, topic, 3)
	for i, r := range got {
		require.Equal(t, sent[i].Key, r.Key)
		require.Equal(t, sent[i].Value, r.Value)
		require.Equal(t, sent[i].Timestamp.UnixMilli(), r.Timestamp.UnixMilli())
		require.Len(t, r.Headers, len(sent[i].Headers))
		for j, h := range r.Headers {
			require.Equal(t, sent[i].Headers[j].Key, h.Key)
			require.Equal(t, sent[i].Headers[j].Value, h.Value)
		}
	}
}
