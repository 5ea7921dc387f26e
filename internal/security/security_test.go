package security_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/security"
)

func TestParsePrincipal(t *testing.T) {
	p, err := security.ParsePrincipal("User:CN=a:b,O=c")
	require.NoError(t, err)
	require.Equal(t, security.User("CN=a:b,O=c"), p)
	require.Equal(t, "User:CN=a:b,O=c", p.String())
	for _, bad := range []string{"", "alice", "User:", ":alice"} {
		_, err := security.ParsePrincipal(bad)
		require.ErrorContains(t, err, "not of the form", bad)
	}
}

func TestPrincipalOfContext(t *testing.T) {
	ctx := context.Background()
	require.Equal(t, security.Anonymous, security.PrincipalOf(ctx))
	require.Equal(t, security.User("alice"), security.PrincipalOf(security.WithPrincipal(ctx, security.User("alice"))))
}
