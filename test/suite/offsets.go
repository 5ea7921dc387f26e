package suite

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (s *suite) offsets() []test {
	return []test{
		{"earliest, latest and largest timestamp", s.testListOffsets},
		{"by time", s.testOffsetsByTime},
		{"of leader epochs", s.testOffsetForLeaderEpoch},
		{"after records were deleted", s.testDeleteRecords},
	}
}

// atTimes writes one record of each timestamp to partition 0, in their order.
func (s *suite) atTimes(t *testing.T, topic string, timestamps ...int64) {
	t.Helper()
	conn := dial(t, s.w.KafkaAddresses()[0])
	for _, ms := range timestamps {
		b := plainBatch("v")
		b.timestamp = ms
		require.Zero(t, conn.produce(topic, 0, -1, b.encode()).ErrorCode)
	}
}

func (s *suite) testListOffsets(t *testing.T) {
	topic := s.topic(t, 2)
	admin := s.admin(t)
	base := time.Now().Add(-time.Hour).UnixMilli()
	s.atTimes(t, topic, base+100, base+300, base+200)
	one := func(offsets kadm.ListedOffsets, err error) kadm.ListedOffset {
		t.Helper()
		require.NoError(t, err)
		o, ok := offsets.Lookup(topic, 0)
		require.True(t, ok)
		require.NoError(t, o.Err)
		return o
	}
	require.Equal(t, int64(0), one(admin.ListStartOffsets(call(t), topic)).Offset)
	require.Equal(t, int64(3), one(admin.ListEndOffsets(call(t), topic)).Offset)
	largest := one(admin.ListMaxTimestampOffsets(call(t), topic))
	require.Equal(t, int64(1), largest.Offset)
	require.Equal(t, base+300, largest.Timestamp)
	empty, err := admin.ListMaxTimestampOffsets(call(t), topic)
	require.NoError(t, err)
	o, _ := empty.Lookup(topic, 1)
	require.Equal(t, int64(-1), o.Offset, "an empty partition has no largest timestamp")

	conn := dial(t, s.w.KafkaAddresses()[0])
	for version := int16(1); version <= 11; version++ {
		r := kmsg.NewPtrListOffsetsRequest()
		r.SetVersion(version)
		r.ReplicaID = -1
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = topic
		for _, p := range []int32{0, 7} {
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp = p, -1
			rt.Partitions = append(rt.Partitions, rp)
		}
		r.Topics = append(r.Topics, rt)
		response := conn.call(r).(*kmsg.ListOffsetsResponse)
		require.Len(t, response.Topics[0].Partitions, 2)
		require.Equal(t, int64(3), response.Topics[0].Partitions[0].Offset, "version %d", version)
		require.Equal(t, kerr.UnknownTopicOrPartition.Code, response.Topics[0].Partitions[1].ErrorCode)
	}
}

func (s *suite) testOffsetsByTime(t *testing.T) {
	topic := s.topic(t, 1)
	base := time.Now().Add(-time.Hour).UnixMilli()
	s.atTimes(t, topic, base+100, base+300, base+200, base+400)
	for at, want := range map[int64]int64{0: 0, base: 0, base + 100: 0, base + 101: 1, base + 300: 1, base + 301: 3, base + 400: 3} {
		offsets, err := s.admin(t).ListOffsetsAfterMilli(call(t), at, topic)
		require.NoError(t, err)
		o, _ := offsets.Lookup(topic, 0)
		require.NoError(t, o.Err)
		require.Equal(t, want, o.Offset, "first record at or after base%+d", at-base)
	}
	// Past the last record there is none; franz-go turns -1 into the end.
	conn := dial(t, s.w.KafkaAddresses()[0])
	r := kmsg.NewPtrListOffsetsRequest()
	r.SetVersion(7)
	r.ReplicaID = -1
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Timestamp = base + 401
	rt.Partitions = append(rt.Partitions, rp)
	r.Topics = append(r.Topics, rt)
	answer := conn.call(r).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
	require.Zero(t, answer.ErrorCode)
	require.Equal(t, int64(-1), answer.Offset)
	require.Equal(t, int64(-1), answer.Timestamp)
}

func (s *suite) testOffsetForLeaderEpoch(t *testing.T) {
	topic := s.topic(t, 1)
	conn := dial(t, s.w.KafkaAddresses()[0])
	require.Zero(t, conn.produce(topic, 0, -1, plainBatch("a", "b", "c").encode()).ErrorCode)
	epoch := batches(t, conn.fetch(topic, 0, 0, 1<<20).RecordBatches)[0].PartitionLeaderEpoch
	ask := func(version int16, epoch, current int32) kmsg.OffsetForLeaderEpochResponseTopicPartition {
		r := kmsg.NewPtrOffsetForLeaderEpochRequest()
		r.SetVersion(version)
		r.ReplicaID = -1
		rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
		rt.Topic = topic
		rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		rp.LeaderEpoch, rp.CurrentLeaderEpoch = epoch, current
		rt.Partitions = append(rt.Partitions, rp)
		r.Topics = append(r.Topics, rt)
		return conn.call(r).(*kmsg.OffsetForLeaderEpochResponse).Topics[0].Partitions[0]
	}
	for version := int16(2); version <= 4; version++ {
		answer := ask(version, epoch, -1)
		require.Zero(t, answer.ErrorCode, "version %d", version)
		require.Equal(t, int64(3), answer.EndOffset, "the current epoch ends at the end of the log")
		require.Equal(t, epoch, answer.LeaderEpoch)
	}
	require.Equal(t, int64(-1), ask(4, epoch+1000, -1).EndOffset, "an epoch that never was")
	require.Equal(t, kerr.UnknownLeaderEpoch.Code, ask(4, epoch, epoch+1000).ErrorCode)
}

func (s *suite) testDeleteRecords(t *testing.T) {
	topic := s.topic(t, 2)
	client := s.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for range 5 {
		for p := range int32(2) {
			send(t, client, &kgo.Record{Topic: topic, Partition: p, Value: []byte("v")})
		}
	}
	admin := s.admin(t)
	offsets := offsetsOf(topic, 0, 3)
	offsets.AddOffset(topic, 1, -1, -1) // all there is
	deleted, err := admin.DeleteRecords(call(t), offsets)
	require.NoError(t, err)
	require.NoError(t, deleted.Error())
	first, _ := deleted.Lookup(topic, 0)
	second, _ := deleted.Lookup(topic, 1)
	require.Equal(t, []int64{3, 5}, []int64{first.LowWatermark, second.LowWatermark})
	starts, err := admin.ListStartOffsets(call(t), topic)
	require.NoError(t, err)
	a, _ := starts.Lookup(topic, 0)
	b, _ := starts.Lookup(topic, 1)
	require.Equal(t, []int64{3, 5}, []int64{a.Offset, b.Offset})
	require.Equal(t, int64(3), s.read(t, topic, 2)[0].Offset)
	beyond, err := admin.DeleteRecords(call(t), offsetsOf(topic, 0, 99))
	require.NoError(t, err)
	answer, _ := beyond.Lookup(topic, 0)
	require.ErrorIs(t, answer.Err, kerr.OffsetOutOfRange)
	send(t, client, &kgo.Record{Topic: topic, Partition: 1, Value: []byte("v")})
	s.read(t, topic, 3)
}
