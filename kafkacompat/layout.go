package kafkacompat

import (
	"reflect"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/layout"
)

// The kinds of fields that requests have.
var (
	i8, i16, i32, i64 = layout.Int8, layout.Int16, layout.Int32, layout.Int64
	uuid, str, blob   = layout.UUID, layout.String, layout.Bytes

	array, optional, tagged, end = layout.Array, layout.Optional, layout.Tagged, layout.End
)

// layouts has the requests that the codec decodes, in the versions that are
// served. Produce has a decoder of its own.
var layouts = map[int16]layout.Fields{
	1: {
		i32.Until(14), i32, i32, i32, i8, i32.From(7), i32.From(7),
		array(str.Until(12), uuid.From(13), array(i32, i32.From(9), i64, i32.From(12), i64.From(5), i32, end()), end()),
		array(str.Until(12), uuid.From(13), array(i32), end()).From(7),
		str.From(11), end(tagged(1, i32, i64, end())),
	},
	2:  {i32, i8.From(2), array(str, array(i32, i32.From(4), i64, end()), end()), i32.From(10), end()},
	3:  {array(uuid.From(10), str, end()), i8.From(4), i8.From(8).Until(10), i8.From(8), end()},
	8:  {str, i32, str, str.From(7), i64.Until(4), array(str.Until(9), uuid.From(10), array(i32, i64, i32.From(6), str, end()), end()), end()},
	9:  {str.Until(7), array(str, array(i32), end()).Until(7), array(str, str.From(9), i32.From(9), array(str.Until(9), uuid.From(10), array(i32), end()), end()).From(8), i8.From(7), end()},
	10: {str.Until(3), i8.From(1), array(str).From(4), end()},
	11: {str, i32, i32.From(1), str, str.From(5), str, array(str, blob, end()), str.From(8), end()},
	12: {str, i32, str, str.From(3), end()},
	13: {str, str.Until(2), array(str, str, str.From(5), end()).From(3), end()},
	14: {str, i32, str, str.From(3), str.From(5), str.From(5), array(str, blob, end()), end()},
	15: {array(str), i8.From(3), end()},
	16: {array(str).From(4), array(str).From(5), end()},
	17: {str},
	18: {str.From(3), str.From(3), end()},
	19: {array(str, i32, i16, array(i32, array(i32), end()), array(str, str, end()), end()), i32, i8, end()},
	20: {array(str, uuid, end()).From(6), array(str).Until(5), i32, end()},
	21: {array(str, array(i32, i64, end()), end()), i32, end()},
	22: {str, i32, i64.From(3), i16.From(3), end()},
	23: {i32.From(3), array(str, array(i32, i32, i32, end()), end()), end()},
	29: {i8, str, i8, str, str, i8, i8, end()},
	30: {array(i8, str, i8, str, str, i8, i8, end()), end()},
	31: {array(i8, str, i8, str, str, i8, i8, end()), end()},
	32: {array(i8, str, array(str), end()), i8, i8.From(3), end()},
	33: {array(i8, str, array(str, str, end()), end()), i8, end()},
	35: {array(str, array(i32), end()), end()},
	36: {blob, end()},
	37: {array(str, i32, array(array(i32), end()), end()), i32, i8, end()},
	42: {array(str), end()},
	43: {i8.From(1), array(str, array(i32), end()), i32, end()},
	44: {array(i8, str, array(str, i8, str, end()), end()), i8, end()},
	45: {i32, i8.From(1), array(str, array(i32, array(i32), end()), end()), end()},
	46: {i32, array(str, array(i32), end()), end()},
	47: {str, array(str, array(i32))},
	48: {array(str, i8, str, end()), i8, end()},
	49: {array(array(str, str, end()), array(str, i64, i8, end()), end()), i8, end()},
	50: {array(str, end()), end()},
	51: {array(str, i8, end()), array(str, i8, i32, blob, blob, end()), end()},
	60: {i8, i8.From(1), i8.From(2), end()},
	61: {array(str, array(i32), end()), end()},
	68: {str, str, i32, str, str, i32, array(str), str.From(1), str, array(uuid, array(i32), end()), end()},
	69: {array(str), i8, end()},
	71: {uuid, end()},
	72: {uuid, i32, i8, i8, blob, end()},
	74: {array(i8).From(1), end()},
	75: {array(str, end()), i32, optional(str, i32, end()), end()},
}

// A walked request is one whose body passed the walk along its layout.
type walked struct {
	elements int
	text     bool // all strings are UTF-8
}

// check walks a request's body before the codec sees it.
func (a *api) check(version int16, body []byte) (w walked, err error) {
	w.elements, w.text, err = layout.WalkText(layouts[int16(a.key)], body, version, version >= a.flexible)
	return w, err
}

// decode decodes a request's body after the walk. Strings that are not UTF-8 become what a
// broker makes of them.
func (w walked) decode(kreq kmsg.Request, body []byte) error {
	if err := kreq.ReadFrom(body); err != nil || w.text {
		return err
	}
	return makeText(reflect.ValueOf(kreq).Elem())
}
