//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// target is what is asked of an operation: ratios to pgbackrest, or seconds or MB, or what is read. 0: nothing.
type target struct {
	operation, codec  string // "": any codec
	corpora           bool   // on each part of the corpus alone, too
	cpu, wall, stored float64
	seconds, memory   float64 // of pgx itself
	read              float64 // by pgx itself, to the size of the databases
}

var targets = []target{
	{operation: backup, codec: "none", cpu: 0.85, wall: 0.95},
	{operation: backup, codec: "lz4", corpora: true, cpu: 0.95, wall: 1.0, stored: 1.05},
	{operation: backup, codec: "zst", cpu: 1.05, wall: 1.05, stored: 1.02},
	{operation: backup, codec: "gz", cpu: 0.55, wall: 0.6, stored: 1.02},
	{operation: restore, codec: "none", cpu: 1.0, wall: 1.0},
	{operation: restore, codec: "lz4", cpu: 1.0, wall: 1.0},
	{operation: restore, codec: "zst", cpu: 1.0, wall: 1.0},
	{operation: restore, codec: "gz", cpu: 1.2, wall: 1.2},
	{operation: restoreTheirs, codec: "none", cpu: 1.0, wall: 1.0},
	{operation: restoreTheirs, codec: "lz4", cpu: 1.0, wall: 1.0},
	{operation: restoreTheirs, codec: "zst", cpu: 1.0, wall: 1.0},
	{operation: restoreTheirs, codec: "gz", cpu: 1.2, wall: 1.2},
	{operation: remoteBackup, codec: "lz4", cpu: 0.9, wall: 0.9},
	{operation: remoteRestore, codec: "lz4", cpu: 0.9, wall: 0.9},
	{operation: unchangedBackup, cpu: 0.6, wall: 0.7},
	{operation: blockIncr, cpu: 0.9, wall: 0.9, stored: 1.05},
	{operation: blockDelta, cpu: 0.9, wall: 0.9},
	{operation: smallFull, cpu: 1.0, wall: 1.0},
	{operation: smallIncr, cpu: 1.0, wall: 1.0},
	{operation: smallRestore, cpu: 1.0, wall: 1.0},
	{operation: summaryIncr17, read: 0.05},
	{operation: summaryIncr18, read: 0.05},
	{operation: backup, memory: 150},
	{operation: loadManifest, seconds: 1},
	{operation: saveManifest, seconds: 2},
	{operation: listBackups, seconds: 1},
	{operation: listOne, seconds: 1},
}

// verdict is a target and what a row has to say of it.
type verdict struct {
	target
	*row
}

// judged gives the verdicts of all that was measured.
func (r *report) judged() (all []verdict) {
	for _, t := range targets {
		for _, x := range r.Rows {
			if x.Operation == t.operation && (t.codec == "" || t.codec == x.Codec) && (t.corpora || x.Corpus == "") && len(x.Samples[pgxName]) > 0 {
				all = append(all, verdict{t, x})
			}
		}
	}
	return all
}

// misses names what does not hold.
func (v verdict) misses() (names []string) {
	mine := v.Median[pgxName]
	for _, one := range []struct {
		name       string
		got, limit float64
	}{
		{"CPU", v.Ratio.CPU.Median, v.cpu}, {"wall", v.Ratio.Wall.Median, v.wall}, {"stored", v.Ratio.Stored.Median, v.stored},
		{"seconds", mine.Wall, v.seconds}, {"memory", mb(mine.RSS), v.memory}, {"read", mine.part(), v.read},
	} {
		if one.limit > 0 && one.got > one.limit {
			names = append(names, one.name)
		}
	}
	return names
}

// verdicts prints the targets and which of them hold.
func (r *report) verdicts(w io.Writer) {
	all := r.judged()
	ratios := newGrid("", "", "CPU", "quartiles", "at most", "wall", "quartiles", "at most", "stored", "at most", "holds")
	own := newGrid("", "", "pgx", "at most", "holds")
	for _, v := range all {
		holds := "yes"
		if names := v.misses(); len(names) > 0 {
			holds = "no: " + strings.Join(names, ", ")
		}
		switch mine := v.Median[pgxName]; {
		case v.seconds > 0:
			own.add(v.name(), v.Codec, number(mine.Wall)+" s", limit(v.seconds)+" s", holds)
		case v.memory > 0:
			own.add(v.name()+", largest process", v.Codec, number(mb(mine.RSS))+" MB", limit(v.memory)+" MB", holds)
		case v.read > 0:
			own.add(v.name()+", read of the databases", v.Codec, percent(mine.part()), percent(v.read), holds)
		default:
			line := slices.Concat([]string{v.name(), v.Codec}, v.Ratio.CPU.cells(), []string{limit(v.cpu)}, v.Ratio.Wall.cells(), []string{limit(v.wall)})
			if v.stored > 0 {
				line = append(line, v.Ratio.Stored.cells()[0], limit(v.stored))
			} else {
				line = append(line, "", "")
			}
			ratios.add(append(line, holds)...)
		}
	}
	for i, g := range []*grid{ratios, own} {
		if len(g.rows) > 0 {
			fmt.Fprintf(w, "\n%s\n\n", []string{"Targets, ratios pgx / pgbackrest", "Targets of pgx itself"}[i])
			g.write(w)
		}
	}
}

func percent(part float64) string { return number(100*part) + " %" }

// limit prints what is asked for.
func limit(v float64) string {
	if v == 0 {
		return ""
	}
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
