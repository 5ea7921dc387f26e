package kafkacompat

import (
	"context"
	"iter"
	"regexp"
	"slices"

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
	kreq.Topics = once(kreq.Topics, askedTopicKey) // a broker takes them as a set
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
		return v.allTopics(ctx, c, req, kreq, resp)
	}
	if v.room(ctx, c, req, func(yield func(*federation.Topic) bool) {
		for i := range kreq.Topics {
			if t := v.find(req, &kreq.Topics[i]); t != nil && !yield(t) {
				return
			}
		}
	}) != nil {
		return nil
	}
	resp.Topics = make([]kmsg.MetadataResponseTopic, 0, len(kreq.Topics))
	for i := range kreq.Topics {
		resp.Topics = append(resp.Topics, v.asked(ctx, c, req, kreq, &kreq.Topics[i]))
	}
	return resp
}

func (v *view) allTopics(ctx context.Context, c *conn, req *request, kreq *kmsg.MetadataRequest, resp *kmsg.MetadataResponse) kmsg.Response {
	seen := make([]*federation.Topic, 0, len(v.m.Topics))
	for _, name := range v.m.TopicNames() {
		if req.may.Sees(acl.Describe, acl.Topic, string(name)) {
			seen = append(seen, v.m.Topics[name])
		}
	}
	if v.room(ctx, c, req, slices.Values(seen)) != nil {
		return nil
	}
	if len(seen) > 0 {
		resp.Topics = make([]kmsg.MetadataResponseTopic, 0, len(seen))
	}
	for _, t := range seen {
		resp.Topics = append(resp.Topics, v.topic(req, kreq, t))
	}
	return resp
}

// room makes sure that there is room for an answer with some topics.
func (v *view) room(ctx context.Context, c *conn, req *request, topics iter.Seq[*federation.Topic]) error {
	const (
		topicBytes     = 250 // made, and encoded
		partitionBytes = 144
		encodedTopic   = 40
		encoded        = 24
		replicaBytes   = 12 // in one array, and encoded in two
	)
	const brokerBytes = 200
	size, frame := len(v.ready)*brokerBytes, len(v.ready)*brokerBytes
	for t := range topics {
		replicas := v.copies(t)
		size += topicBytes + 2*len(t.Name) + len(t.Partitions)*(partitionBytes+replicas*replicaBytes)
		frame += encodedTopic + len(t.Name) + len(t.Partitions)*(encoded+replicas*8)
	}
	req.share.encoded = frame + len(req.body) // with the names of what there is not
	return req.room(ctx, c, int64(size))
}

// find finds a topic that was asked for; nil if there is none.
func (v *view) find(req *request, t *kmsg.MetadataRequestTopic) *federation.Topic {
	switch {
	case t.Topic != nil:
		return v.m.Topics[federation.TopicName(*t.Topic)]
	case req.version >= 12:
		return v.m.TopicByID(t.TopicID)
	}
	return nil
}

// askedTopic is what a topic is asked for by: its name, or its id.
type askedTopic struct {
	name  string
	id    [16]byte
	named bool
}

func askedTopicKey(t *kmsg.MetadataRequestTopic) askedTopic {
	if t.Topic != nil {
		return askedTopic{name: *t.Topic, named: true}
	}
	return askedTopic{id: t.TopicID}
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
