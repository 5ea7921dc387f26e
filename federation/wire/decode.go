package wire

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// Decode builds a map from all of its entries, in any order, and seals it. It
// refuses entries that contradict their keys, that lack a part, or that break a
// rule of federation.Map.Validate.
func Decode(version federation.MapVersion, entries []*controlv1.MapEntry) (*federation.Map, error) {
	m := &federation.Map{
		Version:  version,
		Clusters: make(map[federation.ClusterName]*federation.Cluster),
		Topics:   make(map[federation.TopicName]*federation.Topic),
	}
	e, err := newEdit(m).applyAll(entries, nil)
	if err != nil {
		return nil, fmt.Errorf("map %d: %w", version, err)
	}
	if !e.meta {
		return nil, fmt.Errorf("map %d: the entry %q is missing", version, keyMeta)
	}
	next, err := e.finish()
	if err != nil {
		return nil, fmt.Errorf("map %d: %w", version, err)
	}
	if err := next.Validate(); err != nil {
		return nil, err
	}
	return next.Seal(), nil
}

// Unmarshal reads one entry as Redis holds it.
func Unmarshal(b []byte) (*controlv1.MapEntry, error) {
	e := &controlv1.MapEntry{}
	if err := proto.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("map entry: %w", err)
	}
	return e, nil
}

// Marshal writes one entry as Redis holds it.
func Marshal(e *controlv1.MapEntry) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("map entry %q: %w", e.GetKey(), err)
	}
	return b, nil
}

func decodeCluster(c *controlv1.ClusterEntry) (*federation.Cluster, error) {
	state := federation.ClusterState(c.GetState())
	if c.GetState() < controlv1.ClusterEntry_STATE_ACTIVE || c.GetState() > controlv1.ClusterEntry_STATE_FAILED {
		return nil, fmt.Errorf("cluster %q: unknown state %d", c.GetName(), c.GetState())
	}
	if c.GetName() == "" || strings.Contains(c.GetName(), "/") {
		return nil, fmt.Errorf("cluster %q: bad name", c.GetName())
	}
	if c.GetWeight() < 0 {
		return nil, fmt.Errorf("cluster %q: weight %d is negative", c.GetName(), c.GetWeight())
	}
	return &federation.Cluster{
		Name:       federation.ClusterName(c.GetName()),
		Seeds:      slices.Clone(c.GetSeeds()),
		State:      state,
		Weight:     c.GetWeight(),
		PhysicalID: c.GetPhysicalClusterId(),

		SecurityProfile: c.GetSecurityProfile(),
	}, nil
}

func decodeGateway(g *controlv1.GatewayEntry) (*federation.Gateway, error) {
	role, err := federation.ParseRole(g.GetRole())
	if err != nil {
		return nil, fmt.Errorf("gateway %q: %w", g.GetId(), err)
	}
	if g.GetState() < controlv1.GatewayEntry_STATE_READY || g.GetState() > controlv1.GatewayEntry_STATE_LOST {
		return nil, fmt.Errorf("gateway %q: unknown state %d", g.GetId(), g.GetState())
	}
	if g.GetId() == "" || g.GetNodeId() < 0 {
		return nil, fmt.Errorf("gateway %q: needs an id and a node id, not %d", g.GetId(), g.GetNodeId())
	}
	return &federation.Gateway{
		ID:             federation.GatewayID(g.GetId()),
		NodeID:         federation.NodeID(g.GetNodeId()),
		ConnectAddress: g.GetConnectAddress(),
		KafkaAddress:   g.GetKafkaAddress(),
		Zone:           g.GetZone(),
		Role:           role,
		State:          federation.GatewayState(g.GetState()),
		TenantKafka:    federation.NewTenantAddresses(g.GetTenantKafkaAddresses()),
	}, nil
}

// decodeTopic leaves the partitions to the caller.
func decodeTopic(t *controlv1.TopicEntry) (*federation.Topic, error) {
	if !topicNameOK(t.GetName()) {
		return nil, fmt.Errorf("topic %q: bad name", t.GetName())
	}
	if t.GetPartitionCount() < 0 {
		return nil, fmt.Errorf("topic %q: partition count %d is negative", t.GetName(), t.GetPartitionCount())
	}
	out := &federation.Topic{
		Name:              federation.TopicName(t.GetName()),
		ReplicationFactor: t.GetReplicationFactor(),
		Generation:        t.GetGeneration(),
		CreatedMs:         t.GetCreatedMs(),
	}
	if copy(out.ID[:], t.GetTopicId()) != len(out.ID) || len(t.GetTopicId()) != len(out.ID) {
		return nil, fmt.Errorf("topic %q: the topic id has %d bytes, want %d", t.GetName(), len(t.GetTopicId()), len(out.ID))
	}
	if len(t.GetConfig()) > 0 {
		out.Config = maps.Clone(t.GetConfig())
	}
	for _, c := range t.GetClusters() {
		out.Clusters = append(out.Clusters, federation.ClusterName(c))
	}
	return out, nil
}

func decodeRanges(entries []*controlv1.HiddenEntry) (out []federation.PhysicalRange) {
	for _, r := range entries {
		out = append(out, federation.PhysicalRange{From: federation.PhysicalOffset(r.GetFrom()), To: federation.PhysicalOffset(r.GetTo())})
	}
	return out
}

func decodePartition(p *controlv1.PartitionEntry) (*federation.Partition, error) {
	out := &federation.Partition{
		Topic:   federation.TopicName(p.GetTopic()),
		Number:  federation.LogicalPartition(p.GetPartition()),
		Epoch:   federation.LogicalEpoch(p.GetEpoch()),
		Extents: make([]*federation.Extent, len(p.GetExtents())),
	}
	for i, e := range p.GetExtents() {
		if e.GetState() < controlv1.ExtentEntry_STATE_OPEN || e.GetState() > controlv1.ExtentEntry_STATE_SUSPENDED {
			return nil, fmt.Errorf("%s-%d: extent %d: unknown state %d", p.GetTopic(), p.GetPartition(), e.GetNumber(), e.GetState())
		}
		if e.GetCluster() == "" || e.GetPhysicalTopic() == "" || e.GetPhysicalPartition() < 0 {
			return nil, fmt.Errorf("%s-%d: extent %d: has no physical partition", p.GetTopic(), p.GetPartition(), e.GetNumber())
		}
		epochs := make([]federation.EpochEntry, len(e.GetEpochs()))
		for j, x := range e.GetEpochs() {
			epochs[j] = federation.EpochEntry{
				Physical: federation.PhysicalEpoch(x.GetPhysical()),
				Logical:  federation.LogicalEpoch(x.GetLogical()),
			}
		}
		out.Extents[i] = &federation.Extent{
			Number: e.GetNumber(),
			PhysicalAddress: federation.PhysicalAddress{
				Cluster:   federation.ClusterName(e.GetCluster()),
				Topic:     e.GetPhysicalTopic(),
				Partition: federation.PhysicalPartition(e.GetPhysicalPartition()),
			},
			Base:    federation.LogicalOffset(e.GetBase()),
			Start:   federation.PhysicalOffset(e.GetStart()),
			End:     federation.PhysicalOffset(e.GetEnd()),
			State:   federation.ExtentState(e.GetState()),
			Epochs:  epochs,
			Opening: federation.PhysicalOffset(e.GetOpening()),

			Seen:         federation.PhysicalOffset(e.GetSeen()),
			Acknowledged: federation.PhysicalOffset(e.GetAcknowledged()),
			Seal:         federation.PhysicalOffset(e.GetSeal()),
			Failed:       e.GetFailed(),
		}
		if c := e.GetCopies(); c != nil {
			out.Extents[i].Copies = federation.PhysicalRange{From: federation.PhysicalOffset(c.GetFrom()), To: federation.PhysicalOffset(c.GetTo())}
		}
		out.Extents[i].Hidden, out.Extents[i].Dropped = decodeRanges(e.GetHidden()), decodeRanges(e.GetDropped())
	}
	if err := out.Validate(); err != nil {
		return nil, err
	}
	return out, nil
}
