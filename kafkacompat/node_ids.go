package kafkacompat

import (
	"net"
	"slices"
	"strconv"

	"github.com/braidmq/braid/federation"
)

// A view is the federation as one client sees it: gateways are the brokers.
type view struct {
	m        *federation.Map
	client   federation.Client
	ready    []*federation.Gateway
	gateways []*federation.Gateway // the client's own, best first
	zones    []zone                // that have gateways; see zoned
	isZoned  bool                  // zones is set
}

func (c *conn) view(m *federation.Map, clientID string) view {
	client := c.client(clientID)
	return view{m: m, client: client, ready: readyGateways(m), gateways: m.ClientGateways(client)}
}

// readyGateways are the nodes of Metadata, DescribeCluster and FindCoordinator.
func readyGateways(m *federation.Map) []*federation.Gateway {
	ready := make([]*federation.Gateway, 0, len(m.Gateways))
	for _, g := range m.Gateways {
		if g.State == federation.GatewayReady && g.KafkaAddress != "" {
			ready = append(ready, g)
		}
	}
	return ready
}

// controller returns the node that the client is to send admin requests to: any
// gateway takes them.
func (v *view) controller() int32 {
	switch {
	case len(v.gateways) > 0:
		return int32(v.gateways[0].NodeID)
	case len(v.ready) > 0:
		return int32(v.ready[0].NodeID)
	}
	return -1
}

// leader returns the node that is named as a partition's leader; nil if there is none.
func (v *view) leader(t *federation.Topic, p *federation.Partition) *federation.Gateway {
	return v.m.PartitionGateway(v.gateways, t.ID, p.Number)
}

// copies is how many replicas a topic's partitions are shown with: its replication factor,
// and at most one for each gateway.
func (v *view) copies(t *federation.Topic) int {
	return min(max(int(t.ReplicationFactor), 1), max(len(v.ready), 1))
}

// replicas returns the nodes that are named as a partition's replicas: its leader, then one
// of each other zone, as far as there is room, and then any. They all hold what any of them
// holds, so they are the in-sync ones too.
func (v *view) replicas(t *federation.Topic, p *federation.Partition, leader *federation.Gateway) []int32 {
	if leader == nil {
		return []int32{}
	}
	n := v.copies(t)
	ids := make([]int32, 1, n)
	ids[0] = int32(leader.NodeID)
	if n > 1 {
		ids = v.elsewhere(t, p, leader, ids)
	}
	at := 0
	for i, g := range v.ready {
		if g == leader {
			at = i
		}
	}
	for i := 1; i < len(v.ready) && len(ids) < n; i++ {
		if g := v.ready[(at+i)%len(v.ready)]; !slices.Contains(ids, int32(g.NodeID)) {
			ids = append(ids, int32(g.NodeID))
		}
	}
	return ids
}

// hostPort splits a gateway's advertised address.
func hostPort(g *federation.Gateway) (string, int32) {
	host, port, err := net.SplitHostPort(g.KafkaAddress)
	if err != nil {
		return g.KafkaAddress, 0
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return host, 0
	}
	return host, int32(n)
}

func rack(g *federation.Gateway) *string {
	if g.Zone == "" {
		return nil
	}
	return &g.Zone
}
