package suite

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/test/world"
)

// moveLease is short: moves wait for the leases of gateways that are lost.
const moveLease = 8 * time.Second

// MoveOptions is the world that RunMoves needs: heads move in many small rounds.
func MoveOptions() world.Options {
	return world.Options{Gateways: 3, Controllers: 3, GatewayLease: moveLease, SealHeadsMax: 2}
}

// RunMoves runs the tests of moves that something goes wrong with.
func RunMoves(t *testing.T, w *world.World) {
	s := &suite{w}
	tests := []test{
		{"two at a time on one topic", s.testMoveConflict},
		{"cancelled between rounds", s.testMoveCancelled},
		{"a drain is cancelled, and one waits until the cluster is empty", s.testDrainCancelled},
		{"the leading controller is killed, step by step", s.testLeaderKilledAtSteps},
		{"a gateway is killed", s.testGatewayKilledDuringMove},
		{"a cluster fails, and comes back", s.testFailover},
		{"the leading controller is killed while a cluster fails and comes back", s.testFailoverKilled},
		{"a cluster that comes back fails again", s.testFailoverAgain},
		{"a cluster that never comes back is abandoned", s.testAbandon},
	}
	if w.Real {
		tests = append(tests,
			test{"a gateway is frozen for longer than its lease", s.testGatewayFrozenDuringMove},
			test{"the cluster that heads leave is away for a while", func(t *testing.T) { s.testClusterAwayDuringMove(t, 0) }},
			test{"the cluster that heads go to is away for a while", func(t *testing.T) { s.testClusterAwayDuringMove(t, 1) }})
	} else {
		tests = append(tests, test{"the leading controller is killed, request by request", s.testLeaderKilledAtRequests})
	}
	for _, c := range tests {
		t.Run(c.name, c.run)
	}
}

func (s *suite) operations() adminv1connect.OperationServiceClient {
	return adminv1connect.NewOperationServiceClient(s.w.Client, s.w.API())
}

// beginMove begins to move all of a topic's partitions and returns the operation.
func (s *suite) beginMove(t *testing.T, topic string, partitions int, to string) string {
	t.Helper()
	api := adminv1connect.NewTopicServiceClient(s.w.Client, s.w.API())
	r := &adminv1.MovePartitionsRequest{Name: "logicalClusters/default/topics/" + topic, PhysicalCluster: to, NoWait: true}
	for p := range partitions {
		r.Partitions = append(r.Partitions, int32(p))
	}
	response, err := api.MovePartitions(call(t), r)
	require.NoError(t, err)
	return response.GetOperation()
}

// watch follows an operation until a condition holds. A stream that breaks, since
// somebody was killed, is opened again.
func (s *suite) watch(t *testing.T, operation, what string, condition func(*adminv1.Operation) bool) *adminv1.Operation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*waitTimeout)
	defer cancel()
	for {
		stream, err := s.operations().WatchOperation(ctx, &adminv1.WatchOperationRequest{Name: operation})
		for err == nil && stream.Receive() {
			if op := stream.Msg().GetOperation(); condition(op) {
				_ = stream.Close()
				return op
			}
		}
		if err == nil {
			_ = stream.Close()
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			require.FailNow(t, "not in time", "%s: %s", operation, what)
		}
	}
}

func done(op *adminv1.Operation) bool { return op.GetDone() }

// moved returns how many heads of an operation have moved.
func moved(op *adminv1.Operation) int64 {
	for _, step := range op.GetSteps() {
		if step.GetName() == "move" {
			return step.GetDone()
		}
	}
	return 0
}

// finished waits for the end of a move to a cluster, which must be a success.
func (s *suite) finished(t *testing.T, operation, topic, to string) {
	t.Helper()
	op := s.watch(t, operation, "is done", done)
	require.Zero(t, op.GetErrorCode(), op.GetErrorMessage())
	for p, c := range s.heads(t, topic) {
		require.Equal(t, to, c, "the head of partition %d", p)
	}
}

// testMoveConflict has a move wait for the lease of a gateway that died.
func (s *suite) testMoveConflict(t *testing.T) {
	a, b := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic := s.topicOn(t, 2, a)
	s.endFor(t, s.w.Gateways[2], func(g *world.Node) { g.Kill() })
	first := s.beginMove(t, topic, 2, b)
	s.watch(t, first, "waits for the gateway", func(op *adminv1.Operation) bool {
		require.False(t, op.GetDone(), op.GetErrorMessage())
		return slices.ContainsFunc(op.GetSteps(), func(step *adminv1.Operation_Step) bool {
			return strings.Contains(step.GetDetail(), s.w.Gateways[2].ID)
		})
	})
	id := first[strings.LastIndex(first, "/")+1:]
	for _, args := range [][]string{
		{"topic", "expand", topic, "--to", b},
		{"topic", "move", topic, "--partitions", "0", "--to", b},
		{"topic", "grow", topic, "--partitions", "5"},
		{"topic", "delete", topic},
	} {
		_, stderr, err := s.w.Braid(call(t), "", args...)
		require.Error(t, err, "braid %v", args)
		require.Contains(t, stderr, topic, "braid %v", args)
		require.Contains(t, stderr, id, "braid %v", args)
	}
	s.w.MustBraid(t, "", "operation", "cancel", id)
	op := s.watch(t, first, "is done", done)
	require.NotZero(t, op.GetErrorCode())
	require.Contains(t, op.GetErrorMessage(), "cancelled")
	require.Equal(t, []string{a, a}, s.heads(t, topic))
	require.NoError(t, s.w.Gateways[2].Start())
	s.fill(t, topic, 0, 10)
	s.move(t, topic, b, 0, 1)
	require.Len(t, s.read(t, topic, 10), 10)
}

func (s *suite) testMoveCancelled(t *testing.T) {
	const partitions = 60
	a, b := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic := s.topicOn(t, partitions, a)
	l := s.startLoad(t, topic, 2, 100)
	l.more(t, 200)
	operation := s.beginMove(t, topic, partitions, b)
	s.watch(t, operation, "has begun", func(op *adminv1.Operation) bool { return moved(op) > 0 })
	s.w.MustBraid(t, "", "operation", "cancel", operation[strings.LastIndex(operation, "/")+1:])
	op := s.watch(t, operation, "is done", done)
	require.NotZero(t, op.GetErrorCode(), "it was too fast to be cancelled")
	require.Contains(t, op.GetErrorMessage(), "cancelled")
	l.more(t, 200)
	count := make(map[string]int64)
	for _, c := range s.heads(t, topic) { // all of them open
		count[c]++
	}
	require.Equal(t, moved(op), count[b], "what has moved stays moved")
	require.Positive(t, count[a])
	// What is left can be moved later.
	s.finished(t, s.beginMove(t, topic, partitions, b), topic, b)
	s.audit(t, topic, l.end(t))
}

// testDrainCancelled has a drain wait for the lease of a gateway that died, and
// another one for the end of the data.
func (s *suite) testDrainCancelled(t *testing.T) {
	const partitions = 4
	a, c := s.w.Clusters[0].Name, "c"
	s.w.AddCluster(c)
	topic := s.topicOn(t, partitions, a, c)
	s.fill(t, topic, 0, 100)
	before := s.heads(t, topic)
	require.Contains(t, before, c)
	s.endFor(t, s.w.Gateways[2], func(g *world.Node) { g.Kill() })
	drain := func(args ...string) (name, id string) {
		t.Helper()
		id = strings.TrimSpace(s.w.MustBraid(t, "", append([]string{"cluster", "drain", c, "--no-wait"}, args...)...))
		return "operations/" + id, id
	}
	operation, id := drain()
	eventually(t, func() bool { return s.clusterState(t, c) == "draining" }, "the cluster drains")
	for _, args := range [][]string{{"cluster", "restore", c}, {"cluster", "drain", c}, {"cluster", "remove", c}} {
		_, stderr, err := s.w.Braid(call(t), "", args...)
		require.Error(t, err, "braid %v", args)
		require.Contains(t, stderr, c, "braid %v", args)
	}
	s.w.MustBraid(t, "", "operation", "cancel", id)
	op := s.watch(t, operation, "is done", done)
	require.Contains(t, op.GetErrorMessage(), "cancelled")
	require.Equal(t, before, s.heads(t, topic))
	s.w.MustBraid(t, "", "cluster", "restore", c)
	require.Equal(t, "active", s.clusterState(t, c))
	require.NoError(t, s.w.Gateways[2].Start())

	operation, _ = drain("--wait-empty")
	s.watch(t, operation, "waits for the data to go", func(op *adminv1.Operation) bool {
		require.False(t, op.GetDone(), op.GetErrorMessage())
		return slices.ContainsFunc(op.GetSteps(), func(step *adminv1.Operation_Step) bool { return step.GetName() == "empty" })
	})
	require.Equal(t, slices.Repeat([]string{a}, partitions), s.heads(t, topic))
	require.Len(t, s.read(t, topic, 100), 100)
	s.w.MustBraid(t, "", "topic", "delete", topic)
	op = s.watch(t, operation, "is done", done)
	require.Zero(t, op.GetErrorCode(), op.GetErrorMessage())
	s.w.RemoveCluster(c)
}

// leader is the controller that leads.
func (s *suite) leader(t *testing.T) *world.Node {
	t.Helper()
	var node *world.Node
	eventually(t, func() bool {
		status, err := s.fleetAPI().GetStatus(call(t), &adminv1.GetStatusRequest{})
		if err != nil {
			return false
		}
		for _, c := range status.GetControllers() {
			for _, n := range s.w.Controllers {
				if c.GetLeader() && c.GetId() == n.ID && n.Running() {
					node = n
				}
			}
		}
		return node != nil
	}, "a controller leads")
	return node
}

// testLeaderKilledAtSteps kills the leader as soon as an operation says that it
// has begun a step.
func (s *suite) testLeaderKilledAtSteps(t *testing.T) {
	const partitions = 12
	at := []string{s.w.Clusters[0].Name, s.w.Clusters[1].Name}
	topic := s.topicOn(t, partitions, at[0])
	l := s.startLoad(t, topic, 2, 50)
	r := s.reader(t, topic, kgo.NewOffset().AtStart())
	l.more(t, 200)
	step := func(name string) func(*adminv1.Operation) bool {
		return func(op *adminv1.Operation) bool {
			return slices.ContainsFunc(op.GetSteps(), func(s *adminv1.Operation_Step) bool { return s.GetName() == name })
		}
	}
	for i, c := range []struct {
		name string
		when func(*adminv1.Operation) bool
	}{
		{"plan", step("plan")},
		{"create", step("create")},
		{"prime", step("prime")},
		{"move", step("move")},
		{"the first round", func(op *adminv1.Operation) bool { return moved(op) > 0 }},
		{"half of the rounds", func(op *adminv1.Operation) bool { return moved(op) >= partitions/2 }},
	} {
		to := at[(i+1)%2]
		leader := s.leader(t)
		operation := s.beginMove(t, topic, partitions, to)
		s.watch(t, operation, c.name, func(op *adminv1.Operation) bool { return op.GetDone() || c.when(op) })
		s.goesOn(t, leader, func() { s.endFor(t, leader, func(n *world.Node) { n.Kill() }) }, operation, topic, to, c.name)
		l.more(t, 50)
	}
	s.auditRead(t, topic, l, r)
}

// goesOn kills the leader and has the next one end its operation.
func (s *suite) goesOn(t *testing.T, leader *world.Node, kill func(), operation, topic, to, when string) {
	t.Helper()
	kill()
	begin := time.Now()
	s.finished(t, operation, topic, to)
	took := time.Since(begin)
	t.Logf("killed at %s: the move ended %.1f s later", when, took.Seconds())
	require.Less(t, took, 20*time.Second)
	require.NoError(t, leader.Start())
	eventually(t, func() bool { return len(s.status(t).GetControllers()) == len(s.w.Controllers) }, "all controllers")
}

// auditRead ends a load and checks the log, and what was read while it grew.
func (s *suite) auditRead(t *testing.T, topic string, l *load, r *reader) {
	t.Helper()
	acked := l.end(t)
	s.audit(t, topic, acked)
	require.Equal(t, int64(len(acked)), s.end(t, topic), "records in the log; each was acknowledged")
	eventually(t, func() bool {
		require.NoError(t, r.broken())
		_, records := r.see()
		return len(records) >= len(acked)
	}, "the reader has read all")
	_, records := r.see()
	require.Len(t, records, len(acked))
	requireNoGaps(t, records)
}

// isMark reports whether a Produce request carries a record of the controller's.
func isMark(r kmsg.Request) bool {
	const producerID = 43 // where it is in a batch
	produce, ok := r.(*kmsg.ProduceRequest)
	if !ok {
		return false
	}
	for _, t := range produce.Topics {
		for _, p := range t.Partitions {
			if len(p.Records) > producerID+8 && int64(binary.BigEndian.Uint64(p.Records[producerID:])) >= 1<<62 {
				return true
			}
		}
	}
	return false
}

var errDropped = errors.New("the request is lost")

// A stop holds an embedded cluster at one request: nothing else happens there
// until it is let go.
type stop struct {
	reached chan struct{} // closed when the request has come
	let     chan bool     // lost or not
}

// stopAt stops a cluster at the nth request that matches.
func stopAt(fake *kfake.Cluster, nth int, match func(kmsg.Request) bool) *stop {
	h := &stop{reached: make(chan struct{}), let: make(chan bool, 1)}
	count := 0
	fake.Control(func(r kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		if count == nth || !match(r) {
			return nil, nil, false
		}
		if count++; count < nth {
			return nil, nil, false
		}
		close(h.reached)
		if <-h.let {
			return nil, errDropped, true
		}
		return nil, nil, false
	})
	return h
}

func (h *stop) await(t *testing.T, what string) {
	t.Helper()
	select {
	case <-h.reached:
	case <-time.After(waitTimeout):
		require.FailNow(t, "the request did not come", what)
	}
}

// testLeaderKilledAtRequests kills the leader when a physical cluster has got one
// of its requests: the request is lost, or what it asks for happens and the answer
// is lost.
func (s *suite) testLeaderKilledAtRequests(t *testing.T) {
	const partitions = 4
	clusters := s.w.Clusters[:2]
	topic := s.topicOn(t, partitions, clusters[0].Name, clusters[1].Name)
	from, to := 0, 1
	s.move(t, topic, clusters[from].Name, 0, 1, 2, 3)
	l := s.startLoad(t, topic, 2, 50)
	r := s.reader(t, topic, kgo.NewOffset().AtStart())
	l.more(t, 200)
	kill := func(h *stop, operation, name string, lost bool) {
		t.Helper()
		leader := s.leader(t)
		s.goesOn(t, leader, func() {
			s.endFor(t, leader, func(n *world.Node) { n.Kill() })
			h.let <- lost
		}, operation, topic, clusters[to].Name, name)
		from, to = to, from
		l.more(t, 50)
	}
	key := func(k kmsg.Key) func(kmsg.Request) bool {
		return func(r kmsg.Request) bool { return r.Key() == int16(k) }
	}
	byClient := func(r kmsg.Request) bool { return r.Key() == int16(kmsg.Produce) && !isMark(r) }
	for _, c := range []struct {
		name  string
		old   bool // at the cluster that the heads leave
		match func(kmsg.Request) bool
		nth   int
	}{
		{"create", false, key(kmsg.CreatePartitions), 1},
		{"primer", false, isMark, 1},
		{"seal", true, isMark, 1},
		{"seal of the second round", true, isMark, 2},
		{"producers", true, key(kmsg.DescribeProducers), 1},
		{"opening", false, isMark, 2},
		{"opening of the second round", false, isMark, 3},
		{"first append to a new head", false, byClient, 1},
	} {
		for _, lost := range []bool{true, false} {
			name := c.name + ", and the answer is lost"
			if lost {
				name = c.name + ", which is lost"
			}
			fake := clusters[to].Fake
			if c.old {
				fake = clusters[from].Fake
			}
			h := stopAt(fake, c.nth, c.match)
			operation := s.beginMove(t, topic, partitions, clusters[to].Name)
			h.await(t, name)
			kill(h, operation, name, lost)
		}
	}

	// An append that is in flight to an old head keeps it sealing. It has to be there when the
	// controller begins to seal: so the last request before that waits for it, with which the
	// controller sees that both clusters answer.
	var primed atomic.Bool
	primedAt := to
	clusters[primedAt].Fake.Control(func(r kmsg.Request) (kmsg.Response, error, bool) {
		clusters[primedAt].Fake.KeepControl()
		if isMark(r) {
			primed.Store(true)
		}
		return nil, nil, false
	})
	h := &stop{reached: make(chan struct{}), let: make(chan bool, 1)}
	old, held := clusters[from].Fake, false
	old.Control(func(r kmsg.Request) (kmsg.Response, error, bool) {
		old.KeepControl()
		switch {
		case !primed.Load():
		case r.Key() == int16(kmsg.OffsetForLeaderEpoch):
			old.SleepControl(func() { <-h.reached })
		case byClient(r) && !held:
			held = true
			close(h.reached)
			old.SleepControl(func() { <-h.let })
		}
		return nil, nil, false
	})
	operation := s.beginMove(t, topic, partitions, clusters[to].Name)
	h.await(t, "an append")
	eventually(t, func() bool {
		return strings.Contains(s.w.MustBraid(t, "", "topic", "describe", topic, "-o", "json"), "STATE_SEALING")
	}, "heads are sealing")
	kill(h, operation, "sealing", false)
	s.auditRead(t, topic, l, r)
}

// testGatewayKilledDuringMove has a move wait for the lease of a gateway that dies
// in the middle of it.
func (s *suite) testGatewayKilledDuringMove(t *testing.T) {
	const partitions = 24
	a, b := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic := s.topicOn(t, partitions, a)
	victim := s.w.Gateways[2]
	l := s.startLoad(t, topic, 2, 50)
	l.addStream("stream", s, topic, 50) // through the first gateway
	r := s.reader(t, topic, kgo.NewOffset().AtStart())
	l.more(t, 200)
	operation := s.beginMove(t, topic, partitions, b)
	s.watch(t, operation, "has begun", func(op *adminv1.Operation) bool { return op.GetDone() || moved(op) > 0 })
	s.endFor(t, victim, func(g *world.Node) { g.Kill() })
	begin := time.Now()
	waited := false
	s.watch(t, operation, "is done", func(op *adminv1.Operation) bool {
		for _, step := range op.GetSteps() {
			waited = waited || strings.Contains(step.GetDetail(), victim.ID)
		}
		return op.GetDone()
	})
	require.True(t, waited, "the move waits for the gateway's lease")
	s.finished(t, operation, topic, b)
	t.Logf("the move ended %.1f s after the gateway died; its lease was %s", time.Since(begin).Seconds(), moveLease)
	l.more(t, 100)
	require.NoError(t, victim.Start())
	s.auditRead(t, topic, l, r)
}

// testGatewayFrozenDuringMove stops a gateway in the middle of a move until the
// move, which goes on without it, has ended.
func (s *suite) testGatewayFrozenDuringMove(t *testing.T) {
	const partitions = 24
	a, b := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic := s.topicOn(t, partitions, a)
	victim := s.w.Gateways[2]
	l := s.startLoad(t, topic, 4, 50)
	r := s.reader(t, topic, kgo.NewOffset().AtStart())
	l.more(t, 200)
	operation := s.beginMove(t, topic, partitions, b)
	s.watch(t, operation, "has begun", func(op *adminv1.Operation) bool { return op.GetDone() || moved(op) > 0 })
	require.NoError(t, victim.Freeze())
	thawed := false
	defer func() {
		if !thawed {
			_ = victim.Thaw()
		}
	}()
	begin := time.Now()
	s.finished(t, operation, topic, b)
	t.Logf("the move ended %.1f s after the gateway froze; its lease was %s", time.Since(begin).Seconds(), moveLease)
	require.Greater(t, time.Since(begin), moveLease/2, "the move waits for the lease")
	require.NoError(t, victim.Thaw())
	thawed = true
	eventually(t, func() bool { return len(s.status(t).GetGateways()) == len(s.w.Gateways) }, "all gateways")
	l.more(t, 200)
	// It serves again, under the new map.
	topics, err := s.clientOf(t, victim).ListTopics(call(t), topic)
	require.NoError(t, err)
	require.NoError(t, topics.Error())
	s.auditRead(t, topic, l, r)
}

// testClusterAwayDuringMove kills a cluster in the middle of a move: the move waits
// until it is there again.
func (s *suite) testClusterAwayDuringMove(t *testing.T, away int) {
	const partitions = 16
	a, b := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic := s.topicOn(t, partitions, a)
	l := s.startLoad(t, topic, 2, 50)
	r := s.reader(t, topic, kgo.NewOffset().AtStart())
	l.more(t, 200)
	operation := s.beginMove(t, topic, partitions, b)
	s.watch(t, operation, "has begun", func(op *adminv1.Operation) bool { return op.GetDone() || moved(op) > 0 })
	s.w.Clusters[away].Kill()
	before, err := s.operations().GetOperation(call(t), &adminv1.GetOperationRequest{Name: operation})
	require.NoError(t, err)
	s.w.Clusters[away].Restart()
	back := time.Now()
	s.finished(t, operation, topic, b)
	t.Logf("done when the cluster died: %t; the move ended %.1f s after it was back", before.GetOperation().GetDone(), time.Since(back).Seconds())
	l.more(t, 200)
	s.auditRead(t, topic, l, r)
	// The next test finds the cluster in service: the controller looks every 5 s.
	eventually(t, func() bool {
		var status struct{ Clusters []struct{ Healthy bool } }
		out := s.w.MustBraid(t, "", "status", "-o", "json")
		require.NoError(t, json.Unmarshal([]byte(out), &status), out)
		return !slices.ContainsFunc(status.Clusters, func(c struct{ Healthy bool }) bool { return !c.Healthy })
	}, "the controller sees that the cluster is back")
}
