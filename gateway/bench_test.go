package gateway

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/recordbatch"
)

// From a decoded frame to batches, without the router: of 100 records of 1 KiB, of
// one small record, and of a raw batch.
func BenchmarkProduceFrame(b *testing.B) {
	frame := func(records, size int) *braidv1.ProduceFrame {
		in := &braidv1.ProduceFrame{Topic: "t"}
		for i := range records {
			in.Records = append(in.Records, &braidv1.Record{Key: []byte{byte(i)}, Value: make([]byte, size), TimestampMs: 1})
		}
		return in
	}
	for name, in := range map[string]*braidv1.ProduceFrame{
		"100 records": frame(100, 1024), "1 record": frame(1, 100),
		"raw": {Topic: "t", Partition: new(int32), KafkaBatch: benchBatch(100, 1024)},
	} {
		b.Run(name, func(b *testing.B) {
			d := newDriver(b, in.GetKafkaBatch() == nil)
			b.ReportAllocs()
			b.SetBytes(payloadBytes(in))
			for b.Loop() {
				if err := d.frame(in); err != nil {
					b.Fatal(err)
				}
				for parts := d.ready(); len(parts) > 0; parts = d.ready() {
					for _, p := range parts {
						_ = p.batch()
						p.release()
						d.s.complete(p, &outcome{})
					}
				}
				d.s.takeAcks()
			}
		})
	}
}

func benchBatch(records, size int) []byte {
	var builder recordbatch.Builder
	builder.Reset(nil)
	for i := range records {
		builder.Add(&recordbatch.Record{TimestampMs: 1, Key: []byte{byte(i)}, Value: make([]byte, size)})
	}
	return builder.Finish(recordbatch.NoProducer)
}

// The bytes of a request's message to a frame, as the stream does it.
func BenchmarkDecodeFrame(b *testing.B) {
	for name, in := range map[string]*braidv1.ProduceFrame{
		"100 records": {Topic: "t", Records: slices.Repeat([]*braidv1.Record{{Value: make([]byte, 1024)}}, 100)},
		"1 record":    {Topic: "t", Records: []*braidv1.Record{{Value: make([]byte, 100)}}},
		"raw":         {Topic: "t", Partition: new(int32), KafkaBatch: benchBatch(100, 1024)},
	} {
		b.Run(name, func(b *testing.B) {
			raw, err := proto.Marshal(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: in}})
			require.NoError(b, err)
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				var req braidv1.ProduceRequest
				if err := proto.Unmarshal(raw, &req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// From a fetched batch of 100 records of 1 KiB to a frame.
func BenchmarkDeliver(b *testing.B) {
	for name, in := range map[string]*braidv1.Delivery{
		"records": {},
		"kafka":   {Format: braidv1.RecordFormat_RECORD_FORMAT_KAFKA_V2},
		"filter":  {Filter: &braidv1.Filter{KeyPrefix: []byte("none")}},
	} {
		b.Run(name, func(b *testing.B) {
			cfg := testConfig(b)
			d, err := newDelivery(cfg, in)
			require.NoError(b, err)
			batch := benchBatch(100, 1024)
			reader := recordbatch.NewReader(cfg.DecompressedBytesMax)
			slice := &router.Slice{TopicPartition: federation.TopicPartition{Topic: "t"}, HighWatermark: 100, LastStable: 100}
			b.ReportAllocs()
			b.SetBytes(int64(len(batch)))
			for b.Loop() {
				slice.Records = [][]byte{batch}
				c := newCursor(d, reader, slice, 0, noStop, noStop)
				w := window{math.MaxInt64, math.MaxInt64}
				for !c.used() {
					f, err := c.frame(&w)
					if err != nil {
						b.Fatal(err)
					}
					f.release() // as after its send
				}
			}
		})
	}
}
