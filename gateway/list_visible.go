package gateway

import (
	"context"
	"encoding/base64"

	"connectrpc.com/connect"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/acl"
)

// listed makes a call, and takes out of the answer what the caller may not see. A page of
// a list ends at something that the caller sees, as its token names where it ends; one
// that nothing is left of is followed by the next, without the caller.
func (g *Gateway) listed(ctx context.Context, r connect.AnyRequest, may *acl.Access, next connect.UnaryFunc) (connect.AnyResponse, error) {
	wanted := 0
	for {
		res, err := next(ctx, r)
		if err != nil {
			return res, err
		}
		leaveOut(may, res.Any())
		if may.Snapshot() == nil {
			return res, nil
		}
		switch answer := res.Any().(type) {
		case *adminv1.ListTopicsResponse:
			if wanted > 0 && len(answer.GetTopics()) > wanted {
				answer.Topics, answer.NextPageToken = answer.GetTopics()[:wanted], "more"
			}
			if answer.GetNextPageToken() == "" {
				return res, nil
			}
			if n := len(answer.GetTopics()); n > 0 {
				name := lastSegment(answer.GetTopics()[n-1].GetName(), "/topics/")
				answer.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(name)) // as the controller's are
				return res, nil
			}
			req := r.Any().(*adminv1.ListTopicsRequest)
			wanted = nextPage(&req.PageSize, &req.PageToken, answer.GetNextPageToken(), wanted)
		case *adminv1.ListGroupsResponse:
			if wanted > 0 && len(answer.GetGroups()) > wanted {
				answer.Groups, answer.NextPageToken = answer.GetGroups()[:wanted], "more"
			}
			if answer.GetNextPageToken() == "" {
				return res, nil
			}
			if n := len(answer.GetGroups()); n > 0 {
				answer.NextPageToken = lastSegment(answer.GetGroups()[n-1].GetName(), "/groups/")
				return res, nil
			}
			req := r.Any().(*adminv1.ListGroupsRequest)
			wanted = nextPage(&req.PageSize, &req.PageToken, answer.GetNextPageToken(), wanted)
		default:
			return res, nil
		}
	}
}

// nextPage asks for the next page, a large one, and returns how much of it is wanted.
func nextPage(size *int32, token *string, next string, wanted int) int {
	if wanted == 0 {
		if wanted = int(*size); wanted == 0 {
			wanted = pageSizeDefault
		}
	}
	*size, *token = pageSizeMax, next
	return min(wanted, pageSizeMax)
}
