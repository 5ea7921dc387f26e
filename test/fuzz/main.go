// Command fuzz runs each fuzz target for a time, one after the other, and prints what
// came of it. Go keeps an input that a target fails with in testdata/fuzz beside the
// target, where every later test tries it: mend what it shows, and commit it.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"time"
)

// A target is a fuzz target and the package that it is in.
type target struct{ pkg, name string }

// An outcome is what a run of a target came to.
type outcome struct {
	elapsed   time.Duration
	execs     int64
	new, all  int64 // interesting inputs: found in this run, and with those from before
	failure   string
	crashedBy string // the input, as a file
}

func main() {
	each := flag.Duration("time", envTime(), "time for each target; FUZZTIME sets it, too")
	only := flag.String("only", "", "regular expression of the targets to run, as ./pkg.FuzzName")
	parallel := flag.Int("parallel", runtime.GOMAXPROCS(0), "inputs that are tried at one time")
	flag.Parse()
	if err := run(os.Stdout, *each, *only, *parallel); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const usualTime = 10 * time.Minute

func envTime() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("FUZZTIME")); err == nil {
		return d
	}
	return usualTime
}

var errFound = errors.New("inputs were found that a target fails with")

func run(out io.Writer, each time.Duration, only string, parallel int) error {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	targets, err := find(".")
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "| target | time | executions | new inputs | inputs | failure |\n|---|---|---|---|---|---|\n")
	failed := false
	for _, t := range targets {
		if !wanted.MatchString(t.pkg + "." + t.name) {
			continue
		}
		o := t.run(each, parallel)
		failed = failed || o.failure != ""
		_, _ = fmt.Fprintf(out, "| %s.%s | %v | %d | %d | %d | %s |\n", t.pkg, t.name, o.elapsed, o.execs, o.new, o.all, strings.TrimSpace(o.failure+" "+o.crashedBy))
	}
	if failed {
		return errFound
	}
	return nil
}

var declared = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(f \*testing\.F\)`)

// find lists the targets below a directory.
func find(root string) (targets []target, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(text, -1) {
			targets = append(targets, target{"./" + filepath.ToSlash(filepath.Dir(path)), string(m[1])})
		}
		return err
	})
	sort.Slice(targets, func(i, j int) bool {
		return targets[i].pkg+targets[i].name < targets[j].pkg+targets[j].name
	})
	return targets, err
}

var (
	progress = regexp.MustCompile(`^fuzz: elapsed: (\S+), execs: (\d+) .*new interesting: (\d+) \(total: (\d+)\)`)
	written  = regexp.MustCompile(`Failing input written to (\S+)`)
)

func (t target) run(each time.Duration, parallel int) outcome {
	cmd := exec.Command("go", "test", t.pkg, "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", each.String(), "-parallel", strconv.Itoa(parallel))
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return outcome{failure: err.Error()}
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return outcome{failure: err.Error()}
	}
	o := read(pipe)
	if err := cmd.Wait(); err != nil {
		o.failure = err.Error()
	}
	return o
}

// read follows the output of a run; what is no progress goes to the terminal.
func read(r io.Reader) (o outcome) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if m := progress.FindStringSubmatch(line); m != nil {
			o.elapsed, _ = time.ParseDuration(m[1])
			o.execs, _ = strconv.ParseInt(m[2], 10, 64)
			o.new, _ = strconv.ParseInt(m[3], 10, 64)
			o.all, _ = strconv.ParseInt(m[4], 10, 64)
			continue
		}
		if m := written.FindStringSubmatch(line); m != nil {
			o.crashedBy = m[1]
		}
		fmt.Fprintln(os.Stderr, line)
	}
	_, _ = io.Copy(io.Discard, r)
	return o
}
