package planner_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
)

// make remembers that physical topics have partitions.
func (w *world) make(topics []planner.PhysicalTopic) {
	for _, t := range topics {
		if w.physical[t.Cluster] == nil {
			w.physical[t.Cluster] = map[string]int32{}
		}
		w.physical[t.Cluster][t.Name] = max(w.physical[t.Cluster][t.Name], t.Partitions)
	}
}

func (w *world) existing(t *federation.Topic) map[federation.ClusterName]int32 {
	out := make(map[federation.ClusterName]int32)
	if t == nil {
		return out
	}
	name := planner.PhysicalName(w.m.LogicalCluster, t.Name, t.Generation)
	for cluster, topics := range w.physical {
		if n := topics[name]; n > 0 {
			out[cluster] = n
		}
	}
	return out
}

// moves returns the moves of the last plans.
func (w *world) moves() []planner.Move {
	var out []planner.Move
	for _, p := range w.plans {
		out = append(out, p.Moves...)
	}
	return out
}

func (w *world) runMoves(t *testing.T, d *datadriven.TestData) (string, error) {
	t.Helper()
	old := w.m
	switch d.Cmd {
	case "expand", "move", "drain":
		return w.planMoves(t, d)
	case "adopt": // a topic of a physical cluster, with its name and offsets
		var cluster, name string
		var start int64
		d.ScanArgs(t, "cluster", &cluster)
		d.ScanArgs(t, "name", &name)
		d.ScanArgs(t, "start", &start)
		topic := federation.TopicName(d.CmdArgs[0].Key)
		w.m = planner.WithTopic(w.m, &federation.Topic{Name: topic, ID: federation.NewTopicID(), Generation: 1, Partitions: []*federation.Partition{{
			Topic: topic, Extents: []*federation.Extent{{
				PhysicalAddress: federation.PhysicalAddress{Cluster: federation.ClusterName(cluster), Topic: name},
				Base:            federation.LogicalOffset(start), Start: federation.PhysicalOffset(start),
				State: federation.ExtentOpen, Epochs: []federation.EpochEntry{{}},
			}},
		}}})
		return "", nil
	case "load": // bytes/s of the partitions, in their order
		w.load = planner.Load{}
		for i, v := range names(d, "bytes") {
			n, err := strconv.ParseInt(string(v), 10, 64)
			require.NoError(t, err)
			w.load[federation.TopicPartition{Topic: federation.TopicName(d.CmdArgs[0].Key), Partition: federation.LogicalPartition(i)}] = n
		}
		return "", nil
	case "loads":
		return w.loads(), nil
	case "suspend":
		topic, p := w.partition(t, d)
		w.m = withHead(w.m, federation.TopicPartition{Topic: topic, Partition: p}, federation.ExtentSuspended)
		return "", nil
	case "physical": // partitions that something else made
		var cluster, topic string
		var n int32
		d.ScanArgs(t, "cluster", &cluster)
		d.ScanArgs(t, "topic", &topic)
		d.ScanArgs(t, "partitions", &n)
		w.make([]planner.PhysicalTopic{{Cluster: federation.ClusterName(cluster), Name: topic, Partitions: n}})
		return "", nil
	case "seal":
		for _, p := range w.plans {
			w.make(p.Topics) // also if it comes to nothing
		}
		next, err := planner.WithSealing(w.m, w.moves())
		if err != nil {
			return "", err
		}
		w.m = next
	case "unseal":
		w.m = planner.WithoutSealing(w.m, w.moves())
	case "moved":
		heads := w.movedHeads(t, d)
		next, err := planner.WithMoved(w.m, heads)
		if err != nil {
			return "", err
		}
		w.m, w.moved = next, heads
	case "expire":
		topic, p := w.partition(t, d)
		var below int32
		d.ScanArgs(t, "below", &below)
		next, n := planner.WithoutExtents(w.m, map[federation.TopicPartition]int32{{Topic: topic, Partition: p}: below, {Topic: "gone"}: 1})
		require.Equal(t, n == 0, next == w.m)
		w.m = next
		return fmt.Sprintf("%d gone\n", n) + w.changes(old), nil
	case "allow":
		next, err := planner.WithTopicClusters(w.m, federation.TopicName(d.CmdArgs[0].Key), names(d, "clusters"))
		if err != nil {
			return "", err
		}
		w.m = next
		return fmt.Sprintf("changed %t, limit %v\n", old != next, next.Topics[federation.TopicName(d.CmdArgs[0].Key)].Clusters), nil
	case "state":
		state := map[string]federation.ClusterState{"active": federation.ClusterActive, "draining": federation.ClusterDraining, "failed": federation.ClusterFailed}[d.CmdArgs[1].Key]
		next, err := planner.WithClusterState(w.m, federation.ClusterName(d.CmdArgs[0].Key), state)
		if err != nil {
			return "", err
		}
		w.m = next
		return fmt.Sprintf("changed %t\n", old != next), nil
	case "heads":
		return w.heads(federation.TopicName(d.CmdArgs[0].Key)), nil
	default:
		return "", fmt.Errorf("unknown command %q", d.Cmd)
	}
	return w.changes(old), nil
}

func (w *world) planMoves(t *testing.T, d *datadriven.TestData) (string, error) {
	t.Helper()
	name := d.CmdArgs[0].Key
	topic := federation.TopicName(name)
	var plan planner.MovePlan
	plans, err := []planner.MovePlan(nil), error(nil)
	switch d.Cmd {
	case "expand":
		plan, err = planner.Expand(w.m, topic, names(d, "clusters"), w.existing(w.m.Topic(topic)), w.away, w.load)
	case "move":
		var to string
		d.ScanArgs(t, "to", &to)
		var partitions []federation.LogicalPartition
		for _, v := range names(d, "partitions") {
			n, err := strconv.Atoi(string(v))
			require.NoError(t, err)
			partitions = append(partitions, federation.LogicalPartition(n))
		}
		plan, err = planner.MoveTo(w.m, topic, partitions, federation.ClusterName(to), w.existing(w.m.Topic(topic)), w.away)
	case "drain":
		plans, err = planner.Drain(w.m, federation.ClusterName(name), w.existing, w.away, w.load)
	}
	if err != nil {
		return "", err
	}
	if d.Cmd != "drain" {
		plans = []planner.MovePlan{plan}
	}
	w.plans = plans
	var b strings.Builder
	for _, p := range w.plans {
		require.Equal(t, w.m.Topics[p.Topic].ID, p.TopicID)
		require.Equal(t, w.m.Topics[p.Topic].Generation, p.Generation)
		showTopics(&b, p.Topics)
		for _, v := range p.Moves {
			fmt.Fprintf(&b, "%s: extent %d from %s-%d to %s-%d\n", v.TopicPartition, v.Extent, v.From.Cluster, v.From.Partition, v.To.Cluster, v.To.Partition)
		}
	}
	if b.Len() == 0 {
		return "nothing to move\n", nil
	}
	return b.String(), nil
}

// movedHeads ends the moves of the last plans; `again` takes the last ones that worked.
func (w *world) movedHeads(t *testing.T, d *datadriven.TestData) []planner.MovedHead {
	t.Helper()
	if d.HasArg("again") {
		return w.moved
	}
	var end, start, opening int64
	var epoch int32
	d.ScanArgs(t, "end", &end)
	d.ScanArgs(t, "start", &start)
	d.MaybeScanArgs(t, "opening", &opening)
	d.MaybeScanArgs(t, "epoch", &epoch)
	var heads []planner.MovedHead
	for _, v := range w.moves() {
		heads = append(heads, planner.MovedHead{
			Move: v, End: federation.PhysicalOffset(end), Start: federation.PhysicalOffset(start),
			Opening: federation.PhysicalOffset(opening), Epoch: federation.PhysicalEpoch(epoch),
		})
	}
	return heads
}

func (w *world) partition(t *testing.T, d *datadriven.TestData) (federation.TopicName, federation.LogicalPartition) {
	t.Helper()
	var p int32
	d.MaybeScanArgs(t, "partition", &p)
	return federation.TopicName(d.CmdArgs[0].Key), federation.LogicalPartition(p)
}

// changes shows the chains that are others than before.
func (w *world) changes(old *federation.Map) string {
	if old == w.m {
		return "the same map\n"
	}
	var b strings.Builder
	for _, name := range w.m.TopicNames() {
		for i, p := range w.m.Topics[name].Partitions {
			if before := old.Topics[name].Partitions[i]; before == p {
				continue
			}
			fmt.Fprintf(&b, "%s-%d: epoch %d\n", name, i, p.Epoch)
			for _, e := range p.Extents {
				fmt.Fprintf(&b, "  %d %s %s-%d: base %d, start %d", e.Number, e.State, e.Cluster, e.Partition, e.Base, e.Start)
				if e.Opening > 0 {
					fmt.Fprintf(&b, ", opening %d", e.Opening)
				}
				if e.Sealed() {
					fmt.Fprintf(&b, ", end %d", e.End)
				}
				fmt.Fprintf(&b, ", epochs %v\n", e.Epochs)
			}
		}
	}
	return b.String()
}

// heads counts the heads of a topic.
func (w *world) heads(topic federation.TopicName) string {
	count := make(map[federation.ClusterName]int)
	for _, p := range w.m.Topics[topic].Partitions {
		count[p.Head().Cluster]++
	}
	return fmt.Sprintln(count)
}

// loads sums up the load of each cluster.
func (w *world) loads() string {
	sum := make(map[federation.ClusterName]int64)
	for _, topic := range w.m.Topics {
		for _, p := range topic.Partitions {
			sum[p.Head().Cluster] += w.load[federation.TopicPartition{Topic: topic.Name, Partition: p.Number}]
		}
	}
	return fmt.Sprintln(sum)
}

func names(d *datadriven.TestData, key string) (out []federation.ClusterName) {
	for _, a := range d.CmdArgs {
		if a.Key == key {
			for _, v := range a.Vals {
				out = append(out, federation.ClusterName(v))
			}
		}
	}
	return out
}

// withHead returns the map with another state of a head.
func withHead(m *federation.Map, tp federation.TopicPartition, state federation.ExtentState) *federation.Map {
	topic := *m.Topics[tp.Topic]
	topic.Partitions = slices.Clone(topic.Partitions)
	p := *topic.Partitions[tp.Partition]
	head := *p.Head()
	head.State = state
	p.Extents = append(slices.Clone(p.Extents[:len(p.Extents)-1]), &head)
	topic.Partitions[tp.Partition] = &p
	return planner.WithTopic(m, &topic)
}
