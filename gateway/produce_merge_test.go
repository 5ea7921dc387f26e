package gateway

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/recordbatch"
)

func newMerging(t *testing.T) *driver {
	t.Helper()
	d := newDriver(t, true)
	d.s.mergeBytes = 64 << 10
	return d
}

// batchOf returns the values of a part's batch.
func batchOf(t *testing.T, p *part) (values []string) {
	t.Helper()
	b := p.batch()
	require.NoError(t, recordbatch.Check(b, 0))
	r := recordbatch.NewReader(1 << 20)
	require.NoError(t, r.Reset(b))
	var rec recordbatch.Record
	for {
		ok, err := r.Next(&rec)
		require.NoError(t, err)
		if !ok {
			return values
		}
		require.EqualValues(t, len(values), rec.Offset)
		values = append(values, string(rec.Value))
	}
}

func TestFramesThatWaitShareABatch(t *testing.T) {
	d := newMerging(t)
	for i := range 4 {
		d.send(0, strconv.Itoa(i), 0)
	}
	first := d.ready()
	require.Len(t, first, 1)
	require.Equal(t, []string{"0"}, batchOf(t, first[0]), "the first of a partition travels alone")
	d.s.complete(first[0], &outcome{result: braidv1.PartitionResult{BaseOffset: 10}})
	rest := d.ready()
	require.Len(t, rest, 1)
	require.Equal(t, []string{"1", "2", "3"}, batchOf(t, rest[0]))
	require.Equal(t, []int32{1}, sequences(rest))
	d.send(0, "4", 0)
	require.Equal(t, []int32{4}, sequences(d.ready()), "nothing waits while there is room in flight")
	rest[0].release()
	d.s.complete(rest[0], &outcome{result: braidv1.PartitionResult{BaseOffset: 20, LogAppendTimeMs: 7}})
	d.collect()
	for i, base := range []int64{10, 20, 21, 22} {
		r := d.acks[uint64(i+1)].GetResults()[0]
		require.Nil(t, r.GetFailure())
		require.Equal(t, base, r.GetBaseOffset())
		require.EqualValues(t, 1, r.GetRecordCount())
		require.EqualValues(t, i+1, r.GetNextSequence())
	}
	require.EqualValues(t, 4, d.stable)
}

func TestWhatSharesABatchIsBounded(t *testing.T) {
	d := newMerging(t)
	d.s.mergeBytes = 1000
	zero, big := int32(0), strings.Repeat("x", 600)
	d.send(0, "first", 0)
	for _, v := range []string{"a", big, "b", big} {
		d.send(0, v, 0)
	}
	require.NoError(t, d.frame(&braidv1.ProduceFrame{Topic: "t", Partition: &zero, KafkaBatch: rawBatch(recordbatch.NoProducer, "raw")}))
	d.send(0, "c", 0)
	d.send(0, "d", 0)
	first := d.ready()
	d.s.complete(first[0], &outcome{})
	var got [][]string
	for parts := d.ready(); len(parts) > 0; parts = d.ready() {
		for _, p := range parts {
			got = append(got, batchOf(t, p))
			require.LessOrEqual(t, len(p.batch()), 1000)
			d.s.complete(p, &outcome{})
		}
	}
	require.Equal(t, [][]string{{"a", big, "b"}, {big}, {"raw"}, {"c", "d"}}, got)
}

// Frames of one batch fail together when the first one's time is up, so they are
// nearly of one age.
func TestFramesOfAnotherAgeShareNoBatch(t *testing.T) {
	d := newMerging(t)
	for i, age := range []time.Duration{0, 0, mergeSpan, mergeSpan + 1} {
		d.send(0, strconv.Itoa(i), 0)
		d.s.frames[uint64(i+1)].deadline = time.Unix(1000, 0).Add(age)
	}
	d.s.complete(d.ready()[0], &outcome{})
	parts := d.ready()
	require.Len(t, parts, 2)
	require.Equal(t, []string{"1", "2"}, batchOf(t, parts[0]))
	require.Equal(t, []string{"3"}, batchOf(t, parts[1]))
}

func TestRefusedBatchBlamesTheRightFrame(t *testing.T) {
	for name, named := range map[string]bool{"the broker names a record": true, "and does not": false} {
		t.Run(name, func(t *testing.T) {
			d := newMerging(t)
			d.send(0, "first", 0)
			for _, v := range []string{"a", "bad", "b"} {
				d.send(0, v, 0)
			}
			d.s.complete(d.ready()[0], &outcome{})
			shared := d.ready()
			require.Equal(t, []string{"a", "bad", "b"}, batchOf(t, shared[0]))
			refused := fails(federation.InvalidRecord)
			if named {
				refused.records = []rejectedRecord{{1, federation.Errorf(federation.InvalidRecord, "bad")}}
			}
			d.s.complete(shared[0], refused)
			for _, seq := range []uint64{2, 4} {
				require.Equal(t, braidv1.Reason_REASON_EARLIER_FAILURE, d.reason(seq))
				require.True(t, d.acks[seq].GetResults()[0].GetFailure().GetRetriable())
				require.Empty(t, d.acks[seq].GetRejected())
			}
			if named {
				require.Equal(t, braidv1.Reason_REASON_INVALID_RECORD, d.reason(3))
				require.Zero(t, d.acks[3].GetRejected()[0].GetIndex())
			} else {
				require.Equal(t, braidv1.Reason_REASON_EARLIER_FAILURE, d.reason(3))
			}
			d.send(0, "a", 4)
			d.send(0, "bad", 4)
			d.send(0, "b", 4)
			again := d.ready()
			require.Equal(t, []int32{1, 2, 3}, sequences(again), "each by itself, and no sequence was lost")
			d.s.complete(again[0], &outcome{})
			d.s.complete(again[1], fails(federation.InvalidRecord))
			d.s.complete(again[2], fails(federation.OutOfOrderSequence))
			require.Equal(t, braidv1.Reason_REASON_INVALID_RECORD, d.reason(6))
		})
	}
}

// The histories of the session's own test, with batches that frames share.
func TestSharedBatchesKeepOrderAndLoseNothing(t *testing.T) {
	failures, shared, _ := simulate(t, 64<<10)
	require.Greater(t, failures, 250)
	require.Greater(t, shared, 250)
}

// A batch that several frames share and that is to be tried again goes out again as it
// was: brokers know it by its sequence.
func TestSharedBatchIsSentAgain(t *testing.T) {
	d := newMerging(t)
	for _, v := range []string{"first", "a", "b", "c"} {
		d.send(0, v, 0)
	}
	d.s.complete(d.ready()[0], &outcome{})
	shared := d.ready()
	require.Equal(t, []string{"a", "b", "c"}, batchOf(t, shared[0]))
	d.s.complete(shared[0], early(federation.NoLeader))
	d.send(0, "d", 0)
	require.Empty(t, d.ready())
	d.s.patrol(time.Unix(1001, 0))
	again := d.ready()
	require.Equal(t, shared, again)
	require.Equal(t, []string{"a", "b", "c"}, batchOf(t, again[0]))
	require.Equal(t, []int32{1}, sequences(again))
	pace := again[0].pace
	d.s.complete(again[0], &outcome{})
	last := d.ready()
	require.Equal(t, []int32{4}, sequences(last))
	d.s.complete(last[0], &outcome{})
	d.collect()
	require.EqualValues(t, 5, d.stable)
	require.True(t, d.s.idle())
	require.Zero(t, pace.inFlight)
}
