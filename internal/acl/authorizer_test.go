package acl_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/security"
)

func authorizer(t *testing.T, cfg acl.Config) (*acl.Authorizer, *bytes.Buffer) {
	var out bytes.Buffer
	a, err := acl.New(cfg, slog.New(slog.NewTextHandler(&out, nil)), noop.Meter{})
	require.NoError(t, err)
	return a, &out
}

func TestAuthorizerFollowsTheMap(t *testing.T) {
	a, _ := authorizer(t, acl.Config{Enabled: true})
	v1 := &federation.Map{Version: 1, ACLs: set(topic(t, "ALLOW User:alice READ LITERAL orders"))}
	v2 := &federation.Map{Version: 2, ACLs: v1.ACLs}
	v3 := &federation.Map{Version: 3, ACLs: set()}
	s := a.Snapshot(v1)
	require.Same(t, s, a.Snapshot(v2), "the same ACLs are not compiled again")
	require.True(t, a.Snapshot(v2).Allowed(&alice, acl.Read, acl.Topic, "orders"))
	require.False(t, a.Snapshot(v3).Allowed(&alice, acl.Read, acl.Topic, "orders"))
	require.False(t, a.Snapshot(v2).Allowed(&alice, acl.Read, acl.Topic, "orders"), "an older map brings nothing back")
	x := a.Access(v3, alice, "Fetch")
	require.ErrorContains(t, x.Check(t.Context(), acl.Read, acl.Topic, "orders"), `User:alice from host 10.0.0.1 is not allowed to READ TOPIC "orders"`)
	require.Equal(t, federation.NotAuthorized, federation.KindOf(x.Check(t.Context(), acl.Read, acl.Topic, "orders")))
	off, _ := authorizer(t, acl.Config{})
	require.Nil(t, off.Snapshot(v3))
	none := (*acl.Authorizer)(nil).Access(v3, alice, "Fetch")
	require.True(t, none.MayCluster(t.Context(), acl.Alter))
	none.Changed(t.Context(), acl.Create, acl.Topic, "orders", nil)
}

func TestOperations(t *testing.T) {
	a, _ := authorizer(t, acl.Config{Enabled: true})
	x := a.Access(&federation.Map{Version: 1, ACLs: set(topic(t, "ALLOW User:alice READ LITERAL orders"))}, alice, "Metadata")
	require.Equal(t, int32(1<<acl.Read|1<<acl.Describe), x.Operations(acl.Topic, "orders"))
	all := (*acl.Authorizer)(nil).Access(nil, alice, "Metadata")
	require.Equal(t, int32(0b110111111000), all.Operations(acl.Topic, "orders"), "what a broker without an authorizer answers")
}

func TestAuditLog(t *testing.T) {
	a, out := authorizer(t, acl.Config{Enabled: true, DenialsPerSecond: 2})
	x := a.Access(&federation.Map{Version: 1}, alice, "Produce")
	for range 5000 {
		require.False(t, x.May(t.Context(), acl.Write, acl.Topic, "orders"))
	}
	lines := strings.Count(out.String(), "\n")
	require.GreaterOrEqual(t, lines, 2)
	require.Less(t, lines, 100, "bounded")
	require.Contains(t, out.String(), `msg=denied logger=audit audit.principal=User:alice audit.host=10.0.0.1 audit.api=Produce audit.operation=WRITE audit.resource=TOPIC audit.name=orders`)
	out.Reset()
	x.Changed(t.Context(), acl.Create, acl.Topic, "orders", federation.Errorf(federation.TopicExists, "it exists"))
	require.Contains(t, out.String(), "audit.outcome=\"it exists\"")
	for range 5000 {
		x.Changed(t.Context(), acl.Create, acl.Topic, "orders", federation.Errorf(federation.TopicExists, "it exists"))
	}
	require.Less(t, strings.Count(out.String(), "\n"), 100, "changes that failed are bounded, too")
	out.Reset()
	for range 50 {
		x.Changed(t.Context(), acl.Create, acl.Topic, "orders", nil)
	}
	require.Equal(t, 50, strings.Count(out.String(), "audit.outcome=done"), "changes that were made are all there")
	require.False(t, x.Sees(acl.Read, acl.Topic, "orders"))
	require.NotContains(t, out.String(), "denied", "what is left out of a list is not denied")
}

// What a request costs in a door: nothing is allocated, with ACLs or without.
func TestAccessAllocatesNothing(t *testing.T) {
	m := &federation.Map{Version: 1, ACLs: set(topic(t, "ALLOW User:alice READ LITERAL orders"))}
	for _, enabled := range []bool{true, false} {
		a, _ := authorizer(t, acl.Config{Enabled: enabled})
		ctx := t.Context()
		require.Zero(t, testing.AllocsPerRun(100, func() {
			x := a.Access(m, alice, "Fetch")
			if !x.May(ctx, acl.Read, acl.Topic, "orders") {
				t.Error("denied")
			}
		}), "enabled: %v", enabled)
	}
}

func BenchmarkAccess(b *testing.B) {
	m := &federation.Map{Version: 1, ACLs: manyACLs()}
	who := acl.Subject{Principal: security.User("u7"), Host: "10.0.0.1"}
	for _, enabled := range []bool{true, false} {
		b.Run(fmt.Sprint("enabled=", enabled), func(b *testing.B) {
			a, err := acl.New(acl.Config{Enabled: enabled}, nil, noop.Meter{})
			require.NoError(b, err)
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				x := a.Access(m, who, "Produce")
				x.May(ctx, acl.Read, acl.Topic, "topic-7")
			}
		})
	}
}
