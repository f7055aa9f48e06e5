package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// statements works with the database postgres.
func (w *walk) statements() {
	w.Helper()
	if w.pg.QueryValue(`select pg_database_size('postgres') > 60 * 1024 * 1024`) == "t" {
		w.note("make room")
		for _, table := range w.tables {
			w.pg.Exec("truncate " + table)
		}
	}
	sql := w.script(1 + w.rng.IntN(5))
	w.note("%s", sql)
	w.pg.Exec(sql)
}

// script is SQL that makes so many changes.
func (w *walk) script(n int) string {
	var all []string
	for range n {
		if w.oneIn(3) {
			all = append(all, w.ddl())
		} else {
			all = append(all, w.dml())
		}
	}
	return strings.Join(all, ";\n")
}

// rows is SQL for rows of a table.
func (w *walk) rows(table string) string {
	return fmt.Sprintf(`insert into %s (id, what, big) select g, md5(g::text || '%d'), repeat(md5(random()::text), %d) from generate_series(1, %d) g`,
		table, w.rng.IntN(1000), pick(w, 0, 1, 5, 200), pick(w, 1, 50, 500, 3000))
}

// dml is SQL that changes rows of a table, or large objects.
func (w *walk) dml() string {
	table := pick(w, w.tables...)
	some := fmt.Sprintf("id %% %d = %d", 2+w.rng.IntN(9), w.rng.IntN(2))
	update := fmt.Sprintf(`update %s set what = md5(what), big = md5(big) where %s`, table, some)
	switch w.rng.IntN(9) {
	case 0:
		return update
	case 1:
		return "begin; " + update + "; rollback"
	case 2, 3:
		return fmt.Sprintf(`delete from %s where %s`, table, some)
	case 4:
		return fmt.Sprintf(`select lo_from_bytea(0, decode(repeat(md5('%d'), %d), 'hex'))`, w.rng.IntN(1000), 1+w.rng.IntN(2000))
	case 5:
		return `select lo_unlink(oid) from (select oid from pg_largeobject_metadata order by oid limit 2) l`
	default:
		return w.rows(table)
	}
}

// ddl is SQL that changes a table or what it is stored in.
func (w *walk) ddl() string {
	table := pick(w, w.tables...)
	switch w.rng.IntN(14) {
	case 0:
		if len(w.tables) > 4 {
			w.tables = slices.DeleteFunc(w.tables, func(name string) bool { return name == table })
			return "drop table " + table
		}
		return w.createTable()
	case 1, 2:
		return w.createTable()
	case 3:
		return fmt.Sprintf("alter table %s add column %s int default %d", table, w.name("c"), w.rng.IntN(100))
	case 4:
		return "alter table " + table + " alter column what type text using what || 'x'"
	case 5:
		kind, column := pick(w, "btree", "hash", "brin"), pick(w, "id", "what")
		return fmt.Sprintf("create index if not exists %s_%s_%s on %s using %s (%s)", table, kind, column, table, kind, column)
	case 6:
		return "reindex table " + table
	case 7:
		return "truncate " + table
	case 8:
		return "vacuum full " + table
	case 9:
		return "vacuum (freeze) " + table
	case 10:
		return "alter table " + table + " set " + pick(w, "logged", "unlogged")
	case 11:
		return "vacuum full " + pick(w, "pg_class", "pg_attribute", "pg_proc", "pg_database")
	case 12:
		return "alter table " + table + " set tablespace " + pick(w, append(w.spaces, "pg_default")...)
	default:
		return pick(w, "checkpoint", "select pg_switch_wal()")
	}
}

// createTable is SQL for a new table with rows.
func (w *walk) createTable() string {
	table, kind, where := w.name("t"), "", ""
	if w.oneIn(5) {
		kind = "unlogged "
	}
	if len(w.spaces) > 0 && w.oneIn(2) {
		where = " tablespace " + pick(w, w.spaces...)
	}
	w.tables = append(w.tables, table)
	return fmt.Sprintf("create %stable %s (id int, what text, big text)%s; %s", kind, table, where, w.rows(table))
}

// space creates a tablespace with a table in it, or drops one.
func (w *walk) space() {
	w.Helper()
	if len(w.spaces) > 0 && w.oneIn(2) || len(w.spaces) > 2 {
		space := pick(w, w.spaces...)
		w.note("drop tablespace %s", space)
		w.pg.Exec(fmt.Sprintf(`alter table all in tablespace %s set tablespace pg_default`, space))
		out, err := w.pg.Command("psql", "-Xqc", "drop tablespace "+space).CombinedOutput()
		if err != nil && strings.Contains(string(out), "is not empty") {
			w.note("... stays: a crash has left files of a transaction there")
			return
		}
		if err != nil {
			w.Fatalf("drop tablespace %s: %v\n%s", space, err, out)
		}
		w.spaces = slices.DeleteFunc(w.spaces, func(name string) bool { return name == space })
		if err := os.RemoveAll(filepath.Join(w.dir, space)); err != nil {
			w.Fatal(err)
		}
		return
	}
	w.takeStandby() // which would replay it into the same directory
	space := w.name("s")
	w.note("create tablespace %s", space)
	w.spaces = append(w.spaces, space)
	w.pg.Exec(fmt.Sprintf(`create tablespace %s location '%s'`, space, w.empty(space)))
	// A recovery that replays this uses the same directory, which is not its own.
	w.recoverTo = w.pg.QueryValue(`select pg_walfile_name(pg_switch_wal())`)
	w.pg.Exec(w.createTable() + "; alter table " + w.tables[len(w.tables)-1] + " set tablespace " + space)
}

// database creates, changes or drops a database.
func (w *walk) database() {
	w.Helper()
	var sql string
	switch {
	case len(w.others) == 0 || len(w.others) < 2 && w.oneIn(2):
		name, how := w.name("d"), ""
		if w.major >= 15 && w.oneIn(2) {
			how = " strategy file_copy"
		}
		w.others = append(w.others, name)
		sql = fmt.Sprintf("create database %s%s;\n\\connect %s\ncreate table x (id int, what text, big text); %s", name, how, name, w.rows("x"))
	case w.oneIn(2):
		sql = fmt.Sprintf("\\connect %s\nupdate x set what = md5(what); %s", pick(w, w.others...), w.rows("x"))
	default:
		name := pick(w, w.others...)
		w.others = slices.DeleteFunc(w.others, func(other string) bool { return other == name })
		sql = "drop database " + name
	}
	w.note("%s", sql)
	w.pg.Exec(sql)
}

// restart stops the server in any way and starts it again.
func (w *walk) restart() {
	w.Helper()
	switch how := pick(w, "fast", "immediate", "kill"); how {
	case "fast":
		w.note("restart")
		w.pg.Stop(pgtest.Fast)
	case "immediate":
		w.note("restart after an immediate stop")
		w.pg.Stop(pgtest.Immediate)
	default:
		w.note("restart after a crash")
		w.pg.Kill()
	}
	w.pg.Start()
}

// log writes a checkpoint or ends a segment.
func (w *walk) log() {
	w.Helper()
	sql := pick(w, "checkpoint", "select pg_switch_wal()")
	w.note("%s", sql)
	w.pg.Exec(sql)
}

// killArchiver kills what archives for the server, amid work where chance has it.
func (w *walk) killArchiver() {
	w.Helper()
	w.note("kill what archives")
	work := w.begin(w.pg.Command("psql", "-Xqc", `create table w as select g, md5(g::text) from generate_series(1, 60000) g`,
		"-c", `drop table w`, "-c", `select pg_switch_wal()`))
	for range 3 {
		<-time.After(time.Duration(w.rng.IntN(200)) * time.Millisecond) // the moment is the point
		for _, suffix := range []string{"archive-push:async", "archive-push"} {
			for _, pid := range w.processes(suffix) {
				w.count["archivers killed"]++
				kill(w.T, pid, syscall.SIGKILL)
			}
		}
	}
	if o := work.end(time.Minute); o.code != 0 {
		w.Errorf("psql: exit %d\n%s", o.code, o.all())
	}
	w.survey(0)
}

// contents tells what a cluster holds, a line for each table: its name, the number of its rows and a
// hash of them. Of unlogged tables it tells the name, and whether they have rows if recovery had to
// empty them.
func (w *walk) contents(c *pgtest.Cluster, recovered bool) string {
	w.Helper()
	unlogged := `'unlogged'`
	if recovered {
		unlogged = `'unlogged' || case when count(*) > 0 then ' with rows' else '' end`
	}
	var all strings.Builder
	for _, row := range c.Query(`select datname from pg_database where datallowconn order by 1`) {
		fmt.Fprintf(&all, "database %s\n%s\n", row[0], c.QueryValue(`\connect `+row[0]+`
select format($sql$select %L || case when %L then `+unlogged+`
	else count(*) || ' ' || coalesce(md5(string_agg(x::text, ',' order by x::text)), '') end from only %s x$sql$,
	c.oid::regclass || ' ', relpersistence = 'u', c.oid::regclass)
from pg_class c where relkind = 'r' and relnamespace = 'public'::regnamespace order by relname \gexec
select 'large objects ' || count(*) || ' ' || coalesce(md5(string_agg(loid || ' ' || pageno || ' ' || md5(data), ',' order by loid, pageno)), '') from pg_largeobject;
`))
	}
	return all.String()
}
