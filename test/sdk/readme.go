package sdk

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/braidmq/braid/test/realparts"
)

// A Snippet is a fenced block of README.md.
type Snippet struct {
	Language, Text string
	Line           int // of the opening fence
}

// Readme returns the fenced blocks of README.md.
func Readme(t realparts.TB) []Snippet {
	t.Helper()
	var all []Snippet
	var open *Snippet
	line := 0
	for text := range strings.Lines(read(t, filepath.Join(realparts.Root(), "README.md"))) {
		line++
		language, fence := strings.CutPrefix(text, "```")
		switch {
		case fence && open == nil:
			open = &Snippet{Language: strings.TrimSpace(language), Line: line}
		case fence:
			all = append(all, *open)
			open = nil
		case open != nil:
			open.Text += text
		}
	}
	if open != nil {
		t.Fatalf("the block at line %d of README.md is not closed", open.Line)
	}
	return all
}

// A Step is a command of a console session and the lines that it prints.
type Step struct {
	Command string
	Output  []string
}

// Session reads a console session: commands after "$ ", and what each prints.
func (s Snippet) Session() []Step {
	var all []Step
	for line := range strings.Lines(s.Text) {
		line = strings.TrimSuffix(line, "\n")
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			all = append(all, Step{Command: command})
		} else if n := len(all); n > 0 {
			all[n-1].Output = append(all[n-1].Output, line)
		}
	}
	return all
}

// Commands returns the command lines of a shell snippet, without their comments.
func (s Snippet) Commands() []string {
	var all []string
	for line := range strings.Lines(strings.ReplaceAll(s.Text, "\\\n", "")) {
		line, _, _ = strings.Cut(line, " #")
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all
}

// Printed checks what a step printed: "…" alone on a line is any number of lines.
// Lines in any order will do if anyOrder.
func (s Step) Printed(output string, anyOrder bool) error {
	var got []string
	for line := range strings.Lines(output) {
		got = append(got, strings.TrimRight(line, " \n"))
	}
	want := slices.Clone(s.Output)
	if anyOrder {
		slices.Sort(want)
		slices.Sort(got)
	}
	if !matches(want, got) {
		return fmt.Errorf("$ %s\nprints\n%s\nand README.md says\n%s", s.Command, output, strings.Join(s.Output, "\n"))
	}
	return nil
}

func matches(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if want[0] != "…" {
		return len(got) > 0 && want[0] == got[0] && matches(want[1:], got[1:])
	}
	return matches(want[1:], got) || len(got) > 0 && matches(want, got[1:])
}
