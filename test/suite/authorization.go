package suite

import (
	"context"
	"net"
	"net/http"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
)

func (s *suite) authorization() []test {
	return []test{
		{"by ACLs, in both doors", s.testACLs},
	}
}

// elsewhere is the host of a second client. The world takes no credentials, so ACLs tell
// clients apart by their hosts.
const elsewhere = "127.0.0.2"

func dialFromElsewhere(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(elsewhere)}}
	return d.DialContext(ctx, network, address)
}

func (s *suite) testACLs(t *testing.T) {
	mine, free, group := s.topic(t, 2), s.topic(t, 1), name(t)
	admin, other := s.admin(t), s.client(t, kgo.Dialer(dialFromElsewhere), kgo.AllowAutoTopicCreation(), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	produce := func(client *kgo.Client, topic string) error {
		return client.ProduceSync(call(t), &kgo.Record{Topic: topic, Value: []byte("v")}).FirstErr()
	}
	require.NoError(t, produce(other, mine), "no ACL speaks of it")

	b := kadm.NewACLs().Topics(mine).Groups(group).Allow("User:ANONYMOUS").AllowHosts("127.0.0.1").Operations(kadm.OpAll).ResourcePatternType(kadm.ACLPatternLiteral)
	made, err := admin.CreateACLs(call(t), b)
	require.NoError(t, err)
	for _, m := range made {
		require.NoError(t, m.Err, m.ErrMessage)
	}
	// Every gateway follows, and open connections lose the right.
	refused := func() bool { return produce(other, mine) != nil }
	eventually(t, refused, "a revoked right still serves an open connection")
	for range 2 * len(s.w.Gateways) {
		require.ErrorIs(t, produce(other, mine), kerr.TopicAuthorizationFailed)
	}
	require.NoError(t, produce(other, free), "what no ACL speaks of goes on")
	require.NoError(t, produce(s.client(t), mine), "allowed")

	elsewhereAdmin := kadm.NewClient(other)
	_, err = elsewhereAdmin.ListTopics(call(t), mine)
	require.ErrorContains(t, err, "TOPIC_AUTHORIZATION_FAILED")
	all, err := elsewhereAdmin.ListTopics(call(t))
	require.NoError(t, err)
	require.NotContains(t, all, mine)
	require.Contains(t, all, free)
	_, err = elsewhereAdmin.FetchOffsets(call(t), group)
	require.ErrorContains(t, err, "GROUP_AUTHORIZATION_FAILED")

	transport := &http.Transport{DialContext: dialFromElsewhere}
	t.Cleanup(transport.CloseIdleConnections)
	denied := braidv1connect.NewProducerServiceClient(&http.Client{Transport: transport}, s.w.API())
	req := &braidv1.ProduceBatchRequest{Batch: &braidv1.ProduceFrame{Topic: mine, Records: []*braidv1.Record{{Value: []byte("v")}}}}
	_, err = denied.ProduceBatch(call(t), req)
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "User:ANONYMOUS from host "+elsewhere+" is not allowed to WRITE TOPIC")
	_, err = s.producerAPI().ProduceBatch(call(t), req)
	require.NoError(t, err)

	out := s.w.MustBraid(t, "", "acl", "list", "--topic", mine)
	require.Contains(t, out, "User:ANONYMOUS")
	s.w.MustBraid(t, "", "acl", "delete", "User:ANONYMOUS", "--topic", mine)
	eventually(t, func() bool { return !refused() }, "the ACLs are deleted, and still decide")
	deleted, err := admin.DeleteACLs(call(t), kadm.NewACLs().Groups(group).Allow("User:ANONYMOUS").AllowHosts().Operations().ResourcePatternType(kadm.ACLPatternAny))
	require.NoError(t, err)
	require.Len(t, deleted, 1)
	require.Len(t, deleted[0].Deleted, 1)
}
