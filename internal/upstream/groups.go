package upstream

import (
	"context"
	"errors"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
)

// Groups lists the consumer groups of the cluster, sorted. It asks all brokers: an
// error of one is the error of all.
func (c *Cluster) Groups(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.AdminTimeout)
	defer cancel()
	var groups []string
	for _, shard := range c.generalClient().RequestSharded(ctx, kmsg.NewPtrListGroupsRequest()) {
		if shard.Err != nil {
			return nil, c.unavailable(shard.Err)
		}
		resp := shard.Resp.(*kmsg.ListGroupsResponse)
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return nil, c.unavailable(err)
		}
		for _, g := range resp.Groups {
			if g.ProtocolType == "consumer" || g.ProtocolType == "" { // "" has offsets only
				groups = append(groups, g.Group)
			}
		}
	}
	slices.Sort(groups)
	return slices.Compact(groups), nil
}

// A CommittedOffset is what a group has committed of a physical partition.
type CommittedOffset struct {
	Partition federation.PhysicalPartition
	Offset    federation.PhysicalOffset
	Metadata  string
}

// CommittedOffsets returns what a group has committed of a topic's first n partitions.
func (c *Cluster) CommittedOffsets(ctx context.Context, group, topic string, n int32) ([]CommittedOffset, error) {
	t := kmsg.NewOffsetFetchRequestTopic()
	t.Topic = topic
	gt := kmsg.NewOffsetFetchRequestGroupTopic()
	gt.Topic = topic
	for i := range n {
		t.Partitions = append(t.Partitions, i)
		gt.Partitions = append(gt.Partitions, i)
	}
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group, g.Topics = group, append(g.Topics, gt)
	req := &offsetFetchByName{kmsg.NewPtrOffsetFetchRequest()}
	req.Group, req.Topics, req.Groups = group, append(req.Topics, t), append(req.Groups, g)
	ctx, cancel := context.WithTimeout(ctx, c.cfg.AdminTimeout)
	defer cancel()
	node, err := c.coordinator(ctx, group)
	if err != nil {
		return nil, err
	}
	raw, err := c.generalClient().Broker(int(node)).RetriableRequest(ctx, req)
	if err != nil {
		return nil, c.unavailable(err)
	}
	return c.committed(raw.(*kmsg.OffsetFetchResponse), topic)
}

func (c *Cluster) coordinator(ctx context.Context, group string) (int32, error) {
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.CoordinatorKey, req.CoordinatorKeys = group, []string{group}
	resp, err := request[*kmsg.FindCoordinatorResponse](ctx, c, req)
	if err != nil {
		return -1, err
	}
	node, code := resp.NodeID, resp.ErrorCode
	for _, found := range resp.Coordinators {
		node, code = found.NodeID, found.ErrorCode
	}
	if err := kerr.ErrorForCode(code); err != nil {
		return -1, c.unavailable(err)
	}
	return node, nil
}

// offsetFetchByName stays at the versions that name topics by name.
type offsetFetchByName struct{ *kmsg.OffsetFetchRequest }

func (*offsetFetchByName) MaxVersion() int16 { return 9 }

func (c *Cluster) committed(resp *kmsg.OffsetFetchResponse, topic string) ([]CommittedOffset, error) {
	code := resp.ErrorCode
	var out []CommittedOffset
	add := func(partition int32, offset int64, metadata *string, partitionCode int16) {
		if partitionCode != 0 {
			code = partitionCode
			return
		}
		if offset < 0 {
			return
		}
		o := CommittedOffset{Partition: federation.PhysicalPartition(partition), Offset: federation.PhysicalOffset(offset)}
		if metadata != nil {
			o.Metadata = *metadata
		}
		out = append(out, o)
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if t.Topic == topic {
				add(p.Partition, p.Offset, p.Metadata, p.ErrorCode)
			}
		}
	}
	for _, g := range resp.Groups {
		if g.ErrorCode != 0 {
			code = g.ErrorCode
		}
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				if t.Topic == topic {
					add(p.Partition, p.Offset, p.Metadata, p.ErrorCode)
				}
			}
		}
	}
	if err := kerr.ErrorForCode(code); err != nil {
		if errors.Is(err, kerr.GroupIDNotFound) {
			return nil, nil
		}
		return nil, c.unavailable(err)
	}
	return out, nil
}
