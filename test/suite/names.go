package suite

import (
	"fmt"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	namingv1 "github.com/braidmq/braid/gen/braid/naming/v1"
	"github.com/braidmq/braid/gen/braid/naming/v1/namingv1connect"
)

func (s *suite) names() []test {
	return []test{
		{"resolve gives every client the same answer everywhere", s.testResolve},
		{"watch tells the answer", s.testWatch},
		{"the Kafka bootstrap sends clients to their gateways", s.testBootstrap},
	}
}

func (s *suite) nameService() namingv1connect.NameServiceClient {
	return namingv1connect.NewNameServiceClient(s.w.Client, s.w.NameServer.URL())
}

func (s *suite) testResolve(t *testing.T) {
	resolve := func(client string, protocol namingv1.Protocol) []string {
		response, err := s.nameService().Resolve(call(t), &namingv1.ResolveRequest{ClientId: client, Protocol: protocol})
		require.NoError(t, err)
		require.Positive(t, response.GetGeneration())
		require.Positive(t, response.GetTtlMs())
		var all []string
		for _, e := range response.GetEndpoints() {
			all = append(all, e.GetAddress())
		}
		return all
	}
	var connects, kafkas []string
	for _, g := range s.w.Gateways {
		connects, kafkas = append(connects, g.Connect), append(kafkas, g.Kafka)
	}
	first := make(map[string]int)
	for i := range 60 {
		client := fmt.Sprint("client-", i)
		answer := resolve(client, namingv1.Protocol_PROTOCOL_CONNECT)
		require.NotEmpty(t, answer)
		require.Subset(t, connects, answer)
		require.Equal(t, answer, resolve(client, namingv1.Protocol_PROTOCOL_CONNECT), "the same answer each time")
		first[answer[0]]++
		require.Subset(t, kafkas, resolve(client, namingv1.Protocol_PROTOCOL_KAFKA))
	}
	require.Len(t, first, len(s.w.Gateways), "clients are spread over all gateways: %v", first)
}

func (s *suite) testWatch(t *testing.T) {
	stream, err := s.nameService().Watch(call(t), &namingv1.WatchRequest{Query: &namingv1.ResolveRequest{ClientId: "watcher"}})
	require.NoError(t, err)
	defer func() { _ = stream.Close() }()
	require.True(t, stream.Receive(), "%v", stream.Err())
	resolved, err := s.nameService().Resolve(call(t), &namingv1.ResolveRequest{ClientId: "watcher"})
	require.NoError(t, err)
	require.Len(t, stream.Msg().GetAnswer().GetEndpoints(), len(resolved.GetEndpoints()))
	_, err = s.nameService().Resolve(call(t), &namingv1.ResolveRequest{LogicalCluster: "no-such-cluster"})
	require.Error(t, err)
	require.NotEqual(t, connect.CodeInternal, connect.CodeOf(err))
}

func (s *suite) testBootstrap(t *testing.T) {
	topic := s.topic(t, 4)
	client, err := kgo.NewClient(kgo.SeedBrokers(s.w.NameServer.Kafka), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	send(t, client, &kgo.Record{Topic: topic, Value: []byte("v")})
	poll(t, client, 1)

	ask := func(address string) *kmsg.MetadataResponse {
		r := kmsg.NewPtrMetadataRequest()
		r.SetVersion(9)
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &topic
		r.Topics = append(r.Topics, rt)
		return dial(t, address).call(r).(*kmsg.MetadataResponse)
	}
	bootstrap, gateway := ask(s.w.NameServer.Kafka), ask(s.w.KafkaAddresses()[0])
	require.Equal(t, gateway.Brokers, bootstrap.Brokers, "name service and gateways name the same brokers to the same client")
	for _, b := range bootstrap.Brokers {
		require.Contains(t, s.w.KafkaAddresses(), fmt.Sprintf("%s:%d", b.Host, b.Port))
	}

	// librdkafka asks whom it is connected to for a producer id, which is the bootstrap at
	// first, and asks that again if it is sent away.
	given := make(map[int64]string)
	for _, address := range []string{s.w.NameServer.Kafka, s.w.KafkaAddresses()[0], s.w.NameServer.Kafka} {
		r := kmsg.NewPtrInitProducerIDRequest()
		r.SetVersion(4)
		r.ProducerID, r.ProducerEpoch = -1, -1
		resp := dial(t, address).call(r).(*kmsg.InitProducerIDResponse)
		require.NoError(t, kerr.ErrorForCode(resp.ErrorCode), address)
		require.NotContains(t, given, resp.ProducerID)
		given[resp.ProducerID] = address
	}
}
