package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/security"
)

// Every API asks for the operations that a broker asks for (KafkaApis.scala,
// ControllerApis.scala), before it looks whether a topic or group exists, so that nobody
// learns that from an error.

// access is what a request may do by a map.
func (c *conn) access(ctx context.Context, api string, m *federation.Map) acl.Access {
	a := c.s.deps.Authorizer
	if a == nil {
		return acl.Access{}
	}
	return a.Access(m, acl.Subject{Principal: security.PrincipalOf(ctx), Host: c.host}, api)
}

// authorize begins a request. While this gateway does not know the ACLs yet, it waits for
// them; it returns false if they do not come.
func (c *conn) authorize(ctx context.Context, req *request) bool {
	if c.s.deps.Authorizer.Enabled() && c.s.mapOrNil() == nil && req.key != int16(kmsg.ApiVersions) &&
		!c.s.awaitMap(ctx, c.s.cfg.TopicWait, func(*federation.Map) bool { return true }) {
		c.log.Warn("request refused, connection closed: the gateway has no map yet, so it knows no ACLs", "api", req.api.name)
		return false
	}
	req.may = c.access(ctx, req.api.name, c.s.mapOrNil())
	return true
}

// mayTopic returns the code of a denial; 0 = allowed.
func (r *request) mayTopic(ctx context.Context, op acl.Operation, name string) int16 {
	if r.may.May(ctx, op, acl.Topic, name) {
		return 0
	}
	return r.refuse(kerr.TopicAuthorizationFailed)
}

func (r *request) mayGroup(ctx context.Context, op acl.Operation, group string) int16 {
	if r.may.May(ctx, op, acl.Group, group) {
		return 0
	}
	return r.refuse(kerr.GroupAuthorizationFailed)
}

func (r *request) mayCluster(ctx context.Context, op acl.Operation) int16 {
	if r.may.MayCluster(ctx, op) {
		return 0
	}
	return r.refuse(kerr.ClusterAuthorizationFailed)
}

// mayConfig is for the configs of any type of resources: describe or alter.
func (r *request) mayConfig(ctx context.Context, op acl.Operation, kind kmsg.ConfigResourceType, name string) int16 {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		return r.mayTopic(ctx, op, name)
	case kmsg.ConfigResourceTypeGroupConfig:
		return r.mayGroup(ctx, op, name)
	default:
		return r.mayCluster(ctx, op)
	}
}

// deniedMessage is what a denial says where the protocol has a text.
func deniedMessage(code int16) *string {
	text := "Authorization failed."
	switch code {
	case kerr.TopicAuthorizationFailed.Code:
		text = "Topic authorization failed: an ACL has to allow it."
	case kerr.GroupAuthorizationFailed.Code:
		text = "Group authorization failed: an ACL has to allow it."
	case kerr.ClusterAuthorizationFailed.Code:
		text = "Cluster authorization failed: an ACL has to allow it."
	}
	return &text
}

// mayCreate decides about creating a topic: by a right of the cluster, or of the topic.
func (r *request) mayCreate(ctx context.Context, name string) int16 {
	if r.may.Sees(acl.Create, acl.Cluster, federation.ACLClusterName) {
		return 0
	}
	return r.mayTopic(ctx, acl.Create, name)
}

// clusterOperations are what Metadata and DescribeCluster say of the cluster if asked.
func (r *request) clusterOperations() int32 {
	if !r.may.Sees(acl.Describe, acl.Cluster, federation.ACLClusterName) {
		return 0
	}
	return r.may.Operations(acl.Cluster, federation.ACLClusterName)
}

// changed records a change that the request asked for.
func (r *request) changed(ctx context.Context, op acl.Operation, res acl.Resource, name string, err error) {
	r.may.Changed(ctx, op, res, name, err)
}
