package controller

import (
	"context"
	"strings"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/rpcerror"
)

// Quotas are entries of the map, like ACLs: gateways follow them, and decide by themselves.
type quotaService struct{ c *Controller }

// quotaChangesMax bounds the changes of one request.
const quotaChangesMax = 1000

// AlterQuotas changes quotas in the map, all or none.
func (s *quotaService) AlterQuotas(ctx context.Context, req *adminv1.AlterQuotasRequest) (*adminv1.AlterQuotasResponse, error) {
	out, err := s.c.alterQuotas(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return out, nil
}

func (c *Controller) alterQuotas(ctx context.Context, req *adminv1.AlterQuotasRequest) (*adminv1.AlterQuotasResponse, error) {
	t, err := c.leading()
	if err != nil {
		return nil, err
	}
	tenant, err := t.parseParent(req.GetParent())
	if err != nil {
		return nil, err
	}
	if n := len(req.GetChanges()); n > quotaChangesMax {
		return nil, federation.Errorf(federation.InvalidArgument, "%d changes of quotas in one request: want at most %d", n, quotaChangesMax)
	}
	changes := make([]federation.QuotaChange, 0, len(req.GetChanges()))
	for _, in := range req.GetChanges() {
		change := federation.QuotaChange{Entity: quotaEntityOf(tenant, in.GetEntity()), Set: make(map[federation.QuotaKey]float64, len(in.GetSet()))}
		for k, v := range in.GetSet() {
			change.Set[federation.QuotaKey(k)] = v
		}
		for _, k := range in.GetRemove() {
			change.Remove = append(change.Remove, federation.QuotaKey(k))
		}
		changes = append(changes, change)
	}
	edit := func(m *federation.Map) (*federation.Map, error) {
		next, err := planner.WithQuotas(m, changes)
		if err != nil {
			return nil, err
		}
		if n := len(next.Quotas); n > c.cfg.QuotasMax && n > len(m.Quotas) {
			return nil, federation.Errorf(federation.PolicyViolation, "%d users, client ids and IP addresses would have quotas; want at most %d (--quotas): use defaults, or delete some", n, c.cfg.QuotasMax)
		}
		return next, planner.CheckTenantAccess(m, next, tenant, c.cfg.TenantLimits)
	}
	m := t.current()
	if req.GetValidateOnly() {
		_, err = edit(m)
	} else {
		m, err = t.edit(ctx, edit)
	}
	if err != nil {
		return nil, err
	}
	return &adminv1.AlterQuotasResponse{MapVersion: int64(m.Version)}, nil
}

// ListQuotas returns a page of all quotas.
func (s *quotaService) ListQuotas(_ context.Context, req *adminv1.ListQuotasRequest) (*adminv1.ListQuotasResponse, error) {
	t, err := s.c.leading()
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	tenant, err := t.parseParent(req.GetParent())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	all, next, err := page(t.current().Quotas.Of(tenant).Sorted(), quotaSortKey, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	out := &adminv1.ListQuotasResponse{NextPageToken: next}
	for _, q := range all {
		p := &adminv1.ClientQuota{Entity: quotaEntityProto(q.Entity), Values: make(map[string]float64, len(q.Values))}
		for k, v := range q.Values {
			p.Values[string(k)] = v
		}
		out.Quotas = append(out.Quotas, p)
	}
	return out, nil
}

// quotaSortKey orders as QuotaEntity.Compare does: a part that is not there comes last.
func quotaSortKey(q *federation.Quota) string {
	var b strings.Builder
	for _, n := range []federation.QuotaName{q.Entity.User, q.Entity.ClientID, q.Entity.IP} {
		if n.Set {
			b.WriteString("0" + n.Name + "\x00")
		} else {
			b.WriteString("1\x00")
		}
	}
	return b.String()
}

func quotaEntityOf(tenant string, in *adminv1.QuotaEntity) (e federation.QuotaEntity) {
	e.Tenant = tenant
	if in == nil {
		return e
	}
	for _, p := range []struct {
		to   *federation.QuotaName
		from *string
	}{{&e.User, in.User}, {&e.ClientID, in.ClientId}, {&e.IP, in.Ip}} {
		if p.from != nil {
			*p.to = federation.NamedQuota(*p.from)
		}
	}
	return e
}

func quotaEntityProto(e federation.QuotaEntity) *adminv1.QuotaEntity {
	out := &adminv1.QuotaEntity{}
	for _, p := range []struct {
		to   **string
		from federation.QuotaName
	}{{&out.User, e.User}, {&out.ClientId, e.ClientID}, {&out.Ip, e.IP}} {
		if p.from.Set {
			*p.to = &p.from.Name
		}
	}
	return out
}
