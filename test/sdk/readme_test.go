//go:build real

package sdk_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/test/realparts"
	"github.com/braidmq/braid/test/sdk"
	"github.com/braidmq/braid/test/world"
)

// A readme runs what README.md shows, as it stands but for addresses.
type readme struct {
	snippets map[string][]sdk.Snippet // by language
	tools    string                   // goes before PATH
	places   []string                 // addresses of README.md, each before the one here
	env      []string
}

// testReadme follows README.md from its top: `braid dev` is the federation that the
// snippets talk to.
func testReadme(t *testing.T) {
	r := &readme{snippets: make(map[string][]sdk.Snippet)}
	counts := make(map[string]int)
	for _, s := range sdk.Readme(t) {
		r.snippets[s.Language] = append(r.snippets[s.Language], s)
		counts[s.Language]++
	}
	// Who changes these numbers changes what is run here, too.
	require.Equal(t, map[string]int{"sh": 4, "console": 2, "java": 1, "go": 1, "ts": 1, "python": 1}, counts)
	tools := []string{filepath.Dir(world.Binary(t)), filepath.Dir(sdk.Buf(t)), filepath.Dir(realparts.Kcat(t))}
	r.tools = strings.Join(tools, string(os.PathListSeparator)) + string(os.PathListSeparator)

	r.twoCommands(t)
	for _, step := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"quick start", r.quickStart},
		{"java", r.java},
		{"shell", r.shell},
		{"go", r.goClient},
		{"typescript", r.typeScript},
		{"python", r.python},
		{"adding a cluster live", r.addCluster},
		{"real parts", r.realParts},
		{"processes", r.processes},
	} {
		if !t.Run(step.name, step.run) {
			t.FailNow() // the next ones read what this one wrote
		}
	}
}

// at says where an address of README.md is here.
func (r *readme) at(address, here string) { r.places = append(r.places, address, here) }

func (r *readme) here(text string) string { return strings.NewReplacer(r.places...).Replace(text) }

// command is a line of the shell.
func (r *readme) command(line string, env ...string) []string {
	all := append([]string{"env", "PATH=" + r.tools + os.Getenv("PATH")}, r.env...)
	return append(append(all, env...), "bash", "-o", "pipefail", "-c", r.here(line))
}

// run runs a command to its good end, and returns all that it printed.
func run(t *testing.T, command ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = realparts.Root()
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", strings.Join(command, " "), out)
	return string(out)
}

// start starts a command that goes on, and returns what it printed when that ends
// with a text.
func start(t *testing.T, name, end string, command ...string) string {
	t.Helper()
	p, err := realparts.StartProcess(t, name, t.TempDir(), append([]string{"env", "-C", realparts.Root()}, command...)...)
	require.NoError(t, err)
	require.NoError(t, p.Ready(func() error {
		if !strings.HasSuffix(p.Tail(), end) {
			return fmt.Errorf("%s has not printed %q", name, end)
		}
		return nil
	}))
	return p.Tail()
}

// elsewhere is for a federation of its own.
func (r *readme) elsewhere() *readme { return &readme{snippets: r.snippets, tools: r.tools} }

// dev starts a `braid dev` where nobody listens, and returns what it printed.
func (r *readme) dev(t *testing.T, line string, env ...string) string {
	t.Helper()
	for _, listener := range [][2]string{{"LISTEN", "8080"}, {"KAFKA_LISTEN", "9092"}, {"BOOTSTRAP_LISTEN", "9093"}, {"OPS_LISTEN", "9464"}} {
		address := realparts.FreeAddress(t)
		r.at("127.0.0.1:"+listener[1], address)
		r.env = append(r.env, "BRAID_"+listener[0]+"="+address)
	}
	r.env = append(r.env, "BRAID_API=http://"+r.here("127.0.0.1:8080"))
	return start(t, "dev", "Ctrl-C ends it.", r.command("exec "+line, env...)...)
}

// twoCommands starts the federation of all that follows.
func (r *readme) twoCommands(t *testing.T) {
	t.Helper()
	commands := r.snippets["sh"][0].Commands()
	require.Len(t, commands, 2)
	// What go runs dies with it.
	printed := r.dev(t, commands[0], "GOFLAGS="+os.Getenv("GOFLAGS")+" '-exec=setpriv --pdeathsig KILL'")
	require.Regexp(t, `(?m)^ready: .* clusters a,b$`, printed)

	all := run(t, r.command(commands[1]+" --dry --verbose")...)
	for _, tests := range []string{"./test/suite", "./test/sdk", "./test/continuity"} {
		require.Contains(t, all, tests)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
}

// session runs a console session.
func (r *readme) session(t *testing.T, s sdk.Snippet) {
	t.Helper()
	for _, step := range s.Session() {
		printed := run(t, r.command(step.Command)...)
		require.NoError(t, step.Printed(printed, strings.HasPrefix(step.Command, "braid consume")))
	}
}

func split(lines string) []string { return strings.Split(strings.TrimSpace(lines), "\n") }

// values returns the topic's records as key=value, each once.
func (r *readme) values(t *testing.T) map[string]bool {
	t.Helper()
	all := make(map[string]bool)
	for _, line := range r.lines(t, "%k=%s") {
		require.False(t, all[line], "%s is there twice", line)
		all[line] = true
	}
	return all
}

func (r *readme) quickStart(t *testing.T) {
	r.session(t, r.snippets["console"][0])
	require.Equal(t, map[string]bool{"k1=hello": true, "k2=world": true, "k3=from kcat": true}, r.values(t))
}

func (r *readme) java(t *testing.T) {
	file := filepath.Join(t.TempDir(), "Readme.java")
	writeFile(t, file, `
import java.util.Properties;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.serialization.StringSerializer;

class Readme {
    public static void main(String[] args) throws Exception {
`+r.here(r.snippets["java"][0].Text)+`
    }
}
`)
	run(t, sdk.JavaSource(t, file)...)
	require.Contains(t, r.values(t), "k1=from Java")
}

func (r *readme) shell(t *testing.T) {
	commands := r.snippets["sh"][3].Commands()
	require.Len(t, commands, 1)
	ack := run(t, r.command(commands[0])...)
	require.Contains(t, ack, `"results"`)
	require.Contains(t, r.values(t), "k4=from buf")
}

func (r *readme) goClient(t *testing.T) {
	file := filepath.Join(t.TempDir(), "readme.go")
	writeFile(t, file, `package main

import (
	"context"
	"fmt"
	"net/http"
	"os"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
)

func main() {
	ctx := context.Background()
`+r.here(r.snippets["go"][0].Text)+`
	fmt.Println(resp, err)
	if err != nil {
		os.Exit(1)
	}
}
`)
	run(t, "go", "run", file)
	require.Contains(t, r.values(t), "k5=from Go")
}

// lines returns the topic's records in the format that a client prints them in.
func (r *readme) lines(t *testing.T, format string) []string {
	t.Helper()
	return split(run(t, r.command(`braid consume orders --from earliest --to-end --format "`+format+`\n"`)...))
}

func (r *readme) typeScript(t *testing.T) {
	program := sdk.TypeScript(t, "readme", `
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { ConsumerService } from "./gen/braid/v1/consumer_pb.js";

`+r.here(r.snippets["ts"][0].Text))
	client := sdk.Start(t, "typescript", nil, program...)
	sdk.Until(t, "all records", func() bool { return len(client.Events()) >= 6 }, client)
	var printed []string
	for _, e := range client.Events() {
		printed = append(printed, e.Kind)
	}
	require.ElementsMatch(t, r.lines(t, "%p %on %s"), printed)
	run(t, r.command("echo again | braid produce orders")...)
	sdk.Until(t, "what was written next", func() bool { return len(client.Events()) == 7 }, client)
}

func (r *readme) python(t *testing.T) {
	file := filepath.Join(t.TempDir(), "readme.py")
	writeFile(t, file, `
import grpc
from braid.v1 import consumer_pb2, consumer_pb2_grpc

`+r.here(r.snippets["python"][0].Text))
	program, env := sdk.Python(t, file)
	printed := run(t, append(append([]string{"env"}, env...), program...)...)
	require.ElementsMatch(t, r.lines(t, "%p %o b'%s'"), split(printed))
}

func (r *readme) addCluster(t *testing.T) {
	// It needs three brokers, as the topic has three replicas: another one's cluster.
	other := r.elsewhere()
	other.dev(t, "braid dev")
	var cluster struct{ Bootstrap []string }
	described := run(t, other.command("braid cluster describe a -o json")...)
	require.NoError(t, json.Unmarshal([]byte(described), &cluster), described)
	r.at("10.0.2.1:9092", strings.Join(cluster.Bootstrap, ","))
	r.session(t, r.snippets["console"][1])
	described = run(t, r.command("braid topic describe orders")...)
	require.Regexp(t, `(?m)^[0-3] .* open +c +default\.orders\.1`, described, "a partition goes on on the new cluster")
	require.Contains(t, r.values(t), "k1=hello")
}

// redisAndClusters are those of another federation.
func (r *readme) redisAndClusters(t *testing.T) {
	t.Helper()
	redis := realparts.StartRedis(t)
	r.at("redis://127.0.0.1:6379/0", redis.URL())
	r.at("redis://…", redis.URL())
	r.at("10.0.0.1:9092", shared.Clusters[0].Seeds[0])
	r.at("10.0.1.1:9092", shared.Clusters[1].Seeds[0])
	r.at("10.0.1.2:9092", shared.Clusters[1].Seeds[0])
}

// roundTrip writes a record and reads it.
func (r *readme) roundTrip(t *testing.T, topic string) {
	t.Helper()
	run(t, r.command("braid topic create --partitions 2 "+topic)...)
	run(t, r.command("echo hello | braid produce "+topic)...)
	require.Equal(t, "hello\n", run(t, r.command("braid consume --from earliest -n 1 "+topic)...))
}

func (r *readme) realParts(t *testing.T) {
	commands := r.snippets["sh"][1].Commands()
	require.Len(t, commands, 1)
	r = r.elsewhere()
	r.redisAndClusters(t)
	require.Regexp(t, `(?m)^ready: .* clusters east,west$`, r.dev(t, commands[0]))
	r.roundTrip(t, "readme-parts")
}

// processes has each role in a process of its own.
func (r *readme) processes(t *testing.T) {
	commands := r.snippets["sh"][2].Commands()
	require.Len(t, commands, 4)
	r = r.elsewhere()
	r.redisAndClusters(t)
	for _, address := range []string{"10.0.0.5:8081", "10.0.0.6:8080", "10.0.0.6:9092", "10.0.0.7:8082", "10.0.0.7:9093"} {
		r.at(address, realparts.FreeAddress(t))
	}
	for _, line := range commands[:3] {
		ops := realparts.FreeAddress(t)
		p, err := realparts.StartProcess(t, strings.Fields(line)[1], t.TempDir(), r.command("exec "+line, "BRAID_OPS_LISTEN="+ops)...)
		require.NoError(t, err)
		require.NoError(t, p.Ready(func() error { return world.Ready(ops) }))
	}
	require.Equal(t, "cluster east added: 1 broker\n", run(t, r.command(commands[3])...))
	r.env = []string{"BRAID_API=http://" + r.here("10.0.0.6:8080")}
	r.roundTrip(t, "readme-processes")
	require.Equal(t, "hello\n", run(t, r.command("kcat -b 10.0.0.7:9093 -t readme-processes -C -o beginning -e -q")...))
}
