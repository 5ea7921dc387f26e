package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/security"
)

// A session is what a connection has proven to its broker, and when it must do so again
// (KIP-368). While it does, calls are held and go out behind it in their order: a broker
// answers them in order too, so what is in flight need not be waited for. Its fields are
// guarded by the connection's mu.
type session struct {
	prove   func(ctx context.Context) (lifetime time.Duration, err error) // nil = nothing is to be proven
	renewAt time.Time                                                     // zero = never
	proving bool
	held    []*call
}

const (
	// sessionUse is the part of a session's life after which it is renewed, at the least;
	// up to a tenth of the life more is left to chance, so that not all renew at one time.
	// The Java client does the same.
	sessionUse = 0.85
	// renewPauseLeast is the least time between two renewals: brokers refuse more.
	renewPauseLeast = 1100 * time.Millisecond
)

// holdLocked keeps a call back if the session has to be renewed first; the caller holds
// the connection's mu.
func (s *session) holdLocked(c *Conn, cl *call) bool {
	if !s.proving {
		if s.renewAt.IsZero() || cl.sent.Before(s.renewAt) {
			return false
		}
		s.proving = true
		go c.renew()
	}
	s.held = append(s.held, cl)
	return true
}

// renew proves anew who we are, and lets go of the calls that were held.
func (c *Conn) renew() {
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout) //nolint:forbidigo // of the connection, not of a caller
	defer cancel()
	lifetime, err := c.session.prove(ctx)
	if err != nil {
		c.fail(fmt.Errorf("%w: %w", ErrConnClosed, err))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session.proven(lifetime)
	held := c.session.held
	c.session.proving, c.session.held = false, nil
	if c.err != nil {
		return // fail has taken them
	}
	now := time.Now()
	for _, cl := range held {
		cl.sent = now
		c.enqueueLocked(cl)
	}
}

// proven notes that the session holds for a time; 0 = for ever.
func (s *session) proven(lifetime time.Duration) {
	s.renewAt = time.Time{}
	if lifetime > 0 {
		use := sessionUse + rand.Float64()/10
		s.renewAt = time.Now().Add(max(time.Duration(float64(lifetime)*use), renewPauseLeast))
	}
}

// prove proves to a broker who we are, if the cluster's profile says how.
func (c *Cluster) prove(ctx context.Context, conn *Conn, addr string) error {
	profile, err := c.profile()
	if err != nil || profile == nil || profile.Mechanism == nil {
		return err
	}
	prove := func(ctx context.Context) (time.Duration, error) { return c.authenticate(ctx, conn, addr) }
	lifetime, err := prove(ctx)
	if err != nil {
		return err
	}
	conn.mu.Lock()
	defer conn.mu.Unlock()
	conn.session.prove = prove
	conn.session.proven(lifetime)
	return nil
}

// A saslError says that a broker did not take our proof, or we not its.
type saslError struct{ err error }

func (e *saslError) Error() string { return "SASL: " + e.err.Error() }
func (e *saslError) Unwrap() error { return e.err }

// saslStepsMax bounds the messages of one authentication.
const saslStepsMax = 8

// authenticate has one exchange with a broker, by the profile as it is now, and returns
// how long what was proven holds; 0 = for ever.
func (c *Cluster) authenticate(ctx context.Context, conn *Conn, addr string) (time.Duration, error) {
	profile, err := c.profile()
	if err != nil {
		return 0, err
	}
	if profile == nil || profile.Mechanism == nil {
		return 0, &security.ProfileError{Profile: c.profileName, Reason: "it has no sasl any more"}
	}
	mechanism := profile.Mechanism
	handshake := kmsg.NewPtrSASLHandshakeRequest()
	handshake.Mechanism = mechanism.Name()
	resp, err := conn.ask(ctx, handshake, 1)
	if err != nil {
		return 0, err
	}
	if h := resp.(*kmsg.SASLHandshakeResponse); h.ErrorCode != 0 {
		return 0, &saslError{fmt.Errorf("%w: the cluster offers %v", kerr.ErrorForCode(h.ErrorCode), h.SupportedMechanisms)}
	}
	exchange, message, err := mechanism.Authenticate(ctx, addr)
	if err != nil {
		return 0, &saslError{err}
	}
	var lifetime time.Duration
	for step, done := 0, false; !done || len(message) > 0; step++ {
		if step == saslStepsMax {
			return 0, &saslError{errors.New("the broker asks without an end")}
		}
		req := kmsg.NewPtrSASLAuthenticateRequest()
		req.SASLAuthBytes = message
		resp, err := conn.ask(ctx, req, 1)
		if err != nil {
			return 0, c.duringProof(ctx, err)
		}
		a := resp.(*kmsg.SASLAuthenticateResponse)
		if err := kerr.ErrorForCode(a.ErrorCode); err != nil {
			if a.ErrorMessage != nil && *a.ErrorMessage != "" {
				err = fmt.Errorf("%w: %s", err, *a.ErrorMessage)
			}
			return 0, &saslError{err}
		}
		lifetime = time.Duration(min(max(a.SessionLifetimeMillis, 0), int64(sessionLifetimeMax/time.Millisecond))) * time.Millisecond
		message = nil
		if !done {
			if done, message, err = exchange.Challenge(a.SASLAuthBytes); err != nil {
				return 0, &saslError{err}
			}
		}
	}
	return lifetime, nil
}

// sessionLifetimeMax is what a longer life of a session is taken for.
const sessionLifetimeMax = 365 * 24 * time.Hour

// duringProof tells a broker that closed the connection in place of an answer.
func (c *Cluster) duringProof(ctx context.Context, err error) error {
	if errors.Is(err, ErrConnClosed) && ctx.Err() == nil {
		return &saslError{errors.New("the broker closed the connection in place of an answer")}
	}
	return err
}

// ask sends a request that goes before all that is held, and waits for its response. It is
// for one at a time.
func (c *Conn) ask(ctx context.Context, req kmsg.Request, least int16) (kmsg.Response, error) {
	v := c.Version(req.Key(), least, req.MaxVersion())
	if v < 0 {
		return nil, &saslError{errors.New("the broker does not know SASL as of Kafka 2.0")}
	}
	req.SetVersion(v)
	type answer struct {
		resp kmsg.Response
		err  error
	}
	ch := make(chan answer, 1)
	cl := c.newCall(req.Key(), v, req.IsFlexible(), net.Buffers{req.AppendTo(nil)}, func(b *Buffer, err error) {
		if err != nil {
			ch <- answer{nil, err}
			return
		}
		resp := req.ResponseKind()
		resp.SetVersion(v)
		b.uncharge() // the response aliases the buffer, which is left to the collector
		err = Decode(resp, b.B)
		ch <- answer{resp, err}
	})
	cl.own = true
	c.contact.ask(cl.sent)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return nil, c.err
	}
	c.enqueueLocked(cl)
	c.mu.Unlock()
	select {
	case a := <-ch:
		return a.resp, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
