package rpcerror_test

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/rpcerror"
)

// subjectOf calls a handler that fails with err, and returns the metadata that the
// client gets of what the error is about.
func subjectOf[Req any](t *testing.T, procedure string, req *Req, err error) map[string]string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(procedure, connect.NewUnaryHandler(procedure, func(context.Context, *connect.Request[Req]) (*connect.Response[Req], error) {
		return nil, rpcerror.Error(err)
	}, connect.WithInterceptors(rpcerror.Subjects())))
	const stream = "/Stream"
	mux.Handle(stream+procedure, connect.NewServerStreamHandler(procedure, func(context.Context, *connect.Request[Req], *connect.ServerStream[Req]) error {
		return rpcerror.Error(err)
	}, connect.WithInterceptors(rpcerror.Subjects())))
	server := httptest.NewServer(mux)
	defer server.Close()
	subject := func(err error) map[string]string {
		var ce *connect.Error
		require.ErrorAs(t, err, &ce)
		m := maps.Clone(errorInfo(t, ce).GetMetadata())
		delete(m, "kind")
		delete(m, "retry")
		return m
	}
	_, got := connect.NewClient[Req, Req](server.Client(), server.URL+procedure).CallUnary(t.Context(), connect.NewRequest(req))
	out := subject(got)
	in, got := connect.NewClient[Req, Req](server.Client(), server.URL+stream+procedure).CallServerStream(t.Context(), connect.NewRequest(req))
	require.NoError(t, got)
	require.False(t, in.Receive())
	require.Equal(t, out, subject(in.Err()), "of a stream")
	return out
}

func TestErrorsAreAboutWhatTheCallIsAbout(t *testing.T) {
	away := federation.Errorf(federation.StoreUnavailable, "the store is away")
	const admin = "/braid.admin.v1.TopicService/Call"
	about := func(kv ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	const path = "logicalClusters/default/topics/orders"
	sources := func(topics ...string) []*braidv1.ReadSource {
		var out []*braidv1.ReadSource
		for _, topic := range topics {
			out = append(out, &braidv1.ReadSource{Topic: topic})
		}
		return out
	}
	require.Equal(t, about("topic", "orders"), subjectOf(t, admin, &braidv1.GetTopicInfoRequest{Topic: "orders"}, away))
	require.Equal(t, about("topic", "orders"), subjectOf(t, admin, &braidv1.ProduceBatchRequest{Batch: &braidv1.ProduceFrame{Topic: "orders"}}, away))
	require.Equal(t, about("topic", "orders"), subjectOf(t, admin, &braidv1.ReadRequest{Sources: sources("orders", "orders")}, away))
	require.Empty(t, subjectOf(t, admin, &braidv1.FetchRequest{Sources: sources("orders", "bills")}, away))
	require.Equal(t, about("group", "billing"), subjectOf(t, admin, &braidv1.CommitOffsetsRequest{Group: "billing"}, away))
	require.Equal(t, about("group", "billing"), subjectOf(t, admin,
		&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: &braidv1.Subscribe{Group: "billing"}}}, away))
	require.Equal(t, about("topic", "orders"), subjectOf(t, admin, &adminv1.CreateTopicRequest{TopicId: "orders"}, away))
	require.Equal(t, about("topic", "orders"), subjectOf(t, admin, &adminv1.UpdateTopicRequest{Topic: &adminv1.Topic{Name: path}}, away))
	require.Equal(t, about("topic", "orders"), subjectOf(t, admin, &adminv1.DeleteTopicRequest{Name: path}, away))
	require.Equal(t, about("topic", "orders"), subjectOf(t, admin, &adminv1.ListExtentsRequest{Parent: path}, away))
	require.Equal(t, about("cluster", "east"), subjectOf(t, admin, &adminv1.DeleteClusterRequest{Name: "physicalClusters/east"}, away))
	require.Equal(t, about("cluster", "east"), subjectOf(t, admin, &adminv1.CreateClusterRequest{Cluster: &adminv1.Cluster{Name: "physicalClusters/east"}}, away))
	for _, name := range []string{"billing", "logicalClusters/default/groups/billing"} {
		require.Equal(t, about("group", "billing"), subjectOf(t, "/braid.admin.v1.GroupService/GetGroup", &adminv1.GetGroupRequest{Name: name}, away))
	}
	require.Empty(t, subjectOf(t, admin, &adminv1.GetOperationRequest{Name: "operations/create-topic-1"}, away))

	// What the error itself says is better.
	other := federation.Errorf(federation.UnknownPartition, "%s", federation.TopicPartition{Topic: "bills", Partition: 3})
	require.Equal(t, about("topic", "bills", "partition", "3", "group", "billing"), subjectOf(t, admin, &braidv1.CommitOffsetsRequest{Group: "billing"}, other))

	// A name that is none is left out, and cannot break the message.
	require.Empty(t, subjectOf(t, admin, &braidv1.GetTopicInfoRequest{Topic: strings.Repeat("x", 600)}, away))
	broken := federation.Errorf(federation.UnknownTopic, "topic %q", federation.TopicName("a\xffb"))
	require.Equal(t, about("topic", "a\uFFFDb"), subjectOf(t, admin, &braidv1.GetTopicInfoRequest{}, broken))
}

func TestErrorsThatAreNotBraidsStayAsTheyAre(t *testing.T) {
	const procedure = "/test.Service/Call"
	sent := connect.NewError(connect.CodeCanceled, errors.New("gone"))
	sent.Meta().Set("x-test", "kept")
	call := func(err error) *connect.Error {
		mux := http.NewServeMux()
		mux.Handle(procedure, connect.NewUnaryHandler(procedure,
			func(context.Context, *connect.Request[braidv1.GetTopicInfoRequest]) (*connect.Response[braidv1.GetTopicInfoRequest], error) {
				return nil, err
			}, connect.WithInterceptors(rpcerror.Subjects())))
		server := httptest.NewServer(mux)
		defer server.Close()
		client := connect.NewClient[braidv1.GetTopicInfoRequest, braidv1.GetTopicInfoRequest](server.Client(), server.URL+procedure)
		_, got := client.CallUnary(t.Context(), connect.NewRequest(&braidv1.GetTopicInfoRequest{Topic: "orders"}))
		var ce *connect.Error
		require.ErrorAs(t, got, &ce)
		return ce
	}
	got := call(sent)
	require.Equal(t, connect.CodeCanceled, got.Code())
	require.Empty(t, got.Details())
	require.Equal(t, "kept", got.Meta().Get("x-test"))

	own := rpcerror.Error(federation.Errorf(federation.Throttled, "slower"))
	own.Meta().Set("x-test", "kept")
	got = call(own)
	require.Equal(t, "kept", got.Meta().Get("x-test"))
	require.Equal(t, "orders", errorInfo(t, got).GetMetadata()["topic"])
	require.True(t, proto.Equal(errorInfo(t, got), errorInfo(t, rpcerror.Error(rpcerror.FromError(got)))), "passed on as it is")
}
