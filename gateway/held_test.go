package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/gateway"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/memory"
)

// What waits until a client takes it counts as memory for answers, until the client has
// taken it or is gone.
func TestWhatClientsDoNotTakeIsCounted(t *testing.T) {
	const frames, frameBytes = 16, 900_000
	answers := memory.NewBudget(256 << 20)
	w := newWorld(t, func(_ *gateway.Config, d *gateway.Deps) { d.Answers = answers })
	w.topic("orders", 1, nil)
	c := w.produce(t, &braidv1.ProduceOpen{})
	for range frames {
		partition := int32(0)
		c.frame(&braidv1.ProduceFrame{Topic: "orders", Partition: &partition, Records: []*braidv1.Record{record("", string(make([]byte, frameBytes)))}})
	}
	c.await(func() bool { return len(c.acks) == frames })
	c.finish()

	t.Run("Consume", func(t *testing.T) {
		c := w.consume(t, &braidv1.Subscribe{Credit: &braidv1.Credit{MaxRecords: frames, MaxBytes: 1 << 30}})
		require.Eventually(t, func() bool { return answers.Used() >= 4*frameBytes-64<<10 }, waitFor, tick, "three wait, and one is encoded")
		c.finish()
		require.Equal(t, frames, c.records())
		require.Eventually(t, func() bool { return answers.Used() == 0 }, waitFor, tick)
	})
	t.Run("Consume that breaks", func(t *testing.T) {
		c := w.consume(t, &braidv1.Subscribe{Group: "other", Credit: &braidv1.Credit{MaxRecords: frames, MaxBytes: 1 << 30}})
		require.Eventually(t, func() bool { return answers.Used() >= 4*frameBytes-64<<10 }, waitFor, tick)
		require.NoError(t, c.stream.CloseRequest())
		require.NoError(t, c.stream.CloseResponse())
		require.Eventually(t, func() bool { return answers.Used() == 0 }, waitFor, tick)
	})
	t.Run("Fetch", func(t *testing.T) {
		r, err := http.NewRequestWithContext(ctxFor(t), http.MethodPost, w.url+"/braid.v1.ConsumerService/Fetch", strings.NewReader(
			`{"sources":[{"topic":"orders","start":{"offset":"0"}}],"maxRecords":1}`))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		client := h2c(t)
		client.Transport.(*http.Transport).HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
		resp, err := client.Do(r)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Eventually(t, func() bool { return answers.Used() == 2*frameBytes }, waitFor, tick, "copied and encoded")
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Eventually(t, func() bool { return answers.Used() == 0 }, waitFor, tick)
	})
}
