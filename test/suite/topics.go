package suite

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (s *suite) topics() []test {
	return []test{
		{"spread over the clusters", s.testSpread},
		{"created by Kafka, described alike by all gateways", s.testCreateTopics},
		{"refuses what is wrong", s.testCreateTopicsRefusals},
		{"grows, and the answer names the topic", s.testCreatePartitions},
		{"deleted, and created again with another id", s.testRecreate},
		{"created by Metadata where that is allowed", s.testAutoCreate},
		{"described in pages", s.testDescribeTopicPartitions},
	}
}

// extents is what `braid topic describe -o json` shows.
type described struct {
	Partitions []struct {
		Partition int32
		Extents   []extent
	}
}

type extent struct {
	PhysicalCluster, PhysicalTopic, State string
	PhysicalPartition                     int32
	LogicalBase, PhysicalStart            json.Number
}

func (s *suite) describe(t *testing.T, topic string) described {
	t.Helper()
	var d described
	out := s.w.MustBraid(t, "", "topic", "describe", topic, "-o", "json")
	require.NoError(t, json.Unmarshal([]byte(out), &d), out)
	return d
}

func (s *suite) testSpread(t *testing.T) {
	topic := s.topic(t, 6)
	perCluster := make(map[string]int)
	d := s.describe(t, topic)
	require.Len(t, d.Partitions, 6)
	for _, p := range d.Partitions {
		require.Len(t, p.Extents, 1)
		perCluster[p.Extents[0].PhysicalCluster]++
		require.Equal(t, "STATE_OPEN", p.Extents[0].State)
	}
	require.Len(t, perCluster, len(s.w.Clusters), "every cluster has a share")
	for _, c := range s.w.Clusters {
		require.Equal(t, 6/len(s.w.Clusters), perCluster[c.Name], "partitions on cluster %q", c.Name)
	}

	// The records lie where the map says.
	client := s.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for p := range int32(6) {
		send(t, client, &kgo.Record{Topic: topic, Partition: p, Value: []byte("v")})
	}
	for _, p := range d.Partitions {
		e := p.Extents[0]
		ends, err := kadm.NewClient(s.w.Physical(t, e.PhysicalCluster)).ListEndOffsets(call(t), e.PhysicalTopic)
		require.NoError(t, err)
		end, ok := ends.Lookup(e.PhysicalTopic, e.PhysicalPartition)
		require.True(t, ok)
		start, err := e.PhysicalStart.Int64()
		if e.PhysicalStart != "" {
			require.NoError(t, err)
		}
		require.Equal(t, start+1, end.Offset)
	}
}

func (s *suite) testCreateTopics(t *testing.T) {
	topic := name(t)
	retention := "7200000"
	created, err := s.admin(t).CreateTopic(call(t), 3, 1, map[string]*string{"retention.ms": &retention}, topic)
	require.NoError(t, err)
	require.Equal(t, int32(3), created.NumPartitions)
	require.NotZero(t, created.ID)
	// Whoever is asked knows the topic now, with the same id and the same leaders.
	var first *kmsg.MetadataResponse
	for _, address := range s.w.KafkaAddresses() {
		r := kmsg.NewPtrMetadataRequest()
		r.SetVersion(12)
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &topic
		r.Topics = append(r.Topics, rt)
		response := dial(t, address).call(r).(*kmsg.MetadataResponse)
		require.Len(t, response.Topics, 1)
		require.Zero(t, response.Topics[0].ErrorCode)
		require.Equal(t, [16]byte(created.ID), response.Topics[0].TopicID)
		require.Len(t, response.Topics[0].Partitions, 3)
		for _, p := range response.Topics[0].Partitions {
			require.Contains(t, p.Replicas, p.Leader)
			require.Contains(t, p.ISR, p.Leader)
		}
		if first == nil {
			first = response
		}
		require.Equal(t, first.Topics, response.Topics, "every gateway gives the same answer to the same client")
		require.Equal(t, first.Brokers, response.Brokers)
	}
}

func (s *suite) testCreateTopicsRefusals(t *testing.T) {
	topic := s.topic(t, 1)
	admin := s.admin(t)
	bad := "no number"
	for what, c := range map[string]struct {
		partitions  int32
		replication int16
		configs     map[string]*string
		topic       string
		want        error
	}{
		"exists":          {1, -1, nil, topic, kerr.TopicAlreadyExists},
		"bad name":        {1, -1, nil, "a/b", kerr.InvalidTopicException},
		"no partitions":   {0, -1, nil, topic + "-0", kerr.InvalidPartitions},
		"too many copies": {1, 100, nil, topic + "-rf", kerr.InvalidReplicationFactor},
		"bad config":      {1, -1, map[string]*string{"retention.ms": &bad}, topic + "-c", kerr.InvalidConfig},
	} {
		_, err := admin.CreateTopic(call(t), c.partitions, c.replication, c.configs, c.topic)
		require.ErrorIs(t, err, c.want, what)
	}
	validated, err := admin.ValidateCreateTopics(call(t), 2, -1, nil, topic+"-v")
	require.NoError(t, err)
	require.NoError(t, validated.Error())
	topics, err := admin.ListTopics(call(t))
	require.NoError(t, err)
	require.False(t, topics.Has(topic+"-v"), "a validated topic was created")
}

func (s *suite) testCreatePartitions(t *testing.T) {
	topic := s.topic(t, 2)
	send(t, s.client(t), &kgo.Record{Topic: topic, Value: []byte("before")})
	grown, err := s.admin(t).UpdatePartitions(call(t), 5, topic)
	require.NoError(t, err)
	require.NoError(t, grown.Error())
	require.Contains(t, grown, topic)
	d := s.describe(t, topic)
	require.Len(t, d.Partitions, 5)
	client := s.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	send(t, client, &kgo.Record{Topic: topic, Partition: 4, Value: []byte("after")})
	s.read(t, topic, 2)

	shrunk, err := s.admin(t).UpdatePartitions(call(t), 3, topic)
	require.NoError(t, err)
	require.ErrorIs(t, shrunk[topic].Err, kerr.InvalidPartitions)
}

func (s *suite) testRecreate(t *testing.T) {
	topic := s.topic(t, 2)
	admin := s.admin(t)
	before, err := admin.ListTopics(call(t), topic)
	require.NoError(t, err)
	send(t, s.client(t), &kgo.Record{Topic: topic, Value: []byte("old")})
	deleted, err := admin.DeleteTopic(call(t), topic)
	require.NoError(t, err)
	require.NoError(t, deleted.Err)
	_, err = admin.DeleteTopic(call(t), topic)
	require.ErrorIs(t, err, kerr.UnknownTopicOrPartition)
	created, err := admin.CreateTopic(call(t), 2, -1, nil, topic)
	require.NoError(t, err, created.ErrMessage)
	after, err := s.admin(t).ListTopics(call(t), topic)
	require.NoError(t, err)
	require.NotEqual(t, before[topic].ID, after[topic].ID)
	require.Zero(t, s.end(t, topic), "records of the deleted topic")
	send(t, s.client(t), &kgo.Record{Topic: topic, Value: []byte("new")})
	require.Equal(t, "new", string(s.read(t, topic, 1)[0].Value))
}

func (s *suite) testAutoCreate(t *testing.T) {
	topic := name(t)
	ask := func(allow bool) kmsg.MetadataResponseTopic {
		r := kmsg.NewPtrMetadataRequest()
		r.SetVersion(7)
		r.AllowAutoTopicCreation = allow
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &topic
		r.Topics = append(r.Topics, rt)
		response := dial(t, s.w.KafkaAddresses()[0]).call(r).(*kmsg.MetadataResponse)
		require.Len(t, response.Topics, 1)
		return response.Topics[0]
	}
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, ask(false).ErrorCode)
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, ask(false).ErrorCode, "asking again")
	ask(true)
	eventually(t, func() bool { answer := ask(true); return answer.ErrorCode == 0 && len(answer.Partitions) == 4 }, "the topic with the default count of partitions")
	send(t, s.client(t), &kgo.Record{Topic: topic, Value: []byte("v")})
}

func (s *suite) testDescribeTopicPartitions(t *testing.T) {
	topic := s.topic(t, 5)
	conn := dial(t, s.w.KafkaAddresses()[0])
	r := kmsg.NewPtrDescribeTopicPartitionsRequest()
	r.ResponsePartitionLimit = 3
	rt := kmsg.NewDescribeTopicPartitionsRequestTopic()
	rt.Topic = topic
	r.Topics = append(r.Topics, rt)
	first := conn.call(r).(*kmsg.DescribeTopicPartitionsResponse)
	require.Len(t, first.Topics, 1)
	require.Len(t, first.Topics[0].Partitions, 3)
	require.NotNil(t, first.NextCursor)
	for _, p := range first.Topics[0].Partitions {
		// Java's Admin fails on null here.
		require.NotNil(t, p.EligibleLeaderReplicas)
		require.NotNil(t, p.LastKnownELR)
	}
	r.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: first.NextCursor.Topic, Partition: first.NextCursor.Partition}
	second := conn.call(r).(*kmsg.DescribeTopicPartitionsResponse)
	require.Len(t, second.Topics[0].Partitions, 2)
	require.Nil(t, second.NextCursor)
}
