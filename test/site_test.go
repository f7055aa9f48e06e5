package test

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// bin is the directory of the program under test, under both its names.
var bin string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	var err error
	if bin, err = os.MkdirTemp("", "pgx-bin"); err == nil {
		defer os.RemoveAll(bin)
		err = build()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func build() error {
	if err := os.Chmod(bin, 0o755); err != nil { // servers run it as another user
		return err
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(bin, "pgx"), "../cmd/pgx")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build pgx: %w\n%s", err, out)
	}
	return os.Symlink("pgx", filepath.Join(bin, "pgbackrest"))
}

// pgxPath is the program as pgx, dropIn as pgbackrest.
func pgxPath() string { return filepath.Join(bin, "pgx") }
func dropIn() string  { return filepath.Join(bin, "pgbackrest") }

// site is a host: a cluster that archives with the program under test, a repository and
// the configuration of both.
type site struct {
	*testing.T
	dir  string // everything of the site is below
	conf string
	repo string
	pg   *pgtest.Cluster
}

// newSite makes a site whose server runs and whose stanza "demo" exists. global
// are options for its configuration; "repo1-path" and what is needed to reach the
// cluster are there.
func newSite(t *testing.T, o pgtest.Options, global map[string]string) *site {
	s := bareSite(t, o, global)
	s.pg.Start()
	s.must(pgxPath(), "stanza-create")
	return s
}

// bareSite is newSite without server and stanza.
func bareSite(t *testing.T, o pgtest.Options, global map[string]string) *site {
	t.Helper()
	s := &site{T: t, dir: pgtest.Dir(t)}
	s.conf, s.repo = filepath.Join(s.dir, "pgbackrest.conf"), filepath.Join(s.dir, "repo")
	o.Config = merged(map[string]string{
		"archive_mode": "on", "wal_level": "replica", "archive_command": fmt.Sprintf("%s --config=%s archive-push %%p", pgxPath(), s.conf),
	}, o.Config)
	s.pg = pgtest.New(t, o)
	s.configure(global)
	return s
}

func merged(base, over map[string]string) map[string]string {
	m := maps.Clone(base)
	maps.Copy(m, over)
	return m
}

// configure writes the configuration anew.
func (s *site) configure(global map[string]string) {
	s.Helper()
	g := merged(map[string]string{
		"repo1-path": s.repo, "log-path": s.dir, "lock-path": filepath.Join(s.dir, "lock"), "spool-path": filepath.Join(s.dir, "spool"),
		"start-fast": "y", "compress-type": "lz4", "process-max": "2", "log-level-file": "off",
	}, global)
	var b strings.Builder
	b.WriteString("[global]\n")
	for _, k := range slices.Sorted(maps.Keys(g)) {
		fmt.Fprintf(&b, "%s=%s\n", k, g[k])
	}
	fmt.Fprintf(&b, "\n[demo]\npg1-path=%s\npg1-port=%d\npg1-socket-path=%s\npg1-user=postgres\n", s.pg.PGDATA, s.pg.Port, s.pg.SocketDir)
	s.write(s.conf, b.String())
}

// write makes a file that belongs to the owner of the server.
func (s *site) write(path, content string) {
	s.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		s.Fatal(err)
	}
	s.own(path)
}

func (s *site) own(path string) {
	s.Helper()
	uid, gid := pgtest.Owner(s.T)
	if err := os.Lchown(path, uid, gid); err != nil {
		s.Fatal(err)
	}
}

// outcome is what a program left: what it wrote to both streams, and its exit code.
type outcome struct {
	out, err string
	code     int
}

// all gives both streams.
func (o outcome) all() string { return o.out + o.err }

// run runs one of the tools with the site's configuration, as the owner of the server.
// pgbackrest knows no stanza by itself: where a command needs one it is given.
func (s *site) run(tool string, args ...string) outcome {
	s.Helper()
	args = append([]string{"--config=" + s.conf}, args...)
	if filepath.Base(tool) == "pgbackrest" && !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--stanza") }) {
		args = append(args, "--stanza=demo")
	}
	return s.exec(pgtest.Command(s.T, tool, args...))
}

// exec runs a command to its end.
func (s *site) exec(cmd *exec.Cmd) outcome {
	s.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.Fatalf("%s: %v", cmd, err)
	}
	return outcome{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// must is run for a command that has to succeed; it gives what it wrote to stdout.
func (s *site) must(tool string, args ...string) string {
	s.Helper()
	o := s.run(tool, args...)
	if o.code != 0 {
		s.Fatalf("%s %s: exit %d\n%s", tool, strings.Join(args, " "), o.code, o.all())
	}
	return o.out
}

// fails is run for a command that has to fail with a code and a message.
func (s *site) fails(code int, message, tool string, args ...string) outcome {
	s.Helper()
	o := s.run(tool, args...)
	if o.code != code || !strings.Contains(o.all(), message) {
		s.Errorf("%s %s: exit %d, want %d and %q\n%s", filepath.Base(tool), strings.Join(args, " "), o.code, code, message, o.all())
	}
	return o
}

// empty makes an empty directory of the site that belongs to the owner of the server.
func (s *site) empty(name string) string {
	s.Helper()
	dir := filepath.Join(s.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.Fatal(err)
	}
	s.own(dir)
	return dir
}

// restore restores into a new directory of that name and gives it.
func (s *site) restore(name, tool string, args ...string) string {
	s.Helper()
	dir := s.empty(name)
	s.must(tool, append([]string{"--stanza=demo", "restore", "--pg1-path=" + dir}, args...)...)
	return dir
}

// label gives the label of the newest backup.
func (s *site) label() string {
	s.Helper()
	target, err := os.Readlink(filepath.Join(s.repo, "backup", "demo", "latest"))
	if err != nil {
		s.Fatal(err)
	}
	return target
}

// node is what a tree has under one name.
type node struct {
	mode   fs.FileMode
	size   int64
	sum    string
	target string
}

// tree describes everything below dir.
func tree(t testing.TB, dir string) map[string]node {
	t.Helper()
	all := map[string]node{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n := node{mode: info.Mode()}
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha1.Sum(b)
			n.size, n.sum = info.Size(), hex.EncodeToString(sum[:])
		case info.Mode()&fs.ModeSymlink != 0:
			if n.target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		all[rel] = n
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// same compares two trees. Names for which except is true do not count.
func same(t testing.TB, got, want map[string]node, except func(name string) bool) {
	t.Helper()
	if len(want) < 5 {
		t.Fatalf("only %d names to compare with", len(want))
	}
	for name, w := range want {
		if g, there := got[name]; except != nil && except(name) {
			continue
		} else if !there {
			t.Errorf("%s is missing", name)
		} else if g != w {
			t.Errorf("%s is %+v, want %+v", name, g, w)
		}
	}
	for name := range got {
		if _, there := want[name]; !there && (except == nil || !except(name)) {
			t.Errorf("%s is too much", name)
		}
	}
}

// fill makes rows of many kinds: tables with indexes, toast, an unlogged table, a second database.
func (s *site) fill() {
	s.Helper()
	s.pg.Exec(`create table t (id int primary key, what text, big text)`)
	s.pg.Exec(`insert into t select g, md5(g::text), repeat(md5(g::text), 100) from generate_series(1, 5000) g`)
	s.pg.Exec(`create unlogged table u as select g from generate_series(1, 1000) g`)
	s.pg.Exec(`create table empty (id int)`)
	s.pg.Exec(`create database other`)
	s.pg.Exec(`checkpoint`)
}
