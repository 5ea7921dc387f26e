package federation

import (
	"fmt"
	"slices"
	"sort"
)

// A Map is the immutable snapshot of one logical cluster. Nothing in it may be
// changed after it was published; the Builder makes the next version.
type Map struct {
	LogicalCluster  string
	ClusterID       string // the cluster id that clients see
	Version         MapVersion
	FleetGeneration int32
	Clusters        map[ClusterName]*Cluster
	Gateways        []*Gateway // ascending by ID
	Topics          map[TopicName]*Topic
	ACLs            ACLs
	Quotas          Quotas
	GroupConfigs    GroupConfigs                 // nil = none
	Tenants         map[string]*Tenant           // nil = none
	Credentials     map[CredentialID]*Credential `json:"-"` // nil = none; shown nowhere

	byTopicID  map[TopicID]*Topic
	byNodeID   map[NodeID]*Gateway
	iterations map[ScramMechanism][]iterationCount
}

// ClusterState is the state of a physical cluster.
type ClusterState int8

// The states of a physical cluster.
const (
	ClusterActive   ClusterState = iota + 1
	ClusterDraining              // readable, takes no new heads
	ClusterFailed
)

func (s ClusterState) String() string {
	switch s {
	case ClusterActive:
		return "active"
	case ClusterDraining:
		return "draining"
	case ClusterFailed:
		return "failed"
	}
	return "unknown"
}

// A Cluster is a physical Kafka cluster.
type Cluster struct {
	Name       ClusterName
	Seeds      []string
	State      ClusterState
	Weight     int32
	PhysicalID string // the cluster id that its brokers report; empty until the first contact
	// SecurityProfile names what each process has in its own files of TLS and SASL towards
	// the cluster; empty = neither.
	SecurityProfile string
}

// A Topic is a logical topic.
type Topic struct {
	Name              TopicName
	ID                TopicID
	Config            map[string]string
	ReplicationFactor int32
	Generation        int32
	CreatedMs         int64
	Clusters          []ClusterName // where heads may lie; empty = all active clusters
	Partitions        []*Partition  // index = logical partition
}

// A Partition is a logical partition: its extents, oldest first. The last is the head.
type Partition struct {
	Topic   TopicName
	Number  LogicalPartition
	Epoch   LogicalEpoch // partition epoch, without the fleet generation
	Extents []*Extent
}

// Head returns the last extent, the only one that can take appends; nil if the
// partition has none yet.
func (p *Partition) Head() *Extent {
	if len(p.Extents) == 0 {
		return nil
	}
	return p.Extents[len(p.Extents)-1]
}

// Locate returns the index of the extent that holds offset or, if no extent
// does (a gap, or the offset is below the first), the next one above it.
// Offsets from the head's base on locate the head, whether they exist or not.
func (p *Partition) Locate(offset LogicalOffset) int {
	for i, e := range p.Extents {
		if end, ok := e.EndOffset(); !ok || offset < end {
			// A suspended extent has no known end: it ends where the next begins.
			if !ok && i+1 < len(p.Extents) && offset >= p.Extents[i+1].Base {
				continue
			}
			return i
		}
	}
	return len(p.Extents) - 1
}

// Between returns how many offsets of the extents lie between two: gaps between extents
// do not count, nor what lies behind the last record of a suspended extent that is known.
func (p *Partition) Between(from, to LogicalOffset) (n int64) {
	for i, e := range p.Extents {
		end, sealed := e.EndOffset()
		switch {
		case sealed:
		case i == len(p.Extents)-1:
			end = to
		default:
			end = e.Logical(max(e.Seen, e.Acknowledged))
		}
		n += max(0, int64(min(end, to)-max(e.First(), from)))
	}
	return n
}

// LeaderEpoch returns the leader epoch that clients see for a partition.
func (m *Map) LeaderEpoch(p *Partition) LogicalEpoch {
	return p.Epoch + LogicalEpoch(m.FleetGeneration)
}

// Topic returns a topic by name; nil if there is none.
func (m *Map) Topic(name TopicName) *Topic { return m.Topics[name] }

// TopicByID returns a topic by its id; nil if there is none.
func (m *Map) TopicByID(id TopicID) *Topic { return m.byTopicID[id] }

// GatewayByNode returns a gateway by its node id; nil if there is none.
func (m *Map) GatewayByNode(id NodeID) *Gateway { return m.byNodeID[id] }

// Gateway returns a gateway by its id; nil if there is none.
func (m *Map) Gateway(id GatewayID) *Gateway {
	i := sort.Search(len(m.Gateways), func(i int) bool { return m.Gateways[i].ID >= id })
	if i < len(m.Gateways) && m.Gateways[i].ID == id {
		return m.Gateways[i]
	}
	return nil
}

// Partition returns a partition, or an error of kind UnknownTopic or UnknownPartition.
func (m *Map) Partition(tp TopicPartition) (*Partition, error) {
	t := m.Topics[tp.Topic]
	if t == nil {
		return nil, Errorf(UnknownTopic, "topic %q does not exist", tp.Topic)
	}
	if tp.Partition < 0 || int(tp.Partition) >= len(t.Partitions) {
		return nil, Errorf(UnknownPartition, "topic %q has partitions 0 to %d, not %d", tp.Topic, len(t.Partitions)-1, tp.Partition)
	}
	return t.Partitions[tp.Partition], nil
}

// TopicNames returns the names of all topics, sorted.
func (m *Map) TopicNames() []TopicName {
	names := make([]TopicName, 0, len(m.Topics))
	for n := range m.Topics {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Seal fixes the lookup tables of a map whose exported fields were set by hand
// or by federation/wire; it must be called once, before the map is shared.
func (m *Map) Seal() *Map {
	sort.Slice(m.Gateways, func(i, j int) bool { return m.Gateways[i].ID < m.Gateways[j].ID })
	m.byTopicID = make(map[TopicID]*Topic, len(m.Topics))
	for _, t := range m.Topics {
		m.byTopicID[t.ID] = t
	}
	m.byNodeID = make(map[NodeID]*Gateway, len(m.Gateways))
	for _, g := range m.Gateways {
		m.byNodeID[g.NodeID] = g
	}
	m.iterations = iterationsOf(m.Credentials)
	return m
}

// Validate checks the rules that every map keeps and returns the first that is
// broken. Whoever takes a map from outside (Redis, the control stream) calls it.
func (m *Map) Validate() error {
	if m.FleetGeneration < 0 {
		return fmt.Errorf("map %d: fleet generation %d is negative", m.Version, m.FleetGeneration)
	}
	extents := 0
	for _, t := range m.Topics {
		for _, p := range t.Partitions {
			if p != nil {
				extents += len(p.Extents)
			}
		}
	}
	seen := make(map[PhysicalAddress]*Partition, extents)
	for _, t := range m.Topics {
		if t.ID == (TopicID{}) {
			return fmt.Errorf("map %d: topic %q has no topic id", m.Version, t.Name)
		}
		for i, p := range t.Partitions {
			if p == nil || p.Topic != t.Name || int(p.Number) != i {
				return fmt.Errorf("map %d: topic %q: partition %d is missing or misplaced", m.Version, t.Name, i)
			}
			if err := p.Validate(); err != nil {
				return fmt.Errorf("map %d: %w", m.Version, err)
			}
			for _, e := range p.Extents {
				if _, ok := m.Clusters[e.Cluster]; !ok {
					return fmt.Errorf("map %d: %s-%d: extent %d lies on unknown cluster %q", m.Version, t.Name, i, e.Number, e.Cluster)
				}
				if other, ok := seen[e.PhysicalAddress]; ok {
					return fmt.Errorf("map %d: %s is used by %s-%d and %s-%d", m.Version, e.PhysicalAddress, other.Topic, other.Number, t.Name, i)
				}
				seen[e.PhysicalAddress] = p
			}
		}
	}
	return nil
}

// Validate checks the rules of an extent chain.
func (p *Partition) Validate() error {
	fail := func(e *Extent, f string, a ...any) error {
		return fmt.Errorf("%s-%d: extent %d: %s", p.Topic, p.Number, e.Number, fmt.Sprintf(f, a...))
	}
	if len(p.Extents) == 0 {
		return fmt.Errorf("%s-%d: has no extent", p.Topic, p.Number)
	}
	for i, e := range p.Extents {
		last := i == len(p.Extents)-1
		switch {
		case last && e.State != ExtentOpen && e.State != ExtentSealing && e.State != ExtentSuspended:
			return fail(e, "the head is %s", e.State)
		case !last && e.State != ExtentSealed && e.State != ExtentSuspended:
			return fail(e, "is %s but not the head", e.State)
		case e.Start < 0 || e.Base < 0:
			return fail(e, "negative base %d or start %d", e.Base, e.Start)
		case e.Opening != 0 && (e.Opening < 0 || e.Opening >= e.Start):
			return fail(e, "opening mark at %d is not below the start %d", e.Opening, e.Start)
		case e.Copies.From < 0 || e.Copies.Len() < 0 || e.Copies.To > e.Start || e.Opening != 0 && e.Copies.To > e.Opening:
			return fail(e, "copies from %d to %d do not lie before the start %d and the opening mark %d", e.Copies.From, e.Copies.To, e.Start, e.Opening)
		case e.First() < 0:
			return fail(e, "%d copies do not fit below the base %d", e.Copies.Len(), e.Base)
		case e.Sealed() && e.End < e.Start:
			return fail(e, "end %d is below start %d", e.End, e.Start)
		case e.Seal != 0 && (!e.Sealed() || e.Seal <= e.End):
			return fail(e, "seal %d is not above the end %d", e.Seal, e.End)
		case e.Seen < 0 || e.Acknowledged < 0:
			return fail(e, "negative offset seen %d or acknowledged %d", e.Seen, e.Acknowledged)
		case !e.hidesWithin():
			return fail(e, "hidden ranges are not ascending ones below the end of a sealed extent, or dropped ones from there to its seal")
		case len(e.Epochs) == 0:
			return fail(e, "has no epochs")
		}
		for j := 1; j < len(e.Epochs); j++ {
			if e.Epochs[j].Physical <= e.Epochs[j-1].Physical || e.Epochs[j].Logical <= e.Epochs[j-1].Logical {
				return fail(e, "epochs do not ascend")
			}
		}
		if e.LastEpoch().Logical > p.Epoch {
			return fail(e, "epoch %d is above the partition's %d", e.LastEpoch().Logical, p.Epoch)
		}
		if i == 0 {
			continue
		}
		prev := p.Extents[i-1]
		if end, ok := prev.EndOffset(); ok && e.First() < end {
			return fail(e, "base %d is below the end %d of the extent before", e.First(), end)
		}
		if e.Base < prev.Base || e.Number <= prev.Number {
			return fail(e, "is not above the extent before")
		}
		if e.firstEpoch() <= prev.LastEpoch().Logical {
			return fail(e, "epoch %d is not above %d of the extent before", e.firstEpoch(), prev.LastEpoch().Logical)
		}
	}
	return nil
}
