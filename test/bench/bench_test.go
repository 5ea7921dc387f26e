//go:build real

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain lets the test's own program be the parts that run as processes of their own.
func TestMain(m *testing.M) {
	if ran, err := child(); ran {
		if err != nil {
			_, _ = os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// Every scenario runs, in small, and has figures. What they are is not checked, but for what
// clients that misbehave do to others, which no load of the machine excuses. The profiler runs with the first ones only, since pprof takes its time.
func TestRealScenarios(t *testing.T) {
	var out bytes.Buffer
	svg, profiles := filepath.Join(t.TempDir(), "latency.svg"), t.TempDir()
	b := newBench(t.Context(), t, &out, options{names: "floor,produce", short: true, svg: svg, profiles: profiles, profileFor: time.Second})
	require.NoError(t, b.run())
	for _, name := range []string{"produce", "consume"} {
		for _, kind := range []string{"cpu", "allocs"} {
			text, err := os.ReadFile(filepath.Join(profiles, name+"-"+kind+".txt"))
			require.NoError(t, err)
			require.Contains(t, string(text), "flat%")
		}
	}
	var rest []string
	for _, s := range scenarios[2:] {
		rest = append(rest, s.name)
	}
	b.names, b.profiles = strings.Join(rest, ","), ""
	require.NoError(t, b.run())
	text := out.String()
	t.Log(text)
	require.Positive(t, b.floor)
	for _, s := range scenarios {
		require.Contains(t, text, "### "+s.name+"\n")
	}
	require.NotContains(t, text, "NaN")
	require.NotContains(t, text, "Inf")
	require.FileExists(t, svg)
	requireHarmless(t, b.harm)
}

// beyondLimit is what RSS may have above --memory-limit, in MB: the program itself, of which
// its mapped code is the most, and what the runtime gives back late.
const beyondLimit = 35

// requireHarmless requires that all kinds of clients have misbehaved, and that neither the one
// that behaves nor the gateway's memory has suffered.
func requireHarmless(t *testing.T, h *harm) {
	t.Helper()
	require.Empty(t, h.idle, "clients that should have misbehaved, and did nothing")
	require.Greater(t, h.sent, int64(50*len(abuses)), "records of the client that behaves")
	require.Zero(t, h.errors, "errors at the client that behaves")
	require.Zero(t, h.wrong, "its records that were lost, doubled or out of order")
	require.Greater(t, h.peak, 30.0, "the gateway's RSS was not measured")
	require.Less(t, h.peak, smallLimit/1e6+beyondLimit, "largest RSS of a gateway with --memory-limit 128MiB, in MB")
}
