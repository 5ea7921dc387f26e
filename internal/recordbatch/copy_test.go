package recordbatch_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/recordbatch"
)

func TestCompressedBatchesHoldTheSameRecords(t *testing.T) {
	var c recordbatch.Compressor
	reader := recordbatch.NewReader(1 << 20)
	for round := range 2 { // the codecs are used again
		for codec := range int16(5) {
			var b recordbatch.Builder
			b.Reset(nil)
			for i := range 100 {
				b.Add(&recordbatch.Record{TimestampMs: int64(1000 + i), Key: []byte{byte(i)}, Value: bytes.Repeat([]byte("v"), 100)})
			}
			plain := b.Finish(recordbatch.Producer{ID: 7, Epoch: 1, Sequence: 3})
			size := len(plain)
			batch, err := c.Compress(plain, codec)
			require.NoError(t, err)
			require.NoError(t, recordbatch.Check(batch, 0), "codec %d", codec)
			require.Equal(t, codec != 0, len(batch) < size)
			h, ok := recordbatch.ParseHeader(batch)
			require.True(t, ok)
			require.Equal(t, codec, h.Codec())
			require.True(t, h.Whole())
			require.Equal(t, int64(7), h.ProducerID)
			require.NoError(t, reader.Reset(batch))
			var r recordbatch.Record
			n := 0
			for {
				more, err := reader.Next(&r)
				require.NoError(t, err)
				if !more {
					break
				}
				require.Equal(t, []byte{byte(n)}, r.Key)
				require.Equal(t, int64(1000+n), r.TimestampMs)
				n++
			}
			require.Equal(t, 100, n, "codec %d, round %d", codec, round)
		}
	}
	_, err := c.Compress(make([]byte, recordbatch.HeaderSize), 7)
	require.ErrorContains(t, err, "compression type 7")
}

func TestResentBatchIsOneThatClientsMaySend(t *testing.T) {
	var b recordbatch.Builder
	b.Reset(nil)
	b.Add(&recordbatch.Record{TimestampMs: 5, Key: []byte("k")})
	batch := b.Finish(recordbatch.Producer{ID: 7, Epoch: 1, Sequence: 3})
	recordbatch.PatchOffsetAndEpoch(batch, 1234, 9) // as a log has it
	recordbatch.Resend(batch, recordbatch.Producer{ID: 8, Sequence: 44})
	require.NoError(t, recordbatch.Check(batch, 0))
	h, _ := recordbatch.ParseHeader(batch)
	require.Equal(t, []any{int64(8), int16(0), int32(44), int64(0), int64(5)}, []any{h.ProducerID, h.ProducerEpoch, h.BaseSequence, h.BaseOffset, h.MaxTimestamp})

	for what, h := range map[string]recordbatch.Header{
		"records were compacted away": {Count: 1, LastOffsetDelta: 1},
		"nothing is left":             {LastOffsetDelta: 0},
		"a transaction's":             {Count: 1, Attributes: 0x10},
		"stamped by a broker":         {Count: 1, Attributes: 0x08},
		"has a delete horizon":        {Count: 1, Attributes: 0x40},
	} {
		require.False(t, h.Whole(), what)
	}
}
