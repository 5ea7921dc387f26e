package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/security"
)

// SaslAuthenticate: v0-v2
//
// Version notes:
// * v1: the lifetime of the session (KIP-368)
// * v2: flexible

func handleSASLAuthenticate(ctx context.Context, c *conn, req *request, kreq *kmsg.SASLAuthenticateRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.SASLAuthenticateResponse)
	resp.SASLAuthBytes = []byte{}
	if c.sasl.exchange == nil {
		resp.ErrorCode, resp.ErrorMessage = req.refuse(kerr.IllegalSaslState), new("SaslAuthenticate without a SaslHandshake before it")
		req.last = c.auth != nil
		return resp
	}
	mechanism := c.sasl.mechanism
	reply, err := c.saslMessage(ctx, kreq.SASLAuthBytes)
	if security.Undecided(err) {
		// Nothing can be said of what the client has shown, and any error is final to
		// clients: the connection is closed, and they come again.
		req.fail(err)
		return nil
	}
	if err != nil {
		// Not why: a guess must not learn which part was right.
		resp.ErrorCode, resp.ErrorMessage = req.refuse(kerr.SaslAuthenticationFailed), new("Authentication failed with SASL mechanism "+mechanism+": invalid credentials")
		req.last = true
		return resp
	}
	if reply != nil {
		resp.SASLAuthBytes = reply
	}
	if c.sasl.exchange == nil {
		resp.SessionLifetimeMillis = c.session.Load().lifetimeMs()
	}
	return resp
}
