package realparts

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// No port is given out twice, neither here nor in another process that runs meanwhile.
func TestPortsAreGivenOnce(t *testing.T) {
	const child, many = "BRAID_TEST_PORTS_CHILD", 2000
	seen := make(map[int]bool)
	for range many {
		port := FreePort(t)
		require.False(t, seen[port])
		seen[port] = true
	}
	if os.Getenv(child) != "" {
		for port := range seen {
			println(port)
		}
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPortsAreGivenOnce$")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	others := 0
	for line := range strings.Lines(string(out)) {
		if port, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			require.False(t, seen[port], "port %d", port)
			others++
		}
	}
	require.Equal(t, many, others)
}
