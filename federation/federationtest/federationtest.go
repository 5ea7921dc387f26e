// Package federationtest builds maps by hand, for tests of the engines.
package federationtest

import (
	"fmt"
	"maps"
	"sync"

	"github.com/braidmq/braid/federation"
)

// A World is a map under construction that tests hand to the engines; it is
// their Maps and their Lease.
type World struct {
	mu      sync.Mutex
	m       *federation.Map
	changed chan struct{}
	lapsed  bool
	gaps    int64
}

// New makes a World with clusters and their seeds, and one gateway gw-0.
func New(clusters map[string][]string) *World {
	m := &federation.Map{
		LogicalCluster: federation.DefaultLogicalCluster, ClusterID: "braid-test", Version: 1,
		Clusters: make(map[federation.ClusterName]*federation.Cluster),
		Topics:   make(map[federation.TopicName]*federation.Topic),
		Gateways: []*federation.Gateway{{ID: "gw-0", NodeID: 1, KafkaAddress: "127.0.0.1:9092", ConnectAddress: "127.0.0.1:8080", State: federation.GatewayReady}},
	}
	for name, seeds := range clusters {
		n := federation.ClusterName(name)
		m.Clusters[n] = &federation.Cluster{Name: n, Seeds: seeds, State: federation.ClusterActive, Weight: 1}
	}
	return &World{m: m.Seal(), changed: make(chan struct{})}
}

// Current implements the engines' Maps.
func (w *World) Current() *federation.Map {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.m
}

// Changed implements the engines' Maps.
func (w *World) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Valid implements the engines' Lease.
func (w *World) Valid() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.lapsed
}

// Gaps implements the engines' Lease.
func (w *World) Gaps() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gaps
}

// Lapse makes the lease end, or hold again.
func (w *World) Lapse(lapsed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lapsed && !lapsed {
		w.gaps++
	}
	w.lapsed = lapsed
}

// Change publishes the next version: a copy of the map that f may alter. It
// panics if the result breaks a rule of maps.
func (w *World) Change(f func(m *federation.Map)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := *w.m
	next.Version++
	next.Topics = make(map[federation.TopicName]*federation.Topic, len(w.m.Topics))
	maps.Copy(next.Topics, w.m.Topics)
	next.Gateways = append([]*federation.Gateway(nil), w.m.Gateways...)
	f(&next)
	if err := next.Seal().Validate(); err != nil {
		panic(fmt.Sprintf("federationtest: %v", err))
	}
	w.m = &next
	close(w.changed)
	w.changed = make(chan struct{})
}

// SetTopic publishes a topic whose partition i has the chain chains[i].
func (w *World) SetTopic(name string, config map[string]string, chains ...[]*federation.Extent) {
	w.Change(func(m *federation.Map) {
		t := &federation.Topic{Name: federation.TopicName(name), ID: federation.NewTopicID(), Config: config, ReplicationFactor: 1}
		if old := m.Topics[t.Name]; old != nil {
			t.ID = old.ID
		}
		for i, chain := range chains {
			p := &federation.Partition{Topic: t.Name, Number: federation.LogicalPartition(i), Extents: chain}
			for _, e := range chain {
				p.Epoch = max(p.Epoch, e.LastEpoch().Logical)
			}
			t.Partitions = append(t.Partitions, p)
		}
		m.Topics[t.Name] = t
	})
}

// Head makes an open extent that begins where its physical partition does.
func Head(cluster, topic string, partition int) *federation.Extent {
	return &federation.Extent{
		PhysicalAddress: federation.PhysicalAddress{Cluster: federation.ClusterName(cluster), Topic: topic, Partition: federation.PhysicalPartition(partition)},
		State:           federation.ExtentOpen,
		Epochs:          []federation.EpochEntry{{Physical: 0, Logical: 1}},
	}
}
