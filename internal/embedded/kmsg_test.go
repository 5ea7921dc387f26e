package embedded_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func kmsgMetadata(topic string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &topic
	req.Topics = append(req.Topics, t)
	return req
}

func metadataText(t *testing.T, resp kmsg.Response) string {
	t.Helper()
	m, ok := resp.(*kmsg.MetadataResponse)
	require.True(t, ok)
	var out strings.Builder
	for _, b := range m.Brokers {
		fmt.Fprintf(&out, "node %d %s:%d\n", b.NodeID, b.Host, b.Port)
	}
	for _, topic := range m.Topics {
		require.Zero(t, topic.ErrorCode)
		for _, p := range topic.Partitions {
			fmt.Fprintf(&out, "partition %d at %d epoch %d\n", p.Partition, p.Leader, p.LeaderEpoch)
		}
	}
	return out.String()
}
