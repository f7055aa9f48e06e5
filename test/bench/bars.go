//go:build linux

package main

import (
	"fmt"
	"math"
	"os"
	"strings"
)

// barsName is the file that shows the ratios of processor time and of wall time.
const barsName = "benchmarks.svg"

// Lengths of the picture of the ratios, in pixels.
const (
	barNames  = 330 // what is measured, to the left of both panels
	barPanel  = 300
	barGap    = 40 // to the right of each, where the number is
	barHeight = 18
	barTop    = 48
	barBottom = 28
)

// mostShown is the largest ratio that is drawn to scale.
const mostShown = 2.0

// draw writes the picture of what has a ratio: a bar ends at the median, a line goes from one
// quartile to the other.
func (r *report) draw(name string) error {
	var rows []*row
	most := 1.0
	for _, x := range r.Rows {
		if x.Ratio.CPU.Median > 0 {
			rows = append(rows, x)
			most = max(most, x.Ratio.CPU.High, x.Ratio.Wall.High)
		}
	}
	_, end := scale(min(most, mostShown))
	const width = barNames + 2*(barPanel+barGap)
	height := barTop + barHeight*len(rows) + barBottom
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" font-family="sans-serif" font-size="11">`+"\n", width, height)
	b.WriteString("<title>pgx / pgbackrest: processor time and wall time, medians and quartiles</title>\n")
	text := func(x, y float64, anchor, words string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">%s</text>`+"\n", x, y, anchor, neutral, words)
	}
	line := func(x1, y1, x2, y2, opacity float64) {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-opacity="%g"/>`+"\n", x1, y1, x2, y2, neutral, opacity)
	}
	foot := float64(barTop + barHeight*len(rows))
	for i, x := range rows {
		words := x.name()
		if x.Codec != "" {
			words += ", " + x.Codec
		}
		text(barNames-10, float64(barTop+barHeight*i)+13, "end", words)
	}
	for p, panel := range []struct {
		title string
		of    func(*row) spread
	}{{"processor time", func(x *row) spread { return x.Ratio.CPU }}, {"wall time", func(x *row) spread { return x.Ratio.Wall }}} {
		left := float64(barNames + p*(barPanel+barGap))
		at := func(ratio float64) float64 { return left + barPanel*min(ratio, end)/end }
		text(left+barPanel/2, 16, "middle", panel.title+", pgx / pgbackrest")
		for i, x := range rows {
			s, top := panel.of(x), float64(barTop+barHeight*i)
			colour := mineColour
			if s.Median > 1 {
				colour = theirsColour
			}
			fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s" fill-opacity="0.75"/>`+"\n",
				left, top+3, at(s.Median)-left, barHeight-6, colour)
			fmt.Fprintf(&b, `<path d="M%.1f %.1fH%.1f" stroke="%s" stroke-width="3"/>`+"\n", at(s.Low), top+barHeight/2, at(s.High), neutral)
			text(left+barPanel+4, top+13, "start", fmt.Sprintf("%.2f", s.Median))
		}
		for v := 0.0; v <= end*1.001; v += 0.25 {
			opacity := 0.25
			if math.Abs(v-1) < 1e-9 {
				opacity = 1
			}
			line(at(v), barTop-4, at(v), foot, opacity)
			text(at(v), foot+16, "middle", fmt.Sprintf("%g", v))
		}
	}
	text(barNames-10, barTop-14, "end", "less than 1: pgx takes less")
	b.WriteString("</svg>\n")
	return os.WriteFile(name, []byte(b.String()), 0o644)
}
