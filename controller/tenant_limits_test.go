package controller_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

// A tenant gets no more than it may have, and keeps what it has when that is less.
func TestLimitsOfTenants(t *testing.T) {
	w := newWorld(t, "a")
	c := w.controller(t, "c1", func(c *controller.Config) {
		c.TenantLimits = federation.TenantLimits{Topics: 2, Partitions: 10, Credentials: 2, ACLs: 1}
	})
	a := adminOf(t, c.url)
	w.addClusters(t, a)
	tenants, creds, acls := tenantClients(t, c.url)
	ctx := t.Context()
	requireKind(t, federation.InvalidArgument, second(tenants.CreateTenant(ctx, &adminv1.CreateTenantRequest{TenantId: "acme", Tenant: &adminv1.Tenant{Limits: &adminv1.TenantLimits{Topics: -1}}})))
	for _, name := range []string{"acme", "beta"} {
		_, err := tenants.CreateTenant(ctx, &adminv1.CreateTenantRequest{TenantId: name})
		require.NoError(t, err)
	}
	acme := inTenant("acme")
	_, err := a.create(ctx, "one", 4, acme)
	require.NoError(t, err)
	requireKind(t, federation.PolicyViolation, second(a.create(ctx, "two", 7, acme)))
	validate := func(r *adminv1.CreateTopicRequest) { r.ValidateOnly = true }
	requireKind(t, federation.PolicyViolation, second(a.create(ctx, "two", 7, acme, validate)))
	_, err = a.create(ctx, "two", 6, acme)
	require.NoError(t, err)
	err = second(a.create(ctx, "three", 1, acme))
	requireKind(t, federation.PolicyViolation, err)
	require.ErrorContains(t, err, `"acme" has 2 topics and would have 3; it may have 2`)
	grow := func(total int32) error {
		return second(a.topics.GrowTopic(ctx, &adminv1.GrowTopicRequest{Name: "logicalClusters/acme/topics/one", PartitionCount: total}))
	}
	requireKind(t, federation.PolicyViolation, grow(5))

	// Others are not concerned, and have no limits if they are the deployment's own.
	_, err = a.create(ctx, "one", 10, inTenant("beta"))
	require.NoError(t, err)
	for _, name := range []string{"one", "two", "three"} {
		_, err = a.create(ctx, name, 5)
		require.NoError(t, err)
	}

	_, err = creds.CreateCredential(ctx, &adminv1.CreateCredentialRequest{Parent: "logicalClusters/acme", User: "alice"}) // two mechanisms
	require.NoError(t, err)
	requireKind(t, federation.PolicyViolation, second(creds.CreateCredential(ctx, &adminv1.CreateCredentialRequest{Parent: "logicalClusters/acme", User: "bob"})))
	_, err = creds.CreateCredential(ctx, &adminv1.CreateCredentialRequest{User: "bob"})
	require.NoError(t, err)
	acl := func(topic string) *adminv1.CreateAclsRequest {
		return &adminv1.CreateAclsRequest{Parent: "logicalClusters/acme", Acls: []*adminv1.Acl{{ResourceType: 2, ResourceName: topic, Principal: "User:alice", Operation: 3}}}
	}
	_, err = acls.CreateAcls(ctx, acl("one"))
	require.NoError(t, err)
	requireKind(t, federation.PolicyViolation, second(acls.CreateAcls(ctx, acl("two"))))

	update := func(limits *adminv1.TenantLimits, paths ...string) *adminv1.Tenant {
		resp, err := tenants.UpdateTenant(ctx, &adminv1.UpdateTenantRequest{Tenant: &adminv1.Tenant{Name: "tenants/acme", Limits: limits}, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		require.NoError(t, err)
		return resp.GetTenant()
	}
	require.Equal(t, int32(20), update(&adminv1.TenantLimits{Topics: 3, Partitions: 20}, "limits").GetEffectiveLimits().GetPartitions())
	_, err = a.create(ctx, "three", 1, acme)
	require.NoError(t, err)
	require.NoError(t, grow(5))
	update(&adminv1.TenantLimits{Topics: 1, Groups: 7}, "limits.topics", "limits.groups")
	requireKind(t, federation.PolicyViolation, second(a.create(ctx, "four", 1, acme)))
	require.NoError(t, grow(6), "of topics it has none more")
	requireKind(t, federation.InvalidArgument, second(tenants.UpdateTenant(ctx, &adminv1.UpdateTenantRequest{Tenant: &adminv1.Tenant{Name: "tenants/acme"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"limits.wishes"}}})))

	got, err := tenants.GetTenant(ctx, &adminv1.GetTenantRequest{Name: "tenants/acme"})
	require.NoError(t, err)
	out := got.GetTenant()
	require.Equal(t, []int32{3, 13, 2, 1}, []int32{out.GetTopics(), out.GetPartitions(), out.GetCredentials(), out.GetAcls()})
	require.Equal(t, []int32{1, 20, 0, 7}, []int32{out.GetLimits().GetTopics(), out.GetLimits().GetPartitions(), out.GetLimits().GetCredentials(), out.GetLimits().GetGroups()})
	require.Equal(t, []int32{1, 20, 2, 7}, []int32{out.GetEffectiveLimits().GetTopics(), out.GetEffectiveLimits().GetPartitions(), out.GetEffectiveLimits().GetCredentials(), out.GetEffectiveLimits().GetGroups()})
	m, err := w.store(t, nil).LoadMap(ctx, "default")
	require.NoError(t, err)
	require.Equal(t, federation.TenantLimits{Topics: 1, Partitions: 20, Groups: 7}, m.Tenants["acme"].Limits)
	list, err := tenants.ListTenants(ctx, &adminv1.ListTenantsRequest{})
	require.NoError(t, err)
	require.Equal(t, int32(13), list.GetTenants()[0].GetPartitions())
	require.Equal(t, int32(10), list.GetTenants()[1].GetPartitions())
}
