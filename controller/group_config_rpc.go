package controller

import (
	"cmp"
	"context"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/rpcerror"
)

// Settings of groups are entries of the map, like quotas: the coordinators follow them. What
// a group may set is a setting of the gateways, so they check that before they call.
type groupConfigService struct{ c *Controller }

// AlterGroupConfig changes the settings of a group in the map.
func (s *groupConfigService) AlterGroupConfig(ctx context.Context, req *adminv1.AlterGroupConfigRequest) (*adminv1.AlterGroupConfigResponse, error) {
	out, err := s.c.alterGroupConfig(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return out, nil
}

func (c *Controller) alterGroupConfig(ctx context.Context, req *adminv1.AlterGroupConfigRequest) (*adminv1.AlterGroupConfigResponse, error) {
	t, err := c.leading()
	if err != nil {
		return nil, err
	}
	tenant, err := t.parseParent(req.GetParent())
	if err != nil {
		return nil, err
	}
	change := &federation.GroupConfigChange{GroupID: federation.GroupID{Tenant: tenant, Group: req.GetGroup()}, Set: req.GetSet(), Remove: req.GetRemove()}
	edit := func(m *federation.Map) (*federation.Map, error) {
		next, err := planner.WithGroupConfig(m, change)
		if err != nil {
			return nil, err
		}
		if n := len(next.GroupConfigs); n > c.cfg.GroupConfigsMax && n > len(m.GroupConfigs) {
			return nil, federation.Errorf(federation.PolicyViolation, "%d groups would have settings of their own; want at most %d (--group-configs): set what holds for all by flags of the gateways, or delete those of some groups", n, c.cfg.GroupConfigsMax)
		}
		own := m.Tenants[tenant]
		if had, has := len(m.GroupConfigs.Of(tenant)), len(next.GroupConfigs.Of(tenant)); own != nil && has > had {
			if most := cmp.Or(int(own.Limits.Groups), max(1, c.cfg.GroupConfigsMax/10)); has > most {
				return nil, federation.Errorf(federation.PolicyViolation, "%d groups of logical cluster %q would have settings of their own; it may have %d: delete those of some groups, or ask the operators of the deployment for more (`braid tenant update --max-groups`)", has, tenant, most)
			}
		}
		return next, nil
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
	return &adminv1.AlterGroupConfigResponse{MapVersion: int64(m.Version)}, nil
}

// ListGroupConfigs returns a page of the groups that have settings of their own.
func (s *groupConfigService) ListGroupConfigs(_ context.Context, req *adminv1.ListGroupConfigsRequest) (*adminv1.ListGroupConfigsResponse, error) {
	t, err := s.c.leading()
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	tenant, err := t.parseParent(req.GetParent())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	all, next, err := page(t.current().GroupConfigs.Of(tenant).Sorted(), func(c *federation.GroupConfig) string { return c.Group }, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	out := &adminv1.ListGroupConfigsResponse{NextPageToken: next}
	for _, c := range all {
		out.GroupConfigs = append(out.GroupConfigs, &adminv1.GroupConfig{Group: c.Group, Values: c.Values})
	}
	return out, nil
}
