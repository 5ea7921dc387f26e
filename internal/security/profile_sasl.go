package security

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/aws"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	saslplain "github.com/twmb/franz-go/pkg/sasl/plain"
	saslscram "github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/braidmq/braid/federation"
)

// AWSMSKIAM is a mechanism of physical clusters only.
const AWSMSKIAM = "AWS_MSK_IAM"

// profileMechanisms are what braid can prove itself to physical clusters with.
func profileMechanisms() []string { return append(Mechanisms(), AWSMSKIAM) }

func (r *profileReader) sasl(p *Profile, s *profileSASL) (err error) {
	mechanism := strings.ToUpper(s.Mechanism)
	switch {
	case !slices.Contains(profileMechanisms(), mechanism):
		return r.errorf("sasl: mechanism %q: want one of %s", s.Mechanism, strings.Join(profileMechanisms(), ", "))
	case p.TLS == nil && !s.AllowWithoutTLS && mechanism != string(federation.ScramSHA256) && mechanism != string(federation.ScramSHA512):
		return r.errorf("sasl: %s sends a secret that whoever listens can use: add tls, or allow-without-tls: true", mechanism)
	}
	if s.Username != "" && s.UsernameFile != "" {
		return r.errorf("sasl: username and username-file exclude each other")
	}
	p.User = s.Username
	if s.UsernameFile != "" {
		if p.User, err = r.secret("sasl: username-file", s.UsernameFile); err != nil {
			return err
		}
	}
	switch mechanism {
	case OAuthBearer:
		p.Mechanism, err = r.oauth(p, s)
		return err
	case AWSMSKIAM:
		p.Mechanism, err = r.aws(s)
		return err
	}
	if p.User == "" {
		return r.errorf("sasl: %s needs username or username-file", mechanism)
	}
	password, err := r.secret("sasl: password-file", s.PasswordFile)
	if err != nil {
		return err
	}
	switch mechanism {
	case Plain:
		p.Mechanism = saslplain.Auth{User: p.User, Pass: password}.AsMechanism()
	case string(federation.ScramSHA256):
		p.Mechanism = saslscram.Auth{User: p.User, Pass: password}.AsSha256Mechanism()
	default:
		p.Mechanism = saslscram.Auth{User: p.User, Pass: password}.AsSha512Mechanism()
	}
	return nil
}

// aws is for keys in files that something else renews. Roles of pods and machines are
// not looked up.
func (r *profileReader) aws(s *profileSASL) (sasl.Mechanism, error) {
	var auth aws.Auth
	var err error
	if auth.AccessKey, err = r.secret("sasl: access-key-file", s.AccessKeyFile); err != nil {
		return nil, err
	}
	if auth.SecretKey, err = r.secret("sasl: secret-key-file", s.SecretKeyFile); err != nil {
		return nil, err
	}
	if s.SessionTokenFile != "" {
		if auth.SessionToken, err = r.secret("sasl: session-token-file", s.SessionTokenFile); err != nil {
			return nil, err
		}
	}
	auth.UserAgent = "braid"
	return auth.AsManagedStreamingIAMMechanism(), nil
}

// oauth shows a token from a file, or one that an issuer gives for client credentials.
func (r *profileReader) oauth(p *Profile, s *profileSASL) (sasl.Mechanism, error) {
	if (s.TokenFile == "") == (s.TokenURL == "") {
		return nil, r.errorf("sasl: %s needs either token-file or token-url", OAuthBearer)
	}
	bearer := &bearerMechanism{extensions: s.Extensions}
	if s.TokenFile != "" {
		token, err := r.secret("sasl: token-file", s.TokenFile)
		if err != nil {
			return nil, err
		}
		token = strings.TrimSpace(token)
		bearer.token = func(context.Context) (string, error) { return token, nil }
		return bearer, nil
	}
	at, err := url.Parse(s.TokenURL)
	if err != nil || at.Scheme != "https" || at.Host == "" || at.User != nil {
		return nil, r.errorf("sasl: token-url: want https://HOST/PATH without a password in it")
	}
	if s.ClientID == "" {
		return nil, r.errorf("sasl: token-url needs client-id and client-secret-file")
	}
	secret, err := r.secret("sasl: client-secret-file", s.ClientSecretFile)
	if err != nil {
		return nil, err
	}
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.TokenCA != "" {
		if trust.RootCAs, err = LoadPool(r.path(s.TokenCA)); err != nil {
			return nil, r.errorf("sasl: token-ca: %v", err)
		}
	}
	p.User = s.ClientID
	source := &tokenSource{
		url: at.String(), id: s.ClientID, secret: secret, scope: s.Scope,
		client: &http.Client{
			Timeout:   tokenTimeout,
			Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: trust, IdleConnTimeout: time.Minute},
			// A redirect would take the secret along to somebody else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	bearer.token = source.token
	return bearer, nil
}

// A bearerMechanism is OAUTHBEARER that tells why a token was refused: the broker says it
// only to who goes on after its first answer (RFC 7628, section 3.2.3).
type bearerMechanism struct {
	token      func(context.Context) (string, error)
	extensions map[string]string
}

// Name implements sasl.Mechanism.
func (*bearerMechanism) Name() string { return OAuthBearer }

// Authenticate implements sasl.Mechanism.
func (m *bearerMechanism) Authenticate(ctx context.Context, host string) (sasl.Session, []byte, error) {
	token, err := m.token(ctx)
	if err != nil {
		return nil, nil, err
	}
	_, first, err := oauth.Auth{Token: token, Extensions: m.extensions}.AsMechanism().Authenticate(ctx, host)
	if err != nil {
		return nil, nil, err
	}
	return &bearerSession{}, first, nil
}

type bearerSession struct{ refusal string }

// Challenge implements sasl.Session.
func (s *bearerSession) Challenge(answer []byte) (bool, []byte, error) {
	switch {
	case s.refusal != "":
		return false, nil, fmt.Errorf("the broker refused the token: %s", s.refusal)
	case len(answer) == 0:
		return true, nil, nil
	}
	s.refusal = string(answer[:min(len(answer), 500)])
	return false, []byte{1}, nil
}

const (
	// tokenTimeout bounds one question to an issuer for a token.
	tokenTimeout = 5 * time.Second
	// issuerBytesMax bounds its answer.
	issuerBytesMax = 1 << 20
	// tokenUse is the part of its life for which a token is used: it must still hold when
	// the broker sees it.
	tokenUse = 0.8
)

// A tokenSource gets tokens for client credentials (RFC 6749, section 4.4), and keeps one
// for as long as it is fresh.
type tokenSource struct {
	url, id, secret, scope string
	client                 *http.Client

	mu    sync.Mutex // guards the following
	have  string
	until time.Time
}

func (s *tokenSource) token(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.have != "" && time.Now().Before(s.until) {
		return s.have, nil
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if s.scope != "" {
		form.Set("scope", s.scope)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.SetBasicAuth(url.QueryEscape(s.id), url.QueryEscape(s.secret))
	asked := time.Now()
	resp, err := s.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("the issuer gives no token: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, issuerBytesMax))
	if err != nil {
		return "", fmt.Errorf("the issuer gives no token: %w", err)
	}
	var answer struct {
		Token     string  `json:"access_token"`
		ExpiresIn float64 `json:"expires_in"`
		Error     string  `json:"error"`
	}
	err = json.Unmarshal(body, &answer)
	switch {
	case resp.StatusCode != http.StatusOK:
		return "", fmt.Errorf("the issuer gives no token: status %d %s", resp.StatusCode, answer.Error)
	case err != nil || answer.Token == "":
		return "", errors.New("the issuer gives no token: its answer has no access_token")
	}
	s.have, s.until = answer.Token, asked.Add(time.Duration(answer.ExpiresIn*tokenUse*float64(time.Second)))
	return s.have, nil
}
