//go:build linux

// Command bench compares pgx with pgbackrest on one PostgreSQL cluster in one run:
// full backups and restores with each codec, archive-push and archive-get of full WAL
// segments; then between two hosts, over a real sshd on this machine, backups,
// restores and archive-push, of pgx also to a resident server; then asynchronous archiving
// between these hosts: a backlog, a busy server, and a recovery. Each round measures both
// programs, one directly after the other, and the next round in the other order, so what
// disturbs the machine disturbs both. `make bench` runs it; see -h for what can be set.
//
// All files were read or written shortly before and are in the page cache; the disk is
// synced before each measurement. Backups do not wait for WAL (archive-check=n), for
// that would mostly measure the waiting. What is restored or fetched is compared with what
// was there: a program that is wrong is not fast.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// settings is what the command line says.
type settings struct {
	pgx, peer  string // paths of the programs
	dir        string // for everything that is written
	major      int    // of PostgreSQL
	megabytes  int64  // of generated data, indexes included
	rounds     int
	segments   int // WAL segments pushed and fetched
	processMax int
	async      asyncSettings
	parts      []string
	codecs     []string // of the local part
	far        []string // codecs of the remote part
	pairs      int      // of archive-push in the remote part
	options    []string // added to the configuration of both programs
	json       string
	svg        string // directory for pictures
}

// The parts of the benchmark.
const (
	local  = "local"
	remote = "remote"
	async  = "async"
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

func parse(args []string) (settings, error) {
	var s settings
	var parts, codecs, far string
	var rounds, segments int
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&s.pgx, "pgx", "bin/pgx", "`path` of pgx")
	f.StringVar(&s.peer, "pgbackrest", filepath.Join(home(), "pg/18/root/usr/bin/pgbackrest"), "`path` of pgbackrest")
	f.StringVar(&s.dir, "dir", os.TempDir(), "`directory` on the file system to measure; needs six times the size, of async five times the segments")
	f.IntVar(&s.major, "pg", 18, "`major` version of PostgreSQL")
	f.Int64Var(&s.megabytes, "size", 500, "`MB` of generated data, indexes included")
	f.IntVar(&rounds, "rounds", 0, "`number` of rounds; medians are shown (default 3, of async 7)")
	f.IntVar(&segments, "segments", 0, "`number` of WAL segments to push and to fetch (default 8, of async 200)")
	f.DurationVar(&s.async.steady, "steady", time.Minute, "`time` that async loads a server for")
	f.IntVar(&s.processMax, "process-max", runtime.NumCPU(), "`number` of processes of a backup or restore")
	f.StringVar(&parts, "parts", "local,remote,async", "what to measure, `list` with commas")
	f.StringVar(&codecs, "codecs", "none,lz4,zst,gz", "compress types of the local part, `list` with commas")
	f.StringVar(&far, "remote-codecs", "none,lz4,zst", "compress types of the remote part, `list` with commas")
	f.IntVar(&s.pairs, "pairs", 15, "`number` of WAL segments that both push between hosts")
	f.Func("option", "`key=value` for the configuration of both programs, may be repeated", func(o string) error {
		if !strings.Contains(o, "=") {
			return errors.New("key=value expected")
		}
		s.options = append(s.options, o)
		return nil
	})
	f.StringVar(&s.svg, "svg", "", "`directory` to write the picture "+pictureName+" of async to")
	f.StringVar(&s.json, "json", "", "`file` to write all measurements to")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if f.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument '%s'", f.Arg(0))
	}
	types := []string{"none", "lz4", "zst", "gz", "bz2"}
	for _, l := range []struct {
		flag, given string
		known       []string
		list        *[]string
	}{{"parts", parts, []string{local, remote, async}, &s.parts}, {"codecs", codecs, types, &s.codecs}, {"remote-codecs", far, types, &s.far}} {
		*l.list = strings.Split(l.given, ",")
		for _, x := range *l.list {
			if !slices.Contains(l.known, x) {
				return s, fmt.Errorf("unknown '%s' in -%s: it can be %s", x, l.flag, strings.Join(l.known, ", "))
			}
		}
	}
	s.rounds, s.async.rounds = cmp.Or(rounds, 3), cmp.Or(rounds, 7)
	s.segments, s.async.segments = cmp.Or(segments, 8), cmp.Or(segments, 200)
	if s.megabytes < 1 || s.rounds < 1 || s.segments < 1 || s.processMax < 1 || s.pairs < 1 {
		return s, errors.New("-size, -rounds, -segments, -process-max and -pairs must be at least 1")
	}
	if s.async.steady < time.Second {
		return s, errors.New("-steady must be at least 1s")
	}
	if info, err := os.Stat(s.svg); s.svg != "" && (err != nil || !info.IsDir()) {
		return s, fmt.Errorf("'%s' of -svg is not a directory", s.svg) // not to learn it in the end
	}
	for _, program := range []struct{ path, hint string }{
		{s.pgx, "run 'make build', or give its path with -pgx"},
		{s.peer, "run test/setup.sh, or give its path with -pgbackrest"},
	} {
		if !executable(program.path) {
			return s, fmt.Errorf("program '%s' is missing: %s", program.path, program.hint)
		}
	}
	return s, nil
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
	m := measurer{account: u, self: filepath.Join(root, "bench"), log: filepath.Join(root, "output")}

	report, err := newReport(ctx, m, s)
	if err != nil {
		return err
	}
	tools := []*tool{
		{name: pgxName, path: filepath.Join(root, "pgx")},
		{name: peerName, path: s.peer},
	}
	common := contest{settings: s, dir: filepath.Join(root, "run"), m: m}
	if slices.Contains(s.parts, local) || slices.Contains(s.parts, remote) {
		if err := backups(ctx, common, tools, report); err != nil {
			return err
		}
	}
	if slices.Contains(s.parts, async) {
		if err := inBackground(ctx, common, tools, report); err != nil {
			return err
		}
	}
	report.table(os.Stdout)
	if s.json == "" {
		return nil
	}
	return report.write(s.json)
}

// backups measures the parts that are about one cluster of a given size.
func backups(ctx context.Context, common contest, tools []*tool, report *report) (err error) {
	root := filepath.Dir(common.dir)
	fmt.Fprintf(os.Stderr, "making a PostgreSQL %d cluster of %d MB\n", common.major, common.megabytes)
	common.server, err = newServer(ctx, common.m.account, common.major, filepath.Join(root, "data"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, common.server.stop()) }()
	if err := common.server.fill(ctx, common.megabytes); err != nil {
		return err
	}
	wal, err := common.server.keepSegments(ctx, max(common.segments, common.pairs), filepath.Join(root, "wal"))
	if err != nil {
		return err
	}
	if slices.Contains(common.parts, local) {
		common.wal = wal[len(wal)-common.segments:]
		if err := rounds(ctx, common, tools, common.codecs, report); err != nil {
			return err
		}
	}
	if slices.Contains(common.parts, remote) {
		common.wal = wal[len(wal)-common.pairs:]
		return betweenHosts(ctx, common, tools, report)
	}
	return nil
}

// rounds runs contests, the next round in the other order.
func rounds(ctx context.Context, common contest, tools []*tool, codecs []string, report *report) error {
	tools = slices.Clone(tools)
	for round := range common.rounds {
		for _, codec := range codecs {
			fmt.Fprintf(os.Stderr, "round %d of %d, %s%s\n", round+1, common.rounds, codec, common.between())
			for _, t := range tools {
				c := common
				c.tool, c.codec = t, codec
				results, err := c.run(ctx)
				if err != nil {
					return fmt.Errorf("%s, compress type %s%s: %w", t.name, codec, c.between(), err)
				}
				for operation, sample := range results {
					report.add(operation, codec, t.name, sample)
				}
			}
		}
		slices.Reverse(tools)
	}
	return nil
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
