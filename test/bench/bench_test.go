//go:build real

package main

import (
	"bytes"
	"os"
	"path/filepath"
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

// Every scenario runs, in small, and has figures. What they are is not checked.
func TestRealScenarios(t *testing.T) {
	var out bytes.Buffer
	svg := filepath.Join(t.TempDir(), "latency.svg")
	b := newBench(t.Context(), t, &out, options{short: true, svg: svg, profiles: t.TempDir(), profileFor: time.Second})
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
}
