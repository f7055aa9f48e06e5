package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// row is a row of table p. Its transaction did nothing else.
type row struct {
	xid       string
	lsn       string    // where the record of its commit begins
	committed time.Time // as that record says it
}

// story is a site with a backup and rows with ids from 1 without a gap. "point N" is a
// restore point after row N.
type story struct {
	*site
	rows []row // row N is at N-1
}

// storyOptions make a cluster for a story. Commit timestamps tell to the microsecond
// where recovery stops.
func storyOptions(major int) pgtest.Options {
	return pgtest.Options{Major: major, WALSegSize: 1, Config: map[string]string{
		"track_commit_timestamp": "on", "autovacuum": "off", "timezone": "UTC", "wal_retrieve_retry_interval": "100ms",
	}}
}

// newStory makes a story without rows and backup. Between the rows are messages, so that
// five of them are more WAL than PostgreSQL reads ahead in recovery (512 kB) and less
// than a segment.
func newStory(t *testing.T, major int, global map[string]string) *story {
	s := &story{site: newSite(t, storyOptions(major), merged(map[string]string{"archive-timeout": "20"}, global))}
	s.pg.Exec(`create table p (id int primary key)`)
	s.pg.Exec(`create procedure step(first int, last int, inout lsns text) language plpgsql as $$
begin
	lsns := '';
	for i in first..last loop
		insert into p values (i);
		lsns := lsns || ' ' || pg_current_wal_insert_lsn();
		commit;
		perform pg_create_restore_point('point ' || i);
		perform pg_sleep(0.002);
		perform pg_logical_emit_message(false, 'test', repeat('x', 150000));
	end loop;
end $$`)
	return s
}

// grow adds rows and gives the segment that has them, which is archived.
func (s *story) grow(n int) string {
	s.Helper()
	first := len(s.rows) + 1
	lsns := strings.Fields(s.pg.QueryValue(fmt.Sprintf(`call step(%d, %d, '')`, first, first+n-1)))
	for i, r := range s.pg.Query(fmt.Sprintf(
		`select xmin, (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000000)::bigint from p where id >= %d order by id`, first)) {
		var at int64
		if _, err := fmt.Sscan(r[1], &at); err != nil {
			s.Fatal(err)
		}
		s.rows = append(s.rows, row{r[0], lsns[i], time.UnixMicro(at).UTC()})
	}
	return s.switchWAL(s.pg)
}

// switchWAL ends the current segment and gives its name when it is in the repository.
func (s *site) switchWAL(pg *pgtest.Cluster) string {
	s.Helper()
	name := pg.QueryValue(`select pg_walfile_name(pg_switch_wal())`)
	pgtest.Eventually(s.T, "archiving of "+name, func() bool { return len(s.stored(name)) == 1 })
	return name
}

// stored gives the paths a segment has in the repository.
func (s *site) stored(segment string) []string {
	s.Helper()
	found, err := filepath.Glob(filepath.Join(s.repo, "archive", "demo", "*", segment[:16], segment+"-*"))
	if err != nil {
		s.Fatal(err)
	}
	return slices.DeleteFunc(found, func(name string) bool { return strings.HasSuffix(name, ".tmp") })
}

// backup makes a full backup, waits until the second in which it stopped is over, and
// gives its label. Only such a backup suits a target time, which is compared in seconds.
func (s *site) backup(args ...string) string {
	s.Helper()
	s.must(pgxPath(), append([]string{"backup", "--type=full"}, args...)...)
	label := s.label()
	var stanzas []struct {
		Backup []struct {
			Label     string
			Timestamp struct{ Stop int64 }
		}
	}
	if err := json.Unmarshal([]byte(s.must(pgxPath(), "info", "--output=json")), &stanzas); err != nil {
		s.Fatal(err)
	}
	newest := stanzas[0].Backup[len(stanzas[0].Backup)-1]
	if newest.Label != label {
		s.Fatalf("info has %s as newest backup, latest is %s", newest.Label, label)
	}
	pgtest.Eventually(s.T, "the next second", func() bool { return time.Now().Unix() > newest.Timestamp.Stop })
	return label
}

// in gives the site to a subtest, with a directory and a configuration of its own, so
// with other locks: restores of one site exclude each other.
func (s *site) in(t *testing.T, name string) *site {
	t.Helper()
	c := *s
	c.T = t
	c.dir = c.empty(strings.ReplaceAll(name, " ", "-"))
	c.conf = filepath.Join(c.dir, filepath.Base(s.conf))
	c.configure(nil)
	return &c
}

const rowsSQL = `select coalesce(string_agg(id::text, ' ' order by id), '') from p`

// rowsTo is what rowsSQL gives when exactly rows 1 to n are there.
func rowsTo(n int) string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprint(i + 1)
	}
	return strings.Join(ids, " ")
}

func hasRows(t testing.TB, c *pgtest.Cluster, n int) {
	t.Helper()
	if got := c.QueryValue(rowsSQL); got != rowsTo(n) {
		t.Errorf("the rows are %s, want 1 to %d", got, n)
	}
}

func inRecovery(c *pgtest.Cluster) bool { return c.QueryValue(`select pg_is_in_recovery()`) == "t" }

// promoted waits until recovery is over.
func promoted(t testing.TB, c *pgtest.Cluster) {
	t.Helper()
	pgtest.Eventually(t, "the end of recovery", func() bool { return !inRecovery(c) })
}

// attach makes a cluster of a restored directory, which will not archive.
func (s *site) attach(dir string) *pgtest.Cluster {
	s.Helper()
	c := pgtest.Attach(s.T, s.pg.Major, dir)
	c.Configure(map[string]string{"archive_mode": "off"})
	return c
}

// local is a zone that the server of a story does not have.
const local = "Asia/Kolkata"

// TestTargets: each kind of target ends at exactly its row.
func TestTargets(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newStory(t, major, nil)
			s.grow(5)
			s.backup("--archive-copy") // with which type none has its WAL
			s.grow(5)
			middle := s.grow(5)
			s.grow(5)
			s.pg.Stop(pgtest.Fast)
			targets(t, s, middle)
		})
	}
}

func targets(t *testing.T, s *story, middle string) {
	const layout = "2006-01-02 15:04:05.000000"
	zone, err := time.LoadLocation(local)
	if err != nil {
		t.Fatal(err)
	}
	at := func(n int) row { return s.rows[n-1] }
	const promote = "--target-action=promote"
	for _, c := range []struct {
		name string
		args []string
		rows int
	}{
		{"time", []string{"--type=time", "--target=" + at(12).committed.Format(layout) + "+00", promote}, 12},
		{"time in another zone", []string{"--type=time", "--target=" + at(10).committed.In(zone).Format(layout+"-07:00"), promote}, 10},
		{"time exclusive", []string{"--type=time", "--target=" + at(12).committed.Format(layout) + "+00", "--target-exclusive", promote}, 11},
		{"time between", []string{"--type=time", "--target=" + at(12).committed.Add(-time.Microsecond).Format(layout) + "+00", promote}, 11},
		{"xid", []string{"--type=xid", "--target=" + at(13).xid, promote}, 13},
		{"xid exclusive", []string{"--type=xid", "--target=" + at(16).xid, "--target-exclusive", promote}, 15},
		{"name", []string{"--type=name", "--target=point 7", promote}, 7},
		{"lsn", []string{"--type=lsn", "--target=" + at(15).lsn, promote}, 15},
		{"lsn exclusive", []string{"--type=lsn", "--target=" + at(14).lsn, "--target-exclusive", promote}, 13},
		{"immediate", []string{"--type=immediate", promote}, 5},
		{"default", nil, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := s.in(t, c.name)
			pg := s.attach(s.restore("data", pgxPath(), append(c.args, "--archive-mode=off")...))
			pg.Start()
			promoted(t, pg)
			hasRows(t, pg, c.rows)
			pg.Exec(`insert into p values (0)`)
		})
	}

	t.Run("time without zone", func(t *testing.T) {
		t.Parallel()
		s := s.in(t, "time without zone")
		dir := s.empty("data")
		target := at(17).committed.In(zone).Format(layout)
		cmd := pgtest.Command(t, pgxPath(), "--config="+s.conf, "restore", "--pg1-path="+dir, "--type=time", "--target="+target,
			promote, "--log-level-console=info")
		cmd.Env = append(cmd.Env, "TZ="+local)
		o := s.exec(cmd)
		if note := fmt.Sprintf("target time '%s' has no timezone, taken as '%s+05:30'", target, target); o.code != 0 || !strings.Contains(o.out, note) {
			t.Fatalf("exit %d, want 0 and %q\n%s", o.code, note, o.all())
		}
		pg := s.attach(dir)
		pg.Start()
		promoted(t, pg)
		hasRows(t, pg, 17)
	})

	t.Run("pause", func(t *testing.T) {
		t.Parallel()
		s := s.in(t, "pause")
		pg := s.attach(s.restore("data", pgxPath(), "--type=xid", "--target="+at(9).xid, "--target-action=pause"))
		pg.Start()
		pgtest.Eventually(t, "the pause", func() bool { return pg.QueryValue(`select pg_is_wal_replay_paused()`) == "t" })
		hasRows(t, pg, 9)
		if !inRecovery(pg) {
			t.Error("recovery has ended")
		}
		pg.Exec(`select pg_wal_replay_resume()`)
		promoted(t, pg)
		hasRows(t, pg, 9)
	})

	t.Run("shutdown", func(t *testing.T) {
		t.Parallel()
		s := s.in(t, "shutdown")
		dir := s.restore("data", pgxPath(), "--type=lsn", "--target="+at(8).lsn, "--target-action=shutdown")
		pg := s.attach(dir)
		_ = pg.TryStart() // it may be down again before it was seen to be up
		pgtest.Eventually(t, "the shutdown", func() bool { return !pg.Running() })
		if !strings.Contains(pg.Log(), "shutdown at recovery target") {
			t.Error("the server did not stop at its target")
		}
		s.appendTo(filepath.Join(dir, "postgresql.auto.conf"), "recovery_target_action = 'promote'\n")
		pg.Start()
		promoted(t, pg)
		hasRows(t, pg, 8)
	})

	t.Run("standby", func(t *testing.T) {
		t.Parallel()
		s := s.in(t, "standby")
		pg := s.attach(s.restore("data", pgxPath(), "--type=standby"))
		pg.Configure(map[string]string{"log_min_messages": "debug2"})
		pg.Start()
		pgtest.Eventually(t, "replay of all WAL", func() bool { return pg.QueryValue(`select count(*) from p`) == "20" })
		// It has asked for what would come next, and goes on asking.
		missing := regexp.MustCompile(`could not restore file "[0-9A-F]{24}" from archive`)
		pgtest.Eventually(t, "the end of the archive", func() bool { return len(missing.FindAllString(pg.Log(), 3)) == 3 })
		hasRows(t, pg, 20)
		if !inRecovery(pg) {
			t.Error("the standby promoted itself")
		}
	})

	t.Run("preserve", func(t *testing.T) {
		t.Parallel()
		s := s.in(t, "preserve")
		dir := s.restore("data", pgxPath(), "--type=xid", "--target="+at(11).xid, promote, "--archive-mode=off")
		auto := filepath.Join(dir, "postgresql.auto.conf")
		before, err := os.ReadFile(auto)
		if err != nil {
			t.Fatal(err)
		}
		s.must(pgxPath(), "restore", "--pg1-path="+dir, "--delta", "--type=preserve")
		if after, err := os.ReadFile(auto); err != nil || string(after) != string(before) {
			t.Errorf("%v, the settings became\n%s", err, after)
		}
		pg := s.attach(dir)
		pg.Start()
		promoted(t, pg)
		hasRows(t, pg, 11)
	})

	t.Run("none", func(t *testing.T) {
		t.Parallel()
		s := s.in(t, "none")
		pg := s.attach(s.restore("data", pgxPath(), "--type=none"))
		pg.Start()
		if inRecovery(pg) {
			t.Error("a recovery was begun")
		}
		hasRows(t, pg, 5)
	})

	t.Run("beyond the archive", func(t *testing.T) {
		t.Parallel()
		s := s.in(t, "beyond the archive")
		pg := s.attach(s.restore("data", pgxPath(), "--type=name", "--target=point 21", promote))
		_ = pg.TryStart()
		pgtest.Eventually(t, "the end of the server", func() bool { return !pg.Running() })
		if !strings.Contains(pg.Log(), "recovery ended before configured recovery target was reached") {
			t.Error("the server ended for another reason")
		}
	})

	t.Run("repository fails half way", func(t *testing.T) {
		t.Parallel()
		s := s.fork(t, "failing", map[string]string{"archive-timeout": "1"})
		repair := s.damage(middle)
		pg := s.attach(s.restore("data", pgxPath(), "--archive-mode=off"))
		s.refusesToPromote(pg)
		repair()
		pg.Start()
		promoted(t, pg)
		hasRows(t, pg, 20)
	})
}

// appendTo adds to a file.
func (s *site) appendTo(path, text string) {
	s.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		s.Fatal(err)
	}
	s.write(path, string(b)+text)
}

// TestChoiceOfSet: among several backups a time or LSN chooses the newest that was
// complete before it.
func TestChoiceOfSet(t *testing.T) {
	t.Parallel()
	s := newStory(t, 15, nil)
	const layout = "2006-01-02 15:04:05"
	s.grow(2)
	early := s.rows[0]
	var labels []string
	for range 3 {
		labels = append(labels, s.backup())
		s.grow(2)
	}
	seconds := func(r row) string { return r.committed.Format(layout) + "+00" }
	dir := s.empty("chosen")
	dry := []string{"restore", "--pg1-path=" + dir, "--dry-run", "--log-level-console=info"}
	chosen := func(want string, args ...string) {
		t.Helper()
		if out := s.must(pgxPath(), append(dry, args...)...); !strings.Contains(out, "would restore full backup "+want) {
			t.Errorf("%s: want %s\n%s", args, want, out)
		}
	}
	for i, label := range labels {
		r := s.rows[2*i+3] // the second row after the backup
		chosen(label, "--type=time", "--target="+seconds(r))
		chosen(label, "--type=lsn", "--target="+r.lsn)
		chosen(labels[0], "--type=time", "--target="+seconds(r), "--set="+labels[0])
		chosen(labels[2], "--type=xid", "--target="+r.xid)
	}
	chosen(labels[2], "--type=time", "--target=2099-01-01 00:00:00")
	chosen(labels[2])

	s.fails(75, fmt.Sprintf("unable to find backup set with stop time less than '%s'", seconds(early)),
		pgxPath(), "restore", "--pg1-path="+dir, "--type=time", "--target="+seconds(early))
	s.fails(75, fmt.Sprintf("unable to find backup set with lsn less than or equal to '%s'", early.lsn),
		pgxPath(), "restore", "--pg1-path="+dir, "--type=lsn", "--target="+early.lsn)
	s.fails(29, "automatic backup set selection cannot be performed with provided time 'yesterday'",
		pgxPath(), "restore", "--pg1-path="+dir, "--type=time", "--target=yesterday")
	s.fails(75, "backup set 20200101-000000F is not valid", pgxPath(), "restore", "--pg1-path="+dir, "--set=20200101-000000F")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v, refused and dry restores left %v", err, left)
	}

	// The first backup serves a target between the first two, to the row.
	r := s.rows[2]
	pg := s.attach(s.restore("first", pgxPath(), "--type=time", "--target="+r.committed.Format(layout+".000000")+"+00", "--target-action=promote"))
	pg.Start()
	promoted(t, pg)
	hasRows(t, pg, 3)
}

// TestTimelines: after a promotion recovery follows the newest timeline, or the one it
// is told, and never one that its backup is not part of.
func TestTimelines(t *testing.T) {
	t.Parallel()
	s := newStory(t, 15, nil)
	s.grow(2)
	first := s.backup()
	s.grow(4) // to row 6
	second := s.backup()
	s.grow(2) // to row 8
	s.pg.Stop(pgtest.Fast)

	// Timeline 2 begins after row 4, before the second backup, and goes on archiving.
	dir := s.restore("promoted", pgxPath(), "--set="+first, "--type=xid", "--target="+s.rows[3].xid, "--target-action=promote")
	pg := pgtest.Attach(t, 15, dir)
	pg.Configure(map[string]string{
		"archive_command": fmt.Sprintf("%s --config=%s --pg1-path=%s archive-push %%p", pgxPath(), s.conf, dir)})
	pg.Start()
	promoted(t, pg)
	pg.Exec(`insert into p values (105)`)
	s.switchWAL(pg)

	recovered := func(name, want string, args ...string) {
		t.Helper()
		c := s.attach(s.restore(name, pgxPath(), append(args, "--archive-mode=off")...))
		c.Start()
		promoted(t, c)
		if got := c.QueryValue(rowsSQL); got != want {
			t.Errorf("%s: the rows are %s, want %s", name, got, want)
		}
		c.Stop(pgtest.Immediate)
	}
	recovered("latest", "1 2 3 4 105", "--set="+first)
	recovered("two", "1 2 3 4 105", "--set="+first, "--target-timeline=2")
	recovered("hex", "1 2 3 4 105", "--set="+first, "--target-timeline=0x2")
	recovered("one", rowsTo(8), "--target-timeline=1")
	recovered("current", rowsTo(8), "--set="+first, "--target-timeline=current")
	recovered("immediate", rowsTo(6), "--type=immediate", "--target-action=promote")

	forked := s.empty("forked")
	for _, args := range [][]string{nil, {"--target-timeline=2"}, {"--target-timeline=latest", "--dry-run"}, {"--type=xid", "--target=900"}} {
		o := s.fails(58, "target timeline 2 forked from backup timeline 1 at 0/", pgxPath(),
			append([]string{"restore", "--pg1-path=" + forked, "--set=" + second}, args...)...)
		if !strings.Contains(o.all(), "which is before backup lsn of 0/") {
			t.Errorf("the message:\n%s", o.all())
		}
	}
	if left, err := os.ReadDir(forked); err != nil || len(left) != 0 {
		t.Errorf("%v, the refused restore left %v", err, left)
	}

	// A backup of the new timeline is what is restored from now on.
	s.must(pgxPath(), "backup", "--type=full", "--pg1-path="+dir, fmt.Sprintf("--pg1-port=%d", pg.Port), "--pg1-socket-path="+pg.SocketDir)
	pg.Exec(`insert into p values (106)`)
	s.switchWAL(pg)
	recovered("third", "1 2 3 4 105 106")
	// The first timeline has no history file to look into.
	s.fails(55, "00000001.history", pgxPath(), "restore", "--pg1-path="+forked, "--target-timeline=1")
	s.fails(55, "00000001.history", pgtest.Reference(t), "restore", "--pg1-path="+forked, "--target-timeline=1")
}
