package process

import (
	"context"
	"strings"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
)

// forwardedTenants adds what gateways know of tenants and controllers do not: the limits
// that they keep, and what clients have open here.
type forwardedTenants struct {
	adminv1connect.TenantServiceClient
	t *tenancy
}

// GetTenant implements adminv1connect.TenantServiceHandler.
func (f *forwardedTenants) GetTenant(ctx context.Context, r *adminv1.GetTenantRequest) (*adminv1.GetTenantResponse, error) {
	resp, err := f.TenantServiceClient.GetTenant(ctx, r)
	if err != nil {
		return nil, err
	}
	f.add(resp.GetTenant())
	return resp, nil
}

// ListTenants implements adminv1connect.TenantServiceHandler.
func (f *forwardedTenants) ListTenants(ctx context.Context, r *adminv1.ListTenantsRequest) (*adminv1.ListTenantsResponse, error) {
	resp, err := f.TenantServiceClient.ListTenants(ctx, r)
	if err != nil {
		return nil, err
	}
	for _, tenant := range resp.GetTenants() {
		f.add(tenant)
	}
	return resp, nil
}

func (f *forwardedTenants) add(tenant *adminv1.Tenant) {
	if limits := tenant.GetEffectiveLimits(); limits != nil {
		here := federation.TenantLimits{Groups: limits.GetGroups(), Connections: limits.GetConnections()}.Or(f.t.w.cfg.TenantLimits)
		limits.Groups, limits.Connections = here.Groups, here.Connections
	}
	f.t.mu.Lock()
	parts := f.t.parts[tenantID(tenant)]
	f.t.mu.Unlock()
	if parts != nil && parts.clusterID == tenant.GetClusterId() {
		tenant.Connections = parts.room.Open()
	}
}

func tenantID(tenant *adminv1.Tenant) string {
	return strings.TrimPrefix(tenant.GetName(), "tenants/")
}
