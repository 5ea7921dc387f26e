package embedded_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
	"github.com/braidmq/braid/internal/security"
	"github.com/braidmq/braid/test/realparts"
)

// brokersOf returns the addresses that a client is told of, when there are so many.
func brokersOf(t *testing.T, client *kgo.Client, count int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	for {
		res, err := client.SeedBrokers()[0].Request(ctx, kmsg.NewPtrMetadataRequest())
		require.NoError(t, err, "%d gateways are wanted", count)
		var all []string
		for _, b := range res.(*kmsg.MetadataResponse).Brokers { //nolint:forcetypeassert // it is the answer to that request
			all = append(all, fmt.Sprintf("%s:%d", b.Host, b.Port))
		}
		if len(all) == count {
			return all
		}
	}
}

// Clients that come to the bootstrap's listener of a tenant go on at the tenant's listeners
// of the gateways. One without such a listener is not there for them: at its common one they
// would be users of the deployment's own.
func TestBootstrapListenersOfTenants(t *testing.T) {
	f := embedded.New(t, embedded.Options{Gateways: 2, NameServers: 1, Brokers: 1, FleetToken: fleetToken, Configure: func(c *process.Config, index int) {
		if c.Role == process.Controller {
			return
		}
		c.Tenants, c.Access.SaslMechanisms = true, []string{"SCRAM-SHA-256"}
		c.AutoCreateTopics = true
		if c.Role == process.NameServer {
			c.TenantBootstrapListen = map[string]string{"acme": "127.0.0.1:0", "beta": "127.0.0.1:0", "none": "127.0.0.1:0", "ghost": "127.0.0.1:0"}
			return
		}
		c.TenantKafkaListen = map[string]string{"acme": "127.0.0.1:0"}
		if index == 0 {
			c.TenantKafkaListen["beta"] = "127.0.0.1:0"
		}
	}})
	createTenants(t, f, "acme", "beta", "none")
	secrets := map[string]string{}
	for _, tenant := range []string{"acme", "beta", "none"} {
		made, err := adminv1connect.NewCredentialServiceClient(f.Client, f.APIURL()).CreateCredential(t.Context(), &adminv1.CreateCredentialRequest{User: "alice", Parent: "logicalClusters/" + tenant})
		require.NoError(t, err)
		secrets[tenant] = made.GetSecret()
	}
	server, gateways := f.NameServers()[0], f.Gateways()
	own := func(tenant string) (all []string) {
		for _, g := range gateways {
			if a := g.TenantKafkaAddress(tenant); a != "" {
				all = append(all, a)
			}
		}
		return all
	}
	ids := map[string]string{}
	for _, c := range []struct {
		tenant, user string
		want         []string
	}{
		{"acme", "alice", own("acme")},
		{"acme", "acme/alice", own("acme")},
		{"beta", "alice", []string{gateways[0].TenantKafkaAddress("beta")}},
		{"beta", "beta/alice", []string{gateways[0].TenantKafkaAddress("beta")}}, // by SCRAM it is alice who is known
		{"none", "alice", nil},
	} {
		what := fmt.Sprintf("%s at the listener of %s", c.user, c.tenant)
		auth := scram.Auth{User: c.user, Pass: secrets[c.tenant]}
		client, err := kgo.NewClient(kgo.SeedBrokers(server.TenantKafkaAddress(c.tenant)), kgo.SASL(auth.AsSha256Mechanism()), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("orders"))
		require.NoError(t, err)
		defer client.Close()
		require.ElementsMatch(t, c.want, brokersOf(t, client, len(c.want)), what)
		if len(c.want) == 0 {
			continue
		}
		metadata, err := kadm.NewClient(client).BrokerMetadata(t.Context())
		require.NoError(t, err)
		ids[c.tenant] = metadata.Cluster
		for i := range 8 { // at whatever gateway leads
			require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Partition: int32(i % 4), Value: []byte(c.user)}).FirstErr(), what)
		}
	}
	require.Len(t, ids, 2)
	require.NotEqual(t, ids["acme"], ids["beta"])
	topics, err := adminv1connect.NewTopicServiceClient(f.Client, f.APIURL()).ListTopics(t.Context(), &adminv1.ListTopicsRequest{})
	require.NoError(t, err)
	for _, topic := range topics.GetTopics() {
		require.NotContains(t, topic.GetName(), "logicalClusters/default/", "a record of a tenant went to the deployment's own")
	}
	// Nobody is let in by the listener of another tenant, or of one that is not there.
	for tenant, user := range map[string]string{"beta": "acme/alice", "ghost": "alice"} {
		wrong := scram.Auth{User: user, Pass: secrets["acme"]}
		client, err := kgo.NewClient(kgo.SeedBrokers(server.TenantKafkaAddress(tenant)), kgo.SASL(wrong.AsSha256Mechanism()), kgo.RequestRetries(1))
		require.NoError(t, err)
		defer client.Close()
		require.Error(t, client.Ping(t.Context()), "%s at the listener of %s", user, tenant)
	}
	// What the bootstrap has for a tenant goes with it.
	_, err = adminv1connect.NewTenantServiceClient(f.Client, f.APIURL()).DeleteTenant(t.Context(), &adminv1.DeleteTenantRequest{Name: "tenants/beta", Force: true})
	require.NoError(t, err)
	auth := scram.Auth{User: "alice", Pass: secrets["beta"]}
	require.Eventually(t, func() bool {
		client, err := kgo.NewClient(kgo.SeedBrokers(server.TenantKafkaAddress("beta")), kgo.SASL(auth.AsSha256Mechanism()), kgo.RequestRetries(0))
		require.NoError(t, err)
		defer client.Close()
		return client.Ping(t.Context()) != nil
	}, 10*time.Second, 20*time.Millisecond)
}

// Who names a tenant in its handshake with the bootstrap is sent to names of gateways that
// do so again.
func TestBootstrapByServerName(t *testing.T) {
	authority := realparts.NewAuthority(t)
	cert, key := authority.Issue(t, "server")
	f := embedded.New(t, embedded.Options{Gateways: 2, NameServers: 1, Brokers: 1, FleetToken: fleetToken, Configure: func(c *process.Config, index int) {
		if c.Role == process.Controller {
			return
		}
		c.Tenants, c.TenantSNI, c.AutoCreateTopics = true, true, true
		c.Access.Kafka = security.TLSFiles{Cert: cert, Key: key, ClientCA: authority.CA, ClientAuth: security.ClientAuthRequested}
		if c.Role == process.NameServer {
			c.BootstrapHost = "boot.test"
			return
		}
		c.KafkaAdvertise = fmt.Sprintf("gw%d.test:9092", index)
	}})
	createTenants(t, f, "acme", "beta")
	// There is no DNS: the last labels of a name lead to a process, and all of it is sent.
	at := map[string]string{"boot.test": f.NameServers()[0].BootstrapAddress()}
	for i, g := range f.Gateways() {
		at[fmt.Sprintf("gw%d.test", i)] = g.KafkaAddress()
	}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		labels := strings.Split(host, ".")
		to := at[strings.Join(labels[max(0, len(labels)-2):], ".")]
		if to == "" {
			return nil, fmt.Errorf("no process has the name %s", host)
		}
		return (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, ServerName: host}}).DialContext(ctx, network, to) // it is about the name that is sent
	}
	for prefix, want := range map[string]string{"": "default", "acme.": "acme", "BETA.": "beta", "ghost.": "nobody"} {
		opts := []kgo.Opt{kgo.SeedBrokers(prefix + "boot.test:9092"), kgo.Dialer(dial), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("orders"), kgo.RecordPartitioner(kgo.ManualPartitioner())}
		require.Equal(t, want, servedBy(t, f, opts...), prefix)
		if want == "nobody" {
			continue
		}
		client, err := kgo.NewClient(opts...)
		require.NoError(t, err)
		defer client.Close()
		lead := strings.ToLower(prefix)
		require.ElementsMatch(t, []string{lead + "gw0.test:9092", lead + "gw1.test:9092"}, brokersOf(t, client, 2))
		for i := range int32(4) {
			require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Partition: i, Value: []byte(want)}).FirstErr())
		}
	}
	for _, tenant := range []string{"default", "acme", "beta"} {
		_, err := adminv1connect.NewTopicServiceClient(f.Client, f.APIURL()).GetTopic(t.Context(), &adminv1.GetTopicRequest{Name: "logicalClusters/" + tenant + "/topics/orders"})
		require.NoError(t, err, tenant)
	}
}
