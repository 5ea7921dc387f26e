package security

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
)

func now() time.Time { return time.Now() }

// An issuer signs tokens and serves its keys.
type issuer struct {
	t     testing.TB
	keys  atomic.Pointer[jose.JSONWebKeySet]
	asked atomic.Int32
	url   string
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	i := &issuer{t: t}
	i.keys.Store(&jose.JSONWebKeySet{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.asked.Add(1)
		_ = json.NewEncoder(w).Encode(i.keys.Load())
	}))
	t.Cleanup(s.Close)
	i.url = s.URL
	return i
}

func (i *issuer) add(id string, key crypto.Signer) crypto.Signer {
	set := *i.keys.Load()
	set.Keys = append(append([]jose.JSONWebKey{}, set.Keys...), jose.JSONWebKey{KeyID: id, Key: key.Public()})
	i.keys.Store(&set)
	return key
}

func sign(t testing.TB, alg jose.SignatureAlgorithm, id string, key any, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", id))
	require.NoError(t, err)
	token, err := jwt.Signed(s).Claims(claims).Serialize()
	require.NoError(t, err)
	return token
}

func claims(changes map[string]any) map[string]any {
	all := map[string]any{"iss": "https://issuer", "aud": []string{"braid", "other"}, "sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range changes {
		if v == nil {
			delete(all, k)
		} else {
			all[k] = v
		}
	}
	return all
}

func rsaKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return k
}

func verifier(t testing.TB, keys string) *TokenVerifier {
	t.Helper()
	v, err := NewTokenVerifier(TokenConfig{Issuer: "https://issuer", Audience: "braid", Keys: keys}, http.DefaultClient, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return v
}

func TestTokens(t *testing.T) {
	i := newIssuer(t)
	key := rsaKey(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	i.add("r", key)
	i.add("e", ec)
	v := verifier(t, i.url)
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	for alg, k := range map[jose.SignatureAlgorithm]crypto.Signer{jose.RS256: key, jose.PS512: key, jose.ES256: ec} {
		id := "r"
		if k == crypto.Signer(ec) {
			id = "e"
		}
		who, err := v.Verify(t.Context(), sign(t, alg, id, k, claims(map[string]any{"exp": expires.Unix()})))
		require.NoError(t, err, alg)
		require.Equal(t, User("alice"), who.Principal)
		require.True(t, expires.Add(30*time.Second).Equal(who.Expires), "clocks may differ")
	}
	for _, own := range []string{"ANONYMOUS", "braid-fleet"} {
		_, err := v.Verify(t.Context(), sign(t, jose.RS256, "r", key, claims(map[string]any{"sub": own})))
		require.ErrorContains(t, err, "braid's own")
	}
	require.EqualValues(t, 1, i.asked.Load(), "keys are kept")
	shared := make([]byte, 32)
	for name, token := range map[string]string{
		"other issuer":     sign(t, jose.RS256, "r", key, claims(map[string]any{"iss": "https://else"})),
		"no issuer":        sign(t, jose.RS256, "r", key, claims(map[string]any{"iss": nil})),
		"other audience":   sign(t, jose.RS256, "r", key, claims(map[string]any{"aud": "else"})),
		"no audience":      sign(t, jose.RS256, "r", key, claims(map[string]any{"aud": nil})),
		"expired":          sign(t, jose.RS256, "r", key, claims(map[string]any{"exp": time.Now().Add(-time.Minute).Unix()})),
		"no expiry":        sign(t, jose.RS256, "r", key, claims(map[string]any{"exp": nil})),
		"not yet":          sign(t, jose.RS256, "r", key, claims(map[string]any{"nbf": time.Now().Add(time.Minute).Unix()})),
		"no subject":       sign(t, jose.RS256, "r", key, claims(map[string]any{"sub": nil})),
		"subject a number": sign(t, jose.RS256, "r", key, claims(map[string]any{"sub": 7})),
		"another's key":    sign(t, jose.RS256, "r", rsaKey(t), claims(nil)),
		"shared key":       sign(t, jose.HS256, "r", shared, claims(nil)),
		"none":             "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.",
		"rubbish":          "x",
	} {
		_, err := v.Verify(t.Context(), token)
		require.Error(t, err, name)
	}
	// Clocks may differ by the skew.
	_, err = v.Verify(t.Context(), sign(t, jose.RS256, "r", key, claims(map[string]any{"exp": time.Now().Add(-10 * time.Second).Unix()})))
	require.NoError(t, err)
}

// A key that is new is fetched when a token needs it, but not for each token of a
// stranger; keys stay when the issuer is away.
func TestTokenKeysRotate(t *testing.T) {
	i := newIssuer(t)
	old := i.add("1", rsaKey(t))
	v := verifier(t, i.url)
	clock := time.Now()
	v.now = func() time.Time { return clock }
	_, err := v.Verify(t.Context(), sign(t, jose.RS256, "1", old, claims(nil)))
	require.NoError(t, err)
	fresh := i.add("2", rsaKey(t))
	for range 5 {
		_, err = v.Verify(t.Context(), sign(t, jose.RS256, "2", fresh, claims(nil)))
		require.Error(t, err)
	}
	require.EqualValues(t, 1, i.asked.Load())
	clock = clock.Add(keysRefreshSoon)
	_, err = v.Verify(t.Context(), sign(t, jose.RS256, "2", fresh, claims(nil)))
	require.NoError(t, err)
	i.keys.Store(&jose.JSONWebKeySet{})
	require.ErrorContains(t, v.refresh(t.Context()), "no keys")
	_, err = v.Verify(t.Context(), sign(t, jose.RS256, "1", old, claims(nil)))
	require.NoError(t, err)
}

// A set of keys that has shared ones, by mistake, lets nobody sign with them.
func TestTokenKeysFromAFile(t *testing.T) {
	key, shared := rsaKey(t), make([]byte, 32)
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "s", Key: shared}, {KeyID: "r", Key: key.Public()}}})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, os.WriteFile(file, b, 0o600))
	v := verifier(t, file)
	_, err = v.Verify(t.Context(), sign(t, jose.RS256, "r", key, claims(nil)))
	require.NoError(t, err)
	_, err = v.Verify(t.Context(), sign(t, jose.HS256, "s", shared, claims(nil)))
	require.Error(t, err)
}

func TestOAuthBearerWithAClient(t *testing.T) {
	i := newIssuer(t)
	key := i.add("1", rsaKey(t))
	a := NewAuthenticator(Mechanisms(), newUsers(t).find, verifier(t, i.url))
	token := sign(t, jose.RS256, "1", key, claims(nil))
	id, err := run(t, a.Start(OAuthBearer), oauth.Auth{Token: token, Extensions: map[string]string{"k": "v"}}.AsMechanism())
	require.NoError(t, err)
	require.Equal(t, User("alice"), id.Principal)
	require.False(t, a.Holds(*id, id.Expires))

	_, err = run(t, a.Start(OAuthBearer), oauth.Auth{Token: token, Zid: "alice"}.AsMechanism())
	require.NoError(t, err)

	// A token that is refused: the status first, the failure when the client has taken it.
	for _, first := range []string{"n,,\x01auth=Bearer x.y.z\x01\x01", "n,a=bob,\x01auth=Bearer " + token + "\x01\x01"} {
		x := a.Start(OAuthBearer)
		reply, id, err := x.Next(t.Context(), []byte(first))
		require.NoError(t, err)
		require.Nil(t, id)
		require.JSONEq(t, `{"status":"invalid_token"}`, string(reply))
		_, id, err = x.Next(t.Context(), []byte{1})
		require.Error(t, err)
		require.Nil(t, id)
	}
	for _, bad := range []string{"", "n,,", "n,,\x01\x01", "p=x,,\x01auth=Bearer t\x01\x01", "n,,\x01auth=Basic t\x01\x01", "n,,\x01auth=Bearer \x01\x01", "n,,\x01auth=Bearer t\x01", "n,b=x,\x01auth=Bearer t\x01\x01", "n,,\x01auth=Bearer t\x01auth=Bearer t\x01\x01"} {
		_, _, err := a.Start(OAuthBearer).Next(t.Context(), []byte(bad))
		require.Error(t, err, "%q", bad)
	}
}

func TestTokenConfig(t *testing.T) {
	for _, cfg := range []TokenConfig{{}, {Issuer: "i", Audience: "a"}, {Issuer: "i", Keys: "k"}, {Issuer: "i", Audience: "a", Keys: "ftp://x"}} {
		_, err := NewTokenVerifier(cfg, http.DefaultClient, slog.New(slog.DiscardHandler))
		require.ErrorContains(t, err, "--oauth-jwks")
	}
}
