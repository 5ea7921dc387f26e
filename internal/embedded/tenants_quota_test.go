package embedded_test

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
)

// throttles counts how often a client was told to wait.
type throttles struct{ n atomic.Int64 }

func (h *throttles) OnBrokerThrottle(kgo.BrokerMetadata, time.Duration, bool) { h.n.Add(1) }

// A quota holds the clients of one logical cluster, is seen there only, and goes with it.
func TestQuotasBelongToTenants(t *testing.T) {
	logical := map[string]string{"": "default", "acme": "acme", "beta": "beta"}
	f := embedded.New(t, embedded.Options{Brokers: 1, FleetToken: fleetToken, Configure: func(c *process.Config, _ int) {
		if c.Role == process.Gateway {
			c.Tenants, c.TenantKafkaListen = true, map[string]string{"acme": "127.0.0.1:0", "beta": "127.0.0.1:0"}
			c.Quotas.Window = time.Second
		}
	}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tenants := adminv1connect.NewTenantServiceClient(f.Client, f.APIURL())
	quotas := adminv1connect.NewQuotaServiceClient(f.Client, f.APIURL())
	client := func(tenant string, opts ...kgo.Opt) *kgo.Client {
		seeds := f.KafkaAddresses()
		if tenant != "" {
			seeds = []string{f.Gateways()[0].TenantKafkaAddress(tenant)}
		}
		c, err := kgo.NewClient(append(opts, kgo.SeedBrokers(seeds...))...)
		require.NoError(t, err)
		t.Cleanup(c.Close)
		return c
	}
	list := func(tenant string) (clients []string) {
		resp, err := quotas.ListQuotas(ctx, &adminv1.ListQuotasRequest{Parent: "logicalClusters/" + logical[tenant]})
		require.NoError(t, err)
		for _, q := range resp.GetQuotas() {
			require.Nil(t, q.GetEntity().User)
			clients = append(clients, q.GetEntity().GetClientId())
		}
		return clients
	}
	for _, tenant := range []string{"acme", "beta"} {
		_, err := tenants.CreateTenant(ctx, &adminv1.CreateTenantRequest{TenantId: tenant})
		require.NoError(t, err)
	}

	// By Kafka's door, of one; by Connect, of all.
	name := "slow"
	altered, err := kadm.NewClient(client("acme")).AlterClientQuotas(ctx, []kadm.AlterClientQuotaEntry{{
		Entity: kadm.ClientQuotaEntity{{Type: "client-id", Name: &name}}, Ops: []kadm.AlterClientQuotaOp{{Key: "request_rate", Value: 0.5}},
	}})
	require.NoError(t, err)
	require.NoError(t, altered[0].Err)
	for tenant := range logical {
		change := &adminv1.QuotaChange{Entity: &adminv1.QuotaEntity{ClientId: new("of-" + tenant)}, Set: map[string]float64{"producer_byte_rate": 1e9}}
		_, err = quotas.AlterQuotas(ctx, &adminv1.AlterQuotasRequest{Parent: "logicalClusters/" + logical[tenant], Changes: []*adminv1.QuotaChange{change}})
		require.NoError(t, err)
	}
	want := map[string][]string{"": {"of-"}, "acme": {"of-acme", "slow"}, "beta": {"of-beta"}}
	for _, tenant := range slices.Sorted(maps.Keys(logical)) {
		require.Equal(t, want[tenant], list(tenant))
		described, err := kadm.NewClient(client(tenant)).DescribeClientQuotas(ctx, false, nil)
		require.NoError(t, err)
		var seen []string
		for _, d := range described {
			require.Len(t, d.Entity, 1)
			seen = append(seen, *d.Entity[0].Name)
		}
		require.Equal(t, want[tenant], seen)

		told := &throttles{}
		c := client(tenant, kgo.ClientID("slow"), kgo.WithHooks(told))
		for range 2 {
			_, err = kadm.NewClient(c).BrokerMetadata(ctx)
			require.NoError(t, err)
		}
		require.Equal(t, tenant == "acme", told.n.Load() > 0, "%q is told to wait %d times", tenant, told.n.Load())
	}

	// Whose a connection is, is not known when it is counted.
	ip := &adminv1.QuotaChange{Entity: &adminv1.QuotaEntity{Ip: new("")}, Set: map[string]float64{"connection_creation_rate": 10}}
	_, err = quotas.AlterQuotas(ctx, &adminv1.AlterQuotasRequest{Parent: "logicalClusters/acme", Changes: []*adminv1.QuotaChange{ip}})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "only the deployment's own logical cluster has quotas of IP addresses")

	for range 2 { // and one of the same name has none of them
		_, err = tenants.DeleteTenant(ctx, &adminv1.DeleteTenantRequest{Name: "tenants/acme"})
		require.NoError(t, err)
		_, err = tenants.CreateTenant(ctx, &adminv1.CreateTenantRequest{TenantId: "acme"})
		require.NoError(t, err)
		require.Empty(t, list("acme"))
	}
	require.Equal(t, want[""], list(""))
	require.Equal(t, want["beta"], list("beta"))
}
