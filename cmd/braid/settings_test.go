package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// probe is a command with a flag of each kind that braid uses.
type probe struct {
	cmd   *cobra.Command
	text  string
	count int32
	wait  time.Duration
	on    bool
	list  []string // of plain values
	array []string // of values that can hold commas
}

func newProbe() *probe {
	p := &probe{cmd: &cobra.Command{Use: "probe", RunE: func(*cobra.Command, []string) error { return nil }}}
	f := p.cmd.Flags()
	f.String("config", "", "")
	f.StringVar(&p.text, "kafka-listen", "default", "")
	f.Int32Var(&p.count, "gateways", 1, "")
	f.DurationVar(&p.wait, "stop-timeout", time.Second, "")
	f.BoolVar(&p.on, "quiet", false, "")
	f.StringSliceVar(&p.list, "seeds", nil, "")
	f.StringArrayVar(&p.array, "cluster", nil, "")
	return p
}

// apply runs the mechanism as a command line would.
func (p *probe) apply(t *testing.T, env map[string]string, file string, args ...string) error {
	t.Helper()
	if file != "" {
		path := filepath.Join(t.TempDir(), "braid.yaml")
		require.NoError(t, os.WriteFile(path, []byte(file), 0o600))
		args = append(args, "--config", path)
	}
	require.NoError(t, p.cmd.ParseFlags(args))
	return applySettings(p.cmd, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
}

func TestFlagGoesBeforeVariableBeforeFileBeforeDefault(t *testing.T) {
	env := map[string]string{"BRAID_KAFKA_LISTEN": "variable"}
	file := "kafka-listen: file\n"
	for _, test := range []struct {
		name string
		env  map[string]string
		file string
		args []string
		want string
	}{
		{"all", env, file, []string{"--kafka-listen", "flag"}, "flag"},
		{"variable and file", env, file, nil, "variable"},
		{"file", nil, file, nil, "file"},
		{"none", nil, "", nil, "default"},
		{"empty variable", map[string]string{"BRAID_KAFKA_LISTEN": ""}, file, nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newProbe()
			require.NoError(t, p.apply(t, test.env, test.file, test.args...))
			require.Equal(t, test.want, p.text)
		})
	}
}

func TestEveryKindOfFlagComesFromAFile(t *testing.T) {
	p := newProbe()
	require.NoError(t, p.apply(t, nil, `
# a comment
gateways: 3
stop-timeout: 1m30s
quiet: true
seeds: [one:1, two:2]
cluster:
  - a=h:1,h:2
  - b=h:3
`))
	require.EqualValues(t, 3, p.count)
	require.Equal(t, 90*time.Second, p.wait)
	require.True(t, p.on)
	require.Equal(t, []string{"one:1", "two:2"}, p.list)
	require.Equal(t, []string{"a=h:1,h:2", "b=h:3"}, p.array)

	p = newProbe()
	require.NoError(t, p.apply(t, nil, "cluster: {a: [h:1, h:2], b: h:3}\n"))
	require.Equal(t, []string{"a=h:1,h:2", "b=h:3"}, p.array)
}

func TestEveryKindOfFlagComesFromAVariable(t *testing.T) {
	p := newProbe()
	require.NoError(t, p.apply(t, map[string]string{
		"BRAID_GATEWAYS": "3", "BRAID_STOP_TIMEOUT": "90s", "BRAID_QUIET": "true", "BRAID_SEEDS": "one:1,two:2", "BRAID_CLUSTER": "a=h:1,h:2;b=h:3",
	}, ""))
	require.EqualValues(t, 3, p.count)
	require.Equal(t, 90*time.Second, p.wait)
	require.True(t, p.on)
	require.Equal(t, []string{"one:1", "two:2"}, p.list)
	require.Equal(t, []string{"a=h:1,h:2", "b=h:3"}, p.array)
}

func TestWrongSettingsSayWhereTheyAre(t *testing.T) {
	for _, test := range []struct{ name, file, want string }{
		{"not a number", "gateways: many", "braid.yaml:1: invalid argument \"many\" for \"--gateways\" flag"},
		{"unknown key", "quiet: true\nkafka_listn: x", "braid.yaml:2: unknown key \"kafka_listn\"; did you mean \"kafka-listen\"?"},
		{"list for one", "kafka-listen: [a, b]", "kafka-listen takes one value, not 2"},
		{"not YAML", "a: [", "braid.yaml"},
		{"not a mapping", "- a\n- b", "braid.yaml:1: want `key: value` lines"},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.ErrorContains(t, newProbe().apply(t, nil, test.file), test.want)
		})
	}
	require.ErrorContains(t, newProbe().apply(t, map[string]string{"BRAID_GATEWAYS": "x"}, ""), "BRAID_GATEWAYS: ")
	require.ErrorContains(t, newProbe().apply(t, map[string]string{"BRAID_CONFIG": "/nowhere.yaml"}, ""), "/nowhere.yaml")
}

// TestOneFileServesAllRoles gives each role a file with keys of others.
func TestOneFileServesAllRoles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "braid.yaml")
	require.NoError(t, os.WriteFile(path, []byte("bootstrap-listen: 127.0.0.1:1\nkafka-listen: 127.0.0.1:2\nleader-lease: 1s\ngateway-lease: 2s\napi: http://h:1\n"), 0o600))
	for _, args := range [][]string{{"gateway"}, {"controller"}, {"nameserver"}} {
		_, stderr, code := braid(t.Context(), map[string]string{"BRAID_CONFIG": path}, "", args...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, stderr, "needs Redis", "the file was taken, and the next thing is missing")
	}
	// Where --config is the topic's, the variable names the file.
	_, stderr, code := braid(t.Context(), map[string]string{"BRAID_CONFIG": path}, "", "topic", "create", "t", "--partitions", "1", "--config", "k=v")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "http://h:1")
}

func TestNoTwoFlagsShareAVariable(t *testing.T) {
	root, _ := newRoot(world{})
	walk(root, func(cmd *cobra.Command) {
		seen := make(map[string]string)
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			require.Empty(t, seen[envName(f.Name)], "%s and %s", f.Name, seen[envName(f.Name)])
			seen[envName(f.Name)] = f.Name
			require.NotEmpty(t, f.Usage, "--%s of %s says nothing", f.Name, cmd.CommandPath())
			require.Equal(t, strings.ToLower(f.Name), f.Name)
		})
	})
}

const docFile = "../../docs/configuration.md"

// TestConfigurationDoc compares docs/configuration.md with the flags.
func TestConfigurationDoc(t *testing.T) {
	root, _ := newRoot(world{})
	want := configurationDoc(root)
	if flag.Lookup("rewrite").Value.String() == "true" {
		require.NoError(t, os.WriteFile(docFile, []byte(want), 0o644))
	}
	have, err := os.ReadFile(docFile)
	require.NoError(t, err)
	require.Equal(t, want, string(have), "docs/configuration.md is not up to date: run this test with -rewrite")
}

func TestCompletionForAllShells(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		stdout, stderr, code := braid(t.Context(), nil, "", "completion", shell)
		require.Zero(t, code, stderr)
		require.Contains(t, stdout, "braid")
	}
}
