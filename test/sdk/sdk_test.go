//go:build real

package sdk_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/braidmq/braid/test/sdk"
	"github.com/braidmq/braid/test/world"
)

// partitions is the size of the topics: several on each physical cluster.
const partitions = 6

var shared *world.World

// TestSDKs runs all clients against one federation on real parts.
func TestSDKs(t *testing.T) {
	shared = world.Real(t, world.Options{Gateways: 2})
	// These take gateways away, or need the machine for themselves.
	for _, s := range []sdkTest{
		{"mixed group", testMixedGroup},
		{"newer group protocol", testConsumerProtocol},
		{"coordinator moves before the offsets are fetched", testOffsetsAfterMove},
		{"readme", testReadme},
	} {
		t.Run(s.name, s.run)
	}
	// These run together, as many as there are cores: they are mostly programs that start.
	for _, s := range []sdkTest{
		{"kafka tools", testKafkaTools},
		{"java", testJava},
		{"confluent-kafka", testConfluent},
		{"kafkajs", testKafkaJS},
		{"kcat", testKcat},
		{"franz-go", testFranz},
		{"connect-go", testConnectGo},
		{"connect-node", testConnectNode},
		{"grpcio", testGrpcio},
		{"buf curl", testBufCurl},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.run(t)
		})
	}
}

type sdkTest struct {
	name string
	run  func(t *testing.T)
}

// bootstrap is what a user would configure: the name service's Kafka port.
func bootstrap() string { return shared.NameServer.Kafka }

func target() string { return shared.Gateways[0].Connect }

// newTopic creates a topic over all clusters, named after the test.
func newTopic(t *testing.T) string {
	t.Helper()
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.TrimPrefix(t.Name(), "TestSDKs/"))
	shared.MustBraid(t, "", "topic", "create", name, "--partitions", strconv.Itoa(partitions))
	return name
}

// murmur2 is the partition of a key by Kafka's default partitioner.
func murmur2(key string) int32 {
	return int32(kgo.StickyKeyPartitioner(nil).ForTopic("").Partition(&kgo.Record{Key: []byte(key)}, partitions))
}

// requireOnce checks that got has each record of want once, in the order of its key.
func requireOnce(t *testing.T, want, got []sdk.Record) {
	t.Helper()
	times := make(map[string]int)
	perKey := make(map[string][]string)
	slices.SortStableFunc(got, func(a, b sdk.Record) int {
		if a.Partition != b.Partition {
			return int(a.Partition - b.Partition)
		}
		return int(a.Offset - b.Offset)
	})
	for _, r := range got {
		times[r.Value]++
		perKey[r.Key] = append(perKey[r.Key], r.Value)
	}
	expected := make(map[string][]string)
	for _, r := range want {
		require.Equal(t, 1, times[r.Value], "how often record %q was read", r.Value)
		expected[r.Key] = append(expected[r.Key], r.Value)
	}
	require.Len(t, got, len(want))
	for key, values := range expected {
		require.Equal(t, values, perKey[key], "order of key %q", key)
	}
}

// readAll reads a topic to its end by another library than the one under test.
func readAll(t *testing.T, topic string, count int) []sdk.Record {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap()), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var all []sdk.Record
	for len(all) < count {
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err(), "read %d of %d records", len(all), count)
		fetches.EachRecord(func(r *kgo.Record) {
			all = append(all, sdk.Record{Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Value: string(r.Value)})
		})
	}
	return all
}

// produceAndConsume runs the two halves of a client library, the topic between
// them checked by another library.
func produceAndConsume(t *testing.T, topic string, byMurmur2 bool, start func(command, topic string, args ...string) *sdk.Client) {
	t.Helper()
	const count = 300
	producer := start("produce", topic, strconv.Itoa(count), "7")
	producer.Finish()
	sent := producer.Records("sent")
	require.Len(t, sent, count)
	stored := readAll(t, topic, count)
	requireOnce(t, sent, stored)
	for _, r := range stored {
		if byMurmur2 {
			require.Equal(t, murmur2(r.Key), r.Partition, "partition of key %q", r.Key)
		}
	}

	consumer := start("consume", topic, "group-of-"+topic)
	sdk.Until(t, "all records", func() bool { return len(consumer.Records("record")) >= count }, consumer)
	consumer.Stop()
	requireOnce(t, sent, consumer.Records("record"))
	requireCommitted(t, "group-of-"+topic, topic, count)
}

// requireCommitted checks that a group's committed offsets add up to count.
func requireCommitted(t *testing.T, group, topic string, count int64) {
	t.Helper()
	require.Eventually(t, func() bool { return committed(t, group, topic) == count }, 20*time.Second, 200*time.Millisecond,
		"the offsets that group %q committed add up to %d", group, count)
}

// requireRefused requires that a transactional id is refused by the error that braid gives on
// purpose, as the client names it.
func requireRefused(t *testing.T, c *sdk.Client, by string) {
	t.Helper()
	begin := time.Now()
	c.Finish()
	require.Empty(t, c.Has("accepted"))
	require.Equal(t, []string{by}, c.Has("refused"))
	require.Less(t, time.Since(begin), 30*time.Second, "a refusal for good comes at once")
}

func testJava(t *testing.T) {
	topic := newTopic(t)
	start := func(command, topic string, args ...string) *sdk.Client {
		return sdk.Start(t, "java "+command, nil, sdk.Java(t, append([]string{command, bootstrap(), topic}, args...)...)...)
	}
	produceAndConsume(t, topic, true, start)
	admin := start("admin", "java-admin")
	admin.Finish()
	require.Equal(t, []string{"3 true", "5 true"}, admin.Has("described"))
	require.Equal(t, []string{"3 true"}, admin.Has("created"))
	require.Equal(t, []string{"3600000 12345 compact,delete"}, admin.Has("config"))
	require.Equal(t, []string{"true", "false"}, admin.Has("listed"))
	require.Equal(t, []string{"0"}, admin.Has("latest"))
	require.Equal(t, []string{"0"}, admin.Has("deleted-records"))
	cluster := strings.Fields(admin.Has("cluster")[0])
	require.Equal(t, []string{"2", "true"}, cluster[1:], "the gateways are the brokers")
	for _, c := range shared.Clusters {
		require.NotEqual(t, c.ClusterID, cluster[0])
	}
	requireRefused(t, start("transaction", topic), "TransactionalIdAuthorizationException")
}

func testConfluent(t *testing.T) {
	topic := newTopic(t)
	start := func(command, topic string, args ...string) *sdk.Client {
		program, env := sdk.Python(t, "confluent_client.py", append([]string{command, bootstrap(), topic}, args...)...)
		return sdk.Start(t, "confluent-kafka "+command, env, program...)
	}
	produceAndConsume(t, topic, false, start)
	idempotent := start("produce", topic, "100", "5", "enable.idempotence=true", "compression.type=zstd")
	idempotent.Finish()
	require.Len(t, idempotent.Records("sent"), 100)
	readAll(t, topic, 400)

	admin := start("admin", "confluent-admin")
	admin.Finish()
	require.Equal(t, []string{"3 True", "5"}, admin.Has("described"))
	require.Equal(t, []string{"3600000"}, admin.Has("config"))
	require.Equal(t, []string{"False"}, admin.Has("listed"))
	require.Len(t, admin.Has("unknown"), 1)
	requireRefused(t, start("transaction", topic), "TRANSACTIONAL_ID_AUTHORIZATION_FAILED False")
}

func testKafkaJS(t *testing.T) {
	topic := newTopic(t)
	start := func(command, topic string, args ...string) *sdk.Client {
		return sdk.Start(t, "kafkajs "+command, []string{"KAFKAJS_NO_PARTITIONER_WARNING=1"},
			sdk.Node(t, "kafkajs_client.mjs", append([]string{command, bootstrap(), topic}, args...)...)...)
	}
	produceAndConsume(t, topic, true, start)
	admin := start("admin", "kafkajs-admin")
	admin.Finish()
	require.Equal(t, []string{"true"}, admin.Has("created"))
	require.Equal(t, []string{"3 true", "5 true"}, admin.Has("described"))
	require.Equal(t, []string{"3600000"}, admin.Has("config"))
	require.Equal(t, []string{"5"}, admin.Has("offsets"))
	require.Equal(t, []string{"2 true"}, admin.Has("cluster"))
	require.Equal(t, []string{"false"}, admin.Has("listed"))
}

func testConnectNode(t *testing.T) {
	topic := newTopic(t)
	start := func(command, topic string, args ...string) *sdk.Client {
		return sdk.Start(t, "connect-node "+command, nil,
			sdk.Node(t, "connect_client.mjs", append([]string{command, "http://" + target(), topic}, args...)...)...)
	}
	produceAndConsume(t, topic, true, start)
	requireReads(t, start, topic)
	requireReadableError(t, start("errors", "no-such-topic"), "NotFound")
}

func testGrpcio(t *testing.T) {
	topic := newTopic(t)
	start := func(command, topic string, args ...string) *sdk.Client {
		program, env := sdk.Python(t, "grpc_client.py", append([]string{command, target(), topic}, args...)...)
		return sdk.Start(t, "grpcio "+command, env, program...)
	}
	produceAndConsume(t, topic, true, start)
	requireReads(t, start, topic)
	requireReadableError(t, start("errors", "no-such-topic"), "NOT_FOUND")
}

func requireReads(t *testing.T, start func(command, topic string, args ...string) *sdk.Client, topic string) {
	t.Helper()
	reader := start("read", topic)
	reader.Finish()
	requireOnce(t, readAll(t, topic, 300), reader.Records("record"))
}

func requireReadableError(t *testing.T, c *sdk.Client, code string) {
	t.Helper()
	c.Finish()
	require.Equal(t, []string{code + " REASON_UNKNOWN_TOPIC braid"}, c.Has("error"))
}

func records(prefix string, from, count, keys int) []*kgo.Record {
	all := make([]*kgo.Record, count)
	for i := range all {
		all[i] = &kgo.Record{Key: fmt.Appendf(nil, "k%d", (from+i)%keys), Value: fmt.Appendf(nil, "%s-%d", prefix, from+i)}
	}
	return all
}
