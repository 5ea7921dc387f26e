package embedded_test

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
)

// inCluster sets the header that names a logical cluster.
type inCluster struct {
	name string
	next http.RoundTripper
}

func (h inCluster) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Braid-Logical-Cluster", h.name)
	return h.next.RoundTrip(r)
}

// A user belongs to a tenant, and meets nothing of another one, by either door.
func TestUsersBelongToTenants(t *testing.T) {
	f := embedded.New(t, embedded.Options{Gateways: 2, Brokers: 1, FleetToken: fleetToken, Configure: func(c *process.Config, _ int) {
		if c.Role == process.Gateway {
			c.Access.ConnectRequired, c.Access.SaslMechanisms = true, []string{"SCRAM-SHA-256", "PLAIN"}
			c.Tenants, c.TenantKafkaListen = true, map[string]string{"acme": "127.0.0.1:0"}
			c.Authorization = process.Authorization{Authorizer: process.AuthorizerACL, AllowIfNoACL: true, SuperUsers: []string{"User:root"}}
		}
	}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tenants := adminv1connect.NewTenantServiceClient(f.Client, f.APIURL())
	creds := adminv1connect.NewCredentialServiceClient(f.Client, f.APIURL())
	secrets, tokens := map[string]string{}, map[string]string{}
	for _, parent := range []string{"", "acme", "beta"} {
		req := &adminv1.CreateCredentialRequest{User: "alice"}
		if parent != "" {
			_, err := tenants.CreateTenant(ctx, &adminv1.CreateTenantRequest{TenantId: parent})
			require.NoError(t, err)
			req.Parent = "logicalClusters/" + parent
		}
		made, err := creds.CreateCredential(ctx, req)
		require.NoError(t, err)
		secrets[parent], tokens[parent] = made.GetSecret(), made.GetBearerToken()
	}
	kafka := func(user, secret string, seeds []string, opts ...kgo.Opt) *kgo.Client {
		auth := scram.Auth{User: user, Pass: secret}
		client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(seeds...), kgo.SASL(auth.AsSha256Mechanism()), kgo.RequestRetries(2))...)
		require.NoError(t, err)
		t.Cleanup(client.Close)
		return client
	}
	logins := map[string]string{"": "alice", "acme": "acme/alice", "beta": "beta/alice"}
	var ids []string
	for parent, login := range logins {
		client := kafka(login, secrets[parent], f.KafkaAddresses(), kgo.ConsumeTopics("orders"), kgo.ConsumerGroup("g"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		admin := kadm.NewClient(client)
		_, err := admin.CreateTopic(ctx, 2, 1, nil, "orders")
		require.NoError(t, err, login)
		require.NoError(t, err)
		_, err = admin.CreateTopic(ctx, 1, 1, nil, "only-"+parent)
		require.NoError(t, err)
		require.NoError(t, client.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: []byte("of " + parent)}).FirstErr())
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		require.Len(t, fetches.Records(), 1)
		require.Equal(t, "of "+parent, string(fetches.Records()[0].Value))
		require.NoError(t, client.CommitUncommittedOffsets(ctx))
	}
	for parent, login := range logins {
		admin := kadm.NewClient(kafka(login, secrets[parent], f.KafkaAddresses()))
		topics, err := admin.ListTopics(ctx)
		require.NoError(t, err)
		require.Equal(t, []string{"only-" + parent, "orders"}, topics.Names())
		listed, err := admin.ListGroups(ctx)
		require.NoError(t, err)
		require.Equal(t, []string{"g"}, listed.Groups())
		users, err := admin.DescribeUserSCRAMs(ctx)
		require.NoError(t, err)
		require.Len(t, users, 1)
		require.Contains(t, users, "alice")
		metadata, err := admin.BrokerMetadata(ctx)
		require.NoError(t, err)
		require.NotContains(t, ids, metadata.Cluster)
		ids = append(ids, metadata.Cluster)
		// Whatever a client says, it reaches nothing of others.
		for _, name := range []string{"acme/orders", "beta/orders", "/orders", "default/orders"} {
			ends, err := admin.ListEndOffsets(ctx, name)
			if err == nil {
				require.Error(t, ends.Error(), "%s reaches %s", login, name)
			}
		}
	}
	// The same name with another password, or in another tenant, is nobody.
	require.Error(t, kafka("beta/alice", secrets["acme"], f.KafkaAddresses()).Ping(ctx))
	require.Error(t, kafka("ghost/alice", secrets["acme"], f.KafkaAddresses()).Ping(ctx))
	plainAuth, err := kgo.NewClient(kgo.SeedBrokers(f.KafkaAddresses()...), kgo.SASL(plain.Auth{User: "acme/alice", Pass: secrets["acme"]}.AsMechanism()))
	require.NoError(t, err)
	defer plainAuth.Close()
	require.NoError(t, plainAuth.Ping(ctx))

	// On a listener of the tenant names are plain, and clients are sent to such listeners.
	var own []string
	for _, g := range f.Gateways() {
		own = append(own, g.TenantKafkaAddress("acme"))
	}
	listener := kafka("alice", secrets["acme"], own)
	brokers, err := kadm.NewClient(listener).ListBrokers(ctx)
	require.NoError(t, err)
	require.Len(t, brokers, 2)
	for _, b := range brokers {
		require.Contains(t, own, kadmAddress(b))
	}
	topics, err := kadm.NewClient(listener).ListTopics(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"only-acme", "orders"}, topics.Names())
	require.Error(t, kafka("alice", secrets[""], own).Ping(ctx))
	require.Error(t, kafka("beta/alice", secrets["beta"], own).Ping(ctx))

	testTenantsByConnect(ctx, t, f, tokens)

	// A tenant that is deleted ends at once, and leaves the others as they are.
	_, err = tenants.DeleteTenant(ctx, &adminv1.DeleteTenantRequest{Name: "tenants/acme", Force: true})
	require.NoError(t, err)
	require.Error(t, kafka("alice", secrets["acme"], own).Ping(ctx))
	require.Error(t, kafka("acme/alice", secrets["acme"], f.KafkaAddresses()).Ping(ctx))
	ended, stop := context.WithTimeout(ctx, 2*time.Second) // the client goes on trying
	defer stop()
	require.Error(t, listener.ProduceSync(ended, &kgo.Record{Topic: "orders"}).FirstErr())
	for _, parent := range []string{"", "beta"} {
		require.NoError(t, kafka(logins[parent], secrets[parent], f.KafkaAddresses()).ProduceSync(ctx, &kgo.Record{Topic: "orders"}).FirstErr())
	}
}

func testTenantsByConnect(ctx context.Context, t *testing.T, f *embedded.Federation, tokens map[string]string) {
	t.Helper()
	_, err := adminv1connect.NewAclServiceClient(f.Client, f.APIURL()).CreateAcls(ctx, &adminv1.CreateAclsRequest{Acls: []*adminv1.Acl{{
		ResourceType: adminv1.Acl_RESOURCE_TYPE_CLUSTER, ResourceName: "kafka-cluster", Principal: "User:braid-fleet", Operation: adminv1.Acl_OPERATION_ALTER,
	}}})
	require.NoError(t, err)
	refused := func(err error, want ...connect.Code) {
		t.Helper()
		require.Contains(t, append(want, connect.CodeNotFound, connect.CodePermissionDenied, connect.CodeUnimplemented), connect.CodeOf(err), "%v", err)
	}
	for parent, token := range tokens {
		client := as(t, "Bearer "+token)
		topics := adminv1connect.NewTopicServiceClient(client, f.APIURL())
		list, err := topics.ListTopics(ctx, &adminv1.ListTopicsRequest{})
		require.NoError(t, err)
		require.Len(t, list.GetTopics(), 2)
		logical := parent
		if parent == "" {
			logical = "default"
		}
		require.Equal(t, "logicalClusters/"+logical+"/topics/orders", list.GetTopics()[1].GetName())
		groups, err := adminv1connect.NewGroupServiceClient(client, f.APIURL()).ListGroups(ctx, &adminv1.ListGroupsRequest{})
		require.NoError(t, err)
		require.Len(t, groups.GetGroups(), 1)
		produced, err := braidv1connect.NewProducerServiceClient(client, f.APIURL()).ProduceBatch(ctx, &braidv1.ProduceBatchRequest{
			LogicalCluster: logical, Batch: &braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{{Value: []byte("by connect")}}},
		})
		require.NoError(t, err)
		require.NotNil(t, produced.GetAck())
		page, err := braidv1connect.NewConsumerServiceClient(client, f.APIURL()).Fetch(ctx, &braidv1.FetchRequest{
			Sources: []*braidv1.ReadSource{{Topic: "orders", Start: &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}}}}, MaxRecords: 10,
		})
		require.NoError(t, err)
		for _, b := range page.GetBatches() {
			require.Equal(t, "orders", b.GetTopic())
		}
		// Another one's names.
		for _, other := range []string{"acme", "beta", "default"} {
			if other == logical {
				continue
			}
			_, err = topics.GetTopic(ctx, &adminv1.GetTopicRequest{Name: "logicalClusters/" + other + "/topics/orders"})
			refused(err, connect.CodeInvalidArgument)
			// No name that leaves the logical cluster out is one of the deployment's own.
			_, err = topics.GetTopic(ctx, &adminv1.GetTopicRequest{Name: "/topics/only-"})
			refused(err, connect.CodeInvalidArgument)
			_, err = adminv1connect.NewCredentialServiceClient(client, f.APIURL()).ListCredentials(ctx, &adminv1.ListCredentialsRequest{Parent: "logicalClusters/" + other})
			refused(err)
			header := &http.Client{Transport: inCluster{other, client.Transport}}
			_, err = braidv1connect.NewConsumerServiceClient(header, f.APIURL()).GetTopicInfo(ctx, &braidv1.GetTopicInfoRequest{Topic: "orders"})
			refused(err)
		}
		if parent == "" {
			continue
		}
		_, err = topics.ListExtents(ctx, &adminv1.ListExtentsRequest{Parent: "logicalClusters/" + parent + "/topics/orders"})
		refused(err)
		_, err = adminv1connect.NewClusterServiceClient(client, f.APIURL()).ListClusters(ctx, &adminv1.ListClustersRequest{})
		refused(err)
		_, err = adminv1connect.NewTenantServiceClient(client, f.APIURL()).ListTenants(ctx, &adminv1.ListTenantsRequest{})
		refused(err)
	}
	// Who may do everything chooses.
	operator := &http.Client{Transport: inCluster{"acme", f.Client.Transport}}
	info, err := braidv1connect.NewConsumerServiceClient(operator, f.APIURL()).GetTopicInfo(ctx, &braidv1.GetTopicInfoRequest{Topic: "only-acme"})
	require.NoError(t, err)
	require.Equal(t, int32(1), info.GetPartitionCount())
	_, err = braidv1connect.NewConsumerServiceClient(operator, f.APIURL()).GetTopicInfo(ctx, &braidv1.GetTopicInfoRequest{Topic: "only-beta"})
	refused(err)
}

func kadmAddress(b kadm.BrokerDetail) string {
	return net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
}
