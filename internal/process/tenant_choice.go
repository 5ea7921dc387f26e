package process

import (
	"net/http"
	"strings"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/security"
)

// A tenantChoice finds out whose a caller is.
type tenantChoice struct {
	enabled        bool   // there are tenants
	logicalCluster string // the deployment's own
	base           func() *federation.Map
	own            func() *federation.Map // as clients of the deployment's own see it
	authz          *acl.Authorizer        // of the deployment's own logical cluster
}

// choose says which tenant a call of the Connect API is for, and who calls there; none if it
// is for the deployment's own logical cluster. Users of a tenant are served by it alone. Who
// may do everything chooses by the header.
func (c *tenantChoice) choose(r *http.Request, p security.Principal, external bool) (tenant string, there security.Principal, err error) {
	named := r.Header.Get(headerLogicalCluster)
	wanted := named
	if named == c.logicalCluster {
		wanted = ""
	}
	if !c.enabled {
		if wanted != "" {
			return "", p, errNoTenant(wanted)
		}
		return "", p, nil
	}
	if strings.Contains(p.Name, "/") && c.base().Version == 0 {
		return "", p, errNoMap() // it may be a user of a tenant
	}
	tenant, there, err = c.principal(p, external)
	switch {
	case err != nil:
		return "", p, err
	case tenant == "" && wanted == "":
		return "", p, nil
	case tenant == "" && !c.everything(p, r.RemoteAddr):
		return "", p, errNoTenant(wanted)
	case tenant == "":
		return wanted, security.Fleet, nil // it may do everything there
	case named != "" && named != tenant:
		return "", p, errNoTenant(named)
	}
	return tenant, there, nil
}

// everything reports whether a principal may alter the cluster of the deployment's own:
// who may delete a tenant may also look into it.
func (c *tenantChoice) everything(p security.Principal, peer string) bool {
	if p == security.Fleet || !c.authz.Enabled() {
		return true
	}
	may := c.authz.Access(c.own(), acl.Subject{Principal: p, Host: acl.Host(peer)}, "tenant")
	return may.Sees(acl.Alter, acl.Cluster, federation.ACLClusterName)
}

// principal reads a name that can be qualified. A token or certificate that names a
// tenant which is not there is nobody's: it must not become another user by a deletion.
func (c *tenantChoice) principal(p security.Principal, external bool) (tenant string, plain security.Principal, err error) {
	tenant, name := c.base().SplitUser(p.Name)
	if tenant != "" {
		return tenant, security.Principal{Type: p.Type, Name: name}, checkPlain(p, name)
	}
	if prefix, _, ok := strings.Cut(p.Name, "/"); ok && external && logicalClusterName(prefix) {
		return "", p, federation.Errorf(federation.Unauthenticated, "%s names the tenant %q, which does not exist", p, prefix)
	}
	return "", p, nil
}
