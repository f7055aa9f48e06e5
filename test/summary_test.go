package test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestSummaryWalk: a cluster is worked with, restarted and crashed, and each time backed up by a chain that
// goes by WAL summaries and by a full backup. Recovered to the same moment both are
// the same, page by page, and hold what the cluster held then.
func TestSummaryWalk(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().Unix())
	if text := os.Getenv("PGX_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	rounds := 3
	if everyStep {
		rounds = 60
	}
	for _, major := range pgtest.Majors(t, 17, 18) {
		t.Run(fmt.Sprintf("PostgreSQL %d, seed %d", major, seed), func(t *testing.T) {
			t.Parallel()
			w := newSummaryWalk(t, major, seed)
			for round := range rounds {
				w.round(round)
				if t.Failed() {
					t.FailNow()
				}
			}
			t.Logf("%d of %d backups went by summaries, which spared %d files; %d pages were compared", w.summarized, rounds, w.spared, w.pages)
			if w.summarized < rounds/3 {
				t.Error("these are too few")
			}
		})
	}
}

// summaryWalk is a walk with two repositories: a chain in the first, full backups in the second.
type summaryWalk struct {
	*walk
	summarized, spared, pages int
}

func newSummaryWalk(t *testing.T, major int, seed uint64) *summaryWalk {
	t.Helper()
	s := bareSite(t, pgtest.Options{Major: major, Checksums: true, WALSegSize: 1, Config: map[string]string{
		"summarize_wal": "on", "autovacuum_naptime": "2s", "checkpoint_timeout": "30s", "max_wal_size": "64MB",
	}}, nil)
	blocks := "ny"[(seed+uint64(major))%2:][:1] // of two versions one has them
	s.configure(map[string]string{
		"repo1-retention-full": "9", "repo1-bundle": blocks, "repo1-block": blocks, "repo2-path": filepath.Join(s.dir, "repo2"), "repo2-retention-full": "1",
	})
	w := &summaryWalk{walk: &walk{
		async: &async{tool: pgxPath(), site: s}, theirs: pgtest.Reference(t), major: major, seed: seed, begun: time.Now(), count: map[string]int{},
	}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("PGX_TEST_SEED=%d, PostgreSQL %d. The steps:\n%s", seed, major, strings.Join(w.steps, "\n"))
		}
	})
	w.next(0)
	w.pg.Start()
	w.must(pgxPath(), "stanza-create")
	for range 6 {
		w.pg.Exec(w.createTable())
	}
	for range 3 {
		w.space()
		w.database()
	}
	for n := range 20 { // what no round works with
		w.pg.Exec(fmt.Sprintf("create table still%d as select g, md5(g::text) from generate_series(1, 2000) g; vacuum still%d", n, n))
	}
	w.must(pgxPath(), "backup", "--repo=1", "--type=full")
	return w
}

// next begins a step.
func (w *summaryWalk) next(step int) {
	w.step = step
	w.rng = rand.New(rand.NewPCG(w.seed, uint64(step)))
}

// round works with the cluster, backs it up twice and compares what is restored.
func (w *summaryWalk) round(n int) {
	w.Helper()
	w.next(n + 1)
	for range 2 + w.rng.IntN(6) {
		w.work()
	}
	label := w.chain()
	w.note("full backup beside it")
	w.must(pgxPath(), "backup", "--repo=2", "--type=full")
	// After a checkpoint that is replayed the end of recovery writes all pages.
	point := fmt.Sprintf("round %d", n)
	w.pg.Exec(`checkpoint; select pg_create_restore_point('` + point + `')`)
	want := w.contents(w.pg, false)
	w.pg.Exec(`select pg_switch_wal()`)
	w.archived()

	a, b := w.recovered("chain", point, "--repo=1", "--set="+label), w.recovered("full", point, "--repo=2")
	w.pages += samePages(w.T, a.PGDATA, b.PGDATA)
	w.holds(a, want)
	for _, name := range []string{"chain", "full"} {
		if err := os.RemoveAll(filepath.Join(w.dir, name)); err != nil {
			w.Fatal(err)
		}
	}
}

// work does something with the cluster.
func (w *summaryWalk) work() {
	w.Helper()
	switch w.rng.IntN(10) {
	case 0, 1, 2, 3:
		w.statements()
	case 4:
		w.space()
	case 5:
		w.database()
	case 6:
		w.restart()
	case 7:
		w.log()
	case 8:
		// Deleted rows of pages that all could see, and the end of a table cut off.
		table := pick(w.walk, w.tables...)
		sql := fmt.Sprintf("%s;\nvacuum (freeze) %s;\ncheckpoint;\ndelete from %s where id %% 50 = 1;\ndelete from %s where id > 100", w.rows(table), table, table, table)
		if w.oneIn(2) {
			sql += ";\nvacuum " + table
		}
		w.note("%s", sql)
		w.pg.Exec(sql)
	case 9:
		// A database moves to a tablespace, is changed there, and returns: nothing in the WAL names its files.
		if len(w.others) == 0 || len(w.spaces) == 0 {
			w.statements()
			return
		}
		name := pick(w.walk, w.others...)
		sql := fmt.Sprintf("alter database %s set tablespace %s;\n\\connect %s\nupdate x set what = md5(what);\n\\connect postgres\nalter database %s set tablespace pg_default",
			name, pick(w.walk, w.spaces...), name, name)
		w.note("%s", sql)
		w.pg.Exec(sql)
	}
}

// chain continues the chain, at times while the cluster is worked with, and gives the label of the backup.
func (w *summaryWalk) chain() string {
	w.Helper()
	tool, args := pgxPath(), []string{"backup", "--repo=1", "--type=" + pick(w.walk, "diff", "incr", "incr", "incr"), "--no-expire-auto", "--log-level-console=info"}
	if w.oneIn(2) {
		args = append(args, "--delta")
	} else {
		w.touch()
	}
	summary := !w.oneIn(4)
	switch {
	case summary:
		args = append(args, "--backup-summary")
	case w.oneIn(2):
		tool = w.theirs
	}
	var beside *process
	if w.oneIn(2) {
		sql := w.script(20)
		w.note("beside: %s", sql)
		cmd := w.pg.Command("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-")
		cmd.Stdin = strings.NewReader(sql + ";\n")
		beside = w.begin(cmd)
	}
	said := w.must(tool, args...)
	if beside != nil {
		if o := beside.end(2 * time.Minute); o.code != 0 {
			w.Errorf("psql: exit %d\n%s", o.code, o.all())
		}
	}
	label := w.label()
	w.note("%s is %s", w.tell(tool, args), label)
	if !summary {
		return label
	}
	_, told, found := strings.Cut(said, "INFO: WAL summaries from lsn = ")
	var from, to string
	var files int
	if _, err := fmt.Sscanf(told, "%s to lsn = %s spare the reading of %d files", &from, &to, &files); !found || err != nil || files < 20 {
		w.Errorf("the backup does not go by summaries: %v\n%s", err, said)
	}
	w.summarized++
	w.spared += files
	return label
}

// touch gives files of relations the time of now, which tells nothing.
func (w *summaryWalk) touch() {
	w.Helper()
	now := time.Now()
	for _, path := range relationFiles(w.T, w.pg.PGDATA) {
		if err := os.Chtimes(path, now, now); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.Fatal(err)
		}
	}
}

// recovered restores a backup into a directory of that name and recovers it to a point, where the server stops.
func (w *summaryWalk) recovered(name, point string, args ...string) *pgtest.Cluster {
	w.Helper()
	w.empty(name)
	data, spaces := w.empty(name+"/data"), w.empty(name+"/spaces")
	w.must(pgxPath(), append([]string{
		"restore", "--pg1-path=" + data, "--tablespace-map-all=" + spaces, "--type=name", "--target=" + point, "--target-action=shutdown", "--archive-mode=off",
	}, args...)...)
	c := pgtest.Attach(w.T, w.major, data)
	_ = c.TryStart() // it may have stopped before it was seen to be ready
	pgtest.Eventually(w.T, "the end of recovery", func() bool { return !c.Running() })
	if log := c.Log(); !strings.Contains(log, "shutdown at recovery target") {
		w.Fatalf("%s has not been recovered:\n%s", name, log)
	}
	return c
}

// holds promotes a recovered cluster and makes sure that it is sound and holds what is wanted.
func (w *summaryWalk) holds(c *pgtest.Cluster, want string) {
	w.Helper()
	auto := filepath.Join(c.PGDATA, "postgresql.auto.conf")
	w.write(auto, w.read(auto)+"recovery_target_action = 'promote'\n")
	c.Start()
	pgtest.Eventually(w.T, "the end of recovery", func() bool { return c.QueryValue(`select pg_is_in_recovery()`) == "f" })
	if got := w.contents(c, true); got != want {
		w.Errorf("recovered is\n%s\nnot\n%s", got, want)
	}
	if out, err := c.Command("pg_amcheck", "--all", "--install-missing", "--heapallindexed").CombinedOutput(); err != nil {
		w.Errorf("pg_amcheck: %v\n%s", err, out)
	}
	for _, row := range c.Query(`select datname from pg_database where datallowconn order by 1`) {
		bad := c.QueryValue(`\connect ` + row[0] + `
create extension if not exists pg_visibility;
select coalesce(string_agg(c.oid::regclass || ' ' || v.t_ctid, ', '), '') from pg_class c, lateral pg_check_visible(c.oid) v where relkind in ('r', 't', 'm')`)
		if bad != "" {
			w.Errorf("in database %s the visibility map tells wrongly that all can see %s", row[0], bad)
		}
	}
	c.Stop(pgtest.Fast)
}

// TestRemoteSummary: from a repository host over SSH, too, what summaries do not name is not read.
func TestRemoteSummary(t *testing.T) {
	r := newRemote(t, "pgx")
	c := r.pg[1]
	c.Configure(map[string]string{"summarize_wal": "on"})
	c.Reload()
	c.there("stanza-create")
	for n := range 5 {
		c.Exec(fmt.Sprintf("create table t%d as select g as id, md5(g::text) as what from generate_series(1, 20000) g; vacuum t%d", n, n))
	}
	c.archived()
	c.there("backup", "--type=full")
	c.Exec("update t0 set id = -id where id < 100")
	c.must("sh", "-c", "find "+c.data+"/base -type f -exec touch {} +")
	said := c.there("backup", "--type=incr", "--delta", "--backup-summary", "--log-level-console=detail")
	if !strings.Contains(said, " spare the reading of ") {
		t.Errorf("the backup does not go by summaries:\n%s", said)
	}
	for n := range 5 {
		path := c.data + "/" + c.QueryValue(fmt.Sprintf("select pg_relation_filepath('t%d')", n))
		if read := strings.Contains(said, path+" ("); read != (n == 0) {
			t.Errorf("table t%d is read: %t\n%s", n, read, said)
		}
	}
	c.sameInfo()
	for _, c := range r.pg {
		c.idle()
	}
	r.repo.idle()
}
