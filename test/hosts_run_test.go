package test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// commandLimit is how long run lets a command run: a fault must not become a test that hangs.
const commandLimit = 2 * time.Minute

// as gives the host to another of its users.
func (h *host) as(user string) *host { return &host{h.T, h.machine, user} }

// in gives the host to a subtest.
func (h *host) in(t *testing.T) *host { return &host{t, h.machine, h.user} }

// command is a program on a host. Process.Pid is its process id as this machine sees it.
type command struct {
	*exec.Cmd
	on   *machine
	once sync.Once
	err  error
}

// command prepares a program as after a login of the user. The program is looked for on
// the host, when it starts; as in a shell, exit code 127 says that it is not there.
func (h *host) command(args ...string) *command {
	h.Helper()
	user, err := h.account(h.user)
	if err != nil {
		h.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/env", args...)
	cmd.Dir = user.home
	cmd.Env = []string{
		"HOME=" + user.home, "USER=" + h.user, "LOGNAME=" + h.user, "SHELL=/bin/sh", "LC_ALL=C",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user.uid, Gid: user.gid}}
	cmd.WaitDelay = 10 * time.Second // whatever it left behind may hold its output
	return &command{Cmd: cmd, on: h.machine}
}

// Start starts the program. It ends with the test.
func (c *command) Start() error {
	c.on.mu.Lock()
	defer c.on.mu.Unlock()
	err := c.on.do(c.Cmd.Start)
	if err == nil {
		c.on.started = append(c.on.started, c)
	}
	return err
}

// Wait may be called more than once.
func (c *command) Wait() error {
	c.once.Do(func() { c.err = c.Cmd.Wait() })
	return c.err
}

// Run starts the program and waits for it.
func (c *command) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output is not for programs on hosts: run gives it.
func (c *command) Output() ([]byte, error) { return nil, errors.ErrUnsupported }

// CombinedOutput is not for programs on hosts: run gives it.
func (c *command) CombinedOutput() ([]byte, error) { return nil, errors.ErrUnsupported }

// run runs a program on the host to its end.
func (h *host) run(args ...string) outcome {
	h.Helper()
	return h.exec(h.command(args...))
}

// exec is run for a command that was prepared.
func (h *host) exec(c *command) outcome {
	h.Helper()
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Start(); err != nil {
		h.Fatalf("%s: %v", c, err)
	}
	limit := time.AfterFunc(commandLimit, func() { _ = c.Process.Kill() })
	err := c.Wait()
	if !limit.Stop() {
		h.Fatalf("on host '%s', '%s' did not end within %s\n%s", h.name, strings.Join(c.Args[1:], " "), commandLimit, out.String()+errs.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.Fatalf("on host '%s', '%s': %v", h.name, strings.Join(c.Args[1:], " "), err)
	}
	return outcome{out.String(), errs.String(), c.ProcessState.ExitCode()}
}

// must is run for a program that has to succeed; it gives what that wrote to stdout.
func (h *host) must(args ...string) string {
	h.Helper()
	o := h.run(args...)
	if o.code != 0 {
		h.Fatalf("on host '%s', '%s': exit %d\n%s", h.name, strings.Join(args, " "), o.code, o.all())
	}
	return o.out
}

// fails is run for a program that has to fail with a code and a message.
func (h *host) fails(code int, message string, args ...string) outcome {
	h.Helper()
	o := h.run(args...)
	if o.code != code || !strings.Contains(o.all(), message) {
		h.Errorf("on host '%s', '%s': exit %d, want %d and %q\n%s", h.name, strings.Join(args, " "), o.code, code, message, o.all())
	}
	return o
}

// begun is a program that runs on a host beside the test.
type begun struct {
	*command
	h         *host
	out, errs bytes.Buffer
	done      chan error
}

// begin starts a program; end waits for it.
func (h *host) begin(args ...string) *begun {
	h.Helper()
	b := &begun{command: h.command(args...), h: h, done: make(chan error, 1)}
	b.Stdout, b.Stderr = &b.out, &b.errs
	if err := b.Start(); err != nil {
		h.Fatal(err)
	}
	go func() { b.done <- b.Wait() }()
	return b
}

// end waits for the end of the program, no longer than bound.
func (b *begun) end(bound time.Duration) outcome {
	b.h.Helper()
	limit := time.NewTimer(bound)
	defer limit.Stop()
	select {
	case <-b.done:
	case <-limit.C:
		_ = b.Process.Kill()
		<-b.done
		b.h.Errorf("on host '%s', '%s' did not end within %s", b.on.name, strings.Join(b.Args[1:], " "), bound)
	}
	return outcome{b.out.String(), b.errs.String(), b.ProcessState.ExitCode()}
}

// running says whether the program still runs.
func (b *begun) running() bool {
	select {
	case err := <-b.done:
		b.done <- err
		return false
	default:
		return true
	}
}

// write makes a file of the host's user, with its directory.
func (h *host) write(name, content string, mode fs.FileMode) {
	h.Helper()
	user, err := h.account(h.user)
	if err == nil {
		err = h.do(func() error {
			if err := os.MkdirAll(path.Dir(name), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(name, []byte(content), mode); err != nil {
				return err
			}
			if err := os.Chown(name, int(user.uid), int(user.gid)); err != nil {
				return err
			}
			return os.Chmod(name, mode)
		})
	}
	if err != nil {
		h.Fatalf("on host '%s': %v", h.name, err)
	}
}

// read gives the content of a file of the host.
func (h *host) read(name string) string {
	h.Helper()
	var b []byte
	err := h.do(func() (err error) {
		b, err = os.ReadFile(name)
		return err
	})
	if err != nil {
		h.Fatalf("on host '%s': %v", h.name, err)
	}
	return string(b)
}

// exists says whether the host has a file of that name.
func (h *host) exists(name string) bool {
	return h.do(func() error { _, err := os.Lstat(name); return err }) == nil
}

// appendLine adds a line to a file below the home directory of the user.
func (h *host) appendLine(name, line string) {
	h.Helper()
	c := h.command("sh", "-c", `umask 077 && mkdir -p "${1%/*}" && cat >>"$1"`, "sh", name)
	c.Stdin = strings.NewReader(line + "\n")
	if o := h.exec(c); o.code != 0 {
		h.Fatalf("on host '%s': %s", h.name, o.all())
	}
}

// key gives the public half of the user's key, which is made where there is none.
func (h *host) key() string {
	h.Helper()
	return strings.TrimSpace(h.must("sh", "-c", `test -e .ssh/id_ed25519 || { mkdir -p -m 700 .ssh && ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519; }
		cat .ssh/id_ed25519.pub`))
}

// authorize adds a line to the user's authorized_keys.
func (h *host) authorize(line string) {
	h.Helper()
	h.appendLine(".ssh/authorized_keys", line)
}

// hostKey gives a public key of the host's sshd as known_hosts has it: type and key.
func (h *host) hostKey(kind string) string {
	h.Helper()
	fields := strings.Fields(h.read("/etc/ssh/ssh_host_" + kind + "_key.pub"))
	return fields[0] + " " + fields[1]
}

// trust enters the other host into the user's known_hosts.
func (h *host) trust(other *host) {
	h.Helper()
	h.appendLine(".ssh/known_hosts", fmt.Sprintf("%s,%s %s", other.name, other.addr, other.hostKey("ed25519")))
}

// join lets the users of two hosts log in at one another, without a forced command.
func join(a, b *host) {
	a.Helper()
	a.authorize(b.key())
	b.authorize(a.key())
	a.trust(b)
	b.trust(a)
}

// cluster makes a cluster of PostgreSQL on the host, with its data directory where Debian
// has it, say /var/lib/postgresql/15/main, and its socket in /run/postgresql.
func (h *host) cluster(o pgtest.Options) *pgtest.Cluster {
	h.Helper()
	o.Host = postgresOn{h.as("postgres")}
	return pgtest.New(h.T, o)
}

// postgresOn is a host as package pgtest wants it.
type postgresOn struct{ h *host }

func (p postgresOn) Path(name string) string   { return p.h.path(name) }
func (p postgresOn) Start(cmd *exec.Cmd) error { return p.h.do(cmd.Start) }
func (p postgresOn) Program(name string, args ...string) *exec.Cmd {
	return p.h.command(append([]string{name}, args...)...).Cmd
}
