package controller_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
)

func tenantClients(t *testing.T, url string) (adminv1connect.TenantServiceClient, adminv1connect.CredentialServiceClient, adminv1connect.AclServiceClient) {
	t.Helper()
	transport := h2c(nil)
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	return adminv1connect.NewTenantServiceClient(client, url), adminv1connect.NewCredentialServiceClient(client, url), adminv1connect.NewAclServiceClient(client, url)
}

func inTenant(name string) func(*adminv1.CreateTopicRequest) {
	return func(r *adminv1.CreateTopicRequest) { r.Parent = "logicalClusters/" + name }
}

// Two logical clusters have the same names, and each lists its own.
func TestTenantsAreApart(t *testing.T) {
	w := newWorld(t, "a", "b")
	c := w.controller(t, "c1", func(c *controller.Config) { c.TenantsMax = 2 })
	a := adminOf(t, c.url)
	w.addClusters(t, a)
	tenants, creds, acls := tenantClients(t, c.url)
	ctx := t.Context()

	requireKind(t, federation.InvalidArgument, second(a.create(ctx, "orders", 2, inTenant("acme"))))
	requireKind(t, federation.InvalidArgument, second(tenants.CreateTenant(ctx, &adminv1.CreateTenantRequest{TenantId: "No_Dots.Please"})))
	requireKind(t, federation.TopicExists, second(tenants.CreateTenant(ctx, &adminv1.CreateTenantRequest{TenantId: "default"})))
	created, err := tenants.CreateTenant(ctx, &adminv1.CreateTenantRequest{TenantId: "acme", Tenant: &adminv1.Tenant{Description: "road runner"}})
	require.NoError(t, err)
	require.Equal(t, "logicalClusters/acme", created.GetTenant().GetDefaultLogicalCluster())
	requireKind(t, federation.TopicExists, second(tenants.CreateTenant(ctx, &adminv1.CreateTenantRequest{TenantId: "acme"})))

	for _, change := range [][]func(*adminv1.CreateTopicRequest){nil, {inTenant("acme")}} {
		_, err := a.create(ctx, "orders", 2, change...)
		require.NoError(t, err)
		requireKind(t, federation.TopicExists, second(a.create(ctx, "orders", 2, change...)))
	}
	_, err = a.create(ctx, "bills", 1, inTenant("acme"))
	require.NoError(t, err)
	requireKind(t, federation.InvalidTopicName, second(a.create(ctx, "acme/orders", 1)))

	list := func(parent string) (names []string) {
		resp, err := a.topics.ListTopics(ctx, &adminv1.ListTopicsRequest{Parent: parent})
		require.NoError(t, err)
		for _, topic := range resp.GetTopics() {
			names = append(names, topic.GetName())
		}
		return names
	}
	require.Equal(t, []string{topicName("orders")}, list(""))
	require.Equal(t, []string{"logicalClusters/acme/topics/bills", "logicalClusters/acme/topics/orders"}, list("logicalClusters/acme"))
	extents, err := a.topics.ListExtents(ctx, &adminv1.ListExtentsRequest{Parent: "logicalClusters/acme/topics/orders"})
	require.NoError(t, err)
	require.Equal(t, "acme.orders.1", extents.GetPartitions()[0].GetExtents()[0].GetPhysicalTopic())
	require.Equal(t, "default.orders.1", a.extents(t, "orders")[0].GetExtents()[0].GetPhysicalTopic())

	_, err = creds.CreateCredential(ctx, &adminv1.CreateCredentialRequest{User: "alice"})
	require.NoError(t, err)
	_, err = creds.CreateCredential(ctx, &adminv1.CreateCredentialRequest{Parent: "logicalClusters/acme", User: "alice"})
	require.NoError(t, err)
	requireKind(t, federation.InvalidArgument, second(creds.CreateCredential(ctx, &adminv1.CreateCredentialRequest{User: "acme/bob"})))
	users, err := creds.ListCredentials(ctx, &adminv1.ListCredentialsRequest{Parent: "logicalClusters/acme"})
	require.NoError(t, err)
	require.Len(t, users.GetCredentials(), 2)
	require.Equal(t, "alice", users.GetCredentials()[0].GetUser())
	acl := &adminv1.Acl{ResourceType: 2, ResourceName: "orders", Principal: "User:alice", Operation: 3}
	_, err = acls.CreateAcls(ctx, &adminv1.CreateAclsRequest{Parent: "logicalClusters/acme", Acls: []*adminv1.Acl{acl}})
	require.NoError(t, err)
	own, err := acls.ListAcls(ctx, &adminv1.ListAclsRequest{})
	require.NoError(t, err)
	require.Empty(t, own.GetAcls())

	// What gateways give to clients of each.
	m, err := w.store(t, nil).LoadMap(ctx, "default")
	require.NoError(t, err)
	split := federation.SplitMap(m, nil)
	of := func(tenant string) *federation.Map {
		v, served := split.Of(tenant)
		require.True(t, served)
		return v
	}
	require.Equal(t, []federation.TopicName{"orders"}, of("").TopicNames())
	require.Equal(t, []federation.TopicName{"bills", "orders"}, of("acme").TopicNames())
	require.NotEqual(t, of("").ClusterID, of("acme").ClusterID)
	require.NotEqual(t, of("").Topic("orders").ID, of("acme").Topic("orders").ID)
	require.Equal(t, federation.TopicName("orders"), of("acme").Topic("orders").Partitions[1].Topic)
	require.Len(t, of("acme").ACLs, 1)
	require.Empty(t, of("").ACLs)
	for tenant, logical := range map[string]string{"": "default", "acme": "acme"} {
		require.NoError(t, of(tenant).Validate())
		require.Equal(t, logical, of(tenant).LogicalCluster)
		require.NotNil(t, of(tenant).Credential(federation.CredentialID{User: "alice", Mechanism: federation.ScramSHA256}))
		require.Len(t, of(tenant).Credentials, 2)
	}
	_, served := split.Of("ghost")
	require.False(t, served)

	// The deployment's own things do not go with a tenant.
	requireKind(t, federation.PolicyViolation, second(tenants.DeleteTenant(ctx, &adminv1.DeleteTenantRequest{Name: "tenants/acme"})))
	deleted, err := tenants.DeleteTenant(ctx, &adminv1.DeleteTenantRequest{Name: "tenants/acme", Force: true})
	require.NoError(t, err)
	require.Equal(t, int32(2), deleted.GetTopics())
	requireKind(t, federation.UnknownCluster, second(tenants.GetTenant(ctx, &adminv1.GetTenantRequest{Name: "tenants/acme"})))
	require.Equal(t, []string{topicName("orders")}, list(""))
	m, err = w.store(t, nil).LoadMap(ctx, "default")
	require.NoError(t, err)
	require.Empty(t, m.Tenants)
	require.Len(t, m.Credentials, 2)
	require.Empty(t, m.ACLs)
	for _, key := range w.redis.Keys() {
		require.False(t, strings.Contains(key, "{acme}") && !strings.Contains(key, "group-epoch"), "left in Redis: %s", key)
	}

	// One of the same name is another one.
	again, err := tenants.CreateTenant(ctx, &adminv1.CreateTenantRequest{TenantId: "acme"})
	require.NoError(t, err)
	require.NotEqual(t, created.GetTenant().GetClusterId(), again.GetTenant().GetClusterId())
	require.Empty(t, list("logicalClusters/acme"))
	resp, err := a.create(ctx, "orders", 1, inTenant("acme"))
	require.NoError(t, err)
	require.Equal(t, "logicalClusters/acme/topics/orders", resp.GetTopic().GetName())
	updated, err := tenants.UpdateTenant(ctx, &adminv1.UpdateTenantRequest{Tenant: &adminv1.Tenant{Name: "tenants/acme", Description: "new"}})
	require.NoError(t, err)
	require.Equal(t, "new", updated.GetTenant().GetDescription())
	_, err = tenants.CreateTenant(ctx, &adminv1.CreateTenantRequest{TenantId: "beta"})
	require.NoError(t, err)
	requireKind(t, federation.PolicyViolation, second(tenants.CreateTenant(ctx, &adminv1.CreateTenantRequest{TenantId: "gamma"})))
	all, err := tenants.ListTenants(ctx, &adminv1.ListTenantsRequest{})
	require.NoError(t, err)
	require.Len(t, all.GetTenants(), 2)
	require.Equal(t, int32(1), all.GetTenants()[0].GetTopics())
}
