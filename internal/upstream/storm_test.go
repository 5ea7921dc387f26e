package upstream_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/upstream"
)

// A mortal connection is closed by a broker whose session has ended.
type mortal struct {
	net.Conn
	end *time.Timer
}

func (m *mortal) Close() error {
	m.end.Stop()
	return m.Conn.Close()
}

// A pressed cluster counts what a process asks of it and of the issuer of its tokens.
type pressed struct {
	*guarded
	proofs, asked, calls atomic.Int32
}

// newPressed makes a cluster whose issuer says that a token holds for so many seconds, and
// whose brokers let a session live for so long, and close connections at its end, or not; or
// refuse all.
func newPressed(t *testing.T, tokenLife string, session time.Duration, closes, refuse bool) *pressed {
	p := &pressed{guarded: newGuarded(t, false, kfake.NumBrokers(1))}
	p.kafka.ControlKey(kmsg.SASLHandshake.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		p.kafka.KeepControl()
		p.proofs.Add(1)
		return r.ResponseKind(), nil, true
	})
	p.kafka.ControlKey(kmsg.SASLAuthenticate.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		p.kafka.KeepControl()
		resp := r.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		if resp.SessionLifetimeMillis = session.Milliseconds(); refuse {
			resp.ErrorCode = kerr.SaslAuthenticationFailed.Code
		}
		return resp, nil, true
	})
	dial := p.cfg.Dialer
	p.cfg.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil || !closes {
			return conn, err
		}
		return &mortal{conn, time.AfterFunc(session, func() { _ = conn.Close() })}, nil
	}
	issuer := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p.asked.Add(1)
		_, _ = fmt.Fprintf(w, `{"access_token":"one"%s}`, tokenLife)
	}))
	t.Cleanup(issuer.Close)
	p.write("issuer.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Certificate().Raw})))
	p.writeCA()
	p.write("secret", password)
	p.write("issued.yaml", tlsPart+"sasl:\n  mechanism: OAUTHBEARER\n  token-url: "+issuer.URL+"/token\n  token-ca: issuer.pem\n  client-id: braid\n  client-secret-file: secret\n")
	return p
}

// press has many callers use some connections without a pause, and the general client.
func (p *pressed) press(c *upstream.Cluster, lanes int, during time.Duration) {
	ctx, cancel := context.WithTimeout(p.t.Context(), during)
	defer cancel()
	var all sync.WaitGroup
	for lane := range lanes {
		for range 3 {
			all.Go(func() {
				for ctx.Err() == nil {
					conn, err := c.Conn(ctx, 0, upstream.UseQuery, lane)
					if err == nil {
						_, _ = conn.Request(ctx, kmsg.NewPtrListOffsetsRequest())
					}
					select { // as callers that try again
					case <-ctx.Done():
					case <-time.After(time.Millisecond):
					}
				}
			})
		}
	}
	all.Go(func() {
		for ctx.Err() == nil {
			p.calls.Add(1)
			_, _ = c.Info(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	all.Wait()
}

// Whatever tokens and sessions there are, and however often callers ask, there is a bound on
// how often brokers are dialled, how often they are shown a proof, and how often the issuer is
// asked.
func TestNoStormsAtTheEndOfTokens(t *testing.T) {
	const lanes, during = 4, 3 * time.Second
	for _, c := range []struct {
		name, life string
		session    time.Duration
		closes     bool // the broker lets nobody renew a session
		refuse     bool
	}{
		{"sessions of a second", `,"expires_in":1`, time.Second, true, false},
		{"sessions of a second that are renewed", `,"expires_in":1`, time.Second, false, false},
		{"tokens that have ended", `,"expires_in":0`, 100 * time.Millisecond, true, false},
		{"tokens without an end", ``, 5 * time.Millisecond, true, false},
		{"sessions of nothing that are renewed", ``, time.Millisecond, false, false},
		{"refused", `,"expires_in":1`, 0, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPressed(t, c.life, c.session, c.closes, c.refuse)
			p.press(p.open("issued"), lanes, during)
			// Each connection is dialled ten times a second at most, one that is refused less and
			// less; the general client once for each call, which it tries once more.
			seconds := int32(during / time.Second)
			dials := lanes*(10*seconds+1) + 2*p.calls.Load()
			proofs := p.dials.Load() + 3*p.calls.Load()
			switch {
			case c.refuse:
				dials = lanes*(4+seconds) + 2*p.calls.Load()
			case !c.closes:
				dials = lanes + 4 // of the general client
				proofs += lanes * seconds
			}
			require.Positive(t, p.dials.Load())
			require.LessOrEqual(t, p.dials.Load(), dials)
			// Who is let in proves itself for each connection, and again when a session is to be
			// renewed: once in 1.1 s at most, and the general client, if its session ends within a
			// second, for each call.
			require.LessOrEqual(t, p.proofs.Load(), proofs)
			require.LessOrEqual(t, p.asked.Load(), 2+seconds*5/4, "a token is used for four fifths of a second at least")
			t.Logf("%d dials, %d proofs, %d questions to the issuer, %d calls", p.dials.Load(), p.proofs.Load(), p.asked.Load(), p.calls.Load())
		})
	}
}
