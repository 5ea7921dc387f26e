package groups

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

func TestRoomIsFair(t *testing.T) {
	r := NewRoom(1200)
	fill := func(client string) (held int64) {
		for r.fits(client, 10, false) {
			r.take(client, 10)
			held += 10
		}
		return held
	}
	require.EqualValues(t, 600, fill("a"), "one client has half at most")
	require.EqualValues(t, 300, fill("b"), "the next one half of the rest")
	require.True(t, r.fits("c", 100, false), "there is something left for a third")
	require.EqualValues(t, 2, r.Refused())
	require.False(t, r.fits("a", 10, false))
	require.True(t, r.fits("b", 150, true), "members that there are may have some more")
	require.True(t, r.fits("a", -5, true), "and less at any time")
	r.take("a", -600)
	r.take("b", -300)
	require.Zero(t, r.Used())
	require.Empty(t, r.clients)
	require.True(t, r.tight(time.Now()))
	require.False(t, r.tight(time.Now().Add(time.Minute)))
}

func joinOf(group, client string, bytes int) JoinRequest {
	return JoinRequest{
		Group: group, ClientID: client, ClientHost: "/" + client, Principal: "User:" + client, ProtocolType: "consumer",
		Protocols: []Protocol{{Name: "range", Metadata: make([]byte, bytes)}}, SessionTimeout: 30 * time.Minute, RebalanceTimeout: 30 * time.Minute,
	}
}

// TestRoomOfGroups: who fills the room with members that never come back has half of it;
// others join, and what was not heard of leaves.
func TestRoomOfGroups(t *testing.T) {
	cfg := Config{Room: NewRoom(1 << 20), InitialRebalanceDelay: -1}.withDefaults()
	now := time.Now()
	var groups []*group
	var refused error
	join := func(name, client string, bytes int) (*group, error) {
		g := newGroup(name, &cfg, &federation.Map{}, now)
		fx := g.step(now, evJoin{to: "join", r: new(joinOf(name, client, bytes))})
		require.Len(t, fx.replies, 1)
		groups = append(groups, g)
		return g, fx.replies[0].err
	}
	for n := 0; refused == nil; n++ {
		_, refused = join(fmt.Sprint("abuse-", n), "mallory", 50_000)
	}
	require.Equal(t, federation.CoordinatorLoading, federation.KindOf(refused), "clients try again")
	require.ErrorContains(t, refused, "--group-memory")
	require.LessOrEqual(t, cfg.Room.Used(), cfg.Room.Size()/2)
	require.Greater(t, cfg.Room.Used(), cfg.Room.Size()/3)

	g, err := join("honest", "alice", 50_000)
	require.NoError(t, err)
	id := g.ordered()[0].id
	sync := evSync{to: "sync", r: SyncRequest{Group: "honest", MemberID: id, Generation: g.generation, Assignments: []MemberAssignment{{MemberID: id, Assignment: make([]byte, 50_000)}}}}
	require.NoError(t, g.step(now, sync).replies[0].err)
	require.Equal(t, g.members[id].size()+groupBytes, g.held[id].bytes+g.held[groupShare].bytes)

	// Silent members go, as somebody was refused; the one that took part stays.
	now = now.Add(silentMax - time.Second)
	cfg.Room.fits("mallory", 1<<20, false)
	for _, g := range groups {
		g.step(now, evPressed{})
	}
	require.Greater(t, cfg.Room.Used(), cfg.Room.Size()/3, "not yet")
	cfg.Room.pressed = now.Add(2 * time.Second)
	now = now.Add(2 * time.Second)
	for _, g := range groups {
		g.step(now, evPressed{})
	}
	require.Len(t, g.members, 1)
	require.Equal(t, g.members[id].size()+groupBytes, cfg.Room.Used())

	// It goes on from what is stored, and gives all back in the end.
	loaded, err := loadGroup("honest", &cfg, &federation.Map{}, map[string][]byte{headerField: encode(g.header()), memberPrefix + id: encode(g.members[id].stored())}, now)
	require.NoError(t, err)
	require.Equal(t, g.held[id].client, loaded.held[id].client)
	loaded.release()
	for _, g := range groups {
		g.release()
	}
	require.Zero(t, cfg.Room.Used())
	require.Empty(t, cfg.Room.clients)
}

// TestPendingMembersTakeRoom: ids that were given and not used count, too.
func TestPendingMembersTakeRoom(t *testing.T) {
	cfg := Config{Room: NewRoom(1 << 16)}.withDefaults()
	now := time.Now()
	g := newGroup("g", &cfg, &federation.Map{}, now)
	r := joinOf("g", "mallory", 10)
	r.RequireMemberID, r.SessionTimeout = true, 6*time.Second
	var err error
	n := 0
	for ; federation.KindOf(err) != federation.CoordinatorLoading; n++ {
		require.Less(t, n, 64)
		err = g.step(now, evJoin{to: "join", r: &r}).replies[0].err
	}
	require.Greater(t, n, 10)
	g.step(now.Add(7*time.Second), evTick{heard: heardOf})
	require.Zero(t, cfg.Room.Used())
}
