package kafkacompat

import (
	"reflect"
	"unicode/utf8"

	"github.com/braidmq/braid/internal/layout"
)

// The strings of the protocol are UTF-8, but nothing keeps a client from sending others,
// in Latin-1 mostly. A broker decodes them with U+FFFD for what is none (Java's String), so
// that is what such a client's group is called where it came from, and where its offsets
// are. Here, too: a string that goes on as it came breaks what must be UTF-8, as are JSON
// in Redis, the admin API and metrics, for everybody who asks for it.

// text is a string as a broker decodes it.
func text(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return string([]rune(string(b)))
}

// makeText replaces the strings of a request. It is for those few that need it: most are
// found to be UTF-8 when they are walked.
func makeText(v reflect.Value) error {
	switch v.Kind() {
	case reflect.String:
		s := text([]byte(v.String()))
		if len(s) > layout.StringBytesMax { // U+FFFD takes three bytes; not all answers have room for it
			return layout.ErrStringMax
		}
		v.SetString(s)
	case reflect.Pointer:
		if !v.IsNil() {
			return makeText(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if !v.Type().Field(i).IsExported() {
				continue
			}
			if err := makeText(v.Field(i)); err != nil {
				return err
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return nil // bytes are not ours to change
		}
		for i := range v.Len() {
			if err := makeText(v.Index(i)); err != nil {
				return err
			}
		}
	default: // numbers
	}
	return nil
}
