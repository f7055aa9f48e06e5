package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestBigCatalogue: no process of a backup, a restore or what reads backups takes much memory, of
// however many files the cluster is: 700 MB for a million, which PGX_TEST_LONG asks for. Most
// files are empty, every tenth is a page that is a hole in the file system.
func TestBigCatalogue(t *testing.T) {
	files, long := 20_000, os.Getenv("PGX_TEST_LONG") != ""
	if long {
		files = 1_000_000
	}
	// What a process takes anyway, and what each file may add: together 700 MB for a million.
	limit := int64(36<<20) + int64(files)*662
	s := bareSite(t, pgtest.Options{Checksums: true}, nil)
	addFiles(s, files)
	s.pg.Start()
	s.must(pgxPath(), "stanza-create")

	within := func(args ...string) string {
		t.Helper()
		out, rss := s.memory(pgxPath(), args...)
		t.Logf("%v: %.0f MB", args, float64(rss)/1e6)
		if rss > limit {
			t.Errorf("%v took %.0f MB, more than %.0f MB", args, float64(rss)/1e6, float64(limit)/1e6)
		}
		return out
	}
	within("backup", "--type=full")
	full := s.label()
	within("backup", "--type=incr")
	within("backup", "--type=incr", "--delta")
	within("info")
	if out := within("info", "--set="+s.label(), "--output=json"); !json.Valid([]byte(out)) {
		t.Errorf("info says %q", out)
	}
	restored := s.empty("restored")
	within("restore", "--pg1-path="+restored)
	sameNames(t, restored, s.pg.PGDATA)
	// The file that is gone comes back, the one that is too much goes.
	lost, extra := filepath.Join(restored, "base/100000/100010"), filepath.Join(restored, "base/100000/1")
	if err := os.Rename(lost, extra); err != nil {
		t.Fatal(err)
	}
	within("restore", "--delta", "--pg1-path="+restored)
	sameNames(t, restored, s.pg.PGDATA)
	within("expire", "--set="+s.label())
	if !long { // nearly all of the time goes to storing each file durably
		return
	}
	within("backup", "--type=full", "--repo1-retention-full=1") // which expires the others
	if dirs, err := filepath.Glob(filepath.Join(s.repo, "backup/demo", "2*")); err != nil || len(dirs) != 1 || filepath.Base(dirs[0]) == full {
		t.Errorf("there are %v, %v", dirs, err)
	}
}

// addFiles adds files to the databases of a cluster that is not running, in directories of a
// thousand.
func addFiles(s *site, files int) {
	s.Helper()
	const each, first, page = 1000, 100_000, 8192
	dir := ""
	for i := range files {
		if i%each == 0 {
			dir = filepath.Join(s.pg.PGDATA, "base", strconv.Itoa(first+i/each))
			if err := os.Mkdir(dir, 0o700); err != nil {
				s.Fatal(err)
			}
			s.own(dir)
		}
		name := filepath.Join(dir, strconv.Itoa(first+i))
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil && i%10 == 0 {
			err = f.Truncate(page)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			s.Fatal(err)
		}
		s.own(name)
	}
}

// memory runs one of the tools, which must succeed, and gives what it wrote and the most bytes
// that one of its processes had in memory. The kernel counts what the parent of a new process
// has for that one's too, and a test with the race detector has much: the benchmark
// is the parent, as it is when it measures.
func (s *site) memory(tool string, args ...string) (string, int64) {
	s.Helper()
	bench := filepath.Join(bin, "bench")
	if _, err := os.Stat(bench); errors.Is(err, fs.ErrNotExist) {
		cmd := exec.Command("go", "build", "-o", bench, "./bench")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			s.Fatalf("build the benchmark: %v\n%s", err, out)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		s.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	args = append([]string{"--config=" + s.conf, "--stanza=demo"}, args...)
	cmd := pgtest.Command(s.T, bench, append([]string{"measure", tool}, args...)...)
	cmd.ExtraFiles = []*os.File{w}
	o := s.exec(cmd)
	_ = w.Close()
	if o.code != 0 {
		s.Fatalf("%s %v: exit %d\n%s", tool, args, o.code, o.all())
	}
	var sample struct {
		RSS int64 `json:"max_rss"`
	}
	if err := json.NewDecoder(r).Decode(&sample); err != nil {
		s.Fatal(err)
	}
	if sample.RSS < 1<<20 {
		s.Fatalf("%s %v: %d bytes of memory cannot be", tool, args, sample.RSS)
	}
	return o.out, sample.RSS
}

// sameNames compares the names and sizes of the files of all databases, a directory at a time.
func sameNames(t *testing.T, got, want string) {
	t.Helper()
	describe := func(dir string) (all []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			size := info.Size()
			switch {
			case e.IsDir():
				size = 0
			case e.Name() == "pg_internal.init": // of no use to another server
				continue
			}
			all = append(all, fmt.Sprintf("%s %s %d", e.Name(), info.Mode(), size))
		}
		return all
	}
	databases := filepath.Join(want, "base")
	entries, err := os.ReadDir(databases)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := describe(filepath.Join(got, "base")), describe(databases); !slices.Equal(got, want) {
		t.Errorf("databases are %v, want %v", got, want)
	}
	for _, e := range entries {
		if got, want := describe(filepath.Join(got, "base", e.Name())), describe(filepath.Join(databases, e.Name())); !slices.Equal(got, want) {
			t.Errorf("database %s has %d files, want %d, or they are not the same", e.Name(), len(got), len(want))
		}
	}
}
