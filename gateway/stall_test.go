package gateway_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/gateway"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/memory"
)

// A client of Read that keeps its connection and takes nothing is cut off, and what was
// read for it is given back; one that takes everything, and then waits for more, is not.
func TestReadersThatTakeNothingAreCutOff(t *testing.T) {
	const stall = 300 * time.Millisecond
	answers := memory.NewBudget(64 << 20)
	w := newWorld(t, func(cfg *gateway.Config, d *gateway.Deps) { cfg.StallTimeout, d.Answers = stall, answers })
	w.topic("t", 2, nil)
	c := w.produce(t, &braidv1.ProduceOpen{})
	for range 16 { // more than connections and windows hold
		partition := int32(0)
		c.frame(&braidv1.ProduceFrame{Topic: "t", Partition: &partition, Records: []*braidv1.Record{record("", string(make([]byte, 900_000)))}})
	}
	c.await(func() bool { return len(c.acks) == 16 })
	c.finish()
	for name, client := range map[string]*http.Client{"HTTP/2": h2c(t), "HTTP/1.1": {Transport: &http.Transport{}}} {
		t.Run(name, func(t *testing.T) {
			open := func(topic string, partition int32) io.Reader {
				raw, err := proto.Marshal(&braidv1.ReadRequest{Sources: []*braidv1.ReadSource{{Topic: topic, Partitions: []int32{partition}, Start: &braidv1.Position{At: &braidv1.Position_Offset{}}}}})
				require.NoError(t, err)
				r, err := http.NewRequestWithContext(ctxFor(t), http.MethodPost, w.url+"/braid.v1.ConsumerService/Read", bytes.NewReader(enveloped([][]byte{raw})))
				require.NoError(t, err)
				r.Header.Set("Content-Type", "application/connect+proto")
				resp, err := client.Do(r)
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, resp.StatusCode)
				t.Cleanup(func() { _ = resp.Body.Close() })
				return resp.Body
			}
			idle := open("t", 1) // nothing is in it
			_, err := io.ReadFull(idle, make([]byte, 5))
			require.NoError(t, err)
			taking := open("t", 0)
			begin := time.Now() // before the gateway begins to wait for it
			stuck := open("t", 0)
			require.Eventually(t, func() bool { return w.g.Streams() == 3 }, waitFor, tick)
			require.Eventually(t, func() bool { return answers.Used() >= 2*2*900_000 }, waitFor, tick, "what waits to be taken is counted, as it was copied and encoded")
			got := make(chan error, 1)
			go func() {
				_, err := io.CopyN(io.Discard, taking, 16*900_000)
				got <- err
			}()
			require.NoError(t, <-got)
			require.Eventually(t, func() bool { return w.g.Streams() == 2 }, waitFor, tick, "the one that takes nothing is cut off")
			require.GreaterOrEqual(t, time.Since(begin), stall)
			_, err = io.Copy(io.Discard, stuck)
			require.Error(t, err)
			require.Zero(t, answers.Used())
			// Longer than the time: those that wait for records go on.
			require.Never(t, func() bool { return w.g.Streams() < 2 }, 3*stall, 10*tick)
		})
	}
}
