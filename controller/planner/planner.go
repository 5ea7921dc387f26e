// Package planner decides what the next map is: where heads go, how epochs rise,
// which gateways are in. It is pure: values in, values out, no clock, no network.
//
// Functions that take a map return another one that shares what did not change;
// they leave the version to the one who publishes it.
package planner

import (
	"cmp"
	"slices"

	"github.com/braidmq/braid/federation"
)

// A Spec is a topic that is to be created.
type Spec struct {
	Name       federation.TopicName
	Partitions int32
	Generation int32
	// Clusters limits where heads may lie; empty = all active clusters.
	Clusters []federation.ClusterName
	// Weights overrides the clusters' own weights.
	Weights map[federation.ClusterName]int32
}

// A Plan says where the heads of new partitions go.
type Plan struct {
	// First is the first new logical partition.
	First federation.LogicalPartition `json:"first"`
	// Topics are the physical topics that are needed, with the number of partitions
	// that they must have in the end, by cluster.
	Topics []PhysicalTopic `json:"topics"`
	// Heads are the places of the new logical partitions, from First on. On each
	// cluster the physical partitions are dense: no broker carries empty ones.
	Heads []federation.PhysicalAddress `json:"heads"`
}

// A PhysicalTopic is a topic of a physical cluster.
type PhysicalTopic struct {
	Cluster    federation.ClusterName `json:"cluster"`
	Name       string                 `json:"name"`
	Partitions int32                  `json:"partitions"`
	// Exists tells that the topic is there, with fewer partitions.
	Exists bool `json:"exists,omitempty"`
}

// Create plans a new topic: its heads are spread by weight over the clusters
// that may take them. Clusters that are away at this moment take none, unless
// the topic names them; then that is an error.
func Create(m *federation.Map, s Spec, away map[federation.ClusterName]bool) (Plan, error) {
	targets, err := eligible(m, s.Name, s.Clusters, s.Weights, away)
	if err != nil {
		return Plan{}, err
	}
	return place(m, targets, s.Name, s.Generation, 0, s.Partitions), nil
}

// Grow plans more partitions for a topic, total in the end. The heads that it
// has count in the spread. existing says how many partitions its physical topic has
// on each cluster: a physical partition that was used once, by an extent that has
// left the map or by a move that was given up, is not used again.
func Grow(m *federation.Map, t *federation.Topic, total int32, existing map[federation.ClusterName]int32, away map[federation.ClusterName]bool) (Plan, error) {
	targets, err := eligible(m, t.Name, t.Clusters, nil, away)
	if err != nil {
		return Plan{}, err
	}
	name := PhysicalName(m.LogicalCluster, t.Name, t.Generation)
	for _, x := range targets {
		x.next, x.exists = existing[x.name], existing[x.name] > 0
	}
	for _, p := range t.Partitions {
		for _, e := range p.Extents {
			for _, x := range targets {
				if x.name != e.Cluster {
					continue
				}
				if e == p.Head() {
					x.topicHeads++
				}
				if e.Topic == name {
					x.exists = true
					x.next = max(x.next, int32(e.Partition)+1)
				}
			}
		}
	}
	return place(m, targets, t.Name, t.Generation, int32(len(t.Partitions)), total), nil
}

// A target is a cluster that may take heads.
type target struct {
	name       federation.ClusterName
	weight     int64
	heads      int64 // of all topics
	topicHeads int64
	had        int64 // heads of the topic that could stay
	room       int64 // heads of the topic that it still takes
	next       int32 // next free partition of the physical topic
	exists     bool
	used       bool
	load       int64 // of all heads, in bytes/s
}

// eligible returns the targets of new heads. Clusters that the topic names must be able to take some.
func eligible(m *federation.Map, topic federation.TopicName, limit []federation.ClusterName, weights map[federation.ClusterName]int32, away map[federation.ClusterName]bool) ([]*target, error) {
	if err := checkTargets(m, topic, limit, away); err != nil {
		return nil, err
	}
	for name, w := range weights {
		if m.Clusters[name] == nil {
			return nil, federation.Errorf(federation.UnknownCluster, "topic %q: weight of physical cluster %q, which is not known", topic, name)
		}
		if w < 0 {
			return nil, federation.Errorf(federation.InvalidArgument, "topic %q: weight %d of physical cluster %q is negative", topic, w, name)
		}
	}
	out, missing := candidates(m, limit, weights, away)
	if len(out) == 0 {
		return nil, errNoTarget(topic, missing)
	}
	return out, nil
}

// checkTargets checks that clusters that somebody named can take heads now.
func checkTargets(m *federation.Map, topic federation.TopicName, named []federation.ClusterName, away map[federation.ClusterName]bool) error {
	for _, name := range named {
		c := m.Clusters[name]
		switch {
		case c == nil:
			return federation.Errorf(federation.UnknownCluster, "topic %q: physical cluster %q is not known; `braid cluster list` shows those that are", topic, name)
		case c.State != federation.ClusterActive:
			return federation.Errorf(federation.InvalidArgument, "topic %q: physical cluster %q is %s and takes no new partitions", topic, name, c.State)
		case away[name]:
			return federation.Errorf(federation.ClusterUnavailable, "topic %q: physical cluster %q does not answer at the moment; try again, or leave it out", topic, name)
		}
	}
	return nil
}

// candidates returns the clusters within the limit that can take heads now, by
// name, and whether others could if they were not away.
func candidates(m *federation.Map, limit []federation.ClusterName, weights map[federation.ClusterName]int32, away map[federation.ClusterName]bool) (out []*target, missing bool) {
	for name, c := range m.Clusters {
		if c.State != federation.ClusterActive || len(limit) > 0 && !slices.Contains(limit, name) {
			continue
		}
		weight := c.Weight
		if w, ok := weights[name]; ok {
			weight = w
		}
		if weight <= 0 {
			continue
		}
		if away[name] {
			missing = true
			continue
		}
		out = append(out, &target{name: name, weight: int64(weight)})
	}
	slices.SortFunc(out, func(a, b *target) int { return cmp.Compare(a.name, b.name) })
	return out, missing
}

func errNoTarget(topic federation.TopicName, missing bool) error {
	if missing {
		return federation.Errorf(federation.ClusterUnavailable, "topic %q: no physical cluster answers at the moment; try again", topic)
	}
	return federation.Errorf(federation.PolicyViolation, "topic %q: no active physical cluster with a weight above 0 may take it; `braid cluster add` adds one", topic)
}

// place gives each new partition to the cluster that has the fewest heads of the
// topic for its weight; then the fewest heads at all; then the first by name.
func place(m *federation.Map, targets []*target, topic federation.TopicName, generation, first, total int32) Plan {
	countHeads(m, targets)
	plan := Plan{First: federation.LogicalPartition(first)}
	name := PhysicalName(m.LogicalCluster, topic, generation)
	for i := first; i < total; i++ {
		plan.Heads = append(plan.Heads, pick(targets).take(name))
	}
	plan.Topics = physicalTopics(targets, name)
	return plan
}

// pick returns the target that is to have the next head.
func pick(targets []*target) *target {
	best := targets[0]
	for _, x := range targets[1:] {
		if x.before(best) {
			best = x
		}
	}
	return best
}

func (x *target) before(y *target) bool {
	if a, b := (x.topicHeads+1)*y.weight, (y.topicHeads+1)*x.weight; a != b {
		return a < b
	}
	// A head that may stay is a move less.
	if a, b := x.topicHeads < x.had, y.topicHeads < y.had; a != b {
		return a
	}
	return (x.heads+1)*y.weight < (y.heads+1)*x.weight
}

// take uses the next partition of the physical topic for a head.
func (x *target) take(name string) federation.PhysicalAddress {
	at := federation.PhysicalAddress{Cluster: x.name, Topic: name, Partition: federation.PhysicalPartition(x.next)}
	x.next++
	x.heads++
	x.topicHeads++
	x.used = true
	return at
}

// physicalTopics returns what the targets that took heads need.
func physicalTopics(targets []*target, name string) []PhysicalTopic {
	var out []PhysicalTopic
	for _, x := range targets {
		if x.used {
			out = append(out, PhysicalTopic{Cluster: x.name, Name: name, Partitions: x.next, Exists: x.exists})
		}
	}
	return out
}

// countHeads counts the heads of all topics on the targets, and returns these by name.
func countHeads(m *federation.Map, targets []*target) map[federation.ClusterName]*target {
	byName := make(map[federation.ClusterName]*target, len(targets))
	for _, x := range targets {
		byName[x.name] = x
	}
	for _, t := range m.Topics {
		for _, p := range t.Partitions {
			if h := p.Head(); h != nil && byName[h.Cluster] != nil {
				byName[h.Cluster].heads++
			}
		}
	}
	return byName
}

// Partitions returns the logical partitions of a plan, once their physical
// partitions have leaders: each has one open extent from offset 0 on, whose
// epochs begin with the physical leader epoch at that moment.
func (p *Plan) Partitions(topic federation.TopicName, epochs []federation.PhysicalEpoch) []*federation.Partition {
	out := make([]*federation.Partition, len(p.Heads))
	for i, at := range p.Heads {
		out[i] = &federation.Partition{
			Topic:  topic,
			Number: p.First + federation.LogicalPartition(i),
			Extents: []*federation.Extent{{
				PhysicalAddress: at,
				State:           federation.ExtentOpen,
				Epochs:          []federation.EpochEntry{{Physical: epochs[i]}},
			}},
		}
	}
	return out
}
