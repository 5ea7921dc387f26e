package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFigures(t *testing.T) {
	for want, v := range map[string]float64{"0": 0, "0.012": 0.0123, "0.57": 0.567, "5": 5, "5.68": 5.678, "56.8": 56.78, "568": 567.8, "5,678": 5678.4, "1,234,567": 1234567} {
		require.Equal(t, want, figure(v))
	}
}

func TestQuantiles(t *testing.T) {
	var d []time.Duration
	for i := range 100 {
		d = append(d, time.Duration(99-i))
	}
	require.Equal(t, time.Duration(50), quantile(d, 0.5))
	require.Equal(t, time.Duration(99), quantile(d, 1))
	require.Zero(t, quantile(nil, 0.5))
	require.InDelta(t, 2, median([]float64{3, 1, 2}, func(v float64) float64 { return v }), 0)
}

func TestChoice(t *testing.T) {
	all, err := chosen("latency,floor")
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "floor", all[0].name, "in the order of the table")
	_, err = chosen("floor,nothing")
	require.ErrorContains(t, err, "there is no scenario nothing")
}

func TestPageKeepsWhatIsAroundARun(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	require.NoError(t, os.WriteFile(page, []byte("above\n"+pageBegin+"old\n"+pageEnd+"below\n"), 0o600))
	require.NoError(t, writePage(page, "new\n"))
	written, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, "above\n"+pageBegin+"\nnew\n\n"+pageEnd+"below\n", string(written))
	require.Error(t, writePage(filepath.Join(t.TempDir(), "none"), ""))
}

// A plot has a line for each distribution that is not empty.
func TestPlot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plot.svg")
	var took []time.Duration
	for i := range 1000 {
		took = append(took, time.Duration(i+1)*10*time.Microsecond)
	}
	require.NoError(t, writePlot(file, []line{{"one", took}, {"none", nil}}))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, string(text), ">one</text>")
	require.NotContains(t, string(text), ">none</text>")
	require.NotContains(t, string(text), "NaN")
}
