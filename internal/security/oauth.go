package security

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/braidmq/braid/federation"
)

// tokenAlgorithms are those that prove who signed with a public key: "none" and shared
// keys are not among them.
var tokenAlgorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512,
}

// TokenConfig says whose tokens are taken. Issuer, Audience and Keys are needed.
type TokenConfig struct {
	// Issuer is what tokens must have as iss.
	Issuer string
	// Audience is what tokens must have in aud.
	Audience string
	// Keys is the URL or the file of the issuer's keys, a JSON Web Key Set.
	Keys string
	// Claim is the claim that names the user; sub by default.
	Claim string
	// Skew is how far clocks may differ; 30 s by default, negative = not at all.
	Skew time.Duration
	// Refresh is the time between two looks at the keys; 1 h by default.
	Refresh time.Duration
}

// Bounds of tokens and keys.
const (
	tokenBytesMax   = 64 << 10
	keysBytesMax    = 1 << 20
	keysTimeout     = 10 * time.Second
	keysRefreshSoon = 10 * time.Second // least time between looks for a key that is not known
)

// A TokenVerifier checks JSON Web Tokens of one issuer. It is safe for concurrent use.
type TokenVerifier struct {
	cfg    TokenConfig
	client *http.Client
	log    *slog.Logger
	now    func() time.Time

	fetching sync.Mutex // held while keys are fetched

	mu      sync.Mutex // guards the following
	keys    jose.JSONWebKeySet
	tried   time.Time     // the last look at the keys
	failed  bool          // the last look did
	looking chan struct{} // closed at the end of a look for a key that is not known; nil = none is under way
}

// NewTokenVerifier makes a verifier; keys are fetched when the first token comes, or by
// Run. client fetches them.
func NewTokenVerifier(cfg TokenConfig, client *http.Client, log *slog.Logger) (*TokenVerifier, error) {
	if cfg.Issuer == "" || cfg.Audience == "" || cfg.Keys == "" {
		return nil, errors.New("tokens need an issuer, an audience and keys: set --oauth-issuer, --oauth-audience and --oauth-jwks")
	}
	if u, err := url.Parse(cfg.Keys); err != nil || u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "file" {
		return nil, fmt.Errorf("--oauth-jwks %q: want an http or https URL, or a file", cfg.Keys)
	}
	if cfg.Claim == "" {
		cfg.Claim = "sub"
	}
	if cfg.Skew == 0 {
		cfg.Skew = 30 * time.Second
	}
	cfg.Skew = max(0, cfg.Skew)
	if cfg.Refresh == 0 {
		cfg.Refresh = time.Hour
	}
	return &TokenVerifier{cfg: cfg, client: client, log: log, now: time.Now}, nil
}

// Run keeps the keys fresh until ctx ends. Keys that cannot be fetched stay as they are.
func (v *TokenVerifier) Run(ctx context.Context) error {
	for {
		wait := v.cfg.Refresh
		if err := v.refresh(ctx); err != nil && ctx.Err() == nil {
			v.log.Warn("the keys of the token issuer could not be read; those that were read before are used", "from", v.cfg.Keys, "err", err)
			wait = min(wait, 4*keysRefreshSoon)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

func (v *TokenVerifier) refresh(ctx context.Context) error {
	v.fetching.Lock()
	defer v.fetching.Unlock()
	v.mu.Lock()
	v.tried = v.now()
	v.mu.Unlock()
	set, err := v.fetch(ctx)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failed = err != nil; err != nil {
		return err
	}
	v.keys = set
	return nil
}

func (v *TokenVerifier) fetch(ctx context.Context) (set jose.JSONWebKeySet, err error) {
	var b []byte
	if strings.HasPrefix(v.cfg.Keys, "http") {
		b, err = v.download(ctx)
	} else {
		b, err = os.ReadFile(strings.TrimPrefix(v.cfg.Keys, "file://"))
	}
	if err != nil {
		return set, err
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return set, fmt.Errorf("no JSON Web Key Set: %w", err)
	}
	if len(set.Keys) == 0 {
		return set, errors.New("the JSON Web Key Set has no keys")
	}
	return set, nil
}

func (v *TokenVerifier) download(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.cfg.Keys, nil)
	if err != nil {
		return nil, err
	}
	resp, err := v.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answered %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, keysBytesMax))
}

// key finds the keys of an id. One that is not known is looked for at the issuer, as a
// new one may have come; not more often than each keysRefreshSoon, whoever asks. Until it
// was looked for, whether the token is good is not decided.
func (v *TokenVerifier) key(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	keys, looking := v.held(ctx, id)
	if len(keys) > 0 {
		return keys, nil
	}
	if looking == nil {
		return nil, busyError("the token is signed with a key that is not among the issuer's, which were read a moment ago")
	}
	select {
	case <-looking:
	case <-ctx.Done():
		return nil, errNoKeys
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	keys = v.keysLocked(id)
	switch {
	case len(keys) > 0:
		return keys, nil
	case v.failed:
		return nil, errNoKeys
	}
	return nil, errors.New("the token is signed with a key that is not among the issuer's")
}

// errNoKeys is the answer to a token while the issuer's keys cannot be read.
var errNoKeys = federation.Errorf(federation.StoreUnavailable, "the keys of the token issuer cannot be read, so the token cannot be checked; try again")

// held returns the keys of an id, or else what is closed when they were looked for; nil
// if that was done a moment ago.
func (v *TokenVerifier) held(ctx context.Context, id string) ([]jose.JSONWebKey, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if keys := v.keysLocked(id); len(keys) > 0 {
		return keys, nil
	}
	switch {
	case v.looking != nil:
		return nil, v.looking
	case v.now().Sub(v.tried) < keysRefreshSoon && v.failed:
		failed := make(chan struct{})
		close(failed)
		return nil, failed
	case v.now().Sub(v.tried) < keysRefreshSoon:
		return nil, nil
	}
	done := make(chan struct{})
	v.looking = done
	go func() {
		// Whoever asks may go away: others wait for the same keys.
		if err := v.refresh(context.WithoutCancel(ctx)); err != nil {
			v.log.Warn("the keys of the token issuer could not be read", "from", v.cfg.Keys, "err", err)
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.looking = nil
		close(done)
	}()
	return nil, done
}

func (v *TokenVerifier) keysLocked(id string) []jose.JSONWebKey {
	if id == "" {
		return v.keys.Keys
	}
	return v.keys.Key(id)
}

// Verify checks a token: signature, issuer, audience and times.
func (v *TokenVerifier) Verify(ctx context.Context, token string) (*Identity, error) {
	if len(token) > tokenBytesMax {
		return nil, fmt.Errorf("a token of %d bytes: want at most %d", len(token), tokenBytesMax)
	}
	parsed, err := jwt.ParseSigned(token, tokenAlgorithms)
	if err != nil {
		return nil, fmt.Errorf("the token cannot be read: %w", err)
	}
	if len(parsed.Headers) != 1 {
		return nil, errors.New("the token has not exactly one signature")
	}
	want := jwt.Expected{Issuer: v.cfg.Issuer, AnyAudience: jwt.Audience{v.cfg.Audience}, Time: v.now()}
	var claims jwt.Claims
	// Those of strangers are refused before a key is looked for.
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil {
		return nil, fmt.Errorf("the token cannot be read: %w", err)
	}
	if err := claims.ValidateWithLeeway(want, v.cfg.Skew); err != nil {
		return nil, fmt.Errorf("the token is not valid: %w", err)
	}
	keys, err := v.key(ctx, parsed.Headers[0].KeyID)
	if err != nil {
		return nil, err
	}
	claims = jwt.Claims{}
	all := make(map[string]any)
	err = errors.New("no key of the issuer is a public one")
	for _, k := range keys {
		if !k.IsPublic() {
			continue // a shared key would make whoever checks tokens able to sign them
		}
		if err = parsed.Claims(k.Key, &claims, &all); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the token's signature does not hold: %w", err)
	}
	if err := claims.ValidateWithLeeway(want, v.cfg.Skew); err != nil {
		return nil, fmt.Errorf("the token is not valid: %w", err)
	}
	if claims.Expiry == nil {
		return nil, errors.New("the token does not expire")
	}
	name, _ := all[v.cfg.Claim].(string)
	if name == "" {
		return nil, fmt.Errorf("the token has no claim %q that is a text", v.cfg.Claim)
	}
	if Reserved(name) {
		return nil, fmt.Errorf("the token names %q, which is braid's own", name)
	}
	return &Identity{Principal: User(name), Method: OAuthBearer, Expires: claims.Expiry.Time().Add(v.cfg.Skew)}, nil
}

// oauthBearer is the mechanism OAUTHBEARER (RFC 7628).
type oauthBearer struct {
	a      *Authenticator
	failed error // told when the client has acknowledged it
}

// Next implements Exchange. A token that is refused is answered with the status first,
// and the authentication fails when the client has taken that: it is what clients wait for.
func (o *oauthBearer) Next(ctx context.Context, message []byte) ([]byte, *Identity, error) {
	if o.failed != nil {
		return nil, nil, o.failed
	}
	authzid, token, err := parseOAuthBearer(string(message))
	if err != nil {
		return nil, nil, err
	}
	id, err := o.a.CheckToken(ctx, token)
	if err == nil && authzid != "" && authzid != id.Principal.Name {
		err = errors.New("the authorization id differs from the token's user")
	}
	if Undecided(err) {
		return nil, nil, err
	}
	if err != nil {
		o.failed = err
		return []byte(`{"status":"invalid_token"}`), nil, nil //nolint:nilerr // told when the client has taken the status
	}
	return nil, id, nil
}

// parseOAuthBearer reads "n,[a=AUTHZID],^Aauth=Bearer TOKEN^A[KEY=VALUE^A]^A".
func parseOAuthBearer(s string) (authzid, token string, err error) {
	header, rest, ok := strings.Cut(s, "\x01")
	if !ok {
		return "", "", errors.New("the header is cut off")
	}
	flag, name, ok := strings.Cut(strings.TrimSuffix(header, ","), ",")
	switch {
	case !ok || !strings.HasSuffix(header, ",") || flag != "n" && flag != "y":
		return "", "", errors.New("the header is not that of a message without channel binding")
	case name != "" && !strings.HasPrefix(name, "a="):
		return "", "", errors.New("the authorization id does not begin with a=")
	case name != "":
		if authzid, err = saslName(name[len("a="):]); err != nil {
			return "", "", err
		}
	}
	pairs, ok := strings.CutSuffix(rest, "\x01\x01")
	if !ok {
		return "", "", errors.New("the message is cut off")
	}
	for pair := range strings.SplitSeq(pairs, "\x01") {
		key, value, _ := strings.Cut(pair, "=")
		if key != "auth" {
			continue // an extension; none is used
		}
		scheme, t, ok := strings.Cut(value, " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") || token != "" {
			return "", "", errors.New("the message has not exactly one bearer token")
		}
		token = strings.TrimSpace(t)
	}
	if token == "" {
		return "", "", errors.New("the message has no token")
	}
	return authzid, token, nil
}
