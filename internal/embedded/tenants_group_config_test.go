package embedded_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
)

// Groups of the same name in two logical clusters have settings of their own, by either door,
// and a tenant's go with it.
func TestGroupConfigsBelongToTenants(t *testing.T) {
	f := embedded.New(t, embedded.Options{Brokers: 1, FleetToken: fleetToken, Configure: func(c *process.Config, _ int) {
		if c.Role == process.Gateway {
			c.Tenants, c.TenantKafkaListen = true, map[string]string{"acme": "127.0.0.1:0"}
		}
	}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tenants := adminv1connect.NewTenantServiceClient(f.Client, f.APIURL())
	configs := adminv1connect.NewGroupConfigServiceClient(f.Client, f.APIURL())
	parents := map[string]string{"": "logicalClusters/default", "acme": "logicalClusters/acme"}
	const group, interval = "billing", "consumer.heartbeat.interval.ms"
	create := func() {
		_, err := tenants.CreateTenant(ctx, &adminv1.CreateTenantRequest{TenantId: "acme"})
		require.NoError(t, err)
	}
	create()
	client := func(tenant string) *kgo.Client {
		seeds := f.KafkaAddresses()
		if tenant != "" {
			seeds = []string{f.Gateways()[0].TenantKafkaAddress(tenant)}
		}
		c, err := kgo.NewClient(kgo.SeedBrokers(seeds...))
		require.NoError(t, err)
		t.Cleanup(c.Close)
		return c
	}
	told := func(tenant string) int32 {
		beat := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		beat.Group, beat.MemberID, beat.RebalanceTimeoutMillis = group, "member", 10_000
		beat.SubscribedTopicNames, beat.Topics = []string{"orders"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		resp, err := beat.RequestWith(ctx, client(tenant))
		require.NoError(t, err)
		require.NoError(t, kerr.ErrorForCode(resp.ErrorCode))
		return resp.HeartbeatIntervalMillis
	}
	list := func(tenant string) (values []string) {
		resp, err := configs.ListGroupConfigs(ctx, &adminv1.ListGroupConfigsRequest{Parent: parents[tenant]})
		require.NoError(t, err)
		for _, c := range resp.GetGroupConfigs() {
			require.Equal(t, group, c.GetGroup())
			values = append(values, c.GetValues()[interval])
		}
		return values
	}

	alter := kmsg.NewPtrIncrementalAlterConfigsRequest()
	change := kmsg.NewIncrementalAlterConfigsRequestResource()
	change.ResourceType, change.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
	change.Configs = []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: interval, Value: new("7000")}}
	alter.Resources = append(alter.Resources, change)
	altered, err := alter.RequestWith(ctx, client("acme"))
	require.NoError(t, err)
	require.NoError(t, kerr.ErrorForCode(altered.Resources[0].ErrorCode))
	require.Equal(t, []string{"7000"}, list("acme"))
	require.Empty(t, list(""))
	require.Eventually(t, func() bool { return told("acme") == 7000 }, 10*time.Second, 10*time.Millisecond)
	require.EqualValues(t, 5000, told(""))

	_, err = configs.AlterGroupConfig(ctx, &adminv1.AlterGroupConfigRequest{Group: group, Set: map[string]string{interval: "9000"}})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return told("") == 9000 }, 10*time.Second, 10*time.Millisecond)
	require.EqualValues(t, 7000, told("acme"))
	_, err = configs.AlterGroupConfig(ctx, &adminv1.AlterGroupConfigRequest{Parent: parents["acme"], Group: group, Set: map[string]string{interval: "15001"}})
	require.ErrorContains(t, err, "group.consumer.max.heartbeat.interval.ms")

	_, err = tenants.DeleteTenant(ctx, &adminv1.DeleteTenantRequest{Name: "tenants/acme"})
	require.NoError(t, err)
	create() // one of the same name has none of them
	require.Empty(t, list("acme"))
	require.Equal(t, []string{"9000"}, list(""))
}
