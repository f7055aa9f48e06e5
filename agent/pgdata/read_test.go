package pgdata_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/internal/postgres"
)

func TestOpen(t *testing.T) {
	base := tree(t, "pg/a", "pg/l -> ../x", "x/y", "pg/pg_tblspc/1 -> @/s", "s/PG_15_1/5/6",
		"pg/slashes -> @/x//", "pg/b/conf -> ../../etc/conf", "etc/conf", "x/deeper -> ../deep", "deep/z", "pg/\xff")
	s := pgdata.NewSource(base + "/pg")
	for _, c := range []struct {
		name, want string
		limit      int64
	}{
		{"pg_data/a", "pg/a", -1},
		{"pg_data/a", "pg", 2},
		{"pg_data/a", "", 0},
		{"pg_data/a", "pg/a", 100},
		{"pg_data/l/y", "x/y", -1},
		{"pg_tblspc/1/PG_15_1/5/6", "s/PG_15_1/5/6", -1},
		{"pg_data/slashes/y", "x/y", -1},
		{"pg_data/b/conf", "etc/conf", -1},
		{"pg_data/l/deeper/z", "deep/z", -1}, // List gives it too
		{"pg_data/\xff", "pg/\xff", -1},
	} {
		r, err := s.Open(t.Context(), pgdata.Read{Name: c.name, Limit: c.limit, Compress: compress.None})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
		if n := r.Result().Size; n != int64(len(c.want)) {
			t.Errorf("%s: size %d", c.name, n)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	base := tree(t, "pg/a/b", "secret", "etc/passwd", "pg/dir -> @/etc", "pg/file -> @/secret", "pg/pg_tblspc/1 -> @/etc", "pg/base/5/",
		"pg/base/chain -> @/link", "link -> etc", "pg/base/dots -> @/link/.", "pg/base/slash -> ../../link/",
		"pg/base/up -> .././../link/", "pg/base/filechain -> @/pg/file", "pg/base/loop -> loop", "pg/base/nowhere -> @/nowhere",
		"pg/base/dev -> /dev/zero", "pg/pg_tblspc/2 -> @/link")
	if err := syscall.Mkfifo(filepath.Join(base, "pg/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := pgdata.NewSource(base + "/pg")
	for name, code := range map[string]errs.Code{
		"pg_data/../secret": errs.ParamInvalid,
		"pg_data":           errs.ParamInvalid,
		"pg_tblspc/../../x": errs.ParamInvalid,
		"/etc/passwd":       errs.ParamInvalid,
		"secret":            errs.ParamInvalid,
		"pg_data//a":        errs.ParamInvalid,
		"pg_data/a":         errs.FileOpen,
		"pg_data/pipe":      errs.FileOpen,
		"pg_data/gone":      errs.FileMissing,
		"pg_data/dir":       errs.FileOpen,
		"pg_data/base/5":    errs.FileOpen,

		"pg_data/..":                   errs.ParamInvalid,
		"pg_data/base/../../secret":    errs.ParamInvalid,
		"pg_data/dir/../secret":        errs.ParamInvalid,
		"pg_data/base/5/../../../etc":  errs.ParamInvalid,
		"pg_data/./a":                  errs.ParamInvalid,
		"pg_data/a/":                   errs.ParamInvalid,
		"pg_data/a\x00":                errs.ParamInvalid,
		"pg_data//etc/passwd":          errs.ParamInvalid,
		"":                             errs.ParamInvalid,
		"pg_data/pg_tblspc/1/passwd":   errs.ParamInvalid, // its files have other names
		"pg_tblspc/1/passwd":           errs.ParamInvalid, // in no cluster's directory
		"pg_tblspc/1":                  errs.ParamInvalid,
		"pg_tblspc/x/PG_15_1/1":        errs.ParamInvalid,
		"pg_tblspc/1/PG_15_1/gone":     errs.FileMissing,
		"pg_tblspc/2/PG_15_1/gone":     errs.LinkDestination,
		"pg_data/base/chain/passwd":    errs.LinkDestination,
		"pg_data/base/dots/passwd":     errs.LinkDestination,
		"pg_data/base/slash/passwd":    errs.LinkDestination,
		"pg_data/base/up/passwd":       errs.LinkDestination,
		"pg_data/base/filechain":       errs.LinkDestination,
		"pg_data/base/loop":            errs.LinkDestination,
		"pg_data/base/nowhere":         errs.FileMissing,
		"pg_data/base/nowhere/further": errs.FileMissing,
		"pg_data/base/dev":             errs.FileOpen,
	} {
		_, err := s.Open(t.Context(), pgdata.Read{Name: name, Limit: -1, Compress: compress.None})
		if err == nil || errs.CodeOf(err) != code || errors.Is(err, fs.ErrNotExist) != (code == errs.FileMissing) {
			t.Errorf("'%s': %v", name, err)
		}
	}
}

// A directory that is replaced by a link, again and again, is never left by a name: what
// is read is in the data directory or behind the link, and a link to a link is neither.
func TestOpenIsNotLedAstray(t *testing.T) {
	base := tree(t, "pg/base/5/1", "chained/1", "chain -> chained", "pg/pg_tblspc/1 -> @/s", "s/PG_15_1/1", "etc/PG_15_1 -> @/chain", "etc/1")
	s := pgdata.NewSource(base + "/pg")
	stop, swapped := make(chan struct{}), make(chan error, 1)
	go func() {
		swapped <- func() error {
			dir, spare := base+"/pg/base/5", base+"/spare"
			space, tmp := base+"/pg/pg_tblspc/1", base+"/pg/pg_tblspc/2"
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				if err := errors.Join(
					os.Rename(dir, spare), os.Symlink(base+"/chain", dir), os.Symlink(base+"/etc", tmp), os.Rename(tmp, space),
					os.Remove(dir), os.Rename(spare, dir), os.Symlink(base+"/s", tmp), os.Rename(tmp, space),
				); err != nil {
					return err
				}
			}
		}()
	}()
	seen := map[string]int{}
	for range 5000 {
		for _, name := range []string{"pg_data/base/5/1", "pg_tblspc/1/PG_15_1/1"} {
			r, err := s.Open(t.Context(), pgdata.Read{Name: name, Limit: -1, Compress: compress.None})
			if err != nil {
				seen[errs.CodeOf(err).String()]++
				continue
			}
			got, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil {
				t.Fatal(err)
			}
			seen[string(got)]++
		}
	}
	close(stop)
	if err := <-swapped; err != nil {
		t.Fatal(err)
	}
	for what := range seen {
		switch what {
		case "pg/base/5/1", "s/PG_15_1/1", errs.FileMissing.String(), errs.LinkDestination.String(), errs.FileOpen.String():
		default:
			t.Errorf("'%s' was read", what)
		}
	}
	t.Log(seen)
}

func BenchmarkOpen(b *testing.B) {
	base := b.TempDir()
	if err := errors.Join(os.MkdirAll(base+"/base/16384", 0o700), os.WriteFile(base+"/base/16384/2619", nil, 0o600)); err != nil {
		b.Fatal(err)
	}
	s := pgdata.NewSource(base)
	for b.Loop() {
		r, err := s.Open(b.Context(), pgdata.Read{Name: "pg_data/base/16384/2619", Limit: 0, Compress: compress.None})
		if err != nil {
			b.Fatal(err)
		}
		_ = r.Close()
	}
}

func TestReadEndsWithContext(t *testing.T) {
	base := tree(t, "pg/a")
	ctx, cancel := context.WithCancel(t.Context())
	r, err := pgdata.NewSource(base+"/pg").Open(ctx, pgdata.Read{Name: "pg_data/a", Limit: -1, Compress: compress.None})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if n, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
		t.Errorf("%d bytes, error is %v", n, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestControl(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Checksums: true})
	s := pgdata.NewSource(c.PGDATA)
	control, err := s.Control(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if control.Version != 15 || control.ChecksumVersion != 1 || control.SystemID == 0 {
		t.Errorf("control is %+v", control)
	}

	// What follows the structure is not stored.
	path := filepath.Join(c.PGDATA, "global/pg_control")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 512; i < len(b); i++ {
		b[i] = 'x'
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(t.Context(), pgdata.Read{Name: "pg_data/global/pg_control", Limit: -1, Compress: compress.None})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	if len(got) != 8192 || !bytes.Equal(got[:512], b[:512]) || bytes.ContainsRune(got[512:], 'x') {
		t.Error("pg_control is not stored cleared")
	}
	if _, err := postgres.ParseControl(got); err != nil {
		t.Error(err)
	}

	// Half of a write is read again; what stays damaged is an error.
	b[0]++
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Control(t.Context()); errs.CodeOf(err) != errs.Checksum || !strings.Contains(err.Error(), path) {
		t.Errorf("error is %v", err)
	}
}

func TestPageReread(t *testing.T) {
	base := tree(t, "pg/base/5/")
	path := filepath.Join(base, "pg/base/5/16384.2")
	page := make([]byte, 8192)
	page[15] = 1 // pd_upper: not a new page
	const segment = 131072
	sum := postgres.PageChecksum(page, 2*segment+1)
	page[8], page[9] = byte(sum), byte(sum>>8)
	bad := bytes.Clone(page) // its checksum is that of page 1
	if err := os.WriteFile(path, append(append(bytes.Clone(make([]byte, 8192)), page...), bad...), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := pgdata.NewSource(base+"/pg").Open(t.Context(), pgdata.Read{
		Name: "pg_data/base/5/16384.2", Limit: 3 * 8192, Compress: compress.None,
		Pages: &pgdata.Pages{Size: 8192, Segment: segment, Header: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatal(err)
	}
	p := r.Result().Pages
	if p == nil || len(p.Errors) != 1 || p.Errors[0].First != 2*segment+2 || p.Errors[0].Last != 2*segment+2 {
		t.Errorf("pages are %+v", p)
	}
}
