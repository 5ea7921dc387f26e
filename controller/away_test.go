package controller

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// What gateways say of clusters counts while they are attached, and is what they said last.
func TestFleetKnowsWhichClustersAreAway(t *testing.T) {
	f := &fleetScript{fleet: newFleet(), t: t}
	g1, g2 := f.attach("g1", "i", 1), f.attach("g2", "i", 1)
	f.attach("g3", "i", 1)
	says := func(s *session, names ...string) {
		t.Helper()
		a := &attachment{term: &term{fleet: f.fleet}, session: s}
		require.NoError(t, a.away(&controlv1.Beat{Away: names}))
	}
	says(g1, "a", "b")
	says(g2, "a")
	counted := func(name federation.ClusterName, want ...int) {
		t.Helper()
		away, attached := f.away(name)
		require.Equal(t, want, []int{away, attached}, name)
	}
	counted("a", 2, 3)
	counted("b", 1, 3)
	counted("c", 0, 3)
	says(g1)
	counted("a", 1, 3)
	f.lost(g2, 0)
	counted("a", 0, 2)
	require.Error(t, (&attachment{term: &term{fleet: f.fleet}, session: g1}).away(&controlv1.Beat{Away: make([]string, awayMax+1)}))
}
