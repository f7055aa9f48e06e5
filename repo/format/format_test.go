package format_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
)

func TestParseLabel(t *testing.T) {
	for _, test := range []struct {
		in   string
		kind format.BackupType // empty: no label
	}{
		{"20261121-015206F", format.Full},
		{"20261121-015206F_20261121-015214D", format.Diff},
		{"20261121-015206F_20261121-015214I", format.Incr},
		{"99999999-999999F", format.Full}, // no time, but pgBackRest takes it
		{"", ""},
		{"20261121-015206", ""},
		{"20261121-015206D", ""},
		{"20261121-015206f", ""},
		{"20261121_015206F", ""},
		{"2026112x-015206F", ""},
		{"20261121-015206F_", ""},
		{"20261121-015206F_20261121-015214F", ""},
		{"20261121-015206D_20261121-015214I", ""},
		{"20261121-015206F-20261121-015214I", ""},
		{"20261121-015206F_20261121-015214I/..", ""},
		{"../../20261121-015206F", ""},
		{"20261121-015206F\n", ""},
	} {
		l, err := format.ParseLabel(test.in)
		switch {
		case test.kind == "" && errs.CodeOf(err) != errs.Format:
			t.Errorf("%q: label %q, error %v", test.in, l, err)
		case test.kind != "" && (err != nil || string(l) != test.in || l.Type() != test.kind || l.Full() != "20261121-015206F" && test.in[0] == '2'):
			t.Errorf("%q: label %q of type %s in set %s, error %v", test.in, l, l.Type(), l.Full(), err)
		}
	}
}

func TestNextLabel(t *testing.T) {
	start := time.Date(2026, 11, 21, 1, 52, 6, 500e6, time.FixedZone("", 3600))
	const (
		full  = format.Label("20261121-015206F")
		older = format.Label("20261120-000000F")
	)
	for name, test := range map[string]struct {
		kind  format.BackupType
		prior format.Label
		taken []format.Label
		want  format.Label
		wait  bool
		code  errs.Code
	}{
		"first":                  {format.Full, "", nil, full, false, 0},
		"later than all":         {format.Full, "", []format.Label{older, older + "_20261121-015205I"}, full, false, 0},
		"same second":            {format.Full, "", []format.Label{full}, "20261121-015207F", true, 0},
		"a diff of this second":  {format.Full, "", []format.Label{full + "_20261121-015206D"}, "20261121-015207F", true, 0},
		"clock went back":        {format.Full, "", []format.Label{"20261121-015207F"}, "", false, errs.Clock},
		"diff":                   {format.Diff, older, []format.Label{older}, older + "_20261121-015206D", false, 0},
		"incr on a diff":         {format.Incr, older + "_20261121-000000D", []format.Label{older}, older + "_20261121-015206I", false, 0},
		"other set does not say": {format.Incr, older, []format.Label{"20270101-000000F", "20270101-000000F_20270102-000000I"}, older + "_20261121-015206I", false, 0},
		"incr of this second":    {format.Diff, older, []format.Label{older + "_20261121-015206I"}, older + "_20261121-015207D", true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, wait, err := format.NextLabel(test.kind, test.prior, start, test.taken)
			if got != test.want || wait != test.wait || errs.CodeOf(err) != test.code {
				t.Errorf("got %q, wait %v, error %v; want %q, %v, %d", got, wait, err, test.want, test.wait, test.code)
			}
		})
	}
	_, _, err := format.NextLabel(format.Full, "", start, []format.Label{"20270101-000000F"})
	const message = "new backup label '20261121-015207F' is not later than latest backup label '20270101-000000F'\n" +
		"HINT: has the timezone changed?\nHINT: is there clock skew?"
	if err == nil || err.Error() != message {
		t.Errorf("error is\n%v\nwant\n%s", err, message)
	}
}

func TestArchiveID(t *testing.T) {
	for _, s := range []string{"15-1", "9.6-2", "18-12"} {
		id, err := format.ParseArchiveID(s)
		if err != nil || id.String() != s {
			t.Errorf("%q became %q, error %v", s, id, err)
		}
	}
	for _, s := range []string{"", "15", "15-", "15-0", "15-01", "15--1", "15-+1", "-1", "a-1", "15.-1", "15-1/..", "15-99999999999999999999"} {
		var own *errs.Error
		if id, err := format.ParseArchiveID(s); !errors.As(err, &own) || own.Code != errs.Format {
			t.Errorf("%q is %v, error %v", s, id, err)
		}
	}
}

func TestPaths(t *testing.T) {
	id := format.ArchiveID{Version: "15", ID: 1}
	sum := [20]byte{0xab, 19: 0xcd}
	const (
		hex     = "ab000000000000000000000000000000000000cd"
		segment = "000000010000000000000014"
	)
	for _, test := range []struct{ got, want string }{
		{format.ArchiveInfoPath("demo"), "archive/demo/archive.info"},
		{format.BackupInfoPath("demo"), "backup/demo/backup.info"},
		{format.ArchivePath("demo", id, format.SegmentFile(segment, sum, ".gz")),
			"archive/demo/15-1/0000000100000000/000000010000000000000014-" + hex + ".gz"},
		{format.ArchivePath("demo", id, segment+".00000028.backup"),
			"archive/demo/15-1/0000000100000000/000000010000000000000014.00000028.backup"},
		{format.ArchivePath("demo", id, "00000002.history"), "archive/demo/15-1/00000002.history"},
		{format.ManifestPath("demo", "20261121-015206F"), "backup/demo/20261121-015206F/backup.manifest"},
		{format.HistoryPath("demo", "20261121-015206F"), "backup/demo/backup.history/2026/20261121-015206F.manifest.gz"},
		{format.LatestPath("demo"), "backup/demo/latest"},
		{format.BundlePath("demo", "20261121-015206F", 7), "backup/demo/20261121-015206F/bundle/7"},
		{format.FilePath("demo", "20261121-015206F", "pg_data/PG_VERSION", ".zst"), "backup/demo/20261121-015206F/pg_data/PG_VERSION.zst"},
	} {
		if test.got != test.want {
			t.Errorf("got %s, want %s", test.got, test.want)
		}
	}
	if l, ok := format.ParseHistoryFile("20261121-015206F.manifest.gz"); !ok || l != "20261121-015206F" {
		t.Errorf("history file has label %q, %v", l, ok)
	}
	if _, ok := format.ParseHistoryFile("20261121-015206F.manifest"); ok {
		t.Error("a file without its suffix is taken for one of the history")
	}
	for _, name := range []string{segment, segment + ".partial"} {
		for _, ext := range []string{"", ".gz", ".zst"} {
			wal, s, e, ok := format.ParseSegmentFile(format.SegmentFile(name, sum, ext))
			if !ok || wal != name || s != sum || e != ext {
				t.Errorf("%s%s: parsed as %s %x %s %v", name, ext, wal, s, e, ok)
			}
		}
	}
	for _, name := range []string{"", segment, segment + "-" + hex[1:], segment + "-" + hex + "0", segment + "-" + hex + ".tmp",
		segment[1:] + "-" + hex, segment + ".00000028.backup", segment + "x-" + hex, "00000002.history"} {
		if _, _, _, ok := format.ParseSegmentFile(name); ok {
			t.Errorf("%q is taken for a segment", name)
		}
	}
	if !format.IsSegmentDir(segment[:16]) || format.IsSegmentDir(segment) || format.IsSegmentDir("15-1") {
		t.Error("directories of segments are not told from others")
	}
}

func TestLabelsSortByTime(t *testing.T) {
	labels := []format.Label{"20261121-015206F", "20261121-015206F_20261121-015214D", "20261121-015206F_20261121-015215I", "20261122-000000F"}
	if !slices.IsSorted(labels) {
		t.Error("labels do not sort by time")
	}
}
