package controller_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	"github.com/braidmq/braid/gateway/mapwatch"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/redisstore"
)

// takeDown has a physical cluster break each connection at its next request, until up
// is called.
func takeDown(k *kfake.Cluster) (up func()) {
	var off atomic.Bool
	off.Store(true)
	k.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		if !off.Load() {
			return nil, nil, false
		}
		k.KeepControl()
		return nil, errors.New("down"), true
	})
	return func() { off.Store(false) }
}

// fail begins the failover of a cluster.
func (f *federated) fail(t *testing.T, cluster string) *adminv1.Operation {
	t.Helper()
	resp, err := f.admin.clusters.FailoverCluster(t.Context(), &adminv1.FailoverClusterRequest{Name: "physicalClusters/" + cluster, NoWait: true})
	require.NoError(t, err)
	return &adminv1.Operation{Name: resp.GetOperation()}
}

// succeeds waits for the end of an operation.
func (f *federated) succeeds(t *testing.T, op *adminv1.Operation) *adminv1.Operation {
	t.Helper()
	done := f.admin.await(t, op.GetName())
	require.Zero(t, done.GetErrorCode(), done.GetErrorMessage())
	return done
}

func (f *federated) clusterState(t *testing.T, cluster string) adminv1.Cluster_State {
	t.Helper()
	resp, err := f.admin.clusters.GetCluster(t.Context(), &adminv1.GetClusterRequest{Name: "physicalClusters/" + cluster})
	require.NoError(t, err)
	return resp.GetCluster().GetState()
}

// knows sets what the gateway acknowledged of a partition, and gave to readers.
func (f *federated) knows(n int32, acknowledged, seen federation.PhysicalOffset) {
	f.holder.set(func(h *holder) {
		if h.acked == nil {
			h.acked, h.seen = map[federation.TopicPartition]federation.PhysicalOffset{}, map[federation.TopicPartition]federation.PhysicalOffset{}
		}
		tp := federation.TopicPartition{Topic: "orders", Partition: federation.LogicalPartition(n)}
		h.acked[tp], h.seen[tp] = acknowledged, seen
	})
}

// commit stores an offset of a group.
func (f *federated) commit(t *testing.T, group string, n int32, offset federation.LogicalOffset) {
	t.Helper()
	s := f.store(t, nil)
	life, err := s.GroupsLife(t.Context(), "default")
	require.NoError(t, err)
	epoch, _, err := s.ClaimGroup(t.Context(), "default", life, group, true, 0)
	require.NoError(t, err)
	require.NoError(t, s.WriteGroup(t.Context(), "default", group, redisstore.GroupWrite{Epoch: epoch, Sequence: 1, NowMs: time.Now().UnixMilli(), Offsets: []redisstore.GroupOffset{{
		OffsetKey: redisstore.OffsetKey{Topic: f.gateway.Current().Topic("orders").ID, Partition: federation.LogicalPartition(n)}, Offset: offset, Epoch: federation.NoEpoch,
	}}}))
}

// failedOver returns the suspended extent and the head of a partition.
func (f *federated) failedOver(t *testing.T, n int32, from federation.ClusterName) (old, head *federation.Extent) {
	t.Helper()
	f.gateway.eventually(t, "the partition goes on elsewhere", func(m *federation.Map) bool {
		p := m.Topic("orders").Partitions[n]
		head = p.Head()
		if len(p.Extents) < 2 {
			return false
		}
		old = p.Extents[len(p.Extents)-2]
		return head.Cluster != from && head.State == federation.ExtentOpen
	})
	require.Equal(t, from, old.Cluster)
	require.Equal(t, federation.ExtentSuspended, old.State)
	return old, head
}

func TestFailoverOfACluster(t *testing.T) {
	f := newFederated(t, 3)
	for i := range int32(3) {
		f.produce(t, f.head(i), recordbatch.Producer{ID: pid + int64(i), Sequence: 0}, 10)
	}
	f.knows(0, 10, 7)
	f.knows(1, 5, 10)
	f.commit(t, "slow", 0, 3)
	f.commit(t, "liar", 0, 1<<60)
	f.commit(t, "ahead", 2, 4) // of a gateway that is no more
	epoch := f.gateway.Current().Topic("orders").Partitions[0].Epoch
	up := takeDown(f.kafka["a"])
	defer up()

	req := &adminv1.FailoverClusterRequest{Name: "physicalClusters/a", ValidateOnly: true}
	plan, err := f.admin.clusters.FailoverCluster(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, plan.GetMoves(), 3)
	require.Equal(t, adminv1.Cluster_STATE_ACTIVE, f.clusterState(t, "a"), "nothing was changed")
	require.Zero(t, f.holder.asked())

	req.ValidateOnly, req.RequestId = false, "one"
	begin := time.Now()
	resp, err := f.admin.clusters.FailoverCluster(t.Context(), req)
	require.NoError(t, err)
	t.Logf("failed over in %s", time.Since(begin))
	require.Equal(t, adminv1.Cluster_STATE_FAILED, resp.GetCluster().GetState())
	again, err := f.admin.clusters.FailoverCluster(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, resp.GetOperation(), again.GetOperation())
	require.Contains(t, stepDetail(t, f.admin, &adminv1.Operation{Name: resp.GetOperation()}, "groups"), "slow: orders-0 3 to 6")
	require.NotContains(t, stepDetail(t, f.admin, &adminv1.Operation{Name: resp.GetOperation()}, "groups"), "ahead")

	for i, want := range []struct{ seen, acknowledged federation.PhysicalOffset }{{7, 10}, {10, 5}, {4, 0}} {
		old, head := f.failedOver(t, int32(i), "a")
		require.Equal(t, want.seen, old.Seen, i)
		require.Equal(t, want.acknowledged, old.Acknowledged, i)
		require.Equal(t, federation.LogicalOffset(2e12), head.Base)
		require.EqualValues(t, 1, head.Start, "behind the primer")
		require.Zero(t, head.Opening)
		require.Equal(t, []mark.Kind{mark.KindPrimer}, f.marks(t, head.PhysicalAddress))
	}
	require.Greater(t, f.gateway.Current().Topic("orders").Partitions[0].Epoch, epoch)
	f.noneSealing(t)
	f.awaitAlarm(t, `"a" is failed`, "3 suspended extents of 1 topics")

	// Nothing goes there any more, and it cannot come back before it answers.
	_, err = f.admin.clusters.RestoreCluster(t.Context(), &adminv1.RestoreClusterRequest{Name: "physicalClusters/a"})
	requireKind(t, federation.ClusterUnavailable, err)
	_, err = f.admin.clusters.DrainCluster(t.Context(), &adminv1.DrainClusterRequest{Name: "physicalClusters/a"})
	requireKind(t, federation.PolicyViolation, err)
	_, err = f.admin.topics.MovePartitions(t.Context(), &adminv1.MovePartitionsRequest{Name: topicName("orders"), Partitions: []int32{0}, PhysicalCluster: "a"})
	requireKind(t, federation.InvalidArgument, err)
	up()
	require.Equal(t, []mark.Kind(nil), f.marks(t, federation.PhysicalAddress{Cluster: "a", Topic: "default.orders.1"}), "nothing was written there")
	f.awaitAlarm(t, `"a" is failed`, "it answers again")
}

func TestFailoverNeedsSomewhereToGo(t *testing.T) {
	f := newLimited(t, 1)
	_, err := f.admin.clusters.FailoverCluster(t.Context(), &adminv1.FailoverClusterRequest{Name: "physicalClusters/nowhere"})
	requireKind(t, federation.UnknownCluster, err)
	_, err = f.admin.clusters.FailoverCluster(t.Context(), &adminv1.FailoverClusterRequest{Name: "physicalClusters/a"})
	requireKind(t, federation.PolicyViolation, err)
	require.ErrorContains(t, err, "orders")
	require.Equal(t, adminv1.Cluster_STATE_ACTIVE, f.clusterState(t, "a"))

	// Another topic goes; the first one waits, and the operation says so.
	f.makeTopic(t, "free", 1)
	_, err = f.admin.clusters.FailoverCluster(t.Context(), &adminv1.FailoverClusterRequest{Name: "physicalClusters/a"})
	requireKind(t, federation.PolicyViolation, err)
	require.ErrorContains(t, err, "orders")
	require.NotContains(t, err.Error(), "free")
	require.NotEqual(t, federation.ClusterName("a"), f.gateway.Current().Topic("free").Partitions[0].Head().Cluster)
	require.Equal(t, federation.ExtentOpen, f.gateway.Current().Topic("orders").Partitions[0].Head().State)

	// It may use another one from then on, and the failover is asked for again.
	_, err = f.admin.topics.ExpandTopic(t.Context(), &adminv1.ExpandTopicRequest{Name: topicName("orders"), PhysicalClusters: []string{"b"}})
	require.NoError(t, err)
	f.succeeds(t, f.fail(t, "a"))
	f.failedOver(t, 0, "a")

	for _, name := range []string{"b", "c"} { // the last one stays
		_, err = f.admin.clusters.DrainCluster(t.Context(), &adminv1.DrainClusterRequest{Name: "physicalClusters/" + name})
		if err != nil {
			requireKind(t, federation.PolicyViolation, err)
		}
	}
	_, err = f.admin.clusters.FailoverCluster(t.Context(), &adminv1.FailoverClusterRequest{Name: "physicalClusters/b"})
	requireKind(t, federation.PolicyViolation, err)
}

func TestCompactedTopicsAreNotFailedOver(t *testing.T) {
	f := newFederated(t, 1)
	_, err := f.admin.topics.UpdateTopic(t.Context(), &adminv1.UpdateTopicRequest{Topic: &adminv1.Topic{
		Name: topicName("orders"), Config: map[string]string{"cleanup.policy": "compact"},
	}})
	require.NoError(t, err)
	_, err = f.admin.clusters.FailoverCluster(t.Context(), &adminv1.FailoverClusterRequest{Name: "physicalClusters/a"})
	requireKind(t, federation.Unsupported, err)
	require.ErrorContains(t, err, "compacted")
}

func stopSaveOf(kind string, has, not []string) func(f *federated) (*gate, func()) {
	return func(f *federated) (*gate, func()) {
		g := f.stopStore(savesOf(kind, has, not))
		return &g.gate, func() { g.drop.Store(true) }
	}
}

// anywhere stops the first request at one of two clusters.
func anywhere(key kmsg.Key, is func(kmsg.Request) bool) func(f *federated) (*gate, func()) {
	return func(f *federated) (*gate, func()) {
		g := &gate{reached: make(chan struct{}), open: make(chan struct{})}
		var first atomic.Bool
		for _, name := range []string{"b", "c"} {
			k := f.kafka[name]
			k.ControlKey(int16(key), func(req kmsg.Request) (kmsg.Response, error, bool) {
				k.KeepControl()
				if is(req) && first.CompareAndSwap(false, true) {
					close(g.reached)
					k.SleepControl(func() { <-g.open })
				}
				return nil, nil, false
			})
		}
		return g, func() {}
	}
}

// Steps at which a failover can be stopped, in their order. Each is stopped before it is done.
var failoverSteps = []struct {
	name  string
	stop  func(f *federated) (g *gate, drop func())
	began bool // some heads have gone
}{
	{"the cluster is declared failed", func(f *federated) (*gate, func()) {
		g := f.stopStore(writesCluster("a", controlv1.ClusterEntry_STATE_FAILED))
		return &g.gate, func() { g.drop.Store(true) }
	}, false},
	{"the plan is saved", stopSaveOf("failover-topic", []string{`"planned":true`}, []string{`"primed":true`}), false},
	{"the physical topics are made", anywhere(kmsg.CreateTopics, createsTopic), false},
	{"the primers are appended", anywhere(kmsg.Produce, appendsMark(mark.KindPrimer)), false},
	{"the primers are saved", stopSaveOf("failover-topic", []string{`"primed":true`}, nil), false},
	{"the heads are marked as sealing", stopMap(func(e []*controlv1.ExtentEntry) bool {
		return e[len(e)-1].GetState() == controlv1.ExtentEntry_STATE_SEALING
	}), true},
	{"the heads are suspended", stopMap(func(e []*controlv1.ExtentEntry) bool { return len(e) > 1 }), true},
	{"the first round is saved", stopSaveOf("failover-topic", []string{`"primed":true`, `"done":1`}, []string{`"done":true`}), true},
	{"the end of the topic is saved", stopSaveOf("failover-topic", []string{`"done":true`}, nil), true},
	{"the end of the operation is saved", stopSaveOf("failover-cluster", []string{`"done":true`}, nil), true},
}

// writesCluster reports whether a command writes a map with a cluster in a state.
func writesCluster(name string, state controlv1.ClusterEntry_State) func(args []string) bool {
	return func(args []string) bool {
		for _, a := range args {
			e, err := wire.Unmarshal([]byte(a))
			if err == nil && e.GetCluster().GetName() == name && e.GetCluster().GetState() == state {
				return true
			}
		}
		return false
	}
}

func TestLeaderKilledAtEachStepOfAFailover(t *testing.T) {
	twoRounds := func(c *controller.Config) { c.SealHeadsMax = 2 }
	for _, step := range failoverSteps {
		for _, lost := range []bool{true, false} {
			t.Run(fmt.Sprintf("before %s, lost=%t", step.name, lost), func(t *testing.T) {
				t.Parallel()
				f := newFederated(t, 3, twoRounds)
				for i := range int32(3) {
					f.produce(t, f.head(i), recordbatch.Producer{ID: pid + int64(i), Sequence: 0}, 9)
					f.knows(i, federation.PhysicalOffset(5+i), federation.PhysicalOffset(7-i))
				}
				up := takeDown(f.kafka["a"])
				defer up()
				g, drop := step.stop(f)
				op := f.fail(t, "a")
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
				f.succeeds(t, op)
				f.noneSealing(t)
				for i := range int32(3) {
					old, head := f.failedOver(t, i, "a")
					require.Len(t, f.gateway.Current().Topic("orders").Partitions[i].Extents, 2)
					require.EqualValues(t, 5+i, old.Acknowledged)
					require.EqualValues(t, 7-i, old.Seen)
					require.Equal(t, []mark.Kind{mark.KindPrimer}, f.marks(t, head.PhysicalAddress))
					require.EqualValues(t, 1, head.Start)
				}
				require.Equal(t, adminv1.Cluster_STATE_FAILED, f.clusterState(t, "a"))
			})
		}
	}
}

func TestFailoverCancelledAtEachStep(t *testing.T) {
	twoRounds := func(c *controller.Config) { c.SealHeadsMax = 2 }
	for _, step := range failoverSteps {
		t.Run("before "+step.name, func(t *testing.T) {
			t.Parallel()
			f := newFederated(t, 3, twoRounds)
			g, _ := step.stop(f)
			op := f.fail(t, "a")
			g.await(t)
			go func() {
				_, _ = f.admin.operations.CancelOperation(t.Context(), &adminv1.CancelOperationRequest{Name: op.GetName()})
			}()
			require.Eventually(t, func() bool { return f.cancelAsked(t, op) }, patience, 5*time.Millisecond)
			close(g.open)
			done := f.admin.await(t, op.GetName())
			f.noneSealing(t)
			gone := 0
			for i := range int32(3) {
				require.Equal(t, federation.ExtentOpen, f.gateway.Current().Topic("orders").Partitions[i].Head().State)
				if f.head(i).Cluster != "a" {
					gone++
				}
			}
			if step.name != "the end of the operation is saved" {
				require.Equal(t, int32(connect.CodeCanceled), done.GetErrorCode(), done.GetErrorMessage())
			}
			if !step.began {
				require.Zero(t, gone)
			}
			// It is asked for again, and goes on.
			f.succeeds(t, f.fail(t, "a"))
			for i := range int32(3) {
				f.failedOver(t, i, "a")
			}
		})
	}
}

// cancelAsked reports whether an operation was asked to end.
func (f *federated) cancelAsked(t *testing.T, op *adminv1.Operation) bool {
	t.Helper()
	recs, err := f.store(t, nil).Operations(t.Context(), "default")
	require.NoError(t, err)
	for _, rec := range recs {
		if strings.HasSuffix(op.GetName(), "/"+rec.ID) {
			return rec.Cancel || rec.Done
		}
	}
	return false
}

func TestFailoverWaitsForGateways(t *testing.T) {
	f := newFederated(t, 1)
	f.holder.set(func(h *holder) { h.deaf = true })
	op := f.fail(t, "a")
	f.gateway.eventually(t, "the head is held", func(m *federation.Map) bool { return len(m.SealingHeads()) == 1 })
	f.gateway.eventually(t, "it takes appends again", func(m *federation.Map) bool { return len(m.SealingHeads()) == 0 })
	require.Equal(t, federation.ClusterName("a"), f.head(0).Cluster)
	f.holder.set(func(h *holder) { h.deaf = false })
	f.succeeds(t, op)
	f.failedOver(t, 0, "a")
}

func TestMovesGiveWayToAFailover(t *testing.T) {
	for _, failed := range []string{"a", "b"} { // where the heads come from, and where they go to
		t.Run(failed+" fails", func(t *testing.T) {
			t.Parallel()
			f := newFederated(t, 3, func(c *controller.Config) { c.SealHeadsMax = 2 })
			f.holder.set(func(h *holder) { h.deaf = true })
			move := f.move(t, "b", 0, 1, 2)
			f.gateway.eventually(t, "heads are held", func(m *federation.Map) bool { return len(m.SealingHeads()) == 2 })
			op := f.fail(t, failed)
			done := f.admin.await(t, move.GetName())
			require.Equal(t, int32(connect.CodeUnavailable), done.GetErrorCode())
			require.Contains(t, done.GetErrorMessage(), "physical cluster "+strconv.Quote(failed))
			require.Contains(t, done.GetErrorMessage(), "failed")
			f.holder.set(func(h *holder) { h.deaf = false })
			f.succeeds(t, op)
			f.noneSealing(t)
			for i := range int32(3) {
				if failed == "a" {
					f.failedOver(t, i, "a")
				} else {
					require.Equal(t, federation.ClusterName("a"), f.head(i).Cluster)
				}
			}
		})
	}
}

func TestDrainGivesWayToAFailover(t *testing.T) {
	f := newFederated(t, 2)
	f.holder.set(func(h *holder) { h.deaf = true })
	resp, err := f.admin.clusters.DrainCluster(t.Context(), &adminv1.DrainClusterRequest{Name: "physicalClusters/a", NoWait: true})
	require.NoError(t, err)
	f.gateway.eventually(t, "heads are held", func(m *federation.Map) bool { return len(m.SealingHeads()) == 2 })
	op := f.fail(t, "a")
	done := f.admin.await(t, resp.GetOperation())
	require.Contains(t, done.GetErrorMessage(), `"a" failed`)
	f.holder.set(func(h *holder) { h.deaf = false })
	f.succeeds(t, op)
	f.failedOver(t, 1, "a")
}

// Steps of a move after which it has no way back.
var endingSteps = []struct {
	name    string
	cluster string
	key     kmsg.Key
	is      func(kmsg.Request) bool
}{
	{"the seals are appended", "a", kmsg.Produce, appendsMark(mark.KindSeal)},
	{"the producers are read", "a", kmsg.DescribeProducers, func(kmsg.Request) bool { return true }},
	{"the openings are appended", "b", kmsg.Produce, appendsMark(mark.KindOpening)},
}

// A move that has no way back is stopped when one of its clusters dies, and the other
// one is given up; also by a leader that finds it so.
func TestMovesWithoutAWayBackPassAFailedCluster(t *testing.T) {
	for _, step := range endingSteps {
		for _, failed := range []string{"a", "b"} {
			for _, killed := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s fails before %s, killed=%t", failed, step.name, killed), func(t *testing.T) {
					t.Parallel()
					twoRounds := func(c *controller.Config) { c.SealHeadsMax = 2 }
					f := newFederated(t, 3, twoRounds)
					for i := range int32(3) {
						f.produce(t, f.head(i), recordbatch.Producer{ID: pid + int64(i), Sequence: 0}, 8)
						f.knows(i, 8, 6)
					}
					g := stopAt(f.kafka[step.cluster], step.key, step.is)
					move := f.move(t, "b", 0, 1, 2)
					g.await(t)
					up := takeDown(f.kafka[failed])
					defer up()
					close(g.open)
					f.knows(0, 8, 7) // readers go on until the gateways know of the failure
					op := f.fail(t, failed)
					if killed {
						f.takeOver(t, twoRounds)
					}
					f.succeeds(t, op)
					f.admin.await(t, move.GetName())
					f.noneSealing(t)
					for i := range int32(3) {
						p := f.gateway.Current().Topic("orders").Partitions[i]
						require.NotEqual(t, federation.ClusterName(failed), p.Head().Cluster, i)
						if failed == "a" && p.Extents[0].Sealed() { // its seal was there already
							require.Equal(t, "the openings are appended", step.name)
							require.EqualValues(t, 8, p.Extents[0].End)
							continue
						}
						if failed == "a" {
							old, head := f.failedOver(t, i, "a")
							require.EqualValues(t, 8, old.Acknowledged)
							require.Equal(t, federation.LogicalOffset(2e12), head.Base)
							if i == 0 {
								require.EqualValues(t, 7, old.Seen)
							}
							continue
						}
						if len(p.Extents) > 1 { // it went elsewhere, with its producers
							require.Equal(t, federation.ExtentSealed, p.Extents[0].State)
							require.EqualValues(t, 8, p.Head().Base)
							require.Contains(t, f.carried(t, p.Head()), pid+int64(i))
						}
					}
				})
			}
		}
	}
}

func TestFailoverPlansAnewWhenItsTargetDies(t *testing.T) {
	f := newFederated(t, 2, func(c *controller.Config) { c.StepTimeout = 2 * time.Second })
	f.holder.set(func(h *holder) { h.deaf = true })
	op := f.fail(t, "a")
	f.gateway.eventually(t, "heads are held", func(m *federation.Map) bool { return len(m.SealingHeads()) == 2 })
	up := takeDown(f.kafka["b"])
	defer up()
	f.holder.set(func(h *holder) { h.deaf = false })
	f.succeeds(t, op)
	for i := range int32(2) {
		_, head := f.failedOver(t, i, "a")
		if head.Cluster == "b" { // they went before it died
			require.NotZero(t, head.Start)
		}
	}
}

// The policy fails a cluster over that this controller and the gateway find away, once; it
// comes back only when somebody restores it.
func TestFailoverByItself(t *testing.T) {
	f := &federated{world: newWorld(t, "a", "b", "c"), holder: &holder{}}
	var away atomic.Pointer[[]federation.ClusterName]
	away.Store(&[]federation.ClusterName{})
	f.start(t, func(c *controller.Config) { c.FailoverAfter = 300 * time.Millisecond })
	other := f.world.gateway(t, "g2", nil, (&holder{}).config, func(c *mapwatch.Config) { c.Away = func() []federation.ClusterName { return *away.Load() } })
	other.awaitRegistered(t)
	third := f.world.gateway(t, "g3", nil, (&holder{}).config, func(c *mapwatch.Config) { c.Away = func() []federation.ClusterName { return *away.Load() } })
	third.awaitRegistered(t)
	f.makeTopic(t, "orders", 2)
	up := takeDown(f.kafka["a"])
	f.awaitAlarm(t, `"a" does not answer`)
	require.Never(t, func() bool { return f.gateway.Current().Clusters["a"].State == federation.ClusterFailed }, 600*time.Millisecond, 20*time.Millisecond, "the gateways reach it")
	away.Store(&[]federation.ClusterName{"a"})
	for i := range int32(2) {
		f.failedOver(t, i, "a")
	}
	up()
	away.Store(&[]federation.ClusterName{})
	f.awaitAlarm(t, `"a" is failed`, "it answers again")
	require.Equal(t, adminv1.Cluster_STATE_FAILED, f.clusterState(t, "a"))
	f.succeeds(t, f.restore(t, "a"))
	require.Equal(t, adminv1.Cluster_STATE_ACTIVE, f.clusterState(t, "a"))
}
