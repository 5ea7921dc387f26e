package embedded_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/oauth"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
	"github.com/braidmq/braid/internal/security"
	"github.com/braidmq/braid/test/realparts"
)

// servedBy returns whose logical cluster a client meets: default, a tenant, or nobody.
func servedBy(t *testing.T, f *embedded.Federation, opts ...kgo.Opt) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	client, err := kgo.NewClient(append(opts, kgo.RequestRetries(1))...)
	require.NoError(t, err)
	defer client.Close()
	metadata, err := kadm.NewClient(client).BrokerMetadata(ctx)
	require.NoError(t, ctx.Err(), "no answer at all")
	if err != nil {
		return "nobody"
	}
	tenants, err := adminv1connect.NewTenantServiceClient(f.Client, f.APIURL()).ListTenants(ctx, &adminv1.ListTenantsRequest{})
	require.NoError(t, err)
	for _, tenant := range tenants.GetTenants() {
		if tenant.GetClusterId() == metadata.Cluster {
			return tenant.GetName()[len("tenants/"):]
		}
	}
	return "default"
}

func createTenants(t *testing.T, f *embedded.Federation, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := adminv1connect.NewTenantServiceClient(f.Client, f.APIURL()).CreateTenant(t.Context(), &adminv1.CreateTenantRequest{TenantId: name})
		require.NoError(t, err)
	}
}

// By the name in the handshake, and by the certificate.
func TestTLSChoosesTenants(t *testing.T) {
	authority := realparts.NewAuthority(t)
	cert, key := authority.Issue(t, "server")
	const host = "gw.test"
	f := embedded.New(t, embedded.Options{Brokers: 1, FleetToken: fleetToken, Configure: func(c *process.Config, _ int) {
		if c.Role != process.Gateway {
			return
		}
		c.Access.Kafka = security.TLSFiles{Cert: cert, Key: key, ClientCA: authority.CA, ClientAuth: security.ClientAuthRequested}
		c.Access.PrincipalRules = "RULE:CN=(.*)/$1/"
		c.Tenants, c.TenantSNI, c.KafkaAdvertise = true, true, host+":9092"
		c.TenantKafkaListen = map[string]string{"beta": "127.0.0.1:0"}
	}})
	createTenants(t, f, "acme", "beta")
	gateway := f.Gateways()[0]
	// Names lead to the gateway, whatever the port: there is no DNS.
	via := func(address, serverName, user string) []kgo.Opt {
		cfg := &tls.Config{InsecureSkipVerify: true, ServerName: serverName} // it is about the name that is sent
		if user != "" {
			certFile, keyFile := authority.Issue(t, user)
			pair, err := tls.LoadX509KeyPair(certFile, keyFile)
			require.NoError(t, err)
			cfg.Certificates = []tls.Certificate{pair}
		}
		dialer := &tls.Dialer{Config: cfg}
		return []kgo.Opt{kgo.SeedBrokers(address), kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		})}
	}
	common, own := gateway.KafkaAddress(), gateway.TenantKafkaAddress("beta")
	for _, c := range []struct{ address, serverName, user, want string }{
		{common, "", "", "default"},
		{common, host, "", "default"},
		{common, "elsewhere.test", "", "default"},
		{common, "acme." + host, "", "acme"},
		{common, "ACME." + host, "", "acme"},
		{common, "beta." + host, "", "beta"},
		{common, "ghost." + host, "", "nobody"},
		{common, "", "alice", "default"},
		{common, "", "acme/alice", "acme"},
		{common, "", "ghost/alice", "nobody"},
		{common, "", "acme/braid-fleet", "nobody"},
		{common, "", "acme/", "nobody"},
		{common, "acme." + host, "acme/alice", "acme"},
		{common, "acme." + host, "beta/alice", "nobody"},
		{common, "acme." + host, "alice", "nobody"},
		{common, "acme." + host, "acme/ANONYMOUS", "nobody"},
		{own, "", "", "beta"},
		{own, "acme." + host, "", "beta"},
		{own, "", "beta/alice", "beta"},
		{own, "", "acme/alice", "nobody"},
	} {
		require.Equal(t, c.want, servedBy(t, f, via(c.address, c.serverName, c.user)...), "server name %q, certificate of %q", c.serverName, c.user)
	}
	// Clients of a tenant are sent to its name.
	client, err := kgo.NewClient(via(common, "acme."+host, "")...)
	require.NoError(t, err)
	defer client.Close()
	brokers, err := kadm.NewClient(client).ListBrokers(t.Context())
	require.NoError(t, err)
	require.Equal(t, "acme."+host, brokers[0].Host)
}

// A signer issues tokens.
type signer struct {
	key  *ecdsa.PrivateKey
	file string // the keys
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	public, err := key.PublicKey.Bytes() // 4, x, y
	require.NoError(t, err)
	encode := base64.RawURLEncoding.EncodeToString
	keys, err := json.Marshal(map[string]any{"keys": []map[string]string{{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k", "x": encode(public[1:33]), "y": encode(public[33:])}}})
	require.NoError(t, err)
	s := &signer{key, filepath.Join(t.TempDir(), "keys.json")}
	require.NoError(t, os.WriteFile(s.file, keys, 0o600))
	return s
}

func (s *signer) token(t *testing.T, subject string) string {
	t.Helper()
	encode := base64.RawURLEncoding.EncodeToString
	claims, err := json.Marshal(map[string]any{"iss": "https://issuer", "aud": "braid", "sub": subject, "exp": time.Now().Add(time.Hour).Unix()})
	require.NoError(t, err)
	signed := encode([]byte(`{"alg":"ES256","kid":"k"}`)) + "." + encode(claims)
	digest := sha256.Sum256([]byte(signed))
	r, v, err := ecdsa.Sign(rand.Reader, s.key, digest[:])
	require.NoError(t, err)
	return signed + "." + encode(append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...))
}

// By the subject of a token, which always has to name the tenant, at either door.
func TestTokensChooseTenants(t *testing.T) {
	issuer := newSigner(t)
	f := embedded.New(t, embedded.Options{Brokers: 1, FleetToken: fleetToken, Configure: func(c *process.Config, _ int) {
		if c.Role == process.Gateway {
			c.Access.ConnectRequired, c.Access.SaslMechanisms = true, []string{security.OAuthBearer}
			c.Access.Tokens = security.TokenConfig{Issuer: "https://issuer", Audience: "braid", Keys: issuer.file}
			c.Tenants, c.TenantKafkaListen = true, map[string]string{"beta": "127.0.0.1:0"}
		}
	}})
	createTenants(t, f, "acme", "beta")
	common, own := f.Gateways()[0].KafkaAddress(), f.Gateways()[0].TenantKafkaAddress("beta")
	for _, c := range []struct{ address, subject, want string }{
		{common, "alice", "default"},
		{common, "acme/alice", "acme"},
		{common, "beta/alice", "beta"},
		{common, "ghost/alice", "nobody"},
		{common, "acme/braid-fleet", "nobody"},
		{common, "acme/ANONYMOUS", "nobody"},
		{own, "beta/alice", "beta"},
		{own, "alice", "nobody"},
		{own, "acme/alice", "nobody"},
	} {
		token := issuer.token(t, c.subject)
		require.Equal(t, c.want, servedBy(t, f, kgo.SeedBrokers(c.address), kgo.SASL(oauth.Auth{Token: token}.AsMechanism())), c.subject)
		if c.address == own {
			continue
		}
		topics, err := adminv1connect.NewTopicServiceClient(as(t, "Bearer "+token), f.APIURL()).CreateTopic(t.Context(), &adminv1.CreateTopicRequest{TopicId: "by-token", Topic: &adminv1.Topic{PartitionCount: 1}})
		if c.want == "nobody" {
			requireUnauthenticated(t, err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, "logicalClusters/"+c.want+"/topics/by-token", topics.GetTopic().GetName())
	}
}
