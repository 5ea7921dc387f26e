package acl

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/security"
)

// Config has the settings of an Authorizer.
type Config struct {
	Rules
	// Enabled has ACLs decide; else everything is allowed, and changes are only recorded.
	Enabled bool
	// DenialsPerSecond bounds the denials that are logged, and the changes that failed, so
	// that a client that goes on trying fills no disk; 10 by default. The metrics count all.
	DenialsPerSecond int
}

// An Authorizer decides for all doors of a gateway, and records what it denied and what
// was changed. A nil one allows everything and records nothing. It is safe for
// concurrent use.
type Authorizer struct {
	cfg             Config
	log             *slog.Logger
	denials, change metric.Int64Counter
	current         atomic.Pointer[compiled]

	mu     sync.Mutex // guards the following, and compiling
	denies tally
	fails  tally // changes that failed
}

// A tally counts the lines of a second.
type tally struct {
	second  int64 // that logged counts for
	logged  int
	skipped int // since the last one that was logged
}

// compiled is the Snapshot of a map.
type compiled struct {
	m *federation.Map
	s *Snapshot
}

// New makes an Authorizer. Its log has the group audit. It makes the instruments
// braid.audit.denied (operation, resource) and braid.audit.changes (operation, resource).
func New(cfg Config, logger *slog.Logger, meter metric.Meter) (*Authorizer, error) {
	if cfg.DenialsPerSecond == 0 {
		cfg.DenialsPerSecond = 10
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	a := &Authorizer{cfg: cfg, log: logger.With("logger", "audit").WithGroup("audit")}
	var err error
	if a.denials, err = meter.Int64Counter("braid.audit.denied",
		metric.WithDescription("What clients asked for and were denied by an ACL, or for want of one.")); err != nil {
		return nil, fmt.Errorf("authorizer metrics: %w", err)
	}
	if a.change, err = meter.Int64Counter("braid.audit.changes",
		metric.WithDescription("Changes that clients asked for through the admin APIs of both doors.")); err != nil {
		return nil, fmt.Errorf("authorizer metrics: %w", err)
	}
	return a, nil
}

// Enabled reports whether ACLs decide.
func (a *Authorizer) Enabled() bool { return a != nil && a.cfg.Enabled }

// Snapshot returns the compiled ACLs of a map; nil, which allows everything, if ACLs do
// not decide. They are compiled once for all maps that share them.
func (a *Authorizer) Snapshot(m *federation.Map) *Snapshot {
	if !a.Enabled() {
		return nil
	}
	if c := a.current.Load(); c != nil && c.m == m {
		return c.s
	}
	return a.compile(m)
}

func (a *Authorizer) compile(m *federation.Map) *Snapshot {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.current.Load()
	switch {
	case c != nil && c.m == m:
		return c.s
	case c != nil && m != nil && c.m != nil && m.Version < c.m.Version:
		return c.s // who asks has an older map in hand: what was revoked since stays so
	case c != nil && same(aclsOf(c.m), aclsOf(m)):
		a.current.Store(&compiled{m, c.s})
		return c.s
	}
	s := Compile(a.cfg.Rules, aclsOf(m))
	a.current.Store(&compiled{m, s})
	return s
}

func aclsOf(m *federation.Map) federation.ACLs {
	if m == nil {
		return nil
	}
	return m.ACLs
}

// same reports whether two maps share their ACLs.
func same(a, b federation.ACLs) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

// An Access is what one request may do: the ACLs of one moment, and who asks. The zero
// value may do everything.
type Access struct {
	a   *Authorizer
	s   *Snapshot
	who Subject
	api string
}

// Access begins a request of an API. It is asked for again with each request of a
// connection and each frame of a stream, so that what is revoked ends there.
func (a *Authorizer) Access(m *federation.Map, who Subject, api string) Access {
	return Access{a: a, s: a.Snapshot(m), who: who, api: api}
}

// SeesTopic decides whether who is not there now, by principal and host as they were
// written down, may describe a topic. It records nothing.
func (a *Authorizer) SeesTopic(m *federation.Map, principal, host string, topic federation.TopicName) bool {
	if !a.Enabled() {
		return true
	}
	p, err := security.ParsePrincipal(principal)
	if err != nil {
		return false
	}
	x := a.Access(m, Subject{Principal: p, Host: Host(strings.TrimPrefix(host, "/"))}, "")
	return x.Sees(Describe, Topic, string(topic))
}

// Snapshot returns the ACLs that decide; nil if none do. What was allowed by the same ones
// need not be asked again.
func (x *Access) Snapshot() *Snapshot { return x.s }

// May decides, and records a denial.
func (x *Access) May(ctx context.Context, op Operation, res Resource, name string) bool {
	if x.s == nil || x.s.Allowed(&x.who, op, res, name) {
		return true
	}
	x.a.denied(ctx, x, op, res, name)
	return false
}

// Sees decides without a record: for what is left out of a list, and not refused.
func (x *Access) Sees(op Operation, res Resource, name string) bool {
	return x.s == nil || x.s.Allowed(&x.who, op, res, name)
}

// Refuse records a denial that was decided elsewhere.
func (x *Access) Refuse(ctx context.Context, op Operation, res Resource, name string) {
	if x.a != nil {
		x.a.denied(ctx, x, op, res, name)
	}
}

// MayCluster is May for the cluster itself.
func (x *Access) MayCluster(ctx context.Context, op Operation) bool {
	return x.s == nil || x.May(ctx, op, Cluster, federation.ACLClusterName)
}

// MayAny decides whether op is allowed with any resource of a type. It records nothing:
// who asks has another way to be allowed.
func (x *Access) MayAny(op Operation, res Resource) bool {
	return x.s == nil || x.s.AllowedAny(&x.who, op, res)
}

// Denied makes the error of a denial: operation, resource and principal.
func (x *Access) Denied(op Operation, res Resource, name string) error {
	return federation.Errorf(federation.NotAuthorized, "%s from host %s is not allowed to %s %s %q; an ACL has to allow it (braid acl add)",
		x.who.Principal, x.who.Host, op, res, name)
}

// Check is May as an error.
func (x *Access) Check(ctx context.Context, op Operation, res Resource, name string) error {
	if x.May(ctx, op, res, name) {
		return nil
	}
	return x.Denied(op, res, name)
}

// Supported are the operations of a type of resources (AclEntry.supportedOperations).
func Supported(res Resource) []Operation {
	switch res {
	case Topic:
		return []Operation{Read, Write, Create, Describe, Delete, Alter, DescribeConfigs, AlterConfigs}
	case Group:
		return []Operation{Read, Describe, Delete, DescribeConfigs, AlterConfigs}
	case Cluster:
		return []Operation{Create, ClusterAction, DescribeConfigs, AlterConfigs, IdempotentWrite, Alter, Describe}
	case TransactionalID:
		return []Operation{Describe, Write, federation.ACLTwoPhaseCommit}
	case User:
		return []Operation{federation.ACLCreateTokens, federation.ACLDescribeTokens}
	case federation.ACLDelegationToken:
		return []Operation{Describe}
	default:
		return nil
	}
}

// Operations returns what a subject may do with a resource, as the bits of the Kafka
// protocol's authorized operations.
func (x *Access) Operations(res Resource, name string) int32 {
	var bits int32
	for _, op := range Supported(res) {
		if x.Sees(op, res, name) {
			bits |= 1 << op
		}
	}
	return bits
}

func (a *Authorizer) denied(ctx context.Context, x *Access, op Operation, res Resource, name string) {
	a.denials.Add(ctx, 1, metric.WithAttributes(attribute.String("operation", op.String()), attribute.String("resource", res.String())))
	skipped, ok := a.mayLog(&a.denies, time.Now().Unix())
	if !ok {
		return
	}
	a.log.WarnContext(ctx, "denied", "principal", x.who.Principal.String(), "host", x.who.Host, "api", x.api,
		"operation", op.String(), "resource", res.String(), "name", name, "not_logged_before", skipped)
}

// mayLog takes one of the second's lines.
func (a *Authorizer) mayLog(t *tally, second int64) (skipped int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if second != t.second {
		t.second, t.logged = second, 0
	}
	if t.logged >= a.cfg.DenialsPerSecond {
		t.skipped++
		return 0, false
	}
	t.logged++
	skipped, t.skipped = t.skipped, 0
	return skipped, true
}

// Changed records a change that a client asked for, and how it ended.
func (x *Access) Changed(ctx context.Context, op Operation, res Resource, name string, err error) {
	if x.a == nil {
		return
	}
	x.a.change.Add(ctx, 1, metric.WithAttributes(attribute.String("operation", op.String()), attribute.String("resource", res.String())))
	fields := []any{
		"principal", x.who.Principal.String(), "host", x.who.Host, "api", x.api,
		"operation", op.String(), "resource", res.String(), "name", name,
	}
	if err == nil { // each is there: it was made
		x.a.log.InfoContext(ctx, "change", append(fields, "outcome", "done")...)
		return
	}
	if skipped, ok := x.a.mayLog(&x.a.fails, time.Now().Unix()); ok {
		x.a.log.InfoContext(ctx, "change", append(fields, "outcome", err.Error(), "not_logged_before", skipped)...)
	}
}
