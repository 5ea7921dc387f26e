package kafkacompat

import (
	"context"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/security"
)

// ConsumerGroupHeartbeat: v0-v1
//
// A member joins, learns what to read, gives up and leaves by it (KIP-848). What is null
// has not changed since the heartbeat before.
//
// Version notes:
// * v1: the client mints the member id (KIP-1082); topic regex

func handleConsumerGroupHeartbeat(ctx context.Context, c *conn, req *request, kreq *kmsg.ConsumerGroupHeartbeatRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
	if resp.ErrorCode = req.mayGroup(ctx, acl.Read, kreq.Group); resp.ErrorCode != 0 {
		resp.ErrorMessage = deniedMessage(resp.ErrorCode)
		return resp
	}
	for _, t := range kreq.SubscribedTopicNames {
		if resp.ErrorCode = req.mayTopic(ctx, acl.Describe, t); resp.ErrorCode != 0 {
			resp.ErrorMessage = deniedMessage(resp.ErrorCode)
			return resp
		}
	}
	err := checkConsumerHeartbeat(req.version, kreq)
	var m *federation.Map
	if err == nil {
		if m = c.s.mapOrNil(); m == nil {
			err = federation.Errorf(federation.CoordinatorLoading, "the gateway is starting; try again")
		}
	}
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = req.fail(err), message(err)
		return resp
	}
	r, err := c.s.deps.Groups.ConsumerHeartbeat(ctx, c.consumerHeartbeat(ctx, m, req, kreq))
	if kreq.MemberEpoch < 0 {
		c.memberAt.Store(0)
	} else {
		c.memberSeen(err)
	}
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = req.fail(err), message(err)
		return resp
	}
	resp.MemberID, resp.MemberEpoch, resp.HeartbeatIntervalMillis = &r.MemberID, r.Epoch, int32(r.Interval.Milliseconds())
	if r.Assignment != nil {
		a := kmsg.NewConsumerGroupHeartbeatResponseAssignment()
		for _, t := range r.Assignment {
			at := kmsg.NewConsumerGroupHeartbeatResponseAssignmentTopic()
			at.TopicID = t.ID
			for _, p := range t.Partitions {
				at.Partitions = append(at.Partitions, int32(p))
			}
			a.Topics = append(a.Topics, at)
		}
		resp.Assignment = &a
	}
	return resp
}

func (c *conn) consumerHeartbeat(ctx context.Context, m *federation.Map, req *request, kreq *kmsg.ConsumerGroupHeartbeatRequest) groups.ConsumerHeartbeatRequest {
	r := groups.ConsumerHeartbeatRequest{
		Group: kreq.Group, MemberID: kreq.MemberID, InstanceID: deref(kreq.InstanceID), Epoch: kreq.MemberEpoch,
		ClientID: req.clientID, ClientHost: c.clientHost(), Rack: deref(kreq.RackID),
		Principal:        security.PrincipalOf(ctx).String(),
		RebalanceTimeout: time.Duration(kreq.RebalanceTimeoutMillis) * time.Millisecond,
		TopicRegex:       kreq.SubscribedTopicRegex, Assignor: deref(kreq.ServerAssignor),
	}
	if kreq.SubscribedTopicNames != nil {
		r.Topics = []federation.TopicName{}
	}
	for _, t := range kreq.SubscribedTopicNames {
		r.Topics = append(r.Topics, federation.TopicName(t))
	}
	if kreq.Topics != nil {
		r.Owned = []federation.TopicPartition{}
	}
	for _, t := range kreq.Topics {
		found := m.TopicByID(t.TopicID)
		if found == nil {
			continue // deleted: there is nothing to give up any more
		}
		for _, p := range t.Partitions {
			r.Owned = append(r.Owned, federation.TopicPartition{Topic: found.Name, Partition: federation.LogicalPartition(p)})
		}
	}
	return r
}

// checkConsumerHeartbeat is GroupMetadataManager.throwIfConsumerGroupHeartbeatRequestIsInvalid,
// but that a static member need not repeat its instance id when it leaves to return:
// franz-go does not.
func checkConsumerHeartbeat(version int16, kreq *kmsg.ConsumerGroupHeartbeatRequest) error {
	blank := func(s *string) bool { return s != nil && strings.TrimSpace(*s) == "" }
	bad := ""
	switch {
	case blank(&kreq.MemberID) && (version >= 1 || kreq.MemberEpoch != 0):
		bad = "the member id is empty"
	case blank(&kreq.Group):
		bad = "the group id is empty"
	case blank(kreq.InstanceID):
		bad = "the instance id is empty"
	case blank(kreq.RackID):
		bad = "the rack id is empty"
	case kreq.MemberEpoch < -2:
		bad = "the member epoch is below -2"
	case kreq.MemberEpoch != 0:
	case kreq.RebalanceTimeoutMillis < 0:
		bad = "a member that joins must say its rebalance timeout"
	case kreq.Topics == nil || len(kreq.Topics) > 0:
		bad = "a member that joins must own no partitions, and say so"
	case kreq.SubscribedTopicNames == nil && kreq.SubscribedTopicRegex == nil:
		bad = "a member that joins must subscribe to topic names or to a regular expression"
	}
	if bad == "" {
		return nil
	}
	return federation.Errorf(federation.InvalidArgument, "group %q: %s", kreq.Group, bad)
}
