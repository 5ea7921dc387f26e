package acl_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/security"
)

var alice = acl.Subject{Principal: security.User("alice"), Host: "10.0.0.1"}

func set(all ...federation.ACL) federation.ACLs {
	m := make(federation.ACLs)
	for _, a := range all {
		m[a.ID()] = &a
	}
	return m
}

// topic makes an ACL from "ALLOW User:alice READ LITERAL orders".
func topic(t testing.TB, text string) federation.ACL {
	f := strings.Fields(text)
	require.Len(t, f, 5, text)
	a := federation.ACL{Resource: acl.Topic, Name: f[4], Principal: f[1], Host: "*", Permission: federation.ACLAllow, Pattern: federation.ACLLiteral}
	if f[0] == "DENY" {
		a.Permission = federation.ACLDeny
	}
	if f[3] == "PREFIXED" {
		a.Pattern = federation.ACLPrefixed
	}
	for op := federation.ACLAll; op <= federation.ACLTwoPhaseCommit; op++ {
		if op.String() == f[2] {
			a.Operation = op
		}
	}
	require.NoError(t, a.Validate(), text)
	return a
}

func TestAllowed(t *testing.T) {
	for _, c := range []struct {
		name string
		acls []string
		op   acl.Operation
		want bool
	}{
		{"nothing is said", nil, acl.Read, false},
		{"allowed", []string{"ALLOW User:alice READ LITERAL orders"}, acl.Read, true},
		{"another operation", []string{"ALLOW User:alice READ LITERAL orders"}, acl.Write, false},
		{"another principal", []string{"ALLOW User:bob READ LITERAL orders"}, acl.Read, false},
		{"another type of principal", []string{"ALLOW Group:alice READ LITERAL orders"}, acl.Read, false},
		{"everybody", []string{"ALLOW User:* READ LITERAL orders"}, acl.Read, true},
		{"everybody, and the principal something else", []string{"ALLOW User:* READ LITERAL orders", "ALLOW User:alice WRITE LITERAL orders"}, acl.Read, true},
		{"all topics", []string{"ALLOW User:alice READ LITERAL *"}, acl.Read, true},
		{"prefix", []string{"ALLOW User:alice READ PREFIXED ord"}, acl.Read, true},
		{"prefix of another length", []string{"ALLOW User:alice READ PREFIXED orders-"}, acl.Read, false},
		{"a prefix is no wildcard", []string{"ALLOW User:alice READ PREFIXED *"}, acl.Read, false},
		{"denied first", []string{"ALLOW User:alice READ LITERAL orders", "DENY User:* READ PREFIXED o"}, acl.Read, false},
		{"denied by ALL", []string{"ALLOW User:alice READ LITERAL orders", "DENY User:alice ALL LITERAL *"}, acl.Read, false},
		{"ALL allows", []string{"ALLOW User:alice ALL LITERAL orders"}, acl.AlterConfigs, true},
		{"READ implies DESCRIBE", []string{"ALLOW User:alice READ LITERAL orders"}, acl.Describe, true},
		{"WRITE implies DESCRIBE", []string{"ALLOW User:alice WRITE LITERAL orders"}, acl.Describe, true},
		{"DELETE implies DESCRIBE", []string{"ALLOW User:alice DELETE LITERAL orders"}, acl.Describe, true},
		{"ALTER implies DESCRIBE", []string{"ALLOW User:alice ALTER LITERAL orders"}, acl.Describe, true},
		{"CREATE does not", []string{"ALLOW User:alice CREATE LITERAL orders"}, acl.Describe, false},
		{"ALTER_CONFIGS implies DESCRIBE_CONFIGS", []string{"ALLOW User:alice ALTER_CONFIGS LITERAL orders"}, acl.DescribeConfigs, true},
		{"ALTER_CONFIGS does not imply DESCRIBE", []string{"ALLOW User:alice ALTER_CONFIGS LITERAL orders"}, acl.Describe, false},
		{"a DENY implies nothing", []string{"ALLOW User:alice DESCRIBE LITERAL orders", "DENY User:alice READ LITERAL orders"}, acl.Describe, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var all []federation.ACL
			for _, text := range c.acls {
				all = append(all, topic(t, text))
			}
			s := acl.Compile(acl.Rules{}, set(all...))
			require.Equal(t, c.want, s.Allowed(&alice, c.op, acl.Topic, "orders"))
			require.False(t, s.Allowed(&alice, c.op, acl.Group, "orders"), "another type of resource")
		})
	}
}

func TestRules(t *testing.T) {
	root := acl.Subject{Principal: security.User("root"), Host: "10.0.0.1"}
	s := acl.Compile(acl.Rules{SuperUsers: []security.Principal{root.Principal}, AllowIfNoACL: true}, set(
		topic(t, "DENY User:* ALL LITERAL secret"), topic(t, "ALLOW User:bob READ PREFIXED ord")))
	require.True(t, s.Allowed(&root, acl.Read, acl.Topic, "secret"), "a super user")
	require.True(t, s.AllowedAny(&root, acl.Write, acl.Topic))
	require.False(t, s.Allowed(&alice, acl.Read, acl.Topic, "secret"))
	require.True(t, s.Allowed(&alice, acl.Read, acl.Topic, "free"), "no ACL speaks of it")
	require.False(t, s.Allowed(&alice, acl.Read, acl.Topic, "orders"), "an ACL for somebody else speaks of it")
	var none *acl.Snapshot
	require.True(t, none.Allowed(&alice, acl.Read, acl.Topic, "secret"), "no authorizer")
	require.True(t, none.AllowedAny(&alice, acl.Read, acl.Topic), "no authorizer")
}

func TestHosts(t *testing.T) {
	a := topic(t, "ALLOW User:alice READ LITERAL orders")
	a.Host = "10.0.0.1"
	d := topic(t, "DENY User:* READ LITERAL orders")
	d.Host = "0:0:0:0:0:0:0:1" // as Java writes it
	b := topic(t, "ALLOW User:alice READ LITERAL six")
	b.Host = "0:0:0:0:0:0:0:1"
	s := acl.Compile(acl.Rules{}, set(a, b, d))
	six := acl.Subject{Principal: alice.Principal, Host: acl.Host("[::1%lo]:1234")}
	require.Equal(t, "10.0.0.1", acl.Host("[::ffff:10.0.0.1]:80"))
	require.True(t, s.Allowed(&alice, acl.Read, acl.Topic, "orders"))
	require.False(t, s.Allowed(&six, acl.Read, acl.Topic, "orders"))
	require.True(t, s.Allowed(&six, acl.Read, acl.Topic, "six"))
	require.True(t, s.AllowedAny(&six, acl.Read, acl.Topic))
}

func TestAllowedAny(t *testing.T) {
	for _, c := range []struct {
		name string
		acls []string
		want bool
	}{
		{"nothing", nil, false},
		{"one topic", []string{"ALLOW User:alice WRITE LITERAL orders"}, true},
		{"only implied", []string{"ALLOW User:alice READ LITERAL orders"}, false},
		{"the one is denied", []string{"ALLOW User:alice WRITE LITERAL orders", "DENY User:* WRITE LITERAL orders"}, false},
		{"another is denied", []string{"ALLOW User:alice WRITE LITERAL orders", "DENY User:* WRITE LITERAL other"}, true},
		{"a prefix is denied", []string{"ALLOW User:alice WRITE LITERAL orders", "DENY User:alice ALL PREFIXED ord"}, false},
		{"a shorter prefix is denied", []string{"ALLOW User:alice WRITE PREFIXED orders", "DENY User:alice WRITE PREFIXED ord"}, false},
		{"a part of the prefix is denied", []string{"ALLOW User:alice WRITE PREFIXED ord", "DENY User:alice WRITE PREFIXED orders"}, true},
		{"all but some", []string{"ALLOW User:alice WRITE LITERAL *", "DENY User:alice WRITE PREFIXED orders"}, true},
		{"none", []string{"ALLOW User:alice WRITE PREFIXED orders", "DENY User:alice WRITE LITERAL *"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var all []federation.ACL
			for _, text := range c.acls {
				all = append(all, topic(t, text))
			}
			require.Equal(t, c.want, acl.Compile(acl.Rules{}, set(all...)).AllowedAny(&alice, acl.Write, acl.Topic))
		})
	}
}

// naive is StandardAuthorizerData.findAclRule, over a plain list.
func naive(rules acl.Rules, acls federation.ACLs, who *acl.Subject, op acl.Operation, res acl.Resource, name string) bool {
	if slices.Contains(rules.SuperUsers, who.Principal) {
		return true
	}
	found, allow, deny := false, false, false
	for _, a := range acls {
		f := federation.ACLFilter{Resource: res, Pattern: federation.ACLMatch, Name: &name, Operation: federation.ACLAnyOperation, Permission: federation.ACLAnyPermission}
		if !f.Matches(a) {
			continue
		}
		found = true
		if a.Principal != who.Principal.String() && a.Principal != "User:*" || a.Host != "*" && a.Host != who.Host {
			continue
		}
		hit := a.Operation == federation.ACLAll || a.Operation == op
		if a.Permission == federation.ACLDeny {
			deny = deny || hit
			continue
		}
		if op == acl.Describe {
			hit = hit || a.Operation == acl.Read || a.Operation == acl.Write || a.Operation == acl.Delete || a.Operation == acl.Alter
		}
		if op == acl.DescribeConfigs {
			hit = hit || a.Operation == acl.AlterConfigs
		}
		allow = allow || hit
	}
	if !found {
		return rules.AllowIfNoACL
	}
	return allow && !deny
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func random(r *rand.Rand) federation.ACL {
	return federation.ACL{
		Resource:  pick(r, acl.Topic, acl.Group, acl.TransactionalID),
		Pattern:   pick(r, federation.ACLLiteral, federation.ACLPrefixed),
		Name:      pick(r, "*", "a", "ab", "abc", "b", "ba", "ü", "üb"),
		Principal: pick(r, "User:*", "User:alice", "User:bob", "Role:alice"),
		Host:      pick(r, "*", "*", "10.0.0.1", "10.0.0.2"),
		Operation: federation.ACLAll + federation.ACLOperation(r.IntN(14)), Permission: pick(r, federation.ACLAllow, federation.ACLAllow, federation.ACLDeny),
	}
}

func TestAgainstTheNaiveOne(t *testing.T) {
	answers := map[bool]int{}
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 1))
		rules := acl.Rules{AllowIfNoACL: r.IntN(2) == 0}
		if r.IntN(3) == 0 {
			rules.SuperUsers = []security.Principal{security.User("bob")}
		}
		all := make(federation.ACLs)
		for range r.IntN(14) {
			a := random(r)
			require.NoError(t, a.Validate())
			all[a.ID()] = &a
		}
		s := acl.Compile(rules, all)
		for range 60 {
			who := acl.Subject{Principal: pick(r, security.User("alice"), security.User("bob"), security.Principal{Type: "Role", Name: "alice"}), Host: pick(r, "10.0.0.1", "10.0.0.2")}
			op, res := acl.Read+acl.Operation(r.IntN(10)), pick(r, acl.Topic, acl.Group, acl.TransactionalID)
			name := pick(r, "a", "ab", "abc", "abcd", "b", "ba", "c", "ü", "übe")
			want := naive(rules, all, &who, op, res, name)
			answers[want]++
			require.Equal(t, want, s.Allowed(&who, op, res, name), "seed %d: %v %s %s %s of %v", seed, who, op, res, name, all)
		}
	}
	require.Greater(t, min(answers[true], answers[false]), 2000, "both answers occur: %v", answers)
}

func TestFilter(t *testing.T) {
	lit, pre, all := topic(t, "ALLOW User:alice READ LITERAL orders"), topic(t, "DENY User:bob WRITE PREFIXED ord"), topic(t, "ALLOW User:* READ LITERAL *")
	every := federation.ACLFilter{Resource: federation.ACLAnyResource, Pattern: federation.ACLAnyPattern, Operation: federation.ACLAnyOperation, Permission: federation.ACLAnyPermission}
	matched := func(change func(f *federation.ACLFilter)) string {
		f := every
		change(&f)
		require.NoError(t, f.Validate())
		var out strings.Builder
		for i, a := range []federation.ACL{lit, pre, all} {
			if f.Matches(&a) {
				out.WriteByte("lpa"[i])
			}
		}
		return out.String()
	}
	require.Equal(t, "lpa", matched(func(*federation.ACLFilter) {}))
	require.Equal(t, "lpa", matched(func(f *federation.ACLFilter) { f.Pattern, f.Name = federation.ACLMatch, new("orders") }))
	require.Equal(t, "pa", matched(func(f *federation.ACLFilter) { f.Pattern, f.Name = federation.ACLMatch, new("order") }))
	require.Equal(t, "l", matched(func(f *federation.ACLFilter) { f.Name = new("orders") }))
	require.Empty(t, matched(func(f *federation.ACLFilter) { f.Pattern, f.Name = federation.ACLPrefixed, new("orders") }))
	require.Equal(t, "a", matched(func(f *federation.ACLFilter) { f.Pattern, f.Name = federation.ACLLiteral, new("*") }))
	require.Equal(t, "p", matched(func(f *federation.ACLFilter) { f.Permission = federation.ACLDeny }))
	require.Equal(t, "la", matched(func(f *federation.ACLFilter) { f.Operation = acl.Read }))
	require.Equal(t, "l", matched(func(f *federation.ACLFilter) { f.Principal = new("User:alice") }))
	require.Empty(t, matched(func(f *federation.ACLFilter) { f.Host = new("10.0.0.1") }))
	require.Empty(t, matched(func(f *federation.ACLFilter) { f.Resource = acl.Group }))
	bad := every
	bad.Pattern = 0
	require.ErrorContains(t, bad.Validate(), "pattern type")
}

func TestValidate(t *testing.T) {
	ok := topic(t, "ALLOW User:alice READ LITERAL orders")
	for want, change := range map[string]func(a *federation.ACL){
		"resource type": func(a *federation.ACL) { a.Resource = federation.ACLAnyResource },
		"the pattern":   func(a *federation.ACL) { a.Pattern = federation.ACLMatch },
		"the operation": func(a *federation.ACL) { a.Operation = federation.ACLAnyOperation },
		"permission":    func(a *federation.ACL) { a.Permission = 7 },
		"name is empty": func(a *federation.ACL) { a.Name = "" },
		"kafka-cluster": func(a *federation.ACL) { a.Resource = acl.Cluster },
		"Type:name":     func(a *federation.ACL) { a.Principal = "alice" },
		"host is empty": func(a *federation.ACL) { a.Host = "" },
		"1024 bytes":    func(a *federation.ACL) { a.Name = strings.Repeat("x", 1025) },
	} {
		a := ok
		change(&a)
		require.ErrorContains(t, a.Validate(), want)
	}
}

func manyACLs() federation.ACLs {
	all := make(federation.ACLs)
	add := func(a federation.ACL) { all[a.ID()] = &a }
	for i := range 10_000 {
		a := federation.ACL{Resource: acl.Topic, Pattern: federation.ACLLiteral, Name: fmt.Sprintf("topic-%d", i%3000), Principal: fmt.Sprintf("User:u%d", i%500), Host: "*", Operation: acl.Read, Permission: federation.ACLAllow}
		if i%5 == 0 {
			a.Pattern, a.Name = federation.ACLPrefixed, fmt.Sprintf("team-%d.", i)
		}
		add(a)
	}
	return all
}

func TestNoAllocation(t *testing.T) {
	s := acl.Compile(acl.Rules{}, manyACLs())
	who := acl.Subject{Principal: security.User("u7"), Host: "10.0.0.1"}
	require.True(t, s.Allowed(&who, acl.Read, acl.Topic, "topic-7"))
	require.Zero(t, testing.AllocsPerRun(100, func() { s.Allowed(&who, acl.Read, acl.Topic, "topic-7") }))
}

func BenchmarkAllowed(b *testing.B) {
	s := acl.Compile(acl.Rules{}, manyACLs())
	who := acl.Subject{Principal: security.User("u7"), Host: "10.0.0.1"}
	b.ReportAllocs()
	for b.Loop() {
		s.Allowed(&who, acl.Read, acl.Topic, "topic-7")
	}
}

func BenchmarkCompile(b *testing.B) {
	all := manyACLs()
	for b.Loop() {
		acl.Compile(acl.Rules{}, all)
	}
}
