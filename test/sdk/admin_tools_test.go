//go:build real

package sdk_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
