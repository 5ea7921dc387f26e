package planner

import (
	"maps"
	"slices"

	"github.com/braidmq/braid/federation"
)

// WithTopic returns the map with a topic added or replaced.
func WithTopic(m *federation.Map, t *federation.Topic) *federation.Map {
	next := *m
	next.Topics = maps.Clone(m.Topics)
	next.Topics[t.Name] = t
	return next.Seal()
}

// WithoutTopic returns the map without a topic.
func WithoutTopic(m *federation.Map, name federation.TopicName) *federation.Map {
	if m.Topics[name] == nil {
		return m
	}
	next := *m
	next.Topics = maps.Clone(m.Topics)
	delete(next.Topics, name)
	return next.Seal()
}

// WithCluster returns the map with a physical cluster added or replaced.
func WithCluster(m *federation.Map, c *federation.Cluster) *federation.Map {
	next := *m
	next.Clusters = maps.Clone(m.Clusters)
	next.Clusters[c.Name] = c
	return next.Seal()
}

// WithoutCluster returns the map without a physical cluster. It is refused while
// an extent lies on it, and while it is the only one that a topic may use.
func WithoutCluster(m *federation.Map, name federation.ClusterName) (*federation.Map, error) {
	if m.Clusters[name] == nil {
		return nil, federation.Errorf(federation.UnknownCluster, "physical cluster %q is not known", name)
	}
	extents, topic := 0, federation.TopicName("")
	next := *m
	next.Topics = maps.Clone(m.Topics)
	for _, n := range m.TopicNames() {
		t := m.Topics[n]
		for _, p := range t.Partitions {
			for _, e := range p.Extents {
				if e.Cluster == name {
					extents++
					topic = n
				}
			}
		}
		if i := slices.Index(t.Clusters, name); i >= 0 {
			if len(t.Clusters) == 1 && extents == 0 {
				return nil, federation.Errorf(federation.PolicyViolation, "physical cluster %q is the only one that topic %q may use", name, n)
			}
			changed := *t
			changed.Clusters = slices.Delete(slices.Clone(t.Clusters), i, i+1)
			next.Topics[n] = &changed
		}
	}
	if extents > 0 {
		return nil, federation.Errorf(federation.PolicyViolation,
			"physical cluster %q still holds %d extents (one of topic %q); drain it, or delete the topics, first", name, extents, topic)
	}
	next.Clusters = maps.Clone(m.Clusters)
	delete(next.Clusters, name)
	return next.Seal(), nil
}

// WithClusterState returns the map with another state of a physical cluster; m
// itself if that is its state.
func WithClusterState(m *federation.Map, name federation.ClusterName, state federation.ClusterState) (*federation.Map, error) {
	c := m.Clusters[name]
	switch {
	case c == nil:
		return nil, federation.Errorf(federation.UnknownCluster, "physical cluster %q is not known", name)
	case c.State == state:
		return m, nil
	}
	changed := *c
	changed.State = state
	return WithCluster(m, &changed), nil
}

// WithTopicClusters returns the map in which a topic may use some more clusters;
// m itself if it may use them already, as a topic without a limit does.
func WithTopicClusters(m *federation.Map, topic federation.TopicName, clusters []federation.ClusterName) (*federation.Map, error) {
	t := m.Topic(topic)
	if t == nil {
		return nil, errUnknownTopic(topic)
	}
	for _, name := range clusters {
		if m.Clusters[name] == nil {
			return nil, federation.Errorf(federation.UnknownCluster, "topic %q: physical cluster %q is not known", topic, name)
		}
	}
	all := union(t.Clusters, clusters)
	if len(t.Clusters) == 0 || len(all) == len(t.Clusters) {
		return m, nil
	}
	changed := *t
	changed.Clusters = all
	return WithTopic(m, &changed), nil
}

// WithGateway returns the map with a gateway added or changed; m itself if that
// changes nothing. The fleet generation rises if the gateways that Metadata
// names change: those that are ready, their roles, their zones.
func WithGateway(m *federation.Map, g *federation.Gateway) *federation.Map {
	old := m.Gateway(g.ID)
	if old != nil && *old == *g {
		return m
	}
	next := *m
	next.Gateways = slices.DeleteFunc(slices.Clone(m.Gateways), func(x *federation.Gateway) bool { return x.ID == g.ID })
	next.Gateways = append(next.Gateways, g)
	return raiseGeneration(m, &next)
}

// WithoutGateways returns the map without some gateways; m itself if it has none of them.
func WithoutGateways(m *federation.Map, ids ...federation.GatewayID) *federation.Map {
	next := *m
	next.Gateways = slices.DeleteFunc(slices.Clone(m.Gateways), func(x *federation.Gateway) bool { return slices.Contains(ids, x.ID) })
	if len(next.Gateways) == len(m.Gateways) {
		return m
	}
	return raiseGeneration(m, &next)
}

type named struct {
	node federation.NodeID
	role federation.Role
	zone string
}

func raiseGeneration(old, next *federation.Map) *federation.Map {
	ready := func(m *federation.Map) map[named]bool {
		all := make(map[named]bool)
		for _, g := range m.Gateways {
			if g.State == federation.GatewayReady {
				all[named{g.NodeID, g.Role, g.Zone}] = true
			}
		}
		return all
	}
	if !maps.Equal(ready(old), ready(next)) {
		next.FleetGeneration++
	}
	return next.Seal()
}

// A LeaderSeen is a leader epoch of a physical partition, as somebody met it.
type LeaderSeen struct {
	federation.PhysicalAddress
	Epoch federation.PhysicalEpoch
}

// RaiseEpochs returns the map with the epochs of all heads raised whose physical
// partition has a newer leader epoch than the map knows, and how many; m itself
// if there is none. What is older, or about no head, is passed over.
func RaiseEpochs(m *federation.Map, seen []LeaderSeen) (*federation.Map, int) {
	newest := make(map[federation.PhysicalAddress]federation.PhysicalEpoch, len(seen))
	topics := make(map[string]bool)
	for _, s := range seen {
		topics[s.Topic] = true
		if e, ok := newest[s.PhysicalAddress]; !ok || s.Epoch > e {
			newest[s.PhysicalAddress] = s.Epoch
		}
	}
	// Neighbours lie in the same physical topic, so most look-ups are spared.
	lastTopic, lastSeen := "", false
	if len(newest) == 0 {
		return m, 0
	}
	next := *m
	next.Topics = nil // copied at the first change
	raised := 0
	for name, t := range m.Topics {
		var changed *federation.Topic
		for i, p := range t.Partitions {
			h := p.Head()
			if h == nil || h.State == federation.ExtentSuspended {
				continue
			}
			if h.Topic != lastTopic {
				lastTopic, lastSeen = h.Topic, topics[h.Topic]
			}
			if !lastSeen {
				continue
			}
			epoch, ok := newest[h.PhysicalAddress]
			if !ok || epoch <= h.LastEpoch().Physical {
				continue
			}
			if changed == nil {
				c := *t
				c.Partitions = slices.Clone(t.Partitions)
				changed = &c
			}
			changed.Partitions[i] = raise(p, epoch)
			raised++
		}
		if changed == nil {
			continue
		}
		if next.Topics == nil {
			next.Topics = maps.Clone(m.Topics)
		}
		next.Topics[name] = changed
	}
	if raised == 0 {
		return m, 0
	}
	return next.Seal(), raised
}

func raise(p *federation.Partition, epoch federation.PhysicalEpoch) *federation.Partition {
	out := *p
	out.Epoch++
	out.Extents = slices.Clone(p.Extents)
	head := *p.Head()
	head.Epochs = append(slices.Clone(head.Epochs), federation.EpochEntry{Physical: epoch, Logical: out.Epoch})
	out.Extents[len(out.Extents)-1] = &head
	return &out
}

// WithQuotas returns the map with some quotas changed, all or none; m itself if that
// changes nothing.
func WithQuotas(m *federation.Map, changes []federation.QuotaChange) (*federation.Map, error) {
	quotas, err := m.Quotas.Apply(changes)
	if err != nil {
		return nil, err
	}
	if maps.EqualFunc(quotas, m.Quotas, func(a, b *federation.Quota) bool { return a == b }) {
		return m, nil
	}
	next := *m
	next.Quotas = quotas
	return next.Seal(), nil
}

// WithGroupConfig returns the map with the settings of a group changed; m itself if that
// changes nothing.
func WithGroupConfig(m *federation.Map, change *federation.GroupConfigChange) (*federation.Map, error) {
	configs, changed, err := m.GroupConfigs.Apply(change)
	if err != nil || !changed {
		return m, err
	}
	next := *m
	next.GroupConfigs = configs
	return next.Seal(), nil
}

// WithACLs returns the map with some ACLs added and others taken away; m itself if that
// changes nothing.
func WithACLs(m *federation.Map, add []*federation.ACL, remove []federation.ACLID) *federation.Map {
	acls := maps.Clone(m.ACLs)
	if acls == nil {
		acls = make(federation.ACLs)
	}
	changed := false
	for _, id := range remove {
		if acls[id] != nil {
			delete(acls, id)
			changed = true
		}
	}
	for _, a := range add {
		if id := a.ID(); acls[id] == nil {
			acls[id], changed = a, true
		}
	}
	if !changed {
		return m
	}
	next := *m
	next.ACLs = acls
	return next.Seal()
}
