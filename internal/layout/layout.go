// Package layout checks messages of the Kafka protocol before a codec decodes them.
package layout

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"
)

// Fields describe the body of a message, field by field, as Kafka's message definitions
// do (clients/src/main/resources/common/message). The codec trusts the counts in a
// message: it makes room for as many elements as there are bytes left, and goes round
// for 2^32 tagged fields that are not there. So a message is walked along its layout
// first: what passes costs the codec no more memory and time than its real length calls
// for.
type Fields []Field

// A Field is one field of a layout, and the versions that have it.
type Field struct {
	kind     kind
	width    int    // of a fixed field
	tag      uint32 // of a tagged field
	fields   Fields // of an array's elements, or of a structure
	min, max int16
}

type kind int8

const (
	kindFixed    kind = iota
	kindString        // null or not, for the codec to judge
	kindBytes         // likewise
	kindArray         // likewise
	kindOptional      // a structure behind a byte that says whether it is there
	kindTagged        // a structure among the tagged fields
	kindEnd           // the tagged fields at the end of a structure
)

const anyVersion = 1 << 14

func fixed(width int) Field { return Field{kind: kindFixed, width: width, max: anyVersion} }

// The fields without parts.
var (
	Int8   = fixed(1) // also of booleans
	Int16  = fixed(2)
	Int32  = fixed(4)
	Int64  = fixed(8)
	UUID   = fixed(16)
	String = Field{kind: kindString, max: anyVersion}
	Bytes  = Field{kind: kindBytes, max: anyVersion}
)

// Array is an array of elements that have fields.
func Array(fields ...Field) Field { return Field{kind: kindArray, fields: fields, max: anyVersion} }

// Optional is a structure that may be null.
func Optional(fields ...Field) Field {
	return Field{kind: kindOptional, fields: fields, max: anyVersion}
}

// End is the end of a structure, with the tagged fields that the codec knows: it knows
// them in all versions that are flexible.
func End(tagged ...Field) Field { return Field{kind: kindEnd, fields: tagged, max: anyVersion} }

// Tagged is a tagged field, for End.
func Tagged(tag uint32, fields ...Field) Field {
	return Field{kind: kindTagged, tag: tag, fields: fields, max: anyVersion}
}

// From is the field in versions from v on.
func (f Field) From(v int16) Field { f.min = v; return f }

// Until is the field in versions up to v.
func (f Field) Until(v int16) Field { f.max = v; return f }

// ElementsMax bounds the elements of all arrays of one message, and its tagged fields,
// together.
const ElementsMax = 1 << 20

// StringBytesMax bounds a string in all versions, as Kafka does (MessageDataGenerator):
// flexible ones could have longer strings, which answers in others have no room for.
const StringBytesMax = 1<<15 - 1

// What Walk finds.
var (
	ErrCutOff      = errors.New("the message is cut off, or says it has more elements than it has")
	ErrElementsMax = errors.New("the message has too many elements")
	ErrStringMax   = errors.New("the message has a string of more than 32,767 bytes")
)

// Walk checks a message's body against its layout, and returns what is behind it. It
// allocates nothing, and passes over strings and bytes without a look at them. Elements
// that are one fixed field cost the codec no more than they are long, and are not counted:
// the metadata of a large cluster has more of them.
func Walk(fields Fields, body []byte, version int16, flexible bool) (rest []byte, err error) {
	w := walk{b: body, version: version, flexible: flexible, elements: ElementsMax, passes: true}
	w.walk(fields)
	if err := w.err(); err != nil {
		return nil, err
	}
	return w.b, nil
}

// WalkText is Walk, and returns how many elements and tagged fields the message has, and
// whether all strings are UTF-8.
func WalkText(fields Fields, body []byte, version int16, flexible bool) (elements int, text bool, err error) {
	w := walk{b: body, version: version, flexible: flexible, elements: ElementsMax, looks: true}
	w.walk(fields)
	return ElementsMax - max(w.elements, 0), !w.noText, w.err()
}

// SkipTags is what is behind the tagged fields at the front of b.
func SkipTags(b []byte) (rest []byte, err error) { return Walk(onlyTags, b, 0, true) }

var onlyTags = Fields{End()}

// A walk is under way in a message. After the first read beyond the end it is bad, and
// goes nowhere.
type walk struct {
	b        []byte
	version  int16
	flexible bool
	elements int
	bad      bool
	over     bool
	long     bool
	passes   bool // over arrays of one fixed field
	looks    bool // into strings
	noText   bool // one is not UTF-8
}

func (w *walk) err() error {
	switch {
	case w.over:
		return ErrElementsMax
	case w.long:
		return ErrStringMax
	case w.bad:
		return ErrCutOff
	}
	return nil
}

func (w *walk) walk(fields Fields) {
	for i := range fields {
		f := &fields[i]
		if w.version < f.min || w.version > f.max {
			continue
		}
		if w.bad {
			return
		}
		switch f.kind {
		case kindFixed:
			w.span(f.width)
		case kindString:
			w.text(w.length(2))
		case kindBytes:
			w.spanOrNull(w.length(4))
		case kindArray:
			w.array(f.fields)
		case kindOptional:
			if there := w.span(1); !w.bad && int8(there[0]) >= 0 {
				w.walk(f.fields)
			}
		case kindEnd:
			if w.flexible {
				w.end(f.fields)
			}
		case kindTagged: // only among the fields of an end
		}
	}
}

func (w *walk) array(element Fields) {
	n := w.length(4)
	if n > len(w.b) { // an element takes a byte at the least
		w.fail()
		return
	}
	if w.passes && n > 0 && len(element) == 1 && element[0].kind == kindFixed && element[0].max == anyVersion && element[0].min == 0 {
		w.span(n * element[0].width)
		return
	}
	for w.count(n); n > 0 && !w.bad; n-- {
		w.walk(element)
	}
}

// end walks the tagged fields of a structure; those that the layout does not name the
// codec keeps as they are.
func (w *walk) end(known Fields) {
	n := int(w.uvarint())
	for w.count(n); n > 0 && !w.bad; n-- {
		tag := w.uvarint()
		value := w.span(int(w.uvarint()))
		for i := range known {
			if known[i].tag == tag && !w.bad {
				behind := w.b
				w.b = value
				w.walk(known[i].fields)
				w.b = behind
			}
		}
	}
}

// count takes n elements from those that are allowed.
func (w *walk) count(n int) {
	if w.elements -= max(n, 0); w.elements < 0 {
		w.over = true
		w.fail()
	}
}

func (w *walk) fail() { w.bad, w.b = true, nil }

func (w *walk) span(n int) []byte {
	if n < 0 || n > len(w.b) {
		w.fail()
		return nil
	}
	s := w.b[:n]
	w.b = w.b[n:]
	return s
}

func (w *walk) text(n int) {
	switch {
	case n == -1 || w.bad:
	case n > StringBytesMax:
		w.long = true
		w.fail()
	default:
		if s := w.span(n); w.looks && !utf8.Valid(s) {
			w.noText = true
		}
	}
}

func (w *walk) spanOrNull(n int) {
	if n != -1 {
		w.span(n)
	}
}

// length reads a length, which is -1 for null: a varint of one more in flexible versions,
// else of so many bytes.
func (w *walk) length(width int) (n int) {
	switch {
	case w.flexible:
		n = int(w.uvarint()) - 1
	case width == 2:
		if b := w.span(2); !w.bad {
			n = int(int16(binary.BigEndian.Uint16(b)))
		}
	default:
		if b := w.span(4); !w.bad {
			n = int(int32(binary.BigEndian.Uint32(b)))
		}
	}
	if n < -1 {
		w.fail()
	}
	return n
}

// uvarint reads an unsigned varint of at most 32 bits (ByteUtils.readUnsignedVarint).
func (w *walk) uvarint() uint32 {
	var v uint64
	for i := range min(5, len(w.b)) {
		c := w.b[i]
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if v > 1<<32-1 {
				break
			}
			w.b = w.b[i+1:]
			return uint32(v)
		}
	}
	w.fail()
	return 0
}
