package planner

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/braidmq/braid/federation"
)

// A Move takes the head of a logical partition elsewhere: the extent that is the
// head now is sealed, and the next one opens at To.
type Move struct {
	federation.TopicPartition `json:"partition"`

	Extent int32                      `json:"extent"` // number of the head that is sealed
	From   federation.PhysicalAddress `json:"from"`
	To     federation.PhysicalAddress `json:"to"`
}

func (v Move) String() string {
	return fmt.Sprintf("%s: extent %d from %s to %s", v.TopicPartition, v.Extent, v.From, v.To)
}

// A MovePlan says which heads of a topic move, and where.
type MovePlan struct {
	Topic      federation.TopicName `json:"topic"`
	TopicID    federation.TopicID   `json:"topicId"`
	Generation int32                `json:"generation"`
	// Moves are in the order of the partitions; there is none if nothing needs to move.
	Moves []Move `json:"moves"`
	// Topics are the physical topics that the moves need, with the number of
	// partitions that they must have in the end, by cluster.
	Topics []PhysicalTopic `json:"topics"`
}

// Expand plans the moves after which the heads of a topic are spread by weight
// over all clusters that may take them, as Create would spread them, and no more
// moves than that takes. The topic may use the clusters that are named from then
// on, too: the caller adds them with WithTopicClusters. None named = those that
// it may use now.
//
// Heads on clusters that drain, have no weight, or are none of the topic's, move
// as well. Heads on clusters that failed or are away stay, since they cannot be
// sealed, and so do suspended ones; the rest is spread over the clusters that
// can be reached, whatever lies on those that cannot.
//
// existing is how many partitions the topic's PhysicalName has on each cluster
// right now. Heads go to partitions that never existed before only. How many heads
// go where is a matter of the weights alone; which ones do, of their load.
func Expand(m *federation.Map, topic federation.TopicName, clusters []federation.ClusterName, existing map[federation.ClusterName]int32, away map[federation.ClusterName]bool, load Load) (MovePlan, error) {
	t := m.Topic(topic)
	if t == nil {
		return MovePlan{}, errUnknownTopic(topic)
	}
	if err := checkTargets(m, topic, clusters, away); err != nil {
		return MovePlan{}, err
	}
	for _, name := range clusters {
		if m.Clusters[name].Weight <= 0 {
			return MovePlan{}, federation.Errorf(federation.InvalidArgument, "topic %q: physical cluster %q has the weight 0 and takes no partitions", topic, name)
		}
	}
	limit := t.Clusters
	if len(limit) > 0 {
		limit = union(limit, clusters)
	}
	targets, missing := candidates(m, limit, nil, away)
	if len(targets) == 0 {
		return MovePlan{}, errNoTarget(topic, missing)
	}
	b := newBoard(m, targets, load, t)
	b.aim(t, existing)

	// How many heads each cluster may part with.
	over := make(map[federation.ClusterName]int64)
	movable := make(map[federation.ClusterName][]*federation.Partition)
	for _, p := range t.Partitions {
		if h := p.Head(); h != nil && reachable(m, h, away) {
			movable[h.Cluster] = append(movable[h.Cluster], p)
			over[h.Cluster]++
		}
	}
	share(targets, over)
	for _, x := range targets {
		over[x.name] = max(0, x.had-x.topicHeads)
	}
	var leaving []*federation.Partition
	for name, n := range over {
		leaving = append(leaving, b.leave(name, movable[name], n)...)
	}
	slices.SortFunc(leaving, func(a, b *federation.Partition) int { return cmp.Compare(a.Number, b.Number) })
	// What a cluster lacks is given to it again, head by head.
	lacking := slices.DeleteFunc(slices.Clone(targets), func(x *target) bool { return x.topicHeads <= x.had })
	for _, x := range lacking {
		x.room = x.topicHeads - x.had
		x.heads -= x.room
		x.topicHeads = x.had
	}
	return b.plan(t, leaving, lacking), nil
}

// MoveTo plans the moves of some heads of a topic to one cluster. Those that lie
// there already are left out. A limit of the topic does not count: it is the
// caller who knows whether the cluster is to be added to it.
func MoveTo(m *federation.Map, topic federation.TopicName, partitions []federation.LogicalPartition, cluster federation.ClusterName, existing map[federation.ClusterName]int32, away map[federation.ClusterName]bool) (MovePlan, error) {
	t := m.Topic(topic)
	if t == nil {
		return MovePlan{}, errUnknownTopic(topic)
	}
	if err := checkTargets(m, topic, []federation.ClusterName{cluster}, away); err != nil {
		return MovePlan{}, err
	}
	partitions = slices.Clone(partitions)
	slices.Sort(partitions)
	var unknown []string
	var leaving []*federation.Partition
	for _, n := range slices.Compact(partitions) {
		if n < 0 || int(n) >= len(t.Partitions) {
			unknown = append(unknown, strconv.Itoa(int(n)))
			continue
		}
		p := t.Partitions[n]
		h := p.Head()
		switch {
		case h == nil || h.Cluster == cluster:
			continue
		case m.Clusters[h.Cluster].State == federation.ClusterFailed || h.State == federation.ExtentSuspended:
			return MovePlan{}, federation.Errorf(federation.PolicyViolation, "topic %q: the head of partition %d cannot be sealed, since physical cluster %q failed; it can only be failed over", topic, n, h.Cluster)
		case away[h.Cluster]:
			return MovePlan{}, federation.Errorf(federation.ClusterUnavailable, "topic %q: the head of partition %d lies on physical cluster %q, which does not answer at the moment; try again", topic, n, h.Cluster)
		}
		leaving = append(leaving, p)
	}
	if len(unknown) > 0 {
		return MovePlan{}, federation.Errorf(federation.UnknownPartition, "topic %q has partitions 0 to %d, not %s", topic, len(t.Partitions)-1, handful(unknown))
	}
	targets := []*target{{name: cluster, weight: 1, room: int64(len(leaving))}}
	b := newBoard(m, targets, nil, t)
	b.aim(t, existing)
	return b.plan(t, leaving, targets), nil
}

// Drain plans the moves of all heads that lie on a cluster, one plan for each
// topic that has some there, by name. They go to the other clusters that their
// topic may use, where the topic, then all topics, have the fewest for the
// weight. existing is asked about these topics only.
func Drain(m *federation.Map, cluster federation.ClusterName, existing func(topic *federation.Topic) map[federation.ClusterName]int32, away map[federation.ClusterName]bool, load Load) ([]MovePlan, error) {
	c := m.Clusters[cluster]
	switch {
	case c == nil:
		return nil, federation.Errorf(federation.UnknownCluster, "physical cluster %q is not known", cluster)
	case c.State == federation.ClusterFailed:
		return nil, federation.Errorf(federation.PolicyViolation, "physical cluster %q failed: its heads cannot be sealed, only failed over", cluster)
	case away[cluster]:
		return nil, federation.Errorf(federation.ClusterUnavailable, "physical cluster %q does not answer at the moment; try again", cluster)
	}
	targets, _ := candidates(m, nil, nil, away)
	targets = slices.DeleteFunc(targets, func(x *target) bool { return x.name == cluster })
	var drained []*federation.Topic
	leaving := make(map[federation.TopicName][]*federation.Partition)
	var stuck stuckTopics
	for _, name := range m.TopicNames() {
		t := m.Topics[name]
		for _, p := range t.Partitions {
			h := p.Head()
			if h == nil || h.Cluster != cluster {
				continue
			}
			if h.State == federation.ExtentSuspended {
				return nil, federation.Errorf(federation.Conflict, "topic %q: the head of partition %d is suspended; it is recovered, or failed over, first", name, p.Number)
			}
			leaving[name] = append(leaving[name], p)
		}
		if len(leaving[name]) == 0 {
			continue
		}
		drained = append(drained, t)
		if !slices.ContainsFunc(targets, func(x *target) bool { return mayUse(t, x.name) }) {
			stuck.add(m, t, cluster, away)
		}
	}
	if err := stuck.err(cluster); err != nil {
		return nil, err
	}
	b := newBoard(m, targets, load, drained...)
	plans := make([]MovePlan, 0, len(drained))
	for _, t := range drained {
		var has map[federation.ClusterName]int32
		if existing != nil {
			has = existing(t)
		}
		b.aim(t, has)
		fit := slices.DeleteFunc(slices.Clone(targets), func(x *target) bool { return !mayUse(t, x.name) })
		for _, x := range fit {
			x.room = int64(len(leaving[t.Name]))
		}
		plans = append(plans, b.plan(t, leaving[t.Name], fit))
	}
	return plans, nil
}

// stuckTopics are the topics whose heads have nowhere to go.
type stuckTopics struct {
	texts []string
	final bool // some of them will not find a place by waiting
}

func (s *stuckTopics) add(m *federation.Map, t *federation.Topic, drained federation.ClusterName, away map[federation.ClusterName]bool) {
	_, missing := candidates(m, t.Clusters, nil, away)
	others := slices.DeleteFunc(slices.Clone(t.Clusters), func(n federation.ClusterName) bool { return n == drained })
	why := "there is no other active cluster"
	switch {
	case missing:
		why = "the others do not answer at the moment"
	case len(t.Clusters) > 0 && len(others) == 0:
		why = "limited to this one"
	case len(t.Clusters) > 0:
		why = "may else use only " + quoted(others) + ", where no heads go"
	}
	s.final = s.final || !missing
	s.texts = append(s.texts, fmt.Sprintf("%q (%s)", t.Name, why))
}

func (s *stuckTopics) err(cluster federation.ClusterName) error {
	switch {
	case len(s.texts) == 0:
		return nil
	case s.final:
		return federation.Errorf(federation.PolicyViolation, "physical cluster %q cannot be drained; these topics have nowhere to go: %s", cluster, handful(s.texts))
	default:
		return federation.Errorf(federation.ClusterUnavailable, "physical cluster %q cannot be drained now; these topics have nowhere to go: %s; try again", cluster, handful(s.texts))
	}
}

// A board counts what lies on the clusters while moves are planned.
type board struct {
	m       *federation.Map
	targets []*target
	byName  map[federation.ClusterName]*target
	// foreign is 1 + the highest partition of a physical topic that another logical
	// topic than its own uses; hardly ever is there one.
	foreign map[physicalName]int32
	load    Load
}

type physicalName struct {
	cluster federation.ClusterName
	topic   string
}

func newBoard(m *federation.Map, targets []*target, load Load, topics ...*federation.Topic) *board {
	b := &board{m: m, targets: targets, byName: countHeads(m, targets), foreign: make(map[physicalName]int32), load: load}
	b.countLoad()
	names := make(map[string]bool, len(topics))
	for _, t := range topics {
		names[PhysicalName(m.LogicalCluster, t.Name, t.Generation)] = true
	}
	for _, t := range m.Topics {
		own := PhysicalName(m.LogicalCluster, t.Name, t.Generation)
		for _, p := range t.Partitions {
			for _, e := range p.Extents {
				if e.Topic != own && names[e.Topic] {
					at := physicalName{e.Cluster, e.Topic}
					b.foreign[at] = max(b.foreign[at], int32(e.Partition)+1)
				}
			}
		}
	}
	return b
}

// aim sets the targets up for the heads of one topic.
func (b *board) aim(t *federation.Topic, existing map[federation.ClusterName]int32) {
	name := PhysicalName(b.m.LogicalCluster, t.Name, t.Generation)
	for _, x := range b.targets {
		x.topicHeads, x.had, x.room, x.used = 0, 0, 0, false
		x.exists = existing[x.name] > 0
		x.next = max(existing[x.name], b.foreign[physicalName{x.name, name}])
	}
	for _, p := range t.Partitions {
		for i, e := range p.Extents {
			x := b.byName[e.Cluster]
			if x == nil {
				continue
			}
			if i == len(p.Extents)-1 {
				x.topicHeads++
			}
			if e.Topic == name {
				x.next = max(x.next, int32(e.Partition)+1)
			}
		}
	}
}

// plan gives each head that leaves to one of the targets that have room.
func (b *board) plan(t *federation.Topic, leaving []*federation.Partition, targets []*target) MovePlan {
	plan := MovePlan{Topic: t.Name, TopicID: t.ID, Generation: t.Generation}
	name := PhysicalName(b.m.LogicalCluster, t.Name, t.Generation)
	for _, p := range leaving {
		best := pick(targets)
		best.room--
		h := p.Head()
		plan.Moves = append(plan.Moves, Move{
			TopicPartition: federation.TopicPartition{Topic: t.Name, Partition: p.Number},
			Extent:         h.Number,
			From:           h.PhysicalAddress,
			To:             best.take(name),
		})
		if best.room == 0 {
			targets = slices.DeleteFunc(slices.Clone(targets), func(x *target) bool { return x == best })
		}
	}
	b.spreadLoad(plan.Moves)
	plan.Topics = physicalTopics(b.targets, name)
	return plan
}

// share sets topicHeads of the targets to how many of the movable heads each is
// to have, and had to how many it has. Of the ways to be in balance it takes the
// one that is nearest to what is there.
func share(targets []*target, movable map[federation.ClusterName]int64) {
	rest, weights := int64(0), int64(0)
	for _, n := range movable {
		rest += n
	}
	for _, x := range targets {
		weights += x.weight
	}
	total := rest
	for _, x := range targets {
		// Nobody gets less than that by giving the heads out one by one.
		n := total * x.weight / weights
		x.had, x.topicHeads = movable[x.name], n
		x.heads += n - x.had
		rest -= n
	}
	for ; rest > 0; rest-- {
		best := pick(targets)
		best.topicHeads++
		best.heads++
	}
}

// reachable reports whether the head can be sealed.
func reachable(m *federation.Map, h *federation.Extent, away map[federation.ClusterName]bool) bool {
	return h.State != federation.ExtentSuspended && m.Clusters[h.Cluster].State != federation.ClusterFailed && !away[h.Cluster]
}

func mayUse(t *federation.Topic, cluster federation.ClusterName) bool {
	return len(t.Clusters) == 0 || slices.Contains(t.Clusters, cluster)
}

func union(names, more []federation.ClusterName) []federation.ClusterName {
	out := slices.Clone(names)
	for _, n := range more {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// quoted lists a handful of names.
func quoted(names []federation.ClusterName) string {
	texts := make([]string, len(names))
	for i, n := range names {
		texts[i] = strconv.Quote(string(n))
	}
	return handful(texts)
}

func errUnknownTopic(name federation.TopicName) error {
	return federation.Errorf(federation.UnknownTopic, "topic %q does not exist", name)
}

// handful joins the first few of some texts, and says how many more there are.
func handful(texts []string) string {
	const most = 5
	if len(texts) <= most {
		return strings.Join(texts, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(texts[:most], ", "), len(texts)-most)
}
