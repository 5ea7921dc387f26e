package kafkacompat

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/internal/acl"
)

// LeaveGroup: v0-v5
//
// Version notes:
// * v3: several members, by group instance id too (KIP-345)
// * v4: flexible
// * v5: reason (KIP-800)

func handleLeaveGroup(ctx context.Context, c *conn, req *request, kreq *kmsg.LeaveGroupRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.LeaveGroupResponse)
	if resp.ErrorCode = req.mayGroup(ctx, acl.Read, kreq.Group); resp.ErrorCode != 0 {
		return resp
	}
	leaving := []groups.LeavingMember{{MemberID: kreq.MemberID}}
	if req.version >= 3 {
		leaving = leaving[:0]
		for _, m := range kreq.Members {
			leaving = append(leaving, groups.LeavingMember{MemberID: m.MemberID, InstanceID: deref(m.InstanceID), Reason: deref(m.Reason)})
		}
	}
	errs, err := c.s.deps.Groups.Leave(ctx, kreq.Group, leaving)
	c.memberAt.Store(0)
	if federation.KindOf(err) == federation.UnknownMember && req.version >= 3 {
		// A group that is not there has none of them, as a broker sees it.
		errs, err = slices.Repeat([]error{err}, len(kreq.Members)), nil
	}
	if err != nil {
		resp.ErrorCode = req.fail(err)
		return resp
	}
	if req.version < 3 {
		resp.ErrorCode = req.fail(errs[0])
		return resp
	}
	for i, m := range kreq.Members {
		rm := kmsg.NewLeaveGroupResponseMember()
		rm.MemberID, rm.InstanceID, rm.ErrorCode = m.MemberID, m.InstanceID, req.fail(errs[i])
		resp.Members = append(resp.Members, rm)
	}
	return resp
}
