package upstream

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/layout"
)

// The kinds of fields that answers have.
var (
	i16, i32, i64 = layout.Int16, layout.Int32, layout.Int64
	str, blob     = layout.String, layout.Bytes

	array, tagged, end = layout.Array, layout.Tagged, layout.End
)

// layouts has the answers that come on connections of ours and that the codec decodes.
// Those to Produce are read by whoever sends it.
var layouts = map[int16]layout.Fields{
	1: {
		i32.From(1), i16.From(7), i32.From(7),
		array(str.Until(12), layout.UUID.From(13), array(
			i32, i16, i64, i64.From(4), i64.From(5), array(i64, i64, end()).From(4), i32.From(11), blob,
			end(tagged(0, i32, i64, end()), tagged(1, i32, i32, end()), tagged(2, i64, i32, end())),
		), end()),
		end(tagged(0, array(i32, str, i32, str, end()))),
	},
	2:  {i32.From(2), array(str, array(i32, i16, array(i64).Until(0), i64.From(1), i64.From(1), i32.From(4), end()), end()), end()},
	17: {i16, array(str)},
	18: {i16, array(i16, i16, i16, end()), i32.From(1), end(
		tagged(0, array(str, i16, i16, end())), tagged(1, i64), tagged(2, array(str, i16, i16, end())), tagged(3, layout.Int8),
	)},
	21: {i32, array(str, array(i32, i64, i16, end()), end()), end()},
	23: {i32.From(2), array(str, array(i16, i32, i32.From(1), i64, end()), end()), end()},
	36: {i16, str, blob, i64.From(1), end()},
	61: {i32, array(str, array(i32, i16, str, array(i64, i32, i32, i64, i32, i64, end()), end()), end()), end()},
}

// Decode decodes the answer of a broker, of a version that is set in resp already. The
// codec believes counts: a few bytes that announce billions of tagged fields keep it at
// work for minutes. So only what is as long as it says gets there.
func Decode(resp kmsg.Response, body []byte) error {
	fields := layouts[resp.Key()]
	if fields == nil {
		return fmt.Errorf("the layout of answers to API %d is not known", resp.Key())
	}
	if _, err := layout.Walk(fields, body, resp.GetVersion(), resp.IsFlexible()); err != nil {
		return fmt.Errorf("a broker's answer to %s: %w", kmsg.NameForKey(resp.Key()), err)
	}
	return resp.ReadFrom(body)
}
