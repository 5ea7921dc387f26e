package router_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// tp0 is the partition that most tests move.
var tp0 = at("orders", 0)

// pid is a producer as braid numbers them.
const pid int64 = 1<<48 + 5

// marksBy is the producer of the tests' marks.
var marksBy = mark.ProducerID(1)

// orders publishes the topic "orders" with one partition, at partition 0 of cluster a.
func (w *world) orders() {
	head := federationtest.Head("a", "phys", 0)
	head.Epochs = allEpochs(1)
	w.SetTopic("orders", nil, []*federation.Extent{head})
}

// allEpochs is an epoch table that names every physical epoch: nobody follows the
// leaders of the tests' partitions.
func allEpochs(e federation.LogicalEpoch) []federation.EpochEntry {
	return []federation.EpochEntry{{Physical: 1 << 20, Logical: e}}
}

// part returns tp0 as the map has it.
func (w *world) part(t *testing.T) *federation.Partition {
	t.Helper()
	p, err := w.Current().Partition(tp0)
	require.NoError(t, err)
	return p
}

// changePart publishes the next version of tp0, whose head f may alter.
func (w *world) changePart(f func(p *federation.Partition, head *federation.Extent)) {
	w.Change(func(m *federation.Map) {
		topic := *m.Topics[tp0.Topic]
		p := *topic.Partitions[0]
		p.Extents = append([]*federation.Extent(nil), p.Extents...)
		head := *p.Head()
		p.Extents[len(p.Extents)-1] = &head
		f(&p, &head)
		topic.Partitions = append([]*federation.Partition{&p}, topic.Partitions[1:]...)
		m.Topics[tp0.Topic] = &topic
	})
}

func (w *world) headState(s federation.ExtentState) {
	w.changePart(func(_ *federation.Partition, head *federation.Extent) { head.State = s })
}

// touch publishes a map that says nothing new.
func (w *world) touch() { w.Change(func(*federation.Map) {}) }

// hold waits until a router has nothing in flight to the heads that are sealing.
func (w *world) hold(t *testing.T, r *router.Router) federation.HeldHead {
	t.Helper()
	heads, err := r.Hold(t.Context(), w.Current())
	require.NoError(t, err)
	require.Len(t, heads, 1)
	return heads[0]
}

func (w *world) upstream(t *testing.T, name federation.ClusterName) *upstream.Cluster {
	t.Helper()
	c, err := w.pool.Cluster(name)
	require.NoError(t, err)
	return c
}

func physical(e *federation.Extent) upstream.Partition {
	return upstream.Partition{Topic: e.PhysicalAddress.Topic, Partition: e.PhysicalAddress.Partition}
}

// append appends batches of idempotent producers to where an extent lies, behind
// the router's back, and returns the offset of the last one.
func (w *world) append(t *testing.T, e *federation.Extent, batches ...[]byte) federation.PhysicalOffset {
	t.Helper()
	var appends []upstream.MarkAppend
	for _, b := range batches {
		appends = append(appends, upstream.MarkAppend{Partition: physical(e), Batch: b})
	}
	last := federation.PhysicalOffset(-1)
	for _, a := range w.upstream(t, e.Cluster).AppendMarks(t.Context(), appends) {
		require.NoError(t, a.Err)
		last = a.Offset
	}
	return last
}

func (w *world) subject(t *testing.T, extent int32) mark.Subject {
	t.Helper()
	m := w.Current()
	return mark.Subject{LogicalCluster: m.LogicalCluster, Topic: tp0.Topic, TopicID: m.Topics[tp0.Topic].ID, Partition: tp0.Partition, Extent: extent, MapVersion: m.Version}
}

// seal appends the seal record to the head, as the controller does when no gateway
// writes to it any more, and returns the end.
func (w *world) seal(t *testing.T) federation.PhysicalOffset {
	t.Helper()
	head := w.part(t).Head()
	return w.append(t, head, mark.Seal(w.subject(t, head.Number), marksBy+int64(head.Number)<<8, time.Now()))
}

// open moves the head, which ends at end, to a physical partition: a primer, the
// producers of the old one, and a map that says so.
func (w *world) open(t *testing.T, end federation.PhysicalOffset, cluster string, partition int) {
	t.Helper()
	old := w.part(t).Head()
	next := federationtest.Head(cluster, "phys", partition)
	next.Number = old.Number + 1
	producer := marksBy + int64(next.Number)
	primer := w.append(t, next, mark.Primer(w.subject(t, next.Number), producer, time.Now()))
	next.Start = primer + 1
	openings, err := mark.Openings(w.subject(t, next.Number), producer, w.producersAt(t, old, end), 1<<20, time.Now())
	require.NoError(t, err)
	if len(openings) > 0 {
		next.Start = w.append(t, next, openings...) + 1
		next.Opening = primer + 1
	}
	w.changePart(func(p *federation.Partition, head *federation.Extent) {
		head.State, head.End = federation.ExtentSealed, end
		next.Base, _ = head.EndOffset()
		p.Epoch++
		next.Epochs = allEpochs(p.Epoch)
		p.Extents = append(p.Extents, next)
	})
}

// producersAt returns the producers as an extent knew them at an offset.
func (w *world) producersAt(t *testing.T, e *federation.Extent, end federation.PhysicalOffset) []mark.Producer {
	t.Helper()
	carried := make(map[int64]mark.Producer)
	states := make(upstream.ProducerStates)
	err := w.upstream(t, e.Cluster).ReadBatches(t.Context(), physical(e), 0, end, func(h recordbatch.Header, b []byte) bool {
		if !mark.IsMark(h.ProducerID) {
			states.Fold(&h)
			return true
		}
		_, _, producers, err := mark.Parse(b)
		require.NoError(t, err)
		for _, p := range producers {
			carried[p.ID] = p
		}
		return true
	})
	require.NoError(t, err)
	for id, s := range states {
		carried[id] = mark.Producer{ID: id, Epoch: s.Epoch, LastSequence: s.LastSequence}
	}
	var all []mark.Producer
	for _, p := range carried {
		all = append(all, p)
	}
	return all
}

// move moves the head of tp0 to a physical partition.
func (w *world) move(t *testing.T, cluster string, partition int) {
	t.Helper()
	w.headState(federation.ExtentSealing)
	w.hold(t, w.r)
	w.open(t, w.seal(t), cluster, partition)
}

// stall holds back the Produce requests to a cluster until it is released.
func stall(c *kfake.Cluster) (release func()) {
	gate := make(chan struct{})
	c.ControlKey(kmsg.Produce.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		c.SleepControl(func() { <-gate })
		return nil, nil, false
	})
	return func() { close(gate) }
}

// stallOnce is stall for the next request alone; those of other connections pass.
func stallOnce(c *kfake.Cluster) (release func()) {
	gate, asleep := make(chan struct{}), false
	c.ControlKey(kmsg.Produce.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		if !asleep {
			asleep = true
			c.SleepControl(func() { <-gate })
		}
		return nil, nil, false
	})
	return func() { close(gate) }
}

// from makes a batch of a producer, one record for each value.
func from(id int64, epoch int16, sequence int32, values ...string) []byte {
	var b recordbatch.Builder
	b.Reset(nil)
	for _, v := range values {
		b.Add(&recordbatch.Record{TimestampMs: time.Now().UnixMilli(), Value: []byte(v)})
	}
	return b.Finish(recordbatch.Producer{ID: id, Epoch: epoch, Sequence: sequence})
}

// one makes a batch of pid with one record.
func one(sequence int32, value string) []byte { return from(pid, 0, sequence, value) }

// begin appends to tp0 without waiting.
func begin(t *testing.T, s router.Session, timeout time.Duration, b []byte) <-chan router.Appended {
	t.Helper()
	ch := make(chan router.Appended, 2) // a second answer does not block its sender, and is found
	require.NoError(t, s.Produce(t.Context(), router.AcksAll, timeout, []router.Append{{TopicPartition: tp0, Batch: b}}, func(a []router.Appended) { ch <- a[0] }))
	return ch
}

// answerOf waits for the answer to an append, at most 20 s.
func answerOf(t *testing.T, ch <-chan router.Appended) router.Appended {
	t.Helper()
	select {
	case a := <-ch:
		return a
	case <-time.After(20 * time.Second):
		t.Fatal("an append has no answer")
		return router.Appended{}
	}
}

// added appends to tp0, which must work, and returns the offset.
func added(t *testing.T, s router.Session, b []byte) federation.LogicalOffset {
	t.Helper()
	a := answerOf(t, begin(t, s, 10*time.Second, b))
	require.NoError(t, a.Err)
	return a.BaseOffset
}

// refused appends to tp0, which must not work, and returns the kind of the error.
func refused(t *testing.T, s router.Session, b []byte) federation.Kind {
	t.Helper()
	a := answerOf(t, begin(t, s, 10*time.Second, b))
	require.Error(t, a.Err)
	return federation.KindOf(a.Err)
}

// unanswered requires that none of the appends gets an answer for a moment.
func unanswered(t *testing.T, appends ...<-chan router.Appended) {
	t.Helper()
	rest(t, 50*time.Millisecond)
	for i, ch := range appends {
		select {
		case a := <-ch:
			t.Fatalf("append %d of %d is answered: %+v", i, len(appends), a)
		default:
		}
	}
}

// rest waits for what must not happen.
func rest(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// session returns a session of a router that is closed with the test.
func session(t *testing.T, r *router.Router) router.Session {
	t.Helper()
	s := r.NewSession()
	t.Cleanup(s.Close)
	return s
}
