package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// ElectLeaders: v0-v2
//
// Every partition is led by its preferred gateway at all times, so there is never
// anything to elect, as at a broker whose preferred leaders lead.
//
// Version notes:
// * v1: election type (KIP-460), top-level error
// * v2: flexible

func handleElectLeaders(ctx context.Context, c *conn, req *request, kreq *kmsg.ElectLeadersRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.ElectLeadersResponse)
	m := c.s.mapOrNil()
	denied := req.mayCluster(ctx, acl.Alter)
	switch {
	case denied != 0 && req.version >= 1:
		resp.ErrorCode = denied
		return resp
	case req.version >= 1 && kreq.ElectionType != 0 && kreq.ElectionType != 1:
		resp.ErrorCode = req.refuse(kerr.InvalidRequest)
		return resp
	case m == nil:
		resp.ErrorCode = req.refuse(kerr.NotController) // v0 has no place for it: no partition is named
		return resp
	}
	// Asked for all, a broker names those only that it tried to elect: none here.
	v := c.view(m, req.clientID)
	seen := make(partitionsSeen) // a broker takes them as a set
	for _, t := range kreq.Topics {
		rt := kmsg.NewElectLeadersResponseTopic()
		rt.Topic = t.Topic
		for _, number := range t.Partitions {
			if !seen.first(fetchTopic{name: t.Topic}, number) {
				continue
			}
			rp := kmsg.NewElectLeadersResponseTopicPartition()
			rp.Partition = number
			if denied != 0 { // v0 has no other place for it
				rp.ErrorCode, rp.ErrorMessage = denied, deniedMessage(denied)
			} else {
				e, text := v.election(m, t.Topic, number)
				rp.ErrorCode, rp.ErrorMessage = req.refuse(e), &text
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func (v *view) election(m *federation.Map, topic string, number int32) (*kerr.Error, string) {
	tp := federation.TopicPartition{Topic: federation.TopicName(topic), Partition: federation.LogicalPartition(number)}
	p, err := m.Partition(tp)
	switch {
	case err != nil:
		return kerr.UnknownTopicOrPartition, *message(err)
	case v.leader(m.Topics[tp.Topic], p) == nil:
		return kerr.PreferredLeaderNotAvailable, "no gateway is ready"
	}
	return kerr.ElectionNotNeeded, "the partition is led by its preferred gateway"
}
