package groups

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

// TestAssign checks the rules of the assignment on random groups that change.
func TestAssign(t *testing.T) {
	for seed := range int64(300) {
		rng := rand.New(rand.NewSource(seed))
		counts := map[federation.TopicName]int32{}
		for i := range 1 + rng.Intn(5) {
			counts[federation.TopicName(fmt.Sprint("t", i))] = int32(1 + rng.Intn(12))
		}
		alike := rng.Intn(2) == 0
		newMember := func() subscriber {
			var s subscriber
			for i := range 5 {
				if alike || rng.Intn(3) > 0 {
					s.topics = append(s.topics, federation.TopicName(fmt.Sprint("t", i)))
				}
			}
			return s
		}
		members := []subscriber{newMember(), newMember()}
		for round := range 8 {
			switch rng.Intn(3) {
			case 0:
				members = append(members, newMember())
			case 1:
				if len(members) > 1 {
					i := rng.Intn(len(members))
					members = slices.Delete(members, i, i+1)
				}
			default:
				counts["t0"] = int32(rng.Intn(14))
			}
			given := assign(members, counts)
			again := assign(members, counts)
			require.Equal(t, given, again, "seed %d round %d", seed, round)
			checkAssignment(t, members, counts, given, fmt.Sprintf("seed %d round %d", seed, round))
			for i := range members {
				members[i].had = given[i]
			}
			require.Equal(t, given, assign(members, counts), "seed %d round %d: without a change nothing moves", seed, round)
		}
	}
}

func checkAssignment(t *testing.T, members []subscriber, counts map[federation.TopicName]int32, given []map[federation.TopicPartition]bool, where string) {
	t.Helper()
	owner := map[federation.TopicPartition]int{}
	for i, tps := range given {
		for tp := range tps {
			_, twice := owner[tp]
			require.False(t, twice, "%s: %s twice", where, tp)
			require.Contains(t, members[i].topics, tp.Topic, where)
			require.Less(t, int32(tp.Partition), counts[tp.Topic], where)
			owner[tp] = i
		}
	}
	for topic, n := range counts {
		var interested []int
		for i, m := range members {
			if slices.Contains(m.topics, topic) {
				interested = append(interested, i)
			}
		}
		for p := range n {
			i, ok := owner[federation.TopicPartition{Topic: topic, Partition: federation.LogicalPartition(p)}]
			require.Equal(t, len(interested) > 0, ok, "%s: %s-%d", where, topic, p)
			if !ok {
				continue
			}
			for _, o := range interested {
				require.LessOrEqual(t, len(given[i]), len(given[o])+1, "%s: %s-%d could go from %d to %d", where, topic, p, i, o)
			}
		}
	}
}

// Only what balance needs moves.
func TestAssignMovesLittle(t *testing.T) {
	counts := map[federation.TopicName]int32{"t": 18}
	members := make([]subscriber, 3) // the last one comes later
	for i := range members {
		members[i].topics = []federation.TopicName{"t"}
	}
	for i, g := range assign(members[:2], counts) {
		members[i].had = g
	}
	moved := 0
	for i, g := range assign(members, counts) {
		for tp := range g {
			if !members[i].had[tp] {
				moved++
			}
		}
	}
	require.Equal(t, 6, moved)
}

func BenchmarkAssignLarge(b *testing.B) {
	counts := map[federation.TopicName]int32{}
	var topics []federation.TopicName
	for i := range 100 {
		name := federation.TopicName(fmt.Sprintf("t%03d", i))
		topics = append(topics, name)
		counts[name] = 100
	}
	for _, alike := range []bool{true, false} {
		b.Run(fmt.Sprintf("alike=%v", alike), func(b *testing.B) {
			members := make([]subscriber, 1001)
			before, last := members[:1000], &members[1000]
			for i := range before {
				if members[i].topics = topics; !alike && i%2 == 0 {
					members[i].topics = topics[:50]
				}
			}
			for i, g := range assign(before, counts) {
				members[i].had = g
			}
			last.topics = topics
			for b.Loop() {
				assign(members, counts)
			}
		})
	}
}

// FuzzConsumerProtocol: bytes that a client sends never do harm, and what we encode
// decodes to the same.
func FuzzConsumerProtocol(f *testing.F) {
	f.Add(subscriptionBytes([]federation.TopicName{"t", "u"}, []federation.TopicPartition{tp("t", 1)}))
	f.Add(encodeAssignment(1, []federation.TopicPartition{tp("t", 1), tp("t", 3), tp("u", 0)}))
	f.Add([]byte{0, 3, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0x7f, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		sub := decodeSubscription(b)
		require.GreaterOrEqual(t, sub.version, int16(0))
		tps := decodeAssignment(b)
		require.Equal(t, slices.Compact(slices.Clone(tps)), slices.Compact(decodeAssignment(encodeAssignment(sub.version, slices.Clone(tps)))))
	})
}
