package kafkacompat_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"io"
	"maps"
	"math/big"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/security"
	"github.com/braidmq/braid/kafkacompat"
)

// AlterCredentials implements kafkacompat.Credentials.
func (w *world) AlterCredentials(_ context.Context, user string, set []*federation.Credential, remove []federation.ScramMechanism) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := maps.Clone(w.Current().Credentials)
	if all == nil {
		all = make(map[federation.CredentialID]*federation.Credential)
	}
	for _, m := range remove {
		id := federation.CredentialID{User: user, Mechanism: m}
		if all[id] == nil {
			return federation.Errorf(federation.UnknownCredential, "user %q has no credential of %s", user, m)
		}
		delete(all, id)
	}
	for _, c := range set {
		all[c.CredentialID] = c
	}
	w.Change(func(m *federation.Map) { m.Credentials = all })
	return nil
}

// secured starts one more gateway, which asks its clients for alice's password.
func secured(t testing.TB, opts ...option) (*world, string) {
	t.Helper()
	w := newWorld(t)
	return w, w.secure(opts...)
}

func (w *world) secure(opts ...option) string {
	w.t.Helper()
	w.user("alice", "secret")
	w.auth = authenticatorOf(w)
	return w.addGateway("gw-0", 1, "", opts...) // in place of the open one
}

func authenticatorOf(w *world) *security.Authenticator {
	return security.NewAuthenticator(security.Mechanisms(), func(id federation.CredentialID) *federation.Credential { return w.Current().Credential(id) }, nil)
}

func (w *world) user(name, password string) {
	w.t.Helper()
	for _, m := range []federation.ScramMechanism{federation.ScramSHA256, federation.ScramSHA512} {
		c, err := security.NewCredential(federation.CredentialID{User: name, Mechanism: m}, password, 4096)
		require.NoError(w.t, err)
		require.NoError(w.t, w.AlterCredentials(w.t.Context(), name, []*federation.Credential{c}, nil))
	}
}

func (w *world) revoke(name string) {
	w.t.Helper()
	require.NoError(w.t, w.AlterCredentials(w.t.Context(), name, nil, []federation.ScramMechanism{federation.ScramSHA256, federation.ScramSHA512}))
}

func TestSaslClients(t *testing.T) {
	w, addr := secured(t)
	w.create("orders", 2, nil)
	for name, mechanism := range map[string]func(user, pass string) sasl.Mechanism{
		"scram-256": func(u, p string) sasl.Mechanism { return scram.Auth{User: u, Pass: p}.AsSha256Mechanism() },
		"scram-512": func(u, p string) sasl.Mechanism { return scram.Auth{User: u, Pass: p}.AsSha512Mechanism() },
		"plain":     func(u, p string) sasl.Mechanism { return plain.Auth{User: u, Pass: p}.AsMechanism() },
	} {
		t.Run(name, func(t *testing.T) {
			cl := w.client(kgo.SeedBrokers(addr), kgo.SASL(mechanism("alice", "secret")), kgo.DefaultProduceTopic("orders"))
			require.NoError(t, cl.ProduceSync(t.Context(), kgo.StringRecord(name)).FirstErr())
			node, err := kadm.NewClient(cl).DescribeBrokerConfigs(t.Context(), 1)
			require.NoError(t, err)
			require.Regexp(t, "^SASL_PLAINTEXT://", *node[0].Configs[0].Value, node[0].Configs[0].Key)
			for _, wrong := range []sasl.Mechanism{mechanism("alice", "wrong"), mechanism("bob", "secret")} {
				cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.SASL(wrong))
				require.NoError(t, err)
				require.ErrorIs(t, cl.Ping(t.Context()), kerr.SaslAuthenticationFailed)
				cl.Close()
			}
		})
	}
}

// Nothing but what is needed to authenticate is taken before.
func TestNothingBeforeAuthentication(t *testing.T) {
	w, addr := secured(t, func(c *kafkacompat.Config) { c.AuthenticationTimeout = 300 * time.Millisecond })
	w.create("orders", 1, nil)
	for name, req := range map[string]kmsg.Request{"metadata": kmsg.NewPtrMetadataRequest(), "fetch": kmsg.NewPtrFetchRequest(), "produce": kmsg.NewPtrProduceRequest(), "create": kmsg.NewPtrCreateTopicsRequest()} {
		c := dial(t, addr)
		require.Zero(t, exchange[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest(), 2).ErrorCode)
		c.send(req, 7)
		c.closed(name)
	}
	c := dial(t, addr)
	_, err := c.c.Write([]byte{0x01, 0, 0, 0, 0, 36, 0, 0, 0, 0, 0, 1})
	require.NoError(t, err)
	c.closed("16 MiB")
	c = dial(t, addr)
	start := time.Now()
	c.closed("silent")
	require.Greater(t, time.Since(start), 200*time.Millisecond)
	// SaslAuthenticate alone.
	c = dial(t, addr)
	require.Equal(t, kerr.IllegalSaslState.Code, exchange[*kmsg.SASLAuthenticateResponse](c, kmsg.NewPtrSASLAuthenticateRequest(), 2).ErrorCode)
	c.closed("no handshake")
}

func handshake(t *testing.T, c *raw, mechanism string, version int16) *kmsg.SASLHandshakeResponse {
	t.Helper()
	req := kmsg.NewPtrSASLHandshakeRequest()
	req.Mechanism = mechanism
	return exchange[*kmsg.SASLHandshakeResponse](c, req, version)
}

func authenticate(t *testing.T, c *raw, message string, version int16) *kmsg.SASLAuthenticateResponse {
	t.Helper()
	req := kmsg.NewPtrSASLAuthenticateRequest()
	req.SASLAuthBytes = []byte(message)
	return exchange[*kmsg.SASLAuthenticateResponse](c, req, version)
}

func TestSaslHandshake(t *testing.T) {
	w, addr := secured(t, func(c *kafkacompat.Config) { c.FailedAuthenticationDelay = 50 * time.Millisecond })
	c := dial(t, addr)
	resp := handshake(t, c, "GSSAPI", 1)
	require.Equal(t, kerr.UnsupportedSaslMechanism.Code, resp.ErrorCode)
	require.Equal(t, security.Mechanisms(), resp.SupportedMechanisms)
	c.closed("a mechanism that is not offered")

	c = dial(t, addr)
	require.Zero(t, handshake(t, c, "PLAIN", 1).ErrorCode)
	start := time.Now()
	failed := authenticate(t, c, "\x00alice\x00wrong", 2)
	require.Equal(t, kerr.SaslAuthenticationFailed.Code, failed.ErrorCode)
	require.NotContains(t, *failed.ErrorMessage, "alice")
	require.GreaterOrEqual(t, time.Since(start), 50*time.Millisecond)
	c.closed("a wrong password")

	// A listener that authenticates nobody says so, and goes on.
	c = w.dial()
	require.Equal(t, kerr.IllegalSaslState.Code, handshake(t, c, "PLAIN", 1).ErrorCode)
	require.Equal(t, kerr.IllegalSaslState.Code, authenticate(t, c, "\x00alice\x00secret", 2).ErrorCode)
	require.Zero(t, exchange[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest(), 0).ErrorCode)
}

// SaslHandshake v0: messages without headers, as old clients and sarama have them.
func TestSaslWithoutHeaders(t *testing.T) {
	w, addr := secured(t)
	w.create("orders", 1, nil)
	message := func(c *raw, text string) (string, error) {
		_, err := c.c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
		require.NoError(t, err)
		var head [4]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return "", err
		}
		b := make([]byte, binary.BigEndian.Uint32(head[:]))
		_, err = io.ReadFull(c.r, b)
		return string(b), err
	}
	c := dial(t, addr)
	require.Zero(t, handshake(t, c, "PLAIN", 0).ErrorCode)
	reply, err := message(c, "\x00alice\x00secret")
	require.NoError(t, err)
	require.Empty(t, reply)
	require.Len(t, exchange[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest(), 12).Topics, 1)
	require.Equal(t, kerr.IllegalSaslState.Code, handshake(t, c, "PLAIN", 0).ErrorCode, "messages without headers cannot be told from requests")

	mechanism := scram.Auth{User: "alice", Pass: "secret"}.AsSha256Mechanism()
	c = dial(t, addr)
	require.Zero(t, handshake(t, c, mechanism.Name(), 0).ErrorCode)
	session, first, err := mechanism.Authenticate(t.Context(), addr)
	require.NoError(t, err)
	for done, next := false, first; !done; {
		reply, err := message(c, string(next))
		require.NoError(t, err)
		done, next, err = session.Challenge([]byte(reply))
		require.NoError(t, err)
	}
	require.Len(t, exchange[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest(), 12).Topics, 1)

	c = dial(t, addr)
	require.Zero(t, handshake(t, c, "PLAIN", 0).ErrorCode)
	_, err = message(c, "\x00alice\x00wrong")
	require.Error(t, err)
}

func TestReauthentication(t *testing.T) {
	w, addr := secured(t, func(c *kafkacompat.Config) { c.ReauthMax = 700 * time.Millisecond })
	w.create("orders", 1, nil)
	w.user("bob", "secret")
	known := func() *raw {
		c := dial(t, addr)
		require.Zero(t, handshake(t, c, "PLAIN", 1).ErrorCode)
		resp := authenticate(t, c, "\x00alice\x00secret", 1)
		require.Zero(t, resp.ErrorCode)
		require.Positive(t, resp.SessionLifetimeMillis)
		require.LessOrEqual(t, resp.SessionLifetimeMillis, int64(700))
		return c
	}
	metadata := func(c *raw) { exchange[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest(), 12) }

	// Who does not authenticate again is out; who does goes on, also late.
	idle, again, other := known(), known(), known()
	<-time.After(750 * time.Millisecond) // nothing but time ends a session
	idle.send(kmsg.NewPtrMetadataRequest(), 12)
	idle.closed("the session has ended")
	require.Zero(t, handshake(t, again, "SCRAM-SHA-256", 1).ErrorCode)
	require.Zero(t, handshake(t, again, "PLAIN", 1).ErrorCode)
	require.Zero(t, authenticate(t, again, "\x00alice\x00secret", 2).ErrorCode)
	metadata(again)

	require.Zero(t, handshake(t, other, "PLAIN", 1).ErrorCode)
	require.Equal(t, kerr.SaslAuthenticationFailed.Code, authenticate(t, other, "\x00bob\x00secret", 2).ErrorCode)
	other.closed("another principal")

	// franz-go does it by itself.
	cl := w.client(kgo.SeedBrokers(addr), kgo.SASL(scram.Auth{User: "alice", Pass: "secret"}.AsSha512Mechanism()), kgo.DefaultProduceTopic("orders"))
	for begin := time.Now(); time.Since(begin) < time.Second; {
		require.NoError(t, cl.ProduceSync(t.Context(), kgo.StringRecord("x")).FirstErr())
	}
}

func TestRevokedCredentialsEndConnections(t *testing.T) {
	w, addr := secured(t)
	w.create("orders", 1, nil)
	c := dial(t, addr)
	require.Zero(t, handshake(t, c, "PLAIN", 1).ErrorCode)
	resp := authenticate(t, c, "\x00alice\x00secret", 2)
	require.Zero(t, resp.ErrorCode)
	require.Zero(t, resp.SessionLifetimeMillis)
	w.user("alice", "changed") // under way
	require.Len(t, exchange[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest(), 12).Topics, 1)
	w.revoke("alice")
	c.send(kmsg.NewPtrMetadataRequest(), 12)
	c.closed("revoked")
	c = dial(t, addr)
	require.Zero(t, handshake(t, c, "PLAIN", 1).ErrorCode)
	require.Equal(t, kerr.SaslAuthenticationFailed.Code, authenticate(t, c, "\x00alice\x00changed", 2).ErrorCode)
}

func TestScramUsers(t *testing.T) {
	w := newWorld(t)
	adm := kadm.NewClient(w.client())
	upsert := func(user string, m kadm.ScramMechanism, iterations int32) kadm.UpsertSCRAM {
		return kadm.UpsertSCRAM{User: user, Mechanism: m, Iterations: iterations, Password: "pw"}
	}
	altered, err := adm.AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{upsert("carol", kadm.ScramSha256, 4096), upsert("carol", kadm.ScramSha512, 5000)})
	require.NoError(t, err)
	require.NoError(t, altered["carol"].Err)
	w.auth = security.NewAuthenticator(security.Mechanisms(), w.Current().Credential, nil)
	_, err = w.auth.CheckPassword(t.Context(), "carol", "pw")
	require.NoError(t, err)

	described, err := adm.DescribeUserSCRAMs(t.Context())
	require.NoError(t, err)
	require.Len(t, described, 1)
	require.Equal(t, []kadm.CredInfo{{Mechanism: kadm.ScramSha256, Iterations: 4096}, {Mechanism: kadm.ScramSha512, Iterations: 5000}}, described["carol"].CredInfos)
	described, err = adm.DescribeUserSCRAMs(t.Context(), "dave")
	require.NoError(t, err)
	require.ErrorIs(t, described["dave"].Err, kerr.ResourceNotFound)

	deletion := kmsg.NewAlterUserSCRAMCredentialsRequestDeletion()
	deletion.Name, deletion.Mechanism = "carol", 1
	req := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
	alter := func(d ...kmsg.AlterUserSCRAMCredentialsRequestDeletion) int16 {
		req.Deletions = d
		return exchange[*kmsg.AlterUserSCRAMCredentialsResponse](w.dial(), req, 0).Results[0].ErrorCode
	}
	require.Equal(t, kerr.DuplicateResource.Code, alter(deletion, deletion))
	require.Zero(t, alter(deletion))
	require.Equal(t, kerr.ResourceNotFound.Code, alter(deletion))
	req.Upsertions = []kmsg.AlterUserSCRAMCredentialsRequestUpsertion{{Name: "dave", Mechanism: 1, Iterations: 100, Salt: []byte("salt"), SaltedPassword: make([]byte, 32)}}
	require.Equal(t, kerr.UnacceptableCredential.Code, alter())
	req.Upsertions = nil
	deletion.Mechanism = 7
	require.Equal(t, kerr.UnsupportedSaslMechanism.Code, alter(deletion))
	twice := kmsg.NewPtrDescribeUserSCRAMCredentialsRequest()
	twice.Users = []kmsg.DescribeUserSCRAMCredentialsRequestUser{{Name: "carol"}, {Name: "carol"}}
	require.Equal(t, kerr.DuplicateResource.Code, exchange[*kmsg.DescribeUserSCRAMCredentialsResponse](w.dial(), twice, 0).Results[0].ErrorCode)
}

// certificate makes a certificate that a parent, or itself, signs.
func certificate(t *testing.T, name string, parent *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: parent == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	signer, by := c, any(key)
	if parent != nil {
		signer, by = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, c, signer, &key.PublicKey, by)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestTLSListener(t *testing.T) {
	w, _ := secured(t)
	w.create("orders", 2, nil)
	ca := certificate(t, "ca", nil)
	pool := x509.NewCertPool()
	pool.AddCert(ca.Leaf)
	w.tls = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate(t, "gateway", &ca)}}
	addr := w.addGateway("gw-0", 1, "", func(c *kafkacompat.Config) { c.AuthenticationTimeout = 2 * time.Second })
	as := func(pass string) kgo.Opt {
		return kgo.SASL(scram.Auth{User: "alice", Pass: pass}.AsSha256Mechanism())
	}
	secure := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	cl := w.client(kgo.SeedBrokers(addr), kgo.DialTLSConfig(secure), as("secret"), kgo.DefaultProduceTopic("orders"), kgo.ConsumeTopics("orders"))
	big := make([]byte, 900<<10) // above a record of TLS, and of what is gathered
	require.NoError(t, cl.ProduceSync(t.Context(), &kgo.Record{Value: big}, kgo.StringRecord("small")).FirstErr())
	n := 0
	for n < 2 {
		fetched := cl.PollFetches(t.Context())
		require.NoError(t, fetched.Err())
		n += fetched.NumRecords()
	}
	wrong := w.client(kgo.SeedBrokers(addr), kgo.DialTLSConfig(secure), as("wrong"))
	require.ErrorIs(t, wrong.Ping(t.Context()), kerr.SaslAuthenticationFailed)
	c := dial(t, addr) // without TLS
	c.send(kmsg.NewPtrApiVersionsRequest(), 0)
	c.closed("no TLS")

	// Certificates instead of passwords; the handshake asks for one.
	w.auth, w.tls = nil, w.tls.Clone()
	w.tls.ClientAuth, w.tls.ClientCAs = tls.RequireAndVerifyClientCert, pool
	seen := make(chan string, 10)
	w.certificates = func(c *x509.Certificate) (security.Principal, error) {
		seen <- c.Subject.String()
		return security.User(c.Subject.String()), nil
	}
	addr = w.addGateway("gw-0", 1, "")
	mine := secure.Clone()
	mine.Certificates = []tls.Certificate{certificate(t, "alice", &ca)}
	require.NoError(t, w.client(kgo.SeedBrokers(addr), kgo.DialTLSConfig(mine)).Ping(t.Context()))
	require.Equal(t, "CN=alice", <-seen)
	none, err := tls.Dial("tcp", addr, secure)
	if err == nil { // with TLS 1.3 the client learns it at its first read
		_, err = none.Read(make([]byte, 1))
	}
	require.Error(t, err)
}

// A right password that cannot be checked in time is not told that it is wrong, which
// clients take for final: the connection is closed, and the client comes again.
func TestTooBusyIsNoFailedAuthentication(t *testing.T) {
	w := newWorld(t)
	w.user("alice", "secret")
	w.user("slow", "secret")
	blocked, open := make(chan struct{}), make(chan struct{})
	var asked sync.Map // how often for each user
	w.auth = security.NewAuthenticator(security.Mechanisms(), func(id federation.CredentialID) *federation.Credential {
		n, _ := asked.LoadOrStore(id, new(atomic.Int32))
		// The first time is before it waits for its turn.
		if strings.HasPrefix(id.User, "slow") && n.(*atomic.Int32).Add(1) == 2 && id.Mechanism == federation.ScramSHA256 {
			blocked <- struct{}{}
			<-open
		}
		return w.Current().Credential(id)
	}, nil)
	var once sync.Once
	release := func() { once.Do(func() { close(open) }) }
	t.Cleanup(release)
	addr := w.addGateway("gw-0", 1, "", func(c *kafkacompat.Config) { c.AuthenticationTimeout = 500 * time.Millisecond })
	send := func(message string) (*raw, *kmsg.SASLAuthenticateRequest, int32) {
		c := dial(t, addr)
		require.Zero(t, handshake(t, c, "PLAIN", 1).ErrorCode)
		req := kmsg.NewPtrSASLAuthenticateRequest()
		req.SASLAuthBytes = []byte(message)
		return c, req, c.send(req, 2)
	}
	for i := range max(1, runtime.GOMAXPROCS(0)/2) { // all processors that passwords may take
		send("\x00slow" + strconv.Itoa(i) + "\x00guess")
		<-blocked
	}
	c, _, _ := send("\x00alice\x00secret")
	c.closed("too busy")

	// An SDK goes on trying until there is room.
	cl := w.client(kgo.SeedBrokers(addr), kgo.SASL(plain.Auth{User: "alice", Pass: "secret"}.AsMechanism()))
	pinged := make(chan error, 1)
	go func() { pinged <- cl.Ping(t.Context()) }()
	c, _, _ = send("\x00alice\x00secret")
	c.closed("too busy still")
	select {
	case err := <-pinged:
		t.Fatalf("the client gave up: %v", err)
	default:
	}
	release()
	require.NoError(t, <-pinged)
	c, req, corr := send("\x00alice\x00wrong")
	require.Equal(t, kerr.SaslAuthenticationFailed.Code, c.receive(req, corr).(*kmsg.SASLAuthenticateResponse).ErrorCode)
}
