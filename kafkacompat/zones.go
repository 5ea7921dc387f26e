package kafkacompat

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/braidmq/braid/federation"
)

// Consumers that say where they are (client.rack, KIP-392) read from a gateway of their zone.
//
// Metadata names a partition's replicas in as many zones as it can. A gateway that gets a
// Fetch from a consumer of another zone answers with the replica that lies there, and without
// records; the consumer goes there, and comes back to its leader when that gateway fails it,
// or when its lease is over (metadata.max.age.ms of Java). So writes, coordinators and the
// first Fetch go where Metadata says, and records come from the consumer's zone.

// A zone is the gateways that a client of it would have, as far as they are Kafka's.
type zone struct {
	name     string
	gateways []*federation.Gateway
}

// zoned returns the zones that serve the client, by name. They are looked for once for a
// view: most are never asked for them.
func (v *view) zoned() []zone {
	if v.isZoned {
		return v.zones
	}
	v.isZoned = true
	for _, g := range v.ready {
		at, found := slices.BinarySearchFunc(v.zones, g.Zone, func(z zone, name string) int { return strings.Compare(z.name, name) })
		if found || g.Zone == "" {
			continue
		}
		v.zones = slices.Insert(v.zones, at, zone{name: g.Zone, gateways: v.gatewaysOf(g.Zone)})
	}
	v.zones = slices.DeleteFunc(v.zones, func(z zone) bool { return len(z.gateways) == 0 })
	return v.zones
}

// gatewaysOf returns the gateways of a zone that a client like this one would have there.
func (v *view) gatewaysOf(name string) []*federation.Gateway {
	client := v.client
	client.Zone = name
	return slices.DeleteFunc(v.m.ClientGateways(client), func(g *federation.Gateway) bool {
		return g.Zone != name || g.KafkaAddress == "" // those of other zones come where it has none
	})
}

// elsewhere adds replicas of a partition in the zones that its leader is not in, up to the
// capacity of ids. It begins with another zone for each partition, so that none is left out
// for all partitions where the replicas are fewer than the zones. In a zone it is the gateway
// that leads the partition for the clients of that zone, so that all who read it there share
// one tail.
func (v *view) elsewhere(t *federation.Topic, p *federation.Partition, leader *federation.Gateway, ids []int32) []int32 {
	zones := v.zoned()
	for i := 0; i < len(zones) && len(ids) < cap(ids); i++ {
		if z := &zones[(int(p.Number)+i)%len(zones)]; z.name != leader.Zone {
			ids = append(ids, int32(v.m.PartitionGateway(z.gateways, t.ID, p.Number).NodeID))
		}
	}
	return ids
}

// inZone returns the replica of a partition, as Metadata names them, that lies in a zone;
// nil if none does.
func (v *view) inZone(t *federation.Topic, p *federation.Partition, name string) *federation.Gateway {
	leader := v.leader(t, p)
	if leader == nil || leader.Zone == name {
		return leader
	}
	zones, room := v.zoned(), v.copies(t)-1
	for i := 0; i < len(zones) && room > 0; i++ {
		switch z := &zones[(int(p.Number)+i)%len(zones)]; z.name {
		case leader.Zone:
		case name:
			return v.m.PartitionGateway(z.gateways, t.ID, p.Number)
		default:
			room--
		}
	}
	return nil
}

// checkZone finds the partitions that a client is to read from a gateway of its rack, which
// is not this one's zone. The router is asked only whether their positions are of the log:
// one that is not is an error for the leader to tell, and one that nobody can tell of has to
// wait here. Else a client whose zone's gateway sends it back to the leader would never come
// to an end.
//
// Clients that do not say what they are (KIP-511) are not sent away. kafkajs is one: when the
// gateway that it was sent to leaves the map, it reads nothing until its lease is over, which
// takes 5 minutes.
func (c *conn) checkZone(req *request, m *federation.Map, rack string, s *fetchSession) {
	if own := m.Gateway(c.s.cfg.GatewayID); own != nil && own.Zone == rack || c.software == "" || !hasZone(m, rack) {
		return
	}
	v, now := c.view(m, req.clientID), time.Now()
	if c.s.fetchParts.Load() >= c.s.cfg.FetchSessionPartitionsMax {
		c.sentAway.forget(c.s, now)
	}
	s.fill(func(p *fetchPart) {
		t := m.Topics[p.want.Topic]
		near := v.inZone(t, t.Partitions[p.want.Partition], rack)
		if near == nil || near.ID == c.s.cfg.GatewayID || c.sentAway.stays(p.want.TopicPartition, near.NodeID, p.want.Offset, now) {
			return
		}
		if !c.sentAway.hasRoom(c.s, p.want.TopicPartition) {
			return // if it came back, nobody would know
		}
		p.near, s.from[p.query].Check = near, true
	})
}

func hasZone(m *federation.Map, name string) bool {
	return slices.ContainsFunc(m.Gateways, func(g *federation.Gateway) bool {
		return g.Zone == name && g.State == federation.GatewayReady
	})
}

// toldZones completes the answer to a client that has a rack.
func (c *conn) toldZones(ctx context.Context, s *fetchSession) {
	var sent int64
	now := time.Now()
	asks, cancel := context.WithTimeout(ctx, outOfRangeMax)
	defer cancel()
	s.fill(func(p *fetchPart) {
		switch {
		case p.near != nil:
			sent++
			c.sentAway.add(c.s, p.want.TopicPartition, p.near.NodeID, p.want.Offset, now)
		case p.code == kerr.OffsetOutOfRange.Code && p.slice != nil:
			// franz-go asks the leader if the position lies below the log, and the same
			// gateway again if it cannot tell.
			if w, err := c.route().Watermarks(asks, p.want.TopicPartition); err == nil {
				p.slice.HighWatermark, p.slice.LastStable, p.slice.LogStart = w.HighWatermark, w.LastStable, w.LogStart
			}
		}
	})
	if sent > 0 {
		c.s.deps.Metrics.sentToZone(ctx, sent)
	}
}

// outOfRangeMax is how long an answer waits for the ends of logs that its positions are out of.
const outOfRangeMax = time.Second

// sentAway is what a connection knows of partitions that its client was sent to its zone
// for. A client that comes back with nothing read cannot use the gateway there: it does not
// know that yet, cannot reach it, or gets errors. It is served here for a while then, and
// longer each time.
type sentAway struct {
	parts map[federation.TopicPartition]sentPart
	prune int // of parts: how many there are when old ones are looked for
}

type sentPart struct {
	to     federation.NodeID
	offset federation.LogicalOffset
	at     time.Time
	came   int       // how often it came back in a row
	until  time.Time // it is served here so long; zero = it has not come back
}

const (
	sentBackFirst = 2 * time.Second
	sentBackMost  = time.Minute
	// sentKept is how long it is known that a partition was sent away. The leases of all
	// clients are longer by default: who comes after it was not sent back.
	sentKept = 2 * time.Minute
	// sentPruneFirst is when old ones are looked for the first time.
	sentPruneFirst = 64
)

// stays reports whether a partition is served here for now.
func (s *sentAway) stays(tp federation.TopicPartition, to federation.NodeID, offset federation.LogicalOffset, now time.Time) bool {
	p, ok := s.parts[tp]
	switch {
	case !ok || p.to != to:
		return false
	case now.Before(p.until):
		return true
	case !p.until.IsZero():
		return false // once more
	}
	if p.offset != offset || now.Sub(p.at) > sentKept {
		p.came = 0
		s.parts[tp] = p
		return false
	}
	p.until = now.Add(min(sentBackFirst<<min(p.came, 16), sentBackMost))
	p.came++
	s.parts[tp] = p
	return true
}

// hasRoom reports whether it can be noted that a partition was sent away.
func (s *sentAway) hasRoom(srv *Server, tp federation.TopicPartition) bool {
	if srv.fetchParts.Load() < srv.cfg.FetchSessionPartitionsMax {
		return true
	}
	_, ok := s.parts[tp]
	return ok
}

// add notes that a partition was sent away, if there is room to.
func (s *sentAway) add(srv *Server, tp federation.TopicPartition, to federation.NodeID, offset federation.LogicalOffset, now time.Time) {
	p, ok := s.parts[tp]
	if !ok {
		if len(s.parts) >= max(s.prune, sentPruneFirst) {
			s.forget(srv, now)
		}
		if srv.fetchParts.Add(1) > srv.cfg.FetchSessionPartitionsMax {
			srv.fetchParts.Add(-1)
			return
		}
		if s.parts == nil {
			s.parts = make(map[federation.TopicPartition]sentPart)
		}
	}
	if p.to != to {
		p.came = 0
	}
	s.parts[tp] = sentPart{to: to, offset: offset, at: now, came: p.came}
}

// forget forgets what was sent away long ago.
func (s *sentAway) forget(srv *Server, now time.Time) {
	for tp, p := range s.parts {
		if now.Sub(p.at) > sentKept && now.After(p.until) {
			delete(s.parts, tp)
			srv.fetchParts.Add(-1)
		}
	}
	s.prune = 2 * len(s.parts)
}

func (s *sentAway) clear(srv *Server) {
	srv.fetchParts.Add(int64(-len(s.parts)))
	s.parts = nil
}
