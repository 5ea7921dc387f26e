package embedded_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/gen/braid/control/v1/controlv1connect"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
)

var fleetToken = strings.Repeat("fleet-token-", 3)

// A header is a transport that sets the header authorization.
type header struct {
	value string
	next  http.RoundTripper
}

func (h header) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if h.value != "" {
		r.Header.Set("Authorization", h.value)
	}
	return h.next.RoundTrip(r)
}

// as is a client that sends a header authorization; empty = none.
func as(t *testing.T, value string) *http.Client {
	t.Helper()
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: p}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: header{value, transport}}
}

func guarded(t *testing.T) *embedded.Federation {
	t.Helper()
	return embedded.New(t, embedded.Options{Gateways: 2, NameServers: 1, Brokers: 1, FleetToken: fleetToken, Configure: func(c *process.Config, _ int) {
		if c.Role != process.Controller {
			c.Access.ConnectRequired, c.Access.SaslMechanisms = true, []string{"SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"}
		}
	}})
}

func requireUnauthenticated(t *testing.T, err error) {
	t.Helper()
	require.Equal(t, connect.CodeUnauthenticated, connect.CodeOf(err), "%v", err)
}

// Both doors ask who a client is; what is behind them goes on as ever.
func TestDoorsAskWhoClientsAre(t *testing.T) {
	f := guarded(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	operator := adminv1connect.NewCredentialServiceClient(f.Client, f.APIURL())
	alice, err := operator.CreateCredential(ctx, &adminv1.CreateCredentialRequest{User: "alice"})
	require.NoError(t, err)

	for _, auth := range []string{"", "Bearer x", "Bearer " + alice.GetBearerToken() + "x", "Basic x", "Digest x"} {
		_, err := adminv1connect.NewCredentialServiceClient(as(t, auth), f.APIURL()).ListCredentials(ctx, &adminv1.ListCredentialsRequest{})
		requireUnauthenticated(t, err)
		_, err = braidv1connect.NewConsumerServiceClient(as(t, auth), f.APIURL()).GetTopicInfo(ctx, &braidv1.GetTopicInfoRequest{Topic: "orders"})
		requireUnauthenticated(t, err)
	}
	bearer := as(t, "Bearer "+alice.GetBearerToken())
	_, err = adminv1connect.NewTopicServiceClient(bearer, f.APIURL()).CreateTopic(ctx, &adminv1.CreateTopicRequest{TopicId: "orders", Topic: &adminv1.Topic{PartitionCount: 4}})
	require.NoError(t, err)
	basic, err := http.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
	require.NoError(t, err)
	basic.SetBasicAuth("alice", alice.GetSecret())
	_, err = braidv1connect.NewProducerServiceClient(as(t, basic.Header.Get("Authorization")), f.APIURL()).ProduceBatch(ctx,
		&braidv1.ProduceBatchRequest{Batch: &braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{{Value: []byte("by basic")}}}})
	require.NoError(t, err)

	// What only processes of the fleet call, and the controller's port, are closed to users.
	_, err = controlv1connect.NewRelayServiceClient(bearer, f.APIURL()).Call(ctx, &controlv1.CallRequest{})
	requireUnauthenticated(t, err)
	_, err = adminv1connect.NewFleetServiceClient(bearer, f.Controllers()[0].URL()).GetStatus(ctx, &adminv1.GetStatusRequest{})
	requireUnauthenticated(t, err)
	_, err = adminv1connect.NewFleetServiceClient(bearer, f.APIURL()).GetStatus(ctx, &adminv1.GetStatusRequest{})
	require.NoError(t, err)

	testKafkaWithSasl(ctx, t, f, alice.GetSecret())
}

func testKafkaWithSasl(ctx context.Context, t *testing.T, f *embedded.Federation, secret string) {
	t.Helper()
	open, err := kgo.NewClient(kgo.SeedBrokers(f.KafkaAddresses()...), kgo.RequestRetries(1))
	require.NoError(t, err)
	defer open.Close()
	require.Error(t, open.Ping(ctx))

	bootstrap := f.NameServers()[0].BootstrapAddress()
	cl, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.SASL(scram.Auth{User: "alice", Pass: secret}.AsSha512Mechanism()),
		kgo.DefaultProduceTopic("orders"), kgo.ConsumerGroup("readers"), kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer cl.Close()
	require.NoError(t, cl.ProduceSync(ctx, kgo.StringRecord("by scram")).FirstErr())
	for n := 0; n < 2; {
		fetched := cl.PollFetches(ctx)
		require.NoError(t, fetched.Err())
		n += fetched.NumRecords()
	}
	// Users by Kafka's API, and the change is there at every gateway.
	_, err = kadm.NewClient(cl).AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: "bob", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: "pw"}})
	require.NoError(t, err)
	for _, address := range append(f.KafkaAddresses(), bootstrap) {
		bob, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.SASL(plain.Auth{User: "bob", Pass: "pw"}.AsMechanism()))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return bob.Ping(ctx) == nil }, 10*time.Second, 10*time.Millisecond, address)
		bob.Close()
	}
	carol, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.SASL(plain.Auth{User: "bob", Pass: "wrong"}.AsMechanism()))
	require.NoError(t, err)
	defer carol.Close()
	require.ErrorIs(t, carol.Ping(ctx), kerr.SaslAuthenticationFailed)
}

// A stream ends when the credential that it was opened with is revoked; those of
// others, and memberships that are relayed between gateways, go on.
func TestRevokedCredentialsEndStreams(t *testing.T) {
	f := guarded(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	operator := adminv1connect.NewCredentialServiceClient(f.Client, f.APIURL())
	tokens := make(map[string]string)
	for _, user := range []string{"alice", "bob"} {
		resp, err := operator.CreateCredential(ctx, &adminv1.CreateCredentialRequest{User: user})
		require.NoError(t, err)
		tokens[user] = "Bearer " + resp.GetBearerToken()
	}
	_, err := adminv1connect.NewTopicServiceClient(f.Client, f.APIURL()).CreateTopic(ctx, &adminv1.CreateTopicRequest{TopicId: "orders", Topic: &adminv1.Topic{PartitionCount: 1}})
	require.NoError(t, err)

	type reader struct {
		*connect.BidiStreamForClientSimple[braidv1.ConsumeRequest, braidv1.ConsumeResponse]
		gateway int
	}
	subscribe := func(user, group string, gateway int) reader {
		s, err := braidv1connect.NewConsumerServiceClient(as(t, tokens[user]), f.Gateway(gateway).URL()).Consume(ctx)
		require.NoError(t, err)
		require.NoError(t, s.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: &braidv1.Subscribe{Group: group, Topics: []string{"orders"}}}}))
		frame, err := s.Receive()
		require.NoError(t, err)
		require.NotNil(t, frame.GetSubscribed())
		return reader{s, gateway}
	}
	// One of the two gateways does not coordinate the group: its member is relayed.
	var ending, staying []reader
	for gateway := range 2 {
		ending, staying = append(ending, subscribe("alice", "g", gateway)), append(staying, subscribe("bob", "h", gateway))
	}
	produce, err := braidv1connect.NewProducerServiceClient(as(t, tokens["alice"]), f.APIURL()).Produce(ctx)
	require.NoError(t, err)
	require.NoError(t, produce.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{}}}))
	_, err = produce.Receive()
	require.NoError(t, err)

	_, err = operator.RevokeCredential(ctx, &adminv1.RevokeCredentialRequest{User: "alice"})
	require.NoError(t, err)
	last := func(receive func() error) error {
		for {
			if err := receive(); err != nil {
				return err
			}
		}
	}
	for _, r := range ending {
		requireUnauthenticated(t, last(func() error { _, err := r.Receive(); return err }))
	}
	requireUnauthenticated(t, last(func() error { _, err := produce.Receive(); return err }))
	for _, r := range staying {
		require.NoError(t, r.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Leave{Leave: &braidv1.Leave{}}}))
		for {
			frame, err := r.Receive()
			require.NoError(t, err)
			if frame.GetClosed() != nil {
				break
			}
		}
	}
}
