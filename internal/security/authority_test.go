package security_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/security"
	"github.com/braidmq/braid/test/realparts"
)

// A changing has the file of an authority that becomes another one's.
type changing struct {
	t        *testing.T
	file     string
	log      *slog.Logger
	old, new *realparts.Authority

	mu   sync.Mutex // guards the following
	text bytes.Buffer
}

func newChanging(t *testing.T) *changing {
	t.Helper()
	c := &changing{t: t, file: filepath.Join(t.TempDir(), "ca.pem"), old: realparts.NewAuthority(t), new: realparts.NewAuthority(t)}
	c.log = slog.New(slog.NewTextHandler(c, nil))
	c.write(c.old)
	return c
}

// Write implements io.Writer.
func (c *changing) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(b)
}

func (c *changing) logged(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Contains(c.text.Bytes(), []byte(text))
}

func (c *changing) write(of *realparts.Authority) {
	c.t.Helper()
	text, err := os.ReadFile(of.CA)
	require.NoError(c.t, err)
	require.NoError(c.t, os.WriteFile(c.file, text, 0o600))
}

// through checks who is trusted before and after the file changes, and when it cannot be
// read any more; try returns the error of a new connection with one who has a certificate of
// an authority.
func (c *changing) through(try func(of *realparts.Authority) error) {
	c.t.Helper()
	require.NoError(c.t, try(c.old))
	require.Error(c.t, try(c.new))
	c.write(c.new)
	eventually(c.t, func() bool { return try(c.new) == nil })
	require.Error(c.t, try(c.old))

	require.NoError(c.t, os.WriteFile(c.file, []byte("half of a fi"), 0o600))
	eventually(c.t, func() bool { // looked at when it is needed
		require.NoError(c.t, try(c.new))
		return c.logged("what was read before stays")
	})
	require.NoError(c.t, os.Remove(c.file))
	require.Error(c.t, try(c.old))
	require.NoError(c.t, try(c.new))
}

func eventually(t *testing.T, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for !is() {
		require.NoError(t, ctx.Err())
		pause := time.NewTimer(50 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}

// issue returns a certificate of an authority.
func issue(t *testing.T, of *realparts.Authority, name string) (security.TLSFiles, tls.Certificate) {
	t.Helper()
	cert, key := of.Issue(t, name)
	pair, err := tls.LoadX509KeyPair(cert, key)
	require.NoError(t, err)
	return security.TLSFiles{Cert: cert, Key: key}, pair
}

// handshake connects a client to a server, and has each hear of the other's opinion.
func handshake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	served := make(chan error, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer func() { _ = nc.Close() }()
		c := tls.Server(nc, server)
		if err = c.HandshakeContext(t.Context()); err == nil {
			_, err = c.Write([]byte("x"))
		}
		served <- err
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer func() { _ = nc.Close() }()
	c := tls.Client(nc, client)
	_, err = io.ReadFull(c, make([]byte, 1))
	_ = nc.Close()
	return errors.Join(err, <-served)
}

// Clients are asked for certificates of who is the authority now, also those that resume
// a session of before.
func TestListenersTakeChangedAuthorities(t *testing.T) {
	c := newChanging(t)
	files, _ := issue(t, c.old, "server")
	files.ClientCA, files.ClientAuth = c.file, security.ClientAuthRequired
	server, err := files.Server(c.log)
	require.NoError(t, err)
	clients := make(map[*realparts.Authority]*tls.Config)
	for _, of := range []*realparts.Authority{c.old, c.new} {
		trust, err := security.LoadPool(c.old.CA)
		require.NoError(t, err)
		_, own := issue(t, of, "client")
		// Who serves names whom it takes: a client that obeys would show nothing.
		clients[of] = &tls.Config{
			RootCAs: trust, ServerName: "localhost", ClientSessionCache: tls.NewLRUClientSessionCache(1), MinVersion: tls.VersionTLS12,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil },
		}
	}
	c.through(func(of *realparts.Authority) error { return handshake(t, server, clients[of]) })
}

// Connections to others trust who is the authority now. They are to addresses, which have
// no name in the handshake.
func TestConnectionsTakeChangedAuthorities(t *testing.T) {
	c := newChanging(t)
	client, err := security.TLSFiles{}.Client(c.log, c.file)
	require.NoError(t, err)
	c.through(func(of *realparts.Authority) error {
		_, pair := issue(t, of, "server")
		config := client.Config().Clone()
		config.ServerName = "127.0.0.1"
		return handshake(t, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, config)
	})
}

// Calls are not made by connections that would not be trusted any more, and those under
// way go on.
func TestCallsTakeChangedAuthorities(t *testing.T) {
	c := newChanging(t)
	client, err := security.TLSFiles{}.Client(c.log, c.file)
	require.NoError(t, err)
	goOn := make(chan struct{})
	servers := make(map[*realparts.Authority]*httptest.Server)
	for _, of := range []*realparts.Authority{c.old, c.new} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/stream" {
				return
			}
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-goOn
			_, _ = w.Write([]byte("the end"))
		}))
		_, pair := issue(t, of, "server")
		s.TLS, s.EnableHTTP2 = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, true
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		s.StartTLS()
		t.Cleanup(s.Close)
		servers[of] = s
	}
	transport := security.NewTransport(client, func(secure *tls.Config) *http.Transport {
		protocols := new(http.Protocols)
		protocols.SetHTTP2(true)
		return &http.Transport{TLSClientConfig: secure, Protocols: protocols, IdleConnTimeout: time.Minute}
	})
	caller := &http.Client{Transport: transport}
	t.Cleanup(caller.CloseIdleConnections)
	get := func(of *realparts.Authority, path string) (*http.Response, error) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, servers[of].URL+path, nil)
		require.NoError(t, err)
		return caller.Do(request)
	}
	stream, err := get(c.old, "/stream")
	require.NoError(t, err)
	defer func() { _ = stream.Body.Close() }()
	require.Equal(t, 2, stream.ProtoMajor)
	c.through(func(of *realparts.Authority) error {
		response, err := get(of, "/")
		if err == nil {
			err = response.Body.Close()
		}
		return err
	})
	close(goOn)
	rest, err := io.ReadAll(stream.Body)
	require.NoError(t, err)
	require.Equal(t, "the end", string(rest))
}
