package planner

import (
	"maps"
	"slices"

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
	for name := range m.Topics {
		if t, _ := name.Split(); t == tenant {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// TenantUse is how much a tenant has.
func TenantUse(m *federation.Map, tenant string) (use federation.TenantLimits) {
	eachUse(m, func(of string) *federation.TenantLimits {
		if of != tenant {
			return nil
		}
		return &use
	})
	return use
}

// TenantUses is how much each tenant has, counted in one pass.
func TenantUses(m *federation.Map) map[string]*federation.TenantLimits {
	uses := make(map[string]*federation.TenantLimits, len(m.Tenants))
	for name := range m.Tenants {
		uses[name] = &federation.TenantLimits{}
	}
	eachUse(m, func(of string) *federation.TenantLimits { return uses[of] })
	return uses
}

// eachUse counts what belongs to tenants; count returns nil for those that do not matter.
func eachUse(m *federation.Map, count func(tenant string) *federation.TenantLimits) {
	for name, t := range m.Topics {
		tenant, _ := name.Split()
		if use := count(tenant); use != nil {
			use.Topics++
			use.Partitions += int32(len(t.Partitions))
		}
	}
	for id := range m.Credentials {
		tenant, _ := m.SplitUser(id.User)
		if use := count(tenant); use != nil {
			use.Credentials++
		}
	}
	for _, a := range m.ACLs {
		if use := count(a.Tenant); use != nil {
			use.ACLs++
		}
	}
	for e := range m.Quotas {
		if use := count(e.Tenant); use != nil {
			use.Quotas++
		}
	}
}

// CheckTenantRoom checks that a tenant may have so much more. What it had too much of
// before, it may keep; the deployment's own logical cluster has no limits.
func CheckTenantRoom(m *federation.Map, tenant string, defaults, more federation.TenantLimits) error {
	t := m.Tenants[tenant]
	if t == nil {
		return nil
	}
	use, limits := TenantUse(m, tenant), t.Limits.Or(defaults)
	for _, c := range []struct {
		what             string
		has, more, limit int32
	}{
		{"topics", use.Topics, more.Topics, limits.Topics},
		{"partitions", use.Partitions, more.Partitions, limits.Partitions},
		{"credentials", use.Credentials, more.Credentials, limits.Credentials},
		{"ACLs", use.ACLs, more.ACLs, limits.ACLs},
		{"quotas of users and client ids", use.Quotas, more.Quotas, limits.Quotas},
	} {
		if c.more > 0 && c.limit > 0 && c.has+c.more > c.limit {
			return federation.Errorf(federation.PolicyViolation, "logical cluster %q has %d %s and would have %d; it may have %d: delete some, or ask the operators of the deployment for more (`braid tenant update`)",
				tenant, c.has, c.what, c.has+c.more, c.limit)
		}
	}
	return nil
}

// CheckTenantAccess does the same for a change of credentials, ACLs or quotas.
func CheckTenantAccess(from, to *federation.Map, tenant string, defaults federation.TenantLimits) error {
	had, has := TenantUse(from, tenant), TenantUse(to, tenant)
	return CheckTenantRoom(from, tenant, defaults, federation.TenantLimits{Credentials: has.Credentials - had.Credentials, ACLs: has.ACLs - had.ACLs, Quotas: has.Quotas - had.Quotas})
}

// CheckTenantTopic does the same for a new topic.
func CheckTenantTopic(m *federation.Map, topic federation.TopicName, defaults federation.TenantLimits, partitions int) error {
	tenant, _ := topic.Split()
	return CheckTenantRoom(m, tenant, defaults, federation.TenantLimits{Topics: 1, Partitions: int32(partitions)})
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
