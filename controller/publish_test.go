package controller_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	"github.com/braidmq/braid/gateway/mapwatch"
	"github.com/braidmq/braid/internal/redisstore"
)

// seed writes a map with 100 topics of 100 partitions before any controller starts.
func (w *world) seed(t *testing.T) {
	t.Helper()
	s := w.store(t, nil)
	l, ok, err := s.AcquireLeadership(t.Context(), "default", redisstore.Candidate{ID: "seed", URL: "http://seed", Incarnation: "x"}, time.Minute)
	require.NoError(t, err)
	require.True(t, ok)
	empty := redisstore.EmptyMap("default")
	m := *empty
	m.Version, m.ClusterID = 1, "id"
	m.Clusters = map[federation.ClusterName]*federation.Cluster{"a": {Name: "a", Seeds: []string{"127.0.0.1:1"}, State: federation.ClusterActive, Weight: 1}}
	m.Topics = map[federation.TopicName]*federation.Topic{}
	for i := range 100 {
		topic := &federation.Topic{Name: federation.TopicName(fmt.Sprintf("topic-%02d", i)), ID: federation.NewTopicID(), Generation: 1}
		for p := range 100 {
			topic.Partitions = append(topic.Partitions, &federation.Partition{
				Topic: topic.Name, Number: federation.LogicalPartition(p),
				Extents: []*federation.Extent{{
					PhysicalAddress: federation.PhysicalAddress{Cluster: "a", Topic: "default." + string(topic.Name) + ".1", Partition: federation.PhysicalPartition(p)},
					State:           federation.ExtentOpen, Epochs: []federation.EpochEntry{{}},
				}},
			})
		}
		m.Topics[topic.Name] = topic
	}
	require.NoError(t, s.WriteMap(t.Context(), "default", l.Fencing, wire.Diff(empty, m.Seal())))
	require.NoError(t, s.ReleaseLeadership(t.Context(), "default", l.Fencing))
}

// Gateways that all come at once get a large map, and then each change of it.
func TestChangeReachesAllGateways(t *testing.T) {
	w := newWorld(t)
	w.seed(t)
	n := w.controller(t, "c1", func(c *controller.Config) { c.CollectInterval, c.BeatTimeout = time.Hour, patience })
	n.leads(t)
	gateways := make([]*gateway, 8)
	elsewhere := newWorld(t) // what they have comes by their streams alone
	for i := range gateways {
		gateways[i] = elsewhere.gateway(t, fmt.Sprintf("g%d", i), []string{n.url}, func(c *mapwatch.Config) { c.BackoffMax = time.Second })
	}
	for _, g := range gateways {
		g.awaitRegistered(t)
		g.eventually(t, "all gateways", func(m *federation.Map) bool { return len(m.Gateways) == len(gateways) && len(m.Topics) == 100 })
	}
	const rounds = 10
	began := time.Now()
	for i := range rounds {
		at := federation.PhysicalAddress{Cluster: "a", Topic: "default.topic-42.1", Partition: federation.PhysicalPartition(i)}
		gateways[0].SeenLeader(at, 5)
		for _, g := range gateways {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			for changed := g.Changed(); g.Current().Topic("topic-42").Partitions[i].Epoch == 0; changed = g.Changed() {
				if g.Current().Topic("topic-42").Partitions[i].Epoch > 0 {
					break
				}
				select {
				case <-changed:
				case <-ctx.Done():
					require.FailNow(t, "the change did not arrive", "round %d", i)
				}
			}
			cancel()
		}
	}
	took := time.Since(began) / rounds
	t.Logf("from hint to the last of %d gateways: %s", len(gateways), took)
}
