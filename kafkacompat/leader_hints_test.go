package kafkacompat_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/recordbatch"
)

// drainInMap takes the first gateway out of the assignment, as the controller does.
func (w *world) drainInMap() {
	w.Change(func(m *federation.Map) {
		i := slices.IndexFunc(m.Gateways, func(g *federation.Gateway) bool { return g.ID == "gw-0" })
		g := *m.Gateways[i]
		g.State = federation.GatewayDraining
		m.Gateways[i] = &g
		m.FleetGeneration++
	})
}

// TestProduceHintsAtTheLeader: who is refused by another gateway than the leader is told
// which one that is; who is refused by the leader is told nothing, and waits.
func TestProduceHintsAtTheLeader(t *testing.T) {
	w := newWorld(t)
	second := w.addGateway("gw-1", 2, "zone-b")
	w.create("orders", 4, nil)
	w.drainInMap()
	md := exchange[*kmsg.MetadataResponse](dial(t, second), askMetadata("orders"), 12)
	w.Lapse(true) // no append may be acknowledged
	for v := int16(9); v <= 13; v++ {
		req := produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, "x"), batch(recordbatch.NoProducer, "y"))
		req.TimeoutMillis = 50
		resp := exchange[*kmsg.ProduceResponse](w.dial(), req, v)
		for i, p := range resp.Topics[0].Partitions {
			require.Equal(t, kerr.NotLeaderForPartition.Code, p.ErrorCode)
			if v < 10 {
				require.EqualValues(t, -1, p.CurrentLeader.LeaderID)
				continue
			}
			named := md.Topics[0].Partitions[i]
			require.Equal(t, named.Leader, p.CurrentLeader.LeaderID, "as Metadata says")
			require.Equal(t, named.LeaderEpoch, p.CurrentLeader.LeaderEpoch)
			require.Len(t, resp.Brokers, 1)
			require.Equal(t, md.Brokers[0].NodeID, resp.Brokers[0].NodeID)
			require.Equal(t, md.Brokers[0].Host, resp.Brokers[0].Host)
			require.Equal(t, md.Brokers[0].Port, resp.Brokers[0].Port)
			require.Equal(t, "zone-b", *resp.Brokers[0].Rack)
		}
		resp = exchange[*kmsg.ProduceResponse](dial(t, second), req, v)
		require.Equal(t, kerr.NotLeaderForPartition.Code, resp.Topics[0].Partitions[0].ErrorCode)
		require.EqualValues(t, -1, resp.Topics[0].Partitions[0].CurrentLeader.LeaderID, "it is the leader itself")
		require.Empty(t, resp.Brokers)
	}
}

// TestFetchHintsAtTheLeader: a long poll at a gateway that drains ends with the name of the
// one that serves from now on.
func TestFetchHintsAtTheLeader(t *testing.T) {
	for _, v := range []int16{13, 16, 18} {
		w := newWorld(t)
		second := w.addGateway("gw-1", 2, "")
		w.create("orders", 1, nil)
		c, fetch := w.dial(), longPoll(w, 25*time.Second)
		corr := c.send(fetch, v)
		require.Eventually(t, func() bool { return w.servers[0].Working() > 0 }, 10*time.Second, time.Millisecond, "the request is read")
		w.drainInMap()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		require.NoError(t, w.servers[0].Drain(ctx))
		cancel()
		resp := c.receive(fetch, corr).(*kmsg.FetchResponse)
		p := resp.Topics[0].Partitions[0]
		require.Equal(t, kerr.NotLeaderForPartition.Code, p.ErrorCode)
		if v < 16 {
			require.EqualValues(t, -1, p.CurrentLeader.LeaderID)
			require.Empty(t, resp.Brokers)
			continue
		}
		md := exchange[*kmsg.MetadataResponse](dial(t, second), askMetadata("orders"), 12)
		require.Equal(t, md.Topics[0].Partitions[0].Leader, p.CurrentLeader.LeaderID)
		require.Equal(t, md.Topics[0].Partitions[0].LeaderEpoch, p.CurrentLeader.LeaderEpoch)
		require.Len(t, resp.Brokers, 1)
		require.Equal(t, md.Brokers[0].Port, resp.Brokers[0].Port)
	}
}
