package test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/crashtest"
	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestBigBundle: small files, however many, cost no object each, and no process takes much memory: 700 MB for a
// million, which PGX_TEST_LONG asks for. pgbackrest verifies what is stored.
//
// What a process has in memory at most depends on when garbage was collected. Where it is collected early, and the median of
// three backups counts, that does not matter much, so what files take can be told by two numbers of them.
func TestBigBundle(t *testing.T) {
	s := bareSite(t, pgtest.Options{Checksums: true}, map[string]string{"repo1-bundle": "y", "compress-type": "zst"})
	s.pg.Start()
	s.must(pgxPath(), "stanza-create")
	if os.Getenv("PGX_TEST_LONG") != "" {
		const files = 1_000_000
		addSmall(s, 0, files)
		for command, bytes := range bigBundle(s, files) {
			if bytes > 700e6 {
				t.Errorf("%s took %.0f MB of %d files, more than 700 MB", command, float64(bytes)/1e6, files)
			}
		}
		return
	}
	t.Setenv("GOGC", "10")
	const few, many = 5000, 20_000 // of both more than a bundle has
	const base, each = 50e6, 500   // bytes, of few and of each more
	addSmall(s, 0, few)
	before := bigBundle(s, few)
	addSmall(s, few, many)
	for command, bytes := range bigBundle(s, many) {
		more := (bytes - before[command]) / (many - few)
		t.Logf("%s: %d bytes a file", command, more)
		if more > each {
			t.Errorf("%s took %d bytes for each of %d more files, more than %d", command, more, many-few, each)
		}
		if before[command] > base {
			t.Errorf("%s took %.0f MB of %d files, more than %.0f MB", command, float64(before[command])/1e6, few, base/1e6)
		}
	}
}

// bigBundle makes backups of a cluster with so many small files, restores it, and gives the most bytes of memory that
// each command took.
func bigBundle(s *site, files int) map[string]int64 {
	s.Helper()
	took := map[string]int64{}
	within := func(command string, args ...string) {
		s.Helper()
		args = append(strings.Fields(command), args...)
		tries := 1
		if args[0] == "backup" && files < 100_000 {
			tries = 3
		}
		var all []int64
		for range tries {
			begin := time.Now()
			_, rss := s.memory(pgxPath(), args...)
			s.Logf("%d files, %v: %.1f MB, %s", files, args, float64(rss)/1e6, time.Since(begin).Round(time.Second/10))
			all = append(all, rss)
		}
		slices.Sort(all)
		took[command] = all[tries/2]
	}
	objects := func(most int) {
		s.Helper()
		dir := filepath.Join(s.repo, "backup/demo", s.label())
		n := 0
		if err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				n++
			}
			return err
		}); err != nil {
			s.Fatal(err)
		}
		s.Logf("%s has %d objects", s.label(), n)
		if n > most {
			s.Errorf("%s has %d objects, more than %d", s.label(), n, most)
		}
	}
	within("backup --type=full")
	objects(files/4096 + 20)
	within("backup --type=incr")
	objects(10)
	within("backup --type=incr --delta")
	objects(10)
	s.verified()
	restored := s.empty("restored" + strconv.Itoa(files))
	within("restore", "--pg1-path="+restored)
	sameNames(s.T, restored, s.pg.PGDATA)
	return took
}

// addSmall adds files of a few hundred bytes, the first of that number, in directories of a thousand.
func addSmall(s *site, from, to int) {
	s.Helper()
	const each, first = 1000, 100_000
	dir := ""
	for i := from; i < to; i++ {
		if i%each == 0 {
			dir = filepath.Join(s.pg.PGDATA, "base", strconv.Itoa(first+i/each))
			if err := os.Mkdir(dir, 0o700); err != nil {
				s.Fatal(err)
			}
			s.own(dir)
		}
		name := filepath.Join(dir, "s"+strconv.Itoa(first+i)) // of no relation, so of no page
		content := strings.Repeat(strconv.Itoa(i)+" ", 1+i%100)
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			s.Fatal(err)
		}
		s.own(name)
	}
}

// TestBundleResume: of a full backup with bundles that was killed, what is stored on its own is taken over, and
// what is in bundles is stored again.
func TestBundleResume(t *testing.T) {
	t.Parallel()
	t.Run("whole", func(t *testing.T) { bundleResume(t, "n") })
	t.Run("in blocks", func(t *testing.T) { bundleResume(t, "y") })
}

func bundleResume(t *testing.T, block string) {
	t.Parallel()
	s := newSite(t, pgtest.Options{Checksums: true}, map[string]string{
		"compress-type": "zst", "manifest-save-threshold": "1MiB", "process-max": "1",
		"repo1-bundle": "y", "repo1-bundle-limit": "64KiB", "repo1-bundle-size": "1MiB", "repo1-block": block,
	})
	s.fill()
	s.must(pgxPath(), "backup", "--type=full")
	args := []string{"backup", "--type=full", "--log-level-console=detail"}
	tr := crashtest.Trace{Under: s.repo}
	steps := s.steps(tr, pgxPath(), args...)
	last := 0 // the second half of the bundles is not there yet
	seen := map[string]bool{}
	for i, step := range steps {
		if strings.Contains(step.Path, "/bundle/") && !seen[step.Path] {
			if seen[step.Path] = true; len(seen) == 5 {
				last = i + 1
			}
		}
	}
	if last == 0 {
		t.Fatalf("there are %d bundles", len(seen))
	}
	at, reached := s.killAfter(tr, last, pgxPath(), args...)
	if !reached {
		t.Fatalf("not killed after %v", at)
	}
	s.sessionEnds()
	left := s.labelDirs()
	label := left[len(left)-1]
	bundles := filepath.Join(s.repo, "backup/demo", label, "bundle")
	if _, err := os.Stat(bundles); err != nil {
		t.Fatalf("killed after %v: %v", at, err)
	}
	s.pg.Exec(`update t set what = 'changed' where id % 7 = 1; create table t0 as select 1; checkpoint`)
	o := s.run(pgxPath(), args...)
	if o.code != 0 {
		t.Fatalf("exit %d\n%s", o.code, o.all())
	}
	for _, want := range []string{
		"resumable backup " + label + " of same type exists", "remove path '" + bundles + "' from resumed backup",
		"checksum resumed file " + s.pg.PGDATA + "/base/", "(bundle 1/0, ", "store zero-length file " + s.pg.PGDATA + "/base/",
	} {
		if !strings.Contains(o.all(), want) {
			t.Errorf("nothing says '%s':\n%s", want, o.all())
		}
	}
	if strings.Contains(o.all(), "did not have expected checksum") || s.label() != label {
		t.Errorf("%s became %s:\n%s", label, s.label(), o.all())
	}
	s.restorable(at, map[string]bool{})
	s.tidy()
	s.sameInfo(label)
	s.verified()
	s.isCluster("recovered", pgxPath(), 15, "")
}
