package upstream_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/upstream"
)

// A stuckConn is a connection whose writes hang until they are let go.
type stuckConn struct {
	net.Conn
	mu     sync.Mutex    // guards the following
	gate   chan struct{} // nil = writes pass
	writes chan struct{} // told of each write that hangs
}

func (c *stuckConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	gate := c.gate
	c.mu.Unlock()
	if gate != nil {
		c.writes <- struct{}{}
		<-gate
	}
	return c.Conn.Write(b)
}

// Requests that fail with their connection, and those that come after it has failed,
// are told so in the order in which they were sent: whoever sends them again by the order
// of the answers would swap them otherwise.
func TestRequestsFailInTheirOrder(t *testing.T) {
	k := embedded(t, kfake.SeedTopics(1, "t"))
	var stuck []*stuckConn
	var mu sync.Mutex
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		s := &stuckConn{Conn: c, writes: make(chan struct{}, 16)}
		mu.Lock()
		stuck = append(stuck, s)
		mu.Unlock()
		return s, nil
	}
	c := open(t, upstream.Config{Dialer: dial}, k.ListenAddrs()...)
	_, err := c.Info(t.Context()) // the brokers' addresses
	require.NoError(t, err)
	conn, err := c.Conn(t.Context(), 0, upstream.UseAppend, 0)
	require.NoError(t, err)
	mu.Lock()
	s := stuck[len(stuck)-1]
	mu.Unlock()
	gate := make(chan struct{})
	s.mu.Lock()
	s.gate = gate
	s.mu.Unlock()

	const n = 3
	answers := make(chan int, n)
	send := func(i int) {
		require.True(t, conn.TryAcquire())
		req := kmsg.NewPtrMetadataRequest()
		req.SetVersion(4)
		conn.Send(req.Key(), 4, false, net.Buffers{req.AppendTo(nil)}, func(b *upstream.Buffer, err error) {
			if err == nil {
				b.Release()
			}
			answers <- i
		})
	}
	send(0)
	<-s.writes // its bytes are in use
	send(1)
	conn.Close()
	send(2)
	close(gate)
	for want := range n {
		select {
		case got := <-answers:
			require.Equal(t, want, got)
		case <-time.After(10 * time.Second):
			t.Fatal("a request has no answer")
		}
	}
}

// A broker that announces an answer of 100 MB and sends 1 KB of it costs no memory, and no
// room of what answers are taken from.
func TestAnnouncedAnswersCostNothing(t *testing.T) {
	const announced, sent, most = 100_000_000, 1000, 2 << 20
	k := embedded(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	answer := func(corr []byte) []byte {
		return append(append(binary.BigEndian.AppendUint32(nil, announced), corr...), make([]byte, sent)...)
	}
	answers := memory.NewBudget(1 << 30)
	c := open(t, upstream.Config{Dialer: hostile(t, kmsg.ListOffsets.Int16(), answer), RequestTimeout: 300 * time.Millisecond, Answers: answers}, k.ListenAddrs()...)
	_, err := c.Info(t.Context())
	require.NoError(t, err)
	conn, err := c.Conn(t.Context(), 0, upstream.UseQuery, 0)
	require.NoError(t, err)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	asked := make(chan error, 1)
	go func() {
		_, err := conn.Request(t.Context(), kmsg.NewPtrListOffsetsRequest())
		asked <- err
	}()
	for waiting := true; waiting; {
		require.Less(t, answers.Used(), int64(most))
		select {
		case err = <-asked:
			waiting = false
		case <-time.After(time.Millisecond):
		}
	}
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, upstream.ErrConnClosed)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(most))
	require.Zero(t, answers.Used())
}

// hasty stands between a client and an embedded cluster. It answers a request of one API
// when it has read its head, and reads the rest, which it tells, when it is let.
func hasty(key int16, let <-chan struct{}, rest chan<- []byte) upstream.Dialer {
	frame := func(r io.Reader, head []byte) ([]byte, error) {
		if _, err := io.ReadFull(r, head); err != nil {
			return nil, err
		}
		return make([]byte, 4+int(binary.BigEndian.Uint32(head))-len(head)), nil
	}
	serve := func(near, up net.Conn) error {
		head := make([]byte, 12) // size, key, version and correlation id
		body, err := frame(near, head)
		if err != nil {
			return err
		}
		if int16(binary.BigEndian.Uint16(head[4:])) == key {
			if _, err := near.Write(slices.Concat([]byte{0, 0, 0, 8}, head[8:], make([]byte, 4))); err != nil {
				return err
			}
			<-let
			_, err := io.ReadFull(near, body)
			rest <- body
			return err
		}
		if _, err := io.ReadFull(near, body); err != nil {
			return err
		}
		if _, err := up.Write(slices.Concat(head, body)); err != nil {
			return err
		}
		head = head[:4]
		if body, err = frame(up, head); err != nil {
			return err
		}
		if _, err := io.ReadFull(up, body); err != nil {
			return err
		}
		_, err = near.Write(slices.Concat(head, body))
		return err
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		up, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		near, far := net.Pipe()
		go func() {
			defer func() { _, _ = far.Close(), up.Close() }()
			for serve(far, up) == nil {
			}
		}()
		return near, nil
	}
}

// A broker that answers a request before it has read it gets the bytes that it was sent: who
// sent them has them back when they are written, not before.
func TestAnswersWaitForTheirRequests(t *testing.T) {
	k := embedded(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	let, rest := make(chan struct{}), make(chan []byte, 1)
	c := open(t, upstream.Config{Dialer: hasty(kmsg.ListOffsets.Int16(), let, rest)}, k.ListenAddrs()...)
	_, err := c.Info(t.Context())
	require.NoError(t, err)
	conn, err := c.Conn(t.Context(), 0, upstream.UseQuery, 0)
	require.NoError(t, err)
	require.True(t, conn.TryAcquire())
	body := bytes.Repeat([]byte("mine"), 1000)
	answered := make(chan error, 1)
	conn.Send(kmsg.ListOffsets.Int16(), 1, false, net.Buffers{body}, func(b *upstream.Buffer, err error) {
		if err == nil {
			b.Release()
		}
		clear(body) // it is used for something else
		answered <- err
	})
	select {
	case err := <-answered:
		require.Fail(t, "answered before it was written", "%v", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(let)
	require.True(t, bytes.HasSuffix(<-rest, bytes.Repeat([]byte("mine"), 1000)))
	require.NoError(t, <-answered)
}
