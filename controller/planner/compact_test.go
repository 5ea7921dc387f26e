package planner_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
)

func chain() *federation.Partition {
	at := func(cluster string, p int) federation.PhysicalAddress {
		return federation.PhysicalAddress{Cluster: federation.ClusterName(cluster), Topic: "default.orders.1", Partition: federation.PhysicalPartition(p)}
	}
	return &federation.Partition{Topic: "orders", Extents: []*federation.Extent{
		{Number: 1, PhysicalAddress: at("a", 0), Base: 10, Start: 8, Copies: federation.PhysicalRange{From: 1, To: 7}, End: 18, State: federation.ExtentSealed},
		{Number: 2, PhysicalAddress: at("b", 0), Base: 20, Start: 1, End: 1, State: federation.ExtentSealed},
		{Number: 3, PhysicalAddress: at("a", 1), Base: 20, Start: 2, State: federation.ExtentOpen, Opening: 1},
	}}
}

func TestCopySourcesAreAllThatAPartitionHas(t *testing.T) {
	p := chain()
	p.Extents[0].Hidden = []federation.PhysicalRange{{From: 9, To: 11}}
	got, err := planner.CopySources(p)
	require.NoError(t, err)
	a, head := p.Extents[0].PhysicalAddress, p.Head().PhysicalAddress
	require.Equal(t, []planner.CopySource{
		{PhysicalAddress: a, PhysicalRange: federation.PhysicalRange{From: 1, To: 7}},
		{PhysicalAddress: a, PhysicalRange: federation.PhysicalRange{From: 8, To: 18}, Hidden: []federation.PhysicalRange{{From: 9, To: 11}}},
		{PhysicalAddress: head, PhysicalRange: federation.PhysicalRange{From: 2}},
	}, got)
	p.Extents[1].State = federation.ExtentSuspended
	_, err = planner.CopySources(p)
	require.Equal(t, federation.Conflict, federation.KindOf(err))
	require.ErrorContains(t, err, `"b"`)
}

// The log never begins earlier than before.
func TestCopiesBeginWhereTheLogDoes(t *testing.T) {
	p := chain()
	a0, b0, a1 := p.Extents[0].PhysicalAddress, p.Extents[1].PhysicalAddress, p.Head().PhysicalAddress
	all := federation.PhysicalRange{From: 1, To: 1 + 26} // 4 to 29
	for _, c := range []struct {
		what   string
		starts map[federation.PhysicalAddress]federation.PhysicalOffset
		want   federation.LogicalOffset
	}{
		{"nothing was deleted", map[federation.PhysicalAddress]federation.PhysicalOffset{a0: 0, b0: 0, a1: 0}, 4},
		{"some copies were", map[federation.PhysicalAddress]federation.PhysicalOffset{a0: 3, b0: 0, a1: 0}, 6},
		{"all copies were", map[federation.PhysicalAddress]federation.PhysicalOffset{a0: 7, b0: 0, a1: 0}, 10},
		{"the first extent was", map[federation.PhysicalAddress]federation.PhysicalOffset{a0: 18, b0: 1, a1: 0}, 20},
		{"more was", map[federation.PhysicalAddress]federation.PhysicalOffset{a0: 18, b0: 1, a1: 5}, 23},
		{"all was", map[federation.PhysicalAddress]federation.PhysicalOffset{a0: 18, b0: 1, a1: 12}, 30},
		{"nothing is known", nil, 4},
	} {
		from := planner.CopiesFrom(p, all, 12, c.starts)
		require.Equal(t, c.want, 30-federation.LogicalOffset(all.To-from), c.what)
	}
	few := federation.PhysicalRange{From: 1, To: 4} // compaction has left holes
	require.EqualValues(t, 1, planner.CopiesFrom(p, few, 12, map[federation.PhysicalAddress]federation.PhysicalOffset{a0: 3, b0: 0, a1: 0}))
}
