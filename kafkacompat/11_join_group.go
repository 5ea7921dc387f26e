package kafkacompat

import (
	"context"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/security"
)

// JoinGroup: v0-v9
//
// Version notes:
// * v1: rebalance timeout; v0 takes the session timeout
// * v4: a new member gets its id first (MEMBER_ID_REQUIRED, KIP-394)
// * v5: group instance id (KIP-345)
// * v6: flexible
// * v7: protocol type in the response (KIP-559)
// * v8: reason (KIP-800)
// * v9: skip assignment (KIP-814)

func handleJoinGroup(ctx context.Context, c *conn, req *request, kreq *kmsg.JoinGroupRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.JoinGroupResponse)
	resp.Generation, resp.MemberID = -1, kreq.MemberID
	if resp.ErrorCode = req.mayGroup(ctx, acl.Read, kreq.Group); resp.ErrorCode != 0 {
		if req.version < 7 {
			resp.Protocol = new("")
		}
		return resp
	}
	jr := groups.JoinRequest{
		Group:             kreq.Group,
		MemberID:          kreq.MemberID,
		InstanceID:        deref(kreq.InstanceID),
		ClientID:          req.clientID,
		ClientHost:        c.clientHost(),
		Principal:         security.PrincipalOf(ctx).String(),
		ProtocolType:      kreq.ProtocolType,
		SessionTimeout:    millis(kreq.SessionTimeoutMillis),
		RebalanceTimeout:  millis(kreq.RebalanceTimeoutMillis),
		RequireMemberID:   req.version >= 4,
		CanSkipAssignment: req.version >= 9,
		Reason:            deref(kreq.Reason),
	}
	if req.version == 0 {
		jr.RebalanceTimeout = jr.SessionTimeout
	}
	for _, p := range kreq.Protocols {
		jr.Protocols = append(jr.Protocols, groups.Protocol{Name: p.Name, Metadata: p.Metadata})
	}
	req.body = nil
	jr.Taken = req.frame.release
	r, err := c.s.deps.Groups.Join(ctx, jr)
	if err != nil {
		resp.ErrorCode = req.fail(waitEnded(ctx, err))
		if r.MemberID != "" {
			resp.MemberID = r.MemberID
		}
		if req.version < 7 {
			resp.Protocol = new("") // null only from v7 on
		}
		return resp
	}
	const memberBytes = 200
	n := 0
	for _, m := range r.Members {
		n += memberBytes + len(m.Metadata)
	}
	if req.roomSoon(ctx, c, int64(n)) != nil {
		return nil
	}
	resp.Generation = r.Generation
	resp.ProtocolType, resp.Protocol = new(r.ProtocolType), new(r.ProtocolName)
	resp.LeaderID, resp.MemberID, resp.SkipAssignment = r.LeaderID, r.MemberID, r.SkipAssignment
	for _, m := range r.Members {
		rm := kmsg.NewJoinGroupResponseMember()
		rm.MemberID, rm.InstanceID, rm.ProtocolMetadata = m.MemberID, ref(m.InstanceID), m.Metadata
		resp.Members = append(resp.Members, rm)
	}
	return resp
}

// waitEnded turns the end of a wait, because this gateway drains, into what sends
// the client to the next coordinator.
func waitEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return federation.Errorf(federation.NotCoordinator, "the gateway is stopping")
	}
	return err
}

// clientHost is the client's address as DescribeGroups shows it: Java's
// InetAddress.toString begins with a slash.
func (c *conn) clientHost() string {
	host, _, err := net.SplitHostPort(c.nc.RemoteAddr().String())
	if err != nil {
		host = c.nc.RemoteAddr().String()
	}
	return "/" + host
}

func millis(ms int32) time.Duration { return time.Duration(ms) * time.Millisecond }

// ref is nil for an empty string.
func ref(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
