package federation_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

func TestCheckUserName(t *testing.T) {
	for _, good := range []string{"alice", "CN=a,O=b", "ü"} {
		require.NoError(t, federation.CheckUserName(good), good)
	}
	for _, bad := range []string{"", strings.Repeat("x", federation.UserNameBytesMax+1), "a\x00b", "\xff", "ANONYMOUS", "braid-fleet"} {
		require.Equal(t, federation.InvalidArgument, federation.KindOf(federation.CheckUserName(bad)), "%q", bad)
	}
}
