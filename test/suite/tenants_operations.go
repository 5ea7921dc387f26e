package suite

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	namingv1 "github.com/braidmq/braid/gen/braid/naming/v1"
	"github.com/braidmq/braid/gen/braid/naming/v1/namingv1connect"
)

// A tenant waits for the changes that it began, and does not learn of another's.
func (s *suite) testTenantOperations(t *testing.T) {
	topic := name(t)
	operations, begun := map[string]adminv1connect.OperationServiceClient{}, map[string]string{}
	for _, tenant := range []string{"acme", "beta"} {
		client := &http.Client{Transport: inTenant{tenant, s.w.Client.Transport}}
		operations[tenant] = adminv1connect.NewOperationServiceClient(client, s.w.API())
		created, err := adminv1connect.NewTopicServiceClient(client, s.w.API()).CreateTopic(call(t), &adminv1.CreateTopicRequest{
			TopicId: topic, Topic: &adminv1.Topic{PartitionCount: 2}, NoWait: true,
		})
		require.NoError(t, err)
		begun[tenant] = created.GetOperation()
		require.Equal(t, "logicalClusters/"+tenant+"/topics/"+topic, s.watched(t, operations[tenant], begun[tenant]).GetTarget())
	}
	acme, other := operations["acme"], begun["beta"]
	got, err := acme.GetOperation(call(t), &adminv1.GetOperationRequest{Name: begun["acme"]})
	require.NoError(t, err)
	require.True(t, got.GetOperation().GetDone())
	_, err = acme.GetOperation(call(t), &adminv1.GetOperationRequest{Name: other})
	require.ErrorContains(t, err, "is not known")
	stream, err := acme.WatchOperation(call(t), &adminv1.WatchOperationRequest{Name: other})
	require.NoError(t, err)
	require.False(t, stream.Receive(), "%v", stream.Msg())
	require.ErrorContains(t, stream.Err(), "is not known")
	_, err = acme.CancelOperation(call(t), &adminv1.CancelOperationRequest{Name: begun["acme"]})
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
	found, token := false, ""
	for {
		list, err := acme.ListOperations(call(t), &adminv1.ListOperationsRequest{PageSize: 2, PageToken: token})
		require.NoError(t, err)
		for _, op := range list.GetOperations() {
			require.Contains(t, op.GetTarget(), "logicalClusters/acme/")
			found = found || op.GetName() == begun["acme"]
			for _, step := range op.GetSteps() {
				require.Empty(t, step.GetDetail())
			}
		}
		if token = list.GetNextPageToken(); token == "" {
			break
		}
	}
	require.True(t, found)
	s.w.MustBraid(t, "", "topic", "create", topic+"-cli", "--partitions", "1", "--logical-cluster", "acme")
	s.w.MustBraid(t, "", "topic", "grow", topic+"-cli", "--partitions", "2", "--logical-cluster", "acme")
	s.w.MustBraid(t, "", "topic", "delete", topic+"-cli", "--logical-cluster", "acme")
}

// A tenant's clients learn from any gateway, and from the name service, where its gateways
// are, and where nobody else's are.
func (s *suite) testTenantNames(t *testing.T) {
	for _, tenant := range []string{"acme", "beta"} {
		var want []string
		for _, g := range s.w.Gateways {
			want = append(want, g.Tenants[tenant])
		}
		client := &http.Client{Transport: inTenant{tenant, s.w.Client.Transport}}
		for _, url := range []string{s.w.API(), s.w.NameServer.URL()} {
			names := namingv1connect.NewNameServiceClient(client, url)
			for _, logical := range []string{"", tenant} {
				res, err := names.Resolve(call(t), &namingv1.ResolveRequest{ClientId: name(t), LogicalCluster: logical, Protocol: namingv1.Protocol_PROTOCOL_KAFKA})
				require.NoError(t, err)
				var got []string
				for _, e := range res.GetEndpoints() {
					got = append(got, e.GetAddress())
				}
				require.NotEmpty(t, got)
				require.Subset(t, want, got)
			}
			for _, other := range []string{"default", "ghost", map[string]string{"acme": "beta", "beta": "acme"}[tenant]} {
				_, err := names.Resolve(call(t), &namingv1.ResolveRequest{ClientId: name(t), LogicalCluster: other})
				require.ErrorContains(t, err, "does not exist")
			}
		}
	}
}

// Clients that begin at a tenant's listener of the bootstrap go on at those of the gateways,
// for data, groups and topics.
func (s *suite) testTenantBootstrap(t *testing.T) {
	topic, group := name(t), name(t)+"-g"
	for _, tenant := range []string{"acme", "beta"} {
		own := make(map[string]bool)
		for _, g := range s.w.Gateways {
			own[g.Tenants[tenant]] = true
		}
		client, err := kgo.NewClient(kgo.SeedBrokers(s.w.NameServer.Tenants[tenant]), kgo.ClientID(name(t)), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		require.NoError(t, err)
		t.Cleanup(client.Close)
		_, err = kadm.NewClient(client).CreateTopic(call(t), 4, -1, nil, topic)
		require.NoError(t, err)
		brokers, err := kadm.NewClient(client).ListBrokers(call(t))
		require.NoError(t, err)
		require.NotEmpty(t, brokers)
		for _, b := range brokers {
			require.True(t, own[net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))], "%s is told of %s:%d", tenant, b.Host, b.Port)
		}
		for i := range 20 {
			send(t, client, &kgo.Record{Topic: topic, Key: fmt.Append(nil, i), Value: fmt.Appendf(nil, "%s %d", tenant, i)})
		}
		for _, r := range poll(t, client, 20) {
			require.True(t, strings.HasPrefix(string(r.Value), tenant+" "), "%q reads %q", tenant, r.Value)
		}
		require.NoError(t, client.CommitUncommittedOffsets(call(t)))
	}
}

// watched waits for the end of an operation.
func (s *suite) watched(t *testing.T, client adminv1connect.OperationServiceClient, name string) *adminv1.Operation {
	stream, err := client.WatchOperation(call(t), &adminv1.WatchOperationRequest{Name: name})
	require.NoError(t, err)
	for stream.Receive() {
		if op := stream.Msg().GetOperation(); op.GetDone() {
			require.Empty(t, op.GetErrorMessage())
			require.NoError(t, stream.Close())
			return op
		}
	}
	require.FailNow(t, "the watch ended before the operation", "%v", stream.Err())
	return nil
}
