package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeACLs, CreateACLs, DeleteACLs: v1-v3
//
// Answered as by a stock broker without an authorizer: SECURITY_DISABLED.
//
// Version notes:
// * v2: flexible

const noAuthorizer = "No Authorizer is configured."

func handleDescribeACLs(_ context.Context, _ *conn, req *request, kreq *kmsg.DescribeACLsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DescribeACLsResponse)
	resp.ErrorCode, resp.ErrorMessage = req.refuse(kerr.SecurityDisabled), new(noAuthorizer)
	return resp
}

func handleCreateACLs(_ context.Context, _ *conn, req *request, kreq *kmsg.CreateACLsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.CreateACLsResponse)
	for range kreq.Creations {
		r := kmsg.NewCreateACLsResponseResult()
		r.ErrorCode, r.ErrorMessage = req.refuse(kerr.SecurityDisabled), new(noAuthorizer)
		resp.Results = append(resp.Results, r)
	}
	return resp
}

func handleDeleteACLs(_ context.Context, _ *conn, req *request, kreq *kmsg.DeleteACLsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DeleteACLsResponse)
	for range kreq.Filters {
		r := kmsg.NewDeleteACLsResponseResult()
		r.ErrorCode, r.ErrorMessage = req.refuse(kerr.SecurityDisabled), new(noAuthorizer)
		resp.Results = append(resp.Results, r)
	}
	return resp
}
