package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/acl"
)

// FindCoordinator: v0-v6
//
// Groups only. Each gateway names the same one of Metadata's nodes for a group.
//
// Version notes:
// * v1: key type, error message
// * v3: flexible
// * v4: several keys (KIP-699)
// * v6: share groups (KIP-932); refused

// The key types (FindCoordinatorRequest.CoordinatorType).
const (
	coordinatorGroup       = 0
	coordinatorTransaction = 1
)

func handleFindCoordinator(ctx context.Context, c *conn, req *request, kreq *kmsg.FindCoordinatorRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.FindCoordinatorResponse)
	if req.version >= 4 {
		for _, key := range once(kreq.CoordinatorKeys, itself) {
			resp.Coordinators = append(resp.Coordinators, c.coordinator(ctx, req, kreq.CoordinatorType, key))
		}
		return resp
	}
	one := c.coordinator(ctx, req, kreq.CoordinatorType, kreq.CoordinatorKey)
	resp.ErrorCode, resp.ErrorMessage = one.ErrorCode, one.ErrorMessage
	resp.NodeID, resp.Host, resp.Port = one.NodeID, one.Host, one.Port
	return resp
}

func (c *conn) coordinator(ctx context.Context, req *request, kind int8, key string) kmsg.FindCoordinatorResponseCoordinator {
	rc := kmsg.NewFindCoordinatorResponseCoordinator()
	rc.Key, rc.NodeID, rc.Port = key, -1, -1
	switch kind {
	case coordinatorGroup:
	case coordinatorTransaction:
		rc.ErrorCode = req.refuse(kerr.TransactionalIDAuthorizationFailed)
		rc.ErrorMessage = message(errNoTransactions)
		return rc
	default:
		rc.ErrorCode = req.refuse(kerr.InvalidRequest)
		rc.ErrorMessage = new("braid coordinates consumer groups only")
		return rc
	}
	m := c.s.mapOrNil()
	if m == nil {
		rc.ErrorCode = req.refuse(kerr.CoordinatorNotAvailable)
		rc.ErrorMessage = new("the gateway is starting")
		return rc
	}
	if rc.ErrorCode = req.mayGroup(ctx, acl.Describe, key); rc.ErrorCode != 0 {
		rc.ErrorMessage = deniedMessage(rc.ErrorCode)
		return rc
	}
	g := m.GroupGateway(key)
	if g == nil || g.KafkaAddress == "" {
		rc.ErrorCode = req.refuse(kerr.CoordinatorNotAvailable)
		rc.ErrorMessage = new("no gateway that serves consumers is ready")
		return rc
	}
	rc.NodeID = int32(g.NodeID)
	rc.Host, rc.Port = hostPort(g)
	return rc
}
