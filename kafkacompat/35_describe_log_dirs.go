package kafkacompat

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// DescribeLogDirs: v1-v5
//
// A gateway has no disk. It answers with one directory in which the partitions lie that
// Metadata names it a replica of, for the same client id: so a tool that asks all nodes
// sees each partition as often as it has replicas. A size is that of one copy, over all
// extents; what lies on a cluster that does not answer does not count.
//
// Version notes:
// * v2: flexible
// * v3: top-level error
// * v4: total and usable bytes (KIP-827), which nobody knows
// * v5: cordoned directories (KIP-1066); there are none

// logDir is the one directory of every gateway.
const logDir = "/braid"

func handleDescribeLogDirs(ctx context.Context, c *conn, req *request, kreq *kmsg.DescribeLogDirsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DescribeLogDirsResponse)
	if resp.ErrorCode = req.mayCluster(ctx, acl.Describe); resp.ErrorCode != 0 {
		return resp
	}
	m := c.s.mapOrNil()
	if m == nil {
		resp.ErrorCode = req.refuse(kerr.LeaderNotAvailable)
		return resp
	}
	if kreq.Topics == nil {
		const partitionBytes = 200
		n := 0
		for _, t := range m.Topics {
			n += len(t.Partitions)
		}
		if req.room(ctx, c, int64(n)*partitionBytes) != nil {
			return nil
		}
	}
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir = logDir
	tps := c.held(m, req, kreq)
	for i, size := range c.route().Sizes(ctx, tps) {
		if i == 0 || tps[i].Topic != tps[i-1].Topic {
			dir.Topics = append(dir.Topics, kmsg.DescribeLogDirsResponseDirTopic{Topic: string(tps[i].Topic)})
		}
		t := &dir.Topics[len(dir.Topics)-1]
		t.Partitions = append(t.Partitions, kmsg.DescribeLogDirsResponseDirTopicPartition{Partition: int32(tps[i].Partition), Size: size})
	}
	resp.Dirs = append(resp.Dirs, dir)
	return resp
}

// held returns those of the partitions asked for that this gateway is a replica of,
// topic by topic. What does not exist is left out, as by a broker.
func (c *conn) held(m *federation.Map, req *request, kreq *kmsg.DescribeLogDirsRequest) []federation.TopicPartition {
	own := m.Gateway(c.s.cfg.GatewayID)
	if own == nil {
		return nil
	}
	v := c.view(m, req.clientID)
	var tps []federation.TopicPartition
	seen := make(map[federation.TopicPartition]bool)
	add := func(t *federation.Topic, number int32) {
		if number < 0 || int(number) >= len(t.Partitions) {
			return
		}
		p := t.Partitions[number]
		tp := federation.TopicPartition{Topic: t.Name, Partition: p.Number}
		if !seen[tp] && slices.Contains(v.replicas(t, p, v.leader(t, p)), int32(own.NodeID)) {
			seen[tp] = true
			tps = append(tps, tp)
		}
	}
	if kreq.Topics == nil {
		for _, name := range m.TopicNames() {
			t := m.Topics[name]
			for i := range t.Partitions {
				add(t, int32(i))
			}
		}
		return tps
	}
	for _, asked := range kreq.Topics {
		if t := m.Topics[federation.TopicName(asked.Topic)]; t != nil {
			for _, number := range asked.Partitions {
				add(t, number)
			}
		}
	}
	return tps
}
