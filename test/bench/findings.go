//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// findings are those of the part async.
type findings struct {
	Segments int                           `json:"segments"` // that wait, and that a recovery goes through
	Steady   float64                       `json:"steady_s"`
	Rounds   int                           `json:"rounds"`
	Figures  []*figure                     `json:"figures"`
	Curves   map[string]map[string][]curve `json:"waiting"` // of each load and program, one a round
}

// figure is one measure of both programs.
type figure struct {
	What   string               `json:"what"`
	Unit   string               `json:"unit"`
	Values map[string][]float64 `json:"values"` // of each program, one a round
}

// The loads under which is watched how many segments wait.
const (
	backlogCurve = "backlog"
	steadyCurve  = "steady"
)

func (f *findings) add(what, unit, tool string, value float64) {
	i := slices.IndexFunc(f.Figures, func(x *figure) bool { return x.What == what })
	if i < 0 {
		i = len(f.Figures)
		f.Figures = append(f.Figures, &figure{What: what, Unit: unit, Values: map[string][]float64{}})
	}
	f.Figures[i].Values[tool] = append(f.Figures[i].Values[tool], value)
}

func (f *findings) addCurve(load, tool string, c curve) {
	if f.Curves == nil {
		f.Curves = map[string]map[string][]curve{}
	}
	if f.Curves[load] == nil {
		f.Curves[load] = map[string][]curve{}
	}
	f.Curves[load][tool] = append(f.Curves[load][tool], c)
}

// ratios gives pgx / pgbackrest of each round.
func (x *figure) ratios() (all []float64) {
	for i, mine := range x.Values[pgxName] {
		if theirs := x.Values[peerName][i]; theirs > 0 {
			all = append(all, mine/theirs)
		}
	}
	return all
}

// table prints medians and ratios.
func (f *findings) table(w io.Writer) {
	fmt.Fprintf(w, "\nAsynchronous archiving over sshd, %s: %d segments wait, a server works for %.0f s, recovery through %[2]d segments\n\n",
		asyncCodec, f.Segments, f.Steady)
	t := newGrid("", "", "pgx", "pgbackrest", "ratio", "quartiles")
	for _, x := range f.Figures {
		// quantile sorts, and the rounds are to stay in pairs.
		mine, theirs := median(slices.Clone(x.Values[pgxName])), median(slices.Clone(x.Values[peerName]))
		t.add(append([]string{x.What, x.Unit, number(mine), number(theirs)}, newSpread(x.ratios()).cells()...)...)
	}
	t.write(w)
	fmt.Fprintf(w, "\nMedians of %d rounds; a ratio is the median of those of the rounds, pgx / pgbackrest, with quartiles.\n", f.Rounds)
}

// curve is how many segments wait as time goes on.
type curve []point

type point struct {
	Seconds float64 `json:"s"`
	Waiting int     `json:"n"`
}

func (c *curve) add(after time.Duration, waiting int) {
	*c = append(*c, point{after.Seconds(), waiting})
}

// end gives the time of the last point.
func (c curve) end() float64 {
	if len(c) == 0 {
		return 0
	}
	return c[len(c)-1].Seconds
}

func (c curve) most() (n int) {
	for _, p := range c {
		n = max(n, p.Waiting)
	}
	return n
}

// area gives the time that all segments together have waited for, in seconds.
func (c curve) area() (sum float64) {
	for i := 1; i < len(c); i++ {
		sum += float64(c[i-1].Waiting) * (c[i].Seconds - c[i-1].Seconds)
	}
	return sum
}

// middle gives the curve of the round in which segments have waited neither longest nor
// shortest.
func middle(all []curve) curve {
	if len(all) == 0 {
		return nil
	}
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b curve) int {
		switch d := a.area() - b.area(); {
		case d < 0:
			return -1
		case d > 0:
			return 1
		}
		return 0
	})
	return all[(len(all)-1)/2]
}
