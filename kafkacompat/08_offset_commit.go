package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/internal/acl"
)

// OffsetCommit: v2-v10
//
// Version notes:
// * v2-v4: retention time; the group's retention is braid's own, it is not used
// * v6: leader epoch
// * v7: group instance id (KIP-345)
// * v8: flexible
// * v9: the generation is the member epoch in the newer group protocol (KIP-848)
// * v10: topic ids

func handleOffsetCommit(ctx context.Context, c *conn, req *request, kreq *kmsg.OffsetCommitRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.OffsetCommitResponse)
	m := c.s.mapOrNil()
	commit := groups.CommitRequest{Group: kreq.Group, MemberID: kreq.MemberID, InstanceID: deref(kreq.InstanceID), Generation: kreq.Generation, NoEpochs: req.version < 9}
	var answers []*kmsg.OffsetCommitResponseTopicPartition
	noGroup := req.mayGroup(ctx, acl.Read, kreq.Group)
	for _, t := range kreq.Topics {
		rt := kmsg.NewOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		rt.Partitions = make([]kmsg.OffsetCommitResponseTopicPartition, len(t.Partitions))
		found, unknown := findTopic(m, req.version >= 10, t.Topic, t.TopicID)
		denied := noGroup
		if denied == 0 && m != nil && (found != nil || req.version < 10) {
			denied = req.mayTopic(ctx, acl.Read, topicName(found, t.Topic))
		}
		for i, p := range t.Partitions {
			rp := &rt.Partitions[i]
			rp.Default()
			rp.Partition = p.Partition
			switch {
			case m == nil:
				rp.ErrorCode = req.refuse(kerr.CoordinatorNotAvailable)
				continue
			case denied != 0:
				rp.ErrorCode = denied
				continue
			case found == nil:
				rp.ErrorCode = req.refuse(unknown)
				continue
			case p.Partition < 0 || int(p.Partition) >= len(found.Partitions):
				rp.ErrorCode = req.refuse(kerr.UnknownTopicOrPartition)
				continue
			}
			commit.Offsets = append(commit.Offsets, groups.CommitOffset{
				TopicPartition: federation.TopicPartition{Topic: found.Name, Partition: federation.LogicalPartition(p.Partition)},
				Offset:         federation.LogicalOffset(p.Offset),
				Epoch:          federation.LogicalEpoch(p.LeaderEpoch),
				Metadata:       deref(p.Metadata),
			})
			answers = append(answers, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	if len(commit.Offsets) == 0 {
		return resp
	}
	errs, err := c.s.deps.Groups.Commit(ctx, commit)
	for i, rp := range answers {
		if err != nil {
			rp.ErrorCode = req.fail(err)
		} else {
			rp.ErrorCode = req.fail(errs[i])
		}
	}
	return resp
}

// topicName is the name of a topic that was asked for by name or id.
func topicName(found *federation.Topic, asked string) string {
	if found != nil {
		return string(found.Name)
	}
	return asked
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
