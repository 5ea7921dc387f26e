package kafkacompat_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/recordbatch"
)

// Clients that send ten times of what the gateway may hold are slowed down: nothing is
// refused, the budget holds, and all goes on when the clusters do.
func TestRequestsStayWithinTheBudget(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, nil)
	const size, clients, each = 8 << 20, 10, 9
	w.requests = memory.NewBudget(size)
	addr := w.addGateway("gw-1", 2, "")
	gate := make(chan struct{})
	for _, c := range w.clusters {
		c.ControlKey(kmsg.Produce.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			c.SleepControl(func() { <-gate })
			return nil, nil, false
		})
	}
	value := string(make([]byte, 1_000_000))
	var wg sync.WaitGroup
	for i := range clients {
		c := dial(t, addr)
		req := produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, value))
		req.Topics[0].Partitions[0].Partition = int32(i % 2)
		req.SetVersion(9)
		frame := kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)
		wg.Go(func() { // as much as the client sends without an answer
			for range each {
				if _, err := c.c.Write(frame); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range each {
				resp := c.receive(req, 1).(*kmsg.ProduceResponse)
				if code := resp.Topics[0].Partitions[0].ErrorCode; code != 0 {
					t.Errorf("produce: error code %d", code)
				}
				if used := w.requests.Used(); used > size+64<<10 { // and a small request
					t.Errorf("%d bytes are in memory, more than the budget of %d", used, size)
				}
			}
		})
	}
	require.Eventually(t, func() bool { return w.requests.Waiting() >= clients-8 }, 10*time.Second, time.Millisecond, "readers wait")
	// A small request waits for none of them.
	require.Len(t, exchange[*kmsg.MetadataResponse](dial(t, addr), askMetadata("orders"), 12).Topics, 1)
	require.NotZero(t, w.requests.Waiting())
	require.LessOrEqual(t, w.requests.Used(), int64(size))
	require.Greater(t, w.requests.Used(), int64(size/2))
	close(gate)
	wg.Wait()
	require.Zero(t, w.requests.Waiting())

	// A request that would take more than a half could wait for itself.
	c := dial(t, addr)
	_, err := c.c.Write([]byte{0, 0x50, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1}) // 5 MiB
	require.NoError(t, err)
	c.closed("a request above half of the budget")
}
