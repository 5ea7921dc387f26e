package process

import (
	"context"
	"net/http"
	"sync"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/security"
	"github.com/braidmq/braid/kafkacompat"
	"github.com/braidmq/braid/nameserver"
)

// namedTenants have a name service and its bootstrap tell clients of tenants of their
// gateways: the answers are those of a view of the map, as at the gateways.
type namedTenants struct {
	kafkaTenants
	names *nameserver.Service
	// options are those of the Connect service.
	options []connect.HandlerOption

	// For the bootstrap.
	ids router.ProducerIDs

	mu      sync.Mutex // guards the following
	tenants map[string]*namedTenant
}

// A namedTenant is the bootstrap of one life of a tenant.
type namedTenant struct {
	clusterID string
	*tenantServers
}

// view is the map as a tenant's clients see it.
func (n *namedTenants) view(tenant string) (*tenantView, *federation.Map, error) {
	m, served := n.views.split().Of(tenant)
	switch {
	case served:
		return &tenantView{splitter: n.views, tenant: tenant}, m, nil
	case m.Version == 0:
		return nil, nil, errNoMap()
	default:
		return nil, nil, errNoTenant(tenant)
	}
}

// handler says who serves a call; nil = what is the deployment's own.
func (n *namedTenants) handler(r *http.Request, p security.Principal, external bool) (http.Handler, security.Principal, error) {
	tenant, there, err := n.choose(r, p, external)
	if err != nil || tenant == "" {
		return nil, p, err
	}
	view, _, err := n.view(tenant)
	if err != nil {
		return nil, p, err
	}
	_, h := n.names.Of(view).Handler(n.options...) // clients ask once, when they start
	return h, there, nil
}

// serversOf returns the bootstrap of a tenant, made when its first client comes.
func (n *namedTenants) serversOf(tenant string) (*tenantServers, error) {
	_, m, err := n.view(tenant)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if have := n.tenants[tenant]; have != nil && have.clusterID == m.ClusterID {
		return have.tenantServers, nil
	}
	log := n.w.log.With("tenant", tenant)
	authorizer, err := n.w.tenantAuthorizer(tenant, log)
	if err != nil {
		return nil, err
	}
	fresh := &namedTenant{m.ClusterID, n.make(kafkacompat.TenantDeps{
		Name: tenant, NewSession: func() router.Session { return noSession{n.ids} }, Groups: noGroups{}, Authorizer: authorizer, Logger: log,
	})}
	if old := n.tenants[tenant]; old != nil { // run has not seen yet that it is another one
		old.close()
	}
	n.tenants[tenant] = fresh
	return fresh.tenantServers, nil
}

// run lets go of tenants that are deleted.
func (n *namedTenants) run(ctx context.Context) error {
	for {
		changed := n.views.source.Changed()
		n.forgetGone()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *namedTenants) forgetGone() {
	split := n.views.split()
	n.forgetUnused()
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, t := range n.tenants {
		if m, served := split.Of(name); !served || m.ClusterID != t.clusterID {
			delete(n.tenants, name)
			n.forget(name)
			t.close()
		}
	}
}
