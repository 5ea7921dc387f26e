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

func TestGroupConfigs(t *testing.T) {
	w := newWorld(t)
	n := w.controller(t, "c1", func(c *controller.Config) { c.GroupConfigsMax = 2 })
	transport := h2c(nil)
	t.Cleanup(transport.CloseIdleConnections)
	client := adminv1connect.NewGroupConfigServiceClient(&http.Client{Transport: transport}, n.url)
	tenants := adminv1connect.NewTenantServiceClient(&http.Client{Transport: transport}, n.url)
	ctx := t.Context()
	alter := func(group, name, value string, remove ...string) (int64, error) {
		req := &adminv1.AlterGroupConfigRequest{Group: group, Remove: remove}
		if name != "" {
			req.Set = map[string]string{name: value}
		}
		resp, err := client.AlterGroupConfig(ctx, req)
		return resp.GetMapVersion(), err
	}
	made, err := alter("billing", federation.GroupSessionTimeout, "50000")
	require.NoError(t, err)
	_, err = alter("billing", federation.GroupHeartbeatInterval, "6000")
	require.NoError(t, err)
	again, err := alter("billing", federation.GroupSessionTimeout, "50000", "no.such.setting")
	require.NoError(t, err)
	require.GreaterOrEqual(t, again, made)

	_, err = alter("", federation.GroupSessionTimeout, "50000")
	requireKind(t, federation.InvalidArgument, err)
	_, err = alter("billing", "retention.ms", "50000")
	requireKind(t, federation.InvalidConfig, err)
	_, err = alter("billing", federation.GroupSessionTimeout, "6000")
	requireKind(t, federation.InvalidConfig, err)
	_, err = client.AlterGroupConfig(ctx, &adminv1.AlterGroupConfigRequest{Parent: "logicalClusters/nobody", Group: "billing"})
	requireKind(t, federation.InvalidArgument, err)
	_, err = client.AlterGroupConfig(ctx, &adminv1.AlterGroupConfigRequest{Group: "other", Set: map[string]string{federation.GroupSessionTimeout: "50000"}, ValidateOnly: true})
	require.NoError(t, err)

	// A tenant has its own, which count too, and go with it.
	_, err = tenants.CreateTenant(ctx, &adminv1.CreateTenantRequest{TenantId: "acme"})
	require.NoError(t, err)
	_, err = client.AlterGroupConfig(ctx, &adminv1.AlterGroupConfigRequest{Parent: "logicalClusters/acme", Group: "billing", Set: map[string]string{federation.GroupSessionTimeout: "55000"}})
	require.NoError(t, err)
	_, err = alter("third", federation.GroupSessionTimeout, "50000")
	requireKind(t, federation.PolicyViolation, err)
	require.ErrorContains(t, err, "--group-configs")
	_, err = alter("billing", federation.GroupSessionTimeout, "51000")
	require.NoError(t, err, "of those that there are, none is refused")

	list := func(parent string) []*adminv1.GroupConfig {
		var all []*adminv1.GroupConfig
		for token, more := "", true; more; more = token != "" {
			resp, err := client.ListGroupConfigs(ctx, &adminv1.ListGroupConfigsRequest{Parent: parent, PageSize: 1, PageToken: token})
			require.NoError(t, err)
			all, token = append(all, resp.GetGroupConfigs()...), resp.GetNextPageToken()
		}
		return all
	}
	own := list("")
	require.Len(t, own, 1)
	require.Equal(t, "billing", own[0].GetGroup())
	require.Equal(t, map[string]string{federation.GroupSessionTimeout: "51000", federation.GroupHeartbeatInterval: "6000"}, own[0].GetValues())
	require.Equal(t, map[string]string{federation.GroupSessionTimeout: "55000"}, list("logicalClusters/acme")[0].GetValues())

	// What is stored is in the store's map.
	m, err := w.store(t, nil).LoadMap(ctx, "default")
	require.NoError(t, err)
	require.Len(t, m.GroupConfigs, 2)
	require.Equal(t, own[0].GetValues(), m.GroupConfig("billing").Values)

	_, err = tenants.DeleteTenant(ctx, &adminv1.DeleteTenantRequest{Name: "tenants/acme"})
	require.NoError(t, err)
	_, err = alter("billing", "", "", federation.GroupSessionTimeout, federation.GroupHeartbeatInterval)
	require.NoError(t, err)
	m, err = w.store(t, nil).LoadMap(ctx, "default")
	require.NoError(t, err)
	require.Empty(t, m.GroupConfigs)
}
