package test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestExpire: of two backups that were made retention lets one go with its WAL, and the other
// restores and starts.
func TestExpire(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Options{Checksums: true, WALSegSize: 1}, map[string]string{"repo1-retention-full": "1"})
	s.fill()
	s.must(pgxPath(), "backup", "--type=full", "--no-expire-auto")
	first := s.label()
	s.pg.Exec(`insert into t select g, 'more', '' from generate_series(5001, 6000) g`)
	s.must(pgxPath(), "backup", "--type=full", "--no-expire-auto")
	second := s.label()
	wal := filepath.Join(s.repo, "archive", "demo", "15-1")
	before := tree(t, wal)

	o := s.must(pgxPath(), "expire", "--dry-run")
	for _, want := range []string{
		"[DRY-RUN] repo1: expire full backup " + first,
		"[DRY-RUN] repo1: why: " + first + " is not among the newest full backups that repo1-retention-full=1 keeps, " + second,
		"[DRY-RUN] repo1: remove expired backup " + first,
		"[DRY-RUN] repo1: 15-1 remove archive, start = ",
	} {
		if !strings.Contains(o, want) {
			t.Errorf("a dry run does not say %q:\n%s", want, o)
		}
	}
	if got := s.backups(pgxPath()); !slices.Equal(got, []string{first, second}) {
		t.Fatalf("after a dry run there are %q", got)
	}
	same(t, tree(t, wal), before, nil)

	s.must(pgxPath(), "expire")
	if got := s.backups(pgxPath()); !slices.Equal(got, []string{second}) {
		t.Errorf("left are %q, want %q", got, second)
	}
	if _, err := os.Stat(filepath.Join(s.repo, "backup", "demo", first)); !os.IsNotExist(err) {
		t.Errorf("the directory of %s: %v", first, err)
	}
	if after := tree(t, wal); len(after) >= len(before) {
		t.Errorf("the archive has %d files, before %d", len(after), len(before))
	}
	s.fails(0, "no archive to remove", pgxPath(), "expire", "--log-level-console=info")
	s.verified()
	// Nothing to go, and one that cannot.
	s.fails(104, "[075]: repo1: full backup "+second+" cannot be expired until another full backup has been created on this repo",
		pgxPath(), "expire", "--set="+second)

	s.pg.Stop(pgtest.Fast)
	dir := s.restore("restored", pgxPath(), "--archive-mode=off")
	c := pgtest.Attach(t, 15, dir)
	c.Start()
	pgtest.Eventually(t, "the end of recovery", func() bool { return c.QueryValue(`select pg_is_in_recovery()`) == "f" })
	if got := c.QueryValue(`select count(*) from t`); got != "6000" {
		t.Errorf("%s rows after recovery", got)
	}
}

// TestExpireAfterBackup: a backup lets the one before go, as a command of its own in the log.
func TestExpireAfterBackup(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{pgxPath(), dropIn()} {
		s := newSite(t, pgtest.Options{WALSegSize: 1}, map[string]string{
			"repo1-retention-full": "1", "log-level-file": "info", "repo2-path": filepath.Join(pgtest.Dir(t), "repo2"), "repo2-retention-full": "1",
		})
		s.must(tool, "backup", "--type=full")
		out := s.must(tool, "backup", "--type=full", "--log-level-console=detail")
		at := 0
		for _, want := range []string{
			"backup command begin", "new backup label", "backup command end: completed successfully",
			"expire command begin", "repo1: expire full backup", "repo1: remove expired backup", "repo2: why: no full backup goes", "expire command end: completed successfully",
		} {
			i := strings.Index(out[at:], want)
			if i < 0 {
				t.Fatalf("%s does not say %q in its place:\n%s", filepath.Base(tool), want, out)
			}
			at += i
		}
		if got, err := filepath.Glob(filepath.Join(s.repo, "backup", "demo", "2*F")); err != nil || len(got) != 1 {
			t.Errorf("left are %q, %v", got, err)
		}
		if log := s.read(filepath.Join(s.dir, "demo-expire.log")); !strings.Contains(log, "remove expired backup") || strings.Contains(log, "new backup label") {
			t.Errorf("the log of expire:\n%s", log)
		}
		if log := s.read(filepath.Join(s.dir, "demo-backup.log")); strings.Contains(log, "remove expired backup") {
			t.Errorf("the log of backup:\n%s", log)
		}
		s.pg.Stop(pgtest.Fast)
	}
}

// TestExpireRefused: a command that must not run now says so.
func TestExpireRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Options{WALSegSize: 1}, map[string]string{"repo1-retention-full": "1"})
	s.must(pgxPath(), "stop")
	s.fails(62, "stop file exists for all stanzas", pgxPath(), "expire")
	s.must(pgxPath(), "start")
	s.fails(31, "--oldest and --set cannot be used together", pgxPath(), "expire", "--oldest", "--set=20260101-000000F")
	s.fails(0, "backup 20260101-000000F does not exist", pgxPath(), "expire", "--set=20260101-000000F")
	if err := os.Rename(filepath.Join(s.repo, "backup"), filepath.Join(s.repo, "away")); err != nil {
		t.Fatal(err)
	}
	s.fails(104, "[055]: repo1: unable to load info file", pgxPath(), "expire")
}

// TestExpireFromPostgresHost: expire is as good on the host that has no repository itself, and
// what is locked on one host is on the other.
func TestExpireFromPostgresHost(t *testing.T) {
	c := newRemote(t, "pgx").pg[0]
	c.there("stanza-create")
	var labels []string
	for range 2 {
		c.there("backup", "--type=full", "--no-expire-auto")
		target, err := os.Readlink(c.repo.path("/var/lib/pgbackrest/backup/one/latest"))
		if err != nil {
			t.Fatal(err)
		}
		labels = append(labels, target)
	}
	if out := c.here("expire", "--repo1-retention-full=1", "--log-level-console=info"); !strings.Contains(out, "repo1: remove expired backup "+labels[0]) {
		t.Errorf("expire says\n%s", out)
	}
	left, err := filepath.Glob(c.repo.path("/var/lib/pgbackrest/backup/one/2*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != labels[1] {
		t.Errorf("left are %q, %v", left, err)
	}
	c.here("info", "--set="+labels[1])
	c.there("stop")
	c.fails(104, "[062]: repo1: ", c.line([]string{"expire", "--repo1-retention-full=1"})...)
	c.there("start")
	c.repo.idle()
}
