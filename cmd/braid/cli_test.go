package main

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/embedded"
)

// braid runs one command line as main does.
func braid(ctx context.Context, env map[string]string, stdin string, args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	code = run(ctx, world{
		args: args, stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs,
		env: func(k string) (string, bool) { v, ok := env[k]; return v, ok },
	})
	return out.String(), errs.String(), code
}

// What differs from run to run.
var volatile = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "HOST:PORT"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UUID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`\b\d+(\.\d+)?ms\b`), "DURATION"},
	{regexp.MustCompile(`"timestampMs":\d+`), `"timestampMs":MS`},
	{regexp.MustCompile(`(Map version: +|map version )\d+`), "${1}N"},
	{regexp.MustCompile(`("?(?:mapVersion|etag)"?: )"?[\w-]+"?`), "${1}N"},
	{regexp.MustCompile(` +\n`), "\n"},
	{regexp.MustCompile(`(\S)  +`), "$1  "},
	// Steps that are half done are seen or not.
	{regexp.MustCompile(`(?m)^[a-z]+-topic: [a-z]+ 1/[2-9].*\n`), ""},
	{regexp.MustCompile(`(gateway-\d  )\d+`), "${1}N"},
	{regexp.MustCompile(`(HOST:PORT  HOST:PORT  )\d+  \d+`), "${1}N  N"},
}

// progressLine is a step of an operation on its way: which of them a watcher gets to
// see is chance.
var progressLine = regexp.MustCompile(`(?m)^[a-z]+-topic: [a-z]+ (\d+)/(\d+).*\n`)

func stable(s string) string {
	s = progressLine.ReplaceAllStringFunc(s, func(line string) string {
		if n := progressLine.FindStringSubmatch(line); n[1] != n[2] {
			return ""
		}
		return line
	})
	for _, v := range volatile {
		s = v.pattern.ReplaceAllString(s, v.instead)
	}
	return s
}

// words splits a command line; quotes hold words together.
func words(t *testing.T, line string) []string {
	t.Helper()
	var all []string
	var word strings.Builder
	quote, started := rune(0), false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, started = r, true
		case r == ' ':
			if started || word.Len() > 0 {
				all = append(all, word.String())
			}
			word.Reset()
			started = false
		default:
			word.WriteRune(r)
		}
	}
	require.Zero(t, quote, "open quote in %q", line)
	if started || word.Len() > 0 {
		all = append(all, word.String())
	}
	return all
}

// TestCommandLine runs the scripts in testdata/cli, each on a federation of its
// own. The first line after `braid` is the command line, further lines are its
// stdin. Run with -rewrite to write what comes out into the scripts, and review
// the difference.
func TestCommandLine(t *testing.T) {
	datadriven.Walk(t, "testdata/cli", func(t *testing.T, path string) {
		gateways := 1 // so that it is known which one coordinates a group
		if filepath.Base(path) == "clusters" {
			gateways = 2
		}
		f := embedded.New(t, embedded.Options{Gateways: gateways})
		env := map[string]string{"BRAID_API": f.APIURL()}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			require.Equal(t, "braid", d.Cmd, "the only command of a script")
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
			defer cancel()
			line, stdin, _ := strings.Cut(d.Input, "\n")
			stdout, stderr, code := braid(ctx, env, stdin, words(t, line)...)
			var out strings.Builder
			out.WriteString(stable(stdout))
			if stderr != "" {
				fmt.Fprintf(&out, "(stderr)\n%s", stable(stderr))
			}
			if code != 0 {
				fmt.Fprintf(&out, "(exit code %d)\n", code)
			}
			return out.String()
		})
	})
}

func TestUnreachableAPISaysWhatToDo(t *testing.T) {
	_, stderr, code := braid(t.Context(), map[string]string{"BRAID_API": "http://127.0.0.1:1"}, "", "topic", "list")
	require.Equal(t, exitFailed, code)
	require.Equal(t, "error: the braid API at http://127.0.0.1:1 cannot be reached: connect: connection refused; "+
		"start one with \"braid dev\", or name another with --api or BRAID_API\n", stderr)
}

func TestConsumersEndWhenInterrupted(t *testing.T) {
	f := embedded.New(t, embedded.Options{})
	env := map[string]string{"BRAID_API": f.APIURL()}
	_, stderr, code := braid(t.Context(), env, "", "topic", "create", "orders", "--partitions", "2")
	require.Zero(t, code, stderr)
	_, stderr, code = braid(t.Context(), env, "a\nb\n", "produce", "orders")
	require.Zero(t, code, stderr)
	for _, args := range [][]string{{}, {"-g", "readers"}} {
		ctx, cancel := context.WithCancel(t.Context())
		out := &notify{want: "b\n", seen: make(chan struct{})}
		done := make(chan int)
		go func() {
			done <- run(ctx, world{
				args:  append([]string{"consume", "orders", "--from", "earliest"}, args...),
				stdin: strings.NewReader(""), stdout: out, stderr: &bytes.Buffer{},
				env: func(k string) (string, bool) { v, ok := env[k]; return v, ok },
			})
		}()
		<-out.seen
		cancel()
		select {
		case code := <-done:
			require.Zero(t, code)
		case <-time.After(20 * time.Second):
			t.Fatal("it does not end")
		}
	}
	// The member left, with what it had read committed.
	stdout, _, code := braid(t.Context(), env, "", "group", "describe", "readers")
	require.Zero(t, code)
	require.Contains(t, stdout, "Empty")
	require.NotContains(t, stdout, "MEMBER")
	require.Regexp(t, `orders +\d +2 +2 +0`, stdout)
}

// notify closes seen when want was written to it.
type notify struct {
	text strings.Builder
	want string
	seen chan struct{}
}

func (n *notify) Write(b []byte) (int, error) {
	before := strings.Contains(n.text.String(), n.want)
	n.text.Write(b)
	if !before && strings.Contains(n.text.String(), n.want) {
		close(n.seen)
	}
	return len(b), nil
}
