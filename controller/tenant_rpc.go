package controller

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/journal"
	"github.com/braidmq/braid/internal/rpcerror"
)

// tenantService keeps the tenants: logical clusters beside the deployment's own, in the
// same map.
type tenantService struct{ c *Controller }

const collectionTenants = "tenants/"

// tenantDescriptionMax bounds the description of a tenant, in bytes.
const tenantDescriptionMax = 1024

func tenantEtag(t *federation.Tenant) string { return etag(wire.TenantEntry(t)) }

// CreateTenant creates a tenant, and waits until the gateways know it.
func (s *tenantService) CreateTenant(ctx context.Context, req *adminv1.CreateTenantRequest) (*adminv1.CreateTenantResponse, error) {
	out, err := s.c.createTenant(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return &adminv1.CreateTenantResponse{Tenant: out}, nil
}

func (c *Controller) createTenant(ctx context.Context, req *adminv1.CreateTenantRequest) (*adminv1.Tenant, error) {
	t, err := c.leading()
	if err != nil {
		return nil, err
	}
	name := req.GetTenantId()
	if name == "" {
		name = strings.TrimPrefix(req.GetTenant().GetName(), collectionTenants)
	}
	if err := planner.CheckLogicalCluster(name); err != nil {
		return nil, err
	}
	if name == c.cfg.LogicalCluster {
		return nil, federation.Errorf(federation.TopicExists, "%q is the deployment's own logical cluster; choose another name", name)
	}
	tenant := &federation.Tenant{
		Name: name, ClusterID: federation.NewTopicID().String(), CreatedMs: time.Now().UnixMilli(), Description: req.GetTenant().GetDescription(), Limits: limitsOf(req.GetTenant().GetLimits()),
	}
	if err := checkTenant(tenant); err != nil {
		return nil, err
	}
	// Another deployment with this logical cluster can be in the same store.
	other, err := t.parts.Store.LoadMap(ctx, name)
	if err != nil {
		return nil, err
	}
	if other.Version > 0 {
		return nil, federation.Errorf(federation.Conflict, "logical cluster %q is that of another deployment in the same Redis; choose another name, or another key prefix", name)
	}
	if t.current().Tenants[name] == nil { // what a tenant of this name has left
		if err := t.parts.Store.PurgeGroups(ctx, name); err != nil {
			return nil, err
		}
	}
	m, err := t.edit(ctx, func(m *federation.Map) (*federation.Map, error) { return c.withNewTenant(m, tenant) })
	if err != nil {
		return nil, err
	}
	// If this fails, the next leader does it.
	if err := t.parts.Store.SetGroupsLife(ctx, name, tenant.ClusterID); err != nil {
		return nil, err
	}
	t.awaitVisible(ctx, m.Version)
	c.log.Info("tenant created", "tenant", name)
	return c.tenantProto(m, tenant), nil
}

func (c *Controller) withNewTenant(m *federation.Map, tenant *federation.Tenant) (*federation.Map, error) {
	if m.Tenants[tenant.Name] != nil {
		return nil, federation.Errorf(federation.TopicExists, "tenant %q exists already", tenant.Name)
	}
	if len(m.Tenants) >= c.cfg.TenantsMax {
		return nil, federation.Errorf(federation.PolicyViolation, "there are %d tenants already, the most that there can be (--tenants-max); delete some", len(m.Tenants))
	}
	for id := range m.Credentials {
		if strings.HasPrefix(id.User, federation.QualifyUser(tenant.Name, "")) {
			return nil, federation.Errorf(federation.Conflict, "user %q of the deployment's own logical cluster would become one of the tenant: revoke its credential, or choose another name", id.User)
		}
	}
	return planner.WithTenant(m, tenant), nil
}

func checkTenant(t *federation.Tenant) error {
	if err := t.Limits.Validate(); err != nil {
		return err
	}
	if n := len(t.Description); n > tenantDescriptionMax {
		return federation.Errorf(federation.InvalidArgument, "tenant %q: the description has %d bytes; want at most %d", t.Name, n, tenantDescriptionMax)
	}
	return nil
}

// findTenant reads tenants/{t}.
func (c *Controller) findTenant(name string) (*term, *federation.Tenant, error) {
	t, err := c.leading()
	if err != nil {
		return nil, nil, err
	}
	id, ok := strings.CutPrefix(name, collectionTenants)
	if !ok {
		return nil, nil, federation.Errorf(federation.InvalidArgument, "tenant name %q: want tenants/NAME", name)
	}
	tenant := t.current().Tenants[id]
	if tenant == nil {
		return nil, nil, errUnknownTenant(id)
	}
	return t, tenant, nil
}

func errUnknownTenant(id string) error {
	return federation.Errorf(federation.UnknownCluster, "tenant %q does not exist; `braid tenant list` shows those that do", id)
}

// GetTenant returns one tenant.
func (s *tenantService) GetTenant(ctx context.Context, req *adminv1.GetTenantRequest) (*adminv1.GetTenantResponse, error) {
	t, tenant, err := s.c.findTenant(req.GetName())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	out := s.c.tenantProto(t.current(), tenant)
	if out.Groups, err = t.parts.Store.GroupsCount(ctx, tenant.Name); err != nil {
		return nil, rpcerror.Error(err)
	}
	return &adminv1.GetTenantResponse{Tenant: out}, nil
}

// ListTenants returns a page of tenants, by name.
func (s *tenantService) ListTenants(_ context.Context, req *adminv1.ListTenantsRequest) (*adminv1.ListTenantsResponse, error) {
	t, err := s.c.leading()
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	m := t.current()
	names, next, err := page(slices.Sorted(maps.Keys(m.Tenants)), func(n string) string { return n }, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	out := &adminv1.ListTenantsResponse{NextPageToken: next}
	uses := planner.TenantUses(m)
	for _, n := range names {
		out.Tenants = append(out.Tenants, s.c.tenantOf(m.Tenants[n], *uses[n]))
	}
	return out, nil
}

// UpdateTenant changes the description and the limits of a tenant.
func (s *tenantService) UpdateTenant(ctx context.Context, req *adminv1.UpdateTenantRequest) (*adminv1.UpdateTenantResponse, error) {
	out, err := s.c.updateTenant(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return &adminv1.UpdateTenantResponse{Tenant: out}, nil
}

func (c *Controller) updateTenant(ctx context.Context, req *adminv1.UpdateTenantRequest) (*adminv1.Tenant, error) {
	t, tenant, err := c.findTenant(req.GetTenant().GetName())
	if err != nil {
		return nil, err
	}
	paths := req.GetUpdateMask().GetPaths()
	if len(paths) == 0 {
		paths = []string{"description"}
	}
	next := *tenant
	m, err := t.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
		have := m.Tenants[tenant.Name]
		if have == nil {
			return nil, errUnknownTenant(tenant.Name)
		}
		if err := checkEtag("tenant "+have.Name, req.GetTenant().GetEtag(), tenantEtag(have)); err != nil {
			return nil, err
		}
		next = *have
		if err := updateTenant(&next, req.GetTenant(), paths); err != nil {
			return nil, err
		}
		return planner.WithTenant(m, &next), nil
	})
	if err != nil {
		return nil, err
	}
	t.awaitVisible(ctx, m.Version) // gateways keep some of the limits
	return c.tenantProto(m, &next), nil
}

// updateTenant takes over what an update mask names.
func updateTenant(t *federation.Tenant, from *adminv1.Tenant, paths []string) error {
	limits := limitsOf(from.GetLimits())
	fields := map[string]struct{ to, from *int32 }{
		"topics": {&t.Limits.Topics, &limits.Topics}, "partitions": {&t.Limits.Partitions, &limits.Partitions}, "credentials": {&t.Limits.Credentials, &limits.Credentials},
		"acls": {&t.Limits.ACLs, &limits.ACLs}, "quotas": {&t.Limits.Quotas, &limits.Quotas}, "groups": {&t.Limits.Groups, &limits.Groups}, "connections": {&t.Limits.Connections, &limits.Connections},
	}
	for _, path := range paths {
		limit, ok := strings.CutPrefix(path, "limits.")
		switch field := fields[limit]; {
		case path == "description":
			t.Description = from.GetDescription()
		case path == "limits":
			t.Limits = limits
		case ok && field.to != nil:
			*field.to = *field.from
		default:
			return federation.Errorf(federation.InvalidArgument, "update mask %q: only description, limits and limits.LIMIT of a tenant can be updated", path)
		}
	}
	return checkTenant(t)
}

// DeleteTenant deletes a tenant and all that it has.
func (s *tenantService) DeleteTenant(ctx context.Context, req *adminv1.DeleteTenantRequest) (*adminv1.DeleteTenantResponse, error) {
	topics, err := s.c.deleteTenant(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return &adminv1.DeleteTenantResponse{Topics: topics}, nil
}

// deleteTenant: serve it no more ► delete its topics ► its groups ► the tenant. Each step
// can be done again, by a call that goes on with it.
func (c *Controller) deleteTenant(ctx context.Context, req *adminv1.DeleteTenantRequest) (int32, error) {
	t, tenant, err := c.findTenant(req.GetName())
	if err != nil {
		return 0, err
	}
	m, err := t.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
		have := m.Tenants[tenant.Name]
		if have == nil {
			return nil, errUnknownTenant(tenant.Name)
		}
		if err := checkEtag("tenant "+have.Name, req.GetEtag(), tenantEtag(have)); err != nil {
			return nil, err
		}
		if n := len(planner.TenantTopics(m, have.Name)); n > 0 && !req.GetForce() && !have.Deleting {
			return nil, federation.Errorf(federation.PolicyViolation, "tenant %q has %d topics; delete them first, or the tenant with all that it has with --force", have.Name, n)
		}
		return planner.EmptiedTenant(m, have), nil
	})
	if err != nil {
		return 0, err
	}
	c.log.Info("tenant is being deleted", "tenant", tenant.Name)
	t.awaitVisible(ctx, m.Version)
	topics := planner.TenantTopics(m, tenant.Name)
	if err := t.deleteTopics(ctx, topics); err != nil {
		return 0, err
	}
	if err := t.parts.Store.PurgeGroups(ctx, tenant.Name); err != nil {
		return 0, err
	}
	t.deleteBackups(ctx, tenant.Name)
	if _, err := t.edit(ctx, func(m *federation.Map) (*federation.Map, error) { return planner.WithoutTenant(m, tenant.Name) }); err != nil {
		return 0, err
	}
	c.log.Info("tenant deleted", "tenant", tenant.Name, "topics", len(topics))
	return int32(len(topics)), nil
}

// deleteTopics deletes topics, and waits until they are out of the map.
func (t *term) deleteTopics(ctx context.Context, names []federation.TopicName) error {
	var ops []*operation
	var errs []error
	for _, name := range names {
		topic := t.current().Topic(name)
		if topic == nil {
			continue
		}
		op, err := t.ops.start(ctx, kindDeleteTopic, t.topicName(name), "", deleteSpec{Name: name, TopicID: topic.ID})
		if federation.KindOf(err) == federation.Throttled && len(ops) > 0 { // too many at a time
			errs = append(errs, t.waitRemoved(ctx, ops[0]))
			ops = ops[1:]
			op, err = t.ops.start(ctx, kindDeleteTopic, t.topicName(name), "", deleteSpec{Name: name, TopicID: topic.ID})
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ops = append(ops, op)
	}
	for _, op := range ops {
		errs = append(errs, t.waitRemoved(ctx, op))
	}
	return errors.Join(errs...)
}

// deleteBackups deletes the backups of a tenant's offsets where clusters answer. They are
// of topics that are gone: one that stays does no harm but that of its alarm, if there is
// a tenant of this name again.
func (t *term) deleteBackups(ctx context.Context, tenant string) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.ProbeTimeout)
	defer cancel()
	topic := journal.OffsetsTopic(tenant)
	for name := range t.current().Clusters {
		c, err := t.parts.Clusters.Cluster(name)
		if err != nil {
			continue
		}
		if topics, err := c.Topics(ctx, topic); err == nil && len(topics) == 0 {
			continue
		}
		if err := c.DeleteTopic(ctx, topic); err != nil && federation.KindOf(err) != federation.UnknownTopic {
			t.log.Warn("the backup of a deleted tenant's offsets could not be deleted", "tenant", tenant, "cluster", name, "topic", topic, "err", err)
		}
	}
}

func (c *Controller) tenantProto(m *federation.Map, t *federation.Tenant) *adminv1.Tenant {
	return c.tenantOf(t, planner.TenantUse(m, t.Name))
}

func (c *Controller) tenantOf(t *federation.Tenant, use federation.TenantLimits) *adminv1.Tenant {
	out := &adminv1.Tenant{
		Name: collectionTenants + t.Name, DefaultLogicalCluster: collectionLogical + t.Name, Etag: tenantEtag(t), ClusterId: t.ClusterID,
		CreateTime: timestamppb.New(time.UnixMilli(t.CreatedMs)), State: adminv1.Tenant_STATE_ACTIVE, Description: t.Description,
		Topics: use.Topics, Partitions: use.Partitions, Credentials: use.Credentials, Acls: use.ACLs, Quotas: use.Quotas,
		Limits: limitsProto(t.Limits), EffectiveLimits: limitsProto(t.Limits.Or(c.cfg.TenantLimits)),
	}
	if t.Deleting {
		out.State = adminv1.Tenant_STATE_DELETING
	}
	return out
}

func limitsProto(l federation.TenantLimits) *adminv1.TenantLimits {
	return &adminv1.TenantLimits{
		Topics: l.Topics, Partitions: l.Partitions, Credentials: l.Credentials, Acls: l.ACLs, Quotas: l.Quotas, Groups: l.Groups, Connections: l.Connections,
	}
}

func limitsOf(l *adminv1.TenantLimits) federation.TenantLimits {
	return federation.TenantLimits{
		Topics: l.GetTopics(), Partitions: l.GetPartitions(), Credentials: l.GetCredentials(), ACLs: l.GetAcls(), Quotas: l.GetQuotas(), Groups: l.GetGroups(), Connections: l.GetConnections(),
	}
}
