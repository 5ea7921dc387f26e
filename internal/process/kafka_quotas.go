package process

import (
	"context"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

// AlterQuotas implements kafkacompat.Admin.
func (a *kafkaAdmin) AlterQuotas(ctx context.Context, changes []federation.QuotaChange, validateOnly bool) (federation.MapVersion, error) {
	req := &adminv1.AlterQuotasRequest{Parent: a.parent, ValidateOnly: validateOnly}
	for _, c := range changes {
		out := &adminv1.QuotaChange{Entity: &adminv1.QuotaEntity{}, Set: make(map[string]float64, len(c.Set))}
		for _, p := range []struct {
			to   **string
			from federation.QuotaName
		}{{&out.Entity.User, c.Entity.User}, {&out.Entity.ClientId, c.Entity.ClientID}, {&out.Entity.Ip, c.Entity.IP}} {
			if p.from.Set {
				*p.to = new(p.from.Name)
			}
		}
		for k, v := range c.Set {
			out.Set[string(k)] = v
		}
		for _, k := range c.Remove {
			out.Remove = append(out.Remove, string(k))
		}
		req.Changes = append(req.Changes, out)
	}
	var version federation.MapVersion
	err := retry(ctx, func(ctx context.Context) error {
		resp, err := a.quotas.AlterQuotas(ctx, req)
		version = federation.MapVersion(resp.GetMapVersion())
		return err
	})
	return version, err
}
