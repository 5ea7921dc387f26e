package recordbatch

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"unsafe"

	"github.com/braidmq/braid/federation"
)

// malformed makes the error about bytes that are no v2 batch.
func malformed(format string, args ...any) error {
	return federation.Errorf(federation.CorruptBatch, "malformed record batch: "+format, args...)
}

// attrLogAppendTime is the attribute bit of a batch that the broker stamped.
const attrLogAppendTime = 0x08

// A Record is one record of a batch. A nil key, value or header value is null,
// which differs from empty.
type Record struct {
	Offset      int64 // set by Reader; Builder counts by itself
	TimestampMs int64
	Key         []byte
	Value       []byte
	Headers     []RecordHeader
}

// A RecordHeader is a header of a record; keys may repeat.
type RecordHeader struct {
	Key   string
	Value []byte
}

// A Producer is what a batch says of its idempotent producer.
type Producer struct {
	ID       int64
	Epoch    int16
	Sequence int32 // of the first record
}

// NoProducer is the Producer of a batch that is not idempotent.
var NoProducer = Producer{ID: -1, Epoch: -1, Sequence: -1}

// A Builder encodes records into one uncompressed v2 batch. It keeps no
// record after Add. The zero Builder is ready for Reset.
type Builder struct {
	buf           []byte
	count         int32
	baseTimestamp int64
	maxTimestamp  int64
}

// Reset begins a batch in the memory of buf, whose content is dropped.
func (b *Builder) Reset(buf []byte) {
	if cap(buf) < HeaderSize {
		buf = make([]byte, 0, 512)
	}
	*b = Builder{buf: buf[:HeaderSize]}
	clear(b.buf)
}

// Bytes returns the memory of the batch, so that it can serve another Reset.
func (b *Builder) Bytes() []byte { return b.buf }

// Len returns the size of the batch so far.
func (b *Builder) Len() int { return len(b.buf) }

// Count returns the number of records so far.
func (b *Builder) Count() int32 { return b.count }

// Add appends a record.
func (b *Builder) Add(r *Record) {
	if b.count == 0 {
		b.baseTimestamp, b.maxTimestamp = r.TimestampMs, r.TimestampMs
	}
	b.maxTimestamp = max(b.maxTimestamp, r.TimestampMs)
	delta := r.TimestampMs - b.baseTimestamp
	buf := binary.AppendVarint(b.buf, int64(bodySize(r, delta, b.count)))
	buf = append(buf, 0) // attributes: none are defined for records
	buf = binary.AppendVarint(buf, delta)
	buf = binary.AppendVarint(buf, int64(b.count))
	buf = appendNullable(buf, r.Key)
	buf = appendNullable(buf, r.Value)
	buf = binary.AppendVarint(buf, int64(len(r.Headers)))
	for i := range r.Headers {
		h := &r.Headers[i]
		buf = binary.AppendVarint(buf, int64(len(h.Key)))
		buf = append(buf, h.Key...)
		buf = appendNullable(buf, h.Value)
	}
	b.buf = buf
	b.count++
}

// Move goes on in the memory of buf, whose content is dropped.
func (b *Builder) Move(buf []byte) { b.buf = append(buf[:0], b.buf...) }

// Append appends the records of another batch that is not finished.
func (b *Builder) Append(o *Builder) {
	if o.count == 0 {
		return
	}
	if b.count == 0 {
		b.baseTimestamp, b.maxTimestamp = o.baseTimestamp, o.maxTimestamp
	}
	b.maxTimestamp = max(b.maxTimestamp, o.maxTimestamp)
	shift := o.baseTimestamp - b.baseTimestamp
	for in := o.buf[HeaderSize:]; len(in) > 0; {
		size, n := binary.Varint(in)
		record := in[n : n+int(size)]
		in = in[n+int(size):]
		delta, n := binary.Varint(record[1:])
		_, m := binary.Varint(record[1+n:])
		rest := record[1+n+m:]
		delta += shift
		buf := binary.AppendVarint(b.buf, int64(1+varintSize(delta)+varintSize(int64(b.count))+len(rest)))
		buf = append(buf, record[0])
		buf = binary.AppendVarint(buf, delta)
		buf = binary.AppendVarint(buf, int64(b.count))
		b.buf = append(buf, rest...)
		b.count++
	}
}

// Finish completes the batch and returns it. The batch owns the memory until
// the next Reset with it. A batch without records is not legal in Kafka.
func (b *Builder) Finish(p Producer) []byte {
	buf := b.buf
	be := binary.BigEndian
	be.PutUint32(buf[offLength:], uint32(len(buf)-offLeaderEpoch))
	be.PutUint32(buf[offLeaderEpoch:], math.MaxUint32) // -1: the broker sets it
	buf[offMagic] = 2
	be.PutUint32(buf[offLastOffsetDelta:], uint32(b.count-1))
	be.PutUint64(buf[offFirstTimestamp:], uint64(b.baseTimestamp))
	be.PutUint64(buf[offMaxTimestamp:], uint64(b.maxTimestamp))
	be.PutUint64(buf[offProducerID:], uint64(p.ID))
	be.PutUint16(buf[offProducerEpoch:], uint16(p.Epoch))
	be.PutUint32(buf[offBaseSequence:], uint32(p.Sequence))
	be.PutUint32(buf[offCount:], uint32(b.count))
	be.PutUint32(buf[offCRC:], crc32.Checksum(buf[offAttributes:], castagnoli))
	return buf
}

// Hole returns a batch without records that ends before an offset, as compaction leaves
// one behind (KAFKA-5443): a consumer goes on at that offset.
func Hole(next federation.LogicalOffset, epoch federation.LogicalEpoch) []byte {
	var b Builder
	b.Reset(nil)
	buf := b.Finish(NoProducer)
	be := binary.BigEndian
	be.PutUint32(buf[offLastOffsetDelta:], 0)
	be.PutUint32(buf[offCRC:], crc32.Checksum(buf[offAttributes:], castagnoli))
	PatchOffsetAndEpoch(buf, next-1, epoch)
	return buf
}

func appendNullable(dst, v []byte) []byte {
	if v == nil {
		return append(dst, 1) // zigzag of -1
	}
	dst = binary.AppendVarint(dst, int64(len(v)))
	return append(dst, v...)
}

func bodySize(r *Record, delta int64, index int32) int {
	n := 1 + varintSize(delta) + varintSize(int64(index)) + nullableSize(r.Key) + nullableSize(r.Value) +
		varintSize(int64(len(r.Headers)))
	for i := range r.Headers {
		k := len(r.Headers[i].Key)
		n += varintSize(int64(k)) + k + nullableSize(r.Headers[i].Value)
	}
	return n
}

func nullableSize(v []byte) int {
	if v == nil {
		return 1
	}
	return varintSize(int64(len(v))) + len(v)
}

func varintSize(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)
	n := 1
	for ; u >= 0x80; u >>= 7 {
		n++
	}
	return n
}

// A Reader iterates over the records of v2 batches, one batch after the other.
// It keeps its decompressors and buffers between batches. It is not safe for
// concurrent use.
type Reader struct {
	decompressor decompressor

	header      Header
	rest        []byte // records not read yet, decompressed
	left        int32
	controlType int16
}

// NewReader returns a Reader that refuses batches of more than
// decompressedBytesMax bytes of records.
func NewReader(decompressedBytesMax int) *Reader {
	return &Reader{decompressor: decompressor{bytesMax: decompressedBytesMax}}
}

// Reset begins with a batch: whole, magic 2, without trailing bytes, and with the CRC of
// its bytes. The records of a control batch are not iterated. Errors are of
// kind CorruptBatch, UnsupportedCompression or, if the records are more than the
// reader allows, RecordTooLarge.
func (r *Reader) Reset(batch []byte) error {
	r.rest, r.left = nil, 0
	h, ok := ParseHeader(batch)
	switch {
	case !ok:
		r.header = Header{ProducerID: -1}
		return malformed("%d bytes that do not begin with a header of magic 2", len(batch))
	case int64(h.Length) != int64(len(batch)-LengthOverhead):
		return malformed("length field %d, want %d", h.Length, len(batch)-LengthOverhead)
	case h.Count < 0 || h.LastOffsetDelta < 0 || h.Count > 0 && h.Count-1 > h.LastOffsetDelta:
		return malformed("%d records with a last offset delta of %d", h.Count, h.LastOffsetDelta)
	}
	if !Intact(batch) {
		return malformed("the CRC is not that of its bytes")
	}
	r.header = h
	records, err := r.decompressor.decompress(batch[HeaderSize:], int(h.Attributes&attrCompression))
	if err != nil {
		return err
	}
	if h.Control() {
		return r.readControl(records)
	}
	r.rest, r.left = records, h.Count
	return nil
}

// readControl finds the type of a control batch: its record's key is
// {version int16, type int16} (ControlRecordType.java).
func (r *Reader) readControl(records []byte) error {
	r.controlType = -1
	if r.header.Count == 0 {
		return nil // compacted away
	}
	var rec Record
	if _, err := r.readRecord(records, &rec); err != nil {
		return err
	}
	if len(rec.Key) >= 4 {
		r.controlType = int16(binary.BigEndian.Uint16(rec.Key[2:]))
	}
	return nil
}

// Header returns the header of the batch.
func (r *Reader) Header() *Header { return &r.header }

// Abort reports whether the batch is the marker of an aborted transaction.
func (r *Reader) Abort() bool { return r.header.Control() && r.controlType == 0 }

// Next reads the next record into rec and reports whether there was one. What
// rec refers to, header keys too, lies in the batch or in the reader's buffer
// and is valid until the next Reset.
func (r *Reader) Next(rec *Record) (bool, error) {
	if r.left == 0 {
		if len(r.rest) > 0 {
			return false, malformed("%d bytes after the last record", len(r.rest))
		}
		return false, nil
	}
	rest, err := r.readRecord(r.rest, rec)
	if err != nil {
		r.left, r.rest = 0, nil
		return false, err
	}
	r.rest = rest
	r.left--
	return true, nil
}

func (r *Reader) readRecord(in []byte, rec *Record) (rest []byte, err error) {
	size, n := binary.Varint(in)
	if n <= 0 || size < 0 || size > int64(len(in)-n) {
		return nil, malformed("a record of %d bytes in %d", size, len(in))
	}
	c := cursor{in: in[n : n+int(size)]}
	rest = in[n+int(size):]
	c.take(1) // attributes
	timeDelta, offsetDelta := c.varint(), c.varint()
	rec.Key, rec.Value = c.nullable(), c.nullable()
	headers := c.varint()
	// A header has two bytes at least: a count above that is a lie, and no loop runs on it.
	if c.bad || headers < 0 || headers > int64(len(c.in))/2 {
		return nil, malformed("a record's fields do not fit into its size")
	}
	rec.Headers = rec.Headers[:0]
	for range headers {
		key := c.nullable()
		if key == nil {
			return nil, malformed("a header without a key")
		}
		//nolint:gosec // a view like Key and Value; the bytes are not written to while it is valid
		rec.Headers = append(rec.Headers, RecordHeader{Key: unsafe.String(unsafe.SliceData(key), len(key)), Value: c.nullable()})
	}
	if c.bad || len(c.in) > 0 || offsetDelta < 0 || offsetDelta > int64(r.header.LastOffsetDelta) {
		return nil, malformed("a record's fields do not fit into its size")
	}
	rec.Offset = r.header.BaseOffset + offsetDelta
	rec.TimestampMs = r.header.FirstTimestamp + timeDelta
	if r.header.Attributes&attrLogAppendTime != 0 {
		rec.TimestampMs = r.header.MaxTimestamp
	}
	return rest, nil
}

// A cursor reads fields; after one that does not fit it is bad and returns zeros.
type cursor struct {
	in  []byte
	bad bool
}

func (c *cursor) take(n int64) []byte {
	if c.bad || n < 0 || n > int64(len(c.in)) {
		c.bad = true
		return nil
	}
	out := c.in[:n:n]
	c.in = c.in[n:]
	return out
}

func (c *cursor) varint() int64 {
	v, n := binary.Varint(c.in)
	if c.bad || n <= 0 {
		c.bad = true
		return 0
	}
	c.in = c.in[n:]
	return v
}

func (c *cursor) nullable() []byte {
	n := c.varint()
	if n == -1 {
		return nil
	}
	return c.take(n)
}
