package main

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"
)

// A line is one distribution of a plot.
type line struct {
	name string
	took []time.Duration
}

// The size of a plot and of the space around it.
const (
	plotWidth, plotHeight = 760, 420
	plotLeft, plotTop     = 60, 20
	plotRight, plotBottom = 180, 50
	plotNines             = 4.0 // the axis ends at 99.99 %
)

var plotColours = []string{"#1f77b4", "#d62728", "#8fbfe0", "#eb9394"}

// writePlot draws latencies over percentiles as an SVG; every nine takes the same
// width, and times are on a logarithmic axis.
func writePlot(file string, lines []line) error {
	low, high := math.Inf(1), 0.0
	for _, l := range lines {
		if len(l.took) > 0 {
			low = min(low, millis(quantile(l.took, 0)))
			high = max(high, millis(quantile(l.took, 0.9999)))
		}
	}
	if high <= 0 {
		return nil // nothing was measured
	}
	bottom := math.Floor(math.Log10(max(low, 0.01)))
	top := math.Ceil(math.Log10(high * 1.001))
	x := func(nines float64) float64 {
		return plotLeft + (plotWidth-plotLeft-plotRight)*nines/plotNines
	}
	y := func(ms float64) float64 {
		share := (math.Log10(max(ms, 0.01)) - bottom) / (top - bottom)
		return plotHeight - plotBottom - (plotHeight-plotTop-plotBottom)*share
	}
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&s, `<rect width="%d" height="%d" fill="white"/>`+"\n", plotWidth, plotHeight)
	grid := func(x1, y1, x2, y2 float64) {
		fmt.Fprintf(&s, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#ccc"/>`+"\n", x1, y1, x2, y2)
	}
	for nines := 0.0; nines <= plotNines; nines++ {
		grid(x(nines), plotTop, x(nines), plotHeight-plotBottom)
		label := fmt.Sprintf("%.4g %%", 100*(1-math.Pow(10, -nines)))
		fmt.Fprintf(&s, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(nines), plotHeight-plotBottom+18, label)
	}
	for e := bottom; e <= top; e++ {
		v := math.Pow(10, e)
		grid(plotLeft, y(v), plotWidth-plotRight, y(v))
		fmt.Fprintf(&s, `<text x="%d" y="%.1f" text-anchor="end">%g ms</text>`+"\n", plotLeft-6, y(v)+4, v)
	}
	for i, l := range lines {
		if len(l.took) == 0 {
			continue
		}
		sorted := slices.Clone(l.took)
		slices.Sort(sorted)
		var points []string
		for nines := 0.0; nines <= plotNines && (nines == 0 || math.Pow(10, nines) <= float64(len(sorted))); nines += 0.05 {
			at := min(int(float64(len(sorted))*(1-math.Pow(10, -nines))), len(sorted)-1)
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(nines), y(millis(sorted[at]))))
		}
		colour := plotColours[i%len(plotColours)]
		fmt.Fprintf(&s, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), colour)
		fmt.Fprintf(&s, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", plotWidth-plotRight+10, plotTop+20*(i+1), colour, l.name)
	}
	s.WriteString("</svg>\n")
	return os.WriteFile(file, []byte(s.String()), 0o644)
}
