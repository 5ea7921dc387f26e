package controller_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
)

func TestACLs(t *testing.T) {
	w := newWorld(t)
	n := w.controller(t, "c1", func(c *controller.Config) { c.ACLsMax = 3 })
	transport := h2c(nil)
	t.Cleanup(transport.CloseIdleConnections)
	client := adminv1connect.NewAclServiceClient(&http.Client{Transport: transport}, n.url)
	ctx := t.Context()
	one := func(topic string, op adminv1.Acl_Operation) *adminv1.Acl {
		return &adminv1.Acl{ResourceType: adminv1.Acl_RESOURCE_TYPE_TOPIC, ResourceName: topic, Principal: "User:alice", Operation: op}
	}
	read, write := one("orders", adminv1.Acl_OPERATION_READ), one("orders", adminv1.Acl_OPERATION_WRITE)
	made, err := client.CreateAcls(ctx, &adminv1.CreateAclsRequest{Acls: []*adminv1.Acl{read, write}})
	require.NoError(t, err)
	again, err := client.CreateAcls(ctx, &adminv1.CreateAclsRequest{Acls: []*adminv1.Acl{write}})
	require.NoError(t, err)
	require.GreaterOrEqual(t, again.GetMapVersion(), made.GetMapVersion())

	// All or none: a bad one, or one too many, adds nothing.
	for want, bad := range map[federation.Kind][]*adminv1.Acl{
		federation.InvalidArgument: {one("third", adminv1.Acl_OPERATION_READ), one("", adminv1.Acl_OPERATION_READ)},
		federation.PolicyViolation: {one("third", adminv1.Acl_OPERATION_READ), one("fourth", adminv1.Acl_OPERATION_READ)},
	} {
		_, err := client.CreateAcls(ctx, &adminv1.CreateAclsRequest{Acls: bad})
		requireKind(t, want, err)
	}
	_, err = client.CreateAcls(ctx, &adminv1.CreateAclsRequest{Acls: []*adminv1.Acl{{ResourceType: 258, ResourceName: "x", Principal: "User:x", Operation: 3}}})
	requireKind(t, federation.InvalidArgument, err)

	// What is stored is in the store's map, with its defaults.
	m, err := w.store(t, nil).LoadMap(ctx, "default")
	require.NoError(t, err)
	require.Len(t, m.ACLs, 2)
	stored := &federation.ACL{
		Resource: federation.ACLTopic, Pattern: federation.ACLLiteral, Name: "orders", Principal: "User:alice", Host: "*",
		Operation: federation.ACLRead, Permission: federation.ACLAllow,
	}
	require.Equal(t, stored, m.ACLs[stored.ID()])

	list, err := client.ListAcls(ctx, &adminv1.ListAclsRequest{PageSize: 1})
	require.NoError(t, err)
	require.Len(t, list.GetAcls(), 1)
	require.Equal(t, adminv1.Acl_OPERATION_READ, list.GetAcls()[0].GetOperation())
	list, err = client.ListAcls(ctx, &adminv1.ListAclsRequest{PageToken: list.GetNextPageToken()})
	require.NoError(t, err)
	require.Len(t, list.GetAcls(), 1)
	require.Equal(t, adminv1.Acl_OPERATION_WRITE, list.GetAcls()[0].GetOperation())

	filters := []*adminv1.AclFilter{{Operation: adminv1.Acl_OPERATION_WRITE}, {Principal: new("User:bob")}}
	gone, err := client.DeleteAcls(ctx, &adminv1.DeleteAclsRequest{Filters: filters, ValidateOnly: true})
	require.NoError(t, err)
	require.Len(t, gone.GetDeleted()[0].GetAcls(), 1)
	for _, want := range []int{1, 0} { // the second time there is none any more
		gone, err = client.DeleteAcls(ctx, &adminv1.DeleteAclsRequest{Filters: filters})
		require.NoError(t, err)
		require.Len(t, gone.GetDeleted(), 2)
		require.Len(t, gone.GetDeleted()[0].GetAcls(), want)
		require.Empty(t, gone.GetDeleted()[1].GetAcls())
	}
	_, err = client.DeleteAcls(ctx, &adminv1.DeleteAclsRequest{})
	requireKind(t, federation.InvalidArgument, err)
	_, err = client.DeleteAcls(ctx, &adminv1.DeleteAclsRequest{Filters: []*adminv1.AclFilter{{PatternType: 9}}})
	requireKind(t, federation.InvalidArgument, err)
	list, err = client.ListAcls(ctx, &adminv1.ListAclsRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetAcls(), 1)
}
