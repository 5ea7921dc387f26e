package matrix

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/braidmq/braid/test/realparts"
	"github.com/braidmq/braid/test/sdk"
)

// A Program runs commands of a client program: see clients/README.md.
type Program struct {
	// Command returns the command line of the program, and its environment.
	Command func(t realparts.TB, args ...string) (command, env []string)
	// Name turns a setting of this package into those of the library.
	Name func(s Settings) []string
}

// Settings are what cases set; the zero value is the client's default configuration.
type Settings struct {
	Compression string
	Newer       bool // the newer group protocol
	Instance    string
	Idempotent  bool
	Rack        string
	SASL        *SASL
}

// SASL is how a client proves who it is, over TLS.
type SASL struct {
	Mechanism, User, Password, Token string
	CA, Truststore                   string // PEM and PKCS12
}

// TruststorePassword is that of SASL.Truststore.
const TruststorePassword = "truststore"

// Programs are those of the clients, by their ids.
var Programs = map[string]Program{
	"java-4": {java("4.3.1"), javaNames},
	"java-3": {java("3.9.1"), javaNames},
	"java-2": {java("2.8.2"), javaNames},
	"java-1": {java("1.1.1"), javaNames},

	"streams": {javaClass("kafka-streams", "4.3.1", "Streams", "Streams.java"), javaNames},

	"confluent-python": {python("confluent.py"), librdkafkaNames},
	"confluent-go":     {goModule("confluentgo"), librdkafkaNames},
	"confluent-js":     {librdkafkaNode, librdkafkaNames},
	"rdkafka-rust":     {rust, librdkafkaNames},
	"kcat":             {kcat, librdkafkaNames},

	"franz":        {goModule("franz"), plainNames},
	"sarama":       {goModule("sarama"), plainNames},
	"kafka-go":     {goModule("segmentio"), plainNames},
	"kafkajs":      {kafkajs, plainNames},
	"aiokafka":     {python("aio.py"), plainNames},
	"kafka-python": {python("pure.py"), plainNames},
	"tools":        {tools, javaNames},
}

func dir(parts ...string) string {
	return filepath.Join(append([]string{realparts.Root(), "test", "sdk", "matrix", "clients"}, parts...)...)
}

func contents(t realparts.TB, files ...string) string {
	t.Helper()
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatalf("%v", err)
		}
		all.Write(b)
	}
	return all.String()
}

// jars returns a directory with an artifact of Apache Kafka and what it needs.
func jars(t realparts.TB, artifact, version string) string {
	t.Helper()
	pom := dir("java", "pom.xml")
	realparts.Java(t)
	out := realparts.Cached(t, "matrix-"+artifact, contents(t, pom)+artifact+version, func(out string) error {
		return realparts.Install(out, realparts.Maven(t), "-q", "-B", "-f", pom, "dependency:copy-dependencies",
			"-Dartifact="+artifact, "-Dclient="+version, "-DoutputDirectory="+filepath.Join(out, "lib"))
	})
	return filepath.Join(out, "lib", "*")
}

// java compiles the programs against one version of kafka-clients.
func java(version string) func(t realparts.TB, args ...string) (command, env []string) {
	sources := []string{"Matrix.java"}
	if version[0] > '1' {
		sources = append(sources, "Offsets.java", "Token.java")
	}
	return javaClass("kafka-clients", version, "Matrix", sources...)
}

func javaClass(artifact, version, class string, sources ...string) func(t realparts.TB, args ...string) (command, env []string) {
	return func(t realparts.TB, args ...string) (command, env []string) {
		t.Helper()
		lib := jars(t, artifact, version)
		var files []string
		for _, s := range sources {
			files = append(files, dir("java", s))
		}
		classes := realparts.Cached(t, "matrix-java", contents(t, files...)+lib, func(out string) error {
			return realparts.Output("", realparts.Javac(t), append([]string{"-d", out, "-cp", lib}, files...)...)
		})
		return append([]string{
			realparts.Java(t), "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
			"-cp", classes + string(os.PathListSeparator) + lib, class,
		}, args...), nil
	}
}

// named makes settings of names and values, without those of no value.
func named(pairs map[string]string) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		if pairs[name] != "" {
			all = append(all, name+"="+pairs[name])
		}
	}
	return all
}

func (s Settings) protocol() string {
	if s.Newer {
		return "consumer"
	}
	return ""
}

func (s Settings) idempotence() string {
	if s.Idempotent {
		return "true"
	}
	return ""
}

// javaNames are the settings of kafka-clients.
func javaNames(s Settings) []string {
	pairs := map[string]string{
		"compression.type": s.Compression, "group.protocol": s.protocol(), "group.instance.id": s.Instance, "enable.idempotence": s.idempotence(),
		"client.rack": s.Rack,
	}
	if a := s.SASL; a != nil {
		maps.Copy(pairs, map[string]string{
			"security.protocol": "SASL_SSL", "sasl.mechanism": a.Mechanism,
			"ssl.truststore.type": "PKCS12", "ssl.truststore.location": a.Truststore, "ssl.truststore.password": TruststorePassword,
		})
		login := map[string]string{
			"PLAIN": "plain.PlainLoginModule", "SCRAM-SHA-256": "scram.ScramLoginModule", "SCRAM-SHA-512": "scram.ScramLoginModule",
		}[a.Mechanism]
		jaas := "org.apache.kafka.common.security." + login + ` required username="` + a.User + `" password="` + a.Password + `";`
		if a.Mechanism == "OAUTHBEARER" {
			jaas = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
			pairs["sasl.login.callback.handler.class"] = "Token"
		}
		pairs["sasl.jaas.config"] = jaas
	}
	return named(pairs)
}

// librdkafkaNames are the settings of librdkafka and all that is built on it.
func librdkafkaNames(s Settings) []string {
	pairs := map[string]string{
		"compression.type": s.Compression, "group.protocol": s.protocol(), "group.instance.id": s.Instance, "enable.idempotence": s.idempotence(),
		"client.rack": s.Rack,
	}
	if a := s.SASL; a != nil {
		maps.Copy(pairs, map[string]string{
			"security.protocol": "SASL_SSL", "ssl.ca.location": a.CA, "sasl.mechanism": a.Mechanism, "sasl.username": a.User, "sasl.password": a.Password,
		})
	}
	return named(pairs)
}

// plainNames are those of programs that know nothing but the settings here.
func plainNames(s Settings) []string {
	pairs := map[string]string{"compression": s.Compression, "protocol": s.protocol(), "instance": s.Instance, "idempotent": s.idempotence(), "rack": s.Rack}
	if a := s.SASL; a != nil {
		maps.Copy(pairs, map[string]string{"mechanism": a.Mechanism, "user": a.User, "password": a.Password, "ca": a.CA})
	}
	return named(pairs)
}

// python runs a program in an environment of its own.
func python(program string) func(t realparts.TB, args ...string) (command, env []string) {
	return func(t realparts.TB, args ...string) (command, env []string) {
		t.Helper()
		requirements := dir("python", "requirements.txt")
		venv := realparts.Cached(t, "matrix-python", contents(t, requirements), func(out string) error {
			return realparts.VirtualEnv(t, out, "-r", requirements)
		})
		return append([]string{filepath.Join(venv, "bin", "python"), dir("python", program)}, args...), []string{"PYTHONDONTWRITEBYTECODE=1"}
	}
}

// goModule builds a program that is a module of its own.
func goModule(name string) func(t realparts.TB, args ...string) (command, env []string) {
	return func(t realparts.TB, args ...string) (command, env []string) {
		t.Helper()
		if name == "confluentgo" {
			compiler(t)
		}
		return sdk.GoProgram(t, dir(name), args...), nil
	}
}

// compiler installs what librdkafka is built with where the package of a client does not
// bring it along built.
func compiler(t realparts.TB) {
	t.Helper()
	headers := "#include <openssl/ssl.h>\n#include <zlib.h>\n#include <zstd.h>\nint main() { return 0; }\n"
	realparts.Program{Name: "g++", Packages: []string{"g++", "make", "pkg-config", "libssl-dev", "zlib1g-dev", "libzstd-dev"}, Check: func(path string) error {
		return realparts.Output("", "sh", "-c", "printf '"+headers+"' | "+path+" -x c++ -fsyntax-only - && command -v make")
	}}.Path(t)
}

func rust(t realparts.TB, args ...string) (command, env []string) {
	t.Helper()
	compiler(t)
	cargo := realparts.Program{Name: "cargo", Packages: []string{"cargo"}}.Path(t)
	manifest := dir("rdkafka", "Cargo.toml")
	pins := contents(t, manifest, dir("rdkafka", "Cargo.lock"), dir("rdkafka", "src", "main.rs"))
	out := realparts.Cached(t, "matrix-rust", pins, func(out string) error {
		return realparts.Install(out, cargo, "build", "-q", "--release", "--locked", "--manifest-path", manifest, "--target-dir", out)
	})
	return append([]string{filepath.Join(out, "release", "rdkafka-client")}, args...), nil
}

func kafkajs(t realparts.TB, args ...string) (command, env []string) {
	t.Helper()
	modules := nodeModules(t, "js", "kafkajs.mjs", func(string) error { return nil }, "ci")
	return append([]string{filepath.Join(realparts.Node(t), "node"), filepath.Join(modules, "kafkajs.mjs")}, args...), []string{"KAFKAJS_NO_PARTITIONER_WARNING=1"}
}

// librdkafkaNode builds the bindings for the machine's Node and libraries: what their
// package would download is not in a registry.
func librdkafkaNode(t realparts.TB, args ...string) (command, env []string) {
	t.Helper()
	compiler(t)
	modules := nodeModules(t, "jsrd", "client.mjs", func(out string) error {
		bindings := filepath.Join(out, "node_modules", "@confluentinc", "kafka-javascript")
		return realparts.Output(bindings, "env", nodePath(t), "CKJS_LINKING=dynamic", "npm_config_nodedir="+filepath.Dir(headersOf(t)),
			"node", filepath.Join(out, "node_modules", "node-gyp", "bin", "node-gyp.js"), "rebuild")
	}, "ci", "--ignore-scripts")
	return append([]string{filepath.Join(realparts.Node(t), "node"), filepath.Join(modules, "client.mjs")}, args...), nil
}

// headersOf is the directory of Node's headers, which its packages bring along.
func headersOf(t realparts.TB) string {
	t.Helper()
	node, err := filepath.EvalSymlinks(filepath.Join(realparts.Node(t), "node"))
	if err != nil {
		t.Fatalf("%v", err)
	}
	include := filepath.Join(filepath.Dir(filepath.Dir(node)), "include")
	if _, err := os.Stat(filepath.Join(include, "node", "node.h")); err != nil {
		t.Fatalf("the bindings of librdkafka need the headers of Node: %v", err)
	}
	return include
}

func nodePath(t realparts.TB) string {
	t.Helper()
	return "PATH=" + realparts.Node(t) + string(os.PathListSeparator) + os.Getenv("PATH")
}

// nodeModules returns a directory with pinned packages and the program beside them.
func nodeModules(t realparts.TB, name, program string, build func(out string) error, npm ...string) string {
	t.Helper()
	files := []string{"package.json", "package-lock.json", ".npmrc", program}
	var paths []string
	for _, f := range files {
		paths = append(paths, dir(name, f))
	}
	return realparts.Cached(t, "matrix-"+name, contents(t, paths...), func(out string) error {
		for i, f := range files {
			if err := os.WriteFile(filepath.Join(out, f), []byte(contents(t, paths[i])), 0o644); err != nil {
				return err
			}
		}
		if err := realparts.Install(out, "env", append([]string{nodePath(t), "npm"}, append(npm, "--no-progress")...)...); err != nil {
			return err
		}
		return build(out)
	})
}

func kcat(t realparts.TB, args ...string) (command, env []string) {
	t.Helper()
	return append([]string{dir("kcat.sh")}, args...), []string{"PATH=" + filepath.Dir(realparts.Kcat(t)) + string(os.PathListSeparator) + os.Getenv("PATH")}
}

func tools(t realparts.TB, args ...string) (command, env []string) {
	t.Helper()
	java := sdk.KafkaTool(t, "")
	return append([]string{dir("tools.sh")}, args...), []string{"JAVA=" + strings.Join(java[:len(java)-1], " ")}
}

// Start starts a command of the program.
func (p Program) Start(t realparts.TB, name, bootstrap, command string, s Settings, args ...string) *sdk.Client {
	t.Helper()
	args = append([]string{command, bootstrap}, args...)
	line, env := p.Command(t, append(args, p.Name(s)...)...)
	if s.SASL != nil && s.SASL.Token != "" {
		env = append(env, "TOKEN="+s.SASL.Token)
	}
	return sdk.Start(t, name+" "+command, env, line...)
}
