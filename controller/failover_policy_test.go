package controller

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

// A policyScript has three clusters and three gateways.
type policyScript struct {
	*term

	t *testing.T
}

func newPolicy(t *testing.T) *policyScript {
	t.Helper()
	s := &policyScript{t: t, term: &term{Controller: &Controller{cfg: Config{FailoverAfter: time.Minute, OperationsMax: 9}}, fleet: newFleet(), health: newHealth()}}
	s.ops = newOperations(s.term)
	m := &federation.Map{Clusters: make(map[federation.ClusterName]*federation.Cluster)}
	for _, name := range []federation.ClusterName{"a", "b", "c"} {
		m.Clusters[name] = &federation.Cluster{Name: name, State: federation.ClusterActive, Weight: 100}
		s.health.set(name, clusterHealth{healthy: true})
	}
	s.published.Store(&published{m: m})
	for _, id := range []federation.GatewayID{"g1", "g2", "g3"} {
		s.fleet.register(&session{id: id, ended: make(chan struct{})})
	}
	return s
}

// find has some gateways find some clusters away.
func (s *policyScript) find(n int, names ...federation.ClusterName) {
	for i, id := range []federation.GatewayID{"g1", "g2", "g3"} {
		var away []federation.ClusterName
		if i < n {
			away = names
		}
		s.fleet.update(func() { s.fleet.sessions[id].away = away })
	}
}

func (s *policyScript) overdue(after time.Duration) federation.ClusterName {
	name, _ := s.overdueAway(time.Now().Add(after))
	return name
}

func (s *policyScript) state(name federation.ClusterName, state federation.ClusterState) {
	c := *s.current().Clusters[name]
	c.State = state
	s.current().Clusters[name] = &c
}

func TestFailoverPolicy(t *testing.T) {
	away := clusterHealth{silent: true}
	s := newPolicy(t)
	s.find(3, "a")
	require.Empty(t, s.overdue(time.Hour), "this controller reaches it")
	s.health.set("a", away)
	require.Empty(t, s.overdue(59*time.Second), "not for long enough")
	require.Equal(t, federation.ClusterName("a"), s.overdue(2*time.Minute))
	s.find(1, "a")
	require.Empty(t, s.overdue(2*time.Minute), "most gateways reach it")
	s.find(2, "a")
	require.Equal(t, federation.ClusterName("a"), s.overdue(2*time.Minute))
	s.health.set("b", away)
	require.Empty(t, s.overdue(2*time.Minute), "it is more likely the network here")
	s.health.set("b", clusterHealth{healthy: true})
	require.Equal(t, federation.ClusterName("a"), s.overdue(2*time.Minute))
	release, _, err := s.ops.reserve(kindFailoverCluster, failoverTarget("b"), "")
	require.NoError(t, err)
	require.Empty(t, s.overdue(2*time.Minute), "another one is being failed over")
	release(nil)
	s.state("b", federation.ClusterDraining)
	require.Equal(t, federation.ClusterName("a"), s.overdue(2*time.Minute))
	s.state("c", federation.ClusterDraining)
	require.Empty(t, s.overdue(2*time.Minute), "there is nowhere to go")
	s.state("c", federation.ClusterActive)
	s.state("a", federation.ClusterFailed)
	require.Empty(t, s.overdue(2*time.Minute), "it is failed already")
	s.state("a", federation.ClusterActive)

	// A break begins the time anew.
	_, since := s.overdueAway(time.Now().Add(2 * time.Minute))
	s.health.set("a", away)
	_, same := s.overdueAway(time.Now().Add(2 * time.Minute))
	require.Equal(t, since, same)
	s.health.set("a", clusterHealth{healthy: true})
	s.health.set("a", away)
	_, later := s.overdueAway(time.Now().Add(2 * time.Minute))
	require.True(t, later.After(since), "%s, %s", later, since)

	// One that answers as another cluster is not away.
	s.health.set("a", clusterHealth{detail: "its seeds now lead to another Kafka cluster"})
	require.Empty(t, s.overdue(2*time.Minute))

	// Without gateways nobody knows.
	s.health.set("a", away)
	s.fleet.sessions = make(map[federation.GatewayID]*session)
	require.Empty(t, s.overdue(2*time.Minute))
}
