//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgx-backup/pgx/stanza/expire/expiretest"
)

// site is a running cluster, an sshd, and the pgx that profiles itself.
type site struct {
	settings
	root     string
	user     *user.User // who everything but this program runs as
	uid, gid int
	binDir   string   // of PostgreSQL
	data     string   // the data directory
	wal      []string // copies of full segments
	sshd     *exec.Cmd
	port     int // of sshd
	running  bool
	made     int // places and data directories
}

// profileDir is where the profiles are, below the site's directory.
const profileDir = "profiles"

// newSite makes all that is needed in a directory.
func newSite(ctx context.Context, set settings, root string) (s *site, err error) {
	s = &site{settings: set, root: root, data: filepath.Join(root, "data")}
	if os.Getuid() != 0 {
		return nil, errors.New("run as root: servers run as the user postgres, and sshd is started")
	}
	if s.user, err = user.Lookup("postgres"); err != nil {
		return nil, err
	}
	s.uid, _ = strconv.Atoi(s.user.Uid)
	s.gid, _ = strconv.Atoi(s.user.Gid)
	if s.binDir, err = binDir(s.major); err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(root, 0o755), os.Chown(root, s.uid, s.gid), s.mkdir(filepath.Join(root, profileDir))); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if err := s.startSSHD(ctx); err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "making a PostgreSQL %d cluster of %d MB\n", s.major, s.megabytes)
	if err := s.makeCluster(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// stop ends the servers.
func (s *site) stop() (err error) {
	if s.running {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err = s.pgCtl(ctx, "-m", "immediate", "stop")
	}
	if s.sshd != nil {
		_ = s.sshd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = s.sshd.Wait()                          // 255, as it does on this signal
	}
	return err
}

// command prepares a program run by the user postgres, without variables of ours that it would
// take for settings.
func (s *site) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(s.uid), Gid: uint32(s.gid)}}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.user.HomeDir, "LC_ALL=C"}
	return cmd
}

// output runs the command and gives what it prints on standard output.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s: %w\n%s%s", filepath.Base(cmd.Path), err, out, exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

func (s *site) mkdir(dir string) error {
	return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, s.uid, s.gid))
}

func (s *site) writeFile(name string, content []byte, mode os.FileMode) error {
	return errors.Join(os.WriteFile(name, content, mode), os.Chown(name, s.uid, s.gid))
}

func (s *site) path(name string) string { return filepath.Join(s.root, name) }

// profiles gives the directory that a data path's profiles are written to.
func (s *site) profiles(path string) string { return s.path(filepath.Join(profileDir, path)) }

// The two hosts know of each other by address and port only.
const address = "127.0.0.1"

// startSSHD starts an sshd that lets the user postgres in. What it starts there is a program
// that runs pgx with the directory for profiles of the moment.
func (s *site) startSSHD(ctx context.Context) error {
	for _, key := range []string{"host_key", "client_key"} {
		if _, err := output(s.command(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", s.path(key))); err != nil {
			return err
		}
	}
	public, err := os.ReadFile(s.path("host_key.pub"))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address+":0")
	if err != nil {
		return err
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"known_hosts": fmt.Sprintf("[%s]:%d %s", address, s.port, public),
		"sshd_config": fmt.Sprintf("Port %d\nListenAddress %s\nHostKey %s\nPidFile none\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\n",
			s.port, address, s.path("host_key"), s.path("client_key.pub")),
		"ssh_config": fmt.Sprintf("Host *\nIdentityFile %s\nIdentitiesOnly yes\nUserKnownHostsFile %s\nGlobalKnownHostsFile /dev/null\n",
			s.path("client_key"), s.path("known_hosts")),
		"now": "",
		"far": fmt.Sprintf("#!/bin/sh\nPGX_PROFILE=$(cat '%s') exec '%s' \"$@\"\n", s.path("now"), s.path("pgx")),
	} {
		if err := s.writeFile(s.path(name), []byte(content), 0o700); err != nil {
			return err
		}
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where it looks for its own root directory
		return err
	}
	cmd := exec.CommandContext(ctx, "/usr/sbin/sshd", "-D", "-f", s.path("sshd_config"), "-E", s.path("sshd.log"))
	if err := cmd.Start(); err != nil {
		return err
	}
	s.sshd = cmd
	return s.until(ctx, "nothing listens for sshd", func() (bool, error) {
		c, err := net.Dial("tcp", net.JoinHostPort(address, strconv.Itoa(s.port)))
		if err == nil {
			err = c.Close()
			return true, err
		}
		return false, nil
	})
}

// patience is how long something may take that should take no time.
const patience = time.Minute

// until waits for something.
func (s *site) until(ctx context.Context, what string, is func() (bool, error)) error {
	limit, tick := time.After(patience), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for {
		if yes, err := is(); yes || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-limit:
			return fmt.Errorf("after %s: %s", patience, what)
		}
	}
}

// settled waits until every process has written the profile it has begun.
func (s *site) settled(ctx context.Context, path string) error {
	return s.until(ctx, "a process has not written its profile, or was killed", func() (bool, error) {
		found, err := filepath.Glob(filepath.Join(s.profiles(path), "*"))
		return !slices.ContainsFunc(found, func(name string) bool {
			info, err := os.Stat(name)
			return err != nil || info.Size() == 0
		}), err
	})
}

// The configurations of the two hosts.
const (
	repoHost = "repo.conf"
	pgHost   = "pg.conf"
)

// stanza is that of all repositories.
const stanza = expiretest.Stanza

// place is a new repository with the configurations that lead to it.
type place struct {
	*site
	dir string
}

// newPlace makes a place for a cluster, on another host if it is far. Options are for both hosts.
func (s *site) newPlace(codec string, far bool, data string, options ...string) (place, error) {
	s.made++
	p := place{site: s, dir: s.path(fmt.Sprint("place-", s.made))}
	if err := s.mkdir(p.dir); err != nil {
		return p, err
	}
	repository := []string{"repo1-path=" + p.path("repo"), "repo1-retention-full=100"}
	cluster := []string{"pg1-user=postgres", "pg1-port=5432", "pg1-socket-path=" + s.root}
	content := map[string][2][]string{repoHost: {repository, cluster}, pgHost: {repository, cluster}}
	if far {
		content[repoHost] = [2][]string{repository, s.other("pg1", p.path(pgHost))}
		content[pgHost] = [2][]string{s.other("repo1", p.path(repoHost)), cluster}
	}
	for name, of := range content {
		lines := slices.Concat([]string{
			"[global]", "compress-type=" + codec, "process-max=2", "start-fast=y", "archive-check=n", "log-level-file=off",
			"log-path=" + p.path("log"), "spool-path=" + p.path("spool"), "lock-path=" + p.path("lock-"+name),
		}, options, of[0], []string{"[" + stanza + "]", "pg1-path=" + data}, of[1], []string{""})
		if err := s.writeFile(p.path(name), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			return p, err
		}
	}
	return p, nil
}

// other is how one host reaches the other.
func (s *site) other(prefix, config string) []string {
	return []string{
		prefix + "-host=" + address, prefix + "-host-user=" + s.user.Username, fmt.Sprintf("%s-host-port=%d", prefix, s.port),
		prefix + "-host-cmd=" + s.path("far"), prefix + "-host-config=" + config,
	}
}

func (p place) path(name string) string { return filepath.Join(p.dir, name) }

// discard gives back the space that the place has used. The files stay, empty, until all is over:
// ext4 can search long for an inode where many files were removed a short while ago.
func (p place) discard() error {
	return filepath.WalkDir(p.dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			err = os.Truncate(name, 0)
		}
		return err
	})
}

// run runs pgx on a host, for a data path or, if that is empty, unprofiled, and waits until all
// its profiles are written.
func (p place) run(ctx context.Context, path, host string, args ...string) error {
	if err := p.start(ctx, path, host, args...); err != nil || path == "" {
		return err
	}
	return p.settled(ctx, path)
}

// start is run, but does not wait for processes that the command leaves behind.
func (p place) start(ctx context.Context, path, host string, args ...string) error {
	dir := ""
	if path != "" {
		dir = p.profiles(path)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := os.Chown(dir, p.uid, p.gid); err != nil {
			return err
		}
	}
	// For what sshd starts.
	if err := p.writeFile(p.site.path("now"), []byte(dir), 0o600); err != nil {
		return err
	}
	args = append([]string{"--config=" + p.path(host), "--stanza=" + stanza, "--ssh-config=" + p.site.path("ssh_config")}, args...)
	cmd := p.command(ctx, p.site.path("pgx"), args...)
	cmd.Env = append(cmd.Env, "PGX_PROFILE="+dir)
	_, err := output(cmd)
	return err
}
