package controller_test

import (
	"fmt"
	"slices"
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

// told returns the producers that a head was told of, the furthest state of each.
func (f *federated) told(t *testing.T, head *federation.Extent) map[int64]mark.Producer {
	t.Helper()
	out := make(map[int64]mark.Producer)
	if head.Opening == 0 {
		return out
	}
	c := mark.Collector{Each: func(p mark.Producer) {
		if have, ok := out[p.ID]; !ok || have.Before(&p) {
			p.KnownMs = 0
			out[p.ID] = p
		}
	}}
	at := upstream.Partition{Topic: head.Topic, Partition: head.PhysicalAddress.Partition}
	require.NoError(t, f.cluster(t, string(head.Cluster)).ReadBatches(t.Context(), at, head.Opening, head.Start, c.Visit))
	require.NoError(t, c.Err)
	return out
}

// failWithLate is failWithTail of which nothing was sent again yet: the producer of c, e
// and f may do so at any time.
func (f *federated) failWithLate(t *testing.T, partitions int32) {
	t.Helper()
	for i := range partitions {
		f.failAndGoOn(t, i)
	}
	f.succeeds(t, f.fail(t, "a"))
	for i := range partitions {
		f.failedOver(t, i, "a")
		f.write(t, f.head(i), recordbatch.Producer{ID: pid + 1, Sequence: 8}, "g")
	}
}

// rolled checks that the heads were rolled, once, and know what the returned extents knew.
func (f *federated) rolled(t *testing.T, partitions int32) {
	t.Helper()
	f.gateway.eventually(t, "the cluster is back", func(m *federation.Map) bool { return m.Clusters["a"].State == federation.ClusterActive })
	f.noneSealing(t)
	for i := range partitions {
		extents := f.gateway.Current().Topic("orders").Partitions[i].Extents
		require.Len(t, extents, 3, i)
		head := extents[2]
		require.Equal(t, extents[1].Cluster, head.Cluster)
		require.Equal(t, federation.ExtentSealed, extents[1].State)
		end, _ := extents[1].EndOffset()
		require.Equal(t, end, head.Base)
		require.Equal(t, map[int64]mark.Producer{pid: {ID: pid, LastSequence: 4}, pid + 1: {ID: pid + 1, LastSequence: 8}}, f.told(t, head))
		require.Equal(t, []string{"a", "b", "g", "c", "d", "e", "f"}, values(f.log(t, i)), i)
	}
}

func TestRestoreRollsHeads(t *testing.T) {
	f := newFederated(t, 2)
	f.failWithLate(t, 2)
	op := f.restore(t, "a")
	f.succeeds(t, op)
	require.Contains(t, stepDetail(t, f.admin, op, "topics"), "orders: 8 records appended again, 0 batches hidden")
	f.rolled(t, 2)
}

// Steps at which a roll can be stopped, in their order. Each is stopped before it is done.
var rollSteps = []struct {
	name string
	stop func(f *federated) (g *gate, drop func())
}{
	{"the plan is saved", stopSaveOf("restore-topic", []string{`"roll":{"planned":true`}, []string{`"primed":true`})},
	{"the partitions are made", anywhere(kmsg.CreatePartitions, func(kmsg.Request) bool { return true })},
	{"the primers are appended", anywhere(kmsg.Produce, appendsMark(mark.KindPrimer))},
	{"the primers are saved", stopSaveOf("restore-topic", []string{`"primed":true`}, nil)},
	{"the producers of the returned extents are written", anywhere(kmsg.Produce, appendsMark(mark.KindOpening))},
	{"that is saved", stopSaveOf("restore-topic", []string{`"primed":true`, `0,0,0,1,2]`}, nil)},
	{"the heads are marked as sealing", stopMap(func(e []*controlv1.ExtentEntry) bool {
		return len(e) == 2 && e[1].GetState() == controlv1.ExtentEntry_STATE_SEALING
	})},
	{"that there is no way back is saved", stopSaveOf("restore-topic", []string{`"ending":`}, nil)},
	{"the seals are appended", anywhere(kmsg.Produce, appendsMark(mark.KindSeal))},
	{"the heads have moved", stopMap(func(e []*controlv1.ExtentEntry) bool { return len(e) == 3 })},
	{"that is saved, too", stopSaveOf("restore-topic", []string{`"rolled":true`}, []string{`"ending":`})},
	{"what was sent again is saved", stopSaveOf("restore-topic", []string{`"rolled":true`, `"ready":true`}, []string{`"copier":`})},
	{"records are appended again", stopSaveOf("restore-topic", []string{`"sequence":`}, nil)},
}

func TestLeaderKilledAtEachStepOfARoll(t *testing.T) {
	for _, step := range rollSteps {
		for _, lost := range []bool{true, false} {
			t.Run(fmt.Sprintf("before %s, lost=%t", step.name, lost), func(t *testing.T) {
				t.Parallel()
				f := newFederated(t, 2)
				f.failWithLate(t, 2)
				g, drop := step.stop(f)
				op := f.restore(t, "a")
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
				f.rolled(t, 2)
			})
		}
	}
}

func TestRestoreCancelledAtEachStepOfARoll(t *testing.T) {
	for _, step := range rollSteps {
		t.Run("before "+step.name, func(t *testing.T) {
			t.Parallel()
			f := newFederated(t, 2)
			f.failWithLate(t, 2)
			g, _ := step.stop(f)
			op := f.restore(t, "a")
			g.await(t)
			go func() {
				_, _ = f.admin.operations.CancelOperation(t.Context(), &adminv1.CancelOperationRequest{Name: op.GetName()})
			}()
			require.Eventually(t, func() bool { return f.cancelAsked(t, op) }, patience, 5*time.Millisecond)
			close(g.open)
			done := f.admin.await(t, op.GetName())
			f.noneSealing(t)
			if done.GetErrorCode() != 0 {
				require.Equal(t, int32(connect.CodeCanceled), done.GetErrorCode(), done.GetErrorMessage())
				require.Equal(t, adminv1.Cluster_STATE_FAILED, f.clusterState(t, "a"))
				for _, p := range f.gateway.Current().Topic("orders").Partitions {
					require.Equal(t, len(p.Extents) == 3, p.Extents[0].Sealed(), "a topic whose heads are rolled is restored to the end")
				}
				f.succeeds(t, f.restore(t, "a"))
			}
			f.rolled(t, 2)
		})
	}
}

// A roll was planned when its leader died, and before the next one has the topic, another
// operation makes the partition that was planned: the head goes on in one of its own.
func TestPartitionOfARollIsAnothersMeanwhile(t *testing.T) {
	f := newFederated(t, 1)
	f.failWithLate(t, 1)
	old := f.head(0)
	g, _ := anywhere(kmsg.CreatePartitions, func(kmsg.Request) bool { return true })(f)
	op := f.restore(t, "a")
	g.await(t)
	f.nodes[0].kill()
	close(g.open) // as if another operation had asked for it
	c := f.cluster(t, string(old.Cluster))
	require.Eventually(t, func() bool {
		found, err := c.Topics(t.Context(), old.Topic)
		return err == nil && len(found[old.Topic].Partitions) == int(old.Partition)+2
	}, patience, 5*time.Millisecond)
	next := f.start(t)
	next.leads(t)
	f.admin = adminOf(t, next.url)
	f.succeeds(t, op)
	f.rolled(t, 1)
	require.Equal(t, old.Partition+2, f.head(0).Partition)
}

// The returned cluster dies again in the middle of a roll; heads are not held for it.
func TestReturnedClusterDiesInARoll(t *testing.T) {
	for _, step := range rollSteps {
		t.Run("before "+step.name, func(t *testing.T) {
			t.Parallel()
			f := newFederated(t, 2, func(c *controller.Config) { c.StepTimeout = time.Second })
			f.failWithLate(t, 2)
			g, _ := step.stop(f)
			op := f.restore(t, "a")
			g.await(t)
			up := takeDown(f.kafka["a"])
			close(g.open)
			f.noneSealing(t)
			up()
			f.succeeds(t, op)
			f.rolled(t, 2)
		})
	}
}

// The cluster of the head fails in the middle of a roll: the head goes elsewhere, and in
// the end every record is there once.
func TestHeadFailsInARoll(t *testing.T) {
	for _, step := range rollSteps[6:] {
		t.Run("before "+step.name, func(t *testing.T) {
			t.Parallel()
			f := newFederated(t, 1, func(c *controller.Config) { c.StepTimeout = time.Second })
			f.failWithLate(t, 1)
			second := string(f.head(0).Cluster)
			f.knows(0, 2, 2)
			g, _ := step.stop(f)
			op := f.restore(t, "a")
			g.await(t)
			up := takeDown(f.kafka[second])
			fail := f.fail(t, second)
			f.gateway.eventually(t, "the second cluster is given up", func(m *federation.Map) bool {
				return m.Clusters[federation.ClusterName(second)].State == federation.ClusterFailed
			})
			close(g.open)
			f.succeeds(t, fail)
			up() // the old head may be sealed and not yet looked at
			f.succeeds(t, op)
			require.Equal(t, mark.Producer{ID: pid, LastSequence: 4}, f.told(t, f.gateway.Current().Topic("orders").Partitions[0].Head())[pid])
			f.succeeds(t, f.restore(t, second))
			f.gateway.eventually(t, "all is back", func(m *federation.Map) bool {
				return m.Clusters[federation.ClusterName(second)].State == federation.ClusterActive
			})
			got := values(f.log(t, 0))
			slices.Sort(got)
			require.Equal(t, []string{"a", "b", "c", "d", "e", "f", "g"}, got)
		})
	}
}

// A batch that comes again behind the seal of the old head is in no extent: it does not
// count as sent again.
func TestBatchComesAgainBehindTheSealOfARoll(t *testing.T) {
	f := newFederated(t, 1)
	f.failWithLate(t, 1)
	old := f.head(0)
	g, _ := stopMap(func(e []*controlv1.ExtentEntry) bool { return len(e) == 3 })(f) // the seal is in the log
	op := f.restore(t, "a")
	g.await(t)
	f.write(t, old, recordbatch.Producer{ID: pid, Sequence: 3}, "e", "f")
	close(g.open)
	f.succeeds(t, op)
	f.rolled(t, 1)
}

// The cluster of the old head and of the rolled one fails before anyone has looked for what
// was sent again: the old head is sealed, so it is looked at all the same.
func TestRolledHeadFailsBeforeTheLook(t *testing.T) {
	f := newFederated(t, 1)
	f.failAndGoOn(t, 0)
	f.succeeds(t, f.fail(t, "a"))
	_, head := f.failedOver(t, 0, "a")
	f.write(t, head.PhysicalAddress, recordbatch.Producer{ID: pid, Sequence: 3}, "e", "f") // d has not come again
	g, _ := stopSaveOf("restore-topic", []string{`"rolled":true`}, []string{`"ending":`})(f)
	op := f.restore(t, "a")
	g.await(t)
	fail := f.fail(t, string(head.Cluster))
	f.gateway.eventually(t, "it is given up", func(m *federation.Map) bool { return m.Clusters[head.Cluster].State == federation.ClusterFailed })
	close(g.open)
	f.succeeds(t, fail)
	f.succeeds(t, op)
	f.once(t, head.Cluster, "a", "b", "c", "d", "e", "f")
}

// The head fails after the look, while the returned cluster is away again: the next head is
// not told of its producers, and takes what comes again. So it is looked for once more.
func TestHeadThatWasNotToldAfterTheLook(t *testing.T) {
	f := newFederated(t, 1, func(c *controller.Config) { c.StepTimeout = time.Second })
	f.failWithLate(t, 1)
	second := f.head(0).Cluster
	g, _ := stopSaveOf("restore-topic", []string{`"rolled":true`, `"ready":true`}, []string{`"copier":`})(f)
	op := f.restore(t, "a")
	g.await(t)
	up := takeDown(f.kafka["a"])
	require.Eventually(t, func() bool {
		resp, err := f.admin.clusters.GetCluster(t.Context(), &adminv1.GetClusterRequest{Name: "physicalClusters/a"})
		return err == nil && !resp.GetCluster().GetHealthy()
	}, patience, 10*time.Millisecond)
	fail := f.fail(t, string(second))
	f.gateway.eventually(t, "it is given up", func(m *federation.Map) bool { return m.Clusters[second].State == federation.ClusterFailed })
	close(g.open)
	f.succeeds(t, fail)
	_, head := f.failedOver(t, 0, second)
	require.NotContains(t, f.told(t, head), pid)
	f.write(t, head.PhysicalAddress, recordbatch.Producer{ID: pid, Sequence: 3}, "e", "f")
	up()
	f.succeeds(t, op)
	f.once(t, second, "a", "b", "c", "d", "e", "f", "g")
}

// A roll that waits to hold its head again gives way to a failover at once.
func TestRollThatPausesGivesWay(t *testing.T) {
	f := newFederated(t, 1, func(c *controller.Config) { c.StepTimeout, c.SealWait = time.Second, time.Minute })
	f.failWithLate(t, 1)
	second := f.head(0).Cluster
	g, _ := stopSaveOf("restore-topic", []string{`"primed":true`, `0,0,0,1,2]`}, nil)(f)
	op := f.restore(t, "a")
	g.await(t)
	up := takeDown(f.kafka[string(second)])
	close(g.open)
	require.Eventually(t, func() bool {
		resp, err := f.admin.operations.ListOperations(t.Context(), &adminv1.ListOperationsRequest{})
		return err == nil && slices.ContainsFunc(resp.GetOperations(), func(o *adminv1.Operation) bool {
			return slices.ContainsFunc(o.GetSteps(), func(s *adminv1.Operation_Step) bool {
				return s.GetName() == "hold" && s.GetDetail() != "" && s.GetDone() == 0 && o.GetKind() == "restore-topic"
			})
		})
	}, patience, 10*time.Millisecond)
	f.succeeds(t, f.fail(t, string(second)))
	up()
	f.succeeds(t, op)
	f.once(t, second, "a", "b", "c", "d", "e", "f", "g")
}

// once restores a cluster, and checks that the partition has each record once.
func (f *federated) once(t *testing.T, cluster federation.ClusterName, want ...string) {
	t.Helper()
	f.succeeds(t, f.restore(t, string(cluster)))
	f.gateway.eventually(t, "all is back", func(m *federation.Map) bool {
		return m.Clusters["a"].State == federation.ClusterActive && m.Clusters[cluster].State == federation.ClusterActive
	})
	got := values(f.log(t, 0))
	slices.Sort(got)
	require.Equal(t, want, got)
}

// Two clusters are restored at the same time: the first one still counts as failed, because
// of another topic, when the second one is looked at.
func TestBatchInTwoClustersThatReturnTogether(t *testing.T) {
	f := newFederated(t, 1)
	f.makeTopic(t, "zz", 1)
	f.waits(t)
	f.write(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 0}, "a")
	f.write(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 1}, "b")
	f.knows(0, 1, 2)
	f.succeeds(t, f.fail(t, "a"))
	_, head := f.failedOver(t, 0, "a")
	f.write(t, head.PhysicalAddress, recordbatch.Producer{ID: pid, Sequence: 1}, "b")
	f.knows(0, 2, 2)
	up := takeDown(f.kafka["a"]) // else its producers are carried over
	f.succeeds(t, f.fail(t, string(head.Cluster)))
	f.failedOver(t, 0, head.Cluster)
	up()
	g, _ := stopSaveOf("restore-topic", []string{`"topic":"zz"`, `"begun":true`}, nil)(f)
	op := f.restore(t, "a")
	g.await(t)
	second := f.restore(t, string(head.Cluster))
	f.gateway.eventually(t, "nothing of the topic is suspended", func(m *federation.Map) bool {
		return !slices.ContainsFunc(m.Topic("orders").Partitions[0].Extents, func(e *federation.Extent) bool { return e.State == federation.ExtentSuspended })
	})
	close(g.open)
	f.succeeds(t, op)
	f.succeeds(t, second)
	require.Equal(t, []string{"a", "b"}, values(f.log(t, 0)))
}

// The cluster of the head fails when the topic is restored, and another one of the returned
// cluster is not yet: what the returned extent knew is carried over all the same.
func TestHeadFailsWhileOtherTopicsAreRestored(t *testing.T) {
	f := newFederated(t, 1)
	f.makeTopic(t, "zz", 1)
	f.failWithLate(t, 1)
	g, _ := stopSaveOf("restore-topic", []string{`"topic":"zz"`, `"begun":true`}, nil)(f)
	op := f.restore(t, "a")
	g.await(t)
	second := f.head(0).Cluster
	fail := f.fail(t, string(second))
	f.gateway.eventually(t, "the head goes on elsewhere", func(m *federation.Map) bool { return m.Topic("orders").Partitions[0].Head().Cluster != second })
	close(g.open)
	f.succeeds(t, fail)
	f.succeeds(t, op)
	_, head := f.failedOver(t, 0, second)
	require.Equal(t, mark.Producer{ID: pid, LastSequence: 4}, f.told(t, head)[pid])
}

// What a returned extent knew is carried over the next failover, too.
func TestFailoverAfterARestore(t *testing.T) {
	f := newFederated(t, 1)
	f.failWithLate(t, 1)
	f.succeeds(t, f.restore(t, "a"))
	f.rolled(t, 1)
	second := f.head(0).Cluster
	f.succeeds(t, f.fail(t, string(second)))
	_, head := f.failedOver(t, 0, second)
	require.Equal(t, mark.Producer{ID: pid, LastSequence: 4}, f.told(t, head)[pid])
}

// Readers wait, and a producer has sent a part again when the head is rolled: all that it
// had written stays in its order.
func TestRestoreOfWhatWasSentAgainInPart(t *testing.T) {
	f := newFederated(t, 1)
	f.waits(t)
	f.failAndGoOn(t, 0)
	f.write(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 5}, "i")
	f.succeeds(t, f.fail(t, "a"))
	f.failedOver(t, 0, "a")
	f.write(t, f.head(0), recordbatch.Producer{ID: pid + 2, Sequence: 0}, "h")
	f.write(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 3}, "e", "f")
	f.write(t, f.head(0), recordbatch.Producer{ID: pid + 1, Sequence: 8}, "g")
	f.succeeds(t, f.restore(t, "a"))
	f.gateway.eventually(t, "nothing is suspended", func(m *federation.Map) bool { return m.Topic("orders").Partitions[0].Extents[0].Sealed() })
	extents := f.gateway.Current().Topic("orders").Partitions[0].Extents
	require.Len(t, extents, 3)
	require.Empty(t, extents[0].Hidden)
	require.Equal(t, []federation.PhysicalRange{{From: extents[1].Start + 1, To: extents[1].Start + 3}}, extents[1].Hidden)
	require.Equal(t, []string{"a", "b", "c", "d", "e", "f", "i", "h", "g"}, values(f.log(t, 0)))
	require.Equal(t, mark.Producer{ID: pid, LastSequence: 5}, f.told(t, extents[2])[pid])
}

// A batch that lies in two extents whose clusters failed one after the other, since its
// producer sent it again, is in the log once, whichever comes back first.
func TestBatchInTwoFailedClusters(t *testing.T) {
	for _, order := range [][]int{{0, 1}, {1, 0}} {
		for _, read := range []string{"wait", "skip", "skip, b was not seen"} {
			waits := read == "wait"
			t.Run(fmt.Sprintf("%v, %s", order, read), func(t *testing.T) {
				t.Parallel()
				f := newFederated(t, 1)
				if waits {
					f.waits(t)
				}
				f.write(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 0}, "a")
				f.write(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 1}, "b")
				if f.knows(0, 1, 2); !waits && read != "skip" {
					f.knows(0, 1, 1)
				}
				f.succeeds(t, f.fail(t, "a"))
				_, head := f.failedOver(t, 0, "a")
				f.write(t, head.PhysicalAddress, recordbatch.Producer{ID: pid, Sequence: 1}, "b")
				f.write(t, head.PhysicalAddress, recordbatch.Producer{ID: pid, Sequence: 2}, "c")
				f.knows(0, 3, 3)
				clusters := []string{"a", string(head.Cluster)}
				up := takeDown(f.kafka["a"]) // else its producers are carried over
				f.succeeds(t, f.fail(t, clusters[1]))
				f.failedOver(t, 0, head.Cluster)
				up()
				for _, i := range order {
					f.succeeds(t, f.restore(t, clusters[i]))
				}
				f.gateway.eventually(t, "all is back", func(m *federation.Map) bool {
					return m.Clusters["a"].State == federation.ClusterActive && m.Clusters[head.Cluster].State == federation.ClusterActive
				})
				got := values(f.log(t, 0))
				if !waits {
					slices.Sort(got)
				}
				require.Equal(t, []string{"a", "b", "c"}, got)
				require.Equal(t, mark.Producer{ID: pid, LastSequence: 2}, f.told(t, f.gateway.Current().Topic("orders").Partitions[0].Head())[pid])
			})
		}
	}
}

// Of two batches, the first one was sent again to each of two further clusters, and the
// second one to none of them.
func TestThirdCopyOfWhatWasSentAgainInPart(t *testing.T) {
	f := newFederated(t, 1)
	f.waits(t)
	f.write(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 0}, "a")
	f.write(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 1}, "b")
	f.write(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 2}, "c")
	f.knows(0, 1, 3)
	up := takeDown(f.kafka["a"]) // else its producers are carried over
	f.succeeds(t, f.fail(t, "a"))
	_, head := f.failedOver(t, 0, "a")
	f.write(t, head.PhysicalAddress, recordbatch.Producer{ID: pid, Sequence: 1}, "b")
	second := head.Cluster
	f.knows(0, 1, 1)
	again := takeDown(f.kafka[string(second)])
	f.succeeds(t, f.fail(t, string(second)))
	_, head = f.failedOver(t, 0, second)
	f.write(t, head.PhysicalAddress, recordbatch.Producer{ID: pid, Sequence: 1}, "b")
	again()
	f.succeeds(t, f.restore(t, string(second)))
	up()
	f.succeeds(t, f.restore(t, "a"))
	f.gateway.eventually(t, "all is back", func(m *federation.Map) bool { return m.Clusters["a"].State == federation.ClusterActive })
	require.Equal(t, []string{"a", "b", "c"}, values(f.log(t, 0)))
}

// A batch that was sent again from one failed cluster to the next, and is hidden there,
// stays where it is when that one fails and comes back.
func TestBatchSentAgainStaysOverTheNextFailover(t *testing.T) {
	f := newFederated(t, 1)
	f.write(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 0}, "a")
	f.write(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 1}, "b")
	f.knows(0, 1, 1)
	f.succeeds(t, f.fail(t, "a"))
	_, head := f.failedOver(t, 0, "a")
	f.write(t, head.PhysicalAddress, recordbatch.Producer{ID: pid, Sequence: 1}, "b")
	f.succeeds(t, f.restore(t, "a"))
	f.knows(0, 2, 2)
	f.succeeds(t, f.fail(t, string(head.Cluster)))
	f.failedOver(t, 0, head.Cluster)
	f.succeeds(t, f.restore(t, string(head.Cluster)))
	f.gateway.eventually(t, "all is back", func(m *federation.Map) bool { return m.Clusters[head.Cluster].State == federation.ClusterActive })
	require.Equal(t, []string{"a", "b"}, values(f.log(t, 0)))
}
