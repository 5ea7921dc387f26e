package differential

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// A Difference is one between the answers of a broker and of braid, on purpose.
type Difference struct {
	// APIs says which answers; empty = all.
	APIs []kmsg.Key
	// Path is a regular expression of fields, in full; Label one of what was asked, empty = all.
	Path, Label string
	// Broker and Braid are regular expressions of the values, in full; empty = any.
	Broker, Braid string
	// What is shown to users, and Why. Markdown.
	What, Why string
	// Moved is set for what differs only where partitions have moved between clusters.
	Moved bool

	path, label, broker, braid *regexp.Regexp
}

func (d *Difference) compile() {
	full := func(text string) *regexp.Regexp {
		if text == "" {
			text = `[\s\S]*`
		}
		return regexp.MustCompile(`^(?:` + text + `)$`)
	}
	d.path, d.label, d.broker, d.braid = full(d.Path), full(d.Label), full(d.Broker), full(d.Braid)
}

func (d *Difference) matches(a Answer, path, broker, braid string) bool {
	if len(d.APIs) > 0 && !slices.Contains(d.APIs, kmsg.Key(a.Key)) {
		return false
	}
	return d.label.MatchString(a.Label) && d.path.MatchString(path) && d.broker.MatchString(broker) && d.braid.MatchString(braid)
}

// A Comparison counts what was compared, and collects what differs without a reason.
type Comparison struct {
	Answers, Fields int
	// Opaque counts fields that name something, and were compared as names: equal where the
	// other side's are.
	Opaque int
	// Used counts the differences that each row of the list explains.
	Used []int
	// Bugs are all others.
	Bugs []string

	list   []Difference
	moved  bool
	tokens map[string]map[string]string // kind -> a broker's name -> braid's, and back
}

// NewComparison makes a comparison by a list of differences, with a braid in which partitions
// have moved or not.
func NewComparison(list []Difference, moved bool) *Comparison {
	c := &Comparison{Used: make([]int, len(list)), list: list, moved: moved, tokens: make(map[string]map[string]string)}
	for i := range c.list {
		c.list[i].compile()
	}
	return c
}

// Explained is the number of fields that differ on purpose.
func (c *Comparison) Explained() (sum int) {
	for _, n := range c.Used {
		sum += n
	}
	return sum
}

// Reasons is by how many rows of the list they do.
func (c *Comparison) Reasons() (sum int) {
	for _, n := range c.Used {
		sum += min(n, 1)
	}
	return sum
}

// Compare compares two answers to the same request.
func (c *Comparison) Compare(broker, braid Answer) {
	c.Answers++
	if broker.Script != braid.Script || broker.Label != braid.Label || broker.Key != braid.Key || broker.Version != braid.Version {
		c.Bugs = append(c.Bugs, fmt.Sprintf("the scripts part: %s at the broker, %s at braid", broker, braid))
		return
	}
	theirs, ours := fields(broker), fields(braid)
	at := make(map[string]string, len(ours))
	for _, f := range ours {
		at[f.Path] = f.Value
	}
	for _, f := range theirs {
		value, have := at[f.Path]
		if !have {
			value = "missing"
		}
		delete(at, f.Path)
		c.field(broker, f, value)
	}
	for _, f := range ours {
		if _, more := at[f.Path]; more {
			c.field(broker, Field{f.Path, f.Name, "missing"}, f.Value)
		}
	}
}

func fields(a Answer) []Field {
	if a.Response == nil {
		return []Field{{"answer", "answer", a.Instead}}
	}
	all := []Field{{"answer", "answer", "an answer"}}
	walk(a.Response, func(f Field) { all = append(all, f) })
	return all
}

func (c *Comparison) field(a Answer, f Field, braid string) {
	c.Fields++
	if f.Value != "missing" && braid != "missing" {
		if kind := opaque(f.Name); kind != "" {
			if c.same(kind, f.Value, braid) {
				c.Opaque++
				return
			}
		} else if f.Value == braid {
			return
		}
	}
	for i := range c.list {
		if (c.moved || !c.list[i].Moved) && c.list[i].matches(a, f.Path, f.Value, braid) {
			c.Used[i]++
			return
		}
	}
	c.Bugs = append(c.Bugs, fmt.Sprintf("%s: %s: a broker has %q, braid has %q", a, f.Path, shorten(f.Value), shorten(braid)))
}

func shorten(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}

// opaque returns what a field is the name of: each side has its own.
func opaque(field string) string {
	switch field {
	case "NodeID", "Leader", "LeaderID", "ControllerID", "Coordinator", "BrokerID", "CurrentLeader", "Replicas", "ISR":
		return "node"
	case "Host", "Port":
		return "address"
	case "ClusterID":
		return "cluster"
	case "TopicID":
		return "topic"
	case "MemberID", "Members":
		return "member"
	case "ProducerID":
		return "producer"
	case "SessionID":
		return "session"
	}
	return ""
}

// nobody are the values that name nothing; they must be equal.
var nobody = map[string]bool{
	"": true, "-1": true, "0": true, "null": true, "[]": true, "missing": true, strings.Repeat("0", 32): true,
}

// same reports whether two names name the same on both sides, which the first answers that
// have them decide.
func (c *Comparison) same(kind, broker, braid string) bool {
	if nobody[broker] || nobody[braid] {
		return broker == braid
	}
	known := c.tokens[kind]
	if known == nil {
		known = make(map[string]string)
		c.tokens[kind] = known
	}
	there, haveThere := known["broker "+broker]
	here, haveHere := known["braid "+braid]
	if !haveThere && !haveHere {
		known["broker "+broker], known["braid "+braid] = braid, broker
		return true
	}
	return there == braid && here == broker
}
