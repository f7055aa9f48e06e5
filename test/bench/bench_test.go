//go:build linux

package main

import (
	"math"
	"path/filepath"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0}, {[]float64{3}, 3}, {[]float64{4, 1}, 2.5}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 9, 2}, 3},
	} {
		if got := median(test.values); got != test.want {
			t.Errorf("of %v: %v", test.values, got)
		}
	}
}

// The second round ran on a busy machine: it takes both programs longer and must not
// move the ratio.
func TestRatioIsThatOfEachRound(t *testing.T) {
	var r report
	for _, round := range []float64{1, 10, 1.1} {
		r.add(restore, "lz4", pgxName, sample{Wall: round, CPU: 3, RSS: 10 << 20})
		r.add(restore, "lz4", peerName, sample{Wall: 2 * round, CPU: 2, RSS: 40 << 20})
		r.add(backup, "lz4", peerName, sample{Wall: 1})
		r.add(backup, "lz4", pgxName, sample{Wall: 1})
	}
	r.summarize()
	if r.Rows[0].Operation != backup || r.Rows[1].Operation != restore {
		t.Errorf("rows are %v and %v", r.Rows[0], r.Rows[1])
	}
	got := r.Rows[1]
	if want := (ratio{Wall: 0.5, CPU: 1.5, RSS: 0.25}); got.Ratio != want || got.Median[pgxName].Wall != 1.1 {
		t.Errorf("ratios are %+v, medians %+v", got.Ratio, got.Median)
	}
}

// The processor time of children counts, and of those nobody waits for.
func TestMeasureTree(t *testing.T) {
	const work = `i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done`
	alone, code, err := measureTree([]string{"/bin/sh", "-c", work})
	if err != nil || code != 0 {
		t.Fatalf("exit code %d, %v", code, err)
	}
	three, code, err := measureTree([]string{"/bin/sh", "-c", "(" + work + ")& (" + work + ")& sh -c '" + work + "'; exit 7"})
	if err != nil || code != 7 {
		t.Fatalf("exit code %d, %v", code, err)
	}
	if alone.CPU <= 0 || math.Abs(three.CPU/alone.CPU-3) > 2 || three.RSS < 100_000 {
		t.Errorf("one took %+v, three %+v", alone, three)
	}
}

func TestMissingProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pgx")
	_, err := parse([]string{"-pgx", path})
	if err == nil || err.Error() != "program '"+path+"' is missing: run 'make build', or give its path with -pgx" {
		t.Error(err)
	}
	if _, err := parse([]string{"-codecs", "lz4,rar"}); err == nil || !strings.Contains(err.Error(), "'rar'") {
		t.Error(err)
	}
}
