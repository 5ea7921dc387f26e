package recordbatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/braidmq/braid/federation"
)

// The compression codecs of a batch, in Kafka's numbers (CompressionType.java).
const (
	codecNone = iota
	codecGzip
	codecSnappy
	codecLz4
	codecZstd
)

// A decompressor decompresses the records of batches into a buffer that it
// keeps: what it returns is valid until the next call. Codecs are made when
// first needed.
type decompressor struct {
	bytesMax int
	out      []byte
	src      bytes.Reader
	gzip     *gzip.Reader
	lz4      *lz4.Reader
	zstd     *zstd.Decoder
}

// keptBytesMax bounds the buffer that a decompressor keeps for the next batch, so
// that a rare large one does not stay.
const keptBytesMax = 4 << 20

func (d *decompressor) decompress(src []byte, codec int) ([]byte, error) {
	if codec == codecNone {
		if len(src) > d.bytesMax {
			return nil, d.tooLarge()
		}
		return src, nil
	}
	if cap(d.out) > keptBytesMax {
		d.out = nil
	}
	out, err := d.expand(src, codec)
	if federation.KindOf(err) != federation.Internal {
		return nil, err
	}
	if err != nil {
		return nil, malformed("decompress: %w", err)
	}
	d.out = out
	return out, nil
}

func (d *decompressor) expand(src []byte, codec int) ([]byte, error) {
	switch codec {
	case codecGzip:
		d.src.Reset(src)
		if d.gzip == nil {
			d.gzip = new(gzip.Reader)
		}
		if err := d.gzip.Reset(&d.src); err != nil {
			return nil, err
		}
		return d.readAll(d.gzip)
	case codecSnappy:
		return d.snappy(src)
	case codecLz4:
		d.src.Reset(src)
		if d.lz4 == nil {
			d.lz4 = lz4.NewReader(nil)
		}
		d.lz4.Reset(&d.src)
		return d.readAll(d.lz4)
	case codecZstd:
		return d.unzstd(src)
	default:
		return nil, federation.Errorf(federation.UnsupportedCompression, "compression type %d is not known", codec)
	}
}

func (d *decompressor) tooLarge() error {
	return federation.Errorf(federation.RecordTooLarge, "record batch has more than %d bytes of records", d.bytesMax)
}

func (d *decompressor) readAll(in io.Reader) ([]byte, error) {
	out := d.out[:0]
	for {
		if len(out) == cap(out) {
			if len(out) > d.bytesMax {
				return nil, d.tooLarge()
			}
			grown := make([]byte, len(out), min(max(2*cap(out), 4<<10), d.bytesMax+1))
			copy(grown, out)
			out = grown
		}
		n, err := in.Read(out[len(out):cap(out)])
		out = out[:len(out)+n]
		if len(out) > d.bytesMax {
			return nil, d.tooLarge()
		}
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (d *decompressor) unzstd(src []byte) ([]byte, error) {
	if d.zstd == nil {
		// With one decoder and no stream there is no goroutine that would need a Close.
		dec, err := zstd.NewReader(nil, zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxMemory(uint64(max(d.bytesMax, 1))))
		if err != nil {
			return nil, err
		}
		d.zstd = dec
	}
	out, err := d.zstd.DecodeAll(src, d.out[:0])
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return nil, d.tooLarge()
	}
	return out, err
}

// xerialMagic begins the framing of snappy-java, which the Java client writes;
// 8 bytes of versions follow it, then blocks with a length of 4 bytes.
var xerialMagic = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const xerialHeaderBytes = 16

func (d *decompressor) snappy(src []byte) ([]byte, error) {
	out := d.out[:0]
	if len(src) < xerialHeaderBytes || !bytes.HasPrefix(src, xerialMagic) {
		return d.snappyBlock(out, src)
	}
	for src = src[xerialHeaderBytes:]; len(src) > 0; {
		if len(src) < 4 {
			return nil, malformed("snappy block without a length")
		}
		n := binary.BigEndian.Uint32(src)
		src = src[4:]
		if int64(n) > int64(len(src)) {
			return nil, malformed("snappy block of %d bytes in %d", n, len(src))
		}
		var err error
		if out, err = d.snappyBlock(out, src[:n]); err != nil {
			return nil, err
		}
		src = src[n:]
	}
	return out, nil
}

func (d *decompressor) snappyBlock(out, src []byte) ([]byte, error) {
	n, err := s2.DecodedLen(src)
	if err != nil {
		return nil, err
	}
	if n > d.bytesMax-len(out) {
		return nil, d.tooLarge()
	}
	at := len(out)
	if cap(out)-at < n {
		grown := make([]byte, at, max(at+n, min(2*cap(out), d.bytesMax)))
		copy(grown, out)
		out = grown
	}
	if _, err := s2.Decode(out[at:at+n], src); err != nil {
		return nil, err
	}
	return out[:at+n], nil
}
