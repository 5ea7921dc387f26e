package continuity

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A report is what a soak found.
type report struct {
	Seed       uint64         `json:"seed"`
	Took       time.Duration  `json:"took"`
	Acked      int            `json:"acknowledged"`
	Logged     int            `json:"logged"`
	Heads      int            `json:"heads_moved"`
	Counts     map[string]int `json:"counts"` // of what is wrong, by kind
	Clients    []clientReport `json:"clients"`
	Groups     []groupReport  `json:"groups"`
	Operations []result       `json:"operations"`
	Errors     []failure      `json:"errors"`
	// Problems are texts of Counts, the first of each kind.
	Problems   map[string][]string `json:"problems"`
	Violations []string            `json:"violations"`
}

type clientReport struct {
	client
	Acked      int            `json:"acknowledged,omitempty"`
	Reads      int            `json:"reads,omitempty"`
	Failed     int            `json:"errors"`
	Texts      map[string]int `json:"texts,omitempty"`
	Notes      map[string]int `json:"notes,omitempty"`
	Rebalances int            `json:"rebalances,omitempty"`
	Twice      int            `json:"twice,omitempty"` // records in the log more than once
	Gap        time.Duration  `json:"gap"`
	GapIn      string         `json:"gap_in"`
	Longest    time.Duration  `json:"longest,omitempty"` // from a send to its acknowledgement
	LongestIn  string         `json:"longest_in,omitempty"`
	Quiet      quantiles      `json:"quiet"` // latencies of produces while nothing goes on
	Held       quantiles      `json:"held"`  // the longest one at each operation that moved heads, of those to these heads
}

type quantiles struct {
	Count int           `json:"count"`
	P50   time.Duration `json:"p50"`
	P99   time.Duration `json:"p99"`
	Max   time.Duration `json:"max"`
}

type groupReport struct {
	Name    string `json:"name"`
	Reads   int    `json:"reads"`
	Again   int    `json:"again"`
	Strange int    `json:"given_again_without_an_assignment"`
	Skipped int    `json:"passed_over"`
	LeftOut int    `json:"left_out_at_a_failover"`
}

// mustNotBe are the kinds of problems that nothing excuses.
var mustNotBe = []string{"lost", "never read", "torn", "twice", "out of order", "given again", "passed over"}

// summary is a line about a run that goes on.
func (l *ledger) summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	acked, failed := 0, 0
	for _, a := range l.clients {
		acked, failed = acked+a.acked, failed+a.failed
	}
	return fmt.Sprintf("%d acknowledged, %d in the log, %d errors, problems %v", acked, l.logged, failed, l.counts)
}

func (s *soak) report() *report {
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &report{
		Seed: s.options.Seed, Took: time.Since(l.begin), Logged: l.logged, Counts: l.counts, Operations: s.results, Errors: l.failed, Problems: l.problems,
	}
	twice := make(map[*account]int)
	for _, n := range l.numbers {
		for _, times := range n.logged {
			if times > 1 {
				twice[n.of]++
			}
		}
	}
	for _, a := range l.clients {
		r.Acked += a.acked
		slices.Sort(a.held)
		c := clientReport{
			client: a.client, Acked: a.acked, Reads: a.reads, Failed: a.failed, Texts: a.errors, Notes: a.notes, Rebalances: a.rebalances,
			Twice: twice[a], Gap: a.gap, GapIn: a.gapIn, Longest: a.longest, LongestIn: a.longestIn,
			Quiet: quantiles{a.quiet.count, a.quiet.quantile(0.5), a.quiet.quantile(0.99), a.quiet.top},
		}
		if n := len(a.held); n > 0 {
			c.Held = quantiles{n, a.held[n/2], a.held[n*99/100], a.held[n-1]}
		}
		r.Clients = append(r.Clients, c)
	}
	for _, name := range slices.Sorted(maps.Keys(l.groups)) {
		g := l.groups[name]
		r.Groups = append(r.Groups, groupReport{name, g.reads, g.again, g.strange, g.skipped, g.leftOut})
	}
	for _, o := range s.results {
		r.Heads += len(o.Moved)
	}
	r.Violations = s.violations()
	return r
}

// violations are what breaks the promises: nothing lost, nothing of an idempotent
// producer twice, keys in order, no error at an idempotent producer even under faults,
// and at an operation that is planned no error and no rebalance at anybody.
func (s *soak) violations() (all []string) {
	l := s.ledger
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	for _, kind := range mustNotBe {
		if n := l.counts[kind]; n > 0 {
			say("%s: %d, for example %s", kind, n, l.problems[kind][0])
		}
	}
	for _, a := range l.clients {
		switch {
		case a.Once && a.failed > 0:
			say("%s is idempotent and saw %d errors: %v", a.Name, a.failed, a.errors)
		case a.Group == "" && a.acked == 0, a.Group != "" && a.reads == 0:
			say("%s did nothing", a.Name)
		}
	}
	for _, o := range s.results {
		if o.Error != "" {
			say("%s (%s) failed: %s", o.Kind, o.Detail, o.Error)
		}
		if len(o.Waiting) > 0 {
			say("%s (%s): %v did not go on within %s", o.Kind, o.Detail, o.Waiting, o.Settled.Round(time.Second))
		}
		if !o.Planned {
			continue
		}
		for _, v := range o.Sights {
			if v.Errors > 0 {
				say("%s (%s): %s saw %d errors", o.Kind, o.Detail, v.Client, v.Errors)
			}
			if v.Rebalances > 0 && !mayRebalance(o.Kind, v.Client) {
				say("%s (%s): %s was rebalanced %d times", o.Kind, o.Detail, v.Client, v.Rebalances)
			}
		}
		for _, kind := range []string{"twice, not idempotent", "out of order, not idempotent"} {
			if n := l.countsIn[inWindow(kind, o.Kind)]; n > 0 {
				say("%s: %d records are %s", o.Kind, n, kind)
			}
		}
	}
	return all
}

// mayRebalance says where an assignment at a planned operation is no surprise: a member
// by Connect opens its stream elsewhere when its gateway drains. It is given the same
// partitions again, and the member beside it notices nothing.
func mayRebalance(kind, client string) bool {
	return kind == "gateway drain" && (client == "connect-member" || client == "connect-static")
}

// write writes the report as path.md and path.json.
func (r *report) write(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".json", text, 0o644); err != nil {
		return err
	}
	return os.WriteFile(path+".md", []byte(r.markdown()), 0o644)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }

// markdown is the report as a page.
func (r *report) markdown() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Clients under operations: seed %d, %s, %d operations, %d heads moved", r.Seed, r.Took.Round(time.Second), len(r.Operations), r.Heads)
	line("\n%d records acknowledged, %d in the log.", r.Acked, r.Logged)
	for _, kind := range mustNotBe {
		line("- %s: %d", kind, r.Counts[kind])
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Counts)) {
		if !slices.Contains(mustNotBe, kind) {
			line("- %s: %d", kind, r.Counts[kind])
		}
	}
	line("\n| producer | defaults | acknowledged | errors | twice in the log | longest gap s | longest produce s | quiet p50/p99/max ms | held at a move p50/p99/max ms |\n|---|---|---|---|---|---|---|---|---|")
	for _, c := range r.Clients {
		if c.Group == "" {
			line("| %s | %s | %d | %d | %d | %.2f (%s) | %.2f (%s) | %s/%s/%s | %s/%s/%s (%d) |", c.Name, c.Defaults, c.Acked, c.Failed, c.Twice, c.Gap.Seconds(), c.GapIn, c.Longest.Seconds(), c.LongestIn,
				ms(c.Quiet.P50), ms(c.Quiet.P99), ms(c.Quiet.Max), ms(c.Held.P50), ms(c.Held.P99), ms(c.Held.Max), c.Held.Count)
		}
	}
	line("\n| member | group | defaults | read | errors | rebalances | longest gap s | in |\n|---|---|---|---|---|---|---|---|")
	for _, c := range r.Clients {
		if c.Group != "" {
			line("| %s | %s | %s | %d | %d | %d | %.2f | %s |", c.Name, c.Group, c.Defaults, c.Reads, c.Failed, c.Rebalances, c.Gap.Seconds(), c.GapIn)
		}
	}
	line("\n| group | records given | again, after a rebalance | again without one | passed over | left out at a failover |\n|---|---|---|---|---|---|")
	for _, g := range r.Groups {
		line("| %s | %d | %d | %d | %d | %d |", g.Name, g.Reads, g.Again-min(g.Again, g.Strange), g.Strange, g.Skipped, g.LeftOut)
	}
	r.operations(line)
	line("\nErrors at applications, and what libraries told for information:\n")
	for _, c := range r.Clients {
		for _, text := range slices.Sorted(maps.Keys(c.Texts)) {
			line("- %s, error, %d times: %s", c.Name, c.Texts[text], text)
		}
		for _, text := range slices.Sorted(maps.Keys(c.Notes)) {
			line("- %s, note, %d times: %s", c.Name, c.Notes[text], text)
		}
	}
	for kind, texts := range r.Problems {
		for _, text := range texts {
			line("- %s: %s", kind, text)
		}
	}
	line("\nBroken promises: %d", len(r.Violations))
	for _, v := range r.Violations {
		line("- %s", v)
	}
	return b.String()
}

// operations has a line for each kind of operation, and in short runs one for each.
func (r *report) operations(line func(string, ...any)) {
	type sum struct {
		kind                                  string
		planned                               bool
		times, moved, errors, rebalances      int
		took, settled, producerGap, readerGap time.Duration
		producer, reader                      string
	}
	members := make(map[string]bool)
	for _, c := range r.Clients {
		members[c.Name] = c.Group != ""
	}
	kinds := make(map[string]*sum)
	for _, o := range r.Operations {
		k := kinds[o.Kind]
		if k == nil {
			k = &sum{kind: o.Kind, planned: o.Planned}
			kinds[o.Kind] = k
		}
		k.times++
		k.moved += len(o.Moved)
		k.took, k.settled = max(k.took, o.Took), max(k.settled, o.Settled)
		for _, v := range o.Sights {
			k.errors += v.Errors
			k.rebalances += v.Rebalances
			switch {
			case members[v.Client] && v.Gap > k.readerGap:
				k.readerGap, k.reader = v.Gap, v.Client
			case !members[v.Client] && v.Gap > k.producerGap:
				k.producerGap, k.producer = v.Gap, v.Client
			}
		}
	}
	line("\n| operation | planned | times | heads | errors | rebalances | took s, at most | all go on after s | longest gap of a producer s | of a member s |\n|---|---|---|---|---|---|---|---|---|---|")
	for _, k := range slices.SortedFunc(maps.Values(kinds), func(a, b *sum) int { return cmp.Compare(a.kind, b.kind) }) {
		line("| %s | %v | %d | %d | %d | %d | %.2f | %.2f | %.2f %s | %.2f %s |", k.kind, k.planned, k.times, k.moved, k.errors, k.rebalances,
			k.took.Seconds(), k.settled.Seconds(), k.producerGap.Seconds(), k.producer, k.readerGap.Seconds(), k.reader)
	}
	if len(r.Operations) > 60 {
		return
	}
	line("")
	for _, o := range r.Operations {
		line("- %s", o.String())
	}
}
