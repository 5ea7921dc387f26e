package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteGroups: v0-v2
//
// Version notes:
// * v2: flexible

func handleDeleteGroups(ctx context.Context, c *conn, req *request, kreq *kmsg.DeleteGroupsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DeleteGroupsResponse)
	for _, group := range kreq.Groups {
		rg := kmsg.NewDeleteGroupsResponseGroup()
		rg.Group = group
		rg.ErrorCode = req.fail(c.s.deps.Groups.Delete(ctx, group))
		resp.Groups = append(resp.Groups, rg)
	}
	return resp
}
