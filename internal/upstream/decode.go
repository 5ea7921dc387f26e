package upstream

import (
	"fmt"
	"net"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/layout"
)

// The kinds of fields that answers have.
var (
	i8, i16, i32, i64 = layout.Int8, layout.Int16, layout.Int32, layout.Int64
	str, blob, uuid   = layout.String, layout.Bytes, layout.UUID

	array, tagged, end = layout.Array, layout.Tagged, layout.End
)

// layouts has the answers of brokers to what they are asked here. Those to Produce on
// connections of ours are read by whoever sends it.
var layouts = map[int16]layout.Fields{
	0: {
		array(str.Until(12), uuid.From(13), array(
			i32, i16, i64, i64.From(2), i64.From(5), array(i32, str, end()).From(8), str.From(8), end(tagged(0, i32, i32, end())),
		), end()),
		i32.From(1), end(nodeEndpoints),
	},
	1: {
		i32.From(1), i16.From(7), i32.From(7),
		array(str.Until(12), uuid.From(13), array(
			i32, i16, i64, i64.From(4), i64.From(5), array(i64, i64, end()).From(4), i32.From(11), blob,
			end(tagged(0, i32, i64, end()), tagged(1, i32, i32, end()), tagged(2, i64, i32, end())),
		), end()),
		end(nodeEndpoints),
	},
	2: {i32.From(2), array(str, array(i32, i16, array(i64).Until(0), i64.From(1), i64.From(1), i32.From(4), end()), end()), end()},
	3: {
		i32.From(3), array(i32, str, i32, str.From(1), end()), str.From(2), i32.From(1),
		array(i16, str, uuid.From(10), i8.From(1), array(
			i16, i32, i32, i32.From(7), array(i32), array(i32), array(i32).From(5), end(),
		), i32.From(8), end()),
		i32.From(8).Until(10), i16.From(13), end(),
	},
	9: {
		i32.From(3), array(str, array(i32, i64, i32.From(5), str, i16, end()), end()).Until(7), i16.From(2).Until(7),
		array(str, array(str.Until(9), uuid.From(10), array(i32, i64, i32, str, i16, end()), end()), i16, end()).From(8), end(),
	},
	10: {
		i32.From(1), i16.Until(3), str.From(1).Until(3), i32.Until(3), str.Until(3), i32.Until(3),
		array(str, i32, str, i32, i16, str, end()).From(4), end(),
	},
	16: {i32.From(1), i16, array(str, str, str.From(4), str.From(5), end()), end()},
	17: {i16, array(str)},
	18: {i16, array(i16, i16, i16, end()), i32.From(1), end(
		tagged(0, array(str, i16, i16, end())), tagged(1, i64), tagged(2, array(str, i16, i16, end())), tagged(3, i8),
	)},
	19: {i32.From(2), array(
		str, uuid.From(7), i16, str.From(1), i32.From(5), i16.From(5), array(str, str, i8, i8, i8, end()).From(5), end(tagged(0, i16)),
	), end()},
	20: {i32.From(1), array(str, uuid.From(6), i16, str.From(5), end()), end()},
	21: {i32, array(str, array(i32, i64, i16, end()), end()), end()},
	23: {i32.From(2), array(str, array(i16, i32, i32.From(1), i64, end()), end()), end()},
	32: {i32, array(i16, str, i8, str, array(
		str, str, i8, i8, i8, array(str, str, i8, end()).From(1), i8.From(3), str.From(3), end(),
	), end()), end()},
	35: {i32, i16.From(3), array(
		i16, str, array(str, array(i32, i64, i64, i8, end()), end()), i64.From(4), i64.From(4), i8.From(5), end(),
	), end()},
	36: {i16, str, blob, i64.From(1), end()},
	37: {i32, array(str, i16, str, end()), end()},
	44: {i32, array(i16, str, i8, str, end()), end()},
	61: {i32, array(str, array(i32, i16, str, array(i64, i32, i32, i64, i32, i64, end()), end()), end()), end()},
	// The general client asks for these by itself (KIP-714).
	71: {i32, i16, uuid, i32, array(i8), i32, i32, i8, array(str), end()},
	72: {i32, i16, end()},
}

// nodeEndpoints are where the leaders are that an answer names.
var nodeEndpoints = tagged(0, array(i32, str, i32, str, end()))

// An AnswerError says that an answer of a broker is not what it should be. Its text has
// no addresses.
type AnswerError struct {
	Key int16 // of the request
	err error
}

func (e *AnswerError) Error() string {
	return fmt.Sprintf("a broker's answer to %s: %v", kmsg.NameForKey(e.Key), e.err)
}

// Unwrap is what is wrong, and net.ErrClosed: the connection is of no use any more, so the
// general client takes the answer for lost, and asks another broker.
func (e *AnswerError) Unwrap() []error { return []error{e.err, net.ErrClosed} }

// Decode decodes the answer of a broker, of a version that is set in resp already. The
// codec believes counts: a few bytes that announce billions of tagged fields keep it at
// work for minutes. So only what is as long as it says gets there.
func Decode(resp kmsg.Response, body []byte) error {
	fields := layouts[resp.Key()]
	if fields == nil {
		return fmt.Errorf("the layout of answers to API %d is not known", resp.Key())
	}
	if _, err := layout.Walk(fields, body, resp.GetVersion(), resp.IsFlexible()); err != nil {
		return &AnswerError{resp.Key(), err}
	}
	return resp.ReadFrom(body)
}
