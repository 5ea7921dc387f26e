package kafkacompat

import (
	"encoding/binary"

	"github.com/braidmq/braid/internal/layout"
)

// A reader decodes the primitive types of the Kafka protocol. After the first
// read beyond the end it is bad, and all it returns is zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) span(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	s := r.b[:n:n]
	r.b = r.b[n:]
	return s
}

func (r *reader) i16() int16 {
	if s := r.span(2); s != nil {
		return int16(binary.BigEndian.Uint16(s))
	}
	return 0
}

func (r *reader) i32() int32 {
	if s := r.span(4); s != nil {
		return int32(binary.BigEndian.Uint32(s))
	}
	return 0
}

func (r *reader) uuid() (id [16]byte) {
	copy(id[:], r.span(16))
	return id
}

// uvarint reads an unsigned varint of at most 32 bits (ByteUtils.readUnsignedVarint).
func (r *reader) uvarint() uint32 {
	var v uint64
	for i := range 5 {
		if len(r.b) == 0 {
			break
		}
		c := r.b[0]
		r.b = r.b[1:]
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if v > 1<<32-1 {
				break
			}
			return uint32(v)
		}
	}
	r.bad, r.b = true, nil
	return 0
}

// length reads the length of a string, of bytes or of an array; -1 is null.
// short lengths have 2 bytes, others 4, compact ones are varints plus 1.
func (r *reader) length(compact, short bool) int {
	switch {
	case compact:
		return int(r.uvarint()) - 1
	case short:
		return int(r.i16())
	default:
		return int(r.i32())
	}
}

// str reads a string; null reports a null one.
func (r *reader) str(compact bool) (s []byte, null bool) {
	n := r.length(compact, true)
	switch {
	case n == -1:
		return nil, true
	case n > layout.StringBytesMax:
		n = -2 // as a broker, whatever the version could say
	}
	return r.span(n), false
}

// bytes reads bytes; nil if they are null.
func (r *reader) bytes(compact bool) []byte {
	n := r.length(compact, false)
	if n == -1 {
		return nil
	}
	return r.span(n)
}

// array reads the length of an array whose elements take at least elementBytesMin
// each; null counts as empty.
func (r *reader) array(compact bool, elementBytesMin int) int {
	n := r.length(compact, false)
	if n == -1 {
		return 0
	}
	if n < 0 || n > len(r.b)/max(elementBytesMin, 1) {
		r.bad, r.b = true, nil
		return 0
	}
	return n
}

// tags skips tagged fields (KIP-482).
func (r *reader) tags() {
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		r.uvarint()
		r.span(int(r.uvarint()))
	}
}

func appendUvarint(b []byte, v uint32) []byte { return binary.AppendUvarint(b, uint64(v)) }

func appendI16(b []byte, v int16) []byte { return binary.BigEndian.AppendUint16(b, uint16(v)) }

func appendI32(b []byte, v int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(v)) }

func appendI64(b []byte, v int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(v)) }

// appendLength writes what length reads.
func appendLength(b []byte, n int, compact, short bool) []byte {
	switch {
	case compact:
		return appendUvarint(b, uint32(n+1))
	case short:
		return appendI16(b, int16(n))
	default:
		return appendI32(b, int32(n))
	}
}

func appendStr(b []byte, s string, compact bool) []byte {
	return append(appendLength(b, len(s), compact, true), s...)
}
