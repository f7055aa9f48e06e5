package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// TestSummarySegments: of a relation of several files, each of 1 GiB, those are spared in which nothing has changed, and
// no others. Summaries number blocks through all of the relation. Nearly all of its pages are holes that were not
// used yet.
func TestSummarySegments(t *testing.T) {
	t.Parallel()
	if !everyStep {
		t.Skip("a minute for each version, PGX_TEST_LONG asks for it")
	}
	for _, major := range pgtest.Majors(t, 17, 18) {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) { summarySegments(t, major) })
	}
}

func summarySegments(t *testing.T, major int) {
	s := bareSite(t, pgtest.Options{Major: major, Checksums: true, WALSegSize: 1, Config: map[string]string{
		"summarize_wal": "on", "autovacuum": "off",
	}}, nil)
	s.configure(map[string]string{
		"repo1-retention-full": "9", "repo2-path": filepath.Join(s.dir, "repo2"), "repo2-retention-full": "9",
	})
	w := &summaryWalk{walk: &walk{async: &async{tool: pgxPath(), site: s}, major: major, begun: time.Now()}}
	s.pg.Start()
	s.must(pgxPath(), "stanza-create")

	s.pg.Exec(`create table big (id int primary key, what text) with (fillfactor = 50)`)
	first := filepath.Join(s.pg.PGDATA, s.pg.QueryValue(`select pg_relation_filepath('big')`))
	second, third := first+".1", first+".2"
	const segment, pages = 1 << 30, 1000
	for n, file := range []string{first, second, third} {
		s.pg.Stop(pgtest.Fast)
		s.resize(file, pages*pageSize)
		s.pg.Start()
		// The last page is tried first.
		s.pg.Exec(fmt.Sprintf(`insert into big select %d + g, md5(g::text) from generate_series(1, 50) g`, n*100))
		want := fmt.Sprint(n*segment/pageSize + pages - 1)
		if at := s.pg.QueryValue(fmt.Sprintf(`select string_agg(distinct (ctid::text::point)[0]::int::text, ' ') from big where id > %d`, n*100)); at != want {
			t.Fatalf("rows are in blocks %s, want %s", at, want)
		}
		if n < 2 {
			s.pg.Stop(pgtest.Fast)
			s.resize(file, segment)
			s.pg.Start()
		}
	}
	s.pg.Exec(`vacuum (freeze) big`)
	s.must(pgxPath(), "backup", "--repo=1", "--type=full")

	// read says which of the three files a backup by summaries reads.
	read := func() (all []string) {
		w.touch() // so that times do not tell it
		said := s.must(pgxPath(), "backup", "--repo=1", "--type=incr", "--delta", "--backup-summary", "--log-level-console=detail")
		if !strings.Contains(said, " spare the reading of ") {
			t.Errorf("the backup does not go by summaries:\n%s", said)
		}
		for _, file := range []string{first, second, third} {
			if strings.Contains(said, file+" (") {
				all = append(all, file)
			}
		}
		return all
	}
	reads := func(want ...string) {
		t.Helper()
		if got := read(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v are read, want %v", got, want)
		}
	}
	reads()
	for n, file := range []string{first, second, third} {
		s.pg.Exec(fmt.Sprintf(`update big set what = 'changed' where id = %d`, n*100+7))
		reads(file)
	}
	s.pg.Exec(`delete from big where id > 200; vacuum (index_cleanup on) big; checkpoint`)
	for file, want := range map[string]int64{first: segment, second: pages * pageSize, third: 0} {
		if info, err := os.Stat(file); err != nil || info.Size() != want {
			t.Fatalf("%s is not of %d bytes: %v, %v", file, want, info, err)
		}
	}
	if got := read(); !slices.Contains(got, second) { // of the first one VACUUM has changed a page
		t.Errorf("%v are read, want %s among them", got, second)
	}
	label := s.label()

	s.must(pgxPath(), "backup", "--repo=2", "--type=full")
	s.pg.Exec(`checkpoint; select pg_create_restore_point('end')`)
	want := w.contents(s.pg, false)
	w.archived()
	a, b := w.recovered("chain", "end", "--repo=1", "--set="+label), w.recovered("full", "end", "--repo=2")
	if n := samePages(t, a.PGDATA, b.PGDATA); n < segment/pageSize {
		t.Errorf("%d pages were compared", n)
	}
	w.holds(a, want)
}

// resize makes a file of so many bytes out of one that may be there, with a hole at the end.
func (s *site) resize(file string, bytes int64) {
	s.Helper()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		s.Fatal(err)
	}
	err = f.Truncate(bytes)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		s.Fatal(err)
	}
	s.own(file)
}
