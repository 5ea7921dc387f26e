package process

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gen/braid/control/v1/controlv1connect"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/internal/security"
)

// A guard stands before a Connect port: it finds out who calls, refuses who may not,
// and ends the calls of those whose credential was revoked, or whose token has expired.
type guard struct {
	*access
	required bool // all must prove who they are
	internal bool // only processes of the fleet may call
	next     http.Handler
	refusal  *connect.ErrorWriter
	auths    metric.Int64Counter // by method and outcome; nil = not counted
	audit    *acl.Authorizer     // records who is no process of the fleet; nil = nobody does
	// tenant says who serves a call, and who calls there; nil = all are served by next.
	tenant func(r *http.Request, p security.Principal, external bool) (http.Handler, security.Principal, error)

	mu    sync.Mutex // guards the following
	calls map[*guarded]struct{}
}

// counted has a guard count authentications.
func (w *wiring) counted(g *guard) (*guard, error) {
	var err error
	g.auths, err = w.telemetry.meter().Int64Counter("braid.connect.authentications",
		metric.WithUnit("{authentication}"), metric.WithDescription("Calls of the Connect API that said who they are, by method and outcome."))
	return g, err
}

// A guarded is a call that a user makes.
type guarded struct {
	identity security.Identity
	cancel   context.CancelCauseFunc
}

func (a *access) guard(next http.Handler, required, internal bool) *guard {
	return &guard{access: a, required: required, internal: internal, next: next, refusal: connect.NewErrorWriter(), calls: make(map[*guarded]struct{})}
}

// open are paths that need no proof: they tell nothing about data, and who watches over
// processes has no credential.
func open(path string) bool {
	return strings.HasPrefix(path, "/"+grpchealth.HealthV1ServiceName+"/") || strings.HasPrefix(path, "/grpc.reflection.")
}

// fleetOnly are services that only processes of the fleet call.
func fleetOnly(path string) bool {
	return strings.HasPrefix(path, "/"+controlv1connect.RelayServiceName+"/") || strings.HasPrefix(path, "/"+controlv1connect.ControlServiceName+"/")
}

// errUnauthenticated is what a caller is told; why is for the log.
func errUnauthenticated(text string) *federation.Error {
	return federation.Errorf(federation.Unauthenticated, "%s", text)
}

// ServeHTTP implements http.Handler.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if open(r.URL.Path) {
		g.next.ServeHTTP(w, r)
		return
	}
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if g.token != nil && strings.EqualFold(scheme, "Bearer") && g.token.Is(strings.TrimSpace(value)) {
		g.serveFleet(w, r)
		return
	}
	if g.token != nil && (g.internal || fleetOnly(r.URL.Path)) {
		may := g.audit.Access(nil, acl.Subject{Principal: security.Anonymous, Host: acl.Host(r.RemoteAddr)}, r.URL.Path)
		may.Refuse(r.Context(), acl.ClusterAction, acl.Cluster, federation.ACLClusterName) // as Kafka, of requests between brokers
		g.refuse(w, r, errUnauthenticated("this is for processes of the fleet: call a gateway, or show the token of --fleet-token-file"))
		return
	}
	id, err := g.identify(r, scheme, strings.TrimSpace(value))
	g.count(r, scheme, id, err)
	switch {
	case err != nil:
		g.log.Info("authentication failed", "remote", r.RemoteAddr, "error", err, "cause", errors.Unwrap(err))
		if federation.KindOf(err) == federation.Unauthenticated {
			pause(r.Context(), failedAuthenticationDelay) // so that guesses take their time
		}
		g.refuse(w, r, err)
	case id == nil && g.required:
		w.Header().Set("WWW-Authenticate", `Bearer, Basic realm="braid"`)
		g.refuse(w, r, errUnauthenticated("authenticate: set the header authorization to Bearer TOKEN or Basic, as of `braid credential create`, or use a client certificate"))
	case id == nil:
		g.serve(w, r, security.Anonymous, false)
	default:
		g.serveUser(w, r, *id)
	}
}

// failedAuthenticationDelay is how late a failed authentication is answered, as by the
// Kafka facade.
const failedAuthenticationDelay = 100 * time.Millisecond

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// count counts calls that said who they are.
func (g *guard) count(r *http.Request, scheme string, id *security.Identity, err error) {
	if g.auths == nil || id == nil && err == nil {
		return
	}
	method := "SSL"
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		method = "Bearer"
	case strings.EqualFold(scheme, "Basic"):
		method = "Basic"
	case scheme != "":
		method = "other"
	}
	outcome := "ok"
	switch {
	case security.Undecided(err):
		outcome = "undecided"
	case err != nil:
		outcome = "failed"
	}
	g.auths.Add(r.Context(), 1, metric.WithAttributes(attribute.String("method", method), attribute.String("outcome", outcome)))
}

func (g *guard) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if g.refusal.IsSupported(r) {
		_ = g.refusal.Write(w, r, rpcerror.Error(err)) // fails only if the caller is gone
		return
	}
	status := http.StatusUnauthorized
	if federation.KindOf(err).Retriable() {
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, err.Error(), status)
}

// serveFleet serves a process of the fleet, which says for whom it calls; or an operator
// who has the fleet's token.
func (g *guard) serveFleet(w http.ResponseWriter, r *http.Request) {
	p := security.Fleet
	if text, err := url.QueryUnescape(r.Header.Get(headerPrincipal)); err == nil && text != "" {
		if p, err = security.ParsePrincipal(text); err != nil {
			g.refuse(w, r, errUnauthenticated("the header "+headerPrincipal+" names no principal"))
			return
		}
	}
	g.serve(w, r, p, false)
}

// serve gives a call to the one who serves it, in the name of a principal, which is
// external if no credential of the map has proven it.
func (g *guard) serve(w http.ResponseWriter, r *http.Request, p security.Principal, external bool) {
	next := g.next
	if g.tenant != nil && !fleetOnly(r.URL.Path) {
		handler, there, err := g.tenant(r, p, external)
		if err != nil {
			g.refuse(w, r, err)
			return
		}
		if p = there; handler != nil {
			next = handler
		}
	}
	if p != security.Anonymous {
		r = r.WithContext(security.WithPrincipal(r.Context(), p))
	}
	next.ServeHTTP(w, r)
}

// identify finds out who calls; nil if the call does not say.
func (g *guard) identify(r *http.Request, scheme, value string) (id *security.Identity, err error) {
	ctx := security.WithSource(r.Context(), acl.Host(r.RemoteAddr))
	switch {
	case g.connect == nil:
		return nil, nil //nolint:nilnil // nobody is known here
	case strings.EqualFold(scheme, "Bearer"):
		id, err = g.connect.CheckToken(ctx, value)
	case strings.EqualFold(scheme, "Basic"):
		user, password, ok := r.BasicAuth()
		if !ok {
			return nil, errUnauthenticated("the header authorization is no base64 of USER:PASSWORD")
		}
		id, err = g.connect.CheckPassword(ctx, user, password)
	case scheme != "":
		return nil, errUnauthenticated("the header authorization is of a scheme that is not known: want Bearer or Basic")
	case r.TLS != nil && len(r.TLS.VerifiedChains) > 0:
		p, err := g.rules.Principal(r.TLS.PeerCertificates[0])
		if err != nil {
			return nil, errUnauthenticated("the client certificate names nobody who is known here").WithCause(err)
		}
		return &security.Identity{Principal: p, Method: "SSL"}, nil
	default:
		return nil, nil //nolint:nilnil // the call does not say
	}
	if err != nil && !g.known() {
		return nil, federation.Errorf(federation.NoLeader, "this process has no map yet, so it knows no users; try again")
	}
	if err != nil && r.Context().Err() == nil && !security.Undecided(err) {
		// Not why: a guess must not learn which part was right.
		err = federation.Errorf(federation.Unauthenticated, "the credential in the header authorization does not hold").WithCause(err)
	}
	return id, err
}

// serveUser serves a user, as long as the identity holds.
func (g *guard) serveUser(w http.ResponseWriter, r *http.Request, id security.Identity) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	call := &guarded{id, cancel}
	g.mu.Lock()
	g.calls[call] = struct{}{}
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.calls, call)
	}()
	if !g.connect.Holds(id, time.Now()) { // revoked since it was looked up, before watch could see the call
		g.refuse(w, r, errUnauthenticated(identityEndedText))
		return
	}
	if !id.Expires.IsZero() {
		timer := time.AfterFunc(time.Until(id.Expires), func() { cancel(errIdentityEnded) })
		defer timer.Stop()
	}
	g.serve(w, r.WithContext(ctx), id.Principal, external(id))
}

const identityEndedText = "the credential was revoked, or the token has expired; authenticate again"

// errIdentityEnded is the cause of the end of calls of users who are not known any more.
var errIdentityEnded = errors.New("identity ended")

// watch ends calls whose credentials have left the map.
func (g *guard) watch(ctx context.Context, changed func() <-chan struct{}) error {
	for {
		next := changed()
		g.mu.Lock()
		now := time.Now()
		for call := range g.calls {
			if !g.connect.Holds(call.identity, now) {
				call.cancel(errIdentityEnded)
			}
		}
		g.mu.Unlock()
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// An ending tells a caller why its call ended when it is not known any more.
type ending struct{}

var _ connect.Interceptor = ending{}

func (ending) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		resp, err := next(ctx, r)
		return resp, ended(ctx, err)
	}
}

func (ending) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (ending) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return ended(ctx, next(ctx, conn))
	}
}

func ended(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errIdentityEnded) {
		return rpcerror.Error(errUnauthenticated(identityEndedText))
	}
	return err
}
