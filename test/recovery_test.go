package test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// fork is in with a copy of the repository.
func (s *site) fork(t *testing.T, name string, global map[string]string) *site {
	t.Helper()
	f := s.in(t, name)
	f.repo = f.copyRepo("repo")
	f.configure(global)
	return f
}

// copyRepo copies the repository into the directory of the site.
func (s *site) copyRepo(name string) string {
	s.Helper()
	dir := filepath.Join(s.dir, name)
	if out, err := exec.Command("cp", "-a", s.repo, dir).CombinedOutput(); err != nil {
		s.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// only gives the path of the one copy of a segment.
func (s *site) only(segment string) string {
	s.Helper()
	found := s.stored(segment)
	if len(found) != 1 {
		s.Fatalf("the repository has %v of segment %s", found, segment)
	}
	return found[0]
}

// damage changes a byte in the middle of a stored segment and gives what repairs it.
func (s *site) damage(segment string) (repair func()) {
	s.Helper()
	path := s.only(segment)
	b, err := os.ReadFile(path)
	if err != nil {
		s.Fatal(err)
	}
	bad := bytes.Clone(b)
	bad[len(bad)/2] ^= 0xff
	put := func(content []byte) func() {
		return func() {
			s.Helper()
			if err := os.WriteFile(path, content, 0); err != nil {
				s.Fatal(err)
			}
		}
	}
	put(bad)()
	return put(b)
}

// refusesToPromote starts a cluster whose recovery cannot get to its end: the server
// ends, and nothing tells that it ever left recovery.
func (s *site) refusesToPromote(pg *pgtest.Cluster) {
	s.Helper()
	_ = pg.TryStart() // it may have taken connections before it ended
	pgtest.Eventually(s.T, "the end of the server", func() bool { return !pg.Running() })
	s.notPromoted(pg)
	log := pg.Log()
	if !strings.Contains(log, "FATAL:  could not restore file") {
		s.Error("the server ended for another reason")
	}
	if !strings.Contains(log, "consistent recovery state reached") || !strings.Contains(log, "restored log file") {
		s.Error("the server ended before half of the way")
	}
}

// notPromoted looks for what a promotion leaves.
func (s *site) notPromoted(pg *pgtest.Cluster) {
	s.Helper()
	if _, err := os.Stat(filepath.Join(pg.PGDATA, "recovery.signal")); err != nil {
		s.Errorf("recovery is over: %v", err)
	}
	history, err := filepath.Glob(filepath.Join(pg.PGDATA, "pg_wal", "*.history"))
	if err != nil || len(history) != 0 {
		s.Errorf("%v, a timeline was begun: %v", err, history)
	}
	out, err := pgtest.Command(s.T, pgtest.Tool(s.T, pg.Major, "pg_controldata"), "-D", pg.PGDATA).Output()
	if err != nil || !strings.Contains(string(out), "in archive recovery") && !strings.Contains(string(out), "shut down in recovery") {
		s.Errorf("%v, pg_controldata says\n%s", err, out)
	}
}

// archiveGet waits for the archive-get of a segment that runs with the configuration
// of this site, and gives its process id.
func (s *site) archiveGet(segment string) int {
	s.Helper()
	found := 0
	pgtest.Eventually(s.T, "archive-get of "+segment, func() bool {
		all, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			s.Fatal(err)
		}
		for _, name := range all {
			b, err := os.ReadFile(name)
			if err != nil {
				continue
			}
			args := strings.Split(string(b), "\x00")
			if args[0] == pgxPath() && slices.Contains(args, "--config="+s.conf) && slices.Contains(args, segment) {
				found, err = strconv.Atoi(filepath.Base(filepath.Dir(name)))
				return err == nil
			}
		}
		return false
	})
	return found
}

// chmod changes a mode and gives what changes it back.
func (s *site) chmod(path string, mode fs.FileMode) (back func()) {
	s.Helper()
	info, err := os.Stat(path)
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		s.Fatal(err)
	}
	return func() {
		if err := os.Chmod(path, info.Mode().Perm()); err != nil {
			s.Error(err)
		}
	}
}

// away moves a file away and gives what brings it back.
func (s *site) away(path string) (back func()) {
	s.Helper()
	move := func(from, to string) {
		s.Helper()
		if err := os.Rename(from, to); err != nil {
			s.Fatal(err)
		}
	}
	move(path, path+".away")
	return func() {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.Fatal(err)
		}
		move(path+".away", path)
	}
}

// TestFailingRepository: a recovery whose repository fails half way ends with an error
// and does not promote with the rows it has; the end of the archive is another thing.
func TestFailingRepository(t *testing.T) {
	t.Parallel()
	// Rows 6 to 10, 11 to 15, 16 to 20 after the backup have a segment each.
	s := newStory(t, 15, map[string]string{"compress-type": "none"})
	s.grow(5)
	s.backup()
	s.grow(5)
	middle := s.grow(5)
	last := s.grow(5)
	s.pg.Stop(pgtest.Fast)
	brief := map[string]string{"archive-timeout": "1", "compress-type": "none"}

	// Each breaks the repository for the middle segment. The last ones do so when it is
	// asked for; what came before was found.
	archive := func(s *site) string { return filepath.Join(s.repo, "archive/demo/15-1") }
	for name, fail := range map[string]func(*site) (repair func()){
		"damaged segment":    func(s *site) func() { return s.damage(middle) },
		"unreadable segment": func(s *site) func() { return s.chmod(s.only(middle), 0) },
		"short segment": func(s *site) func() {
			path := s.only(middle)
			back := s.away(path)
			if err := exec.Command("sh", "-c", `head -c 500000 "$1.away" >"$1"`, "sh", path).Run(); err != nil {
				s.Fatal(err)
			}
			return back
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := s.fork(t, name, brief)
			repair := fail(s)
			pg := s.attach(s.restore("data", pgxPath(), "--archive-mode=off"))
			s.refusesToPromote(pg)
			// Nor does it when it is only started again.
			s.refusesToPromote(pg)
			repair()
			pg.Start()
			promoted(t, pg)
			hasRows(t, pg, 20)
		})
	}
	for name, script := range map[string]struct{ fail, repair string }{
		"unreadable directory":     {`chmod 0 $dir/*/`, `chmod 750 $dir/*/`},
		"unreadable archive":       {`chmod 0 $dir`, `chmod 750 $dir`},
		"no archive of the stanza": {`mv $stanza $repo/away`, `mv $repo/away $stanza`},
		"repository gone":          {`mv $repo $repo.away`, `mv $repo.away $repo`},
		"repository is empty":      {`mv $repo $repo.away; mkdir $repo`, `rmdir $repo; mv $repo.away $repo`},
		"no configuration":         {`mv $conf $conf.away`, `mv $conf.away $conf`},
		"bad configuration":        {`cp $conf $conf.away; echo 'repo1-type=nonsense' >>$conf`, `mv $conf.away $conf`},
		"archive.info damaged": {`for f in $dir/../archive.info $dir/../archive.info.copy; do cp $f $f.away; echo x >>$f; done`,
			`for f in $dir/../archive.info $dir/../archive.info.copy; do mv $f.away $f; done`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := s.fork(t, name, brief)
			vars := fmt.Sprintf("set -e\nrepo=%s; dir=%s; conf=%s; stanza=%s\n", s.repo, archive(s), s.conf, filepath.Dir(archive(s)))
			// Stands in for the program, breaks the repository once and then is the program.
			broken := filepath.Join(s.dir, "broken")
			wrapper := filepath.Join(s.dir, "wrapper")
			s.write(wrapper, "#!/bin/sh\n"+vars+fmt.Sprintf(
				"case \"$*\" in *%s*) if ! test -e %s; then >%[2]s; %s; fi;; esac\nexec %s \"$@\"\n",
				middle, broken, script.fail, pgxPath()))
			s.chmod(wrapper, 0o755)
			pg := s.attach(s.restore("data", pgxPath(), "--archive-mode=off", "--cmd="+wrapper))
			s.refusesToPromote(pg)
			if o := s.exec(pgtest.Command(t, "sh", "-c", vars+script.repair)); o.code != 0 {
				t.Fatalf("repair: %s", o.all())
			}
			pg.Start()
			promoted(t, pg)
			hasRows(t, pg, 20)
		})
	}

	t.Run("the archive ends", func(t *testing.T) {
		t.Parallel()
		s := s.fork(t, "ends", brief)
		s.away(s.only(last))
		pg := s.attach(s.restore("data", pgxPath(), "--archive-mode=off"))
		pg.Start()
		promoted(t, pg)
		hasRows(t, pg, 15)
	})

	// What the exit code is for: a command line that knows nothing of it loses rows.
	t.Run("plain command line", func(t *testing.T) {
		t.Parallel()
		s := s.fork(t, "plain", brief)
		s.damage(middle)
		dir := s.empty("data")
		s.must(pgxPath(), "restore", "--pg1-path="+dir, "--archive-mode=off", fmt.Sprintf(
			`--recovery-option=restore_command=%s --config=%s --pg1-path=%s archive-get %%f "%%p"`, pgxPath(), s.conf, dir))
		pg := s.attach(dir)
		pg.Start()
		promoted(t, pg)
		hasRows(t, pg, 10)
	})

	// A standby is to wait for what the repository will have.
	t.Run("standby", func(t *testing.T) {
		t.Parallel()
		s := s.fork(t, "standby", brief)
		repair := s.damage(middle)
		pg := s.attach(s.restore("data", pgxPath(), "--type=standby"))
		pg.Start()
		pgtest.Eventually(t, "an error of archive-get", func() bool { return strings.Contains(pg.Log(), "ERROR: [042]: unable to get "+middle) })
		hasRows(t, pg, 10)
		repair()
		pgtest.Eventually(t, "the rest of the rows", func() bool { return pg.QueryValue(rowsSQL) == rowsTo(20) })
		if !inRecovery(pg) {
			t.Error("the standby promoted itself")
		}
	})

	for name, end := range map[string]func(*testing.T, *pgtest.Cluster, int){
		// A crash must not look like the end of the archive.
		"killed": func(t *testing.T, pg *pgtest.Cluster, pid int) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		},
		"aborted": func(t *testing.T, pg *pgtest.Cluster, pid int) {
			if err := syscall.Kill(pid, syscall.SIGABRT); err != nil {
				t.Fatal(err)
			}
		},
		"terminated": func(t *testing.T, pg *pgtest.Cluster, pid int) {
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		},
		// The server can be stopped while archive-get waits for its repository.
		"stopped": func(t *testing.T, pg *pgtest.Cluster, _ int) {
			begun := time.Now()
			pg.Stop(pgtest.Fast)
			if d := time.Since(begun); d > 10*time.Second {
				t.Errorf("the stop took %s", d)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := s.fork(t, name, map[string]string{"archive-timeout": "600"})
			repair := s.damage(middle)
			pg := s.attach(s.restore("data", pgxPath(), "--archive-mode=off"))
			pg.Start()
			pid := s.archiveGet(middle)
			pgtest.Eventually(t, "a failed try", func() bool { return strings.Contains(pg.Log(), "trying again in") })
			end(t, pg, pid)
			pgtest.Eventually(t, "the end of the server", func() bool { return !pg.Running() })
			s.notPromoted(pg)
			repair()
			pg.Start()
			promoted(t, pg)
			hasRows(t, pg, 20)
		})
	}

	// An error that goes away while it is tried again is not noticed at all.
	t.Run("repaired in time", func(t *testing.T) {
		t.Parallel()
		s := s.fork(t, "in-time", map[string]string{"archive-timeout": "600"})
		repair := s.damage(middle)
		pg := s.attach(s.restore("data", pgxPath(), "--archive-mode=off"))
		pg.Start()
		pgtest.Eventually(t, "a warning", func() bool { return strings.Contains(pg.Log(), "trying again in") })
		repair()
		promoted(t, pg)
		hasRows(t, pg, 20)
	})

	// That one repository lacks a segment is no answer while another is out of reach.
	t.Run("two repositories", func(t *testing.T) {
		t.Parallel()
		s := s.fork(t, "two", brief)
		second := s.copyRepo("second")
		s.configure(merged(brief, map[string]string{"repo2-path": second}))
		s.away(s.only(middle))
		repair := s.chmod(filepath.Join(second, "archive/demo/15-1", middle[:16]), 0)
		pg := s.attach(s.restore("data", pgxPath(), "--archive-mode=off"))
		s.refusesToPromote(pg)
		repair()
		pg.Start()
		promoted(t, pg)
		hasRows(t, pg, 20)
	})
}

// TestArchiveGet: what the command does when it is called by hand or by a
// restore_command that restore did not write.
func TestArchiveGet(t *testing.T) {
	t.Parallel()
	s := newStory(t, 15, map[string]string{"compress-type": "none"})
	plain := s.grow(1)
	s.configure(map[string]string{"compress-type": "lz4"})
	packed := s.grow(1)
	ours := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(s.pg.PGDATA, "pg_wal", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	target := filepath.Join(s.pg.PGDATA, "got")
	// get gives what was handed over, with what else the command left beside it.
	get := func(code int, message string, args ...string) string {
		t.Helper()
		before := names(t, s.pg.PGDATA)
		s.fails(code, message, pgxPath(), append([]string{"archive-get", "--log-level-console=info"}, args...)...)
		b, err := os.ReadFile(target)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err == nil {
			if err := os.Remove(target); err != nil {
				t.Fatal(err)
			}
		}
		if after := names(t, s.pg.PGDATA); !slices.Equal(before, after) {
			t.Errorf("%s: the data directory had %v, has %v", args, before, after)
		}
		return string(b)
	}
	for _, segment := range []string{plain, packed} {
		if get(0, "found "+segment+" in the repo1: 15-1 archive", segment, target) != ours(segment) {
			t.Errorf("%s is not what was archived", segment)
		}
		repair := s.damage(segment)
		if got := get(42, "unable to get "+segment, segment, target); got != "" {
			t.Errorf("%d bytes of damaged %s were handed over", len(got), segment)
		}
		repair()
		back := s.chmod(s.only(segment), 0)
		get(42, "unable to get "+segment, segment, target)
		back()
	}
	// A second repository makes up for a damaged copy.
	second := s.copyRepo("second")
	s.configure(map[string]string{"repo2-path": second})
	repair := s.damage(plain)
	if get(0, "found "+plain+" in the repo2: 15-1 archive", plain, target) != ours(plain) {
		t.Errorf("%s from repo2 is not what was archived", plain)
	}
	get(42, "unable to get "+plain, plain, target, "--repo=1")
	repair()
	back := s.away(second)
	if get(0, "WARN: repo2", packed, target) != ours(packed) {
		t.Errorf("%s is not what was archived", packed)
	}
	get(1, "unable to find 0000000100000000000000F0 in the archive", "0000000100000000000000F0", target)
	back()
	s.configure(nil)

	// Another content under the name of the same segment, so that none can be trusted.
	other := strings.Replace(s.only(plain), plain+"-", plain+"-0000", 1)
	other = other[:len(other)-4]
	s.write(other, "x")
	get(45, "duplicates found for WAL segment "+plain, plain, target)
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}

	const history = "1\t0/3000000\tno recovery target specified\n"
	get(1, "unable to find 00000002.history in the archive", "00000002.history", target)
	s.write(filepath.Join(s.repo, "archive/demo/15-1/00000002.history"), history)
	if got := get(0, "found 00000002.history in the repo1: 15-1 archive", "00000002.history", target); got != history {
		t.Errorf("the history file became %q", got)
	}

	// As PostgreSQL calls it: in the data directory, with a relative path.
	cmd := pgtest.Command(t, pgxPath(), "--config="+s.conf, "archive-get", packed, "pg_wal/RECOVERYXLOG")
	cmd.Dir = s.pg.PGDATA
	if o := s.exec(cmd); o.code != 0 || ours("RECOVERYXLOG") != ours(packed) {
		t.Errorf("relative path: exit %d\n%s", o.code, o.all())
	}

	get(43, "WAL segment to get required")
	get(43, "path to copy WAL segment required", plain)
	get(96, "extra parameters found", plain, target, "more")

	// No repository can be asked. Called by restore's command line that is the end of
	// recovery, and not of the archive.
	back = s.away(s.repo)
	get(103, "unable to find a valid repository", plain, target)
	strict := pgtest.Command(t, pgxPath(), "--config="+s.conf, "--archive-timeout=0.1", "archive-get", plain, target)
	strict.Env = append(strict.Env, "PGX_ARCHIVE_GET_STRICT=y")
	if o := s.exec(strict); o.code != 255 {
		t.Errorf("strict: exit %d\n%s", o.code, o.all())
	}
	back()
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range all {
		if e.Name() != "got" {
			found = append(found, e.Name())
		}
	}
	return found
}

// TestDelta: a damaged data directory becomes what the backup has, with what is whole
// left alone; and a dry run does nothing.
func TestDelta(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Options{Checksums: true}, nil)
	s.fill()
	relation := s.pg.QueryValue(`select pg_relation_filepath('t')`)
	toast := s.pg.QueryValue(`select pg_relation_filepath(reltoastrelid) from pg_class where relname = 't'`)
	index := s.pg.QueryValue(`select pg_relation_filepath('t_pkey')`)
	s.must(pgxPath(), "backup", "--type=full")
	s.pg.Exec(`insert into t select g, 'after', '' from generate_series(5001, 6000) g`)
	s.switchWAL(s.pg)
	data := s.pg.PGDATA

	for _, args := range [][]string{{"--delta"}, {"--delta", "--force"}, {"--force"}, {"--delta", "--dry-run"}, nil} {
		s.fails(38, "unable to restore while PostgreSQL is running", pgxPath(), append([]string{"restore"}, args...)...)
	}
	s.pg.Kill()
	if err := os.Remove(filepath.Join(data, "postmaster.pid")); err != nil {
		t.Fatal(err)
	}
	s.fails(40, "because it contains files", pgxPath(), "restore")

	const quiet = "--type=none"
	wanted := tree(t, s.restore("fresh", pgxPath(), quiet))

	// hurt damages a data directory in every way. Of what is changed in place only the
	// index keeps its time.
	hurt := func(dir string) {
		t.Helper()
		at := func(name string) string { return filepath.Join(dir, name) }
		change := func(name string) {
			t.Helper()
			f, err := os.OpenFile(at(name), os.O_RDWR, 0)
			if err == nil {
				_, err = f.WriteAt([]byte("damage"), 5000)
				err = errors.Join(err, f.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		info, err := os.Stat(at(index))
		if err != nil {
			t.Fatal(err)
		}
		change(toast)
		change(index)
		for _, err := range []error{
			os.Chtimes(at(index), info.ModTime(), info.ModTime()),
			os.Truncate(at(relation), 8192),
			os.Remove(at("global/pg_filenode.map")),
			os.RemoveAll(at("pg_xact")),
			os.Chmod(at("base"), 0o755),
			os.Chmod(at("PG_VERSION"), 0o666),
			os.WriteFile(at("base/extra"), []byte("extra"), 0o600),
			os.MkdirAll(at("extra/more/dirs"), 0o700),
			os.Symlink("/etc", at("link")),
			os.Remove(at("pg_stat")),
			os.WriteFile(at("pg_stat"), []byte("no directory"), 0o600),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"base/extra", "extra", "extra/more", "extra/more/dirs", "link", "pg_stat"} {
			s.own(at(name))
		}
	}
	inode := func(name string) uint64 {
		t.Helper()
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}

	// The data directory the server left, damaged.
	hurt(data)
	before := tree(t, data)
	out := s.must(pgxPath(), "restore", "--delta", "--dry-run", "--log-level-console=info")
	same(t, tree(t, data), before, nil)
	for _, want := range []string{"[DRY-RUN] would restore full backup " + s.label(), "[DRY-RUN] recovery target: end of the archive",
		"[DRY-RUN] WAL needed: ", "[DRY-RUN] restore size = "} {
		if !strings.Contains(out, want) {
			t.Errorf("the dry run does not say %q:\n%s", want, out)
		}
	}
	s.must(pgxPath(), "restore", "--delta", quiet)
	same(t, tree(t, data), wanted, nil)

	// Again, when only some files need it: the others stay where they are.
	hurt(data)
	untouched, changed := filepath.Join(data, "base/1/PG_VERSION"), filepath.Join(data, toast)
	kept := inode(untouched)
	s.must(pgxPath(), "restore", "--delta", quiet)
	same(t, tree(t, data), wanted, nil)
	if inode(untouched) != kept {
		t.Error("a file that was whole was written again")
	}
	if _, err := os.Stat(changed); err != nil {
		t.Error(err)
	}

	// By size and time: what has both is taken for whole.
	hurt(data)
	s.must(pgxPath(), "restore", "--delta", "--force", quiet)
	same(t, tree(t, data), wanted, func(name string) bool { return name == index })
	s.must(pgxPath(), "restore", "--delta", quiet)
	same(t, tree(t, data), wanted, nil)
	hurt(data)
	s.must(pgxPath(), "restore", "--force", quiet)
	same(t, tree(t, data), wanted, nil)

	// A directory that does not look like PostgreSQL's is left alone, whatever is asked.
	strange := s.empty("strange")
	s.write(filepath.Join(strange, "thesis.txt"), "three years of work")
	for _, args := range [][]string{{"--delta"}, {"--delta", "--force"}, {"--force"}} {
		s.fails(40, "because it contains files", pgxPath(), append([]string{"restore", "--pg1-path=" + strange}, args...)...)
	}
	if got := names(t, strange); !slices.Equal(got, []string{"thesis.txt"}) {
		t.Errorf("the directory holds %v", got)
	}

	// A dry run needs no directory and makes none.
	none := filepath.Join(s.dir, "none")
	s.must(pgxPath(), "restore", "--pg1-path="+s.empty("empty"), "--dry-run")
	if got := names(t, filepath.Join(s.dir, "empty")); len(got) != 0 {
		t.Errorf("the dry run left %v", got)
	}
	s.must(pgxPath(), "restore", "--pg1-path="+none, "--dry-run")
	if _, err := os.Stat(none); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dry run made a directory: %v", err)
	}

	// And the cluster lives.
	hurt(data)
	s.must(pgxPath(), "restore", "--delta", "--archive-mode=off")
	s.pg.Start()
	promoted(t, s.pg)
	if got := s.pg.QueryValue(`select count(*) || ' ' || sum(length(big)) from t`); got != "6000 16000000" {
		t.Errorf("table t holds %s", got)
	}
}
