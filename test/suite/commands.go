package suite

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

func (s *suite) commands() []test {
	return []test{
		{"status", s.testStatus},
		{"topics", s.testTopicCommands},
		{"groups", s.testGroupCommands},
		{"clusters and operations", s.testClusterCommands},
		{"errors and exit codes", s.testCommandErrors},
	}
}

func (s *suite) testStatus(t *testing.T) {
	table := s.w.MustBraid(t, "", "status")
	for _, g := range s.w.Gateways {
		require.Contains(t, table, g.ID)
	}
	var status struct {
		Clusters, Gateways, Controllers []map[string]any
		MapVersion                      string
	}
	out := s.w.MustBraid(t, "", "status", "-o", "json")
	require.NoError(t, json.Unmarshal([]byte(out), &status), out)
	require.Len(t, status.Clusters, len(s.w.Clusters))
	require.Len(t, status.Gateways, len(s.w.Gateways))
	require.Len(t, status.Controllers, len(s.w.Controllers))
	leaders := 0
	for _, c := range status.Controllers {
		if c["leader"] == true {
			leaders++
		}
	}
	require.Equal(t, 1, leaders)
}

func (s *suite) testTopicCommands(t *testing.T) {
	topic := name(t)
	s.w.MustBraid(t, "", "topic", "create", topic, "--partitions", "4", "--config", "retention.ms=60000")
	require.Contains(t, s.w.MustBraid(t, "", "topic", "list"), topic)
	require.Contains(t, s.w.MustBraid(t, "", "topic", "config", topic), "60000")
	s.w.MustBraid(t, "", "topic", "config", topic, "retention.ms=120000")
	require.Contains(t, s.w.MustBraid(t, "", "topic", "config", topic), "120000")
	s.w.MustBraid(t, "k1:hello\nk2:world\nk1:again\n", "produce", topic, "-k", ":")
	lines := strings.Fields(s.w.MustBraid(t, "", "consume", topic, "--from", "earliest", "-n", "3", "-k", ":"))
	require.ElementsMatch(t, []string{"k1:hello", "k2:world", "k1:again"}, lines)
	require.Len(t, s.read(t, topic, 3), 3, "Kafka clients see what the command wrote")
	s.w.MustBraid(t, "", "topic", "grow", topic, "--partitions", "6")
	require.Len(t, s.describe(t, topic).Partitions, 6)
	only := s.w.Clusters[0].Name
	s.w.MustBraid(t, "", "topic", "create", topic+"-one", "--partitions", "4", "--clusters", only)
	for _, p := range s.describe(t, topic+"-one").Partitions {
		require.Equal(t, only, p.Extents[0].PhysicalCluster)
	}
	s.w.MustBraid(t, "", "topic", "delete", topic)
	require.NotContains(t, strings.Fields(s.w.MustBraid(t, "", "topic", "list")), topic)
}

func (s *suite) testGroupCommands(t *testing.T) {
	topic, group := s.topic(t, 2), name(t)
	s.fill(t, topic, 0, 20)
	got := strings.Fields(s.w.MustBraid(t, "", "consume", topic, "-g", group, "--from", "earliest", "-n", "20"))
	require.Len(t, got, 20)
	require.Contains(t, s.w.MustBraid(t, "", "group", "list"), group)
	lag := func() (sum int64) {
		var d struct {
			Lag []struct{ Lag, Committed json.Number }
		}
		out := s.w.MustBraid(t, "", "group", "describe", group, "-o", "json")
		require.NoError(t, json.Unmarshal([]byte(out), &d), out)
		for _, l := range d.Lag {
			if l.Lag != "" {
				n, err := l.Lag.Int64()
				require.NoError(t, err)
				sum += n
			}
		}
		return sum
	}
	require.Zero(t, lag())
	s.w.MustBraid(t, "", "group", "reset", group, "--to", "earliest")
	require.Equal(t, int64(20), lag())
	s.w.MustBraid(t, "", "group", "reset", group, "--to", "+3", "--topic", topic)
	require.Equal(t, int64(14), lag())
	s.w.MustBraid(t, "", "group", "reset", group, "--to", "latest")
	require.Zero(t, lag())
	s.w.MustBraid(t, "", "group", "delete", group)
	require.NotContains(t, strings.Fields(s.w.MustBraid(t, "", "group", "list")), group)
}

func (s *suite) testClusterCommands(t *testing.T) {
	table := s.w.MustBraid(t, "", "cluster", "list")
	for _, c := range s.w.Clusters {
		require.Contains(t, table, c.Name)
		require.Contains(t, s.w.MustBraid(t, "", "cluster", "describe", c.Name, "-o", "yaml"), c.Seeds[0])
	}
	topic := s.topic(t, 1)
	require.Contains(t, s.w.MustBraid(t, "", "operation", "list"), topic)
	_, stderr, err := s.w.Braid(call(t), "", "cluster", "remove", s.w.Clusters[0].Name)
	require.Error(t, err, "a cluster that holds data can't be removed")
	require.Contains(t, stderr, s.w.Clusters[0].Name)
	_, stderr, err = s.w.Braid(call(t), "", "cluster", "add", "nowhere", "--seeds", "127.0.0.1:1")
	require.Error(t, err, "a cluster that does not answer can't be added")
	require.Contains(t, stderr, "nowhere")
	require.NotContains(t, s.w.MustBraid(t, "", "cluster", "list"), "nowhere")
}

func (s *suite) testCommandErrors(t *testing.T) {
	code := func(args ...string) (int, string) {
		_, stderr, err := s.w.Braid(call(t), "", args...)
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, "braid %v", args)
		return exit.ExitCode(), stderr
	}
	status, stderr := code("topic", "describe", "no-such-topic")
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "no-such-topic")
	for _, wrong := range [][]string{{"topic", "create"}, {"topic", "create", "x", "--partitions", "many"}, {"no-such-command"}, {"topic", "list", "-o", "xml"}} {
		status, stderr = code(wrong...)
		require.Equal(t, 2, status, "braid %v: %s", wrong, stderr)
	}
	status, stderr = code("status", "--api", "http://127.0.0.1:1")
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "127.0.0.1:1")
	topic := s.topic(t, 1)
	status, _ = code("topic", "create", topic, "--partitions", "1")
	require.Equal(t, 1, status, "a topic that exists")
	send(t, s.client(t), &kgo.Record{Topic: topic, Value: []byte("v")})
}
