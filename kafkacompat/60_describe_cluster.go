package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeCluster: v0-v2
//
// Version notes:
// * v1: endpoint type (KIP-919); there are no controllers to connect to
// * v2: fenced brokers (KIP-1073); there are none

const (
	endpointBrokers     = 1
	endpointControllers = 2
)

func handleDescribeCluster(_ context.Context, c *conn, req *request, kreq *kmsg.DescribeClusterRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DescribeClusterResponse)
	resp.ControllerID = -1
	if req.version >= 1 && kreq.EndpointType != endpointBrokers {
		resp.ErrorCode = req.refuse(kerr.UnsupportedEndpointType)
		if kreq.EndpointType == endpointControllers {
			resp.ErrorCode = req.refuse(kerr.MismatchedEndpointType)
		}
		resp.ErrorMessage = new("gateways have broker endpoints only")
		return resp
	}
	resp.EndpointType = endpointBrokers
	m := c.s.mapOrNil()
	if m == nil {
		resp.ErrorCode = req.refuse(kerr.CoordinatorNotAvailable)
		resp.ErrorMessage = new("the gateway is starting")
		return resp
	}
	if kreq.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = req.clusterOperations()
	}
	v := c.view(m, req.clientID)
	resp.ClusterID, resp.ControllerID = m.ClusterID, v.controller()
	for _, g := range v.ready {
		b := kmsg.NewDescribeClusterResponseBroker()
		b.NodeID = int32(g.NodeID)
		b.Host, b.Port = hostPort(g)
		b.Rack = rack(g)
		resp.Brokers = append(resp.Brokers, b)
	}
	return resp
}
