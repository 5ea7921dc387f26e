package planner

import (
	"maps"

	"github.com/braidmq/braid/federation"
)

// WithTenant returns the map with a tenant added or replaced.
func WithTenant(m *federation.Map, t *federation.Tenant) *federation.Map {
	next := *m
	next.Tenants = maps.Clone(m.Tenants)
	if next.Tenants == nil {
		next.Tenants = make(map[string]*federation.Tenant)
	}
	next.Tenants[t.Name] = t
	return next.Seal()
}

// WithoutTenant returns the map without a tenant and all that it has. It is refused while it has topics.
func WithoutTenant(m *federation.Map, name string) (*federation.Map, error) {
	if n := len(TenantTopics(m, name)); n > 0 {
		return nil, federation.Errorf(federation.PolicyViolation, "tenant %q has %d topics", name, n)
	}
	// What came after the deletion had begun must not be there for a tenant of the same name.
	if t := m.Tenants[name]; t != nil {
		m = EmptiedTenant(m, t)
	}
	next := *m
	next.Tenants = maps.Clone(m.Tenants)
	delete(next.Tenants, name)
	if len(next.Tenants) == 0 {
		next.Tenants = nil
	}
	return next.Seal(), nil
}

// TenantTopics returns the names of a tenant's topics, qualified.
func TenantTopics(m *federation.Map, tenant string) (names []federation.TopicName) {
	for _, name := range m.TopicNames() {
		if t, _ := name.Split(); t == tenant {
			names = append(names, name)
		}
	}
	return names
}

// EmptiedTenant returns the map with a tenant that is being deleted: it has no users,
// ACLs, quotas and settings of groups any more.
func EmptiedTenant(m *federation.Map, t *federation.Tenant) *federation.Map {
	gone := *t
	gone.Deleting = true
	next := WithTenant(m, &gone)
	var creds []federation.CredentialID
	for id := range m.Credentials {
		if tenant, _ := m.SplitUser(id.User); tenant == t.Name {
			creds = append(creds, id)
		}
	}
	var acls []federation.ACLID
	for id, a := range m.ACLs {
		if a.Tenant == t.Name {
			acls = append(acls, id)
		}
	}
	if len(creds) > 0 {
		next = WithCredentials(next, nil, creds)
	}
	if len(acls) > 0 {
		next = WithACLs(next, nil, acls)
	}
	if len(m.Quotas.Of(t.Name)) > 0 {
		next.Quotas = maps.Clone(m.Quotas)
		maps.DeleteFunc(next.Quotas, func(e federation.QuotaEntity, _ *federation.Quota) bool { return e.Tenant == t.Name })
		next.Seal()
	}
	if len(m.GroupConfigs.Of(t.Name)) > 0 {
		next.GroupConfigs = maps.Clone(m.GroupConfigs)
		maps.DeleteFunc(next.GroupConfigs, func(id federation.GroupID, _ *federation.GroupConfig) bool { return id.Tenant == t.Name })
		next.Seal()
	}
	return next
}
