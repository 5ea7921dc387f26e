package kafkacompat

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/security"
)

// A session is what a connection has proven. It is replaced by a re-authentication.
type session struct {
	identity security.Identity
	expires  time.Time // zero = it does not
}

// A saslState is how far an authentication is. It belongs to the goroutine that
// answers.
type saslState struct {
	mechanism string
	exchange  security.Exchange // nil = none is under way
	raw       bool              // messages come without a header: SaslHandshake was of version 0
	until     time.Time         // of the first authentication
}

// errHandshake ends a connection before anything was read of it.
var errHandshake = errors.New("TLS handshake")

// errSessionEnded closes a connection whose client is not known any more.
var errSessionEnded = errors.New("the client is not authenticated any more")

// beforeAuthentication are the requests that a client who is not known may send, and
// who was known for too long.
func beforeAuthentication(key int16) bool {
	return key == int16(kmsg.ApiVersions) || key == int16(kmsg.SASLHandshake) || key == int16(kmsg.SASLAuthenticate)
}

// authenticate works until it is known who the client is. Nothing but that is done
// before: requests are taken one by one, small, and within AuthenticationTimeout.
func (c *conn) authenticate(ctx context.Context) error {
	if c.s.deps.TLS == nil && c.s.deps.Auth == nil {
		return nil
	}
	c.setReadDeadline(c.s.cfg.AuthenticationTimeout)
	c.sasl.until = time.Now().Add(c.s.cfg.AuthenticationTimeout)
	_ = c.nc.SetWriteDeadline(c.sasl.until)
	if tc, ok := c.nc.(*tls.Conn); ok {
		if err := tc.HandshakeContext(ctx); err != nil {
			c.s.deps.Metrics.authentication(ctx, methodTLS, err)
			return fmt.Errorf("%w: %w", errHandshake, err)
		}
		if c.s.deps.ByServerName != nil && !c.awaitAnyMap(ctx, c.s.cfg.TopicWait) {
			return errNoMap // without a map no name is that of a tenant
		}
		c.named(tc.ConnectionState().ServerName)
		if c.s.deps.Auth == nil {
			return c.certified(ctx, tc)
		}
	}
	// Without a map nobody is known, and clients take a refusal for final.
	if !c.awaitAnyMap(ctx, c.s.cfg.TopicWait) {
		return errNoMap
	}
	for c.session.Load() == nil {
		if err := c.authenticateStep(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) awaitAnyMap(ctx context.Context, d time.Duration) bool {
	return c.s.awaitMap(ctx, d, func(*federation.Map) bool { return true })
}

// errNoMap closes a connection that comes before the map: the client tries elsewhere, or again.
var errNoMap = errors.New("the gateway has no map yet, so it knows no users and tenants")

// methodTLS is how a client is known by its certificate, as Kafka calls it.
const methodTLS = "SSL"

// certified takes who the client is from its certificate; a client without one, where
// that is allowed, stays anonymous.
func (c *conn) certified(ctx context.Context, tc *tls.Conn) error {
	chain := tc.ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return nil
	}
	p, err := c.s.deps.Certificates(chain[0])
	c.s.deps.Metrics.authentication(ctx, methodTLS, err)
	if err != nil {
		return err
	}
	c.principal = p
	return nil
}

// authenticateStep takes one request or message and answers it.
func (c *conn) authenticateStep(ctx context.Context) error {
	b, err := c.readSmall()
	if err != nil {
		return err
	}
	c.s.deps.Metrics.bytesIn(len(b) + 4)
	if c.sasl.raw {
		return c.rawMessage(ctx, b)
	}
	if len(b) < requestHeadBytesMin || !beforeAuthentication(int16(binary.BigEndian.Uint16(b))) {
		return fmt.Errorf("%w: a request before authentication: configure the client with SASL", errRefused)
	}
	sl, err := c.dispatch(ctx, &frame{b: b, c: c})
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	resp := c.run(ctx, ctx, sl)
	if resp.release != nil {
		defer resp.release()
	}
	sl.req.observe(ctx, c.s.deps.Metrics)
	if err := c.writeNow(resp.vecs...); err != nil {
		return err
	}
	if resp.close {
		return errNotAuthenticated
	}
	return nil
}

// errNotAuthenticated ends a connection after the client was told.
var errNotAuthenticated = errors.New("authentication failed")

// readSmall reads a request of at most SaslBytesMax.
func (c *conn) readSmall() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return nil, err
	}
	size := int(int32(binary.BigEndian.Uint32(head[:])))
	if size < 0 || size > c.s.cfg.SaslBytesMax {
		return nil, fmt.Errorf("%w: %d bytes before authentication: want at most %d", errRefused, size, c.s.cfg.SaslBytesMax)
	}
	var b bytes.Buffer // grows as bytes come, whatever was announced
	if _, err := io.CopyN(&b, c.r, int64(size)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (c *conn) writeNow(vecs ...[]byte) error {
	for _, v := range vecs {
		c.s.deps.Metrics.bytesOut(len(v))
		if _, err := c.nc.Write(v); err != nil {
			return err
		}
	}
	return nil
}

// rawMessage takes a message of an authentication that SaslHandshake v0 began: it has no
// header, and no error can be told.
func (c *conn) rawMessage(ctx context.Context, message []byte) error {
	reply, err := c.saslMessage(ctx, message)
	if err != nil {
		return errNotAuthenticated
	}
	return c.writeNow(append(binary.BigEndian.AppendUint32(nil, uint32(len(reply))), reply...))
}

// saslMessage takes a client's message to the authentication that is under way. At its
// end there is a session. An error is answered late, so that guesses take their time.
func (c *conn) saslMessage(ctx context.Context, message []byte) ([]byte, error) {
	mechanism, former := c.sasl.mechanism, c.session.Load()
	until := c.sasl.until
	if former != nil {
		until = time.Now().Add(c.s.cfg.AuthenticationTimeout)
	}
	checked, cancel := context.WithDeadline(security.WithSource(ctx, c.host), until)
	defer cancel()
	reply, id, err := c.sasl.exchange.Next(checked, message)
	if err == nil && id == nil {
		return reply, nil
	}
	c.sasl.exchange, c.sasl.raw = nil, false
	if err == nil && former != nil && former.identity.Principal != id.Principal {
		err = fmt.Errorf("%s authenticated again as %s", former.identity.Principal, id.Principal)
	}
	c.s.deps.Metrics.authentication(ctx, mechanism, err)
	if security.Undecided(err) {
		if ctx.Err() == nil {
			c.log.Warn("authentication could not be decided, connection closed", "mechanism", mechanism, "error", err)
		}
		sleep(ctx, c.s.cfg.FailedAuthenticationDelay) // so that the client does not come again at once
		return nil, err
	}
	if err != nil {
		c.log.Info("authentication failed", "mechanism", mechanism, "error", err)
		sleep(ctx, c.s.cfg.FailedAuthenticationDelay)
		return nil, err
	}
	s := &session{identity: *id, expires: id.Expires}
	if limit := time.Now().Add(c.s.cfg.ReauthMax); c.s.cfg.ReauthMax > 0 && (s.expires.IsZero() || limit.Before(s.expires)) {
		s.expires = limit
	}
	if former == nil {
		c.principal = id.Principal // before the goroutines that read it begin
	}
	c.session.Store(s)
	c.log.Debug("authenticated", "principal", id.Principal.String(), "mechanism", mechanism)
	return reply, nil
}

// lifetimeMs is what a client is told of how long its session lasts; 0 = for ever.
func (s *session) lifetimeMs() int64 {
	if s == nil || s.expires.IsZero() {
		return 0
	}
	return max(1, time.Until(s.expires).Milliseconds())
}

// stillKnown refuses requests of a client whose session has ended, or whose credential
// was revoked.
func (c *conn) stillKnown(key int16) error {
	s := c.session.Load()
	if s == nil || beforeAuthentication(key) {
		return nil
	}
	if now := time.Now(); !s.expires.IsZero() && !now.Before(s.expires) || !c.auth.Holds(s.identity, now) {
		return fmt.Errorf("%w: %s, by %s", errSessionEnded, s.identity.Principal, s.identity.Method)
	}
	return nil
}

// secured puts TLS on a connection if the listener has it. The handshake is done later,
// by the connection's own goroutine.
func (s *Server) secured(nc net.Conn) net.Conn {
	if s.deps.TLS == nil {
		return nc
	}
	return tls.Server(nc, s.deps.TLS)
}
