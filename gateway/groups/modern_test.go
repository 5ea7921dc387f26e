package groups

import (
	"context"
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

// A modernConsumer is an SDK's member of the newer protocol, as the coordinator sees it:
// it says all in a heartbeat when it joins and after one that failed, and else what
// changed; it gives up before it says so.
type modernConsumer struct {
	w        *world
	name     string
	group    string
	instance string
	commits  bool
	slow     time.Duration // before it gives up
	interval time.Duration // of heartbeats

	id      string
	epoch   int32
	full    bool // the next heartbeat says everything
	owned   []federation.TopicPartition
	said    []federation.TopicPartition // what it last said that it reads
	joins   atomic.Int32                // that succeeded
	changes atomic.Int32                // of its assignment
	stop    context.CancelFunc
	done    chan struct{}
}

func (w *world) modern(name string, change ...func(*modernConsumer)) *modernConsumer {
	c := &modernConsumer{w: w, name: name, group: "g", id: name + "-0", interval: testHeartbeat, done: make(chan struct{})}
	for _, f := range change {
		f(c)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(w.t.Context()))
	c.stop = stop
	go c.run(ctx)
	w.t.Cleanup(c.crash)
	return c
}

// crash ends a consumer that does not say good-bye.
func (c *modernConsumer) crash() {
	c.stop()
	<-c.done
}

func (c *modernConsumer) leave() {
	c.crash()
	epoch := int32(epochLeave)
	if c.instance != "" {
		epoch = epochLeaveStatic
	}
	_, _ = c.w.coordinator(c.group).ConsumerHeartbeat(context.WithoutCancel(c.w.t.Context()),
		ConsumerHeartbeatRequest{Group: c.group, MemberID: c.id, InstanceID: c.instance, Epoch: epoch, RebalanceTimeout: -1})
}

func (c *modernConsumer) run(ctx context.Context) {
	defer close(c.done)
	defer func() { c.drop(c.owned) }()
	for n := 0; ctx.Err() == nil; n++ {
		res, err := c.w.coordinator(c.group).ConsumerHeartbeat(ctx, c.request())
		switch federation.KindOf(err) {
		case federation.UnknownMember, federation.FencedInstance:
			c.id = fmt.Sprintf("%s-%d", c.name, n)
			c.lose()
		case federation.FencedMemberEpoch:
			c.lose()
		default:
			if err != nil {
				c.full = true
				break
			}
			c.told(ctx, &res)
			if c.commits {
				c.commit(ctx)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(c.pause()):
		}
	}
}

// pause is how long a member waits for its next heartbeat: one that has given something
// up says so at once, as Kafka's clients do.
func (c *modernConsumer) pause() time.Duration {
	if c.epoch != epochJoin && !slices.Equal(c.owned, c.said) {
		return time.Millisecond
	}
	return c.interval
}

func (c *modernConsumer) request() ConsumerHeartbeatRequest {
	r := ConsumerHeartbeatRequest{Group: c.group, MemberID: c.id, InstanceID: c.instance, ClientID: c.name, Epoch: c.epoch, RebalanceTimeout: -1}
	if c.epoch == epochJoin || c.full {
		r.RebalanceTimeout, r.Topics = testRebalance, []federation.TopicName{"t"}
	}
	if c.epoch == epochJoin || c.full || !slices.Equal(c.owned, c.said) {
		r.Owned = append([]federation.TopicPartition{}, c.owned...)
		c.said = slices.Clone(c.owned)
	}
	return r
}

// lose gives all up, to join again.
func (c *modernConsumer) lose() {
	c.drop(c.owned)
	c.owned, c.said, c.epoch = nil, nil, epochJoin
}

func (c *modernConsumer) drop(tps []federation.TopicPartition) { c.w.claims.drop(c.name, tps) }

func (c *modernConsumer) told(ctx context.Context, res *ConsumerHeartbeatResponse) {
	if c.epoch == epochJoin {
		c.joins.Add(1)
	}
	c.full, c.epoch = false, res.Epoch
	if res.Assignment == nil {
		return
	}
	var now []federation.TopicPartition
	for _, a := range res.Assignment {
		for _, p := range a.Partitions {
			now = append(now, federation.TopicPartition{Topic: a.Topic, Partition: p})
		}
	}
	var revoked, added []federation.TopicPartition
	for _, tp := range c.owned {
		if !slices.Contains(now, tp) {
			revoked = append(revoked, tp)
		}
	}
	for _, tp := range now {
		if !slices.Contains(c.owned, tp) {
			added = append(added, tp)
		}
	}
	if len(revoked) > 0 {
		c.w.wait(c.slow)
	}
	c.drop(revoked)
	if len(revoked)+len(added) > 0 {
		c.changes.Add(1)
	}
	c.begin(ctx, added)
	c.owned = now
}

// begin reads partitions from their committed offsets.
func (c *modernConsumer) begin(ctx context.Context, tps []federation.TopicPartition) {
	if c.commits && len(tps) > 0 {
		if offsets, err := c.w.coordinator(c.group).Committed(ctx, c.group, tps); err == nil {
			for _, o := range offsets {
				c.w.claims.begins(c.name, o)
			}
		}
	}
	c.w.claims.take(c.name, tps)
}

func (c *modernConsumer) commit(ctx context.Context) {
	var offsets []CommitOffset
	for _, tp := range c.owned {
		offsets = append(offsets, CommitOffset{TopicPartition: tp, Offset: c.w.claims.next(tp)})
	}
	errs, err := c.w.coordinator(c.group).Commit(ctx, CommitRequest{Group: c.group, MemberID: c.id, Generation: c.epoch, Offsets: offsets})
	for i, o := range offsets {
		if err == nil && errs[i] == nil {
			c.w.claims.ack(o.TopicPartition, o.Offset)
		}
	}
}

func modernly(c *Config) {
	c.ConsumerSessionTimeout, c.ConsumerHeartbeatInterval = testSession, testHeartbeat
}

// The members of the newer protocol keep all that they have when their coordinator goes
// by, dies or loses the group: nobody is told anything, and nothing is written for
// heartbeats alone.
func TestModernHandOver(t *testing.T) {
	onWorlds(t, func(w *world) {
		a, b := w.gateway("a", modernly), w.gateway("b", modernly)
		w.serve("a")
		members := []*modernConsumer{w.modern("m1"), w.modern("m2"), w.modern("m3", func(c *modernConsumer) { c.instance = "i" })}
		w.shared(2, 2, 2)
		w.wait(time.Second)
		before, written := w.claims.movesSoFar(), a.engine.Stats().Writes

		w.wait(3 * time.Second)
		require.Equal(w.t, written, a.engine.Stats().Writes, "heartbeats that change nothing are not written")

		w.serve("b")
		w.wait(3 * testSession)
		w.serve("a")
		w.wait(3 * testSession)
		a.crash()
		w.serve("b")
		w.wait(3 * testSession)
		w.shared(2, 2, 2)
		require.Equal(w.t, before, w.claims.movesSoFar(), "no partition moved")
		for _, m := range members {
			require.Equal(w.t, int32(1), m.joins.Load(), "%s joined once", m.name)
		}
		require.Zero(w.t, b.engine.Stats().Rebalances)

		d, err := b.engine.Describe(w.t.Context(), "g")
		require.NoError(w.t, err)
		require.Equal(w.t, "Stable", d.State)
		require.Equal(w.t, TypeConsumer, d.Type)
		list, err := b.engine.List(w.t.Context())
		require.NoError(w.t, err)
		require.Equal(w.t, []Listing{{Group: "g", ProtocolType: consumerProtocol, State: "Stable", Type: TypeConsumer}}, list)

		// Any gateway tells whether a member is in an epoch.
		require.NoError(w.t, b.engine.CheckEpoch(w.t.Context(), "g", members[0].id, int32(d.Epoch)))
		require.Equal(w.t, federation.StaleMemberEpoch, federation.KindOf(b.engine.CheckEpoch(w.t.Context(), "g", members[0].id, 1)))
		require.Equal(w.t, federation.UnknownMember, federation.KindOf(b.engine.CheckEpoch(w.t.Context(), "g", "nobody", 1)))
	})
}

// A member that leaves gives its partitions to the others; a static one keeps them.
func TestModernLeave(t *testing.T) {
	onWorlds(t, func(w *world) {
		w.gateway("a", modernly)
		w.serve("a")
		w.modern("m1")
		m2 := w.modern("m2")
		static := w.modern("m3", func(c *modernConsumer) { c.instance = "i" })
		w.shared(2, 2, 2)
		m2.leave()
		w.shared(3, 3)
		moves := w.claims.movesSoFar()
		had := len(static.owned)
		static.leave()
		again := w.modern("m4", func(c *modernConsumer) { c.instance = "i" })
		w.shared(3, 3)
		require.Equal(w.t, moves+had, w.claims.movesSoFar(), "only the process of the static member changed")
		require.Equal(w.t, int32(1), again.joins.Load())
	})
}

// A group moves from the classic protocol to the newer one and back while it is read.
func TestModernMigration(t *testing.T) {
	onWorlds(t, func(w *world) {
		w.gateway("a", modernly)
		w.serve("a")
		classic := []*consumer{w.consumer("c1", cooperatively), w.consumer("c2", cooperatively)}
		w.shared(3, 3)
		modern := []*modernConsumer{w.modern("m1")}
		w.shared(2, 2, 2)
		classic[0].leave()
		modern = append(modern, w.modern("m2"))
		w.shared(2, 2, 2)
		classic[1].leave()
		w.shared(3, 3)
		d, err := w.gateways["a"].engine.Describe(w.t.Context(), "g")
		require.NoError(w.t, err)
		require.Equal(w.t, TypeConsumer, d.Type)

		back := w.consumer("c3")
		w.shared(2, 2, 2)
		modern[0].leave()
		w.shared(3, 3)
		modern[1].leave()
		w.shared(6)
		require.Positive(w.t, back.joins.Load())
		d, err = w.gateways["a"].engine.Describe(w.t.Context(), "g")
		require.NoError(w.t, err)
		require.Equal(w.t, TypeClassic, d.Type)
	})
}

// TestAssignRanges checks the rules of the range assignor on random groups that change.
func TestAssignRanges(t *testing.T) {
	for seed := range int64(300) {
		rng := rand.New(rand.NewSource(seed))
		counts := map[federation.TopicName]int32{"t0": int32(1 + rng.Intn(12)), "t2": int32(1 + rng.Intn(12))}
		counts["t1"] = counts["t0"]
		newMember := func() subscriber {
			s := subscriber{topics: []federation.TopicName{"t0", "t1"}}
			if rng.Intn(2) == 0 {
				s.topics = append(s.topics, "t2")
			}
			return s
		}
		members := []subscriber{newMember(), newMember()}
		for round := range 8 {
			if rng.Intn(2) == 0 {
				members = append(members, newMember())
			} else if i := rng.Intn(len(members)); len(members) > 1 {
				members = slices.Delete(members, i, i+1)
			}
			where := fmt.Sprintf("seed %d round %d", seed, round)
			given := assignRanges(members, counts)
			checkRanges(t, members, counts, given, where)
			for i := range members {
				members[i].had = given[i]
			}
			require.Equal(t, given, assignRanges(members, counts), "%s: without a change nothing moves", where)
		}
	}
}

func checkRanges(t *testing.T, members []subscriber, counts map[federation.TopicName]int32, given []map[federation.TopicPartition]bool, where string) {
	t.Helper()
	for topic, count := range counts {
		var shares []int
		seen := map[federation.TopicPartition]bool{}
		for i, m := range members {
			mine := 0
			for tp := range given[i] {
				if tp.Topic == topic {
					require.False(t, seen[tp], "%s: %s twice", where, tp)
					require.Less(t, int32(tp.Partition), count, where)
					seen[tp] = true
					mine++
				}
			}
			if slices.Contains(m.topics, topic) {
				shares = append(shares, mine)
			} else {
				require.Zero(t, mine, "%s: %s to a member that does not subscribe", where, topic)
			}
		}
		if len(shares) > 0 {
			require.Len(t, seen, int(count), "%s: all of %s are given", where, topic)
			require.LessOrEqual(t, slices.Max(shares)-slices.Min(shares), 1, "%s: %s is shared evenly", where, topic)
		}
	}
	// t0 and t1 are co-partitioned: the same member has the same partitions of both.
	for i := range members {
		want := map[federation.LogicalPartition]bool{}
		got := maps.Clone(want)
		for tp := range given[i] {
			switch tp.Topic {
			case "t0":
				want[tp.Partition] = true
			case "t1":
				got[tp.Partition] = true
			}
		}
		require.Equal(t, want, got, "%s: member %d", where, i)
	}
}

// The range assignor moves what its ranges need, and no more.
func TestAssignRangesMovesLittle(t *testing.T) {
	counts := map[federation.TopicName]int32{"t": 9}
	members := make([]subscriber, 3)
	for i := range members {
		members[i].topics = []federation.TopicName{"t"}
	}
	first := assignRanges(members[:2], counts)
	require.Len(t, first[0], 5)
	require.Len(t, first[1], 4)
	require.True(t, first[0][tp("t", 0)] && first[0][tp("t", 4)], "the first range goes to the first member")
	for i := range first {
		members[i].had = first[i]
	}
	moved := 0
	for i, g := range assignRanges(members, counts) {
		require.Len(t, g, 3)
		for tp := range g {
			if !members[i].had[tp] {
				moved++
			}
		}
	}
	require.Equal(t, 3, moved)
}
