package matrix

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/braidmq/braid/test/realparts"
)

// Marks around what the test writes, and between its parts.
const (
	tableMark = "<!-- table: written by task matrix -->"
	notesMark = "<!-- notes -->"
	crowdMark = "<!-- crowds -->"
	endMark   = "<!-- end -->"
)

// crowdText says what the last table is.
const crowdText = "How long a group of many members takes until each has its partitions, and no partition has two owners: franz-go, each member a client with connections of its own, all in one process, on the machine that runs braid and the clusters, too. It is a figure and no target; the test fails after two minutes."

// Results are what a run saw.
type Results struct {
	mu       sync.Mutex
	versions map[string]string
	cells    map[string]*cell // by client and feature
	crowds   []string
	run      string
}

type cell struct{ passed, tried int }

// NewResults begins a run.
func NewResults() *Results {
	return &Results{versions: make(map[string]string), cells: make(map[string]*cell), run: time.Now().UTC().Format(time.DateOnly)}
}

// Version notes the version that a client says it has.
func (r *Results) Version(c Client, version string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.versions[c.ID] = version
}

// Begin notes that cases of a feature are tried; they have failed until they pass.
func (r *Results) Begin(c Client, f Feature, cases []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cells[c.ID+" "+f.ID] = &cell{tried: len(cases)}
}

// Passed notes that one more case did.
func (r *Results) Passed(c Client, f Feature) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cells[c.ID+" "+f.ID].passed++
}

// Crowd notes how long a group of many members took.
func (r *Results) Crowd(protocol string, members int, joined, one, left time.Duration) {
	r.crowds = append(r.crowds, fmt.Sprintf("| %s | %d | %.1f s | %.1f s | %.1f s | %s |", protocol, members, joined.Seconds(), one.Seconds(), left.Seconds(), r.run))
}

// PagePath is where the page is.
func PagePath() string { return filepath.Join(realparts.Root(), "docs", "clients.md") }

// WritePage writes the page: of clients that were not tried what it says stays.
func WritePage(r *Results) error {
	old, err := os.ReadFile(PagePath())
	if err != nil {
		return err
	}
	page, err := Page(string(old), r)
	if err != nil {
		return err
	}
	return os.WriteFile(PagePath(), []byte(page), 0o644)
}

// Page is a page with what a run saw. What it did not try stays, and is "not run" in columns
// that the page had not.
func Page(old string, r *Results) (string, error) {
	before, rest, found := strings.Cut(old, tableMark)
	was, after, ended := strings.Cut(rest, endMark)
	if !found || !ended {
		return "", fmt.Errorf("the page has not the marks %q and %q", tableMark, endMark)
	}
	var out strings.Builder
	out.WriteString(before + tableMark + "\n\n")
	out.WriteString(Header() + "\n" + strings.Repeat("|---", strings.Count(Header(), "|")-1) + "|\n")
	numbers := numberNotes()
	for _, c := range Clients {
		if _, tried := r.versions[c.ID]; tried {
			out.WriteString(r.row(c, numbers) + "\n")
		} else if row := kept(was, c, numbers); row != "" {
			out.WriteString(row + "\n")
		} else {
			return "", fmt.Errorf("client %q was never tried", c.ID)
		}
	}
	out.WriteString("\n" + notesMark + "\n\n" + notes(numbers) + "\n" + crowdMark + "\n\n## Large groups\n\n" + crowdText + "\n\n")
	crowds := strings.Join(r.crowds, "\n")
	if crowds == "" {
		_, crowds, _ = strings.Cut(was, crowdText)
	} else {
		crowds = "| protocol | members | until each has its partitions | one more comes | one leaves | run |\n|---|---|---|---|---|---|\n" + crowds
	}
	out.WriteString(strings.TrimSpace(crowds) + "\n\n" + endMark + after)
	return out.String(), nil
}

// Header is the first row of the table.
func Header() string {
	cells := []string{"client", "version"}
	for _, f := range Features {
		cells = append(cells, f.Title)
	}
	return "| " + strings.Join(append(cells, "run"), " | ") + " |"
}

// first is the first cell of a client's row; the anchor tells rows of one title apart.
func first(c Client) string { return fmt.Sprintf(`<a id="%s"></a>%s`, c.ID, c.Title) }

func rowOf(table string, c Client) string {
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "| "+first(c)) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

var noteMark = regexp.MustCompile(` \[\d+\]\(#notes\)$`)

// kept is the row of a client that was not tried, from the table that the page had.
func kept(table string, c Client, numbers map[string]int) string {
	row := rowOf(table, c)
	if row == "" {
		return ""
	}
	var titles []string
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "| client |") {
			titles = cellsOf(strings.TrimSpace(line))
		}
	}
	had := make(map[string]string)
	for i, text := range cellsOf(row) {
		if i < len(titles) {
			had[titles[i]] = noteMark.ReplaceAllString(text, "")
		}
	}
	cells := []string{first(c) + noteRef(c, "*", numbers), had["version"]}
	for _, f := range Features {
		text := Cell(c, f)
		if text == tried {
			text = cmp.Or(had[f.Title], NotRun)
		}
		cells = append(cells, text+noteRef(c, f.ID, numbers))
	}
	return "| " + strings.Join(append(cells, had["run"]), " | ") + " |"
}

// cellsOf splits a row.
func cellsOf(row string) []string { return strings.Split(strings.Trim(row, "| "), " | ") }

func (r *Results) row(c Client, numbers map[string]int) string {
	cells := []string{first(c) + noteRef(c, "*", numbers), r.versions[c.ID]}
	for _, f := range Features {
		text := Cell(c, f)
		if text == tried {
			found := r.cells[c.ID+" "+f.ID]
			switch {
			case found == nil:
				text = NotRun
			case found.passed < found.tried:
				text = fmt.Sprintf("**failed** %d/%d", found.passed, found.tried)
			case strings.HasPrefix(c.Notes[f.ID], Differs):
				text = fmt.Sprintf("differs %d/%d", found.passed, found.tried)
			default:
				text = fmt.Sprintf("%d/%d", found.passed, found.tried)
			}
		}
		cells = append(cells, text+noteRef(c, f.ID, numbers))
	}
	return "| " + strings.Join(append(cells, r.run), " | ") + " |"
}

// tried stands for what a run saw.
const tried = "?"

// Cell is what a cell shows whatever a run sees, or tried.
func Cell(c Client, f Feature) string {
	cases, why := c.CasesOf(f)
	switch {
	case len(cases) > 0:
		return tried
	case why == NotOffered:
		return "–"
	default:
		return why
	}
}

func noteRef(c Client, feature string, numbers map[string]int) string {
	if note := c.Notes[feature]; note != "" {
		return fmt.Sprintf(" [%d](#notes)", numbers[note])
	}
	return ""
}

// numberNotes gives each text of a note a number, in the order of the table.
func numberNotes() map[string]int {
	numbers := make(map[string]int)
	for _, c := range Clients {
		for _, f := range append([]Feature{{ID: "*"}}, Features...) {
			if note := c.Notes[f.ID]; note != "" && numbers[note] == 0 {
				numbers[note] = len(numbers) + 1
			}
		}
	}
	return numbers
}

func notes(numbers map[string]int) string {
	texts := make([]string, len(numbers))
	for note, n := range numbers {
		texts[n-1] = fmt.Sprintf("%d. %s.\n", n, strings.TrimPrefix(note, Differs))
	}
	var out strings.Builder
	out.WriteString("## Notes\n\n" + strings.Join(texts, "") + "\n## What is tried\n\n| column | what | cases |\n|---|---|---|\n")
	for _, f := range Features {
		fmt.Fprintf(&out, "| %s | %s | %s |\n", f.Title, f.Does, strings.Join(f.Cases, ", "))
	}
	return out.String()
}

// Check returns how the page differs from the table of clients and features.
func Check(page string) (found []string) {
	_, rest, _ := strings.Cut(page, tableMark)
	table, rest, _ := strings.Cut(rest, notesMark)
	if !strings.Contains(table, Header()) {
		found = append(found, "the columns are not the features of the tree: "+Header())
	}
	rows := 0
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "| <a id=") {
			rows++
		}
	}
	if rows != len(Clients) {
		found = append(found, fmt.Sprintf("%d rows for %d clients", rows, len(Clients)))
	}
	numbers := numberNotes()
	for _, c := range Clients {
		cells := cellsOf(rowOf(table, c))
		if len(cells) != len(Features)+3 {
			found = append(found, fmt.Sprintf("client %q has no row of %d cells", c.ID, len(Features)+3))
			continue
		}
		for i, f := range Features {
			if problem := checkCell(c, f, strings.TrimSuffix(cells[i+2], noteRef(c, f.ID, numbers))); problem != "" {
				found = append(found, fmt.Sprintf("%s, %s: %s", c.ID, f.ID, problem))
			}
		}
	}
	if !strings.HasPrefix(strings.TrimSpace(rest), strings.TrimSpace(notes(numbers))) {
		found = append(found, "the notes are not those of the tree")
	}
	return found
}

// checkCell compares one cell with the cases that there are.
func checkCell(c Client, f Feature, text string) string {
	text = strings.TrimSpace(text)
	want := Cell(c, f)
	if want != tried {
		if text != want {
			return fmt.Sprintf("the page says %q, the tree %q", text, want)
		}
		return ""
	}
	if text == NotRun { // since there is the column
		return ""
	}
	cases, _ := c.CasesOf(f)
	if !strings.HasSuffix(text, fmt.Sprintf("/%d", len(cases))) {
		return fmt.Sprintf("the page says %q, and there are %d cases: run task matrix -- -only %s", text, len(cases), c.ID)
	}
	if strings.Contains(text, "failed") {
		return "the page has a case that failed"
	}
	return ""
}
