package process

import (
	"cmp"
	"context"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/gateway"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/security"
)

// headerAudited names the process that has a call in its audit log. Whoever may call a
// controller may leave calls out of its log by that; so may one who acts as a gateway.
const headerAudited = "Braid-Audited-By"

// recorder makes what records the changes and denials at a controller's port. It decides
// nothing: who shows the fleet's token may do everything.
func (w *wiring) recorder() (*acl.Authorizer, error) {
	return acl.New(acl.Config{DenialsPerSecond: w.cfg.Authorization.AuditDenials}, w.log, w.telemetry.meter())
}

// recording records the changes that did not come by a gateway or a name service, which
// know whom they were made for and have recorded them. One that a take-over broke off is
// recorded where it was done then.
func recording(a *acl.Authorizer) connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
			res, err := next(ctx, r)
			change, ok := gateway.ChangeOf(r.Spec().Procedure, r.Any())
			if !ok || r.Header().Get(headerAudited) != "" {
				return res, err
			}
			from := cmp.Or(r.Header().Get(controller.HeaderForwardedFor), r.Peer().Addr)
			may := a.Access(nil, acl.Subject{Principal: security.PrincipalOf(ctx), Host: acl.Host(from)}, r.Spec().Procedure)
			record := func(err error) { may.Changed(ctx, change.Operation, change.Resource, change.Name, err) }
			if !controller.InVain(ctx, record) {
				record(err)
			}
			return res, err
		}
	}
}
