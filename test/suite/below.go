package suite

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The extent that a partition began with is emptied, and leaves the map: whoever is below
// what is left is told OFFSET_OUT_OF_RANGE, as by a broker, and goes on by its own rule.
func (s *suite) testBelowFirstExtent(t *testing.T) {
	topic, to := s.topicOn(t, 1, "a", "b"), "a"
	if s.heads(t, topic)[0] == to {
		to = "b"
	}
	conn := dial(t, s.w.KafkaAddresses()[0])
	require.Zero(t, conn.produce(topic, 0, -1, plainBatch("a", "b", "c").encode()).ErrorCode)
	s.move(t, topic, to, 0)
	require.Zero(t, conn.produce(topic, 0, -1, plainBatch("d", "e").encode()).ErrorCode)
	require.Zero(t, conn.fetch(topic, 0, 1, 1<<20).ErrorCode, "both extents are there")
	_, err := s.admin(t).DeleteRecords(call(t), offsetsOf(topic, 0, 3))
	require.NoError(t, err)
	for _, below := range []int64{0, 2} {
		require.Equal(t, kerr.OffsetOutOfRange.Code, conn.fetch(topic, 0, below, 1<<20).ErrorCode, "the emptied extent may still be in the map")
	}
	require.Zero(t, conn.fetch(topic, 0, 3, 1<<20).ErrorCode)
	eventually(t, func() bool { return len(s.describe(t, topic).Partitions[0].Extents) == 1 }, "the emptied extent leaves the map")
	for _, below := range []int64{0, 2} {
		require.Equal(t, kerr.OffsetOutOfRange.Code, conn.fetch(topic, 0, below, 1<<20).ErrorCode, "offset %d", below)
	}
	require.Zero(t, conn.fetch(topic, 0, 3, 1<<20).ErrorCode)
	client := s.client(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(1)}}), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.Equal(t, "d", string(poll(t, client, 2)[0].Value))
}
