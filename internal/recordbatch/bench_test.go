package recordbatch

import (
	"testing"

	"github.com/braidmq/braid/federation"
)

func benchBatch(records, size int) []byte {
	var b Builder
	b.Reset(nil)
	for range records {
		b.Add(&Record{TimestampMs: 1, Value: make([]byte, size)})
	}
	return b.Finish(NoProducer)
}

// What every batch that is produced goes through: the header, and the CRC over the rest.
func BenchmarkCheck(b *testing.B) {
	for name, batch := range map[string][]byte{"100B": benchBatch(1, 100), "1MB": benchBatch(900, 1100)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(batch)))
			for b.Loop() {
				if err := Check(batch, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What every fetched answer goes through: from header to header, with base offset and
// epoch set in each.
func BenchmarkWalkAndPatch(b *testing.B) {
	for name, one := range map[string][]byte{"batches of 100B": benchBatch(1, 100), "batches of 16KB": benchBatch(16, 1024)} {
		b.Run(name, func(b *testing.B) {
			var answer []byte
			for len(answer) < 1<<20 {
				answer = append(answer, one...)
			}
			b.ReportAllocs()
			b.SetBytes(int64(len(answer)))
			for b.Loop() {
				var base federation.LogicalOffset
				for batch, rest := Next(answer); batch != nil; batch, rest = Next(rest) {
					h, ok := ParseHeader(batch)
					if !ok {
						b.Fatal("no header")
					}
					PatchOffsetAndEpoch(batch, base, 7)
					base += federation.LogicalOffset(h.LastOffsetDelta) + 1
				}
			}
		})
	}
}

// What each answer goes through before the tail keeps it.
func BenchmarkAllIntact(b *testing.B) {
	for name, one := range map[string][]byte{"batches of 100B": benchBatch(1, 100), "batches of 16KB": benchBatch(16, 1024)} {
		b.Run(name, func(b *testing.B) {
			var answer []byte
			for len(answer) < 1<<20 {
				answer = append(answer, one...)
			}
			b.ReportAllocs()
			b.SetBytes(int64(len(answer)))
			for b.Loop() {
				if !AllIntact(answer) {
					b.Fatal("broken")
				}
			}
		})
	}
}
