//go:build linux

package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// table prints the medians and ratios.
func (r *report) table(w io.Writer) {
	r.summarize()
	fmt.Fprintf(w, "%s and %s, PostgreSQL %s, process-max %d\n%d x %s, Linux %s, %s\n", r.Programs[0], r.Programs[1],
		r.PostgreSQL, r.ProcessMax, r.CPUs, r.CPU, r.Kernel, r.Date.Format(time.DateTime))
	if len(r.Rows) > 0 {
		r.runs(w)
	}
	if r.Async != nil {
		r.Async.table(w)
	}
	if len(r.Rows) > 0 {
		r.verdicts(w)
	}
}

// runs prints what single runs of the programs took.
func (r *report) runs(w io.Writer) {
	fmt.Fprintf(w, "\n%d MB, a part of the corpus alone %d MB, where nothing changes %d files;\ninfo and expire: %d backups, the newest of %d files\n\n",
		r.Size, r.PartSize, r.Files, r.Backups, r.Million)
	times := newGrid("", "", "CPU s: pgx", "pgbackrest", "ratio", "quartiles", "wall s: pgx", "pgbackrest", "ratio", "quartiles")
	rest := newGrid("", "", "largest process, MB: pgx", "pgbackrest", "stored MB: pgx", "pgbackrest", "ratio", "syncs: pgx", "pgbackrest")
	base := newGrid("", "CPU s: pgx", baseName, "ratio", "quartiles", "wall s: pgx", baseName, "ratio", "quartiles", "stored MB: pgx", baseName)
	for _, x := range r.Rows {
		mine, theirs := x.Median[pgxName], x.Median[peerName]
		cells := func(s spread, mine, theirs float64) []string {
			if theirs == 0 {
				return []string{number(mine), "", "", ""}
			}
			return append([]string{number(mine), number(theirs)}, s.cells()...)
		}
		line := append([]string{x.name(), x.Codec}, cells(x.Ratio.CPU, mine.CPU, theirs.CPU)...)
		times.add(append(line, cells(x.Ratio.Wall, mine.Wall, theirs.Wall)...)...)
		line = append([]string{x.name(), x.Codec}, cells(x.Ratio.RSS, mb(mine.RSS), mb(theirs.RSS))[:2]...)
		if mine.Stored+theirs.Stored > 0 {
			line = append(line, cells(x.Ratio.Stored, mb(mine.Stored), mb(theirs.Stored))[:3]...)
		} else {
			line = append(line, "", "", "")
		}
		rest.add(append(line, count(x.Syncs, pgxName), count(x.Syncs, peerName))...)
		if theirs, measured := x.Median[baseName]; measured {
			ratio := x.to(baseName)
			line := append([]string{x.Codec}, cells(ratio.CPU, mine.CPU, theirs.CPU)...)
			line = append(line, cells(ratio.Wall, mine.Wall, theirs.Wall)...)
			base.add(append(line, number(mb(mine.Stored)), number(mb(theirs.Stored)))...)
		}
	}
	times.write(w)
	fmt.Fprintf(w, "\nMedians of %d rounds, of archive between hosts %d; a ratio is the median of those of the rounds,\n"+
		"pgx / pgbackrest, with quartiles: below 1 pgx takes less.\n"+
		"CPU is that of all processes; of ssh and server also what sshd, what it starts and the server take, on both hosts.\n"+
		"archive-push and archive-get: for one segment. server: pgx to its resident server, pgbackrest over ssh.\n\n",
		r.Rounds, r.Pairs)
	rest.write(w)
	fmt.Fprintf(w, "\nThe largest process: %.1f MB for one that needs nothing, of those that sshd starts none. Syncs: calls of\n%s.\n",
		mb(r.RSSFloor), strings.ReplaceAll(syncCalls, ",", ", "))
	if len(base.rows) > 0 {
		fmt.Fprintf(w, "\n%s, one process, with what the server takes to send\n\n", baseName)
		base.write(w)
	}
}

// name says what the row is about, without the codec.
func (x *row) name() string {
	if x.Corpus != "" {
		return x.Operation + ", " + x.Corpus
	}
	return x.Operation
}

// cells gives a median and its quartiles as they are printed.
func (s spread) cells() []string {
	if s == (spread{}) {
		return []string{"", ""}
	}
	return []string{fmt.Sprintf("%.2f", s.Median), fmt.Sprintf("%.2f–%.2f", s.Low, s.High)}
}

// number prints with as many decimal places as tell enough.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.1 || v == 0:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// count prints how often a program syncs, if that was counted.
func count(syncs map[string]float64, tool string) string {
	n, counted := syncs[tool]
	if !counted {
		return ""
	}
	return fmt.Sprintf("%.0f", n)
}

// grid is a table in Markdown.
type grid struct {
	head []string
	rows [][]string
}

func newGrid(head ...string) *grid { return &grid{head: head} }

func (g *grid) add(cells ...string) { g.rows = append(g.rows, cells) }

// write prints the table, its columns below one another.
func (g *grid) write(w io.Writer) {
	widths := make([]int, len(g.head))
	rule := make([]string, len(g.head))
	for i := range g.head {
		for _, line := range append([][]string{g.head}, g.rows...) {
			widths[i] = max(widths[i], utf8.RuneCountInString(line[i]))
		}
		widths[i] = max(widths[i], 3)
		rule[i] = strings.Repeat("-", widths[i])
	}
	for _, line := range append([][]string{g.head, rule}, g.rows...) {
		for i, cell := range line {
			// Names are to the left, numbers to the right.
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				cell += space
			} else {
				cell = space + cell
			}
			fmt.Fprintf(w, "| %s ", cell)
		}
		fmt.Fprintln(w, "|")
	}
}
