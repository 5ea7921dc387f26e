package process

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/test/realparts"
)

// dialled are connections that a test can cut off.
type dialled struct {
	mu  sync.Mutex // guards the following
	all []net.Conn
	log bytes.Buffer
}

func (d *dialled) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, c)
	return c, err
}

func (d *dialled) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.all {
		_ = c.Close()
	}
	d.all = nil
}

// Write implements io.Writer.
func (d *dialled) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.Write(b)
}

func (d *dialled) logged(text string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Contains(d.log.Bytes(), []byte(text))
}

// New connections to Redis trust who is the authority now.
func TestRedisTakesAChangedAuthority(t *testing.T) {
	before, after := realparts.NewAuthority(t), realparts.NewAuthority(t)
	var shown atomic.Pointer[tls.Certificate]
	show := func(of *realparts.Authority) {
		cert, key := of.Issue(t, "redis")
		pair, err := tls.LoadX509KeyPair(cert, key)
		require.NoError(t, err)
		shown.Store(&pair)
	}
	show(before)
	server, err := miniredis.RunTLS(&tls.Config{
		MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return shown.Load(), nil },
	})
	require.NoError(t, err)
	t.Cleanup(server.Close)

	ca := filepath.Join(t.TempDir(), "ca.pem")
	trust := func(of *realparts.Authority) {
		text, err := os.ReadFile(of.CA)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(ca, text, 0o600))
	}
	trust(before)
	d := new(dialled)
	store, err := openRedis(redisstore.Config{URL: "rediss://" + server.Addr() + "/0", Dialer: d.dial}, RedisFiles{CA: ca}, slog.New(slog.NewTextHandler(d, nil)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	ping := func() error {
		d.cut()
		_ = store.Ping(t.Context()) // finds out that the connections were cut off
		return store.Ping(t.Context())
	}
	require.NoError(t, ping())
	trust(after)
	require.Eventually(t, func() bool { return ping() != nil }, 10*time.Second, 50*time.Millisecond)
	require.ErrorContains(t, ping(), "--redis-tls-ca")
	show(after)
	require.NoError(t, ping())
	require.NoError(t, os.WriteFile(ca, []byte("half of a fi"), 0o600))
	require.Eventually(t, func() bool { return ping() != nil || d.logged("what was read before stays") }, 10*time.Second, 50*time.Millisecond)
	require.NoError(t, ping())
}
