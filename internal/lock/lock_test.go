package lock_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/lock"
)

var backup, all = []lock.Type{lock.Backup}, []lock.Type{lock.Archive, lock.Backup, lock.Restore}

func acquire(t *testing.T, d lock.Dir, stanza string, types []lock.Type, repos ...int) *lock.Lock {
	t.Helper()
	l, err := d.Acquire(t.Context(), stanza, types, repos)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Release(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func release(t *testing.T, l *lock.Lock) {
	t.Helper()
	if err := l.Release(); err != nil {
		t.Error(err)
	}
}

func dirNames(t *testing.T, path string) string {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func isHeld(t *testing.T, d lock.Dir, path string, types []lock.Type, repos ...int) {
	t.Helper()
	l, err := d.Acquire(t.Context(), "demo", types, repos)
	if err == nil {
		t.Errorf("'%s' can be locked twice", path)
		release(t, l)
		return
	}
	want := "unable to acquire lock on file '" + path + "': Resource temporarily unavailable\nHINT: is another pgBackRest process running?"
	if !errors.Is(err, lock.ErrHeld) || errs.CodeOf(err) != errs.LockAcquire || err.Error() != want {
		t.Errorf("%v:\n got %v\nwant %v", errs.CodeOf(err), err, want)
	}
}

func TestAcquire(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "pgx")
	one, two := lock.Dir{Path: path, ExecID: "1-one"}, lock.Dir{Path: path, ExecID: "2-two"}
	l := acquire(t, one, "demo", all, 1, 3)
	want := "demo-archive-1.lock demo-archive-3.lock demo-archive.lock demo-backup-1.lock demo-backup-3.lock demo-backup.lock demo-restore-1.lock demo-restore-3.lock"
	if got := dirNames(t, path); got != want {
		t.Errorf("files are\n%s, want\n%s", got, want)
	}
	for name, mode := range map[string]fs.FileMode{"": 0o750, "demo-backup-1.lock": 0o640} {
		if info, err := os.Stat(filepath.Join(path, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("'%s' has %v, error %v", name, info, err)
		}
	}
	content, err := os.ReadFile(filepath.Join(path, "demo-backup-1.lock"))
	if want := fmt.Sprintf(`{"execId":"1-one","pid":%d}`, os.Getpid()); err != nil || string(content) != want {
		t.Errorf("content is %s, want %s", content, want)
	}
	isHeld(t, two, path+"/demo-backup-1.lock", backup, 1)
	isHeld(t, two, path+"/demo-archive-1.lock", all, 2, 1) // what it got before is given back
	isHeld(t, two, path+"/demo-restore-3.lock", []lock.Type{lock.Restore}, 3)
	acquire(t, two, "demo", backup, 2)
	acquire(t, two, "other", all, 1)

	// A process of the same command.
	same := acquire(t, one, "demo", backup, 1)
	release(t, same)
	isHeld(t, two, path+"/demo-backup-1.lock", backup, 1)

	release(t, l)
	release(t, l)
	acquire(t, two, "demo", backup, 1)
}

func TestReleaseRemovesFiles(t *testing.T) {
	d := lock.Dir{Path: t.TempDir(), ExecID: "1"}
	l := acquire(t, d, "demo", all, 1, 2)
	release(t, l)
	if got := dirNames(t, d.Path); got != "" {
		t.Errorf("left are %s", got)
	}
	// The last of two removes the file they share.
	first := acquire(t, d, "demo", backup, 1)
	second := acquire(t, lock.Dir{Path: d.Path, ExecID: "2"}, "demo", backup, 2)
	release(t, first)
	if got := dirNames(t, d.Path); got != "demo-backup-2.lock demo-backup.lock" {
		t.Errorf("left are %s", got)
	}
	release(t, second)
	if got := dirNames(t, d.Path); got != "" {
		t.Errorf("left are %s", got)
	}
}

// TestForeignFileStays: "stop --force" of pgBackRest removes files under their holder.
func TestForeignFileStays(t *testing.T) {
	path := t.TempDir()
	one, two := lock.Dir{Path: path, ExecID: "1"}, lock.Dir{Path: path, ExecID: "2"}
	l := acquire(t, one, "demo", []lock.Type{lock.Restore}, 1)
	if err := os.Remove(filepath.Join(path, "demo-restore-1.lock")); err != nil {
		t.Fatal(err)
	}
	acquire(t, two, "demo", []lock.Type{lock.Restore}, 1)
	release(t, l)
	if _, held := one.Held("demo", lock.Restore, 1); !held {
		t.Error("the lock of another was removed")
	}
}

func TestStaleFiles(t *testing.T) {
	for _, content := range []string{"", "garbage", `{"execId":"9-9","pctCplt":10000,"pid":1,"sz":123456789,"szCplt":123456789}`, strings.Repeat("x", 10000)} {
		d := lock.Dir{Path: t.TempDir(), ExecID: "1"}
		for _, name := range []string{"demo-backup-1.lock", "demo-backup.lock"} {
			if err := os.WriteFile(filepath.Join(d.Path, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, held := d.Held("demo", lock.Backup, 1); held {
			t.Error("nobody holds it")
		}
		holders, unread, err := d.Holders("demo")
		if err != nil || len(holders) != 0 || len(unread) != 1 || unread[0] != d.Path+"/demo-backup-1.lock" {
			t.Errorf("holders %v, unread %v, error %v", holders, unread, err)
		}
		acquire(t, d, "demo", backup, 1)
		got, err := os.ReadFile(filepath.Join(d.Path, "demo-backup-1.lock"))
		if want := fmt.Sprintf(`{"execId":"1","pid":%d}`, os.Getpid()); err != nil || string(got) != want {
			t.Errorf("content is %s, want %s", got, want)
		}
	}
}

// holdFile flocks a file as something that is not pgx.
func holdFile(t *testing.T, path, content string, how int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err == nil {
		_, err = f.WriteString(content)
	}
	if err == nil {
		err = syscall.Flock(int(f.Fd()), how)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // the test may have done it
	return f
}

func TestHeldByOlderRelease(t *testing.T) {
	d := lock.Dir{Path: t.TempDir(), ExecID: "1"}
	path := filepath.Join(d.Path, "demo-backup.lock")
	content := fmt.Sprintf(`{"execId":"7-old","pctCplt":500,"pid":%d}`, os.Getppid())
	holdFile(t, path, content, syscall.LOCK_EX)
	isHeld(t, d, path, backup, 1)
	if got := dirNames(t, d.Path); got != "demo-backup.lock" {
		t.Errorf("left are %s", got)
	}
	if h, held := d.Held("demo", lock.Backup, lock.OlderRelease); !held || h != (lock.Holder{File: path, PID: os.Getppid(), ExecID: "7-old"}) {
		t.Errorf("holder %+v, held %t", h, held)
	}
	if h, held := d.Held("demo", lock.Backup, 1); held {
		t.Errorf("holder %+v", h)
	}
	holders, unread, err := d.Holders("")
	if err != nil || len(holders) != 1 || holders[0].PID != os.Getppid() || unread != nil {
		t.Errorf("holders %v, unread %v, error %v", holders, unread, err)
	}
	acquire(t, d, "demo", []lock.Type{lock.Archive, lock.Restore}, 1)
}

// TestLookedAt: a pgBackRest that only looks (info) holds an abandoned file for a moment.
func TestLookedAt(t *testing.T) {
	d := lock.Dir{Path: t.TempDir(), ExecID: "1"}
	path := filepath.Join(d.Path, "demo-backup-1.lock")
	looking := holdFile(t, path, "", syscall.LOCK_EX)
	isHeld(t, d, path, backup, 1) // it does not end

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Acquire(ctx, "demo", backup, []int{1}); !errors.Is(err, context.Canceled) || errs.CodeOf(err) != errs.Term {
		t.Errorf("error %v", err)
	}
	done := make(chan error)
	go func() {
		l, err := d.Acquire(t.Context(), "demo", backup, []int{1})
		if err == nil {
			err = l.Release()
		}
		done <- err
	}()
	if err := looking.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestProgress(t *testing.T) {
	d := lock.Dir{Path: t.TempDir(), ExecID: "12-abcdef01"}
	l := acquire(t, d, "demo", backup, 1, 2)
	if h, held := d.Held("demo", lock.Backup, 1); !held || h.Size != 0 || h.PID != os.Getpid() || h.ExecID != d.ExecID {
		t.Errorf("holder %+v, held %t", h, held)
	}
	path := filepath.Join(d.Path, "demo-backup-1.lock")
	for _, step := range []struct {
		done, total int64
		want        string
	}{
		{0, 1 << 40, `"pctCplt":0,"pid":PID,"sz":1099511627776,"szCplt":0`},
		{1 << 30, 1 << 40, `"pctCplt":0,"pid":PID,"sz":1099511627776,"szCplt":0`}, // below 0.1 %
		{1 << 39, 1 << 40, `"pctCplt":5000,"pid":PID,"sz":1099511627776,"szCplt":549755813888`},
		{1 << 40, 1 << 40, `"pctCplt":10000,"pid":PID,"sz":1099511627776,"szCplt":1099511627776`},
		{0, 0, `"pctCplt":0,"pid":PID,"sz":0,"szCplt":0`}, // shorter than before
	} {
		if err := l.SetProgress(lock.Backup, 1, step.done, step.total); err != nil {
			t.Fatal(err)
		}
		want := `{"execId":"12-abcdef01",` + strings.ReplaceAll(step.want, "PID", fmt.Sprint(os.Getpid())) + "}"
		for _, path := range []string{path, filepath.Join(d.Path, "demo-backup.lock")} {
			if got, err := os.ReadFile(path); err != nil || string(got) != want {
				t.Errorf("content is\n%s, want\n%s", got, want)
			}
		}
	}
	if err := l.SetProgress(lock.Backup, 1, 5, 10); err != nil {
		t.Fatal(err)
	}
	if h, held := d.Held("demo", lock.Backup, 1); !held || h.Size != 10 || h.Complete != 5 {
		t.Errorf("holder %+v, held %t", h, held)
	}
	if h, _ := d.Held("demo", lock.Backup, 2); h.Size != 0 {
		t.Errorf("the other repository: %+v", h)
	}
	if err := l.ClearProgress(lock.Backup, 1); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != fmt.Sprintf(`{"execId":"12-abcdef01","pid":%d}`, os.Getpid()) {
		t.Errorf("content without progress is %s", got)
	}
	if err := l.SetProgress(lock.Backup, 1, 5, 10); err != nil {
		t.Error(err)
	}
	if h, held := d.Held("demo", lock.Backup, 1); !held || h.Size != 10 {
		t.Errorf("holder that goes on %+v, held %t", h, held)
	}
	release(t, l)
	if err := l.SetProgress(lock.Backup, 1, 6, 10); err != nil {
		t.Error(err)
	}
}

// TestExclusion lets several processes' worth of lock holders race; never may two be in.
func TestExclusion(t *testing.T) {
	path := t.TempDir()
	var inside, times atomic.Int32
	var wg sync.WaitGroup
	for i := range 6 {
		d := lock.Dir{Path: path, ExecID: fmt.Sprint(i)}
		wg.Go(func() {
			for range 300 {
				l, err := d.Acquire(t.Context(), "demo", backup, []int{1})
				if errors.Is(err, lock.ErrHeld) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two hold the lock")
				}
				times.Add(1)
				inside.Add(-1)
				if err := l.Release(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if times.Load() == 0 {
		t.Error("nobody ever got it")
	}
	if got := dirNames(t, path); got != "" {
		t.Errorf("left are %s", got)
	}
}

func TestRefused(t *testing.T) {
	if os.Getuid() == 0 {
		rerun(t, "^TestRefused$", 65534)
		return
	}
	d := lock.Dir{Path: t.TempDir(), ExecID: "1"}
	path := filepath.Join(d.Path, "demo-backup-1.lock")
	if err := os.WriteFile(path, nil, 0); err != nil {
		t.Fatal(err)
	}
	_, err := d.Acquire(t.Context(), "demo", backup, []int{1})
	want := "unable to acquire lock on file '" + path + "': Permission denied\nHINT: does '"
	if !errors.Is(err, fs.ErrPermission) || errors.Is(err, lock.ErrHeld) || errs.CodeOf(err) != errs.LockAcquire ||
		!strings.HasPrefix(err.Error(), want) || !strings.HasSuffix(err.Error(), "' running pgBackRest have permissions on the '"+path+"' file?") {
		t.Errorf("%v %v", errs.CodeOf(err), err)
	}
}

// rerun runs tests of this program again as another user.
func rerun(t *testing.T, tests string, uid int) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgx-lock")
	if err == nil {
		err = os.Chown(dir, uid, -1)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // temporary
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run="+tests, "-test.v")
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestNames(t *testing.T) {
	d := lock.Dir{Path: t.TempDir(), ExecID: "1"}
	for _, stanza := range []string{"../x", "a/b", "a\x00b"} {
		_, lockErr := d.Acquire(t.Context(), stanza, backup, []int{1})
		_, stopErr := d.Stop(t.Context(), stanza)
		_, startErr := d.Start(stanza)
		for _, err := range []error{lockErr, stopErr, startErr, d.Stopped(stanza)} {
			if errs.CodeOf(err) != errs.ParamInvalid {
				t.Errorf("stanza %q: error %v", stanza, err)
			}
		}
	}
	// A stanza whose name begins with that of another.
	acquire(t, d, "demo-backup", all, 1)
	acquire(t, d, "demo2", all, 1)
	if holders, unread, err := d.Holders("demo"); holders != nil || unread != nil || err != nil {
		t.Errorf("holders %v, unread %v, error %v", holders, unread, err)
	}
	if holders, unread, err := d.Holders(""); len(holders) != 1 || unread != nil || err != nil {
		t.Errorf("holders %v, unread %v, error %v", holders, unread, err)
	}
}

func TestStopFiles(t *testing.T) {
	d := lock.Dir{Path: filepath.Join(t.TempDir(), "not", "there")}
	expect := func(stanza, want string) {
		t.Helper()
		err := d.Stopped(stanza)
		if want == "" && err != nil || want != "" && (errs.CodeOf(err) != errs.Stop || err.Error() != want) {
			t.Errorf("stanza '%s': error %v, want %q", stanza, err, want)
		}
	}
	stop := func(stanza string, want bool) {
		t.Helper()
		if made, err := d.Stop(t.Context(), stanza); err != nil || made != want {
			t.Errorf("stop '%s': %t, error %v", stanza, made, err)
		}
	}
	start := func(stanza string, want bool) {
		t.Helper()
		if removed, err := d.Start(stanza); err != nil || removed != want {
			t.Errorf("start '%s': %t, error %v", stanza, removed, err)
		}
	}
	expect("demo", "")
	start("demo", false)
	if holders, unread, err := d.Holders("demo"); holders != nil || unread != nil || err != nil {
		t.Errorf("holders %v, unread %v, error %v", holders, unread, err)
	}
	stop("demo", true)
	stop("demo", false)
	if info, err := os.Stat(d.Path); err != nil || info.Mode().Perm() != 0o770 {
		t.Errorf("%v, error %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(d.Path, "demo.stop")); err != nil || info.Mode().Perm() != 0o640 || info.Size() != 0 {
		t.Errorf("%v, error %v", info, err)
	}
	expect("demo", "stop file exists for stanza demo")
	expect("other", "")
	expect("", "")
	stop("", true)
	expect("demo", "stop file exists for stanza demo")
	expect("other", "stop file exists for all stanzas")
	expect("", "stop file exists for all stanzas")
	start("demo", true)
	expect("demo", "stop file exists for all stanzas")
	start("", true)
	start("", false)
	expect("demo", "")
	if got := dirNames(t, d.Path); got != "" {
		t.Errorf("left are %s", got)
	}
	// What cannot be looked at may be there.
	if err := os.WriteFile(filepath.Join(filepath.Dir(d.Path), "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d.Path = filepath.Join(filepath.Dir(d.Path), "file")
	if err := d.Stopped("demo"); err == nil {
		t.Error("nothing can be known about the stop file")
	}
}

// TestDies: a lock ends with its process, however that ends.
func TestDies(t *testing.T) {
	if path := os.Getenv("PGX_TEST_LOCK"); path != "" {
		acquire(t, lock.Dir{Path: path, ExecID: "child"}, "demo", backup, 1)
		fmt.Println("HELD")
		_, _ = io.Copy(io.Discard, os.Stdin) // until the parent dies or kills this
		return
	}
	d := lock.Dir{Path: t.TempDir(), ExecID: "1"}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestDies$")
	cmd.Env = append(os.Environ(), "PGX_TEST_LOCK="+d.Path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "HELD\n" {
		t.Fatalf("%q, %v", line, err)
	}
	isHeld(t, d, d.Path+"/demo-backup-1.lock", backup, 1)
	if h, held := d.Held("demo", lock.Backup, 1); !held || h.PID != cmd.Process.Pid || h.ExecID != "child" {
		t.Errorf("holder %+v, held %t", h, held)
	}
	holders, unread, err := d.Holders("demo")
	if err != nil || len(holders) != 1 || holders[0].PID != cmd.Process.Pid || unread != nil {
		t.Errorf("holders %v, unread %v, error %v", holders, unread, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	_ = stdin.Close()
	if _, held := d.Held("demo", lock.Backup, 1); held {
		t.Error("held by a dead process")
	}
	acquire(t, d, "demo", backup, 1)
}
