package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/process"
)

// sources are where the configurations of the parts are.
var sources = map[string]string{
	"kafka": "kafkacompat/config.go", "connect": "gateway/config.go", "names": "nameserver/nameserver.go", "groups": "gateway/groups/config.go",
	"router": "gateway/router/config.go", "upstream": "internal/upstream/upstream.go", "map": "gateway/mapwatch/config.go", "controller": "controller/config.go",
}

// fieldDocs returns the comments of the fields of a file's Config; fields without one share
// that of the field before.
func fieldDocs(t *testing.T, path string) map[string]string {
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "..", path), nil, parser.ParseComments)
	require.NoError(t, err)
	docs := make(map[string]string)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != "Config" {
			return true
		}
		doc := ""
		for _, f := range spec.Type.(*ast.StructType).Fields.List {
			if f.Doc != nil {
				doc = strings.Join(strings.Fields(f.Doc.Text()), " ")
			}
			for _, name := range f.Names {
				docs[name.Name] = doc
			}
		}
		return false
	})
	return docs
}

// limitsDoc is the list of limits in docs/limits.md.
func limitsDoc(t *testing.T) string {
	root, _ := newRoot(world{})
	var flags []string // of those that have one
	for _, role := range []string{"gateway", "controller", "nameserver"} {
		cmd, _, err := root.Find([]string{role})
		require.NoError(t, err)
		flags = append(flags, strings.Fields(cmd.Annotations[flaggedLimits])...)
	}
	require.Contains(t, flags, "connect.calls-max")
	var out strings.Builder
	out.WriteString(`# Limits

<!-- Made from the code by ` + "`go test ./cmd/braid -run TestLimitsDoc -rewrite`" + `; do not edit. -->

Every bound and wait of braid that has no flag of its own can be set by
` + "`--limit NAME=VALUE`" + `, which may be given more than once, by ` + "`BRAID_LIMIT`" + ` (separated by
semicolons), or in the configuration file:

` + "```yaml\nlimit:\n  kafka.idle-timeout: 30m\n  router.tail-bytes-max: 64MiB\n```" + `

The defaults are sane: change one only for a reason. A role passes over those of parts that
it has not, so that one file serves all. Numbers of bytes may end in KiB, MiB or GiB. Those
with a flag are in [configuration.md](configuration.md). What a gateway with a
` + "`--memory-limit`" + ` may hold is less than what stands here, see
[operations.md](operations.md#sizing-and-settings).
`)
	docs := make(map[string]map[string]string)
	part := ""
	for _, l := range limitsOf(&process.Config{}) {
		if slices.Contains(flags, l.name) {
			continue
		}
		if l.of.name != part {
			part = l.of.name
			docs[part] = fieldDocs(t, sources[part])
			fmt.Fprintf(&out, "\n## %s\n\n%s.\n\n| limit | type | what it bounds |\n| --- | --- | --- |\n", part, l.of.about)
		}
		require.NotEmpty(t, docs[part][l.field], l.name)
		fmt.Fprintf(&out, "| `%s` | %s | %s |\n", l.name, l.value.Type(), strings.ReplaceAll(docs[part][l.field], "|", "\\|"))
	}
	return out.String()
}

const limitsFile = "../../docs/limits.md"

// TestLimitsDoc compares docs/limits.md with the configurations.
func TestLimitsDoc(t *testing.T) {
	want := limitsDoc(t)
	if flag.Lookup("rewrite").Value.String() == "true" {
		require.NoError(t, os.WriteFile(limitsFile, []byte(want), 0o644))
	}
	have, err := os.ReadFile(limitsFile)
	require.NoError(t, err)
	require.Equal(t, want, string(have), "docs/limits.md is not up to date: run this test with -rewrite")
}

func TestLimits(t *testing.T) {
	apply := func(role process.Role, given ...string) (process.Config, error) {
		s := serving{limited: given, flagged: map[string]string{"connect.calls-max": "calls-max"}}
		c := process.Config{Role: role}
		return c, s.applyLimits(&c)
	}
	c, err := apply(process.Gateway, "kafka.idle-timeout=30m", "router.tail-bytes-max=64MiB", "router.fetch-bytes-max=1048576", "groups.revoke-wait-max=-1s", "controller.step-timeout=1s")
	require.NoError(t, err)
	require.Equal(t, 30*time.Minute, c.Kafka.IdleTimeout)
	require.Equal(t, 64<<20, c.Router.TailBytesMax)
	require.EqualValues(t, 1<<20, c.Router.FetchBytesMax)
	require.Equal(t, -time.Second, c.Groups.RevokeWaitMax)
	require.Zero(t, c.Controller.StepTimeout, "it is another role's")

	for given, text := range map[string]string{
		"kafka.idle-timeot=1s":                   `there is no limit "kafka.idle-timeot"; did you mean`,
		"kafka.gateway-id=x":                     "there is no limit",
		"kafka.idle-timeout":                     "want a duration",
		"kafka.idle-timeout=30":                  "want a duration",
		"kafka.idle-timeout=0s":                  "0 stands for the default",
		"router.lanes=many":                      "want a whole number",
		"router.fetch-bytes-max=4GiB":            "want a whole number",
		"router.tail-bytes-max=9999999999999GiB": "want a whole number",
		"connect.calls-max=3":                    "this one has a flag, --calls-max",
		"kafka.default-partitions=3":             "there is no limit",
	} {
		_, err := apply(process.Gateway, given)
		require.ErrorContains(t, err, text, given)
	}
	_, _, code := braid(t.Context(), nil, "", "gateway", "--limit", "no.such=1")
	require.Equal(t, exitUsage, code)
}

func TestLimitNames(t *testing.T) {
	names := namesOf(limitsOf(&process.Config{}))
	require.Greater(t, len(names), 100)
	require.Equal(t, slices.Sorted(slices.Values(names)), slices.Compact(slices.Sorted(slices.Values(names))), "each is there once")
	for field, name := range map[string]string{"TTL": "ttl", "ACLsMax": "acls-max", "FetchBytesMax": "fetch-bytes-max", "LeaseTTL": "lease-ttl", "SNI": "sni", "TTLMax": "ttl-max"} {
		require.Equal(t, name, kebab(field))
	}
}
