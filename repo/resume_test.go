package repo_test

import (
	"crypto/sha1"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

// TestLeft: what an interrupted backup has left is found by the names of its manifest, and
// can be removed piece by piece.
func TestLeft(t *testing.T) {
	st := storagetest.NewMemory(time.Now)
	r := open(st)
	dir := format.LabelDir("demo", firstLabel) + "/"
	w := r.NewBackup(firstLabel)
	put := func(name string) {
		t.Helper()
		if err := st.Put(t.Context(), dir+name, strings.NewReader(name), storage.Staged); err != nil {
			t.Fatal(err)
		}
	}
	if partial, err := r.Partial(t.Context(), firstLabel); err != nil || partial {
		t.Fatalf("partial %t, %v", partial, err)
	}
	const temporary = "backup.manifest.copy.0123456789abcdef.pgbackrest.tmp" // of a run that was killed
	for _, name := range []string{"backup.manifest.copy", "pg_data/PG_VERSION.lz4", "pg_data/base/5/1", "pg_data/base/5/2.pgbi", "pg_data/x.copy.gz", "bundle/1", "bundle/2", temporary} {
		put(name)
	}
	if err := st.Symlink(t.Context(), "../../pg_tblspc/1", dir+"pg_data/pg_tblspc/1"); err != nil {
		t.Fatal(err)
	}
	if partial, err := r.Partial(t.Context(), firstLabel); err != nil || !partial {
		t.Fatalf("partial %t, %v", partial, err)
	}
	list := func() (all []string) {
		t.Helper()
		for l, err := range w.Left(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprintf("%s %s %s %t %d", l.Stored, l.Name, l.Compress, l.Block, l.Type))
		}
		slices.Sort(all)
		return all
	}
	want := []string{
		temporary + " " + temporary + " none false 0", "bundle bundle none false 1", "bundle/1 bundle/1 none false 0", "bundle/2 bundle/2 none false 0",
		"pg_data pg_data none false 1", "pg_data/PG_VERSION.lz4 pg_data/PG_VERSION lz4 false 0", "pg_data/base pg_data/base none false 1",
		"pg_data/base/5 pg_data/base/5 none false 1", "pg_data/base/5/1 pg_data/base/5/1 none false 0", "pg_data/base/5/2.pgbi pg_data/base/5/2 none true 0",
		"pg_data/pg_tblspc pg_data/pg_tblspc none false 1", "pg_data/pg_tblspc/1 pg_data/pg_tblspc/1 none false 2", "pg_data/x.copy.gz pg_data/x.copy gz false 0",
	}
	if got := list(); !slices.Equal(got, want) {
		t.Errorf("left are\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var useless []repo.Left
	for l, err := range w.Left(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if l.Name == "bundle" || l.Name == temporary || l.Name == "pg_data/pg_tblspc/1" || l.Compress != compress.None {
			useless = append(useless, l)
		}
	}
	for _, l := range useless {
		if err := w.RemoveLeft(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	want = []string{want[4], want[6], want[7], want[8], want[9], want[10]}
	if got := list(); !slices.Equal(got, want) {
		t.Errorf("then left are\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	sum := sha1.Sum([]byte("pg_data/base/5/1"))
	for _, c := range []struct {
		name string
		size int64
		sum  [20]byte
		want bool
	}{
		{"pg_data/base/5/1", 16, sum, true}, {"pg_data/base/5/1", 15, sum, false}, {"pg_data/base/5/1", 16, [20]byte{1}, false}, {"pg_data/gone", 16, sum, false},
	} {
		if got, err := w.Holds(t.Context(), c.name, "", c.size, c.sum); err != nil || got != c.want {
			t.Errorf("%s is held: %t, %v", c.name, got, err)
		}
	}
	for range 2 {
		if err := w.RemoveFile(t.Context(), "pg_data/base/5/1", ""); err != nil {
			t.Error(err)
		}
	}
}

// TestLink: what another backup holds as an object of its own gets a further name.
func TestLink(t *testing.T) {
	st := storagetest.NewMemory(time.Now)
	r := open(st)
	m := &manifest.Manifest{Label: secondLabel, Options: manifest.Options{CompressType: "lz4"}}
	if err := st.Put(t.Context(), format.FilePath("demo", firstLabel, "pg_data/base/5/1", ".lz4"), strings.NewReader("x"), storage.Staged); err != nil {
		t.Fatal(err)
	}
	w := r.NewBackup(secondLabel)
	if !w.CanLink() {
		t.Fatal("no links")
	}
	file := manifest.File{Name: "pg_data/base/5/1", Size: 1, Reference: firstLabel}
	with := func(change func(*manifest.File)) manifest.File {
		f := file
		change(&f)
		return f
	}
	for _, c := range []struct {
		name   string
		f      manifest.File
		linked bool
		err    error
	}{
		{"whole", file, true, nil},
		{"again", file, false, fs.ErrExist},
		{"its own", with(func(f *manifest.File) { f.Reference = "" }), false, nil},
		{"in a bundle", with(func(f *manifest.File) { f.Name, f.Bundle = "pg_data/b", 1 }), false, nil},
		{"in blocks", with(func(f *manifest.File) { f.Name, f.BlockSize, f.BlockMapSize = "pg_data/b", 8192, 1 }), false, nil},
		{"lost", with(func(f *manifest.File) { f.Name = "pg_data/lost" }), false, fs.ErrNotExist},
		{"empty without an object", with(func(f *manifest.File) { f.Name, f.Size = "pg_data/lost", 0 }), false, nil},
	} {
		linked, err := w.Link(t.Context(), m, c.f)
		if linked != c.linked || !errors.Is(err, c.err) {
			t.Errorf("%s: linked %t, %v", c.name, linked, err)
		}
	}
	if held, err := w.Holds(t.Context(), "pg_data/base/5/1", ".lz4", 1, sha1.Sum([]byte("x"))); err != nil || !held {
		t.Errorf("held %t, %v", held, err)
	}
}
