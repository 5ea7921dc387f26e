//go:build real

package matrix_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/test/sdk"
)

// tools are the checks that Apache Kafka has of its own.
func (r *trial) tools(t *testing.T, name string) {
	run := func(class string, args ...string) *sdk.Client {
		args = append([]string{"--bootstrap-server", r.bootstrap()}, args...)
		c := sdk.Start(t, class, nil, sdk.KafkaTool(t, "org.apache.kafka.tools."+class, args...)...)
		c.Finish()
		return c
	}
	topic := r.name()
	if name == "ClientCompatibilityTest" {
		r.MustBraid(t, "", "topic", "create", topic, "--partitions", "1")
		c := run(name, "--topic", topic, "--num-cluster-nodes", strconv.Itoa(len(r.Gateways)),
			"--offsets-for-times-supported", "true", "--cluster-id-supported", "true", "--expect-record-too-large-exception", "false",
			"--create-topics-supported", "true", "--describe-acls-supported", "true", "--describe-configs-supported", "true",
			"--idempotent-producer-supported", "true")
		require.NotEmpty(t, c.Has("SUCCESS."))
		return
	}
	const count = 2000
	r.create(t, topic)
	acked, consumed := make(map[string]bool), make(map[string]int)
	produced := run("VerifiableProducer", "--topic", topic, "--max-messages", strconv.Itoa(count), "--throughput", "2000", "--acks", "-1", "--value-prefix", "1")
	for _, e := range events(t, produced) {
		require.NotEqual(t, "producer_send_error", e["name"], "%v", e)
		if e["name"] == "producer_send_success" {
			acked[fmt.Sprint(e["value"])] = true
		}
	}
	require.Len(t, acked, count)
	for _, e := range events(t, run("VerifiableConsumer", "--topic", topic, "--group-id", "of-"+topic, "--reset-policy", "earliest",
		"--max-messages", strconv.Itoa(count), "--group-protocol", name, "--verbose")) {
		if e["name"] == "record_data" {
			consumed[fmt.Sprint(e["value"])]++
		}
	}
	for value := range acked {
		require.Equal(t, 1, consumed[value], "value %s", value)
	}
}

// events are the lines of JSON that a tool printed.
func events(t *testing.T, c *sdk.Client) (all []map[string]any) {
	t.Helper()
	for _, line := range c.Events() {
		if len(line.Kind) > 0 && line.Kind[0] == '{' {
			var e map[string]any
			require.NoError(t, json.Unmarshal([]byte(line.Kind), &e), line.Kind)
			all = append(all, e)
		}
	}
	return all
}
