package process

import (
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
	tenantChoice
	w     *wiring
	views *splitter
	names *nameserver.Service
	// options are those of the Connect service.
	options []connect.HandlerOption

	// For the bootstrap.
	root  *kafkacompat.Server
	ids   router.ProducerIDs
	admin controllerClients

	mu      sync.Mutex // guards the following
	servers map[string]*namedTenant
}

// A namedTenant is the bootstrap of one life of a tenant.
type namedTenant struct {
	clusterID string
	server    *kafkacompat.Server
}

// view is the map as a tenant's clients see it.
func (n *namedTenants) view(tenant string) (*tenantView, *federation.Map, error) {
	m, served := n.views.split().Of(tenant)
	switch {
	case served:
		return &tenantView{n.views, tenant}, m, nil
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

// kafkaOf says which Server a Kafka client belongs to; nil = the deployment's own.
func (n *namedTenants) kafkaOf(id security.Identity) (*kafkacompat.Server, security.Principal, error) {
	tenant, p, err := n.principal(id.Principal, external(id))
	if err != nil || tenant == "" {
		return nil, p, err
	}
	view, m, err := n.view(tenant)
	if err != nil {
		return nil, p, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if have := n.servers[tenant]; have != nil && have.clusterID == m.ClusterID {
		return have.server, p, nil
	}
	log := n.w.log.With("tenant", tenant)
	authorizer, err := n.w.tenantAuthorizer(tenant, log)
	if err != nil {
		return nil, p, err
	}
	server := n.root.Tenant(kafkacompat.TenantDeps{
		Name: tenant, Maps: view, NewSession: func() router.Session { return noSession{n.ids} }, Groups: noGroups{}, Admin: newKafkaAdmin(n.admin, tenant),
		Authorizer: authorizer, Credentials: &kafkaCredentials{n.admin.creds, "logicalClusters/" + tenant}, Auth: n.w.tenantAuth(view), Logger: log,
	})
	n.servers[tenant] = &namedTenant{m.ClusterID, server}
	return server, p, nil
}
