package suite

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

func (s *suite) compaction() []test {
	return []test{
		{"a compacted topic moves under traffic, and deleted keys stay deleted", s.testCompactedMoves},
		{"readers in the middle of a compacted topic that moves", s.testCompactedMiddle},
		{"a compacted topic that nobody writes to is read up to its end", s.testCompactedIdle},
	}
}

// compactedTopic makes a topic on the first cluster that real clusters compact as soon
// as they can. What was written in the last seconds they leave as it is.
func (s *suite) compactedTopic(t *testing.T, partitions int) string {
	t.Helper()
	topic := name(t)
	args := []string{"topic", "create", topic, "--partitions", strconv.Itoa(partitions), "--clusters", s.w.Clusters[0].Name}
	for _, c := range []string{"cleanup.policy=compact", "min.cleanable.dirty.ratio=0.01", "segment.ms=500", "min.compaction.lag.ms=2000"} {
		args = append(args, "--config", c)
	}
	s.w.MustBraid(t, "", args...)
	return topic
}

// compacts reports whether the clusters compact at all: the embedded ones do not.
func (s *suite) compacts() bool { return s.w.Clusters[0].Fake == nil }

// A table is the last value of each key; "" = it is deleted.
type table map[string]string

func (t table) live() table {
	out := maps.Clone(t)
	maps.DeleteFunc(out, func(_, v string) bool { return v == "" })
	return out
}

func (t table) take(r *kgo.Record) { t[string(r.Key)] = string(r.Value) }

// An updater writes updates, one after the other for each key, and deletes every fourth
// time; it remembers all of them.
type updater struct {
	client *kgo.Client
	topic  string
	keys   int

	mu      sync.Mutex // guards the following
	table   table
	updates int
}

// write writes n updates of all keys and waits until all are acknowledged.
func (u *updater) write(t *testing.T, ctx context.Context, n int) error {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	var records []*kgo.Record
	for range n {
		key := fmt.Sprint("key-", u.updates%u.keys)
		r := &kgo.Record{Topic: u.topic, Key: []byte(key)}
		if u.updates/u.keys%4 != 3 || u.updates%u.keys%2 == 0 { // odd keys are deleted, and come back
			r.Value = []byte(fmt.Sprint(u.updates, "-", strings.Repeat("x", 100)))
		}
		u.updates++
		u.table.take(r)
		records = append(records, r)
	}
	return u.client.ProduceSync(ctx, records...).FirstErr()
}

// tableOf reads a topic from its beginning to its end.
func (s *suite) tableOf(t *testing.T, topic string) (table, []*kgo.Record) {
	t.Helper()
	ends, err := s.admin(t).ListEndOffsets(call(t), topic)
	require.NoError(t, err)
	require.NoError(t, ends.Error())
	client := s.client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer client.Close()
	out, records := make(table), []*kgo.Record(nil)
	left := make(map[int32]int64)
	for p, o := range ends.Offsets()[topic] {
		if o.At > 0 {
			left[p] = o.At
		}
	}
	ctx := call(t)
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err(), "up to %v", left)
		fetches.EachRecord(func(r *kgo.Record) {
			out.take(r)
			records = append(records, r)
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return out, records
}

// awaitCompaction waits until clusters that compact have compacted a topic. More is
// written so that they begin new segments.
func (s *suite) awaitCompaction(t *testing.T, u *updater) {
	t.Helper()
	if !s.compacts() {
		return
	}
	ends, err := s.admin(t).ListEndOffsets(call(t), u.topic)
	require.NoError(t, err)
	first, polls := 0, 0
	eventually(t, func() bool {
		if polls++; polls%10 == 1 {
			require.NoError(t, u.write(t, call(t), u.keys))
		}
		_, records := s.tableOf(t, u.topic)
		left := 0
		for _, r := range records {
			if o, _ := ends.Lookup(u.topic, r.Partition); r.Offset < o.Offset {
				left++
			}
		}
		if first == 0 {
			first = left
		}
		return left < max(first/2, 4*u.keys)
	}, "the compaction of what %s had", u.topic)
}

func (s *suite) testCompactedMoves(t *testing.T) {
	a, b := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic := s.compactedTopic(t, 2)
	u := &updater{client: s.client(t), topic: topic, keys: 40, table: make(table)}
	require.NoError(t, u.write(t, call(t), 2000))
	s.awaitCompaction(t, u)
	// It begins only now: what gateways have in memory for readers at the end they give to
	// all others, compacted or not.
	ends, err := s.admin(t).ListEndOffsets(call(t), topic)
	require.NoError(t, err)
	from, before := make(map[int32]kgo.Offset), u.updates
	for p, o := range ends.Offsets()[topic] {
		from[p] = kgo.NewOffset().At(o.At)
	}
	tail := s.reader(t, topic, kgo.NewOffset(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))
	at := u.table.live()

	ctx, stop := context.WithCancel(t.Context())
	wrote := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			if err := u.write(t, t.Context(), 20); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	for round := range 2 {
		for _, to := range []string{b, a} {
			s.move(t, topic, to, 0, 1)
			for _, p := range s.describe(t, topic).Partitions {
				require.Len(t, p.Extents, 1, "round %d: the old extents are gone", round)
				require.Equal(t, to, p.Extents[0].PhysicalCluster)
			}
		}
	}
	stop()
	require.NoError(t, <-wrote)
	s.move(t, topic, b, 0, 1)
	s.awaitCompaction(t, u) // of what was copied
	got, _ := s.tableOf(t, topic)
	require.Equal(t, u.table.live(), got.live(), "who reads it from the beginning")

	// The reader at the end has seen each update once, at ascending offsets.
	eventually(t, func() bool {
		_, records := tail.see()
		return len(records) >= u.updates-before
	}, "the reader at the end has all %d updates", u.updates-before)
	require.NoError(t, tail.broken())
	_, records := tail.see()
	require.Len(t, records, u.updates-before)
	seen, last := at, map[int32]int64{0: -1, 1: -1}
	for _, r := range records {
		require.Greater(t, r.Offset, last[r.Partition])
		last[r.Partition] = r.Offset
		seen.take(r)
	}
	require.Equal(t, u.table.live(), seen.live())
}

// Readers that are in the middle miss nothing, also those that know which leader epoch
// their position is of.
func (s *suite) testCompactedMiddle(t *testing.T) {
	b := s.w.Clusters[1].Name
	topic := s.compactedTopic(t, 1)
	u := &updater{client: s.client(t), topic: topic, keys: 25, table: make(table)}
	require.NoError(t, u.write(t, call(t), 500))

	// A member of a group that stops, one that keeps its connection, and one that only
	// knows its position.
	group := name(t)
	member := func() *kgo.Client {
		return s.client(t, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.FetchMaxBytes(2000), kgo.FetchMaxPartitionBytes(2000))
	}
	first := member()
	tables := map[string]table{"group": make(table), "stays": make(table), "position": make(table)}
	some := func(c *kgo.Client, into table, n int) *kgo.Record {
		t.Helper()
		ctx := call(t)
		var last *kgo.Record
		for taken := 0; taken < n; {
			fetches := c.PollRecords(ctx, n-taken)
			require.NoError(t, fetches.Err())
			fetches.EachRecord(func(r *kgo.Record) {
				into.take(r)
				last = r
				taken++
			})
		}
		return last
	}
	some(first, tables["group"], 100)
	require.NoError(t, first.CommitUncommittedOffsets(call(t)))
	first.Close()
	at := func(o kgo.Offset) kgo.Opt {
		return kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: o}})
	}
	stays := s.client(t, at(kgo.NewOffset().AtStart()), kgo.FetchMaxBytes(2000), kgo.FetchMaxPartitionBytes(2000), kgo.MaxBufferedRecords(10))
	some(stays, tables["stays"], 50)
	known := some(s.client(t, at(kgo.NewOffset().AtStart())), tables["position"], 200)
	s.awaitCompaction(t, u)

	s.move(t, topic, b, 0)
	s.move(t, topic, s.w.Clusters[0].Name, 0)
	require.NoError(t, u.write(t, call(t), 60))
	end := s.end(t, topic)
	toEnd := func(c *kgo.Client, into table, from int64) {
		t.Helper()
		ctx, last := call(t), from-1
		for last < end-1 {
			fetches := c.PollFetches(ctx)
			require.NoError(t, fetches.Err(), "at %d of %d", last, end)
			fetches.EachRecord(func(r *kgo.Record) {
				require.Greater(t, r.Offset, last, "no position goes back")
				into.take(r)
				last = r.Offset
			})
		}
	}
	toEnd(member(), tables["group"], 100)
	toEnd(stays, tables["stays"], 50)
	position := s.client(t, at(kgo.NewOffset().At(known.Offset+1).WithEpoch(known.LeaderEpoch)))
	toEnd(position, tables["position"], known.Offset+1)
	for who, got := range tables {
		require.Equal(t, u.table.live(), got.live(), who)
	}
}

// Programs that read a topic up to the end that they were told when they began, as
// Kafka Streams does with its tables, come to it.
func (s *suite) testCompactedIdle(t *testing.T) {
	topic := s.compactedTopic(t, 1)
	u := &updater{client: s.client(t), topic: topic, keys: 10, table: make(table)}
	require.NoError(t, u.write(t, call(t), 95))
	start := time.Now()
	s.move(t, topic, s.w.Clusters[1].Name, 0)
	require.Equal(t, int64(95), s.end(t, topic), "the end is where it was")
	got, _ := s.tableOf(t, topic)
	require.Equal(t, u.table.live(), got.live())

	// What was written before the move has its time, and is found by it.
	after, err := s.admin(t).ListOffsetsAfterMilli(call(t), start.UnixMilli(), topic)
	require.NoError(t, err)
	o, _ := after.Lookup(topic, 0)
	require.NoError(t, o.Err)
	require.Equal(t, int64(95), o.Offset, "nothing was written since")
	later := send(t, u.client, &kgo.Record{Topic: topic, Key: []byte("later"), Value: []byte("v")})
	require.Equal(t, int64(95), later[0].Offset)
}
