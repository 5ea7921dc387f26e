package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/braidmq/braid/internal/security"
)

// profile returns the security profile of the cluster as its files are now; nil if the
// cluster has none.
func (c *Cluster) profile() (*security.Profile, error) {
	if c.profileName == "" {
		return nil, nil //nolint:nilnil // neither TLS nor SASL
	}
	return c.cfg.Profiles.Profile(c.profileName)
}

// dialChecked is dialBroker for the general client.
func (c *Cluster) dialChecked(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := c.dialBroker(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return newCheckedConn(nc, c.cfg.ResponseBytesMax, func(err error) { c.garbled(addr, err) }), nil
}

// dialBroker connects to a broker, with TLS if the cluster's profile has it. There is no
// way back to plain text: a profile that cannot be read is an error.
func (c *Cluster) dialBroker(ctx context.Context, network, addr string) (net.Conn, error) {
	profile, err := c.profile()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	nc, err := c.cfg.Dialer(ctx, network, addr)
	if err != nil || profile == nil || profile.TLS == nil {
		return nc, err
	}
	cfg := profile.TLS
	if cfg.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			_ = nc.Close()
			return nil, err
		}
		cfg = cfg.Clone() // shares the sessions
		cfg.ServerName = host
	}
	secure := tls.Client(nc, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		_, network := errors.AsType[net.Error](err)
		switch {
		case ctx.Err() != nil:
			return nil, err
		case cutOff(err): // by a listener without TLS, or by what stands before one that is dead
		case !network || isAlert(err):
			c.contact.answered() // whoever refuses is there
		default:
			return nil, err
		}
		return nil, &tlsError{err}
	}
	return &secureConn{Conn: secure, raw: nc}, nil
}

// A tlsError says that a broker and this process found no way to speak TLS.
type tlsError struct{ err error }

func (e *tlsError) Error() string { return "TLS: " + e.err.Error() }
func (e *tlsError) Unwrap() error { return e.err }

// isAlert reports whether a broker ended TLS with an alert: of a certificate that it does
// not take, it says so only after the handshake.
func isAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// cutOff reports whether a connection was closed by the other side.
func cutOff(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) }

// A secureConn is a connection with TLS. It is closed without a goodbye, which could wait
// for seconds for a broker that takes nothing; all messages have lengths, so nothing that
// is cut off is taken for whole.
type secureConn struct {
	*tls.Conn
	raw net.Conn
}

// Close implements net.Conn.
func (c *secureConn) Close() error { return c.raw.Close() }

// A currentMechanism is the mechanism of the cluster's profile as its files are now: the
// general client asks for it with each connection, and when a session is to be renewed.
type currentMechanism struct{ c *Cluster }

// Name implements sasl.Mechanism.
func (m currentMechanism) Name() string {
	if p, err := m.c.profile(); err == nil && p != nil && p.Mechanism != nil {
		return p.Mechanism.Name()
	}
	return "NONE" // Authenticate says why
}

// Authenticate implements sasl.Mechanism.
func (m currentMechanism) Authenticate(ctx context.Context, host string) (sasl.Session, []byte, error) {
	p, err := m.c.profile()
	switch {
	case err != nil:
		return nil, nil, err
	case p == nil || p.Mechanism == nil:
		return nil, nil, &security.ProfileError{Profile: m.c.profileName, Reason: "it has no sasl any more"}
	}
	session, first, err := p.Mechanism.Authenticate(ctx, host)
	if err != nil {
		err = &saslError{err}
		m.c.contact.noteFailure(err)
		return nil, nil, err
	}
	return session, first, nil
}

// general is the client for everything but appends and reads. One that proves who it is
// cannot stop to do so, and the reverse, so it is replaced when the profile changes in that.
type general struct {
	mu     sync.Mutex // guards the following
	client *kgo.Client
	sasl   bool
	closed bool
}

func (g *general) close() {
	g.mu.Lock()
	g.closed = true
	client := g.client // it is not replaced any more
	g.mu.Unlock()
	client.Close() // it waits, and who has a request meanwhile must be told at once
}

// generalClient returns the client that fits the cluster's profile.
func (c *Cluster) generalClient() *kgo.Client {
	g := &c.general
	profile, err := c.profile()
	g.mu.Lock()
	defer g.mu.Unlock()
	if want := profile != nil && profile.Mechanism != nil; err == nil && want != g.sasl && !g.closed {
		if fresh, err := c.newGeneral(want); err == nil {
			go g.client.Close() // what is in flight ends with an error, and is tried again
			g.client, g.sasl = fresh, want
		}
	}
	return g.client
}

// A RefusedError is the cause of errors about a cluster that cannot be used because of TLS,
// SASL or its security profile.
type RefusedError struct {
	Why string // in words for people, without addresses
	// Certain is set if it is there; else it may also be away.
	Certain bool
	err     error
}

func (e *RefusedError) Error() string { return e.err.Error() }
func (e *RefusedError) Unwrap() error { return e.err }

// A refusal remembers that a cluster is there, and cannot be used.
type refusal struct {
	mu   sync.Mutex // guards the following
	why  string
	told time.Time
}

// refusalLogInterval is how often the same refusal is logged.
const refusalLogInterval = time.Minute

// refused notes and logs why the cluster cannot be used.
func (c *Cluster) refused(why string, err error) {
	r := &c.refusal
	now := time.Now()
	r.mu.Lock()
	tell := r.why != why || now.Sub(r.told) >= refusalLogInterval
	r.why = why
	if tell {
		r.told = now
	}
	r.mu.Unlock()
	if tell {
		c.cfg.Logger.Error("physical cluster cannot be used", "cluster", c.Name, "security_profile", c.profileName, "reason", why, "err", err)
	}
}

// letIn notes that the cluster answered.
func (c *Cluster) letIn() {
	r := &c.refusal
	r.mu.Lock()
	was := r.why
	r.why = ""
	r.mu.Unlock()
	if was != "" {
		c.cfg.Logger.Info("physical cluster can be used again", "cluster", c.Name, "security_profile", c.profileName)
	}
}

// Refused says why the cluster cannot be used although it is there: its security profile,
// TLS, or the broker's answer to what proves who we are. Empty if that is not so.
func (c *Cluster) Refused() string {
	c.refusal.mu.Lock()
	defer c.refusal.mu.Unlock()
	return c.refusal.why
}

// Refused is how many clusters cannot be used for a reason of security.
func (p *Pool) Refused() (n int) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, c := range p.clusters {
		if c.Refused() != "" {
			n++
		}
	}
	return n
}

// whyRefused says in words for people what an error has to do with the cluster's
// security: what happened, what the broker said, what to do; and whether that is certain.
// Nil if it has nothing. The words name no address, and hold no secret.
func (c *Cluster) whyRefused(err error) *RefusedError {
	with := "without TLS and SASL: it has no security profile"
	if c.profileName != "" {
		with = fmt.Sprintf("with security profile %q", c.profileName)
	}
	refused := func(certain bool, format string, args ...any) *RefusedError {
		return &RefusedError{Why: fmt.Sprintf(format, args...), Certain: certain, err: err}
	}
	const saslAdvice = "check mechanism, user and secret there, and on the cluster"
	if e, ok := errors.AsType[*security.ProfileError](err); ok {
		return refused(true, "%v", e)
	}
	if e, ok := errors.AsType[*tlsError](err); ok {
		return refused(!cutOff(e.err), "TLS failed %s: %v; %s", with, withoutAddress(e.err), tlsAdvice(e.err))
	}
	if isAlert(err) {
		return refused(true, "TLS failed %s: the broker says: %v; %s", with, withoutAddress(err), tlsAdvice(err))
	}
	if e, ok := errors.AsType[*saslError](err); ok {
		return refused(true, "SASL failed %s: %v; %s", c.withUser(), e.err, saslAdvice)
	}
	for _, code := range []error{kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState} {
		if errors.Is(err, code) {
			return refused(true, "SASL failed %s: %v; %s", c.withUser(), err, saslAdvice)
		}
	}
	if c.contact.cut.Load() && c.profileName != "" {
		return refused(true, "SASL failed %s: the broker closed the connection in place of an answer; %s", c.withUser(), saslAdvice)
	}
	if errors.Is(err, errSpeaksTLS) {
		return refused(true, "the listener speaks TLS, and is reached %s; name a profile that has tls", with)
	}
	if _, ok := errors.AsType[*kgo.ErrFirstReadEOF](err); ok {
		return refused(false, "a broker closed the connection at the first request, %s; its listener may want TLS or SASL, or another kind of it", with)
	}
	return nil
}

// withUser names the profile, and whom it shows the broker.
func (c *Cluster) withUser() string {
	text := fmt.Sprintf("with security profile %q", c.profileName)
	p, err := c.profile()
	if err != nil || p == nil || p.Mechanism == nil {
		return text
	}
	text += " (" + p.Mechanism.Name()
	if p.User != "" {
		text += fmt.Sprintf(" as %q", p.User)
	}
	return text + ")"
}

// withoutAddress leaves the addresses of a network error out: they are for the log.
func withoutAddress(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

var errSpeaksTLS = errors.New("the broker answers with a TLS record")

func tlsAdvice(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "set tls: ca to the authority of the brokers' certificates"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "the brokers' certificates must have the host that they advertise, or tls: server-name what they have"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "the listener does not speak TLS; use another port, or a profile without tls"
	}
	if cutOff(err) {
		return "the broker closed the connection; its listener may speak no TLS, or want a certificate (tls: cert and key)"
	}
	return "check ca, cert and key of the profile, and the certificates of the brokers"
}
