package controller_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// newCompacted is newFederated with a compacted topic.
func newCompacted(t *testing.T, partitions int32, change ...func(*controller.Config)) *federated {
	t.Helper()
	f := &federated{world: newWorld(t, "a", "b", "c"), holder: &holder{}}
	f.start(t, change...)
	_, err := f.admin.create(t.Context(), "orders", partitions, func(r *adminv1.CreateTopicRequest) {
		r.Topic.Placement = &adminv1.PlacementPolicy{Weights: map[string]int32{"a": 1, "b": 0, "c": 0}}
		r.Topic.Config = map[string]string{"cleanup.policy": "compact"}
	})
	require.NoError(t, err)
	return f
}

// A kept record is one of a logical partition.
type kept struct {
	offset     federation.LogicalOffset
	key, value string
	null       bool
	ms         int64
	codec      int16
}

func (k kept) String() string { return fmt.Sprintf("%d:%s=%s", k.offset, k.key, k.value) }

// records reads a logical partition as a gateway does.
func (f *federated) records(t *testing.T, n int32) []kept {
	t.Helper()
	var out []kept
	for _, e := range f.gateway.Current().Topic("orders").Partitions[n].Extents {
		c, at := f.cluster(t, string(e.Cluster)), upstream.Partition{Topic: e.Topic, Partition: e.Partition}
		ends := c.Ends(t.Context(), []upstream.Partition{at})[0]
		require.NoError(t, ends.Err)
		_, err := c.ReadCommitted(t.Context(), at, 0, ends.HighWatermark, func(h recordbatch.Header, batch []byte) error {
			if mark.IsMark(h.ProducerID) {
				return nil
			}
			r := recordbatch.NewReader(1 << 20)
			require.NoError(t, r.Reset(batch))
			var rec recordbatch.Record
			for {
				more, err := r.Next(&rec)
				require.NoError(t, err)
				if !more {
					return nil
				}
				if p := federation.PhysicalOffset(rec.Offset); e.Holds(p) {
					out = append(out, kept{offset: e.Logical(p), key: string(rec.Key), value: string(rec.Value), null: rec.Value == nil, ms: rec.TimestampMs, codec: h.Codec()})
				}
			}
		})
		require.NoError(t, err)
	}
	return out
}

// put appends records of a producer: "key=value", or "key" for a tombstone.
func (f *federated) put(t *testing.T, at federation.PhysicalAddress, id int64, sequence int32, ms int64, records ...string) {
	t.Helper()
	var b recordbatch.Builder
	b.Reset(nil)
	for i, r := range records {
		key, value, is := strings.Cut(r, "=")
		rec := recordbatch.Record{TimestampMs: ms + int64(i), Key: []byte(key), Headers: []recordbatch.RecordHeader{{Key: "h", Value: []byte(key)}}}
		if is {
			rec.Value = []byte(value)
		}
		b.Add(&rec)
	}
	batch := b.Finish(recordbatch.Producer{ID: id, Sequence: sequence})
	got := f.cluster(t, string(at.Cluster)).AppendMarks(t.Context(), []upstream.MarkAppend{{Partition: upstream.Partition{Topic: at.Topic, Partition: at.Partition}, Batch: batch}})
	require.NoError(t, got[0].Err)
}

// fill writes three records to each of some partitions.
func (f *federated) fill(t *testing.T, partitions int32) {
	t.Helper()
	for i := range partitions {
		f.put(t, f.head(i), pid+int64(i), 0, 1000, "x=1", "y=2", "x")
	}
}

// filled checks that they are what a partition has, at the same offsets, and nothing else.
func (f *federated) filled(t *testing.T, partitions int32, on federation.ClusterName) {
	t.Helper()
	for i := range partitions {
		p := f.partition(t, i, on)
		require.Len(t, p.Extents, 1, "the old extents are gone")
		require.EqualValues(t, 3, p.Head().Base)
		require.Zero(t, p.Head().First())
		require.Equal(t, "[0:x=1 1:y=2 2:x=]", fmt.Sprint(f.records(t, i)))
		require.EqualValues(t, 2, f.carried(t, p.Head())[pid+int64(i)].LastSequence)
	}
}

func TestCompactedHeadTakesItsRecordsAlong(t *testing.T) {
	f := newCompacted(t, 1)
	first := f.head(0)
	f.put(t, first, pid, 0, 1000, "k1=a", "k2=b", "k1=c")
	f.put(t, first, pid, 3, 2000, "k2") // a tombstone
	// Markers, and what was aborted, are holes.
	c, err := kgo.NewClient(kgo.SeedBrokers(f.kafka["a"].ListenAddrs()...), kgo.TransactionalID("bank"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	require.NoError(t, err)
	defer c.Close()
	for _, commit := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit} {
		require.NoError(t, c.BeginTransaction())
		require.NoError(t, c.ProduceSync(t.Context(), &kgo.Record{Topic: first.Topic, Key: []byte("k3"), Value: []byte(strings.Repeat("v", 10+bool2int(bool(commit)))), Timestamp: time.UnixMilli(3000)}).FirstErr())
		require.NoError(t, c.EndTransaction(t.Context(), commit))
	}
	// One that is passed on as it is.
	large := strings.Repeat("large", 10_000)
	f.put(t, first, pid, 4, 4000, "k4="+large)
	f.put(t, first, pid, 5, 5000, "k5=e", "=null key is empty")
	before := f.records(t, 0)
	require.Len(t, before, 8)
	epoch := f.gateway.Current().Topic("orders").Partitions[0].Epoch
	end := federation.LogicalOffset(11) // with an aborted record and two markers

	f.moved(t, f.move(t, "b", 0))
	p := f.partition(t, 0, "b")
	require.Len(t, p.Extents, 1, "the old extent is gone")
	head := p.Head()
	require.Equal(t, end, head.Base)
	require.Equal(t, end-8, head.First())
	require.Greater(t, p.Epoch, epoch)
	require.EqualValues(t, 6, f.carried(t, head)[pid].LastSequence)
	after := f.records(t, 0)
	same := func(after []kept) {
		t.Helper()
		require.Len(t, after, len(before))
		for i := range before {
			require.GreaterOrEqual(t, after[i].offset, before[i].offset, "no reader that has come so far misses it")
			want := before[i]
			want.offset = end - federation.LogicalOffset(len(before)-i)
			require.Equal(t, want, after[i])
		}
	}
	same(after)
	require.Equal(t, before[7].offset, after[7].offset, "what no hole follows keeps its offset")

	// Clients go on behind them, and a second move takes both along.
	f.put(t, head.PhysicalAddress, pid, 7, 6000, "k1=f")
	f.moved(t, f.move(t, "c", 0))
	p = f.partition(t, 0, "c")
	require.Len(t, p.Extents, 1)
	require.Equal(t, end+1, p.Head().Base)
	require.Equal(t, end-8, p.Head().First())
	all := f.records(t, 0)
	require.Equal(t, kept{offset: end, key: "k1", value: "f", ms: 6000}, all[8])
	same(all[:8])
	require.EqualValues(t, 7, f.carried(t, p.Head())[pid].LastSequence)
}

func bool2int(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Steps at which the move of a compacted head can be stopped.
var copySteps = []struct {
	name  string
	stop  func(f *federated) (g *gate, drop func())
	began bool // no way back
}{
	{"the plan is saved", stopSave([]string{`"planned":true`}, []string{`"primed":true`}), false},
	{"the primers are saved", stopSave([]string{`"primed":true`}, []string{`"ending"`}), false},
	{"the logs are read", stopKafka("a", kmsg.Fetch, isRead), false},
	{"the first copies are appended", stopKafka("b", kmsg.Produce, appendsCopy), false},
	{"the heads are marked as sealing", stopMap(func(e []*controlv1.ExtentEntry) bool {
		return e[len(e)-1].GetState() == controlv1.ExtentEntry_STATE_SEALING
	}), false},
	{"the end is decided", stopSave([]string{`"ending":`}, nil), false},
	{"the seals are appended", stopKafka("a", kmsg.Produce, appendsMark(mark.KindSeal)), true},
	{"the openings are appended", stopKafka("b", kmsg.Produce, appendsMark(mark.KindOpening)), true},
	{"the map is written", stopMap(func(e []*controlv1.ExtentEntry) bool { return len(e) == 1 && e[0].GetCopies() != nil }), true},
	{"the first round is saved", stopSaveAfter([]string{`"ending":`}, []string{`"primed":true`}, []string{`"ending":`}), true},
	{"the end of the operation is saved", stopSave([]string{`"done":true`}, nil), true},
}

// isRead reports whether a Fetch reads what a controller copies.
func isRead(req kmsg.Request) bool {
	r := req.(*kmsg.FetchRequest)
	return r.IsolationLevel == 1 && len(r.Topics) > 0 && strings.HasSuffix(r.Topics[0].Topic, "orders.1")
}

func appendsCopy(req kmsg.Request) bool {
	for _, t := range req.(*kmsg.ProduceRequest).Topics {
		for _, p := range t.Partitions {
			if h, ok := recordbatch.ParseHeader(p.Records); ok && strings.HasSuffix(t.Topic, "orders.1") && !mark.IsMark(h.ProducerID) {
				return true
			}
		}
	}
	return false
}

func TestLeaderKilledAtEachStepOfACompactedMove(t *testing.T) {
	twoRounds := func(c *controller.Config) { c.SealHeadsMax = 2 }
	for _, step := range copySteps {
		for _, lost := range []bool{true, false} {
			t.Run(fmt.Sprintf("before %s, lost=%t", step.name, lost), func(t *testing.T) {
				t.Parallel()
				f := newCompacted(t, 3, twoRounds)
				f.fill(t, 3)
				g, drop := step.stop(f)
				op := f.move(t, "b", 0, 1, 2)
				g.await(t)
				if lost {
					drop()
				}
				next := f.start(t, twoRounds)
				f.nodes[0].net.set(true) // before the store answers
				close(g.open)
				f.nodes[0].kill()
				next.leads(t)
				f.admin = adminOf(t, next.url)
				f.moved(t, op)
				f.filled(t, 3, "b")
			})
		}
	}
}

func TestCompactedMoveCancelledAtEachStep(t *testing.T) {
	twoRounds := func(c *controller.Config) { c.SealHeadsMax = 2 }
	for _, step := range copySteps {
		t.Run("before "+step.name, func(t *testing.T) {
			t.Parallel()
			f := newCompacted(t, 3, twoRounds)
			f.fill(t, 3)
			g, _ := step.stop(f)
			op := f.move(t, "b", 0, 1, 2)
			g.await(t)
			// It answers when the operation has ended; that waits for the gate.
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, _ = f.admin.operations.CancelOperation(ctx, &adminv1.CancelOperationRequest{Name: op.GetName()})
			close(g.open)
			done := f.admin.await(t, op.GetName())
			f.noneSealing(t)
			want := int32(connect.CodeCanceled)
			if step.name == "the end of the operation is saved" {
				want = 0
			}
			require.Equal(t, want, done.GetErrorCode(), done.GetErrorMessage())
			f.admin.awaitMove(t, "orders", "c", 0, 1, 2)
			f.filled(t, 3, "c")
		})
	}
}

func TestCompactedMoveUnderWrites(t *testing.T) {
	f := newCompacted(t, 1, func(c *controller.Config) { c.SealWait = 5 * time.Second })
	f.fill(t, 1)
	old := f.head(0)
	// What comes after the first pass is copied too, also while the head is held.
	appended := 0
	more := func() {
		f.put(t, old, pid, int32(3+appended), 2000+int64(appended), fmt.Sprintf("k%d=%d", appended%3, appended))
		appended++
	}
	g := stopAt(f.kafka["b"], kmsg.Produce, appendsCopy)
	op := f.move(t, "b", 0)
	g.await(t)
	more()
	f.holder.set(func(h *holder) { h.asking = more })
	close(g.open)
	f.moved(t, op)
	p := f.partition(t, 0, "b")
	require.GreaterOrEqual(t, appended, 2)
	require.EqualValues(t, 3+appended, p.Head().Base)
	require.Zero(t, p.Head().First())
	got := f.records(t, 0)
	require.Len(t, got, 3+appended)
	for i, r := range got[3:] {
		require.Equal(t, fmt.Sprintf("%d:k%d=%d", 3+i, i%3, i), r.String())
	}
	require.EqualValues(t, 2+appended, f.carried(t, p.Head())[pid].LastSequence)
}

// Records of a gateway that was cut off, which come after all was copied, were
// acknowledged by nobody: they are no part of the topic, and their producer may
// send them again.
func TestLateRecordsOfACompactedMove(t *testing.T) {
	f := newCompacted(t, 1)
	f.fill(t, 1)
	old := f.head(0)
	g := stopAt(f.kafka["a"], kmsg.Produce, appendsMark(mark.KindSeal))
	op := f.move(t, "b", 0)
	g.await(t)
	f.put(t, old, pid, 3, 9000, "late=1") // below the seal
	close(g.open)
	f.moved(t, op)
	f.filled(t, 1, "b")
}

func TestTargetOfACompactedMoveThatSomebodyWritesTo(t *testing.T) {
	f := newCompacted(t, 1)
	f.fill(t, 1)
	g, _ := stopSave([]string{`"primed":true`}, []string{`"ending"`})(f)
	op := f.move(t, "b", 0)
	g.await(t)
	spoiled := federation.PhysicalAddress{Cluster: "b", Topic: "default.orders.1"}
	f.put(t, spoiled, pid+7, 0, 1000, "z=1")
	close(g.open)
	f.moved(t, op)
	f.filled(t, 1, "b")
	require.NotEqual(t, spoiled, f.head(0), "it was copied again, to another partition")
}

func TestCompactedTopicsThatCannotMove(t *testing.T) {
	f := newCompacted(t, 1)
	f.fill(t, 1)
	set := func(key, value string) { f.set(t, key, value) }
	set("message.timestamp.type", "LogAppendTime")
	_, err := f.admin.topics.MovePartitions(t.Context(), &adminv1.MovePartitionsRequest{Name: topicName("orders"), Partitions: []int32{0}, PhysicalCluster: "b"})
	requireKind(t, federation.PolicyViolation, err)
	require.ErrorContains(t, err, "message.timestamp.type=CreateTime")
	set("message.timestamp.type", "CreateTime")

	set("delete.retention.ms", "0")
	op := f.move(t, "b", 0)
	done := f.admin.await(t, op.GetName())
	require.Contains(t, done.GetErrorMessage(), "delete.retention.ms")
	require.Contains(t, done.GetErrorMessage(), "Raise")
	f.noneSealing(t)
	require.Equal(t, federation.ClusterName("a"), f.head(0).Cluster)
	set("delete.retention.ms", "60000")
	f.moved(t, f.move(t, "b", 0))
	f.filled(t, 1, "b")
}

// Extents that a topic had before it was compacted are taken along as well.
func TestCompactedMoveOfSeveralExtents(t *testing.T) {
	f := newFederated(t, 1)
	f.put(t, f.head(0), pid, 0, 1000, "x=1", "y=2")
	f.moved(t, f.move(t, "b", 0))
	f.put(t, f.partition(t, 0, "b").Head().PhysicalAddress, pid, 2, 2000, "x")
	f.set(t, "cleanup.policy", "compact")
	require.Len(t, f.partition(t, 0, "b").Extents, 2)
	f.moved(t, f.move(t, "c", 0))
	f.filled(t, 1, "c")
	// When it is not compacted any more, it moves without its records, and the copies stay.
	f.set(t, "cleanup.policy", "delete")
	f.moved(t, f.move(t, "a", 0))
	p := f.partition(t, 0, "a")
	require.Len(t, p.Extents, 2)
	require.EqualValues(t, 3, p.Head().Base)
	require.Equal(t, "[0:x=1 1:y=2 2:x=]", fmt.Sprint(f.records(t, 0)))
}

// A move whose operation the store has lost goes on from what the seal says of copies.
func TestCompactedMoveGoesOnAfterItsOperationIsLost(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		t.Run(fmt.Sprintf("sealed=%t", sealed), func(t *testing.T) {
			f := newCompacted(t, 1)
			f.fill(t, 1)
			stop := stopKafka("b", kmsg.Produce, appendsMark(mark.KindOpening))
			if !sealed {
				stop = stopSave([]string{`"ending":`}, nil)
			}
			g, drop := stop(f)
			op := f.move(t, "b", 0)
			g.await(t)
			drop()
			f.nodes[0].net.set(true)
			close(g.open)
			f.nodes[0].kill()
			f.dropOperation(t, op.GetName())
			next := f.start(t, func(c *controller.Config) { c.OrphanGrace = 50 * time.Millisecond })
			next.leads(t)
			f.admin = adminOf(t, next.url)
			f.noneSealing(t)
			if sealed {
				f.filled(t, 1, "b")
				return
			}
			require.Equal(t, federation.ClusterName("a"), f.head(0).Cluster, "it takes appends again")
			f.moved(t, f.move(t, "b", 0))
			f.filled(t, 1, "b")
		})
	}
}

// dropOperation has the store lose an operation.
func (f *federated) dropOperation(t *testing.T, name string) {
	t.Helper()
	id := name[strings.LastIndex(name, "/")+1:]
	found := 0
	for _, key := range f.redis.Keys() {
		if strings.Contains(key, ":operation") {
			f.redis.Del(key)
			found++
		}
	}
	require.NotZero(t, found, id)
}

// set sets a setting of the topic.
func (f *federated) set(t *testing.T, key, value string) {
	t.Helper()
	_, err := f.admin.topics.UpdateTopic(t.Context(), &adminv1.UpdateTopicRequest{
		Topic: &adminv1.Topic{Name: topicName("orders"), Config: map[string]string{key: value}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"config." + key}},
	})
	require.NoError(t, err)
}
