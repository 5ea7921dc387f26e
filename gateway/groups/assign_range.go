package groups

import (
	"slices"

	"github.com/braidmq/braid/federation"
)

// The server-side assignors, by Kafka's names.
const (
	assignorUniform = "uniform" // the default
	assignorRange   = "range"
)

func assignBy(assignor string, members []subscriber, counts map[federation.TopicName]int32) []map[federation.TopicPartition]bool {
	if assignor == assignorRange {
		return assignRanges(members, counts)
	}
	return assign(members, counts)
}

// assignRanges shares each topic for itself among its subscribers, as evenly as its
// partitions allow, in ranges: so topics with the same number of partitions and the same
// subscribers are shared alike, and can be joined. What a member had of its share stays
// (Kafka's RangeAssignor). It is deterministic.
func assignRanges(members []subscriber, counts map[federation.TopicName]int32) []map[federation.TopicPartition]bool {
	given := make([]map[federation.TopicPartition]bool, len(members))
	interested := map[federation.TopicName][]int{}
	for i, m := range members {
		given[i] = map[federation.TopicPartition]bool{}
		for _, t := range m.topics {
			if counts[t] > 0 {
				interested[t] = append(interested[t], i)
			}
		}
	}
	for topic, subscribers := range interested {
		rangeOfTopic(topic, counts[topic], members, subscribers, given)
	}
	return given
}

func rangeOfTopic(topic federation.TopicName, count int32, members []subscriber, subscribers []int, given []map[federation.TopicPartition]bool) {
	quota, extra := int(count)/len(subscribers), int(count)%len(subscribers)
	taken := make([]bool, count)
	give := func(i, p int) {
		taken[p] = true
		given[i][federation.TopicPartition{Topic: topic, Partition: federation.LogicalPartition(p)}] = true
	}
	missing := make([]int, len(subscribers)) // of a member's share
	full := make([]bool, len(subscribers))   // with one of the extra partitions
	for n, i := range subscribers {
		had := hadOf(&members[i], topic, taken)
		share := quota
		if len(had) > quota && extra > 0 {
			extra--
			share, full[n] = share+1, true
		}
		had = had[:min(len(had), share)]
		for _, p := range had {
			give(i, p)
		}
		missing[n] = share - len(had)
	}
	next := 0
	for n, i := range subscribers {
		if extra > 0 && !full[n] {
			extra--
			missing[n]++
		}
		for ; missing[n] > 0; missing[n]-- {
			for taken[next] {
				next++
			}
			give(i, next)
		}
	}
}

// hadOf returns what a member had of a topic and nobody before it keeps, in order.
func hadOf(m *subscriber, topic federation.TopicName, taken []bool) []int {
	var had []int
	for tp := range m.had {
		if p := int(tp.Partition); tp.Topic == topic && p < len(taken) && !taken[p] {
			had = append(had, p)
		}
	}
	slices.Sort(had)
	return had
}
