package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/repo/storage/posix"
	"github.com/pgx-backup/pgx/stanza"
	"github.com/pgx-backup/pgx/stanza/backup"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a cluster with a repository, its stanza made by the real pgbackrest.
type site struct {
	*pgtest.Cluster
	t    *testing.T
	repo *repo.Repo
	dir  string // of the repository
	conf string // of pgbackrest
	log  *record
}

func newSite(t *testing.T, o pgtest.Options) *site {
	t.Helper()
	dir := pgtest.Dir(t)
	s := &site{t: t, dir: filepath.Join(dir, "repo"), conf: filepath.Join(dir, "pgbackrest.conf"), log: &record{}}
	if o.Config == nil {
		o.Config = map[string]string{}
	}
	o.Config["archive_mode"] = "on"
	o.Config["archive_command"] = pgtest.Reference(t) + " --config=" + s.conf + " --stanza=demo archive-push %p"
	s.Cluster = pgtest.New(t, o)
	conf := fmt.Sprintf(`[global]
repo1-path=%s
log-path=%s
lock-path=%s
spool-path=%s
compress-type=none
log-level-console=info
[demo]
pg1-path=%s
pg1-port=%d
pg1-socket-path=%s
pg1-user=postgres
`, s.dir, dir, dir, dir, s.PGDATA, s.Port, s.SocketDir)
	if err := os.WriteFile(s.conf, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	s.pgbackrest("stanza-create", "--no-online")
	st, err := posix.New(s.dir, posix.Refuse)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	s.repo = repo.New(st, repo.Config{Key: 1, Stanza: "demo", Program: "2.60.0pgx", Poll: 50 * time.Millisecond})
	return s
}

// pgbackrest runs the real program as the owner of the cluster.
func (s *site) pgbackrest(args ...string) string {
	s.t.Helper()
	s.own()
	out, err := pgtest.Command(s.t, pgtest.Reference(s.t), append([]string{"--config=" + s.conf, "--stanza=demo"}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("pgbackrest %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// own gives the repository to the owner of the cluster: what was written by this process belongs
// to whoever runs the test.
func (s *site) own() {
	s.t.Helper()
	uid, gid := pgtest.Owner(s.t)
	if err := filepath.Walk(s.dir, func(path string, _ os.FileInfo, err error) error {
		return errors.Join(err, os.Lchown(path, uid, gid))
	}); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
}

func (s *site) host() *agent.Local {
	return agent.NewLocal(s.PGDATA, s.params())
}

func (s *site) params() pgsql.Params {
	return pgsql.Params{
		SocketDir: s.SocketDir, Port: s.Port, User: "postgres", Database: "postgres", Timeout: time.Minute, Application: "pgBackRest [backup]",
	}
}

func (s *site) config() backup.Config {
	return backup.Config{
		Repo: s.repo, Nodes: []stanza.Node{{Host: s.host(), Key: 1, Path: s.PGDATA}}, Log: slog.New(s.log), Now: time.Now,
		Type: format.Full, Online: true, StartFast: true, ProcessMax: 2,
		Archiving: stanza.Archiving{Check: true, ModeCheck: true}, ArchiveTimeout: time.Minute,
		PageHeaderCheck: true, Compress: compress.Gzip, CompressLevel: 6, CompressLevelNetwork: 1, BufferSize: 1 << 20,
		Resume: true, SaveThreshold: 1 << 30, AliveEvery: 30 * time.Second,
	}
}

// record keeps the lines of a log as "LEVEL: message".
type record struct {
	mu    sync.Mutex
	lines []string
}

func (r *record) Enabled(context.Context, slog.Level) bool { return true }
func (r *record) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *record) WithGroup(string) slog.Handler            { return r }
func (r *record) Handle(_ context.Context, l slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, l.Level.String()+": "+l.Message)
	return nil
}

func (r *record) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = nil
}

// at gives the lines of a level, without it.
func (r *record) at(level slog.Level) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines []string
	for _, l := range r.lines {
		if m, ok := strings.CutPrefix(l, level.String()+": "); ok {
			lines = append(lines, m)
		}
	}
	return lines
}

// fill puts everything into a cluster that a backup treats in its own way.
func (s *site) fill() {
	s.t.Helper()
	space := pgtest.Dir(s.t)
	s.Exec(`create tablespace space location '` + space + `';
		create table t as select i, repeat('x', 100) from generate_series(1, 2000) i;
		create table far tablespace space as select * from t;
		create unlogged table u as select * from t;
		create unlogged table fu tablespace space as select * from t;
		checkpoint`)
}

func TestOffline(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			s := newSite(t, pgtest.Options{Major: major, Checksums: true})
			s.Start()
			s.fill()
			s.Stop(pgtest.Fast)
			outside := pgtest.Dir(t)
			uid, gid := pgtest.Owner(t)
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(os.Rename(filepath.Join(s.PGDATA, "pg_wal"), filepath.Join(outside, "wal")))
			must(os.Symlink(filepath.Join(outside, "wal"), filepath.Join(s.PGDATA, "pg_wal")))
			must(os.Rename(filepath.Join(s.PGDATA, "pg_hba.conf"), filepath.Join(outside, "hba")))
			must(os.Symlink(filepath.Join(outside, "hba"), filepath.Join(s.PGDATA, "pg_hba.conf")))
			for _, name := range []string{"base/5/t3_16384", "base/1/pg_internal.init", "backup_label.old", "note.txt", "skip/me", "keep/not/this"} {
				path := filepath.Join(s.PGDATA, name)
				must(os.MkdirAll(filepath.Dir(path), 0o700))
				must(os.WriteFile(path, []byte(name), 0o600))
				must(os.Lchown(path, uid, gid))
			}
			for _, d := range []string{"base/5", "skip", "keep", "keep/not"} {
				must(os.Lchown(filepath.Join(s.PGDATA, d), uid, gid))
			}
			must(os.Chmod(filepath.Join(s.PGDATA, "note.txt"), 0o640))
			must(os.Lchown(filepath.Join(s.PGDATA, "note.txt"), 54321, gid))
			must(os.Chmod(filepath.Join(s.PGDATA, "note.txt"), 0o644))

			s.pgbackrest("backup", "--type=full", "--no-online", "--compress-type=gz", "--exclude=skip", "--exclude=keep/not/", "--checksum-page")
			cfg := s.config()
			cfg.Online, cfg.Exclude = false, []string{"skip", "keep/not/"}
			yes := true
			cfg.ChecksumPage = &yes
			res, err := backup.Run(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			labels, err := s.repo.Labels(t.Context())
			if err != nil || len(labels) != 2 || labels[1] != res.Label {
				t.Fatalf("labels are %v, ours is %s, error %v", labels, res.Label, err)
			}
			theirs, ours := s.manifest(labels[0]), s.manifest(labels[1])
			for what, pair := range map[string][2][]string{
				"files": {files(theirs), files(ours)}, "paths": {rows(theirs.Paths.All()), rows(ours.Paths.All())},
				"links": {rows(theirs.Links.All()), rows(ours.Links.All())}, "targets": {rows(theirs.Targets.All()), rows(ours.Targets.All())},
			} {
				differ(t, what, pair[0], pair[1])
			}
			if theirs.FileDefault != ours.FileDefault || theirs.PathDefault != ours.PathDefault || theirs.LinkDefault != ours.LinkDefault {
				t.Error("the defaults differ")
			}
			differ(t, "options", []string{s.section(labels[0], "backup:option")}, []string{s.section(labels[1], "backup:option")})
			differ(t, "cluster", []string{s.section(labels[0], "backup:db")}, []string{s.section(labels[1], "backup:db")})
			for _, want := range []string{
				"exclude '" + s.PGDATA + "/skip' from backup using 'skip' exclusion",
				"exclude contents of '" + s.PGDATA + "/keep/not' from backup using 'keep/not/' exclusion",
			} {
				if !slices.Contains(s.log.at(slog.LevelInfo), want) {
					t.Errorf("log is %q", s.log.at(slog.LevelInfo))
				}
			}
			if out := s.pgbackrest("verify"); strings.Contains(out, "ERROR") || strings.Contains(out, "WARN") {
				t.Errorf("verify says\n%s", out)
			}
			differ(t, "restored", s.restored(labels[0]), s.restored(labels[1]))
		})
	}
}

// restored gives what the real pgbackrest restores of a backup: each file and directory
// with its attributes and content.
func (s *site) restored(label format.Label) []string {
	s.t.Helper()
	to, space := pgtest.Dir(s.t), pgtest.Dir(s.t)
	s.pgbackrest("restore", "--set="+string(label), "--pg1-path="+to, "--tablespace-map-all="+space, "--type=none")
	var all []string
	for _, dir := range []string{to, space} {
		err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(dir, path)
			line := fmt.Sprintf("%s %s %+v", rel, info.Mode(), info.Sys().(*syscall.Stat_t).Uid)
			if info.Mode().IsRegular() {
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" %x", sha256.Sum256(b))
				if rel != "postgresql.auto.conf" { // which a restore writes
					line += fmt.Sprintf(" %d", info.ModTime().Unix())
				}
			}
			all = append(all, line)
			return nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if len(all) < 900 {
		s.t.Errorf("only %d entries were restored", len(all))
	}
	return all
}

func (s *site) manifest(label format.Label) *manifest.Manifest {
	s.t.Helper()
	m, err := s.repo.Manifest(s.t.Context(), label)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// section gives the text of a section of a manifest, without what is different by nature.
func (s *site) section(label format.Label, name string) string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "backup/demo", string(label), "backup.manifest"))
	if err != nil {
		s.t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "["+name+"]\n")
	text, _, _ = strings.Cut(text, "\n[")
	return regexp.MustCompile(`(?m)^option-(process-max|delta)=.*$`).ReplaceAllString(text, "")
}

func files(m *manifest.Manifest) []string {
	var all []string
	for f := range m.Files.All() {
		f.RepoSize, f.RepoChecksum = 0, manifest.SHA1{} // compressors differ
		all = append(all, fmt.Sprintf("%+v", f))
	}
	return all
}

func rows[T any](all []T) []string {
	var texts []string
	for _, r := range all {
		texts = append(texts, fmt.Sprintf("%+v", r))
	}
	return texts
}

func differ(t *testing.T, what string, want, got []string) {
	t.Helper()
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("%s: missing %s", what, w)
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("%s: too much %s", what, g)
		}
	}
}

// TestOnline backs up a cluster that is being written to and has the real pgbackrest
// restore it.
func TestOnline(t *testing.T) {
	codecs := []compress.Type{compress.None, compress.Gzip, compress.LZ4, compress.Zstd, compress.Bzip2}
	for i, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			s := newSite(t, pgtest.Options{Major: major, Checksums: major != 15, WALSegSize: 1 << (i % 3)})
			s.Start()
			s.fill()
			load := s.Command("psql", "-XAtq", "-c", `do $$ begin loop
				insert into t select i, md5(i::text) from generate_series(1, 500) i; commit; perform pg_sleep(0.01); end loop; end $$`)
			if err := load.Start(); err != nil {
				t.Fatal(err)
			}
			stopped := make(chan struct{})
			go func() { defer close(stopped); _ = load.Wait() }()

			cfg := s.config()
			cfg.Compress, cfg.ArchiveCopy, cfg.Annotations = codecs[i%len(codecs)], i%2 == 1, map[string]string{"why": "a test", "none": ""}
			var last progress.State
			cfg.Progress = func(p progress.State) { last = p }
			res, err := backup.Run(t.Context(), cfg)
			rows := s.QueryValue("select count(*) from t")
			_ = load.Process.Kill()
			<-stopped
			if err != nil {
				t.Fatal(err)
			}
			if last.FilesDone != last.Files || last.BytesDone != last.Bytes || last.Files == 0 || last.Bytes == 0 {
				t.Errorf("progress ended with %+v", last)
			}
			m := s.manifest(res.Label)
			if m.Annotations["why"] != "a test" || len(m.Annotations) != 1 {
				t.Errorf("annotations are %v", m.Annotations)
			}
			if len(m.Databases.All()) < 3 || m.Databases.Find("postgres") == nil {
				t.Errorf("databases are %v", m.Databases.All())
			}
			if tablespaces := m.Targets.All(); len(tablespaces) != 2 || tablespaces[1].TablespaceName != "space" {
				t.Errorf("targets are %v", tablespaces)
			}
			s.checkLog(res, m)
			if w := s.log.at(slog.LevelWarn); len(w) > 0 {
				t.Errorf("warnings: %q", w)
			}
			if n := s.QueryValue("select count(*) from pg_stat_activity where application_name like 'pgBackRest%'"); n != "0" {
				t.Errorf("%s sessions are left", n)
			}
			s.pgbackrest("verify")
			s.pgbackrest("check")

			// Restored by the real program it recovers to a consistent state, with all
			// that was there when the backup ended.
			s.Exec("select pg_switch_wal()")
			s.Stop(pgtest.Fast)
			to := pgtest.Dir(t)
			space := pgtest.Dir(t)
			s.pgbackrest("restore", "--pg1-path="+to, "--tablespace-map=space="+space, "--type=immediate", "--target-action=promote", "--archive-mode=off")
			if err := os.Chmod(to, 0o700); err != nil {
				t.Fatal(err)
			}
			again := pgtest.Attach(t, major, to)
			again.Start()
			pgtest.Eventually(t, "end of recovery", func() bool { return again.QueryValue("select pg_is_in_recovery()") == "f" })
			got := again.QueryValue("select count(*) from t")
			if len(got) == 0 || len(got) > len(rows) || len(got) == len(rows) && got > rows || again.QueryValue("select count(*) from far") != "2000" {
				t.Errorf("%s rows, %s when the backup had ended", got, rows)
			}
			if n := again.QueryValue("select count(*) from u"); n != "0" {
				t.Errorf("the unlogged table has %s rows", n)
			}
			again.Stop(pgtest.Fast)
			if major != 15 {
				if out, err := pgtest.Command(t, filepath.Join(again.BinDir, "pg_checksums"), "-c", "-D", to).CombinedOutput(); err != nil {
					t.Errorf("pg_checksums: %v\n%s", err, out)
				}
			}
		})
	}
}

// checkLog compares the log of a backup with what pgbackrest writes.
func (s *site) checkLog(res backup.Result, m *manifest.Manifest) {
	s.t.Helper()
	forms := []string{
		`execute backup start: backup begins after the requested immediate checkpoint completes`,
		`backup start archive = ` + m.ArchiveStart + `, lsn = ` + m.LSNStart,
		`check archive for (prior )?segment [0-9A-F]{24}`,
		`execute backup stop and wait for all WAL segments to archive`,
		`backup stop archive = ` + m.ArchiveStop + `, lsn = ` + m.LSNStop,
		`check archive for segment\(s\) ` + m.ArchiveStart + `:` + m.ArchiveStop,
		`new backup label = ` + string(res.Label),
		fmt.Sprintf(`full backup size = \d+(\.\d)?MB, file total = %d`, res.Files),
	}
	got := s.log.at(slog.LevelInfo)
	if len(got) != len(forms) {
		s.t.Fatalf("log is\n%s", strings.Join(got, "\n"))
	}
	for i, form := range forms {
		if !regexp.MustCompile("^" + form + "$").MatchString(got[i]) {
			s.t.Errorf("line %d is '%s', not '%s'", i, got[i], form)
		}
	}
	control := regexp.MustCompile(`backup file ` + s.PGDATA + `/global/pg_control \(8KB, \d+\.\d\d%\) checksum [0-9a-f]{40}`)
	if !slices.ContainsFunc(s.log.lines, control.MatchString) {
		s.t.Error("no line tells of pg_control")
	}
}

// outOfBackup makes sure that no session is left: a backup ends with the one that began it.
func (s *site) outOfBackup() {
	s.t.Helper()
	if n := s.QueryValue("select count(*) from pg_stat_activity where application_name like 'pgBackRest%'"); n != "0" {
		s.t.Errorf("%s sessions are left", n)
	}
}

func TestArchiveBroken(t *testing.T) {
	s := newSite(t, pgtest.Options{})
	s.Configure(map[string]string{"archive_command": "false # pgbackrest"})
	s.Start()
	cfg := s.config()
	cfg.ArchiveTimeout = 200 * time.Millisecond
	_, err := backup.Run(t.Context(), cfg)
	want := "was not archived before the 200ms timeout\n" +
		"HINT: check the archive_command to ensure that all options are correct (especially --stanza).\n" +
		"HINT: check the PostgreSQL server log for errors.\n" +
		"HINT: run the 'start' command if the stanza was previously stopped."
	if errs.CodeOf(err) != errs.ArchiveTimeout || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("error is %v", err)
	}
	s.outOfBackup()
	if labels, err := s.repo.Labels(t.Context()); err != nil || len(labels) != 0 {
		t.Errorf("labels are %v, error %v", labels, err)
	}
}

func TestRefused(t *testing.T) {
	s := newSite(t, pgtest.Options{})
	s.Start()
	other := pgtest.New(t, pgtest.Options{OwnSystemID: true})
	for _, c := range []struct {
		name   string
		change func(*backup.Config)
		code   errs.Code
		want   string
	}{
		{"offline but running", func(c *backup.Config) { c.Online = false }, errs.PgRunning, "--no-online passed but postmaster.pid exists"},
		{
			"another cluster", func(c *backup.Config) {
				c.Online, c.Nodes = false, []stanza.Node{{Host: agent.NewLocal(other.PGDATA, pgsql.Params{}), Key: 1, Path: other.PGDATA}}
			},
			errs.BackupMismatch, "do not match stanza version 15, system-id",
		},
		{
			"another directory", func(c *backup.Config) {
				c.Nodes = []stanza.Node{{Host: s.host(), Key: 1, Path: other.PGDATA}}
			},
			errs.DbMismatch, "queried from cluster do not match version '15' and '" + other.PGDATA + "'",
		},
		{
			"server down", func(c *backup.Config) {
				c.Nodes = []stanza.Node{{Host: agent.NewLocal(s.PGDATA, pgsql.Params{SocketDir: other.SocketDir, Port: 1, User: "postgres", Database: "postgres"}), Key: 1, Path: s.PGDATA}}
			},
			errs.DbConnect, "unable to find primary cluster - cannot proceed",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := s.config()
			c.change(&cfg)
			_, err := backup.Run(t.Context(), cfg)
			if err == nil || errs.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %d %v", errs.CodeOf(err), err)
			}
		})
	}
}

func TestPageErrors(t *testing.T) {
	s := newSite(t, pgtest.Options{Checksums: true})
	s.Start()
	s.fill()
	name := s.QueryValue("select pg_relation_filepath('t')")
	s.Stop(pgtest.Fast)
	path := filepath.Join(s.PGDATA, name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []int{1, 3, 4, 5} {
		b[page*8192+4000] ^= 1
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(bytes.Clone(b)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s.Start()
	res, err := backup.Run(t.Context(), s.config())
	if err != nil {
		t.Fatal(err)
	}
	if !res.PageErrors {
		t.Error("no page errors in the result")
	}
	want := "invalid page checksums found in file " + path + " at pages 1, 3-5"
	if !slices.Equal(s.log.at(slog.LevelWarn), []string{want}) {
		t.Errorf("warnings are %q", s.log.at(slog.LevelWarn))
	}
	if !strings.Contains(s.pgbackrest("info", "--set="+string(res.Label)), "error list: "+name) {
		t.Error("pgbackrest does not show the page errors")
	}
}

// TestChanging changes files between the time they are listed and the time they are read.
func TestChanging(t *testing.T) {
	s := newSite(t, pgtest.Options{Checksums: true})
	s.Start()
	s.fill()
	s.Exec("create table grows as select 1; create table shrinks as select * from t; create table gone as select 1; checkpoint")
	name := func(table string) string {
		return "pg_data/" + s.QueryValue("select pg_relation_filepath('"+table+"')")
	}
	grows, shrinks, gone := name("grows"), name("shrinks"), name("gone")
	s.Stop(pgtest.Fast)
	path := func(name string) string { return filepath.Join(s.PGDATA, strings.TrimPrefix(name, "pg_data/")) }
	const conf = "pg_data/postgresql.auto.conf"
	appendTo := func(name, text string) error {
		f, err := os.OpenFile(path(name), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		return errors.Join(err, f.Close())
	}
	was := map[string]int64{}
	cfg := s.config()
	cfg.Online = false
	yes := true
	cfg.ChecksumPage = &yes
	cfg.Progress = func(p progress.State) {
		if p.FilesDone > 0 || p.BytesDone > 0 {
			return
		}
		for _, name := range []string{grows, shrinks, conf} {
			info, err := os.Stat(path(name))
			if err != nil {
				t.Error(err)
				return
			}
			was[name] = info.Size()
		}
		if err := errors.Join(appendTo(grows, strings.Repeat("x", 8192)), appendTo(conf, "# more\n"),
			os.Truncate(path(shrinks), 8192), os.Remove(path(gone))); err != nil {
			t.Error(err)
		}
	}
	res, err := backup.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := s.manifest(res.Label)
	if _, found := m.Files.Find(gone); found {
		t.Errorf("'%s' is in the manifest", gone)
	}
	if want := "skip file removed by database " + path(gone); !slices.ContainsFunc(s.log.lines, func(l string) bool { return strings.HasSuffix(l, want) }) {
		t.Errorf("no line says '%s'", want)
	}
	for name, want := range map[string]int64{grows: was[grows], shrinks: 8192, conf: was[conf] + int64(len("# more\n"))} {
		if f, _ := m.Files.Find(name); f.Size != want || f.OriginalSize != was[name] {
			t.Errorf("'%s' has size %d, original size %d; they should be %d and %d", name, f.Size, f.OriginalSize, want, was[name])
		}
	}
	line := regexp.MustCompile("backup file " + path(shrinks) + ` \(\d+KB->8KB, \d+\.\d\d%\) checksum [0-9a-f]{40}$`)
	if !slices.ContainsFunc(s.log.lines, line.MatchString) {
		t.Error("no line tells of the file that shrank")
	}
	if out := s.pgbackrest("verify"); strings.Contains(out, "ERROR") || strings.Contains(out, "WARN") {
		t.Errorf("verify says\n%s", out)
	}

	s.needsControl(cfg)
}

// needsControl makes sure that a backup fails when pg_control goes away after it was listed.
func (s *site) needsControl(cfg backup.Config) {
	s.t.Helper()
	cfg.Progress = func(p progress.State) {
		if p.FilesDone == 0 && p.BytesDone == 0 {
			if err := os.Remove(filepath.Join(s.PGDATA, "global/pg_control")); err != nil {
				s.t.Error(err)
			}
		}
	}
	if _, err := backup.Run(s.t.Context(), cfg); errs.CodeOf(err) != errs.FileMissing || !strings.Contains(err.Error(), "global/pg_control") {
		s.t.Errorf("error is %v", err)
	}
}
