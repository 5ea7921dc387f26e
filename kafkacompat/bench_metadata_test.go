package kafkacompat_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// BenchmarkMetadata asks for a topic by its name, as producers do.
func BenchmarkMetadata(b *testing.B) {
	for _, partitions := range []int{10, 6_000} {
		b.Run(fmt.Sprintf("%d partitions", partitions), func(b *testing.B) {
			c := benchServerOf(b, nil, partitions)
			req := askMetadata("orders")
			req.SetVersion(12)
			out := kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)
			buf := make([]byte, 1<<20)
			b.ReportAllocs()
			for b.Loop() {
				_, err := c.c.Write(out)
				require.NoError(b, err)
				readFrame(b, c, buf)
			}
		})
	}
}
