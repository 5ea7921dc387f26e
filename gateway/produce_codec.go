package gateway

import (
	"fmt"
	"sync"
	"unicode/utf8"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

// A protoCodec is Connect's codec of binary protobuf, but for produce frames: the
// generated decoder makes an object of each record and of each of its fields, which
// costs more than everything else that a gateway does with it. Frames are read by
// hand into objects that are used again, whose keys and values lie in the bytes that
// came. What is unusual in any way, an unknown field or a bad one, is left to the
// generated decoder, which has the last word then.
type protoCodec struct {
	recordsMax int // of a frame that is read by hand
	headersMax int // of a record in it
}

// Name implements connect.Codec.
func (protoCodec) Name() string { return "proto" }

// IsBinary says so.
func (protoCodec) IsBinary() bool { return true }

// Marshal implements connect.Codec.
func (protoCodec) Marshal(message any) ([]byte, error) {
	return protoCodec{}.MarshalAppend(nil, message)
}

// MarshalAppend spares Connect a copy.
func (protoCodec) MarshalAppend(dst []byte, message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, errNoMessage(message)
	}
	return proto.MarshalOptions{}.MarshalAppend(dst, m)
}

// Unmarshal implements connect.Codec. The bytes are Connect's again when it returns.
func (c protoCodec) Unmarshal(data []byte, message any) error {
	switch m := message.(type) {
	case *produceInput:
		return c.input(data, m)
	case *braidv1.ProduceBatchRequest:
		if c.batchRequest(data, m) {
			return nil
		}
		proto.Reset(m)
	}
	m, ok := message.(proto.Message)
	if !ok {
		return errNoMessage(message)
	}
	return unmarshal(data, m)
}

func errNoMessage(message any) error { return fmt.Errorf("%T is no message of protobuf", message) }

func unmarshal(data []byte, m proto.Message) error {
	if err := proto.Unmarshal(data, m); err != nil {
		return fmt.Errorf("unmarshal into %T: %w", m, err)
	}
	return nil
}

// A produceInput is what a produce stream receives into. It hands each request on
// while its bytes are there: nothing may be kept of one when take returns, but its
// topic. An error of take is not the codec's.
type produceInput struct {
	take  func(*braidv1.ProduceRequest) error
	taken bool
	err   error
	topic string // of the last frame: the next is mostly for the same
}

func (c protoCodec) input(data []byte, in *produceInput) error {
	d := produceDecoders.Get().(*produceDecoder)
	defer d.recycle()
	request := &d.request
	if !c.request(d, data, in.topic) {
		request = &braidv1.ProduceRequest{}
		if err := unmarshal(data, request); err != nil {
			return err
		}
	}
	if t := request.GetBatch().GetTopic(); t != "" {
		in.topic = t
	}
	in.taken, in.err = true, in.take(request)
	return nil
}

// request reads a message that is one frame and nothing else; false = it is not.
func (c protoCodec) request(d *produceDecoder, data []byte, topic string) bool {
	if len(data) == 0 || data[0] != lengthTag(2) {
		return false
	}
	body, rest, ok := lengthDelimited(data[1:])
	if !ok || len(rest) > 0 {
		return false
	}
	d.request.Frame = &d.batch
	return d.readFrame(body, topic, c)
}

// batchRequest reads a request whose one frame can be read by hand; the rest of it
// is generated code's. The records lie in a copy of the frame.
func (c protoCodec) batchRequest(data []byte, m *braidv1.ProduceBatchRequest) bool {
	var frame, others []byte
	for in := data; len(in) > 0; {
		number, kind, n := protowire.ConsumeField(in)
		if n < 0 {
			return false
		}
		if number == 3 {
			if kind != protowire.BytesType || frame != nil || in[0] != lengthTag(3) {
				return false
			}
			frame = in[1:n]
		} else {
			others = append(others, in[:n]...)
		}
		in = in[n:]
	}
	if frame == nil || proto.Unmarshal(others, m) != nil {
		return false
	}
	body, _, ok := lengthDelimited(frame)
	if !ok {
		return false
	}
	body = append([]byte{}, body...)
	records := countRecords(body)
	if records > c.recordsMax {
		return false
	}
	d := &produceDecoder{records: make([]*braidv1.Record, 0, records), room: make([]braidv1.Record, records)}
	if !d.readFrame(body, "", c) {
		return false
	}
	m.Batch = &d.frame
	return true
}

// countRecords returns how many records a frame has, if it can be read.
func countRecords(in []byte) (count int) {
	for len(in) > 0 {
		number, _, n := protowire.ConsumeField(in)
		if n < 0 {
			return count
		}
		if number == 4 {
			count++
		}
		in = in[n:]
	}
	return count
}

// A produceDecoder has the memory of one request.
type produceDecoder struct {
	request   braidv1.ProduceRequest
	batch     braidv1.ProduceRequest_Batch
	frame     braidv1.ProduceFrame
	partition int32

	records    []*braidv1.Record
	room       []braidv1.Record // of the last block
	blocks     []*recordBlock
	headers    []*braidv1.Header
	headerRoom []braidv1.Header // of the last block
	headerOf   []*headerBlock
}

type headerBlock [32]braidv1.Header

var (
	produceDecoders = sync.Pool{New: func() any {
		d := &produceDecoder{}
		d.batch.Batch = &d.frame
		return d
	}}
	headerBlocks = sync.Pool{New: func() any { return new(headerBlock) }}
)

// recycle gives the memory back; nothing may refer to it any more.
func (d *produceDecoder) recycle() {
	for _, r := range d.records {
		r.Key, r.Value, r.Headers, r.KeyText, r.ValueText = nil, nil, nil, "", ""
		r.TimestampMs, r.Offset = 0, 0
	}
	for _, h := range d.headers {
		h.Key, h.Value = "", nil
	}
	for i, b := range d.blocks {
		recordBlocks.Put(b)
		d.blocks[i] = nil
	}
	for i, b := range d.headerOf {
		headerBlocks.Put(b)
		d.headerOf[i] = nil
	}
	clear(d.records)
	clear(d.headers)
	d.records, d.headers = d.records[:0], d.headers[:0]
	if cap(d.records) > recordListMax || cap(d.headers) > recordListMax {
		d.records, d.headers = nil, nil
	}
	d.room, d.headerRoom, d.blocks, d.headerOf = nil, nil, d.blocks[:0], d.headerOf[:0]
	d.request.Frame = nil
	f := &d.frame
	f.BatchSeq, f.Topic, f.Partition, f.Records = 0, "", nil, nil
	f.KafkaBatch, f.PartitionCount, f.FailureSeen = nil, 0, 0
	produceDecoders.Put(d)
}

// lengthTag is the first byte of a length-delimited field, varintTag of a number.
func lengthTag(field byte) byte { return field<<3 | byte(protowire.BytesType) }
func varintTag(field byte) byte { return field<<3 | byte(protowire.VarintType) }

// lengthDelimited cuts a length-delimited value off; ok = it is whole. An empty one
// is not nil.
func lengthDelimited(in []byte) (value, rest []byte, ok bool) {
	size, n := protowire.ConsumeVarint(in)
	if n < 0 || size > uint64(len(in)-n) {
		return nil, nil, false
	}
	end := n + int(size)
	return in[n:end:end], in[end:], true
}

// next cuts a field off whose tag has one byte: those that are known have. It
// returns a value or a number.
func nextField(in []byte) (tag byte, value []byte, number uint64, rest []byte, ok bool) {
	tag = in[0]
	if tag&7 == byte(protowire.BytesType) {
		value, rest, ok = lengthDelimited(in[1:])
		return tag, value, 0, rest, ok
	}
	number, n := protowire.ConsumeVarint(in[1:])
	if n < 0 || tag&7 != byte(protowire.VarintType) {
		return tag, nil, 0, nil, false
	}
	return tag, nil, number, in[1+n:], true
}

// readFrame reads a ProduceFrame; false = generated code has to. topic is what the frame's
// may be.
func (d *produceDecoder) readFrame(in []byte, topic string, c protoCodec) bool {
	f := &d.frame
	for len(in) > 0 {
		tag, value, number, rest, ok := nextField(in)
		if !ok {
			return false
		}
		in = rest
		switch tag {
		case varintTag(1):
			f.BatchSeq = number
		case lengthTag(2):
			switch {
			case string(value) == topic:
				f.Topic = topic
			case utf8.Valid(value):
				f.Topic = string(value)
			default:
				return false
			}
		case varintTag(3):
			d.partition = int32(number)
			f.Partition = &d.partition
		case lengthTag(4):
			if len(d.records) == c.recordsMax || !d.readRecord(value, c) {
				return false
			}
		case lengthTag(5):
			f.KafkaBatch = value
		case varintTag(6):
			f.PartitionCount = int32(number)
		case varintTag(7):
			f.FailureSeen = number
		default:
			return false
		}
	}
	if len(d.records) > 0 {
		f.Records = d.records
	}
	return true
}

func (d *produceDecoder) readRecord(in []byte, c protoCodec) bool {
	if len(d.room) == 0 {
		block := recordBlocks.Get().(*recordBlock)
		d.blocks, d.room = append(d.blocks, block), block[:]
	}
	r := &d.room[0]
	d.room = d.room[1:]
	d.records = append(d.records, r)
	first := len(d.headers)
	for len(in) > 0 {
		tag, value, number, rest, ok := nextField(in)
		if !ok {
			return false
		}
		in = rest
		switch tag {
		case lengthTag(1):
			r.Key = value
		case lengthTag(2):
			r.Value = value
		case lengthTag(3):
			if len(d.headers)-first == c.headersMax || !d.readHeader(value) {
				return false
			}
		case varintTag(4):
			r.TimestampMs = int64(number)
		case varintTag(5):
			r.Offset = int64(number)
		case lengthTag(7), lengthTag(8):
			if !utf8.Valid(value) {
				return false
			}
			if tag == lengthTag(7) {
				r.KeyText = string(value)
			} else {
				r.ValueText = string(value)
			}
		default:
			return false
		}
	}
	if n := len(d.headers); n > first {
		r.Headers = d.headers[first:n:n]
	}
	return true
}

func (d *produceDecoder) readHeader(in []byte) bool {
	if len(d.headerRoom) == 0 {
		block := headerBlocks.Get().(*headerBlock)
		d.headerOf, d.headerRoom = append(d.headerOf, block), block[:]
	}
	h := &d.headerRoom[0]
	d.headerRoom = d.headerRoom[1:]
	d.headers = append(d.headers, h)
	for len(in) > 0 {
		tag, value, _, rest, ok := nextField(in)
		if !ok {
			return false
		}
		in = rest
		switch tag {
		case lengthTag(1):
			if !utf8.Valid(value) {
				return false
			}
			//nolint:gosec // a view like all that the request has; the bytes are not written to while it is there
			h.Key = unsafe.String(unsafe.SliceData(value), len(value))
		case lengthTag(2):
			h.Value = value
		default:
			return false
		}
	}
	return true
}
