package gateway_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/acl"
)

// Who runs clusters need not be able to give rights.
func TestOperatorsCannotChangeWhoMayDoWhat(t *testing.T) {
	back := &recorded{}
	w := newGuarded(t, func(_ *gateway.Config, d *gateway.Deps) { d.Topics, d.Clusters, d.Acls = back, back, back })
	back.w = w
	w.grant("alice", acl.ClusterAction, acl.Cluster, federation.ACLClusterName)
	topics, acls := adminv1connect.NewTopicServiceClient(h2c(t), w.url), adminv1connect.NewAclServiceClient(h2c(t), w.url)
	clusters := adminv1connect.NewClusterServiceClient(h2c(t), w.url)
	ctx := ctxFor(t)
	_, err := topics.MovePartitions(ctx, &adminv1.MovePartitionsRequest{Name: "logicalClusters/default/topics/orders"})
	require.NoError(t, err)
	_, err = acls.CreateAcls(ctx, &adminv1.CreateAclsRequest{})
	requireDenied(t, err, "ALTER", "kafka-cluster")
	_, err = clusters.ListClusters(ctx, &adminv1.ListClustersRequest{})
	requireDenied(t, err, "DESCRIBE", "kafka-cluster")
	require.Equal(t, []string{"move"}, back.calls)
}

// paged stands for a controller that lists topics in pages.
type paged struct {
	adminv1connect.TopicServiceClient
	names []string
}

func (p *paged) ListTopics(_ context.Context, r *adminv1.ListTopicsRequest) (*adminv1.ListTopicsResponse, error) {
	after, err := base64.RawURLEncoding.DecodeString(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	out := &adminv1.ListTopicsResponse{}
	for _, n := range p.names {
		switch {
		case n <= string(after):
		case len(out.GetTopics()) == int(r.GetPageSize()):
			last := out.GetTopics()[len(out.GetTopics())-1].GetName()
			out.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(lastOf(last)))
			return out, nil
		default:
			out.Topics = append(out.Topics, &adminv1.Topic{Name: "logicalClusters/default/topics/" + n})
		}
	}
	return out, nil
}

func lastOf(name string) string { return name[len("logicalClusters/default/topics/"):] }

// A token of a page names nothing that the caller may not see, and no page is empty but
// the last one.
func TestPagesEndAtWhatTheCallerSees(t *testing.T) {
	back := &paged{}
	seen := []string{"t00", "t03", "t04", "t20"}
	for i := range 30 {
		back.names = append(back.names, fmt.Sprintf("t%02d", i))
	}
	w := newGuarded(t, func(_ *gateway.Config, d *gateway.Deps) { d.Topics = back })
	for _, name := range seen {
		w.grant("alice", acl.Describe, acl.Topic, name)
	}
	topics := adminv1connect.NewTopicServiceClient(h2c(t), w.url)
	for _, size := range []int32{1, 2, 3, 7, 100} {
		var got []string
		token := ""
		for {
			resp, err := topics.ListTopics(ctxFor(t), &adminv1.ListTopicsRequest{PageSize: size, PageToken: token})
			require.NoError(t, err)
			require.LessOrEqual(t, len(resp.GetTopics()), int(size))
			for _, topic := range resp.GetTopics() {
				got = append(got, lastOf(topic.GetName()))
			}
			if token = resp.GetNextPageToken(); token == "" {
				break
			}
			require.NotEmpty(t, resp.GetTopics())
			last, err := base64.RawURLEncoding.DecodeString(token)
			require.NoError(t, err)
			require.Contains(t, seen, string(last))
		}
		require.Equal(t, seen, got, "pages of %d", size)
	}
}
