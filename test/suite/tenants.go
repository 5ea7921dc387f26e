package suite

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
)

func (s *suite) tenants() []test {
	return []test{
		{"the same names are two things", s.testTenantsAreApart},
		{"changes are the tenant's that began them", s.testTenantOperations},
		{"errors name nothing physical", s.testTenantErrors},
		{"each has what it may have", s.testTenantLimits},
		{"the name service of each names its gateways", s.testTenantNames},
		{"clients begin at its listener of the bootstrap", s.testTenantBootstrap},
		{"drain a cluster under the traffic of all", s.testDrainUnderTenants},
		{"a cluster fails under all, and comes back", s.testFailoverOfTenants},
		{"delete one", s.testDeleteTenant},
	}
}

// tenantClient returns a client of a tenant; the empty one is the deployment's own
// logical cluster.
func (s *suite) tenantClient(t *testing.T, tenant string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	if tenant == "" {
		return s.client(t, opts...)
	}
	var seeds []string
	for _, g := range s.w.Gateways {
		seeds = append(seeds, g.Tenants[tenant])
	}
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(seeds...)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

// inTenant names a logical cluster in a header.
type inTenant struct {
	name string
	next http.RoundTripper
}

func (h inTenant) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Braid-Logical-Cluster", h.name)
	return h.next.RoundTrip(r)
}

var allTenants = []string{"", "acme", "beta"}

func (s *suite) testTenantsAreApart(t *testing.T) {
	topic, group := name(t), name(t)
	ids := make(map[string]bool)
	for _, tenant := range allTenants {
		client := s.tenantClient(t, tenant, kgo.ConsumeTopics(topic), kgo.ConsumerGroup(group), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		admin := kadm.NewClient(client)
		_, err := admin.CreateTopic(call(t), 3, -1, nil, topic)
		require.NoError(t, err)
		_, err = admin.CreateTopic(call(t), 1, -1, nil, topic+"-only-"+tenant)
		require.NoError(t, err)
		for i := range 20 {
			send(t, client, &kgo.Record{Topic: topic, Key: fmt.Append(nil, i), Value: fmt.Appendf(nil, "%s %d", tenant, i)})
		}
		for _, r := range poll(t, client, 20) {
			require.True(t, strings.HasPrefix(string(r.Value), tenant+" "), "%q reads %q", tenant, r.Value)
		}
		require.NoError(t, client.CommitUncommittedOffsets(call(t)))
		b := kadm.NewACLs().Topics(topic).Allow("User:" + tenant + "-only").AllowHosts().Operations(kadm.OpRead).ResourcePatternType(kadm.ACLPatternLiteral)
		made, err := admin.CreateACLs(call(t), b)
		require.NoError(t, err)
		require.NoError(t, made[0].Err)
	}
	for _, tenant := range allTenants {
		admin := kadm.NewClient(s.tenantClient(t, tenant))
		acls, err := admin.DescribeACLs(call(t), kadm.NewACLs().Topics(topic).Allow().AllowHosts().Operations(kadm.OpAny).ResourcePatternType(kadm.ACLPatternAny))
		require.NoError(t, err)
		require.Len(t, acls[0].Described, 1)
		require.Equal(t, "User:"+tenant+"-only", acls[0].Described[0].Principal)
		_, err = admin.DeleteACLs(call(t), kadm.NewACLs().Topics(topic).Allow().AllowHosts().Operations(kadm.OpAny).ResourcePatternType(kadm.ACLPatternAny))
		require.NoError(t, err)
		topics, err := admin.ListTopics(call(t))
		require.NoError(t, err)
		for _, other := range allTenants {
			require.Equal(t, other == tenant, topics.Has(topic+"-only-"+other), "%q sees the topic of %q", tenant, other)
		}
		for _, of := range topics.Names() {
			require.NotContains(t, of, "/")
		}
		listed, err := admin.ListGroups(call(t))
		require.NoError(t, err)
		require.Contains(t, listed.Groups(), group)
		if tenant != "" {
			require.Equal(t, []string{group}, listed.Groups())
		}
		offsets, err := admin.FetchOffsets(call(t), group)
		require.NoError(t, err)
		var sum int64
		offsets.Each(func(o kadm.OffsetResponse) { sum += o.At })
		require.Equal(t, int64(20), sum)
		metadata, err := admin.BrokerMetadata(call(t))
		require.NoError(t, err)
		require.False(t, ids[metadata.Cluster], "two logical clusters have one id")
		ids[metadata.Cluster] = true
		ends, err := admin.ListEndOffsets(call(t), "acme/"+topic, "default/"+topic)
		require.True(t, err != nil || ends.Error() != nil, "a qualified name reaches a topic")
	}
	s.w.MustBraid(t, "by hand\n", "produce", topic, "--logical-cluster", "acme")
	require.Contains(t, s.w.MustBraid(t, "", "consume", topic, "--logical-cluster", "acme", "--from", "earliest", "-n", "21"), "by hand")
	require.Contains(t, s.w.MustBraid(t, "", "group", "list", "--logical-cluster", "acme"), group)
	transport := s.w.Client.Transport
	for _, tenant := range []string{"acme", "beta"} {
		client := braidv1connect.NewConsumerServiceClient(&http.Client{Transport: inTenant{tenant, transport}}, s.w.API())
		_, err := client.GetTopicInfo(call(t), &braidv1.GetTopicInfoRequest{Topic: topic + "-only-" + tenant})
		require.NoError(t, err)
		_, err = client.GetTopicInfo(call(t), &braidv1.GetTopicInfoRequest{Topic: topic + "-only-"})
		require.ErrorContains(t, err, "does not exist")
	}
}

// A cluster belongs to the deployment: its drain moves the heads of all tenants, and
// loses and doubles nothing.
func (s *suite) testDrainUnderTenants(t *testing.T) {
	topic := name(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, len(allTenants))
	sent := make([]atomic.Int64, len(allTenants))
	for i, tenant := range allTenants {
		client := s.tenantClient(t, tenant)
		_, err := kadm.NewClient(client).CreateTopic(call(t), 4, -1, nil, topic)
		require.NoError(t, err)
		go func() {
			for ctx.Err() == nil {
				n := sent[i].Load()
				if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: fmt.Append(nil, n), Value: fmt.Appendf(nil, "%s %d", tenant, n)}).FirstErr(); err != nil {
					ended <- err
					return
				}
				sent[i].Add(1)
			}
			ended <- nil
		}()
	}
	moving := func(least int64) func() bool {
		var from [3]int64
		for i := range sent {
			from[i] = sent[i].Load()
		}
		return func() bool {
			for i := range sent {
				if sent[i].Load() < from[i]+least {
					return false
				}
			}
			return true
		}
	}
	eventually(t, moving(20), "no records before the drain")
	s.w.MustBraid(t, "", "cluster", "drain", "a")
	eventually(t, moving(20), "no records after the drain")
	for _, tenant := range []string{"default", "acme", "beta"} {
		out := s.w.MustBraid(t, "", "topic", "describe", topic, "--logical-cluster", tenant)
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 4 && f[3] == "open" {
				require.Equal(t, "b", f[4], "%s: %s", tenant, line)
			}
		}
	}
	s.w.MustBraid(t, "", "cluster", "restore", "a")
	stop()
	for range allTenants {
		require.NoError(t, <-ended)
	}
	for i, tenant := range allTenants {
		client := s.tenantClient(t, tenant, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		seen := make(map[string]bool)
		for _, r := range poll(t, client, int(sent[i].Load())) {
			require.True(t, strings.HasPrefix(string(r.Value), tenant+" "), "%q reads %q", tenant, r.Value)
			require.False(t, seen[string(r.Value)], "%q reads %q twice", tenant, r.Value)
			seen[string(r.Value)] = true
		}
	}
}

func (s *suite) testDeleteTenant(t *testing.T) {
	topic := name(t)
	open := s.tenantClient(t, "beta")
	_, err := kadm.NewClient(open).CreateTopic(call(t), 2, -1, nil, topic)
	require.NoError(t, err)
	send(t, open, &kgo.Record{Topic: topic, Value: []byte("old")})
	require.Contains(t, s.w.MustBraid(t, "", "tenant", "list"), "beta")
	s.w.MustBraid(t, "", "tenant", "delete", "beta", "--force")
	require.NotContains(t, s.w.MustBraid(t, "", "tenant", "list"), "beta")
	require.Error(t, s.tenantClient(t, "beta", kgo.RequestRetries(1)).Ping(short(t)))
	send(t, s.tenantClient(t, "acme", kgo.AllowAutoTopicCreation()), &kgo.Record{Topic: topic, Value: []byte("another's")})

	s.w.MustBraid(t, "", "tenant", "create", "beta", "--description", "a new life")
	require.Contains(t, s.w.MustBraid(t, "", "tenant", "describe", "beta"), "a new life")
	fresh := s.tenantClient(t, "beta", kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	admin := kadm.NewClient(fresh)
	topics, err := admin.ListTopics(call(t))
	require.NoError(t, err)
	require.Empty(t, topics.Names())
	listed, err := admin.ListGroups(call(t))
	require.NoError(t, err)
	require.Empty(t, listed)
	_, err = admin.CreateTopic(call(t), 2, -1, nil, topic)
	require.NoError(t, err)
	send(t, fresh, &kgo.Record{Topic: topic, Value: []byte("new")})
	require.Equal(t, "new", string(poll(t, fresh, 1)[0].Value))
}
