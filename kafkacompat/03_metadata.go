package kafkacompat

import (
	"context"
	"regexp"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// Metadata: v0-v13
//
// Version notes:
// * v0: an empty array of topics asks for all; from v1 on null does
// * v1: controller, rack, is-internal
// * v4: auto creation on request; before, it is always asked for
// * v7: leader epoch
// * v9: flexible
// * v10: topic ids; v12: asking by them
// * v13: top-level error (KIP-1102); see mustLeave

func handleMetadata(ctx context.Context, c *conn, req *request, kreq *kmsg.MetadataRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.MetadataResponse)
	m := c.s.mapOrNil()
	if m == nil {
		notLoaded(req, kreq, resp)
		return resp
	}
	if c.mustLeave(req, m) {
		resp.ErrorCode = req.refuse(kerr.RebootstrapRequired)
		return resp
	}
	if kreq.AllowAutoTopicCreation || req.version < 4 {
		if c.s.autoCreate(ctx, req, m, kreq.Topics) {
			m = c.s.mapOrNil()
		}
	}
	v := c.view(m, req.clientID)
	resp.ClusterID = &m.ClusterID
	resp.ControllerID = v.controller()
	for _, g := range v.ready {
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID = int32(g.NodeID)
		b.Host, b.Port = hostPort(g)
		b.Rack = rack(g)
		resp.Brokers = append(resp.Brokers, b)
	}
	if kreq.IncludeClusterAuthorizedOperations {
		resp.AuthorizedOperations = req.clusterOperations()
	}
	if kreq.Topics == nil || req.version == 0 && len(kreq.Topics) == 0 {
		for _, name := range m.TopicNames() {
			if req.may.Sees(acl.Describe, acl.Topic, string(name)) {
				resp.Topics = append(resp.Topics, v.topic(req, kreq, m.Topics[name]))
			}
		}
		return resp
	}
	for i := range kreq.Topics {
		resp.Topics = append(resp.Topics, v.asked(ctx, c, req, kreq, &kreq.Topics[i]))
	}
	return resp
}

// notLoaded answers before there is a map: never with UNKNOWN_TOPIC, on which a
// client gives up.
func notLoaded(req *request, kreq *kmsg.MetadataRequest, resp *kmsg.MetadataResponse) {
	for _, t := range kreq.Topics {
		rt := kmsg.NewMetadataResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		if rt.Topic == nil && req.version < 12 {
			rt.Topic = new("")
		}
		rt.ErrorCode = req.refuse(kerr.LeaderNotAvailable)
		resp.Topics = append(resp.Topics, rt)
	}
}

// asked answers for a topic that the client asked for.
func (v *view) asked(ctx context.Context, c *conn, req *request, kreq *kmsg.MetadataRequest, t *kmsg.MetadataRequestTopic) kmsg.MetadataResponseTopic {
	rt := kmsg.NewMetadataResponseTopic()
	rt.Topic, rt.TopicID = t.Topic, t.TopicID
	if t.Topic == nil {
		if found := v.m.TopicByID(t.TopicID); found != nil && req.version >= 12 {
			if rt.ErrorCode = req.mayTopic(ctx, acl.Describe, string(found.Name)); rt.ErrorCode != 0 {
				return rt // an id is no secret, the name is
			}
			return v.topic(req, kreq, found)
		}
		if req.version < 12 {
			rt.Topic = new("") // null only from v12 on
			rt.ErrorCode = req.refuse(kerr.InvalidRequest)
		} else {
			rt.ErrorCode = req.refuse(kerr.UnknownTopicID)
		}
		return rt
	}
	rt.TopicID = [16]byte{}
	if rt.ErrorCode = req.mayTopic(ctx, acl.Describe, *t.Topic); rt.ErrorCode != 0 {
		return rt // whether it exists or not
	}
	name := federation.TopicName(*t.Topic)
	creates := c.s.cfg.AutoCreateTopics && (kreq.AllowAutoTopicCreation || req.version < 4)
	switch {
	case v.m.Topics[name] != nil:
		return v.topic(req, kreq, v.m.Topics[name])
	case !validTopicName(*t.Topic):
		rt.ErrorCode = req.refuse(kerr.InvalidTopicException)
	case creates:
		if rt.ErrorCode = req.mayCreate(ctx, *t.Topic); rt.ErrorCode == 0 {
			rt.ErrorCode = req.refuse(kerr.LeaderNotAvailable) // it is being created
		}
	default:
		rt.ErrorCode = req.refuse(kerr.UnknownTopicOrPartition)
	}
	return rt
}

func (v *view) topic(req *request, kreq *kmsg.MetadataRequest, t *federation.Topic) kmsg.MetadataResponseTopic {
	rt := kmsg.NewMetadataResponseTopic()
	name := string(t.Name)
	rt.Topic, rt.TopicID = &name, t.ID
	if kreq.IncludeTopicAuthorizedOperations {
		rt.AuthorizedOperations = req.may.Operations(acl.Topic, name)
	}
	rt.Partitions = make([]kmsg.MetadataResponseTopicPartition, len(t.Partitions))
	for i, p := range t.Partitions {
		rp := &rt.Partitions[i]
		rp.Default()
		rp.Partition = int32(p.Number)
		rp.LeaderEpoch = int32(v.m.LeaderEpoch(p))
		leader := v.leader(t, p)
		rp.Replicas = v.replicas(t, p, leader)
		rp.ISR = rp.Replicas
		rp.OfflineReplicas = []int32{}
		if leader == nil {
			rp.Leader = -1
			rp.ErrorCode = req.refuse(kerr.LeaderNotAvailable)
		} else {
			rp.Leader = int32(leader.NodeID)
		}
	}
	return rt
}

// topicNames are the names that Kafka takes (Topic.java).
var topicNames = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

func validTopicName(name string) bool {
	return name != "." && name != ".." && topicNames.MatchString(name)
}
