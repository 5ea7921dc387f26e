package process

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/lifecycle"
	"github.com/braidmq/braid/internal/logging"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/security"
	"github.com/braidmq/braid/kafkacompat"
)

// Access says who may connect, and how they prove who they are. Its zero value asks
// nobody.
type Access struct {
	// Connect, Kafka and Ops are the TLS of the listeners. A name service's Kafka
	// bootstrap has Kafka's.
	Connect, Kafka, Ops security.TLSFiles
	// CA signs the certificates of other processes of the fleet; empty = whom the system trusts.
	CA string
	// PrincipalRules make principals of the subjects of certificates.
	PrincipalRules string
	// SaslMechanisms are those that the Kafka facade offers; with any, it asks all clients.
	SaslMechanisms []string
	// ConnectRequired has the Connect API ask all clients.
	ConnectRequired bool
	// Tokens says whose tokens are taken; none without an issuer.
	Tokens security.TokenConfig
	// Passwords bounds the passwords of each door that wait to be checked.
	Passwords security.QueueConfig
	// FleetTokenFile holds the secret by which processes of the fleet know each other.
	FleetTokenFile string
	// FleetToken is the same for processes that are started together; it wins.
	FleetToken string
	// ClusterSecurityDir holds the security profiles of physical clusters, NAME.yaml each.
	ClusterSecurityDir string
}

// openProfiles opens the directory of security profiles; nil if there is none.
func openProfiles(dir string, log *slog.Logger) (*security.Profiles, error) {
	if dir == "" {
		return nil, nil //nolint:nilnil // profiles are not known then
	}
	profiles, err := security.OpenProfiles(dir, log)
	if err != nil {
		return nil, configErrorf("--cluster-security-dir: %v", err)
	}
	return profiles, nil
}

func (a Access) validate() error {
	for prefix, f := range map[string]security.TLSFiles{"": a.Connect, "kafka-": a.Kafka, "ops-": a.Ops} {
		if err := f.Validate(prefix); err != nil {
			return ConfigError{err.Error()}
		}
	}
	if err := security.CheckMechanisms(a.SaslMechanisms); err != nil {
		return configErrorf("--kafka-sasl-mechanisms: %v", err)
	}
	if _, err := security.ParsePrincipalRules(a.PrincipalRules); err != nil {
		return ConfigError{err.Error()}
	}
	if err := a.Passwords.Validate(); err != nil {
		return ConfigError{err.Error()}
	}
	if a.Tokens != (security.TokenConfig{}) {
		if _, err := security.NewTokenVerifier(a.Tokens, nil, nil); err != nil {
			return ConfigError{err.Error()}
		}
	}
	for _, m := range a.SaslMechanisms {
		if m == security.OAuthBearer && a.Tokens.Issuer == "" {
			return configErrorf("--kafka-sasl-mechanisms %s needs --oauth-issuer, --oauth-audience and --oauth-jwks", m)
		}
	}
	return nil
}

// validateFleet refuses a gateway that has something to guard and could not tell processes
// of its fleet from clients: the relay, by which gateways act for each other's members, would
// lead past ACLs, tenants and authentication. No address is exempt, as clients may come from
// this host, too.
func (c *Config) validateFleet() error {
	a := &c.Access
	if c.Role != Gateway || a.FleetTokenFile != "" || a.FleetToken != "" {
		return nil
	}
	for _, guarded := range []struct {
		yes         bool
		what, flags string
	}{
		{
			a.ConnectRequired || len(a.SaslMechanisms) > 0 || a.Connect.AsksClients() || a.Kafka.AsksClients(),
			"asks clients who they are", "--connect-auth, --kafka-sasl-mechanisms, --tls-client-auth, --kafka-tls-client-auth",
		},
		{c.Authorization.Authorizer == AuthorizerACL, "asks ACLs", "--authorizer"},
		{c.Tenants, "serves tenants", "--tenants"},
	} {
		if guarded.yes {
			return configErrorf("a gateway that %s (%s) needs --fleet-token-file: without it, whoever reaches its Connect port could act as another gateway, past all that. "+
				"Make a token with `head -c 40 /dev/urandom | base64 | tr -d '/+=\\n' > fleet.token`, and give the file to all gateways, controllers and name services", guarded.what, guarded.flags)
		}
	}
	return nil
}

// An access is Access at work.
type access struct {
	cfg     Access
	token   *security.SharedToken // nil = other processes prove nothing
	rules   security.PrincipalRules
	tokens  *security.TokenVerifier // nil = none are taken
	auth    *security.Authenticator // of users of Kafka; set by users
	connect *security.Authenticator // of users of the Connect API; set by users
	known   func() bool             // whether users are known: there is a map; set by users
	log     *slog.Logger            // of who is not known; set by users
	clients *security.ClientTLS     // of connections to other processes
}

// openAccess reads the files that the settings name.
func (p *Process) openAccess() (*access, error) {
	a := &access{cfg: p.cfg.Access}
	var err error
	if a.rules, err = security.ParsePrincipalRules(a.cfg.PrincipalRules); err != nil {
		return nil, ConfigError{err.Error()}
	}
	switch {
	case a.cfg.FleetToken != "":
		a.token = security.NewSharedToken(a.cfg.FleetToken)
	case a.cfg.FleetTokenFile != "":
		if a.token, err = security.ReadSharedToken(a.cfg.FleetTokenFile, p.log); err != nil {
			return nil, configErrorf("--fleet-token-file: %v", err)
		}
	}
	if p.cfg.Upstream.Profiles, err = openProfiles(a.cfg.ClusterSecurityDir, p.log); err != nil {
		return nil, err
	}
	if a.clients, err = a.cfg.Connect.Client(p.log, a.cfg.CA); err != nil {
		return nil, configErrorf("--tls-ca, --tls-cert or --tls-key: %v", err)
	}
	if a.cfg.Tokens.Issuer != "" {
		client := &http.Client{Transport: security.NewTransport(a.clients, func(secure *tls.Config) *http.Transport {
			return &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: p.cfg.Dialer, TLSClientConfig: secure, IdleConnTimeout: 90 * time.Second}
		})}
		if a.tokens, err = security.NewTokenVerifier(a.cfg.Tokens, client, p.log); err != nil {
			return nil, ConfigError{err.Error()}
		}
	}
	return a, nil
}

// withTLS puts TLS on a listener that has it.
func (p *Process) withTLS(l net.Listener, files security.TLSFiles, protocols ...string) (net.Listener, error) {
	if l == nil || !files.Enabled() {
		return l, nil
	}
	cfg, err := files.Server(p.log, protocols...)
	if err != nil {
		return nil, ConfigError{err.Error()}
	}
	return tls.NewListener(l, cfg), nil
}

// scheme is that of the Connect API of this process, and of the others of its fleet.
func (a *access) scheme() string {
	if a.cfg.Connect.Enabled() {
		return "https"
	}
	return "http"
}

// users makes users known who are in the map, and keeps the keys of their issuer fresh.
func (w *wiring) users(current func() *federation.Map) {
	w.access.auth = security.NewAuthenticator(w.access.cfg.SaslMechanisms,
		func(id federation.CredentialID) *federation.Credential { return current().Credential(id) }, w.access.tokens)
	w.access.auth.HideUnknown(func(m federation.ScramMechanism, at uint64) int32 { return current().IterationsAt(m, at) })
	w.access.auth.LimitPasswords(w.access.cfg.Passwords)
	w.access.connect = w.access.auth.Door()
	w.access.log = logging.Limited(w.log)
	w.access.known = func() bool { return current().Version > 0 }
	if w.access.tokens != nil {
		w.task(lifecycle.Task{Name: "token keys", Run: w.access.tokens.Run})
	}
}

// shareSecret has users that do not exist look alike at all gateways.
func (w *wiring) shareSecret(ctx context.Context, store *redisstore.Store) error {
	for ctx.Err() == nil {
		if key, err := store.TokenKey(ctx, w.cfg.LogicalCluster); err == nil {
			w.access.auth.ShareSecret(key)
			<-ctx.Done()
			break
		}
		select {
		case <-time.After(shareSecretRetry):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// shareSecretRetry is the time between two tries to read the secret from Redis.
const shareSecretRetry = time.Second

// kafkaAccess is what the Kafka facade needs to know its clients.
func (w *wiring) kafkaAccess(deps *kafkacompat.Deps) error {
	if len(w.access.cfg.SaslMechanisms) > 0 {
		deps.Auth = w.access.auth
	}
	deps.Certificates = w.access.rules.Principal
	if !w.access.cfg.Kafka.Enabled() {
		return nil
	}
	var err error
	if deps.TLS, err = w.access.cfg.Kafka.Server(w.log); err != nil {
		return ConfigError{err.Error()}
	}
	return nil
}

// headerPrincipal says for whom a process of the fleet calls. It counts only together
// with the fleet's token.
const headerPrincipal = "Braid-Principal"

// A fleetTransport shows other processes the fleet's token, and for whom it calls.
type fleetTransport struct {
	next  http.RoundTripper
	token *security.SharedToken
}

// RoundTrip implements http.RoundTripper.
func (t *fleetTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+t.token.Current())
	r.Header.Del(headerPrincipal)
	if p := security.PrincipalOf(r.Context()); p != security.Anonymous {
		r.Header.Set(headerPrincipal, url.QueryEscape(p.String()))
	}
	return t.next.RoundTrip(r)
}

// peerTransport reaches other processes of the fleet.
func (w *wiring) peerTransport() http.RoundTripper {
	transport := security.NewTransport(w.access.clients, func(secure *tls.Config) *http.Transport { return newTransport(w.cfg.Dialer, secure) })
	w.onEnd(transport.CloseIdleConnections)
	if w.access.token == nil {
		return transport
	}
	return &fleetTransport{transport, w.access.token}
}

// A kafkaCredentials is the credential service as the Kafka facade needs it.
type kafkaCredentials struct {
	client adminv1connect.CredentialServiceClient
	parent string
}

// AlterCredentials implements kafkacompat.Credentials. To do it twice is harmless: what
// a try whose answer was lost has removed is gone.
func (k *kafkaCredentials) AlterCredentials(ctx context.Context, user string, set []*federation.Credential, remove []federation.ScramMechanism) error {
	req := &adminv1.AlterCredentialsRequest{Parent: k.parent, User: user}
	for _, c := range set {
		req.Upserts = append(req.Upserts, &adminv1.ScramVerifier{
			Mechanism: string(c.Mechanism), Iterations: c.Iterations, Salt: c.Salt, StoredKey: c.StoredKey, ServerKey: c.ServerKey,
		})
	}
	for _, m := range remove {
		req.Removals = append(req.Removals, string(m))
	}
	tried := false
	return retry(ctx, func(ctx context.Context) error {
		_, err := k.client.AlterCredentials(ctx, req)
		if tried && len(set) == 0 && connect.CodeOf(err) == connect.CodeNotFound {
			return nil
		}
		tried = true
		return err
	})
}
