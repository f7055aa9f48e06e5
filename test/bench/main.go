//go:build linux

// Command bench compares pgx with pgbackrest in one run, part by part:
//
//	local      one cluster: full backups and restores with each codec, each program's of the other's
//	           repository too, archive-push and archive-get of full WAL segments; pg_basebackup
//	corpus     the same of clusters that hold one kind of data each
//	remote     between two hosts, over a real sshd on this machine, pgx also to a resident server
//	daily      what is done every day: incremental backups, restores that mend, encryption
//	blocks     repositories with bundles and blocks: few pages changed, small files, WAL summaries
//	catalogue  info and expire where there are many backups, much WAL and a million files
//	async      asynchronous archiving: a backlog, a busy server, and a recovery
//
// Each round measures both programs, one directly after the other, and the next round in the
// other order, so what disturbs the machine disturbs both. In the end it says which of the
// targets hold. `make bench` runs it; see -h for what can be set.
//
// All files were read or written shortly before and are in the page cache; the disk is
// synced before each measurement. Backups do not wait for WAL (archive-check=n), for
// that would mostly measure the waiting. What is restored or fetched is compared with what
// was there: a program that is wrong is not fast. How often a program syncs is counted in a
// round of its own, which is not timed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == measureArg {
		measureMain(os.Args[2:])
		return
	}
	if len(os.Args) > 4 && os.Args[1] == timeArg {
		timeMain(os.Args[2], os.Args[4:])
		return
	}
	if len(os.Args) == 4 && os.Args[1] == manifestArg {
		manifestMain(os.Args[2], os.Args[3])
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = bench(ctx, s)
	}
	if err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench does it all in a directory of its own, which is gone afterwards.
func bench(ctx context.Context, s settings) (err error) {
	root, err := os.MkdirTemp(s.dir, "pgx-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	u, err := newAccount(root)
	if err != nil {
		return err
	}
	// Where this program and pgx are, the user postgres may not be allowed to look.
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for from, to := range map[string]string{self: "bench", s.pgx: "pgx"} {
		if err := u.copyProgram(from, filepath.Join(root, to)); err != nil {
			return err
		}
	}
	m := measurer{account: u, self: filepath.Join(root, "bench"), log: filepath.Join(root, "output"), memory: 3 * s.megabytes << 20}

	found, err := newReport(ctx, m, s)
	if err != nil {
		return err
	}
	tools := []*tool{
		{name: pgxName, path: filepath.Join(root, "pgx")},
		{name: peerName, path: s.peer},
	}
	common := contest{settings: s, dir: filepath.Join(root, "run"), m: m}
	for _, part := range []struct {
		names []string // any of them asks for it
		run   func(context.Context, contest, []*tool, *report) error
	}{
		{[]string{local, remote}, mixture}, {[]string{corpus}, everyPart}, {[]string{daily}, everyDay},
		{[]string{blocks}, bundlesAndBlocks}, {[]string{catalogue}, manyBackups}, {[]string{async}, inBackground},
	} {
		if !slices.ContainsFunc(part.names, func(name string) bool { return slices.Contains(s.parts, name) }) {
			continue
		}
		if err := part.run(ctx, common, tools, found); err != nil {
			return err
		}
	}
	found.table(os.Stdout)
	if s.svg != "" && len(found.Rows) > 0 {
		err = found.draw(filepath.Join(s.svg, barsName))
	}
	if s.json != "" {
		err = errors.Join(err, found.write(s.json))
	}
	return err
}

// account is who everything but this program runs as: postgres when we are root.
type account struct {
	attr *syscall.SysProcAttr // nil: ourselves
	uid  int
	gid  int
}

// newAccount gives the account, to which dir then belongs.
func newAccount(dir string) (account, error) {
	a := account{uid: os.Getuid(), gid: os.Getgid()}
	if a.uid == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return a, fmt.Errorf("run as root this needs the user postgres: %w", err)
		}
		a.uid, _ = strconv.Atoi(u.Uid)
		a.gid, _ = strconv.Atoi(u.Gid)
		a.attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}}
	}
	return a, errors.Join(os.Chown(dir, a.uid, a.gid), os.Chmod(dir, 0o755))
}

// command prepares a program run by the account, in English and without the variables
// of ours that PostgreSQL, the two programs and ssh would take for settings.
func (a account) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = a.attr
	for _, v := range os.Environ() {
		if !slices.ContainsFunc([]string{"PG", "LC_", "LANG", "SSH_"}, func(p string) bool { return strings.HasPrefix(v, p) }) {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C")
	return cmd
}

// output runs the command and gives what it prints on standard output.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

// mkdir makes a directory that belongs to the account.
func (a account) mkdir(dir string) error {
	return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, a.uid, a.gid))
}

// writeFile writes a file that belongs to the account.
func (a account) writeFile(name string, content []byte) error {
	return errors.Join(os.WriteFile(name, content, 0o600), os.Chown(name, a.uid, a.gid))
}

func (a account) copyProgram(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(to, b, 0o755), os.Chmod(to, 0o755))
}

func home() string {
	if dir := os.Getenv("PGX_TEST_HOME"); dir != "" {
		return dir
	}
	return "/tmp/pgx-test"
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
