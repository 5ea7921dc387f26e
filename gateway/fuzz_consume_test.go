package gateway_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/gateway"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

// messagesOf cuts bytes into messages of a stream: a length before each.
func messagesOf(b []byte) (out [][]byte) {
	for len(b) > 0 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			return out
		}
		b = b[size:]
		n = min(n, uint64(len(b)))
		out, b = append(out, b[:n]), b[n:]
	}
	return out
}

func bytesOf(t testing.TB, messages ...proto.Message) (b []byte) {
	t.Helper()
	for _, m := range messages {
		raw, err := proto.Marshal(m)
		require.NoError(t, err)
		b = append(binary.AppendUvarint(b, uint64(len(raw))), raw...)
	}
	return b
}

// enveloped are messages as Connect and gRPC frame them.
func enveloped(messages [][]byte) (b []byte) {
	for _, m := range messages {
		b = append(binary.BigEndian.AppendUint32(append(b, 0), uint32(len(m))), m...)
	}
	return b
}

// FuzzConsumerFrames sends frames to Consume and Read: the stream is answered or goes on
// until the client ends it, no handler falls, and none stays behind.
func FuzzConsumerFrames(f *testing.F) {
	tp := &braidv1.TopicPartition{Topic: "t"}
	at := &braidv1.Position{At: &braidv1.Position_Offset{Offset: 1}}
	subscribe := &braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: &braidv1.Subscribe{Group: "g", Topics: []string{"t"}, Fallback: at, SessionTimeoutMs: 6000}}}
	seed := func(read, whole bool, messages ...proto.Message) { f.Add(bytesOf(f, messages...), read, whole) }
	for _, frame := range []*braidv1.ConsumeRequest{
		{Frame: &braidv1.ConsumeRequest_Credit{Credit: &braidv1.Credit{MaxRecords: 1, MaxBytes: -5}}},
		{Frame: &braidv1.ConsumeRequest_Commit{Commit: &braidv1.Commit{}}},
		{Frame: &braidv1.ConsumeRequest_Leave{Leave: &braidv1.Leave{}}},
		{Frame: &braidv1.ConsumeRequest_Revoked{Revoked: &braidv1.Revoked{}}},
		{Frame: &braidv1.ConsumeRequest_Seek{Seek: &braidv1.Seek{}}},
		{Frame: &braidv1.ConsumeRequest_Pause{Pause: &braidv1.Pause{}}},
		{Frame: &braidv1.ConsumeRequest_Ping{Ping: &braidv1.Ping{}}},
		subscribe,
		{},
	} {
		seed(false, false, subscribe, frame)
	}
	seed(false, false, &braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: &braidv1.Subscribe{Group: "g", TopicRegex: "(t|u)+$"}}})
	seed(true, false, &braidv1.ReadRequest{Sources: []*braidv1.ReadSource{{Topic: tp.GetTopic(), Start: at}}})
	seed(true, false, &braidv1.ReadRequest{Sources: []*braidv1.ReadSource{{Topic: "t", Partitions: []int32{1, 1, -1}}}, Delivery: &braidv1.Delivery{}})
	f.Add([]byte{0, 0x7f, 0xff, 0xff, 0xff, 1}, false, true)
	f.Add([]byte{1, 0, 0, 0, 1, 0}, true, true)
	w := newWorld(f, func(cfg *gateway.Config, _ *gateway.Deps) { cfg.OpenTimeout = 100 * time.Millisecond })
	w.topic("t", 2, nil)
	w.fill(f, "t", 2, 3)
	var busy atomic.Int64
	var fell atomic.Pointer[string]
	handler := w.g.Handler()
	w.listen(f, gateway.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		busy.Add(1)
		defer busy.Add(-1)
		defer func() {
			if p := recover(); p != nil && !errors.Is(asError(p), http.ErrAbortHandler) {
				text := fmt.Sprint(p, "\n", string(debug.Stack()))
				fell.CompareAndSwap(nil, &text)
			}
		}()
		handler.ServeHTTP(rw, r)
	}), 0))
	client := h2c(f)
	f.Fuzz(func(t *testing.T, b []byte, read, whole bool) {
		method := "Consume"
		if read {
			method = "Read"
		}
		if !whole {
			b = enveloped(messagesOf(b))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond) // a stream may go on for ever
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+"/braid.v1.ConsumerService/"+method, bytes.NewReader(b))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/connect+proto")
		if resp, err := client.Do(r); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		cancel()
		require.Eventually(t, func() bool { return busy.Load() == 0 }, waitFor, tick, "a handler stays behind")
		if text := fell.Load(); text != nil {
			t.Fatal(*text)
		}
	})
}

func asError(p any) error {
	err, _ := p.(error)
	return err
}
