package federation

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// One deployment can hold many logical clusters: its own, and tenants. All are in one
// map, so that what is about physical clusters and gateways (drains, failovers, leases,
// journals) acts on all of them. There, names of topics and users of a tenant are
// qualified: TENANT/NAME. What a client sees is a Split of the map, with plain names.

// A Tenant is a logical cluster beside the deployment's own.
type Tenant struct {
	Name        string
	ClusterID   string // the cluster id that its clients see
	CreatedMs   int64
	Deleting    bool // it is served no more
	Description string
}

// qualifier is what ends the tenant in a qualified name: no topic and no tenant has it.
const qualifier = "/"

// Qualify returns the name of a tenant's topic in the map of the deployment; the empty
// tenant is the deployment's own logical cluster.
func Qualify(tenant string, name TopicName) TopicName {
	if tenant == "" {
		return name
	}
	return TopicName(tenant + qualifier + string(name))
}

// Split reads what Qualify wrote.
func (n TopicName) Split() (tenant string, plain TopicName) {
	tenant, rest, ok := strings.Cut(string(n), qualifier)
	if !ok {
		return "", n
	}
	return tenant, TopicName(rest)
}

// QualifyUser returns the name of a tenant's user in the map of the deployment, which is
// also what the user calls itself where the tenant is not known otherwise.
func QualifyUser(tenant, user string) string {
	if tenant == "" {
		return user
	}
	return tenant + qualifier + user
}

// SplitUser reads what QualifyUser wrote. A name that begins with no tenant of the map is
// one of the deployment's own.
func (m *Map) SplitUser(user string) (tenant, plain string) {
	if tenant, rest, ok := strings.Cut(user, qualifier); ok && m.Tenants[tenant] != nil {
		return tenant, rest
	}
	return "", user
}

// TenantAddresses are addresses by tenant. They are a text so that gateways can be compared.
type TenantAddresses string

// NewTenantAddresses makes TenantAddresses; nothing in it has a space or an equals sign.
func NewTenantAddresses(by map[string]string) TenantAddresses {
	parts := make([]string, 0, len(by))
	for _, tenant := range slices.Sorted(maps.Keys(by)) {
		parts = append(parts, tenant+"="+by[tenant])
	}
	return TenantAddresses(strings.Join(parts, " "))
}

// Map returns the addresses by tenant; nil if there are none.
func (a TenantAddresses) Map() map[string]string {
	if a == "" {
		return nil
	}
	out := make(map[string]string)
	for part := range strings.FieldsSeq(string(a)) {
		tenant, address, _ := strings.Cut(part, "=")
		out[tenant] = address
	}
	return out
}

// Of returns the address of a tenant; empty if it has none of its own. The empty tenant
// has none.
func (a TenantAddresses) Of(tenant string) string {
	if a == "" || tenant == "" {
		return ""
	}
	by := a.Map()
	if own := by[tenant]; own != "" {
		return own
	}
	return strings.Replace(by[anyTenant], anyTenant, tenant, 1)
}

// anyTenant stands for the name of every tenant, as key and in the address.
const anyTenant = "*"

// A Split is a map seen as the logical clusters that are in it.
type Split struct {
	base   *Map
	views  map[string]*Map
	topics map[*Topic]*Topic // of tenants: with qualified names, to plain ones
}

// SplitMap splits a map. What is the same in the last one is taken over; prev may be nil.
func SplitMap(m *Map, prev *Split) *Split {
	if prev == nil {
		prev = &Split{}
	}
	s := &Split{base: m, views: make(map[string]*Map, 1+len(m.Tenants))}
	if len(m.Tenants) == 0 {
		s.views[""] = m
		return s
	}
	s.topics = make(map[*Topic]*Topic)
	own := s.add("", m.LogicalCluster, m.ClusterID)
	for _, t := range m.Tenants {
		s.add(t.Name, t.Name, t.ClusterID)
	}
	for name, t := range m.Topics {
		tenant, plain := name.Split()
		if tenant == "" {
			own.Topics[name] = t
			continue
		}
		v := s.views[tenant]
		if v == nil {
			continue
		}
		out := prev.topics[t]
		if out == nil {
			out = t.named(plain)
		}
		s.topics[t], v.Topics[plain] = out, out
	}
	for id, c := range m.Credentials {
		tenant, user := m.SplitUser(id.User)
		plain := *c
		plain.User = user
		v := s.views[tenant]
		if v.Credentials == nil {
			v.Credentials = make(map[CredentialID]*Credential)
		}
		v.Credentials[plain.CredentialID] = &plain
	}
	s.splitACLs(prev)
	s.splitQuotas(prev)
	s.splitGroupConfigs(prev)
	for _, v := range s.views {
		v.Seal()
	}
	return s
}

func (s *Split) add(tenant, logicalCluster, clusterID string) *Map {
	v := *s.base
	v.LogicalCluster, v.ClusterID = logicalCluster, clusterID
	v.Topics, v.Credentials, v.ACLs, v.Quotas, v.GroupConfigs, v.Tenants = make(map[TopicName]*Topic), nil, nil, nil, nil, nil
	v.Gateways = slices.Clone(v.Gateways)
	for i, g := range v.Gateways {
		out := *g
		if a := g.TenantKafka.Of(tenant); a != "" {
			out.KafkaAddress = a
		}
		out.TenantKafka = ""
		v.Gateways[i] = &out
	}
	s.views[tenant] = &v
	return &v
}

// splitACLs keeps the ACLs of the last split if they are the same: who has compiled them
// knows them by their address.
func (s *Split) splitACLs(prev *Split) {
	if prev.split() && sameMap(prev.base.ACLs, s.base.ACLs) {
		for tenant, v := range s.views {
			if old := prev.views[tenant]; old != nil {
				v.ACLs = old.ACLs
			}
		}
		return
	}
	for id, a := range s.base.ACLs {
		v := s.views[a.Tenant]
		if v == nil {
			continue
		}
		if v.ACLs == nil {
			v.ACLs = make(ACLs)
		}
		if a.Tenant != "" {
			plain := *a
			plain.Tenant = ""
			id, a = plain.ID(), &plain
		}
		v.ACLs[id] = a
	}
}

// splitQuotas keeps the quotas of the last split if they are the same, as splitACLs does.
func (s *Split) splitQuotas(prev *Split) {
	if prev.split() && sameMap(prev.base.Quotas, s.base.Quotas) {
		for tenant, v := range s.views {
			if old := prev.views[tenant]; old != nil {
				v.Quotas = old.Quotas
			}
		}
		return
	}
	for e, q := range s.base.Quotas {
		v := s.views[e.Tenant]
		if v == nil {
			continue
		}
		if v.Quotas == nil {
			v.Quotas = make(Quotas)
		}
		if e.Tenant != "" {
			plain := *q
			e.Tenant, plain.Entity.Tenant = "", ""
			q = &plain
		}
		v.Quotas[e] = q
	}
}

// splitGroupConfigs keeps those of the last split if they are the same, as splitACLs does.
func (s *Split) splitGroupConfigs(prev *Split) {
	if prev.split() && sameMap(prev.base.GroupConfigs, s.base.GroupConfigs) {
		for tenant, v := range s.views {
			if old := prev.views[tenant]; old != nil {
				v.GroupConfigs = old.GroupConfigs
			}
		}
		return
	}
	for id, c := range s.base.GroupConfigs {
		v := s.views[id.Tenant]
		if v == nil {
			continue
		}
		if v.GroupConfigs == nil {
			v.GroupConfigs = make(GroupConfigs)
		}
		id.Tenant = ""
		v.GroupConfigs[id] = &GroupConfig{GroupID: id, Values: c.Values}
	}
}

// split reports whether the map had to be split: else the one view is the map itself.
func (s *Split) split() bool { return s.base != nil && len(s.base.Tenants) > 0 }

// sameMap reports whether two maps of the language are one.
func sameMap[K comparable, V any](a, b map[K]V) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

// named returns the topic under another name.
func (t *Topic) named(name TopicName) *Topic {
	out := *t
	out.Name, out.Partitions = name, make([]*Partition, len(t.Partitions))
	for i, p := range t.Partitions {
		part := *p
		part.Topic = name
		out.Partitions[i] = &part
	}
	return &out
}

// Base is the map that was split.
func (s *Split) Base() *Map { return s.base }

// Of returns the map of a tenant, and whether there is one that is served; the empty
// tenant is the deployment's own logical cluster. Of a tenant that is not there it is an
// empty map.
func (s *Split) Of(tenant string) (*Map, bool) {
	if v := s.views[tenant]; v != nil {
		return v, tenant == "" || !s.base.Tenants[tenant].Deleting
	}
	v := *s.base
	v.LogicalCluster, v.ClusterID, v.Tenants = tenant, "", nil
	v.Topics, v.Credentials, v.ACLs, v.Quotas, v.GroupConfigs = make(map[TopicName]*Topic), nil, nil, nil, nil
	return v.Seal(), false
}
