// Package wire turns a federation.Map into the entries that Redis holds and that
// the control stream carries, and back. It refuses entries that break a rule of
// the map, so nothing invalid gets in by either way.
//
// Keys: meta | cluster/NAME | gateway/ID | topic/NAME | partition/NAME/NUMBER |
// credential/USER/MECHANISM | acl/ID | quota/ENTITY | tenant/NAME | group-config/GROUP.
package wire

import (
	"sort"
	"strconv"
	"strings"

	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// The keys, or how they begin.
const (
	keyMeta         = "meta"
	prefixCluster   = "cluster/"
	prefixGateway   = "gateway/"
	prefixTopic     = "topic/"
	prefixPartition = "partition/"
	prefixACL       = "acl/"
)

// ClusterKey returns the key of a cluster's entry.
func ClusterKey(name federation.ClusterName) string { return prefixCluster + string(name) }

// GatewayKey returns the key of a gateway's entry.
func GatewayKey(id federation.GatewayID) string { return prefixGateway + string(id) }

// TopicKey returns the key of a topic's entry.
func TopicKey(name federation.TopicName) string { return prefixTopic + string(name) }

// PartitionKey returns the key of a partition's entry.
func PartitionKey(tp federation.TopicPartition) string {
	return prefixPartition + string(tp.Topic) + "/" + strconv.Itoa(int(tp.Partition))
}

// splitPartitionKey reads what follows prefixPartition. Only the one spelling
// that PartitionKey writes is taken.
func splitPartitionKey(rest string) (federation.TopicPartition, bool) {
	i := strings.LastIndexByte(rest, '/')
	if i < 0 {
		return federation.TopicPartition{}, false
	}
	n, err := strconv.ParseInt(rest[i+1:], 10, 32)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != rest[i+1:] {
		return federation.TopicPartition{}, false
	}
	return federation.TopicPartition{
		Topic:     federation.TopicName(rest[:i]),
		Partition: federation.LogicalPartition(n),
	}, true
}

// Entries returns all entries of a map, in the order of their keys, each with
// the map's version.
func Entries(m *federation.Map) []*controlv1.MapEntry { return entries(m, int64(m.Version)) }

func entries(m *federation.Map, v int64) []*controlv1.MapEntry {
	out := make([]*controlv1.MapEntry, 0, 1+len(m.Clusters)+len(m.Gateways)+2*len(m.Topics))
	out = append(out, metaEntry(m, v))
	for _, c := range m.Clusters {
		out = append(out, clusterEntry(c, v))
	}
	for _, g := range m.Gateways {
		out = append(out, gatewayEntry(g, v))
	}
	for _, c := range m.Credentials {
		out = append(out, credentialEntry(c, v))
	}
	for _, t := range m.Topics {
		out = append(out, topicEntry(t, v))
		for _, p := range t.Partitions {
			out = append(out, partitionEntry(p, v))
		}
	}
	for _, a := range m.ACLs {
		out = append(out, aclEntry(a, v))
	}
	for _, q := range m.Quotas {
		out = append(out, quotaEntry(q, v))
	}
	for _, c := range m.GroupConfigs {
		out = append(out, groupConfigEntry(c, v))
	}
	for _, t := range m.Tenants {
		out = append(out, tenantEntry(t, v))
	}
	sortEntries(out)
	return out
}

func sortEntries(entries []*controlv1.MapEntry) {
	sort.Slice(entries, func(i, j int) bool { return entries[i].Key < entries[j].Key })
}

// TopicEntry returns the entry of a topic, with version 0.
func TopicEntry(t *federation.Topic) *controlv1.MapEntry { return topicEntry(t, 0) }

// ClusterEntry returns the entry of a physical cluster, with version 0.
func ClusterEntry(c *federation.Cluster) *controlv1.MapEntry { return clusterEntry(c, 0) }

func metaEntry(m *federation.Map, version int64) *controlv1.MapEntry {
	return &controlv1.MapEntry{Key: keyMeta, Version: version, Value: &controlv1.MapEntry_Meta{Meta: &controlv1.MetaEntry{
		LogicalCluster:  m.LogicalCluster,
		ClusterId:       m.ClusterID,
		FleetGeneration: m.FleetGeneration,
	}}}
}

func clusterEntry(c *federation.Cluster, version int64) *controlv1.MapEntry {
	return &controlv1.MapEntry{Key: ClusterKey(c.Name), Version: version, Value: &controlv1.MapEntry_Cluster{Cluster: &controlv1.ClusterEntry{
		Name:              string(c.Name),
		Seeds:             c.Seeds,
		State:             controlv1.ClusterEntry_State(c.State), // the enums have the same numbers; a test holds them together
		Weight:            c.Weight,
		PhysicalClusterId: c.PhysicalID,
		SecurityProfile:   c.SecurityProfile,
	}}}
}

func gatewayEntry(g *federation.Gateway, version int64) *controlv1.MapEntry {
	return &controlv1.MapEntry{Key: GatewayKey(g.ID), Version: version, Value: &controlv1.MapEntry_Gateway{Gateway: &controlv1.GatewayEntry{
		Id:             string(g.ID),
		NodeId:         int32(g.NodeID),
		ConnectAddress: g.ConnectAddress,
		KafkaAddress:   g.KafkaAddress,
		Zone:           g.Zone,
		Role:           g.Role.String(),
		State:          controlv1.GatewayEntry_State(g.State),

		TenantKafkaAddresses: g.TenantKafka.Map(),
	}}}
}

func topicEntry(t *federation.Topic, version int64) *controlv1.MapEntry {
	clusters := make([]string, len(t.Clusters))
	for i, c := range t.Clusters {
		clusters[i] = string(c)
	}
	id := t.ID
	return &controlv1.MapEntry{Key: TopicKey(t.Name), Version: version, Value: &controlv1.MapEntry_Topic{Topic: &controlv1.TopicEntry{
		Name:              string(t.Name),
		TopicId:           id[:],
		PartitionCount:    int32(len(t.Partitions)),
		Config:            t.Config,
		ReplicationFactor: t.ReplicationFactor,
		Generation:        t.Generation,
		CreatedMs:         t.CreatedMs,
		Clusters:          clusters,
	}}}
}

func partitionEntry(p *federation.Partition, version int64) *controlv1.MapEntry {
	extents := make([]*controlv1.ExtentEntry, len(p.Extents))
	for i, e := range p.Extents {
		epochs := make([]*controlv1.EpochEntry, len(e.Epochs))
		for j, x := range e.Epochs {
			epochs[j] = &controlv1.EpochEntry{Physical: int32(x.Physical), Logical: int32(x.Logical)}
		}
		extents[i] = &controlv1.ExtentEntry{
			Number:            e.Number,
			Cluster:           string(e.Cluster),
			PhysicalTopic:     e.Topic,
			PhysicalPartition: int32(e.Partition),
			Base:              int64(e.Base),
			Start:             int64(e.Start),
			End:               int64(e.End),
			State:             controlv1.ExtentEntry_State(e.State),
			Epochs:            epochs,
			Opening:           int64(e.Opening),
			Seen:              int64(e.Seen),
			Acknowledged:      int64(e.Acknowledged),
			Seal:              int64(e.Seal),
			Failed:            e.Failed,
		}
		if e.Copies != (federation.PhysicalRange{}) {
			extents[i].Copies = &controlv1.HiddenEntry{From: int64(e.Copies.From), To: int64(e.Copies.To)}
		}
		extents[i].Hidden, extents[i].Dropped = rangeEntries(e.Hidden), rangeEntries(e.Dropped)
	}
	key := PartitionKey(federation.TopicPartition{Topic: p.Topic, Partition: p.Number})
	return &controlv1.MapEntry{Key: key, Version: version, Value: &controlv1.MapEntry_Partition{Partition: &controlv1.PartitionEntry{
		Topic:     string(p.Topic),
		Partition: int32(p.Number),
		Epoch:     int32(p.Epoch),
		Extents:   extents,
	}}}
}

func rangeEntries(ranges []federation.PhysicalRange) (out []*controlv1.HiddenEntry) {
	for _, r := range ranges {
		out = append(out, &controlv1.HiddenEntry{From: int64(r.From), To: int64(r.To)})
	}
	return out
}
