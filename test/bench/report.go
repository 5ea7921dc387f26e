package main

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/braidmq/braid/test/realparts"
)

// A report is what a scenario found.
type report struct {
	notes  []string
	tables []table
	goals  []goal
}

// A table is a markdown table.
type table struct {
	header []string
	rows   [][]string
}

// A goal is a figure that has a target.
type goal struct {
	what, target, got string
	met               bool
}

// atMost is a goal for a figure that should not be larger than its target.
func atMost(what, unit string, target, got float64) goal {
	return goal{what: what, target: "at most " + figure(target) + unit, got: figure(got) + unit, met: got <= target}
}

// atLeast is a goal for a figure that should not be smaller than its target.
func atLeast(what, unit string, target, got float64) goal {
	return goal{what: what, target: "at least " + figure(target) + unit, got: figure(got) + unit, met: got >= target}
}

// timesFloor is a goal for CPU, as a multiple of what the copy loop takes.
func (b *bench) timesFloor(what string, times, got float64) goal {
	return goal{
		what: what, target: fmt.Sprintf("at most %.2f times the floor: %.2f ms/MB", times, times*b.floor),
		got: fmt.Sprintf("%.2f times: %.2f ms/MB", got/b.floor, got), met: got <= times*b.floor,
	}
}

// figure prints three digits, or all of them before the point; none behind it of
// whole numbers.
func figure(v float64) string {
	switch {
	case v >= 1000:
		s := fmt.Sprintf("%.0f", v)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case v >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func ms(d time.Duration) string { return figure(float64(d.Microseconds())/1000) + " ms" }

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// say prints results, which are the command's output.
func (b *bench) say(format string, args ...any) {
	_, err := fmt.Fprintf(b.out, format, args...)
	check(err)
}

func (b *bench) header() {
	b.say("%s; %s; commit %s; `go run ./test/bench %s`; load of the machine at the start: %s.\n\n",
		time.Now().UTC().Format("2006-01-02"), machine(), commit(), strings.Join(os.Args[1:], " "), load())
}

func (b *bench) print(s scenario, r report, took time.Duration) {
	b.say("### %s\n\n%s. Took %.0f s; load of the machine at the end: %s.\n\n", s.name, strings.ToUpper(s.about[:1])+s.about[1:], took.Seconds(), load())
	for _, n := range r.notes {
		b.say("%s\n\n", n)
	}
	for _, t := range r.tables {
		b.say("%s\n", t)
	}
}

func (t table) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "| %s |\n|%s\n", strings.Join(t.header, " | "), strings.Repeat("---|", len(t.header)))
	for _, r := range t.rows {
		fmt.Fprintf(&s, "| %s |\n", strings.Join(r, " | "))
	}
	return s.String()
}

func (b *bench) summary(goals []goal, took time.Duration) {
	t := table{header: []string{"what", "target", "measured", "met"}}
	for _, g := range goals {
		t.rows = append(t.rows, []string{g.what, g.target, g.got, map[bool]string{true: "yes", false: "**no**"}[g.met]})
	}
	b.say("### Targets\n\n%s\nAll of it took %.0f s.\n", t, took.Seconds())
}

// The lines of a page between which its newest run is.
const (
	pageBegin = "<!-- run -->\n"
	pageEnd   = "<!-- end of run -->\n"
)

// writePage replaces the run that a page holds.
func writePage(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(old), pageBegin)
	_, after, closed := strings.Cut(rest, pageEnd)
	if !found || !closed {
		return fmt.Errorf("bench: %s has no lines %q and %q", path, pageBegin, pageEnd)
	}
	return os.WriteFile(path, []byte(before+pageBegin+"\n"+text+"\n"+pageEnd+after), 0o644)
}

// machine describes the processors, the memory and the programs.
func machine() string {
	model := "unknown processor"
	for line := range strings.Lines(read("/proc/cpuinfo")) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
		}
	}
	var kb int64
	_, _ = fmt.Sscanf(read("/proc/meminfo"), "MemTotal: %d", &kb)
	return fmt.Sprintf("%d cores (%s), %d GiB, %s, Linux %s", runtime.NumCPU(), model, (kb+1<<19)>>20, runtime.Version(), strings.TrimSpace(read("/proc/sys/kernel/osrelease")))
}

func load() string {
	f := strings.Fields(read("/proc/loadavg"))
	if len(f) == 0 {
		return "unknown"
	}
	return f[0]
}

func commit() string {
	cmd := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=8", "--exclude=*")
	cmd.Dir = realparts.Root()
	out, err := cmd.Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

// median is that of a figure over rounds.
func median[T any](all []T, f func(T) float64) float64 {
	if len(all) == 0 {
		return 0
	}
	v := make([]float64, len(all))
	for i := range all {
		v[i] = f(all[i])
	}
	slices.Sort(v)
	return v[len(v)/2]
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Clone(d)
	slices.Sort(d)
	return d[min(int(float64(len(d))*q), len(d)-1)]
}
