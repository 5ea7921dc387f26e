//go:build real

package upstream_test

import (
	"context"
	"encoding/binary"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
	"github.com/braidmq/braid/test/realparts"
)

// requests counts what goes out over the connections of a dialer, by API.
type requests struct{ count [100]atomic.Int32 }

func (r *requests) of(k kmsg.Key) int32 { return r.count[k].Swap(0) }

func (r *requests) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	return &counted{Conn: c, r: r}, err
}

type counted struct {
	net.Conn
	r *requests
}

// Write gets whole requests: {size int32, key int16, …}.
func (c *counted) Write(b []byte) (int, error) {
	c.r.count[binary.BigEndian.Uint16(b[4:])].Add(1)
	return c.Conn.Write(b)
}

func TestRealBroker(t *testing.T) {
	k := realparts.StartKafka(t, 256, "marks")[0]
	var r requests
	c := open(t, upstream.Config{Dialer: r.dial}, k.Seed)
	ctx := t.Context()
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Seed), kgo.TransactionalID("x"), kgo.DefaultProduceTopic("txn"))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	for _, topic := range []string{"t", "u", "txn"} {
		require.NoError(t, c.CreateTopic(ctx, topic, 3, 1, nil, false))
	}
	require.NoError(t, c.CreateTopic(ctx, "compact", 1, 1, map[string]string{"cleanup.policy": "compact", "compression.type": "zstd"}, false))

	t.Run("marks are appended once", func(t *testing.T) {
		batches := marks(t, 80)
		for _, p := range []upstream.Partition{part("t", 0), part("compact", 0)} {
			at := add(t, c, p, batches...)
			require.Equal(t, []federation.PhysicalOffset{0, 1, 2, 3}, at)
			require.Equal(t, at, add(t, c, p, batches...), "the same again")
			require.Equal(t, at, add(t, open(t, upstream.Config{}, k.Seed), p, batches...), "from somewhere else")
			checkOpenings(t, c, p, 80)
			end := c.Ends(ctx, []upstream.Partition{p})[0]
			require.NoError(t, end.Err)
			require.EqualValues(t, 4, end.LogEnd)
		}
	})
	t.Run("what is forgotten has no offset", func(t *testing.T) {
		for i := range int32(8) {
			add(t, c, part("u", 2), batch(pid, 0, i, 1))
		}
		a := c.AppendMarks(ctx, []upstream.MarkAppend{{Partition: part("u", 2), Batch: batch(pid, 0, 0, 1)}})[0]
		require.Contains(t, []federation.Kind{federation.OutOfOrderSequence, federation.DuplicateSequence}, federation.KindOf(a.Err), "%v", a.Err)
		require.EqualValues(t, -1, a.Offset)
	})
	t.Run("behind a primer any sequence is a first one", func(t *testing.T) {
		require.Equal(t, []federation.PhysicalOffset{4}, add(t, c, part("t", 0), batch(pid, 3, 500, 2)))
	})
	t.Run("producers are listed with one request", func(t *testing.T) {
		add(t, c, part("t", 1), batch(pid, 0, 2147483640, 16), batch(pid+1, 0, 0, 1), batch(pid+1, 1, 0, 3))
		r.of(kmsg.DescribeProducers)
		r.of(kmsg.Fetch)
		got := c.Producers(ctx, []upstream.Partition{part("t", 0), part("t", 1), part("t", 2)})
		require.EqualValues(t, 1, r.of(kmsg.DescribeProducers))
		require.Zero(t, r.of(kmsg.Fetch))
		require.Equal(t, upstream.ProducerState{ID: pid, Epoch: 3, LastSequence: 501, TxnStart: -1}, got[0].States[pid])
		require.Len(t, got[0].States, 2, "and the marks' own")
		require.Equal(t, upstream.ProducerStates{
			pid:     {ID: pid, LastSequence: 7, TxnStart: -1}, // wrapped
			pid + 1: {ID: pid + 1, Epoch: 1, LastSequence: 2, TxnStart: -1},
		}, got[1].States)
		require.Empty(t, got[2].States)
		require.NoError(t, got[2].Err)
	})
	t.Run("an empty listing is believed after one look", func(t *testing.T) {
		r.of(kmsg.Fetch)
		require.Empty(t, producersOf(t, c, part("u", 0)))
		require.Zero(t, r.of(kmsg.Fetch), "nothing is in the log")
		plain, err := kgo.NewClient(kgo.SeedBrokers(k.Seed), kgo.DisableIdempotentWrite(), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		require.NoError(t, err)
		defer plain.Close()
		require.NoError(t, plain.ProduceSync(ctx, &kgo.Record{Topic: "u", Partition: 0}).FirstErr())
		require.Empty(t, producersOf(t, c, part("u", 0)))
		require.EqualValues(t, 1, r.of(kmsg.Fetch))
	})
	t.Run("transactions", func(t *testing.T) { realTransactions(t, c, client) })
	t.Run("a scan says what the broker says", func(t *testing.T) {
		for _, p := range []upstream.Partition{part("t", 0), part("t", 1), part("t", 2), part("u", 0), part("u", 2), part("compact", 0), part("txn", 0), part("txn", 1), part("txn", 2)} {
			states, err := c.ScanProducers(ctx, p)
			require.NoError(t, err)
			require.Equal(t, producersOf(t, c, p), states, "%v", p)
		}
	})
	t.Run("ends", func(t *testing.T) {
		del := kmsg.NewPtrDeleteRecordsRequest()
		rt := kmsg.NewDeleteRecordsRequestTopic()
		rt.Topic, rt.Partitions = "t", []kmsg.DeleteRecordsRequestTopicPartition{{Partition: 0, Offset: 3}}
		del.Topics = append(del.Topics, rt)
		_, err := del.RequestWith(ctx, client)
		require.NoError(t, err)
		info, err := c.Topics(ctx, "t")
		require.NoError(t, err)
		require.Equal(t, upstream.PartitionEnds{LogStart: 3, HighWatermark: 6, LogEnd: 6, Epoch: info["t"].Partitions[0].Epoch},
			c.Ends(ctx, []upstream.Partition{part("t", 0)})[0])
		var bases []int64
		require.NoError(t, c.ReadBatches(ctx, part("t", 0), 0, 6, func(h recordbatch.Header, _ []byte) bool {
			bases = append(bases, h.BaseOffset)
			return true
		}))
		require.Equal(t, []int64{3, 4}, bases)
	})
	t.Run("a broker that died knows it all again", func(t *testing.T) {
		before := producersOf(t, c, part("t", 1))
		ends := c.Ends(ctx, []upstream.Partition{part("t", 1)})[0]
		k.Kill()
		k.Restart(t)
		require.Equal(t, before, producersOf(t, c, part("t", 1)))
		require.Equal(t, []federation.PhysicalOffset{17}, add(t, c, part("t", 1), batch(pid+1, 1, 0, 3)))
		again := c.Ends(ctx, []upstream.Partition{part("t", 1)})[0]
		require.NoError(t, again.Err)
		require.Equal(t, ends.LogEnd, again.LogEnd)
		require.Greater(t, again.Epoch, ends.Epoch)
	})
}

func realTransactions(t *testing.T, c *upstream.Cluster, client *kgo.Client) {
	parts := []upstream.Partition{part("txn", 0), part("txn", 1), part("txn", 2)}
	inTransaction := func() (n int) {
		for _, got := range c.Producers(t.Context(), parts) {
			require.NoError(t, got.Err)
			for _, s := range got.States {
				if s.TxnStart >= 0 {
					n++
				}
			}
		}
		return n
	}
	require.NoError(t, client.BeginTransaction())
	require.NoError(t, client.ProduceSync(t.Context(), kgo.StringRecord("v")).FirstErr())
	require.Equal(t, 1, inTransaction())
	require.NoError(t, client.EndTransaction(t.Context(), kgo.TryCommit))
	require.Eventually(t, func() bool { return inTransaction() == 0 }, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, client.BeginTransaction())
	require.NoError(t, client.ProduceSync(t.Context(), kgo.StringRecord("v"), kgo.StringRecord("w")).FirstErr())
	require.Equal(t, 1, inTransaction())
	// A transaction stays open for the comparison of list and scan.
}

// What the leader has and no follower: it is in LogEnd, not in HighWatermark, and
// an append is no success before it is replicated.
func TestRealReplicas(t *testing.T) {
	k := realparts.StartKafka(t, 256, "replicas")[0]
	follower := k.AddBroker(t, 2)
	c := open(t, upstream.Config{AdminTimeout: 2 * time.Second}, k.Seed)
	require.Eventually(t, func() bool { return c.CreateTopic(t.Context(), "t", 4, 2, nil, false) == nil }, 20*time.Second, 50*time.Millisecond)
	var p upstream.Partition
	require.Eventually(t, func() bool {
		topics, err := c.Topics(t.Context(), "t")
		require.NoError(t, err)
		i := slices.IndexFunc(topics["t"].Partitions, func(p upstream.PartitionInfo) bool { return p.Leader == k.NodeID && len(p.ISR) == 2 })
		p = part("t", int32(i))
		return i >= 0
	}, 20*time.Second, 50*time.Millisecond)
	add(t, c, p, batch(pid, 0, 0, 1)) // also: the leader knows what is replicated
	stopped, err := os.FindProcess(follower.PID())
	require.NoError(t, err)
	require.NoError(t, stopped.Signal(syscall.SIGSTOP))
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Seed), kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: p.Topic, Partition: int32(p.Partition)}).FirstErr())
	seal := batch(pid, 0, 1, 1)
	a := c.AppendMarks(t.Context(), []upstream.MarkAppend{{Partition: p, Batch: seal}})[0]
	require.Equal(t, federation.Timeout, federation.KindOf(a.Err), "%v", a.Err)
	var ends upstream.PartitionEnds
	require.Eventually(t, func() bool { // the broker that stands still may be the one that is asked who leads
		ends = c.Ends(t.Context(), []upstream.Partition{p})[0]
		return ends.Err == nil
	}, 20*time.Second, 50*time.Millisecond)
	require.Equal(t, []federation.PhysicalOffset{0, 1, 3}, []federation.PhysicalOffset{ends.LogStart, ends.HighWatermark, ends.LogEnd}, "and the seal is in it once")
	all := func(recordbatch.Header, []byte) bool { return true }
	require.Equal(t, federation.NotEnoughReplicas, federation.KindOf(c.ReadBatches(t.Context(), p, 1, 3, all)))
	require.NoError(t, stopped.Signal(syscall.SIGCONT))
	require.Equal(t, []federation.PhysicalOffset{2}, add(t, c, p, seal))
	require.NoError(t, c.ReadBatches(t.Context(), p, 1, 3, all))
	ends = c.Ends(t.Context(), []upstream.Partition{p})[0]
	require.EqualValues(t, 3, ends.HighWatermark)
}
