package postgres_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// readFile gives a file below testdata, which holds what real clusters wrote.
func readFile(t testing.TB, name ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{"testdata"}, name...)...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// controlData gives the lines that pg_controldata printed.
func controlData(t testing.TB, name string) map[string]string {
	t.Helper()
	values := map[string]string{}
	for line := range strings.Lines(string(readFile(t, "control", name+".txt"))) {
		key, value, _ := strings.Cut(line, ":")
		values[key] = strings.TrimSpace(value)
	}
	return values
}

func TestParseControlAgreesWithPgControldata(t *testing.T) {
	files, err := filepath.Glob("testdata/control/*.bin")
	if err != nil || len(files) < 14 {
		t.Fatalf("%d samples, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".bin")
		t.Run(name, func(t *testing.T) {
			c, err := postgres.ParseControl(readFile(t, "control", name+".bin"))
			if err != nil {
				t.Fatal(err)
			}
			if want, _, _ := strings.Cut(name, "-"); c.Version.String() != want {
				t.Errorf("version %s, want %s", c.Version, want)
			}
			want := controlData(t, name)
			for key, got := range map[string]string{
				"pg_control version number":            fmt.Sprint(c.ControlVersion),
				"Catalog version number":               fmt.Sprint(c.CatalogVersion),
				"Database system identifier":           fmt.Sprint(c.SystemID),
				"Database cluster state":               c.State.String(),
				"pg_control last modified":             c.Modified.Format(time.ANSIC),
				"Latest checkpoint location":           c.Checkpoint.String(),
				"Latest checkpoint's REDO location":    c.Redo.String(),
				"Latest checkpoint's REDO WAL file":    postgres.SegmentName(c.Timeline, c.Redo, c.WALSegmentSize),
				"Latest checkpoint's TimeLineID":       fmt.Sprint(uint32(c.Timeline)),
				"Minimum recovery ending location":     c.MinRecovery.String(),
				"Min recovery ending loc's timeline":   fmt.Sprint(uint32(c.MinRecoveryTimeline)),
				"Backup start location":                c.BackupStart.String(),
				"Backup end location":                  c.BackupEnd.String(),
				"End-of-backup record required":        map[bool]string{true: "yes", false: "no"}[c.BackupEndRequired],
				"Database block size":                  fmt.Sprint(c.PageSize),
				"Blocks per segment of large relation": fmt.Sprint(c.SegmentPages),
				"Bytes per WAL segment":                fmt.Sprint(c.WALSegmentSize),
				"Data page checksum version":           fmt.Sprint(c.ChecksumVersion),
			} {
				if got != want[key] {
					t.Errorf("%s: %s, pg_controldata says '%s'", key, got, want[key])
				}
			}
			if postgres.ControlInvalidated(c) {
				t.Error("seen as invalidated")
			}
		})
	}
}

// control gives a sample that was changed, with the CRC at crcAt made right again.
func control(t testing.TB, name string, crcAt int, change func(b []byte)) []byte {
	b := readFile(t, "control", name+".bin")
	change(b)
	binary.LittleEndian.PutUint32(b[crcAt:], crc32.Checksum(b[:crcAt], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func putUint32(at int, v uint32) func(b []byte) {
	return func(b []byte) { binary.LittleEndian.PutUint32(b[at:], v) }
}

// PostgreSQL 12 was not at hand: its layout is that of 13 but for the version numbers.
func TestParseControlOf12(t *testing.T) {
	c, err := postgres.ParseControl(control(t, "13-16", 288, func(b []byte) {
		putUint32(8, 1201)(b)
		putUint32(12, 201909212)(b)
	}))
	if err != nil || c.Version != 12 || c.WALSegmentSize != 16<<20 || c.PageSize != 8192 {
		t.Fatalf("%+v, %v", c, err)
	}
}

func TestParseControlRefuses(t *testing.T) {
	const versions = "\nHINT: pgx supports the released versions of PostgreSQL 12 to 18, is pgx up to date on all hosts?"
	version := func(control, catalog uint32) func(b []byte) {
		return func(b []byte) { putUint32(8, control)(b); putUint32(12, catalog)(b) }
	}
	for _, test := range []struct {
		name string
		in   []byte
		code errs.Code
		want string
	}{
		{"empty", nil, errs.Format, "pg_control has 0 bytes but at least 512 are expected"},
		{"short", readFile(t, "control", "18-16.bin")[:511], errs.Format, "pg_control has 511 bytes but at least 512 are expected"},
		{"11", control(t, "13-16", 288, version(1100, 201809051)), errs.VersionNotSupported,
			"unexpected control version = 1100 and catalog version = 201809051: PostgreSQL 11 is not supported" + versions},
		{"9.6", control(t, "13-16", 288, version(960, 201608131)), errs.VersionNotSupported,
			"unexpected control version = 960 and catalog version = 201608131: PostgreSQL 9.6 is not supported" + versions},
		{"9.4", control(t, "13-16", 288, version(942, 201409291)), errs.VersionNotSupported,
			"unexpected control version = 942 and catalog version = 201409291: PostgreSQL before 9.6 is not supported" + versions},
		{"19", control(t, "18-16", 292, version(1902, 202605131)), errs.VersionNotSupported,
			"unexpected control version = 1902 and catalog version = 202605131: PostgreSQL 19 is not supported" + versions},
		{"beta", control(t, "13-16", 288, version(1300, 202209011)), errs.VersionNotSupported,
			"unexpected control version = 1300 and catalog version = 202209011: they are of no released version" + versions},
		{"zeros", make([]byte, 512), errs.VersionNotSupported,
			"unexpected control version = 0 and catalog version = 0: they are not PostgreSQL's" + versions},
		{"damaged", func() []byte { b := readFile(t, "control", "18-16.bin"); b[256] ^= 1; return b }(), errs.Checksum, ""},
		{"page size", control(t, "18-16", 292, putUint32(216, 8193)), errs.Format,
			"pg_control has page size 8193, not a power of two from 1024 to 32768"},
		{"segment size", control(t, "18-16", 292, putUint32(228, 3<<20)), errs.Format,
			"pg_control: wal segment size is 3145728, not a power of two from 1048576 to 1073741824"},
		{"segment size 2 GiB", control(t, "18-16", 292, putUint32(228, 2<<30)), errs.Format,
			"pg_control: wal segment size is 2147483648, not a power of two from 1048576 to 1073741824"},
		{"checksums", control(t, "18-16", 292, putUint32(252, 2)), errs.Format,
			"pg_control has page checksum version 2, only 0 and 1 are known"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := postgres.ParseControl(test.in)
			if errs.CodeOf(err) != test.code || test.want != "" && err.Error() != test.want {
				t.Fatalf("[%d] %v", errs.CodeOf(err), err)
			}
			if test.code == errs.Checksum && !strings.HasPrefix(err.Error(), "calculated pg_control checksum 0x") {
				t.Fatal(err)
			}
			if _, err := postgres.InvalidateControl(test.in); errs.CodeOf(err) != test.code {
				t.Fatalf("InvalidateControl: %v", err)
			}
		})
	}
}

func TestClearControl(t *testing.T) {
	b := append(readFile(t, "control", "18-16.bin"), 1, 2, 3)
	cleared := postgres.ClearControl(b)
	if len(cleared) != 8192 || !bytes.Equal(cleared[:512], b[:512]) || !bytes.Equal(cleared[512:], make([]byte, 7680)) {
		t.Fatalf("%d bytes: %x", len(cleared), cleared[:520])
	}
}

// The samples are pg_control in a repository and as pgBackRest 2.60.0 restored it.
func TestInvalidateControlAsPgBackRest(t *testing.T) {
	stored, want := readFile(t, "restore", "stored.bin"), readFile(t, "restore", "restored-by-pgbackrest.bin")
	before := bytes.Clone(stored)
	got, err := postgres.InvalidateControl(stored)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%v\ngot  %x\nwant %x", err, got, want)
	}
	if !bytes.Equal(before, stored) {
		t.Error("the argument was changed")
	}
	for _, test := range []struct {
		b    []byte
		want bool
	}{{stored, false}, {want, true}, {got, true}} {
		c, err := postgres.ParseControl(test.b)
		if err != nil || postgres.ControlInvalidated(c) != test.want {
			t.Errorf("%+v, %v", c, err)
		}
	}
	// 18 has its CRC elsewhere.
	got, err = postgres.InvalidateControl(postgres.ClearControl(readFile(t, "control", "18-16.bin")))
	if err != nil || len(got) != 8192 {
		t.Fatal(len(got), err)
	}
	if c, err := postgres.ParseControl(got); err != nil || !postgres.ControlInvalidated(c) {
		t.Fatalf("%+v, %v", c, err)
	}
}

func TestVersion(t *testing.T) {
	for _, test := range []struct {
		in        string
		want      postgres.Version
		supported bool
		code      errs.Code
	}{
		{"10", 10, false, 0}, {"11", 11, false, 0}, {"12", 12, true, 0}, {"18", 18, true, 0}, {"19", 19, false, 0},
		{"9.6", 0, false, errs.VersionNotSupported}, {"8.4", 0, false, errs.VersionNotSupported},
		{"", 0, false, errs.Format}, {"9", 0, false, errs.Format}, {"15.1", 0, false, errs.Format}, {"+15", 0, false, errs.Format},
		{"015", 0, false, errs.Format}, {"15\n", 0, false, errs.Format}, {"x", 0, false, errs.Format}, {"9.x", 0, false, errs.Format},
	} {
		got, err := postgres.ParseVersion(test.in)
		if got != test.want || got.Supported() != test.supported || errs.CodeOf(err) != test.code {
			t.Errorf("'%s': %v, %v", test.in, got, err)
		}
		if err == nil && got.String() != test.in {
			t.Errorf("'%s' printed as '%s'", test.in, got)
		}
	}
	if got := postgres.TablespaceDir(15, 202209061); got != "PG_15_202209061" {
		t.Error(got)
	}
	if v, err := postgres.VersionOf(1300, 202107181); v != 14 || err != nil {
		t.Error(v, err)
	}
}

func TestState(t *testing.T) {
	for i, want := range []string{"starting up", "shut down", "shut down in recovery", "shutting down", "in crash recovery",
		"in archive recovery", "in production", "unrecognized status code"} {
		if got := postgres.State(i).String(); got != want {
			t.Errorf("%d is '%s'", i, got)
		}
	}
}

func FuzzParseControl(f *testing.F) {
	files, err := filepath.Glob("testdata/control/*.bin")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := postgres.ParseControl(b)
		if err != nil {
			return
		}
		if !c.Version.Supported() || !postgres.ValidPageSize(c.PageSize) || c.WALSegmentSize < 1<<20 || c.WALSegmentSize > 1<<30 {
			t.Fatalf("accepted %+v", c)
		}
		marked, err := postgres.InvalidateControl(b)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := postgres.ParseControl(postgres.ClearControl(marked)); err != nil || !postgres.ControlInvalidated(c) {
			t.Fatalf("%+v, %v", c, err)
		}
	})
}
