package gateway

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/recordbatch"
)

// stick has a partition of a driver's session decide nothing for long enough.
func (d *driver) stick(partition int32) (first *part) {
	d.t.Helper()
	d.send(partition, "first", 0)
	parts := d.ready()
	require.Len(d.t, parts, 1)
	now := time.Unix(2000, 0)
	d.s.patrol(now)
	d.s.patrol(now.Add(d.cfg.ProduceParkAfter))
	return parts[0]
}

// Frames for a partition that decides nothing leave the window to the others, up to a
// bound; what the session keeps stays small meanwhile, and the order as it is.
func TestFramesOfAStuckPartitionAreParked(t *testing.T) {
	d := newDriver(t, true)
	stuck := d.stick(0)
	credit := func() int64 { return d.s.credit().batches - int64(d.s.next-1) }
	require.Equal(t, d.cfg.ProduceCreditBatches, credit())
	for range d.cfg.ProduceParkedBatches - 1 {
		d.send(0, "v", 0)
	}
	require.Equal(t, d.cfg.ProduceCreditBatches, credit())
	d.send(0, "one too many", 0)
	require.Equal(t, d.cfg.ProduceCreditBatches-1, credit())

	const others = 1000
	for range others {
		d.send(1, "v", 0)
		for _, p := range d.ready() {
			d.s.complete(p, &outcome{})
		}
		require.False(t, d.s.overdrawn())
		require.NotPanics(t, func() { d.s.takeCredit() })
	}
	d.collect()
	require.Len(t, d.acks, others)
	require.Zero(t, d.stable)
	require.Len(t, d.s.frames, int(d.cfg.ProduceParkedBatches)+1)
	require.LessOrEqual(t, len(d.s.passed), others/64+2)

	before := d.s.credit()
	var got []int32
	for parts := []*part{stuck}; len(parts) > 0; parts = d.ready() {
		for _, p := range parts {
			got = append(got, p.producer.Sequence)
			d.s.complete(p, &outcome{})
			require.GreaterOrEqual(t, d.s.credit().batches, before.batches, "credit never shrinks")
			before = d.s.credit()
		}
	}
	for i, s := range got {
		require.EqualValues(t, i, s)
	}
	d.collect()
	require.Equal(t, d.s.next-1, d.stable)
	require.True(t, d.s.idle())
	require.Empty(t, d.s.passed)
	require.Zero(t, d.s.parked)
	require.Equal(t, d.cfg.ProduceCreditBatches, credit())
	require.Equal(t, d.cfg.ProduceCreditBytes, d.s.credit().bytes-d.s.received)
}

// A frame that goes to several partitions is parked when all that is open of it waits for
// those that are stuck; one that decides something is stuck no more.
func TestFrameIsParkedByWhatIsOpenOfIt(t *testing.T) {
	d := newDriver(t, true)
	stuck := d.stick(0)
	require.EqualValues(t, 1, d.s.parked.batches)
	keys := map[federation.LogicalPartition]string{}
	for i := 0; len(keys) < 2; i++ {
		key := string(rune('a' + i))
		if p := federation.PartitionForKey([]byte(key), 4); p < 2 {
			keys[p] = key
		}
	}
	require.NoError(t, d.frame(&braidv1.ProduceFrame{Topic: "t", Records: []*braidv1.Record{
		{Key: []byte(keys[0]), Value: []byte("v")}, {Key: []byte(keys[1]), Value: []byte("v")},
	}}))
	require.EqualValues(t, 1, d.s.parked.batches, "a part of it goes to a partition that is not stuck")
	for _, p := range d.ready() {
		d.s.complete(p, &outcome{})
	}
	require.EqualValues(t, 2, d.s.parked.batches)
	d.s.complete(stuck, &outcome{})
	require.EqualValues(t, 1, d.s.parked.batches)
	d.send(0, "v", 0)
	require.EqualValues(t, 1, d.s.parked.batches, "the partition decides again")
}

// Failures are told in order: those that wait for a frame of a stuck partition do not
// fill the window either.
func TestFailuresBehindAStuckPartitionAreParked(t *testing.T) {
	d := newDriver(t, true)
	stuck := d.stick(0)
	bad := d.send(1, "bad", 0)
	d.s.complete(d.ready()[0], fails(federation.InvalidRecord))
	for range 3 * d.cfg.ProduceCreditBatches {
		d.send(1, "behind it", 0)
	}
	for range 3 * d.cfg.ProduceCreditBatches {
		d.send(2, "v", 0)
		for _, p := range d.ready() {
			d.s.complete(p, &outcome{})
		}
	}
	require.False(t, d.s.overdrawn())
	d.collect()
	require.NotContains(t, d.acks, bad)
	d.s.complete(stuck, &outcome{})
	require.Equal(t, braidv1.Reason_REASON_INVALID_RECORD, d.reason(bad))
	require.Equal(t, d.s.next-1, d.stable)
	require.Zero(t, d.s.parked)
}

func early(k federation.Kind) *outcome {
	o := fails(k)
	o.early = true
	return o
}

// A batch that is to be tried again goes out again by itself, with those behind it, in
// order and with their sequences; nothing else of its partition overtakes them.
func TestBatchesThatComeBackAreSentAgain(t *testing.T) {
	d := newDriver(t, true)
	first := d.send(0, "0", 0)
	d.s.complete(d.ready()[0], &outcome{})
	for range 3 {
		d.send(0, "v", 0)
	}
	parts := d.ready()
	now := time.Unix(1001, 0)
	d.s.complete(parts[0], early(federation.NoLeader))
	d.s.complete(parts[1], early(federation.OutOfOrderSequence))
	last := d.send(0, "later", 0)
	d.s.patrol(now)
	require.Empty(t, d.ready(), "one is in flight still")
	d.s.complete(parts[2], early(federation.Timeout))
	require.Empty(t, d.ready(), "not at once")
	d.s.patrol(now)
	again := d.ready()
	require.Equal(t, parts, again)
	require.Equal(t, []int32{1, 2, 3}, sequences(again))
	for _, p := range again {
		require.NotEmpty(t, p.batch())
		d.s.complete(p, &outcome{})
	}
	rest := d.ready()
	require.Equal(t, []int32{4}, sequences(rest))
	d.s.complete(rest[0], &outcome{})
	for seq := first; seq <= last; seq++ {
		require.Zero(t, d.reason(seq))
	}
	require.True(t, d.s.idle())
}

// What came back fails when its time is up, or when one behind it fails for good: as if it
// had failed at once.
func TestBatchesThatComeBackFail(t *testing.T) {
	for name, end := range map[string]func(d *driver, last *part){
		"in time": func(d *driver, last *part) {
			d.s.complete(last, early(federation.NoLeader))
			d.s.patrol(time.Unix(1000, 0).Add(time.Minute))
		},
		"for good": func(d *driver, last *part) { d.s.complete(last, fails(federation.InvalidRecord)) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t, true)
			d.send(0, "0", 0)
			d.s.complete(d.ready()[0], &outcome{})
			b, c := d.send(0, "b", 0), d.send(0, "c", 0)
			parts := d.ready()
			d.s.complete(parts[0], early(federation.NoLeader))
			end(d, parts[1])
			require.Equal(t, braidv1.Reason_REASON_NO_LEADER, d.reason(b))
			require.NotZero(t, d.reason(c))
			d.send(0, "b", c)
			again := d.ready()
			require.Equal(t, recordbatch.Producer{ID: testProducer, Epoch: 1, Sequence: 0}, again[0].producer, "whether b was stored is not known")
		})
	}
}

// What may be stored goes out again alone: brokers recognise a batch only among the last
// five of its producer.
func TestNothingNewBehindABatchThatMayBeStored(t *testing.T) {
	d := newDriver(t, true)
	d.send(0, "0", 0)
	d.s.complete(d.ready()[0], &outcome{})
	d.send(0, "a", 0)
	a := d.ready()[0]
	d.s.complete(a, early(federation.Timeout))
	d.send(0, "b", 0)
	d.s.patrol(time.Unix(1001, 0))
	require.Equal(t, []*part{a}, d.ready())
	d.send(0, "c", 0)
	require.Empty(t, d.ready())
	d.s.complete(a, &outcome{})
	require.Equal(t, []int32{2, 3}, sequences(d.ready()))
}
