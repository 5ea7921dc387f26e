package kafkacompat

import "errors"

// A layout describes the body of a request, field by field, as Kafka's message
// definitions do (clients/src/main/resources/common/message). The codec trusts
// the counts in a request: it makes room for as many elements as there are bytes
// left, and goes round for 2^32 tagged fields that are not there. So a request is
// walked along its layout first: what passes costs the codec no more memory and
// time than its real length calls for.
type layout []field

// A field is one field of a layout, and the versions that have it.
type field struct {
	kind     fieldKind
	width    int     // of a fixed field
	tag      uint32  // of a tagged field
	fields   []field // of an array's elements, or of a structure
	min, max int16
}

type fieldKind int8

const (
	kindFixed    fieldKind = iota
	kindString             // null or not, for the codec to judge
	kindBytes              // likewise
	kindArray              // likewise
	kindOptional           // a structure behind a byte that says whether it is there
	kindTagged             // a structure among the tagged fields
	kindEnd                // the tagged fields at the end of a structure
)

const anyVersion = 1 << 14

func fixed(width int) field       { return field{kind: kindFixed, width: width, max: anyVersion} }
func array(fields ...field) field { return field{kind: kindArray, fields: fields, max: anyVersion} }
func optional(fields ...field) field {
	return field{kind: kindOptional, fields: fields, max: anyVersion}
}

func end(tagged ...field) field     { return field{kind: kindEnd, fields: tagged, max: anyVersion} }
func (f field) from(v int16) field  { f.min = v; return f }
func (f field) until(v int16) field { f.max = v; return f }

func tagged(tag uint32, fields ...field) field {
	return field{kind: kindTagged, tag: tag, fields: fields, max: anyVersion}
}

var (
	i8   = fixed(1)
	i16  = fixed(2)
	i32  = fixed(4)
	i64  = fixed(8)
	uuid = fixed(16)
	str  = field{kind: kindString, max: anyVersion}
	blob = field{kind: kindBytes, max: anyVersion}
)

// layouts has the requests that the codec decodes, in the versions that are
// served. Produce has a decoder of its own.
var layouts = map[int16]layout{
	1: {
		i32.until(14), i32, i32, i32, i8, i32.from(7), i32.from(7),
		array(str.until(12), uuid.from(13), array(i32, i32.from(9), i64, i32.from(12), i64.from(5), i32, end()), end()),
		array(str.until(12), uuid.from(13), array(i32), end()).from(7),
		str.from(11), end(tagged(1, i32, i64, end())),
	},
	2:  {i32, i8.from(2), array(str, array(i32, i32.from(4), i64, end()), end()), i32.from(10), end()},
	3:  {array(uuid.from(10), str, end()), i8.from(4), i8.from(8).until(10), i8.from(8), end()},
	8:  {str, i32, str, str.from(7), i64.until(4), array(str.until(9), uuid.from(10), array(i32, i64, i32.from(6), str, end()), end()), end()},
	9:  {str.until(7), array(str, array(i32), end()).until(7), array(str, str.from(9), i32.from(9), array(str.until(9), uuid.from(10), array(i32), end()), end()).from(8), i8.from(7), end()},
	10: {str.until(3), i8.from(1), array(str).from(4), end()},
	11: {str, i32, i32.from(1), str, str.from(5), str, array(str, blob, end()), str.from(8), end()},
	12: {str, i32, str, str.from(3), end()},
	13: {str, str.until(2), array(str, str, str.from(5), end()).from(3), end()},
	14: {str, i32, str, str.from(3), str.from(5), str.from(5), array(str, blob, end()), end()},
	15: {array(str), i8.from(3), end()},
	16: {array(str).from(4), array(str).from(5), end()},
	17: {str},
	18: {str.from(3), str.from(3), end()},
	19: {array(str, i32, i16, array(i32, array(i32), end()), array(str, str, end()), end()), i32, i8, end()},
	20: {array(str, uuid, end()).from(6), array(str).until(5), i32, end()},
	21: {array(str, array(i32, i64, end()), end()), i32, end()},
	22: {str, i32, i64.from(3), i16.from(3), end()},
	23: {i32.from(3), array(str, array(i32, i32, i32, end()), end()), end()},
	29: {i8, str, i8, str, str, i8, i8, end()},
	30: {array(i8, str, i8, str, str, i8, i8, end()), end()},
	31: {array(i8, str, i8, str, str, i8, i8, end()), end()},
	32: {array(i8, str, array(str), end()), i8, i8.from(3), end()},
	33: {array(i8, str, array(str, str, end()), end()), i8, end()},
	35: {array(str, array(i32), end()), end()},
	36: {blob, end()},
	37: {array(str, i32, array(array(i32), end()), end()), i32, i8, end()},
	42: {array(str), end()},
	43: {i8.from(1), array(str, array(i32), end()), i32, end()},
	44: {array(i8, str, array(str, i8, str, end()), end()), i8, end()},
	45: {i32, i8.from(1), array(str, array(i32, array(i32), end()), end()), end()},
	46: {i32, array(str, array(i32), end()), end()},
	47: {str, array(str, array(i32))},
	48: {array(str, i8, str, end()), i8, end()},
	49: {array(array(str, str, end()), array(str, i64, i8, end()), end()), i8, end()},
	50: {array(str, end()), end()},
	51: {array(str, i8, end()), array(str, i8, i32, blob, blob, end()), end()},
	60: {i8, i8.from(1), i8.from(2), end()},
	61: {array(str, array(i32), end()), end()},
	68: {str, str, i32, str, str, i32, array(str), str.from(1), str, array(uuid, array(i32), end()), end()},
	69: {array(str), i8, end()},
	71: {uuid, end()},
	72: {uuid, i32, i8, i8, blob, end()},
	74: {array(i8).from(1), end()},
	75: {array(str, end()), i32, optional(str, i32, end()), end()},
}

// elementsMax bounds the elements of all arrays of one request together.
const elementsMax = 1 << 20

var (
	errCutOff      = errors.New("the request is cut off, or says it has more elements than it has")
	errElementsMax = errors.New("the request has too many elements")
)

// A walk checks a request against its layout.
type walk struct {
	reader
	version  int16
	flexible bool
	elements int
	over     bool
}

// check walks a request's body.
func (a *api) check(version int16, body []byte) error {
	w := walk{reader: reader{b: body}, version: version, flexible: version >= a.flexible, elements: elementsMax}
	w.walk(layouts[int16(a.key)])
	switch {
	case w.over:
		return errElementsMax
	case w.bad:
		return errCutOff
	}
	return nil
}

func (w *walk) walk(fields []field) {
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
			w.str(w.flexible)
		case kindBytes:
			w.bytes(w.flexible)
		case kindArray:
			w.array(f)
		case kindOptional:
			if w.i8() >= 0 {
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

func (w *walk) array(f *field) {
	n := w.reader.array(w.flexible, 1)
	if w.elements -= n; w.elements < 0 {
		w.over, w.bad = true, true
		return
	}
	for ; n > 0 && !w.bad; n-- {
		w.walk(f.fields)
	}
}

// end walks the tagged fields of a structure; those that the layout does not name
// the codec keeps as they are.
func (w *walk) end(known []field) {
	n := int(w.uvarint())
	if w.elements -= n; w.elements < 0 {
		w.over, w.bad = true, true
		return
	}
	for ; n > 0 && !w.bad; n-- {
		tag := w.uvarint()
		value := w.span(int(w.uvarint()))
		for i := range known {
			if known[i].tag == tag && !w.bad {
				inner := walk{reader: reader{b: value}, version: w.version, flexible: w.flexible, elements: w.elements}
				inner.walk(known[i].fields)
				w.bad = inner.bad
			}
		}
	}
}
