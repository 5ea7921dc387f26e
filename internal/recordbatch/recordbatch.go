// Package recordbatch is a view on the bytes of Kafka record batches (magic 2,
// KIP-98): the header, the check of what a client sends, and the two fields
// that braid patches on the way to a reader, base offset and partition leader
// epoch, both outside the CRC. Decoding records is in records.go and is used by
// the Connect door alone.
package recordbatch

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/braidmq/braid/federation"
)

// Offsets of the fields of a batch, as in Kafka's DefaultRecordBatch.
const (
	offBaseOffset      = 0
	offLength          = 8
	offLeaderEpoch     = 12
	offMagic           = 16
	offCRC             = 17
	offAttributes      = 21
	offLastOffsetDelta = 23
	offFirstTimestamp  = 27
	offMaxTimestamp    = 35
	offProducerID      = 43
	offProducerEpoch   = 51
	offBaseSequence    = 53
	offCount           = 57

	// HeaderSize is the size of a batch without records.
	HeaderSize = 61
	// LengthOverhead is what the length field does not count: base offset and itself.
	LengthOverhead = 12
)

// Attribute bits of a batch.
const (
	attrCompression   = 0x07
	attrTransactional = 0x10
	attrControl       = 0x20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A Header is the fixed part of a batch.
type Header struct {
	BaseOffset      int64
	Length          int32 // of the whole batch less LengthOverhead
	LeaderEpoch     int32
	Magic           int8
	CRC             uint32
	Attributes      int16
	LastOffsetDelta int32
	FirstTimestamp  int64
	MaxTimestamp    int64
	ProducerID      int64
	ProducerEpoch   int16
	BaseSequence    int32
	Count           int32
}

// Size returns the size of the whole batch in bytes.
func (h *Header) Size() int { return int(h.Length) + LengthOverhead }

// LastOffset returns the offset of the batch's last record.
func (h *Header) LastOffset() int64 { return h.BaseOffset + int64(h.LastOffsetDelta) }

// LastSequence returns the sequence of the last record that the batch was written
// with; compaction may have taken records away since (Kafka's
// DefaultRecordBatch.lastSequence). It wraps to 0 after 2^31-1.
func (h *Header) LastSequence() int32 { return AddSequence(h.BaseSequence, h.LastOffsetDelta) }

// Idempotent reports whether the batch carries a producer id.
func (h *Header) Idempotent() bool { return h.ProducerID >= 0 }

// Transactional reports whether the batch belongs to a transaction.
func (h *Header) Transactional() bool { return h.Attributes&attrTransactional != 0 }

// Control reports whether the batch holds markers instead of records.
func (h *Header) Control() bool { return h.Attributes&attrControl != 0 }

// AddSequence adds n to a sequence, wrapping after 2^31-1 to 0.
func AddSequence(seq, n int32) int32 { return int32((int64(seq) + int64(n)) & 0x7fffffff) }

// ParseHeader reads the header at the start of b; false if b is too short for
// one, or not magic 2.
func ParseHeader(b []byte) (Header, bool) {
	if len(b) < HeaderSize || b[offMagic] != 2 {
		return Header{}, false
	}
	be := binary.BigEndian
	return Header{
		BaseOffset:      int64(be.Uint64(b[offBaseOffset:])),
		Length:          int32(be.Uint32(b[offLength:])),
		LeaderEpoch:     int32(be.Uint32(b[offLeaderEpoch:])),
		Magic:           int8(b[offMagic]),
		CRC:             be.Uint32(b[offCRC:]),
		Attributes:      int16(be.Uint16(b[offAttributes:])),
		LastOffsetDelta: int32(be.Uint32(b[offLastOffsetDelta:])),
		FirstTimestamp:  int64(be.Uint64(b[offFirstTimestamp:])),
		MaxTimestamp:    int64(be.Uint64(b[offMaxTimestamp:])),
		ProducerID:      int64(be.Uint64(b[offProducerID:])),
		ProducerEpoch:   int16(be.Uint16(b[offProducerEpoch:])),
		BaseSequence:    int32(be.Uint32(b[offBaseSequence:])),
		Count:           int32(be.Uint32(b[offCount:])),
	}, true
}

// Next splits the first whole batch off b. It returns nil if b holds no whole
// batch any more: brokers cut the last one off at the size limit of a fetch.
// The batch can be of an older magic; only magic 2 has a Header.
func Next(b []byte) (batch, rest []byte) {
	if len(b) < offMagic+1 {
		return nil, nil
	}
	n := int64(int32(binary.BigEndian.Uint32(b[offLength:]))) + LengthOverhead
	if n < offMagic+1 || n > int64(len(b)) {
		return nil, nil
	}
	return b[:n], b[n:]
}

// Magic returns the magic of a batch that Next returned.
func Magic(batch []byte) int8 { return int8(batch[offMagic]) }

// Intact reports whether a batch of magic 2 has the CRC of its bytes; those of other
// formats are believed.
func Intact(batch []byte) bool {
	h, ok := ParseHeader(batch)
	return !ok || crc32.Checksum(batch[offAttributes:], castagnoli) == h.CRC
}

// AllIntact reports whether all whole batches of b are [Intact].
func AllIntact(b []byte) bool {
	for {
		batch, rest := Next(b)
		switch {
		case batch == nil:
			return true
		case !Intact(batch):
			return false
		}
		b = rest
	}
}

// PatchOffsetAndEpoch sets base offset and partition leader epoch of a batch in
// place. Batches of magic 0 and 1 have no epoch: only their offset is set.
func PatchOffsetAndEpoch(batch []byte, base federation.LogicalOffset, epoch federation.LogicalEpoch) {
	binary.BigEndian.PutUint64(batch[offBaseOffset:], uint64(base))
	if batch[offMagic] >= 2 {
		binary.BigEndian.PutUint32(batch[offLeaderEpoch:], uint32(epoch))
	}
}

// SetProducer rewrites the producer fields of a batch in place and the CRC,
// which covers them.
func SetProducer(batch []byte, id int64, epoch int16, baseSequence int32) {
	be := binary.BigEndian
	be.PutUint64(batch[offProducerID:], uint64(id))
	be.PutUint16(batch[offProducerEpoch:], uint16(epoch))
	be.PutUint32(batch[offBaseSequence:], uint32(baseSequence))
	be.PutUint32(batch[offCRC:], crc32.Checksum(batch[offAttributes:], castagnoli))
}

// Check checks that b is exactly one batch that a client may append: whole,
// magic 2, right CRC and count, no control batch, at most maxBytes (0 = any).
// Whether it is transactional, the caller decides. Errors are of kind
// CorruptBatch, InvalidRecord, RecordTooLarge or UnsupportedCompression.
func Check(b []byte, maxBytes int) error {
	if len(b) == 0 { // not CorruptBatch, on which clients try again
		return federation.Errorf(federation.InvalidRecord, "no record batch for a partition that the request names")
	}
	if len(b) < HeaderSize {
		if len(b) > offMagic && b[offMagic] < 2 {
			return federation.Errorf(federation.InvalidRecord, "record batch of magic %d: only magic 2 is taken (Kafka clients from 0.11 on)", b[offMagic])
		}
		return federation.Errorf(federation.CorruptBatch, "record batch of %d bytes is shorter than its header of %d", len(b), HeaderSize)
	}
	if b[offMagic] != 2 {
		return federation.Errorf(federation.InvalidRecord, "record batch of magic %d: only magic 2 is taken (Kafka clients from 0.11 on)", b[offMagic])
	}
	h, _ := ParseHeader(b)
	switch {
	case maxBytes > 0 && len(b) > maxBytes:
		return federation.Errorf(federation.RecordTooLarge, "record batch of %d bytes is larger than max.message.bytes %d", len(b), maxBytes)
	case int64(h.Length)+LengthOverhead < int64(len(b)) && h.Length > 0:
		return federation.Errorf(federation.InvalidRecord, "more than one record batch for a partition in one request")
	case int64(h.Length)+LengthOverhead != int64(len(b)):
		return federation.Errorf(federation.CorruptBatch, "record batch says it has %d bytes, but %d came", int64(h.Length)+LengthOverhead, len(b))
	case h.Control():
		return federation.Errorf(federation.InvalidRecord, "clients may not write control batches")
	case h.Attributes&attrCompression > 4:
		return federation.Errorf(federation.UnsupportedCompression, "compression type %d is not known", h.Attributes&attrCompression)
	case h.BaseOffset != 0:
		return federation.Errorf(federation.InvalidRecord, "base offset %d: the offset of the first record must be 0", h.BaseOffset)
	case h.Count <= 0 || h.LastOffsetDelta != h.Count-1:
		return federation.Errorf(federation.InvalidRecord, "record batch with %d records has a last offset delta of %d", h.Count, h.LastOffsetDelta)
	case h.ProducerID >= 0 && (h.ProducerEpoch < 0 || h.BaseSequence < 0):
		return federation.Errorf(federation.InvalidRecord, "record batch of producer %d has epoch %d and sequence %d", h.ProducerID, h.ProducerEpoch, h.BaseSequence)
	}
	if crc := crc32.Checksum(b[offAttributes:], castagnoli); crc != h.CRC {
		return federation.Errorf(federation.CorruptBatch, "record batch has CRC %08x, but its bytes give %08x", h.CRC, crc)
	}
	return nil
}
