package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// needsRoot skips a test that gives files away, mounts or forbids things to its programs.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

func TestConfigurationFile(t *testing.T) {
	t.Parallel()
	s := bareSite(t, pgtest.Options{WALSegSize: 1}, nil)
	file := func(name, content string) string {
		path := filepath.Join(s.dir, name)
		s.write(path, content)
		return "--config=" + path
	}
	at := func(code int, want string, args ...string) {
		t.Helper()
		s.said(code, want, pgtest.Command(t, pgxPath(), args...))
	}
	at(55, "unable to open missing file 'DIR/missing.conf' for read", "--config="+s.dir+"/missing.conf", "info")
	at(42, "unable to read 'DIR': [21] Is a directory", "--config="+s.dir, "info")
	at(29, "key/value found outside of section at line 1: repo1-path=/x (file 'DIR/text.conf')", file("text.conf", "repo1-path=/x\n"), "info")
	at(29, "ini section should end with ] at line 1: [global (file 'DIR/broken.conf')",
		file("broken.conf", "[global\nrepo1-path=/x\n"), "info")
	at(29, "missing '=' in key/value at line 2: repo1-path (file 'DIR/novalue.conf')", file("novalue.conf", "[global]\nrepo1-path\n"), "info")
	at(32, "section 'global', key 'repo1-path' must have a value (file 'DIR/empty.conf', section [global], line 2)",
		file("empty.conf", "[global]\nrepo1-path=\n"), "info")
	at(31, "option 'repo1-path' cannot be set multiple times (file 'DIR/twice.conf', section [global], line 2)",
		file("twice.conf", "[global]\nrepo1-path=/a\nrepo1-path=/b\n"), "info")
	at(29, "expected value but found '/' instead at line 2 (file 'DIR/broken.toml')",
		file("broken.toml", "[global]\nrepo1-path = /x\n"), "info")
	at(32, "true and false are not valid for 'process-max' option (file 'DIR/type.toml', section [global], line 2; a whole number is expected)",
		file("type.toml", "[global]\nprocess-max = true\n[stanza.demo]\npg1-path=\"/x\"\n"), "backup")
	at(32, "'0' is out of range for 'process-max' option (file 'DIR/range.toml', section [global], line 2; allowed range is 1 to 999 inclusive)",
		file("range.toml", "[global]\nprocess-max = 0\n[stanza.demo]\npg1-path=\"/x\"\n"), "backup")
	at(32, "'0' is out of range for 'process-max' option (file 'DIR/range.conf', section [global], line 2; allowed range is 1 to 999 inclusive)",
		file("range.conf", "[global]\nprocess-max=0\n[demo]\npg1-path=/x\n"), "backup")
	at(32, "'lzma' is not allowed for 'compress-type' option (file 'DIR/type.conf', section [global], line 2; allowed values are 'none',"+
		" 'bz2', 'gz', 'lz4', 'zst')",
		file("type.conf", "[global]\ncompress-type=lzma\n[demo]\npg1-path=/x\n"), "backup")
	at(32, "'repo' must begin with / for 'repo1-path' option (file 'DIR/path.conf', section [global], line 2)",
		file("path.conf", "[global]\nrepo1-path=repo\n"), "info")
	at(37, "backup command requires option: stanza\n"+
		"HINT: no stanza is configured in 'DIR/none.conf'.", file("none.conf", "[global]\nrepo1-path=/x\n"), "backup")
	at(37, "backup command requires option: stanza\n"+
		"HINT: configured are 'one', 'two'; choose one with --stanza=NAME.", file("many.conf", "[one]\npg1-path=/x\n[two]\npg1-path=/y\n"), "backup")
	at(32, "local repo1 and repo2 paths are both '/x' but must be different",
		file("same.conf", "[global]\nrepo1-path=/x\nrepo2-path=/x\n"), "info")
	o := s.exec(pgtest.Command(t, pgxPath(), file("table.toml", "[demo]\npg1-path=\"/x\"\n"), "backup"))
	s.warns("configuration file contains table '[demo]' that is neither [global] nor [stanza.NAME]", o)
	if os.Getuid() == 0 {
		f := file("closed.conf", "[global]\n")
		s.closed(filepath.Join(s.dir, "closed.conf"))
		at(41, "unable to open file 'DIR/closed.conf' for read: [13] Permission denied", f, "info")
	}
	o = s.exec(pgtest.Command(t, pgxPath(), file("slip.conf", "[global]\nrepo1-pth=/x\n"), "info"))
	s.warns("configuration file contains invalid option 'repo1-pth'\n"+
		"HINT: did you mean 'repo1-path'?", o)
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	s := bareSite(t, pgtest.Options{WALSegSize: 1}, nil)
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{48, "invalid command 'bakcup'\n" +
			"HINT: did you mean 'backup'?", []string{"bakcup"}},
		{48, "invalid command 'sta'\n" +
			"HINT: it could be stanza-create, stanza-delete, stanza-upgrade, start.", []string{"sta"}},
		{30, "no command found", []string{"--stanza=demo"}},
		{96, "command does not allow parameters", []string{"backup", "extra"}},
		{31, "invalid option '--proces-max=2'\n" +
			"HINT: did you mean '--process-max'?", []string{"backup", "--proces-max=2"}},
		{31, "invalid option '--compres'\n" +
			"HINT: did you mean '--compress'?", []string{"backup", "--repo-path=/x", "--compres"}},
		{31, "option '-x' must begin with --", []string{"backup", "-x"}},
		{31, "option '--process-max' requires an argument", []string{"backup", "--process-max"}},
		{32, "'many' is not valid for 'process-max' option (command line; a whole number is expected)", []string{"backup", "--process-max=many"}},
		{32, "'1000' is out of range for 'process-max' option (command line; allowed range is 1 to 999 inclusive)",
			[]string{"backup", "--process-max=1000"}},
		{32, "'20' is out of range for 'compress-level' option when 'compress-type' option = 'lz4' (command line; allowed range is -5 to 12 inclusive)",
			[]string{"backup", "--compress-level=20"}},
		{32, "boolean option '--start-fast' argument must be 'y' or 'n'", []string{"backup", "--start-fast=yes"}},
		{32, "'ful' is not allowed for 'type' option (command line; allowed values are 'full', 'diff', 'incr')",
			[]string{"backup", "--type=ful"}},
		{31, "option 'set' not valid for command 'backup'", []string{"backup", "--set=latest"}},
		{32, "key '3' is not valid for 'repo' option", []string{"backup", "--repo=3"}},
		{31, "key/value 'x' not valid for 'annotation' option (command line; key=value is expected)", []string{"backup", "--annotation=x"}},
		{32, "'1y' is not valid for 'archive-timeout' option (command line; a time such as 500ms, 30s, 10m, 1h or 7d is expected)",
			[]string{"backup", "--archive-timeout=1y"}},
		{32, "'../x' is not valid for 'stanza' option (command line; a name without '/' is expected)", []string{"backup", "--stanza=../x"}},
		{37, "backup command requires option: pg1-path\n" +
			"HINT: does this stanza exist?", []string{"backup", "--stanza=other"}},
		{37, "restore command requires option: target", []string{"restore", "--type=time"}},
		{31, "option 'target' not valid without option 'type' in ('lsn', 'name', 'time', 'xid')", []string{"restore", "--target=x"}},
		{32, "'tiem' is not allowed for 'type' option (command line; allowed values are 'default', 'preserve', 'immediate', 'standby', 'none'," +
			" 'name', 'time', 'lsn', 'xid')",
			[]string{"restore", "--type=tiem", "--target=x"}},
		{31, "option 'repo1-cipher-pass' is not allowed on the command-line\n" +
			"HINT: this option could expose secrets in the process list.\n" +
			"HINT: specify the option in a configuration file or an environment variable instead.", []string{"restore", "--repo1-cipher-pass=x"}},
		{31, "option 'delta' cannot be set and negated", []string{"restore", "--delta", "--no-delta"}},
		{32, "'x' is not a valid backup label format", []string{"info", "--set=x", "--stanza=demo"}},
		{32, "'xml' is not allowed for 'output' option (command line; allowed values are 'text', 'json')", []string{"info", "--output=xml"}},
		// What pgx does not do yet.
		{67, "command 'verify' is not supported yet", []string{"verify"}},
		{67, "command 'stanza-delete' is not supported yet", []string{"stanza-delete"}},
		{67, "command 'stanza-upgrade' is not supported yet", []string{"stanza-upgrade"}},
		{67, "command 'repo-ls' is not supported yet", []string{"repo-ls"}},
		{67, "command 'annotate' is not supported yet", []string{"annotate", "--annotation=a=b", "--set=20260101-000000F"}},
		{67, "option 'repo1-type' = 's3' is not supported yet: only posix can be used (command line)", []string{"info", "--repo1-type=s3"}},
		{37, "info command requires option: repo1-cipher-pass", []string{"info", "--repo1-cipher-type=aes-256-cbc"}},
		{72, "archive-push command must be run on the PostgreSQL host", []string{"archive-push", "--pg1-host=db", "x"}},
		{67, "option 'repo1-type' = 'sftp' is not supported yet: only posix can be used (command line)",
			[]string{"stanza-create", "--repo1-type=sftp"}},
	} {
		s.says(c.code, c.want, c.args...)
	}
	for _, c := range []struct{ want, variable string }{
		{"'0' is out of range for 'process-max' option (variable PGX_PROCESS_MAX; allowed range is 1 to 999 inclusive)", "PGX_PROCESS_MAX=0"},
		{"'0' is out of range for 'process-max' option (variable PGBACKREST_PROCESS_MAX; allowed range is 1 to 999 inclusive)",
			"PGBACKREST_PROCESS_MAX=0"},
		{"environment boolean option 'start-fast' must be 'y' or 'n' (variable PGX_START_FAST)", "PGX_START_FAST=1"},
		{"environment variable 'PGX_REPO1_PATH' must have a value", "PGX_REPO1_PATH="},
	} {
		cmd := s.command(pgxPath(), "backup", "--type=full")
		cmd.Env = append(cmd.Env, c.variable)
		s.said(32, c.want, cmd)
	}
}

// TestRepository: what is said of a stanza that is not there and of a repository that
// cannot be used.
func TestRepository(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Options{WALSegSize: 1}, nil)
	_, segment, _ := s.segment()
	target := filepath.Join(s.dir, "segment")
	other := []string{"--stanza=other", "--pg1-path=" + s.pg.PGDATA, "--pg1-socket-path=" + s.pg.SocketDir, fmt.Sprintf("--pg1-port=%d", s.pg.Port)}
	with := func(more []string, args ...string) []string { return append(args, more...) }
	const (
		valid  = "unable to find a valid repository:\nrepo1: "
		noInfo = "unable to load info file 'REPO/%[1]s' or 'REPO/%[1]s.copy':\n" +
			"FileMissingError: unable to open missing file 'REPO/%[1]s' for read\n" +
			"FileMissingError: unable to open missing file 'REPO/%[1]s.copy' for read\n"
		noStanza = "HINT: archive.info cannot be opened but is required to push/get WAL segments.\n" +
			"HINT: is archive_command configured correctly in postgresql.conf?\n" +
			"HINT: has a stanza-create been performed?\n" +
			"HINT: use --no-archive-check to disable archive checks during backup if you have an alternate archiving scheme."
		noPath = "unable to open repository path 'DIR/none': no such file or directory\n" +
			"HINT: is the file system of the repository mounted?\n" +
			"HINT: is repo1-path right? stanza-create makes the directory"
		noDir  = "unable to open repository path 'DIR/pgbackrest.conf': not a directory"
		denied = "unable to open repository path 'DIR/frozen': permission denied"
	)
	noArchive := fmt.Sprintf(noInfo, "archive/other/archive.info") + noStanza
	s.says(55, fmt.Sprintf(noInfo, "backup/other/backup.info")+
		"HINT: backup.info cannot be opened and is required to perform a backup.\n"+
		"HINT: has a stanza-create been performed?", with(other, "backup", "--type=full")...)
	s.says(55, noArchive, with(other, "check")...)
	s.says(103, valid+"[FileMissingError] "+noArchive, "--stanza=other", "--pg1-path="+s.pg.PGDATA, "archive-push", segment)
	s.says(103, valid+"[FileMissingError] "+noArchive, "--stanza=other", "--pg1-path="+s.pg.PGDATA, "archive-get", filepath.Base(segment), target)
	o := s.says(75, "no backup set found to restore\nHINT: repo1 could not be read, see the warning: the backup may be there", "--stanza=other", "--pg1-path="+s.dir+"/none", "restore")
	s.warns("repo1: [FileMissingError] "+fmt.Sprintf(noInfo, "backup/other/backup.info")+
		"HINT: backup.info cannot be opened and is required to perform a backup.\n"+
		"HINT: has a stanza-create been performed?", o)
	if out := s.must(pgxPath(), "info", "--stanza=other"); out != "stanza: other\n    status: error (missing stanza path)\n" {
		t.Errorf("info says\n%s", out)
	}

	missing := "--repo1-path=" + s.dir + "/none"
	s.says(73, noPath, missing, "backup", "--type=full")
	s.says(73, noPath, missing, "check")
	s.says(73, noPath, missing, "restore", "--pg1-path="+s.dir+"/none")
	s.says(103, valid+"[PathMissingError] "+noPath, missing, "archive-push", segment)
	s.says(103, valid+"[PathMissingError] "+noPath, missing, "archive-get", filepath.Base(segment), target)
	file := "--repo1-path=" + s.conf
	s.says(53, noDir, file, "backup", "--type=full")
	s.says(53, noDir, file, "stanza-create")
	if out := s.words(s.must(pgxPath(), file, "info")); out != "stanza: [invalid]\n    status: error (other)\n"+
		"            [PathOpenError] "+noDir+"\n    cipher: none\n" {
		t.Errorf("info says\n%s", out)
	}

	needsRoot(t)
	lock := s.empty("locked")
	if err := os.Chmod(lock, 0o500); err != nil {
		t.Fatal(err)
	}
	s.says(50, "unable to acquire lock on file 'DIR/locked/demo-backup-1.lock': Permission denied\n"+
		"HINT: does 'postgres:postgres' running pgBackRest have permissions on the 'DIR/locked/demo-backup-1.lock' file?",
		"--lock-path="+lock, "backup", "--type=full")
	s.says(41, "unable to open file 'DIR/locked/all.stop' for write: permission denied", "--lock-path="+lock, "stop")

	// A repository that others may read only.
	frozen := s.empty("frozen")
	s.must(pgxPath(), "stanza-create", "--repo1-path="+frozen)
	foreign(t, frozen)
	s.says(47, "unable to create path 'DIR/frozen/backup/demo/LABEL': permission denied",
		"--repo1-path="+frozen, "backup", "--type=full", "--no-archive-check")
	s.says(104, "archive-push command encountered error(s):\n"+
		"repo1: [PathCreateError] unable to create path 'DIR/frozen/archive/demo/15-1': permission denied",
		"--repo1-path="+frozen, "archive-push", segment)
	s.says(47, "unable to create path 'DIR/frozen/archive/other': permission denied",
		"--repo1-path="+frozen, "stanza-create", "--stanza=other", "--pg1-path="+s.pg.PGDATA, "--no-online")
	s.inBackup(false)
	s.closed(frozen)
	s.says(53, denied, "--repo1-path="+frozen, "backup", "--type=full")
	s.says(103, valid+"[PathOpenError] "+denied, "--repo1-path="+frozen, "archive-push", segment)
	s.says(53, denied, "--repo1-path="+frozen, "stanza-create")
}

// TestCluster: what is said of a server that cannot be used.
func TestCluster(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Options{WALSegSize: 1}, map[string]string{"archive-timeout": "1"})
	const connect = "unable to connect to 'dbname='postgres' port=PORT user='postgres' host='SOCKETS'': "
	unreachable := func(code, reason, hints string, option ...string) {
		t.Helper()
		for _, command := range []string{"backup --type=full", "stanza-create"} {
			o := s.says(56, "unable to find primary cluster - cannot proceed\n"+
				"HINT: are all available clusters in recovery?\n"+
				"HINT: pg1: "+reason, append(strings.Fields(command), option...)...)
			s.warns("unable to check pg1: ["+code+"] "+reason+hints, o)
		}
		o := s.says(27, "no database found\n"+
			"HINT: check indexed pg-path/pg-host configurations", append([]string{"--stanza=demo", "check", "--pg1-path=" + s.pg.PGDATA}, option...)...)
		s.warns("unable to check pg1: ["+code+"] "+reason+hints, o)
	}
	const where = "\nHINT: pg-socket-path is a directory of the server's setting unix_socket_directories, pg-port its setting port"
	unreachable("DbConnectError", strings.Replace(connect, "PORT", "1", 1)+"'SOCKETS/.s.PGSQL.1' does not exist",
		"\nHINT: is PostgreSQL of port 1 running?\nHINT: 'SOCKETS' has sockets of port PORT: is pg-port right?", "--pg1-port=1")
	unreachable("DbConnectError", strings.Replace(connect, "user='postgres'", "user='nobody'", 1)+`FATAL:  role "nobody" does not exist`,
		"\n"+`HINT: run as a superuser: CREATE ROLE "nobody" LOGIN; (ALTER ROLE if it exists), or set pg-user to another role`, "--pg1-user=nobody")
	unreachable("DbConnectError", strings.Replace(connect, "dbname='postgres'", "dbname='none'", 1)+`FATAL:  database "none" does not exist`,
		"\nHINT: set pg-database to a database that exists", "--pg1-database=none")
	unreachable("DbConnectError", strings.Replace(connect, "SOCKETS", "DIR", 1)+"'DIR/.s.PGSQL.PORT' does not exist",
		"\nHINT: is PostgreSQL running?"+where, "--pg1-socket-path="+s.dir)
	s.pg.Exec("create role closed; create role open login; create database shut; revoke connect on database shut from public")
	unreachable("DbConnectError", strings.Replace(connect, "user='postgres'", "user='closed'", 1)+`FATAL:  role "closed" is not permitted to log in`,
		"\n"+`HINT: run as a superuser: CREATE ROLE "closed" LOGIN; (ALTER ROLE if it exists), or set pg-user to another role`, "--pg1-user=closed")
	unreachable("DbConnectError", strings.Replace(strings.Replace(connect, "user='postgres'", "user='open'", 1), "dbname='postgres'", "dbname='shut'", 1)+
		`FATAL:  permission denied for database "shut" (User does not have CONNECT privilege.)`,
		"\n"+`HINT: run as a superuser: GRANT CONNECT ON DATABASE "shut" TO "open";`, "--pg1-user=open", "--pg1-database=shut")
	for _, command := range []string{"backup --type=full", "stanza-create", "check --stanza=demo"} {
		o := s.run(pgxPath(), append(strings.Fields(command), "--pg1-path="+s.dir)...)
		s.warns("unable to check pg1: [FileMissingError] unable to open missing file 'DIR/global/pg_control' for read", o)
	}

	// Archiving that leads elsewhere, or nowhere.
	command := s.pg.QueryValue("show archive_command")
	set := func(command string) {
		s.pg.Configure(map[string]string{"archive_command": command})
		s.pg.Reload()
	}
	set("cp %p /archive/%f")
	s.says(68, "archive_command 'cp %p /archive/%f' must contain pgx or pgbackrest\n"+
		"HINT: set archive_command = 'pgx archive-push %p' in postgresql.conf and reload PostgreSQL", "check")
	s.says(68, "archive_command 'cp %p /archive/%f' must contain pgx or pgbackrest\n"+
		"HINT: set archive_command = 'pgx archive-push %p' in postgresql.conf and reload PostgreSQL", "backup", "--type=full")
	set("")
	s.says(68, "archive_command '[null]' must contain pgx or pgbackrest\n"+
		"HINT: set archive_command = 'pgx archive-push %p' in postgresql.conf and reload PostgreSQL", "check")
	set("false pgx")
	s.says(82, "WAL segment SEGMENT was not archived before the 1000ms timeout\n"+
		"HINT: check the archive_command to ensure that all options are correct (especially --stanza).\n"+
		"HINT: check the PostgreSQL server log for errors.\n"+
		"HINT: run the 'start' command if the stanza was previously stopped.", "check")
	s.says(82, "WAL segment SEGMENT was not archived before the 1000ms timeout\n"+
		"HINT: check the archive_command to ensure that all options are correct (especially --stanza).\n"+
		"HINT: check the PostgreSQL server log for errors.\n"+
		"HINT: run the 'start' command if the stanza was previously stopped.", "backup", "--type=full")
	s.inBackup(false)
	set(command)
	s.must(pgxPath(), "check", "--archive-timeout=60")

	s.pg.Stop(pgtest.Fast)
	unreachable("DbConnectError", connect+"'SOCKETS/.s.PGSQL.PORT' does not exist", "\nHINT: is PostgreSQL running?"+where)

	s.pg.Configure(map[string]string{"archive_mode": "off"})
	s.pg.Start()
	s.says(87, "archive_mode must be enabled\n"+
		"HINT: set archive_mode = on and archive_command = 'pgx archive-push %p' in postgresql.conf and restart PostgreSQL", "check")
	s.says(87, "archive_mode must be enabled\n"+
		"HINT: set archive_mode = on and archive_command = 'pgx archive-push %p' in postgresql.conf and restart PostgreSQL",
		"backup", "--type=full")
	s.pg.Stop(pgtest.Fast)
	s.pg.Configure(map[string]string{"archive_mode": "always"})
	s.pg.Start()
	s.says(67, "archive_mode=always not supported", "check")
	s.says(67, "archive_mode=always not supported", "backup", "--type=full")
}

// TestForeignCluster: the stanza is another cluster's.
func TestForeignCluster(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Options{WALSegSize: 1}, nil)
	id := s.pg.QueryValue("select system_identifier from pg_control_system()")
	for _, other := range []pgtest.Options{{WALSegSize: 1, OwnSystemID: true}, {WALSegSize: 1, Major: 13}} {
		o := bareSite(t, other, map[string]string{"repo1-path": s.repo})
		o.pg.Start()
		theirs := o.pg.QueryValue("select system_identifier from pg_control_system()")
		says := func(code int, want string, args ...string) {
			t.Helper()
			cmd := o.command(pgxPath(), args...)
			got := o.exec(cmd)
			text := strings.NewReplacer(id, "STANZA", theirs, "SYSTEM", s.repo, "REPO", s.pg.PGDATA, "OTHER").Replace(o.message("ERROR", got.all()))
			if got.code != code || text != fmt.Sprintf("[%03d]: %s", code, want) {
				t.Errorf("%s: exit %d\n got %s\nwant [%03d]: %s\nall it said:\n%s", args, got.code, text, code, want, got.all())
			}
		}
		_, segment, _ := o.segment()
		major := fmt.Sprint(o.pg.Major)
		differ := " version " + major + ", system-id SYSTEM do not match %sstanza version 15, system-id STANZA"
		says(51, "PostgreSQL"+fmt.Sprintf(differ, "")+"\nHINT: is this the correct stanza?", "backup", "--type=full")
		const info = "backup and archive info files exist but do not match the database\n" +
			"HINT: is this the correct stanza?\nHINT: did an error occur during stanza-upgrade?"
		says(28, info, "check")
		says(28, info, "stanza-create")
		says(103, "unable to find a valid repository:\nrepo1: [ArchiveMismatchError] PostgreSQL"+fmt.Sprintf(differ, "repo1 ")+
			"\nHINT: are you archiving to the correct stanza?", "archive-push", segment)
		says(44, "WAL file 'PGDATA/pg_wal/SEGMENT'"+fmt.Sprintf(differ, ""), "archive-push", segment, "--pg1-path="+s.pg.PGDATA)
		says(103, "unable to find a valid repository:\nrepo1: [ArchiveMismatchError] unable to retrieve the archive id for"+
			" database version '"+major+"' and system-id 'SYSTEM'", "archive-get", filepath.Base(segment), o.dir+"/segment")
		// The data directory of the one, the server of the other.
		paths := "version '" + major + "' and path 'PGDATA' queried from cluster do not match version '15' and 'OTHER' read from" +
			" 'OTHER/global/pg_control'\nHINT: the pg1-path and pg1-port settings likely reference different clusters."
		says(58, paths, "check", "--stanza=demo", "--pg1-path="+s.pg.PGDATA)
		says(58, paths, "backup", "--type=full", "--pg1-path="+s.pg.PGDATA)
		o.pg.Stop(pgtest.Immediate)
	}
}
