//go:build real

package embedded_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
	"github.com/braidmq/braid/test/realparts"
)

const clientSecret = "issuer-horse+battery"

// A tokenServer gives tokens for client credentials.
type tokenServer struct {
	*httptest.Server
	t      *testing.T
	signer jose.Signer
	keys   string // the file of its public keys

	life    atomic.Int64 // of tokens to come
	away    atomic.Bool
	asked   atomic.Int32 // while it was away
	refused atomic.Int32

	mu     sync.Mutex // guards the following
	issued []string
}

func newTokenServer(t *testing.T, authority *realparts.Authority) *tokenServer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	s := &tokenServer{t: t, keys: filepath.Join(t.TempDir(), "keys.json")}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "k", Key: key.Public(), Algorithm: "ES256", Use: "sig"}}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.keys, set, 0o600))
	s.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "k"))
	require.NoError(t, err)
	cert, err := tls.LoadX509KeyPair(authority.Issue(t, "issuer"))
	require.NoError(t, err)
	s.Server = httptest.NewUnstartedServer(s)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// token makes a token for an audience.
func (s *tokenServer) token(audience string, life time.Duration) string {
	now := time.Now()
	token, err := jwt.Signed(s.signer).Claims(map[string]any{
		"iss": "https://issuer.example", "aud": audience, "sub": "braid", "scope": "kafka", "iat": now.Unix(), "exp": now.Add(life).Unix(), "jti": rand.Text(),
	}).Serialize()
	if err != nil {
		s.t.Errorf("token: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued = append(s.issued, token)
	return token
}

func (s *tokenServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.issued)
}

// ServeHTTP implements http.Handler.
func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.away.Load() {
		s.asked.Add(1)
		panic(http.ErrAbortHandler) // closes the connection
	}
	w.Header().Set("Content-Type", "application/json")
	// RFC 6749, section 2.3.1: both are encoded as forms are.
	if id, secret, ok := r.BasicAuth(); !ok || id != "braid" || secret != "issuer-horse%2Bbattery" {
		s.refused.Add(1)
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
		return
	}
	if r.Method != http.MethodPost || r.FormValue("grant_type") != "client_credentials" {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"unsupported_grant_type"}`))
		return
	}
	life := time.Duration(s.life.Load())
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": s.token(r.FormValue("scope"), life), "token_type": "Bearer", "expires_in": int(life.Seconds())})
}

// A cluster whose brokers take the tokens of an issuer only: it is added, moved to, written
// and read, while tokens end, the issuer is away for a while, and secrets are wrong.
func TestRealClientCredentials(t *testing.T) {
	authority := realparts.NewAuthority(t)
	issuer := newTokenServer(t, authority)
	issuer.life.Store(int64(5 * time.Second))
	east := realparts.StartIssuedKafka(t, 256, authority, &realparts.Issuer{Name: "https://issuer.example", Audience: "kafka", Keys: issuer.keys}, 4*time.Second, "east")
	allow(t, adminOf(t, east), kadm.NewACLs().Topics("default.").ResourcePatternType(kadm.ACLPatternPrefixed).Operations(braidACLs...))
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	profile := func(name, rest string) {
		write(name+".yaml", "tls:\n  ca: "+authority.CA+"\nsasl:\n  mechanism: OAUTHBEARER\n"+rest)
	}
	from := func(url, secret, scope string) string {
		return fmt.Sprintf("  token-url: %s/token\n  token-ca: %s\n  client-id: braid\n  client-secret-file: %s\n  scope: %s\n", url, authority.CA, secret, scope)
	}
	lost := httptest.NewTLSServer(http.NotFoundHandler())
	lost.Close()
	write("secret", clientSecret+"\n")
	write("guess", "wrong-"+clientSecret)
	write("token", issuer.token("kafka", time.Hour))
	profile("issued", from(issuer.URL, "secret", "kafka"))
	profile("wrong", from(issuer.URL, "guess", "kafka"))
	profile("other", from(issuer.URL, "secret", "other"))
	profile("lost", from(lost.URL, "secret", "kafka"))
	profile("file", "  token-file: token\n")

	var logged vault
	var dials atomic.Int32
	f := embedded.New(t, embedded.Options{
		Logger:   slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Clusters: []embedded.Cluster{{Name: "home"}},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == east.SASL {
				dials.Add(1)
			}
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		},
		Configure: func(c *process.Config, _ int) { c.Access.ClusterSecurityDir = dir },
	})
	ctx := t.Context()
	topics := adminv1connect.NewTopicServiceClient(f.Client, f.APIURL())
	clusters := adminv1connect.NewClusterServiceClient(f.Client, f.APIURL())
	add := func(profile string) error {
		_, err := clusters.CreateCluster(ctx, &adminv1.CreateClusterRequest{Cluster: &adminv1.Cluster{Name: "physicalClusters/east", Bootstrap: []string{east.SASL}, SecurityProfile: profile}})
		return err
	}
	for profile, why := range map[string]string{
		"wrong": "the issuer gives no token: status 401 invalid_client; check token-url, client-id and client-secret-file",
		"lost":  "the issuer of tokens cannot be reached: connect: connection refused",
		"other": `{"status":"invalid_token"}`,
	} {
		err := add(profile)
		require.ErrorContains(t, err, `security profile "`+profile+`" (OAUTHBEARER as "braid")`)
		require.ErrorContains(t, err, why)
		require.NotContains(t, err.Error(), "/token", "where the issuer is")
		require.NotContains(t, err.Error(), clientSecret)
	}
	require.LessOrEqual(t, issuer.refused.Load(), int32(10), "who is refused asks again at most once a second")
	require.NoError(t, add("issued"))
	_, err := topics.CreateTopic(ctx, &adminv1.CreateTopicRequest{TopicId: "orders", Topic: &adminv1.Topic{PartitionCount: 4, ReplicationFactor: 1}})
	require.NoError(t, err)
	_, err = topics.MovePartitions(ctx, &adminv1.MovePartitionsRequest{Name: "logicalClusters/default/topics/orders", Partitions: []int32{0, 1, 2, 3}, PhysicalCluster: "east"})
	require.NoError(t, err)

	// An idempotent producer writes all the time.
	producer := kafka(t, f, kgo.DefaultProduceTopic("orders"))
	stop, stopped := make(chan struct{}), make(chan int, 1)
	failed := make(chan error, 100)
	go func() {
		n := 0
		defer func() { stopped <- n }()
		for ; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			producer.Produce(context.Background(), &kgo.Record{Key: fmt.Append(nil, n%16), Value: fmt.Append(nil, n)}, func(_ *kgo.Record, err error) {
				if err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			})
		}
	}()
	working := func(until func() bool) {
		t.Helper()
		require.Eventually(t, func() bool {
			select {
			case err := <-failed:
				t.Fatalf("a record failed: %v", err)
			default:
			}
			return until()
		}, 90*time.Second, 20*time.Millisecond)
	}
	// Tokens and sessions end, and are renewed in place.
	begun, before := issuer.count(), dials.Load()
	working(func() bool { return issuer.count() >= begun+6 })
	t.Logf("%d tokens, %d more connections", issuer.count()-begun, dials.Load()-before)

	// The issuer is away when tokens are not fresh any more: they still hold.
	issuer.life.Store(int64(20 * time.Second))
	begun = issuer.count()
	working(func() bool { return issuer.count() >= begun+2 }) // of the gateway and the controller
	before = dials.Load()
	issuer.away.Store(true)
	working(func() bool { return issuer.asked.Load() >= 2 })
	issuer.away.Store(false)
	begun = issuer.count()
	working(func() bool { return issuer.count() > begun })
	t.Logf("asked %d times while it was away, %d more connections", issuer.asked.Load(), dials.Load()-before)

	// A token in a file, which something else renews.
	_, err = clusters.UpdateCluster(ctx, &adminv1.UpdateClusterRequest{
		Cluster:    &adminv1.Cluster{Name: "physicalClusters/east", SecurityProfile: "file"},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"security_profile"}},
	})
	require.NoError(t, err)
	write("token", issuer.token("kafka", time.Hour))
	close(stop)
	sent := <-stopped
	require.NoError(t, producer.Flush(ctx))
	working(func() bool { return true })
	read := &seen{count: make(map[string]int)}
	read.join(t, f, "billing", "orders", func() {})
	require.Eventually(t, func() bool { return read.len() == sent }, patience, 50*time.Millisecond, "of %d", sent)
	require.Empty(t, read.twice())

	told := logged.String()
	issuer.mu.Lock()
	secrets := append(issuer.issued, clientSecret)
	issuer.mu.Unlock()
	for _, secret := range secrets {
		require.NotContains(t, told, secret)
	}
	require.Contains(t, told, "cluster=east", "something is there")
}
