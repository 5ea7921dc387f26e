package wire

import (
	"fmt"
	"maps"
	"strings"

	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

const prefixTenant = "tenant/"

// TenantKey returns the key of a tenant's entry.
func TenantKey(name string) string { return prefixTenant + name }

// TenantEntry returns the entry of a tenant, with version 0.
func TenantEntry(t *federation.Tenant) *controlv1.MapEntry { return tenantEntry(t, 0) }

func tenantEntry(t *federation.Tenant, version int64) *controlv1.MapEntry {
	return &controlv1.MapEntry{Key: TenantKey(t.Name), Version: version, Value: &controlv1.MapEntry_Tenant{Tenant: &controlv1.TenantEntry{
		Name: t.Name, ClusterId: t.ClusterID, CreatedMs: t.CreatedMs, Deleting: t.Deleting, Description: t.Description, Limits: limitsEntry(t.Limits),
	}}}
}

func limitsEntry(l federation.TenantLimits) *controlv1.TenantLimits {
	if l == (federation.TenantLimits{}) {
		return nil
	}
	return &controlv1.TenantLimits{
		Topics: l.Topics, Partitions: l.Partitions, Credentials: l.Credentials, Acls: l.ACLs, Quotas: l.Quotas, Groups: l.Groups, Connections: l.Connections,
	}
}

func limitsOf(l *controlv1.TenantLimits) federation.TenantLimits {
	return federation.TenantLimits{
		Topics: l.GetTopics(), Partitions: l.GetPartitions(), Credentials: l.GetCredentials(), ACLs: l.GetAcls(), Quotas: l.GetQuotas(), Groups: l.GetGroups(), Connections: l.GetConnections(),
	}
}

func (d *Delta) diffTenants(from, to *federation.Map) {
	for name, t := range to.Tenants {
		if old := from.Tenants[name]; old != t && (old == nil || *old != *t) {
			d.Upserts = append(d.Upserts, tenantEntry(t, int64(d.To)))
		}
	}
	for name := range from.Tenants {
		if to.Tenants[name] == nil {
			d.Deletes = append(d.Deletes, TenantKey(name))
		}
	}
}

func (e *edit) tenants() map[string]*federation.Tenant {
	if !e.ownTenants {
		e.ownTenants = true
		e.m.Tenants = maps.Clone(e.m.Tenants)
	}
	if e.m.Tenants == nil {
		e.m.Tenants = make(map[string]*federation.Tenant)
	}
	return e.m.Tenants
}

func (e *edit) setTenant(key string, t *controlv1.TenantEntry) error {
	if t.GetName() == "" || strings.ContainsAny(t.GetName(), "/._ =") || t.GetClusterId() == "" {
		return fmt.Errorf("tenant %q: bad name, or no cluster id", t.GetName())
	}
	if key != TenantKey(t.GetName()) {
		return errKey
	}
	limits := limitsOf(t.GetLimits())
	if err := limits.Validate(); err != nil {
		return fmt.Errorf("tenant %q: %w", t.GetName(), err)
	}
	e.tenants()[t.GetName()] = &federation.Tenant{
		Name: t.GetName(), ClusterID: t.GetClusterId(), CreatedMs: t.GetCreatedMs(), Deleting: t.GetDeleting(), Description: t.GetDescription(), Limits: limits,
	}
	return nil
}

func (e *edit) removeTenant(name string) {
	all := e.tenants()
	delete(all, name)
	if len(all) == 0 {
		e.m.Tenants = nil // as in a map that never had one
	}
}

// topicNameOK refuses names that no topic has: none, or more than one slash, which ends
// the name of a tenant.
func topicNameOK(name string) bool {
	tenant, plain := federation.TopicName(name).Split()
	return plain != "" && !strings.Contains(string(plain), "/") && (tenant != "" || !strings.HasPrefix(name, "/"))
}
