package groups

import (
	"maps"
	"slices"

	"github.com/braidmq/braid/federation"
)

// A subscriber is a member as the assignment sees it.
type subscriber struct {
	topics []federation.TopicName             // sorted, without repeats
	had    map[federation.TopicPartition]bool // what it should have had so far
}

// assign shares the partitions of topics (with their number of partitions) among
// their subscribers. A partition stays where it was unless its member is gone, does
// not subscribe any more, or has two more than a subscriber that could take it; so
// a change moves as little as balance needs. It is deterministic.
func assign(members []subscriber, counts map[federation.TopicName]int32) []map[federation.TopicPartition]bool {
	a := newAssignment(members, counts)
	var loose []federation.TopicPartition
	for _, t := range a.topics {
		for p := range federation.LogicalPartition(counts[t]) {
			if tp := (federation.TopicPartition{Topic: t, Partition: p}); !a.owned[tp] {
				loose = append(loose, tp)
			}
		}
	}
	if alike(members) {
		a.shareEvenly(loose)
	} else {
		for _, tp := range loose {
			a.give(a.least(tp.Topic), tp)
		}
		a.balance()
	}
	return a.given
}

type assignment struct {
	given      []map[federation.TopicPartition]bool
	interested map[federation.TopicName][]int // members that subscribe to a topic
	topics     []federation.TopicName         // of interested; those that few can read first, so that the others even it out
	owned      map[federation.TopicPartition]bool
}

// newAssignment leaves everything where it may stay.
func newAssignment(members []subscriber, counts map[federation.TopicName]int32) *assignment {
	a := &assignment{
		given:      make([]map[federation.TopicPartition]bool, len(members)),
		interested: map[federation.TopicName][]int{}, owned: map[federation.TopicPartition]bool{},
	}
	for i, m := range members {
		a.given[i] = map[federation.TopicPartition]bool{}
		for _, t := range m.topics {
			if counts[t] > 0 {
				a.interested[t] = append(a.interested[t], i)
			}
		}
	}
	a.topics = slices.SortedFunc(maps.Keys(a.interested), func(x, y federation.TopicName) int {
		if d := len(a.interested[x]) - len(a.interested[y]); d != 0 {
			return d
		}
		if x < y {
			return -1
		}
		return 1
	})
	for i, m := range members {
		for tp := range m.had {
			_, subscribes := slices.BinarySearch(m.topics, tp.Topic)
			if subscribes && !a.owned[tp] && tp.Partition < federation.LogicalPartition(counts[tp.Topic]) {
				a.give(i, tp)
			}
		}
	}
	return a
}

func alike(members []subscriber) bool {
	for _, m := range members[min(1, len(members)):] {
		if !slices.Equal(m.topics, members[0].topics) {
			return false
		}
	}
	return true
}

func (a *assignment) give(i int, tp federation.TopicPartition) {
	a.given[i][tp] = true
	a.owned[tp] = true
}

// least returns the subscriber of a topic with the fewest partitions.
func (a *assignment) least(t federation.TopicName) int {
	best := -1
	for _, i := range a.interested[t] {
		if best < 0 || len(a.given[i]) < len(a.given[best]) {
			best = i
		}
	}
	return best
}

// shareEvenly is for members with the same subscription: each gets its share, the
// remainder goes to those that have the most, and only what is above a share moves.
func (a *assignment) shareEvenly(loose []federation.TopicPartition) {
	n := len(a.given)
	if n == 0 {
		return
	}
	order := make([]int, n)
	total := len(loose)
	for i := range a.given {
		order[i] = i
		total += len(a.given[i])
	}
	slices.SortStableFunc(order, func(x, y int) int { return len(a.given[y]) - len(a.given[x]) })
	share := make([]int, n)
	for rank, i := range order {
		share[i] = total / n
		if rank < total%n {
			share[i]++
		}
		if over := len(a.given[i]) - share[i]; over > 0 {
			mine := sortedKeys(a.given[i])
			for _, tp := range mine[len(mine)-over:] {
				delete(a.given[i], tp)
				loose = append(loose, tp)
			}
		}
	}
	sortPartitions(loose)
	// One each in turn, so that the partitions of a topic spread.
	for len(loose) > 0 {
		for i := range a.given {
			if len(loose) > 0 && len(a.given[i]) < share[i] {
				a.give(i, loose[0])
				loose = loose[1:]
			}
		}
	}
}

// balance moves partitions, one at a time and from the fullest member first, to
// members that have at least two fewer, until there is no such move. Each move
// makes the sum of squares smaller, so it ends.
func (a *assignment) balance() {
	for {
		order := make([]int, len(a.given))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(x, y int) int { return len(a.given[y]) - len(a.given[x]) })
		if !slices.ContainsFunc(order, a.relieve) {
			return
		}
	}
}

// relieve moves partitions away from a member while that evens out, and reports
// whether it moved any.
func (a *assignment) relieve(from int) bool {
	moved := false
	for _, tp := range sortedKeys(a.given[from]) {
		if to := a.least(tp.Topic); len(a.given[to])+1 < len(a.given[from]) {
			delete(a.given[from], tp)
			a.give(to, tp)
			moved = true
		}
	}
	return moved
}
