package router_test

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

type ids struct{ n atomic.Int64 }

func (i *ids) NextProducerID(context.Context) (int64, error) { return 1<<48 + i.n.Add(1), nil }

// world is a router over two embedded clusters.
type world struct {
	*federationtest.World
	r        *router.Router
	pool     *upstream.Pool
	clusters map[string]*kfake.Cluster
}

// newWorld seeds each cluster with the physical topic "phys" of n partitions.
func newWorld(t *testing.T, n int32) *world {
	t.Helper()
	return newWorldWith(t, n, router.Config{}, nil)
}

func newWorldWith(t *testing.T, n int32, cfg router.Config, seen router.LeaderSeen) *world {
	t.Helper()
	w := &world{clusters: make(map[string]*kfake.Cluster)}
	seeds := make(map[string][]string)
	for _, name := range []string{"a", "b"} {
		c, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(n, "phys"))
		require.NoError(t, err)
		t.Cleanup(c.Close)
		w.clusters[name], seeds[name] = c, c.ListenAddrs()
	}
	w.World = federationtest.New(seeds)
	w.pool = w.newPool(t)
	w.r = w.router(t, cfg, seen)
	return w
}

// newPool makes a pool of the world's clusters, which knows nothing of them.
func (w *world) newPool(t *testing.T) *upstream.Pool {
	t.Helper()
	return w.poolOf(t, upstream.Config{})
}

func (w *world) poolOf(t *testing.T, cfg upstream.Config) *upstream.Pool {
	t.Helper()
	pool := upstream.NewPool(cfg)
	t.Cleanup(pool.Close)
	var all []*federation.Cluster
	for _, c := range w.Current().Clusters {
		all = append(all, c)
	}
	pool.Update(all)
	return pool
}

// router makes a router over the world: another one stands for another gateway.
func (w *world) router(t *testing.T, cfg router.Config, seen router.LeaderSeen) *router.Router {
	t.Helper()
	r := router.New(t.Context(), cfg, router.Deps{Maps: w, Clusters: w.pool, Lease: w, ProducerIDs: &ids{}, LeaderSeen: seen})
	t.Cleanup(r.Close)
	return r
}

func at(topic string, p int) federation.TopicPartition {
	return federation.TopicPartition{Topic: federation.TopicName(topic), Partition: federation.LogicalPartition(p)}
}

func batch(prod recordbatch.Producer, values ...string) []byte {
	var b recordbatch.Builder
	b.Reset(nil)
	for _, v := range values {
		b.Add(&recordbatch.Record{TimestampMs: 1_700_000_000_000, Value: []byte(v)})
	}
	return b.Finish(prod)
}

// produce appends and waits.
func produce(t *testing.T, s router.Session, appends ...router.Append) []router.Appended {
	t.Helper()
	ch := make(chan []router.Appended, 1)
	require.NoError(t, s.Produce(t.Context(), router.AcksAll, 10*time.Second, appends, func(a []router.Appended) { ch <- a }))
	return <-ch
}

// values reads a partition from an offset until n records were seen, and
// returns "offset:value" of each.
func values(t *testing.T, s router.Session, tp federation.TopicPartition, from federation.LogicalOffset, n int) []string {
	t.Helper()
	out, err := readValues(t.Context(), s, tp, from, n)
	require.NoError(t, err)
	return out
}

// A valuesRead is what a reader in another goroutine has to say.
type valuesRead struct {
	values []string
	err    error
}

// readValues is values for other goroutines than the test's.
func readValues(ctx context.Context, s router.Session, tp federation.TopicPartition, from federation.LogicalOffset, n int) ([]string, error) {
	var out []string
	deadline := time.Now().Add(15 * time.Second)
	for len(out) < n {
		if !time.Now().Before(deadline) {
			return nil, fmt.Errorf("read %d of %d records: %v", len(out), n, out)
		}
		f, err := s.Fetch(ctx, []router.Position{{TopicPartition: tp, Offset: from, MaxBytes: 1 << 20, CurrentEpoch: -1, LastFetchedEpoch: -1}},
			router.FetchLimit{MinBytes: 1, MaxBytes: 1 << 20, MaxWait: 2 * time.Second, ReadCommitted: true})
		if err != nil {
			return nil, err
		}
		next := from
		if err = f.Slices[0].Err; err == nil {
			for _, b := range f.Slices[0].Records {
				if out, next, err = appendValues(out, b, from, next); err != nil {
					break
				}
			}
		}
		f.Release()
		if err != nil {
			return nil, err
		}
		from = next
	}
	return out, nil
}

// appendValues appends the records of batches that are not before from; it
// returns the offset to go on at, which is next if there are no batches.
func appendValues(out []string, batches []byte, from, next federation.LogicalOffset) ([]string, federation.LogicalOffset, error) {
	for len(batches) > 0 {
		one, rest := recordbatch.Next(batches)
		if one == nil {
			return out, next, fmt.Errorf("%d bytes behind offset %d are no batch", len(batches), next)
		}
		batches = rest
		r := recordbatch.NewReader(1 << 20)
		if err := r.Reset(one); err != nil {
			return out, next, err
		}
		var rec recordbatch.Record
		for {
			ok, err := r.Next(&rec)
			if err != nil {
				return out, next, err
			}
			if !ok {
				break
			}
			if federation.LogicalOffset(rec.Offset) >= from {
				out = append(out, fmt.Sprintf("%d:%s", rec.Offset, rec.Value))
			}
			next = federation.LogicalOffset(rec.Offset) + 1
		}
		next = max(next, federation.LogicalOffset(r.Header().LastOffset())+1)
	}
	return out, next, nil
}

// write appends to a physical partition directly.
func write(t *testing.T, c *kfake.Cluster, partition int32, values ...string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer cl.Close()
	for _, v := range values {
		require.NoError(t, cl.ProduceSync(t.Context(), &kgo.Record{Topic: "phys", Partition: partition, Value: []byte(v)}).FirstErr())
	}
}

func TestAppendAndRead(t *testing.T) {
	w := newWorld(t, 2)
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)}, []*federation.Extent{federationtest.Head("b", "phys", 0)})
	s := w.r.NewSession()
	defer s.Close()
	for i := range 20 {
		for _, a := range produce(t, s,
			router.Append{TopicPartition: at("orders", 0), Batch: batch(recordbatch.NoProducer, fmt.Sprint("x", i))},
			router.Append{TopicPartition: at("orders", 1), Batch: batch(recordbatch.NoProducer, fmt.Sprint("y", i))}) {
			require.NoError(t, a.Err)
			require.EqualValues(t, i, a.BaseOffset)
		}
	}
	got := values(t, s, at("orders", 0), 0, 20)
	require.Equal(t, "0:x0", got[0])
	require.Equal(t, "19:x19", got[19])
	require.Equal(t, []string{"18:y18", "19:y19"}, values(t, s, at("orders", 1), 18, 2))
}

func TestTailWakesReaders(t *testing.T) {
	w := newWorld(t, 1)
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)})
	s, r := w.r.NewSession(), w.r.NewSession()
	defer s.Close()
	defer r.Close()
	got := make(chan valuesRead, 1)
	go func() {
		all, err := readValues(t.Context(), r, at("orders", 0), 0, 50)
		got <- valuesRead{all, err}
	}()
	for i := range 50 {
		require.NoError(t, produce(t, s, router.Append{TopicPartition: at("orders", 0), Batch: batch(recordbatch.NoProducer, strconv.Itoa(i))})[0].Err)
	}
	read := <-got
	require.NoError(t, read.err)
	require.Len(t, read.values, 50)
	for i, v := range read.values {
		require.Equal(t, fmt.Sprintf("%d:%d", i, i), v)
	}
}

// A chain of a sealed extent with foreign records around it, an offset gap, a
// sealed extent that retention has emptied at its start, and the head.
func TestReadOverChain(t *testing.T) {
	w := newWorld(t, 4)
	write(t, w.clusters["a"], 0, "primer", "v0", "v1", "v2", "seal", "late")
	write(t, w.clusters["b"], 0, "v10", "v11", "v12", "seal")
	write(t, w.clusters["a"], 1, "primer")
	first, second, head := federationtest.Head("a", "phys", 0), federationtest.Head("b", "phys", 0), federationtest.Head("a", "phys", 1)
	first.Start, first.End, first.State = 1, 4, federation.ExtentSealed
	second.Number, second.Base, second.Start, second.End, second.State = 1, 10, 0, 3, federation.ExtentSealed
	second.Epochs = []federation.EpochEntry{{Physical: 0, Logical: 2}}
	head.Number, head.Base, head.Start = 2, 13, 1
	head.Epochs = []federation.EpochEntry{{Physical: 0, Logical: 5}}
	w.SetTopic("orders", nil, []*federation.Extent{first, second, head})
	s := w.r.NewSession()
	defer s.Close()
	tp := at("orders", 0)
	a := produce(t, s, router.Append{TopicPartition: tp, Batch: batch(recordbatch.NoProducer, "v13", "v14")})
	require.NoError(t, a[0].Err)
	require.EqualValues(t, 13, a[0].BaseOffset)
	all := []string{"0:v0", "1:v1", "2:v2", "10:v10", "11:v11", "12:v12", "13:v13", "14:v14"}
	require.Equal(t, all, values(t, s, tp, 0, 8))
	require.Equal(t, all[3:], values(t, s, tp, 5, 5), "an offset in the gap goes on behind it")

	q := s.ListOffsets(t.Context(), []router.OffsetQuery{
		{TopicPartition: tp, TimestampMs: router.TimestampEarliest, CurrentEpoch: -1},
		{TopicPartition: tp, TimestampMs: router.TimestampLatest, CurrentEpoch: -1},
		{TopicPartition: tp, TimestampMs: 0, CurrentEpoch: -1},
	})
	for i, want := range []federation.LogicalOffset{0, 15, 0} {
		require.NoError(t, q[i].Err)
		require.Equal(t, want, q[i].Offset, "query %d", i)
	}
	ends := s.OffsetsForEpochs(t.Context(), []router.EpochQuery{
		{TopicPartition: tp, CurrentEpoch: -1, Epoch: 1}, {TopicPartition: tp, CurrentEpoch: -1, Epoch: 3}, {TopicPartition: tp, CurrentEpoch: -1, Epoch: 5},
	})
	// The first one ends where the gap does: a position in the gap is not behind its end.
	for i, want := range []router.EpochEnd{{Epoch: 1, End: 10}, {Epoch: 2, End: 13}, {Epoch: 5, End: 15}} {
		require.NoError(t, ends[i].Err)
		require.Equal(t, want, ends[i].EpochEnd)
	}

	del := s.DeleteRecords(t.Context(), []router.DeleteBefore{{TopicPartition: tp, Offset: 11}})
	require.NoError(t, del[0].Err)
	require.EqualValues(t, 11, del[0].LowWatermark)
	require.Equal(t, all[4:], values(t, s, tp, 11, 4))
	f, err := s.Fetch(t.Context(), []router.Position{{TopicPartition: tp, Offset: 2, MaxBytes: 1000, CurrentEpoch: -1}}, router.FetchLimit{MaxBytes: 1000, MaxWait: time.Second})
	require.NoError(t, err)
	require.Equal(t, federation.OffsetOutOfRange, federation.KindOf(f.Slices[0].Err))
}

// A reader behind the tail finds the next answer under way, and what it does not
// ask for any more is given back.
func TestReadAheadIsBounded(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{ReadAheadBytesMax: 3000}, nil)
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)})
	s := w.r.NewSession()
	for i := range 40 {
		require.NoError(t, produce(t, s, router.Append{TopicPartition: at("orders", 0), Batch: batch(recordbatch.NoProducer, fmt.Sprintf("%0200d", i))})[0].Err)
	}
	fetch := func(s router.Session, from federation.LogicalOffset) {
		f, err := s.Fetch(t.Context(), []router.Position{{TopicPartition: at("orders", 0), Offset: from, MaxBytes: 1000, CurrentEpoch: -1}}, router.FetchLimit{MinBytes: 1, MaxBytes: 1000, MaxWait: 10 * time.Second})
		require.NoError(t, err)
		require.NotZero(t, f.Slices[0].Bytes())
		f.Release()
	}
	var sessions []router.Session
	for range 5 {
		r := w.r.NewSession()
		sessions = append(sessions, r)
		fetch(r, 0)
		require.LessOrEqual(t, w.r.Stats().ReadAheadBytes, int64(3000))
	}
	require.EqualValues(t, 3000, w.r.Stats().ReadAheadBytes)
	fetch(sessions[0], 30) // somewhere else
	for _, r := range sessions {
		r.Close()
	}
	require.Eventually(t, func() bool { return w.r.Stats().ReadAheadBytes == 0 }, 5*time.Second, time.Millisecond)
	s.Close()
}

// Epochs and offsets of what is read are the logical ones.
func TestReadPatchesEpoch(t *testing.T) {
	w := newWorld(t, 1)
	head := federationtest.Head("a", "phys", 0)
	head.Base, head.Epochs = 100, []federation.EpochEntry{{Physical: 0, Logical: 7}}
	w.SetTopic("orders", nil, []*federation.Extent{head})
	s := w.r.NewSession()
	defer s.Close()
	write(t, w.clusters["a"], 0, "v")
	f, err := s.Fetch(t.Context(), []router.Position{{TopicPartition: at("orders", 0), Offset: 100, MaxBytes: 1000, CurrentEpoch: -1}}, router.FetchLimit{MinBytes: 1, MaxBytes: 1000, MaxWait: 5 * time.Second})
	require.NoError(t, err)
	defer f.Release()
	h, ok := recordbatch.ParseHeader(f.Slices[0].Records[0])
	require.True(t, ok)
	require.EqualValues(t, 7, h.LeaderEpoch)
	require.EqualValues(t, 100, h.BaseOffset)
	require.EqualValues(t, 101, f.Slices[0].HighWatermark)
}

// The leader of a partition moves again and again under a pipelining idempotent
// producer: everything lands once, in order.
func TestLeaderMovesUnderLoad(t *testing.T) {
	w := newWorld(t, 1)
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)})
	s := w.r.NewSession()
	defer s.Close()
	id, epoch, err := s.InitProducer(t.Context(), -1, -1)
	require.NoError(t, err)
	const n = 400
	sem := make(chan struct{}, 5)
	errs := make(chan error, n)
	for i := range n {
		sem <- struct{}{}
		if i%50 == 25 {
			require.NoError(t, w.clusters["a"].MoveTopicPartition("phys", 0, int32(i/50)%2))
		}
		b := batch(recordbatch.Producer{ID: id, Epoch: epoch, Sequence: int32(i)}, strconv.Itoa(i))
		require.NoError(t, s.Produce(t.Context(), router.AcksAll, 20*time.Second, []router.Append{{TopicPartition: at("orders", 0), Batch: b}}, func(a []router.Appended) {
			errs <- a[0].Err
			<-sem
		}))
	}
	for range n {
		require.NoError(t, <-errs)
	}
	for i, v := range values(t, s, at("orders", 0), 0, n) {
		require.Equal(t, fmt.Sprintf("%d:%d", i, i), v)
	}
	st := w.r.Stats()
	require.EqualValues(t, n, st.Appends)
	require.Zero(t, st.AppendFailures)
	require.Zero(t, st.AppendBytesInFlight)
	require.Positive(t, st.AppendRetries, "the leader did not move in the middle")
}

// Many groups at the tail cost the brokers one read.
func TestTailIsShared(t *testing.T) {
	w := newWorld(t, 1)
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)})
	const readers, n = 20, 200
	got := make(chan valuesRead, readers)
	for range readers {
		r := w.r.NewSession()
		t.Cleanup(r.Close)
		go func() {
			all, err := readValues(t.Context(), r, at("orders", 0), 0, n)
			got <- valuesRead{all, err}
		}()
	}
	require.Eventually(t, func() bool { return w.r.Stats().TailFetches > 0 }, 10*time.Second, time.Millisecond)
	s := w.r.NewSession()
	defer s.Close()
	for i := range n {
		require.NoError(t, produce(t, s, router.Append{TopicPartition: at("orders", 0), Batch: batch(recordbatch.NoProducer, strconv.Itoa(i))})[0].Err)
	}
	for range readers {
		read := <-got
		require.NoError(t, read.err)
		require.Len(t, read.values, n)
	}
	st := w.r.Stats()
	require.Less(t, st.DirectBytes, st.AppendBytes*2, "the readers read by themselves: %+v", st)
	require.Greater(t, st.TailBytes, st.AppendBytes*(readers-3))
}

// Without a lease nothing is acknowledged.
func TestNoAckWithoutLease(t *testing.T) {
	w := newWorld(t, 1)
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)})
	s := w.r.NewSession()
	defer s.Close()
	w.Lapse(true)
	ch := make(chan []router.Appended, 1)
	require.NoError(t, s.Produce(t.Context(), router.AcksAll, 300*time.Millisecond, []router.Append{{TopicPartition: at("orders", 0), Batch: batch(recordbatch.NoProducer, "v")}}, func(a []router.Appended) { ch <- a }))
	require.Equal(t, federation.NoLeader, federation.KindOf((<-ch)[0].Err))
	w.Lapse(false)
	a := produce(t, s, router.Append{TopicPartition: at("orders", 0), Batch: batch(recordbatch.NoProducer, "v")})
	require.NoError(t, a[0].Err)
	require.EqualValues(t, 0, a[0].BaseOffset, "the held append was never sent")
}

func TestDuplicateIsAnsweredWithItsOffset(t *testing.T) {
	w := newWorld(t, 1)
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)})
	s := w.r.NewSession()
	defer s.Close()
	b := func() router.Append {
		return router.Append{TopicPartition: at("orders", 0), Batch: batch(recordbatch.Producer{ID: 1<<48 + 7, Epoch: 0, Sequence: 0}, "v")}
	}
	for range 2 {
		a := produce(t, s, b())
		require.NoError(t, a[0].Err)
		require.EqualValues(t, 0, a[0].BaseOffset)
	}
	require.Equal(t, []string{"0:v"}, values(t, s, at("orders", 0), 0, 1))
}

// A topic that is deleted and created again has nothing of the old one.
func TestTopicCreatedAgain(t *testing.T) {
	w := newWorld(t, 2)
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)})
	s := w.r.NewSession()
	defer s.Close()
	require.NoError(t, produce(t, s, router.Append{TopicPartition: at("orders", 0), Batch: batch(recordbatch.NoProducer, "a", "b", "c")})[0].Err)
	require.Len(t, values(t, s, at("orders", 0), 0, 3), 3)
	w.Change(func(m *federation.Map) { delete(m.Topics, "orders") })
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 1)})
	a := produce(t, s, router.Append{TopicPartition: at("orders", 0), Batch: batch(recordbatch.NoProducer, "new")})
	require.NoError(t, a[0].Err)
	require.EqualValues(t, 0, a[0].BaseOffset)
	f, err := s.Fetch(t.Context(), []router.Position{{TopicPartition: at("orders", 0), MaxBytes: 1000, CurrentEpoch: -1}}, router.FetchLimit{MinBytes: 1, MaxBytes: 1000, MaxWait: 10 * time.Second})
	require.NoError(t, err)
	require.EqualValues(t, 1, f.Slices[0].HighWatermark)
	f.Release()
}

func TestUnknownTopicAndPartition(t *testing.T) {
	w := newWorld(t, 1)
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)})
	s := w.r.NewSession()
	defer s.Close()
	a := produce(t, s, router.Append{TopicPartition: at("nope", 0), Batch: batch(recordbatch.NoProducer, "v")}, router.Append{TopicPartition: at("orders", 1), Batch: batch(recordbatch.NoProducer, "v")})
	require.Equal(t, federation.UnknownTopic, federation.KindOf(a[0].Err))
	require.Equal(t, federation.UnknownPartition, federation.KindOf(a[1].Err))
}
