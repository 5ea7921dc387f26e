//go:build real

package sdk_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/test/sdk"
)

// testAdminTools runs the tools that look at brokers, replicas and producers.
func testAdminTools(t *testing.T) {
	topic := newTopic(t)
	output(t, "a\nb\nc\n", tool(t, "ConsoleProducer", "--topic", topic)...)

	dirs := output(t, "", tool(t, "LogDirsCommand", "--describe", "--topic-list", topic)...)
	var described struct {
		Brokers []struct {
			LogDirs []struct {
				LogDir     string
				Error      *string
				Partitions []struct {
					Partition string
					Size      int64
				}
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(dirs[strings.Index(dirs, "{"):]), &described), dirs)
	held, size := make(map[string]bool), int64(0)
	for _, b := range described.Brokers {
		require.Len(t, b.LogDirs, 1)
		require.Nil(t, b.LogDirs[0].Error)
		require.Equal(t, "/braid", b.LogDirs[0].LogDir)
		for _, p := range b.LogDirs[0].Partitions {
			held[p.Partition], size = true, size+p.Size
		}
	}
	require.Len(t, held, partitions)
	require.Positive(t, size)

	elected := output(t, "", tool(t, "LeaderElectionCommand", "--election-type", "preferred", "--topic", topic, "--partition", "0")...)
	require.Contains(t, elected, "Valid replica already elected for partitions "+topic+"-0")

	require.Contains(t, output(t, "", tool(t, "reassign.ReassignPartitionsCommand", "--list")...), "No partition reassignments found")
	plan := filepath.Join(t.TempDir(), "plan.json")
	current := output(t, "", tool(t, "TopicCommand", "--describe", "--topic", topic)...)
	replica := strings.Fields(current[strings.Index(current, "Replicas:")+len("Replicas:"):])[0]
	require.NoError(t, os.WriteFile(plan, fmt.Appendf(nil, `{"version":1,"partitions":[{"topic":%q,"partition":0,"replicas":[%s]}]}`, topic, replica), 0o600))
	require.Contains(t, output(t, "", tool(t, "reassign.ReassignPartitionsCommand", "--reassignment-json-file", plan, "--verify")...),
		"Reassignment of partition "+topic+"-0 is completed")

	seen := 0 // the console producer is idempotent, and its records can lie in any partition
	for p := range partitions {
		lines := strings.Split(strings.TrimSpace(output(t, "", tool(t, "TransactionsCommand", "describe-producers", "--topic", topic, "--partition", strconv.Itoa(p))...)), "\n")
		seen += len(lines) - 1
	}
	require.Positive(t, seen)
}

// testGroupConfigs sets a group's session timeout by kafka-configs.sh, looks, and takes it away.
func testGroupConfigs(t *testing.T) {
	const group, setting = "configured-by-tool", "consumer.session.timeout.ms"
	command := func(args ...string) []string {
		return sdk.KafkaTool(t, "kafka.admin.ConfigCommand", append([]string{"--bootstrap-server", bootstrap(), "--entity-type", "groups"}, args...)...)
	}
	named := func(args ...string) []string { return command(append([]string{"--entity-name", group}, args...)...) }
	require.Contains(t, output(t, "", named("--alter", "--add-config", setting+"=50000")...), "Completed updating config for group "+group)
	want := setting + "=50000 sensitive=false synonyms={DYNAMIC_GROUP_CONFIG:" + setting + "=50000, DEFAULT_CONFIG:group." + setting + "=45000}"
	require.Contains(t, output(t, "", named("--describe")...), want)
	require.Contains(t, output(t, "", command("--describe")...), "Dynamic configs for group "+group, "without a name, all that have any")

	refused := named("--alter", "--add-config", setting+"=1")
	text, err := exec.CommandContext(t.Context(), refused[0], refused[1:]...).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(text), setting+" must be greater than or equal to group.consumer.min.session.timeout.ms")

	output(t, "", named("--alter", "--delete-config", setting)...)
	require.NotContains(t, output(t, "", command("--describe")...), group)
}
