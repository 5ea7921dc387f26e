package kafkacompat

import (
	"context"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// ListGroups: v0-v5
//
// The groups that this gateway coordinates; clients ask every node and merge.
//
// Version notes:
// * v3: flexible
// * v4: states, and a filter for them (KIP-518)
// * v5: types, and a filter for them (KIP-848)

func handleListGroups(ctx context.Context, c *conn, req *request, kreq *kmsg.ListGroupsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.ListGroupsResponse)
	all, err := c.s.deps.Groups.List(ctx)
	if err != nil {
		resp.ErrorCode = req.fail(err)
		return resp
	}
	const groupBytes = 256
	if req.room(ctx, c, int64(len(all))*groupBytes) != nil {
		return nil
	}
	everyGroup := req.may.Sees(acl.Describe, acl.Cluster, federation.ACLClusterName)
	for _, g := range all {
		if !everyGroup && !req.may.Sees(acl.Describe, acl.Group, g.Group) {
			continue
		}
		if !wanted(kreq.StatesFilter, g.State) || !wanted(kreq.TypesFilter, g.Type) {
			continue
		}
		rg := kmsg.NewListGroupsResponseGroup()
		rg.Group, rg.ProtocolType, rg.GroupState, rg.GroupType = g.Group, g.ProtocolType, g.State, g.Type
		resp.Groups = append(resp.Groups, rg)
	}
	return resp
}

// wanted reports whether a filter, empty for all, lets v through; case does not
// count (GroupMetadataManager.listGroups).
func wanted(filter []string, v string) bool {
	if len(filter) == 0 {
		return true
	}
	for _, f := range filter {
		if strings.EqualFold(f, v) {
			return true
		}
	}
	return false
}
