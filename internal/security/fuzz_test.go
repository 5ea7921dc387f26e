package security

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"
)

// FuzzToken feeds bytes to the verifier of tokens: what it takes was signed by the issuer,
// whatever else a token says of keys and algorithms.
func FuzzToken(f *testing.F) {
	i := newIssuer(f)
	rsa := rsaKey(f)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(f, err)
	i.add("r", rsa)
	i.add("e", ec)
	v := verifier(f, i.url)
	good := map[string]bool{}
	for _, changes := range []map[string]any{nil, {"sub": "bob"}, {"nbf": 5, "iat": 6, "jti": "x"}, {"sub": 5}, {"exp": "soon"}, {"exp": 1e300}, {"aud": 1}} {
		for id, key := range map[string]crypto.Signer{"r": rsa, "e": ec, "": ec} {
			alg := jose.ES256
			if key == crypto.Signer(rsa) {
				alg = jose.RS256
			}
			token := sign(f, alg, id, key, claims(changes))
			good[token[:strings.LastIndexByte(token, '.')]] = true // what is signed
			f.Add(token)
		}
	}
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add(`{"payload":"e30","signatures":[]}`)
	f.Add("a.b.c.d.e")
	f.Fuzz(func(t *testing.T, token string) {
		id, err := v.Verify(t.Context(), token)
		if err != nil {
			return
		}
		signed, _, _ := strings.Cut(strings.TrimSpace(token), ".")
		require.NotEmpty(t, signed)
		require.NotEmpty(t, id.Principal.Name)
		require.False(t, id.Expires.IsZero())
		// A signature may be written in more than one way; what it is over may not.
		require.True(t, good[token[:strings.LastIndexByte(token, '.')]], "taken, and not signed: %q", token)
	})
}

// FuzzKeySet reads bytes as the keys of an issuer. Keys that it reads may refuse tokens,
// and may not make the verifier fall.
func FuzzKeySet(f *testing.F) {
	rsa := rsaKey(f)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(f, err)
	public, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(f, err)
	for _, keys := range [][]jose.JSONWebKey{
		{{KeyID: "r", Key: rsa.Public()}},
		{{KeyID: "e", Key: ec.Public(), Use: "sig", Algorithm: "ES256"}},
		{{KeyID: "r", Key: rsa.Public()}, {KeyID: "r", Key: ec.Public()}},
		{{KeyID: "o", Key: []byte("a shared key")}},
		{{KeyID: "d", Key: public}},
	} {
		b, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		require.NoError(f, err)
		f.Add(b)
	}
	f.Add([]byte(`{"keys":[{"kty":"RSA","kid":"r","n":"AQAB","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","kid":"r","n":"","e":"AA"},null,{}]}`))
	tokens := []string{sign(f, jose.RS256, "r", rsa, claims(nil)), sign(f, jose.ES256, "e", ec, claims(nil)), sign(f, jose.PS512, "", rsa, claims(nil))}
	file := filepath.Join(f.TempDir(), "keys.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		require.NoError(t, os.WriteFile(file, b, 0o600))
		v := verifier(t, file)
		err := v.refresh(t.Context())
		for _, token := range tokens {
			id, verr := v.Verify(t.Context(), token)
			if err != nil {
				require.Error(t, verr, "taken without keys")
			}
			if verr == nil {
				require.Equal(t, User("alice"), id.Principal)
			}
		}
	})
}

// FuzzCertificate takes principals of certificates, which a trusted authority may have
// signed with any subject.
func FuzzCertificate(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(f, err)
	for _, name := range []pkix.Name{
		{},
		{CommonName: "alice"},
		{CommonName: "a,b=c+d\\\"", Organization: []string{"x", "y"}, SerialNumber: "#1"},
		{ExtraNames: []pkix.AttributeTypeAndValue{{Type: []int{1, 2, 840, 113549, 1, 9, 1}, Value: "a@b"}, {Type: []int{0, 9, 2342}, Value: "x"}}},
	} {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: name}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		require.NoError(f, err)
		f.Add(der, "")
		f.Add(der, `RULE:^CN=(.*?),.*$/$1/L,DEFAULT`)
		c, err := x509.ParseCertificate(der)
		require.NoError(f, err)
		f.Add(c.RawSubject, "DEFAULT")
	}
	f.Fuzz(func(t *testing.T, der []byte, text string) {
		rules, err := ParsePrincipalRules(text)
		if err != nil {
			rules = PrincipalRules{}
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			c = &x509.Certificate{RawSubject: der, SerialNumber: big.NewInt(1)}
		}
		if p, err := rules.Principal(c); err == nil {
			require.False(t, Reserved(p.Name))
		}
	})
}
