package recordbatch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
)

func randomRecords(rng *rand.Rand, n int) []Record {
	field := func() []byte {
		if rng.Intn(4) == 0 {
			return nil
		}
		b := make([]byte, rng.Intn(200))
		_, _ = rng.Read(b)
		return b
	}
	records := make([]Record, n)
	for i := range records {
		r := Record{Offset: int64(i), TimestampMs: 1_700_000_000_000 + int64(rng.Intn(5000)) - 2500, Key: field(), Value: field()}
		for range rng.Intn(4) {
			r.Headers = append(r.Headers, RecordHeader{Key: fmt.Sprint("h", rng.Intn(3)), Value: field()})
		}
		records[i] = r
	}
	return records
}

func build(records []Record, p Producer) []byte {
	var b Builder
	b.Reset(nil)
	for i := range records {
		b.Add(&records[i])
	}
	return b.Finish(p)
}

func readAll(t *testing.T, r *Reader, batch []byte) []Record {
	t.Helper()
	require.NoError(t, r.Reset(batch))
	var all []Record
	for {
		var rec Record
		ok, err := r.Next(&rec)
		require.NoError(t, err)
		if !ok {
			return all
		}
		// What a Reader returns is valid until its next Reset only.
		clone := Record{Offset: rec.Offset, TimestampMs: rec.TimestampMs, Key: bytes.Clone(rec.Key), Value: bytes.Clone(rec.Value)}
		for _, h := range rec.Headers {
			clone.Headers = append(clone.Headers, RecordHeader{Key: strings.Clone(h.Key), Value: bytes.Clone(h.Value)})
		}
		all = append(all, clone)
	}
}

func TestBuiltBatchIsReadByFranzGo(t *testing.T) {
	const seed = 1
	rng := rand.New(rand.NewSource(seed))
	for _, n := range []int{1, 2, 63, 64, 65, 1000} {
		records := randomRecords(rng, n)
		batch := build(records, Producer{ID: 1 << 48, Epoch: 3, Sequence: 41})
		require.NoError(t, Check(batch, 0))
		h, ok := ParseHeader(batch)
		require.True(t, ok)
		require.Equal(t, []int64{1 << 48, 3, 41, int64(n)}, []int64{h.ProducerID, int64(h.ProducerEpoch), int64(h.BaseSequence), int64(h.Count)})
		fp, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Topic: "t"},
			&kmsg.FetchResponseTopicPartition{RecordBatches: batch}, kgo.DefaultDecompressor(), nil)
		require.NoError(t, fp.Err)
		require.Len(t, fp.Records, n)
		for i, got := range fp.Records {
			want := records[i]
			require.Equal(t, want.Offset, got.Offset)
			require.Equal(t, want.TimestampMs, got.Timestamp.UnixMilli())
			require.True(t, bytes.Equal(want.Key, got.Key) && (want.Key == nil) == (got.Key == nil))
			require.True(t, bytes.Equal(want.Value, got.Value) && (want.Value == nil) == (got.Value == nil))
			require.Len(t, got.Headers, len(want.Headers))
			for j, gh := range got.Headers {
				require.Equal(t, want.Headers[j].Key, gh.Key)
				require.True(t, bytes.Equal(want.Headers[j].Value, gh.Value) && (want.Headers[j].Value == nil) == (gh.Value == nil))
			}
		}
		require.Equal(t, records, readAll(t, NewReader(1<<20), batch))
	}
}

// franzBatch encodes records with franz-go's message types and compressors.
func franzBatch(t testing.TB, records []Record, codec kgo.CompressionCodec, attributes int16) []byte {
	t.Helper()
	var body []byte
	first := records[0].TimestampMs
	last := first
	for i, r := range records {
		rec := kmsg.Record{TimestampDelta64: r.TimestampMs - first, OffsetDelta: int32(i), Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			rec.Headers = append(rec.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		}
		tail := rec.AppendTo(nil)[1:] // after the zero length
		rec.Length = int32(len(tail))
		body = rec.AppendTo(body)
		last = max(last, r.TimestampMs)
	}
	compressor, err := kgo.DefaultCompressor(codec)
	require.NoError(t, err)
	if compressor != nil {
		var kind kgo.CompressionCodecType
		body, kind = compressor.Compress(new(bytes.Buffer), body)
		attributes |= int16(kind)
	}
	return franzHeader(body, len(records), first, last, attributes)
}

func franzHeader(body []byte, n int, first, last int64, attributes int16) []byte {
	b := kmsg.RecordBatch{
		Magic: 2, Attributes: attributes, LastOffsetDelta: int32(n - 1), FirstTimestamp: first, MaxTimestamp: last,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(n), Records: body,
	}
	raw := b.AppendTo(nil)
	b.Length = int32(len(raw) - LengthOverhead)
	b.CRC = int32(crc32.Checksum(raw[offAttributes:], castagnoli))
	return b.AppendTo(nil)
}

func TestReaderReadsEveryCodecOfFranzGo(t *testing.T) {
	rng := rand.New(rand.NewSource(2))
	reader := NewReader(1 << 20)
	for _, codec := range []kgo.CompressionCodec{
		kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
	} {
		for _, n := range []int{1, 100, 900} {
			records := randomRecords(rng, n)
			require.Equal(t, records, readAll(t, reader, franzBatch(t, records, codec, 0)))
		}
	}
}

func TestReaderReadsSnappyInBothFramings(t *testing.T) {
	records := randomRecords(rand.New(rand.NewSource(3)), 500)
	plain := franzBatch(t, records, kgo.NoCompression(), 0)
	body := plain[HeaderSize:]
	raw := s2.EncodeSnappy(nil, body)
	xerial := append(append([]byte{}, xerialMagic...), 0, 0, 0, 1, 0, 0, 0, 1)
	for rest := body; len(rest) > 0; {
		n := min(1000, len(rest))
		block := s2.EncodeSnappy(nil, rest[:n])
		xerial = append(xerial, byte(len(block)>>24), byte(len(block)>>16), byte(len(block)>>8), byte(len(block)))
		xerial = append(xerial, block...)
		rest = rest[n:]
	}
	h, _ := ParseHeader(plain)
	for _, compressed := range [][]byte{raw, xerial} {
		batch := franzHeader(compressed, len(records), h.FirstTimestamp, h.MaxTimestamp, codecSnappy)
		require.Equal(t, records, readAll(t, NewReader(1<<20), batch))
	}
}

func TestReaderBoundsTheDecompressedSize(t *testing.T) {
	records := []Record{{Value: make([]byte, 1<<20)}}
	for _, codec := range []kgo.CompressionCodec{
		kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
	} {
		batch := franzBatch(t, records, codec, 0)
		err := NewReader(1 << 19).Reset(batch)
		require.Equal(t, federation.RecordTooLarge, federation.KindOf(err), "%v", err)
		require.NoError(t, NewReader(2<<20).Reset(batch))
	}
}

func TestReaderSkipsControlRecords(t *testing.T) {
	marker := []Record{{TimestampMs: 5, Key: []byte{0, 0, 0, 0}, Value: []byte{0, 0, 0, 0, 0, 0}}}
	r := NewReader(1 << 10)
	batch := franzBatch(t, marker, kgo.NoCompression(), attrControl|attrTransactional)
	require.Empty(t, readAll(t, r, batch))
	require.True(t, r.Abort())
	marker[0].Key = []byte{0, 0, 0, 1}
	require.Empty(t, readAll(t, r, franzBatch(t, marker, kgo.NoCompression(), attrControl)))
	require.False(t, r.Abort())
}

func TestReaderTakesTheBrokersTimestamp(t *testing.T) {
	records := []Record{{TimestampMs: 5}, {Offset: 1, TimestampMs: 9}}
	batch := franzBatch(t, records, kgo.NoCompression(), attrLogAppendTime)
	for _, rec := range readAll(t, NewReader(1<<10), batch) {
		require.EqualValues(t, 9, rec.TimestampMs)
	}
}

// A batch after compaction has fewer records than offsets.
func TestReaderReadsCompactedBatch(t *testing.T) {
	rec := kmsg.Record{OffsetDelta: 7, Value: []byte("v")}
	rec.Length = int32(len(rec.AppendTo(nil)) - 1)
	batch := franzHeader(rec.AppendTo(nil), 1, 0, 0, 0)
	batch[offLastOffsetDelta+3] = 9
	renewCRC(batch)
	PatchOffsetAndEpoch(batch, 100, 1)
	got := readAll(t, NewReader(1<<10), batch)
	require.Equal(t, []Record{{Offset: 107, Value: []byte("v")}}, got)
}

// renewCRC gives a batch the CRC of its bytes.
func renewCRC(batch []byte) {
	if len(batch) > HeaderSize {
		binary.BigEndian.PutUint32(batch[offCRC:], crc32.Checksum(batch[offAttributes:], castagnoli))
	}
}

func TestReaderRefusesBadBatches(t *testing.T) {
	good := build([]Record{{Key: []byte("k"), Value: []byte("v"), Headers: []RecordHeader{{Key: "h"}}}}, NoProducer)
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	_, err := w.Write(good[HeaderSize:])
	require.NoError(t, err)
	require.NoError(t, w.Close())
	edit := func(f func(b []byte)) []byte { b := bytes.Clone(good); f(b); renewCRC(b); return b }
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for name, batch := range map[string][]byte{
		"empty":                   nil,
		"short":                   good[:60],
		"a bit of a value":        flipped,
		"cut off":                 good[:len(good)-1],
		"magic 1":                 edit(func(b []byte) { b[offMagic] = 1 }),
		"more records than bytes": edit(func(b []byte) { b[offCount+3], b[offLastOffsetDelta+3] = 2, 1 }),
		"fewer records":           edit(func(b []byte) { b[offCount+3] = 0 }),
		"negative count":          edit(func(b []byte) { b[offCount] = 0x80 }),
		"record length":           edit(func(b []byte) { b[HeaderSize] = 0xfe }),
		"key length":              edit(func(b []byte) { b[HeaderSize+4] = 0x7e }),
		"codec 7":                 edit(func(b []byte) { b[offAttributes+1] = 7 }),
		"not gzip":                edit(func(b []byte) { b[offAttributes+1] = 1 }),
		"cut off gzip":            franzHeader(gz.Bytes()[:gz.Len()-9], 1, 0, 0, codecGzip),
		"header without key":      franzHeader([]byte{16, 0, 0, 0, 1, 1, 2, 1, 1}, 1, 0, 0, 0),
		"many headers":            franzHeader([]byte{16, 0, 0, 0, 1, 1, 0xfe, 0x7f, 1}, 1, 0, 0, 0),
	} {
		r := NewReader(1 << 20)
		err := r.Reset(batch)
		var rec Record
		for ok := true; err == nil && ok; {
			ok, err = r.Next(&rec)
		}
		require.Error(t, err, name)
		kind := federation.KindOf(err)
		require.True(t, kind == federation.CorruptBatch || kind == federation.UnsupportedCompression, "%s: %v", name, err)
	}
}

func FuzzReader(f *testing.F) {
	records := randomRecords(rand.New(rand.NewSource(4)), 3)
	for _, codec := range []kgo.CompressionCodec{
		kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
	} {
		f.Add(franzBatch(f, records, codec, 0))
	}
	f.Fuzz(func(t *testing.T, batch []byte) {
		const limit = 1 << 16
		r := NewReader(limit)
		batch = bytes.Clone(batch)
		renewCRC(batch)
		if r.Reset(batch) != nil {
			return
		}
		h := r.Header()
		var rec Record
		for n := 0; ; n++ {
			ok, err := r.Next(&rec)
			if err != nil || !ok {
				return
			}
			require.Less(t, n, int(h.Count))
			require.GreaterOrEqual(t, rec.Offset, h.BaseOffset)
			require.LessOrEqual(t, len(rec.Key)+len(rec.Value), limit)
		}
	})
}

// Whatever is built reads back, and passes the check of the doors.
func FuzzBuilder(f *testing.F) {
	f.Add([]byte("k"), []byte("v"), "h", []byte("x"), int64(1), int64(2))
	f.Fuzz(func(t *testing.T, key, value []byte, header string, hv []byte, ts1, ts2 int64) {
		records := []Record{
			{TimestampMs: ts1, Key: key, Value: value, Headers: []RecordHeader{{Key: header, Value: hv}}},
			{Offset: 1, TimestampMs: ts2, Value: key},
		}
		batch := build(records, NoProducer)
		require.NoError(t, Check(batch, 0))
		require.Equal(t, records, readAll(t, NewReader(1<<30), batch))
	})
}

// Records that are appended batch by batch are the same batch.
func TestBuilderAppends(t *testing.T) {
	rng := rand.New(rand.NewSource(9))
	for range 200 {
		records := randomRecords(rng, 1+rng.Intn(300))
		if rng.Intn(4) == 0 {
			records[0].TimestampMs = math.MaxInt64
		}
		var whole, other Builder
		whole.Reset(nil)
		for rest := records; len(rest) > 0; {
			n := 1 + rng.Intn(len(rest))
			other.Reset(nil)
			for i := range rest[:n] {
				other.Add(&rest[i])
			}
			rest = rest[n:]
			whole.Append(&other)
			whole.Move(make([]byte, 0, rng.Intn(1000)))
		}
		require.EqualValues(t, len(records), whole.Count())
		require.Equal(t, build(records, NoProducer), whole.Finish(NoProducer))
	}
	var none, whole Builder
	none.Reset(nil)
	whole.Reset(nil)
	whole.Append(&none)
	require.Zero(t, whole.Count())
}

func BenchmarkBuilder(b *testing.B) {
	records := randomRecords(rand.New(rand.NewSource(5)), 100)
	var builder Builder
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		builder.Reset(buf)
		for i := range records {
			builder.Add(&records[i])
		}
		buf = builder.Finish(NoProducer)
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkReader(b *testing.B) {
	batch := build(randomRecords(rand.New(rand.NewSource(6)), 100), NoProducer)
	r := NewReader(1 << 20)
	b.ReportAllocs()
	b.SetBytes(int64(len(batch)))
	var rec Record
	for b.Loop() {
		if err := r.Reset(batch); err != nil {
			b.Fatal(err)
		}
		for {
			if ok, err := r.Next(&rec); err != nil {
				b.Fatal(err)
			} else if !ok {
				break
			}
		}
	}
}
