package quota

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/braidmq/braid/federation"
)

func listen(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func dial(t *testing.T, from string, to net.Listener) net.Conn {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(t.Context(), "tcp", to.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// closed waits until the other end has closed a connection.
func closed(t *testing.T, c net.Conn) {
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err := c.Read(make([]byte, 1))
	require.Error(t, err)
	require.False(t, isTimeout(err), "it is open still")
}

func newGate(t *testing.T, cfg GateConfig, quotas ...federation.QuotaChange) *Gate {
	g, err := NewGate(t.Context(), cfg, newLimiter(t, Config{Window: time.Second}, newFakeMaps(quotas...)), nil, noop.Meter{})
	require.NoError(t, err)
	return g
}

func TestGateCountsConnections(t *testing.T) {
	g := newGate(t, GateConfig{ConnectionsMax: 3, PerIPMax: 2})
	inner := listen(t)
	l := g.Listener(inner)
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	first, second := dial(t, "127.0.0.1", l), dial(t, "127.0.0.1", l)
	a, b := <-accepted, <-accepted
	closed(t, dial(t, "127.0.0.1", l)) // the third of its address
	dial(t, "127.0.0.2", l)
	other := <-accepted
	closed(t, dial(t, "127.0.0.3", l)) // the fourth of all
	require.Equal(t, map[string]int{"127.0.0.1": 2, "127.0.0.2": 1}, g.byIP)

	for _, c := range []net.Conn{a, b, other} {
		_ = c.Close()
		g.Left(c)
	}
	closed(t, first)
	closed(t, second)
	require.Empty(t, g.byIP)
	require.Zero(t, g.open)
	dial(t, "127.0.0.1", l)
	g.Left(<-accepted)
	require.NoError(t, l.Close())
	<-accepted
}

func TestGateHoldsAnAddressToItsRate(t *testing.T) {
	ip := func(name string, v float64) federation.QuotaChange {
		return rate(federation.QuotaEntity{IP: federation.NamedQuota(name)}, federation.QuotaConnectionCreationRate, v)
	}
	g := newGate(t, GateConfig{}, ip("", 1), ip("127.0.0.2", 1000))
	l := g.Listener(listen(t))
	go func() {
		for {
			if _, err := l.Accept(); err != nil {
				return
			}
		}
	}()
	open := func(c net.Conn) bool {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(1500*time.Millisecond)))
		_, err := c.Read(make([]byte, 1))
		return isTimeout(err)
	}
	one, two, three := dial(t, "127.0.0.1", l), dial(t, "127.0.0.1", l), dial(t, "127.0.0.1", l)
	many := make([]net.Conn, 20)
	for i := range many {
		many[i] = dial(t, "127.0.0.2", l)
	}
	closed(t, three)
	require.True(t, open(one))
	_ = two // within the window or not, by how long it took to come
	for _, c := range many {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Millisecond)))
		_, err := c.Read(make([]byte, 1))
		require.True(t, isTimeout(err), "%v", err)
	}
}

// What is above the rate waits, and is served.
func TestGateSlowsAllDown(t *testing.T) {
	g := newGate(t, GateConfig{Rate: 20})
	l := g.Listener(listen(t))
	began := time.Now()
	for range 30 {
		dial(t, "127.0.0.1", l)
		_, err := l.Accept()
		require.NoError(t, err)
	}
	require.GreaterOrEqual(t, time.Since(began), 450*time.Millisecond, "20 at once, and 10 in half a second")
}

// net/http tells of each connection once, whatever is spoken on it.
func TestGateOfAnHTTPServer(t *testing.T) {
	g := newGate(t, GateConfig{PerIPMax: 100})
	l := g.Listener(listen(t))
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: http.NotFoundHandler(), Protocols: &protocols, ConnState: g.ConnState, ReadHeaderTimeout: time.Second}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	for _, h2 := range []bool{false, true} {
		var p http.Protocols
		p.SetHTTP1(!h2)
		p.SetUnencryptedHTTP2(h2)
		transport := &http.Transport{Protocols: &p}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String(), http.NoBody)
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body) // else HTTP/1.1 closes the connection
		require.NoError(t, err)
		_ = resp.Body.Close()
		count := func() int { g.mu.Lock(); defer g.mu.Unlock(); return g.open }
		require.Equal(t, 1, count())
		transport.CloseIdleConnections()
		require.Eventually(t, func() bool { return count() == 0 }, 10*time.Second, time.Millisecond, "h2: %v", h2)
	}
}

func TestRoomOfATenant(t *testing.T) {
	limit := int32(2)
	r := newGate(t, GateConfig{}).Room("acme", func() int32 { return limit }, slog.New(slog.DiscardHandler))
	require.NoError(t, r.Enter())
	require.NoError(t, r.Enter())
	err := r.Enter()
	require.Equal(t, federation.Throttled, federation.KindOf(err))
	require.ErrorContains(t, err, `"acme" has 2 `)
	r.Leave()
	require.NoError(t, r.Enter())
	require.Equal(t, int32(2), r.Open())
	limit = 1 // nobody is thrown out
	require.Error(t, r.Enter())
	r.Leave()
	require.Error(t, r.Enter())
	limit = 0
	require.NoError(t, r.Enter())
	require.Equal(t, int32(2), r.Open())
	var none *Room
	require.NoError(t, none.Enter())
	none.Leave()
	require.Zero(t, none.Open())
}
