package kafkacompat

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/logging"
	"github.com/braidmq/braid/internal/quota"
	"github.com/braidmq/braid/internal/security"
)

// TenantDeps is what is a tenant's own.
type TenantDeps struct {
	Name        string
	Maps        Maps
	NewSession  func() router.Session
	Groups      groups.Coordinator
	Admin       Admin
	Authorizer  *acl.Authorizer
	Limiter     *quota.Limiter
	Credentials Credentials
	// Room bounds how many connections clients of the tenant have open; nil = any number.
	Room *quota.Room
	// Auth and TenantOf are for clients that come to a listener of the tenant.
	Auth     *security.Authenticator
	TenantOf func(security.Identity) (*Server, security.Principal, error)
	Logger   *slog.Logger
}

// Tenant makes the Server of a tenant. Its connections count to those of s, whose bounds
// they share; they come by its own listeners, or are handed over by Deps.TenantOf. Drain,
// Connections and the end are those of s.
func (s *Server) Tenant(t TenantDeps) *Server {
	deps := s.deps
	deps.Maps, deps.NewSession, deps.Groups, deps.Admin = t.Maps, t.NewSession, t.Groups, t.Admin
	deps.Authorizer, deps.Limiter, deps.Credentials = t.Authorizer, t.Limiter, t.Credentials
	deps.TenantOf, deps.ByServerName = t.TenantOf, nil
	if deps.Auth != nil {
		deps.Auth = t.Auth
	}
	deps.Logger = t.Logger
	return &Server{cfg: s.cfg, deps: deps, log: t.Logger, clients: logging.Limited(t.Logger), tenant: t.Name, room: t.Room, shared: s.shared}
}

// mapWaits is how many AuthenticationTimeouts a client waits for the map, which says
// whose it is. That is longer than SDKs wait for an answer: some take a connection that
// ends before the first one for their own mistake, and give up what they were to send.
const mapWaits = 3

// settle gives the connection to the Server that its client belongs to. Nothing works
// for the connection yet.
func (c *conn) settle(ctx context.Context) error {
	if c.s.deps.TenantOf == nil {
		return nil
	}
	id := security.Identity{Principal: c.principal, Method: methodTLS}
	if s := c.session.Load(); s != nil {
		id = s.identity
	}
	if (c.s.tenant != "" || strings.Contains(id.Principal.Name, "/")) && !c.awaitAnyMap(ctx, mapWaits*c.s.cfg.AuthenticationTimeout) {
		return errNoMap
	}
	to, principal, err := c.s.deps.TenantOf(id)
	if err != nil {
		return err
	}
	c.principal = principal
	if !c.move(to) {
		return errTenantGone
	}
	if err := c.s.room.Enter(); err != nil {
		c.s.deps.Metrics.refused(ctx)
		return err
	}
	c.entered = c.s.room
	return nil
}

// errTenantGone closes a connection that came while its tenant was deleted.
var errTenantGone = errors.New("the tenant of the client is gone")

// move gives the connection to another Server, unless that is nil or the same. It fails
// if that serves no more.
func (c *conn) move(to *Server) bool {
	if to == nil || to == c.s {
		return true
	}
	mu := &c.s.mu // of both
	mu.Lock()
	defer mu.Unlock()
	c.s, c.log = to, to.clients.With("remote", c.nc.RemoteAddr().String())
	return !to.gone
}

// named gives the connection to the Server that the client has named in its handshake.
func (c *conn) named(serverName string) {
	if c.s.deps.ByServerName == nil {
		return
	}
	if to := c.s.deps.ByServerName(serverName); to != nil {
		c.move(to) // that of a listener, which never goes
		c.auth = to.deps.Auth
	}
}

// CloseConnections closes all connections of a Server at once, and not those of others
// that share its bounds: its tenant is gone, and none comes to it any more.
func (s *Server) CloseConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	for c := range s.conns {
		if c.s == s {
			c.abort()
		}
	}
}
