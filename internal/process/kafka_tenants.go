package process

import (
	"context"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/lifecycle"
	"github.com/braidmq/braid/internal/security"
	"github.com/braidmq/braid/kafkacompat"
)

// kafkaTenants find out which tenant a Kafka client belongs to: by who it is, by the
// listener that it came to, or by the name in its TLS handshake. Gateways and the bootstrap
// of name services do so alike.
type kafkaTenants struct {
	tenantChoice

	w     *wiring
	views *splitter
	admin controllerClients
	host  string // behind the tenant's name in a TLS handshake; empty = names say nothing
	// root is the Server of the deployment's own logical cluster.
	root *kafkacompat.Server
	// servers are those of a tenant.
	servers func(tenant string) (*tenantServers, error)

	nameMu sync.Mutex                     // guards the following
	byName map[string]*kafkacompat.Server // for clients that name a tenant in a TLS handshake
	warned map[string]time.Time           // when the lack of addresses was logged last, by tenant
}

// tenantServers serve the Kafka clients of one tenant.
type tenantServers struct {
	named *kafkacompat.Server // those that are the tenant's wherever they come
	bound *kafkacompat.Server // those that are so only at addresses of the tenant's own
}

func (s *tenantServers) close() {
	s.named.CloseConnections()
	s.bound.CloseConnections()
}

// make makes the Servers of a tenant; what they know of the map and of users is filled in.
func (k *kafkaTenants) make(deps kafkacompat.TenantDeps) *tenantServers {
	view := &tenantView{splitter: k.views, tenant: deps.Name}
	deps.Maps, deps.Admin, deps.Auth = view, newKafkaAdmin(k.admin, deps.Name).ofTenant(), k.w.tenantAuth(view)
	deps.Credentials = &kafkaCredentials{k.admin.creds, "logicalClusters/" + deps.Name}
	bound := deps
	bound.Maps = &tenantView{splitter: k.views, tenant: deps.Name, bound: true}
	return &tenantServers{k.root.Tenant(deps), k.root.Tenant(bound)}
}

// forget lets go of what is kept for a tenant that is gone, or another one now.
func (k *kafkaTenants) forget(tenant string) {
	k.nameMu.Lock()
	defer k.nameMu.Unlock()
	delete(k.byName, tenant)
	delete(k.warned, tenant)
}

// forgetUnused does so for those that nobody was let in to.
func (k *kafkaTenants) forgetUnused() {
	m := k.base()
	gone := func(tenant string) bool { return tenant != noTenant && m.Tenants[tenant] == nil }
	k.nameMu.Lock()
	defer k.nameMu.Unlock()
	maps.DeleteFunc(k.byName, func(tenant string, _ *kafkacompat.Server) bool { return gone(tenant) })
	maps.DeleteFunc(k.warned, func(tenant string, _ time.Time) bool { return gone(tenant) })
}

// noTenant stands for all names that are those of no tenant.
const noTenant = "?"

// kafkaDeps has the Kafka facade find out whose a client is.
func (k *kafkaTenants) kafkaDeps(deps *kafkacompat.Deps) {
	if !k.enabled {
		return
	}
	deps.TenantOf = func(id security.Identity) (*kafkacompat.Server, security.Principal, error) {
		tenant, p, err := k.principal(id.Principal, external(id))
		if err != nil || tenant == "" {
			return nil, p, err
		}
		servers, err := k.servers(tenant)
		if err != nil {
			return nil, p, err
		}
		return servers.named, p, nil
	}
	if k.host != "" {
		deps.ByServerName = func(name string) *kafkacompat.Server {
			tenant, rest, _ := strings.Cut(strings.ToLower(name), ".")
			if !strings.EqualFold(rest, k.host) {
				return nil
			}
			return k.named(tenant)
		}
	}
}

// external reports whether who a client is was not proven by a credential of the map:
// what a token or a certificate says is not of a tenant, unless it names it.
func external(id security.Identity) bool {
	return id.Method == "SSL" || id.Method == security.OAuthBearer
}

// checkPlain refuses a token or certificate that names one of braid's own in a tenant: it
// would be a super user there.
func checkPlain(p security.Principal, name string) error {
	if p != security.Anonymous && (security.Reserved(name) || name == "") {
		return federation.Errorf(federation.Unauthenticated, "%s: %q stands for nobody who can log in", p, name)
	}
	return nil
}

func logicalClusterName(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// listener makes the Server of a listener for one tenant. It only finds out who comes.
func (k *kafkaTenants) listener(tenant string) *kafkacompat.Server {
	view := &tenantView{splitter: k.views, tenant: tenant}
	return k.root.Tenant(kafkacompat.TenantDeps{
		Name: tenant, Maps: view, NewSession: func() router.Session { return noSession{} }, Groups: noGroups{},
		Admin: newKafkaAdmin(k.admin, tenant).ofTenant(), Credentials: &kafkaCredentials{k.admin.creds, "logicalClusters/" + tenant},
		Auth: k.w.tenantAuth(view), Logger: k.w.log.With("tenant", tenant),
		TenantOf: func(id security.Identity) (*kafkacompat.Server, security.Principal, error) {
			p := id.Principal
			name, ok := strings.CutPrefix(p.Name, federation.QualifyUser(tenant, ""))
			if !ok && external(id) && p != security.Anonymous {
				return nil, p, federation.Errorf(federation.Unauthenticated, "%s came to the listener of tenant %q; its name does not begin with %s/", p, tenant, tenant)
			}
			if err := checkPlain(p, name); err != nil {
				return nil, p, err
			}
			p.Name = name
			servers, err := k.servers(tenant)
			if err != nil {
				return nil, p, err
			}
			if ok {
				return servers.named, p, nil
			}
			k.warnOfNoAddress(tenant)
			return servers.bound, p, nil
		},
	})
}

// noAddressInterval is how often it is logged that a tenant's clients have nowhere to go.
const noAddressInterval = time.Minute

// warnOfNoAddress logs that there are gateways, and none has an address of the tenant's
// own: its clients are told of no gateway, and find no fault of theirs.
func (k *kafkaTenants) warnOfNoAddress(tenant string) {
	m, _ := k.views.split().BoundOf(tenant)
	if len(m.Gateways) == 0 || slices.ContainsFunc(m.Gateways, func(g *federation.Gateway) bool { return g.KafkaAddress != "" }) {
		return
	}
	now := time.Now()
	k.nameMu.Lock()
	tell := now.Sub(k.warned[tenant]) >= noAddressInterval
	if tell {
		if k.warned == nil {
			k.warned = make(map[string]time.Time)
		}
		k.warned[tenant] = now
	}
	k.nameMu.Unlock()
	if tell {
		k.w.log.Warn("a client came by an address of the tenant, and no gateway has one: it finds no gateway. Give gateways --tenant-kafka-listen or --tenant-sni, or have clients log in as TENANT/USER", "tenant", tenant)
	}
}

// named returns the Server for clients that name a tenant in their handshake. It is kept,
// as what it knows of passwords, and shows to who is not known, must stay the same. Those
// that name none that is there come to nobody, and not to the deployment's own.
func (k *kafkaTenants) named(tenant string) *kafkacompat.Server {
	if k.base().Tenants[tenant] == nil {
		tenant = noTenant
	}
	k.nameMu.Lock()
	defer k.nameMu.Unlock()
	s := k.byName[tenant]
	if s == nil {
		s = k.listener(tenant)
		if k.byName == nil {
			k.byName = make(map[string]*kafkacompat.Server)
		}
		k.byName[tenant] = s
	}
	return s
}

// listeners serves the listeners of tenants; on has the same bounds as the common one.
func (k *kafkaTenants) listeners(on func(net.Listener) net.Listener) {
	for _, tenant := range slices.Sorted(maps.Keys(k.w.Process.tenants)) {
		server, l := k.listener(tenant), on(k.w.Process.tenants[tenant])
		k.w.task(lifecycle.Task{Name: "kafka facade of " + tenant, Run: func(ctx context.Context) error {
			if err := server.Serve(ctx, l); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		}})
	}
}

// tenantAuth knows the users of a tenant by their plain names, and by their qualified ones:
// clients that came to the common listener are sent here too.
func (w *wiring) tenantAuth(view *tenantView) *security.Authenticator {
	return w.access.auth.Of(func(id federation.CredentialID) *federation.Credential {
		id.User = strings.TrimPrefix(id.User, federation.QualifyUser(view.tenant, ""))
		return view.Current().Credential(id)
	})
}
