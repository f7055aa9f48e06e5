package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestAsyncKilledAtStart: workers are killed right after archive-push has started them: some as
// soon as there is a process, some when they have their claim. The call that waits starts
// others, ever later, and ends well when one lives.
func TestAsyncKilledAtStart(t *testing.T) {
	t.Parallel()
	a := newAsync(t, pgxPath(), pgtest.Options{Config: map[string]string{"archive_command": "false", "wal_keep_size": "1GB"}},
		map[string]string{"archive-timeout": "60"})
	a.work(3)
	claim := filepath.Join(a.dir, "spool/archive/demo/push.worker")
	// Workers that live wait for this lock.
	lock, err := os.OpenFile(filepath.Join(a.dir, "lock/demo-archive-1.lock"), os.O_RDWR|os.O_CREATE, 0o640)
	if err == nil {
		defer lock.Close()
		a.own(lock.Name())
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	call := a.begin(a.command(pgxPath(), "--log-level-console=detail", "archive-push", filepath.Join(a.pg.PGDATA, "pg_wal", a.waiting()[0])))
	const kills = 3
	seen := map[int]bool{}
	for n := range kills {
		pid := a.worker("archive-push")
		for n == 1 && !claims(pid, claim) && alive(pid) {
			<-time.After(time.Millisecond)
		}
		kill(t, pid, syscall.SIGKILL)
		a.gone(pid)
		seen[pid] = true
	}
	pid := a.worker("archive-push")
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	o := call.end(30 * time.Second)
	took := time.Since(begun)
	if o.code != 0 || !strings.Contains(o.all(), "to the archive asynchronously") {
		t.Errorf("exit %d\n%s", o.code, o.all())
	}
	if n := strings.Count(o.all(), "the worker that was started has ended without an answer, starting another"); n != kills {
		t.Errorf("it says %d times that it starts another worker\n%s", n, o.all())
	}
	// Pauses of 1, 2 and 4 seconds.
	if len(seen) != kills || took < 7*time.Second || took > 30*time.Second {
		t.Errorf("%d workers were killed, and the call took %s", len(seen), took)
	}
	if got := a.worker("archive-push"); got != pid {
		t.Errorf("worker %d was replaced by %d", pid, got)
	}
	a.pg.Configure(map[string]string{"archive_command": a.archiveCommand()})
	a.pg.Reload()
	a.work(1)
	a.whole(4)
}

// claims says whether a process has the file of a worker's claim open.
func claims(pid int, claim string) bool {
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return false
	}
	for _, fd := range all {
		if to, err := os.Readlink(fd); err == nil && to == claim {
			return true
		}
	}
	return false
}
