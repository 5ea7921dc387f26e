package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/internal/acl"
)

// DescribeGroups: v0-v6
//
// Connect members are listed too, with the assignment of a Kafka member. A group of type
// consumer is not found, as in Kafka.
//
// Version notes:
// * v3: authorized operations
// * v4: group instance id
// * v5: flexible
// * v6: GROUP_ID_NOT_FOUND and an error message; before, the state Dead (KIP-1043)

func handleDescribeGroups(ctx context.Context, c *conn, req *request, kreq *kmsg.DescribeGroupsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DescribeGroupsResponse)
	for _, group := range once(kreq.Groups, itself) {
		rg := kmsg.NewDescribeGroupsResponseGroup()
		rg.Group = group
		if rg.ErrorCode = req.mayGroup(ctx, acl.Describe, group); rg.ErrorCode != 0 {
			rg.ErrorMessage = deniedMessage(rg.ErrorCode)
			resp.Groups = append(resp.Groups, rg)
			continue
		}
		d, err := c.s.deps.Groups.Describe(ctx, group)
		if err == nil && d.Type == groups.TypeConsumer {
			err = federation.Errorf(federation.GroupNotFound, "group %q is not a classic group; ConsumerGroupDescribe describes it", group)
		}
		if err == nil {
			err = req.room(ctx, c, membersBytes(d.Members))
		}
		if err != nil {
			if federation.KindOf(err) == federation.GroupNotFound {
				rg.State = "Dead"
				if kreq.IncludeAuthorizedOperations && req.version < 6 {
					rg.AuthorizedOperations = req.may.Operations(acl.Group, group)
				}
			}
			if rg.State == "" || req.version >= 6 {
				rg.ErrorCode = req.fail(err)
				rg.ErrorMessage = message(err)
			}
			resp.Groups = append(resp.Groups, rg)
			continue
		}
		if kreq.IncludeAuthorizedOperations {
			rg.AuthorizedOperations = req.may.Operations(acl.Group, group)
		}
		rg.State, rg.ProtocolType, rg.Protocol = d.State, d.ProtocolType, d.ProtocolName
		for _, m := range d.Members {
			rm := kmsg.NewDescribeGroupsResponseGroupMember()
			rm.MemberID, rm.InstanceID = m.MemberID, ref(m.InstanceID)
			rm.ClientID, rm.ClientHost = m.ClientID, m.ClientHost
			rm.ProtocolMetadata, rm.MemberAssignment = notNil(m.Metadata), notNil(m.Assignment)
			rg.Members = append(rg.Members, rm)
		}
		resp.Groups = append(resp.Groups, rg)
	}
	return resp
}

// membersBytes is what members of a group take in an answer.
func membersBytes(members []groups.DescribedMember) int64 {
	const memberBytes, topicBytes, partitionBytes = 400, 64, 32
	n := 0
	for i := range members {
		m := &members[i]
		n += memberBytes + 2*(len(m.Metadata)+len(m.Assignment)) + topicBytes*len(m.Topics) + partitionBytes*(len(m.Partitions)+len(m.Target))
	}
	return int64(n)
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
