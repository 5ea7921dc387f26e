package controller

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/rpcerror"
)

// A leader that loses the store goes on, since nobody else can take the lead while
// the store is away. But it may be cut off alone, and another one may lead by now:
// what it knows may be old then, and it cannot tell.

// unconfirmed returns how long ago the lead was known to hold, if that is longer
// than it lasts; else 0.
func (t *term) unconfirmed() time.Duration {
	if d := time.Since(*t.confirmed.Load()); d > t.cfg.LeaseTTL {
		return d
	}
	return 0
}

// unsure is an interceptor of handlers: a leader whose lead is not confirmed gives no
// final error. What it does not know, or refuses, may be known or welcome by now.
type unsure struct{ *Controller }

// WrapUnary implements connect.Interceptor.
func (u unsure) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		res, err := next(ctx, req)
		return res, u.soften(err)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (unsure) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (u unsure) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return u.soften(next(ctx, conn))
	}
}

func (u unsure) soften(err error) error {
	if err == nil || federation.KindOf(rpcerror.FromError(err)).Retriable() {
		return err
	}
	t, leadErr := u.leading()
	if leadErr != nil {
		return rpcerror.Error(leadErr) // it has lost the lead meanwhile
	}
	if since := t.unconfirmed(); since > 0 {
		return rpcerror.Error(federation.Errorf(federation.NotLeader,
			"this controller could not confirm for %s that it leads, and what it knows may be old; try again", since.Round(time.Second)).WithCause(err))
	}
	return err
}
