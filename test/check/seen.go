package check

import "fmt"

// Seen is what all readers of a topic have seen so far: one offset has one value, for
// everybody and at any time.
type Seen struct {
	values  map[position]sight
	highest map[int32]int64
	next    map[reading]int64
}

// A sight is what was seen, and who saw it first.
type sight struct{ reader, value string }

type reading struct {
	reader    string
	partition int32
}

// NewSeen returns one that has seen nothing.
func NewSeen() *Seen {
	return &Seen{values: make(map[position]sight), highest: make(map[int32]int64), next: make(map[reading]int64)}
}

// Read takes in what a reader saw, and returns what is wrong with it.
func (s *Seen) Read(reader string, r Record) (problem string) {
	p := position{r.Partition, r.Offset}
	was, known := s.values[p]
	switch {
	case !known:
		s.values[p] = sight{reader, r.Value}
		s.highest[r.Partition] = max(s.highest[r.Partition], r.Offset+1)
	case was.value != r.Value:
		return fmt.Sprintf("%s saw %q at partition %d offset %d, where %s saw %q before", reader, r.Value, r.Partition, r.Offset, was.reader, was.value)
	}
	return ""
}

// Next is Read for a reader that reads each partition in order, from wherever it
// begins, without gaps.
func (s *Seen) Next(reader string, r Record) (problem string) {
	if problem := s.Read(reader, r); problem != "" {
		return problem
	}
	at := reading{reader, r.Partition}
	next, begun := s.next[at]
	s.next[at] = r.Offset + 1
	if begun && r.Offset != next {
		return fmt.Sprintf("%s saw partition %d offset %d (%q) after offset %d", reader, r.Partition, r.Offset, r.Value, next-1)
	}
	return ""
}

// Ahead is Next for a log with gaps.
func (s *Seen) Ahead(reader string, r Record) (problem string) {
	at := reading{reader, r.Partition}
	if next, begun := s.next[at]; begun && r.Offset > next {
		s.next[at] = r.Offset
	}
	return s.Next(reader, r)
}

// Highest is the offset after the highest one of a partition.
func (s *Seen) Highest(partition int32) int64 { return s.highest[partition] }

// Growing watches numbers that must not go back, such as epochs, by what they are of.
type Growing map[string]int64

// See takes in a number, and returns what is wrong with it.
func (g Growing) See(of string, n int64) (problem string) {
	if last, ok := g[of]; ok && n < last {
		return fmt.Sprintf("%s went back from %d to %d", of, last, n)
	}
	g[of] = n
	return ""
}
