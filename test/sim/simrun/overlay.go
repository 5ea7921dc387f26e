package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// An edit replaces a text that a source file has exactly once.
type edit struct{ file, old, new string }

// determinism has the Go runtime draw what it draws at random for goroutines of a
// bubble (the order of maps and of selects, math/rand/v2, the order of timers of one
// instant) from who they are and what time it is, and leave a goroutine alone that
// runs for long. So a seed goes much the same way each time.
var determinism = []edit{
	{"runtime/rand.go", "func rand() uint64 {\n", `func rand() uint64 {
	if gp := getg(); gp.bubble != nil {
		gp.bubbleDrawn++ // by the program, and not by maps and selects
		return bubbleRand(gp, 1<<40+gp.bubbleDrawn)
	}
`},
	{"runtime/rand.go", "func maps_rand() uint64 {\n", `func maps_rand() uint64 {
	if gp := getg(); gp.bubble != nil {
		return bubbleChoice(gp)
	}
`},
	{"runtime/rand.go", "func cheaprand() uint32 {\n", `func cheaprand() uint32 {
	if gp := getg(); gp.bubble != nil {
		return uint32(bubbleChoice(gp) >> 32)
	}
`},
	{"runtime/rand.go", "func rand32() uint32 {\n", `//go:nosplit
func bubbleChoice(gp *g) uint64 {
	if now := gp.bubble.now; now != gp.bubbleNow {
		gp.bubbleNow, gp.bubbleChosen = now, 0
	}
	gp.bubbleChosen++
	return bubbleRand(gp, uint64(gp.bubbleNow)*0x9E3779B97F4A7C15+gp.bubbleChosen)
}

//go:nosplit
func bubbleRand(gp *g, n uint64) uint64 {
	z := gp.bubbleSeed + n*0xD1B54A32D192ED03
	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
	z = (z ^ (z >> 27)) * 0x94D049BB133111EB
	return z ^ (z >> 31)
}

func rand32() uint32 {
`},
	// Hashes of maps, and where the heap begins.
	{"runtime/rand.go", "	if len(startupRand) >= 16 &&\n", "	if startupRand = nil; true {\n		seed[0] = 1\n	} else if len(startupRand) >= 16 &&\n"},
	{"runtime/runtime2.go", "	bubble  *synctestBubble\n", "	bubble  *synctestBubble\n	bubbleSeed, bubbleDrawn, bubbleChosen, bubbleKids uint64\n	bubbleNow int64\n"},
	{"runtime/proc.go", "		newg.bubble = callergp.bubble\n", `		newg.bubble = callergp.bubble
		newg.bubbleSeed, newg.bubbleDrawn, newg.bubbleChosen, newg.bubbleKids, newg.bubbleNow = 0, 0, 0, 0, 0
		if newg.bubble != nil {
			callergp.bubbleKids++
			newg.bubbleSeed = bubbleRand(callergp, 1<<41+callergp.bubbleKids)
		}
`},
	{"runtime/proc.go", "const forcePreemptNS = 10 * 1000 * 1000 // 10ms", "const forcePreemptNS = 3600 * 1000 * 1000 * 1000"},
}

// overlay applies edits and returns the file that tells the go command of the
// results. Files are those of the Go tree if they begin with runtime/, else of the
// repository.
func overlay(goroot, root, dir string, edits []edit) (string, error) {
	texts := make(map[string]string)
	for _, e := range edits {
		path := filepath.Join(root, filepath.FromSlash(e.file))
		if strings.HasPrefix(e.file, "runtime/") {
			path = filepath.Join(goroot, "src", filepath.FromSlash(e.file))
		}
		text, ok := texts[path]
		if !ok {
			b, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return "", fmt.Errorf("%s has %d times, and not once: %q", path, n, e.old)
		}
		texts[path] = strings.Replace(text, e.old, e.new, 1)
	}
	replace := make(map[string]string, len(texts))
	i := 0
	var errs []error
	for path, text := range texts {
		i++
		to := filepath.Join(dir, fmt.Sprint(i, "-", filepath.Base(path)))
		replace[path] = to
		errs = append(errs, os.WriteFile(to, []byte(text), 0o600))
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	at := filepath.Join(dir, "overlay.json")
	return at, errors.Join(append(errs, err, os.WriteFile(at, b, 0o600))...)
}
