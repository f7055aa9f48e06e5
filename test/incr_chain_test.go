package test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// chainKinds are the options that make the backups of a chain.
var chainKinds = []string{"--type=full", "--type=diff", "--type=incr", ""} // incr is what it is by default

// chainGroup is a cluster that is backed up to several repositories, by both tools in turn.
type chainGroup struct {
	major  int
	codec  string
	theirs bool // pgbackrest begins
	delta  bool
	chains []chainSpec
}

// chainSpec is how a repository keeps its chain.
type chainSpec struct {
	hardlink, cipher bool
	bundle, block    bool
}

func (g chainGroup) String() string {
	return fmt.Sprint("PostgreSQL ", g.major, " ", g.codec, told(g.theirs, " theirs"), told(g.delta, " delta"))
}

func (c chainSpec) String() string {
	how := told(c.hardlink, " hardlink") + told(c.bundle, " bundle") + told(c.block, " block") + told(c.cipher, " cipher")
	return strings.TrimSpace(how + told(how == "", "plain"))
}

func told(on bool, name string) string {
	if on {
		return name
	}
	return ""
}

// chainGroups gives a sample in which everything is there, or all there is.
func chainGroups() (all []chainGroup) {
	if !everyStep {
		return []chainGroup{
			{15, "none", false, false, []chainSpec{{hardlink: true}, {bundle: true}, {bundle: true, block: true}}},
			{15, "gz", true, false, []chainSpec{{bundle: true, cipher: true}, {bundle: true, block: true, cipher: true}}},
			{15, "lz4", true, true, []chainSpec{{cipher: true}, {bundle: true, block: true}}},
			{15, "zst", false, true, []chainSpec{{hardlink: true}, {bundle: true, block: true, cipher: true}}},
			{15, "bz2", true, false, []chainSpec{{hardlink: true, cipher: true}, {bundle: true, block: true}}},
		}
	}
	for _, codec := range compressTypes {
		for n := range 4 {
			g := chainGroup{major: 15, codec: codec, theirs: n&1 != 0, delta: n&2 != 0}
			for n := range 8 {
				g.chains = append(g.chains, chainSpec{hardlink: n&6 == 2, bundle: n&4 != 0, block: n&6 == 6, cipher: n&1 != 0})
			}
			all = append(all, g)
		}
	}
	return all
}

// TestInteropChains: full, diff, incr and incr, made by both tools in turn. Each of them is restored
// by both and the same, and both say the same of all.
func TestInteropChains(t *testing.T) { runChains(t, chainGroups()) }

// TestInteropMajors: the same with each PostgreSQL that there is.
func TestInteropMajors(t *testing.T) {
	var all []chainGroup
	for n, major := range pgtest.Majors(t, pgtest.Supported()...) {
		g := chainGroup{major, compressTypes[n%len(compressTypes)], n%2 == 0, n%3 == 0, []chainSpec{{hardlink: true}, {cipher: true, bundle: true}}}
		switch {
		case everyStep:
			all = append(all, g)
		case major == 13, major == 18: // others are in many tests
			g.chains = g.chains[n%2 : n%2+1]
			all = append(all, g)
		}
	}
	runChains(t, all)
}

func runChains(t *testing.T, groups []chainGroup) {
	var done atomic.Int32
	total, begin := 0, time.Now()
	for _, g := range groups {
		total += len(g.chains)
	}
	for n, g := range groups {
		t.Run(g.String(), func(t *testing.T) {
			t.Parallel()
			g.run(t, n, func(c *chain) {
				t.Logf("%d of %d chains after %s: %s, %s", done.Add(1), total, time.Since(begin).Round(time.Second), g, c.spec)
			})
		})
	}
}

// chain is one repository of a group, with a configuration of its own.
type chain struct {
	*site
	group  chainGroup
	spec   chainSpec
	space  string // the tablespace of the cluster
	labels []string
}

// run makes and restores the chains of a group; done is told of each. A number decides what need not
// be done in every group.
func (g chainGroup) run(t *testing.T, number int, done func(*chain)) {
	s, chains := g.begin(t)
	for n, kind := range chainKinds {
		for _, c := range chains {
			c.next(n, kind)
		}
		s.evolve(n, g.delta)
	}
	s.pg.Stop(pgtest.Fast) // with all archived
	for n, c := range chains {
		c.sameInfo(c.labels[(number+n)%len(c.labels)])
		c.verified()
		if c.spec.cipher && !c.spec.block { // with blocks what is encrypted does not say so
			archive, backup, backups := passes(t, c.repo, "demo")
			unreadable(t, c.repo, repoPass, archive, backup, backups[format.Label(c.labels[0])])
		}
		c.restored()
		if n == number%len(chains) {
			tool := pgxPath()
			if g.pushesTheirs() && !g.delta {
				tool = pgtest.Reference(t)
			}
			c.isCluster("recovered", tool, g.major, c.space)
		}
		done(c)
		if err := os.RemoveAll(c.dir); err != nil {
			t.Fatal(err)
		}
	}
}

// pushesTheirs says which tool archives, in half of the groups that each begins.
func (g chainGroup) pushesTheirs() bool { return g.theirs != g.delta }

// begin makes the cluster, which archives to all repositories, and the stanza in each.
func (g chainGroup) begin(t *testing.T) (*site, []*chain) {
	// Small segments, as there are many of them and each goes to all repositories.
	s := bareSite(t, pgtest.Options{Major: g.major, Checksums: true, WALSegSize: 1}, nil)
	if g.pushesTheirs() {
		s.pg.Configure(map[string]string{
			"archive_command": fmt.Sprintf("%s --config=%s --stanza=demo archive-push %%p", pgtest.Reference(t), s.conf),
		})
	}
	chains, all := []*chain{}, map[string]string{"compress-type": g.codec}
	for n, spec := range g.chains {
		c := &chain{site: s.in(t, spec.String()), group: g, spec: spec}
		c.repo = filepath.Join(c.dir, "repo")
		options := map[string]string{"compress-type": g.codec}
		set := func(name, value string) {
			options["repo1-"+name], all[fmt.Sprintf("repo%d-%s", n+1, name)] = value, value
		}
		set("path", c.repo)
		if spec.hardlink {
			set("hardlink", "y")
		}
		if spec.cipher {
			set("cipher-type", "aes-256-cbc")
			set("cipher-pass", repoPass)
		}
		c.configure(options)
		chains = append(chains, c)
	}
	s.configure(all)

	s.pg.Start()
	for _, c := range chains {
		tool := pgxPath()
		if g.theirs {
			tool = pgtest.Reference(t)
		}
		c.must(tool, "stanza-create")
	}
	s.fill()
	space := s.empty("space")
	s.pg.Exec(fmt.Sprintf(`create tablespace space location '%s'`, space))
	s.pg.Exec(`create table far tablespace space as select g, md5(g::text) from generate_series(1, 2000) g`)
	for _, c := range chains {
		c.space = space
	}
	note, old := filepath.Join(s.pg.PGDATA, "note"), time.Now().Add(-time.Hour)
	s.write(note, "before")
	if err := os.Chtimes(note, old, old); err != nil {
		t.Fatal(err)
	}
	return s, chains
}

// next makes the nth backup, by the tool whose turn it is.
func (c *chain) next(n int, kind string) {
	c.Helper()
	ours := (n%2 == 0) != c.group.theirs
	tool, args := pgxPath(), []string{"backup", "--log-level-console=detail"}
	if kind != "" {
		args = append(args, kind)
	}
	if c.group.delta {
		args = append(args, "--delta")
	}
	if c.spec.bundle {
		args = append(args, "--repo1-bundle")
	}
	if c.spec.block {
		args = append(args, "--repo1-block")
	}
	if !ours {
		tool = pgtest.Reference(c.T)
		args = append(args, "--no-expire-auto")
	}
	said := c.must(tool, args...)
	c.labels = append(c.labels, c.label())
	verb := "match file from prior backup "
	if n == 0 || n == 2 && c.group.delta {
		verb = "backup file "
	}
	if want := verb + filepath.Join(c.pg.PGDATA, "note") + " ("; !strings.Contains(said, want) {
		c.Errorf("%s: backup %d does not say '%s':\n%s", c.spec, n, want, said)
	}
	if ours {
		placed(c.T, c.repo, "demo", manifests(c.T, c.repo, "demo", c.labels, c.spec.cipher), c.spec.hardlink)
	}
}

// manifests gives those of backups in a repository.
func manifests(t *testing.T, repo, stanza string, labels []string, encrypted bool) (all []*manifest.Manifest) {
	t.Helper()
	pass := ""
	if encrypted {
		_, pass, _ = passes(t, repo, stanza)
	}
	for _, label := range labels {
		b, err := os.ReadFile(filepath.Join(repo, format.ManifestPath(stanza, format.Label(label))))
		if err == nil && encrypted {
			b, err = cipher.Open(cipher.NewPass(pass), b)
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := manifest.Read(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

// restored compares what both tools restore of each backup.
func (c *chain) restored() {
	c.Helper()
	before := c.Failed() // as another chain of the group did
	for n, label := range c.labels {
		ours, theirs := c.place("ours"), c.place("theirs")
		theirs.restore(pgtest.Reference(c.T), "--set="+label)
		ours.restore(pgxPath(), "--set="+label)
		ours.like(theirs)
		// Its time told nothing of what became of it after the second backup.
		if note := c.read(filepath.Join(theirs.dir, "note")); (note == "after ") != (n >= 2 && c.group.delta) {
			c.Errorf("%s: in backup %d the note is %q", c.spec, n, note)
		}
		ours.remove()
		theirs.remove()
		if !before && c.Failed() {
			c.Logf("%s: that was backup %d, %s", c.spec, n, label)
			return
		}
	}
}

// evolve changes a cluster in many ways, and some files in ways that are hard to see: note is
// written again as it is, or, if only the content can tell, changed without a trace.
func (s *site) evolve(n int, unseen bool) {
	s.Helper()
	s.pg.Exec(fmt.Sprintf(`update t set what = 'changed' where id %% 7 = %d`, n))
	s.pg.Exec(fmt.Sprintf(`create table t%d as select g from generate_series(1, 1000) g`, n))
	switch n {
	case 0:
		s.pg.Exec(`insert into empty values (1); create index on far (g)`)
	case 1:
		s.pg.Exec(`drop table t0; vacuum full t`)
	case 2:
		s.pg.Exec(`truncate t1; truncate empty; drop database other`)
	}
	s.pg.Exec(`checkpoint`)
	path := filepath.Join(s.pg.PGDATA, "note")
	info, err := os.Stat(path)
	if err != nil {
		s.Fatal(err)
	}
	at := info.ModTime().Add(time.Second)
	if unseen && n == 1 {
		s.write(path, "after ")
		at = info.ModTime()
	}
	if err := os.Chtimes(path, at, at); err != nil {
		s.Fatal(err)
	}
}

// sameInfo makes sure that both tools say the same of the stanza and of a backup.
func (s *site) sameInfo(label string) {
	s.Helper()
	s.sameInfoOf(label, pgxPath(), pgtest.Reference(s.T))
}

// sameInfoOf is sameInfo of these two programs.
func (s *site) sameInfoOf(label, ours, theirs string) {
	s.Helper()
	for _, args := range [][]string{{"--output=text"}, {"--output=json"}, {"--set=" + label}, {"--output=json", "--set=" + label}} {
		args = append([]string{"info"}, args...)
		for {
			got, want := s.must(ours, args...), s.must(theirs, args...)
			if got == want {
				break
			}
			// A server fills a segment now and then, of which both tell.
			if again := s.must(ours, args...); again == got {
				s.Errorf("%s:\n%s\nwant:\n%s", strings.Join(args, " "), got, want)
				break
			}
		}
	}
}

// placed makes sure that each file of the newest backup is where its manifest says: in the
// backup that holds it, which refers to no other for it, and with hard links here too.
func placed(t testing.TB, repo, stanza string, chain []*manifest.Manifest, hardlink bool) {
	t.Helper()
	m := chain[len(chain)-1]
	referred, own := 0, 0
	for f := range m.Files.All() {
		if f.Reference == "" {
			own++
		} else {
			referred++
			in := slices.IndexFunc(chain, func(m *manifest.Manifest) bool { return m.Label == f.Reference })
			if held, found := chain[max(in, 0)].Files.Find(f.Name); in < 0 || !found || held.Reference != "" || held.Checksum != f.Checksum {
				t.Errorf("'%s' refers to %s, where it is %+v", f.Name, f.Reference, held)
			}
		}
		at := m.Stored(stanza, f)
		info, err := os.Stat(filepath.Join(repo, at.Path))
		if err != nil {
			if f.Size > 0 || f.Reference == "" { // an empty file of a backup with bundles is nowhere
				t.Errorf("'%s': %v", f.Name, err)
			}
			continue
		}
		if at.Kind == manifest.Bundled && info.Size() < at.Offset+at.Length {
			t.Errorf("'%s' is %d bytes at %d of bundle %d, which has %d", f.Name, at.Length, at.Offset, f.Bundle, info.Size())
		}
		if at.Kind != manifest.Whole {
			continue
		}
		if info.Size() != f.RepoSize {
			t.Errorf("'%s' is stored with %d bytes, not %d", f.Name, info.Size(), f.RepoSize)
		}
		if hardlink && f.Reference != "" {
			here, err := os.Stat(filepath.Join(repo, "backup", stanza, string(m.Label), f.Name+at.Ext))
			if err != nil || !os.SameFile(here, info) || here.Sys().(*syscall.Stat_t).Nlink < 2 {
				t.Errorf("'%s' is no link to %s: %v", f.Name, f.Reference, err)
			}
		}
	}
	if len(chain) == 1 && referred > 0 || len(chain) > 1 && (referred < 500 || own < 3 || own > 500) {
		t.Errorf("of the files of %s, %d are its own and %d in others", m.Label, own, referred)
	}
}
