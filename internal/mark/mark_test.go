package mark_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
)

var (
	subject = mark.Subject{
		LogicalCluster: "default", Topic: "orders", TopicID: federation.TopicID{1, 2, 3}, Partition: 7, Extent: 2, MapVersion: 99,
	}
	at = time.UnixMilli(1_700_000_000_000)
	id = mark.ProducerID(1<<48 + 5)
)

func TestProducerIDs(t *testing.T) {
	require.Equal(t, mark.FirstProducerID, mark.ProducerID(1<<48))
	require.Equal(t, mark.FirstProducerID+5, id)
	for _, allocated := range []int64{1 << 48, 1<<48 + 1<<44 - 1, 1<<48 + 1<<44, 1 << 61, 0} {
		require.True(t, mark.IsMark(mark.ProducerID(allocated)), "%d", allocated)
	}
	for _, other := range []int64{-1, 0, 1 << 48, mark.FirstProducerID - 1, mark.FirstProducerID + 1<<44, math.MaxInt64} {
		require.False(t, mark.IsMark(other), "%d", other)
	}
}

func parse(t *testing.T, batch []byte) (mark.Kind, []mark.Producer) {
	t.Helper()
	kind, s, producers, err := mark.Parse(batch)
	require.NoError(t, err)
	require.Equal(t, subject, s)
	return kind, producers
}

func record(t *testing.T, batch []byte) (recordbatch.Header, recordbatch.Record) {
	t.Helper()
	require.NoError(t, recordbatch.Check(batch, 0), "a broker takes it")
	r := recordbatch.NewReader(1 << 20)
	require.NoError(t, r.Reset(batch))
	var rec recordbatch.Record
	ok, err := r.Next(&rec)
	require.NoError(t, err)
	require.True(t, ok)
	return *r.Header(), rec
}

func TestMarksReadBack(t *testing.T) {
	primer, seal := mark.Primer(subject, id, at), mark.Seal(subject, id, at)
	kind, producers := parse(t, primer)
	require.Equal(t, mark.KindPrimer, kind)
	require.Empty(t, producers)
	kind, producers = parse(t, seal)
	require.Equal(t, mark.KindSeal, kind)
	require.Empty(t, producers)

	keys := make(map[string]bool)
	for name, batch := range map[string][]byte{"primer": primer, "seal": seal} {
		h, rec := record(t, batch)
		require.Equal(t, []int64{id, 0, 0, 1}, []int64{h.ProducerID, int64(h.ProducerEpoch), int64(h.BaseSequence), int64(h.Count)})
		require.Equal(t, at.UnixMilli(), rec.TimestampMs)
		require.Equal(t, "braid."+name+"/AQIDAAAAAAAAAAAAAAAAAA/7/2/0", string(rec.Key))
		require.Equal(t, []recordbatch.RecordHeader{{Key: mark.HeaderKey, Value: []byte(name)}}, rec.Headers)
		keys[string(rec.Key)] = true
	}
	require.Len(t, keys, 2)
}

// Where a batch lies in the log is outside of its CRC.
func TestMarkReadsBackFromAnyOffset(t *testing.T) {
	batch := mark.Seal(subject, id, at)
	recordbatch.PatchOffsetAndEpoch(batch, 1<<40, 12)
	kind, _ := parse(t, batch)
	require.Equal(t, mark.KindSeal, kind)
	h, _ := recordbatch.ParseHeader(batch)
	require.EqualValues(t, 1<<40, h.BaseOffset, "the caller's bytes are left alone")
}

// A topic's compression.type makes the broker write its own batch. Java's zstd
// announces a window of 2 MiB for a batch of any size, of 128 MiB at most.
func TestMarkReadsBackCompressed(t *testing.T) {
	plain := mark.Primer(subject, id, at)
	var body bytes.Buffer
	w, err := zstd.NewWriter(&body, zstd.WithWindowSize(128<<20))
	require.NoError(t, err)
	_, err = w.Write(plain[recordbatch.HeaderSize:])
	require.NoError(t, err)
	require.NoError(t, w.Flush()) // so the size is not known when the frame begins
	require.NoError(t, w.Close())
	batch := append(bytes.Clone(plain[:recordbatch.HeaderSize]), body.Bytes()...)
	binary.BigEndian.PutUint32(batch[8:], uint32(len(batch)-recordbatch.LengthOverhead))
	batch[22] |= 4
	recordbatch.SetProducer(batch, id, 0, 0) // and so the CRC
	kind, _ := parse(t, batch)
	require.Equal(t, mark.KindPrimer, kind)
}

func someProducers(n int) []mark.Producer {
	producers := make([]mark.Producer, n)
	for i := range producers {
		producers[i] = mark.Producer{ID: 1<<48 + int64(i), Epoch: int16(i % 300), LastSequence: int32(i) - 1, KnownMs: 1_700_000_000_000 + int64(i)}
	}
	return producers
}

func TestOpeningsAreSplit(t *testing.T) {
	for _, c := range []struct{ producers, bytesMax, batches int }{
		{0, 1 << 20, 0}, {1, 1 << 20, 1}, {1000, 1 << 20, 1}, {1000, 1000, -1}, {1000, 300, -1}, {50_000, math.MaxInt, -1},
	} {
		want := someProducers(c.producers)
		batches, err := mark.Openings(subject, id, want, c.bytesMax, at)
		require.NoError(t, err)
		if c.batches >= 0 {
			require.Len(t, batches, c.batches)
		} else {
			require.Greater(t, len(batches), 1)
		}
		var got []mark.Producer
		keys := make(map[string]bool)
		for i, batch := range batches {
			limit := min(c.bytesMax, 256<<10)
			require.LessOrEqual(t, len(batch), limit)
			if i < len(batches)-1 {
				require.Greater(t, len(batch), limit-64, "a batch is filled")
			}
			h, rec := record(t, batch)
			require.EqualValues(t, i+1, h.BaseSequence)
			keys[string(rec.Key)] = true
			kind, producers := parse(t, batch)
			require.Equal(t, mark.KindOpening, kind)
			got = append(got, producers...)
		}
		require.Len(t, keys, len(batches))
		require.True(t, slices.Equal(want, got))
	}
}

func TestOpeningsNeedRoomForOneProducer(t *testing.T) {
	fits := func(n int) bool {
		batches, err := mark.Openings(subject, id, []mark.Producer{{ID: math.MaxInt64, Epoch: math.MaxInt16, LastSequence: -1}}, n, at)
		if err != nil {
			require.Equal(t, federation.RecordTooLarge, federation.KindOf(err))
			return false
		}
		require.LessOrEqual(t, len(batches[0]), n)
		return true
	}
	require.False(t, fits(0))
	require.False(t, fits(200))
	require.True(t, fits(300))
}

func TestParseRefusesWhatIsNoMark(t *testing.T) {
	build := func(id int64, records ...recordbatch.Record) []byte {
		var b recordbatch.Builder
		b.Reset(nil)
		for i := range records {
			b.Add(&records[i])
		}
		return b.Finish(recordbatch.Producer{ID: id})
	}
	good := mark.Primer(subject, id, at)
	_, rec := record(t, good)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	opening, err := mark.Openings(subject, id, []mark.Producer{{ID: 1, LastSequence: -2}}, 1<<20, at)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		batch []byte
		kind  federation.Kind
	}{
		"nothing":            {nil, federation.CorruptBatch},
		"cut off":            {good[:len(good)-1], federation.CorruptBatch},
		"a flipped bit":      {flipped, federation.CorruptBatch},
		"two batches":        {append(bytes.Clone(good), good...), federation.InvalidRecord},
		"a client's batch":   {build(1<<48, rec), federation.InvalidRecord},
		"two records":        {build(id, rec, rec), federation.InvalidRecord},
		"no value":           {build(id, recordbatch.Record{}), federation.InvalidRecord},
		"not protobuf":       {build(id, recordbatch.Record{Value: []byte{0xff, 0xff}}), federation.InvalidRecord},
		"no kind":            {build(id, recordbatch.Record{Value: append([]byte{0x1a, 16}, make([]byte, 16)...)}), federation.InvalidRecord},
		"a long topic id":    {build(id, recordbatch.Record{Value: append([]byte{0x1a, 17}, make([]byte, 17)...)}), federation.InvalidRecord},
		"sequences below -1": {opening[0], federation.InvalidRecord},
	} {
		_, _, _, err := mark.Parse(c.batch)
		require.Error(t, err, name)
		require.Equal(t, c.kind, federation.KindOf(err), "%s: %v", name, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(mark.Primer(subject, id, at), true)
	f.Add(mark.Seal(subject, id, at), false)
	openings, err := mark.Openings(subject, id, someProducers(3), 1<<20, at)
	require.NoError(f, err)
	f.Add(openings[0], true)
	f.Fuzz(func(t *testing.T, batch []byte, mend bool) {
		if h, ok := recordbatch.ParseHeader(batch); ok && mend {
			recordbatch.SetProducer(batch, id, h.ProducerEpoch, h.BaseSequence) // and so the CRC
		}
		kind, s, producers, err := mark.Parse(batch)
		if err != nil {
			require.Zero(t, kind)
			return
		}
		require.Contains(t, []mark.Kind{mark.KindPrimer, mark.KindSeal, mark.KindOpening}, kind)
		require.GreaterOrEqual(t, s.Partition, federation.LogicalPartition(0))
		for _, p := range producers {
			require.GreaterOrEqual(t, p.LastSequence, int32(-1))
		}
	})
}

func TestProducerBefore(t *testing.T) {
	for _, c := range []struct {
		epoch, otherEpoch int16
		last, otherLast   int32
		before            bool
	}{
		{0, 0, 3, 4, true},
		{0, 0, 4, 4, false},
		{0, 0, 5, 4, false},
		{0, 1, 5, -1, true},
		{1, 0, -1, 5, false},
		{0, 0, -1, 0, true},
		{0, 0, 0, -1, false},
		{0, 0, -1, -1, false},
		{0, 0, math.MaxInt32, 2, true}, // sequences come round
		{0, 0, 2, math.MaxInt32, false},
	} {
		p, q := mark.Producer{Epoch: c.epoch, LastSequence: c.last}, mark.Producer{Epoch: c.otherEpoch, LastSequence: c.otherLast}
		require.Equal(t, c.before, p.Before(&q), "%+v", c)
	}
}
