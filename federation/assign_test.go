package federation_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

func fleet(n int, alter ...func(i int, g *federation.Gateway)) *federation.Map {
	m := &federation.Map{}
	for i := range n {
		g := &federation.Gateway{ID: federation.GatewayID(fmt.Sprintf("gw-%02d", i)), NodeID: federation.NodeID(i + 1), Zone: fmt.Sprintf("z%d", i%3), State: federation.GatewayReady}
		for _, f := range alter {
			f(i, g)
		}
		m.Gateways = append(m.Gateways, g)
	}
	return m.Seal()
}

func TestParseClient(t *testing.T) {
	for id, want := range map[string]federation.Client{
		"app":                              {ID: "app"},
		"app;braid_zone=z1":                {ID: "app;braid_zone=z1", Zone: "z1"},
		"braid_role=produce,app":           {ID: "braid_role=produce,app", Role: federation.RoleProduce},
		"app braid_role=nonsense":          {ID: "app braid_role=nonsense"},
		"a;braid_role=consume;braid_zone=": {ID: "a;braid_role=consume;braid_zone=", Role: federation.RoleConsume},
	} {
		require.Equal(t, want, federation.ParseClient(id, ""))
	}
	require.Equal(t, "rack", federation.ParseClient("app;braid_zone=z1", "rack").Zone, "the protocol's rack goes first")
}

func TestAssignmentIsAPureFunctionOfTheMap(t *testing.T) {
	a, b := fleet(20), fleet(20)
	for i := range 200 {
		c := federation.Client{ID: fmt.Sprint("client-", i)}
		ga, gb := a.ClientGateways(c), b.ClientGateways(c)
		require.Len(t, ga, federation.ClientGatewaysMax)
		for j := range ga {
			require.Equal(t, ga[j].ID, gb[j].ID)
		}
	}
}

func TestAssignmentByRoleStateAndZone(t *testing.T) {
	m := fleet(9, func(i int, g *federation.Gateway) {
		g.Role = []federation.Role{federation.RoleBoth, federation.RoleProduce, federation.RoleConsume}[i/3]
		if i == 0 {
			g.State = federation.GatewayDraining
		}
	})
	ids := func(gs []*federation.Gateway) (out []federation.GatewayID) {
		for _, g := range gs {
			out = append(out, g.ID)
		}
		return out
	}
	require.ElementsMatch(t, []federation.GatewayID{"gw-01", "gw-02"}, ids(m.ClientGateways(federation.Client{ID: "c"})))
	require.ElementsMatch(t, []federation.GatewayID{"gw-01", "gw-02", "gw-03", "gw-04", "gw-05"}, ids(m.ClientGateways(federation.Client{ID: "c", Role: federation.RoleProduce})))
	require.ElementsMatch(t, []federation.GatewayID{"gw-01", "gw-04"}, ids(m.ClientGateways(federation.Client{ID: "c", Role: federation.RoleProduce, Zone: "z1"})))
	require.NotEmpty(t, m.ClientGateways(federation.Client{ID: "c", Zone: "nowhere"}), "a zone without gateways does not matter")
	for i := range 50 {
		g := m.GroupGateway(fmt.Sprint("group-", i))
		require.Equal(t, federation.GatewayReady, g.State)
		require.True(t, g.Role.Serves(federation.RoleConsume))
	}
	require.Nil(t, fleet(0).GroupGateway("g"))
}

// When a gateway goes, only what it had moves, and it spreads over the others.
func TestRendezvousMovesLittle(t *testing.T) {
	before := fleet(10)
	after := fleet(10, func(i int, g *federation.Gateway) {
		if i == 4 {
			g.State = federation.GatewayDraining
		}
	})
	id := federation.NewTopicID()
	count := make(map[federation.GatewayID]int)
	for i := range 2000 {
		was, is := before.GroupGateway(fmt.Sprint("g", i)), after.GroupGateway(fmt.Sprint("g", i))
		if was.ID != "gw-04" {
			require.Equal(t, was.ID, is.ID)
		}
		count[was.ID]++
		p := before.PartitionGateway(before.Gateways, id, federation.LogicalPartition(i))
		count[p.ID]++
	}
	for g, n := range count {
		require.InDelta(t, 400, n, 120, "gateway %s has %d of 4000", g, n)
	}
}
