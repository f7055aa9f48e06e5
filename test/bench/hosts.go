//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hosts are the repository host and the PostgreSQL host, both this machine: what makes
// them two is that they know of each other by address and port only, and each by its own
// configuration. Both programs go through the same sshd with the same key.
type hosts struct {
	account
	user         string
	dir          string
	group        *group // of sshd, and of a resident server
	port         int    // of sshd
	residentPort int
	sshd         *exec.Cmd
}

// address is where everything listens.
const address = "127.0.0.1"

// newHosts starts sshd. Its keys and files are in dir.
func newHosts(ctx context.Context, a account, dir string) (_ *hosts, err error) {
	if a.attr == nil {
		return nil, errors.New("sshd has to be started as root: run as root, or with -parts local")
	}
	if err := a.mkdir(dir); err != nil {
		return nil, err
	}
	h := &hosts{account: a, user: "postgres", dir: dir}
	if err := h.unlocked(ctx); err != nil {
		return nil, err
	}
	ports, err := freePorts(ctx, 2)
	if err != nil {
		return nil, err
	}
	h.port, h.residentPort = ports[0], ports[1]
	if err := h.writeFiles(ctx); err != nil {
		return nil, err
	}
	if h.group, err = newGroup(ctx); err != nil {
		return nil, fmt.Errorf("a control group is needed to count what sshd's children take, or -parts local: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.stop())
		}
	}()
	// This is where sshd looks for its own root directory.
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		return nil, err
	}
	log := h.path("sshd.log")
	h.sshd = exec.CommandContext(ctx, "/usr/sbin/sshd", "-D", "-f", h.path("sshd_config"), "-E", log)
	if err := h.group.start(h.sshd); err != nil {
		h.sshd = nil
		return nil, err
	}
	return h, listening(ctx, h.port, log)
}

// unlocked checks that sshd lets the user in at all.
func (h *hosts) unlocked(ctx context.Context) error {
	shadow, err := output(exec.CommandContext(ctx, "getent", "shadow", h.user))
	if err != nil {
		return err
	}
	if _, password, _ := strings.Cut(shadow, ":"); strings.HasPrefix(password, "!") {
		return fmt.Errorf("sshd lets nobody in whose password is locked: usermod -p '*' %s, or -parts local", h.user)
	}
	return nil
}

func (h *hosts) path(name string) string { return filepath.Join(h.dir, name) }

// options gives what a tool has to be told of the SSH client on its command line.
func (h *hosts) options(tool string) []string {
	if tool == pgxName {
		return []string{"--ssh-config=" + h.path("ssh_config")}
	}
	return []string{"--cmd-ssh=" + h.path("ssh")}
}

// writeFiles makes the keys and what names them.
func (h *hosts) writeFiles(ctx context.Context) error {
	for _, key := range []string{"host_key", "client_key"} {
		// The account's own, as a resident server proves itself with the same one.
		if _, err := output(h.command(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", h.path(key))); err != nil {
			return err
		}
	}
	public, err := os.ReadFile(h.path("host_key.pub"))
	if err != nil {
		return err
	}
	client, err := os.ReadFile(h.path("client_key.pub"))
	if err != nil {
		return err
	}
	var known bytes.Buffer
	for _, port := range []int{h.port, h.residentPort} {
		fmt.Fprintf(&known, "[%s]:%d %s", address, port, public)
	}
	files := map[string]string{
		"known_hosts":     known.String(),
		"authorized_keys": string(client),
		"sshd_config": strings.Join([]string{
			fmt.Sprintf("Port %d", h.port), "ListenAddress " + address, "HostKey " + h.path("host_key"), "PidFile none",
			"AuthorizedKeysFile " + h.path("authorized_keys"), "StrictModes no", "UsePAM no", "PasswordAuthentication no",
			"KbdInteractiveAuthentication no", "",
		}, "\n"),
		"ssh_config": strings.Join([]string{
			"Host *", "IdentityFile " + h.path("client_key"), "IdentitiesOnly yes", "UserKnownHostsFile " + h.path("known_hosts"),
			"GlobalKnownHostsFile /dev/null", "StrictHostKeyChecking yes", "BatchMode yes", "",
		}, "\n"),
		"ssh": "#!/bin/sh\nexec ssh -F " + h.path("ssh_config") + " \"$@\"\n",
	}
	for name, content := range files {
		if err := h.writeFile(h.path(name), []byte(content)); err != nil {
			return err
		}
	}
	return os.Chmod(h.path("ssh"), 0o700)
}

// startServer starts a resident pgx server that serves the client key for all stanzas.
func (h *hosts) startServer(ctx context.Context, pgx, config, log string) (*exec.Cmd, error) {
	client, err := os.ReadFile(h.path("client_key.pub"))
	if err != nil {
		return nil, err
	}
	cmd := h.command(ctx, pgx, "--config="+config, "--server-address="+address, fmt.Sprintf("--server-port=%d", h.residentPort),
		"--server-host-key="+h.path("host_key"), "--server-client=archive * "+strings.TrimSpace(string(client)), "server")
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // the service has its own descriptor
	cmd.Stdout, cmd.Stderr = out, out
	if err := h.group.start(cmd); err != nil {
		return nil, err
	}
	if err := listening(ctx, h.residentPort, log); err != nil {
		return nil, errors.Join(err, h.group.stop(cmd))
	}
	return cmd, nil
}

func (h *hosts) stop() error {
	var err error
	if h.sshd != nil {
		err = h.group.stop(h.sshd)
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 255 {
			err = nil // how sshd ends on SIGTERM
		}
	}
	return errors.Join(err, h.group.remove())
}

// freePorts gives ports of this machine that nobody listens on.
func freePorts(ctx context.Context, n int) (ports []int, err error) {
	for range n {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address+":0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // not before all are found, so that they differ
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// listening waits until something listens on the port.
func listening(ctx context.Context, port int, log string) error {
	limit, tick := time.After(idleWait), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		if err == nil {
			return c.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
		select {
		case <-tick.C:
		case <-limit:
			said, _ := os.ReadFile(log)
			return fmt.Errorf("nothing listens on port %d: %w\n%s", port, err, said)
		}
	}
}
