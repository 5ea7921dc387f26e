//go:build real

package differential_test

import (
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/test/differential"
	"github.com/braidmq/braid/test/realparts"
	"github.com/braidmq/braid/test/world"
)

// physicalNode is a node id that no gateway has.
const physicalNode = 7701

// A setup is braid before some physical clusters, and what it answered.
type setup struct {
	name   string
	world  *world.World
	behind []*realparts.Kafka
	side   *differential.Side
}

// newSetup starts braid and has it know the clusters.
func newSetup(t *testing.T, name string, behind ...*realparts.Kafka) *setup {
	t.Helper()
	w := world.Real(t, world.Options{Gateways: 1, Clusters: []string{}})
	for _, k := range behind {
		w.MustBraid(t, "", "cluster", "add", k.Name, "--seeds", k.Seed)
		w.Clusters = append(w.Clusters, world.Cluster{Name: k.Name, Seeds: []string{k.Seed}, ClusterID: k.ClusterID})
	}
	return &setup{name: name, world: w, behind: behind}
}

// TestRealBrokerAndBraidAnswerAlike runs the scripts on a broker, on braid in front of one,
// and on braid over two, between which partitions move before and in the middle of scripts.
func TestRealBrokerAndBraidAnswerAlike(t *testing.T) {
	clusters := realparts.StartKafkaAs(t, 320, physicalNode, "behind", "here", "there")
	plain := realparts.StartKafka(t, 320, "plain")[0]
	one, two := newSetup(t, "braid", clusters[0]), newSetup(t, "braid over two clusters", clusters[1:]...)
	served := servedVersions(t, one.world.Gateways[0].Kafka)

	var broker *differential.Side
	t.Run("scripts", func(t *testing.T) { // side by side: they wait most of the time
		t.Run("a broker", func(t *testing.T) {
			t.Parallel()
			broker = differential.NewSide(t, "a broker", plain.Seed, served)
			runScripts(broker)
		})
		for _, s := range []*setup{one, two} {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				s.side = differential.NewSide(t, s.name, s.world.Gateways[0].Kafka, served)
				if len(s.behind) > 1 {
					s.side.Move = mover(t, s)
				}
				runScripts(s.side)
			})
		}
	})
	require.False(t, t.Failed(), "a script has not come to its end")
	requireScattered(t, two)
	used := make([]int, len(differential.Intended()))
	for _, s := range []*setup{one, two} {
		c := compare(t, s, broker)
		for i, n := range c.Used {
			used[i] += n
		}
		requireAllAsked(t, served, s.side.Answers)
		requireNothingPhysical(t, s)
	}
	for i, d := range differential.Intended() {
		if used[i] == 0 {
			t.Errorf("nothing differs any more by %q (%s): take it off the list", d.What, d.Path)
		}
	}
}

func runScripts(s *differential.Side) {
	for _, script := range differential.Scripts() {
		s.Run(script.Name, script.Run)
	}
}

// mover moves all partitions of a topic to each of the clusters in turn.
func mover(t *testing.T, s *setup) func(topic string) {
	t.Helper()
	topics := adminv1connect.NewTopicServiceClient(s.world.Client, s.world.API())
	next := make(map[string]int)
	return func(topic string) {
		name := "logicalClusters/default/topics/" + topic
		have, err := topics.GetTopic(t.Context(), &adminv1.GetTopicRequest{Name: name})
		require.NoError(t, err)
		all := make([]int32, have.GetTopic().GetPartitionCount())
		for i := range all {
			all[i] = int32(i)
		}
		to := s.behind[next[topic]%len(s.behind)].Name
		next[topic]++
		_, err = topics.MovePartitions(t.Context(), &adminv1.MovePartitionsRequest{Name: name, Partitions: all, PhysicalCluster: to, RequestId: uuid.NewString()})
		require.NoError(t, err, "topic %s to %s", topic, to)
	}
}

// requireScattered requires that a partition has records on both clusters, in several extents.
func requireScattered(t *testing.T, s *setup) {
	t.Helper()
	topics := adminv1connect.NewTopicServiceClient(s.world.Client, s.world.API())
	all, err := topics.ListExtents(t.Context(), &adminv1.ListExtentsRequest{Parent: "logicalClusters/default/topics/read"})
	require.NoError(t, err)
	clusters, held := make(map[string]bool), 0
	for _, e := range all.GetPartitions()[0].GetExtents() {
		if e.GetState() == adminv1.Extent_STATE_SEALED && e.GetSealedEnd() > e.GetLogicalBase() {
			clusters[e.GetPhysicalCluster()], held = true, held+1
		}
	}
	require.Len(t, clusters, len(s.behind), "clusters with records of one partition")
	require.GreaterOrEqual(t, held, 3, "extents with records")
}

// compare compares the answers of braid and of a broker.
func compare(t *testing.T, s *setup, broker *differential.Side) *differential.Comparison {
	t.Helper()
	c := differential.NewComparison(differential.Intended(), len(s.behind) > 1)
	require.Len(t, s.side.Answers, len(broker.Answers))
	for i := range broker.Answers {
		c.Compare(broker.Answers[i], s.side.Answers[i])
	}
	t.Logf("%s: %d answers with %d fields compared: %d fields are names of either side, %d differ on purpose by %d reasons, %d differ without a reason",
		s.name, c.Answers, c.Fields, c.Opaque, c.Explained(), c.Reasons(), len(c.Bugs))
	if len(c.Bugs) > 0 {
		t.Errorf("%s answers otherwise than a broker:\n%s", s.name, strings.Join(c.Bugs, "\n"))
	}
	return c
}

// servedVersions asks a gateway for its versions; Produce's lowest are advertised only.
func servedVersions(t *testing.T, address string) map[int16][2]int16 {
	t.Helper()
	s := differential.NewSide(t, "braid", address, nil)
	var served map[int16][2]int16
	s.Run("served", func(s *differential.Side) {
		served = make(map[int16][2]int16)
		for _, k := range s.Versions().ApiKeys {
			served[k.ApiKey] = [2]int16{k.MinVersion, k.MaxVersion}
		}
	})
	produce := served[int16(kmsg.Produce)]
	served[int16(kmsg.Produce)] = [2]int16{3, produce[1]}
	return served
}

// requireAllAsked requires that the scripts ask each API in each version that is served.
func requireAllAsked(t *testing.T, served map[int16][2]int16, answers []differential.Answer) {
	t.Helper()
	asked := make(map[[2]int16]bool)
	for _, a := range answers {
		asked[[2]int16{a.Key, a.Version}] = true
	}
	for key, v := range served {
		for version := v[0]; version <= v[1]; version++ {
			if !asked[[2]int16{key, version}] {
				t.Errorf("no script asks %s v%d", kmsg.NameForKey(key), version)
			}
		}
	}
}

// requireNothingPhysical looks for the clusters behind braid in all of its answers.
func requireNothingPhysical(t *testing.T, s *setup) {
	t.Helper()
	seen := 0
	for _, k := range s.behind {
		_, port, err := net.SplitHostPort(k.Seed)
		require.NoError(t, err)
		number, err := strconv.ParseInt(port, 10, 32)
		require.NoError(t, err)
		p := differential.Physical{NodeID: physicalNode, Port: int32(number), ClusterID: k.ClusterID}
		metadata, err := kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), s.world.Physical(t, k.Name))
		require.NoError(t, err)
		for _, topic := range metadata.Topics {
			p.TopicIDs = append(p.TopicIDs, topic.TopicID)
			p.Texts = append(p.Texts, *topic.Topic)
		}
		require.Greater(t, len(p.TopicIDs), 5)
		for _, a := range s.side.Answers {
			leaks, n := p.Leaks(a)
			for _, leak := range leaks {
				t.Error(leak)
			}
			seen += n
		}
	}
	t.Logf("%s: nothing of %d physical clusters in %d fields of %d answers", s.name, len(s.behind), seen, len(s.side.Answers))
}
