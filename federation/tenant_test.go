package federation_test

import (
	"maps"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

func tenantTopic(name federation.TopicName, id byte) *federation.Topic {
	return &federation.Topic{Name: name, ID: federation.TopicID{id}, Partitions: []*federation.Partition{{Topic: name}, {Topic: name, Number: 1}}}
}

// splitWorld has the same names in three logical clusters, and what no client may see.
func splitWorld() *federation.Map {
	m := &federation.Map{
		LogicalCluster: "default", ClusterID: "id-default", Version: 7,
		Topics: map[federation.TopicName]*federation.Topic{
			"orders": tenantTopic("orders", 1), "acme/orders": tenantTopic("acme/orders", 2), "acme/only": tenantTopic("acme/only", 3),
			"beta/orders": tenantTopic("beta/orders", 4), "ghost/orders": tenantTopic("ghost/orders", 5),
		},
		Tenants: map[string]*federation.Tenant{
			"acme": {Name: "acme", ClusterID: "id-acme"}, "beta": {Name: "beta", ClusterID: "id-beta", Deleting: true},
		},
		ACLs: make(federation.ACLs), Quotas: make(federation.Quotas), GroupConfigs: make(federation.GroupConfigs), Credentials: make(map[federation.CredentialID]*federation.Credential),
		Gateways: []*federation.Gateway{
			{ID: "g1", KafkaAddress: "one:9092", TenantKafka: federation.NewTenantAddresses(map[string]string{"acme": "one:9192"})},
			{ID: "g2", KafkaAddress: "two:9092", TenantKafka: federation.NewTenantAddresses(map[string]string{"*": "*.two:9092"})},
		},
	}
	for _, tenant := range []string{"", "acme", "beta", "ghost"} {
		a := &federation.ACL{Resource: federation.ACLTopic, Pattern: federation.ACLLiteral, Name: "orders", Principal: "User:alice", Host: "*", Operation: 3, Permission: federation.ACLAllow, Tenant: tenant}
		m.ACLs[a.ID()] = a
		e := federation.QuotaEntity{User: federation.NamedQuota("alice"), Tenant: tenant}
		m.Quotas[e] = &federation.Quota{Entity: e, Values: map[federation.QuotaKey]float64{federation.QuotaRequestRate: float64(1 + len(tenant))}}
		g := federation.GroupID{Group: "billing", Tenant: tenant}
		m.GroupConfigs[g] = &federation.GroupConfig{GroupID: g, Values: map[string]string{federation.GroupSessionTimeout: strconv.Itoa(50000 + len(tenant))}}
		c := federation.CredentialID{User: federation.QualifyUser(tenant, "alice"), Mechanism: federation.ScramSHA256}
		m.Credentials[c] = &federation.Credential{CredentialID: c, Iterations: int32(4096 + len(tenant))}
	}
	return m.Seal()
}

// Each view has what is its own, under plain names, and nothing else.
func TestSplitMap(t *testing.T) {
	s := federation.SplitMap(splitWorld(), nil)
	alice := federation.CredentialID{User: "alice", Mechanism: federation.ScramSHA256}
	for tenant, want := range map[string]struct {
		topics []federation.TopicName
		id     byte // of orders
		one    string
		two    string
		served bool
	}{
		"":     {[]federation.TopicName{"orders"}, 1, "one:9092", "two:9092", true},
		"acme": {[]federation.TopicName{"only", "orders"}, 2, "one:9192", "acme.two:9092", true},
		"beta": {[]federation.TopicName{"orders"}, 4, "one:9092", "beta.two:9092", false},
	} {
		m, served := s.Of(tenant)
		require.Equal(t, want.served, served, tenant)
		require.Equal(t, federation.MapVersion(7), m.Version)
		require.Equal(t, want.topics, m.TopicNames())
		require.Empty(t, m.Tenants)
		topic := m.Topic("orders")
		require.Equal(t, federation.TopicID{want.id}, topic.ID)
		for _, p := range topic.Partitions {
			require.Equal(t, federation.TopicName("orders"), p.Topic)
		}
		for id := range byte(6) { // by id, too, others are not there
			found := m.TopicByID(federation.TopicID{id})
			require.Equal(t, id == want.id || id == 3 && tenant == "acme", found != nil, "%q reaches topic %d", tenant, id)
		}
		require.Equal(t, want.one, m.Gateways[0].KafkaAddress)
		require.Equal(t, want.two, m.Gateways[1].KafkaAddress)
		require.Empty(t, m.Gateways[0].TenantKafka)

		require.Len(t, m.ACLs, 1)
		for id, a := range m.ACLs {
			require.Equal(t, id, a.ID(), "as if it were the only one")
			require.Empty(t, a.Tenant)
		}
		require.Len(t, m.Quotas, 1)
		q := m.Quotas[federation.QuotaEntity{User: federation.NamedQuota("alice")}]
		require.InDelta(t, 1+len(tenant), q.Values[federation.QuotaRequestRate], 0)
		require.Empty(t, q.Entity.Tenant)
		require.Len(t, m.GroupConfigs, 1)
		group := m.GroupConfig("billing")
		require.Equal(t, strconv.Itoa(50000+len(tenant)), group.Values[federation.GroupSessionTimeout])
		require.Empty(t, group.Tenant)
		require.Equal(t, int32(4096+len(tenant)), m.Credential(alice).Iterations)
	}
	// Who names a tenant that is not there is a user of the deployment's own; its topics are nobody's.
	own, _ := s.Of("")
	require.Len(t, own.Credentials, 2)
	require.NotNil(t, own.Credential(federation.CredentialID{User: "ghost/alice", Mechanism: federation.ScramSHA256}))
	ghost, served := s.Of("ghost")
	require.False(t, served)
	require.Empty(t, ghost.Topics)
	require.Empty(t, ghost.Credentials)
	require.Empty(t, ghost.ACLs)
	require.Empty(t, ghost.Quotas)
	require.Empty(t, ghost.GroupConfigs)
}

// A client that is a tenant's only by the address that it came to learns of no gateway
// where it would be somebody else's.
func TestBoundToAddresses(t *testing.T) {
	base := splitWorld()
	base.Gateways = append(base.Gateways, &federation.Gateway{ID: "g0", NodeID: 9, KafkaAddress: "zero:9092"})
	s := federation.SplitMap(base.Seal(), nil)
	addresses := func(m *federation.Map) (all []string) {
		for _, g := range m.Gateways {
			all = append(all, g.KafkaAddress)
		}
		return all
	}
	own, _ := s.Of("acme")
	require.Equal(t, []string{"zero:9092", "one:9192", "acme.two:9092"}, addresses(own))
	bound, served := s.BoundOf("acme")
	require.True(t, served)
	require.Equal(t, []string{"", "one:9192", "acme.two:9092"}, addresses(bound))
	require.Empty(t, bound.GatewayByNode(9).KafkaAddress)
	require.Equal(t, own.TopicNames(), bound.TopicNames())
	require.Equal(t, "id-acme", bound.ClusterID)
	again, _ := s.BoundOf("acme")
	require.Same(t, bound, again)
	_, served = s.BoundOf("ghost")
	require.False(t, served)
	base.Gateways = base.Gateways[1:] // all have addresses of acme's: nothing is made
	s = federation.SplitMap(base.Seal(), nil)
	own, _ = s.Of("acme")
	bound, _ = s.BoundOf("acme")
	require.Same(t, own, bound)
	own, _ = s.Of("")
	bound, _ = s.BoundOf("")
	require.Same(t, own, bound)
}

// What compares maps by their address sees no change where there is none.
func TestSplitMapTakesOver(t *testing.T) {
	base := splitWorld()
	first := federation.SplitMap(base, nil)
	for _, tenant := range []string{"acme", "beta"} {
		one, _ := first.Of(tenant) // what nobody looks at is not made
		other, _ := first.Of(tenant)
		require.Same(t, one, other)
	}
	next := *base
	next.Version = 8
	next.Topics = maps.Clone(base.Topics)
	next.Topics["acme/only"] = tenantTopic("acme/only", 3)
	second := federation.SplitMap(next.Seal(), first)
	for _, tenant := range []string{"", "acme", "beta"} {
		before, _ := first.Of(tenant)
		after, _ := second.Of(tenant)
		require.Same(t, before.Topic("orders"), after.Topic("orders"))
		for id, a := range before.ACLs {
			require.Same(t, a, after.ACLs[id])
		}
		for e, q := range before.Quotas {
			require.Same(t, q, after.Quotas[e])
		}
		require.Same(t, before.GroupConfig("billing"), after.GroupConfig("billing"))
	}
	before, _ := first.Of("acme")
	after, _ := second.Of("acme")
	require.NotSame(t, before.Topic("only"), after.Topic("only"))

	// A change of one's quotas and ACLs is seen.
	third := next
	third.ACLs, third.Quotas = make(federation.ACLs), maps.Clone(next.Quotas)
	delete(third.Quotas, federation.QuotaEntity{User: federation.NamedQuota("alice"), Tenant: "acme"})
	changed := federation.SplitMap(third.Seal(), second)
	after, _ = changed.Of("acme")
	require.Empty(t, after.Quotas)
	require.Empty(t, after.ACLs)
	require.NotNil(t, after.GroupConfig("billing"))
	after, _ = changed.Of("")
	require.Len(t, after.Quotas, 1)
}

// A view that stays in use has the same topics as one that is made anew, whatever changed.
func TestSplitMapFollows(t *testing.T) {
	base := splitWorld()
	split := federation.SplitMap(base, nil)
	check := func() {
		t.Helper()
		fresh := federation.SplitMap(split.Base(), nil)
		for _, tenant := range []string{"", "acme", "beta", "ghost"} {
			want, served := fresh.Of(tenant)
			got, still := split.Of(tenant)
			require.Equal(t, served, still)
			require.Equal(t, want, got, "%q", tenant)
		}
	}
	check()
	for _, change := range []func(m *federation.Map){
		func(m *federation.Map) { m.Version++ },
		func(m *federation.Map) {
			m.Topics = maps.Clone(m.Topics)
			delete(m.Topics, "acme/only")
			m.Topics["acme/other"] = tenantTopic("acme/other", 9)
		},
		func(m *federation.Map) { m.Topics = maps.Clone(m.Topics); m.Topics["more"] = tenantTopic("more", 10) },
		func(m *federation.Map) { // it had names in its name
			m.Tenants = maps.Clone(m.Tenants)
			m.Tenants["ghost"] = &federation.Tenant{Name: "ghost", ClusterID: "id-ghost"}
		},
		func(m *federation.Map) {
			m.Credentials = maps.Clone(m.Credentials)
			delete(m.Credentials, federation.CredentialID{User: "acme/alice", Mechanism: federation.ScramSHA256})
		},
		func(m *federation.Map) {
			m.Gateways = append([]*federation.Gateway{{ID: "g0", NodeID: 7, KafkaAddress: "zero:9092"}}, m.Gateways...)
		},
		func(m *federation.Map) { m.Tenants = maps.Clone(m.Tenants); delete(m.Tenants, "acme") },
		func(m *federation.Map) { m.Tenants = nil },
		func(m *federation.Map) { m.Tenants = base.Tenants },
	} {
		next := *split.Base()
		change(&next)
		split = federation.SplitMap(next.Seal(), split)
		check()
	}
}

// Without tenants nothing is made.
func TestSplitMapWithoutTenants(t *testing.T) {
	m := splitWorld()
	m.Tenants = nil
	split := federation.SplitMap(m, nil)
	own, served := split.Of("")
	require.True(t, served)
	require.Same(t, m, own)
	_, served = split.Of("acme")
	require.False(t, served)
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { federation.SplitMap(m, split) }), 4.0)
}

func TestQualifiedNames(t *testing.T) {
	for _, tenant := range []string{"", "acme"} {
		gotTenant, plain := federation.Qualify(tenant, "orders").Split()
		require.Equal(t, tenant, gotTenant)
		require.Equal(t, federation.TopicName("orders"), plain)
	}
	m := splitWorld()
	for login, want := range map[string][2]string{
		"alice": {"", "alice"}, "acme/alice": {"acme", "alice"}, "ghost/alice": {"", "ghost/alice"}, "acme/a/b": {"acme", "a/b"}, "/alice": {"", "/alice"},
	} {
		tenant, user := m.SplitUser(login)
		require.Equal(t, want, [2]string{tenant, user}, login)
	}
}
