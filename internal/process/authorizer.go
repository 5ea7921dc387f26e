package process

import (
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/security"
)

// Authorization says who decides what clients may do.
type Authorization struct {
	// Authorizer is none, which allows everything, or acl; none by default.
	Authorizer string
	// SuperUsers are principals, such as User:admin, that may do everything [super.users].
	SuperUsers []string
	// AllowIfNoACL allows everybody what no ACL speaks of [allow.everyone.if.no.acl.found].
	AllowIfNoACL bool
	// AuditDenials bounds the denials that are logged in a second; 10 by default.
	AuditDenials int
}

// The authorizers.
const (
	AuthorizerNone = "none"
	AuthorizerACL  = "acl"
)

func (a Authorization) config() (acl.Config, error) {
	cfg := acl.Config{Enabled: a.Authorizer == AuthorizerACL, DenialsPerSecond: a.AuditDenials, Rules: acl.Rules{AllowIfNoACL: a.AllowIfNoACL}}
	switch {
	case a.Authorizer != "" && a.Authorizer != AuthorizerNone && a.Authorizer != AuthorizerACL:
		return cfg, configErrorf("--authorizer %q: want none or acl", a.Authorizer)
	case a.AuditDenials < 0:
		return cfg, configErrorf("--audit-denials %d: want 0 or more", a.AuditDenials)
	}
	for _, text := range a.SuperUsers {
		p, err := security.ParsePrincipal(text)
		if err != nil {
			return cfg, configErrorf("--super-users: %v", err)
		}
		cfg.SuperUsers = append(cfg.SuperUsers, p)
	}
	if !cfg.Enabled && (len(cfg.SuperUsers) > 0 || cfg.AllowIfNoACL) {
		return cfg, configErrorf("--super-users and --allow-everyone-if-no-acl do nothing without --authorizer acl")
	}
	if cfg.Enabled && len(cfg.SuperUsers) == 0 && !cfg.AllowIfNoACL {
		return cfg, configErrorf("--authorizer acl would deny everything until there are ACLs, and nobody could add one: set --super-users User:NAME, or --allow-everyone-if-no-acl")
	}
	return cfg, nil
}

// authorizer makes the authorizer of a gateway's doors. It also records changes if ACLs
// do not decide.
func (w *wiring) authorizer() (*acl.Authorizer, error) {
	cfg, err := w.cfg.Authorization.config()
	if err != nil {
		return nil, err
	}
	return acl.New(cfg, w.log, w.telemetry.meter())
}

// seesTopic tells the group engine which topics a member may describe; nil if all members
// may describe all.
func seesTopic(a *acl.Authorizer, maps interface{ Current() *federation.Map }) func(principal, host string, topic federation.TopicName) bool {
	if !a.Enabled() {
		return nil
	}
	return func(principal, host string, topic federation.TopicName) bool {
		return a.SeesTopic(maps.Current(), principal, host, topic)
	}
}
