package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

// printBatch prints records up to the count that was asked for. If that ends
// within the batch, next becomes the offset after the last one printed.
func (c *consuming) printBatch(b *braidv1.RecordBatch, next *int64) (enough bool, err error) {
	var out strings.Builder
	for _, r := range b.GetRecords() {
		text, err := c.text(b, r)
		if err != nil {
			return false, err
		}
		out.WriteString(text)
		c.printed++
		if c.count > 0 && c.printed == c.count {
			if next != nil {
				*next = r.GetOffset() + 1
			}
			enough = true
			break
		}
	}
	_, err = c.out.Write([]byte(out.String()))
	return enough, err
}

func (c *consuming) text(b *braidv1.RecordBatch, r *braidv1.Record) (string, error) {
	switch c.format {
	case "json":
		line, err := json.Marshal(newPrintedRecord(b, r))
		return string(line) + "\n", err
	case "text":
		var out strings.Builder
		if c.headers {
			out.WriteString(headerText(r))
			out.WriteByte('\t')
		}
		if c.separator != "" {
			out.Write(r.GetKey())
			out.WriteString(c.separator)
		}
		out.Write(r.GetValue())
		out.WriteByte('\n')
		return out.String(), nil
	default:
		return c.template(b, r)
	}
}

// template fills a template, in the language of kcat -f.
func (c *consuming) template(b *braidv1.RecordBatch, r *braidv1.Record) (string, error) {
	var out strings.Builder
	f := c.format
	for i := 0; i < len(f); i++ {
		if f[i] != '%' && f[i] != '\\' || i == len(f)-1 {
			out.WriteByte(f[i])
			continue
		}
		i++
		switch f[i-1 : i+1] {
		case `\n`:
			out.WriteByte('\n')
		case `\t`:
			out.WriteByte('\t')
		case `\\`:
			out.WriteByte('\\')
		case "%%":
			out.WriteByte('%')
		case "%t":
			out.WriteString(b.GetTopic())
		case "%p":
			out.WriteString(strconv.Itoa(int(b.GetPartition())))
		case "%o":
			out.WriteString(strconv.FormatInt(r.GetOffset(), 10))
		case "%T":
			out.WriteString(strconv.FormatInt(r.GetTimestampMs(), 10))
		case "%k":
			out.Write(r.GetKey())
		case "%s":
			out.Write(r.GetValue())
		case "%h":
			out.WriteString(headerText(r))
		default:
			return "", usagef("--format: %q is not known; use %%t %%p %%o %%T %%k %%s %%h %%%% \\n \\t", f[i-1:i+1])
		}
	}
	return out.String(), nil
}

func headerText(r *braidv1.Record) string {
	all := make([]string, 0, len(r.GetHeaders()))
	for _, h := range r.GetHeaders() {
		all = append(all, fmt.Sprintf("%s=%s", h.GetKey(), h.GetValue()))
	}
	return strings.Join(all, ",")
}

// A printedRecord is a record as --format json prints it. Keys and values that
// are no text are in base64, in fields of their own.
type printedRecord struct {
	Topic       string          `json:"topic"`
	Partition   int32           `json:"partition"`
	Offset      int64           `json:"offset"`
	TimestampMs int64           `json:"timestampMs"`
	Key         *string         `json:"key"`
	KeyBase64   []byte          `json:"keyBase64,omitempty"`
	Value       *string         `json:"value"`
	ValueBase64 []byte          `json:"valueBase64,omitempty"`
	Headers     []printedHeader `json:"headers,omitempty"`
}

type printedHeader struct {
	Key   string  `json:"key"`
	Value *string `json:"value"`
}

func newPrintedRecord(b *braidv1.RecordBatch, r *braidv1.Record) printedRecord {
	p := printedRecord{Topic: b.GetTopic(), Partition: b.GetPartition(), Offset: r.GetOffset(), TimestampMs: r.GetTimestampMs()}
	p.Key, p.KeyBase64 = textOrBytes(r.Key)
	p.Value, p.ValueBase64 = textOrBytes(r.Value)
	for _, h := range r.GetHeaders() {
		ph := printedHeader{Key: h.GetKey()}
		if h.Value != nil {
			v := string(h.Value)
			ph.Value = &v
		}
		p.Headers = append(p.Headers, ph)
	}
	return p
}

func textOrBytes(b []byte) (*string, []byte) {
	switch {
	case b == nil:
		return nil, nil
	case utf8.Valid(b):
		s := string(b)
		return &s, nil
	default:
		return nil, b
	}
}
