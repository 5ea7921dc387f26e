package gateway

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/recordbatch"
)

// From a decoded frame of 100 records of 1 KiB to batches, without the router.
func BenchmarkProduceFrame(b *testing.B) {
	d := newDriver(b, true)
	in := &braidv1.ProduceFrame{Topic: "t"}
	for i := range 100 {
		in.Records = append(in.Records, &braidv1.Record{Key: []byte{byte(i)}, Value: make([]byte, 1024), TimestampMs: 1})
	}
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
			var builder recordbatch.Builder
			builder.Reset(nil)
			for i := range 100 {
				builder.Add(&recordbatch.Record{TimestampMs: time.Now().UnixMilli(), Key: []byte{byte(i)}, Value: make([]byte, 1024)})
			}
			batch := builder.Finish(recordbatch.NoProducer)
			reader := recordbatch.NewReader(cfg.DecompressedBytesMax)
			slice := &router.Slice{TopicPartition: federation.TopicPartition{Topic: "t"}, HighWatermark: 100, LastStable: 100}
			b.ReportAllocs()
			b.SetBytes(int64(len(batch)))
			for b.Loop() {
				slice.Records = [][]byte{batch}
				c := newCursor(d, reader, slice, 0, noStop, noStop)
				w := window{math.MaxInt64, math.MaxInt64}
				for !c.used() {
					if _, err := c.frame(&w); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
