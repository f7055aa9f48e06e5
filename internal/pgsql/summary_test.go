package pgsql_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// summarizing are the versions of the tests that summarize WAL.
func summarizing(t *testing.T, test func(t *testing.T, major int)) {
	for _, major := range pgtest.Majors(t, 17, 18) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			test(t, major)
		})
	}
}

// redo makes a checkpoint and gives its redo point.
func redo(t *testing.T, cluster *pgtest.Cluster, conn *pgsql.Conn) postgres.LSN {
	t.Helper()
	cluster.Exec("checkpoint")
	f, err := conn.Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return f.Redo
}

// summarized waits until WAL before an LSN is summarized, and gives how long that took.
func summarized(t *testing.T, conn *pgsql.Conn, lsn postgres.LSN) time.Duration {
	t.Helper()
	begin := time.Now()
	pgtest.Eventually(t, "WAL summaries", func() bool {
		s, err := conn.Summaries(t.Context())
		if err != nil || !s.Enabled || s.Read < s.Written {
			t.Fatalf("state of the summaries is %+v, %v", s, err)
		}
		return s.Written >= lsn
	})
	return time.Since(begin)
}

// relation gives that of a table or index as WAL names it.
func relation(t *testing.T, cluster *pgtest.Cluster, name string) postgres.Relation {
	t.Helper()
	path := cluster.QueryValue("select pg_relation_filepath('" + name + "')")
	if !strings.HasPrefix(path, "pg_tblspc/") {
		path = "pg_data/" + path
	}
	r, _, _, ok := postgres.RelationOf(path)
	if !ok {
		t.Fatalf("'%s' is the file of no relation", path)
	}
	return r
}

// TestChanged: the summaries of a range tell of every kind of change, and of nothing else. Anybody may
// ask for them.
func TestChanged(t *testing.T) {
	summarizing(t, func(t *testing.T, major int) {
		cluster := pgtest.New(t, pgtest.Options{Major: major, WALSegSize: 1, Checksums: true, Config: archiving(map[string]string{
			"summarize_wal": "on", "autovacuum": "off",
		})})
		cluster.Start()
		space := pgtest.Dir(t)
		cluster.Exec(`create role pgx login; grant pg_read_all_settings to pgx;
			create tablespace space location '` + space + `';
			create database gone; create database moved; create database made_before strategy wal_log;
			create table still as select g from generate_series(1, 20000) g;
			create table updated as select g from generate_series(1, 20000) g;
			create table cut as select g from generate_series(1, 20000) g;
			create table dropped as select g from generate_series(1, 20000) g;
			create table truncated as select g from generate_series(1, 20000) g;
			create table visible as select g from generate_series(1, 20000) g;
			create table far (g int) tablespace space;
			vacuum (freeze)`)
		p := superuser(cluster)
		p.User = "pgx"
		conn := connect(t, p)
		from := redo(t, cluster, conn)
		of := map[string]postgres.Relation{}
		for _, name := range []string{"still", "updated", "cut", "dropped", "truncated", "visible", "far", "pg_class", "pg_database"} {
			of[name] = relation(t, cluster, name)
		}
		oid := func(name string) uint32 {
			t.Helper()
			var n uint32
			if _, err := fmt.Sscan(cluster.QueryValue("select oid from pg_database where datname = '"+name+"'"), &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		gone, moved := oid("gone"), oid("moved")
		cluster.Exec(`update updated set g = -g where g < 10;
			delete from cut where g > 10000; vacuum cut;
			drop table dropped;
			truncate truncated;
			delete from visible where g = 1;
			insert into far values (1);
			drop database gone;
			alter database moved set tablespace space;
			create database copied strategy file_copy;
			create database logged strategy wal_log`)
		of["new truncated"] = relation(t, cluster, "truncated")
		to := redo(t, cluster, conn)
		t.Logf("summarized after %s", summarized(t, conn, to))
		// What comes later is not in the range.
		cluster.Exec("update still set g = -g where g < 10; checkpoint")

		r := pgsql.SummaryRange{Timeline: 1, From: from, To: to}
		all, err := conn.Changed(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		said := map[postgres.Relation][]pgsql.Changed{}
		for i, c := range all {
			if slices.Contains(all[:i], c) {
				t.Errorf("%+v is told twice", c)
			}
			key := postgres.Relation{Tablespace: c.Tablespace, Database: c.Database, Node: c.Node}
			said[key] = append(said[key], c)
		}
		main := func(of postgres.Relation, onward bool) bool {
			return slices.ContainsFunc(said[of], func(c pgsql.Changed) bool { return c.Main && c.Segment == 0 && c.Onward == onward })
		}
		for name, onward := range map[string]bool{
			"updated": false, "cut": true, "dropped": true, "truncated": true, "new truncated": true, "visible": false, "far": false,
			"pg_class": false, "pg_database": false,
		} {
			if !main(of[name], onward) {
				t.Errorf("of %s is told %+v", name, said[of[name]])
			}
		}
		for _, name := range []string{"updated", "visible", "far"} {
			if main(of[name], true) {
				t.Errorf("of %s is told %+v", name, said[of[name]])
			}
		}
		if told := said[of["still"]]; told != nil {
			t.Errorf("of a table that nobody has touched is told %+v", told)
		}
		t.Logf("of a deleted row that all could see is told %+v", said[of["visible"]])
		const base = postgres.DefaultTablespace
		for what, key := range map[string]postgres.Relation{
			"a database that was dropped": {Tablespace: base, Database: gone}, "the place that a database was moved from": {Tablespace: base, Database: moved},
			"the place that a database was moved to": {Tablespace: of["far"].Tablespace, Database: moved},
			"a copied database":                      {Tablespace: base, Database: oid("copied")}, "a logged database": {Tablespace: base, Database: oid("logged")},
		} {
			if said[key] == nil {
				t.Errorf("%s is not told", what)
			}
		}
		if told := said[postgres.Relation{Tablespace: base, Database: oid("made_before")}]; told != nil {
			t.Errorf("of a database of before is told %+v", told)
		}

		// A range in pieces tells the same, and no range but those between redo points tells anything.
		middle := pgsql.SummaryRange{Timeline: 1, From: to, To: redo(t, cluster, conn)}
		summarized(t, conn, middle.To)
		if _, err := conn.Changed(t.Context(), middle); err != nil {
			t.Error(err)
		}
		both, err := conn.Changed(t.Context(), pgsql.SummaryRange{Timeline: 1, From: from, To: middle.To})
		if err != nil || len(both) <= len(all) {
			t.Errorf("of both ranges are told %d changes, of the first %d: %v", len(both), len(all), err)
		}
		for _, c := range []struct {
			of   pgsql.SummaryRange
			want string
		}{
			{pgsql.SummaryRange{Timeline: 1, From: from + 8, To: to}, fmt.Sprintf("no WAL summary of timeline 1 continues at lsn = %s", from+8)},
			{pgsql.SummaryRange{Timeline: 1, From: to, To: middle.To - 8}, ""},
			{pgsql.SummaryRange{Timeline: 2, From: from, To: to}, fmt.Sprintf("no WAL summary of timeline 2 continues at lsn = %s", from)},
			{pgsql.SummaryRange{Timeline: 1, From: 0x100000000, To: 0x200000000}, "no WAL summary of timeline 1 continues at lsn = 1/0"},
		} {
			if _, err := conn.Changed(t.Context(), c.of); errs.CodeOf(err) != errs.FileMissing || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", c.of, err)
			}
		}
		if _, err := conn.Changed(t.Context(), pgsql.SummaryRange{Timeline: 1, From: to, To: to}); errs.CodeOf(err) != errs.Assert {
			t.Errorf("of an empty range: %v", err)
		}
		// A summary that cannot be read is an error, and the session goes on.
		files, err := filepath.Glob(filepath.Join(cluster.PGDATA, "pg_wal/summaries/*.summary"))
		if err != nil || len(files) < 2 {
			t.Fatal(files, err)
		}
		for _, name := range files {
			if err := os.Truncate(name, 10); err != nil {
				t.Fatal(err)
			}
		}
		_, err = conn.Changed(t.Context(), r)
		if errs.CodeOf(err) != errs.DbQuery || !strings.HasPrefix(err.Error(), "unable to execute query 'contents of ") || !strings.Contains(err.Error(), ".summary") {
			t.Errorf("of summaries that are cut: %v", err)
		}
		if err := conn.Alive(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestSummariesOff: a server that does not summarize says so, and one of an older version.
func TestSummariesOff(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Majors(t, 15, 18) {
		cluster := pgtest.New(t, pgtest.Options{Major: major, Config: archiving(map[string]string{"wal_log_hints": "on"})})
		cluster.Start()
		conn := connect(t, superuser(cluster))
		if s, err := conn.Summaries(t.Context()); err != nil || s.Enabled {
			t.Errorf("PostgreSQL %d: %+v, %v", major, s, err)
		}
		f, err := conn.Facts(t.Context())
		if err != nil || !f.WALLogHints || f.DataChecksums {
			t.Errorf("PostgreSQL %d: %+v, %v", major, f, err)
		}
		if _, err := conn.Changed(t.Context(), pgsql.SummaryRange{Timeline: 1, From: 1, To: f.Redo}); errs.CodeOf(err) != errs.FileMissing {
			t.Errorf("PostgreSQL %d: %v", major, err)
		}
	}
}
