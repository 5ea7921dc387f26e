package gateway

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

var testCodec = protoCodec{recordsMax: 100, headersMax: 5}

// someFrames are frames of all kinds, encoded by the generated code.
func someFrames(tb testing.TB) map[string]*braidv1.ProduceFrame {
	tb.Helper()
	many := func(n int) []*braidv1.Record {
		return slices.Repeat([]*braidv1.Record{{Key: []byte("k"), Value: []byte("v"), TimestampMs: 1 << 40, Headers: []*braidv1.Header{{Key: "h", Value: []byte("x")}}}}, n)
	}
	return map[string]*braidv1.ProduceFrame{
		"empty":     {},
		"one":       {BatchSeq: 1, Topic: "t", Records: []*braidv1.Record{{Value: make([]byte, 100)}}},
		"numbers":   {BatchSeq: 1<<64 - 1, Topic: "t", Partition: proto.Int32(-1), PartitionCount: -7, FailureSeen: 1 << 63},
		"partition": {BatchSeq: 300, Topic: strings.Repeat("t", 249), Partition: new(int32), Records: many(100)},
		"raw":       {BatchSeq: 2, Topic: "t", Partition: proto.Int32(5), KafkaBatch: benchBatch(3, 10)},
		"both":      {Records: many(1), KafkaBatch: []byte("b")},
		"null and empty": {Topic: "t", Records: []*braidv1.Record{
			{},
			{Key: []byte{}},
			{Value: []byte{}},
			{Key: []byte{}, Value: []byte{}},
			{Headers: []*braidv1.Header{{}, {Key: "k"}, {Value: []byte{}}, {Key: "ключ", Value: []byte("v")}}},
		}},
		"text": {Topic: "t", Records: []*braidv1.Record{{KeyText: "ä", ValueText: "ö", TimestampMs: -5, Offset: 9}}},
		"many headers": {Topic: "t", Records: []*braidv1.Record{
			{Headers: slices.Repeat([]*braidv1.Header{{Key: "a"}}, 5)}, {Headers: slices.Repeat([]*braidv1.Header{{Key: "b"}}, 4)}, {Value: []byte("v")},
		}},
	}
}

func encodedRequest(tb testing.TB, f *braidv1.ProduceFrame) []byte {
	tb.Helper()
	raw, err := proto.Marshal(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: f}})
	require.NoError(tb, err)
	return raw
}

// received returns what a stream gets of a message.
func received(data []byte, topic string) (got *braidv1.ProduceRequest, err error) {
	in := &produceInput{topic: topic, take: func(r *braidv1.ProduceRequest) error {
		got = proto.CloneOf(r)
		return nil
	}}
	return got, testCodec.Unmarshal(data, in)
}

func TestFramesAreReadByHand(t *testing.T) {
	for name, f := range someFrames(t) {
		t.Run(name, func(t *testing.T) {
			raw := encodedRequest(t, f)
			d := &produceDecoder{}
			d.batch.Batch = &d.frame
			require.True(t, testCodec.request(d, raw, "t"))
			require.True(t, proto.Equal(f, d.request.GetBatch()), d.request.GetBatch())
			for range 3 { // with memory that was used before
				got, err := received(raw, "t")
				require.NoError(t, err)
				require.True(t, proto.Equal(f, got.GetBatch()), got)
			}
			request := &braidv1.ProduceBatchRequest{
				LogicalCluster: "l", Producer: &braidv1.ProducerIdentity{ProducerId: 3, Token: []byte("x")}, Batch: f, ClientId: "c",
				Sequences: []*braidv1.PartitionSequence{{Topic: "t", NextSequence: 1}, {Topic: "t", Partition: 1}},
			}
			raw, err := proto.Marshal(request)
			require.NoError(t, err)
			got := &braidv1.ProduceBatchRequest{}
			require.True(t, testCodec.batchRequest(raw, got))
			clear(raw) // it is Connect's again
			require.True(t, proto.Equal(request, got), got)
		})
	}
}

// What is read by hand is bounded, and the rest still arrives.
func TestUnusualFramesAreLeftToGeneratedCode(t *testing.T) {
	frame := func(records ...*braidv1.Record) []byte {
		return encodedRequest(t, &braidv1.ProduceFrame{Topic: "t", Records: records})
	}
	one := frame(&braidv1.Record{Value: []byte("v")})
	for name, raw := range map[string][]byte{
		"open":            {0x0a, 0},
		"ping":            {0x1a, 0},
		"twice":           append(slices.Clone(one), one...),
		"unknown field":   protowire.AppendVarint(protowire.AppendTag(slices.Clone(one), 99, protowire.VarintType), 1),
		"many records":    frame(slices.Repeat([]*braidv1.Record{{}}, testCodec.recordsMax+1)...),
		"many headers":    frame(&braidv1.Record{Headers: slices.Repeat([]*braidv1.Header{{}}, testCodec.headersMax+1)}),
		"long tag":        {0x92, 0x00, 0x00},
		"in an odd group": {0x12, 2, 0x1b, 0x1c},
	} {
		t.Run(name, func(t *testing.T) {
			require.False(t, testCodec.request(&produceDecoder{}, raw, ""))
			want := &braidv1.ProduceRequest{}
			require.NoError(t, proto.Unmarshal(raw, want))
			got, err := received(raw, "")
			require.NoError(t, err)
			require.True(t, proto.Equal(want, got), got)
		})
	}
}

func TestRecycledDecodersKeepNothing(t *testing.T) {
	d := &produceDecoder{}
	d.batch.Batch = &d.frame
	for _, f := range someFrames(t) {
		require.True(t, testCodec.request(d, encodedRequest(t, f), ""))
		records, headers := slices.Clone(d.records), slices.Clone(d.headers)
		d.recycle()
		for _, r := range records {
			require.True(t, proto.Equal(&braidv1.Record{}, r), r)
		}
		for _, h := range headers {
			require.True(t, proto.Equal(&braidv1.Header{}, h), h)
		}
		require.True(t, proto.Equal(&braidv1.ProduceFrame{}, &d.frame), &d.frame)
		require.Empty(t, d.blocks)
		require.Empty(t, d.headerOf)
	}
}

// Whatever bytes come: a stream and a call get what the generated decoder makes of
// them, and an error where it has one.
func FuzzProduceCodec(f *testing.F) {
	for _, in := range someFrames(f) {
		raw := encodedRequest(f, in)
		f.Add(raw)
		f.Add(raw[:len(raw)-len(raw)/3])
		raw, err := proto.Marshal(&braidv1.ProduceBatchRequest{LogicalCluster: "l", Batch: in, Acks: braidv1.Acks_ACKS_LEADER})
		require.NoError(f, err)
		f.Add(raw)
	}
	f.Add([]byte{0x12, 0x04, 0x22, 0x02, 0x08, 0x01})                                                 // a key that is a number
	f.Add([]byte{0x12, 0x03, 0x12, 0x01, 0xff})                                                       // a topic that is no text
	f.Add([]byte{0x12, 0x0b, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02})       // a number that is too long
	f.Add([]byte{0x12, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0x22, 0xff, 0xff}) // and a length
	f.Fuzz(func(t *testing.T, data []byte) {
		want := &braidv1.ProduceRequest{}
		wantErr := proto.Unmarshal(data, want)
		got, err := received(data, "t")
		require.Equal(t, wantErr != nil, err != nil, "%v, want %v", err, wantErr)
		if err == nil {
			require.True(t, proto.Equal(want, got), "%v, want %v", got, want)
		}
		call, wantCall := &braidv1.ProduceBatchRequest{}, &braidv1.ProduceBatchRequest{}
		body := bytes.Clone(data)
		wantErr, err = proto.Unmarshal(data, wantCall), testCodec.Unmarshal(body, call)
		require.Equal(t, wantErr != nil, err != nil, "%v, want %v", err, wantErr)
		require.Equal(t, data, body)
		clear(body) // it is Connect's again
		if err == nil {
			require.True(t, proto.Equal(wantCall, call), "%v, want %v", call, wantCall)
		}
	})
}
