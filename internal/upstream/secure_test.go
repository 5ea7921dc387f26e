package upstream_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/security"
	"github.com/braidmq/braid/internal/upstream"
	"github.com/braidmq/braid/test/realparts"
)

const password = "correct-horse-battery"

// logs collects what is logged.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A guarded is a cluster with TLS and SASL, and a directory of profiles.
type guarded struct {
	t         *testing.T
	kafka     *kfake.Cluster
	dir       string
	authority *realparts.Authority
	logs      logs
	cfg       upstream.Config
	dials     atomic.Int32
}

func newGuarded(t *testing.T, clientCerts bool, opts ...kfake.Opt) *guarded {
	g := &guarded{t: t, dir: t.TempDir(), authority: realparts.NewAuthority(t)}
	certFile, keyFile := g.authority.Issue(t, "broker")
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	server := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	if clientCerts {
		pem, err := os.ReadFile(g.authority.CA)
		require.NoError(t, err)
		server.ClientCAs = x509.NewCertPool()
		require.True(t, server.ClientCAs.AppendCertsFromPEM(pem))
		server.ClientAuth = tls.RequireAndVerifyClientCert
	}
	g.kafka = embedded(t, append([]kfake.Opt{kfake.TLS(server), kfake.SeedTopics(1, "t")}, opts...)...)
	log := slog.New(slog.NewTextHandler(&g.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	profiles, err := security.OpenProfiles(g.dir, log)
	require.NoError(t, err)
	g.cfg = upstream.Config{Profiles: profiles, Logger: log, AdminTimeout: 2 * time.Second, Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
		g.dials.Add(1)
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}}
	return g
}

func (g *guarded) write(name, text string) {
	g.t.Helper()
	file := filepath.Join(g.dir, name)
	require.NoError(g.t, os.WriteFile(file, []byte(text), 0o600))
}

func (g *guarded) open(profile string) *upstream.Cluster {
	g.t.Helper()
	pool := upstream.NewPool(g.cfg)
	g.t.Cleanup(pool.Close)
	pool.Update([]*federation.Cluster{{Name: "west", Seeds: g.kafka.ListenAddrs(), SecurityProfile: profile}})
	c, err := pool.Cluster("west")
	require.NoError(g.t, err)
	return c
}

// works has both kinds of clients do something.
func (g *guarded) works(c *upstream.Cluster) {
	g.t.Helper()
	_, err := c.Info(g.t.Context())
	require.NoError(g.t, err)
	conn, err := c.Conn(g.t.Context(), 0, upstream.UseAppend, 0)
	require.NoError(g.t, err)
	_, err = conn.Request(g.t.Context(), kmsg.NewPtrListOffsetsRequest())
	require.NoError(g.t, err)
	require.Empty(g.t, c.Refused())
}

// fails has both kinds of clients fail with a text.
func (g *guarded) fails(c *upstream.Cluster, texts ...string) {
	g.t.Helper()
	_, err := c.Info(g.t.Context())
	require.Equal(g.t, federation.ClusterUnavailable, federation.KindOf(err), "%v", err)
	_, connErr := c.Conn(g.t.Context(), 0, upstream.UseAppend, 0)
	require.Error(g.t, connErr)
	for _, text := range append(texts, `physical cluster "west"`) {
		require.ErrorContains(g.t, err, text)
		require.ErrorContains(g.t, connErr, text)
	}
	require.NotContains(g.t, err.Error(), "127.0.0.1:", "addresses are for the log")
	require.NotContains(g.t, connErr.Error(), "127.0.0.1:")
	if refused, ok := errors.AsType[*upstream.RefusedError](err); ok && !refused.Certain {
		require.Empty(g.t, c.Refused(), "it may also be away")
		return
	}
	require.NotEmpty(g.t, c.Refused())
	require.Contains(g.t, g.logs.String(), "physical cluster cannot be used")
	require.NotContains(g.t, g.logs.String(), password)
}

const tlsPart = "tls:\n  ca: ca.pem\n"

func (g *guarded) writeCA() {
	g.t.Helper()
	pem, err := os.ReadFile(g.authority.CA)
	require.NoError(g.t, err)
	g.write("ca.pem", string(pem))
}

func TestSASLOverTLS(t *testing.T) {
	users := []kfake.Opt{kfake.EnableSASL(), kfake.Superuser("PLAIN", "braid", password), kfake.Superuser("SCRAM-SHA-256", "braid", password), kfake.Superuser("SCRAM-SHA-512", "braid", password)}
	g := newGuarded(t, false, users...)
	g.writeCA()
	g.write("password", password+"\n")
	g.write("wrong", "wrong-"+password)
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "scram-sha-512"} {
		t.Run(mechanism, func(t *testing.T) {
			g.write(mechanism+".yaml", tlsPart+"sasl:\n  mechanism: "+mechanism+"\n  username: braid\n  password-file: password\n")
			c := g.open(mechanism)
			g.works(c)
			appended := c.AppendMarks(t.Context(), []upstream.MarkAppend{{Partition: part("t", 0), Batch: batch(pid+int64(len(mechanism)), 0, 0, 1)}})
			require.NoError(t, appended[0].Err)
		})
	}
	t.Run("refused", func(_ *testing.T) {
		g.write("refused.yaml", tlsPart+"sasl:\n  mechanism: SCRAM-SHA-256\n  username: braid\n  password-file: wrong\n")
		g.fails(g.open("refused"), `security profile "refused"`)
	})
	t.Run("no profile", func(_ *testing.T) { g.fails(g.open(""), "security profile") })
	t.Run("a profile that is not there", func(_ *testing.T) { g.fails(g.open("none"), `security profile "none"`, "none.yaml") })
	t.Run("TLS without SASL", func(_ *testing.T) {
		g.write("tls.yaml", tlsPart)
		g.fails(g.open("tls"), `security profile "tls"`)
	})
	t.Run("an authority that nobody knows", func(_ *testing.T) {
		g.write("system.yaml", "tls: {}\nsasl:\n  mechanism: PLAIN\n  username: braid\n  password-file: password\n")
		g.fails(g.open("system"), "TLS failed", "unknown authority", "tls: ca")
	})
	t.Run("another host", func(_ *testing.T) {
		g.write("host.yaml", tlsPart+"  server-name: kafka.example\nsasl:\n  mechanism: PLAIN\n  username: braid\n  password-file: password\n")
		g.fails(g.open("host"), "TLS failed", "kafka.example", "server-name")
	})
	require.NotContains(t, g.logs.String(), password)
}

// What is in the files can change while they are used.
func TestSecretsRotate(t *testing.T) {
	g := newGuarded(t, false, kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-512", "braid", password), kfake.Superuser("PLAIN", "other", password))
	g.writeCA()
	g.write("password", "not-yet")
	g.write("west.yaml", tlsPart+"sasl:\n  mechanism: SCRAM-SHA-512\n  username: braid\n  password-file: password\n")
	c := g.open("west")
	g.fails(c, `security profile "west" (SCRAM-SHA-512 as "braid")`)
	g.write("password", password)
	require.Eventually(t, func() bool { _, err := c.Info(t.Context()); return err == nil }, 10*time.Second, 50*time.Millisecond)
	require.Eventually(t, func() bool { _, err := c.Conn(t.Context(), 0, upstream.UseRead, 0); return err == nil }, 10*time.Second, 50*time.Millisecond)
	g.works(c)
	require.Contains(t, g.logs.String(), "can be used again")

	// Another user and mechanism, for connections to come.
	g.write("west.yaml", tlsPart+"sasl:\n  mechanism: PLAIN\n  username: other\n  password-file: password\n")
	c.Disconnect(upstream.UseAppend)
	require.Eventually(t, func() bool {
		conn, err := c.Conn(t.Context(), 0, upstream.UseAppend, 0)
		return err == nil && !conn.Closed()
	}, 10*time.Second, 50*time.Millisecond)
	g.works(c)
	// A file that cannot be used changes nothing.
	g.write("west.yaml", "sasl: "+password)
	require.Eventually(t, func() bool {
		g.works(c)
		return strings.Contains(g.logs.String(), "what was read before stays")
	}, 10*time.Second, 50*time.Millisecond)
	require.NotContains(t, g.logs.String(), password)
}

func TestClientCertificates(t *testing.T) {
	g := newGuarded(t, true)
	g.writeCA()
	certFile, keyFile := g.authority.Issue(t, "braid")
	g.write("west.yaml", tlsPart+"  cert: "+certFile+"\n  key: "+keyFile+"\n")
	g.works(g.open("west"))
	g.write("bare.yaml", tlsPart)
	g.fails(g.open("bare"), "TLS failed", "certificate")
	// A certificate of somebody else.
	stranger, strangerKey := realparts.NewAuthority(t).Issue(t, "stranger")
	g.write("stranger.yaml", tlsPart+"  cert: "+stranger+"\n  key: "+strangerKey+"\n")
	g.fails(g.open("stranger"), "TLS failed")
}

// Whoever tries again until its time is up says why it was refused, not that its last dial
// took too long.
func TestRefusedBeforeATimeout(t *testing.T) {
	g := newGuarded(t, true)
	g.writeCA()
	g.write("bare.yaml", tlsPart)
	dial := g.cfg.Dialer
	g.cfg.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if g.dials.Load() > 0 {
			<-ctx.Done()
			return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
		}
		return dial(ctx, network, addr)
	}
	_, err := g.open("bare").Info(t.Context())
	require.ErrorContains(t, err, "TLS failed")
	require.ErrorContains(t, err, "certificate")
}

// Nothing falls back to plain text, and nothing is sent that way before that is found out.
func TestNoPlainText(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	var got logs
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 4096)
			n, _ := c.Read(b)
			_, _ = got.Write(b[:n])
			_, _ = c.Write([]byte("\x00\x00\x00\x04\x00\x00\x00\x01"))
			_ = c.Close()
		}
	}()
	g := newGuarded(t, false)
	g.write("password", password)
	g.write("west.yaml", "tls: {}\nsasl:\n  mechanism: PLAIN\n  username: braid\n  password-file: password\n")
	pool := upstream.NewPool(g.cfg)
	defer pool.Close()
	pool.Update([]*federation.Cluster{{Name: "west", Seeds: []string{l.Addr().String()}, SecurityProfile: "west"}})
	c, err := pool.Cluster("west")
	require.NoError(t, err)
	_, err = c.Info(t.Context())
	require.ErrorContains(t, err, "the listener does not speak TLS")
	require.NotContains(t, got.String(), "braid")
	require.NotEmpty(t, got.String())

	for name, text := range map[string]string{
		"plain":  "sasl:\n  mechanism: PLAIN\n  username: braid\n  password-file: password\n",
		"inline": "tls: {}\nsasl:\n  mechanism: PLAIN\n  username: braid\n  password: " + password + "\n",
		"secret": password,
		"empty":  "",
	} {
		g.write(name+".yaml", text)
		before := g.dials.Load()
		_, err := upstream.Probe(t.Context(), g.cfg, &federation.Cluster{Name: "west", Seeds: []string{l.Addr().String()}, SecurityProfile: name})
		require.ErrorContains(t, err, `security profile "`+name+`"`)
		require.NotContains(t, err.Error(), password)
		require.Equal(t, before, g.dials.Load())
	}
	require.NotContains(t, g.logs.String(), password)
}

// A session that ends is renewed under way: no request fails, none is answered out of
// order, and no connection is made anew.
func TestSessionsAreRenewed(t *testing.T) {
	g := newGuarded(t, false, kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "braid", password), kfake.BrokerConfigs(map[string]string{"connections.max.reauth.ms": "1500"}))
	g.writeCA()
	g.write("password", password)
	g.write("west.yaml", tlsPart+"sasl:\n  mechanism: SCRAM-SHA-256\n  username: braid\n  password-file: password\n")
	var proofs atomic.Int32
	g.kafka.ControlKey(kmsg.SASLHandshake.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		g.kafka.KeepControl()
		proofs.Add(1)
		return nil, nil, false
	})
	c := g.open("west")
	conn, err := c.Conn(t.Context(), 0, upstream.UseQuery, 0)
	require.NoError(t, err)
	begun := proofs.Load()
	const most = 1 << 22
	answered := make(chan int, most)
	sent := 0
	for ; proofs.Load()-begun < 2 && sent < most; sent++ {
		require.NoError(t, conn.Acquire(t.Context()))
		req := kmsg.NewPtrMetadataRequest()
		req.SetVersion(4)
		n := sent
		conn.Send(req.Key(), 4, false, net.Buffers{req.AppendTo(nil)}, func(b *upstream.Buffer, err error) {
			if err == nil {
				b.Release()
				answered <- n
				return
			}
			answered <- -1
		})
	}
	for n := range sent {
		require.Equal(t, n, <-answered)
	}
	require.False(t, conn.Closed())
	require.GreaterOrEqual(t, proofs.Load()-begun, int32(2))
}

// awayIssuer has a profile whose issuer of tokens is away, and returns where it is.
func awayIssuer(t *testing.T, g *guarded) (address string) {
	g.kafka.ControlKey(kmsg.SASLHandshake.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		g.kafka.KeepControl()
		return r.ResponseKind(), nil, true
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	g.writeCA()
	g.write("secret", password)
	g.write("issued.yaml", tlsPart+"sasl:\n  mechanism: OAUTHBEARER\n  token-url: https://"+l.Addr().String()+"/token\n  client-id: braid\n  client-secret-file: secret\n")
	return l.Addr().String()
}

const isAwayIssuer = `SASL failed with security profile "issued" (OAUTHBEARER as "braid"): the issuer of tokens cannot be reached: connect: connection refused`

// An issuer of tokens that is away is told as such, by both kinds of connections.
func TestIssuerAway(t *testing.T) {
	g := newGuarded(t, false, kfake.NumBrokers(1))
	address := awayIssuer(t, g)
	c := g.open("issued")
	_, err := c.Info(t.Context())
	require.ErrorContains(t, err, isAwayIssuer)
	require.NotContains(t, err.Error(), address)
	require.NotEmpty(t, c.Refused())
	g.fails(c, `security profile "issued" (OAUTHBEARER as "braid")`, "the issuer of tokens cannot be reached")
}

// What is tried again until its time is up can end in a dial: that hides no refusal.
func TestIssuerAwayBeforeATimeout(t *testing.T) {
	g := newGuarded(t, false, kfake.NumBrokers(1))
	awayIssuer(t, g)
	g.cfg.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if g.dials.Add(1) > 1 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}
	c := g.open("issued")
	_, err := c.Info(t.Context())
	require.ErrorContains(t, err, isAwayIssuer)
	require.NotEmpty(t, c.Refused())
}
