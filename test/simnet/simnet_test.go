package simnet_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/test/simnet"
)

// ms is the latency of each link of these tests.
const ms = time.Millisecond

func network() *simnet.Network {
	return simnet.New(func(string, string) time.Duration { return ms })
}

// connect returns both ends of a connection from client to server.
func connect(t *testing.T, n *simnet.Network) (client, server net.Conn) {
	t.Helper()
	l, err := n.Host("server").Listen("tcp", "0.0.0.0:0")
	require.NoError(t, err)
	client, err = n.Host("client").Dial(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	server, err = l.Accept()
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return client, server
}

// text reads exactly what is expected.
func text(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	_, err := io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, want, string(b))
}

func send(t *testing.T, c net.Conn, s string) {
	t.Helper()
	_, err := io.WriteString(c, s)
	require.NoError(t, err)
}

func wait(d time.Duration) { <-time.After(d) }

func TestBytesArriveInOrderAfterTheLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		client, server := connect(t, network())
		require.Equal(t, 2*ms, time.Since(begin), "a round trip")
		send(t, client, "one ")
		send(t, client, "two")
		text(t, server, "one two")
		require.Equal(t, 3*ms, time.Since(begin))
		send(t, server, "back")
		require.NoError(t, server.Close())
		text(t, client, "back")
		_, err := client.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		_, err = client.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.NoError(t, client.Close())
		_, err = client.Read(make([]byte, 1))
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestDistinctLatenciesDiffer(t *testing.T) {
	seen := make(map[time.Duration]bool)
	for _, from := range []string{"a", "b", "c"} {
		for _, to := range []string{"d", "e", "f"} {
			d := simnet.Distinct(from, to)
			require.False(t, seen[d])
			seen[d] = true
			require.GreaterOrEqual(t, d, ms)
			require.Less(t, d, 2*ms)
		}
	}
}

func TestAWriterWaitsForRoomAndForItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := connect(t, network())
		begin := time.Now()
		require.NoError(t, client.SetWriteDeadline(begin.Add(time.Minute)))
		n, err := client.Write(make([]byte, 3<<20))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(begin))
		require.Equal(t, 1<<20, n)
		require.NoError(t, client.SetWriteDeadline(time.Time{}))
		read := make(chan error, 1)
		go func() {
			_, err := io.CopyN(io.Discard, server, 4<<20)
			read <- err
		}()
		n, err = client.Write(make([]byte, 3<<20))
		require.NoError(t, err)
		require.Equal(t, 3<<20, n)
		require.NoError(t, <-read)
	})
}

func TestAReadEndsAtItsDeadlineAlsoAnEarlierOneThatIsSetMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := connect(t, network())
		begin := time.Now()
		require.NoError(t, client.SetReadDeadline(begin.Add(time.Hour)))
		time.AfterFunc(time.Second, func() { _ = client.SetReadDeadline(time.Now()) })
		_, err := client.Read(make([]byte, 1))
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
		require.Equal(t, time.Second, time.Since(begin))
	})
}

func TestHoldKeepsBytesOfPresentAndFutureConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network()
		l, err := n.Host("server").Listen("tcp", ":9")
		require.NoError(t, err)
		client, server := connect(t, n)
		release := n.HoldHost("client")
		send(t, client, "late")
		require.NoError(t, client.Close())
		begin := time.Now()
		_, err = n.Host("client").Dial(t.Context(), "tcp", "server:9")
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
		require.Equal(t, simnet.DialTimeout, time.Since(begin))
		time.AfterFunc(time.Second, release)
		begin = time.Now()
		text(t, server, "late")
		require.Equal(t, time.Second, time.Since(begin))
		_, err = server.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		other, err := n.Host("client").Dial(t.Context(), "tcp", "server:9")
		require.NoError(t, err)
		require.NoError(t, other.Close())
		require.NoError(t, l.Close())
	})
}

func TestPartitionLeavesOthersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network()
		l, err := n.Host("server").Listen("tcp", ":9")
		require.NoError(t, err)
		release := n.Partition("client-*", "server")
		_, err = n.Host("other").Dial(t.Context(), "tcp", "server:9")
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = n.Host("client-1").Dial(ctx, "tcp", "server:9")
		require.Error(t, err)
		release()
		_, err = n.Host("client-1").Dial(t.Context(), "tcp", "server:9")
		require.NoError(t, err)
		require.NoError(t, l.Close())
	})
}

func TestCutLosesWhatIsOnTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network()
		client, server := connect(t, n)
		send(t, client, "lost")
		require.Equal(t, 1, n.Conns("client", "*"))
		require.Equal(t, 0, n.Cut("server", "client"), "the server made no connection")
		require.Equal(t, 1, n.Cut("client", "server"))
		for _, c := range []net.Conn{client, server} {
			_, err := c.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			_, err = c.Write([]byte("x"))
			require.ErrorIs(t, err, syscall.ECONNRESET)
		}
		require.Equal(t, 0, n.Conns("client", "server"))
		require.False(t, n.CutOne("client", "server", 3))
	})
}

func TestDropLosesAnswersAndThenTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network()
		client, server := connect(t, n)
		release := n.Drop("server", "client")
		send(t, client, "question")
		text(t, server, "question")
		send(t, server, "answer")
		require.NoError(t, client.SetReadDeadline(time.Now().Add(time.Second)))
		_, err := client.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, client.SetReadDeadline(time.Time{}))
		release()
		_, err = client.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
	})
}

func TestDelayCountsWhileItLastsAndOrderStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network()
		client, server := connect(t, n)
		begin := time.Now()
		release := n.Delay("client", "server", time.Second)
		send(t, client, "slow ")
		release()
		send(t, client, "fast")
		text(t, server, "slow fast")
		require.Equal(t, time.Second+ms, time.Since(begin))
	})
}

func TestRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network()
		l, err := n.Host("server").Listen("tcp", ":9")
		require.NoError(t, err)
		_, err = n.Host("server").Listen("tcp", ":9")
		require.ErrorIs(t, err, syscall.EADDRINUSE)
		release := n.Refuse("client", "server")
		_, err = n.Host("client").Dial(t.Context(), "tcp", "server:9")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, "dial", op.Op)
		release()
		waiting, err := n.Host("client").Dial(t.Context(), "tcp", "server:9")
		require.NoError(t, err)
		require.NoError(t, l.Close())
		_, err = waiting.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET, "it was not accepted")
		_, err = l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = n.Host("client").Dial(t.Context(), "tcp", "server:9")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	})
}

// Nothing waits with a lock: the clock goes on while a large transfer crawls.
func TestALargeTransferOverASlowLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network()
		client, server := connect(t, n)
		defer n.Delay("*", "*", time.Second)()
		want := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
		done := make(chan error, 1)
		go func() {
			_, err := client.Write(want)
			done <- errors.Join(err, client.Close())
		}()
		got, err := io.ReadAll(server)
		require.NoError(t, err)
		require.NoError(t, <-done)
		require.True(t, bytes.Equal(want, got))
		wait(time.Hour)
	})
}
