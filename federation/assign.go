package federation

import (
	"hash/fnv"
	"sort"
	"strings"
)

// Role is what a gateway, or a client, does.
type Role int8

// The roles.
const (
	RoleBoth Role = iota
	RoleProduce
	RoleConsume
)

// ParseRole reads produce, consume or both; the empty string is both.
func ParseRole(s string) (Role, error) {
	switch s {
	case "", "both":
		return RoleBoth, nil
	case "produce":
		return RoleProduce, nil
	case "consume":
		return RoleConsume, nil
	}
	return RoleBoth, Errorf(InvalidArgument, "role %q: want produce, consume or both", s)
}

func (r Role) String() string {
	switch r {
	case RoleProduce:
		return "produce"
	case RoleConsume:
		return "consume"
	default:
		return "both"
	}
}

// Serves reports whether a gateway of role r serves a client of role want.
func (r Role) Serves(want Role) bool { return r == RoleBoth || r == want }

// GatewayState is the state of a gateway of the fleet.
type GatewayState int8

// The states of a gateway in the map; a gateway that is gone is not in it.
const (
	GatewayReady GatewayState = iota + 1
	GatewayDraining
	// GatewayLost has no stream to the controller, but may still hold a lease: no client
	// is sent to it, and no head moves before its lease has ended.
	GatewayLost
)

func (s GatewayState) String() string {
	switch s {
	case GatewayReady:
		return "ready"
	case GatewayDraining:
		return "draining"
	case GatewayLost:
		return "lost"
	}
	return "unknown"
}

// A Gateway is a gateway of the fleet.
type Gateway struct {
	ID             GatewayID
	NodeID         NodeID
	ConnectAddress string          // host:port
	KafkaAddress   string          // host:port
	TenantKafka    TenantAddresses // where clients of tenants find it, if not at KafkaAddress
	Zone           string
	Role           Role
	State          GatewayState
}

// A Client is what the assignment needs to know of a client.
type Client struct {
	ID   string
	Zone string // from the rack or from the client id
	Role Role
	// Kafka is set for a client of the Kafka facade: gateways without an address for it are none of its.
	Kafka bool
}

// ParseClient reads the hints that a client id can carry: parts of the form
// braid_zone=Z and braid_role=produce|consume, separated from the rest by a
// comma, a semicolon or a space. A zone given by the protocol (rack) goes
// before the one in the id.
func ParseClient(id, rack string) Client {
	c := Client{ID: id, Zone: rack}
	for _, part := range strings.FieldsFunc(id, func(r rune) bool { return r == ',' || r == ';' || r == ' ' }) {
		if v, ok := strings.CutPrefix(part, "braid_zone="); ok && c.Zone == "" {
			c.Zone = v
		}
		if v, ok := strings.CutPrefix(part, "braid_role="); ok {
			if r, err := ParseRole(v); err == nil {
				c.Role = r
			}
		}
	}
	return c
}

// ClientGatewaysMax bounds the number of gateways that one client is sent to,
// so that a large fleet does not give each client a connection to every gateway.
const ClientGatewaysMax = 8

// ClientGateways returns the gateways of a client, best first: ready ones of
// its role that have an address for it, those of its zone if there are any, at most ClientGatewaysMax,
// picked and ordered by rendezvous hashing of the client id. It is the one
// assignment of braid: the name service and all gateways call it, so with the
// same map they give the same answer.
func (m *Map) ClientGateways(c Client) []*Gateway {
	var fit, zone []*Gateway
	for _, g := range m.Gateways {
		if g.State != GatewayReady || !g.Role.Serves(c.Role) || c.Kafka && g.KafkaAddress == "" {
			continue
		}
		fit = append(fit, g)
		if c.Zone != "" && g.Zone == c.Zone {
			zone = append(zone, g)
		}
	}
	if len(zone) > 0 {
		fit = zone
	}
	fit = rendezvous(fit, "client/"+c.ID)
	return fit[:min(len(fit), ClientGatewaysMax)]
}

// PartitionGateway returns which of a client's gateways is named as the leader
// of a partition; nil if there is none.
func (m *Map) PartitionGateway(gateways []*Gateway, id TopicID, p LogicalPartition) *Gateway {
	var best *Gateway
	var bestScore uint64
	seed := partitionSeed(id, p)
	for _, g := range gateways {
		if s := score(uint64(g.NodeID), seed); best == nil || s > bestScore || s == bestScore && g.ID < best.ID {
			best, bestScore = g, s
		}
	}
	return best
}

// GroupGateway returns the coordinator of a group: rendezvous hashing over all
// ready gateways that serve consumers, the same for every client; nil if there
// is none.
func (m *Map) GroupGateway(group string) *Gateway {
	var fit []*Gateway
	for _, g := range m.Gateways {
		if g.State == GatewayReady && g.Role.Serves(RoleConsume) {
			fit = append(fit, g)
		}
	}
	fit = rendezvous(fit, "group/"+group)
	if len(fit) == 0 {
		return nil
	}
	return fit[0]
}

func rendezvous(gateways []*Gateway, key string) []*Gateway {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	seed := h.Sum64()
	type scored struct {
		g *Gateway
		s uint64
	}
	all := make([]scored, len(gateways))
	for i, g := range gateways {
		all[i] = scored{g, score(uint64(g.NodeID), seed)}
	}
	sort.Slice(all, func(i, j int) bool {
		if all[i].s != all[j].s {
			return all[i].s > all[j].s
		}
		return all[i].g.ID < all[j].g.ID
	})
	out := make([]*Gateway, len(all))
	for i, a := range all {
		out[i] = a.g
	}
	return out
}

func partitionSeed(id TopicID, p LogicalPartition) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(id[:])
	return mix(h.Sum64() ^ uint64(uint32(p)))
}

func score(node, seed uint64) uint64 { return mix(mix(node+0x9e3779b97f4a7c15) ^ seed) }

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
