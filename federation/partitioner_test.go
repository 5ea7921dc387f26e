package federation

import (
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The vectors of Kafka's UtilsTest.testMurmur2.
func TestMurmur2Vectors(t *testing.T) {
	for key, want := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		require.Equal(t, want, Murmur2([]byte(key)), key)
	}
}

func TestPartitionForKeyAgreesWithFranzGo(t *testing.T) {
	const seed = 7
	rng := rand.New(rand.NewSource(seed))
	partitioner := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	for range 10000 {
		key := make([]byte, rng.Intn(65))
		_, _ = rng.Read(key)
		n := 1 + rng.Intn(97)
		want := partitioner.Partition(&kgo.Record{Key: key}, n)
		require.Equal(t, LogicalPartition(want), PartitionForKey(key, int32(n)), "seed %d key %x n %d", seed, key, n)
	}
}
