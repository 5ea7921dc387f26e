package upstream_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// pid is a producer id as braid hands them out.
const pid int64 = 1<<48 + 7

func part(topic string, p int32) upstream.Partition {
	return upstream.Partition{Topic: topic, Partition: federation.PhysicalPartition(p)}
}

// batch has n records of a producer.
func batch(id int64, epoch int16, sequence int32, n int) []byte {
	return batchAt(time.Now(), id, epoch, sequence, n, 1)
}

func batchAt(at time.Time, id int64, epoch int16, sequence int32, n, bytes int) []byte {
	var b recordbatch.Builder
	b.Reset(nil)
	for range n {
		b.Add(&recordbatch.Record{TimestampMs: at.UnixMilli(), Key: []byte("k"), Value: make([]byte, bytes)})
	}
	return b.Finish(recordbatch.Producer{ID: id, Epoch: epoch, Sequence: sequence})
}

// add appends batches to a partition and returns where they are.
func add(t *testing.T, c *upstream.Cluster, p upstream.Partition, batches ...[]byte) []federation.PhysicalOffset {
	t.Helper()
	appends := make([]upstream.MarkAppend, len(batches))
	for i, b := range batches {
		appends[i] = upstream.MarkAppend{Partition: p, Batch: b}
	}
	offsets := make([]federation.PhysicalOffset, len(batches))
	for i, a := range c.AppendMarks(t.Context(), appends) {
		require.NoError(t, a.Err)
		offsets[i] = a.Offset
	}
	return offsets
}

// addPlain appends records of a producer that is not idempotent, each in a batch.
func addPlain(t *testing.T, k *kfake.Cluster, topic string, n, bytes int) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.DisableIdempotentWrite(), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()))
	require.NoError(t, err)
	defer client.Close()
	for range n {
		require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: make([]byte, bytes)}).FirstErr())
	}
}

func marks(t *testing.T, producers int) [][]byte {
	t.Helper()
	s := mark.Subject{LogicalCluster: "default", Topic: "orders", TopicID: federation.NewTopicID(), Extent: 1, MapVersion: 3}
	id := mark.ProducerID(pid)
	all := make([]mark.Producer, producers)
	for i := range all {
		all[i] = mark.Producer{ID: int64(i), LastSequence: int32(i)}
	}
	openings, err := mark.Openings(s, id, all, 400, time.Now())
	require.NoError(t, err)
	return append([][]byte{mark.Primer(s, id, time.Now())}, openings...)
}

func TestMarksAreAppendedOnce(t *testing.T) {
	k := embedded(t, kfake.SeedTopics(6, "t", "u"))
	c := open(t, upstream.Config{}, k.ListenAddrs()...)
	batches := marks(t, 80)
	require.Len(t, batches, 4)
	var appends []upstream.MarkAppend
	for _, topic := range []string{"t", "u"} {
		for _, b := range batches {
			for p := range int32(6) {
				appends = append(appends, upstream.MarkAppend{Partition: part(topic, p), Batch: b})
			}
		}
	}
	check := func(c *upstream.Cluster) {
		t.Helper()
		for i, a := range c.AppendMarks(t.Context(), appends) {
			require.NoError(t, a.Err)
			require.EqualValues(t, i/6%len(batches), a.Offset, "%v", appends[i].Partition)
		}
	}
	check(c)
	check(c)
	check(open(t, upstream.Config{}, k.ListenAddrs()...)) // another controller
	for _, e := range c.Ends(t.Context(), []upstream.Partition{part("t", 0), part("u", 5)}) {
		require.NoError(t, e.Err)
		require.EqualValues(t, len(batches), e.LogEnd, "no batch is there twice")
	}
}

func TestAppendedMarksAreReadBack(t *testing.T) {
	k := embedded(t, kfake.SeedTopics(1, "t"))
	c := open(t, upstream.Config{}, k.ListenAddrs()...)
	add(t, c, part("t", 0), marks(t, 80)...)
	checkOpenings(t, c, part("t", 0), 80)
}

// checkOpenings reads the marks of a partition, a primer and openings, back.
func checkOpenings(t *testing.T, c *upstream.Cluster, p upstream.Partition, n int) {
	t.Helper()
	end := c.Ends(t.Context(), []upstream.Partition{p})[0]
	require.NoError(t, end.Err)
	var producers []mark.Producer
	require.NoError(t, c.ReadBatches(t.Context(), p, 1, end.HighWatermark, func(h recordbatch.Header, b []byte) bool {
		require.True(t, mark.IsMark(h.ProducerID))
		kind, s, some, err := mark.Parse(b)
		require.NoError(t, err)
		require.Equal(t, mark.KindOpening, kind)
		require.EqualValues(t, 1, s.Extent)
		producers = append(producers, some...)
		return true
	}))
	require.Len(t, producers, n)
}

// A lost answer must not lead to a second record, nor a lost one to none.
func TestMarksSurviveFailures(t *testing.T) {
	for name, fault := range map[string]*kerr.Error{
		"appended and not replicated in time": kerr.RequestTimedOut,
		"too few replicas after the append":   kerr.NotEnoughReplicasAfterAppend,
		"too few replicas":                    kerr.NotEnoughReplicas,
		"no leader":                           kerr.NotLeaderForPartition,
	} {
		t.Run(name, func(t *testing.T) {
			k := embedded(t, kfake.SeedTopics(2, "t"))
			c := open(t, upstream.Config{}, k.ListenAddrs()...)
			h := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Partitions: []int32{0}, Err: fault, Count: 2})
			for i, a := range c.AppendMarks(t.Context(), []upstream.MarkAppend{{part("t", 0), batch(pid, 0, 0, 1)}, {part("t", 1), batch(pid, 0, 0, 1)}, {part("t", 0), batch(pid, 0, 1, 1)}}) {
				require.NoError(t, a.Err)
				require.EqualValues(t, i/2, a.Offset)
			}
			require.Equal(t, 2, h.Hits())
		})
	}
}

func TestMarksFollowTheLeader(t *testing.T) {
	k := embedded(t, kfake.SeedTopics(1, "t"))
	c := open(t, upstream.Config{}, k.ListenAddrs()...)
	b := batch(pid, 0, 0, 1)
	at := add(t, c, part("t", 0), b)
	leader := k.LeaderFor("t", 0)
	require.NoError(t, k.MoveTopicPartition("t", 0, (leader+1)%3))
	require.Equal(t, at, add(t, c, part("t", 0), b), "the new leader knows the producer")
	ends := c.Ends(t.Context(), []upstream.Partition{part("t", 0)})[0]
	require.NoError(t, ends.Err)
	require.NoError(t, k.MoveTopicPartition("t", 0, (leader+2)%3))
	moved := c.Ends(t.Context(), []upstream.Partition{part("t", 0)})[0]
	require.NoError(t, moved.Err)
	require.Greater(t, moved.Epoch, ends.Epoch)
	require.NoError(t, k.MoveTopicPartition("t", 0, leader))
	states := c.Producers(t.Context(), []upstream.Partition{part("t", 0)})[0]
	require.NoError(t, states.Err)
	require.Contains(t, states.States, pid)
	require.NoError(t, k.MoveTopicPartition("t", 0, (leader+1)%3))
	n := 0
	require.NoError(t, c.ReadBatches(t.Context(), part("t", 0), 0, 1, func(recordbatch.Header, []byte) bool { n++; return true }))
	require.Equal(t, 1, n)
}

func TestMarksThatFailForGood(t *testing.T) {
	k := embedded(t, kfake.SeedTopics(2, "t"))
	c := open(t, upstream.Config{AdminTimeout: 400 * time.Millisecond}, k.ListenAddrs()...)
	var plain recordbatch.Builder
	plain.Reset(nil)
	plain.Add(&recordbatch.Record{})
	out := c.AppendMarks(t.Context(), []upstream.MarkAppend{
		{part("t", 0), batch(pid, 0, 5, 1)}, // a partition never written takes sequence 0 only
		{part("t", 1), batch(pid, 0, 0, 1)},
		{part("t", 0), batch(pid, 0, 0, 1)},
		{part("none", 0), batch(pid, 0, 0, 1)},
		{part("t", 7), batch(pid, 0, 0, 1)},
		{part("t", 1), plain.Finish(recordbatch.NoProducer)},
		{part("t", 1), batch(pid, 0, 1, 1)},
	})
	kinds := make([]federation.Kind, len(out))
	for i, a := range out {
		kinds[i] = federation.KindOf(a.Err)
	}
	require.NoError(t, out[1].Err)
	require.EqualValues(t, 0, out[1].Offset)
	kinds[1] = -1
	require.Equal(t, []federation.Kind{
		federation.OutOfOrderSequence, -1, federation.OutOfOrderSequence, federation.UnknownTopic, federation.UnknownTopic,
		federation.InvalidArgument, federation.InvalidArgument,
	}, kinds)
	require.EqualValues(t, -1, out[2].Offset, "nothing is appended behind a batch that failed")
	require.Error(t, out[2].Err)

	k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.DuplicateSequenceNumber})
	a := c.AppendMarks(t.Context(), []upstream.MarkAppend{{part("t", 1), batch(pid, 0, 0, 1)}})[0]
	require.Equal(t, federation.DuplicateSequence, federation.KindOf(a.Err))
	require.EqualValues(t, -1, a.Offset)
	k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
	a = c.AppendMarks(t.Context(), []upstream.MarkAppend{{part("t", 1), batch(pid, 0, 0, 1)}})[0]
	require.Equal(t, federation.NotEnoughReplicas, federation.KindOf(a.Err), "what a broker said tells more than that time is up")
}

func TestEnds(t *testing.T) {
	k := embedded(t, kfake.SeedTopics(3, "t"))
	c := open(t, upstream.Config{AdminTimeout: time.Second}, k.ListenAddrs()...)
	add(t, c, part("t", 1), batch(pid, 0, 0, 5))
	require.NoError(t, k.DeleteRecords("t", 1, 2))
	ends := c.Ends(t.Context(), []upstream.Partition{part("t", 1), part("t", 0), part("none", 0), part("t", 1)})
	info, err := c.Topics(t.Context(), "t")
	require.NoError(t, err)
	require.Equal(t, upstream.PartitionEnds{LogStart: 2, HighWatermark: 5, LogEnd: 5, Epoch: info["t"].Partitions[1].Epoch}, ends[0])
	require.Equal(t, upstream.PartitionEnds{Epoch: info["t"].Partitions[0].Epoch}, ends[1])
	require.Equal(t, federation.UnknownTopic, federation.KindOf(ends[2].Err))
	require.Equal(t, ends[0], ends[3])
	require.Empty(t, c.Ends(t.Context(), nil))
}

// A leader that is silent holds up its own partitions only, and not for long.
func TestSilentBrokerHoldsUpNobodyElse(t *testing.T) {
	k := embedded(t, kfake.SeedTopics(3, "t"))
	c := open(t, upstream.Config{AdminTimeout: 2 * time.Second}, k.ListenAddrs()...)
	for p := range int32(3) {
		require.NoError(t, k.MoveTopicPartition("t", p, p))
	}
	add(t, c, part("t", 0), batch(pid, 0, 0, 1))
	silent := make(chan struct{})
	var once atomic.Bool
	k.ControlKey(kmsg.ListOffsets.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if k.CurrentNode() != 1 {
			return nil, nil, false
		}
		if once.CompareAndSwap(false, true) {
			close(silent)
		}
		k.SleepControl(func() { <-t.Context().Done() })
		return nil, nil, false
	})
	ends := make(chan []upstream.PartitionEnds)
	go func() { ends <- c.Ends(t.Context(), []upstream.Partition{part("t", 0), part("t", 1), part("t", 2)}) }()
	<-silent
	require.NoError(t, k.MoveTopicPartition("t", 1, 2))
	for _, e := range <-ends {
		require.NoError(t, e.Err)
	}
}

func TestClusterThatIsAwayIsAnErrorOfItsKind(t *testing.T) {
	k := embedded(t, kfake.SeedTopics(1, "t"))
	c := open(t, upstream.Config{AdminTimeout: 300 * time.Millisecond}, k.ListenAddrs()...)
	add(t, c, part("t", 0), batch(pid, 0, 0, 1))
	k.Close()
	p := part("t", 0)
	for name, err := range map[string]error{
		"append":    c.AppendMarks(t.Context(), []upstream.MarkAppend{{p, batch(pid, 0, 1, 1)}})[0].Err,
		"ends":      c.Ends(t.Context(), []upstream.Partition{p})[0].Err,
		"producers": c.Producers(t.Context(), []upstream.Partition{p})[0].Err,
		"read":      c.ReadBatches(t.Context(), p, 0, 1, func(recordbatch.Header, []byte) bool { return true }),
	} {
		require.Equal(t, federation.ClusterUnavailable, federation.KindOf(err), "%s: %v", name, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, c.Ends(ctx, []upstream.Partition{p})[0].Err)
}

func TestReadBatches(t *testing.T) {
	k := embedded(t, kfake.SeedTopics(1, "t"))
	c := open(t, upstream.Config{AdminTimeout: 2 * time.Second}, k.ListenAddrs()...)
	p := part("t", 0)
	var batches [][]byte
	for i := range 8 {
		batches = append(batches, batchAt(time.Now(), pid, 0, int32(4*i), 4, 100<<10)) // in all more than one chunk
	}
	add(t, c, p, batches...)
	read := func(from, to federation.PhysicalOffset, most int) []int64 {
		var bases []int64
		require.NoError(t, c.ReadBatches(t.Context(), p, from, to, func(h recordbatch.Header, b []byte) bool {
			require.Len(t, b, h.Size())
			bases = append(bases, h.BaseOffset)
			return len(bases) < most
		}))
		return bases
	}
	require.Equal(t, []int64{0, 4, 8, 12, 16, 20, 24, 28}, read(0, 32, 99))
	require.Equal(t, []int64{4, 8}, read(5, 9, 99), "batches that lie across the ends")
	require.Equal(t, []int64{8}, read(8, 12, 99))
	require.Equal(t, []int64{0, 4, 8}, read(0, 32, 3))
	require.Empty(t, read(32, 32, 99))
	require.NoError(t, k.DeleteRecords("t", 0, 9))
	require.Equal(t, []int64{8, 12}, read(0, 16, 99), "what is gone is passed over")
	require.Empty(t, read(0, 5, 99))
	all := func(recordbatch.Header, []byte) bool { return true }
	require.Equal(t, federation.OffsetOutOfRange, federation.KindOf(c.ReadBatches(t.Context(), p, 40, 50, all)))
	require.Equal(t, federation.NotEnoughReplicas, federation.KindOf(c.ReadBatches(t.Context(), p, 28, 33, all)), "the end is above the high watermark")
	addPlain(t, k, "t", 1, 3)
	require.Equal(t, []int64{28, 32}, read(28, 33, 99))
}

func TestReadBatchesReadsALargeBatch(t *testing.T) {
	k := embedded(t, kfake.SeedTopics(1, "t"), kfake.BrokerConfigs(map[string]string{"message.max.bytes": "8000000"}))
	c := open(t, upstream.Config{}, k.ListenAddrs()...)
	large := batchAt(time.Now(), pid, 0, 1, 1, 3<<20)
	add(t, c, part("t", 0), batch(pid, 0, 0, 1), large, batch(pid, 0, 2, 1))
	var sizes []int
	require.NoError(t, c.ReadBatches(t.Context(), part("t", 0), 0, 3, func(_ recordbatch.Header, b []byte) bool {
		sizes = append(sizes, len(b))
		return true
	}))
	require.Equal(t, []int{len(batch(pid, 0, 0, 1)), len(large), len(batch(pid, 0, 0, 1))}, sizes)
}

func producersOf(t *testing.T, c *upstream.Cluster, p upstream.Partition) upstream.ProducerStates {
	t.Helper()
	got := c.Producers(t.Context(), []upstream.Partition{p})[0]
	require.NoError(t, got.Err)
	return got.States
}

// The embedded cluster lists open transactions only, and old ones list nothing.
func TestProducersAreScannedWhereTheyAreNotListed(t *testing.T) {
	for name, opts := range map[string][]kfake.Opt{"listed in part": nil, "an old broker": {kfake.MaxVersions(kversion.V2_7_0())}} {
		t.Run(name, func(t *testing.T) {
			k := embedded(t, append(opts, kfake.SeedTopics(2, "t"))...)
			c := open(t, upstream.Config{}, k.ListenAddrs()...)
			require.Empty(t, producersOf(t, c, part("t", 0)), "nothing was written")
			add(t, c, part("t", 0), batch(pid, 0, 0, 3), batch(pid+1, 2, 0, 1), batch(pid, 0, 3, 2), batch(pid+2, 0, 0, 1), batch(pid+2, 1, 0, 1))
			addPlain(t, k, "t", 3, 10)
			want := upstream.ProducerStates{
				pid:     {ID: pid, LastSequence: 4, TxnStart: -1},
				pid + 1: {ID: pid + 1, Epoch: 2, LastSequence: 0, TxnStart: -1},
				pid + 2: {ID: pid + 2, Epoch: 1, LastSequence: 0, TxnStart: -1},
			}
			require.Equal(t, want, producersOf(t, c, part("t", 0)))
			both := c.Producers(t.Context(), []upstream.Partition{part("t", 1), part("t", 0), part("t", 1)})
			require.Empty(t, both[0].States)
			require.Equal(t, want, both[1].States)
			require.Empty(t, both[2].States)
		})
	}
}

// The first answer about the end of a log may have its first batches only.
func TestProducersAreScannedWhenTheLastBatchIsTheirFirst(t *testing.T) {
	k := embedded(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	c := open(t, upstream.Config{}, k.ListenAddrs()...)
	for range 5 {
		addPlain(t, k, "t", 1, 10)
	}
	add(t, c, part("t", 0), batch(pid, 0, 0, 1))
	require.Equal(t, upstream.ProducerStates{pid: {ID: pid, TxnStart: -1}}, producersOf(t, c, part("t", 0)))
}

func TestProducersKnowOpenTransactions(t *testing.T) {
	for name, opts := range map[string][]kfake.Opt{"listed in part": nil, "an old broker": {kfake.MaxVersions(kversion.V2_7_0())}} {
		t.Run(name, func(t *testing.T) {
			k := embedded(t, append(opts, kfake.SeedTopics(1, "t"))...)
			c := open(t, upstream.Config{}, k.ListenAddrs()...)
			add(t, c, part("t", 0), batch(pid, 0, 0, 3))
			client, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.TransactionalID("x"), kgo.DefaultProduceTopic("t"))
			require.NoError(t, err)
			defer client.Close()
			write := func() {
				require.NoError(t, client.BeginTransaction())
				for range 2 {
					require.NoError(t, client.ProduceSync(t.Context(), kgo.StringRecord("v")).FirstErr())
				}
			}
			transactional := func() upstream.ProducerState {
				states := producersOf(t, c, part("t", 0))
				require.Len(t, states, 2)
				require.EqualValues(t, 2, states[pid].LastSequence)
				delete(states, pid)
				for _, s := range states {
					return s
				}
				panic("there is one")
			}
			write()
			open := transactional()
			require.EqualValues(t, 3, open.TxnStart)
			require.EqualValues(t, 1, open.LastSequence)
			require.NoError(t, client.EndTransaction(t.Context(), kgo.TryCommit))
			require.EqualValues(t, -1, transactional().TxnStart)
			write()
			require.EqualValues(t, 6, transactional().TxnStart)
		})
	}
}

// Windows grow and shrink with the records, and a scan ends at its limit.
func TestScanReadsTheEndOfTheLog(t *testing.T) {
	const old = int64(1) << 50
	k := embedded(t, kfake.SeedTopics(1, "t"))
	c := open(t, upstream.Config{}, k.ListenAddrs()...)
	p := part("t", 0)
	var sequence int32
	write := func(batches, records, bytes int) {
		for range batches {
			add(t, c, p, batchAt(time.Now(), pid, 0, sequence, records, bytes))
			sequence += int32(records)
		}
	}
	add(t, c, p, batch(old, 0, 0, 1))
	write(12, 1, 900<<10)
	write(50, 100, 10)
	add(t, c, p, batch(old+1, 0, 0, 1))
	write(200, 1, 10)
	write(2, 1, 500<<10)
	states := producersOf(t, c, p)
	require.Len(t, states, 3)
	require.Equal(t, sequence-1, states[pid].LastSequence)

	limited := open(t, upstream.Config{ScanBytesMax: 2 << 20}, k.ListenAddrs()...)
	states = producersOf(t, limited, p)
	require.Equal(t, sequence-1, states[pid].LastSequence)
	require.Contains(t, states, old+1)
	require.NotContains(t, states, old)
}

// listing makes an embedded cluster list producers as a real one does, and counts
// requests by API.
func listing(k *kfake.Cluster, ids ...int64) *[100]atomic.Int32 {
	var counts [100]atomic.Int32
	for key := range int16(len(counts)) {
		if key == kmsg.DescribeProducers.Int16() {
			continue
		}
		k.ControlKey(key, func(kmsg.Request) (kmsg.Response, error, bool) {
			k.KeepControl()
			counts[key].Add(1)
			return nil, nil, false
		})
	}
	k.ControlKey(kmsg.DescribeProducers.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		counts[r.Key()].Add(1)
		req := r.(*kmsg.DescribeProducersRequest)
		resp := req.ResponseKind().(*kmsg.DescribeProducersResponse)
		for _, t := range req.Topics {
			rt := kmsg.NewDescribeProducersResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewDescribeProducersResponseTopicPartition()
				rp.Partition = p
				for _, id := range ids {
					a := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
					a.ProducerID, a.LastSequence, a.CoordinatorEpoch = id, 41, -1
					rp.ActiveProducers = append(rp.ActiveProducers, a)
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	return &counts
}

func TestProducersCostOneRequestWhereTheyAreListed(t *testing.T) {
	k := embedded(t, kfake.NumBrokers(1), kfake.SeedTopics(3, "t"))
	c := open(t, upstream.Config{}, k.ListenAddrs()...)
	parts := []upstream.Partition{part("t", 0), part("t", 1), part("t", 2)}
	for _, p := range parts {
		add(t, c, p, batch(pid, 0, 0, 1))
	}
	counts := listing(k, pid)
	for _, got := range c.Producers(t.Context(), parts) {
		require.NoError(t, got.Err)
		require.Equal(t, upstream.ProducerStates{pid: {ID: pid, LastSequence: 41, TxnStart: -1}}, got.States)
	}
	require.EqualValues(t, 1, counts[kmsg.DescribeProducers].Load())
	require.Zero(t, counts[kmsg.Fetch].Load())
	require.Zero(t, counts[kmsg.ListOffsets].Load())
}

func TestEmptyListingIsBelievedWhenTheLogAgrees(t *testing.T) {
	for name, c := range map[string]struct {
		write   func(t *testing.T, k *kfake.Cluster, c *upstream.Cluster)
		fetches int32
		want    int
	}{
		"an empty log":    {func(*testing.T, *kfake.Cluster, *upstream.Cluster) {}, 0, 0},
		"plain producers": {func(t *testing.T, k *kfake.Cluster, _ *upstream.Cluster) { addPlain(t, k, "t", 3, 10) }, 1, 0},
		"a batch of yesterday": {func(t *testing.T, _ *kfake.Cluster, c *upstream.Cluster) {
			add(t, c, part("t", 0), batchAt(time.Now().Add(-25*time.Hour), pid, 0, 0, 1, 1))
		}, 1, 0},
		"a new batch": {func(t *testing.T, _ *kfake.Cluster, c *upstream.Cluster) {
			add(t, c, part("t", 0), batch(pid, 0, 0, 1))
		}, 2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			k := embedded(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
			cl := open(t, upstream.Config{}, k.ListenAddrs()...)
			c.write(t, k, cl)
			counts := listing(k)
			require.Len(t, producersOf(t, cl, part("t", 0)), c.want)
			require.Equal(t, c.fetches, counts[kmsg.Fetch].Load())
		})
	}
}

func TestFold(t *testing.T) {
	states := make(upstream.ProducerStates)
	fold := func(epoch int16, sequence, n int32, attributes int16, base int64) upstream.ProducerState {
		states.Fold(&recordbatch.Header{ProducerID: 1, ProducerEpoch: epoch, BaseSequence: sequence, LastOffsetDelta: n - 1, Count: n, Attributes: attributes, BaseOffset: base})
		return states[1]
	}
	const transactional, control = 0x10, 0x30
	require.Equal(t, upstream.ProducerState{ID: 1, LastSequence: 2147483647, TxnStart: -1}, fold(0, 2147483640, 8, 0, 0))
	require.EqualValues(t, 4, fold(0, 0, 5, 0, 8).LastSequence, "sequences wrap to 0")
	require.Equal(t, upstream.ProducerState{ID: 1, Epoch: 1, LastSequence: 0, TxnStart: 20}, fold(1, 0, 1, transactional, 20))
	require.Equal(t, upstream.ProducerState{ID: 1, Epoch: 1, LastSequence: 2, TxnStart: 20}, fold(1, 1, 2, transactional, 21))
	require.EqualValues(t, 2, fold(0, 9, 1, 0, 23).LastSequence, "an older epoch says nothing")
	require.Equal(t, upstream.ProducerState{ID: 1, Epoch: 1, LastSequence: 2, TxnStart: -1}, fold(1, -1, 1, control, 24))
	require.Equal(t, upstream.ProducerState{ID: 1, Epoch: 2, LastSequence: -1, TxnStart: -1}, fold(2, -1, 1, control, 25), "a marker of a new epoch begins its sequences anew")
	states.Fold(&recordbatch.Header{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, Count: 1})
	require.Len(t, states, 1, "%s", fmt.Sprint(states))
}
