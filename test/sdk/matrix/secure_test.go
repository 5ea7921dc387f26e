//go:build real

package matrix_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/braidmq/braid/test/realparts"
	"github.com/braidmq/braid/test/sdk/matrix"
	"github.com/braidmq/braid/test/world"
)

const (
	user     = "alice"
	password = "matrix-horse-battery"
	issuer   = "https://issuer.example"
	audience = "braid"
)

// secured is what clients of a guarded federation need.
type secured struct {
	ca, truststore string
	jwt, token     string // of an issuer, and one that braid made
	tls            *tls.Config
}

// options are those of a client that is not under test.
func (s *secured) options() []kgo.Opt {
	return []kgo.Opt{kgo.DialTLSConfig(s.tls), kgo.SASL(scram.Auth{User: user, Pass: password}.AsSha512Mechanism())}
}

// secureFederation has TLS and all SASL mechanisms at the doors for Kafka clients.
func secureFederation(t *testing.T) *federation {
	t.Helper()
	authority := realparts.NewAuthority(t)
	certFile, keyFile := authority.Issue(t, "braid")
	dir := t.TempDir()
	fleet := filepath.Join(dir, "fleet.token")
	require.NoError(t, os.WriteFile(fleet, []byte(strings.Repeat("matrix", 8)), 0o600))
	s := &secured{ca: authority.CA, truststore: filepath.Join(dir, "truststore.p12")}
	keytool := realparts.Program{Name: "keytool", Packages: []string{"default-jdk-headless"}}.Path(t)
	require.NoError(t, realparts.Output(dir, keytool, "-importcert", "-noprompt", "-alias", "ca", "-file", s.ca,
		"-keystore", s.truststore, "-storetype", "PKCS12", "-storepass", matrix.TruststorePassword))
	pem, err := os.ReadFile(s.ca)
	require.NoError(t, err)
	s.tls = &tls.Config{RootCAs: x509.NewCertPool()}
	require.True(t, s.tls.RootCAs.AppendCertsFromPEM(pem))
	keys := filepath.Join(dir, "keys.json")
	s.jwt = issue(t, keys)

	door := []string{
		"--fleet-token-file", fleet, "--kafka-tls-cert", certFile, "--kafka-tls-key", keyFile,
		"--kafka-sasl-mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
		"--oauth-issuer", issuer, "--oauth-audience", audience, "--oauth-jwks", keys,
	}
	f := &federation{secure: s, World: world.Real(t, world.Options{Gateways: 2, Flags: map[string][]string{
		"controller": {"--fleet-token-file", fleet}, "gateway": door, "nameserver": door,
	}})}
	f.MustBraid(t, password, "credential", "create", user, "--password-file", "-")
	var made struct{ BearerToken string }
	out := f.MustBraid(t, "", "credential", "create", "bob", "-o", "json")
	require.NoError(t, json.Unmarshal([]byte(out), &made), out)
	require.NotEmpty(t, made.BearerToken, out)
	s.token = made.BearerToken
	return f
}

// issue writes an issuer's keys into a file, and returns a token of it.
func issue(t *testing.T, file string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "one", Key: key.Public()}}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, set, 0o600))
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "one"))
	require.NoError(t, err)
	token, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: issuer, Subject: "carol", Audience: jwt.Audience{audience}, IssuedAt: jwt.NewNumericDate(time.Now()), Expiry: jwt.NewNumericDate(time.Now().Add(12 * time.Hour)),
	}).Serialize()
	require.NoError(t, err)
	return token
}

// sasl has the client write and read as a user, or try to with what is wrong.
func (r *trial) sasl(t *testing.T, name string) {
	s := matrix.Settings{SASL: &matrix.SASL{CA: r.secure.ca, Truststore: r.secure.truststore, User: user, Password: password}}
	s.SASL.Mechanism = map[string]string{"sasl-plain": "PLAIN", "sasl-256": "SCRAM-SHA-256", "sasl-512": "SCRAM-SHA-512", "sasl-oauth": "OAUTHBEARER"}[r.feature]
	if r.feature == "sasl-oauth" {
		s.SASL.User, s.SASL.Password, s.SASL.Token = "", "", r.secure.token
	}
	switch name {
	case "JWT":
		s.SASL.Token = r.secure.jwt
	case "out":
		s.SASL.Password, s.SASL.Token = "not-"+s.SASL.Password, bend(s.SASL.Token)
		topic := r.newTopic(t)
		intruder := r.start(t, "produce", s, topic, "1", "1")
		intruder.Fails(patience)
		require.Empty(t, intruder.Records("sent"))
		return
	}
	topic, sent := r.writes(t, s)
	r.reads(t, s, topic, sent)
}

// bend makes a token that looks right and is not.
func bend(token string) string {
	if token == "" {
		return ""
	}
	last := token[len(token)-6:]
	return strings.TrimSuffix(token, last) + strings.Map(func(c rune) rune {
		if c == 'A' {
			return 'B'
		}
		return 'A'
	}, last)
}
