package sdk

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/braidmq/braid/test/realparts"
)

// Java returns the command line of the Java program.
func Java(t realparts.TB, args ...string) []string {
	t.Helper()
	return JavaProgram(t, dir("java", "Sdk.java"), args...)
}

// JavaProgram compiles a Java program of one file once, with Kafka's jars, and
// returns its command line.
func JavaProgram(t realparts.TB, source string, args ...string) []string {
	t.Helper()
	class := strings.TrimSuffix(filepath.Base(source), ".java")
	jars := realparts.Jars(t)
	classes := realparts.Cached(t, strings.ToLower(class)+"-java", read(t, source)+jars, func(out string) error {
		return realparts.Output("", realparts.Javac(t), "-Xlint:all", "-Werror", "-d", out, "-cp", filepath.Join(jars, "lib", "*"), source)
	})
	return realparts.JavaCommand(t, 128, []string{classes}, class, args...)
}

// GoProgram builds a Go program once that is a module of its own, in a directory, and
// returns its command line.
func GoProgram(t realparts.TB, module string, args ...string) []string {
	t.Helper()
	name := filepath.Base(module)
	pins := read(t, filepath.Join(module, "main.go")) + read(t, filepath.Join(module, "go.sum")) + read(t, filepath.Join(module, "go.mod"))
	out := realparts.Cached(t, name+"-go", pins, func(out string) error {
		return realparts.Install(module, "go", "build", "-o", filepath.Join(out, name), ".")
	})
	return append([]string{filepath.Join(out, name)}, args...)
}

// KafkaTool returns the command line of one of Kafka's own tools.
func KafkaTool(t realparts.TB, class string, args ...string) []string {
	t.Helper()
	return realparts.JavaCommand(t, 200, nil, class, args...)
}

// protos returns the contents of the proto files that clients generate code from.
func protos(t realparts.TB) string {
	t.Helper()
	var all strings.Builder
	for _, name := range []string{"record", "producer", "consumer"} {
		all.WriteString(read(t, filepath.Join(realparts.Root(), "proto", "braid", "v1", name+".proto")))
	}
	return all.String()
}

// JavaSource returns the command line of a Java source file with Kafka's jars.
func JavaSource(t realparts.TB, file string) []string {
	t.Helper()
	realparts.Javac(t) // java compiles it by that
	return realparts.JavaCommand(t, 256, nil, file)
}

// Python returns the command line of a Python program, and its environment. The
// program is a file of this package's, or has an absolute path.
func Python(t realparts.TB, program string, args ...string) (command, env []string) {
	t.Helper()
	requirements := dir("python", "requirements.txt")
	venv := realparts.Cached(t, "sdk-python", read(t, requirements), func(out string) error {
		return realparts.VirtualEnv(t, out, "-r", requirements)
	})
	python := filepath.Join(venv, "bin", "python")
	generated := realparts.Cached(t, "sdk-python-gen", read(t, requirements)+protos(t), func(out string) error {
		return realparts.Output("", python, "-m", "grpc_tools.protoc", "-I", filepath.Join(realparts.Root(), "proto"),
			"--python_out="+out, "--grpc_python_out="+out, "braid/v1/record.proto", "braid/v1/producer.proto", "braid/v1/consumer.proto")
	})
	if !filepath.IsAbs(program) {
		program = dir("python", program)
	}
	return append([]string{python, program}, args...), []string{"PYTHONPATH=" + generated, "PYTHONDONTWRITEBYTECODE=1"}
}

// Node returns the command line of a program for Node.
func Node(t realparts.TB, program string, args ...string) []string {
	t.Helper()
	modules := nodeModules(t)
	// Programs find their modules beside themselves, so they are copied there.
	for _, f := range []string{"print.mjs", "kafkajs_client.mjs", "connect_client.mjs"} {
		write(t, filepath.Join(modules, f), read(t, dir("js", f)))
	}
	return append([]string{filepath.Join(realparts.Node(t), "node"), filepath.Join(modules, program)}, args...)
}

// TypeScript compiles the text of a TypeScript module strictly, and returns the
// command line that runs it.
func TypeScript(t realparts.TB, name, text string) []string {
	t.Helper()
	modules := nodeModules(t)
	node := filepath.Join(realparts.Node(t), "node")
	write(t, filepath.Join(modules, name+".mts"), text)
	if err := realparts.Output(modules, node, "node_modules/typescript/bin/tsc", "--strict", "--skipLibCheck",
		"--target", "es2022", "--lib", "es2022,dom", "--module", "nodenext", name+".mts"); err != nil {
		t.Fatalf("%v", err)
	}
	return []string{node, filepath.Join(modules, name+".mjs")}
}

// nodeModules returns a directory with the pinned Node packages and generated code.
func nodeModules(t realparts.TB) string {
	t.Helper()
	files := []string{"package.json", "package-lock.json", ".npmrc", "buf.gen.yaml"}
	var pins strings.Builder
	for _, f := range files {
		pins.WriteString(read(t, dir("js", f)))
	}
	return realparts.Cached(t, "sdk-js", pins.String()+protos(t), func(out string) error {
		for _, f := range files {
			write(t, filepath.Join(out, f), read(t, dir("js", f)))
		}
		path := nodePath(realparts.Node(t))
		if err := realparts.Install(out, "env", path, "npm", "ci", "--no-progress"); err != nil {
			return err
		}
		for _, source := range []string{filepath.Join(realparts.Root(), "proto"), dir("js", "proto")} {
			if err := realparts.Output(out, "env", path, Buf(t), "generate", source, "--template", "buf.gen.yaml"); err != nil {
				return err
			}
		}
		return nil
	})
}

// nodePath is a setting of the environment that puts Node's directory first.
func nodePath(dir string) string {
	return "PATH=" + dir + string(os.PathListSeparator) + os.Getenv("PATH")
}

// Buf returns the path of buf, as pinned with the other tools.
func Buf(t realparts.TB) string {
	t.Helper()
	pins := read(t, filepath.Join(realparts.Root(), "tools", "tools.sum"))
	out := realparts.Cached(t, "buf", pins, func(out string) error {
		return realparts.Output(realparts.Root(), "go", "build", "-modfile=tools/tools.mod", "-o", filepath.Join(out, "buf"), "github.com/bufbuild/buf/cmd/buf")
	})
	return filepath.Join(out, "buf")
}
