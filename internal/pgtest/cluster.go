package pgtest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Options says what a cluster is like. The zero value is PostgreSQL 15 with 16 MB
// segments and without checksums.
type Options struct {
	Major      int
	WALSegSize int // MB, a power of two from 1 to 1024
	Checksums  bool
	// OwnSystemID runs initdb for this cluster alone. Else clusters of the same
	// options are copies of one template and share its system identifier.
	OwnSystemID bool
	// Config is added to postgresql.conf; values are quoted here.
	Config map[string]string
	// Host is where the server runs, by default this machine. There it has Debian's
	// names and port.
	Host Host
}

// Host is a place with processes, files and a network of its own, such as namespaces.
// Servers run in it, clients and tests outside.
type Host interface {
	// Path gives the name that a directory of the host has outside.
	Path(name string) string
	// Program prepares a program to run on the host as Owner.
	Program(name string, args ...string) *exec.Cmd
	// Start starts what Program prepared; it dies with the host.
	Start(*exec.Cmd) error
}

// Cluster is a PostgreSQL cluster of one test. Its methods fail the test on errors,
// so they are for the test's own goroutine.
type Cluster struct {
	Major     int
	BinDir    string // of the server's programs
	PGDATA    string
	SocketDir string // no TCP, unless Config says so
	Port      int
	LogFile   string // what the server says

	t       testing.TB
	host    Host
	data    string // PGDATA and SocketDir as the server knows them
	sockets string
	process *os.Process
	exited  chan struct{} // closed when the server process has ended
}

// New makes a cluster; Start starts it. Superuser and database are postgres, every
// connection is trusted. When the test ends the server is stopped and the files are
// removed.
func New(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Major == 0 {
		o.Major = 15
	}
	var c *Cluster
	if o.Host == nil {
		c = Attach(t, o.Major, filepath.Join(Dir(t), "data"))
	} else {
		c = onHost(t, o.Major, o.Host)
	}
	if o.OwnSystemID {
		initdb(t, o, c.PGDATA)
	} else {
		run(t, exec.Command("cp", "-a", "--reflink=auto", template(t, o), c.PGDATA))
	}
	c.Configure(map[string]string{
		"listen_addresses": "", "shared_buffers": "16MB", "fsync": "off", "log_line_prefix": "%m [%p] ",
	})
	c.Configure(o.Config)
	return c
}

// Attach makes a Cluster of a data directory that is there already or will be, such
// as a restored one. It gets a port and a socket directory of its own, whatever its
// configuration says. The directory is the caller's to remove.
func Attach(t testing.TB, major int, pgdata string) *Cluster {
	t.Helper()
	dir := Dir(t)
	return tended(&Cluster{
		Major: major, BinDir: BinDir(t, major), PGDATA: pgdata, SocketDir: dir, Port: freePort(t),
		LogFile: filepath.Join(dir, "log"), t: t, data: pgdata, sockets: dir,
	})
}

// onHost makes a Cluster without a data directory on a host, which has one server of
// each major at most and one that runs.
func onHost(t testing.TB, major int, h Host) *Cluster {
	t.Helper()
	parent, sockets := fmt.Sprintf("/var/lib/postgresql/%d", major), "/run/postgresql"
	data := filepath.Join(parent, "main")
	if err := os.Mkdir(h.Path(parent), 0o755); err != nil {
		t.Fatal(err)
	}
	uid, gid := Owner(t)
	if err := os.Chown(h.Path(parent), uid, gid); err != nil {
		t.Fatal(err)
	}
	return tended(&Cluster{
		Major: major, BinDir: BinDir(t, major), PGDATA: h.Path(data), SocketDir: h.Path(sockets), Port: 5432,
		LogFile: h.Path(fmt.Sprintf("/var/log/postgresql-%d.log", major)), t: t, host: h, data: data, sockets: sockets,
	})
}

// tended stops the server when the test ends, and shows what it said if that failed.
func tended(c *Cluster) *Cluster {
	t := c.t
	t.Cleanup(func() {
		if c.Running() {
			c.Stop(Immediate)
		}
		if t.Failed() {
			t.Logf("log of the PostgreSQL %d server:\n%s", c.Major, tail(c.Log(), 4000))
		}
	})
	return c
}

// template gives a data directory to copy, made once per major and options.
func template(t testing.TB, o Options) string {
	t.Helper()
	version, err := exec.Command(filepath.Join(BinDir(t, o.Major), "postgres"), "-V").Output()
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := Owner(t)
	key := sha256.Sum256(fmt.Appendf(nil, "%s %s", version, initdbArgs(o)))
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("pgx-pgtest-%d-%d-%x", uid, o.Major, key[:6]))
	// One maker at a time, also among processes.
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	made := filepath.Join(Dir(t), "data")
	initdb(t, o, made)
	run(t, exec.Command("cp", "-a", made, dir+".new")) // the two may be on different file systems
	if err := os.Rename(dir+".new", dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func initdbArgs(o Options) []string {
	args := []string{"-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"}
	switch {
	case o.Checksums:
		args = append(args, "-k")
	case o.Major >= 18: // where checksums are the default
		args = append(args, "--no-data-checksums")
	}
	if o.WALSegSize != 0 {
		args = append(args, "--wal-segsize="+strconv.Itoa(o.WALSegSize))
	}
	return args
}

func initdb(t testing.TB, o Options, pgdata string) {
	t.Helper()
	run(t, Command(t, filepath.Join(BinDir(t, o.Major), "initdb"), append(initdbArgs(o), "-D", pgdata)...))
}

func run(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// Configure adds settings to postgresql.conf. A running server has to Reload.
func (c *Cluster) Configure(settings map[string]string) {
	c.t.Helper()
	f, err := os.OpenFile(filepath.Join(c.PGDATA, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for name, value := range settings {
		if _, err := fmt.Fprintf(f, "%s = '%s'\n", name, strings.ReplaceAll(value, "'", "''")); err != nil {
			c.t.Fatal(err)
		}
	}
}

// Reload makes the server read its configuration again and waits until it has.
func (c *Cluster) Reload() {
	c.t.Helper()
	before := c.QueryValue("select pg_conf_load_time()::text")
	c.Exec("select pg_reload_conf()")
	Eventually(c.t, "reload of the configuration", func() bool {
		return c.QueryValue("select pg_conf_load_time()::text") != before
	})
}

// Start starts the server and waits until it takes connections.
func (c *Cluster) Start() {
	c.t.Helper()
	if err := c.TryStart(); err != nil {
		c.t.Fatal(err)
	}
}

// TryStart is Start for a server that may refuse; the error holds its log.
func (c *Cluster) TryStart() error {
	c.t.Helper()
	if c.Running() {
		return errors.New("the server is running already")
	}
	log, err := os.OpenFile(c.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	program, args := filepath.Join(c.BinDir, "postgres"), []string{"-D", c.data, "-p", strconv.Itoa(c.Port), "-k", c.sockets}
	if c.host != nil {
		return c.start(c.host.Program(program, args...), log, c.host.Start)
	}
	cmd := Command(c.t, program, args...)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// Should this process die without cleaning up, the server goes too: at once, and
	// by itself. The signal comes when the thread that started it ends, so that thread
	// belongs to the goroutine which waits for the server.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	return c.start(cmd, log, (*exec.Cmd).Start)
}

// start starts the server and waits until it takes connections.
func (c *Cluster) start(cmd *exec.Cmd, log *os.File, start func(*exec.Cmd) error) error {
	cmd.Stdout, cmd.Stderr = log, log
	started, exited := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := start(cmd)
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(exited)
	}()
	if err := <-started; err != nil {
		return err
	}
	c.process, c.exited = cmd.Process, exited
	if !wait(func() bool { return c.ready() || !c.Running() }) || !c.Running() {
		return fmt.Errorf("PostgreSQL %d did not start:\n%s", c.Major, tail(c.Log(), 4000))
	}
	return nil
}

// ready looks where pg_ctl looks: the server writes its state into the eighth line.
func (c *Cluster) ready() bool {
	b, err := os.ReadFile(filepath.Join(c.PGDATA, "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 8 || lines[0] != c.ownPid() {
		return false
	}
	state := strings.TrimSpace(lines[7])
	return state == "ready" || state == "standby"
}

// ownPid gives the process id of the postmaster as it sees it itself.
func (c *Cluster) ownPid() string {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.process.Pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(status)) {
		if ids, found := strings.CutPrefix(line, "NSpid:"); found { // one for each namespace it is in
			all := strings.Fields(ids)
			return all[len(all)-1]
		}
	}
	return strconv.Itoa(c.process.Pid)
}

// Running says whether the server process is there.
func (c *Cluster) Running() bool {
	if c.exited == nil {
		return false
	}
	select {
	case <-c.exited:
		return false
	default:
		return true
	}
}

// Pid gives the process id of the postmaster.
func (c *Cluster) Pid() int { return c.process.Pid }

// Mode is how Stop ends a server: the signal it gets.
type Mode syscall.Signal

// Fast rolls back and writes a checkpoint; Immediate leaves all to recovery.
const (
	Fast      = Mode(syscall.SIGINT)
	Immediate = Mode(syscall.SIGQUIT)
)

// Stop ends the server and waits for it.
func (c *Cluster) Stop(how Mode) {
	c.t.Helper()
	if err := c.process.Signal(syscall.Signal(how)); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.t.Fatal(err)
	}
	select {
	case <-c.exited:
	case <-time.After(time.Minute):
		_ = c.process.Kill()
		<-c.exited
		c.t.Errorf("the PostgreSQL %d server did not stop within a minute and was killed", c.Major)
	}
}

// Kill ends the server and its processes with SIGKILL, as a crash of the machine
// would, and waits until they are gone.
func (c *Cluster) Kill() {
	c.t.Helper()
	// Stopped it starts no more of them.
	if err := c.process.Signal(syscall.SIGSTOP); err != nil {
		c.t.Fatal(err)
	}
	Eventually(c.t, "the server to stop", func() bool {
		stat := procStat(strconv.Itoa(c.process.Pid))
		return len(stat) > 0 && strings.Contains("TZ", stat[0])
	})
	children := c.children()
	defer func() {
		for _, fd := range children {
			_ = unix.Close(fd)
		}
	}()
	if err := c.process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	<-c.exited
	for pid, fd := range children {
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			c.t.Fatalf("process %d: %v", pid, err)
		}
		gone := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(gone, 60_000); n != 1 || err != nil {
			c.t.Fatalf("process %d of the killed server is still there: %v", pid, err)
		}
	}
}

// children gives a handle for each process of the server but the postmaster.
func (c *Cluster) children() map[int]int {
	c.t.Helper()
	found := map[int]int{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		c.t.Fatal(err)
	}
	parent := strconv.Itoa(c.process.Pid)
	for _, dir := range dirs {
		stat := procStat(filepath.Base(dir))
		if len(stat) < 2 || stat[1] != parent {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			found[pid] = fd
		}
	}
	return found
}

// procStat gives what the kernel tells of a process, from its state and its parent on; nothing if there is
// no such process.
func procStat(pid string) []string {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return nil
	}
	// "pid (name) state ppid …", and the name may hold anything.
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

// Log gives all the server has said.
func (c *Cluster) Log() string {
	b, err := os.ReadFile(c.LogFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		c.t.Error(err)
	}
	return string(b)
}

// Exec runs SQL statements, each in a transaction of its own, in the database
// postgres as the superuser.
func (c *Cluster) Exec(sql string) {
	c.t.Helper()
	c.psql(sql)
}

// Query runs SQL statements of which one gives rows, and gives these: each value as
// text, null as "".
func (c *Cluster) Query(sql string) [][]string {
	c.t.Helper()
	var rows [][]string
	for line := range strings.SplitSeq(c.psql(sql), "\x1e") {
		if line != "" {
			rows = append(rows, strings.Split(line, "\x1f"))
		}
	}
	return rows
}

// QueryValue runs SQL statements that give one row of one column.
func (c *Cluster) QueryValue(sql string) string {
	c.t.Helper()
	out := strings.TrimSuffix(c.psql(sql), "\x1e")
	if strings.ContainsAny(out, "\x1e\x1f") {
		c.t.Fatalf("%s: one value expected, got %q", sql, out)
	}
	return out
}

// psql reads its statements from standard input: given with -c they would be one
// transaction, in which no database and no tablespace can be made.
func (c *Cluster) psql(sql string) string {
	c.t.Helper()
	cmd := c.Command("psql", "-XAtq", "-F", "\x1f", "-R", "\x1e", "-v", "ON_ERROR_STOP=1", "-f", "-")
	cmd.Stdin = strings.NewReader(sql)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("%s: %v\n%s", sql, err, errOut.String())
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// Command prepares a client program such as psql or pgbench that runs as Owner and
// connects to this cluster as the superuser.
func (c *Cluster) Command(name string, args ...string) *exec.Cmd {
	c.t.Helper()
	cmd := Command(c.t, Tool(c.t, c.Major, name), args...)
	cmd.Env = slices.Concat(cmd.Env, []string{
		"PGHOST=" + c.SocketDir, "PGPORT=" + strconv.Itoa(c.Port), "PGUSER=postgres", "PGDATABASE=postgres",
	})
	return cmd
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}
