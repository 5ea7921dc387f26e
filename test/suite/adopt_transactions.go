package suite

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// texts are the values of records.
func texts(records []*kgo.Record) []string {
	out := make([]string, len(records))
	for i, r := range records {
		out[i] = string(r.Value)
	}
	return out
}

// What transactional producers have written before a topic was adopted reads as at its
// cluster: read_committed readers get what was committed, and nothing above the last
// stable offset; a transaction that is open goes on.
func (s *suite) testAdoptTransactions(t *testing.T) {
	old, next := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic, direct := s.physicalTopic(t, old, 1, nil)
	producer := func(id string) *kgo.Client {
		p, err := kgo.NewClient(append(direct.Opts(), kgo.TransactionalID(topic+id), kgo.DefaultProduceTopic(topic))...)
		require.NoError(t, err)
		t.Cleanup(p.Close)
		return p
	}
	begin := func(p *kgo.Client, values ...string) {
		t.Helper()
		require.NoError(t, p.BeginTransaction())
		for _, v := range values {
			send(t, p, kgo.StringRecord(v))
		}
	}
	p := producer("-1")
	begin(p, "committed", "committed too")
	require.NoError(t, p.EndTransaction(call(t), kgo.TryCommit))
	begin(p, "aborted")
	require.NoError(t, p.EndTransaction(call(t), kgo.TryAbort))
	plain := func(value string) *kgo.Record { return &kgo.Record{Topic: topic, Value: []byte(value)} }
	send(t, direct, plain("plain"))
	open := producer("-2")
	begin(open, "open")
	late := plain("behind")
	late.Timestamp = time.Now().Add(30 * time.Minute)
	send(t, direct, late)
	// 0 1 committed, 2 marker, 3 aborted, 4 marker, 5 plain, 6 open, 7 behind
	s.w.MustBraid(t, "", "topic", "adopt", topic, "--cluster", old)

	client := s.client(t)
	reader := func(level kgo.IsolationLevel) *kgo.Client {
		return s.client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(level))
	}
	require.Equal(t, []string{"committed", "committed too", "aborted", "plain", "open", "behind"}, texts(poll(t, reader(kgo.ReadUncommitted()), 6)))
	committed := reader(kgo.ReadCommitted())
	require.Equal(t, []string{"committed", "committed too", "plain"}, texts(poll(t, committed, 3)))
	ends := func() (stable, end int64) {
		t.Helper()
		admin := kadm.NewClient(s.client(t))
		at := func(l kadm.ListedOffsets, err error) int64 {
			t.Helper()
			require.NoError(t, err)
			o, ok := l.Lookup(topic, 0)
			require.True(t, ok)
			require.NoError(t, o.Err)
			return o.Offset
		}
		return at(admin.ListCommittedOffsets(call(t), topic)), at(admin.ListEndOffsets(call(t), topic))
	}
	stable, end := ends()
	require.EqualValues(t, 6, stable)
	require.EqualValues(t, 8, end)
	for _, timestamp := range []int64{0, late.Timestamp.UnixMilli(), -3} {
		for level := range int8(2) {
			require.Equal(t, listAt(t, direct, topic, timestamp, level), listAt(t, client, topic, timestamp, level), "timestamp %d, level %d", timestamp, level)
		}
	}
	require.EqualValues(t, -1, listAt(t, client, topic, late.Timestamp.UnixMilli(), 1), "a record above the last stable offset is no answer")
	got := s.fetchCommitted(t, topic, 3)
	require.EqualValues(t, 6, got.LastStableOffset)
	require.Len(t, got.AbortedTransactions, 1)
	require.EqualValues(t, 3, got.AbortedTransactions[0].FirstOffset)

	// What comes meanwhile is in the tail cache for one reader, and not there for the other.
	above := func(level kgo.IsolationLevel) *kgo.Client {
		from := map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(end)}}
		r := s.client(t, kgo.ConsumePartitions(from), kgo.FetchIsolationLevel(level))
		require.Empty(t, pollFor(t, r, 200*time.Millisecond))
		return r
	}
	loose, strict := above(kgo.ReadUncommitted()), above(kgo.ReadCommitted())
	send(t, direct, plain("later"))
	require.Equal(t, []string{"later"}, texts(poll(t, loose, 1)))
	require.Empty(t, pollFor(t, strict, 500*time.Millisecond), "it is above the last stable offset")
	stable, _ = ends()
	require.EqualValues(t, 6, stable)

	require.NoError(t, open.EndTransaction(call(t), kgo.TryCommit))
	require.Equal(t, []string{"open", "behind", "later"}, texts(poll(t, committed, 3)), "a reader that waits at the last stable offset goes on")
	require.Equal(t, []string{"later"}, texts(poll(t, strict, 1)))

	// Readers pass from the one cluster to the other at both levels.
	s.w.MustBraid(t, "", "topic", "move", topic, "--partitions", "0", "--to", next)
	for i := range 3 {
		send(t, client, plain(strconv.Itoa(i)))
	}
	require.Equal(t, []string{"0", "1", "2"}, texts(poll(t, committed, 3)))
	require.Equal(t, []string{"committed", "committed too", "plain", "open", "behind", "later", "0", "1", "2"}, texts(poll(t, reader(kgo.ReadCommitted()), 9)))
	stable, end = ends()
	require.Equal(t, end, stable)
}

// pollFor returns what comes within a time.
func pollFor(t *testing.T, client *kgo.Client, d time.Duration) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(call(t), d)
	defer cancel()
	fetches := client.PollFetches(ctx)
	if err := fetches.Err(); err != nil {
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	return fetches.Records()
}

// listAt asks for the offset of a time.
func listAt(t *testing.T, cl *kgo.Client, topic string, timestamp int64, level int8) int64 {
	t.Helper()
	req := kmsg.NewPtrListOffsetsRequest()
	req.IsolationLevel = level
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Timestamp, rp.CurrentLeaderEpoch = timestamp, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(call(t), cl)
	require.NoError(t, err)
	require.Zero(t, resp.Topics[0].Partitions[0].ErrorCode)
	return resp.Topics[0].Partitions[0].Offset
}

// fetchCommitted fetches partition 0 of a topic with read_committed, from an offset on.
func (s *suite) fetchCommitted(t *testing.T, topic string, from int64) kmsg.FetchResponseTopicPartition {
	t.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel, req.SessionEpoch = int32(5*time.Second/time.Millisecond), 1, 1<<20, 1, -1
	md, err := s.admin(t).Metadata(call(t), topic)
	require.NoError(t, err)
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = topic, md.Topics[topic].ID
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch, rp.LastFetchedEpoch = from, 1<<20, -1, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(call(t), s.client(t).SeedBrokers()[0])
	require.NoError(t, err)
	require.Zero(t, resp.ErrorCode)
	require.Zero(t, resp.Topics[0].Partitions[0].ErrorCode)
	return resp.Topics[0].Partitions[0]
}
