package test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/crashtest"
	"github.com/pgx-backup/pgx/internal/pgtest"
)

// unfinished makes a tool begin a backup and kills it while there is no manifest yet; it gives
// the label.
func (s *site) unfinished(tool string, args ...string) string {
	s.Helper()
	before := s.labelDirs()
	p := s.begin(s.command(tool, append([]string{"backup"}, args...)...))
	var label string
	pgtest.Eventually(s.T, "a backup under way", func() bool {
		for _, l := range s.labelDirs() {
			if _, err := os.Stat(filepath.Join(s.repo, "backup/demo", l, "backup.manifest.copy")); err == nil && !slices.Contains(before, l) {
				label = l
			}
		}
		return label != "" || !p.running()
	})
	if err := p.cmd.Process.Kill(); err != nil {
		s.Fatal(err)
	}
	o := p.end(time.Minute)
	if _, err := os.Stat(filepath.Join(s.repo, "backup/demo", label, "backup.manifest")); label == "" || err == nil {
		s.Fatalf("%s was too fast:\n%s", tool, o.all())
	}
	s.sessionEnds()
	return label
}

// TestResume: a full backup that was killed goes on where it was, also when it is killed again,
// and restores.
func TestResume(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args []string
		pass string
	}{{"by time and size", nil, ""}, {"encrypted, by content", []string{"--delta"}, "of a backup"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			global := map[string]string{"compress-type": "zst", "manifest-save-threshold": "4MiB", "process-max": "1"}
			if c.pass != "" {
				global["repo1-cipher-type"], global["repo1-cipher-pass"] = "aes-256-cbc", c.pass
			}
			s := newSite(t, pgtest.Options{Checksums: true}, global)
			s.fill()
			s.must(pgxPath(), "backup", "--type=full")
			args := append([]string{"backup", "--type=full", "--log-level-console=detail"}, c.args...)
			tr := crashtest.Trace{Under: s.repo}
			before := s.labelDirs()
			at, reached := s.killAfter(tr, 1200, pgxPath(), args...) // two for each of 1200 files
			if !reached {
				t.Fatalf("not killed after %v", at)
			}
			s.sessionEnds()
			left := s.labelDirs()
			label := left[len(left)-1]
			if len(left) != len(before)+1 {
				t.Fatalf("killed after %v, there are %q", at, left)
			}
			s.pg.Exec(`update t set what = 'changed' where id % 7 = 1; create table t0 as select 1; checkpoint`)
			if c.args != nil { // which makes no difference to the content
				later := time.Now().Add(-time.Minute)
				if err := os.Chtimes(filepath.Join(s.pg.PGDATA, "PG_VERSION"), later, later); err != nil {
					t.Fatal(err)
				}
			}
			// Killed once more while it looks at what is there.
			if at, reached = s.killAfter(tr, 10, pgxPath(), args...); !reached {
				t.Fatalf("not killed after %v", at)
			}
			s.sessionEnds()
			o := s.run(pgxPath(), args...)
			if o.code != 0 {
				t.Fatalf("exit %d\n%s", o.code, o.all())
			}
			s.warns("resumable backup LABEL of same type exists -- invalid files will be removed then the backup will resume", o)
			if n := strings.Count(o.all(), "checksum resumed file "); n < 100 {
				t.Errorf("only %d files were resumed:\n%s", n, o.all())
			}
			if strings.Contains(o.all(), "did not have expected checksum") {
				t.Errorf("files were damaged:\n%s", o.all())
			}
			if got := s.label(); got != label {
				t.Errorf("the backup is %s, not %s", got, label)
			}
			s.restorable(at, map[string]bool{before[0]: true})
			s.tidy()
			s.sameInfo(label)
			s.verified()
			s.isCluster("recovered", pgxPath(), 15, "")
		})
	}
}

// TestUnfinishedOfTheOther: what one tool has left unfinished the other removes, and says so as
// pgbackrest does.
func TestUnfinishedOfTheOther(t *testing.T) {
	t.Parallel()
	theirs := pgtest.Reference(t)
	s := newSite(t, pgtest.Options{Checksums: true}, nil)
	s.fill()
	s.must(pgxPath(), "backup", "--type=full")
	for _, c := range []struct {
		of, next string
		kind     string
		level    string
		reason   string
	}{
		{pgxPath(), theirs, "full", "WARN", "new pgBackRest version '2.60.0' does not match resumable pgBackRest version '"},
		{theirs, pgxPath(), "full", "WARN", "' does not match resumable pgBackRest version '2.60.0'"},
		{pgxPath(), theirs, "incr", "INFO", "resume only valid for full backup"},
		{theirs, pgxPath(), "incr", "INFO", "resume only valid for full backup"},
		{pgxPath(), pgxPath(), "diff", "INFO", "resume only valid for full backup"},
	} {
		label := s.unfinished(c.of, "--type=full")
		o := s.run(c.next, "backup", "--type="+c.kind, "--no-expire-auto", "--log-level-console=info")
		if o.code != 0 {
			t.Fatalf("exit %d\n%s", o.code, o.all())
		}
		if want := c.level + ": backup '" + label + "' cannot be resumed: "; !strings.Contains(o.all(), want) || !strings.Contains(o.all(), c.reason) {
			t.Errorf("it does not say '%s%s':\n%s", want, c.reason, o.all())
		}
		s.tidy()
		s.sameInfo(s.label())
	}
	s.verified()
	s.isCluster("recovered", theirs, 15, "")
}
