package process

import (
	"context"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

// CreateACLs implements kafkacompat.Admin.
func (a *kafkaAdmin) CreateACLs(ctx context.Context, acls []*federation.ACL) (federation.MapVersion, error) {
	req := &adminv1.CreateAclsRequest{Parent: a.parent}
	for _, x := range acls {
		req.Acls = append(req.Acls, &adminv1.Acl{
			ResourceType: adminv1.Acl_ResourceType(x.Resource), PatternType: adminv1.Acl_PatternType(x.Pattern), ResourceName: x.Name,
			Principal: x.Principal, Host: x.Host, Operation: adminv1.Acl_Operation(x.Operation), Permission: adminv1.Acl_Permission(x.Permission),
		})
	}
	var version federation.MapVersion
	err := retry(ctx, func(ctx context.Context) error {
		resp, err := a.acls.CreateAcls(ctx, req)
		version = federation.MapVersion(resp.GetMapVersion())
		return err
	})
	return version, err
}

// DeleteACLs implements kafkacompat.Admin. A try whose answer was lost can have deleted
// them: the next one then names none.
func (a *kafkaAdmin) DeleteACLs(ctx context.Context, filters []federation.ACLFilter) ([][]*federation.ACL, federation.MapVersion, error) {
	req := &adminv1.DeleteAclsRequest{Parent: a.parent}
	for _, f := range filters {
		req.Filters = append(req.Filters, &adminv1.AclFilter{
			ResourceType: adminv1.Acl_ResourceType(f.Resource), PatternType: adminv1.Acl_PatternType(f.Pattern), ResourceName: f.Name,
			Principal: f.Principal, Host: f.Host, Operation: adminv1.Acl_Operation(f.Operation), Permission: adminv1.Acl_Permission(f.Permission),
		})
	}
	var deleted [][]*federation.ACL
	var version federation.MapVersion
	err := retry(ctx, func(ctx context.Context) error {
		resp, err := a.acls.DeleteAcls(ctx, req)
		deleted, version = nil, federation.MapVersion(resp.GetMapVersion())
		for _, d := range resp.GetDeleted() {
			var of []*federation.ACL
			for _, x := range d.GetAcls() {
				of = append(of, aclOf(x))
			}
			deleted = append(deleted, of)
		}
		return err
	})
	return deleted, version, err
}

// aclOf reads what a controller says; the numbers are small ones.
func aclOf(x *adminv1.Acl) *federation.ACL {
	return &federation.ACL{
		Resource: federation.ACLResource(x.GetResourceType()), Pattern: federation.ACLPattern(x.GetPatternType()), Name: x.GetResourceName(),
		Principal: x.GetPrincipal(), Host: x.GetHost(),
		Operation: federation.ACLOperation(x.GetOperation()), Permission: federation.ACLPermission(x.GetPermission()),
	}
}
