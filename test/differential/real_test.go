//go:build real

package differential_test

import (
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/test/differential"
	"github.com/braidmq/braid/test/realparts"
	"github.com/braidmq/braid/test/world"
)

// physicalNode is a node id that no gateway has.
const physicalNode = 7701

// TestRealBrokerAndBraidAnswerAlike runs the scripts on a broker and on braid in front of one.
func TestRealBrokerAndBraidAnswerAlike(t *testing.T) {
	w := world.Real(t, world.Options{Gateways: 1, Clusters: []string{}})
	behind := realparts.StartKafkaAs(t, 320, physicalNode, "behind")[0]
	w.MustBraid(t, "", "cluster", "add", "behind", "--seeds", behind.Seed)
	w.Clusters = append(w.Clusters, world.Cluster{Name: "behind", Seeds: []string{behind.Seed}, ClusterID: behind.ClusterID})
	plain := realparts.StartKafka(t, 320, "plain")[0]

	served := servedVersions(t, w.Gateways[0].Kafka)
	broker := differential.NewSide(t, "a broker", plain.Seed, served)
	braid := differential.NewSide(t, "braid", w.Gateways[0].Kafka, served)
	for _, s := range differential.Scripts() {
		broker.Run(s.Name, s.Run)
		braid.Run(s.Name, s.Run)
	}

	c := differential.NewComparison(differential.Intended())
	require.Len(t, braid.Answers, len(broker.Answers))
	asked := make(map[int16]map[int16]bool)
	for i := range broker.Answers {
		c.Compare(broker.Answers[i], braid.Answers[i])
		a := braid.Answers[i]
		if asked[a.Key] == nil {
			asked[a.Key] = make(map[int16]bool)
		}
		asked[a.Key][a.Version] = true
	}
	t.Logf("%d answers with %d fields compared: %d fields are names of either side, %d differ on purpose by %d reasons, %d differ without a reason",
		c.Answers, c.Fields, c.Opaque, c.Explained(), len(c.Used), len(c.Bugs))
	if len(c.Bugs) > 0 {
		t.Errorf("braid answers otherwise than a broker:\n%s", strings.Join(c.Bugs, "\n"))
	}
	for i, d := range differential.Intended() {
		if c.Used[i] == 0 {
			t.Errorf("nothing differs any more by %q (%s): take it off the list", d.What, d.Path)
		}
	}
	requireAllAsked(t, served, asked)
	requireNothingPhysical(t, w, behind, braid.Answers)
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
func requireAllAsked(t *testing.T, served map[int16][2]int16, asked map[int16]map[int16]bool) {
	t.Helper()
	for key, v := range served {
		for version := v[0]; version <= v[1]; version++ {
			if !asked[key][version] {
				t.Errorf("no script asks %s v%d", kmsg.NameForKey(key), version)
			}
		}
	}
}

// requireNothingPhysical looks for the cluster behind braid in all of its answers.
func requireNothingPhysical(t *testing.T, w *world.World, behind *realparts.Kafka, answers []differential.Answer) {
	t.Helper()
	_, port, err := net.SplitHostPort(behind.Seed)
	require.NoError(t, err)
	number, err := strconv.ParseInt(port, 10, 32)
	require.NoError(t, err)
	p := differential.Physical{NodeID: physicalNode, Port: int32(number), ClusterID: behind.ClusterID}
	metadata, err := kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), w.Physical(t, "behind"))
	require.NoError(t, err)
	for _, topic := range metadata.Topics {
		p.TopicIDs = append(p.TopicIDs, topic.TopicID)
		p.Texts = append(p.Texts, *topic.Topic)
	}
	require.Greater(t, len(p.TopicIDs), 5)
	seen := 0
	for _, a := range answers {
		leaks, n := p.Leaks(a)
		for _, leak := range leaks {
			t.Error(leak)
		}
		seen += n
	}
	t.Logf("nothing of the physical cluster in %d fields of %d answers", seen, len(answers))
}
