package gateway

import (
	"math/rand"
	"slices"
	"sort"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/recordbatch"
)

func testMap(topics map[string]int) *federation.Map {
	w := federationtest.New(map[string][]string{"a": nil})
	for name, n := range topics {
		var chains [][]*federation.Extent
		for p := range n {
			chains = append(chains, []*federation.Extent{federationtest.Head("a", name, p)})
		}
		w.SetTopic(name, nil, chains...)
	}
	return w.Current()
}

func testConfig(t testing.TB) *Config {
	t.Helper()
	cfg, err := Config{}.withDefaults()
	require.NoError(t, err)
	return &cfg
}

// A driver plays the stream around a produceSession.
type driver struct {
	t     testing.TB
	cfg   *Config
	m     *federation.Map
	s     *produceSession
	split splitter
	epoch int16
	acks  map[uint64]*braidv1.ProduceAck
	order []uint64
	// stable is the last stable mark.
	stable uint64
}

const testProducer = int64(1 << 48)

func newDriver(tb testing.TB, idempotent bool) *driver {
	tb.Helper()
	cfg := testConfig(tb)
	d := &driver{t: tb, cfg: cfg, m: testMap(map[string]int{"t": 4}), acks: make(map[uint64]*braidv1.ProduceAck)}
	d.split = splitter{cfg: cfg, atomic: idempotent, salt: testProducer}
	d.s = newProduceSession(cfg, idempotent, false, producerID{testProducer, 0})
	return d
}

func (d *driver) frame(in *braidv1.ProduceFrame) error {
	now := time.Unix(1000, 0)
	f, err := d.s.admit(in, now.Add(time.Minute))
	if err != nil {
		return err
	}
	ts := d.s.topic(d.cfg, d.m, f.topic, now)
	if ts == nil {
		d.s.reject(f, nil, -1, failure(federation.Errorf(federation.UnknownTopic, "no")))
		return nil
	}
	count, stale := ts.splitCount(in.GetPartitionCount(), now)
	if stale != nil {
		d.s.reject(f, ts, -1, stale)
		return nil
	}
	d.split.topic, d.split.now = ts.limits, now
	if err := d.split.check(in); err != nil {
		d.s.reject(f, ts, -1, failure(err))
		return nil
	}
	d.split.split(f, in, count)
	d.s.take(f, ts)
	return nil
}

// send sends one record to a partition.
func (d *driver) send(partition int32, value string, failureSeen uint64) uint64 {
	d.t.Helper()
	seq := d.s.next
	require.NoError(d.t, d.frame(&braidv1.ProduceFrame{
		BatchSeq: seq, Topic: "t", Partition: &partition, FailureSeen: failureSeen,
		Records: []*braidv1.Record{{Value: []byte(value)}},
	}))
	return seq
}

// ready takes what is to be submitted, answering requests for new epochs.
func (d *driver) ready() []*part {
	parts, bumps := d.s.takeReady()
	for len(bumps) > 0 {
		for _, ps := range bumps {
			if ps.producer != d.s.latest {
				d.s.bumped(ps, d.s.latest, nil)
				continue
			}
			d.epoch++
			d.s.bumped(ps, producerID{testProducer, d.epoch}, nil)
		}
		var more []*part
		more, bumps = d.s.takeReady()
		parts = append(parts, more...)
	}
	return parts
}

func (d *driver) collect() {
	if out := d.s.takeAcks(); out != nil {
		for _, a := range out.GetAcks() {
			require.NotContains(d.t, d.acks, a.GetBatchSeq(), "acknowledged twice")
			d.acks[a.GetBatchSeq()] = a
			d.order = append(d.order, a.GetBatchSeq())
		}
		require.GreaterOrEqual(d.t, out.GetStableBatchSeq(), d.stable)
		d.stable = out.GetStableBatchSeq()
	}
}

func (d *driver) reason(seq uint64) braidv1.Reason {
	d.t.Helper()
	d.collect()
	require.Contains(d.t, d.acks, seq)
	return d.acks[seq].GetResults()[0].GetFailure().GetReason()
}

func fails(k federation.Kind) *outcome { return &outcome{err: federation.Errorf(k, "it failed")} }

func sequences(parts []*part) []int32 {
	var out []int32
	for _, p := range parts {
		out = append(out, p.producer.Sequence)
	}
	return out
}

func TestFirstBatchOfAPartitionTravelsAlone(t *testing.T) {
	d := newDriver(t, true)
	for range 9 {
		d.send(0, "v", 0)
	}
	first := d.ready()
	require.Equal(t, []int32{0}, sequences(first))
	require.Empty(t, d.ready())
	d.s.complete(first[0], &outcome{})
	next := d.ready()
	require.Equal(t, []int32{1, 2, 3, 4, 5}, sequences(next), "as many as a broker remembers")
	d.s.complete(next[1], &outcome{})
	require.Empty(t, d.ready(), "outcomes count in the order of sequences")
	d.s.complete(next[0], &outcome{})
	require.Equal(t, []int32{6, 7}, sequences(d.ready()))
}

func TestSequenceOfARefusedBatchIsUsedAgain(t *testing.T) {
	d := newDriver(t, true)
	d.send(0, "a", 0)
	d.s.complete(d.ready()[0], &outcome{})
	b, c := d.send(0, "b", 0), d.send(0, "c", 0)
	parts := d.ready()
	d.s.complete(parts[0], fails(federation.InvalidRecord))
	held := d.send(0, "too early", 0)
	seen := d.send(0, "knows", b)
	require.Empty(t, d.ready(), "nothing goes out before the batches in flight are decided")
	d.s.complete(parts[1], fails(federation.OutOfOrderSequence))
	require.Equal(t, braidv1.Reason_REASON_INVALID_RECORD, d.reason(b))
	require.Equal(t, braidv1.Reason_REASON_EARLIER_FAILURE, d.reason(c), "the broker's word is only an echo")
	require.Equal(t, braidv1.Reason_REASON_EARLIER_FAILURE, d.reason(held))
	require.Equal(t, braidv1.Reason_REASON_EARLIER_FAILURE, d.reason(seen), "it does not know of the failure of the one before it")
	good := d.send(0, "b", seen)
	again := d.ready()
	require.Equal(t, []int32{1}, sequences(again))
	require.EqualValues(t, 0, again[0].producer.Epoch)
	d.s.complete(again[0], &outcome{})
	require.Zero(t, d.reason(good))
	require.Equal(t, good, d.stable)
}

func TestSequenceOfAnOpenOutcomeIsNeverUsedAgain(t *testing.T) {
	for _, kind := range []federation.Kind{federation.Timeout, federation.NotEnoughReplicas, federation.ClusterUnavailable, federation.Internal, federation.OutOfOrderSequence} {
		d := newDriver(t, true)
		d.send(0, "a", 0)
		d.send(1, "a", 0)
		for _, p := range d.ready() {
			d.s.complete(p, &outcome{})
		}
		b, c := d.send(0, "b", 0), d.send(0, "c", 0)
		parts := d.ready()
		d.s.complete(parts[0], fails(kind))
		d.s.complete(parts[1], &outcome{}) // so b was stored, but its ack is out by then
		require.NotZero(t, d.reason(b))
		require.Zero(t, d.reason(c))
		d.send(0, "b", b)
		d.send(1, "b", b)
		again := d.ready()
		require.Len(t, again, 2)
		byPartition := map[federation.LogicalPartition]recordbatch.Producer{}
		for _, p := range again {
			byPartition[p.partition] = p.producer
		}
		require.Equal(t, recordbatch.Producer{ID: testProducer, Epoch: 1, Sequence: 0}, byPartition[0])
		require.Equal(t, recordbatch.Producer{ID: testProducer, Epoch: 0, Sequence: 1}, byPartition[1], "other partitions go on as they were")
	}
}

func TestNothingSubmittedIsNoOpenOutcome(t *testing.T) {
	d := newDriver(t, true)
	a := d.send(0, "a", 0)
	d.s.complete(d.ready()[0], &outcome{err: federation.Errorf(federation.Throttled, "full"), refused: true})
	d.send(0, "a", a)
	require.Equal(t, recordbatch.Producer{ID: testProducer, Epoch: 0, Sequence: 0}, d.ready()[0].producer)
}

func TestFailureToRaiseTheEpochFailsWhatWaits(t *testing.T) {
	d := newDriver(t, true)
	a := d.send(0, "a", 0)
	d.s.complete(d.ready()[0], fails(federation.Timeout))
	b := d.send(0, "b", a)
	_, bumps := d.s.takeReady()
	require.Len(t, bumps, 1)
	d.s.bumped(bumps[0], producerID{}, federation.Errorf(federation.StoreUnavailable, "away"))
	require.Equal(t, braidv1.Reason_REASON_STORE_UNAVAILABLE, d.reason(b))
	d.send(0, "b", b)
	require.EqualValues(t, 1, d.ready()[0].producer.Epoch)
}

func TestFailedFramesAreAcknowledgedInOrder(t *testing.T) {
	d := newDriver(t, true)
	slow := d.send(0, "slow", 0)
	bad := d.send(1, "bad", 0)
	good := d.send(2, "good", 0)
	parts := d.ready()
	d.s.complete(parts[1], fails(federation.InvalidRecord))
	d.s.complete(parts[2], &outcome{})
	d.collect()
	require.Equal(t, []uint64{good}, d.order, "a failure waits for the frames before it")
	require.Zero(t, d.stable)
	d.s.complete(parts[0], &outcome{})
	d.collect()
	require.Equal(t, []uint64{good, slow, bad}, d.order)
	require.Equal(t, good, d.stable)
}

func TestFencedProducerEndsTheStream(t *testing.T) {
	d := newDriver(t, true)
	d.send(0, "a", 0)
	d.s.complete(d.ready()[0], fails(federation.ProducerFenced))
	require.Equal(t, federation.ProducerFenced, federation.KindOf(d.s.fatal))
}

func TestNonIdempotentStreamHasNoBarrier(t *testing.T) {
	d := newDriver(t, false)
	a, b := d.send(0, "a", 0), d.send(0, "b", 0)
	parts := d.ready()
	require.Len(t, parts, 2)
	require.Equal(t, recordbatch.NoProducer, parts[0].producer)
	d.s.complete(parts[0], fails(federation.Timeout))
	d.s.complete(parts[1], &outcome{})
	require.Equal(t, braidv1.Reason_REASON_DELIVERY_TIMEOUT, d.reason(a))
	require.Zero(t, d.reason(b))
}

func TestUnknownTopicRaisesABarrierForItsName(t *testing.T) {
	d := newDriver(t, true)
	frame := func(topic string, seen uint64) uint64 {
		seq := d.s.next
		require.NoError(t, d.frame(&braidv1.ProduceFrame{Topic: topic, FailureSeen: seen, Records: []*braidv1.Record{{Value: []byte("v")}}}))
		return seq
	}
	first := frame("new", 0)
	require.Equal(t, braidv1.Reason_REASON_UNKNOWN_TOPIC, d.reason(first))
	d.m = testMap(map[string]int{"t": 4, "new": 1, "other": 1})
	early := frame("new", 0)
	require.Equal(t, braidv1.Reason_REASON_EARLIER_FAILURE, d.reason(early))
	frame("other", 0)
	frame("new", early)
	require.Len(t, d.ready(), 2)
}

func TestCreditFollowsTheDecidedFrames(t *testing.T) {
	d := newDriver(t, false)
	first := d.s.takeCredit()
	require.EqualValues(t, 64, first.GetMaxBatches())
	for range 64 {
		d.send(0, "1234", 0)
	}
	require.False(t, d.s.overdrawn())
	d.send(0, "1234", 0)
	require.True(t, d.s.overdrawn())
	parts := d.ready()
	for i, p := range parts[:16] {
		require.Nil(t, d.s.takeCredit(), "credit for %d frames is not worth a message", i)
		d.s.complete(p, &outcome{})
	}
	require.False(t, d.s.overdrawn())
	next := d.s.takeCredit()
	require.EqualValues(t, 80, next.GetMaxBatches())
	require.EqualValues(t, 16<<20+16*4, next.GetMaxBytes())
}

func TestTopicThatWasCreatedAgainBeginsAnew(t *testing.T) {
	d := newDriver(t, true)
	d.send(0, "a", 0)
	d.s.complete(d.ready()[0], &outcome{})
	d.m = testMap(map[string]int{"t": 4})
	d.send(0, "a", 0)
	require.Equal(t, []int32{0}, sequences(d.ready()))
}

func TestNullKeysStayTogetherAndReplayAlike(t *testing.T) {
	seen := map[int32]int{}
	for seq := range uint64(1000) {
		p := nullKeyPartition(testProducer, seq, 7)
		require.Equal(t, p, nullKeyPartition(testProducer, seq, 7))
		require.GreaterOrEqual(t, p, int32(0))
		seen[p]++
	}
	require.Len(t, seen, 7)
	for p, n := range seen {
		require.InDelta(t, 1000/7, n, 60, "partition %d", p)
	}
}

// A logModel is a partition of a broker with Kafka's producer state
// (ProducerStateEntry, ProducerAppendInfo): it holds values, one for each record.
type logModel struct {
	known bool
	epoch int16
	last  int32
	cache []recordbatch.Producer
	log   []int
}

func (l *logModel) append(p recordbatch.Producer, values ...int) error {
	if slices.Contains(l.cache, p) {
		return nil // a repeat
	}
	switch {
	case l.known && p.Epoch < l.epoch:
		return federation.Errorf(federation.ProducerFenced, "old epoch")
	case l.known && p.Epoch > l.epoch && p.Sequence != 0, l.known && p.Epoch == l.epoch && p.Sequence != l.last+1:
		return federation.Errorf(federation.OutOfOrderSequence, "gap")
	}
	if p.Epoch != l.epoch {
		l.cache = nil
	}
	l.known, l.epoch, l.last = true, p.Epoch, p.Sequence+int32(len(values))-1
	l.cache = append(l.cache, p)
	if len(l.cache) > brokerRemembers {
		l.cache = l.cache[1:]
	}
	l.log = append(l.log, values...)
	return nil
}

// simulation drives a produceSession against logModels with random failures,
// late arrivals and a client that keeps the rules: it sends a failed record again
// once it knows the fate of all it sent to the partition.
type simulation struct {
	*driver
	rng   *rand.Rand
	logs  [2]logModel
	lanes [2][]*part // submitted, in order
	late  [2][]late  // given up by the gateway, on their way to the broker

	values   map[uint64][2]int // frame -> partition, value
	unacked  [2]int
	todo     [2][]int // to be sent again, in order, before anything new
	newest   [2]int
	seen     uint64
	acked    [2][]int
	open     [2]map[int]bool // reported as unknown: given up by the client
	failures int
	shared   int // parts that travelled in the batch of another one
	again    int // and that came back
	stored   map[*part]bool
}

type late struct {
	p      recordbatch.Producer
	values []int
}

// valuesOf are those of a part and of what shares its batch.
func (s *simulation) valuesOf(p *part) []int {
	out := []int{s.values[p.frame.seq][1]}
	for _, q := range p.more {
		out = append(out, s.values[q.frame.seq][1])
	}
	s.shared += len(p.more)
	return out
}

func (s *simulation) step() {
	i := s.rng.Intn(2)
	switch n := s.rng.Intn(10); {
	case n < 4:
		s.clientSends(i)
	case n < 9 && len(s.lanes[i]) > 0:
		p := s.lanes[i][0]
		s.lanes[i] = s.lanes[i][1:]
		s.deliver(i, p)
	case len(s.late[i]) > 0:
		l := s.late[i][0]
		s.late[i] = s.late[i][1:]
		_ = s.logs[i].append(l.p, l.values...)
	}
	switch s.rng.Intn(40) {
	case 0: // the time of what came back is up
		s.s.patrol(time.Unix(1000, 0).Add(time.Hour))
	case 1, 2, 3, 4:
		s.s.patrol(time.Unix(1000, 0))
	}
	for _, p := range s.ready() {
		s.lanes[p.partition] = append(s.lanes[p.partition], p)
	}
	s.clientReads()
}

func (s *simulation) clientSends(i int) {
	if len(s.values) >= 400 || s.s.overdrawn() {
		return
	}
	var v int
	switch {
	case len(s.todo[i]) > 0 && s.unacked[i] > 0:
		return
	case len(s.todo[i]) > 0:
		v, s.todo[i] = s.todo[i][0], s.todo[i][1:]
	default:
		s.newest[i]++
		v = s.newest[i]
	}
	s.values[s.s.next] = [2]int{i, v}
	s.unacked[i]++
	s.send(int32(i), strconv.Itoa(v), s.seen)
}

func (s *simulation) deliver(i int, p *part) {
	if p.unknown && s.rng.Intn(6) == 0 { // its time was up before it could go out again
		s.s.complete(p, &outcome{err: federation.Errorf(federation.Timeout, "late"), refused: true})
		return
	}
	n := s.rng.Intn(20)
	if s.stored[p] {
		n = 19 // a broker knows it, or says that it does not follow
	}
	switch n {
	case 0: // refused for what it holds
		s.s.complete(p, fails(federation.InvalidRecord))
	case 1: // stored, but the answer is lost
		_ = s.logs[i].append(p.producer, s.valuesOf(p)...)
		s.s.complete(p, fails(federation.Timeout))
	case 2: // lost, or late
		if s.rng.Intn(2) == 0 {
			s.late[i] = append(s.late[i], late{p.producer, s.valuesOf(p)})
		}
		s.s.complete(p, fails(federation.Timeout))
	case 4: // appended, with those behind it; the answers are lost, and the router repeats all
		s.lanes[i] = slices.Insert(s.lanes[i], 0, p)
		for _, q := range s.lanes[i] {
			if s.logs[i].append(q.producer, s.valuesOf(q)...) != nil {
				break
			}
			s.stored[q] = true
		}
	case 3: // given back before its time is up: stored, late, or nowhere
		kind := federation.Timeout
		switch v := s.valuesOf(p); s.rng.Intn(3) {
		case 0:
			_ = s.logs[i].append(p.producer, v...)
		case 1:
			s.late[i] = append(s.late[i], late{p.producer, v})
		default:
			kind = federation.NoLeader
		}
		s.again += 1 + len(p.more)
		s.s.complete(p, early(kind))
	default:
		s.s.complete(p, &outcome{err: s.logs[i].append(p.producer, s.valuesOf(p)...), early: true})
	}
}

func (s *simulation) clientReads() {
	before := len(s.order)
	s.collect()
	for _, seq := range s.order[before:] {
		i, v := s.values[seq][0], s.values[seq][1]
		s.unacked[i]--
		fail := s.acks[seq].GetResults()[0].GetFailure()
		if fail == nil {
			s.acked[i] = append(s.acked[i], v)
			continue
		}
		s.failures++
		require.Greater(s.t, seq, s.seen, "failures come in order")
		s.seen = seq
		switch fail.GetReason() {
		case braidv1.Reason_REASON_DELIVERY_TIMEOUT, braidv1.Reason_REASON_OUT_OF_ORDER_SEQUENCE, braidv1.Reason_REASON_PRODUCER_FENCED:
			s.open[i][v] = true
		default:
			s.todo[i] = append(s.todo[i], v)
			sort.Ints(s.todo[i])
		}
	}
}

func TestProduceSessionKeepsOrderAndLosesNothing(t *testing.T) {
	failures, _, again := simulate(t, 0)
	require.Greater(t, failures, 250)
	require.Greater(t, again, 250)
}

// simulate returns how many frames failed, how many shared a batch, and how many came back
// to be sent again.
func simulate(t *testing.T, mergeBytes int) (failures, shared, again int) {
	t.Helper()
	for seed := range int64(100) {
		s := &simulation{driver: newDriver(t, true), rng: rand.New(rand.NewSource(seed)), values: make(map[uint64][2]int), stored: make(map[*part]bool)}
		s.open = [2]map[int]bool{{}, {}}
		s.s.mergeBytes = mergeBytes
		for range 3000 {
			s.step()
		}
		for !s.s.idle() || len(s.todo[0])+len(s.todo[1]) > 0 && len(s.values) < 400 {
			s.step()
		}
		require.NoError(t, s.s.fatal, "seed %d", seed)
		failures, shared, again = failures+s.failures, shared+s.shared, again+s.again
		for i := range s.logs {
			log := s.logs[i].log
			require.True(t, sort.IntsAreSorted(log), "seed %d: out of order: %v", seed, log)
			stored := make(map[int]bool)
			for _, v := range log {
				require.False(t, stored[v], "seed %d: %d is stored twice", seed, v)
				stored[v] = true
			}
			for _, v := range s.acked[i] {
				require.True(t, stored[v], "seed %d: %d was acknowledged and is lost", seed, v)
				delete(stored, v)
			}
			for v := range stored {
				require.True(t, s.open[i][v], "seed %d: %d is stored, but the client was told that it is not", seed, v)
			}
		}
		require.Equal(t, s.s.next-1, s.stable)
	}
	return failures, shared, again
}

// Whatever a client sends as a frame, the session answers each frame once, keeps
// its counts, and what it hands out are batches that the doors' check accepts.
func FuzzProduceFrame(f *testing.F) {
	key, zero := []byte("k"), int32(0)
	for _, in := range []*braidv1.ProduceFrame{
		{BatchSeq: 1, Topic: "t", Records: []*braidv1.Record{{Key: key, Value: []byte("v"), Headers: []*braidv1.Header{{Key: "h"}}}, {ValueText: "x", TimestampMs: 5}}},
		{BatchSeq: 1, Topic: "t", Partition: &zero, FailureSeen: 3, PartitionCount: 4, Records: []*braidv1.Record{{TimestampMs: -1}, {}}},
		{BatchSeq: 1, Topic: "nope", Records: []*braidv1.Record{{}}},
		{BatchSeq: 1, Topic: "t", Partition: &zero, KafkaBatch: rawBatch(recordbatch.Producer{ID: testProducer, Epoch: 0, Sequence: 0}, "a", "b")},
		{BatchSeq: 1, Topic: "t", Partition: &zero, KafkaBatch: rawBatch(recordbatch.NoProducer, "a")},
	} {
		b, err := proto.Marshal(in)
		require.NoError(f, err)
		f.Add(b, true)
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, data []byte, idempotent bool) {
		var in braidv1.ProduceFrame
		if proto.Unmarshal(data, &in) != nil {
			return
		}
		d := newDriver(t, idempotent)
		frames := uint64(0)
		for range 3 {
			in.BatchSeq = 0
			if d.frame(&in) != nil {
				return
			}
			frames++
			for _, p := range d.ready() {
				require.NoError(t, recordbatch.Check(p.batch(), 0))
				count := p.count
				p.release()
				d.s.complete(p, &outcome{})
				require.Positive(t, count)
			}
		}
		require.True(t, d.s.idle())
		d.collect()
		require.Len(t, d.acks, int(frames))
		require.Equal(t, frames, d.stable)
		require.Equal(t, d.s.received, d.s.freed)
		for _, a := range d.acks {
			require.NotEmpty(t, a.GetResults())
		}
	})
}

func rawBatch(p recordbatch.Producer, values ...string) []byte {
	var b recordbatch.Builder
	b.Reset(nil)
	for _, v := range values {
		b.Add(&recordbatch.Record{TimestampMs: 1, Value: []byte(v)})
	}
	return b.Finish(p)
}

func TestRawBatchesKeepTheirSequences(t *testing.T) {
	d := newDriver(t, true)
	zero := int32(0)
	raw := func(p recordbatch.Producer, seen uint64) uint64 {
		seq := d.s.next
		require.NoError(t, d.frame(&braidv1.ProduceFrame{Topic: "t", Partition: &zero, FailureSeen: seen, KafkaBatch: rawBatch(p, "a", "b")}))
		return seq
	}
	raw(recordbatch.Producer{ID: testProducer, Epoch: 0, Sequence: 0}, 0)
	parts := d.ready()
	require.Equal(t, rawBatch(recordbatch.Producer{ID: testProducer, Epoch: 0, Sequence: 0}, "a", "b"), parts[0].batch(), "not a byte is changed")
	d.s.complete(parts[0], &outcome{})
	gap := raw(recordbatch.Producer{ID: testProducer, Epoch: 0, Sequence: 3}, 0)
	require.Equal(t, braidv1.Reason_REASON_OUT_OF_ORDER_SEQUENCE, d.reason(gap))
	other := raw(recordbatch.Producer{ID: testProducer + 1, Epoch: 0, Sequence: 2}, gap)
	require.Equal(t, braidv1.Reason_REASON_PRODUCER_FENCED, d.reason(other))
	raw(recordbatch.Producer{ID: testProducer, Epoch: 0, Sequence: 2}, other)
	raw(recordbatch.NoProducer, other)
	d.send(0, "mixed", other)
	require.Equal(t, []int32{2, 0, 4}, sequences(d.ready()))
}
