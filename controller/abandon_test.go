package controller_test

import (
	"fmt"
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
)

// abandon begins to give up what lies on a cluster.
func (f *federated) abandon(t *testing.T, cluster string) *adminv1.Operation {
	t.Helper()
	resp, err := f.admin.clusters.AbandonCluster(t.Context(), &adminv1.AbandonClusterRequest{Name: "physicalClusters/" + cluster, NoWait: true})
	require.NoError(t, err)
	return &adminv1.Operation{Name: resp.GetOperation()}
}

// abandoned checks that a cluster is gone, with all that lay there.
func (f *federated) abandoned(t *testing.T, cluster federation.ClusterName, topics ...federation.TopicName) {
	t.Helper()
	f.gateway.eventually(t, "the cluster is gone", func(m *federation.Map) bool { return m.Clusters[cluster] == nil })
	m := f.gateway.Current()
	require.NoError(t, m.Validate())
	for _, name := range topics {
		for _, p := range m.Topic(name).Partitions {
			for _, e := range p.Extents {
				require.NotEqual(t, cluster, e.Cluster)
			}
			require.Equal(t, federation.LogicalOffset(2e12), p.Head().Base, "offsets stay as they are")
		}
	}
	require.Eventually(t, func() bool { return len(f.alarms(t)) == 0 }, patience, 20*time.Millisecond)
}

func TestAbandonCluster(t *testing.T) {
	f := newFederated(t, 2)
	f.makeTopic(t, "other", 1)
	f.failAndGoOn(t, 0)
	f.knows(0, 5, 2)
	up := takeDown(f.kafka["a"])
	defer up()
	req := &adminv1.AbandonClusterRequest{Name: "physicalClusters/a", ValidateOnly: true}
	_, err := f.admin.clusters.AbandonCluster(t.Context(), req)
	requireKind(t, federation.PolicyViolation, err)
	require.ErrorContains(t, err, "has not failed")
	f.succeeds(t, f.fail(t, "a"))
	f.failedOver(t, 0, "a")

	plan, err := f.admin.clusters.AbandonCluster(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, plan.GetTopics(), 2)
	orders := plan.GetTopics()[0]
	require.Equal(t, topicName("orders"), orders.GetName())
	require.Equal(t, []int32{0, 1}, orders.GetPartitions())
	require.EqualValues(t, 2, orders.GetExtents())
	require.EqualValues(t, 5, orders.GetRecords())
	require.EqualValues(t, 3, orders.GetUnseen())
	require.Equal(t, adminv1.Cluster_STATE_FAILED, f.clusterState(t, "a"), "nothing was changed")
	require.Len(t, f.gateway.Current().Topic("orders").Partitions[0].Extents, 2)

	req.ValidateOnly, req.RequestId = false, "one"
	resp, err := f.admin.clusters.AbandonCluster(t.Context(), req)
	require.NoError(t, err)
	f.abandoned(t, "a", "orders", "other")
	again, err := f.admin.clusters.AbandonCluster(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, resp.GetOperation(), again.GetOperation())
	_, err = f.admin.clusters.AbandonCluster(t.Context(), &adminv1.AbandonClusterRequest{Name: "physicalClusters/a"})
	requireKind(t, federation.UnknownCluster, err)
}

func TestAbandonNeedsAllHeadsElsewhere(t *testing.T) {
	f := newLimited(t, 1)
	f.makeTopic(t, "free", 1)
	_, err := f.admin.clusters.FailoverCluster(t.Context(), &adminv1.FailoverClusterRequest{Name: "physicalClusters/a"})
	requireKind(t, federation.PolicyViolation, err)
	_, err = f.admin.clusters.AbandonCluster(t.Context(), &adminv1.AbandonClusterRequest{Name: "physicalClusters/a"})
	requireKind(t, federation.PolicyViolation, err)
	require.ErrorContains(t, err, `heads of 1 topics still lie there: "orders"`)
	require.Len(t, f.gateway.Current().Topic("free").Partitions[0].Extents, 2, "nothing was given up")
}

// Heads that have no way back are bound for the cluster: they can go elsewhere only while it
// is known.
func TestAbandonIsRefusedWhileHeadsAreBoundForTheCluster(t *testing.T) {
	f := &federated{world: newWorld(t, "a", "b", "c"), holder: &holder{}}
	f.start(t)
	f.makeTopic(t, "orders", 1, "a", "b")
	g := stopAt(f.kafka["a"], kmsg.Produce, appendsMark(mark.KindSeal))
	_, err := f.admin.clusters.DrainCluster(t.Context(), &adminv1.DrainClusterRequest{Name: "physicalClusters/a", NoWait: true})
	require.NoError(t, err)
	g.await(t)
	f.succeeds(t, f.fail(t, "b"))
	close(g.open)
	_, err = f.admin.clusters.AbandonCluster(t.Context(), &adminv1.AbandonClusterRequest{Name: "physicalClusters/b"})
	requireKind(t, federation.Conflict, err)
	require.ErrorContains(t, err, "moves heads there")
	f.gateway.eventually(t, "the cluster is failed", func(m *federation.Map) bool {
		return m.Clusters["b"] != nil && m.Clusters["b"].State == federation.ClusterFailed
	})
}

// What lies between other extents leaves a gap; what a moved extent has there goes, too.
func TestAbandonInTheMiddle(t *testing.T) {
	f := newFederated(t, 1)
	f.write(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 0}, "a", "b")
	f.succeeds(t, f.move(t, "b", 0))
	f.gateway.eventually(t, "it moved", func(m *federation.Map) bool { return m.Topic("orders").Partitions[0].Head().Cluster == "b" })
	f.write(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 2}, "c")
	f.succeeds(t, f.move(t, "c", 0))
	f.gateway.eventually(t, "it moved again", func(m *federation.Map) bool { return m.Topic("orders").Partitions[0].Head().Cluster == "c" })
	f.write(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 3}, "d")
	f.succeeds(t, f.fail(t, "b"))
	f.succeeds(t, f.abandon(t, "b"))
	f.gateway.eventually(t, "the cluster is gone", func(m *federation.Map) bool { return m.Clusters["b"] == nil })
	lines := f.log(t, 0)
	require.Equal(t, []string{"a", "b", "d"}, values(lines))
	require.EqualValues(t, 3, lines[2].offset)
}

// Steps at which it can be stopped, in their order. Each is stopped before it is done.
var abandonSteps = []struct {
	name string
	stop func(f *federated) (g *gate, drop func())
}{
	{"the first topic is given up", stopMap(func(e []*controlv1.ExtentEntry) bool { return len(e) == 1 && e[0].GetBase() > 0 })},
	{"the end of the operation is saved", stopSaveOf("abandon-cluster", []string{`"done":true`}, nil)},
}

func TestLeaderKilledAtEachStepOfAnAbandon(t *testing.T) {
	for _, step := range abandonSteps {
		for _, lost := range []bool{true, false} {
			t.Run(fmt.Sprintf("before %s, lost=%t", step.name, lost), func(t *testing.T) {
				t.Parallel()
				f := newFederated(t, 2)
				f.makeTopic(t, "other", 1)
				up := takeDown(f.kafka["a"])
				defer up()
				f.succeeds(t, f.fail(t, "a"))
				f.failedOver(t, 0, "a")
				g, drop := step.stop(f)
				op := f.abandon(t, "a")
				g.await(t)
				if lost {
					drop()
				}
				next := f.start(t)
				f.nodes[0].net.set(true) // before the store answers
				close(g.open)
				f.nodes[0].kill()
				next.leads(t)
				f.admin = adminOf(t, next.url)
				f.succeeds(t, op)
				f.abandoned(t, "a", "orders", "other")
			})
		}
	}
}

func TestAbandonCancelled(t *testing.T) {
	f := newFederated(t, 1)
	f.makeTopic(t, "other", 1)
	up := takeDown(f.kafka["a"])
	defer up()
	f.succeeds(t, f.fail(t, "a"))
	f.failedOver(t, 0, "a")
	g, _ := abandonSteps[0].stop(f)
	op := f.abandon(t, "a")
	g.await(t)
	go func() {
		_, _ = f.admin.operations.CancelOperation(t.Context(), &adminv1.CancelOperationRequest{Name: op.GetName()})
	}()
	require.Eventually(t, func() bool { return f.cancelAsked(t, op) }, patience, 5*time.Millisecond)
	close(g.open)
	require.Equal(t, int32(connect.CodeCanceled), f.admin.await(t, op.GetName()).GetErrorCode())
	require.Equal(t, adminv1.Cluster_STATE_FAILED, f.clusterState(t, "a"))
	f.succeeds(t, f.abandon(t, "a"))
	f.abandoned(t, "a", "orders", "other")
}

// A restore that can never end, since the cluster went away for good half way, ends when
// the cluster is abandoned; one that goes on is not cut short.
func TestAbandonWhileARestoreWaits(t *testing.T) {
	f := newFederated(t, 1, func(c *controller.Config) { c.StepTimeout = time.Second })
	f.failWithLate(t, 1)
	f.knows(0, 0, 0)
	g, _ := stopMap(func(e []*controlv1.ExtentEntry) bool { return len(e) == 3 })(f) // the head is rolled
	op := f.restore(t, "a")
	g.await(t)
	_, err := f.admin.clusters.AbandonCluster(t.Context(), &adminv1.AbandonClusterRequest{Name: "physicalClusters/a"})
	requireKind(t, federation.Conflict, err)
	up := takeDown(f.kafka["a"])
	defer up()
	close(g.open)
	f.awaitAlarm(t, "half way to their new places")
	f.succeeds(t, f.abandon(t, "a"))
	f.abandoned(t, "a")
	require.Equal(t, int32(connect.CodeNotFound), f.admin.await(t, op.GetName()).GetErrorCode(), "the restore ends")
	require.Equal(t, []string{"g"}, values(f.log(t, 0)))
}
