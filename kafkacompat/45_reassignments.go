package kafkacompat

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// AlterPartitionReassignments: v0-v1, and ListPartitionReassignments (46): v0
//
// Replicas are gateways, picked by a function of the map that nobody can set. So a
// reassignment to the replicas that there are is done at once, any other is refused, and
// none is ever under way. That a head moves is no reassignment: no replica changes, and it
// holds appends for milliseconds only.
//
// Version notes:
// * v1: whether the replication factor may change

// notReassigned says where to go instead.
const notReassigned = "replicas are gateways here, and cannot be chosen; to move a partition to another physical cluster use `braid topic move` or `braid topic expand`"

func handleAlterPartitionReassignments(ctx context.Context, c *conn, req *request, kreq *kmsg.AlterPartitionAssignmentsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.AlterPartitionAssignmentsResponse)
	resp.AllowReplicationFactorChange = kreq.AllowReplicationFactorChange
	if resp.ErrorCode = req.mayCluster(ctx, acl.Alter); resp.ErrorCode != 0 {
		resp.ErrorMessage = deniedMessage(resp.ErrorCode)
		return resp
	}
	m := c.s.mapOrNil()
	if m == nil {
		resp.ErrorCode = req.refuse(kerr.NotController)
		resp.ErrorMessage = new("the gateway is starting")
		return resp
	}
	v := c.view(m, req.clientID)
	for _, t := range kreq.Topics {
		rt := kmsg.NewAlterPartitionAssignmentsResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
			rp.Partition = p.Partition
			if e, text := v.reassign(m, t.Topic, &p); e != nil {
				rp.ErrorCode, rp.ErrorMessage = req.refuse(e), &text
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func (v *view) reassign(m *federation.Map, topic string, asked *kmsg.AlterPartitionAssignmentsRequestTopicPartition) (*kerr.Error, string) {
	tp := federation.TopicPartition{Topic: federation.TopicName(topic), Partition: federation.LogicalPartition(asked.Partition)}
	p, err := m.Partition(tp)
	if err != nil {
		return kerr.UnknownTopicOrPartition, *message(err)
	}
	if asked.Replicas == nil {
		return kerr.NoReassignmentInProgress, "no reassignment is in progress"
	}
	t := m.Topics[tp.Topic]
	have := slices.Sorted(slices.Values(v.replicas(t, p, v.leader(t, p))))
	if slices.Equal(have, slices.Sorted(slices.Values(asked.Replicas))) {
		return nil, ""
	}
	return kerr.InvalidReplicaAssignment, notReassigned
}

func handleListPartitionReassignments(ctx context.Context, c *conn, req *request, kreq *kmsg.ListPartitionReassignmentsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.ListPartitionReassignmentsResponse)
	if resp.ErrorCode = req.mayCluster(ctx, acl.Describe); resp.ErrorCode != 0 {
		resp.ErrorMessage = deniedMessage(resp.ErrorCode)
		return resp
	}
	if c.s.mapOrNil() == nil {
		resp.ErrorCode = req.refuse(kerr.NotController)
		resp.ErrorMessage = new("the gateway is starting")
	}
	return resp
}
