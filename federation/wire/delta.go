package wire

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// A Delta is what changed between two versions of a map.
type Delta struct {
	From, To federation.MapVersion
	Upserts  []*controlv1.MapEntry // in the order of their keys
	Deletes  []string              // sorted
}

// Empty reports whether nothing changed but the version.
func (d *Delta) Empty() bool { return len(d.Upserts) == 0 && len(d.Deletes) == 0 }

// Proto returns the delta as the control stream carries it.
func (d *Delta) Proto() *controlv1.MapDelta {
	return &controlv1.MapDelta{FromVersion: int64(d.From), ToVersion: int64(d.To), Upserts: d.Upserts, Deletes: d.Deletes}
}

// DeltaFromProto is the reverse of Delta.Proto.
func DeltaFromProto(p *controlv1.MapDelta) Delta {
	return Delta{
		From:    federation.MapVersion(p.GetFromVersion()),
		To:      federation.MapVersion(p.GetToVersion()),
		Upserts: p.GetUpserts(),
		Deletes: p.GetDeletes(),
	}
}

// Diff returns what makes to out of from. Parts that the two maps share are
// recognised by their address, so a small change of a large map costs little.
func Diff(from, to *federation.Map) Delta {
	d := Delta{From: from.Version, To: to.Version}
	v := int64(to.Version)
	if from.LogicalCluster != to.LogicalCluster || from.ClusterID != to.ClusterID || from.FleetGeneration != to.FleetGeneration || from.Version == 0 {
		d.Upserts = append(d.Upserts, metaEntry(to, v))
	}
	d.diffClusters(from, to)
	d.diffGateways(from, to)
	d.diffACLs(from, to)
	d.diffQuotas(from, to)
	d.diffGroupConfigs(from, to)
	d.diffCredentials(from, to)
	d.diffTenants(from, to)
	for name, t := range to.Topics {
		d.diffTopic(from.Topics[name], t)
	}
	for name, t := range from.Topics {
		if to.Topics[name] == nil {
			d.Deletes = append(d.Deletes, TopicKey(name))
			d.deletePartitions(t, 0)
		}
	}
	sortEntries(d.Upserts)
	slices.Sort(d.Deletes)
	return d
}

func (d *Delta) diffClusters(from, to *federation.Map) {
	for name, c := range to.Clusters {
		if old := from.Clusters[name]; old != c && (old == nil || !equalCluster(old, c)) {
			d.Upserts = append(d.Upserts, clusterEntry(c, int64(d.To)))
		}
	}
	for name := range from.Clusters {
		if to.Clusters[name] == nil {
			d.Deletes = append(d.Deletes, ClusterKey(name))
		}
	}
}

func (d *Delta) diffGateways(from, to *federation.Map) {
	for _, g := range to.Gateways {
		if old := from.Gateway(g.ID); old != g && (old == nil || *old != *g) {
			d.Upserts = append(d.Upserts, gatewayEntry(g, int64(d.To)))
		}
	}
	for _, g := range from.Gateways {
		if to.Gateway(g.ID) == nil {
			d.Deletes = append(d.Deletes, GatewayKey(g.ID))
		}
	}
}

// diffTopic compares a topic; old is nil if it is new.
func (d *Delta) diffTopic(old, t *federation.Topic) {
	if old == t {
		return
	}
	v := int64(d.To)
	if old == nil || !equalTopic(old, t) {
		d.Upserts = append(d.Upserts, topicEntry(t, v))
	}
	for i, p := range t.Partitions {
		if old != nil && i < len(old.Partitions) && (old.Partitions[i] == p || equalPartition(old.Partitions[i], p)) {
			continue
		}
		d.Upserts = append(d.Upserts, partitionEntry(p, v))
	}
	if old != nil {
		d.deletePartitions(old, len(t.Partitions))
	}
}

func (d *Delta) deletePartitions(t *federation.Topic, from int) {
	for i := from; i < len(t.Partitions); i++ {
		tp := federation.TopicPartition{Topic: t.Name, Partition: federation.LogicalPartition(i)}
		d.Deletes = append(d.Deletes, PartitionKey(tp))
	}
}

func equalCluster(a, b *federation.Cluster) bool {
	return a.Name == b.Name && a.State == b.State && a.Weight == b.Weight && a.PhysicalID == b.PhysicalID && a.SecurityProfile == b.SecurityProfile && slices.Equal(a.Seeds, b.Seeds)
}

// equalTopic compares all but the partitions themselves.
func equalTopic(a, b *federation.Topic) bool {
	return a.Name == b.Name && a.ID == b.ID && a.ReplicationFactor == b.ReplicationFactor && a.Generation == b.Generation &&
		a.CreatedMs == b.CreatedMs && len(a.Partitions) == len(b.Partitions) &&
		maps.Equal(a.Config, b.Config) && slices.Equal(a.Clusters, b.Clusters)
}

func equalPartition(a, b *federation.Partition) bool {
	return a.Topic == b.Topic && a.Number == b.Number && a.Epoch == b.Epoch && slices.EqualFunc(a.Extents, b.Extents, equalExtent)
}

func equalExtent(a, b *federation.Extent) bool {
	return a == b || a.Number == b.Number && a.PhysicalAddress == b.PhysicalAddress && a.Base == b.Base && a.Start == b.Start &&
		a.End == b.End && a.State == b.State && a.Opening == b.Opening && a.Copies == b.Copies && slices.Equal(a.Epochs, b.Epochs) &&
		a.Seen == b.Seen && a.Acknowledged == b.Acknowledged && a.Seal == b.Seal && a.Failed == b.Failed && slices.Equal(a.Hidden, b.Hidden) && slices.Equal(a.Dropped, b.Dropped)
}

// Apply returns the next version of m. It shares with m all that did not change:
// only changed topics and partitions are copied. m itself stays as it is. The
// delta must begin at m's version; a delta that breaks a rule is refused whole.
func Apply(m *federation.Map, d Delta) (*federation.Map, error) {
	if d.From != m.Version {
		return nil, fmt.Errorf("map %d: the delta begins at version %d", m.Version, d.From)
	}
	if d.To <= d.From {
		return nil, fmt.Errorf("map %d: the delta goes back to version %d", m.Version, d.To)
	}
	next := *m
	next.Version = d.To
	e, err := newEdit(&next).applyAll(d.Upserts, d.Deletes)
	if err != nil {
		return nil, fmt.Errorf("map %d: %w", d.To, err)
	}
	out, err := e.finish()
	if err != nil {
		return nil, fmt.Errorf("map %d: %w", d.To, err)
	}
	if err := e.checkExtents(); err != nil {
		return nil, fmt.Errorf("map %d: %w", d.To, err)
	}
	return out.Seal(), nil
}

// An edit makes the next version of a map: m is the copy that becomes it, whose
// containers are copied before the first change of each.
type edit struct {
	m               *federation.Map
	meta            bool // the entry meta was given
	ownClusters     bool
	ownGateways     bool
	ownCreds        bool
	ownTopics       bool
	ownACLs         bool
	ownQuotas       bool
	ownGroupConfigs bool
	ownTenants      bool
	topicEntries    bool                                // an entry of a topic itself was given
	topics          map[federation.TopicName]*topicEdit // changed ones
	lostCluster     bool                                // a cluster was deleted
	newPartitions   []*federation.Partition
}

// A topicEdit collects what the entries say of one topic.
type topicEdit struct {
	entry      *controlv1.TopicEntry // nil = unchanged
	deleted    bool
	partitions map[federation.LogicalPartition]*federation.Partition
	gone       map[federation.LogicalPartition]bool
}

func newEdit(m *federation.Map) *edit {
	return &edit{m: m, topics: make(map[federation.TopicName]*topicEdit)}
}

func (e *edit) topic(name federation.TopicName) *topicEdit {
	t := e.topics[name]
	if t == nil {
		t = &topicEdit{
			partitions: make(map[federation.LogicalPartition]*federation.Partition),
			gone:       make(map[federation.LogicalPartition]bool),
		}
		e.topics[name] = t
	}
	return t
}

func (e *edit) clusters() map[federation.ClusterName]*federation.Cluster {
	if !e.ownClusters {
		e.ownClusters = true
		e.m.Clusters = maps.Clone(e.m.Clusters)
	}
	return e.m.Clusters
}

func (e *edit) setGateway(id federation.GatewayID, g *federation.Gateway) {
	if !e.ownGateways {
		e.ownGateways = true
		e.m.Gateways = slices.Clone(e.m.Gateways)
	}
	i := slices.IndexFunc(e.m.Gateways, func(x *federation.Gateway) bool { return x.ID == id })
	switch {
	case g == nil && i >= 0:
		e.m.Gateways = slices.Delete(e.m.Gateways, i, i+1)
	case g == nil:
	case i >= 0:
		e.m.Gateways[i] = g
	default:
		e.m.Gateways = append(e.m.Gateways, g)
	}
}

func (e *edit) applyAll(upserts []*controlv1.MapEntry, deletes []string) (*edit, error) {
	for _, key := range deletes {
		if err := e.remove(key); err != nil {
			return nil, err
		}
	}
	seen := make(map[string]bool, len(upserts))
	for _, u := range upserts {
		if seen[u.GetKey()] {
			return nil, fmt.Errorf("the entry %q comes twice", u.GetKey())
		}
		seen[u.GetKey()] = true
		if err := e.upsert(u); err != nil {
			return nil, fmt.Errorf("entry %q: %w", u.GetKey(), err)
		}
	}
	return e, nil
}

func (e *edit) remove(key string) error {
	switch {
	case strings.HasPrefix(key, prefixCluster):
		delete(e.clusters(), federation.ClusterName(key[len(prefixCluster):]))
		e.lostCluster = true
	case strings.HasPrefix(key, prefixGateway):
		e.setGateway(federation.GatewayID(key[len(prefixGateway):]), nil)
	case strings.HasPrefix(key, prefixACL):
		delete(e.acls(), federation.ACLID(key[len(prefixACL):]))
	case strings.HasPrefix(key, prefixQuota):
		return e.removeQuota(key)
	case strings.HasPrefix(key, prefixGroupConfig):
		return e.removeGroupConfig(key)
	case strings.HasPrefix(key, prefixCredential):
		return e.removeCredential(key)
	case strings.HasPrefix(key, prefixTenant):
		e.removeTenant(key[len(prefixTenant):])
	case strings.HasPrefix(key, prefixTopic):
		e.topic(federation.TopicName(key[len(prefixTopic):])).deleted = true
	case strings.HasPrefix(key, prefixPartition):
		tp, ok := splitPartitionKey(key[len(prefixPartition):])
		if !ok {
			return fmt.Errorf("delete of %q: bad key", key)
		}
		e.topic(tp.Topic).gone[tp.Partition] = true
	default:
		return fmt.Errorf("delete of %q: unknown key", key)
	}
	return nil
}

func (e *edit) upsert(u *controlv1.MapEntry) error {
	switch v := u.GetValue().(type) {
	case *controlv1.MapEntry_Meta:
		if u.GetKey() != keyMeta {
			return errKey
		}
		e.meta = true
		e.m.LogicalCluster, e.m.ClusterID, e.m.FleetGeneration = v.Meta.GetLogicalCluster(), v.Meta.GetClusterId(), v.Meta.GetFleetGeneration()
		if e.m.FleetGeneration < 0 {
			return fmt.Errorf("fleet generation %d is negative", e.m.FleetGeneration)
		}
	case *controlv1.MapEntry_Cluster:
		c, err := decodeCluster(v.Cluster)
		if err != nil {
			return err
		}
		if u.GetKey() != ClusterKey(c.Name) {
			return errKey
		}
		e.clusters()[c.Name] = c
	case *controlv1.MapEntry_Gateway:
		g, err := decodeGateway(v.Gateway)
		if err != nil {
			return err
		}
		if u.GetKey() != GatewayKey(g.ID) {
			return errKey
		}
		e.setGateway(g.ID, g)
	case *controlv1.MapEntry_Credential:
		return e.setCredential(u.GetKey(), v.Credential)
	case *controlv1.MapEntry_Topic:
		if u.GetKey() != TopicKey(federation.TopicName(v.Topic.GetName())) {
			return errKey
		}
		e.topicEntries = true
		e.topic(federation.TopicName(v.Topic.GetName())).entry = v.Topic
	case *controlv1.MapEntry_Partition:
		p, err := decodePartition(v.Partition)
		if err != nil {
			return err
		}
		if u.GetKey() != PartitionKey(federation.TopicPartition{Topic: p.Topic, Partition: p.Number}) {
			return errKey
		}
		e.topic(p.Topic).partitions[p.Number] = p
		e.newPartitions = append(e.newPartitions, p)
	case *controlv1.MapEntry_Tenant:
		return e.setTenant(u.GetKey(), v.Tenant)
	case *controlv1.MapEntry_Acl:
		return e.setACL(u.GetKey(), v.Acl)
	case *controlv1.MapEntry_Quota:
		return e.setQuota(u.GetKey(), v.Quota)
	case *controlv1.MapEntry_GroupConfig:
		return e.setGroupConfig(u.GetKey(), v.GroupConfig)
	default:
		return errNoValue
	}
	return nil
}

// finish puts the changed topics together.
func (e *edit) finish() (*federation.Map, error) {
	for name, te := range e.topics {
		if !e.ownTopics {
			e.ownTopics = true
			e.m.Topics = maps.Clone(e.m.Topics)
		}
		old := e.m.Topics[name]
		if te.deleted && te.entry == nil {
			if len(te.partitions) > 0 {
				return nil, fmt.Errorf("topic %q: deleted, but has partitions", name)
			}
			delete(e.m.Topics, name)
			continue
		}
		if te.deleted {
			old = nil // a new topic of the same name
		}
		t, err := te.build(name, old)
		if err != nil {
			return nil, err
		}
		e.m.Topics[name] = t
	}
	return e.m, e.checkNodes()
}

func (te *topicEdit) build(name federation.TopicName, old *federation.Topic) (*federation.Topic, error) {
	var t *federation.Topic
	var count int
	switch {
	case te.entry != nil:
		decoded, err := decodeTopic(te.entry)
		if err != nil {
			return nil, err
		}
		t, count = decoded, int(te.entry.GetPartitionCount())
	case old != nil:
		shallow := *old
		t, count = &shallow, len(old.Partitions)
	default:
		return nil, fmt.Errorf("topic %q: has partitions, but no entry of its own", name)
	}
	// The count is not trusted before the partitions were seen to be there.
	have := len(te.partitions)
	if old != nil {
		have += len(old.Partitions)
	}
	if count > have {
		return nil, fmt.Errorf("topic %q: has %d partitions, but entries of at most %d", name, count, have)
	}
	t.Partitions = make([]*federation.Partition, count)
	if old != nil {
		copy(t.Partitions, old.Partitions)
	}
	for n := range te.gone {
		if int(n) < count {
			t.Partitions[n] = nil
		}
	}
	for n, p := range te.partitions {
		if int(n) >= count || n < 0 {
			return nil, fmt.Errorf("topic %q: has %d partitions, but also an entry of partition %d", name, count, n)
		}
		t.Partitions[n] = p
	}
	for i, p := range t.Partitions {
		if p == nil {
			return nil, fmt.Errorf("topic %q: partition %d is missing", name, i)
		}
	}
	return t, nil
}

// checkNodes refuses two gateways with one node id, and two topics with one id
// among those that changed.
func (e *edit) checkNodes() error {
	if e.ownGateways {
		byNode := make(map[federation.NodeID]federation.GatewayID, len(e.m.Gateways))
		for _, g := range e.m.Gateways {
			if other, ok := byNode[g.NodeID]; ok {
				return fmt.Errorf("gateways %q and %q both have the node id %d", other, g.ID, g.NodeID)
			}
			byNode[g.NodeID] = g.ID
		}
	}
	if !e.topicEntries {
		return nil
	}
	byID := make(map[federation.TopicID]federation.TopicName, len(e.m.Topics))
	for name, t := range e.m.Topics {
		if t.ID == (federation.TopicID{}) {
			return fmt.Errorf("topic %q has no topic id", name)
		}
		if other, ok := byID[t.ID]; ok {
			return fmt.Errorf("topics %q and %q have the same topic id", min(name, other), max(name, other))
		}
		byID[t.ID] = name
	}
	return nil
}

// checkExtents holds the changed extents against all others, without building an
// index of the whole map: no physical partition may be used twice, and each
// cluster must exist.
func (e *edit) checkExtents() error {
	used := make(map[federation.PhysicalAddress]federation.TopicPartition)
	changed := make(map[*federation.Partition]bool, len(e.newPartitions))
	for _, p := range e.newPartitions {
		changed[p] = true
		tp := federation.TopicPartition{Topic: p.Topic, Partition: p.Number}
		for _, x := range p.Extents {
			if e.m.Clusters[x.Cluster] == nil {
				return fmt.Errorf("%s: extent %d lies on unknown cluster %q", tp, x.Number, x.Cluster)
			}
			if other, ok := used[x.PhysicalAddress]; ok {
				return fmt.Errorf("%s is used by %s and %s", x.PhysicalAddress, other, tp)
			}
			used[x.PhysicalAddress] = tp
		}
	}
	if len(used) == 0 && !e.lostCluster {
		return nil
	}
	for _, t := range e.m.Topics {
		for _, p := range t.Partitions {
			if changed[p] {
				continue
			}
			for _, x := range p.Extents {
				if other, ok := used[x.PhysicalAddress]; ok {
					return fmt.Errorf("%s is used by %s and %s-%d", x.PhysicalAddress, other, p.Topic, p.Number)
				}
				if e.lostCluster && e.m.Clusters[x.Cluster] == nil {
					return fmt.Errorf("%s-%d: extent %d lies on cluster %q, which was deleted", p.Topic, p.Number, x.Number, x.Cluster)
				}
			}
		}
	}
	return nil
}
