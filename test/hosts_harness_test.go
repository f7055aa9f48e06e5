package test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestHostsHarness: hosts are what tests take them for, their faults are faults, and
// nothing of them stays.
func TestHostsHarness(t *testing.T) {
	spaces := map[string]bool{} // "net:[4026532000]"
	var dir string
	t.Run("network", func(t *testing.T) {
		begin := time.Now()
		n := newNetwork(t)
		dir = n.dir
		repo, db1, db2 := n.host("repo", "pgbackrest"), n.host("db1", "postgres"), n.host("db2", "postgres")
		t.Logf("three hosts took %s", time.Since(begin))
		for _, s := range []*space{n.wire, repo.space, db1.space, db2.space} {
			for _, kind := range []string{"net", "mnt", "pid", "uts", "ipc"} {
				own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", s.holder.Process.Pid, kind))
				if err != nil {
					t.Fatal(err)
				}
				if ours, err := os.Readlink("/proc/self/ns/" + kind); err != nil {
					t.Fatal(err)
				} else if ours != own {
					spaces[own] = true
				}
			}
		}
		if len(spaces) != 1+3*5 {
			t.Errorf("the network has the namespaces %v", spaces)
		}
		join(repo, db1)
		join(repo, db2)
		t.Run("hosts", func(t *testing.T) { separate(t, repo.in(t), db1.in(t)) })
		t.Run("faults", func(t *testing.T) { faults(t, repo.in(t), db1.in(t), db2.in(t)) })
		t.Run("server", func(t *testing.T) { server(t, db2.in(t)) })
		for _, h := range []*host{repo, db1, db2} {
			h.idle()
		}
		// What nobody ends ends with the test.
		db1.begin("sleep", "1000")
		db2.must("sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &")
		if got := db2.processes(); len(got) != 1 {
			t.Errorf("on host 'db2' there are %v", got)
		}
	})
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("%v, the machine has the mounts\n%s", err, mounts)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	// A thread that was inside takes a moment to end.
	pgtest.Eventually(t, "the end of the namespaces", func() bool {
		all, err := filepath.Glob("/proc/[0-9]*/task/*/ns/*")
		return err == nil && len(all) > 0 && !slices.ContainsFunc(all, func(name string) bool {
			space, err := os.Readlink(name)
			return err == nil && spaces[space]
		})
	})
}

// separate: a host has names, files and processes of its own, and accounts that can log in.
func separate(t *testing.T, repo, db1 *host) {
	if got := repo.must("hostname") + db1.must("hostname"); got != "repo\ndb1\n" {
		t.Errorf("the host names are %q", got)
	}
	repo.write("/etc/pgbackrest/pgbackrest.conf", "[global]\n", 0o640)
	if got := repo.must("stat", "-c", "%U %a", "/etc/pgbackrest/pgbackrest.conf"); got != "pgbackrest 640\n" {
		t.Errorf("the file is of %q", got)
	}
	if repo.read("/etc/pgbackrest/pgbackrest.conf") != "[global]\n" || db1.exists("/etc/pgbackrest/pgbackrest.conf") || db1.exists("/etc/pgbackrest.conf") {
		t.Error("a file is where it should not be")
	}
	if got := db1.must("sh", "-c", "echo $$ && cat /proc/$$/comm && id -un && echo $HOME && pwd"); len(got) > 60 || !strings.HasSuffix(got, "\nsh\npostgres\n/var/lib/postgresql\n/var/lib/postgresql\n") {
		t.Errorf("a login sees\n%s", got)
	}
	ours, err := os.ReadFile(pgxPath())
	if err != nil || repo.read("/usr/local/bin/pgx") != string(ours) || repo.read(pgxPath()) != string(ours) {
		t.Error("pgx is not the program under test")
	}
	if got := repo.must("pgbackrest", "version"); got != "pgBackRest 2.60.0\n" {
		t.Errorf("pgbackrest is %q", got)
	}
	repo.must("pgx", "version")
	repo.must(dropIn(), "version")
	db1.fails(127, "pgy", "pgy")

	if got := repo.must("ssh", "postgres@db1", "hostname; id -un; command -v pgx"); got != "db1\npostgres\n/usr/local/bin/pgx\n" {
		t.Errorf("a login from 'repo' to 'db1' says %q", got)
	}
	if got := db1.must("ssh", "pgbackrest@repo", "hostname; id -un"); got != "repo\npgbackrest\n" {
		t.Errorf("a login from 'db1' to 'repo' says %q", got)
	}
	db1.fails(255, "Permission denied (publickey", "ssh", "-o", "BatchMode=yes", "root@repo", "true")
	db1.fails(255, "Host key verification failed", "ssh", "-o", "BatchMode=yes", "postgres@db2", "true")
}

// faults: each fault is seen, mend ends it.
func faults(t *testing.T, repo, db1, db2 *host) {
	ssh := func(more ...string) []string {
		return append([]string{"ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=1"}, more...)
	}
	fine := func() {
		t.Helper()
		repo.must("ssh", "-o", "BatchMode=yes", "postgres@db1", "true")
	}
	talk := newTalk(repo, ssh("postgres@db1", "cat")...)
	talk.says("before")
	db1.cut()
	talk.silent()
	repo.fails(255, "timed out", ssh("postgres@db1", "true")...)
	repo.must("ssh", "postgres@db2", "true")
	dead := repo.begin("ssh", "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1", "postgres@db2", "sleep 1000")
	orphan := sleeper(db2)
	db2.cut()
	if o := dead.end(20 * time.Second); o.code != 255 {
		t.Errorf("ssh over a cut link exits with %d\n%s", o.code, o.all())
	}
	db1.mend()
	db2.mend()
	db2.signal(orphan, 15)
	talk.hears("during")
	talk.says("after")
	talk.close()

	db1.drop(22)
	repo.fails(255, "timed out", ssh("postgres@db1", "true")...)
	db1.mend()
	db1.reject(22)
	repo.fails(255, "Connection refused", ssh("postgres@db1", "true")...)
	db1.mend()
	db1.lossy(100)
	repo.fails(255, "timed out", ssh("postgres@db1", "true")...)
	db1.mend()
	fine()

	begin := time.Now()
	db1.slow("4mbit")
	repo.must("sh", "-c", "head -c 250000 /dev/zero | ssh postgres@db1 cat >/dev/null")
	if took := time.Since(begin); took < 400*time.Millisecond {
		t.Errorf("250 kB at 4 Mbit/s took only %s", took)
	}
	db1.mend()

	db1.stopSSHD()
	repo.fails(255, "Connection refused", ssh("postgres@db1", "true")...)
	db1.startSSHD()
	fine()
	session := repo.begin("ssh", "postgres@db1", "sleep 1000")
	pid := sleeper(db1)
	state := func() string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(b))[2]
	}
	db1.freeze(pid)
	pgtest.Eventually(t, "the process to freeze", func() bool { return state() == "T" })
	db1.thaw(pid)
	pgtest.Eventually(t, "the process to thaw", func() bool { return state() == "S" })
	if n := db1.killSessions(); n < 2 {
		t.Errorf("%d processes of sshd were killed", n)
	}
	if o := session.end(20 * time.Second); o.code != 255 {
		t.Errorf("ssh to a killed sshd exits with %d\n%s", o.code, o.all())
	}
	db1.signal(pid, 15)
	fine()
}

// sleeper waits for "sleep 1000" on a host and gives its process id.
func sleeper(h *host) (pid int) {
	h.Helper()
	pgtest.Eventually(h.T, "the session on host '"+h.name+"'", func() bool {
		for _, p := range h.processes() {
			if p.args == "sleep 1000" {
				pid = p.pid
			}
		}
		return pid != 0
	})
	return pid
}

// server: a cluster on a host has the names of Debian there, and is reached from outside.
func server(t *testing.T, db *host) {
	c := db.cluster(pgtest.Options{Major: 15})
	c.Start()
	if got := c.QueryValue(`show data_directory`); got != "/var/lib/postgresql/15/main" {
		t.Errorf("the data directory is %s", got)
	}
	if got := db.must("psql", "-XAtc", "select 1 + 1"); got != "2\n" {
		t.Errorf("psql says %q", got)
	}
	c.Kill()
	c.Start()
	c.Exec(`checkpoint`)
	c.Stop(pgtest.Fast)
}

// talk is an echo at the other end of a line.
type talk struct {
	*host
	in, out *os.File
	answers *bufio.Reader
	cmd     *command
}

func newTalk(h *host, args ...string) *talk {
	h.Helper()
	k := &talk{host: h, cmd: h.command(args...)}
	theirIn, in, err := os.Pipe()
	if err != nil {
		h.Fatal(err)
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		h.Fatal(err)
	}
	k.cmd.Stdin, k.cmd.Stdout, k.in, k.out, k.answers = theirIn, theirOut, in, out, bufio.NewReader(out)
	if err := k.cmd.Start(); err != nil {
		h.Fatal(err)
	}
	if err := errors.Join(theirIn.Close(), theirOut.Close()); err != nil {
		h.Fatal(err)
	}
	return k
}

func (k *talk) says(what string) {
	k.Helper()
	if _, err := io.WriteString(k.in, what+"\n"); err != nil {
		k.Error(err)
	}
	k.hears(what)
}

func (k *talk) hears(what string) {
	k.Helper()
	if err := k.out.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		k.Fatal(err)
	}
	if got, err := k.answers.ReadString('\n'); got != what+"\n" {
		k.Errorf("the answer to %q is %q, %v", what, got, err)
	}
}

// silent: "during" is said, and not answered.
func (k *talk) silent() {
	k.Helper()
	if _, err := io.WriteString(k.in, "during\n"); err != nil {
		k.Error(err)
	}
	if err := k.out.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		k.Fatal(err)
	}
	if got, err := k.answers.ReadString('\n'); !errors.Is(err, os.ErrDeadlineExceeded) {
		k.Errorf("over a cut link came %q, %v", got, err)
	}
}

func (k *talk) close() {
	k.Helper()
	if err := errors.Join(k.in.Close(), k.cmd.Wait(), k.out.Close()); err != nil {
		k.Error(err)
	}
}
