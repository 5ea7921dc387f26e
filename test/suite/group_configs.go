package suite

import (
	"context"
	"strconv"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	groupSession   = "consumer.session.timeout.ms"
	groupHeartbeat = "consumer.heartbeat.interval.ms"
)

// alterGroup sets settings of a group, or takes away those with an empty value.
func (s *suite) alterGroup(t *testing.T, group string, values map[string]string) error {
	t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
	for name, v := range values {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		if c.Name, c.Value = name, &v; v == "" {
			c.Op, c.Value = kmsg.IncrementalAlterConfigOpDelete, nil
		}
		r.Configs = append(r.Configs, c)
	}
	req.Resources = append(req.Resources, r)
	resp, err := req.RequestWith(call(t), s.client(t))
	require.NoError(t, err)
	require.Len(t, resp.Resources, 1)
	return kerr.ErrorForCode(resp.Resources[0].ErrorCode)
}

// groupConfig is what a gateway, or any of them, shows of a group: values, and whether they
// are the group's own.
func (s *suite) groupConfig(t *testing.T, at kmsg.Requestor, group string) (values map[string]string, own map[string]bool) {
	t.Helper()
	req := kmsg.NewPtrDescribeConfigsRequest()
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
	req.Resources = append(req.Resources, r)
	resp, err := req.RequestWith(call(t), at)
	require.NoError(t, err)
	require.Len(t, resp.Resources, 1)
	require.Zero(t, resp.Resources[0].ErrorCode)
	values, own = make(map[string]string), make(map[string]bool)
	for _, c := range resp.Resources[0].Configs {
		values[c.Name], own[c.Name] = *c.Value, c.Source == kmsg.ConfigSourceGroupConfig
	}
	return values, own
}

// oneBroker sends requests to one gateway.
type oneBroker struct{ b *kgo.Broker }

func (o oneBroker) Request(ctx context.Context, r kmsg.Request) (kmsg.Response, error) {
	return o.b.RetriableRequest(ctx, r)
}

// awaitGroupConfig waits until every gateway shows a setting of a group.
func (s *suite) awaitGroupConfig(t *testing.T, group, name, value string) {
	t.Helper()
	for i, gateway := range s.client(t).SeedBrokers() {
		eventually(t, func() bool {
			values, _ := s.groupConfig(t, oneBroker{gateway}, group)
			return values[name] == value
		}, "gateway %d does not show %s=%s of group %s", i, name, value, group)
	}
}

// groupInterval is the heartbeat interval that a member of a group is told.
func (s *suite) groupInterval(t *testing.T, group, member string, epoch int32) (next, millis int32) {
	t.Helper()
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.MemberEpoch, req.RebalanceTimeoutMillis = group, member, epoch, -1
	if epoch == 0 {
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.Topics = 10_000, []string{group}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	}
	resp, err := req.RequestWith(call(t), s.client(t))
	require.NoError(t, err)
	require.NoError(t, kerr.ErrorForCode(resp.ErrorCode))
	return resp.MemberEpoch, resp.HeartbeatIntervalMillis
}

// testGroupConfigs sets what members of a group of the newer protocol are told, while one is
// there; others do not notice.
func (s *suite) testGroupConfigs(t *testing.T) {
	group, other, member := name(t), name(t)+"-other", uuid.NewString()
	usual, own := s.groupConfig(t, s.client(t), group)
	require.False(t, own[groupHeartbeat])
	epoch, millis := s.groupInterval(t, group, member, 0)
	require.Equal(t, usual[groupHeartbeat], text(millis))

	require.NoError(t, s.alterGroup(t, group, map[string]string{groupSession: "60000", groupHeartbeat: "7000"}))
	s.awaitGroupConfig(t, group, groupHeartbeat, "7000")
	eventually(t, func() bool {
		epoch, millis = s.groupInterval(t, group, member, epoch)
		return millis == 7000
	}, "the coordinator tells the new interval")
	values, own := s.groupConfig(t, s.client(t), group)
	require.Equal(t, map[string]string{groupSession: "60000", groupHeartbeat: "7000"}, values)
	require.True(t, own[groupSession] && own[groupHeartbeat])
	values, _ = s.groupConfig(t, s.client(t), other)
	require.Equal(t, usual, values)

	require.ErrorIs(t, s.alterGroup(t, group, map[string]string{groupSession: "1"}), kerr.InvalidConfig)
	require.ErrorIs(t, s.alterGroup(t, group, map[string]string{"share.session.timeout.ms": "50000"}), kerr.InvalidConfig)
	require.ErrorIs(t, s.alterGroup(t, "", map[string]string{groupSession: "50000"}), kerr.InvalidRequest)
	require.Contains(t, s.configuredGroups(t), group)
	require.NotContains(t, s.configuredGroups(t), other)

	require.NoError(t, s.alterGroup(t, group, map[string]string{groupSession: "", groupHeartbeat: ""}))
	s.awaitGroupConfig(t, group, groupHeartbeat, usual[groupHeartbeat])
	eventually(t, func() bool {
		epoch, millis = s.groupInterval(t, group, member, epoch)
		return text(millis) == usual[groupHeartbeat]
	}, "the coordinator tells the interval of all groups")
	require.NotContains(t, s.configuredGroups(t), group)
	s.groupInterval(t, group, member, -1)
}

// configuredGroups are the groups that have settings of their own.
func (s *suite) configuredGroups(t *testing.T) (groups []string) {
	t.Helper()
	req := kmsg.NewPtrListConfigResourcesRequest()
	req.ResourceTypes = []int8{int8(kmsg.ConfigResourceTypeGroupConfig)}
	resp, err := req.RequestWith(call(t), s.client(t))
	require.NoError(t, err)
	require.NoError(t, kerr.ErrorForCode(resp.ErrorCode))
	for _, r := range resp.ConfigResources {
		require.EqualValues(t, kmsg.ConfigResourceTypeGroupConfig, r.Type)
		groups = append(groups, r.Name)
	}
	return groups
}

func text(millis int32) string { return strconv.Itoa(int(millis)) }
