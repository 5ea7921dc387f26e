package embedded_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	namingv1 "github.com/braidmq/braid/gen/braid/naming/v1"
	"github.com/braidmq/braid/gen/braid/naming/v1/namingv1connect"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
)

// Clients of a tenant begin at the name service, or at its Kafka bootstrap, and end at the
// tenant's gateways; they learn of no other tenant.
func TestNameServiceKnowsTenants(t *testing.T) {
	f := embedded.New(t, embedded.Options{Gateways: 2, NameServers: 1, Brokers: 1, FleetToken: fleetToken, Configure: func(c *process.Config, _ int) {
		if c.Role == process.Controller {
			return
		}
		c.Tenants, c.Access.SaslMechanisms = true, []string{"SCRAM-SHA-256"}
		c.Authorization = process.Authorization{Authorizer: process.AuthorizerACL, AllowIfNoACL: true, SuperUsers: []string{"User:root"}}
		if c.Role == process.Gateway {
			c.TenantKafkaListen = map[string]string{"acme": "127.0.0.1:0"}
		}
	}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	createTenants(t, f, "acme", "beta")
	secrets, tokens := map[string]string{}, map[string]string{}
	for _, tenant := range []string{"", "acme", "beta"} {
		req := &adminv1.CreateCredentialRequest{User: "alice"}
		if tenant != "" {
			req.Parent = "logicalClusters/" + tenant
		}
		made, err := adminv1connect.NewCredentialServiceClient(f.Client, f.APIURL()).CreateCredential(ctx, req)
		require.NoError(t, err)
		secrets[tenant], tokens[tenant] = made.GetSecret(), made.GetBearerToken()
	}
	common, own := map[string]bool{}, map[string]bool{}
	for _, g := range f.Gateways() {
		common[g.KafkaAddress()], own[g.TenantKafkaAddress("acme")] = true, true
	}
	server := f.NameServers()[0]
	resolve := func(client *http.Client, logical string) ([]string, error) {
		res, err := namingv1connect.NewNameServiceClient(client, server.URL()).Resolve(ctx, &namingv1.ResolveRequest{ClientId: "c", LogicalCluster: logical, Protocol: namingv1.Protocol_PROTOCOL_KAFKA})
		var out []string
		for _, e := range res.GetEndpoints() {
			out = append(out, e.GetAddress())
		}
		return out, err
	}
	acme := as(t, "Bearer "+tokens["acme"])
	require.Eventually(t, func() bool { _, err := resolve(acme, ""); return err == nil }, 10*time.Second, 10*time.Millisecond)
	for _, logical := range []string{"", "acme"} {
		got, err := resolve(acme, logical)
		require.NoError(t, err)
		require.NotEmpty(t, got)
		for _, address := range got {
			require.True(t, own[address], address)
		}
	}
	got, err := resolve(as(t, "Bearer "+tokens["beta"]), "") // whose clients come to the common listener
	require.NoError(t, err)
	for _, address := range got {
		require.True(t, common[address], address)
	}
	for _, other := range []string{"beta", "default", "ghost"} {
		_, err = resolve(acme, other)
		require.ErrorContains(t, err, "does not exist")
	}
	// By the header, for who may do everything; nobody else learns which tenants there are.
	_, err = adminv1connect.NewAclServiceClient(f.Client, f.APIURL()).CreateAcls(ctx, &adminv1.CreateAclsRequest{Acls: []*adminv1.Acl{{
		ResourceType: adminv1.Acl_RESOURCE_TYPE_CLUSTER, ResourceName: "kafka-cluster", Principal: "User:root", Operation: adminv1.Acl_OPERATION_ALTER,
	}}})
	require.NoError(t, err)
	plain := as(t, "Bearer "+tokens[""]).Transport
	require.Eventually(t, func() bool {
		_, err := resolve(&http.Client{Transport: inCluster{"acme", plain}}, "")
		return err != nil
	}, 10*time.Second, 10*time.Millisecond, "the name service has the ACL")
	operator := &http.Client{Transport: inCluster{"acme", f.Client.Transport}}
	got, err = resolve(operator, "")
	require.NoError(t, err)
	require.True(t, own[got[0]])
	for _, tenant := range []string{"acme", "ghost"} {
		_, err = resolve(&http.Client{Transport: inCluster{tenant, plain}}, "")
		require.ErrorContains(t, err, "is not served here")
	}

	ids := map[string]bool{}
	for tenant, login := range map[string]string{"": "alice", "acme": "acme/alice", "beta": "beta/alice"} {
		auth := scram.Auth{User: login, Pass: secrets[tenant]}
		client, err := kgo.NewClient(kgo.SeedBrokers(server.BootstrapAddress()), kgo.SASL(auth.AsSha256Mechanism()), kgo.AllowAutoTopicCreation(),
			kgo.DefaultProduceTopic("orders"), kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		require.NoError(t, err)
		defer client.Close()
		_, err = kadm.NewClient(client).CreateTopic(ctx, 1, 1, nil, "orders")
		require.NoError(t, err, login)
		require.NoError(t, client.ProduceSync(ctx, kgo.StringRecord("of "+login)).FirstErr(), login)
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		require.Equal(t, "of "+login, string(fetches.Records()[0].Value))
		metadata, err := kadm.NewClient(client).BrokerMetadata(ctx)
		require.NoError(t, err)
		require.False(t, ids[metadata.Cluster])
		ids[metadata.Cluster] = true
	}
	wrong := scram.Auth{User: "ghost/alice", Pass: secrets["acme"]}
	client, err := kgo.NewClient(kgo.SeedBrokers(server.BootstrapAddress()), kgo.SASL(wrong.AsSha256Mechanism()), kgo.RequestRetries(1))
	require.NoError(t, err)
	defer client.Close()
	require.Error(t, client.Ping(ctx))
}
