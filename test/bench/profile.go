package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// profile begins to take profiles of the gateway while braid has a load, if they are
// asked for; the caller calls what it returns when the load is over. Each load is
// profiled once, in its first round.
func (w *world) profile(s side, name string) (done func()) {
	b := w.b
	if b.profiles == "" || !s.braid() || w.profiled[name] {
		return func() {}
	}
	w.profiled[name] = true
	check(os.MkdirAll(b.profiles, 0o755))
	before, waitsBefore := w.allocations(), w.ops(gateway, "/debug/pprof/mutex")
	cpu := make(chan []byte, 1)
	go func() {
		cpu <- w.ops(gateway, fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(1, int(b.profileFor.Seconds()))))
	}()
	return func() {
		waits, after := w.ops(gateway, "/debug/pprof/mutex"), w.allocations()
		check(w.writeTop(filepath.Join(b.profiles, name+"-mutex.txt"), waits, waitsBefore))
		check(w.writeTop(filepath.Join(b.profiles, name+"-allocs.txt"), after, before, "-sample_index=alloc_space"))
		check(w.writeTop(filepath.Join(b.profiles, name+"-cpu.txt"), <-cpu, nil))
	}
}

// profileBraid is profile for a load that the braid side alone has.
func (w *world) profileBraid(name string) (done func()) {
	return w.profile(side{name: "braid"}, name)
}

// allocations is the profile of all that the gateway has allocated. What it has since
// the last but one garbage collection is not in it.
func (w *world) allocations() []byte {
	w.ops(gateway, "/debug/pprof/heap?gc=1")
	w.ops(gateway, "/debug/pprof/heap?gc=1")
	return w.ops(gateway, "/debug/pprof/allocs")
}

// shown are the functions that a profile by what they call tells of.
const shown = `braid/(gateway|kafkacompat|internal/upstream|internal/recordbatch)|proto\.(Unmarshal|Marshal|Size)|mallocgc$|memmove|memclr|gcBgMark|^syscall\.(read|write)$|poll\.writev|http2Framer|schedule$`

// writeTop writes the functions that took most by themselves, and with what they
// call, as text. A base is taken off.
func (w *world) writeTop(file string, raw, base []byte, options ...string) error {
	dir, err := os.MkdirTemp(w.dir, "profile")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	command := append([]string{"tool", "pprof", "-top"}, options...)
	if base != nil {
		command = append(command, "-base="+filepath.Join(dir, "base"))
		if err := os.WriteFile(filepath.Join(dir, "base"), base, 0o600); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "profile"), raw, 0o600); err != nil {
		return err
	}
	var text strings.Builder
	for _, order := range [][]string{{"-nodecount=20"}, {"-cum", "-nodecount=30", "-show=" + shown}} {
		args := append(append(append([]string{}, command...), order...), w.b.bin, filepath.Join(dir, "profile"))
		out, err := exec.Command("go", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("go tool pprof: %w\n%s", err, out)
		}
		for line := range strings.Lines(string(out)) {
			switch name, _, _ := strings.Cut(line, ":"); name {
			case "File", "Build ID", "Time": // of this very run
			default:
				text.WriteString(line)
			}
		}
		text.WriteString("\n")
	}
	return os.WriteFile(file, []byte(strings.TrimSpace(text.String())+"\n"), 0o644)
}
