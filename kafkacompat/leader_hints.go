package kafkacompat

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/braidmq/braid/federation"
)

// A leaderHint names the gateway that leads a partition, in the answer to who asked
// another one that could not serve it (KIP-951). A client whose epoch is older goes there at
// once, without asking for metadata: so it leaves a gateway that drains.
//
// A hint agrees with Metadata for the same map and client id. It never names the gateway
// that answers: one that cannot serve for a reason of its own, say that a cluster is away,
// must have its clients wait before they come again.
type leaderHint struct {
	leader *federation.Gateway
	epoch  federation.LogicalEpoch
}

// The first versions that have hints.
const (
	produceHintsMin = 10
	fetchHintsMin   = 16
)

// hinted reports whether a code calls for a hint, as in KafkaApis.
func hinted(code int16) bool {
	return code == kerr.NotLeaderForPartition.Code || code == kerr.FencedLeaderEpoch.Code
}

// hints finds hints for one answer.
type hints struct {
	c     *conn
	req   *request
	v     view
	ready bool
}

// of returns the hint for a partition; nil if there is none to give.
func (h *hints) of(topic federation.TopicName, number int32) *leaderHint {
	if !h.ready {
		m := h.c.s.mapOrNil()
		if m == nil {
			return nil
		}
		h.v, h.ready = h.c.view(m, h.req.clientID), true
	}
	p, err := h.v.m.Partition(federation.TopicPartition{Topic: topic, Partition: federation.LogicalPartition(number)})
	if err != nil {
		return nil
	}
	leader := h.v.leader(h.v.m.Topics[topic], p)
	if leader == nil || leader.KafkaAddress == "" || leader.ID == h.c.s.cfg.GatewayID {
		return nil
	}
	return &leaderHint{leader, h.v.m.LeaderEpoch(p)}
}

func (c *conn) hintProduced(req *request, p *produceRequest) {
	if req.version < produceHintsMin || req.code == 0 {
		return
	}
	h := hints{c: c, req: req}
	for i := range p.topics {
		t := &p.topics[i]
		for j := range t.partitions {
			if part := &t.partitions[j]; t.found != nil && hinted(part.code) {
				part.hint = h.of(t.found.Name, part.partition)
				p.endpoints = addEndpoint(p.endpoints, part.hint)
			}
		}
	}
}

func (c *conn) hintFetched(req *request, s *fetchSession) {
	if req.version < fetchHintsMin || req.code == 0 {
		return
	}
	h := hints{c: c, req: req}
	for _, p := range s.parts {
		if hinted(p.code) && p.want.Topic != "" {
			p.hint = h.of(p.want.Topic, p.partition)
		}
	}
}

// addEndpoint adds the node of a hint, once.
func addEndpoint(nodes []*federation.Gateway, hint *leaderHint) []*federation.Gateway {
	if hint == nil || slices.Contains(nodes, hint.leader) {
		return nodes
	}
	return append(nodes, hint.leader)
}

// appendTag appends the hint as a tagged field: its number, its size, and the structure.
func (h *leaderHint) appendTag(b []byte, tag byte) []byte {
	const currentLeaderBytes = 4 + 4 + 1
	b = append(b, tag, currentLeaderBytes)
	b = appendI32(b, int32(h.leader.NodeID))
	b = appendI32(b, int32(h.epoch))
	return append(b, 0)
}

// appendEndpoints appends the tagged fields at the end of a response: the nodes that its
// hints name, if there are any.
func appendEndpoints(b []byte, nodes []*federation.Gateway) []byte {
	if len(nodes) == 0 {
		return append(b, 0)
	}
	value := appendLength(nil, len(nodes), true, false)
	for _, g := range nodes {
		host, port := hostPort(g)
		value = appendI32(value, int32(g.NodeID))
		value = appendStr(value, host, true)
		value = appendI32(value, port)
		value = appendNullable(value, g.Zone, g.Zone == "", true)
		value = append(value, 0)
	}
	b = append(b, 1, 0) // one tag: number 0
	b = appendUvarint(b, uint32(len(value)))
	return append(b, value...)
}
