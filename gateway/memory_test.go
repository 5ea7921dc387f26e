package gateway_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/gateway"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/memory"
)

// Produce streams that send more than the gateway may hold are not read from while the
// clusters stand still; nothing fails, and everything is given back.
func TestFramesStayWithinTheBudget(t *testing.T) {
	const size, streams, frames = 4 << 20, 4, 10
	budget := memory.NewBudget(size)
	w := newWorld(t, func(_ *gateway.Config, d *gateway.Deps) { d.Requests = budget })
	w.topic("orders", 2, nil)
	gate := make(chan struct{})
	for _, c := range w.clusters {
		c.ControlKey(kmsg.Produce.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			c.SleepControl(func() { <-gate })
			return nil, nil, false
		})
	}
	var sending sync.WaitGroup
	var clients []*produceClient
	for i := range streams {
		c := w.produce(t, &braidv1.ProduceOpen{})
		clients = append(clients, c)
		partition := int32(i % 2)
		sending.Go(func() {
			for seq := range uint64(frames) {
				f := &braidv1.ProduceFrame{Topic: "orders", Partition: &partition, BatchSeq: seq + 1, Records: []*braidv1.Record{record("", string(make([]byte, 500_000)))}}
				if err := c.stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: f}}); err != nil {
					t.Error(err)
				}
			}
		})
		c.seq = frames
	}
	require.Eventually(t, func() bool { return budget.Waiting() == streams }, 10*time.Second, time.Millisecond, "streams wait")
	require.Greater(t, budget.Used(), int64(size/2))
	require.LessOrEqual(t, budget.Used(), int64(size+streams*500_000), "each stream may have begun to read a frame")
	close(gate)
	for _, c := range clients {
		c.await(func() bool { return len(c.acks) == frames })
		for _, a := range c.acks {
			require.Nil(t, a.GetResults()[0].GetFailure())
		}
	}
	sending.Wait()
	for _, c := range clients {
		c.finish()
	}
	require.Eventually(t, func() bool { return budget.Used() == 0 && budget.Waiting() == 0 }, 10*time.Second, time.Millisecond)
}
