package gateway

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/gen/braid/naming/v1/namingv1connect"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/rpcerror"
)

// mountAdmin adds the admin services: groups are served here, the others are
// passed on to the leading controller.
func (g *Gateway) mountAdmin(mux *http.ServeMux) {
	admin := append(append([]connect.HandlerOption{}, g.options...), connect.WithInterceptors(connect.UnaryInterceptorFunc(g.authorizeAdmin)))
	forward := append(slices.Clip(admin), connect.WithInterceptors(connect.UnaryInterceptorFunc(forwardErrors)))
	if g.deps.Groups != nil {
		lazily(mux, adminv1connect.GroupServiceName, func() (string, http.Handler) {
			return adminv1connect.NewGroupServiceHandler(&groupService{g}, admin...)
		})
	}
	if g.deps.Topics != nil {
		lazily(mux, adminv1connect.TopicServiceName, func() (string, http.Handler) {
			return adminv1connect.NewTopicServiceHandler(g.deps.Topics, forward...)
		})
	}
	if g.deps.Clusters != nil {
		lazily(mux, adminv1connect.ClusterServiceName, func() (string, http.Handler) {
			return adminv1connect.NewClusterServiceHandler(g.deps.Clusters, forward...)
		})
	}
	if g.deps.Fleet != nil {
		lazily(mux, adminv1connect.FleetServiceName, func() (string, http.Handler) {
			return adminv1connect.NewFleetServiceHandler(&forwardedFleet{g.deps.Fleet, g}, forward...)
		})
	}
	if g.deps.Operations != nil {
		lazily(mux, adminv1connect.OperationServiceName, func() (string, http.Handler) {
			return adminv1connect.NewOperationServiceHandler(&forwardedOperations{g.deps.Operations, g}, forward...)
		})
	}
	if g.deps.Acls != nil {
		lazily(mux, adminv1connect.AclServiceName, func() (string, http.Handler) {
			return adminv1connect.NewAclServiceHandler(&forwardedACLs{g.deps.Acls, g}, forward...)
		})
	}
	if g.deps.Quotas != nil {
		lazily(mux, adminv1connect.QuotaServiceName, func() (string, http.Handler) {
			return adminv1connect.NewQuotaServiceHandler(&forwardedQuotas{g.deps.Quotas, g}, forward...)
		})
	}
	if g.deps.GroupConfigs != nil {
		lazily(mux, adminv1connect.GroupConfigServiceName, func() (string, http.Handler) {
			return adminv1connect.NewGroupConfigServiceHandler(&forwardedGroupConfigs{g.deps.GroupConfigs, g}, forward...)
		})
	}
	if g.deps.Credentials != nil {
		lazily(mux, adminv1connect.CredentialServiceName, func() (string, http.Handler) {
			return adminv1connect.NewCredentialServiceHandler(g.deps.Credentials, forward...)
		})
	}
	if g.deps.Tenants != nil {
		lazily(mux, adminv1connect.TenantServiceName, func() (string, http.Handler) {
			return adminv1connect.NewTenantServiceHandler(g.deps.Tenants, forward...)
		})
	}
	if g.deps.Naming != nil {
		lazily(mux, namingv1connect.NameServiceName, func() (string, http.Handler) {
			return namingv1connect.NewNameServiceHandler(g.deps.Naming, g.options...)
		})
	}
}

// forwardErrors makes the error of a forwarded call anew: the original carries the
// headers of the other server's answer.
func forwardErrors(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		res, err := next(ctx, r)
		if err != nil && ctx.Err() == nil {
			err = brokenOff(err, "the leading controller broke off; look whether the call was done, and try again")
		}
		if err != nil {
			return nil, forwarded(err)
		}
		return res, nil
	}
}

func forwarded(err error) error {
	if err == nil {
		return nil
	}
	return rpcerror.Error(rpcerror.FromError(err))
}

// fleet are the calls of FleetService, the same for client and handler.
type fleet interface {
	ListGateways(context.Context, *adminv1.ListGatewaysRequest) (*adminv1.ListGatewaysResponse, error)
	GetStatus(context.Context, *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error)
	DrainGateway(context.Context, *adminv1.DrainGatewayRequest) (*adminv1.DrainGatewayResponse, error)
}

// forwardedFleet adds what gateways know and controllers do not: the groups.
type forwardedFleet struct {
	fleet
	g *Gateway
}

func (f *forwardedFleet) GetStatus(ctx context.Context, r *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error) {
	res, err := f.fleet.GetStatus(ctx, r)
	if err != nil || f.g.deps.Groups == nil {
		return res, err
	}
	ctx, cancel := f.g.withUnaryTimeout(ctx)
	defer cancel()
	groups, err := f.g.deps.Groups.List(ctx)
	if err != nil {
		res.Alarms = append(res.Alarms, "groups cannot be counted: "+err.Error())
		return res, nil
	}
	res.Groups = int64(len(groups))
	return res, nil
}

// operations are the unary calls of OperationService, the same for client and handler.
type operations interface {
	GetOperation(context.Context, *adminv1.GetOperationRequest) (*adminv1.GetOperationResponse, error)
	ListOperations(context.Context, *adminv1.ListOperationsRequest) (*adminv1.ListOperationsResponse, error)
	CancelOperation(context.Context, *adminv1.CancelOperationRequest) (*adminv1.CancelOperationResponse, error)
}

// forwardedOperations passes OperationService on.
type forwardedOperations struct {
	operations
	g *Gateway
}

// WatchOperation passes a watch on. While the gateway drains it ends the watch
// with UNAVAILABLE, so that the client goes on elsewhere.
func (f *forwardedOperations) WatchOperation(ctx context.Context, r *adminv1.WatchOperationRequest, out *connect.ServerStream[adminv1.WatchOperationResponse]) error {
	if err := f.g.enter(); err != nil {
		return rpcerror.Error(err)
	}
	defer f.g.leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if _, err := f.g.mayAdmin(ctx, adminv1connect.OperationServiceWatchOperationProcedure, []right{onCluster(acl.Describe)}); err != nil {
		return rpcerror.Error(err)
	}
	in, err := f.g.deps.Operations.WatchOperation(ctx, r)
	if err != nil {
		return forwarded(err)
	}
	defer func() { _ = in.Close() }()
	f.g.tasks.Go(func() {
		select {
		case <-f.g.draining:
			cancel()
		case <-ctx.Done():
		}
	})
	for in.Receive() {
		if err := out.Send(in.Msg()); err != nil {
			return err
		}
	}
	select {
	case <-f.g.draining:
		return rpcerror.Error(federation.Errorf(federation.NoLeader, "this gateway is draining; watch again at another one"))
	default:
		// The next leader goes on with the operation.
		return forwarded(brokenOff(in.Err(), "the leading controller broke off; watch again"))
	}
}

// brokenOff replaces an error that nobody said, neither a controller nor this gateway,
// but that of a connection that broke: its code would be final for the caller.
func brokenOff(err error, text string) error {
	var broken *connect.Error
	if !errors.As(err, &broken) || connect.IsWireError(err) || len(broken.Details()) > 0 {
		return err
	}
	switch broken.Code() {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded:
		return err
	default:
		return federation.Errorf(federation.NotLeader, "%s", text).WithCause(err)
	}
}
