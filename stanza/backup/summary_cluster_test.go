package backup_test

import (
	"crypto/sha1"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/stanza"
	"github.com/pgx-backup/pgx/stanza/backup"
)

// bySummaries makes an incremental backup that goes by summaries and content, and gives how many bytes it had to
// look at, and what it said of summaries. A summarizer that stands still is waited for with patience.
func (s *site) bySummaries(t *testing.T, patience time.Duration) (read int64, said string) {
	t.Helper()
	s.log.clear()
	cfg := s.config()
	cfg.Type, cfg.Delta, cfg.Summary, cfg.SummaryPatience = format.Incr, true, true, patience
	cfg.Progress = func(p progress.State) { read = p.Bytes }
	s.run(t, cfg)
	for _, line := range slices.Concat(s.log.at(slog.LevelWarn), s.log.at(slog.LevelInfo)) {
		if strings.Contains(line, "WAL summaries") {
			said += line
		}
	}
	return read, said
}

// chown gives a file to the owner of the cluster.
func chown(t *testing.T, path string) error {
	uid, gid := pgtest.Owner(t)
	return os.Chown(path, uid, gid)
}

// last gives the manifest of the newest backup.
func (s *site) last(t *testing.T) *manifest.Manifest {
	t.Helper()
	labels, err := s.repo.Labels(t.Context())
	if err != nil || len(labels) == 0 {
		t.Fatal(labels, err)
	}
	m, err := s.repo.Manifest(t.Context(), slices.Max(labels))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// newSummary waits for a summary of what came after the newest backup began, and gives its file.
func (s *site) newSummary(t *testing.T) (found string) {
	t.Helper()
	began, err := postgres.ParseLSN(s.last(t).LSNStart)
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Eventually(t, "a summary of what came after the backup began", func() bool {
		// Named after the timeline, where it begins and where it ends: 8, 16 and 16 digits. One that is being written is temp.summary.
		all, err := filepath.Glob(filepath.Join(s.PGDATA, "pg_wal/summaries/[0-9A-F]*.summary"))
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(all, func(path string) bool {
			begin, err := strconv.ParseUint(filepath.Base(path)[8:24], 16, 64)
			return err == nil && postgres.LSN(begin) >= began
		})
		if i >= 0 {
			found = all[i]
		}
		return i >= 0
	})
	return found
}

// run makes a backup, after which the server can archive again: its owner is not who makes it.
func (s *site) run(t *testing.T, cfg backup.Config) backup.Result {
	t.Helper()
	res, err := backup.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.pgbackrest("info")
	return res
}

// TestSummaryReads: where changes are in few files, little is read of a cluster, though its times say that all has changed.
func TestSummaryReads(t *testing.T) {
	for _, major := range pgtest.Majors(t, 17, 18) {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			s := newSite(t, pgtest.Options{Major: major, Checksums: true, Config: map[string]string{"summarize_wal": "on", "autovacuum": "off"}})
			s.Start()
			for n := range 10 {
				s.Exec(fmt.Sprintf("create table t%d as select g, repeat('x', 1000) from generate_series(1, 10000) g; vacuum t%d", n, n))
			}
			s.Exec("create table few (g int)")
			cfg := s.config()
			cfg.Compress = compress.None
			res := s.run(t, cfg)
			s.Exec("insert into few select g from generate_series(1, 1000) g")
			now := time.Now()
			err := filepath.WalkDir(s.PGDATA, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() && !strings.Contains(path, "/pg_wal/") {
					err = os.Chtimes(path, now, now)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			read, said := s.bySummaries(t, time.Minute)
			t.Logf("%s; %d of %d bytes are read, %.2f %%", said, read, res.Size, 100*float64(read)/float64(res.Size))
			if !strings.Contains(said, " spare the reading of ") || read*20 > res.Size {
				t.Errorf("these are too many: %s", said)
			}
			if out := s.pgbackrest("verify"); strings.Contains(out, "ERROR") || strings.Contains(out, "WARN") {
				t.Errorf("verify says\n%s", out)
			}
		})
	}
}

// TestWithoutSummary: where summaries do not tell, the log says why, and files are compared.
func TestWithoutSummary(t *testing.T) {
	s := newSite(t, pgtest.Options{Major: pgtest.Majors(t, 18)[0], Checksums: true, Config: map[string]string{"summarize_wal": "on"}})
	s.Start()
	s.fill()
	s.run(t, s.config())
	const not = "WAL summaries are not used, files are compared without them: "
	patience := time.Minute
	check := func(what, want string) {
		t.Helper()
		s.Exec("insert into t values (1)")
		if _, said := s.bySummaries(t, patience); !strings.HasPrefix(said, want) {
			t.Errorf("%s: it says '%s', not '%s'", what, said, want)
		}
	}
	check("summaries", "WAL summaries from lsn = ")

	pid, err := strconv.Atoi(s.QueryValue("select summarizer_pid from pg_get_wal_summarizer_state()"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	patience = time.Second
	check("the summarizer stands still", not+"the server has summarized its WAL up to lsn = ")
	patience = time.Minute
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	check("it goes on", "WAL summaries from lsn = ")

	s.Exec("checkpoint")
	if err := os.Remove(s.newSummary(t)); err != nil {
		t.Fatal(err)
	}
	check("a summary is missing", not+"no WAL summary of timeline 1 continues at lsn = ")
	check("it is not needed any more", "WAL summaries from lsn = ")

	s.Configure(map[string]string{"summarize_wal": "off"})
	s.Reload()
	check("no summarizer", not+"summarize_wal is off")
	s.Configure(map[string]string{"summarize_wal": "on"})
	s.Reload()
	check("the WAL was still there", "WAL summaries from lsn = ")

	s.Stop(pgtest.Fast)
	s.Configure(map[string]string{"restore_command": "false"})
	signal := filepath.Join(s.PGDATA, "recovery.signal")
	if err := errors.Join(os.WriteFile(signal, nil, 0o600), chown(t, signal)); err != nil {
		t.Fatal(err)
	}
	s.Start()
	pgtest.Eventually(t, "the end of recovery", func() bool { return s.QueryValue("select pg_is_in_recovery()") == "f" })
	check("another timeline", not+"the timeline has changed since backup ")
	check("the same timeline", "WAL summaries from lsn = ")
	if out := s.pgbackrest("verify"); strings.Contains(out, "ERROR") || strings.Contains(out, "WARN") {
		t.Errorf("verify says\n%s", out)
	}
}

// TestSummaryHangs: a server that does not come back from reading a summary, and does not hear that it should, costs
// the summaries and not the backup.
func TestSummaryHangs(t *testing.T) {
	s := newSite(t, pgtest.Options{Major: pgtest.Majors(t, 18)[0], Checksums: true, Config: map[string]string{"summarize_wal": "on"}})
	s.Start()
	s.fill()
	s.run(t, s.config())
	s.Exec("insert into t values (1); checkpoint")
	hangs := s.newSummary(t)
	if err := errors.Join(os.Remove(hangs), syscall.Mkfifo(hangs, 0o600), chown(t, hangs)); err != nil {
		t.Fatal(err)
	}
	// Who waits for a writer that never comes is not to be cancelled.
	defer func() {
		if f, err := os.OpenFile(hangs, os.O_RDWR, 0); err == nil {
			_ = f.Close()
		}
		s.Stop(pgtest.Immediate)
	}()
	s.log.clear()
	cfg := s.config()
	cfg.Type, cfg.Delta, cfg.Summary, cfg.SummaryPatience = format.Incr, true, true, time.Minute
	p := s.params()
	p.Timeout = 5 * time.Second
	cfg.Nodes[0].Host = agent.NewLocal(s.PGDATA, p)
	s.run(t, cfg)
	warned := strings.Join(s.log.at(slog.LevelWarn), "\n")
	for _, want := range []string{
		"WAL summaries are not used, files are compared without them: query 'contents of ", " timed out after 5000ms",
	} {
		if !strings.Contains(warned, want) {
			t.Errorf("it does not warn of '%s', but\n%s", want, warned)
		}
	}
	if out := s.pgbackrest("verify"); strings.Contains(out, "ERROR") || strings.Contains(out, "WARN") {
		t.Errorf("verify says\n%s", out)
	}
}

// TestSummaryOfAnotherHistory: of a cluster that was set back and went on in its timeline, up to a redo point where the prior
// backup began, the summaries tell of the new history only, and what the prior backup holds is of the old one.
func TestSummaryOfAnotherHistory(t *testing.T) {
	for _, major := range pgtest.Majors(t, 17, 18) {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			s := newSite(t, pgtest.Options{Major: major, Checksums: true, Config: map[string]string{"summarize_wal": "on", "autovacuum": "off"}})
			s.Start()
			s.Exec("alter system set archive_command = 'true'") // else the archive would notice, and not let the backup begin
			s.Reload()
			s.Exec("create table changed as select g from generate_series(1, 1000) g; create table other (g int); vacuum changed; checkpoint")
			file := s.QueryValue("select pg_relation_filepath('changed')")
			s.Stop(pgtest.Fast)
			past := time.Now().Add(-time.Hour)
			if err := os.Chtimes(filepath.Join(s.PGDATA, file), past, past); err != nil {
				t.Fatal(err)
			}
			saved := filepath.Join(pgtest.Dir(t), "saved")
			shell := func(command string) {
				t.Helper()
				if out, err := pgtest.Command(t, "sh", "-c", command).CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", command, err, out)
				}
			}
			shell("cp -a " + s.PGDATA + " " + saved)
			s.Start()
			s.Exec("delete from changed where g < 100; checkpoint")
			cfg := s.config()
			cfg.Archiving = stanza.Archiving{}
			s.run(t, cfg)
			prior := s.last(t)
			s.Stop(pgtest.Fast)
			shell("rm -rf " + s.PGDATA + "/* && cp -a " + saved + "/. " + s.PGDATA)
			s.Start()
			s.Exec("select pg_backup_start('there', true); select pg_backup_stop()")
			if redo := s.QueryValue("select redo_lsn from pg_control_checkpoint()"); redo != prior.LSNStart {
				t.Fatalf("the redo point is %s, not %s", redo, prior.LSNStart)
			}
			s.Exec("insert into other values (1); checkpoint")

			s.log.clear()
			cfg = s.config()
			cfg.Archiving = stanza.Archiving{}
			cfg.Type, cfg.Delta, cfg.Summary, cfg.SummaryPatience = format.Incr, true, true, time.Minute
			s.run(t, cfg)
			want := "WAL summaries are not used, files are compared without them: file '" + file + "' has timestamp earlier than prior backup "
			if warned := strings.Join(s.log.at(slog.LevelWarn), "\n"); !strings.Contains(warned, want) || !strings.Contains(warned, ": was the cluster set back?") {
				t.Errorf("it does not warn of '%s', but\n%s", want, warned)
			}
			there, err := os.ReadFile(filepath.Join(s.PGDATA, file))
			if err != nil {
				t.Fatal(err)
			}
			if held, found := s.last(t).Files.Find("pg_data/" + file); !found || held.Checksum != sha1.Sum(there) {
				t.Errorf("the backup does not hold what the cluster has: %+v", held)
			}
		})
	}
}

// TestSummaryOfNewChecksums: what was backed up while data checksums were off is looked at again when they are on, though
// pg_checksums logs nothing: the backups between tell of pages that were checked, as the first did.
func TestSummaryOfNewChecksums(t *testing.T) {
	major := pgtest.Majors(t, 18)[0]
	s := newSite(t, pgtest.Options{Major: major, Checksums: true, Config: map[string]string{"summarize_wal": "on", "autovacuum": "off"}})
	s.Start()
	s.fill()
	s.run(t, s.config())
	checksums := func(how, dir string) {
		t.Helper()
		out, err := pgtest.Command(t, filepath.Join(pgtest.BinDir(t, major), "pg_checksums"), how, "-D", dir).CombinedOutput()
		if err != nil {
			t.Fatalf("pg_checksums %s: %v\n%s", how, err, out)
		}
	}
	s.Stop(pgtest.Fast)
	checksums("--disable", s.PGDATA)
	s.Start()
	s.Exec("create table after_off as select g from generate_series(1, 1000) g; checkpoint")
	cfg := s.config()
	cfg.Type = format.Incr
	s.run(t, cfg)
	s.Stop(pgtest.Fast)
	checksums("--enable", s.PGDATA)
	s.Start()
	if _, said := s.bySummaries(t, time.Minute); !strings.Contains(said, "WAL summaries from lsn = ") {
		t.Fatalf("it says '%s'", said)
	}
	to, space := pgtest.Dir(t), pgtest.Dir(t)
	s.pgbackrest("restore", "--pg1-path="+to, "--tablespace-map-all="+space, "--type=immediate", "--target-action=promote", "--archive-mode=off")
	if err := os.Chmod(to, 0o700); err != nil {
		t.Fatal(err)
	}
	c := pgtest.Attach(t, major, to)
	c.Start()
	pgtest.Eventually(t, "the end of recovery", func() bool { return c.QueryValue("select pg_is_in_recovery()") == "f" })
	if got := c.QueryValue("select count(*) from after_off"); got != "1000" {
		t.Errorf("the table has %s rows", got)
	}
	c.Stop(pgtest.Fast)
	checksums("--check", to)
}

// TestSummaryNotSafe: a cluster whose WAL does not tell of all pages is refused before anything begins.
func TestSummaryNotSafe(t *testing.T) {
	s := newSite(t, pgtest.Options{Major: pgtest.Majors(t, 17)[0], Config: map[string]string{"summarize_wal": "on"}})
	s.Start()
	cfg := s.config()
	cfg.Summary = true
	_, err := backup.Run(t.Context(), cfg)
	want := "option backup-summary needs a cluster with data checksums or with wal_log_hints = on\n" +
		"HINT: without either the WAL does not tell of all pages that change, so a changed file could be taken for one that has not."
	if err == nil || errs.CodeOf(err) != errs.FeatureNotSupported || err.Error() != want {
		t.Errorf("error is [%d] %v", errs.CodeOf(err), err)
	}
	if labels, err := s.repo.Labels(t.Context()); err != nil || len(labels) > 0 {
		t.Errorf("backups are %v, %v", labels, err)
	}
}
