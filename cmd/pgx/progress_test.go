package main

import (
	"testing"
	"time"
)

func TestProgressLine(t *testing.T) {
	const mb = 1 << 20
	for _, test := range []struct {
		files, all   int
		bytes, total int64
		taken        time.Duration
		width        int
		want         string
	}{
		{0, 100, 0, 200 * mb, 0, 80, "backup [                                     ]   0% 0B/200MB, 0/100 files, 0B/s"},
		{50, 100, 100 * mb, 200 * mb, 10 * time.Second, 100, "backup [####################                    ]  50% 100MB/200MB, 50/100 files, 10MB/s, 10s left"},
		{100, 100, 200 * mb, 200 * mb, 20 * time.Second, 100, "backup [########################################] 100% 200MB/200MB, 100/100 files, 10MB/s, 0s left"},
		// A cluster of empty files is done from the start; a narrow terminal gets no bar.
		{1, 1, 0, 0, 0, 30, "backup 100% 0B/0B, 1/1 files,"},
		{1, 2, 5, 10, 0, 0, ""},
	} {
		if got := line("backup", test.files, test.all, test.bytes, test.total, test.taken, test.width); got != test.want {
			t.Errorf("%d of %d bytes in %d columns:\n%q, want\n%q", test.bytes, test.total, test.width, got, test.want)
		}
		if got := line("backup", test.files, test.all, test.bytes, test.total, test.taken, test.width); len(got) > test.width {
			t.Errorf("%q does not fit into %d columns", got, test.width)
		}
	}
}

func TestGauge(t *testing.T) {
	for _, test := range []struct {
		done  float64
		text  string
		width int
		want  string
	}{
		{0, " 0/7", 40, "expire [                          ] 0/7"},
		{0.5, " 3/6", 200, "expire [####################                    ] 3/6"},
		{1, " 7/7", 12, "expire 7/7"},
	} {
		if got := gauge("expire", test.done, test.text, test.width); got != test.want {
			t.Errorf("%s in %d columns:\n%q, want\n%q", test.text, test.width, got, test.want)
		}
	}
}
