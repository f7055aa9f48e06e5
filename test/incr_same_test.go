package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// TestSameIncrement: both tools make the next backup of one stopped cluster, each in a copy of one
// repository. What they record and warn of is the same, row by row.
func TestSameIncrement(t *testing.T) {
	t.Parallel()
	theirs := pgtest.Reference(t)
	s := newSite(t, pgtest.Options{Checksums: true}, nil)
	s.fill()
	s.pg.Exec(fmt.Sprintf(`create tablespace space location '%s'; create table far tablespace space as select g from generate_series(1, 2000) g`, s.empty("space")))
	s.pg.Stop(pgtest.Fast)
	at := func(name string) string { return filepath.Join(s.pg.PGDATA, name) }
	clock := time.Now().Add(-time.Hour)
	put := func(name, content string, age time.Duration) {
		t.Helper()
		s.write(at(name), content)
		if err := os.Chtimes(at(name), clock, clock.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	fulls := map[string]string{} // repositories by what their full backup was made with
	for _, c := range []struct {
		name   string
		full   []string // of the full backup, by pgbackrest
		kind   string
		args   []string
		change func()
		warns  int
	}{
		{name: "incr", full: nil, kind: "incr", change: func() {
			put("again", "as it was", -time.Minute)
			put("same-size", "AS it was", -time.Minute)
			put("larger", "larger than it was", -time.Minute)
			put("new", "new", 0)
		}},
		{name: "diff by content", kind: "diff", args: []string{"--delta"}, change: func() {
			put("again", "as it was", -time.Minute)
			put("same-size", "AS it was", 0) // only the content tells
		}},
		{name: "an older file", kind: "incr", change: func() { put("again", "as it was", time.Minute) }, warns: 1},
		{name: "a file that grew in no time", kind: "incr", change: func() { put("larger", "larger than it was", 0) }, warns: 1},
		{name: "a file of the future", kind: "incr", change: func() { put("new", "new", -3*time.Hour) }, warns: 1},
		{name: "another compression", full: []string{"--compress-type=gz", "--compress-level=3"}, kind: "incr", change: func() { put("new", "new", 0) }, warns: 1},
		{name: "checks of pages", full: []string{"--checksum-page"}, kind: "incr", change: func() { put("new", "new", 0) }, warns: 1},
		{name: "bundles", full: []string{"--repo1-bundle"}, kind: "incr", change: func() { put("larger", "larger than it was", -time.Minute) }},
		{name: "blocks", full: []string{"--repo1-bundle", "--repo1-block"}, kind: "diff", change: func() { put("larger", "larger than it was", -time.Minute) }},
		{name: "blocks in both", full: []string{"--repo1-bundle", "--repo1-block"}, kind: "incr", args: []string{"--delta", "--repo1-bundle", "--repo1-block"}, change: func() {
			put("larger", "larger than it was", -time.Minute)
			put("again", "as it was", -time.Minute)
		}},
		{name: "blocks from now on", full: []string{"--repo1-bundle"}, kind: "incr", args: []string{"--repo1-bundle", "--repo1-block"}, change: func() {
			put("larger", strings.Repeat("larger than it was", 9999), -time.Minute)
		}},
		{name: "hard links", full: []string{"--repo1-hardlink"}, kind: "incr", args: []string{"--repo1-hardlink"}, change: func() { put("new", "new", 0) }},
		{name: "hard links no more", full: []string{"--repo1-hardlink"}, kind: "incr", change: func() { put("new", "new", 0) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range []string{"again", "same-size", "larger"} {
				put(name, "as it was", 0)
			}
			if err := os.RemoveAll(at("new")); err != nil {
				t.Fatal(err)
			}
			ours, other := s.in(t, c.name+" ours"), s.in(t, c.name+" theirs")
			key := strings.Join(c.full, " ")
			for _, one := range []*site{ours, other} {
				one.repo = filepath.Join(one.dir, "repo")
				one.configure(map[string]string{"repo1-retention-full": "9"})
				if fulls[key] != "" {
					one.cp(fulls[key], one.repo)
					continue
				}
				one.must(pgxPath(), "stanza-create", "--no-online")
				one.must(theirs, append([]string{"backup", "--type=full", "--no-online", "--no-expire-auto"}, c.full...)...)
				fulls[key] = s.dir + "/full" + fmt.Sprint(len(fulls))
				one.cp(one.repo, fulls[key])
			}
			full := ours.label()
			c.change()

			args := append([]string{"backup", "--type=" + c.kind, "--no-online", "--no-expire-auto", "--log-level-console=warn"}, c.args...)
			a, b := ours.run(pgxPath(), args...), other.run(theirs, args...)
			if a.code != 0 || b.code != 0 {
				t.Fatalf("exit %d\n%s\nand %d\n%s", a.code, a.all(), b.code, b.all())
			}
			said, want := ours.warnings(a), other.warnings(b)
			if !slices.Equal(said, want) || len(said) != c.warns {
				t.Errorf("warnings are\n%q, not\n%q", said, want)
			}
			ours.sameIncrement(other, full)
			ours.verified()
			if c.name == "blocks" {
				restored := func(s *site) map[string]node {
					dir, space := s.empty("restored"), s.empty("restored-space")
					s.must(theirs, "restore", "--pg1-path="+dir, "--type=none", "--tablespace-map-all="+space)
					return tree(t, dir)
				}
				same(t, restored(ours), restored(other), func(name string) bool { return strings.HasPrefix(name, "pg_tblspc/") })
			}
		})
	}
}

// cp copies a directory with all its links.
func (s *site) cp(from, to string) {
	s.Helper()
	if o := s.exec(pgtest.Command(s.T, "cp", "-a", from, to)); o.code != 0 {
		s.Fatal(o.all())
	}
}

// warnings gives what a tool warned of, without what is different by nature.
func (s *site) warnings(o outcome) (all []string) {
	for line := range strings.Lines(o.all()) {
		if _, text, found := strings.Cut(line, "WARN: "); found {
			text = regexp.MustCompile(`copy start \d+| exec-id=\S+`).ReplaceAllString(text, "")
			all = append(all, strings.TrimSpace(strings.ReplaceAll(text, s.dir, "DIR")))
		}
	}
	return all
}

// sameIncrement compares the newest backup of two repositories.
func (s *site) sameIncrement(other *site, prior string) {
	s.Helper()
	load := func(s *site) *manifest.Manifest {
		s.Helper()
		m, err := manifest.Read(strings.NewReader(s.read(filepath.Join(s.repo, "backup/demo", s.label(), "backup.manifest"))))
		if err != nil {
			s.Fatal(err)
		}
		return m
	}
	ours, theirs := load(s), load(other)
	if string(ours.Prior) != prior || len(ours.References) != 2 || ours.Type != theirs.Type || ours.BundleRaw != theirs.BundleRaw ||
		ours.Bundle != theirs.Bundle || ours.BlockIncr != theirs.BlockIncr || ours.Options.CompressType != theirs.Options.CompressType ||
		*ours.Options.CompressLevel != *theirs.Options.CompressLevel || *ours.Options.ChecksumPage != *theirs.Options.ChecksumPage ||
		*ours.Options.Delta != *theirs.Options.Delta || ours.Options.Hardlink != theirs.Options.Hardlink {
		s.Errorf("the backup is %+v, %+v of %s, theirs %+v, %+v", ours.References, ours.Options, ours.Prior, theirs.References, theirs.Options)
	}
	rows := func(m *manifest.Manifest) map[string]string {
		all := map[string]string{}
		for f := range m.Files.All() {
			if f.Reference == "" { // compressors differ
				f.RepoSize, f.RepoChecksum = 0, manifest.SHA1{}
			}
			all[f.Name] = fmt.Sprintf("%+v", f)
		}
		return all
	}
	a, b := rows(ours), rows(theirs)
	for name, row := range b {
		// An empty file of a backup with bundles is nowhere: pgbackrest refers to it all the same.
		if f, _ := ours.Files.Find(name); f.Size == 0 && f.Reference == "" && strings.Contains(row, "Reference:"+prior) {
			continue
		}
		if a[name] != row {
			s.Errorf("recorded is\n%s, not\n%s", a[name], row)
		}
	}
	if len(a) != len(b) {
		s.Errorf("%d files, not %d", len(a), len(b))
	}
	bundled := false
	for f := range ours.Files.All() {
		bundled = bundled || f.Bundle != 0
	}
	paths := func(s *site, m *manifest.Manifest) (all []string) {
		s.Helper()
		dir := filepath.Join(s.repo, "backup/demo", string(m.Label))
		for name, n := range tree(s.T, dir) {
			f, _ := m.Files.Find(strings.TrimSuffix(name, m.Options.CompressExt()))
			if !bundled || f.Size > 0 || f.Name == "" && !n.mode.IsDir() {
				all = append(all, name)
			}
		}
		slices.Sort(all)
		return all
	}
	if a, b := paths(s, ours), paths(other, theirs); !slices.Equal(a, b) && ours.Type != format.Full {
		s.Errorf("in the directory are\n%q, not\n%q", a, b)
	}
}
