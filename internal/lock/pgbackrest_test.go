package lock_test

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/lock"
	"github.com/pgx-backup/pgx/internal/pgtest"
)

// Of a repository made by 2.45, which both releases read.
var (
	//go:embed testdata/archive.info
	archiveInfo []byte
	//go:embed testdata/backup.info
	backupInfo []byte
)

// TestPgBackRest lets the real program and pgx meet at one lock path. pgBackRest does
// not run as root, and both must own the files, so this process is started again as
// the user of the test servers.
func TestPgBackRest(t *testing.T) {
	if uid, gid := pgtest.Owner(t); uid != os.Getuid() {
		pgtest.Reference(t)
		pgtest.Old(t)
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestPgBackRest$", "-test.v")
		cmd.Dir, cmd.Env = "/", os.Environ()
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: TestPgBackRest")) {
			t.Errorf("%v:\n%s", err, out)
		}
		return
	}
	for _, release := range []struct {
		name, program string
		key           string // in the names of its lock files
		repo          int    // under which its locks are found
		progress      string // what info says of a backup in progress
	}{
		{"2.60", pgtest.Reference(t), "-1", 1, `{"held":true,"repo":[{"key":1,"size":2000,"size-cplt":500}],"size":2000,"size-cplt":500}`},
		{"2.45", pgtest.Old(t), "", lock.OlderRelease, `{"held":true}`},
	} {
		t.Run(release.name, func(t *testing.T) {
			p := peer{t: t, program: release.program, dir: pgtest.Dir(t)}
			for _, sub := range []string{"repo/backup/demo", "repo/archive/demo", "pg"} {
				if err := os.MkdirAll(filepath.Join(p.dir, sub), 0o750); err != nil {
					t.Fatal(err)
				}
			}
			d := lock.Dir{Path: filepath.Join(p.dir, "lock"), ExecID: "1-ours"}
			t.Run("ours holds", func(t *testing.T) { p.ours(t, d, release.key, release.progress) })
			t.Run("theirs holds", func(t *testing.T) { p.theirs(t, d, release.key, release.repo) })
			t.Run("stop files", func(t *testing.T) { p.stopFiles(t, d) })
			t.Run("stop --force", func(t *testing.T) { p.stopForce(t, d) })
		})
	}
}

type peer struct {
	t       *testing.T
	program string
	dir     string
}

func (p peer) command(args ...string) *exec.Cmd {
	return exec.CommandContext(p.t.Context(), p.program, append([]string{"--config=/dev/null", "--stanza=demo",
		"--lock-path=" + p.dir + "/lock", "--log-level-file=off"}, args...)...)
}

// run gives the exit code and what was printed, log lines joined.
func (p peer) run(t *testing.T, args ...string) (int, string) {
	t.Helper()
	cmd := p.command(append([]string{"--log-level-console=info"}, args...)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func (p peer) work(command string) []string {
	return []string{"--repo1-path=" + p.dir + "/repo", "--pg1-path=" + p.dir + "/pg", "--pg1-socket-path=" + p.dir, "--pg1-port=5432", command}
}

// want checks exit code and message of commands that need a lock.
func (p peer) want(t *testing.T, code int, message string, commands ...string) {
	t.Helper()
	for _, command := range commands {
		if got, out := p.run(t, p.work(command)...); got != code || !strings.Contains(out, message) {
			t.Errorf("%s: exit code %d, want %d with %q:\n%s", command, got, code, message, out)
		}
	}
}

func (p peer) ours(t *testing.T, d lock.Dir, key, progress string) {
	for typ, command := range map[lock.Type]string{lock.Backup: "backup", lock.Archive: "stanza-create"} {
		l := acquire(t, d, "demo", []lock.Type{typ}, 1)
		p.want(t, int(errs.LockAcquire), fmt.Sprintf(
			"unable to acquire lock on file '%s/demo-%s%s.lock': Resource temporarily unavailable", d.Path, typ, key), command)
		if err := l.SetProgress(typ, 1, 500, 2000); err != nil {
			t.Error(err)
		}
		release(t, l)
	}
	p.want(t, int(errs.DbConnect), "", "stanza-create") // no lock, only no server

	// info asks for the locks only of stanzas that are whole.
	for name, content := range map[string][]byte{"archive": archiveInfo, "backup": backupInfo} {
		if err := os.WriteFile(filepath.Join(p.dir, "repo", name, "demo", name+".info"), content, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	l := acquire(t, d, "demo", backup, 1)
	if err := l.SetProgress(lock.Backup, 1, 500, 2000); err != nil {
		t.Fatal(err)
	}
	out, err := p.command("--repo1-path="+p.dir+"/repo", "--output=json", "info").Output()
	var info []struct {
		Status struct {
			Lock struct{ Backup json.RawMessage }
		}
	}
	if err == nil {
		err = json.Unmarshal(out, &info)
	}
	if err != nil || len(info) != 1 || string(info[0].Status.Lock.Backup) != progress {
		t.Errorf("error %v, want %s in\n%s", err, progress, out)
	}
	release(t, l)
}

// theirs has a pgbackrest hold its locks while it waits for a server that accepts
// connections and says nothing.
func (p peer) theirs(t *testing.T, d lock.Dir, key string, repo int) {
	server, err := net.Listen("unix", filepath.Join(p.dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }() // nothing was said
	cmd := p.command(p.work("stanza-create")...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	conn, err := server.Accept() // it has its locks now
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // nothing was said
	go func() { ended <- cmd.Wait() }()

	isHeld(t, d, d.Path+"/demo-backup"+key+".lock", backup, 1)
	isHeld(t, d, d.Path+"/demo-archive"+key+".lock", all, 1)
	if h, held := d.Held("demo", lock.Backup, repo); !held || h.PID != cmd.Process.Pid {
		t.Errorf("holder %+v, held %t", h, held)
	}
	holders, unread, err := d.Holders("demo")
	if err != nil || len(holders) != 1 || holders[0].PID != cmd.Process.Pid || unread != nil {
		t.Errorf("holders %v, unread %v, error %v", holders, unread, err)
	}
	acquire(t, d, "other", all, 1)

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	release(t, acquire(t, d, "demo", all, 1)) // its files are still there
}

func (p peer) stopFiles(t *testing.T, d lock.Dir) {
	for stanza, message := range map[string]string{"demo": "stop file exists for stanza demo", "": "stop file exists for all stanzas"} {
		if made, err := d.Stop(t.Context(), stanza); err != nil || !made {
			t.Errorf("stop: %t, error %v", made, err)
		}
		p.want(t, int(errs.Stop), message, "backup", "stanza-create")
		if removed, err := d.Start(stanza); err != nil || !removed {
			t.Errorf("start: %t, error %v", removed, err)
		}
	}
	if code, out := p.run(t, "stop"); code != 0 {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if err := d.Stopped("demo"); err == nil || err.Error() != "stop file exists for stanza demo" {
		t.Errorf("error %v", err)
	}
	if made, err := d.Stop(t.Context(), "demo"); err != nil || made {
		t.Errorf("stop: %t, error %v", made, err)
	}
	if code, out := p.run(t, "start"); code != 0 || strings.Contains(out, "does not exist") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if err := d.Stopped("demo"); err != nil {
		t.Error(err)
	}
}

func (p peer) stopForce(t *testing.T, d lock.Dir) {
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, syscall.SIGTERM)
	defer signal.Stop(terms)
	l := acquire(t, d, "demo", backup, 1)
	message := fmt.Sprintf("sent term signal to process %d", os.Getpid())
	if code, out := p.run(t, "--force", "stop"); code != 0 || !strings.Contains(out, message) || strings.Contains(out, "WARN") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	<-terms
	release(t, l) // the files are gone already
	if _, err := d.Start("demo"); err != nil {
		t.Error(err)
	}
	if got := dirNames(t, d.Path); got != "" {
		t.Errorf("left are %s", got)
	}
}
