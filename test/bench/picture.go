//go:build linux

package main

import (
	"fmt"
	"math"
	"os"
	"strings"
)

// pictureName is the file that shows how many segments wait.
const pictureName = "benchmarks-async.svg"

// The picture has one panel beside the other, all lengths in pixels.
const (
	panelWidth   = 380
	panelHeight  = 220
	marginLeft   = 60
	marginTop    = 56
	marginBottom = 52
	marginRight  = 24
)

// The colours can be told apart by who sees few, on white as on black; text and axes are in the
// colour that both leave readable.
const (
	mineColour   = "#0f8a8a"
	theirsColour = "#d9772b"
	neutral      = "#7d8590"
)

// draw writes the picture.
func (f *findings) draw(name string) error {
	var b strings.Builder
	panels := []struct{ load, title string }{
		{backlogCurve, fmt.Sprintf("backlog of %d segments", f.Segments)},
		{steadyCurve, fmt.Sprintf("a segment every %d ms", switchEvery.Milliseconds())},
	}
	const step = marginLeft + panelWidth + marginRight
	width, height := step*len(panels), marginTop+panelHeight+marginBottom
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	b.WriteString("<title>WAL segments that wait for the archive, over time</title>\n")
	for i, p := range panels {
		fmt.Fprintf(&b, `<g transform="translate(%d %d)">`+"\n", i*step+marginLeft, marginTop)
		panel(&b, p.title, middle(f.Curves[p.load][pgxName]), middle(f.Curves[p.load][peerName]))
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return os.WriteFile(name, []byte(b.String()), 0o644)
}

// panel draws two curves in one pair of axes.
func panel(b *strings.Builder, title string, mine, theirs curve) {
	xStep, xEnd := scale(max(mine.end(), theirs.end()))
	yStep, yEnd := scale(float64(max(mine.most(), theirs.most())))
	text := func(x, y float64, anchor, words string) {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">%s</text>`+"\n", x, y, anchor, neutral, words)
	}
	line := func(x1, y1, x2, y2, opacity float64, colour string) {
		fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-opacity="%g"/>`+"\n", x1, y1, x2, y2, colour, opacity)
	}
	text(panelWidth/2, -36, "middle", title)
	for v := 0.0; v <= yEnd*1.001; v += yStep {
		y := panelHeight * (1 - v/yEnd)
		line(0, y, panelWidth, y, 0.25, neutral)
		text(-8, y+4, "end", fmt.Sprintf("%g", v))
	}
	for v := 0.0; v <= xEnd*1.001; v += xStep {
		x := panelWidth * v / xEnd
		line(x, panelHeight, x, panelHeight+5, 1, neutral)
		text(x, panelHeight+20, "middle", fmt.Sprintf("%g", v))
	}
	line(0, panelHeight, panelWidth, panelHeight, 1, neutral)
	line(0, 0, 0, panelHeight, 1, neutral)
	text(panelWidth/2, panelHeight+40, "middle", "seconds")
	fmt.Fprintf(b, `<text transform="translate(-42 %d) rotate(-90)" text-anchor="middle" fill="%s">segments waiting</text>`+"\n", panelHeight/2, neutral)
	for i, c := range []struct {
		name, colour string
		curve        curve
	}{{peerName, theirsColour, theirs}, {pgxName, mineColour, mine}} {
		x := float64(panelWidth - 190 + 110*i)
		fmt.Fprintf(b, `<line x1="%.1f" y1="-16" x2="%.1f" y2="-16" stroke="%s" stroke-width="2"/>`+"\n", x, x+20, c.colour)
		text(x+26, -12, "start", c.name)
		var path strings.Builder
		last := math.NaN()
		for _, p := range c.curve {
			x, y := panelWidth*p.Seconds/xEnd, panelHeight*(1-float64(p.Waiting)/yEnd)
			if path.Len() > 0 {
				fmt.Fprintf(&path, " %.1f,%.1f", x, last)
			}
			fmt.Fprintf(&path, " %.1f,%.1f", x, y)
			last = y
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`+"\n", strings.TrimSpace(path.String()), c.colour)
	}
}

// scale gives a round distance between marks of an axis, of which there are about five, and a
// round end that is not before most.
func scale(most float64) (step, end float64) {
	most = max(most, 1)
	power := math.Pow(10, math.Floor(math.Log10(most/5)))
	for _, factor := range []float64{1, 2, 5, 10} {
		if step = factor * power; most/step <= 6 {
			break
		}
	}
	return step, step * math.Ceil(most/step)
}
