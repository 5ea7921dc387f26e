package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/internal/acl"
)

// SyncGroup: v0-v5
//
// Version notes:
// * v3: group instance id (KIP-345)
// * v4: flexible
// * v5: protocol type and name, mandatory (KIP-559)

func handleSyncGroup(ctx context.Context, c *conn, req *request, kreq *kmsg.SyncGroupRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.SyncGroupResponse)
	resp.MemberAssignment = []byte{}
	if req.version >= 5 && (kreq.ProtocolType == nil || kreq.Protocol == nil) {
		resp.ErrorCode = req.refuse(kerr.InconsistentGroupProtocol)
		return resp
	}
	if resp.ErrorCode = req.mayGroup(ctx, acl.Read, kreq.Group); resp.ErrorCode != 0 {
		return resp
	}
	sr := groups.SyncRequest{
		Group: kreq.Group, MemberID: kreq.MemberID, InstanceID: deref(kreq.InstanceID), Generation: kreq.Generation,
		ProtocolType: deref(kreq.ProtocolType), ProtocolName: deref(kreq.Protocol),
	}
	for _, a := range kreq.GroupAssignment {
		sr.Assignments = append(sr.Assignments, groups.MemberAssignment{MemberID: a.MemberID, Assignment: a.MemberAssignment})
	}
	if len(sr.Assignments) == 0 {
		req.letGo() // it waits for the leader's, which waits for nobody
	}
	r, err := c.s.deps.Groups.Sync(ctx, sr)
	c.memberSeen(err)
	if err != nil {
		err = waitEnded(ctx, err)
		switch federation.KindOf(err) {
		case federation.CoordinatorLoading, federation.StoreUnavailable:
			// Java's SyncGroupResponseHandler throws on COORDINATOR_LOAD_IN_PROGRESS; with
			// this it joins again (GroupCoordinatorService.syncGroup answers the same).
			resp.ErrorCode = req.refuse(kerr.RebalanceInProgress)
		default:
			resp.ErrorCode = req.fail(err)
		}
		return resp
	}
	resp.ProtocolType, resp.Protocol = new(r.ProtocolType), new(r.ProtocolName)
	if r.Assignment != nil {
		resp.MemberAssignment = r.Assignment
	}
	return resp
}
