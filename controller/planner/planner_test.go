package planner_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
)

// TestScripts runs the scripts in testdata: each command changes one map and
// prints what was decided. Rewrite them with -rewrite, and review the difference.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		t.Helper()
		w := &world{
			away:     map[federation.ClusterName]bool{},
			physical: map[federation.ClusterName]map[string]int32{},
			m: (&federation.Map{
				LogicalCluster: "default",
				Clusters:       map[federation.ClusterName]*federation.Cluster{},
				Topics:         map[federation.TopicName]*federation.Topic{},
			}).Seal(),
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			before := *w.m
			out, err := w.run(t, d)
			if err != nil {
				require.Equal(t, before.FleetGeneration, w.m.FleetGeneration)
				return fmt.Sprintf("error: %s\n", err)
			}
			require.NoError(t, w.m.Validate())
			return out
		})
	})
}

type world struct {
	m    *federation.Map
	away map[federation.ClusterName]bool
	load planner.Load
	// physical is how many partitions the physical topics have.
	physical map[federation.ClusterName]map[string]int32
	plans    []planner.MovePlan // the last ones made
	moved    []planner.MovedHead
}

func (w *world) run(t *testing.T, d *datadriven.TestData) (string, error) {
	t.Helper()
	switch d.Cmd {
	case "cluster":
		c := &federation.Cluster{Weight: 100, State: federation.ClusterActive}
		var name string
		d.ScanArgs(t, "name", &name)
		c.Name = federation.ClusterName(name)
		d.MaybeScanArgs(t, "weight", &c.Weight)
		switch {
		case d.HasArg("draining"):
			c.State = federation.ClusterDraining
		case d.HasArg("failed"):
			c.State = federation.ClusterFailed
		}
		if err := planner.CheckClusterName(c.Name); err != nil {
			return "", err
		}
		w.away[c.Name] = d.HasArg("away")
		w.m = planner.WithCluster(w.m, c)
		return "", nil
	case "remove-cluster":
		next, err := planner.WithoutCluster(w.m, federation.ClusterName(d.CmdArgs[0].Key))
		if err != nil {
			return "", err
		}
		w.m = next
		return "", nil
	case "create":
		return w.create(t, d)
	case "grow":
		var total int32
		d.ScanArgs(t, "total", &total)
		topic := w.m.Topic(federation.TopicName(d.CmdArgs[0].Key))
		plan, err := planner.Grow(w.m, topic, total, w.existing(topic), w.away)
		if err != nil {
			return "", err
		}
		next := *topic
		next.Partitions = append(slices.Clone(topic.Partitions), plan.Partitions(topic.Name, make([]federation.PhysicalEpoch, len(plan.Heads)))...)
		w.m = planner.WithTopic(w.m, &next)
		w.make(plan.Topics)
		return show(plan), nil
	case "delete":
		w.m = planner.WithoutTopic(w.m, federation.TopicName(d.CmdArgs[0].Key))
		return "", nil
	case "gateway":
		return w.gateway(t, d)
	case "remove-gateways":
		var ids []federation.GatewayID
		for _, a := range d.CmdArgs {
			ids = append(ids, federation.GatewayID(a.Key))
		}
		w.m = planner.WithoutGateways(w.m, ids...)
		return fmt.Sprintf("generation %d\n", w.m.FleetGeneration), nil
	case "seen":
		return w.seen(t, d)
	}
	return w.runMoves(t, d)
}

func (w *world) create(t *testing.T, d *datadriven.TestData) (string, error) {
	t.Helper()
	s := planner.Spec{Name: federation.TopicName(d.CmdArgs[0].Key), Partitions: 1, Generation: 1, Weights: map[federation.ClusterName]int32{}}
	d.MaybeScanArgs(t, "partitions", &s.Partitions)
	d.MaybeScanArgs(t, "generation", &s.Generation)
	for _, a := range d.CmdArgs[1:] {
		for _, v := range a.Vals {
			switch a.Key {
			case "clusters":
				s.Clusters = append(s.Clusters, federation.ClusterName(v))
			case "weights":
				name, n, _ := strings.Cut(v, ":")
				var weight int32
				_, err := fmt.Sscan(n, &weight)
				require.NoError(t, err)
				s.Weights[federation.ClusterName(name)] = weight
			}
		}
	}
	if err := planner.CheckNewTopic(w.m, s.Name); err != nil {
		return "", err
	}
	plan, err := planner.Create(w.m, s, w.away)
	if err != nil {
		return "", err
	}
	topic := &federation.Topic{Name: s.Name, ID: federation.NewTopicID(), Generation: s.Generation, Clusters: s.Clusters}
	topic.Partitions = plan.Partitions(s.Name, make([]federation.PhysicalEpoch, len(plan.Heads)))
	w.m = planner.WithTopic(w.m, topic)
	w.make(plan.Topics)
	return show(plan), nil
}

func (w *world) gateway(t *testing.T, d *datadriven.TestData) (string, error) {
	t.Helper()
	g := &federation.Gateway{ID: federation.GatewayID(d.CmdArgs[0].Key), State: federation.GatewayReady}
	var node int32
	d.ScanArgs(t, "node", &node)
	g.NodeID = federation.NodeID(node)
	d.MaybeScanArgs(t, "zone", &g.Zone)
	d.MaybeScanArgs(t, "address", &g.KafkaAddress)
	if d.HasArg("draining") {
		g.State = federation.GatewayDraining
	}
	next := planner.WithGateway(w.m, g)
	same := next == w.m
	w.m = next
	return fmt.Sprintf("generation %d, changed %t\n", w.m.FleetGeneration, !same), nil
}

func (w *world) seen(t *testing.T, d *datadriven.TestData) (string, error) {
	t.Helper()
	s := planner.LeaderSeen{}
	var partition, epoch int32
	var cluster string
	d.ScanArgs(t, "cluster", &cluster)
	d.ScanArgs(t, "topic", &s.Topic)
	d.ScanArgs(t, "partition", &partition)
	d.ScanArgs(t, "epoch", &epoch)
	s.Cluster, s.Partition, s.Epoch = federation.ClusterName(cluster), federation.PhysicalPartition(partition), federation.PhysicalEpoch(epoch)
	older := s
	older.Epoch--
	old := w.m
	next, n := planner.RaiseEpochs(w.m, []planner.LeaderSeen{older, s, older})
	w.m = next
	require.Equal(t, n == 0, old == next)
	var b strings.Builder
	fmt.Fprintf(&b, "raised %d\n", n)
	for _, name := range next.TopicNames() {
		for i, p := range next.Topics[name].Partitions {
			if before := old.Topics[name].Partitions[i]; before != p {
				require.NotSame(t, before.Head(), p.Head(), "the old map stays as it was")
				fmt.Fprintf(&b, "%s-%d: epoch %d, table %v\n", name, i, p.Epoch, p.Head().Epochs)
			}
		}
	}
	return b.String(), nil
}

func show(p planner.Plan) string {
	var b strings.Builder
	showTopics(&b, p.Topics)
	for i, h := range p.Heads {
		fmt.Fprintf(&b, "%d: %s-%d\n", int(p.First)+i, h.Cluster, h.Partition)
	}
	return b.String()
}

func showTopics(b *strings.Builder, topics []planner.PhysicalTopic) {
	for _, t := range topics {
		verb := "create"
		if t.Exists {
			verb = "extend"
		}
		fmt.Fprintf(b, "%s %s/%s with %d partitions\n", verb, t.Cluster, t.Name, t.Partitions)
	}
}

func TestTopicNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"orders": true, "Orders_1-x.y": true, "...": true, strings.Repeat("a", 249): true,
		"": false, ".": false, "..": false, "a b": false, "ä": false, "a/b": false, "a\x00": false, strings.Repeat("a", 250): false,
	} {
		err := planner.CheckTopicName(federation.TopicName(name))
		require.Equal(t, ok, err == nil, "%q: %v", name, err)
		if err != nil {
			require.Equal(t, federation.InvalidTopicName, federation.KindOf(err))
		}
	}
	for name, ok := range map[string]bool{"default": true, "team-7": true, "": false, "a.b": false, "A": false, "a_b": false} {
		require.Equal(t, ok, planner.CheckLogicalCluster(name) == nil, "%q", name)
	}
}

func TestPhysicalNamesFitAndDiffer(t *testing.T) {
	require.Equal(t, "default.orders.7", planner.PhysicalName("default", "orders", 7))
	long := strings.Repeat("a", 249)
	seen := map[string]bool{}
	for _, topic := range []string{long, long[:248] + "b", long[:240]} {
		for generation := range int32(3) {
			name := planner.PhysicalName("default", federation.TopicName(topic), generation)
			require.NoError(t, planner.CheckTopicName(federation.TopicName(name)))
			require.False(t, seen[name], name)
			seen[name] = true
		}
	}
}
