package router_test

import (
	"bytes"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/recordbatch"
)

// A batch with a flipped bit that the tail brings is kept for nobody: all readers get it
// whole, from the leader.
func TestTailKeepsNoBrokenBatch(t *testing.T) {
	w := newWorld(t, 1)
	w.orders()
	c := w.clusters["a"]
	whole := batch(recordbatch.NoProducer, "x")
	recordbatch.PatchOffsetAndEpoch(whole, 0, 0)
	broken := bytes.Clone(whole)
	broken[len(broken)-1] ^= 1
	var waiting, given atomic.Int32
	var written atomic.Bool
	c.ControlKey(kmsg.Fetch.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.FetchRequest)
		if req.MaxWaitMillis == 0 {
			return nil, nil, false // of a reader itself
		}
		waiting.Add(1)
		c.SleepControl(func() { <-time.After(10 * time.Millisecond) }) // as a broker holds a fetch
		return new(pair).answer(req, func(rp *kmsg.FetchResponseTopicPartition, from int64) {
			rp.HighWatermark, rp.LastStableOffset = 0, 0
			if !written.Load() {
				return
			}
			rp.HighWatermark, rp.LastStableOffset = 1, 1
			if from == 0 {
				given.Add(1)
				rp.RecordBatches = bytes.Clone(broken)
			}
		}), nil, true
	})

	const readers = 3
	got := make(chan *router.Fetched, readers)
	failed := make(chan error, readers)
	for range readers {
		s := session(t, w.r)
		go func() {
			f, err := fetchFrom(t.Context(), s, 0, 10*time.Second)
			if err != nil {
				failed <- err
				return
			}
			got <- f
		}()
	}
	require.Eventually(t, func() bool { return waiting.Load() > 0 }, 10*time.Second, time.Millisecond)
	write(t, c, 0, "x")
	written.Store(true)
	for range readers {
		select {
		case f := <-got:
			require.NoError(t, f.Slices[0].Err)
			require.True(t, recordbatch.AllIntact(slices.Concat(f.Slices[0].Records...)))
			require.EqualValues(t, 1, f.Slices[0].Next)
			f.Release()
		case err := <-failed:
			require.NoError(t, err)
		}
	}
	require.Positive(t, given.Load())
	require.Equal(t, []string{"0:x"}, values(t, session(t, w.r), tp0, 0, 1))
	require.Zero(t, w.r.Stats().TailBytes, "it is not kept")
}
