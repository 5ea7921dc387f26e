package check

import "fmt"

// An Acknowledged is a value with the offset that its producer was told; -1 = none.
type Acknowledged struct {
	Value
	Partition int32
	Offset    int64
}

// Placed checks that the log has each acknowledged value where its producer was told,
// and returns the first things that are wrong.
func Placed(log []Record, acknowledged []Acknowledged) (problems []string) {
	at := make(map[position]string, len(log))
	for _, r := range log {
		at[position{r.Partition, r.Offset}] = r.Value
	}
	for _, a := range acknowledged {
		if a.Offset < 0 {
			continue
		}
		if value := at[position{a.Partition, a.Offset}]; value != a.String() && len(problems) < problemsMax {
			problems = append(problems, fmt.Sprintf("%s was acknowledged at partition %d offset %d, where the log has %q", a.Value, a.Partition, a.Offset, value))
		}
	}
	return problems
}

// Contiguous checks that each partition's log has every offset from its first one on,
// and returns the first things that are wrong. The log is in order in each partition.
func Contiguous(log []Record) (problems []string) {
	next := make(map[int32]int64)
	for _, r := range log {
		if want, ok := next[r.Partition]; ok && r.Offset != want && len(problems) < problemsMax {
			problems = append(problems, fmt.Sprintf("partition %d has offset %d after %d", r.Partition, r.Offset, want-1))
		}
		next[r.Partition] = r.Offset + 1
	}
	return problems
}
