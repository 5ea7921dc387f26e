package federation_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

func extent(base federation.LogicalOffset, start, end federation.PhysicalOffset, state federation.ExtentState, epochs ...federation.EpochEntry) *federation.Extent {
	return &federation.Extent{Base: base, Start: start, End: end, State: state, Epochs: epochs}
}

func TestOffsetsConvertBothWays(t *testing.T) {
	sealed := extent(100, 5, 15, federation.ExtentSealed)
	head := extent(110, 1, 0, federation.ExtentOpen)
	for l := federation.LogicalOffset(100); l < 110; l++ {
		require.Equal(t, l, sealed.Logical(sealed.Physical(l)))
		require.Equal(t, l+10, head.Logical(head.Physical(l+10)))
	}
	require.EqualValues(t, 100, sealed.Logical(2), "a primer record is not part of the extent")
	require.EqualValues(t, 110, sealed.Logical(99), "late writes lie behind the end")
	require.EqualValues(t, 5, sealed.Physical(3), "a gap reads from the extent's first record")
	end, ok := sealed.EndOffset()
	require.True(t, ok)
	require.EqualValues(t, 110, end)
	_, ok = head.EndOffset()
	require.False(t, ok)
}

func TestEpochsNeverRiseAboveTheTable(t *testing.T) {
	e := extent(0, 0, 0, federation.ExtentOpen, federation.EpochEntry{Physical: 4, Logical: 10}, federation.EpochEntry{Physical: 7, Logical: 11})
	for physical, logical := range map[federation.PhysicalEpoch]federation.LogicalEpoch{0: 10, 4: 10, 6: 10, 7: 11, 99: 11} {
		require.Equal(t, logical, e.Epoch(physical), "physical epoch %d", physical)
	}
	entry, ok := e.PhysicalEpochAt(10)
	require.True(t, ok)
	require.EqualValues(t, 4, entry.Physical)
	_, ok = e.PhysicalEpochAt(9)
	require.False(t, ok)
}

func TestHiddenRangesLieWithinASealedExtent(t *testing.T) {
	e := extent(0, 5, 15, federation.ExtentSealed, federation.EpochEntry{Physical: 0, Logical: 1})
	head := extent(10, 0, 0, federation.ExtentOpen, federation.EpochEntry{Physical: 0, Logical: 2})
	head.Number = 1
	p := &federation.Partition{Epoch: 2, Extents: []*federation.Extent{e, head}}
	for _, ok := range [][]federation.PhysicalRange{nil, {{5, 6}}, {{5, 15}}, {{6, 8}, {8, 9}}} {
		e.Hidden = ok
		require.NoError(t, p.Validate(), "%v", ok)
	}
	for _, bad := range [][]federation.PhysicalRange{{{4, 6}}, {{6, 6}}, {{14, 16}}, {{8, 9}, {6, 8}}, {{6, 9}, {8, 10}}} {
		e.Hidden = bad
		require.Error(t, p.Validate(), "%v", bad)
	}
	e.Hidden, e.Seal = nil, 15
	require.Error(t, p.Validate(), "a seal at the end is not kept apart")
	e.Seal = 20
	require.NoError(t, p.Validate())
	for _, ok := range [][]federation.PhysicalRange{{{15, 16}}, {{15, 20}}, {{16, 17}, {18, 19}}} {
		e.Dropped = ok
		require.NoError(t, p.Validate(), "%v", ok)
	}
	for _, bad := range [][]federation.PhysicalRange{{{14, 16}}, {{16, 16}}, {{19, 21}}, {{18, 19}, {16, 17}}} {
		e.Dropped = bad
		require.Error(t, p.Validate(), "%v", bad)
	}
	e.Dropped = nil
	head.Seal = 20
	require.Error(t, p.Validate(), "only a sealed extent has a seal")
}

func TestLocate(t *testing.T) {
	p := &federation.Partition{Extents: []*federation.Extent{
		extent(0, 1, 4, federation.ExtentSealed),     // 0 to 2
		extent(10, 0, 3, federation.ExtentSealed),    // 10 to 12, after a gap
		extent(13, 5, 5, federation.ExtentSealed),    // empty
		extent(20, 0, 0, federation.ExtentSuspended), // from 20, its end unknown
		extent(1000, 1, 0, federation.ExtentOpen),    // the head
	}}
	for offset, want := range map[federation.LogicalOffset]int{0: 0, 2: 0, 3: 1, 9: 1, 12: 1, 13: 3, 19: 3, 20: 3, 999: 3, 1000: 4, 5000: 4} {
		require.Equal(t, want, p.Locate(offset), "offset %d", offset)
	}
}

func TestChainRules(t *testing.T) {
	ep := func(l federation.LogicalEpoch) federation.EpochEntry {
		return federation.EpochEntry{Physical: 0, Logical: l}
	}
	good := func() *federation.Partition {
		a, b := extent(0, 0, 10, federation.ExtentSealed, ep(1)), extent(10, 1, 0, federation.ExtentOpen, ep(2))
		b.Number = 1
		return &federation.Partition{Topic: "t", Epoch: 2, Extents: []*federation.Extent{a, b}}
	}
	require.NoError(t, good().Validate())
	for name, spoil := range map[string]func(p *federation.Partition){
		"no extent":              func(p *federation.Partition) { p.Extents = nil },
		"two heads":              func(p *federation.Partition) { p.Extents[0].State = federation.ExtentOpen },
		"sealed head":            func(p *federation.Partition) { p.Extents[1].State = federation.ExtentSealed },
		"overlap":                func(p *federation.Partition) { p.Extents[1].Base = 9 },
		"end below start":        func(p *federation.Partition) { p.Extents[0].End = -1 },
		"epoch goes back":        func(p *federation.Partition) { p.Extents[1].Epochs[0].Logical = 1 },
		"epoch above partition":  func(p *federation.Partition) { p.Epoch = 1 },
		"opening at the start":   func(p *federation.Partition) { p.Extents[1].Opening = 1 },
		"no epochs":              func(p *federation.Partition) { p.Extents[1].Epochs = nil },
		"number not above":       func(p *federation.Partition) { p.Extents[1].Number = 0 },
		"physical epochs unsort": func(p *federation.Partition) { p.Epoch = 3; p.Extents[1].Epochs = append(p.Extents[1].Epochs, ep(3)) },
	} {
		p := good()
		spoil(p)
		require.Error(t, p.Validate(), name)
	}
}

func TestTopicIDsRoundTrip(t *testing.T) {
	for range 100 {
		id := federation.NewTopicID()
		require.NotEqual(t, byte('-'), id.String()[0])
		back, err := federation.ParseTopicID(id.String())
		require.NoError(t, err)
		require.Equal(t, id, back)
	}
	_, err := federation.ParseTopicID("short")
	require.Error(t, err)
}

func TestBetweenLeavesGapsOut(t *testing.T) {
	suspended := extent(1000, 1, 0, federation.ExtentSuspended)
	suspended.Seen, suspended.Acknowledged = 3, 6 // to 1004
	p := &federation.Partition{Extents: []*federation.Extent{
		extent(0, 1, 11, federation.ExtentSealed), // 0 to 9
		suspended,
		extent(5000, 1, 0, federation.ExtentOpen),
	}}
	for _, c := range []struct{ from, to, want federation.LogicalOffset }{
		{0, 5007, 22}, {4, 10, 6}, {10, 1000, 0}, {9, 1001, 2}, {1003, 5000, 2}, {1005, 5007, 7}, {1500, 5001, 1}, {5005, 5007, 2}, {5007, 5007, 0}, {5009, 5007, 0},
	} {
		require.EqualValues(t, c.want, p.Between(c.from, c.to), "%d to %d", c.from, c.to)
	}
}

// Copies end where the old extents ended; openings between them and the start take no offset.
func TestCopiesLieBelowTheBase(t *testing.T) {
	e := extent(100, 15, 0, federation.ExtentOpen)
	e.Copies = federation.PhysicalRange{From: 2, To: 12} // 1 is the primer, 12 to 14 are openings
	require.EqualValues(t, 90, e.First())
	for l := federation.LogicalOffset(90); l < 120; l++ {
		p := e.Physical(l)
		require.True(t, e.Holds(p), "offset %d", l)
		require.Equal(t, l, e.Logical(p))
		require.Equal(t, l, e.At(p))
	}
	require.EqualValues(t, 11, e.Physical(99))
	require.EqualValues(t, 15, e.Physical(100), "behind the openings")
	require.EqualValues(t, 2, e.Physical(3), "a gap reads from the first copy")
	for _, p := range []federation.PhysicalOffset{0, 1, 12, 14} {
		require.False(t, e.Holds(p), "physical offset %d", p)
	}
	require.EqualValues(t, 90, e.Logical(0), "the log begins with the copies")
	require.EqualValues(t, 95, e.Logical(7), "or later, if retention has deleted some")
	require.EqualValues(t, 100, e.Logical(13))
	require.EqualValues(t, 88, e.At(0), "a batch that begins before the first copy")
	e.State, e.End = federation.ExtentSealed, 20
	end, _ := e.EndOffset()
	require.EqualValues(t, 105, end)
	require.False(t, e.Holds(20))

	p := &federation.Partition{Topic: "orders", Epoch: 3, Extents: []*federation.Extent{e}}
	e.State, e.Epochs, e.Opening = federation.ExtentOpen, []federation.EpochEntry{{Physical: 0, Logical: 3}}, 12
	require.NoError(t, p.Validate())
	for what, broken := range map[string]federation.PhysicalRange{"above the start": {From: 2, To: 16}, "over the openings": {From: 2, To: 13}, "backwards": {From: 3, To: 2}, "negative": {From: -1, To: 2}} {
		e.Copies = broken
		require.Error(t, p.Validate(), what)
	}
	e.Copies, e.Base = federation.PhysicalRange{From: 2, To: 12}, 9
	require.Error(t, p.Validate(), "more copies than offsets")
}
