package planner

import (
	"cmp"
	"slices"

	"github.com/braidmq/braid/federation"
)

// A Load is what is appended to logical partitions, in bytes/s. Partitions that it
// does not name have none. It decides which heads move, and which of them goes where,
// never how many: that is a matter of the weights, so that plans are not at the mercy
// of a moment.
type Load map[federation.TopicPartition]int64

// of returns the load of a partition.
func (l Load) of(p *federation.Partition) int64 {
	return l[federation.TopicPartition{Topic: p.Topic, Partition: p.Number}]
}

// countLoad adds up what the targets carry.
func (b *board) countLoad() {
	if len(b.load) == 0 {
		return
	}
	for _, t := range b.m.Topics {
		for _, p := range t.Partitions {
			if h := p.Head(); h != nil && b.byName[h.Cluster] != nil {
				b.byName[h.Cluster].load += b.load.of(p)
			}
		}
	}
}

// leave chooses n of a topic's heads on one cluster that go elsewhere: those whose
// load together is nearest to what the cluster has above its share, if it is known.
// Of heads that are alike, those go that moved the least, so that no chain gets longer
// than it must.
func (b *board) leave(cluster federation.ClusterName, heads []*federation.Partition, n int64) []*federation.Partition {
	heads = slices.Clone(heads)
	slices.SortStableFunc(heads, func(a, b *federation.Partition) int { return cmp.Compare(len(a.Extents), len(b.Extents)) })
	if len(b.load) == 0 || int(n) == len(heads) {
		return heads[:n]
	}
	excess := b.excess(cluster)
	var out []*federation.Partition
	for ; n > 0; n-- {
		best := 0
		for i := range heads {
			if far(b.load.of(heads[i]), excess/n) < far(b.load.of(heads[best]), excess/n) {
				best = i
			}
		}
		excess = max(0, excess-b.load.of(heads[best]))
		out = append(out, heads[best])
		heads = slices.Delete(heads, best, best+1)
	}
	return out
}

func far(a, b int64) int64 { return max(a-b, b-a) }

// excess returns how much load a target has above its share by weight.
func (b *board) excess(cluster federation.ClusterName) int64 {
	total, weights := int64(0), int64(0)
	for _, x := range b.targets {
		total, weights = total+x.load, weights+x.weight
	}
	x := b.byName[cluster]
	return max(0, x.load-int64(float64(total)*float64(x.weight)/float64(weights)))
}

// spreadLoad has moves change their places: the head with the most load goes where
// the least is for the weight. Each cluster gets as many heads as before.
func (b *board) spreadLoad(moves []Move) {
	load := func(v *Move) int64 { return b.load[v.TopicPartition] }
	if !slices.ContainsFunc(moves, func(v Move) bool { return load(&v) > 0 }) {
		return
	}
	places := make(map[federation.ClusterName][]federation.PhysicalAddress)
	heaviest := make([]*Move, len(moves))
	for i := range moves {
		v := &moves[i]
		heaviest[i] = v
		places[v.To.Cluster] = append(places[v.To.Cluster], v.To)
		if x := b.byName[v.From.Cluster]; x != nil {
			x.load -= load(v)
		}
	}
	slices.SortStableFunc(heaviest, func(v, w *Move) int { return cmp.Compare(load(w), load(v)) })
	room := make(map[federation.ClusterName]int, len(places))
	for name, at := range places {
		room[name] = len(at)
	}
	for _, v := range heaviest {
		var best *target
		for _, x := range b.targets {
			if room[x.name] > 0 && (best == nil || float64(x.load+load(v))/float64(x.weight) < float64(best.load+load(v))/float64(best.weight)) {
				best = x
			}
		}
		v.To.Cluster = best.name
		room[best.name]--
		best.load += load(v)
	}
	for i := range moves { // in order on each cluster, as without a load
		at := places[moves[i].To.Cluster]
		moves[i].To, places[moves[i].To.Cluster] = at[0], at[1:]
	}
}
