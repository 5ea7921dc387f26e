package kafkacompat

import (
	"context"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// DescribeACLs, CreateACLs, DeleteACLs: v1-v3
//
// ACLs are entries of the map: the controller changes them, every gateway has them. A
// change is answered when this gateway's map has it. Without an authorizer the answer is
// SECURITY_DISABLED, as that of a stock broker.
//
// Version notes:
// * v2: flexible
// * v3: resources of type user (KIP-373)

const noAuthorizer = "No Authorizer is configured."

// aclsPerRequestMax bounds the ACLs and filters of one request.
const aclsPerRequestMax = 1000

var errTooManyACLs = federation.Errorf(federation.InvalidArgument, "more than %d ACLs or filters in one request", aclsPerRequestMax)

func handleDescribeACLs(ctx context.Context, c *conn, req *request, kreq *kmsg.DescribeACLsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DescribeACLsResponse)
	if resp.ErrorCode, resp.ErrorMessage = c.mayACLs(ctx, req, acl.Describe); resp.ErrorCode != 0 {
		return resp
	}
	filter := federation.ACLFilter{
		Resource: federation.ACLResource(kreq.ResourceType), Pattern: federation.ACLPattern(kreq.ResourcePatternType), Name: kreq.ResourceName,
		Principal: kreq.Principal, Host: kreq.Host, Operation: federation.ACLOperation(kreq.Operation), Permission: federation.ACLPermission(kreq.PermissionType),
	}
	if err := filter.Validate(); err != nil {
		resp.ErrorCode, resp.ErrorMessage = req.fail(err), message(err)
		return resp
	}
	var found []*federation.ACL
	for _, a := range c.s.mapOrNil().ACLs {
		if filter.Matches(a) {
			found = append(found, a)
		}
	}
	if err := req.room(ctx, c, int64(len(found))*aclBytes); err != nil {
		resp.ErrorCode, resp.ErrorMessage = req.fail(err), message(err)
		return resp
	}
	// By resource, which an answer names once.
	slices.SortFunc(found, func(a, b *federation.ACL) int {
		if n := strings.Compare(a.Name, b.Name); n != 0 {
			return n
		}
		if n := int(a.Resource) - int(b.Resource); n != 0 {
			return n
		}
		if n := int(a.Pattern) - int(b.Pattern); n != 0 {
			return n
		}
		return strings.Compare(string(a.ID()), string(b.ID()))
	})
	for i, a := range found {
		if i == 0 || a.Name != found[i-1].Name || a.Resource != found[i-1].Resource || a.Pattern != found[i-1].Pattern {
			r := kmsg.NewDescribeACLsResponseResource()
			r.ResourceType, r.ResourceName, r.ResourcePatternType = kmsg.ACLResourceType(a.Resource), a.Name, kmsg.ACLResourcePatternType(a.Pattern)
			resp.Resources = append(resp.Resources, r)
		}
		ra := kmsg.NewDescribeACLsResponseResourceACL()
		ra.Principal, ra.Host, ra.Operation, ra.PermissionType = a.Principal, a.Host, kmsg.ACLOperation(a.Operation), kmsg.ACLPermissionType(a.Permission)
		last := &resp.Resources[len(resp.Resources)-1]
		last.ACLs = append(last.ACLs, ra)
	}
	return resp
}

// mayACLs decides whether ACLs are there at all, and for the client.
func (c *conn) mayACLs(ctx context.Context, req *request, op acl.Operation) (int16, *string) {
	if code := req.mayCluster(ctx, op); code != 0 {
		return code, deniedMessage(code)
	}
	if !c.s.deps.Authorizer.Enabled() {
		return req.refuse(kerr.SecurityDisabled), new(noAuthorizer)
	}
	return 0, nil
}

func handleCreateACLs(ctx context.Context, c *conn, req *request, kreq *kmsg.CreateACLsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.CreateACLsResponse)
	code, text := c.mayACLs(ctx, req, acl.Alter)
	var create []*federation.ACL
	var answers []int
	for i := range kreq.Creations {
		k := &kreq.Creations[i]
		r := kmsg.NewCreateACLsResponseResult()
		a := &federation.ACL{
			Resource: federation.ACLResource(k.ResourceType), Pattern: federation.ACLPattern(k.ResourcePatternType), Name: k.ResourceName,
			Principal: k.Principal, Host: k.Host, Operation: federation.ACLOperation(k.Operation), Permission: federation.ACLPermission(k.PermissionType),
		}
		if r.ErrorCode, r.ErrorMessage = code, text; code == 0 {
			err := a.Validate()
			if len(kreq.Creations) > aclsPerRequestMax {
				err = errTooManyACLs
			}
			if r.ErrorCode, r.ErrorMessage = req.fail(err), message(err); err == nil {
				create = append(create, a)
				answers = append(answers, i)
			}
		}
		resp.Results = append(resp.Results, r)
	}
	if len(create) == 0 {
		return resp
	}
	version, err := c.s.deps.Admin.CreateACLs(ctx, create)
	for i, at := range answers {
		req.changed(ctx, acl.Alter, acl.Cluster, "create ACL: "+create[i].String(), err)
		resp.Results[at].ErrorCode, resp.Results[at].ErrorMessage = req.fail(err), message(err)
	}
	c.awaitACLs(ctx, version, err)
	return resp
}

// awaitACLs waits until this gateway decides by what the client has just changed.
func (c *conn) awaitACLs(ctx context.Context, version federation.MapVersion, err error) {
	if err == nil {
		c.s.awaitMap(ctx, c.s.cfg.TopicWait, func(m *federation.Map) bool { return m.Version >= version })
	}
}

func handleDeleteACLs(ctx context.Context, c *conn, req *request, kreq *kmsg.DeleteACLsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DeleteACLsResponse)
	code, text := c.mayACLs(ctx, req, acl.Alter)
	var filters []federation.ACLFilter
	var answers []int
	for i := range kreq.Filters {
		k := &kreq.Filters[i]
		r := kmsg.NewDeleteACLsResponseResult()
		f := federation.ACLFilter{
			Resource: federation.ACLResource(k.ResourceType), Pattern: federation.ACLPattern(k.ResourcePatternType), Name: k.ResourceName,
			Principal: k.Principal, Host: k.Host, Operation: federation.ACLOperation(k.Operation), Permission: federation.ACLPermission(k.PermissionType),
		}
		if r.ErrorCode, r.ErrorMessage = code, text; code == 0 {
			err := f.Validate()
			if len(kreq.Filters) > aclsPerRequestMax {
				err = errTooManyACLs
			}
			if r.ErrorCode, r.ErrorMessage = req.fail(err), message(err); err == nil {
				filters = append(filters, f)
				answers = append(answers, i)
			}
		}
		resp.Results = append(resp.Results, r)
	}
	if len(filters) == 0 {
		return resp
	}
	if req.room(ctx, c, c.matching(filters)*aclBytes) != nil {
		return nil // before anything is deleted
	}
	deleted, version, err := c.s.deps.Admin.DeleteACLs(ctx, filters)
	for i, at := range answers {
		r := &resp.Results[at]
		if r.ErrorCode, r.ErrorMessage = req.fail(err), message(err); err != nil || i >= len(deleted) {
			req.changed(ctx, acl.Alter, acl.Cluster, "delete ACLs", err)
			continue
		}
		for _, a := range deleted[i] {
			req.changed(ctx, acl.Alter, acl.Cluster, "delete ACL: "+a.String(), nil)
			r.MatchingACLs = append(r.MatchingACLs, matchingACL(a))
		}
	}
	c.awaitACLs(ctx, version, err)
	return resp
}

// matching is how many ACLs some filters select, those that several do counted for each.
func (c *conn) matching(filters []federation.ACLFilter) (n int64) {
	for _, a := range c.s.mapOrNil().ACLs {
		for i := range filters {
			if filters[i].Matches(a) {
				n++
			}
		}
	}
	return n
}

// aclBytes is what an ACL takes in an answer.
const aclBytes = 300

func matchingACL(a *federation.ACL) kmsg.DeleteACLsResponseResultMatchingACL {
	r := kmsg.NewDeleteACLsResponseResultMatchingACL()
	r.ResourceType, r.ResourceName, r.ResourcePatternType = kmsg.ACLResourceType(a.Resource), a.Name, kmsg.ACLResourcePatternType(a.Pattern)
	r.Principal, r.Host, r.Operation, r.PermissionType = a.Principal, a.Host, kmsg.ACLOperation(a.Operation), kmsg.ACLPermissionType(a.Permission)
	return r
}
