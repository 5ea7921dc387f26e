//go:build real

package sdk_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/test/sdk"
	"github.com/braidmq/braid/test/world"
)

// testMixedGroup has a Java, a confluent-kafka and a Connect member in one group,
// each with its default configuration. They share the partitions and each record
// is read once, also when the gateway that coordinates them is killed: nobody is
// asked to join again. Those who stay take over from the one who goes.
func testMixedGroup(t *testing.T) {
	topic := newTopic(t)
	const group = "mixed"
	java := sdk.Start(t, "java member", nil, sdk.Java(t, "consume", bootstrap(), topic, group)...)
	program, env := sdk.Python(t, "confluent_client.py", "consume", bootstrap(), topic, group)
	confluent := sdk.Start(t, "confluent-kafka member", env, program...)
	sdk.Until(t, "a share of the partitions for both", func() bool {
		return len(java.Assigned()) == 3 && len(confluent.Assigned()) == 3
	}, java, confluent)
	coordinator := coordinatorOf(t, group)
	stays := shared.Gateways[0]
	if stays == coordinator {
		stays = shared.Gateways[1]
	}
	member := subscribe(t, stays.URL(), group, topic)
	sdk.Until(t, "a share of the partitions for each member", func() bool {
		return len(java.Assigned()) == 2 && len(confluent.Assigned()) == 2 && member.partitions() == 2
	}, java, confluent)

	producer, err := kgo.NewClient(kgo.SeedBrokers(bootstrap()), kgo.DefaultProduceTopic(topic))
	require.NoError(t, err)
	t.Cleanup(producer.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var want []sdk.Record
	produce := func(count int) {
		batch := records("mixed", len(want), count, 31)
		require.NoError(t, producer.ProduceSync(ctx, batch...).FirstErr())
		for _, r := range batch {
			want = append(want, sdk.Record{Key: string(r.Key), Value: string(r.Value)})
		}
	}
	all := func() []sdk.Record {
		got := append(java.Records("record"), confluent.Records("record")...)
		return append(got, member.records()...)
	}

	produce(600)
	sdk.Until(t, "all records of three members", func() bool { return len(all()) >= len(want) }, java, confluent)
	requireOnce(t, want, all())
	for name, got := range map[string]int{"java": len(java.Records("record")), "confluent-kafka": len(confluent.Records("record")), "connect": len(member.records())} {
		require.Positive(t, got, "records that the %s member read", name)
	}

	rebalances := func() int { return len(java.Has("revoked")) + len(confluent.Has("revoked")) }
	before := rebalances()
	coordinator.Kill()
	produce(600)
	sdk.Until(t, "all records after the coordinator was killed", func() bool { return len(all()) >= len(want) }, java, confluent)
	requireOnce(t, want, all())
	require.NoError(t, coordinator.Start())
	produce(300)
	sdk.Until(t, "all records after the gateway came back", func() bool { return len(all()) >= len(want) }, java, confluent)
	requireOnce(t, want, all())
	require.Equal(t, before, rebalances(), "no rebalance")
	require.Equal(t, 2, member.partitions())

	java.Stop()
	sdk.Until(t, "the partitions of the member that left", func() bool {
		return len(confluent.Assigned())+member.partitions() == partitions
	}, confluent)
	produce(300)
	sdk.Until(t, "all records of two members", func() bool { return len(all()) >= len(want) }, confluent)
	requireOnce(t, want, all())

	confluent.Stop()
	require.Eventually(t, func() bool { return member.partitions() == partitions }, 30*time.Second, 50*time.Millisecond)
	produce(100)
	require.Eventually(t, func() bool { return len(all()) >= len(want) }, 30*time.Second, 50*time.Millisecond)
	requireOnce(t, want, all())
	member.leave()
	requireCommitted(t, group, topic, int64(len(want)))
}

// testConsumerProtocol has a Java, a confluent-kafka and a Connect member in one group, the
// SDKs' by Kafka's newer protocol (KIP-848). They share the partitions, nobody notices that
// their coordinator is killed, and who stays takes over.
func testConsumerProtocol(t *testing.T) {
	topic := newTopic(t)
	const group, protocol = "newer", "group.protocol=consumer"
	java := sdk.Start(t, "java member", nil, sdk.Java(t, "consume", bootstrap(), topic, group, protocol)...)
	program, env := sdk.Python(t, "confluent_client.py", "consume", bootstrap(), topic, group, protocol)
	confluent := sdk.Start(t, "confluent-kafka member", env, program...)
	sdk.Until(t, "a share of the partitions for both", func() bool {
		return len(java.Assigned()) == 3 && len(confluent.Assigned()) == 3
	}, java, confluent)
	require.Contains(t, shared.MustBraid(t, "", "group", "describe", group), "kafka-consumer")
	tool := func(args ...string) string {
		args = append([]string{"--bootstrap-server", bootstrap(), "--describe", "--group", group}, args...)
		return output(t, "", sdk.KafkaTool(t, "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", args...)...)
	}
	require.Regexp(t, `uniform +Stable +2`, strings.Join(strings.Fields(tool("--state")), "  "))
	require.Contains(t, tool("--members", "--verbose"), topic+":")
	coordinator := coordinatorOf(t, group)
	stays := shared.Gateways[0]
	if stays == coordinator {
		stays = shared.Gateways[1]
	}
	member := subscribe(t, stays.URL(), group, topic)
	sdk.Until(t, "a share of the partitions for each member", func() bool {
		return len(java.Assigned()) == 2 && len(confluent.Assigned()) == 2 && member.partitions() == 2
	}, java, confluent)

	producer, err := kgo.NewClient(kgo.SeedBrokers(bootstrap()), kgo.DefaultProduceTopic(topic))
	require.NoError(t, err)
	t.Cleanup(producer.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var want []sdk.Record
	produce := func(count int) {
		batch := records("newer", len(want), count, 31)
		require.NoError(t, producer.ProduceSync(ctx, batch...).FirstErr())
		for _, r := range batch {
			want = append(want, sdk.Record{Key: string(r.Key), Value: string(r.Value)})
		}
	}
	all := func() []sdk.Record {
		got := append(java.Records("record"), confluent.Records("record")...)
		return append(got, member.records()...)
	}
	read := func(what string, clients ...*sdk.Client) {
		t.Helper()
		sdk.Until(t, what, func() bool { return len(all()) >= len(want) }, clients...)
		requireOnce(t, want, all())
	}

	produce(600)
	read("all records of three members", java, confluent)
	revoked := func() int { return len(java.Has("revoked")) + len(confluent.Has("revoked")) }
	before := revoked()
	coordinator.Kill()
	produce(600)
	read("all records after the coordinator was killed", java, confluent)
	require.NoError(t, coordinator.Start())
	produce(300)
	read("all records after the gateway came back", java, confluent)
	require.Equal(t, before, revoked(), "nobody gave anything up")
	require.Equal(t, 2, member.partitions())

	java.Stop()
	sdk.Until(t, "the partitions of the member that left", func() bool {
		return len(confluent.Assigned())+member.partitions() == partitions
	}, confluent)
	produce(300)
	read("all records of two members", confluent)
	confluent.Stop()
	require.Eventually(t, func() bool { return member.partitions() == partitions }, 30*time.Second, 50*time.Millisecond)
	member.leave()
	requireCommitted(t, group, topic, int64(len(want)))
}

// testOffsetsAfterMove has the coordinator move between a librdkafka consumer's
// SyncGroup and its OffsetFetch. It asks the former coordinator, and only once: told
// NOT_COORDINATOR, it would read nothing any more.
func testOffsetsAfterMove(t *testing.T) {
	topic := newTopic(t)
	stays, moves := shared.Gateways[0], shared.Gateways[1]
	client, err := kgo.NewClient(kgo.SeedBrokers(stays.Kafka), kgo.DefaultProduceTopic(topic))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	coordinates := func(group string) string {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.CoordinatorKey, req.CoordinatorKeys = group, []string{group}
		resp, err := client.SeedBrokers()[0].Request(t.Context(), req)
		require.NoError(t, err)
		c := resp.(*kmsg.FindCoordinatorResponse).Coordinators[0]
		return net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
	}
	group := "moved"
	for i := 0; coordinates(group) != moves.Kafka; i++ {
		group = fmt.Sprint("moved-", i)
	}
	moves.Kill()
	require.Eventually(t, func() bool { return coordinates(group) == stays.Kafka }, 30*time.Second, 20*time.Millisecond)
	batch := records("moved", 0, 60, 7)
	require.NoError(t, client.ProduceSync(t.Context(), batch...).FirstErr())

	program, env := sdk.Python(t, "confluent_client.py", "hesitate", bootstrap(), topic, group, "heartbeat.interval.ms=40000") // no heartbeat tells it meanwhile
	consumer := sdk.Start(t, "confluent-kafka member", env, program...)
	sdk.Until(t, "its assignment", func() bool { return len(consumer.Assigned()) == partitions }, consumer)
	require.NoError(t, moves.Start())
	require.Eventually(t, func() bool { return coordinates(group) == moves.Kafka }, 30*time.Second, 20*time.Millisecond)
	consumer.Say("go")
	sdk.Until(t, "all records", func() bool { return len(consumer.Records("record")) >= len(batch) }, consumer)
	consumer.Stop()
	requireCommitted(t, group, topic, int64(len(batch)))
}

// coordinatorOf is the gateway that coordinates a group.
func coordinatorOf(t *testing.T, group string) *world.Node {
	t.Helper()
	var d struct{ Coordinator string }
	out := shared.MustBraid(t, "", "group", "describe", group, "-o", "json")
	require.NoError(t, json.Unmarshal([]byte(out), &d), out)
	return shared.Gateway(d.Coordinator)
}
