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

// TestAsyncDetached: what archive-push leaves behind has nothing of PostgreSQL, which so can
// stop at once while it is there.
func TestAsyncDetached(t *testing.T) {
	t.Parallel()
	a := bareAsync(t, pgxPath(), pgtest.Options{Config: map[string]string{
		"logging_collector": "on", "log_directory": "log", "wal_keep_size": "1GB", "archive_command": "false",
	}}, nil)
	leak := filepath.Join(a.dir, "leak")
	a.pg.Configure(map[string]string{"archive_command": "exec 7>" + leak + " 8</dev/zero; " + a.archiveCommand()})
	a.pg.Start()
	a.must(pgxPath(), "stanza-create")
	a.work(2)
	a.archived()
	pid := a.worker("archive-push")

	stat := strings.Fields(a.read(fmt.Sprintf("/proc/%d/stat", pid)))
	if group, session, terminal := stat[4], stat[5], stat[6]; group != fmt.Sprint(pid) || session != fmt.Sprint(pid) || terminal != "0" {
		t.Errorf("process %d is of group %s, session %s, terminal %s", pid, group, session, terminal)
	}
	if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); dir != "/" || err != nil {
		t.Errorf("it works in %s, %v", dir, err)
	}
	own := map[string]bool{
		"/dev/null": true, filepath.Join(a.dir, "demo-archive-push-async.log"): true,
		filepath.Join(a.dir, "spool/archive/demo/push.worker"): true,
		"anon_inode:[eventpoll]":                               true, "anon_inode:[eventfd]": true, "anon_inode:inotify": true,
	}
	// While it has work it has more, which is over now.
	var left []string
	t.Cleanup(func() {
		if len(left) > 0 {
			t.Logf("process %d had open %v", pid, left)
		}
	})
	pgtest.Eventually(t, "nothing but its own files to be open", func() bool {
		left = foreignFiles(t, pid, own)
		return len(left) == 0
	})
	for fd := range 3 {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd)); to != "/dev/null" || err != nil {
			t.Errorf("its stream %d is %s, %v", fd, to, err)
		}
	}

	children := a.children(a.pg.Pid())
	begun := time.Now()
	a.pg.Stop(pgtest.Fast)
	pgtest.Eventually(t, "the end of PostgreSQL's processes, of which the logger is last", func() bool {
		for _, child := range children {
			if alive(child) {
				return false
			}
		}
		return true
	})
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if len(children) < 5 || !alive(pid) {
		t.Errorf("of %d processes none was to stay but the worker, which does: %t", len(children), alive(pid))
	}
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && len(b) > 0
}

// foreignFiles gives what a process has open beside its own.
func foreignFiles(t *testing.T, pid int, own map[string]bool) (left []string) {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return nil
	}
	for _, fd := range all {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		// The runtime keeps open what tells it how many processors there are.
		if err == nil && !own[to] && !strings.HasPrefix(to, "/sys/fs/cgroup/") {
			left = append(left, fd.Name()+" "+to)
		}
	}
	return left
}

// children gives the ids of a process's children.
func (s *site) children(pid int) (ids []int) {
	s.Helper()
	for field := range strings.FieldsSeq(s.read(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))) {
		var id int
		if _, err := fmt.Sscan(field, &id); err != nil {
			s.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// TestAsyncLeaves: for what an idle worker leaves, and that the next segment then has another.
func TestAsyncLeaves(t *testing.T) {
	t.Parallel()
	program := filepath.Join(pgtest.Dir(t), "pgx")
	install := func(t *testing.T) {
		t.Helper()
		b, err := os.ReadFile(pgxPath())
		if err == nil {
			err = os.WriteFile(program+".new", b, 0o755)
		}
		if err == nil {
			err = os.Rename(program+".new", program)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	install(t)
	a := newAsync(t, program, kept, nil)
	settled := func() int {
		t.Helper()
		a.work(1)
		a.whole(1)
		return a.worker("archive-push")
	}
	for _, c := range []struct {
		name, says string
		do         func()
	}{
		{"stop", "leaving: stop file exists for stanza demo", func() { a.must(program, "--stanza=demo", "stop") }},
		{"configuration", "leaving: '" + a.conf + "' has changed", func() { a.set(map[string]string{"process-max": "3"}) }},
		{"program", "leaving: '" + program + "' has changed", func() { install(t) }},
		{"log", "leaving: '" + a.dir + "/demo-archive-push-async.log' was moved away", func() {
			log := filepath.Join(a.dir, "demo-archive-push-async.log")
			if err := os.Rename(log, log+".1"); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		pid := settled()
		begun := time.Now()
		c.do()
		a.gone(pid)
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("%s: it stayed for %s", c.name, took)
		}
		log := a.read(filepath.Join(a.dir, "demo-archive-push-async.log"+map[bool]string{true: ".1"}[c.name == "log"]))
		if !strings.Contains(log, c.says) {
			t.Errorf("%s: the log does not say %q:\n%s", c.name, c.says, log)
		}
		if c.name == "stop" {
			a.must(program, "--stanza=demo", "start")
		}
	}
	pid := settled()
	if !exists(filepath.Join(a.dir, "demo-archive-push-async.log")) {
		t.Error("nothing is logged where the log was moved away")
	}

	a.set(map[string]string{"archive-async-idle": "1s"})
	a.gone(pid)
	next := settled()
	begun := time.Now()
	a.gone(next)
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("with nothing to do for a second it left after %s", took)
	}
	if !a.logged("nothing to push, leaving") {
		t.Error("the log does not say why")
	}
}

// TestAsyncIdle: while a worker waits for work it is in nobody's way: other commands of either
// tool get the locks, and the file system of the repository can be unmounted.
func TestAsyncIdle(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	reference := pgtest.Reference(t)
	a := bareAsync(t, pgxPath(), kept, nil)
	real, mounted := a.empty("real"), a.empty("mounted")
	mount := func() {
		t.Helper()
		if err := syscall.Mount(real, mounted, "", syscall.MS_BIND, ""); err != nil {
			t.Skipf("cannot mount: %v", err)
		}
	}
	mount()
	t.Cleanup(func() { _ = syscall.Unmount(mounted, syscall.MNT_DETACH) })
	a.repo = filepath.Join(mounted, "repo")
	a.set(nil)
	a.pg.Start()
	a.must(pgxPath(), "stanza-create")
	a.work(2)
	a.whole(2)
	pid := a.worker("archive-push")

	for _, tool := range []string{reference, pgxPath()} {
		a.must(tool, "--stanza=demo", "stanza-create", "--lock-path="+filepath.Join(a.dir, "lock"))
		a.must(tool, "--stanza=demo", "check")
		a.must(tool, "--stanza=demo", "backup", "--type=full")
	}
	if got := a.worker("archive-push"); got != pid {
		t.Errorf("worker %d was replaced by %d", pid, got)
	}
	// pgbackrest's own worker gets its lock. For ours there is nothing left of it to do.
	a.pg.Configure(map[string]string{"archive_command": strings.Replace(a.archiveCommand(), pgxPath(), reference, 1)})
	a.pg.Reload()
	a.work(4)
	a.whole(8)
	a.pg.Configure(map[string]string{"archive_command": a.archiveCommand()})
	a.pg.Reload()
	a.work(2)
	a.whole(10)

	pgtest.Eventually(t, "unmounting of the repository", func() bool { return syscall.Unmount(mounted, 0) == nil })
	a.work(2)
	pgtest.Eventually(t, "an error", func() bool { return a.logged("HINT: is the file system of the repository mounted?") })
	if names := names(t, mounted); len(names) != 0 {
		t.Errorf("where the repository is not mounted there are %v", names)
	}
	mount()
	a.work(1)
	a.whole(13)
	if got := a.worker("archive-push"); got != pid {
		t.Errorf("worker %d was replaced by %d", pid, got)
	}
}
