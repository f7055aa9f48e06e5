package test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/internal/crashtest"
	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestCrashBackup: wherever a backup is killed, PostgreSQL is out of backup mode, what is listed
// restores, and the next backup works and leaves nothing of the killed one.
func TestCrashBackup(t *testing.T) {
	t.Parallel()
	const shares = 3 // most of a small backup is waiting
	for share := range shares {
		t.Run(fmt.Sprint(share), func(t *testing.T) {
			t.Parallel()
			var more map[string]string
			switch share {
			case 1:
				more = map[string]string{"repo1-bundle": "y", "repo1-bundle-limit": "16KiB", "repo1-bundle-size": "1MiB"}
			case shares - 1:
				more = encrypted(nil)
			}
			s := crashSiteAs(t, more)
			tr := crashtest.Trace{Under: s.repo}
			steps := s.steps(tr, pgxPath(), "backup", "--type=full")
			chosen := choose(steps, 6, func(step crashtest.Step) bool {
				return strings.Contains(step.Path, "/pg_data/") && !strings.Contains(step.Path, "/backup_label") ||
					step.To == "" && strings.HasSuffix(step.Path, ".tmp")
			})
			whole := map[string]bool{} // backups known to be so
			for i, n := range chosen {
				if i%shares == share {
					at, reached := s.killAfter(tr, n, pgxPath(), "backup", "--type=full")
					if reached {
						s.afterKilledBackup(at, pgxPath(), whole)
					}
				}
			}
			s.verified()
		})
	}
}

// TestCrashRemoval: a backup that is killed while it removes what an earlier one left is no
// obstacle either, nor is what we leave one for pgbackrest.
func TestCrashRemoval(t *testing.T) {
	t.Parallel()
	s := crashSite(t)
	tr := crashtest.Trace{Under: s.repo}
	first := len(s.steps(tr, pgxPath(), "backup", "--type=full")) / 2 // while it copies
	s.killAfter(tr, first, pgxPath(), "backup", "--type=full")
	s.sessionEnds()
	steps := s.steps(tr, pgxPath(), "backup", "--type=full")
	removal := 0
	for i, step := range steps {
		if strings.HasPrefix(step.Call, "unlink") || strings.HasPrefix(step.Call, "rmdir") {
			removal = i + 1
		}
	}
	if removal < 20 {
		t.Fatalf("the removal ends with step %d", removal)
	}
	whole := map[string]bool{}
	points := []int{1, removal / 2, removal}
	if everyStep {
		points = points[:0]
		for n := range removal {
			points = append(points, n+1)
		}
	}
	for _, n := range points {
		s.killAfter(tr, first, pgxPath(), "backup", "--type=full")
		s.sessionEnds()
		at, _ := s.killAfter(tr, n, pgxPath(), "backup", "--type=full")
		s.afterKilledBackup(at, pgxPath(), whole)
	}
	at, _ := s.killAfter(tr, first, pgxPath(), "backup", "--type=full")
	s.afterKilledBackup(at, pgtest.Reference(t), whole)
	s.verified()
}

// afterKilledBackup looks at what a backup killed after a step has left, makes one with next and
// looks again. Backups in whole are restored no more, those that have been are added.
func (s *site) afterKilledBackup(at crashtest.Step, next string, whole map[string]bool) {
	s.Helper()
	s.sessionEnds()
	before := s.restorable(at, whole)
	args := []string{"backup", "--type=full"}
	if next != pgxPath() {
		args = append(args, "--no-expire-auto")
	}
	if o := s.run(next, args...); o.code != 0 {
		s.Fatalf("killed after %v, the next backup: exit %d\n%s", at, o.code, o.all())
	}
	after := s.restorable(at, whole)
	// A backup that was killed when all but the list was done is listed by the next.
	if more := len(after) - len(before); more < 1 || more > 2 || !slices.Contains(after, s.label()) {
		s.Errorf("killed after %v: listed were %q, are %q", at, before, after)
	}
	s.tidy()
}

// sessionEnds waits until all have seen that a backup is gone: PostgreSQL, whose backup mode and
// lock end with the session, and the processes that pgbackrest has started, which hold its locks
// until they notice.
func (s *site) sessionEnds() {
	s.Helper()
	pgtest.Eventually(s.T, "the end of the backup session", func() bool {
		return s.pg.QueryValue(`select count(*) from pg_stat_activity where application_name like 'pgBackRest%'`) == "0" &&
			s.pg.QueryValue(`select count(*) from pg_locks where locktype = 'advisory'`) == "0"
	})
	locks, err := filepath.Glob(filepath.Join(s.dir, "lock/*.lock"))
	if err != nil {
		s.Fatal(err)
	}
	for _, name := range locks {
		pgtest.Eventually(s.T, "the release of "+name, func() bool {
			f, err := os.Open(name)
			if errors.Is(err, fs.ErrNotExist) {
				return true // its holder has removed it
			}
			if err != nil {
				s.Fatal(err)
			}
			defer f.Close()
			return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
		})
	}
}

// restorable gives the backups that are listed after making sure that both tools list the
// same and that both restore the same from each.
func (s *site) restorable(at crashtest.Step, whole map[string]bool) []string {
	s.Helper()
	listed := s.backups(pgxPath())
	if theirs := s.backups(pgtest.Reference(s.T)); !slices.Equal(listed, theirs) {
		s.Errorf("killed after %v: pgx lists %q, pgbackrest %q", at, listed, theirs)
	}
	for _, label := range listed {
		if whole[label] {
			continue
		}
		whole[label] = true
		var trees [2]map[string]node
		for i, tool := range []string{pgxPath(), pgtest.Reference(s.T)} {
			dir := s.restore(fmt.Sprintf("%s-%d", label, i), tool, "--set="+label, "--type=none")
			trees[i] = tree(s.T, dir)
			if err := os.RemoveAll(dir); err != nil {
				s.Fatal(err)
			}
		}
		same(s.T, trees[0], trees[1], nil)
	}
	return listed
}

// tidy makes sure that the repository holds nothing but the backups that are listed and, not
// inside them, files under temporary names.
func (s *site) tidy() {
	s.Helper()
	if listed, there := s.backups(pgxPath()), s.labelDirs(); !slices.Equal(listed, there) {
		s.Errorf("directories of backups are %q, listed are %q", there, listed)
	}
	for _, label := range s.labelDirs() {
		if left := s.temporary(filepath.Join("backup", "demo", label), ""); len(left) > 0 {
			s.Errorf("in backup %s are left %q", label, left)
		}
	}
}
