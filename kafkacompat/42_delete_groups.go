package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/acl"
)

// DeleteGroups: v0-v2
//
// Version notes:
// * v2: flexible

func handleDeleteGroups(ctx context.Context, c *conn, req *request, kreq *kmsg.DeleteGroupsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DeleteGroupsResponse)
	for _, group := range once(kreq.Groups, itself) {
		rg := kmsg.NewDeleteGroupsResponseGroup()
		rg.Group = group
		if rg.ErrorCode = req.mayGroup(ctx, acl.Delete, group); rg.ErrorCode == 0 {
			err := c.s.deps.Groups.Delete(ctx, group)
			req.changed(ctx, acl.Delete, acl.Group, group, err)
			rg.ErrorCode = req.fail(err)
		}
		resp.Groups = append(resp.Groups, rg)
	}
	return resp
}
