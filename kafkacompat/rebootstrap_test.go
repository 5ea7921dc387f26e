package kafkacompat_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
)

// helloConn is a connection of a client that names itself.
func (w *world) helloConn(name string) *raw {
	c := w.dial()
	hello := kmsg.NewPtrApiVersionsRequest()
	hello.ClientSoftwareName, hello.ClientSoftwareVersion = name, "4.3.1"
	require.Zero(w.t, exchange[*kmsg.ApiVersionsResponse](c, hello, 4).ErrorCode)
	return c
}

// TestTheLastGatewaySendsClientsToTheirBootstrap: only when the whole fleet drains, only in
// versions that can say it.
func TestTheLastGatewaySendsClientsToTheirBootstrap(t *testing.T) {
	w := newWorld(t)
	w.addGateway("gw-1", 2, "")
	w.create("orders", 1, nil)
	code := func(v int16) int16 {
		return exchange[*kmsg.MetadataResponse](w.helloConn("apache-kafka-java"), askMetadata("orders"), v).ErrorCode
	}
	second := func(state federation.GatewayState) {
		w.Change(func(m *federation.Map) {
			for i, g := range m.Gateways {
				if g.ID == "gw-1" {
					other := *g
					other.State = state
					m.Gateways[i] = &other
				}
			}
		})
	}
	require.Zero(t, code(13))
	w.drainInMap()
	require.Zero(t, code(13), "another one is ready")
	second(federation.GatewayLost)
	require.Zero(t, code(13), "the other one may be back")
	second(federation.GatewayDraining)
	resp := exchange[*kmsg.MetadataResponse](w.helloConn("apache-kafka-java"), askMetadata("orders"), 13)
	require.Equal(t, kerr.RebootstrapRequired.Code, resp.ErrorCode)
	require.Empty(t, resp.Brokers)
	require.Empty(t, resp.Topics)
	require.Equal(t, kerr.LeaderNotAvailable.Code, exchange[*kmsg.MetadataResponse](w.helloConn("apache-kafka-java"), askMetadata("orders"), 12).Topics[0].Partitions[0].ErrorCode)
	for _, other := range []*raw{w.dial(), w.helloConn("kgo"), w.helloConn("librdkafka")} { // their applications would see it
		resp = exchange[*kmsg.MetadataResponse](other, askMetadata("orders"), 13)
		require.Zero(t, resp.ErrorCode)
		require.Equal(t, kerr.LeaderNotAvailable.Code, resp.Topics[0].Partitions[0].ErrorCode)
	}
	second(federation.GatewayReady)
	require.Zero(t, code(13))
}

// TestALostGatewaySendsNobodyAway: all can lose touch with the controller at a time.
func TestALostGatewaySendsNobodyAway(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 1, nil)
	for _, state := range []federation.GatewayState{federation.GatewayLost, federation.GatewayReady} {
		w.Change(func(m *federation.Map) {
			g := *m.Gateways[0]
			g.State = state
			m.Gateways[0] = &g
		})
		require.Zero(t, exchange[*kmsg.MetadataResponse](w.helloConn("apache-kafka-java"), askMetadata("orders"), 13).ErrorCode)
	}
	w.Change(func(m *federation.Map) { m.Gateways = nil }) // as at the name service's bootstrap: not in the map
	require.Zero(t, exchange[*kmsg.MetadataResponse](w.helloConn("apache-kafka-java"), askMetadata("orders"), 13).ErrorCode)
}
