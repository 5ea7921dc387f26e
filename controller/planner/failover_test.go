package planner_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
)

// failOver fails a cluster over, topic by topic, as far as its topics have anywhere to go.
func (w *randomWorld) failOver(t *testing.T) {
	t.Helper()
	name := w.someClusters(1)[0]
	m, err := planner.WithClusterState(w.m, name, federation.ClusterFailed)
	require.NoError(t, err)
	w.m = m
	for _, topic := range w.m.TopicNames() {
		w.failOverTopic(t, name, w.m.Topics[topic])
		w.check(t)
	}
}

func (w *randomWorld) failOverTopic(t *testing.T, name federation.ClusterName, topic *federation.Topic) {
	t.Helper()
	there := 0
	for _, p := range topic.Partitions {
		if p.Head().Cluster == name {
			there++
		}
	}
	plan, err := planner.Failover(w.m, name, topic.Name, w.existing(topic), w.away)
	fit := slices.DeleteFunc(w.targets(topic.Clusters), func(n federation.ClusterName) bool { return n == name })
	require.Equal(t, there > 0 && len(fit) == 0, err != nil, err)
	if err != nil || there == 0 {
		require.Empty(t, plan.Moves)
		return
	}
	require.Len(t, plan.Moves, there)
	w.checkTargets(t, plan)
	w.make(plan.Topics)
	for _, v := range plan.Moves { // as if an earlier failover had suspended them
		if p, _ := w.m.Partition(v.TopicPartition); p.Head().State == federation.ExtentOpen {
			w.m, err = planner.WithSealing(w.m, []planner.Move{v})
			require.NoError(t, err)
		}
	}
	var heads []planner.FailedHead
	for _, v := range plan.Moves {
		p, _ := w.m.Partition(v.TopicPartition)
		h := planner.FailedHead{
			Move: v, Start: federation.PhysicalOffset(1 + w.rng.Intn(3)), Epoch: federation.PhysicalEpoch(w.rng.Intn(9)),
			Seen: federation.PhysicalOffset(w.rng.Intn(50)), Acknowledged: federation.PhysicalOffset(w.rng.Intn(50)),
		}
		switch w.rng.Intn(3) {
		case 0:
			h.Committed = p.Head().Base + federation.LogicalOffset(w.rng.Intn(60))
		case 1:
			h.Committed = federation.LogicalOffset(w.rng.Int63()) // made up by somebody
		}
		heads = append(heads, h)
	}
	all, err := planner.WithFailedOver(w.m, heads)
	require.NoError(t, err)
	part, err := planner.WithFailedOver(w.m, heads[:w.rng.Intn(len(heads)+1)])
	require.NoError(t, err)
	whole, err := planner.WithFailedOver(part, heads)
	require.NoError(t, err)
	require.JSONEq(t, snapshot(t, all), snapshot(t, whole))
	again, err := planner.WithFailedOver(all, heads)
	require.NoError(t, err)
	require.Same(t, all, again, "it can be repeated")
	require.Same(t, all, planner.WithoutSealing(all, plan.Moves), "nobody opens the old heads again")
	for _, h := range heads {
		was, _ := w.m.Partition(h.TopicPartition)
		is, _ := all.Partition(h.TopicPartition)
		old, head := is.Extents[len(is.Extents)-2], is.Head()
		require.Equal(t, was.Epoch+1, is.Epoch)
		require.Equal(t, federation.ExtentSuspended, old.State)
		require.Equal(t, h.To, head.PhysicalAddress)
		require.Equal(t, federation.ExtentOpen, head.State)
		require.Zero(t, head.Opening)
		require.GreaterOrEqual(t, old.Seen, h.Seen)
		require.Equal(t, h.Acknowledged, old.Acknowledged)
		w.failed[old.PhysicalAddress] = true
	}
	w.m = all
}

// checkTargets is checkPlan of heads that cannot be reached.
func (w *randomWorld) checkTargets(t *testing.T, p planner.MovePlan) {
	t.Helper()
	existing := w.existing(w.m.Topics[p.Topic])
	used := make(map[federation.ClusterName]int32)
	for _, v := range p.Moves {
		require.NotContains(t, w.served, v.To)
		require.EqualValues(t, existing[v.To.Cluster]+used[v.To.Cluster], v.To.Partition)
		require.Contains(t, w.targets(w.m.Topics[p.Topic].Clusters), v.To.Cluster)
		used[v.To.Cluster]++
		w.served[v.To] = fmt.Sprint(v.Topic, v.Partition, "/", v.Extent+1)
	}
}

// checkGap checks the gap between an extent that was failed over and the next one.
func (w *randomWorld) checkGap(t *testing.T, tp federation.TopicPartition, old, next *federation.Extent) {
	t.Helper()
	require.Zero(t, next.Base%1e12, tp)
	for _, known := range []federation.PhysicalOffset{old.Seen, old.Acknowledged} {
		require.GreaterOrEqual(t, next.Base, old.Base+federation.LogicalOffset(known-old.Start)+planner.FailoverGap, tp)
	}
	if end, ok := old.EndOffset(); ok {
		require.GreaterOrEqual(t, next.Base, end, tp)
	}
}

// restore brings suspended extents back, some at a time, and sets the cluster active
// when none is left.
func (w *randomWorld) restore(t *testing.T) {
	t.Helper()
	name := w.someClusters(1)[0]
	if w.m.Clusters[name].State != federation.ClusterFailed {
		return
	}
	var extents []planner.RestoredExtent
	for _, topic := range w.m.Topics {
		for _, p := range topic.Partitions {
			for _, e := range p.Extents[:len(p.Extents)-1] {
				if e.Cluster == name && e.State == federation.ExtentSuspended && w.rng.Intn(4) > 0 {
					extents = append(extents, w.restored(p, e))
				}
			}
		}
	}
	before, _ := planner.Suspended(w.m, name)
	part, err := planner.WithRestored(w.m, extents[:w.rng.Intn(len(extents)+1)])
	require.NoError(t, err)
	all, err := planner.WithRestored(part, extents)
	require.NoError(t, err)
	again, err := planner.WithRestored(all, extents)
	require.NoError(t, err)
	require.Same(t, all, again, "it can be repeated")
	after, _ := planner.Suspended(all, name)
	require.Equal(t, before-len(extents), after)
	w.m = all
	if after == 0 {
		w.m, err = planner.WithClusterState(w.m, name, federation.ClusterActive)
		require.NoError(t, err)
		w.away[name] = false
	}
}

func (w *randomWorld) restored(p *federation.Partition, e *federation.Extent) planner.RestoredExtent {
	r := planner.RestoredExtent{
		TopicPartition: federation.TopicPartition{Topic: p.Topic, Partition: p.Number}, Extent: e.Number, At: e.PhysicalAddress,
		Seal: e.Start + federation.PhysicalOffset(w.rng.Intn(80)), // perhaps acknowledged records are lost
	}
	r.End = r.Seal
	switch w.rng.Intn(3) {
	case 0:
		r.End = min(max(e.Seen, e.Start), r.Seal)
	case 1:
		if r.End > e.Start {
			r.Hidden = []federation.PhysicalRange{{From: r.End - 1, To: r.End}}
		}
	}
	return r
}

func TestFailedOverHeads(t *testing.T) {
	tp := federation.TopicPartition{Topic: "t0"}
	start := func(t *testing.T, state federation.ClusterState) (*federation.Map, planner.Move) {
		t.Helper()
		m := bigMap(2, 2, 1, 1)
		h := m.Topics["t0"].Partitions[0].Head()
		v := planner.Move{TopicPartition: tp, From: h.PhysicalAddress, To: federation.PhysicalAddress{Cluster: "cluster-01", Topic: h.Topic, Partition: 7}}
		m, err := planner.WithSealing(m, []planner.Move{v})
		require.NoError(t, err)
		m, err = planner.WithClusterState(m, h.Cluster, state)
		require.NoError(t, err)
		return m, v
	}
	t.Run("the offsets leave a gap", func(t *testing.T) {
		for _, c := range []struct {
			seen, acknowledged federation.PhysicalOffset
			committed          federation.LogicalOffset
			wantSeen           federation.PhysicalOffset
			wantBase           federation.LogicalOffset
		}{
			{0, 0, 0, 0, 2e12},
			{40, 100, 0, 40, 2e12},
			{100, 40, 90, 100, 2e12},
			{10, 10, 200, 201, 2e12}, // somebody has read further than the gateways remember
			{1e12, 0, 0, 1e12, 3e12},
			{10, 10, math.MaxInt64, 10, 2e12},               // too high to be true
			{10, 10, 9 + planner.FailoverGap + 1, 10, 2e12}, // as well
			{10, 10, planner.FailoverGap, 1<<40 + 1, 3e12},  // just below
			{1<<62 - 1, 0, 0, 0, 0},                         // no offsets are left
			{0, 1<<62 - 1, 0, 0, 0},
		} {
			m, v := start(t, federation.ClusterFailed)
			next, err := planner.WithFailedOver(m, []planner.FailedHead{{Move: v, Start: 1, Seen: c.seen, Acknowledged: c.acknowledged, Committed: c.committed}})
			if c.wantBase == 0 {
				require.Equal(t, federation.PolicyViolation, federation.KindOf(err), "%+v", c)
				continue
			}
			require.NoError(t, err)
			p := next.Topics["t0"].Partitions[0]
			require.Equal(t, c.wantSeen, p.Extents[0].Seen, "%+v", c)
			require.Equal(t, c.acknowledged, p.Extents[0].Acknowledged)
			require.Equal(t, c.wantBase, p.Head().Base, "%+v", c)
		}
	})
	t.Run("what is refused", func(t *testing.T) {
		m, v := start(t, federation.ClusterActive)
		_, err := planner.WithFailedOver(m, []planner.FailedHead{{Move: v, Start: 1}})
		require.ErrorContains(t, err, "has not failed")
		m, v = start(t, federation.ClusterFailed)
		_, err = planner.WithFailedOver(planner.WithoutSealing(m, []planner.Move{v}), []planner.FailedHead{{Move: v, Start: 1}})
		require.ErrorContains(t, err, "not sealing")
		other := v
		other.Extent++
		_, err = planner.WithFailedOver(m, []planner.FailedHead{{Move: other, Start: 1}})
		require.Equal(t, federation.Conflict, federation.KindOf(err))
		both, err := planner.WithClusterState(m, "cluster-01", federation.ClusterFailed)
		require.NoError(t, err)
		_, err = planner.WithFailedOver(both, []planner.FailedHead{{Move: v, Start: 1}})
		require.ErrorContains(t, err, "failed or was removed")
		_, err = planner.WithSealing(both, []planner.Move{v})
		require.ErrorContains(t, err, "failed meanwhile")
	})
	t.Run("a chain of two, restored in any order", func(t *testing.T) {
		m, v := start(t, federation.ClusterFailed)
		m, err := planner.WithFailedOver(m, []planner.FailedHead{{Move: v, Start: 1, Seen: 5, Acknowledged: 9}})
		require.NoError(t, err)
		m = planner.WithCluster(m, &federation.Cluster{Name: "third", State: federation.ClusterActive, Weight: 1})
		m, err = planner.WithClusterState(m, "cluster-01", federation.ClusterFailed)
		require.NoError(t, err)
		second := planner.Move{TopicPartition: tp, Extent: 1, From: v.To, To: federation.PhysicalAddress{Cluster: "third", Topic: v.To.Topic}}
		m, err = planner.WithSealing(m, []planner.Move{second})
		require.NoError(t, err)
		m, err = planner.WithFailedOver(m, []planner.FailedHead{{Move: second, Start: 2, Seen: 3}})
		require.NoError(t, err)
		require.Equal(t, federation.LogicalOffset(4e12), m.Topics["t0"].Partitions[0].Head().Base)
		for _, order := range [][]int{{0, 1}, {1, 0}} {
			out := m
			for _, i := range order {
				e := out.Topics["t0"].Partitions[0].Extents[i]
				out, err = planner.WithRestored(out, []planner.RestoredExtent{{TopicPartition: tp, Extent: e.Number, At: e.PhysicalAddress, End: e.Seen, Seal: e.Seen + 4}})
				require.NoError(t, err)
			}
			p := out.Topics["t0"].Partitions[0]
			require.Equal(t, federation.ExtentSealed, p.Extents[0].State)
			require.Equal(t, []federation.PhysicalOffset{5, 9}, []federation.PhysicalOffset{p.Extents[0].End, p.Extents[0].Seal})
			require.Equal(t, []federation.PhysicalOffset{3, 7}, []federation.PhysicalOffset{p.Extents[1].End, p.Extents[1].Seal})
		}
	})
}

func TestRoll(t *testing.T) {
	m := bigMap(3, 6, 1, 1)
	topic := m.Topics["t0"]
	existing := map[federation.ClusterName]int32{topic.Partitions[0].Head().Cluster: 9}
	plan, err := planner.Roll(m, "t0", []federation.LogicalPartition{0, 1, 4}, existing)
	require.NoError(t, err)
	require.Len(t, plan.Moves, 3)
	used := make(map[federation.PhysicalAddress]bool)
	for _, p := range topic.Partitions {
		used[p.Head().PhysicalAddress] = true
	}
	for _, v := range plan.Moves {
		h := topic.Partitions[v.Partition].Head()
		require.Equal(t, h.PhysicalAddress, v.From)
		require.Equal(t, h.Number, v.Extent)
		require.Equal(t, h.Cluster, v.To.Cluster, "it stays on its cluster")
		require.NotContains(t, used, v.To)
		require.GreaterOrEqual(t, int32(v.To.Partition), existing[v.To.Cluster])
		used[v.To] = true
		i := slices.IndexFunc(plan.Topics, func(pt planner.PhysicalTopic) bool { return pt.Cluster == v.To.Cluster })
		require.Greater(t, plan.Topics[i].Partitions, int32(v.To.Partition))
	}
	_, err = planner.Roll(m, "none", nil, nil)
	require.Equal(t, federation.UnknownTopic, federation.KindOf(err))
	_, err = planner.Roll(m, "t0", []federation.LogicalPartition{99}, nil)
	require.Equal(t, federation.UnknownPartition, federation.KindOf(err))
	m, err = planner.WithClusterState(m, topic.Partitions[1].Head().Cluster, federation.ClusterFailed)
	require.NoError(t, err)
	_, err = planner.Roll(m, "t0", []federation.LogicalPartition{1}, nil)
	require.Equal(t, federation.ClusterUnavailable, federation.KindOf(err))
}

// What was sent again in part is hidden in other extents than the one that is restored.
func TestRestoredHidesElsewhere(t *testing.T) {
	tp := federation.TopicPartition{Topic: "t0"}
	m := bigMap(2, 2, 1, 1)
	h := m.Topics["t0"].Partitions[0].Head()
	to := federation.PhysicalAddress{Cluster: "cluster-01", Topic: h.Topic, Partition: 7}
	v := planner.Move{TopicPartition: tp, From: h.PhysicalAddress, To: to}
	m, err := planner.WithClusterState(m, h.Cluster, federation.ClusterFailed)
	require.NoError(t, err)
	m, err = planner.WithSealing(m, []planner.Move{v})
	require.NoError(t, err)
	m, err = planner.WithFailedOver(m, []planner.FailedHead{{Move: v, Start: 1, Seen: 5}})
	require.NoError(t, err)
	restored := planner.RestoredExtent{TopicPartition: tp, At: h.PhysicalAddress, End: 9, Seal: 9}
	hide := func(ranges ...federation.PhysicalRange) []planner.HiddenElsewhere {
		return []planner.HiddenElsewhere{{Extent: 1, Ranges: ranges}, {Extent: 7, Ranges: ranges}}
	}
	restored.Elsewhere = hide(federation.PhysicalRange{From: 2, To: 3})
	out, err := planner.WithRestored(m, []planner.RestoredExtent{restored})
	require.NoError(t, err)
	require.Empty(t, out.Topics["t0"].Partitions[0].Extents[1].Hidden, "a head hides nothing")

	roll := planner.Move{TopicPartition: tp, Extent: 1, From: to, To: federation.PhysicalAddress{Cluster: "cluster-01", Topic: h.Topic, Partition: 8}}
	m, err = planner.WithSealing(m, []planner.Move{roll})
	require.NoError(t, err)
	m, err = planner.WithMoved(m, []planner.MovedHead{{Move: roll, End: 20, Start: 1}})
	require.NoError(t, err)
	restored.Elsewhere = hide(federation.PhysicalRange{From: 12, To: 14}, federation.PhysicalRange{From: 2, To: 3}, federation.PhysicalRange{From: 3, To: 6})
	out, err = planner.WithRestored(m, []planner.RestoredExtent{restored})
	require.NoError(t, err)
	require.Equal(t, []federation.PhysicalRange{{From: 2, To: 6}, {From: 12, To: 14}}, out.Topics["t0"].Partitions[0].Extents[1].Hidden)
	require.Empty(t, m.Topics["t0"].Partitions[0].Extents[1].Hidden, "the map before is as it was")
	again, err := planner.WithRestored(out, []planner.RestoredExtent{restored})
	require.NoError(t, err)
	require.Same(t, out, again)
}

func TestFailedHeadsArePersisted(t *testing.T) {
	h := planner.FailedHead{
		Move: planner.Move{
			TopicPartition: federation.TopicPartition{Topic: "t", Partition: 3}, Extent: 4,
			From: federation.PhysicalAddress{Cluster: "a", Topic: "x", Partition: 5},
			To:   federation.PhysicalAddress{Cluster: "b", Topic: "x", Partition: 6},
		},
		Start: 7, Epoch: 8, Seen: 9, Acknowledged: 10, Committed: 11,
	}
	b, err := json.Marshal(h)
	require.NoError(t, err)
	var back planner.FailedHead
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, h, back)
}
