package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/internal/acl"
)

// OffsetFetch: v1-v10
//
// No committed offset is -1 without an error; a store that is away for a moment is
// an error, or the client would fall back to auto.offset.reset.
//
// Every gateway answers, whoever coordinates the group, and the only error that passes is
// COORDINATOR_LOAD_IN_PROGRESS (but for a stale member epoch): after NOT_COORDINATOR or COORDINATOR_NOT_AVAILABLE
// librdkafka looks the coordinator up, but never asks for the offsets again
// (rd_kafka_assignment_apply_offsets leaves the partitions in its list of the queried
// ones), so that it reads nothing any more.
//
// Version notes:
// * v2: null topics ask for all; top-level error
// * v5: leader epoch
// * v6: flexible
// * v7: require stable; without transactions all offsets are
// * v8: several groups
// * v9: member id and epoch (KIP-848); checked against the store, which knows of each
//   epoch before the member does
// * v10: topic ids

func handleOffsetFetch(ctx context.Context, c *conn, req *request, kreq *kmsg.OffsetFetchRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.OffsetFetchResponse)
	if req.version >= 8 {
		kreq.Groups = once(kreq.Groups, func(g *kmsg.OffsetFetchRequestGroup) string { return g.Group })
		for i := range kreq.Groups {
			resp.Groups = append(resp.Groups, c.offsetsOfGroup(ctx, req, &kreq.Groups[i]))
		}
		return resp
	}
	// The older form is the newer one with one group.
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = kreq.Group
	if kreq.Topics != nil || req.version < 2 {
		g.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
	}
	for _, t := range kreq.Topics {
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic, gt.Partitions = t.Topic, t.Partitions
		g.Topics = append(g.Topics, gt)
	}
	rg := c.offsetsOfGroup(ctx, req, &g)
	resp.ErrorCode = rg.ErrorCode
	for _, gt := range rg.Topics {
		rt := kmsg.NewOffsetFetchResponseTopic()
		rt.Topic = gt.Topic
		for _, gp := range gt.Partitions {
			rp := kmsg.NewOffsetFetchResponseTopicPartition()
			rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata, rp.ErrorCode = gp.Partition, gp.Offset, gp.LeaderEpoch, gp.Metadata, gp.ErrorCode
			if req.version < 2 && rp.ErrorCode == 0 {
				rp.ErrorCode = rg.ErrorCode // v1 has no top-level error
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func (c *conn) offsetsOfGroup(ctx context.Context, req *request, g *kmsg.OffsetFetchRequestGroup) kmsg.OffsetFetchResponseGroup {
	rg := kmsg.NewOffsetFetchResponseGroup()
	rg.Group = g.Group
	m := c.s.mapOrNil()
	if m == nil {
		rg.ErrorCode = req.refuse(kerr.CoordinatorLoadInProgress)
		if req.version < 2 { // whose partitions tell the error
			rg.Topics = unread(g)
		}
		return rg
	}
	if rg.ErrorCode = req.mayGroup(ctx, acl.Describe, g.Group); rg.ErrorCode != 0 {
		if req.version < 2 {
			rg.Topics = unread(g)
		}
		return rg
	}
	if g.MemberID != nil && *g.MemberID != "" && g.MemberEpoch >= 0 { // v9
		if err := c.s.deps.Groups.CheckEpoch(ctx, g.Group, *g.MemberID, g.MemberEpoch); err != nil {
			rg.ErrorCode = req.fail(err)
			return rg
		}
	}
	if g.Topics == nil {
		offsets, err := c.s.deps.Groups.Committed(ctx, g.Group, nil)
		if err == nil {
			err = req.roomForOffsets(ctx, c, offsets)
		}
		if rg.ErrorCode = req.fail(err); err == nil {
			rg.Topics = allOffsets(req, m, offsets)
		}
		return rg
	}
	asked, answers := req.askedOffsets(ctx, m, g, &rg)
	offsets, err := c.s.deps.Groups.Committed(ctx, g.Group, asked)
	if err == nil {
		err = req.roomForOffsets(ctx, c, offsets)
	}
	if rg.ErrorCode = req.fail(err); err != nil {
		if req.version >= 2 {
			rg.Topics = nil
		}
		return rg
	}
	for i := range answers {
		fillOffset(answers[i], &offsets[i])
	}
	return rg
}

// askedOffsets makes the answer for the partitions that a client asks for, and returns those
// of which the group is to be asked, with their places in the answer.
func (r *request) askedOffsets(
	ctx context.Context, m *federation.Map, g *kmsg.OffsetFetchRequestGroup, rg *kmsg.OffsetFetchResponseGroup,
) (asked []federation.TopicPartition, answers []*kmsg.OffsetFetchResponseGroupTopicPartition) {
	seen := make(partitionsSeen)
	asked = []federation.TopicPartition{}
	for _, t := range g.Topics {
		rt := kmsg.NewOffsetFetchResponseGroupTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		rt.Partitions = make([]kmsg.OffsetFetchResponseGroupTopicPartition, 0, len(t.Partitions))
		found, _ := findTopic(m, r.version >= 10, t.Topic, t.TopicID)
		denied := int16(0)
		if found != nil || r.version < 10 {
			denied = r.mayTopic(ctx, acl.Describe, topicName(found, t.Topic))
		}
		for _, p := range t.Partitions {
			if !seen.first(fetchTopic{t.Topic, t.TopicID}, p) {
				continue
			}
			rt.Partitions = append(rt.Partitions, kmsg.NewOffsetFetchResponseGroupTopicPartition())
			rp := &rt.Partitions[len(rt.Partitions)-1]
			rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata = p, -1, -1, new("")
			switch {
			case denied != 0:
				rp.ErrorCode = denied
			case found != nil:
				asked = append(asked, federation.TopicPartition{Topic: found.Name, Partition: federation.LogicalPartition(p)})
				answers = append(answers, rp)
			case r.version >= 10:
				rp.ErrorCode = r.refuse(kerr.UnknownTopicID)
			}
		}
		rg.Topics = append(rg.Topics, rt)
	}
	return asked, answers
}

// roomForOffsets makes sure that there is room for offsets of a group.
func (r *request) roomForOffsets(ctx context.Context, c *conn, offsets []groups.CommittedOffset) error {
	const offsetBytes = 160
	n := 0
	for i := range offsets {
		n += offsetBytes + len(offsets[i].Metadata)
	}
	err := r.room(ctx, c, int64(n))
	if federation.KindOf(err) == federation.Timeout {
		return federation.Errorf(federation.CoordinatorLoading, "%s", err) // the one that passes
	}
	return err
}

// unread are the topics that were asked for, without offsets.
func unread(g *kmsg.OffsetFetchRequestGroup) []kmsg.OffsetFetchResponseGroupTopic {
	topics := make([]kmsg.OffsetFetchResponseGroupTopic, len(g.Topics))
	for i, t := range g.Topics {
		topics[i].Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetFetchResponseGroupTopicPartition()
			rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata = p, -1, -1, new("")
			topics[i].Partitions = append(topics[i].Partitions, rp)
		}
	}
	return topics
}

func fillOffset(rp *kmsg.OffsetFetchResponseGroupTopicPartition, o *groups.CommittedOffset) {
	rp.Offset, rp.LeaderEpoch, rp.Metadata = int64(o.Offset), int32(o.Epoch), new(o.Metadata)
	if o.Offset < 0 {
		rp.Offset, rp.LeaderEpoch = -1, -1
	}
}

// allOffsets groups the offsets of a group by topic.
func allOffsets(req *request, m *federation.Map, offsets []groups.CommittedOffset) []kmsg.OffsetFetchResponseGroupTopic {
	topics := []kmsg.OffsetFetchResponseGroupTopic{}
	at := make(map[federation.TopicName]int)
	for i := range offsets {
		o := &offsets[i]
		if o.Offset < 0 || !req.may.Sees(acl.Describe, acl.Topic, string(o.Topic)) {
			continue
		}
		n, ok := at[o.Topic]
		if !ok {
			rt := kmsg.NewOffsetFetchResponseGroupTopic()
			rt.Topic = string(o.Topic)
			t := m.Topics[o.Topic]
			if t == nil && req.version >= 10 {
				continue // deleted a moment ago: it has no id any more
			}
			if t != nil {
				rt.TopicID = t.ID
			}
			n = len(topics)
			at[o.Topic] = n
			topics = append(topics, rt)
		}
		rp := kmsg.NewOffsetFetchResponseGroupTopicPartition()
		rp.Partition = int32(o.Partition)
		fillOffset(&rp, o)
		topics[n].Partitions = append(topics[n].Partitions, rp)
	}
	return topics
}
