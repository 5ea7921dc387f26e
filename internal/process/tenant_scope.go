package process

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/internal/security"
)

// headerLogicalCluster says which logical cluster a call is about, for callers that are
// not bound to one.
const headerLogicalCluster = "Braid-Logical-Cluster"

// handler says who serves a call of the Connect API, and who calls there; nil = what is
// the deployment's own.
func (t *tenancy) handler(r *http.Request, p security.Principal, external bool) (http.Handler, security.Principal, error) {
	tenant, there, err := t.choose(r, p, external)
	if err != nil || tenant == "" {
		return nil, p, err
	}
	parts, err := t.get(tenant)
	if err != nil {
		return nil, p, err
	}
	return parts.handler, there, nil
}

// tenantProcedures are the calls of forwarded services that a tenant has: those about
// names. Where data lies is the deployment's business.
var tenantProcedures = map[string]bool{
	adminv1connect.TopicServiceCreateTopicProcedure: true, adminv1connect.TopicServiceGetTopicProcedure: true,
	adminv1connect.TopicServiceListTopicsProcedure: true, adminv1connect.TopicServiceUpdateTopicProcedure: true,
	adminv1connect.TopicServiceGrowTopicProcedure: true, adminv1connect.TopicServiceDeleteTopicProcedure: true,
}

const operationProcedures = "/" + adminv1connect.OperationServiceName + "/"

// A scope keeps admin calls to the names of one logical cluster.
type scope struct {
	t      *tenancy
	tenant string
}

func (t *tenancy) scope(tenant string) connect.Interceptor { return scope{t, tenant} }

var _ connect.Interceptor = scope{}

func (s scope) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		if err := s.check(ctx, r); err != nil {
			return nil, rpcerror.Error(err)
		}
		res, err := next(ctx, r)
		switch {
		case s.tenant == "":
			return res, err
		case err != nil:
			return nil, s.told(err)
		}
		if err := s.answer(res.Any()); err != nil {
			return nil, rpcerror.Error(err)
		}
		return res, nil
	}
}

// told returns an error as users of the tenant are told it.
func (s scope) told(err error) error {
	e, ok := errors.AsType[*federation.Error](rpcerror.FromError(err))
	if !ok || e.ForTenant() == e {
		return err
	}
	return rpcerror.Error(e.ForTenant())
}

// answer leaves out of an answer to a tenant what is not its own.
func (s scope) answer(msg any) error {
	for _, topic := range topicsOf(msg) {
		if topic != nil {
			topic.Placement = nil
		}
	}
	switch m := msg.(type) {
	case *adminv1.ListOperationsResponse:
		m.Operations = slices.DeleteFunc(m.GetOperations(), func(op *adminv1.Operation) bool { return s.operation(op) != nil })
	case interface{ GetOperation() *adminv1.Operation }: // GetOperation and WatchOperation
		return s.operation(m.GetOperation())
	}
	return nil
}

// operation keeps of an operation on one of the tenant's topics what it may know. Those on
// others are not known to it.
func (s scope) operation(op *adminv1.Operation) error {
	if !strings.HasPrefix(op.GetTarget(), "logicalClusters/"+s.tenant+"/") {
		return federation.Errorf(federation.InvalidArgument, "operation %q is not known", strings.TrimPrefix(op.GetName(), "operations/"))
	}
	for _, step := range op.GetSteps() {
		step.Detail = "" // it can say where the data lies
	}
	if op.GetErrorMessage() != "" {
		op.ErrorMessage = cmp.Or(op.GetTenantErrorMessage(), "the operation failed; the operators of the deployment see why")
	}
	return nil
}

// topicsOf returns the topics in a request or an answer.
func topicsOf(msg any) []*adminv1.Topic {
	switch m := msg.(type) {
	case *adminv1.ListTopicsResponse:
		return m.GetTopics()
	case interface{ GetTopic() *adminv1.Topic }:
		return []*adminv1.Topic{m.GetTopic()}
	default:
		return nil
	}
}

func (s scope) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (s scope) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	if s.tenant == "" {
		return next
	}
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if conn.Spec().Procedure == adminv1connect.OperationServiceWatchOperationProcedure {
			conn = scopedConn{conn, s}
		}
		if err := next(ctx, conn); err != nil {
			return s.told(err)
		}
		return nil
	}
}

// A scopedConn is the stream of a tenant's watch.
type scopedConn struct {
	connect.StreamingHandlerConn
	scope scope
}

// Send implements connect.StreamingHandlerConn.
func (c scopedConn) Send(msg any) error {
	if err := c.scope.answer(msg); err != nil {
		return rpcerror.Error(err)
	}
	return c.StreamingHandlerConn.Send(msg)
}

func (s scope) check(ctx context.Context, r connect.AnyRequest) error {
	procedure := r.Spec().Procedure
	if !strings.HasPrefix(procedure, "/braid.admin.") {
		return nil
	}
	if s.tenant != "" && strings.HasPrefix(procedure, "/"+adminv1connect.TopicServiceName+"/") && !tenantProcedures[procedure] {
		return errPlacement()
	}
	if s.tenant != "" && strings.HasPrefix(procedure, operationProcedures) {
		if procedure == adminv1connect.OperationServiceCancelOperationProcedure {
			return federation.Errorf(federation.NotAuthorized, "the operators of the deployment cancel operations")
		}
		return nil // the answer is looked at
	}
	for _, topic := range topicsOf(r.Any()) {
		if s.tenant != "" && topic.GetPlacement() != nil {
			return errPlacement()
		}
	}
	msg, ok := r.Any().(proto.Message)
	if !ok {
		return nil
	}
	return s.names(ctx, r.Peer().Addr, msg.ProtoReflect(), true)
}

func errPlacement() error {
	return federation.Errorf(federation.NotAuthorized, "where the data of a tenant lies is decided by the operators of the deployment")
}

// names looks at the resource names of a request. One of another logical cluster is for
// those only who may do everything; a parent that is not said is the caller's.
func (s scope) names(ctx context.Context, peer string, m protoreflect.Message, top bool) error {
	own := s.tenant
	if own == "" {
		own = s.t.w.cfg.LogicalCluster
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.IsList() || f.IsMap():
		case f.Kind() == protoreflect.MessageKind && m.Has(f):
			if err := s.names(ctx, peer, m.Get(f).Message(), false); err != nil {
				return err
			}
		case f.Kind() != protoreflect.StringKind || f.Name() != "name" && f.Name() != "parent":
		default:
			value := m.Get(f).String()
			if value == "" && f.Name() == "parent" && top && s.tenant != "" {
				m.Set(f, protoreflect.ValueOfString("logicalClusters/"+s.tenant))
				continue
			}
			rest, ok := strings.CutPrefix(value, "logicalClusters/")
			logical, _, _ := strings.Cut(rest, "/")
			if logical == own && ok || value == "" || !strings.Contains(value, "/") {
				continue // a plain id is that of one who is served here
			}
			if s.tenant == "" && (!ok || s.t.everything(security.PrincipalOf(ctx), peer)) {
				continue
			}
			if !ok {
				return federation.Errorf(federation.InvalidArgument, "%s %q: want one that begins with logicalClusters/%s/", f.Name(), value, own)
			}
			return federation.Errorf(federation.UnknownCluster, "logical cluster %q is not served here; this is %q", logical, own)
		}
	}
	return nil
}
