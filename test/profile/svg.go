//go:build linux

package main

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The picture, all lengths in pixels.
const (
	pictureWidth = 1200
	rowHeight    = 17
	headHeight   = 46
	letterWidth  = 6.6 // of the font at its size, about
	leastText    = 28  // a narrower box has no text
)

// leastShare is the part of all time below which a function is left out.
const leastShare = 0.003

// kinds of functions have a colour each, in which black can be read, on white as on black. The
// first that a function is of counts.
var kinds = []struct {
	class, colour, name string
	prefixes            []string // of functions
}{
	{"k", "#f2a65a", "system calls", []string{"syscall.", "internal/runtime/syscall/", "internal/syscall/", "golang.org/x/sys/unix."}},
	{"p", "#8fd0a5", "pgx", []string{module, "main.", "pgx "}},
	{"r", "#c9b6e4", "Go runtime", []string{"runtime.", "internal/runtime/", "gcWriteBarrier"}},
	{"m", "#f3d36b", "modules", []string{"github.com/", "golang.org/", "gopkg.in/", "go.uber.org/"}},
	{"s", "#9ecae1", "standard library", []string{""}},
}

// draw gives the flame graph as SVG, with the processes on top.
func draw(title string, root *node) string {
	least := time.Duration(float64(root.time) * leastShare)
	var b strings.Builder
	height := headHeight + rowHeight*depth(root, least) + 4
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" font-family="monospace" font-size="11">`+"\n", pictureWidth, height)
	fmt.Fprintf(&b, "<title>%s</title>\n<style>", escape(title))
	for _, k := range kinds {
		fmt.Fprintf(&b, ".%s{fill:%s}", k.class, k.colour)
	}
	b.WriteString("rect{stroke:#fff;stroke-width:.5}g:hover>rect{stroke:#000}.n{fill:#7d8590;font-family:sans-serif}</style>\n")
	fmt.Fprintf(&b, `<text class="n" x="4" y="15" font-size="14">%s: %.1f s of processor time</text>`+"\n", escape(title), root.time.Seconds())
	x := 4
	for _, k := range kinds {
		fmt.Fprintf(&b, `<rect class="%s" x="%d" y="24" width="12" height="12"/><text class="n" x="%d" y="34">%s</text>`+"\n", k.class, x, x+16, k.name)
		x += 34 + 7*len(k.name)
	}
	p := painter{b: &b, all: root.time, least: least}
	p.row(root.below, 0, headHeight)
	b.WriteString("</svg>\n")
	return b.String()
}

// depth gives the number of rows that are shown below n.
func depth(n *node, least time.Duration) (rows int) {
	for _, c := range n.below {
		if c.time >= least {
			rows = max(rows, 1+depth(c, least))
		}
	}
	return rows
}

type painter struct {
	b          *strings.Builder
	all, least time.Duration
}

// row draws functions beside one another, the longest first, and below each what it has called.
func (p painter) row(nodes []*node, x float64, y int) {
	nodes = slices.Clone(nodes)
	slices.SortStableFunc(nodes, func(a, b *node) int { return cmp.Compare(b.time, a.time) })
	for _, n := range nodes {
		if n.time < p.least {
			return
		}
		share := n.time.Seconds() / p.all.Seconds()
		width := share * pictureWidth
		name := shorten(n.name)
		fmt.Fprintf(p.b, `<g><title>%s, %.1f %%</title><rect class="%s" x="%.1f" y="%d" width="%.1f" height="16"/>`,
			escape(name), 100*share, class(n.name), x, y, width)
		if width >= leastText {
			fmt.Fprintf(p.b, `<text x="%.1f" y="%d">%s</text>`, x+3, y+12, escape(fit(name, width-6)))
		}
		p.b.WriteString("</g>\n")
		p.row(n.below, x, y+rowHeight)
		x += width
	}
}

// fit shortens a name to a width. What is left out first is the path of its package.
func fit(name string, width float64) string {
	room := int(width / letterWidth)
	if len(name) > room {
		receiver, _, _ := strings.Cut(name, "(")
		name = name[strings.LastIndex(receiver, "/")+1:]
	}
	if len(name) > room {
		name = name[:max(0, room-1)] + "…"
	}
	return name
}

// class gives the kind of a function, or of a process.
func class(name string) string {
	for _, k := range kinds {
		if slices.ContainsFunc(k.prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			return k.class
		}
	}
	return ""
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes all
	return b.String()
}
