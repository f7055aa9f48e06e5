package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// Faults of asynchronous archiving. That the clock jumps is not among them: a program without
// libc cannot be told another time from outside, so the tests of package wal have it.

// kept are the settings of a server whose WAL stays to be compared.
var kept = pgtest.Options{Config: map[string]string{"wal_keep_size": "1GB"}}

// whole makes sure that all WAL is archived and in the repository.
func (a *async) whole(least int) {
	a.Helper()
	a.archived()
	if stored, _ := a.intact(nil); stored < least {
		a.Errorf("%d WAL files are in the repository, expected are %d", stored, least)
	}
}

// TestAsyncSpoolDeleted: the spool may go at any time, also while the worker is at work, and
// there is one worker after as before.
func TestAsyncSpoolDeleted(t *testing.T) {
	t.Parallel()
	a := newAsync(t, pgxPath(), kept, map[string]string{"archive-timeout": "10"})
	a.work(1)
	a.archived()
	for _, gone := range []string{"spool", "spool/archive/demo/out", "spool/archive"} {
		work := a.begin(a.pg.Command("psql", "-Xqc", `create table if not exists w (g int, what text);
insert into w select g, repeat(md5(g::text), 30) from generate_series(1, 12000) g`, "-c", `select pg_switch_wal()`))
		pgtest.Eventually(t, "waiting WAL", func() bool { return len(a.waiting()) > 0 })
		// A worker may be making a file in it right now.
		pgtest.Eventually(t, "the end of "+gone, func() bool { return os.RemoveAll(filepath.Join(a.dir, gone)) == nil })
		if o := work.end(time.Minute); o.code != 0 {
			t.Error(o.all())
		}
		a.whole(10)
		if found := a.processes("archive-push:async"); len(found) > 1 {
			t.Errorf("%d workers are there", len(found))
		}
	}
}

// TestAsyncSpoolRefused: with a spool that cannot be written PostgreSQL keeps its WAL, its log
// says why, and it goes on by itself when that is over.
func TestAsyncSpoolRefused(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	refused := func(t *testing.T, a *async, code int, text string) {
		t.Helper()
		a.pg.Exec(`create table x (); select pg_switch_wal()`)
		before := len(a.done())
		pgtest.Eventually(t, "an error in PostgreSQL's log", func() bool { return strings.Contains(a.pg.Log(), text) })
		o := a.run(pgxPath(), "archive-push", filepath.Join(a.pg.PGDATA, "pg_wal", a.waiting()[0]))
		if o.code != code || !strings.Contains(o.all(), text) {
			t.Errorf("exit %d, want %d and %q\n%s", o.code, code, text, o.all())
		}
		if len(a.done()) != before {
			t.Error("PostgreSQL holds WAL archived that was not acknowledged")
		}
	}
	after := func(t *testing.T, a *async) {
		t.Helper()
		a.pg.Exec(`drop table x`)
		a.work(2)
		a.whole(4)
	}
	t.Run("cannot be made", func(t *testing.T) {
		t.Parallel()
		a := bareAsync(t, pgxPath(), kept, map[string]string{"archive-timeout": "2"})
		back := a.chmod(a.empty("spool"), 0o500)
		a.pg.Start()
		a.must(pgxPath(), "stanza-create")
		refused(t, a, 47, "unable to create path '"+a.dir+"/spool/archive'")
		back()
		after(t, a)
	})
	t.Run("is read-only", func(t *testing.T) {
		t.Parallel()
		a := newAsync(t, pgxPath(), kept, map[string]string{"archive-timeout": "2"})
		a.work(1)
		a.archived()
		back := a.chmod(a.out(), 0o500)
		refused(t, a, 82, "to the archive asynchronously after 2 second(s)")
		if !a.logged("permission denied") {
			t.Error("the worker's log does not say why")
		}
		back()
		after(t, a)
	})
	t.Run("becomes read-only for the whole stanza", func(t *testing.T) {
		t.Parallel()
		a := newAsync(t, pgxPath(), kept, map[string]string{"archive-timeout": "2", "archive-async-idle": "0"})
		a.work(1)
		a.archived()
		pgtest.Eventually(t, "the end of the worker", func() bool { return len(a.processes(":async")) == 0 })
		out, dir := a.chmod(a.out(), 0o500), a.chmod(filepath.Dir(a.out()), 0o500)
		refused(t, a, 82, "to the archive asynchronously after 2 second(s)")
		out()
		dir()
		after(t, a)
	})
	t.Run("is full", func(t *testing.T) {
		t.Parallel()
		a := bareAsync(t, pgxPath(), kept, map[string]string{"archive-timeout": "2"})
		spool := a.small("spool", 1)
		a.pg.Start()
		a.must(pgxPath(), "stanza-create")
		a.work(1)
		a.archived()
		pgtest.Eventually(t, "the end of what was acknowledged", func() bool { return len(a.answers()) == 0 })
		// An acknowledgement takes nothing but a name, so names are what has to be used up.
		var st syscall.Statfs_t
		if err := syscall.Statfs(spool, &st); err != nil {
			t.Fatal(err)
		}
		names := func(n uint64) {
			t.Helper()
			if err := syscall.Mount("tmpfs", spool, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("nr_inodes=%d", n)); err != nil {
				t.Fatal(err)
			}
		}
		room := a.fillUp(spool, 0)
		names(st.Files - st.Ffree + 1)
		refused(t, a, 82, "to the archive asynchronously after 2 second(s)")
		if !a.logged("no space left on device") {
			t.Error("the worker's log does not say why")
		}
		names(st.Files)
		room()
		after(t, a)
	})
}

// TestAsyncDropEnds: what was dropped counts no more, though PostgreSQL has not taken all of the
// answers yet: WAL that comes then, when the repository is back, is not dropped along with it.
func TestAsyncDropEnds(t *testing.T) {
	t.Parallel()
	f := &fakeWAL{async: bareAsync(t, pgxPath(), pgtest.Options{}, map[string]string{"archive-push-queue-max": "4MB"})}
	f.must(pgxPath(), "stanza-create", "--no-online")
	_, path, _ := f.segment()
	f.content = f.read(path)
	first := f.ready()
	if o := f.push(first); o.code != 0 {
		t.Fatal(o.all())
	}
	f.taken(first)
	back := f.away(f.repo)
	var dropped []string
	for range 6 {
		dropped = append(dropped, f.ready())
	}
	pgtest.Eventually(t, "the drop", func() bool { return len(f.unanswered()) < 2 }) // the last may have been late
	back()
	next := f.ready()
	pgtest.Eventually(t, "an answer", func() bool { return len(f.unanswered()) == 0 })
	if len(f.stored(next)) != 1 || f.reported(next) || !f.reported(dropped[4]) {
		t.Errorf("%s was dropped, because PostgreSQL has yet to take that %v were:\n%v", next, dropped, f.ledger())
	}
}

// TestAsyncTwoWorkers: of workers started at the same time one works, and the others leave at
// once and without an error.
func TestAsyncTwoWorkers(t *testing.T) {
	t.Parallel()
	a := newAsync(t, pgxPath(), pgtest.Options{Config: map[string]string{"archive_command": "false", "wal_keep_size": "1GB"}}, nil)
	a.work(8)
	var all []*process
	for range 4 {
		all = append(all, a.begin(a.command(pgxPath(), "archive-push:async", filepath.Join(a.pg.PGDATA, "pg_wal"))))
	}
	pgtest.Eventually(t, "all but one worker to leave", func() bool { return len(a.processes(":async")) == 1 })
	pgtest.Eventually(t, "an answer for all", func() bool { return len(a.unanswered()) == 0 })
	var stays []*process
	for _, p := range all {
		if p.running() {
			stays = append(stays, p)
		} else if o := p.end(time.Second); o.code != 0 || strings.Contains(o.all(), "ERROR") {
			t.Errorf("one ended with %d\n%s", o.code, o.all())
		}
	}
	if len(stays) != 1 {
		t.Errorf("%d workers stay", len(stays))
	}
	pushed := map[string]int{}
	for _, line := range a.lines() {
		if name, ok := strings.CutPrefix(line, "DETAIL: pushed WAL file '"); ok {
			pushed[name[:24]]++
		}
	}
	for _, name := range a.waiting() {
		if pushed[name] != 1 {
			t.Errorf("%s was pushed %d times", name, pushed[name])
		}
	}
	a.pg.Configure(map[string]string{"archive_command": a.archiveCommand()})
	a.pg.Reload()
	a.work(1)
	a.whole(8)
	// None of what was acknowledged before is pushed again.
	if n := strings.Count(strings.Join(a.lines(), "\n"), "already exists"); n != 0 {
		t.Errorf("%d files were pushed again", n)
	}
	a.noWorkers()
	for _, p := range stays {
		if o := p.end(10 * time.Second); o.code != 0 {
			t.Errorf("the other ended with %d\n%s", o.code, o.all())
		}
	}
}

// TestAsyncServerRestarts: a worker outlives its server, and serves the next.
func TestAsyncServerRestarts(t *testing.T) {
	t.Parallel()
	a := newAsync(t, pgxPath(), kept, nil)
	a.work(1)
	a.archived()
	pid := a.worker("archive-push")
	for _, how := range []pgtest.Mode{pgtest.Fast, pgtest.Immediate} {
		a.work(3)
		a.pg.Stop(how)
		a.pg.Start()
		a.work(1)
		a.whole(4)
	}
	if got := a.worker("archive-push"); got != pid {
		t.Errorf("worker %d was replaced by %d", pid, got)
	}
	a.pg.Kill()
	a.pg.Start()
	a.work(1)
	a.whole(10)
}

// TestAsyncStandby: a primary and a standby that archives always push the same segments at the
// same time, each with a spool of its own.
func TestAsyncStandby(t *testing.T) {
	t.Parallel()
	for _, check := range []string{"y", "n"} {
		t.Run("archive-mode-check="+check, func(t *testing.T) {
			t.Parallel()
			a := newAsync(t, pgxPath(), kept, map[string]string{"archive-mode-check": check})
			a.backup()
			dir := a.restore("standby", pgxPath(), "--type=standby", "--archive-mode=preserve",
				fmt.Sprintf("--recovery-option=primary_conninfo=host=%s port=%d user=postgres", a.pg.SocketDir, a.pg.Port))
			b := &async{site: a.in(t, "second"), tool: pgxPath(), global: a.global}
			b.pg = pgtest.Attach(t, a.pg.Major, dir)
			b.set(nil)
			t.Cleanup(b.noWorkers)
			b.pg.Configure(map[string]string{"archive_mode": "always", "archive_command": b.archiveCommand(), "wal_receiver_status_interval": "1s"})
			b.pg.Start()
			pgtest.Eventually(t, "replication", func() bool { return a.pg.QueryValue(`select count(*) from pg_stat_replication`) == "1" })
			for range 3 {
				a.work(4)
			}
			lsn := a.pg.QueryValue(`select pg_current_wal_lsn()`)
			pgtest.Eventually(t, "the standby", func() bool {
				return b.pg.QueryValue(`select pg_last_wal_replay_lsn() >= '`+lsn+`'`) == "t"
			})
			a.whole(12)
			pgtest.Eventually(t, "the archive of the standby's WAL", func() bool { return len(b.waiting()) == 0 })
			if stored, _ := b.intact(nil); stored < 10 {
				t.Errorf("of the standby's WAL %d segments are archived", stored)
			}
			twice := a.logged("already exists in the repo1 archive with the same checksum") ||
				b.logged("already exists in the repo1 archive with the same checksum")
			if twice != (check == "y") {
				t.Errorf("that both push is told: %t", twice)
			}
			if a.logged("could not push") || b.logged("could not push") || a.logged("ERROR") || b.logged("ERROR") {
				t.Errorf("they are in each other's way:\n%s\n\n%s", strings.Join(a.lines(), "\n"), strings.Join(b.lines(), "\n"))
			}
		})
	}
}

// TestAsyncTimelineSwitch: while the repository is away the cluster is promoted. Segments of the
// old timeline, the partial last one among them, the history and the new timeline's segments
// arrive when it is back.
func TestAsyncTimelineSwitch(t *testing.T) {
	t.Parallel()
	a := newAsync(t, pgxPath(), kept, map[string]string{"archive-timeout": "5"})
	a.work(1)
	a.archived()
	back := a.away(a.repo)
	a.work(4)
	a.pg.Exec(`create table last as select 1`) // in a segment that is not ended
	a.pg.Stop(pgtest.Fast)
	a.write(filepath.Join(a.pg.PGDATA, "standby.signal"), "")
	a.pg.Start()
	a.pg.Exec(`select pg_promote()`)
	promoted(t, a.pg)
	a.pg.Exec(`insert into w select 1, 'new'; select pg_switch_wal()`)
	a.work(2)
	waiting := a.waiting()
	partial := slices.IndexFunc(waiting, func(name string) bool { return strings.HasSuffix(name, ".partial") })
	if partial < 0 || !slices.Contains(waiting, "00000002.history") || len(waiting) < 6 {
		t.Fatalf("what waits is %v", waiting)
	}
	back()
	a.work(1)
	a.whole(len(waiting) + 1)
	for _, name := range waiting {
		if got := a.archiveObjects(name); len(got) != 1 {
			t.Errorf("the repository has %v of %s", got, name)
		}
	}
}
