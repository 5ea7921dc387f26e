//go:build real

package kafkacompat_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
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

// TestRealACLsDecideAlike gives StandardAuthorizer and a gateway the same ACLs,
// made up at random, and compares all rights of a user.
func TestRealACLsDecideAlike(t *testing.T) {
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
		got := rightsOf(t, func(req kmsg.Request, version int16) kmsg.Response {
			return exchange[kmsg.Response](ours, req, version)
		})
		want := rightsOf(t, theirs)
		for until := time.Now().Add(5 * time.Second); !maps.Equal(got, want) && time.Now().Before(until); { // the broker follows its controller
			<-time.After(20 * time.Millisecond)
			want = rightsOf(t, theirs)
		}
		require.Equal(t, want, got, "seed %d: %v", seed, acls)
		different[fmt.Sprint(want)] = true
		rootAlike(t, root, w, r)
		remove.Filters = []kmsg.DeleteACLsRequestFilter{{ResourceType: 1, ResourcePatternType: 1, Operation: 1, PermissionType: 1}}
		_, err = remove.RequestWith(t.Context(), root)
		require.NoError(t, err)
	}
	require.Greater(t, len(different), 20, "most ACLs give other rights")
}

// rootAlike asks both for ACLs by filters, and both to make ACLs that are wrong in some way,
// and requires the same answers. Texts of errors differ.
func rootAlike(t *testing.T, root *kgo.Client, w *world, r *rand.Rand) {
	t.Helper()
	pick := func(of ...string) *string {
		if i := r.IntN(len(of) + 1); i < len(of) {
			return &of[i]
		}
		return nil
	}
	ours := dial(t, w.listen("root"))
	listed := func(resp kmsg.Response) (out []string) {
		d := resp.(*kmsg.DescribeACLsResponse)
		out = append(out, fmt.Sprint(kerr.ErrorForCode(d.ErrorCode)))
		for _, res := range d.Resources {
			for _, a := range res.ACLs {
				out = append(out, fmt.Sprint(res.ResourceType, res.ResourcePatternType, res.ResourceName, a.Principal, a.Host, a.Operation, a.PermissionType))
			}
		}
		slices.Sort(out)
		return out
	}
	for range 10 {
		f := kmsg.NewPtrDescribeACLsRequest()
		f.ResourceType, f.ResourcePatternType = kmsg.ACLResourceType(1+r.IntN(4)), kmsg.ACLResourcePatternType(1+r.IntN(4))
		f.ResourceName, f.Principal, f.Host = pick("orders", "orders.eu", "*", "bill", "billing"), pick("User:alice", "User:*"), pick("*", "127.0.0.1")
		f.Operation, f.PermissionType = kmsg.ACLOperation(1+r.IntN(4)), kmsg.ACLPermissionType(1+r.IntN(3))
		theirs, err := f.RequestWith(t.Context(), root)
		require.NoError(t, err)
		require.Equal(t, listed(theirs), listed(exchange[*kmsg.DescribeACLsResponse](ours, f, 3)), "%+v", f)
	}
	good := kmsg.CreateACLsRequestCreation{ResourceType: 2, ResourceName: "x", ResourcePatternType: 3, Principal: "User:x", Host: "*", Operation: 3, PermissionType: 3}
	for _, spoil := range []func(*kmsg.CreateACLsRequestCreation){
		func(c *kmsg.CreateACLsRequestCreation) { c.ResourceType = 1 },
		func(c *kmsg.CreateACLsRequestCreation) { c.ResourcePatternType = 2 },
		func(c *kmsg.CreateACLsRequestCreation) { c.ResourceName = "" },
		func(c *kmsg.CreateACLsRequestCreation) { c.ResourceType, c.ResourceName = 4, "mine" },
		func(c *kmsg.CreateACLsRequestCreation) { c.Principal = "alice" },
		func(c *kmsg.CreateACLsRequestCreation) { c.Operation = 1 },
		func(c *kmsg.CreateACLsRequestCreation) { c.PermissionType = 1 },
	} {
		c := good
		spoil(&c)
		bad := kmsg.NewPtrCreateACLsRequest()
		bad.Creations = []kmsg.CreateACLsRequestCreation{c}
		theirs, err := bad.RequestWith(t.Context(), root)
		require.NoError(t, err)
		want := theirs.Results[0].ErrorCode
		require.NotZero(t, want, "%+v", c)
		if want == kerr.UnknownServerError.Code { // what a broker has no words for is as wrong
			want = kerr.InvalidRequest.Code
		}
		require.Equal(t, want, exchange[*kmsg.CreateACLsResponse](ours, bad, 3).Results[0].ErrorCode, "%+v", c)
	}
}
