// Package pgtest gives tests real PostgreSQL clusters that cost little, disturb
// nobody and are gone when the test ends. Only tests import it.
//
// The programs are where test/setup.sh put them, below $PGX_TEST_HOME (default
// /tmp/pgx-test), or where Debian's own packages are. A program that is not there fails
// the test; with PGX_TEST_SHORT set the test is skipped instead.
//
// When the test runs as root, servers run as the user postgres.
package pgtest

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Tested are the majors that every end-to-end test of PostgreSQL's behaviour covers.
func Tested() []int { return []int{13, 15, 17, 18} }

// Supported are all majors a server can be started of here: Tested and those of
// which only the server itself is to be had.
func Supported() []int { return []int{13, 14, 15, 16, 17, 18} }

// Majors gives those of want, by default Tested, that are installed. One that is
// missing fails the test, or is left out when PGX_TEST_SHORT is set.
func Majors(t testing.TB, want ...int) []int {
	t.Helper()
	if len(want) == 0 {
		want = Tested()
	}
	var found []int
	for _, major := range want {
		switch _, ok := binDir(major); {
		case ok:
			found = append(found, major)
		case os.Getenv("PGX_TEST_SHORT") == "":
			t.Fatalf("PostgreSQL %d is not installed: run test/setup.sh", major)
		}
	}
	return found
}

// BinDir gives the directory of the programs of a major. Of some majors it holds
// initdb, pg_ctl and postgres only.
func BinDir(t testing.TB, major int) string {
	t.Helper()
	dir, ok := binDir(major)
	if !ok {
		missing(t, fmt.Sprintf("PostgreSQL %d", major))
	}
	return dir
}

func binDir(major int) (string, bool) {
	n := strconv.Itoa(major)
	for _, dir := range []string{
		filepath.Join(Home(), "pg", n, "root/usr/lib/postgresql", n, "bin"),
		filepath.Join(Home(), "pg", n, "bin"),
		filepath.Join("/usr/lib/postgresql", n, "bin"),
	} {
		if executable(filepath.Join(dir, "postgres")) {
			return dir, true
		}
	}
	return "", false
}

// Tool gives a program that works with servers of the major, such as psql or
// pgbench: the major's own, else the one of the newest major that has it.
func Tool(t testing.TB, major int, name string) string {
	t.Helper()
	for _, m := range []int{major, 18, 17, 15} {
		if dir, ok := binDir(m); ok && executable(filepath.Join(dir, name)) {
			return filepath.Join(dir, name)
		}
	}
	missing(t, name)
	return ""
}

// Reference gives the path of the newest pgbackrest, which defines what is right.
func Reference(t testing.TB) string {
	t.Helper()
	return program(t, "pgbackrest 2.60", filepath.Join(Home(), "pg/18/root/usr/bin/pgbackrest"))
}

// Old gives the path of Debian's pgbackrest 2.45.
func Old(t testing.TB) string {
	t.Helper()
	return program(t, "pgbackrest 2.45", "/usr/bin/pgbackrest")
}

// Bouncer gives the path of pgbouncer.
func Bouncer(t testing.TB) string {
	t.Helper()
	return program(t, "pgbouncer", "/usr/sbin/pgbouncer")
}

func program(t testing.TB, name, path string) string {
	t.Helper()
	if !executable(path) {
		missing(t, name)
	}
	return path
}

func missing(t testing.TB, name string) {
	t.Helper()
	if os.Getenv("PGX_TEST_SHORT") != "" {
		t.Skipf("%s is not installed", name)
	}
	t.Fatalf("%s is not installed: run test/setup.sh", name)
}

// Home gives the directory that test/setup.sh fills.
func Home() string {
	if dir := os.Getenv("PGX_TEST_HOME"); dir != "" {
		return dir
	}
	return "/tmp/pgx-test"
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// Owner gives the numeric user and group that servers run as and that own their files.
func Owner(t testing.TB) (uid, gid int) {
	t.Helper()
	if os.Getuid() != 0 {
		return os.Getuid(), os.Getgid()
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatalf("tests run as root need the user postgres: %v", err)
	}
	uid, _ = strconv.Atoi(u.Uid)
	gid, _ = strconv.Atoi(u.Gid)
	return uid, gid
}

// Command prepares a program that runs as Owner in a directory Owner may read, in
// English and without the caller's PG variables.
func Command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") && !strings.HasPrefix(v, "LC_") && !strings.HasPrefix(v, "LANG") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C")
	uid, gid := Owner(t)
	if uid != os.Getuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	return cmd
}

// Dir makes a directory that belongs to Owner, with a path short enough for sockets
// (107 bytes). It is removed when the test ends.
func Dir(t testing.TB) string {
	t.Helper()
	// Not t.TempDir: the names of tests are long, and its parents are closed to Owner.
	dir, err := os.MkdirTemp("/tmp", "pgt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	uid, gid := Owner(t)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Eventually waits until the condition holds and fails the test after a minute.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	if !wait(condition) {
		t.Fatalf("waited in vain: %s", what)
	}
}

func wait(condition func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		if condition() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}
