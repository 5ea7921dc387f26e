//go:build real

package kafkacompat_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/test/realparts"
)

var (
	aclTopics = []string{"orders", "orders.eu", "secret"}
	aclGroups = []string{"billing", "bills"}
)

// randomACL makes an ACL that may speak of the topics and groups above, and of alice.
func randomACL(r *rand.Rand) *federation.ACL {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	a := &federation.ACL{
		Principal: pick("User:alice", "User:alice", "User:*", "User:bob"), Host: pick("*", "*", "127.0.0.1", "10.9.9.9"),
		Operation: federation.ACLAll + federation.ACLOperation(r.IntN(int(federation.ACLIdempotentWrite-federation.ACLAll)+1)),
		Pattern:   federation.ACLLiteral + federation.ACLPattern(r.IntN(2)), Permission: federation.ACLAllow,
	}
	if r.IntN(3) == 0 {
		a.Permission = federation.ACLDeny
	}
	switch r.IntN(5) {
	case 0:
		a.Resource, a.Name, a.Pattern = federation.ACLCluster, federation.ACLClusterName, federation.ACLLiteral
	case 1:
		a.Resource, a.Name = federation.ACLGroup, pick("*", "b", "bill", "billing", "bills", "x")
	default:
		a.Resource, a.Name = federation.ACLTopic, pick("*", "o", "orders", "orders.", "orders.eu", "s", "secret", "x")
	}
	return a
}

// rights are what a client may do, by what it is about, as answers tell it.
type rights map[string]string

func (r rights) note(what string, code int16, operations int32) {
	r[what] = fmt.Sprintf("%v %#x", kerr.ErrorForCode(code), operations)
}

// rightsOf asks for all rights, by a function that sends requests.
func rightsOf(t *testing.T, ask func(kmsg.Request, int16) kmsg.Response) rights {
	t.Helper()
	out := make(rights)
	md := askMetadata(aclTopics...)
	md.IncludeTopicAuthorizedOperations = true
	for _, topic := range ask(md, 12).(*kmsg.MetadataResponse).Topics {
		out.note("topic "+*topic.Topic, topic.ErrorCode, topic.AuthorizedOperations)
	}
	groups := kmsg.NewPtrDescribeGroupsRequest()
	groups.Groups, groups.IncludeAuthorizedOperations = aclGroups, true
	for _, g := range ask(groups, 5).(*kmsg.DescribeGroupsResponse).Groups {
		out.note("group "+g.Group, g.ErrorCode, g.AuthorizedOperations)
	}
	cluster := kmsg.NewPtrDescribeClusterRequest()
	cluster.IncludeClusterAuthorizedOperations, cluster.EndpointType = true, 1
	c := ask(cluster, 1).(*kmsg.DescribeClusterResponse)
	out.note("cluster", c.ErrorCode, c.ClusterAuthorizedOperations)
	id := kmsg.NewPtrInitProducerIDRequest()
	id.ProducerID, id.ProducerEpoch = -1, -1
	out.note("producer id", ask(id, 4).(*kmsg.InitProducerIDResponse).ErrorCode, 0)
	return out
}

// TestACLsDecideAsARealBrokerDoes gives StandardAuthorizer and a gateway the same ACLs,
// made up at random, and compares all rights of a user.
func TestACLsDecideAsARealBrokerDoes(t *testing.T) {
	authority := realparts.NewAuthority(t)
	broker := realparts.StartSecureKafka(t, 512, authority, "alice", "alice-secret", time.Hour, "acls")[0]
	root, err := kgo.NewClient(kgo.SeedBrokers(broker.Seed))
	require.NoError(t, err)
	t.Cleanup(root.Close)
	pem, err := os.ReadFile(authority.CA)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(pem))
	alice, err := kgo.NewClient(kgo.SeedBrokers(broker.SASL), kgo.DialTLSConfig(&tls.Config{RootCAs: pool}),
		kgo.SASL(scram.Auth{User: "alice", Pass: "alice-secret"}.AsSha256Mechanism()))
	require.NoError(t, err)
	t.Cleanup(alice.Close)
	w := newGuarded(t)
	w.create("orders.eu", 1, nil)
	admin := kadm.NewClient(root)
	_, err = admin.CreateTopics(t.Context(), 1, 1, nil, aclTopics...)
	require.NoError(t, err)
	ours := dial(t, w.listen("root"))
	for _, group := range aclGroups {
		var offsets kadm.Offsets
		offsets.AddOffset("orders", 0, 1, -1)
		require.Eventually(t, func() bool { return admin.CommitAllOffsets(t.Context(), group, offsets) == nil }, 60*time.Second, 100*time.Millisecond)
		commitAs(ours, group)
	}
	ours = dial(t, w.listen("alice"))
	theirs := func(req kmsg.Request, _ int16) kmsg.Response {
		resp, err := alice.Broker(1).Request(t.Context(), req)
		require.NoError(t, err)
		return resp
	}
	require.NoError(t, alice.Ping(t.Context())) // to know the broker
	different := make(map[string]bool)
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 7))
		var acls []*federation.ACL
		create, remove := kmsg.NewPtrCreateACLsRequest(), kmsg.NewPtrDeleteACLsRequest()
		for range 1 + r.IntN(6) {
			a := randomACL(r)
			acls = append(acls, a)
			create.Creations = append(create.Creations, kmsg.CreateACLsRequestCreation{
				ResourceType: kmsg.ACLResourceType(a.Resource), ResourceName: a.Name, ResourcePatternType: kmsg.ACLResourcePatternType(a.Pattern),
				Principal: a.Principal, Host: a.Host, Operation: kmsg.ACLOperation(a.Operation), PermissionType: kmsg.ACLPermissionType(a.Permission),
			})
		}
		made, err := create.RequestWith(t.Context(), root)
		require.NoError(t, err)
		for i, m := range made.Results {
			require.Zero(t, m.ErrorCode, "%s: %v", acls[i], m.ErrorMessage)
		}
		w.revokeAll()
		w.Change(func(m *federation.Map) { m.ACLs = planner.WithACLs(m, acls, nil).ACLs })
		want := rightsOf(t, func(req kmsg.Request, version int16) kmsg.Response {
			return exchange[kmsg.Response](ours, req, version)
		})
		got := rightsOf(t, theirs)
		for until := time.Now().Add(5 * time.Second); !maps.Equal(got, want) && time.Now().Before(until); { // the broker follows its controller
			<-time.After(20 * time.Millisecond)
			got = rightsOf(t, theirs)
		}
		require.Equal(t, got, want, "seed %d: %v", seed, acls)
		different[fmt.Sprint(want)] = true
		remove.Filters = []kmsg.DeleteACLsRequestFilter{{ResourceType: 1, ResourcePatternType: 1, Operation: 1, PermissionType: 1}}
		_, err = remove.RequestWith(t.Context(), root)
		require.NoError(t, err)
	}
	require.Greater(t, len(different), 20, "most ACLs give other rights")
}
