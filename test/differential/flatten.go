package differential

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"reflect"
	"sort"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// A Field is a leaf of an answer: where it is, and what is there as text. The elements of
// arrays are named by what identifies them, not by their place.
type Field struct {
	Path  string
	Name  string // of the field alone
	Value string
}

// identities are the fields that tell the elements of an array apart, best first.
var identities = []string{"Topic", "TopicID", "Name", "Group", "GroupID", "ApiKey", "ResourceName", "Partition", "User", "Member", "MemberID", "NodeID", "Key", "Regexp"}

// walk calls visit for each leaf of an answer, in the order of paths.
func walk(response kmsg.Response, visit func(Field)) {
	walkValue("", "", reflect.ValueOf(response).Elem(), visit)
}

func walkValue(path, name string, v reflect.Value, visit func(Field)) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			visit(Field{path, name, "null"})
			return
		}
		walkValue(path, name, v.Elem(), visit)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[kmsg.Tags]() {
			tags := v.Addr().Interface().(*kmsg.Tags)
			tags.Each(func(tag uint32, b []byte) { visit(Field{fmt.Sprintf("%s.%d", path, tag), name, hex.EncodeToString(b)}) })
			return
		}
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if f.Name == "Version" && path == "" || !f.IsExported() {
				continue
			}
			walkValue(dotted(path, f.Name), f.Name, v.Field(i), visit)
		}
	case reflect.Array: // a topic id
		visit(Field{path, name, fmt.Sprintf("%x", v.Interface())})
	case reflect.Slice:
		walkSlice(path, name, v, visit)
	default:
		visit(Field{path, name, fmt.Sprint(v.Interface())})
	}
}

func dotted(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func walkSlice(path, name string, v reflect.Value, visit func(Field)) {
	switch elem := v.Type().Elem(); {
	case name == "RecordBatches" && !v.IsNil():
		walkBatches(path, v.Bytes(), visit)
	case elem.Kind() == reflect.Uint8 && !v.IsNil():
		visit(Field{path, name, hex.EncodeToString(v.Bytes())})
	case v.IsNil():
		visit(Field{path, name, "null"}) // or empty, where an array cannot be null
	case elem.Kind() != reflect.Struct:
		texts := make([]string, v.Len())
		for i := range texts {
			texts[i] = fmt.Sprint(v.Index(i).Interface())
		}
		visit(Field{path, name, "[" + strings.Join(texts, " ") + "]"})
	default:
		if v.Len() == 0 {
			visit(Field{path, name, "[]"})
		}
		elements := make(map[string]reflect.Value, v.Len())
		keys := make([]string, v.Len())
		for i := range v.Len() {
			key := identity(v.Index(i))
			if _, twice := elements[key]; twice || key == "" {
				key = fmt.Sprintf("%s#%d", key, i)
			}
			keys[i], elements[key] = key, v.Index(i)
		}
		sort.Strings(keys)
		for _, key := range keys {
			walkValue(path+"["+key+"]", name, elements[key], visit)
		}
	}
}

// identity names an element of an array.
func identity(v reflect.Value) string {
	for _, name := range identities {
		f := v.FieldByName(name)
		if !f.IsValid() {
			continue
		}
		if f.Kind() == reflect.Pointer {
			if f.IsNil() {
				continue
			}
			f = f.Elem()
		}
		if f.IsZero() && name != "Partition" && name != "ApiKey" || opaque(name) != "" {
			continue
		}
		return fmt.Sprint(f.Interface())
	}
	if parts := v.FieldByName("Entity"); parts.IsValid() { // of a quota
		texts := make([]string, parts.Len())
		for i := range texts {
			texts[i] = fmt.Sprintf("%v %s", parts.Index(i).FieldByName("Type"), identity(parts.Index(i)))
		}
		sort.Strings(texts)
		return strings.Join(texts, ", ")
	}
	// What has no name: by its error, or it is named by an empty text.
	if code := v.FieldByName("ErrorCode"); code.IsValid() && !code.IsZero() && v.FieldByName("TopicID").IsValid() {
		return fmt.Sprintf("error %d", code.Int())
	}
	if f := v.FieldByName("Group"); f.IsValid() && f.Kind() == reflect.String {
		return `""`
	}
	return ""
}

// walkBatches visits the headers of record batches, and the records as bytes.
func walkBatches(path string, b []byte, visit func(Field)) {
	if len(b) == 0 {
		visit(Field{path, "RecordBatches", "[]"})
	}
	for i := 0; len(b) >= 61; i++ {
		size := 12 + int(int32(binary.BigEndian.Uint32(b[8:])))
		var batch kmsg.RecordBatch
		at := fmt.Sprintf("%s[%d]", path, i)
		if size > len(b) || batch.ReadFrom(b[:size]) != nil {
			visit(Field{at, "RecordBatches", fmt.Sprintf("no batch: %x", b)})
			return
		}
		walkValue(at, "", reflect.ValueOf(&batch).Elem(), visit)
		b = b[size:]
	}
}
