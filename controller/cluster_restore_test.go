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

func (f *federated) restore(t *testing.T, cluster string) *adminv1.Operation {
	t.Helper()
	resp, err := f.admin.clusters.RestoreCluster(t.Context(), &adminv1.RestoreClusterRequest{Name: "physicalClusters/" + cluster, NoWait: true})
	require.NoError(t, err)
	return &adminv1.Operation{Name: resp.GetOperation()}
}

// write appends records with these values as one batch.
func (f *federated) write(t *testing.T, at federation.PhysicalAddress, p recordbatch.Producer, values ...string) federation.PhysicalOffset {
	t.Helper()
	var b recordbatch.Builder
	b.Reset(nil)
	for i, v := range values {
		b.Add(&recordbatch.Record{TimestampMs: 1_700_000_000_000 + int64(i), Key: []byte("k"), Value: []byte(v), Headers: []recordbatch.RecordHeader{{Key: "mine", Value: []byte("1")}}})
	}
	got := f.cluster(t, string(at.Cluster)).AppendMarks(t.Context(), []upstream.MarkAppend{{Partition: upstream.Partition{Topic: at.Topic, Partition: at.Partition}, Batch: b.Finish(p)}})
	require.NoError(t, got[0].Err)
	return got[0].Offset
}

// A line is a record of a logical partition.
type line struct {
	value  string
	offset federation.LogicalOffset
	from   string // where it lay before, from its headers
}

// log returns the records of a partition, as a reader from its beginning gets them.
func (f *federated) log(t *testing.T, n int32) (out []line) {
	t.Helper()
	for _, e := range f.gateway.Current().Topic("orders").Partitions[n].Extents {
		if e.State == federation.ExtentSuspended {
			continue
		}
		c, at := f.cluster(t, string(e.Cluster)), upstream.Partition{Topic: e.Topic, Partition: e.PhysicalAddress.Partition}
		end := e.End
		if !e.Sealed() {
			ends := c.Ends(t.Context(), []upstream.Partition{at})
			require.NoError(t, ends[0].Err)
			end = ends[0].HighWatermark
		}
		reader := recordbatch.NewReader(1 << 20)
		require.NoError(t, c.ReadBatches(t.Context(), at, e.Start, end, func(h recordbatch.Header, batch []byte) bool {
			hidden := slices.ContainsFunc(e.Hidden, func(r federation.PhysicalRange) bool {
				return r.From <= federation.PhysicalOffset(h.BaseOffset) && federation.PhysicalOffset(h.BaseOffset) < r.To
			})
			if mark.IsMark(h.ProducerID) || hidden {
				return true
			}
			require.NoError(t, reader.Reset(batch))
			for {
				var rec recordbatch.Record
				ok, err := reader.Next(&rec)
				require.NoError(t, err)
				if !ok {
					return true
				}
				l := line{value: string(rec.Value), offset: e.Logical(federation.PhysicalOffset(rec.Offset))}
				require.Equal(t, "mine", rec.Headers[0].Key, "headers are kept")
				require.EqualValues(t, 1_700_000_000_000, rec.TimestampMs/1000*1000, "timestamps are kept")
				require.Equal(t, "k", string(rec.Key))
				if len(rec.Headers) > 1 {
					require.Equal(t, "braid.failover.cluster", rec.Headers[1].Key)
					require.Equal(t, "braid.failover.offset", rec.Headers[2].Key)
					l.from = string(rec.Headers[1].Value) + "@" + string(rec.Headers[2].Value)
				}
				out = append(out, l)
			}
		}))
	}
	return out
}

func values(lines []line) (out []string) {
	for _, l := range lines {
		out = append(out, l.value)
	}
	return out
}

// waits sets that readers of the topic wait for suspended extents.
func (f *federated) waits(t *testing.T) {
	t.Helper()
	_, err := f.admin.topics.UpdateTopic(t.Context(), &adminv1.UpdateTopicRequest{Topic: &adminv1.Topic{Name: topicName("orders"), Config: map[string]string{"braid.failover.read": "wait"}}})
	require.NoError(t, err)
}

// failAndGoOn writes records a to f, of which readers have seen a and b, fails the
// cluster over, and writes g to i; e and f were sent again by their producer.
func (f *federated) failAndGoOn(t *testing.T, n int32) {
	t.Helper()
	at := f.head(n)
	f.write(t, at, recordbatch.Producer{ID: pid, Sequence: 0}, "a", "b")
	f.write(t, at, recordbatch.Producer{ID: pid, Sequence: 2}, "c")
	f.write(t, at, recordbatch.Producer{ID: pid + 1, Sequence: 7}, "d")
	f.write(t, at, recordbatch.Producer{ID: pid, Sequence: 3}, "e", "f")
	f.knows(n, 4, 2)
}

func (f *federated) goOn(t *testing.T, n int32) {
	t.Helper()
	at := f.head(n)
	f.write(t, at, recordbatch.Producer{ID: pid, Sequence: 3}, "e", "f")
	f.write(t, at, recordbatch.Producer{ID: pid + 1, Sequence: 8}, "g")
	f.write(t, at, recordbatch.Producer{ID: pid, Sequence: 5}, "h")
}

func TestRestoreSkip(t *testing.T) {
	f := newFederated(t, 2)
	f.failAndGoOn(t, 0)
	up := takeDown(f.kafka["a"])
	f.succeeds(t, f.fail(t, "a"))
	f.failedOver(t, 0, "a")
	f.goOn(t, 0)
	require.Equal(t, []string{"e", "f", "g", "h"}, values(f.log(t, 0)))
	up()
	require.Eventually(t, func() bool {
		resp, err := f.admin.clusters.GetCluster(t.Context(), &adminv1.GetClusterRequest{Name: "physicalClusters/a"})
		return err == nil && resp.GetCluster().GetHealthy()
	}, patience, 10*time.Millisecond)
	op := f.restore(t, "a")
	f.succeeds(t, op)
	require.Contains(t, stepDetail(t, f.admin, op, "topics"), "orders: 2 records appended again, 1 batches hidden")
	require.Equal(t, adminv1.Cluster_STATE_ACTIVE, f.clusterState(t, "a"))
	f.gateway.eventually(t, "nothing is suspended", func(m *federation.Map) bool {
		return m.Topic("orders").Partitions[0].Extents[0].Sealed() && m.Clusters["a"].State == federation.ClusterActive
	})
	require.Len(t, f.gateway.Current().Topic("orders").Partitions[0].Extents, 2, "a head that knows all producers stays")
	e := f.gateway.Current().Topic("orders").Partitions[0].Extents[0]
	require.EqualValues(t, 2, e.End)
	require.EqualValues(t, 6, e.Seal)
	require.Empty(t, e.Hidden)
	lines := f.log(t, 0)
	require.Equal(t, []string{"a", "b", "e", "f", "g", "h", "c", "d"}, values(lines))
	require.Equal(t, "a@2", lines[6].from)
	require.Equal(t, "a@3", lines[7].from)
	require.Equal(t, []mark.Kind{mark.KindSeal}, f.marks(t, e.PhysicalAddress))
	require.Empty(t, f.head(1).Cluster == "a", "heads do not go back by themselves")
	f.gateway.eventually(t, "the empty extent leaves the map", func(m *federation.Map) bool { return len(m.Topic("orders").Partitions[1].Extents) == 1 })
	looks := time.NewTicker(50 * time.Millisecond) // as often as the controller looks
	defer looks.Stop()
	for range 6 {
		<-looks.C
		for _, alarm := range f.alarms(t) {
			require.NotContains(t, alarm, "behind the seal", "what was appended again is nobody's foreign record")
		}
	}
	require.Eventually(t, func() bool { return len(f.alarms(t)) == 0 }, patience, 20*time.Millisecond)
}

func TestRestoreWait(t *testing.T) {
	f := newFederated(t, 1)
	f.waits(t)
	f.failAndGoOn(t, 0)
	f.commit(t, "slow", 0, 1)
	up := takeDown(f.kafka["a"])
	op := f.fail(t, "a")
	f.succeeds(t, op)
	require.Empty(t, stepDetail(t, f.admin, op, "groups"), "groups wait, and pass over nothing")
	f.failedOver(t, 0, "a")
	f.goOn(t, 0)
	up()
	op = f.restore(t, "a")
	f.succeeds(t, op)
	require.Contains(t, stepDetail(t, f.admin, op, "topics"), "orders: 0 records appended again, 1 batches hidden that their producers had sent again; records stay in place: readers wait")
	f.gateway.eventually(t, "nothing is suspended", func(m *federation.Map) bool { return m.Topic("orders").Partitions[0].Extents[0].Sealed() })
	e := f.gateway.Current().Topic("orders").Partitions[0].Extents[0]
	require.EqualValues(t, 6, e.End)
	require.Zero(t, e.Seal)
	require.Equal(t, []federation.PhysicalRange{{From: 4, To: 6}}, e.Hidden)
	require.Equal(t, []string{"a", "b", "c", "d", "e", "f", "g", "h"}, values(f.log(t, 0)))
}

// Steps at which a restore can be stopped, in their order. Each is stopped before it is done.
var restoreSteps = []struct {
	name  string
	stop  func(f *federated) (g *gate, drop func())
	began bool // something is appended again: no way back
}{
	{"what there is to do is saved", stopSaveOf("restore-topic", []string{`"begun":true`}, []string{`"sealed":true`}), false},
	{"the seals are appended", stopKafka("a", kmsg.Produce, appendsMark(mark.KindSeal)), false},
	{"the seals are saved", stopSaveOf("restore-topic", []string{`"sealed":true`}, []string{`"ready":true`}), false},
	{"the extents are read", stopKafka("a", kmsg.Fetch, func(kmsg.Request) bool { return true }), false},
	{"what was sent again is saved", stopSaveOf("restore-topic", []string{`"ready":true`}, []string{`"copier":`}), false},
	{"the producer is saved", stopSaveOf("restore-topic", []string{`"copier":`}, nil), false},
	{"records are appended again", anywhere(kmsg.Produce, func(kmsg.Request) bool { return true }), true},
	{"that is saved", stopSaveOf("restore-topic", []string{`"sequence":`}, nil), true},
	{"the extents are sealed for the map", stopMap(func(e []*controlv1.ExtentEntry) bool {
		return len(e) == 2 && e[0].GetState() == controlv1.ExtentEntry_STATE_SEALED
	}), true},
	{"the end of the topic is saved", stopSaveOf("restore-topic", []string{`"done":true`}, nil), true},
	{"the cluster is active", func(f *federated) (*gate, func()) {
		g := f.stopStore(writesCluster("a", controlv1.ClusterEntry_STATE_ACTIVE))
		return &g.gate, func() { g.drop.Store(true) }
	}, true},
	{"the end of the operation is saved", stopSaveOf("restore-cluster", []string{`"done":true`}, nil), true},
}

func (f *federated) failWithTail(t *testing.T) {
	t.Helper()
	for i := range int32(2) {
		f.failAndGoOn(t, i)
	}
	f.succeeds(t, f.fail(t, "a"))
	for i := range int32(2) {
		f.failedOver(t, i, "a")
		f.goOn(t, i)
	}
}

func (f *federated) restored(t *testing.T) {
	t.Helper()
	f.gateway.eventually(t, "the cluster is back", func(m *federation.Map) bool { return m.Clusters["a"].State == federation.ClusterActive })
	for i := range int32(2) {
		require.Equal(t, []string{"a", "b", "e", "f", "g", "h", "c", "d"}, values(f.log(t, i)), i)
	}
}

func TestLeaderKilledAtEachStepOfARestore(t *testing.T) {
	for _, step := range restoreSteps {
		for _, lost := range []bool{true, false} {
			t.Run(fmt.Sprintf("before %s, lost=%t", step.name, lost), func(t *testing.T) {
				t.Parallel()
				f := newFederated(t, 2)
				f.failWithTail(t)
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
				f.restored(t)
			})
		}
	}
}

func TestRestoreCancelledAtEachStep(t *testing.T) {
	for _, step := range restoreSteps[:len(restoreSteps)-1] {
		t.Run("before "+step.name, func(t *testing.T) {
			t.Parallel()
			f := newFederated(t, 2)
			f.failWithTail(t)
			g, _ := step.stop(f)
			op := f.restore(t, "a")
			g.await(t)
			go func() {
				_, _ = f.admin.operations.CancelOperation(t.Context(), &adminv1.CancelOperationRequest{Name: op.GetName()})
			}()
			require.Eventually(t, func() bool { return f.cancelAsked(t, op) }, patience, 5*time.Millisecond)
			close(g.open)
			done := f.admin.await(t, op.GetName())
			if done.GetErrorCode() != 0 {
				require.Equal(t, int32(connect.CodeCanceled), done.GetErrorCode(), done.GetErrorMessage())
				require.Equal(t, adminv1.Cluster_STATE_FAILED, f.clusterState(t, "a"))
				f.succeeds(t, f.restore(t, "a"))
			}
			f.restored(t)
		})
	}
}

// The cluster dies again in the middle, and comes back; the operation waits.
func TestRestoreWaitsForAClusterThatDiesAgain(t *testing.T) {
	for _, step := range restoreSteps[1:9] {
		t.Run("before "+step.name, func(t *testing.T) {
			t.Parallel()
			f := newFederated(t, 2, func(c *controller.Config) { c.StepTimeout = time.Second })
			f.failWithTail(t)
			g, _ := step.stop(f)
			op := f.restore(t, "a")
			g.await(t)
			up := takeDown(f.kafka["a"])
			close(g.open)
			// To fail it again finds nothing to do, and is no harm.
			f.succeeds(t, f.fail(t, "a"))
			require.Equal(t, adminv1.Cluster_STATE_FAILED, f.clusterState(t, "a"))
			up()
			f.succeeds(t, op)
			f.restored(t)
		})
	}
}

// While records are appended again, the cluster of the head fails, too: they go on to the
// next head, and are there once when all is restored.
func TestHeadFailsWhileItsPartitionIsRestored(t *testing.T) {
	for _, answered := range []bool{true, false} {
		t.Run(fmt.Sprintf("answered=%t", answered), func(t *testing.T) {
			t.Parallel()
			f := newFederated(t, 1, func(c *controller.Config) { c.StepTimeout = time.Second })
			f.failAndGoOn(t, 0)
			f.succeeds(t, f.fail(t, "a"))
			_, head := f.failedOver(t, 0, "a")
			f.goOn(t, 0)
			second := string(head.Cluster)
			f.knows(0, 5, 5) // e to h were acknowledged and seen there
			k := f.kafka[second]
			reached, open := make(chan struct{}), make(chan struct{})
			first := true
			k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
				k.KeepControl()
				if first {
					first = false
					close(reached)
					k.SleepControl(func() { <-open })
				}
				return nil, nil, false
			})
			op := f.restore(t, "a")
			(&gate{reached: reached}).await(t)
			up := func() {}
			if !answered { // it reaches the log, perhaps, and the answer is lost
				up = takeDown(k)
			}
			fail := f.fail(t, second)
			close(open)
			f.succeeds(t, fail)
			f.succeeds(t, op)
			up()
			f.succeeds(t, f.restore(t, second))
			f.gateway.eventually(t, "all is back", func(m *federation.Map) bool {
				return m.Clusters[federation.ClusterName(second)].State == federation.ClusterActive
			})
			got := values(f.log(t, 0))
			slices.Sort(got)
			require.Equal(t, []string{"a", "b", "c", "d", "e", "f", "g", "h"}, got)
		})
	}
}

func TestRestoreOfAnotherCluster(t *testing.T) {
	f := newFederated(t, 1)
	f.succeeds(t, f.fail(t, "a"))
	other := newKafka(t, "other", 1)
	_, err := f.admin.clusters.UpdateCluster(t.Context(), &adminv1.UpdateClusterRequest{Cluster: &adminv1.Cluster{Name: "physicalClusters/a", Bootstrap: other.ListenAddrs()}})
	requireKind(t, federation.InvalidArgument, err)
}

func TestRestoreTellsWhatTheClusterLost(t *testing.T) {
	f := newFederated(t, 1)
	at := f.head(0)
	f.write(t, at, recordbatch.Producer{ID: pid, Sequence: 0}, "a", "b")
	f.knows(0, 7, 5)
	f.succeeds(t, f.fail(t, "a"))
	f.failedOver(t, 0, "a")
	f.succeeds(t, f.restore(t, "a"))
	f.awaitAlarm(t, "lost acknowledged records", "5 were acknowledged up to physical offset 7", "ends at 2")
	f.gateway.eventually(t, "the extent is back", func(m *federation.Map) bool { return m.Topic("orders").Partitions[0].Extents[0].Sealed() })
	require.Equal(t, []string{"a", "b"}, values(f.log(t, 0)))
}

func TestRestoreLeavesTooManyRecordsInPlace(t *testing.T) {
	f := newFederated(t, 1, func(c *controller.Config) { c.RestoreRecordsMax = 3 })
	f.failAndGoOn(t, 0)
	f.succeeds(t, f.fail(t, "a"))
	f.failedOver(t, 0, "a")
	f.goOn(t, 0)
	f.succeeds(t, f.restore(t, "a"))
	f.gateway.eventually(t, "the extent is back", func(m *federation.Map) bool { return m.Topic("orders").Partitions[0].Extents[0].Sealed() })
	require.Equal(t, []string{"a", "b", "c", "d", "e", "f", "g", "h"}, values(f.log(t, 0)))
}

// A record that the head refuses stays in place, with those behind it; what went before
// is not there twice.
func TestRestoreLeavesRefusedRecordsInPlace(t *testing.T) {
	f := newFederated(t, 1)
	at := f.head(0)
	f.write(t, at, recordbatch.Producer{ID: pid, Sequence: 0}, "a", "b")
	f.write(t, at, recordbatch.Producer{ID: pid, Sequence: 2}, "c")
	f.knows(0, 3, 1)
	f.succeeds(t, f.fail(t, "a"))
	_, head := f.failedOver(t, 0, "a")
	k := f.kafka[string(head.Cluster)]
	k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if appendsMark(mark.KindPrimer)(req) || appendsMark(mark.KindOpening)(req) || appendsMark(mark.KindSeal)(req) {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, x := range req.(*kmsg.ProduceRequest).Topics {
			rt := kmsg.NewProduceResponseTopic()
			rt.Topic = x.Topic
			for _, p := range x.Partitions {
				rp := kmsg.NewProduceResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, 87 // INVALID_RECORD
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	f.succeeds(t, f.restore(t, "a"))
	f.gateway.eventually(t, "the extent is back", func(m *federation.Map) bool { return m.Topic("orders").Partitions[0].Extents[0].Sealed() })
	require.Equal(t, []string{"a", "b", "c"}, values(f.log(t, 0)))
}

// The suite has what groups skip; here is that the restore tells it again.
func TestRestoreTellsWhatGroupsSkipped(t *testing.T) {
	f := newFederated(t, 1)
	f.failAndGoOn(t, 0)
	f.commit(t, "slow", 0, 1)
	f.succeeds(t, f.fail(t, "a"))
	f.failedOver(t, 0, "a")
	op := f.restore(t, "a")
	f.succeeds(t, op)
	require.Contains(t, stepDetail(t, f.admin, op, "groups"), "slow: orders-0 1 to 1")
}

// Two clusters fail, one after the other, and come back in either order.
func TestChainOfSuspendedExtents(t *testing.T) {
	for _, order := range [][]int{{0, 1}, {1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			t.Parallel()
			f := newFederated(t, 1)
			f.write(t, f.head(0), recordbatch.Producer{ID: pid, Sequence: 0}, "a", "b")
			f.knows(0, 2, 1)
			clusters := []string{"a"}
			f.succeeds(t, f.fail(t, "a"))
			_, head := f.failedOver(t, 0, "a")
			clusters = append(clusters, string(head.Cluster))
			f.write(t, head.PhysicalAddress, recordbatch.Producer{ID: pid, Sequence: 2}, "c", "d")
			f.knows(0, 3, 0)
			f.succeeds(t, f.fail(t, clusters[1]))
			_, head = f.failedOver(t, 0, federation.ClusterName(clusters[1]))
			require.Equal(t, federation.LogicalOffset(4e12), head.Base)
			f.write(t, head.PhysicalAddress, recordbatch.Producer{ID: pid, Sequence: 4}, "e")
			for _, i := range order {
				f.succeeds(t, f.restore(t, clusters[i]))
			}
			f.gateway.eventually(t, "all is back", func(m *federation.Map) bool {
				return m.Clusters["a"].State == federation.ClusterActive && m.Clusters[federation.ClusterName(clusters[1])].State == federation.ClusterActive
			})
			got := values(f.log(t, 0))
			slices.Sort(got)
			require.Equal(t, []string{"a", "b", "c", "d", "e"}, got)
		})
	}
}
