package router_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/recordbatch"
)

// A reader that is behind on many partitions reads them all, in order, though it
// always names them in the same order and each answer has room for few. Once the
// gateway knows how much a partition brings, it asks a broker for few at a time. One that
// cannot be read, of a cluster that hangs, is in nobody's way.
func TestReaderBehindOnManyPartitions(t *testing.T) {
	const partitions, batches = 40, 10
	w := newWorldWith(t, partitions, router.Config{FetchBytesMax: 4000}, nil)
	var heads [][]*federation.Extent
	for p := range partitions {
		heads = append(heads, []*federation.Extent{federationtest.Head("a", "phys", p)})
	}
	heads = append(heads, []*federation.Extent{federationtest.Head("b", "phys", 0)})
	w.SetTopic("orders", nil, heads...)
	s := w.r.NewSession()
	defer s.Close()
	for i := range batches {
		for p := range partitions + 1 {
			require.NoError(t, produce(t, s, router.Append{TopicPartition: at("orders", p), Batch: batch(recordbatch.NoProducer, fmt.Sprintf("%0400d", i))})[0].Err)
		}
	}
	var asked, requests atomic.Int64
	c := w.clusters["a"]
	c.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		for _, topic := range req.(*kmsg.FetchRequest).Topics {
			asked.Add(int64(len(topic.Partitions)))
		}
		requests.Add(1)
		return nil, nil, false
	})
	r := w.r.NewSession()
	defer r.Close()
	_, err := r.Watermarks(t.Context(), at("orders", partitions)) // known to be behind there, too
	require.NoError(t, err)
	hang(t, w.clusters["b"])
	from := make([]router.Position, partitions+1)
	for p := range from {
		from[p] = router.Position{TopicPartition: at("orders", (p+partitions)%(partitions+1)), MaxBytes: 100_000, CurrentEpoch: -1}
	}
	read := make([]int64, partitions+1)
	for left, turns := partitions*batches, 0; left > 0; turns++ {
		require.Less(t, turns, 10*batches*partitions, "still behind: %v", read)
		f, err := r.Fetch(t.Context(), from, router.FetchLimit{MinBytes: 1, MaxBytes: 1 << 20, MaxWait: 10 * time.Second})
		require.NoError(t, err)
		size := 0
		for p := range f.Slices {
			sl := &f.Slices[p]
			require.NoError(t, sl.Err)
			for _, b := range sl.Records {
				for len(b) > 0 {
					h, ok := recordbatch.ParseHeader(b)
					require.True(t, ok)
					require.Equal(t, read[p], h.BaseOffset, "partition %d", p)
					read[p]++
					left--
					size += int(h.Length) + recordbatch.LengthOverhead
					b = b[int(h.Length)+recordbatch.LengthOverhead:]
				}
			}
			from[p].Offset = sl.Next
		}
		require.NotZero(t, size, "an answer without records, while there are some")
		require.LessOrEqual(t, size, 2*4000, "an answer is as large as one request's, and a batch")
		f.Release()
	}
	// The first request names all; each of the others the few that fit.
	require.Less(t, asked.Load(), partitions+requests.Load()*4, "%d requests", requests.Load())
}

// A reader that wants more at a time than one request to a broker brings gets it as soon
// as it is there.
func TestReaderWantsMoreThanOneRequestBrings(t *testing.T) {
	const partitions = 8
	w := newWorldWith(t, partitions, router.Config{FetchBytesMax: 1500}, nil)
	var heads [][]*federation.Extent
	for p := range partitions {
		head := federationtest.Head("a", "phys", p)
		head.Epochs = allEpochs(1)
		heads = append(heads, []*federation.Extent{head})
		require.NoError(t, w.clusters["a"].MoveTopicPartition("phys", int32(p), 0)) // one broker's answer is the only news
	}
	w.SetTopic("orders", nil, heads...)
	s := w.r.NewSession()
	defer s.Close()
	b := batch(recordbatch.NoProducer, string(make([]byte, 400)))
	from := make([]router.Position, partitions)
	for p := range partitions {
		from[p] = router.Position{TopicPartition: at("orders", p), MaxBytes: int32(len(b)), CurrentEpoch: -1}
		for range 2 {
			require.NoError(t, produce(t, s, router.Append{TopicPartition: at("orders", p), Batch: slices.Clone(b)})[0].Err)
		}
	}
	r := w.r.NewSession()
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	f, err := r.Fetch(ctx, from, router.FetchLimit{MinBytes: int32(partitions * len(b)), MaxBytes: 1 << 20, MaxWait: time.Hour})
	require.NoError(t, err)
	defer f.Release()
	size := 0
	for i := range f.Slices {
		size += f.Slices[i].Bytes()
	}
	require.Equal(t, partitions*len(b), size)
}
