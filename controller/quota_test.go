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

func TestQuotas(t *testing.T) {
	w := newWorld(t)
	n := w.controller(t, "c1", func(c *controller.Config) { c.QuotasMax = 3 })
	transport := h2c(nil)
	t.Cleanup(transport.CloseIdleConnections)
	client := adminv1connect.NewQuotaServiceClient(&http.Client{Transport: transport}, n.url)
	ctx := t.Context()
	alter := func(changes ...*adminv1.QuotaChange) (int64, error) {
		resp, err := client.AlterQuotas(ctx, &adminv1.AlterQuotasRequest{Changes: changes})
		return resp.GetMapVersion(), err
	}
	user := func(name string) *adminv1.QuotaEntity { return &adminv1.QuotaEntity{User: &name} }
	set := func(e *adminv1.QuotaEntity, key string, v float64) *adminv1.QuotaChange {
		return &adminv1.QuotaChange{Entity: e, Set: map[string]float64{key: v}}
	}
	made, err := alter(set(user("alice"), "producer_byte_rate", 1000), set(user(""), "request_percentage", 12.5))
	require.NoError(t, err)
	again, err := alter(set(user("alice"), "producer_byte_rate", 1000), &adminv1.QuotaChange{Entity: user("nobody"), Remove: []string{"request_rate"}})
	require.NoError(t, err)
	require.GreaterOrEqual(t, again, made)

	// All or none: a bad one, or one too many, changes nothing.
	for want, bad := range map[federation.Kind][]*adminv1.QuotaChange{
		federation.InvalidArgument: {set(user("bob"), "producer_byte_rate", 5), set(user("bob"), "producer_byte_rate", -1)},
		federation.PolicyViolation: {set(user("bob"), "producer_byte_rate", 5), set(user("carol"), "producer_byte_rate", 5)},
	} {
		_, err := alter(bad...)
		requireKind(t, want, err)
	}
	for _, bad := range []*adminv1.QuotaChange{
		{Set: map[string]float64{"producer_byte_rate": 1}}, set(user("bob"), "bytes", 1), {Entity: user("bob"), Remove: []string{"bytes"}},
	} {
		_, err := alter(bad)
		requireKind(t, federation.InvalidArgument, err)
	}
	_, err = client.AlterQuotas(ctx, &adminv1.AlterQuotasRequest{ValidateOnly: true, Changes: []*adminv1.QuotaChange{set(user("bob"), "request_rate", 1)}})
	require.NoError(t, err)

	// What is stored is in the store's map.
	m, err := w.store(t, nil).LoadMap(ctx, "default")
	require.NoError(t, err)
	alice := federation.QuotaEntity{User: federation.NamedQuota("alice")}
	require.Equal(t, federation.Quotas{
		alice: {Entity: alice, Values: map[federation.QuotaKey]float64{federation.QuotaProducerByteRate: 1000}},
		{User: federation.NamedQuota("")}: {
			Entity: federation.QuotaEntity{User: federation.NamedQuota("")}, Values: map[federation.QuotaKey]float64{federation.QuotaRequestPercentage: 12.5},
		},
	}, m.Quotas)

	_, err = alter(&adminv1.QuotaChange{Entity: user("alice"), Set: map[string]float64{"request_rate": 3}, Remove: []string{"producer_byte_rate"}},
		set(&adminv1.QuotaEntity{User: new("alice"), ClientId: new("")}, "consumer_byte_rate", 9))
	require.NoError(t, err)
	var all []*adminv1.ClientQuota
	for token, more := "", true; more; more = token != "" {
		resp, err := client.ListQuotas(ctx, &adminv1.ListQuotasRequest{PageSize: 1, PageToken: token})
		require.NoError(t, err)
		require.Len(t, resp.GetQuotas(), 1)
		all, token = append(all, resp.GetQuotas()...), resp.GetNextPageToken()
	}
	require.Len(t, all, 3)
	require.Empty(t, all[0].GetEntity().GetUser())
	require.Equal(t, map[string]float64{"consumer_byte_rate": 9}, all[1].GetValues())
	require.Equal(t, map[string]float64{"request_rate": 3}, all[2].GetValues())
	require.Nil(t, all[2].GetEntity().ClientId)
}
