package controller

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/rpcerror"
)

type operationService struct{ c *Controller }

// GetOperation returns one operation.
func (s *operationService) GetOperation(_ context.Context, req *adminv1.GetOperationRequest) (*adminv1.GetOperationResponse, error) {
	_, op, err := s.c.findOperation(req.GetName())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	rec, _ := op.record()
	return &adminv1.GetOperationResponse{Operation: operationProto(rec)}, nil
}

func (c *Controller) findOperation(name string) (*term, *operation, error) {
	t, err := c.leading()
	if err != nil {
		return nil, nil, err
	}
	id := strings.TrimPrefix(name, collectionOperations)
	op := t.ops.get(id)
	if op == nil {
		return nil, nil, federation.Errorf(federation.InvalidArgument, "operation %q is not known; the newest %d ended ones are kept, `braid operation list` shows them", id, c.cfg.OperationsKeep)
	}
	return t, op, nil
}

// ListOperations returns a page of operations, newest first.
func (s *operationService) ListOperations(_ context.Context, req *adminv1.ListOperationsRequest) (*adminv1.ListOperationsResponse, error) {
	t, err := s.c.leading()
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	// Newest first: the key of the pages falls as the sequence rises.
	key := func(rec redisstore.Operation) string {
		const digits = 19
		n := strconv.FormatInt(1<<62-rec.Sequence, 10)
		return strings.Repeat("0", max(0, digits-len(n))) + n
	}
	recs, next, err := page(t.ops.list(), key, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	out := &adminv1.ListOperationsResponse{NextPageToken: next}
	for _, rec := range recs {
		out.Operations = append(out.Operations, operationProto(rec))
	}
	return out, nil
}

// WatchOperation sends the operation now, at each change, and at its end.
func (s *operationService) WatchOperation(ctx context.Context, req *adminv1.WatchOperationRequest, stream *connect.ServerStream[adminv1.WatchOperationResponse]) error {
	t, op, err := s.c.findOperation(req.GetName())
	if err != nil {
		return rpcerror.Error(err)
	}
	for {
		rec, changed := op.record()
		if err := stream.Send(&adminv1.WatchOperationResponse{Operation: operationProto(rec)}); err != nil {
			return err
		}
		if rec.Done {
			return nil
		}
		select {
		case <-changed:
		case <-t.done:
			return rpcerror.Error(errNotLeader())
		case <-ctx.Done():
			return rpcerror.Error(ctx.Err())
		}
	}
}

// CancelOperation asks an operation to end at its next safe point, and waits for
// its end. An operation that cannot be taken back any more ends as it would have.
func (s *operationService) CancelOperation(ctx context.Context, req *adminv1.CancelOperationRequest) (*adminv1.CancelOperationResponse, error) {
	t, op, err := s.c.findOperation(req.GetName())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	if err := t.ops.requestCancel(ctx, op); err != nil {
		return nil, rpcerror.Error(err)
	}
	timeout := time.NewTimer(s.c.cfg.RequestWait)
	defer timeout.Stop()
	select {
	case <-op.ended:
	case <-timeout.C:
	case <-t.done:
		return nil, rpcerror.Error(errNotLeader())
	case <-ctx.Done():
		return nil, rpcerror.Error(ctx.Err())
	}
	rec, _ := op.record()
	return &adminv1.CancelOperationResponse{Operation: operationProto(rec)}, nil
}

func operationProto(rec redisstore.Operation) *adminv1.Operation {
	out := &adminv1.Operation{
		Name:         collectionOperations + rec.ID,
		Kind:         rec.Kind,
		Done:         rec.Done,
		ErrorMessage: rec.ErrorMessage,
		StartTime:    timestamppb.New(time.UnixMilli(rec.StartedMs)),
		Target:       rec.Target,

		TenantErrorMessage: cmp.Or(rec.ErrorPublic, rec.ErrorMessage),
	}
	switch rec.ErrorKind {
	case "":
	case errorCancelled:
		out.ErrorCode = int32(connect.CodeCanceled)
	default:
		out.ErrorCode = int32(rpcerror.Code(rpcerror.ParseKind(rec.ErrorKind)))
	}
	if rec.EndedMs != 0 {
		out.EndTime = timestamppb.New(time.UnixMilli(rec.EndedMs))
	}
	for _, s := range rec.Steps {
		out.Steps = append(out.Steps, &adminv1.Operation_Step{Name: s.Name, Done: s.Done, Total: s.Total, Detail: s.Detail})
	}
	return out
}
