package test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// place is where a cluster is restored to: its data directory and its tablespace.
type place struct {
	*site
	dir, space string
}

// place makes one of two empty directories.
func (s *site) place(name string) place {
	s.Helper()
	return place{s, s.empty(name), s.empty(name + "-space")}
}

func (p place) remove() {
	p.Helper()
	for _, dir := range []string{p.dir, p.space} {
		if err := os.RemoveAll(dir); err != nil {
			p.Fatal(err)
		}
	}
}

// line gives the command line that restores there.
func (p place) line(args ...string) []string {
	line := []string{"restore", "--stanza=demo", "--pg1-path=" + p.dir, "--tablespace-map=space=" + p.space}
	if !slices.Contains(args, "--type=default") {
		line = append(line, "--type=none")
	}
	return append(line, args...)
}

func (p place) restore(tool string, args ...string) {
	p.Helper()
	p.must(tool, p.line(args...)...)
}

// like makes sure that another place holds the same.
func (p place) like(other place) {
	p.Helper()
	alike(p.T, p.dir, other.dir)
	alike(p.T, p.space, other.space)
}

// alike makes sure that two directories hold the same: content, owners, times, and which files are holes.
func alike(t testing.TB, got, want string) {
	t.Helper()
	// Links of tablespaces lead elsewhere in each.
	same(t, tree(t, got), tree(t, want), func(name string) bool { return strings.HasPrefix(name, "pg_tblspc/") })
	a, b := attributes(t, got), attributes(t, want)
	for name, w := range b {
		if g, found := a[name]; found && g != w {
			t.Errorf("%s is %+v, want %+v", name, g, w)
		}
	}
}

// attribute is what a restore sets beside content and mode.
type attribute struct {
	uid, gid uint32
	time     int64 // in seconds, of a file
	blocks   int64 // that it takes on disk
}

func attributes(t testing.TB, dir string) map[string]attribute {
	t.Helper()
	all := map[string]attribute{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		a := attribute{uid: st.Uid, gid: st.Gid}
		if d.Type().IsRegular() {
			a.blocks = st.Blocks
			if name := d.Name(); name != "postgresql.auto.conf" && name != "recovery.signal" { // which a restore writes
				a.time = st.Mtim.Sec
			}
		}
		all[strings.TrimPrefix(path, dir)] = a
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// holes counts the files of a place that have a size and nothing on disk.
func (p place) holes() (n int) {
	p.Helper()
	for _, dir := range []string{p.dir, p.space} {
		nodes := tree(p.T, dir)
		for name, a := range attributes(p.T, dir) {
			if nodes[strings.TrimPrefix(name, "/")].size > 0 && a.blocks == 0 {
				n++
			}
		}
	}
	return n
}

// TestInteropRestores: what is restored of a chain that both tools made, over what is there and in
// part, is the same with both; each works on what the other left.
func TestInteropRestores(t *testing.T) {
	for n, c := range []struct {
		name   string
		global map[string]string
		theirs []string // of the backups that pgbackrest makes
	}{
		{"hard links", map[string]string{"compress-type": "lz4", "repo1-hardlink": "y"}, nil},
		{"blocks", map[string]string{"compress-type": "zst", "repo1-bundle": "y", "repo1-block": "y"}, nil},
		{"encrypted blocks", encrypted(map[string]string{"compress-type": "gz", "repo1-bundle": "y", "repo1-block": "y"}), nil},
		{"encrypted", encrypted(map[string]string{"compress-type": "zst"}), nil},
		{"bundles", map[string]string{"compress-type": "none"}, []string{"--repo1-bundle"}},
	} {
		if n > 1 && !everyStep {
			break
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			global := c.global
			s := newSite(t, pgtest.Options{Checksums: true, WALSegSize: 1}, global)
			labels, app := s.databases(c.theirs)
			fresh := map[string]place{}
			for n, label := range labels {
				fresh[label] = s.place(fmt.Sprint("fresh", n))
				fresh[label].restore(pgtest.Reference(t), "--set="+label)
			}
			for n, mode := range [][]string{{"--delta"}, {"--delta", "--force"}, {"--force"}} {
				t.Run(strings.Join(mode, ""), func(t *testing.T) { s.in(t, fmt.Sprint("over", n)).over(labels, fresh, mode, global) })
			}
			t.Run("selected", func(t *testing.T) { s.in(t, "selected").selected(labels, app, fresh, global) })
			t.Run("forced", func(t *testing.T) { s.in(t, "forced").forced(labels[1], fresh[labels[1]], global) })
			t.Run("sets", func(t *testing.T) { s.in(t, "sets").sets(labels, global) })
			t.Run("recovered", func(t *testing.T) { s.in(t, "recovered").startsInPart(labels[3], global) })
		})
	}
}

// databases makes a chain of a cluster in which databases come and go, and stops it. app is the oid
// of the database of that name.
func (s *site) databases(theirs []string) (labels []string, app string) {
	s.Helper()
	s.fill() // with the database "other"
	s.write(filepath.Join(s.pg.PGDATA, "note"), "before")
	s.pg.Exec(fmt.Sprintf(`create tablespace space location '%s'; create table far tablespace space as select g, md5(g::text) from generate_series(1, 2000) g`, s.empty("space")))
	s.pg.Exec("create database app;\n\\connect app\n" +
		`create table kept as select g, md5(g::text) from generate_series(1, 3000) g; create table away tablespace space as select * from kept`)
	for n, kind := range chainKinds {
		tool, args := pgxPath(), []string{"backup", "--no-expire-auto"}
		if n%2 == 1 {
			tool = pgtest.Reference(s.T)
			args = append(args, theirs...)
		}
		if kind != "" {
			args = append(args, kind)
		}
		s.must(tool, args...)
		labels = append(labels, s.label())
		s.evolve(n, false) // which drops "other" after the third
		s.pg.Exec(fmt.Sprintf("\\connect app\ninsert into kept select g, 'more' from generate_series(1, %d000) g; update away set g = 0 where g %% 7 = %d", n, n))
		if n == 0 {
			s.pg.Exec("create database third tablespace space;\n\\connect third\ncreate table t as select 1")
		}
	}
	app = s.pg.QueryValue(`select oid from pg_database where datname = 'app'`)
	s.pg.Stop(pgtest.Fast)
	return labels, app
}

// over restores each backup over each other one.
func (s *site) over(labels []string, fresh map[string]place, mode []string, global map[string]string) {
	s.configure(global)
	walk := []int{0, 1, 0, 2, 0, 3, 1, 2, 1, 3, 2, 3, 0} // each pair in both directions
	if !everyStep {
		walk = []int{0, 3, 1, 2}
	}
	ours, theirs := s.place("ours"), s.place("theirs")
	for n, at := range walk {
		args := []string{"--set=" + labels[at]}
		if n > 0 {
			args = append(args, mode...)
			for _, p := range []place{ours, theirs} {
				p.wear()
			}
		}
		ours.restore(pgxPath(), args...)
		theirs.restore(pgtest.Reference(s.T), args...)
		ours.like(theirs)
		ours.like(fresh[labels[at]])
		if s.Failed() {
			s.Fatalf("%d of %v, %v", n, walk, mode)
		}
		ours, theirs = theirs, ours
	}
}

// wear changes what size and time tell of, too: a file is larger, one smaller, one older, one gone,
// one new, and a directory is in the way.
func (p place) wear() {
	p.Helper()
	at := func(name string) string { return filepath.Join(p.dir, name) }
	if err := os.Truncate(at("base/1/1255"), 1<<20); err != nil {
		p.Fatal(err)
	}
	if err := os.Truncate(at("base/1/1249"), 8192); err != nil {
		p.Fatal(err)
	}
	p.write(at("PG_VERSION"), "what\n")
	p.write(at("base/1/77777"), "new")
	for _, gone := range []string{"base/1/2619", "pg_hba.conf"} {
		if err := os.Remove(at(gone)); err != nil {
			p.Fatal(err)
		}
	}
	if err := os.MkdirAll(at("pg_wal/summaries-of-old/deep"), 0o700); err != nil {
		p.Fatal(err)
	}
	for _, dir := range []string{"pg_wal/summaries-of-old/deep", "pg_wal/summaries-of-old"} {
		p.own(at(dir))
	}
}

// selected restores some databases of each backup: into nothing, over all of them and over others.
func (s *site) selected(labels []string, app string, fresh map[string]place, global map[string]string) {
	s.configure(global)
	choices := [][]string{
		{"--db-include=app"}, {"--db-exclude=other"}, {"--db-exclude=app", "--db-exclude=third"}, {"--db-include=third", "--db-exclude=postgres"},
		{"--db-include=app", "--db-include=third"}, {"--db-exclude=4"}, {"--db-include=app", "--db-exclude=app"}, {"--db-include=postgres"},
		{"--db-include=16384"}, {"--db-exclude=none"}, {"--db-include=" + app},
	}
	restored, refused, empty := 0, 0, 0
	for n, label := range labels {
		if n != 1 && !everyStep { // when there are most
			continue
		}
		ours, theirs := s.place(fmt.Sprint("ours", n)), s.place(fmt.Sprint("theirs", n))
		for i, choice := range choices {
			args := append([]string{"--set=" + label}, choice...)
			if i > 0 {
				args = append(args, "--delta") // over what another choice left
			}
			a, b := s.run(pgxPath(), ours.line(args...)...), s.run(pgtest.Reference(s.T), theirs.line(args...)...)
			if got, want := s.message("ERROR", a.all()), s.message("ERROR", b.all()); a.code != b.code || got != want {
				s.Fatalf("%q: exit %d, %s\nwant %d, %s", args, a.code, got, b.code, want)
			}
			if a.code != 0 {
				refused++
				continue
			}
			restored++
			ours.like(theirs)
			if got, want := ours.holes(), theirs.holes(); got != want {
				s.Errorf("%q: %d files are holes, not %d", args, got, want)
			} else if got > 100 {
				empty++
			}
			if s.Failed() {
				s.Fatalf("backup %d, %q", n, args)
			}
		}
		// All of them again.
		ours.restore(pgxPath(), "--set="+label, "--delta")
		ours.like(fresh[label])
		ours.remove()
		theirs.remove()
	}
	if restored < 7 || refused < 3 || empty < 6 {
		s.Errorf("%d choices were restored, %d of them in part, %d refused", restored, empty, refused)
	}
}

// forced restores all of a backup over a part of it, by size and time alone. What either tool has left out has size and time of the
// backup: pgbackrest takes it for restored.
func (s *site) forced(label string, fresh place, global map[string]string) {
	s.configure(global)
	for n, part := range []string{pgxPath(), pgtest.Reference(s.T)} {
		p := s.place(fmt.Sprint("part", n))
		p.restore(part, "--set="+label, "--db-include=app")
		left := p.holes()
		if left < 100 {
			s.Errorf("%s leaves out %d files", part, left)
		}
		p.restore(pgtest.Reference(s.T), "--set="+label, "--delta", "--force")
		if got := p.holes(); got != left {
			s.Errorf("of %d files that %s has left out pgbackrest takes %d for restored", left, part, got)
		}
		p.restore(pgxPath(), "--set="+label, "--delta", "--force")
		p.like(fresh)
		p.remove()
	}
}

// sets names backups that are there, and that are not.
func (s *site) sets(labels []string, global map[string]string) {
	s.configure(global)
	for n, set := range append(slices.Clone(labels), "latest", "20200101-000000F", labels[0]+"_20200101-000000I", "nothing", labels[3][:20]) {
		ours, theirs := s.place(fmt.Sprint("ours", n)), s.place(fmt.Sprint("theirs", n))
		a, b := s.run(pgxPath(), ours.line("--set="+set, "--dry-run")...), outcome{}
		if n >= len(labels) {
			a, b = s.run(pgxPath(), ours.line("--set="+set)...), s.run(pgtest.Reference(s.T), theirs.line("--set="+set)...)
		}
		if got, want := s.message("ERROR", a.all()), s.message("ERROR", b.all()); a.code != b.code || got != want {
			s.Errorf("--set=%s: exit %d, %s\nwant %d, %s", set, a.code, got, b.code, want)
		}
	}
}

// startsInPart recovers a cluster of which one database was restored: the others can be dropped.
func (s *site) startsInPart(label string, global map[string]string) {
	s.configure(global)
	for _, tool := range []string{pgxPath(), pgtest.Reference(s.T)} {
		p := s.place(filepath.Base(tool))
		p.restore(tool, "--set="+label, "--type=default", "--db-include=app", "--archive-mode=off")
		c := pgtest.Attach(s.T, s.pg.Major, p.dir)
		c.Start()
		promoted(s.T, c)
		if got := c.QueryValue("\\connect app\nselect count(*) || ' ' || (select count(*) from away) from kept"); got != "9000 3000" {
			s.Errorf("table kept of database app holds %s rows", got)
		}
		c.Exec(`drop database third`)
		c.Stop(pgtest.Fast)
	}
}
