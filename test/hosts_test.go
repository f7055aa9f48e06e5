package test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// network is a set of hosts joined by a switch. It consists of namespaces without names,
// which are held by processes that die with this one, however it ends: nothing can be left,
// and networks do not meet.
type network struct {
	*testing.T
	dir      string
	wire     *space // the switch
	machines []*machine
}

// newNetwork makes a network without hosts, which is gone when the test ends.
func newNetwork(t *testing.T) *network {
	t.Helper()
	needsRoot(t)
	for _, tool := range []string{"sshd", "ssh", "ssh-keygen", "ip", "iptables", "tc"} {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		} else if os.Getenv("PGX_TEST_SHORT") != "" {
			t.Skip(err)
		} else {
			t.Fatalf("%v: run test/setup.sh", err)
		}
	}
	wire, err := hold(unix.CLONE_NEWNET)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSPC) {
		t.Skipf("no namespaces can be made here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	n := &network{T: t, dir: pgtest.Dir(t), wire: wire}
	t.Cleanup(wire.release)
	n.ip(wire, "link add br0 type bridge", "link set br0 up")
	return n
}

// ip runs commands of ip(8) in namespaces.
func (n *network) ip(in *space, commands ...string) {
	n.Helper()
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n"))
	if err := in.do(func() error { return combined(cmd) }); err != nil {
		n.Fatal(err)
	}
}

func combined(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

// machine is a host of a network: with network, processes and host name of its own, and
// with files of its own in the directories that private lists. All else is that of the
// machine the test runs on, with the tests' programs.
type machine struct {
	*space
	net        *network
	name, addr string
	port       string // the interface of the switch its cable is in
	dir        string // what is private; see path
	sshd       *command

	mu      sync.Mutex
	started []*command
	repairs []func() // what undoes the faults of its link
}

// host is a machine as one of its users. By default that is the one it was made for.
type host struct {
	*testing.T
	*machine
	user string
}

// private are the directories that each host has for itself. They exist on every Linux, so
// that none has to be made to mount on; /tmp is last because it hides what the others are
// mounted from.
var private = []string{"/etc", "/var", "/run", "/home", "/root", "/usr/local/bin", "/tmp"}

// system is what a host's /etc has from the machine's. The rest is secret, or about the
// programs under test, or of no use.
var system = []string{"adduser.conf", "alternatives", "bash.bashrc", "debian_version", "default", "deluser.conf", "environment", "group",
	"host.conf", "iproute2", "ld.so.*", "localtime", "login.defs", "mtab", "nsswitch.conf", "os-release", "pam.conf", "pam.d", "passwd",
	"profile", "profile.d", "protocols", "security", "services", "shells", "skel", "subgid", "subuid", "systemd", "timezone"}

// host adds a host that runs an OpenSSH server on port 22. The directories of pgx and
// pgbackrest that exist there belong to user, which is postgres where a server runs
// and pgbackrest on a repository host. "pgx" is the program under test, "pgbackrest" is
// pgbackrest 2.60; pgxPath and dropIn work too.
func (n *network) host(name, user string) *host {
	n.Helper()
	number := len(n.machines) + 1
	held, err := hold(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC)
	if err != nil {
		n.Fatal(err)
	}
	m := &machine{
		space: held, net: n, name: name, addr: fmt.Sprintf("10.77.0.%d", number), port: fmt.Sprintf("port%d", number),
		dir: filepath.Join(n.dir, name),
	}
	n.machines = append(n.machines, m)
	h := &host{n.T, m, user}
	n.Cleanup(h.gone)
	if err := m.furnish(user); err != nil {
		n.Fatal(err)
	}
	for _, a := range n.machines {
		for _, b := range n.machines {
			if a == m || b == m { // each once
				a.knows(b)
			}
		}
	}
	n.ip(n.wire, fmt.Sprintf("link add %s type veth peer name eth0 netns %d", m.port, held.holder.Process.Pid),
		fmt.Sprintf("link set %s up master br0", m.port))
	n.ip(held, "link set lo up", fmt.Sprintf("addr add %s/24 dev eth0", m.addr), "link set eth0 up")
	root := h.as("root")
	if err := held.do(m.mount); err != nil {
		n.Fatal(err)
	}
	// By a process of the host: it shows those that the process sees.
	root.must("mount", "-t", "proc", "proc", "/proc")
	for _, kind := range []string{"ed25519", "ecdsa"} {
		root.must("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", name, "-f", "/etc/ssh/ssh_host_"+kind+"_key")
	}
	h.startSSHD()
	return h
}

// furnish makes the private files, from outside.
func (m *machine) furnish(user string) error {
	for _, name := range private {
		if err := os.MkdirAll(m.path(name), 0o755); err != nil {
			return err
		}
	}
	cp := []string{"-a", "-t", m.path("/etc")}
	for _, name := range system {
		found, err := filepath.Glob(filepath.Join("/etc", name))
		if err != nil {
			return err
		}
		cp = append(cp, found...)
	}
	if err := combined(exec.Command("cp", cp...)); err != nil {
		return err
	}
	if err := m.accounts(); err != nil {
		return err
	}
	for _, d := range []struct {
		path, user string
		mode       fs.FileMode
	}{
		{"/tmp", "root", 0o777 | fs.ModeSticky},
		{"/var/tmp", "root", 0o777 | fs.ModeSticky},
		{"/root", "root", 0o700},
		{"/home/pgbackrest", "pgbackrest", 0o755},
		{"/etc/ssh", "root", 0o755},
		{"/etc/pgbackrest", "root", 0o755},
		{"/etc/pgx", "root", 0o755},
		{"/run/sshd", "root", 0o755},
		{"/run/lock", "root", 0o777 | fs.ModeSticky},
		{"/run/postgresql", "postgres", 0o775},
		{"/var/lib/postgresql", "postgres", 0o755},
		{"/var/lib/pgbackrest", user, 0o750},
		{"/var/lib/pgx", user, 0o750},
		{"/var/log/pgbackrest", user, 0o770},
		{"/var/spool/pgbackrest", user, 0o750},
		{"/tmp/pgbackrest", user, 0o770},
	} {
		u, err := m.account(d.user)
		if err == nil {
			err = os.MkdirAll(m.path(d.path), 0o755)
		}
		if err == nil {
			err = os.Chown(m.path(d.path), int(u.uid), int(u.gid))
		}
		if err == nil {
			err = os.Chmod(m.path(d.path), d.mode)
		}
		if err != nil {
			return err
		}
	}
	for _, link := range [][2]string{{"/run", "/var/run"}, {"/run/lock", "/var/lock"}, {pgtest.Reference(m.net), "/usr/local/bin/pgbackrest"}} {
		if err := os.Symlink(link[0], m.path(link[1])); err != nil {
			return err
		}
	}
	if err := combined(exec.Command("cp", "--reflink=auto", pgxPath(), m.path("/usr/local/bin"))); err != nil {
		return err
	}
	for path, content := range map[string]string{
		"/etc/hostname": m.name + "\n", "/etc/hosts": "127.0.0.1 localhost\n", "/etc/resolv.conf": "",
		// All that is not said is as sshd has it by default.
		"/etc/ssh/sshd_config": "HostKey /etc/ssh/ssh_host_ed25519_key\nHostKey /etc/ssh/ssh_host_ecdsa_key\n" +
			"PidFile /run/sshd/sshd.pid\nUsePAM no\nLogLevel VERBOSE\nSubsystem sftp /usr/lib/openssh/sftp-server\n",
	} {
		if err := os.WriteFile(m.path(path), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// knows enters another host, or this one, into /etc/hosts.
func (m *machine) knows(other *machine) {
	m.net.Helper()
	f, err := os.OpenFile(m.path("/etc/hosts"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = fmt.Fprintf(f, "%s %s\n", other.addr, other.name)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		m.net.Fatal(err)
	}
}

// mount runs in the namespaces of the machine.
func (m *machine) mount() error {
	if err := unix.Sethostname([]byte(m.name)); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// What a server leaves in shared memory when it is killed goes with the host.
	if err := unix.Mount("shm", "/dev/shm", "tmpfs", 0, "mode=1777"); err != nil {
		return err
	}
	for _, shown := range []string{bin, pgtest.Home()} {
		if slices.ContainsFunc(private, func(dir string) bool { return strings.HasPrefix(shown, dir+"/") }) {
			if err := os.MkdirAll(m.path(shown), 0o755); err != nil {
				return err
			}
			if err := unix.Mount(shown, m.path(shown), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
				return fmt.Errorf("mount %s: %w", shown, err)
			}
		}
	}
	for _, dir := range private {
		if err := unix.Mount(m.path(dir), dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	return nil
}

// path gives the name that a file in a private directory has outside. It does not follow
// links there.
func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

// account is a user of a host.
type account struct {
	uid, gid uint32
	home     string
}

// accounts adds the user pgbackrest, and gives everyone a password that nobody knows:
// sshd lets nobody in whose account is locked.
func (m *machine) accounts() error {
	passwd, err := os.ReadFile(m.path("/etc/passwd"))
	if err != nil {
		return err
	}
	if _, err := m.account("pgbackrest"); err != nil {
		const id = 47077
		for path, line := range map[string]string{
			"/etc/passwd": fmt.Sprintf("pgbackrest:x:%d:%d::/home/pgbackrest:/bin/bash\n", id, id),
			"/etc/group":  fmt.Sprintf("pgbackrest:x:%d:\n", id),
		} {
			old, err := os.ReadFile(m.path(path))
			if err == nil {
				err = os.WriteFile(m.path(path), append(old, line...), 0o644)
			}
			if err != nil {
				return err
			}
		}
		passwd = append(passwd, "pgbackrest:"...)
	}
	var shadow bytes.Buffer
	for line := range strings.Lines(string(passwd)) {
		name, _, _ := strings.Cut(line, ":")
		fmt.Fprintf(&shadow, "%s:*:20000:0:99999:7:::\n", name)
	}
	return os.WriteFile(m.path("/etc/shadow"), shadow.Bytes(), 0o600)
}

// account looks a user up in the host's own table.
func (m *machine) account(name string) (account, error) {
	passwd, err := os.ReadFile(m.path("/etc/passwd"))
	if err != nil {
		return account{}, err
	}
	for line := range strings.Lines(string(passwd)) {
		if f := strings.Split(line, ":"); f[0] == name && len(f) > 5 {
			a := account{home: f[5]}
			_, err := fmt.Sscan(f[2]+" "+f[3], &a.uid, &a.gid)
			return a, err
		}
	}
	return account{}, fmt.Errorf("host '%s' has no user '%s'", m.name, name)
}

// gone ends all of the host's processes, and with them the host.
func (h *host) gone() {
	if h.Failed() {
		if log, err := os.ReadFile(h.path("/var/log/sshd.log")); err == nil && len(log) > 0 {
			h.Logf("log of sshd on host '%s':\n%s", h.name, log[max(0, len(log)-4000):])
		}
	}
	if err := unix.PidfdSendSignal(h.pidfd, unix.SIGKILL, nil, 0); err != nil {
		h.Error(err)
	}
	// The holder is the last to go, but not before its parent has waited for each of those
	// that were put in from outside.
	h.mu.Lock()
	started := h.started
	h.mu.Unlock()
	for _, c := range started {
		_ = c.Wait()
	}
	h.release()
}

// space is a set of namespaces and the process that holds them.
type space struct {
	kinds  uintptr
	holder *exec.Cmd
	pidfd  int
	ended  chan struct{}
}

// hold makes namespaces. The holder dies with the thread that started it, which therefore
// waits for it. In a process namespace it is the first process: with it die all others, and
// children that lost their parent are its own, so it reaps them by not caring.
func hold(kinds uintptr) (*space, error) {
	s := &space{kinds: kinds, ended: make(chan struct{})}
	s.holder = exec.Command("/bin/sh", "-c", "trap '' CHLD; exec sleep infinity")
	s.holder.Dir = "/"
	s.holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: kinds, Pdeathsig: syscall.SIGKILL, PidFD: &s.pidfd}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.holder.Start()
		started <- err
		if err == nil {
			_ = s.holder.Wait()
		}
		close(s.ended)
	}()
	return s, <-started
}

// release ends the holder.
func (s *space) release() {
	_ = unix.PidfdSendSignal(s.pidfd, unix.SIGKILL, nil, 0)
	<-s.ended
	_ = unix.Close(s.pidfd)
}

// do calls f in the namespaces: what it opens, looks up, connects to and starts by itself,
// not by other goroutines, is there. It must not end the test.
func (s *space) do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		// There is no way back for the thread. It ends with the goroutine it is locked to.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // the first thread does not, so another one must do it
			result <- s.do(f)
			runtime.UnlockOSThread()
			return
		}
		err := errors.New("the function did not return")
		defer func() { result <- err }()
		if err = unix.Unshare(unix.CLONE_FS); err != nil { // which forbids to change the mount namespace
			return
		}
		if err = unix.Setns(s.pidfd, int(s.kinds)); err == nil {
			err = f()
		}
	}()
	return <-result
}
