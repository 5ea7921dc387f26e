package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/internal/acl"
)

// Heartbeat: v0-v4
//
// Version notes:
// * v3: group instance id (KIP-345)
// * v4: flexible

func handleHeartbeat(ctx context.Context, c *conn, req *request, kreq *kmsg.HeartbeatRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.HeartbeatResponse)
	if resp.ErrorCode = req.mayGroup(ctx, acl.Read, kreq.Group); resp.ErrorCode != 0 {
		return resp
	}
	err := c.s.deps.Groups.Heartbeat(ctx, groups.HeartbeatRequest{
		Group: kreq.Group, MemberID: kreq.MemberID, InstanceID: deref(kreq.InstanceID), Generation: kreq.Generation,
	})
	c.memberSeen(err)
	switch federation.KindOf(err) {
	case federation.CoordinatorLoading, federation.StoreUnavailable:
		// Java's HeartbeatResponseHandler throws on COORDINATOR_LOAD_IN_PROGRESS; a broker
		// that loads answers blindly too (GroupCoordinatorService.heartbeat).
		return resp
	default:
		resp.ErrorCode = req.fail(err)
	}
	return resp
}
