package suite

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

func (s *suite) configs() []test {
	return []test{
		{"set, appended to, subtracted from, deleted", s.testAlterConfigs},
		{"of a broker are not empty", s.testBrokerConfigs},
		{"a key-less record of a compacted topic is refused", s.testCompactedNeedsKeys},
		{"max.message.bytes is enforced, also after a change", s.testMaxMessageBytes},
		{"reach the physical topics", s.testConfigsReachClusters},
		{"of groups are in force at once", s.testGroupConfigs},
	}
}

func (s *suite) config(t *testing.T, topic, key string) (string, kmsg.ConfigSource) {
	t.Helper()
	configs, err := s.admin(t).DescribeTopicConfigs(call(t), topic)
	require.NoError(t, err)
	on, err := configs.On(topic, nil)
	require.NoError(t, err)
	require.NoError(t, on.Err)
	for _, c := range on.Configs {
		if c.Key == key {
			return c.MaybeValue(), c.Source
		}
	}
	return "", 0
}

func (s *suite) testAlterConfigs(t *testing.T) {
	topic := s.topic(t, 1, "cleanup.policy=delete")
	admin := s.admin(t)
	alter := func(op kadm.IncrementalOp, key, value string) error {
		answers, err := admin.AlterTopicConfigs(call(t), []kadm.AlterConfig{{Op: op, Name: key, Value: &value}}, topic)
		require.NoError(t, err)
		require.Len(t, answers, 1)
		return answers[0].Err
	}
	policy := func() []string {
		v, _ := s.config(t, topic, "cleanup.policy")
		parts := strings.Split(v, ",")
		slices.Sort(parts)
		return parts
	}
	require.NoError(t, alter(kadm.SetConfig, "retention.ms", "1234567"))
	v, source := s.config(t, topic, "retention.ms")
	require.Equal(t, "1234567", v)
	require.Equal(t, kmsg.ConfigSourceDynamicTopicConfig, source)
	require.NoError(t, alter(kadm.AppendConfig, "cleanup.policy", "compact"))
	require.Equal(t, []string{"compact", "delete"}, policy())
	require.NoError(t, alter(kadm.AppendConfig, "cleanup.policy", "compact"), "appending what is there")
	require.Equal(t, []string{"compact", "delete"}, policy())
	require.NoError(t, alter(kadm.SubtractConfig, "cleanup.policy", "delete"))
	require.Equal(t, []string{"compact"}, policy())
	require.NoError(t, alter(kadm.DeleteConfig, "retention.ms", ""))
	v, source = s.config(t, topic, "retention.ms")
	require.NotEqual(t, "1234567", v)
	require.NotEqual(t, kmsg.ConfigSourceDynamicTopicConfig, source)
	require.Error(t, alter(kadm.SetConfig, "retention.ms", "a while"))
	require.Error(t, alter(kadm.AppendConfig, "retention.ms", "1"), "appending to what is no list")
	answers, err := admin.AlterTopicConfigs(call(t), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &v}}, topic+"-unknown")
	require.NoError(t, err)
	require.ErrorIs(t, answers[0].Err, kerr.UnknownTopicOrPartition)
}

func (s *suite) testBrokerConfigs(t *testing.T) {
	admin := s.admin(t)
	brokers, err := admin.ListBrokers(call(t))
	require.NoError(t, err)
	require.NotEmpty(t, brokers)
	configs, err := admin.DescribeBrokerConfigs(call(t), brokers[0].NodeID)
	require.NoError(t, err)
	require.Len(t, configs, 1)
	require.NoError(t, configs[0].Err)
	require.NotEmpty(t, configs[0].Configs)
}

func (s *suite) testCompactedNeedsKeys(t *testing.T) {
	topic := s.topic(t, 1, "cleanup.policy=compact")
	response, err := s.producerAPI().ProduceBatch(call(t), &braidv1.ProduceBatchRequest{Batch: &braidv1.ProduceFrame{Topic: topic, Records: []*braidv1.Record{{Value: []byte("v")}}}})
	require.NoError(t, err)
	require.Len(t, response.GetAck().GetRejected(), 1)
	require.Equal(t, braidv1.Reason_REASON_INVALID_RECORD, response.GetAck().GetRejected()[0].GetFailure().GetReason())
	client := s.client(t)
	if s.w.Real {
		s.testCompactedBroker(t, topic, client)
	}
	send(t, client, &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte("v")})
	require.Len(t, s.read(t, topic, 1), 1)
}

// testCompactedBroker is about what the facade does not look into: the brokers
// check the records of compacted topics. The embedded ones do not.
func (s *suite) testCompactedBroker(t *testing.T, topic string, client *kgo.Client) {
	t.Helper()
	answer := dial(t, s.w.KafkaAddresses()[0]).produce(topic, 0, -1, func() []byte {
		b := plainBatch("v")
		b.keyless = true
		return b.encode()
	}())
	require.Equal(t, kerr.InvalidRecord.Code, answer.ErrorCode, "%v", kerr.ErrorForCode(answer.ErrorCode))
	err := client.ProduceSync(call(t), &kgo.Record{Topic: topic, Value: []byte("v")}).FirstErr()
	require.ErrorIs(t, err, kerr.InvalidRecord)
}

func (s *suite) testMaxMessageBytes(t *testing.T) {
	topic := s.topic(t, 1, "max.message.bytes=10000")
	client := s.client(t, kgo.ProducerBatchCompression(kgo.NoCompression()))
	large := &kgo.Record{Topic: topic, Value: make([]byte, 20_000)}
	require.ErrorIs(t, client.ProduceSync(call(t), large).FirstErr(), kerr.MessageTooLarge)
	send(t, client, &kgo.Record{Topic: topic, Value: make([]byte, 9_000)})
	more := "50000"
	answers, err := s.admin(t).AlterTopicConfigs(call(t), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &more}}, topic)
	require.NoError(t, err)
	require.NoError(t, answers[0].Err)
	eventually(t, func() bool {
		return client.ProduceSync(call(t), &kgo.Record{Topic: topic, Value: make([]byte, 20_000)}).FirstErr() == nil
	},
		"a record below the new limit is accepted")
	s.read(t, topic, 2)
}

func (s *suite) testConfigsReachClusters(t *testing.T) {
	topic := s.topic(t, 2, "retention.ms=111000")
	value := "222000"
	_, err := s.admin(t).AlterTopicConfigs(call(t), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &value}}, topic)
	require.NoError(t, err)
	for _, p := range s.describe(t, topic).Partitions {
		e := p.Extents[0]
		eventually(t, func() bool {
			configs, err := kadm.NewClient(s.w.Physical(t, e.PhysicalCluster)).DescribeTopicConfigs(call(t), e.PhysicalTopic)
			require.NoError(t, err)
			for _, c := range configs[0].Configs {
				if c.Key == "retention.ms" {
					return c.MaybeValue() == value
				}
			}
			return false
		}, "retention.ms on cluster %q", e.PhysicalCluster)
	}
}
