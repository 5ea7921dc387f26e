package planner_test

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
)

// TestMovesKeepTheRules moves heads of random maps to and fro, gives some moves
// up, repeats edits, and lets clusters come, go and fail between.
func TestMovesKeepTheRules(t *testing.T) {
	seeds := int64(150)
	if testing.Short() {
		seeds = 40
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			w := newRandomWorld(rand.New(rand.NewSource(seed)))
			for range 25 {
				w.step(t)
			}
		})
	}
}

type randomWorld struct {
	world

	rng *rand.Rand
	// served says which physical partition was meant for which extent, ever.
	served map[federation.PhysicalAddress]string
	// failed are the extents that were failed over: behind them is a gap.
	failed map[federation.PhysicalAddress]bool
	epochs map[federation.TopicPartition]federation.LogicalEpoch
}

func newRandomWorld(rng *rand.Rand) *randomWorld {
	w := &randomWorld{rng: rng, served: map[federation.PhysicalAddress]string{}, failed: map[federation.PhysicalAddress]bool{}, epochs: map[federation.TopicPartition]federation.LogicalEpoch{}}
	w.away = map[federation.ClusterName]bool{}
	w.physical = map[federation.ClusterName]map[string]int32{}
	w.m = (&federation.Map{
		LogicalCluster: "default",
		Clusters:       map[federation.ClusterName]*federation.Cluster{},
		Topics:         map[federation.TopicName]*federation.Topic{},
	}).Seal()
	for i := range 2 + rng.Intn(4) {
		w.m = planner.WithCluster(w.m, &federation.Cluster{
			Name: federation.ClusterName(fmt.Sprint("c", i)), Weight: 1 + rng.Int31n(3), State: federation.ClusterActive,
		})
	}
	for i := range 1 + rng.Intn(4) {
		s := planner.Spec{Name: federation.TopicName(fmt.Sprint("t", i)), Partitions: 1 + rng.Int31n(10), Generation: 1}
		if rng.Intn(2) == 0 {
			s.Clusters = w.someClusters(1 + rng.Intn(2))
		}
		plan, err := planner.Create(w.m, s, nil)
		if err != nil {
			panic(err)
		}
		w.make(plan.Topics)
		for i, at := range plan.Heads {
			w.served[at] = fmt.Sprint(s.Name, i, "/0")
		}
		w.m = planner.WithTopic(w.m, &federation.Topic{
			Name: s.Name, ID: federation.NewTopicID(), Generation: 1, Clusters: s.Clusters,
			Partitions: plan.Partitions(s.Name, make([]federation.PhysicalEpoch, len(plan.Heads))),
		})
	}
	return w
}

func (w *randomWorld) clusterNames() []federation.ClusterName {
	var all []federation.ClusterName
	for n := range w.m.Clusters {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

func (w *randomWorld) someClusters(n int) []federation.ClusterName {
	all := w.clusterNames()
	w.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(n, len(all))]
}

func (w *randomWorld) someTopic() *federation.Topic {
	all := w.m.TopicNames()
	return w.m.Topics[all[w.rng.Intn(len(all))]]
}

func (w *randomWorld) step(t *testing.T) {
	t.Helper()
	before := snapshot(t, w.m)
	old := w.m
	switch w.rng.Intn(15) {
	case 0:
		if len(w.m.Clusters) < 6 {
			w.m = planner.WithCluster(w.m, &federation.Cluster{
				Name: federation.ClusterName(fmt.Sprint("n", len(w.m.Clusters))), Weight: w.rng.Int31n(4), State: federation.ClusterActive,
			})
		}
	case 1, 2:
		name := w.someClusters(1)[0]
		state := []federation.ClusterState{federation.ClusterActive, federation.ClusterActive, federation.ClusterDraining, federation.ClusterFailed}[w.rng.Intn(4)]
		next, err := planner.WithClusterState(w.m, name, state)
		require.NoError(t, err)
		w.m = next
		w.away[name] = w.rng.Intn(4) == 0
		if state == federation.ClusterFailed {
			w.suspendHeads(name)
		}
	case 3:
		w.raise(t)
	case 4:
		w.expire(t)
	case 5, 6:
		w.moveTo(t)
	case 7:
		w.drain(t)
	case 8, 9:
		w.failOver(t)
	case 10:
		w.restore(t)
	default:
		w.expand(t)
	}
	w.changeLoad()
	require.JSONEq(t, before, snapshot(t, old), "a map stays as it was")
	w.check(t)
}

// changeLoad has plans look at other loads, or at none.
func (w *randomWorld) changeLoad() {
	w.load = nil
	if w.rng.Intn(3) == 0 {
		return
	}
	w.load = planner.Load{}
	for _, topic := range w.m.Topics {
		for i := range topic.Partitions {
			if w.rng.Intn(2) == 0 {
				w.load[federation.TopicPartition{Topic: topic.Name, Partition: federation.LogicalPartition(i)}] = w.rng.Int63n(1 << 30)
			}
		}
	}
}

// suspendHeads is what a failover begins with; some heads are left as if the
// controller had not come to them.
func (w *randomWorld) suspendHeads(cluster federation.ClusterName) {
	for _, topic := range w.m.Topics {
		for _, p := range topic.Partitions {
			if h := p.Head(); h.Cluster == cluster && h.State == federation.ExtentOpen && w.rng.Intn(8) == 0 {
				w.m = withHead(w.m, federation.TopicPartition{Topic: topic.Name, Partition: p.Number}, federation.ExtentSuspended)
			}
		}
	}
}

// check are the rules of every map, and what only grows.
func (w *randomWorld) check(t *testing.T) {
	t.Helper()
	require.NoError(t, w.m.Validate())
	for _, topic := range w.m.Topics {
		for _, p := range topic.Partitions {
			tp := federation.TopicPartition{Topic: topic.Name, Partition: p.Number}
			require.GreaterOrEqual(t, p.Epoch, w.epochs[tp], tp)
			w.epochs[tp] = p.Epoch
			for i, e := range p.Extents {
				require.Equal(t, fmt.Sprint(tp.Topic, tp.Partition, "/", e.Number), w.served[e.PhysicalAddress], "%s serves one extent, ever", e.PhysicalAddress)
				if i > 0 && w.failed[p.Extents[i-1].PhysicalAddress] {
					w.checkGap(t, tp, p.Extents[i-1], e)
				} else if i > 0 {
					end, ok := p.Extents[i-1].EndOffset()
					require.True(t, ok)
					require.Equal(t, end, e.Base, "%s: a hole or an overlap before extent %d", tp, e.Number)
				}
			}
		}
	}
}

func (w *randomWorld) raise(t *testing.T) {
	t.Helper()
	var seen []planner.LeaderSeen
	for at := range w.served {
		seen = append(seen, planner.LeaderSeen{PhysicalAddress: at, Epoch: federation.PhysicalEpoch(w.rng.Intn(20))})
	}
	next, _ := planner.RaiseEpochs(w.m, seen)
	newest := make(map[federation.PhysicalAddress]federation.PhysicalEpoch)
	for _, s := range seen {
		newest[s.PhysicalAddress] = s.Epoch
	}
	for name, topic := range next.Topics {
		for i, p := range topic.Partitions {
			h, was := p.Head(), w.m.Topics[name].Partitions[i].Head()
			require.Equal(t, was.State, h.State)
			if h.State != federation.ExtentSuspended {
				require.GreaterOrEqual(t, h.LastEpoch().Physical, newest[h.PhysicalAddress])
			}
		}
	}
	w.m = next
}

func (w *randomWorld) expire(t *testing.T) {
	t.Helper()
	expired := make(map[federation.TopicPartition]int32)
	for _, topic := range w.m.Topics {
		for _, p := range topic.Partitions {
			if w.rng.Intn(2) == 0 {
				expired[federation.TopicPartition{Topic: topic.Name, Partition: p.Number}] = w.rng.Int31n(6)
			}
		}
	}
	next, gone := planner.WithoutExtents(w.m, expired)
	require.Equal(t, extents(w.m)-gone, extents(next))
	for name, topic := range next.Topics {
		for i, p := range topic.Partitions {
			require.Same(t, w.m.Topics[name].Partitions[i].Head(), p.Head())
			number, ok := expired[federation.TopicPartition{Topic: name, Partition: p.Number}]
			require.True(t, !ok || len(p.Extents) == 1 || !p.Extents[0].Sealed() || p.Extents[0].Number >= number)
		}
	}
	w.m = next
}

func (w *randomWorld) moveTo(t *testing.T) {
	t.Helper()
	topic := w.someTopic()
	to := w.someClusters(1)[0]
	var partitions []federation.LogicalPartition
	for range 1 + w.rng.Intn(4) {
		partitions = append(partitions, federation.LogicalPartition(w.rng.Intn(len(topic.Partitions))))
	}
	plan, err := planner.MoveTo(w.m, topic.Name, partitions, to, w.existing(topic), w.away)
	if err != nil {
		bad := w.m.Clusters[to].State != federation.ClusterActive || w.away[to]
		for _, n := range partitions {
			bad = bad || !w.reachable(topic.Partitions[n].Head())
		}
		require.True(t, bad, err)
		return
	}
	w.carryOut(t, plan)
	if len(w.m.Topics) > 0 && slices.ContainsFunc(plan.Moves, func(v planner.Move) bool { return v.To.Cluster != to }) {
		t.Fatalf("moves to another cluster than %s: %v", to, plan.Moves)
	}
}

func (w *randomWorld) drain(t *testing.T) {
	t.Helper()
	name := w.someClusters(1)[0]
	plans, err := planner.Drain(w.m, name, w.existing, w.away, w.load)
	nowhere := w.m.Clusters[name].State == federation.ClusterFailed || w.away[name]
	for _, topic := range w.m.Topics {
		fit := slices.DeleteFunc(w.targets(topic.Clusters), func(n federation.ClusterName) bool { return n == name })
		for _, p := range topic.Partitions {
			if h := p.Head(); h.Cluster == name {
				nowhere = nowhere || len(fit) == 0 || h.State == federation.ExtentSuspended
			}
		}
	}
	require.Equal(t, nowhere, err != nil, err)
	for _, p := range plans {
		topic := w.m.Topics[p.Topic]
		fit := slices.DeleteFunc(w.targets(topic.Clusters), func(n federation.ClusterName) bool { return n == name })
		count := w.headsAfter(topic, p)
		require.Zero(t, count[name])
		for _, v := range p.Moves {
			require.Contains(t, fit, v.To.Cluster)
			for _, other := range fit {
				require.LessOrEqual(t, count[v.To.Cluster]*w.weight(other), (count[other]+1)*w.weight(v.To.Cluster), "%s would be better than %s", other, v.To.Cluster)
			}
		}
	}
	w.carryOut(t, plans...)
}

func (w *randomWorld) expand(t *testing.T) {
	t.Helper()
	topic := w.someTopic()
	var more []federation.ClusterName
	limit := topic.Clusters
	if w.rng.Intn(2) == 0 {
		more = w.someClusters(1)
		if len(limit) > 0 {
			limit = append(slices.Clone(limit), more...)
		}
	}
	plan, err := planner.Expand(w.m, topic.Name, more, w.existing(topic), w.away, w.load)
	fit := w.targets(limit)
	if err != nil {
		bad := len(fit) == 0
		for _, n := range more {
			bad = bad || !slices.Contains(w.targets(nil), n)
		}
		require.True(t, bad, err)
		return
	}
	// In balance, and with as few moves as that takes.
	before, after := map[federation.ClusterName]int64{}, map[federation.ClusterName]int64{}
	total := int64(0)
	moves := make(map[federation.LogicalPartition]planner.Move)
	for _, v := range plan.Moves {
		moves[v.Partition] = v
	}
	for _, p := range topic.Partitions {
		h := p.Head()
		if !w.reachable(h) {
			require.NotContains(t, moves, p.Number)
			continue
		}
		total++
		before[h.Cluster]++
		if v, ok := moves[p.Number]; ok {
			after[v.To.Cluster]++
		} else {
			after[h.Cluster]++
		}
	}
	require.True(t, w.balanced(fit, after), "%v of weights %v", after, w.m.Clusters)
	fewest := w.fewest(fit, before, map[federation.ClusterName]int64{}, total)
	require.Len(t, plan.Moves, int(fewest), "from %v to %v", before, after)

	if w.carryOut(t, plan) {
		next, err := planner.WithTopicClusters(w.m, topic.Name, more)
		require.NoError(t, err)
		w.m = next
		again, err := planner.Expand(w.m, topic.Name, more, w.existing(topic), w.away, w.load)
		require.NoError(t, err)
		require.Empty(t, again.Moves)
		require.Empty(t, again.Topics)
	}
}

// balanced reports whether no cluster has more heads than its weight lets it.
func (w *randomWorld) balanced(fit []federation.ClusterName, count map[federation.ClusterName]int64) bool {
	sum := int64(0)
	for _, a := range fit {
		for _, b := range fit {
			if count[a]*w.weight(b) > (count[b]+1)*w.weight(a) {
				return false
			}
		}
		sum += count[a]
	}
	for _, n := range count {
		sum -= n
	}
	return sum == 0 // nothing lies elsewhere
}

// fewest tries all ways to spread the rest of the heads over the rest of the
// clusters, and returns how many heads move in the best one that is balanced.
func (w *randomWorld) fewest(fit []federation.ClusterName, before, after map[federation.ClusterName]int64, rest int64) int64 {
	i := len(after)
	if i == len(fit) {
		if rest > 0 || !w.balanced(fit, after) {
			return 1 << 40
		}
		moved := int64(0)
		for _, n := range fit {
			moved += max(0, after[n]-before[n])
		}
		return moved
	}
	best := int64(1 << 40)
	for n := range rest + 1 {
		after[fit[i]] = n
		best = min(best, w.fewest(fit, before, after, rest-n))
		delete(after, fit[i])
	}
	return best
}

// carryOut takes plans through the edits, or gives them up after sealing.
func (w *randomWorld) carryOut(t *testing.T, plans ...planner.MovePlan) bool {
	t.Helper()
	var moves []planner.Move
	for _, p := range plans {
		w.checkPlan(t, p)
		w.make(p.Topics)
		moves = append(moves, p.Moves...)
	}
	sealing, err := planner.WithSealing(w.m, moves)
	require.NoError(t, err)
	again, err := planner.WithSealing(sealing, moves)
	require.NoError(t, err)
	require.Same(t, sealing, again)
	if w.rng.Intn(5) == 0 {
		undone := planner.WithoutSealing(sealing, moves)
		require.JSONEq(t, snapshot(t, w.m), snapshot(t, undone))
		w.m = undone
		return false
	}
	w.m = sealing
	if w.rng.Intn(2) == 0 {
		w.raise(t)
	}
	var heads []planner.MovedHead
	for _, v := range moves {
		p, err := w.m.Partition(v.TopicPartition)
		require.NoError(t, err)
		h := planner.MovedHead{
			Move: v, End: p.Head().Start + federation.PhysicalOffset(w.rng.Intn(9)),
			Start: federation.PhysicalOffset(1 + w.rng.Intn(3)), Epoch: federation.PhysicalEpoch(w.rng.Intn(9)),
		}
		h.Opening = federation.PhysicalOffset(w.rng.Intn(int(h.Start)))
		heads = append(heads, h)
	}
	all, err := planner.WithMoved(w.m, heads)
	require.NoError(t, err)
	// Part of it, then all of it; and once more.
	part, err := planner.WithMoved(w.m, heads[:w.rng.Intn(len(heads)+1)])
	require.NoError(t, err)
	whole, err := planner.WithMoved(part, heads)
	require.NoError(t, err)
	require.JSONEq(t, snapshot(t, all), snapshot(t, whole))
	again, err = planner.WithMoved(all, heads)
	require.NoError(t, err)
	require.Same(t, all, again)
	require.Same(t, all, planner.WithoutSealing(all, moves))
	for _, h := range heads {
		was, _ := w.m.Partition(h.TopicPartition)
		is, _ := all.Partition(h.TopicPartition)
		require.Equal(t, was.Epoch+1, is.Epoch)
		require.Equal(t, h.To, is.Head().PhysicalAddress)
	}
	w.m = all
	return true
}

// checkPlan checks that new heads go to physical partitions that never were, and
// that these leave no gap.
func (w *randomWorld) checkPlan(t *testing.T, p planner.MovePlan) {
	t.Helper()
	topic := w.m.Topics[p.Topic]
	existing := w.existing(topic)
	used := make(map[federation.ClusterName]int32)
	last := federation.LogicalPartition(-1)
	for _, v := range p.Moves {
		require.Greater(t, v.Partition, last)
		last = v.Partition
		require.NotEqual(t, v.From.Cluster, v.To.Cluster)
		require.NotContains(t, w.served, v.To)
		require.EqualValues(t, existing[v.To.Cluster]+used[v.To.Cluster], v.To.Partition)
		require.Equal(t, federation.ClusterActive, w.m.Clusters[v.To.Cluster].State)
		require.False(t, w.away[v.To.Cluster] || w.away[v.From.Cluster])
		used[v.To.Cluster]++
		w.served[v.To] = fmt.Sprint(v.Topic, v.Partition, "/", v.Extent+1)
	}
	require.Len(t, p.Topics, len(used))
	for _, pt := range p.Topics {
		require.Equal(t, existing[pt.Cluster] > 0, pt.Exists)
		require.Equal(t, existing[pt.Cluster]+used[pt.Cluster], pt.Partitions)
	}
	b, err := json.Marshal(p)
	require.NoError(t, err)
	var back planner.MovePlan
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, p, back)
}

func (w *randomWorld) targets(limit []federation.ClusterName) (fit []federation.ClusterName) {
	for _, n := range w.clusterNames() {
		c := w.m.Clusters[n]
		if c.State == federation.ClusterActive && c.Weight > 0 && !w.away[n] && (len(limit) == 0 || slices.Contains(limit, n)) {
			fit = append(fit, n)
		}
	}
	return fit
}

func (w *randomWorld) headsAfter(topic *federation.Topic, p planner.MovePlan) map[federation.ClusterName]int64 {
	count := make(map[federation.ClusterName]int64)
	for _, x := range topic.Partitions {
		count[x.Head().Cluster]++
	}
	for _, v := range p.Moves {
		count[v.From.Cluster]--
		count[v.To.Cluster]++
	}
	return count
}

func (w *randomWorld) reachable(h *federation.Extent) bool {
	return w.m.Clusters[h.Cluster].State != federation.ClusterFailed && !w.away[h.Cluster] && h.State != federation.ExtentSuspended
}

func (w *randomWorld) weight(n federation.ClusterName) int64 { return int64(w.m.Clusters[n].Weight) }

func extents(m *federation.Map) (n int) {
	for _, topic := range m.Topics {
		for _, p := range topic.Partitions {
			n += len(p.Extents)
		}
	}
	return n
}

func snapshot(t *testing.T, m *federation.Map) string {
	t.Helper()
	b, err := json.Marshal(m)
	require.NoError(t, err)
	return string(b)
}

// Retention may empty what lies behind a suspended extent: it stays until the
// suspended one is known, or the log would have a hole.
func TestOnlySealedExtentsExpire(t *testing.T) {
	m := bigMap(2, 2, 5, 1)
	p := m.Topics["t0"].Partitions[1]
	p.Extents[2].State, p.Extents[2].End = federation.ExtentSuspended, 0
	require.NoError(t, m.Validate())
	tp := federation.TopicPartition{Topic: "t0", Partition: 1}
	next, gone := planner.WithoutExtents(m, map[federation.TopicPartition]int32{tp: 9})
	require.Equal(t, 2, gone)
	require.NoError(t, next.Validate())
	left := next.Topics["t0"].Partitions[1]
	require.Equal(t, p.Extents[2:], left.Extents)
	require.EqualValues(t, 20, left.Extents[0].Base)
	require.Equal(t, p.Epoch, left.Epoch)
	require.Same(t, m.Topics["t0"].Partitions[0], next.Topics["t0"].Partitions[0])
	require.Len(t, p.Extents, 5)
}

func TestMovedHeadsArePersisted(t *testing.T) {
	h := planner.MovedHead{
		Move: planner.Move{
			TopicPartition: federation.TopicPartition{Topic: "t", Partition: 3}, Extent: 4,
			From: federation.PhysicalAddress{Cluster: "a", Topic: "x", Partition: 5},
			To:   federation.PhysicalAddress{Cluster: "b", Topic: "x", Partition: 6},
		},
		End: 7, Start: 8, Opening: 9, Epoch: 10,
	}
	b, err := json.Marshal(h)
	require.NoError(t, err)
	var back planner.MovedHead
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, h, back)
	require.Equal(t, "t-3: extent 4 from a/x-5 to b/x-6", h.String())
}

// A physical partition serves one extent, whoever plans otherwise.
func TestAUsedPhysicalPartitionIsRefused(t *testing.T) {
	m := bigMap(2, 2, 1, 1)
	a, b := m.Topics["t0"].Partitions[0].Head(), m.Topics["t0"].Partitions[1].Head()
	moves := []planner.Move{{TopicPartition: federation.TopicPartition{Topic: "t0"}, From: a.PhysicalAddress, To: b.PhysicalAddress}}
	m, err := planner.WithSealing(m, moves)
	require.NoError(t, err)
	_, err = planner.WithMoved(m, []planner.MovedHead{{Move: moves[0], End: 1, Start: 1}})
	require.ErrorContains(t, err, "is used by")
}

// bigMap has topics of so many partitions, each a chain of so many extents, over
// the first clusters; the others are new.
func bigMap(clusters, partitions, chain, topics int) *federation.Map {
	m := &federation.Map{LogicalCluster: "default", Clusters: map[federation.ClusterName]*federation.Cluster{}, Topics: map[federation.TopicName]*federation.Topic{}}
	var names []federation.ClusterName
	for i := range clusters {
		names = append(names, federation.ClusterName(fmt.Sprintf("cluster-%02d", i)))
		m.Clusters[names[i]] = &federation.Cluster{Name: names[i], Weight: 100, State: federation.ClusterActive}
	}
	for i := range topics {
		t := &federation.Topic{Name: federation.TopicName(fmt.Sprint("t", i)), ID: federation.NewTopicID(), Generation: 1}
		next := make(map[federation.ClusterName]federation.PhysicalPartition)
		physical := planner.PhysicalName(m.LogicalCluster, t.Name, 1)
		for n := range partitions {
			p := &federation.Partition{Topic: t.Name, Number: federation.LogicalPartition(n), Epoch: federation.LogicalEpoch(chain)}
			for k := range chain {
				on := names[(n+k)%len(names)]
				e := &federation.Extent{
					Number: int32(k), PhysicalAddress: federation.PhysicalAddress{Cluster: on, Topic: physical, Partition: next[on]},
					Base: federation.LogicalOffset(k * 10), Start: 1, End: 11, State: federation.ExtentSealed,
					Epochs: []federation.EpochEntry{{Logical: federation.LogicalEpoch(k)}},
				}
				if k == chain-1 {
					e.State, e.End = federation.ExtentOpen, 0
				}
				next[on]++
				p.Extents = append(p.Extents, e)
			}
			t.Partitions = append(t.Partitions, p)
		}
		m.Topics[t.Name] = t
	}
	return m.Seal()
}

// 6,000 heads lie on 30 clusters, and 30 clusters join: half of them move.
func BenchmarkExpand(b *testing.B) {
	m := bigMap(30, 6000, 1, 1)
	for i := range 30 {
		m = planner.WithCluster(m, &federation.Cluster{Name: federation.ClusterName(fmt.Sprint("new-", i)), Weight: 100, State: federation.ClusterActive})
	}
	for b.Loop() {
		plan, err := planner.Expand(m, "t0", nil, nil, nil, nil)
		if err != nil || len(plan.Moves) != 3000 {
			b.Fatal(err, len(plan.Moves))
		}
	}
}

// One of 60 clusters is emptied, of 5,000 topics that have a head there.
func BenchmarkDrain(b *testing.B) {
	m := bigMap(60, 60, 1, 5000)
	for b.Loop() {
		plans, err := planner.Drain(m, "cluster-07", nil, nil, nil)
		if err != nil || len(plans) != 5000 {
			b.Fatal(err, len(plans))
		}
	}
}

// A map of 50,000 extents, in which 1,000 heads move.
func BenchmarkWithMoved(b *testing.B) {
	m := bigMap(60, 5000, 10, 1)
	var moves []planner.Move
	for _, p := range m.Topics["t0"].Partitions[:1000] {
		h := p.Head()
		moves = append(moves, planner.Move{
			TopicPartition: federation.TopicPartition{Topic: p.Topic, Partition: p.Number}, Extent: h.Number, From: h.PhysicalAddress,
			To: federation.PhysicalAddress{Cluster: "cluster-00", Topic: h.Topic, Partition: 10000 + federation.PhysicalPartition(p.Number)},
		})
	}
	sealing, err := planner.WithSealing(m, moves)
	if err != nil {
		b.Fatal(err)
	}
	var heads []planner.MovedHead
	for _, v := range moves {
		heads = append(heads, planner.MovedHead{Move: v, End: 11, Start: 1})
	}
	b.Run("seal", func(b *testing.B) {
		for b.Loop() {
			if _, err := planner.WithSealing(m, moves); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("move", func(b *testing.B) {
		for b.Loop() {
			if _, err := planner.WithMoved(sealing, heads); err != nil {
				b.Fatal(err)
			}
		}
	})
}
