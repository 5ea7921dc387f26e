package controller

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

func TestWhoIsWaitedFor(t *testing.T) {
	const old, v = federation.MapVersion(7), federation.MapVersion(8)
	now := time.Now()
	drop, fence := now.Add(time.Second), now.Add(time.Minute)
	m := &federation.Map{Gateways: []*federation.Gateway{{ID: "g1"}, {ID: "g2"}}}
	f := newFleet()
	f.takeOver(m, drop, fence)
	behind := func(at release, m *federation.Map, now time.Time, want ...federation.GatewayID) time.Time {
		t.Helper()
		got, next, _ := f.behind(m, v, at, now)
		slices.Sort(got)
		require.Equal(t, want, got)
		return next
	}
	attach := func(id federation.GatewayID, incarnation string, has federation.MapVersion) *session {
		s := &session{id: id, incarnation: incarnation, version: has, ended: make(chan struct{})}
		f.register(s)
		return s
	}

	// Nobody has come to the new leader yet.
	behind(atDrop, m, now, "g1", "g2")
	require.Equal(t, fence, behind(atFence, m, now, "g1", "g2"))

	// One comes, and applies; the other one is dropped, but may hold its lease.
	g1 := attach("g1", "x", old)
	behind(atDrop, m, now, "g1", "g2")
	f.update(func() { g1.version = v })
	behind(atDrop, m, now, "g2")
	m = &federation.Map{Gateways: m.Gateways[:1]}
	behind(atDrop, m, now)
	require.Equal(t, fence, behind(atFence, m, now, "g2"))
	behind(atFence, m, fence)

	// A stream that is lost again leaves the lease.
	require.True(t, f.grant(g1, fence.Add(time.Second)))
	f.lost(g1, time.Second)
	require.Equal(t, fence, behind(atFence, m, now, "g1", "g2"))
	require.Equal(t, fence.Add(time.Second), behind(atFence, m, fence, "g1"))

	// Another process of the gateway says nothing of the first one.
	restarted := attach("g1", "y", v)
	require.True(t, f.grant(restarted, fence.Add(2*time.Second)))
	behind(atDrop, m, now)
	behind(atFence, m, fence, "g1")
	behind(atFence, m, fence.Add(time.Second))

	// One that has drained acknowledges nothing any more.
	f.finished(restarted)
	f.lost(restarted, time.Second)
	behind(atFence, m, fence.Add(time.Second))

	// One that comes with an older map is granted nothing before it has applied.
	late := attach("g3", "x", old)
	f.update(func() { late.floor = v })
	require.False(t, f.grant(late, fence))
	behind(atFence, m, fence.Add(time.Second), "g3")
	f.update(func() { late.version = v })
	require.True(t, f.grant(late, fence))
}
