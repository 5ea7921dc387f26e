package kafkacompat

import "github.com/braidmq/braid/federation"

// rebootstrapVersionMin is the first version of Metadata with a top-level error (KIP-1102).
const rebootstrapVersionMin = 13

// javaClient is how Apache Kafka's own clients name themselves in ApiVersions.
const javaClient = "apache-kafka-java"

// mustLeave reports whether a client is to start over from its bootstrap servers
// (REBOOTSTRAP_REQUIRED): the gateway drains, and the map has no other one to name,
// ready or about to be back. So the whole fleet is going, and what comes after it, another
// fleet say, is found by the bootstrap address only.
//
// Nobody else is told: while one gateway is ready, Metadata names it and clients go there
// without a reconnect. A gateway that only lost touch with the controller sends nobody away,
// since all of them may have; nor does the name service's bootstrap, which is in no map, and
// is where the clients would come back to.
//
// Only Java clients are told. Others that know the version take the error for one of the
// application if they are not set up for it: franz-go fails its buffered records, librdkafka
// calls the error callback. They get an answer without brokers, as older versions do, and try
// their bootstrap servers after a while by themselves.
func (c *conn) mustLeave(req *request, m *federation.Map) bool {
	if req.version < rebootstrapVersionMin || c.software != javaClient {
		return false
	}
	own := m.Gateway(c.s.cfg.GatewayID)
	if own == nil || own.State != federation.GatewayDraining {
		return false
	}
	for _, g := range m.Gateways {
		if g.State != federation.GatewayDraining {
			return false
		}
	}
	return true
}
