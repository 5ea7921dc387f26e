package journal_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	"github.com/braidmq/braid/internal/journal"
)

// compact keeps the last record of each key in some prefix of a log, as brokers do.
func compact(log []journal.Record, upTo int) []journal.Record {
	last := make(map[string]int)
	for i, r := range log[:upTo] {
		last[r.Key] = i
	}
	var out []journal.Record
	for i, r := range log {
		if i >= upTo || last[r.Key] == i {
			out = append(out, r)
		}
	}
	return out
}

func TestACompactedJournalHoldsTheSameMap(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 50 {
		clusters := map[federation.ClusterName]*federation.Cluster{"a": {Name: "a", Seeds: []string{"a:1"}, State: federation.ClusterActive, Weight: 100}}
		m := &federation.Map{LogicalCluster: "default"}
		var log []journal.Record
		for v := range 20 {
			next := &federation.Map{LogicalCluster: "default", ClusterID: "id", Version: m.Version + 1, Clusters: clusters, Topics: map[federation.TopicName]*federation.Topic{}}
			for name, topic := range m.Topics {
				if random.IntN(4) > 0 {
					next.Topics[name] = topic
				}
			}
			name := federation.TopicName(fmt.Sprintf("t%d", random.IntN(5)))
			next.Topics[name] = topicOf(name, 1+random.IntN(3), fmt.Sprintf("p%d", v))
			next.Seal()
			records, err := journal.Delta(wire.Diff(m, next), journal.Head{Version: next.Version, Fencing: int64(v), LogicalCluster: "default", ClusterID: "id"})
			require.NoError(t, err)
			log = compact(append(log, records...), random.IntN(len(log)+len(records)+1))
			var state journal.MapState
			for _, r := range log {
				state.Fold(r)
			}
			got, err := state.Map()
			require.NoError(t, err, "round %d, version %d", round, next.Version)
			d := wire.Diff(got, next)
			require.True(t, d.Empty(), "%v", d)
			require.Equal(t, int64(v), state.Fencing)
			// A version that was not written to its end is no map.
			for _, r := range records[:len(records)-1] {
				state.Fold(r)
			}
			_, err = state.Map()
			require.Error(t, err)
			m = next
		}
	}
}

func topicOf(name federation.TopicName, partitions int, physical string) *federation.Topic {
	topic := &federation.Topic{Name: name, ID: federation.NewTopicID(), ReplicationFactor: 1, Generation: 1}
	for i := range partitions {
		topic.Partitions = append(topic.Partitions, &federation.Partition{
			Topic: name, Number: federation.LogicalPartition(i),
			Extents: []*federation.Extent{{
				PhysicalAddress: federation.PhysicalAddress{Cluster: "a", Topic: physical, Partition: federation.PhysicalPartition(i)},
				State:           federation.ExtentOpen, Epochs: []federation.EpochEntry{{}},
			}},
		})
	}
	return topic
}

func TestOffsetsToRecordsAndBack(t *testing.T) {
	for _, want := range []journal.Offset{
		{OffsetKey: journal.OffsetKey{Group: "g", Topic: federation.NewTopicID()}, Offset: 7, Epoch: -1, CommittedMs: 12},
		{OffsetKey: journal.OffsetKey{Group: "a/b c", Topic: federation.NewTopicID(), Partition: 12}, Offset: 1 << 40, Epoch: 3, CommittedMs: 1, Metadata: "two words"},
	} {
		got, deleted, ok, err := journal.ParseOffset(want.Record())
		require.NoError(t, err)
		require.True(t, ok)
		require.False(t, deleted)
		require.Equal(t, want, got)
		got, deleted, ok, err = journal.ParseOffset(want.Deleted())
		require.NoError(t, err)
		require.True(t, ok)
		require.True(t, deleted)
		require.Equal(t, want.OffsetKey, got.OffsetKey)
	}
	_, _, ok, err := journal.ParseOffset(journal.Record{Key: "claim", Value: []byte("1")})
	require.NoError(t, err)
	require.False(t, ok)
	_, _, _, err = journal.ParseOffset(journal.Record{Key: "offset/x/0/g", Value: []byte("1")})
	require.Error(t, err)
}
