package groups

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/braidmq/braid/federation"
)

// A consumer is a Kafka SDK's member of a group, as the coordinator sees it: it
// joins, syncs and sends heartbeats, gives up partitions before it joins (eager) or
// after it was told so (cooperative), and assigns if it is the leader.
type consumer struct {
	w           *world
	name        string
	group       string
	instance    string
	cooperative bool
	impatient   bool // joins again when its coordinator is gone, as sarama does
	topics      []federation.TopicName

	id         string
	generation atomic.Int32
	joins      atomic.Int32
	owned      []federation.TopicPartition
	stop       context.CancelFunc
	done       chan struct{}
}

const testSession, testHeartbeat, testRebalance = 1 * time.Second, 100 * time.Millisecond, 2 * time.Second

func (w *world) consumer(name string, change ...func(*consumer)) *consumer {
	c := &consumer{w: w, name: name, group: "g", topics: []federation.TopicName{"t"}, done: make(chan struct{})}
	for _, f := range change {
		f(c)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(w.t.Context()))
	c.stop = stop
	go c.run(ctx)
	w.t.Cleanup(func() {
		stop()
		<-c.done
	})
	return c
}

func cooperatively(c *consumer) { c.cooperative = true }

func impatiently(c *consumer) { c.impatient = true }

func static(instance string) func(*consumer) { return func(c *consumer) { c.instance = instance } }

// crash ends a consumer that does not say good-bye.
func (c *consumer) crash() {
	c.stop()
	<-c.done
}

func (c *consumer) leave() {
	c.crash()
	_, _ = c.w.coordinator(c.group).Leave(context.WithoutCancel(c.w.t.Context()), c.group, []LeavingMember{{MemberID: c.id}})
}

func (c *consumer) run(ctx context.Context) {
	defer close(c.done)
	defer func() { c.w.claims.drop(c.name, c.owned) }()
	for ctx.Err() == nil {
		if err := c.round(ctx); err != nil && ctx.Err() == nil {
			c.failed(err)
			c.w.wait(10 * time.Millisecond)
		}
	}
}

func (c *consumer) failed(err error) {
	switch federation.KindOf(err) {
	case federation.UnknownMember, federation.FencedInstance:
		c.id = ""
		fallthrough
	case federation.IllegalGeneration: // what it had is lost
		c.w.claims.drop(c.name, c.owned)
		c.owned = nil
	default: // the same member tries again
	}
}

func (c *consumer) protocol() string {
	if c.cooperative {
		return cooperativeProtocol
	}
	return "range"
}

// round is one membership of a generation.
func (c *consumer) round(ctx context.Context) error {
	if !c.cooperative {
		c.w.claims.drop(c.name, c.owned)
		c.owned = nil
	}
	c.joins.Add(1)
	joined, err := c.w.coordinator(c.group).Join(ctx, JoinRequest{
		Group: c.group, MemberID: c.id, InstanceID: c.instance, ClientID: c.name, ProtocolType: consumerProtocol,
		Protocols:      []Protocol{{c.protocol(), subscriptionBytes(c.topics, c.owned)}},
		SessionTimeout: testSession, RebalanceTimeout: testRebalance, RequireMemberID: true,
	})
	if federation.KindOf(err) == federation.MemberIDRequired {
		c.id = joined.MemberID
		return nil
	}
	if err != nil {
		return err
	}
	c.id = joined.MemberID
	sync := SyncRequest{Group: c.group, MemberID: c.id, InstanceID: c.instance, Generation: joined.Generation}
	if joined.LeaderID == c.id {
		sync.Assignments = c.assign(joined.Members)
	}
	res, err := c.w.coordinator(c.group).Sync(ctx, sync)
	if err != nil {
		return err
	}
	c.generation.Store(joined.Generation)
	if c.take(decodeAssignment(res.Assignment)) {
		return nil // a cooperative member that gave something up joins again
	}
	return c.heartbeats(ctx)
}

// take brings what the member reads in line with its assignment.
func (c *consumer) take(assigned []federation.TopicPartition) (gaveUp bool) {
	var revoked, added []federation.TopicPartition
	for _, tp := range c.owned {
		if !slices.Contains(assigned, tp) {
			revoked = append(revoked, tp)
		}
	}
	for _, tp := range assigned {
		if !slices.Contains(c.owned, tp) {
			added = append(added, tp)
		}
	}
	c.w.claims.drop(c.name, revoked)
	c.w.claims.take(c.name, added)
	c.owned = assigned
	return len(revoked) > 0
}

func (c *consumer) heartbeats(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(testHeartbeat):
		}
		err := c.w.coordinator(c.group).Heartbeat(ctx, HeartbeatRequest{Group: c.group, MemberID: c.id, InstanceID: c.instance, Generation: c.generation.Load()})
		if kind := federation.KindOf(err); !c.impatient && (kind == federation.NotCoordinator || kind == federation.CoordinatorLoading) {
			continue // look it up again
		}
		if err != nil {
			return err
		}
	}
}

// assign is the leader's work.
func (c *consumer) assign(members []JoinMember) []MemberAssignment {
	counts := map[federation.TopicName]int32{}
	for name, t := range c.w.maps.Current().Topics {
		counts[name] = int32(len(t.Partitions))
	}
	var subs []subscriber
	holder := map[federation.TopicPartition]int{}
	for i, m := range members {
		sub := decodeSubscription(m.Metadata)
		had := map[federation.TopicPartition]bool{}
		for _, tp := range sub.owned {
			had[tp] = true
			holder[tp] = i
		}
		subs = append(subs, subscriber{topics: sub.topics, had: had})
	}
	var out []MemberAssignment
	for i, target := range assign(subs, counts) {
		var given []federation.TopicPartition
		for _, tp := range sortedKeys(target) {
			if h, held := holder[tp]; !held || h == i {
				given = append(given, tp)
			}
		}
		out = append(out, MemberAssignment{members[i].MemberID, encodeAssignment(1, given)})
	}
	return out
}

// A reader is a Connect member: it takes what it is assigned, and gives up what it
// is asked for after a moment.
type reader struct {
	w       *world
	name    string
	m       Membership
	slow    time.Duration // before it gives up
	commits bool
	epoch   atomic.Int64
	events  atomic.Int32
	lost    atomic.Int32
	owned   []federation.TopicPartition
	ended   chan struct{}
	stop    context.CancelFunc
	quit    chan chan error
	start   map[federation.TopicPartition]federation.LogicalOffset
}

func (w *world) reader(name string, c Coordinator, change ...func(*reader, *SubscribeRequest)) *reader {
	r := &reader{w: w, name: name, ended: make(chan struct{}), quit: make(chan chan error), start: map[federation.TopicPartition]federation.LogicalOffset{}}
	req := SubscribeRequest{Group: "g", ClientID: name, Topics: []federation.TopicName{"t"}, SessionTimeout: testSession, RebalanceTimeout: testRebalance}
	for _, f := range change {
		f(r, &req)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(w.t.Context()))
	r.stop = stop
	var err error
	if r.m, err = c.Subscribe(ctx, req); err != nil {
		w.t.Fatalf("%s subscribes: %v", name, err)
	}
	go r.run(ctx)
	w.t.Cleanup(func() {
		stop()
		<-r.ended
	})
	return r
}

func (r *reader) run(ctx context.Context) {
	defer close(r.ended)
	defer func() { r.w.claims.drop(r.name, r.owned) }()
	alive := time.NewTicker(testHeartbeat)
	defer alive.Stop()
	stopped := false
	for {
		select {
		case ev, ok := <-r.m.Events():
			if !ok {
				return
			}
			if ctx.Err() == nil && !stopped {
				r.take(ctx, ev)
			}
		case <-alive.C:
			r.m.Alive()
			if r.commits && !stopped {
				r.commit(ctx)
			}
		case answer := <-r.quit:
			stopped = true
			r.drop(slices.Clone(r.owned))
			err := r.m.Leave(ctx)
			if answer <- err; err != nil {
				return // the session ends it
			}
		}
	}
}

func (r *reader) take(ctx context.Context, ev AssignmentEvent) {
	r.events.Add(1)
	r.epoch.Store(ev.MemberEpoch)
	r.lost.Add(int32(len(ev.Lost)))
	r.drop(ev.Lost)
	var tps []federation.TopicPartition
	for _, o := range ev.Assigned {
		tps = append(tps, o.TopicPartition)
		r.start[o.TopicPartition] = o.Offset
		if r.commits {
			r.w.claims.begins(r.name, o)
		}
	}
	r.w.claims.take(r.name, tps)
	r.owned = append(r.owned, tps...)
	if len(ev.Revoking) > 0 {
		r.w.wait(r.slow)
		r.drop(ev.Revoking)
		_ = r.m.Revoked(ctx, ev.Revoking)
	}
}

// commit stores the next offset of all that is read.
func (r *reader) commit(ctx context.Context) {
	var offsets []CommitOffset
	for _, tp := range r.owned {
		offsets = append(offsets, CommitOffset{TopicPartition: tp, Offset: r.w.claims.next(tp)})
	}
	errs, err := r.m.Commit(ctx, offsets)
	if err != nil {
		return
	}
	for i, o := range offsets {
		if errs[i] == nil {
			r.w.claims.ack(o.TopicPartition, o.Offset)
		}
	}
}

// drop stops reading; a Lost can cross a Revoked.
func (r *reader) drop(tps []federation.TopicPartition) {
	tps = slices.DeleteFunc(slices.Clone(tps), func(tp federation.TopicPartition) bool { return !slices.Contains(r.owned, tp) })
	r.w.claims.drop(r.name, tps)
	r.owned = slices.DeleteFunc(r.owned, func(tp federation.TopicPartition) bool { return slices.Contains(tps, tp) })
}

// leave stops reading, then says good-bye.
func (r *reader) leave() error {
	answer := make(chan error, 1)
	select {
	case r.quit <- answer:
	case <-r.ended:
		return r.m.Err()
	}
	<-r.ended
	r.stop()
	return <-answer
}
