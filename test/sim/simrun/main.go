// Command simrun runs the simulation with seeds, each of which goes the same way
// every time: it builds the test with a Go runtime that draws nothing at random in a
// bubble. With -breaks it leaves rules of the design out, one after the other, and
// shows the first seed that notices.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type options struct {
	from, to uint64
	duration time.Duration
	parallel int
	failing  bool
	trace    bool
	exact    bool
	log      string
	root     string
	goroot   string
}

func run(ctx context.Context) error {
	var o options
	var breakName string
	seeds := flag.String("seeds", "1-20", "the seeds to run: one, or FROM-TO")
	flag.DurationVar(&o.duration, "duration", time.Minute, "how long clients write and faults come, in virtual time")
	flag.IntVar(&o.parallel, "parallel", 2, "worlds at a time, each in a process of its own")
	flag.BoolVar(&o.failing, "failing", false, "fail clusters over and restore them, whatever the seed")
	flag.BoolVar(&o.trace, "trace", false, "print the trace of good seeds too")
	flag.BoolVar(&o.exact, "exact", true, "build with a Go runtime that draws nothing at random in a bubble; takes minutes the first time")
	flag.StringVar(&o.log, "log", "", "write the processes' log to this file; for one seed")
	flag.StringVar(&breakName, "break", "", "leave this rule of the design out, or all of them, one after the other")
	flag.Parse()
	var err error
	if o.from, o.to, err = parseSeeds(*seeds); err != nil {
		return err
	}
	if o.root, err = output(ctx, "go", "list", "-m", "-f", "{{.Dir}}"); err != nil {
		return err
	}
	if o.goroot, err = output(ctx, "go", "env", "GOROOT"); err != nil {
		return err
	}
	if breakName == "" {
		dir, err := os.MkdirTemp("", "simrun")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		binary, err := o.build(ctx, dir, nil)
		if err != nil {
			return err
		}
		return o.runSeeds(ctx, binary)
	}
	return o.runBreaks(ctx, breakName)
}

func parseSeeds(s string) (from, to uint64, err error) {
	first, last, isRange := strings.Cut(s, "-")
	if from, err = strconv.ParseUint(first, 10, 64); err != nil || !isRange {
		return from, from, err
	}
	to, err = strconv.ParseUint(last, 10, 64)
	return from, to, err
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	b, err := exec.CommandContext(ctx, name, args...).Output()
	return strings.TrimSpace(string(b)), err
}

// build makes the test's binary, with edits of the product's source.
func (o *options) build(ctx context.Context, dir string, edits []edit) (string, error) {
	if o.exact {
		edits = append(append([]edit(nil), determinism...), edits...)
	}
	over, err := overlay(o.goroot, o.root, dir, edits)
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "sim.test")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "synctests", "-overlay", over, "-o", binary, "./test/sim")
	cmd.Dir, cmd.Stdout, cmd.Stderr = o.root, os.Stdout, os.Stderr
	return binary, cmd.Run()
}

// one runs one seed and returns what it printed.
func (o *options) one(ctx context.Context, binary string, seed uint64) (string, error) {
	args := []string{"-test.run", "^TestSeeds$", "-test.v", "-test.timeout", "30m", "-seeds", strconv.FormatUint(seed, 10), "-duration", o.duration.String()}
	if o.trace {
		args = append(args, "-trace")
	}
	if o.failing {
		args = append(args, "-failing")
	}
	if o.log != "" {
		args = append(args, "-log", o.log)
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = filepath.Join(o.root, "test", "sim")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// each runs the seeds, some at a time, until done says so.
func (o *options) each(ctx context.Context, binary string, done func(seed uint64, out string, err error) bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	next := o.from
	var wg sync.WaitGroup
	for range o.parallel {
		wg.Go(func() {
			for {
				mu.Lock()
				seed := next
				next++
				mu.Unlock()
				if seed > o.to || ctx.Err() != nil {
					return
				}
				out, err := o.one(ctx, binary, seed)
				mu.Lock()
				if ctx.Err() == nil && done(seed, out, err) {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// runSeeds runs the seeds and says which fail.
func (o *options) runSeeds(ctx context.Context, binary string) error {
	begin := time.Now()
	var failed []uint64
	total := 0
	o.each(ctx, binary, func(seed uint64, out string, err error) bool {
		total++
		if err != nil {
			failed = append(failed, seed)
			say("%s\n", out)
		} else if o.trace {
			say("%s\n", out)
		} else {
			say("%s\n", figures(out))
		}
		return false
	})
	say("%d seeds in %.0f s, %d fail: %v\n", total, time.Since(begin).Seconds(), len(failed), failed)
	if len(failed) > 0 {
		return errors.New("some seeds fail; run one again with: task sim -- -seeds N")
	}
	return nil
}

func say(format string, args ...any) { _, _ = fmt.Fprintf(os.Stdout, format, args...) }

// figures is the line of figures of a seed.
func figures(out string) string {
	for line := range strings.SplitSeq(out, "\n") {
		if _, f, ok := strings.Cut(line, ": seed "); ok {
			return "seed " + f
		}
	}
	return out
}
