package federation

import (
	"cmp"
	"maps"
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
	Limits      TenantLimits
}

// TenantLimits are how much a tenant may have, so that one does not use up what others
// need. A limit of 0 is the default of the process that keeps it. One that is lowered
// takes nothing away: it refuses more.
type TenantLimits struct {
	Topics, Partitions        int32
	Credentials, ACLs, Quotas int32
	Groups                    int32 // that something is stored of
	Connections               int32 // at each gateway: of the Kafka facade, and streams of the Connect API
}

// Or takes from others what this has no limit for.
func (l TenantLimits) Or(others TenantLimits) TenantLimits {
	return TenantLimits{
		Topics: cmp.Or(l.Topics, others.Topics), Partitions: cmp.Or(l.Partitions, others.Partitions), Credentials: cmp.Or(l.Credentials, others.Credentials),
		ACLs: cmp.Or(l.ACLs, others.ACLs), Quotas: cmp.Or(l.Quotas, others.Quotas), Groups: cmp.Or(l.Groups, others.Groups),
		Connections: cmp.Or(l.Connections, others.Connections),
	}
}

// Validate refuses limits that make no sense.
func (l TenantLimits) Validate() error {
	for name, n := range map[string]int32{
		"topics": l.Topics, "partitions": l.Partitions, "credentials": l.Credentials, "acls": l.ACLs, "quotas": l.Quotas, "groups": l.Groups, "connections": l.Connections,
	} {
		if n < 0 {
			return Errorf(InvalidArgument, "limit of a tenant: %d %s: want 1 or more, or 0 for the default of the deployment", n, name)
		}
	}
	return nil
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
