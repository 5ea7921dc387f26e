package controller_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// writeEach writes records of one producer, each as a batch of its own, from a sequence on.
func (f *federated) writeEach(t *testing.T, id int64, first int32, values string) {
	t.Helper()
	for i, v := range strings.Split(values, "")[:len(values)] {
		f.write(t, f.head(0), recordbatch.Producer{ID: id, Sequence: first + int32(i)}, v)
	}
}

// failAway fails a cluster over that does not answer: nobody can read what it knew.
func (f *federated) failAway(t *testing.T, cluster federation.ClusterName) (up func()) {
	t.Helper()
	up = takeDown(f.kafka[string(cluster)])
	f.succeeds(t, f.fail(t, string(cluster)))
	f.failedOver(t, 0, cluster)
	return up
}

// stands returns the last sequence of a producer as the head knows it: by what it was told
// and what lies in it.
func (f *federated) stands(t *testing.T, id int64) int32 {
	t.Helper()
	head := f.gateway.Current().Topic("orders").Partitions[0].Head()
	last := int32(-1)
	if p, ok := f.told(t, head)[id]; ok {
		last = p.LastSequence
	}
	at := upstream.Partition{Topic: head.Topic, Partition: head.PhysicalAddress.Partition}
	c := f.cluster(t, string(head.Cluster))
	end := c.Ends(t.Context(), []upstream.Partition{at})[0]
	require.NoError(t, end.Err)
	require.NoError(t, c.ReadBatches(t.Context(), at, head.Start, end.HighWatermark, func(h recordbatch.Header, _ []byte) bool {
		if h.ProducerID == id {
			last = max(last, h.LastSequence())
		}
		return true
	}))
	return last
}

// rollOnSecond has the cluster of the head roll it, as cluster a comes back; what is
// written to it before that lies in a sealed extent there, and the head is told of it.
func (f *federated) rollOnSecond(t *testing.T, values string) federation.ClusterName {
	t.Helper()
	f.writeEach(t, pid, 0, "ab")
	f.knows(0, 2, 2)
	f.succeeds(t, f.fail(t, "a"))
	_, head := f.failedOver(t, 0, "a")
	f.writeEach(t, pid+1, 0, values)
	f.succeeds(t, f.restore(t, "a"))
	f.gateway.eventually(t, "the cluster is back", func(m *federation.Map) bool { return m.Clusters["a"].State == federation.ClusterActive })
	require.Equal(t, head.Cluster, f.head(0).Cluster)
	rolled := f.gateway.Current().Topic("orders").Partitions[0].Head()
	require.Equal(t, mark.Producer{ID: pid + 1, LastSequence: int32(len(values) - 1)}, f.told(t, rolled)[pid+1])
	f.knows(0, 0, 0)
	return head.Cluster
}

// A batch lies in a head that the restore of one cluster rolled, and that was told of it,
// when its cluster fails, too, and its producer has had no answer. It sends it again to a
// head that nobody could tell.
func TestBatchBeforeTheFailedHeadComesAgain(t *testing.T) {
	for _, v := range []struct {
		before, head, again string // what lies in the extent before, in the head that fails, and what is sent again
		waits               bool
	}{
		{"x", "", "x", false},
		{"x", "", "x", true},
		{"xy", "", "xy", true},
		{"xy", "", "x", true}, // in part: y comes later, and is a repeat
		{"xy", "", "y", false},
		{"x", "yz", "xyz", false},
		{"x", "yz", "xyz", true},
		{"x", "yz", "xy", true},
		{"x", "y", "x", true},
		{"xy", "z", "yz", true},
		{"x", "y", "", true},
		{"x", "y", "yz", true}, // x was acknowledged
	} {
		t.Run(fmt.Sprintf("%q %q %q, waits=%t", v.before, v.head, v.again, v.waits), func(t *testing.T) {
			t.Parallel()
			f := newFederated(t, 1)
			if v.waits {
				f.waits(t)
			}
			second := f.rollOnSecond(t, v.before)
			f.writeEach(t, pid+1, int32(len(v.before)), v.head)
			up := f.failAway(t, second)
			head := f.gateway.Current().Topic("orders").Partitions[0].Head()
			require.NotContains(t, f.told(t, head), pid+1)
			all := "xyz"
			f.writeEach(t, pid+1, int32(max(0, strings.Index(all, v.again))), v.again)
			up()
			f.succeeds(t, f.restore(t, string(second)))
			f.gateway.eventually(t, "all is back", func(m *federation.Map) bool { return m.Clusters[second].State == federation.ClusterActive })
			want := strings.Split("ab"+all[:max(len(v.before+v.head), strings.Index(all, v.again)+len(v.again))], "")
			got := values(f.log(t, 0))
			require.Equal(t, want, got)
			require.EqualValues(t, len(want)-3, f.stands(t, pid+1), "what comes again now is a repeat")
		})
	}
}

// The next head fails as well, with the second copy in it. Whichever cluster comes back
// first, one copy is left.
func TestBatchBeforeTwoFailedHeads(t *testing.T) {
	for _, first := range []int{0, 1} {
		for _, third := range []string{"", "x"} {
			t.Run(fmt.Sprintf("first=%d third=%q", first, third), func(t *testing.T) {
				t.Parallel()
				f := newFederated(t, 1)
				f.waits(t)
				second := f.rollOnSecond(t, "x")
				clusters, ups := []federation.ClusterName{second}, []func(){f.failAway(t, second)}
				f.writeEach(t, pid+1, 0, "x")
				clusters = append(clusters, f.head(0).Cluster)
				ups = append(ups, f.failAway(t, clusters[1]))
				f.writeEach(t, pid+1, 0, third)
				for _, up := range ups {
					up()
				}
				for _, i := range []int{first, 1 - first} {
					f.succeeds(t, f.restore(t, string(clusters[i])))
				}
				f.gateway.eventually(t, "all is back", func(m *federation.Map) bool {
					return !slices.ContainsFunc(clusters, func(c federation.ClusterName) bool { return m.Clusters[c].State != federation.ClusterActive })
				})
				require.Equal(t, []string{"a", "b", "x"}, values(f.log(t, 0)))
			})
		}
	}
}

// The first copy was hidden, as the second one lay in a head that went on. When another
// cluster comes back, that head is sealed: the second copy is all there is.
func TestHiddenCopyDoesNotCount(t *testing.T) {
	f := newFederated(t, 1)
	f.waits(t)
	second := f.rollOnSecond(t, "x")
	up := f.failAway(t, second)
	third := f.head(0).Cluster
	upThird := f.failAway(t, third)
	f.writeEach(t, pid, 0, "ab")
	f.writeEach(t, pid+1, 0, "x")
	last := f.head(0).Cluster
	up()
	upThird()
	f.succeeds(t, f.restore(t, string(second)))
	require.Equal(t, last, f.head(0).Cluster, "the head knows all, and is not rolled")
	require.NotEmpty(t, f.gateway.Current().Topic("orders").Partitions[0].Extents[1].Hidden)
	f.moved(t, f.move(t, string(second), 0))
	f.partition(t, 0, second)
	f.succeeds(t, f.restore(t, string(third)))
	f.gateway.eventually(t, "all is back", func(m *federation.Map) bool { return m.Clusters[third].State == federation.ClusterActive })
	require.Equal(t, []string{"a", "b", "x"}, values(f.log(t, 0)))
}

// A cluster is restored while the one of the head counts as failed, and is away again when
// that is failed over: the next head is told nothing, and takes what comes again.
func TestHeadThatWasNotToldOfWhatIsBack(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late=%t", late), func(t *testing.T) {
			t.Parallel()
			f := newFederated(t, 1, func(c *controller.Config) { c.StepTimeout = time.Second })
			f.waits(t)
			f.writeEach(t, pid, 0, "ab")
			f.knows(0, 1, 2)
			f.succeeds(t, f.fail(t, "a"))
			_, head := f.failedOver(t, 0, "a")
			second := head.Cluster
			f.knows(0, 0, 0)
			g, _ := stopSaveOf("restore-topic", []string{`"begun":true`}, nil)(f)
			op := f.restore(t, "a")
			g.await(t)
			fail := f.fail(t, string(second))
			f.gateway.eventually(t, "it is given up", func(m *federation.Map) bool { return m.Clusters[second].State == federation.ClusterFailed })
			back, _ := stopMap(func(e []*controlv1.ExtentEntry) bool {
				return len(e) == 2 && e[0].GetState() == controlv1.ExtentEntry_STATE_SEALED
			})(f)
			close(g.open)
			back.await(t)
			up := takeDown(f.kafka["a"])
			close(back.open)
			f.succeeds(t, fail)
			f.failedOver(t, 0, second)
			require.NotContains(t, f.told(t, f.gateway.Current().Topic("orders").Partitions[0].Head()), pid)
			if !late {
				f.writeEach(t, pid, 1, "b")
			}
			up()
			f.succeeds(t, op)
			f.succeeds(t, f.restore(t, string(second)))
			f.gateway.eventually(t, "all is back", func(m *federation.Map) bool { return m.Clusters[second].State == federation.ClusterActive })
			require.Equal(t, []string{"a", "b"}, values(f.log(t, 0)))
			require.EqualValues(t, 1, f.stands(t, pid))
		})
	}
}
