package recordbatch

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/braidmq/braid/federation"
)

// Codec returns the compression of a batch; 0 = none.
func (h *Header) Codec() int16 { return h.Attributes & attrCompression }

// Whole reports whether a batch can be sent to a broker as it is, but for offset,
// epoch and producer: compaction has taken no record away, and it has nothing that
// only brokers or transactions put into it.
func (h *Header) Whole() bool {
	return h.Count > 0 && h.LastOffsetDelta == h.Count-1 && h.Attributes&^attrCompression == 0
}

// Resend makes a batch of a log one that can be sent, by another producer.
func Resend(batch []byte, p Producer) {
	PatchOffsetAndEpoch(batch, 0, federation.NoEpoch)
	SetProducer(batch, p.ID, p.Epoch, p.Sequence)
}

// A Compressor compresses batches that were built. It keeps its codecs; the zero
// Compressor is ready.
type Compressor struct {
	out  bytes.Buffer
	gzip *gzip.Writer
	lz4  *lz4.Writer
	zstd *zstd.Encoder
}

// Compress returns an uncompressed batch compressed, or as it is for codec 0. What
// it returns is valid until the next call.
func (c *Compressor) Compress(batch []byte, codec int16) ([]byte, error) {
	if codec == codecNone {
		return batch, nil
	}
	if c.out.Cap() > keptBytesMax {
		c.out = bytes.Buffer{}
	}
	c.out.Reset()
	c.out.Write(batch[:HeaderSize])
	if err := c.records(batch[HeaderSize:], codec); err != nil {
		return nil, err
	}
	out := c.out.Bytes()
	be := binary.BigEndian
	be.PutUint32(out[offLength:], uint32(len(out)-LengthOverhead))
	be.PutUint16(out[offAttributes:], be.Uint16(out[offAttributes:])&^attrCompression|uint16(codec))
	be.PutUint32(out[offCRC:], crc32.Checksum(out[offAttributes:], castagnoli))
	return out, nil
}

func (c *Compressor) records(records []byte, codec int16) error {
	switch codec {
	case codecGzip:
		if c.gzip == nil {
			c.gzip = gzip.NewWriter(nil)
		}
		c.gzip.Reset(&c.out)
		return write(c.gzip, records)
	case codecSnappy: // without snappy-java's framing, as librdkafka and franz-go write it
		c.out.Write(s2.EncodeSnappy(nil, records))
	case codecLz4:
		if c.lz4 == nil {
			c.lz4 = lz4.NewWriter(nil)
		}
		c.lz4.Reset(&c.out)
		return write(c.lz4, records)
	case codecZstd:
		if c.zstd == nil {
			// With one encoder and no stream there is no goroutine that would need a Close.
			enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20))
			if err != nil {
				return err
			}
			c.zstd = enc
		}
		c.out.Write(c.zstd.EncodeAll(records, nil))
	default:
		return federation.Errorf(federation.UnsupportedCompression, "compression type %d is not known", codec)
	}
	return nil
}

func write(w io.WriteCloser, b []byte) error {
	if _, err := w.Write(b); err != nil {
		return err
	}
	return w.Close()
}
