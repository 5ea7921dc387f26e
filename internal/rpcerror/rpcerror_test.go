package rpcerror_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/braidmq/braid/federation"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/rpcerror"
)

// overWire sends err through a real handler and client and returns what the client got.
func overWire(t *testing.T, err error, opts ...connect.ClientOption) error {
	t.Helper()
	const procedure = "/test.Service/Call"
	mux := http.NewServeMux()
	mux.Handle(procedure, connect.NewUnaryHandler(procedure,
		func(context.Context, *connect.Request[emptypb.Empty]) (*connect.Response[emptypb.Empty], error) {
			return nil, rpcerror.Error(err)
		}))
	server := httptest.NewServer(mux)
	defer server.Close()
	client := connect.NewClient[emptypb.Empty, emptypb.Empty](server.Client(), server.URL+procedure, opts...)
	_, got := client.CallUnary(t.Context(), connect.NewRequest(&emptypb.Empty{}))
	return got
}

func TestEveryKindComesBackOverTheWire(t *testing.T) {
	names := map[string]federation.Kind{}
	for _, k := range federation.Kinds() {
		partition := federation.LogicalPartition(k)
		sent := federation.Errorf(k, "kind %d of %s on %q: %s", k, federation.TopicPartition{Topic: "orders", Partition: partition},
			federation.ClusterName("east"), federation.SettingName("retention.ms"))
		sent.Subject.Group = "billing"
		sent.RetryAfter = 250 * time.Millisecond
		for _, opt := range []connect.ClientOption{connect.WithProtoJSON(), connect.WithGRPCWeb()} {
			wire := overWire(t, fmt.Errorf("wrapped: %w", sent), opt)

			var ce *connect.Error
			require.ErrorAs(t, wire, &ce)
			require.Equal(t, rpcerror.Code(k), ce.Code())
			info := errorInfo(t, ce)
			require.Equal(t, rpcerror.Domain, info.GetDomain())
			require.Equal(t, rpcerror.Reason(k).String(), info.GetReason())
			require.Equal(t, k, rpcerror.ParseKind(rpcerror.KindName(k)))
			require.NotEqual(t, braidv1.Reason_REASON_UNSPECIFIED, rpcerror.Reason(k), "kind %d has no reason", k)
			if other, ok := names[info.GetMetadata()["kind"]]; ok {
				require.Equal(t, other, k, "two kinds have the name %q", info.GetMetadata()["kind"])
			}
			names[info.GetMetadata()["kind"]] = k
			require.Equal(t, map[string]string{
				"kind": rpcerror.KindName(k), "retry": strconv.FormatBool(k.Retriable()),
				"topic": "orders", "partition": strconv.Itoa(int(k)), "cluster": "east", "group": "billing", "setting": "retention.ms",
			}, info.GetMetadata())

			var got *federation.Error
			require.ErrorAs(t, rpcerror.FromError(wire), &got)
			require.Equal(t, k, got.Kind, "kind %d came back as %d", k, got.Kind)
			require.Equal(t, sent.Message, got.Message)
			require.Equal(t, sent.RetryAfter, got.RetryAfter)
			require.Equal(t, sent.Subject, got.Subject)
		}
	}
	require.Len(t, names, len(federation.Kinds()), "each kind has a row of its own")
}

func errorInfo(t *testing.T, ce *connect.Error) *errdetails.ErrorInfo {
	t.Helper()
	for _, d := range ce.Details() {
		v, err := d.Value()
		require.NoError(t, err)
		if info, ok := v.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	require.Fail(t, "no ErrorInfo")
	return nil
}

func TestEveryReasonStandsForAKindOfThatReason(t *testing.T) {
	// Reasons that only appear in frames, never as the error of a call.
	framesOnly := map[braidv1.Reason]bool{
		braidv1.Reason_REASON_UNSPECIFIED:           true,
		braidv1.Reason_REASON_STALE_PARTITION_COUNT: true,
		braidv1.Reason_REASON_EARLIER_FAILURE:       true,
	}
	for n, name := range braidv1.Reason_name {
		if framesOnly[braidv1.Reason(n)] {
			continue
		}
		ce := connect.NewError(connect.CodeUnknown, errors.New("from another build"))
		d, err := connect.NewErrorDetail(&errdetails.ErrorInfo{Domain: rpcerror.Domain, Reason: name})
		require.NoError(t, err)
		ce.AddDetail(d)
		require.Equal(t, name, rpcerror.Reason(federation.KindOf(rpcerror.FromError(ce))).String())
	}
}

func TestUnclassifiedErrorsDoNotLeak(t *testing.T) {
	err := overWire(t, errors.New("dial tcp 10.1.2.3:9092: refused"))
	require.NotContains(t, err.Error(), "10.1.2.3")
	require.Equal(t, federation.Internal, federation.KindOf(rpcerror.FromError(err)))

	hidden := federation.Errorf(federation.ClusterUnavailable, "cluster a does not answer").WithCause(errors.New("10.1.2.3"))
	require.NotContains(t, overWire(t, hidden).Error(), "10.1.2.3")
}

func TestErrorsThatNoBraidHandlerMade(t *testing.T) {
	require.NoError(t, rpcerror.FromError(nil))
	require.Nil(t, rpcerror.Error(nil))

	require.ErrorIs(t, rpcerror.FromError(overWire(t, context.Canceled)), context.Canceled)
	require.ErrorIs(t, rpcerror.FromError(overWire(t, context.DeadlineExceeded)), context.DeadlineExceeded)

	plain := errors.New("plain")
	require.Equal(t, plain, rpcerror.FromError(plain))
	own := federation.Errorf(federation.Conflict, "busy")
	require.Equal(t, error(own), rpcerror.FromError(own))

	for code, kind := range map[connect.Code]federation.Kind{
		connect.CodeUnavailable:       federation.NotLeader,
		connect.CodeUnimplemented:     federation.Unsupported,
		connect.CodePermissionDenied:  federation.NotAuthorized,
		connect.CodeInvalidArgument:   federation.InvalidArgument,
		connect.CodeResourceExhausted: federation.Throttled,
		connect.CodeAborted:           federation.Conflict,
		connect.CodeUnknown:           federation.Internal,
	} {
		require.Equal(t, kind, federation.KindOf(rpcerror.FromError(connect.NewError(code, plain))))
	}
	passed := connect.NewError(connect.CodeDataLoss, plain)
	require.Equal(t, passed, rpcerror.Error(passed))
}

// What a tenant is told comes over the wire beside the message.
func TestTextsForTenantsTravel(t *testing.T) {
	made := federation.Errorf(federation.ClusterUnavailable, "topic %q: physical cluster %q does not answer", federation.TopicName("acme/orders"), federation.ClusterName("east"))
	got, ok := errors.AsType[*federation.Error](rpcerror.FromError(rpcerror.Error(made)))
	require.True(t, ok)
	require.Equal(t, made.Message, got.Message)
	told := rpcerror.Error(got.ForTenant())
	require.Equal(t, `topic "orders": a physical cluster does not answer`, told.Message())
	require.NotContains(t, fmt.Sprint(told.Details()), "east")
	for _, d := range told.Details() {
		require.NotContains(t, string(d.Bytes()), "east")
	}
	require.Equal(t, "orders", errorInfo(t, told).GetMetadata()["topic"])

	long := federation.Errorf(federation.ClusterUnavailable, "%s on %s", federation.ClusterName("east"), strings.Repeat("é", 4000))
	got, ok = errors.AsType[*federation.Error](rpcerror.FromError(rpcerror.Error(long)))
	require.True(t, ok)
	require.NotContains(t, got.ForTenant().Message, "east")
	require.Contains(t, got.ForTenant().Message, "another one on é")
}
