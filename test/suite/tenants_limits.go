package suite

import (
	"net/http"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
)

// limited sets a limit of a tenant.
func (s *suite) limited(t *testing.T, tenant, flag string, n int64) {
	t.Helper()
	s.w.MustBraid(t, "", "tenant", "update", tenant, flag, strconv.FormatInt(n, 10))
}

// A tenant gets no more than it may have, by either door, and an error on which clients do
// not try for ever; others are not concerned.
func (s *suite) testTenantLimits(t *testing.T) {
	const tenant = "beta"
	topic, group := name(t), name(t)
	client := s.tenantClient(t, tenant)
	admin := kadm.NewClient(client)
	other := kadm.NewClient(s.tenantClient(t, "acme"))
	connectClient := &http.Client{Transport: inTenant{tenant, s.w.Client.Transport}}
	tenants := adminv1connect.NewTenantServiceClient(s.w.Client, s.w.API())
	now := func() *adminv1.Tenant {
		got, err := tenants.GetTenant(call(t), &adminv1.GetTenantRequest{Name: "tenants/" + tenant})
		require.NoError(t, err)
		return got.GetTenant()
	}
	flags := []string{"--max-topics", "--max-partitions", "--max-groups", "--max-connections"}
	t.Cleanup(func() {
		for _, flag := range flags {
			s.limited(t, tenant, flag, 0)
		}
	})

	_, err := admin.CreateTopic(call(t), 2, -1, nil, topic)
	require.NoError(t, err)
	s.limited(t, tenant, "--max-topics", int64(now().GetTopics())+1)
	s.limited(t, tenant, "--max-partitions", int64(now().GetPartitions())+3)
	_, err = admin.CreateTopic(call(t), 4, -1, nil, topic+"-wide")
	require.ErrorIs(t, err, kerr.PolicyViolation)
	_, err = admin.CreateTopic(call(t), 1, -1, nil, topic+"-second")
	require.NoError(t, err)
	created, err := admin.CreateTopics(call(t), 1, -1, nil, topic+"-third")
	require.NoError(t, err)
	require.ErrorIs(t, created[topic+"-third"].Err, kerr.PolicyViolation)
	require.Contains(t, created[topic+"-third"].ErrMessage, "ask the operators of the deployment")
	_, err = adminv1connect.NewTopicServiceClient(connectClient, s.w.API()).CreateTopic(call(t), &adminv1.CreateTopicRequest{TopicId: topic + "-third", Topic: &adminv1.Topic{PartitionCount: 1}})
	requireError(t, "INVALID_ARGUMENT topic="+topic+"-third", err)
	grown, err := admin.UpdatePartitions(call(t), 4, topic)
	require.NoError(t, err)
	require.NoError(t, grown.Error(), "there is room for two more")
	grown, err = admin.UpdatePartitions(call(t), 5, topic)
	require.NoError(t, err)
	require.ErrorIs(t, grown.Error(), kerr.PolicyViolation)
	for _, name := range []string{topic, topic + "-second", topic + "-third"} {
		_, err = other.CreateTopic(call(t), 1, -1, nil, name)
		require.NoError(t, err)
	}

	commit := func(admin *kadm.Client, group string) error {
		var offsets kadm.Offsets
		offsets.Add(kadm.Offset{Topic: topic, Partition: 0, At: 0, LeaderEpoch: -1})
		done, err := admin.CommitOffsets(call(t), group, offsets)
		if err == nil {
			err = done.Error()
		}
		return err
	}
	s.limited(t, tenant, "--max-groups", now().GetGroups()+1)
	require.NoError(t, commit(admin, group))
	require.ErrorIs(t, commit(admin, group+"-second"), kerr.GroupMaxSizeReached)
	require.NoError(t, commit(admin, group), "those that are there go on")
	require.NoError(t, commit(other, group+"-second"))
	member := s.tenantClient(t, tenant, kgo.ConsumerGroup(group+"-third"), kgo.ConsumeTopics(topic))
	require.ErrorIs(t, member.PollFetches(call(t)).Err(), kerr.GroupMaxSizeReached)
	member.Close()
	_, err = admin.DeleteGroup(call(t), group)
	require.NoError(t, err)
	require.NoError(t, commit(admin, group+"-second"))

	gateway := s.w.Gateways[0]
	only := kgo.SeedBrokers(gateway.Tenants[tenant])
	require.NoError(t, s.tenantClient(t, tenant, only).Ping(call(t))) // and stays
	s.limited(t, tenant, "--max-connections", 1)
	require.Error(t, s.tenantClient(t, tenant, only, kgo.RequestRetries(0)).Ping(call(t)))
	stream, err := braidv1connect.NewConsumerServiceClient(connectClient, gateway.URL()).Read(call(t), &braidv1.ReadRequest{Sources: fromStart(topic)})
	require.NoError(t, err)
	require.False(t, stream.Receive())
	requireError(t, "THROTTLED topic="+topic, stream.Err())
	got, err := adminv1connect.NewTenantServiceClient(s.w.Client, gateway.URL()).GetTenant(call(t), &adminv1.GetTenantRequest{Name: "tenants/" + tenant})
	require.NoError(t, err)
	require.Positive(t, got.GetTenant().GetConnections())
	require.Equal(t, int32(1), got.GetTenant().GetEffectiveLimits().GetConnections())
	require.NoError(t, s.tenantClient(t, "acme").Ping(call(t)))

	out := s.w.MustBraid(t, "", "tenant", "describe", tenant)
	for _, flag := range flags {
		require.Contains(t, out, flag)
	}
	s.limited(t, tenant, "--max-connections", 0)
	require.NoError(t, s.tenantClient(t, tenant, only).Ping(call(t)))
}
