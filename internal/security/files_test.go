package security

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// writeCertificate writes a self-signed certificate and its key.
func writeCertificate(t *testing.T, dir string, subject pkix.Name) TLSFiles {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: subject, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	f := TLSFiles{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	require.NoError(t, os.WriteFile(f.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(f.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
	return f
}

// age makes a file look changed, and the last look at it long ago.
func age[T any](t *testing.T, r *reloaded[T]) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checked = time.Time{}
}

func TestReloaded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	long := func(s string) string { return strings.Repeat(s, 40) }
	write := func(s string) { require.NoError(t, os.WriteFile(file, []byte(s), 0o600)) }
	var logs bytes.Buffer
	_, err := ReadSharedToken(file, slog.Default())
	require.Error(t, err)
	write("short")
	_, err = ReadSharedToken(file, slog.Default())
	require.ErrorContains(t, err, "32 characters")

	write(long("a"))
	r, err := newReloaded(slog.New(slog.NewTextHandler(&logs, nil)), func() (string, error) {
		b, err := os.ReadFile(file)
		if string(b) == "bad" {
			return "", os.ErrInvalid
		}
		return string(b), err
	}, file, "")
	require.NoError(t, err)
	write("changed")
	require.Equal(t, long("a"), r.get(), "not looked at again so soon")
	age(t, r)
	require.Equal(t, "changed", r.get())
	write("bad")
	age(t, r)
	require.Equal(t, "changed", r.get())
	require.Contains(t, logs.String(), "what was read before stays")
	require.NoError(t, os.Remove(file))
	age(t, r)
	require.Equal(t, "changed", r.get())
}

func TestSharedToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	fresh, old := strings.Repeat("n", 32), strings.Repeat("o", 32)
	require.NoError(t, os.WriteFile(file, []byte(fresh+"\n"+old+"\n"), 0o600))
	token, err := ReadSharedToken(file, slog.Default())
	require.NoError(t, err)
	require.Equal(t, fresh, token.Current())
	require.True(t, token.Is(fresh))
	require.True(t, token.Is(old))
	require.False(t, token.Is(""))
	require.False(t, token.Is(fresh+"\n"+old))
}

// A certificate that is replaced is shown to the next client.
func TestCertificatesAreReloaded(t *testing.T) {
	dir := t.TempDir()
	files := writeCertificate(t, dir, pkix.Name{CommonName: "first"})
	server, err := files.Server(slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	shown := func() string {
		config, err := server.GetConfigForClient(nil)
		require.NoError(t, err)
		c, err := x509.ParseCertificate(config.Certificates[0].Certificate[0])
		require.NoError(t, err)
		return c.Subject.CommonName
	}
	require.Equal(t, "first", shown())
	writeCertificate(t, dir, pkix.Name{CommonName: "second"})
	require.Eventually(t, func() bool { return shown() == "second" }, 10*time.Second, 50*time.Millisecond)

	files = writeCertificate(t, t.TempDir(), pkix.Name{CommonName: "client"})
	client, err := files.Client(slog.New(slog.DiscardHandler), files.Cert)
	require.NoError(t, err)
	own, err := client.Config().GetClientCertificate(&tls.CertificateRequestInfo{})
	require.NoError(t, err)
	require.NotEmpty(t, own.Certificate)
	require.NotNil(t, client.Config().RootCAs)
	_, err = files.Client(slog.New(slog.DiscardHandler), files.Key)
	require.ErrorContains(t, err, "no certificate")
}

func TestTLSFilesValidate(t *testing.T) {
	require.NoError(t, TLSFiles{}.Validate(""))
	require.NoError(t, TLSFiles{Cert: "c", Key: "k", ClientCA: "ca", ClientAuth: "required"}.Validate("kafka-"))
	for want, f := range map[string]TLSFiles{
		"--kafka-tls-key":       {Cert: "c"},
		"--kafka-tls-client-ca": {Cert: "c", Key: "k", ClientAuth: "required"},
		"want none, requested":  {Cert: "c", Key: "k", ClientAuth: "maybe"},
		"--kafka-tls-cert":      {ClientCA: "ca", ClientAuth: "requested"},
	} {
		require.ErrorContains(t, f.Validate("kafka-"), want)
	}
}

func TestPrincipalOfCertificate(t *testing.T) {
	files := writeCertificate(t, t.TempDir(), pkix.Name{CommonName: "Alice, Q", OrganizationalUnit: []string{"Eng"}, Organization: []string{"Acme"}, Country: []string{"DE"}})
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	require.NoError(t, err)
	for rules, want := range map[string]string{
		"":        `CN=Alice\, Q,OU=Eng,O=Acme,C=DE`,
		"DEFAULT": `CN=Alice\, Q,OU=Eng,O=Acme,C=DE`,
		`RULE:^CN=nobody.*$/x/,RULE:^CN=(\w+).*,OU=(.*?),.*$/$1@$2/L,DEFAULT`: "alice@eng",
		`RULE:^CN=(\w+).*$/$1/U`: "ALICE",
	} {
		r, err := ParsePrincipalRules(rules)
		require.NoError(t, err, rules)
		p, err := r.Principal(pair.Leaf)
		require.NoError(t, err, rules)
		require.Equal(t, User(want), p, rules)
	}
	r, err := ParsePrincipalRules(`RULE:^CN=bob$/bob/`)
	require.NoError(t, err)
	_, err = r.Principal(pair.Leaf)
	require.ErrorIs(t, err, errNoRule)
	for _, bad := range []string{"RULE:x", "RULE:x/y", "default", "RULE:(/y/", "DEFAULT RULE:x/y/"} {
		_, err := ParsePrincipalRules(bad)
		require.ErrorContains(t, err, "--tls-principal-rules", bad)
	}
	empty := writeCertificate(t, t.TempDir(), pkix.Name{})
	pair, err = tls.LoadX509KeyPair(empty.Cert, empty.Key)
	require.NoError(t, err)
	_, err = PrincipalRules{}.Principal(pair.Leaf)
	require.ErrorContains(t, err, "no subject")
}
