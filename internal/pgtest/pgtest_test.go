package pgtest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

func TestCluster(t *testing.T) {
	for _, major := range pgtest.Majors(t, pgtest.Supported()...) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			c := pgtest.New(t, pgtest.Options{
				Major: major, WALSegSize: 1, Checksums: major%2 == 0, Config: map[string]string{"cluster_name": "it's"},
			})
			c.Start()
			c.Exec("create table t(i int); insert into t values (1), (2); create database other;")
			rows := c.Query("select i, 'x' from t order by i")
			if fmt.Sprint(rows) != "[[1 x] [2 x]]" {
				t.Errorf("rows are %v", rows)
			}
			for name, want := range map[string]string{
				"cluster_name": "it's", "wal_segment_size": "1MB", "port": fmt.Sprint(c.Port),
				"data_checksums": map[bool]string{true: "on", false: "off"}[major%2 == 0],
			} {
				if got := c.QueryValue("show " + name); got != want {
					t.Errorf("%s is '%s', not '%s'", name, got, want)
				}
			}
			c.Kill()
			if c.Running() {
				t.Error("runs after Kill")
			}
			c.Start() // the crash is recovered from
			c.Configure(map[string]string{"work_mem": "5MB"})
			c.Reload()
			if got := c.QueryValue("show work_mem"); got != "5MB" {
				t.Errorf("work_mem is %s", got)
			}
			c.Stop(pgtest.Fast)
			c.Start()
			if got := c.QueryValue("select count(*) from t"); got != "2" {
				t.Errorf("%s rows", got)
			}
			c.Stop(pgtest.Immediate)
			if err := os.WriteFile(filepath.Join(c.PGDATA, "global/pg_control"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := c.TryStart(); err == nil || !strings.Contains(err.Error(), "pg_control") {
				t.Errorf("a broken cluster starts: %v", err)
			}
		})
	}
}

func TestSystemIdentifiers(t *testing.T) {
	id := func(own bool) string {
		c := pgtest.New(t, pgtest.Options{OwnSystemID: own})
		c.Start()
		return c.QueryValue("select system_identifier from pg_control_system()")
	}
	a, b, own := id(false), id(false), id(true)
	if a != b || a == own {
		t.Errorf("got %s, %s and %s", a, b, own)
	}
}

func TestPrograms(t *testing.T) {
	for _, path := range []string{pgtest.Reference(t), pgtest.Old(t)} {
		out, err := pgtest.Command(t, path, "version").CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "pgBackRest 2.") {
			t.Errorf("%s: %v %s", path, err, out)
		}
	}
}
