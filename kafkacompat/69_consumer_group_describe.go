package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/internal/acl"
)

// ConsumerGroupDescribe: v0-v1
//
// A group without a member of the newer protocol is GROUP_ID_NOT_FOUND, as in Kafka:
// clients then ask with DescribeGroups. Connect members are shown as classic ones.
//
// Version notes:
// * v1: member type (KIP-1099)

// The member types.
const (
	memberClassic  = 0
	memberConsumer = 1
)

func handleConsumerGroupDescribe(ctx context.Context, c *conn, req *request, kreq *kmsg.ConsumerGroupDescribeRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
	m := c.s.mapOrNil()
	for _, group := range once(kreq.Groups, itself) {
		rg := kmsg.NewConsumerGroupDescribeResponseGroup()
		rg.Group = group
		if rg.ErrorCode = req.mayGroup(ctx, acl.Describe, group); rg.ErrorCode != 0 {
			rg.ErrorMessage = deniedMessage(rg.ErrorCode)
			resp.Groups = append(resp.Groups, rg)
			continue
		}
		d, err := c.s.deps.Groups.Describe(ctx, group)
		switch {
		case err == nil && d.Type != groups.TypeConsumer:
			err = federation.Errorf(federation.GroupNotFound, "group %q is not a consumer group", group)
		case err == nil && m == nil:
			err = federation.Errorf(federation.CoordinatorLoading, "the gateway is starting; try again")
		case err == nil && !req.seesAll(d.Members):
			err = federation.Errorf(federation.NotAuthorized, "group %q has topics that may not be described: an ACL has to allow it", group)
		}
		if err == nil {
			err = req.room(ctx, c, membersBytes(d.Members))
		}
		if err != nil {
			rg.ErrorCode, rg.ErrorMessage = req.fail(err), message(err)
			resp.Groups = append(resp.Groups, rg)
			continue
		}
		if kreq.IncludeAuthorizedOperations {
			rg.AuthorizedOperations = req.may.Operations(acl.Group, group)
		}
		rg.State, rg.Epoch, rg.AssignmentEpoch, rg.AssignorName = d.State, int32(d.Epoch), int32(d.Epoch), d.Assignor
		for i := range d.Members {
			rg.Members = append(rg.Members, describedMember(m, &d.Members[i]))
		}
		resp.Groups = append(resp.Groups, rg)
	}
	return resp
}

// seesAll reports whether all topics of which members have partitions may be described; who
// may not describe one is not shown the group, as by a broker.
func (r *request) seesAll(members []groups.DescribedMember) bool {
	for i := range members {
		for _, tps := range [][]federation.TopicPartition{members[i].Partitions, members[i].Target} {
			for j, tp := range tps {
				if (j == 0 || tps[j-1].Topic != tp.Topic) && !r.may.Sees(acl.Describe, acl.Topic, string(tp.Topic)) {
					return false
				}
			}
		}
	}
	return true
}

func describedMember(m *federation.Map, d *groups.DescribedMember) kmsg.ConsumerGroupDescribeResponseGroupMember {
	rm := kmsg.NewConsumerGroupDescribeResponseGroupMember()
	rm.MemberID, rm.InstanceID, rm.RackID = d.MemberID, ref(d.InstanceID), ref(d.Rack)
	rm.ClientID, rm.ClientHost, rm.MemberEpoch = d.ClientID, d.ClientHost, int32(d.Epoch)
	rm.SubscribedTopicRegex, rm.MemberType = ref(d.Regex), memberClassic
	if d.Protocol == groups.ProtocolConsumer {
		rm.MemberType = memberConsumer
	}
	for _, t := range d.Topics {
		rm.SubscribedTopics = append(rm.SubscribedTopics, string(t))
	}
	rm.Assignment.TopicPartitions = topicPartitions(m, d.Partitions)
	rm.TargetAssignment.TopicPartitions = topicPartitions(m, d.Target)
	return rm
}

// topicPartitions groups sorted partitions by topic; those of topics that were deleted a
// moment ago have no id any more.
func topicPartitions(m *federation.Map, tps []federation.TopicPartition) []kmsg.AssignmentTopicPartition {
	var all []kmsg.AssignmentTopicPartition
	for _, tp := range tps {
		if n := len(all); n == 0 || all[n-1].Topic != string(tp.Topic) {
			t := m.Topic(tp.Topic)
			if t == nil {
				continue
			}
			at := kmsg.NewAssignmentTopicPartition()
			at.Topic, at.TopicID = string(tp.Topic), t.ID
			all = append(all, at)
		}
		last := &all[len(all)-1]
		last.Partitions = append(last.Partitions, int32(tp.Partition))
	}
	return all
}
