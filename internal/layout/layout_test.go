package layout_test

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/layout"
)

// many is a varint of 2^32-1.
var many = []byte{0xff, 0xff, 0xff, 0xff, 0x0f}

func TestWalk(t *testing.T) {
	fields := layout.Fields{
		layout.Int16, layout.Int32.From(1), layout.String.Until(1),
		layout.Array(layout.Int8, layout.End()),
		layout.Optional(layout.Int8), layout.Bytes.From(2), layout.End(layout.Tagged(1, layout.Array(layout.Int8))),
	}
	for name, c := range map[string]struct {
		body     []byte
		version  int16
		flexible bool
		err      error
		rest     []byte
	}{
		"old":                 {body: []byte{1, 1, 0, 1, 'a', 0, 0, 0, 2, 7, 8, 0xff, 9}, rest: []byte{9}},
		"null":                {body: []byte{1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 7}, rest: []byte{}},
		"below null":          {body: []byte{1, 1, 0xff, 0xfe, 0, 0, 0, 0, 0xff}, err: layout.ErrCutOff},
		"a long array":        {body: []byte{1, 1, 0, 0, 0, 0, 0, 3, 7, 8}, err: layout.ErrCutOff},
		"version 1":           {body: []byte{1, 1, 0, 0, 0, 0, 2, 'a', 2, 7, 0, 1, 8, 0}, version: 1, flexible: true, rest: []byte{}},
		"an unknown tag":      {body: []byte{1, 1, 0, 0, 0, 0, 2, 'a', 1, 0xff, 1, 9, 2, 'x', 'y', 3}, version: 1, flexible: true, rest: []byte{3}},
		"a known tag":         {body: []byte{1, 1, 0, 0, 0, 0, 2, 'a', 1, 0xff, 1, 1, 2, 2, 'y', 3}, version: 1, flexible: true, rest: []byte{3}},
		"a known tag too far": {body: []byte{1, 1, 0, 0, 0, 0, 2, 'a', 1, 0xff, 1, 1, 1, 2, 'y', 3}, version: 1, flexible: true, err: layout.ErrCutOff},
		"many tags":           {body: append([]byte{1, 1, 0, 0, 0, 0, 2, 'a', 1, 0xff}, many...), version: 1, flexible: true, err: layout.ErrElementsMax},
		"many tags within":    {body: append([]byte{1, 1, 0, 0, 0, 0, 2, 'a', 2, 7}, many...), version: 1, flexible: true, err: layout.ErrElementsMax},
		"many elements":       {body: append([]byte{1, 1, 0, 0, 0, 0, 2, 'a'}, many...), version: 1, flexible: true, err: layout.ErrCutOff},
		"many bytes":          {body: append([]byte{1, 1, 0, 0, 0, 0, 1, 0xff}, many...), version: 2, flexible: true, err: layout.ErrCutOff},
		"a varint of 35 bits": {body: []byte{1, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x7f}, version: 1, flexible: true, err: layout.ErrCutOff},
		"empty":               {err: layout.ErrCutOff},
	} {
		rest, err := layout.Walk(fields, c.body, c.version, c.flexible)
		require.ErrorIs(t, err, c.err, name)
		require.Equal(t, c.rest, rest, name)
		require.Zero(t, testing.AllocsPerRun(10, func() { _, _ = layout.Walk(fields, c.body, c.version, c.flexible) }), name)
	}
	rest, err := layout.SkipTags([]byte{1, 5, 2, 'a', 'b', 9})
	require.NoError(t, err)
	require.Equal(t, []byte{9}, rest)
	_, err = layout.SkipTags(many)
	require.ErrorIs(t, err, layout.ErrElementsMax)
}

// Strings are no longer than Kafka takes them, whatever the version could say.
func TestStringMax(t *testing.T) {
	fields := layout.Fields{layout.String, layout.Bytes, layout.End()}
	message := func(s, b int) []byte {
		m := append(binary.AppendUvarint(nil, uint64(s+1)), make([]byte, s)...)
		m = append(binary.AppendUvarint(m, uint64(b+1)), make([]byte, b)...)
		return append(m, 0)
	}
	_, err := layout.Walk(fields, message(layout.StringBytesMax, 1<<20), 0, true)
	require.NoError(t, err)
	_, err = layout.Walk(fields, message(layout.StringBytesMax+1, 0), 0, true)
	require.ErrorIs(t, err, layout.ErrStringMax)
}

func TestWalkText(t *testing.T) {
	fields := layout.Fields{layout.String, layout.Bytes, layout.Array(layout.String)}
	for name, c := range map[string]struct {
		body string
		text bool
	}{
		"ASCII":           {"\x00\x02ok\x00\x00\x00\x01\xff\x00\x00\x00\x01\x00\x01a", true},
		"UTF-8":           {"\x00\x02é\x00\x00\x00\x00\x00\x00\x00\x00", true},
		"null":            {"\xff\xff\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff", true},
		"Latin-1":         {"\x00\x02a\xe9\x00\x00\x00\x00\x00\x00\x00\x00", false},
		"Latin-1, nested": {"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01\xe9\x00\x01a", false},
	} {
		_, text, err := layout.WalkText(fields, []byte(c.body), 0, false)
		require.NoError(t, err, name)
		require.Equal(t, c.text, text, name)
	}
}

// Elements are bounded together, wherever they are; those of one fixed field are not.
func TestElementsMax(t *testing.T) {
	many := func(element layout.Field, width int) error {
		fields := layout.Fields{layout.Array(layout.Array(element))}
		part := append([]byte{0, 1, 0, 0}, make([]byte, width<<16)...)
		body := []byte{0, 0, 0, 15}
		for range 15 {
			body = append(body, part...)
		}
		_, err := layout.Walk(fields, body, 0, false)
		require.NoError(t, err)
		body[3]++
		_, err = layout.Walk(fields, append(body, part...), 0, false)
		_, _, text := layout.WalkText(fields, append(body, part...), 0, false)
		require.ErrorIs(t, text, layout.ErrElementsMax)
		return err
	}
	require.ErrorIs(t, many(layout.String, 2), layout.ErrElementsMax)
	require.NoError(t, many(layout.Int8, 1))
	_, err := layout.Walk(layout.Fields{layout.Array(layout.Int32)}, []byte{0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0}, 0, false)
	require.ErrorIs(t, err, layout.ErrCutOff)
}
