package controller_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// pid is a producer id as braid gives them out.
const pid = int64(1) << 48

func (f *federated) head(n int32) federation.PhysicalAddress {
	return f.gateway.Current().Topic("orders").Partitions[n].Head().PhysicalAddress
}

func TestMovePartitions(t *testing.T) {
	f := newLimited(t, 3)
	old := f.head(1)
	f.produce(t, old, recordbatch.Producer{ID: pid, Epoch: 2, Sequence: 0}, 3)
	f.produce(t, old, recordbatch.Producer{ID: pid, Epoch: 2, Sequence: 3}, 2)
	f.produce(t, old, recordbatch.Producer{ID: pid + 1, Epoch: 0, Sequence: 0}, 1)
	before := f.gateway.Current().Topic("orders").Partitions[1].Epoch

	req := &adminv1.MovePartitionsRequest{Name: topicName("orders"), Partitions: []int32{1, 2}, PhysicalCluster: "b", ValidateOnly: true}
	plan, err := f.admin.topics.MovePartitions(t.Context(), req)
	require.NoError(t, err)
	require.Empty(t, plan.GetOperation())
	require.Len(t, plan.GetMoves(), 2)
	require.Equal(t, "a", plan.GetMoves()[0].GetFromPhysicalCluster())
	require.Equal(t, "b", plan.GetMoves()[0].GetToPhysicalCluster())
	require.Nil(t, f.kafka["b"].TopicInfo("default.orders.1"), "nothing was changed")
	require.Zero(t, f.holder.asked())

	req.ValidateOnly = false
	done, err := f.admin.topics.MovePartitions(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, done.GetTopic().GetPlacement().GetPhysicalClusters(), "the topic may use b from now on")
	f.moved(t, &adminv1.Operation{Name: done.GetOperation()})

	p := f.partition(t, 1, "b")
	require.Len(t, p.Extents, 2)
	sealed, head := p.Extents[0], p.Head()
	require.Equal(t, federation.ExtentSealed, sealed.State)
	require.EqualValues(t, 6, sealed.End)
	require.EqualValues(t, 6, head.Base)
	require.EqualValues(t, 1, head.Opening, "behind the primer")
	require.EqualValues(t, 2, head.Start)
	require.Greater(t, p.Epoch, before)
	carried := f.carried(t, head)
	require.Len(t, carried, 2)
	require.EqualValues(t, 4, carried[pid].LastSequence)
	require.EqualValues(t, 2, carried[pid].Epoch)
	require.Zero(t, carried[pid+1].LastSequence)
	require.Equal(t, []mark.Kind{mark.KindSeal}, f.marks(t, old))
	require.Equal(t, []mark.Kind{mark.KindPrimer, mark.KindOpening}, f.marks(t, head.PhysicalAddress))
	require.Len(t, f.partition(t, 0, "a").Extents, 1)
	require.Zero(t, f.partition(t, 2, "b").Head().Opening, "nobody is carried over")

	again, err := f.admin.topics.MovePartitions(t.Context(), req)
	require.NoError(t, err)
	require.Empty(t, again.GetMoves())
	require.Len(t, f.partition(t, 1, "b").Extents, 2)
}

func TestExpandDrainRestoreRemove(t *testing.T) {
	f := newLimited(t, 4)
	for i := range int32(4) {
		f.produce(t, f.head(i), recordbatch.Producer{ID: pid, Sequence: 0}, 1)
	}
	out, err := f.admin.topics.ExpandTopic(t.Context(), &adminv1.ExpandTopicRequest{Name: topicName("orders"), PhysicalClusters: []string{"b"}})
	require.NoError(t, err)
	require.Len(t, out.GetMoves(), 2)
	f.noneSealing(t)

	drained, err := f.admin.clusters.DrainCluster(t.Context(), &adminv1.DrainClusterRequest{Name: "physicalClusters/a", ValidateOnly: true})
	require.NoError(t, err)
	require.Len(t, drained.GetMoves(), 2)
	require.Equal(t, adminv1.Cluster_STATE_ACTIVE, drained.GetCluster().GetState())
	drained, err = f.admin.clusters.DrainCluster(t.Context(), &adminv1.DrainClusterRequest{Name: "physicalClusters/a"})
	require.NoError(t, err)
	require.Equal(t, adminv1.Cluster_STATE_DRAINING, drained.GetCluster().GetState())
	for i := range int32(4) {
		f.partition(t, i, "b")
	}
	_, err = f.admin.clusters.DrainCluster(t.Context(), &adminv1.DrainClusterRequest{Name: "physicalClusters/b"})
	requireKind(t, federation.PolicyViolation, err) // the topic may use a and b only

	restored, err := f.admin.clusters.RestoreCluster(t.Context(), &adminv1.RestoreClusterRequest{Name: "physicalClusters/a"})
	require.NoError(t, err)
	require.Equal(t, adminv1.Cluster_STATE_ACTIVE, restored.GetCluster().GetState())

	// Retention empties what lies on a; then it can go.
	_, err = f.admin.clusters.DeleteCluster(t.Context(), &adminv1.DeleteClusterRequest{Name: "physicalClusters/a"})
	requireKind(t, federation.PolicyViolation, err)
	for i := range int32(4) {
		require.NoError(t, f.kafka["a"].DeleteRecords("default.orders.1", i, 2))
	}
	f.gateway.eventually(t, "emptied extents leave the map", func(m *federation.Map) bool {
		for _, p := range m.Topic("orders").Partitions {
			if len(p.Extents) > 1 {
				return false
			}
		}
		return true
	})
	require.EqualValues(t, 1, f.gateway.Current().Topic("orders").Partitions[0].Head().Base, "the offsets stay")
	_, err = f.admin.clusters.DeleteCluster(t.Context(), &adminv1.DeleteClusterRequest{Name: "physicalClusters/a"})
	require.NoError(t, err)
}

func TestExtentsWithoutRecordsLeaveTheMap(t *testing.T) {
	f := newFederated(t, 1)
	f.moved(t, f.move(t, "b", 0))
	f.gateway.eventually(t, "the empty extent leaves the map", func(m *federation.Map) bool { return len(m.Topic("orders").Partitions[0].Extents) == 1 })
	require.Equal(t, federation.ClusterName("b"), f.head(0).Cluster)
}

// Steps at which a move can be stopped, in their order. Each is stopped before it is done.
var moveSteps = []struct {
	name  string
	stop  func(f *federated) (g *gate, drop func())
	began bool // no way back
}{
	{"the plan is saved", stopSave([]string{`"planned":true`}, []string{`"primed":true`}), false},
	{"the physical topic is made", stopKafka("b", kmsg.CreateTopics, createsTopic), false},
	{"the primers are appended", stopKafka("b", kmsg.Produce, appendsMark(mark.KindPrimer)), false},
	{"the primers are saved", stopSave([]string{`"primed":true`}, []string{`"ending"`}), false},
	{"the heads are marked as sealing", stopMap(func(e []*controlv1.ExtentEntry) bool {
		return e[len(e)-1].GetState() == controlv1.ExtentEntry_STATE_SEALING
	}), false},
	{"the end is decided", stopSave([]string{`"ending":`}, nil), false},
	{"the seals are appended", stopKafka("a", kmsg.Produce, appendsMark(mark.KindSeal)), true},
	{"the producers are read", stopKafka("a", kmsg.DescribeProducers, func(kmsg.Request) bool { return true }), true},
	{"the openings are appended", stopKafka("b", kmsg.Produce, appendsMark(mark.KindOpening)), true},
	{"the map is written", stopMap(func(e []*controlv1.ExtentEntry) bool { return len(e) > 1 }), true},
	{"the first round is saved", stopSaveAfter([]string{`"ending":`}, []string{`"primed":true`}, []string{`"ending":`}), true},
	{"the end of the operation is saved", stopSave([]string{`"done":true`}, nil), true},
}

func stopSave(has, not []string) func(f *federated) (*gate, func()) {
	return func(f *federated) (*gate, func()) {
		g := f.stopStore(saves(has, not))
		return &g.gate, func() { g.drop.Store(true) }
	}
}

// stopSaveAfter is stopSave for the first save behind another one.
func stopSaveAfter(first, has, not []string) func(f *federated) (*gate, func()) {
	return func(f *federated) (*gate, func()) {
		passed := false
		g := f.stopStore(func(args []string) bool {
			passed = passed || saves(first, nil)(args)
			return passed && saves(has, not)(args)
		})
		return &g.gate, func() { g.drop.Store(true) }
	}
}

func stopMap(is func([]*controlv1.ExtentEntry) bool) func(f *federated) (*gate, func()) {
	return func(f *federated) (*gate, func()) {
		g := f.stopStore(writesHead(is))
		return &g.gate, func() { g.drop.Store(true) }
	}
}

func stopKafka(cluster string, key kmsg.Key, is func(kmsg.Request) bool) func(f *federated) (*gate, func()) {
	return func(f *federated) (*gate, func()) { return stopAt(f.kafka[cluster], key, is), func() {} }
}

func TestLeaderKilledAtEachStepOfAMove(t *testing.T) {
	twoRounds := func(c *controller.Config) { c.SealHeadsMax = 2 }
	for _, step := range moveSteps {
		for _, lost := range []bool{true, false} {
			t.Run(fmt.Sprintf("before %s, lost=%t", step.name, lost), func(t *testing.T) {
				t.Parallel()
				f := newFederated(t, 3, twoRounds)
				for i := range int32(3) {
					f.produce(t, f.head(i), recordbatch.Producer{ID: pid + int64(i), Sequence: 0}, int(i)+1)
				}
				old := f.head(2)
				g, drop := step.stop(f)
				op := f.move(t, "b", 0, 1, 2)
				g.await(t)
				if lost {
					drop()
				}
				next := f.start(t, twoRounds)
				f.nodes[0].net.set(true) // before the store answers
				close(g.open)
				f.nodes[0].kill()
				next.leads(t)
				f.admin = adminOf(t, next.url)
				f.moved(t, op)
				for i := range int32(3) {
					p := f.partition(t, i, "b")
					require.Len(t, p.Extents, 2)
					require.EqualValues(t, i+1, p.Extents[0].End)
					require.EqualValues(t, i+1, p.Head().Base)
					carried := f.carried(t, p.Head())
					require.Len(t, carried, 1)
					require.Equal(t, i, carried[pid+int64(i)].LastSequence)
				}
				require.Equal(t, []mark.Kind{mark.KindSeal}, f.marks(t, old), "a seal that is repeated is the same one")
				require.Equal(t, []mark.Kind{mark.KindPrimer, mark.KindOpening}, f.marks(t, f.head(2)))
			})
		}
	}
}

func TestMoveCancelledAtEachStep(t *testing.T) {
	for _, step := range moveSteps {
		for _, killed := range []bool{false, true} {
			t.Run(fmt.Sprintf("before %s, killed=%t", step.name, killed), func(t *testing.T) {
				t.Parallel()
				twoRounds := func(c *controller.Config) { c.SealHeadsMax = 2 }
				f := newFederated(t, 3, twoRounds)
				for i := range int32(3) {
					f.produce(t, f.head(i), recordbatch.Producer{ID: pid + int64(i), Sequence: 0}, 1)
				}
				g, _ := step.stop(f)
				op := f.move(t, "b", 0, 1, 2)
				g.await(t)
				// It answers when the operation has ended; that waits for the gate.
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				_, _ = f.admin.operations.CancelOperation(ctx, &adminv1.CancelOperationRequest{Name: op.GetName()})
				if killed {
					next := f.start(t, twoRounds)
					f.nodes[0].net.set(true)
					close(g.open)
					f.nodes[0].kill()
					next.leads(t)
					f.admin = adminOf(t, next.url)
				} else {
					close(g.open)
				}
				done := f.admin.await(t, op.GetName())
				f.noneSealing(t)
				onB := 0
				for i := range int32(3) {
					if f.head(i).Cluster == "b" {
						onB++
					}
				}
				switch {
				case step.name == "the end of the operation is saved":
					require.Zero(t, done.GetErrorCode())
					require.Equal(t, 3, onB)
				case step.began:
					require.Equal(t, int32(connect.CodeCanceled), done.GetErrorCode(), done.GetErrorMessage())
					require.Equal(t, 2, onB, "the first round had no way back")
				default:
					require.Equal(t, int32(connect.CodeCanceled), done.GetErrorCode(), done.GetErrorMessage())
					require.Contains(t, []int{0, 2}, onB)
				}
				// The heads can move all the same, and the cancelled move left nothing in the way.
				f.admin.awaitMove(t, "orders", "c", 0, 1, 2)
				for i := range int32(3) {
					p := f.partition(t, i, "c")
					last := p.Extents[len(p.Extents)-2]
					require.EqualValues(t, 1, federation.LogicalOffset(last.End-last.Start)+last.Base, "the record before is all there is")
					require.Contains(t, f.carried(t, p.Head()), pid+int64(i))
				}
			})
		}
	}
}

// awaitMove moves heads, and waits for the end.
func (a *admin) awaitMove(t *testing.T, topic, to string, partitions ...int32) {
	t.Helper()
	resp, err := a.topics.MovePartitions(t.Context(), &adminv1.MovePartitionsRequest{Name: topicName(topic), Partitions: partitions, PhysicalCluster: to, NoWait: true})
	require.NoError(t, err)
	op := a.await(t, resp.GetOperation())
	require.Zero(t, op.GetErrorCode(), op.GetErrorMessage())
}

func TestMoveTakenBackWhileAGatewayDoesNotAnswer(t *testing.T) {
	f := newFederated(t, 2)
	f.holder.set(func(h *holder) { h.deaf = true })
	op := f.move(t, "b", 0, 1)
	f.gateway.eventually(t, "the heads are held", func(m *federation.Map) bool { return len(m.SealingHeads()) == 2 })
	f.gateway.eventually(t, "they take appends again", func(m *federation.Map) bool { return len(m.SealingHeads()) == 0 })
	require.Contains(t, stepDetail(t, f.admin, op, "hold"), "g1")
	require.Equal(t, federation.ClusterName("a"), f.head(0).Cluster)
	f.holder.set(func(h *holder) { h.deaf = false })
	f.moved(t, op)
	f.partition(t, 1, "b")
	require.Empty(t, stepDetail(t, f.admin, op, "hold"))
}

func stepDetail(t *testing.T, a *admin, op *adminv1.Operation, step string) string {
	t.Helper()
	resp, err := a.operations.GetOperation(t.Context(), &adminv1.GetOperationRequest{Name: op.GetName()})
	require.NoError(t, err)
	for _, s := range resp.GetOperation().GetSteps() {
		if s.GetName() == step {
			return s.GetDetail()
		}
	}
	return ""
}

func TestMoveWaitsForTheLeaseOfALostGateway(t *testing.T) {
	const lease = 1500 * time.Millisecond
	f := newFederated(t, 2, func(c *controller.Config) { c.GatewayLease = lease })
	other := f.world.gateway(t, "g2", nil, (&holder{}).config)
	other.awaitRegistered(t)
	require.Eventually(t, other.Valid, patience, 5*time.Millisecond)
	other.net.set(true)
	lost := time.Now()
	require.Eventually(t, func() bool {
		g := f.gateway.Current().Gateway("g2")
		return g == nil || g.State == federation.GatewayLost
	}, patience, 5*time.Millisecond)
	op := f.move(t, "b", 0, 1)
	require.Never(t, f.sealing, lease/2-time.Since(lost), 5*time.Millisecond, "nothing is held meanwhile")
	require.Contains(t, stepDetail(t, f.admin, op, "hold"), "g2")
	f.moved(t, op)
	require.Greater(t, time.Since(lost), lease/2)
}

func TestTakeOverOpensHeadsBeforeItWaitsForLostGateways(t *testing.T) {
	f := newFederated(t, 2)
	other := &holder{deaf: true}
	g2 := f.world.gateway(t, "g2", nil, other.config)
	g2.awaitRegistered(t)
	slow := func(c *controller.Config) { c.SealWait = 5 * time.Second }
	f.takeOver(t, slow)
	f.move(t, "b", 0, 1)
	f.gateway.eventually(t, "the heads are held", func(m *federation.Map) bool { return len(m.SealingHeads()) == 2 })
	g2.net.set(true)
	f.takeOver(t, slow)
	// The lease of g2 runs for a minute yet.
	f.gateway.eventually(t, "the heads take appends", func(m *federation.Map) bool { return len(m.SealingHeads()) == 0 })
}

func TestGatewayThatJoinsWhileHeadsAreHeldIsWaitedFor(t *testing.T) {
	f := newFederated(t, 1, func(c *controller.Config) { c.SealWait = 5 * time.Second })
	f.holder.set(func(h *holder) { h.deaf = true })
	op := f.move(t, "b", 0)
	f.gateway.eventually(t, "the head is held", func(m *federation.Map) bool { return len(m.SealingHeads()) == 1 })
	other := &holder{}
	g2 := f.world.gateway(t, "g2", nil, other.config)
	g2.awaitRegistered(t)
	require.Eventually(t, func() bool { return other.asked() > 0 }, patience, 5*time.Millisecond)
	require.Equal(t, federation.ClusterName("a"), f.head(0).Cluster, "the first one has not answered")
	// It comes again, with a new stream, and answers then.
	f.holder.set(func(h *holder) { h.deaf = false })
	f.gateway.net.set(true)
	f.gateway.net.set(false)
	f.moved(t, op)
}

func TestLateRecordsBehindTheSeal(t *testing.T) {
	f := newFederated(t, 1)
	old := f.head(0)
	f.produce(t, old, recordbatch.Producer{ID: pid, Epoch: 1, Sequence: 0}, 3)     // goes on behind the seal
	f.produce(t, old, recordbatch.Producer{ID: pid + 1, Epoch: 0, Sequence: 0}, 2) // raises its epoch there
	f.produce(t, old, recordbatch.Producer{ID: pid + 2, Epoch: 0, Sequence: 0}, 1)
	g, _ := stopKafka("a", kmsg.DescribeProducers, func(kmsg.Request) bool { return true })(f)
	op := f.move(t, "b", 0)
	g.await(t)
	// A gateway that was cut off: its bytes come now.
	f.produce(t, old, recordbatch.Producer{ID: pid, Epoch: 1, Sequence: 3}, 2)
	f.produce(t, old, recordbatch.Producer{ID: pid, Epoch: 1, Sequence: 5}, 2)
	f.produce(t, old, recordbatch.Producer{ID: pid + 1, Epoch: 1, Sequence: 0}, 1)
	f.produce(t, old, recordbatch.Producer{ID: pid + 3, Epoch: 0, Sequence: 0}, 1)
	close(g.open)
	f.moved(t, op)

	p := f.partition(t, 0, "b")
	require.EqualValues(t, 6, p.Extents[0].End)
	require.EqualValues(t, 6, p.Head().Base)
	carried := f.carried(t, p.Head())
	require.EqualValues(t, 2, carried[pid].LastSequence)
	require.EqualValues(t, 1, carried[pid].Epoch)
	require.EqualValues(t, -1, carried[pid+1].LastSequence)
	require.EqualValues(t, 1, carried[pid+1].Epoch)
	require.Zero(t, carried[pid+2].LastSequence)
	require.EqualValues(t, -1, carried[pid+3].LastSequence)
	alarm := f.awaitAlarm(t, "orders-0", "6 records lie behind the seal")
	for i := range int64(4) {
		require.Equal(t, i != 2, strings.Contains(alarm, strconv.FormatInt(pid+i, 10)), alarm)
	}
	// More of them: the alarm follows. It goes with the extent.
	f.produce(t, old, recordbatch.Producer{ID: 17, Epoch: 0, Sequence: 0}, 4)
	f.awaitAlarm(t, "10 records lie behind", "producer id 17")
	require.NoError(t, f.kafka["a"].DeleteRecords("default.orders.1", 0, 7))
	require.Eventually(t, func() bool {
		for _, a := range f.alarms(t) {
			if strings.Contains(a, "behind the seal") {
				return false
			}
		}
		return true
	}, patience, 10*time.Millisecond)
}

func TestLostAcknowledgedRecordsRaiseAnAlarm(t *testing.T) {
	f := newFederated(t, 1)
	f.produce(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 0}, 3)
	f.holder.set(func(h *holder) {
		h.acked = map[federation.TopicPartition]federation.PhysicalOffset{{Topic: "orders"}: 5}
	})
	f.moved(t, f.move(t, "b", 0))
	f.awaitAlarm(t, "orders-0", "lost acknowledged records: 2")
}

func TestMoveWhoseClusterGoesAfterThePrimers(t *testing.T) {
	f := newFederated(t, 1)
	g, _ := stopSave([]string{`"primed":true`}, []string{`"ending"`})(f)
	op := f.move(t, "b", 0)
	g.await(t)
	_, err := f.admin.clusters.DeleteCluster(t.Context(), &adminv1.DeleteClusterRequest{Name: "physicalClusters/b"})
	requireKind(t, federation.PolicyViolation, err)
	require.NoError(t, f.kafka["b"].DeleteTopic("default.orders.1"))
	close(g.open)
	done := f.admin.await(t, op.GetName())
	require.NotZero(t, done.GetErrorCode())
	require.Zero(t, f.holder.asked(), "no head was held")
	f.noneSealing(t)
	_, err = f.admin.clusters.DeleteCluster(t.Context(), &adminv1.DeleteClusterRequest{Name: "physicalClusters/c"})
	require.NoError(t, err, "nothing moves there")
}

func TestProducersAreCarriedOverTwoMoves(t *testing.T) {
	f := newFederated(t, 1)
	f.produce(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 0}, 3)
	f.produce(t, f.head(0), recordbatch.Producer{ID: pid + 1, Epoch: 4, Sequence: 0}, 1)
	f.moved(t, f.move(t, "b", 0))
	first := f.carried(t, f.partition(t, 0, "b").Head())
	f.produce(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 3}, 1) // the other one is silent
	f.moved(t, f.move(t, "c", 0))
	second := f.carried(t, f.partition(t, 0, "c").Head())
	require.EqualValues(t, 3, second[pid].LastSequence)
	require.Equal(t, first[pid+1], second[pid+1], "known since the first seal")
	require.EqualValues(t, 4, second[pid+1].Epoch)
}

func TestProducersThatNobodyKnowsAreNotCarriedForEver(t *testing.T) {
	f := newFederated(t, 1, func(c *controller.Config) { c.ProducerExpiry = 200 * time.Millisecond })
	f.produce(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 0}, 3)
	f.moved(t, f.move(t, "b", 0))
	require.Len(t, f.carried(t, f.partition(t, 0, "b").Head()), 1)
	<-time.After(250 * time.Millisecond)
	f.moved(t, f.move(t, "c", 0))
	require.Empty(t, f.carried(t, f.partition(t, 0, "c").Head()))
}

func TestMisfits(t *testing.T) {
	f := newFederated(t, 1)
	would := make(map[string]string) // what cluster b tells of a topic that it would create
	b := f.kafka["b"]
	b.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		if len(would) == 0 || !req.(*kmsg.CreateTopicsRequest).ValidateOnly {
			return nil, nil, false
		}
		topic := kmsg.NewCreateTopicsResponseTopic()
		topic.Topic = req.(*kmsg.CreateTopicsRequest).Topics[0].Topic
		for k, v := range would {
			c := kmsg.NewCreateTopicsResponseTopicConfig()
			c.Name, c.Value = k, &v
			topic.Configs = append(topic.Configs, c)
		}
		resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	for key, value := range map[string]string{"max.message.bytes": "500000", "retention.ms": "1000", "min.insync.replicas": "2", "cleanup.policy": "compact"} {
		clear(would)
		would[key] = value
		for _, validate := range []bool{true, false} {
			_, err := f.admin.topics.MovePartitions(t.Context(), &adminv1.MovePartitionsRequest{
				Name: topicName("orders"), Partitions: []int32{0}, PhysicalCluster: "b", ValidateOnly: validate,
			})
			requireKind(t, federation.PolicyViolation, err)
			require.ErrorContains(t, err, key+" would be "+value)
			require.ErrorContains(t, err, `"b"`)
		}
		_, err := f.admin.clusters.DrainCluster(t.Context(), &adminv1.DrainClusterRequest{Name: "physicalClusters/a"})
		requireKind(t, federation.PolicyViolation, err)
	}
	clear(would)
	would["max.message.bytes"] = "2000000" // larger is well
	f.moved(t, f.move(t, "b", 0))
}

func TestConflictsOfMoves(t *testing.T) {
	f := newFederated(t, 2)
	f.makeTopic(t, "other", 1)
	f.holder.set(func(h *holder) { h.deaf = true })
	op := f.move(t, "b", 0)
	_, err := f.admin.topics.MovePartitions(t.Context(), &adminv1.MovePartitionsRequest{Name: topicName("orders"), Partitions: []int32{1}, PhysicalCluster: "b"})
	requireKind(t, federation.Conflict, err)
	_, err = f.admin.topics.DeleteTopic(t.Context(), &adminv1.DeleteTopicRequest{Name: topicName("orders")})
	requireKind(t, federation.Conflict, err)
	_, err = f.admin.topics.ExpandTopic(t.Context(), &adminv1.ExpandTopicRequest{Name: topicName("orders"), PhysicalClusters: []string{"c"}})
	requireKind(t, federation.Conflict, err)

	// A drain waits for its turn at the topic.
	drain, err := f.admin.clusters.DrainCluster(t.Context(), &adminv1.DrainClusterRequest{Name: "physicalClusters/a", NoWait: true})
	require.NoError(t, err)
	_, err = f.admin.clusters.RestoreCluster(t.Context(), &adminv1.RestoreClusterRequest{Name: "physicalClusters/a"})
	requireKind(t, federation.Conflict, err)
	f.holder.set(func(h *holder) { h.deaf = false })
	f.moved(t, op)
	f.moved(t, &adminv1.Operation{Name: drain.GetOperation()})
	f.partition(t, 0, "b")
	require.NotEqual(t, federation.ClusterName("a"), f.head(1).Cluster)
}

func TestDrainOverAChangeOfLeaders(t *testing.T) {
	f := newFederated(t, 2)
	f.makeTopic(t, "other", 2)
	g, _ := stopKafka("a", kmsg.Produce, appendsMark(mark.KindSeal))(f)
	drain, err := f.admin.clusters.DrainCluster(t.Context(), &adminv1.DrainClusterRequest{Name: "physicalClusters/a", NoWait: true})
	require.NoError(t, err)
	g.await(t)
	next := f.start(t)
	f.nodes[0].net.set(true)
	close(g.open)
	f.nodes[0].kill()
	next.leads(t)
	f.admin = adminOf(t, next.url)
	f.moved(t, &adminv1.Operation{Name: drain.GetOperation()})
	for _, topic := range f.gateway.Current().Topics {
		for _, p := range topic.Partitions {
			require.NotEqual(t, federation.ClusterName("a"), p.Head().Cluster)
			require.LessOrEqual(t, len(p.Extents), 2)
		}
	}
	list, err := f.admin.operations.ListOperations(t.Context(), &adminv1.ListOperationsRequest{})
	require.NoError(t, err)
	moves := 0
	for _, op := range list.GetOperations() {
		if op.GetKind() == "move-heads" {
			moves++
		}
	}
	require.Equal(t, 2, moves, "one for each topic, and none of them twice")
}

func TestDrainCancelledAfterAChangeOfLeaders(t *testing.T) {
	f := newFederated(t, 1)
	f.holder.set(func(h *holder) { h.deaf = true })
	drain, err := f.admin.clusters.DrainCluster(t.Context(), &adminv1.DrainClusterRequest{Name: "physicalClusters/a", NoWait: true})
	require.NoError(t, err)
	f.gateway.eventually(t, "the head is held", func(m *federation.Map) bool { return len(m.SealingHeads()) == 1 })
	f.takeOver(t)
	_, err = f.admin.operations.CancelOperation(t.Context(), &adminv1.CancelOperationRequest{Name: drain.GetOperation()})
	require.NoError(t, err)
	require.Equal(t, int32(connect.CodeCanceled), f.admin.await(t, drain.GetOperation()).GetErrorCode())
	list, err := f.admin.operations.ListOperations(t.Context(), &adminv1.ListOperationsRequest{})
	require.NoError(t, err)
	for _, op := range list.GetOperations() {
		require.True(t, op.GetDone(), "%s runs on", op.GetName())
	}
	f.noneSealing(t)
}

func TestDrainMovesWhatItCan(t *testing.T) {
	f := newFederated(t, 1)
	f.makeTopic(t, "second", 1)
	g, _ := stopSave([]string{`"primed":true`}, []string{`"ending"`})(f)
	drain, err := f.admin.clusters.DrainCluster(t.Context(), &adminv1.DrainClusterRequest{Name: "physicalClusters/a", NoWait: true})
	require.NoError(t, err)
	g.await(t)
	// The partition that the first topic moves from has gone.
	require.NoError(t, f.kafka["a"].DeleteTopic("default.orders.1"))
	close(g.open)
	done := f.admin.await(t, drain.GetOperation())
	require.NotZero(t, done.GetErrorCode())
	require.Contains(t, done.GetErrorMessage(), "orders")
	f.noneSealing(t)
	require.NotEqual(t, federation.ClusterName("a"), f.gateway.Current().Topic("second").Partitions[0].Head().Cluster)
}

func TestStoreAwayAtEachStepOfAMove(t *testing.T) {
	for _, step := range moveSteps {
		t.Run("before "+step.name, func(t *testing.T) {
			t.Parallel()
			f := newFederated(t, 2)
			f.produce(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 0}, 2)
			g, drop := step.stop(f)
			op := f.move(t, "b", 0, 1)
			g.await(t)
			drop()
			f.nodes[0].net.set(true)
			close(g.open)
			<-time.After(600 * time.Millisecond) // longer than the lead lasts
			f.nodes[0].net.set(false)
			f.nodes[0].leads(t)
			f.moved(t, op)
			p := f.partition(t, 0, "b")
			require.EqualValues(t, 2, p.Head().Base)
			require.Contains(t, f.carried(t, p.Head()), pid)
		})
	}
}

func TestAlarmWhileHeadsCanNeitherMoveNorOpen(t *testing.T) {
	f := newFederated(t, 1, func(c *controller.Config) { c.StepTimeout = time.Second })
	g, _ := stopKafka("a", kmsg.Produce, appendsMark(mark.KindSeal))(f)
	op := f.move(t, "b", 0)
	g.await(t)
	up := takeDown(f.kafka["a"]) // also for the next tries
	f.awaitAlarm(t, `topic "orders"`, "1 heads are held")
	require.True(t, f.sealing(), "there is no way back")
	up()
	close(g.open)
	f.moved(t, op)
	require.Eventually(t, func() bool { return len(f.alarms(t)) == 0 }, patience, 10*time.Millisecond)
}

func TestNewestProducersAreCarriedIfNotAllCan(t *testing.T) {
	const producers = 200
	f := newFederated(t, 1)
	_, err := f.admin.topics.DeleteTopic(t.Context(), &adminv1.DeleteTopicRequest{Name: topicName("orders")})
	require.NoError(t, err)
	create := func(name, bytes string) {
		_, err := f.admin.create(t.Context(), name, 1, func(r *adminv1.CreateTopicRequest) {
			r.Topic.Config = map[string]string{"max.message.bytes": bytes}
			r.Topic.Placement = &adminv1.PlacementPolicy{Weights: map[string]int32{"b": 0, "c": 0}}
		})
		require.NoError(t, err)
	}
	create("orders", "600")
	f.gateway.eventually(t, "the topic", func(m *federation.Map) bool { return m.Topic("orders") != nil })
	var batches []upstream.MarkAppend
	for i := range int64(producers) {
		batches = append(batches, batchFor(f.head(0), recordbatch.Producer{ID: pid + i, Sequence: 0}, 1))
	}
	for _, a := range f.cluster(t, "a").AppendMarks(t.Context(), batches) {
		require.NoError(t, a.Err)
	}
	f.moved(t, f.move(t, "b", 0))
	head := f.partition(t, 0, "b").Head()
	carried := f.carried(t, head)
	require.EqualValues(t, 4, head.Start-head.Opening, "a broker knows no more again")
	require.Less(t, len(carried), producers)
	for i := range int64(len(carried)) {
		require.Contains(t, carried, pid+producers-1-i, "of the newest, none is missing")
	}

	create("narrow", "150")
	_, err = f.admin.topics.MovePartitions(t.Context(), &adminv1.MovePartitionsRequest{Name: topicName("narrow"), Partitions: []int32{0}, PhysicalCluster: "b"})
	requireKind(t, federation.PolicyViolation, err)
	require.ErrorContains(t, err, "max.message.bytes of 150")
	f.noneSealing(t)
}

func TestDrainsOfTwoClusters(t *testing.T) {
	f := newFederated(t, 4)
	_, err := f.admin.topics.ExpandTopic(t.Context(), &adminv1.ExpandTopicRequest{Name: topicName("orders"), PhysicalClusters: []string{"b", "c"}})
	require.NoError(t, err)
	var drains []string
	for _, cluster := range []string{"a", "b"} {
		out, err := f.admin.clusters.DrainCluster(t.Context(), &adminv1.DrainClusterRequest{Name: "physicalClusters/" + cluster, NoWait: true})
		require.NoError(t, err)
		drains = append(drains, out.GetOperation())
	}
	f.gateway.eventually(t, "both drain", func(m *federation.Map) bool {
		return m.Clusters["a"].State == federation.ClusterDraining && m.Clusters["b"].State == federation.ClusterDraining
	})
	_, err = f.admin.clusters.DrainCluster(t.Context(), &adminv1.DrainClusterRequest{Name: "physicalClusters/c"})
	requireKind(t, federation.PolicyViolation, err)
	for _, op := range drains {
		f.moved(t, &adminv1.Operation{Name: op})
	}
	for i := range int32(4) {
		f.partition(t, i, "c")
	}
}

func TestDrainsAtTheSameTimeLeaveOneCluster(t *testing.T) {
	f := newFederated(t, 3)
	_, err := f.admin.topics.ExpandTopic(t.Context(), &adminv1.ExpandTopicRequest{Name: topicName("orders"), PhysicalClusters: []string{"b", "c"}})
	require.NoError(t, err)
	var drains []string
	for _, cluster := range []string{"a", "b", "c"} {
		out, err := f.admin.clusters.DrainCluster(t.Context(), &adminv1.DrainClusterRequest{Name: "physicalClusters/" + cluster, NoWait: true})
		if err == nil { // else the others have begun already
			drains = append(drains, out.GetOperation())
		}
	}
	for _, op := range drains {
		f.admin.await(t, op)
	}
	f.gateway.eventually(t, "two are draining, and the heads are on the third", func(m *federation.Map) bool {
		active := federation.ClusterName("")
		for name, c := range m.Clusters {
			if c.State == federation.ClusterActive && active == "" {
				active = name
			}
		}
		for _, p := range m.Topic("orders").Partitions {
			if p.Head().Cluster != active || p.Head().State != federation.ExtentOpen {
				return false
			}
		}
		return true
	})
}

// A move that cannot go on, with its seals written already, gives its heads back.
func TestMoveThatCannotGoOnLeavesNothingSealing(t *testing.T) {
	f := newFederated(t, 2)
	g, _ := stopKafka("b", kmsg.Produce, appendsMark(mark.KindOpening))(f)
	f.produce(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 0}, 1)
	op := f.move(t, "b", 0, 1)
	g.await(t)
	f.nodes[0].kill()
	for _, key := range f.redis.Keys() {
		if !strings.HasSuffix(key, ":operations") {
			continue
		}
		id := strings.TrimPrefix(op.GetName(), "operations/")
		require.Contains(t, f.redis.HGet(key, id), `"heads":{`)
		f.redis.HSet(key, id, strings.Replace(f.redis.HGet(key, id), `"heads":{`, `"heads":{"heads":7,`, 1))
	}
	close(g.open)
	next := f.start(t)
	next.leads(t)
	f.admin = adminOf(t, next.url)
	require.NotZero(t, f.admin.await(t, op.GetName()).GetErrorCode())
	f.noneSealing(t)
	require.Equal(t, federation.ClusterName("a"), f.head(0).Cluster)

	// The next seal is another one, behind what was written meanwhile.
	f.produce(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 1}, 1)
	f.admin.awaitMove(t, "orders", "b", 0, 1)
	p := f.partition(t, 0, "b")
	require.EqualValues(t, 3, p.Extents[0].End, "two records, and the seal that was given up")
	require.EqualValues(t, 1, f.carried(t, p.Head())[pid].LastSequence)
}
