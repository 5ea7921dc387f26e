package kafkacompat

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// DescribeTopicPartitions: v0 (KIP-966)
//
// Pages through the partitions of topics. There are no eligible leader replicas
// beyond the in-sync ones; the arrays are empty, not null, on which Java fails.

func handleDescribeTopicPartitions(ctx context.Context, c *conn, req *request, kreq *kmsg.DescribeTopicPartitionsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DescribeTopicPartitionsResponse)
	m := c.s.mapOrNil()
	names := topicsToDescribe(req, m, kreq)
	left := c.s.cfg.DescribePartitionsMax
	left = min(left, max(kreq.ResponsePartitionLimit, 1)) // as a broker takes it
	var v view
	if m != nil {
		v = c.view(m, req.clientID)
	}
	for _, name := range names {
		rt := kmsg.NewDescribeTopicPartitionsResponseTopic()
		rt.Topic = new(name)
		var t *federation.Topic
		if m != nil {
			t = m.Topics[federation.TopicName(name)]
		}
		switch {
		case m == nil:
			rt.ErrorCode = req.refuse(kerr.LeaderNotAvailable)
		case !req.may.May(ctx, acl.Describe, acl.Topic, name):
			t, rt.ErrorCode = nil, req.refuse(kerr.TopicAuthorizationFailed)
		case t == nil && !validTopicName(name):
			rt.ErrorCode = req.refuse(kerr.InvalidTopicException)
		case t == nil:
			rt.ErrorCode = req.refuse(kerr.UnknownTopicOrPartition)
		}
		if t == nil {
			resp.Topics = append(resp.Topics, rt)
			continue
		}
		first := int32(0)
		if kreq.Cursor != nil && kreq.Cursor.Topic == name {
			first = max(kreq.Cursor.Partition, 0)
		}
		if left == 0 {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name, Partition: first}
			return resp
		}
		next := v.describe(req, t, &rt, first, left)
		resp.Topics = append(resp.Topics, rt)
		if int(next) < len(t.Partitions) {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name, Partition: next}
			return resp
		}
		left -= max(next-first, 0)
	}
	return resp
}

// topicsToDescribe returns the asked topics in order, or all; from the cursor on.
func topicsToDescribe(req *request, m *federation.Map, kreq *kmsg.DescribeTopicPartitionsRequest) []string {
	var names []string
	for _, t := range kreq.Topics {
		names = append(names, t.Topic)
	}
	if len(names) == 0 && m != nil {
		for _, name := range m.TopicNames() {
			if req.may.Sees(acl.Describe, acl.Topic, string(name)) {
				names = append(names, string(name))
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if kreq.Cursor != nil {
		at, _ := slices.BinarySearch(names, kreq.Cursor.Topic)
		names = names[at:]
	}
	return names
}

// describe fills partitions from first on, at most limit, and returns the next one.
func (v *view) describe(req *request, t *federation.Topic, rt *kmsg.DescribeTopicPartitionsResponseTopic, first, limit int32) int32 {
	rt.TopicID, rt.AuthorizedOperations = t.ID, req.may.Operations(acl.Topic, string(t.Name))
	next := first
	for ; int(next) < len(t.Partitions) && next-first < limit; next++ {
		p := t.Partitions[next]
		rp := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
		rp.Partition = int32(p.Number)
		rp.LeaderEpoch = int32(v.m.LeaderEpoch(p))
		leader := v.leader(t, p)
		rp.Replicas = v.replicas(t, p, leader)
		rp.ISR = rp.Replicas
		rp.EligibleLeaderReplicas, rp.LastKnownELR, rp.OfflineReplicas = []int32{}, []int32{}, []int32{}
		if leader == nil {
			rp.LeaderID = -1
			rp.ErrorCode = req.refuse(kerr.LeaderNotAvailable)
		} else {
			rp.LeaderID = int32(leader.NodeID)
		}
		rt.Partitions = append(rt.Partitions, rp)
	}
	return next
}
