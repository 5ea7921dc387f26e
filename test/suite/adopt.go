package suite

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func (s *suite) adopt() []test {
	return []test{
		{"a topic with its offsets and groups", s.testAdopt},
		{"what transactions have written", s.testAdoptTransactions},
		{"what cannot be adopted", s.testAdoptRefused},
		{"producers that were not switched over", s.testDirectWriters},
	}
}

// physicalTopic makes a topic of a physical cluster, as it was there before braid.
func (s *suite) physicalTopic(t *testing.T, cluster string, partitions int32, configs map[string]*string) (string, *kgo.Client) {
	t.Helper()
	topic := name(t)
	direct := s.w.Physical(t, cluster)
	_, err := kadm.NewClient(direct).CreateTopic(call(t), partitions, -1, configs, topic)
	require.NoError(t, err)
	return topic, direct
}

// values makes n records with keys, from the i-th on.
func values(topic string, i, n int) []*kgo.Record {
	records := make([]*kgo.Record, n)
	for j := range records {
		records[j] = &kgo.Record{Topic: topic, Key: fmt.Append(nil, "k", (i+j)%17), Value: fmt.Append(nil, i+j)}
	}
	return records
}

// An application leaves its cluster: its topic becomes a logical one, its group goes
// on where it was, its producers write to the topic by braid, and the topic moves off
// the old cluster.
func (s *suite) testAdopt(t *testing.T) {
	old, next := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	retention := "7200000"
	topic, direct := s.physicalTopic(t, old, 3, map[string]*string{"retention.ms": &retention})
	group := topic + "-group"
	send(t, direct, values(topic, 0, 100)...)
	admin := kadm.NewClient(direct)
	commit := func(admin *kadm.Client, at int64) {
		t.Helper()
		var offsets kadm.Offsets
		for p := range int32(3) {
			offsets.Add(kadm.Offset{Topic: topic, Partition: p, At: at, LeaderEpoch: -1, Metadata: "before braid"})
		}
		require.NoError(t, admin.CommitAllOffsets(call(t), group, offsets))
	}
	committed := func() map[int32]kadm.Offset {
		t.Helper()
		got, err := s.admin(t).FetchOffsets(call(t), group)
		require.NoError(t, err)
		out := make(map[int32]kadm.Offset)
		got.Each(func(o kadm.OffsetResponse) { out[o.Partition] = o.Offset })
		return out
	}
	commit(admin, 5)

	require.Contains(t, s.w.MustBraid(t, "", "topic", "adopt", topic, "--cluster", old, "--groups", "--validate-only"), group)
	s.w.MustBraid(t, "", "topic", "adopt", topic, "--cluster", old, "--groups")
	require.Contains(t, s.w.MustBraid(t, "", "topic", "config", topic), retention, "its settings come along")
	for p := range int32(3) {
		require.EqualValues(t, 5, committed()[p].At)
		require.Equal(t, "before braid", committed()[p].Metadata)
		require.EqualValues(t, -1, committed()[p].LeaderEpoch, "the cluster's epochs mean nothing here")
	}

	// The last consumer stops later, and what it committed is imported; back never.
	commit(admin, 7)
	s.w.MustBraid(t, "", "topic", "adopt", topic, "--cluster", old, "--groups")
	require.EqualValues(t, 7, committed()[0].At)
	commit(admin, 6)
	s.w.MustBraid(t, "", "topic", "adopt", topic, "--cluster", old, "--groups")
	require.EqualValues(t, 7, committed()[0].At, "an offset never goes back")

	// The same records at the same offsets, by braid.
	byBraid := make(map[string]string)
	for _, r := range s.read(t, topic, 100) {
		byBraid[fmt.Sprint(r.Partition, "/", r.Offset)] = string(r.Value)
	}
	reader, err := kgo.NewClient(append(direct.Opts(), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	require.NoError(t, err)
	defer reader.Close()
	for _, r := range poll(t, reader, 100) {
		require.Equal(t, string(r.Value), byBraid[fmt.Sprint(r.Partition, "/", r.Offset)])
	}

	// The producers are switched over, and the topic leaves the old cluster.
	client := s.client(t)
	send(t, client, values(topic, 100, 100)...)
	s.w.MustBraid(t, "", "topic", "move", topic, "--partitions", "0,1,2", "--to", next)
	send(t, client, values(topic, 200, 100)...)
	last := make(map[string]int)
	for _, r := range s.read(t, topic, 300) {
		var n int
		require.NoError(t, json.Unmarshal(r.Value, &n))
		if before, ok := last[string(r.Key)]; ok {
			require.Greater(t, n, before, "the order of key %s", r.Key)
		}
		last[string(r.Key)] = n
	}
	for _, p := range s.describe(t, topic).Partitions {
		require.Len(t, p.Extents, 2)
		require.Equal(t, old, p.Extents[0].PhysicalCluster)
		require.Equal(t, topic, p.Extents[0].PhysicalTopic)
		require.Equal(t, next, p.Extents[1].PhysicalCluster)
	}
	// The group goes on where it was.
	m := s.client(t, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit())
	for _, r := range poll(t, m, 300-3*7) {
		require.GreaterOrEqual(t, r.Offset, int64(7))
	}
}

func (s *suite) testAdoptRefused(t *testing.T) {
	old := s.w.Clusters[0].Name
	refused := func(says string, args ...string) {
		t.Helper()
		_, stderr, err := s.w.Braid(call(t), "", append([]string{"topic", "adopt"}, args...)...)
		require.Error(t, err)
		require.Contains(t, stderr, says)
	}
	refused("has no topic", "nowhere", "--cluster", old)
	refused("not known", "nowhere", "--cluster", "nowhere")
	mine := s.topic(t, 1)
	refused("exists already", mine, "--cluster", old)
	s.w.MustBraid(t, "x\n", "produce", mine)
	physical := s.describe(t, mine).Partitions[0].Extents[0]
	refused("belongs to topic", mine+"-again", "--cluster", physical.PhysicalCluster, "--physical-topic", physical.PhysicalTopic)
}

// Somebody who still writes to the physical topic keeps its heads from moving, so
// that nothing of it is lost, and is named.
func (s *suite) testDirectWriters(t *testing.T) {
	old, next := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic, direct := s.physicalTopic(t, old, 1, nil)
	send(t, direct, values(topic, 0, 10)...)
	s.w.MustBraid(t, "", "topic", "adopt", topic, "--cluster", old)
	stop := make(chan struct{})
	written := make(chan int)
	go func() { // in no hurry, but all the time
		n := 10
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for {
			select {
			case <-stop:
				written <- n
				return
			case <-pace.C:
			}
			if direct.ProduceSync(t.Context(), values(topic, n, 1)...).FirstErr() == nil {
				n++
			}
		}
	}()
	_, stderr, err := s.w.Braid(call(t), "", "topic", "move", topic, "--partitions", "0", "--to", next)
	require.Error(t, err)
	require.Contains(t, stderr, "without braid")
	eventually(t, func() bool {
		return strings.Contains(s.w.MustBraid(t, "", "status"), `topic "`+topic+`": somebody writes`)
	}, "the status names who writes")
	close(stop)
	n := <-written
	require.Len(t, s.read(t, topic, n), n, "all of it is in the topic")
	s.w.MustBraid(t, "", "topic", "move", topic, "--partitions", "0", "--to", next)
	send(t, s.client(t), values(topic, n, 10)...)
	for i, r := range s.read(t, topic, n+10) {
		require.Equal(t, strconv.Itoa(i), string(r.Value))
	}
}
