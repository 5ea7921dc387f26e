package kafkacompat

import (
	"context"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/acl"
)

// ListConfigResources: v0-v1
//
// Version notes:
// * v0: client metrics only (KIP-714); there are none
// * v1: topics, nodes, and groups that have settings of their own too (KIP-1142)

func handleListConfigResources(ctx context.Context, c *conn, req *request, kreq *kmsg.ListConfigResourcesRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.ListConfigResourcesResponse)
	if resp.ErrorCode = req.mayCluster(ctx, acl.DescribeConfigs); resp.ErrorCode != 0 {
		return resp
	}
	if req.version == 0 {
		return resp
	}
	types := kreq.ResourceTypes
	known := []int8{
		int8(kmsg.ConfigResourceTypeTopic), int8(kmsg.ConfigResourceTypeBroker), int8(kmsg.ConfigResourceTypeBrokerLogger),
		int8(kmsg.ConfigResourceTypeClientMetrics), int8(kmsg.ConfigResourceTypeGroupConfig),
	}
	if len(types) == 0 {
		types = known
	}
	add := func(t kmsg.ConfigResourceType, name string) {
		r := kmsg.NewListConfigResourcesResponseConfigResource()
		r.Type, r.Name = int8(t), name
		resp.ConfigResources = append(resp.ConfigResources, r)
	}
	m := c.s.mapOrNil()
	if m == nil {
		resp.ErrorCode = req.refuse(kerr.CoordinatorNotAvailable)
		return resp
	}
	const resourceBytes = 100
	if req.room(ctx, c, int64(len(m.Topics)+len(m.Gateways)+len(m.GroupConfigs))*resourceBytes) != nil {
		return nil
	}
	for _, t := range once(types, itself) {
		switch {
		case !slices.Contains(known, t):
			resp.ConfigResources = nil
			resp.ErrorCode = req.refuse(kerr.UnsupportedVersion)
			return resp
		case t == int8(kmsg.ConfigResourceTypeTopic):
			for _, name := range m.TopicNames() {
				add(kmsg.ConfigResourceTypeTopic, string(name))
			}
		case t == int8(kmsg.ConfigResourceTypeBroker):
			for _, g := range readyGateways(m) {
				add(kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(g.NodeID)))
			}
		case t == int8(kmsg.ConfigResourceTypeGroupConfig):
			for _, g := range m.GroupConfigs.Sorted() {
				add(kmsg.ConfigResourceTypeGroupConfig, g.Group)
			}
		}
	}
	return resp
}
