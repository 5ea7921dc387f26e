package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// profile begins to take profiles of the gateway while braid has a load, if they are
// asked for; the caller calls what it returns when the load is over. Each load is
// profiled once.
func (w *world) profile(s side, name string) (done func()) {
	b := w.b
	if b.profiles == "" || !s.braid() {
		return func() {}
	}
	check(os.MkdirAll(b.profiles, 0o755))
	kinds := map[string]string{"cpu": "/debug/pprof/profile", "allocs": "/debug/pprof/allocs"}
	var all sync.WaitGroup
	for kind, path := range kinds {
		file := filepath.Join(b.profiles, name+"-"+kind+".txt")
		if _, err := os.Stat(file); err == nil {
			continue
		}
		all.Go(func() {
			raw := w.ops(gateway, fmt.Sprintf("%s?seconds=%d", path, int(b.profileFor.Seconds())))
			check(writeTop(file, raw, kind, w))
		})
	}
	return all.Wait
}

// writeTop writes the functions that took most, as text.
func writeTop(file string, raw []byte, kind string, w *world) error {
	pb := filepath.Join(w.dir, kind+".pb.gz")
	if err := os.WriteFile(pb, raw, 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(pb) }()
	args := []string{"tool", "pprof", "-top", "-nodecount=35"}
	if kind == "allocs" {
		args = append(args, "-sample_index=alloc_space")
	}
	out, err := exec.Command("go", append(args, w.b.bin, pb)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("go tool pprof: %w\n%s", err, out)
	}
	var text strings.Builder
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "File:") || strings.HasPrefix(line, "Build ID:") || strings.HasPrefix(line, "Time:") {
			continue
		}
		text.WriteString(line)
	}
	return os.WriteFile(file, []byte(text.String()), 0o644)
}
