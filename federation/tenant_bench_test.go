package federation_test

import (
	"fmt"
	"maps"
	"testing"

	"github.com/braidmq/braid/federation"
)

// manyTenants is a map with tenants of some topics and users each.
func manyTenants(tenants int) *federation.Map {
	m := &federation.Map{
		LogicalCluster: "default", Version: 1, Topics: make(map[federation.TopicName]*federation.Topic),
		Tenants: make(map[string]*federation.Tenant), Credentials: make(map[federation.CredentialID]*federation.Credential),
	}
	for i := range 3 {
		m.Gateways = append(m.Gateways, &federation.Gateway{ID: federation.GatewayID(fmt.Sprint("g", i)), NodeID: federation.NodeID(i)})
	}
	for i := range tenants {
		tenant := fmt.Sprintf("tenant-%04d", i)
		m.Tenants[tenant] = &federation.Tenant{Name: tenant, ClusterID: tenant}
		for j := range 5 {
			name := federation.Qualify(tenant, federation.TopicName(fmt.Sprint("topic-", j)))
			t := &federation.Topic{Name: name, ID: federation.NewTopicID()}
			for p := range 4 {
				t.Partitions = append(t.Partitions, &federation.Partition{Topic: name, Number: federation.LogicalPartition(p)})
			}
			m.Topics[name] = t
		}
		for j := range 2 {
			c := &federation.Credential{CredentialID: federation.CredentialID{User: federation.QualifyUser(tenant, fmt.Sprint("user-", j)), Mechanism: federation.ScramSHA256}, Iterations: 4096}
			m.Credentials[c.CredentialID] = c
		}
	}
	return m.Seal()
}

// A change of the map at a gateway that serves one tenant of many.
func BenchmarkSplitMap(b *testing.B) {
	for _, tenants := range []int{10, 500, 1000} {
		b.Run(fmt.Sprint(tenants, " tenants"), func(b *testing.B) {
			m := manyTenants(tenants)
			split := federation.SplitMap(m, nil)
			b.ReportAllocs()
			for b.Loop() {
				next := *m // as after a change of a topic
				next.Version++
				next.Topics = maps.Clone(m.Topics)
				split = federation.SplitMap(&next, split)
				if v, ok := split.Of("tenant-0003"); !ok || len(v.Topics) != 5 {
					b.Fatal("not the tenant's map")
				}
			}
		})
	}
}
