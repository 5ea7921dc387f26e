package kafkacompat

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// SaslHandshake: v0-v1
//
// Version notes:
// * v0: the messages that follow have no header
// * v1: they are SaslAuthenticate requests (KIP-43)

func handleSASLHandshake(ctx context.Context, c *conn, req *request, kreq *kmsg.SASLHandshakeRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.SASLHandshakeResponse)
	// The answer of a broker that authenticates nobody, or, for a connection that is in
	// already, cannot tell messages without headers from requests.
	if c.auth == nil || req.version == 0 && c.session.Load() != nil {
		resp.ErrorCode = req.refuse(kerr.IllegalSaslState)
		return resp
	}
	resp.SupportedMechanisms = slices.Clone(c.auth.Mechanisms())
	c.sasl.mechanism, c.sasl.exchange, c.sasl.raw = kreq.Mechanism, c.auth.Start(kreq.Mechanism), req.version == 0
	if c.sasl.exchange == nil {
		c.log.Info("a client asks for a SASL mechanism that is not offered", "mechanism", kreq.Mechanism)
		c.sasl.raw = false
		sleep(ctx, c.s.cfg.FailedAuthenticationDelay)
		resp.ErrorCode, req.last = req.refuse(kerr.UnsupportedSaslMechanism), true
	}
	return resp
}
