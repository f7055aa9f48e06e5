// Package sshtest gives tests a real sshd with its own keys and files, on a free port of
// this machine or in a network namespace. It is gone when the test ends. Only tests
// import it.
//
// sshd, ssh-keygen and their like are the machine's; where they are missing the test fails,
// or is skipped when PGX_TEST_SHORT is set. As root sshd lets any user log in, else the
// current one only.
package sshtest

import (
	"bytes"
	"fmt"
	"net"
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

// Options says what an sshd is like. The zero value listens on a free port of 127.0.0.1 and
// has one host key.
type Options struct {
	Address      string   // to listen on
	Port         int      // 0: a free one of this network namespace
	HostKeyTypes []string // as ssh-keygen -t has them; default ed25519
	Config       []string // lines for sshd_config; they win over those made here
	Prefix       []string // put before sshd, such as ip netns exec NAME
}

// Server is an sshd. Its methods fail the test on errors, so they are for the test's own
// goroutine.
type Server struct {
	Host string
	Port int
	User string // who runs the test

	Dir            string   // of all files below; readable for all
	Key            string   // private key whose public half (.pub) may log in
	AuthorizedKeys string   // of every user
	HostKeys       []string // private halves, in the order of the types
	KnownHosts     string   // with all the host keys
	LogFile        string

	t       testing.TB
	process *os.Process
	exited  chan struct{} // closed when sshd itself has ended
}

// Start starts an sshd and waits until it listens.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Address == "" {
		o.Address = "127.0.0.1"
	}
	if len(o.HostKeyTypes) == 0 {
		o.HostKeyTypes = []string{"ed25519"}
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Host: o.Address, Port: o.Port, User: me.Username, Dir: dir(t), t: t}
	if s.Port == 0 {
		s.Port = FreePort(t)
	}
	s.Key = filepath.Join(s.Dir, "key")
	s.AuthorizedKeys = filepath.Join(s.Dir, "authorized_keys")
	s.KnownHosts = filepath.Join(s.Dir, "known_hosts")
	s.LogFile = filepath.Join(s.Dir, "log")
	Keygen(t, s.Key, "ed25519", "")
	s.write(s.AuthorizedKeys, s.read(s.Key+".pub"))

	config := append([]string(nil), o.Config...)
	var known strings.Builder
	for _, kind := range o.HostKeyTypes {
		file := filepath.Join(s.Dir, "host_"+kind)
		Keygen(t, file, kind, "")
		s.HostKeys = append(s.HostKeys, file)
		config = append(config, "HostKey "+file)
		known.WriteString(s.KnownHost(kind))
	}
	s.write(s.KnownHosts, known.String())
	config = append(config,
		"Port "+strconv.Itoa(s.Port), "ListenAddress "+o.Address, "PidFile none", "AuthorizedKeysFile "+s.AuthorizedKeys,
		// PAM is what lets users in whose password is locked, such as Debian's postgres.
		"UsePAM "+map[bool]string{true: "yes", false: "no"}[os.Getuid() == 0],
		"StrictModes no", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "LogLevel VERBOSE",
	)
	file := filepath.Join(s.Dir, "sshd_config")
	s.write(file, strings.Join(config, "\n")+"\n")
	s.start(append(o.Prefix, program(t, "sshd"), "-D", "-e", "-f", file))
	return s
}

func (s *Server) start(args []string) {
	s.t.Helper()
	if os.Getuid() == 0 { // where sshd puts its own root directory
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	log, err := os.Create(s.LogFile)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.process, s.exited = cmd.Process, make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(s.exited)
	}()
	s.t.Cleanup(func() {
		s.Stop()
		if s.t.Failed() {
			s.t.Logf("log of sshd on port %d:\n%s", s.Port, s.Log())
		}
	})
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for !strings.Contains(s.Log(), "Server listening on") {
		select {
		case <-tick.C:
		case <-s.exited:
			s.t.Fatalf("sshd did not start:\n%s", s.Log())
		case <-limit:
			s.t.Fatal("sshd does not listen after a minute")
		}
	}
}

// Stop ends sshd and every connection it serves. Commands that run there see the end of
// their standard input.
func (s *Server) Stop() {
	s.t.Helper()
	s.StopListening()
	s.Signal(syscall.SIGKILL)
}

// StopListening ends the sshd that listens; connections it has made go on.
func (s *Server) StopListening() {
	s.t.Helper()
	_ = s.process.Kill()
	<-s.exited
}

// Signal sends a signal to the processes of sshd that serve connections, not to the commands
// they run: SIGKILL cuts the connections, SIGSTOP makes them fall silent.
func (s *Server) Signal(sig syscall.Signal) {
	s.t.Helper()
	for _, pid := range s.serving() {
		if err := syscall.Kill(pid, sig); err != nil && err != syscall.ESRCH {
			s.t.Errorf("signal to sshd: %v", err)
		}
	}
}

// Serving gives the number of processes of sshd that serve connections.
func (s *Server) Serving() int { return len(s.serving()) }

// serving finds processes by the log file that they all hold open: those of a
// connection are in sessions of their own, and have no parent once sshd is gone.
func (s *Server) serving() []int {
	s.t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/fd/2")
	if err != nil {
		s.t.Fatal(err)
	}
	var pids []int
	for _, link := range links {
		if target, _ := os.Readlink(link); target != s.LogFile {
			continue
		}
		proc := filepath.Dir(filepath.Dir(link))
		pid, err := strconv.Atoi(filepath.Base(proc))
		name, _ := os.ReadFile(filepath.Join(proc, "comm"))
		if err == nil && pid != s.process.Pid && string(name) == "sshd\n" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Log gives what sshd has said.
func (s *Server) Log() string { return s.read(s.LogFile) }

// KnownHost gives the line of known_hosts for the host key of the type.
func (s *Server) KnownHost(kind string) string {
	s.t.Helper()
	return KnownHost(s.t, net.JoinHostPort(s.Host, strconv.Itoa(s.Port)), filepath.Join(s.Dir, "host_"+kind+".pub"))
}

// KnownHost gives a line of known_hosts for an address and the public key in a file.
func KnownHost(t testing.TB, address, pub string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	if port != "22" {
		host = "[" + host + "]:" + port
	}
	b, err := os.ReadFile(pub)
	if err != nil {
		t.Fatal(err)
	}
	fields := bytes.Fields(b)
	return fmt.Sprintf("%s %s %s\n", host, fields[0], fields[1])
}

// Keygen makes a key pair with ssh-keygen: file and file.pub.
func Keygen(t testing.TB, file, kind, passphrase string) {
	t.Helper()
	args := []string{"-q", "-t", kind, "-N", passphrase, "-C", filepath.Base(file), "-f", file}
	if out, err := exec.Command(program(t, "ssh-keygen"), args...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
}

// FreePort gives a TCP port of 127.0.0.1 that nobody listens on.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// dir makes a directory that all users may read: sshd reads authorized_keys as the user who
// logs in, and what t.TempDir makes is closed to others.
func dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pgx-sshtest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// program gives the absolute path of a program, without which sshd does not start.
func program(t testing.TB, name string) string {
	t.Helper()
	for _, d := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin") {
		path := filepath.Join(d, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && filepath.IsAbs(path) {
			return path
		}
	}
	if os.Getenv("PGX_TEST_SHORT") != "" {
		t.Skipf("%s is not installed", name)
	}
	t.Fatalf("%s is not installed: run test/setup.sh", name)
	return ""
}

func (s *Server) read(file string) string {
	s.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

func (s *Server) write(file, content string) {
	s.t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}
