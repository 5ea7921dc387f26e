package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/rpcerror"
)

type tenantsTopics struct {
	adminv1connect.UnimplementedTopicServiceHandler
}

func (tenantsTopics) GetTopic(_ context.Context, r *adminv1.GetTopicRequest) (*adminv1.GetTopicResponse, error) {
	return &adminv1.GetTopicResponse{Topic: &adminv1.Topic{Name: r.GetName(), PartitionCount: 3}}, nil
}

func (tenantsTopics) ListExtents(context.Context, *adminv1.ListExtentsRequest) (*adminv1.ListExtentsResponse, error) {
	return nil, rpcerror.Error(federation.Errorf(federation.NotAuthorized, "not told"))
}

// A user of a tenant looks at a topic, and is not told where it lies.
func TestDescribeATopicOfATenant(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle(adminv1connect.NewTopicServiceHandler(tenantsTopics{}))
	server := httptest.NewUnstartedServer(mux)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	for _, output := range []string{"table", "json"} {
		out, problem, code := braid(t.Context(), nil, "", "topic", "describe", "orders", "--logical-cluster", "acme", "--api", server.URL, "-o", output)
		require.Zero(t, code, "%s", problem)
		require.Contains(t, out, "orders")
		require.Contains(t, out, "3")
		require.NotContains(t, out, "PHYSICAL")
	}
}
