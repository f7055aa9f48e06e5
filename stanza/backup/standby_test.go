package backup_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/stanza"
	"github.com/pgx-backup/pgx/stanza/backup"
)

// pair is a site whose cluster has a standby.
type pair struct {
	*site
	standby *pgtest.Cluster
}

func newPair(t *testing.T, o pgtest.Options) *pair {
	t.Helper()
	s := newSite(t, o)
	s.Configure(map[string]string{"autovacuum": "off"})
	s.Start()
	s.fill()
	p := &pair{site: s, standby: s.Standby(nil, "")}
	p.standby.Configure(map[string]string{"archive_command": "false # once it is promoted"})
	p.standby.Start()
	p.standby.Follows(s.Cluster)
	return p
}

func nodeOf(c *pgtest.Cluster, key int) stanza.Node {
	return stanza.Node{Key: key, Path: c.PGDATA, Host: agent.NewLocal(c.PGDATA, pgsql.Params{
		SocketDir: c.SocketDir, Port: c.Port, User: "postgres", Database: "postgres", Timeout: time.Minute, Application: "pgBackRest [backup]",
	})}
}

func (p *pair) config() backup.Config {
	p.own() // the archiver goes on
	cfg := p.site.config()
	cfg.Standby = backup.NeedStandby
	cfg.Nodes = []stanza.Node{nodeOf(p.standby, 1), nodeOf(p.Cluster, 2)}
	return cfg
}

// at runs what is to happen when the log has a line.
func at(cfg *backup.Config, line string, do func()) {
	cfg.Log = slog.New(hook{cfg.Log.Handler(), line, do})
}

type hook struct {
	slog.Handler
	line string
	do   func()
}

func (h hook) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h hook) Handle(ctx context.Context, l slog.Record) error {
	err := h.Handler.Handle(ctx, l)
	if strings.HasPrefix(l.Message, h.line) {
		h.do()
	}
	return err
}

// recovered restores a backup with the real pgbackrest and gives the cluster when it has
// recovered to the end of the archive.
func (p *pair) recovered(label format.Label) *pgtest.Cluster {
	p.t.Helper()
	p.own()
	p.Exec("select pg_create_restore_point('x')")
	segment := p.QueryValue("select pg_walfile_name(pg_switch_wal())")
	pgtest.Eventually(p.t, segment+" in the archive", func() bool {
		found, err := filepath.Glob(filepath.Join(p.dir, "archive/demo/*/*", segment+"-*"))
		return err == nil && len(found) == 1
	})
	to, space := pgtest.Dir(p.t), pgtest.Dir(p.t)
	p.pgbackrest("restore", "--set="+string(label), "--pg1-path="+to, "--tablespace-map=space="+space, "--archive-mode=off")
	if err := os.Chmod(to, 0o700); err != nil {
		p.t.Fatal(err)
	}
	c := pgtest.Attach(p.t, p.Major, to)
	c.Start()
	pgtest.Eventually(p.t, "end of recovery", func() bool { return c.QueryValue("select pg_is_in_recovery()") == "f" })
	return c
}

// TestStandby makes chains from a standby while the primary is written to.
func TestStandby(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			p := newPair(t, pgtest.Options{Major: major, Checksums: true, WALSegSize: 1})
			load := p.Command("psql", "-XAtq", "-c", `do $$ begin loop
				insert into t select i, md5(i::text) from generate_series(1, 100) i; commit; perform pg_sleep(0.02); end loop; end $$`)
			if err := load.Start(); err != nil {
				t.Fatal(err)
			}
			stopped := make(chan struct{})
			go func() { defer close(stopped); _ = load.Wait() }()
			var labels []format.Label
			for _, kind := range []format.BackupType{format.Full, format.Incr, format.Diff} {
				cfg := p.config()
				cfg.Type = kind
				p.log.clear()
				res, err := backup.Run(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				labels = append(labels, res.Label)
				m := p.site.manifest(res.Label)
				if m.Options.BackupStandby == nil || !*m.Options.BackupStandby {
					t.Error("the manifest does not tell of the standby")
				}
				if w := p.log.at(slog.LevelWarn); len(w) > 0 {
					t.Errorf("warnings: %q", w)
				}
				lines := slices.DeleteFunc(p.log.at(slog.LevelInfo), func(l string) bool { return strings.HasPrefix(l, "last backup label") })
				for n, want := range []string{
					"execute backup start: ", "backup start archive = ", "wait for replay on the standby to reach " + m.LSNStart,
					"replay on the standby reached " + m.LSNStart, "check archive for ",
				} {
					if !strings.HasPrefix(lines[n], want) {
						t.Errorf("line %d is '%s', not '%s'", n, lines[n], want)
					}
				}
				p.places()
			}
			p.Exec("select pg_terminate_backend(pid) from pg_stat_activity where query like 'do %'")
			<-stopped
			p.pgbackrest("verify")
			want := p.QueryValue("select count(*) from t")
			for _, label := range labels {
				c := p.recovered(label)
				if got := c.QueryValue("select count(*) from t"); got != want {
					t.Errorf("%s: %s rows, not %s", label, got, want)
				}
				if got := c.QueryValue("select count(*) from far"); got != "2000" {
					t.Errorf("%s: %s rows in the tablespace", label, got)
				}
				c.Stop(pgtest.Fast)
				if out, err := pgtest.Command(t, pgtest.Tool(t, major, "pg_checksums"), "-c", "-D", c.PGDATA).CombinedOutput(); err != nil {
					t.Errorf("pg_checksums: %v\n%s", err, out)
				}
			}
		})
	}
}

// places: each file comes from where it should.
func (p *pair) places() {
	p.t.Helper()
	form := regexp.MustCompile(`^(?:backup file|match file from prior backup) (\S+) \(`)
	replayed := regexp.MustCompile(`^(base|global|pg_xact|pg_multixact|pg_tblspc)/`)
	from := map[string]int{}
	for _, l := range p.log.lines {
		_, l, _ = strings.Cut(l, ": ")
		found := form.FindStringSubmatch(l)
		if found == nil {
			continue
		}
		name, there := strings.CutPrefix(found[1], p.standby.PGDATA+"/")
		if !there {
			var here bool
			if name, here = strings.CutPrefix(found[1], p.PGDATA+"/"); !here {
				p.t.Errorf("'%s' is on neither node", found[1])
			}
		}
		if want := replayed.MatchString(name) && name != "global/pg_control"; want != there {
			p.t.Errorf("'%s' is from the standby: %t", name, there)
		}
		from[fmt.Sprint(there)]++
	}
	if from["true"] < 2 || from["false"] < 1 {
		p.t.Errorf("files are from %v", from)
	}
}

// TestStandbyBehind: what a standby has not replayed when it is copied from is in the next backup,
// though the file did not change after it was listed.
func TestStandbyBehind(t *testing.T) {
	p := newPair(t, pgtest.Options{Major: 17, Checksums: true, WALSegSize: 1})
	cfg := p.config()
	at(&cfg, "replay on the standby reached", func() {
		p.standby.Exec("select pg_wal_replay_pause()")
		pgtest.Eventually(t, "the pause", func() bool { return p.standby.QueryValue("select pg_get_wal_replay_pause_state()") == "paused" })
		p.Exec("update t set i = -i; checkpoint")
	})
	full, err := backup.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.standby.Exec("select pg_wal_replay_resume()")
	p.standby.Follows(p.Cluster)
	cfg = p.config()
	cfg.Type = format.Incr
	incr, err := backup.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if w := p.log.at(slog.LevelWarn); len(w) > 0 {
		t.Errorf("warnings: %q", w)
	}
	for _, label := range []format.Label{full.Label, incr.Label} {
		c := p.recovered(label)
		if got := c.QueryValue("select count(*) || ' ' || sum(i) from t"); got != "2000 -2001000" {
			t.Errorf("%s: table t has %s", label, got)
		}
		c.Stop(pgtest.Fast)
	}
	// What was not written meanwhile is not copied again.
	m := p.site.manifest(incr.Label)
	far, found := m.Files.Find(p.QueryValue("select pg_relation_filepath('far')"))
	if !found || far.Reference != full.Label {
		t.Errorf("table far is in %+v", far)
	}
}

// standbyChecksums turns the data checksums of the standby on or off.
func (p *pair) standbyChecksums(how string) {
	p.t.Helper()
	p.standby.Stop(pgtest.Fast)
	out, err := pgtest.Command(p.t, filepath.Join(p.standby.BinDir, "pg_checksums"), how, "-D", p.standby.PGDATA).CombinedOutput()
	if err != nil {
		p.t.Fatalf("pg_checksums %s: %v\n%s", how, err, out)
	}
	p.standby.Start()
}

// TestStandbyRefused: a standby that is not there, does not follow or ceases to be one.
func TestStandbyRefused(t *testing.T) {
	p := newPair(t, pgtest.Options{Major: 17, WALSegSize: 1})
	other := pgtest.New(t, pgtest.Options{Major: 17, OwnSystemID: true})
	if err := os.WriteFile(filepath.Join(other.PGDATA, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	other.Start()
	lsn := `[0-9A-F]+/[0-9A-F]+`
	for _, c := range []struct {
		name   string
		change func(*backup.Config)
		code   errs.Code // 0: it becomes a backup of the primary
		want   string
	}{
		{
			"none", func(c *backup.Config) { c.Nodes = c.Nodes[1:] }, errs.DbConnect,
			"unable to find standby cluster - cannot proceed\nHINT: --backup-standby=prefer copies from the primary where no standby can be reached",
		},
		{
			"none preferred", func(c *backup.Config) { c.Nodes, c.Standby = c.Nodes[1:], backup.PreferStandby }, 0,
			"unable to find a standby to perform the backup, using primary instead",
		},
		{
			"not wanted", func(c *backup.Config) { c.Standby = backup.NoStandby }, 0, "",
		},
		{
			"another cluster", func(c *backup.Config) { c.Nodes[0] = nodeOf(other, 1) }, errs.DbMismatch,
			`standby version 17, system-id \d+ do not match primary version 17, system-id \d+` + "\nHINT: does pg1 belong to the same cluster as pg2\\?",
		},
		{
			"paused", func(c *backup.Config) {
				p.standby.Exec("select pg_wal_replay_pause()")
				c.ArchiveTimeout = time.Second
			}, errs.ArchiveTimeout,
			"timeout before standby replayed to " + lsn + " - only reached " + lsn + "\nHINT: is replication running and current on the standby\\?\n" +
				"HINT: disable the 'backup-standby' option to backup directly from the primary.\n" +
				"HINT: the standby is pg1: is its replay paused \\(select pg_is_wal_replay_paused\\(\\)\\)\\?$",
		},
		{
			"late", func(c *backup.Config) { // for as long as it makes progress it is waited for
				at(c, "wait for replay on the standby", func() { p.standby.Exec("select pg_wal_replay_resume()") })
			}, 0, "",
		},
		{
			"checksums on one of them", func(*backup.Config) { p.standbyChecksums("--enable") }, errs.DbMismatch,
			"standby and primary do not agree about data checksums: version 1 on the standby, 0 on the primary\nHINT: was pg_checksums run on one of them only\\?",
		},
		{
			"no right to checkpoint", func(c *backup.Config) {
				p.standbyChecksums("--disable")
				p.Exec("create role weak login; grant pg_read_all_settings to weak")
				p.standby.Follows(p.Cluster)
				n := p.standby
				c.Nodes[0].Host = agent.NewLocal(n.PGDATA, pgsql.Params{SocketDir: n.SocketDir, Port: n.Port, User: "weak", Database: "postgres"})
			}, errs.DbQuery, "user 'weak' may not execute CHECKPOINT\nHINT: run as a superuser: GRANT pg_checkpoint TO \"weak\";",
		},
		{
			"lost", func(c *backup.Config) {
				at(c, "replay on the standby reached", func() { p.standby.Kill() })
			}, errs.DbQuery, "^standby pg1: unable to complete query '.*', the connection to PostgreSQL was lost: ",
		},
		{
			"promoted", func(c *backup.Config) {
				p.standby.Start()
				p.standby.Follows(p.Cluster)
				at(c, "replay on the standby reached", func() { p.standby.Exec("select pg_promote()") })
			}, errs.DbMismatch, "^standby is no longer in recovery\nHINT: was the standby promoted during the backup\\?\nHINT: the standby is pg1.$",
		},
		{"second primary", func(*backup.Config) {}, errs.DbConnect, "more than one primary cluster found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.log.clear()
			cfg := p.config()
			c.change(&cfg)
			res, err := backup.Run(t.Context(), cfg)
			if c.code != 0 {
				if err == nil || errs.CodeOf(err) != c.code || !regexp.MustCompile(c.want).MatchString(err.Error()) {
					t.Errorf("error is [%d] %v", errs.CodeOf(err), err)
				}
				p.outOfBackup()
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if w := p.log.at(slog.LevelWarn); c.want != "" && !slices.Equal(w, []string{c.want}) || c.want == "" && len(w) > 0 {
				t.Errorf("warnings are %q", w)
			}
			if m := p.site.manifest(res.Label); *m.Options.BackupStandby != (c.name == "late") {
				t.Errorf("the manifest says %t", *m.Options.BackupStandby)
			}
		})
	}
}

// TestStandbyAstray: a standby that begins to follow another primary while it is copied.
func TestStandbyAstray(t *testing.T) {
	p := newPair(t, pgtest.Options{Major: 17, WALSegSize: 1})
	rebel := p.Cluster.Standby(nil, "")
	rebel.Configure(map[string]string{"archive_command": "false"})
	rebel.Start()
	rebel.Follows(p.Cluster)
	cfg := p.config()
	at(&cfg, "replay on the standby reached", func() {
		rebel.Exec("select pg_promote()")
		rebel.Exec("create table astray as select * from t; checkpoint")
		p.standby.Configure(map[string]string{"primary_conninfo": fmt.Sprintf("host=%s port=%d user=postgres", rebel.SocketDir, rebel.Port)})
		p.standby.Reload()
		p.standby.Follows(rebel)
		p.standby.Exec("checkpoint")
	})
	_, err := backup.Run(t.Context(), cfg)
	if errs.CodeOf(err) != errs.DbMismatch || err.Error() != "standby is on timeline 2 but expected 1\nHINT: the standby is pg1." {
		t.Errorf("error is [%d] %v", errs.CodeOf(err), err)
	}
	p.outOfBackup()
}

func TestStandbyOffline(t *testing.T) {
	s := newSite(t, pgtest.Options{})
	cfg := s.config()
	cfg.Online, cfg.Standby = false, backup.NeedStandby
	if _, err := backup.Run(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	want := []string{"option backup-standby is enabled but backup is offline - backups will be performed from the primary"}
	if w := s.log.at(slog.LevelWarn); !slices.Equal(w, want) {
		t.Errorf("warnings are %q", w)
	}
}
