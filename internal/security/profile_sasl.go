package security

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
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
func profileMechanisms() []string { return append(Mechanisms(), AWSMSKIAM, GSSAPI) }

// showsSecret reports whether a mechanism sends what others could prove themselves with.
func showsSecret(mechanism string) bool {
	return mechanism == Plain || mechanism == OAuthBearer || mechanism == AWSMSKIAM
}

func (r *profileReader) sasl(p *Profile, s *profileSASL) (err error) {
	mechanism := strings.ToUpper(s.Mechanism)
	switch {
	case !slices.Contains(profileMechanisms(), mechanism):
		return r.errorf("sasl: mechanism %q: want one of %s", s.Mechanism, strings.Join(profileMechanisms(), ", "))
	case p.TLS == nil && !s.AllowWithoutTLS && showsSecret(mechanism):
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
	case GSSAPI:
		p.Mechanism, err = r.kerberos(p, s)
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
		turn: make(chan struct{}, 1), url: at.String(), id: s.ClientID, secret: secret, scope: s.Scope,
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

// issuerPause is how long an issuer that gave no token is not asked again: many connections
// may want one at that time.
const issuerPause = time.Second

// A tokenSource gets tokens for client credentials (RFC 6749, section 4.4), and keeps one
// for as long as it is fresh, or as it holds if the issuer gives no other.
type tokenSource struct {
	url, id, secret, scope string
	client                 *http.Client

	turn   chan struct{} // of one slot: who has it may use the following
	have   string
	fresh  time.Time // until then it is used without a question
	holds  time.Time // until then it can be used
	err    error     // of the last question; nil if it had a token
	failed time.Time
}

func (s *tokenSource) token(ctx context.Context) (string, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	now := time.Now()
	if s.have != "" && now.Before(s.fresh) {
		return s.have, nil
	}
	if s.err == nil || now.Sub(s.failed) >= issuerPause {
		token, life, err := s.ask(ctx)
		switch {
		case err == nil:
			s.have, s.fresh, s.holds, s.err = token, now.Add(time.Duration(float64(life)*tokenUse)), now.Add(life), nil
			return token, nil
		case ctx.Err() != nil: // whoever asked did not wait
			return "", err
		}
		s.err, s.failed = err, time.Now()
	}
	if s.have != "" && time.Now().Before(s.holds) {
		return s.have, nil
	}
	return "", s.err
}

// What a shorter life of a token is taken for, and a longer one.
const (
	tokenLifeLeast = time.Second
	tokenLifeMax   = 365 * 24 * time.Hour
)

// ask asks the issuer for a token, and returns for how long it holds.
func (s *tokenSource) ask(ctx context.Context) (token string, life time.Duration, err error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	if s.scope != "" {
		form.Set("scope", s.scope)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.SetBasicAuth(url.QueryEscape(s.id), url.QueryEscape(s.secret))
	resp, err := s.client.Do(req)
	if err != nil {
		return "", 0, fmt.Errorf("the issuer of tokens cannot be reached: %w", withoutURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, issuerBytesMax))
	if err != nil {
		return "", 0, fmt.Errorf("the issuer gives no token: %w", withoutURL(err))
	}
	var answer struct {
		Token     string  `json:"access_token"`
		ExpiresIn float64 `json:"expires_in"`
		Error     string  `json:"error"`
	}
	err = json.Unmarshal(body, &answer)
	switch {
	case resp.StatusCode != http.StatusOK:
		return "", 0, fmt.Errorf("the issuer gives no token: status %d %.100s; check token-url, client-id and client-secret-file", resp.StatusCode, answer.Error)
	case err != nil || answer.Token == "":
		return "", 0, errors.New("the issuer gives no token: its answer has no access_token")
	}
	// One that does not say for how long it holds, or hands out what is about to end, is not
	// asked for each connection either.
	seconds := min(max(answer.ExpiresIn, tokenLifeLeast.Seconds()), tokenLifeMax.Seconds())
	return answer.Token, time.Duration(seconds * float64(time.Second)), nil
}

// withoutURL is what is wrong, without the addresses, which not everybody may see who sees
// the state of a cluster.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		err = e.Err
	}
	return err
}
