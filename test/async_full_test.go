package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// narrow is a site whose server has its WAL on a small file system.
type narrow struct {
	*async
	mount string
}

// newNarrow mounts so many megabytes at a directory of the site that has the name, and makes a site whose
// server runs, whose stanza exists, and that has a backup.
func newNarrow(t *testing.T, name string, megabytes int, global map[string]string) *narrow {
	t.Helper()
	needsRoot(t)
	a := bareAsync(t, pgxPath(), pgtest.Options{WALSegSize: 4, Config: map[string]string{
		"min_wal_size": "8MB", "max_wal_size": "24MB", "checkpoint_completion_target": "0.1",
	}}, global)
	n := &narrow{a, a.small(name, megabytes)}
	t.Cleanup(func() { // before it is unmounted
		n.noWorkers()
		if n.pg.Running() {
			n.pg.Stop(pgtest.Immediate)
		}
	})
	from, to := filepath.Join(n.pg.PGDATA, "pg_wal"), filepath.Join(n.mount, "pg_wal")
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.RemoveAll(from); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(to, from); err != nil {
		t.Fatal(err)
	}
	n.pg.Start()
	n.must(pgxPath(), "stanza-create")
	n.must(pgxPath(), "backup", "--type=full")
	n.archived()
	return n
}

// emit writes so many megabytes of WAL, and nothing but WAL; it says whether the server did not fail.
func (n *narrow) emit(megabytes int) bool {
	n.Helper()
	return n.exec(n.pg.Command("psql", "-Xqc", fmt.Sprintf(
		`select count(pg_logical_emit_message(false, 'test', repeat(md5(g::text), 3200))) from generate_series(1, %d) g`, 10*megabytes))).code == 0
}

// space gives the megabytes of the small file system that are used, and those that are free.
func (n *narrow) space() (used, free int64) {
	n.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(n.mount, &st); err != nil {
		n.Fatal(err)
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize >> 20, int64(st.Bavail) * st.Bsize >> 20
}

// connects says whether the server takes connections.
func (n *narrow) connects() bool {
	n.Helper()
	return n.exec(n.pg.Command("psql", "-Xqc", "select 1")).code == 0
}

// TestAsyncFullDrops: the repository is away for longer than pg_wal has room for what PostgreSQL writes.
// With a limit for what may wait PostgreSQL is never without room: pgx drops in time. When the
// repository is back archiving goes on, and the hole is named.
func TestAsyncFullDrops(t *testing.T) {
	t.Parallel()
	n := newNarrow(t, "small", 160, map[string]string{"archive-push-queue-max": "48MB", "log-level-console": "warn"})
	pid := n.pg.Pid()
	back := n.away(n.repo)
	var most, written int64
	for range 16 {
		if !n.emit(16) {
			t.Fatal("PostgreSQL failed")
		}
		written += 16
		used, _ := n.space()
		most = max(most, used)
		<-time.After(300 * time.Millisecond) // as fast as no archiver keeps up with is not the point
	}
	if len(n.ledger()) == 0 {
		t.Error("nothing was dropped")
	}
	back()
	n.archived()
	last := n.pg.QueryValue(`select last_archived_wal from pg_stat_archiver`)
	if len(n.stored(last)) != 1 {
		t.Errorf("%s was not stored when the repository was back", last)
	}
	n.allKept(true)
	if log := n.pg.Log(); strings.Contains(log, "PANIC") || strings.Contains(log, "No space left") || n.pg.Pid() != pid || !n.pg.Running() {
		t.Error("PostgreSQL was without room")
	}
	t.Logf("PostgreSQL wrote %d MB of WAL, and pg_wal took %d MB of 160 at most; dropped were %+v", written, most, n.ledger())

	const hole = `WAL [0-9A-F]{24} to [0-9A-F]{24} is missing \(dropped 20\d\d-[^)]*: archive queue exceeded 48MB\)`
	for name, text := range map[string]string{"check": n.run(pgxPath(), "check").all(), "info": n.must(pgxPath(), "info")} {
		if !regexp.MustCompile(hole).MatchString(text) {
			t.Errorf("%s does not name the hole:\n%s", name, text)
		}
	}
}

// TestAsyncFullWaits: without a limit nothing is dropped. PostgreSQL fills its file system, on which the
// spool is too, and ends; the logs say why. When the repository is back and PostgreSQL is started
// again, all that waited is archived, and there is room.
func TestAsyncFullWaits(t *testing.T) {
	t.Parallel()
	const size = 96
	n := newNarrow(t, "spool", size, map[string]string{"archive-timeout": "3"})
	back := n.away(n.repo)
	for fits := true; fits; {
		fits = n.emit(8)
		if used, _ := n.space(); used > size {
			t.Fatalf("%d MB are used", used)
		}
	}
	const missing = "HINT: is the file system of the repository mounted?"
	if log := n.pg.Log(); !strings.Contains(log, "No space left on device") || !strings.Contains(log, missing) {
		t.Error("the log of PostgreSQL does not say why")
	}
	waiting := slices.DeleteFunc(n.waiting(), func(name string) bool { return strings.Contains(name, ".") })
	if len(waiting) < 10 || len(n.ledger()) != 0 {
		t.Errorf("%v wait, and %v are dropped", waiting, n.ledger())
	}
	pgtest.Eventually(t, "the end of the server, or of its recovery", func() bool { return !n.pg.Running() || n.connects() })

	// Not a byte is left for answers either, once a worker that was stopped in the middle of one has
	// given it in the room that it had.
	pgtest.Eventually(t, "a call that gets no answer", func() bool {
		pid := n.worker("archive-push")
		kill(t, pid, syscall.SIGSTOP) // so that it writes none in between
		for name := range n.answers() {
			n.remove(filepath.Join(n.out(), name))
		}
		defer n.fillUp(n.mount, 0)()
		kill(t, pid, syscall.SIGCONT)
		o := n.run(pgxPath(), "archive-push", filepath.Join(n.pg.PGDATA, "pg_wal", waiting[0]))
		if o.code == 103 && len(n.answers()) != 0 {
			return false
		}
		if o.code != 82 || !strings.Contains(o.all(), "check '"+n.dir+"/demo-archive-push-async.log' for errors") {
			t.Fatalf("exit %d\n%s", o.code, o.all())
		}
		return true
	})
	for _, text := range []string{"no space left on device", "HINT: the file system is full", missing} {
		if !n.logged(text) {
			t.Errorf("the worker's log does not say %q:\n%s", text, strings.Join(n.lines(), "\n"))
		}
	}

	back()
	// Whether a server that ended so gets by with the room it has is its own matter: an operator
	// enlarges the file system.
	if !n.pg.Running() && n.pg.TryStart() != nil {
		if err := syscall.Mount("tmpfs", n.mount, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%dm", size+16)); err != nil {
			t.Fatal(err)
		}
		t.Log("PostgreSQL needed more room to start")
		n.pg.Start()
	}
	n.archived()
	for _, name := range waiting {
		if got := n.stored(name); len(got) != 1 {
			t.Errorf("%s waited, and the repository has %v", name, got)
		}
	}
	pgtest.Eventually(t, "room in pg_wal", func() bool {
		n.pg.Exec(`checkpoint`)
		used, _ := n.space()
		return used < size/2
	})
	if !n.emit(40) {
		t.Error("PostgreSQL cannot go on")
	}
	n.archived()
	n.allKept(false)
	n.set(map[string]string{"log-level-console": "warn"})
	n.verified()
	n.must(pgxPath(), "check")
}
