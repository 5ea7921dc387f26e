// Package acl decides who may do what, by Kafka's model of access control lists
// (org.apache.kafka.metadata.authorizer.StandardAuthorizer).
//
// A Snapshot is the ACLs of one map, compiled: immutable, pure, and without an
// allocation when it is asked. An Authorizer keeps the Snapshot of the newest map, and
// the record of what was denied and changed.
package acl

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/security"
)

// A Subject is who asks, and from where.
type Subject struct {
	Principal security.Principal
	Host      string // the client's IP address, as Host makes it
}

// Host returns the IP address of a remote address in the spelling that ACLs are compared
// in: IPv4 in IPv6 is IPv4, and an IPv6 address has its shortest form and no zone.
func Host(remote string) string {
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		return ap.Addr().Unmap().WithZone("").String()
	}
	if a, err := netip.ParseAddr(remote); err == nil {
		return a.Unmap().WithZone("").String()
	}
	return remote
}

// The operations and resources, by short names.
const (
	Read            = federation.ACLRead
	Write           = federation.ACLWrite
	Create          = federation.ACLCreate
	Delete          = federation.ACLDelete
	Alter           = federation.ACLAlter
	Describe        = federation.ACLDescribe
	ClusterAction   = federation.ACLClusterAction
	DescribeConfigs = federation.ACLDescribeConfigs
	AlterConfigs    = federation.ACLAlterConfigs
	IdempotentWrite = federation.ACLIdempotentWrite

	Topic           = federation.ACLTopic
	Group           = federation.ACLGroup
	Cluster         = federation.ACLCluster
	TransactionalID = federation.ACLTransactionalID
	User            = federation.ACLUser
)

type (
	// An Operation is what a subject does.
	Operation = federation.ACLOperation
	// A Resource is the type of what it does that with.
	Resource = federation.ACLResource
)

// Rules are what holds besides ACLs.
type Rules struct {
	// SuperUsers may do everything, whatever ACLs deny [super.users].
	SuperUsers []security.Principal
	// AllowIfNoACL allows what has no ACL at all to everybody [allow.everyone.if.no.acl.found].
	AllowIfNoACL bool
}

// A mask has a bit for each operation.
type mask uint32

func bit(op Operation) mask { return 1 << op }

const everything = ^mask(0)

// allowed returns what an ALLOW of op allows; a DENY denies just op.
func allowed(op Operation) mask {
	switch op {
	case federation.ACLAll:
		return everything
	case Read, Write, Delete, Alter:
		return bit(op) | bit(Describe)
	case AlterConfigs:
		return bit(op) | bit(DescribeConfigs)
	default:
		return bit(op)
	}
}

func denied(op Operation) mask {
	if op == federation.ACLAll {
		return everything
	}
	return bit(op)
}

// grants are what ACLs say to one principal from one host.
type grants struct{ allow, deny mask }

func (g *grants) add(o grants) {
	g.allow |= o.allow
	g.deny |= o.deny
}

// An entry is what the ACLs of one pattern say to one principal.
type entry struct {
	any   grants
	hosts map[string]grants
}

func (e *entry) add(host string, g grants) {
	if host == federation.ACLWildcard {
		e.any.add(g)
		return
	}
	if e.hosts == nil {
		e.hosts = make(map[string]grants)
	}
	have := e.hosts[host]
	have.add(g)
	e.hosts[host] = have
}

// entries are the ACLs of one pattern; those to everybody are in each entry.
type entries struct {
	everybody entry
	by        map[security.Principal]*entry
}

// of adds what they say to a subject. Nil says nothing.
func (e *entries) of(s *Subject, g *grants) {
	w := &e.everybody
	if own := e.by[s.Principal]; own != nil {
		w = own
	}
	g.add(w.any)
	if w.hosts != nil {
		g.add(w.hosts[s.Host])
	}
}

// A Snapshot is compiled ACLs. A nil one allows everything.
type Snapshot struct {
	rules  Rules
	supers map[security.Principal]struct{}
	types  [federation.ACLUser + 1]byType
}

// byType are the ACLs of one type of resources.
type byType struct {
	literal  map[string]*entries
	wildcard *entries // of literal, looked up once
	prefixed map[string]*entries
	lengths  []int // of the prefixes, ascending
	acls     map[security.Principal][]*federation.ACL
}

var anybody = security.User(federation.ACLWildcard)

// Compile makes a Snapshot. ACLs that no broker would store are passed over.
func Compile(rules Rules, acls federation.ACLs) *Snapshot {
	s := &Snapshot{rules: rules, supers: make(map[security.Principal]struct{}, len(rules.SuperUsers))}
	for _, p := range rules.SuperUsers {
		s.supers[p] = struct{}{}
	}
	for i := range s.types {
		s.types[i] = byType{literal: make(map[string]*entries), prefixed: make(map[string]*entries), acls: make(map[security.Principal][]*federation.ACL)}
	}
	for _, a := range acls {
		p, err := security.ParsePrincipal(a.Principal)
		if err != nil || a.Validate() != nil {
			continue
		}
		s.types[a.Resource].add(p, a)
	}
	for i := range s.types {
		s.types[i].finish()
	}
	return s
}

func (t *byType) add(p security.Principal, a *federation.ACL) {
	patterns := t.literal
	if a.Pattern == federation.ACLPrefixed {
		patterns = t.prefixed
	}
	e := patterns[a.Name]
	if e == nil {
		e = &entries{by: make(map[security.Principal]*entry)}
		patterns[a.Name] = e
	}
	w := e.by[p]
	if w == nil {
		w = new(entry)
		e.by[p] = w
	}
	g := grants{allow: allowed(a.Operation)}
	if a.Permission == federation.ACLDeny {
		g = grants{deny: denied(a.Operation)}
	}
	w.add(aclHost(a.Host), g)
	t.acls[p] = append(t.acls[p], a)
}

func aclHost(host string) string {
	if host == federation.ACLWildcard {
		return host
	}
	return Host(host)
}

// finish puts what everybody is told into what each is told, and sorts.
func (t *byType) finish() {
	for _, patterns := range []map[string]*entries{t.literal, t.prefixed} {
		for _, e := range patterns {
			all := e.by[anybody]
			if all == nil {
				continue
			}
			e.everybody = *all
			delete(e.by, anybody)
			for _, w := range e.by {
				w.add(federation.ACLWildcard, all.any)
				for host, g := range all.hosts {
					w.add(host, g)
				}
			}
		}
	}
	for name := range t.prefixed {
		t.lengths = append(t.lengths, len(name))
	}
	slices.Sort(t.lengths)
	t.lengths = slices.Compact(t.lengths)
	t.wildcard = t.literal[federation.ACLWildcard]
}

// super reports whether p may do everything.
func (s *Snapshot) super(p security.Principal) bool {
	if len(s.supers) == 0 {
		return false
	}
	_, ok := s.supers[p]
	return ok
}

// Allowed decides whether a subject may do op with a resource: what an ACL denies is
// denied, then what one allows is allowed, and what none speaks of is denied.
func (s *Snapshot) Allowed(who *Subject, op Operation, res Resource, name string) bool {
	if s == nil || s.super(who.Principal) {
		return true
	}
	var g grants
	found := false
	t := &s.types[res]
	if e := t.literal[name]; e != nil {
		e.of(who, &g)
		found = true
	}
	if t.wildcard != nil {
		t.wildcard.of(who, &g)
		found = true
	}
	for _, n := range t.lengths {
		if n > len(name) {
			break
		}
		if e := t.prefixed[name[:n]]; e != nil {
			e.of(who, &g)
			found = true
		}
	}
	switch {
	case g.deny&bit(op) != 0:
		return false
	case g.allow&bit(op) != 0:
		return true
	}
	return !found && s.rules.AllowIfNoACL
}

// AllowedAny decides whether a subject may do op with at least one resource of a type
// (Authorizer.authorizeByResourceType). Only ACLs of op itself and of ALL count.
func (s *Snapshot) AllowedAny(who *Subject, op Operation, res Resource) bool {
	// As Kafka does: some name that no ACL is made for finds super users and the rule for
	// what has no ACL.
	if s.Allowed(who, op, res, "hardcode") {
		return true
	}
	denials := make(map[pattern]struct{})
	for a := range s.toldOf(who, op, res) {
		if a.Permission == federation.ACLDeny {
			denials[pattern{a.Pattern, a.Name}] = struct{}{}
		}
	}
	if _, ok := denials[pattern{federation.ACLLiteral, federation.ACLWildcard}]; ok {
		return false
	}
	for a := range s.toldOf(who, op, res) {
		if a.Permission == federation.ACLAllow && !covered(a, denials) {
			return true
		}
	}
	return false
}

// toldOf yields the ACLs of op, or of ALL, that speak of a subject.
func (s *Snapshot) toldOf(who *Subject, op Operation, res Resource) iter.Seq[*federation.ACL] {
	return func(yield func(*federation.ACL) bool) {
		for _, p := range [...]security.Principal{who.Principal, anybody} {
			for _, a := range s.types[res].acls[p] {
				switch {
				case a.Operation != op && a.Operation != federation.ACLAll:
				case a.Host != federation.ACLWildcard && Host(a.Host) != who.Host:
				case !yield(a):
					return
				}
			}
		}
	}
}

// A pattern names resources.
type pattern struct {
	kind federation.ACLPattern
	name string
}

// covered reports whether all that a names is denied. As in Kafka, an ALLOW of all is
// not covered by a DENY of some.
func covered(a *federation.ACL, denials map[pattern]struct{}) bool {
	if len(denials) == 0 || a.Pattern == federation.ACLLiteral && a.Name == federation.ACLWildcard {
		return false
	}
	if _, ok := denials[pattern{federation.ACLLiteral, a.Name}]; ok && a.Pattern == federation.ACLLiteral {
		return true
	}
	for n := 1; n <= len(a.Name); n++ {
		if _, ok := denials[pattern{federation.ACLPrefixed, a.Name[:n]}]; ok {
			return true
		}
	}
	return false
}
