package kafkacompat

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// DescribeConfigs: v1-v4
//
// Topics with what was set and Kafka's defaults; nodes with the settings of this
// door that have a Kafka name; groups with what they set, and what the coordinators have for all.
//
// Version notes:
// * v1: sources and synonyms
// * v3: types and documentation (KIP-569)
// * v4: flexible

func handleDescribeConfigs(ctx context.Context, c *conn, req *request, kreq *kmsg.DescribeConfigsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DescribeConfigsResponse)
	kreq.Resources = once(kreq.Resources, func(r *kmsg.DescribeConfigsRequestResource) resourceKey {
		return resourceKey{r.ResourceType, r.ResourceName}
	})
	for i := range kreq.Resources {
		r := &kreq.Resources[i]
		rr := kmsg.NewDescribeConfigsResponseResource()
		rr.ResourceType, rr.ResourceName = r.ResourceType, r.ResourceName
		rr.Configs = []kmsg.DescribeConfigsResponseResourceConfig{}
		if rr.ErrorCode = req.mayConfig(ctx, acl.DescribeConfigs, r.ResourceType, r.ResourceName); rr.ErrorCode != 0 {
			rr.ErrorMessage = deniedMessage(rr.ErrorCode)
			resp.Resources = append(resp.Resources, rr)
			continue
		}
		configs, err := c.describeResource(ctx, r)
		if err == nil {
			err = req.room(ctx, c, configsBytes(configs))
		}
		if err != nil {
			rr.ErrorCode, rr.ErrorMessage = req.fail(err), message(err)
			resp.Resources = append(resp.Resources, rr)
			continue
		}
		for _, d := range configs {
			if len(r.ConfigNames) == 0 || slices.Contains(r.ConfigNames, d.name) {
				rr.Configs = append(rr.Configs, d.response(kreq))
			}
		}
		resp.Resources = append(resp.Resources, rr)
	}
	return resp
}

// configsBytes is what configs take in an answer.
func configsBytes(configs []described) int64 {
	const configBytes = 512
	n := 0
	for i := range configs {
		n += configBytes + len(configs[i].doc) + 3*len(deref(configs[i].value)) // the synonyms have it, too
	}
	return int64(n)
}

func (d *described) response(kreq *kmsg.DescribeConfigsRequest) kmsg.DescribeConfigsResponseResourceConfig {
	rc := kmsg.NewDescribeConfigsResponseResourceConfig()
	rc.Name, rc.Value, rc.ReadOnly, rc.IsSensitive = d.name, d.value, d.readOnly, d.sensitive
	rc.Source, rc.ConfigType = d.source, d.kind
	rc.ConfigSynonyms = []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{}
	if kreq.IncludeSynonyms {
		rc.ConfigSynonyms = d.synonyms
	}
	if kreq.IncludeDocumentation {
		rc.Documentation = new(d.doc)
	}
	return rc
}

func (c *conn) describeResource(ctx context.Context, r *kmsg.DescribeConfigsRequestResource) ([]described, error) {
	m := c.s.mapOrNil()
	if m == nil {
		return nil, federation.Errorf(federation.NotLeader, "the gateway is starting")
	}
	switch r.ResourceType {
	case kmsg.ConfigResourceTypeTopic:
		set, err := c.topicOverrides(ctx, m, federation.TopicName(r.ResourceName))
		if err != nil {
			return nil, err
		}
		return describeTopicConfig(set), nil
	case kmsg.ConfigResourceTypeBroker:
		if r.ResourceName == "" { // the cluster-wide defaults: none were set
			return nil, nil
		}
		id, err := strconv.ParseInt(r.ResourceName, 10, 32)
		if err != nil || m.GatewayByNode(federation.NodeID(id)) == nil {
			return nil, federation.Errorf(federation.InvalidArgument, "node %q: Metadata lists none of that id", r.ResourceName)
		}
		return c.s.brokerConfigs(m.GatewayByNode(federation.NodeID(id))), nil
	case kmsg.ConfigResourceTypeGroupConfig:
		if r.ResourceName == "" {
			return nil, federation.Errorf(federation.InvalidArgument, "group: the name is empty")
		}
		return c.s.groupConfigs(m.GroupConfig(r.ResourceName)), nil
	default:
		return nil, unknownResource(r.ResourceType)
	}
}

func unknownResource(t kmsg.ConfigResourceType) error {
	return federation.Errorf(federation.InvalidArgument, "configs of type %s are not offered: want topics, groups or brokers", t)
}

// topicOverrides asks the control plane; while that is away, the map has the answer.
func (c *conn) topicOverrides(ctx context.Context, m *federation.Map, name federation.TopicName) (map[string]ConfigValue, error) {
	set, err := c.s.deps.Admin.TopicConfig(ctx, name)
	if err == nil {
		return set, nil
	}
	if t := m.Topics[name]; t != nil && federation.KindOf(err).Retriable() {
		return values(t.Config), nil
	}
	return nil, err
}

func millisText(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// securityProtocol is how clients reach the Kafka door, by Kafka's names.
func (s *Server) securityProtocol() string {
	switch {
	case s.deps.TLS != nil && s.deps.Auth != nil:
		return "SASL_SSL"
	case s.deps.TLS != nil:
		return "SSL"
	case s.deps.Auth != nil:
		return "SASL_PLAINTEXT"
	default:
		return "PLAINTEXT"
	}
}

// brokerConfigs are the settings of this door under their Kafka names.
func (s *Server) brokerConfigs(g *federation.Gateway) []described {
	c := s.cfg
	keys := []configKey{
		{"advertised.listeners", s.securityProtocol() + "://" + g.KafkaAddress, kmsg.ConfigTypeString, "Where clients reach this node."},
		{"auto.create.topics.enable", strconv.FormatBool(c.AutoCreateTopics), kmsg.ConfigTypeBoolean, "Whether a topic is created when a client asks for its metadata."},
		{"broker.id", fmt.Sprint(g.NodeID), kmsg.ConfigTypeInt, "The node's id."},
		{"broker.rack", g.Zone, kmsg.ConfigTypeString, "The node's zone."},
		{"connections.max.idle.ms", millisText(c.IdleTimeout), kmsg.ConfigTypeLong, "When a connection without traffic is closed."},
		{"default.replication.factor", strconv.Itoa(int(max(c.DefaultReplicationFactor, 1))), kmsg.ConfigTypeInt, "The replication factor of topics created without one."},
		{"fetch.max.bytes", strconv.Itoa(int(c.FetchBytesMax)), kmsg.ConfigTypeInt, "The largest Fetch response."},
		{"group.consumer.heartbeat.interval.ms", millisText(c.GroupSettings.HeartbeatInterval.Default), kmsg.ConfigTypeInt, "How often group members of the newer protocol send heartbeats."},
		{"group.consumer.session.timeout.ms", millisText(c.GroupSettings.SessionTimeout.Default), kmsg.ConfigTypeInt, "How long they are kept without one."},
		{"group.consumer.max.heartbeat.interval.ms", millisText(c.GroupSettings.HeartbeatInterval.Max), kmsg.ConfigTypeInt, "The longest interval that a group may set for its own."},
		{"group.consumer.max.session.timeout.ms", millisText(c.GroupSettings.SessionTimeout.Max), kmsg.ConfigTypeInt, "The longest session timeout that a group may set for its own."},
		{"group.consumer.min.heartbeat.interval.ms", millisText(c.GroupSettings.HeartbeatInterval.Min), kmsg.ConfigTypeInt, "The shortest interval that a group may set for its own."},
		{"group.consumer.min.session.timeout.ms", millisText(c.GroupSettings.SessionTimeout.Min), kmsg.ConfigTypeInt, "The shortest session timeout that a group may set for its own."},
		{"group.max.session.timeout.ms", millisText(c.GroupMaxSessionTimeout), kmsg.ConfigTypeInt, "The longest session timeout of a group member."},
		{"group.min.session.timeout.ms", millisText(c.GroupMinSessionTimeout), kmsg.ConfigTypeInt, "The shortest session timeout of a group member."},
		{"max.connections", strconv.Itoa(c.ConnectionsMax), kmsg.ConfigTypeInt, "The most connections of this node."},
		{"max.request.partition.size.limit", strconv.Itoa(int(c.DescribePartitionsMax)), kmsg.ConfigTypeInt, "The most partitions of one DescribeTopicPartitions response."},
		{"message.max.bytes", strconv.Itoa(maxMessageBytesDefault), kmsg.ConfigTypeInt, "The largest record batch of topics that set none."},
		{"node.id", fmt.Sprint(g.NodeID), kmsg.ConfigTypeInt, "The node's id."},
		{"num.partitions", strconv.Itoa(int(c.DefaultPartitions)), kmsg.ConfigTypeInt, "The partition count of topics created without one."},
		{"queued.max.request.bytes", strconv.FormatInt(c.BytesInFlightMax, 10), kmsg.ConfigTypeLong, "The most bytes of requests in memory."},
		{"socket.request.max.bytes", strconv.Itoa(c.FrameBytesMax), kmsg.ConfigTypeInt, "The largest request."},
	}
	return describeAll(keys, kmsg.ConfigSourceStaticBrokerConfig)
}

// describeAll shows settings that cannot be altered here.
func describeAll(keys []configKey, source kmsg.ConfigSource) []described {
	out := make([]described, len(keys))
	for i, k := range keys {
		d := described{configKey: k, value: new(k.value), source: source, readOnly: true}
		d.synonyms = []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{synonym(k.name, d.value, d.source)}
		out[i] = d
	}
	return out
}

// alterable says why a resource cannot be altered here; nil if it can.
func alterable(req *request, t kmsg.ConfigResourceType) (int16, *string) {
	switch t {
	case kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeGroupConfig:
		return 0, nil
	case kmsg.ConfigResourceTypeBroker:
		return req.refuse(kerr.InvalidRequest), new("the settings of a gateway are changed in its own configuration, not by Kafka clients")
	default:
		return req.refuse(kerr.InvalidRequest), message(unknownResource(t))
	}
}
