package planner

import (
	"slices"

	"github.com/braidmq/braid/federation"
)

// An Abandoned topic is one that has extents on a cluster that never comes back.
type Abandoned struct {
	Topic      federation.TopicName
	Partitions []federation.LogicalPartition
	Extents    int
	// Records is how many were acknowledged, or seen by a reader, as far as that is known;
	// Unseen how many of them no reader has seen.
	Records, Unseen int64
}

// ToAbandon returns what is given up with a cluster, by topic. It is an error if the
// cluster has not failed, or if heads lie there.
func ToAbandon(m *federation.Map, cluster federation.ClusterName) ([]Abandoned, error) {
	switch c := m.Clusters[cluster]; {
	case c == nil:
		return nil, federation.Errorf(federation.UnknownCluster, "physical cluster %q is not known", cluster)
	case c.State != federation.ClusterFailed:
		return nil, federation.Errorf(federation.PolicyViolation, "physical cluster %q has not failed: `braid cluster drain` empties it; if it never comes back, `braid cluster fail` it first", cluster)
	}
	var out []Abandoned
	var heads []federation.ClusterName // topics, for quoted
	for _, name := range m.TopicNames() {
		a := Abandoned{Topic: name}
		for _, p := range m.Topics[name].Partitions {
			n := a.Extents
			for i, e := range p.Extents {
				if e.Cluster != cluster {
					continue
				}
				if i == len(p.Extents)-1 {
					heads = append(heads, federation.ClusterName(name))
					break
				}
				a.Extents++
				known := max(e.Seen, e.Acknowledged)
				if e.Sealed() {
					known = e.End
				} else {
					a.Unseen += max(0, int64(e.Acknowledged-max(e.Seen, e.Start)))
				}
				a.Records += max(0, int64(known-e.Start)) + e.Copies.Len()
			}
			if a.Extents > n {
				a.Partitions = append(a.Partitions, p.Number)
			}
		}
		if a.Extents > 0 {
			out = append(out, a)
		}
	}
	if heads = slices.Compact(heads); len(heads) > 0 {
		return nil, federation.Errorf(federation.PolicyViolation,
			"physical cluster %q: heads of %d topics still lie there: %s; `braid topic expand --to` lets them use another cluster, then fail the cluster again, or delete the topics", cluster, len(heads), quoted(heads))
	}
	return out, nil
}

// WithAbandoned returns the map in which a topic has no extents on a cluster that failed
// any more; m itself if it has none, so that it can be repeated. Offsets stay as they are:
// where the extents were is a gap.
func WithAbandoned(m *federation.Map, cluster federation.ClusterName, topic federation.TopicName) (*federation.Map, error) {
	if _, err := ToAbandon(m, cluster); err != nil {
		return nil, err
	}
	t := m.Topic(topic)
	if t == nil {
		return m, nil // deleted meanwhile
	}
	e := edit{m: m}
	for _, p := range t.Partitions {
		left := slices.DeleteFunc(slices.Clone(p.Extents), func(x *federation.Extent) bool { return x.Cluster == cluster })
		if len(left) == len(p.Extents) {
			continue
		}
		out := *p
		out.Extents = left
		e.set(&out)
	}
	return e.done(), nil
}
