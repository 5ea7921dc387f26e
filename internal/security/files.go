package security

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// reloadInterval is the least time between two looks at files for changes. A look is
// made when what they hold is needed.
const reloadInterval = time.Second

// A reloaded is something that is made of files, and made anew when they change. What
// cannot be made of changed files is logged, and the old one stays.
type reloaded[T any] struct {
	files []string
	load  func() (T, error)
	log   *slog.Logger

	mu      sync.Mutex // guards the following
	value   T
	stamp   string
	checked time.Time
}

func newReloaded[T any](log *slog.Logger, load func() (T, error), files ...string) (*reloaded[T], error) {
	r := &reloaded[T]{load: load, log: log}
	for _, f := range files {
		if f != "" {
			r.files = append(r.files, f)
		}
	}
	r.stamp, r.checked = r.look(), time.Now()
	var err error
	r.value, err = load()
	return r, err
}

func (r *reloaded[T]) look() string { return stampOf(r.files) }

// stampOf says how files are: a file that was written has another time or size.
func stampOf(files []string) string {
	var out strings.Builder
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			fmt.Fprintf(&out, "%d %d;", info.ModTime().UnixNano(), info.Size())
		} else {
			out.WriteString("?;")
		}
	}
	return out.String()
}

func (r *reloaded[T]) get() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Sub(r.checked) < reloadInterval {
		return r.value
	}
	r.checked = now
	stamp := r.look()
	if stamp == r.stamp {
		return r.value
	}
	r.stamp = stamp
	value, err := r.load()
	if err != nil {
		r.log.Error("changed files cannot be used; what was read before stays", "files", r.files, "err", err)
		return r.value
	}
	r.value = value
	r.log.Info("changed files are used", "files", r.files)
	return value
}

// The values of TLSFiles.ClientAuth, as Kafka's ssl.client.auth.
const (
	ClientAuthNone      = "none"
	ClientAuthRequested = "requested"
	ClientAuthRequired  = "required"
)

// TLSFiles are what a listener has for TLS. The files are read again when they change.
type TLSFiles struct {
	Cert, Key  string
	ClientCA   string // who signs certificates of clients
	ClientAuth string // none by default
}

// Enabled reports whether there is TLS.
func (f TLSFiles) Enabled() bool { return f.Cert != "" || f.Key != "" }

// AsksClients reports whether clients are asked for certificates.
func (f TLSFiles) AsksClients() bool { return f.ClientAuth != "" && f.ClientAuth != ClientAuthNone }

// Validate checks that the settings go together; prefix begins their flags.
func (f TLSFiles) Validate(prefix string) error {
	auth := f.AsksClients()
	switch {
	case auth && f.ClientAuth != ClientAuthRequested && f.ClientAuth != ClientAuthRequired:
		return fmt.Errorf("--%stls-client-auth %q: want none, requested or required", prefix, f.ClientAuth)
	case (f.Cert == "") != (f.Key == ""):
		return fmt.Errorf("--%[1]stls-cert and --%[1]stls-key go together", prefix)
	case auth && (f.ClientCA == "" || !f.Enabled()):
		return fmt.Errorf("--%[1]stls-client-auth %[2]s needs --%[1]stls-client-ca, --%[1]stls-cert and --%[1]stls-key", prefix, f.ClientAuth)
	}
	return nil
}

// Server makes the TLS of a listener. protocols are those of ALPN, if any.
func (f TLSFiles) Server(log *slog.Logger, protocols ...string) (*tls.Config, error) {
	load := func() (*tls.Config, error) {
		cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate %s and key %s: %w", f.Cert, f.Key, err)
		}
		out := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: protocols}
		switch f.ClientAuth {
		case ClientAuthRequested:
			out.ClientAuth = tls.VerifyClientCertIfGiven
		case ClientAuthRequired:
			out.ClientAuth = tls.RequireAndVerifyClientCert
		}
		if f.ClientCA != "" {
			out.ClientCAs, err = LoadPool(f.ClientCA)
		}
		return out, err
	}
	current, err := newReloaded(log, load, f.Cert, f.Key, f.ClientCA)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.get(), nil },
	}, nil
}

// A ClientTLS is the TLS of connections to others. It is safe for concurrent use.
type ClientTLS struct{ current func() *tls.Config }

// Config returns the settings of a connection to come. They do not change, as a connection
// takes them as they are: after a change of the authority's file there are others.
func (c *ClientTLS) Config() *tls.Config { return c.current() }

// Client makes the TLS of connections to others: ca is who signs their certificates,
// empty = whom the system trusts. The own certificate is shown if they ask for one.
func (f TLSFiles) Client(log *slog.Logger, ca string) (*ClientTLS, error) {
	plain := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.Enabled() {
		own, err := newReloaded(log, func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
			return &cert, err
		}, f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate %s and key %s: %w", f.Cert, f.Key, err)
		}
		plain.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.get(), nil }
	}
	if ca == "" {
		return &ClientTLS{func() *tls.Config { return plain }}, nil
	}
	current, err := newReloaded(log, func() (*tls.Config, error) {
		pool, err := LoadPool(ca)
		if err != nil {
			return nil, err
		}
		out := plain.Clone()
		out.RootCAs = pool
		return out, nil
	}, ca)
	if err != nil {
		return nil, err
	}
	return &ClientTLS{current.get}, nil
}

// A Transport makes HTTP calls by connections that trust who is to be trusted now: once
// that has changed, calls take new connections, and what is open goes on to its end. It is
// safe for concurrent use.
type Transport struct {
	secure *ClientTLS
	with   func(*tls.Config) *http.Transport

	mu      sync.Mutex // guards the following
	config  *tls.Config
	current *http.Transport
}

// NewTransport makes a Transport of what with makes; that has to give up idle connections
// after a time.
func NewTransport(secure *ClientTLS, with func(*tls.Config) *http.Transport) *Transport {
	return &Transport{secure: secure, with: with}
}

func (t *Transport) now() *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.secure.Config(); c != t.config {
		if t.current != nil {
			t.current.CloseIdleConnections()
		}
		t.config, t.current = c, t.with(c.Clone()) // a transport writes into its own
	}
	return t.current
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) { return t.now().RoundTrip(r) }

// CloseIdleConnections is what http.Client looks for.
func (t *Transport) CloseIdleConnections() { t.now().CloseIdleConnections() }

// LoadPool reads certificates in PEM.
func LoadPool(file string) (*x509.CertPool, error) {
	b, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return pool, nil
}

// ReadPassword reads a password from a file, and again when it changes. A line end behind
// it does not count.
func ReadPassword(file string, log *slog.Logger) (func() string, error) {
	current, err := newReloaded(log, func() (string, error) {
		b, err := os.ReadFile(file) //nolint:gosec // the operator names the file
		if err != nil {
			return "", err
		}
		text := strings.TrimRight(string(b), "\r\n")
		if text == "" {
			return "", fmt.Errorf("%s is empty", file)
		}
		return text, nil
	}, file)
	if err != nil {
		return nil, err
	}
	return current.get, nil
}

// sharedBytesMin is the least length of a shared token: nobody should have thought it up.
const sharedBytesMin = 32

// A SharedToken is the secret by which the processes of a fleet know each other. It is
// safe for concurrent use.
type SharedToken struct {
	lines func() []string
}

// NewSharedToken takes a token that all processes get by the same way.
func NewSharedToken(token string) *SharedToken {
	return &SharedToken{func() []string { return []string{token} }}
}

// ReadSharedToken reads tokens from a file, and again when it changes: the first line is
// shown to others, all are taken from them, so that a token can be replaced under way.
func ReadSharedToken(file string, log *slog.Logger) (*SharedToken, error) {
	current, err := newReloaded(log, func() ([]string, error) {
		b, err := os.ReadFile(file) //nolint:gosec // the operator names the file
		if err != nil {
			return nil, err
		}
		lines := strings.Fields(string(b))
		if len(lines) == 0 || slices.ContainsFunc(lines, func(l string) bool { return len(l) < sharedBytesMin }) {
			return nil, fmt.Errorf("%s: want tokens of %d characters or more, one a line", file, sharedBytesMin)
		}
		return lines, nil
	}, file)
	if err != nil {
		return nil, err
	}
	return &SharedToken{current.get}, nil
}

// Current is the token to show to others.
func (t *SharedToken) Current() string { return t.lines()[0] }

// Is reports whether another process showed one of the tokens.
func (t *SharedToken) Is(token string) bool {
	ok := 0
	have := sha256.Sum256([]byte(token))
	for _, l := range t.lines() {
		want := sha256.Sum256([]byte(l))
		ok |= subtle.ConstantTimeCompare(have[:], want[:])
	}
	return ok == 1
}

// Fleet is who a process of the fleet is, or an operator with its shared token.
var Fleet = User("braid-fleet")

// Reserved reports whether a user name is one of braid's own, which nobody can prove to be.
func Reserved(name string) bool { return name == Fleet.Name || name == Anonymous.Name }

var errNoRule = errors.New("no rule of --tls-principal-rules fits the subject of the certificate")
