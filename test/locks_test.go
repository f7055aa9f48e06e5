package test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// process is a program that runs beside the test.
type process struct {
	s         *site
	cmd       *exec.Cmd
	out, errs bytes.Buffer
	done      chan error
}

// begin starts a program; end or its signal method has to end it.
func (s *site) begin(cmd *exec.Cmd) *process {
	s.Helper()
	p := &process{s: s, cmd: cmd, done: make(chan error, 1)}
	cmd.Stdout, cmd.Stderr = &p.out, &p.errs
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	go func() { p.done <- cmd.Wait() }()
	return p
}

// end waits for the end of the program, no longer than bound.
func (p *process) end(bound time.Duration) outcome {
	p.s.Helper()
	limit := time.NewTimer(bound)
	defer limit.Stop()
	select {
	case <-p.done:
	case <-limit.C:
		_ = p.cmd.Process.Kill()
		<-p.done
		p.s.Errorf("%s did not end within %s", p.cmd, bound)
	}
	return outcome{p.out.String(), p.errs.String(), p.cmd.ProcessState.ExitCode()}
}

// running says whether the program still runs.
func (p *process) running() bool {
	select {
	case err := <-p.done:
		p.done <- err
		return false
	default:
		return true
	}
}

// gate lets the archiver of the server wait, and with it whatever waits for WAL, until it
// is opened.
type gate struct {
	s    *site
	path string
}

// gated makes a site whose gate is open.
func gated(t *testing.T, global map[string]string) (*site, gate) {
	s := bareSite(t, pgtest.Options{WALSegSize: 1}, global)
	g := gate{s, filepath.Join(s.dir, "open")}
	s.pg.Configure(map[string]string{"archive_command": fmt.Sprintf(
		"while ! test -e %s; do sleep 0.05; done; %s --config=%s archive-push %%p", g.path, pgxPath(), s.conf)})
	g.open()
	s.pg.Start()
	// Runs before the server is stopped, for which its archiver must be free.
	t.Cleanup(g.open)
	s.must(pgxPath(), "stanza-create")
	return s, g
}

func (g gate) open() {
	if err := os.WriteFile(g.path, nil, 0o644); err != nil {
		g.s.Error(err)
	}
}

func (g gate) close() {
	g.s.Helper()
	g.s.allArchived()
	g.s.remove(g.path)
}

// allArchived waits until all WAL that is written now is archived.
func (s *site) allArchived() {
	s.Helper()
	s.pg.Exec("select pg_switch_wal()")
	pgtest.Eventually(s.T, "the archive of all WAL", func() bool {
		ready, err := filepath.Glob(s.pg.PGDATA + "/pg_wal/archive_status/*.ready")
		return err == nil && len(ready) == 0
	})
}

// waiting begins a backup and waits until the server is in backup mode. The gate is
// closed: it stays there.
func (g gate) waiting(cmd *exec.Cmd) *process {
	g.s.Helper()
	p := g.s.begin(cmd)
	pgtest.Eventually(g.s.T, "the start of the backup", func() bool {
		// The start hands a segment to the archiver, and the backup then waits for it.
		ready, err := filepath.Glob(g.s.pg.PGDATA + "/pg_wal/archive_status/*.ready")
		return !p.running() || err == nil && len(ready) > 0 && g.s.pg.QueryValue(
			`select count(*) from pg_stat_activity where application_name like 'pgBackRest%' and state = 'idle'`) != "0"
	})
	if !p.running() {
		g.s.Fatalf("the backup ended: %+v", p.end(0).all())
	}
	return p
}

// TestSecondBackup: while a backup of pgx or of either release of pgbackrest runs, no other
// begins, neither on this host nor, seen by the lock of PostgreSQL, on another.
func TestSecondBackup(t *testing.T) {
	t.Parallel()
	s, g := gated(t, nil)
	elsewhere := "--lock-path=" + s.dir + "/elsewhere"
	const (
		held     = "unable to acquire lock on file 'DIR/lock/demo-%s.lock': Resource temporarily unavailable\nHINT: is another pgBackRest process running?"
		advisory = "unable to acquire pgBackRest advisory lock\nHINT: is another pgBackRest backup already running on this cluster?"
	)
	for _, first := range []struct {
		tool string
		file string // the lock that pgx finds held
		old  bool   // takes PostgreSQL's lock
	}{
		{pgxPath(), "backup-1", true}, {pgtest.Reference(t), "backup-1", false}, {pgtest.Old(t), "backup", true},
	} {
		g.close()
		p := g.waiting(s.command(first.tool, "backup", "--type=full"))
		s.says(50, fmt.Sprintf(held, first.file), "backup", "--type=full")
		s.says(50, fmt.Sprintf(held, first.file), "stanza-create")
		if first.tool == pgxPath() {
			s.fails(50, "Resource temporarily unavailable", pgtest.Reference(t), "backup", "--type=full")
			s.fails(50, "Resource temporarily unavailable", pgtest.Old(t), "backup", "--type=full")
			s.fails(50, "advisory lock", pgtest.Old(t), elsewhere, "backup", "--type=full")
			if out := s.must(pgxPath(), "info"); !strings.Contains(out, "backup/expire running") {
				t.Errorf("info says\n%s", out)
			}
		}
		if first.old {
			s.says(50, advisory, elsewhere, "backup", "--type=full")
		}
		g.open()
		if o := p.end(time.Minute); o.code != 0 {
			t.Errorf("%s: exit %d\n%s", first.tool, o.code, o.all())
		}
	}
	s.must(pgxPath(), "backup", "--type=full")
}

// TestStop: the stop file of either program stops both.
func TestStop(t *testing.T) {
	t.Parallel()
	s := bareSite(t, pgtest.Options{WALSegSize: 1}, nil)
	s.must(pgxPath(), "stanza-create", "--no-online")
	_, segment, _ := s.segment()
	ok := func(args ...string) outcome {
		t.Helper()
		o := s.run(pgxPath(), args...)
		if o.code != 0 {
			t.Errorf("%s: exit %d\n%s", args, o.code, o.all())
		}
		return o
	}
	s.warns("stop file does not exist for stanza demo", ok("start", "--stanza=demo"))
	s.warns("stop file does not exist for all stanzas", ok("start"))
	for _, which := range []struct{ words, option string }{{"stanza demo", "--stanza=demo"}, {"all stanzas", "--no-delta"}} {
		args := func(command string) []string {
			if which.option == "--stanza=demo" {
				return []string{command, which.option}
			}
			return []string{command}
		}
		ok(args("stop")...)
		s.warns("stop file already exists for "+which.words, ok(args("stop")...))
		stopped := "stop file exists for " + which.words
		s.says(62, stopped, "archive-push", segment)
		s.says(62, stopped, "backup", "--type=full", "--no-online")
		s.says(62, stopped, "stanza-create", "--no-online")
		for _, tool := range []string{pgtest.Reference(t), pgtest.Old(t)} {
			s.fails(62, stopped, tool, "archive-push", segment)
		}
		ok("info")
		if o := s.run(pgxPath(), "archive-get", "00000002.history", s.dir+"/history"); o.code != 1 {
			t.Errorf("archive-get: exit %d\n%s", o.code, o.all())
		}
		ok(args("start")...)
	}
	ok("archive-push", segment)
	s.must(pgtest.Reference(t), "stop")
	s.says(62, "stop file exists for stanza demo", "archive-push", segment)
	s.must(pgtest.Reference(t), "start")
	ok("archive-push", segment)
}

// TestSignals: a signal ends a command in bounded time, with its own exit code, and the
// server is out of backup mode.
func TestSignals(t *testing.T) {
	t.Parallel()
	s, g := gated(t, map[string]string{"compress-type": "bz2", "compress-level": "9", "process-max": "1", "log-level-console": "info"})
	s.slim()
	// Enough to take seconds to compress, and minutes for a checkpoint that takes its time.
	s.pg.Exec("create table t as select g, md5(g::text) a, md5((-g)::text) b from generate_series(1, 150000) g")
	const bound = 10 * time.Second
	signals := map[syscall.Signal]string{syscall.SIGINT: "SIGINT", syscall.SIGTERM: "SIGTERM", syscall.SIGHUP: "SIGHUP"}
	ended := func(what string, p *process, sig syscall.Signal) {
		t.Helper()
		if !p.running() {
			t.Errorf("%s ended before the signal", what)
		}
		if err := p.cmd.Process.Signal(sig); err != nil {
			t.Error(err)
		}
		o := p.end(bound)
		if lines := strings.Split(strings.TrimSpace(o.out), "\n"); o.code != 63 || lines[len(lines)-1] != "terminated on signal "+signals[sig] {
			t.Errorf("%s, %s: exit %d\n%s", what, signals[sig], o.code, o.all())
		}
		s.inBackup(false)
	}

	// The checkpoint at the start takes its time.
	p := s.begin(s.command(pgxPath(), "backup", "--type=full", "--no-start-fast"))
	pgtest.Eventually(t, "the start of the backup", func() bool {
		return s.pg.QueryValue(`select count(*) from pg_stat_activity where state = 'active'`+
			` and query like '%pg_backup_start(%' and pid <> pg_backend_pid()`) != "0"
	})
	ended("backup that waits for the checkpoint", p, syscall.SIGTERM)
	s.pg.Exec("checkpoint")

	// Files are being copied.
	for sig := range signals {
		p := s.begin(s.command(pgxPath(), "backup", "--type=full"))
		pgtest.Eventually(t, "the first file of the backup", func() bool {
			found, err := filepath.Glob(s.repo + "/backup/demo/*F/pg_data/base/5/*")
			return !p.running() || err == nil && len(found) > 0
		})
		ended("backup that copies", p, sig)
		found, err := filepath.Glob(s.repo + "/backup/demo/*F/backup.manifest")
		if err != nil || len(found) > 0 {
			t.Errorf("a backup is there: %q, %v", found, err)
		}
		if err := os.RemoveAll(s.repo + "/backup/demo/" + unfinished(t, s.repo)); err != nil {
			t.Error(err)
		}
	}

	// WAL is waited for.
	g.close()
	for sig := range signals {
		ended("backup that waits for WAL", g.waiting(s.command(pgxPath(), "backup", "--type=full")), sig)
		p := s.begin(s.command(pgxPath(), "check"))
		pgtest.Eventually(t, "the check", func() bool {
			return s.pg.QueryValue(`select count(*) from pg_stat_activity where query like '%pg_switch_wal%' and pid <> pg_backend_pid()`) != "0"
		})
		ended("check that waits for WAL", p, sig)
	}
	p = g.waiting(s.command(pgxPath(), "backup", "--type=full"))
	o := s.run(pgxPath(), "stop", "--stanza=demo", "--force")
	if want := fmt.Sprintf("sent term signal to process %d", p.cmd.Process.Pid); !strings.Contains(o.out, want) {
		t.Errorf("stop --force: exit %d\n%s", o.code, o.all())
	}
	if o := p.end(bound); o.code != 63 || !strings.HasSuffix(o.out, "terminated on signal SIGTERM\n") {
		t.Errorf("backup: exit %d\n%s", o.code, o.all())
	}
	s.inBackup(false)
	s.must(pgxPath(), "start", "--stanza=demo")
	g.open()

	s.must(pgxPath(), "backup", "--type=full")
	s.pg.Stop(pgtest.Fast)
	dir := s.empty("target")
	for sig := range signals {
		p := s.begin(s.command(pgxPath(), "restore", "--delta", "--force", "--pg1-path="+dir, "--type=none"))
		// The largest file is the first.
		pgtest.Eventually(t, "the first file of the restore", func() bool {
			found, err := filepath.Glob(dir + "/base/5/*")
			return !p.running() || err == nil && len(found) > 0
		})
		if !p.running() {
			t.Errorf("restore ended before the signal: %s", p.end(0).all())
			break
		}
		if err := p.cmd.Process.Signal(sig); err != nil {
			t.Error(err)
		}
		if o := p.end(bound); o.code != 63 || !strings.HasSuffix(o.out, "terminated on signal "+signals[sig]+"\n") {
			t.Errorf("restore, %s: exit %d\n%s", signals[sig], o.code, o.all())
		}
		s.notStartable(dir)
		if err := os.RemoveAll(dir + "/base"); err != nil {
			t.Fatal(err)
		}
	}
	s.must(pgxPath(), "restore", "--delta", "--pg1-path="+dir, "--archive-mode=off")
	c := pgtest.Attach(t, s.pg.Major, dir)
	c.Start()
	if got := c.QueryValue("select count(*) from t"); got != "150000" {
		t.Errorf("%s rows", got)
	}
}

// unfinished gives the label of the newest directory of a backup.
func unfinished(t testing.TB, repo string) string {
	t.Helper()
	found, err := filepath.Glob(repo + "/backup/demo/*F")
	if err != nil || len(found) == 0 {
		t.Fatalf("no backup was begun: %v", err)
	}
	slices.Sort(found)
	return filepath.Base(found[len(found)-1])
}

// small mounts a file system of so many megabytes that belongs to the owner of the server.
func (s *site) small(name string, megabytes int) (dir string) {
	s.Helper()
	dir = s.empty(name)
	uid, gid := pgtest.Owner(s.T)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0700,uid=%d,gid=%d", megabytes, uid, gid)); err != nil {
		s.Skipf("cannot mount a tmpfs: %v", err)
	}
	s.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			s.Error(err)
		}
	})
	return dir
}

// fillUp fills the file system of dir but for left kilobytes; room makes room again.
func (s *site) fillUp(dir string, left int64) (room func()) {
	s.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		s.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, int64(st.Bavail)*st.Bsize-left<<10), 0o600); err != nil {
		s.Fatal(err)
	}
	return func() { s.remove(ballast) }
}

// TestDiskFull: a full disk is told with the file and what to do; nothing half written is left
// that counts, and after room is made the next run works.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	s := bareSite(t, pgtest.Options{WALSegSize: 1}, nil)
	mount := s.small("small", 64)
	s.repo = filepath.Join(mount, "repo")
	s.configure(nil)
	s.pg.Start()
	s.must(pgxPath(), "stanza-create")

	_, segment, _ := s.segment()
	late := filepath.Join(s.dir, "0000000100000000000000F0") // which the server is far from
	s.write(late, s.read(segment))
	const hint = ": no space left on device\nHINT: the file system is full: free space (or inodes) on it"
	room := s.fillUp(mount, 200)
	object := "'REPO/archive/demo/15-1/0000000100000000/SEGMENT-SUM'"
	s.says(104, "archive-push command encountered error(s):\n"+
		"repo1: [FileWriteError] unable to store "+object+": unable to write "+object+hint, "archive-push", "--compress-type=none", late)
	if found, err := filepath.Glob(s.repo + "/archive/demo/15-1/*/*"); err != nil || len(found) > 0 {
		t.Errorf("left are %q, %v", found, err)
	}
	room()
	s.must(pgxPath(), "archive-push", late)

	s.pg.Exec("create table t as select g, md5(g::text) a, md5((-g)::text) b from generate_series(1, 100000) g; checkpoint")
	s.allArchived()
	room = s.fillUp(mount, 2000)
	object = "'REPO/backup/demo/LABEL/pg_data/base/5/REL'"
	s.says(64, "copy 'PGDATA/base/5/REL': unable to store "+object+": unable to write "+object+hint,
		"backup", "--type=full", "--compress-type=none", "--process-max=1")
	s.inBackup(false)
	room()
	s.must(pgxPath(), "backup", "--type=full")

	target := s.small("target", 8)
	s.says(64, "unable to write 'DIR/target/base/5/REL': no space left on device\n"+
		"HINT: make room on the file system of 'DIR/target/base/5/REL'.\n"+
		"HINT: the cluster cannot be started until a restore completes: run it again with --delta.",
		"restore", "--pg1-path="+target, "--type=none", "--process-max=1")
	s.notStartable(target)
	if err := syscall.Mount("tmpfs", target, "tmpfs", syscall.MS_REMOUNT, "size=200m"); err != nil {
		t.Fatal(err)
	}
	s.must(pgxPath(), "restore", "--delta", "--pg1-path="+target, "--archive-mode=off")
	c := pgtest.Attach(t, s.pg.Major, target)
	c.Start()
	if got := c.QueryValue("select count(*) from t"); got != "100000" {
		t.Errorf("%s rows", got)
	}
	c.Stop(pgtest.Immediate)
}

// TestGrants: a role with what docs/grants.md grants, and no more, can do all; and what
// one lacks is told.
func TestGrants(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/grants.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for part := range strings.SplitSeq(string(page), "\n## ") {
		title, rest, _ := strings.Cut(part, "\n")
		_, sql, _ := strings.Cut(rest, "```sql\n")
		sections[title], _, _ = strings.Cut(sql, "```")
	}
	for _, major := range pgtest.Majors(t, 13, 15) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, pgtest.Options{Major: major, WALSegSize: 1}, nil)
			as := "--pg1-user=pgx"
			s.pg.Exec("create role pgx login")
			start, stop := "pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"
			if major < 15 {
				start, stop = "pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"
			}
			const point, next = "pg_create_restore_point(text)", "pg_switch_wal()"
			grants := func(functions ...string) (hints string) {
				for _, f := range functions {
					hints += "\nHINT: run as a superuser in database 'postgres': GRANT EXECUTE ON FUNCTION pg_catalog." + f + ` TO "pgx";`
				}
				return hints
			}
			check := []string{as, "--stanza=demo", "--pg1-path=" + s.pg.PGDATA, "check"}
			const unread = "unable to select some rows from pg_settings: user 'pgx' may not read data_directory"
			o := s.says(56, "unable to find primary cluster - cannot proceed\n"+
				"HINT: are all available clusters in recovery?\nHINT: pg1: "+unread, as, "backup", "--type=full")
			s.warns("unable to check pg1: [DbQueryError] "+unread+"\n"+`HINT: run as a superuser: GRANT pg_read_all_settings TO "pgx";`, o)
			s.says(27, "no database found\nHINT: check indexed pg-path/pg-host configurations", check...)
			s.pg.Exec("grant pg_read_all_settings to pgx")
			s.says(57, "user 'pgx' may not execute "+strings.Join([]string{start, stop, point, next}, ", ")+grants(start, stop, point, next),
				as, "backup", "--type=full")
			s.says(57, "user 'pgx' may not execute "+start+", "+stop+grants(start, stop), as, "backup", "--type=full", "--no-archive-check")
			s.says(57, "unable to execute query 'select pg_catalog.pg_create_restore_point('pgBackRest Archive Check')': ERROR:"+
				"  permission denied for function pg_create_restore_point"+grants(point), check...)
			s.inBackup(false)
			s.pg.Exec("drop owned by pgx; drop role pgx")

			only := "PostgreSQL 15 and later"
			if major < 15 {
				only = "PostgreSQL 12 to 14"
			}
			if sections["Every version"] == "" || sections[only] == "" {
				t.Fatalf("docs/grants.md has the sections %q", sections)
			}
			s.pg.Exec(sections["Every version"] + sections[only])
			s.must(pgxPath(), as, "stanza-create")
			s.must(pgxPath(), check...)
			s.must(pgxPath(), as, "backup", "--type=full")
		})
	}
}
