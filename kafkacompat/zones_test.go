package kafkacompat_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/kafkacompat"
)

// zones starts gateways, one for each zone that is named; the first one is the world's.
func (w *world) zones(names ...string) (addrs []string) {
	w.t.Helper()
	w.Change(func(m *federation.Map) {
		g := *m.Gateway("gw-0")
		g.Zone = names[0]
		m.Gateways = []*federation.Gateway{&g}
	})
	addrs = append(addrs, w.addr)
	for i, zone := range names[1:] {
		addrs = append(addrs, w.addGateway(federation.GatewayID(fmt.Sprint("gw-", i+1)), federation.NodeID(i+2), zone))
	}
	return addrs
}

func (w *world) zoneOf(node int32) string {
	return w.Current().GatewayByNode(federation.NodeID(node)).Zone
}

func (w *world) createReplicated(name string, partitions int32, replicas int16) {
	w.t.Helper()
	require.NoError(w.t, w.CreateTopic(w.t.Context(), kafkacompat.TopicSpec{Name: federation.TopicName(name), Partitions: partitions, ReplicationFactor: replicas}))
}

// TestMetadataSpreadsReplicasOverZones: a partition has replicas in as many zones as it can,
// and in each the gateway that leads it for the clients of that zone.
func TestMetadataSpreadsReplicasOverZones(t *testing.T) {
	w := newWorld(t)
	addrs := w.zones("za", "zb", "zc", "za", "zb", "zc", "")
	for _, replicas := range []int16{1, 2, 3, 5} {
		name := fmt.Sprint("rf", replicas)
		w.createReplicated(name, 60, replicas)
		md := exchange[*kmsg.MetadataResponse](w.dial(), askMetadata(name), 12)
		for _, addr := range addrs {
			require.Equal(t, md, exchange[*kmsg.MetadataResponse](dial(t, addr), askMetadata(name), 12), "all gateways answer alike")
		}
		req := kmsg.NewPtrDescribeTopicPartitionsRequest()
		req.Topics = []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: name}}
		req.ResponsePartitionLimit = 100
		described := exchange[*kmsg.DescribeTopicPartitionsResponse](w.dial(), req, 0).Topics[0].Partitions
		m, named := w.Current(), make(map[int32]int)
		for i, p := range md.Topics[0].Partitions {
			require.Equal(t, p.Replicas, described[i].Replicas)
			require.Equal(t, p.Leader, p.Replicas[0])
			require.Len(t, p.Replicas, int(replicas))
			require.Len(t, slices.Compact(slices.Sorted(slices.Values(p.Replicas))), int(replicas), "none twice")
			zones := make(map[string]int)
			for _, node := range p.Replicas {
				zones[w.zoneOf(node)]++
			}
			delete(zones, "")
			leads := 1 // the leader's zone
			if w.zoneOf(p.Leader) == "" {
				leads = 0
			}
			require.Len(t, zones, min(int(replicas)-1+leads, 3))
			for _, node := range p.Replicas[1:min(len(p.Replicas), 3)] {
				named[node]++
				local := m.ClientGateways(federation.Client{ID: "raw", Zone: w.zoneOf(node)})
				require.EqualValues(t, m.PartitionGateway(local, m.Topics[federation.TopicName(name)].ID, federation.LogicalPartition(i)).NodeID, node, "who leads it for clients of the zone")
			}
		}
		if replicas > 1 {
			require.Len(t, named, 6, "each gateway of a zone is named for some")
		}
	}
}

// TestMetadataWithoutZonesIsAsBefore: replicas follow the leader, one after the other.
func TestMetadataWithoutZonesIsAsBefore(t *testing.T) {
	for _, zones := range [][]string{{"", "", "", ""}, {"z", "z", "z", "z"}} {
		w := newWorld(t)
		w.zones(zones...)
		w.createReplicated("orders", 20, 3)
		for _, p := range exchange[*kmsg.MetadataResponse](w.dial(), askMetadata("orders"), 12).Topics[0].Partitions {
			at := p.Leader - 1
			require.Equal(t, []int32{p.Leader, (at+1)%4 + 1, (at+2)%4 + 1}, p.Replicas)
		}
	}
}

// fetchRack is a long poll for partitions 0 to n-1 from an offset on, by a client of a rack.
func fetchRack(w *world, rack string, offset int64, n int32) *kmsg.FetchRequest {
	req := longPoll(w, 20*time.Second)
	req.Rack, req.SessionEpoch = rack, -1
	req.MaxBytes = 1 << 20
	for i := range n {
		if i > 0 {
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, req.Topics[0].Partitions[0])
		}
		p := &req.Topics[0].Partitions[i]
		p.Partition, p.FetchOffset, p.CurrentLeaderEpoch, p.LastFetchedEpoch = i, offset, -1, -1
	}
	return req
}

// named is a connection of a client that says what it is.
func named(t *testing.T, addr string) *raw {
	t.Helper()
	c, hello := dial(t, addr), kmsg.NewPtrApiVersionsRequest()
	hello.ClientSoftwareName, hello.ClientSoftwareVersion = "test", "1"
	exchange[*kmsg.ApiVersionsResponse](c, hello, 3)
	return c
}

// decided fetches from a gateway until each partition was answered: with an error, with
// records, or with a replica to go to. One answer does not wait for all clusters.
func (w *world) decided(t *testing.T, addr string, v int16, rack string, offset int64, n int32) []kmsg.FetchResponseTopicPartition {
	t.Helper()
	c, got, done := named(t, addr), make([]kmsg.FetchResponseTopicPartition, n), make([]bool, n)
	for left := n; left > 0; {
		req := fetchRack(w, rack, offset, n)
		req.Topics[0].Partitions = slices.DeleteFunc(req.Topics[0].Partitions, func(p kmsg.FetchRequestTopicPartition) bool {
			return done[p.Partition]
		})
		began := time.Now()
		resp := exchange[*kmsg.FetchResponse](c, req, v)
		require.Less(t, time.Since(began), 10*time.Second, "at once")
		for _, p := range resp.Topics[0].Partitions {
			if p.ErrorCode != 0 || len(p.RecordBatches) > 0 || p.PreferredReadReplica >= 0 {
				got[p.Partition], done[p.Partition] = p, true
				left--
			}
		}
	}
	return got
}

// TestFetchSendsConsumersToTheirZone: the gateway of another zone names the replica in the
// consumer's, at once and without records; that one serves it.
func TestFetchSendsConsumersToTheirZone(t *testing.T) {
	w := newWorld(t)
	addrs := w.zones("za", "zb", "zc", "zb")
	w.createReplicated("orders", 4, 3)
	for p := range int32(4) {
		w.write("orders", p, 3)
	}
	md := exchange[*kmsg.MetadataResponse](w.dial(), askMetadata("orders"), 12).Topics[0].Partitions
	for v := int16(11); v <= 18; v++ {
		for _, offset := range []int64{0, 1, 3} { // at the end, too
			for i, p := range w.decided(t, w.addr, v, "zb", offset, 4) {
				require.Zero(t, p.ErrorCode)
				require.EqualValues(t, 3, p.HighWatermark)
				require.Empty(t, p.RecordBatches)
				require.Equal(t, "zb", w.zoneOf(p.PreferredReadReplica))
				require.Contains(t, md[i].Replicas, p.PreferredReadReplica)
			}
		}
		for _, i := range []int{1, 3} { // whether it is the one that is named or not
			for _, p := range w.decided(t, addrs[i], v, "zb", 1, 4) {
				require.Zero(t, p.ErrorCode)
				require.EqualValues(t, -1, p.PreferredReadReplica)
				require.NotEmpty(t, p.RecordBatches)
			}
		}
	}
	for _, rack := range []string{"", "za", "nowhere"} {
		for _, p := range w.decided(t, w.addr, 18, rack, 0, 4) {
			require.EqualValues(t, -1, p.PreferredReadReplica, rack)
			require.NotEmpty(t, p.RecordBatches)
		}
	}
	for _, p := range w.decided(t, w.addr, 10, "zb", 0, 4) { // the request has no rack
		require.NotEmpty(t, p.RecordBatches)
	}
	// Who does not say what it is stays where it is.
	p := exchange[*kmsg.FetchResponse](w.dial(), fetchRack(w, "zb", 0, 1), 11).Topics[0].Partitions[0]
	require.EqualValues(t, -1, p.PreferredReadReplica)
	require.NotEmpty(t, p.RecordBatches)
}

// TestFetchNamesNoReplicaWithAnError: who is out of range is told so by the leader, and by a
// gateway of its zone, which says where the log is.
func TestFetchNamesNoReplicaWithAnError(t *testing.T) {
	w := newWorld(t)
	addrs := w.zones("za", "zb")
	w.createReplicated("orders", 2, 2)
	w.write("orders", 0, 3)
	w.write("orders", 1, 9)
	parts := w.decided(t, w.addr, 18, "zb", 5, 2)
	require.Equal(t, kerr.OffsetOutOfRange.Code, parts[0].ErrorCode)
	require.EqualValues(t, -1, parts[0].PreferredReadReplica)
	require.EqualValues(t, 2, parts[1].PreferredReadReplica)

	parts = w.decided(t, addrs[1], 18, "zb", 5, 2)
	require.Equal(t, kerr.OffsetOutOfRange.Code, parts[0].ErrorCode)
	require.EqualValues(t, -1, parts[0].PreferredReadReplica)
	require.EqualValues(t, 3, parts[0].HighWatermark)
	require.Zero(t, parts[0].LogStartOffset)

	// A partition that does not exist, and a gateway that drains.
	p := w.decided(t, w.addr, 18, "zb", 0, 3)[2]
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, p.ErrorCode)
	require.EqualValues(t, -1, p.PreferredReadReplica)
	w.Change(func(m *federation.Map) {
		g := *m.Gateways[1]
		g.State = federation.GatewayDraining
		m.Gateways[1] = &g
	})
	for _, p := range w.decided(t, w.addr, 18, "zb", 0, 2) {
		require.EqualValues(t, -1, p.PreferredReadReplica)
		require.NotEmpty(t, p.RecordBatches)
	}
}

// TestFetchNamesReplicasOfMetadataOnly: a client falls back to the leader if the replica that
// it is sent to is none of Metadata's.
func TestFetchNamesReplicasOfMetadataOnly(t *testing.T) {
	w := newWorld(t)
	w.zones("za", "zb", "zc", "zd")
	const partitions = 24
	w.createReplicated("orders", partitions, 2)
	md := exchange[*kmsg.MetadataResponse](w.dial(), askMetadata("orders"), 12).Topics[0].Partitions
	for _, rack := range []string{"zb", "zc", "zd"} {
		want := make(map[int32]int32)
		for _, p := range md {
			for _, node := range p.Replicas {
				if w.zoneOf(node) == rack {
					want[p.Partition] = node
				}
			}
		}
		require.NotEmpty(t, want)
		require.Less(t, len(want), partitions)
		got, c := make(map[int32]int32), named(t, w.addr)
		require.Eventually(t, func() bool { // one answer does not wait for all clusters
			req := fetchRack(w, rack, 0, partitions)
			req.MinBytes = 0
			for _, p := range exchange[*kmsg.FetchResponse](c, req, 12).Topics[0].Partitions {
				if p.PreferredReadReplica >= 0 {
					got[p.Partition] = p.PreferredReadReplica
				}
			}
			return len(got) >= len(want)
		}, 20*time.Second, time.Millisecond)
		require.Equal(t, want, got)
	}
}

// TestFetchSessionTellsOfReplicas: a partition that is to be read elsewhere is news, and the
// others of the session are as they were.
func TestFetchSessionTellsOfReplicas(t *testing.T) {
	w := newWorld(t)
	w.zones("za", "zb")
	w.createReplicated("orders", 3, 2)
	f := w.fetcher(18)
	f.c = named(t, w.addr)
	settle(f, []at{{0, 0}, {1, 0}, {2, 0}})
	var told []int32
	var forget []int32
	for len(told) < 3 {
		req := f.request("orders", nil, forget...)
		req.Rack = "zb"
		resp := exchange[*kmsg.FetchResponse](f.c, req, 18)
		f.epoch++
		require.Zero(t, resp.ErrorCode)
		require.NotEmpty(t, resp.Topics)
		forget = nil
		for _, p := range resp.Topics[0].Partitions {
			require.EqualValues(t, 2, p.PreferredReadReplica)
			told, forget = append(told, p.Partition), append(forget, p.Partition)
		}
	}
	slices.Sort(told)
	require.Equal(t, []int32{0, 1, 2}, told, "each once")
}

// TestFetchServesWhoComesBack: a client that cannot use the gateway it was sent to is served
// where it is.
func TestFetchServesWhoComesBack(t *testing.T) {
	w := newWorld(t)
	w.zones("za", "zb")
	w.createReplicated("orders", 1, 2)
	w.write("orders", 0, 3)
	c := named(t, w.addr)
	sent := func(offset int64) bool {
		p := exchange[*kmsg.FetchResponse](c, fetchRack(w, "zb", offset, 1), 18).Topics[0].Partitions[0]
		require.Zero(t, p.ErrorCode)
		require.Equal(t, p.PreferredReadReplica < 0, len(p.RecordBatches) > 0)
		return p.PreferredReadReplica == 2
	}
	require.True(t, sent(0))
	require.False(t, sent(0), "it has read nothing")
	require.False(t, sent(1))
	require.Eventually(t, func() bool { return sent(2) }, 20*time.Second, 50*time.Millisecond, "after a while it is sent again")
	require.True(t, sent(1), "it has read meanwhile: its lease was over")
	// Another connection knows nothing of it.
	c = named(t, w.addr)
	require.True(t, sent(0))
}

// TestFetchServesWhomNobodyWouldKnow: where it cannot be noted that a consumer was sent away,
// it stays.
func TestFetchServesWhomNobodyWouldKnow(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) { c.FetchSessionPartitionsMax = 1 })
	w.zones("za", "zb")
	w.createReplicated("orders", 1, 2)
	w.write("orders", 0, 3)
	fetch := func(c *raw) kmsg.FetchResponseTopicPartition {
		return exchange[*kmsg.FetchResponse](c, fetchRack(w, "zb", 0, 1), 18).Topics[0].Partitions[0]
	}
	other := w.fetcher(12)
	other.fetch("orders", []at{{0, 0}})
	require.NotZero(t, other.id, "it has what room there is")
	c := named(t, w.addr)
	for range 3 {
		p := fetch(c)
		require.EqualValues(t, -1, p.PreferredReadReplica)
		require.NotEmpty(t, p.RecordBatches)
	}
	require.NoError(t, other.c.c.Close())
	require.Eventually(t, func() bool { return fetch(c).PreferredReadReplica == 2 }, 5*time.Second, time.Millisecond)
	require.EqualValues(t, -1, fetch(c).PreferredReadReplica, "it came back")
}

// TestFetchWithRackNeedsRights: who may not read a topic is not sent to read it elsewhere.
func TestFetchWithRackNeedsRights(t *testing.T) {
	w := newGuarded(t)
	w.zones("za", "zb")
	w.setTopic("orders", nil, 2, 2)
	p := w.decided(t, w.addr, 18, "zb", 0, 1)[0]
	require.Equal(t, kerr.TopicAuthorizationFailed.Code, p.ErrorCode)
	require.EqualValues(t, -1, p.PreferredReadReplica)
	w.grant("ANONYMOUS READ TOPIC orders")
	p = w.decided(t, w.addr, 18, "zb", 0, 1)[0]
	require.Zero(t, p.ErrorCode)
	require.EqualValues(t, 2, p.PreferredReadReplica)
}
