package gateway_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"io"
	"maps"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/gateway"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/internal/memory"
)

const (
	infoCall    = "/braid.v1.ConsumerService/GetTopicInfo"
	batchCall   = "/braid.v1.ProducerService/ProduceBatch"
	produceCall = "/braid.v1.ProducerService/Produce"
	readCall    = "/braid.v1.ConsumerService/Read"
)

// half sends the beginning of a call whose message has so many bytes, and no more of it.
// The channel gets how the call ends.
func half(t *testing.T, client *http.Client, url, kind string, size, sent int) <-chan error {
	body := make([]byte, sent)
	if strings.HasPrefix(kind, "application/connect+") {
		copy(body, binary.BigEndian.AppendUint32([]byte{0}, uint32(size-5)))
	}
	more, never := io.Pipe()
	t.Cleanup(func() { _ = never.Close() })
	r, err := http.NewRequestWithContext(ctxFor(t), http.MethodPost, url, io.MultiReader(bytes.NewReader(body), more))
	require.NoError(t, err)
	r.Header.Set("Content-Type", kind)
	r.ContentLength = int64(size)
	ended := make(chan error, 1)
	go func() {
		resp, err := client.Do(r)
		if err != nil {
			ended <- err
			return
		}
		_, err = io.Copy(io.Discard, resp.Body)
		ended <- err
		_ = resp.Body.Close() // which waits for the request's body
	}()
	return ended
}

// Clients that send a part of a message and then nothing have the gateway hold no more
// than a share of its budget, whatever sizes they tell; they are cut off, sooner when
// others wait, and clients that send all of a message are served.
func TestHalvesOfMessages(t *testing.T) {
	const room, size, clients = 4 << 20, 3 << 20, 6
	http1, http2 := &http.Client{Transport: &http.Transport{}}, h2c(t)
	for name, c := range map[string]struct {
		client          *http.Client
		procedure, kind string
		sent            int
	}{
		"unary, HTTP/1.1":       {http1, batchCall, "application/proto", size - 1},
		"small parts, HTTP/1.1": {http1, batchCall, "application/proto", 30_000},
		"Read, HTTP/1.1":        {http1, readCall, "application/connect+proto", size - 1},
		"unary":                 {http2, batchCall, "application/proto", size - 1},
		"small parts":           {http2, batchCall, "application/proto", 30_000},
		"Produce":               {http2, produceCall, "application/connect+proto", size - 1},
		"a head":                {http2, produceCall, "application/connect+proto", 3},
	} {
		t.Run(name, func(t *testing.T) {
			incoming := memory.NewBudget(room)
			w := newWorld(t, func(cfg *gateway.Config, d *gateway.Deps) {
				d.Requests, d.Incoming, cfg.StallTimeout = memory.NewBudget(room), incoming, 250*time.Millisecond
			})
			w.topic("orders", 1, nil)
			begin := time.Now()
			var ends []<-chan error
			for range clients {
				ends = append(ends, half(t, c.client, w.url+c.procedure, c.kind, size, c.sent))
			}
			require.Eventually(t, func() bool { return incoming.Used() > 0 || c.sent < 5 }, waitFor, tick)
			p := w.produce(t, &braidv1.ProduceOpen{})
			partition := int32(0)
			p.frame(&braidv1.ProduceFrame{Topic: "orders", Partition: &partition, Records: []*braidv1.Record{record("", string(make([]byte, 400_000)))}})
			p.await(func() bool { return len(p.acks) == 1 })
			p.finish()
			require.LessOrEqual(t, incoming.Used(), int64(room+clients*64<<10))
			for _, ended := range ends {
				select {
				case err := <-ended:
					t.Log(err)
				case <-time.After(waitFor):
					require.FailNow(t, "the call goes on")
				}
			}
			require.GreaterOrEqual(t, time.Since(begin), 250*time.Millisecond)
			require.Eventually(t, func() bool { return incoming.Used() == 0 }, waitFor, tick)
		})
	}
}

// A slow client is not cut off as long as it goes on.
func TestMessagesThatComeSlowly(t *testing.T) {
	w := newWorld(t, func(cfg *gateway.Config, d *gateway.Deps) {
		d.Requests, d.Incoming, cfg.StallTimeout = memory.NewBudget(4<<20), memory.NewBudget(1<<20), 400*time.Millisecond
	})
	w.topic("orders", 1, nil)
	body, err := proto.Marshal(&braidv1.GetTopicInfoRequest{Topic: "orders" + strings.Repeat("x", 100_000)})
	require.NoError(t, err)
	begin := time.Now()
	r, w1 := io.Pipe()
	go func() {
		step := time.NewTicker(50 * time.Millisecond)
		defer step.Stop()
		for len(body) > 0 {
			n := min(len(body), 5000)
			_, _ = w1.Write(body[:n])
			body = body[n:]
			<-step.C
		}
		_ = w1.Close()
	}()
	status, answer := post(t, h2c(t), w.url+infoCall, r, nil)
	require.Equal(t, http.StatusNotFound, status, "%s", answer)
	require.Greater(t, time.Since(begin), 800*time.Millisecond)
}

func post(t *testing.T, client *http.Client, url string, body io.Reader, header http.Header) (status int, answer string) {
	r, err := http.NewRequestWithContext(ctxFor(t), http.MethodPost, url, body)
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/proto")
	maps.Copy(r.Header, header)
	resp, err := client.Do(r)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

func zipped(t *testing.T, parts ...[]byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	for _, p := range parts {
		_, err := z.Write(p)
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return b.Bytes()
}

// A message that is far larger than it was sent is refused where it gets too large, and
// whatever is wrong with one, the next one is taken.
func TestMessagesThatGrow(t *testing.T) {
	requests := memory.NewBudget(4 << 20)
	w := newWorld(t, func(cfg *gateway.Config, d *gateway.Deps) {
		d.Requests, d.Incoming, cfg.MessageBytesMax, cfg.FrameBytesMax = requests, memory.NewBudget(1<<20), 1<<20, 1<<20
	})
	w.topic("orders", 1, nil)
	gzipped := http.Header{"Content-Encoding": {"gzip"}}
	zeros := make([]byte, 1<<20)
	bomb := zipped(t, zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros)
	right, err := proto.Marshal(&braidv1.GetTopicInfoRequest{Topic: "orders"})
	require.NoError(t, err)
	client := h2c(t)
	for range 2 * (runtime.GOMAXPROCS(0) + 1) {
		for _, wrong := range [][]byte{bomb, []byte("no gzip"), bomb[:len(bomb)-9], zipped(t, []byte("no message")), {}} {
			status, _ := post(t, client, w.url+infoCall, bytes.NewReader(wrong), gzipped)
			require.NotEqual(t, http.StatusOK, status)
		}
	}
	status, answer := post(t, client, w.url+infoCall, bytes.NewReader(bomb), gzipped)
	require.Equal(t, http.StatusTooManyRequests, status)
	require.Contains(t, answer, "larger than 1048576 bytes")
	status, answer = post(t, client, w.url+infoCall, bytes.NewReader(zipped(t, right)), gzipped)
	require.Equal(t, http.StatusOK, status, "%s", answer)
	require.Eventually(t, func() bool { return requests.Used() == 0 }, waitFor, tick)
}

// A whole message is counted until its call is done, in each protocol; messages of a stream
// do not add up.
func TestWholeMessagesAreCounted(t *testing.T) {
	const size = 200_000
	requests := memory.NewBudget(8 << 20)
	w := newWorld(t, func(_ *gateway.Config, d *gateway.Deps) { d.Requests, d.Incoming = requests, memory.NewBudget(2<<20) })
	w.topic("orders", 1, nil)
	gate, reached := make(chan struct{}), make(chan struct{}, 10)
	for _, c := range w.clusters {
		c.ControlKey(kmsg.Produce.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			reached <- struct{}{}
			c.SleepControl(func() { <-gate })
			return nil, nil, false
		})
	}
	for name, opts := range map[string][]connect.ClientOption{"Connect": nil, "gRPC": {connect.WithGRPC()}, "gRPC-Web": {connect.WithGRPCWeb()}, "gzip": {connect.WithSendGzip()}} {
		t.Run(name, func(t *testing.T) {
			done := make(chan error, 1)
			go func() {
				partition := int32(0)
				_, err := braidv1connect.NewProducerServiceClient(h2c(t), w.url, opts...).ProduceBatch(ctxFor(t), &braidv1.ProduceBatchRequest{
					Batch: &braidv1.ProduceFrame{Topic: "orders", Partition: &partition, Records: []*braidv1.Record{record("", string(make([]byte, size)))}},
				})
				done <- err
			}()
			<-reached
			require.Greater(t, requests.Used(), int64(size))
			require.Less(t, requests.Used(), int64(2*size))
			gate <- struct{}{}
			require.NoError(t, <-done)
			require.Eventually(t, func() bool { return requests.Used() == 0 }, waitFor, tick)
		})
	}
	t.Run("Read", func(t *testing.T) {
		r := &braidv1.ReadRequest{Sources: from("orders", earliest)}
		r.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 10_000, protowire.BytesType), make([]byte, size)))
		ctx, cancel := context.WithCancel(ctxFor(t))
		defer cancel()
		stream, err := w.consumer(t).Read(ctx, r)
		require.NoError(t, err)
		require.True(t, stream.Receive(), "%v", stream.Err())
		require.Eventually(t, func() bool { return requests.Used() == 0 }, waitFor, tick, "a stream that goes on has no request any more")
	})
	t.Run("Consume", func(t *testing.T) {
		c := w.consume(t, &braidv1.Subscribe{Group: "g", Topics: []string{"orders"}})
		for range 20 {
			require.NoError(t, c.stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Ping{Ping: &braidv1.Ping{Nonce: 1}}}))
		}
		require.NoError(t, c.stream.CloseRequest())
		require.Eventually(t, func() bool { return requests.Used() == 0 }, waitFor, tick)
	})
}

// A whole message whose call does not end is held for nobody: the client must say that it
// was all, and send no second one.
func TestCallsThatDoNotEnd(t *testing.T) {
	const size = 300_000
	for name, extra := range map[string][]byte{"no end": nil, "a second message": binary.BigEndian.AppendUint32([]byte{0}, 1<<20)} {
		t.Run(name, func(t *testing.T) {
			requests, incoming := memory.NewBudget(4<<20), memory.NewBudget(1<<20)
			w := newWorld(t, func(cfg *gateway.Config, d *gateway.Deps) {
				d.Requests, d.Incoming, cfg.StallTimeout = requests, incoming, 250*time.Millisecond
			})
			w.topic("orders", 1, nil)
			for _, procedure := range []string{batchCall, readCall} {
				message := append(binary.BigEndian.AppendUint32([]byte{0}, size), make([]byte, size)...)
				more, never := io.Pipe()
				t.Cleanup(func() { _ = never.Close() })
				r, err := http.NewRequestWithContext(ctxFor(t), http.MethodPost, w.url+procedure, io.MultiReader(bytes.NewReader(append(message, extra...)), more))
				require.NoError(t, err)
				r.Header.Set("Content-Type", "application/grpc")
				r.Header.Set("Te", "trailers")
				resp, err := h2c(t).Do(r)
				require.NoError(t, err)
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = never.Close() // else to close the body waits for the rest of the request
				require.NoError(t, resp.Body.Close())
				require.NotEqual(t, "0", resp.Trailer.Get("Grpc-Status")+resp.Header.Get("Grpc-Status"))
				require.Eventually(t, func() bool { return requests.Used() == 0 && incoming.Used() == 0 }, waitFor, tick)
			}
		})
	}
}
