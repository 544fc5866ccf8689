package peers

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// line is a row of points of a plot.
type line struct {
	name string
	x, y []float64
}

// plots are the SVG files of docs/benchmarks.md, by name.
func (r *Result) plots() map[string]string {
	var panels []string
	for i, size := range r.sizes() {
		var lines []line
		for _, t := range r.Targets {
			l := line{name: t.Name}
			for _, c := range r.Cells {
				if row, ok := c.row(t.Name); ok && c.Bytes == size {
					l.x, l.y = append(l.x, float64(c.Writers)), append(l.y, row.Rate)
				}
			}
			if len(l.x) > 0 {
				lines = append(lines, l)
			}
		}
		panels = append(panels, panel(fmt.Sprintf("records/s of %d B, by writers", size), lines, float64(i)*panelWidth, i == 0))
	}
	var latency []line
	for _, row := range r.Steady {
		latency = append(latency, line{row.Name, []float64{50, 99, 99.9}, []float64{row.P50, row.P99, row.P999}})
	}
	var starts line
	starts.name = native
	for _, s := range r.Starts {
		starts.x, starts.y = append(starts.x, float64(s.Backlog>>20)+1), append(starts.y, s.Milliseconds)
	}
	return map[string]string{
		"bench-rates.svg":   r.svg(panels, len(panels)),
		"bench-latency.svg": r.svg([]string{bars("ack latency at half load, µs: p50, p99, p99.9", latency)}, 1),
		"bench-start.svg":   r.svg([]string{panel("start after a clean stop, ms, by MiB of backlog (+1)", []line{starts}, 0, true)}, 1),
	}
}

const (
	panelWidth, panelHeight = 430.0, 360.0
	plotLeft, plotRight     = 60.0, 20.0
	plotTop, plotBottom     = 40.0, 40.0
	legendWidth             = 190.0
)

var colours = []string{"#d62728", "#ff9896", "#1f77b4", "#aec7e8", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#000000"}

func (r *Result) svg(panels []string, n int) string {
	width := panelWidth*float64(n) + legendWidth
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" font-family="sans-serif" font-size="11">
<rect width="100%%" height="100%%" fill="white"/>
%s<text x="8" y="%.0f" font-size="9" fill="#666">%s; %s; commit %s, %s</text>
</svg>
`, width, panelHeight+20, strings.Join(panels, ""), panelHeight+12, r.Machine, r.Disk, r.Commit, r.Date)
}

// scale maps values to a plot by their logarithms, from whole powers of ten on.
type scale struct{ low, high, from, to float64 }

func newScale(values []float64, base, from, to float64) scale {
	low, high := slices.Min(values), slices.Max(values)
	log := func(v float64) float64 { return math.Log(max(v, 1e-3)) / math.Log(base) }
	return scale{math.Floor(log(low)), max(math.Ceil(log(high)), math.Floor(log(low))+1), from, to}
}

func (s scale) at(v, base float64) float64 {
	return s.from + (math.Log(max(v, 1e-3))/math.Log(base)-s.low)/(s.high-s.low)*(s.to-s.from)
}

// panel is a plot with both axes logarithmic.
func panel(title string, lines []line, left float64, legend bool) string {
	var xs, ys []float64
	for _, l := range lines {
		xs, ys = append(xs, l.x...), append(ys, l.y...)
	}
	if len(xs) == 0 {
		return ""
	}
	left += legendWidth
	x := newScale(xs, 2, left+plotLeft, left+panelWidth-plotRight)
	y := newScale(ys, 10, panelHeight-plotBottom, plotTop)
	var b strings.Builder
	fmt.Fprintf(&b, "<text x=\"%.0f\" y=\"20\" font-size=\"13\">%s</text>\n", left+plotLeft, title)
	for e := y.low; e <= y.high; e++ {
		at := y.at(math.Pow(10, e), 10)
		fmt.Fprintf(&b, "<line x1=\"%.0f\" x2=\"%.0f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/><text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
			x.from, x.to, at, at, x.from-4, at+4, thousands(math.Pow(10, e)))
	}
	slices.Sort(xs)
	for _, v := range slices.Compact(xs) {
		fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%.0f</text>\n", x.at(v, 2), panelHeight-plotBottom+16, v)
	}
	for i, l := range lines {
		var points []string
		for k := range l.x {
			points = append(points, fmt.Sprintf("%.1f,%.1f", x.at(l.x[k], 2), y.at(l.y[k], 10)))
		}
		dash := ""
		if l.name == rawName {
			dash = ` stroke-dasharray="4 3"`
		}
		fmt.Fprintf(&b, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s/>\n", strings.Join(points, " "), colour(i), dash)
		if legend {
			b.WriteString(key(i, l.name))
		}
	}
	return b.String()
}

// bars is a plot of a group of bars for each line.
func bars(title string, lines []line) string {
	var ys []float64
	for _, l := range lines {
		ys = append(ys, l.y...)
	}
	if len(ys) == 0 {
		return ""
	}
	left := legendWidth
	y := newScale(ys, 10, panelHeight-plotBottom, plotTop)
	var b strings.Builder
	fmt.Fprintf(&b, "<text x=\"%.0f\" y=\"20\" font-size=\"13\">%s</text>\n", left+plotLeft, title)
	for e := y.low; e <= y.high; e++ {
		at := y.at(math.Pow(10, e), 10)
		fmt.Fprintf(&b, "<line x1=\"%.0f\" x2=\"%.0f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/><text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
			left+plotLeft, left+panelWidth, at, at, left+plotLeft-4, at+4, thousands(math.Pow(10, e)))
	}
	group := (panelWidth - plotLeft) / float64(len(lines))
	for i, l := range lines {
		width := group * 0.8 / float64(len(l.y))
		for k, v := range l.y {
			at := y.at(v, 10)
			fmt.Fprintf(&b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\" opacity=\"%.2f\"/>\n",
				left+plotLeft+float64(i)*group+float64(k)*width, at, width, y.from-at, colour(i), 1-0.25*float64(k))
		}
		b.WriteString(key(i, l.name))
	}
	return b.String()
}

func colour(i int) string { return colours[i%len(colours)] }

func key(i int, name string) string {
	return fmt.Sprintf("<rect x=\"8\" y=\"%d\" width=\"12\" height=\"4\" fill=\"%s\"/><text x=\"26\" y=\"%d\">%s</text>\n", 46+18*i, colour(i), 52+18*i, name)
}
