package restore_test

import (
	"os"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/stanza/restore"
)

const miscFull = "20261121-015304F"

func TestTablespaceMap(t *testing.T) {
	repo := small(t) + "/repo"
	for _, c := range []struct {
		name    string
		change  func(j *job)
		dest    string // below the job's directory
		code    errs.Code
		message string
	}{
		{"all", func(*job) {}, "/ts/ts1", 0, "map tablespace 'pg_tblspc/16384' to 'DIR/ts/ts1'"},
		{"by name", func(j *job) { j.TablespaceMap = map[string]string{"ts1": j.dir + "/a"} }, "/a", 0, ""},
		{"by oid", func(j *job) { j.TablespaceMap = map[string]string{"16384": j.dir + "/b"} }, "/b", 0, ""},
		{"by both", func(j *job) { j.TablespaceMap = map[string]string{"16384": j.dir + "/b", "ts1": j.dir + "/b"} }, "/b", 0, ""},
		{"by both, apart", func(j *job) { j.TablespaceMap = map[string]string{"16384": "/b", "ts1": "/a"} }, "", errs.TablespaceMap,
			"tablespace remapped by name 'ts1' and id 16384 with different paths"},
		{"unknown", func(j *job) { j.TablespaceMap = map[string]string{"ts2": "/a"} }, "", errs.TablespaceMap,
			"unable to remap invalid tablespace 'ts2'"},
		{"in PGDATA", func(j *job) { j.TablespaceMapAll = j.PGPath }, "", errs.LinkDestination,
			"link 'pg_tblspc/16384' destination 'DIR/data/ts1' is in PGDATA"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := newJob(t, repo)
			j.Set, j.Type = noneFull, restore.None
			c.change(j)
			message := strings.ReplaceAll(c.message, "DIR", j.dir)
			_, err := j.run(t)
			if c.code != 0 {
				wantError(t, err, c.code, message)
				if j.exists("") {
					t.Error("something was written")
				}
				return
			}
			must(t, err)
			j.log.has(t, message)
			j.log.has(t, "remap data directory to '"+j.PGPath+"'")
			if dest, err := os.Readlink(j.PGPath + "/pg_tblspc/16384"); err != nil || dest != j.dir+c.dest {
				t.Errorf("the tablespace's link leads to '%s': %v", dest, err)
			}
			if _, err := os.Stat(j.dir + c.dest + "/PG_15_202209061/16385"); err != nil {
				t.Error(err)
			}
			if j.exists("tablespace_map") || !j.exists("backup_label") {
				t.Error("tablespace_map is there or backup_label is not")
			}
		})
	}
}

func TestLinks(t *testing.T) {
	repo := vector(t, "misc-lz4") + "/repo"
	run := func(change func(j *job)) (*job, error) {
		j := newJob(t, repo)
		j.Set, j.Type = miscFull, restore.None
		change(j)
		_, err := j.run(t)
		return j, err
	}
	leads := func(j *job, name string) string {
		dest, _ := os.Readlink(j.PGPath + "/" + name)
		return dest
	}

	j, err := run(func(*job) {})
	must(t, err)
	j.log.has(t, "file link 'pg_hba.conf' will be restored as a file at the same location")
	j.log.has(t, "contents of directory link 'pg_stat' will be restored in a directory at the same location")
	if leads(j, "pg_hba.conf")+leads(j, "pg_stat") != "" {
		t.Error("there are links")
	}

	mapped := func(j *job) {
		j.LinkMap = map[string]string{
			"pg_hba.conf": j.dir + "/conf/hba", "pg_stat": "../stat", "pg_wal": j.dir + "/wal", "postgresql.conf": j.dir + "/conf/pg",
		}
	}
	j, err = run(mapped)
	must(t, err)
	j.log.has(t, "map link 'pg_hba.conf' to '"+j.dir+"/conf/hba'")
	j.log.has(t, "link 'pg_wal' to '"+j.dir+"/wal'")
	for name, want := range map[string]string{
		"pg_hba.conf": j.dir + "/conf/hba", "pg_stat": "../stat", "pg_wal": j.dir + "/wal", "postgresql.conf": j.dir + "/conf/pg",
	} {
		if got := leads(j, name); got != want {
			t.Errorf("%s leads to '%s', want '%s'", name, got, want)
		}
		if _, err := os.Stat(j.PGPath + "/" + name); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(j.dir + "/wal/archive_status"); err != nil {
		t.Error(err)
	}
	if info, err := os.Lstat(j.dir + "/conf/hba"); err != nil || info.Size() != 4789 {
		t.Errorf("the linked file: %v", err)
	}
	// What the links lead to is there already, so delta finds everything in place.
	j.Delta = true
	res := j.mustRun(t)
	if res.Matched != res.Files-1 {
		t.Errorf("%d of %d files matched, want all but pg_control", res.Matched, res.Files)
	}
	j.Delta = false
	must(t, os.RemoveAll(j.PGPath))
	_, err = j.run(t)
	wantError(t, err, errs.FileExists, "unable to restore file '"+j.dir+"/conf/hba' because it already exists")

	for _, c := range []struct {
		link, dest string
		code       errs.Code
		message    string
	}{
		{"nothing", "/x", errs.LinkMap, "unable to map link 'nothing'\nHINT: Does the link reference a valid backup path or file?"},
		{"../x", "/x", errs.LinkMap, "unable to map link '../x'"},
		{"pg_tblspc/16384", "/x", errs.LinkMap, "unable to remap tablespace 'pg_tblspc/16384'\nHINT: use 'tablespace-map' option"},
		{"pg_hba.conf", "hba", errs.LinkMap, "'hba' is not long enough to be the destination for file link 'pg_hba.conf'"},
		{"pg_stat", "DIR/data/x", errs.LinkDestination, "link 'pg_stat' destination 'DIR/data/x' is in PGDATA"},
		{"pg_stat", "DIR", errs.LinkDestination, "link 'pg_stat' destination 'DIR' contains PGDATA"},
		{"pg_stat", "DIR/ts/ts1/x", errs.LinkDestination, "is a subdirectory of link 'pg_tblspc/16384' (DIR/ts/ts1)"},
	} {
		var at string
		_, err := run(func(j *job) {
			at = j.dir
			j.LinkMap = map[string]string{c.link: strings.ReplaceAll(c.dest, "DIR", j.dir)}
			if c.dest == "DIR" { // the tablespace would be in it too
				j.TablespaceMapAll = t.TempDir()
			}
		})
		wantError(t, err, c.code, strings.ReplaceAll(c.message, "DIR", at))
	}
}

func TestSelective(t *testing.T) {
	repo := small(t) + "/repo"
	for _, c := range []struct {
		name             string
		include, exclude []string
		zeroed           bool
		code             errs.Code
		message          string
	}{
		{"exclude by name", nil, []string{"appdb"}, true, 0, "databases excluded (zeroed) from selective restore (16385)"},
		{"exclude by oid", nil, []string{"16385"}, true, 0, "databases found for selective restore (1, 16385, 4, 5)"},
		{"include", []string{"appdb"}, nil, false, 0, "nothing to filter - all user databases have been selected"},
		{"include another", []string{"nothing"}, nil, false, errs.DbMissing, "database to include 'nothing' does not exist"},
		{"exclude another", nil, []string{"nothing"}, false, errs.DbMissing, "database to exclude 'nothing' does not exist"},
		{"include a system one", []string{"postgres"}, nil, false, errs.DbInvalid,
			"system databases (template0, postgres, etc.) are included by default"},
		{"both", []string{"appdb"}, []string{"appdb"}, false, errs.DbInvalid, "database to include '16385' is in the exclude list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := newJob(t, repo)
			j.Set, j.Type, j.DBInclude, j.DBExclude = noneFull, restore.None, c.include, c.exclude
			_, err := j.run(t)
			if c.code != 0 {
				wantError(t, err, c.code, c.message)
				return
			}
			must(t, err)
			j.log.has(t, c.message)
			content, err := os.ReadFile(j.PGPath + "/base/16385/1255")
			must(t, err)
			if zeroed := strings.Trim(string(content), "\x00") == ""; zeroed != c.zeroed || len(content) == 0 {
				t.Errorf("zeroed: %v", zeroed)
			}
			if version, err := os.ReadFile(j.PGPath + "/base/16385/PG_VERSION"); err != nil || string(version) != "15\n" {
				t.Errorf("PG_VERSION is '%s': %v", version, err)
			}
			if c.zeroed {
				j.log.has(t, "restore zeroed file "+j.PGPath+"/base/16385/1255 (")
			}
		})
	}
}
