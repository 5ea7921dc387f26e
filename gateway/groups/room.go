package groups

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/braidmq/braid/federation"
)

// A Room is what all groups of a gateway, those of its tenants too, may hold in memory for
// their members: what members bring stays for their sessions, whether their clients are
// there or not. Above it new members are told to try again, and those that there are go
// on.
//
// No client can shut out the others: it may hold as much as would then be free, so one has
// half of the room at most, two have a third each, and something is left for the next. A
// client is a principal at an IP address.
type Room struct {
	size    int64
	used    atomic.Int64
	refused atomic.Int64
	unused  atomic.Int64 // groups in memory that have no members

	mu      sync.Mutex
	clients map[string]int64
	pressed time.Time // when somebody was refused last
}

// RoomDefault is the room of groups where memory has no limit.
const RoomDefault = 512 << 20

// What is counted of a group and of a member beside its strings and bytes: goroutine with
// its stack, queue, maps, and the partitions.
const (
	groupBytes     = 14 << 10
	memberBytes    = 1 << 10
	partitionBytes = 64
)

// NewRoom makes a room of so many bytes; 0 = RoomDefault.
func NewRoom(size int64) *Room {
	if size <= 0 {
		size = RoomDefault
	}
	return &Room{size: size, clients: map[string]int64{}}
}

// Size is what all groups may hold, in bytes.
func (r *Room) Size() int64 { return r.size }

// Used is what they hold.
func (r *Room) Used() int64 { return r.used.Load() }

// Refused counts the members that were refused for want of room.
func (r *Room) Refused() int64 { return r.refused.Load() }

// fits reports whether a client may hold n bytes more. Members that are there already may
// take a quarter more than there is, so that groups that go on are the last to be hurt.
func (r *Room) fits(client string, n int64, known bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	size := r.size
	if known {
		size += size / 4
	}
	if n <= 0 || r.clients[client]+n <= size-r.used.Load()-n {
		return true
	}
	r.refused.Add(1)
	r.pressed = time.Now()
	return false
}

// unusedShareOf is the part of the room that groups without members may have beside it:
// whoever asks for a group that nobody else has makes the gateway load one.
const unusedShareOf = 4

// unusedMax is how many groups without members may be in memory.
func (r *Room) unusedMax() int64 { return max(r.size/unusedShareOf/groupBytes, 1) }

// take counts n bytes for a client; they may be negative.
func (r *Room) take(client string, n int64) {
	if n == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used.Add(n)
	if r.clients[client] += n; r.clients[client] == 0 {
		delete(r.clients, client)
	}
}

// tight reports whether somebody was refused of late.
func (r *Room) tight(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.pressed.IsZero() && now.Sub(r.pressed) < silentMax
}

// A holding is what a client holds of the room for a member.
type holding struct {
	client string
	bytes  int64
}

// groupShare is the key of what a group itself holds; no member has an empty id.
const groupShare = ""

// client is who a member counts for.
func (m *member) client() string {
	if m.modern != nil {
		return clientOf(m.clientHost, m.modern.principal)
	}
	return clientOf(m.clientHost, m.user)
}

func clientOf(host, principal string) string {
	if ip, _, err := net.SplitHostPort(host); err == nil { // of a Connect member
		host = ip
	}
	return host + " " + principal
}

// size is what a member holds.
func (m *member) size() int64 {
	n := memberBytes + len(m.id) + len(m.instance) + len(m.clientID) + len(m.regex) + len(m.assignment)
	for _, p := range m.protocols {
		n += len(p.Name) + len(p.Metadata)
	}
	for _, t := range m.names {
		n += len(t)
	}
	n += partitionBytes * (len(m.owned) + len(m.target) + len(m.revoking))
	return int64(n)
}

// hold counts what is held under a member id, in place of what was.
func (g *group) hold(id string, s holding) {
	was := g.held[id]
	if was == s {
		return
	}
	if was.client == s.client {
		g.cfg.Room.take(s.client, s.bytes-was.bytes)
	} else {
		g.cfg.Room.take(was.client, -was.bytes)
		g.cfg.Room.take(s.client, s.bytes)
	}
	if s.bytes == 0 {
		delete(g.held, id)
		return
	}
	g.held[id] = s
}

// count brings what is held up to date after a step: by members that changed, and those
// that are gone. The group itself counts for its first member.
func (g *group) count() {
	if g.dirty {
		for _, m := range g.members {
			if !m.dirty {
				continue
			}
			if _, ok := g.held[groupShare]; !ok {
				g.hold(groupShare, holding{m.client(), groupBytes})
			}
			g.hold(m.id, holding{m.client(), m.size()})
		}
	}
	own := 0
	if _, ok := g.held[groupShare]; ok {
		own = 1
	}
	if len(g.held) > len(g.members)+len(g.pending)+own {
		for id, s := range g.held {
			if _, pending := g.pending[id]; id != groupShare && g.members[id] == nil && !pending {
				g.hold(id, holding{client: s.client})
			}
		}
	}
	if len(g.members)+len(g.pending) == 0 {
		g.hold(groupShare, holding{client: g.held[groupShare].client})
	}
}

// release gives everything back when the group leaves the memory.
func (g *group) release() {
	for id, s := range g.held {
		g.hold(id, holding{client: s.client})
	}
}

// fits reports whether a member that is to be may hold what it would; n is without its
// fixed part.
func (g *group) fits(client string, n int) error {
	n += memberBytes
	if _, ok := g.held[groupShare]; !ok {
		n += groupBytes
	}
	if g.cfg.Room.fits(client, int64(n), false) {
		return nil
	}
	return g.errNoRoom()
}

// mayGrow reports whether a member may hold n bytes more than it does.
func (g *group) mayGrow(m *member, n int) error {
	if g.cfg.Room.fits(m.client(), int64(n), true) {
		return nil
	}
	return g.errNoRoom()
}

// roomToJoin reports whether there is room for what a JoinGroup brings.
func (g *group) roomToJoin(r *JoinRequest, pending bool) error {
	n := 0
	for _, p := range r.Protocols {
		n += len(p.Name) + len(p.Metadata)
	}
	m := g.members[r.MemberID]
	if r.InstanceID != "" && m == nil {
		m = g.members[g.static[r.InstanceID]]
	}
	switch {
	case m != nil:
		for _, p := range m.protocols {
			n -= len(p.Name) + len(p.Metadata)
		}
		return g.mayGrow(m, n)
	case r.MemberID == "" || pending:
		return g.fits(r.client(), n+2*len(r.ClientID)+2*len(r.InstanceID))
	}
	return nil // it is no member, and is told so
}

func (r *JoinRequest) client() string { return clientOf(r.ClientHost, r.Principal) }

// roomForNew reports whether there is room for the member that a JoinGroup makes in a group
// that is not in memory: before it is loaded, and a goroutine started for it.
func (e *Engine) roomForNew(r *JoinRequest) error {
	if r.MemberID != "" || r.InstanceID != "" || e.running(r.Group) != nil {
		return nil
	}
	n := memberBytes + groupBytes + 2*len(r.ClientID)
	for _, p := range r.Protocols {
		n += len(p.Name) + len(p.Metadata)
	}
	if e.cfg.Room.fits(r.client(), int64(n), false) {
		return nil
	}
	return errNoRoom(r.Group, e.cfg.Room)
}

// roomToAssign reports whether there is room for what a leader assigns. Clients take no
// other error of a SyncGroup for a reason to try again.
func (g *group) roomToAssign(leader *member, assignments []MemberAssignment) error {
	n := 0
	for _, a := range assignments {
		if m := g.members[a.MemberID]; m != nil {
			n += len(a.Assignment) - len(m.assignment)
		}
	}
	if err := g.mayGrow(leader, n); err != nil {
		return federation.Errorf(federation.RebalanceInProgress, "group %q: this gateway has no room for its assignments (--group-memory); join again", g.id)
	}
	return nil
}

// roomToSubscribe reports whether there is room for what a stepwise member subscribes to;
// m is nil for a new one.
func (g *group) roomToSubscribe(m *member, client string, ids int, topics []federation.TopicName) error {
	n := ids
	for _, t := range topics {
		n += len(t)
	}
	if m == nil {
		return g.fits(client, n)
	}
	for _, t := range m.names {
		n -= len(t)
	}
	return g.mayGrow(m, n-ids)
}

// errNoRoom has clients try again. GROUP_MAX_SIZE_REACHED would end consumers that came at
// a bad time.
func (g *group) errNoRoom() error { return errNoRoom(g.id, g.cfg.Room) }

func errNoRoom(group string, r *Room) error {
	return federation.Errorf(federation.CoordinatorLoading,
		"group %q: this gateway has no room for what its members bring (--group-memory, %d bytes for all groups); try again", group, r.Size())
}

// silentMax is how long a member that took no part in its generation may say nothing while
// others are refused for want of room. Clients send SyncGroup as soon as they are told of
// a generation, and heartbeats while they work on an assignment.
const silentMax = 10 * time.Second

// dropSilent removes classic members that joined and were not heard of again, as long as
// room is wanting. Otherwise they stay for their session, half an hour at most.
func (g *group) dropSilent() {
	if len(g.unsync) == 0 || (g.state != stateCompleting && g.state != stateStable) || !g.cfg.Room.tight(g.now) {
		return
	}
	dropped := false
	for _, m := range g.ordered() {
		if g.unsync[m.id] && m.awaitsSync == nil && m.awaitsJoin == nil && m.instance == "" && g.now.Sub(m.deadline.Add(-m.session)) > silentMax {
			g.remove(m)
			dropped = true
		}
	}
	if dropped {
		g.membersLeft()
	}
}
