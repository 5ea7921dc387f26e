package suite

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (s *suite) fetch() []test {
	return []test{
		{"an offset in the middle of a batch brings the batch", s.testMidBatch},
		{"the first batch is whole whatever its size", s.testFirstBatchWhole},
		{"a long poll over both clusters ends at the first record", s.testLongPoll},
		{"a long poll waits as long as it was asked to", s.testLongPollWaits},
		{"offsets out of range", s.testOutOfRange},
		{"every version of the protocol", s.testFetchVersions},
		{"sessions", s.testFetchSessions},
		{"unknown topics and ids", s.testFetchUnknown},
		{"many readers of one topic see the same", s.testManyReaders},
	}
}

// batches decodes the frame of the record batches of an answer.
func batches(t *testing.T, b []byte) []kmsg.RecordBatch {
	t.Helper()
	var all []kmsg.RecordBatch
	for len(b) > 12 {
		var batch kmsg.RecordBatch
		require.NoError(t, batch.ReadFrom(b))
		all = append(all, batch)
		b = b[12+batch.Length:]
	}
	return all
}

func (s *suite) testMidBatch(t *testing.T) {
	topic := s.topic(t, 1)
	conn := dial(t, s.w.KafkaAddresses()[0])
	require.Zero(t, conn.produce(topic, 0, -1, plainBatch("0", "1", "2", "3").encode()).ErrorCode)
	require.Zero(t, conn.produce(topic, 0, -1, plainBatch("4").encode()).ErrorCode)
	got := batches(t, conn.fetch(topic, 0, 2, 1<<20).RecordBatches)
	require.NotEmpty(t, got)
	require.Equal(t, int64(0), got[0].FirstOffset, "the batch begins below the asked offset")
	require.Equal(t, int32(4), got[0].NumRecords)

	client := s.client(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(3)}}))
	records := poll(t, client, 2)
	require.Equal(t, "3", string(records[0].Value))
	require.Equal(t, int64(3), records[0].Offset)
	require.Equal(t, int64(4), records[1].Offset)
}

func (s *suite) testFirstBatchWhole(t *testing.T) {
	topic := s.topic(t, 1)
	conn := dial(t, s.w.KafkaAddresses()[0])
	large := string(make([]byte, 4096))
	require.Zero(t, conn.produce(topic, 0, -1, plainBatch(large).encode()).ErrorCode)
	require.Zero(t, conn.produce(topic, 0, -1, plainBatch("next").encode()).ErrorCode)
	answer := conn.fetch(topic, 0, 0, 512)
	require.Greater(t, len(answer.RecordBatches), 4096)
	require.Len(t, batches(t, answer.RecordBatches), 1)
	require.Equal(t, int64(2), answer.HighWatermark)
}

func (s *suite) testLongPoll(t *testing.T) {
	topic := s.topic(t, 4)
	client := s.client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(20*time.Second))
	empty, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	client.PollFetches(empty) // its long polls are on their way now
	producer := s.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for p := range int32(4) {
		begin := time.Now()
		send(t, producer, &kgo.Record{Topic: topic, Partition: p, Value: []byte("v")})
		records := poll(t, client, 1)
		require.Equal(t, p, records[0].Partition)
		require.Less(t, time.Since(begin), 10*time.Second, "the wait ends with the record")
	}
}

func (s *suite) testLongPollWaits(t *testing.T) {
	topic := s.topic(t, 2)
	conn := dial(t, s.w.KafkaAddresses()[0])
	r := kmsg.NewPtrFetchRequest()
	r.SetVersion(11)
	r.MaxWaitMillis, r.MinBytes, r.MaxBytes, r.SessionEpoch = 700, 1, 1<<20, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = topic
	for p := range int32(2) {
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.PartitionMaxBytes = p, 1<<20
		rt.Partitions = append(rt.Partitions, rp)
	}
	r.Topics = append(r.Topics, rt)
	begin := time.Now()
	response := conn.call(r).(*kmsg.FetchResponse)
	require.GreaterOrEqual(t, time.Since(begin), 690*time.Millisecond)
	for _, p := range response.Topics[0].Partitions {
		require.Zero(t, p.ErrorCode)
		require.NotNil(t, p.RecordBatches, "librdkafka takes null for a broken message set")
		require.Empty(t, p.RecordBatches)
	}
}

func (s *suite) testOutOfRange(t *testing.T) {
	topic := s.topic(t, 1)
	conn := dial(t, s.w.KafkaAddresses()[0])
	require.Zero(t, conn.produce(topic, 0, -1, plainBatch("a", "b", "c").encode()).ErrorCode)
	require.Equal(t, kerr.OffsetOutOfRange.Code, conn.fetch(topic, 0, 4, 1<<20).ErrorCode)
	require.Zero(t, conn.fetch(topic, 0, 3, 1<<20).ErrorCode, "the end is in range")
	require.Equal(t, kerr.OffsetOutOfRange.Code, conn.fetch(topic, 0, 4, 1<<20).ErrorCode, "also when others wait at the end")
	require.Equal(t, kerr.OffsetOutOfRange.Code, conn.fetch(topic, 0, -1, 1<<20).ErrorCode)
	_, err := s.admin(t).DeleteRecords(call(t), offsetsOf(topic, 0, 2))
	require.NoError(t, err)
	below := conn.fetch(topic, 0, 1, 1<<20)
	require.Equal(t, kerr.OffsetOutOfRange.Code, below.ErrorCode)
	require.Equal(t, "c", string(s.read(t, topic, 1)[0].Value))
}

func (s *suite) testFetchVersions(t *testing.T) {
	topic := s.topic(t, 1)
	topics, err := s.admin(t).ListTopics(call(t), topic)
	require.NoError(t, err)
	conn := dial(t, s.w.KafkaAddresses()[0])
	require.Zero(t, conn.produce(topic, 0, -1, plainBatch("a", "b").encode()).ErrorCode)
	for version := int16(4); version <= 18; version++ {
		r := kmsg.NewPtrFetchRequest()
		r.SetVersion(version)
		r.MaxBytes, r.SessionEpoch = 1<<20, -1
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic, rt.TopicID = topic, topics[topic].ID
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.PartitionMaxBytes = 1 << 20
		rt.Partitions = append(rt.Partitions, rp)
		r.Topics = append(r.Topics, rt)
		response := conn.call(r).(*kmsg.FetchResponse)
		require.Zero(t, response.ErrorCode, "version %d", version)
		p := response.Topics[0].Partitions[0]
		require.Zero(t, p.ErrorCode, "version %d", version)
		got := batches(t, p.RecordBatches)
		require.Len(t, got, 1, "version %d", version)
		require.Equal(t, int32(2), got[0].NumRecords)
		require.GreaterOrEqual(t, got[0].PartitionLeaderEpoch, int32(0))
	}
}

func (s *suite) testFetchSessions(t *testing.T) {
	topic := s.topic(t, 3)
	conn := dial(t, s.w.KafkaAddresses()[0])
	ask := func(wait time.Duration, id, epoch int32, partitions ...int32) *kmsg.FetchResponse {
		r := kmsg.NewPtrFetchRequest()
		r.SetVersion(12)
		r.MaxBytes, r.SessionID, r.SessionEpoch = 1<<20, id, epoch
		r.MinBytes, r.MaxWaitMillis = 1, int32(wait.Milliseconds())
		if len(partitions) > 0 {
			rt := kmsg.NewFetchRequestTopic()
			rt.Topic = topic
			for _, p := range partitions {
				rp := kmsg.NewFetchRequestTopicPartition()
				rp.Partition, rp.PartitionMaxBytes = p, 1<<20
				rt.Partitions = append(rt.Partitions, rp)
			}
			r.Topics = append(r.Topics, rt)
		}
		return conn.call(r).(*kmsg.FetchResponse)
	}
	full := ask(0, 0, 0, 0, 1, 2)
	require.Zero(t, full.ErrorCode)
	require.Len(t, full.Topics[0].Partitions, 3)
	require.NotZero(t, full.SessionID)
	require.Empty(t, ask(0, full.SessionID, 1).Topics, "nothing has changed")
	require.Zero(t, conn.produce(topic, 1, -1, plainBatch("v").encode()).ErrorCode)
	changed := ask(10*time.Second, full.SessionID, 2)
	require.Len(t, changed.Topics, 1)
	require.Len(t, changed.Topics[0].Partitions, 1)
	require.Equal(t, int32(1), changed.Topics[0].Partitions[0].Partition)
	require.NotEmpty(t, changed.Topics[0].Partitions[0].RecordBatches)
	require.Equal(t, kerr.InvalidFetchSessionEpoch.Code, ask(0, full.SessionID, 9).ErrorCode)
	require.Equal(t, kerr.FetchSessionIDNotFound.Code, ask(0, full.SessionID+12345, 1).ErrorCode)
}

func (s *suite) testFetchUnknown(t *testing.T) {
	topic := s.topic(t, 1)
	conn := dial(t, s.w.KafkaAddresses()[0])
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, conn.fetch(topic, 9, 0, 1<<20).ErrorCode)
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, conn.fetch(topic+"-unknown", 0, 0, 1<<20).ErrorCode)
	r := kmsg.NewPtrFetchRequest()
	r.SetVersion(13)
	r.MaxBytes, r.SessionEpoch = 1<<20, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.TopicID = [16]byte{9, 9, 9}
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.PartitionMaxBytes = 1 << 20
	rt.Partitions = append(rt.Partitions, rp)
	r.Topics = append(r.Topics, rt)
	response := conn.call(r).(*kmsg.FetchResponse)
	require.Equal(t, kerr.UnknownTopicID.Code, response.Topics[0].Partitions[0].ErrorCode)
}

func (s *suite) testManyReaders(t *testing.T) {
	const readers, count = 8, 200
	topic := s.topic(t, 4)
	var clients []*kgo.Client
	for range readers {
		clients = append(clients, s.client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())))
	}
	var records []*kgo.Record
	for n := range count {
		records = append(records, &kgo.Record{Topic: topic, Key: fmt.Append(nil, n), Value: fmt.Append(nil, n)})
	}
	send(t, s.client(t), records...)
	at := make(map[string]string)
	for i, c := range clients {
		for _, r := range poll(t, c, count) {
			position := fmt.Sprint(r.Partition, "@", r.Offset)
			if i == 0 {
				at[position] = string(r.Value)
			}
			require.Equal(t, at[position], string(r.Value), position)
		}
	}
	require.Len(t, at, count)
}

// offsetsOf names one offset of one partition.
func offsetsOf(topic string, partition int32, at int64) kadm.Offsets {
	var o kadm.Offsets
	o.AddOffset(topic, partition, at, -1)
	return o
}
