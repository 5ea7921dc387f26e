package controller

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// A fleetScript is a fleet whose gateways a test moves.
type fleetScript struct {
	*fleet

	t *testing.T
}

func (f *fleetScript) attach(id federation.GatewayID, incarnation string, has federation.MapVersion) *session {
	s := &session{id: id, incarnation: incarnation, version: has, ended: make(chan struct{})}
	f.register(s)
	return s
}

// hold has a gateway report what it holds.
func (f *fleetScript) hold(s *session, v federation.MapVersion, heads ...*controlv1.HeldHead) {
	f.t.Helper()
	a := &attachment{term: &term{fleet: f.fleet}, session: s}
	require.NoError(f.t, a.held(&controlv1.HeadsHeld{Version: int64(v), Heads: heads}))
}

func sorted(ids []federation.GatewayID) []federation.GatewayID {
	slices.Sort(ids)
	return ids
}

func TestWhoIsWaitedFor(t *testing.T) {
	const old, v = federation.MapVersion(7), federation.MapVersion(8)
	now := time.Now()
	drop, fence := now.Add(time.Second), now.Add(time.Minute)
	m := &federation.Map{Gateways: []*federation.Gateway{{ID: "g1"}, {ID: "g2"}}}
	f := &fleetScript{fleet: newFleet(), t: t}
	f.takeOver(m, drop, fence)
	behind := func(m *federation.Map, want ...federation.GatewayID) {
		t.Helper()
		got, _ := f.behind(m, v)
		require.Equal(t, want, sorted(got))
	}
	unreachable := func(now time.Time, want ...federation.GatewayID) time.Time {
		t.Helper()
		got, next, _ := f.unreachable(now)
		require.Equal(t, want, sorted(got))
		return next
	}

	// Nobody has come to the new leader yet.
	behind(m, "g1", "g2")
	require.Equal(t, fence, unreachable(now, "g1", "g2"))

	// One comes, and applies; the other one is lost, but may hold its lease.
	g1 := f.attach("g1", "x", old)
	behind(m, "g1", "g2")
	f.update(func() { g1.version = v })
	behind(m, "g2")
	m = &federation.Map{Gateways: []*federation.Gateway{m.Gateways[0], {ID: "g2", State: federation.GatewayLost}}}
	behind(m)
	require.Equal(t, fence, unreachable(now, "g2"))
	unreachable(fence)

	// A stream that is lost again leaves the lease.
	require.True(t, f.grant(g1, fence.Add(time.Second)))
	f.lost(g1, time.Second)
	require.Equal(t, fence, unreachable(now, "g1", "g2"))
	require.Equal(t, fence.Add(time.Second), unreachable(fence, "g1"))

	// Another process of the gateway says nothing of the first one.
	restarted := f.attach("g1", "y", v)
	require.True(t, f.grant(restarted, fence.Add(2*time.Second)))
	behind(m)
	unreachable(fence, "g1")
	unreachable(fence.Add(time.Second))

	// One that has drained acknowledges nothing any more.
	f.finished(restarted)
	f.lost(restarted, time.Second)
	unreachable(fence.Add(time.Second))

	// One that comes with an older map is granted nothing before it has applied.
	late := f.attach("g3", "x", old)
	f.update(func() { late.floor = v })
	require.False(t, f.grant(late, fence))
	f.update(func() { late.version = v })
	require.True(t, f.grant(late, fence))
}

func TestWhoMayStillAppend(t *testing.T) {
	const v = federation.MapVersion(8)
	now := time.Now()
	end := now.Add(time.Minute)
	f := &fleetScript{fleet: newFleet(), t: t}
	g1, g2 := f.attach("g1", "x", v), f.attach("g2", "x", v)
	require.True(t, f.grant(g1, end))
	tp := federation.TopicPartition{Topic: "orders", Partition: 3}
	moves := []planner.Move{{TopicPartition: tp, Extent: 2}}
	missing := func(now time.Time, want ...federation.GatewayID) heldEnds {
		t.Helper()
		ends, got, _ := f.held(v, moves, now)
		require.Equal(t, want, sorted(got))
		return ends
	}
	head := func(extent int32, acknowledged int64) *controlv1.HeldHead {
		return &controlv1.HeldHead{Topic: "orders", Partition: 3, Extent: extent, AcknowledgedEnd: acknowledged}
	}

	// Also one without a lease: it may get one with the map that it has.
	missing(now, "g1", "g2")
	f.hold(g1, v, head(2, 17))
	missing(now, "g2")
	f.hold(g2, v-1, head(2, 99))
	missing(now, "g2") // of an earlier sealing that was taken back
	f.hold(g2, v, head(1, 99))
	missing(now, "g2") // another extent
	f.hold(g2, v+1, head(2, 23))
	require.EqualValues(t, 23, missing(now)[tp].AcknowledgedEnd)
	f.hold(g2, v, head(1, 99))
	require.EqualValues(t, 23, missing(now)[tp].AcknowledgedEnd, "an older report changes nothing")

	// One that is cut off may go on until its lease ends, whatever it has said before:
	// it can have missed that the heads were opened and sealed again.
	f.lost(g1, time.Second)
	missing(now, "g1")
	require.EqualValues(t, 23, missing(end)[tp].AcknowledgedEnd)

	// One that comes back tells again.
	back := f.attach("g1", "x", v)
	missing(now, "g1")
	f.hold(back, v+1, head(2, 31))
	require.EqualValues(t, 31, missing(now)[tp].AcknowledgedEnd)
}
