package controller

import (
	"context"
	"math"
	"slices"
	"strings"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/rpcerror"
)

// ACLs are entries of the map: gateways follow them as they follow everything else. Who
// may change them is decided at the gateways, who know whom they talk to.
type aclService struct{ c *Controller }

// aclFiltersMax bounds the filters of one request.
const aclFiltersMax = 1000

// CreateAcls adds ACLs to the map.
func (s *aclService) CreateAcls(ctx context.Context, req *adminv1.CreateAclsRequest) (*adminv1.CreateAclsResponse, error) {
	out, err := s.c.createACLs(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return out, nil
}

func (c *Controller) createACLs(ctx context.Context, req *adminv1.CreateAclsRequest) (*adminv1.CreateAclsResponse, error) {
	t, err := c.leading()
	if err != nil {
		return nil, err
	}
	tenant, err := t.parseParent(req.GetParent())
	if err != nil {
		return nil, err
	}
	add := make([]*federation.ACL, 0, len(req.GetAcls()))
	for _, in := range req.GetAcls() {
		a := aclOf(in)
		a.Tenant = tenant
		if err := a.Validate(); err != nil {
			return nil, err
		}
		add = append(add, a)
	}
	m, err := t.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
		next := planner.WithACLs(m, add, nil)
		if n := len(next.ACLs); n > c.cfg.ACLsMax && n > len(m.ACLs) {
			return nil, federation.Errorf(federation.PolicyViolation, "there would be %d ACLs; want at most %d (--acls): use prefixed ones, or delete some", n, c.cfg.ACLsMax)
		}
		return next, planner.CheckTenantAccess(m, next, tenant, c.cfg.TenantLimits)
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.CreateAclsResponse{MapVersion: int64(m.Version)}, nil
}

// ListAcls returns a page of the ACLs that a filter selects.
func (s *aclService) ListAcls(_ context.Context, req *adminv1.ListAclsRequest) (*adminv1.ListAclsResponse, error) {
	t, err := s.c.leading()
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	tenant, err := t.parseParent(req.GetParent())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	f := aclFilterOf(req.GetFilter())
	f.Tenant = tenant
	if err := f.Validate(); err != nil {
		return nil, rpcerror.Error(err)
	}
	all, next, err := page(selectACLs(t.current(), f), aclSortKey, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	out := &adminv1.ListAclsResponse{NextPageToken: next}
	for _, a := range all {
		out.Acls = append(out.Acls, aclProto(a))
	}
	return out, nil
}

// aclSortKey has those of one resource together.
func aclSortKey(a *federation.ACL) string {
	return strings.Join([]string{a.Resource.String(), a.Name, a.Pattern.String(), a.Principal, a.Host, a.Operation.String(), a.Permission.String()}, "\x00")
}

func selectACLs(m *federation.Map, f *federation.ACLFilter) []*federation.ACL {
	var out []*federation.ACL
	for _, a := range m.ACLs {
		if f.Matches(a) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b *federation.ACL) int { return strings.Compare(aclSortKey(a), aclSortKey(b)) })
	return out
}

// DeleteAcls deletes what its filters select.
func (s *aclService) DeleteAcls(ctx context.Context, req *adminv1.DeleteAclsRequest) (*adminv1.DeleteAclsResponse, error) {
	out, err := s.c.deleteACLs(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return out, nil
}

func (c *Controller) deleteACLs(ctx context.Context, req *adminv1.DeleteAclsRequest) (*adminv1.DeleteAclsResponse, error) {
	t, err := c.leading()
	if err != nil {
		return nil, err
	}
	tenant, err := t.parseParent(req.GetParent())
	if err != nil {
		return nil, err
	}
	if n := len(req.GetFilters()); n == 0 || n > aclFiltersMax {
		return nil, federation.Errorf(federation.InvalidArgument, "%d filters: want 1 to %d; one without any field selects all ACLs", n, aclFiltersMax)
	}
	filters := make([]*federation.ACLFilter, len(req.GetFilters()))
	for i, in := range req.GetFilters() {
		filters[i] = aclFilterOf(in)
		filters[i].Tenant = tenant
		if err := filters[i].Validate(); err != nil {
			return nil, err
		}
	}
	var found [][]*federation.ACL
	find := func(m *federation.Map) (ids []federation.ACLID) {
		found = found[:0]
		for _, f := range filters {
			found = append(found, selectACLs(m, f))
			for _, a := range found[len(found)-1] {
				ids = append(ids, a.ID())
			}
		}
		return ids
	}
	m := t.current()
	if req.GetValidateOnly() {
		find(m)
	} else if m, err = t.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
		return planner.WithACLs(m, nil, find(m)), nil
	}); err != nil {
		return nil, err
	}
	out := &adminv1.DeleteAclsResponse{MapVersion: int64(m.Version)}
	for _, acls := range found {
		d := &adminv1.DeleteAclsResponse_Deleted{}
		for _, a := range acls {
			d.Acls = append(d.Acls, aclProto(a))
		}
		out.Deleted = append(out.Deleted, d)
	}
	return out, nil
}

// aclOf reads an ACL; what may be unset takes its default.
func aclOf(in *adminv1.Acl) *federation.ACL {
	a := &federation.ACL{
		Resource: federation.ACLResource(small(in.GetResourceType())), Pattern: federation.ACLPattern(small(in.GetPatternType())), Name: in.GetResourceName(),
		Principal: in.GetPrincipal(), Host: in.GetHost(),
		Operation: federation.ACLOperation(small(in.GetOperation())), Permission: federation.ACLPermission(small(in.GetPermission())),
	}
	setDefault(&a.Pattern, federation.ACLLiteral)
	setDefault(&a.Permission, federation.ACLAllow)
	setDefault(&a.Host, federation.ACLWildcard)
	return a
}

// small keeps what Validate refuses as such.
func small[T ~int32](v T) int8 { return int8(min(max(v, -1), math.MaxInt8)) }

func aclFilterOf(in *adminv1.AclFilter) *federation.ACLFilter {
	f := &federation.ACLFilter{Resource: federation.ACLAnyResource, Pattern: federation.ACLAnyPattern, Operation: federation.ACLAnyOperation, Permission: federation.ACLAnyPermission}
	if in == nil {
		return f
	}
	f.Name, f.Principal, f.Host = in.ResourceName, in.Principal, in.Host
	if v := in.GetResourceType(); v != 0 {
		f.Resource = federation.ACLResource(small(v))
	}
	if v := in.GetPatternType(); v != 0 {
		f.Pattern = federation.ACLPattern(small(v))
	}
	if v := in.GetOperation(); v != 0 {
		f.Operation = federation.ACLOperation(small(v))
	}
	if v := in.GetPermission(); v != 0 {
		f.Permission = federation.ACLPermission(small(v))
	}
	return f
}

func aclProto(a *federation.ACL) *adminv1.Acl {
	return &adminv1.Acl{
		ResourceType: adminv1.Acl_ResourceType(a.Resource), PatternType: adminv1.Acl_PatternType(a.Pattern), ResourceName: a.Name,
		Principal: a.Principal, Host: a.Host, Operation: adminv1.Acl_Operation(a.Operation), Permission: adminv1.Acl_Permission(a.Permission),
	}
}
