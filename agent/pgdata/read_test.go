package pgdata_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/block"
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

// TestFiles: one look for the data directory serves many files, also through links, and closes none of them.
func TestFiles(t *testing.T) {
	base := tree(t, "pg/a", "pg/l -> ../x", "x/y", "pg/b")
	d := pgdata.NewSource(base + "/pg").Files()
	var open []*pgdata.Reading
	for _, name := range []string{"pg_data/a", "pg_data/l/y", "pg_data/b"} {
		r, err := d.Open(t.Context(), pgdata.Read{Name: name, Limit: -1, Compress: compress.None})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, r)
		if _, err := d.Open(t.Context(), pgdata.Read{Name: "pg_data/missing", Limit: -1, Compress: compress.None}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a missing file: %v", err)
		}
	}
	d.Close()
	d.Close()
	for i, want := range []string{"pg/a", "x/y", "pg/b"} {
		if got, err := io.ReadAll(open[i]); err != nil || string(got) != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
		if err := open[i].Close(); err != nil {
			t.Error(err)
		}
		if err := open[i].Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("closed twice: %v", err)
		}
	}
	if _, err := pgdata.NewSource(base+"/none").Open(t.Context(), pgdata.Read{Name: "pg_data/a"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing data directory: %v", err)
	}
}

// TestOpenUnlogged: a relation turns out to be unlogged after it was listed.
func TestOpenUnlogged(t *testing.T) {
	base := tree(t, "pg/base/5/100", "pg/base/5/100_init", "pg/base/5/100_vm", "pg/base/5/100.1", "pg/base/5/101", "pg/base/5/101_fsm",
		"pg/global/100_init", "pg/pg_tblspc/1 -> @/s", "s/PG_15_1/5/6", "s/PG_15_1/5/6_init", "pg/pg_wal/100", "pg/pg_wal/100_init")
	s := pgdata.NewSource(base + "/pg")
	for name, stored := range map[string]bool{
		"pg_data/base/5/100": false, "pg_data/base/5/100_vm": false, "pg_data/base/5/100.1": false, "pg_data/base/5/100_init": true,
		"pg_data/base/5/101": true, "pg_data/base/5/101_fsm": true,
		"pg_tblspc/1/PG_15_1/5/6": false, "pg_tblspc/1/PG_15_1/5/6_init": true, "pg_data/pg_wal/100": true,
	} {
		r, err := s.Open(t.Context(), pgdata.Read{Name: name, Limit: -1, Compress: compress.None})
		if stored != (err == nil) || !stored && (!errors.Is(err, fs.ErrNotExist) || errs.CodeOf(err) != errs.FileMissing) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			err = r.Close()
		}
		if stored && err != nil {
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

// TestOpenExpected: what is as it was expected gives nothing, anything else all there is.
func TestOpenExpected(t *testing.T) {
	base := tree(t, "pg/a", "pg/base/5/", "pg/empty/")
	large := bytes.Repeat([]byte("0123456789abcdef"), (1<<20)/16+1) // more than one buffer
	for name, content := range map[string][]byte{"pg/base/5/1": large, "pg/empty/x": nil} {
		if err := os.WriteFile(filepath.Join(base, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := pgdata.NewSource(base + "/pg")
	is := func(content []byte, always bool) *pgdata.Expected {
		return &pgdata.Expected{Size: int64(len(content)), SHA1: sha1.Sum(content), Always: always}
	}
	changed := bytes.Clone(large)
	changed[len(changed)-1]++
	for _, c := range []struct {
		what     string
		name     string
		limit    int64
		expected *pgdata.Expected
		want     []byte // nil: unchanged
	}{
		{"small", "pg_data/a", -1, is([]byte("pg/a"), false), nil},
		{"small, always", "pg_data/a", -1, is([]byte("pg/a"), true), nil},
		{"small, up to its size", "pg_data/a", 4, is([]byte("pg/a"), false), nil},
		{"small and grown since", "pg_data/a", 2, is([]byte("pg"), false), nil},
		{"small and shrunk", "pg_data/a", 8, is([]byte("pg/a/b/c"), false), []byte("pg/a")},
		{"small, of another size", "pg_data/a", -1, is([]byte("pg"), false), []byte("pg/a")},
		{"small, other content", "pg_data/a", -1, is([]byte("pg/b"), false), []byte("pg/a")},
		{"small, other content, always", "pg_data/a", 4, is([]byte("pg/b"), true), []byte("pg/a")},
		{"large is not compared", "pg_data/base/5/1", -1, is(large, false), large},
		{"large, always", "pg_data/base/5/1", -1, is(large, true), nil},
		{"large, up to its size", "pg_data/base/5/1", int64(len(large)), is(large, true), nil},
		{"large, changed at its end", "pg_data/base/5/1", -1, is(changed, true), large},
		{"large, its beginning", "pg_data/base/5/1", 1 << 20, is(large[:1<<20], false), nil},
		{"empty", "pg_data/empty/x", -1, is([]byte("x"), true), []byte{}},
	} {
		t.Run(c.what, func(t *testing.T) {
			r, err := s.Open(t.Context(), pgdata.Read{Name: c.name, Limit: c.limit, Compress: compress.None, Expected: c.expected})
			if c.want == nil {
				if !errors.Is(err, pgdata.ErrUnchanged) {
					t.Fatalf("error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, c.want) || r.Result().SHA1 != sha1.Sum(c.want) {
				t.Errorf("%d bytes, error %v, %+v", len(got), err, r.Result())
			}
		})
	}
	// Who asks may lose patience.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Open(ctx, pgdata.Read{Name: "pg_data/base/5/1", Limit: -1, Compress: compress.None, Expected: is(large, true)}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	_, err := s.Open(t.Context(), pgdata.Read{Name: "pg_data/gone", Limit: -1, Compress: compress.None, Expected: is(nil, true)})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("gone: %v", err)
	}
}

// TestOpenUnchangedBlocks: of a file in blocks that has not changed nothing is given on, and who asks may lose patience all the same. A map
// that cannot be that of the file is refused.
func TestOpenUnchangedBlocks(t *testing.T) {
	base := tree(t, "pg/a", "pg/base/5/")
	content := make([]byte, 4<<20)
	if err := os.WriteFile(filepath.Join(base, "pg/base/5/1"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	s := pgdata.NewSource(base + "/pg")
	prior := &block.Map{BlockSize: 8192, SumSize: 6}
	for i := range block.Count(int64(len(content)), 8192) {
		prior.Items = append(prior.Items, block.Item{Offset: int64(i) * 8192, Size: 8192, SuperSize: 8192, Sum: block.Sum(content[:8192])})
	}
	read := pgdata.Read{
		Name: "pg_data/base/5/1", Limit: -1, Compress: compress.None, Expected: &pgdata.Expected{Size: int64(len(content)), SHA1: sha1.Sum(content)},
		Blocks: &pgdata.Blocks{Size: 8192, SumSize: 6, SuperSize: 8192, Prior: prior.Append(nil), Reference: 1},
	}
	for _, cancelled := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r, err := s.Open(ctx, read)
		if err != nil {
			t.Fatal(err)
		}
		if cancelled {
			cancel()
		}
		n, err := r.WriteTo(io.Discard)
		kept, _ := read.Kept(r.Result())
		if n != 0 || errors.Is(err, context.Canceled) != cancelled || cancelled != (err != nil) || kept == cancelled {
			t.Errorf("cancelled %t: %d bytes, kept %t, error %v", cancelled, n, kept, err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, size := range []int64{0, 8192, int64(len(content)) - 8192, int64(len(content)) + 1} {
		read.Expected.Size = size
		_, err := s.Open(t.Context(), read)
		if errs.CodeOf(err) != errs.Format || !strings.Contains(err.Error(), "unable to read the prior block map of 'pg_data/base/5/1'") ||
			!strings.Contains(err.Error(), "\nHINT: a backup that this one would go on with is damaged: take a full backup") {
			t.Errorf("the map of another file, of %d bytes: %v", size, err)
		}
	}
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
	_, err = s.Open(t.Context(), pgdata.Read{
		Name: "pg_data/global/pg_control", Limit: -1, Compress: compress.None, Expected: &pgdata.Expected{Size: 8192, SHA1: sha1.Sum(got)},
	})
	if !errors.Is(err, pgdata.ErrUnchanged) {
		t.Errorf("expected as it is stored: %v", err)
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
