package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/recordbatch"
)

func TestReleasedFramesKeepNothing(t *testing.T) {
	f := newRecordFrame()
	d := &delivery{text: true}
	const many = 2*64 + 10
	for i := range many {
		f.add(&recordbatch.Record{
			Offset: int64(i), TimestampMs: 1, Key: []byte("k"), Value: make([]byte, i*100),
			Headers: []recordbatch.RecordHeader{{Key: "h", Value: []byte("v")}},
		}, d)
	}
	f.addRaw([]byte("batch"), 0)
	c := cursor{next: many, topic: "orders", number: 1, high: many, out: f, stop: noStop}
	got, err := c.finish(0, nil)
	require.NoError(t, err)
	require.Same(t, f, got)
	f.message.AssignmentEpoch = 3
	records := append([]*braidv1.Record(nil), f.message.GetRecords()...)
	require.Len(t, records, many)
	for i, r := range records {
		require.EqualValues(t, i, r.GetOffset())
		require.Len(t, r.GetValue(), i*100)
	}

	f.release()
	for _, r := range records {
		require.True(t, proto.Equal(&braidv1.Record{}, r), r)
	}
	require.True(t, proto.Equal(&braidv1.RecordBatch{}, &f.message), &f.message)
	for _, p := range f.fewList {
		require.Nil(t, p)
	}
	require.Empty(t, f.blocks)
	require.Empty(t, f.slabs)
	require.Nil(t, f.raw)
	(*recordFrame)(nil).release()
}

func TestFramesKeepNullAndEmptyApart(t *testing.T) {
	f := newRecordFrame()
	defer f.release()
	f.add(&recordbatch.Record{Key: []byte{}}, &delivery{})
	f.add(&recordbatch.Record{Value: []byte{}}, &delivery{})
	require.NotNil(t, f.records[0].Key)
	require.Nil(t, f.records[0].Value)
	require.Nil(t, f.records[1].Key)
	require.NotNil(t, f.records[1].Value)
}

// Streams that use the same pools at the same time, with frames of all sizes that
// wait in queues while the next ones are made: what is sent is what was read.
func TestFramesAreReleasedWhenTheyWereSent(t *testing.T) {
	const records, streams = 2000, 4
	cfg := testConfig(t)
	ended := make(chan error, 2*streams)
	for stream := range streams {
		in := &braidv1.Delivery{MaxFrameBytes: int32(1 + stream*3000)}
		if stream == streams-1 {
			in.Format = braidv1.RecordFormat_RECORD_FORMAT_KAFKA_V2
		}
		d, err := newDelivery(cfg, in)
		require.NoError(t, err)
		value := func(i int) string { return strings.Repeat(fmt.Sprintf("%d-%d ", stream, i), i%50*i%50+1) }
		slice := &router.Slice{TopicPartition: federation.TopicPartition{Topic: "t"}, HighWatermark: records, LastStable: records}
		for i := range records {
			var b recordbatch.Builder
			b.Reset(nil)
			b.Add(&recordbatch.Record{TimestampMs: 1, Value: []byte(value(i))})
			batch := b.Finish(recordbatch.NoProducer)
			recordbatch.PatchOffsetAndEpoch(batch, federation.LogicalOffset(i), 0)
			slice.Records = append(slice.Records, batch)
		}
		want := bytes.Join(slice.Records, nil)
		q := newSendQueue[braidv1.ConsumeResponse](1 << 20)
		go func() {
			ended <- enqueueFrames(newCursor(d, recordbatch.NewReader(cfg.DecompressedBytesMax), slice, 0, noStop, noStop), q)
		}()
		go func() {
			at, raw := 0, []byte(nil)
			err := q.drain(t.Context(), func(m *braidv1.ConsumeResponse) error {
				sent := proto.CloneOf(m).GetRecords()
				raw = append(raw, sent.GetKafkaBatches()...)
				for _, r := range sent.GetRecords() {
					if r.GetOffset() != int64(at) || string(r.GetValue()) != value(at) {
						return fmt.Errorf("record %d is %d: %q, want %q", at, r.GetOffset(), r.GetValue(), value(at))
					}
					at++
				}
				return nil
			})
			switch {
			case err != nil:
			case d.raw && !bytes.Equal(want, raw):
				err = errors.New("other batches were sent than read")
			case !d.raw && at != records:
				err = fmt.Errorf("%d of %d records were sent", at, records)
			}
			ended <- err
		}()
	}
	for range cap(ended) {
		require.NoError(t, <-ended)
	}
}

// Frames of Consume streams are counted while they are sent, and no longer.
func TestFramesAreCountedUntilTheyAreSent(t *testing.T) {
	answers := memory.NewBudget(1 << 20)
	q := newSendQueue[braidv1.ConsumeResponse](1 << 20)
	q.answers = answers
	// The first waits with the others, and is small: no copy of it is counted as it is sent.
	const free = int64(frameFreeBytes)
	want := []int64{300_100 - free, 300_000 - free + 100_000, 200_000 - free + 200_000, 0}
	for _, bytes := range []int{100, 100_000, 200_000} {
		f := newRecordFrame()
		f.add(&recordbatch.Record{Value: make([]byte, bytes)}, &delivery{})
		q.addFrame(&braidv1.ConsumeResponse{}, f.bytes, f)
	}
	q.add(&braidv1.ConsumeResponse{}, 0) // of no frame
	q.close()
	var got []int64
	require.NoError(t, q.drain(t.Context(), func(*braidv1.ConsumeResponse) error {
		got = append(got, answers.Used())
		return nil
	}))
	require.Equal(t, want, got)
	require.Zero(t, answers.Used())
	broken := errors.New("the client is gone")
	q = newSendQueue[braidv1.ConsumeResponse](1 << 20)
	q.answers = answers
	f := newRecordFrame()
	f.add(&recordbatch.Record{Value: make([]byte, 100_000)}, &delivery{})
	q.addFrame(&braidv1.ConsumeResponse{}, f.bytes, f)
	require.ErrorIs(t, q.drain(t.Context(), func(*braidv1.ConsumeResponse) error { return broken }), broken)
	require.Zero(t, answers.Used())
}

func enqueueFrames(c *cursor, q *sendQueue[braidv1.ConsumeResponse]) error {
	defer q.close()
	w := window{math.MaxInt64, math.MaxInt64}
	for !c.used() {
		f, err := c.frame(&w)
		if err != nil {
			return err
		}
		if f != nil {
			q.addFrame(&braidv1.ConsumeResponse{Frame: &braidv1.ConsumeResponse_Records{Records: &f.message}}, f.bytes, f)
		}
	}
	return nil
}
