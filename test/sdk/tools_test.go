//go:build real

package sdk_test

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/test/realparts"
	"github.com/braidmq/braid/test/sdk"
)

// output runs a command to its end and returns what it printed.
func output(t *testing.T, stdin string, command ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = time.Second
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	require.NoError(t, cmd.Run(), "%s\n%s%s", strings.Join(command, " "), &out, &errs)
	return out.String()
}

func tool(t *testing.T, class string, args ...string) []string {
	t.Helper()
	return sdk.KafkaTool(t, "org.apache.kafka.tools."+class, append([]string{"--bootstrap-server", bootstrap()}, args...)...)
}

// testKafkaTools runs Apache Kafka's own tools.
func testKafkaTools(t *testing.T) {
	for _, s := range []sdkTest{
		{"console", testConsole},
		{"admin", testAdminTools},
		{"topics", testTopicTool},
		{"group configs", testGroupConfigs},
		{"access", testAccessTools},
		{"verifiable", testVerifiable},
		{"performance", testPerformance},
		{"compatibility", testCompatibility},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.run(t)
		})
	}
}

func testTopicTool(t *testing.T) {
	output(t, "", tool(t, "TopicCommand", "--create", "--topic", "tools-topic", "--partitions", "3", "--config", "retention.ms=3600000")...)
	require.Contains(t, output(t, "", tool(t, "TopicCommand", "--list")...), "tools-topic\n")
	described := output(t, "", tool(t, "TopicCommand", "--describe", "--topic", "tools-topic")...)
	require.Contains(t, described, "PartitionCount: 3")
	require.Contains(t, described, "retention.ms=3600000")
	output(t, "", tool(t, "TopicCommand", "--alter", "--topic", "tools-topic", "--partitions", "5")...)
	require.Contains(t, output(t, "", tool(t, "TopicCommand", "--describe", "--topic", "tools-topic")...), "PartitionCount: 5")
	output(t, "", tool(t, "TopicCommand", "--delete", "--topic", "tools-topic")...)
	require.NotContains(t, output(t, "", tool(t, "TopicCommand", "--list")...), "tools-topic")
}

func testConsole(t *testing.T) {
	topic := newTopic(t)
	output(t, "k1:hello\nk2:world\nk1:again\n", tool(t, "ConsoleProducer", "--topic", topic, "--reader-property", "parse.key=true", "--reader-property", "key.separator=:")...)
	read := output(t, "", tool(t, "consumer.ConsoleConsumer", "--topic", topic, "--from-beginning", "--max-messages", "3", "--timeout-ms", "30000",
		"--group", "console", "--formatter-property", "print.key=true", "--formatter-property", "key.separator=:")...)
	lines := strings.Fields(read)
	require.ElementsMatch(t, []string{"k1:hello", "k2:world", "k1:again"}, lines)
	require.Less(t, slices.Index(lines, "k1:hello"), slices.Index(lines, "k1:again"))

	offsets := output(t, "", tool(t, "GetOffsetShell", "--topic", topic, "--time", "latest")...)
	require.Equal(t, 3, sumOfLastFields(t, offsets))
	require.Len(t, strings.Fields(offsets), partitions)
	require.Equal(t, 0, sumOfLastFields(t, output(t, "", tool(t, "GetOffsetShell", "--topic", topic, "--time", "earliest")...)))

	group := "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
	groups := func(args ...string) string {
		return output(t, "", sdk.KafkaTool(t, group, append([]string{"--bootstrap-server", bootstrap()}, args...)...)...)
	}
	require.Contains(t, groups("--list"), "console")
	require.Contains(t, groups("--describe", "--group", "console"), topic)
	groups("--reset-offsets", "--group", "console", "--topic", topic, "--to-earliest", "--execute")
	require.Equal(t, int64(0), committed(t, "console", topic))
	groups("--delete", "--group", "console")
	require.NotContains(t, groups("--list"), "console")
}

func testCompatibility(t *testing.T) {
	output(t, "", tool(t, "TopicCommand", "--create", "--topic", "compat", "--partitions", "1")...)
	result := output(t, "", tool(t, "ClientCompatibilityTest", "--topic", "compat", "--num-cluster-nodes", strconv.Itoa(len(shared.Gateways)),
		"--offsets-for-times-supported", "true", "--cluster-id-supported", "true", "--expect-record-too-large-exception", "false",
		"--create-topics-supported", "true", "--describe-acls-supported", "true", "--describe-configs-supported", "true",
		"--idempotent-producer-supported", "true")...)
	require.Contains(t, result, "SUCCESS")
}

func testPerformance(t *testing.T) {
	topic := newTopic(t)
	report := output(t, "", tool(t, "ProducerPerformance", "--topic", topic, "--num-records", "20000", "--record-size", "200", "--throughput", "-1")...)
	require.Contains(t, report, "20000 records sent")
	report = output(t, "", tool(t, "ConsumerPerformance", "--topic", topic, "--num-records", "20000", "--group", "performance", "--timeout", "30000")...)
	require.NotContains(t, report, "WARNING")
}

func sumOfLastFields(t *testing.T, lines string) int {
	t.Helper()
	sum := 0
	for line := range strings.FieldsSeq(lines) {
		parts := strings.Split(line, ":")
		n, err := strconv.Atoi(parts[len(parts)-1])
		require.NoError(t, err, "%q", line)
		sum += n
	}
	return sum
}

// testVerifiable is ducktape's validate_delivery: what was acknowledged is consumed.
func testVerifiable(t *testing.T) {
	topic := newTopic(t)
	const count = 2000
	produced := output(t, "", tool(t, "VerifiableProducer", "--topic", topic, "--max-messages", strconv.Itoa(count), "--throughput", "1000", "--acks", "-1", "--value-prefix", "1")...)
	acked := make(map[string]bool)
	each(t, produced, func(e map[string]any) {
		require.NotEqual(t, "producer_send_error", e["name"], "%v", e)
		if e["name"] == "producer_send_success" {
			acked[fmt.Sprint(e["value"])] = true
		}
	})
	require.Len(t, acked, count)
	consumed := make(map[string]int)
	read := output(t, "", tool(t, "VerifiableConsumer", "--topic", topic, "--group-id", "verifiable", "--reset-policy", "earliest",
		"--max-messages", strconv.Itoa(count), "--group-protocol", "classic", "--verbose")...)
	each(t, read, func(e map[string]any) {
		if e["name"] == "record_data" {
			consumed[fmt.Sprint(e["value"])]++
		}
	})
	for value := range acked {
		require.Equal(t, 1, consumed[value], "value %s", value)
	}
}

func each(t *testing.T, lines string, f func(map[string]any)) {
	t.Helper()
	for line := range strings.Lines(lines) {
		if strings.HasPrefix(line, "{") {
			var e map[string]any
			require.NoError(t, json.Unmarshal([]byte(line), &e), line)
			f(e)
		}
	}
}

func testKcat(t *testing.T) {
	topic := newTopic(t)
	kcat := realparts.Kcat(t)
	output(t, "k1:one\nk2:two\nk1:three\n", kcat, "-b", bootstrap(), "-t", topic, "-P", "-K", ":")
	read := output(t, "", kcat, "-b", bootstrap(), "-t", topic, "-C", "-o", "beginning", "-e", "-q", "-K", ":")
	require.ElementsMatch(t, []string{"k1:one", "k2:two", "k1:three"}, strings.Fields(read))
	require.Less(t, strings.Index(read, "k1:one"), strings.Index(read, "k1:three"))

	group := sdk.Start(t, "kcat -G", nil, kcat, "-b", bootstrap(), "-X", "auto.offset.reset=earliest", "-f", `record\t%p\t%o\t%k\t%s\n`, "-u", "-G", "kcat", topic)
	sdk.Until(t, "three records", func() bool { return len(group.Records("record")) == 3 }, group)

	var listing struct {
		Brokers []struct{ Name string }
		Topics  []struct {
			Topic      string
			Partitions []struct{ Leader int }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(output(t, "", kcat, "-b", bootstrap(), "-L", "-J", "-t", topic)), &listing))
	require.Len(t, listing.Topics, 1)
	require.Len(t, listing.Topics[0].Partitions, partitions)
	for _, b := range listing.Brokers {
		for _, c := range shared.Clusters {
			require.NotContains(t, c.Seeds, b.Name)
		}
	}
}

// testBufCurl needs no schema: the gateway has reflection.
func testBufCurl(t *testing.T) {
	topic := newTopic(t)
	buf := sdk.Buf(t)
	for _, protocol := range []string{"connect", "grpc", "grpcweb"} {
		call := func(method, body string) string {
			return output(t, "", buf, "curl", "--http2-prior-knowledge", "--protocol", protocol, "-d", body, shared.API()+"/"+method)
		}
		ack := call("braid.v1.ProducerService/ProduceBatch", `{"batch":{"topic":"`+topic+`","records":[{"keyText":"k","valueText":"by `+protocol+`"}]}}`)
		require.Contains(t, ack, `"results"`)
		require.NotContains(t, ack, `"failure"`)
		read := call("braid.v1.ConsumerService/Read", `{"sources":[{"topic":"`+topic+`","start":{"earliest":true}}],"stop":{"latestAtStart":true},"delivery":{"textView":true}}`)
		require.Contains(t, read, `"valueText": "by `+protocol+`"`)
		require.Contains(t, read, `"closed"`)
	}
	services := output(t, "", buf, "curl", "--http2-prior-knowledge", "--list-services", shared.API())
	for _, s := range []string{"braid.v1.ProducerService", "braid.v1.ConsumerService", "braid.admin.v1.TopicService", "braid.naming.v1.NameService"} {
		require.Contains(t, services, s)
	}
	require.NotContains(t, services, "braid.control", "what is internal is not shown to clients")
}
