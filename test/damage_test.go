package test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// segment gives the name and path of a segment of WAL that initdb left in the data
// directory, and the name of one that is not there yet.
func (s *site) segment() (name, path, next string) {
	s.Helper()
	found, err := filepath.Glob(filepath.Join(s.pg.PGDATA, "pg_wal", "0000000100000000000000??"))
	if err != nil || len(found) == 0 {
		s.Fatalf("no segment of WAL: %v", err)
	}
	name = filepath.Base(found[0])
	n, err := strconv.ParseUint(filepath.Base(found[len(found)-1])[16:], 16, 32)
	if err != nil {
		s.Fatal(err)
	}
	return name, found[0], fmt.Sprintf("%s%08X", name[:16], n+1)
}

// flip changes one byte of a file, counted from its end where at is negative.
func (s *site) flip(path string, at int) {
	s.Helper()
	s.change(path, func(b []byte) []byte {
		if at < 0 {
			at += len(b)
		}
		b[at] ^= 0x55
		return b
	})
}

func (s *site) change(path string, how func([]byte) []byte) {
	s.Helper()
	s.write(path, string(how([]byte(s.read(path)))))
}

func half(b []byte) []byte { return b[:len(b)/2] }

// onlyObject gives the one file whose name matches a pattern below the repository.
func (s *site) onlyObject(pattern string) string {
	s.Helper()
	found, err := filepath.Glob(filepath.Join(s.repo, pattern))
	if err != nil || len(found) != 1 {
		s.Fatalf("%s: found %q, %v", pattern, found, err)
	}
	return found[0]
}

func (s *site) remove(path string) {
	s.Helper()
	if err := os.Remove(path); err != nil {
		s.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestArchivePushInput: what archive-push says of what it is given. No server runs.
func TestArchivePushInput(t *testing.T) {
	t.Parallel()
	s := bareSite(t, pgtest.Options{WALSegSize: 1}, map[string]string{"compress-type": "none"})
	s.must(pgxPath(), "stanza-create", "--no-online")
	segment1, first, segment2 := s.segment()
	wal := filepath.Dir(first)
	second := filepath.Join(wal, segment2)
	whole := s.read(first)

	const (
		required = "WAL segment to push required"
		noHeader = "WAL file 'PGDATA/pg_wal/SEGMENT': first page header in WAL file is expected to be in long format"
		another  = "WAL file '%s' already exists in the repo1 archive with a different checksum"
	)
	s.says(43, required, "archive-push")
	s.says(43, required, "archive-push", first, second)
	s.says(55, "unable to open missing file 'PGDATA/pg_wal/SEGMENT' for read", "archive-push", second)
	s.write(filepath.Join(wal, "hello"), whole)
	s.says(29, "'hello' is not the name of a WAL segment, partial segment, timeline history or backup history file\n"+
		"HINT: archive-push takes the path that PostgreSQL gives as %p", "archive-push", filepath.Join(wal, "hello"))
	s.write(second, "")
	s.says(29, "WAL file 'PGDATA/pg_wal/SEGMENT': WAL segment has 0 bytes, fewer than the 40 of its header", "archive-push", second)
	s.write(second, strings.Repeat("\x00", len(whole)))
	s.says(29, noHeader, "archive-push", second)
	s.write(second, "this is no WAL"+strings.Repeat("x", len(whole)))
	s.says(29, noHeader, "archive-push", second)

	// A path that PostgreSQL gives is relative to its data directory.
	relative := func(dir string) *exec.Cmd {
		c := s.command(pgxPath(), "archive-push", "pg_wal/"+segment1)
		c.Dir = dir
		return c
	}
	s.said(32, "PostgreSQL working directory 'DIR' is not the same as option pg1-path 'PGDATA'\n"+
		"HINT: is the PostgreSQL data_directory configured the same as the pg1-path option?", relative(s.dir))
	s.write(filepath.Join(s.dir, "nopath.conf"), "[global]\nrepo1-path="+s.repo+"\nlock-path="+s.dir+"/lock\n")
	s.said(37, "option 'pg1-path' must be specified when relative wal paths are used\n"+
		"HINT: is %f passed to archive-push instead of %p?\n"+
		"HINT: PostgreSQL may pass relative paths even with %p depending on the environment.",
		pgtest.Command(t, pgxPath(), "--config="+s.dir+"/nopath.conf", "--stanza=demo", "archive-push", "pg_wal/"+segment1))
	if o := s.exec(relative(s.pg.PGDATA)); o.code != 0 || o.all() != "" {
		t.Errorf("exit %d\n%s", o.code, o.all())
	}

	// What is there already.
	again := func(path string) outcome {
		t.Helper()
		o := s.run(pgxPath(), "archive-push", path)
		if o.code != 0 {
			t.Errorf("exit %d\n%s", o.code, o.all())
		}
		return o
	}
	s.warns("WAL file 'SEGMENT' already exists in the repo1 archive with the same checksum\n"+
		"HINT: this is valid in some recovery scenarios but may also indicate a problem.", again(first))
	s.flip(first, -1)
	s.says(45, fmt.Sprintf(another, "SEGMENT"), "archive-push", first)
	s.write(first, whole)
	object := s.onlyObject("archive/demo/15-1/*/" + segment1 + "-*")
	s.flip(object, 5000)
	s.warns("WAL file 'SEGMENT' in the repo1 archive was damaged and has been stored again\n"+
		"HINT: check the file system of the repository, and run verify to look for further damage.", again(first))
	if s.read(object) != whole {
		t.Error("the damaged segment is as it was")
	}
	if o := s.run(pgxPath(), "archive-push", "--no-archive-mode-check", first); o.code != 0 || o.all() != "" {
		t.Errorf("exit %d\n%s", o.code, o.all())
	}
	for _, name := range []string{"00000002.history", segment2 + ".00000028.backup"} {
		path := filepath.Join(wal, name)
		s.write(path, "1\t0/3000000\tno recovery target specified\n")
		again(path)
		if o := again(path); o.all() != "" {
			t.Errorf("%s: %s", name, o.all())
		}
		s.write(path, "1\t0/3000001\tno recovery target specified\n")
		s.says(45, fmt.Sprintf(another, s.words(name)), "archive-push", path)
	}
	same := s.read(s.onlyObject("archive/demo/15-1/00000002.history"))
	if same != "1\t0/3000000\tno recovery target specified\n" {
		t.Errorf("the history file in the repository is now %q", same)
	}

	// The data directory is not one, or is damaged.
	s.says(55, "unable to read pg_control: open DIR/global/pg_control: no such file or directory\n"+
		"HINT: is 'DIR' the data directory of the cluster?", "archive-push", first, "--pg1-path="+s.dir)
	control := filepath.Join(s.pg.PGDATA, "global", "pg_control")
	s.flip(control, 100)
	s.says(26, "'PGDATA/global/pg_control': calculated pg_control checksum CRC does not match the expected value CRC\n"+
		"HINT: is pg_control corrupt, or written by a PostgreSQL that changed its layout?", "archive-push", first)
	s.flip(control, 100)

	// archive.info.
	info := s.repo + "/archive/demo/archive.info"
	s.change(info, half)
	again(first)
	s.change(info+".copy", half)
	s.says(103, "unable to find a valid repository:\n"+
		"repo1: [FormatError] unable to load info file 'REPO/archive/demo/archive.info' or 'REPO/archive/demo/archive.info.copy':\n"+
		"FormatError: 'REPO/archive/demo/archive.info': missing '=' in key/value at line 10: [db:his\n"+
		"FormatError: 'REPO/archive/demo/archive.info.copy': missing '=' in key/value at line 10: [db:his", "archive-push", first)
}

// TestPushAtOnce: of pushes of one segment at once all succeed and one file is left,
// whatever they compress with.
func TestPushAtOnce(t *testing.T) {
	t.Parallel()
	s := bareSite(t, pgtest.Options{WALSegSize: 1}, nil)
	s.must(pgxPath(), "stanza-create", "--no-online")
	_, first, segment2 := s.segment()
	wal := filepath.Dir(first)
	history := filepath.Join(wal, "00000002.history")
	s.write(history, "1\t0/3000000\tno recovery target specified\n")
	for _, path := range []string{first, history} {
		var wait sync.WaitGroup
		outcomes := make([]outcome, 6)
		for i := range outcomes {
			codec := []string{"none", "lz4", "zst"}[i%3]
			cmd := s.command(pgxPath(), "archive-push", "--compress-type="+codec, path)
			wait.Go(func() { outcomes[i] = s.exec(cmd) })
		}
		wait.Wait()
		for _, o := range outcomes {
			if o.code != 0 {
				t.Errorf("exit %d\n%s", o.code, o.all())
			}
		}
		var left []string
		for name, n := range tree(t, filepath.Join(s.repo, "archive", "demo", "15-1")) {
			if n.mode.IsRegular() && strings.HasPrefix(filepath.Base(name), filepath.Base(path)) {
				left = append(left, name)
			}
		}
		if len(left) != 1 {
			t.Errorf("left are %q", left)
		}
		s.must(pgxPath(), "archive-get", filepath.Base(path), s.dir+"/got")
		if s.read(s.dir+"/got") != s.read(path) {
			t.Errorf("%s has other content", path)
		}
	}
	// Of two contents at most one is acknowledged.
	other := s.empty("other")
	s.write(filepath.Join(other, segment2), s.read(first))
	s.write(filepath.Join(wal, segment2), s.read(first))
	s.flip(filepath.Join(other, segment2), -1)
	var wait sync.WaitGroup
	outcomes := make([]outcome, 2)
	for i, dir := range []string{other, wal} {
		cmd := s.command(pgxPath(), "archive-push", filepath.Join(dir, segment2))
		wait.Go(func() { outcomes[i] = s.exec(cmd) })
	}
	wait.Wait()
	ok := 0
	for _, o := range outcomes {
		switch o.code {
		case 0:
			ok++
		case 45:
		default:
			t.Errorf("exit %d\n%s", o.code, o.all())
		}
	}
	if ok > 1 {
		t.Error("both contents were acknowledged")
	}
}

// TestArchiveGetInput: what archive-get says of what it is asked for and finds.
func TestArchiveGetInput(t *testing.T) {
	t.Parallel()
	s := bareSite(t, pgtest.Options{WALSegSize: 1}, map[string]string{"compress-type": "none"})
	s.must(pgxPath(), "stanza-create", "--no-online")
	segment1, first, segment2 := s.segment()
	whole := s.read(first)
	s.must(pgxPath(), "archive-push", first)
	target := filepath.Join(s.dir, "target")
	nothing := func() {
		t.Helper()
		found, err := filepath.Glob(target + "*")
		if err != nil || len(found) > 0 {
			t.Errorf("left are %q, %v", found, err)
		}
	}

	s.says(43, "WAL segment to get required", "archive-get")
	s.says(43, "path to copy WAL segment required", "archive-get", segment1)
	s.says(96, "extra parameters found", "archive-get", segment1, target, "more")
	s.says(29, "'hello' is not the name of a WAL segment, partial segment, timeline history or backup history file\n"+
		"HINT: archive-get takes the name that PostgreSQL gives as %f", "archive-get", "hello", target)
	s.says(42, "unable to get SEGMENT:\n"+
		"repo1: 15-1/0000000100000000/SEGMENT-SUM [FileOpenError] unable to write the WAL file: open DIR/none/target.PID.pgx.tmp: no such file"+
		" or directory",
		"archive-get", segment1, s.dir+"/none/target")
	for _, name := range []string{segment2, "00000002.history", segment1 + ".partial"} {
		o := s.run(pgxPath(), "archive-get", "--log-level-console=info", name, target)
		if got := s.message("INFO", strings.Split(o.out, "\n")[1]+"\n"); o.code != 1 || got != s.words("unable to find "+name+" in the archive") {
			t.Errorf("exit %d, got %s\n%s", o.code, got, o.all())
		}
		if o := s.run(pgxPath(), "archive-get", name, target); o.code != 1 || o.all() != "" {
			t.Errorf("exit %d\n%s", o.code, o.all())
		}
	}
	c := s.command(pgxPath(), "archive-get", segment1, "pg_wal/RECOVERYXLOG")
	c.Dir = s.dir
	s.said(32, "PostgreSQL working directory 'DIR' is not the same as option pg1-path 'PGDATA'\n"+
		"HINT: is the PostgreSQL data_directory configured the same as the pg1-path option?", c)
	s.says(55, "unable to read pg_control: open DIR/global/pg_control: no such file or directory\n"+
		"HINT: is 'DIR' the data directory of the cluster?", "archive-get", segment1, target, "--pg1-path="+s.dir)
	nothing()

	// A damaged segment is not handed over, in any form.
	strict := func(code int, get string) {
		t.Helper()
		cmd := s.command(pgxPath(), "archive-get", "--archive-timeout=1", get, target)
		cmd.Env = append(cmd.Env, "PGX_ARCHIVE_GET_STRICT=y")
		if o := s.exec(cmd); o.code != code {
			t.Errorf("strict: exit %d, want %d\n%s", o.code, code, o.all())
		}
	}
	const damaged = "\nHINT: a server that still has the file in pg_wal can store it anew, with archive-push" +
		"\nHINT: else recover to a moment before it (--type=time or lsn), or from a backup that began later"
	object := s.onlyObject("archive/demo/15-1/*/" + segment1 + "-*")
	s.flip(object, 5000)
	s.says(42, "unable to get SEGMENT:\n"+
		"repo1: 15-1/0000000100000000/SEGMENT-SUM [ChecksumError] actual checksum 'SUM' does not match expected checksum 'SUM'"+damaged,
		"archive-get", segment1, target)
	strict(255, segment1)
	strict(1, segment2)
	nothing()
	s.write(object, whole[:8192])
	s.says(42, "unable to get SEGMENT:\n"+
		"repo1: 15-1/0000000100000000/SEGMENT-SUM [ChecksumError] actual checksum 'SUM' does not match expected checksum 'SUM'"+damaged,
		"archive-get", segment1, target)
	s.write(object, "")
	s.says(42, "unable to get SEGMENT:\n"+
		"repo1: 15-1/0000000100000000/SEGMENT-SUM [ChecksumError] actual checksum 'SUM' does not match expected checksum 'SUM'"+damaged,
		"archive-get", segment1, target)
	s.write(object, whole+"x")
	s.says(42, "unable to get SEGMENT:\n"+
		"repo1: 15-1/0000000100000000/SEGMENT-SUM [ChecksumError] content is longer than the expected 1048576 bytes"+damaged,
		"archive-get", segment1, target)
	s.remove(object)
	s.must(pgxPath(), "archive-push", "--compress-type=lz4", first)
	s.write(object, whole[:8192])
	o := s.run(pgxPath(), "archive-get", segment1, target) // the sound one
	s.warns("repo1: 15-1/0000000100000000/SEGMENT-SUM [ChecksumError] actual checksum 'SUM' does not match expected checksum 'SUM'", o)
	if o.code != 0 || s.read(target) != whole {
		t.Errorf("exit %d\n%s", o.code, o.all())
	}
	s.remove(target)
	s.remove(object)
	s.flip(object+".lz4", 5000)
	s.says(42, "unable to get SEGMENT:\n"+
		"repo1: 15-1/0000000100000000/SEGMENT-SUM.lz4 [ChecksumError] actual checksum 'SUM' does not match expected checksum 'SUM'"+damaged,
		"archive-get", segment1, target)
	s.change(object+".lz4", half)
	s.says(42, "unable to get SEGMENT:\n"+
		"repo1: 15-1/0000000100000000/SEGMENT-SUM.lz4 [FormatError] unexpected eof in compressed data"+damaged, "archive-get", segment1, target)
	nothing()
	s.remove(object + ".lz4")
	s.write(object, whole)

	// Two that differ.
	twin := object[:len(object)-40] + strings.Repeat("0", 40)
	s.write(twin, whole)
	s.says(45, "duplicates found for WAL segment SEGMENT:\n"+
		"repo1: 15-1/0000000100000000/SEGMENT-SUM, 15-1/0000000100000000/SEGMENT-SUM\n"+
		"HINT: are multiple primaries archiving to this stanza?", "archive-get", segment1, target)
	strict(255, segment1)
	s.remove(twin)

	needsRoot(t)
	s.closed(object)
	s.says(42, "unable to get SEGMENT:\n"+
		"repo1: 15-1/0000000100000000/SEGMENT-SUM [FileOpenError] unable to open file 'REPO/archive/demo/15-1/0000000100000000/SEGMENT-SUM' for"+
		" read: permission denied",
		"archive-get", segment1, target)
	nothing()
}

// notStartable makes sure that what a restore left in dir does not start, for want of
// pg_control and by PostgreSQL's own word.
func (s *site) notStartable(dir string) {
	s.Helper()
	if exists(filepath.Join(dir, "global", "pg_control")) {
		s.Error("global/pg_control is there")
	}
	o := s.exec(pgtest.Command(s.T, filepath.Join(s.pg.BinDir, "postgres"), "-D", dir, "-k", s.dir, "-p", "1", "-c", "listen_addresses="))
	for _, refusal := range []string{
		"could not find the database system", "could not access the server configuration file", "is not a valid data directory",
	} {
		if o.code != 0 && strings.Contains(o.err, refusal) {
			return
		}
	}
	s.Errorf("postgres ends with %d and says\n%s", o.code, o.all())
}

// restoreSite is a site with a backup in lz4 and one not compressed, whose server is down. Its
// largest file, the first to be restored, is that of table t.
func restoreSite(t *testing.T) (s *site, packed, plain string) {
	s = newSite(t, pgtest.Options{WALSegSize: 1}, nil)
	s.slim()
	s.pg.Exec("create table t as select g, md5(g::text) from generate_series(1, 30000) g; checkpoint")
	s.must(pgxPath(), "backup", "--type=full")
	packed = s.label()
	s.must(pgxPath(), "backup", "--type=full", "--compress-type=none")
	return s, packed, s.label()
}

// slim makes the cluster one of fewer files.
func (s *site) slim() {
	s.Helper()
	for _, name := range []string{"template0", "template1"} {
		s.pg.Exec("alter database " + name + " is_template false; drop database " + name)
	}
}

// TestRestoreInput: what restore says of what it is asked for.
func TestRestoreInput(t *testing.T) {
	t.Parallel()
	s, packed, _ := restoreSite(t)
	says := func(code int, want string, args ...string) {
		t.Helper()
		dir := filepath.Join(s.dir, "target")
		s.says(code, want, append([]string{"restore", "--pg1-path=" + dir}, args...)...)
		if exists(dir) {
			t.Error("something was written")
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	says(75, "backup set LABEL is not valid", "--set=20200101-000000F")
	says(75, "backup set ../../etc is not valid", "--set=../../etc")
	says(75, "backup set LATEST is not valid", "--set=LATEST")
	says(75, "unable to find backup set with stop time less than '2020-01-01 00:00:00+00'", "--type=time", "--target=2020-01-01 00:00:00+00")
	says(29, "automatic backup set selection cannot be performed with provided time 'yesterday'\n"+
		"HINT: time format must be YYYY-MM-DD HH:MM:SS with optional msec and optional timezone (+/- HH or HHMM or HH:MM) - if timezone is"+
		" omitted, local time is assumed (for UTC use +00)",
		"--type=time", "--target=yesterday")
	says(29, "automatic backup set selection cannot be performed with provided time '2020-01-01 00:00:00 Europe/Berlin'\n"+
		"HINT: time format must be YYYY-MM-DD HH:MM:SS with optional msec and optional timezone (+/- HH or HHMM or HH:MM) - if timezone is"+
		" omitted, local time is assumed (for UTC use +00)",
		"--type=time", "--target=2020-01-01 00:00:00 Europe/Berlin")
	says(75, "unable to find backup set with lsn less than or equal to '0/1'", "--type=lsn", "--target=0/1")
	says(29, "'5' is not an LSN such as '0/1500028'", "--type=lsn", "--target=5")
	says(55, "unable to open missing file 'REPO/archive/demo/15-1/00000007.history' for read", "--target-timeline=7")
	says(58, "invalid target timeline 'first'", "--target-timeline=first")
	says(76, "unable to remap invalid tablespace 'none'", "--tablespace-map=none=/x")
	says(78, "unable to map link 'none'\n"+
		"HINT: Does the link reference a valid backup path or file?", "--link-map=none=/x")
	says(70, "link 'pg_wal' destination 'DIR/target/x' is in PGDATA", "--link-map=pg_wal=x")
	says(80, "database to include 'none' does not exist", "--db-include=none")
	says(31, "'standby_mode' setting is not valid for PostgreSQL >= 12\n"+
		"HINT: use --type=standby instead of --recovery-option=standby_mode=on.", "--recovery-option=standby_mode=on")

	// The target.
	s.says(38, "unable to restore while PostgreSQL is running\n"+
		"HINT: presence of 'postmaster.pid' in 'PGDATA' indicates PostgreSQL is running.\n"+
		"HINT: remove 'postmaster.pid' only if PostgreSQL is not running.", "restore") // the server runs
	s.says(38, "unable to restore while PostgreSQL is running\n"+
		"HINT: presence of 'postmaster.pid' in 'PGDATA' indicates PostgreSQL is running.\n"+
		"HINT: remove 'postmaster.pid' only if PostgreSQL is not running.", "restore", "--delta")
	s.says(38, "unable to restore while PostgreSQL is running\n"+
		"HINT: presence of 'postmaster.pid' in 'PGDATA' indicates PostgreSQL is running.\n"+
		"HINT: remove 'postmaster.pid' only if PostgreSQL is not running.", "restore", "--force")
	full := s.empty("full")
	s.write(filepath.Join(full, "mine"), "mine")
	s.says(40, "unable to restore to path 'DIR/full' because it contains files\n"+
		"HINT: try using --delta if this is what you intended.", "restore", "--pg1-path="+full)
	o := s.says(40, "unable to restore to path 'DIR/full' because it contains files\n"+
		"HINT: try using --delta if this is what you intended.", "restore", "--pg1-path="+full, "--delta")
	s.warns("--delta or --force specified but unable to find 'PG_VERSION' or 'backup.manifest' in 'DIR/full' to"+
		" confirm that this is a valid $PGDATA directory. --delta and --force have been disabled and if any files exist in"+
		" the destination directories the restore will be aborted.", o)
	if s.read(filepath.Join(full, "mine")) != "mine" || len(tree(t, full)) != 2 {
		t.Error("the target has changed")
	}
	s.says(98, "unable to get info for path/file 'DIR/pgbackrest.conf/postmaster.pid': stat DIR/pgbackrest.conf/postmaster.pid: not a directory",
		"restore", "--pg1-path="+s.conf)
	s.says(32, "'target' must begin with / for 'pg1-path' option (command line)", "restore", "--pg1-path=target")
	s.must(pgxPath(), "restore", "--pg1-path="+s.dir+"/no/such/parent", "--set="+packed) // they are made
	s.says(40, "unable to restore to path 'DIR/no/such/parent' because it contains files\n"+
		"HINT: try using --delta if this is what you intended.", "restore", "--pg1-path="+s.dir+"/no/such/parent")

	needsRoot(t)
	closed := s.empty("closed")
	if err := os.Chmod(closed, 0o500); err != nil {
		t.Fatal(err)
	}
	s.says(53, "unable to restore to path 'DIR/closed' without rwx permissions", "restore", "--pg1-path="+closed)
	foreign(t, closed)
	s.says(53, "unable to restore to path 'DIR/closed' not owned by current user", "restore", "--pg1-path="+closed)
	s.says(47, "unable to create path 'DIR/closed/data': permission denied", "restore", "--pg1-path="+closed+"/data")
}

// TestDamagedRepository: a copy stands in for a damaged info file or manifest; a restore of
// what is damaged itself ends, and leaves nothing that starts.
func TestDamagedRepository(t *testing.T) {
	t.Parallel()
	s, packed, plain := restoreSite(t)
	rel := s.pg.QueryValue("select pg_relation_filenode('t')")
	s.pg.Stop(pgtest.Fast)
	intact := tree(t, s.restore("intact", pgxPath(), "--set="+plain, "--type=none"))
	target := filepath.Join(s.dir, "target")
	undo := func(names ...string) func() {
		sound := map[string]string{}
		for _, name := range names {
			sound[name] = s.read(name)
		}
		return func() {
			for name, text := range sound {
				s.write(name, text)
			}
		}
	}
	flipped := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	empty := func([]byte) []byte { return nil }
	altered := func(b []byte) []byte { // still well formed
		return bytes.ReplaceAll(b, []byte(`"db-version":"15"`), []byte(`"db-version":"16"`))
	}
	version := func(b []byte) []byte {
		return bytes.ReplaceAll(b, []byte(`db-version="15"`), []byte(`db-version="16"`))
	}

	// The copy is used.
	backupInfo, archiveInfo := s.repo+"/backup/demo/backup.info", s.repo+"/archive/demo/archive.info"
	manifest := s.repo + "/backup/demo/" + plain + "/backup.manifest"
	mend := undo(backupInfo, archiveInfo, manifest, backupInfo+".copy", archiveInfo+".copy", manifest+".copy")
	for _, how := range []func([]byte) []byte{flipped, half, empty, altered, func([]byte) []byte { return []byte("no info file\n") }} {
		for _, f := range []string{backupInfo, archiveInfo, manifest} {
			s.change(f, how)
		}
		s.must(pgxPath(), "restore", "--dry-run", "--pg1-path="+target, "--set="+plain, "--type=none")
	}
	same(t, tree(t, s.restore("from copies", pgxPath(), "--set="+plain, "--type=none")), intact, nil)
	mend()

	// Both are damaged.
	both := func(name string, how func([]byte) []byte) {
		t.Helper()
		s.change(name, how)
		s.change(name+".copy", how)
	}
	both(manifest, version)
	s.says(26, "unable to load info file 'REPO/backup/demo/LABEL/backup.manifest' or 'REPO/backup/demo/LABEL/backup.manifest.copy':\n"+
		"ChecksumError: 'REPO/backup/demo/LABEL/backup.manifest': invalid checksum, actual 'SUM' but expected 'SUM'\n"+
		"ChecksumError: 'REPO/backup/demo/LABEL/backup.manifest.copy': invalid checksum, actual 'SUM' but expected 'SUM'",
		"restore", "--pg1-path="+target, "--set="+plain)
	both(manifest, empty)
	s.says(26, "unable to load info file 'REPO/backup/demo/LABEL/backup.manifest' or 'REPO/backup/demo/LABEL/backup.manifest.copy':\n"+
		"ChecksumError: 'REPO/backup/demo/LABEL/backup.manifest': invalid checksum, actual 'SUM' but no checksum found\n"+
		"ChecksumError: 'REPO/backup/demo/LABEL/backup.manifest.copy': invalid checksum, actual 'SUM' but no checksum found",
		"restore", "--pg1-path="+target, "--set="+plain)
	s.remove(manifest)
	s.remove(manifest + ".copy")
	s.says(55, "unable to load info file 'REPO/backup/demo/LABEL/backup.manifest' or 'REPO/backup/demo/LABEL/backup.manifest.copy':\n"+
		"FileMissingError: unable to open missing file 'REPO/backup/demo/LABEL/backup.manifest' for read\n"+
		"FileMissingError: unable to open missing file 'REPO/backup/demo/LABEL/backup.manifest.copy' for read",
		"restore", "--pg1-path="+target, "--set="+plain)
	both(backupInfo, altered)
	o := s.says(75, "no backup set found to restore\nHINT: repo1 could not be read, see the warning: the backup may be there", "restore", "--pg1-path="+target)
	s.warns("repo1: [ChecksumError] unable to load info file 'REPO/backup/demo/backup.info' or 'REPO/backup/demo/backup.info.copy':\n"+
		"ChecksumError: 'REPO/backup/demo/backup.info': invalid checksum, actual 'SUM' but expected 'SUM'\n"+
		"ChecksumError: 'REPO/backup/demo/backup.info.copy': invalid checksum, actual 'SUM' but expected 'SUM'", o)
	s.says(26, "unable to load info file 'REPO/backup/demo/backup.info' or 'REPO/backup/demo/backup.info.copy':\n"+
		"ChecksumError: 'REPO/backup/demo/backup.info': invalid checksum, actual 'SUM' but expected 'SUM'\n"+
		"ChecksumError: 'REPO/backup/demo/backup.info.copy': invalid checksum, actual 'SUM' but expected 'SUM'",
		"backup", "--type=full", "--no-online")
	both(archiveInfo, altered)
	s.says(26, "unable to load info file 'REPO/archive/demo/archive.info' or 'REPO/archive/demo/archive.info.copy':\n"+
		"ChecksumError: 'REPO/archive/demo/archive.info': invalid checksum, actual 'SUM' but expected 'SUM'\n"+
		"ChecksumError: 'REPO/archive/demo/archive.info.copy': invalid checksum, actual 'SUM' but expected 'SUM'", "stanza-create", "--no-online")
	if exists(target) {
		t.Error("something was written")
	}
	mend()

	// Data files.
	table := "base/5/" + rel
	const (
		checksum = "actual checksum 'SUM' does not match expected checksum 'SUM'"
		cut      = "unexpected eof in compressed data"
		missing  = "unable to open missing file 'REPO/backup/demo/LABEL/pg_data/%s' for read"
	)
	for _, d := range []struct {
		name, label, file string
		how               func([]byte) []byte
		code              int
		shown, want       string // shown: as messages name it
	}{
		{"flipped", plain, table, flipped, 26, "base/5/REL", checksum},
		{"cut", plain, table, half, 26, "base/5/REL", checksum},
		{"empty", plain, table, empty, 26, "base/5/REL", checksum},
		{"longer", plain, table, func(b []byte) []byte { return append(b, b...) }, 26, "base/5/REL", "content is longer than the size in the manifest"},
		{"missing", plain, table, nil, 55, "base/5/REL", fmt.Sprintf(missing, "base/5/REL")},
		{"control", plain, "global/pg_control", flipped, 26, "global/pg_control", checksum},
		{"nocontrol", plain, "global/pg_control", nil, 55, "global/pg_control", fmt.Sprintf(missing, "global/pg_control")},
		{"label", plain, "backup_label", flipped, 26, "backup_label", checksum},
		{"packed", packed, table + ".lz4", flipped, 26, "base/5/REL", checksum},
		{"packedcut", packed, table + ".lz4", half, 29, "base/5/REL", cut},
		{"packedempty", packed, table + ".lz4", empty, 29, "base/5/REL", cut},
	} {
		path := filepath.Join(s.repo, "backup/demo", d.label, "pg_data", d.file)
		mend := undo(path)
		if d.how == nil {
			s.remove(path)
		} else {
			s.change(path, d.how)
		}
		dir := s.empty(d.name)
		s.says(d.code, "error restoring 'DIR/"+d.name+"/"+d.shown+"': "+d.want+"\n"+
			"HINT: 'REPO/backup/demo/LABEL/pg_data/"+strings.Replace(d.file, rel, "REL", 1)+"' is damaged or missing in repo1: restore a backup that does not depend on LABEL with --set, such as one of another"+
			" full backup, or restore from another repository with --repo.",
			"restore", "--pg1-path="+dir, "--set="+d.label, "--type=none")
		s.notStartable(dir)
		mend()
		if d.name == "flipped" || d.name == "control" { // the next restore takes up what is there
			s.must(pgxPath(), "restore", "--pg1-path="+dir, "--set="+d.label, "--type=none", "--delta")
			same(t, tree(t, dir), intact, nil)
		}
	}
}
