package test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// cut pulls the cable out of the switch: packets vanish, nobody is told.
func (h *host) cut() {
	h.Helper()
	h.net.ip(h.net.wire, "link set "+h.port+" down")
	h.repairs = append(h.repairs, func() { h.net.ip(h.net.wire, "link set "+h.port+" up") })
}

// lossy loses that part of the packets to and from the host.
func (h *host) lossy(percent int) {
	h.Helper()
	lose := []string{"-m", "statistic", "--mode", "random", "--probability", fmt.Sprintf("%.2f", float64(percent)/100), "-j", "DROP"}
	h.rule(h.machine, append([]string{"-i", "eth0"}, lose...)...)
	for _, other := range h.net.machines { // where it arrives, as on a wire: a sender would be told
		if other != h.machine {
			h.rule(other, append([]string{"-s", h.addr}, lose...)...)
		}
	}
}

// slow limits the rate to and from the host, say to "8mbit".
func (h *host) slow(rate string) {
	h.Helper()
	for _, end := range []struct {
		in  *space
		dev string
	}{{h.space, "eth0"}, {h.net.wire, h.port}} {
		run := func(args ...string) {
			h.Helper()
			cmd := exec.Command("tc", append([]string{"qdisc"}, args...)...)
			if err := end.in.do(func() error { return combined(cmd) }); err != nil {
				h.Error(err)
			}
		}
		run("add", "dev", end.dev, "root", "tbf", "rate", rate, "burst", "32kb", "latency", "400ms")
		h.repairs = append(h.repairs, func() { run("del", "dev", end.dev, "root") })
	}
}

// reject makes connections to a port of the host fail at once, and those that are there
// end with a reset.
func (h *host) reject(port int) {
	h.Helper()
	h.rule(h.machine, "-p", "tcp", "--dport", strconv.Itoa(port), "-j", "REJECT", "--reject-with", "tcp-reset")
}

// drop makes a port of the host a black hole.
func (h *host) drop(port int) {
	h.Helper()
	h.rule(h.machine, "-p", "tcp", "--dport", strconv.Itoa(port), "-j", "DROP")
}

// rule adds a rule for what a machine receives.
func (h *host) rule(on *machine, rule ...string) {
	h.Helper()
	root := &host{h.T, on, "root"}
	root.must(append([]string{"iptables", "-A", "INPUT"}, rule...)...)
	h.repairs = append(h.repairs, func() { root.must(append([]string{"iptables", "-D", "INPUT"}, rule...)...) })
}

// mend undoes what the functions above did to the host.
func (h *host) mend() {
	h.Helper()
	for _, repair := range slices.Backward(h.repairs) {
		repair()
	}
	h.repairs = nil
}

// startSSHD starts the SSH server and waits until it listens.
func (h *host) startSSHD() {
	h.Helper()
	const pid = "/run/sshd/sshd.pid"
	root := h.as("root")
	root.must("rm", "-f", pid)
	server := root.begin("/usr/sbin/sshd", "-D", "-E", "/var/log/sshd.log")
	pgtest.Eventually(h.T, "sshd", func() bool { return h.exists(pid) || !server.running() })
	if !server.running() {
		o := server.end(0)
		h.Fatalf("sshd on host '%s' ended with exit code %d\n%s%s", h.name, o.code, o.all(), h.read("/var/log/sshd.log"))
	}
	h.sshd = server.command
}

// stopSSHD ends the SSH server: new connections are refused, those that are there stay.
func (h *host) stopSSHD() {
	h.Helper()
	if err := h.sshd.Process.Kill(); err != nil {
		h.Fatal(err)
	}
	_ = h.sshd.Wait()
}

// killSessions kills the processes of sshd that serve connections, and says how many there
// were. What they had started loses its standard streams.
func (h *host) killSessions() int {
	h.Helper()
	n := 0
	for _, p := range h.processes() {
		if strings.HasPrefix(p.comm, "sshd") {
			h.signal(p.pid, unix.SIGKILL)
			n++
		}
	}
	return n
}

// running is a process of a host.
type running struct {
	pid  int    // as this machine sees it
	comm string // the name of the program, cut off after 15 bytes
	args string // its command line
}

func (r running) String() string { return fmt.Sprintf("%d %s", r.pid, r.args) }

// processes gives the processes of the host but for those it has in peace: the listening
// sshd and those of PostgreSQL, but not what these started.
func (h *host) processes() []running {
	h.Helper()
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", h.holder.Process.Pid))
	if err != nil {
		h.Fatal(err)
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		h.Fatal(err)
	}
	var found []running
	for _, dir := range all {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if in, err := os.Readlink(filepath.Join(dir, "ns/pid")); err != nil || in != space || pid == h.holder.Process.Pid {
			continue
		}
		// "pid (name) state …", and the name may hold anything.
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		name, rest := stat[bytes.IndexByte(stat, '(')+1:bytes.LastIndexByte(stat, ')')], bytes.TrimSpace(stat[bytes.LastIndexByte(stat, ')')+1:])
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || rest[0] == 'Z' || string(name) == "postgres" || h.sshd != nil && pid == h.sshd.Process.Pid {
			continue
		}
		found = append(found, running{pid, string(name), strings.TrimRight(strings.ReplaceAll(string(args), "\x00", " "), " ")})
	}
	slices.SortFunc(found, func(a, b running) int { return a.pid - b.pid })
	return found
}

// idle waits until the host has no process left that it does not have in peace.
func (h *host) idle() {
	h.Helper()
	var left []running
	defer func() {
		if h.Failed() && len(left) > 0 {
			h.Logf("on host '%s' there are still %v", h.name, left)
		}
	}()
	pgtest.Eventually(h.T, "the end of all processes on host '"+h.name+"'", func() bool {
		left = h.processes()
		return len(left) == 0
	})
}

// freeze stops a process, which thaw lets go on; the id is as processes gives it.
func (h *host) freeze(pid int) { h.Helper(); h.signal(pid, unix.SIGSTOP) }
func (h *host) thaw(pid int)   { h.Helper(); h.signal(pid, unix.SIGCONT) }

func (h *host) signal(pid int, how syscall.Signal) {
	h.Helper()
	if err := syscall.Kill(pid, how); err != nil && how != unix.SIGKILL { // which may come too late
		h.Fatalf("process %d on host '%s': %v", pid, h.name, err)
	}
}
