package groups

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

func share(n ...int) func(map[string]int) bool {
	return func(got map[string]int) bool {
		left := map[int]int{}
		for _, v := range n {
			left[v]++
		}
		for _, v := range got {
			left[v]--
		}
		for _, v := range left {
			if v != 0 {
				return false
			}
		}
		return len(got) == len(n)
	}
}

func (w *world) shared(n ...int) {
	w.t.Helper()
	w.eventually("partitions shared", func() bool { return share(n...)(w.claims.of()) })
}

func TestClassicEager(t *testing.T) {
	onWorlds(t, func(w *world) {
		w.gateway("a")
		w.serve("a")
		a := w.consumer("a")
		w.shared(6)
		b := w.consumer("b")
		w.shared(3, 3)
		b.leave()
		w.shared(6)
		c := w.consumer("c")
		w.shared(3, 3)
		c.crash() // the session runs out
		w.shared(6)
		d, err := w.coordinator("g").Describe(w.t.Context(), "g")
		require.NoError(w.t, err)
		require.Equal(w.t, "Stable", d.State)
		require.Len(w.t, d.Members, 1)
		require.Equal(w.t, a.id, d.Members[0].MemberID)
	})
}

func TestClassicCooperative(t *testing.T) {
	onWorlds(t, func(w *world) {
		w.gateway("a")
		w.serve("a")
		w.consumer("a", cooperatively)
		w.shared(6)
		w.consumer("b", cooperatively)
		w.shared(3, 3)
		w.consumer("c", cooperatively)
		w.shared(2, 2, 2)
		require.LessOrEqual(w.t, w.claims.movesSoFar(), 6+3+2, "what stays does not move")
	})
}

func TestMixedGroup(t *testing.T) {
	for name, mode := range map[string]func(*consumer){"eager": func(*consumer) {}, "cooperative": cooperatively} {
		t.Run(name, func(t *testing.T) {
			onWorlds(t, func(w *world) {
				gw := w.gateway("a")
				w.serve("a")
				a := w.consumer("a", mode)
				w.shared(6)
				r := w.reader("r", gw.engine)
				w.shared(3, 3)
				b := w.consumer("b", mode)
				w.shared(2, 2, 2)
				slow := w.reader("slow", gw.engine, func(r *reader, _ *SubscribeRequest) { r.slow = 300 * time.Millisecond })
				w.shared(2, 2, 1, 1)
				require.NoError(w.t, r.leave())
				w.shared(2, 2, 2)
				b.crash()
				w.shared(3, 3)
				w.topics("t=9", "u=1")
				w.shared(5, 4)
				a.leave()
				w.shared(9)
				require.NoError(w.t, slow.leave())
				w.shared()
				require.Zero(w.t, r.lost.Load()+slow.lost.Load(), "both gave up in time")
			})
		})
	}
}

func TestConnectMembersKeepWhatStays(t *testing.T) {
	onWorlds(t, func(w *world) {
		gw := w.gateway("a")
		w.serve("a")
		w.reader("r1", gw.engine)
		w.shared(6)
		w.reader("r2", gw.engine)
		w.shared(3, 3)
		w.reader("r3", gw.engine)
		w.shared(2, 2, 2)
		require.Equal(w.t, 6+3+2, w.claims.movesSoFar())
	})
}

// A reader that does not give up in time loses the partition, and cannot commit it.
func TestRevocationDeadline(t *testing.T) {
	onWorlds(t, func(w *world) {
		gw := w.gateway("a")
		w.serve("a")
		m, err := gw.engine.Subscribe(w.t.Context(), SubscribeRequest{Group: "g", ClientID: "stuck", Topics: []federation.TopicName{"t"}, SessionTimeout: 10 * time.Second, RebalanceTimeout: 200 * time.Millisecond})
		require.NoError(w.t, err)
		require.Len(w.t, (<-m.Events()).Assigned, 6)
		m2, err := gw.engine.Subscribe(w.t.Context(), SubscribeRequest{Group: "g", ClientID: "next", Topics: []federation.TopicName{"t"}, SessionTimeout: 10 * time.Second})
		require.NoError(w.t, err)
		require.Empty(w.t, (<-m2.Events()).Assigned)
		ev := <-m.Events()
		require.Len(w.t, ev.Revoking, 3)
		require.Equal(w.t, 200*time.Millisecond, ev.Deadline)
		late := CommitOffset{TopicPartition: ev.Revoking[0], Offset: 7}
		errs, err := m.Commit(w.t.Context(), []CommitOffset{late})
		require.NoError(w.t, err)
		require.NoError(w.t, errs[0], "until the deadline it is the reader's")
		ev = <-m.Events()
		require.Len(w.t, ev.Lost, 3)
		errs, err = m.Commit(w.t.Context(), []CommitOffset{late})
		require.NoError(w.t, err)
		require.Equal(w.t, federation.IllegalGeneration, federation.KindOf(errs[0]))
		got := (<-m2.Events()).Assigned
		require.Len(w.t, got, 3)
		require.EqualValues(w.t, 7, got[0].Offset, "the next reader begins at the last commit")
		require.EqualValues(w.t, -1, got[1].Offset)
		require.NoError(w.t, m.Leave(w.t.Context()))
		require.NoError(w.t, m2.Leave(w.t.Context()))
	})
}

// Another gateway takes a group over, from one that says good-bye and from one that
// crashed: members go on in the same generation, and nothing moves.
func TestTakeoverWithoutRebalance(t *testing.T) {
	for name, end := range map[string]func(w *world, old *gateway){
		"drain":  func(w *world, _ *gateway) { w.serve("b") },
		"handed": func(w *world, old *gateway) { require.NoError(w.t, old.engine.Close(w.t.Context())); w.serve("b") },
		"crash":  func(w *world, old *gateway) { old.crash(); w.serve("b") },
	} {
		t.Run(name, func(t *testing.T) {
			onWorlds(t, func(w *world) {
				old := w.gateway("a")
				next := w.gateway("b")
				w.serve("a")
				c1, c2 := w.consumer("c1"), w.consumer("c2")
				w.shared(3, 3)
				r := w.reader("r", w.cluster(next)) // relayed to a, later local
				w.shared(2, 2, 2)
				w.eventually("one generation", func() bool { return c1.generation.Load() == c2.generation.Load() })
				generation, joins, moves, events := c1.generation.Load(), c1.joins.Load()+c2.joins.Load(), w.claims.movesSoFar(), r.events.Load()
				end(w, old)
				w.eventually("b coordinates", func() bool {
					d, err := next.engine.Describe(w.t.Context(), "g")
					return err == nil && len(d.Members) == 3 && d.State == "Stable"
				})
				w.wait(2 * testSession) // all sessions would be over
				require.Equal(w.t, generation, c1.generation.Load())
				require.Equal(w.t, generation, c2.generation.Load())
				require.Equal(w.t, joins, c1.joins.Load()+c2.joins.Load(), "nobody joined again")
				require.Equal(w.t, moves, w.claims.movesSoFar())
				require.Equal(w.t, events, r.events.Load(), "the reader noticed nothing")
				errs, err := r.m.Commit(w.t.Context(), []CommitOffset{{TopicPartition: r.owned[0], Offset: 5}})
				require.NoError(w.t, err)
				require.NoError(w.t, errs[0])
				errs, err = next.engine.Commit(w.t.Context(), CommitRequest{Group: "g", MemberID: c1.id, Generation: generation, Offsets: []CommitOffset{{TopicPartition: tp("t", 0), Offset: 3}}})
				require.NoError(w.t, err)
				require.NoError(w.t, errs[0])
			})
		})
	}
}

// A leader that joins again when its coordinator is gone has its partitions back, and
// nobody else notices.
func TestImpatientLeader(t *testing.T) {
	onWorlds(t, func(w *world) {
		old := w.gateway("a")
		w.gateway("b")
		w.serve("a")
		leader := w.consumer("leader", impatiently)
		w.shared(6)
		other := w.consumer("other")
		w.shared(3, 3)
		w.eventually("one generation", func() bool { return leader.generation.Load() == other.generation.Load() })
		generation, joins, others := leader.generation.Load(), leader.joins.Load(), other.joins.Load()
		old.crash()
		w.wait(2 * testHeartbeat)
		w.serve("b")
		w.eventually("the leader joins again", func() bool { return leader.joins.Load() > joins })
		w.wait(2 * testSession)
		w.shared(3, 3)
		require.Equal(w.t, generation, leader.generation.Load())
		require.Equal(w.t, others, other.joins.Load())
		w.topics("t=8")
		leader.crash()
		w.shared(8)
	})
}

// The gateway of a dynamic reader dies, its coordinator or another one. Its client is back
// at once, and says who it was: it need not wait for its own former session.
func TestReaderOfADeadGatewayGoesOn(t *testing.T) {
	for name, gateway := range map[string]federation.GatewayID{"the coordinator": "a", "another": "b"} {
		t.Run(name, func(t *testing.T) {
			onWorlds(t, func(w *world) {
				w.gateway("a")
				w.gateway("b")
				next := w.gateway("c")
				w.serve("a")
				long := func(_ *reader, r *SubscribeRequest) { r.SessionTimeout = time.Minute }
				old := w.reader("old", w.cluster(w.gateways[gateway]), long)
				w.reader("other", w.cluster(next), long)
				w.shared(3, 3)
				had := slices.Clone(old.owned)
				old.stop()
				<-old.ended
				w.gateways[gateway].crash()
				if gateway == "a" {
					w.serve("c")
				}
				begin := time.Now()
				again := w.reader("again", w.cluster(next), long, func(_ *reader, r *SubscribeRequest) { r.FormerID = old.m.MemberID() })
				w.shared(3, 3)
				require.Less(w.t, time.Since(begin), 10*time.Second)
				require.Equal(w.t, had, again.owned)
				require.NotEqual(w.t, old.m.MemberID(), again.m.MemberID())
				errs, err := w.coordinator("g").Commit(w.t.Context(), CommitRequest{Group: "g", MemberID: old.m.MemberID(), Generation: 1, Offsets: []CommitOffset{{TopicPartition: had[0], Offset: 5}}})
				require.Equal(w.t, federation.UnknownMember, federation.KindOf(err), "the former one is fenced: %v", errs)
			})
		})
	}
}

// A gateway that does not know that it lost a group cannot write to it.
func TestZombieIsFenced(t *testing.T) {
	onWorlds(t, func(w *world) {
		a := w.gateway("a", func(c *Config) { c.OwnershipCheck = time.Hour })
		w.serve("a")
		m, err := a.engine.Subscribe(w.t.Context(), SubscribeRequest{Group: "g", ClientID: "r", Topics: []federation.TopicName{"t"}, SessionTimeout: 10 * time.Second})
		require.NoError(w.t, err)
		require.Len(w.t, (<-m.Events()).Assigned, 6)
		// b has another map: it takes the group over behind a's back.
		other := newWorld(w.t, w.mini, w.url)
		other.prefix = w.prefix
		other.maps.set(w.maps.Current())
		b := other.gateway("b")
		other.serve("b")
		errs, err := b.engine.Commit(w.t.Context(), CommitRequest{Group: "g", MemberID: m.MemberID(), Generation: 1, Offsets: []CommitOffset{{TopicPartition: tp("t", 0), Offset: 7}}})
		require.NoError(w.t, err)
		require.NoError(w.t, errs[0])
		_, err = m.Commit(w.t.Context(), []CommitOffset{{TopicPartition: tp("t", 0), Offset: 3}})
		require.Equal(w.t, federation.NotCoordinator, federation.KindOf(err))
		_, open := <-m.Events()
		require.False(w.t, open)
		require.Equal(w.t, federation.NotCoordinator, federation.KindOf(m.Err()))
		got, err := b.engine.Committed(w.t.Context(), "g", []federation.TopicPartition{tp("t", 0)})
		require.NoError(w.t, err)
		require.EqualValues(w.t, 7, got[0].Offset)
	})
}

// The same, when the zombie writes nothing: it finds out by looking.
func TestZombieFindsOut(t *testing.T) {
	onWorlds(t, func(w *world) {
		a := w.gateway("a")
		w.serve("a")
		m, err := a.engine.Subscribe(w.t.Context(), SubscribeRequest{Group: "g", ClientID: "r", Topics: []federation.TopicName{"t"}, SessionTimeout: 10 * time.Second})
		require.NoError(w.t, err)
		<-m.Events()
		_, _, err = a.store.ClaimGroup(w.t.Context(), "default", "", "g", true, 0)
		require.NoError(w.t, err)
		_, open := <-m.Events()
		require.False(w.t, open)
		require.Equal(w.t, federation.NotCoordinator, federation.KindOf(m.Err()))
	})
}

// A gateway that was cut off has not heard that another one had the group, and took members
// in. When they come to it, it sends none of them away: it asks whose the group is.
func TestZombieExpelsNobody(t *testing.T) {
	onWorlds(t, func(w *world) {
		a := w.gateway("a", func(c *Config) { c.OwnershipCheck = time.Hour })
		w.serve("a")
		ctx := w.t.Context()
		heartbeat := ConsumerHeartbeatRequest{Group: "g", ClientID: "c", RebalanceTimeout: time.Minute, Topics: []federation.TopicName{"t"}}
		join := func(gw *gateway, id string) ConsumerHeartbeatRequest {
			r := heartbeat
			r.MemberID = id
			got, err := gw.engine.ConsumerHeartbeat(ctx, r)
			require.NoError(w.t, err)
			return ConsumerHeartbeatRequest{Group: "g", MemberID: id, Epoch: got.Epoch}
		}
		join(a, "old")
		other := newWorld(w.t, w.mini, w.url) // with another map
		other.prefix = w.prefix
		other.maps.set(w.maps.Current())
		b := other.gateway("b")
		other.serve("b")
		at := join(b, "new")
		_, err := a.engine.ConsumerHeartbeat(ctx, at)
		require.Equal(w.t, federation.NotCoordinator, federation.KindOf(err), "%v", err)
		_, err = a.engine.ConsumerHeartbeat(ctx, at)
		require.NoError(w.t, err, "it has the group as it is by now")

		at.MemberID = "none"
		_, err = a.engine.ConsumerHeartbeat(ctx, at)
		require.Equal(w.t, federation.UnknownMember, federation.KindOf(err))
		a.loseRedis(true)
		_, err = a.engine.ConsumerHeartbeat(ctx, at)
		require.Equal(w.t, federation.CoordinatorLoading, federation.KindOf(err), "it cannot be known")
		at.MemberID = "new"
		_, err = a.engine.ConsumerHeartbeat(ctx, at)
		require.NoError(w.t, err, "the group goes on")
	})
}

func TestStaticMemberRestartsWithoutRebalance(t *testing.T) {
	onWorlds(t, func(w *world) {
		w.gateway("a")
		w.serve("a")
		c1, c2 := w.consumer("c1", static("one")), w.consumer("c2", static("two"))
		w.shared(3, 3)
		joins, generation := c1.joins.Load(), c1.generation.Load()
		c2.crash()
		again := w.consumer("c2", static("two"))
		w.shared(3, 3)
		require.Equal(w.t, generation, again.generation.Load())
		require.NotEqual(w.t, c2.id, again.id)
		require.Equal(w.t, joins, c1.joins.Load())
		// The former self is fenced.
		err := w.coordinator("g").Heartbeat(w.t.Context(), HeartbeatRequest{Group: "g", MemberID: c2.id, InstanceID: "two", Generation: generation})
		require.Equal(w.t, federation.FencedInstance, federation.KindOf(err))
		// It leaves by its instance id.
		again.crash()
		errs, err := w.coordinator("g").Leave(w.t.Context(), "g", []LeavingMember{{InstanceID: "two"}, {InstanceID: "three"}})
		require.NoError(w.t, err)
		require.NoError(w.t, errs[0])
		require.Equal(w.t, federation.UnknownMember, federation.KindOf(errs[1]))
		w.shared(6)
	})
}

func TestCallsAreAnsweredWhenTheCallerGivesUp(t *testing.T) {
	onWorlds(t, func(w *world) {
		gw := w.gateway("a")
		w.serve("a")
		w.consumer("c1")
		w.shared(6)
		ctx, cancel := context.WithTimeout(w.t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := gw.engine.Join(ctx, JoinRequest{
			Group: "g", ClientID: "x", ProtocolType: consumerProtocol, SessionTimeout: testSession, RebalanceTimeout: time.Hour,
			Protocols: []Protocol{{"range", subscriptionBytes([]federation.TopicName{"t"}, nil)}},
		})
		require.Equal(w.t, federation.Timeout, federation.KindOf(err))
	})
}

// A write whose answer is lost may have been done or not: the group goes on from what
// is stored, and nobody was told anything else.
func TestLostAnswerOfAWrite(t *testing.T) {
	onWorlds(t, func(w *world) {
		ctx := w.t.Context()
		gw := w.gateway("a")
		w.serve("a")
		r1 := w.reader("r1", w.cluster(gw))
		w.shared(6)
		gw.deaf.Store(true)
		c := w.consumer("c1") // its joining is stored, but gets no answer
		w.wait(50 * time.Millisecond)
		_, err := gw.engine.Commit(ctx, CommitRequest{Group: "g2", Generation: -1, Offsets: []CommitOffset{commitAt("t", 0, 1)}})
		require.Equal(w.t, federation.CoordinatorLoading, federation.KindOf(err))
		gw.deaf.Store(false)
		w.shared(3, 3)
		require.NoError(w.t, r1.m.Err())
		require.Zero(w.t, r1.lost.Load())
		c.leave()
		w.shared(6)
		require.Positive(w.t, gw.engine.Stats().StoreFailures)
	})
}

// The reader is at a gateway that is never the coordinator; the coordinator changes
// while partitions move, by hand-over, crash, and a map that brings a new one.
func TestCoordinatorMovesUnderAReader(t *testing.T) {
	onWorlds(t, func(w *world) {
		a, b, c := w.gateway("a"), w.gateway("b"), w.gateway("c")
		d := w.gateway("d")
		w.serve("a")
		r1 := w.reader("r1", w.cluster(d))
		w.shared(6)
		w.serve("b")
		r2 := w.reader("r2", w.cluster(d), func(r *reader, _ *SubscribeRequest) { r.slow = 100 * time.Millisecond })
		w.shared(3, 3)
		require.NoError(w.t, a.engine.Close(w.t.Context()))
		c1 := w.consumer("c1")
		b.crash()
		w.serve("c")
		w.shared(2, 2, 2)
		require.Zero(w.t, r1.lost.Load()+r2.lost.Load())
		for _, r := range []*reader{r1, r2} {
			errs, err := r.m.Commit(w.t.Context(), []CommitOffset{{TopicPartition: r.owned[0], Offset: 5}})
			require.NoError(w.t, err)
			require.NoError(w.t, errs[0])
		}
		require.NoError(w.t, r2.leave())
		w.shared(3, 3)
		c1.leave()
		w.shared(6)
		// Without any coordinator a reader is told, after its session, that it lost all.
		c.loseRedis(true)
		w.serve()
		<-r1.ended
		require.Equal(w.t, federation.UnknownMember, federation.KindOf(r1.m.Err()))
		require.EqualValues(w.t, 6, r1.lost.Load())
		c.loseRedis(false)
		w.serve("c")
	})
}

// A logical cluster has no more groups than it may have, at all gateways together; those
// that it has go on.
func TestGroupsAreLimited(t *testing.T) {
	onWorlds(t, func(w *world) {
		ctx := w.t.Context()
		var limit atomic.Int64
		bounded := func(c *Config) { c.Limit = func() int { return int(limit.Load()) } }
		w.gateway("a", bounded)
		w.gateway("b", bounded)
		w.serve("a", "b")
		commit := func(group string) error {
			_, err := w.coordinator(group).Commit(ctx, CommitRequest{Group: group, Generation: -1, Offsets: []CommitOffset{commitAt("t", 0, 1)}})
			return err
		}
		limit.Store(6)
		for i := range 6 {
			require.NoError(w.t, commit(fmt.Sprint("g", i)))
		}
		err := commit("more")
		require.Equal(w.t, federation.GroupFull, federation.KindOf(err))
		require.ErrorContains(w.t, err, "the 6 that")
		_, err = w.coordinator("more").Describe(ctx, "more")
		require.Equal(w.t, federation.GroupNotFound, federation.KindOf(err))
		require.NoError(w.t, commit("g3"))
		limit.Store(2) // takes none away
		require.NoError(w.t, commit("g5"))
		require.Equal(w.t, federation.GroupFull, federation.KindOf(commit("more")))
		limit.Store(6)
		require.NoError(w.t, w.coordinator("g0").Delete(ctx, "g0"))
		require.NoError(w.t, commit("more"))
		require.Equal(w.t, federation.GroupFull, federation.KindOf(commit("g0")))
		limit.Store(0)
		require.NoError(w.t, commit("g0"))
	})
}

// Groups that nobody is a member of are bounded, and go on from what is stored of them.
func TestUnusedGroupsAreBounded(t *testing.T) {
	onWorlds(t, func(w *world) {
		ctx := w.t.Context()
		room := NewRoom(1 << 20)
		a := w.gateway("a", func(c *Config) { c.Room, c.IdleUnload = room, time.Hour })
		w.serve("a")
		const groups = 100
		require.Less(w.t, room.unusedMax(), int64(groups/4))
		for i := range groups {
			group := fmt.Sprint("g", i)
			_, err := a.engine.Commit(ctx, CommitRequest{Group: group, Generation: -1, Offsets: []CommitOffset{commitAt("t", 0, int64(i))}})
			require.NoError(w.t, err)
		}
		w.eventually("unused groups unloaded", func() bool {
			return int64(a.engine.Stats().Groups) <= room.unusedMax() && room.unused.Load() <= room.unusedMax()
		})
		require.Positive(w.t, a.engine.Stats().Groups)
		for i := range groups {
			stored, err := a.engine.Committed(ctx, fmt.Sprint("g", i), []federation.TopicPartition{tp("t", 0)})
			require.NoError(w.t, err)
			require.EqualValues(w.t, i, stored[0].Offset)
		}
	})
}

// A member that there is no room for is refused before its group is loaded.
func TestNoGroupIsLoadedWithoutRoom(t *testing.T) {
	onWorlds(t, func(w *world) {
		room := NewRoom(1 << 20)
		a := w.gateway("a", func(c *Config) { c.Room = room })
		w.serve("a")
		r := joinOf("full", "mallory", 300<<10)
		room.take(r.client(), 400<<10)
		_, err := a.engine.Join(w.t.Context(), r)
		require.Equal(w.t, federation.CoordinatorLoading, federation.KindOf(err))
		require.ErrorContains(w.t, err, "--group-memory")
		require.EqualValues(w.t, 1, room.Refused())
		a.engine.mu.Lock()
		defer a.engine.mu.Unlock()
		require.Empty(w.t, a.engine.groups)
		n, err := a.store.GroupsCount(w.t.Context(), w.maps.Current().LogicalCluster)
		require.NoError(w.t, err)
		require.Zero(w.t, n)
	})
}

// A member that waits for the others holds its request no more, once the group has what it
// keeps of it.
func TestWaitingMembersHoldNoRequest(t *testing.T) {
	onWorlds(t, func(w *world) {
		a := w.gateway("a", func(c *Config) { c.InitialRebalanceDelay = 3 * time.Second })
		w.serve("a")
		taken := make(chan struct{})
		var metadata weak.Pointer[byte]
		answered := make(chan error, 1)
		go func() {
			r := joinOf("waits", "alice", 200<<10)
			metadata = weak.Make(&r.Protocols[0].Metadata[0])
			r.Taken = func() { close(taken) }
			_, err := a.engine.Join(w.t.Context(), r)
			answered <- err
		}()
		<-taken
		runtime.GC()
		require.Nil(w.t, metadata.Value(), "of the request")
		require.Empty(w.t, answered)
		require.NoError(w.t, <-answered)
	})
}
