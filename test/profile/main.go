//go:build linux

// Command profile shows where pgx spends processor time: it builds a pgx that profiles itself,
// has it do everything data goes through on a cluster of its own, and writes for each of
// these paths a flame graph into the documentation and a row of costs to standard output. Both
// ends of a connection are in one picture. `make profile` runs it, as root; see -h for what can
// be set.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// settings is what the command line says.
type settings struct {
	out       string   // directory for pictures
	dir       string   // for everything else that is written
	keep      string   // directory that keeps the profiles; "": they are not kept
	major     int      // of PostgreSQL
	megabytes int64    // of generated data, indexes included
	rounds    int      // how often each command runs, so that there are samples enough
	segments  int      // of WAL
	files     int      // of the cluster in which nothing changes
	backups   int      // in the large catalogue
	only      []string // paths; empty: all
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(ctx, s)
	}
	if err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "profile:", err)
		os.Exit(1)
	}
}

func parse(args []string) (settings, error) {
	var s settings
	var only string
	f := flag.NewFlagSet("profile", flag.ContinueOnError)
	f.StringVar(&s.out, "out", "docs", "`directory` to write the pictures to")
	f.StringVar(&s.dir, "dir", os.TempDir(), "`directory` for the cluster and the repositories; needs 12 times the size")
	f.StringVar(&s.keep, "keep", "", "`directory` to keep the profiles in, one below it for each path")
	f.IntVar(&s.major, "pg", 18, "`major` version of PostgreSQL")
	f.Int64Var(&s.megabytes, "size", 500, "`MB` of generated data, indexes included")
	f.IntVar(&s.rounds, "rounds", 3, "`number` of backups and restores of each kind; of what is short, ten times as many")
	f.IntVar(&s.segments, "segments", 30, "`number` of WAL segments to push and to fetch in each round")
	f.IntVar(&s.files, "files", 50_000, "`number` of files of the cluster in which nothing changes")
	f.IntVar(&s.backups, "backups", 10_000, "`number` of backups in the large catalogue, about")
	f.StringVar(&only, "only", "", "paths, `list` with commas: those whose name has one of these in it (default all)")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if f.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument '%s'", f.Arg(0))
	}
	if only != "" {
		s.only = strings.Split(only, ",")
	}
	if s.megabytes < 1 || s.rounds < 1 || s.segments < 1 || s.files < 1 || s.backups < 1 {
		return s, errors.New("-size, -rounds, -segments, -files and -backups must be at least 1")
	}
	if info, err := os.Stat(s.out); err != nil || !info.IsDir() {
		return s, fmt.Errorf("'%s' of -out is not a directory", s.out) // not to learn it in the end
	}
	return s, nil
}

// run does it all in a directory of its own, which is gone afterwards.
func run(ctx context.Context, s settings) (err error) {
	root, err := os.MkdirTemp(s.dir, "pgx-profile-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	if s.keep != "" {
		defer func() { err = errors.Join(err, os.CopyFS(s.keep, os.DirFS(filepath.Join(root, profileDir)))) }()
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "profile", "-o", filepath.Join(root, "pgx"), "./cmd/pgx")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	st, err := newSite(ctx, s, root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.stop()) }()
	for _, scene := range scenes() {
		if !slices.ContainsFunc(scene.paths, s.wanted) {
			continue
		}
		fmt.Fprintln(os.Stderr, strings.Join(scene.paths, ", "))
		if err := scene.play(ctx, st); err != nil {
			said, _ := os.ReadFile(st.path("sshd.log"))
			return fmt.Errorf("%s: %w\n%s", strings.Join(scene.paths, ", "), err, said)
		}
		for _, name := range scene.paths {
			if !s.wanted(name) {
				continue
			}
			if err := show(ctx, s, name, st.profiles(name)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// wanted says whether the command line asks for a path.
func (s settings) wanted(path string) bool {
	return len(s.only) == 0 || slices.ContainsFunc(s.only, func(o string) bool { return strings.Contains(path, o) })
}

// show makes the picture and the row of a path of the profiles in dir.
func show(ctx context.Context, s settings, path, dir string) error {
	byProcess, err := profilesIn(dir)
	if err != nil {
		return err
	}
	var stacks []stack
	for _, p := range byProcess {
		of, err := readProfiles(ctx, "pgx "+p.name, p.files)
		if err != nil {
			return err
		}
		stacks = append(stacks, of...)
	}
	table(os.Stdout, path, stacks)
	picture := draw("pgx, "+path, graph(stacks))
	return os.WriteFile(filepath.Join(s.out, "profile-"+path+".svg"), []byte(picture), 0o644)
}

// process is a kind of process with the profiles of all of that kind.
type process struct {
	name  string
	files []string
}

// profilesIn gives the profiles in a directory, whose names are that of the command, '-', and a
// number.
func profilesIn(dir string) (all []process, err error) {
	found, err := filepath.Glob(filepath.Join(dir, "*.pprof")) // sorts
	if err != nil {
		return nil, err
	}
	for _, file := range found {
		name := filepath.Base(file)
		name = name[:strings.LastIndex(name, "-")]
		if n := len(all); n == 0 || all[n-1].name != name {
			all = append(all, process{name: name})
		}
		last := &all[len(all)-1]
		last.files = append(last.files, file)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no profile was written to '%s'", dir)
	}
	return all, nil
}
