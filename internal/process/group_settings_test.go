package process_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
)

// What a gateway is told of groups is what members are told, and what admin clients see.
func TestGroupSettings(t *testing.T) {
	f := embedded.New(t, embedded.Options{Configure: func(c *process.Config, _ int) {
		c.Groups.ConsumerSessionTimeout, c.Groups.ConsumerHeartbeatInterval = 70*time.Second, 7*time.Second
		c.Groups.SessionTimeoutMax = time.Minute
	}})
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.KafkaAddresses()...))
	require.NoError(t, err)
	t.Cleanup(cl.Close)
	beat := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	beat.Group, beat.MemberID, beat.RebalanceTimeoutMillis = "billing", "member", 10_000
	beat.SubscribedTopicNames, beat.Topics = []string{"orders"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	resp, err := beat.RequestWith(t.Context(), cl)
	require.NoError(t, err)
	require.Zero(t, resp.ErrorCode)
	require.EqualValues(t, 7000, resp.HeartbeatIntervalMillis)

	shown := func(kind kmsg.ConfigResourceType, name string) map[string]string {
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kind, ResourceName: name}}
		resp, err := req.RequestWith(t.Context(), cl)
		require.NoError(t, err)
		values := make(map[string]string)
		for _, c := range resp.Resources[0].Configs {
			values[c.Name] = *c.Value
		}
		return values
	}
	require.Equal(t, map[string]string{"consumer.session.timeout.ms": "70000", "consumer.heartbeat.interval.ms": "7000"}, shown(kmsg.ConfigResourceTypeGroupConfig, "billing"))
	brokers, err := kadm.NewClient(cl).ListBrokers(t.Context())
	require.NoError(t, err)
	node := shown(kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(brokers[0].NodeID)))
	require.Equal(t, "70000", node["group.consumer.session.timeout.ms"])
	require.Equal(t, "60000", node["group.max.session.timeout.ms"])
	require.Equal(t, "6000", node["group.min.session.timeout.ms"])
}
