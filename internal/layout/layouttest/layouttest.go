// Package layouttest makes random messages of the Kafka protocol.
package layouttest

import (
	"math/rand/v2"
	"reflect"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Fill sets all fields of v to random values, arrays to a few elements; with tags, some
// structures get a tagged field that nobody knows.
func Fill(rnd *rand.Rand, v reflect.Value, tags bool) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[kmsg.Tags]() {
			if tags && rnd.IntN(3) == 0 {
				v.Addr().Interface().(*kmsg.Tags).Set(100, []byte("unknown"))
			}
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "Version" {
				Fill(rnd, v.Field(i), tags)
			}
		}
	case reflect.Pointer:
		if rnd.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			Fill(rnd, v.Elem(), tags)
		}
	case reflect.Slice:
		n := rnd.IntN(4)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			Fill(rnd, v.Index(i), tags)
		}
	case reflect.Array:
		for i := range v.Len() {
			Fill(rnd, v.Index(i), tags)
		}
	case reflect.String:
		v.SetString("name-" + strconv.Itoa(rnd.IntN(1000)))
	case reflect.Bool:
		v.SetBool(rnd.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(int8(rnd.Uint32())))
	case reflect.Uint8:
		v.SetUint(uint64(rnd.IntN(256)))
	case reflect.Float64:
		v.SetFloat(rnd.Float64())
	default:
		panic("no value for " + v.Type().String())
	}
}
