package postgres_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
)

func TestParseLSN(t *testing.T) {
	for _, test := range []struct {
		in   string
		want postgres.LSN
		out  string
	}{
		{"0/1500028", 0x1500028, "0/1500028"},
		{"0/01500028", 0x1500028, "0/1500028"}, // as printed since 19
		{"16/b374d848", 0x16B374D848, "16/B374D848"},
		{"FFFFFFFF/FFFFFFFF", 1<<64 - 1, "FFFFFFFF/FFFFFFFF"},
		{"0/0", 0, "0/0"},
	} {
		got, err := postgres.ParseLSN(test.in)
		if got != test.want || err != nil || got.String() != test.out {
			t.Errorf("'%s': %s, %v", test.in, got, err)
		}
	}
	for _, in := range []string{"", "/", "0", "0/", "/0", "0/0/0", "1/100000000", "0x1/0", "+1/0", "0/-1", " 0/0", "0/0 ", "g/0", "1_0/0"} {
		if got, err := postgres.ParseLSN(in); errs.CodeOf(err) != errs.Format {
			t.Errorf("'%s': %s, %v", in, got, err)
		}
	}
	_, err := postgres.ParseLSN("x")
	if want := "'x' is not an LSN such as '0/1500028'"; err == nil || err.Error() != want {
		t.Error(err)
	}
}

func TestParseWALName(t *testing.T) {
	for in, want := range map[string]postgres.WALName{
		"000000010000000000000001":                 {Kind: postgres.Segment, Timeline: 1, Number: 1},
		"0000000A00000010000000FE":                 {Kind: postgres.Segment, Timeline: 10, Log: 16, Number: 254},
		"000000010000000000000003.partial":         {Kind: postgres.Partial, Timeline: 1, Number: 3},
		"00000002.history":                         {Kind: postgres.History, Timeline: 2},
		"000000010000000000000002.00000028.backup": {Kind: postgres.BackupHistory, Timeline: 1, Number: 2, Offset: 0x28},
	} {
		got, err := postgres.ParseWALName(in)
		if got != want || err != nil || got.String() != in {
			t.Errorf("'%s': %+v '%s', %v", in, got, got, err)
		}
	}
	for _, in := range []string{
		"", ".history", "1.history", "0000000a.history", "00000002.history.gz", "00000001000000000000001", "0000000100000000000000011",
		"00000001000000000000000a", "00000001000000000000000G", "00000001000000000000000:", "000000010000000000000001.part",
		"000000010000000000000001.partial.gz", "000000010000000000000001.0000002.backup", "000000010000000000000001.000000028.backup",
		"000000010000000000000001.+0000028.backup", "000000010000000000000001-da39a3ee", "pg_wal/000000010000000000000001",
		"000000010000000000000001.ready", "000000010000000000000001\n", "+00000010000000000000001", "archive_status",
	} {
		if got, err := postgres.ParseWALName(in); errs.CodeOf(err) != errs.Format {
			t.Errorf("'%s': %+v, %v", in, got, err)
		}
	}
}

func TestSegmentNames(t *testing.T) {
	const m = 1 << 20
	for _, test := range []struct {
		lsn     postgres.LSN
		size    int64
		want    string
		nextOne string
	}{
		{0x1500028, 16 * m, "000000010000000000000001", "000000010000000000000002"},
		{0x865D58, m, "000000010000000000000008", "000000010000000000000009"}, // the control file of 18-1
		{0xFFFFFFFF, 16 * m, "0000000100000000000000FF", "000000010000000100000000"},
		{0xFFFFFFFF, m, "000000010000000000000FFF", "000000010000000100000000"},
		{0x2_FFFFFFFF, 64 * m, "00000001000000020000003F", "000000010000000300000000"},
		{0x2_FFFFFFFF, 1024 * m, "000000010000000200000003", "000000010000000300000000"},
		{1 << 32, 16 * m, "000000010000000100000000", "000000010000000100000001"},
	} {
		got := postgres.SegmentName(1, test.lsn, test.size)
		next, err := postgres.NextSegment(got, test.size)
		if got != test.want || next != test.nextOne || err != nil {
			t.Errorf("%s at %d: %s, then %s, %v", test.lsn, test.size, got, next, err)
		}
		name, err := postgres.ParseWALName(got)
		if err != nil || name.Start(test.size) != test.lsn/postgres.LSN(test.size)*postgres.LSN(test.size) {
			t.Errorf("%s starts at %s, %v", got, name.Start(test.size), err)
		}
		want := test.size
		if name.Number == 0 {
			want = 0
		}
		if size := name.SegmentSize(test.lsn); size != want {
			t.Errorf("%s with %s: segments of %d bytes, want %d", got, test.lsn, size, want)
		}
		if size := name.SegmentSize(test.lsn + 1<<32); size != 0 {
			t.Errorf("%s with %s: segments of %d bytes", got, test.lsn+1<<32, size)
		}
	}
	for _, in := range []string{"000000010000000000000100", "00000002.history", "000000010000000000000001.partial", "x"} {
		if got, err := postgres.NextSegment(in, 16*m); errs.CodeOf(err) != errs.Format {
			t.Errorf("'%s': %s, %v", in, got, err)
		}
	}
}

func TestSegmentRange(t *testing.T) {
	const size = 16 << 20
	for _, test := range []struct {
		from, to postgres.LSN
		want     []string
	}{
		{0x2000028, 0x2000100, []string{"000000030000000000000002"}},
		// The end on a border includes the segment that begins there.
		{0x2000028, 0x3000000, []string{"000000030000000000000002", "000000030000000000000003"}},
		{0xFEFFFFFF, 0x1_01000000, []string{"0000000300000000000000FE", "0000000300000000000000FF",
			"000000030000000100000000", "000000030000000100000001"}},
		{0x3000000, 0x2000000, nil},
		{0x2000100, 0x2000028, []string{"000000030000000000000002"}},
	} {
		if got := postgres.SegmentRange(3, test.from, test.to, size); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s to %s: %q", test.from, test.to, got)
		}
	}
}

// The samples are named VERSION-MIB-SEGMENT.
func TestParseWALHeader(t *testing.T) {
	entries, err := os.ReadDir("testdata/wal")
	if err != nil || len(entries) < 18 {
		t.Fatal(len(entries), err)
	}
	for _, entry := range entries {
		t.Run(entry.Name(), func(t *testing.T) {
			h, err := postgres.ParseWALHeader(readFile(t, "wal", entry.Name()))
			if err != nil {
				t.Fatal(err)
			}
			part := strings.Split(entry.Name(), "-")
			name, err := postgres.ParseWALName(part[2])
			if err != nil {
				t.Fatal(err)
			}
			size := map[string]int64{"1": 1 << 20, "16": 16 << 20, "64": 64 << 20}[part[1]]
			if h.Version.String() != part[0] || h.SegmentSize != size || h.PageAddr != name.Start(size) || h.Timeline == 0 || h.Timeline > name.Timeline {
				t.Errorf("%+v", h)
			}
			if err := h.CheckName(name); err != nil {
				t.Error(err)
			}
			next := name
			next.Number++
			if err := h.CheckName(next); errs.CodeOf(err) != errs.Format {
				t.Errorf("passes for the next segment: %v", err)
			}
			if _, err := os.Stat("testdata/control/" + part[0] + "-" + part[1] + ".bin"); err == nil {
				c, err := postgres.ParseControl(readFile(t, "control", part[0]+"-"+part[1]+".bin"))
				if err != nil || c.SystemID != h.SystemID {
					t.Errorf("system id %d, pg_control has %d, %v", h.SystemID, c.SystemID, err)
				}
			}
		})
	}
}

func TestParseWALHeaderRefuses(t *testing.T) {
	header := func(at int, v byte) []byte {
		b := readFile(t, "wal", "18-16-000000010000000000000001")[:40]
		b[at] = v
		return b
	}
	const versions = "\nHINT: pgx supports the released versions of PostgreSQL 12 to 18, is pgx up to date on all hosts?"
	for _, test := range []struct {
		name string
		in   []byte
		code errs.Code
		want string
	}{
		{"empty", nil, errs.Format, "WAL segment has 0 bytes, fewer than the 40 of its header"},
		{"short", header(0, 0x18)[:39], errs.Format, "WAL segment has 39 bytes, fewer than the 40 of its header"},
		{"zeros", make([]byte, 64), errs.Format, "first page header in WAL file is expected to be in long format"},
		{"short page header", header(2, 0), errs.Format, "first page header in WAL file is expected to be in long format"},
		{"11", append([]byte{0x98, 0xD0}, header(0, 0)[2:]...), errs.VersionNotSupported,
			"unexpected WAL magic 0xD098: PostgreSQL 11 is not supported" + versions},
		{"19", header(0, 0x21), errs.VersionNotSupported, "unexpected WAL magic 0xD121: it is of a PostgreSQL newer than 18" + versions},
		{"beta", header(0, 0x0F), errs.VersionNotSupported, "unexpected WAL magic 0xD10F: it is of no released version" + versions},
		{"8.4", append([]byte{0x63, 0xD0}, header(0, 0)[2:]...), errs.VersionNotSupported,
			"unexpected WAL magic 0xD063: it is of a PostgreSQL older than 12" + versions},
		{"something else", header(1, 0x12), errs.VersionNotSupported, "unexpected WAL magic 0x1218: it is not PostgreSQL's" + versions},
		{"segment size", header(35, 0x03), errs.Format,
			"WAL header: wal segment size is 50331648, not a power of two from 1048576 to 1073741824"},
	} {
		_, err := postgres.ParseWALHeader(test.in)
		if errs.CodeOf(err) != test.code || err.Error() != test.want {
			t.Errorf("%s: [%d] %v", test.name, errs.CodeOf(err), err)
		}
	}
}

func TestParseHistory(t *testing.T) {
	got, err := postgres.ParseHistory(readFile(t, "00000002.history"))
	want := []postgres.HistoryEntry{{Timeline: 1, Switch: 0x32E1208, Reason: "no recovery target specified"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	got, err = postgres.ParseHistory([]byte("# comment\n\n1\t0/5000000\tafter LSN 0/4\twith a tab\n \t\n3\tA/0\n"))
	want = []postgres.HistoryEntry{{1, 0x5000000, "after LSN 0/4\twith a tab"}, {3, 0xA_00000000, ""}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	if got, err := postgres.ParseHistory(nil); err != nil || got != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	for in, want := range map[string]string{
		"1 0/5\n":              "invalid history line '1 0/5': timeline and LSN are expected, separated by a tab",
		"x\t0/5\n":             "invalid history line 'x\t0/5': 'x' is not a timeline",
		"0\t0/5\n":             "invalid history line '0\t0/5': '0' is not a timeline",
		"1\t0x5\n":             "invalid history line '1\t0x5': '0x5' is not an LSN such as '0/1500028'",
		"2\t0/5\tr\n2\t0/6\tr": "invalid history line '2\t0/6\tr': timelines must increase",
	} {
		if got, err := postgres.ParseHistory([]byte(in)); errs.CodeOf(err) != errs.Format || err.Error() != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}

func TestParseBackupLabel(t *testing.T) {
	for _, test := range []struct {
		file string
		want postgres.BackupLabel
	}{
		{"backup_label-13", postgres.BackupLabel{Start: 0x2000028, Segment: "000000010000000000000002", Timeline: 1,
			Checkpoint: 0x2000060, Label: "pg_basebackup base backup"}},
		{"backup_label-18", postgres.BackupLabel{Start: 0x2000028, Segment: "000000010000000000000002", Timeline: 1,
			Checkpoint: 0x2000080, Label: "pg_basebackup base backup"}},
	} {
		if got, err := postgres.ParseBackupLabel(readFile(t, test.file)); err != nil || got != test.want {
			t.Errorf("%s: %+v, %v", test.file, got, err)
		}
	}

	const start = "START WAL LOCATION: A/2000028 (file 000000050000000A00000002)\n"
	got, err := postgres.ParseBackupLabel([]byte(start + "CHECKPOINT LOCATION: A/2000060\nBACKUP FROM: standby\n" +
		"LABEL: x\nSTART WAL LOCATION: 0/0 (file 0)\n"))
	want := postgres.BackupLabel{Start: 0xA_02000028, Segment: "000000050000000A00000002", Timeline: 5,
		Checkpoint: 0xA_02000060, FromStandby: true, Label: "x"}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}

	for in, want := range map[string]string{
		"":                          "invalid backup_label: START WAL LOCATION is missing or not 'LSN (file SEGMENT)'",
		"START WAL LOCATION: 0/1\n": "invalid backup_label: START WAL LOCATION is missing or not 'LSN (file SEGMENT)'",
		"START WAL LOCATION: 1 (file 000000010000000000000002)\n": "invalid backup_label: START WAL LOCATION: " +
			"'1' is not an LSN such as '0/1500028'",
		"START WAL LOCATION: 0/1 (file 00000001.history)\n": "invalid backup_label: START WAL LOCATION: " +
			"'00000001.history' is not the name of a WAL segment",
		start: "invalid backup_label: CHECKPOINT LOCATION: '' is not an LSN such as '0/1500028'",
		start + "CHECKPOINT LOCATION: A/2000060\nSTART TIMELINE: 6\n": "invalid backup_label: START TIMELINE '6' is not that of " +
			"segment '000000050000000A00000002'",
	} {
		if got, err := postgres.ParseBackupLabel([]byte(in)); errs.CodeOf(err) != errs.Format || err.Error() != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}

func FuzzParseLSN(f *testing.F) {
	f.Add("0/1500028")
	f.Fuzz(func(t *testing.T, s string) {
		lsn, err := postgres.ParseLSN(s)
		if err != nil {
			return
		}
		if again, err := postgres.ParseLSN(lsn.String()); err != nil || again != lsn {
			t.Fatalf("%s, then %s, %v", lsn, again, err)
		}
	})
}

func FuzzParseWALName(f *testing.F) {
	f.Add("000000010000000000000002.00000028.backup")
	f.Add("000000010000000000000002.partial")
	f.Add("00000002.history")
	f.Fuzz(func(t *testing.T, s string) {
		if name, err := postgres.ParseWALName(s); err == nil && name.String() != s {
			t.Fatalf("%q printed as %q", s, name)
		}
	})
}

func FuzzParseWALHeader(f *testing.F) {
	f.Add(readFile(f, "wal", "13-16-000000020000000000000003"))
	f.Add(readFile(f, "wal", "18-1-000000010000000000000008"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := postgres.ParseWALHeader(b)
		if err == nil && (!h.Version.Supported() || h.SegmentSize < 1<<20 || h.SegmentSize > 1<<30) {
			t.Fatalf("accepted %+v", h)
		}
	})
}

func FuzzParseHistory(f *testing.F) {
	f.Add(readFile(f, "00000002.history"))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := postgres.ParseHistory(b)
		if err != nil {
			return
		}
		last := postgres.Timeline(0)
		for _, e := range entries {
			if e.Timeline <= last {
				t.Fatalf("%+v", entries)
			}
			last = e.Timeline
		}
	})
}

func FuzzParseBackupLabel(f *testing.F) {
	f.Add(readFile(f, "backup_label-13"))
	f.Add(readFile(f, "backup_label-18"))
	f.Fuzz(func(t *testing.T, b []byte) {
		label, err := postgres.ParseBackupLabel(b)
		if err != nil {
			return
		}
		name, err := postgres.ParseWALName(label.Segment)
		if err != nil || name.Kind != postgres.Segment || name.Timeline != label.Timeline {
			t.Fatalf("%+v, %v", label, err)
		}
	})
}
